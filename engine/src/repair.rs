//! Repairs of the index add and never remove. The index is rebuilt from packs that were read; for packs that cannot be
//! read now, the entries of readable segments stay; only missing packs are no longer listed.

use crate::prune::orphans::dead_sessions;
use crate::{Error, ItemError, Monitor, Repository, Result};
use chunkstore::format::names;
use chunkstore::head::{Head, SegmentRef};
use chunkstore::index::{PackEntry, Segment};
use chunkstore::ingest::{Dedupe, Packer, PackerOptions, Sealing};
use chunkstore::storage::ErrorKind;
use chunkstore::store::{ChunkStore, LostPacks, describe};
use chunkstore::{ObjectId, PackId, SessionId};
use found::{News, store_again};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

mod found;
mod packs;
mod snapshots;
pub(crate) mod supply;
pub use packs::{PacksOptions, PacksReport, repair_packs};
pub use snapshots::{Repaired, SnapshotsOptions, SnapshotsReport, repair_snapshots};

/// What `repair index` did, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RepairReport {
    /// Segments that could not be read and are replaced.
    pub segments_lost: u64,
    /// Segments that are fine and stay.
    pub segments_kept: u64,
    /// Packs that were read completely and are listed again.
    pub packs_read: u64,
    /// Packs that could not be read, or only in part, or are missing.
    pub packs_damaged: u64,
    /// Packs that were reconstructed from their parity.
    pub packs_healed: u64,
    /// Packs that exist, could not be read completely, and stay listed as in a readable segment.
    pub packs_kept: u64,
    /// Chunks that are listed again.
    pub chunks_found: u64,
    /// Chunks of packs that are not listed, which were stored again.
    pub chunks_saved: u64,
    /// Chunks of packs that are not listed, which could not be read and have no other location.
    pub chunks_lost: u64,
}

/// A prune of another machine that was silent for so long is taken for dead, in milliseconds: a week.
const GIVEN_UP_MS: u64 = 168 * 3_600_000;

/// Reads every pack that no readable segment lists, and lists it if it is sound, or can be reconstructed from parity;
/// the readable chunks of others are stored again. With `read_all`, every pack of the repository is read, and all
/// segments are replaced.
pub fn repair_index(
    repo: &Repository,
    read_all: bool,
    dry_run: bool,
    monitor: &dyn Monitor,
) -> Result<RepairReport> {
    let store = repo.store();
    if dry_run {
        return list_anew(repo, None, read_all, monitor);
    }
    // Before anything is looked at: a prune leaves packs that HEAD does not name as long as a repair is at work.
    let session = store.open_session("repair")?;
    let done = nobody_prunes(store).and_then(|()| list_anew(repo, Some(&session), read_all, monitor));
    // A swap that took effect has closed it.
    let closed = store.close_session(&session, &[]);
    let report = done?;
    closed?;
    store.sync_index()?;
    Ok(report)
}

/// Refuses to run beside a prune that began before: it may be about to remove, as orphans, the packs that would be
/// listed.
fn nobody_prunes(store: &ChunkStore) -> Result<()> {
    let head = store.reload()?;
    let dead = dead_sessions(&head, &store.access.identity, store.now_ms(), GIVEN_UP_MS)?;
    match head
        .sessions
        .iter()?
        .find(|session| session.purpose == "prune" && !session.fenced && !dead.contains(&session.id))
    {
        None => Ok(()),
        Some(prune) => Err(Error::Refused(format!(
            "a prune by process {} on {} is at work, and may remove packs that this would list: run it again when that is \
             done. If that machine is gone, its prune is given up after a week",
            prune.pid, prune.hostname
        ))),
    }
}

