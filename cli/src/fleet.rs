//! The primary and its tiers together: what is owed, copied, over and removed.

use crate::context::Context;
use crate::exit::{Code, Failure};
use crate::file::File;
use chunkstore::format::names::HEAD;
use chunkstore::store::Clock;
use engine::clock::{Doubt, doubt, doubt_by_store, last_known};
use engine::monitor::Tally;
use engine::prune::{PruneOptions, prune};
use engine::tier::keep::Standing;
use engine::tier::sync::{SyncOptions, sync};
use engine::tier::{Tier, note, take_out_forgotten};
use engine::{Monitor, Repository};
use jiff::Timestamp;

mod outcome;
mod recover;

pub(crate) use outcome::TierOutcome;

/// The primary, and the tiers that can be reached.
pub(crate) struct Fleet {
    pub(crate) name: String,
    pub(crate) primary: Repository,
    pub(crate) tiers: Vec<Tier>,
    /// Tiers that cannot, and why.
    pub(crate) away: Vec<(String, String)>,
    /// The last time that was known to be right when this was opened.
    last: Option<Timestamp>,
}

/// What came of work on the tiers.
pub(crate) struct Worked {
    pub(crate) outcomes: Vec<TierOutcome>,
    /// What is to be where.
    pub(crate) standing: Standing,
    /// Why nothing expired, if it should have.
    pub(crate) doubt: Option<Doubt>,
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
    /// A person said that the clock is right.
    pub(crate) accept_clock: bool,
}

impl Context {
    /// Opens the primary of esker.toml, with its name.
    pub(crate) fn open_primary(&self) -> Result<(String, Repository), Failure> {
        let file = self.need_file()?;
        let name = file.primary().map(|tier| tier.options.name.clone()).unwrap_or_default();
        let primary = self.open_named_quietly(&name)?.repo;
        match primary.store().tier() {
            None => Ok((name, primary)),
            Some(tier) => Err(Failure::new(format!(
                "'{name}' is the primary in {}, but a copy (tier '{tier}') by itself: 'esker tier adopt {name}' makes it the primary",
                file.path.display()
            ))),
        }
    }

    /// Opens the primary, and what can be reached of the others, to write to them.
    pub(crate) fn fleet(&self, rejoin: Option<&str>) -> Result<Fleet, Failure> {
        let fleet = self.fleet_to_look(rejoin)?;
        self.refuse_to_write_alone()?;
        Ok(fleet)
    }

    /// The same for what writes nothing.
    pub(crate) fn fleet_to_look(&self, rejoin: Option<&str>) -> Result<Fleet, Failure> {
        let file = self.need_file()?;
        let (name, primary) = self.open_primary()?;
        let head = primary.store().head();
        let pause = file.pause(self.now());
        let noted = last_known(&head, &[], pause);
        // Records are read only where what HEAD notes does not settle it.
        let last = match noted.is_some() && doubt(noted, self.now(), pause).is_none() {
            true => noted,
            false => last_known(&head, &primary.snapshots(&Tally::default())?, pause),
        };
        let mut fleet = Fleet { name, primary, tiers: vec![], away: vec![], last };
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
        now: Timestamp,
        monitor: &dyn Monitor,
    ) -> Result<Standing, Failure> {
        // A clock that went back does not bring back what has expired.
        let now = self.last.map_or(now, |last| last.max(now));
        let zone = &file.zone;
        Ok(Standing::look(&self.name, &self.primary, &self.tiers, &file.promises, now, zone, monitor)?)
    }

