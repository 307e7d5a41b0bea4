//! Errors, named by what the caller can do about them.

use crate::format::Malformed;
use crate::head::Age;
use crate::id::{ChunkId, ObjectId};
use crate::storage::StorageError;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the chunk store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing at the given place looks like a repository.
    #[error("no repository at {place}")]
    NoRepository {
        /// Where was looked.
        place: String,
    },
    /// The place has no greeting for a write-only host, or one that does not open.
    #[error("no repository at {place} knows this host: the place is wrong, or the host was revoked")]
    UnknownHost {
        /// Where was looked.
        place: String,
    },
    /// `init` found a repository already there.
    #[error("a repository already exists at {place}")]
    AlreadyExists {
        /// Where it lies.
        place: String,
    },
    /// No key slot opens with the secret that was given.
    #[error("{}", wrong_secret(secret, *slots, others.as_deref(), damage.as_deref()))]
    WrongPassword {
        /// What people call the secret: `password`.
        secret: String,
        /// How many slots were tried.
        slots: usize,
        /// What those are for that it is no secret of, with their numbers: kinds, and the URLs of key services.
        others: Option<String>,
        /// Why another could not be.
        damage: Option<String>,
    },
    /// Fewer shares were given than are needed.
    #[error(
        "{given} of {needed} shares: {} more of split {split} {} needed, each with '--share FILE'",
        needed.saturating_sub(*given), if needed.saturating_sub(*given) == 1 { "is" } else { "are" }
    )]
    TooFewShares {
        /// So many were given.
        given: usize,
        /// So many are needed.
        needed: usize,
        /// The id of their split.
        split: String,
    },
    /// A service that a slot's secret is asked of did not give it: it is down, it denies it, or it has lost its key.
    #[error("{}{why}", slot.map(|slot| format!("key slot {}: ", slot.short())).unwrap_or_default())]
    KeyService {
        /// The slot; none for one that was to be made.
        slot: Option<ObjectId>,
        /// Which of these, of which service, and what to do.
        why: String,
        /// There was no answer that counts: the service may give the secret later.
        is_away: bool,
    },
    /// The slot by which the repository was opened has no grant of an epoch.
    #[error(
        "key slot {} has no data key of epoch {epoch}: it was removed before 'esker key rotate' made that epoch", slot.short()
    )]
    NotGranted {
        /// The slot.
        slot: ObjectId,
        /// The epoch.
        epoch: u32,
    },
    /// Something is sealed under the data key of an epoch that was retired.
    #[error(
        "it is sealed under epoch {epoch}, which was retired: nothing that is needed is, so it is an old object or a forged one"
    )]
    RetiredEpoch {
        /// The epoch.
        epoch: u32,
    },
    /// The repository needs a newer esker.
    #[error("this repository needs a newer esker: {why}")]
    Unsupported {
        /// Version or feature that is not understood.
        why: String,
    },
    /// No location is known for a chunk.
    #[error("chunk {} is in no index segment", id.short())]
    MissingChunk {
        /// The chunk.
        id: ChunkId,
    },
    /// An object's bytes are not what was written.
    #[error("{object} is damaged: {why}")]
    Corrupt {
        /// Name of the object.
        object: String,
        /// How that was noticed.
        why: String,
    },
    /// HEAD no longer allows what this session wanted to commit.
    #[error("{why}")]
    Fenced {
        /// What happened, and that running again helps.
        why: String,
    },
    /// A root that was to be replaced is not in HEAD: it was removed, or replaced by another.
    #[error("snapshot {} is gone", id.short())]
    Gone {
        /// The root.
        id: ObjectId,
    },
    /// HEAD is older than one that this machine has seen.
    #[error("{}", rolled_back(found, seen, tier.as_deref()))]
    Rollback {
        /// How far the one in the store has come.
        found: Age,
        /// How far the latest that was seen had.
        seen: Age,
        /// The tier whose HEAD it is; none for the primary's.
        tier: Option<String>,
    },
    /// Another tier was adopted since: this primary is out of date.
    #[error(
        "another copy of this repository was made the primary since: this one is out of date. Use that one, and let this one be a copy of it"
    )]
    Superseded,
    /// The object store failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no room for a leaf that HEAD was to name. HEAD is as it was, and no swap of this process is under way.
    #[error(transparent)]
    NotSwapped(StorageError),
    /// The local cache failed; deleting it is safe.
    #[error("local index cache: {why}")]
    Cache {
        /// What the cache said.
        why: String,
    },
    /// A parameter is outside its range.
    #[error("{0}")]
    Invalid(String),
    /// There is no memory for a buffer.
    #[error(
        "no memory for {bytes} bytes more: a limit (ulimit -v, a container's) is too low, or --pack-size too high"
    )]
    Memory {
        /// What was asked for.
        bytes: usize,
    },
    /// Another thread of this operation died; its panic was printed.
    #[error("a worker thread panicked")]
    WorkerPanicked,
    /// Stopped on request.
    #[error("interrupted")]
    Interrupted,
    /// The operating system has no random numbers.
    #[error("no randomness from the operating system: {0}")]
    Randomness(String),
}

