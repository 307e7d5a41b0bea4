//! How small objects are sealed: a header with a random salt, and one AES-256-GCM record under a key derived from that
//! salt, so that no key ever seals twice. Header, repository and the object's name are authenticated, so one object
//! cannot replace another.

use crate::aead::counter_nonce;
use crate::env::{Env, random_array};
use crate::format::{
    Decoder, ENVELOPE_HEADER_LEN, ENVELOPE_MAGIC, Encoder, FORMAT_VERSION, ObjectKind, TAG_LEN,
};
use crate::id::RepositoryId;
use crate::keys::{CommittedKey, KeyRing};
use crate::{Error, Result, error::InObject as _, memory};
use bytes::Bytes;
use std::ops::Range;

fn aad(header: &[u8], repository: &RepositoryId, name: &str) -> Vec<u8> {
    let mut aad = Encoder::default();
    aad.raw(header).raw(repository.as_bytes()).raw(name.as_bytes());
    aad.bytes
}

/// Seals `plain` as the object `name`, under the key of an epoch.
pub fn seal(
    keys: &KeyRing,
    epoch: u32,
    kind: ObjectKind,
    name: &str,
    plain: &[u8],
    env: &dyn Env,
) -> Result<Vec<u8>> {
    let salt = random_array(env)?;
    let key = keys.object_key(kind, epoch, &salt)?;
    let mut out = Encoder { bytes: memory::room(ENVELOPE_HEADER_LEN + plain.len() + TAG_LEN)? };
    out.raw(ENVELOPE_MAGIC).u8(kind as u8).u8(FORMAT_VERSION).u32(epoch).raw(&salt).raw(&key.commitment);
    let aad = aad(&out.bytes, keys.repository(), name);
    out.raw(plain);
    let tag = key.cipher.seal(counter_nonce(0), &aad, &mut out.bytes[ENVELOPE_HEADER_LEN..]);
    out.raw(&tag);
    Ok(out.bytes)
}

/// Names the object that is sealed under a retired epoch.
pub(crate) fn refused(error: Error, name: &str) -> Error {
    match error {
        error @ Error::RetiredEpoch { .. } => Error::corrupt(name, error),
        error => error,
    }
}

/// The epoch that an object says it was sealed under, whatever it is.
#[must_use]
pub fn epoch_of(sealed: &[u8]) -> Option<u32> {
    let mut decoder = Decoder::new(sealed, "sealed object");
    let is_one = decoder.array::<6>().ok()? == *ENVELOPE_MAGIC;
    decoder.u16().ok()?;
    decoder.u32().ok().filter(|_| is_one)
}

/// Whether the key of any of `epochs` sealed an object, whatever epoch its header says: if that one has a flipped bit, the
/// object is damaged, and no key is missing.
#[must_use]
pub fn is_of_one(keys: &KeyRing, epochs: &[u32], kind: ObjectKind, sealed: &[u8]) -> bool {
    let Some(rest) = sealed.get(ENVELOPE_MAGIC.len() + 2 + 4..ENVELOPE_HEADER_LEN) else { return false };
    let Some((salt, commitment)) = rest.split_first_chunk::<32>() else { return false };
    epochs.iter().any(|epoch| {
        keys.object_key(kind, *epoch, salt).is_ok_and(|key| blake3::Hash::from(key.commitment) == *commitment)
    })
}

/// Opens the object `name`, or says that it is damaged, of another kind, or from a newer version.
pub fn open(keys: &KeyRing, kind: ObjectKind, name: &str, sealed: &[u8]) -> Result<Vec<u8>> {
    let key = |kind, epoch, salt: &_| keys.object_key(kind, epoch, salt);
    open_by(key, keys.repository(), kind, name, sealed)
}

