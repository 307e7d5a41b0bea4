//! HEAD: the only mutable object, changed by compare-and-swap. What it names exists; what it does not
//! name may be removed. docs/concurrency.md has the argument; the rules that hold it up are here:
//! a commit's dependencies are checked on the very HEAD that it replaces, doomed packs never come
//! back, and a session that is not open commits nothing. No clock and no listing enters.

use crate::env::{Env, random_array};
use crate::format::{KNOWN_FEATURES, ObjectKind, names};
use crate::id::{ObjectId, PackId, SessionId};
use crate::keys::KeyRing;
use crate::storage::{ErrorKind, Storage, Version};
use crate::{Error, Result, envelope};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The content of HEAD.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
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
    pub roots: Vec<Root>,
    /// The live index segments; the packs that they list are live.
    pub segments: Vec<SegmentRef>,
    /// Writers at work, and fenced ones whose packs still await removal.
    pub sessions: Vec<Session>,
    /// Live packs that a pruner found unneeded; writers no longer build on them.
    pub condemned: Vec<Condemned>,
    /// Packs that will be deleted, for ever unusable.
    pub doomed: Vec<PackRef>,
    /// Every key slot with a keyed hash of its bytes.
    pub slots: BTreeMap<ObjectId, ObjectId>,
    /// Fields of later versions, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// Something that keeps data alive.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Root {
    /// `snapshot` or `tier-map`; `stream` has its place.
    #[serde(rename = "type")]
    pub kind: String,
    /// Name of the object.
    pub id: ObjectId,
    /// BLAKE3 of its sealed bytes.
    pub hash: ObjectId,
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
            without_parity: false,
            nonce,
            recent_nonces: vec![nonce],
            required_features: vec![],
            roots: vec![],
            segments: vec![],
            sessions: vec![],
            condemned: vec![],
            doomed: vec![],
            slots,
            other: BTreeMap::new(),
        }
    }

    /// What later HEADs have more of: incarnation first, then generation.
    fn age(&self) -> (u64, u64) {
        (self.incarnation, self.generation)
    }

    /// Whether a session may still commit.
    #[must_use]
    pub fn is_open(&self, session: &SessionId) -> bool {
        self.sessions.iter().any(|known| known.id == *session && !known.fenced)
    }

    /// Packs condemned before this HEAD's generation `since` are known for that to every session at work but
    /// `own`: none of them chose to build on one.
    #[must_use]
    pub fn known_since(&self, own: &SessionId) -> u64 {
        let others = self.sessions.iter().filter(|other| !other.fenced && other.id != *own);
        others.map(|other| other.opened).min().unwrap_or(u64::MAX)
    }

    /// The ids of the live segments.
    #[must_use]
    pub fn segment_ids(&self) -> Vec<ObjectId> {
        self.segments.iter().map(|segment| segment.id).collect()
    }
}

/// How many recent nonces HEAD carries: more swaps than this between a lost answer and its read-back
/// are taken for a failed swap, which is the safe side.
const RECENT_NONCES: usize = 64;
/// Attempts before a busy HEAD is given up on.
const ATTEMPTS: u32 = 200;

/// The highest HEAD that this machine has seen of a repository.
#[derive(Serialize, Deserialize)]
struct Seen {
    incarnation: u64,
    generation: u64,
    hash: ObjectId,
}

/// Reads and swaps HEAD.
pub struct HeadStore {
    storage: Arc<dyn Storage>,
    keys: Arc<KeyRing>,
    env: Arc<dyn Env>,
    /// Where the highest HEAD seen is remembered, if anywhere; those of tiers lie beside it.
    seen: Option<PathBuf>,
    seen_lock: Mutex<()>,
}

/// A HEAD as read from the store.
pub struct LoadedHead {
    /// Its content.
    pub head: Head,
    version: Version,
    hash: ObjectId,
}

