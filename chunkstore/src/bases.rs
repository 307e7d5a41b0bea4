//! Base chunks: which of them a new version of a chunk is compressed against, which locations count,
//! and how a chunk is read that stands on others.
//!
//! A location counts if its chunk stands on its own, or if each of its bases has a location that counts
//! and is of smaller depth. That is checked before anything is built on it; see docs/concurrency.md.

use crate::format::{MAX_BASES, MAX_DEPTH};
use crate::id::{ChunkId, PackId};
use crate::index::{ChunkIndex, Location, short_key};
use crate::pack::{PackReader, Record};
use crate::seal::Decompressor;
use crate::store::ChunkStore;
use crate::{Error, Result};
use bytes::Bytes;
use lru::LruCache;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Bases are chosen so that a chunk's depth is at most the sum of the digits of its generation in this
/// base. Decision 5 has the measurements: 2 (skip-deltas) stores 18 % more after 60 nights, 8 is read at
/// half the speed.
const RADIX: u8 = 4;

/// Plaintext of bases that is kept, in bytes: streams are read in order, so neighbours share bases.
const PLAIN_CACHE: usize = 32 << 20;
/// Sealed bytes are read and kept in blocks of this size: small deltas lie side by side.
const BLOCK: u64 = 512 << 10;
/// Sealed chunks from this size on are read for themselves; smaller ones may reach over a block's end.
const LARGE: u64 = 256 << 10;
/// Blocks that are kept.
const BLOCKS: usize = 16;

/// A location that counts, and every pack that it stands on, its own included.
#[derive(Clone, Debug)]
pub struct Grounded {
    /// Where the chunk is.
    pub location: Location,
    /// The packs.
    pub packs: Vec<PackId>,
}

/// Looks chunks up and answers with those locations that count, in the order of `ids`. Packs in `avoid` are
/// passed over as if they were gone.
pub fn ground(
    index: &dyn ChunkIndex,
    ids: &[ChunkId],
    avoid: &HashSet<PackId>,
) -> Result<Vec<Option<Grounded>>> {
    let mut known: HashMap<[u8; 16], Location> = HashMap::new();
    let mut asked: HashSet<[u8; 16]> = ids.iter().map(short_key).collect();
    let mut found = index.lookup(ids)?;
    let first = found.clone();
    loop {
        let usable = found.into_iter().flatten().filter(|found| !avoid.contains(&found.pack.name.id));
        let mut below = vec![];
        for location in usable {
            below.extend(location.record.bases.iter().filter(|base| asked.insert(short_key(base))).copied());
            known.insert(short_key(&location.record.id), location);
        }
        if below.is_empty() {
            break;
        }
        found = index.lookup(&below)?;
    }
    let mut out = Vec::with_capacity(ids.len());
    for location in first {
        let grounded =
            location.filter(|location| !avoid.contains(&location.pack.name.id)).and_then(|location| {
                let mut packs = vec![];
                stands(&known, &location, &mut packs).then_some(Grounded { location, packs })
            });
        out.push(grounded);
    }
    Ok(out)
}

/// Whether everything below `top` is there, each base of smaller depth than what stands on it.
fn stands(known: &HashMap<[u8; 16], Location>, top: &Location, packs: &mut Vec<PackId>) -> bool {
    let mut open = vec![top];
    let mut seen: HashSet<ChunkId> = HashSet::new();
    while let Some(location) = open.pop() {
        if !packs.contains(&location.pack.name.id) {
            packs.push(location.pack.name.id);
        }
        for base in &location.record.bases {
            match known.get(&short_key(base)) {
                Some(below) if below.record.depth < location.record.depth => {
                    if seen.insert(*base) {
                        open.push(below);
                    }
                }
                _ => return false,
            }
        }
    }
    true
}

/// What a new version of some chunks is to be compressed against.
#[derive(Clone, Debug)]
pub struct BaseChoice {
    /// The bases, in the order of the prefix.
    pub bases: Vec<ChunkId>,
    /// The new chunk's depth.
    pub depth: u8,
    /// The new chunk's generation.
    pub generation: u8,
    /// The packs that the new chunk will stand on.
    pub packs: Vec<PackId>,
}

