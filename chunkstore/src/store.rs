//! The chunk store: storage, keys, HEAD and index held together. Opening, sessions, commit.
//! Writing lies in `ingest.rs`, reading in `reader.rs`.

use crate::chunker::{Chunker, ChunkerParams};
use crate::config::{Config, HeadMethod, Layout};
use crate::env::{Env, random_array};
use crate::executor::Executor;
use crate::format::{MAX_SMALL_LEN, ObjectKind, names};
use crate::head::{Body, Head, HeadStore, LeafRef, Outline, PackRef, Root, RootColumns};
use crate::id::{ObjectId, PackId, RepositoryId, SessionId};
use crate::inbox::Outbox;
use crate::inbox::lists::BlockLists;
use crate::index::{ChunkIndex, MemoryIndex, PackInfo};
pub use crate::kept::{Examined, Kept};
use crate::kept::{delete_kept, put_kept};
use crate::keys::{self, KdfParams, KeyRing, SlotOwner, SlotSecret};
use crate::pool::{Pool, locked};
use crate::seal::Decompressor;
use crate::storage::chain::ChainedHead;
use crate::storage::shelf::Placing;
use crate::storage::{ErrorKind, Storage};
use crate::{Error, Result, envelope};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

mod copies;
mod hosts;
mod lost;
mod opening;
mod rebuild;
mod records;
mod renew;
mod reports;
mod retire;
mod rotation;
mod segments;
mod session;
mod slots;
pub use crate::error::describe;
pub use copies::{Clock, MAP_ROOT, TierCommit, another_tier, not_adopted};
pub use hosts::Settled;
pub use lost::{Asked, LostPacks};
pub use opening::{Claim, Found, claim, is_locked_out, look, slot_headers};
use opening::{Slots, read_config};
pub use rebuild::{FoundSlot, Peeked, RebuildOptions, RebuildPlan, peek, rebuild_head};
pub use records::Records;
pub use renew::Renewed;
pub use retire::{RetireOptions, Retired, holders};
pub use rotation::Rotated;

/// So long the epoch of a HEAD that was read is taken for the last one: a rotation reaches a long backup soon, by one small
/// request a minute.
const EPOCH_TRUSTED_MS: u64 = 60_000;

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
    /// What HEAD says of snapshots.
    pub columns: &'static dyn RootColumns,
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
    /// Where packs go, if this is the book of a write-only host.
    outbox: Option<Arc<Outbox>>,
    /// Block lists of its chunks, if it is one.
    lists: Option<Arc<BlockLists>>,
    /// How data packs are to lie, and all others.
    placing: (Placing, Placing),
    /// Whether records of snapshots that cannot be read here are read from copies.
    records_from_copies: bool,
    /// Contexts that wait to be used again: making one costs as much as decoding a small chunk.
    decompressors: Pool<Decompressor>,
    /// What the last look for lost packs found, and when that was, in milliseconds since the Unix epoch.
    lost: Mutex<Option<(u64, LostPacks)>>,
    /// What is known of single packs, and since when, in the same milliseconds.
    asked: Mutex<Option<(u64, Arc<Asked>)>>,
}

/// What was last read of HEAD, and what the index was brought up to.
struct State {
    head: Arc<Head>,
    /// When it was read, in milliseconds since the Unix epoch.
    read_ms: u64,
    synced: Option<Arc<Synced>>,
}

struct Synced {
    outline: Outline,
    damaged: Vec<(ObjectId, String)>,
}

