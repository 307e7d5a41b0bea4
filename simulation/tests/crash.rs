//! Death at every call to the store, of each operation, before and after the call takes effect; likewise a call that
//! fails once, a store that is full from then on, and an answer that is cut short, altered or left out of a listing. Then a new process opens
//! the repository: what was there is there, `check` is content, and the operation, run again, does its work.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails must say where, and this one counts"
)]

use bytes::Bytes;
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::storage::{ErrorKind, Storage, StorageError, StorageResult, Version};
use engine::monitor::Tally;
use engine::repair::{PacksOptions, repair_index, repair_packs};
use engine::restore::dump;
use engine::snapshot::Filter;
use engine::verify::{CheckOptions, ReadData, check};
use engine::{Repository, Result};
use nights::{access, back_up, clean, forget_first, init, nights, open};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

mod nights;

/// What happens at a call, and after it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The process dies; the call may have taken effect.
    Dies { took_effect: bool },
    /// The call fails, or seems to; later ones do not.
    FailsOnce { took_effect: bool },
    /// No more can be written: as a full disk, or one that went read-only.
    Full,
    /// The answer lacks its second half, and nobody says so.
    CutShort,
    /// A bit of the answer is another one.
    Altered,
    /// A listing leaves out its first name.
    Hides,
}

const FAULTS: [Fault; 8] = [
    Fault::Dies { took_effect: false },
    Fault::Dies { took_effect: true },
    Fault::FailsOnce { took_effect: false },
    Fault::FailsOnce { took_effect: true },
    Fault::Full,
    Fault::CutShort,
    Fault::Altered,
    Fault::Hides,
];

/// A store as one process sees it.
struct Mortal {
    disk: Arc<MemoryStorage>,
    /// Calls until it happens.
    left: AtomicI64,
    fault: Fault,
    /// The first call that failed.
    failed: Mutex<Option<Call>>,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Call {
    Reads,
    Writes,
    Swaps,
    Deletes,
}

impl Mortal {
    fn call<T>(&self, kind: Call, work: impl FnOnce() -> StorageResult<T>) -> StorageResult<T> {
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        let (now, over) = (left == 0, left < 0);
        let (fails, took_effect) = match self.fault {
            Fault::Dies { took_effect } => (now || over, now && took_effect),
            Fault::FailsOnce { took_effect } => (now, took_effect),
            Fault::Full => ((now || over) && matches!(kind, Call::Writes | Call::Swaps), false),
            Fault::CutShort | Fault::Altered | Fault::Hides => (false, false),
        };
        if !fails {
            return work();
        }
        if took_effect {
            let _ = work();
        }
        self.failed.lock().unwrap().get_or_insert(kind);
        let (op, object) = ("reach", "the store".to_owned());
        let (kind, why) = match self.fault {
            Fault::Full => (ErrorKind::Full, "no space left on device"),
            Fault::FailsOnce { .. } if kind != Call::Reads => (ErrorKind::Ambiguous, "no answer"),
            _ => (ErrorKind::Failed, "no answer"),
        };
        Err(StorageError { kind, op, object, source: why.into() })
    }

    /// The bytes that come back.
    fn answer(&self, work: impl FnOnce() -> StorageResult<Bytes>) -> StorageResult<Bytes> {
        let now = self.left.load(Ordering::Relaxed) == 0;
        let bytes = self.call(Call::Reads, work)?;
        match self.fault {
            Fault::CutShort if now => Ok(bytes.slice(..bytes.len() / 2)),
            Fault::Altered if now && !bytes.is_empty() => {
                let mut bytes = bytes.to_vec();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 4;
                Ok(bytes.into())
            }
            _ => Ok(bytes),
        }
    }
}

impl Storage for Mortal {
    fn place(&self) -> String {
        "memory".into()
    }
    fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.call(Call::Writes, || self.disk.put(name, body))
    }
    fn replace(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.call(Call::Writes, || self.disk.replace(name, body))
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        self.answer(|| self.disk.get(name, limit))
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        self.answer(|| self.disk.get_range(name, offset, len))
    }
    fn len(&self, name: &str) -> StorageResult<u64> {
        self.call(Call::Reads, || self.disk.len(name))
    }
    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        let mut hide = self.fault == Fault::Hides && self.left.load(Ordering::Relaxed) == 0;
        self.call(Call::Reads, || {
            self.disk.list(folder, &mut |name, len| {
                if !std::mem::take(&mut hide) {
                    each(name, len);
                }
            })
        })
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        self.call(Call::Deletes, || self.disk.delete(name))
    }
    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        self.call(Call::Reads, || self.disk.read_versioned(name))
    }
    fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        self.call(Call::Swaps, || self.disk.swap(name, expected, body))
    }
    fn connections(&self) -> usize {
        1
    }
}

