//! Every moment of a PostgreSQL cluster: a base backup, and after it the WAL as the server writes it, by the replication
//! protocol and a slot. The server is told that it has gone so far as it is durable in the repository, so what
//! it may drop is never more than what is kept; whatever ends the program or the server, nothing is missing afterwards.
//!
//! A moment counts as complete if an end of the WAL that was asked for after it has come, or the end of a later
//! transaction (`flushed.rs`). What was received is never received over: a session begins with the segment that came last, and
//! what the server sends of it must be what is there; if it is not, the snapshot stays and a new base begins.
//!
//! One snapshot for each base. While esker is attached, it is replaced by a longer one every few seconds, in which
//! all that was there is taken over.

use super::connection::PgError;
use super::wal;
use super::wal::segment_name;
use super::{Connection, Server};
use crate::physical::{Cluster, PhysicalSource, folder, replication};
use engine::growing::{
    self, Feed, FollowOptions, Growing, Layout, Left, Part, Report, Standing, Tail, time_of,
};
use engine::source::{Item, SourceError, SourceErrorKind};
use engine::{Monitor, Repository, Result};
use flushed::Flushed;
use received::Segment;
use std::time::{Duration, Instant};

mod flushed;
mod received;

pub use received::Received;

/// Kind in a snapshot's record.
pub const KIND: &str = "postgres+wal";
/// How long to wait for the server to say something.
const PATIENCE: Duration = Duration::from_millis(200);
/// The server is asked where it is, and told where we are, so often.
const STATUS: Duration = Duration::from_secs(1);
/// Bytes of WAL that are taken in before they are committed, whatever the interval.
const AT_ONCE: usize = 256 << 20;

/// What is in the repository, and what is to come into it.
struct Wal<'a> {
    repo: &'a Repository,
    server: &'a Server,
    slot: &'a str,
    options: &'a FollowOptions,
    monitor: &'a dyn Monitor,
    growing: Growing,
    came: Received,
    /// Up to here it was made durable.
    durable: u64,
    base_start: u64,
    /// Up to when all that was committed has come, in milliseconds since 1970, and whether that was learnt since the last
    /// commit.
    complete_ms: u64,
    is_known: bool,
    /// Whether it was said that the server cannot be asked.
    has_warned: bool,
}

/// The server sends its WAL.
struct Session {
    connection: Connection,
    flushed: Flushed,
    /// When the server was told where we are.
    told: Option<Instant>,
    /// Bytes that came since the last commit.
    came: usize,
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
        came: Received::new(Cluster::default(), 0),
        durable: 0,
        base_start: 0,
        complete_ms: 0,
        is_known: false,
        has_warned: false,
    };
    if let Err(error) = wal.take_over(parts) {
        wal.growing.leave(&format!("the last WAL of the stream cannot be read: {error}"), monitor);
    }
    growing::follow(&mut wal, options, monitor, report)
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
    fn take_over(&mut self, parts: Vec<Part>) -> Result<()> {
        let growing = &self.growing;
        let position = |name: &str| wal::parse_position(growing.detail(name)).unwrap_or_default();
        let len = Some(growing.number("segment-bytes")).filter(|len| wal::is_segment_len(*len));
        let len = len.unwrap_or(wal::SEGMENT_LEN);
        let cluster = Cluster {
            system: growing.detail("system").to_owned(),
            timeline: growing.number("timeline") as u32,
            segment_len: len,
            end: 0,
        };
        (self.base_start, self.complete_ms) = (position("start"), growing.until_ms);
        let mut position = self.base_start / len * len;
        let mut segments: Vec<Segment> = vec![];
        let count = parts.len();
        for (number, part) in parts.into_iter().enumerate() {
            let Some(start) = wal::segment_start(part.name.trim_end_matches(".partial"), len) else {
                continue;
            };
            let mut segment = Segment { start, time: part.time, bytes: None };
            position = start.saturating_add(part.size);
            // The last is compared with what the server sends, and grows if it is not whole.
            if number + 1 == count {
                let mut bytes = Tail::default();
                growing.read(self.repo, &part.name, bytes.bytes_mut())?;
                segment.bytes = Some(bytes);
            }
            segments.push(segment);
        }
        self.came = Received { segments, ..Received::new(cluster, position) };
        self.durable = position;
        Ok(())
    }

    /// Learns up to when all has come.
    fn ask(&mut self, flushed: &Flushed) {
        flushed.told(self.came.server_ms);
        if let Some(complete_ms) = flushed.complete(self.came.position) {
            self.complete_ms = self.complete_ms.max(complete_ms);
            self.is_known = true;
        }
        if let Some(why) = flushed.trouble().filter(|_| !self.has_warned) {
            self.has_warned = true;
            let why =
                format!("{}: {why}; moments are complete up to the last transaction only", self.server.shown);
            self.monitor.warning(&why);
        }
    }

    /// A standby's status: written as far as it came, flushed as far as it is durable.
    #[expect(clippy::big_endian_bytes, reason = "the protocol's order")]
    fn status(&self) -> Vec<u8> {
        let mut message = vec![b'r'];
        // A byte less at a segment's end: the server keeps that segment, with which the next session begins.
        let is_at_border = self.durable.is_multiple_of(self.came.cluster.segment_len);
        let flushed = self.durable - u64::from(is_at_border && self.durable > 0);
        for position in [self.came.position, flushed, flushed] {
            message.extend_from_slice(&position.to_be_bytes());
        }
        // Our clock is of no interest to it; and an answer is wanted.
        message.extend_from_slice(&0i64.to_be_bytes());
        message.push(1);
        message
    }
}

