//! Receiving: one thread for the commands, another that requests the server's offset.

use super::segment::{FRAME, Frame, number_of};
use super::times::Times;
use crate::dump::{Checked, told};
use crate::rdb::canonical::{Gathered, gather};
use crate::resp::Resp;
use crate::server::Server;
use crate::server::client::Client;
use crate::server::link::{HANG_UP, Link, Stop, is_silence};
use crate::server::transfer::Transfer;
use chunkstore::pool::locked;
use engine::source::{Clock, SourceError, SourceErrorKind, Status};
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two tries to attach, at first and at most.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Between two looks at the clock and at what was asked of us.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// Between two questions where the server is.
const POLL: Duration = Duration::from_millis(100);
/// A server hears of our offset when it changes, and at least so often; `repl-timeout` is a minute by default.
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
    /// Replication offset up to which frames have come.
    pub(super) received: u64,
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
    /// Which one it is, see [`Proven`].
    pub(super) number: u64,
    /// Why the server began anew, if there was something to go on from.
    pub(super) why: Option<String>,
}

/// Up to which offset of which base's history everything is durable, and belongs to a moment that can be restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Proven {
    /// Counts the bases that came in this process; 0 is what an earlier one left.
    pub(super) base: u64,
    pub(super) offset: u64,
}

/// What the threads share.
pub(super) struct Shared {
    pub(super) inbox: Mutex<Inbox>,
    pub(super) taken: Condvar,
    pub(super) times: Mutex<Times>,
    /// What the server may be told of.
    pub(super) proven: Mutex<Proven>,
    pub(super) stop: AtomicBool,
    /// Asks for a new base.
    pub(super) renew: AtomicBool,
    pub(super) hang_up: Stop,
    pub(super) clock: Clock,
}

impl Shared {
    pub(super) fn inbox(&self) -> MutexGuard<'_, Inbox> {
        locked(&self.inbox)
    }
    pub(super) fn times(&self) -> MutexGuard<'_, Times> {
        locked(&self.times)
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

/// Asks the server where it is: commands that come late get their own time, and a moment counts as complete only if an
/// answer to a later question says so.
pub(super) fn ask_where(shared: &Shared, server: &Server) {
    while !shared.stopped() {
        let Ok(mut connection) = server.connect() else {
            shared.sleep(RETRY_MIN);
            continue;
        };
        while !shared.stopped() && ask_once(shared, &mut connection) {
            shared.sleep(POLL);
        }
        shared.sleep(RETRY_MIN);
    }
}

