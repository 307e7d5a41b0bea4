//! Re-encryption of a tier. What its primary has, too, is copied from there under the newest epoch, and nothing is read or
//! thawed here; what only the tier has is moved within it. What is locked, paid for until later, or frozen and nowhere else
//! stays until that ends, and is told.

use super::Tier;
use super::map::TierMap;
use super::sync::{Owed, SyncOptions, SyncReport, sync};
use crate::renew::{RenewOptions, RenewReport, renew};
use crate::{Monitor, Repository, Result};
use chunkstore::PackId;
use chunkstore::format::PackKind;
use chunkstore::index::PackInfo;
use std::collections::HashSet;
use std::sync::Arc;

/// What a re-encryption of a tier did, or would do.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct TierRenewal {
    /// What was moved, and what stays.
    #[serde(flatten)]
    pub report: RenewReport,
    /// Packs that were copied from the primary in the place of old ones.
    pub packs_copied: u64,
    /// Their bytes.
    pub bytes_copied: u64,
    /// Until when the last old pack is locked, in seconds since the Unix epoch.
    pub locked_until_s: Option<u64>,
    /// Until when the last old pack is paid for, in the same seconds.
    pub paid_until_s: Option<u64>,
    /// Whether it waits for the primary, which has to be done first.
    pub waits_for_primary: bool,
}

/// Packs of a tier under earlier epochs than the primary's.
struct Old {
    packs: Vec<Arc<PackInfo>>,
}

impl Old {
    fn of(tier: &Tier, epoch: u32) -> Result<Self> {
        let store = tier.repo.store();
        store.sync_index()?;
        let packs = store.index().packs()?.into_iter().filter(|pack| pack.name.epoch < epoch).collect();
        Ok(Self { packs })
    }

    /// Those that cannot be read as they lie. What the primary has need not be; what only the tier has may have been thawed.
    fn unreadable(&self, tier: &Tier, primary: &Repository) -> Result<HashSet<PackId>> {
        let mut frozen: HashSet<PackId> = self
            .packs
            .iter()
            .filter(|pack| tier.frozen && pack.name.kind == PackKind::Data)
            .map(|pack| pack.name.id)
            .collect();
        if frozen.is_empty() {
            return Ok(frozen);
        }
        let alone = only_here(tier, primary, &frozen)?;
        for pack in self.packs.iter().filter(|pack| alone.contains(&pack.name.id)) {
            if let Some(shelf) = tier.repo.store().storage().shelf() {
                let lying = shelf.look(&pack.name.object()).map_err(chunkstore::Error::from)?;
                if lying.warmth.is_readable() {
                    frozen.remove(&pack.name.id);
                }
            }
        }
        Ok(frozen)
    }
}

/// Those of some packs of a tier that have a chunk which the primary has not.
fn only_here(tier: &Tier, primary: &Repository, packs: &HashSet<PackId>) -> Result<HashSet<PackId>> {
    let (store, theirs) = (tier.repo.store(), primary.store().index());
    let mut alone = HashSet::new();
    for reference in store.head().segments.iter()? {
        let Some(segment) = store.load_live_segment(reference)? else { continue };
        for pack in segment.packs.iter().filter(|pack| packs.contains(&pack.name.id)) {
            let ids: Vec<_> = pack.records.iter().map(|record| record.id).collect();
            if theirs.lookup(&ids)?.iter().any(Option::is_none) {
                alone.insert(pack.name.id);
            }
        }
    }
    Ok(alone)
}

impl Tier {
    /// Moves what earlier epochs seal here to the newest. `kept`: the snapshots that are promised to it and on it. With
    /// `early`, what is paid for until later may go.
    ///
    /// # Errors
    ///
    /// As of a sync and of a prune.
    pub fn renew(
        &self,
        primary: &Repository,
        kept: &[Owed],
        early: bool,
        options: &RenewOptions,
        monitor: &dyn Monitor,
    ) -> Result<TierRenewal> {
        let store = self.repo.store();
        let mut done = TierRenewal::default();
        let ours = primary.store().reload()?;
        primary.store().sync_index()?;
        let epoch = ours.epoch();
        done.waits_for_primary = ours.segments.iter()?.any(|segment| segment.epoch < epoch);
        if !options.dry_run {
            self.clear()?;
        }
        let old = Old::of(self, epoch)?;
        if !options.dry_run && !done.waits_for_primary {
            let syncing =
                SyncOptions { compression: options.compression, renew: true, ..SyncOptions::default() };
            let SyncReport { packs, bytes, bytes_rewritten, .. } =
                sync(primary, primary, self, &[], kept, &syncing, monitor)?;
            (done.packs_copied, done.bytes_copied) = (packs, bytes + bytes_rewritten);
        }
        let map = TierMap::read(store)?;
        let options = RenewOptions {
            spare: self.spared(&map, early),
            unreadable: match options.dry_run {
                // They come from the primary.
                true => {
                    let frozen = old.unreadable(self, primary)?;
                    let alone = only_here(self, primary, &frozen)?;
                    frozen.intersection(&alone).copied().collect()
                }
                false => old.unreadable(self, primary)?,
            },
            fence_after_ms: self.options.fence_after_ms,
            ..options.clone()
        };
        if done.waits_for_primary && !options.dry_run {
            done.report.epoch = epoch;
            done.report.renewal.packs = old.packs.len() as u64;
            done.report.renewal.bytes = old.packs.iter().map(|pack| pack.len).sum();
            done.report.left = chunkstore::store::holders(&*store.reload()?, epoch.saturating_sub(1))?;
            return Ok(done);
        }
        done.report = renew(&self.repo, Some(primary), epoch, &options, monitor)?;
        let left = old.packs.iter().filter(|pack| options.spare.contains(&pack.name.id));
        for placed in left.filter_map(|pack| map.packs.get(&pack.name.id)) {
            done.locked_until_s = done.locked_until_s.max(placed.locked_until);
            if placed.class.is_some() && !early {
                done.paid_until_s = done.paid_until_s.max(Some(placed.paid_until_ms(self.min_days) / 1000));
            }
        }
        let moved = done.report.renewal.packs_moved + done.report.objects_renewed;
        if moved > 0 && !options.dry_run && self.options.lock_days.is_some() {
            // What was written here just now is locked as what it came from was.
            let syncing =
                SyncOptions { compression: options.compression, renew: true, ..SyncOptions::default() };
            sync(primary, primary, self, &[], kept, &syncing, monitor)?;
        }
        Ok(done)
    }
}
