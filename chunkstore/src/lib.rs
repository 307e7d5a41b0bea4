//! Bytes in, ids out: the store beneath a backup. It knows no paths, no snapshots' meaning, no sources.
//!
//! | file | noun |
//! |---|---|
//! | [`mod@format`] | every magic, width and limit; the only file that decides bytes |
//! | [`id`] | typed identifiers |
//! | [`chunker`] | where to cut; pure |
//! | [`aead`], [`keys`] | AES-256-GCM behind one function; secrets of slots → key hierarchy |
//! | [`envelope`] | how small objects (HEAD, index segments, snapshots) are sealed |
//! | [`seal`], [`pack`] | one chunk ⇄ its frame; many frames in one object |
//! | [`index`] | chunk id → location: segments, in memory, and (feature `rocksdb`) on disk |
//! | [`bases`] | what a chunk is compressed against, which locations count, and how to read such chunks |
//! | [`blocks`] | patches against chunks of which only hashes are at hand |
//! | [`head`] | the only mutable object, changed by compare-and-swap |
//! | [`config`] | what never changes after `init` |
//! | [`store`], [`ingest`], [`reader`] | the chunk store: open, write in parallel, read in order |
//! | [`inbox`] | what write-only hosts bring: runs, their commits, the answers; and a host's own side |
//! | [`storage`] | named objects on disk, in S3, in memory |
//! | [`private`], [`patience`] | local files that are nobody else's, and locks that are waited for only so long |
//! | [`mod@pool`] | values that threads share, and that wait to be used again |
//! | [`log`] | targets of log events |
//! | [`executor`], [`mod@env`] | threads, clock and randomness, passed in |
//!
//! # Example: a stream into memory, and back
//!
//! ```
//! use chunkstore::ingest::{Dedupe, Lane, Output, Packer, PackerOptions, Sealing};
//! use chunkstore::store::{Access, ChunkStore, Identity, LostPacks};
//! use chunkstore::{chunker::ChunkerParams, config::Layout, env::SystemEnv, executor::Inline, format::PackKind, head::NoColumns};
//! use chunkstore::{keys::{KdfParams, SlotOwner}, reader::read_all, storage::memory::MemoryStorage};
//! use std::sync::Arc;
//!
//! # fn main() -> chunkstore::Result<()> {
//! let access = Access {
//!     storage: Arc::new(MemoryStorage::default()),
//!     env: Arc::new(SystemEnv),
//!     cpu: Arc::new(Inline),
//!     io: Arc::new(Inline),
//!     cache: None,
//!     identity: Identity::default(),
//!     columns: &NoColumns,
//! };
//! let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
//! let (params, owner) = (ChunkerParams::default(), SlotOwner::default());
//! let store = Arc::new(ChunkStore::init(access, params, b"passphrase", cheap, owner, Layout::default())?);
//!
//! // A session protects what it writes from prunes until its commit.
//! let session = store.open_session("example")?;
//! let dedupe = Dedupe::new(Arc::clone(&store), Sealing::default(), &LostPacks::default())?;
//! let mut packer = Packer::new(&dedupe, session, PackerOptions::default())?;
//! let mut lane: Lane<()> = Lane::new(&dedupe, PackKind::Data)?;
//! lane.write(b"Dear reader");
//! let mut chunks = vec![];
//! lane.drain(&mut packer, &mut |_, output| {
//!     if let Output::Chunk(chunk) = output {
//!         chunks.push(chunk);
//!     }
//!     Ok(())
//! })?;
//! let segments = packer.flush()?; // packs and index segments are durable
//! let root = store.write_snapshot(b"whatever names the chunks", &[])?;
//! store.commit(&session, &segments, &[root], &dedupe.relied())?; // from here on, it exists
//!
//! store.sync_index()?;
//! assert_eq!(read_all(&store, &chunks)?, b"Dear reader");
//! # Ok(())
//! # }
//! ```

pub mod aead;
pub mod bases;
pub mod blocks;
pub mod chunker;
pub mod config;
pub mod env;
pub mod envelope;
pub mod error;
pub mod executor;
pub mod format;
pub mod head;
pub mod id;
pub mod inbox;
pub mod index;
pub mod ingest;
mod kept;
pub mod keys;
pub mod log;
pub mod memory;
pub mod pack;
pub mod parity;
pub mod patch;
pub mod patience;
pub mod pool;
pub mod private;
pub mod reader;
pub mod rope;
pub mod seal;
pub mod storage;
pub mod store;
pub mod threads;

pub use error::{Error, Result};
pub use id::{ChunkId, ObjectId, PackId, RepositoryId, SessionId};
