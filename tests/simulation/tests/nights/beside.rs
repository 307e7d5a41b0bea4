//! A store at one of whose calls somebody else does something first.

use bytes::Bytes;
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::storage::{Storage, StorageResult, Version};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// A store at one of whose calls somebody else does something first.
pub(crate) struct Beside {
    disk: Arc<MemoryStorage>,
    left: AtomicI64,
    other: fn(&Arc<MemoryStorage>),
}

impl Beside {
    /// Has `other` done before the call after so many.
    pub(crate) fn new(disk: &Arc<MemoryStorage>, calls: i64, other: fn(&Arc<MemoryStorage>)) -> Arc<Self> {
        Arc::new(Self { disk: Arc::clone(disk), left: AtomicI64::new(calls), other })
    }

    /// Whether there were fewer calls than that.
    pub(crate) fn is_over(&self) -> bool {
        self.left.load(Ordering::Relaxed) >= 0
    }

    fn call(&self) {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            (self.other)(&self.disk);
        }
    }
}

impl Storage for Beside {
    fn place(&self) -> String {
        "memory".into()
    }
    fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.call();
        self.disk.put(name, body)
    }
    fn replace(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.call();
        self.disk.replace(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        self.call();
        self.disk.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        self.call();
        self.disk.get_range(name, offset, len)
    }
    fn len(&self, name: &str) -> StorageResult<u64> {
        self.call();
        self.disk.len(name)
    }
    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        self.call();
        self.disk.list(folder, each)
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        self.call();
        self.disk.delete(name)
    }
    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        self.call();
        self.disk.read_versioned(name)
    }
    fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        self.call();
        self.disk.swap(name, expected, body)
    }
    chunkstore::forward!(self => self.disk; connections);
    chunkstore::plain_store!(stream_range leftovers is_near keeps_copies written_ms copies shelf);
}
