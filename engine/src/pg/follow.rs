//! Every moment of a PostgreSQL cluster: a base backup, and after it the WAL as the server writes it, by the replication
//! protocol and a slot. The server is told that it has gone so far as it is durable in the repository, so what
//! it may drop is never more than what is kept; whatever ends the program or the server, nothing is missing afterwards.
//!
//! One snapshot for each base. While esker is attached, it is replaced by a longer one every few seconds, in which
//! all that was there is taken over.

use super::connection::PgError;
use super::wal::{self, EPOCH_2000, Transactions, segment_name};
use super::{Connection, Server};
use crate::backup::{BackupOptions, backup};
use crate::entry::Time;
use crate::monitor::Tally;
use crate::snapshot::{Listed, SourceRecord};
use crate::source::postgres_physical::{
    Cluster, PhysicalSource, folder, replication, taken_over, taken_over_all,
};
use crate::source::stream::AtHand;
use crate::source::{Clock, Item, Source, SourceError, SourceErrorKind};
use crate::{Error, Monitor, Repository, Result};
use chunkstore::ObjectId;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Kind in a snapshot's record.
pub const KIND: &str = "postgres+wal";
/// How long to wait for the server to say something.
const PATIENCE: Duration = Duration::from_millis(200);
/// Between two attempts to attach.
const PAUSE: Duration = Duration::from_secs(1);
/// The server is asked where it is, and told where we are, so often.
const STATUS: Duration = Duration::from_secs(1);
/// Bytes of WAL that are taken in before they are committed, whatever the interval.
const AT_ONCE: usize = 256 << 20;

/// Choices for a stream.
#[derive(Clone)]
pub struct FollowOptions {
    /// A recovery point is at most so far behind.
    pub interval: Duration,
    /// A new base is made after so long.
    pub base_every: Duration,
    /// The slot's name.
    pub slot: String,
    /// What every snapshot of it says.
    pub backup: BackupOptions,
    /// Tells the time.
    pub clock: Clock,
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
    /// Where in the WAL that is.
    pub position: u64,
    /// Bytes of WAL since the base.
    pub stream_bytes: u64,
    /// Whether the server is attached.
    pub attached: bool,
    /// Whether this commit brought a new base.
    pub new_base: bool,
}

/// A segment of WAL in the snapshot.
struct Segment {
    start: u64,
    time: Time,
    /// Until all of it is in the last snapshot.
    bytes: Option<Vec<u8>>,
}

/// What is in the repository, and what is to come into it.
#[derive(Default)]
struct Wal {
    folder: String,
    origin: String,
    snapshot: Option<ObjectId>,
    base: Vec<(String, Time)>,
    details: BTreeMap<String, String>,
    cluster: Cluster,
    segments: Vec<Segment>,
    /// Up to here it was received, and was made durable.
    received: u64,
    durable: u64,
    /// What the last snapshot has: the segment that grew is received again after an interruption, and a shorter one must
    /// not take its place.
    kept: u64,
    base_start: u64,
    base_ms: u64,
    until_ms: u64,
    /// When `received` was all there was, by the server's clock.
    complete_ms: u64,
}

fn time_of(ms: u64) -> Time {
    Time { seconds: (ms / 1000) as i64, nanoseconds: (ms % 1000) as u32 * 1_000_000 + 1 }
}

/// Why the server was left.
enum Left {
    /// The user has had enough.
    Interrupted,
    /// Something is wrong that may pass.
    Trouble(String),
    /// What is there cannot be continued.
    NeedsBase(String),
}

/// Follows `server` until interrupted; `report` hears of every commit.
pub fn follow(
    repo: &Repository,
    server: &Server,
    options: &FollowOptions,
    monitor: &dyn Monitor,
    report: &mut dyn FnMut(&Standing, Option<&str>),
) -> Result<()> {
    let mut wal = Wal::resume(repo, server, options, monitor)?;
    loop {
        if wal.snapshot.is_none() {
            wal.new_base(repo, server, options, monitor, report)?;
        }
        let left = match wal.attach(server, options) {
            Ok(mut session) => wal.take(&mut session, repo, options, monitor, report)?,
            Err(left) => left,
        };
        match left {
            Left::Interrupted => {
                wal.commit(repo, options, monitor)?;
                return Err(Error::Interrupted);
            }
            Left::NeedsBase(why) => {
                monitor.error(crate::ItemError {
                    during: "stream",
                    item: server.shown.clone(),
                    message: format!("{why}; a new base follows"),
                });
                wal.snapshot = None;
            }
            Left::Trouble(why) => {
                if let Some(standing) = wal.standing(options, false, false) {
                    report(&standing, Some(&why));
                }
                let until = Instant::now() + PAUSE;
                while Instant::now() < until {
                    if monitor.interrupted() {
                        return Err(Error::Interrupted);
                    }
                    std::thread::sleep(PATIENCE);
                }
            }
        }
    }
}

