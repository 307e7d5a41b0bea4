//! How restic seals: AES-256-CTR, then Poly1305-AES over the ciphertext; a password becomes a key by scrypt.
//!
//! Source: restic, `doc/design.rst`, section "Keys, Encryption and MAC"; D. J. Bernstein, "The Poly1305-AES
//! message-authentication code" (2005); scrypt is RFC 7914.

use aes::{Aes128, Aes256};
use ctr::cipher::{BlockCipherEncrypt as _, KeyInit as _, KeyIvInit as _, StreamCipher as _};
use poly1305::Poly1305;

/// Bytes that sealing adds: a nonce of 16 before, an authentication code of 16 behind.
pub const OVERHEAD: usize = 32;
/// Memory that scrypt may take, in bytes: restic's own parameters take 32 to 64 MiB.
const MAX_SCRYPT_MEMORY: u64 = 1 << 30;

/// A key: 32 bytes to encrypt, 16 and 16 to authenticate.
#[derive(Clone)]
pub struct Key {
    encrypt: [u8; 32],
    mac_k: [u8; 16],
    mac_r: [u8; 16],
}

impl Key {
    /// A key of its parts; `None` if one has another length.
    #[must_use]
    pub fn new(encrypt: &[u8], mac_k: &[u8], mac_r: &[u8]) -> Option<Self> {
        Some(Self {
            encrypt: encrypt.try_into().ok()?,
            mac_k: mac_k.try_into().ok()?,
            mac_r: mac_r.try_into().ok()?,
        })
    }

    /// The key that a password gives. `n` is scrypt's cost, a power of two; `r` and `p` its other parameters.
    ///
    /// # Errors
    /// If the parameters make no sense, or take more than 1 GiB.
    pub fn derive(password: &[u8], salt: &[u8], n: u64, r: u32, p: u32) -> Result<Self, String> {
        let memory = n.checked_mul(u64::from(r)).and_then(|blocks| blocks.checked_mul(128));
        if !n.is_power_of_two() || memory.is_none_or(|bytes| bytes > MAX_SCRYPT_MEMORY) {
            return Err(format!("scrypt with N={n}, r={r}, p={p} is refused"));
        }
        let log_n = u8::try_from(n.trailing_zeros()).unwrap_or(u8::MAX);
        let params = scrypt::Params::new(log_n, r, p).map_err(|error| error.to_string())?;
        let mut bytes = [0; 64];
        scrypt::scrypt(password, salt, &params, &mut bytes).map_err(|error| error.to_string())?;
        let (encrypt, mac) = bytes.split_at(32);
        let (mac_k, mac_r) = mac.split_at(16);
        Self::new(encrypt, mac_k, mac_r).ok_or_else(|| "scrypt gave no key".into())
    }

    /// Opens what was sealed: `None` if it is not authentic.
    #[must_use]
    pub fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<16>()?;
        let (text, tag) = rest.split_last_chunk::<16>()?;
        let mut block = (*nonce).into();
        Aes128::new(&self.mac_k.into()).encrypt_block(&mut block);
        let mut one_time = [0; 32];
        one_time[..16].copy_from_slice(&self.mac_r);
        one_time[16..].copy_from_slice(&block);
        let found = Poly1305::new(&one_time.into()).compute_unpadded(text);
        // In constant time, although nobody else can ask this process.
        let differs = found.iter().zip(tag).fold(0, |differs, (a, b)| differs | (a ^ b));
        if differs != 0 {
            return None;
        }
        let mut text = text.to_vec();
        ctr::Ctr128BE::<Aes256>::new(&self.encrypt.into(), nonce.into()).apply_keystream(&mut text);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bernstein's paper, appendix B, first example.
    #[test]
    fn the_code_is_that_of_the_paper() {
        let message = [0xf3, 0xf6];
        let bytes = |hex: &str| -> Vec<u8> {
            (0..16).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect()
        };
        let r = bytes("851fc40c3467ac0be05cc20404f3f700");
        let k = bytes("ec074c835580741701425b623235add6");
        let nonce = bytes("fb447350c4e868c52ac3275cf9d4327e");
        let code = bytes("f4c633c3044fc145f84f335cb81953de");
        let key = Key::new(&[7; 32], &k, &r).unwrap();
        let mut sealed = [&nonce[..], &message, &code].concat();
        assert_eq!(key.open(&sealed).map(|text| text.len()), Some(2));
        for bit in 0..sealed.len() * 8 {
            sealed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.open(&sealed), None, "bit {bit}");
            sealed[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn what_is_too_short_or_costs_too_much_is_refused() {
        let key = Key::new(&[0; 32], &[0; 16], &[0; 16]).unwrap();
        for len in 0..OVERHEAD {
            assert_eq!(key.open(&vec![0; len]), None);
        }
        for (n, r, p) in [(0, 8, 1), (3, 8, 1), (1 << 40, 8, 1), (1 << 15, 1 << 20, 1), (1 << 15, 0, 1)] {
            assert!(Key::derive(b"x", b"salt", n, r, p).is_err(), "{n} {r} {p}");
        }
    }
}
