//! Staying attached: one thread receives the server's commands, another requests its offset, and the caller's commits
//! them every few seconds.

use super::receiver::{NewBase, Proven, Receiver, Shared, TICK, ask_where};
use super::segment::{Frame, number_of};
use super::source::{BaseSource, DUMP};
use super::times::NEAR;
use crate::resp::Resp;
use crate::server::Server;
use crate::server::link::Stop;
use chunkstore::pool::locked;
use chunkstore::threads;
use engine::entry::Time;
use engine::growing::{FollowOptions, Growing, Layout, Part, Report, Standing, Tail, time_of};
use engine::source::{Item, SourceErrorKind};
use engine::{Error, ItemError, Monitor, Repository, Result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// What the record calls the latest time of a frame.
const LAST: &str = "last-ms";
/// A segment is closed when it is this long.
const SEGMENT: usize = 8 << 20;

/// A segment of a journal.
struct Segment {
    /// Offset of its first byte, which is its name.
    offset: u64,
    /// When its first frame came.
    time: Time,
    /// Its bytes, while it grows; `None` once the last snapshot has all of it.
    bytes: Option<Tail>,
}

/// Follows `server` until interrupted; `report` hears of every commit.
pub fn follow(
    repo: &Repository,
    server: &Server,
    options: &FollowOptions,
    monitor: &dyn Monitor,
    report: &mut Report<'_>,
) -> Result<()> {
    let layout = Layout {
        kind: super::KIND,
        origin: server.shown.clone(),
        folder: server.folder(),
        base: DUMP,
        stream: "stream",
    };
    let (growing, parts) = Growing::resume(repo, layout, options, monitor)?;
    let mut journal = Journal::new(repo, options, monitor, growing, parts);
    let shared = Arc::new(Shared {
        inbox: Mutex::default(),
        taken: Condvar::new(),
        times: Mutex::default(),
        proven: Mutex::new(journal.proven().unwrap_or_default()),
        stop: AtomicBool::new(false),
        renew: AtomicBool::new(false),
        hang_up: Stop::default(),
        clock: options.clock,
    });
    let history = journal.growing.detail("replication-id");
    let position = (!history.is_empty()).then(|| (history.to_owned(), journal.offset, journal.database));
    if let Some((id, offset, _)) = &position {
        let mut times = shared.times();
        times.resume(id, journal.growing.until_ms, *offset);
        shared.inbox().received = *offset;
    }
    std::thread::scope(|scope| {
        let (theirs, asked, scratch) = (Arc::clone(&shared), server.clone(), options.scratch.clone());
        let receiver = threads::start_in(scope, "esker-redis", move || {
            Receiver { shared: theirs, server: asked, scratch, position, has_connected: false, base: 0 }
                .run();
        });
        let (theirs, asked) = (Arc::clone(&shared), server.clone());
        let both = receiver
            .and_then(|_| threads::start_in(scope, "esker-redis-ask", move || ask_where(&theirs, &asked)));
        let done = match both {
            Ok(_) => journal.commit_all(&shared, report),
            Err(error) => Err(server.error(SourceErrorKind::Unavailable, error).into()),
        };
        shared.stop.store(true, Ordering::Relaxed);
        shared.hang_up.now();
        shared.taken.notify_all();
        done
    })
}

/// The journal as the repository has it, and what is to come into it.
struct Journal<'a> {
    repo: &'a Repository,
    options: &'a FollowOptions,
    monitor: &'a dyn Monitor,
    growing: Growing,
    /// Offset up to which all is durable, and the database that is selected there.
    offset: u64,
    database: u32,
    segments: Vec<Segment>,
    /// The latest time of a frame that is durable.
    dated_ms: u64,
    /// When a new base was asked for last.
    renewed_ms: u64,
    /// The base that all of this stands on, see [`Proven`].
    base: u64,
}