/// Says that a secret opens nothing, and what would.
fn wrong_secret(secret: &str, slots: usize, others: Option<&str>, damage: Option<&str>) -> String {
    let more: String = damage.iter().map(|why| format!("; {why}")).collect();
    match others {
        Some(others) if slots == 0 => {
            format!("no key slot is for the {secret} that was given; there are key slots for: {others}{more}")
        }
        Some(others) => {
            format!(
                "wrong {secret}, or no key slot for it ({slots} tried; there are key slots for: {others}{more})"
            )
        }
        None => format!("wrong {secret}, or no key slot for it ({slots} tried{more})"),
    }
}

impl Error {
    /// Names the damaged object.
    pub fn corrupt(object: impl Into<String>, why: impl ToString) -> Self {
        Self::Corrupt { object: object.into(), why: why.to_string() }
    }

    /// Whether the store has no room left.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Storage(error) | Self::NotSwapped(error) if error.kind == crate::storage::ErrorKind::Full)
    }

    /// Whether this names damaged or missing data, rather than a failing store or a caller's mistake.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::MissingChunk { .. } => true,
            Self::Storage(error) => {
                matches!(error.kind, crate::storage::ErrorKind::NotFound | crate::storage::ErrorKind::Short)
            }
            _ => false,
        }
    }
}

/// An error with its causes on one line.
#[must_use]
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Attaches an object's name to bytes that do not follow the format.
pub trait InObject<T> {
    /// Turns [`Malformed`] into [`Error::Corrupt`] of `object`.
    fn in_object(self, object: &str) -> Result<T>;
}

impl<T> InObject<T> for std::result::Result<T, Malformed> {
    fn in_object(self, object: &str) -> Result<T> {
        self.map_err(|malformed| Error::corrupt(object, malformed))
    }
}

fn rolled_back(found: &Age, seen: &Age, tier: Option<&str>) -> String {
    let repair =
        tier.map_or("esker repair head".to_owned(), |tier| format!("esker repair head --tier {tier}"));
    if tier.is_none() && found.incarnation < seen.incarnation {
        return format!(
            "HEAD was rolled back, or is that of an older primary (incarnation {} here, {} seen before): \
                another copy was made the primary since, or HEAD was rebuilt. 'esker tier sync --rejoin NAME' \
                makes an older primary a copy of the new one; --no-cache reads it as it is; if an older copy was \
                put back on purpose, '{repair}' continues from it",
            found.incarnation, seen.incarnation
        );
    }
    format!(
        "HEAD was rolled back: generation {} here, {} seen before; if an older copy was put back on purpose, '{repair}' goes \
         on from it",
        found.generation, seen.generation
    )
}
