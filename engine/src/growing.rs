//! A snapshot that grows: a base of a server, and after it what the server tells of every change. While esker is
//! attached, the snapshot is replaced by a longer one every few seconds, in which all that was there is taken over; so
//! there is one for each base, and whatever ends the program leaves one that is whole.
//!
//! What all servers have in common is here; how each tells its changes is its connector's.

use crate::backup::{BackupOptions, backup};
use crate::entry::{Kind, Time, compare_paths};
use crate::monitor::Tally;
use crate::snapshot::{Listed, Snapshot, SourceRecord};
use crate::source::at_hand::AtHand;
use crate::source::{Clock, Item, Source, SourceError};
use crate::{Error, Monitor, Repository, Result};
use chunkstore::ObjectId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod follow;

pub use follow::{Feed, Left, follow};

/// Commits come every few seconds; so often they look whether the packs are there that they build on.
const LOOK_EVERY: Duration = Duration::from_secs(900);
/// What is said where somebody forgot the snapshot that grows.
const FORGOTTEN: &str = "the snapshot of the stream was forgotten";

/// Choices for a stream.
#[derive(Clone)]
pub struct FollowOptions {
    /// Time between commits: the maximal age of a recovery point.
    pub interval: Duration,
    /// Time after which a new base is made.
    pub base_every: Duration,
    /// Options of every snapshot; the tags distinguish live streams from other snapshots of the server.
    pub backup: BackupOptions,
    /// A private folder for what does not fit into memory.
    pub scratch: PathBuf,
    /// The clock.
    pub clock: Clock,
}

impl FollowOptions {
    /// Milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
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
    /// Up to where all is durable, as the server counts: a replication offset, or a place in a log.
    pub position: u64,
    /// Bytes since the base.
    pub stream_bytes: u64,
    /// Whether the server is attached.
    pub attached: bool,
    /// Whether this commit has a new base.
    pub new_base: bool,
}

/// Receives every commit, and errors of the connection to the server.
pub type Report<'a> = dyn FnMut(&Standing, Option<&str>) + 'a;

/// Where a stream's things lie in its snapshots.
pub struct Layout {
    /// Kind in the snapshot's record.
    pub kind: &'static str,
    /// The server, as the record shows it.
    pub origin: String,
    /// Folder of all of it.
    pub folder: String,
    /// What the base is called in there, and the folder of what grows.
    pub base: &'static str,
    /// See above.
    pub stream: &'static str,
}

impl Layout {
    fn paths(&self) -> Vec<String> {
        [self.base, self.stream].map(|name| format!("/{}/{name}", self.folder)).into()
    }

    /// Path of a part of what grows.
    pub fn part(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.folder, self.stream)
    }

    fn record(&self, details: BTreeMap<String, String>) -> SourceRecord {
        SourceRecord { details, ..SourceRecord::new(self.kind, self.origin.clone(), true) }
    }
}

/// A part of what grows, as the last snapshot has it.
pub struct Part {
    /// Its name in the stream's folder.
    pub name: String,
    /// Its time.
    pub time: Time,
    /// Its bytes.
    pub size: u64,
}

/// Bytes that grow, shared with the commit that reads them.
#[derive(Clone, Debug, Default)]
pub struct Tail(Arc<Vec<u8>>);

impl Tail {
    /// The bytes, to be appended to.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        Arc::make_mut(&mut self.0)
    }

    /// As an entry.
    pub fn item(&self, path: &str, time: Time) -> Item {
        AtHand::opened(path, time, std::io::Cursor::new(self.clone()))
    }
}

