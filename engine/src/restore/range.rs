//! Ranges of one entry: only their chunks are read.

use crate::entry::{Kind, display_path};
use crate::manifest::{Ending, ManifestReader, Record, Step};
use crate::snapshot::Snapshot;
use crate::{Counter, Error, Monitor, Repository, Result};
use chunkstore::ingest::ChunkRef;
use std::io::Write;

/// A piece of an entry that a stretch touches.
enum Piece {
    Chunk(ChunkRef),
    Hole(u64),
}

/// Writes stretches of an entry, from and to in bytes, one after the other.
pub fn dump_ranges(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &[u8],
    ranges: &[(u64, u64)],
    out: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<u64> {
    let pieces = pieces(repo, snapshot, path, ranges)?;
    let mut written = 0;
    for &(from, to) in ranges {
        for (start, piece) in &pieces {
            let len = match piece {
                Piece::Chunk(chunk) => u64::from(chunk.len),
                Piece::Hole(len) => *len,
            };
            let (first, last) = (from.max(*start), to.min(start + len));
            if first >= last {
                continue;
            }
            let failed = |source| Error::Target { op: "write to", path: "a program".into(), source };
            match piece {
                Piece::Chunk(chunk) => {
                    let bytes = chunkstore::reader::read_all(repo.store(), &[*chunk])?;
                    out.write_all(&bytes[(first - start) as usize..(last - start) as usize])
                        .map_err(failed)?;
                }
                Piece::Hole(_) => {
                    let zeros = std::io::Read::take(std::io::repeat(0), last - first);
                    std::io::copy(&mut { zeros }, out).map_err(failed)?;
                }
            }
            written += last - first;
            monitor.count(Counter::BytesDone, last - first);
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
    }
    Ok(written)
}

/// The pieces of an entry that any of the ranges overlaps, and their offset.
fn pieces(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &[u8],
    ranges: &[(u64, u64)],
) -> Result<Vec<(u64, Piece)>> {
    let mut reader = ManifestReader::new(repo.store(), &snapshot.manifest)?;
    let (mut inside, mut at, mut pieces) = (false, 0, vec![]);
    let is_wanted = |at: u64, len: u64| ranges.iter().any(|(from, to)| at < *to && at + len > *from);
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Record(Record::Entry(entry)) => inside = entry.path == path && entry.kind == Kind::File,
            Step::Record(Record::Chunks(chunks)) if inside => {
                for chunk in chunks {
                    let len = u64::from(chunk.len);
                    if is_wanted(at, len) {
                        pieces.push((at, Piece::Chunk(chunk)));
                    }
                    at += len;
                }
            }
            Step::Record(Record::Hole(len)) if inside => {
                if is_wanted(at, len) {
                    pieces.push((at, Piece::Hole(len)));
                }
                at += len;
            }
            Step::Record(Record::End(Ending::Complete, _)) if inside => return Ok(pieces),
            Step::Record(Record::End(..)) if inside => {
                (at, inside) = (0, false);
                pieces.clear();
            }
            Step::Damage(damage) => return Err(damage.error.into()),
            Step::Record(_) => {}
        }
    }
    Err(Error::NoEntry { path: display_path(path) })
}
