//! Where a dump of the tables of several databases comes apart, and where tables begin in it: at statements, which
//! [`Lexer`] finds, never at text that looks like one. Behind a database's tables comes what else it has.
//! Source: `client/mysqldump.c` of MariaDB.

use super::definitions::Definitions;
use super::index::Index;
use super::lexer::{Lexer, name};
use engine::source::{Piece, SourceError};
use std::collections::{BTreeSet, VecDeque};

/// What comes next.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Bytes of the current database.
    Bytes(usize),
    /// A table begins.
    Cut,
    /// The database is over.
    End(Index),
    /// The dump is, and should not be.
    Truncated(String),
    /// More is needed.
    More,
}

/// Statements at which a database, or a table, begins.
const DATABASE: &[u8] = b"CREATE DATABASE ";
const USE: &[u8] = b"USE ";
const TABLES: [&[u8]; 2] = [b"DROP TABLE IF EXISTS ", b"DROP SEQUENCE IF EXISTS "];
/// The first of the statements at the end, which undo the settings.
const FOOTER: &[u8] = b"/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */";
/// A statement's beginning with all that tells what it is: a name has 64 characters at most.
const LONGEST: usize = 4096;
/// Settings before the first database, in bytes; mariadb-dump writes about 1 kB.
const MAX_HEAD: usize = 1 << 20;
/// Blanks between two statements, in bytes.
const MAX_BLANKS: usize = 64 << 10;
/// Tables of one database.
const MAX_TABLES: usize = 4_000_000;
/// Read at a time.
const READ: usize = 256 << 10;
/// A table gets chunks of its own if so much came before it.
const WORTH_A_CUT: u64 = 32 << 10;
/// The end of every part.
const END: &[u8] = b"\n-- Dump completed\n";

/// Takes a dump apart.
pub(super) struct Seams {
    /// Databases in order; the first is the current one.
    names: VecDeque<String>,
    buffer: Vec<u8>,
    at: usize,
    /// Bytes from `at` that can be passed on.
    clear: usize,
    over: bool,
    lexer: Lexer,
    /// The settings at the beginning.
    head: Vec<u8>,
    /// What makes the only database of a dump that has nothing but its tables.
    created: Option<Vec<u8>>,
    /// What is put before a database's own bytes, and behind them.
    given: Vec<u8>,
    state: State,
    /// Whether what stands at `at` has been looked at: the inside of a statement.
    is_known: bool,
    /// Whether the statement before it chose the database.
    is_chosen: bool,
    /// Whether the statement that is read is not passed on: it is of a view.
    is_dropped: bool,
    definitions: Definitions,
    /// Views of the current database that the dump has.
    stubs: BTreeSet<String>,
    index: Index,
    /// Bytes of the current database so far, and since the last cut.
    written: u64,
    since_cut: u64,
    cut: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// Before the first database.
    Head,
    /// In one.
    Inside,
    /// One is over; its end is given.
    Ending,
    /// The next is to begin.
    Between,
    /// All are over, and the settings are undone.
    Footer,
}

impl Seams {
    pub(super) fn new(names: VecDeque<String>) -> Self {
        Self {
            names,
            buffer: vec![],
            at: 0,
            clear: 0,
            over: false,
            lexer: Lexer::new(),
            head: vec![],
            created: None,
            given: vec![],
            state: State::Head,
            is_known: false,
            is_chosen: false,
            is_dropped: false,
            definitions: Definitions::default(),
            stubs: BTreeSet::new(),
            index: Index::default(),
            written: 0,
            since_cut: 0,
            cut: false,
        }
    }

    /// The dump has only tables, of one database, which `created` makes and chooses.
    pub(super) fn of_tables(names: VecDeque<String>, created: String) -> Self {
        Self { created: Some(created.into_bytes()), ..Self::new(names) }
    }

    /// Whether no database is to come.
    pub(super) fn is_over(&self) -> bool {
        self.names.is_empty()
    }

