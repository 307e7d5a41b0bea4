//! Runs of one name on one repository exclude each other, whoever starts them: a timer, which has neither HOME nor a
//! cache, and a person, who has both. So the lock's place depends on the user, the repository and the name alone.

use super::IfRunning;
use crate::context::Context;
use crate::exit::{Code, Failure};
use crate::places::Place;
use crate::user;
use chunkstore::private;
use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A lock that is held; the file goes with it.
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before it is let go: whoever waits for it looks whether it is still the one that lies there.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Keeps runs of the same names apart, for as long as the locks are held.
pub(super) fn take(
    names: &[String],
    place: &Place,
    if_running: IfRunning,
    context: &Context,
) -> Result<Vec<Lock>, Failure> {
    let Some(folder) = folder() else {
        let why = "found no folder for the locks of runs: another run of this name is not noticed";
        context.console.warn(why);
        return Ok(vec![]);
    };
    let mut names = names.to_vec();
    if names.is_empty() {
        names.push("all".into());
    }
    // In one order, so that two runs cannot wait for each other.
    names.sort();
    names.dedup();
    let repository = chunkstore::id::to_hex(&blake3::hash(place.identity().as_bytes()).as_bytes()[..8]);
    names
        .iter()
        .map(|name| one(folder.join(format!("{repository}-{name}.lock")), name, if_running, context))
        .collect()
}

fn one(path: PathBuf, name: &str, if_running: IfRunning, context: &Context) -> Result<Lock, Failure> {
    loop {
        let file = private::open(&path).map_err(|error| {
            Failure::new(format!("cannot open the lock of run '{name}', {}: {error}", path.display()))
        })?;
        match (file.try_lock(), if_running) {
            (Ok(()), _) => {}
            (Err(TryLockError::WouldBlock), IfRunning::Leave) => {
                return Err(Failure {
                    code: Code::Busy,
                    message: format!("run '{name}' is at work; --if-running wait waits for it"),
                });
            }
            (Err(TryLockError::WouldBlock), IfRunning::Wait) => {
                context.console.say(format!("waiting for run '{name}'"));
                file.lock()?;
            }
            (Err(TryLockError::Error(error)), _) => return Err(error.into()),
        }
        // Whoever held it has removed the file: then another one may lie there by now.
        let there = std::fs::symlink_metadata(&path).ok().map(|there| (there.dev(), there.ino()));
        let ours = file.metadata()?;
        if there == Some((ours.dev(), ours.ino())) {
            return Ok(Lock { path, _file: file });
        }
    }
}

/// `/run/esker` for root; for others `~/.cache/esker/runs` by the user database, and where that cannot be, a folder of
/// the session or of their own in `/tmp`. What the environment says of home and cache is not asked.
fn folder() -> Option<PathBuf> {
    let uid = rustix::process::geteuid();
    let at_home = user::home().map(|home| home.join(".cache/esker/runs"));
    let session = Some(PathBuf::from(format!("/run/user/{}/esker", uid.as_raw())));
    let own = Some(PathBuf::from(format!("/tmp/esker-{}", uid.as_raw())));
    let places = match uid.is_root() {
        true => vec![Some(PathBuf::from("/run/esker")), at_home, own],
        false => vec![at_home, session, own],
    };
    places.into_iter().flatten().find(|folder| is_usable(folder))
}

/// Makes a folder, unless somebody else has put something in its place.
fn is_usable(folder: &Path) -> bool {
    private::folder(folder).is_ok()
        && folder.symlink_metadata().is_ok_and(|metadata| {
            metadata.is_dir()
                && metadata.uid() == rustix::process::geteuid().as_raw()
                && metadata.mode() & 0o022 == 0
        })
        && tempfile::tempfile_in(folder).is_ok()
}
