//! Tables into a database: the client reads their stretches of the dump, with a mark behind each, so that it is known which
//! of them the server refused.

use super::Work;
use super::client::{Files, write};
use crate::dump::{Index, Lexer};
use crate::server::{error_number, quoted};
use engine::restore::dump_ranges;
use engine::source::SourceErrorKind;
use engine::{Error, Result};
use std::collections::VecDeque;
use std::io::Write;

/// A table's name and where it is in a dump.
pub(super) type Stretch = (String, u64, u64);

/// Puts a mark behind each of the stretches that pass through it.
struct Marked<'w> {
    out: &'w mut dyn Write,
    mark: String,
    /// Lengths that are still to come.
    left: VecDeque<u64>,
}

impl Write for Marked<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let Some(first) = self.left.front_mut() else { return self.out.write(bytes) };
        let len = bytes.len().min(usize::try_from(*first).unwrap_or(usize::MAX));
        self.out.write_all(&bytes[..len])?;
        *first -= len as u64;
        if *first == 0 {
            self.left.pop_front();
            self.out.write_all(self.mark.as_bytes())?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

impl Work<'_> {
    /// Tables of a dump that are to come back, in its order.
    pub(super) fn chosen(&self, index: &Index) -> Vec<Stretch> {
        let tables = &self.options.selection.tables;
        let mut chosen = index.tables.clone();
        if let (true, Some(first)) = (tables.is_empty(), chosen.first_mut()) {
            first.1 = index.body;
        }
        chosen.retain(|(name, ..)| tables.is_empty() || tables.contains(name));
        chosen
    }

    /// Makes `tables` in `schema`, which is for the database `target`; `begin` comes before them. With `keep_going` one that the
    /// server refuses is told and left out.
    pub(super) fn fill(
        &self,
        [schema, target]: [&str; 2],
        begin: &str,
        path: &str,
        index: &Index,
        tables: &[Stretch],
    ) -> Result<u64> {
        let (mut next, mut bytes) = (0, 0);
        self.phase(target, "tables", tables.iter().map(|(_, from, to)| to - from).sum());
        let mode = match self.options.no_tablespaces {
            true => "SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO,NO_DIR_IN_CREATE';\n",
            false => "",
        };
        loop {
            let left = &tables[next..];
            let ranges: Vec<(u64, u64)> = left.iter().map(|(_, from, to)| (*from, *to)).collect();
            let fed = self.feed(&Files::Stay, &mut |out, mark| {
                let (repo, snapshot, path) = (self.repo, self.snapshot, path.as_bytes());
                let head = dump_ranges(repo, snapshot, path, &[(0, index.head)], out, self.monitor)?;
                let lock = self.locks.at_work();
                write(out, &format!("\n{lock};\n{mode}{begin}USE {};\n{mark}", quoted(schema)))?;
                let left = ranges.iter().map(|(from, to)| to - from).collect();
                let mut marked = Marked { out, mark: format!("\n{mark}"), left };
                Ok(head + dump_ranges(repo, snapshot, path, &ranges, &mut marked, self.monitor)?)
            })?;
            bytes += fed.bytes;
            let Some(why) = fed.refused else { return Ok(bytes) };
            let failed = |why: String| Error::from(self.server.error(SourceErrorKind::Command, why));
            let table = fed.marks.checked_sub(1).and_then(|done| left.get(done));
            let Some((table, ..)) = table else { return Err(failed(why)) };
            let why = self.explained(why);
            if !self.options.keep_going {
                return Err(failed(format!(
                    "table '{target}.{table}': {why}; --keep-going leaves it out and restores the others"
                )));
            }
            // One that is gone would refuse them all.
            self.server.query("SELECT 1")?;
            let drop = format!("DROP TABLE IF EXISTS {}.{}", quoted(schema), quoted(table));
            self.statements(&["SET foreign_key_checks = 0".into(), drop])?;
            self.tell(format!("table {target}.{table}"), &format!("left out: {why}"));
            next += fed.marks;
        }
    }

    /// What the server says, and what may be done about it.
    fn explained(&self, why: String) -> String {
        let number = error_number(&why);
        if matches!(number, Some(1153 | 2006 | 2013)) {
            let limit = self.limit().map_or_else(|_| "?".to_owned(), |limit| limit.to_string());
            return format!(
                "{why}; it hangs up when a row is larger than its max_allowed_packet ({limit} bytes)"
            );
        }
        match matches!(number, Some(1 | 29 | 1005 | 1030)) && why.contains('/') {
            true => format!("{why}; --no-tablespaces makes tables where the server puts them"),
            false => why,
        }
    }

    /// The longest statement that the server takes, in bytes.
    pub(super) fn limit(&self) -> Result<u64> {
        let rows = self.server.query("SELECT @@global.max_allowed_packet")?;
        let limit = rows.first().and_then(|row| row.first()).and_then(|limit| limit.parse().ok());
        Ok(limit.unwrap_or(u64::MAX))
    }

    /// That the server takes the longest statement of the tables of a dump.
    pub(super) fn fits(&self, longest: &Longest, target: &str, index: &Index) -> Result<()> {
        let limit = self.limit()?;
        // The command is a byte, too.
        if longest.len < limit || self.options.keep_going {
            return Ok(());
        }
        let has = |(_, from, to): &&Stretch| (*from..*to).contains(&longest.at);
        let table = index.tables.iter().find(has).map_or("", |(table, ..)| table.as_str());
        Err(self.refused(format!(
            "table '{target}.{table}' has a row that needs a statement of {} bytes, and the server's max_allowed_packet is {limit}: SET GLOBAL max_allowed_packet = 1073741824, then restore again",
            longest.len
        )))
    }
}

