//! Key slots: many of them, removed ones that come back, ones that are lost or damaged.

use crate::harness::{Repo, expect};
use chunkstore::ObjectId;
use chunkstore::chunker::ChunkerParams;
use chunkstore::config::Layout;
use chunkstore::env::SystemEnv;
use chunkstore::format::{MAX_SLOTS, names};
use chunkstore::keys::{
    KdfParams, Method, NewSlot, RawKey, Shares, SlotHeader, SlotOwner, SlotSecret, Wrapped,
};
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::storage::{ErrorKind, Storage, StorageError, StorageResult};
use chunkstore::store::{Access, ChunkStore, TierCommit};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use zeroize::Zeroizing;

const CHEAP: KdfParams = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };

fn access(storage: &Arc<MemoryStorage>) -> Access {
    crate::harness::access(Arc::clone(storage) as _)
}

#[test]
fn every_password_that_could_be_added_opens() {
    let storage = Arc::new(MemoryStorage::default());
    let (params, layout) = (ChunkerParams::default(), Layout::default());
    let store =
        ChunkStore::init(access(&storage), params, b"0", CHEAP, SlotOwner::default(), layout).unwrap();
    let add = |number: usize| store.add_slot(number.to_string().as_bytes(), CHEAP, SlotOwner::default());
    for number in 1..MAX_SLOTS {
        add(number).unwrap();
    }
    let refused = add(MAX_SLOTS).unwrap_err();
    assert!(refused.to_string().contains("remove one first"), "{refused}");
    // And as many that HEAD does not list: the store's own, of which a hostile one may add any number.
    let elsewhere = Arc::new(MemoryStorage::default());
    let other =
        ChunkStore::init(access(&elsewhere), params, b"x", CHEAP, SlotOwner::default(), layout).unwrap();
    for _ in 0..40 {
        other.add_slot(b"y", CHEAP, SlotOwner::default()).unwrap();
    }
    let planted: Vec<_> = elsewhere.objects().clone().into_iter().collect();
    let planted = planted.into_iter().filter(|(name, _)| name.starts_with(names::KEYS));
    storage.objects().extend(planted);
    for number in 0..MAX_SLOTS {
        let opened = ChunkStore::open(access(&storage), number.to_string().as_bytes());
        assert!(opened.is_ok(), "password {number}: {:?}", opened.err());
    }
    let wrong = ChunkStore::open(access(&storage), b"nobody's").err().unwrap();
    assert!(matches!(wrong, chunkstore::Error::WrongPassword { slots: MAX_SLOTS, .. }), "{wrong}");
    let slot = *store.head().slots.keys().next().unwrap();
    store.remove_slot(&slot).unwrap();
    add(MAX_SLOTS).unwrap();
}

/// A secret that is counted when it is asked for, of a service that may be down.
struct Service {
    uri: &'static str,
    is_down: bool,
    asked: AtomicUsize,
}

impl Service {
    fn new(uri: &'static str, is_down: bool) -> Self {
        Self { uri, is_down, asked: AtomicUsize::new(0) }
    }
}

impl SlotSecret for Service {
    fn name(&self) -> &'static str {
        "key service"
    }

    fn is_for(&self, header: &SlotHeader) -> bool {
        header.wrapped().is_some_and(|wrapped| wrapped.service == self.uri)
    }

    fn open(&self, slot: &ObjectId, _header: &SlotHeader) -> chunkstore::Result<Zeroizing<[u8; 32]>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.is_down {
            let why = format!("{} does not answer: try again, or use another secret", self.uri);
            return Err(chunkstore::Error::KeyService { slot: Some(*slot), why, is_away: true });
        }
        Ok(Zeroizing::new([7; 32]))
    }

    fn make(&self, _new: &NewSlot<'_>) -> chunkstore::Result<(Method, Zeroizing<[u8; 32]>)> {
        let wrapped = Wrapped { service: self.uri.into(), key: "v1".into(), wrapped: "x".into() };
        Ok((Method::wrapped(&wrapped)?, Zeroizing::new([7; 32])))
    }
}

