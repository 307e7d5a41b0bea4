//! A repository in a folder. An object is written beside its place, synced, renamed there unless there is
//! one, and its folder synced: only then does `put` return. HEAD is compared and replaced under a lock.

use super::{ErrorKind, Storage, StorageError, StorageResult, TooMany, Version, is_of_hosts, most_listed};
use crate::format::MAX_SMALL_LEN;
use crate::id::to_hex;
use bytes::Bytes;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub mod files;
#[cfg(test)]
mod odd;
mod place;
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
/// So often the folder of a new file is made that somebody removed meanwhile, being empty.
const MOST_MADE: u32 = 8;
/// Folders that objects lie in.
const FOLDERS: [&str; 7] = ["packs", "index", "snapshots", "keys", "grants", "parity", "copies"];

impl LocalStorage {
    /// Uses `root`, which must exist.
    pub fn open(root: &Path) -> StorageResult<Self> {
        let place = root.display().to_string();
        let failed = |source| io_error("open", &place, source);
        let root = root.canonicalize().map_err(failed)?;
        let shared = is_shared(root.metadata().map_err(failed)?.mode());
        let files = SystemFiles { shared, root: Some(root.clone()) };
        Self::with_files(files, root, place)
    }

    /// Creates `root` and its parents, durably, then uses it. Others get access only if `shared` gives it to the group.
    /// An existing folder keeps its group, and its mode unless it is ours and empty.
    pub fn create(root: &Path, shared: bool) -> StorageResult<Self> {
        let place = root.display().to_string();
        let failed = |source| io_error("create", &place, source);
        let root = std::path::absolute(root).map_err(failed)?;
        let files = SystemFiles { shared, root: None };
        create_folders(&files, &root).map_err(failed)?;
        settle(&root, &files).map_err(failed)?;
        Self::open(&root).map(|storage| Self { place, ..storage })
    }
}

/// Whether a folder of this mode makes a repository that its group shares.
fn is_shared(mode: u32) -> bool {
    mode & 0o2070 == 0o2070
}

