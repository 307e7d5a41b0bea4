//! Errors of the engine: those of the store, with the user's terms: path, snapshot, source.

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
    /// A filter fits nothing.
    #[error("nothing fits {filter}: none of {count} snapshots")]
    NothingFits {
        /// As it was written.
        filter: String,
        /// How many snapshots there are.
        count: usize,
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
    #[error("'{path}' is not in the snapshot")]
    NoEntry {
        /// The path.
        path: String,
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
    /// Stopped on request; uploaded data stays for the next run.
    #[error("interrupted")]
    Interrupted,
    /// An authentic record that does not follow the format: a bug of its writer.
    #[error("{what} does not follow the format: {why}")]
    Malformed {
        /// The record.
        what: String,
        /// The error.
        why: String,
    },
}

impl Error {
    /// The same, about names that others chose: a line feed or an escape sequence in one is shown as such.
    #[must_use]
    pub fn in_one_line(self) -> Self {
        let line = |text: String| crate::shown::line(&text).into_owned();
        match self {
            Self::Refused(why) => Self::Refused(line(why)),
            Self::Invalid(why) => Self::Invalid(line(why)),
            Self::Malformed { what, why } => Self::Malformed { what: line(what), why: line(why) },
            Self::Source(error) => {
                let why = line(error.why);
                Self::Source(SourceError { why, ..error })
            }
            other => other,
        }
    }

    /// Whether the repository's store has no room left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_full())
    }
}
