//! Reading HEAD and replacing it: one compare-and-swap, tried again where others were faster, and never taken for failed
//! because an answer was lost.

use super::columns::{NoColumns, RootColumns};
use super::leaves::Leaves;
use super::reference::LeafRef;
use super::seen::{Notes, Seen};
use super::{Age, Anew, Elsewhere, EpochRef, Head, List, Root, SegmentRef};
use crate::env::{Env, SystemEnv, random_array};
use crate::format::{KNOWN_FEATURES, ObjectKind, names};
use crate::id::ObjectId;
use crate::keys::KeyRing;
use crate::log::ms;
use crate::pool::locked;
use crate::storage::{ErrorKind, Storage, Version};
use crate::{Error, Result, envelope};
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

mod copies;
mod home;
pub(crate) use home::called;

/// How many recent nonces HEAD carries: more swaps than this between a lost answer and its read-back
/// are taken for a failed swap, which is the safe side.
const RECENT_NONCES: usize = 64;
/// Attempts before a busy HEAD is given up on.
const ATTEMPTS: u32 = 200;

/// Reads and swaps HEAD.
pub struct HeadStore {
    storage: Arc<dyn Storage>,
    keys: Arc<KeyRing>,
    env: Arc<dyn Env>,
    /// The tier that the place was made as.
    home: Option<String>,
    /// Where HEAD's long lists lie.
    leaves: Arc<Leaves>,
    /// Where the highest HEAD seen is remembered.
    notes: Notes,
    seen_lock: Mutex<()>,
    /// Whether HEAD was compared with its copies.
    compared: AtomicBool,
}

/// A HEAD as read from the store.
pub struct LoadedHead {
    /// Its content.
    pub head: Head,
    version: Version,
    hash: ObjectId,
}

impl Head {
    /// Opens a sealed HEAD whose leaves are in `storage`, whatever place it was made for.
    ///
    /// # Errors
    ///
    /// It is damaged. Damage to leaves shows when they are read.
    pub fn open(sealed: &[u8], keys: &Arc<KeyRing>, storage: Arc<dyn Storage>) -> Result<Self> {
        let head = parse(sealed, keys)?;
        // Nothing is written there.
        let leaves = Leaves::new(storage, Arc::clone(keys), Arc::new(SystemEnv), None, &NoColumns, None);
        head.attach(&Arc::new(leaves));
        Ok(head)
    }
}

impl HeadStore {
    /// `home`: the tier that the place was made as. `seen`: a file that remembers the highest HEAD seen, so that a
    /// rollback is noticed.
    #[must_use]
    pub fn new(
        storage: Arc<dyn Storage>,
        keys: Arc<KeyRing>,
        env: Arc<dyn Env>,
        home: Option<String>,
        columns: &'static dyn RootColumns,
        seen: Option<PathBuf>,
    ) -> Self {
        // Leaves have random names: those of a repository and of its tiers lie side by side.
        let cache = seen.as_ref().map(|seen| seen.with_extension("sets"));
        let (store, ring, outside) = (Arc::clone(&storage), Arc::clone(&keys), Arc::clone(&env));
        let leaves = Leaves::new(store, ring, outside, home.clone(), columns, cache);
        let (leaves, notes) = (Arc::new(leaves), Notes::new(seen));
        Self {
            storage,
            keys,
            env,
            home,
            leaves,
            notes,
            seen_lock: Mutex::new(()),
            compared: AtomicBool::new(false),
        }
    }

    /// Writes the first HEAD of a repository.
    pub fn create(&self, slots: BTreeMap<ObjectId, ObjectId>) -> Result<()> {
        let nonce = ObjectId(random_array(&*self.env)?);
        let made_ms = u64::try_from(self.env.now().as_millis()).unwrap_or_default();
        let epochs =
            BTreeMap::from([(self.keys.latest_epoch(), EpochRef { made_ms, ..EpochRef::default() })]);
        self.create_as(Head { epochs, ..Head::first(nonce, slots) })
    }

