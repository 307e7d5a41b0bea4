//! Chunks that snapshots need, and the content of packs: the mark of a prune, and its choice of packs.

use super::rebase::{Moved, Rebase};
use super::renewal::{self, Stays};
use super::standing::Standing;
use super::{MaxUnused, PruneOptions, PrunePlan};
use crate::manifest::lists::KnownLists;
use crate::reach::{ShortId, for_each_further_chunk, short};
use crate::snapshot::{Listed, Snapshot};
use crate::{Error, Monitor, Repository, Result};
use chunkstore::head::{Head, Root, SegmentRef};
use chunkstore::index::{PackEntry, Segment};
use chunkstore::ingest::ChunkRef;
use chunkstore::store::{ChunkStore, LostPacks, MAP_ROOT};
use chunkstore::{ChunkId, ObjectId, PackId, SessionId};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// The chunks that snapshots need.
#[derive(Default)]
pub(super) struct Marks {
    pub(super) roots: HashSet<ObjectId>,
    pub(super) needed: HashSet<ShortId>,
    /// Chunks of manifests whose content was marked.
    lists: KnownLists,
}

impl Marks {
    /// Marks every snapshot of `head` that was not marked before. Anything unreadable ends the prune.
    pub(super) fn mark_all(
        &mut self,
        repo: &Repository,
        head: &Head,
        monitor: &dyn Monitor,
    ) -> Result<Vec<ChunkId>> {
        let mut fresh = vec![];
        for root in head.roots.iter()? {
            if root.kind == MAP_ROOT || root.is_report() {
                // Says how packs lie, or what a drill found; needs none.
                self.roots.insert(root.id);
                continue;
            }
            if root.kind != "snapshot" {
                return Err(Error::Refused(format!(
                    "HEAD has a root of kind '{}', which this esker cannot follow",
                    root.kind
                )));
            }
            if !self.roots.insert(root.id) {
                continue;
            }
            let marked = mark_one(repo, root, &mut self.lists, &mut |chunk| {
                if self.needed.insert(short(&chunk.id)) {
                    fresh.push(chunk.id);
                }
            });
            if let Err(error) = marked {
                self.roots.remove(&root.id);
                // Forgotten since HEAD was read, and on its way out: that it cannot be read is no damage.
                if repo.store().reload()?.roots.iter()?.any(|known| known.id == root.id) {
                    return Err(error);
                }
            }
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        Ok(fresh)
    }
}

fn mark_one(
    repo: &Repository,
    root: &Root,
    lists: &mut KnownLists,
    each: &mut dyn FnMut(ChunkRef),
) -> Result<()> {
    let plain = repo.store().read_snapshot(root)?;
    let snapshot: Snapshot =
        serde_json::from_slice(&plain).map_err(|error| chunkstore::Error::corrupt(root.object(), error))?;
    for_each_further_chunk(repo.store(), &Listed { id: root.id, snapshot }, lists, each)
}

/// What is in the packs, and what is to become of each.
pub(super) struct Survey {
    pub(super) plan: PrunePlan,
    /// Every live segment.
    pub(super) segments: Vec<(SegmentRef, Segment)>,
    pub(super) remove: HashSet<PackId>,
    pub(super) repack: Vec<(PackEntry, Vec<usize>)>,
    /// Deltas that are to stand on something else.
    pub(super) rebase: Vec<Moved>,
    pub(super) live: HashSet<PackId>,
    /// Packs that are not there as they should be.
    pub(super) lost: LostPacks,
}

impl Survey {
    pub(super) fn take(
        store: &Arc<ChunkStore>,
        head: &Head,
        marks: &Marks,
        options: &PruneOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let doomed: HashSet<PackId> = head.doomed.iter()?.map(|pack| pack.id).collect();
        let condemned: HashSet<PackId> = head.condemned.iter()?.map(|pack| pack.id).collect();
        let at_work: HashSet<SessionId> =
            head.sessions.iter()?.filter(|session| !session.fenced).map(|session| session.id).collect();
        let mut plan = PrunePlan::default();
        let mut segments = vec![];
        for reference in head.segments.iter()? {
            let Some(segment) = store.load_live_segment(reference)? else {
                return Err(
                    chunkstore::Error::Fenced { why: "another prune changed the index".into() }.into()
                );
            };
            segments.push((reference.clone(), segment));
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        let mut live = HashSet::new();
        // A chunk may lie in several packs. Packs that stay anyway are asked first, so that the others
        // become removable.
        let mut packs: Vec<&PackEntry> = segments.iter().flat_map(|(_, segment)| &segment.packs).collect();
        packs.retain(|pack| !doomed.contains(&pack.name.id) && live.insert(pack.name.id));
        // What lies under a later epoch, too, was moved there, and is asked before what it was moved from.
        let is_old = |pack: &PackEntry| options.renew_before.is_some_and(|epoch| pack.name.epoch < epoch);
        packs.sort_by_key(|pack| (condemned.contains(&pack.name.id), std::cmp::Reverse(pack.name.epoch)));
        let lost = store.lost_packs(Duration::ZERO)?;
        let unsound = lost.ids();
        if !lost.is_empty() {
            monitor.warning(&format!(
                "{} missing of those in the index, or of another length than before ({}): what only these have stays listed ({})",
                crate::shown::counted_are(lost.len(), "pack"),
                lost.names(),
                crate::reach::way_out(store)
            ));
        }
        let standing = Standing::of(&packs, &marks.needed, &unsound);
        let missing = marks.needed.iter().filter(|id| standing.record(id).is_none()).count();
        if missing > 0 {
            return Err(Error::Refused(format!(
                "{missing} needed chunks are in no pack, or depend on others that are in none; nothing is \
                    removed while data is missing ({})",
                crate::reach::way_out(store)
            )));
        }
        let Rebase { chunks: rebase, keep } = Rebase::plan(&standing, &marks.needed, options);
        plan.chunks_rebase = rebase.len() as u64;
        let mut remove = HashSet::new();
        let (mut partial, mut moving) = (vec![], vec![]);
        for (number, pack) in packs.iter().enumerate() {
            plan.packs_total += 1;
            plan.bytes_total += pack.len;
            plan.chunks_total += pack.records.len() as u64;
            let used: Vec<usize> = (0..pack.records.len())
                .filter(|position| {
                    let id = short(&pack.records[*position].id);
                    keep.contains(&id) && standing.place(&id) == Some((number, *position))
                })
                .collect();
            let used_bytes: u64 =
                used.iter().map(|position| u64::from(pack.records[*position].stored_len)).sum();
            plan.bytes_used += used_bytes;
            if is_old(pack) {
                plan.renewal.found(pack);
            }
            if options.renew_before.is_some() && !is_old(pack) {
                // None of a re-encryption's business.
            } else if at_work.contains(&pack.name.session) || options.spare.contains(&pack.name.id) {
                if is_old(pack) {
                    let spared = options.spare.contains(&pack.name.id);
                    plan.renewal.stays(pack, if spared { Stays::Spared } else { Stays::AtWork });
                }
                // Its session is still running and will name it in its commit; or it may not go yet.
            } else if used.len() < pack.records.len()
                && !options.accept_head
                && !head.may_remove(&pack.name.session)?
            {
                // Snapshots that need the rest of it may be there, and not be named.
                plan.kept_before_head += u64::from(used.is_empty());
                if is_old(pack) {
                    plan.renewal.stays(pack, Stays::BeforeHead);
                }
            } else if used.is_empty() {
                plan.packs_unused += 1;
                plan.chunks_unused += pack.records.len() as u64;
                plan.bytes_remove += pack.len;
                remove.insert(pack.name.id);
            } else if is_old(pack) {
                if unsound.contains(&pack.name.id) {
                    plan.renewal.stays(pack, Stays::Lost);
                } else if options.unreadable.contains(&pack.name.id) {
                    plan.renewal.stays(pack, Stays::Frozen);
                } else {
                    moving.push((number, used, used_bytes));
                }
            } else if used.len() < pack.records.len() && !unsound.contains(&pack.name.id) {
                partial.push(((*pack).clone(), used, used_bytes));
            }
        }
        let mut repack = choose_repack(&mut plan, partial, options);
        repack.extend(renewal::choose(&mut plan, &packs, &standing, moving, options));
        remove.extend(repack.iter().map(|(pack, _)| pack.name.id));
        Ok(Self { plan, segments, remove, repack, rebase, live, lost })
    }
}

/// Of the partly used packs, the emptiest, until what stays unused is within the limit.
fn choose_repack(
    plan: &mut PrunePlan,
    mut partial: Vec<(PackEntry, Vec<usize>, u64)>,
    options: &PruneOptions,
) -> Vec<(PackEntry, Vec<usize>)> {
    let unused = |pack: &PackEntry, used: u64| pack.len - used.min(pack.len);
    let mut left: u64 = partial.iter().map(|(pack, _, used)| unused(pack, *used)).sum();
    let limit = match options.max_unused {
        MaxUnused::Unlimited => u64::MAX,
        MaxUnused::Bytes(bytes) => bytes,
        // Of the whole as it will be: used + unused = used / (1 - p).
        MaxUnused::Percent(percent) => {
            let share = (percent / 100.0).clamp(0.0, 0.99);
            (plan.bytes_used as f64 * share / (1.0 - share)) as u64
        }
    };
    partial.sort_by(|a, b| (a.2 * b.0.len).cmp(&(b.2 * a.0.len)));
    let mut chosen = vec![];
    for (pack, positions, used) in partial {
        let over = options.max_repack.is_some_and(|most| plan.bytes_repack + used > most);
        if left <= limit || over {
            break;
        }
        left -= unused(&pack, used);
        plan.packs_repack += 1;
        plan.bytes_repack += used;
        plan.bytes_remove += unused(&pack, used);
        plan.bytes_repack_remove += unused(&pack, used);
        plan.chunks_repack += pack.records.len() as u64;
        plan.chunks_repack_remove += (pack.records.len() - positions.len()) as u64;
        chosen.push((pack, positions));
    }
    plan.bytes_unused_after = left;
    chosen
}
