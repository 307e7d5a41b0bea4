//! One store and the other places that hold the same packs, read as one: each pack from the nearest copy that is
//! healthy. Everything but packs, and every write, is the one store's own.

use super::shelf::Shelf;
use super::{ErrorKind, Storage, StorageError, StorageResult, Version};
use crate::format::names;
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A place that packs can be read from.
pub struct Place {
    /// Its name, for reports.
    pub name: String,
    /// The objects.
    pub storage: Arc<dyn Storage>,
    requests: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
    down: Mutex<Down>,
}

/// How a place failed, otherwise than by lacking an object.
#[derive(Default)]
struct Down {
    since: Option<Instant>,
    why: Option<String>,
}

/// For so long a place that failed is not asked: each attempt takes as long as its retries do.
const PAUSE: Duration = Duration::from_secs(60);

impl Place {
    /// One that nothing was read from.
    #[must_use]
    pub fn new(name: impl Into<String>, storage: Arc<dyn Storage>) -> Self {
        Self {
            name: name.into(),
            storage,
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            down: Mutex::default(),
        }
    }

    fn down(&self) -> std::sync::MutexGuard<'_, Down> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_down(&self) -> bool {
        self.down().since.is_some_and(|since| since.elapsed() < PAUSE)
    }

    /// Reads, and counts what came.
    fn read<T: Amount>(&self, read: &mut dyn FnMut(&dyn Storage) -> StorageResult<T>) -> StorageResult<T> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let result = read(&*self.storage);
        match &result {
            Ok(read) => {
                self.down().since = None;
                self.bytes.fetch_add(read.amount(), Ordering::Relaxed);
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                let lacking =
                    matches!(error.kind, ErrorKind::NotFound | ErrorKind::Short | ErrorKind::Frozen);
                if !lacking {
                    let why = crate::store::describe(error);
                    tracing::debug!(place = self.name, why, "a tier failed");
                    *self.down() = Down { since: Some(Instant::now()), why: Some(why) };
                }
            }
        }
        result
    }
}

/// How much a read brought.
trait Amount {
    fn amount(&self) -> u64;
}

impl Amount for Bytes {
    fn amount(&self) -> u64 {
        self.len() as u64
    }
}

impl Amount for u64 {
    fn amount(&self) -> u64 {
        *self
    }
}

/// What was read from a place.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Served {
    /// Its name.
    pub tier: String,
    /// Reads of packs that were asked of it.
    pub requests: u64,
    /// Bytes that it gave.
    pub bytes: u64,
    /// Reads that failed.
    pub failures: u64,
    /// What the place itself said when it last failed, rather than that it lacks something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A place as one of the copies: counted like the rest.
struct Counted(Arc<Place>);

/// A store whose packs lie elsewhere, too.
pub struct Tiered {
    main: Arc<dyn Storage>,
    /// Nearest first; `main` is among them.
    order: Vec<Arc<Place>>,
    copies: Vec<Arc<dyn Storage>>,
    /// Read packs from the nearest place, rather than from the store itself.
    from_nearest: bool,
}

impl Tiered {
    /// `main` with its copies, nearest first. Unless packs are to be read `from_nearest`, they are read from the
    /// store itself, and the copies are for those that ask for them: checks.
    #[must_use]
    pub fn new(main: Arc<dyn Storage>, order: Vec<Place>, from_nearest: bool) -> Self {
        let order: Vec<Arc<Place>> = order.into_iter().map(Arc::new).collect();
        let others = order.iter().filter(|place| from_nearest || !Arc::ptr_eq(&place.storage, &main));
        let copies = others.map(|place| Arc::new(Counted(Arc::clone(place))) as _).collect();
        Self { main, order, copies, from_nearest }
    }

    /// What was read from where.
    #[must_use]
    pub fn served(&self) -> Vec<Served> {
        let served = self.order.iter().map(|place| Served {
            tier: place.name.clone(),
            requests: place.requests.load(Ordering::Relaxed),
            bytes: place.bytes.load(Ordering::Relaxed),
            failures: place.failures.load(Ordering::Relaxed),
            error: place.down().why.clone(),
        });
        served.filter(|served| served.requests > 0).collect()
    }

