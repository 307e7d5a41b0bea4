//! Staying attached: one thread takes what the server sends, another asks it where it is, and the caller's
//! commits what has come, every few seconds.

use super::segment::{FRAME, Frame};
use super::source::{Base, JournalSource, SegmentEntry};
use super::times::Times;
use crate::backup::{BackupOptions, backup};
use crate::entry::Time;
use crate::monitor::Tally;
use crate::rdb::canonical::{Gathered, gather};
use crate::resp::Resp;
use crate::source::rdb::{Checked, told};
use crate::source::redis::Server;
use crate::source::redis::link::{Link, Stop, is_silence};
use crate::source::redis::transfer::Transfer;
use crate::source::{Clock, SourceError, SourceErrorKind};
use crate::{Error, Monitor, Repository, Result};
use chunkstore::ObjectId;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
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

/// Between two tries to attach, at first and at most.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Between two looks at the clock and at what was asked of us.
const TICK: Duration = Duration::from_millis(50);
/// Between two questions where the server is.
const POLL: Duration = Duration::from_millis(100);
/// A server hears of our offset at least so often; `repl-timeout` is a minute by default.
const ACK_EVERY: Duration = Duration::from_secs(1);
/// A server that says nothing for so long is gone: it pings every ten seconds (`repl-ping-replica-period`).
const SILENCE: Duration = Duration::from_secs(60);
/// What may wait for a commit, in bytes; then the server is no longer read from.
const INBOX: usize = 64 << 20;
/// A segment is closed when it is this long.
const SEGMENT: usize = 8 << 20;

/// What came and is not committed.
#[derive(Default)]
struct Inbox {
    base: Option<NewBase>,
    frames: Vec<Frame>,
    bytes: usize,
    attached: bool,
    /// Up to when it is known that nothing else was executed, in milliseconds since 1970.
    complete_ms: u64,
    /// A failure that trying again does not mend.
    fatal: Option<SourceError>,
    /// The last that may be mended by it.
    trouble: Option<String>,
}

struct NewBase {
    gathered: Box<Gathered>,
    time_ms: u64,
    replication_id: String,
    offset: u64,
}

/// What the threads share.
struct Shared {
    inbox: Mutex<Inbox>,
    taken: Condvar,
    times: Mutex<Times>,
    durable: AtomicU64,
    stop: AtomicBool,
    /// Asks for a new base.
    renew: AtomicBool,
    hang_up: Stop,
    clock: Clock,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn now_ms(&self) -> u64 {
        u64::try_from((self.clock)().as_millisecond()).unwrap_or_default()
    }
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
    fn sleep(&self, long: Duration) {
        let mut left = long;
        while !left.is_zero() && !self.stopped() {
            let step = left.min(TICK);
            std::thread::sleep(step);
            left -= step;
        }
    }
}

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

/// Asks the server where it is, so that commands that come late get their own time.
fn ask_where(shared: &Shared, server: &Server) {
    while !shared.stopped() {
        let Ok(mut connection) = server.connect() else {
            shared.sleep(RETRY_MIN);
            continue;
        };
        while !shared.stopped() && ask_once(shared, &mut connection) {
            shared.sleep(POLL);
        }
    }
}

/// Whether the server answered.
fn ask_once(shared: &Shared, connection: &mut redis::Connection) -> bool {
    let info: redis::RedisResult<String> = redis::cmd("INFO").arg("replication").query(connection);
    let Ok(info) = info else { return false };
    let offset = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:")?.trim().parse().ok());
    if let Some(offset) = offset {
        shared.times().add(shared.now_ms(), offset);
    }
    true
}

/// Takes what the server sends.
struct Receiver {
    shared: Arc<Shared>,
    server: Server,
    scratch: PathBuf,
    /// Where to go on: identity of the history, offset, selected database.
    position: Option<(String, u64, u32)>,
}

