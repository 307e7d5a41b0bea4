//! A store as one process sees it, which dies, fails, lies or is full at a chosen call.

use bytes::Bytes;
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::storage::{ErrorKind, Storage, StorageError, StorageResult, Version};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

/// What happens at a call, and after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
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

pub(crate) const FAULTS: [Fault; 8] = [
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
pub(crate) struct Mortal {
    disk: Arc<MemoryStorage>,
    /// Calls until it happens.
    left: AtomicI64,
    fault: Fault,
    /// The first call that failed.
    failed: Mutex<Option<Call>>,
}

/// What a call does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Call {
    Reads,
    Writes,
    Swaps,
    Deletes,
}

impl Mortal {
    /// Meets `fault` after so many calls.
    pub(crate) fn new(disk: &Arc<MemoryStorage>, fault: Fault, calls: i64) -> Arc<Self> {
        let left = AtomicI64::new(calls);
        Arc::new(Self { disk: Arc::clone(disk), left, fault, failed: Mutex::default() })
    }

    /// The first call that failed.
    pub(crate) fn failed(&self) -> Option<Call> {
        *self.failed.lock().unwrap()
    }

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
    chunkstore::forward!(self => self.disk; connections);
    chunkstore::plain_store!(stream_range leftovers is_near keeps_copies written_ms copies shelf);
}

/// A store with the same objects.
pub(crate) fn copy(disk: &MemoryStorage) -> Arc<MemoryStorage> {
    let copy = MemoryStorage::default();
    copy.objects().clone_from(&disk.objects());
    Arc::new(copy)
}

/// Runs `meet` for every fault at every call, until no more calls are made; returns how often that was. `meet` returns
/// the store that was to fail.
pub(crate) fn everywhere(meet: &mut dyn FnMut(Fault, i64) -> Arc<Mortal>) -> u64 {
    everywhere_of(&FAULTS, meet)
}

/// The same for some faults.
pub(crate) fn everywhere_of(faults: &[Fault], meet: &mut dyn FnMut(Fault, i64) -> Arc<Mortal>) -> u64 {
    let mut points = 0;
    for calls in 0.. {
        let mut done = false;
        for fault in faults.iter().copied() {
            // As many calls as that are made only while nothing goes wrong.
            done |= meet(fault, calls).left.load(Ordering::Relaxed) > 0;
            points += 1;
        }
        if done {
            break;
        }
    }
    points
}
