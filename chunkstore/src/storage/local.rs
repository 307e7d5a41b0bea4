//! A repository in a folder. Objects go through `object_store`, which stages, syncs, links and syncs
//! the folder; HEAD is our own, because that crate cannot update conditionally on disk: lock,
//! compare, write beside, sync, rename, sync the folder.

use super::object::Objects;
use super::{ErrorKind, Storage, StorageError, StorageResult, Version};
use bytes::Bytes;
use object_store::local::LocalFileSystem;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Objects under a folder.
pub struct LocalStorage {
    objects: Objects,
    root: PathBuf,
}

impl LocalStorage {
    /// Uses `root`, which must exist.
    pub fn open(root: &Path) -> StorageResult<Self> {
        let place = root.display().to_string();
        let root = root.canonicalize().map_err(|source| io_error("open", &place, source))?;
        let store = LocalFileSystem::new_with_prefix(&root)
            .map_err(|source| io_error("open", &place, io::Error::other(source)))?
            .with_fsync(true);
        Ok(Self { objects: Objects::new(Arc::new(store), place)?, root })
    }

    /// Creates `root` and its parents, durably, then uses it.
    pub fn create(root: &Path) -> StorageResult<Self> {
        let place = root.display().to_string();
        fs::create_dir_all(root).map_err(|source| io_error("create", &place, source))?;
        let storage = Self::open(root)?;
        let parent = storage.root.parent().unwrap_or(&storage.root);
        sync_folder(parent).map_err(|source| io_error("create", &place, source))?;
        Ok(storage)
    }

    fn failed(&self, op: &'static str, name: &str) -> impl Fn(io::Error) -> StorageError {
        let object = format!("{}/{name}", self.objects.place);
        move |source| io_error(op, &object, source)
    }

    fn swap_under_lock(&self, name: &str, body: &[u8]) -> io::Result<()> {
        // One writer at a time holds the lock, so one temporary name is enough; what a crash left
        // under it is overwritten.
        let temporary = self.root.join("HEAD.new");
        let mut file = File::create(&temporary)?;
        file.write_all(body)?;
        // A failed sync is never retried on the same file: its pages count as clean afterwards.
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, self.root.join(name))?;
        sync_folder(&self.root)
    }
}

/// object_store stages a put as `<name>#<number>` beside its place.
fn find_leftovers(root: &Path, folder: &Path, each: &mut dyn FnMut(&str)) -> io::Result<()> {
    let entries = match fs::read_dir(root.join(folder)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    };
    for entry in entries {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            find_leftovers(root, &path, each)?;
        } else if let Some(name) = path.to_str().filter(|name| name.contains('#')) {
            each(name);
        }
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn io_error(op: &'static str, object: &str, source: io::Error) -> StorageError {
    let kind = match source.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
        _ => ErrorKind::Failed,
    };
    StorageError { kind, op, object: object.to_owned(), source: source.into() }
}

fn version(body: &[u8]) -> Version {
    Version(blake3::hash(body).to_hex().to_string())
}

impl Storage for LocalStorage {
    fn place(&self) -> String {
        self.objects.place.clone()
    }
    fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.objects.put(name, body)
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        self.objects.get(name, limit)
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        self.objects.get_range(name, offset, len)
    }
    fn len(&self, name: &str) -> StorageResult<u64> {
        self.objects.len(name)
    }
    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        self.objects.list(folder, each)
    }
    fn leftovers(&self, each: &mut dyn FnMut(&str)) -> StorageResult<()> {
        for folder in ["packs", "index", "snapshots", "keys"] {
            let found = find_leftovers(&self.root, Path::new(folder), each);
            found.map_err(|source| io_error("list", &format!("{}/{folder}", self.objects.place), source))?;
        }
        Ok(())
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        if name.contains('#') {
            // A staged file of object_store, which does not address them itself.
            match fs::remove_file(self.root.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("delete", &format!("{}/{name}", self.objects.place), error));
                }
                _ => {}
            }
        } else {
            self.objects.delete(name)?;
        }
        // A session's folder goes with its last pack; one that is not empty stays.
        if let Some(parent) = self.root.join(name).parent()
            && parent.parent().is_some_and(|above| above.ends_with("packs"))
        {
            let _ = fs::remove_dir(parent);
        }
        Ok(())
    }
    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        match fs::read(self.root.join(name)) {
            Ok(body) => Ok(Some((body.clone().into(), version(&body)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", name)(error)),
        }
    }
    fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        let failed = self.failed("swap", name);
        let lock = File::create(self.root.join("HEAD.lock")).map_err(&failed)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .map_err(|errno| failed(errno.into()))?;
        let found = self.read_versioned(name)?.map(|(_, version)| version);
        if found.as_ref() != expected {
            let source = io::Error::other("it changed meanwhile");
            return Err(StorageError { kind: ErrorKind::Conflict, ..failed(source) });
        }
        self.swap_under_lock(name, &body).map_err(failed)
    }
    fn connections(&self) -> usize {
        2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        let folder = tempfile::tempdir().unwrap();
        super::super::conformance::check(&LocalStorage::create(&folder.path().join("a/b")).unwrap());
        super::super::conformance::check(&super::super::memory::MemoryStorage::default());
    }
}
