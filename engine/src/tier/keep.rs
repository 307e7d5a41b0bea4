//! Promises held against what the tiers hold: what is owed to each, what is over, what comes from where.

use super::Tier;
use super::sync::Owed;
use crate::promise::{Known, Promise, Until, Verdict, judge};
use crate::snapshot::Listed;
use crate::{Monitor, Repository, Result};
use chunkstore::ObjectId;
use jiff::{Timestamp, tz::TimeZone};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Where every snapshot is, and where it is to be.
pub struct Standing {
    /// All snapshots; those of the primary first.
    pub verdicts: Vec<Verdict>,
    /// The primary's name.
    primary: String,
}

impl Standing {
    /// Looks at the primary and at the tiers that can be reached. What was promised to others counts as owed.
    pub fn look(
        name: &str,
        primary: &Repository,
        tiers: &[Tier],
        promises: &[Promise],
        now: Timestamp,
        zone: &TimeZone,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let mut known: Vec<Known> = vec![];
        let mut places: BTreeMap<ObjectId, usize> = BTreeMap::new();
        let mut commits: Vec<Vec<usize>> = vec![];
        let tiers = tiers.iter().map(|tier| (tier.options.name.as_str(), &tier.repo));
        for (tier, repo) in [(name, primary)].into_iter().chain(tiers) {
            repo.store().reload()?;
            let mut found: BTreeMap<ObjectId, Listed> =
                repo.snapshots(monitor)?.into_iter().map(|listed| (listed.id, listed)).collect();
            // HEAD names them in the order in which they came.
            let mut order = vec![];
            for root in repo.snapshot_roots() {
                let Some(listed) = found.remove(&root.id) else { continue };
                let place = *places.entry(root.id).or_insert_with(|| {
                    known.push(Known { listed, tiers: BTreeSet::new() });
                    known.len() - 1
                });
                known[place].tiers.insert(tier.to_owned());
                order.push(place);
            }
            commits.push(order);
        }
        Ok(Self { verdicts: judge(promises, &known, &commits, now, zone)?, primary: name.to_owned() })
    }

    /// What is owed to a tier.
    #[must_use]
    pub fn owed(&self, tier: &str) -> Vec<Owed> {
        self.promised(tier, |verdict| verdict.is_owed(tier))
    }

    /// What is promised to a tier and there.
    #[must_use]
    pub fn kept(&self, tier: &str) -> Vec<Owed> {
        self.promised(tier, |verdict| verdict.known.tiers.contains(tier))
    }

    fn promised(&self, tier: &str, which: impl Fn(&Verdict) -> bool) -> Vec<Owed> {
        let chosen = self.verdicts.iter().filter(|verdict| which(verdict));
        chosen
            .filter_map(|verdict| {
                let until: Until = *verdict.promised.get(tier)?;
                Some(Owed { listed: verdict.known.listed.clone(), until })
            })
            .collect()
    }

    /// What is to be forgotten on a tier: nothing that another one is still owed.
    #[must_use]
    pub fn over(&self, tier: &str) -> Vec<&Verdict> {
        let settled =
            |verdict: &&Verdict| verdict.promised.keys().all(|tier| verdict.known.tiers.contains(tier));
        self.verdicts.iter().filter(|verdict| verdict.is_over(tier)).filter(settled).collect()
    }

    /// What is owed, by where it can be copied from: the primary, or else the first of `tiers` that can be read.
    #[must_use]
    pub fn sources<'a>(
        &self,
        owed: Vec<Owed>,
        primary: &'a Repository,
        tiers: &'a [Tier],
    ) -> Vec<(&'a Repository, Vec<Owed>)> {
        let mut left: Vec<Owed> = owed;
        let mut sources = vec![];
        let places = [(self.primary.as_str(), primary)].into_iter().chain(
            tiers.iter().filter(|tier| !tier.frozen).map(|tier| (tier.options.name.as_str(), &tier.repo)),
        );
        for (name, repo) in places {
            let there: HashSet<ObjectId> = self
                .verdicts
                .iter()
                .filter(|verdict| verdict.known.tiers.contains(name))
                .map(|verdict| verdict.known.listed.id)
                .collect();
            let (from_here, rest): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|owed| there.contains(&owed.listed.id));
            left = rest;
            if !from_here.is_empty() {
                sources.push((repo, from_here));
            }
        }
        sources
    }
}
