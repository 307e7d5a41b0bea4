//! Retiring epochs: from then on nothing that is sealed under one is accepted, so that a data key that somebody copied
//! forges nothing, and later grants and slots do not have it.
//!
//! HEAD says of all that it names which epoch it is sealed under, so the swap that retires an epoch checks the very HEAD that
//! it replaces. Tiers are looked at before, one after the other, and only once the primary needs the epoch no more: what the
//! primary does not have, no sync brings to a tier that was looked at.

use super::ChunkStore;
use crate::head::{Head, Host, Needs};
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
    let mut say = |count: usize, one: &str, many: &str| match count {
        0 => {}
        1 => said.push(format!("1 {one}")),
        count => said.push(format!("{count} {many}")),
    };
    say(segments, "index segment with its packs", "index segments with their packs");
    say(
        roots,
        "record of a snapshot, report of a drill or tier map",
        "records of snapshots, reports of drills or tier maps",
    );
    say(leaves, "leaf of HEAD", "leaves of HEAD");
    let began = "that began before the next epoch did";
    say(sessions, &format!("run at work {began}"), &format!("runs at work {began}"));
    say(doomed, "pack that is to be removed", "packs that are to be removed");
    if head.epoch() <= epoch {
        said.push("HEAD itself".into());
    }
    let hosts = hosts_on(head, epoch)?;
    if !hosts.is_empty() {
        let whose = if hosts.len() == 1 { "host" } else { "hosts" };
        said.push(format!("the inbox of the {whose} {}", hosts.join(", ")));
    }
    Ok((!said.is_empty()).then(|| said.join(", ")))
}

