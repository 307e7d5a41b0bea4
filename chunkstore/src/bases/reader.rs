//! Reading base chunks, which may be deltas themselves, in bounded memory. Streams are read in order, so the bases of
//! one chunk are near those of the next.

use super::{Grounded, find_everywhere, ground};
use crate::format::Codec;
use crate::head::Head;
use crate::id::{ChunkId, PackId};
use crate::index::{Location, short_key};
use crate::ingest::ChunkRef;
use crate::pack::{PackReader, Record};
use crate::pool::locked;
use crate::rope::Rope;
use crate::seal::Decompressor;
use crate::store::ChunkStore;
use crate::{Error, Result, memory};
use bytes::Bytes;
use lru::LruCache;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

/// What may be kept of bases, in bytes: streams are read in order, so only neighbours share bases. Four times
/// as much was no faster.
const PLAIN_CACHE: usize = 8 << 20;
/// Sealed bytes are read and kept in blocks of this size: small deltas lie side by side.
const BLOCK: u64 = 512 << 10;
/// Sealed chunks from this size on are read for themselves; smaller ones may reach over a block's end.
const LARGE: u64 = 256 << 10;
/// Blocks that are kept.
const BLOCKS: usize = 16;

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
    /// None: the chunk is stored full.
    Empty,
    /// One.
    One(Arc<Vec<u8>>, f32),
    /// Several, put together.
    Joined(Plain),
}

impl Prefix {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Empty => &[],
            Self::One(bytes, _) => bytes,
            Self::Joined(plain) => &plain.bytes,
        }
    }

    /// As [`Plain::ratio`].
    #[must_use]
    pub fn ratio(&self) -> f32 {
        match self {
            Self::Empty => 1.0,
            Self::One(_, ratio) => *ratio,
            Self::Joined(plain) => plain.ratio,
        }
    }
}

/// A chunk that was read.
struct Chunk {
    rope: Rope,
    ratio: f32,
}

/// A cache that is bounded by the bytes that it keeps alive; shared ones count for each that holds them.
struct ByteLru<K: std::hash::Hash + Eq> {
    entries: LruCache<K, Arc<Chunk>>,
    bytes: usize,
}

/// Reads base chunks, which may be deltas themselves, and caches what it read. Shared by threads.
pub struct BaseReader {
    plain: Mutex<ByteLru<[u8; 16]>>,
    blocks: Mutex<LruCache<(PackId, u64), Bytes>>,
    buffers: Mutex<Buffers>,
    /// Locations that are better than those that the index keeps.
    better: Mutex<Better>,
    /// Chunks that somebody has at hand.
    lent: Mutex<HashMap<[u8; 16], Lent>>,
}

/// A chunk that was lent.
struct Lent {
    chunk: Arc<Chunk>,
    /// How often.
    times: usize,
}

/// Locations that were looked for in all segments of one HEAD. Under a later one they may be gone.
#[derive(Default)]
struct Better {
    generation: u64,
    places: HashMap<[u8; 16], Location>,
}

impl Better {
    /// Those that still hold.
    fn under(&mut self, head: &Head) -> &mut HashMap<[u8; 16], Location> {
        if self.generation != head.generation {
            *self = Self { generation: head.generation, ..Self::default() };
        }
        &mut self.places
    }
}

/// Buffers that are reused: fresh memory costs the kernel more than decoding into it.
#[derive(Default)]
struct Buffers {
    spare: Vec<Vec<u8>>,
    bytes: usize,
}

/// Bytes of buffers that wait to be reused: as much as is read ahead over a network.
const SPARE_BYTES: usize = 64 << 20;
/// Smaller ones are as cheap to make anew.
const SPARE_LEAST: usize = 32 << 10;

