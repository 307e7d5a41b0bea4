//! Data larger than memory: records sorted by key on disk, and bytes that are stored for a while.
//!
//! Spill files have no name: they are unlinked before the first byte is written (`O_TMPFILE` if the file system has
//! it), in a folder that only the user can access, so they vanish with the process.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Result, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes of records that are ordered in memory at a time: small enough for caches to help, large enough that
/// a dump of 100 GB makes some two thousand runs.
const ARENA: usize = 48 << 20;
/// Runs that are merged at a time; above that, they are merged into one first.
const FAN_IN: usize = 256;
/// Read from each run at a time. With [`FAN_IN`] that is as much as the arena.
const RUN_BUFFER: usize = 128 << 10;

/// Orders records by key, bytewise. Equal keys come out in no particular order.
pub struct Sorter {
    folder: PathBuf,
    arena: Vec<u8>,
    places: Vec<Place>,
    runs: Vec<File>,
    limit: usize,
}

/// A record in the arena: key, then payload.
#[derive(Clone, Copy)]
struct Place {
    /// The first bytes of the key, so that most comparisons need not look into the arena.
    prefix: u128,
    start: usize,
    key_len: u32,
    len: u32,
}

impl Place {
    fn key<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        &arena[self.start..self.start + self.key_len as usize]
    }
    fn payload<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        &arena[self.start + self.key_len as usize..self.start + self.len as usize]
    }
}

#[expect(clippy::big_endian_bytes, reason = "a number that orders as its bytes do")]
fn prefix(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let len = key.len().min(16);
    bytes[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(bytes)
}

impl Sorter {
    /// One that spills into `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self::with_limit(folder, ARENA)
    }

    /// One that keeps at most `limit` bytes in memory.
    fn with_limit(folder: &Path, limit: usize) -> Self {
        Self { folder: folder.to_owned(), arena: vec![], places: vec![], runs: vec![], limit }
    }

    /// Adds a record, whose payload comes in parts.
    pub fn push(&mut self, key: &[u8], payload: &[&[u8]]) -> Result<()> {
        let len = key.len() + payload.iter().map(|part| part.len()).sum::<usize>();
        if self.arena.len() + len > self.limit && !self.places.is_empty() {
            self.spill()?;
        }
        let too_long = || std::io::Error::other("a record of more than 4 GiB");
        let start = self.arena.len();
        self.arena.extend_from_slice(key);
        for part in payload {
            self.arena.extend_from_slice(part);
        }
        self.places.push(Place {
            prefix: prefix(key),
            start,
            key_len: u32::try_from(key.len()).map_err(|_| too_long())?,
            len: u32::try_from(len).map_err(|_| too_long())?,
        });
        Ok(())
    }

    fn order(&mut self) {
        let arena = &self.arena;
        self.places
            .sort_unstable_by(|a, b| a.prefix.cmp(&b.prefix).then_with(|| a.key(arena).cmp(b.key(arena))));
    }

    fn spill(&mut self) -> Result<()> {
        self.order();
        let mut out = BufWriter::with_capacity(1 << 20, tempfile::tempfile_in(&self.folder)?);
        for place in &self.places {
            write_record(&mut out, place.key(&self.arena), place.payload(&self.arena))?;
        }
        self.runs.push(rewind(out)?);
        self.arena.clear();
        self.places.clear();
        if self.runs.len() >= FAN_IN {
            let mut merged = Merge::new(std::mem::take(&mut self.runs))?;
            let mut out = BufWriter::with_capacity(1 << 20, tempfile::tempfile_in(&self.folder)?);
            while merged.step()? {
                let (key, payload) = merged.record();
                write_record(&mut out, key, payload)?;
            }
            self.runs.push(rewind(out)?);
        }
        Ok(())
    }

    /// All records in order.
    pub fn finish(mut self) -> Result<Sorted> {
        if self.runs.is_empty() {
            self.order();
            return Ok(Sorted(Ordered::Memory { arena: self.arena, places: self.places, next: 0 }));
        }
        if !self.places.is_empty() {
            self.spill()?;
        }
        Ok(Sorted(Ordered::Merged(Merge::new(self.runs)?)))
    }
}

