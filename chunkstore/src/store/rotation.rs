//! Rotation: a new data key for everything that is written from now on, granted to the slots that HEAD lists.
//!
//! The grants are written first, and HEAD, sealed under the new key, names them: the swap makes the epoch. Killed before
//! it, a rotation leaves an object that HEAD does not name; the next one takes another number. Grants are removed only once
//! HEAD is of a later epoch: numbers that HEAD has gone past are never taken again, so what is removed late is not what
//! somebody else put there.

use super::ChunkStore;
use crate::format::names;
use crate::head::{EpochRef, Head};
use crate::id::ObjectId;
use crate::kept::{Kept, delete_kept, put_kept};
use crate::keys::{self, grants::there as grants_there};
use crate::storage::{ErrorKind, Storage};
use crate::{Error, Result};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Attempts before a rotation that others always overtake is given up.
const ATTEMPTS: usize = 20;

/// What a rotation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// The epoch before.
    pub before: u32,
    /// The new epoch.
    pub epoch: u32,
    /// The slots that open it.
    pub slots: Vec<ObjectId>,
}

impl ChunkStore {
    /// Makes a new epoch. Another rotation, or a change of slots, that comes between makes it begin again, so the new epoch is
    /// later than everything that was there when this was called.
    ///
    /// # Errors
    ///
    /// This is a tier, which has the epochs of its primary; or a slot that HEAD lists is damaged or gone, so that its owner
    /// would be shut out.
    pub fn rotate(&self) -> Result<Rotated> {
        self.rotate_with(&BTreeMap::new())
    }

    /// The same, with what another place's HEAD says of epochs that this one does not know.
    fn rotate_with(&self, others: &BTreeMap<u32, EpochRef>) -> Result<Rotated> {
        if let Some(tier) = self.tier() {
            return Err(Error::Invalid(format!(
                "this is tier '{tier}', which gets its data keys from the primary: rotate there, and 'esker tier sync' \
                 brings the new key here"
            )));
        }
        for _ in 0..ATTEMPTS {
            let head = self.reload()?;
            let slots = self.public_keys(&head)?;
            let (epoch, bytes) = self.claim(&head, &slots)?;
            let hash = ObjectId(*blake3::hash(&bytes).as_bytes());
            let made_ms = self.now_ms();
            let (before, known) = (head.epoch(), (&head.epochs, &head.slots));
            let swapped = self.update_head(|head| {
                // By a swap whose answer was lost, and many swaps ago: nobody else has the number.
                if head.epochs.contains_key(&epoch) {
                    return Ok(true);
                }
                if (&head.epochs, &head.slots) != known {
                    return Ok(false);
                }
                // Keys that came from a copy whose primary was lost are in the grants now.
                for epoch in self.keys.epochs() {
                    head.epochs.entry(epoch).or_insert(others.get(&epoch).copied().unwrap_or_default());
                }
                let since = head.generation + 1;
                head.epochs.insert(epoch, EpochRef { made_ms, since, retired_ms: None });
                head.grants = Some(hash);
                Ok(true)
            });
            match swapped {
                Ok(true) => {
                    self.drop_old_grants();
                    let slots = slots.into_iter().map(|(slot, _)| slot).collect();
                    return Ok(Rotated { before, epoch, slots });
                }
                // No HEAD is sealed under it, and none will be. A prune removes the grants when HEAD is past the number.
                Ok(false) => self.keys.forget_epoch(epoch),
                Err(error) => {
                    self.keys.forget_epoch(epoch);
                    return Err(error);
                }
            }
        }
        Err(Error::Fenced {
            why: format!("keys or slots changed {ATTEMPTS} times while a new epoch was made; try again"),
        })
    }