/// The same, with a key that `key` finds by kind, epoch and salt.
pub(crate) fn open_by(
    key: impl FnOnce(ObjectKind, u32, &[u8; 32]) -> Result<CommittedKey>,
    repository: &RepositoryId,
    kind: ObjectKind,
    name: &str,
    sealed: &[u8],
) -> Result<Vec<u8>> {
    let (key, body) = read_header(key, kind, name, sealed)?;
    let mut plain = memory::copy(&sealed[body.clone()])?;
    let aad = aad(&sealed[..body.start], repository, name);
    key.cipher
        .open(counter_nonce(0), &aad, &mut plain, &sealed[body.end..])
        .map_err(|error| Error::corrupt(name, error))?;
    Ok(plain)
}

/// As [`open`], without a copy.
pub fn open_in_place(keys: &KeyRing, kind: ObjectKind, name: &str, mut sealed: Vec<u8>) -> Result<Bytes> {
    let key = |kind, epoch, salt: &_| keys.object_key(kind, epoch, salt);
    let (key, body) = read_header(key, kind, name, &sealed)?;
    let (header, rest) = sealed.split_at_mut(body.start);
    let (plain, tag) = rest.split_at_mut(body.len());
    key.cipher
        .open(counter_nonce(0), &aad(header, keys.repository(), name), plain, tag)
        .map_err(|error| Error::corrupt(name, error))?;
    Ok(Bytes::from(sealed).slice(body))
}

/// The key of a sealed object, and where its ciphertext lies: behind the header and before the tag.
fn read_header(
    key: impl FnOnce(ObjectKind, u32, &[u8; 32]) -> Result<CommittedKey>,
    kind: ObjectKind,
    name: &str,
    sealed: &[u8],
) -> Result<(CommittedKey, Range<usize>)> {
    let mut decoder = Decoder::new(sealed, "sealed object");
    if decoder.array::<6>().in_object(name)? != *ENVELOPE_MAGIC {
        return Err(Error::corrupt(name, "not an esker object"));
    }
    if decoder.u8().in_object(name)? != kind as u8 {
        return Err(Error::corrupt(name, "object of another kind"));
    }
    let version = decoder.u8().in_object(name)?;
    if version != FORMAT_VERSION {
        return Err(Error::Unsupported { why: format!("{name} has format version {version}") });
    }
    let epoch = decoder.u32().in_object(name)?;
    let salt = decoder.array().in_object(name)?;
    let commitment: [u8; 32] = decoder.array().in_object(name)?;
    let key = key(kind, epoch, &salt).map_err(|error| refused(error, name))?;
    if blake3::Hash::from(key.commitment) != commitment {
        return Err(Error::corrupt(name, "key commitment does not match"));
    }
    let body = ENVELOPE_HEADER_LEN..sealed.len().saturating_sub(TAG_LEN);
    if body.start > body.end {
        return Err(Error::corrupt(name, "shorter than its tag"));
    }
    Ok((key, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RepositoryId, env::SeededEnv};

    #[test]
    fn bound_to_name_kind_and_every_byte() {
        let env = SeededEnv::new(1);
        let keys = KeyRing::generate(RepositoryId([1; 16]), &env).unwrap();
        let sealed = seal(&keys, 1, ObjectKind::Segment, "index/a", b"hello", &env).unwrap();
        assert_eq!(open(&keys, ObjectKind::Segment, "index/a", &sealed).unwrap(), b"hello");
        assert_eq!(
            open_in_place(&keys, ObjectKind::Segment, "index/a", sealed.clone()).unwrap(),
            &b"hello"[..]
        );
        assert!(open(&keys, ObjectKind::Segment, "index/b", &sealed).is_err());
        assert!(open(&keys, ObjectKind::Snapshot, "index/a", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[at] ^= 0x80;
            for bad in [&bad[..], &sealed[..at]] {
                assert!(open(&keys, ObjectKind::Segment, "index/a", bad).is_err(), "byte {at}");
                let opened = open_in_place(&keys, ObjectKind::Segment, "index/a", bad.to_vec());
                assert!(opened.is_err(), "byte {at}");
            }
        }
    }
}
