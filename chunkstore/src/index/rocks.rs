//! The index on local disk: a RocksDB that may be deleted at any time.
//!
//! RocksDB lets one process write. So no process keeps it open for writing: under a file lock, a process brings it up
//! to HEAD's segments, closes it, and opens it again read-only, which any number of processes may do. A read-only view
//! holds its files open, so a later writer does not disturb it.
//!
//! `state.json` beside the database has the outline of the list of segments that it was brought up to, so that a list
//! with the same outline need not be read. The ids themselves are in the database. The state is written after the data is
//! flushed; if it is missing or of another version, the database is rebuilt from the segments.

use super::{ChunkIndex, Cut, Load, Location, Missing, PackInfo, Segment, cuts_of, short_key};
use crate::error::InObject as _;
use crate::format::{Decoder, Encoder, Malformed};
use crate::head::{List, Outline, SegmentRef};
use crate::id::{ChunkId, ObjectId};
use crate::pack::Record;
use crate::{Error, Result};
use crate::{patience, private};
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, IteratorMode, Options, ReadOptions,
    WaitForCompactOptions, WriteBatch,
};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

mod bulk;
mod packs;
use bulk::Bulk;
use packs::Packs;

/// Chunks: first 16 bytes of the id → pack number and record.
const CHUNKS: &str = "chunks";
/// Cuts: anchor → the chunks on both sides.
const CUTS: &str = "cuts";
/// Packs: number (u32, big-endian) → name, length, segment.
const PACKS: &str = "packs";
/// Segments: id → nothing.
const SEGMENTS: &str = "segments";
/// Block cache. Keys are hashes, so a block is as good as never asked for twice: look-ups leave it alone, and
/// are a third faster for it. The kernel's page cache holds what memory is left.
const CACHE_BYTES: usize = 4 << 20;
/// How long another process may hold the lock: it fills the database, or it was stopped while it did.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize, Default, Clone)]
struct State {
    version: u32,
    next_pack: u32,
    /// Of the list of segments that the database was brought up to; none if it has only a part of one.
    outline: Option<Outline>,
}

const STATE_VERSION: u32 = 3;

/// A view of the database, and what was read of its packs.
#[derive(Default)]
struct View {
    db: Option<DB>,
    packs: Packs,
    state: State,
}

impl View {
    /// The segments in it.
    fn segments(&self) -> Result<HashSet<ObjectId>> {
        let Some(db) = &self.db else { return Ok(HashSet::new()) };
        let items = db.iterator_cf_opt(family(db, SEGMENTS)?, read_options(), IteratorMode::Start);
        items
            .map(|item| {
                let (key, _) = item.map_err(cache_error)?;
                Ok(ObjectId(key.as_ref().try_into().map_err(cache_error)?))
            })
            .collect()
    }

    /// Whether it is known, without reading a leaf, to have exactly these segments.
    fn has_exactly(&self, segments: &List<SegmentRef>) -> bool {
        let added = self.state.outline.as_ref().and_then(|outline| outline.added(segments));
        self.db.is_some() && added.is_some_and(|added| added.is_empty())
    }
}

/// An index in a RocksDB folder.
pub struct RocksIndex {
    folder: PathBuf,
    view: RwLock<Arc<View>>,
}

fn cache_error(error: impl std::fmt::Display) -> Error {
    Error::Cache { why: error.to_string() }
}

/// Address space that must be allowed. RocksDB reserves some without a look at the limit, and ends the process where that
/// fails; each of its threads reserves 64 MiB by glibc's arenas.
const ADDRESS_SPACE: u64 = 4 << 30;

/// Whether the limit on address space (`ulimit -v`) leaves RocksDB enough.
fn has_address_space() -> Result<()> {
    match rustix::process::getrlimit(rustix::process::Resource::As).current {
        Some(limit) if limit < ADDRESS_SPACE => Err(cache_error(format!(
            "the limit on address space, {} MiB, is below the {} MiB that RocksDB may need ('ulimit -v')",
            limit >> 20,
            ADDRESS_SPACE >> 20
        ))),
        _ => Ok(()),
    }
}