impl Buffers {
    /// The smallest that has room for `len` bytes and is not much too large; or a new one.
    fn take(&mut self, len: usize) -> Result<Vec<u8>> {
        let fits = |buffer: &Vec<u8>| (len..=2 * len + 4096).contains(&buffer.capacity());
        let sizes = self.spare.iter().enumerate().filter(|(_, buffer)| fits(buffer));
        let best = sizes.min_by_key(|(_, buffer)| buffer.capacity()).map(|(place, _)| place);
        match best {
            Some(place) => {
                let buffer = self.spare.swap_remove(place);
                self.bytes -= buffer.capacity();
                Ok(buffer)
            }
            // Few sizes: allocators keep those of each thread and size apart, and buffers wander between threads.
            None if len >= SPARE_LEAST => memory::room(len.next_power_of_two()),
            None => memory::room(len),
        }
    }

    fn put(&mut self, mut buffer: Vec<u8>) {
        if (SPARE_LEAST..=SPARE_BYTES - self.bytes).contains(&buffer.capacity()) {
            buffer.clear();
            self.bytes += buffer.capacity();
            self.spare.push(buffer);
        }
    }
}

impl Default for BaseReader {
    fn default() -> Self {
        Self {
            plain: Mutex::new(ByteLru { entries: LruCache::unbounded(), bytes: 0 }),
            blocks: Mutex::new(LruCache::unbounded()),
            buffers: Mutex::default(),
            better: Mutex::default(),
            lent: Mutex::default(),
        }
    }
}

impl BaseReader {
    /// Takes the bytes of a chunk that somebody has at hand, so that what was stored against it is read without it. If they are
    /// those of another chunk, what is read with them does not have its id.
    pub fn lend(&self, id: &ChunkId, bytes: Vec<u8>) {
        let chunk = Arc::new(Chunk { rope: Rope::whole(bytes), ratio: 1.0 });
        locked(&self.lent).entry(short_key(id)).or_insert(Lent { chunk, times: 0 }).times += 1;
    }

    /// Forgets one that was lent.
    pub fn give_back(&self, id: &ChunkId) {
        let mut lent = locked(&self.lent);
        let key = short_key(id);
        let is_last = lent.get_mut(&key).is_some_and(|lent| {
            lent.times -= 1;
            lent.times == 0
        });
        let gone = if is_last { lent.remove(&key) } else { None };
        drop(lent);
        let buffers =
            gone.and_then(|lent| Arc::into_inner(lent.chunk)).map(|chunk| chunk.rope.into_buffers());
        buffers.into_iter().flatten().for_each(|buffer| self.recycle(buffer));
    }

    /// Whether one was lent.
    pub fn is_lent(&self, id: &ChunkId) -> bool {
        locked(&self.lent).contains_key(&short_key(id))
    }

    /// Gives the bytes of one back that was lent once; `None` if somebody reads them.
    pub fn take_back(&self, id: &ChunkId) -> Option<Vec<u8>> {
        let lent = locked(&self.lent).remove(&short_key(id))?;
        Arc::into_inner(lent.chunk)?.rope.into_buffers().next()
    }

    /// A chunk that is stored against chunks that were lent and no others; `None` if it is stored otherwise, or cannot be read
    /// from where the index says that it is.
    pub fn over_lent(&self, store: &ChunkStore, chunk: &ChunkRef) -> Option<Vec<u8>> {
        let location = self.lookup(store, std::slice::from_ref(&chunk.id)).ok()?.pop()??;
        let record = &location.record;
        let is_over = record.is_delta() && record.bases.iter().all(|base| self.is_lent(base));
        if !is_over || record.plain_len != chunk.len {
            return None;
        }
        let reader = PackReader::new(location.pack.name, store.keys()).ok()?;
        let sealed = self.sealed(store, &location).ok()?;
        let mut decompressor = store.decompressor().ok()?;
        let plain = self.open(store, &reader, record, &sealed, &mut decompressor);
        store.recycle(decompressor);
        plain.ok().filter(|plain| reader.check_id(store.keys(), record, plain).is_ok())
    }

    /// Whether every chunk that `record` depends on has a location that counts.
    pub fn stands(&self, store: &ChunkStore, record: &Record) -> Result<bool> {
        let below = ground(&**store.index(), &record.bases, &HashSet::new())?;
        let smaller = |base: &Grounded| base.location.record.depth < record.depth;
        Ok(below.iter().all(|base| base.as_ref().is_some_and(smaller)))
    }

