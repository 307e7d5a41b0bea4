//! Staying attached: one thread takes what the server sends, another asks it where it is, and the caller's
//! commits what has come, every few seconds.

use super::receiver::{NewBase, Receiver, Shared, TICK, ask_where, number_of};
use super::replay::span;
use super::segment::Frame;
use super::source::{Base, JournalSource, SegmentEntry};
use crate::backup::{BackupOptions, backup};
use crate::entry::Time;
use crate::monitor::Tally;
use crate::resp::Resp;
use crate::snapshot::Listed;
use crate::source::Clock;
use crate::source::redis::Server;
use crate::source::redis::link::Stop;
use crate::{Error, Monitor, Repository, Result};
use chunkstore::ObjectId;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Choices for a journal.
#[derive(Clone)]
pub struct FollowOptions {
    /// A recovery point is at most so far behind.
    pub interval: Duration,
    /// A new base is made after so long.
    pub base_every: Duration,
    /// What every snapshot of it says; its tags tell journals apart from other snapshots of the server.
    pub backup: BackupOptions,
    /// A private folder for what does not fit into memory.
    pub scratch: PathBuf,
    /// Tells the time.
    pub clock: Clock,
}

/// Where a journal stands after a commit.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The snapshot that holds it.
    pub snapshot: ObjectId,
    /// The last moment that can be restored, in milliseconds since 1970.
    pub until_ms: u64,
    /// How far that was behind when the commit was done.
    pub lag: Duration,
    /// Replication offset up to which all is durable.
    pub offset: u64,
    /// Bytes of commands since the base.
    pub stream_bytes: u64,
    /// Whether the server is attached.
    pub attached: bool,
    /// Whether this commit brought a new base.
    pub new_base: bool,
}

/// A segment is closed when it is this long.
const SEGMENT: usize = 8 << 20;

/// Follows `server` until interrupted; `report` hears of every commit.
pub fn follow(
    repo: &Repository,
    server: &Server,
    options: &FollowOptions,
    monitor: &dyn Monitor,
    report: &mut dyn FnMut(&Standing, Option<&str>),
) -> Result<()> {
    let mut journal = Journal::resume(repo, server, options, monitor)?;
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
    if journal.until_ms > 0 {
        shared.times().add(journal.until_ms, journal.offset);
    }
    let position = (!journal.replication_id.is_empty())
        .then(|| (journal.replication_id.clone(), journal.offset, journal.database));
    std::thread::scope(|scope| {
        let (theirs, asked, scratch) = (Arc::clone(&shared), server.clone(), options.scratch.clone());
        scope.spawn(move || Receiver { shared: theirs, server: asked, scratch, position }.run());
        let (theirs, asked) = (Arc::clone(&shared), server.clone());
        scope.spawn(move || ask_where(&theirs, &asked));
        let done = journal.commit_all(repo, &shared, options, monitor, report);
        shared.stop.store(true, Ordering::Relaxed);
        shared.hang_up.now();
        shared.taken.notify_all();
        done
    })
}

/// The journal as the repository has it.
#[derive(Default)]
struct Journal {
    folder: String,
    origin: String,
    snapshot: Option<ObjectId>,
    replication_id: String,
    /// Offset and time up to which all is durable, and the database that is selected there.
    offset: u64,
    until_ms: u64,
    database: u32,
    base_time: Time,
    base_ms: u64,
    base_offset: u64,
    usage: bool,
    segments: Vec<SegmentEntry>,
}

/// Milliseconds as a time of an entry; never on a whole second, so that it counts as fine-grained.
fn time_of(ms: u64) -> Time {
    Time { seconds: (ms / 1000) as i64, nanoseconds: (ms % 1000) as u32 * 1_000_000 + 1 }
}

