//! Objects that everything hangs on: a disk keeps several copies of each, since one bad sector would make the repository
//! unreadable. Configuration, key slots and grants.

use crate::error::describe;
use crate::format::names;
use crate::storage::{ErrorKind, Storage};
use crate::{Error, Result};
use bytes::Bytes;

/// Reads an object of which a disk has several copies. If only a copy is sound, it replaces the object; copies that are missing
/// are made again, as far as the place can be written to.
pub(crate) fn read_kept<T>(
    storage: &dyn Storage,
    name: &str,
    limit: u64,
    read: impl Fn(&Bytes) -> Result<T>,
) -> Result<(Bytes, T)> {
    let attempt = |name: &str| -> Result<(Bytes, T)> {
        let bytes = storage.get(name, limit)?;
        let value = read(&bytes)?;
        Ok((bytes, value))
    };
    let error = match attempt(name) {
        Err(error) if storage.keeps_copies() && may_be_damage(&error) => error,
        done => {
            if let (Ok((bytes, _)), true) = (&done, storage.keeps_copies()) {
                make_copies(storage, name, bytes);
            }
            return done;
        }
    };
    for copy in names::copies(name) {
        if let Ok((bytes, value)) = attempt(&copy) {
            tracing::warn!("{}: it is taken from its copy {copy}", describe(&error));
            if let Err(error) = storage.replace(name, bytes.clone()) {
                tracing::debug!(%error, "it could not be put back");
            }
            return Ok((bytes, value));
        }
    }
    Err(error)
}

/// That an object has no grant for a slot may be true, or a flipped bit in the slot's id.
fn may_be_damage(error: &Error) -> bool {
    error.is_damage() || matches!(error, Error::NotGranted { .. })
}

/// Makes the missing copies of an object that is sound.
fn make_copies(storage: &dyn Storage, name: &str, bytes: &Bytes) {
    for copy in names::copies(name) {
        let is_missing = matches!(storage.len(&copy), Err(error) if error.kind == ErrorKind::NotFound);
        if is_missing && let Err(error) = storage.replace(&copy, bytes.clone()) {
            tracing::debug!(%error, "a copy that is missing could not be made");
        }
    }
}

/// Writes an object that a disk keeps several times.
pub(crate) fn put_kept(storage: &dyn Storage, name: &str, bytes: &Bytes) -> Result<()> {
    storage.put(name, bytes.clone())?;
    for copy in names::copies(name).filter(|_| storage.keeps_copies()) {
        storage.replace(&copy, bytes.clone())?;
    }
    Ok(())
}

/// Writes an object that a disk keeps several times in the place of one that is damaged or missing.
pub(crate) fn replace_kept(storage: &dyn Storage, name: &str, bytes: &Bytes) -> Result<()> {
    storage.replace(name, bytes.clone())?;
    for copy in names::copies(name).filter(|_| storage.keeps_copies()) {
        storage.replace(&copy, bytes.clone())?;
    }
    Ok(())
}

/// Removes an object and its copies.
pub(crate) fn delete_kept(storage: &dyn Storage, name: &str) -> Result<()> {
    for copy in names::copies(name).filter(|_| storage.keeps_copies()) {
        storage.delete(&copy)?;
    }
    Ok(storage.delete(name)?)
}
