//! Base chunks: which chunks a new version of a chunk is compressed against, which locations count, and how a delta is
//! read.
//!
//! A location counts if its chunk is stored full, or if each of its bases has a location that counts and is of smaller
//! depth. Writers check this before they rely on a location; see docs/concurrency.md.

use crate::Result;
use crate::format::{MAX_BASES, MAX_DEPTH};
use crate::id::{ChunkId, PackId};
use crate::index::{ChunkIndex, Location, Usable, short_key};
use crate::pack::Record;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

mod every;
mod reader;
pub use every::{find_everywhere, ground_everywhere};
pub use reader::{BaseReader, Plain, Prefix};

/// Bases are chosen so that a chunk's depth is at most the sum of the digits of its generation in this
/// base. Decision 5 has the measurements: after 60 nights 2 (skip-deltas) stores 18 % more, and 8 is deeper
/// by more than half.
const RADIX: u8 = 4;

/// A location that counts, and every pack that it depends on, its own included.
#[derive(Clone, Debug)]
pub struct Grounded {
    /// Where the chunk is.
    pub location: Location,
    /// The packs.
    pub packs: Vec<PackId>,
}

/// Looks chunks up and returns those locations that count, in the order of `ids`. Packs that are not `usable` are treated
/// as missing.
pub fn ground(
    index: &dyn ChunkIndex,
    ids: &[ChunkId],
    usable: &(impl Usable + ?Sized),
) -> Result<Vec<Option<Grounded>>> {
    let lookup = |ids: &[ChunkId]| -> Result<Vec<Option<Location>>> {
        let found = index.lookup(ids)?.into_iter().map(|found| match found {
            Some(location) => Ok(usable.is_usable(&location.pack)?.then_some(location)),
            None => Ok(None),
        });
        found.collect()
    };
    let mut known: HashMap<[u8; 16], Location> = HashMap::new();
    let mut asked: HashSet<[u8; 16]> = ids.iter().map(short_key).collect();
    let mut found = lookup(ids)?;
    let first = found.clone();
    loop {
        let mut below = vec![];
        for location in found.into_iter().flatten() {
            below.extend(location.record.bases.iter().filter(|base| asked.insert(short_key(base))).copied());
            known.insert(short_key(&location.record.id), location);
        }
        if below.is_empty() {
            break;
        }
        found = lookup(&below)?;
    }
    let grounded = first.into_iter().map(|location| {
        let (location, mut packs) = (location?, vec![]);
        stands(&known, &location, &mut packs).then_some(Grounded { location, packs })
    });
    Ok(grounded.collect())
}

/// Whether everything below `top` exists, each base of smaller depth than the chunk that depends on it.
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

/// The chunks that a new version of some chunks is to be compressed against.
#[derive(Clone, Debug)]
pub struct BaseChoice {
    /// The bases, in the order of the prefix.
    pub bases: Vec<ChunkId>,
    /// The new chunk's depth.
    pub depth: u8,
    /// The new chunk's generation.
    pub generation: u8,
    /// The packs that the new chunk will depend on.
    pub packs: Vec<PackId>,
}

/// The generation that a chunk of generation `n` is compressed against: `n` without its lowest power of four. It is on
/// the path of bases of generation `n - 1`.
#[must_use]
pub fn base_generation(n: u8) -> u8 {
    let mut step = 1u16;
    while n > 0 && u16::from(n).is_multiple_of(step * u16::from(RADIX)) {
        step *= u16::from(RADIX);
    }
    n - u8::try_from(step).unwrap_or(n).min(n)
}

/// Chooses the bases of the next version of `around`, neighbouring chunks of the last one; `None` if the chunk should
/// be stored full again. Chunks in packs that are not `usable` are not used as bases.
pub fn choose(
    index: &dyn ChunkIndex,
    around: &[Arc<Grounded>],
    usable: &(impl Usable + ?Sized),
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
    let grounded: Option<Vec<Grounded>> = ground(index, &bases, usable)?.into_iter().collect();
    let Some(grounded) = grounded else { return Ok(None) };
    let deepest = grounded.iter().map(|base| base.location.record.depth).max().unwrap_or(MAX_DEPTH);
    if deepest >= MAX_DEPTH {
        return Ok(None);
    }
    let packs = grounded.into_iter().flat_map(|base| base.packs).collect();
    Ok(Some(BaseChoice { bases, depth: deepest + 1, generation, packs }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{Codec, PackKind};
    use crate::head::outline_tests::segment_ref;
    use crate::id::SessionId;
    use crate::index::{MemoryIndex, PackEntry, Segment};
    use crate::pack::PackName;

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

    /// Version upon version of one chunk, each stored against what is chosen.
    #[test]
    fn each_version_stands_on_the_one_that_its_generation_asks_for() {
        let index = MemoryIndex::default();
        let id = |n: u8| ChunkId([n; 32]);
        let session = SessionId([1; 16]);
        let name = PackName { session, id: PackId([7; 32]), kind: PackKind::Data, epoch: 1 };
        let mut records = vec![Record::full(id(0), 100, 0, Codec::Raw)];
        for n in 1..=100u8 {
            let packs = vec![PackEntry { name, len: 4096, records: records.clone() }];
            index
                .sync(&vec![segment_ref(n)].into(), &mut |_| Ok(Some(Segment { packs: packs.clone() })))
                .unwrap();
            let around = ground(&index, &[id(n - 1)], &HashSet::new()).unwrap().pop().flatten().unwrap();
            let choice = choose(&index, &[Arc::new(around)], &HashSet::new()).unwrap().unwrap();
            let digits: u32 = (0..4).map(|place| u32::from(n) / 4u32.pow(place) % 4).sum();
            assert_eq!((choice.generation, choice.depth), (n, u8::try_from(digits).unwrap()));
            assert_eq!(
                (&choice.bases[..], &choice.packs[..]),
                (&[id(base_generation(n))][..], &[name.id][..])
            );
            let BaseChoice { bases, depth, generation, .. } = choice;
            records.push(Record::delta(id(n), 100, 0, Codec::ZstdDelta, depth, generation, bases));
        }
        // Nothing is built on a pack that is to go.
        let around = ground(&index, &[id(99)], &HashSet::new()).unwrap().pop().flatten().unwrap();
        assert!(choose(&index, &[Arc::new(around)], &HashSet::from([name.id])).unwrap().is_none());
    }
}
