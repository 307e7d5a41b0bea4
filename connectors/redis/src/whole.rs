//! `esker restore --to redis://… --whole`: all of a server, by a plan that is proved before it is applied.

use crate::choices::{NO_SAFETY_SNAPSHOT, UNPROVEN, WHOLE};
use crate::keys::compare::compare;
use crate::keys::functions::{count_functions, flush_functions};
use crate::keys::keyspace::{count_keys, flush_all};
use crate::keys::proof::prove;
use crate::keys::side_by_side::CONNECTIONS;
use crate::keys::taken::{take, take_at_once};
use crate::keys::{Dump, Live, Selection, find, one};
use crate::loaded::now_ms;
use crate::replication::{self, Left, Offer};
use crate::server::Server;
use crate::server::link::Stop;
use crate::stream::replay::{self, ReplayReport};
use crate::{scan, server};
use done::Done;
use engine::connector::choice::common::BASE_ONLY;
use engine::connector::{Chosen, Context, Extent, Origin, RestorePlan, Restored, Steps, Way};
use engine::shown::counted;
use engine::{Counter, Error, ItemError, Monitor, Result};
use held::Held;
use std::io::Read;
use std::time::Instant;

mod done;
mod held;

/// Differences that are told.
const TOLD: u64 = 10;

/// What is restored, and what into.
pub(crate) struct Whole<'a> {
    from: Origin<'a>,
    url: String,
    /// Whether it is read key by key.
    scan: bool,
    server: Server,
    chosen: Chosen,
    dump: Dump,
    context: Context,
    there: There,
    /// What a restore left in it that was killed half way.
    left: Option<Left>,
    /// How the server loads all of it by itself, or why it does not.
    offer: std::result::Result<Offer, String>,
    /// Whether the server was changed.
    has_changed: bool,
}

/// The server that it goes into.
pub(crate) struct Into {
    pub(crate) url: String,
    /// Whether it is read key by key.
    pub(crate) scan: bool,
    pub(crate) server: Server,
    /// What a restore left in it that was killed half way.
    pub(crate) left: Option<Left>,
}

/// What the server has, and would lose.
struct There {
    keys: u64,
    databases: usize,
    functions: u64,
}

impl There {
    fn of(server: &Server) -> Result<Self> {
        let keys = count_keys(server)?;
        let functions = count_functions(server)?;
        Ok(Self { keys: keys.values().sum(), databases: keys.len(), functions })
    }

    fn is_something(&self) -> bool {
        self.keys > 0 || self.functions > 0
    }
}

impl<'a> Whole<'a> {
    /// Looks at what the server has.
    pub(crate) fn plan(
        from: Origin<'a>,
        into: Into,
        chosen: &Chosen,
        dump: Dump,
        context: &Context,
    ) -> Result<Self> {
        let Into { url, scan, server, left } = into;
        let keys = count_keys(&server)?;
        if let Some(number) = only_database(&dump.path)
            && keys.keys().any(|other| *other != number)
        {
            return Err(Error::Invalid(format!(
                "this is a backup of database {number} alone, and --whole would empty the others: restore it without"
            )));
        }
        let there =
            There { keys: keys.values().sum(), databases: keys.len(), functions: count_functions(&server)? };
        let (chosen, context) = (chosen.clone(), context.clone());
        let offer = Offer::ask(&server, &context)?;
        if left.is_none()
            && let Some(why) = replication::refusal(&server)
        {
            return Err(why);
        }
        Ok(Self { from, url, scan, server, chosen, dump, context, there, left, offer, has_changed: false })
    }

    fn proves(&self) -> bool {
        self.there.is_something() && !self.chosen.has(&UNPROVEN)
    }

    fn streams(&self) -> bool {
        replay::span(&self.from.snapshot.snapshot).is_some()
    }

    /// Looks whether the server can hold what is in the dump; for one that has something to lose, all keys are read for that.
    /// Returns why it would not load them as an RDB.
    fn take(&self, monitor: &dyn Monitor) -> Result<Option<String>> {
        if self.chosen.has(&UNPROVEN) {
            return Ok(None);
        }
        if !self.there.is_something() {
            return take_at_once(self.from.repo, &self.dump, &self.server).map(|()| None);
        }
        let loads = self.offer.as_ref().ok().map(Offer::loads);
        take(self.from.repo, &self.dump, &self.server, loads, now_ms(&self.context), monitor)
    }

