//! The calls that a repository in a folder makes to the file system. A test replaces them: by a file system that loses
//! what was not synced, or fails at any of these calls.

pub use super::place::Found;
use super::place::Place;
use crate::{patience, private};
use rustix::fs::{AtFlags, FileType, OFlags};
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a reader waits for whoever swaps HEAD, which takes as long as the disk needs to write it.
const READER: Duration = Duration::from_secs(5);
/// How long a writer waits: others may be before it.
const WRITER: Duration = Duration::from_secs(20);

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemFiles {
    /// Whether the folders' group shares new files: 2770 and 660 instead of 700 and 600.
    pub shared: bool,
    /// The repository's folder: below those of it that hosts write to, no symbolic link is followed.
    pub root: Option<PathBuf>,
}

impl SystemFiles {
    fn place(&self, path: &Path) -> io::Result<Place> {
        Place::of(self.root.as_deref(), path)
    }

    fn file_mode(&self) -> u32 {
        if self.shared { 0o660 } else { private::FILE }
    }

    /// The mode of folders. With the set-group-ID bit their group is that of what is made in them (mkdir(2)).
    pub(super) fn folder_mode(&self) -> u32 {
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
fn open(place: &Place, flags: OFlags, mode: u32) -> io::Result<File> {
    let no_file = || io::Error::new(io::ErrorKind::NotFound, "there is something that is no file");
    let is_file = || place.stat().map(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
    let file = match place.open(flags | OFlags::NONBLOCK, mode) {
        // A pipe that nobody reads.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            return Err(no_file());
        }
        // Somebody has a lease of it, which the system ends for those who wait.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_file()? => place.open(flags, mode)?,
        opened => opened?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(no_file()) }
}

/// The same to read it.
fn open_to_read(place: &Place) -> io::Result<File> {
    open(place, OFlags::RDONLY, 0)
}

impl Files for SystemFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = self.place(path)?.open(flags, private::FILE)?;
        if self.shared {
            file.set_permissions(Permissions::from_mode(self.file_mode()))?;
        }
        Ok(Box::new(SystemFile(file)))
    }
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let file = open_to_read(&self.place(path)?)?;
        let len = file.metadata()?.len();
        if len > limit {
            let why = format!("it has {len} bytes, and no such file may have more than {limit}");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        read_range(&file, 0, len)
    }
    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        read_range(&open_to_read(&self.place(path)?)?, offset, len as u64)
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        let stat = self.place(path)?.stat()?;
        match FileType::from_raw_mode(stat.st_mode).is_file() {
            true => Ok(u64::try_from(stat.st_size).unwrap_or_default()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }
    fn list(&self, path: &Path, most: u64) -> io::Result<Vec<Found>> {
        let most = usize::try_from(most.saturating_add(1)).unwrap_or(usize::MAX);
        if let Some(found) = self.place(path)?.list(most) {
            return found;
        }
        let mut found = vec![];
        for entry in fs::read_dir(path)?.take(most) {
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
        let (from, to) = (self.place(from)?, self.place(to)?);
        if keep { from.rename_new(&to) } else { from.rename(&to) }
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        Place::of_listed(self.root.as_deref(), path)?.remove(AtFlags::empty())
    }
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let place = self.place(path)?;
        place.create_folder(private::FOLDER)?;
        if self.shared {
            let folder = place.open(OFlags::RDONLY | OFlags::DIRECTORY, 0)?;
            folder.set_permissions(Permissions::from_mode(self.folder_mode()))?;
        }
        Ok(())
    }
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.place(path)?.remove(AtFlags::REMOVEDIR)
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.place(path)?.open(OFlags::RDONLY, 0)?.sync_all()
    }
    fn lock(&self, path: &Path, shared: bool) -> io::Result<Option<Lock>> {
        let place = self.place(path)?;
        let file = match shared {
            true => match open_to_read(&place) {
                Ok(file) => file,
                Err(_) => return Ok(None),
            },
            false => {
                let file = open(&place, OFlags::WRONLY | OFlags::CREATE, private::FILE)?;
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
