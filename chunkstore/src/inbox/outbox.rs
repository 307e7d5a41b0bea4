//! Where the packs of a host go: into its inbox, under the key of the run. Each is noted in a journal before the book counts
//! on it, so that what an interrupted run brought is brought in by the next commit.

use super::commit::Brought;
use super::lists::BlockLists;
use super::noted::BookStorage;
use crate::format::{Codec, PackKind, names};
use crate::id::{ObjectId, PackId, SessionId};
use crate::keys::KeyRing;
use crate::pack::{PackBuilder, PackName, Record, SealedPack};
use crate::pool::locked;
use crate::storage::Storage;
use crate::{Error, Result, private};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A line of the journal.
#[derive(Serialize, Deserialize)]
struct Line {
    run: u64,
    session: SessionId,
    pack: PackId,
    kind: u8,
    epoch: u32,
    len: u64,
    hash: ObjectId,
}

/// The way of a run's packs into the inbox.
pub struct Outbox {
    remote: Arc<dyn Storage>,
    book: Arc<BookStorage>,
    ring: KeyRing,
    host: ObjectId,
    run: u64,
    epoch: u32,
    path: PathBuf,
    journal: Mutex<std::fs::File>,
    lists: Arc<BlockLists>,
}

/// The record of a chunk as if it were stored without others.
fn whole(record: Record) -> Record {
    if !record.is_delta() {
        return record;
    }
    Record { codec: Codec::Zstd, depth: 0, generation: 0, bases: vec![], ..record }
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::Cache { why: format!("{}: {error}", path.display()) }
}

impl Outbox {
    pub(super) fn begin(
        remote: Arc<dyn Storage>,
        book: Arc<BookStorage>,
        ring: KeyRing,
        (host, run, epoch): (ObjectId, u64, u32),
        path: PathBuf,
        lists: Arc<BlockLists>,
    ) -> Result<Self> {
        let mut file = private::open(&path).map_err(failed(&path))?;
        // A line that was cut off is of a pack that the book does not count on.
        let whole = std::fs::read(&path).map_err(failed(&path))?;
        let end = whole.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        file.set_len(end as u64).map_err(failed(&path))?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).map_err(failed(&path))?;
        Ok(Self { remote, book, ring, host, run, epoch, path, journal: Mutex::new(file), lists })
    }

    /// The run.
    #[must_use]
    pub fn run(&self) -> u64 {
        self.run
    }

    pub(super) fn ring(&self) -> &KeyRing {
        &self.ring
    }

    /// The store that packs go to.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.remote
    }

    /// Seals a pack, brings it to the inbox, and notes it in the book; a pack of manifests is kept there, too, sealed with
    /// `book`. The book counts differences as whole: a full client stores them as it likes.
    pub(crate) fn send(&self, builder: PackBuilder, book: &KeyRing) -> Result<SealedPack> {
        let kept = match builder.kind() {
            PackKind::Metadata => Some(builder.clone().seal(book)?),
            PackKind::Data => None,
        };
        let local = builder.name();
        let sealed = builder.under(self.epoch).seal(&self.ring)?;
        let len = sealed.bytes.len() as u64;
        let hash = ObjectId(*blake3::hash(&sealed.bytes).as_bytes());
        let body = Bytes::from(sealed.bytes);
        self.remote.put(&names::brought(&self.host, self.run, &local.id), body.clone())?;
        self.note(&Brought { run: self.run, name: sealed.name, len, hash })?;
        match kept {
            Some(kept) => self.book.put(&local.object(), kept.bytes.into())?,
            None => {
                self.lists.keep(local, &sealed.records, book);
                self.book.note(&local.object(), len)?;
            }
        }
        let bytes = body.try_into_mut().map(Vec::from).unwrap_or_default();
        Ok(SealedPack { name: local, bytes, records: sealed.records.into_iter().map(whole).collect() })
    }

    fn note(&self, pack: &Brought) -> Result<()> {
        let Brought { run, name, len, hash } = *pack;
        let PackName { session, id, kind, epoch } = name;
        let line = Line { run, session, pack: id, kind: kind as u8, epoch, len, hash };
        let mut line = serde_json::to_vec(&line).map_err(|error| Error::Invalid(error.to_string()))?;
        line.push(b'\n');
        let mut journal = locked(&self.journal);
        journal.write_all(&line).and_then(|()| journal.sync_data()).map_err(failed(&self.path))
    }

    /// All packs that were brought since the last commit.
    pub(super) fn sent(&self) -> Result<Vec<Brought>> {
        Self::noted(&self.path)
    }

    /// What the journal at `path` has, which need not be there.
    pub(super) fn noted(path: &Path) -> Result<Vec<Brought>> {
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => vec![],
            text => text.map_err(failed(path))?,
        };
        let damaged =
            || Error::corrupt(path.display().to_string(), "a line of it is none; remove the book's folder");
        // A line that was cut off is of a pack that the book does not count on.
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines = text[..end].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let packs = lines.map(|line| {
            let line: Line = serde_json::from_slice(line).map_err(|_| damaged())?;
            let Line { run, session, pack: id, kind, epoch, len, hash } = line;
            let kind = PackKind::from_byte(kind).ok_or_else(damaged)?;
            Ok(Brought { run, name: PackName { session, id, kind, epoch }, len, hash })
        });
        packs.collect()
    }

    /// Empties the journal at `path`: a commit has it all.
    pub(super) fn forget(path: &Path) -> std::io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