/// How many packs nobody lists.
fn unlisted(disk: &Arc<MemoryStorage>) -> usize {
    let repo = open(disk);
    repo.store().sync_index().unwrap();
    let listed: Vec<String> = repo.store().index().packs().iter().map(|pack| pack.name.object()).collect();
    disk.objects().keys().filter(|name| name.starts_with("packs/") && !listed.contains(name)).count()
}

fn copy(disk: &MemoryStorage) -> Arc<MemoryStorage> {
    let copy = MemoryStorage::default();
    copy.objects().clone_from(&disk.objects());
    Arc::new(copy)
}

/// Meets every fault at every call of `work`; `before` and `after` are the nights that are there then, of which either
/// is fine as long as it did not end well.
fn suffers_everywhere(
    name: &str,
    disk: &Arc<MemoryStorage>,
    before: &[u64],
    after: &[u64],
    work: &dyn Fn(&Repository) -> Result<()>,
) {
    let mut points = 0;
    for calls in 0.. {
        let mut done = false;
        for fault in FAULTS {
            let disk = copy(disk);
            let mortal = Arc::new(Mortal {
                disk: Arc::clone(&disk),
                left: AtomicI64::new(calls),
                fault,
                failed: Mutex::default(),
            });
            let ended = Repository::open(access(Arc::clone(&mortal) as _), b"x").and_then(|repo| work(&repo));
            // As many calls as that are made only while nothing goes wrong.
            done |= mortal.left.load(Ordering::Relaxed) > 0;
            let found = nights(&disk);
            assert!(
                found == after || ended.is_err() && found == before,
                "{name}, {fault:?} at {calls}: {found:?} {ended:?}"
            );
            // A swap that failed may have taken effect, for all that the run knows.
            let written = *mortal.failed.lock().unwrap() == Some(Call::Writes);
            if fault == Fault::Full && name.ends_with("backup") && written {
                assert_eq!(
                    unlisted(&disk),
                    0,
                    "{name}: a full store is left with more than it had, at {calls}"
                );
            }
            // Again, as a person would; forgetting the first would now forget the second.
            if found != after || name != "forget" {
                work(&open(&disk))
                    .unwrap_or_else(|error| panic!("{name} again after {fault:?} at {calls}: {error:?}"));
            }
            let mut again = nights(&disk);
            again.dedup();
            assert_eq!(again, after, "{name} again after {fault:?} at {calls}");
            clean(&open(&disk)).unwrap();
            let head = open(&disk).store().head();
            assert!(
                head.sessions.is_empty() && head.doomed.is_empty(),
                "{name}, {fault:?} at {calls}: {head:?}"
            );
            points += 1;
        }
        if done {
            break;
        }
    }
    println!("{name}: {points} faults, all well");
}

