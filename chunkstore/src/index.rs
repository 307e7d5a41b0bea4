//! The location of each chunk. The index segments that HEAD lists are authoritative: immutable objects, each describing
//! whole packs. An index over them is a cache: in memory here, in RocksDB in `index/rocks.rs`.

use crate::format::{Decoder, Encoder, MAX_SEGMENT_LEN, Malformed, PackKind};
use crate::head::{List, Outline, SegmentRef};
use crate::id::{ChunkId, ObjectId, PackId, SessionId};
use crate::pack::{PackName, Record};
use crate::{Error, Result};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};

#[cfg(feature = "rocksdb")]
pub mod rocks;
#[cfg(feature = "rocksdb")]
pub mod spare;

/// A pack and its chunks, as a segment lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackEntry {
    /// The pack.
    pub name: PackName,
    /// Length of its object in bytes.
    pub len: u64,
    /// Its chunks, by ordinal.
    pub records: Vec<Record>,
}

/// An index segment: whole packs, never a part of one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Packs in the order they were finished.
    pub packs: Vec<PackEntry>,
}

impl Segment {
    /// Number of chunks.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        self.packs.iter().map(|pack| pack.records.len()).sum()
    }

    /// Writes the plaintext of a segment.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u32(u32::try_from(self.packs.len()).expect("few packs")).u32(0); // no extension fields
        for pack in &self.packs {
            encode_pack_name(&mut out, &pack.name, pack.len);
            out.u32(u32::try_from(pack.records.len()).expect("ordinals are u32")).u32(0);
            pack.records.iter().for_each(|record| record.encode(&mut out));
        }
        out.bytes
    }

    /// Reads the plaintext of a segment.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes, "index segment");
        let pack_count = decoder.u32()?;
        decoder.var(MAX_SEGMENT_LEN as usize)?;
        let mut packs = vec![];
        for _ in 0..pack_count {
            let (name, len) = decode_pack_name(&mut decoder)?;
            let record_count = decoder.u32()?;
            decoder.var(MAX_SEGMENT_LEN as usize)?;
            // No capacity from a number that was read: each record must be there to be counted.
            let records: Vec<Record> = (0..record_count)
                .map(|ordinal| Record::decode(&mut decoder, ordinal))
                .collect::<Result<_, _>>()?;
            if records.iter().any(|record| record.end() > len) {
                return Err(decoder.malformed("chunk beyond its pack"));
            }
            packs.push(PackEntry { name, len, records });
        }
        decoder.finish()?;
        Ok(Self { packs })
    }
}

pub(crate) fn encode_pack_name(out: &mut Encoder, name: &PackName, len: u64) {
    out.raw(name.session.as_bytes()).raw(name.id.as_bytes()).u8(name.kind as u8).u8(1).u16(0);
    out.u32(name.epoch).u64(len);
}

pub(crate) fn decode_pack_name(decoder: &mut Decoder<'_>) -> Result<(PackName, u64), Malformed> {
    let session = SessionId(decoder.array()?);
    let id = PackId(decoder.array()?);
    let kind = PackKind::from_byte(decoder.u8()?).ok_or_else(|| decoder.malformed("unknown pack kind"))?;
    if decoder.u8()? != 1 || decoder.u16()? != 0 {
        return Err(decoder.malformed("unknown key method"));
    }
    let epoch = decoder.u32()?;
    Ok((PackName { session, id, kind, epoch }, decoder.u64()?))
}

/// A pack as an index knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackInfo {
    /// The pack.
    pub name: PackName,
    /// Length of its object.
    pub len: u64,
    /// The segment that lists it.
    pub segment: ObjectId,
}

/// Which packs something new may rely on.
pub trait Usable {
    /// Whether this is one.
    ///
    /// # Errors
    ///
    /// It cannot be told: the store does not answer.
    fn is_usable(&self, pack: &PackInfo) -> Result<bool>;
}

/// All but those of a set.
impl Usable for HashSet<PackId> {
    fn is_usable(&self, pack: &PackInfo) -> Result<bool> {
        Ok(!self.contains(&pack.name.id))
    }
}

/// Where a chunk is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The pack.
    pub pack: Arc<PackInfo>,
    /// The chunk in it.
    pub record: Record,
}

