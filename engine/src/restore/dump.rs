//! One file or stream of a snapshot as a stream: fetched in parallel, written in order.

use crate::entry::{Kind, display_path};
use crate::manifest::{Ending, ManifestReader, Record, Step, is_behind};
use crate::snapshot::Snapshot;
use crate::{Counter, Error, ItemError, Monitor, Repository, Result};
use chunkstore::ingest::ChunkRef;
use chunkstore::reader::{Fetched, ReadAhead};
use chunkstore::store::describe;
use std::io::Write;

/// Writes the content of one file or stream of a snapshot to `out`, in order, fetched in parallel, and returns its length in
/// bytes. `path` is relative to the snapshot: `b"etc/hosts"`. Memory: 40 bytes for each of its chunks.
///
/// # Errors
/// [`Error::NoEntry`] if the snapshot has no such path; [`Error::Invalid`] if it is no file; otherwise, after a part may have
/// been written, what is damaged or cannot be read.
///
/// # Example: read one entry
///
/// ```
/// use engine::{monitor::Tally, restore::dump, snapshot::Filter};
/// # use engine::{backup::backup, source::files::{FilesOptions, FilesSource}};
/// # fn repository() -> engine::Result<engine::Repository> {
/// #     use chunkstore::{chunker::ChunkerParams, config::Layout, env::SystemEnv, executor::Inline};
/// #     use chunkstore::{keys::{KdfParams, SlotOwner}, storage::memory::MemoryStorage, store::{Access, Identity}};
/// #     use std::sync::Arc;
/// #     let access = Access {
/// #         storage: Arc::new(MemoryStorage::default()), env: Arc::new(SystemEnv), cpu: Arc::new(Inline),
/// #         io: Arc::new(Inline), cache: None, identity: Identity::default(),
/// #         columns: &engine::columns::SnapshotColumns,
/// #     };
/// #     let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
/// #     let (params, owner) = (ChunkerParams::default(), SlotOwner::default());
/// #     engine::Repository::init(access, params, b"passphrase", cheap, owner, Layout::default())
/// # }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("letter");
/// # std::fs::write(&file, "Dear reader")?;
/// # let (repo, monitor) = (repository()?, Tally::default());
/// # let mut source = FilesSource::new(&[file.clone()], FilesOptions::default(), &monitor)?;
/// # backup(&repo, &mut source, &Default::default(), &monitor)?;
/// # let file = file.display().to_string();
/// let latest = repo.find("latest", &Filter::default(), &monitor)?;
/// let mut out = vec![];
/// let len = dump(&repo, &latest.snapshot, file.trim_start_matches('/').as_bytes(), &mut out, &monitor)?;
/// assert_eq!((len, out.as_slice()), (11, &b"Dear reader"[..]));
/// # Ok(())
/// # }
/// ```
pub fn dump(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &[u8],
    out: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<u64> {
    repo.sync_index(monitor)?;
    let mut reader = ManifestReader::from_path(repo.store(), &snapshot.manifest, path)?;
    // What is written cannot be taken back, and an entry that was given up half way may be followed by another of its path.
    let mut parts: Option<Vec<Piece>> = None;
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Record(Record::Entry(entry)) => {
                if is_behind(&entry.path, path) {
                    break;
                }
                parts = (entry.path == path).then(Vec::new);
                if parts.is_some() && entry.kind != Kind::File {
                    return Err(Error::Invalid(format!(
                        "{} is a {}, not a file",
                        display_path(path),
                        entry.kind.name()
                    )));
                }
            }
            Step::Record(Record::Chunks(chunks)) => {
                parts.iter_mut().for_each(|parts| parts.extend(chunks.iter().copied().map(Piece::Chunk)));
            }
            Step::Record(Record::Hole(len)) => {
                parts.iter_mut().for_each(|parts| parts.push(Piece::Hole(len)));
            }
            Step::Record(Record::End(Ending::Complete, size)) => {
                let Some(parts) = parts.take() else { continue };
                let written = write_all(repo, parts, out, monitor)?;
                if written != size {
                    return Err(Error::Malformed {
                        what: display_path(path),
                        why: "its chunks do not make up its size".into(),
                    });
                }
                return out.flush().map(|()| written).map_err(output_error);
            }
            Step::Record(Record::End(Ending::Dropped, _)) => parts = None,
            Step::Damage(damage) if parts.is_some() => return Err(damage.error.into()),
            Step::Damage(damage) => monitor.error(ItemError {
                during: "dump",
                item: format!("entries after {}", damage.after),
                message: describe(&damage.error),
            }),
        }
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    Err(Error::NoEntry { path: display_path(path) })
}

/// What a file is made of, in order.
enum Piece {
    Chunk(ChunkRef),
    Hole(u64),
}

fn write_all(
    repo: &Repository,
    parts: Vec<Piece>,
    out: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<u64> {
    let mut ahead = ReadAhead::new(repo.store());
    let mut written = 0;
    for part in parts {
        match part {
            Piece::Chunk(chunk) => ahead.request(chunk, Part::Data)?,
            Piece::Hole(len) => ahead.token(Part::Hole(len))?,
        }
        while ahead.is_full() {
            written += write_part(&mut ahead, out, monitor)?.unwrap_or_default();
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
    }
    while let Some(len) = write_part(&mut ahead, out, monitor)? {
        written += len;
    }
    Ok(written)
}

#[derive(Clone, Copy)]
enum Part {
    Data,
    Hole(u64),
}

fn output_error(source: std::io::Error) -> Error {
    Error::Target { op: "write to", path: "standard output".into(), source }
}

/// Writes the next requested part; `None` when there is none.
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
