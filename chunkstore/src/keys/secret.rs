//! The secrets that open key slots, behind one trait: a passphrase, a key of 256 bits, shares of one. Key services
//! implement it in the crate `keyservices`. What opens a slot is a secret of 32 bytes, however it is come by; the slot's own key
//! is derived from it with the repository and the slot (`slot.rs`).

use super::Key;
use super::header::{Argon2, KdfParams, SlotHeader, Wrapped};
use crate::env::{Env, random_array};
use crate::format::{self, SLOT_KMS, SLOT_PASSPHRASE};
use crate::id::{ObjectId, RepositoryId};
use crate::{Error, Result};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

/// A slot that is to be made.
pub struct NewSlot<'a> {
    /// The repository.
    pub repository: &'a RepositoryId,
    /// The slot's id.
    pub slot: &'a ObjectId,
    /// What a passphrase is to cost.
    pub kdf: KdfParams,
    /// Randomness.
    pub env: &'a dyn Env,
}

/// What a slot's header says of its secret: its kind, and what opening it takes. Nothing of it is secret.
#[derive(Clone, Debug)]
pub struct Method {
    /// The kind of the slot.
    pub kind: String,
    /// Members of the header, none of which has the name of a member that every slot has.
    pub members: Map<String, Value>,
}

impl Method {
    /// What the slot of a secret says that a key service wrapped.
    ///
    /// # Errors
    ///
    /// It is out of the bounds of the format.
    pub fn wrapped(wrapped: &Wrapped) -> Result<Self> {
        if !wrapped.is_sane() {
            return Err(Error::Invalid("a key service gave what a key slot cannot hold".into()));
        }
        Ok(Self { kind: SLOT_KMS.into(), members: members(wrapped)? })
    }
}

/// A secret that opens key slots, and that new slots can be made for.
pub trait SlotSecret: Send + Sync {
    /// What people call it, without an article: `password`.
    fn name(&self) -> &str;

    /// Whether a slot may be one that it opens. Cheap: a slot that this refuses is not tried.
    fn is_for(&self, header: &SlotHeader) -> bool;

    /// What trying a slot costs, in KiB of memory times passes over it.
    fn cost(&self, _header: &SlotHeader) -> u64 {
        0
    }

    /// The secret of a slot that it is for. Whether it is the right one, the slot's commitment decides.
    ///
    /// # Errors
    ///
    /// The header asks for what cannot be done, or a service does not give the secret ([`Error::KeyService`]).
    fn open(&self, slot: &ObjectId, header: &SlotHeader) -> Result<Zeroizing<[u8; 32]>>;

    /// The slot opened by what [`SlotSecret::open`] gave last: it was right, and may be kept.
    fn opened(&self, _slot: &ObjectId, _header: &SlotHeader) {}

    /// Makes the secret of a new slot, and what its header has to say for [`SlotSecret::open`].
    ///
    /// # Errors
    ///
    /// As [`SlotSecret::open`].
    fn make(&self, new: &NewSlot<'_>) -> Result<(Method, Zeroizing<[u8; 32]>)>;
}

impl<S: SlotSecret + ?Sized> SlotSecret for &S {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn is_for(&self, header: &SlotHeader) -> bool {
        (**self).is_for(header)
    }

    fn cost(&self, header: &SlotHeader) -> u64 {
        (**self).cost(header)
    }

    fn open(&self, slot: &ObjectId, header: &SlotHeader) -> Result<Key> {
        (**self).open(slot, header)
    }

    fn opened(&self, slot: &ObjectId, header: &SlotHeader) {
        (**self).opened(slot, header);
    }

    fn make(&self, new: &NewSlot<'_>) -> Result<(Method, Key)> {
        (**self).make(new)
    }
}

/// Bytes are a passphrase.
impl SlotSecret for [u8] {
    fn name(&self) -> &'static str {
        "password"
    }

    fn is_for(&self, header: &SlotHeader) -> bool {
        header.argon2().is_some()
    }

    fn cost(&self, header: &SlotHeader) -> u64 {
        header.argon2().map_or(u64::MAX, |argon2| argon2.kdf_params.cost())
    }

    fn open(&self, slot: &ObjectId, header: &SlotHeader) -> Result<Key> {
        let argon2 =
            header.argon2().ok_or_else(|| Error::corrupt(format::names::key(slot), "no Argon2id"))?;
        stretch(self, &argon2, slot)
    }

    fn make(&self, new: &NewSlot<'_>) -> Result<(Method, Key)> {
        let argon2 =
            Argon2 { kdf: "argon2id".into(), kdf_params: new.kdf, salt: ObjectId(random_array(new.env)?) };
        let secret = stretch(self, &argon2, new.slot)?;
        Ok((Method { kind: SLOT_PASSPHRASE.into(), members: members(&argon2)? }, secret))
    }
}

/// The same, of a known length.
impl<const N: usize> SlotSecret for [u8; N] {
    fn name(&self) -> &str {
        self.as_slice().name()
    }

    fn is_for(&self, header: &SlotHeader) -> bool {
        self.as_slice().is_for(header)
    }

    fn cost(&self, header: &SlotHeader) -> u64 {
        self.as_slice().cost(header)
    }

    fn open(&self, slot: &ObjectId, header: &SlotHeader) -> Result<Key> {
        self.as_slice().open(slot, header)
    }

    fn make(&self, new: &NewSlot<'_>) -> Result<(Method, Key)> {
        self.as_slice().make(new)
    }
}

/// The members of a header that are the fields of a value.
pub(super) fn members(value: &impl serde::Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(value) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(Error::Invalid("what a slot says of its secret has no members".into())),
        Err(error) => Err(Error::Invalid(error.to_string())),
    }
}

/// Argon2id, within the limits of what a slot may ask for.
fn stretch(passphrase: &[u8], argon2: &Argon2, slot: &ObjectId) -> Result<Key> {
    let KdfParams { memory_kib, passes, lanes } = argon2.kdf_params;
    if memory_kib > format::MAX_ARGON2_KIB || passes > format::MAX_ARGON2_PASSES || lanes > 256 {
        return Err(Error::corrupt(format::names::key(slot), "Argon2id cost over the limit"));
    }
    let params = argon2::Params::new(memory_kib, passes, lanes, Some(32))
        .map_err(|error| Error::corrupt(format::names::key(slot), error))?;
    let function = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut secret = Zeroizing::new([0u8; 32]);
    function.hash_password_into(passphrase, argon2.salt.as_bytes(), &mut *secret).map_err(
        |error| match error {
            argon2::Error::OutOfMemory => Error::Memory { bytes: memory_kib as usize * 1024 },
            error => Error::corrupt(format::names::key(slot), error),
        },
    )?;
    Ok(secret)
}
