//! Damaged packs: reconstructed from their parity, or else their readable chunks are stored again, and they are no
//! longer listed. From then on the next backup that has the lost chunks stores them again, instead of relying on the
//! pack.

use super::found::store_again;
use crate::prune::rewrite_segments;
use crate::verify::packs::{PackResult, mend, read_pack};
use crate::{Counter, Error, ItemError, Monitor, Repository, Result};
use chunkstore::bases::BaseReader;
use chunkstore::format::names;
use chunkstore::head::SegmentRef;
use chunkstore::index::{PackEntry, Segment};
use chunkstore::ingest::{Dedupe, Packer, PackerOptions, Sealing};
use chunkstore::storage::ErrorKind;
use chunkstore::store::{ChunkStore, LostPacks, describe};
use chunkstore::{ChunkId, PackId, SessionId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Choices for a repair of packs.
#[derive(Clone, Debug, Default)]
pub struct PacksOptions {
    /// Packs to repair; all if empty.
    pub packs: Vec<PackId>,
    /// Of all packs, read each, not only those that are missing or have another length.
    pub read_data: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Size of new packs.
    pub packer: PackerOptions,
}

/// The result of a repair of packs.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PacksReport {
    /// Packs that were read.
    pub packs_read: u64,
    /// Packs that are damaged or missing.
    pub packs_damaged: u64,
    /// Those of them that were reconstructed from their parity.
    pub packs_healed: u64,
    /// Those of them that are no longer listed.
    pub packs_dropped: u64,
    /// Chunks that were stored again.
    pub chunks_saved: u64,
    /// Chunks that could not be read, and that another pack has, too.
    pub chunks_elsewhere: u64,
    /// Chunks that could not be read, and that no other pack has.
    pub chunks_lost: u64,
    /// The damaged packs.
    pub damaged: Vec<PackId>,
}

/// Looks for damaged packs and repairs them. See the module.
pub fn repair_packs(repo: &Repository, options: &PacksOptions, monitor: &dyn Monitor) -> Result<PacksReport> {
    let store = repo.store();
    let mut report = PacksReport::default();
    let head = store.reload()?;
    if let Some((segment, why)) = store.sync_index()?.first() {
        return Err(Error::Refused(format!(
            "index/{segment} is damaged ({why}); run 'esker repair index' first"
        )));
    }
    let mut segments: Vec<(SegmentRef, Segment)> = vec![];
    for reference in head.segments.iter()? {
        segments.push((reference.clone(), store.load_segment(reference)?));
    }
    let doomed: HashSet<PackId> = head.doomed.iter()?.map(|pack| pack.id).collect();
    let live = segments.iter().flat_map(|(_, segment)| &segment.packs);
    let live: Vec<&PackEntry> = live.filter(|pack| !doomed.contains(&pack.name.id)).collect();
    let candidates = candidates(store, &live, options)?;
    monitor.count(Counter::FilesTotal, candidates.len() as u64);
    let mut damaged = vec![];
    for pack in candidates {
        report.packs_read += 1;
        if let Some((error, _)) = look(store, pack)? {
            let (item, message) = (pack.name.object(), describe(&error));
            monitor.error(ItemError { during: "repair", item, message });
            damaged.push(pack);
        }
        monitor.count(Counter::FilesDone, 1);
        monitor.count(Counter::BytesDone, pack.len);
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    report.packs_damaged = damaged.len() as u64;
    report.damaged = damaged.iter().map(|pack| pack.name.id).collect();
    let mut lost = vec![];
    for pack in damaged {
        match mend(store, pack, options.dry_run)? {
            Some(_) => report.packs_healed += 1,
            None => lost.push(pack),
        }
    }
    // What stood on something that is whole again is whole again, too.
    let mut drop: Vec<(&PackEntry, HashSet<ChunkId>)> = vec![];
    for pack in lost {
        if let Some((_, bad)) = look(store, pack)? {
            drop.push((pack, bad));
        }
    }
    report.packs_dropped = drop.len() as u64;
    let unread: u64 = drop.iter().map(|(_, bad)| bad.len() as u64).sum();
    let all: u64 = drop.iter().map(|(pack, _)| pack.records.len() as u64).sum();
    report.chunks_saved = all - unread.min(all);
    report.chunks_lost = lost_chunks(&live, &drop).len() as u64;
    report.chunks_elsewhere = unread - report.chunks_lost.min(unread);
    if !options.dry_run && !drop.is_empty() {
        let session = store.open_session("repair")?;
        let done = replace(store, &session, &segments, &drop, options.packer);
        // A swap that took effect has closed it.
        let closed = store.close_session(&session, &[]);
        done?;
        closed?;
        store.sync_index()?;
    }
    Ok(report)
}

/// The unreadable chunks of packs that are dropped, as far as no other pack has them: a backup may have stored them again.
fn lost_chunks(live: &[&PackEntry], drop: &[(&PackEntry, HashSet<ChunkId>)]) -> HashSet<ChunkId> {
    let dropped: HashSet<PackId> = drop.iter().map(|(pack, _)| pack.name.id).collect();
    let mut lost: HashSet<ChunkId> = drop.iter().flat_map(|(_, bad)| bad).copied().collect();
    for (pack, bad) in drop {
        pack.records.iter().filter(|record| !bad.contains(&record.id)).for_each(|record| {
            lost.remove(&record.id);
        });
    }
    for pack in live.iter().filter(|pack| !dropped.contains(&pack.name.id)) {
        pack.records.iter().for_each(|record| {
            lost.remove(&record.id);
        });
    }
    lost
}

/// The error of a pack, and which chunks of it cannot be read; none if it is sound. Reads twice, since this repair is
/// final: damage in transit is gone the second time, and a failing store is an error.
fn look(store: &ChunkStore, pack: &PackEntry) -> Result<Option<(chunkstore::Error, HashSet<ChunkId>)>> {
    let mut found: Option<(chunkstore::Error, HashSet<ChunkId>)> = None;
    for _ in 0..2 {
        let PackResult { outcome, bad, .. } = read_pack(store, pack, &BaseReader::default());
        match outcome {
            Ok(()) => return Ok(None),
            Err(error) if !error.is_damage() => return Err(error.into()),
            Err(error) => {
                let both = |(_, before): (_, HashSet<ChunkId>)| {
                    bad.iter().copied().filter(|chunk| before.contains(chunk)).collect()
                };
                let bad = found.map_or_else(|| bad.iter().copied().collect(), both);
                found = Some((error, bad));
            }
        }
    }
    Ok(found)
}

/// The packs to be read.
fn candidates<'a>(
    store: &ChunkStore,
    live: &[&'a PackEntry],
    options: &PacksOptions,
) -> Result<Vec<&'a PackEntry>> {
    if !options.packs.is_empty() {
        let known: HashMap<PackId, &PackEntry> = live.iter().map(|pack| (pack.name.id, *pack)).collect();
        let find = |id: &PackId| {
            known.get(id).copied().ok_or_else(|| Error::Invalid(format!("no pack {id} is in the index")))
        };
        return options.packs.iter().map(find).collect();
    }
    if options.read_data {
        return Ok(live.to_vec());
    }
    let mut lengths = HashMap::new();
    let list = store.storage().list(names::PACKS, &mut |name, len| {
        lengths.insert(name.to_owned(), len);
    });
    list.map_err(chunkstore::Error::from)?;
    let mut doubtful = vec![];
    for pack in live {
        let name = pack.name.object();
        let len = match lengths.get(&name) {
            Some(len) => Some(*len),
            None => match store.storage().len(&name) {
                Ok(len) => Some(len),
                Err(error) if error.kind == ErrorKind::NotFound => None,
                Err(error) => return Err(chunkstore::Error::from(error).into()),
            },
        };
        if len != Some(pack.len) {
            doubtful.push(*pack);
        }
    }
    Ok(doubtful)
}

