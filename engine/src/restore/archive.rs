//! A folder of a snapshot as a tar or zip, written while it is read: the output of `dump --archive`. As in restic,
//! paths are those of the snapshot, the folder itself is left out, and each name of a hard link has the content.

use crate::entry::{Entry, Kind, display_path, is_beneath};
use crate::manifest::{Ending, ManifestReader, Record, Step};
use crate::snapshot::Snapshot;
use crate::{Counter, Error, Monitor, Repository, Result};
use chunkstore::ingest::ChunkRef;
use chunkstore::reader::{Fetched, ReadAhead};
use std::io::{self, Write};

mod tar;
mod zip;

/// How a folder is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// POSIX.1-2001 pax: all names, owners, times and attributes.
    Tar,
    /// Zip, for those who have nothing else: no owners, no attributes.
    Zip,
}

/// An archive that is being written.
trait Archive {
    /// Begins an entry whose content is `size` bytes; `false` if the format cannot hold such an entry.
    fn begin(&mut self, path: &[u8], entry: &Entry, size: u64) -> io::Result<bool>;
    fn data(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn end(&mut self) -> io::Result<()>;
    fn finish(&mut self) -> io::Result<()>;
}

enum Token {
    Begin(Box<Entry>, u64),
    Data,
    Hole(u64),
    End,
}

/// Parts of a file's content, before it is known that all of it is there.
enum Part {
    Chunk(ChunkRef),
    Hole(u64),
}

/// Writes everything beneath `folder` of a snapshot as an archive, with paths relative to `top`. Damage ends it, since
/// an archive cannot mark missing parts. Memory: 36 bytes for each chunk of one file.
///
/// # Errors
///
/// Also if the folder does not exist.
pub fn archive(
    repo: &Repository,
    snapshot: &Snapshot,
    (folder, top): (&[u8], &[u8]),
    format: Format,
    out: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<()> {
    repo.sync_index(monitor)?;
    let mut archive: Box<dyn Archive + '_> = match format {
        Format::Tar => Box::new(tar::Tar::new(out)),
        Format::Zip => Box::new(zip::Zip::new(out)),
    };
    let mut reader = ManifestReader::new(repo.store(), &snapshot.manifest)?;
    let mut ahead = ReadAhead::new(repo.store());
    let mut open: Option<(Box<Entry>, Vec<Part>)> = None;
    let mut found = folder.is_empty();
    let mut skipping = false;
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Damage(damage) => return Err(damage.error.into()),
            Step::Record(Record::Entry(entry)) => {
                found |= is_beneath(&entry.path, folder);
                let wanted = is_beneath(&entry.path, folder) && entry.path != folder;
                open = wanted.then(|| (entry, vec![]));
            }
            Step::Record(Record::Chunks(chunks)) => {
                if let Some((_, parts)) = &mut open {
                    parts.extend(chunks.into_iter().map(Part::Chunk));
                }
            }
            Step::Record(Record::Hole(len)) => {
                if let Some((_, parts)) = &mut open {
                    parts.push(Part::Hole(len));
                }
            }
            Step::Record(Record::End(Ending::Dropped, _)) => open = None,
            Step::Record(Record::End(Ending::Complete, size)) => {
                let Some((entry, parts)) = open.take() else { continue };
                ahead.token(Token::Begin(entry, size))?;
                for part in parts {
                    match part {
                        Part::Chunk(chunk) => ahead.request(chunk, Token::Data)?,
                        Part::Hole(len) => ahead.token(Token::Hole(len))?,
                    }
                    while ahead.is_full() {
                        write(&mut ahead, &mut *archive, top, &mut skipping, monitor)?;
                    }
                }
                ahead.token(Token::End)?;
            }
        }
        while ahead.is_full() {
            write(&mut ahead, &mut *archive, top, &mut skipping, monitor)?;
        }
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    while write(&mut ahead, &mut *archive, top, &mut skipping, monitor)? {}
    if !found {
        return Err(Error::NoEntry { path: display_path(folder) });
    }
    archive.finish().map_err(failed)
}

fn failed(source: io::Error) -> Error {
    Error::Target { op: "write to", path: "the archive".into(), source }
}

/// Writes the next fetched part; `false` when there are no more.
fn write(
    ahead: &mut ReadAhead<Token>,
    archive: &mut dyn Archive,
    top: &[u8],
    skipping: &mut bool,
    monitor: &dyn Monitor,
) -> Result<bool> {
    let Some(batch) = ahead.take()? else { return Ok(false) };
    for fetched in batch {
        match fetched {
            Fetched::Chunk(bytes, _) => {
                let bytes = bytes?;
                archive.data(&bytes).map_err(failed)?;
                monitor.count(Counter::BytesDone, bytes.len() as u64);
                ahead.recycle(bytes);
            }
            Fetched::Token(Token::Begin(entry, size)) => {
                let path = entry.path.strip_prefix(top).unwrap_or(&entry.path);
                let path = path.strip_prefix(b"/").unwrap_or(path);
                *skipping = !archive.begin(path, &entry, size).map_err(failed)?;
                if *skipping && entry.kind != Kind::Socket {
                    tracing::warn!(path = entry.display_path(), "left out: the archive cannot hold it");
                }
                monitor.count(Counter::FilesDone, 1);
            }
            Fetched::Token(Token::Hole(len)) => {
                let zeros = [0u8; 64 << 10];
                let mut left = len;
                while left > 0 {
                    let step = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
                    archive.data(&zeros[..step]).map_err(failed)?;
                    left -= step as u64;
                }
            }
            Fetched::Token(Token::End) if !*skipping => archive.end().map_err(failed)?,
            Fetched::Token(Token::End | Token::Data) => {}
        }
    }
    Ok(true)
}