/// The repair itself; without a session, only its report.
fn list_anew(
    repo: &Repository,
    session: Option<&SessionId>,
    read_all: bool,
    monitor: &dyn Monitor,
) -> Result<RepairReport> {
    let (store, dry_run) = (repo.store(), session.is_none());
    let head = store.reload()?;
    let mut report = RepairReport::default();
    let (mut known, mut replaced) = (HashSet::new(), vec![]);
    // What is to be read again, as it was listed so far.
    let mut listed: BTreeMap<PackId, PackEntry> = BTreeMap::new();
    for reference in head.segments.iter()? {
        match readable(store, reference, monitor)? {
            Some(segment) if read_all => {
                replaced.push(reference.id);
                listed.extend(segment.packs.into_iter().map(|pack| (pack.name.id, pack)));
            }
            Some(segment) => {
                report.segments_kept += 1;
                known.extend(segment.packs.iter().map(|pack| pack.name.id));
            }
            None => {
                report.segments_lost += 1;
                replaced.push(reference.id);
            }
        }
    }
    let skip: HashSet<PackId> = head.doomed.iter()?.map(|pack| pack.id).collect();
    let mut unlisted = vec![];
    store
        .storage()
        .list(names::PACKS, &mut |name, _| {
            let mut parts = name.split('/').skip(1);
            let ids = (parts.next().and_then(SessionId::parse), parts.next().and_then(PackId::parse));
            let (Some(session), Some(pack)) = ids else { return };
            if !known.contains(&pack) && !skip.contains(&pack) {
                unlisted.push((session, pack));
            }
        })
        .map_err(chunkstore::Error::from)?;
    let mut news = News::default();
    news.read(store, unlisted, dry_run, monitor)?;
    report.packs_read = news.found.packs.len() as u64;
    report.packs_damaged = news.unreadable + news.partly.len() as u64;
    report.packs_healed = news.mended;
    report.chunks_found = news.found.chunk_count() as u64;
    // What was listed and can be read in part stays listed as it was: 'repair packs' gives up, this does not.
    news.partly.retain(|(entry, _)| !listed.contains_key(&entry.name.id));
    news.found.packs.iter().for_each(|entry| drop(listed.remove(&entry.name.id)));
    listed.retain(|pack, _| !skip.contains(pack));
    // A listing may leave things out; whoever asks for an object by its name is told whether it is there.
    for (pack, entry) in std::mem::take(&mut listed) {
        match store.storage().len(&entry.name.object()) {
            Err(error) if error.kind == ErrorKind::NotFound => {
                let (item, message) = (entry.name.object(), describe(&error));
                report.packs_damaged += 1;
                monitor.error(ItemError { during: "repair", item, message });
            }
            Err(error) => return Err(chunkstore::Error::from(error).into()),
            Ok(_) => drop(listed.insert(pack, entry)),
        }
    }
    report.packs_kept = listed.len() as u64;
    news.found.packs.extend(listed.into_values());
    let kept: Vec<SegmentRef> =
        head.segments.iter()?.filter(|segment| !replaced.contains(&segment.id)).cloned().collect();
    report.chunks_lost = news.leave_what_is_elsewhere(store, &kept)?;
    report.chunks_saved = news.partly.iter().map(|(_, sound)| sound.len() as u64).sum();
    if let Some(session) = session
        && !(replaced.is_empty() && news.found.packs.is_empty() && report.chunks_saved == 0)
    {
        list(store, session, &head, &replaced, &news)?;
    }
    Ok(report)
}

/// Stores the readable chunks of packs again that cannot be listed, and lists the others, in one swap.
fn list(
    store: &Arc<ChunkStore>,
    session: &SessionId,
    head: &Head,
    replaced: &[ObjectId],
    news: &News,
) -> Result<()> {
    let dedupe = Dedupe::new(Arc::clone(store), Sealing::default(), &LostPacks::none())?;
    // No checkpoint: this swap is the only one.
    let options = PackerOptions { checkpoint_len: u64::MAX, ..PackerOptions::default() };
    let mut packer = Packer::new(&dedupe, *session, options)?;
    for (entry, sound) in news.partly.iter().filter(|(_, sound)| !sound.is_empty()) {
        store_again(store, &mut packer, &entry.name, sound.iter())?;
    }
    let mut fresh = packer.flush()?;
    if !news.found.packs.is_empty() {
        fresh.push(store.write_segment(&news.found)?);
    }
    let before = head.segment_ids()?;
    store.update_head(|head| {
        // What was found in the store may have been removed meanwhile, and must not be listed again.
        if !head.is_open(session)? || head.segment_ids()? != before {
            return Err(chunkstore::Error::Fenced {
                why: "HEAD changed during the repair; run it again".into(),
            });
        }
        head.segments.retain(|segment| !replaced.contains(&segment.id))?;
        head.segments.extend(fresh.iter().cloned());
        head.sessions.retain(|known| known.id != *session)?;
        Ok(())
    })?;
    Ok(())
}

fn readable(store: &ChunkStore, reference: &SegmentRef, monitor: &dyn Monitor) -> Result<Option<Segment>> {
    match twice(|| store.load_segment(reference)) {
        Ok(segment) => Ok(Some(segment)),
        Err(error) if error.is_damage() => {
            let item = names::segment(&ObjectId(reference.id.0));
            monitor.error(ItemError { during: "repair", item, message: describe(&error) });
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Repeats a failed read: damage in transit, unlike that in the store, is gone the second time.
fn twice<T>(read: impl Fn() -> chunkstore::Result<T>) -> chunkstore::Result<T> {
    read().or_else(|error| if error.is_damage() { read() } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Tally;

    /// What a prune is about to remove is not listed: whichever of the two opens its session first, the other sees it.
    #[test]
    fn an_index_is_not_made_beside_a_prune() {
        let repo = crate::repository::in_memory();
        let prune = repo.store().open_session("prune").unwrap();
        let refused = repair_index(&repo, false, false, &Tally::default()).unwrap_err();
        assert!(refused.to_string().contains("a prune by process"), "{refused}");
        // It leaves no session of its own, and a look is free.
        assert_eq!(repo.store().reload().unwrap().sessions.len(), 1);
        repair_index(&repo, false, true, &Tally::default()).unwrap();
        repo.store().close_session(&prune, &[]).unwrap();
        repair_index(&repo, false, false, &Tally::default()).unwrap();
        assert!(repo.store().reload().unwrap().sessions.is_empty());
    }
}
