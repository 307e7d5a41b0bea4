//! PostgreSQL: a client of its wire protocol for what its programs do not give (COPY from several connections of
//! one snapshot, replication), its programs where they know better, and its formats.
//!
//! | file | noun |
//! |---|---|
//! | [`server`], [`conninfo`], `service`, `encryption` | where a server is and how to get in: URL, service, environment, password file |
//! | `choose` | which of several hosts a session goes to |
//! | [`connection`], [`copy`], [`wire`] | a session: queries; COPY, replication; what they go over |
//! | `names` | names of databases that a server takes as they are |
//! | `contents` | tables of a dump, for `ls`, `find`, `dump` and `diff` |
//! | [`programs`] | pg_dump and its like, found by the server's version |
//! | [`wal`], [`stream`] | the write-ahead log; a stream of it |
//! | [`toc`], [`charset`] | the table of contents of pg_dump's archives; its names in UTF-8 |
//! | [`sql`], [`script`] | SQL's statements and tokens; a text of them run in a session |

mod auth;
mod binding;
pub mod charset;
mod choose;
pub mod connection;
mod connector;
pub mod conninfo;
mod contents;
pub mod copy;
mod data_directory;
pub mod dump;
mod encryption;
pub mod end_mark;
mod failure;
pub mod formats;
mod into_directory;
mod limits;
mod live_stream;
mod names;
pub mod physical;
pub mod prepare;
pub mod programs;
pub mod restore;
mod scratch;
pub mod script;
pub mod server;
mod service;
mod settings;
pub mod sql;
mod startup;
pub mod stream;
mod target;
pub mod toc;
pub mod wal;
pub mod wire;

pub use connection::Connection;
pub use connector::Postgres;
pub use server::Server;
