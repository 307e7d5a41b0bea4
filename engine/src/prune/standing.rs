//! Which location of each chunk counts, and which chunks depend on which.

use crate::reach::{ShortId, short};
use chunkstore::PackId;
use chunkstore::index::PackEntry;
use chunkstore::pack::Record;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Number of a pack, and of a record in it.
type Place = (usize, usize);

/// The locations that count: of each chunk the one of smallest depth.
pub(super) struct Standing<'a> {
    packs: &'a [&'a PackEntry],
    best: HashMap<ShortId, Place>,
}

impl<'a> Standing<'a> {
    /// Among locations of equal depth those come first that stand on what snapshots need, then those of
    /// earlier packs.
    /// Packs that are `lost` are asked last, for what is nowhere else.
    pub(super) fn of(packs: &'a [&'a PackEntry], needed: &HashSet<ShortId>, lost: &HashSet<PackId>) -> Self {
        let mut standing = Self { packs, best: HashMap::new() };
        standing.find(needed, |pack| !lost.contains(&pack.name.id));
        if !lost.is_empty() {
            standing.find(needed, |_| true);
        }
        standing
    }

    /// Finds locations in some packs for chunks that have none yet.
    fn find(&mut self, needed: &HashSet<ShortId>, meant: impl Fn(&PackEntry) -> bool) {
        let packs = self.packs;
        // From the ground up: what stands on smaller depths only, once they are known. So no two deltas
        // can come to rest on each other.
        let mut deltas: BTreeMap<u8, Vec<Place>> = BTreeMap::new();
        for (number, pack) in packs.iter().enumerate().filter(|(_, pack)| meant(pack)) {
            for (position, record) in pack.records.iter().enumerate() {
                if record.is_delta() {
                    deltas.entry(record.depth).or_default().push((number, position));
                } else {
                    self.best.entry(short(&record.id)).or_insert((number, position));
                }
            }
        }
        for places in deltas.into_values() {
            // Those of one depth do not count for each other.
            let mut counting = vec![];
            for place in places {
                let record = &packs[place.0].records[place.1];
                let is_below =
                    |base| self.record(&short(base)).is_some_and(|below| below.depth < record.depth);
                if record.bases.iter().all(is_below) {
                    counting.push((short(&record.id), place));
                }
            }
            counting.sort_by_key(|(_, (pack, position))| {
                !packs[*pack].records[*position].bases.iter().all(|base| needed.contains(&short(base)))
            });
            for (id, place) in counting {
                self.best.entry(id).or_insert(place);
            }
        }
    }

    /// Where a chunk is, if it has a location that counts.
    pub(super) fn place(&self, id: &ShortId) -> Option<Place> {
        self.best.get(id).copied()
    }

    /// What is said of a chunk there.
    pub(super) fn record(&self, id: &ShortId) -> Option<&'a Record> {
        self.place(id).map(|(pack, position)| &self.packs[pack].records[position])
    }

    /// What snapshots need, with everything that it stands on.
    pub(super) fn closure(
        &self,
        needed: impl Iterator<Item = ShortId>,
        stop: &HashSet<ShortId>,
    ) -> HashSet<ShortId> {
        let mut open: Vec<ShortId> = needed.collect();
        let mut all: HashSet<ShortId> = open.iter().copied().collect();
        while let Some(id) = open.pop() {
            if stop.contains(&id) {
                continue;
            }
            for base in self.record(&id).map(|record| &record.bases[..]).unwrap_or_default() {
                if all.insert(short(base)) {
                    open.push(short(base));
                }
            }
        }
        all
    }
}