    /// The prefix that `record` needs to be read.
    pub fn prefix_of(&self, store: &ChunkStore, record: &Record) -> Result<Prefix> {
        let below = match self.below(store, record) {
            // The location that the index keeps may stand on what is gone, while another one is sound.
            Err(error) if error.is_damage() => {
                for base in &record.bases {
                    self.look_everywhere(store, base, &HashSet::new())?;
                }
                self.below(store, record)?
            }
            below => below?,
        };
        Ok(if below.is_empty() { Prefix::Empty } else { self.join(below)? })
    }

    /// Opens one sealed chunk, with everything below it. Its id is for the caller to check.
    pub fn open(
        &self,
        store: &ChunkStore,
        reader: &PackReader,
        record: &Record,
        sealed: &[u8],
        decompressor: &mut Decompressor,
    ) -> Result<Vec<u8>> {
        let (len, below) = (record.plain_len as usize, self.below(store, record)?);
        if below.is_empty() {
            let mut plain = self.buffer(len)?;
            reader.open_into(record, sealed, &[], decompressor, &mut plain)?;
            return Ok(plain);
        }
        let bases = Rope::concat(below.iter().map(|chunk| &chunk.rope));
        let rope = reader.open_rope(record, sealed, &bases, decompressor, vec![])?;
        let mut plain = self.buffer(len)?;
        rope.write_to(&mut plain);
        Ok(plain)
    }

    /// What the index says, where nothing better was found.
    fn lookup(&self, store: &ChunkStore, ids: &[ChunkId]) -> Result<Vec<Option<Location>>> {
        let mut found = store.index().lookup(ids)?;
        let mut better = locked(&self.better);
        let better = better.under(&store.head());
        if !better.is_empty() {
            for (id, found) in ids.iter().zip(&mut found) {
                if let Some(better) = better.get(&short_key(id)) {
                    *found = Some(better.clone());
                }
            }
        }
        Ok(found)
    }

    /// Searches for other locations of a chunk and its bases than those that could not be read; returns the one to read
    /// now, if there is any.
    pub fn look_everywhere(
        &self,
        store: &ChunkStore,
        id: &ChunkId,
        avoid: &HashSet<PackId>,
    ) -> Result<Option<Location>> {
        let mut found = find_everywhere(store, std::slice::from_ref(id), avoid)?;
        let location = found.get(&short_key(id)).cloned();
        locked(&self.better).under(&store.head()).extend(found.drain());
        Ok(location)
    }

    /// The bases of a chunk.
    fn below(&self, store: &ChunkStore, record: &Record) -> Result<Vec<Arc<Chunk>>> {
        if !record.is_delta() {
            return Ok(vec![]);
        }
        let mut bases = vec![];
        for (base, location) in record.bases.iter().zip(self.lookup(store, &record.bases)?) {
            let lower = |location: &Location| location.record.depth < record.depth;
            // The index keeps one location of each chunk; it need not be the one that this stands on.
            let location = match location.filter(lower) {
                Some(location) => location,
                None => self
                    .look_everywhere(store, base, &HashSet::new())?
                    .filter(lower)
                    .ok_or(Error::MissingChunk { id: *base })?,
            };
            bases.push(self.read(store, &location)?);
        }
        Ok(bases)
    }

    /// Bases for a new chunk, each compared with its id.
    pub fn bases(&self, store: &ChunkStore, ids: &[ChunkId]) -> Result<Prefix> {
        let (mut bases, mut objects) = (vec![], vec![]);
        for (id, location) in ids.iter().zip(self.lookup(store, ids)?) {
            let location = location.ok_or(Error::MissingChunk { id: *id })?;
            bases.push(self.read(store, &location)?);
            objects.push(location.pack.name.object());
        }
        let lens: Vec<usize> = bases.iter().map(|base| base.rope.len()).collect();
        let prefix = self.join(bases)?;
        let mut rest = prefix.bytes();
        for ((id, len), object) in ids.iter().zip(lens).zip(objects) {
            let (bytes, after) = rest.split_at(len);
            if store.keys().chunk_id(bytes) != *id {
                let why = format!("chunk {}: content does not have this id", id.short());
                return Err(Error::corrupt(object, why));
            }
            rest = after;
        }
        Ok(prefix)
    }