    /// Writes the first HEAD of the tier `tier` of the repository whose HEAD is `primary`: a later one than any that
    /// was known of it.
    pub(crate) fn create_tier(&self, tier: &str, primary: &Head) -> Result<()> {
        let nonce = ObjectId(random_array(&*self.env)?);
        let mut first = Head::first(nonce, primary.slots.clone());
        let seen = self.notes.read(Some(tier)).map(|seen| seen.age);
        let known = [primary.tiers.made.get(tier).copied(), seen];
        if let Some(known) = known.into_iter().flatten().max() {
            first.generation = (known.generation + 1).max(self.env.now().as_secs());
        }
        (first.tier, first.home) = (Some(tier.to_owned()), self.home.clone());
        (first.incarnation, first.tiers) = (primary.incarnation, primary.tiers.clone());
        (first.epochs, first.grants) = (primary.epochs_of_tier(), primary.grants);
        let age = first.age();
        first.tiers.note(tier, age);
        self.create_as(first)
    }

    fn create_as(&self, mut head: Head) -> Result<()> {
        let nonce = head.nonce;
        head.settle(&self.leaves, &mut vec![])?;
        let sealed = Bytes::from(self.seal(&head)?);
        match self.storage.swap_head(None, sealed.clone()) {
            Ok(()) => {
                self.copy(&sealed);
                Ok(())
            }
            Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::Ambiguous) => {
                if self.load()?.head.nonce == nonce { Ok(()) } else { Err(error.into()) }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A HEAD made from nothing but objects, later than any that is known. A tier keeps its incarnation, or every
    /// primary would be out of date to it; that of a primary is a time in seconds, which grows whoever else repairs one,
    /// and wherever. So is the generation of a tier: the last one that it had may not be known.
    pub(crate) fn successor(
        &self,
        old: Option<Head>,
        roots: Vec<Root>,
        segments: Vec<SegmentRef>,
        slots: BTreeMap<ObjectId, ObjectId>,
        elsewhere: &Elsewhere,
        tier: Option<String>,
    ) -> Result<Head> {
        let nonce = ObjectId(random_array(&*self.env)?);
        let now_s = self.env.now().as_secs();
        let first = Head::first(nonce, slots);
        let listed = tier.as_ref().and_then(|tier| elsewhere.tiers.made.get(tier)).copied();
        let seen = self.notes.read(tier.as_deref()).map(|seen| seen.age);
        let ages = [listed, seen, old.as_ref().map(Head::age)];
        let known = ages.into_iter().flatten().max().unwrap_or(first.age());
        let age = match tier {
            Some(_) => Age {
                incarnation: known.incarnation.max(elsewhere.incarnation),
                generation: (known.generation + 1).max(now_s),
            },
            None => Age {
                incarnation: (known.incarnation.max(elsewhere.incarnation) + 1).max(now_s),
                generation: 1,
            },
        };
        let mut tiers = elsewhere.tiers.clone();
        if let Some(old) = &old {
            tiers.merge(&old.tiers);
        }
        if let Some(tier) = &tier {
            tiers.note(tier, age);
        }
        let without_parity = old.as_ref().is_some_and(|head| head.without_parity);
        let clock_ms = old.as_ref().and_then(|head| head.clock_ms);
        let mut forgotten = elsewhere.forgotten.clone();
        forgotten.extend(old.iter().flat_map(|head| head.forgotten.readable()));
        let everywhere = old.iter().flat_map(|head| head.forgotten_everywhere.readable());
        let forgotten_everywhere: List<ObjectId> = everywhere.copied().collect();
        let hosts = old.iter().flat_map(|head| head.hosts.readable()).cloned().collect();
        let (required_features, other) =
            old.map(|head| (head.required_features, head.other)).unwrap_or_default();
        let since_ms = u64::try_from(self.env.now().as_millis()).unwrap_or_default();
        let anew = Some(Anew { since_ms, sessions: List::default() });
        let Age { incarnation, generation } = age;
        let home = self.home.clone();
        let first = Head { incarnation, generation, tier, home, tiers, anew, ..first };
        let forgotten = forgotten.into_iter().collect();
        let first = Head { clock_ms, without_parity, forgotten, forgotten_everywhere, hosts, ..first };
        let (roots, segments) = (roots.into(), segments.into());
        Ok(Head { roots, segments, required_features, other, ..first })
    }

    /// Puts `head` in the place of whatever is there.
    pub(crate) fn force(&self, head: Head) -> Result<()> {
        let there = self.storage.read_head()?.map(|(_, version)| version);
        self.put_over(there, head)
    }

    /// Puts `head` in the place of the one that was read. Its nonce is fresh, and its lists may name leaves of that one.
    pub(crate) fn replace(&self, there: LoadedHead, mut head: Head) -> Result<()> {
        head.nonce = ObjectId(random_array(&*self.env)?);
        self.put_over(Some(there.version), head)
    }

    fn put_over(&self, there: Option<Version>, mut head: Head) -> Result<()> {
        head.settle(&self.leaves, &mut vec![])?;
        let sealed = Bytes::from(self.seal(&head)?);
        let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
        match self.storage.swap_head(there.as_ref(), sealed.clone()) {
            Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::Ambiguous) => {
                if self.load_any()?.head.nonce != head.nonce {
                    return Err(error.into());
                }
            }
            result => result?,
        }
        self.copy(&sealed);
        self.remember(&head, hash)
    }

    /// Reads HEAD, however old it is.
    pub(crate) fn load_unchecked(&self) -> Result<LoadedHead> {
        self.load_any()
    }

    fn seal(&self, head: &Head) -> Result<Vec<u8>> {
        let plain = serde_json::to_vec(head).map_err(|error| Error::Invalid(error.to_string()))?;
        envelope::seal(&self.keys, head.epoch(), ObjectKind::Head, names::HEAD, &plain, &*self.env)
    }

    /// Reads HEAD, and refuses one that is older than what this machine has seen.
    pub fn load(&self) -> Result<LoadedHead> {
        let mut loaded = self.load_any()?;
        if !self.compared.swap(true, Ordering::Relaxed) {
            loaded = self.not_older_than_copies(loaded)?;
        }
        match self.remember(&loaded.head, loaded.hash) {
            // Another process may have swapped, and noted it, after HEAD was read here. What is read now
            // cannot be older than that note.
            Err(error @ Error::Rollback { .. }) => {
                let seen = self.notes.read(loaded.head.tier.as_deref());
                let again = self.load_any()?;
                if seen.is_some_and(|seen| again.head.age() < seen.age) {
                    return Err(error);
                }
                self.remember(&again.head, again.hash).or_else(|error| match error {
                    // And another one.
                    Error::Rollback { .. } => Ok(()),
                    error => Err(error),
                })?;
                Ok(again)
            }
            done => done.map(|()| loaded),
        }
    }

    /// Reads HEAD, and the leaves that would be missed if others swapped them out.
    fn load_any(&self) -> Result<LoadedHead> {
        let mut failed: Option<(ObjectId, Error)> = None;
        loop {
            let (sealed, version) =
                self.storage.read_head()?.ok_or_else(|| Error::corrupt(names::HEAD, "it is missing"))?;
            let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
            if let Some((before, error)) = failed.take()
                && before == hash
            {
                return Err(error);
            }
            let head = self.unseal(&sealed)?;
            match self.leaves.fetch(head.leaves()) {
                Ok(()) => return Ok(LoadedHead { head, version, hash }),
                // HEAD may have moved on, and a leaf of the old one may be gone.
                Err(error) if error.is_damage() => failed = Some((hash, error)),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads a leaf in the store, whatever the cache has, and checks it.
    ///
    /// # Errors
    ///
    /// It is damaged or gone.
    pub fn check_leaf(&self, leaf: &LeafRef) -> Result<()> {
        self.leaves.check(leaf)
    }

    /// Puts leaves that the store lost back from the cache.
    ///
    /// # Errors
    ///
    /// One is not in the cache.
    pub(crate) fn put_leaves_back(&self) -> Result<()> {
        let Some((sealed, _)) = self.storage.read_head()? else { return Ok(()) };
        self.unseal(&sealed)?.leaves().try_for_each(|leaf| self.leaves.put_back(leaf))
    }

    /// What HEAD says that its place was made as, if it can be read.
    pub(crate) fn home_there(&self) -> Option<Option<String>> {
        let (sealed, _) = self.storage.read_head().ok()??;
        Some(self.unseal_any(&sealed).ok()?.home)
    }

    fn unseal_any(&self, sealed: &[u8]) -> Result<Head> {
        parse(sealed, &self.keys)
    }

    /// Opens a HEAD that was sealed for this place.
    fn unseal(&self, sealed: &[u8]) -> Result<Head> {
        let head = self.unseal_any(sealed)?;
        if let Some(feature) =
            head.required_features.iter().find(|name| !KNOWN_FEATURES.contains(&name.as_str()))
        {
            return Err(Error::Unsupported { why: format!("required feature '{feature}'") });
        }
        if head.home != self.home {
            if self.is_of_this_place(&head)? {
                return Err(self.foreign_config(&head));
            }
            let why = format!(
                "it is that of {}, and this is the place of {}",
                called(head.home.as_deref()),
                called(self.home.as_deref())
            );
            return Err(Error::corrupt(names::HEAD, why));
        }
        self.keys.retire(head.retired());
        head.attach(&self.leaves);
        Ok(head)
    }

    fn remember(&self, head: &Head, hash: ObjectId) -> Result<()> {
        let tier = head.tier.as_deref();
        let Some(path) = self.notes.path(tier) else { return Ok(()) };
        let _one_at_a_time = locked(&self.seen_lock);
        let age = head.age();
        let mut retired = head.retired();
        if let Some(seen) = &self.notes.read(tier) {
            self.keys.retire(seen.retired);
            if head.epoch() <= seen.retired {
                let epoch = head.epoch();
                return Err(Error::corrupt(names::HEAD, Error::RetiredEpoch { epoch }));
            }
            retired = retired.max(seen.retired);
            if age < seen.age {
                return Err(rolled_back(head, seen.age));
            }
            if age == seen.age {
                let fork = Error::corrupt(names::HEAD, "another HEAD of the same generation was seen before");
                return if hash == seen.hash { Ok(()) } else { Err(fork) };
            }
        }
        self.notes.write(&path, &Seen { age, hash, retired }, &*self.env)
    }

    /// Applies `change` to the current HEAD and swaps it in; on a lost race, applies it to the new one.
    /// `change` checks its preconditions on the HEAD it is given; an error leaves HEAD as it was.
    pub fn update<R>(&self, mut change: impl FnMut(&mut Head) -> Result<R>) -> Result<(Head, R)> {
        let began = Instant::now();
        let swapped = |head: &Head, attempt: u32| {
            let (generation, ms) = (head.generation, ms(began));
            tracing::info!(generation, attempts = attempt + 1, ms, "HEAD swapped");
        };
        // Whether a swap of this process may still come to pass.
        let mut in_doubt = false;
        for attempt in 0..ATTEMPTS {
            let LoadedHead { mut head, version, hash } = self.load()?;
            let before: Vec<LeafRef> = head.leaves().copied().collect();
            let nonce = ObjectId(random_array(&*self.env)?);
            let mut written = vec![];
            let changed = change(&mut head).and_then(|result| {
                head.generation += 1;
                head.previous = hash;
                head.nonce = nonce;
                head.recent_nonces.push(nonce);
                let surplus = head.recent_nonces.len().saturating_sub(RECENT_NONCES);
                head.recent_nonces.drain(..surplus);
                head.settle(&self.leaves, &mut written).map_err(|error| match error {
                    Error::Storage(error) if error.kind == ErrorKind::Full && !in_doubt => {
                        Error::NotSwapped(error)
                    }
                    error => error,
                })?;
                Ok(result)
            });
            let result = match changed {
                // What cannot be read may be gone because HEAD has moved on; then the swap would have failed.
                Err(error) if error.is_damage() && self.load()?.hash != hash => continue,
                result => result?,
            };
            let sealed = Bytes::from(self.seal(&head)?);
            let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
            match self.storage.swap_head(Some(&version), sealed.clone()) {
                Ok(()) => {
                    self.copy(&sealed);
                    // Another process may already have seen a later one; that is not a rollback.
                    let _ = self.remember(&head, hash);
                    swapped(&head, attempt);
                    self.clear_up(&before, &head, !written.is_empty());
                    return Ok((head, result));
                }
                Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::Ambiguous) => {
                    tracing::debug!(%error, attempt, "HEAD swap lost or in doubt");
                    let current = self.load()?.head;
                    if current.recent_nonces.contains(&nonce) {
                        swapped(&head, attempt);
                        self.clear_up(&before, &head, !written.is_empty());
                        return Ok((current, result));
                    }
                    in_doubt |= error.kind == ErrorKind::Ambiguous;
                    // A swap in doubt may still come to pass, as long as HEAD is not of that age.
                    if current.age() >= head.age() {
                        self.clear_up(&written, &current, false);
                    }
                    self.env.sleep(self.backoff(attempt)?);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Fenced {
            why: format!("HEAD changed {ATTEMPTS} times while it was to be swapped; try again"),
        })
    }

    /// Removes those of `leaves` that `head`, of their age or later, does not name; and lets the cache go of others, if
    /// leaves were `written`.
    fn clear_up(&self, leaves: &[LeafRef], head: &Head, written: bool) {
        let named: HashSet<ObjectId> = head.leaves().map(|leaf| leaf.object.id).collect();
        self.leaves.remove(leaves.iter().filter(|leaf| !named.contains(&leaf.object.id)));
        if written {
            self.leaves.keep_only(head.leaves());
        }
    }

    /// A random wait below 10 ms × 2^attempt, at most about a second.
    fn backoff(&self, attempt: u32) -> Result<Duration> {
        let random = u64::from(u16::from_le_bytes(random_array(&*self.env)?));
        Ok(Duration::from_micros((10_000 << attempt.min(7)) * random / 65_536))
    }
}

fn parse(sealed: &[u8], keys: &KeyRing) -> Result<Head> {
    let plain = envelope::open(keys, ObjectKind::Head, names::HEAD, sealed)?;
    let head: Head = serde_json::from_slice(&plain).map_err(|error| Error::corrupt(names::HEAD, error))?;
    if Some(head.epoch()) != envelope::epoch_of(sealed) {
        return Err(Error::corrupt(names::HEAD, "it is sealed under another epoch than its last"));
    }
    Ok(head)
}

/// Says that a HEAD is older than one that is known, and the way out.
#[must_use]
pub fn rolled_back(head: &Head, known: Age) -> Error {
    Error::Rollback { found: head.age(), seen: known, tier: head.tier.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEnv;
    use crate::id::RepositoryId;
    use crate::storage::StorageResult;
    use crate::storage::memory::MemoryStorage;

    /// Shows an older HEAD, once: what a reader finds who is overtaken.
    #[derive(Default)]
    struct Late {
        storage: MemoryStorage,
        older: Mutex<Option<(Bytes, Version)>>,
    }

    impl Storage for Late {
        fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
            match self.older.lock().unwrap().take() {
                Some(older) => Ok(Some(older)),
                None => self.storage.read_versioned(name),
            }
        }
        crate::forward!(self => self.storage; place put replace get get_range stream_range len list leftovers delete swap
            connections is_near keeps_copies written_ms copies shelf);
    }

    fn heads(storage: &Arc<Late>, seen: Option<PathBuf>) -> HeadStore {
        let env = Arc::new(SeededEnv::new(1));
        let keys = KeyRing::generate(RepositoryId([1; 16]), &*env).unwrap();
        HeadStore::new(Arc::clone(storage) as _, Arc::new(keys), env, None, &NoColumns, seen)
    }

    #[test]
    fn whoever_is_overtaken_looks_again_and_a_rollback_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let storage = Arc::new(Late::default());
        let heads = heads(&storage, Some(folder.path().join("seen")));
        heads.create(BTreeMap::new()).unwrap();
        let first = storage.read_head().unwrap();
        heads.update(|_| Ok(())).unwrap();
        let second = storage.read_head().unwrap();
        heads.update(|_| Ok(())).unwrap();
        // Overtaken: the note says 3, what is read is older, and then it is 3.
        for older in [&first, &second] {
            storage.older.lock().unwrap().clone_from(older);
            assert_eq!(heads.load().unwrap().head.generation, 3);
        }
        let (body, _) = second.unwrap();
        storage.replace(names::HEAD, body).unwrap();
        let older = heads.load().err().unwrap();
        assert!(
            matches!(&older, Error::Rollback { found, seen, .. } if found.generation == 2 && seen.generation == 3)
        );
        assert!(older.to_string().contains("rolled back: generation 2 here, 3 seen"), "{older}");
        assert!(heads.update(|_| Ok(())).is_err());
        // A fork: another HEAD of a generation that was seen.
        let elsewhere = self::heads(&storage, None);
        elsewhere.update(|_| Ok(())).unwrap();
        assert!(matches!(heads.load(), Err(Error::Corrupt { .. })));
        elsewhere.update(|_| Ok(())).unwrap();
        assert_eq!(heads.load().unwrap().head.generation, 4);
        // One that was made anew is later than any, and what was before it stays earlier.
        let (before, _) = storage.read_head().unwrap().unwrap();
        let anew =
            heads.successor(None, vec![], vec![], BTreeMap::new(), &Elsewhere::default(), None).unwrap();
        let age = anew.age();
        heads.force(anew).unwrap();
        assert_eq!(heads.load().unwrap().head.age(), age);
        storage.replace(names::HEAD, before).unwrap();
        assert!(matches!(heads.load(), Err(Error::Rollback { .. })));
    }
}