impl HeadStore {
    /// `seen`: a file that remembers the highest HEAD seen, so that a rollback is noticed.
    #[must_use]
    pub fn new(
        storage: Arc<dyn Storage>,
        keys: Arc<KeyRing>,
        env: Arc<dyn Env>,
        seen: Option<PathBuf>,
    ) -> Self {
        Self { storage, keys, env, seen, seen_lock: Mutex::new(()) }
    }

    /// Writes the first HEAD of a repository.
    pub fn create(&self, slots: BTreeMap<ObjectId, ObjectId>) -> Result<()> {
        let nonce = ObjectId(random_array(&*self.env)?);
        self.create_as(Head::first(nonce, slots))
    }

    /// Writes the first HEAD of a tier of the repository whose HEAD is `primary`.
    pub(crate) fn create_tier(&self, tier: &str, primary: &Head) -> Result<()> {
        let nonce = ObjectId(random_array(&*self.env)?);
        let first = Head::first(nonce, primary.slots.clone());
        self.create_as(Head { tier: Some(tier.to_owned()), incarnation: primary.incarnation, ..first })
    }

    fn create_as(&self, head: Head) -> Result<()> {
        let nonce = head.nonce;
        match self.storage.swap_head(None, self.seal(&head)?.into()) {
            Ok(()) => Ok(()),
            Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::Ambiguous) => {
                if self.load()?.head.nonce == nonce { Ok(()) } else { Err(error.into()) }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A HEAD made from nothing but objects, which every client takes for later than any that it has seen: its
    /// incarnation is a time in seconds, which grows whoever else repairs one, and wherever.
    pub(crate) fn successor(
        &self,
        old: Option<Head>,
        roots: Vec<Root>,
        segments: Vec<SegmentRef>,
        slots: BTreeMap<ObjectId, ObjectId>,
    ) -> Result<Head> {
        let nonce = ObjectId(random_array(&*self.env)?);
        let tier = old.as_ref().and_then(|head| head.tier.clone());
        let seen = self.seen(tier.as_deref()).map(|seen| seen.incarnation);
        let known = [seen, old.as_ref().map(|head| head.incarnation)];
        let incarnation = known.into_iter().flatten().max().unwrap_or(1) + 1;
        let first = Head::first(nonce, slots);
        let without_parity = old.as_ref().is_some_and(|head| head.without_parity);
        let (required_features, other) =
            old.map(|head| (head.required_features, head.other)).unwrap_or_default();
        let incarnation = incarnation.max(self.env.now().as_secs());
        let first = Head { without_parity, ..first };
        Ok(Head { incarnation, tier, roots, segments, required_features, other, ..first })
    }

    /// Puts `head` in the place of whatever is there.
    pub(crate) fn force(&self, head: &Head) -> Result<()> {
        let there = self.storage.read_head()?.map(|(_, version)| version);
        let sealed = self.seal(head)?;
        let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
        match self.storage.swap_head(there.as_ref(), sealed.into()) {
            Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::Ambiguous) => {
                if self.load_any()?.head.nonce != head.nonce {
                    return Err(error.into());
                }
            }
            result => result?,
        }
        self.remember(head, hash)
    }

    /// Reads HEAD, however old it is.
    pub(crate) fn load_unchecked(&self) -> Result<Head> {
        Ok(self.load_any()?.head)
    }

    fn seal(&self, head: &Head) -> Result<Vec<u8>> {
        let plain = serde_json::to_vec(head).map_err(|error| Error::Invalid(error.to_string()))?;
        envelope::seal(&self.keys, ObjectKind::Head, names::HEAD, &plain, &*self.env)
    }

    /// Reads HEAD, and refuses one that is older than what this machine has seen.
    pub fn load(&self) -> Result<LoadedHead> {
        let loaded = self.load_any()?;
        match self.remember(&loaded.head, loaded.hash) {
            // Another process may have swapped, and noted it, after HEAD was read here. What is read now
            // cannot be older than that note.
            Err(error @ Error::Rollback { .. }) => {
                let seen = self.seen(loaded.head.tier.as_deref());
                let again = self.load_any()?;
                if seen.is_some_and(|seen| again.head.age() < (seen.incarnation, seen.generation)) {
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

    fn load_any(&self) -> Result<LoadedHead> {
        let (sealed, version) =
            self.storage.read_head()?.ok_or_else(|| Error::corrupt(names::HEAD, "it is missing"))?;
        let plain = envelope::open(&self.keys, ObjectKind::Head, names::HEAD, &sealed)?;
        let head: Head =
            serde_json::from_slice(&plain).map_err(|error| Error::corrupt(names::HEAD, error))?;
        if let Some(feature) =
            head.required_features.iter().find(|name| !KNOWN_FEATURES.contains(&name.as_str()))
        {
            return Err(Error::Unsupported { why: format!("required feature '{feature}'") });
        }
        let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
        Ok(LoadedHead { head, version, hash })
    }

    /// What this machine noted of the primary, or of a tier.
    fn seen(&self, tier: Option<&str>) -> Option<Seen> {
        let bytes = std::fs::read(self.seen_path(tier)?).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn seen_path(&self, tier: Option<&str>) -> Option<PathBuf> {
        let path = self.seen.as_ref()?;
        Some(tier.map_or_else(|| path.clone(), |tier| path.with_extension(format!("{tier}.head"))))
    }

    fn remember(&self, head: &Head, hash: ObjectId) -> Result<()> {
        let Some(path) = self.seen_path(head.tier.as_deref()) else { return Ok(()) };
        let _one_at_a_time = self.seen_lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = &self.seen(head.tier.as_deref()) {
            let (now, then) = (head.age(), (seen.incarnation, seen.generation));
            if now < then {
                return Err(Error::Rollback { found: head.generation, seen: seen.generation });
            }
            if now == then {
                let fork = Error::corrupt(names::HEAD, "another HEAD of the same generation was seen before");
                return if hash == seen.hash { Ok(()) } else { Err(fork) };
            }
        }
        let seen = Seen { incarnation: head.incarnation, generation: head.generation, hash };
        let cache =
            |error: &dyn std::fmt::Display| Error::Cache { why: format!("{}: {error}", path.display()) };
        let bytes = serde_json::to_vec(&seen).map_err(|error| cache(&error))?;
        // Written beside and renamed: two processes may both be here, either's word is a true one.
        let temporary = path.with_extension(format!("{}", std::process::id()));
        std::fs::write(&temporary, bytes)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .map_err(|error| cache(&error))
    }

    /// Applies `change` to the current HEAD and swaps it in; on a lost race, applies it to the new one.
    /// `change` checks its preconditions on the HEAD it is given; an error leaves HEAD as it was.
    pub fn update<R>(&self, mut change: impl FnMut(&mut Head) -> Result<R>) -> Result<(Head, R)> {
        for attempt in 0..ATTEMPTS {
            let LoadedHead { mut head, version, hash } = self.load()?;
            let result = match change(&mut head) {
                // What cannot be read may be gone because HEAD has moved on; then the swap would have failed.
                Err(error) if error.is_damage() && self.load()?.hash != hash => continue,
                result => result?,
            };
            let nonce = ObjectId(random_array(&*self.env)?);
            head.generation += 1;
            head.previous = hash;
            head.nonce = nonce;
            head.recent_nonces.push(nonce);
            let surplus = head.recent_nonces.len().saturating_sub(RECENT_NONCES);
            head.recent_nonces.drain(..surplus);
            let sealed = self.seal(&head)?;
            let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
            match self.storage.swap_head(Some(&version), sealed.into()) {
                Ok(()) => {
                    // Another process may already have seen a later one; that is not a rollback.
                    let _ = self.remember(&head, hash);
                    return Ok((head, result));
                }
                Err(error) if matches!(error.kind, ErrorKind::Conflict | ErrorKind::Ambiguous) => {
                    tracing::debug!(%error, attempt, "HEAD swap lost or in doubt");
                    let current = self.load()?.head;
                    if current.recent_nonces.contains(&nonce) {
                        return Ok((current, result));
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

    /// A random wait below 10 ms × 2^attempt, at most about a second.
    fn backoff(&self, attempt: u32) -> Result<Duration> {
        let random = u64::from(u16::from_le_bytes(random_array(&*self.env)?));
        Ok(Duration::from_micros((10_000 << attempt.min(7)) * random / 65_536))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEnv;
    use crate::id::RepositoryId;
    use crate::storage::StorageResult;
    use crate::storage::memory::MemoryStorage;
    use bytes::Bytes;

    /// Shows an older HEAD, once: what a reader finds who is overtaken.
    #[derive(Default)]
    struct Late {
        storage: MemoryStorage,
        older: Mutex<Option<(Bytes, Version)>>,
    }

    impl Storage for Late {
        fn place(&self) -> String {
            self.storage.place()
        }
        fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
            self.storage.put(name, body)
        }
        fn replace(&self, name: &str, body: Bytes) -> StorageResult<()> {
            self.storage.replace(name, body)
        }
        fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
            self.storage.get(name, limit)
        }
        fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
            self.storage.get_range(name, offset, len)
        }
        fn len(&self, name: &str) -> StorageResult<u64> {
            self.storage.len(name)
        }
        fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
            self.storage.list(folder, each)
        }
        fn delete(&self, name: &str) -> StorageResult<()> {
            self.storage.delete(name)
        }
        fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
            match self.older.lock().unwrap().take() {
                Some(older) => Ok(Some(older)),
                None => self.storage.read_versioned(name),
            }
        }
        fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
            self.storage.swap(name, expected, body)
        }
        fn connections(&self) -> usize {
            1
        }
    }

    fn heads(storage: &Arc<Late>, seen: Option<PathBuf>) -> HeadStore {
        let env = Arc::new(SeededEnv::new(1));
        let keys = KeyRing::generate(RepositoryId([1; 16]), &*env).unwrap();
        HeadStore::new(Arc::clone(storage) as _, Arc::new(keys), env, seen)
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
        assert!(matches!(heads.load(), Err(Error::Rollback { found: 2, seen: 3 })));
        assert!(heads.update(|_| Ok(())).is_err());
        // A fork: another HEAD of a generation that was seen.
        let elsewhere = self::heads(&storage, None);
        elsewhere.update(|_| Ok(())).unwrap();
        assert!(matches!(heads.load(), Err(Error::Corrupt { .. })));
        elsewhere.update(|_| Ok(())).unwrap();
        assert_eq!(heads.load().unwrap().head.generation, 4);
        // One that was made anew is later than any, and what was before it stays earlier.
        let (before, _) = storage.read_head().unwrap().unwrap();
        let anew = heads.successor(None, vec![], vec![], BTreeMap::new()).unwrap();
        heads.force(&anew).unwrap();
        assert_eq!(heads.load().unwrap().head.age(), (anew.incarnation, 1));
        storage.replace(names::HEAD, before).unwrap();
        assert!(matches!(heads.load(), Err(Error::Rollback { .. })));
    }

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
        assert_eq!(head.known_since(&SessionId([1; 16])), u64::MAX);
        head.sessions = vec![session(1, 3, false), session(2, 7, false), session(3, 2, true)];
        assert_eq!(head.known_since(&SessionId([1; 16])), 7, "one's own and the fenced do not count");
        assert_eq!(head.known_since(&SessionId([2; 16])), 3);
        assert!(head.is_open(&SessionId([2; 16])) && !head.is_open(&SessionId([3; 16])));
    }
}