impl RocksIndex {
    /// Opens the index in `folder`, creating it if needed; `sync` fills it.
    pub fn open(folder: &Path) -> Result<Self> {
        has_address_space()?;
        private::folder(folder).map_err(cache_error)?;
        let index = Self { folder: folder.to_owned(), view: RwLock::default() };
        let lock = index.lock()?;
        if let Some(state) = index.read_state() {
            match index.open_view(state) {
                Ok(view) => index.set_view(view)?,
                Err(error) => tracing::warn!(%error, "rebuilding the local index"),
            }
        }
        drop(lock);
        Ok(index)
    }

    /// Deletes the database; the next `sync` rebuilds it.
    pub fn clear(folder: &Path) -> Result<()> {
        let db = folder.join("db");
        for path in [folder.join("state.json")] {
            if path.exists() {
                fs::remove_file(path).map_err(cache_error)?;
            }
        }
        if db.exists() { fs::remove_dir_all(db).map_err(cache_error) } else { Ok(()) }
    }

    fn lock(&self) -> Result<File> {
        let path = self.folder.join("lock");
        let file = private::open(&path).map_err(cache_error)?;
        patience::lock(&file, &path, false, PATIENCE).map_err(cache_error)?;
        Ok(file)
    }

    fn view(&self) -> Result<Arc<View>> {
        Ok(Arc::clone(&*self.view.read().map_err(|_| Error::WorkerPanicked)?))
    }

    fn set_view(&self, view: View) -> Result<()> {
        *self.view.write().map_err(|_| Error::WorkerPanicked)? = Arc::new(view);
        Ok(())
    }

    fn read_state(&self) -> Option<State> {
        let bytes = fs::read(self.folder.join("state.json")).ok()?;
        let state: State = serde_json::from_slice(&bytes).ok()?;
        (state.version == STATE_VERSION).then_some(state)
    }

    fn write_state(&self, state: &State) -> Result<()> {
        let path = self.folder.join("state.json");
        let temporary = self.folder.join("state.json.new");
        private::write(&temporary, &serde_json::to_vec(state).map_err(cache_error)?).map_err(cache_error)?;
        fs::rename(temporary, path).map_err(cache_error)
    }

    fn options() -> (Options, Vec<ColumnFamilyDescriptor>) {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // Every table stays open: a read-only view must outlive files that a later writer deletes.
        options.set_max_open_files(-1);
        // Its files are few; a pool of threads for each opening costs more than it saves.
        options.set_max_file_opening_threads(1);
        options.set_compression_type(rocksdb::DBCompressionType::None);
        options.set_keep_log_file_num(1);
        options.set_max_background_jobs(2);
        options.set_write_buffer_size(32 << 20);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
        // 10 bits a key: 1 % of the look-ups of a first backup, all misses, read a block in vain.
        table.set_bloom_filter(10.0, false);
        // Filters and the tables' own indexes stay in memory: about 4 MB for a million chunks.
        table.set_cache_index_and_filter_blocks(false);
        table.set_data_block_index_type(rocksdb::DataBlockIndexType::BinaryAndHash);
        // Half of RocksDB's default: less is copied for each look-up.
        table.set_block_size(2 << 10);
        table.set_format_version(5);
        options.set_block_based_table_factory(&table);
        // A family without a cache of its own gets RocksDB's HyperClockCache, which ends the process where address space is
        // limited.
        let families = ["default", CHUNKS, CUTS, PACKS, SEGMENTS]
            .map(|name| ColumnFamilyDescriptor::new(name, options.clone()))
            .into();
        (options, families)
    }

    fn open_view(&self, state: State) -> Result<View> {
        let (options, families) = Self::options();
        let path = self.folder.join("db");
        let db = DB::open_cf_descriptors_read_only(&options, &path, families, false).map_err(cache_error)?;
        Ok(View { db: Some(db), packs: Packs::below(state.next_pack), state })
    }

