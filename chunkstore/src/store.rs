//! The chunk store: storage, keys, HEAD and index held together. Opening, sessions, commit.
//! Writing lies in `ingest.rs`, reading in `reader.rs`.

use crate::chunker::{Chunker, ChunkerParams};
use crate::config::{Config, HeadMethod, Layout};
use crate::env::{Env, random_array};
use crate::executor::Executor;
use crate::format::{MAX_SEGMENT_LEN, MAX_SLOTS, MAX_SMALL_LEN, ObjectKind, names};
use crate::head::{Head, HeadStore, PackRef, Root, SegmentRef};
use crate::id::{ObjectId, PackId, RepositoryId, SessionId};
use crate::index::{ChunkIndex, MemoryIndex, PackInfo, Segment};
use crate::keys::{self, KdfParams, KeyRing, SlotOwner};
use crate::seal::Decompressor;
use crate::storage::chain::ChainedHead;
use crate::storage::shelf::Placing;
use crate::storage::{ErrorKind, Storage};
use crate::{Error, Result, envelope};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

mod copies;
mod rebuild;
mod session;
pub use copies::{MAP_ROOT, TierCommit, not_adopted};
pub use rebuild::{RebuildPlan, rebuild_head};

/// Everything from outside that a store works with.
#[derive(Clone)]
pub struct Access {
    /// The objects.
    pub storage: Arc<dyn Storage>,
    /// Clock and randomness.
    pub env: Arc<dyn Env>,
    /// Runs hashing and compression.
    pub cpu: Arc<dyn Executor>,
    /// Runs transfers, with the sealing and opening that goes with them.
    pub io: Arc<dyn Executor>,
    /// Folder for the local index and the highest HEAD seen; without one, the index lives in memory.
    pub cache: Option<PathBuf>,
    /// Who we are, for sessions.
    pub identity: Identity,
}

/// The process that writes.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// Host name.
    pub hostname: String,
    /// Boot and process namespace.
    pub machine: String,
    /// Process id.
    pub pid: u32,
    /// Start of the process in clock ticks since boot.
    pub process_started: u64,
}

/// An open repository's chunks.
pub struct ChunkStore {
    /// What it works with.
    pub access: Access,
    config: Config,
    keys: Arc<KeyRing>,
    heads: HeadStore,
    index: Arc<dyn ChunkIndex>,
    state: Mutex<State>,
    /// How data packs are to lie, and all others.
    placing: (Placing, Placing),
    /// Contexts that wait to be used again: making one costs as much as decoding a small chunk.
    decompressors: Mutex<Vec<Decompressor>>,
}

/// What was last read of HEAD, and what the index was brought up to.
struct State {
    head: Arc<Head>,
    synced: Option<Arc<Synced>>,
}

struct Synced {
    segments: Vec<ObjectId>,
    damaged: Vec<(ObjectId, String)>,
}

impl ChunkStore {
    /// Creates a repository: key slot, configuration, HEAD, in this order; HEAD makes it exist.
    /// What the store can do is for the caller to find out ([`crate::storage::probe`]).
    pub fn init(
        mut access: Access,
        params: ChunkerParams,
        passphrase: &[u8],
        kdf: KdfParams,
        owner: SlotOwner,
        layout: Layout,
    ) -> Result<Self> {
        let place = access.storage.place();
        if access.storage.read_head()?.is_some() || access.storage.len(names::CONFIG).is_ok() {
            return Err(Error::AlreadyExists { place });
        }
        let env = Arc::clone(&access.env);
        let id = RepositoryId(random_array(&*env)?);
        let keys = KeyRing::generate(id, &*env)?;
        let now_ms = u64::try_from(env.now().as_millis()).unwrap_or_default();
        let config = Config::new(id, params, now_ms, layout)?;
        let (slot, slot_bytes) = keys::make_slot(&keys, passphrase, kdf, owner, &*env)?;
        let slots = BTreeMap::from([(slot, keys.slot_hash(&slot_bytes))]);
        access.storage.put(names::CONFIG, config.seal(&keys)?.into()).map_err(|error| match error.kind {
            ErrorKind::Conflict => Error::AlreadyExists { place },
            _ => error.into(),
        })?;
        access.storage.put(&names::key(&slot), slot_bytes.into())?;
        let keys = Arc::new(keys);
        lay_out(&mut access, &config);
        let heads = Self::head_store(&access, &keys);
        heads.create(slots)?;
        Self::assemble(access, config, keys, heads)
    }

    /// Opens a repository with a passphrase.
    pub fn open(mut access: Access, passphrase: &[u8]) -> Result<Self> {
        let bytes = match access.storage.get(names::CONFIG, MAX_SMALL_LEN) {
            Err(error) if error.kind == ErrorKind::NotFound => {
                return Err(Error::NoRepository { place: access.storage.place() });
            }
            result => result?,
        };
        let config = Config::read(&bytes)?;
        let keys = Arc::new(unlock(&access, &config, passphrase)?);
        Config::verify(&bytes, &keys)?;
        lay_out(&mut access, &config);
        let heads = Self::head_store(&access, &keys);
        Self::assemble(access, config, keys, heads)
    }

