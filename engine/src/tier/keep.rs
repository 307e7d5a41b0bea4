//! Promises compared with the content of tiers: what each lacks, what is surplus, and the source for each copy.

use super::sync::Owed;
use super::{Role, Tier};
use crate::group::{GroupBy, GroupKey};
use crate::promise::{Known, Promise, Until, Verdict, judge};
use crate::rank::ranked;
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
    /// The present, by which it was judged.
    now: Timestamp,
    /// The snapshots that each tier names and that cannot be read.
    unreadable: BTreeMap<String, Vec<ObjectId>>,
}

/// How far a tier is behind the newest snapshots that there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Behind {
    /// Groups whose newest snapshot is not there.
    pub groups: usize,
    /// Those of them that are missing completely.
    pub missing: usize,
    /// The longest time between a group's newest snapshot and the newest of it on the tier.
    pub longest: jiff::SignedDuration,
    /// The same of each of those groups.
    pub each: Vec<GroupBehind>,
}

/// How far a tier is behind the newest snapshot of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupBehind {
    /// The group.
    pub key: GroupKey,
    /// Snapshots that are newer than the newest on the tier; all of them, if it has none.
    pub snapshots: u64,
    /// The time between the two; `None` if the tier has none.
    pub by: Option<jiff::SignedDuration>,
}

impl Standing {
    /// The snapshots that a tier names and that cannot be read: their promises are unknown.
    #[must_use]
    pub fn unreadable(&self, tier: &str) -> &[ObjectId] {
        self.unreadable.get(tier).map(Vec::as_slice).unwrap_or_default()
    }

    /// How far a tier is behind.
    #[must_use]
    pub fn behind(&self, tier: &str) -> Behind {
        let known = self.verdicts.iter().map(|verdict| &verdict.known);
        let tiers: BTreeMap<ObjectId, &BTreeSet<String>> =
            known.clone().map(|known| (known.listed.id, &known.tiers)).collect();
        let mut groups: BTreeMap<GroupKey, (Timestamp, Option<Timestamp>, u64)> = BTreeMap::new();
        for one in ranked(known.map(|known| known.listed.clone()).collect(), self.now) {
            let there = tiers.get(&one.listed.id).is_some_and(|tiers| tiers.contains(tier));
            let key = GroupBy::default().key(&one.listed.snapshot);
            let (newest, has, newer) = groups.entry(key).or_insert((one.time, None, 0));
            *newest = one.time;
            (*has, *newer) = if there { (Some(one.time), 0) } else { (*has, *newer + 1) };
        }
        let mut behind = Behind::default();
        for (key, (newest, has, snapshots)) in groups.into_iter().filter(|(_, (.., newer))| *newer > 0) {
            behind.groups += 1;
            behind.each.push(GroupBehind { key, snapshots, by: has.map(|has| newest.duration_since(has)) });
            match has {
                Some(has) => behind.longest = behind.longest.max(newest.duration_since(has)),
                None => behind.missing += 1,
            }
        }
        behind
    }

    /// Examines the primary and the tiers that can be reached. Promises for others count as not kept.
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
        let mut unreadable: BTreeMap<String, Vec<ObjectId>> = BTreeMap::new();
        // What is frozen is dear to change each night.
        let follow: Vec<String> = tiers
            .iter()
            .filter(|tier| tier.options.role == Role::Copy && !tier.frozen)
            .map(|tier| tier.options.name.clone())
            .collect();
        let mut forgotten: HashSet<ObjectId> = HashSet::new();
        for store in tiers.iter().map(|tier| tier.repo.store()).chain([primary.store()]) {
            forgotten.extend(store.head().forgotten.iter()?);
        }
        let tiers = tiers.iter().map(|tier| (tier.options.name.as_str(), &tier.repo));
        for (tier, repo) in [(name, primary)].into_iter().chain(tiers) {
            repo.store().reload()?;
            let mut found: BTreeMap<ObjectId, Listed> =
                repo.stored_snapshots(monitor)?.into_iter().map(|listed| (listed.id, listed)).collect();
            // HEAD names them in the order in which they came.
            let mut order = vec![];
            for root in repo.snapshot_roots()? {
                let Some(listed) = found.remove(&root.id) else {
                    unreadable.entry(tier.to_owned()).or_default().push(root.id);
                    continue;
                };
                let place = *places.entry(root.id).or_insert_with(|| {
                    known.push(Known { listed, tiers: BTreeSet::new() });
                    known.len() - 1
                });
                known[place].tiers.insert(tier.to_owned());
                order.push(place);
            }
            commits.push(order);
        }
        let mut verdicts = judge(promises, &known, &commits, &follow, now, zone)?;
        for verdict in verdicts.iter_mut().filter(|verdict| !verdict.known.tiers.contains(name)) {
            // What somebody took out of the primary is copied nowhere, from where it was out of reach then. What a person alone ends, and none did, it has
            // lost, or it was a copy that was behind; and the newest is to be there in any case.
            if forgotten.contains(&verdict.known.listed.id) {
                let there = &verdict.known.tiers;
                verdict.promised.retain(|tier, _| there.contains(tier));
            } else if verdict.is_newest {
                verdict.promised.entry(name.to_owned()).or_insert(Until::Newest);
            } else if verdict.is_kept_by_hand {
                verdict.promised.entry(name.to_owned()).or_insert(Until::Open);
            }
        }
        Ok(Self { verdicts, primary: name.to_owned(), now, unreadable })
    }

    /// The snapshots that a tier lacks.
    #[must_use]
    pub fn owed(&self, tier: &str) -> Vec<Owed> {
        self.promised(tier, |verdict| verdict.is_owed(tier))
    }

    /// The snapshots that are promised to a tier and on it.
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

    /// The snapshots to forget on a tier: none that another tier still lacks.
    #[must_use]
    pub fn over(&self, tier: &str) -> Vec<&Verdict> {
        let settled =
            |verdict: &&Verdict| verdict.promised.keys().all(|tier| verdict.known.tiers.contains(tier));
        self.verdicts.iter().filter(|verdict| verdict.is_over(tier)).filter(settled).collect()
    }

    /// The snapshots that a tier lacks, by where they can be copied from: the primary, or else the first of `tiers`
    /// that can be read.
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
