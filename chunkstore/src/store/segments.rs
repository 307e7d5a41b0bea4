//! Segments of the index: read, written, and taken into the local index.

use super::{Access, ChunkStore, Synced, describe};
use crate::env::random_array;
use crate::format::{MAX_SEGMENT_LEN, ObjectKind, names};
use crate::head::{Outline, SegmentRef};
use crate::id::ObjectId;
use crate::index::Segment;
use crate::keys::KeyRing;
use crate::{Error, Result, envelope};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

impl ChunkStore {
    /// Brings the index up to HEAD as last read. Segments that are damaged or gone are left out and
    /// returned: what they list is missing until `repair index`, everything else can be read.
    pub fn sync_index(&self) -> Result<Vec<(ObjectId, String)>> {
        self.sync_index_with(&mut |_| None)
    }

    /// As [`ChunkStore::sync_index`]; `at_hand` gives segments that need not be fetched.
    pub(crate) fn sync_index_with(
        &self,
        at_hand: &mut dyn FnMut(&ObjectId) -> Option<Segment>,
    ) -> Result<Vec<(ObjectId, String)>> {
        let mut head = self.head();
        let outline = Outline::of(&head.segments);
        if let Some(synced) = &self.state().synced
            && synced.outline == outline
        {
            return Ok(synced.damaged.clone());
        }
        let (mut segments, mut damaged) = (head.segments.clone(), vec![]);
        loop {
            let mut bad = BTreeMap::new();
            self.index.sync(&segments, &mut |reference| {
                if let Some(segment) = at_hand(&reference.id) {
                    return Ok(Some(segment));
                }
                match self.load_segment(reference) {
                    Err(error) if error.is_damage() => {
                        bad.insert(reference.id, describe(&error));
                        Ok(None)
                    }
                    loaded => loaded.map(Some),
                }
            })?;
            if bad.is_empty() {
                break;
            }
            // A prune may have replaced one since HEAD was read: then that is the news, no damage.
            let fresh = self.reload()?;
            let listed: HashSet<ObjectId> = fresh.segment_ids()?.into_iter().collect();
            if bad.keys().all(|id| listed.contains(id)) {
                segments.retain(|segment| !bad.contains_key(&segment.id))?;
                damaged.extend(bad);
            } else {
                (segments, head) = (fresh.segments.clone(), fresh);
                damaged.clear();
            }
        }
        let synced = Synced { outline: Outline::of(&head.segments), damaged: damaged.clone() };
        self.state().synced = Some(Arc::new(synced));
        Ok(damaged)
    }

    /// Reads a segment and checks it against HEAD.
    pub fn load_segment(&self, reference: &SegmentRef) -> Result<Segment> {
        let name = names::segment(&reference.id);
        let sealed = self.access.storage.get(&name, MAX_SEGMENT_LEN)?;
        if *blake3::hash(&sealed).as_bytes() != reference.hash.0 {
            return Err(Error::corrupt(name, "is not the object that HEAD names"));
        }
        let plain = envelope::open(&self.keys, ObjectKind::Segment, &name, &sealed)?;
        let segment = Segment::decode(&plain).map_err(|error| Error::corrupt(&name, error))?;
        if segment.packs.len() != reference.packs as usize
            || segment.chunk_count() != reference.chunks as usize
        {
            return Err(Error::corrupt(name, "does not hold what HEAD says"));
        }
        Ok(segment)
    }

    /// As [`ChunkStore::load_segment`]; `None` if it cannot be read because HEAD, read again, no longer lists
    /// it: a prune replaced it.
    pub fn load_live_segment(&self, reference: &SegmentRef) -> Result<Option<Segment>> {
        match self.load_segment(reference) {
            Err(error) if error.is_damage() => {
                let live = self.reload()?.segments.find(|known| known.id == reference.id)?.is_some();
                if live { Err(error) } else { Ok(None) }
            }
            result => result.map(Some),
        }
    }

    /// Writes a segment. It counts for nothing until HEAD lists it.
    pub fn write_segment(&self, segment: &Segment) -> Result<SegmentRef> {
        write_segment(&self.access, &self.keys, self.epoch(), segment)
    }
}

pub(super) fn write_segment(
    access: &Access,
    keys: &KeyRing,
    epoch: u32,
    segment: &Segment,
) -> Result<SegmentRef> {
    let id = ObjectId(random_array(&*access.env)?);
    let name = names::segment(&id);
    let sealed = envelope::seal(keys, epoch, ObjectKind::Segment, &name, &segment.encode(), &*access.env)?;
    let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
    access.storage.put(&name, sealed.into())?;
    let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let (packs, chunks) = (count(segment.packs.len()), count(segment.chunk_count()));
    Ok(SegmentRef { id, hash, packs, chunks, epoch: oldest(segment, epoch) })
}

/// The lowest epoch of a segment that is sealed under `epoch`, and of the packs that it lists.
pub(super) fn oldest(segment: &Segment, epoch: u32) -> u32 {
    segment.packs.iter().map(|pack| pack.name.epoch).min().unwrap_or(epoch).min(epoch)
}