/// The slot: made if there is none.
fn make_slot(session: &mut Connection, slot: &str) -> std::result::Result<(), PgError> {
    match session.query(&format!("CREATE_REPLICATION_SLOT {slot} PHYSICAL RESERVE_WAL")) {
        Err(error) if error.code() == "42710" => Ok(()),
        other => other.map(drop),
    }
}

/// Removes the slot of a stream that will not be continued.
pub fn drop_slot(server: &Server, slot: &str) -> Result<()> {
    let mut session = replication(server)?;
    let dropped = session.query(&format!("DROP_REPLICATION_SLOT {slot}"));
    dropped.map(drop).map_err(|error| server.failed(&error).into())
}

impl Wal {
    /// Where the last stream of this server stopped, if there is one.
    fn resume(
        repo: &Repository,
        server: &Server,
        options: &FollowOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        repo.sync_index(monitor)?;
        let folder = folder(server);
        let mut wal = Self { folder: folder.clone(), origin: server.shown.clone(), ..Self::default() };
        let path = format!("/{folder}/wal");
        let mut own: Vec<Listed> = repo
            .snapshots(monitor)?
            .into_iter()
            .filter(|listed| {
                listed.snapshot.hostname == options.backup.hostname && listed.snapshot.paths.contains(&path)
            })
            .collect();
        let Some(last) = own.pop() else { return Ok(wal) };
        let start_of = |listed: &Listed| {
            listed.snapshot.sources.first().and_then(|source| source.details.get("start").cloned())
        };
        // One that was replaced by a longer one just before its writer died.
        let replaced: Vec<ObjectId> =
            own.iter().filter(|listed| start_of(listed) == start_of(&last)).map(|listed| listed.id).collect();
        if !replaced.is_empty() {
            repo.forget(&replaced)?;
        }
        if let Err(error) = wal.load(repo, &last) {
            // It stays as it is, and a new one begins.
            let message = format!("the stream so far cannot be continued: {error}; a new base follows");
            monitor.error(crate::ItemError { during: "stream", item: last.id.to_string(), message });
            return Ok(Self { folder, origin: server.shown.clone(), ..Self::default() });
        }
        Ok(wal)
    }

    /// Takes a snapshot for where it stands.
    fn load(&mut self, repo: &Repository, last: &Listed) -> Result<()> {
        let record = last.snapshot.sources.first();
        self.details = record.map(|source| source.details.clone()).unwrap_or_default();
        let text = |name: &str| self.details.get(name).cloned().unwrap_or_default();
        let number = |name: &str| text(name).parse::<u64>().unwrap_or_default();
        self.cluster = Cluster {
            system: text("system"),
            timeline: number("timeline") as u32,
            segment_len: number("segment-bytes").max(1 << 20),
        };
        self.base_start = wal::parse_position(&text("start")).unwrap_or_default();
        (self.until_ms, self.base_ms) = (number("until-ms"), number("base-ms"));
        self.complete_ms = self.until_ms;
        self.snapshot = Some(last.id);
        (self.base, self.segments) = (vec![], vec![]);
        let (folder, len) = (self.folder.clone(), self.cluster.segment_len);
        let (base, segments) = (&mut self.base, &mut self.segments);
        let mut damaged = None;
        crate::manifest::for_each_entry(
            repo.store(),
            &last.snapshot.manifest,
            &mut |damage| damaged = Some(damage.error),
            &mut |listed| {
                let path = String::from_utf8_lossy(&listed.entry.path).into_owned();
                let name = path.strip_prefix(&format!("{folder}/wal/"));
                if let Some(start) = name.and_then(|name| wal::segment_start(name, len)) {
                    // The one that grows is received again.
                    if !path.ends_with(".partial") {
                        segments.push(Segment { start, time: listed.entry.mtime, bytes: None });
                    }
                } else if path.starts_with(&format!("{folder}/base."))
                    && listed.entry.kind == crate::entry::Kind::File
                {
                    base.push((path, listed.entry.mtime));
                }
                Ok(())
            },
        )?;
        if let Some(error) = damaged {
            return Err(error.into());
        }
        let aligned = self.base_start / len * len;
        self.received = self.segments.last().map_or(aligned, |segment| segment.start + len);
        self.durable = self.received;
        self.kept =
            self.details.get("received").and_then(|text| wal::parse_position(text)).unwrap_or_default();
        Ok(())
    }

