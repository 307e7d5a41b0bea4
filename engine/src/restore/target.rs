//! The folder that is restored into. Every name is resolved beneath a handle on it, through no symbolic link, by
//! `openat2` (Linux 5.6); a snapshot cannot write outside, whatever its paths and links are. On older kernels
//! components are opened one by one without following links. A local user who owns restored folders cannot redirect
//! writes either: all steps use handles, never a path that was looked up before.

use super::entered::EnteredFolders;
use super::handle::{
    exchanged, is_folder, look_at, names_in, open_at, open_file, open_unlocked, same_mount,
    with_right_to_write,
};
use super::metadata::{Unset, apply, apply_to_special};
use super::newfile::{NewFile, sweep};
use crate::entry::{Entry, Kind, Time};
use crate::{Error, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::rc::Rc;

/// The target folder.
pub struct Target {
    /// `None` in a dry run into a folder that is not there.
    root: Option<Rc<OwnedFd>>,
    entered: EnteredFolders,
    /// A folder that was not there when it was last looked for, and was not made since: the walk is ahead of the writing.
    absent: RefCell<Option<Vec<u8>>>,
    dry_run: bool,
}

/// A file that is there already.
pub struct OldFile {
    file: File,
    /// Its bytes.
    pub len: u64,
    buffer: Vec<u8>,
}

impl OldFile {
    /// The bytes of a stretch, if the file has them.
    pub fn read(&mut self, offset: u64, len: usize) -> Option<&[u8]> {
        self.buffer.resize(len, 0);
        self.file.read_exact_at(&mut self.buffer, offset).ok()?;
        Some(&self.buffer)
    }

    /// Whether a stretch is a hole.
    pub fn is_hole(&mut self, offset: u64, len: u64) -> bool {
        match fs::seek(&self.file, fs::SeekFrom::Data(offset)) {
            Ok(data) => data >= offset + len,
            Err(Errno::NXIO) => offset + len <= self.len,
            Err(_) => false,
        }
    }
}

/// What became of a folder that is to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// It was made.
    Made,
    /// It was there; the mode that it had, if that was changed so that it can be written in.
    There(Option<Mode>),
}

/// A path's folder and name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (b"", path),
    }
}

