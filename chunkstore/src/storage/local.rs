//! A repository in a folder. An object is written beside its place, synced, renamed there unless there is
//! one, and its folder synced: only then does `put` return. HEAD is compared and replaced under a lock.

use super::{ErrorKind, Storage, StorageError, StorageResult, Version};
use crate::id::to_hex;
use bytes::Bytes;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub mod files;
use files::{Files, SystemFiles};

/// Objects under a folder.
pub struct LocalStorage<F = SystemFiles> {
    files: F,
    root: PathBuf,
    place: String,
    /// Tells this process's temporary files from those of others.
    random: String,
    staged: AtomicU64,
    /// Whether HEAD may be one whose name is not durable: its swapper may have died on the way.
    head_unsynced: AtomicBool,
}

/// Under this lock HEAD is swapped.
const LOCK: &str = "HEAD.lock";
/// A HEAD that is being written. One writer at a time holds the lock, so one name is enough.
const NEW_HEAD: &str = "HEAD.new";
/// Stands in the names of files that are being written, and in no object's.
const STAGED: char = '#';
/// Folders that objects lie in.
const FOLDERS: [&str; 5] = ["packs", "index", "snapshots", "keys", "parity"];

impl LocalStorage {
    /// Uses `root`, which must exist.
    pub fn open(root: &Path) -> StorageResult<Self> {
        let place = root.display().to_string();
        let root = root.canonicalize().map_err(|source| io_error("open", &place, source))?;
        Self::with_files(SystemFiles, root, place)
    }

    /// Creates `root` and its parents, durably, then uses it.
    pub fn create(root: &Path) -> StorageResult<Self> {
        let place = root.display().to_string();
        let root = std::path::absolute(root).map_err(|source| io_error("create", &place, source))?;
        create_folders(&SystemFiles, &root).map_err(|source| io_error("create", &place, source))?;
        Self::open(&root).map(|storage| Self { place, ..storage })
    }
}

impl<F: Files> LocalStorage<F> {
    /// Uses the folder `root` of a file system.
    pub fn with_files(files: F, root: PathBuf, place: String) -> StorageResult<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|error| io_error("open", &place, io::Error::other(error.to_string())))?;
        let (random, staged, head_unsynced) = (to_hex(&random), AtomicU64::new(0), AtomicBool::new(true));
        Ok(Self { files, root, place, random, staged, head_unsynced })
    }

    fn failed(&self, op: &'static str, name: &str) -> impl Fn(io::Error) -> StorageError {
        let object = format!("{}/{name}", self.place);
        move |source| io_error(op, &object, source)
    }

    /// Writes an object beside its place and moves it there; with `keep`, only if there is none.
    fn write(&self, name: &str, body: &[u8], keep: bool) -> io::Result<()> {
        let path = self.root.join(name);
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let staged = self.root.join(format!("{name}{STAGED}{}-{number}", self.random));
        let folder = path.parent().unwrap_or(&self.root);
        let written =
            self.stage(&staged, folder, body).and_then(|()| self.files.rename(&staged, &path, keep));
        if let Err(error) = written {
            // What stays is found as a leftover.
            let _ = self.files.remove(&staged);
            return Err(error);
        }
        self.files.sync_folder(folder)
    }

    fn stage(&self, staged: &Path, folder: &Path, body: &[u8]) -> io::Result<()> {
        let mut file = match self.files.create(staged) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create_folders(&self.files, folder)?;
                self.files.create(staged)?
            }
            file => file?,
        };
        file.write(body)?;
        file.sync()
    }

    fn swap_under_lock(&self, name: &str, body: &[u8]) -> io::Result<()> {
        let fresh = self.root.join(NEW_HEAD);
        match self.files.remove(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = self.files.create(&fresh)?;
        file.write(body)?;
        file.sync()?;
        self.files.rename(&fresh, &self.root.join(name), false)?;
        // If this fails the swap has happened, but may not last: no success, and nothing to be read back.
        self.files.sync_folder(&self.root)
    }

    /// Every file under a folder.
    fn walk(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> io::Result<()> {
        let found = match self.files.list(&self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        for found in found {
            let name = format!("{folder}/{}", found.name);
            match found.len {
                Some(len) => each(&name, len),
                None => self.walk(&name, each)?,
            }
        }
        Ok(())
    }
}

/// Makes a folder and those above it that are missing, each durable in the one above.
fn create_folders(files: &dyn Files, folder: &Path) -> io::Result<()> {
    match files.create_folder(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_folders(files, folder.parent().ok_or(error)?)?;
            return create_folders(files, folder);
        }
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        // There already: perhaps made a moment ago, by somebody who has not synced it yet.
        _ => {}
    }
    let Some(above) = folder.parent() else { return Ok(()) };
    files.sync_folder(above).inspect_err(|_| {
        // Nobody shall take it for one that lasts. One that is in use stays.
        let _ = files.remove_folder(folder);
    })
}

fn io_error(op: &'static str, object: &str, source: io::Error) -> StorageError {
    let kind = match source.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::UnexpectedEof => ErrorKind::Short,
        io::ErrorKind::AlreadyExists => ErrorKind::Conflict,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
        _ => ErrorKind::Failed,
    };
    StorageError { kind, op, object: object.to_owned(), source: source.into() }
}