    /// Commands after the dump: sent, or only read.
    fn replay(&self, sends: bool, monitor: &dyn Monitor) -> Result<Option<ReplayReport>> {
        let server = sends.then_some(&self.server);
        let repo = self.from.repo;
        let snapshot = &self.from.snapshot.snapshot;
        let stream = |until| replay::replay(repo, snapshot, server, until, monitor).map(Some);
        match self.chosen.time {
            Some(time) => stream(u64::try_from(time.as_millisecond()).unwrap_or_default()),
            None if self.chosen.has(&BASE_ONLY) => Ok(None),
            // The latest moment: all that it has.
            None if self.streams() => stream(u64::MAX),
            None => replay::replay_commands(repo, &self.dump, server, monitor),
        }
    }

    /// Changes the server.
    fn change(&mut self, monitor: &dyn Monitor) -> Result<Done> {
        if self.there.keys > 0 {
            flush_all(&self.server)?;
        }
        self.has_changed = true;
        let (server, dump) = (&self.server, &self.dump);
        if self.chosen.has(&WHOLE) && !dump.commands.is_empty() {
            flush_functions(server)?;
        }
        let began = Instant::now();
        let loaded = Held::load(self, monitor)?;
        let (loading, began) = (began.elapsed(), Instant::now());
        // Of commands alone, nobody knows beforehand what they make.
        let differences = if dump.is_empty() { 0 } else { self.differences(loaded.report.bytes, monitor)? };
        let verifying = began.elapsed();
        monitor.phase("replay");
        let replayed = self.replay(true, monitor)?;
        Ok(Done { loaded, loading, verifying, differences, replayed })
    }

    /// Reads the server again and compares; returns how many keys differ.
    fn differences(&self, expected: u64, monitor: &dyn Monitor) -> Result<u64> {
        monitor.phase("read back and compare");
        monitor.count(Counter::BytesTotal, expected);
        let mut origin = match self.scan {
            true => scan::origin(self.server.clone()),
            false => server::origin(self.server.clone()),
        };
        let reader = Counted { reader: (origin.open)(&Stop::default())?, monitor };
        let scratch = &self.context.scratch;
        let mut now = Live::gather(reader, &self.server.shown, scratch)?;
        let all = Selection::default();
        let mut wanted = self.dump.in_order(self.from.repo, &all, scratch)?;
        let (time, mut differences) = (now_ms(&self.context), 0);
        compare(&mut *wanted, &mut now, time, &mut |change, key| {
            // What expires goes on expiring.
            if key.expires_ms.is_none_or(|expires| expires > time) {
                differences += 1;
                if differences <= TOLD {
                    let item = format!("{}/{}", key.database, engine::shown::name(&key.name));
                    let message =
                        format!("differs from the snapshot after the restore ({})", change.letter());
                    monitor.error(ItemError { during: "verify", item, message });
                }
            }
        })?;
        Ok(differences)
    }
}

