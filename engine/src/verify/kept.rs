//! The check of what everything else is read by: the configuration, key slots, and grants. A disk has copies of each, and
//! other tiers have the slots and grants, too. What HEAD lists is sound wherever it lies; nothing else replaces anything.

use super::Check;
use crate::Result;
use chunkstore::ObjectId;
use chunkstore::format::names;
use chunkstore::keys::{Grants, slot_header};
use chunkstore::storage::Storage;
use chunkstore::store::Kept;
use std::collections::HashSet;
use std::sync::Arc;

impl Check<'_> {
    pub(super) fn kept(&mut self) -> Result<()> {
        self.strays()?;
        let head = self.store.head();
        let config = Kept::Config(self.store.config().clone());
        for object in std::iter::once(config).chain(Kept::of(&head)) {
            self.kept_object(&object)?;
        }
        self.head_copies()?;
        self.granted()
    }

    /// Checks the copies that a disk has of HEAD, from which it is made anew if it is lost.
    fn head_copies(&mut self) -> Result<()> {
        for (name, what) in self.store.damaged_head_copies()? {
            if self.options.heal {
                self.store.mend_head_copy(&name)?;
                self.healed(name, format!("{what}; made again from HEAD"));
            } else {
                self.report.suggest_heal = true;
                self.fail(name, format!("the copy of HEAD {what}: one bad sector more may lose it"));
            }
        }
        Ok(())
    }

    /// Names key slots that are there and that HEAD does not list.
    fn strays(&mut self) -> Result<()> {
        let head = self.store.head();
        let mut found = vec![];
        let list = self.store.storage().list(names::KEYS, &mut |name, _| found.push(name.to_owned()));
        list.map_err(chunkstore::Error::from)?;
        let is_listed = |name: &String| {
            let id = name.rsplit('/').next().and_then(ObjectId::parse);
            id.is_some_and(|id| head.slots.contains_key(&id))
        };
        for name in found.into_iter().filter(|name| !is_listed(name)) {
            // Nothing is lost by it: whoever changed a password was interrupted, or somebody put it there.
            self.monitor.warning(&format!(
                "{name}: a key slot that HEAD does not list; it opens nothing, and 'esker prune' removes it"
            ));
        }
        Ok(())
    }

    /// Checks one of them and its copies, and mends from what is sound here or on another tier.
    fn kept_object(&mut self, object: &Kept) -> Result<()> {
        let (storage, keys) = (Arc::clone(self.store.storage()), Arc::clone(self.store.keys()));
        let examined = object.examine(&*storage, &keys)?;
        if examined.damaged.is_empty() {
            return Ok(());
        }
        let (sound, whence) = match examined.sound {
            Some(bytes) => (Some(bytes), "made again from a sound one on this disk"),
            None if self.options.heal => {
                let of = |other: &dyn Storage| object.examine(other, &keys).ok()?.sound;
                let others = self.other_tiers();
                (others.iter().find_map(|other| of(&**other.storage())), "copied from another tier")
            }
            None => (None, ""),
        };
        let own = object.name();
        match sound {
            None => {
                let is_missing = examined.damaged.iter().all(|(_, what)| *what == "is missing");
                self.fail(own, lost(object, is_missing));
            }
            Some(bytes) if self.options.heal => {
                for (name, what) in examined.damaged {
                    storage.replace(&name, bytes.clone()).map_err(chunkstore::Error::from)?;
                    self.healed(name, format!("{what}; {whence}"));
                }
            }
            Some(_) => {
                self.report.suggest_heal = true;
                for (name, what) in examined.damaged {
                    let what = match name == own {
                        true => format!("it {what}; a copy of it is sound"),
                        false => format!("the copy of {own} {what}"),
                    };
                    self.fail(name, format!("{what}: one bad sector more may lose it"));
                }
            }
        }
        Ok(())
    }

    /// Checks that every slot has the last data key: in itself, or as a grant.
    fn granted(&mut self) -> Result<()> {
        let (head, keys) = (self.store.head(), Arc::clone(self.store.keys()));
        let storage = Arc::clone(self.store.storage());
        let mut granted: HashSet<ObjectId> = HashSet::new();
        if let Some(hash) = head.grants {
            let Some(bytes) = Kept::Grants(head.epoch(), hash).examine(&*storage, &keys)?.sound else {
                // Told of: it says nothing of any slot.
                return Ok(());
            };
            granted.extend(Grants::decode(&bytes).iter().flat_map(Grants::slots));
        }
        for (slot, hash) in head.slots.iter().filter(|(slot, _)| !granted.contains(*slot)) {
            let Some(bytes) = Kept::Slot(*slot, *hash).examine(&*storage, &keys)?.sound else { continue };
            if slot_header(slot, &bytes).is_ok_and(|header| header.epoch < head.epoch()) {
                let why = format!(
                    "the key slot has no data key of epoch {}: it no longer opens the repository. 'esker \
                     key rotate' makes a new one for every slot",
                    head.epoch()
                );
                self.fail(names::key(slot), why);
            }
        }
        Ok(())
    }
}

/// What is lost with an object of which nothing is sound here.
fn lost(object: &Kept, is_missing: bool) -> String {
    let what = if is_missing { "is missing" } else { "was changed" };
    match object {
        Kept::Config(_) => format!("the configuration {what}, since this check began"),
        Kept::Slot(slot, _) => format!(
            "the key slot {what}: it may no longer open the repository. If another tier has it, 'esker heal' puts it back; \
             'esker key remove {}' drops it",
            slot.short()
        ),
        Kept::Grants(..) => format!(
            "the grants that HEAD names: the object {what}. Key slots that are older than the data key may no longer open the \
             repository. If another tier has it, 'esker heal' puts it back; 'esker key rotate' makes a new data key for \
             every slot"
        ),
    }
}