/// An anchor's record: the chunks on both sides of a cut after certain bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// A chunk that ends with those bytes.
    pub before: ChunkId,
    /// The chunk that was stored next to it, after the cut, if any.
    pub after: Option<ChunkId>,
}

/// Fetches a segment. `None` if it is to be left out: it cannot be had.
pub type Load<'a> = dyn FnMut(&SegmentRef) -> Result<Option<Segment>> + 'a;

/// Finds chunks. Implementations are shared by all worker threads.
pub trait ChunkIndex: Send + Sync {
    /// Looks many chunks up at once; the answers are in the order of `ids`.
    fn lookup(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>>;
    /// Looks many anchors up at once, and returns the results in the order of `anchors`. They are hints: the chunks may
    /// be gone, and other chunks may have the same anchor.
    fn cuts(&self, anchors: &[u64]) -> Result<Vec<Option<Cut>>>;
    /// Every pack in the index.
    fn packs(&self) -> Result<Vec<Arc<PackInfo>>>;
    /// Takes up segments that are not in it yet, and forgets those that are not in `segments`. `load` fetches one. The
    /// leaves of the list are read only if its outline does not say what is missing. While any is left out, it is fetched
    /// again each time.
    fn sync(&self, segments: &List<SegmentRef>, load: &mut Load<'_>) -> Result<()>;
    /// The outline of the list that it was last brought up to. `None` if it holds a part of a list.
    fn outline(&self) -> Result<Option<Outline>>;
    /// Number of chunk entries, for statistics.
    fn len(&self) -> Result<u64>;
    /// Whether it holds nothing.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Segments that an index lacks.
struct Missing<'a> {
    segments: Vec<&'a SegmentRef>,
    /// The index has segments that are not wanted: it is built anew, of `segments`, which are all.
    anew: bool,
}

impl<'a> Missing<'a> {
    /// Compares a list with an index that has the segments of `outline`, and these are `known`.
    fn find(
        list: &'a List<SegmentRef>,
        outline: Option<&Outline>,
        known: impl FnOnce() -> Result<HashSet<ObjectId>>,
    ) -> Result<Self> {
        if let Some(segments) = outline.and_then(|outline| outline.added(list)) {
            return Ok(Self { segments, anew: false });
        }
        let mut segments: Vec<&SegmentRef> = list.iter()?.collect();
        let wanted: HashSet<ObjectId> = segments.iter().map(|segment| segment.id).collect();
        let mut known = known()?;
        let anew = !known.is_subset(&wanted);
        if anew {
            known.clear();
        }
        segments.retain(|segment| known.insert(segment.id));
        Ok(Self { segments, anew })
    }
}

/// The anchors of a pack's chunks, with what lies on both sides of each.
pub(crate) fn cuts_of(records: &[Record]) -> impl Iterator<Item = (u64, Cut)> {
    let after = records.iter().skip(1).map(|record| Some(record.id)).chain([None]);
    let cuts = records.iter().zip(after).filter(|(record, _)| record.anchor != 0);
    cuts.map(|(record, after)| (record.anchor, Cut { before: record.id, after }))
}

/// First half of an id: 128 bits of a keyed hash are ample for a key in an index, and every chunk is
/// checked against its full id when it is read.
pub(crate) fn short_key(id: &ChunkId) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&id.0[..16]);
    key
}

/// An index in memory: simulation, `--no-cache`, and tests.
#[derive(Default)]
pub struct MemoryIndex(RwLock<MemoryState>);

#[derive(Default)]
struct MemoryState {
    segments: HashSet<ObjectId>,
    outline: Option<Outline>,
    chunks: HashMap<[u8; 16], Location>,
    cuts: HashMap<u64, Cut>,
    packs: HashMap<PackId, Arc<PackInfo>>,
}

impl MemoryState {
    fn add(&mut self, id: ObjectId, segment: Segment) {
        for pack in segment.packs {
            let info = Arc::new(PackInfo { name: pack.name, len: pack.len, segment: id });
            self.packs.insert(pack.name.id, Arc::clone(&info));
            self.cuts.extend(cuts_of(&pack.records));
            for record in pack.records {
                let location = Location { pack: Arc::clone(&info), record };
                self.chunks.insert(short_key(&location.record.id), location);
            }
        }
        self.segments.insert(id);
    }
}

impl MemoryIndex {
    fn poisoned<T>(_: T) -> Error {
        Error::WorkerPanicked
    }
}

