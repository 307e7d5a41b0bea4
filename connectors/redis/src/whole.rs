//! `esker restore --to redis://… --whole`: all of a server, by a plan that is proved before it is applied.

use crate::choices::{NO_SAFETY_SNAPSHOT, UNPROVEN, WHOLE};
use crate::keys::compare::compare;
use crate::keys::load::{
    LoadOptions, LoadReport, count_functions, count_keys, flush_all, flush_functions, load, load_functions,
};
use crate::keys::proof::prove;
use crate::keys::taken::take;
use crate::keys::{Dump, Live, Selection, find, one};
use crate::loaded::{loaded, now_ms};
use crate::server::Server;
use crate::server::link::Stop;
use crate::stream::replay::{self, ReplayReport};
use crate::{scan, server};
use engine::connector::choice::common::BASE_ONLY;
use engine::connector::{Chosen, Context, Extent, Origin, RestorePlan, Restored, Steps, Way, fields};
use engine::{Counter, Error, ItemError, Monitor, Result};
use serde_json::json;
use std::io::Read;

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
}

/// What the server has, and would lose.
struct There {
    keys: u64,
    databases: usize,
    functions: u64,
}

impl There {
    fn is_something(&self) -> bool {
        self.keys > 0 || self.functions > 0
    }
}

/// What was done.
struct Done {
    loaded: LoadReport,
    functions: u64,
    differences: u64,
    replayed: Option<ReplayReport>,
}

impl<'a> Whole<'a> {
    /// Looks at what the server has.
    pub(crate) fn plan(
        from: Origin<'a>,
        url: String,
        scan: bool,
        server: Server,
        chosen: &Chosen,
        dump: Dump,
        context: &Context,
    ) -> Result<Self> {
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
        Ok(Self { from, url, scan, server, chosen: chosen.clone(), dump, context: context.clone(), there })
    }

    fn proves(&self) -> bool {
        self.there.is_something() && !self.chosen.has(&UNPROVEN)
    }

    fn streams(&self) -> bool {
        replay::span(&self.from.snapshot.snapshot).is_some()
    }

    /// Reads all keys, and looks whether the server can hold them.
    fn take(&self, monitor: &dyn Monitor) -> Result<()> {
        take(self.from.repo, &self.dump, &self.server, now_ms(&self.context), monitor).map(drop)
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
    fn change(&self, monitor: &dyn Monitor) -> Result<Done> {
        let (repo, server, dump) = (self.from.repo, &self.server, &self.dump);
        if self.there.keys > 0 {
            flush_all(server)?;
        }
        if self.chosen.has(&WHOLE) && !dump.commands.is_empty() {
            flush_functions(server)?;
        }
        let options = LoadOptions { now_ms: now_ms(&self.context), ..LoadOptions::default() };
        monitor.phase("restore keys");
        let loaded = load(repo, dump, server, &options, monitor)?;
        let functions = load_functions(repo, dump, server)?;
        // Of commands alone, nobody knows beforehand what they make.
        let differences = if dump.is_empty() { 0 } else { self.differences(loaded.bytes, monitor)? };
        monitor.phase("replay");
        let replayed = self.replay(true, monitor)?;
        Ok(Done { loaded, functions, differences, replayed })
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

    fn restored(&self, done: Done) -> Restored {
        let Done { loaded: report, functions, differences, replayed } = done;
        let mut restored = loaded(&report, false);
        let mut refused = report.refused + report.existing;
        restored.fields.extend(fields(json!({
            "functions_restored": functions,
            "keys_different": differences,
            "commands_replayed": replayed.as_ref().map(|replayed| replayed.commands),
            "commands_refused": replayed.as_ref().map(|replayed| replayed.refused),
            "reached": replayed.as_ref().filter(|_| self.streams()).map(|replayed| replay::shown(replayed.reached_ms)),
        })));
        if functions > 0 {
            restored.lines.push(format!("restored {functions} function libraries"));
        }
        if differences == 0 && !self.dump.is_empty() {
            restored.lines.push(match &replayed {
                Some(_) => {
                    "verified, before the commands: every key of the base was on the server, and no other"
                        .into()
                }
                None => "verified: every key of the snapshot is on the server, and no other".into(),
            });
        }
        if let Some(replayed) = replayed {
            refused += replayed.refused;
            let at = match replayed.reached_ms {
                0 => String::new(),
                reached => format!("; the last at {}", replay::shown(reached)),
            };
            restored.lines.push(format!("replayed {} commands{at}", replayed.commands));
        }
        restored.extent = if differences + refused == 0 { Extent::Whole } else { Extent::Part };
        restored
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
        if self.proves() {
            steps.with("read all that will be loaded, so that nothing is removed for what cannot be had");
            steps.with("ask the server whether it can hold that: types, databases, functions, memory");
        }
        if self.saves().is_some() {
            steps.with("make a snapshot of its present data, tagged 'safety', and read it back");
        }
        if *keys > 0 {
            steps.with(format_args!("FLUSHALL: remove {keys} keys of {databases} databases"));
        }
        if *functions > 0 {
            steps.with(format_args!("replace {functions} function libraries, if the snapshot has any"));
        }
        if !dump.is_empty() {
            let count =
                dump.databases().map(|databases| databases.values().map(|counts| counts.keys).sum::<u64>());
            let count = count.map_or_else(|| "all".into(), |count: u64| count.to_string());
            steps.with(format_args!("load {count} keys and the functions of {snapshot}"));
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
        if self.proves() {
            self.take(monitor)?;
        }
        Ok(Restored::default())
    }

    fn prove(&mut self, monitor: &dyn Monitor) -> Result<()> {
        if !self.proves() {
            return Ok(());
        }
        monitor.phase("read what will be loaded");
        self.take(monitor)?;
        self.replay(false, monitor).map(drop)
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
        self.there.is_something().then(|| match saved {
            Some(saved) => {
                format!("{shown} has a part of the snapshot now; to go back: {}", self.way_back(saved))
            }
            None => format!("{shown} has a part of the snapshot now, and no safety snapshot was made"),
        })
    }

    fn apply(&mut self, monitor: &dyn Monitor) -> Result<Restored> {
        let done = self.change(monitor)?;
        Ok(self.restored(done))
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
