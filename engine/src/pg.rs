//! PostgreSQL: a client of its wire protocol for what its programs do not give (COPY from several connections of
//! one snapshot, replication), its programs where they know better, and its formats.
//!
//! | file | noun |
//! |---|---|
//! | [`server`] | where a server is and how to get in: URL, environment, password file |
//! | [`connection`], [`copy`], [`wire`] | a session: queries; COPY, replication; what they go over |
//! | [`programs`] | pg_dump and its like, found by the server's version |
//! | [`wal`], [`follow`] | the write-ahead log; a stream of it |
//! | [`toc`] | the table of contents of pg_dump's archives |
//! | [`sql`], [`script`] | SQL's statements and tokens; a text of them run in a session |

pub mod connection;
pub mod copy;
pub mod follow;
pub mod programs;
pub mod script;
pub mod server;
pub mod sql;
mod startup;
pub mod toc;
pub mod wal;
pub mod wire;

pub use connection::Connection;
pub use server::Server;
