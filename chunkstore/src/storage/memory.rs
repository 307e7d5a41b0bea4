//! Objects in memory, for tests and simulation. The smallest correct implementation of the contract.

use super::{ErrorKind, Storage, StorageError, StorageResult, Version};
use crate::pool::locked;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// A store that lives as long as its value.
#[derive(Default)]
pub struct MemoryStorage(Mutex<BTreeMap<String, Bytes>>);

impl MemoryStorage {
    /// The objects, for tests that damage them.
    pub fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        locked(&self.0)
    }
}

fn error(kind: ErrorKind, op: &'static str, name: &str, why: &str) -> StorageError {
    StorageError { kind, op, object: name.to_owned(), source: why.into() }
}

fn version(body: &[u8]) -> Version {
    Version(blake3::hash(body).to_hex().to_string())
}

impl Storage for MemoryStorage {
    fn place(&self) -> String {
        "memory".into()
    }
    fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
        let mut objects = self.objects();
        match objects.get(name) {
            Some(existing) if *existing != body => Err(error(ErrorKind::Conflict, "write", name, "exists")),
            _ => {
                objects.insert(name.to_owned(), body);
                Ok(())
            }
        }
    }
    fn replace(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.objects().insert(name.to_owned(), body);
        Ok(())
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        let body = self.objects().get(name).cloned();
        let body = body.ok_or_else(|| error(ErrorKind::NotFound, "read", name, "not found"))?;
        if body.len() as u64 > limit {
            return Err(error(ErrorKind::Failed, "read", name, "larger than any such object may be"));
        }
        Ok(body)
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        let body = self.get(name, u64::MAX)?;
        match offset.checked_add(len) {
            Some(end) if end <= body.len() as u64 => Ok(body.slice(offset as usize..end as usize)),
            _ => Err(error(ErrorKind::Short, "read", name, "range beyond the object's end")),
        }
    }
    fn len(&self, name: &str) -> StorageResult<u64> {
        Ok(self.get(name, u64::MAX)?.len() as u64)
    }
    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        let prefix = format!("{folder}/");
        let found: Vec<_> = self
            .objects()
            .iter()
            .filter(|(name, _)| name.starts_with(&prefix))
            .map(|(n, b)| (n.clone(), b.len()))
            .collect();
        found.iter().for_each(|(name, len)| each(name, *len as u64));
        Ok(())
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        self.objects().remove(name);
        Ok(())
    }
    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        Ok(self.objects().get(name).map(|body| (body.clone(), version(body))))
    }
    fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        let mut objects = self.objects();
        let found = objects.get(name).map(|body| version(body));
        if found.as_ref() != expected {
            return Err(error(ErrorKind::Conflict, "swap", name, "changed meanwhile"));
        }
        objects.insert(name.into(), body);
        Ok(())
    }
    fn connections(&self) -> usize {
        1
    }
    crate::plain_store!(stream_range leftovers is_near keeps_copies written_ms copies shelf);
}
