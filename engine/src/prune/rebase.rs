//! Deltas whose bases no snapshot needs any more: which of them are stored again, and against which bases.
//!
//! Of the deltas with one such base, the first that is stored again replaces it: later ones are stored against it. So
//! one night takes over the role of an older one.

use super::standing::Standing;
use super::{MaxUnused, PruneOptions};
use crate::reach::{ShortId, short};
use chunkstore::ChunkId;
use chunkstore::bases::BaseChoice;
use chunkstore::format::MAX_BASES;
use chunkstore::pack::Record;
use std::collections::{HashMap, HashSet};

/// What only serves as a base may take four times the share that unused data may: to be rid of it, chunks are
/// read and compressed, not copied. With the same share a backup that keeps one night would store the whole of
/// it anew every few nights, to save some deltas.
const BASES_OVER_UNUSED: f64 = 4.0;

/// What is to be stored anew, and what is needed then.
#[derive(Debug, Default)]
pub(super) struct Rebase {
    /// In the order in which they lie, so that neighbours stay neighbours.
    pub(super) chunks: Vec<Moved>,
    /// Chunks whose locations stay in use.
    pub(super) keep: HashSet<ShortId>,
}

/// A delta that is to stand on other chunks, all of which snapshots need, or on none.
#[derive(Clone, Debug)]
pub(super) struct Moved {
    /// As it is now.
    pub(super) record: Record,
    /// What it may stand on. Never deeper than before: others stand on it.
    pub(super) choice: Option<BaseChoice>,
    /// Bytes that it takes more than now, as far as can be said without reading it.
    cost: f64,
}

impl Rebase {
    /// Chooses per group of chunks that hang together: if what only serves as a base takes clearly more than
    /// what stands on it would grow by.
    pub(super) fn plan(standing: &Standing<'_>, needed: &HashSet<ShortId>, options: &PruneOptions) -> Self {
        let all = standing.closure(needed.iter().copied(), &HashSet::new());
        let (least_share, tolerated) = match options.max_unused {
            MaxUnused::Percent(percent) => (1.0 + BASES_OVER_UNUSED * percent / 100.0, 0.0),
            MaxUnused::Bytes(bytes) => (1.0, bytes as f64),
            MaxUnused::Unlimited => (1.0, f64::INFINITY),
        };
        if options.no_rebase || options.max_unused == MaxUnused::Unlimited {
            return Self { chunks: vec![], keep: all };
        }
        let mut groups = Groups::default();
        let mut tops: Vec<(ShortId, &Record)> = vec![];
        let mut gains: HashMap<ShortId, f64> = HashMap::new();
        for id in &all {
            let Some(record) = standing.record(id) else { continue };
            if !needed.contains(id) {
                gains.insert(*id, f64::from(record.stored_len));
            }
            let mut below = record.bases.iter().map(short).filter(|base| !needed.contains(base)).peekable();
            if below.peek().is_some() && needed.contains(id) {
                tops.push((*id, record));
            }
            for base in below {
                groups.unite(*id, base);
            }
        }
        tops.sort_by_key(|(id, _)| standing.place(id));
        let mut heirs = Heirs { standing, needed, of: HashMap::new(), moved: HashMap::new() };
        tops.iter().for_each(|(id, record)| heirs.settle(*id, record));
        let mut balance: HashMap<usize, f64> = HashMap::new();
        for (id, gain) in gains {
            *balance.entry(groups.of(id)).or_default() += gain;
        }
        for (id, moved) in &heirs.moved {
            *balance.entry(groups.of(*id)).or_default() -= least_share * moved.cost;
        }
        // Costs are at most what is said: where nothing unused may stay, what seems to break even is tried, too,
        // once, for then it stands on nothing of the kind. The least gains may stay, up to what is tolerated.
        let mut gains: Vec<(usize, f64)> = balance.into_iter().filter(|(_, gain)| *gain > -1.0).collect();
        gains.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut left = 0.0;
        gains.retain(|(_, gain)| {
            left += gain;
            left > tolerated || tolerated == 0.0
        });
        let worthwhile: HashSet<usize> = gains.into_iter().map(|(group, _)| group).collect();
        tops.retain(|(id, _)| worthwhile.contains(&groups.of(*id)));
        let anew: HashSet<ShortId> = tops.iter().map(|(id, _)| *id).collect();
        let mut keep = standing.closure(needed.iter().copied(), &anew);
        keep.retain(|id| !anew.contains(id));
        let chunks = tops.iter().filter_map(|(id, _)| heirs.moved.remove(id)).collect();
        Self { chunks, keep }
    }
}

