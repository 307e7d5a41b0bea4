//! The block lists of what a host stored, in files beside its book: one for each pack of content, as a pack of its own, sealed
//! under the book's key. With them the next night is brought as differences. They are a help only: one that is missing or
//! damaged costs an upload.

use crate::blocks::{Blocks, Listed};
use crate::format::{Codec, PACK_TRAILER_LEN};
use crate::id::{ChunkId, PackId};
use crate::index::ChunkIndex;
use crate::keys::KeyRing;
use crate::pack::{PackBuilder, PackName, PackReader, Record};
use crate::pool::locked;
use crate::{Error, Result, memory, private};
use lru::LruCache;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

/// Lists of chunks that are in no pack yet take at most so many bytes; of more, none are kept. A pack of the usual size has
/// lists of 4 MiB if it compressed not at all, and of 40 if it did by ten.
const MOST_OPEN: usize = 96 << 20;
/// All lists of a host take at most so many bytes, those of 64 GiB; the oldest go first.
const MOST_KEPT: u64 = 4 << 30;
/// Of shorter chunks, in bytes, no list is kept: a patch would save little, and its record takes as much.
const LEAST: usize = 4096;
/// Directories of packs that are kept in memory: a stream's bases lie one after the other.
const READ_PACKS: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");

/// A pack of lists.
struct Pack {
    reader: PackReader,
    file: File,
    records: HashMap<ChunkId, Record>,
}

/// Lists of chunks that are in no pack yet.
#[derive(Default)]
struct Open {
    lists: HashMap<ChunkId, Vec<u8>>,
    bytes: usize,
}

/// A chunk and its list.
pub(crate) struct Kept {
    len: usize,
    list: Vec<u8>,
}

impl Kept {
    pub(crate) fn listed(&self) -> Listed<'_> {
        Listed { len: self.len, list: &self.list }
    }

    /// Bytes of the chunk.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// A host's block lists.
pub(crate) struct BlockLists {
    folder: PathBuf,
    blocks: Blocks,
    /// Packs of runs that have no commit by now: a full client may not read them before it reads what builds on them.
    uncommitted: Mutex<HashSet<PackId>>,
    open: Mutex<Open>,
    read: Mutex<LruCache<PackId, Option<Arc<Pack>>>>,
}

impl BlockLists {
    /// In `folder`, which need not be there. Nothing is built on packs that are `uncommitted`.
    pub(crate) fn new(folder: PathBuf, secret: &[u8; 32], uncommitted: HashSet<PackId>) -> Self {
        let (open, read) = (Mutex::default(), Mutex::new(LruCache::new(READ_PACKS)));
        Self { folder, blocks: Blocks::new(secret), uncommitted: Mutex::new(uncommitted), open, read }
    }

    /// Makes lists and patches.
    pub(crate) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Notes the list of a chunk that is about to be stored.
    pub(crate) fn note(&self, id: ChunkId, plain: &[u8]) {
        if plain.len() < LEAST {
            return;
        }
        let list = self.blocks.list(plain);
        let mut open = locked(&self.open);
        if open.bytes + list.len() <= MOST_OPEN {
            open.bytes += list.len();
            open.lists.insert(id, list);
        }
    }

    /// Writes the lists of the chunks of a pack that was brought. Without room for them, they are left out.
    pub(super) fn keep(&self, pack: PackName, records: &[Record], book: &KeyRing) {
        locked(&self.uncommitted).insert(pack.id);
        let mut builder = PackBuilder::new(pack, vec![]);
        {
            let mut open = locked(&self.open);
            for record in records {
                if let Some(list) = open.lists.remove(&record.id) {
                    open.bytes -= list.len();
                    builder.push(Record::full(record.id, record.plain_len, 0, Codec::Raw), &list);
                }
            }
        }
        if builder.is_empty() {
            return;
        }
        let write = || -> Result<()> {
            let sealed = builder.seal(book)?;
            private::folder(&self.folder).map_err(|error| failed(&self.folder, &error))?;
            let path = self.path(&pack.id);
            private::replace_durably(&path, &sealed.bytes, "writing").map_err(|error| failed(&path, &error))
        };
        if let Err(error) = write() {
            tracing::warn!(%error, "block lists are not kept: the next backup uploads changed chunks whole");
        }
    }

