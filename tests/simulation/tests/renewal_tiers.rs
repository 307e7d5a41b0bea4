//! Re-encryption of tiers: with a longer retention than the primary, frozen, locked, away; and ended at every call.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails must say where, and this one counts"
)]

use bytes::Bytes;
use chunkstore::format::{ENVELOPE_MAGIC, PACK_MAGIC, names};
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::storage::shelf::{Hidden, Lying, Placing, Retrieval, Shelf, Warmth};
use chunkstore::storage::{ErrorKind, Storage, StorageError, StorageResult};
use chunkstore::store::RetireOptions;
use engine::monitor::Tally;
use engine::price::PriceTable;
use engine::promise::Until;
use engine::renew::{RenewOptions, renew};
use engine::tier::renew::TierRenewal;
use engine::tier::sync::{Owed, SyncOptions, sync};
use engine::tier::{Role, Tier, TierOptions};
use engine::{Repository, Result};
use nights::mortal::{Fault, Mortal, copy, everywhere_of};
use nights::{access, back_up, clean, forget_first, init, nights, open, packs};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

mod nights;

/// A store with a frozen class, and with locks.
#[derive(Default)]
struct Cold {
    disk: Arc<MemoryStorage>,
    /// Until when objects are locked, in seconds.
    locks: Mutex<BTreeMap<String, u64>>,
    frozen: Mutex<BTreeMap<String, ()>>,
    is_thawed: AtomicBool,
    /// What its clock says, in seconds.
    now_s: AtomicU64,
    reads: AtomicU64,
}

impl Cold {
    fn refuse(&self, kind: ErrorKind, name: &str) -> StorageError {
        StorageError { kind, op: "reach", object: name.into(), source: "not now".into() }
    }

    fn read(&self, name: &str) -> StorageResult<()> {
        let is_frozen = self.frozen.lock().unwrap().contains_key(name);
        if is_frozen && !self.is_thawed.load(Ordering::Relaxed) {
            return Err(self.refuse(ErrorKind::Frozen, name));
        }
        self.reads.fetch_add(u64::from(is_frozen), Ordering::Relaxed);
        Ok(())
    }
}

impl Storage for Cold {
    fn place(&self) -> String {
        "cold".into()
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        self.read(name)?;
        self.disk.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        self.read(name)?;
        self.disk.get_range(name, offset, len)
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        let until = self.locks.lock().unwrap().get(name).copied().unwrap_or_default();
        if until > self.now_s.load(Ordering::Relaxed) {
            return Err(self.refuse(ErrorKind::Denied, name));
        }
        self.frozen.lock().unwrap().remove(name);
        self.disk.delete(name)
    }
    fn shelf(&self) -> Option<&dyn Shelf> {
        Some(self)
    }
    chunkstore::forward!(self => self.disk; put replace len list leftovers read_versioned swap connections is_near
        keeps_copies written_ms copies);
    chunkstore::plain_store!(stream_range);
}

impl Shelf for Cold {
    fn put_as(&self, name: &str, body: Bytes, placing: &Placing) -> StorageResult<()> {
        self.disk.put(name, body)?;
        if placing.class.is_some() {
            self.frozen.lock().unwrap().insert(name.into(), ());
        }
        placing.locked_until.map_or(Ok(()), |until| self.lock(name, until))
    }
    fn look(&self, name: &str) -> StorageResult<Lying> {
        let len = self.disk.len(name)?;
        let is_frozen = self.frozen.lock().unwrap().contains_key(name);
        let warmth = match (is_frozen, self.is_thawed.load(Ordering::Relaxed)) {
            (true, true) => Warmth::Thawed(None),
            (true, false) => Warmth::Frozen,
            (false, _) => Warmth::Hot,
        };
        Ok(Lying { len, class: None, warmth, locked_until: None })
    }
    fn thaw(&self, _: &str, _: u32, _: Retrieval) -> StorageResult<bool> {
        Ok(true)
    }
    fn lock(&self, name: &str, until: u64) -> StorageResult<()> {
        let mut locks = self.locks.lock().unwrap();
        let there = locks.entry(name.into()).or_default();
        *there = until.max(*there);
        Ok(())
    }
    fn hazards(&self) -> StorageResult<Vec<String>> {
        Ok(vec![])
    }
    fn is_versioned(&self) -> StorageResult<bool> {
        Ok(true)
    }
    fn hidden(&self) -> StorageResult<Hidden> {
        Ok(Hidden::default())
    }
    fn remove_hidden(&self, _: &str) -> StorageResult<()> {
        Ok(())
    }
    fn bring_back(&self) -> StorageResult<u64> {
        Ok(0)
    }
}

