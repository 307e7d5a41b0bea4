//! What the primary lost and a copy has comes back: records of snapshots, and snapshots that only a copy has, as after one
//! that was behind was adopted. What somebody forgot does not.

use super::{Fleet, TierOutcome};
use crate::context::Context;
use crate::exit::Failure;
use crate::file::File;
use engine::tier::back::{bring_back, mend_records};
use engine::tier::keep::Standing;
use engine::{Monitor, Repository};

impl Fleet {
    /// The primary and the tiers that can be reached, by their names.
    fn all(&self) -> Vec<(&str, &Repository)> {
        let tiers = self.tiers.iter().map(|tier| (tier.options.name.as_str(), &tier.repo));
        [(self.name.as_str(), &self.primary)].into_iter().chain(tiers).collect()
    }

    /// Puts lost records of snapshots back that another place has: of the primary, or of all that are `meant`. Damaged ones
    /// are found only if they are read. Returns how many came back where.
    pub(crate) fn mend_records(
        &self,
        meant: &dyn Fn(&str) -> bool,
        read: bool,
    ) -> Result<Vec<(String, u64)>, Failure> {
        let all = self.all();
        let mut mended = vec![];
        for (name, repo) in all.iter().filter(|(name, _)| meant(name)) {
            let others: Vec<&Repository> =
                all.iter().filter(|(other, _)| other != name).map(|(_, repo)| *repo).collect();
            let count = mend_records(repo, &others, read)?;
            if count > 0 {
                mended.push(((*name).to_owned(), count));
            }
        }
        Ok(mended)
    }

    /// Brings to the primary what it is owed by `standing`.
    pub(super) fn bring_back(
        &self,
        standing: &Standing,
        dry_run: bool,
        context: &Context,
        monitor: &dyn Monitor,
        outcome: &mut TierOutcome,
    ) -> Result<(), Failure> {
        let compression = context.global.compression;
        for (from, owed) in standing.sources(standing.owed(&self.name), &self.primary, &self.tiers) {
            let brought = bring_back(&self.primary, from, &owed, compression, dry_run, monitor)?;
            outcome.snapshots_brought_back += brought.snapshots;
            outcome.chunks_rewritten += brought.chunks;
            outcome.bytes_rewritten += brought.bytes;
            if let Some((id, why)) = brought.failed.first() {
                outcome.error = Some(format!("snapshot {}: {why}", id.short()));
            }
        }
        Ok(())
    }

    /// All of it, for `heal`: records of the places that are `meant`, then what the primary is owed. Says what came back.
    pub(crate) fn recover(
        &self,
        meant: &dyn Fn(&str) -> bool,
        file: &File,
        context: &Context,
    ) -> Result<Vec<TierOutcome>, Failure> {
        let mut outcomes: Vec<TierOutcome> = vec![];
        for (tier, records_mended) in self.mend_records(meant, true)? {
            outcomes.push(TierOutcome { tier, records_mended, ..TierOutcome::default() });
        }
        if meant(&self.name) {
            let mut outcome = TierOutcome::of_primary(&self.name);
            context.console.during(&format!("tier '{}': what copies have", self.name), |monitor| {
                let standing = self.standing(file, context.now(), monitor)?;
                self.bring_back(&standing, false, context, monitor, &mut outcome)
            })?;
            if outcome.snapshots_brought_back > 0 || outcome.error.is_some() {
                outcomes.push(outcome);
            }
        }
        Ok(outcomes)
    }
}
