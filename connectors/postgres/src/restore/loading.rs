//! Rows into a database, by several sessions at once, each with its own COPY; large objects by pg_restore beside them. What
//! fails in one ends all. Rows that the server refuses by a check are put in again when all others are there: a check may
//! call a function that looks at rows of another table.

use super::Work;
use super::filling::Filling;
use super::put::{Form, Put};
use super::rows::{Block, Rows, Task, tasks};
use super::source::{Source, Table, cut_off};
use crate::Connection;
use crate::connection::{PgError, PgResult};
use crate::limits::TOO_MANY;
use crate::toc::{Toc, TocEntry};
use crate::wire::HangUp;
use chunkstore::pool::locked;
use chunkstore::threads;
use engine::restore::{Stretch, read_stretches};
use engine::source::SourceErrorKind;
use engine::{Counter, Error, ItemError, Monitor, Result};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How often it is looked whether it shall end.
const PAUSE: Duration = Duration::from_millis(50);
/// As pg_restore has them (`_doSetFixedOutputState` in `pg_backup_archiver.c`), and as values were written. What functions of
/// checks have to say for each row would fill the connection, which nobody reads from while rows are sent.
const SETTINGS: &str = "SET datestyle = iso; SET intervalstyle = postgres; SET row_security = off; \
    SET check_function_bodies = off; SET xmloption = content; SET client_min_messages = error; \
    SET default_transaction_isolation = 'read committed'";
/// Limits that a role or database may have and not every version knows.
const NO_LIMITS: &str = "SELECT pg_catalog.set_config(s.name, '0', false) FROM pg_catalog.pg_settings s \
    WHERE s.name IN ('transaction_timeout', 'idle_session_timeout')";

/// What is done beside the rows, until it is told to stop.
pub(super) type Beside<'a> = dyn Fn(&AtomicBool) -> Result<()> + Sync + 'a;

/// The rows of a database, on their way.
pub(super) struct Loading<'a> {
    work: &'a Work<'a>,
    into: &'a Filling<'a>,
    toc: &'a Toc,
    tables: Vec<Table<'a>>,
    /// Whether they stand in blocks.
    is_packed: bool,
    jobs: usize,
    /// Whether a table that is emptied first is not written to the WAL.
    spares_wal: bool,
    /// Set when all shall end.
    pub(super) stop: AtomicBool,
    failure: Mutex<Option<Error>>,
    /// What was refused and is tried again at the end.
    later: Mutex<Vec<(usize, Range<u64>)>>,
    is_last_try: bool,
}

/// Counts nothing: what is read twice is done once.
struct Uncounted<'a>(&'a dyn Monitor);

impl Monitor for Uncounted<'_> {
    fn count(&self, _: Counter, _: u64) {}
    fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter)
    }
    fn restart(&self) {}
    fn error(&self, error: ItemError) {
        self.0.error(error);
    }
    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}

