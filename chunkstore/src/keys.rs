//! Secret of a slot → key pair of the slot → ring of keys → one key per pack and object. `Debug` prints nothing secret.
//!
//! A slot has a key pair, whose private key is sealed under the slot's own secret, and the ring (master key and the data keys of
//! all epochs) as it was when the slot was made. Later data keys reach it as *grants*, sealed to its public key. Slots come
//! and go without a change of data. The id key and the gear table are derived from the master key and never change; data
//! keys have epochs.

use crate::aead::Cipher;
use crate::env::{Env, random_array};
use crate::format::{ObjectKind, PackKind, names};
use crate::id::{ChunkId, ObjectId, PackId, RepositoryId};
use crate::pool::locked;
use crate::storage::Storage;
use crate::{Error, Result};
use hybrid::PrivateKey;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use zeroize::Zeroizing;

pub(crate) mod grants;
mod header;
mod hybrid;
mod inbox;
mod raw;
mod read;
mod secret;
mod shamir;
mod shares;
mod slot;
#[cfg(test)]
mod tests;
mod text;
pub use grants::Grants;
pub use header::{Argon2, KdfParams, SlotHeader, Split, Wrapped};
pub(crate) use inbox::CHANNEL;
pub use inbox::{HostKeys, SealedRunKey};
pub use raw::RawKey;
pub use read::KeyText;
pub use secret::{Method, NewSlot, SlotSecret};
pub use shares::{Share, Shares};
pub use slot::{SlotOwner, make_slot, open_slot, slot_header};
pub(crate) use slot::{split_lines, unsupported};
pub use text::{KeyBytes, KeyTextError};

type Key = Zeroizing<[u8; 32]>;

/// Derives a key: BLAKE3 keyed with `parent` over the label's length, the label and the context.
#[must_use]
pub fn derive(parent: &[u8; 32], label: &str, context: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut hasher = blake3::Hasher::new_keyed(parent);
    let label_len = u8::try_from(label.len()).expect("labels are short");
    hasher.update(&[label_len]).update(label.as_bytes());
    for part in context {
        hasher.update(part);
    }
    Zeroizing::new(*hasher.finalize().as_bytes())
}

/// A key and the commitment that is stored beside its ciphertext: GCM alone would allow one ciphertext to open under
/// two keys.
pub struct CommittedKey {
    /// Ready for use.
    pub cipher: Cipher,
    /// To be compared before opening anything.
    pub commitment: [u8; 32],
}

/// The slot by which a process opened the repository.
struct OwnSlot {
    id: ObjectId,
    private: PrivateKey,
}

/// What chunks are named and cut by.
#[derive(Clone)]
pub(crate) struct Naming {
    pub(crate) id_key: Key,
    pub(crate) gear_key: Key,
}

/// All secrets of a repository, as far as this process has met them: a data key of an epoch that it lacks is read from
/// the grants in the places that the repository was opened at.
pub struct KeyRing {
    repository: RepositoryId,
    master: Key,
    id_key: Key,
    /// Those of another repository that chunks are named and cut by, in a host's book of what it stored there.
    lent: OnceLock<Naming>,
    epochs: RwLock<BTreeMap<u32, Key>>,
    /// This epoch and all before it are retired: their keys are not kept, and not used.
    retired: AtomicU32,
    own: OnceLock<OwnSlot>,
    places: Mutex<Vec<Weak<dyn Storage>>>,
    /// One thread at a time reads grants.
    learning: Mutex<()>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyRing({})", self.repository.short())
    }
}

impl KeyRing {
    /// Makes fresh keys, with epoch 1. The first slot that is made of them is the one that they are opened by.
    pub fn generate(repository: RepositoryId, env: &dyn Env) -> Result<Self> {
        let master = Zeroizing::new(random_array(env)?);
        let epochs = BTreeMap::from([(1, Zeroizing::new(random_array(env)?))]);
        Ok(Self::assemble(repository, master, epochs))
    }

