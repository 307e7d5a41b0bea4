//! A file that is being written. It has no name until it is complete, if the file system supports that (`O_TMPFILE`,
//! open(2)), so that a killed restore leaves nothing. Elsewhere it has a temporary name, and is locked as long as its
//! process lives: the next restore into the folder removes files without a lock.

use super::metadata::{Unset, apply};
use crate::entry::Entry;
use rustix::fd::{AsRawFd as _, OwnedFd};
use rustix::fs::{self, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Suffix of files that are not whole yet.
pub const PARTIAL: &str = ".esker-partial";
static PARTIAL_COUNT: AtomicU64 = AtomicU64::new(0);
/// Whether a file may be named by its handle alone: `AT_EMPTY_PATH` needs a right that not every user has (open(2)).
static NAMES_BY_HANDLE: AtomicBool = AtomicBool::new(true);

/// A name that no other process and no other file of this one has.
fn partial_name() -> Vec<u8> {
    let number = PARTIAL_COUNT.fetch_add(1, Ordering::Relaxed);
    format!(".{}-{number}{PARTIAL}", std::process::id()).into_bytes()
}

/// Whether a name is one that `partial_name` makes: `.PID-NUMBER.esker-partial`.
pub fn is_partial(name: &[u8]) -> bool {
    let numbers = name.strip_prefix(b".").and_then(|name| name.strip_suffix(PARTIAL.as_bytes()));
    numbers.is_some_and(|numbers| {
        let mut parts = numbers.split(|byte| *byte == b'-');
        let mut is_number =
            || parts.next().is_some_and(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit));
        is_number() && is_number() && parts.next().is_none()
    })
}

/// Whether an open file can be given a name: by /proc, as an unprivileged process must.
fn can_name() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| std::path::Path::new("/proc/self/fd").is_dir())
}

/// A file beside its place.
pub struct NewFile {
    /// `None` in a dry run.
    parts: Option<Parts>,
}

struct Parts {
    parent: Rc<OwnedFd>,
    name: Vec<u8>,
    /// Its name until it is whole, if it has one.
    partial: Option<Vec<u8>>,
    file: File,
    /// How long it is.
    len: Cell<u64>,
}

impl Parts {
    fn new(parent: Rc<OwnedFd>, name: &[u8], partial: Option<Vec<u8>>, file: OwnedFd) -> Self {
        Self { parent, name: name.to_vec(), partial, file: File::from(file), len: Cell::default() }
    }
}

impl NewFile {
    /// One that is written nowhere.
    pub fn dry() -> Self {
        Self { parts: None }
    }

    /// Starts one that shall have a name in a folder.
    pub fn create(parent: Rc<OwnedFd>, name: &[u8]) -> io::Result<Self> {
        let mode = Mode::RUSR | Mode::WUSR;
        let unnamed = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        if can_name() {
            match fs::openat(&*parent, ".", unnamed, mode) {
                Ok(file) => {
                    return Ok(Self { parts: Some(Parts::new(parent, name, None, file)) });
                }
                // The file system, or a kernel before 3.11, cannot do that.
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOENT | Errno::NOSYS) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let partial = partial_name();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&*parent, &partial[..], flags, mode)?;
        let parts = Parts::new(parent, name, Some(partial), file);
        hold(&parts.file);
        Ok(Self { parts: Some(parts) })
    }

    /// Writes bytes at an offset.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let Some(parts) = &self.parts else { return Ok(()) };
        parts.file.write_all_at(bytes, offset)?;
        parts.len.set(parts.len.get().max(offset + bytes.len() as u64));
        Ok(())
    }

    /// Takes the first bytes of another file; its holes stay holes.
    pub fn copy_from(&self, old: &File, len: u64) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < len {
            let step = usize::try_from(len - offset).unwrap_or(usize::MAX).min(buffer.len());
            let bytes = buffer.get_mut(..step).unwrap_or_default();
            old.read_exact_at(bytes, offset)?;
            if bytes.iter().any(|byte| *byte != 0) {
                self.write_at(bytes, offset)?;
            }
            offset += step as u64;
        }
        Ok(())
    }

    /// Sets length and metadata and moves the file to its place. Where something is there already, `make_room` is asked
    /// first whether a folder has it; `None` if one stays there.
    pub fn finish(
        mut self,
        size: u64,
        entry: &Entry,
        no_owner: bool,
        make_room: impl FnOnce() -> bool,
    ) -> io::Result<Option<Unset>> {
        let Some(parts) = &mut self.parts else { return Ok(make_room().then(Unset::default)) };
        if parts.len.get() != size {
            parts.file.set_len(size)?;
        }
        let unset = apply(&parts.file, entry, no_owner);
        if parts.partial.is_none() && parts.give(&parts.name)? {
            self.parts = None;
            return Ok(Some(unset));
        }
        if !make_room() {
            return Ok(None);
        }
        if parts.partial.is_none() {
            // Something is there already, which only a rename replaces.
            hold(&parts.file);
            let partial = partial_name();
            parts.give(&partial)?;
            parts.partial = Some(partial);
        }
        let partial = parts.partial.as_deref().unwrap_or_default();
        fs::renameat(&*parts.parent, partial, &*parts.parent, &parts.name[..])?;
        self.parts = None;
        Ok(Some(unset))
    }
}

impl Parts {
    /// Gives a file without a name one; returns whether the name was free.
    fn give(&self, name: &[u8]) -> io::Result<bool> {
        if NAMES_BY_HANDLE.load(Ordering::Relaxed) {
            match fs::linkat(&self.file, "", &*self.parent, name, AtFlags::EMPTY_PATH) {
                Ok(()) => return Ok(true),
                Err(Errno::EXIST) => return Ok(false),
                Err(_) => NAMES_BY_HANDLE.store(false, Ordering::Relaxed),
            }
        }
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        match fs::linkat(CWD, path, &*self.parent, name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for NewFile {
    /// A file that was not finished leaves nothing.
    fn drop(&mut self) {
        if let Some(Parts { parent, partial: Some(partial), .. }) = &self.parts {
            let _ = fs::unlinkat(&**parent, &partial[..], AtFlags::empty());
        }
    }
}

/// Locks a file as long as this process has it open. If locks are not supported, no restore considers it left over,
/// either.
fn hold(file: &File) {
    let _ = fs::flock(file, FlockOperation::NonBlockingLockExclusive);
}

/// Removes what killed restores left in a folder and nobody holds.
pub fn sweep(folder: &OwnedFd) -> io::Result<()> {
    let mut names = vec![];
    for entry in fs::Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if is_partial(&name) {
            names.push(name);
        }
    }
    for name in names {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let Ok(file) = fs::openat(folder, &name[..], flags, Mode::empty()) else { continue };
        let is_file =
            fs::fstat(&file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        if is_file && fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            fs::unlinkat(folder, &name[..], AtFlags::empty())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_holds_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let names = [".1-0.esker-partial", ".2-7.esker-partial", ".x-0.esker-partial", "1-0.esker-partial"];
        names.iter().for_each(|name| std::fs::write(folder.path().join(name), "x").unwrap());
        let held = File::open(folder.path().join(names[1])).unwrap();
        hold(&held);
        let fd = fs::open(folder.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        sweep(&fd).unwrap();
        let there = |name: &str| folder.path().join(name).exists();
        assert_eq!(names.map(there), [false, true, true, true]);
        drop(held);
        sweep(&fd).unwrap();
        assert_eq!(names.map(there), [false, false, true, true]);
        assert!(is_partial(&partial_name()));
    }
}
