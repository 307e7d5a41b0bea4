//! The readable line of a key slot: whose it is, which kind of secret opens it, and what the kind has of its own. The public key
//! of a slot of a kind that is not known can be read all the same, so that rotation reaches it.

use super::text::SPLIT_LEN;
use crate::format::{
    MAX_SERVICE_LEN, MAX_SHARES, MAX_WRAPPED_LEN, SLOT_KINDS, SLOT_KMS, SLOT_PASSPHRASE, SLOT_SHARES,
};
use crate::id::{ObjectId, RepositoryId, from_hex};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
    /// How it is opened: one of [`SLOT_KINDS`], or what a later version knows.
    pub kind: String,
    /// What the kind has of its own.
    #[serde(flatten)]
    pub members: Map<String, Value>,
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
    /// What the kind has of its own, as a value.
    fn method<T: serde::de::DeserializeOwned>(&self, kind: &str) -> Option<T> {
        let is_known = self.version == 1 && self.kind == kind;
        is_known.then(|| T::deserialize(&self.members).ok()).flatten()
    }

    /// How its passphrase becomes a key, if a passphrase that this version knows opens it.
    #[must_use]
    pub fn argon2(&self) -> Option<Argon2> {
        self.method(SLOT_PASSPHRASE).filter(|argon2: &Argon2| argon2.kdf == "argon2id")
    }

    /// How many of which shares open it, if shares do.
    #[must_use]
    pub fn split(&self) -> Option<Split> {
        let is_sane = |split: &Split| {
            let is_id = from_hex(&split.split).is_some_and(|id| id.len() == SPLIT_LEN);
            is_id && 2 <= split.threshold && split.threshold <= split.shares && split.shares <= MAX_SHARES
        };
        self.method(SLOT_SHARES).filter(is_sane)
    }

    /// Which key service wrapped its secret, if one did.
    #[must_use]
    pub fn wrapped(&self) -> Option<Wrapped> {
        self.method(SLOT_KMS).filter(Wrapped::is_sane)
    }

    /// Whether this version knows its kind, and what the kind has of its own.
    #[must_use]
    pub fn is_known(&self) -> bool {
        match self.kind.as_str() {
            SLOT_PASSPHRASE => self.argon2().is_some(),
            SLOT_SHARES => self.split().is_some(),
            SLOT_KMS => self.wrapped().is_some(),
            kind => self.version == 1 && SLOT_KINDS.contains(&kind),
        }
    }

    /// Its kind, for people, in letters that are harmless wherever they are printed.
    #[must_use]
    pub fn kind_shown(&self) -> String {
        if let Some(split) = self.split() {
            return format!("{SLOT_SHARES} {}/{}", split.threshold, split.shares);
        }
        let is_plain =
            |letter: &char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || *letter == '-';
        self.kind.chars().filter(is_plain).take(32).collect()
    }
}

/// What a slot's header says of the key service that wrapped its secret. Whoever can write to the store may have written it:
/// no credentials go where it points to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrapped {
    /// The URL of the service and of the key, without credentials.
    pub service: String,
    /// The key as the service itself names it: with its version, where it has versions.
    pub key: String,
    /// The secret as the service wrapped it, in the form that the service takes it back.
    pub wrapped: String,
}

impl Wrapped {
    /// Whether it has the bounds of the format, and no letters but visible ones of ASCII.
    pub(super) fn is_sane(&self) -> bool {
        let is_plain = |text: &str, most: usize| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        is_plain(&self.service, MAX_SERVICE_LEN)
            && is_plain(&self.key, MAX_SERVICE_LEN)
            && is_plain(&self.wrapped, MAX_WRAPPED_LEN)
    }
}

/// What a slot's header says of its shares.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Split {
    /// The id, in hex.
    pub split: String,
    /// So many open the slot.
    pub threshold: u8,
    /// So many there are.
    pub shares: u8,
    /// A hash of each, by number.
    pub checks: Vec<ObjectId>,
}