/// Finds the longest statement of what passes through it.
pub(super) struct Longest {
    lexer: Lexer,
    unread: Vec<u8>,
    /// Stretches of the dump that come, one after the other.
    ranges: Vec<(u64, u64)>,
    position: u64,
    begin: u64,
    /// Its length in bytes.
    pub(super) len: u64,
    /// Its end in the stretches' dump.
    pub(super) at: u64,
}

impl Longest {
    pub(super) fn new(ranges: Vec<(u64, u64)>) -> Self {
        let (lexer, unread) = (Lexer::new(), vec![]);
        Self { lexer, unread, ranges, position: 0, begin: 0, len: 0, at: 0 }
    }

    /// Where in the dump the byte before `position` is.
    fn place(&self) -> u64 {
        let mut left = self.position.saturating_sub(1);
        for (from, to) in &self.ranges {
            match left.checked_sub(to - from) {
                Some(more) => left = more,
                None => return from + left,
            }
        }
        u64::MAX
    }
}

impl Write for Longest {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut unread = std::mem::take(&mut self.unread);
        // What comes behind them is not of tables.
        let all: u64 = self.ranges.iter().map(|(from, to)| to - from).sum();
        let left = all.saturating_sub(self.position + unread.len() as u64);
        let own = &bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        let mut rest = match unread.is_empty() {
            true => own,
            false => {
                unread.extend_from_slice(own);
                &unread
            }
        };
        loop {
            let (len, is_end) = self.lexer.read(rest, false);
            rest = &rest[len..];
            self.position += len as u64;
            if is_end {
                if self.position - self.begin > self.len {
                    (self.len, self.at) = (self.position - self.begin, self.place());
                }
                self.begin = self.position;
            } else if len == 0 {
                self.unread = rest.to_vec();
                return Ok(bytes.len());
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stand_between_stretches() {
        for part in [1, 2, 100] {
            let mut out = vec![];
            let mut marked = Marked { out: &mut out, mark: "|".into(), left: [2, 1, 3].into() };
            for bytes in b"aabcccd".chunks(part) {
                marked.write_all(bytes).unwrap();
            }
            assert_eq!(out, b"aa|b|ccc|d");
        }
    }

    #[test]
    fn the_longest_statement_and_its_table() {
        let text = b"SET x;INSERT INTO a VALUES ('it;s \\' long');INSERT b;";
        for part in [1, 3, 100] {
            let mut longest = Longest::new(vec![(0, 6), (100, 147)]);
            for bytes in text.chunks(part).chain([&[b'x'; 100][..], b";"]) {
                longest.write_all(bytes).unwrap();
            }
            assert_eq!((longest.len, longest.at), (38, 137));
        }
    }
}