impl ChunkStore {
    /// Creates a repository: key slot, configuration, HEAD, in this order; HEAD makes it exist. One that was
    /// interrupted is finished, with the configuration that it has, if the secret opens its slot. `kdf` is what a passphrase
    /// is to cost.
    /// What the store can do is for the caller to find out ([`crate::storage::probe`]).
    pub fn init<S: SlotSecret + ?Sized>(
        access: Access,
        params: ChunkerParams,
        secret: &S,
        kdf: KdfParams,
        owner: SlotOwner,
        layout: Layout,
    ) -> Result<Self> {
        let place = access.storage.place();
        match look(&*access.storage)? {
            Found::Nothing => {}
            Found::Unfinished => return Self::finish_init(access, &secret),
            Found::Whole => return Err(Error::AlreadyExists { place }),
            found @ Found::Damaged { .. } => return Err(opening::missing(&*access.storage, &found)),
        }
        let env = Arc::clone(&access.env);
        let id = RepositoryId(random_array(&*env)?);
        let keys = KeyRing::generate(id, &*env)?;
        let now_ms = u64::try_from(env.now().as_millis()).unwrap_or_default();
        let config = Config::new(id, params, now_ms, layout)?;
        let (slot, slot_bytes) = keys::make_slot(&keys, secret, kdf, owner, &*env)?;
        let slots = BTreeMap::from([(slot, keys.slot_hash(&slot_bytes))]);
        put_kept(&*access.storage, &names::key(&slot), &slot_bytes.into())?;
        if let Err(error) = access.storage.put(names::CONFIG, config.seal(&keys)?.into()) {
            return Err(match error.kind {
                ErrorKind::Conflict => {
                    // Another init was first; the slot opens nothing of it.
                    let _ = delete_kept(&*access.storage, &names::key(&slot));
                    Error::AlreadyExists { place }
                }
                // It may be there all the same: the next init goes on with it and the slot.
                _ => error.into(),
            });
        }
        Self::first_head(access, config, Arc::new(keys), slots)
    }

    /// Goes on with an init that was interrupted before it wrote HEAD.
    fn finish_init(access: Access, secret: &dyn SlotSecret) -> Result<Self> {
        let (bytes, config) = read_config(&*access.storage)?;
        if let Some(tier) = &config.tier {
            return Err(Error::Invalid(format!(
                "{} is the place of tier '{tier}', and nothing was written to it yet: 'esker tier init {tier}' goes on \
                 with it",
                access.storage.place()
            )));
        }
        let opened = Slots::find(&access, &config).and_then(|mut slots| slots.open_next(secret));
        let (slot, keys) = opened.map_err(|error| {
            Error::Invalid(format!(
                "an 'esker init' at {} was interrupted before it was done, and cannot be finished: {}. Nothing was \
                 backed up to it; remove what is there and start again",
                access.storage.place(),
                describe(&error)
            ))
        })?;
        Config::verify(&bytes, &keys)?;
        let slot_bytes = access.storage.get(&names::key(&slot), MAX_SMALL_LEN)?;
        put_kept(&*access.storage, &names::key(&slot), &slot_bytes)?;
        let slots = BTreeMap::from([(slot, keys.slot_hash(&slot_bytes))]);
        Self::first_head(access, config, Arc::new(keys), slots)
    }

    fn first_head(
        mut access: Access,
        config: Config,
        keys: Arc<KeyRing>,
        slots: BTreeMap<ObjectId, ObjectId>,
    ) -> Result<Self> {
        // By now there is one, and it is ours: its copies follow.
        let sealed = access.storage.get(names::CONFIG, MAX_SMALL_LEN)?;
        Config::verify(&sealed, &keys)?;
        put_kept(&*access.storage, names::CONFIG, &sealed)?;
        let place = access.storage.place();
        lay_out(&mut access, &config);
        let heads = Self::head_store(&access, &keys, &config);
        heads.create(slots).map_err(|error| match error {
            Error::Storage(error) if error.kind == ErrorKind::Conflict => Error::AlreadyExists { place },
            error => error,
        })?;
        Self::assemble(access, config, keys, heads)
    }

    /// Opens a repository with a secret; bytes are a passphrase. Of the key slots that it fits, one must be listed by HEAD,
    /// and have the key that HEAD is sealed under: others were removed, and came back.
    pub fn open<S: SlotSecret + ?Sized>(access: Access, secret: &S) -> Result<Self> {
        Self::open_any(access, &secret)
    }

