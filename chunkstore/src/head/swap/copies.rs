//! The copies that a disk has of HEAD, where a bad sector could take it.

use super::{HeadStore, LoadedHead};
use crate::Result;
use crate::format::{MAX_SEGMENT_LEN, names};
use crate::head::{Head, rolled_back};
use crate::storage::ErrorKind;
use bytes::Bytes;

impl HeadStore {
    /// Keeps copies of HEAD beside it, where a bad sector could take it. They are read to make HEAD anew, and once when a
    /// repository is opened; they decide nothing else, so the swap stays one.
    pub(super) fn copy(&self, sealed: &Bytes) {
        if !self.storage.keeps_copies() {
            return;
        }
        for name in names::copies(names::HEAD) {
            if let Err(error) = self.storage.replace(&name, sealed.clone()) {
                tracing::debug!(%error, "a copy of HEAD was not written");
            }
        }
    }

    /// The copies of HEAD that a local disk has, and the HEAD itself, however old: the latest of those that are sound.
    pub(crate) fn latest_copy(&self) -> Option<Head> {
        let there = self.storage.read_head().ok().flatten().map(|(sealed, _)| sealed);
        let there = there.and_then(|sealed| self.unseal(&sealed).ok());
        there.into_iter().chain(self.copies()).max_by_key(Head::age)
    }

    /// HEAD and its copies as they are stored, damaged or not.
    pub(crate) fn stored(&self) -> Vec<(String, Bytes)> {
        let there = self.storage.read_head().ok().flatten().map(|(sealed, _)| sealed);
        let there = there.into_iter().map(|sealed| (names::HEAD.to_owned(), sealed));
        let copies = names::copies(names::HEAD).filter(|_| self.storage.keeps_copies());
        let read = |name: String| Some((name.clone(), self.storage.get(&name, MAX_SEGMENT_LEN).ok()?));
        there.chain(copies.filter_map(read)).collect()
    }

    /// Refuses a HEAD that is older than a copy that a disk has of it: copies are written after HEAD, so a later HEAD was there
    /// and is lost. Asked once, when a repository is opened: who has seen a HEAD remembers it.
    pub(super) fn not_older_than_copies(&self, loaded: LoadedHead) -> Result<LoadedHead> {
        let mut latest = None;
        for name in names::copies(names::HEAD).filter(|_| self.storage.keeps_copies()) {
            match self.storage.get(&name, MAX_SEGMENT_LEN) {
                Ok(sealed) => latest = latest.max(self.unseal(&sealed).ok().map(|head| head.age())),
                Err(error) if error.kind == ErrorKind::NotFound => self.make_missing(&name),
                Err(_) => {}
            }
        }
        let Some(copy) = latest.filter(|age| loaded.head.age() < *age) else { return Ok(loaded) };
        // Another process may have swapped since.
        let again = self.load_any()?;
        match again.head.age() < copy {
            true => Err(rolled_back(&again.head, copy)),
            false => Ok(again),
        }
    }

    /// The copies that a disk has of HEAD, as far as they are sound.
    fn copies(&self) -> impl Iterator<Item = Head> {
        let names = names::copies(names::HEAD).filter(|_| self.storage.keeps_copies());
        let sealed = names.filter_map(|name| self.storage.get(&name, MAX_SEGMENT_LEN).ok());
        sealed.filter_map(|sealed| self.unseal(&sealed).ok())
    }

    /// Makes a copy that is missing, as those of other objects are when they are read: a repository that was brought here from a
    /// bucket has none.
    fn make_missing(&self, name: &str) {
        if let Err(error) = self.mend_copy(name) {
            tracing::debug!(%error, "a copy of HEAD that is missing could not be made");
        }
    }

    /// The copies that no HEAD could be taken from, with what is wrong. One that is older than HEAD is not among them: its
    /// next swap writes it again, and another process may be about to.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub fn damaged_copies(&self) -> Result<Vec<(String, &'static str)>> {
        let mut damaged = vec![];
        for name in names::copies(names::HEAD).filter(|_| self.storage.keeps_copies()) {
            let what = match self.storage.get(&name, MAX_SEGMENT_LEN) {
                Ok(sealed) if self.unseal(&sealed).is_ok() => continue,
                Ok(_) => "is damaged",
                Err(error) if error.kind == ErrorKind::NotFound => "is missing",
                Err(_) => "cannot be read",
            };
            damaged.push((name, what));
        }
        Ok(damaged)
    }

    /// Writes a copy of HEAD, as it is now, in the place of one that is damaged.
    ///
    /// # Errors
    ///
    /// HEAD cannot be read; the copy cannot be written.
    pub fn mend_copy(&self, name: &str) -> Result<()> {
        if let Some((sealed, _)) = self.storage.read_head()? {
            self.unseal(&sealed)?;
            self.storage.replace(name, sealed)?;
        }
        Ok(())
    }
}
