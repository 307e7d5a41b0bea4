//! A repository behind HTTP, through `object_store`. HEAD is swapped with `If-Match` on its ETag and created with
//! `If-None-Match: *`. An ETag changes with every write, and every HEAD carries a fresh nonce, so no two are equal.

use super::object::Objects;
use super::shelf::{Placing, Shelf};
use super::{ErrorKind, Storage, StorageError, StorageResult, TooMany, Version, is_of_hosts, most_listed};
use crate::format::MAX_SMALL_LEN;
use bytes::Bytes;
use object_store::{ObjectStore as _, PutMode, PutOptions, PutPayload, UpdateVersion, path::Path};

/// Objects under a prefix of a bucket or container.
pub struct CloudStorage {
    pub(super) objects: Objects,
    pub(super) connections: usize,
    pub(super) shelf: Box<dyn Shelf>,
}

impl CloudStorage {
    /// Lists a folder by the keys that the store has: what others chose need not be a path of `object_store`, whose listings
    /// end at such a key, and show others as what they are not.
    fn list_keys(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        let (mut next, mut count, most) = (None::<String>, 0, most_listed(folder));
        loop {
            let page = self.shelf.page(folder, next.as_deref())?;
            for (name, len) in page.objects {
                count += 1;
                if count > most {
                    let failed = self.objects.failed("list", folder, &TooMany(most).to_string());
                    return Err(StorageError { kind: ErrorKind::TooMany, ..failed });
                }
                each(&name, len);
            }
            // An empty page counts, too.
            count += 1;
            match page.next.filter(|mark| !mark.is_empty()) {
                None => return Ok(()),
                same if same == next => {
                    let why = "the store's next page does not go on behind the last one";
                    return Err(self.objects.failed("list", folder, why));
                }
                mark => next = mark,
            }
        }
    }
}

impl Storage for CloudStorage {
    fn place(&self) -> String {
        self.objects.place.clone()
    }
    fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.objects.put(name, body, &Placing::default())
    }
    fn replace(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.objects.replace(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        self.objects.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        self.objects.get_range(name, offset, len)
    }
    fn stream_range(
        &self,
        name: &str,
        offset: u64,
        len: u64,
        each: &mut dyn FnMut(&[u8]),
    ) -> StorageResult<()> {
        self.objects.stream_range(name, offset, len, each)
    }
    fn len(&self, name: &str) -> StorageResult<u64> {
        self.objects.len(name)
    }
    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        if is_of_hosts(folder) {
            return self.list_keys(folder, each);
        }
        self.objects.list(folder, each)
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        self.shelf.remove(name).unwrap_or_else(|| self.objects.delete(name))
    }
    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        match self.objects.get_versioned(name, MAX_SMALL_LEN) {
            Ok((body, tag)) => Ok(Some((body, Version(tag.unwrap_or_default())))),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
    fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        let mode = match expected {
            None => PutMode::Create,
            Some(version) => PutMode::Update(UpdateVersion { e_tag: Some(version.0.clone()), version: None }),
        };
        let options = PutOptions { mode, ..PutOptions::default() };
        let path = Path::from(name);
        let swap = self.objects.store.put_opts(&path, PutPayload::from_bytes(body), options);
        match self.objects.drive("swap", name, swap)? {
            Ok(_) => Ok(()),
            Err(source) => {
                let error = self.objects.error("swap", name, source);
                // The request may have got through before the answer was lost, and a 412 may be for
                // our own first attempt: the caller reads back and looks for its nonce.
                let kind = match error.kind {
                    ErrorKind::Failed | ErrorKind::NotFound => ErrorKind::Ambiguous,
                    kind => kind,
                };
                Err(StorageError { kind, ..error })
            }
        }
    }
    fn connections(&self) -> usize {
        self.connections
    }
    fn is_near(&self) -> bool {
        false
    }
    fn written_ms(&self, name: &str) -> StorageResult<Option<u64>> {
        self.objects.written_ms(name)
    }
    fn shelf(&self) -> Option<&dyn Shelf> {
        Some(&*self.shelf)
    }
    crate::plain_store!(leftovers keeps_copies copies);
}
