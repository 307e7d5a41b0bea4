//! HEAD made anew from what lies in the store, when it is gone, damaged, or older than one that was seen.
//! Everything that can be read comes back: a snapshot that was being forgotten, too, rather than one too few.

use super::{Access, ChunkStore, describe, lay_out, unlock};
use crate::config::Config;
use crate::format::{MAX_SEGMENT_LEN, MAX_SMALL_LEN, ObjectKind, names};
use crate::head::{Head, HeadStore, Root, SegmentRef};
use crate::id::{ObjectId, PackId};
use crate::index::Segment;
use crate::keys::KeyRing;
use crate::storage::ErrorKind;
use crate::{Error, Result, envelope};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// What a new HEAD would hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RebuildPlan {
    /// Why the HEAD that is there cannot be used; empty if it can.
    pub why: String,
    /// Snapshots.
    pub snapshots: u64,
    /// Those of them that the HEAD that is there does not list.
    pub snapshots_found: u64,
    /// Index segments.
    pub segments: u64,
    /// Packs that they list and that are there.
    pub packs: u64,
    /// Packs that they list and that are gone; no longer listed.
    pub packs_gone: u64,
    /// Key slots.
    pub slots: u64,
    /// Objects that could not be read, and why.
    pub unreadable: Vec<(String, String)>,
}

/// A HEAD in the making.
struct Rebuild<'a> {
    access: &'a Access,
    keys: &'a KeyRing,
    plan: RebuildPlan,
}

/// Looks at HEAD, and unless it is fine or `dry_run`, replaces it. **Nothing else may be at work on the
/// repository**: a prune that goes on with the old HEAD would remove packs that the new one lists.
pub fn rebuild_head(mut access: Access, passphrase: &[u8], dry_run: bool) -> Result<RebuildPlan> {
    let bytes = access.storage.get(names::CONFIG, MAX_SMALL_LEN)?;
    let config = Config::read(&bytes)?;
    let keys = Arc::new(unlock(&access, &config, passphrase)?);
    Config::verify(&bytes, &keys)?;
    lay_out(&mut access, &config);
    let heads = ChunkStore::head_store(&access, &keys);
    let why = match heads.load() {
        Ok(_) => return Ok(RebuildPlan::default()),
        Err(error @ (Error::Corrupt { .. } | Error::Rollback { .. })) => describe(&error),
        Err(error) => return Err(error),
    };
    let mut rebuild =
        Rebuild { access: &access, keys: &keys, plan: RebuildPlan { why, ..RebuildPlan::default() } };
    // One that was put back from an older copy knows things that lie nowhere else.
    let old = heads.load_unchecked().ok();
    let head = rebuild.head(&heads, old, dry_run)?;
    if !dry_run {
        heads.force(&head)?;
    }
    Ok(rebuild.plan)
}

impl Rebuild<'_> {
    fn head(&mut self, heads: &HeadStore, old: Option<Head>, dry_run: bool) -> Result<Head> {
        let listed: HashSet<ObjectId> = old.iter().flat_map(|head| &head.roots).map(|root| root.id).collect();
        let mut roots =
            self.read_all(names::SNAPSHOTS, ObjectKind::Snapshot, MAX_SMALL_LEN, |id, hash, _| {
                Ok(Root { kind: "snapshot".into(), id, hash })
            })?;
        let other = old.iter().flat_map(|head| &head.roots).filter(|root| root.kind != "snapshot");
        roots.extend(other.cloned());
        let segments =
            self.read_all(names::INDEX, ObjectKind::Segment, MAX_SEGMENT_LEN, |id, hash, plain| {
                let segment =
                    Segment::decode(plain).map_err(|error| Error::corrupt(names::segment(&id), error))?;
                Ok((id, hash, segment))
            })?;
        let segments = self.with_packs_that_are_there(segments, dry_run)?;
        self.plan.snapshots = roots.len() as u64;
        self.plan.snapshots_found = roots.iter().filter(|root| !listed.contains(&root.id)).count() as u64;
        self.plan.segments = segments.len() as u64;
        let slots = self.slots()?;
        self.plan.slots = slots.len() as u64;
        heads.successor(old, roots, segments, slots)
    }

    /// Names in a folder, with their ids.
    fn ids(&self, folder: &str) -> Result<Vec<(String, ObjectId)>> {
        let mut found = vec![];
        self.access.storage.list(folder, &mut |name, _| {
            found.extend(name.rsplit('/').next().and_then(ObjectId::parse).map(|id| (name.to_owned(), id)));
        })?;
        found.sort();
        Ok(found)
    }

    /// Opens every object of a folder; those that cannot be read are noted and left out.
    fn read_all<T>(
        &mut self,
        folder: &str,
        kind: ObjectKind,
        limit: u64,
        read: impl Fn(ObjectId, ObjectId, &[u8]) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut all = vec![];
        for (name, id) in self.ids(folder)? {
            let opened = self.access.storage.get(&name, limit).map_err(Error::from).and_then(|sealed| {
                let plain = envelope::open(self.keys, kind, &name, &sealed)?;
                read(id, ObjectId(*blake3::hash(&sealed).as_bytes()), &plain)
            });
            match opened {
                Ok(value) => all.push(value),
                Err(error) if error.is_damage() => self.plan.unreadable.push((name, describe(&error))),
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }

    /// A segment that a prune replaced may still be there, and list packs that are gone: such a one is written
    /// anew, without them.
    fn with_packs_that_are_there(
        &mut self,
        segments: Vec<(ObjectId, ObjectId, Segment)>,
        dry_run: bool,
    ) -> Result<Vec<SegmentRef>> {
        let mut there: HashSet<String> = HashSet::new();
        self.access.storage.list(names::PACKS, &mut |name, _| {
            there.insert(name.to_owned());
        })?;
        let mut gone: HashSet<PackId> = HashSet::new();
        let packs = segments.iter().flat_map(|(_, _, segment)| &segment.packs);
        for pack in packs.filter(|pack| !there.contains(&pack.name.object())) {
            match self.access.storage.len(&pack.name.object()) {
                Ok(_) => {}
                Err(error) if error.kind == ErrorKind::NotFound => {
                    gone.insert(pack.name.id);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.plan.packs_gone = gone.len() as u64;
        let (mut references, mut listed) = (vec![], HashSet::new());
        for (id, hash, mut segment) in segments {
            let before = segment.packs.len();
            // Listed twice, if both what was replaced and what replaced it are there: once is enough.
            segment.packs.retain(|pack| !gone.contains(&pack.name.id) && listed.insert(pack.name.id));
            let (id, hash) = match segment.packs.len() {
                0 => continue,
                len if len == before || dry_run => (id, hash),
                _ => {
                    let fresh = super::write_segment(self.access, self.keys, &segment)?;
                    (fresh.id, fresh.hash)
                }
            };
            let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
            let (packs, chunks) = (count(segment.packs.len()), count(segment.chunk_count()));
            references.push(SegmentRef { id, hash, packs, chunks });
        }
        self.plan.packs = listed.len() as u64;
        Ok(references)
    }

    fn slots(&mut self) -> Result<BTreeMap<ObjectId, ObjectId>> {
        let mut slots = BTreeMap::new();
        for (name, id) in self.ids(names::KEYS)? {
            let bytes = self.access.storage.get(&name, MAX_SMALL_LEN)?;
            slots.insert(id, self.keys.slot_hash(&bytes));
        }
        Ok(slots)
    }
}
