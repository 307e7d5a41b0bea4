//! The primary and its tiers together: what is owed, copied, over and removed.

use crate::context::Context;
use crate::exit::{Code, Failure};
use crate::file::File;
use crate::output;
use engine::prune::{PruneOptions, prune};
use engine::tier::Tier;
use engine::tier::keep::Standing;
use engine::tier::sync::{SyncOptions, SyncReport, sync};
use engine::{Monitor, Repository};
use serde::Serialize;

/// The primary, and the tiers that can be reached.
pub(crate) struct Fleet {
    pub(crate) name: String,
    pub(crate) primary: Repository,
    pub(crate) tiers: Vec<Tier>,
    /// Tiers that cannot, and why.
    pub(crate) away: Vec<(String, String)>,
}

/// How a tier came out of it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct TierOutcome {
    pub(crate) tier: String,
    /// Why it could not be brought up to date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    pub(crate) snapshots_copied: u64,
    pub(crate) packs_copied: u64,
    pub(crate) bytes_copied: u64,
    pub(crate) chunks_rewritten: u64,
    pub(crate) bytes_rewritten: u64,
    pub(crate) locks_extended: u64,
    /// Snapshots that were forgotten there.
    pub(crate) snapshots_forgotten: u64,
    pub(crate) bytes_removed: u64,
    /// Snapshots that are promised to it, and are not there, or cannot be seen there.
    pub(crate) snapshots_owed: u64,
    /// The promises that say so.
    pub(crate) promises_behind: Vec<String>,
}

impl TierOutcome {
    fn add(&mut self, report: SyncReport) {
        self.snapshots_copied += report.snapshots;
        self.packs_copied += report.packs;
        self.bytes_copied += report.bytes;
        self.chunks_rewritten += report.chunks_rewritten;
        self.bytes_rewritten += report.bytes_rewritten;
        self.locks_extended += report.locks_extended;
    }

    /// Whether something that was promised is not as it should be.
    pub(crate) fn is_behind(&self) -> bool {
        self.error.is_some() || self.snapshots_owed > 0
    }

    pub(crate) fn describe(&self) -> String {
        let mut text = format!("tier '{}':", self.tier);
        if self.snapshots_copied > 0 || self.packs_copied > 0 {
            text += &format!(
                " copied {} snapshots, {} packs with {};",
                self.snapshots_copied,
                self.packs_copied,
                output::bytes(self.bytes_copied)
            );
        }
        if self.chunks_rewritten > 0 {
            text += &format!(
                " sealed {} chunks anew, {};",
                self.chunks_rewritten,
                output::bytes(self.bytes_rewritten)
            );
        }
        if self.locks_extended > 0 {
            text += &format!(" extended {} locks;", self.locks_extended);
        }
        if self.snapshots_forgotten > 0 {
            text += &format!(
                " forgot {} snapshots, removed {};",
                self.snapshots_forgotten,
                output::bytes(self.bytes_removed)
            );
        }
        match (&self.error, self.snapshots_owed) {
            (Some(error), _) => text += &format!(" BEHIND: {error}"),
            (None, 0) => text += " up to date",
            (None, owed) => {
                text += &format!(" BEHIND: {owed} snapshots owed ({})", self.promises_behind.join("; "));
            }
        }
        text
    }
}

/// What to do with the tiers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    /// Only these; all if empty.
    pub(crate) only: Vec<String>,
    pub(crate) copy: bool,
    pub(crate) forget: bool,
    pub(crate) prune: bool,
    pub(crate) dry_run: bool,
    /// A tier that was the primary before.
    pub(crate) rejoin: Option<String>,
}

impl Context {
    /// Opens the primary, and what can be reached of the others.
    pub(crate) fn fleet(&self, rejoin: Option<&str>) -> Result<Fleet, Failure> {
        let file = self.need_file()?;
        let name = file.primary().map(|tier| tier.options.name.clone()).unwrap_or_default();
        let primary = self.open_named(&name)?.repo;
        if let Some(tier) = primary.store().tier() {
            return Err(Failure::new(format!(
                "'{name}' is the primary in {}, but a copy (tier '{tier}') by itself: 'esker tier adopt {name}' makes it the primary",
                file.path.display()
            )));
        }
        let mut fleet = Fleet { name, primary, tiers: vec![], away: vec![] };
        for tier in file.copies() {
            let rejoins = rejoin == Some(tier.options.name.as_str());
            match self.open_tier(&fleet.primary, tier, rejoins) {
                Ok(tier) => fleet.tiers.push(tier),
                Err(failure) if failure.code == Code::Superseded => return Err(failure),
                Err(failure) => fleet.away.push((tier.options.name.clone(), failure.message)),
            }
        }
        Ok(fleet)
    }
}

impl Fleet {
    pub(crate) fn standing(
        &self,
        file: &File,
        context: &Context,
        monitor: &dyn Monitor,
    ) -> Result<Standing, Failure> {
        let (now, zone) = (context.now(), &file.zone);
        Ok(Standing::look(&self.name, &self.primary, &self.tiers, &file.promises, now, zone, monitor)?)
    }