    fn head_store(access: &Access, keys: &Arc<KeyRing>) -> HeadStore {
        let seen = access.cache.as_ref().map(|cache| cache.join(format!("{}.head", keys.repository())));
        if let Some(cache) = &access.cache {
            let _ = std::fs::create_dir_all(cache);
        }
        HeadStore::new(Arc::clone(&access.storage), Arc::clone(keys), Arc::clone(&access.env), seen)
    }

    fn assemble(access: Access, config: Config, keys: Arc<KeyRing>, heads: HeadStore) -> Result<Self> {
        let head = Arc::new(heads.load()?.head);
        let index = open_index(access.cache.as_ref(), keys.repository(), head.tier.as_deref())?;
        let state = Mutex::new(State { head, synced: None });
        let placing = <(Placing, Placing)>::default();
        Ok(Self { access, config, keys, heads, index, state, placing, decompressors: Mutex::default() })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &Arc<KeyRing> {
        &self.keys
    }

    /// The index; brought up to date by [`ChunkStore::sync_index`].
    #[must_use]
    pub fn index(&self) -> &Arc<dyn ChunkIndex> {
        &self.index
    }

    /// One that was used before, or a new one.
    pub(crate) fn decompressor(&self) -> Result<Decompressor> {
        let reused = self.decompressors.lock().unwrap_or_else(PoisonError::into_inner).pop();
        reused.map_or_else(Decompressor::new, Ok)
    }

    /// Takes one that is no longer used.
    pub(crate) fn recycle(&self, decompressor: Decompressor) {
        self.decompressors.lock().unwrap_or_else(PoisonError::into_inner).push(decompressor);
    }

    /// The objects.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.access.storage
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.access.env.now().as_millis()).unwrap_or_default()
    }

    /// The chunker for content.
    pub fn chunker(&self) -> Result<Chunker> {
        Chunker::new(self.config.chunker.data, &self.keys.gear_key())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// HEAD as last read.
    #[must_use]
    pub fn head(&self) -> Arc<Head> {
        Arc::clone(&self.state().head)
    }

    /// Reads HEAD again.
    pub fn reload(&self) -> Result<Arc<Head>> {
        let head = Arc::new(self.heads.load()?.head);
        self.state().head = Arc::clone(&head);
        Ok(head)
    }

    /// Changes HEAD; see [`HeadStore::update`].
    pub fn update_head<R>(&self, change: impl FnMut(&mut Head) -> Result<R>) -> Result<R> {
        let (head, result) = self.heads.update(change)?;
        self.state().head = Arc::new(head);
        Ok(result)
    }

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
        let mut segments = head.segment_ids();
        if let Some(synced) = &self.state().synced
            && synced.segments == segments
        {
            return Ok(synced.damaged.clone());
        }
        let mut damaged = vec![];
        loop {
            let mut bad = None;
            let result = self.index.sync(&segments, &mut |id| {
                if let Some(segment) = at_hand(id) {
                    return Ok(segment);
                }
                let reference = head.segments.iter().find(|segment| segment.id == *id);
                let reference = reference.ok_or_else(|| Error::Invalid("segment not in HEAD".into()))?;
                self.load_segment(reference).inspect_err(|error| {
                    if error.is_damage() {
                        bad = Some((*id, describe(error)));
                    }
                })
            });
            match (result, bad) {
                (Ok(()), _) => break,
                (Err(_), Some((id, why))) => {
                    // A prune may have replaced it since HEAD was read: then that is the news, no damage.
                    let fresh = self.reload()?;
                    if fresh.segments.iter().all(|segment| segment.id != id) {
                        (segments, head) = (fresh.segment_ids(), fresh);
                        damaged.clear();
                        continue;
                    }
                    segments.retain(|segment| *segment != id);
                    damaged.push((id, why));
                }
                (Err(error), None) => return Err(error),
            }
        }
        let synced = Synced { segments: head.segment_ids(), damaged: damaged.clone() };
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
                let live = self.reload()?.segments.iter().any(|known| known.id == reference.id);
                if live { Err(error) } else { Ok(None) }
            }
            result => result.map(Some),
        }
    }

    /// The tier that this is, if it is a copy.
    #[must_use]
    pub fn tier(&self) -> Option<String> {
        self.head().tier.clone()
    }

    /// Whether each pack has parity beside it. Copies do without: the others are what they are mended from.
    #[must_use]
    pub fn has_parity(&self) -> bool {
        let head = self.head();
        self.config.parity && head.tier.is_none() && !head.without_parity
    }

    /// Removes a pack's object, and its parity; they may be gone already.
    pub fn delete_pack(&self, session: &SessionId, pack: &PackId) -> Result<()> {
        if self.has_parity() {
            self.access.storage.delete(&names::parity(session, pack))?;
        }
        Ok(self.access.storage.delete(&names::pack(session, pack))?)
    }

    /// Writes a segment. It counts for nothing until HEAD lists it.
    pub fn write_segment(&self, segment: &Segment) -> Result<SegmentRef> {
        write_segment(&self.access, &self.keys, segment)
    }

    /// Writes the object of a snapshot. It counts for nothing until HEAD lists it.
    pub fn write_snapshot(&self, plain: &[u8]) -> Result<Root> {
        let id = ObjectId(random_array(&*self.access.env)?);
        let name = names::snapshot(&id);
        let sealed = envelope::seal(&self.keys, ObjectKind::Snapshot, &name, plain, &*self.access.env)?;
        let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
        self.access.storage.put(&name, sealed.into())?;
        Ok(Root { kind: "snapshot".into(), id, hash })
    }

    /// Reads the object of a snapshot and checks it against HEAD.
    pub fn read_snapshot(&self, root: &Root) -> Result<Vec<u8>> {
        let name = names::snapshot(&root.id);
        let sealed = self.access.storage.get(&name, MAX_SMALL_LEN)?;
        if *blake3::hash(&sealed).as_bytes() != root.hash.0 {
            return Err(Error::corrupt(name, "is not the object that HEAD names"));
        }
        envelope::open(&self.keys, ObjectKind::Snapshot, &name, &sealed)
    }

    /// Adds a key slot.
    pub fn add_slot(&self, passphrase: &[u8], kdf: KdfParams, owner: SlotOwner) -> Result<ObjectId> {
        let (slot, bytes) = keys::make_slot(&self.keys, passphrase, kdf, owner, &*self.access.env)?;
        let hash = self.keys.slot_hash(&bytes);
        self.access.storage.put(&names::key(&slot), bytes.into())?;
        self.update_head(|head| {
            head.slots.insert(slot, hash);
            Ok(())
        })?;
        Ok(slot)
    }

    /// Removes a key slot; the last one stays.
    pub fn remove_slot(&self, slot: &ObjectId) -> Result<()> {
        self.update_head(|head| {
            if head.slots.remove(slot).is_none() {
                return Err(Error::Invalid(format!("no key slot {}", slot.short())));
            }
            if head.slots.is_empty() {
                return Err(Error::Invalid("the last key slot cannot be removed".into()));
            }
            Ok(())
        })?;
        Ok(self.access.storage.delete(&names::key(slot))?)
    }
}