impl Target {
    /// Opens the folder, and makes it if it is not there.
    pub fn open(path: &Path, dry_run: bool) -> Result<Self> {
        let error =
            |op| move |source: io::Error| Error::Target { op, path: crate::shown::path(path), source };
        if !dry_run {
            std::fs::create_dir_all(path).map_err(error("create"))?;
        } else if !path.exists() {
            return Ok(Self::new(None, dry_run));
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = fs::open(path, flags, Mode::empty()).map_err(|errno| error("open")(errno.into()))?;
        if !dry_run {
            // What cannot be removed is not in the way.
            let _ = sweep(&root);
        }
        Ok(Self::new(Some(Rc::new(root)), dry_run))
    }

    /// An open folder, whatever its path leads to by now.
    #[must_use]
    pub fn of(root: OwnedFd) -> Self {
        Self::new(Some(Rc::new(root)), false)
    }

    fn new(root: Option<Rc<OwnedFd>>, dry_run: bool) -> Self {
        Self { root, entered: EnteredFolders::new(), absent: RefCell::default(), dry_run }
    }

    fn root(&self) -> io::Result<&Rc<OwnedFd>> {
        self.root.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The nearest open folder above a path, and the rest of the path.
    fn nearest<'a>(&self, path: &'a [u8]) -> io::Result<(Rc<OwnedFd>, &'a [u8])> {
        let root = self.root()?;
        let near = self.entered.nearest(path, |folder| Self::open_from(root, folder, OFlags::DIRECTORY))?;
        Ok(near.unwrap_or_else(|| (Rc::clone(root), path)))
    }

    /// Opens a path beneath the target, through no symbolic link.
    pub fn open_beneath(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let (folder, path) = self.nearest(path)?;
        Self::open_from(&folder, path, flags)
    }

    /// The same for a folder, which may be open.
    fn folder(&self, path: &[u8]) -> io::Result<Rc<OwnedFd>> {
        match self.nearest(path)? {
            (folder, b"") => Ok(folder),
            (folder, path) => Ok(Rc::new(Self::open_from(&folder, path, OFlags::DIRECTORY)?)),
        }
    }

    fn open_from(root: &OwnedFd, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let path = if path.is_empty() { &b"."[..] } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::NOSYS) => {}
            result => return Ok(result?),
        }
        let mut folder = fs::openat(root, ".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        while let Some(part) = parts.next() {
            let flags = if parts.peek().is_some() {
                OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
            } else {
                flags
            };
            folder = fs::openat(&folder, part, flags, Mode::empty())?;
        }
        Ok(folder)
    }

    /// Opens the folder that holds `path`, making it and those above it if need be.
    pub fn parent(&self, path: &[u8]) -> io::Result<Rc<OwnedFd>> {
        let (parent, _) = split(path);
        match self.folder(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !parent.is_empty() && !self.dry_run => {
                let above = self.parent(parent)?;
                self.absent.take();
                match fs::mkdirat(&above, split(parent).1, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                self.folder(parent)
            }
            result => result,
        }
    }

    /// What is at a path, not following a link.
    pub fn stat(&self, path: &[u8]) -> Option<Stat> {
        let (above, name) = split(path);
        if self.absent.borrow().as_deref() == Some(above) {
            return None;
        }
        match self.folder(above) {
            Ok(parent) => fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW).ok(),
            Err(error) => {
                if error.kind() == io::ErrorKind::NotFound {
                    self.absent.replace(Some(above.to_vec()));
                }
                None
            }
        }
    }

    /// Whether another file system, or part of one, is mounted on a folder beneath the target.
    pub fn is_mount(&self, path: &[u8]) -> bool {
        let (parent, name) = split(path);
        let parent = (!path.is_empty()).then(|| self.folder(parent).ok());
        parent.flatten().is_some_and(|parent| same_mount(&*parent, name).is_ok_and(|same| !same))
    }

    /// The regular file at a path, if there is one.
    pub fn existing(&self, path: &[u8]) -> Option<OldFile> {
        let file = File::from(self.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?);
        let metadata = file.metadata().ok()?;
        metadata.is_file().then(|| OldFile { len: metadata.len(), file, buffer: vec![] })
    }

    /// Makes a directory, or takes the one that is there. Anything else in its place goes, or is an error.
    pub fn make_folder(&self, path: &[u8], replace: bool) -> io::Result<Folder> {
        if self.dry_run {
            return match self.stat(path) {
                Some(stat) if !is_folder(&stat) && !replace => Err(in_the_way()),
                Some(stat) if is_folder(&stat) => Ok(Folder::There(None)),
                _ => Ok(Folder::Made),
            };
        }
        let parent = self.parent(path)?;
        let name = split(path).1;
        self.absent.take();
        match fs::mkdirat(&*parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            result => {
                result?;
                return self.enter_made(path, &parent, name);
            }
        }
        if is_folder(&fs::statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW)?) {
            let (folder, mode) = open_unlocked(&*parent, name)?;
            sweep(&folder)?;
            self.entered.enter(path, folder)?;
            return Ok(Folder::There(mode));
        }
        if !replace {
            return Err(in_the_way());
        }
        fs::unlinkat(&*parent, name, AtFlags::empty())?;
        fs::mkdirat(&*parent, name, Mode::RWXU)?;
        self.enter_made(path, &parent, name)
    }

    /// Enters a folder that was just created: one with content, or of another owner, is a different one.
    fn enter_made(&self, path: &[u8], parent: &OwnedFd, name: &[u8]) -> io::Result<Folder> {
        let folder = open_at(parent, name)?;
        let owner = fs::fstat(&folder)?.st_uid;
        if owner != rustix::process::geteuid().as_raw() || !names_in(&folder)?.is_empty() {
            return Err(exchanged());
        }
        self.entered.enter(path, folder)?;
        Ok(Folder::Made)
    }

    /// Gives a folder another mode.
    pub fn set_mode(&self, path: &[u8], mode: Mode) -> io::Result<()> {
        Ok(fs::fchmod(&*self.folder(path)?, mode)?)
    }

    /// Starts a file beside its place, with the first `keep` bytes of the one that is there.
    pub fn create(&self, path: &[u8], keep: u64) -> io::Result<NewFile> {
        if self.dry_run {
            return Ok(NewFile::dry());
        }
        let new = NewFile::create(self.parent(path)?, split(path).1)?;
        if keep > 0 {
            let old = self.existing(path).ok_or(io::ErrorKind::NotFound)?;
            new.copy_from(&old.file, keep)?;
        }
        Ok(new)
    }

    /// Makes a symbolic link, pipe or device where no folder is.
    pub fn make_special(&self, path: &[u8], entry: &Entry, no_owner: bool) -> io::Result<Unset> {
        if self.dry_run {
            return Ok(Unset::default());
        }
        let parent = self.parent(path)?;
        let name = split(path).1;
        let is_right = entry.kind == Kind::Symlink
            && fs::readlinkat(&*parent, name, vec![]).is_ok_and(|target| target.as_bytes() == entry.target);
        if !is_right {
            clear(&parent, name)?;
            let mode = Mode::from_raw_mode(entry.mode);
            let made = match entry.kind {
                Kind::Symlink => fs::symlinkat(&entry.target[..], &*parent, name),
                Kind::File | Kind::Dir | Kind::Socket => return Ok(Unset::default()),
                kind => fs::mknodat(&*parent, name, file_type(kind), mode, entry.rdev),
            };
            made?;
        }
        let handle = look_at(&*parent, name)?;
        let stat = fs::fstat(&handle)?;
        let is_it = FileType::from_raw_mode(stat.st_mode) == file_type(entry.kind)
            && match entry.kind {
                Kind::Symlink => fs::readlinkat(&handle, "", vec![])?.as_bytes() == entry.target,
                _ => {
                    stat.st_uid == rustix::process::geteuid().as_raw()
                        && stat.st_nlink == 1
                        && stat.st_rdev == entry.rdev
                }
            };
        if !is_it {
            return Err(exchanged());
        }
        Ok(apply_to_special(&handle, entry, no_owner))
    }

    /// Whether two names are those of one file.
    pub fn is_linked(&self, first: &[u8], path: &[u8]) -> bool {
        match (self.stat(first), self.stat(path)) {
            (Some(one), Some(two)) => (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino),
            _ => false,
        }
    }

    /// Gives a file that this run restored another name, at which no folder is.
    pub fn link(&self, first: &[u8], path: &[u8]) -> io::Result<()> {
        if self.dry_run {
            return Ok(());
        }
        let (from, to) = (self.parent(first)?, self.parent(path)?);
        clear(&to, split(path).1)?;
        Ok(fs::linkat(&*from, split(first).1, &*to, split(path).1, AtFlags::empty())?)
    }

    /// Removes an empty folder, so that a file can have its name.
    pub fn remove_empty(&self, path: &[u8]) -> io::Result<()> {
        let parent = self.parent(path)?;
        let name = split(path).1;
        if self.dry_run {
            let is_empty = names_in(&open_at(&*parent, name)?)?.is_empty();
            return if is_empty { Ok(()) } else { Err(Errno::NOTEMPTY.into()) };
        }
        Ok(fs::unlinkat(&*parent, name, AtFlags::REMOVEDIR)?)
    }

    /// Owner, attributes, mode and times of the file or folder at a path.
    pub fn set_metadata(&self, path: &[u8], entry: &Entry, no_owner: bool) -> io::Result<Unset> {
        if self.dry_run {
            return Ok(Unset::default());
        }
        if entry.kind == Kind::Dir {
            return Ok(apply(&*self.folder(path)?, entry, no_owner));
        }
        let (file, stat) = open_file(&*self.parent(path)?, split(path).1)?;
        if has_other_names(&stat, entry) {
            return Err(exchanged());
        }
        Ok(apply(&file, entry, no_owner))
    }
}

/// Whether a file has names that the snapshot does not know of: then what is set of it is set of those, wherever they are.
pub fn has_other_names(stat: &Stat, entry: &Entry) -> bool {
    let is_as_it_was =
        (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) == (entry.uid, entry.gid, entry.mode);
    stat.st_nlink > entry.links.max(1) && !is_as_it_was
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::Fifo,
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Socket => FileType::Socket,
    }
}

fn in_the_way() -> io::Error {
    io::Error::other("something that is no folder is there")
}

/// Removes whatever has a name, so that something else can have it; no folder.
fn clear(folder: &OwnedFd, name: &[u8]) -> io::Result<()> {
    with_right_to_write(folder, || match fs::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => Ok(result?),
    })
}

/// When a file's content changed.
pub fn mtime(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default() }
}