/// Stores the sound chunks of damaged packs again, and removes the packs from the index, in one swap. A pack's object
/// stays until the next prune finds it unnamed.
fn replace(
    store: &Arc<ChunkStore>,
    session: &SessionId,
    segments: &[(SegmentRef, Segment)],
    damaged: &[(&PackEntry, HashSet<ChunkId>)],
    packer: PackerOptions,
) -> Result<()> {
    let dedupe = Dedupe::new(Arc::clone(store), Sealing::default(), &LostPacks::none())?;
    let mut packer = Packer::new(&dedupe, *session, packer)?;
    for (pack, bad) in damaged {
        let mut sound = pack.records.iter().filter(|record| !bad.contains(&record.id)).peekable();
        if sound.peek().is_some() {
            store_again(store, &mut packer, &pack.name, sound)?;
        }
    }
    let fresh = packer.flush()?;
    let gone: HashSet<PackId> = damaged.iter().map(|(pack, _)| pack.name.id).collect();
    unlist(store, session, segments, &gone, &fresh)
}

/// Takes packs out of the index and lists `fresh` segments, in one swap, which closes the session. `segments` are all that
/// there are.
pub(super) fn unlist(
    store: &Arc<ChunkStore>,
    session: &SessionId,
    segments: &[(SegmentRef, Segment)],
    gone: &HashSet<PackId>,
    fresh: &[SegmentRef],
) -> Result<()> {
    let replaced = rewrite_segments(store, segments, gone)?;
    store.update_head(|head| {
        let live: HashSet<_> = head.segment_ids()?.into_iter().collect();
        if !head.is_open(session)? || !replaced.iter().all(|(old, _)| live.contains(old)) {
            let why = "a prune changed the index during the repair; run it again".into();
            return Err(chunkstore::Error::Fenced { why });
        }
        for (old, new) in &replaced {
            head.segments.retain(|segment| segment.id != *old)?;
            head.segments.extend(new.clone());
        }
        head.segments.extend(fresh.iter().cloned());
        head.condemned.retain(|pack| !gone.contains(&pack.id))?;
        head.sessions.retain(|known| known.id != *session)?;
        Ok(())
    })?;
    for (old, _) in &replaced {
        store.storage().delete(&names::segment(old)).map_err(chunkstore::Error::from)?;
    }
    Ok(())
}
