//! Errors of the engine: what the store says, and what the user knows: path, snapshot, source.

use crate::source::SourceError;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error that ends an operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chunk store failed.
    #[error(transparent)]
    Store(#[from] chunkstore::Error),
    /// A source failed as a whole; no snapshot was made.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// No snapshot fits.
    #[error("no snapshot matches '{wanted}'")]
    NoSnapshot {
        /// What was asked for.
        wanted: String,
    },
    /// Several snapshots fit.
    #[error("'{wanted}' matches {count} snapshots; give more digits")]
    AmbiguousSnapshot {
        /// What was asked for.
        wanted: String,
        /// How many there are.
        count: usize,
    },
    /// The path is not in the snapshot.
    #[error("'{path}' is not in snapshot {snapshot}")]
    NoEntry {
        /// The path.
        path: String,
        /// Short id.
        snapshot: String,
    },
    /// A file or folder of the restore target failed in a way that ends the restore.
    #[error("cannot {op} '{path}'")]
    Target {
        /// What was tried.
        op: &'static str,
        /// Where.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The policy would remove everything of a group.
    #[error("{0}")]
    Refused(String),
    /// A parameter makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Stopped on request; what was uploaded is kept for the next run.
    #[error("interrupted")]
    Interrupted,
    /// A record that does not follow the format although it was authentic: a bug of whoever wrote it.
    #[error("{what} does not follow the format: {why}")]
    Malformed {
        /// The record.
        what: String,
        /// What is wrong.
        why: String,
    },
}

impl Error {
    /// Whether the repository's store has no room left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_full())
    }
}