    /// Under the lock: writes missing entries, or everything, and opens the result.
    fn bring_up_to(&self, segments: &List<SegmentRef>, load: &mut Load<'_>) -> Result<()> {
        let database = self.folder.join("db");
        let mut view = match self.read_state().filter(|_| database.exists()) {
            Some(state) => self.open_view(state)?,
            None => View::default(),
        };
        if view.has_exactly(segments) {
            // Another process was faster.
            return self.set_view(view);
        }
        let missing = Missing::find(segments, view.state.outline.as_ref(), || view.segments())?;
        let anew = missing.anew || view.db.is_none();
        let has_all = Cell::new(true);
        let fetched = missing.segments.into_iter().filter_map(|reference| {
            let segment = load(reference).transpose();
            has_all.set(has_all.get() && segment.is_some());
            Some(segment?.map(|segment| (reference.id, segment)))
        });
        let mut loaded = fetched.peekable();
        // Before anything is touched: a segment that cannot be had is tried each time.
        if let Some(Err(error)) = loaded.next_if(Result::is_err) {
            return Err(error);
        }
        if !anew && loaded.peek().is_none() && !has_all.get() {
            return self.set_view(view);
        }
        let mut state = std::mem::take(&mut view.state);
        drop(view);
        if anew {
            Self::clear(&self.folder)?;
            state = State { version: STATE_VERSION, ..State::default() };
        }
        let mut failed = None;
        if anew || loaded.peek().is_some() {
            // While data and state disagree there is no state: a crash here means building anew.
            let _ = fs::remove_file(self.folder.join("state.json"));
            failed = self.write(&mut state, &mut loaded)?;
        }
        state.outline = (failed.is_none() && has_all.get()).then(|| Outline::of(segments));
        self.write_state(&state)?;
        private::close_all(&database);
        match failed {
            Some(error) => Err(error),
            None => self.set_view(self.open_view(state)?),
        }
    }

    /// Writes segments. If one cannot be loaded, the result is the reason; those before it are in the database, and count.
    fn write(
        &self,
        state: &mut State,
        loaded: &mut dyn Iterator<Item = Result<(ObjectId, Segment)>>,
    ) -> Result<Option<Error>> {
        let (options, families) = Self::options();
        let path = self.folder.join("db");
        let db = DB::open_cf_descriptors(&options, &path, families).map_err(cache_error)?;
        let (packs, segments) = (family(&db, PACKS)?, family(&db, SEGMENTS)?);
        let staging = self.folder.join("load");
        let _ = fs::remove_dir_all(&staging);
        private::folder(&staging).map_err(cache_error)?;
        let (mut chunks, mut cuts) = (Bulk::new(CHUNKS, &staging), Bulk::new(CUTS, &staging));
        let mut failed = None;
        for segment in loaded {
            let (id, segment) = match segment {
                Ok(loaded) => loaded,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            };
            let mut batch = WriteBatch::default();
            batch.put_cf(segments, id.as_bytes(), []);
            for pack in segment.packs {
                let number = state.next_pack;
                state.next_pack += 1;
                let (key, info) = packs::encode(number, &pack, &id);
                batch.put_cf(packs, key, info);
                for record in &pack.records {
                    chunks.put(&short_key(&record.id), &encode_location(number, record))?;
                }
                for (anchor, cut) in cuts_of(&pack.records) {
                    cuts.put(&anchor.to_le_bytes(), &encode_cut(&cut))?;
                }
            }
            db.write_without_wal(batch).map_err(cache_error)?;
        }
        for family in [packs, segments] {
            db.flush_cf(family).map_err(cache_error)?;
        }
        for bulk in [chunks, cuts] {
            bulk.finish(&db, &options)?;
        }
        fs::remove_dir_all(&staging).map_err(cache_error)?;
        // Each table that overlaps others costs a look-up a probe of its filter: no more than a few.
        db.wait_for_compact(&WaitForCompactOptions::default()).map_err(cache_error)?;
        Ok(failed)
    }
}

fn read_options() -> ReadOptions {
    let mut options = ReadOptions::default();
    options.fill_cache(false);
    options
}

fn family<'a>(db: &'a DB, name: &str) -> Result<&'a rocksdb::ColumnFamily> {
    db.cf_handle(name).ok_or_else(|| cache_error(format!("no column family {name}")))
}

