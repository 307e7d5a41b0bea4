//! Taking what the server sends: one thread for the commands, another that asks the server where it is.

use super::segment::{FRAME, Frame};
use super::times::Times;
use crate::rdb::canonical::{Gathered, gather};
use crate::resp::Resp;
use crate::source::rdb::{Checked, told};
use crate::source::redis::Server;
use crate::source::redis::link::{HANG_UP, Link, Stop, is_silence};
use crate::source::redis::transfer::Transfer;
use crate::source::{Clock, SourceError, SourceErrorKind};
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two tries to attach, at first and at most.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Between two looks at the clock and at what was asked of us.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// Between two questions where the server is.
const POLL: Duration = Duration::from_millis(100);
/// A server hears of our offset at least so often; `repl-timeout` is a minute by default.
const ACK_EVERY: Duration = Duration::from_secs(1);
/// A server that says nothing for so long is gone: it pings every ten seconds (`repl-ping-replica-period`).
const SILENCE: Duration = Duration::from_secs(60);
/// What may wait for a commit, in bytes; then the server is no longer read from.
const INBOX: usize = 64 << 20;
/// What came and is not committed.
#[derive(Default)]
pub(super) struct Inbox {
    pub(super) base: Option<NewBase>,
    pub(super) frames: Vec<Frame>,
    pub(super) bytes: usize,
    pub(super) attached: bool,
    /// Up to when it is known that nothing else was executed, in milliseconds since 1970.
    pub(super) complete_ms: u64,
    /// A failure that trying again does not mend.
    pub(super) fatal: Option<SourceError>,
    /// The last that may be mended by it.
    pub(super) trouble: Option<String>,
}

pub(super) struct NewBase {
    pub(super) gathered: Box<Gathered>,
    pub(super) time_ms: u64,
    pub(super) replication_id: String,
    pub(super) offset: u64,
}

/// What the threads share.
pub(super) struct Shared {
    pub(super) inbox: Mutex<Inbox>,
    pub(super) taken: Condvar,
    pub(super) times: Mutex<Times>,
    pub(super) durable: AtomicU64,
    pub(super) stop: AtomicBool,
    /// Asks for a new base.
    pub(super) renew: AtomicBool,
    pub(super) hang_up: Stop,
    pub(super) clock: Clock,
}

impl Shared {
    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(super) fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(super) fn now_ms(&self) -> u64 {
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

/// Asks the server where it is, so that commands that come late get their own time.
pub(super) fn ask_where(shared: &Shared, server: &Server) {
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
pub(super) struct Receiver {
    pub(super) shared: Arc<Shared>,
    pub(super) server: Server,
    pub(super) scratch: PathBuf,
    /// Where to go on: identity of the history, offset, selected database.
    pub(super) position: Option<(String, u64, u32)>,
}

impl Receiver {
    pub(super) fn run(mut self) {
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
                    && !["LOADING", "MASTERDOWN", "NOMASTERLINK"].iter().any(|why| text.contains(why))
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
                Ok(0) => return Err(self.server.error(SourceErrorKind::Unavailable, HANG_UP)),
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
                Err(error) => {
                    return Err(self.server.error(SourceErrorKind::Unavailable, link.told(&error)));
                }
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

/// A database's number as `SELECT` has it.
pub(super) fn number_of(text: &[u8]) -> u32 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}