impl Feed for Wal<'_> {
    type Session = Session;

    fn growing(&mut self) -> &mut Growing {
        &mut self.growing
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
        let mut source = PhysicalSource::new(self.server, time_of(now_ms), None);
        let made = self.growing.begin(self.repo, &mut source, now_ms, self.options, self.monitor);
        if made.is_err() && is_own {
            // Nobody would ever take what it keeps.
            let _ = drop_slot(self.server, self.slot);
        }
        self.take_over(made?)
    }

    /// A session in which the server sends its WAL from where we are.
    fn attach(&mut self) -> std::result::Result<Session, Left> {
        let trouble = |error: SourceError| Left::Trouble(error.why);
        let mut connection = replication(self.server).map_err(trouble)?;
        let lost = |error: PgError| Left::Trouble(error.to_string());
        let cluster = Cluster::identify(&mut connection).map_err(lost)?;
        if cluster.system != self.came.cluster.system {
            return Err(Left::NeedsBase("this is another cluster than before".into()));
        }
        if cluster.timeline != self.came.cluster.timeline {
            return Err(Left::NeedsBase(format!("the server is on timeline {} now", cluster.timeline)));
        }
        let is_standby = connection.value("SHOW in_hot_standby").map_err(lost)? == "on";
        if cluster.end < self.came.position && !is_standby {
            return Err(Left::NeedsBase(format!(
                "the server's WAL ends at {}, before {}, up to which the stream has it: it is another history of the cluster",
                wal::shown(cluster.end),
                wal::shown(self.came.position)
            )));
        }
        make_slot(&mut connection, self.slot).map_err(lost)?;
        let from = self.came.begin();
        let command = format!(
            "START_REPLICATION SLOT {} PHYSICAL {} TIMELINE {}",
            self.slot,
            wal::shown(from),
            self.came.cluster.timeline
        );
        connection.begin_copy(&command).map_err(|error| match error.code() {
            "58P01" | "55000" => {
                // The WAL that we need is gone, and the slot may have been invalidated with it: the base makes another.
                let _ = drop_slot(self.server, self.slot);
                Left::NeedsBase(error.to_string())
            }
            _ => Left::Trouble(error.to_string()),
        })?;
        connection.set_patience(Some(PATIENCE)).map_err(lost)?;
        let flushed = Flushed::ask(self.server, &self.came.cluster)
            .map_err(|error| Left::Trouble(error.to_string()))?;
        Ok(Session { connection, flushed, told: None, came: 0 })
    }

    fn take(&mut self, session: &mut Session) -> std::result::Result<bool, Left> {
        if session.told.is_none_or(|at| at.elapsed() >= STATUS) {
            let told = session.connection.send_data(&self.status());
            told.map_err(|error| Left::Trouble(error.to_string()))?;
            session.told = Some(Instant::now());
        }
        let message = session.connection.replication_data();
        let message = message.map_err(|error| Left::Trouble(error.to_string()))?;
        let taken = message.map_or(Ok(0), |message| self.came.take(message));
        session.came += taken.map_err(match self.came.differs {
            true => Left::NeedsBase,
            false => Left::Trouble,
        })?;
        self.ask(&session.flushed);
        Ok(session.came >= AT_ONCE)
    }

    fn commit(&mut self, session: &mut Session, last: bool) -> Result<Option<Left>> {
        session.came = 0;
        let has_moments = self.growing.is_stale(self.complete_ms, self.options)
            || last && self.complete_ms > self.growing.until_ms;
        if self.came.position == self.durable && !has_moments {
            return Ok(None);
        }
        session.told = None;
        if !std::mem::take(&mut self.is_known) {
            self.complete_ms = self.complete_ms.max(self.came.last_transaction_ms());
        }
        self.growing.details.insert("received".into(), wal::shown(self.came.position));
        let (segments, cluster) = (&self.came.segments, &self.came.cluster);
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
        self.growing.commit(self.repo, self.complete_ms, &parts, self.options, self.monitor)?;
        self.durable = self.came.position;
        let len = self.came.cluster.segment_len as usize;
        let closed =
            |segment: &&mut Segment| segment.bytes.as_ref().is_some_and(|bytes| bytes.as_ref().len() >= len);
        // The last is kept to compare with.
        let earlier = self.came.segments.len().saturating_sub(1);
        let earlier = self.came.segments.iter_mut().take(earlier);
        earlier.filter(closed).for_each(|segment| segment.bytes = None);
        Ok(None)
    }
}
