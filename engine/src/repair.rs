//! Repairs add and never take away. The index is made anew from what the packs themselves say; of packs that cannot
//! be read now, what readable segments say stays; only what is gone is no longer listed.

use crate::{ItemError, Monitor, Repository, Result};
use chunkstore::format::{PACK_HEADER_LEN, PACK_TRAILER_LEN, names};
use chunkstore::head::SegmentRef;
use chunkstore::index::{PackEntry, Segment};
use chunkstore::pack::{PackReader, read_header};
use chunkstore::storage::ErrorKind;
use chunkstore::store::{ChunkStore, describe};
use chunkstore::{ObjectId, PackId, SessionId};
use std::collections::{BTreeMap, HashSet};

mod packs;
mod snapshots;
pub use packs::{PacksOptions, PacksReport, repair_packs};
pub use snapshots::{Repaired, SnapshotsOptions, SnapshotsReport, repair_snapshots};

/// What `repair index` did, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RepairReport {
    /// Segments that could not be read and are replaced.
    pub segments_lost: u64,
    /// Segments that are fine and stay.
    pub segments_kept: u64,
    /// Packs whose directories were read.
    pub packs_read: u64,
    /// Packs that could not be read, or are gone.
    pub packs_damaged: u64,
    /// Packs that are there, could not be read, and stay listed as a readable segment had them.
    pub packs_kept: u64,
    /// Chunks that are listed again.
    pub chunks_found: u64,
}

/// Reads the directory of every pack that no readable segment lists, and lists it anew. With
/// `read_all`, every pack of the repository is read, and all segments are replaced.
pub fn repair_index(
    repo: &Repository,
    read_all: bool,
    dry_run: bool,
    monitor: &dyn Monitor,
) -> Result<RepairReport> {
    let store = repo.store();
    let head = store.reload()?;
    let mut report = RepairReport::default();
    let (mut known, mut replaced) = (HashSet::new(), vec![]);
    // What is to be read again, as it was listed so far.
    let mut listed: BTreeMap<PackId, PackEntry> = BTreeMap::new();
    for reference in &head.segments {
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
    let skip: HashSet<PackId> = head.doomed.iter().map(|pack| pack.id).collect();
    let mut found = Segment::default();
    let mut objects = vec![];
    store
        .storage()
        .list(names::PACKS, &mut |name, len| objects.push((name.to_owned(), len)))
        .map_err(chunkstore::Error::from)?;
    for (name, len) in objects {
        let mut parts = name.split('/').skip(1);
        let ids = (parts.next().and_then(SessionId::parse), parts.next().and_then(PackId::parse));
        let (Some(session), Some(pack)) = ids else { continue };
        if known.contains(&pack) || skip.contains(&pack) {
            continue;
        }
        match twice(|| read_directory(store, session, pack, len)) {
            Ok(entry) => {
                report.packs_read += 1;
                report.chunks_found += entry.records.len() as u64;
                listed.remove(&pack);
                found.packs.push(entry);
            }
            Err(error) if !(error.is_damage() || matches!(error, chunkstore::Error::Unsupported { .. })) => {
                return Err(error.into());
            }
            Err(error) => {
                report.packs_damaged += 1;
                monitor.error(ItemError { during: "repair", item: name, message: describe(&error) });
            }
        }
    }
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
    found.packs.extend(listed.into_values());
    if dry_run || (replaced.is_empty() && found.packs.is_empty()) {
        return Ok(report);
    }
    let session = store.open_session("repair")?;
    let fresh = match found.packs.is_empty() {
        true => None,
        false => Some(store.write_segment(&found)?),
    };
    let before = head.segment_ids();
    store.update_head(|head| {
        // What was found in the store may have been removed meanwhile, and must not be listed again.
        if !head.is_open(&session) || head.segment_ids() != before {
            return Err(chunkstore::Error::Fenced {
                why: "HEAD changed during the repair; run it again".into(),
            });
        }
        head.segments.retain(|segment| !replaced.contains(&segment.id));
        head.segments.extend(fresh.clone());
        head.sessions.retain(|known| known.id != session);
        Ok(())
    })?;
    store.sync_index()?;
    Ok(report)
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

/// Tries again what cannot be read: damage on the way, unlike that in the store, is gone the second time.
fn twice<T>(read: impl Fn() -> chunkstore::Result<T>) -> chunkstore::Result<T> {
    read().or_else(|error| if error.is_damage() { read() } else { Err(error) })
}

/// Reads what a pack says about itself: its header, and its directory in one range at the end.
fn read_directory(
    store: &ChunkStore,
    session: SessionId,
    pack: PackId,
    len: u64,
) -> chunkstore::Result<PackEntry> {
    let object = names::pack(&session, &pack);
    let storage = store.storage();
    let short = || chunkstore::Error::corrupt(&object, "shorter than a pack can be");
    let header = storage.get_range(&object, 0, (PACK_HEADER_LEN as u64).min(len))?;
    let name = read_header(session, pack, &header)?;
    let reader = PackReader::new(name, store.keys())?;
    reader.check_header(&header)?;
    let trailer_at = len.checked_sub(PACK_TRAILER_LEN as u64).ok_or_else(short)?;
    let trailer = storage.get_range(&object, trailer_at, PACK_TRAILER_LEN as u64)?;
    let offset = PackReader::directory_offset(&object, &trailer, len)?;
    let sealed = storage.get_range(&object, offset, trailer_at.checked_sub(offset).ok_or_else(short)?)?;
    let records = reader.open_directory(&sealed, offset, len)?;
    Ok(PackEntry { name, len, records })
}
