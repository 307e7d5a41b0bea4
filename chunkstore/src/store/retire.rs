//! Retiring epochs: from then on nothing that is sealed under one is accepted, so that a data key that somebody copied
//! forges nothing, and later grants and slots do not have it.
//!
//! HEAD says of all that it names which epoch it is sealed under, so the swap that retires an epoch checks the very HEAD that
//! it replaces. Tiers are looked at before, one after the other, and only once the primary needs the epoch no more: what the
//! primary does not have, no sync brings to a tier that was looked at.

use super::ChunkStore;
use crate::head::{Head, Needs};
use crate::{Error, Result};

/// Choices for retiring an epoch.
#[derive(Clone, Debug, Default)]
pub struct RetireOptions {
    /// Tiers that are lost for good: what they have is given up, and HEAD no longer lists them.
    pub lost_tiers: Vec<String>,
    /// A person says that no tier is missing from HEAD's list, although HEAD was made anew.
    pub knows_all_tiers: bool,
}

/// What retiring an epoch did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// The epochs that are retired now and were not before.
    pub epochs: Vec<u32>,
    /// Tiers whose HEAD could not be told; the next sync tells it.
    pub untold: Vec<String>,
}

/// What at a place still needs an epoch or an earlier one, for people; `None` if nothing does.
///
/// # Errors
///
/// A list of HEAD cannot be read.
pub fn holders(head: &Head, epoch: u32) -> Result<Option<String>> {
    let Needs { segments, roots, leaves, doomed, sessions } = head.needs(epoch)?;
    let mut said = vec![];
    let mut say = |count: usize, what: &str| {
        if count > 0 {
            said.push(format!("{count} {what}"));
        }
    };
    say(segments, "index segments with their packs");
    say(roots, "records of snapshots or tier maps");
    say(leaves, "leaves of HEAD");
    say(sessions, "runs at work that began before the next epoch did");
    say(doomed, "packs that are to be removed");
    if head.epoch() <= epoch {
        said.push("HEAD itself".into());
    }
    Ok((!said.is_empty()).then(|| said.join(", ")))
}

impl ChunkStore {
    /// Retires an epoch and all before it. `tiers`: every tier that was made, open.
    ///
    /// # Errors
    ///
    /// It is the newest, or unknown; something still needs it, here or on a tier; or a tier is not among `tiers`.
    pub fn retire(&self, epoch: u32, tiers: &[(&str, &Self)], options: &RetireOptions) -> Result<Retired> {
        if let Some(tier) = self.tier() {
            return Err(Error::Invalid(format!("this is tier '{tier}': epochs are retired at its primary")));
        }
        may_retire(&*self.reload()?, epoch, tiers, options)?;
        for (name, tier) in tiers {
            tier_is_free(name, &*tier.reload()?, epoch)?;
        }
        let now_ms = self.now_ms();
        self.update_head(|head| {
            may_retire(head, epoch, tiers, options)?;
            head.tiers.made.retain(|name, _| !options.lost_tiers.contains(name));
            retire_in(head, epoch, now_ms);
            Ok(())
        })?;
        self.keys.retire(epoch);
        let head = self.head();
        let epochs = head.epochs.iter().filter(|(_, known)| known.retired_ms == Some(now_ms));
        let epochs = epochs.map(|(number, _)| *number).collect();
        let mut untold = vec![];
        for (name, tier) in tiers {
            let told = tier.update_head(|head| {
                tier_is_free(name, head, epoch)?;
                retire_in(head, epoch, now_ms);
                Ok(())
            });
            if let Err(error) = told {
                tracing::warn!("tier '{name}' was not told that epoch {epoch} is retired: {error}");
                untold.push((*name).to_owned());
            }
        }
        Ok(Retired { epochs, untold })
    }
}

fn retire_in(head: &mut Head, epoch: u32, now_ms: u64) {
    for known in head.epochs.range_mut(..=epoch).map(|(_, known)| known) {
        known.retired_ms.get_or_insert(now_ms);
    }
}

/// Whether this HEAD, of the primary, allows it.
fn may_retire(head: &Head, epoch: u32, tiers: &[(&str, &ChunkStore)], options: &RetireOptions) -> Result<()> {
    if !head.epochs.contains_key(&epoch) {
        return Err(Error::Invalid(format!("there is no epoch {epoch}; see 'esker key epochs'")));
    }
    if epoch >= head.epoch() {
        return Err(Error::Invalid(format!(
            "epoch {epoch} is the newest: everything new is encrypted with its key. 'esker key rotate' makes another \
             epoch, and 'esker key re-encrypt' moves to it what this one protects"
        )));
    }
    if let Some(held) = holders(head, epoch)? {
        return Err(Error::Invalid(format!(
            "epoch {epoch}, or one before it, is still needed here: {held}. 'esker key re-encrypt' moves them to the newest \
             epoch"
        )));
    }
    let known =
        |name: &String| tiers.iter().any(|(tier, _)| tier == name) || options.lost_tiers.contains(name);
    if let Some(away) = head.tiers.made.keys().find(|name| !known(name)) {
        return Err(Error::Invalid(format!(
            "tier '{away}' cannot be looked at, and may have packs that need epoch {epoch}: nothing was retired. Make it \
             reachable, and name it in esker.toml, then run this again; or give up what it has with '--lost-tier {away}'"
        )));
    }
    if !head.tiers.all && !options.knows_all_tiers {
        return Err(Error::Invalid(
            "HEAD was made anew, and may not know of every tier: nothing was retired. With '--all-tiers-known' you say that \
             no other tier than those of esker.toml has anything of this repository"
                .into(),
        ));
    }
    Ok(())
}

fn tier_is_free(name: &str, head: &Head, epoch: u32) -> Result<()> {
    let Some(held) = holders(head, epoch)? else { return Ok(()) };
    Err(Error::Invalid(format!(
        "epoch {epoch}, or one before it, is still needed on tier '{name}': {held}. 'esker key re-encrypt' says what can be \
         moved there, and what waits for a lock or a thaw"
    )))
}