/// Mending is interrupted everywhere, and done again: the pack is whole, byte for byte, and was never less than it was.
fn heals_everywhere(disk: &Arc<MemoryStorage>) {
    let heal = |repo: &Repository| {
        let everything = CheckOptions { read_data: ReadData::All, heal: true, ..CheckOptions::default() };
        check(repo, everything, &Tally::default()).map(drop)
    };
    let sound = disk.objects().clone();
    let damaged = copy(disk);
    let mut hurt = vec![];
    for (name, body) in damaged.objects().iter_mut() {
        if name.starts_with("packs/") && hurt.len() < 3 {
            let mut bytes = body.to_vec();
            bytes[300] ^= 1;
            *body = bytes.into();
            hurt.push(name.clone());
        }
    }
    let mut points = 0;
    for calls in 0.. {
        let mut done = false;
        for fault in FAULTS {
            let disk = copy(&damaged);
            let mortal = Arc::new(Mortal {
                disk: Arc::clone(&disk),
                left: AtomicI64::new(calls),
                fault,
                failed: Mutex::default(),
            });
            let _ = Repository::open(access(Arc::clone(&mortal) as _), b"x").and_then(|repo| heal(&repo));
            done |= mortal.left.load(Ordering::Relaxed) > 0;
            for name in &hurt {
                let (now, was) = (disk.objects()[name].clone(), damaged.objects()[name].clone());
                assert!(now == was || now == sound[name], "{fault:?} at {calls}: {name} is neither");
            }
            heal(&open(&disk)).unwrap();
            assert!(*disk.objects() == sound, "{fault:?} at {calls}: not healed");
            points += 1;
        }
        if done {
            break;
        }
    }
    println!("check --heal: {points} faults, all well");
}

/// What is given up is what is damaged, whatever else goes wrong while it is looked for.
fn gives_up_no_more_than_is_lost(disk: &Arc<MemoryStorage>) {
    let repair = |repo: &Repository| {
        let options = PacksOptions { read_data: true, ..PacksOptions::default() };
        repair_packs(repo, &options, &Tally::default())
    };
    let damaged = copy(disk);
    let largest = {
        let objects = damaged.objects();
        let packs = objects.iter().filter(|(name, _)| name.starts_with("packs/"));
        packs.max_by_key(|(_, body)| body.len()).map(|(name, body)| (name.clone(), body.to_vec())).unwrap()
    };
    let (name, mut bytes) = largest;
    bytes[300] ^= 1;
    damaged.objects().insert(name.clone(), bytes.into());
    damaged.objects().remove(&name.replace("packs/", "parity/"));
    let lost = repair(&open(&copy(&damaged))).unwrap().chunks_lost;
    assert!(lost > 0);
    let (mut points, mut ended_well) = (0, 0);
    for calls in 0.. {
        let mut done = false;
        for fault in FAULTS {
            let disk = copy(&damaged);
            let mortal = Arc::new(Mortal {
                disk: Arc::clone(&disk),
                left: AtomicI64::new(calls),
                fault,
                failed: Mutex::default(),
            });
            let ended =
                Repository::open(access(Arc::clone(&mortal) as _), b"x").and_then(|repo| repair(&repo));
            done |= mortal.left.load(Ordering::Relaxed) > 0;
            if let Ok(report) = ended {
                assert_eq!(report.chunks_lost, lost, "{fault:?} at {calls}");
                ended_well += 1;
            }
            let again = repair(&open(&disk)).unwrap().chunks_lost;
            assert!(again == 0 || again == lost, "{fault:?} at {calls}: {again} more");
            points += 1;
        }
        if done {
            break;
        }
    }
    println!("repair packs: {points} faults, {ended_well} of them without effect, all well");
}

#[test]
fn whatever_happens_at_whichever_call() {
    let disk = Arc::new(MemoryStorage::default());
    init(&disk).unwrap();
    suffers_everywhere("first backup", &disk, &[], &[1], &|repo| back_up(repo, 1));
    (1..5).for_each(|number| back_up(&open(&disk), number).unwrap());
    suffers_everywhere("another backup", &disk, &[1, 2, 3, 4], &[1, 2, 3, 4, 5], &|repo| back_up(repo, 5));
    suffers_everywhere("forget", &disk, &[1, 2, 3, 4], &[2, 3, 4], &forget_first);
    forget_first(&open(&disk)).unwrap();
    forget_first(&open(&disk)).unwrap();
    heals_everywhere(&disk);
    gives_up_no_more_than_is_lost(&disk);
    suffers_everywhere("prune", &disk, &[3, 4], &[3, 4], &clean);
    suffers_everywhere("repair index", &disk, &[3, 4], &[3, 4], &|repo| {
        repair_index(repo, true, false, &Tally::default()).map(drop)
    });
    suffers_everywhere("dump", &disk, &[3, 4], &[3, 4], &|repo| {
        let listed = repo.find("latest", &Filter::default(), &Tally::default())?;
        dump(repo, &listed.snapshot, b"text", &mut vec![], &Tally::default()).map(drop)
    });
}
