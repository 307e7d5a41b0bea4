//! Bytes in, ids out: the store beneath a backup. It knows no paths, no snapshots' meaning, no sources.
//!
//! | file | noun |
//! |---|---|
//! | [`mod@format`] | every magic, width and limit; the only file that decides bytes |
//! | [`id`] | typed identifiers |
//! | [`chunker`] | where to cut; pure |
//! | [`aead`], [`keys`] | AES-256-GCM behind one function; passphrase → key hierarchy |
//! | [`envelope`] | how small objects (HEAD, index segments, snapshots) are sealed |
//! | [`seal`], [`pack`] | one chunk ⇄ its frame; many frames in one object |
//! | [`index`] | chunk id → location: segments, in memory, and (feature `rocksdb`) on disk |
//! | [`bases`] | what a chunk is compressed against, which locations count, and how to read such chunks |
//! | [`head`] | the only mutable object, changed by compare-and-swap |
//! | [`config`] | what never changes after `init` |
//! | [`store`], [`ingest`], [`reader`] | the chunk store: open, write in parallel, read in order |
//! | [`storage`] | named objects on disk, in S3, in memory |
//! | [`executor`], [`mod@env`] | threads, clock and randomness, passed in |

pub mod aead;
pub mod bases;
pub mod chunker;
pub mod config;
pub mod env;
pub mod envelope;
pub mod error;
pub mod executor;
pub mod format;
pub mod head;
pub mod id;
pub mod index;
pub mod ingest;
pub mod keys;
pub mod pack;
pub mod parity;
pub mod patch;
pub mod reader;
pub mod rope;
pub mod seal;
pub mod storage;
pub mod store;

pub use error::{Error, Result};
pub use id::{ChunkId, ObjectId, PackId, RepositoryId, SessionId};
