//! Passphrase → slot → keyring → one key per pack and object. `Debug` prints nothing secret.
//!
//! A slot wraps the whole keyring (master key and the data keys of all epochs) under a key that Argon2id (RFC 9106)
//! derives from a passphrase. Slots can be added and removed without changing data. The id key and the gear table are
//! derived from the master key and never rotated; data keys have epochs.

use crate::aead::{Cipher, counter_nonce};
use crate::env::{Env, random_array};
use crate::format::{self, ObjectKind, PackKind, TAG_LEN};
use crate::id::{ChunkId, ObjectId, PackId, RepositoryId, from_hex, to_hex};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use zeroize::{Zeroize as _, Zeroizing};

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

/// All secrets of a repository.
pub struct KeyRing {
    repository: RepositoryId,
    master: Key,
    epochs: BTreeMap<u32, Key>,
    id_key: Key,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyRing({})", self.repository.short())
    }
}

#[derive(Serialize, Deserialize)]
struct RingPayload {
    master: String,
    epochs: BTreeMap<u32, String>,
}

impl Drop for RingPayload {
    fn drop(&mut self) {
        self.master.zeroize();
        self.epochs.values_mut().for_each(|key| key.zeroize());
    }
}

impl KeyRing {
    /// Makes fresh keys, with epoch 1.
    pub fn generate(repository: RepositoryId, env: &dyn Env) -> Result<Self> {
        let master = Zeroizing::new(random_array(env)?);
        let epochs = BTreeMap::from([(1, Zeroizing::new(random_array(env)?))]);
        Ok(Self::assemble(repository, master, epochs))
    }

    fn assemble(repository: RepositoryId, master: Key, epochs: BTreeMap<u32, Key>) -> Self {
        let id_key = derive(&master, "chunk-id", &[]);
        Self { repository, master, epochs, id_key }
    }

    /// The repository these keys belong to.
    #[must_use]
    pub fn repository(&self) -> &RepositoryId {
        &self.repository
    }

    /// The epoch that new packs and objects are sealed under.
    #[must_use]
    pub fn current_epoch(&self) -> u32 {
        self.epochs.keys().next_back().copied().unwrap_or_default()
    }

    /// Names a chunk by its content.
    #[must_use]
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.id_key, plain).as_bytes())
    }

    /// The key that the gear table is drawn from.
    #[must_use]
    pub fn gear_key(&self) -> Zeroizing<[u8; 32]> {
        derive(&self.master, "gear", &[])
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

    /// The key of one small object, or `None` if this ring lacks the epoch.
    #[must_use]
    pub fn object_key(&self, kind: ObjectKind, epoch: u32, salt: &[u8; 32]) -> Option<CommittedKey> {
        let parent = derive(self.epochs.get(&epoch)?, kind.label(), &[salt]);
        Some(committed(&parent))
    }

    /// The key of one pack, or `None` if this ring lacks the epoch.
    #[must_use]
    pub fn pack_key(&self, kind: PackKind, epoch: u32, pack: &PackId) -> Option<CommittedKey> {
        let parent = derive(self.epochs.get(&epoch)?, "pack", &[&[kind as u8], pack.as_bytes()]);
        Some(committed(&parent))
    }
}

fn committed(parent: &[u8; 32]) -> CommittedKey {
    CommittedKey {
        cipher: Cipher::new(&derive(parent, "seal", &[])),
        commitment: *derive(parent, "commitment", &[]),
    }
}

/// Cost of turning a passphrase into a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KdfParams {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Independent lanes.
    pub lanes: u32,
}

impl KdfParams {
    /// KiB of memory times passes, to which the time is proportional.
    #[must_use]
    pub fn cost(&self) -> u64 {
        u64::from(self.memory_kib) * u64::from(self.passes)
    }
}

