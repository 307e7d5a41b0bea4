//! PostgreSQL: a client of its wire protocol for what its programs do not give (COPY from several connections of
//! one snapshot, replication), its programs where they know better, and its formats.
//!
//! | file | noun |
//! |---|---|
//! | [`server`], [`conninfo`], `service`, `encryption` | where a server is and how to get in: URL, service, environment, password file |
//! | `choose` | which of several hosts a session goes to |
//! | [`connection`], [`copy`], [`wire`] | a session: queries; COPY, replication; what they go over |
//! | [`programs`] | pg_dump and its like, found by the server's version |
//! | [`wal`], [`follow`] | the write-ahead log; a stream of it |
//! | [`toc`], [`charset`] | the table of contents of pg_dump's archives; its names in UTF-8 |
//! | [`sql`], [`script`] | SQL's statements and tokens; a text of them run in a session |

pub mod charset;
mod choose;
pub mod connection;
pub mod conninfo;
pub mod copy;
mod encryption;
mod failure;
pub mod follow;
pub mod programs;
pub mod script;
pub mod server;
mod service;
pub mod sql;
mod startup;
pub mod toc;
pub mod wal;
pub mod wire;

pub use connection::Connection;
pub use server::Server;
