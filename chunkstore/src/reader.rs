//! Reading: chunks are requested in order, fetched in runs of neighbours by several threads, and returned in the same
//! order. Each is authenticated and its id checked; a damaged one is an error of its own and does not affect its
//! neighbours.

use crate::bases::BaseReader;
use crate::executor::{Pending, submit};
use crate::id::ChunkId;
use crate::index::Location;
use crate::ingest::ChunkRef;
use crate::store::ChunkStore;
use crate::{Error, Result};
use range::{RunResult, all_fail, extends, read_run};
use std::collections::VecDeque;
use std::sync::Arc;

mod elsewhere;
mod range;

/// How far and how much at a time is read.
#[derive(Clone, Copy)]
struct Reach {
    /// Plain bytes that may be fetched ahead of the reader.
    ahead: usize,
    /// One range read covers at most this much of a pack.
    run: u64,
    /// And what it holds is at most this much, so that several threads decode, and memory stays bounded.
    run_plain: usize,
}

/// A local disk has no latency to hide.
const NEAR: Reach = Reach { ahead: 32 << 20, run: 4 << 20, run_plain: 4 << 20 };
/// Over a network each request costs the same whatever it asks for, here and there, so it asks for more; four or five of them are
/// under way at a time, which hides a latency of tens of milliseconds (`make bench-tiers`).
const FAR: Reach = Reach { ahead: 64 << 20, run: 16 << 20, run_plain: 16 << 20 };

/// Chunks and tokens that may wait, so that a million empty files take no memory either.
const AHEAD_ITEMS: usize = 16_384;
/// Ids looked up at a time.
const LOOKUP: usize = 128;

/// What was asked for, in order.
enum Request<T> {
    /// A chunk, and one that was lent for it with its bytes.
    Chunk(ChunkRef, Option<(ChunkId, usize)>, T),
    Token(T),
}

struct Run<T> {
    work: Pending<RunResult>,
    slots: Vec<Slot<T>>,
    bytes: usize,
    /// Chunks that were lent for it.
    lent: Vec<(ChunkId, usize)>,
}

/// What comes out of a run, in order: its chunks, and what stood between them, so that a thousand small
/// files of one pack are one read.
enum Slot<T> {
    Chunk(T),
    Token(T),
    /// A chunk that no index knows.
    Missing(ChunkId, T),
}

/// Fetches ahead and hands out in order.
pub struct ReadAhead<T> {
    store: Arc<ChunkStore>,
    requests: Vec<Request<T>>,
    requested_bytes: usize,
    queue: VecDeque<Run<T>>,
    bases: Arc<BaseReader>,
    queued_bytes: usize,
    /// Chunks and tokens.
    queued_items: usize,
    reach: Reach,
}

/// What comes out: the chunk's bytes or why there are none, or a token.
pub enum Fetched<T> {
    /// A chunk.
    Chunk(Result<Vec<u8>>, T),
    /// What stood between chunks.
    Token(T),
}

impl<T> ReadAhead<T> {
    /// Reads from `store`, whose index must be in step.
    #[must_use]
    pub fn new(store: &Arc<ChunkStore>) -> Self {
        Self {
            store: Arc::clone(store),
            requests: vec![],
            requested_bytes: 0,
            queue: VecDeque::new(),
            bases: Arc::default(),
            queued_bytes: 0,
            queued_items: 0,
            reach: if store.storage().is_near() { NEAR } else { FAR },
        }
    }

    /// The same as one of so many that read at a time and share what may be fetched ahead; each has two runs at least.
    #[must_use]
    pub fn shared(store: &Arc<ChunkStore>, readers: usize) -> Self {
        let mut own = Self::new(store);
        own.reach.ahead = (own.reach.ahead / readers.max(1)).max(2 * own.reach.run_plain);
        own
    }

    /// Requests a chunk.
    pub fn request(&mut self, chunk: ChunkRef, tag: T) -> Result<()> {
        self.request_with(chunk, None, tag)
    }

    /// Requests a chunk that may be stored against another one, whose bytes are at hand: they need not be read then. They count
    /// as read ahead until the chunk is taken.
    pub fn request_over(&mut self, chunk: ChunkRef, base: &ChunkId, bytes: Vec<u8>, tag: T) -> Result<()> {
        let lent = (*base, bytes.capacity());
        self.bases.lend(base, bytes);
        self.request_with(chunk, Some(lent), tag)
    }

    /// A chunk at once, without a thread that fetches it: if it is stored against `base`, whose bytes are at hand, and the store
    /// is near. Otherwise `None`, and it is to be requested. The bytes of the base are given back; none are if they are in use.
    pub fn over(&mut self, chunk: &ChunkRef, base: &ChunkId, bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
        if !self.store.storage().is_near() || self.bases.is_lent(base) {
            return None;
        }
        self.bases.lend(base, std::mem::take(bytes));
        let plain = self.bases.over_lent(&self.store, chunk);
        *bytes = self.bases.take_back(base).unwrap_or_default();
        plain
    }