impl AsRef<[u8]> for Tail {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Milliseconds as a time of an entry.
pub fn time_of(ms: u64) -> Time {
    Time { seconds: (ms / 1000) as i64, nanoseconds: (ms % 1000) as u32 * 1_000_000 + 1 }
}

/// The snapshot.
pub struct Growing {
    /// How it is laid down.
    pub layout: Layout,
    /// `None` before there is a base.
    snapshot: Option<ObjectId>,
    /// What its record says.
    pub details: BTreeMap<String, String>,
    /// The base's files: path and time of each.
    base: Vec<(String, Time)>,
    /// When the base was begun, in milliseconds since 1970: what tells one of these snapshots from the next.
    pub base_ms: u64,
    /// Up to when it can be restored.
    pub until_ms: u64,
}

impl Growing {
    /// Where the last stream of this server stopped, and the parts that it has; if there is one that is whole.
    pub fn resume(
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
                snapshot.is_of_full_client()
                    && snapshot.hostname == options.backup.hostname
                    && paths.iter().all(|path| snapshot.paths.contains(path))
            })
            .collect();
        let Some(last) = own.pop() else { return Ok((growing, vec![])) };
        match growing.load(repo, &last) {
            Ok(parts) => {
                // Snapshots that the last run replaced by longer ones but had no time to forget. One that somebody holds is his.
                let now = (options.clock)();
                let same = |listed: &&Listed| {
                    is_longer(&last.snapshot, &listed.snapshot) && listed.snapshot.held(now).is_none()
                };
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
    pub fn has_base(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Leaves the snapshot as it is: the next base begins another.
    pub fn end(&mut self) {
        self.snapshot = None;
    }

    /// Leaves the snapshot as it is, because what the server has does not go on from it, and says so.
    pub fn leave(&mut self, why: &str, monitor: &dyn Monitor) {
        let message = format!("{why}; a new base follows");
        let item = self.layout.origin.clone();
        monitor.error(crate::ItemError { during: "stream", item, message });
        self.end();
    }

    /// What the record says under this name.
    pub fn detail(&self, name: &str) -> &str {
        self.details.get(name).map_or("", String::as_str)
    }

    /// The same as a number; 0 if there is none.
    pub fn number(&self, name: &str) -> u64 {
        self.detail(name).parse().unwrap_or_default()
    }

    /// Reads a part as the last snapshot has it, all of it.
    ///
    /// # Errors
    /// Of reading the repository, or if `out` refuses.
    pub fn read(&self, repo: &Repository, part: &str, out: &mut dyn std::io::Write) -> Result<()> {
        let tally = Tally::default();
        let found = self.present(repo)?.ok_or_else(forgotten)?;
        crate::restore::dump(repo, &found.snapshot, self.layout.part(part).as_bytes(), out, &tally).map(drop)
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
        // What was lost of the base cannot be stored again: the server has moved on.
        if let Some(why) = crate::reach::lost_of(repo.store(), last)? {
            return Err(Error::Refused(why));
        }
        self.details = last.snapshot.sources.first().map(|source| source.details.clone()).unwrap_or_default();
        (self.base_ms, self.until_ms) = (self.number("base-ms"), self.number("until-ms"));
        (self.base, self.snapshot) = (base, Some(last.id));
        Ok(parts)
    }

    /// Makes a base from `source`, which began at `now_ms`; returns the parts that came with it. There is none afterwards if
    /// somebody forgot it at once.
    pub fn begin(
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
        (self.snapshot, self.base_ms, self.until_ms) = (made.snapshot, now_ms, now_ms);
        match self.present(repo)? {
            Some(last) => self.load(repo, &last),
            None => {
                self.leave(FORGOTTEN, monitor);
                Ok(vec![])
            }
        }
    }

    /// The snapshot as the repository has it now: whoever tags or holds it gives it another record, and so another id. `None`
    /// if it was forgotten.
    fn present(&self, repo: &Repository) -> Result<Option<Listed>> {
        self.snapshot.map_or(Ok(None), |id| repo.present(&id))
    }

    /// One commit: a snapshot with the base and all `parts`, in place of the one before, whose tags it gets and which it is held
    /// like. The swap replaces exactly the record that was read: if somebody tags, holds or forgets it meanwhile, it is read
    /// again. So it is if a prune took this session for dead. If it was forgotten, there is no base any more.
    pub fn commit(
        &mut self,
        repo: &Repository,
        until_ms: u64,
        parts: &dyn Fn(&Layout) -> Result<Vec<Item>>,
        options: &FollowOptions,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        if !self.has_base() {
            return Ok(());
        }
        self.until_ms = self.until_ms.max(until_ms);
        let made = loop {
            let Some(before) = self.present(repo)? else {
                self.leave(FORGOTTEN, monitor);
                return Ok(());
            };
            self.details.insert("until-ms".into(), self.until_ms.to_string());
            let Snapshot { tags, hold, keep_until, description, .. } = before.snapshot;
            let backup_options = BackupOptions {
                time: timestamp(self.base_ms),
                parent: Some(before.id),
                replaces: Some(before.id),
                packs_seen_within: LOOK_EVERY,
                tags,
                hold,
                keep_until,
                description,
                ..options.backup.clone()
            };
            let mut source = self.taken(parts(&self.layout)?);
            // A tally of its own: a commit every few seconds would count the base each time; and one that was begun is
            // finished, whatever the user wants meanwhile.
            let tally = Tally::default();
            let made = backup(repo, &mut source, &backup_options, &tally);
            tally.errors().into_iter().for_each(|error| monitor.error(error));
            match made {
                Err(Error::Store(chunkstore::Error::Fenced { .. } | chunkstore::Error::Gone { .. })) => {}
                // Forgotten before it was looked for as the parent.
                Err(Error::NoSnapshot { .. }) => {}
                made => break made?,
            }
        };
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
    pub fn standing(&self, position: u64, stream_bytes: u64, options: &FollowOptions) -> Option<Standing> {
        let until_ms = self.until_ms;
        let lag = Duration::from_millis(options.now_ms().saturating_sub(until_ms));
        let (snapshot, attached, new_base) = (self.snapshot?, true, false);
        Some(Standing { snapshot, until_ms, lag, position, stream_bytes, attached, new_base })
    }

    /// Whether a new base is due.
    pub fn is_old(&self, options: &FollowOptions) -> bool {
        u128::from(options.now_ms().saturating_sub(self.base_ms)) > options.base_every.as_millis()
    }

    /// Whether it is worth a commit that nothing happened until then.
    pub fn is_stale(&self, until_ms: u64, options: &FollowOptions) -> bool {
        u128::from(until_ms.saturating_sub(self.until_ms)) >= options.interval.as_millis()
    }
}

/// When the base of a live stream's snapshot was begun.
fn base_of(snapshot: &Snapshot) -> Option<&String> {
    snapshot.sources.first().and_then(|source| source.details.get("base-ms"))
}

/// Whether both are of the same live stream and stand on the same base.
fn is_longer(new: &Snapshot, old: &Snapshot) -> bool {
    base_of(new).is_some()
        && base_of(new) == base_of(old)
        && (&new.paths, &new.hostname) == (&old.paths, &old.hostname)
}

fn forgotten() -> Error {
    Error::Refused(FORGOTTEN.into())
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
