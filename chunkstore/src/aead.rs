//! AES-256-GCM behind one function each way. AWS-LC where it is compiled in, RustCrypto's `aes-gcm`
//! otherwise; the bytes are the same (tested), only the speed differs (docs/decisions/0002).

use crate::format::TAG_LEN;

/// A key ready for use. Its `Debug` prints nothing secret.
pub struct Cipher(imp::Key);

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher")
    }
}

/// The tag did not match: the bytes, their position or their key differ from what was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct NotAuthentic;

impl Cipher {
    /// Expands a key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(imp::key(key))
    }

    /// Encrypts `data` in place and returns its tag. A nonce must never be used twice with one key.
    #[must_use]
    pub fn seal(&self, nonce: [u8; 12], aad: &[u8], data: &mut [u8]) -> [u8; TAG_LEN] {
        imp::seal(&self.0, nonce, aad, data)
    }

    /// Decrypts `data` in place if its tag is right; otherwise its content is unspecified.
    pub fn open(&self, nonce: [u8; 12], aad: &[u8], data: &mut [u8], tag: &[u8]) -> Result<(), NotAuthentic> {
        imp::open(&self.0, nonce, aad, data, tag)
    }
}

/// Nonce of the `ordinal`th record under a key: the counter, little-endian, then zeros.
#[must_use]
pub fn counter_nonce(ordinal: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&ordinal.to_le_bytes());
    nonce
}

#[cfg(feature = "aws-lc")]
mod imp {
    use super::{NotAuthentic, TAG_LEN};
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

    pub(super) type Key = LessSafeKey;

    pub(super) fn key(key: &[u8; 32]) -> Key {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are an AES-256 key"))
    }

    pub(super) fn seal(key: &Key, nonce: [u8; 12], aad: &[u8], data: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), data)
            .expect("a chunk is far below GCM's 64 GiB");
        tag.as_ref().try_into().expect("GCM tags are 16 bytes")
    }

    pub(super) fn open(
        key: &Key,
        nonce: [u8; 12],
        aad: &[u8],
        data: &mut [u8],
        tag: &[u8],
    ) -> Result<(), NotAuthentic> {
        key.open_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), tag, data)
            .map(|_| ())
            .map_err(|_| NotAuthentic)
    }
}

#[cfg(not(feature = "aws-lc"))]
use portable as imp;

#[cfg(any(test, not(feature = "aws-lc")))]
mod portable {
    use super::{NotAuthentic, TAG_LEN};
    use aes_gcm::aead::{AeadInOut as _, KeyInit as _};

    pub(super) type Key = aes_gcm::Aes256Gcm;

    pub(super) fn key(key: &[u8; 32]) -> Key {
        Key::new(key.into())
    }

    pub(super) fn seal(key: &Key, nonce: [u8; 12], aad: &[u8], data: &mut [u8]) -> [u8; TAG_LEN] {
        key.encrypt_inout_detached(&nonce.into(), aad, data.into())
            .expect("a chunk is far below GCM's 64 GiB")
            .into()
    }

    pub(super) fn open(
        key: &Key,
        nonce: [u8; 12],
        aad: &[u8],
        data: &mut [u8],
        tag: &[u8],
    ) -> Result<(), NotAuthentic> {
        let tag: [u8; TAG_LEN] = tag.try_into().map_err(|_| NotAuthentic)?;
        key.decrypt_inout_detached(&nonce.into(), aad, data.into(), &tag.into()).map_err(|_| NotAuthentic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{from_hex, to_hex};

    #[test]
    fn known_answer() {
        // Test case 16 of McGrew and Viega, "The Galois/Counter Mode of Operation (GCM)".
        let key: [u8; 32] = from_hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")
            .unwrap()
            .try_into()
            .unwrap();
        let nonce: [u8; 12] = from_hex("cafebabefacedbaddecaf888").unwrap().try_into().unwrap();
        let aad = from_hex("feedfacedeadbeeffeedfacedeadbeefabaddad2").unwrap();
        let mut data = from_hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39").unwrap();
        let plain = data.clone();
        let tag = Cipher::new(&key).seal(nonce, &aad, &mut data);
        assert_eq!(to_hex(&tag), "76fc6ece0f4e1768cddf8853bb2d551b");
        Cipher::new(&key).open(nonce, &aad, &mut data, &tag).unwrap();
        assert_eq!(data, plain);
    }

    #[test]
    fn both_implementations_write_the_same_bytes() {
        for len in [0, 1, 15, 16, 17, 4096, 100_001] {
            let key = [7; 32];
            let mut fast: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut portable = fast.clone();
            let fast_tag = Cipher::new(&key).seal(counter_nonce(9), b"aad", &mut fast);
            let portable_tag = portable::seal(&portable::key(&key), counter_nonce(9), b"aad", &mut portable);
            assert_eq!((&fast, fast_tag), (&portable, portable_tag));
            assert!(
                portable::open(&portable::key(&key), counter_nonce(9), b"aad", &mut fast.clone(), &fast_tag)
                    .is_ok()
            );
            assert!(
                portable::open(&portable::key(&key), counter_nonce(9), b"aae", &mut fast.clone(), &fast_tag)
                    .is_err()
            );
            assert!(Cipher::new(&key).open(counter_nonce(8), b"aad", &mut fast, &fast_tag).is_err());
        }
    }
}
