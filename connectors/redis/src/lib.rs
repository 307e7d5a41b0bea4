//! Redis and Valkey.
//!
//! | file | noun |
//! |---|---|
//! | [`server`] | where a server is and how to get in; its replication |
//! | [`scan`], [`files`] | key by key; the files that it wrote |
//! | [`dump`] | a dump on its way in |
//! | [`rdb`] | dumps down to the single key: in order, with a seek index |
//! | [`keys`] | the keys of a dump in a snapshot: listed, compared, written into a server |
//! | `replication` | a whole dump into a server, which loads it as our replica |
//! | [`resp`] | commands as they are replicated: where each ends |
//! | [`stream`] | every moment of a server: a base and the commands after it |

mod choices;
mod connector;
mod contents;
pub mod dump;
pub mod files;
pub mod formats;
pub mod keys;
mod live_stream;
mod loaded;
pub mod rdb;
mod replication;
pub mod resp;
pub mod scan;
mod scratch;
pub mod server;
mod settings;
pub mod stream;
mod target;
mod whole;

pub use connector::Redis;