impl<'a> Journal<'a> {
    /// Goes on from what the last snapshot has.
    fn new(
        repo: &'a Repository,
        options: &'a FollowOptions,
        monitor: &'a dyn Monitor,
        growing: Growing,
        parts: Vec<Part>,
    ) -> Self {
        let segment =
            |part: Part| Some(Segment { offset: part.name.parse().ok()?, time: part.time, bytes: None });
        Self {
            repo,
            options,
            monitor,
            offset: growing.number("offset"),
            database: growing.number("database") as u32,
            segments: parts.into_iter().filter_map(segment).collect(),
            dated_ms: growing.number(LAST).max(growing.until_ms),
            renewed_ms: 0,
            base: 0,
            growing,
        }
    }

    /// Commits what comes until interrupted.
    fn commit_all(&mut self, shared: &Shared, report: &mut Report<'_>) -> Result<()> {
        // Half of the interval for waiting, half for the commit itself.
        let wait_ms = (self.options.interval / 2).as_millis() as u64;
        let mut last_ms = 0;
        loop {
            let over = self.monitor.interrupted();
            let now_ms = shared.now_ms();
            let (base, frames, received, attached, trouble) = {
                let mut inbox = shared.inbox();
                if let Some(error) = inbox.fatal.take() {
                    return Err(error.into());
                }
                let due = over
                    || inbox.base.is_some()
                    || inbox.trouble.is_some()
                    || now_ms.saturating_sub(last_ms) >= wait_ms;
                if !due {
                    drop(inbox);
                    std::thread::sleep(TICK);
                    continue;
                }
                inbox.bytes = 0;
                let trouble = inbox.trouble.take();
                (
                    inbox.base.take(),
                    std::mem::take(&mut inbox.frames),
                    inbox.received,
                    inbox.attached,
                    trouble,
                )
            };
            shared.taken.notify_all();
            last_ms = now_ms;
            let new_base = base.is_some();
            if let Some(base) = base {
                self.begin(base)?;
            }
            let mut frames = frames;
            let complete_ms = self.date(&mut frames, received, shared);
            // Of a server at which nothing happens that is worth knowing, too: that it did not.
            let is_known = complete_ms > self.growing.until_ms && self.growing.is_stale(now_ms, self.options);
            let had_base = self.growing.has_base();
            if !frames.is_empty() || is_known && had_base {
                self.commit(&frames, complete_ms)?;
            }
            if (had_base || new_base) && !self.growing.has_base() {
                // It was forgotten, and what comes has nothing to stand on.
                self.segments.clear();
                shared.renew.store(true, Ordering::Relaxed);
            }
            if let Some(proven) = self.proven() {
                *locked(&shared.proven) = proven;
            }
            let since_base = self.offset.saturating_sub(self.growing.number("base-offset"));
            if let Some(standing) = self.growing.standing(self.offset, since_base, self.options) {
                report(&Standing { attached, new_base, ..standing }, trouble.as_deref());
                let asked =
                    u128::from(now_ms.saturating_sub(self.renewed_ms)) <= self.options.base_every.as_millis();
                if self.growing.is_old(self.options) && attached && !new_base && !asked {
                    self.renewed_ms = now_ms;
                    shared.renew.store(true, Ordering::Relaxed);
                }
            } else if let Some(trouble) = trouble {
                self.monitor.note(&format!("there is no base yet: {trouble}; trying again"));
            }
            if over {
                return Err(Error::Interrupted);
            }
        }
    }

    /// What the server may be told of, if all that is here can be restored by its moment: not what has no proven one yet, or
    /// belongs to a snapshot that was forgotten.
    fn proven(&self) -> Option<Proven> {
        let is_proven = self.growing.has_base() && self.dated_ms <= self.growing.until_ms;
        is_proven.then_some(Proven { base: self.base, offset: self.offset })
    }

