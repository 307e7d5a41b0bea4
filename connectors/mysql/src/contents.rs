//! The tables and views of a database's dump, for `ls`, `find`, `dump` and `diff`, by the index beside it.

use crate::dump::{Index, Kind};
use connector_kit::members::{Dump, Layout, Place, unwritten, written};
use connector_kit::tables::{Dumps, Table, Tables, changes};
use engine::connector::Origin;
use engine::connector::contents::{Change, Output};
use engine::monitor::Tally;
use engine::restore::{dump, dump_ranges};
use engine::{Error, Result};
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;

/// Dumps of databases.
pub(crate) struct Databases;

pub(crate) const LAYOUT: Layout = Databases::LAYOUT;

/// A table or a view.
struct Stretch {
    name: String,
    kind: &'static str,
    from: u64,
    to: u64,
}

/// A database's dump, and where everything is in it.
pub(crate) struct Stored<'a> {
    from: Origin<'a>,
    path: String,
    head: u64,
    stretches: Vec<Stretch>,
}

impl<'a> Stored<'a> {
    fn open(from: Origin<'a>, dumped: &Dump) -> Result<Self> {
        from.repo.sync_index(&Tally::default())?;
        let (path, mut bytes) = (format!("{}.index", dumped.path), vec![]);
        dump(from.repo, &from.snapshot.snapshot, path.as_bytes(), &mut bytes, &Tally::default())?;
        let index = Index::read(&bytes).map_err(|why| Error::Malformed { what: path, why })?;
        let tables = index.tables.into_iter();
        let tables = tables.map(|(name, from, to)| Stretch { name, kind: "table", from, to });
        let views = index.objects.into_iter().filter(|object| object.kind == Kind::View);
        let views = views.map(|view| Stretch { name: view.name, kind: "view", from: view.from, to: view.to });
        let stretches = tables.chain(views).collect();
        Ok(Self { from, path: dumped.path.clone(), head: index.head, stretches })
    }

    fn ranges(&self, ranges: &[(u64, u64)], out: &mut dyn Write) -> Result<u64> {
        let snapshot = &self.from.snapshot.snapshot;
        dump_ranges(self.from.repo, snapshot, self.path.as_bytes(), ranges, out, &Tally::default())
    }

    /// A hash of each table and view by its name; all are read once.
    fn digests(&self) -> Result<BTreeMap<&str, blake3::Hash>> {
        let ranges: Vec<(u64, u64)> = self.stretches.iter().map(|one| (one.from, one.to)).collect();
        let left = ranges.iter().map(|(from, to)| to.saturating_sub(*from)).collect();
        let mut hashes = Hashes { left, current: Lines::default(), done: vec![] };
        hashes.next();
        self.ranges(&ranges, &mut hashes)?;
        if hashes.done.len() != self.stretches.len() {
            let why = "it is shorter than its index says".to_owned();
            return Err(Error::Malformed { what: self.path.clone(), why });
        }
        Ok(self.stretches.iter().map(|one| one.name.as_str()).zip(hashes.done).collect())
    }
}

/// Beginnings of comments that say where the server's log stood: another place every time, and nothing of a table.
const PLACES: &[&[u8]] = &[b"-- CHANGE MASTER TO ", b"-- SET GLOBAL gtid_slave_pos="];
/// Bytes of a line that tell what it is.
const TELLING: usize = 32;

/// A hash of lines, without those of [`PLACES`].
#[derive(Default)]
struct Lines {
    hasher: blake3::Hasher,
    /// The beginning of a line of which nobody knows yet what it is.
    head: Vec<u8>,
    /// Whether the line that is being read counts, once that is known.
    counts: Option<bool>,
}

impl Lines {
    fn update(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            match self.counts {
                Some(true) => drop(self.hasher.update(part)),
                Some(false) => {}
                None => {
                    self.head.extend_from_slice(part);
                    if self.head.len() >= TELLING || part.ends_with(b"\n") {
                        self.decide();
                    }
                }
            }
            if part.ends_with(b"\n") {
                self.counts = None;
            }
        }
    }

    fn decide(&mut self) {
        let counts = !PLACES.iter().any(|place| self.head.starts_with(place));
        if counts {
            self.hasher.update(&self.head);
        }
        self.head.clear();
        self.counts = Some(counts);
    }

    fn finish(&mut self) -> blake3::Hash {
        if !self.head.is_empty() {
            self.decide();
        }
        std::mem::take(self).hasher.finalize()
    }
}

/// Hashes of stretches that come one after the other.
struct Hashes {
    /// Lengths that are still to come.
    left: VecDeque<u64>,
    current: Lines,
    done: Vec<blake3::Hash>,
}

impl Hashes {
    /// Ends the stretches of which nothing is left.
    fn next(&mut self) {
        while self.left.front() == Some(&0) {
            self.left.pop_front();
            self.done.push(self.current.finish());
        }
    }
}

impl Write for Hashes {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let Some(first) = self.left.front_mut() else { return Ok(bytes.len()) };
        let len = bytes.len().min(usize::try_from(*first).unwrap_or(usize::MAX));
        self.current.update(bytes.get(..len).unwrap_or_default());
        *first -= len as u64;
        self.next();
        Ok(len)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Dumps for Databases {
    const LAYOUT: Layout =
        Layout { kind: "mysql", folder: "databases", ending: Some(".sql"), is_folder: false };
    const PATH: &'static str = "DATABASE/TABLE";
    type Stored<'a> = Stored<'a>;

    fn open<'a>(from: Origin<'a>, dump: &Dump) -> Result<Stored<'a>> {
        Stored::open(from, dump)
    }
}

impl Tables for Stored<'_> {
    fn tables(&self) -> Vec<Table> {
        let table = |one: &Stretch| Table {
            name: one.name.clone().into_bytes(),
            kind: one.kind.to_owned(),
            size: Some(one.to.saturating_sub(one.from)),
        };
        self.stretches.iter().map(table).collect()
    }

    /// The settings that the dump begins with, then the statements that make it.
    fn read(&self, place: &Place, out: Output<'_>) -> Result<Option<u64>> {
        let found = self.stretches.iter().find(|one| place.is_called(one.name.as_bytes()));
        let write = |found: &Stretch| {
            written(out, |out| {
                self.ranges(&[(0, self.head)], out)?;
                out.write_all(b"\n").map_err(unwritten)?;
                self.ranges(&[(found.from, found.to)], out).map(drop)
            })
        };
        found.map(write).transpose()
    }

    fn changes(&self, newer: &Self) -> Result<Vec<(Change, Vec<u8>)>> {
        let (before, after) = (self.digests()?, newer.digests()?);
        let changes = changes(&before, &after, |_, one, other| one != other);
        Ok(changes.into_iter().map(|(change, name)| (change, name.as_bytes().to_vec())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn where_the_log_stood_is_nothing_of_a_table() {
        let hash = |text: &str, part: usize| {
            let mut lines = Lines::default();
            text.as_bytes().chunks(part).for_each(|part| lines.update(part));
            lines.finish()
        };
        let one = "CREATE TABLE `a` (b int);\n-- SET GLOBAL gtid_slave_pos='0-1-9';\n-- a comment\nx";
        let other = one.replace("0-1-9", "0-1-17");
        for part in [1, 7, 1000] {
            assert_eq!(hash(one, part), hash(&other, part));
            assert_ne!(hash(one, part), hash(&one.replace("a comment", "another"), part));
            assert_ne!(hash(one, part), hash(&one.replace('b', "c"), part));
        }
    }
}
