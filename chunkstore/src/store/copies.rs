//! Tiers: stores that hold copies of a repository's packs, each with a HEAD and an index of what it holds, so
//! that each can be read, checked, and made the primary, with nothing but itself and a key slot.

use super::{Access, ChunkStore, MAX_SEGMENT_LEN, MAX_SMALL_LEN, lay_out};
use crate::bases::BaseReader;
use crate::config::Config;
use crate::env::random_array;
use crate::format::{MAX_PACK_LEN, ObjectKind, PackKind, names};
use crate::head::{Head, Root, SegmentRef};
use crate::id::{ObjectId, SessionId};
use crate::index::{Location, PackEntry};
use crate::pack::{self, PackName, PackReader};
use crate::seal::Decompressor;
use crate::storage::shelf::Placing;
use crate::storage::{ErrorKind, Storage};
use crate::{Error, Result, envelope};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::Arc;

/// What a tier's HEAD is to hold after a sync, besides what it held.
#[derive(Clone, Debug, Default)]
pub struct TierCommit {
    /// New segments.
    pub segments: Vec<SegmentRef>,
    /// New snapshots.
    pub roots: Vec<Root>,
    /// All maps, old ones that stay included.
    pub maps: Vec<Root>,
}

impl ChunkStore {
    /// Opens the tier `name` of this repository that lies in `access`; `None` if there is nothing yet. What was
    /// the primary before this one is made a tier again if it is to `rejoin`: snapshots that only it has stay
    /// there, until promises or people remove them.
    pub fn open_tier(&self, mut access: Access, name: &str, rejoin: bool) -> Result<Option<Self>> {
        let bytes = match access.storage.get(names::CONFIG, MAX_SMALL_LEN) {
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        let config = Config::read(&bytes)?;
        if config.repository_id != self.config.repository_id {
            return Err(Error::Invalid(format!(
                "{} holds another repository ({}); give the tier a place of its own",
                access.storage.place(),
                config.repository_id.short()
            )));
        }
        Config::verify(&bytes, &self.keys)?;
        lay_out(&mut access, &config);
        if access.storage.read_head()?.is_none() {
            // The making of it was interrupted.
            return Ok(None);
        }
        let heads = Self::head_store(&access, &self.keys);
        // Not compared with what was seen of primaries: it may be an old one.
        let (there, ours) = (heads.load_unchecked()?, self.head());
        if there.tier.is_none() && there.incarnation < ours.incarnation {
            if !rejoin {
                return Err(Error::Invalid(format!(
                    "{} was the primary before another tier was adopted; 'esker tier sync --rejoin {name}' makes it a copy",
                    access.storage.place()
                )));
            }
            let tier = Some(name.to_owned());
            // Later than whatever was seen in its place meanwhile.
            let generation = (there.generation + 1).max(self.now_ms() / 1000);
            let incarnation = ours.incarnation;
            heads.force(&Head { tier, generation, incarnation, sessions: vec![], ..there })?;
        }
        Self::assemble(access, config, Arc::clone(&self.keys), heads).map(Some)
    }

    /// Makes a tier of this repository, with nothing in it yet. HEAD makes it exist.
    pub fn create_tier(&self, mut access: Access, tier: &str) -> Result<Self> {
        let config = self.storage().get(names::CONFIG, MAX_SMALL_LEN)?;
        Config::verify(&config, &self.keys)?;
        access.storage.put(names::CONFIG, config)?;
        lay_out(&mut access, &self.config);
        let head = self.head();
        self.copy_slots(&head, &*access.storage)?;
        let heads = Self::head_store(&access, &self.keys);
        heads.create_tier(tier, &head)?;
        Self::assemble(access, self.config.clone(), Arc::clone(&self.keys), heads)
    }

    /// Brings the key slots of a tier up to those of this repository's `head`.
    pub fn copy_slots(&self, head: &Head, to: &dyn Storage) -> Result<()> {
        let mut there = HashSet::new();
        to.list(names::KEYS, &mut |name, _| {
            there.extend(name.rsplit('/').next().and_then(ObjectId::parse));
        })?;
        for (slot, hash) in head.slots.iter().filter(|(slot, _)| !there.contains(slot)) {
            let name = names::key(slot);
            let bytes = self.storage().get(&name, MAX_SMALL_LEN)?;
            // What is damaged here is not to be what there is there.
            if self.keys.slot_hash(&bytes) != *hash {
                return Err(Error::corrupt(name, "is not the slot that HEAD lists"));
            }
            to.put(&name, bytes)?;
        }
        for slot in there.iter().filter(|slot| !head.slots.contains_key(slot)) {
            match to.delete(&names::key(slot)) {
                // Under a lock; HEAD does not list it.
                Err(error) if error.kind == ErrorKind::Denied => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// How new packs are to lie: those with data, and those with metadata.
    #[must_use]
    pub fn placing_packs(mut self, data: Placing, metadata: Placing) -> Self {
        self.placing = (data, metadata);
        self
    }

    /// How a new pack is to lie.
    #[must_use]
    pub fn placing(&self, kind: PackKind) -> &Placing {
        match kind {
            PackKind::Data => &self.placing.0,
            PackKind::Metadata => &self.placing.1,
        }
    }

    /// Writes a pack, in the class that packs of its kind have here.
    pub fn put_pack(&self, name: &PackName, body: Bytes) -> Result<()> {
        self.put_pack_as(name, body, self.placing(name.kind))
    }

    /// Writes a pack, lying as `placing` says.
    pub fn put_pack_as(&self, name: &PackName, body: Bytes, placing: &Placing) -> Result<()> {
        Ok(self.put_as(&name.object(), body, placing)?)
    }

    /// Puts a pack in the place of one that is damaged or gone.
    pub fn replace_pack(&self, name: &PackName, body: Bytes) -> Result<()> {
        let (object, placing) = (name.object(), self.placing(name.kind));
        if placing.class.is_none() {
            return Ok(self.storage().replace(&object, body)?);
        }
        // A class is given when an object is created; what is there is of no use.
        self.storage().delete(&object)?;
        self.put_pack_as(name, body, placing)
    }

    fn put_as(&self, name: &str, body: Bytes, placing: &Placing) -> crate::storage::StorageResult<()> {
        match self.storage().shelf() {
            Some(shelf) if *placing != Placing::default() => shelf.put_as(name, body, placing),
            _ => self.storage().put(name, body),
        }
    }

    /// Reads a pack whole from the first place where it is authentic: header, directory, the tag of every chunk.
    pub fn read_authentic(&self, entry: &PackEntry) -> Result<Bytes> {
        self.read_authentic_from(entry, self.storage())
            .or_else(|error| self.read_authentic_copy(entry).ok_or(error))
    }

    /// As [`ChunkStore::read_authentic`], from other places only.
    #[must_use]
    pub fn read_authentic_copy(&self, entry: &PackEntry) -> Option<Bytes> {
        self.storage().copies().iter().find_map(|copy| self.read_authentic_from(entry, copy).ok())
    }

    fn read_authentic_from(&self, entry: &PackEntry, storage: &Arc<dyn Storage>) -> Result<Bytes> {
        let bytes = storage.get(&entry.name.object(), MAX_PACK_LEN)?;
        let records = pack::verify(entry.name, &self.keys, &bytes, &mut |_| Ok(None))?;
        if records == entry.records && bytes.len() as u64 == entry.len {
            return Ok(bytes);
        }
        Err(Error::corrupt(entry.name.object(), "its directory is not what the index says"))
    }

    /// Reads a chunk from the copies of its pack, when the first that was read is damaged or cannot be had.
    pub(crate) fn read_copy(
        &self,
        place: &Location,
        bases: &BaseReader,
        decompressor: &mut Decompressor,
    ) -> Option<Vec<u8>> {
        let (object, record) = (place.pack.name.object(), &place.record);
        let reader = PackReader::new(place.pack.name, &self.keys).ok()?;
        self.storage().copies().iter().find_map(|copy| {
            let sealed =
                copy.get_range(&object, u64::from(record.offset), u64::from(record.stored_len)).ok()?;
            let plain = bases.open(self, &reader, record, &sealed, decompressor).ok()?;
            reader.check_id(&self.keys, record, &plain).ok()?;
            Some(plain)
        })
    }

    /// Copies a snapshot's object from another tier of this repository.
    pub fn copy_snapshot(&self, root: &Root, from: &Self, locked_until: Option<u64>) -> Result<()> {
        let name = names::snapshot(&root.id);
        let sealed = from.storage().get(&name, MAX_SMALL_LEN)?;
        if *blake3::hash(&sealed).as_bytes() != root.hash.0 {
            return Err(Error::corrupt(name, "is not the object that HEAD names"));
        }
        Ok(self.put_as(&name, sealed, &Placing { class: None, locked_until })?)
    }

    /// Writes a map. It counts for nothing until HEAD lists it.
    pub fn write_map(&self, plain: &[u8]) -> Result<Root> {
        let id = ObjectId(random_array(&*self.access.env)?);
        let name = names::map(&id);
        let sealed = envelope::seal(&self.keys, ObjectKind::TierMap, &name, plain, &*self.access.env)?;
        let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
        self.storage().put(&name, sealed.into())?;
        Ok(Root { kind: MAP_ROOT.into(), id, hash })
    }

    /// Reads a map and checks it against HEAD.
    pub fn read_map(&self, root: &Root) -> Result<Vec<u8>> {
        let name = names::map(&root.id);
        let sealed = self.storage().get(&name, MAX_SEGMENT_LEN)?;
        if *blake3::hash(&sealed).as_bytes() != root.hash.0 {
            return Err(Error::corrupt(name, "is not the object that HEAD names"));
        }
        envelope::open(&self.keys, ObjectKind::TierMap, &name, &sealed)
    }

    /// The end of a sync from a primary whose HEAD is `primary`: all of it in one swap.
    pub fn commit_tier(&self, session: &SessionId, primary: &Head, commit: &TierCommit) -> Result<()> {
        self.update_head(|head| {
            if !head.is_open(session) {
                let why = "this sync was taken for dead by another one; run it again".into();
                return Err(Error::Fenced { why });
            }
            not_adopted(head, primary)?;
            head.incarnation = primary.incarnation;
            head.slots.clone_from(&primary.slots);
            let fresh = |known: &[SegmentRef], new: &SegmentRef| known.iter().all(|there| there.id != new.id);
            for segment in &commit.segments {
                if fresh(&head.segments, segment) {
                    head.segments.push(segment.clone());
                }
            }
            head.roots
                .retain(|root| root.kind != MAP_ROOT && commit.roots.iter().all(|new| new.id != root.id));
            head.roots.extend_from_slice(&commit.roots);
            head.roots.extend_from_slice(&commit.maps);
            head.sessions.retain(|known| known.id != *session);
            Ok(())
        })
    }

    /// Makes this tier the primary: a HEAD that every client takes for later than that of the old one, which is
    /// refused from then on by whoever has seen this one, and by every tier that this one was copied to.
    pub fn adopt(&self) -> Result<u64> {
        let now_s = self.now_ms() / 1000;
        self.update_head(|head| {
            head.incarnation = (head.incarnation + 1).max(now_s);
            head.tier = None;
            head.without_parity = true;
            head.sessions.clear();
            Ok(head.incarnation)
        })
    }
}

/// Kind of root under which a tier's HEAD names its maps.
pub const MAP_ROOT: &str = "tier-map";

/// Refuses to let an old primary write to a tier that knows of a later one.
pub fn not_adopted(tier: &Head, primary: &Head) -> Result<()> {
    if tier.incarnation <= primary.incarnation { Ok(()) } else { Err(Error::Superseded) }
}