fn tier(
    primary: &Repository,
    storage: &Arc<impl Storage + 'static>,
    class: Option<&str>,
    lock_days: Option<u32>,
) -> Result<Tier> {
    let options = TierOptions {
        name: "copy".into(),
        role: Role::Copy,
        class: class.map(str::to_owned),
        lock_days,
        fence_after_ms: 1,
    };
    let (storage, prices) = (Arc::clone(storage) as Arc<dyn Storage>, PriceTable::default());
    match chunkstore::store::look(&*storage)? {
        chunkstore::store::Found::Whole => Tier::open(primary, access(storage), options, &prices, false),
        _ => Tier::make(primary, access(storage), options, &prices, true),
    }
}

fn promised(repo: &Repository) -> Vec<Owed> {
    let listed = repo.snapshots_strict().unwrap().into_iter();
    listed.map(|listed| Owed { listed, until: Until::Forever }).collect()
}

fn fill(primary: &Repository, tier: &Tier) {
    let (owed, options) = (promised(primary), SyncOptions::default());
    let report = sync(primary, primary, tier, &owed, &[], &options, &Tally::default()).unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
}

fn options() -> RenewOptions {
    RenewOptions { packer: packs(), fence_after_ms: 1, ..RenewOptions::default() }
}

fn re_encrypt(primary: &Repository) {
    let epoch = primary.store().reload().unwrap().epoch();
    let report = renew(primary, None, epoch, &options(), &Tally::default()).unwrap();
    assert!(report.is_done(), "{report:?}");
}

fn move_tier(primary: &Repository, tier: &Tier) -> Result<TierRenewal> {
    let listed = tier.repo.snapshots_strict()?.into_iter();
    let kept: Vec<_> = listed.map(|listed| Owed { listed, until: Until::Forever }).collect();
    tier.renew(primary, &kept, true, &options(), &Tally::default())
}

fn retire(primary: &Repository, tiers: &[&Tier]) -> chunkstore::Result<Vec<u32>> {
    engine::renew::clear(primary.store(), 1).unwrap();
    let tiers: Vec<_> = tiers.iter().map(|tier| ("copy", &**tier.repo.store())).collect();
    let epoch = primary.store().reload()?.epoch();
    Ok(primary.store().retire(epoch - 1, &tiers, &RetireOptions::default())?.epochs)
}

/// The epochs that objects of a store say they are sealed under, by folder.
fn sealed_under(disk: &MemoryStorage, epoch: u32) -> Vec<String> {
    let is_of_it = |(name, bytes): (&String, &Bytes)| {
        let at = match (bytes.starts_with(ENVELOPE_MAGIC), bytes.starts_with(PACK_MAGIC)) {
            (true, _) => 8,
            (_, true) => 12,
            _ => return None,
        };
        let said = u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?);
        (said == epoch).then(|| name.clone())
    };
    disk.objects().iter().filter_map(is_of_it).collect()
}

/// Four nights on the primary and on a tier, of which the primary then forgets the first.
fn prepared<S: Storage + 'static>(
    storage: &Arc<S>,
    class: Option<&str>,
    lock_days: Option<u32>,
) -> Arc<MemoryStorage> {
    let disk = Arc::new(MemoryStorage::default());
    init(&disk).unwrap();
    (1..5).for_each(|number| back_up(&open(&disk), number).unwrap());
    let primary = open(&disk);
    let copy = tier(&primary, storage, class, lock_days).unwrap();
    fill(&primary, &copy);
    engine::tier::note(&primary, &[copy], None).unwrap();
    forget_first(&primary).unwrap();
    clean(&open(&disk)).unwrap();
    open(&disk).store().rotate().unwrap();
    disk
}

