//! The last physical backup of a server, which an incremental one builds on.

use crate::physical::{Earlier, KIND};
use chunkstore::store::describe;
use engine::entry::Kind;
use engine::manifest::for_all_entries;
use engine::restore::dump;
use engine::snapshot::Listed;
use engine::{Error, Monitor, Repository, Result, lost_of};

/// What an incremental backup of a server can build on.
pub enum Base {
    /// There is no earlier physical backup.
    None,
    /// The last one has lost something, or cannot be read: a backup that built on it could not be restored.
    Lost(chunkstore::ObjectId, String),
    /// The last one.
    There(chunkstore::ObjectId, Earlier),
}

/// Looks for the last physical backup in `repo` that has `path`, and whether all of it is there.
pub fn earlier(repo: &Repository, path: &str, monitor: &dyn Monitor) -> Result<Base> {
    repo.sync_index(monitor)?;
    let found = repo.snapshots(monitor)?.into_iter().rev().find(|listed| {
        listed.snapshot.is_of_full_client()
            && listed.snapshot.paths.iter().any(|own| own == path)
            && listed.snapshot.sources.iter().any(|source| source.kind == KIND)
    });
    let Some(found) = found else { return Ok(Base::None) };
    // What was lost of it cannot be stored again: the server has moved on.
    let looked = lost_of(repo.store(), &found).and_then(|lost| match lost {
        None => read_earlier(repo, &found, monitor),
        Some(why) => Err(Error::Refused(why)),
    });
    match looked {
        Ok(Some(earlier)) => Ok(Base::There(found.id, earlier)),
        Ok(None) => Ok(Base::None),
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(Error::Store(error)) if !error.is_damage() => Err(error.into()),
        Err(error) => Ok(Base::Lost(found.id, describe(&error))),
    }
}

/// What the next backup is to know of an earlier one. `None` if it has no list of its files.
fn read_earlier(repo: &Repository, found: &Listed, monitor: &dyn Monitor) -> Result<Option<Earlier>> {
    let mut earlier = Earlier::default();
    let record = found.snapshot.sources.iter().find(|source| source.kind == KIND);
    earlier.system = record.and_then(|record| record.details.get("system")).cloned().unwrap_or_default();
    for_all_entries(repo.store(), &found.snapshot.manifest, &mut |listed| {
        if listed.entry.kind == Kind::File {
            let path = String::from_utf8_lossy(&listed.entry.path).into_owned();
            earlier.count += usize::from(path.ends_with("-backup_manifest"));
            earlier.files.push((path, listed.entry.mtime));
        }
        Ok(())
    })?;
    let Some((last, _)) = earlier.files.last().filter(|(path, _)| path.ends_with("-backup_manifest")) else {
        return Ok(None);
    };
    let mut manifest = vec![];
    dump(repo, &found.snapshot, last.as_bytes(), &mut manifest, monitor)?;
    earlier.manifest = manifest;
    Ok(Some(earlier))
}