    fn path(&self, pack: &PackId) -> PathBuf {
        self.folder.join(pack.to_string())
    }

    /// The lists of these chunks, if all are there and a full client can have the chunks by the time it needs them.
    pub(crate) fn find(
        &self,
        index: &dyn ChunkIndex,
        book: &KeyRing,
        ids: &[ChunkId],
    ) -> Result<Option<Vec<Kept>>> {
        let mut found = vec![];
        for (id, location) in ids.iter().zip(index.lookup(ids)?) {
            let Some(location) = location else { return Ok(None) };
            let name = location.pack.name;
            if locked(&self.uncommitted).contains(&name.id) {
                return Ok(None);
            }
            match self.pack(name, book).map(|pack| pack.read(id)) {
                Some(Ok(Some(kept))) => found.push(kept),
                Some(Err(error)) => {
                    tracing::info!(%error, "a block list cannot be read");
                    return Ok(None);
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    fn pack(&self, name: PackName, book: &KeyRing) -> Option<Arc<Pack>> {
        let mut read = locked(&self.read);
        let open = || match Pack::open(&self.path(&name.id), name, book) {
            Ok(pack) => pack.map(Arc::new),
            Err(error) => {
                tracing::info!(%error, "block lists cannot be read");
                None
            }
        };
        read.get_or_insert(name.id, open).clone()
    }

    /// Removes what is of no pack in the index, and the oldest lists beyond a bound.
    pub(super) fn trim(&self, index: &dyn ChunkIndex) -> Result<()> {
        let known: HashSet<String> =
            index.packs()?.into_iter().map(|pack| pack.name.id.to_string()).collect();
        trim(&self.folder, MOST_KEPT, &|name| known.contains(name))
            .map_err(|error| failed(&self.folder, &error))
    }

    /// Removes all lists.
    pub(super) fn clear(&self) -> Result<()> {
        locked(&self.read).clear();
        *locked(&self.open) = Open::default();
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(&self.folder, &error)),
            _ => Ok(()),
        }
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::Cache { why: format!("{}: {error}", path.display()) }
}

/// Removes files that are not `known`, and the oldest of the others, until at most `most` bytes are left.
fn trim(folder: &Path, most: u64, known: &dyn Fn(&str) -> bool) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    let mut files = vec![];
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(known) {
            let metadata = entry.metadata()?;
            let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            files.push((written, metadata.len(), entry.path()));
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    files.sort();
    let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
    for (_, len, path) in files {
        if total <= most {
            break;
        }
        std::fs::remove_file(path)?;
        total -= len;
    }
    Ok(())
}

impl Pack {
    /// Opens the file; `None` if there is none.
    fn open(path: &Path, name: PackName, book: &KeyRing) -> Result<Option<Self>> {
        let failed = |error: std::io::Error| failed(path, &error);
        let file = match private::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed)?,
        };
        let len = file.metadata().map_err(failed)?.len();
        let object = path.display().to_string();
        let short = || Error::corrupt(&object, "shorter than a pack can be");
        let end = len.checked_sub(PACK_TRAILER_LEN as u64).ok_or_else(short)?;
        let trailer = range(&file, end, PACK_TRAILER_LEN as u64).map_err(failed)?;
        let offset = PackReader::directory_offset(&object, &trailer, len)?;
        let sealed = range(&file, offset, end - offset).map_err(failed)?;
        let reader = PackReader::new(name, book)?;
        let records = reader.open_directory(&sealed, offset, len)?;
        let records = records.into_iter().map(|record| (record.id, record)).collect();
        Ok(Some(Self { reader, file, records }))
    }

    fn read(&self, id: &ChunkId) -> Result<Option<Kept>> {
        let Some(record) = self.records.get(id) else { return Ok(None) };
        let sealed = range(&self.file, u64::from(record.offset), u64::from(record.stored_len))
            .map_err(|error| Error::Cache { why: format!("block lists: {error}") })?;
        let list = self.reader.open_frame(record, &sealed)?;
        Ok(Some(Kept { len: record.plain_len as usize, list }))
    }
}

fn range(file: &File, offset: u64, len: u64) -> std::io::Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(std::io::Error::other)?;
    let mut bytes = memory::room(len).map_err(std::io::Error::other)?;
    bytes.resize(len, 0);
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEnv;
    use crate::format::PackKind;
    use crate::head::outline_tests::segment_ref;
    use crate::id::{RepositoryId, SessionId};
    use crate::index::{MemoryIndex, PackEntry, Segment};
    use std::os::unix::fs::PermissionsExt as _;

