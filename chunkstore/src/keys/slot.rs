//! Key slots: a key pair each, and the ring as it was when the slot was made, sealed under the slot's own secret
//! (`secret.rs`).

use super::header::{KdfParams, SlotHeader};
use super::hybrid::PrivateKey;
use super::secret::{NewSlot, SlotSecret};
use super::{CommittedKey, Key, KeyRing, OwnSlot, committed, derive};
use crate::aead::counter_nonce;
use crate::env::{Env, random_array};
use crate::format::{self, TAG_LEN};
use crate::id::{ObjectId, RepositoryId, from_hex, to_hex};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use zeroize::{Zeroize as _, Zeroizing};

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

/// The key under which a slot is sealed, from its secret.
pub(super) fn slot_key(secret: &[u8; 32], repository: &RepositoryId, slot: &ObjectId) -> CommittedKey {
    committed(&derive(secret, "slot", &[repository.as_bytes(), slot.as_bytes()]))
}

/// Makes a slot for a secret, with all keys that the ring has; returns the slot's id and its bytes. A ring that was opened
/// by no slot is opened by this one from then on. `kdf` is what a passphrase is to cost.
///
/// # Errors
///
/// There is no randomness or no memory, or the secret's service does not take part.
pub fn make_slot<S: SlotSecret + ?Sized>(
    ring: &KeyRing,
    secret: &S,
    kdf: KdfParams,
    owner: SlotOwner,
    env: &dyn Env,
) -> Result<(ObjectId, Vec<u8>)> {
    let slot = ObjectId(random_array(env)?);
    let (private, public) = PrivateKey::generate(env)?;
    let (method, secret) = secret.make(&NewSlot { repository: &ring.repository, slot: &slot, kdf, env })?;
    let header = SlotHeader {
        version: 1,
        repository_id: ring.repository,
        kind: method.kind,
        members: method.members,
        public: ObjectId(public),
        epoch: ring.latest_epoch(),
        created_ms: u64::try_from(env.now().as_millis()).unwrap_or_default(),
        hostname: owner.hostname,
        username: owner.username,
        label: owner.label,
    };
    let key = slot_key(&secret, &header.repository_id, &slot);
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

/// Opens a slot; `Ok(None)` means that the secret belongs to another one.
///
/// # Errors
///
/// It is damaged, of a version that is not known ([`Error::Unsupported`]), or its secret cannot be had.
pub fn open_slot<S: SlotSecret + ?Sized>(
    slot: &ObjectId,
    bytes: &[u8],
    secret: &S,
) -> Result<Option<KeyRing>> {
    let name = format::names::key(slot);
    let header = slot_header(slot, bytes)?;
    let (line, hex) = split_lines(bytes).ok_or_else(|| Error::corrupt(&name, "not two lines"))?;
    let sealed = from_hex(hex).ok_or_else(|| Error::corrupt(&name, "second line is not hex"))?;
    if !secret.is_for(&header) {
        return if header.is_known() { Ok(None) } else { Err(unsupported(slot, &header)) };
    }
    let opened = secret.open(slot, &header)?;
    let key = slot_key(&opened, &header.repository_id, slot);
    let (commitment, rest) =
        sealed.split_at_checked(32).ok_or_else(|| Error::corrupt(&name, "second line too short"))?;
    // blake3::Hash compares in constant time.
    if blake3::Hash::from(key.commitment) != *commitment {
        return Ok(None);
    }
    secret.opened(slot, &header);
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

/// That a slot is of a kind or version that this version does not know.
pub(crate) fn unsupported(slot: &ObjectId, header: &SlotHeader) -> Error {
    let (kind, version) = (header.kind_shown(), header.version);
    Error::Unsupported { why: format!("key slot {} is of kind '{kind}', version {version}", slot.short()) }
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