fn encode_location(pack: u32, record: &Record) -> Vec<u8> {
    let mut out = Encoder { bytes: Vec::with_capacity(32 + 32 * record.bases.len()) };
    out.u32(pack).u32(record.ordinal).u32(record.offset).u32(record.stored_len).u32(record.plain_len);
    out.u8(record.codec as u8).u8(record.depth).u8(record.generation).u64(record.anchor);
    record.bases.iter().for_each(|base| {
        out.raw(base.as_bytes());
    });
    out.bytes
}

fn decode_location(id: &ChunkId, bytes: &[u8]) -> Result<(u32, Record), Malformed> {
    let mut decoder = Decoder::new(bytes, "chunk entry");
    let pack = decoder.u32()?;
    let (ordinal, offset, stored_len, plain_len) =
        (decoder.u32()?, decoder.u32()?, decoder.u32()?, decoder.u32()?);
    let codec = crate::format::Codec::from_byte(decoder.u8()?).ok_or_else(|| decoder.malformed("codec"))?;
    let (depth, generation, anchor) = (decoder.u8()?, decoder.u8()?, decoder.u64()?);
    let mut bases = vec![];
    while decoder.remaining() > 0 {
        bases.push(ChunkId(decoder.array()?));
    }
    let id = *id;
    Ok((pack, Record { id, ordinal, offset, stored_len, plain_len, codec, depth, generation, anchor, bases }))
}

fn encode_cut(cut: &Cut) -> Vec<u8> {
    let after = cut.after.as_ref().map_or(&[][..], |id| id.as_bytes());
    [cut.before.as_bytes(), after].concat()
}

fn decode_cut(bytes: &[u8]) -> Result<Cut, Malformed> {
    let mut decoder = Decoder::new(bytes, "cut entry");
    let before = ChunkId(decoder.array()?);
    let after = if decoder.remaining() > 0 { Some(ChunkId(decoder.array()?)) } else { None };
    decoder.finish()?;
    Ok(Cut { before, after })
}

