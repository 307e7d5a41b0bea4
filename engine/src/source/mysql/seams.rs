//! Where a dump of several databases comes apart, and where tables begin in it. Every seam is a comment of three lines at the
//! beginning of a line, which rows cannot hold: their line feeds are escaped.
//! Source: `client/mysqldump.c` of MariaDB (`print_comment`).

use crate::source::{Piece, SourceError};
use memchr::memmem;
use serde::{Deserialize, Serialize};

/// Where the parts of a database's dump are, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// End of the settings that every part needs; `CREATE DATABASE` and `USE` follow.
    pub head: u64,
    /// Tables: name, beginning and end.
    pub tables: Vec<(String, u64, u64)>,
}

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

const SEAM: &[u8] = b"\n--\n-- ";
const DATABASE: &[u8] = b"Current Database: ";
const TABLE: &[u8] = b"Table structure for table `";
/// Seams after which no table goes on.
const OTHERS: &[&[u8]] = &[
    b"Temporary table structure for view",
    b"Dumping events for",
    b"Dumping routines for",
    b"Final view structure",
];
/// A seam's third line is not longer.
const LONGEST: usize = 1024;
/// Read at a time.
const READ: usize = 256 << 10;
/// A table gets chunks of its own if so much came before it.
const WORTH_A_CUT: u64 = 32 << 10;
/// The end of the whole, and of each part that is made of it.
const COMPLETED: &[u8] = b"-- Dump completed";
const END: &[u8] = b"\n-- Dump completed\n";

/// Takes a dump apart.
pub(super) struct Seams {
    /// Quoted names of the databases, in order; the first is the current one.
    names: std::collections::VecDeque<String>,
    buffer: Vec<u8>,
    at: usize,
    /// Bytes from `at` that can be passed on; a seam, or what may become one, follows.
    clear: usize,
    over: bool,
    /// The settings at the beginning.
    head: Vec<u8>,
    /// What is put before a database's own bytes, and behind them.
    given: Vec<u8>,
    state: State,
    index: Index,
    /// Bytes of the current database so far, and since the last cut.
    written: u64,
    since_cut: u64,
    cut: bool,
    /// The end of what was read.
    tail: Vec<u8>,
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
}

