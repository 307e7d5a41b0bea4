//! A path as a name in an open folder, so that no other folder can be put in between. Only paths that the user named
//! are looked up by path.

use rustix::fd::{AsFd, AsRawFd as _, OwnedFd};
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, Stat};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// What stat(2) tells.
#[derive(Clone, Copy)]
pub(super) struct Status(pub(super) Stat);

impl Status {
    /// Of what is open.
    pub(super) fn of(file: &impl AsFd) -> io::Result<Self> {
        Ok(Self(fs::fstat(file)?))
    }

    /// Of what has a path, through a link there or not.
    pub(super) fn at(path: &Path, follow: bool) -> io::Result<Self> {
        let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        Ok(Self(fs::statat(CWD, path, flags)?))
    }

    pub(super) fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.0.st_mode)
    }
    pub(super) fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }
    pub(super) fn is_file(&self) -> bool {
        self.file_type() == FileType::RegularFile
    }
    pub(super) fn len(&self) -> u64 {
        u64::try_from(self.0.st_size).unwrap_or_default()
    }
    /// Device and inode.
    pub(super) fn id(&self) -> (u64, u64) {
        (self.0.st_dev, self.0.st_ino)
    }
}

/// An open folder.
pub(super) type Folder = Arc<OwnedFd>;

/// See the module.
#[derive(Clone)]
pub(super) enum Place {
    /// The user named it, or it leads to what he named.
    Path { path: PathBuf, follow: bool },
    /// It is in an open folder.
    In { folder: Folder, name: OsString },
}

impl Place {
    pub(super) fn status(&self) -> io::Result<Status> {
        match self {
            Self::Path { path, follow } => Status::at(path, *follow),
            Self::In { folder, name } => {
                Ok(Status(fs::statat(folder, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW)?))
            }
        }
    }

    pub(super) fn open(&self, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC;
        match self {
            Self::Path { path, follow: true } => fs::open(path, flags, Mode::empty()),
            Self::Path { path, follow: false } => fs::open(path, flags | OFlags::NOFOLLOW, Mode::empty()),
            Self::In { folder, name } => {
                fs::openat(folder, name.as_os_str(), flags | OFlags::NOFOLLOW, Mode::empty())
            }
        }
    }

    pub(super) fn open_folder(&self) -> io::Result<Folder> {
        Ok(Arc::new(self.open(OFlags::DIRECTORY)?))
    }

    /// What a link there holds.
    pub(super) fn link(&self) -> io::Result<Vec<u8>> {
        let target = match self {
            Self::Path { path, .. } => fs::readlinkat(CWD, path, vec![])?,
            Self::In { folder, name } => fs::readlinkat(folder, name.as_os_str(), vec![])?,
        };
        Ok(target.into_bytes())
    }

    /// A path for calls that take no handle and do not follow the last component. `real` is what leads there without
    /// /proc.
    pub(super) fn path(&self, real: &Path) -> PathBuf {
        match self {
            Self::Path { path, follow: true } => path.join("."),
            Self::Path { path, follow: false } => path.clone(),
            Self::In { folder, name } => path_of(folder).map_or_else(|| real.to_owned(), |at| at.join(name)),
        }
    }
}

/// A path that leads to an open folder and nowhere else (proc_pid_fd(5)), where /proc is there.
pub(super) fn path_of(folder: &OwnedFd) -> Option<PathBuf> {
    static IS_THERE: OnceLock<bool> = OnceLock::new();
    let is_there = *IS_THERE.get_or_init(|| Path::new("/proc/self/fd").is_dir());
    is_there.then(|| PathBuf::from(format!("/proc/self/fd/{}/", folder.as_raw_fd())))
}

/// A name in a folder, and whether it is a folder's, if the listing says so.
pub(super) type Name = (OsString, Option<bool>);

/// The names in a folder, as far as they can be read.
pub(super) fn names_in(folder: &OwnedFd) -> (Vec<Name>, Option<io::Error>) {
    let mut names = vec![];
    let listing = match fs::Dir::read_from(folder) {
        Ok(listing) => listing,
        Err(errno) => return (names, Some(errno.into())),
    };
    for entry in listing {
        let entry = match entry {
            Ok(entry) => entry,
            Err(errno) => return (names, Some(errno.into())),
        };
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let is_folder = match entry.file_type() {
            FileType::Unknown => None,
            kind => Some(kind == FileType::Directory),
        };
        names.push((OsStr::from_bytes(name).to_owned(), is_folder));
    }
    (names, None)
}