#[test]
fn a_tier_with_a_longer_retention_is_moved_within_itself() {
    let there = Arc::new(MemoryStorage::default());
    let disk = prepared(&there, None, None);
    let primary = open(&disk);
    let copy = tier(&primary, &there, None, None).unwrap();
    // The primary comes first.
    let waits = move_tier(&primary, &copy).unwrap();
    assert!(waits.waits_for_primary && waits.report.left.is_some(), "{waits:?}");
    re_encrypt(&primary);
    let refused = retire(&primary, &[]).unwrap_err().to_string();
    assert!(
        refused.contains("tier 'copy' cannot be looked at") && refused.contains("--lost-tier copy"),
        "{refused}"
    );
    let refused = retire(&primary, &[&copy]).unwrap_err().to_string();
    assert!(refused.contains("still needed on tier 'copy'"), "{refused}");
    let done = move_tier(&primary, &copy).unwrap();
    assert!(
        done.report.is_done() && done.packs_copied > 0 && done.report.renewal.packs_moved > 0,
        "{done:?}"
    );
    assert_eq!(nights(&there), [1, 2, 3, 4]);
    assert_eq!(sealed_under(&there, 1), Vec::<String>::new());
    assert_eq!(retire(&primary, &[&copy]).unwrap(), [1]);
    // What is written on follows, and the tier alone knows what is retired.
    back_up(&open(&disk), 5).unwrap();
    let primary = open(&disk);
    let copy = tier(&primary, &there, None, None).unwrap();
    let owed: Vec<_> =
        promised(&primary).into_iter().filter(|owed| owed.listed.snapshot.time.as_second() == 5).collect();
    assert_eq!(owed.len(), 1);
    sync(&primary, &primary, &copy, &owed, &[], &SyncOptions::default(), &Tally::default()).unwrap();
    assert_eq!((nights(&there), nights(&disk)), (vec![1, 2, 3, 4, 5], vec![2, 3, 4, 5]));
    let alone = open(&there);
    assert_eq!((alone.store().keys().retired(), alone.store().keys().epochs()), (1, vec![2]));
    // A lost tier is given up by name.
    primary.store().rotate().unwrap();
    re_encrypt(&primary);
    let lost = RetireOptions { lost_tiers: vec!["copy".into()], ..RetireOptions::default() };
    assert_eq!(primary.store().retire(2, &[], &lost).unwrap().epochs, [2]);
    assert!(primary.store().head().tiers.made.is_empty());
}

#[test]
fn a_frozen_tier_is_moved_without_a_thaw_but_for_what_only_it_has() {
    let cold = Arc::new(Cold::default());
    let disk = prepared(&cold, Some("GLACIER"), None);
    let primary = open(&disk);
    re_encrypt(&primary);
    let copy = tier(&primary, &cold, Some("GLACIER"), None).unwrap();
    assert!(copy.frozen);
    let plan = copy.renew(
        &primary,
        &promised(&copy.repo),
        true,
        &RenewOptions { dry_run: true, ..options() },
        &Tally::default(),
    );
    let plan = plan.unwrap();
    assert!(plan.report.renewal.packs_frozen > 0 && plan.report.renewal.packs_moved > 0, "{plan:?}");
    let done = move_tier(&primary, &copy).unwrap();
    assert!(
        done.packs_copied > 0 && done.report.renewal.packs_frozen > 0 && !done.report.is_done(),
        "{done:?}"
    );
    assert_eq!(cold.reads.load(Ordering::Relaxed), 0, "nothing frozen was read");
    let refused = retire(&primary, &[&copy]).unwrap_err().to_string();
    assert!(refused.contains("on tier 'copy'"), "{refused}");
    cold.is_thawed.store(true, Ordering::Relaxed);
    let done = move_tier(&primary, &copy).unwrap();
    assert!(done.report.is_done() && cold.reads.load(Ordering::Relaxed) > 0, "{done:?}");
    assert_eq!(sealed_under(&cold.disk, 1), Vec::<String>::new());
    assert_eq!(retire(&primary, &[&copy]).unwrap(), [1]);
    assert_eq!(nights(&cold), [1, 2, 3, 4]);
}

