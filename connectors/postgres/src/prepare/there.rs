//! What is in a folder before a data directory is made in it, and whose.

use super::backup::Backup;
use crate::data_directory::{DataDirectory, is_empty};
use engine::{Error, Result};
use std::path::Path;

/// The file that says that a restore has begun, and of which cluster: it goes when all is there.
pub(super) const MARK: &str = "esker.restore";
/// The file without which no server starts. Its first eight bytes are the cluster's identifier (`ControlFileData` in
/// `catalog/pg_control.h`), in the order of bytes of the machines that we know.
pub(super) const CONTROL: &str = "global/pg_control";
/// The file of a server that runs, or that was killed.
const PID: &str = "postmaster.pid";

/// What is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum There {
    /// Nothing.
    Nothing,
    /// What a restore of the same cluster left that did not come to its end.
    Unfinished,
    /// A data directory of the same cluster.
    Cluster,
}

impl There {
    /// Looks, and changes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] if what is there is something else, or in use.
    pub(super) fn look(target: &Path, backup: &Backup) -> Result<Self> {
        if is_empty(target)? {
            return Ok(Self::Nothing);
        }
        let shown = engine::shown::path(target);
        let refused = |why: String| Err(Error::Refused(format!("{shown} {why}; nothing was changed")));
        let data = DataDirectory::look_at(target)?;
        let control = data.read(CONTROL)?;
        let mark = String::from_utf8(data.read(MARK)?).unwrap_or_default();
        let (system, is_marked) = match (mark.trim().strip_prefix("system "), control.first_chunk()) {
            (Some(system), _) => (system.to_owned(), true),
            (None, Some(id)) => (u64::from_le_bytes(*id).to_string(), false),
            (None, None) => {
                return refused(
                    "is not empty, and no data directory of PostgreSQL: one is made in an empty folder, or over an older copy of \
                     the same cluster"
                        .into(),
                );
            }
        };
        if backup.system.is_empty() || system != backup.system {
            let whose = if backup.system.is_empty() { "one that is not known" } else { &backup.system };
            return refused(format!(
                "is of another cluster (its system identifier is {system}, and that of the backup is {whose}); give an empty \
                 folder"
            ));
        }
        let pid = data.read(PID)?;
        if !pid.is_empty() {
            let pid = String::from_utf8_lossy(&pid);
            let pid = engine::shown::name(pid.lines().next().unwrap_or_default().as_bytes());
            return refused(format!(
                "is in use by the server with process number {pid} ({PID}): stop that; if it was killed, remove the file"
            ));
        }
        if backup.bases.len() > 1 {
            return refused(
                "is not empty, and the backup is an incremental one, which pg_combinebackup puts together in an empty folder"
                    .into(),
            );
        }
        Ok(if is_marked { Self::Unfinished } else { Self::Cluster })
    }
}
