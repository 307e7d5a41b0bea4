//! The snapshots that a command is for: those that are named, or all that fit a filter. The others are not kept in memory.

use super::Repository;
use crate::rank::Ranked;
use crate::snapshot::{Filter, Listed, back_of, begins, find};
use crate::{Error, Monitor, Result};
use std::collections::{BTreeMap, VecDeque};

/// What names ask of each snapshot.
struct Names {
    filter: Filter,
    /// Those that are not `latest`.
    ids: Vec<String>,
    /// So many of the newest are needed for `latest~N`; none if nobody wrote `latest`.
    newest: usize,
    /// Whether safety snapshots may be the latest.
    asks: bool,
}

/// What a snapshot is to them.
struct Candidate {
    /// Unless it can be none of them.
    ranked: Option<Box<Ranked>>,
    /// Whether an id begins so, or did.
    is_named: bool,
    /// Whether it may be the latest.
    is_latest: bool,
    fits: bool,
}

impl Names {
    fn new(wanted: &[String], filter: &Filter) -> Self {
        let newest = wanted.iter().filter_map(|wanted| back_of(wanted)).max();
        let is_id = |wanted: &&String| back_of(wanted).is_none() && !wanted.is_empty();
        Self {
            filter: filter.clone(),
            ids: wanted.iter().filter(is_id).cloned().collect(),
            newest: newest.map_or(0, |back| back.saturating_add(1)),
            asks: filter.asks_for_safety(),
        }
    }

    fn candidate(&self, ranked: Ranked) -> Candidate {
        let listed = &ranked.listed;
        let fits = self.filter.fits(&listed.snapshot);
        let is_named = self.ids.iter().any(|wanted| begins(&listed.id, wanted) || listed.was(wanted));
        let is_latest = self.newest > 0 && fits && (self.asks || !listed.snapshot.is_safety());
        let ranked = (is_named || is_latest).then(|| Box::new(ranked));
        Candidate { ranked, is_named, is_latest, fits }
    }
}

/// The snapshots that names may mean.
#[derive(Default)]
struct Candidates {
    /// By their numbers in the order, and whether an id names each.
    kept: BTreeMap<usize, (Ranked, bool)>,
    /// The numbers of the newest that may be the latest.
    newest: VecDeque<usize>,
    /// How many snapshots there are, and how many of them fit the filter.
    count: usize,
    fitting: usize,
}

impl Candidates {
    fn add(&mut self, candidate: Candidate, newest: usize) {
        let number = self.count;
        self.count += 1;
        self.fitting += usize::from(candidate.fits);
        let Some(ranked) = candidate.ranked else { return };
        self.kept.insert(number, (*ranked, candidate.is_named));
        if candidate.is_latest {
            self.newest.push_back(number);
        }
        if self.newest.len() > newest
            && let Some(older) = self.newest.pop_front()
            && self.kept.get(&older).is_some_and(|(_, is_named)| !is_named)
        {
            self.kept.remove(&older);
        }
    }

    fn latest(&self, back: usize) -> Option<&Ranked> {
        let number = self.newest.iter().rev().nth(back)?;
        self.kept.get(number).map(|(ranked, _)| ranked)
    }
}

impl Repository {
    /// The snapshots that `wanted` names, in its order, see [`find`]; if it is empty, those that fit, oldest first.
    ///
    /// # Errors
    ///
    /// A name that is none or that of several; a filter that fits none of existing snapshots; as
    /// [`Repository::view_snapshots`].
    pub fn choose(&self, filter: &Filter, wanted: &[String], monitor: &dyn Monitor) -> Result<Vec<Ranked>> {
        match wanted.is_empty() {
            true => self.fitting(filter, monitor),
            false => self.named(filter, wanted, monitor),
        }
    }

    fn fitting(&self, filter: &Filter, monitor: &dyn Monitor) -> Result<Vec<Ranked>> {
        let (mut fitting, mut count) = (vec![], 0);
        let own = filter.clone();
        self.view_snapshots(
            move |ranked| own.fits(&ranked.listed.snapshot).then_some(ranked),
            &mut |viewed| {
                count += 1;
                fitting.extend(viewed);
                Ok(())
            },
            monitor,
        )?;
        match fitting.is_empty() && count > 0 {
            true => Err(filter.fits_none(count)),
            false => Ok(fitting),
        }
    }

    fn named(&self, filter: &Filter, wanted: &[String], monitor: &dyn Monitor) -> Result<Vec<Ranked>> {
        let names = Names::new(wanted, filter);
        let (mut found, newest) = (Candidates::default(), names.newest);
        self.view_snapshots(
            move |ranked| names.candidate(ranked),
            &mut |candidate| {
                found.add(candidate, newest);
                Ok(())
            },
            monitor,
        )?;
        let all: Vec<Listed> = found.kept.values().map(|(ranked, _)| ranked.listed.clone()).collect();
        let none = |wanted: &str| Error::NoSnapshot { wanted: wanted.to_owned() };
        let one = |wanted: &String| match back_of(wanted) {
            Some(_) if found.fitting == 0 && found.count > 0 => Err(filter.fits_none(found.count)),
            Some(back) => found.latest(back).cloned().ok_or_else(|| none(wanted)),
            None => {
                let id = find(&all, wanted, filter)?.id;
                let ranked = found.kept.values().map(|(ranked, _)| ranked);
                ranked.into_iter().find(|one| one.listed.id == id).cloned().ok_or_else(|| none(wanted))
            }
        };
        wanted.iter().map(one).collect()
    }
}