/// What is locked stays until the lock ends, which nothing extends; what takes its place is locked as it was.
#[test]
fn a_locked_tier_waits_for_the_end_of_its_locks() {
    let cold = Arc::new(Cold::default());
    let disk = prepared(&cold, None, Some(10));
    let primary = open(&disk);
    re_encrypt(&primary);
    let copy = tier(&primary, &cold, None, Some(10)).unwrap();
    let now = copy.repo.store().now_ms() / 1000;
    cold.now_s.store(now, Ordering::Relaxed);
    let locks = |cold: &Cold| cold.locks.lock().unwrap().clone();
    let before = locks(&cold);
    let old = sealed_under(&cold.disk, 1);
    let done = move_tier(&primary, &copy).unwrap();
    assert!(
        done.report.renewal.packs_spared > 0 && done.locked_until_s.is_some_and(|until| until > now),
        "{done:?}"
    );
    assert!(!done.report.is_done());
    assert_eq!(nights(&cold), [1, 2, 3, 4]);
    let refused = retire(&primary, &[&copy]).unwrap_err().to_string();
    assert!(refused.contains("on tier 'copy'"), "{refused}");
    // Every pack and record that is new is locked; later syncs lock nothing old for longer.
    let head = copy.repo.store().reload().unwrap();
    let needed: Vec<String> =
        head.roots.iter().unwrap().filter(|root| root.is_snapshot()).map(|root| root.object()).collect();
    let new = cold
        .disk
        .objects()
        .keys()
        .filter(|name| name.starts_with(names::PACKS) && !old.contains(name))
        .cloned()
        .collect::<Vec<_>>();
    assert!(!new.is_empty());
    let after = locks(&cold);
    for name in needed.iter().chain(&new).filter(|name| !old.contains(name)) {
        assert!(after.get(name).is_some_and(|until| *until > now), "{name} is not locked");
    }
    sync(&primary, &primary, &copy, &[], &promised(&copy.repo), &SyncOptions::default(), &Tally::default())
        .unwrap();
    let packs = old.iter().filter(|name| name.starts_with(names::PACKS));
    let alone = done.report.renewal.packs_moved + done.report.renewal.packs_spared;
    assert!(alone > 0);
    let longer: Vec<_> = packs.filter(|name| locks(&cold).get(*name) > before.get(*name)).collect();
    assert!(longer.is_empty(), "locks of old packs were extended: {longer:?}");
}

/// The tier's store meets each of `faults` at every call.
fn ends_anywhere(name: &str, faults: &[Fault]) {
    let there = Arc::new(MemoryStorage::default());
    let disk = prepared(&there, None, None);
    re_encrypt(&open(&disk));
    let points = everywhere_of(faults, &mut |fault, calls| {
        let (there, disk) = (copy(&there), copy(&disk));
        let when = format!("{fault:?} at {calls}");
        let mortal = Mortal::new(&there, fault, calls);
        let primary = open(&disk);
        drop(tier(&primary, &mortal, None, None).and_then(|tier| move_tier(&primary, &tier)));
        assert_eq!(nights(&there), [1, 2, 3, 4], "{when}");
        let primary = open(&disk);
        let copy = tier(&primary, &there, None, None).unwrap_or_else(|error| panic!("{when}: {error:?}"));
        let done = move_tier(&primary, &copy).unwrap_or_else(|error| panic!("{when}: {error:?}"));
        assert!(done.report.is_done(), "{when}: {done:?}");
        assert_eq!(
            retire(&primary, &[&copy]).unwrap_or_else(|error| panic!("{when}: {error:?}")),
            [1],
            "{when}"
        );
        assert_eq!(nights(&there), [1, 2, 3, 4], "{when}");
        mortal
    });
    println!("re-encrypt a tier, {name}: {points} faults, all well");
}

#[test]
fn a_tier_whose_re_encryption_is_killed_anywhere_goes_on_later() {
    ends_anywhere("killed", &[Fault::Dies { took_effect: false }, Fault::Dies { took_effect: true }]);
}

#[test]
fn a_tier_that_is_full_or_fails_anywhere_goes_on_later() {
    ends_anywhere("failing", &[Fault::Full, Fault::FailsOnce { took_effect: true }, Fault::Altered]);
}

/// A store that lets somebody else do something before its first swap, or removes no records.
struct Odd {
    disk: Arc<MemoryStorage>,
    before: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// Swaps before that.
    left: AtomicU64,
    keeps_records: bool,
}

