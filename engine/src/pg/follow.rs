//! Every moment of a PostgreSQL cluster: a base backup, and after it the WAL as the server writes it, by the replication
//! protocol and a slot. The server is told that it has gone so far as it is durable in the repository, so what
//! it may drop is never more than what is kept; whatever ends the program or the server, nothing is missing afterwards.
//!
//! One snapshot for each base. While esker is attached, it is replaced by a longer one every few seconds, in which
//! all that was there is taken over.

use super::connection::PgError;
use super::wal::{self, EPOCH_2000, Transactions, segment_name};
use super::{Connection, Server};
use crate::entry::Time;
use crate::growing::{FollowOptions, Growing, Layout, Part, Report, Standing, Tail, pause, settled_time_of};
use crate::source::postgres_physical::{Cluster, PhysicalSource, folder, replication};
use crate::source::{Item, SourceError, SourceErrorKind};
use crate::{Error, Monitor, Repository, Result};
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

/// A segment of WAL in the snapshot.
struct Segment {
    start: u64,
    time: Time,
    /// Until all of it is in the last snapshot.
    bytes: Option<Tail>,
}

/// What is in the repository, and what is to come into it.
struct Wal<'a> {
    repo: &'a Repository,
    server: &'a Server,
    slot: &'a str,
    options: &'a FollowOptions,
    monitor: &'a dyn Monitor,
    growing: Growing,
    cluster: Cluster,
    segments: Vec<Segment>,
    /// Up to here it was received, and was made durable.
    received: u64,
    durable: u64,
    /// What the last snapshot has: the segment that grew is received again after an interruption, and a shorter one must
    /// not take its place.
    kept: u64,
    base_start: u64,
    /// When `received` was all there was, by the server's clock.
    complete_ms: u64,
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

/// Follows `server` by the replication slot `slot` until interrupted; `report` hears of every commit.
pub fn follow(
    repo: &Repository,
    server: &Server,
    slot: &str,
    options: &FollowOptions,
    monitor: &dyn Monitor,
    report: &mut Report<'_>,
) -> Result<()> {
    let layout = Layout {
        kind: KIND,
        origin: server.shown.clone(),
        folder: folder(server),
        base: "base",
        stream: "wal",
    };
    let (growing, parts) = Growing::resume(repo, layout, options, monitor)?;
    let mut wal = Wal {
        repo,
        server,
        slot,
        options,
        monitor,
        growing,
        cluster: Cluster::default(),
        segments: vec![],
        received: 0,
        durable: 0,
        kept: 0,
        base_start: 0,
        complete_ms: 0,
    };
    wal.take_over(parts);
    loop {
        if !wal.growing.has_base() {
            wal.new_base()?;
            if let Some(standing) = wal.standing() {
                report(&Standing { new_base: true, ..standing }, None);
            }
        }
        let left = match wal.attach() {
            Ok(mut session) => wal.take(&mut session, report)?,
            Err(left) => left,
        };
        match left {
            Left::Interrupted => {
                wal.commit()?;
                return Err(Error::Interrupted);
            }
            Left::NeedsBase(why) => {
                let message = format!("{why}; a new base follows");
                monitor.error(crate::ItemError { during: "stream", item: server.shown.clone(), message });
                wal.growing.end();
            }
            Left::Trouble(why) => {
                if let Some(standing) = wal.standing() {
                    report(&Standing { attached: false, ..standing }, Some(&why));
                }
                pause(PAUSE, monitor);
                if monitor.interrupted() {
                    return Err(Error::Interrupted);
                }
            }
        }
    }
}