/// The generation that a chunk of generation `n` is compressed against: `n` without its lowest power of
/// four. Lies on the path of bases of generation `n - 1`.
#[must_use]
pub fn base_generation(n: u8) -> u8 {
    let mut step = 1u16;
    while n > 0 && u16::from(n).is_multiple_of(step * u16::from(RADIX)) {
        step *= u16::from(RADIX);
    }
    n - u8::try_from(step).unwrap_or(n).min(n)
}

/// Chooses the bases of the next version of `around`, neighbouring chunks of the last one; `None` if
/// the chunk should stand on its own again. Packs in `avoid` are not built on.
pub fn choose(
    index: &dyn ChunkIndex,
    around: &[Arc<Grounded>],
    avoid: &HashSet<PackId>,
) -> Result<Option<BaseChoice>> {
    let Some(last) = around.iter().map(|grounded| grounded.location.record.generation).max() else {
        return Ok(None);
    };
    let Some(generation) = last.checked_add(1) else { return Ok(None) };
    let wanted = base_generation(generation);
    let mut bases: Vec<Record> = around.iter().map(|grounded| grounded.location.record.clone()).collect();
    for _ in 0..=MAX_DEPTH {
        let too_new =
            |record: &Record| record.is_delta() && (record.generation > wanted || record.depth >= MAX_DEPTH);
        if !bases.iter().any(too_new) {
            break;
        }
        let mut older: Vec<Record> = vec![];
        for record in bases {
            if !too_new(&record) {
                older.push(record);
                continue;
            }
            for location in index.lookup(&record.bases)? {
                let Some(location) = location else { return Ok(None) };
                older.push(location.record);
            }
        }
        let mut seen = HashSet::new();
        older.retain(|record| seen.insert(record.id));
        bases = older;
    }
    bases.truncate(MAX_BASES);
    // Looked at once more, as one: the index may have moved on since `around` was looked up, and depth and
    // packs must belong to the same locations.
    let bases: Vec<ChunkId> = bases.into_iter().map(|record| record.id).collect();
    let grounded: Option<Vec<Grounded>> = ground(index, &bases, avoid)?.into_iter().collect();
    let Some(grounded) = grounded else { return Ok(None) };
    let deepest = grounded.iter().map(|base| base.location.record.depth).max().unwrap_or(MAX_DEPTH);
    if deepest >= MAX_DEPTH {
        return Ok(None);
    }
    let packs = grounded.into_iter().flat_map(|base| base.packs).collect();
    Ok(Some(BaseChoice { bases, depth: deepest + 1, generation, packs }))
}

/// A decoded chunk.
#[derive(Debug)]
pub struct Plain {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Stored bytes over plain bytes of the chunks at the bottom: how well its like compresses alone.
    pub ratio: f32,
}

/// Bases in the order of a prefix.
#[derive(Debug)]
pub enum Prefix {
    /// None: the chunk stands on its own.
    Empty,
    /// One.
    One(Arc<Plain>),
    /// Several, put together.
    Joined(Plain),
}

impl Prefix {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Empty => &[],
            Self::One(plain) => &plain.bytes,
            Self::Joined(plain) => &plain.bytes,
        }
    }

    /// As [`Plain::ratio`].
    #[must_use]
    pub fn ratio(&self) -> f32 {
        match self {
            Self::Empty => 1.0,
            Self::One(plain) => plain.ratio,
            Self::Joined(plain) => plain.ratio,
        }
    }
}

/// A cache that is bounded by bytes.
struct ByteLru<K: std::hash::Hash + Eq> {
    entries: LruCache<K, Arc<Plain>>,
    bytes: usize,
}

/// Reads base chunks, which may stand on others, and keeps what it read for a while. Shared by threads.
pub struct BaseReader {
    plain: Mutex<ByteLru<[u8; 16]>>,
    blocks: Mutex<LruCache<(PackId, u64), Bytes>>,
    decompressors: Mutex<Vec<Decompressor>>,
    buffers: Mutex<Buffers>,
}

/// Buffers that are reused: fresh memory costs the kernel more than decoding into it.
#[derive(Default)]
struct Buffers {
    spare: Vec<Vec<u8>>,
    bytes: usize,
}