impl Journal {
    /// Where the last journal of this server stopped, if there is one.
    fn resume(
        repo: &Repository,
        server: &Server,
        options: &FollowOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        repo.sync_index(monitor)?;
        let folder = server.folder();
        let mut journal = Self { folder: folder.clone(), origin: server.shown.clone(), ..Self::default() };
        let all = repo.snapshots(monitor)?;
        let path = format!("/{folder}/stream");
        let mut own: Vec<Listed> = all
            .into_iter()
            .filter(|listed| {
                listed.snapshot.hostname == options.backup.hostname && listed.snapshot.paths.contains(&path)
            })
            .collect();
        let Some(last) = own.pop() else { return Ok(journal) };
        // One that was replaced by a longer one just before its writer died.
        let replaced: Vec<ObjectId> = own
            .iter()
            .filter(|listed| {
                span(&listed.snapshot).map(|span| span.from_ms)
                    == span(&last.snapshot).map(|span| span.from_ms)
            })
            .map(|listed| listed.id)
            .collect();
        if !replaced.is_empty() {
            repo.forget(&replaced)?;
        }
        let details = last.snapshot.sources.first().map(|source| source.details.clone()).unwrap_or_default();
        let number =
            |name: &str| details.get(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        journal.snapshot = Some(last.id);
        journal.replication_id = details.get("replication-id").cloned().unwrap_or_default();
        (journal.offset, journal.until_ms) = (number("offset"), number("until-ms"));
        (journal.base_ms, journal.base_offset) = (number("base-ms"), number("base-offset"));
        journal.database = number("database") as u32;
        journal.usage = details.contains_key("usage");
        let mut damaged = None;
        crate::manifest::for_each_entry(
            repo.store(),
            &last.snapshot.manifest,
            &mut |damage| damaged = Some(damage.error),
            &mut |listed| {
                let path = String::from_utf8_lossy(&listed.entry.path).into_owned();
                if path.ends_with("/dump.rdb") {
                    journal.base_time = listed.entry.mtime;
                } else if let Some(name) = path.strip_prefix(&format!("{folder}/stream/")) {
                    let offset = name.parse().unwrap_or_default();
                    journal.segments.push(SegmentEntry { offset, time: listed.entry.mtime, bytes: None });
                }
                Ok(())
            },
        )?;
        if let Some(error) = damaged {
            // It stays as it is, and a new one begins.
            let message = format!("the journal so far cannot be continued: {error}; a new base follows");
            monitor.error(crate::ItemError { during: "stream", item: last.id.to_string(), message });
            return Ok(Self { folder, origin: server.shown.clone(), ..Self::default() });
        }
        Ok(journal)
    }

    /// Commits what comes until interrupted.
    fn commit_all(
        &mut self,
        repo: &Repository,
        shared: &Shared,
        options: &FollowOptions,
        monitor: &dyn Monitor,
        report: &mut dyn FnMut(&Standing, Option<&str>),
    ) -> Result<()> {
        // Half of the interval for waiting, half for the commit itself.
        let wait_ms = (options.interval / 2).as_millis() as u64;
        let mut last_ms = 0;
        loop {
            let over = monitor.interrupted();
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
            let is_stale = now_ms.saturating_sub(self.until_ms) >= options.interval.as_millis() as u64;
            let is_known = self.snapshot.is_some() && is_stale && complete_ms > self.until_ms;
            if new_base || !frames.is_empty() || is_known {
                self.commit(repo, base, &frames, complete_ms, options, monitor)?;
                shared.durable.store(self.offset, Ordering::Relaxed);
            }
            if let Some(snapshot) = self.snapshot {
                let now_ms = shared.now_ms();
                let standing = Standing {
                    snapshot,
                    until_ms: self.until_ms,
                    lag: Duration::from_millis(now_ms.saturating_sub(self.until_ms)),
                    offset: self.offset,
                    stream_bytes: self.offset - self.base_offset,
                    attached,
                    new_base,
                };
                report(&standing, trouble.as_deref());
                if now_ms.saturating_sub(self.base_ms) > options.base_every.as_millis() as u64
                    && attached
                    && !new_base
                {
                    self.base_ms = now_ms;
                    shared.renew.store(true, Ordering::Relaxed);
                }
            }
            if over {
                return Err(Error::Interrupted);
            }
        }
    }

    /// One commit: a snapshot with all that there is, in place of the one before.
    fn commit(
        &mut self,
        repo: &Repository,
        base: Option<NewBase>,
        frames: &[Frame],
        complete_ms: u64,
        options: &FollowOptions,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let (mut replaced, parent) = (self.snapshot, self.snapshot);
        let base = match base {
            Some(base) => {
                // The journal up to here stays as it is; the new base is told apart from it by its time.
                replaced = None;
                self.segments.clear();
                self.replication_id = base.replication_id;
                (self.base_ms, self.base_time) = (base.time_ms, time_of(base.time_ms));
                (self.base_offset, self.offset, self.until_ms) = (base.offset, base.offset, base.time_ms);
                self.database = 0;
                self.usage = base.gathered.uses();
                Base::New(base.gathered)
            }
            None => Base::Old { usage: self.usage },
        };
        self.append(frames);
        self.until_ms = self.until_ms.max(complete_ms);
        let mut details: BTreeMap<String, String> = [
            ("order", "canonical".to_owned()),
            ("replication-id", self.replication_id.clone()),
            ("offset", self.offset.to_string()),
            ("until-ms", self.until_ms.to_string()),
            ("base-ms", self.base_ms.to_string()),
            ("base-offset", self.base_offset.to_string()),
            ("database", self.database.to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if self.usage {
            details.insert("usage".into(), "true".into());
        }
        let time = jiff::Timestamp::from_millisecond(self.base_ms as i64).unwrap_or_default();
        let backup_options = BackupOptions { time, parent, ..options.backup.clone() };
        let mut base = Some(base);
        let made = loop {
            let usage = self.usage;
            let base = base.take().unwrap_or(Base::Old { usage });
            let can_repeat = matches!(base, Base::Old { .. });
            let segments = self.segments.clone();
            let mut source = JournalSource::new(
                &self.folder,
                base,
                self.base_time,
                segments,
                details.clone(),
                &self.origin,
                &options.scratch,
            );
            // A tally of its own: a commit every few seconds would count the base each time; and one that was begun
            // is finished, whatever the user wants meanwhile.
            let tally = Tally::default();
            let made = backup(repo, &mut source, &backup_options, &tally);
            tally.errors().into_iter().for_each(|error| monitor.error(error));
            match made {
                // A prune took this session for dead; there is nothing to read again but memory.
                Err(Error::Store(chunkstore::Error::Fenced { .. })) if can_repeat => {}
                made => break made?,
            }
        };
        if let Some(replaced) = replaced {
            repo.forget(&[replaced])?;
        }
        self.snapshot = made.snapshot;
        for segment in &mut self.segments {
            if segment.bytes.as_ref().is_some_and(|bytes| bytes.len() >= SEGMENT) {
                segment.bytes = None;
            }
        }
        Ok(())
    }

    /// Puts frames into the segment that grows, or begins one.
    fn append(&mut self, frames: &[Frame]) {
        for frame in frames {
            let growing = self.segments.last_mut().and_then(|segment| segment.bytes.as_mut());
            match growing.filter(|bytes| bytes.len() < SEGMENT) {
                Some(bytes) => frame.encode(Arc::make_mut(bytes)),
                None => {
                    let mut bytes = vec![];
                    frame.encode(&mut bytes);
                    // A second early: entries that changed just before the last snapshot do not count as unchanged.
                    let (offset, time) = (frame.offset, time_of(frame.time_ms.saturating_sub(1000)));
                    self.segments.push(SegmentEntry { offset, time, bytes: Some(Arc::new(bytes)) });
                }
            }
            self.offset = frame.end();
            self.until_ms = self.until_ms.max(frame.time_ms);
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
