//! Key slots: a key pair each, and the ring as it was when the slot was made, sealed under the slot's own secret. Of that
//! secret there may be several kinds: this version makes and opens passphrases. The public key of a slot of another kind
//! can be read all the same, so that rotation reaches it.

use super::hybrid::PrivateKey;
use super::{CommittedKey, Key, KeyRing, OwnSlot, committed, derive};
use crate::aead::counter_nonce;
use crate::env::{Env, random_array};
use crate::format::{self, TAG_LEN};
use crate::id::{ObjectId, RepositoryId, from_hex, to_hex};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use zeroize::{Zeroize as _, Zeroizing};

/// The kind of slots that a passphrase opens.
const PASSPHRASE: &str = "passphrase";

/// What the secret of a slot opens, in hex.
#[derive(Serialize, Deserialize)]
struct SlotPayload {
    private: String,
    master: String,
    epochs: BTreeMap<u32, String>,
}

impl Drop for SlotPayload {
    fn drop(&mut self) {
        self.private.zeroize();
        self.master.zeroize();
        self.epochs.values_mut().for_each(|key| key.zeroize());
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

/// How a passphrase becomes a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Argon2 {
    /// `argon2id`.
    pub kdf: String,
    /// Its cost.
    pub kdf_params: KdfParams,
    /// 32 bytes in hex.
    pub salt: ObjectId,
}

/// The readable first line of a slot; all of it is authenticated.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlotHeader {
    /// 1.
    pub version: u32,
    /// The repository it opens.
    pub repository_id: RepositoryId,
    /// How it is opened; `passphrase`, or what a later version knows.
    pub kind: String,
    /// Of a passphrase.
    #[serde(flatten)]
    argon2: Option<Argon2>,
    /// Its public key (X25519), in hex. Whoever seals to it checks first that HEAD lists the slot with these bytes.
    pub public: ObjectId,
    /// The latest epoch whose key is in it.
    pub epoch: u32,
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

impl SlotHeader {
    /// How its passphrase becomes a key, if a passphrase that this version knows opens it.
    #[must_use]
    pub fn argon2(&self) -> Option<&Argon2> {
        let is_known = self.version == 1 && self.kind == PASSPHRASE;
        self.argon2.as_ref().filter(|argon2| is_known && argon2.kdf == "argon2id")
    }