/// Tries the passphrase on every slot found. A damaged slot is passed over while another opens.
fn unlock(access: &Access, config: &Config, passphrase: &[u8]) -> Result<KeyRing> {
    let mut slots = vec![];
    access.storage.list(names::KEYS, &mut |name, _| {
        if let Some(id) = name.rsplit('/').next().and_then(ObjectId::parse) {
            slots.push(id);
        }
    })?;
    slots.sort_unstable();
    slots.truncate(MAX_SLOTS);
    let mut damage = None;
    for slot in &slots {
        let attempt = access
            .storage
            .get(&names::key(slot), MAX_SMALL_LEN)
            .map_err(Error::from)
            .and_then(|bytes| keys::open_slot(slot, &bytes, passphrase));
        match attempt {
            Ok(Some(ring)) if *ring.repository() == config.repository_id => return Ok(ring),
            Ok(Some(_)) => {
                damage = Some(Error::corrupt(names::key(slot), "belongs to another repository"));
            }
            Ok(None) => {}
            Err(error) => damage = Some(error),
        }
    }
    Err(damage.unwrap_or(Error::WrongPassword { slots: slots.len() }))
}

fn write_segment(access: &Access, keys: &KeyRing, segment: &Segment) -> Result<SegmentRef> {
    let id = ObjectId(random_array(&*access.env)?);
    let name = names::segment(&id);
    let sealed = envelope::seal(keys, ObjectKind::Segment, &name, &segment.encode(), &*access.env)?;
    let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
    access.storage.put(&name, sealed.into())?;
    let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    Ok(SegmentRef { id, hash, packs: count(segment.packs.len()), chunks: count(segment.chunk_count()) })
}

/// HEAD lies where the configuration says.
fn lay_out(access: &mut Access, config: &Config) {
    if config.head == HeadMethod::Chain {
        access.storage = Arc::new(ChainedHead::new(Arc::clone(&access.storage)));
    }
}

/// A pack's place, as HEAD lists it.
#[must_use]
pub fn pack_ref(info: &PackInfo) -> PackRef {
    PackRef { session: info.name.session, id: info.name.id }
}

/// An error with its causes on one line.
#[must_use]
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(feature = "rocksdb")]
fn open_index(
    cache: Option<&PathBuf>,
    repository: &RepositoryId,
    tier: Option<&str>,
) -> Result<Arc<dyn ChunkIndex>> {
    // Each tier holds other packs, so each has an index of its own.
    let name = tier.map_or_else(|| repository.to_string(), |tier| format!("{repository}.{tier}"));
    Ok(match cache {
        Some(cache) => Arc::new(crate::index::rocks::RocksIndex::open(&cache.join(name))?),
        None => Arc::new(MemoryIndex::default()),
    })
}

#[cfg(not(feature = "rocksdb"))]
fn open_index(_: Option<&PathBuf>, _: &RepositoryId, _: Option<&str>) -> Result<Arc<dyn ChunkIndex>> {
    Ok(Arc::new(MemoryIndex::default()))
}