/// Whether the server answered.
fn ask_once(shared: &Shared, connection: &mut Client) -> bool {
    // The answer is true of every moment between the question and itself; the first is what is known for certain.
    let asked_ms = shared.now_ms();
    let info: redis::RedisResult<String> = redis::cmd("INFO").arg("replication").query(connection);
    let Ok(info) = info else { return false };
    let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let offset = value("master_repl_offset:").and_then(|text| text.parse().ok());
    if let (Some(id), Some(offset)) = (value("master_replid:"), offset) {
        shared.times().add(id, asked_ms, offset);
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
    /// Whether the server was there once.
    pub(super) has_connected: bool,
    /// Which base `position` stands on, see [`Proven`].
    pub(super) base: u64,
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
                // Nothing to go on from, and nobody there: more likely a wrong address than a server that is away.
                let is_nobody = self.position.is_none() && !self.has_connected;
                if error.status == Status::Permanent || (is_nobody && error.status != Status::Temporary) {
                    inbox.fatal = Some(error);
                    return;
                }
                inbox.trouble = Some(error.to_string());
            }
            drop(inbox);
            pause = if self.position == before { (pause * 2).min(RETRY_MAX) } else { RETRY_MIN };
            self.shared.sleep(pause);
        }
    }

    /// One connection, from its beginning to its end.
    fn attach(&mut self) -> std::result::Result<(), SourceError> {
        let mut link = Link::open(&self.server, &self.shared.hang_up)?;
        self.has_connected = true;
        link.introduce()?;
        let asked_ms = self.shared.now_ms();
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
                self.shared.times().continue_as(&position.0);
            }
        } else {
            link = self.take_base(link, &reply, asked_ms)?;
        }
        // What was executed while nobody listened comes now, all at once: its time lies between the last that is known
        // and this.
        if let Ok(mut connection) = self.server.connect() {
            ask_once(&self.shared, &mut connection);
        }
        self.shared.inbox().attached = true;
        self.listen(link)
    }

    /// Takes a base, which was asked for at `asked_ms`.
    fn take_base(
        &mut self,
        link: Link,
        reply: &str,
        asked_ms: u64,
    ) -> std::result::Result<Link, SourceError> {
        let mut transfer = Transfer::follow(link, reply)?;
        let (id, offset) = (transfer.replication_id.clone(), transfer.offset);
        let why = self.position.as_ref().map(|(known, from, _)| match *known == id {
            true => format!("the server has not kept its commands from offset {from} on"),
            false => format!("the server's replication id is {id}, not {known}"),
        });
        // What was executed up to then is in the base, whenever the answer came.
        let time_ms = {
            let mut times = self.shared.times();
            times.begin(&id);
            let time_ms = times.complete(offset).unwrap_or(0).max(asked_ms);
            times.add(&id, time_ms, offset);
            time_ms
        };
        let mut checked = Checked::new(&mut transfer);
        let gathered =
            gather(&mut checked, &self.scratch).map_err(|error| told(error, &self.server.shown))?;
        checked.finish(&self.server.shown).map_err(|error| told(error, &self.server.shown))?;
        self.position = Some((id.clone(), offset, 0));
        self.base += 1;
        let mut inbox = self.shared.inbox();
        // What came before belongs to the base before, and is committed with it.
        while inbox.base.is_some() || !inbox.frames.is_empty() {
            if self.shared.stopped() {
                return Ok(transfer.into_link());
            }
            let wait = self.shared.taken.wait_timeout(inbox, TICK);
            inbox = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        inbox.received = offset;
        let (gathered, number) = (Box::new(gathered), self.base);
        inbox.base = Some(NewBase { gathered, time_ms, replication_id: id, offset, number, why });
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
        let attached_ms = self.shared.now_ms();
        let (mut acknowledged, mut acknowledged_ms, mut heard_ms) = (0, 0, attached_ms);
        loop {
            if self.shared.stopped() {
                return Ok(());
            }
            if self.shared.renew.swap(false, Ordering::Relaxed) {
                self.position = None;
                return Ok(());
            }
            let now_ms = self.shared.now_ms();
            // Of another history it says nothing; the server believes the highest that it was told.
            let proven = *locked(&self.shared.proven);
            let durable = if proven.base == self.base { proven.offset } else { 0 };
            if durable != acknowledged
                || now_ms.saturating_sub(acknowledged_ms) >= ACK_EVERY.as_millis() as u64
            {
                (acknowledged, acknowledged_ms) = (durable, now_ms);
                // A connection that has ended refuses it. What the server sent before is read first; then reading says so.
                let _ = link.send(&[b"REPLCONF", b"ACK", durable.to_string().as_bytes()]);
                if self.shared.times().has_left(attached_ms) {
                    let why = "the server has another replication id now";
                    return Err(self.server.error(SourceErrorKind::Unavailable, why));
                }
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

    /// Puts frames where the commits take them, with the time of their arrival.
    fn hand_over(&mut self, mut frames: Vec<Frame>, database: u32) {
        let now_ms = self.shared.now_ms();
        let mut inbox = self.shared.inbox();
        while inbox.bytes > INBOX && !self.shared.stopped() {
            let wait = self.shared.taken.wait_timeout(inbox, TICK);
            inbox = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        for frame in &mut frames {
            frame.time_ms = now_ms;
            inbox.bytes += frame.bytes.len();
        }
        if let (Some(position), Some(last)) = (&mut self.position, frames.last()) {
            (position.1, position.2) = (last.end(), database);
            inbox.received = last.end();
        }
        inbox.frames.append(&mut frames);
    }
}

/// Whether a stretch begins with a line feed, which no command does.
fn start_of(part: &[u8]) -> bool {
    part.first() == Some(&b'\n')
}
