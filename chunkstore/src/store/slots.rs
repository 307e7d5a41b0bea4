//! Key slots: added, removed, and those that HEAD does not list.

use super::ChunkStore;
use super::opening::slots_there;
use crate::format::{MAX_SLOTS, names};
use crate::head::{Head, Session};
use crate::id::ObjectId;
use crate::kept::{Kept, delete_kept, put_kept};
use crate::keys::{self, KdfParams, SlotOwner, SlotSecret};
use crate::{Error, Result};
use std::collections::BTreeSet;

/// What the session of somebody who adds a slot is called.
const ADDING: &str = "key";

/// Attempts before a slot is given up that rotations always overtake.
const ATTEMPTS: usize = 20;

impl ChunkStore {
    /// Adds a key slot for a secret; `kdf` is what a passphrase is to cost. There are so many at most as are tried with one
    /// secret.
    ///
    /// # Errors
    ///
    /// As [`keys::make_slot`]; there are too many; or HEAD cannot be swapped.
    pub fn add_slot<S: SlotSecret + ?Sized>(
        &self,
        secret: &S,
        kdf: KdfParams,
        owner: SlotOwner,
    ) -> Result<ObjectId> {
        let may_add = |head: &Head| {
            if head.slots.len() < MAX_SLOTS {
                return Ok(());
            }
            Err(Error::Invalid(format!(
                "there are {MAX_SLOTS} key slots, as many as can be: remove one first"
            )))
        };
        may_add(&*self.reload()?)?;
        // A prune takes what HEAD does not list for a stray, unless somebody is at work.
        let session = self.open_session(ADDING)?;
        for _ in 0..ATTEMPTS {
            let epoch = self.reload()?.epoch();
            let (slot, bytes) = keys::make_slot(&self.keys, secret, kdf, owner.clone(), &*self.access.env)?;
            let hash = self.keys.slot_hash(&bytes);
            put_kept(&*self.access.storage, &names::key(&slot), &bytes.into())?;
            let added = self.update_head(|head| {
                // By a swap whose answer was lost.
                if head.slots.get(&slot) == Some(&hash) {
                    return Ok(true);
                }
                if !head.is_open(&session)? {
                    return Err(Error::Fenced {
                        why: "this session was fenced by a prune; run it again".into(),
                    });
                }
                may_add(head)?;
                // A rotation since then did not know of the slot.
                if head.epoch() != epoch {
                    return Ok(false);
                }
                head.slots.insert(slot, hash);
                head.sessions.retain(|known| known.id != session)?;
                Ok(true)
            })?;
            if added {
                return Ok(slot);
            }
            delete_kept(&*self.access.storage, &names::key(&slot))?;
        }
        Err(Error::Fenced { why: format!("keys were rotated {ATTEMPTS} times meanwhile; try again") })
    }

    /// Removes a key slot, whether its object is sound or not; the last one that is stays.
    pub fn remove_slot(&self, slot: &ObjectId) -> Result<()> {
        if let Some(tier) = self.tier() {
            return Err(Error::Invalid(format!(
                "this is tier '{tier}', which gets its key slots from the primary: remove it there, and 'esker tier sync' \
                 removes it here"
            )));
        }
        let is_sound = |(slot, hash): &(&ObjectId, &ObjectId)| {
            Kept::Slot(**slot, **hash).read(&*self.access.storage, &self.keys).is_ok()
        };
        let head = self.reload()?;
        let sound: BTreeSet<ObjectId> = head.slots.iter().filter(is_sound).map(|(slot, _)| *slot).collect();
        self.update_head(|head| {
            if head.slots.remove(slot).is_none() {
                return Err(Error::Invalid(format!("no key slot {}", slot.short())));
            }
            if !head.slots.keys().any(|left| sound.contains(left)) {
                return Err(Error::Invalid("the last key slot cannot be removed".into()));
            }
            Ok(())
        })?;
        delete_kept(&*self.access.storage, &names::key(slot))
    }

    /// Key slots that are there, and that HEAD does not list: removed ones that came back, and what an interrupted
    /// `add_slot` or `remove_slot` left.
    pub fn stray_slots(&self) -> Result<Vec<ObjectId>> {
        let head = self.head();
        let there = slots_there(&*self.access.storage)?;
        Ok(there.into_iter().filter(|slot| !head.slots.contains_key(slot)).collect())
    }

    /// Removes a stray key slot; see [`ChunkStore::stray_slots`].
    ///
    /// # Errors
    ///
    /// HEAD lists it by now, or somebody is adding one; it cannot be removed.
    pub fn remove_stray(&self, slot: &ObjectId) -> Result<()> {
        let head = self.reload()?;
        // The object of a slot that is being added is there before HEAD lists it, and after its session is.
        let is_adding = |session: &Session| !session.fenced && session.purpose == ADDING;
        if head.slots.contains_key(slot) || head.sessions.iter()?.any(is_adding) {
            return Err(Error::Fenced {
                why: format!(
                    "key slot {} may be one that another process is adding: look again later; a prune removes what a process \
                     that died has left",
                    slot.short()
                ),
            });
        }
        delete_kept(&*self.access.storage, &names::key(slot))
    }
}
