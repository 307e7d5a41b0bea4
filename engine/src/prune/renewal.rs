//! Packs of earlier epochs that a re-encryption moves to the newest: which, in which order, and why others stay.
//!
//! Each chunk keeps its id and its frame, so deltas stay deltas and find their bases by id, wherever these are. Bases go first
//! all the same: what a leaked key still reads is then not what newer chunks stand on.

use super::standing::Standing;
use super::{PruneOptions, PrunePlan};
use crate::reach::short;
use chunkstore::index::PackEntry;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// What a re-encryption finds of packs of earlier epochs. Bytes are as stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Renewal {
    /// Packs of earlier epochs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that nothing needs: they only go.
    pub packs_unused: u64,
    /// Packs that are read and written again.
    pub packs_moved: u64,
    /// Bytes of the old ones.
    pub bytes_moved: u64,
    /// Packs beyond the budget.
    pub packs_over: u64,
    /// Their bytes.
    pub bytes_over: u64,
    /// What the first of them needs of the budget.
    pub bytes_next: u64,
    /// Packs that stay because they are locked, or paid for until later.
    pub packs_spared: u64,
    /// Their bytes.
    pub bytes_spared: u64,
    /// Packs of runs at work.
    pub packs_at_work: u64,
    /// Packs that must be thawed first.
    pub packs_frozen: u64,
    /// Their bytes.
    pub bytes_frozen: u64,
    /// Packs that are lost, or have another length than they had.
    pub packs_lost: u64,
    /// Packs that existed before HEAD was made anew, and of which it does not name all.
    pub packs_before_head: u64,
}

/// Why a pack stays as it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stays {
    Spared,
    AtWork,
    Frozen,
    Lost,
    BeforeHead,
}

impl Renewal {
    pub(super) fn found(&mut self, pack: &PackEntry) {
        self.packs += 1;
        self.bytes += pack.len;
    }

    pub(super) fn stays(&mut self, pack: &PackEntry, why: Stays) {
        let (packs, bytes) = match why {
            Stays::Spared => (&mut self.packs_spared, Some(&mut self.bytes_spared)),
            Stays::Frozen => (&mut self.packs_frozen, Some(&mut self.bytes_frozen)),
            Stays::AtWork => (&mut self.packs_at_work, None),
            Stays::Lost => (&mut self.packs_lost, None),
            Stays::BeforeHead => (&mut self.packs_before_head, None),
        };
        *packs += 1;
        if let Some(bytes) = bytes {
            *bytes += pack.len;
        }
    }

    /// Packs that stay after this run, for whatever reason but that their removal waits for others.
    #[must_use]
    pub fn packs_left(&self) -> u64 {
        self.packs_over
            + self.packs_spared
            + self.packs_at_work
            + self.packs_frozen
            + self.packs_lost
            + self.packs_before_head
    }
}

/// A pack that is to be moved: its number, the places of the records that are needed, their bytes.
type Moving = (usize, Vec<usize>, u64);

/// Chooses within the budget, and orders packs so that the bases of what is in one are in earlier ones, or in the same, as
/// far as they do not depend on each other.
pub(super) fn choose(
    plan: &mut PrunePlan,
    packs: &[&PackEntry],
    standing: &Standing<'_>,
    moving: Vec<Moving>,
    options: &PruneOptions,
) -> Vec<(PackEntry, Vec<usize>)> {
    plan.renewal.packs_unused = if options.renew_before.is_some() { plan.packs_unused } else { 0 };
    let order: Vec<usize> = moving.iter().map(|(number, ..)| *number).collect();
    let mut left: HashMap<usize, (Vec<usize>, u64)> =
        moving.into_iter().map(|(number, used, bytes)| (number, (used, bytes))).collect();
    let mut ordered: Vec<usize> = vec![];
    // Depth first, without recursion: a pack is left when all that it stands on was.
    let mut entered: HashMap<usize, bool> = HashMap::new();
    for start in order {
        let mut open = vec![start];
        while let Some(number) = open.last().copied() {
            match entered.entry(number) {
                Entry::Occupied(mut is_left) => {
                    open.pop();
                    if !is_left.insert(true) {
                        ordered.push(number);
                    }
                    continue;
                }
                Entry::Vacant(new) => new.insert(false),
            };
            let Some((used, _)) = left.get(&number) else { continue };
            let bases = used
                .iter()
                .filter_map(|at| packs.get(number)?.records.get(*at))
                .flat_map(|record| &record.bases);
            let below = bases.filter_map(|base| Some(standing.place(&short(base))?.0));
            open.extend(below.filter(|below| left.contains_key(below) && !entered.contains_key(below)));
        }
    }
    let (mut chosen, mut is_over) = (vec![], false);
    for number in ordered {
        let (Some((used, bytes)), Some(pack)) = (left.remove(&number), packs.get(number)) else { continue };
        is_over |= options.max_repack.is_some_and(|most| plan.bytes_repack + bytes > most);
        if is_over {
            if plan.renewal.packs_over == 0 {
                plan.renewal.bytes_next = bytes;
            }
            plan.renewal.packs_over += 1;
            plan.renewal.bytes_over += pack.len;
            continue;
        }
        plan.packs_repack += 1;
        plan.bytes_repack += bytes;
        plan.renewal.packs_moved += 1;
        plan.renewal.bytes_moved += pack.len;
        plan.chunks_repack += pack.records.len() as u64;
        plan.chunks_repack_remove += (pack.records.len() - used.len()) as u64;
        chosen.push(((*pack).clone(), used));
    }
    chosen
}