    const PACK: PackName =
        PackName { session: SessionId([1; 16]), id: PackId([7; 32]), kind: PackKind::Data, epoch: 1 };

    struct Host {
        folder: tempfile::TempDir,
        book: KeyRing,
        index: MemoryIndex,
        id: ChunkId,
    }

    impl Host {
        /// One that stored a chunk of 50,000 bytes.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let book = KeyRing::generate(RepositoryId([3; 16]), &SeededEnv::new(1)).unwrap();
            let plain = vec![5; 50_000];
            let id = book.chunk_id(&plain);
            let record = Record::full(id, 50_000, 0, Codec::Zstd);
            let lists = Self { folder, book, index: MemoryIndex::default(), id };
            let at_work = lists.lists(&[]);
            at_work.note(id, &plain);
            at_work.keep(PACK, std::slice::from_ref(&record), &lists.book);
            let packs = vec![PackEntry { name: PACK, len: 4096, records: vec![record] }];
            let segment = Segment { packs };
            lists.index.sync(&vec![segment_ref(1)].into(), &mut |_| Ok(Some(segment.clone()))).unwrap();
            assert!(at_work.find(&lists.index, &lists.book, &[id]).unwrap().is_none(), "not committed");
            lists
        }

        fn lists(&self, uncommitted: &[PackId]) -> BlockLists {
            let folder = self.folder.path().join("blocks");
            BlockLists::new(folder, &[9; 32], uncommitted.iter().copied().collect())
        }

        fn found(&self, lists: &BlockLists) -> Option<usize> {
            let found = lists.find(&self.index, &self.book, &[self.id]).unwrap()?;
            assert_eq!(found[0].len(), 50_000);
            Some(found[0].listed().list.len())
        }

        fn path(&self) -> PathBuf {
            self.lists(&[]).path(&PACK.id)
        }
    }

    #[test]
    fn lists_are_found_once_their_run_has_a_commit_and_are_their_owners_alone() {
        let host = Host::new();
        assert_eq!(host.found(&host.lists(&[])), Some(16 * (50_000 / 256)));
        assert_eq!(host.found(&host.lists(&[PACK.id])), None);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&host.path()), mode(host.path().parent().unwrap())), (0o600, 0o700));
        host.lists(&[]).trim(&host.index).unwrap();
        assert!(host.found(&host.lists(&[])).is_some());
        host.lists(&[]).trim(&MemoryIndex::default()).unwrap();
        assert!(!host.path().exists() && host.found(&host.lists(&[])).is_none());
        host.lists(&[]).clear().unwrap();
        host.lists(&[]).clear().unwrap();
    }

    #[test]
    fn a_list_that_is_damaged_is_none() {
        let host = Host::new();
        let sound = std::fs::read(host.path()).unwrap();
        for at in (96..sound.len()).step_by(97).chain([sound.len() - 1, sound.len() - 16]) {
            let mut bad = sound.clone();
            bad[at] ^= 1;
            std::fs::write(host.path(), &bad).unwrap();
            assert_eq!(host.found(&host.lists(&[])), None, "byte {at}");
            std::fs::write(host.path(), &sound[..at]).unwrap();
            assert_eq!(host.found(&host.lists(&[])), None, "cut at {at}");
        }
        std::fs::write(host.path(), &sound).unwrap();
        assert!(host.found(&host.lists(&[])).is_some());
        // Under the key of another book.
        let host =
            Host { book: KeyRing::generate(RepositoryId([3; 16]), &SeededEnv::new(2)).unwrap(), ..host };
        assert_eq!(host.found(&host.lists(&[])), None);
    }

    #[test]
    fn the_oldest_lists_go_first() {
        let folder = tempfile::tempdir().unwrap();
        for (name, age) in [("a", 3), ("b", 1), ("c", 2), ("stray", 0)] {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_len(100).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(100 - age)).unwrap();
        }
        trim(folder.path(), 200, &|name| name != "stray").unwrap();
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["b", "c"]);
        trim(&folder.path().join("none"), 0, &|_| true).unwrap();
    }
}