    fn assemble(repository: RepositoryId, master: Key, epochs: BTreeMap<u32, Key>) -> Self {
        let id_key = derive(&master, "chunk-id", &[]);
        let (own, places, learning) = (OnceLock::new(), Mutex::default(), Mutex::default());
        let (epochs, retired) = (RwLock::new(epochs), AtomicU32::new(0));
        let lent = OnceLock::new();
        Self { repository, master, id_key, lent, epochs, retired, own, places, learning }
    }

    /// The repository these keys belong to.
    #[must_use]
    pub fn repository(&self) -> &RepositoryId {
        &self.repository
    }

    /// The slot by which it was opened.
    #[must_use]
    pub fn own_slot(&self) -> Option<ObjectId> {
        self.own.get().map(|own| own.id)
    }

    /// The public key of that slot.
    pub(crate) fn own_public(&self) -> Option<[u8; 32]> {
        self.own.get().map(|own| own.private.public())
    }

    /// The latest epoch whose key is known.
    #[must_use]
    pub fn latest_epoch(&self) -> u32 {
        self.with_epochs(|epochs| epochs.keys().next_back().copied().unwrap_or_default())
    }

    /// The epochs whose keys are known.
    #[must_use]
    pub fn epochs(&self) -> Vec<u32> {
        self.with_epochs(|epochs| epochs.keys().copied().collect())
    }

