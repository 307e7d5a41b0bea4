//! Locks: set for as long as something is promised that needs an object, and extended when that gets longer.

use super::needs::LOOKUP;
use super::{Owed, Sync};
use crate::promise::Until;
use crate::reach::for_each_chunk;
use crate::tier::map::{DAY_MS, Placed};
use crate::{Error, Result};
use chunkstore::bases::{Grounded, ground, ground_everywhere};
use chunkstore::format::names;
use chunkstore::{ChunkId, PackId};
use std::collections::{HashMap, HashSet};

/// What is promised for ever is locked for a year at a time, in steps of a month.
const FOREVER_DAYS: u64 = 365;
const STEP_S: u64 = 30 * DAY_MS / 1000;

/// A store's clock is believed so far ahead of this machine's.
const BEHIND_S: u64 = DAY_MS / 1000;

impl Sync<'_> {
    /// Compares this machine's clock with the store's, which wrote HEAD for this session. Locks end by the store's
    /// clock: those that a clock behind it counts are shorter than they should be, or over when they are set.
    pub(super) fn compare_clocks(&mut self) -> Result<()> {
        if self.options.dry_run || self.tier.options.lock_days.is_none() {
            return Ok(());
        }
        let (to, now_s) = (self.to(), self.now_s());
        let written = to.storage().written_ms(names::HEAD).map_err(chunkstore::Error::from)?;
        let there_s = written.map_or(now_s, |ms| ms / 1000);
        self.behind_s = there_s.saturating_sub(now_s);
        if self.behind_s > BEHIND_S {
            let shown = |seconds: u64| {
                let time = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
                time.map_or_else(|| "another time".to_owned(), |time| time.to_string())
            };
            return Err(Error::Refused(format!(
                "the clock here says {}, and the one of {} {}: nothing is locked by a clock that may be wrong, and so \
                 nothing copied. Set the clock that is wrong",
                shown(now_s),
                to.storage().place(),
                shown(there_s)
            )));
        }
        Ok(())
    }

    /// Until when what a snapshot needs is to be locked, in seconds since the Unix epoch; 0 for not at all.
    pub(super) fn lock_until(&self, until: Until) -> u64 {
        let Some(days) = self.tier.options.lock_days else { return 0 };
        let least = self.now_s() + u64::from(days) * DAY_MS / 1000;
        match until {
            Until::Time(_) => (until.seconds().unwrap_or_default() + self.behind_s).max(least),
            Until::Forever => (self.now_s() / STEP_S * STEP_S + FOREVER_DAYS * DAY_MS / 1000).max(least),
            Until::Newest | Until::Open => least,
        }
    }

    /// Locks last as long as what they are for is promised.
    pub(super) fn extend_locks(&mut self, kept: &[Owed]) -> Result<()> {
        if self.tier.options.lock_days.is_none() {
            return Ok(());
        }
        let to = self.to();
        for Owed { listed, until } in kept {
            let until = match until {
                Until::Newest | Until::Open => continue,
                _ => self.lock_until(*until),
            };
            let is_locked = self.map.locked.get(&listed.id).is_some_and(|there| *there >= until);
            if is_locked && !self.options.renew {
                continue;
            }
            let mut ids: Vec<ChunkId> = vec![];
            for_each_chunk(to, listed, &mut |chunk| ids.push(chunk.id))?;
            for ids in ids.chunks(LOOKUP) {
                for grounded in self.preferred(ids)? {
                    for pack in grounded.packs {
                        let there = self.locks.entry(pack).or_default();
                        *there = until.max(*there);
                    }
                }
            }
            if let Some(root) = to.head().roots.find(|root| root.id == listed.id)? {
                self.lock(&root.object(), until)?;
            }
            self.changes.locked.insert(listed.id, until);
        }
        // Without these, nothing of it could be read.
        let longest = self.map.locked.values().chain(self.changes.locked.values()).copied();
        if let Some(until) = longest.chain(self.locks.values().copied()).max().filter(|until| *until > 0) {
            let head = self.primary.store().head();
            let grants = head.grants.map(|_| names::grants(head.epoch()));
            let config = [names::CONFIG.to_owned()];
            for name in head.slots.keys().map(names::key).chain(grants).chain(config) {
                self.lock(&name, until)?;
            }
        }
        let names: HashMap<PackId, (String, u64)> =
            to.index().packs()?.iter().map(|pack| (pack.name.id, (pack.name.object(), pack.len))).collect();
        for (pack, until) in std::mem::take(&mut self.locks) {
            let known = self.changes.packs.get(&pack).or_else(|| self.map.packs.get(&pack)).cloned();
            if known.as_ref().and_then(|placed| placed.locked_until).is_some_and(|there| there >= until) {
                continue;
            }
            let written = self.changes.packs.contains_key(&pack);
            let Some((name, len)) = names.get(&pack).cloned().or_else(|| self.fresh_name(&pack)) else {
                continue;
            };
            self.lock(&name, until)?;
            self.report.locks_extended += u64::from(!written);
            let placed = known.unwrap_or_else(|| Placed { since_ms: to.now_ms(), len, ..Placed::default() });
            self.changes.packs.insert(pack, Placed { locked_until: Some(until), ..placed });
        }
        Ok(())
    }

    /// Where chunks lie on the tier: not in packs that wait for their removal, if they lie elsewhere, too.
    fn preferred(&self, ids: &[ChunkId]) -> Result<Vec<Grounded>> {
        let to = self.to();
        let mut found = ground(&**to.index(), ids, &self.old)?;
        for look_everywhere in [true, false] {
            let left: Vec<ChunkId> =
                ids.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(id, _)| *id).collect();
            if left.is_empty() || self.old.is_empty() {
                break;
            }
            let more = match look_everywhere {
                true => ground_everywhere(to, &left, &self.old)?,
                false => ground(&**to.index(), &left, &HashSet::new())?,
            };
            let mut more = more.into_iter();
            for place in found.iter_mut().filter(|place| place.is_none()) {
                *place = more.next().flatten();
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// The object of a pack that this session wrote.
    pub(super) fn fresh_name(&self, pack: &PackId) -> Option<(String, u64)> {
        let placed = self.changes.packs.get(pack)?;
        Some((names::pack(&self.session, pack), placed.len))
    }

    pub(super) fn lock(&self, name: &str, until: u64) -> Result<()> {
        match self.to().storage().shelf() {
            Some(shelf) => Ok(shelf.lock(name, until).map_err(chunkstore::Error::from)?),
            None => Ok(()),
        }
    }
}