    fn open_any(mut access: Access, secret: &dyn SlotSecret) -> Result<Self> {
        let (bytes, config) = read_config(&*access.storage)?;
        let mut slots = Slots::find(&access, &config)?;
        lay_out(&mut access, &config);
        let storage = Arc::clone(&access.storage);
        loop {
            let (slot, keys) = slots.open_next(secret)?;
            let keys = Arc::new(keys);
            Config::verify(&bytes, &keys)?;
            let heads = Self::head_store(&access, &keys, &config);
            let refused = match Self::assemble(access.clone(), config.clone(), keys, heads) {
                Err(error) if error.is_damage() && storage.read_head()?.is_none() => {
                    return Err(opening::missing(&*storage, &look(&*storage)?));
                }
                Err(refused @ Error::NotGranted { .. }) => refused,
                Ok(store) if !store.head().slots.contains_key(&slot) => Error::Invalid(format!(
                    "key slot {} was removed and is there again; it does not count",
                    slot.short()
                )),
                opened => return opened,
            };
            tracing::warn!("{refused}");
            slots.refuse(refused);
        }
    }

    fn head_store(access: &Access, keys: &Arc<KeyRing>, config: &Config) -> HeadStore {
        let seen = access.cache.as_ref().map(|cache| cache.join(format!("{}.head", keys.repository())));
        if let Some(cache) = &access.cache {
            let _ = crate::private::folder(cache);
        }
        keys.attach(&access.storage);
        let (storage, env) = (Arc::clone(&access.storage), Arc::clone(&access.env));
        HeadStore::new(storage, Arc::clone(keys), env, config.tier.clone(), access.columns, seen)
    }

    fn assemble(access: Access, config: Config, keys: Arc<KeyRing>, heads: HeadStore) -> Result<Self> {
        let head = Arc::new(heads.load()?.head);
        let index = open_index(access.cache.as_ref(), keys.repository(), head.tier.as_deref())?;
        let read_ms = u64::try_from(access.env.now().as_millis()).unwrap_or_default();
        let state = Mutex::new(State { head, read_ms, synced: None });
        let (decompressors, lost, asked) = (Pool::default(), Mutex::default(), Mutex::default());
        let placing = <(Placing, Placing)>::default();
        let records_from_copies = false;
        Ok(Self {
            access,
            config,
            keys,
            heads,
            index,
            state,
            outbox: None,
            lists: None,
            placing,
            records_from_copies,
            decompressors,
            lost,
            asked,
        })
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
        self.decompressors.take().map_or_else(Decompressor::new, Ok)
    }

    /// Takes one that is no longer used.
    pub(crate) fn recycle(&self, decompressor: Decompressor) {
        self.decompressors.put(decompressor);
    }