    fn with_epochs<R>(&self, read: impl FnOnce(&BTreeMap<u32, Key>) -> R) -> R {
        read(&self.epochs.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds keys of epochs. Of one that is known, the key must be the same: whoever had a slot once, and writes to the
    /// store, knows the master key, but no later data key.
    fn add(&self, keys: impl IntoIterator<Item = (u32, Key)>) -> Result<()> {
        let retired = self.retired();
        let keys: Vec<(u32, Key)> = keys.into_iter().filter(|(epoch, _)| *epoch > retired).collect();
        let mut epochs = self.epochs.write().unwrap_or_else(PoisonError::into_inner);
        for (epoch, key) in &keys {
            if epochs.get(epoch).is_some_and(|known| blake3::Hash::from(**known) != **key) {
                let why = format!("they have another key of epoch {epoch} than the one in use");
                return Err(Error::corrupt(names::GRANTS, why));
            }
        }
        epochs.extend(keys);
        Ok(())
    }

    /// Lets go of the keys of an epoch that was retired and of all before it.
    pub(crate) fn retire(&self, epoch: u32) {
        if self.retired.fetch_max(epoch, Ordering::AcqRel) < epoch {
            let mut epochs = self.epochs.write().unwrap_or_else(PoisonError::into_inner);
            epochs.retain(|known, _| *known > epoch);
        }
    }

    /// The highest epoch that is known to be retired; 0 if none is.
    #[must_use]
    pub fn retired(&self) -> u32 {
        self.retired.load(Ordering::Acquire)
    }

    /// Forgets the key of an epoch that never came to be.
    pub(crate) fn forget_epoch(&self, epoch: u32) {
        self.epochs.write().unwrap_or_else(PoisonError::into_inner).remove(&epoch);
    }

    /// Notes a place whose grants may have keys that are missing here.
    pub(crate) fn attach(&self, place: &Arc<dyn Storage>) {
        let mut places = locked(&self.places);
        places.retain(|known| known.strong_count() > 0);
        places.push(Arc::downgrade(place));
    }

    /// The key of an epoch: a known one, or one that is granted to the own slot.
    fn epoch_key(&self, epoch: u32) -> Result<Key> {
        if epoch <= self.retired() && epoch > 0 {
            return Err(Error::RetiredEpoch { epoch });
        }
        let known = || self.with_epochs(|epochs| epochs.get(&epoch).cloned());
        if let Some(key) = known() {
            return Ok(key);
        }
        let _one_at_a_time = locked(&self.learning);
        if let Some(key) = known() {
            return Ok(key);
        }
        let mut failed = None;
        let places: Vec<Arc<dyn Storage>> = locked(&self.places).iter().filter_map(Weak::upgrade).collect();
        for place in &places {
            match grants::learn(self, &**place, epoch) {
                Ok(()) => {}
                Err(error) => drop(failed.get_or_insert(error)),
            }
            if let Some(key) = known() {
                tracing::info!(epoch, "a data key was granted to the key slot in use");
                return Ok(key);
            }
        }
        Err(failed.unwrap_or_else(|| {
            Error::corrupt(
                names::grants(epoch),
                format!(
                    "it is missing, and has the data key of epoch {epoch}, if that is what is needed: 'esker repair head' \
                     finds out"
                ),
            )
        }))
    }

    /// Takes the keys in the grants of an epoch that lie elsewhere.
    ///
    /// # Errors
    ///
    /// They are damaged, of another repository or epoch, or have none for the own slot.
    pub fn take(&self, epoch: u32, bytes: &[u8]) -> Result<()> {
        grants::take(self, &names::grants(epoch), bytes)
    }

    /// Whether the key of an epoch can be had.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub fn has_epoch(&self, epoch: u32) -> Result<bool> {
        match self.epoch_key(epoch) {
            Ok(_) => Ok(true),
            Err(error) if error.is_damage() || is_refused(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The epoch that an object says it is sealed under, if no key of it can be had and none that is known opens it.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub fn lacks_key_of(&self, kind: ObjectKind, sealed: &[u8]) -> Result<Option<u32>> {
        let Some(epoch) = crate::envelope::epoch_of(sealed) else { return Ok(None) };
        let lacks =
            !self.has_epoch(epoch)? && !crate::envelope::is_of_one(self, &self.epochs(), kind, sealed);
        Ok(lacks.then_some(epoch))
    }

    /// Names a chunk by its content.
    #[must_use]
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        let id_key = self.lent.get().map_or(&self.id_key, |lent| &lent.id_key);
        ChunkId(*blake3::keyed_hash(id_key, plain).as_bytes())
    }

    /// The key that the gear table is drawn from.
    #[must_use]
    pub fn gear_key(&self) -> Zeroizing<[u8; 32]> {
        match self.lent.get() {
            Some(lent) => lent.gear_key.clone(),
            None => derive(&self.master, "gear", &[]),
        }
    }

    /// Authenticates the text of the configuration.
    #[must_use]
    pub fn config_mac(&self, text: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&derive(&self.master, "config", &[]), text).as_bytes()
    }

    /// Authenticates a key slot's bytes for HEAD, which lists all slots.
    #[must_use]
    pub fn slot_hash(&self, bytes: &[u8]) -> ObjectId {
        ObjectId(*blake3::keyed_hash(&derive(&self.master, "slot-list", &[]), bytes).as_bytes())
    }

    /// The key of what lies outside of the repository for a time and only its owner may read, such as settings of a
    /// server that a restore changes and has to put back. `salt` is random and used once.
    #[must_use]
    pub fn aside_key(&self, salt: &[u8; 32]) -> CommittedKey {
        committed(&derive(&self.master, "aside", &[salt]))
    }

    /// The key of one small object.
    ///
    /// # Errors
    ///
    /// No data key of the epoch is known, and none can be had from grants.
    pub fn object_key(&self, kind: ObjectKind, epoch: u32, salt: &[u8; 32]) -> Result<CommittedKey> {
        let parent = derive(&*self.epoch_key(epoch)?, kind.label(), &[salt]);
        Ok(committed(&parent))
    }

    /// The key of one pack.
    ///
    /// # Errors
    ///
    /// As [`KeyRing::object_key`].
    pub fn pack_key(&self, kind: PackKind, epoch: u32, pack: &PackId) -> Result<CommittedKey> {
        let parent = derive(&*self.epoch_key(epoch)?, "pack", &[&[kind as u8], pack.as_bytes()]);
        Ok(committed(&parent))
    }
}

/// Whether a key cannot be had for good.
fn is_refused(error: &Error) -> bool {
    matches!(error, Error::NotGranted { .. } | Error::RetiredEpoch { .. })
}

fn committed(parent: &[u8; 32]) -> CommittedKey {
    CommittedKey {
        cipher: Cipher::new(&derive(parent, "seal", &[])),
        commitment: *derive(parent, "commitment", &[]),
    }
}