/// A secret is asked for the slots that it is for, and no others; and a service that is down is no wrong secret.
#[test]
fn slots_of_other_secrets_are_not_tried() {
    let storage = Arc::new(MemoryStorage::default());
    let (params, layout) = (ChunkerParams::default(), Layout::default());
    let store =
        ChunkStore::init(access(&storage), params, b"pw", CHEAP, SlotOwner::default(), layout).unwrap();
    let key = RawKey::generate(&SystemEnv).unwrap();
    let shares = Shares::make(2, 3, &SystemEnv).unwrap();
    let secrets: [&dyn SlotSecret; 4] =
        [&key, &shares, &Service::new("kms://a", false), &Service::new("kms://b", false)];
    for secret in secrets {
        store.add_slot(&secret, CHEAP, SlotOwner::default()).unwrap();
    }
    let open = |secret: &dyn SlotSecret| ChunkStore::open(access(&storage), &secret);
    for secret in secrets {
        open(secret).unwrap();
    }
    let said = |secret: &dyn SlotSecret| open(secret).err().unwrap();
    let (up, down) = (Service::new("kms://a", false), Service::new("kms://a", true));
    open(&up).unwrap();
    let failed = said(&down);
    assert!(matches!(failed, chunkstore::Error::KeyService { .. }), "{failed}");
    assert!(
        failed.to_string().ends_with("kms://a does not answer: try again, or use another secret"),
        "{failed}"
    );
    assert_eq!((up.asked.into_inner(), down.asked.into_inner()), (1, 1));
    let elsewhere = Service::new("kms://c", true);
    let none = said(&elsewhere).to_string();
    assert_eq!(
        none,
        "no key slot is for the key service that was given; there are key slots for: key, kms kms://a, \
         kms kms://b, passphrase, shares 2/3"
    );
    assert_eq!(elsewhere.asked.into_inner(), 0);
    let other = said(&RawKey::generate(&SystemEnv).unwrap());
    assert!(matches!(&other, chunkstore::Error::WrongPassword { slots: 1, .. }), "{other}");
    assert!(
        other.to_string().starts_with("wrong key, or no key slot for it (1 tried; there are key slots for: "),
        "{other}"
    );
    let other = said(&Shares::make(2, 3, &SystemEnv).unwrap());
    assert!(matches!(&other, chunkstore::Error::WrongPassword { slots: 0, .. }), "{other}");
    // All of them have what is written after a rotation.
    store.rotate().unwrap();
    store.rotate().unwrap();
    for secret in secrets {
        assert_eq!(open(secret).unwrap().head().epoch(), 3);
    }
}

/// A bucket with object lock: key slots cannot be removed.
struct Locked(MemoryStorage);

impl Storage for Locked {
    fn delete(&self, name: &str) -> StorageResult<()> {
        if name.starts_with(names::KEYS) {
            let (object, source) = (name.to_owned(), "the object is protected by object lock".into());
            return Err(StorageError { kind: ErrorKind::Denied, op: "delete", object, source });
        }
        self.0.delete(name)
    }
    chunkstore::forward!(self => self.0; place put replace get get_range stream_range len list leftovers read_versioned
        swap connections is_near keeps_copies written_ms copies shelf);
}

