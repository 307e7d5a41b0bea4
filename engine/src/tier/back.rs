//! What only a copy has, brought back to the primary: snapshots that it lacks and was to have, as after a tier that was
//! behind was adopted, and records that it lost.

use super::sync::Owed;
use crate::manifest::lists::KnownLists;
use crate::reach::{for_each_further_chunk, repair_index, short};
use crate::reseal::{Wanted, reseal};
use crate::snapshot::Listed;
use crate::{Error, ItemError, Monitor, Repository, Result};
use chunkstore::bases::ground;
use chunkstore::format::names;
use chunkstore::head::{Root, SegmentRef};
use chunkstore::ingest::{ChunkRef, Dedupe, Packer, PackerOptions, Sealing};
use chunkstore::seal::Compression;
use chunkstore::store::{LostPacks, describe};
use chunkstore::{ChunkId, ObjectId, PackId, SessionId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Ids looked up at a time.
const LOOKUP: usize = 1024;

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// Snapshots that the primary names now.
    pub snapshots: u64,
    /// Chunks that it lacked.
    pub chunks: u64,
    /// Bytes of the packs that they went into.
    pub bytes: u64,
    /// Snapshots that could not be brought back, and why.
    pub failed: Vec<(ObjectId, String)>,
}

/// Names `owed` snapshots in the primary, whose records lie in the copy `from`, and stores those of their chunks there that
/// the primary lacks. They keep their ids. With `dry_run` they are only counted.
pub fn bring_back(
    primary: &Repository,
    from: &Repository,
    owed: &[Owed],
    compression: Compression,
    dry_run: bool,
    monitor: &dyn Monitor,
) -> Result<Brought> {
    let (here, there) = (primary.store(), from.store());
    for store in [here, there] {
        store.reload()?;
        if let Some((segment, why)) = store.sync_index()?.first() {
            return Err(Error::Refused(format!(
                "{}/index/{segment} is damaged ({why}); run {} first",
                store.storage().place(),
                repair_index(store)
            )));
        }
    }
    let lost = here.lost_packs(Duration::ZERO)?;
    let mut back = Back {
        primary,
        from,
        monitor,
        avoided: here.avoided_packs()?.into_iter().chain(lost.ids()).collect(),
        lost,
        lost_there: there.lost_packs(Duration::ZERO)?.ids(),
        visited: HashSet::new(),
        lists: KnownLists::new(),
        relied: HashSet::new(),
        lacking: vec![],
    };
    let mut brought = Brought::default();
    let mut going = vec![];
    for Owed { listed, .. } in owed {
        match back.gather(listed) {
            Ok(()) => going.push(listed),
            Err(Error::Store(error)) if !error.is_damage() => return Err(error.into()),
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => {
                let (item, message) = (format!("snapshot {}", listed.id.short()), describe(&error));
                monitor.error(ItemError { during: "sync", item, message: message.clone() });
                brought.failed.push((listed.id, message));
            }
        }
    }
    brought.snapshots = going.len() as u64;
    brought.chunks = back.lacking.len() as u64;
    if dry_run || going.is_empty() {
        return Ok(brought);
    }
    let session = here.open_session("sync")?;
    let done = back.store(&session, compression).and_then(|(segments, bytes)| {
        brought.bytes = bytes;
        let roots = back.roots(&going)?;
        for (root, _) in &roots {
            here.copy_snapshot(root, there, None)?;
        }
        Ok(here.commit_between(&session, &segments, &roots, &back.relied)?)
    });
    if done.is_err() {
        // The first error is the one to tell.
        let _ = here.close_session(&session, &[]);
    }
    done?;
    here.sync_index()?;
    Ok(brought)
}

struct Back<'a> {
    primary: &'a Repository,
    from: &'a Repository,
    monitor: &'a dyn Monitor,
    /// Packs of the primary that are about to go, or lost.
    avoided: HashSet<PackId>,
    lost: LostPacks,
    /// Packs of the copy that are lost.
    lost_there: HashSet<PackId>,
    visited: HashSet<[u8; 16]>,
    /// Chunks of manifests all of whose content was looked at.
    lists: KnownLists,
    /// Packs of the primary that are built on.
    relied: HashSet<PackId>,
    /// What the primary lacks, as it lies in the copy.
    lacking: Vec<Wanted>,
}

