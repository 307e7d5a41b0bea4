//! The folder that is restored into. Every name is resolved beneath a handle on it, through no
//! symbolic link, by `openat2` (Linux 5.6); a snapshot cannot reach outside, whatever its paths and
//! links say. On older kernels components are opened one by one without following links.

use crate::entry::{Entry, Kind, Time};
use crate::{Error, Result};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Suffix of files that are not whole yet.
pub(super) const PARTIAL: &str = ".esker-partial";
static PARTIAL_COUNT: AtomicU64 = AtomicU64::new(0);

/// The target folder.
pub(super) struct Target {
    /// `None` in a dry run into a folder that is not there.
    root: Option<OwnedFd>,
    dry_run: bool,
}

/// A file that is there already.
pub(super) struct OldFile {
    file: File,
    pub(super) len: u64,
    pub(super) mtime: Time,
    buffer: Vec<u8>,
}

impl OldFile {
    /// The bytes of a stretch, if the file has them.
    pub(super) fn read(&mut self, offset: u64, len: usize) -> Option<&[u8]> {
        self.buffer.resize(len, 0);
        self.file.read_exact_at(&mut self.buffer, offset).ok()?;
        Some(&self.buffer)
    }

    /// Whether a stretch is a hole.
    pub(super) fn is_hole(&mut self, offset: u64, len: u64) -> bool {
        match fs::seek(&self.file, fs::SeekFrom::Data(offset)) {
            Ok(data) => data >= offset + len,
            Err(Errno::NXIO) => offset + len <= self.len,
            Err(_) => false,
        }
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

impl Target {
    pub(super) fn open(path: &Path, dry_run: bool) -> Result<Self> {
        let error =
            |op| move |source: io::Error| Error::Target { op, path: path.display().to_string(), source };
        if !dry_run {
            std::fs::create_dir_all(path).map_err(error("create"))?;
        } else if !path.exists() {
            return Ok(Self { root: None, dry_run });
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = fs::open(path, flags, Mode::empty()).map_err(|errno| error("open")(errno.into()))?;
        Ok(Self { root: Some(root), dry_run })
    }

    fn root(&self) -> io::Result<BorrowedFd<'_>> {
        self.root.as_ref().map(|root| root.as_fd()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Opens a path beneath the target, through no symbolic link.
    fn open_beneath(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let root = self.root()?;
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
    fn parent(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let (parent, _) = split(path);
        match self.open_beneath(parent, OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !parent.is_empty() && !self.dry_run => {
                let above = self.parent(parent)?;
                match fs::mkdirat(&above, split(parent).1, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                self.open_beneath(parent, OFlags::DIRECTORY)
            }
            result => result,
        }
    }

    /// The regular file at a path, if there is one.
    pub(super) fn existing(&self, path: &[u8]) -> Option<OldFile> {
        let file = File::from(self.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK).ok()?);
        let metadata = file.metadata().ok()?;
        let nanoseconds = u32::try_from(metadata.mtime_nsec()).unwrap_or_default();
        let mtime = Time { seconds: metadata.mtime(), nanoseconds };
        metadata.is_file().then(|| OldFile { len: metadata.len(), mtime, file, buffer: vec![] })
    }

    /// Makes a directory, or takes the one that is there; anything else in its place goes.
    pub(super) fn make_folder(&self, path: &[u8]) -> io::Result<()> {
        if self.dry_run {
            return Ok(());
        }
        let parent = self.parent(path)?;
        let name = split(path).1;
        match fs::mkdirat(&parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => {
                let stat = fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    return Ok(());
                }
                fs::unlinkat(&parent, name, AtFlags::empty())?;
                Ok(fs::mkdirat(&parent, name, Mode::RWXU)?)
            }
            result => Ok(result?),
        }
    }

    /// Starts a file beside its place, with the first `keep` bytes of the one that is there.
    pub(super) fn create(&self, path: &[u8], keep: u64) -> io::Result<NewFile> {
        if self.dry_run {
            return Ok(NewFile { parts: None });
        }
        let parent = self.parent(path)?;
        let name = split(path).1.to_vec();
        let number = PARTIAL_COUNT.fetch_add(1, Ordering::Relaxed);
        let partial = format!(".{}-{number}{PARTIAL}", std::process::id()).into_bytes();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(fs::openat(&parent, &partial[..], flags, Mode::RUSR | Mode::WUSR)?);
        let new = NewFile { parts: Some(Parts { parent, name, partial, file }) };
        if keep > 0 {
            let old = self.existing(path).ok_or(io::ErrorKind::NotFound)?;
            new.copy_from(&old.file, keep)?;
        }
        Ok(new)
    }

    /// Makes a symbolic link, pipe or device.
    pub(super) fn make_special(&self, path: &[u8], entry: &Entry, no_owner: bool) -> io::Result<()> {
        if self.dry_run {
            return Ok(());
        }
        let parent = self.parent(path)?;
        let name = split(path).1;
        if entry.kind == Kind::Symlink
            && fs::readlinkat(&parent, name, vec![]).is_ok_and(|target| target.as_bytes() == entry.target)
        {
            return self.set_metadata(path, entry, no_owner);
        }
        clear(&parent, name)?;
        let mode = Mode::from_raw_mode(entry.mode);
        match entry.kind {
            Kind::Symlink => fs::symlinkat(&entry.target[..], &parent, name)?,
            Kind::Fifo => fs::mknodat(&parent, name, FileType::Fifo, mode, 0)?,
            Kind::CharDevice => fs::mknodat(&parent, name, FileType::CharacterDevice, mode, entry.rdev)?,
            Kind::BlockDevice => fs::mknodat(&parent, name, FileType::BlockDevice, mode, entry.rdev)?,
            Kind::File | Kind::Dir | Kind::Socket => return Ok(()),
        }
        self.set_metadata(path, entry, no_owner)
    }

    /// Gives a file that this run restored another name.
    pub(super) fn link(&self, first: &[u8], path: &[u8]) -> io::Result<()> {
        if self.dry_run {
            return Ok(());
        }
        let (from, to) = (self.parent(first)?, self.parent(path)?);
        let (old, new) = (split(first).1, split(path).1);
        let stat = |folder, name| fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        let source = stat(&from, old)?;
        if stat(&to, new).is_ok_and(|there| (there.st_dev, there.st_ino) == (source.st_dev, source.st_ino)) {
            return Ok(());
        }
        clear(&to, new)?;
        Ok(fs::linkat(&from, old, &to, new, AtFlags::empty())?)
    }

    /// Owner, attributes, mode and times of what lies at a path.
    pub(super) fn set_metadata(&self, path: &[u8], entry: &Entry, no_owner: bool) -> io::Result<()> {
        if self.dry_run {
            return Ok(());
        }
        let parent = self.parent(path)?;
        let name = split(path).1;
        match entry.kind {
            Kind::File | Kind::Dir => {
                let file = self.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
                apply(&file, entry, no_owner)
            }
            Kind::Socket => Ok(()),
            _ => {
                if !no_owner {
                    own(fs::chownat(&parent, name, uid(entry), gid(entry), AtFlags::SYMLINK_NOFOLLOW))?;
                }
                if entry.kind != Kind::Symlink {
                    fs::chmodat(&parent, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
                }
                Ok(fs::utimensat(&parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?)
            }
        }
    }

    /// Removes what is in a folder but not among `keep`; returns how many names went.
    pub(super) fn remove_others(
        &self,
        path: &[u8],
        keep: &HashSet<Vec<u8>>,
        dry_run: bool,
    ) -> io::Result<u64> {
        let folder = match self.open_beneath(path, OFlags::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            result => result?,
        };
        remove_from(&folder, keep, dry_run)
    }
}

fn remove_from(folder: &OwnedFd, keep: &HashSet<Vec<u8>>, dry_run: bool) -> io::Result<u64> {
    let mut count = 0;
    let names: Vec<Vec<u8>> = fs::Dir::read_from(folder)?
        .map(|entry| entry.map(|entry| entry.file_name().to_bytes().to_vec()))
        .collect::<std::result::Result<_, _>>()?;
    for name in names {
        if matches!(&name[..], b"." | b"..") || keep.contains(&name) {
            continue;
        }
        let stat = fs::statat(folder, &name[..], AtFlags::SYMLINK_NOFOLLOW)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_dir {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = fs::openat(folder, &name[..], flags, Mode::empty())?;
            count += remove_from(&inner, &HashSet::new(), dry_run)?;
        }
        if !dry_run {
            fs::unlinkat(folder, &name[..], if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() })?;
        }
        count += 1;
    }
    Ok(count)
}

/// Removes whatever has a name, so that something else can have it; a directory only if it is empty.
fn clear(folder: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Ok(fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?),
        Err(errno) => Err(errno.into()),
    }
}

fn uid(entry: &Entry) -> Option<Uid> {
    Some(Uid::from_raw(entry.uid))
}

fn gid(entry: &Entry) -> Option<Gid> {
    Some(Gid::from_raw(entry.gid))
}

/// Only root may give files away; everybody else keeps them, as with tar and restic.
fn own(result: rustix::io::Result<()>) -> io::Result<()> {
    match result {
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => Ok(()),
        result => Ok(result?),
    }
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.seconds, tv_nsec: entry.mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Owner first, because changing it clears setuid; mode before attributes, because an ACL contains it;
/// times last.
fn apply(file: &OwnedFd, entry: &Entry, no_owner: bool) -> io::Result<()> {
    if !no_owner {
        own(fs::fchown(file, uid(entry), gid(entry)))?;
    }
    fs::fchmod(file, Mode::from_raw_mode(entry.mode))?;
    let mut names = vec![0; 64 << 10];
    let len = fs::flistxattr(file, &mut names[..]).unwrap_or_default();
    for name in names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if !entry.xattrs.iter().any(|(wanted, _)| wanted == name) {
            // What cannot be removed (a security label, say) belongs to the system, not to the file.
            let _ = fs::fremovexattr(file, name);
        }
    }
    let mut failure = None;
    for (name, value) in &entry.xattrs {
        if let Err(errno) = fs::fsetxattr(file, &name[..], value, XattrFlags::empty()) {
            let why = format!("attribute {}: {errno}", String::from_utf8_lossy(name));
            failure = Some(io::Error::new(io::Error::from(errno).kind(), why));
        }
    }
    fs::futimens(file, &times(entry))?;
    failure.map_or(Ok(()), Err)
}

/// A file that is being written under a name of its own.
pub(super) struct NewFile {
    /// `None` in a dry run.
    parts: Option<Parts>,
}

struct Parts {
    parent: OwnedFd,
    name: Vec<u8>,
    partial: Vec<u8>,
    file: File,
}

impl NewFile {
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.parts.as_ref().map_or(Ok(()), |parts| parts.file.write_all_at(bytes, offset))
    }

    fn copy_from(&self, old: &File, len: u64) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < len {
            let step = usize::try_from(len - offset).unwrap_or(usize::MAX).min(buffer.len());
            let bytes = &mut buffer[..step];
            old.read_exact_at(bytes, offset)?;
            // Holes of the old file stay holes.
            if bytes.iter().any(|byte| *byte != 0) {
                self.write_at(bytes, offset)?;
            }
            offset += step as u64;
        }
        Ok(())
    }

    /// Sets length and metadata and moves the file to its place.
    pub(super) fn finish(mut self, size: u64, entry: &Entry, no_owner: bool) -> io::Result<()> {
        let Some(parts) = self.parts.take() else { return Ok(()) };
        let fd: OwnedFd = parts.file.into();
        let done = fs::ftruncate(&fd, size).map_err(io::Error::from).and_then(|()| {
            let metadata = apply(&fd, entry, no_owner);
            match fs::renameat(&parts.parent, &parts.partial[..], &parts.parent, &parts.name[..]) {
                // A directory stands in its place: only an empty one makes room.
                Err(Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY) => {
                    fs::unlinkat(&parts.parent, &parts.name[..], AtFlags::REMOVEDIR)?;
                    fs::renameat(&parts.parent, &parts.partial[..], &parts.parent, &parts.name[..])?;
                }
                result => result?,
            }
            metadata
        });
        if done.is_err() {
            let _ = fs::unlinkat(&parts.parent, &parts.partial[..], AtFlags::empty());
        }
        done
    }
}

impl Drop for NewFile {
    /// A file that was not finished leaves nothing.
    fn drop(&mut self) {
        if let Some(parts) = &self.parts {
            let _ = fs::unlinkat(&parts.parent, &parts.partial[..], AtFlags::empty());
        }
    }
}