impl ChunkIndex for RocksIndex {
    fn lookup(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>> {
        let view = self.view()?;
        let Some(db) = &view.db else { return Ok(vec![None; ids.len()]) };
        let keys: Vec<[u8; 16]> = ids.iter().map(short_key).collect();
        let found = db.batched_multi_get_cf_opt(family(db, CHUNKS)?, &keys, false, &read_options());
        ids.iter()
            .zip(found)
            .map(|(id, value)| {
                let Some(value) = value.map_err(cache_error)? else { return Ok(None) };
                let (number, record) = decode_location(id, &value).in_object("local index")?;
                Ok(Some(Location { pack: Arc::clone(view.packs.get(db, number)?), record }))
            })
            .collect()
    }

    fn cuts(&self, anchors: &[u64]) -> Result<Vec<Option<Cut>>> {
        let view = self.view()?;
        let Some(db) = &view.db else { return Ok(vec![None; anchors.len()]) };
        let keys: Vec<[u8; 8]> = anchors.iter().map(|anchor| anchor.to_le_bytes()).collect();
        let found = db.batched_multi_get_cf_opt(family(db, CUTS)?, &keys, false, &read_options());
        let decode = |value: rocksdb::DBPinnableSlice<'_>| decode_cut(&value).in_object("local index");
        found.into_iter().map(|value| value.map_err(cache_error)?.map(decode).transpose()).collect()
    }

    fn packs(&self) -> Result<Vec<Arc<PackInfo>>> {
        let view = self.view()?;
        view.db.as_ref().map_or_else(|| Ok(vec![]), |db| view.packs.all(db))
    }

    fn sync(&self, segments: &List<SegmentRef>, load: &mut Load<'_>) -> Result<()> {
        if self.view()?.has_exactly(segments) {
            return Ok(());
        }
        let _lock = self.lock()?;
        match self.bring_up_to(segments, load) {
            // Anything wrong with the cache itself: it is only a cache.
            Err(Error::Cache { why }) => {
                tracing::warn!(why, "rebuilding the local index");
                Self::clear(&self.folder)?;
                self.bring_up_to(segments, load)
            }
            result => result,
        }
    }

    fn outline(&self) -> Result<Option<Outline>> {
        Ok(self.view()?.state.outline.clone())
    }

    fn len(&self) -> Result<u64> {
        let view = self.view()?;
        let Some(db) = &view.db else { return Ok(0) };
        let family = family(db, CHUNKS)?;
        Ok(db.iterator_cf(family, IteratorMode::Start).count() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{conformance, segment, synced};
    use super::*;
    use crate::head::outline_tests::{Shelf, segment_ref, unreadable};

    #[test]
    fn rocks_index_conforms() {
        let folder = tempfile::tempdir().unwrap();
        conformance(&RocksIndex::open(folder.path()).unwrap());
    }

    #[test]
    fn what_it_was_brought_up_to_is_known_when_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let open = || RocksIndex::open(folder.path()).unwrap();
        let shelf = Shelf::new();
        let mut list: List<SegmentRef> = (1..=5).map(segment_ref).collect();
        shelf.settle(&mut list);
        assert_eq!(synced(&open(), &list), [1, 2, 3, 4, 5]);
        assert!(synced(&open(), &unreadable(&list)).is_empty());
        let mut more = unreadable(&list);
        more.push(segment_ref(6));
        assert_eq!(synced(&open(), &more), [6]);
        // What another process did is seen without reading a leaf, too.
        let (first, second) = (open(), open());
        more.push(segment_ref(7));
        assert_eq!((synced(&first, &more), synced(&second, &more)), (vec![7], vec![]));
        list.extend([segment_ref(6), segment_ref(7)]);
        shelf.settle(&mut list);
        assert_eq!(list.leaves().count(), 1);
        assert!(synced(&first, &list).is_empty());
        assert!(synced(&open(), &unreadable(&list)).is_empty());
        // State and data disagree: it is built anew.
        fs::remove_file(folder.path().join("state.json")).unwrap();
        assert_eq!(synced(&open(), &list), [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn packs_of_many_pages_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let list: List<SegmentRef> = (0..=255).map(segment_ref).collect();
        let mut load = |reference: &SegmentRef| Ok(Some(segment(reference.id.0[0], 2)));
        RocksIndex::open(folder.path()).unwrap().sync(&list, &mut load).unwrap();
        let index = RocksIndex::open(folder.path()).unwrap();
        let ids: Vec<ChunkId> = (0..=255).rev().map(|seed| segment(seed, 2).packs[0].records[1].id).collect();
        for (seed, found) in (0..=255).rev().zip(index.lookup(&ids).unwrap()) {
            assert_eq!(found.unwrap().pack.segment, segment_ref(seed).id);
        }
        assert_eq!(index.packs().unwrap().len(), 256);
    }

    #[test]
    fn two_processes_share_and_a_broken_database_is_rebuilt() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (segment_ref(1), segment_ref(2));
        let (one, both) = (List::from(vec![a.clone()]), List::from(vec![a, b]));
        let mut load = |reference: &SegmentRef| Ok(Some(segment(reference.id.0[0], 20)));
        let first = RocksIndex::open(folder.path()).unwrap();
        first.sync(&one, &mut load).unwrap();
        let second = RocksIndex::open(folder.path()).unwrap();
        second.sync(&both, &mut load).unwrap();
        let id = |seed| segment(seed, 20).packs[0].records[3].id;
        // The first view goes on working while the second has moved the database on.
        assert!(first.lookup(&[id(1)]).unwrap()[0].is_some());
        assert!(second.lookup(&[id(2)]).unwrap()[0].is_some());
        drop((first, second));
        for entry in fs::read_dir(folder.path().join("db")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "sst") {
                fs::write(path, b"rubbish").unwrap();
            }
        }
        let third = RocksIndex::open(folder.path()).unwrap();
        third.sync(&both, &mut load).unwrap();
        assert!(third.lookup(&[id(2)]).unwrap()[0].is_some());
    }
}
