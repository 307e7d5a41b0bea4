//! Rows and large objects of a database, read by several sessions that see the same moment. What is wanted is cut
//! into stretches, in the order in which it is laid down; sessions take them in that order and run ahead of the
//! reader by as much as fits into bounded channels, so that even one large table keeps all of them busy.

use super::lost;
use crate::connection::{PgError, PgResult};
use crate::limits;
use crate::limits::TOO_MANY;
use crate::wire::HangUp;
use crate::{Connection, Server};
use chunkstore::pool::{Pool, locked};
use engine::source::{Content, Piece, SourceError, SourceErrorKind};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes that a session hands on at a time.
const PART: usize = 256 << 10;
/// Parts of one stretch that wait for the reader.
const AHEAD: usize = 48;
/// Bytes of a large object that are asked for at a time.
const OBJECT_PART: usize = 1 << 20;
/// How long a silent session may keep the reader from looking at anything else.
const PATIENCE: Duration = Duration::from_millis(200);

/// Something to read.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    /// The output of a COPY, whose names are in the archive's encoding.
    Copy(Vec<u8>),
    /// A large object.
    Object(u64),
}

/// Parts of a stretch; an empty one is its end.
type Parts = Receiver<PgResult<Vec<u8>>>;

struct Job {
    wanted: Wanted,
    parts: SyncSender<PgResult<Vec<u8>>>,
}

/// Parts that were read, to be filled again: memory that is new costs the kernel as much as copying into it.
#[derive(Clone, Default)]
struct Spare(Arc<Pool<Vec<u8>>>);

impl Spare {
    fn take(&self) -> Vec<u8> {
        self.0.take().unwrap_or_else(|| Vec::with_capacity(PART + (16 << 10)))
    }

    fn put(&self, mut part: Vec<u8>) {
        part.clear();
        if part.capacity() >= PART {
            self.0.put(part);
        }
    }
}

/// What all sessions begin with.
#[derive(Clone)]
pub(super) struct Opening {
    pub(super) server: Server,
    /// Its name, in whatever encoding.
    pub(super) database: Vec<u8>,
    /// The exported snapshot.
    pub(super) snapshot: String,
    /// `SET client_encoding = 'UTF8';`, as the archive says.
    pub(super) encoding: String,
}

/// As pg_dump sets them (`setup_connection` in `pg_dump.c`), so that values read the same everywhere.
const SETTINGS: &str = "SET datestyle = iso; SET intervalstyle = postgres; SET extra_float_digits = 3; \
    SET synchronize_seqscans = off; SET statement_timeout = 0; SET lock_timeout = 0; \
    SET idle_in_transaction_session_timeout = 0; SET row_security = off; \
    SELECT pg_catalog.set_config('search_path', '', false)";
/// What has the name of a table when it is read may be a view that was put there meanwhile: its functions would run with
/// our rights (CVE-2024-7348). Servers since 12.20 to 16.4 read none where this is set; older ones do not know it.
const TABLES_ONLY: &str = "SELECT pg_catalog.set_config(name, 'view, foreign-table', false) \
    FROM pg_catalog.pg_settings WHERE name = 'restrict_nonsystem_relation_kind'";

impl Opening {
    /// Begins a transaction that nothing ends but us.
    pub(super) fn begin(session: &mut Connection) -> PgResult<()> {
        session.query(SETTINGS)?;
        session.query(TABLES_ONLY)?;
        if session.major() >= 17 {
            session.query("SET transaction_timeout = 0")?;
        }
        session.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").map(drop)
    }

    fn open(&self, is_first: bool) -> PgResult<Connection> {
        let mut session = match is_first {
            // pg_dump's may count still.
            true => limits::open(&self.server, &self.database)?,
            false => Connection::open(&self.server, &self.database)?,
        };
        self.join(&mut session)?;
        Ok(session)
    }

    /// Goes to the snapshot.
    fn join(&self, session: &mut Connection) -> PgResult<()> {
        Self::begin(session)?;
        session.query(&format!("SET TRANSACTION SNAPSHOT '{}'", self.snapshot))?;
        session.query(&self.encoding).map(drop)
    }
}

