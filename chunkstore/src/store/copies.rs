//! Tiers: stores that hold copies of a repository's packs, each with a HEAD and an index of what it holds, so
//! that each can be read, checked, and made the primary, with nothing but itself and a key slot.

use super::opening::{Found, look, read_config, slots_there};
use super::{Access, ChunkStore, lay_out};
use crate::bases::BaseReader;
use crate::config::Config;
use crate::env::random_array;
use crate::format::{MAX_PACK_LEN, MAX_SEGMENT_LEN, MAX_SMALL_LEN, ObjectKind, PackKind, names};
use crate::head::{Age, Head, List, Place, Root, SegmentRef, rolled_back};
use crate::id::{ObjectId, SessionId};
use crate::index::{Location, PackEntry};
use crate::kept::{Kept, delete_kept, put_kept};
use crate::log::ms;
use crate::pack::{self, PackName, PackReader};
use crate::seal::Decompressor;
use crate::storage::shelf::Placing;
use crate::storage::{ErrorKind, Storage};
use crate::{Error, Result, envelope};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

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

/// The clock by which snapshots expired, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// It was not far ahead of the last one.
    Believed(u64),
    /// A person said that it is right.
    Accepted(u64),
}

impl ChunkStore {
    /// Opens the tier `name` of this repository that lies in `access`. What was the primary before this one is made a
    /// tier again if it is to `rejoin`: snapshots that only it has stay there, until promises or people remove them.
    pub fn open_tier(&self, mut access: Access, name: &str, rejoin: bool) -> Result<Self> {
        let found = look(&*access.storage)?;
        if found != Found::Whole {
            return Err(self.no_tier(&*access.storage, name, &found));
        }
        let (bytes, config) = read_config(&*access.storage)?;
        self.same_repository(&*access.storage, &config)?;
        Config::verify(&bytes, &self.keys)?;
        lay_out(&mut access, &config);
        let heads = Self::head_store(&access, &self.keys, &config);
        // Not compared with what was seen of primaries: it may be an old one.
        let (loaded, ours) = (heads.load_unchecked()?, self.head());
        let there = loaded.head.clone();
        if let Some(other) = there.tier.as_deref().filter(|other| *other != name) {
            return Err(another_tier(&*access.storage, other, name));
        }
        if let Some(known) = ours.tiers.made.get(name)
            && there.tier.is_some()
            && there.age() < *known
        {
            return Err(rolled_back(&there, *known));
        }
        if there.tier.is_none() && there.incarnation < ours.incarnation {
            if !rejoin {
                return Err(Error::Invalid(format!(
                    "{} was the primary before another tier was adopted; 'esker tier sync --rejoin {name}' makes it a copy",
                    access.storage.place()
                )));
            }
            let tier = Some(name.to_owned());
            // Later than whatever was seen in its place meanwhile.
            let known = ours.tiers.made.get(name).map_or(0, |known| known.generation);
            let generation = (there.generation.max(known) + 1).max(self.now_ms() / 1000);
            let (incarnation, tiers) = (ours.incarnation, ours.tiers.clone());
            let sessions = List::default();
            heads.replace(loaded, Head { tier, generation, incarnation, tiers, sessions, ..there })?;
        }
        Self::assemble(access, config, Arc::clone(&self.keys), heads)
    }

    /// Says why there is no tier to open at a place.
    fn no_tier(&self, storage: &dyn Storage, name: &str, found: &Found) -> Error {
        let (place, known) = (storage.place(), self.head().tiers.was_made(name));
        match found {
            Found::Damaged { lost } => Error::corrupt(
                *lost,
                format!(
                    "it is missing at {place}, and other objects are there: nothing is copied to this tier, and nothing \
                     removed from it, before 'esker repair head --tier {name}' has made it anew"
                ),
            ),
            _ if known => Error::Invalid(format!(
                "tier '{name}' was made, and is not at {place}: is its disk mounted, and the place right? If it is lost \
                 for good, 'esker tier init --again {name}' makes an empty one"
            )),
            _ => {
                Error::Invalid(format!("there is no tier at {place} yet: 'esker tier init {name}' makes it"))
            }
        }
    }