impl Default for KdfParams {
    /// RFC 9106's second recommendation: 64 MiB, three passes, four lanes; fits any machine.
    fn default() -> Self {
        Self { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

/// The readable first line of a slot; all of it is authenticated.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlotHeader {
    /// 1.
    pub version: u32,
    /// The repository it opens.
    pub repository_id: RepositoryId,
    /// How it is opened; only `passphrase` in version 1.
    pub kind: String,
    /// `argon2id`.
    pub kdf: String,
    /// Its cost.
    pub kdf_params: KdfParams,
    /// 32 bytes in hex.
    pub salt: ObjectId,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// Machine it was made on.
    pub hostname: String,
    /// User it was made by.
    pub username: String,
    /// The label that a person gave it.
    #[serde(default)]
    pub label: String,
}

/// Who made a slot, for people to recognise it by.
#[derive(Clone, Debug, Default)]
pub struct SlotOwner {
    /// Machine name.
    pub hostname: String,
    /// User name.
    pub username: String,
    /// Free text.
    pub label: String,
}

fn slot_key(passphrase: &[u8], header: &SlotHeader, slot: &ObjectId) -> Result<CommittedKey> {
    let KdfParams { memory_kib, passes, lanes } = header.kdf_params;
    if header.version != 1 || header.kind != "passphrase" || header.kdf != "argon2id" {
        return Err(Error::Unsupported { why: format!("key slot {} is of an unknown kind", slot.short()) });
    }
    if memory_kib > format::MAX_ARGON2_KIB || passes > format::MAX_ARGON2_PASSES || lanes > 256 {
        return Err(Error::corrupt(format::names::key(slot), "Argon2id cost over the limit"));
    }
    let params = argon2::Params::new(memory_kib, passes, lanes, Some(32))
        .map_err(|error| Error::corrupt(format::names::key(slot), error))?;
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut kek = Zeroizing::new([0u8; 32]);
    argon.hash_password_into(passphrase, header.salt.as_bytes(), &mut *kek).map_err(|error| match error {
        argon2::Error::OutOfMemory => Error::Memory { bytes: memory_kib as usize * 1024 },
        error => Error::corrupt(format::names::key(slot), error),
    })?;
    Ok(committed(&derive(&kek, "slot", &[header.repository_id.as_bytes(), slot.as_bytes()])))
}

/// Wraps a keyring for a passphrase; returns the slot's id and its bytes.
pub fn make_slot(
    ring: &KeyRing,
    passphrase: &[u8],
    params: KdfParams,
    owner: SlotOwner,
    env: &dyn Env,
) -> Result<(ObjectId, Vec<u8>)> {
    let slot = ObjectId(random_array(env)?);
    let header = SlotHeader {
        version: 1,
        repository_id: ring.repository,
        kind: "passphrase".into(),
        kdf: "argon2id".into(),
        kdf_params: params,
        salt: ObjectId(random_array(env)?),
        created_ms: u64::try_from(env.now().as_millis()).unwrap_or_default(),
        hostname: owner.hostname,
        username: owner.username,
        label: owner.label,
    };
    let key = slot_key(passphrase, &header, &slot)?;
    let line = serde_json::to_string(&header).map_err(|error| Error::Invalid(error.to_string()))?;
    let payload = RingPayload {
        master: to_hex(&*ring.master),
        epochs: ring.epochs.iter().map(|(epoch, key)| (*epoch, to_hex(&**key))).collect(),
    };
    let mut sealed =
        Zeroizing::new(serde_json::to_vec(&payload).map_err(|error| Error::Invalid(error.to_string()))?);
    let tag = key.cipher.seal(counter_nonce(0), line.as_bytes(), &mut sealed);
    let text = format!("{line}\n{}{}{}\n", to_hex(&key.commitment), to_hex(&sealed), to_hex(&tag));
    Ok((slot, text.into_bytes()))
}

/// Reads the readable part of a slot.
pub fn slot_header(slot: &ObjectId, bytes: &[u8]) -> Result<SlotHeader> {
    let (line, _) =
        split_lines(bytes).ok_or_else(|| Error::corrupt(format::names::key(slot), "not two lines"))?;
    serde_json::from_str(line).map_err(|error| Error::corrupt(format::names::key(slot), error))
}

/// Opens a slot; `Ok(None)` means that the passphrase belongs to another one.
pub fn open_slot(slot: &ObjectId, bytes: &[u8], passphrase: &[u8]) -> Result<Option<KeyRing>> {
    let name = format::names::key(slot);
    let header = slot_header(slot, bytes)?;
    let (line, hex) = split_lines(bytes).ok_or_else(|| Error::corrupt(&name, "not two lines"))?;
    let sealed = from_hex(hex).ok_or_else(|| Error::corrupt(&name, "second line is not hex"))?;
    let key = slot_key(passphrase, &header, slot)?;
    let (commitment, rest) =
        sealed.split_at_checked(32).ok_or_else(|| Error::corrupt(&name, "second line too short"))?;
    // blake3::Hash compares in constant time.
    if blake3::Hash::from(key.commitment) != *commitment {
        return Ok(None);
    }
    let (body, tag) = rest
        .len()
        .checked_sub(TAG_LEN)
        .and_then(|len| rest.split_at_checked(len))
        .ok_or_else(|| Error::corrupt(&name, "second line too short"))?;
    let mut body = Zeroizing::new(body.to_vec());
    key.cipher
        .open(counter_nonce(0), line.as_bytes(), &mut body, tag)
        .map_err(|error| Error::corrupt(&name, error))?;
    let payload: RingPayload = serde_json::from_slice(&body).map_err(|error| Error::corrupt(&name, error))?;
    let key = |hex: &str| -> Result<Key> {
        let bytes = Zeroizing::new(from_hex(hex).ok_or_else(|| Error::corrupt(&name, "key is not hex"))?);
        let array =
            <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| Error::corrupt(&name, "key length"))?;
        Ok(Zeroizing::new(array))
    };
    let mut epochs = BTreeMap::new();
    for (epoch, hex) in &payload.epochs {
        epochs.insert(*epoch, key(hex)?);
    }
    if epochs.is_empty() {
        return Err(Error::corrupt(&name, "no data key"));
    }
    Ok(Some(KeyRing::assemble(header.repository_id, key(&payload.master)?, epochs)))
}

/// Splits a text object into its two lines, each ended by a line feed, nothing after.
pub(crate) fn split_lines(bytes: &[u8]) -> Option<(&str, &str)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (first, rest) = text.split_once('\n')?;
    let second = rest.strip_suffix('\n')?;
    (!second.contains('\n')).then_some((first, second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEnv;

    const CHEAP: KdfParams = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };

    #[test]
    fn slots_open_with_their_passphrase_only() {
        let env = SeededEnv::new(1);
        let ring = KeyRing::generate(RepositoryId([3; 16]), &env).unwrap();
        let (id, bytes) = make_slot(&ring, b"correct", CHEAP, SlotOwner::default(), &env).unwrap();
        let opened = open_slot(&id, &bytes, b"correct").unwrap().unwrap();
        assert_eq!(opened.chunk_id(b"x"), ring.chunk_id(b"x"));
        assert_eq!(*opened.gear_key(), *ring.gear_key());
        assert!(open_slot(&id, &bytes, b"wrong").unwrap().is_none());
    }

    #[test]
    fn every_flipped_byte_of_a_slot_is_noticed() {
        let env = SeededEnv::new(2);
        let ring = KeyRing::generate(RepositoryId([3; 16]), &env).unwrap();
        let (id, bytes) = make_slot(&ring, b"pw", CHEAP, SlotOwner::default(), &env).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(!matches!(open_slot(&id, &bad, b"pw"), Ok(Some(_))), "byte {at}");
            assert_ne!(ring.slot_hash(&bad), ring.slot_hash(&bytes));
        }
    }

    #[test]
    fn a_hostile_slot_cannot_ask_for_a_terabyte() {
        let env = SeededEnv::new(3);
        let ring = KeyRing::generate(RepositoryId([3; 16]), &env).unwrap();
        let (id, bytes) = make_slot(&ring, b"pw", CHEAP, SlotOwner::default(), &env).unwrap();
        let text = String::from_utf8(bytes).unwrap().replace("\"memory_kib\":8", "\"memory_kib\":4294967295");
        assert!(open_slot(&id, text.as_bytes(), b"pw").is_err());
    }
}