impl Storage for Odd {
    fn place(&self) -> String {
        "memory".into()
    }
    fn swap(
        &self,
        name: &str,
        expected: Option<&chunkstore::storage::Version>,
        body: Bytes,
    ) -> StorageResult<()> {
        if self.left.load(Ordering::Relaxed) == 0 {
            let before = self.before.lock().unwrap().take();
            if let Some(before) = before {
                before();
            }
        } else {
            self.left.fetch_sub(1, Ordering::Relaxed);
        }
        self.disk.swap(name, expected, body)
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        if self.keeps_records && name.starts_with(names::SNAPSHOTS) {
            let object = name.to_owned();
            return Err(StorageError {
                kind: ErrorKind::Failed,
                op: "delete",
                object,
                source: "died".into(),
            });
        }
        self.disk.delete(name)
    }
    chunkstore::forward!(self => self.disk; put replace get get_range len list leftovers read_versioned connections is_near
        keeps_copies written_ms copies shelf);
    chunkstore::plain_store!(stream_range);
}

fn odd(disk: &Arc<MemoryStorage>, keeps_records: bool) -> Arc<Odd> {
    Arc::new(Odd { disk: Arc::clone(disk), before: Mutex::default(), left: AtomicU64::new(0), keeps_records })
}

#[test]
fn a_sync_that_slept_brings_nothing_of_a_retired_epoch() {
    let (disk, there) = (Arc::new(MemoryStorage::default()), Arc::new(MemoryStorage::default()));
    init(&disk).unwrap();
    back_up(&open(&disk), 1).unwrap();
    open(&disk).store().rotate().unwrap();
    let primary = open(&disk);
    let copy = tier(&primary, &there, None, None).unwrap();
    engine::tier::note(&primary, &[copy], None).unwrap();
    // The first half of a re-encryption: packs.
    let pruning = engine::prune::PruneOptions {
        max_unused: engine::prune::MaxUnused::Unlimited,
        no_rebase: true,
        renew_before: Some(2),
        packer: packs(),
        fence_after_ms: 1,
        ..engine::prune::PruneOptions::default()
    };
    engine::prune::prune(&open(&disk), &pruning, &Tally::default()).unwrap();
    println!("packs were moved; of epoch 1: {:?}", sealed_under(&disk, 1));
    let primary = open(&disk);
    let sleeper = odd(&there, false);
    let copy = tier(&primary, &sleeper, None, None).unwrap();
    let owed = promised(&primary);
    let (elsewhere, its_tier) = (Arc::clone(&disk), Arc::clone(&there));
    *sleeper.before.lock().unwrap() = Some(Box::new(move || {
        // Killed once HEAD names the new record, and before the old one is removed.
        renew(&open(&odd(&elsewhere, true)), None, 2, &options(), &Tally::default()).unwrap_err();
        re_encrypt(&open(&elsewhere));
        println!("re-encrypted; of epoch 1: {:?}", sealed_under(&elsewhere, 1));
        let primary = open(&elsewhere);
        let copy = tier(&primary, &its_tier, None, None).unwrap();
        assert_eq!(retire(&primary, &[&copy]).unwrap(), [1]);
    }));
    sync(&primary, &primary, &copy, &owed, &[], &SyncOptions::default(), &Tally::default()).unwrap();
    let primary = open(&disk);
    let copy = tier(&primary, &there, None, None).unwrap();
    let head = copy.repo.store().head();
    let roots: Vec<_> = head.roots.iter().unwrap().map(|root| (root.object(), root.epoch)).collect();
    let again = sync(&primary, &primary, &copy, &owed, &[], &SyncOptions::default(), &Tally::default());
    assert!(roots.iter().all(|(_, epoch)| *epoch > head.retired()));
    assert!(again.is_ok());
}

#[test]
fn a_slot_that_is_being_added_is_no_stray() {
    use chunkstore::keys::{KdfParams, SlotOwner};
    let disk = Arc::new(MemoryStorage::default());
    init(&disk).unwrap();
    let slow = odd(&disk, false);
    let adding = open(&slow);
    // Its session is open, the file is there, and HEAD does not list it yet.
    slow.left.store(1, Ordering::Relaxed);
    let elsewhere = Arc::clone(&disk);
    *slow.before.lock().unwrap() = Some(Box::new(move || {
        let other = open(&elsewhere);
        let strays = other.store().stray_slots().unwrap();
        assert_eq!(strays.len(), 1);
        other.store().remove_stray(&strays[0]).unwrap_err();
    }));
    let kdf = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    let added = adding.store().add_slot(&b"another"[..], kdf, SlotOwner::default()).unwrap();
    let is_there = disk.objects().contains_key(&names::key(&added));
    let rotated = open(&disk).store().rotate();
    assert!(is_there && rotated.is_ok());
}
