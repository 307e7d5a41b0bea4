//! What is in a folder before a data directory is made in it, and whose.

use super::backup::Backup;
use crate::data_directory::DataDirectory;
use engine::{Error, Result};

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

/// Bytes of it, at least and at most: servers have 8 KiB.
pub(super) const MOST_CONTROL: u64 = 1 << 20;
/// Bytes of a mark, and of a server's file, at most.
const MOST: u64 = 4096;

impl There {
    /// Looks, and changes nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] if what is there is something else, or in use.
    pub(super) fn look(data: &DataDirectory, backup: &Backup) -> Result<Self> {
        if data.is_empty()? {
            return Ok(Self::Nothing);
        }
        let shown = engine::shown::path(data.path());
        let refused = |why: String| Err(Error::Refused(format!("{shown} {why}; nothing was changed")));
        let control = data.read(CONTROL, MOST_CONTROL)?;
        // One that somebody else wrote says nothing.
        let mark = if data.is_own(MARK) { data.read(MARK, MOST)? } else { vec![] };
        let mark = String::from_utf8(mark).unwrap_or_default();
        let (system, is_marked) = match (control.first_chunk(), mark.trim().strip_prefix("system ")) {
            (Some(id), _) => (u64::from_le_bytes(*id).to_string(), false),
            (None, Some(system)) => (system.to_owned(), true),
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
        if let Some(why) = in_use(data)? {
            return refused(why);
        }
        if backup.bases.len() > 1 {
            return refused(
                "is not empty, and the backup is an incremental one, which pg_combinebackup puts together in an empty folder"
                    .into(),
            );
        }
        if backup.bases.iter().any(|base| base.tars().any(|(_, space)| space.is_some())) {
            return refused("is not empty, and the backup has tablespaces, which go into a new folder beside an empty one".into());
        }
        Ok(if is_marked { Self::Unfinished } else { Self::Cluster })
    }
}

/// Whose a data directory is while a server runs on it.
pub(super) fn in_use(data: &DataDirectory) -> Result<Option<String>> {
    if !data.has(PID) {
        return Ok(None);
    }
    let pid = data.read(PID, MOST)?;
    let pid = String::from_utf8_lossy(&pid);
    let pid = engine::shown::name(pid.lines().next().unwrap_or_default().as_bytes());
    Ok(Some(format!(
        "is in use by the server with process number {pid} ({PID}): stop that; if it was killed, remove the file"
    )))
}