    /// What the current database has besides tables, and the views that the dump has where tables are.
    pub(super) fn define(&mut self, definitions: Definitions, stubs: BTreeSet<String>) {
        (self.definitions, self.stubs) = (definitions, stubs);
    }

    /// File and position in the binary log, as the head says.
    pub(super) fn position(&self) -> Option<(String, String)> {
        let text = String::from_utf8_lossy(&self.head);
        let file = text.split("LOG_FILE='").nth(1)?.split('\'').next()?;
        let position = text.split("LOG_POS=").nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?;
        Some((file.to_owned(), position.to_owned()))
    }

    /// Reads on.
    pub(super) fn fill(
        &mut self,
        read: &mut dyn FnMut(&mut [u8]) -> Result<Piece, SourceError>,
    ) -> Result<Piece, SourceError> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let old = self.buffer.len();
        self.buffer.resize(old + READ, 0);
        let piece = read(&mut self.buffer[old..]);
        let len = if let Ok(Piece::Data(len)) = piece { len } else { 0 };
        self.buffer.truncate(old + len);
        let piece = piece?;
        self.over = piece == Piece::End;
        Ok(piece)
    }

    pub(super) fn step(&mut self, buffer: &mut [u8]) -> Step {
        loop {
            if std::mem::take(&mut self.cut) {
                self.since_cut = 0;
                return Step::Cut;
            }
            if !self.given.is_empty() {
                let len = buffer.len().min(self.given.len());
                buffer[..len].copy_from_slice(&self.given[..len]);
                self.given.drain(..len);
                self.count(len);
                return Step::Bytes(len);
            }
            match self.state {
                State::Ending => {
                    self.state = State::Between;
                    self.names.pop_front();
                    (self.written, self.since_cut) = (0, 0);
                    return Step::End(std::mem::take(&mut self.index));
                }
                // Behind the last there is nothing to begin; a caller that knows its databases does not come here.
                State::Between => {
                    self.given.clone_from(&self.head);
                    self.index.head = self.head.len() as u64;
                    if let Some(created) = self.created.take() {
                        self.given.extend_from_slice(&created);
                        self.index.body = self.given.len() as u64;
                    }
                    self.state = State::Inside;
                    continue;
                }
                State::Head if self.clear > 0 => {
                    if self.head.len() + self.clear > MAX_HEAD {
                        return no_dump("more than 1 MiB before its first database");
                    }
                    self.head.extend_from_slice(&self.buffer[self.at..self.at + self.clear]);
                    self.at += std::mem::take(&mut self.clear);
                    continue;
                }
                State::Footer => {
                    self.at = self.buffer.len();
                    if !self.over {
                        return Step::More;
                    }
                    if self.names.len() != 1 {
                        return Step::Truncated("the dump lacks databases: it is not whole".into());
                    }
                    match self.end() {
                        None => continue,
                        Some(step) => return step,
                    }
                }
                State::Head | State::Inside => {}
            }
            if self.clear > 0 {
                let len = buffer.len().min(self.clear);
                buffer[..len].copy_from_slice(&self.buffer[self.at..self.at + len]);
                self.at += len;
                self.clear -= len;
                self.count(len);
                return Step::Bytes(len);
            }
            if let Some(step) = self.advance() {
                return step;
            }
        }
    }

    fn count(&mut self, len: usize) {
        self.written += len as u64;
        self.since_cut += len as u64;
    }

    /// Finds out what stands at `at`; a step if it cannot go on by itself.
    fn advance(&mut self) -> Option<Step> {
        let rest = &self.buffer[self.at..];
        if self.is_known {
            let (len, is_end) = self.lexer.read(rest, self.over);
            match self.is_dropped {
                true => self.at += len,
                false => self.clear = len,
            }
            self.is_known = !is_end;
            return match (len, self.over) {
                (0, true) => Some(truncated()),
                (0, false) => Some(Step::More),
                _ => None,
            };
        }
        let text = rest.trim_ascii_start();
        if rest.len() - text.len() > MAX_BLANKS {
            return Some(no_dump("more than 64 KiB of blanks between two statements"));
        }
        if text.len() < LONGEST && !self.over {
            return Some(Step::More);
        }
        if text.is_empty() {
            return Some(truncated());
        }
        self.is_known = true;
        if std::mem::take(&mut self.is_chosen) {
            self.index.body = self.written;
        }
        let text = &text[..text.len().min(LONGEST)];
        if self.state == State::Head {
            let is_table = |drop: &&[u8]| text.starts_with(drop);
            if text.starts_with(DATABASE) || (self.created.is_some() && TABLES.iter().any(is_table)) {
                self.state = State::Between;
                self.is_known = false;
            }
            return None;
        }
        if text.starts_with(DATABASE) {
            self.is_dropped = false;
            return self.database(text.to_vec());
        }
        if text.starts_with(USE) && self.index.body > 0 {
            // The views of all databases follow, and nothing else.
            self.state = State::Footer;
            return None;
        }
        if let Some(chosen) = text.strip_prefix(USE) {
            if name(chosen).map(|(chosen, _)| chosen).as_ref() != self.names.front() {
                return Some(Step::Truncated(
                    "the dump goes on with a database that was not asked for".into(),
                ));
            }
            self.is_chosen = true;
        } else if let Some(table) = TABLES.iter().find_map(|drop| text.strip_prefix(*drop)) {
            if self.index.body == 0 {
                return Some(no_dump("a table of a database that it does not choose first"));
            }
            let table = name(table).map(|(table, _)| table);
            self.end_table();
            self.is_dropped = table.as_ref().is_some_and(|table| self.stubs.contains(table));
            if self.index.tables.len() >= MAX_TABLES {
                return Some(no_dump("more than 4 million tables of one database"));
            }
            if let Some(table) = table.filter(|_| !self.is_dropped) {
                self.index.tables.push((table, self.written, 0));
            }
            self.cut = self.since_cut >= WORTH_A_CUT;
        } else if text.starts_with(FOOTER) {
            self.state = State::Footer;
        }
        None
    }

    /// A database begins: the current one, whose settings were given, or the next.
    fn database(&mut self, text: Vec<u8>) -> Option<Step> {
        let begins = |wanted: Option<&String>| {
            let at = memchr::memchr(b'`', &text);
            at.and_then(|at| name(&text[at..])).is_some_and(|(name, _)| Some(&name) == wanted)
        };
        if self.written == self.index.head && begins(self.names.front()) {
            return None;
        }
        if self.written > self.index.head && begins(self.names.get(1)) {
            self.is_known = false;
            return self.end();
        }
        Some(Step::Truncated("the dump goes on with a database that was not asked for".into()))
    }

    /// The current database is over: the rest of it is given.
    fn end(&mut self) -> Option<Step> {
        self.end_table();
        if self.index.body < self.index.head {
            return Some(no_dump("a database that it does not choose"));
        }
        let Definitions { bytes, mut objects } = std::mem::take(&mut self.definitions);
        self.index.tables_end = self.written;
        for object in &mut objects {
            object.from += self.written;
            object.to += self.written;
        }
        self.index.objects = objects;
        self.given = bytes;
        self.given.extend_from_slice(END);
        self.state = State::Ending;
        None
    }

    fn end_table(&mut self) {
        let written = self.written;
        if let Some((_, _, end)) = self.index.tables.last_mut().filter(|(_, _, end)| *end == 0) {
            *end = written;
        }
    }
}

fn truncated() -> Step {
    Step::Truncated("the dump's closing statements are missing: it is not whole".into())
}

/// Said of what has no end where a dump has one.
fn no_dump(what: &str) -> Step {
    Step::Truncated(format!("this is no dump of mariadb-dump: it has {what}"))
}

#[cfg(test)]
mod tests;
