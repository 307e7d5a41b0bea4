//! The few things that a repository in a folder asks of the file system, so that a test can stand in its
//! place: one that loses what was not synced, or fails at any of these calls.

use rustix::fs::{FlockOperation, RenameFlags};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

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
    /// Makes durable what was written, though not yet its name, and closes. A sync that failed is never tried
    /// again: the kernel takes the pages for clean afterwards (Rebello et al., ATC 2020).
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
    /// What a folder holds, in any order.
    fn list(&self, path: &Path) -> io::Result<Vec<Found>>;
    /// Gives a file another name, in one step; one that has it is replaced, or, with `keep`, left alone:
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
    /// Waits for a lock on a file, which is made if need be: for oneself, or with others who share it. A shared
    /// one is `None` where the file cannot be opened: then nobody writes there either.
    fn lock(&self, path: &Path, shared: bool) -> io::Result<Option<Lock>>;
}

/// The real one.
pub struct SystemFiles;

struct SystemFile(File);

impl NewFile for SystemFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }
    fn sync(self: Box<Self>) -> io::Result<()> {
        self.0.sync_all()
    }
}

impl Files for SystemFiles {
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        Ok(Box::new(SystemFile(File::create_new(path)?)))
    }
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        if len > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        read_range(&file, 0, len)
    }
    fn read_at(&self, path: &Path, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        read_range(&File::open(path)?, offset, len as u64)
    }
    fn len(&self, path: &Path) -> io::Result<u64> {
        let metadata = fs::metadata(path)?;
        if metadata.is_file() { Ok(metadata.len()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
    fn list(&self, path: &Path) -> io::Result<Vec<Found>> {
        let mut found = vec![];
        for entry in fs::read_dir(path)? {
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
        fs::create_dir(path)
    }
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }
    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
    fn lock(&self, path: &Path, shared: bool) -> io::Result<Option<Lock>> {
        let (file, operation) = match shared {
            true => match File::open(path) {
                Ok(file) => (file, FlockOperation::LockShared),
                Err(_) => return Ok(None),
            },
            false => {
                let file = File::options().create(true).truncate(false).write(true).open(path)?;
                (file, FlockOperation::LockExclusive)
            }
        };
        loop {
            match rustix::fs::flock(&file, operation) {
                Err(rustix::io::Errno::INTR) => {}
                // A medium without locks can still be read.
                Err(_) if shared => return Ok(None),
                Err(errno) => return Err(errno.into()),
                Ok(()) => return Ok(Some(Box::new(file))),
            }
        }
    }
}

fn read_range(file: &File, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = Vec::with_capacity(len);
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
