//! The objects of a host's book: packs that went to the inbox are noted there, not kept.

use crate::format::names;
use crate::forward;
use crate::storage::local::LocalStorage;
use crate::storage::{Storage, StorageResult};

/// First bytes of what stands for a pack that is in the inbox; its length follows.
const NOTED_MAGIC: &[u8; 8] = b"eskernot";
const NOTED_LEN: u64 = 16;

/// The book's objects: a folder in which packs may be noted instead of kept.
pub(crate) struct BookStorage(LocalStorage);

impl BookStorage {
    /// In a folder.
    pub(crate) fn new(folder: LocalStorage) -> Self {
        Self(folder)
    }

    /// Notes a pack that is elsewhere.
    pub(crate) fn note(&self, pack: &str, len: u64) -> StorageResult<()> {
        self.0.put(pack, [&NOTED_MAGIC[..], &len.to_le_bytes()].concat().into())
    }

    /// The length that was noted of a pack, if its object is a note.
    fn noted(&self, name: &str, len: u64) -> StorageResult<Option<u64>> {
        if len != NOTED_LEN || !name.starts_with(names::PACKS) {
            return Ok(None);
        }
        let note = self.0.get(name, NOTED_LEN)?;
        let len = note.strip_prefix(NOTED_MAGIC).and_then(|len| len.try_into().ok());
        Ok(len.map(u64::from_le_bytes))
    }
}

impl Storage for BookStorage {
    fn len(&self, name: &str) -> StorageResult<u64> {
        let len = self.0.len(name)?;
        Ok(self.noted(name, len)?.unwrap_or(len))
    }

    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        let mut found = vec![];
        self.0.list(folder, &mut |name, len| found.push((name.to_owned(), len)))?;
        for (name, len) in found {
            each(&name, self.noted(&name, len)?.unwrap_or(len));
        }
        Ok(())
    }

    forward!(self => self.0; place put replace get get_range stream_range leftovers delete read_versioned swap
        connections is_near keeps_copies written_ms copies shelf);
}
