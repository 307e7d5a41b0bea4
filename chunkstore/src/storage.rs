//! Named objects in a store: the contract, its errors, and its implementations.
//!
//! The contract (docs/storage-contract.md): an object is durable and complete when `put` returns; objects other than
//! HEAD never change; HEAD changes only by compare-and-swap, and every reader sees the last swap. Listings are hints:
//! an object's absence there proves nothing.

use crate::format::names::{self, HEAD};
use bytes::Bytes;

#[cfg(feature = "cloud")]
pub mod azure;
pub mod chain;
#[cfg(feature = "cloud")]
pub mod cloud;
pub mod conformance;
mod forward;
#[cfg(feature = "cloud")]
mod http;
#[cfg(feature = "cloud")]
pub mod identity;
pub mod limit;
#[cfg(feature = "cloud")]
mod line;
pub mod local;
pub mod logged;
pub mod memory;
#[cfg(feature = "cloud")]
mod object;
pub mod probe;
#[cfg(feature = "cloud")]
pub mod reach;
#[cfg(feature = "cloud")]
mod requests;
#[cfg(feature = "cloud")]
pub mod s3;
pub mod shelf;
pub mod tiered;
#[cfg(feature = "cloud")]
mod transfer;

#[cfg(feature = "cloud")]
pub use http::HttpOptions;
use shelf::Shelf;
use std::sync::Arc;

/// What the caller can do about a storage error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The object is not there.
    NotFound,
    /// The object ends before the requested range does: it has changed.
    Short,
    /// Another object, or another version of HEAD, exists.
    Conflict,
    /// Credentials or permissions.
    Denied,
    /// No room left; retrying does not help.
    Full,
    /// It exists, but is frozen and must be thawed first.
    Frozen,
    /// It may or may not have happened.
    Ambiguous,
    /// The user had enough of waiting. It may or may not have happened.
    Stopped,
    /// A listing has more objects than any repository; so many of them were listed.
    TooMany,
    /// A listing has a name that is no object's, and ends there: whoever may write below the folder chose it.
    BadName,
    /// Anything else, after the store's own retries.
    Failed,
}

/// A storage operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {object}")]
pub struct StorageError {
    /// What can be done about it.
    pub kind: ErrorKind,
    /// `read`, `write`, `list`, `delete`, `swap`.
    pub op: &'static str,
    /// The object's name, with the store's place.
    pub object: String,
    /// The store's own error.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Result of a storage operation.
pub type StorageResult<T> = Result<T, StorageError>;

/// Most objects that a listing of `folder` may have: more are no repository's, and would fill the memory of whoever
/// takes note of them. Ten million packs of 64 MiB are 640 TB.
fn most_listed(folder: &str) -> u64 {
    // Whoever has the host's rights fills it. A million packs of the usual size are 64 TiB.
    if folder != names::INBOX && is_of_hosts(folder) {
        return 1 << 20;
    }
    match folder.rsplit('/').next() {
        Some(names::KEYS) => 1024,
        Some(names::GRANTS) => 1 << 16,
        Some(names::HEADS) => 1 << 20,
        _ => 10_000_000,
    }
}

/// Whether a name or folder is one that hosts may write below: whoever has their rights chooses the names there.
fn is_of_hosts(name: &str) -> bool {
    name.strip_prefix(names::INBOX).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Said of a listing that has more.
#[derive(Debug, thiserror::Error)]
#[error("there are more than {0} objects, which is no repository's")]
struct TooMany(u64);

/// What HEAD looked like when it was read; compared when it is swapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// A place for objects. Calls block; callers bring their own threads.
///
/// Stores say of each method what they do, decorators, too: those pass on what they leave as it is with
/// [`forward!`](crate::forward). [`Storage::read_head`] and [`Storage::swap_head`] are made of the others.
pub trait Storage: Send + Sync {
    /// The place, for messages; without credentials.
    fn place(&self) -> String;
    /// Writes a new object durably. Writing the same bytes again is fine; other bytes are a conflict.
    fn put(&self, name: &str, body: Bytes) -> StorageResult<()>;
    /// Overwrites an object that may be damaged, in one step, so that readers never find less than before. Only for the
    /// bytes that it was first written with.
    fn replace(&self, name: &str, body: Bytes) -> StorageResult<()>;
    /// Reads a whole object of at most `limit` bytes.
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes>;
    /// Reads `len` bytes from `offset`; fewer are an error.
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes>;
    /// Reads `len` bytes from `offset` and passes them on as they arrive, in order, in parts of any size. Fewer bytes
    /// are an error, after those that arrived.
    fn stream_range(
        &self,
        name: &str,
        offset: u64,
        len: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> StorageResult<()>;
    /// Length of an object.
    fn len(&self, name: &str) -> StorageResult<u64>;
    /// Calls `each` for every object found under a folder, with its length. Below `inbox/` the names are whatever somebody
    /// chose: parts that are no path's, a slash at the end, and on a disk empty folders, as names that end with one.
    /// [`Storage::delete`] takes each of them.
    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()>;
    /// Calls `each` with the name of every file that an interrupted `put` left behind. Names are those
    /// of the objects-to-be with a suffix that begins with `#`; `delete` takes them.
    fn leftovers(&self, each: &mut dyn FnMut(&str)) -> StorageResult<()>;
    /// Removes an object; a missing one is not an error.
    fn delete(&self, name: &str) -> StorageResult<()>;
    /// Reads a mutable object, if it exists, with its version for comparison.
    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>>;
    /// Replaces a mutable object if it is still `expected` (`None`: not there), else
    /// [`ErrorKind::Conflict`].
    fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()>;
    /// Reads HEAD, if there is one.
    fn read_head(&self) -> StorageResult<Option<(Bytes, Version)>> {
        self.read_versioned(HEAD)
    }
    /// Replaces HEAD; see [`Storage::swap`].
    fn swap_head(&self, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        self.swap(HEAD, expected, body)
    }
    /// How many transfers at once make sense.
    fn connections(&self) -> usize;
    /// Whether reading is about as cheap as for a local disk: old chunks are then read in order to store
    /// new ones against them.
    fn is_near(&self) -> bool;
    /// Whether objects that everything hangs on are kept several times: on a disk, whose sectors fail one by one.
    fn keeps_copies(&self) -> bool;
    /// When an object was written, by the store's own clock, in milliseconds since the Unix epoch; `None` if the store has
    /// no clock of its own, as a local disk.
    fn written_ms(&self, name: &str) -> StorageResult<Option<u64>>;
    /// Other places that hold the same packs, nearest first, for when a pack here cannot be read or is damaged.
    fn copies(&self) -> &[Arc<dyn Storage>];
    /// Its support for classes, locks and versions, if any.
    fn shelf(&self) -> Option<&dyn Shelf>;
}