    fn request_with(&mut self, chunk: ChunkRef, lent: Option<(ChunkId, usize)>, tag: T) -> Result<()> {
        self.requested_bytes += chunk.len as usize + lent.map_or(0, |(_, bytes)| bytes);
        self.requests.push(Request::Chunk(chunk, lent, tag));
        // Large chunks by fewer than small ones: what is under way is bounded in bytes.
        let enough = self.requests.len() >= LOOKUP || self.requested_bytes >= self.reach.run_plain;
        if enough { self.launch() } else { Ok(()) }
    }

    /// Puts a token between chunks.
    pub fn token(&mut self, tag: T) -> Result<()> {
        self.requests.push(Request::Token(tag));
        if self.requests.len() >= LOOKUP { self.launch() } else { Ok(()) }
    }

    /// Whether as much is under way as memory allows, so that `take` should be called.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.queued_bytes + self.requested_bytes >= self.reach.ahead || self.queued_items >= AHEAD_ITEMS
    }

    /// A buffer with room for `len` bytes, used before if there is one: for chunks that are lent, most of all.
    pub fn buffer(&self, len: usize) -> Result<Vec<u8>> {
        self.bases.buffer(len)
    }

    /// Takes the bytes of a chunk that are no longer used.
    pub fn recycle(&self, bytes: Vec<u8>) {
        self.bases.recycle(bytes);
    }

    /// The next in order, waiting for it; `None` if no request is left.
    pub fn take(&mut self) -> Result<Option<Vec<Fetched<T>>>> {
        if self.queue.is_empty() {
            self.launch()?;
        }
        let Some(run) = self.queue.pop_front() else { return Ok(None) };
        let mut chunks = run.work.wait()?.into_iter();
        self.queued_bytes -= run.bytes;
        self.queued_items -= run.slots.len();
        run.lent.iter().for_each(|(id, _)| self.bases.give_back(id));
        let fetched = run.slots.into_iter().map(|slot| match slot {
            Slot::Token(tag) => Fetched::Token(tag),
            Slot::Missing(id, tag) => Fetched::Chunk(Err(Error::MissingChunk { id }), tag),
            Slot::Chunk(tag) => Fetched::Chunk(chunks.next().unwrap_or(Err(Error::WorkerPanicked)), tag),
        });
        Ok(Some(fetched.collect()))
    }

    /// Looks up the requested chunks and starts the range reads.
    fn launch(&mut self) -> Result<()> {
        let requests = std::mem::take(&mut self.requests);
        self.requested_bytes = 0;
        let ids: Vec<ChunkId> = requests
            .iter()
            .filter_map(|request| match request {
                Request::Chunk(chunk, ..) => Some(chunk.id),
                Request::Token(_) => None,
            })
            .collect();
        let mut locations = self.store.index().lookup(&ids)?.into_iter();
        let mut places: Vec<Location> = vec![];
        let (mut slots, mut lent) = (vec![], vec![]);
        for request in requests {
            match request {
                Request::Token(tag) => slots.push(Slot::Token(tag)),
                Request::Chunk(chunk, base, tag) => match locations.next().flatten() {
                    Some(location) if location.record.plain_len == chunk.len => {
                        if !places.is_empty() && !extends(&places, &location, self.reach) {
                            let (slots, lent) = (std::mem::take(&mut slots), std::mem::take(&mut lent));
                            self.start(std::mem::take(&mut places), slots, lent);
                        }
                        places.push(location);
                        slots.push(Slot::Chunk(tag));
                        lent.extend(base);
                    }
                    _ => {
                        slots.push(Slot::Missing(chunk.id, tag));
                        lent.extend(base);
                    }
                },
            }
        }
        if !slots.is_empty() {
            self.start(places, slots, lent);
        }
        Ok(())
    }

    fn start(&mut self, places: Vec<Location>, slots: Vec<Slot<T>>, lent: Vec<(ChunkId, usize)>) {
        let plain = places.iter().map(|place| place.record.plain_len as usize);
        let bytes = plain.chain(lent.iter().map(|(_, bytes)| *bytes)).sum();
        let store = Arc::clone(&self.store);
        let bases = Arc::clone(&self.bases);
        let work = submit(&*self.store.access.io, move || {
            let mut decompressor = match store.decompressor() {
                Ok(decompressor) => decompressor,
                Err(error) => return all_fail(&places, &error),
            };
            let chunks = read_run(&store, &places, &bases, &mut decompressor);
            store.recycle(decompressor);
            chunks
        });
        self.queued_bytes += bytes;
        self.queued_items += slots.len();
        self.queue.push_back(Run { work, slots, bytes, lent });
    }
}