    fn standing(&self, options: &FollowOptions, attached: bool, new_base: bool) -> Option<Standing> {
        let now_ms = (options.clock)().as_millisecond().max(0) as u64;
        Some(Standing {
            snapshot: self.snapshot?,
            until_ms: self.until_ms,
            lag: Duration::from_millis(now_ms.saturating_sub(self.until_ms)),
            position: self.durable,
            stream_bytes: self.durable.saturating_sub(self.base_start),
            attached,
            new_base,
        })
    }

    /// Makes a base, and the slot before it, so that nothing after it can be missed.
    fn new_base(
        &mut self,
        repo: &Repository,
        server: &Server,
        options: &FollowOptions,
        monitor: &dyn Monitor,
        report: &mut dyn FnMut(&Standing, Option<&str>),
    ) -> Result<()> {
        let mut session = replication(server)?;
        let slots = |error: &PgError| {
            let advice = match error.code() {
                "53400" => "; raise max_replication_slots, or drop one that is not used",
                "55000" => "; wal_level must be replica or logical",
                _ => "",
            };
            server.error(SourceErrorKind::Unavailable, format!("{error}{advice}"))
        };
        let existed = session
            .query(&format!("CREATE_REPLICATION_SLOT {} PHYSICAL RESERVE_WAL", options.slot))
            .map(|_| false)
            .or_else(|error| if error.code() == "42710" { Ok(true) } else { Err(slots(&error)) })?;
        drop(session);
        let now = (options.clock)();
        let now_ms = now.as_millisecond().max(0) as u64;
        let physical = PhysicalSource::new(server, time_of(now_ms.saturating_sub(1000)), None);
        let mut source = FirstBase { physical, folder: folder(server), base_ms: now_ms };
        let backup_options = BackupOptions { time: now, parent: None, ..options.backup.clone() };
        let made = backup(repo, &mut source, &backup_options, monitor);
        if made.is_err() && !existed {
            // Nobody would ever take what it keeps.
            let _ = drop_slot(server, &options.slot);
        }
        let made = made?;
        repo.sync_index(monitor)?;
        let all = repo.snapshots(monitor)?;
        let last = all.into_iter().find(|listed| Some(listed.id) == made.snapshot);
        let last = last.ok_or_else(|| Error::Invalid("the base's snapshot is gone".into()))?;
        self.load(repo, &last)?;
        if let Some(standing) = self.standing(options, true, true) {
            report(&standing, None);
        }
        Ok(())
    }

    /// A session in which the server sends its WAL from where we are.
    fn attach(&self, server: &Server, options: &FollowOptions) -> std::result::Result<Connection, Left> {
        let trouble = |error: SourceError| Left::Trouble(error.why);
        let mut session = replication(server).map_err(trouble)?;
        let lost = |error: PgError| Left::Trouble(error.to_string());
        let cluster = Cluster::identify(&mut session).map_err(lost)?;
        if cluster.system != self.cluster.system {
            return Err(Left::NeedsBase("this is another cluster than before".into()));
        }
        if cluster.timeline != self.cluster.timeline {
            return Err(Left::NeedsBase(format!("the server is on timeline {} now", cluster.timeline)));
        }
        make_slot(&mut session, &options.slot).map_err(lost)?;
        let command = format!(
            "START_REPLICATION SLOT {} PHYSICAL {} TIMELINE {}",
            options.slot,
            wal::shown(self.received),
            self.cluster.timeline
        );
        session.begin_copy(&command).map_err(|error| match error.code() {
            // The WAL that we need is gone.
            "58P01" | "55000" => Left::NeedsBase(error.to_string()),
            _ => Left::Trouble(error.to_string()),
        })?;
        session.set_patience(Some(PATIENCE)).map_err(lost)?;
        Ok(session)
    }

