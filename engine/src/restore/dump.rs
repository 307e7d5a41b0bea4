//! One file or stream of a snapshot as a stream: fetched in parallel, written in order.

use crate::entry::{Kind, display_path};
use crate::manifest::{Ending, ManifestReader, Record, Step};
use crate::snapshot::Snapshot;
use crate::{Counter, Error, ItemError, Monitor, Repository, Result};
use chunkstore::reader::{Fetched, ReadAhead};
use chunkstore::store::describe;
use std::io::Write;

/// Writes the content of one file of a snapshot, in order, fetched in parallel.
pub fn dump(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &[u8],
    out: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<u64> {
    repo.sync_index(monitor)?;
    let mut reader = ManifestReader::new(repo.store(), &snapshot.manifest)?;
    let mut ahead = ReadAhead::new(repo.store());
    let mut inside = false;
    let mut written = 0;
    let no_entry = || Error::NoEntry { path: display_path(path), snapshot: "the snapshot".into() };
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Record(Record::Entry(entry)) => {
                inside = entry.path == path;
                if inside && entry.kind != Kind::File {
                    return Err(Error::Invalid(format!(
                        "{} is a {}, not a file",
                        display_path(path),
                        entry.kind.name()
                    )));
                }
            }
            Step::Record(Record::Chunks(chunks)) if inside => {
                for chunk in chunks {
                    ahead.request(chunk, Part::Data)?;
                    while ahead.is_full() {
                        written += write_part(&mut ahead, out, monitor)?.unwrap_or_default();
                    }
                }
            }
            Step::Record(Record::Hole(len)) if inside => ahead.token(Part::Hole(len))?,
            Step::Record(Record::End(Ending::Complete, size)) if inside => {
                while let Some(len) = write_part(&mut ahead, out, monitor)? {
                    written += len;
                }
                if written != size {
                    return Err(Error::Malformed {
                        what: display_path(path),
                        why: "its chunks do not make up its size".into(),
                    });
                }
                return out.flush().map(|()| written).map_err(output_error);
            }
            // Dropped: another entry of this path may follow. What was asked for in vain is thrown away.
            Step::Record(Record::End(..)) if inside => {
                if written > 0 {
                    return Err(no_entry());
                }
                ahead = ReadAhead::new(repo.store());
                inside = false;
            }
            Step::Damage(damage) if inside => return Err(damage.error.into()),
            Step::Damage(damage) => monitor.error(ItemError {
                during: "dump",
                item: format!("entries after {}", damage.after),
                message: describe(&damage.error),
            }),
            Step::Record(_) => {}
        }
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    Err(no_entry())
}

#[derive(Clone, Copy)]
enum Part {
    Data,
    Hole(u64),
}

fn output_error(source: std::io::Error) -> Error {
    Error::Target { op: "write to", path: "standard output".into(), source }
}

/// Writes the next part that was asked for; `None` when there is none.
fn write_part(
    ahead: &mut ReadAhead<Part>,
    out: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<Option<u64>> {
    let Some(batch) = ahead.take()? else { return Ok(None) };
    let mut written = 0;
    for part in batch {
        match part {
            Fetched::Chunk(bytes, _) => {
                let bytes = bytes?;
                out.write_all(&bytes).map_err(output_error)?;
                written += bytes.len() as u64;
                ahead.recycle(bytes);
            }
            Fetched::Token(Part::Hole(len)) => {
                let zeros = [0u8; 64 << 10];
                let mut left = len;
                while left > 0 {
                    let step = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
                    out.write_all(&zeros[..step]).map_err(output_error)?;
                    left -= step as u64;
                }
                written += len;
            }
            Fetched::Token(Part::Data) => {}
        }
    }
    monitor.count(Counter::BytesDone, written);
    Ok(Some(written))
}