/// The sessions, and what they are to read.
pub(super) struct Copies {
    planned: VecDeque<Wanted>,
    /// Stretches that were given out, in order.
    running: VecDeque<Parts>,
    /// So many of them nobody wants any more.
    unwanted: usize,
    spare: Spare,
    jobs: Option<Sender<Job>>,
    hang_ups: Vec<HangUp>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Copies {
    /// Opens `count` sessions that will read `planned`, in this order.
    pub(super) fn start(opening: &Opening, count: usize, planned: VecDeque<Wanted>) -> PgResult<Self> {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let mut copies = Self {
            running: VecDeque::new(),
            unwanted: 0,
            spare: Spare::default(),
            jobs: Some(jobs),
            hang_ups: vec![],
            threads: vec![],
            stop: Arc::default(),
            planned,
        };
        for _ in 0..count.min(copies.planned.len()) {
            let session = match opening.open(copies.threads.is_empty()) {
                // Somebody else took it; those that we have will do.
                Err(error) if error.code() == TOO_MANY && !copies.threads.is_empty() => break,
                session => session?,
            };
            copies.hang_ups.push(session.hang_up()?);
            let (queue, stop) = (Arc::clone(&queue), Arc::clone(&copies.stop));
            let (spare, opening) = (copies.spare.clone(), opening.clone());
            let thread = std::thread::Builder::new()
                .name("esker-copy".into())
                .spawn(move || work(session, &queue, &stop, &spare, &opening));
            copies.threads.push(thread?);
        }
        Ok(copies)
    }

    /// Keeps every session busy, and one stretch more in the queue.
    fn top_up(&mut self) {
        while self.running.len() <= self.threads.len()
            && let Some(wanted) = self.planned.pop_front()
        {
            let (parts, take) = sync_channel(AHEAD);
            // Nobody takes it only if all sessions have failed, which the first stretch tells.
            let _ = self.jobs.as_ref().map(|jobs| jobs.send(Job { wanted, parts }));
            self.running.push_back(take);
        }
    }

    /// The next part of the first stretch, for one that was read; `None` if none came in time, an empty one at its end.
    fn next_part(&mut self, read: Vec<u8>) -> PgResult<Option<Vec<u8>>> {
        self.spare.put(read);
        self.top_up();
        loop {
            let gone = || PgError::Lost("a session ended early".into());
            let first = self.running.front().ok_or_else(gone)?;
            let part = match first.recv_timeout(PATIENCE) {
                Ok(part) => part,
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err(gone()),
            };
            if part.as_ref().map_or(true, Vec::is_empty) {
                self.running.pop_front();
                self.top_up();
            }
            match (self.unwanted, part) {
                (0, part) => return part.map(Some),
                (_, Ok(part)) if !part.is_empty() => self.spare.put(part),
                _ => self.unwanted -= 1,
            }
        }
    }

    /// Passes over the next so many stretches.
    fn pass_over(&mut self, stretches: usize) {
        let running = stretches.min(self.running.len());
        self.unwanted += running;
        self.planned.drain(..(stretches - running).min(self.planned.len()));
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs = None;
        self.running.clear();
        self.hang_ups.iter().for_each(HangUp::now);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A session's thread.
fn work(
    mut session: Connection,
    queue: &Mutex<Receiver<Job>>,
    stop: &AtomicBool,
    spare: &Spare,
    opening: &Opening,
) {
    loop {
        let job = locked(queue).recv();
        let Ok(job) = job else { return };
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let read = match &job.wanted {
            Wanted::Copy(sql) => copy(&mut session, sql, &job.parts, spare),
            Wanted::Object(oid) => object(&mut session, *oid, &job.parts),
        };
        let mut is_over = false;
        let end = match read {
            Ok(true) => Ok(vec![]),
            // Nobody reads any more.
            Ok(false) => return,
            // What cannot be read ends the transaction; another one sees the same snapshot.
            Err(error) => match session.query("ROLLBACK").and_then(|_| opening.join(&mut session)) {
                Ok(()) => Err(error),
                Err(_) => {
                    is_over = true;
                    Err(PgError::Lost(error.to_string()))
                }
            },
        };
        if job.parts.send(end).is_err() || is_over {
            return;
        }
    }
}

type Send = SyncSender<PgResult<Vec<u8>>>;

/// Hands on the output of a COPY; `false` if nobody takes it.
fn copy(session: &mut Connection, sql: &[u8], parts: &Send, spare: &Spare) -> PgResult<bool> {
    session.begin_copy(sql)?;
    loop {
        let mut part = spare.take();
        let more = session.copy_some(&mut part, PART)?;
        if !part.is_empty() && parts.send(Ok(part)).is_err() {
            return Ok(false);
        }
        if !more {
            return Ok(true);
        }
    }
}

/// Bytes before the value in a binary COPY of one row and one column: signature, flags, extension, the number of
/// fields, the field's length. (PostgreSQL's documentation, COPY, "Binary Format".)
const BINARY_HEAD: usize = 11 + 4 + 4 + 2 + 4;

/// Hands on a large object; `false` if nobody takes it.
fn object(session: &mut Connection, oid: u64, parts: &Send) -> PgResult<bool> {
    let mut from = 0;
    loop {
        session.begin_copy(format!(
            "COPY (SELECT pg_catalog.lo_get({oid}, {from}, {OBJECT_PART})) TO STDOUT (FORMAT binary)"
        ))?;
        let mut part = vec![];
        session.copy_some(&mut part, usize::MAX)?;
        // Behind the row stands a -1 of two bytes.
        let value = part.get(BINARY_HEAD..part.len().saturating_sub(2));
        let value = value.ok_or_else(|| PgError::Lost(format!("no value of large object {oid}")))?.to_vec();
        let len = value.len();
        if len > 0 && parts.send(Ok(value)).is_err() {
            return Ok(false);
        }
        if len < OBJECT_PART {
            return Ok(true);
        }
        from += len;
    }
}

/// The next so many stretches as the content of one file.
pub(super) struct CopyContent {
    pub(super) copies: Rc<RefCell<Copies>>,
    pub(super) stretches: usize,
    /// What ends the file.
    pub(super) tail: &'static [u8],
    pub(super) part: Vec<u8>,
    pub(super) at: usize,
    /// What it is, for people.
    pub(super) object: String,
    /// Set if it cannot be read, and the rest can: why.
    pub(super) failure: Rc<RefCell<Option<String>>>,
    pub(super) keep_going: bool,
}

impl CopyContent {
    /// What a failure is to the backup.
    fn failed(&mut self, error: &PgError) -> SourceError {
        let is_refused = matches!(error, PgError::Refused { .. });
        match (is_refused, self.keep_going) {
            (true, true) => {
                self.copies.borrow_mut().pass_over(self.stretches.saturating_sub(1));
                *self.failure.borrow_mut() = Some(error.to_string());
                SourceError::new(SourceErrorKind::Item, &self.object, format!("left out: {error}"))
            }
            (true, false) => SourceError::new(
                SourceErrorKind::Unavailable,
                &self.object,
                format!("{error}; --keep-going leaves it out and goes on"),
            ),
            (false, _) => lost(&self.object, error),
        }
    }
}

impl Content for CopyContent {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        while self.at == self.part.len() {
            if self.stretches == 0 {
                if self.tail.is_empty() {
                    return Ok(Piece::End);
                }
                (self.part, self.at) = (std::mem::take(&mut self.tail).to_vec(), 0);
                break;
            }
            let read = std::mem::take(&mut self.part);
            self.at = 0;
            let next = self.copies.borrow_mut().next_part(read);
            match next.map_err(|error| self.failed(&error))? {
                None => return Ok(Piece::Wait),
                Some(part) => {
                    self.stretches -= usize::from(part.is_empty());
                    (self.part, self.at) = (part, 0);
                }
            }
        }
        let len = buffer.len().min(self.part.len() - self.at);
        buffer[..len].copy_from_slice(&self.part[self.at..self.at + len]);
        self.at += len;
        Ok(Piece::Data(len))
    }
}