/// A slot that was removed stays in a locked tier. It stops no sync, and its password opens nothing there.
#[test]
fn a_removed_slot_under_a_lock_opens_nothing_and_stops_no_sync() {
    let (storage, locked) = (Arc::new(MemoryStorage::default()), Arc::new(Locked(MemoryStorage::default())));
    let (params, layout) = (ChunkerParams::default(), Layout::default());
    let store =
        ChunkStore::init(access(&storage), params, b"ours", CHEAP, SlotOwner::default(), layout).unwrap();
    let stray = store.add_slot(b"theirs", CHEAP, SlotOwner::default()).unwrap();
    let there = || Access { storage: Arc::clone(&locked) as _, ..access(&storage) };
    let opens = |password: &[u8]| match ChunkStore::open(there(), password) {
        Ok(_) => true,
        Err(chunkstore::Error::WrongPassword { .. }) => false,
        Err(error) => panic!("{error}"),
    };
    store.create_tier(there(), "vault", false).unwrap();
    assert!(opens(b"ours") && opens(b"theirs"));
    store.remove_slot(&stray).unwrap();
    for _ in 0..2 {
        let vault = store.open_tier(there(), "vault", false).unwrap();
        let session = vault.open_session("sync").unwrap();
        store.copy_slots(&store.head(), &*locked).unwrap();
        vault.commit_tier(&session, &store.head(), &TierCommit::default()).unwrap();
        assert!(locked.0.objects().contains_key(&names::key(&stray)), "the lock holds");
        assert_eq!(vault.stray_slots().unwrap(), [stray]);
        assert!(opens(b"ours") && !opens(b"theirs"));
    }
    // A person who wants it removed there is told why it stays.
    let vault = ChunkStore::open(there(), b"ours").unwrap();
    let told = chunkstore::store::describe(&vault.remove_stray(&stray).unwrap_err());
    assert!(told.contains("object lock"), "{told}");
}

struct Keys {
    repo: Repo,
}

impl Keys {
    /// A repository with the password in use and another, `second`.
    fn new() -> Self {
        let repo = Repo::new();
        std::fs::write(repo.path("second"), "second\n").unwrap();
        repo.ok(["key", "add", "--new-password-file", "second"]);
        Self { repo }
    }

    /// Runs a command with the second password.
    fn second(&self, args: &[&str], code: i32) -> String {
        let mut command = self.repo.command(args);
        let output = command.env("ESKER_PASSWORD", "second").output().unwrap();
        expect(&output, code) + &String::from_utf8_lossy(&output.stderr)
    }

    /// The id of the slot that is, or is not, the one in use.
    fn slot(&self, current: bool) -> String {
        let list = self.repo.json(["key", "list"]);
        let all = list.as_array().unwrap();
        let found = all.iter().find(|slot| slot["current"] == current && slot["problem"].is_null());
        found.unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// A slot's file and its copies.
    fn files(&self, slot: &str) -> Vec<PathBuf> {
        let name = format!("keys/{slot}");
        let all = [name.clone(), format!("copies/1/{name}"), format!("copies/2/{name}")];
        all.iter().map(|name| self.repo.folder().join(name)).collect()
    }
}

#[test]
fn a_slot_that_came_back_opens_nothing() {
    for file in 0..3 {
        let keys = Keys::new();
        let slot = keys.slot(false);
        let files = keys.files(&slot);
        let bytes = std::fs::read(&files[0]).unwrap();
        keys.second(&["snapshots"], 0);
        keys.repo.ok(["key", "remove", &slot]);
        assert!(files.iter().all(|file| !file.exists()));
        keys.second(&["snapshots"], 12);
        // From a backup of the store; or its removal was interrupted. It may be a copy, too.
        std::fs::write(&files[file], &bytes).unwrap();
        keys.second(&["snapshots"], 12);
        let list = keys.repo.ok(["key", "list"]);
        assert!(list.contains("opens nothing"), "{list}");
        if file == 0 {
            // Nothing is lost by it.
            let output = keys.repo.run(["check"]);
            crate::harness::expect(&output, 0);
            assert!(String::from_utf8_lossy(&output.stderr).contains(&slot), "{output:?}");
        }
        let said = keys.repo.ok(["prune"]);
        assert!(said.contains(&slot), "it is named: {said}");
        assert!(files.iter().all(|file| !file.exists()), "{said}");
        keys.repo.ok(["check"]);
        // By its id it can be dropped, too.
        std::fs::write(&files[file], &bytes).unwrap();
        keys.repo.ok(["key", "remove", &slot]);
        assert!(files.iter().all(|file| !file.exists()));
        keys.repo.ok(["snapshots"]);
    }
}

#[test]
fn a_password_change_that_was_killed_is_finished_by_hand() {
    let keys = Keys::new();
    std::fs::write(keys.repo.path("new"), "new\n").unwrap();
    let old = keys.slot(true);
    let files = keys.files(&old);
    let bytes = std::fs::read(&files[0]).unwrap();
    keys.repo.ok(["key", "passwd", "--new-password-file", "new"]);
    // Killed before the file was removed.
    std::fs::write(&files[0], bytes).unwrap();
    keys.repo.fails(12, ["snapshots"]);
    keys.second(&["key", "remove", &old], 0);
    keys.second(&["check"], 0);
}

#[test]
fn slots_that_are_lost_or_damaged_stop_no_command() {
    for damaged in [false, true] {
        let keys = Keys::new();
        let (ours, lost) = (keys.slot(true), keys.slot(false));
        for file in keys.files(&lost) {
            match damaged {
                true => std::fs::write(file, "x").unwrap(),
                false => std::fs::remove_file(file).unwrap(),
            }
        }
        let list = keys.repo.ok(["key", "list"]);
        assert!(list.contains(&ours[..8]) && list.contains("key remove"), "{list}");
        keys.second(&["snapshots"], 12);
        std::fs::write(keys.repo.path("new"), "correct horse\n").unwrap();
        keys.repo.ok(["key", "passwd", "--new-password-file", "new"]);
        let last = keys.slot(true);
        let refused = keys.repo.fails(1, ["key", "remove", &last]);
        assert!(refused.contains("the last key slot"), "{refused}");
        keys.repo.ok(["key", "remove", &lost]);
        keys.repo.ok(["check"]);
        assert_eq!(keys.repo.json(["key", "list"]).as_array().unwrap().len(), 1);
    }
}

/// One bad sector is not everything.
#[test]
fn what_everything_hangs_on_is_kept_several_times() {
    let keys = Keys::new();
    let mut names: Vec<PathBuf> = keys.files(&keys.slot(true));
    names.truncate(1);
    names.push(keys.repo.folder().join("config"));
    for path in &names {
        let sound = std::fs::read(path).unwrap();
        for damaged in [None, Some(&b"x"[..]), Some(b"")] {
            std::fs::remove_file(path).unwrap();
            if let Some(bytes) = damaged {
                std::fs::write(path, bytes).unwrap();
            }
            let output = keys.repo.run(["snapshots"]);
            expect(&output, 0);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("copies/1"), "{said}");
            assert!(std::fs::read(path).unwrap() == sound, "it is put back");
        }
    }
    keys.repo.ok(["check"]);
}

