//! What a backup *is*: sources yield entries, entries become a manifest, a manifest becomes reachable
//! through a snapshot. It never prints, reads no environment and parses no flags.
//!
//! | file | noun |
//! |---|---|
//! | [`backup`] ★ | source → chunks → packs → manifest → snapshot |
//! | [`restore`] ★ | the story backwards |
//! | [`verify`] | read everything, trust nothing |
//! | [`repository`] | open, init, find snapshots |
//! | [`source`] | what can be backed up: the contract, and files |
//! | [`connector`] | one system that can be backed up, and what else can be done with it: the contract |
//! | [`moment`] | which snapshot has a moment of a live stream |
//! | [`growing`] | a snapshot that grows while esker is attached to a server |
//! | [`mod@log`] | statements to servers in the log |
//! | [`names`] | what servers call things, as paths |
//! | [`patterns`] | which paths are meant, as in .gitignore |
//! | [`shown`] | names and messages of others, on a terminal |
//! | [`spill`] | more than memory should hold |
//! | [`entry`], [`manifest`], [`snapshot`] | the records |
//! | [`group`], [`rank`] | which snapshots are of one thing; in which order they were made, whatever clocks say |
//! | [`columns`] | what HEAD says of each snapshot, so that few records are read |
//! | [`policy`], [`promise`], [`prune`] | what to keep, and on which tiers; removing the rest |
//! | [`tier`], [`price`] | copies of the repository elsewhere; what they cost |
//! | [`calibrate`], [`trial`], [`plan`] | this machine's stages; the user's own data; what a repository will take |
//! | [`restic`] | a repository of restic, read for `esker import` |
//! | [`repair`], [`rewrite`], [`stats`], [`diff`] | the index from the packs; snapshots anew; sizes; what changed |
//! | [`drill`] | what a restore that is rehearsed found, and the signed report of it |
//! | [`host`], [`admit`], [`author`] | a backup by a host that may only write; taking what it brought into the repository; its signature |
//! | [`monitor`] | where counts, progress and non-fatal errors go |
//! | [`retry`] | attempts at work that a prune elsewhere may fence |
//!
//! # Example: back up a folder into memory, and restore it
//!
//! ```
//! use chunkstore::store::{Access, Identity};
//! use chunkstore::{chunker::ChunkerParams, config::Layout, env::SystemEnv, executor::Inline};
//! use chunkstore::{keys::{KdfParams, SlotOwner}, storage::memory::MemoryStorage};
//! use engine::backup::{BackupOptions, backup};
//! use engine::columns::SnapshotColumns;
//! use engine::restore::{RestoreOptions, restore};
//! use engine::{Repository, monitor::Tally, snapshot::Filter, source::files::{FilesOptions, FilesSource}};
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! std::fs::write(folder.path().join("letter"), "Dear reader")?;
//!
//! // A repository is a store, its keys, and everything from outside that it works with: clock, random numbers, threads.
//! let access = Access {
//!     storage: Arc::new(MemoryStorage::default()),
//!     env: Arc::new(SystemEnv),
//!     cpu: Arc::new(Inline), // executor::Pool in real life
//!     io: Arc::new(Inline),
//!     cache: None, // the index stays in memory
//!     identity: Identity::default(),
//!     columns: &SnapshotColumns,
//! };
//! let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 }; // KdfParams::default() in real life
//! let repo = Repository::init(
//!     access, ChunkerParams::default(), b"passphrase", cheap, SlotOwner::default(), Layout::default(),
//! )?;
//!
//! let monitor = Tally::default(); // receives counts, progress and errors of single files
//! let mut source = FilesSource::new(&[folder.path().to_owned()], FilesOptions::default(), &monitor)?;
//! let options = BackupOptions { time: jiff::Timestamp::now(), ..BackupOptions::default() };
//! let report = backup(&repo, &mut source, &options, &monitor)?;
//! assert_eq!(report.summary.files_new, 1);
//!
//! let target = tempfile::tempdir()?;
//! let listed = repo.find("latest", &Filter::default(), &monitor)?;
//! let options = RestoreOptions { target: target.path().to_owned(), no_owner: true, ..RestoreOptions::default() };
//! restore(&repo, &listed.snapshot, &options, &monitor)?;
//! assert!(monitor.errors().is_empty());
//!
//! // Paths in a snapshot are absolute paths without their first slash.
//! let restored = target.path().join(folder.path().strip_prefix("/")?).join("letter");
//! assert_eq!(std::fs::read_to_string(restored)?, "Dear reader");
//! # Ok(())
//! # }
//! ```

#![cfg_attr(
    test,
    expect(clippy::disallowed_methods, reason = "tests make their own files and read where they are")
)]

pub mod admit;
pub mod author;
pub mod backup;
pub mod calibrate;
pub mod clock;
pub mod columns;
pub mod connector;
pub mod diff;
pub mod drill;
pub mod entry;
pub mod error;
pub mod filters;
pub mod group;
pub mod growing;
#[cfg(test)]
mod histories;
pub mod host;
pub mod identity;
pub mod inside;
pub mod log;
pub mod manifest;
pub mod marker;
pub mod moment;
pub mod monitor;
pub mod names;
pub mod patterns;
pub mod plan;
pub mod policy;
pub mod price;
pub mod promise;
pub mod prune;
pub mod rank;
mod reach;
pub mod renew;
pub mod repair;
pub mod repository;
mod reseal;
#[cfg(feature = "restic")]
pub mod restic;
pub mod restore;
pub mod retry;
pub mod rewrite;
pub mod secrets;
pub mod shown;
pub mod snapshot;
pub mod source;
pub mod spill;
pub mod stats;
pub mod stored;
pub mod tier;
pub mod trial;
pub mod verify;

pub use error::{Error, Result};
pub use monitor::{Counter, ItemError, Monitor};
pub use reach::{lost_of, repair_index};
pub use repository::Repository;
