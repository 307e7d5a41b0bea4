//! The calls that a repository in a folder makes to the file system. A test replaces them: by a file system that loses
//! what was not synced, or fails at any of these calls.

use crate::{patience, private};
use rustix::fs::RenameFlags;
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

/// How long a reader waits for whoever swaps HEAD, which takes as long as the disk needs to write it.
const READER: Duration = Duration::from_secs(5);
/// How long a writer waits: others may be before it.
const WRITER: Duration = Duration::from_secs(20);

/// What a folder holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its name in the folder.
    pub name: String,
    /// `None` for a folder, else the length in bytes.
    pub len: Option<u64>,
}

/// A new file while it is written.
pub trait NewFile: Send {
    /// Appends.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes the content durable, though not yet its name, and closes the file. A failed sync is never repeated: the
    /// kernel considers the pages clean afterwards (Rebello et al., ATC 2020).
    fn sync(self: Box<Self>) -> io::Result<()>;
}

/// Held until dropped.
pub type Lock = Box<dyn Send>;

/// A file system. Names are durable once their folder is synced.
pub trait Files: Send + Sync {
    /// A new, empty file; [`io::ErrorKind::AlreadyExists`] if there is one.
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>>;
    /// Reads a whole file of at most `limit` bytes; a longer one is [`io::ErrorKind::FileTooLarge`].
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>>;
    /// Reads `len` bytes from `offset`, all of them or an error.
    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>>;
    /// Length of a file.
    fn len(&self, path: &Path) -> io::Result<u64>;
    /// The content of a folder, in any order: at most `most` entries and one.
    fn list(&self, path: &Path, most: u64) -> io::Result<Vec<Found>>;
    /// Renames a file in one step; an existing one of that name is replaced or, with `keep`, left alone:
    /// [`io::ErrorKind::AlreadyExists`].
    fn rename(&self, from: &Path, to: &Path, keep: bool) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes one folder.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
    /// Waits for a lock on a file, which is made if need be: for oneself, or with others who share it. A shared one is
    /// `None` where the file cannot be opened or locked, or another process held it too long.
    fn lock(&self, path: &Path, shared: bool) -> io::Result<Option<Lock>>;
}

/// The real file system. New files are closed to others, whatever the umask, or open to a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemFiles {
    /// Whether the folders' group shares new files: 2770 and 660 instead of 700 and 600.
    pub shared: bool,
}

impl SystemFiles {
    fn file_mode(self) -> u32 {
        if self.shared { 0o660 } else { private::FILE }
    }

    /// The mode of folders. With the set-group-ID bit their group is that of what is made in them (mkdir(2)).
    pub(super) fn folder_mode(self) -> u32 {
        if self.shared { 0o2770 } else { private::FOLDER }
    }
}

struct SystemFile(File);

impl NewFile for SystemFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
    fn sync(self: Box<Self>) -> io::Result<()> {
        self.0.sync_all()
    }
}

/// Opens what has to be a file. A pipe, which would be waited for without end, and whatever else is no file, count as
/// missing.
fn open(path: &Path, options: &mut fs::OpenOptions) -> io::Result<File> {
    let no_file = || io::Error::new(io::ErrorKind::NotFound, "there is something that is no file");
    let no_waiting = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match options.custom_flags(no_waiting).open(path) {
        // A pipe that nobody reads.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            return Err(no_file());
        }
        // Somebody has a lease of it, which the system ends for those who wait.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && fs::metadata(path)?.is_file() => {
            options.custom_flags(0).open(path)?
        }
        opened => opened?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_file()) }
}

/// The same to read it.
fn open_to_read(path: &Path) -> io::Result<File> {
    open(path, File::options().read(true))
}

impl Files for SystemFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let file = File::options().write(true).create_new(true).mode(private::FILE).open(path)?;
        if self.shared {
            file.set_permissions(Permissions::from_mode(self.file_mode()))?;
        }
        Ok(Box::new(SystemFile(file)))
    }
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let file = open_to_read(path)?;
        let len = file.metadata()?.len();
        if len > limit {
            let why = format!("it has {len} bytes, and no such file may have more than {limit}");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        read_range(&file, 0, len)
    }
    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        read_range(&open_to_read(path)?, offset, len as u64)
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        let metadata = fs::metadata(path)?;
        if metadata.is_file() { Ok(metadata.len()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
    fn list(&self, path: &Path, most: u64) -> io::Result<Vec<Found>> {
        let mut found = vec![];
        for entry in fs::read_dir(path)?.take(usize::try_from(most.saturating_add(1)).unwrap_or(usize::MAX)) {
            let entry = entry?;
            // Nothing of ours has a name that is not UTF-8.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                result => result?,
            };
            let len = if metadata.is_dir() { None } else { Some(metadata.len()) };
            found.push(Found { name, len });
        }
        Ok(found)
    }
    fn rename(&self, from: &Path, to: &Path, keep: bool) -> io::Result<()> {
        if !keep {
            return fs::rename(from, to);
        }
        let here = rustix::fs::CWD;
        match rustix::fs::renameat_with(here, from, here, to, RenameFlags::NOREPLACE) {
            // Some file systems cannot; all that can be trusted with a repository have links.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::NOTSUP) => {
                fs::hard_link(from, to)?;
                fs::remove_file(from)
            }
            result => Ok(result?),
        }
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(private::FOLDER).create(path)?;
        if self.shared {
            fs::set_permissions(path, Permissions::from_mode(self.folder_mode()))?;
        }
        Ok(())
    }
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
    fn lock(&self, path: &Path, shared: bool) -> io::Result<Option<Lock>> {
        let file = match shared {
            true => match open_to_read(path) {
                Ok(file) => file,
                Err(_) => return Ok(None),
            },
            false => {
                let mut options = File::options();
                options.create(true).truncate(false).write(true).mode(private::FILE);
                let file = open(path, &mut options)?;
                let metadata = file.metadata()?;
                let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
                // Made a moment ago, or by an older version.
                if is_ours && metadata.mode() & 0o777 != self.file_mode() {
                    file.set_permissions(Permissions::from_mode(self.file_mode()))?;
                }
                file
            }
        };
        match patience::lock(&file, path, shared, if shared { READER } else { WRITER }) {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(error) if shared => {
                if error.kind() == io::ErrorKind::TimedOut {
                    tracing::warn!("{error}; HEAD is read without it");
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn read_range(file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![];
    bytes.try_reserve_exact(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
    // Into memory that nobody cleared before: zeroing 64 MiB costs as much as copying them.
    while bytes.len() < len {
        let at = offset + bytes.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}