    /// The objects.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.access.storage
    }

    /// The same, with packs that go to the inbox of another repository.
    pub(crate) fn with_outbox(mut self, outbox: Arc<Outbox>) -> Self {
        self.outbox = Some(outbox);
        self
    }

    /// The same, whose new chunks are compared with block lists, since their bases cannot be read here.
    pub(crate) fn with_lists(mut self, lists: Arc<BlockLists>) -> Self {
        self.lists = Some(lists);
        self
    }

    pub(crate) fn lists(&self) -> Option<&Arc<BlockLists>> {
        self.lists.as_ref()
    }

    pub(crate) fn outbox(&self) -> Option<&Arc<Outbox>> {
        self.outbox.as_ref()
    }

    /// The store that packs go to.
    #[must_use]
    pub fn pack_storage(&self) -> &Arc<dyn Storage> {
        self.outbox.as_ref().map_or(&self.access.storage, |outbox| outbox.storage())
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
        locked(&self.state)
    }

    /// HEAD as last read.
    #[must_use]
    pub fn head(&self) -> Arc<Head> {
        Arc::clone(&self.state().head)
    }

    /// The epoch that everything new is sealed under, as far as this process has read HEAD.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.state().head.epoch()
    }

    /// The epoch for something new that is begun now: HEAD is looked at again if it was last read a while ago, since keys may
    /// have been rotated. If it cannot be read now, the next swap says so.
    pub(crate) fn epoch_now(&self) -> u32 {
        let (now_ms, known) = (self.now_ms(), self.epoch());
        let age_ms = now_ms.saturating_sub(self.state().read_ms);
        if age_ms < EPOCH_TRUSTED_MS {
            return known;
        }
        self.state().read_ms = now_ms;
        let there = self.access.storage.read_head().map_err(Error::from);
        let said = there.map(|there| there.and_then(|(sealed, _)| envelope::epoch_of(&sealed)));
        let moved = match said {
            Ok(said) if said.is_some_and(|said| said > known) => self.reload().map(drop),
            said => said.map(drop),
        };
        if let Err(error) = moved {
            tracing::debug!(%error, "whether keys were rotated is not known");
        }
        self.epoch()
    }

    fn take_head(&self, head: &Arc<Head>) {
        let read_ms = self.now_ms();
        let mut state = self.state();
        (state.head, state.read_ms) = (Arc::clone(head), read_ms);
    }

    /// Reads HEAD again.
    pub fn reload(&self) -> Result<Arc<Head>> {
        let head = Arc::new(self.heads.load()?.head);
        self.take_head(&head);
        Ok(head)
    }

    /// Reads a leaf of HEAD in the store and checks it; see [`HeadStore::check_leaf`].
    pub fn check_leaf(&self, leaf: &LeafRef) -> Result<()> {
        self.heads.check_leaf(leaf)
    }

    /// The copies of HEAD that none could be taken from; see [`HeadStore::damaged_copies`].
    pub fn damaged_head_copies(&self) -> Result<Vec<(String, &'static str)>> {
        self.heads.damaged_copies()
    }

    /// Writes a copy of HEAD again; see [`HeadStore::mend_copy`].
    pub fn mend_head_copy(&self, name: &str) -> Result<()> {
        self.heads.mend_copy(name)
    }

    /// Changes HEAD; see [`HeadStore::update`].
    pub fn update_head<R>(&self, change: impl FnMut(&mut Head) -> Result<R>) -> Result<R> {
        let (head, result) = self.heads.update(change)?;
        self.take_head(&Arc::new(head));
        Ok(result)
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

    /// Writes the object of a snapshot. It counts for nothing until HEAD lists it.
    ///
    /// `columns` is what the root says of it, see [`Root::columns`].
    pub fn write_snapshot(&self, plain: &[u8], columns: &[u8]) -> Result<Root> {
        let id = ObjectId(random_array(&*self.access.env)?);
        let (name, epoch) = (names::snapshot(&id), self.epoch());
        let sealed =
            envelope::seal(&self.keys, epoch, ObjectKind::Snapshot, &name, plain, &*self.access.env)?;
        let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
        self.access.storage.put(&name, sealed.into())?;
        let (columns, record) = (Bytes::copy_from_slice(columns), Body::Here(Bytes::copy_from_slice(plain)));
        Ok(Root { columns, record, ..Root::new(Root::SNAPSHOT, id, hash, epoch) })
    }
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

#[cfg(feature = "rocksdb")]
fn open_index(
    cache: Option<&PathBuf>,
    repository: &RepositoryId,
    tier: Option<&str>,
) -> Result<Arc<dyn ChunkIndex>> {
    // Each tier holds other packs, so each has an index of its own.
    let name = tier.map_or_else(|| repository.to_string(), |tier| format!("{repository}.{tier}"));
    Ok(match cache {
        Some(cache) => Arc::new(crate::index::spare::SpareIndex::open(&cache.join(name))?),
        None => Arc::new(MemoryIndex::default()),
    })
}

#[cfg(not(feature = "rocksdb"))]
fn open_index(_: Option<&PathBuf>, _: &RepositoryId, _: Option<&str>) -> Result<Arc<dyn ChunkIndex>> {
    Ok(Arc::new(MemoryIndex::default()))
}
