//! The highest HEAD that this machine has seen of a repository, and of each of its tiers: by it a rollback is noticed.

use super::Age;
use crate::env::{Env, random_array};
use crate::id::{ObjectId, to_hex};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A HEAD that was seen.
#[derive(Serialize, Deserialize)]
pub(super) struct Seen {
    #[serde(flatten)]
    pub(super) age: Age,
    pub(super) hash: ObjectId,
    /// The highest epoch that was retired.
    #[serde(default)]
    pub(super) retired: u32,
}

/// Where HEADs that were seen are noted, if anywhere.
pub(super) struct Notes {
    path: Option<PathBuf>,
    has_warned: AtomicBool,
}

impl Notes {
    /// `path`: the primary's note; those of tiers lie beside it.
    pub(super) fn new(path: Option<PathBuf>) -> Self {
        Self { path, has_warned: AtomicBool::new(false) }
    }

    /// The file for the primary, or for a tier.
    pub(super) fn path(&self, tier: Option<&str>) -> Option<PathBuf> {
        let path = self.path.as_ref()?;
        Some(tier.map_or_else(|| path.clone(), |tier| path.with_extension(format!("{tier}.head"))))
    }

    /// What was noted of the primary, or of a tier. A note that cannot be read is told of: whether HEAD was rolled back
    /// cannot be said then.
    pub(super) fn read(&self, tier: Option<&str>) -> Option<Seen> {
        let path = self.path(tier)?;
        let why = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => error.to_string(),
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(seen) => return Some(seen),
                Err(error) => error.to_string(),
            },
        };
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the note of the highest HEAD that was seen cannot be read, so a HEAD that was rolled back is not \
                 noticed this time: {}: {why}",
                path.display()
            );
        }
        None
    }

    /// Notes what was seen.
    pub(super) fn write(&self, path: &Path, seen: &Seen, env: &dyn Env) -> Result<()> {
        let bytes = serde_json::to_vec(seen)
            .map_err(|error| Error::Cache { why: format!("{}: {error}", path.display()) })?;
        // Written beside and renamed: two processes may both be here, either's word is a true one.
        let random = to_hex(&random_array::<8>(env)?);
        if let Err(error) = crate::private::replace_durably(path, &bytes, &random)
            && !self.has_warned.swap(true, Ordering::Relaxed)
        {
            // Nothing that this run does rests on it; what it makes is in the repository already.
            tracing::warn!("cannot note the repository's state in {}: {error}", path.display());
        }
        Ok(())
    }
}
