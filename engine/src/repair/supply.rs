//! Packs that no other tier has as they are, since a tier sealed them itself, or since what is needed of a pack was sealed
//! anew elsewhere. Their chunks lie in other packs there: they are read from those, sealed anew here, and the packs that
//! were lost are no longer listed.

use super::found::store_again;
use super::packs::unlist;
use crate::reach::for_each_chunk;
use crate::reseal::{Wanted, reseal};
use crate::snapshot::Listed;
use crate::{Error, Monitor, Repository, Result};
use chunkstore::bases::find_everywhere;
use chunkstore::head::SegmentRef;
use chunkstore::index::{PackEntry, Segment};
use chunkstore::ingest::{ChunkRef, Dedupe, Packer, PackerOptions, Sealing};
use chunkstore::store::{ChunkStore, LostPacks};
use chunkstore::{ChunkId, PackId, SessionId};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// A pack that is damaged or gone, with the chunks of it that cannot be read.
pub(crate) type Broken = (PackEntry, HashSet<ChunkId>);

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Supplied {
    /// Chunks that were read elsewhere.
    pub(crate) chunks: u64,
    /// Packs that are no longer listed: all that was needed of them lies in others.
    pub(crate) packs: HashSet<PackId>,
}

/// Reads what is lost of `broken` packs from `others`, other tiers of the same repository, and takes those packs off the
/// index of which nothing is lacking then.
pub(crate) fn supply(
    repo: &Repository,
    others: &[Arc<ChunkStore>],
    broken: &[Broken],
    monitor: &dyn Monitor,
) -> Result<Supplied> {
    let store = repo.store();
    let mut supplied = Supplied::default();
    let gone: HashSet<PackId> = broken.iter().map(|(pack, _)| pack.name.id).collect();
    let mut lacking = Lacking::of(store, broken, &gone)?;
    let session = store.open_session("repair")?;
    let done = (|| -> Result<()> {
        let sealing = Sealing { delta: false, ..Sealing::default() };
        let dedupe = Dedupe::new(Arc::clone(store), sealing, &LostPacks::none())?;
        // No checkpoint: the swap below is the only one.
        let options = PackerOptions { checkpoint_len: u64::MAX, ..PackerOptions::default() };
        let mut packer = Packer::new(&dedupe, session, options)?;
        for (pack, bad) in broken {
            let mut sound = pack.records.iter().filter(|record| !bad.contains(&record.id)).peekable();
            if sound.peek().is_some() {
                store_again(store, &mut packer, &pack.name, sound)?;
            }
        }
        for other in others {
            if lacking.chunks.is_empty() {
                break;
            }
            other.reload()?;
            other.sync_index()?;
            supplied.chunks += lacking.read_from(other, &dedupe, &mut packer, monitor)?;
        }
        let fresh = packer.flush()?;
        supplied.packs = lacking.whole(broken);
        list(store, &session, &supplied.packs, &fresh)
    })();
    // A swap that took effect has closed it.
    let closed = store.close_session(&session, &[]);
    done?;
    closed?;
    store.sync_index()?;
    if !lacking.chunks.is_empty() && lacking.is_needless(repo, &gone)? {
        let session = store.open_session("repair")?;
        let done = list(store, &session, &gone, &[]);
        let closed = store.close_session(&session, &[]);
        done?;
        closed?;
        store.sync_index()?;
        supplied.packs = gone;
    }
    Ok(supplied)
}

/// Lists new segments, and takes packs off the index, in one swap.
fn list(
    store: &Arc<ChunkStore>,
    session: &SessionId,
    gone: &HashSet<PackId>,
    fresh: &[SegmentRef],
) -> Result<()> {
    let head = store.reload()?;
    let mut segments: Vec<(SegmentRef, Segment)> = vec![];
    for reference in head.segments.iter()? {
        segments.push((reference.clone(), store.load_segment(reference)?));
    }
    unlist(store, session, &segments, gone, fresh)
}

/// Chunks that are nowhere on this tier.
struct Lacking {
    chunks: BTreeMap<ChunkId, Wanted>,
}

impl Lacking {
    fn of(store: &ChunkStore, broken: &[Broken], gone: &HashSet<PackId>) -> Result<Self> {
        let bad: HashSet<ChunkId> = broken.iter().flat_map(|(_, bad)| bad).copied().collect();
        let ids: Vec<ChunkId> = bad.iter().copied().collect();
        let there: HashSet<ChunkId> =
            find_everywhere(store, &ids, gone)?.into_values().map(|location| location.record.id).collect();
        let mut chunks = BTreeMap::new();
        for (pack, _) in broken {
            for record in pack.records.iter().filter(|record| bad.contains(&record.id)) {
                if !there.contains(&record.id) {
                    let chunk = ChunkRef { id: record.id, len: record.plain_len };
                    let (anchor, kind) = (record.anchor, pack.name.kind);
                    chunks.insert(record.id, Wanted { chunk, anchor, kind });
                }
            }
        }
        Ok(Self { chunks })
    }

    /// Stores what another tier has, and returns how many chunks that were.
    fn read_from(
        &mut self,
        other: &Arc<ChunkStore>,
        dedupe: &Dedupe,
        packer: &mut Packer,
        monitor: &dyn Monitor,
    ) -> Result<u64> {
        let before = self.chunks.len();
        let wanted: Vec<Wanted> = self.chunks.values().copied().collect();
        // What cannot be read there, another one may have.
        let mut found =
            |id: ChunkId, read: chunkstore::Result<()>| Ok(read.is_ok() && self.chunks.remove(&id).is_some());
        reseal(other, &wanted, dedupe, packer, monitor, &mut found)?;
        Ok((before - self.chunks.len()) as u64)
    }

    /// The packs of which nothing is lacking.
    fn whole(&self, broken: &[Broken]) -> HashSet<PackId> {
        let whole = broken.iter().filter(|(_, bad)| !bad.iter().any(|id| self.chunks.contains_key(id)));
        whole.map(|(pack, _)| pack.name.id).collect()
    }

    /// Whether no snapshot here needs what could be read nowhere, and no other pack stands on it.
    fn is_needless(&self, repo: &Repository, gone: &HashSet<PackId>) -> Result<bool> {
        let store = repo.store();
        for reference in store.head().segments.iter()? {
            for pack in
                store.load_segment(reference)?.packs.iter().filter(|pack| !gone.contains(&pack.name.id))
            {
                if pack
                    .records
                    .iter()
                    .flat_map(|record| &record.bases)
                    .any(|base| self.chunks.contains_key(base))
                {
                    return Ok(false);
                }
            }
        }
        for root in repo.snapshot_roots()? {
            let snapshot = match repo.read_snapshot(&root) {
                Ok(snapshot) => snapshot,
                Err(Error::Store(error)) if !error.is_damage() => return Err(error.into()),
                Err(_) => return Ok(false),
            };
            let mut needed = false;
            let walked = for_each_chunk(store, &Listed { id: root.id, snapshot }, &mut |chunk| {
                needed |= self.chunks.contains_key(&chunk.id);
            });
            match walked {
                Ok(()) if !needed => {}
                Err(Error::Store(error)) if !error.is_damage() => return Err(error.into()),
                _ => return Ok(false),
            }
        }
        Ok(true)
    }
}
