//! HEAD: the only mutable object, changed by compare-and-swap. What it names exists; what it does not
//! name may be removed. docs/concurrency.md has the argument; the rules that hold it up are here:
//! a commit's dependencies are checked on the very HEAD that it replaces, doomed packs never come
//! back, and a session that is not open commits nothing. No clock and no listing enters.

use crate::format::names;
use crate::id::{ObjectId, PackId, SessionId};
use crate::{Error, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

mod bodies;
mod body;
mod columns;
mod elsewhere;
mod epochs;
mod hosts;
mod items;
mod leaf;
mod leaves;
mod list;
mod made;
mod outline;
mod reference;
mod seen;
mod swap;
mod texts;
pub use bodies::BodyReader;
pub use body::{Bodies, Body};
pub use columns::{NoColumns, RootColumns};
pub use elsewhere::{Elsewhere, KnownSlot, Place};
pub use epochs::{EpochRef, Needs};
pub use hosts::{Host, NO_COMMIT};
pub use leaf::{Item, Whole, decode_leaf, encode_leaf};
use leaves::{Leaves, Stamp};
pub use list::{List, Stretch};
pub use made::{Age, Anew, Tiers};
pub use outline::Outline;
#[cfg(test)]
pub(crate) use outline::tests as outline_tests;
pub use reference::{LeafRef, ObjectRef};
pub(crate) use swap::called;
pub use swap::{HeadStore, LoadedHead, rolled_back};

/// So many snapshots that were forgotten are remembered.
pub const MOST_FORGOTTEN: usize = 1024;

/// The content of HEAD.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Head {
    /// Counts swaps.
    pub generation: u64,
    /// BLAKE3 of the sealed HEAD that this one replaced; zeros for the first.
    pub previous: ObjectId,
    /// Raised when a copy takes over from a lost primary, so that the old one is refused.
    pub incarnation: u64,
    /// The name of the tier whose HEAD this is, if it is a copy: then snapshots come from the primary only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// The tier that the place of this HEAD was made as, as its `config` says: a HEAD counts nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// The tiers that were made.
    #[serde(default)]
    pub tiers: Tiers,
    /// The time by which snapshots were last let expire, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_ms: Option<u64>,
    /// Snapshots that somebody took out of the primary on purpose, and that a copy may still have: they do not come back.
    /// Oldest first; what no copy has any more is dropped, and of more than [`MOST_FORGOTTEN`] the oldest.
    #[serde(default, skip_serializing_if = "List::is_empty")]
    pub forgotten: List<ObjectId>,
    /// Those of them that a person named, and that are to go from every copy, as soon as it can be reached.
    #[serde(default, skip_serializing_if = "List::is_empty")]
    pub forgotten_everywhere: List<ObjectId>,
    /// Set in a HEAD that was made anew from objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anew: Option<Anew>,
    /// Set when a tier without parity became the primary: packs here have none, whatever the configuration says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_parity: bool,
    /// Fresh for every swap: tells one's own swap from another's when an answer was lost.
    pub nonce: ObjectId,
    /// The nonces of the last swaps, newest last.
    pub recent_nonces: Vec<ObjectId>,
    /// Features without which this HEAD cannot be handled correctly.
    pub required_features: Vec<String>,
    /// What is kept: everything that can be reached from here.
    pub roots: List<Root>,
    /// The live index segments; the packs that they list are live.
    pub segments: List<SegmentRef>,
    /// Writers at work, and fenced ones whose packs still await removal.
    pub sessions: List<Session>,
    /// Live packs that a pruner found unneeded; writers no longer build on them.
    pub condemned: List<Condemned>,
    /// Packs that will be deleted, for ever unusable.
    pub doomed: List<PackRef>,
    /// Every key slot with a keyed hash of its bytes.
    pub slots: BTreeMap<ObjectId, ObjectId>,
    /// The hosts that may bring what they back up to an inbox, and nothing else.
    #[serde(default, skip_serializing_if = "List::is_empty")]
    pub hosts: List<Host>,
    /// The epochs of data keys. This HEAD, and whatever is written after it was read, is sealed under the last.
    pub epochs: BTreeMap<u32, EpochRef>,
    /// BLAKE3 of the grants of the last epoch; none for the first, which every slot has in itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grants: Option<ObjectId>,
    /// Fields of later versions, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// Something that keeps data alive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Root {
    /// [`Root::SNAPSHOT`], [`Root::REPORT`], `tier-map`, or what a later version knows.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// Name of the object.
    pub id: ObjectId,
    /// BLAKE3 of its sealed bytes.
    pub hash: ObjectId,
    /// The epoch that the object is sealed under; 0 if that is not known.
    #[serde(default)]
    pub epoch: u32,
    /// The second part of the object's name, if it was sealed again since it was first written. Random, so that no name is
    /// ever used twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewed: Option<ObjectId>,
    /// What whoever wrote the object says of it, so that roots are compared and ordered without their records; empty where
    /// nobody said anything. At most 1024 bytes.
    #[serde(default, skip_serializing_if = "Bytes::is_empty", with = "items::hex")]
    pub columns: Bytes,
    /// The plaintext of the object, so that it need not be read one by one; the object has it, too.
    #[serde(default, skip_serializing_if = "Body::is_none")]
    pub record: Body,
}