impl<'a> Loading<'a> {
    /// Rows of `entries`; those that the backup left out are passed over.
    pub(super) fn new(
        work: &'a Work<'a>,
        into: &'a Filling<'a>,
        toc: &'a Toc,
        source: &Source<'a>,
        entries: &[&'a TocEntry],
    ) -> Result<Self> {
        let tables = source.tables(entries, &work.left_out)?;
        Ok(Self {
            work,
            into,
            toc,
            tables,
            is_packed: matches!(source, Source::Blocks(..)),
            jobs: 1,
            spares_wal: false,
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
            later: Mutex::new(vec![]),
            is_last_try: false,
        })
    }

    /// Bytes of the dump that they take.
    pub(super) fn bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.part.end - table.part.start).sum()
    }

    /// Puts all in by up to `jobs` sessions, and meanwhile does `beside`, if there is something of that kind.
    ///
    /// # Errors
    /// The first failure of any of them; by then all have ended.
    pub(super) fn load(&mut self, jobs: usize, beside: Option<&Beside<'_>>) -> Result<()> {
        let sizes: Vec<u64> = self.tables.iter().map(|table| table.len).collect();
        // One session does one thing after the other.
        let (first, beside) = if jobs > 1 { (None, beside) } else { (beside, None) };
        if let Some(first) = first {
            first(&self.stop)?;
        }
        let jobs = jobs.saturating_sub(usize::from(beside.is_some())).max(1);
        self.jobs = jobs;
        let queue = tasks(&sizes, jobs, !self.is_packed);
        let mut sessions = vec![];
        for _ in 0..jobs.min(queue.len()) {
            match self.session() {
                // Somebody else took it; those that we have will do.
                Err(error) if error.code() == TOO_MANY && !sessions.is_empty() => break,
                session => sessions.push(session.map_err(|error| self.work.failed(&error))?),
            }
        }
        if let Some(session) = sessions.first_mut() {
            let level = session.value("SELECT pg_catalog.current_setting('wal_level')");
            self.spares_wal = level.map_err(|error| self.work.failed(&error))? == "minimal";
        }
        self.together(sessions, queue, beside)?;
        self.again()
    }

    /// What was refused, once more, in the dump's order.
    fn again(&mut self) -> Result<()> {
        let mut later = std::mem::take(&mut *locked(&self.later));
        if later.is_empty() {
            return Ok(());
        }
        later.sort_by_key(|(table, range)| (*table, range.start));
        let task = |(table, range): (usize, Range<u64>)| match self.is_whole(table, &range) {
            true => Task::Tables(vec![table]),
            false => Task::Stretch(table, range),
        };
        let queue = later.into_iter().map(task).collect();
        (self.is_last_try, self.jobs) = (true, 1);
        let session = self.session().map_err(|error| self.work.failed(&error))?;
        self.together(vec![session], queue, None)
    }

    fn is_whole(&self, table: usize, range: &Range<u64>) -> bool {
        self.tables.get(table).is_some_and(|table| *range == (0..table.len))
    }

    fn together(
        &self,
        sessions: Vec<Connection>,
        queue: VecDeque<Task>,
        beside: Option<&Beside<'_>>,
    ) -> Result<()> {
        let hang_ups = sessions.iter().map(Connection::hang_up).collect::<PgResult<Vec<HangUp>>>();
        let hang_ups = hang_ups.map_err(|error| self.work.failed(&error))?;
        let queue = &Mutex::new(queue);
        std::thread::scope(|scope| {
            let (ended, ends) = channel::<()>();
            for session in sessions {
                let ended = ended.clone();
                let started = threads::start_in(scope, "esker-rows", move || {
                    self.note(self.work(session, queue));
                    drop(ended);
                });
                self.note(started.map(drop).map_err(|error| self.work.failed(&error.into())));
            }
            if let Some(beside) = beside {
                let ended = ended.clone();
                let started = threads::start_in(scope, "esker-objects", move || {
                    self.note(beside(&self.stop));
                    drop(ended);
                });
                self.note(started.map(drop).map_err(|error| self.work.failed(&error.into())));
            }
            drop(ended);
            // Until the last of them is gone.
            while ends.recv_timeout(PAUSE) != Err(RecvTimeoutError::Disconnected) {
                if self.work.monitor.interrupted() {
                    self.stop.store(true, Ordering::Relaxed);
                }
                if self.stop.load(Ordering::Relaxed) {
                    hang_ups.iter().for_each(HangUp::now);
                }
            }
        });
        if self.work.monitor.interrupted() {
            return Err(Error::Interrupted);
        }
        locked(&self.failure).take().map_or(Ok(()), Err)
    }

    /// Keeps the first failure, which ends all.
    fn note(&self, done: Result<()>) {
        if let Err(error) = done {
            // What comes after the first comes of it.
            locked(&self.failure).get_or_insert(error);
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    /// A session as pg_restore has one: what the dump says of its encoding and quotes counts.
    fn session(&self) -> PgResult<Connection> {
        let mut session = self.into.run.part(self.into.server, self.into.name)?;
        session.query(SETTINGS)?;
        session.query(NO_LIMITS)?;
        if self.into.plan.is_lazy() {
            session.query("SET synchronous_commit = off")?;
        }
        for entry in &self.toc.entries {
            if matches!(entry.kind.as_str(), "ENCODING" | "STDSTRINGS") {
                session.query_bytes(entry.definition.as_bytes())?;
            }
        }
        Ok(session)
    }

    /// What one session does.
    fn work(&self, mut session: Connection, queue: &Mutex<VecDeque<Task>>) -> Result<()> {
        loop {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let task = locked(queue).pop_front();
            match task {
                None => return Ok(()),
                Some(Task::Tables(tables)) => self.tables(&mut session, &tables)?,
                Some(Task::Stretch(table, range)) => self.stretch(&mut session, table, range)?,
            }
        }
    }

    /// Tables as a whole, one after the other.
    fn tables(&self, session: &mut Connection, tables: &[usize]) -> Result<()> {
        let whole = |table: &usize| {
            let Table { content, part, .. } = self.tables.get(*table)?;
            Some(Stretch { content, range: part.clone() })
        };
        let stretches: Vec<Stretch<'_>> = tables.iter().filter_map(whole).collect();
        let mut current: Option<(usize, Put)> = None;
        let mut each = |number: usize, bytes: &[u8]| {
            let mut put = match current.take() {
                Some((before, put)) if before == number => put,
                before => {
                    if let Some((_, put)) = before {
                        self.end(session, put)?;
                    }
                    let table = tables.get(number).copied().unwrap_or_default();
                    let len = self.tables.get(table).map_or(0, |table| table.len);
                    self.begin(session, table, 0..len)?
                }
            };
            self.put(session, &mut put, bytes)?;
            current = Some((number, put));
            Ok(())
        };
        self.read(&stretches, self.is_last_try, &mut each)?;
        match current {
            Some((_, put)) => self.end(session, put),
            None => Ok(()),
        }
    }

    /// The rows that begin in a range of a table's file.
    fn stretch(&self, session: &mut Connection, table: usize, range: Range<u64>) -> Result<()> {
        let Some(Table { content, .. }) = self.tables.get(table) else { return Ok(()) };
        let mut put = self.begin(session, table, range.clone())?;
        let rows = Rows::new(range, self.tables.get(table).map_or(0, |table| table.len));
        let read = |put: &mut Put, range: Range<u64>, session: &mut Connection, is_again: bool| {
            let mut each = |_, bytes: &[u8]| self.put(session, put, bytes);
            self.read(&[Stretch { content, range }], is_again, &mut each)
        };
        read(&mut put, rows.wanted(), session, self.is_last_try)?;
        // The last row may end in the next stretch, and that may be some chunks on.
        while let Some(at) = put.form.lacking().filter(|_| !put.is_refused) {
            read(&mut put, at..content.chunk_end(at), session, true)?;
        }
        self.end(session, put)
    }

    /// Reads stretches; what is read `again` is not counted again.
    fn read(
        &self,
        stretches: &[Stretch<'_>],
        again: bool,
        each: &mut dyn FnMut(usize, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let uncounted = Uncounted(self.work.monitor);
        let monitor: &dyn Monitor = if again { &uncounted } else { self.work.monitor };
        read_stretches(self.work.repo, stretches, self.jobs, each, monitor)
    }

    fn begin(&self, session: &mut Connection, table: usize, range: Range<u64>) -> Result<Put> {
        let Some(Table { entry, len, .. }) = self.tables.get(table) else {
            return Err(self.work.refused(format!("there is no table number {table}")));
        };
        let is_whole = range == (0..*len);
        let form = match self.is_packed {
            true => Form::Block(Block::new(entry.id, self.toc.int_len)),
            false => Form::File(Rows::new(range.clone(), *len)),
        };
        let mut put = Put { table, range, form, is_refused: false, in_transaction: false };
        // As pg_restore does it with several jobs: rows of a table whose file is new need no WAL, since the file is
        // brought to disk by the commit.
        let emptied = if self.spares_wal && is_whole { emptied(entry) } else { None };
        let begun = match emptied {
            Some(statement) => {
                put.in_transaction = true;
                session.query("BEGIN").and_then(|_| session.query_bytes(&statement)).map(drop)
            }
            None => Ok(()),
        };
        let begun = begun.and_then(|()| session.begin_copy(&entry.bytes.copy)).map(drop);
        if let Err(error) = begun {
            self.refused(session, &mut put, error)?;
        }
        Ok(put)
    }

    fn put(&self, session: &mut Connection, put: &mut Put, bytes: &[u8]) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        if put.is_refused {
            return Ok(());
        }
        put.form.see(bytes, session).map_err(|error| self.failed(put, error))
    }

    fn end(&self, session: &mut Connection, mut put: Put) -> Result<()> {
        if put.is_refused {
            return Ok(());
        }
        // What is cut off must not count as whole: without an end the server takes nothing of it.
        if !put.form.ended_well() {
            return Err(cut_off(&self.name(&put)));
        }
        let mut done = session.finish_data();
        if done.is_ok() && put.in_transaction {
            done = session.query("COMMIT").map(drop);
        }
        done.or_else(|error| self.refused(session, &mut put, error))
    }

    /// What the server says no to ends all, unless it may say yes at the end, or hangs on something that is not in the
    /// backup.
    fn refused(&self, session: &mut Connection, put: &mut Put, error: PgError) -> Result<()> {
        let can_wait = !self.is_last_try && may_be_taken_later(error.code());
        if !self.into.is_partial && !can_wait || error.is_no_session() {
            return Err(self.failed(put, error));
        }
        put.is_refused = true;
        if can_wait {
            locked(&self.later).push((put.table, put.range.clone()));
        } else {
            self.work.tell(format!("the rows of {}", self.name(put)), &error.to_string());
        }
        if put.in_transaction {
            session.query("ROLLBACK").map_err(|error| self.failed(put, error))?;
        }
        Ok(())
    }

    fn name(&self, put: &Put) -> String {
        let entry = self.tables.get(put.table).map(|table| table.entry);
        entry.map(super::relations::full_name).unwrap_or_default()
    }

    fn failed(&self, put: &Put, error: PgError) -> Error {
        match &error {
            PgError::Refused { message, .. } if !error.is_no_session() => {
                let why = format!("table {}: {message}", self.name(put));
                self.work.server.error(SourceErrorKind::Command, why).into()
            }
            _ => self.work.failed(&error),
        }
    }
}

/// Whether rows that were refused so may be taken when the rows of other tables are there: a check failed, or raised an error
/// of its own (`check_violation`, class P0).
fn may_be_taken_later(code: &str) -> bool {
    code == "23514" || code.starts_with("P0")
}

/// The command that empties a table before its rows come; none for rows that go to its partitioned table, which other
/// sessions fill, too (`is_load_via_partition_root` in `pg_backup_archiver.c`).
fn emptied(entry: &TocEntry) -> Option<Vec<u8>> {
    if entry.definition.contains("load via partition root") {
        return None;
    }
    let table = super::relations::quoted(entry);
    Some([b"TRUNCATE TABLE ONLY ".as_slice(), &table].concat())
}
