//! A repository of restic, read only: what `esker import` takes snapshots from.
//!
//! Source of the format: restic's own document, `doc/design.rst` ("Repository Format", versions 1 and 2). Nothing of
//! restic's is locked or written. Ids are SHA-256 of what was stored, and are checked at every read.
//!
//! | file | what it holds |
//! |---|---|
//! | [`crypto`] | scrypt, AES-256-CTR and Poly1305-AES |
//! | [`repository`] | keys, index, snapshots, blobs |
//! | [`tree`] | folders of a snapshot: their JSON, as entries |
//! | [`source`] | a snapshot as a source of a backup |

pub mod crypto;
pub mod repository;
pub mod source;
pub mod tree;

pub use repository::{Repository, Snapshot};
pub use source::ResticSource;