/// Reads a few chunks, all or an error.
pub fn read_all(store: &Arc<ChunkStore>, chunks: &[ChunkRef]) -> Result<Vec<u8>> {
    let mut ahead = ReadAhead::new(store);
    let mut bytes = vec![];
    let mut take = |ahead: &mut ReadAhead<()>| -> Result<bool> {
        let Some(batch) = ahead.take()? else { return Ok(false) };
        for fetched in batch {
            if let Fetched::Chunk(chunk, ()) = fetched {
                bytes.extend_from_slice(&chunk?);
            }
        }
        Ok(true)
    };
    for chunk in chunks {
        ahead.request(*chunk, ())?;
        while ahead.is_full() {
            take(&mut ahead)?;
        }
    }
    while take(&mut ahead)? {}
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bases::find_everywhere;
    use crate::chunker::ChunkerParams;
    use crate::config::Layout;
    use crate::env::SeededEnv;
    use crate::executor::Inline;
    use crate::format::{Codec, PackKind};
    use crate::head::SegmentRef;
    use crate::id::PackId;
    use crate::index::{PackEntry, Segment, short_key};
    use crate::keys::{KdfParams, SlotOwner};
    use crate::pack::{PackBuilder, PackName, Record};
    use crate::seal::{DeltaCompressor, Patcher};
    use crate::storage::memory::MemoryStorage;
    use crate::store::{Access, Identity};
    use bytes::Bytes;
    use std::collections::HashSet;

    const PLAIN: &[u8] = b"what is to be read, wherever it lies";

    struct Packs {
        disk: Arc<MemoryStorage>,
        store: Arc<ChunkStore>,
        id: ChunkId,
        segments: Vec<SegmentRef>,
    }

    impl Packs {
        /// One chunk in as many packs, each in a segment of its own.
        fn new(many: u8) -> Self {
            let disk = Arc::new(MemoryStorage::default());
            let access = Access {
                storage: Arc::clone(&disk) as _,
                env: Arc::new(SeededEnv::new(1)),
                cpu: Arc::new(Inline),
                io: Arc::new(Inline),
                cache: None,
                identity: Identity::default(),
                columns: &crate::head::NoColumns,
            };
            let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
            let owner = SlotOwner::default();
            let params = ChunkerParams::default();
            let store = ChunkStore::init(access, params, b"x", cheap, owner, Layout::default()).unwrap();
            let id = store.keys().chunk_id(PLAIN);
            let mut packs = Self { disk, store: Arc::new(store), id, segments: vec![] };
            for number in 0..many {
                packs.add(number, Record::full(id, PLAIN.len() as u32, 0, Codec::Raw));
            }
            packs.store.sync_index().unwrap();
            packs
        }

        fn add(&mut self, number: u8, record: Record) {
            self.add_frame(number, record, PLAIN);
        }

        fn add_frame(&mut self, number: u8, record: Record, frame: &[u8]) {
            let session = self.store.open_session("test").unwrap();
            let name = PackName { session, id: PackId([number; 32]), kind: PackKind::Data, epoch: 1 };
            let mut builder = PackBuilder::new(name, vec![]);
            builder.push(record, frame);
            let sealed = builder.seal(self.store.keys()).unwrap();
            let len = sealed.bytes.len() as u64;
            self.disk.objects().insert(name.object(), sealed.bytes.into());
            let packs = vec![PackEntry { name, len, records: sealed.records }];
            let segment = self.store.write_segment(&Segment { packs }).unwrap();
            self.store.close_session(&session, std::slice::from_ref(&segment)).unwrap();
            self.segments.push(segment);
        }

        fn read(&self) -> Result<Vec<u8>> {
            read_all(&self.store, &[ChunkRef { id: self.id, len: PLAIN.len() as u32 }])
        }

        fn names(&self) -> Vec<String> {
            self.disk.objects().keys().filter(|name| name.starts_with("packs/")).cloned().collect()
        }
    }

    /// What takes no bytes is bounded by its number: a million empty files wait no longer than others.
    #[test]
    fn what_waits_is_bounded_by_number_too() {
        let packs = Packs::new(1);
        let mut ahead = ReadAhead::new(&packs.store);
        let mut waiting = 0;
        while !ahead.is_full() && waiting < 10 * AHEAD_ITEMS {
            ahead.token(waiting).unwrap();
            waiting += 1;
        }
        assert_eq!(waiting, AHEAD_ITEMS);
        let mut taken = 0;
        while let Some(batch) = ahead.take().unwrap() {
            taken += batch.len();
            assert!(!ahead.is_full());
        }
        assert_eq!(taken, waiting);
    }

    /// The index keeps one place of a chunk; whichever is lost or damaged, another one is found.
    #[test]
    fn a_chunk_is_read_from_wherever_it_is_sound() {
        // Each of three packs is sound, gone or damaged, in every combination.
        for fate in 0..27usize {
            let fates = [fate % 3, fate / 3 % 3, fate / 9];
            let packs = Packs::new(3);
            for (name, fate) in packs.names().into_iter().zip(fates) {
                match fate {
                    0 => {}
                    1 => drop(packs.disk.objects().remove(&name)),
                    _ => drop(packs.disk.objects().insert(name, Bytes::from(vec![0; 4096]))),
                }
            }
            match packs.read() {
                Ok(plain) => assert_eq!((&plain[..], fates.contains(&0)), (PLAIN, true)),
                Err(error) => assert!(error.is_damage() && !fates.contains(&0), "{fates:?}: {error:?}"),
            }
        }
    }

    #[test]
    fn what_stands_on_a_chunk_at_hand_is_there_at_once() {
        let mut packs = Packs::new(1);
        let base: Vec<u8> = (0..40_000u32).flat_map(u32::to_le_bytes).collect();
        let mut plain = base.clone();
        plain[70_000] ^= 1;
        let [base_id, id] = [&base, &plain].map(|bytes| packs.store.keys().chunk_id(bytes));
        let mut frame = vec![];
        let mut deltas = DeltaCompressor::new(Patcher::default()).unwrap();
        let codec = deltas.compress(&plain, &base, 1 << 20, &mut frame).unwrap().unwrap();
        let len = plain.len() as u32;
        packs.add_frame(1, Record::full(base_id, len, 0, Codec::Raw), &base);
        packs.add_frame(2, Record::delta(id, len, 0, codec, 1, 1, vec![base_id]), &frame);
        packs.store.sync_index().unwrap();
        let [chunk, other] = [id, base_id].map(|id| ChunkRef { id, len });
        let mut ahead: ReadAhead<()> = ReadAhead::new(&packs.store);
        let mut bytes = base.clone();
        assert_eq!(ahead.over(&chunk, &base_id, &mut bytes).as_ref(), Some(&plain));
        assert_eq!(bytes, base, "they are given back");
        assert_eq!(ahead.over(&other, &id, &mut bytes), None, "it stands on nothing");
        assert_eq!(ahead.over(&chunk, &id, &mut bytes), None, "it stands on another one");
        bytes[3] ^= 1;
        assert_eq!(ahead.over(&chunk, &base_id, &mut bytes), None, "the bytes are others");
        ahead.request_over(chunk, &base_id, base.clone(), ()).unwrap();
        assert_eq!(ahead.over(&chunk, &base_id, &mut bytes), None, "the base is in use");
        let taken = ahead.take().unwrap().unwrap();
        assert!(matches!(&taken[..], [Fetched::Chunk(Ok(found), ())] if *found == plain));
    }

    /// A prune moved it since the index was brought up to date.
    #[test]
    fn a_chunk_is_read_after_it_moved() {
        let mut packs = Packs::new(1);
        let (old, name) = (packs.segments.remove(0), packs.names().remove(0));
        let other = Arc::new(ChunkStore::open(packs.store.access.clone(), b"x").unwrap());
        let behind = std::mem::replace(&mut packs.store, other);
        packs.add(7, Record::full(packs.id, PLAIN.len() as u32, 0, Codec::Raw));
        let forget = |head: &mut crate::head::Head| head.segments.retain(|segment| segment.id != old.id);
        packs.store.update_head(forget).unwrap();
        packs.disk.objects().remove(&name);
        packs.store = behind;
        assert_eq!(packs.read().unwrap(), PLAIN);
    }

    /// A location whose base is in no pack does not count, however many there are of it.
    #[test]
    fn only_locations_that_count_are_found() {
        let mut packs = Packs::new(1);
        let nowhere = ChunkId([9; 32]);
        let len = PLAIN.len() as u32;
        packs.add(5, Record::delta(packs.id, len, 0, Codec::ZstdDelta, 1, 1, vec![nowhere]));
        packs.store.sync_index().unwrap();
        let find = |avoid: &HashSet<PackId>| {
            let found = find_everywhere(&packs.store, &[packs.id], avoid).unwrap();
            found.get(&short_key(&packs.id)).map(|location| location.pack.name.id)
        };
        assert_eq!(find(&HashSet::new()), Some(PackId([0; 32])));
        assert_eq!(find(&HashSet::from([PackId([0; 32])])), None);
        assert_eq!(packs.read().unwrap(), PLAIN);
    }
}
