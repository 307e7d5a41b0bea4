//! Sealing to a public key: HPKE (RFC 9180), mode PSK, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305.
//!
//! Mode PSK, not base: the public keys of slots can be read by the store, which must not be able to seal keys of its own to
//! them. The pre-shared key is derived from the master key (docs/decisions/0014).

use crate::Result;
use crate::env::{Env, random_array};
use crate::format::{ENCAPSULATED_LEN, GRANTED_LEN};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::{Kem as _, X25519HkdfSha256};
use hpke::{Deserializable as _, OpModeR, OpModeS, PskBundle, Serializable as _};
use std::convert::Infallible;
use zeroize::Zeroizing;

type Kem = X25519HkdfSha256;

/// Names the pre-shared key, as mode PSK wants it.
const PSK_ID: &[u8] = b"esker grant";

/// The private key of a slot.
pub(super) struct PrivateKey(<Kem as hpke::Kem>::PrivateKey);

/// What a ciphertext is bound to.
pub(super) struct Context<'a> {
    /// Derived from the master key.
    pub(super) psk: &'a [u8; 32],
    /// Repository, slot, epoch.
    pub(super) info: &'a [u8],
    /// The header of the object.
    pub(super) aad: &'a [u8],
}

/// Not sealed to this key by one who has the master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was not sealed to this key, or not by one who has the repository's keys")]
pub(super) struct NotForUs;

impl PrivateKey {
    /// Makes a key pair.
    pub(super) fn generate(env: &dyn Env) -> Result<(Self, [u8; 32])> {
        let seed = Zeroizing::new(random_array::<32>(env)?);
        let (private, public) = Kem::derive_keypair(&*seed);
        Ok((Self(private), public.to_bytes().into()))
    }

    pub(super) fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        <Kem as hpke::Kem>::PrivateKey::from_bytes(bytes).ok().map(Self)
    }

    pub(super) fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes().into())
    }

    /// The public key that belongs to it.
    pub(super) fn public(&self) -> [u8; 32] {
        Kem::sk_to_pk(&self.0).to_bytes().into()
    }

    /// Opens what was sealed to the public key.
    pub(super) fn open(
        &self,
        encapsulated: &[u8; ENCAPSULATED_LEN],
        sealed: &[u8],
        context: &Context<'_>,
    ) -> std::result::Result<Zeroizing<Vec<u8>>, NotForUs> {
        let psk = PskBundle::new(context.psk, PSK_ID).map_err(|_| NotForUs)?;
        let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| NotForUs)?;
        let plain = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeR::Psk(psk),
            &self.0,
            &encapsulated,
            context.info,
            sealed,
            context.aad,
        );
        plain.map(Zeroizing::new).map_err(|_| NotForUs)
    }
}

/// Seals a data key to a public key. `None` if that is no public key.
pub(super) fn seal(
    public: &[u8; 32],
    key: &[u8; 32],
    context: &Context<'_>,
    env: &dyn Env,
) -> Result<Option<([u8; ENCAPSULATED_LEN], [u8; GRANTED_LEN])>> {
    let Ok(public) = <Kem as hpke::Kem>::PublicKey::from_bytes(public) else { return Ok(None) };
    let Ok(psk) = PskBundle::new(context.psk, PSK_ID) else { return Ok(None) };
    let mut random = Drawn(Zeroizing::new(random_array(env)?));
    let sealed = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeS::Psk(psk),
        &public,
        context.info,
        key,
        context.aad,
        &mut random,
    );
    let Ok((encapsulated, sealed)) = sealed else { return Ok(None) };
    Ok(sealed.try_into().ok().map(|sealed| (encapsulated.to_bytes().into(), sealed)))
}

/// Random bytes that were drawn before, since drawing may fail: the seed of one ephemeral key, which is all that is taken.
struct Drawn(Zeroizing<[u8; 32]>);

impl rand_core::TryRng for Drawn {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> std::result::Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> std::result::Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> std::result::Result<(), Infallible> {
        assert_eq!(out.len(), self.0.len(), "one ephemeral key takes one seed");
        out.copy_from_slice(&*self.0);
        // Another draw gives another value.
        self.0 = Zeroizing::new(*blake3::hash(&*self.0).as_bytes());
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Drawn {}