    /// Copies, forgets and prunes, tier by tier; says how each came out of it, and what is to be where. What fails on one
    /// leaves the others as they are.
    pub(crate) fn work(
        &self,
        work: &Work,
        file: &File,
        context: &Context,
        monitor: &dyn Monitor,
    ) -> Result<Worked, Failure> {
        monitor.phase("what is owed");
        // One look at the clock for all: what is in doubt does not change half way.
        let now = context.now();
        let mut doubt = match work.accept_clock {
            true => None,
            false => doubt(self.last, now, file.pause(now)),
        };
        let taken = match work.copy && !work.dry_run {
            true => take_out_forgotten(&self.primary, &self.tiers)?,
            false => vec![],
        };
        let mut standing = self.standing(file, now, monitor)?;
        let mut own = TierOutcome::of_primary(&self.name);
        if work.copy && !work.dry_run && !standing.unreadable(&self.name).is_empty() {
            let mended = self.mend_records(&|name| name == self.name, true)?;
            own.records_mended = mended.iter().map(|(_, count)| count).sum();
            standing = self.standing(file, now, monitor)?;
        }
        if work.copy && !standing.owed(&self.name).is_empty() {
            monitor.phase(&format!("tier '{}': what copies have", self.name));
            if let Err(failure) = self.bring_back(&standing, work.dry_run, context, monitor, &mut own) {
                if monitor.interrupted() {
                    return Err(failure);
                }
                own.error = Some(failure.message);
            }
            standing = self.standing(file, now, monitor)?;
        }
        if (work.copy || work.forget) && !work.dry_run {
            own.note_lost(&self.primary, monitor)?;
        }
        let mut outcomes: Vec<TierOutcome> = vec![];
        let meant = |name: &str| work.only.is_empty() || work.only.iter().any(|only| only == name);
        for tier in self.tiers.iter().filter(|tier| meant(&tier.options.name)) {
            let mut outcome = TierOutcome { tier: tier.options.name.clone(), ..TierOutcome::default() };
            outcome.snapshots_forgotten =
                taken.iter().find(|(name, _)| *name == outcome.tier).map_or(0, |(_, count)| *count);
            monitor.phase(&format!("tier '{}': copy", tier.options.name));
            let locks = work.copy && !work.dry_run && tier.options.lock_days.is_some();
            if locks && doubt.is_none() && !work.accept_clock {
                match store_doubt(tier, now) {
                    Ok(found) => doubt = found,
                    Err(failure) if monitor.interrupted() => return Err(failure),
                    // Without the store's word nothing is locked there; the other tiers go on.
                    Err(failure) => {
                        outcome.error = Some(failure.message);
                        outcomes.push(outcome);
                        continue;
                    }
                }
            }
            if work.copy && doubt.is_some() && tier.options.lock_days.is_some() {
                let why = "nothing is locked by a clock that may be wrong, and so nothing copied";
                outcome.error = Some(why.into());
            } else if work.copy
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
        let standing = self.standing(file, now, monitor)?;
        // HEADs of tiers that were brought up to date were written a moment ago.
        let doubt = doubt.or_else(|| {
            let copied = self.tiers.iter().filter(|tier| {
                let name = &tier.options.name;
                work.copy && outcomes.iter().any(|one| one.tier == *name && one.error.is_none())
            });
            let written = copied.filter_map(|tier| tier.repo.store().storage().written_ms(HEAD).ok()?);
            doubt_of(written.max().filter(|_| !work.accept_clock && !work.dry_run)?, now)
        });
        // In doubt only work that lets snapshots expire is held back.
        let doubt = doubt.filter(|_| work.forget);
        if work.forget && doubt.is_none() {
            for tier in self.tiers.iter().filter(|tier| meant(&tier.options.name)) {
                let Some(outcome) = outcomes.iter_mut().find(|outcome| outcome.tier == tier.options.name)
                else {
                    continue;
                };
                monitor.phase(&format!("tier '{}': forget", tier.options.name));
                if let Err(failure) = forget(tier, &standing, work, monitor, outcome) {
                    outcome.error.get_or_insert(failure.message);
                }
            }
            if meant(&self.name) {
                monitor.phase(&format!("tier '{}': forget", self.name));
                self.forget_here(&standing, work, context, monitor, &mut own)?;
                outcomes.push(own);
            } else if own.has_news() {
                outcomes.push(own);
            }
        } else if own.has_news() || work.copy && work.only.is_empty() && !standing.owed(&self.name).is_empty()
        {
            outcomes.push(own);
        }
        if !work.dry_run {
            let ms = u64::try_from(now.as_millisecond()).unwrap_or_default();
            let clock = match (work.forget && doubt.is_none(), work.accept_clock) {
                (false, _) => None,
                (true, false) => Some(Clock::Believed(ms)),
                (true, true) => Some(Clock::Accepted(ms)),
            };
            note(&self.primary, &self.tiers, clock)?;
        }
        for outcome in &mut outcomes {
            let owed = standing.owed(&outcome.tier);
            let unreadable = standing.unreadable(&outcome.tier);
            let is_elsewhere = |id| standing.verdicts.iter().any(|verdict| verdict.known.listed.id == id);
            outcome.unreadable = unreadable.iter().map(|id| id.short()).collect();
            outcome.lost = unreadable.iter().find(|id| !is_elsewhere(**id)).map(|id| id.short());
            outcome.snapshots_unreadable = outcome.unreadable.len() as u64;
            outcome.snapshots_owed = if work.dry_run && work.copy { 0 } else { owed.len() as u64 };
            let behind = standing.verdicts.iter().filter(|verdict| verdict.is_owed(&outcome.tier));
            let promises: std::collections::BTreeSet<String> =
                behind.flat_map(|verdict| verdict.reasons.iter().cloned()).collect();
            outcome.promises_behind = promises.into_iter().collect();
        }
        Ok(Worked { outcomes, standing, doubt })
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
        let options = SyncOptions {
            dry_run: work.dry_run,
            compression: context.global.compression,
            ..SyncOptions::default()
        };
        let kept = standing.kept(name);
        let sources = standing.sources(standing.owed(name), &self.primary, &self.tiers);
        if sources.is_empty() {
            // Locks and keys may have to follow all the same.
            outcome.add(sync(&self.primary, &self.primary, tier, &[], &kept, &options, monitor)?);
        }
        for (from, owed) in sources {
            let report = sync(&self.primary, from, tier, &owed, &kept, &options, monitor)?;
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
        outcome: &mut TierOutcome,
    ) -> Result<(), Failure> {
        let over: Vec<_> = standing.over(&self.name).iter().map(|verdict| verdict.known.listed.id).collect();
        outcome.snapshots_forgotten = over.len() as u64;
        if !work.dry_run && !over.is_empty() {
            self.primary.let_expire(&over)?;
        }
        if work.prune && !over.is_empty() {
            let options = PruneOptions {
                dry_run: work.dry_run,
                compression: context.global.compression,
                fence_after_ms: 168 * 3_600_000,
                ..PruneOptions::default()
            };
            let plan = prune(&self.primary, &options, monitor)?;
            outcome.bytes_removed = plan.bytes_remove;
            outcome.objects_kept = plan.kept_before_head;
        }
        Ok(())
    }
}

/// The command that removes what was there before HEAD was made anew, of the primary or of a tier.
pub(crate) fn accepting_head(tier: Option<&str>) -> String {
    match tier {
        Some(tier) => format!("esker tier prune --accept-head {tier}"),
        None => "esker prune --accept-head".into(),
    }
}

/// Whether the clock is far ahead of a store's own, which wrote something at `written_ms` a moment ago.
fn doubt_of(written_ms: u64, now: Timestamp) -> Option<Doubt> {
    doubt_by_store(Timestamp::from_millisecond(i64::try_from(written_ms).ok()?).ok()?, now)
}

/// The same of a tier, whose HEAD is written for it: what is locked by a clock that is ahead stays locked.
fn store_doubt(tier: &Tier, now: Timestamp) -> Result<Option<Doubt>, Failure> {
    let store = tier.repo.store();
    store.update_head(|_| Ok(()))?;
    let written = store.storage().written_ms(HEAD).map_err(chunkstore::Error::from)?;
    Ok(written.and_then(|written| doubt_of(written, now)))
}

/// Lets go what is over on a tier.
fn forget(
    tier: &Tier,
    standing: &Standing,
    work: &Work,
    monitor: &dyn Monitor,
    outcome: &mut TierOutcome,
) -> Result<(), Failure> {
    let over: Vec<_> =
        standing.over(&tier.options.name).iter().map(|verdict| verdict.known.listed.id).collect();
    outcome.snapshots_forgotten += over.len() as u64;
    if !work.dry_run {
        tier.forget(&over)?;
    }
    if work.prune && !over.is_empty() {
        let plan = tier.prune(false, false, work.dry_run, monitor)?;
        outcome.bytes_removed = plan.bytes_remove;
        outcome.objects_kept = plan.kept_before_head;
    }
    Ok(())
}