    /// Copies, forgets and prunes, tier by tier. What fails on one leaves the others as they are.
    pub(crate) fn work(
        &self,
        work: &Work,
        file: &File,
        context: &Context,
        monitor: &dyn Monitor,
    ) -> Result<Vec<TierOutcome>, Failure> {
        let standing = self.standing(file, context, monitor)?;
        let mut outcomes: Vec<TierOutcome> = vec![];
        let meant = |name: &str| work.only.is_empty() || work.only.iter().any(|only| only == name);
        for tier in self.tiers.iter().filter(|tier| meant(&tier.options.name)) {
            let mut outcome = TierOutcome { tier: tier.options.name.clone(), ..TierOutcome::default() };
            if work.copy
                && let Err(failure) = self.copy(tier, &standing, work, context, monitor, &mut outcome)
            {
                if monitor.interrupted() {
                    return Err(failure);
                }
                outcome.error = Some(failure.message);
            }
            outcomes.push(outcome);
        }
        for (name, why) in self.away.iter().filter(|(name, _)| meant(name)) {
            outcomes.push(TierOutcome {
                tier: name.clone(),
                error: Some(why.clone()),
                ..TierOutcome::default()
            });
        }
        // What is there now decides what may go elsewhere.
        let standing = self.standing(file, context, monitor)?;
        if work.forget {
            for tier in self.tiers.iter().filter(|tier| meant(&tier.options.name)) {
                let Some(outcome) = outcomes.iter_mut().find(|outcome| outcome.tier == tier.options.name)
                else {
                    continue;
                };
                if let Err(failure) = forget(tier, &standing, work, monitor, outcome) {
                    outcome.error.get_or_insert(failure.message);
                }
            }
            if meant(&self.name) {
                outcomes.push(self.forget_here(&standing, work, context, monitor)?);
            }
        }
        for outcome in &mut outcomes {
            let owed = standing.owed(&outcome.tier);
            outcome.snapshots_owed = if work.dry_run && work.copy { 0 } else { owed.len() as u64 };
            let behind = standing.verdicts.iter().filter(|verdict| verdict.is_owed(&outcome.tier));
            let promises: std::collections::BTreeSet<String> =
                behind.flat_map(|verdict| verdict.reasons.iter().cloned()).collect();
            outcome.promises_behind = promises.into_iter().collect();
        }
        Ok(outcomes)
    }

    fn copy(
        &self,
        tier: &Tier,
        standing: &Standing,
        work: &Work,
        context: &Context,
        monitor: &dyn Monitor,
        outcome: &mut TierOutcome,
    ) -> Result<(), Failure> {
        let name = &tier.options.name;
        let options = SyncOptions { dry_run: work.dry_run, compression: context.global.compression };
        let kept = standing.kept(name);
        let sources = standing.sources(standing.owed(name), &self.primary, &self.tiers);
        if sources.is_empty() {
            // Locks and keys may have to follow all the same.
            outcome.add(sync(&self.primary, tier, &[], &kept, &options, monitor)?);
        }
        for (from, owed) in sources {
            let report = sync(from, tier, &owed, &kept, &options, monitor)?;
            if let Some((id, why)) = report.failed.first() {
                outcome.error = Some(format!("snapshot {}: {why}", id.short()));
            }
            outcome.add(report);
        }
        Ok(())
    }

    /// What is over on the primary.
    fn forget_here(
        &self,
        standing: &Standing,
        work: &Work,
        context: &Context,
        monitor: &dyn Monitor,
    ) -> Result<TierOutcome, Failure> {
        let mut outcome = TierOutcome { tier: self.name.clone(), ..TierOutcome::default() };
        let over: Vec<_> = standing.over(&self.name).iter().map(|verdict| verdict.known.listed.id).collect();
        outcome.snapshots_forgotten = over.len() as u64;
        if !work.dry_run && !over.is_empty() {
            self.primary.forget(&over)?;
        }
        if work.prune && !over.is_empty() {
            let options = PruneOptions {
                dry_run: work.dry_run,
                compression: context.global.compression,
                fence_after_ms: 168 * 3_600_000,
                ..PruneOptions::default()
            };
            outcome.bytes_removed = prune(&self.primary, &options, monitor)?.bytes_remove;
        }
        Ok(outcome)
    }
}

/// What is over on a tier.
fn forget(
    tier: &Tier,
    standing: &Standing,
    work: &Work,
    monitor: &dyn Monitor,
    outcome: &mut TierOutcome,
) -> Result<(), Failure> {
    let over: Vec<_> =
        standing.over(&tier.options.name).iter().map(|verdict| verdict.known.listed.id).collect();
    outcome.snapshots_forgotten = over.len() as u64;
    if !work.dry_run {
        tier.forget(&over)?;
    }
    if work.prune && !over.is_empty() {
        outcome.bytes_removed = tier.prune(false, work.dry_run, monitor)?.bytes_remove;
    }
    Ok(())
}
