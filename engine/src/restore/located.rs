//! Where the content of files of a snapshot lies: looked up once for many of them, and then read in any order, by several
//! threads, whole or in stretches.

use crate::entry::{Kind, display_path, is_beneath};
use crate::manifest::{Ending, ManifestReader, Record, Step, is_behind};
use crate::snapshot::Snapshot;
use crate::{Counter, Error, Monitor, Repository, Result};
use chunkstore::ingest::ChunkRef;
use chunkstore::reader::{Fetched, ReadAhead};
use std::collections::BTreeMap;
use std::ops::Range;

/// A chunk, or a hole, and where it begins.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Where it begins in the content, in bytes.
    pub at: u64,
    /// Its bytes.
    pub len: u64,
    /// The chunk; none of a hole, which is all zeros.
    pub chunk: Option<ChunkRef>,
}

/// The content of one file: 64 bytes of memory for each of its chunks.
#[derive(Clone, Debug, Default)]
pub struct Located {
    pieces: Vec<Piece>,
    len: u64,
}

impl Located {
    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn push(&mut self, len: u64, chunk: Option<ChunkRef>) {
        self.pieces.push(Piece { at: self.len, len, chunk });
        self.len += len;
    }

    /// Where the chunk that the byte `at` is in ends; the content's end if there is none.
    #[must_use]
    pub fn chunk_end(&self, at: u64) -> u64 {
        let next = self.pieces.partition_point(|piece| piece.at <= at);
        self.pieces.get(next).map_or(self.len, |piece| piece.at)
    }

    /// The chunks and holes that a range overlaps, in order.
    #[must_use]
    pub fn pieces_of(&self, range: &Range<u64>) -> &[Piece] {
        if range.is_empty() {
            return &[];
        }
        let from = self.pieces.partition_point(|piece| piece.at + piece.len <= range.start);
        let to = self.pieces.partition_point(|piece| piece.at < range.end);
        self.pieces.get(from..to).unwrap_or_default()
    }
}

/// The content of one file of a snapshot, by its path as in [`super::dump()`]; the index must be in step.
///
/// # Errors
/// [`Error::NoEntry`] if there is none; what is damaged before it in the same chunk of the manifest.
pub fn locate(repo: &Repository, snapshot: &Snapshot, path: &[u8]) -> Result<Located> {
    let found = located(repo, snapshot, path, &|entry| entry == path)?.remove(path);
    found.ok_or_else(|| Error::NoEntry { path: display_path(path) })
}

/// The content of all files at or beneath a path that are wanted, by their paths, from one pass over that part of the
/// manifest; the index must be in step.
///
/// # Errors
/// What is damaged in that part.
pub fn located(
    repo: &Repository,
    snapshot: &Snapshot,
    beneath: &[u8],
    is_wanted: &dyn Fn(&[u8]) -> bool,
) -> Result<BTreeMap<Vec<u8>, Located>> {
    let mut reader = ManifestReader::from_path(repo.store(), &snapshot.manifest, beneath)?;
    let mut all = BTreeMap::new();
    let mut open: Option<(Vec<u8>, Located)> = None;
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Record(Record::Entry(entry)) => {
                if is_behind(&entry.path, beneath) {
                    break;
                }
                let is_one = entry.kind == Kind::File && is_beneath(&entry.path, beneath);
                open = (is_one && is_wanted(&entry.path)).then(|| (entry.path, Located::default()));
            }
            Step::Record(Record::Chunks(chunks)) => {
                if let Some((_, content)) = &mut open {
                    chunks.iter().for_each(|chunk| content.push(u64::from(chunk.len), Some(*chunk)));
                }
            }
            Step::Record(Record::Hole(len)) => {
                open.iter_mut().for_each(|(_, content)| content.push(len, None));
            }
            Step::Record(Record::End(Ending::Complete, _)) => all.extend(open.take()),
            Step::Record(Record::End(Ending::Dropped, _)) => open = None,
            Step::Damage(damage) => return Err(damage.error.into()),
        }
    }
    Ok(all)
}

