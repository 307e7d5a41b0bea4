//! A snapshot that grows: a base of a server, and after it what the server tells of every change. While esker is
//! attached, the snapshot is replaced by a longer one every few seconds, in which all that was there is taken over; so
//! there is one for each base, and whatever ends the program leaves one that is whole.
//!
//! What the three servers have in common is here; how each tells its changes is in [`crate::journal`] (Redis),
//! [`crate::pg::follow`] and [`crate::mysql::follow`].

use crate::backup::{BackupOptions, backup};
use crate::entry::{Kind, Time, compare_paths};
use crate::monitor::Tally;
use crate::snapshot::{Listed, SourceRecord};
use crate::source::stream::AtHand;
use crate::source::{Clock, Item, Source, SourceError};
use crate::{Error, Monitor, Repository, Result};
use chunkstore::ObjectId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Choices for a stream.
#[derive(Clone)]
pub struct FollowOptions {
    /// A recovery point is at most so far behind.
    pub interval: Duration,
    /// A new base is made after so long.
    pub base_every: Duration,
    /// What every snapshot of it says; its tags tell streams apart from other snapshots of the server.
    pub backup: BackupOptions,
    /// A private folder for what does not fit into memory.
    pub scratch: PathBuf,
    /// Tells the time.
    pub clock: Clock,
}

impl FollowOptions {
    /// Milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from((self.clock)().as_millisecond()).unwrap_or_default()
    }
}

/// Where a stream stands after a commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The snapshot that holds it.
    pub snapshot: ObjectId,
    /// The last moment that can be restored, in milliseconds since 1970.
    pub until_ms: u64,
    /// How far that was behind when the commit was done.
    pub lag: Duration,
    /// Up to where all is durable, as the server counts: Redis's replication offset, PostgreSQL's place in the WAL,
    /// MariaDB's place in its last log.
    pub position: u64,
    /// Bytes since the base.
    pub stream_bytes: u64,
    /// Whether the server is attached.
    pub attached: bool,
    /// Whether this commit brought a new base.
    pub new_base: bool,
}

/// Hears of every commit, and of what keeps the server away.
pub type Report<'a> = dyn FnMut(&Standing, Option<&str>) + 'a;

/// Where a stream's things lie in its snapshots.
pub(crate) struct Layout {
    /// Kind in the snapshot's record.
    pub(crate) kind: &'static str,
    /// The server, as the record shows it.
    pub(crate) origin: String,
    /// Folder of all of it.
    pub(crate) folder: String,
    /// What the base is called in there, and the folder of what grows.
    pub(crate) base: &'static str,
    pub(crate) stream: &'static str,
}

impl Layout {
    fn paths(&self) -> Vec<String> {
        [self.base, self.stream].map(|name| format!("/{}/{name}", self.folder)).into()
    }

    /// Path of a part of what grows.
    pub(crate) fn part(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.folder, self.stream)
    }

    fn record(&self, details: BTreeMap<String, String>) -> SourceRecord {
        SourceRecord { details, ..SourceRecord::new(self.kind, self.origin.clone(), true) }
    }
}

/// A part of what grows, as the last snapshot has it.
pub(crate) struct Part {
    /// Its name in the stream's folder.
    pub(crate) name: String,
    pub(crate) time: Time,
    pub(crate) size: u64,
}

/// Bytes that grow, shared with the commit that reads them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tail(Arc<Vec<u8>>);

impl Tail {
    pub(crate) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        Arc::make_mut(&mut self.0)
    }

    /// As an entry.
    pub(crate) fn item(&self, path: &str, time: Time) -> Item {
        AtHand::opened(path, time, std::io::Cursor::new(self.clone()))
    }
}

