//! Objects that everything hangs on: a disk keeps several copies of each, since one bad sector would make the repository
//! unreadable. Configuration, key slots and grants. None of the copies counts more than another: what HEAD lists, or what
//! the keys authenticate, is sound, wherever it lies.

use crate::config::Config;
use crate::error::describe;
use crate::format::{MAX_SMALL_LEN, names};
use crate::head::Head;
use crate::id::ObjectId;
use crate::keys::KeyRing;
use crate::storage::{ErrorKind, Storage};
use crate::{Error, Result};
use bytes::Bytes;

/// An object that a disk keeps several times, and what tells it from any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The configuration of a place.
    Config(Config),
    /// A key slot, and its hash as HEAD lists it.
    Slot(ObjectId, ObjectId),
    /// The grants of an epoch, and their hash as HEAD names them.
    Grants(u32, ObjectId),
}

/// The state of an object and its copies at one place.
#[derive(Debug, Default)]
pub struct Examined {
    /// Its bytes, if any of them is sound.
    pub sound: Option<Bytes>,
    /// Those that are not sound, with what is wrong: the object itself first.
    pub damaged: Vec<(String, &'static str)>,
}

impl Kept {
    /// Those of HEAD: key slots, and the grants of the last epoch.
    #[must_use]
    pub fn of(head: &Head) -> Vec<Self> {
        let slots = head.slots.iter().map(|(slot, hash)| Self::Slot(*slot, *hash));
        slots.chain(head.grants.map(|hash| Self::Grants(head.epoch(), hash))).collect()
    }

    /// The object's name.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Config(_) => names::CONFIG.into(),
            Self::Slot(slot, _) => names::key(slot),
            Self::Grants(epoch, _) => names::grants(*epoch),
        }
    }

    /// Whether these bytes are the object.
    #[must_use]
    pub fn is(&self, bytes: &[u8], keys: &KeyRing) -> bool {
        match self {
            Self::Config(config) => {
                Config::verify(bytes, keys).is_ok() && Config::read(bytes).is_ok_and(|read| read == *config)
            }
            Self::Slot(_, hash) => keys.slot_hash(bytes) == *hash,
            Self::Grants(_, hash) => *blake3::hash(bytes).as_bytes() == hash.0,
        }
    }

    /// Reads the object and its copies, whichever of them is sound, and changes nothing.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub fn examine(&self, storage: &dyn Storage, keys: &KeyRing) -> Result<Examined> {
        let name = self.name();
        let copies = names::copies(&name).filter(|_| storage.keeps_copies());
        let mut examined = Examined::default();
        for name in std::iter::once(name.clone()).chain(copies) {
            let what = match storage.get(&name, MAX_SMALL_LEN) {
                Ok(bytes) if self.is(&bytes, keys) => {
                    examined.sound.get_or_insert(bytes);
                    continue;
                }
                Ok(_) => "is damaged, or another one",
                Err(error) if error.kind == ErrorKind::NotFound => "is missing",
                Err(error) if error.kind == ErrorKind::Short || storage.keeps_copies() => "cannot be read",
                Err(error) => return Err(error.into()),
            };
            examined.damaged.push((name, what));
        }
        Ok(examined)
    }

    /// Its bytes, from wherever they are sound at a place. They take the place of what is damaged there, as far as it can be
    /// written to.
    ///
    /// # Errors
    ///
    /// None is sound; the store fails.
    pub fn read(&self, storage: &dyn Storage, keys: &KeyRing) -> Result<Bytes> {
        let examined = self.examine(storage, keys)?;
        let Some(bytes) = examined.sound else {
            let why = match examined.damaged.first() {
                Some((_, "is missing")) => "it is missing",
                _ if matches!(self, Self::Slot(..)) => "is not the slot that HEAD lists",
                _ => "is not the object that HEAD names",
            };
            return Err(Error::corrupt(self.name(), why));
        };
        for (name, what) in examined.damaged {
            tracing::warn!("{name} {what}: a sound copy takes its place");
            if let Err(error) = storage.replace(&name, bytes.clone()) {
                tracing::debug!(%error, "it could not be put back");
            }
        }
        Ok(bytes)
    }
}

/// What an object and its copies have.
pub(crate) struct Alike {
    /// The object's own bytes, whatever they are.
    pub(crate) own: Option<Bytes>,
    /// Those that most of them have, of those that may be the object.
    pub(crate) most: Option<Bytes>,
}

/// The bytes that most of an object and its copies have, of those that `may_be` the object: without a HEAD, nothing tells more.
/// Of as many the object's own.
pub(crate) fn most_alike(
    storage: &dyn Storage,
    name: &str,
    may_be: impl Fn(&Bytes) -> bool,
) -> Result<Alike> {
    let (mut own, mut found): (Option<Bytes>, Vec<(Bytes, usize)>) = (None, vec![]);
    let copies = names::copies(name).filter(|_| storage.keeps_copies());
    for place in std::iter::once(name.to_owned()).chain(copies) {
        let read = storage.get(&place, MAX_SMALL_LEN);
        if place == name {
            own = read.as_ref().ok().cloned();
        }
        let bytes = match read {
            Ok(bytes) if may_be(&bytes) => bytes,
            Ok(_) => continue,
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Short) => continue,
            Err(error) if storage.keeps_copies() => {
                tracing::debug!(%error, "one of several copies cannot be read");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        match found.iter_mut().find(|(known, _)| *known == bytes) {
            Some((_, count)) => *count += 1,
            None => found.push((bytes, 1)),
        }
    }
    found.reverse();
    let most = found.into_iter().max_by_key(|(_, count)| *count).map(|(bytes, _)| bytes);
    Ok(Alike { own, most })
}

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