/// Bytes of buffers that wait to be reused.
const SPARE_BYTES: usize = 16 << 20;

impl Buffers {
    /// The smallest that has room for `len` bytes and is not much too large; or a new one.
    fn take(&mut self, len: usize) -> Vec<u8> {
        let fits = |buffer: &Vec<u8>| (len..=2 * len + 4096).contains(&buffer.capacity());
        let sizes = self.spare.iter().enumerate().filter(|(_, buffer)| fits(buffer));
        let best = sizes.min_by_key(|(_, buffer)| buffer.capacity()).map(|(place, _)| place);
        match best {
            Some(place) => {
                let buffer = self.spare.swap_remove(place);
                self.bytes -= buffer.capacity();
                buffer
            }
            None => Vec::with_capacity(len),
        }
    }

    fn put(&mut self, mut buffer: Vec<u8>) {
        if self.bytes + buffer.capacity() <= SPARE_BYTES {
            buffer.clear();
            self.bytes += buffer.capacity();
            self.spare.push(buffer);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for BaseReader {
    fn default() -> Self {
        Self {
            plain: Mutex::new(ByteLru { entries: LruCache::unbounded(), bytes: 0 }),
            blocks: Mutex::new(LruCache::unbounded()),
            decompressors: Mutex::default(),
            buffers: Mutex::default(),
        }
    }
}

impl BaseReader {
    /// Whether everything that `record` needs to be read has a location that counts.
    pub fn stands(&self, store: &ChunkStore, record: &Record) -> Result<bool> {
        let below = ground(&**store.index(), &record.bases, &HashSet::new())?;
        let smaller = |base: &Grounded| base.location.record.depth < record.depth;
        Ok(below.iter().all(|base| base.as_ref().is_some_and(smaller)))
    }

    /// The prefix that `record` needs to be read.
    pub fn prefix_of(&self, store: &ChunkStore, record: &Record) -> Result<Prefix> {
        if !record.is_delta() {
            return Ok(Prefix::Empty);
        }
        let mut bases = vec![];
        for (base, location) in record.bases.iter().zip(store.index().lookup(&record.bases)?) {
            let location = location.ok_or(Error::MissingChunk { id: *base })?;
            if location.record.depth >= record.depth {
                let why = format!("base {} is not of smaller depth", base.short());
                return Err(Error::corrupt(location.pack.name.object(), why));
            }
            bases.push(self.read(store, &location)?);
        }
        Ok(self.join(bases))
    }

    /// Bases for a new chunk, each compared with its id.
    pub fn bases(&self, store: &ChunkStore, ids: &[ChunkId]) -> Result<Prefix> {
        let mut bases = vec![];
        for (id, location) in ids.iter().zip(store.index().lookup(ids)?) {
            let location = location.ok_or(Error::MissingChunk { id: *id })?;
            let plain = self.read(store, &location)?;
            if store.keys().chunk_id(&plain.bytes) != *id {
                let why = format!("chunk {}: content does not have this id", id.short());
                return Err(Error::corrupt(location.pack.name.object(), why));
            }
            bases.push(plain);
        }
        Ok(self.join(bases))
    }

    /// One chunk, from the cache or with everything below it. Depth bounds the recursion.
    fn read(&self, store: &ChunkStore, location: &Location) -> Result<Arc<Plain>> {
        let key = short_key(&location.record.id);
        if let Some(plain) = locked(&self.plain).entries.get(&key) {
            return Ok(Arc::clone(plain));
        }
        let record = &location.record;
        let prefix = self.prefix_of(store, record)?;
        let sealed = self.sealed(store, location)?;
        let reader = PackReader::new(location.pack.name, store.keys())?;
        let reused = locked(&self.decompressors).pop();
        let mut decompressor = reused.map_or_else(Decompressor::new, Ok)?;
        let mut bytes = self.buffer(record.plain_len as usize);
        let opened = reader.open_into(record, &sealed, prefix.bytes(), &mut decompressor, &mut bytes);
        locked(&self.decompressors).push(decompressor);
        opened?;
        let ratio = match prefix {
            Prefix::Empty => record.stored_len as f32 / record.plain_len.max(1) as f32,
            _ => prefix.ratio(),
        };
        self.recycle_prefix(prefix);
        let plain = Arc::new(Plain { bytes, ratio });
        let mut cache = locked(&self.plain);
        cache.bytes += plain.bytes.len();
        let mut gone: Vec<Arc<Plain>> = cache.entries.put(key, Arc::clone(&plain)).into_iter().collect();
        cache.bytes -= gone.iter().map(|plain| plain.bytes.len()).sum::<usize>();
        while cache.bytes > PLAIN_CACHE
            && let Some((_, oldest)) = cache.entries.pop_lru()
        {
            cache.bytes -= oldest.bytes.len();
            gone.push(oldest);
        }
        drop(cache);
        gone.into_iter().filter_map(Arc::into_inner).for_each(|plain| self.recycle(plain.bytes));
        Ok(plain)
    }

    /// A buffer with room for `len` bytes, used before if there is one.
    pub fn buffer(&self, len: usize) -> Vec<u8> {
        locked(&self.buffers).take(len)
    }

    /// Takes a buffer that is no longer used.
    pub fn recycle(&self, buffer: Vec<u8>) {
        locked(&self.buffers).put(buffer);
    }

    /// Takes the buffer of a prefix that is no longer used.
    pub fn recycle_prefix(&self, prefix: Prefix) {
        match prefix {
            Prefix::Empty => {}
            Prefix::One(plain) => {
                if let Some(plain) = Arc::into_inner(plain) {
                    self.recycle(plain.bytes);
                }
            }
            Prefix::Joined(plain) => self.recycle(plain.bytes),
        }
    }

    fn join(&self, mut bases: Vec<Arc<Plain>>) -> Prefix {
        if bases.len() == 1
            && let Some(one) = bases.pop()
        {
            return Prefix::One(one);
        }
        let mut bytes = self.buffer(bases.iter().map(|base| base.bytes.len()).sum());
        bases.iter().for_each(|base| bytes.extend_from_slice(&base.bytes));
        let ratio = bases.iter().map(|base| base.ratio).sum::<f32>() / bases.len().max(1) as f32;
        Prefix::Joined(Plain { bytes, ratio })
    }

    /// The sealed bytes of a chunk.
    fn sealed(&self, store: &ChunkStore, location: &Location) -> Result<Bytes> {
        let object = location.pack.name.object();
        let (offset, len) = (u64::from(location.record.offset), u64::from(location.record.stored_len));
        if len > LARGE {
            return Ok(store.storage().get_range(&object, offset, len)?);
        }
        let start = offset / BLOCK * BLOCK;
        let key = (location.pack.name.id, start);
        let cached = locked(&self.blocks).get(&key).cloned();
        let block = match cached {
            Some(block) => block,
            None => {
                let end = (start + BLOCK + LARGE).min(location.pack.len);
                let block = store.storage().get_range(&object, start, end.saturating_sub(start))?;
                let mut blocks = locked(&self.blocks);
                blocks.put(key, block.clone());
                while blocks.len() > BLOCKS {
                    blocks.pop_lru();
                }
                block
            }
        };
        let from = usize::try_from(offset - start).unwrap_or(usize::MAX);
        if from.checked_add(location.record.stored_len as usize).is_none_or(|end| end > block.len()) {
            return Err(Error::corrupt(object, "shorter than its index says"));
        }
        Ok(block.slice(from..from + location.record.stored_len as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_lie_on_the_path_and_depth_is_the_sum_of_digits() {
        for n in 1..=255u8 {
            let base = base_generation(n);
            assert!(base < n);
            // Following bases from n - 1 passes through the base of n.
            let mut at = n - 1;
            while at > base {
                at = base_generation(at);
            }
            assert_eq!(at, base, "generation {n}");
            let (mut depth, mut at) = (0, n);
            while at > 0 {
                (at, depth) = (base_generation(at), depth + 1);
            }
            let digits: u32 = (0..4).map(|place| u32::from(n) / 4u32.pow(place) % 4).sum();
            assert_eq!(depth, digits, "generation {n}");
        }
    }
}