impl AsRef<[u8]> for Tail {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Milliseconds as a time of an entry; never on a whole second, so that it counts as fine-grained.
pub(crate) fn time_of(ms: u64) -> Time {
    Time { seconds: (ms / 1000) as i64, nanoseconds: (ms % 1000) as u32 * 1_000_000 + 1 }
}

/// The same a second early: entries that changed just before the last snapshot do not count as unchanged.
pub(crate) fn settled_time_of(ms: u64) -> Time {
    time_of(ms.saturating_sub(1000))
}

/// Waits, unless interrupted.
pub(crate) fn pause(long: Duration, monitor: &dyn Monitor) {
    const TICK: Duration = Duration::from_millis(100);
    let until = Instant::now() + long;
    while Instant::now() < until && !monitor.interrupted() {
        std::thread::sleep(TICK);
    }
}

/// The snapshot.
pub(crate) struct Growing {
    pub(crate) layout: Layout,
    /// `None` before there is a base.
    snapshot: Option<ObjectId>,
    /// What its record says.
    pub(crate) details: BTreeMap<String, String>,
    /// The base's files: path and time of each.
    base: Vec<(String, Time)>,
    /// When the base was begun, in milliseconds since 1970: what tells one of these snapshots from the next.
    pub(crate) base_ms: u64,
    /// Up to when it can be restored.
    pub(crate) until_ms: u64,
}

impl Growing {
    /// Where the last stream of this server stopped, and the parts that it has; if there is one that is whole.
    pub(crate) fn resume(
        repo: &Repository,
        layout: Layout,
        options: &FollowOptions,
        monitor: &dyn Monitor,
    ) -> Result<(Self, Vec<Part>)> {
        repo.sync_index(monitor)?;
        let mut growing =
            Self { layout, snapshot: None, details: BTreeMap::new(), base: vec![], base_ms: 0, until_ms: 0 };
        let paths = growing.layout.paths();
        let mut own: Vec<Listed> = repo
            .snapshots(monitor)?
            .into_iter()
            .filter(|listed| {
                let snapshot = &listed.snapshot;
                snapshot.hostname == options.backup.hostname
                    && paths.iter().all(|path| snapshot.paths.contains(path))
            })
            .collect();
        let Some(last) = own.pop() else { return Ok((growing, vec![])) };
        match growing.load(repo, &last) {
            Ok(parts) => {
                // What was replaced by a longer one just before its writer died.
                let same = |listed: &&Listed| base_of(listed).is_some() && base_of(listed) == base_of(&last);
                let replaced: Vec<ObjectId> = own.iter().filter(same).map(|listed| listed.id).collect();
                if !replaced.is_empty() {
                    repo.forget(&replaced)?;
                }
                Ok((growing, parts))
            }
            Err(error) => {
                // It stays as it is, and a new one begins.
                let message = format!("the stream so far cannot be continued: {error}; a new base follows");
                monitor.error(crate::ItemError { during: "stream", item: last.id.to_string(), message });
                Ok((growing, vec![]))
            }
        }
    }

    /// Whether there is a base to go on from.
    pub(crate) fn has_base(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Leaves the snapshot as it is: the next base begins another.
    pub(crate) fn end(&mut self) {
        self.snapshot = None;
    }

    /// What the record says under this name.
    pub(crate) fn detail(&self, name: &str) -> &str {
        self.details.get(name).map_or("", String::as_str)
    }

    /// The same as a number; 0 if there is none.
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.detail(name).parse().unwrap_or_default()
    }

    /// Takes a snapshot for where it stands, all of it or nothing.
    fn load(&mut self, repo: &Repository, last: &Listed) -> Result<Vec<Part>> {
        let folder = self.layout.part("");
        let (mut base, mut parts) = (vec![], vec![]);
        crate::manifest::for_all_entries(repo.store(), &last.snapshot.manifest, &mut |listed| {
            if listed.entry.kind == Kind::File {
                let path = String::from_utf8_lossy(&listed.entry.path).into_owned();
                let time = listed.entry.mtime;
                match path.strip_prefix(&folder) {
                    Some(name) => parts.push(Part { name: name.into(), time, size: listed.size }),
                    None => base.push((path, time)),
                }
            }
            Ok(())
        })?;
        self.details = last.snapshot.sources.first().map(|source| source.details.clone()).unwrap_or_default();
        (self.base_ms, self.until_ms) = (self.number("base-ms"), self.number("until-ms"));
        (self.base, self.snapshot) = (base, Some(last.id));
        Ok(parts)
    }

    /// Makes a base from `source`, which began at `now_ms`; returns the parts that came with it.
    pub(crate) fn begin(
        &mut self,
        repo: &Repository,
        source: &mut dyn Source,
        now_ms: u64,
        options: &FollowOptions,
        monitor: &dyn Monitor,
    ) -> Result<Vec<Part>> {
        let mut source = Base { source, layout: &self.layout, base_ms: now_ms };
        let backup_options =
            BackupOptions { time: timestamp(now_ms), parent: None, ..options.backup.clone() };
        let made = backup(repo, &mut source, &backup_options, monitor)?;
        repo.sync_index(monitor)?;
        let last = repo.snapshots(monitor)?.into_iter().find(|listed| Some(listed.id) == made.snapshot);
        let last = last.ok_or_else(|| Error::Invalid("the base's snapshot is gone".into()))?;
        self.load(repo, &last)
    }