impl RestorePlan for Whole<'_> {
    fn shown(&self) -> &str {
        &self.server.shown
    }

    fn steps(&self) -> Vec<String> {
        let Self { from, dump, .. } = self;
        let snapshot = format!("snapshot {}, {}", from.snapshot.id.short(), from.snapshot.snapshot.time);
        let There { keys, databases, functions } = &self.there;
        let mut steps = Steps::default();
        let way = match (self.there.is_something(), self.proves()) {
            (false, _) => Way::Empty,
            (true, true) => Way::Proved,
            (true, false) => Way::Unproven,
        };
        steps.of(format_args!("all keys of {}", self.server.shown), way);
        if self.left.is_some() {
            steps.with("end a restore that was interrupted: REPLICAOF NO ONE, and its own settings for a master again");
        }
        if self.proves() {
            steps.with("read all that will be loaded, so that nothing is removed for what cannot be had");
            steps.with("ask the server whether it can hold that: types, databases, functions, memory");
        }
        if self.saves().is_some() {
            steps.with("make a snapshot of its present data, tagged 'safety', and read it back");
        }
        if *keys > 0 {
            let (keys, databases) = (counted(*keys, "key"), counted(*databases, "database"));
            steps.with(format_args!("FLUSHALL: remove {keys} of {databases}"));
        }
        if *functions > 0 {
            let libraries = counted(*functions, "function library");
            steps.with(format_args!("replace {libraries}, if the snapshot has any"));
        }
        if !dump.is_empty() {
            let count =
                dump.databases().map(|databases| databases.values().map(|counts| counts.keys).sum::<u64>());
            let count = count.map_or_else(|| "all keys".into(), |count: u64| counted(count, "key"));
            steps.with(format_args!("load {count} and the functions of {snapshot}"));
            steps.with(match (&self.left, &self.offer) {
                (Some(_), _) => format!("by replication, or by RESTORE over {CONNECTIONS} connections"),
                (None, Ok(offer)) => format!(
                    "by replication: {}; if it does not come to that, by RESTORE over {CONNECTIONS} connections",
                    offer.shown()
                ),
                (None, Err(why)) => {
                    format!("by RESTORE over {CONNECTIONS} connections, not by replication: {why}")
                }
            });
            steps.with("read the server again and compare every key");
        }
        if !dump.commands.is_empty() && !self.chosen.has(&BASE_ONLY) {
            steps.with(format_args!("replay the commands of {snapshot}"));
        }
        let until = match self.chosen.time {
            Some(time) => Some(time.to_string()),
            None if self.chosen.has(&BASE_ONLY) => None,
            None => replay::span(&from.snapshot.snapshot)
                .map(|span| format!("{}, the end of the stream", replay::shown(span.until_ms))),
        };
        if let Some(time) = until {
            steps.with(format_args!("replay the commands after it up to {time}"));
        }
        steps.stays("the server's configuration and users");
        steps.leaves(match (self.there.is_something(), self.saves().is_some()) {
            (true, true) => "the safety snapshot, which goes back to the data of before; after a failure a part of the keys",
            (true, false) => "nothing of the data of before, also after a failure: no safety snapshot is made",
            (false, _) => "a part of the keys, if it fails; --whole starts again",
        });
        steps.lines()
    }

    fn removes(&self) -> bool {
        self.there.is_something()
    }

    fn question(&self) -> Option<&'static str> {
        self.there.is_something().then_some("replace everything on this server?")
    }

    fn preview(&self, monitor: &dyn Monitor) -> Result<Restored> {
        let unfit = self.take(monitor)?;
        if let Some(why) = unfit.filter(|_| self.left.is_none()) {
            monitor.note(&format!("not by replication: {why}"));
        }
        Ok(Restored::default())
    }

    fn prove(&mut self, monitor: &dyn Monitor) -> Result<()> {
        if let Some(left) = self.left.take() {
            left.end(&self.server, self.from.repo.store().keys(), monitor)?;
            monitor.note("the restore that was interrupted is ended: the server has its own settings again");
            self.there = There::of(&self.server)?;
            self.offer = Offer::ask(&self.server, &self.context)?;
        }
        if self.proves() {
            monitor.phase("read what will be loaded");
        }
        if let Some(why) = self.take(monitor)? {
            self.offer = Err(why);
        }
        if self.proves() { self.replay(false, monitor).map(drop) } else { Ok(()) }
    }

    fn saves(&self) -> Option<&str> {
        (self.there.is_something() && !self.chosen.has(&NO_SAFETY_SNAPSHOT)).then_some(self.url.as_str())
    }

    fn prove_saved(&self, saved: Origin<'_>, monitor: &dyn Monitor) -> Result<()> {
        monitor.phase("read the safety snapshot");
        let dump = one(find(saved.repo, &saved.snapshot.snapshot, b"")?)?;
        prove(saved.repo, &dump, &Selection::default(), monitor).map(drop)
    }

    fn way_back(&self, saved: &str) -> String {
        format!("esker restore {saved} --to {} --whole", self.server.shown)
    }

    fn stands(&self, saved: Option<&str>) -> Option<String> {
        let shown = &self.server.shown;
        if !self.has_changed {
            return Some(format!("{shown} is as it was"));
        }
        self.there.is_something().then(|| match saved {
            Some(saved) => {
                format!("{shown} has a part of the snapshot now; to go back: {}", self.way_back(saved))
            }
            None => format!("{shown} has a part of the snapshot now, and no safety snapshot was made"),
        })
    }

    fn apply(&mut self, monitor: &dyn Monitor) -> Result<Restored> {
        let done = self.change(monitor)?;
        let unsaved = match done.loaded.one_by_one {
            None if !self.dump.is_empty() => replication::save(&self.server, monitor)?,
            _ => None,
        };
        let mut restored = done.told(self);
        if let Some(message) = unsaved {
            monitor.error(ItemError { during: "restore", item: self.server.shown.clone(), message });
            restored.extent = Extent::Part;
        }
        Ok(restored)
    }
}

/// The database of a dump of a single one.
fn only_database(path: &str) -> Option<u32> {
    let (folder, name) = path.rsplit_once('/')?;
    let number = name.strip_prefix("database-")?.strip_suffix(".rdb")?;
    number.parse().ok().filter(|_| folder != "redis/files")
}

/// What the server sends, counted.
struct Counted<'a> {
    reader: Box<dyn Read + Send>,
    monitor: &'a dyn Monitor,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.monitor.count(Counter::BytesDone, read as u64);
        Ok(read)
    }
}