impl ChunkIndex for MemoryIndex {
    fn lookup(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>> {
        let state = self.0.read().map_err(Self::poisoned)?;
        Ok(ids.iter().map(|id| state.chunks.get(&short_key(id)).cloned()).collect())
    }

    fn cuts(&self, anchors: &[u64]) -> Result<Vec<Option<Cut>>> {
        let state = self.0.read().map_err(Self::poisoned)?;
        Ok(anchors.iter().map(|anchor| state.cuts.get(anchor).copied()).collect())
    }

    fn packs(&self) -> Result<Vec<Arc<PackInfo>>> {
        Ok(self.0.read().map_err(Self::poisoned)?.packs.values().cloned().collect())
    }

    fn sync(&self, segments: &List<SegmentRef>, load: &mut Load<'_>) -> Result<()> {
        let mut state = self.0.write().map_err(Self::poisoned)?;
        let missing = Missing::find(segments, state.outline.as_ref(), || Ok(state.segments.clone()))?;
        if missing.anew {
            *state = MemoryState::default();
        }
        let mut has_all = true;
        for reference in missing.segments {
            let Some(segment) = load(reference)? else {
                has_all = false;
                continue;
            };
            state.outline = None;
            state.add(reference.id, segment);
        }
        if has_all {
            state.outline = Some(Outline::of(segments));
        }
        Ok(())
    }

    fn outline(&self) -> Result<Option<Outline>> {
        Ok(self.0.read().map_err(Self::poisoned)?.outline.clone())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.0.read().map_err(Self::poisoned)?.chunks.len() as u64)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::format::Codec;
    use crate::head::outline_tests::{Shelf, segment_ref, unreadable};

    pub(crate) fn segment(seed: u8, chunks: u32) -> Segment {
        let records = (0..chunks)
            .map(|ordinal| Record {
                id: ChunkId(*blake3::hash(&[&[seed][..], &ordinal.to_le_bytes()].concat()).as_bytes()),
                ordinal,
                offset: 200 + ordinal * 100,
                stored_len: 100,
                plain_len: 300,
                codec: Codec::Zstd,
                depth: 0,
                generation: 0,
                anchor: u64::from(seed) << 32 | u64::from(ordinal + 1),
                bases: vec![],
            })
            .collect();
        let name = PackName {
            session: SessionId([seed; 16]),
            id: PackId([seed; 32]),
            kind: PackKind::Data,
            epoch: 1,
        };
        Segment { packs: vec![PackEntry { name, len: 1 << 20, records }] }
    }

    #[test]
    fn segments_round_trip_and_reject_every_cut() {
        let mut segment = segment(1, 3);
        let record = &mut segment.packs[0].records[1];
        (record.codec, record.depth, record.generation) = (Codec::ZstdDelta, 2, 3);
        record.bases = vec![ChunkId([7; 32]), ChunkId([8; 32])];
        let bytes = segment.encode();
        assert_eq!(Segment::decode(&bytes).unwrap(), segment);
        for len in 0..bytes.len() {
            assert!(Segment::decode(&bytes[..len]).is_err(), "cut at {len}");
        }
    }

    pub(crate) fn conformance(index: &dyn ChunkIndex) {
        let (a, b) = (segment_ref(0xa), segment_ref(0xb));
        let mut load = |reference: &SegmentRef| Ok(Some(segment(reference.id.0[0], 50)));
        let in_a = segment(0xa, 50).packs[0].records[7].clone();
        let in_b = segment(0xb, 50).packs[0].records[49].clone();
        index.sync(&vec![a.clone()].into(), &mut load).unwrap();
        let found = index.lookup(&[in_a.id, in_b.id]).unwrap();
        assert_eq!(found[0].as_ref().unwrap().record, in_a);
        assert_eq!(found[0].as_ref().unwrap().pack.segment, a.id);
        assert!(found[1].is_none());
        index.sync(&vec![a, b.clone()].into(), &mut load).unwrap();
        assert_eq!(index.lookup(&[in_b.id]).unwrap()[0].as_ref().unwrap().record, in_b);
        let next = segment(0xa, 50).packs[0].records[8].id;
        let cuts = index.cuts(&[in_a.anchor, 99, in_b.anchor]).unwrap();
        let expected = [Some((in_a.id, Some(next))), None, Some((in_b.id, None))];
        assert_eq!(cuts, expected.map(|cut| cut.map(|(before, after)| Cut { before, after })));
        assert_eq!(index.packs().unwrap().len(), 2);
        index.sync(&vec![b].into(), &mut load).unwrap();
        assert!(index.lookup(&[in_a.id]).unwrap()[0].is_none());
        assert_eq!(index.lookup(&[in_b.id]).unwrap()[0].as_ref().unwrap().record, in_b);
        assert_eq!(index.packs().unwrap().len(), 1);
        assert_eq!(index.len().unwrap(), 50);
        leaves_are_read_if_they_must(index);
        what_cannot_be_loaded_costs_nothing_else(index);
    }

    /// The seeds of the segments that a sync loads.
    pub(crate) fn synced(index: &dyn ChunkIndex, list: &List<SegmentRef>) -> Vec<u8> {
        let mut loaded = vec![];
        let mut load = |reference: &SegmentRef| {
            loaded.push(reference.id.0[0]);
            Ok(Some(segment(reference.id.0[0], 50)))
        };
        index.sync(list, &mut load).unwrap();
        assert_eq!(index.outline().unwrap(), Some(Outline::of(list)));
        assert_eq!(index.packs().unwrap().len(), list.len());
        loaded
    }

    fn leaves_are_read_if_they_must(index: &dyn ChunkIndex) {
        let shelf = Shelf::new();
        let mut list: List<SegmentRef> = (1..=5).map(segment_ref).collect();
        shelf.settle(&mut list);
        assert_eq!(synced(index, &list), [1, 2, 3, 4, 5]);
        assert!(synced(index, &unreadable(&list)).is_empty());
        // A segment in HEAD itself: no leaf need be read to see that it is the only one.
        let mut more = unreadable(&list);
        more.push(segment_ref(6));
        assert_eq!(synced(index, &more), [6]);
        list.push(segment_ref(6));
        shelf.settle(&mut list);
        assert_eq!(list.leaves().count(), 2);
        assert!(index.sync(&unreadable(&list), &mut |_| panic!()).is_err());
        assert!(synced(index, &list).is_empty());
        // Two leaves become one, with another segment.
        list.push(segment_ref(7));
        shelf.settle(&mut list);
        assert_eq!(list.leaves().count(), 1);
        assert_eq!(synced(index, &list), [7]);
        list.retain(|segment| segment.id.0[0] != 3).unwrap();
        assert_eq!(synced(index, &list), [1, 2, 4, 5, 6, 7]);
        assert!(synced(index, &unreadable(&list)).is_empty());
    }

    /// What is left out is tried again each time, and an error costs only what comes after it.
    fn what_cannot_be_loaded_costs_nothing_else(index: &dyn ChunkIndex) {
        let mut list: List<SegmentRef> = (1..=4).map(segment_ref).collect();
        synced(index, &list);
        list.extend((5..=7).map(segment_ref));
        let mut load = |reference: &SegmentRef| match reference.id.0[0] {
            6 => Err(Error::Invalid("no answer".into())),
            seed => Ok(Some(segment(seed, 50))),
        };
        assert!(index.sync(&list, &mut load).is_err());
        let mut sound = list.clone();
        sound.retain(|segment| segment.id.0[0] != 6).unwrap();
        assert_eq!(synced(index, &sound), [7]);
        assert!(index.sync(&list, &mut load).is_err());
        assert!(synced(index, &sound).is_empty());
        assert!(index.outline().unwrap().is_some_and(|outline| outline.is_within(&sound)));
        list.extend((8..=10).map(segment_ref));
        for expected in [vec![6, 8, 9, 10], vec![6, 9]] {
            let mut tried = vec![];
            let mut load = |reference: &SegmentRef| {
                let seed = reference.id.0[0];
                tried.push(seed);
                Ok((![6, 9].contains(&seed)).then(|| segment(seed, 50)))
            };
            index.sync(&list, &mut load).unwrap();
            tried.sort_unstable();
            assert_eq!(tried, expected);
            assert_eq!(index.packs().unwrap().len(), 8);
        }
        sound.extend([8, 10].map(segment_ref));
        assert!(synced(index, &sound).is_empty());
    }

    #[test]
    fn memory_index_conforms() {
        conformance(&MemoryIndex::default());
    }
}