    /// Gives frames the time of their execution, as far as it is known; returns up to when all has come that was executed.
    fn date(&mut self, frames: &mut Vec<Frame>, received: u64, shared: &Shared) -> u64 {
        let times = shared.times();
        let last = times.complete(received);
        // A frame may have been made durable with the time of its arrival, which may be later than that of a question whose
        // answer covers it: such an answer proves nothing about that moment.
        let complete = last.filter(|ms| *ms >= self.dated_ms);
        // One that brings commands of before and after an answer would have the time of the last.
        let offsets = times.offsets();
        *frames = std::mem::take(frames).into_iter().flat_map(|frame| frame.cut(&offsets)).collect();
        for frame in frames {
            // What came after the last answer was executed after its question. Dated so, it is no later than the moment
            // that is complete, and is restored with it.
            let near = last.filter(|ms| frame.time_ms.saturating_sub(*ms) <= NEAR);
            let came_ms = frame.time_ms.min(near.unwrap_or(u64::MAX));
            frame.time_ms = times.of(frame.end(), came_ms).max(self.dated_ms);
            self.dated_ms = frame.time_ms;
        }
        complete.unwrap_or(0)
    }

    /// Begins anew: the journal up to here stays as it is.
    fn begin(&mut self, base: NewBase) -> Result<()> {
        if let Some(why) = base.why {
            let message = format!("{why}; a new base follows");
            let item = self.growing.layout.origin.clone();
            self.monitor.error(ItemError { during: "stream", item, message });
        }
        let details = [
            ("order", "canonical".to_owned()),
            ("replication-id", base.replication_id),
            ("offset", base.offset.to_string()),
            ("base-offset", base.offset.to_string()),
            ("database", 0.to_string()),
        ];
        let mut details: BTreeMap<String, String> =
            details.map(|(name, value)| (name.to_owned(), value)).into();
        if base.gathered.uses() {
            details.insert("usage".into(), "true".into());
        }
        let (folder, time) = (&self.growing.layout.folder, time_of(base.time_ms));
        let mut source = BaseSource::new(folder, *base.gathered, time, details, &self.options.scratch);
        self.growing.begin(self.repo, &mut source, base.time_ms, self.options, self.monitor)?;
        self.segments.clear();
        (self.offset, self.database, self.dated_ms) = (base.offset, 0, base.time_ms);
        self.base = base.number;
        Ok(())
    }

    /// Makes durable what came.
    fn commit(&mut self, frames: &[Frame], complete_ms: u64) -> Result<()> {
        self.append(frames);
        let database = u64::from(self.database);
        for (name, value) in [("offset", self.offset), ("database", database), (LAST, self.dated_ms)] {
            self.growing.details.insert(name.into(), value.to_string());
        }
        let segments = &self.segments;
        let item = |layout: &Layout, segment: &Segment| {
            // As many digits as the largest offset has, so that names order as offsets do.
            let path = layout.part(&format!("{:020}", segment.offset));
            match &segment.bytes {
                None => Item::taken_over(&path, segment.time),
                Some(bytes) => bytes.item(&path, segment.time),
            }
        };
        let parts = |layout: &Layout| Ok(segments.iter().map(|segment| item(layout, segment)).collect());
        self.growing.commit(self.repo, complete_ms, &parts, self.options, self.monitor)?;
        let closed = |segment: &&mut Segment| {
            segment.bytes.as_ref().is_some_and(|bytes| bytes.as_ref().len() >= SEGMENT)
        };
        self.segments.iter_mut().filter(closed).for_each(|segment| segment.bytes = None);
        Ok(())
    }

    /// Puts frames into the segment that grows, or begins one.
    fn append(&mut self, frames: &[Frame]) {
        for frame in frames {
            let growing = self.segments.last_mut().and_then(|segment| segment.bytes.as_mut());
            match growing.filter(|bytes| bytes.as_ref().len() < SEGMENT) {
                Some(bytes) => frame.encode(bytes.bytes_mut()),
                None => {
                    let mut bytes = Tail::default();
                    frame.encode(bytes.bytes_mut());
                    let (offset, time) = (frame.offset, time_of(frame.time_ms));
                    self.segments.push(Segment { offset, time, bytes: Some(bytes) });
                }
            }
            self.offset = frame.end();
        }
        if let Some(last) = frames.last() {
            self.database = selected_behind(last);
        }
    }
}

/// The database that is selected behind a frame.
fn selected_behind(frame: &Frame) -> u32 {
    let mut database = frame.database;
    // What was stored was read before.
    let _ = Resp::default().feed(&frame.bytes, &mut |_, command| {
        if command.name == b"SELECT" {
            database = number_of(&command.first);
        }
    });
    database
}
