//! The write-only hosts that HEAD lists, and how far each has come.

use super::leaf::{Item, Whole};
use crate::format::{Decoder, Encoder, MAX_HOST_NAME, Malformed};
use crate::id::ObjectId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A write-only host.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Host {
    /// Its id, which names its inbox.
    pub id: ObjectId,
    /// What people call it, and what its snapshots have as their host name.
    pub name: String,
    /// Its public key (Ed25519).
    pub public: ObjectId,
    /// When it was added, in milliseconds since the Unix epoch.
    pub added_ms: u64,
    /// When it was revoked, in the same milliseconds: nothing of it is admitted from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_ms: Option<u64>,
    /// The epoch of the inbox that it last sealed to, or was given: it may still seal to that.
    pub epoch: u32,
    /// The last run that was settled, admitted or refused; 0 if none was. What has this number, or an earlier one, is over.
    pub run: u64,
    /// BLAKE3 of the commit of that run; zeros if none was.
    pub commit: ObjectId,
    /// The snapshot that came of it, if it was admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<ObjectId>,
    /// Why it was refused, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The time of its last snapshot, in the same milliseconds: none of an earlier time follows.
    pub last_ms: u64,
    /// Fields of later versions, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// The commit before the first one.
pub const NO_COMMIT: ObjectId = ObjectId([0; 32]);

/// Longest reason in HEAD, in bytes.
const MAX_REASON: usize = 300;

impl Host {
    /// A reason as HEAD keeps it.
    #[must_use]
    pub fn reason(why: &str) -> String {
        let end = (0..=MAX_REASON.min(why.len())).rev().find(|end| why.is_char_boundary(*end));
        why.get(..end.unwrap_or_default()).unwrap_or_default().to_owned()
    }

    /// Whether a name can be a host's.
    #[must_use]
    pub fn is_name(name: &str) -> bool {
        let is_printed = |letter: char| !letter.is_control() && !letter.is_whitespace();
        (1..=MAX_HOST_NAME).contains(&name.len()) && name.chars().all(is_printed)
    }
}

impl Item for Host {
    const KIND: u8 = 8;
    const SHARE: usize = 4;

    /// In JSON, as in HEAD: fields of later versions stay.
    fn encode(&self, out: &mut Encoder) {
        out.var(&serde_json::to_vec(self).expect("a struct of plain fields"));
    }

    fn decode(decoder: &mut Decoder<'_>, _: &Whole<'_>, _: u32) -> Result<Self, Malformed> {
        let json = decoder.var(1 << 20)?;
        serde_json::from_slice(json).map_err(|_| decoder.malformed("host"))
    }
}
