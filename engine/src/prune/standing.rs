//! Which location of each chunk counts, what stands on what, and which deltas should stand on their own
//! again because snapshots no longer need what they stand on.

use super::PruneOptions;
use super::survey::{ShortId, short};
use chunkstore::index::PackEntry;
use chunkstore::pack::Record;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Number of a pack, and of a record in it.
type Place = (usize, usize);

/// Deltas are rewritten as full chunks when that frees this much more than it takes: a backup that keeps
/// a fixed number of nights would otherwise rewrite a whole night each time to save one delta.
const REBASE_GAIN: f64 = 1.2;

/// The locations that count: of each chunk the one of smallest depth.
pub(super) struct Standing<'a> {
    packs: &'a [&'a PackEntry],
    best: HashMap<ShortId, Place>,
}

/// What is to be rewritten, and what is needed then.
pub(super) struct Rebase {
    /// Deltas that are to stand on their own.
    pub(super) chunks: Vec<Record>,
    /// Chunks whose locations stay in use.
    pub(super) keep: HashSet<ShortId>,
}

impl<'a> Standing<'a> {
    /// Earlier packs are preferred among locations of equal depth.
    pub(super) fn of(packs: &'a [&'a PackEntry]) -> Self {
        let mut standing = Self { packs, best: HashMap::new() };
        // From the ground up: what stands on smaller depths only, once they are known. So no two deltas
        // can come to rest on each other.
        let mut deltas: BTreeMap<u8, Vec<Place>> = BTreeMap::new();
        for (number, pack) in packs.iter().enumerate() {
            for (position, record) in pack.records.iter().enumerate() {
                if record.is_delta() {
                    deltas.entry(record.depth).or_default().push((number, position));
                } else {
                    standing.best.entry(short(&record.id)).or_insert((number, position));
                }
            }
        }
        for places in deltas.into_values() {
            // Those of one depth do not count for each other.
            let mut counting = vec![];
            for place in places {
                let record = &packs[place.0].records[place.1];
                if record.bases.iter().all(|base| standing.best.contains_key(&short(base))) {
                    counting.push((short(&record.id), place));
                }
            }
            for (id, place) in counting {
                standing.best.entry(id).or_insert(place);
            }
        }
        standing
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
    fn closure(&self, needed: impl Iterator<Item = ShortId>, stop: &HashSet<ShortId>) -> HashSet<ShortId> {
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

    /// Bytes that a chunk would take on its own, judged by what is at its bottom.
    fn alone(&self, record: &Record) -> f64 {
        let mut bottom = record;
        while let Some(below) = bottom.bases.first().and_then(|base| self.record(&short(base))) {
            bottom = below;
        }
        let ratio = f64::from(bottom.stored_len) / f64::from(bottom.plain_len.max(1));
        f64::from(record.plain_len) * ratio
    }

    /// Chooses what to rewrite: per group of chunks that hang together, if what only serves as a base
    /// takes clearly more than the chunks on top of it would take alone.
    pub(super) fn rebase(&self, needed: &HashSet<ShortId>, options: &PruneOptions) -> Rebase {
        let all = self.closure(needed.iter().copied(), &HashSet::new());
        if options.no_rebase {
            return Rebase { chunks: vec![], keep: all };
        }
        let only_base = |id: &ShortId| !needed.contains(id);
        let mut groups = Groups::default();
        let mut tops = vec![];
        for id in &all {
            let Some(record) = self.record(id) else { continue };
            let below: Vec<ShortId> = record.bases.iter().map(short).filter(only_base).collect();
            if below.is_empty() {
                continue;
            }
            let group = groups.number(*id);
            for base in below {
                let other = groups.number(base);
                groups.unite(group, other);
            }
            if !only_base(id) {
                tops.push((*id, record));
            }
        }
        let mut balance: HashMap<usize, f64> = HashMap::new();
        for id in all.iter().filter(|id| only_base(id)) {
            if let Some(record) = self.record(id) {
                *balance.entry(groups.of(id)).or_default() += f64::from(record.stored_len);
            }
        }
        for (id, record) in &tops {
            let cost = self.alone(record) - f64::from(record.stored_len);
            *balance.entry(groups.of(id)).or_default() -= REBASE_GAIN * cost;
        }
        tops.retain(|(id, _)| balance.get(&groups.of(id)).is_some_and(|gain| *gain > 0.0));
        let rewritten: HashSet<ShortId> = tops.iter().map(|(id, _)| *id).collect();
        let mut keep = self.closure(needed.iter().copied(), &rewritten);
        keep.retain(|id| !rewritten.contains(id));
        let mut chunks: Vec<_> = tops;
        // In the order in which they lie, so that neighbours stay neighbours.
        chunks.sort_by_key(|(id, _)| self.place(id));
        let chunks = chunks.into_iter().map(|(_, record)| record.clone()).collect();
        Rebase { chunks, keep }
    }
}

/// Disjoint sets of chunks (union by linking to the smaller number, with path halving: Tarjan and van
/// Leeuwen, "Worst-case analysis of set union algorithms", 1984).
#[derive(Default)]
struct Groups {
    numbers: HashMap<ShortId, usize>,
    parents: Vec<usize>,
}

impl Groups {
    fn number(&mut self, id: ShortId) -> usize {
        let fresh = self.parents.len();
        let number = *self.numbers.entry(id).or_insert(fresh);
        if number == fresh {
            self.parents.push(fresh);
        }
        number
    }

    fn top(&mut self, mut number: usize) -> usize {
        while self.parents[number] != number {
            self.parents[number] = self.parents[self.parents[number]];
            number = self.parents[number];
        }
        number
    }

    fn unite(&mut self, a: usize, b: usize) {
        let (a, b) = (self.top(a), self.top(b));
        self.parents[a.max(b)] = a.min(b);
    }

    fn of(&mut self, id: &ShortId) -> usize {
        let number = self.number(*id);
        self.top(number)
    }
}