/// The object decides.
impl PartialEq for Root {
    fn eq(&self, other: &Self) -> bool {
        (&self.kind, self.id, self.hash) == (&other.kind, other.id, other.hash)
    }
}

impl Eq for Root {}

impl Root {
    /// The kind of a snapshot's root.
    pub const SNAPSHOT: &str = "snapshot";
    /// The kind of the root of a drill's report. It keeps its object alive, and nothing else.
    pub const REPORT: &str = "drill-report";

    /// One of which only the object is known.
    #[must_use]
    pub fn new(kind: &'static str, id: ObjectId, hash: ObjectId, epoch: u32) -> Self {
        let (columns, record) = (Bytes::new(), Body::None);
        Self { kind: Cow::Borrowed(kind), id, hash, epoch, renewed: None, columns, record }
    }

    /// The name of its object.
    #[must_use]
    pub fn object(&self) -> String {
        let folder = match &*self.kind {
            Self::SNAPSHOT => names::SNAPSHOTS,
            Self::REPORT => names::REPORTS,
            _ => names::MAPS,
        };
        match &self.renewed {
            Some(again) => names::renewed(folder, &self.id, again),
            None => format!("{folder}/{}", self.id),
        }
    }

    /// Whether it is a snapshot's.
    #[must_use]
    pub fn is_snapshot(&self) -> bool {
        self.kind == Self::SNAPSHOT
    }

    /// Whether it is a drill report's.
    #[must_use]
    pub fn is_report(&self) -> bool {
        self.kind == Self::REPORT
    }
}

/// An index segment.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct SegmentRef {
    /// Name of the object.
    pub id: ObjectId,
    /// BLAKE3 of its sealed bytes.
    pub hash: ObjectId,
    /// How many packs it lists.
    pub packs: u32,
    /// How many chunks it lists.
    pub chunks: u32,
    /// The lowest epoch of the object and of the packs that it lists; 0 if that is not known.
    #[serde(default)]
    pub epoch: u32,
}

/// A pack's place in the store.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackRef {
    /// The session that wrote it.
    pub session: SessionId,
    /// The pack.
    pub id: PackId,
}

/// A pack that is not to be built on.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Condemned {
    /// The session that wrote it.
    pub session: SessionId,
    /// The pack.
    pub id: PackId,
    /// Generation of the HEAD that condemned it: writers that opened later know.
    pub since: u64,
}

impl Condemned {
    /// Its place.
    #[must_use]
    pub fn pack(&self) -> PackRef {
        PackRef { session: self.session, id: self.id }
    }
}

