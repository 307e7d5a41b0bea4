//! The key slots of a HEAD that is made anew.

use super::super::opening::slots_there;
use super::Rebuild;
use crate::Result;
use crate::format::names;
use crate::head::{Elsewhere, Head, KnownSlot};
use crate::id::ObjectId;
use crate::kept::{Kept, most_alike, replace_kept};
use crate::keys;
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet};

/// A slot, as its header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundSlot {
    /// Its id.
    pub id: ObjectId,
    /// Its label.
    pub label: String,
    /// The host that it was made on.
    pub hostname: String,
}

impl FoundSlot {
    fn of(id: ObjectId, bytes: Option<&Bytes>) -> Self {
        let header = bytes.and_then(|bytes| keys::slot_header(&id, bytes).ok());
        let (label, hostname) = header.map(|header| (header.label, header.hostname)).unwrap_or_default();
        Self { id, label, hostname }
    }
}

impl Rebuild<'_> {
    /// The slots that open this place. If another HEAD is known, it says which count, and which bytes they have: a removed
    /// one whose file reappeared does not count, and one whose file is missing or damaged here still does. Otherwise the grants say which
    /// count, as of the last rotation; without any, all slots that are there are listed. Both are named to the user. The
    /// slot that was opened just now counts: all keys are known by it.
    pub(super) fn slots(
        &mut self,
        old: Option<&Head>,
        elsewhere: &Elsewhere,
        dry_run: bool,
    ) -> Result<BTreeMap<ObjectId, ObjectId>> {
        let mut known: BTreeMap<ObjectId, ObjectId> =
            elsewhere.slots.iter().map(|(slot, known)| (*slot, known.hash)).collect();
        known.extend(old.iter().flat_map(|head| &head.slots));
        let there = slots_there(&*self.access.storage)?;
        let mut slots = BTreeMap::new();
        for (slot, hash) in &known {
            if self.known_slot(slot, *hash, elsewhere.slots.get(slot), dry_run)? {
                slots.insert(*slot, *hash);
            }
        }
        // One that was added since the others heard of this place is not known to them either: whoever has its password
        // says now that it counts.
        let own = self.own;
        let proof: Option<HashSet<ObjectId>> = match known.is_empty() {
            true => self.granted()?,
            false => Some(HashSet::new()),
        };
        let counts =
            |slot: &ObjectId| *slot == own || proof.as_ref().is_none_or(|proof| proof.contains(slot));
        for slot in there.iter().filter(|slot| !known.contains_key(*slot)) {
            let bytes = self.likely(slot)?;
            if !counts(slot) {
                self.plan.slots_left_out.push(FoundSlot::of(*slot, bytes.as_ref()));
                continue;
            }
            let Some(bytes) = bytes else {
                self.plan.unreadable.push((names::key(slot), "the key slot is damaged".into()));
                continue;
            };
            slots.insert(*slot, self.list(slot, &bytes));
            if *slot != own {
                self.plan.slots_unproven.push(FoundSlot::of(*slot, Some(&bytes)));
            }
            if !dry_run {
                replace_kept(&*self.access.storage, &names::key(slot), &bytes)?;
            }
        }
        Ok(slots)
    }

    /// Notes the public key of a slot that is listed, and returns its hash.
    fn list(&mut self, slot: &ObjectId, bytes: &Bytes) -> ObjectId {
        self.public.extend(keys::slot_header(slot, bytes).map(|header| (*slot, header.public)));
        self.keys.slot_hash(bytes)
    }

    /// Takes a slot that another HEAD lists from wherever it is sound: here, in its copies, or in the place of that HEAD.
    /// Returns whether it is.
    fn known_slot(
        &mut self,
        slot: &ObjectId,
        hash: ObjectId,
        other: Option<&KnownSlot>,
        dry_run: bool,
    ) -> Result<bool> {
        let (storage, kept) = (&*self.access.storage, Kept::Slot(*slot, hash));
        let here = kept.examine(storage, self.keys)?;
        let (bytes, is_fetched) = match here.sound {
            Some(bytes) => (Some(bytes), false),
            None => {
                let other = other.and_then(|known| known.bytes.as_ref());
                (other.filter(|bytes| kept.is(bytes, self.keys)).cloned(), true)
            }
        };
        let Some(bytes) = bytes else {
            let why = "the key slot is damaged or missing, here and wherever else it was looked for: its password opens \
                       nothing any more";
            self.plan.unreadable.push((names::key(slot), why.into()));
            return Ok(false);
        };
        if !here.damaged.is_empty() && !dry_run {
            replace_kept(storage, &names::key(slot), &bytes)?;
        }
        self.plan.slots_put_back += u64::from(is_fetched);
        self.list(slot, &bytes);
        Ok(true)
    }

    /// The bytes of a slot that no HEAD is known to list: those that most of its copies have. Of the own slot, those whose
    /// key pair it is.
    fn likely(&self, slot: &ObjectId) -> Result<Option<Bytes>> {
        let own = self.keys.own_public().filter(|_| *slot == self.own);
        let may_be = |bytes: &Bytes| {
            keys::slot_header(slot, bytes).is_ok_and(|header| {
                header.repository_id == *self.keys.repository()
                    && own.is_none_or(|own| own == header.public.0)
            })
        };
        Ok(most_alike(&*self.access.storage, &names::key(slot), may_be)?.most)
    }
}
