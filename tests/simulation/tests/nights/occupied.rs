//! A store that has something where a commit is to go, and answers with a conflict.

use bytes::Bytes;
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::storage::{ErrorKind, Storage, StorageError, StorageResult};
use std::sync::Arc;

/// What stands in the way of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Other bytes of the same length.
    Other,
    /// Other bytes of another length.
    Longer,
    /// The commit itself: of an attempt whose answer was lost, at a store that compares nothing.
    Own,
    /// The same, where the host may read nothing in the inbox.
    OwnUnseen,
}

/// A store at which something stands in the way of every commit.
pub(crate) struct Occupied {
    disk: Arc<MemoryStorage>,
    way: Way,
}

impl Occupied {
    pub(crate) fn new(disk: &Arc<MemoryStorage>, way: Way) -> Arc<Self> {
        Arc::new(Self { disk: Arc::clone(disk), way })
    }

    fn seen(&self, name: &str) -> StorageResult<()> {
        match self.way == Way::OwnUnseen && name.starts_with("inbox/") {
            true => Err(refused("read", name, ErrorKind::Denied)),
            false => Ok(()),
        }
    }
}

fn refused(op: &'static str, name: &str, kind: ErrorKind) -> StorageError {
    StorageError { kind, op, object: name.to_owned(), source: "refused by the test".into() }
}

impl Storage for Occupied {
    fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
        if !name.ends_with("/commit") {
            return self.disk.put(name, body);
        }
        let there = match self.way {
            Way::Other => vec![0; body.len()].into(),
            Way::Longer => vec![0; body.len() + 1].into(),
            Way::Own | Way::OwnUnseen => body,
        };
        self.disk.put(name, there)?;
        Err(refused("write", name, ErrorKind::Conflict))
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        self.seen(name).and_then(|()| self.disk.get(name, limit))
    }
    fn len(&self, name: &str) -> StorageResult<u64> {
        self.seen(name).and_then(|()| self.disk.len(name))
    }
    chunkstore::forward!(self => self.disk; place replace get_range stream_range list leftovers delete read_versioned
        swap connections is_near keeps_copies written_ms copies shelf);
}