    fn same_repository(&self, storage: &dyn Storage, config: &Config) -> Result<()> {
        if config.repository_id == self.config.repository_id {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "{} holds another repository ({}); give the tier a place of its own",
            storage.place(),
            config.repository_id.short()
        )))
    }

    /// Makes a tier of this repository, with nothing in it yet, at a place where nothing is, and notes that it was made.
    /// One that was made before is made `again` only if that is asked for. HEAD makes it exist.
    pub fn create_tier(&self, mut access: Access, tier: &str, again: bool) -> Result<Self> {
        let head = self.reload()?;
        match look(&*access.storage)? {
            Found::Nothing => {}
            Found::Unfinished => {
                let (_, config) = read_config(&*access.storage)?;
                self.same_repository(&*access.storage, &config)?;
            }
            Found::Whole => return Err(Error::AlreadyExists { place: access.storage.place() }),
            found @ Found::Damaged { .. } => return Err(self.no_tier(&*access.storage, tier, &found)),
        }
        if head.tiers.was_made(tier) && !again {
            return Err(self.no_tier(&*access.storage, tier, &Found::Nothing));
        }
        let config = Config { tier: Some(tier.to_owned()), ..self.config.clone() };
        put_kept(&*access.storage, names::CONFIG, &config.seal(&self.keys)?.into())?;
        lay_out(&mut access, &config);
        self.copy_grants(&head, &*access.storage)?;
        self.copy_slots(&head, &*access.storage)?;
        let heads = Self::head_store(&access, &self.keys, &config);
        heads.create_tier(tier, &head)?;
        let made = Self::assemble(access, config, Arc::clone(&self.keys), heads)?;
        self.note_tiers([(tier, made.head().age())], None)?;
        Ok(made)
    }

    /// Puts the configuration, and the key slots, back at another place of this repository that lost them: they are the
    /// same everywhere, but for the name that a tier was made as.
    pub fn put_back(&self, storage: &Arc<dyn Storage>, place: &Place) -> Result<()> {
        let mut access = Access { storage: Arc::clone(storage), cache: None, ..self.access.clone() };
        lay_out(&mut access, &self.config);
        let made_as = match place {
            Place::Primary => None,
            Place::Tier(name) => Some(name.clone()),
        };
        // HEAD says, if it is there: what was the primary may be a tier by now.
        let tier = Self::head_store(&access, &self.keys, &self.config).home_there().unwrap_or(made_as);
        let config = Config { tier, ..self.config.clone() };
        match read_config(&**storage) {
            Err(error) if error.is_damage() || matches!(error, Error::NoRepository { .. }) => {
                let sealed: Bytes = config.seal(&self.keys)?.into();
                storage.replace(names::CONFIG, sealed.clone())?;
                put_kept(&**storage, names::CONFIG, &sealed)?;
            }
            there => drop(there?),
        }
        self.copy_grants(&self.head(), &**storage)?;
        self.copy_slots(&self.head(), &**storage)
    }

    /// Notes how far tiers have come, in this HEAD: an earlier one of them is refused from then on. `clock` is that by
    /// which snapshots expired.
    pub fn note_tiers<'a>(
        &self,
        ages: impl IntoIterator<Item = (&'a str, Age)> + Clone,
        clock: Option<Clock>,
    ) -> Result<()> {
        let change = |head: &mut Head| {
            ages.clone().into_iter().for_each(|(name, age)| head.tiers.note(name, age));
            match clock {
                Some(Clock::Accepted(ms)) => head.clock_ms = Some(ms),
                Some(Clock::Believed(ms)) => head.clock_ms = head.clock_ms.max(Some(ms)),
                None => {}
            }
        };
        let before = self.head();
        let mut after = Head::clone(&before);
        change(&mut after);
        if (&after.tiers, after.clock_ms) == (&before.tiers, before.clock_ms) {
            return Ok(());
        }
        self.update_head(|head| {
            change(head);
            Ok(())
        })
    }

    /// Brings the key slots of a tier up to those of this repository's `head`.
    pub fn copy_slots(&self, head: &Head, to: &dyn Storage) -> Result<()> {
        let there = slots_there(to)?;
        for (slot, hash) in &head.slots {
            let (slot, name) = (Kept::Slot(*slot, *hash), names::key(slot));
            match slot.read(to, &self.keys) {
                Ok(_) => continue,
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
            // What is damaged here is not to be what there is there.
            let bytes = slot.read(&**self.storage(), &self.keys)?;
            if to.len(&name).is_ok() {
                to.replace(&name, bytes.clone())?;
            }
            put_kept(to, &name, &bytes)?;
        }
        for slot in there.iter().filter(|slot| !head.slots.contains_key(slot)) {
            match delete_kept(to, &names::key(slot)) {
                // Under a lock; HEAD does not list it, so it opens nothing.
                Err(Error::Storage(error)) if error.kind == ErrorKind::Denied => {}
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
        let (began, bytes) = (Instant::now(), body.len());
        self.put_as(&name.object(), body, placing)?;
        tracing::debug!(pack = %name.id.short(), kind = ?name.kind, bytes, ms = ms(began), "pack uploaded");
        Ok(())
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
        let name = root.object();
        let sealed = from.storage().get(&name, MAX_SMALL_LEN)?;
        if *blake3::hash(&sealed).as_bytes() != root.hash.0 {
            return Err(Error::corrupt(name, "is not the object that HEAD names"));
        }
        match self.put_as(&name, sealed.clone(), &Placing { class: None, locked_until }) {
            // What is there is damaged: this is what HEAD names.
            Err(error) if error.kind == ErrorKind::Conflict => Ok(self.storage().replace(&name, sealed)?),
            done => Ok(done?),
        }
    }

    /// Writes a map. It counts for nothing until HEAD lists it.
    pub fn write_map(&self, plain: &[u8]) -> Result<Root> {
        let id = ObjectId(random_array(&*self.access.env)?);
        let name = names::map(&id);
        let epoch = self.epoch();
        let sealed = envelope::seal(&self.keys, epoch, ObjectKind::TierMap, &name, plain, &*self.access.env)?;
        let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
        self.storage().put(&name, sealed.into())?;
        Ok(Root::new(MAP_ROOT, id, hash, epoch))
    }

    /// Reads a map and checks it against HEAD.
    pub fn read_map(&self, root: &Root) -> Result<Vec<u8>> {
        let name = root.object();
        let sealed = self.storage().get(&name, MAX_SEGMENT_LEN)?;
        if *blake3::hash(&sealed).as_bytes() != root.hash.0 {
            return Err(Error::corrupt(name, "is not the object that HEAD names"));
        }
        envelope::open(&self.keys, ObjectKind::TierMap, &name, &sealed)
    }

    /// The end of a sync from a primary whose HEAD is `primary`: all of it in one swap.
    pub fn commit_tier(&self, session: &SessionId, primary: &Head, commit: &TierCommit) -> Result<()> {
        self.update_head(|head| {
            if !head.is_open(session)? {
                let why = "this sync was taken for dead by another one; run it again".into();
                return Err(Error::Fenced { why });
            }
            not_adopted(head, primary)?;
            head.incarnation = primary.incarnation;
            head.slots.clone_from(&primary.slots);
            head.epochs = primary.epochs_of_tier();
            head.grants = primary.grants;
            // The second line: a sync reads HEAD of the primary in its session, which nothing is retired beside.
            head.accepts(&commit.segments, &commit.roots)?;
            head.tiers.clone_from(&primary.tiers);
            head.clock_ms = primary.clock_ms;
            // A list that is the same stays where it lies.
            for (ours, theirs) in [
                (&mut head.forgotten, &primary.forgotten),
                (&mut head.forgotten_everywhere, &primary.forgotten_everywhere),
            ] {
                if ours.to_vec()? != theirs.to_vec()? {
                    ours.clone_from(theirs);
                }
            }
            if head.hosts.to_vec()? != primary.hosts.to_vec()? {
                head.hosts.clone_from(&primary.hosts);
            }
            let known: HashSet<ObjectId> = head.segment_ids()?.into_iter().collect();
            head.segments.extend(commit.segments.iter().filter(|new| !known.contains(&new.id)).cloned());
            let replaced: HashSet<ObjectId> = commit.roots.iter().map(|root| root.id).collect();
            head.roots.retain(|root| root.kind != MAP_ROOT && !replaced.contains(&root.id))?;
            head.roots.extend(commit.roots.iter().chain(&commit.maps).cloned());
            head.sessions.retain(|known| known.id != *session)
        })?;
        self.drop_old_grants();
        Ok(())
    }

    /// Makes this tier the primary: a HEAD that every client takes for later than that of the old one, which is
    /// refused from then on by whoever has seen this one, and by every tier that this one was copied to. Write-only hosts are
    /// greeted here then: a tier has no answers to them.
    pub fn adopt(&self) -> Result<u64> {
        let now_s = self.now_ms() / 1000;
        let incarnation = self.update_head(|head| {
            head.incarnation = (head.incarnation + 1).max(now_s);
            if let Some(name) = head.tier.take() {
                head.tiers.made.remove(&name);
            }
            head.without_parity = true;
            head.sessions.clear();
            Ok(head.incarnation)
        })?;
        self.greet_all()?;
        Ok(incarnation)
    }
}

/// Kind of root under which a tier's HEAD names its maps.
pub const MAP_ROOT: &str = "tier-map";

/// Says that tier `found` lies in the place of tier `meant`. Both are sound, and neither is to be changed.
#[must_use]
pub fn another_tier(storage: &dyn Storage, found: &str, meant: &str) -> Error {
    Error::Invalid(format!(
        "at {} lies tier '{found}', and this is the place of '{meant}': places of tiers were exchanged, as when disks are \
         mounted the other way round. Nothing is copied to it or removed from it before each is in its own place",
        storage.place()
    ))
}

/// Refuses to let an old primary write to a tier that knows of a later one.
pub fn not_adopted(tier: &Head, primary: &Head) -> Result<()> {
    if tier.incarnation <= primary.incarnation { Ok(()) } else { Err(Error::Superseded) }
}