/// Copies of HEAD on a disk, and several key slots anywhere, tell that there was one: an `init` that was interrupted is another
/// thing.
#[test]
fn a_lost_head_of_an_empty_repository_is_no_interrupted_init() {
    for keeps_copies in [true, false] {
        let keys = Keys::new();
        std::fs::remove_file(keys.repo.folder().join("HEAD")).unwrap();
        std::fs::remove_dir_all(keys.repo.path("cache")).unwrap();
        if !keeps_copies {
            std::fs::remove_dir_all(keys.repo.folder().join("copies")).unwrap();
        }
        let said = keys.repo.fails(1, ["snapshots"]);
        assert!(!said.contains("interrupted") && said.contains("repair head"), "{said}");
        keys.repo.fails(1, ["init"]);
        keys.repo.ok(["repair", "head", "-y"]);
        keys.second(&["snapshots"], 0);
    }
}

#[test]
fn copies_that_are_lost_or_damaged_are_told_and_made_again() {
    let keys = Keys::new();
    let slot = keys.slot(true);
    for name in ["config".to_owned(), format!("keys/{slot}")] {
        let sound = std::fs::read(keys.repo.folder().join(&name)).unwrap();
        let copy = keys.repo.folder().join("copies/2").join(&name);
        // One that is missing is made by whoever opens the repository; what is in its place is looked at by a check.
        std::fs::remove_file(&copy).unwrap();
        keys.repo.ok(["check"]);
        assert!(std::fs::read(&copy).unwrap() == sound);
        std::fs::write(&copy, "x").unwrap();
        let said = keys.repo.fails(1, ["check"]);
        assert!(said.contains(&format!("copies/2/{name}")), "{said}");
        keys.repo.ok(["heal"]);
        assert!(std::fs::read(&copy).unwrap() == sound);
        keys.repo.ok(["check"]);
    }
}
