//! Features of some stores besides holding objects: storage classes, freezing and thawing, locks, old versions. Which
//! object gets which is decided elsewhere.

use super::{ErrorKind, StorageError, StorageResult};
use bytes::Bytes;

/// How an object is to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placing {
    /// Storage class, by the store's own name; the store's default if `None`.
    pub class: Option<String>,
    /// The object may not be removed or replaced before this time, in seconds since the Unix epoch.
    pub locked_until: Option<u64>,
}

/// Whether an object's bytes can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warmth {
    /// Always.
    Hot,
    /// Not before it is thawed.
    Frozen,
    /// Thawing was requested and is not complete.
    Thawing,
    /// For a while, until this time in seconds since the Unix epoch if the store says so.
    Thawed(Option<u64>),
}

impl Warmth {
    /// Whether it can be read now.
    #[must_use]
    pub fn is_readable(self) -> bool {
        matches!(self, Self::Hot | Self::Thawed(_))
    }
}

/// How an object is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lying {
    /// Length in bytes.
    pub len: u64,
    /// Storage class, by the store's own name; the default if `None`.
    pub class: Option<String>,
    /// Whether it can be read.
    pub warmth: Warmth,
    /// The object may not be removed or replaced before this time, in seconds since the Unix epoch.
    pub locked_until: Option<u64>,
}

/// How urgently an object is to be thawed. The faster the dearer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retrieval {
    /// Minutes; not for every class.
    Expedited,
    /// Hours.
    #[default]
    Standard,
    /// Half a day and more.
    Bulk,
}

impl Retrieval {
    /// All of them, fastest first.
    pub const ALL: [Self; 3] = [Self::Expedited, Self::Standard, Self::Bulk];

    /// `expedited`, `standard`, `bulk`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Expedited => "expedited",
            Self::Standard => "standard",
            Self::Bulk => "bulk",
        }
    }
}

impl std::str::FromStr for Retrieval {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|known| known.name() == text);
        found.ok_or_else(|| "expected expedited, standard or bulk".into())
    }
}

/// Old versions that a store keeps invisibly, and their size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// How many, marks of deletion included.
    pub versions: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Names below the repository's place, with their lengths.
    pub objects: Vec<(String, u64)>,
    /// Where the next one goes on, in words of the store; `None` or empty after the last one.
    pub next: Option<String>,
}

/// A store with classes, and perhaps locks and versions.
pub trait Shelf: Send + Sync {
    /// As [`super::Storage::put`], into a class and under a lock.
    fn put_as(&self, name: &str, body: Bytes, placing: &Placing) -> StorageResult<()>;
    /// Removes an object, where the common client has only a call that removes many; `None` where it has one for each.
    fn remove(&self, _name: &str) -> Option<StorageResult<()>> {
        None
    }
    /// A page of the names below a folder as the store has them, and not as paths; from the first one on, or where another
    /// page said that it goes on.
    fn page(&self, folder: &str, _from: Option<&str>) -> StorageResult<Page> {
        let (op, object) = ("list", folder.to_owned());
        Err(StorageError { kind: ErrorKind::Failed, op, object, source: "it has no pages of names".into() })
    }
    /// Reads how an object is stored.
    fn look(&self, name: &str) -> StorageResult<Lying>;
    /// Requests that a frozen object be readable for `days` days; `false` if that was requested before.
    fn thaw(&self, name: &str, days: u32, retrieval: Retrieval) -> StorageResult<bool>;
    /// Locks an object until a time, in seconds since the Unix epoch; a later lock stays.
    fn lock(&self, name: &str, until: u64) -> StorageResult<()>;
    /// Rules of the store that would remove, freeze or move objects beneath its prefix by themselves.
    fn hazards(&self) -> StorageResult<Vec<String>>;
    /// Whether the store keeps old versions.
    fn is_versioned(&self) -> StorageResult<bool>;
    /// Counts versions that no listing shows.
    fn hidden(&self) -> StorageResult<Hidden>;
    /// Removes the hidden versions of one object, except those under a lock.
    fn remove_hidden(&self, name: &str) -> StorageResult<()>;
    /// Restores objects that were removed or replaced while they were locked: removes delete markers and later versions
    /// on top of them. Returns the number of objects.
    fn bring_back(&self) -> StorageResult<u64>;
}
