//! The snapshots of one HEAD in the order of [`crate::rank`], with what their roots say of them. Their records are read
//! when somebody needs them; those of roots without columns at once.

use super::Repository;
use crate::columns::{Columns, decode_summary};
use crate::rank::{self, Run, Stamp};
use crate::snapshot::{Filter, Listed, Snapshot, back_of, begins, find};
use crate::{Error, ItemError, Result};
use chunkstore::head::{Head, Root, Stretch};
use chunkstore::store::describe;
use jiff::Timestamp;
use std::collections::HashMap;

/// So many records are read from their own objects: each is small. Whoever needs more reads HEAD's leaves, which have many.
const READ_ALONE: usize = 8;

/// Which snapshots there are, and which came first.
pub(crate) struct Past<'a> {
    pub(super) repo: &'a Repository,
    /// Leaves that were not read, with what HEAD says of them: all in them is older than the rest, and in order.
    unread: Vec<(Stretch<'a, Root>, Run)>,
    /// In HEAD's order.
    pub(super) roots: Vec<&'a Root>,
    /// What each is ranked by.
    stamps: Vec<Stamp>,
    /// The columns of those that had none, by place.
    missing: HashMap<usize, Columns>,
    /// Places in these, of the oldest snapshot first.
    pub(super) order: Vec<usize>,
    /// The times that snapshots of wrong clocks are ranked by, by place.
    moved: HashMap<usize, Timestamp>,
    /// Records that were read, by place; `None` cannot be read, and was reported.
    pub(super) records: HashMap<usize, Option<Listed>>,
    /// Records that cannot be read, of those that were to be.
    pub(super) damaged: Vec<ItemError>,
    /// Whether one of them was forgotten since HEAD was read: a later HEAD has what replaced it.
    pub(super) is_old: bool,
    /// Whether no later HEAD is looked at, whatever was forgotten.
    pub(super) is_last: bool,
}

impl<'a> Past<'a> {
    /// That of a HEAD. Leaves of which HEAD says enough are not read yet.
    pub(super) fn of(repo: &'a Repository, head: &'a Head) -> Result<Self> {
        let mut past = Self {
            repo,
            unread: vec![],
            roots: vec![],
            stamps: vec![],
            missing: HashMap::new(),
            order: vec![],
            moved: HashMap::new(),
            records: HashMap::new(),
            damaged: vec![],
            is_old: false,
            is_last: true,
        };
        let (mut unread, mut rest) = (vec![], head.roots.stretches().peekable());
        while let Some(run) = rest.peek().and_then(Stretch::summary).and_then(decode_summary) {
            unread.extend(rest.next().map(|stretch| (stretch, run)));
        }
        for stretch in rest {
            past.read(&stretch)?;
        }
        let now = crate::backup::timestamp(repo.store().now_ms());
        let whole = unread.iter().try_fold(Run::default(), |before, (_, run)| before.then(run));
        let whole = whole.and_then(|before| before.then(&Run::of(past.stamps.iter())?));
        if whole.is_some_and(|run| run.is_plain(now)) {
            past.unread = unread;
            past.order = (0..past.roots.len()).collect();
            return Ok(past);
        }
        past.read_earlier(unread)?;
        let ranked = rank::order(past.stamps.iter(), now);
        past.moved = ranked.iter().filter(|(at, time)| past.stamps[*at].time != *time).copied().collect();
        past.order = ranked.into_iter().map(|(place, _)| place).collect();
        Ok(past)
    }

    /// Reads a stretch that lies behind all that were read.
    fn read(&mut self, stretch: &Stretch<'a, Root>) -> Result<()> {
        self.roots.reserve(stretch.len());
        self.stamps.reserve(stretch.len());
        for root in stretch.items()?.into_iter().filter(|root| root.is_snapshot()) {
            let stamp = match Columns::decode_stamp(&root.columns) {
                Some(stamp) => stamp,
                None => {
                    let Some(snapshot) = self.note(root, self.repo.read_snapshot(root))? else { continue };
                    let listed = Listed { id: root.id, snapshot };
                    let columns = Columns::of(&listed.snapshot);
                    let stamp = columns.stamp;
                    self.missing.insert(self.roots.len(), columns);
                    self.records.insert(self.roots.len(), Some(listed));
                    stamp
                }
            };
            self.roots.push(root);
            self.stamps.push(stamp);
        }
        Ok(())
    }