/// Makes the slot; `false` if there is one already.
fn make_slot(session: &mut Connection, slot: &str) -> std::result::Result<bool, PgError> {
    match session.query(&format!("CREATE_REPLICATION_SLOT {slot} PHYSICAL RESERVE_WAL")) {
        Ok(_) => Ok(true),
        Err(error) if error.code() == "42710" => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the slot of a stream that will not be continued.
pub fn drop_slot(server: &Server, slot: &str) -> Result<()> {
    let mut session = replication(server)?;
    let dropped = session.query(&format!("DROP_REPLICATION_SLOT {slot}"));
    dropped.map(drop).map_err(|error| server.failed(&error).into())
}

impl Wal<'_> {
    /// Goes on from what the last snapshot has.
    fn take_over(&mut self, parts: Vec<Part>) {
        let growing = &self.growing;
        let position = |name: &str| wal::parse_position(growing.detail(name)).unwrap_or_default();
        let len = growing.number("segment-bytes").max(1 << 20);
        self.cluster = Cluster {
            system: growing.detail("system").to_owned(),
            timeline: growing.number("timeline") as u32,
            segment_len: len,
        };
        (self.base_start, self.kept) = (position("start"), position("received"));
        self.complete_ms = growing.until_ms;
        // The one that grows is received again.
        let closed = parts.into_iter().filter(|part| !part.name.ends_with(".partial"));
        let segment = |part: Part| {
            let start = wal::segment_start(&part.name, len)?;
            Some(Segment { start, time: part.time, bytes: None })
        };
        self.segments = closed.filter_map(segment).collect();
        let aligned = self.base_start / len * len;
        self.received = self.segments.last().map_or(aligned, |segment| segment.start + len);
        self.durable = self.received;
    }

    fn standing(&self) -> Option<Standing> {
        self.growing.standing(self.durable, self.durable.saturating_sub(self.base_start), self.options)
    }

    /// Makes a base, and the slot before it, so that nothing after it can be missed.
    fn new_base(&mut self) -> Result<()> {
        let mut session = replication(self.server)?;
        let is_own = make_slot(&mut session, self.slot).map_err(|error| {
            let advice = match error.code() {
                "53400" => "; raise max_replication_slots, or drop one that is not used",
                "55000" => "; wal_level must be replica or logical",
                _ => "",
            };
            self.server.error(SourceErrorKind::Unavailable, format!("{error}{advice}"))
        })?;
        drop(session);
        let now_ms = self.options.now_ms();
        let mut source = PhysicalSource::new(self.server, settled_time_of(now_ms), None);
        let made = self.growing.begin(self.repo, &mut source, now_ms, self.options, self.monitor);
        if made.is_err() && is_own {
            // Nobody would ever take what it keeps.
            let _ = drop_slot(self.server, self.slot);
        }
        self.take_over(made?);
        Ok(())
    }

    /// A session in which the server sends its WAL from where we are.
    fn attach(&self) -> std::result::Result<Connection, Left> {
        let trouble = |error: SourceError| Left::Trouble(error.why);
        let mut session = replication(self.server).map_err(trouble)?;
        let lost = |error: PgError| Left::Trouble(error.to_string());
        let cluster = Cluster::identify(&mut session).map_err(lost)?;
        if cluster.system != self.cluster.system {
            return Err(Left::NeedsBase("this is another cluster than before".into()));
        }
        if cluster.timeline != self.cluster.timeline {
            return Err(Left::NeedsBase(format!("the server is on timeline {} now", cluster.timeline)));
        }
        make_slot(&mut session, self.slot).map_err(lost)?;
        let command = format!(
            "START_REPLICATION SLOT {} PHYSICAL {} TIMELINE {}",
            self.slot,
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
    fn take(&mut self, session: &mut Connection, report: &mut Report<'_>) -> Result<Left> {
        let wait = self.options.interval / 2;
        let (mut last_commit, mut last_status) = (Instant::now(), None::<Instant>);
        let mut came = 0;
        loop {
            if self.monitor.interrupted() {
                return Ok(Left::Interrupted);
            }
            if last_status.is_none_or(|at| at.elapsed() >= STATUS) {
                if let Err(error) = session.send_data(&self.status()) {
                    return self.commit_and(error.to_string());
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
                Err(why) => return self.commit_and(why),
            }
            if last_commit.elapsed() >= wait || came >= AT_ONCE {
                if self.received > self.durable || self.growing.is_stale(self.complete_ms, self.options) {
                    self.commit()?;
                    last_status = None;
                }
                (last_commit, came) = (Instant::now(), 0);
                if let Some(standing) = self.standing() {
                    report(&standing, None);
                }
                if self.growing.is_old(self.options) {
                    return Ok(Left::NeedsBase("it is time".into()));
                }
            }
        }
    }

    fn commit_and(&mut self, why: String) -> Result<Left> {
        if self.received > self.durable {
            self.commit()?;
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
                Some(last) => last.bytes.get_or_insert_default().bytes_mut().extend_from_slice(now),
                None => {
                    let (start, time) = (self.received, settled_time_of(sent_ms));
                    let mut bytes = Tail::default();
                    bytes.bytes_mut().extend_from_slice(now);
                    self.segments.push(Segment { start, time, bytes: Some(bytes) });
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

    /// Makes durable what came, unless the last snapshot has more of it.
    fn commit(&mut self) -> Result<()> {
        if self.received < self.kept {
            return Ok(());
        }
        let mut until_ms = self.complete_ms;
        if until_ms == 0 {
            // Of what came so far: the end of the last transaction in it.
            let mut found = Transactions::default();
            self.segments
                .iter()
                .filter_map(|segment| segment.bytes.as_ref())
                .for_each(|bytes| found.read(bytes.as_ref()));
            until_ms = found.last_us.map_or(0, |us| (us / 1000).max(0) as u64);
        }
        self.growing.details.insert("received".into(), wal::shown(self.received));
        let (segments, cluster) = (&self.segments, &self.cluster);
        let item = |layout: &Layout, segment: &Segment| {
            let path = layout.part(&segment_name(cluster.timeline, segment.start, cluster.segment_len));
            match &segment.bytes {
                None => Item::taken_over(&path, segment.time),
                Some(bytes) if bytes.as_ref().len() as u64 == cluster.segment_len => {
                    bytes.item(&path, segment.time)
                }
                Some(bytes) => bytes.item(&format!("{path}.partial"), segment.time),
            }
        };
        let parts = |layout: &Layout| Ok(segments.iter().map(|segment| item(layout, segment)).collect());
        self.growing.commit(self.repo, until_ms, &parts, self.options, self.monitor)?;
        (self.durable, self.kept) = (self.received, self.received);
        let len = self.cluster.segment_len as usize;
        let closed =
            |segment: &&mut Segment| segment.bytes.as_ref().is_some_and(|bytes| bytes.as_ref().len() >= len);
        self.segments.iter_mut().filter(closed).for_each(|segment| segment.bytes = None);
        Ok(())
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
