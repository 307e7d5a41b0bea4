//! What a backup *is*: sources yield entries, entries become a manifest, a manifest becomes reachable
//! through a snapshot. It never prints, reads no environment and parses no flags.
//!
//! | file | noun |
//! |---|---|
//! | [`backup`] ★ | source → chunks → packs → manifest → snapshot |
//! | [`restore`] ★ | the story backwards |
//! | [`verify`] | read everything, trust nothing |
//! | [`repository`] | open, init, find snapshots |
//! | [`source`] | what can be backed up: files, streams, commands, Redis, PostgreSQL |
//! | [`rdb`] | Redis dumps down to the single key: in order, with a seek index |
//! | [`mysql`] | MariaDB and MySQL: their programs, a stream of their binary log |
//! | [`pg`] | PostgreSQL: its protocol, its programs, its archives |
//! | [`qdrant`] | a Qdrant server, by its REST interface |
//! | [`resp`] | Redis commands as they are replicated: where each ends |
//! | [`journal`] | every moment of a Redis: a base and the commands after it |
//! | [`growing`] | a snapshot that grows while esker is attached to a server |
//! | [`keyspace`] | the keys of a dump in a snapshot: listed, compared, written into a live server |
//! | [`names`], [`child`] | what servers call things, as paths; programs of others, in an environment of their own |
//! | [`spill`] | more than memory should hold |
//! | [`entry`], [`manifest`], [`snapshot`] | the records |
//! | [`policy`], [`promise`], [`prune`] | what to keep, and on which tiers; removing the rest |
//! | [`tier`], [`price`] | copies of the repository elsewhere; what they cost |
//! | [`calibrate`], [`trial`], [`plan`] | this machine's stages; the user's own data; what a repository will take |
//! | [`repair`], [`stats`], [`diff`] | the index from the packs; sizes; what changed |
//! | [`monitor`] | where counts, progress and non-fatal errors go |

pub mod backup;
pub mod calibrate;
pub mod child;
pub mod diff;
pub mod entry;
pub mod error;
pub mod growing;
pub mod journal;
pub mod keyspace;
pub mod manifest;
pub mod monitor;
pub mod mysql;
pub mod names;
pub mod pg;
pub mod plan;
pub mod policy;
pub mod price;
pub mod promise;
pub mod prune;
pub mod qdrant;
pub mod rdb;
mod reach;
pub mod repair;
pub mod repository;
pub mod resp;
pub mod restore;
pub mod snapshot;
pub mod source;
pub mod spill;
pub mod stats;
pub mod tier;
pub mod trial;
pub mod verify;

pub use error::{Error, Result};
pub use monitor::{Counter, ItemError, Monitor};
pub use repository::Repository;