    fn read_pack(&self, read: &dyn Fn(&dyn Storage) -> StorageResult<Bytes>) -> StorageResult<Bytes> {
        let mut worst: Option<StorageError> = None;
        let (up, down): (Vec<_>, Vec<_>) = self.order.iter().partition(|place| !place.is_down());
        if let Some(place) = down.first() {
            let why = place.down().why.clone().unwrap_or_default();
            worst = Some(StorageError {
                kind: ErrorKind::Failed,
                op: "read",
                object: self.main.place(),
                source: format!("tier '{}' failed: {why}", place.name).into(),
            });
        }
        // With nothing else left, what failed is asked all the same.
        let turns = if up.is_empty() { down } else { up };
        for place in turns {
            match place.read(&mut |storage| read(storage)) {
                Ok(bytes) => return Ok(bytes),
                // That it is frozen somewhere is more than that it is missing elsewhere; a store that fails
                // says least.
                Err(error) if worst.as_ref().is_none_or(|before| tells(&error) > tells(before)) => {
                    worst = Some(error);
                }
                Err(_) => {}
            }
        }
        Err(worst.unwrap_or_else(|| StorageError {
            kind: ErrorKind::NotFound,
            op: "read",
            object: self.main.place(),
            source: "there is no tier to read from".into(),
        }))
    }
}

/// How much an error says about a pack of which no copy could be read.
fn tells(error: &StorageError) -> u8 {
    match error.kind {
        ErrorKind::Frozen => 3,
        // It cannot be said to be lost while a place that may hold it does not answer.
        ErrorKind::Failed | ErrorKind::Denied | ErrorKind::Ambiguous => 2,
        ErrorKind::Short => 1,
        ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Full => 0,
    }
}

fn is_pack(name: &str) -> bool {
    name.strip_prefix(names::PACKS).is_some_and(|rest| rest.starts_with('/'))
}

impl Storage for Tiered {
    fn place(&self) -> String {
        self.main.place()
    }
    fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.main.put(name, body)
    }
    fn replace(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.main.replace(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        if self.from_nearest && is_pack(name) {
            return self.read_pack(&|storage| storage.get(name, limit));
        }
        self.main.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        if self.from_nearest && is_pack(name) {
            return self.read_pack(&|storage| storage.get_range(name, offset, len));
        }
        self.main.get_range(name, offset, len)
    }
    fn stream_range(
        &self,
        name: &str,
        offset: u64,
        len: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> StorageResult<()> {
        if !self.from_nearest || !is_pack(name) {
            return self.main.stream_range(name, offset, len, each);
        }
        // Streamed from the nearest. If it fails half way, what is missing is read piece by piece, from any place.
        let Some(place) = self.order.iter().find(|place| !place.is_down()) else {
            return self.get_range(name, offset, len).map(|bytes| each(&bytes));
        };
        let mut came = 0;
        let streamed = place.read(&mut |storage| {
            let mut count = |part: &[u8]| {
                came += part.len() as u64;
                each(part);
            };
            storage.stream_range(name, offset, len, &mut count).map(|()| came)
        });
        match streamed {
            Err(_) if came == 0 => self.get_range(name, offset, len).map(|bytes| each(&bytes)),
            done => done.map(drop),
        }
    }
    fn len(&self, name: &str) -> StorageResult<u64> {
        self.main.len(name)
    }
    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        self.main.list(folder, each)
    }
    fn leftovers(&self, each: &mut dyn FnMut(&str)) -> StorageResult<()> {
        self.main.leftovers(each)
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        self.main.delete(name)
    }
    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        self.main.read_versioned(name)
    }
    fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        self.main.swap(name, expected, body)
    }
    fn connections(&self) -> usize {
        self.order.iter().map(|place| place.storage.connections()).max().unwrap_or(1)
    }
    fn is_near(&self) -> bool {
        self.main.is_near()
    }
    fn copies(&self) -> &[Arc<dyn Storage>] {
        &self.copies
    }
    fn shelf(&self) -> Option<&dyn Shelf> {
        self.main.shelf()
    }
}

impl Storage for Counted {
    fn place(&self) -> String {
        self.0.name.clone()
    }
    fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.0.storage.put(name, body)
    }
    fn replace(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.0.storage.replace(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        self.0.read(&mut |storage| storage.get(name, limit))
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        self.0.read(&mut |storage| storage.get_range(name, offset, len))
    }
    fn len(&self, name: &str) -> StorageResult<u64> {
        self.0.storage.len(name)
    }
    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        self.0.storage.list(folder, each)
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        self.0.storage.delete(name)
    }
    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        self.0.storage.read_versioned(name)
    }
    fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        self.0.storage.swap(name, expected, body)
    }
    fn connections(&self) -> usize {
        self.0.storage.connections()
    }
    fn is_near(&self) -> bool {
        self.0.storage.is_near()
    }
    fn shelf(&self) -> Option<&dyn Shelf> {
        self.0.storage.shelf()
    }
}