/// The write-only hosts that may still seal to the inbox of an epoch or of an earlier one. A tier has no inbox.
fn hosts_on(head: &Head, epoch: u32) -> Result<Vec<String>> {
    if head.tier.is_some() {
        return Ok(vec![]);
    }
    let is_on = |host: &&Host| host.revoked_ms.is_none() && host.epoch <= epoch;
    Ok(head.hosts.iter()?.filter(is_on).map(|host| host.name.clone()).collect())
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
    let hosts = hosts_on(head, epoch)?;
    if !hosts.is_empty() {
        return Err(Error::Invalid(format!(
            "hosts may still bring what is encrypted for epoch {epoch}, or one before it: {}. Each gets the new key with the \
             answer to its next backup, and uses it with the one after that; 'esker host revoke' gives one up",
            hosts.join(", ")
        )));
    }
    if let Some(held) = holders(head, epoch)? {
        return Err(Error::Invalid(format!(
            "epoch {epoch}, or one before it, is still needed here: {held}. 'esker key re-encrypt' moves them to the newest \
             epoch"
        )));
    }
    if let Some((name, _)) = tiers.iter().find(|(name, _)| options.lost_tiers.iter().any(|lost| lost == name))
    {
        return Err(Error::Invalid(format!(
            "tier '{name}' can be reached: it is not lost, and nothing was retired"
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunker::ChunkerParams;
    use crate::config::Layout;
    use crate::env::SeededEnv;
    use crate::executor::Inline;
    use crate::format::{ObjectKind, PackKind, names};
    use crate::head::SegmentRef;
    use crate::id::{ObjectId, PackId, SessionId};
    use crate::index::{PackEntry, Segment};
    use crate::keys::{KdfParams, SlotOwner};
    use crate::pack::PackName;
    use crate::storage::Storage as _;
    use crate::storage::memory::MemoryStorage;
    use crate::store::{Access, Identity};
    use std::collections::HashSet;
    use std::path::Path;
    use std::sync::Arc;

    const CHEAP: KdfParams = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };

    fn access(storage: &Arc<MemoryStorage>, seed: u64, cache: Option<&Path>) -> Access {
        Access {
            storage: Arc::clone(storage) as _,
            env: Arc::new(SeededEnv::new(seed)),
            cpu: Arc::new(Inline),
            io: Arc::new(Inline),
            cache: cache.map(Path::to_owned),
            identity: Identity::default(),
            columns: &crate::head::NoColumns,
        }
    }

    fn made(storage: &Arc<MemoryStorage>, cache: Option<&Path>) -> ChunkStore {
        let access = access(storage, 1, cache);
        ChunkStore::init(
            access,
            ChunkerParams::default(),
            b"x",
            CHEAP,
            SlotOwner::default(),
            Layout::default(),
        )
        .unwrap()
    }

    fn segment(store: &ChunkStore, epoch: u32) -> SegmentRef {
        let (session, id) = (SessionId([9; 16]), PackId([7; 32]));
        let name = PackName { session, id, kind: PackKind::Data, epoch };
        store.write_segment(&Segment { packs: vec![PackEntry { name, len: 100, records: vec![] }] }).unwrap()
    }

    fn retire(store: &ChunkStore, epoch: u32) -> Result<Vec<u32>> {
        store.retire(epoch, &[], &RetireOptions::default()).map(|done| done.epochs)
    }

    fn why(refused: Result<Vec<u32>>) -> String {
        refused.unwrap_err().to_string()
    }

    #[test]
    fn what_still_needs_an_epoch_stops_it() {
        let store = made(&Arc::default(), None);
        // It began before the rotation, and may seal under the first epoch.
        let session = store.open_session("backup").unwrap();
        store.rotate().unwrap();
        assert!(why(retire(&store, 1)).contains("1 run at work"));
        // One that began later does not.
        let later = store.open_session("backup").unwrap();
        let old = segment(&store, 1);
        assert_eq!(old.epoch, 1, "the lowest of what is in it");
        store.checkpoint(&later, std::slice::from_ref(&old)).unwrap();
        store.close_session(&session, &[]).unwrap();
        assert!(why(retire(&store, 1)).contains("1 index segment"));
        store
            .update_head(|head| {
                head.segments.clear();
                head.doomed.push(crate::head::PackRef { session: SessionId([9; 16]), id: PackId([7; 32]) });
                Ok(())
            })
            .unwrap();
        assert!(why(retire(&store, 1)).contains("1 pack that is to be removed"));
        store.update_head(|head| head.doomed.retain(|_| false)).unwrap();
        assert_eq!(retire(&store, 1).unwrap(), [1]);
        // Whatever brings something under it is refused now.
        let brings = |refused: Result<()>| matches!(refused, Err(Error::Fenced { .. }));
        assert!(brings(store.checkpoint(&later, std::slice::from_ref(&old))));
        assert!(brings(store.commit(&later, std::slice::from_ref(&old), &[], &HashSet::new())));
        assert!(brings(store.close_session(&later, &[old])));
        store.close_session(&later, &[]).unwrap();
        assert!(store.head().segments.is_empty());
    }

    #[test]
    fn a_tier_that_is_not_looked_at_stops_it() {
        let store = made(&Arc::default(), None);
        let there = Arc::new(MemoryStorage::default());
        let tier = store.create_tier(access(&there, 2, None), "copy", false).unwrap();
        store.rotate().unwrap();
        assert!(why(retire(&store, 1)).contains("tier 'copy' cannot be looked at"));
        let with_it = || store.retire(1, &[("copy", &tier)], &RetireOptions::default());
        assert!(with_it().unwrap_err().to_string().contains("still needed on tier 'copy': HEAD itself"));
        let session = tier.open_sync(&store, &store.head()).unwrap();
        assert!(with_it().unwrap_err().to_string().contains("1 run at work"));
        tier.close_session(&session, &[]).unwrap();
        let done = with_it().unwrap();
        assert_eq!((done.epochs, done.untold.len(), tier.head().retired()), (vec![1], 0, 1));
        // Of a HEAD that was made anew, nobody knows whether it lists all tiers.
        store.rotate().unwrap();
        let session = tier.open_sync(&store, &store.head()).unwrap();
        tier.close_session(&session, &[]).unwrap();
        store
            .update_head(|head| {
                head.tiers.all = false;
                Ok(())
            })
            .unwrap();
        let anew = |options| store.retire(2, &[("copy", &tier)], &options);
        assert!(anew(RetireOptions::default()).unwrap_err().to_string().contains("--all-tiers-known"));
        let knows = RetireOptions { knows_all_tiers: true, ..RetireOptions::default() };
        assert_eq!(anew(knows).unwrap().epochs, [2]);
    }

    /// A leaked key of a retired epoch makes no HEAD for a client that has read HEAD since, whatever generation it claims.
    #[test]
    fn a_head_under_a_retired_epoch_is_refused() {
        let (storage, cache) = (Arc::new(MemoryStorage::default()), tempfile::tempdir().unwrap());
        let store = made(&storage, Some(cache.path()));
        let leaked = Arc::clone(ChunkStore::open(access(&storage, 3, None), b"x").unwrap().keys());
        store.rotate().unwrap();
        retire(&store, 1).unwrap();
        store.reload().unwrap();
        let mut head = Head::clone(&store.head());
        head.epochs.retain(|epoch, _| *epoch == 1);
        head.epochs.values_mut().for_each(|epoch| epoch.retired_ms = None);
        (head.generation, head.incarnation, head.grants) = (1000, 9, None);
        head.nonce = ObjectId([5; 32]);
        let env = SeededEnv::new(4);
        let plain = serde_json::to_vec(&head).unwrap();
        let forged = crate::envelope::seal(&leaked, 1, ObjectKind::Head, names::HEAD, &plain, &env).unwrap();
        storage.replace(names::HEAD, forged.into()).unwrap();
        let here = [store.reload().map(drop), store.rotate().map(drop)];
        let later = ChunkStore::open(access(&storage, 5, Some(cache.path())), b"x").map(drop);
        for refused in here.into_iter().chain([later]) {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("epoch 1, which was retired"), "{refused}");
        }
    }
}
