//! What a tier lacks: chunks, by the packs of the primary that have them, and which of those go whole.

use super::Sync;
use crate::reach::{for_each_further_chunk, short};
use crate::reseal::Wanted;
use crate::snapshot::Listed;
use crate::{Error, Result};
use chunkstore::bases::{ground, ground_everywhere};
use chunkstore::format::{PackKind, names};
use chunkstore::index::PackEntry;
use chunkstore::ingest::ChunkRef;
use chunkstore::{ChunkId, PackId};
use std::collections::HashSet;

/// A pack is copied whole to a frozen tier if at least this share of it is needed there: the rest would be paid
/// for, and could never be repacked away.
const FROZEN_SHARE: f64 = 0.5;
/// To others if at least this share is: what is sealed anew stands on its own, and is larger for it.
const COPY_SHARE: f64 = 0.25;
/// Ids looked up at a time.
pub(super) const LOOKUP: usize = 1024;

impl Sync<'_> {
    /// Finds out what a snapshot needs that is not on the tier yet.
    pub(super) fn gather(&mut self, listed: &Listed, until: u64) -> Result<()> {
        let mut batch: Vec<ChunkId> = vec![];
        let mut outcome = Ok(());
        let from = self.from();
        // Taken out for as long as the visit changes what else is known.
        let mut lists = std::mem::take(&mut self.lists);
        let visited = for_each_further_chunk(from, listed, &mut lists, &mut |chunk| {
            if outcome.is_ok() && self.visited.insert(short(&chunk.id)) {
                batch.push(chunk.id);
                if batch.len() >= LOOKUP {
                    outcome = self.resolve(&std::mem::take(&mut batch), until, u8::MAX);
                }
            }
        });
        self.lists = lists;
        visited.and(outcome)?;
        self.resolve(&batch, until, u8::MAX)?;
        if self.monitor.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Where chunks are: on the tier, with a location of less than `depth`, or in packs of the primary.
    pub(super) fn resolve(&mut self, ids: &[ChunkId], until: u64, depth: u8) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut lacking = vec![];
        let on_tier = ground(&**self.to().index(), ids, &self.avoided())?;
        for (id, grounded) in ids.iter().zip(on_tier) {
            match grounded {
                Some(grounded) if grounded.location.record.depth < depth => {
                    for pack in grounded.packs {
                        let there = self.locks.entry(pack).or_default();
                        *there = until.max(*there);
                    }
                }
                _ => lacking.push(*id),
            }
        }
        let mut found = ground(&**self.from().index(), &lacking, &self.lost_from)?;
        let mut missing: Vec<ChunkId> =
            lacking.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(id, _)| *id).collect();
        // What the index says may be on its way out, or lost; a pack that the primary lost may be had from a copy.
        let none = HashSet::new();
        for avoid in [&self.lost_from, &none] {
            let elsewhere = ground_everywhere(self.from(), &missing, avoid)?;
            missing = missing
                .into_iter()
                .zip(&elsewhere)
                .filter(|(_, found)| found.is_none())
                .map(|(id, _)| id)
                .collect();
            found.extend(elsewhere);
            if missing.is_empty() {
                break;
            }
        }
        if let Some(id) = missing.first() {
            return Err(chunkstore::Error::MissingChunk { id: *id }.into());
        }
        for grounded in found.into_iter().flatten() {
            let record = &grounded.location.record;
            let need = self.needs.entry(grounded.location.pack.name.id).or_default();
            if need.chunks.insert(record.ordinal) {
                need.bytes += u64::from(record.stored_len);
            }
            need.until = need.until.max(until);
        }
        Ok(())
    }

    /// Whether so much of a pack is needed that all of it is copied. Metadata stays readable and is small.
    pub(super) fn goes_whole(&self, entry: &PackEntry) -> Option<u64> {
        let need = self.needs.get(&entry.name.id)?;
        let share = match entry.name.kind {
            PackKind::Data if self.tier.frozen => FROZEN_SHARE,
            _ => COPY_SHARE,
        };
        (need.bytes as f64 >= share * entry.len as f64).then_some(need.until)
    }

    /// Every segment of the primary, one at a time.
    pub(super) fn for_each_entry(&self, each: &mut dyn FnMut(PackEntry) -> Result<()>) -> Result<()> {
        for reference in self.from().head().segments.iter()? {
            let Some(segment) = self.from().load_live_segment(reference)? else {
                let why = format!("index segment {} was replaced", reference.id.short());
                return Err(chunkstore::Error::corrupt(names::segment(&reference.id), why).into());
            };
            for entry in segment.packs {
                each(entry)?;
            }
        }
        Ok(())
    }

    /// What goes whole needs what it stands on there, too.
    pub(super) fn close_under_bases(&mut self) -> Result<()> {
        loop {
            let mut open: Vec<(ChunkId, u64, u8)> = vec![];
            self.for_each_entry(&mut |entry| {
                let (Some(_), Some(need)) = (self.goes_whole(&entry), self.needs.get(&entry.name.id)) else {
                    return Ok(());
                };
                let needed = need.chunks.iter().filter_map(|ordinal| entry.records.get(*ordinal as usize));
                for record in needed.filter(|record| record.is_delta()) {
                    open.extend(record.bases.iter().map(|base| (*base, need.until, record.depth)));
                }
                Ok(())
            })?;
            open.retain(|(id, _, _)| self.visited.insert(short(id)));
            if open.is_empty() {
                return Ok(());
            }
            for (id, until, depth) in open {
                self.resolve(&[id], until, depth)?;
            }
        }
    }

    /// The packs that are copied whole, with until when they are needed.
    pub(super) fn whole_packs(&self) -> Result<Vec<(PackEntry, u64)>> {
        let mut there: HashSet<PackId> = self.to().index().packs()?.iter().map(|pack| pack.name.id).collect();
        let lost = self.lost.ids();
        there.retain(|pack| !lost.contains(pack));
        let mut entries = vec![];
        let mut seen = HashSet::new();
        self.for_each_entry(&mut |entry| {
            if let Some(until) = self.goes_whole(&entry)
                && !there.contains(&entry.name.id)
                && seen.insert(entry.name.id)
            {
                entries.push((entry, until));
            }
            Ok(())
        })?;
        Ok(entries)
    }

    /// Chunks without a location on the tier that counts, in the order in which they lie in the primary.
    pub(super) fn lacking(&self) -> Result<Vec<Wanted>> {
        let mut lacking = vec![];
        let mut ids: Vec<ChunkId> = vec![];
        self.for_each_entry(&mut |entry| {
            if let Some(need) = self.needs.get(&entry.name.id) {
                let needed = need.chunks.iter().filter_map(|ordinal| entry.records.get(*ordinal as usize));
                for record in needed {
                    ids.push(record.id);
                    let chunk = ChunkRef { id: record.id, len: record.plain_len };
                    lacking.push(Wanted { chunk, anchor: record.anchor, kind: entry.name.kind });
                }
            }
            Ok(())
        })?;
        let (to, avoid) = (self.to(), self.avoided());
        let mut counts = Vec::with_capacity(ids.len());
        for ids in ids.chunks(LOOKUP) {
            let found = ground(&**to.index(), ids, &avoid)?;
            counts.extend(found.into_iter().map(|found| found.is_some()));
        }
        let lost: Vec<ChunkId> =
            ids.iter().zip(&counts).filter(|(_, counts)| !**counts).map(|(id, _)| *id).collect();
        let elsewhere = ground_everywhere(to, &lost, &avoid)?;
        let still: HashSet<ChunkId> =
            lost.into_iter().zip(elsewhere).filter(|(_, found)| found.is_none()).map(|(id, _)| id).collect();
        let mut once = HashSet::new();
        lacking.retain(|one| still.contains(&one.chunk.id) && once.insert(one.chunk.id));
        Ok(lacking)
    }
}