impl Receiver {
    fn run(mut self) {
        let mut pause = RETRY_MIN;
        while !self.shared.stopped() {
            let before = self.position.clone();
            let ended = self.attach();
            let mut inbox = self.shared.inbox();
            inbox.attached = false;
            if let Err(error) = ended {
                let text = error.to_string();
                // Wrong passwords and missing rights do not come right by themselves.
                if ["AUTH failed", "NOPERM", "resynchronisation refused", "corrupt RDB"]
                    .iter()
                    .any(|why| text.contains(why))
                    && !text.contains("LOADING")
                    && !text.contains("MASTERDOWN")
                {
                    inbox.fatal = Some(error);
                    return;
                }
                inbox.trouble = Some(text);
            }
            drop(inbox);
            pause = if self.position == before { (pause * 2).min(RETRY_MAX) } else { RETRY_MIN };
            self.shared.sleep(pause);
        }
    }

    /// One connection, from its beginning to its end.
    fn attach(&mut self) -> std::result::Result<(), SourceError> {
        let mut link = Link::open(&self.server, &self.shared.hang_up)?;
        link.introduce()?;
        let reply = match &self.position {
            Some((id, offset, _)) => {
                let next = (offset + 1).to_string();
                link.command(&[b"PSYNC", id.as_bytes(), next.as_bytes()])?
            }
            None => link.command(&[b"PSYNC", b"?", b"-1"])?,
        };
        if let Some(id) = reply.strip_prefix("+CONTINUE") {
            if let (Some(position), false) = (&mut self.position, id.trim().is_empty()) {
                position.0 = id.trim().to_owned();
            }
        } else {
            link = self.take_base(link, &reply)?;
        }
        // What was executed while nobody listened comes now, all at once: its time lies between the last that is known
        // and this.
        if let Ok(mut connection) = self.server.connect() {
            ask_once(&self.shared, &mut connection);
        }
        self.shared.inbox().attached = true;
        self.listen(link)
    }

