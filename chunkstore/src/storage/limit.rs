//! A store that is used no faster than so many bytes a second, over all threads together.

use super::shelf::{Hidden, Lying, Placing, Retrieval, Shelf};
use super::{Storage, StorageResult, Version};
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes a second; none for as fast as it goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Into the store.
    pub up: Option<u64>,
    /// Out of it.
    pub down: Option<u64>,
}

/// When the next byte may go: each transfer books its time, and waits for it to come.
#[derive(Default)]
struct Booked(Mutex<Option<Instant>>);

impl Booked {
    fn wait(&self, rate: Option<u64>, bytes: u64) {
        let Some(rate) = rate.filter(|rate| *rate > 0) else { return };
        let now = Instant::now();
        let start = {
            let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let start = next.map_or(now, |next| next.max(now));
            *next = Some(start + Duration::from_secs_f64(bytes as f64 / rate as f64));
            start
        };
        std::thread::sleep(start.saturating_duration_since(now));
    }
}

/// A store behind a limit.
pub struct Limited {
    storage: Arc<dyn Storage>,
    rates: Rates,
    up: Booked,
    down: Booked,
}

impl Limited {
    /// Limits a store.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, rates: Rates) -> Self {
        Self { storage, rates, up: Booked::default(), down: Booked::default() }
    }
    fn sent(&self, bytes: usize) {
        self.up.wait(self.rates.up, bytes as u64);
    }
    fn received(&self, bytes: usize) {
        self.down.wait(self.rates.down, bytes as u64);
    }
}

impl Storage for Limited {
    fn place(&self) -> String {
        self.storage.place()
    }
    fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.sent(body.len());
        self.storage.put(name, body)
    }
    fn replace(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.sent(body.len());
        self.storage.replace(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        self.storage.get(name, limit).inspect(|body| self.received(body.len()))
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        self.storage.get_range(name, offset, len).inspect(|body| self.received(body.len()))
    }
    fn len(&self, name: &str) -> StorageResult<u64> {
        self.storage.len(name)
    }
    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        self.storage.list(folder, each)
    }
    fn leftovers(&self, each: &mut dyn FnMut(&str)) -> StorageResult<()> {
        self.storage.leftovers(each)
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        self.storage.delete(name)
    }
    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        self.storage.read_versioned(name)
    }
    fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        self.storage.swap(name, expected, body)
    }
    fn connections(&self) -> usize {
        self.storage.connections()
    }
    fn is_near(&self) -> bool {
        self.storage.is_near()
    }
    fn copies(&self) -> &[Arc<dyn Storage>] {
        self.storage.copies()
    }
    fn shelf(&self) -> Option<&dyn Shelf> {
        self.storage.shelf().map(|_| self as &dyn Shelf)
    }
}

/// Reached only where the store beneath has a shelf.
impl Limited {
    fn beneath<T>(&self, call: impl FnOnce(&dyn Shelf) -> StorageResult<T>) -> StorageResult<T> {
        match self.storage.shelf() {
            Some(shelf) => call(shelf),
            None => Err(super::StorageError {
                kind: super::ErrorKind::Failed,
                op: "use",
                object: self.storage.place(),
                source: "this store has no classes".into(),
            }),
        }
    }
}

impl Shelf for Limited {
    fn put_as(&self, name: &str, body: Bytes, placing: &Placing) -> StorageResult<()> {
        self.sent(body.len());
        self.beneath(|shelf| shelf.put_as(name, body, placing))
    }
    fn look(&self, name: &str) -> StorageResult<Lying> {
        self.beneath(|shelf| shelf.look(name))
    }
    fn thaw(&self, name: &str, days: u32, retrieval: Retrieval) -> StorageResult<bool> {
        self.beneath(|shelf| shelf.thaw(name, days, retrieval))
    }
    fn lock(&self, name: &str, until: u64) -> StorageResult<()> {
        self.beneath(|shelf| shelf.lock(name, until))
    }
    fn hazards(&self) -> StorageResult<Vec<String>> {
        self.beneath(|shelf| shelf.hazards())
    }
    fn is_versioned(&self) -> StorageResult<bool> {
        self.beneath(|shelf| shelf.is_versioned())
    }
    fn hidden(&self) -> StorageResult<Hidden> {
        self.beneath(|shelf| shelf.hidden())
    }
    fn remove_hidden(&self, name: &str) -> StorageResult<()> {
        self.beneath(|shelf| shelf.remove_hidden(name))
    }
    fn bring_back(&self) -> StorageResult<u64> {
        self.beneath(|shelf| shelf.bring_back())
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStorage;
    use super::*;

    /// What was booked is what was asked for, whoever asks: no clock needed to know how long it takes.
    #[test]
    fn transfers_book_their_time_one_after_the_other() {
        let store = Limited::new(
            Arc::new(MemoryStorage::default()),
            Rates { up: Some(1_000_000), down: Some(1_000_000) },
        );
        let start = Instant::now();
        for number in 0..4 {
            store.put(&format!("packs/{number}"), Bytes::from(vec![0; 10_000])).unwrap();
            store.get(&format!("packs/{number}"), 10_000).unwrap();
        }
        let booked = |place: &Booked| place.0.lock().unwrap().unwrap().saturating_duration_since(start);
        assert!(booked(&store.up) >= Duration::from_millis(40));
        assert!(booked(&store.down) >= Duration::from_millis(40));
        let free = Limited::new(Arc::new(MemoryStorage::default()), Rates::default());
        free.put("packs/a", Bytes::from(vec![0; 10_000])).unwrap();
        assert!(free.up.0.lock().unwrap().is_none());
    }
}
