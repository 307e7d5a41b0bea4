//! What several connectors share.
//!
//! | file | noun |
//! |---|---|
//! | [`child`], [`command`] | programs of others, in an environment of their own; what they write, as a stream |
//! | [`stream`], [`mod@format`], `decompress` | a stream of unknown content: what it is, whether it is whole |
//! | [`entries`] | items that are entries of their own: in order for a backup, one after the other for a restore |
//! | [`http`] | HTTP with limits, to the server of a URL; of the feature `http` |
//! | [`members`] | the dumps of a system in a snapshot, and paths of what lies in them |
//! | [`databases`], [`tables`] | of systems with a dump for each database: what a restore chooses, tables as contents |
//! | [`tar_cuts`] | cuts at the members of a tar |
//! | [`tls`], [`handshake`], [`waiting`] | lines to servers: certificates, set-up, waits that a signal ends |

pub mod address;
pub mod child;
pub mod command;
pub mod databases;
mod decompress;
pub mod entries;
pub mod format;
pub mod glob;
pub mod handshake;
#[cfg(feature = "http")]
pub mod http;
pub mod members;
mod options;
mod other_end;
pub mod question;
pub mod scratch;
pub mod stream;
pub mod tables;
pub mod tar_cuts;
pub mod tls;
pub mod waiting;
