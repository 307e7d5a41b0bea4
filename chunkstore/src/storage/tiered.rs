//! One store and the other places that hold the same packs, read as one: each pack from the nearest copy that is
//! healthy. Everything but packs, and every write, is the one store's own.

use super::{ErrorKind, Storage, StorageError, StorageResult};
use crate::format::names;
use crate::pool::locked;
use bytes::Bytes;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
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
        locked(&self.down)
    }

    fn is_down(&self) -> bool {
        self.down().since.is_some_and(|since| since.elapsed() < PAUSE)
    }

    /// Streams a range; returns how many bytes of it came, too.
    fn stream(
        &self,
        name: &str,
        offset: u64,
        len: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> (StorageResult<()>, u64) {
        let mut came = 0;
        let streamed = self.read(&mut |storage| {
            let mut count = |part: &[u8]| {
                came += part.len() as u64;
                each(part);
            };
            storage.stream_range(name, offset, len, &mut count).map(|()| came)
        });
        (streamed.map(drop), came)
    }

    /// Reads, and counts the result.
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

/// Statistics of reads from a place.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Served {
    /// Its name.
    pub tier: String,
    /// Requests for packs.
    pub requests: u64,
    /// Bytes that it gave.
    pub bytes: u64,
    /// Reads that failed.
    pub failures: u64,
    /// The place's own error when it last failed, rather than lacking an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A place as one of the copies: counted like the rest.
struct Counted(Arc<Place>);

/// A store whose packs also have copies elsewhere.
pub struct Tiered {
    main: Arc<dyn Storage>,
    /// Nearest first; `main` is among them.
    order: Vec<Arc<Place>>,
    copies: Vec<Arc<dyn Storage>>,
    /// Read packs from the nearest place, rather than from the store itself.
    from_nearest: bool,
}

impl Tiered {
    /// `main` with its copies, nearest first. Packs are read from the store itself unless `from_nearest` is set; the
    /// copies are for explicit reads by checks.
    #[must_use]
    pub fn new(main: Arc<dyn Storage>, order: Vec<Place>, from_nearest: bool) -> Self {
        let order: Vec<Arc<Place>> = order.into_iter().map(Arc::new).collect();
        let others = order.iter().filter(|place| from_nearest || !Arc::ptr_eq(&place.storage, &main));
        let copies = others.map(|place| Arc::new(Counted(Arc::clone(place))) as _).collect();
        Self { main, order, copies, from_nearest }
    }

    /// Statistics by place.
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

/// How informative an error is about a pack of which no copy could be read.
fn tells(error: &StorageError) -> u8 {
    match error.kind {
        ErrorKind::Frozen => 3,
        // It cannot be said to be lost while a place that may hold it does not answer.
        ErrorKind::Failed
        | ErrorKind::Denied
        | ErrorKind::Ambiguous
        | ErrorKind::Stopped
        | ErrorKind::TooMany
        | ErrorKind::BadName => 2,
        ErrorKind::Short => 1,
        ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::Full => 0,
    }
}

fn is_pack(name: &str) -> bool {
    name.strip_prefix(names::PACKS).is_some_and(|rest| rest.starts_with('/'))
}

impl Storage for Tiered {
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
        match place.stream(name, offset, len, each) {
            (Err(_), 0) => self.get_range(name, offset, len).map(|bytes| each(&bytes)),
            (done, _) => done,
        }
    }
    fn connections(&self) -> usize {
        self.order.iter().map(|place| place.storage.connections()).max().unwrap_or(1)
    }
    fn copies(&self) -> &[Arc<dyn Storage>] {
        &self.copies
    }
    crate::forward!(self => self.main; place put replace len list leftovers delete read_versioned swap is_near written_ms
        keeps_copies shelf);
}

impl Storage for Counted {
    fn place(&self) -> String {
        self.0.name.clone()
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        self.0.read(&mut |storage| storage.get(name, limit))
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        self.0.read(&mut |storage| storage.get_range(name, offset, len))
    }
    fn stream_range(
        &self,
        name: &str,
        offset: u64,
        len: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> StorageResult<()> {
        self.0.stream(name, offset, len, each).0
    }
    crate::forward!(self => self.0.storage; put replace len list leftovers delete read_versioned swap connections is_near
        keeps_copies written_ms copies shelf);
}
