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

/// The private key of a slot.
pub(super) struct PrivateKey(<Kem as hpke::Kem>::PrivateKey);

/// What a ciphertext is bound to.
pub(super) struct Context<'a> {
    /// Derived from the master key.
    pub(super) psk: &'a [u8; 32],
    /// The name of that key, which mode PSK wants.
    pub(super) psk_id: &'a [u8],
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

    /// The key pair that is derived from a secret.
    pub(super) fn derive(secret: &[u8; 32]) -> Self {
        Self(Kem::derive_keypair(secret).0)
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
        let psk = PskBundle::new(context.psk, context.psk_id).map_err(|_| NotForUs)?;
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
    let sealed = seal_with(public, key, context, Zeroizing::new(random_array(env)?));
    Ok(sealed.and_then(|(encapsulated, sealed)| Some((encapsulated, sealed.try_into().ok()?))))
}

/// Seals with the ephemeral key pair that is derived from `seed`.
fn seal_with(
    public: &[u8; 32],
    plain: &[u8],
    context: &Context<'_>,
    seed: Zeroizing<[u8; 32]>,
) -> Option<([u8; ENCAPSULATED_LEN], Vec<u8>)> {
    let public = <Kem as hpke::Kem>::PublicKey::from_bytes(public).ok()?;
    let psk = PskBundle::new(context.psk, context.psk_id).ok()?;
    let (encapsulated, sealed) = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeS::Psk(psk),
        &public,
        context.info,
        plain,
        context.aad,
        &mut Drawn(seed),
    )
    .ok()?;
    Some((encapsulated.to_bytes().into(), sealed))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEnv;
    use crate::id::{from_hex, to_hex};

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        from_hex(text).unwrap().try_into().unwrap()
    }

    /// RFC 9180, A.2.2.1, sequence number 0, both ways.
    #[test]
    fn the_vector_of_the_rfc() {
        let private = hex("77d114e0212be51cb1d76fa99dd41cfd4d0166b08caa09074430a6c59ef17879");
        let public = hex("13640af826b722fc04feaa4de2f28fbd5ecc03623b317834e7ff4120dbe73062");
        let psk = hex("0247fd33b913760fa1fa51e1892d9f307fbe65eb171e8132c2af18555a738b82");
        let context = Context {
            psk: &psk,
            psk_id: b"Ennyn Durin aran Moria",
            info: b"Ode on a Grecian Urn",
            aad: b"Count-0",
        };
        let seed = hex("35706a0b09fb26fb45c39c2f5079c709c7cf98e43afa973f14d88ece7e29c2e3");
        let plain = b"Beauty is truth, truth beauty";
        let (encapsulated, sealed) = seal_with(&public, plain, &context, Zeroizing::new(seed)).unwrap();
        assert_eq!(to_hex(&encapsulated), "2261299c3f40a9afc133b969a97f05e95be2c514e54f3de26cbe5644ac735b04");
        assert_eq!(
            to_hex(&sealed),
            "4a177f9c0d6f15cfdf533fb65bf84aecdc6ab16b8b85b4cf65a370e07fc1d78d28fb073214525276f4a89608ff"
        );
        let private = PrivateKey::from_bytes(&private).unwrap();
        assert_eq!(private.public(), public);
        assert_eq!(*private.open(&encapsulated, &sealed, &context).unwrap(), *plain);
    }

    /// Each of what a grant is bound to, and each byte of it.
    #[test]
    fn a_grant_opens_with_everything_it_is_bound_to_only() {
        let env = SeededEnv::new(1);
        let (private, public) = PrivateKey::generate(&env).unwrap();
        let (other, _) = PrivateKey::generate(&env).unwrap();
        let (psk, another) = ([1; 32], [2; 32]);
        let context = |psk, info, aad| Context { psk, psk_id: b"id", info, aad };
        let bound = context(&psk, b"info", b"aad");
        let (encapsulated, sealed) = seal(&public, &[7; 32], &bound, &env).unwrap().unwrap();
        assert_eq!(*private.open(&encapsulated, &sealed, &bound).unwrap(), [7; 32]);
        for context in [
            context(&another, b"info", b"aad"),
            context(&psk, b"inf0", b"aad"),
            context(&psk, b"info", b"aad2"),
            Context { psk_id: b"ie", ..context(&psk, b"info", b"aad") },
        ] {
            assert_eq!(private.open(&encapsulated, &sealed, &context), Err(NotForUs));
        }
        assert_eq!(other.open(&encapsulated, &sealed, &bound), Err(NotForUs));
        for at in 0..sealed.len() {
            let mut bad = sealed;
            bad[at] ^= 1;
            assert_eq!(private.open(&encapsulated, &bad, &bound), Err(NotForUs), "byte {at}");
        }
        // The last bit of a point on the curve does not count, as RFC 7748 has it.
        for at in 0..encapsulated.len() {
            let mut bad = encapsulated;
            bad[at] ^= 1;
            assert_eq!(private.open(&bad, &sealed, &bound), Err(NotForUs), "byte {at} of the key");
        }
        // A point of small order gives a shared secret that everybody knows.
        assert!(seal(&[0; 32], &[7; 32], &bound, &env).unwrap().is_none());
    }
}