    /// Takes WAL and commits it until something ends that.
    fn take(
        &mut self,
        session: &mut Connection,
        repo: &Repository,
        options: &FollowOptions,
        monitor: &dyn Monitor,
        report: &mut dyn FnMut(&Standing, Option<&str>),
    ) -> Result<Left> {
        let wait = options.interval / 2;
        let (mut last_commit, mut last_status) = (Instant::now(), None::<Instant>);
        let mut came = 0;
        loop {
            if monitor.interrupted() {
                return Ok(Left::Interrupted);
            }
            if last_status.is_none_or(|at| at.elapsed() >= STATUS) {
                if let Err(error) = session.send_data(&self.status()) {
                    return self.commit_and(repo, options, monitor, error.to_string());
                }
                last_status = Some(Instant::now());
            }
            let taken = match session.replication_data() {
                Ok(None) => Ok(0),
                Ok(Some(message)) => match message.first() {
                    Some(b'w') => self.append(message),
                    Some(b'k') => self.alive(message),
                    _ => Ok(0),
                },
                Err(error) => Err(error.to_string()),
            };
            match taken {
                Ok(bytes) => came += bytes,
                // What came before is kept.
                Err(why) => return self.commit_and(repo, options, monitor, why),
            }
            if last_commit.elapsed() >= wait || came >= AT_ONCE {
                let stale =
                    self.complete_ms.saturating_sub(self.until_ms) >= options.interval.as_millis() as u64;
                if self.received > self.durable || stale {
                    self.commit(repo, options, monitor)?;
                    last_status = None;
                }
                (last_commit, came) = (Instant::now(), 0);
                if let Some(standing) = self.standing(options, true, false) {
                    report(&standing, None);
                }
                let now_ms = (options.clock)().as_millisecond().max(0) as u64;
                if now_ms.saturating_sub(self.base_ms) > options.base_every.as_millis() as u64 {
                    return Ok(Left::NeedsBase("it is time".into()));
                }
            }
        }
    }

    fn commit_and(
        &mut self,
        repo: &Repository,
        options: &FollowOptions,
        monitor: &dyn Monitor,
        why: String,
    ) -> Result<Left> {
        if self.received > self.durable {
            self.commit(repo, options, monitor)?;
        }
        Ok(Left::Trouble(why))
    }

    /// A standby's status: written as far as it came, flushed as far as it is durable.
    #[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
    fn status(&self) -> Vec<u8> {
        let mut message = vec![b'r'];
        for position in [self.received, self.durable, self.durable] {
            message.extend_from_slice(&position.to_be_bytes());
        }
        // Our clock is of no interest to it; and an answer is wanted.
        message.extend_from_slice(&0i64.to_be_bytes());
        message.push(1);
        message
    }

    /// WAL: where it begins, how far the server is, and when it said so.
    fn append(&mut self, message: &[u8]) -> std::result::Result<usize, String> {
        let (Some(start), Some(end), Some(time), Some(data)) =
            (number(message, 1), number(message, 9), number(message, 17), message.get(25..))
        else {
            return Err("a message of WAL that is too short".into());
        };
        if start != self.received {
            return Err(format!(
                "a gap in the WAL: {} after {}",
                wal::shown(start),
                wal::shown(self.received)
            ));
        }
        let sent_ms = milliseconds(time);
        let mut rest = data;
        while !rest.is_empty() {
            let len = self.cluster.segment_len;
            let room = (len - self.received % len) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            match self
                .segments
                .last_mut()
                .filter(|last| !self.received.is_multiple_of(len) && last.start + len > self.received)
            {
                Some(last) => last.bytes.get_or_insert_default().extend_from_slice(now),
                None => {
                    // A second early: entries that changed just before the last snapshot do not count as unchanged.
                    let time = time_of(sent_ms.saturating_sub(1000));
                    self.segments.push(Segment { start: self.received, time, bytes: Some(now.to_vec()) });
                }
            }
            self.received += now.len() as u64;
            rest = later;
        }
        if self.received >= end {
            self.complete_ms = self.complete_ms.max(sent_ms);
        }
        Ok(data.len())
    }

    /// A sign of life: how far the server has sent, and when.
    fn alive(&mut self, message: &[u8]) -> std::result::Result<usize, String> {
        if let (Some(end), Some(time)) = (number(message, 1), number(message, 9))
            && end == self.received
        {
            self.complete_ms = self.complete_ms.max(milliseconds(time));
        }
        Ok(0)
    }