/// A writer.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Session {
    /// Its random name, and its folder under `packs/`.
    pub id: SessionId,
    /// Set by a pruner: this session's commits fail from now on.
    pub fenced: bool,
    /// Host it runs on.
    pub hostname: String,
    /// Boot and process namespace: process ids compare only within one.
    #[serde(default)]
    pub machine: String,
    /// Process id there.
    pub pid: u32,
    /// When that process started, in clock ticks since boot: tells it from a later one with its id.
    pub process_started: u64,
    /// What it does: `backup`, `prune`, …
    pub purpose: String,
    /// Generation of the HEAD that it was entered in.
    #[serde(default)]
    pub opened: u64,
    /// Milliseconds since the Unix epoch; for people and leases only.
    pub opened_ms: u64,
    /// The last time it was heard of.
    pub seen_ms: u64,
}

impl Head {
    /// One that names nothing but key slots.
    fn first(nonce: ObjectId, slots: BTreeMap<ObjectId, ObjectId>) -> Self {
        Self {
            generation: 1,
            previous: ObjectId([0; 32]),
            incarnation: 1,
            tier: None,
            home: None,
            tiers: Tiers::none_yet(),
            clock_ms: None,
            forgotten: List::default(),
            forgotten_everywhere: List::default(),
            anew: None,
            without_parity: false,
            nonce,
            recent_nonces: vec![nonce],
            required_features: vec![],
            roots: List::default(),
            segments: List::default(),
            sessions: List::default(),
            condemned: List::default(),
            doomed: List::default(),
            slots,
            hosts: List::default(),
            epochs: BTreeMap::from([(1, EpochRef::default())]),
            grants: None,
            other: BTreeMap::new(),
        }
    }

    /// How far it has come.
    #[must_use]
    pub fn age(&self) -> Age {
        Age { incarnation: self.incarnation, generation: self.generation }
    }

    /// Puts `new` in the place of a root, which it returns.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if there is no such root.
    pub fn replace(&mut self, old: ObjectId, new: &Root) -> Result<Root> {
        let place = self.roots.find_mut(|root| root.id == old)?.ok_or(Error::Gone { id: old })?;
        let before = std::mem::replace(place, new.clone());
        self.forget(old)?;
        Ok(before)
    }

    /// Notes that a snapshot was taken out on purpose, where copies may have it.
    ///
    /// # Errors
    ///
    /// A list of HEAD cannot be read, as with all that follow.
    pub fn forget(&mut self, id: ObjectId) -> Result<()> {
        let has_copies = !self.tiers.all || !self.tiers.made.is_empty();
        if self.tier.is_none() && has_copies && !self.forgotten.contains(&id)? {
            self.forgotten.push(id);
            self.forgotten.keep_last(MOST_FORGOTTEN)?;
        }
        Ok(())
    }

    /// The same of one that a person named: it is to go from the copies, too.
    ///
    /// # Errors
    ///
    /// As [`Head::forget`].
    pub fn forget_everywhere(&mut self, id: ObjectId) -> Result<()> {
        self.forget(id)?;
        if self.forgotten.contains(&id)? && !self.forgotten_everywhere.contains(&id)? {
            self.forgotten_everywhere.push(id);
        }
        let known: HashSet<ObjectId> = self.forgotten.iter()?.copied().collect();
        self.forgotten_everywhere.retain(|id| known.contains(id))
    }

    /// Whether a prune may remove what a session wrote. Of a HEAD that was made anew, nobody knows whether it names
    /// all that older sessions wrote and that is needed.
    ///
    /// # Errors
    ///
    /// As [`Head::forget`].
    pub fn may_remove(&self, session: &SessionId) -> Result<bool> {
        self.anew.as_ref().map_or(Ok(true), |anew| anew.knows(session))
    }

    /// Whether a session may still commit.
    ///
    /// # Errors
    ///
    /// As [`Head::forget`].
    pub fn is_open(&self, session: &SessionId) -> Result<bool> {
        Ok(self.sessions.find(|known| known.id == *session && !known.fenced)?.is_some())
    }

    /// Packs condemned before this HEAD's generation `since` are known for that to every session at work but
    /// `own`: none of them chose to build on one.
    ///
    /// # Errors
    ///
    /// As [`Head::forget`].
    pub fn known_since(&self, own: &SessionId) -> Result<u64> {
        let others = self.sessions.iter()?.filter(|other| !other.fenced && other.id != *own);
        Ok(others.map(|other| other.opened).min().unwrap_or(u64::MAX))
    }