    /// One chunk, from the cache or with everything below it. Depth bounds the recursion.
    fn read(&self, store: &ChunkStore, location: &Location) -> Result<Arc<Chunk>> {
        let key = short_key(&location.record.id);
        if let Some(lent) = locked(&self.lent).get(&key) {
            return Ok(Arc::clone(&lent.chunk));
        }
        if let Some(chunk) = locked(&self.plain).entries.get(&key) {
            return Ok(Arc::clone(chunk));
        }
        let record = &location.record;
        let below = self.below(store, record)?;
        let reader = PackReader::new(location.pack.name, store.keys())?;
        let mut decompressor = store.decompressor()?;
        let bases = Rope::concat(below.iter().map(|chunk| &chunk.rope));
        let in_pieces = matches!(record.codec, Codec::Patch | Codec::PrefixedPatch);
        let buffer = if in_pieces { vec![] } else { self.buffer(record.plain_len as usize)? };
        let opened = self
            .sealed(store, location)
            .and_then(|sealed| reader.open_rope(record, &sealed, &bases, &mut decompressor, buffer));
        let opened = opened.or_else(|error| {
            let copies = store.storage().copies().iter();
            let mut sound = copies.filter_map(|copy| {
                let (offset, len) = (u64::from(record.offset), u64::from(record.stored_len));
                let sealed = copy.get_range(&location.pack.name.object(), offset, len).ok()?;
                reader.open_rope(record, &sealed, &bases, &mut decompressor, vec![]).ok()
            });
            sound.next().ok_or(error)
        });
        store.recycle(decompressor);
        let rope = opened?;
        let ratio = match below.len() {
            0 => record.stored_len as f32 / record.plain_len.max(1) as f32,
            many => below.iter().map(|base| base.ratio).sum::<f32>() / many as f32,
        };
        let chunk = Arc::new(Chunk { rope, ratio });
        let mut cache = locked(&self.plain);
        cache.bytes += chunk.rope.held();
        let mut gone: Vec<Arc<Chunk>> = cache.entries.put(key, Arc::clone(&chunk)).into_iter().collect();
        cache.bytes -= gone.iter().map(|chunk| chunk.rope.held()).sum::<usize>();
        while cache.bytes > PLAIN_CACHE
            && let Some((_, oldest)) = cache.entries.pop_lru()
        {
            cache.bytes -= oldest.rope.held();
            gone.push(oldest);
        }
        drop(cache);
        let buffers =
            gone.into_iter().filter_map(Arc::into_inner).flat_map(|chunk| chunk.rope.into_buffers());
        buffers.for_each(|buffer| self.recycle(buffer));
        Ok(chunk)
    }

    /// A buffer with room for `len` bytes, used before if there is one.
    pub fn buffer(&self, len: usize) -> Result<Vec<u8>> {
        locked(&self.buffers).take(len)
    }

    /// Takes a buffer that is no longer used.
    pub fn recycle(&self, buffer: Vec<u8>) {
        locked(&self.buffers).put(buffer);
    }

    /// Takes the buffer of a prefix that is no longer used.
    pub fn recycle_prefix(&self, prefix: Prefix) {
        let buffer = match prefix {
            Prefix::Empty => None,
            Prefix::One(bytes, _) => Arc::into_inner(bytes),
            Prefix::Joined(plain) => Some(plain.bytes),
        };
        buffer.into_iter().for_each(|buffer| self.recycle(buffer));
    }

    fn join(&self, bases: Vec<Arc<Chunk>>) -> Result<Prefix> {
        let ratio = bases.iter().map(|base| base.ratio).sum::<f32>() / bases.len().max(1) as f32;
        if let [one] = &bases[..]
            && let Some(bytes) = one.rope.as_whole()
        {
            return Ok(Prefix::One(Arc::clone(bytes), ratio));
        }
        let mut bytes = self.buffer(bases.iter().map(|base| base.rope.len()).sum())?;
        bases.iter().for_each(|base| base.rope.write_to(&mut bytes));
        Ok(Prefix::Joined(Plain { bytes, ratio }))
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
