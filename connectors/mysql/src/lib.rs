//! MariaDB and MySQL.
//!
//! | file | noun |
//! |---|---|
//! | [`server`] | where a server is and how to get in; its programs |
//! | [`dump`] | what mariadb-dump writes, taken apart by database |
//! | `contents` | tables of a dump, for `ls`, `find`, `dump` and `diff` |
//! | [`restore`] | databases and tables into a server |
//! | `scratch` | servers of drills |
//! | [`stream`] | a stream of the binary log |

mod connector;
mod contents;
pub mod dump;
pub mod formats;
mod live_stream;
pub mod restore;
mod scratch;
pub mod server;
pub mod stream;
mod target;

pub use connector::Mysql;