fn rewind(out: BufWriter<File>) -> Result<File> {
    let mut file = out.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

fn write_record(out: &mut impl Write, key: &[u8], payload: &[u8]) -> Result<()> {
    // Both fit: `push` saw to it.
    out.write_all(&(key.len() as u32).to_le_bytes())?;
    out.write_all(&(payload.len() as u32).to_le_bytes())?;
    out.write_all(key)?;
    out.write_all(payload)
}

/// Records in order: call [`Sorted::step`], then [`Sorted::record`].
pub struct Sorted(Ordered);

enum Ordered {
    /// They all fitted; `next` is the one after the current.
    Memory { arena: Vec<u8>, places: Vec<Place>, next: usize },
    /// They did not.
    Merged(Merge),
}

impl Sorted {
    /// Goes to the next record; false at the end.
    pub fn step(&mut self) -> Result<bool> {
        match &mut self.0 {
            Ordered::Memory { places, next, .. } => {
                *next += 1;
                Ok(*next <= places.len())
            }
            Ordered::Merged(merge) => merge.step(),
        }
    }

    /// Key and payload of the current record.
    #[must_use]
    pub fn record(&self) -> (&[u8], &[u8]) {
        match &self.0 {
            Ordered::Memory { arena, places, next } => {
                let place = &places[next - 1];
                (place.key(arena), place.payload(arena))
            }
            Ordered::Merged(merge) => merge.record(),
        }
    }
}

/// One run, and its first record that was not handed out.
struct Run {
    reader: BufReader<File>,
    key: Vec<u8>,
    payload: Vec<u8>,
}

impl Run {
    /// Reads the next record; false at the end.
    fn step(&mut self) -> Result<bool> {
        let mut lens = [0; 8];
        match self.reader.read(&mut lens[..1])? {
            0 => return Ok(false),
            _ => self.reader.read_exact(&mut lens[1..])?,
        }
        let len = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&lens[at..at + 4]);
            u32::from_le_bytes(bytes) as usize
        };
        self.key.resize(len(0), 0);
        self.payload.resize(len(4), 0);
        self.reader.read_exact(&mut self.key)?;
        self.reader.read_exact(&mut self.payload)?;
        Ok(true)
    }
}

impl PartialEq for Run {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}
impl Eq for Run {}
impl PartialOrd for Run {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Run {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key)
    }
}

/// Runs on their way into one.
struct Merge {
    runs: BinaryHeap<Reverse<Run>>,
    started: bool,
}

impl Merge {
    fn new(files: Vec<File>) -> Result<Self> {
        let mut runs = BinaryHeap::with_capacity(files.len());
        for file in files {
            let reader = BufReader::with_capacity(RUN_BUFFER, file);
            let mut run = Run { reader, key: vec![], payload: vec![] };
            if run.step()? {
                runs.push(Reverse(run));
            }
        }
        Ok(Self { runs, started: false })
    }

    fn step(&mut self) -> Result<bool> {
        if !std::mem::replace(&mut self.started, true) {
            return Ok(!self.runs.is_empty());
        }
        let Some(mut top) = self.runs.peek_mut() else { return Ok(false) };
        if !top.0.step()? {
            std::collections::binary_heap::PeekMut::pop(top);
        } else {
            drop(top);
        }
        Ok(!self.runs.is_empty())
    }

    fn record(&self) -> (&[u8], &[u8]) {
        match self.runs.peek() {
            Some(Reverse(run)) => (&run.key, &run.payload),
            None => (&[], &[]),
        }
    }
}

/// Bytes that are written once and then read once: in memory while they are few.
pub struct Aside(tempfile::SpooledTempFile);

/// What an [`Aside`] keeps in memory.
const ASIDE: usize = 4 << 20;

impl Aside {
    /// One that spills into `folder`.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self(tempfile::spooled_tempfile_in(ASIDE, folder))
    }

    /// Back to the beginning, to read.
    pub fn rewind(&mut self) -> Result<()> {
        self.0.seek(SeekFrom::Start(0)).map(|_| ())
    }
}

impl Write for Aside {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> Result<()> {
        self.0.flush()
    }
}

impl Read for Aside {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.0.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(records: &[(Vec<u8>, Vec<u8>)], limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let folder = tempfile::tempdir().unwrap();
        let mut sorter = Sorter::with_limit(folder.path(), limit);
        for (key, payload) in records {
            let (head, tail) = payload.split_at(payload.len() / 2);
            sorter.push(key, &[head, tail]).unwrap();
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no spill file has a name");
        let mut sorted = sorter.finish().unwrap();
        let mut out = vec![];
        while sorted.step().unwrap() {
            let (key, payload) = sorted.record();
            out.push((key.to_vec(), payload.to_vec()));
        }
        out
    }

    proptest! {
        #[test]
        fn in_memory_and_outside_of_it_alike(
            records in proptest::collection::vec((proptest::collection::vec(0u8..4, 0..20), any::<[u8; 3]>()), 0..300),
            limit in 1usize..2000,
        ) {
            let records: Vec<_> = records.into_iter().map(|(key, payload)| (key, payload.to_vec())).collect();
            let mut expected = records.clone();
            expected.sort();
            let mut found = sorted(&records, limit);
            // Keys are in order; payloads of equal keys in any.
            prop_assert!(found.is_sorted_by_key(|record| record.0.clone()));
            found.sort();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn more_runs_than_are_merged_at_a_time() {
        let records: Vec<_> = (0..2000u32)
            .map(|number| (number.wrapping_mul(2_654_435_761).to_le_bytes().to_vec(), vec![7]))
            .collect();
        let found = sorted(&records, 5);
        assert_eq!(found.len(), 2000);
        assert!(found.is_sorted());
    }
}
