//! Staying attached: one thread takes what the server sends, another asks it where it is, and the caller's
//! commits what has come, every few seconds.

use super::receiver::{NewBase, Receiver, Shared, TICK, ask_where, number_of};
use super::segment::Frame;
use super::source::{BaseSource, DUMP};
use crate::entry::Time;
use crate::growing::{
    FollowOptions, Growing, Layout, Part, Report, Standing, Tail, settled_time_of, time_of,
};
use crate::resp::Resp;
use crate::source::Item;
use crate::source::redis::Server;
use crate::source::redis::link::Stop;
use crate::{Error, Monitor, Repository, Result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

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
        durable: AtomicU64::new(journal.offset),
        stop: AtomicBool::new(false),
        renew: AtomicBool::new(false),
        hang_up: Stop::default(),
        clock: options.clock,
    });
    if journal.growing.until_ms > 0 {
        shared.times().add(journal.growing.until_ms, journal.offset);
    }
    let history = journal.growing.detail("replication-id");
    let position = (!history.is_empty()).then(|| (history.to_owned(), journal.offset, journal.database));
    std::thread::scope(|scope| {
        let (theirs, asked, scratch) = (Arc::clone(&shared), server.clone(), options.scratch.clone());
        scope.spawn(move || Receiver { shared: theirs, server: asked, scratch, position }.run());
        let (theirs, asked) = (Arc::clone(&shared), server.clone());
        scope.spawn(move || ask_where(&theirs, &asked));
        let done = journal.commit_all(&shared, report);
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
    /// When a new base was asked for last.
    renewed_ms: u64,
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
            renewed_ms: 0,
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
            let (base, frames, complete_ms, attached, trouble) = {
                let mut inbox = shared.inbox();
                if let Some(error) = inbox.fatal.take() {
                    return Err(error.into());
                }
                let due = over || inbox.base.is_some() || now_ms.saturating_sub(last_ms) >= wait_ms;
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
                    inbox.complete_ms,
                    inbox.attached,
                    trouble,
                )
            };
            shared.taken.notify_all();
            last_ms = now_ms;
            let new_base = base.is_some();
            // Of a server at which nothing happens that is worth knowing, too: that it did not.
            let is_known = complete_ms > self.growing.until_ms && self.growing.is_stale(now_ms, self.options);
            if let Some(base) = base {
                self.begin(base)?;
            }
            if !frames.is_empty() || is_known && self.growing.has_base() {
                self.commit(&frames, complete_ms)?;
            }
            shared.durable.store(self.offset, Ordering::Relaxed);
            let since_base = self.offset.saturating_sub(self.growing.number("base-offset"));
            if let Some(standing) = self.growing.standing(self.offset, since_base, self.options) {
                report(&Standing { attached, new_base, ..standing }, trouble.as_deref());
                let asked =
                    u128::from(now_ms.saturating_sub(self.renewed_ms)) <= self.options.base_every.as_millis();
                if self.growing.is_old(self.options) && attached && !new_base && !asked {
                    self.renewed_ms = now_ms;
                    shared.renew.store(true, Ordering::Relaxed);
                }
            }
            if over {
                return Err(Error::Interrupted);
            }
        }
    }

    /// Begins anew: the journal up to here stays as it is.
    fn begin(&mut self, base: NewBase) -> Result<()> {
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
        (self.offset, self.database) = (base.offset, 0);
        Ok(())
    }

    /// Makes durable what came.
    fn commit(&mut self, frames: &[Frame], complete_ms: u64) -> Result<()> {
        self.append(frames);
        for (name, value) in [("offset", self.offset), ("database", u64::from(self.database))] {
            self.growing.details.insert(name.into(), value.to_string());
        }
        let last_ms = frames.iter().map(|frame| frame.time_ms).max().unwrap_or_default();
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
        self.growing.commit(self.repo, complete_ms.max(last_ms), &parts, self.options, self.monitor)?;
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
                    let (offset, time) = (frame.offset, settled_time_of(frame.time_ms));
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
