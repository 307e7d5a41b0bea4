//! Keys of 256 random bits, as key files and recovery sheets have them.

use super::Key;
use super::header::SlotHeader;
use super::secret::{Method, NewSlot, SlotSecret};
use super::text::{KEY_LABEL, KeyBytes};
use crate::Result;
use crate::env::{Env, random_array};
use crate::format::SLOT_KEY;
use crate::id::ObjectId;
use serde_json::Map;
use zeroize::Zeroizing;

/// 256 random bits, from a key file or from a recovery sheet. Guessing them is hopeless, so nothing makes it dearer.
#[derive(Clone, PartialEq, Eq)]
pub struct RawKey(Key);

impl std::fmt::Debug for RawKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawKey")
    }
}

impl RawKey {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub fn generate(env: &dyn Env) -> Result<Self> {
        Ok(Self(Zeroizing::new(random_array(env)?)))
    }

    /// The key that is these bytes.
    pub(crate) fn of(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Its bytes, to be written as text.
    #[must_use]
    pub fn text(&self) -> KeyBytes {
        KeyBytes::new(KEY_LABEL, &*self.0)
    }
}

impl SlotSecret for RawKey {
    fn name(&self) -> &'static str {
        "key"
    }

    fn is_for(&self, header: &SlotHeader) -> bool {
        header.version == 1 && header.kind == SLOT_KEY
    }

    fn open(&self, _slot: &ObjectId, _header: &SlotHeader) -> Result<Key> {
        Ok(self.0.clone())
    }

    fn make(&self, _new: &NewSlot<'_>) -> Result<(Method, Key)> {
        Ok((Method { kind: SLOT_KEY.into(), members: Map::new() }, self.0.clone()))
    }
}