    /// Reads stretches that lie before all that were read. Returns how many snapshots are in them.
    fn read_earlier(&mut self, stretches: Vec<(Stretch<'a, Root>, Run)>) -> Result<usize> {
        let (roots, stamps) = (std::mem::take(&mut self.roots), std::mem::take(&mut self.stamps));
        let (missing, records) = (std::mem::take(&mut self.missing), std::mem::take(&mut self.records));
        for (stretch, _) in &stretches {
            self.read(stretch)?;
        }
        let count = self.roots.len();
        self.roots.extend(roots);
        self.stamps.extend(stamps);
        self.missing.extend(missing.into_iter().map(|(place, columns)| (place + count, columns)));
        self.records.extend(records.into_iter().map(|(place, record)| (place + count, record)));
        Ok(count)
    }

    /// Reads what was not read. It is older than the rest, and in order.
    pub(super) fn read_all(&mut self) -> Result<()> {
        if !self.unread.is_empty() {
            let unread = std::mem::take(&mut self.unread);
            self.read_earlier(unread)?;
            self.order = (0..self.roots.len()).collect();
        }
        Ok(())
    }

    /// The time that the snapshot at a place is ranked by.
    pub(super) fn ranked_time(&self, place: usize) -> Timestamp {
        self.moved.get(&place).copied().unwrap_or(self.stamps[place].time)
    }

    /// What was read of a snapshot, unless its record is damaged, which is noted.
    pub(super) fn note<T>(&mut self, root: &Root, read: Result<T>) -> Result<Option<T>> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(Error::Store(error)) if error.is_damage() => {
                if self.repo.store.reload()?.roots.contains(root)? {
                    let item = format!("snapshots/{}", root.id);
                    self.damaged.push(ItemError { during: "snapshots", item, message: describe(&error) });
                } else {
                    self.is_old = true;
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The snapshot at a place, unless it cannot be read.
    pub(super) fn at(&mut self, place: usize) -> Result<Option<&Listed>> {
        if !self.records.contains_key(&place) {
            let root = self.roots[place];
            let read = match self.records.len() < READ_ALONE {
                true => self.repo.read_one_snapshot(root),
                false => self.repo.read_snapshot(root),
            };
            let read = self.note(root, read)?.map(|snapshot| Listed { id: root.id, snapshot });
            self.records.insert(place, read);
        }
        Ok(self.records.get(&place).and_then(Option::as_ref))
    }

    /// Whether the snapshot at a place may fit by its columns.
    fn may_fit(&self, place: usize, may_fit: impl Fn(&Columns) -> bool) -> bool {
        match Columns::decode(&self.roots[place].columns) {
            Some(columns) => may_fit(&columns),
            None => self.missing.get(&place).is_some_and(may_fit),
        }
    }

    /// The newest snapshot that `fits`. Only those that `may_fit` by their columns are read.
    pub(crate) fn newest(
        &mut self,
        may_fit: impl Fn(&Columns) -> bool,
        fits: impl FnMut(&Snapshot) -> bool,
    ) -> Result<Option<Listed>> {
        self.newest_by(None, may_fit, fits)
    }

    /// The same of those whose time is after `time`.
    pub(crate) fn newest_after(
        &mut self,
        time: Timestamp,
        may_fit: impl Fn(&Columns) -> bool,
        mut fits: impl FnMut(&Snapshot) -> bool,
    ) -> Result<Option<Listed>> {
        self.newest_by(Some(time), may_fit, |snapshot| snapshot.time > time && fits(snapshot))
    }

    fn newest_by(
        &mut self,
        after: Option<Timestamp>,
        may_fit: impl Fn(&Columns) -> bool,
        mut fits: impl FnMut(&Snapshot) -> bool,
    ) -> Result<Option<Listed>> {
        let is_after = |latest: Timestamp| after.is_none_or(|time| latest > time);
        let mut left = self.order.len();
        loop {
            for number in (0..left).rev() {
                let place = self.order[number];
                if is_after(self.stamps[place].time)
                    && self.may_fit(place, &may_fit)
                    && let Some(listed) = self.at(place)?
                    && fits(&listed.snapshot)
                {
                    return Ok(Some(listed.clone()));
                }
            }
            let earlier = self.unread.pop_if(|(_, run)| run.latest().is_none_or(is_after));
            let Some(earlier) = earlier else { return Ok(None) };
            left = self.read_earlier(vec![earlier])?;
            self.order = (0..self.roots.len()).collect();
        }
    }

    /// All whose objects can be read, oldest first.
    pub(super) fn stored(&mut self) -> Result<Vec<Listed>> {
        self.read_all()?;
        let mut all = Vec::with_capacity(self.order.len());
        for number in 0..self.order.len() {
            let root = self.roots[self.order[number]];
            let read = self.repo.read_stored(root);
            all.extend(self.note(root, read)?.map(|snapshot| Listed { id: root.id, snapshot }));
        }
        Ok(all)
    }

    /// Finds one; see [`crate::snapshot::find`].
    pub(super) fn find(&mut self, wanted: &str, filter: &Filter) -> Result<Listed> {
        let found = match back_of(wanted) {
            Some(back) => self.latest(back, filter)?,
            None => self.only(wanted)?,
        };
        // What was not found must be looked for everywhere, and the message counts all.
        found.map_or_else(|| Ok(find(&self.all()?, wanted, filter)?.clone()), Ok)
    }

    /// The snapshot that stands `back` before the latest that fits.
    fn latest(&mut self, back: usize, filter: &Filter) -> Result<Option<Listed>> {
        let asks = filter.asks_for_safety();
        let may_fit =
            |columns: &Columns| (asks || !columns.is_safety) && columns.may_be_of_hosts(&filter.hosts);
        let mut left = back;
        self.newest(may_fit, |snapshot| {
            let fits = filter.fits(snapshot) && (asks || !snapshot.is_safety());
            let is_it = fits && left == 0;
            left -= usize::from(fits && left > 0);
            is_it
        })
    }

    /// The snapshot whose id begins so, if it is the only one.
    fn only(&mut self, wanted: &str) -> Result<Option<Listed>> {
        if wanted.is_empty() {
            return Ok(None);
        }
        self.read_all()?;
        let mut fitting = (0..self.roots.len()).filter(|place| begins(&self.roots[*place].id, wanted));
        let (Some(place), None) = (fitting.next(), fitting.next()) else { return Ok(None) };
        Ok(self.at(place)?.cloned())
    }
}

#[cfg(test)]
mod tests;
