//! What other places know about one whose HEAD is rebuilt.

use super::Tiers;
use crate::id::ObjectId;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Knowledge from other places about one whose HEAD is rebuilt.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere {
    /// Whether the place is the primary or a tier, if the user said so.
    pub is: Option<Place>,
    /// The tiers that were made.
    pub tiers: Tiers,
    /// The incarnation that a tier may have at most, and above which a primary must be: the highest of the others.
    pub incarnation: u64,
    /// The key slots that HEADs of other places list.
    pub slots: BTreeMap<ObjectId, KnownSlot>,
    /// Grants that HEADs of other places name, by epoch.
    pub grants: BTreeMap<u32, Bytes>,
    /// The highest epoch that any of them knows to be retired.
    pub retired: u32,
    /// Snapshots that were forgotten on purpose, as HEADs of other places have them.
    pub forgotten: BTreeSet<ObjectId>,
}

/// A key slot that another place's HEAD lists.
#[derive(Clone, Debug)]
pub struct KnownSlot {
    /// Keyed hash of its bytes.
    pub hash: ObjectId,
    /// Its bytes, if they could be read there.
    pub bytes: Option<Bytes>,
}

/// The kind of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The primary.
    Primary,
    /// A tier of this name.
    Tier(String),
}
