//! Qdrant.
//!
//! | file | noun |
//! |---|---|
//! | [`server`] | a server, by its REST interface |
//! | [`dump`] | its collections, shard by shard |
//! | [`files`] | its storage folder, while no server runs on it |
//! | [`into_folder`] | what a restore into a folder must know of that |
//! | [`restore`] | collections into a server |
//! | `stored`, `contents` | the collections of a snapshot; for `ls`, `find`, `dump`, `diff` |

mod connector;
mod contents;
pub mod dump;
pub mod files;
pub mod into_folder;
pub mod restore;
pub mod server;
mod settings;
mod stored;
mod target;

pub use connector::Qdrant;