    /// Its kind, for people, in letters that are harmless wherever they are printed.
    #[must_use]
    pub fn kind_shown(&self) -> String {
        let is_plain =
            |letter: &char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || *letter == '-';
        self.kind.chars().filter(is_plain).take(32).collect()
    }
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
    let Some(Argon2 { kdf_params, salt, .. }) = header.argon2() else {
        let kind = header.kind_shown();
        let why = format!("key slot {} is of kind '{kind}', version {}", slot.short(), header.version);
        return Err(Error::Unsupported { why });
    };
    let KdfParams { memory_kib, passes, lanes } = *kdf_params;
    if memory_kib > format::MAX_ARGON2_KIB || passes > format::MAX_ARGON2_PASSES || lanes > 256 {
        return Err(Error::corrupt(format::names::key(slot), "Argon2id cost over the limit"));
    }
    let params = argon2::Params::new(memory_kib, passes, lanes, Some(32))
        .map_err(|error| Error::corrupt(format::names::key(slot), error))?;
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut kek = Zeroizing::new([0u8; 32]);
    argon.hash_password_into(passphrase, salt.as_bytes(), &mut *kek).map_err(|error| match error {
        argon2::Error::OutOfMemory => Error::Memory { bytes: memory_kib as usize * 1024 },
        error => Error::corrupt(format::names::key(slot), error),
    })?;
    Ok(committed(&derive(&kek, "slot", &[header.repository_id.as_bytes(), slot.as_bytes()])))
}

/// Makes a slot that a passphrase opens, with all keys that the ring has; returns the slot's id and its bytes. A ring
/// that was opened by no slot is opened by this one from then on.
pub fn make_slot(
    ring: &KeyRing,
    passphrase: &[u8],
    params: KdfParams,
    owner: SlotOwner,
    env: &dyn Env,
) -> Result<(ObjectId, Vec<u8>)> {
    let slot = ObjectId(random_array(env)?);
    let (private, public) = PrivateKey::generate(env)?;
    let argon2 = Argon2 { kdf: "argon2id".into(), kdf_params: params, salt: ObjectId(random_array(env)?) };
    let header = SlotHeader {
        version: 1,
        repository_id: ring.repository,
        kind: PASSPHRASE.into(),
        argon2: Some(argon2),
        public: ObjectId(public),
        epoch: ring.latest_epoch(),
        created_ms: u64::try_from(env.now().as_millis()).unwrap_or_default(),
        hostname: owner.hostname,
        username: owner.username,
        label: owner.label,
    };
    let key = slot_key(passphrase, &header, &slot)?;
    let line = serde_json::to_string(&header).map_err(|error| Error::Invalid(error.to_string()))?;
    let payload = SlotPayload {
        private: to_hex(&*private.to_bytes()),
        master: to_hex(&*ring.master),
        epochs: ring.with_epochs(|all| all.iter().map(|(epoch, key)| (*epoch, to_hex(&**key))).collect()),
    };
    let mut sealed =
        Zeroizing::new(serde_json::to_vec(&payload).map_err(|error| Error::Invalid(error.to_string()))?);
    let tag = key.cipher.seal(counter_nonce(0), line.as_bytes(), &mut sealed);
    let text = format!("{line}\n{}{}{}\n", to_hex(&key.commitment), to_hex(&sealed), to_hex(&tag));
    let _ = ring.own.set(OwnSlot { id: slot, private });
    Ok((slot, text.into_bytes()))
}

/// Reads the readable part of a slot.
pub fn slot_header(slot: &ObjectId, bytes: &[u8]) -> Result<SlotHeader> {
    let (line, _) =
        split_lines(bytes).ok_or_else(|| Error::corrupt(format::names::key(slot), "not two lines"))?;
    serde_json::from_str(line).map_err(|error| Error::corrupt(format::names::key(slot), error))
}

/// Opens a slot; `Ok(None)` means that the passphrase belongs to another one.
///
/// # Errors
///
/// It is damaged, or of a kind that no passphrase opens ([`Error::Unsupported`]).
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
    let payload: SlotPayload = serde_json::from_slice(&body).map_err(|error| Error::corrupt(&name, error))?;
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
    let private = PrivateKey::from_bytes(&*key(&payload.private)?)
        .filter(|private| private.public() == header.public.0)
        .ok_or_else(|| Error::corrupt(&name, "its private key is not that of its public key"))?;
    let ring = KeyRing::assemble(header.repository_id, key(&payload.master)?, epochs);
    let _ = ring.own.set(OwnSlot { id: *slot, private });
    Ok(Some(ring))
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
    use crate::id::RepositoryId;

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
    fn a_slot_of_a_later_kind_is_named_and_has_a_public_key() {
        let env = SeededEnv::new(4);
        let ring = KeyRing::generate(RepositoryId([3; 16]), &env).unwrap();
        let (id, bytes) = make_slot(&ring, b"pw", CHEAP, SlotOwner::default(), &env).unwrap();
        let known = slot_header(&id, &bytes).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let line = text.lines().next().unwrap();
        let mut header: serde_json::Value = serde_json::from_str(line).unwrap();
        for field in ["kdf", "kdf_params", "salt"] {
            header.as_object_mut().unwrap().remove(field);
        }
        (header["kind"], header["share"]) = ("shares-\u{1b}2".into(), 7.into());
        let later = text.replace(line, &header.to_string());
        let read = slot_header(&id, later.as_bytes()).unwrap();
        assert_eq!((read.public, read.argon2().is_none()), (known.public, true));
        let refused = open_slot(&id, later.as_bytes(), b"pw").unwrap_err();
        assert!(matches!(refused, Error::Unsupported { .. }));
        assert!(refused.to_string().contains("kind 'shares-2'"), "{refused}");
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
