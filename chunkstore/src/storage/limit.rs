//! A store with a limit of bytes per second, over all threads together.

use super::shelf::{Hidden, Lying, Placing, Retrieval, Shelf};
use super::{Storage, StorageResult};
use crate::pool::locked;
use bytes::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
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

/// How often the user's wish is looked at while it is waited.
const GLANCE: Duration = Duration::from_millis(100);

impl Booked {
    /// Waits for its time; no longer once `stop` is set.
    fn wait(&self, rate: Option<u64>, bytes: u64, stop: &AtomicBool) {
        let Some(rate) = rate.filter(|rate| *rate > 0) else { return };
        let now = Instant::now();
        let start = {
            let mut next = locked(&self.0);
            let start = next.map_or(now, |next| next.max(now));
            *next = Some(start + Duration::from_secs_f64(bytes as f64 / rate as f64));
            start
        };
        while !stop.load(Ordering::Relaxed) {
            let left = start.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(GLANCE));
        }
    }
}

/// A store behind a limit.
pub struct Limited {
    storage: Arc<dyn Storage>,
    rates: Rates,
    up: Booked,
    down: Booked,
    stop: Arc<AtomicBool>,
}

impl Limited {
    /// Limits a store. Once `stop` is set, callers no longer wait.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, rates: Rates, stop: Arc<AtomicBool>) -> Self {
        Self { storage, rates, up: Booked::default(), down: Booked::default(), stop }
    }
    fn sent(&self, bytes: usize) {
        self.up.wait(self.rates.up, bytes as u64, &self.stop);
    }
    fn received(&self, bytes: usize) {
        self.down.wait(self.rates.down, bytes as u64, &self.stop);
    }
}

impl Storage for Limited {
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
    fn stream_range(
        &self,
        name: &str,
        offset: u64,
        len: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> StorageResult<()> {
        self.storage.stream_range(name, offset, len, &mut |part| {
            self.received(part.len());
            each(part);
        })
    }
    fn shelf(&self) -> Option<&dyn Shelf> {
        self.storage.shelf().map(|_| self as &dyn Shelf)
    }
    crate::forward!(self => self.storage; place len list leftovers delete read_versioned swap connections written_ms
        keeps_copies is_near copies);
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
            Arc::default(),
        );
        let start = Instant::now();
        for number in 0..4 {
            store.put(&format!("packs/{number}"), Bytes::from(vec![0; 10_000])).unwrap();
            store.get(&format!("packs/{number}"), 10_000).unwrap();
        }
        let booked = |place: &Booked| place.0.lock().unwrap().unwrap().saturating_duration_since(start);
        assert!(booked(&store.up) >= Duration::from_millis(40));
        assert!(booked(&store.down) >= Duration::from_millis(40));
        let free = Limited::new(Arc::new(MemoryStorage::default()), Rates::default(), Arc::default());
        free.put("packs/a", Bytes::from(vec![0; 10_000])).unwrap();
        assert!(free.up.0.lock().unwrap().is_none());
    }
}