    /// One commit: a snapshot with all that there is, in place of the one before.
    fn commit(&mut self, repo: &Repository, options: &FollowOptions, monitor: &dyn Monitor) -> Result<()> {
        let Some(replaced) = self.snapshot.filter(|_| self.received >= self.kept) else { return Ok(()) };
        let mut until_ms = self.until_ms.max(self.complete_ms);
        if self.complete_ms == 0 {
            // Of what came so far: the end of the last transaction in it.
            let mut found = Transactions::default();
            self.segments
                .iter()
                .filter_map(|segment| segment.bytes.as_deref())
                .for_each(|bytes| found.read(bytes));
            until_ms = until_ms.max(found.last_us.map_or(0, |us| (us / 1000).max(0) as u64));
        }
        self.details.insert("until-ms".into(), until_ms.to_string());
        self.details.insert("received".into(), wal::shown(self.received));
        let time = jiff::Timestamp::from_millisecond(self.base_ms as i64).unwrap_or_default();
        let backup_options = BackupOptions { time, parent: Some(replaced), ..options.backup.clone() };
        let made = loop {
            let mut source = self.source();
            // A tally of its own: a commit every few seconds would count the base each time; and one that was begun is
            // finished, whatever the user wants meanwhile.
            let tally = Tally::default();
            let made = backup(repo, &mut source, &backup_options, &tally);
            tally.errors().into_iter().for_each(|error| monitor.error(error));
            match made {
                // A prune took this session for dead; there is nothing to read again but memory.
                Err(Error::Store(chunkstore::Error::Fenced { .. })) => {}
                made => break made?,
            }
        };
        repo.forget(&[replaced])?;
        self.snapshot = made.snapshot;
        (self.durable, self.kept, self.until_ms) = (self.received, self.received, until_ms);
        let len = self.cluster.segment_len as usize;
        for segment in &mut self.segments {
            if segment.bytes.as_ref().is_some_and(|bytes| bytes.len() >= len) {
                segment.bytes = None;
            }
        }
        Ok(())
    }

    /// All that there is, as a source.
    fn source(&self) -> Taken {
        let base_time = self.base.first().map_or(time_of(self.base_ms), |(_, time)| *time);
        let folder = &self.folder;
        let mut items: VecDeque<Item> =
            folder.match_indices('/').map(|(end, _)| Item::folder(&folder[..end], base_time)).collect();
        items.push_back(Item::folder(folder, base_time));
        items.extend(taken_over_all(&self.base, base_time));
        items.push_back(Item::folder(&format!("{folder}/wal"), base_time));
        for segment in &self.segments {
            let name = segment_name(self.cluster.timeline, segment.start, self.cluster.segment_len);
            let path = format!("{folder}/wal/{name}");
            items.push_back(match &segment.bytes {
                None => taken_over(&path, segment.time),
                Some(bytes) if bytes.len() as u64 == self.cluster.segment_len => {
                    AtHand::opened(&path, segment.time, std::io::Cursor::new(bytes.clone()))
                }
                Some(bytes) => {
                    let path = format!("{path}.partial");
                    AtHand::opened(&path, segment.time, std::io::Cursor::new(bytes.clone()))
                }
            });
        }
        let mut record = SourceRecord::new(KIND, &self.origin, true);
        record.details = self.details.clone();
        Taken { folder: folder.clone(), record, items }
    }
}

fn paths(folder: &str) -> Vec<String> {
    vec![format!("/{folder}/base"), format!("/{folder}/wal")]
}

/// The base as it comes, for a stream.
struct FirstBase {
    physical: PhysicalSource,
    folder: String,
    base_ms: u64,
}

impl Source for FirstBase {
    fn records(&self) -> Vec<SourceRecord> {
        let mut records = self.physical.records();
        for record in &mut records {
            KIND.clone_into(&mut record.kind);
            record.details.insert("base-ms".into(), self.base_ms.to_string());
            record.details.insert("until-ms".into(), self.base_ms.to_string());
        }
        records
    }
    fn paths(&self) -> Vec<String> {
        paths(&self.folder)
    }
    fn start(&mut self, seed: [u64; 2]) -> std::result::Result<(), SourceError> {
        self.physical.start(seed)
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> std::result::Result<Option<Item>, SourceError> {
        self.physical.next_item(monitor)
    }
}

/// What a commit makes a snapshot of.
struct Taken {
    folder: String,
    record: SourceRecord,
    items: VecDeque<Item>,
}

impl Source for Taken {
    fn records(&self) -> Vec<SourceRecord> {
        vec![self.record.clone()]
    }
    fn paths(&self) -> Vec<String> {
        paths(&self.folder)
    }
    fn next_item(&mut self, _: &dyn Monitor) -> std::result::Result<Option<Item>, SourceError> {
        Ok(self.items.pop_front())
    }
}

#[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
fn number(message: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(message.get(at..at + 8)?.try_into().ok()?))
}

/// The server's time, in milliseconds since 1970.
fn milliseconds(time: u64) -> u64 {
    ((time as i64 + EPOCH_2000) / 1000).max(0) as u64
}