/// Sets the mode of a repository's folder before it has content.
fn settle(root: &Path, files: &SystemFiles) -> io::Result<()> {
    let metadata = root.metadata()?;
    let (mode, wanted) = (metadata.mode() & 0o7777, files.folder_mode());
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    // Where a file system is mounted, the mode is that of whoever mounted it.
    let is_mount = root
        .parent()
        .and_then(|above| above.metadata().ok())
        .is_some_and(|above| above.dev() != metadata.dev());
    if mode == wanted || !is_ours || (is_mount && !files.shared) || std::fs::read_dir(root)?.next().is_some()
    {
        return Ok(());
    }
    let set = std::fs::set_permissions(root, std::fs::Permissions::from_mode(wanted));
    if files.shared {
        set?;
        if !is_shared(root.metadata()?.mode()) {
            let why = "this user is not in the folder's group: chgrp it to one that you are in";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
    }
    // Some file systems have no modes.
    Ok(())
}

/// Files of the repository at `root` that others than its owner can access or, if its group shares it, others than that
/// group; as many paths as were found, sorted. If the folder itself is closed, nothing is accessible.
pub fn exposed(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mode = root.metadata()?.mode();
    let others = if is_shared(mode) { 0o007 } else { 0o077 };
    if mode & others == 0 {
        return Ok(vec![]);
    }
    let mut found = vec![root.to_owned()];
    for folder in std::iter::once("").chain(FOLDERS) {
        let Ok(entries) = std::fs::read_dir(root.join(folder)) else { continue };
        for entry in entries.flatten() {
            // Keys are looked at one by one; of packs the folders tell.
            if entry.metadata().is_ok_and(|entry| entry.mode() & others != 0)
                && (folder.is_empty() || folder == "keys")
            {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
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
        let mut made = 0;
        let mut file = loop {
            match self.files.create(staged) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && made < MOST_MADE => {
                    create_folders(&self.files, folder)?;
                    made += 1;
                }
                file => break file?,
            }
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

    /// Every file under a folder, of which there may be `most`. Of folders that hosts make, those that are empty, too, and
    /// those that cannot be listed; their names end with a slash. Returns whether the folder is an empty one.
    fn walk(&self, folder: &str, most: &mut u64, each: &mut dyn FnMut(&str, u64)) -> io::Result<bool> {
        let found = match self.files.list(&self.root.join(folder), *most) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            found => found?,
        };
        let is_empty = found.is_empty();
        for found in found {
            *most = most.checked_sub(1).ok_or_else(|| io::Error::other(TooMany(most_listed(folder))))?;
            let name = format!("{folder}/{}", found.name);
            if let Some(len) = found.len {
                each(&name, len);
                continue;
            }
            match self.walk(&name, most, each) {
                Ok(is_empty) => {
                    if is_empty && is_in_inbox(folder) {
                        each(&format!("{name}/"), 0);
                    }
                }
                // Too deep for a path, or its owner lets nobody in: what lies beside it is listed all the same.
                Err(error) if is_of_hosts(folder) && is_shut(&error) => each(&format!("{name}/"), 0),
                Err(error) => return Err(error),
            }
        }
        Ok(is_empty)
    }

    /// Removes the folders above what was removed in an inbox, as far as they are empty. The inbox itself stays: it may be the
    /// host's, who can make no other one.
    fn delete_empty(&self, name: &str) {
        let mut above = name;
        while let Some((folder, _)) = above.rsplit_once('/')
            && folder.split('/').count() > 2
            && is_in_inbox(folder)
            && self.files.remove_folder(&self.root.join(folder)).is_ok()
        {
            above = folder;
        }
    }

    /// Removes a folder that is empty. That it is missing is no error.
    fn delete_folder(&self, name: &str) -> io::Result<()> {
        match self.files.remove_folder(&self.root.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether a folder is the inbox of a host, or below one.
fn is_in_inbox(folder: &str) -> bool {
    is_of_hosts(folder) && folder.contains('/')
}

/// Whether a folder cannot be listed because of how somebody made it.
fn is_shut(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidFilename)
}

/// Makes a folder and those above it that are missing, each durable in the one above.
fn create_folders(files: &dyn Files, folder: &Path) -> io::Result<()> {
    let mut made = files.create_folder(folder);
    if let Err(error) = &made
        && error.kind() == io::ErrorKind::NotFound
        && let Some(above) = folder.parent()
    {
        create_folders(files, above)?;
        // Once: what is in the way above it, such as a link that is not followed, stays there.
        made = files.create_folder(folder);
    }
    match made {
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
        io::ErrorKind::InvalidFilename => ErrorKind::BadName,
        _ if source.get_ref().is_some_and(|source| source.is::<TooMany>()) => ErrorKind::TooMany,
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
            // Whose name it is there, nobody knows: a host may have been interrupted, or have chosen it.
            if !name.contains(STAGED) || is_of_hosts(folder) {
                each(name, len);
            }
        };
        let walked = self.walk(folder, &mut most_listed(folder), &mut objects);
        if walked.map_err(self.failed("list", folder))? && is_in_inbox(folder) {
            each(&format!("{folder}/"), 0);
        }
        Ok(())
    }
    fn leftovers(&self, each: &mut dyn FnMut(&str)) -> StorageResult<()> {
        let mut staged = |name: &str, _| {
            if name.contains(STAGED) {
                each(name);
            }
        };
        for folder in FOLDERS {
            self.walk(folder, &mut most_listed(folder), &mut staged).map_err(self.failed("list", folder))?;
        }
        Ok(())
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        // What is removed is removed because of a HEAD: that one must last before the removal can.
        if self.head_unsynced.swap(false, Ordering::AcqRel) {
            self.files.sync_folder(&self.root).map_err(self.failed("delete", name))?;
        }
        if name.ends_with('/') && is_in_inbox(name) {
            let folder = name.trim_end_matches('/');
            self.delete_folder(folder).map_err(|error| match error.kind() {
                // As a listing shows a folder that cannot be listed.
                io::ErrorKind::DirectoryNotEmpty => {
                    StorageError { kind: ErrorKind::BadName, ..self.failed("delete", name)(error) }
                }
                _ => self.failed("delete", name)(error),
            })?;
            self.delete_empty(folder);
            return Ok(());
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
        self.delete_empty(name);
        Ok(())
    }
    fn read_versioned(&self, name: &str) -> StorageResult<Option<(Bytes, Version)>> {
        // Not while it is being replaced: what is read must last.
        let failed = self.failed("read", name);
        let lock = self.files.lock(&self.root.join(LOCK), true).map_err(&failed)?;
        self.head_unsynced.store(true, Ordering::Release);
        let read = self.files.read(&self.root.join(name), MAX_SMALL_LEN);
        if lock.is_none() {
            // Its name may be a moment old. What cannot be synced is on a medium that nobody writes to.
            let _ = self.files.sync_folder(&self.root);
        }
        match read {
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
        let found = match self.files.read(&self.root.join(name), MAX_SMALL_LEN) {
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
    fn keeps_copies(&self) -> bool {
        true
    }
    crate::plain_store!(stream_range is_near written_ms copies shelf);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        let folder = tempfile::tempdir().unwrap();
        super::super::conformance::check(&LocalStorage::create(&folder.path().join("a/b"), false).unwrap());
        super::super::conformance::check(&super::super::memory::MemoryStorage::default());
    }

    #[test]
    fn a_listing_with_more_than_a_repository_has_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let storage = LocalStorage::create(&folder.path().join("repo"), false).unwrap();
        for name in ["inbox/host/1/a", "inbox/host/2/b", "inbox/host/2/c"] {
            storage.put(name, Bytes::from_static(b"x")).unwrap();
        }
        let walk = |mut most: u64| {
            let mut seen = 0;
            let done = storage.walk("inbox/host", &mut most, &mut |_, _| seen += 1);
            (done.map(drop).map_err(|error| io_error("list", "inbox/host", error).kind), seen)
        };
        // Two folders and three objects.
        assert_eq!(walk(5), (Ok(()), 3));
        assert_eq!(walk(4).0, Err(ErrorKind::TooMany));
    }

    /// Modes of all that lies in a folder, the folder included.
    fn modes(root: &Path) -> Vec<(u32, bool)> {
        let mut found = vec![(root.metadata().unwrap().mode() & 0o7777, true)];
        for entry in std::fs::read_dir(root).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => found.extend(modes(&entry.path())),
                false => found.push((entry.metadata().unwrap().mode() & 0o7777, false)),
            }
        }
        found
    }

    fn fill(storage: &LocalStorage) {
        storage.put("packs/a/b", Bytes::from_static(b"pack")).unwrap();
        storage.put("keys/a", Bytes::from_static(b"key")).unwrap();
        storage.swap("HEAD", None, Bytes::from_static(b"head")).unwrap();
    }

    #[test]
    fn nobody_else_reads_a_repository_unless_its_group_shares_it() {
        let folder = tempfile::tempdir().unwrap();
        for (shared, there, wanted) in [
            (false, false, (0o700, 0o600)),
            (true, false, (0o2770, 0o660)),
            (false, true, (0o700, 0o600)),
            (true, true, (0o2770, 0o660)),
        ] {
            let root = folder.path().join(format!("{shared}-{there}"));
            if there {
                std::fs::create_dir(&root).unwrap();
                std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            fill(&LocalStorage::create(&root, shared).unwrap());
            // Who opens it goes on as it was made.
            LocalStorage::open(&root).unwrap().put("packs/c/d", Bytes::from_static(b"pack")).unwrap();
            let modes = modes(&root);
            assert!(modes.len() >= 9, "{modes:?}");
            for (mode, is_folder) in &modes {
                let expected = if *is_folder { wanted.0 } else { wanted.1 };
                assert_eq!(*mode, expected, "{shared} {there}: {modes:?}");
            }
            assert!(exposed(&root).unwrap().is_empty());
        }
    }

    #[test]
    fn nothing_is_stored_below_a_link_in_an_inbox() {
        let folder = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (folder.path().join("repo"), folder.path().join("elsewhere"));
        let storage = LocalStorage::create(&root, false).unwrap();
        storage.put("inbox/honest/run/x", Bytes::from_static(b"x")).unwrap();
        std::fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, root.join("inbox/link")).unwrap();
        std::fs::write(root.join("inbox/file"), "x").unwrap();
        for name in ["inbox/link/x", "inbox/link/run/x", "inbox/file/x", "inbox/file/run/x"] {
            let error = storage.put(name, Bytes::from_static(b"x")).unwrap_err();
            assert_eq!(error.kind, ErrorKind::NotFound, "{name}");
        }
        assert!(std::fs::read_dir(elsewhere).unwrap().next().is_none());
        let mut listed = vec![];
        storage.list("inbox", &mut |name, _| listed.push(name.to_owned())).unwrap();
        listed.sort();
        assert_eq!(listed, ["inbox/file", "inbox/honest/run/x", "inbox/link"]);
    }

    #[test]
    fn what_others_can_read_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("repo");
        fill(&LocalStorage::create(&root, false).unwrap());
        let chmod = |name: &str, mode| {
            std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        chmod("keys/a", 0o644);
        assert!(exposed(&root).unwrap().is_empty());
        chmod("", 0o755);
        assert_eq!(exposed(&root).unwrap(), [root.clone(), root.join("keys/a")]);
    }
}