    fn take_base(&mut self, link: Link, reply: &str) -> std::result::Result<Link, SourceError> {
        let mut transfer = Transfer::follow(link, reply)?;
        let time_ms = self.shared.now_ms();
        let (id, offset) = (transfer.replication_id.clone(), transfer.offset);
        *self.shared.times() = Times::default();
        self.shared.times().add(time_ms, offset);
        let mut checked = Checked::new(&mut transfer);
        let gathered =
            gather(&mut checked, &self.scratch).map_err(|error| told(error, &self.server.shown))?;
        checked.finish(&self.server.shown).map_err(|error| told(error, &self.server.shown))?;
        self.position = Some((id.clone(), offset, 0));
        let mut inbox = self.shared.inbox();
        // What came before belongs to the base before, and is committed with it.
        while inbox.base.is_some() || !inbox.frames.is_empty() {
            if self.shared.stopped() {
                return Ok(transfer.into_link());
            }
            let wait = self.shared.taken.wait_timeout(inbox, TICK);
            inbox = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        inbox.base = Some(NewBase { gathered: Box::new(gathered), time_ms, replication_id: id, offset });
        inbox.complete_ms = time_ms;
        Ok(transfer.into_link())
    }

    /// The commands, until the connection ends or a new base is wanted.
    fn listen(&mut self, mut link: Link) -> std::result::Result<(), SourceError> {
        link.set_patience(TICK)?;
        let Some((_, start, database)) = self.position.clone() else { return Ok(()) };
        let mut resp = Resp::default();
        let mut frame = Frame { offset: start, database, ..Frame::default() };
        let mut database = database;
        let mut buffer = vec![0; 256 << 10];
        let (mut acknowledged_ms, mut heard_ms) = (0, self.shared.now_ms());
        loop {
            if self.shared.stopped() {
                return Ok(());
            }
            if self.shared.renew.swap(false, Ordering::Relaxed) {
                self.position = None;
                return Ok(());
            }
            let now_ms = self.shared.now_ms();
            if now_ms.saturating_sub(acknowledged_ms) >= ACK_EVERY.as_millis() as u64 {
                acknowledged_ms = now_ms;
                let durable = self.shared.durable.load(Ordering::Relaxed).to_string();
                link.send(&[b"REPLCONF", b"ACK", durable.as_bytes()])?;
            }
            let len = match link.read(&mut buffer) {
                Ok(0) => return Err(self.server.error(SourceErrorKind::Unavailable, "the server hung up")),
                Ok(len) => len,
                Err(error) if is_silence(&error) => {
                    if now_ms.saturating_sub(heard_ms) > SILENCE.as_millis() as u64 {
                        return Err(self
                            .server
                            .error(SourceErrorKind::Unavailable, "the server fell silent"));
                    }
                    // Nothing came, so nothing was executed.
                    if resp.is_whole() && frame.bytes.is_empty() {
                        self.shared.inbox().complete_ms = now_ms;
                    }
                    continue;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.server.error(SourceErrorKind::Unavailable, error)),
            };
            heard_ms = self.shared.now_ms();
            let part = &buffer[..len];
            let mut from = 0;
            let mut frames = vec![];
            // Line feeds before the first command keep the connection alive and count for nothing.
            let lead = if frame.bytes.is_empty() && resp.is_whole() && frame.offset == start && start_of(part)
            {
                part.iter().take_while(|byte| **byte == b'\n').count()
            } else {
                0
            };
            let part = &part[lead..];
            let mut in_transaction = resp.in_transaction();
            let fed = resp.feed(part, &mut |at, command| {
                match command.name.as_slice() {
                    b"SELECT" => {
                        database = number_of(&command.first);
                    }
                    b"MULTI" => in_transaction = true,
                    b"EXEC" => in_transaction = false,
                    _ => {}
                }
                if !in_transaction && frame.bytes.len() + (at - from) >= FRAME {
                    frame.bytes.extend_from_slice(&part[from..at]);
                    from = at;
                    let next = Frame { offset: frame.end(), database, ..Frame::default() };
                    frames.push(std::mem::replace(&mut frame, next));
                }
            });
            fed.map_err(|why| self.server.error(SourceErrorKind::Incomplete, format!("replication: {why}")))?;
            frame.bytes.extend_from_slice(&part[from..]);
            if resp.is_whole() && !frame.bytes.is_empty() {
                let next = Frame { offset: frame.end(), database, ..Frame::default() };
                frames.push(std::mem::replace(&mut frame, next));
            }
            if !frames.is_empty() {
                self.hand_over(frames, database);
            }
        }
    }

    /// Stamps frames and puts them where the commits take them.
    fn hand_over(&mut self, mut frames: Vec<Frame>, database: u32) {
        let now_ms = self.shared.now_ms();
        {
            let times = self.shared.times();
            for frame in &mut frames {
                frame.time_ms = times.of(frame.end(), now_ms);
            }
        }
        let mut inbox = self.shared.inbox();
        while inbox.bytes > INBOX && !self.shared.stopped() {
            let wait = self.shared.taken.wait_timeout(inbox, TICK);
            inbox = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        // Time goes on, whatever was estimated.
        let mut last_ms = inbox.frames.last().map_or(0, |frame| frame.time_ms);
        for frame in &mut frames {
            frame.time_ms = frame.time_ms.max(last_ms);
            last_ms = frame.time_ms;
            inbox.bytes += frame.bytes.len();
        }
        inbox.complete_ms = last_ms;
        if let (Some(position), Some(last)) = (&mut self.position, frames.last()) {
            (position.1, position.2) = (last.end(), database);
        }
        inbox.frames.append(&mut frames);
    }
}

/// Whether a stretch begins with a line feed, which no command does.
fn start_of(part: &[u8]) -> bool {
    part.first() == Some(&b'\n')
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
        let last = all.into_iter().rev().find(|listed| {
            listed.snapshot.hostname == options.backup.hostname && listed.snapshot.paths.contains(&path)
        });
        let Some(last) = last else { return Ok(journal) };
        let details = last.snapshot.sources.first().map(|source| source.details.clone()).unwrap_or_default();
        let number =
            |name: &str| details.get(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        journal.snapshot = Some(last.id);
        journal.replication_id = details.get("replication-id").cloned().unwrap_or_default();
        (journal.offset, journal.until_ms) = (number("offset"), number("until-ms"));
        (journal.base_ms, journal.base_offset) = (number("base-ms"), number("base-offset"));
        journal.database = number("database") as u32;
        journal.usage = details.contains_key("usage");
        crate::manifest::for_each_entry(
            repo.store(),
            &last.snapshot.manifest,
            // What is lost cannot be taken over: the commit will say so.
            &mut |_| {},
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

/// A database's number as `SELECT` has it.
fn number_of(text: &[u8]) -> u32 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}