impl Back<'_> {
    fn gather(&mut self, listed: &Listed) -> Result<()> {
        let mut ids: Vec<ChunkId> = vec![];
        for_each_further_chunk(self.from.store(), listed, &mut self.lists, &mut |chunk| {
            if self.visited.insert(short(&chunk.id)) {
                ids.push(chunk.id);
            }
        })?;
        for ids in ids.chunks(LOOKUP) {
            let mut lacking = vec![];
            for (id, grounded) in ids.iter().zip(ground(&**self.primary.store().index(), ids, &self.avoided)?)
            {
                match grounded {
                    Some(grounded) => self.relied.extend(grounded.packs),
                    None => lacking.push(*id),
                }
            }
            let found = ground(&**self.from.store().index(), &lacking, &self.lost_there)?;
            for (id, found) in lacking.iter().zip(found) {
                let found = found.ok_or(chunkstore::Error::MissingChunk { id: *id })?;
                let record = &found.location.record;
                self.lacking.push(Wanted {
                    chunk: ChunkRef { id: *id, len: record.plain_len },
                    anchor: record.anchor,
                    kind: found.location.pack.name.kind,
                });
            }
            if self.monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }

    /// Stores what is lacking, each chunk on its own.
    fn store(&self, session: &SessionId, compression: Compression) -> Result<(Vec<SegmentRef>, u64)> {
        let sealing = Sealing { compression, delta: false };
        let dedupe = Dedupe::new(Arc::clone(self.primary.store()), sealing, &self.lost)?;
        let mut packer = Packer::new(&dedupe, *session, PackerOptions::default())?;
        let mut all = |_, read: chunkstore::Result<()>| Ok(read.map(|()| true)?);
        reseal(self.from.store(), &self.lacking, &dedupe, &mut packer, self.monitor, &mut all)?;
        let segments = packer.flush()?;
        Ok((segments, packer.written().stored_bytes))
    }

    /// The roots as the copy names them, each with the one of the primary that it goes before: ages count from the order
    /// of commits (promise.rs).
    fn roots(&self, going: &[&Listed]) -> Result<Vec<(Root, Option<ObjectId>)>> {
        let theirs = self.from.snapshot_roots()?;
        let place: HashMap<ObjectId, usize> =
            theirs.iter().enumerate().map(|(place, root)| (root.id, place)).collect();
        let times: HashMap<ObjectId, jiff::Timestamp> = self
            .primary
            .stored_snapshots(self.monitor)?
            .into_iter()
            .map(|listed| (listed.id, listed.snapshot.time))
            .collect();
        let ours = self.primary.snapshot_roots()?;
        let mut roots = vec![];
        for root in &theirs {
            let Some(listed) = going.iter().find(|listed| listed.id == root.id) else { continue };
            let is_later = |other: &&Root| match (place.get(&root.id), place.get(&other.id)) {
                (Some(own), Some(other)) => other > own,
                _ => times.get(&other.id).is_some_and(|time| *time > listed.snapshot.time),
            };
            roots.push((root.clone(), ours.iter().find(is_later).map(|root| root.id)));
        }
        Ok(roots)
    }
}

/// Puts records of snapshots back that HEAD of `repo` names and that are lost or damaged there, from `others` whose HEADs
/// name the same. Returns how many. Only those whose objects are gone are found, unless `all` are to be read.
pub fn mend_records(repo: &Repository, others: &[&Repository], all: bool) -> Result<u64> {
    let (store, roots) = (repo.store(), repo.snapshot_roots()?);
    let mut there: HashSet<ObjectId> = HashSet::new();
    if !all {
        let list = store.storage().list(names::SNAPSHOTS, &mut |name, _| {
            there.extend(name.rsplit('/').next().and_then(ObjectId::parse));
        });
        list.map_err(chunkstore::Error::from)?;
    }
    let mut mended = 0;
    for root in roots.iter().filter(|root| !there.contains(&root.id)) {
        match store.read_snapshot(root) {
            Ok(_) => continue,
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error.into()),
        }
        for other in others {
            if !other.store().head().roots.contains(root)? {
                continue;
            }
            match store.copy_snapshot(root, other.store(), None) {
                Ok(()) => {
                    mended += 1;
                    break;
                }
                // The next one may have it.
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(mended)
}