/// A stretch of a file's content.
#[derive(Clone, Debug)]
pub struct Stretch<'a> {
    /// The file's.
    pub content: &'a Located,
    /// From and to, in bytes.
    pub range: Range<u64>,
}

/// What stands between what is fetched.
#[derive(Clone, Copy)]
struct Place {
    stretch: usize,
    piece: Piece,
}

/// Hands over the bytes of stretches, one after the other, each with the number of its stretch; chunks of all of them are
/// fetched ahead, so that small files follow each other without a pause. `readers` is how many such calls run at a time, which
/// share what may be fetched ahead. Counts [`Counter::BytesDone`].
///
/// # Errors
/// The first of `each`, [`Error::Interrupted`], or what is damaged or cannot be read.
pub fn read_stretches(
    repo: &Repository,
    stretches: &[Stretch<'_>],
    readers: usize,
    each: &mut dyn FnMut(usize, &[u8]) -> Result<()>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut ahead = ReadAhead::shared(repo.store(), readers);
    for (number, stretch) in stretches.iter().enumerate() {
        for piece in stretch.content.pieces_of(&stretch.range) {
            let place = Place { stretch: number, piece: *piece };
            match piece.chunk {
                Some(chunk) => ahead.request(chunk, place)?,
                None => ahead.token(place)?,
            }
            while ahead.is_full() {
                take(&mut ahead, stretches, each, monitor)?;
            }
        }
    }
    while take(&mut ahead, stretches, each, monitor)? {}
    Ok(())
}

/// Hands over what was asked for first; `false` if nothing is left.
fn take(
    ahead: &mut ReadAhead<Place>,
    stretches: &[Stretch<'_>],
    each: &mut dyn FnMut(usize, &[u8]) -> Result<()>,
    monitor: &dyn Monitor,
) -> Result<bool> {
    let Some(batch) = ahead.take()? else { return Ok(false) };
    for fetched in batch {
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
        let (bytes, place) = match fetched {
            Fetched::Chunk(bytes, place) => (Some(bytes?), place),
            Fetched::Token(place) => (None, place),
        };
        let Some(range) = stretches.get(place.stretch).map(|stretch| &stretch.range) else { continue };
        let Piece { at, len, .. } = place.piece;
        let (from, to) = (range.start.max(at), range.end.min(at + len));
        match &bytes {
            Some(bytes) => {
                let part = bytes.get((from - at) as usize..(to - at) as usize).unwrap_or_default();
                each(place.stretch, part)?;
            }
            None => zeros(to - from, &mut |zeros| each(place.stretch, zeros))?,
        }
        monitor.count(Counter::BytesDone, to - from);
        if let Some(bytes) = bytes {
            ahead.recycle(bytes);
        }
    }
    Ok(true)
}

/// A hole as bytes.
fn zeros(mut len: u64, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let zeros = [0u8; 64 << 10];
    while len > 0 {
        let step = usize::try_from(len).unwrap_or(usize::MAX).min(zeros.len());
        each(&zeros[..step])?;
        len -= step as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::ChunkId;

    #[test]
    fn stretches_touch_the_chunks_that_they_overlap() {
        let mut content = Located::default();
        let chunk = |number: u8| Some(ChunkRef { id: ChunkId([number; 32]), len: 10 });
        content.push(10, chunk(0));
        content.push(10, chunk(1));
        content.push(5, None);
        content.push(10, chunk(2));
        let at = |range: Range<u64>| -> Vec<u64> {
            content.pieces_of(&range).iter().map(|piece| piece.at).collect()
        };
        assert_eq!(content.len(), 35);
        for (range, wanted) in [
            (0..35, vec![0, 10, 20, 25]),
            (0..1, vec![0]),
            (9..10, vec![0]),
            (10..11, vec![10]),
            (9..11, vec![0, 10]),
            (19..26, vec![10, 20, 25]),
            (5..5, vec![]),
            (35..40, vec![]),
        ] {
            assert_eq!(at(range.clone()), wanted, "{range:?}");
        }
        for (at, end) in [(0, 10), (9, 10), (10, 20), (24, 25), (25, 35), (34, 35), (35, 35)] {
            assert_eq!(content.chunk_end(at), end, "{at}");
        }
    }
}