    /// Takes in the epochs of another place's HEAD: one that was the primary when another copy was lost behind it may have
    /// some that this HEAD does not know. A new epoch's grants have their keys.
    ///
    /// # Errors
    ///
    /// As [`ChunkStore::rotate`].
    pub fn take_in_epochs(&self, other: &Head) -> Result<()> {
        let head = self.head();
        // Of retired ones nobody needs the key.
        let retired = head.retired();
        if other.epochs.keys().all(|epoch| *epoch <= retired || head.epochs.contains_key(epoch)) {
            return Ok(());
        }
        tracing::warn!(
            "a copy has data keys that the primary does not know: a new epoch is made that has them"
        );
        self.rotate_with(&other.epochs).map(drop)
    }

    /// Writes the grants of a new epoch, under a number that nobody had before.
    fn claim(&self, head: &Head, slots: &[(ObjectId, ObjectId)]) -> Result<(u32, Bytes)> {
        let mut known = self.keys.latest_epoch();
        for _ in 0..ATTEMPTS {
            // Rotations that were killed may have left any number of objects, which stay until HEAD is past them.
            let taken = grants_there(&*self.access.storage)?;
            let mut free = head.next_epoch(known, self.now_ms() / 1000)..=u32::MAX;
            let epoch = free.find(|epoch| !taken.contains(epoch));
            let epoch = epoch.ok_or_else(|| Error::Invalid("no number of an epoch is left".into()))?;
            let bytes = Bytes::from(self.keys.make_epoch(epoch, slots, &*self.access.env)?);
            match put_kept(&*self.access.storage, &names::grants(epoch), &bytes) {
                Ok(()) => return Ok((epoch, bytes)),
                Err(error) => {
                    self.keys.forget_epoch(epoch);
                    match error {
                        // Of another rotation, which was faster, or which a late listing did not show.
                        Error::Storage(error) if error.kind == ErrorKind::Conflict => known = epoch,
                        error => return Err(error),
                    }
                }
            }
        }
        Err(Error::Fenced { why: "other rotations are at work; try again".into() })
    }

    /// The slots of HEAD, with their public keys. What is not the object that HEAD lists has none.
    fn public_keys(&self, head: &Head) -> Result<Vec<(ObjectId, ObjectId)>> {
        let mut all = vec![];
        for (slot, hash) in &head.slots {
            let bytes = Kept::Slot(*slot, *hash).read(&*self.access.storage, &self.keys);
            let header = bytes.and_then(|bytes| keys::slot_header(slot, &bytes)).map_err(|error| match error {
                Error::Corrupt { object, why: detail } => {
                    let short = slot.short();
                    let why = format!(
                        "{detail}: what opens it would not open what is written from now on, so nothing was changed. If \
                         another tier has it, 'esker heal' puts it back; 'esker key remove {short}' drops it"
                    );
                    Error::corrupt(object, why)
                }
                error => error,
            })?;
            all.push((*slot, header.public));
        }
        Ok(all)
    }

    /// Removes the grants of all epochs but the last, which has their keys, too. They open nothing that their slots
    /// did not open before, so that one stays, as under a lock, is no error.
    pub(super) fn drop_old_grants(&self) {
        let storage = &*self.access.storage;
        let head = self.head();
        // One that HEAD does not know is of a rotation that was killed, or nobody knows of what.
        let is_old = |found: &u32| *found < head.epoch() && head.epochs.contains_key(found);
        let old = grants_there(storage).map(|there| there.into_iter().filter(is_old));
        for old in old.into_iter().flatten() {
            if let Err(error) = delete_kept(storage, &names::grants(old)) {
                tracing::debug!(%error, "grants of an older epoch stay");
            }
        }
    }

    /// Brings the grants of a place up to those of this repository's `head`. Older ones are left: HEAD there may need them.
    pub fn copy_grants(&self, head: &Head, to: &dyn Storage) -> Result<()> {
        let Some(hash) = head.grants else { return Ok(()) };
        let (grants, name) = (Kept::Grants(head.epoch(), hash), names::grants(head.epoch()));
        match grants.read(to, &self.keys) {
            Ok(_) => return Ok(()),
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
        let bytes = grants.read(&**self.storage(), &self.keys)?;
        if to.len(&name).is_ok() {
            to.replace(&name, bytes.clone())?;
        }
        put_kept(to, &name, &bytes)
    }
}