    /// The ids of the live segments.
    ///
    /// # Errors
    ///
    /// As [`Head::forget`].
    pub fn segment_ids(&self) -> Result<Vec<ObjectId>> {
        Ok(self.segments.iter()?.map(|segment| segment.id).collect())
    }

    /// Its leaves.
    pub fn leaves(&self) -> impl Iterator<Item = &LeafRef> {
        let anew = self.anew.iter().flat_map(|anew| anew.sessions.leaves());
        let packs = self.condemned.leaves().chain(self.doomed.leaves());
        let forgotten = self.forgotten.leaves().chain(self.forgotten_everywhere.leaves());
        let lists = self.roots.leaves().chain(self.segments.leaves()).chain(self.sessions.leaves());
        lists.chain(packs).chain(forgotten).chain(anew).chain(self.hosts.leaves())
    }

    fn attach(&self, leaves: &Arc<Leaves>) {
        self.roots.attach(leaves);
        self.segments.attach(leaves);
        self.sessions.attach(leaves);
        self.condemned.attach(leaves);
        self.doomed.attach(leaves);
        self.forgotten.attach(leaves);
        self.forgotten_everywhere.attach(leaves);
        self.hosts.attach(leaves);
        self.anew.iter().for_each(|anew| anew.sessions.attach(leaves));
    }

    /// Writes what HEAD itself shall not hold to leaves, which are noted in `written`.
    fn settle(&mut self, leaves: &Arc<Leaves>, written: &mut Vec<LeafRef>) -> Result<()> {
        let age = Stamp { age: self.age(), epoch: self.epoch() };
        self.roots.settle(leaves, age, written)?;
        self.segments.settle(leaves, age, written)?;
        self.sessions.settle(leaves, age, written)?;
        self.condemned.settle(leaves, age, written)?;
        self.doomed.settle(leaves, age, written)?;
        self.forgotten.settle(leaves, age, written)?;
        self.forgotten_everywhere.settle(leaves, age, written)?;
        self.hosts.settle(leaves, age, written)?;
        self.anew.iter_mut().try_for_each(|anew| anew.sessions.settle(leaves, age, written))
    }

    /// Reads all lists, which are otherwise read when they are needed.
    ///
    /// # Errors
    ///
    /// A leaf is damaged or gone.
    pub fn read_all(&self) -> Result<()> {
        self.roots.read()?;
        self.segments.read()?;
        self.sessions.read()?;
        self.condemned.read()?;
        self.doomed.read()?;
        self.forgotten.read()?;
        self.forgotten_everywhere.read()?;
        self.hosts.read()?;
        self.anew.iter().try_for_each(|anew| anew.sessions.read())
    }
}

#[cfg(test)]
#[path = "head/tests.rs"]
mod long_lists;

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule by which a prune knows what everybody at work knows.
    #[test]
    fn what_is_condemned_is_known_to_those_that_opened_later() {
        let mut head = Head::first(ObjectId([0; 32]), BTreeMap::new());
        let session = |id, opened, fenced| Session {
            id: SessionId([id; 16]),
            fenced,
            hostname: String::new(),
            machine: String::new(),
            pid: 1,
            process_started: 1,
            purpose: String::new(),
            opened,
            opened_ms: 0,
            seen_ms: 0,
        };
        assert_eq!(head.known_since(&SessionId([1; 16])).unwrap(), u64::MAX);
        head.sessions = vec![session(1, 3, false), session(2, 7, false), session(3, 2, true)].into();
        assert_eq!(
            head.known_since(&SessionId([1; 16])).unwrap(),
            7,
            "one's own and the fenced do not count"
        );
        assert_eq!(head.known_since(&SessionId([2; 16])).unwrap(), 3);
        assert!(head.is_open(&SessionId([2; 16])).unwrap() && !head.is_open(&SessionId([3; 16])).unwrap());
    }
}
