//! Named objects in a store: the contract, its errors, and its implementations.
//!
//! The contract (docs/storage-contract.md): an object that was put is durable and whole when `put`
//! returns; objects other than HEAD never change; HEAD changes only by compare-and-swap, and every
//! reader sees the last swap. Listings are hints: nothing is concluded from an object's absence there.

use crate::format::names::HEAD;
use bytes::Bytes;

pub mod azure;
pub mod chain;
pub mod cloud;
pub mod conformance;
mod http;
pub mod limit;
pub mod local;
pub mod memory;
mod object;
pub mod probe;
mod requests;
pub mod s3;
pub mod shelf;
pub mod tiered;

pub use http::HttpOptions;
use shelf::Shelf;
use std::sync::Arc;

/// What the caller can do about a storage error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The object is not there.
    NotFound,
    /// The object ends before what was asked for does: it is not what it was.
    Short,
    /// Another object, or another version of HEAD, is there.
    Conflict,
    /// Credentials or permissions.
    Denied,
    /// No room left; retrying does not help.
    Full,
    /// It is there, but frozen: it must be thawed first.
    Frozen,
    /// It may or may not have happened.
    Ambiguous,
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
    /// What the store said.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Result of a storage operation.
pub type StorageResult<T> = Result<T, StorageError>;

/// What HEAD looked like when it was read; compared when it is swapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// A place for objects. Calls block; callers bring their own threads.
pub trait Storage: Send + Sync {
    /// The place, for messages; without credentials.
    fn place(&self) -> String;
    /// Writes a new object durably. Writing the same bytes again is fine; other bytes are a conflict.
    fn put(&self, name: &str, body: Bytes) -> StorageResult<()>;
    /// Writes an object that may be there, damaged: in one step, so that nobody finds less than before. For
    /// bytes that are known to be those it was first written with.
    fn replace(&self, name: &str, body: Bytes) -> StorageResult<()>;
    /// Reads a whole object of at most `limit` bytes.
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes>;
    /// Reads `len` bytes from `offset`; fewer are an error.
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes>;
    /// Reads `len` bytes from `offset` and hands them on as they come, in order, in parts of any size; fewer are an
    /// error, after those that came.
    fn stream_range(
        &self,
        name: &str,
        offset: u64,
        len: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> StorageResult<()> {
        self.get_range(name, offset, len).map(|bytes| each(&bytes))
    }
    /// Length of an object.
    fn len(&self, name: &str) -> StorageResult<u64>;
    /// Calls `each` for every object found under a folder, with its length.
    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()>;
    /// Calls `each` with the name of every file that an interrupted `put` left behind. Names are those
    /// of the objects-to-be with a suffix that begins with `#`; `delete` takes them.
    fn leftovers(&self, _each: &mut dyn FnMut(&str)) -> StorageResult<()> {
        Ok(())
    }
    /// Removes an object; one that is gone already is fine.
    fn delete(&self, name: &str) -> StorageResult<()>;
    /// Reads a mutable object, if it is there, with what it is compared by.
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
    fn is_near(&self) -> bool {
        true
    }
    /// Other places that hold the same packs, nearest first, for when a pack here cannot be read or is damaged.
    fn copies(&self) -> &[Arc<dyn Storage>] {
        &[]
    }
    /// What it can do about classes, locks and versions, if anything.
    fn shelf(&self) -> Option<&dyn Shelf> {
        None
    }
}