/// A chunk to stand on.
struct Base {
    id: ChunkId,
    depth: u8,
    generation: u8,
}

impl Moved {
    /// This as a base of `record`, unless it would make chunks that depend on it deeper.
    fn below(&self, record: &Record) -> Option<Base> {
        let (depth, generation) =
            self.choice.as_ref().map_or((0, 0), |choice| (choice.depth, choice.generation));
        let lower = depth < record.depth && generation < record.generation;
        lower.then_some(Base { id: self.record.id, depth, generation })
    }
}

/// Who takes the place of what goes.
struct Heirs<'a> {
    standing: &'a Standing<'a>,
    needed: &'a HashSet<ShortId>,
    /// For a chunk that goes, the first that stood on it.
    of: HashMap<ShortId, ShortId>,
    moved: HashMap<ShortId, Moved>,
}

impl Heirs<'_> {
    /// Finds the bases of a chunk: those of its present bases that are needed, and the replacements of the others.
    fn settle(&mut self, id: ShortId, record: &Record) {
        let mut bases: Vec<Base> = vec![];
        // Bytes of what goes that nobody has taken over yet.
        let mut unclaimed = 0.0;
        let mut seen: HashSet<ShortId> = HashSet::new();
        let mut open: Vec<ShortId> = record.bases.iter().rev().map(short).collect();
        while let Some(base) = open.pop() {
            if !seen.insert(base) {
                continue;
            }
            let Some(below) = self.standing.record(&base) else { continue };
            if self.needed.contains(&base) {
                bases.push(Base { id: below.id, depth: below.depth, generation: below.generation });
                continue;
            }
            let heir = *self.of.entry(base).or_insert(id);
            match self.moved.get(&heir).and_then(|heir| heir.below(record)) {
                Some(heir) => bases.push(heir),
                None => {
                    unclaimed += f64::from(below.stored_len);
                    open.extend(below.bases.iter().rev().map(short));
                }
            }
        }
        let mut known = HashSet::new();
        bases.retain(|base| known.insert(base.id));
        bases.truncate(MAX_BASES);
        let deepest = bases.iter().map(|base| base.depth).max();
        let newest = bases.iter().map(|base| base.generation).max();
        let choice = deepest.zip(newest).map(|(deepest, newest)| BaseChoice {
            bases: bases.iter().map(|base| base.id).collect(),
            depth: deepest + 1,
            generation: newest + 1,
            packs: vec![],
        });
        let (now, alone) = (f64::from(record.stored_len), self.alone(record));
        let then = if choice.is_some() { alone.min(now + unclaimed) } else { alone };
        self.moved.insert(id, Moved { record: record.clone(), choice, cost: then - now });
    }

    /// Bytes that a chunk would take if stored full, estimated from its deepest base.
    fn alone(&self, record: &Record) -> f64 {
        let mut bottom = record;
        while let Some(below) = bottom.bases.first().and_then(|base| self.standing.record(&short(base))) {
            bottom = below;
        }
        let ratio = f64::from(bottom.stored_len) / f64::from(bottom.plain_len.max(1));
        f64::from(record.plain_len) * ratio
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

    fn unite(&mut self, a: ShortId, b: ShortId) {
        let (a, b) = (self.of(a), self.of(b));
        self.parents[a.max(b)] = a.min(b);
    }

    fn of(&mut self, id: ShortId) -> usize {
        let number = self.number(id);
        self.top(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::format::{Codec, PackKind};
    use chunkstore::index::PackEntry;
    use chunkstore::pack::PackName;
    use chunkstore::{PackId, SessionId};

    fn id(seed: u8) -> ChunkId {
        ChunkId([seed; 32])
    }

    fn full(seed: u8, stored_len: u32) -> Record {
        Record { stored_len, ..Record::full(id(seed), 1000, 0, Codec::Zstd) }
    }

    fn delta(seed: u8, stored_len: u32, depth: u8, bases: &[u8]) -> Record {
        let bases = bases.iter().map(|seed| id(*seed)).collect();
        Record { stored_len, ..Record::delta(id(seed), 1000, 0, Codec::Patch, depth, depth, bases) }
    }

    /// A chunk that is stored anew, its bases, its depth.
    type Told = (u8, Vec<u8>, u8);

    /// Which chunks are stored again, and against what; and which others stay.
    fn plan(records: Vec<Record>, needed: &[u8], max_unused: MaxUnused) -> (Vec<Told>, Vec<u8>) {
        let name =
            PackName { session: SessionId([1; 16]), id: PackId([1; 32]), kind: PackKind::Data, epoch: 1 };
        let pack = PackEntry { name, len: 0, records };
        let packs = [&pack];
        let needed: HashSet<ShortId> = needed.iter().map(|seed| short(&id(*seed))).collect();
        let options = PruneOptions { max_unused, ..PruneOptions::default() };
        let Rebase { chunks, keep } =
            Rebase::plan(&Standing::of(&packs, &needed, &HashSet::new()), &needed, &options);
        let told = chunks.iter().map(|moved| {
            let choice = moved.choice.as_ref();
            let bases = choice.map(|choice| choice.bases.iter().map(|base| base.0[0]).collect());
            (moved.record.id.0[0], bases.unwrap_or_default(), choice.map_or(0, |choice| choice.depth))
        });
        let mut keep: Vec<u8> = keep.iter().map(|id| id[0]).collect();
        keep.sort_unstable();
        (told.collect(), keep)
    }

    const NOTHING: MaxUnused = MaxUnused::Percent(0.0);

    #[test]
    fn one_takes_the_place_of_what_goes_and_the_others_stand_on_it() {
        let records =
            || vec![full(1, 500), delta(2, 20, 1, &[1]), delta(3, 20, 1, &[1]), delta(4, 30, 2, &[3])];
        // 1 is needed by nobody; 4 stands on 3, wherever that is.
        let anew = vec![(2, vec![], 0), (3, vec![2], 1)];
        assert_eq!(plan(records(), &[2, 3, 4], NOTHING), (anew, vec![4]));
        // 20 of 570 bytes are not worth that by default.
        assert_eq!(plan(records(), &[2, 3, 4], MaxUnused::default()), (vec![], vec![1, 2, 3, 4]));
        // Nothing is to be done while 1 is needed, too.
        assert_eq!(plan(records(), &[1, 2, 3, 4], NOTHING), (vec![], vec![1, 2, 3, 4]));
    }

    #[test]
    fn what_is_needed_below_what_goes_is_built_on() {
        let records =
            || vec![full(1, 500), delta(2, 300, 1, &[1]), delta(3, 20, 2, &[2]), delta(4, 10, 3, &[3])];
        // 2 and 3 go: 4 stands on 1 then, and takes at most what they took.
        assert_eq!(plan(records(), &[1, 4], NOTHING), (vec![(4, vec![1], 1)], vec![1]));
        assert_eq!(plan(records(), &[1, 4], MaxUnused::Bytes(400)), (vec![], vec![1, 2, 3, 4]));
        assert_eq!(plan(records(), &[1, 4], MaxUnused::Unlimited), (vec![], vec![1, 2, 3, 4]));
    }

    #[test]
    fn several_bases_for_one_are_too_many() {
        let records = vec![full(1, 500), full(2, 500), full(3, 500), delta(4, 40, 1, &[1, 2, 3])];
        assert_eq!(plan(records, &[4], MaxUnused::default()), (vec![(4, vec![], 0)], vec![]));
    }
}