impl Seams {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self {
            names: names.into(),
            buffer: vec![],
            at: 0,
            clear: 0,
            over: false,
            head: vec![],
            given: vec![],
            state: State::Head,
            index: Index::default(),
            written: 0,
            since_cut: 0,
            cut: false,
            tail: vec![],
        }
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
        let from = self.buffer.len().saturating_sub(64).max(old.min(self.buffer.len()));
        self.tail.extend_from_slice(&self.buffer[from..]);
        let surplus = self.tail.len().saturating_sub(64);
        self.tail.drain(..surplus);
        Ok(piece)
    }

    /// The next seam at or behind `at`: where, and its third line; or how much is clear of any.
    fn look(&self) -> Result<(usize, &[u8]), usize> {
        let bytes = &self.buffer[self.at..];
        let Some(found) = memmem::find(bytes, SEAM) else {
            let keep = if self.over { 0 } else { SEAM.len() - 1 };
            return Err(bytes.len().saturating_sub(keep));
        };
        let line = &bytes[found + SEAM.len()..];
        let end = memchr::memchr(b'\n', &line[..line.len().min(LONGEST)]);
        match end {
            Some(end) => Ok((found, &line[..end])),
            None if line.len() >= LONGEST || self.over => Ok((found, &[])),
            None => Err(found),
        }
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
            if self.state == State::Ending {
                self.state = State::Between;
                self.names.pop_front();
                self.end_table();
                let index = std::mem::take(&mut self.index);
                (self.written, self.since_cut) = (0, 0);
                return Step::End(index);
            }
            if self.state == State::Between {
                // Behind the last there is nothing to begin; a caller that knows its databases does not come here.
                self.begin();
                continue;
            }
            if self.clear > 0 {
                let len = buffer.len().min(self.clear);
                buffer[..len].copy_from_slice(&self.buffer[self.at..self.at + len]);
                self.at += len;
                self.clear -= len;
                self.count(len);
                return Step::Bytes(len);
            }
            match self.look() {
                Err(0) if self.over => {
                    if self.state == State::Head || self.names.len() != 1 {
                        return Step::Truncated("the dump lacks databases: it is not whole".into());
                    }
                    if memmem::find(&self.tail, COMPLETED).is_none() {
                        return Step::Truncated(
                            "the dump's closing comment is missing: it is not whole".into(),
                        );
                    }
                    self.state = State::Ending;
                }
                Err(0) => return Step::More,
                Err(clear) if self.state == State::Head => {
                    if self.over {
                        return Step::Truncated("the dump lacks its databases: it is not whole".into());
                    }
                    self.head.extend_from_slice(&self.buffer[self.at..self.at + clear]);
                    self.at += clear;
                    return Step::More;
                }
                Err(clear) => self.clear = clear,
                Ok((0, line)) => {
                    let line = line.to_vec();
                    self.seam(&line);
                }
                Ok((found, _)) if self.state == State::Head => {
                    self.head.extend_from_slice(&self.buffer[self.at..self.at + found]);
                    self.at += found;
                }
                Ok((found, _)) => self.clear = found,
            }
        }
    }

    fn count(&mut self, len: usize) {
        self.written += len as u64;
        self.since_cut += len as u64;
    }

    /// A seam is next.
    fn seam(&mut self, line: &[u8]) {
        let next = if self.state == State::Head { 0 } else { 1 };
        let is_next = line
            .strip_prefix(DATABASE)
            .is_some_and(|name| self.names.get(next).is_some_and(|next| next.as_bytes() == name));
        if is_next {
            match self.state {
                State::Head => self.begin(),
                _ => {
                    self.given = END.to_vec();
                    self.state = State::Ending;
                    return;
                }
            }
        } else if self.state == State::Head {
            // Of the binary log's position, for one.
            self.head.push(self.buffer[self.at]);
            self.at += 1;
            return;
        } else if let Some(name) = line.strip_prefix(TABLE) {
            self.end_table();
            let name = name.strip_suffix(b"`").unwrap_or(name);
            let name = String::from_utf8_lossy(name).replace("``", "`");
            self.index.tables.push((name, self.written, 0));
            self.cut = self.since_cut >= WORTH_A_CUT;
        } else if OTHERS.iter().any(|other| line.starts_with(other)) {
            self.end_table();
        }
        // Past its first byte, so that it is not found again.
        self.clear = 1;
    }

    /// A database begins, with the settings before it.
    fn begin(&mut self) {
        self.given.clone_from(&self.head);
        self.index.head = self.head.len() as u64;
        self.state = State::Inside;
        self.clear = 1;
    }

    fn end_table(&mut self) {
        let written = self.written;
        if let Some((_, _, end)) = self.index.tables.last_mut().filter(|(_, _, end)| *end == 0) {
            *end = written;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "/* set */;\n\n--\n-- Position\n--\n\n-- CHANGE MASTER TO MASTER_LOG_FILE='bin.000003', MASTER_LOG_POS=345;\n";

    fn section(name: &str, body: &str) -> String {
        format!(
            "\n--\n-- Current Database: `{name}`\n--\n\nCREATE DATABASE `{name}`;\n\nUSE `{name}`;\n{body}"
        )
    }

    fn table(name: &str, rows: usize) -> String {
        let rows = "INSERT INTO x VALUES ('\\n--\\n-- Current Database: `b`');\n".repeat(rows);
        format!(
            "\n--\n-- Table structure for table `{name}`\n--\n\nCREATE TABLE;\n\n--\n-- Dumping data for table `{name}`\n--\n\n{rows}"
        )
    }

    /// The parts of a dump, each with its index and where it was cut.
    fn take(dump: &str, names: &[&str], part: usize) -> Result<Vec<(String, Index, usize)>, String> {
        let mut seams = Seams::new(names.iter().map(|name| format!("`{name}`")).collect());
        let (mut bytes, mut all) = (dump.as_bytes(), vec![]);
        let (mut text, mut cuts) = (vec![], 0);
        let mut buffer = vec![0; 1000];
        while all.len() < names.len() {
            match seams.step(&mut buffer) {
                Step::Bytes(len) => text.extend_from_slice(&buffer[..len]),
                Step::Cut => cuts += 1,
                Step::End(index) => {
                    all.push((String::from_utf8(std::mem::take(&mut text)).unwrap(), index, cuts));
                    cuts = 0;
                }
                Step::Truncated(why) => return Err(why),
                Step::More => {
                    let mut read = |space: &mut [u8]| {
                        let len = part.min(bytes.len());
                        space[..len].copy_from_slice(&bytes[..len]);
                        bytes = &bytes[len..];
                        Ok(if len == 0 { Piece::End } else { Piece::Data(len) })
                    };
                    seams.fill(&mut read).unwrap();
                }
            }
        }
        assert_eq!(seams.position(), Some(("bin.000003".into(), "345".into())));
        Ok(all)
    }

    #[test]
    fn databases_and_tables() {
        // A procedure may say anything.
        let odd = "\n--\n-- Dumping routines for database 'a'\n--\nCREATE PROCEDURE p() BEGIN\n--\n-- Current Database: `nowhere`\n--\nEND\n";
        let dump = [
            HEAD,
            &section("a", &(table("t", 1000) + &table("u``v", 10) + odd)),
            &section("b", ""),
            &section("c", &table("t", 1)),
            "\n/* unset */;\n\n-- Dump completed\n",
        ]
        .concat();
        for part in [1, 7, 1000, 1 << 20] {
            let all = take(&dump, &["a", "b", "c"], part).unwrap();
            for ((text, index, _), name) in all.iter().zip(["a", "b", "c"]) {
                assert!(text.starts_with(HEAD) && text.ends_with("-- Dump completed\n"), "{text}");
                assert!(
                    text[index.head as usize..].starts_with(&format!("\n--\n-- Current Database: `{name}`"))
                );
            }
            let (text, index, cuts) = &all[0];
            assert_eq!(*cuts, 1);
            let names: Vec<&str> = index.tables.iter().map(|(name, ..)| name.as_str()).collect();
            assert_eq!(names, ["t", "u`v"]);
            let (_, from, to) = index.tables[1];
            assert_eq!(text[from as usize..to as usize], table("u``v", 10));
            assert!(text.contains("nowhere"));
        }
        for at in (0..dump.len() - 1).step_by(97).chain([dump.len() - 10]) {
            assert!(take(&dump[..at], &["a", "b", "c"], 4096).is_err(), "cut at {at}");
        }
    }
}