    /// One commit: a snapshot with the base and all `parts`, in place of the one before. What is at hand is asked for again
    /// if a prune took this session for dead.
    pub(crate) fn commit(
        &mut self,
        repo: &Repository,
        until_ms: u64,
        parts: &dyn Fn(&Layout) -> Result<Vec<Item>>,
        options: &FollowOptions,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let Some(replaced) = self.snapshot else { return Ok(()) };
        self.until_ms = self.until_ms.max(until_ms);
        self.details.insert("until-ms".into(), self.until_ms.to_string());
        let backup_options =
            BackupOptions { time: timestamp(self.base_ms), parent: Some(replaced), ..options.backup.clone() };
        let made = loop {
            let mut source = self.taken(parts(&self.layout)?);
            // A tally of its own: a commit every few seconds would count the base each time; and one that was begun is
            // finished, whatever the user wants meanwhile.
            let tally = Tally::default();
            let made = backup(repo, &mut source, &backup_options, &tally);
            tally.errors().into_iter().for_each(|error| monitor.error(error));
            match made {
                Err(Error::Store(chunkstore::Error::Fenced { .. })) => {}
                made => break made?,
            }
        };
        repo.forget(&[replaced])?;
        self.snapshot = made.snapshot;
        Ok(())
    }

    /// The base, taken over, and the parts, in the manifest's order.
    fn taken(&self, parts: Vec<Item>) -> Taken<'_> {
        let time = self.base.first().map_or_else(|| time_of(self.base_ms), |(_, time)| *time);
        let stream = self.layout.part("");
        let files = self.base.iter().map(|(path, _)| path.as_str()).chain([stream.as_str()]);
        let folders: BTreeSet<&str> =
            files.flat_map(|path| path.match_indices('/').map(|(end, _)| &path[..end])).collect();
        let mut items: Vec<Item> = folders.into_iter().map(|path| Item::folder(path, time)).collect();
        items.extend(self.base.iter().map(|(path, time)| Item::taken_over(path, *time)));
        items.extend(parts);
        items.sort_by(|a, b| compare_paths(&a.entry.path, &b.entry.path));
        Taken { layout: &self.layout, details: &self.details, items: items.into() }
    }

    /// Where it stands, `position` and `stream_bytes` as the server counts.
    pub(crate) fn standing(
        &self,
        position: u64,
        stream_bytes: u64,
        options: &FollowOptions,
    ) -> Option<Standing> {
        let until_ms = self.until_ms;
        let lag = Duration::from_millis(options.now_ms().saturating_sub(until_ms));
        let (snapshot, attached, new_base) = (self.snapshot?, true, false);
        Some(Standing { snapshot, until_ms, lag, position, stream_bytes, attached, new_base })
    }

    /// Whether a new base is due.
    pub(crate) fn is_old(&self, options: &FollowOptions) -> bool {
        u128::from(options.now_ms().saturating_sub(self.base_ms)) > options.base_every.as_millis()
    }

    /// Whether it is worth a commit that nothing happened until then.
    pub(crate) fn is_stale(&self, until_ms: u64, options: &FollowOptions) -> bool {
        u128::from(until_ms.saturating_sub(self.until_ms)) >= options.interval.as_millis()
    }
}

fn base_of(listed: &Listed) -> Option<&String> {
    listed.snapshot.sources.first().and_then(|source| source.details.get("base-ms"))
}

fn timestamp(ms: u64) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(ms as i64).unwrap_or_default()
}

/// A base as it comes.
struct Base<'a> {
    source: &'a mut dyn Source,
    layout: &'a Layout,
    base_ms: u64,
}

impl Source for Base<'_> {
    fn records(&self) -> Vec<SourceRecord> {
        let details = self.source.records().into_iter().flat_map(|record| record.details);
        let times = ["base-ms", "until-ms"].map(|name| (name.to_owned(), self.base_ms.to_string()));
        vec![self.layout.record(details.chain(times).collect())]
    }
    fn paths(&self) -> Vec<String> {
        self.layout.paths()
    }
    fn start(&mut self, seed: [u64; 2]) -> std::result::Result<(), SourceError> {
        self.source.start(seed)
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> std::result::Result<Option<Item>, SourceError> {
        self.source.next_item(monitor)
    }
}

/// What a commit makes a snapshot of.
struct Taken<'a> {
    layout: &'a Layout,
    details: &'a BTreeMap<String, String>,
    items: VecDeque<Item>,
}

impl Source for Taken<'_> {
    fn records(&self) -> Vec<SourceRecord> {
        vec![self.layout.record(self.details.clone())]
    }
    fn paths(&self) -> Vec<String> {
        self.layout.paths()
    }
    fn next_item(&mut self, _: &dyn Monitor) -> std::result::Result<Option<Item>, SourceError> {
        Ok(self.items.pop_front())
    }
}