fn version(body: &[u8]) -> Version {
    Version(blake3::hash(body).to_hex().to_string())
}

impl<F: Files> Storage for LocalStorage<F> {
    fn place(&self) -> String {
        self.place.clone()
    }
    fn put(&self, name: &str, body: Bytes) -> StorageResult<()> {
        match self.write(name, &body, true) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match self.files.read(&self.root.join(name), body.len() as u64) {
                    // Whoever wrote it may have failed to make it last, which nobody can tell now.
                    Ok(there) if there == body => self.replace(name, body),
                    _ => Err(self.failed("write", name)(error)),
                }
            }
            result => result.map_err(self.failed("write", name)),
        }
    }
    fn replace(&self, name: &str, body: Bytes) -> StorageResult<()> {
        self.write(name, &body, false).map_err(self.failed("write", name))
    }
    fn get(&self, name: &str, limit: u64) -> StorageResult<Bytes> {
        let body = self.files.read(&self.root.join(name), limit);
        body.map(Bytes::from).map_err(self.failed("read", name))
    }
    fn get_range(&self, name: &str, offset: u64, len: u64) -> StorageResult<Bytes> {
        let failed = self.failed("read", name);
        let len = usize::try_from(len).map_err(|_| failed(io::ErrorKind::FileTooLarge.into()))?;
        self.files.read_at(&self.root.join(name), offset, len).map(Bytes::from).map_err(failed)
    }
    fn len(&self, name: &str) -> StorageResult<u64> {
        self.files.len(&self.root.join(name)).map_err(self.failed("read", name))
    }
    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        let mut objects = |name: &str, len: u64| {
            if !name.contains(STAGED) {
                each(name, len);
            }
        };
        self.walk(folder, &mut objects).map_err(self.failed("list", folder))
    }
    fn leftovers(&self, each: &mut dyn FnMut(&str)) -> StorageResult<()> {
        let mut staged = |name: &str, _| {
            if name.contains(STAGED) {
                each(name);
            }
        };
        for folder in FOLDERS {
            self.walk(folder, &mut staged).map_err(self.failed("list", folder))?;
        }
        Ok(())
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        // What is removed is removed because of a HEAD: that one must last before the removal can.
        if self.head_unsynced.swap(false, Ordering::AcqRel) {
            self.files.sync_folder(&self.root).map_err(self.failed("delete", name))?;
        }
        let path = self.root.join(name);
        match self.files.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.failed("delete", name)(error));
            }
            _ => {}
        }
        // A session's folder goes with its last object; one that is not empty stays.
        if let Some(parent) = path.parent()
            && parent.parent().is_some_and(|above| above.ends_with("packs") || above.ends_with("parity"))
        {
            let _ = self.files.remove_folder(parent);
        }
        Ok(())
    }
    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        // Not while it is being replaced: what is read must last.
        let failed = self.failed("read", name);
        let _lock = self.files.lock(&self.root.join(LOCK), true).map_err(&failed)?;
        self.head_unsynced.store(true, Ordering::Release);
        match self.files.read(&self.root.join(name), u64::MAX) {
            Ok(body) => {
                let version = version(&body);
                Ok(Some((body.into(), version)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }
    fn swap(&self, name: &str, expected: Option<&Version>, body: Bytes) -> StorageResult<()> {
        let failed = self.failed("swap", name);
        let _lock = self.files.lock(&self.root.join(LOCK), false).map_err(&failed)?;
        let found = match self.files.read(&self.root.join(name), u64::MAX) {
            Ok(body) => Some(version(&body)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
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
