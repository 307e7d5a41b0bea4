//! What no place has as it was: its chunks are read from other packs of other tiers.

use super::Check;
use crate::repair::supply::{Broken, supply};
use crate::{Repository, Result};
use chunkstore::head::Root;
use chunkstore::index::PackEntry;
use chunkstore::store::ChunkStore;
use std::collections::HashSet;
use std::sync::Arc;

impl Check<'_> {
    /// Other tiers of this repository.
    pub(super) fn other_tiers(&mut self) -> Vec<Arc<ChunkStore>> {
        let this = self.store.config().repository_id;
        let open = || {
            let mut others = (self.others)();
            others.retain(|other| other.config().repository_id == this);
            others
        };
        self.opened.get_or_insert_with(open).clone()
    }

    /// Copies the record of a snapshot from another tier, where it is as HEAD here names it; `false` if none has it.
    pub(super) fn fetch_snapshot(&mut self, root: &Root) -> bool {
        if !self.options.heal {
            return false;
        }
        let others = self.other_tiers();
        let fetched = others.iter().any(|other| self.store.copy_snapshot(root, other, None).is_ok());
        if fetched {
            self.report.snapshots_fetched += 1;
            self.healed(root.object(), "could not be read; copied from another tier".into());
        }
        fetched
    }

    /// Replaces packs that could not be mended as they are.
    pub(super) fn supply(&mut self, repo: &Repository, packs: &[PackEntry]) -> Result<()> {
        let nothing = self.gone.is_empty() && self.unsound.is_empty();
        if !self.options.heal || nothing || std::mem::replace(&mut self.supplied, true) {
            return Ok(());
        }
        let others = self.other_tiers();
        if others.is_empty() {
            return Ok(());
        }
        let broken = packs.iter().filter_map(|pack| -> Option<Broken> {
            let ids = pack.records.iter().map(|record| record.id);
            let bad: HashSet<_> = match self.gone.contains(&pack.name.id) {
                true => ids.collect(),
                false if !self.unsound.contains(&pack.name.id) => return None,
                false => ids.filter(|id| self.bad.contains(&(pack.name.id, *id))).collect(),
            };
            Some((pack.clone(), bad))
        });
        let broken: Vec<Broken> = broken.collect();
        let done = supply(repo, &others, &broken, self.monitor)?;
        self.report.chunks_supplied += done.chunks;
        self.report.packs_replaced += done.packs.len() as u64;
        for (pack, bad) in broken.iter().filter(|(pack, _)| done.packs.contains(&pack.name.id)) {
            let name = pack.name.object();
            self.errors.retain(|error| error.item != name);
            let what = format!(
                "could not be read; no longer listed: {} of its chunks are in other packs now",
                bad.len()
            );
            self.healed(name, what);
        }
        self.gone.retain(|id| !done.packs.contains(id));
        self.unsound.retain(|id| !done.packs.contains(id));
        self.bad.retain(|(id, _)| !done.packs.contains(id));
        self.bases = Arc::default();
        Ok(())
    }
}
