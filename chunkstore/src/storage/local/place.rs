//! Where a file is. Below the folders that hosts write to, no symbolic link is followed: whoever may write there could
//! put one in the place of a folder, between a listing and a removal, and have others removed in its stead.

use crate::format::names;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

/// What a folder holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its name in the folder. Below folders that hosts write to, that of a link, a pipe or anything else that is neither file
    /// nor folder ends with `%00`, so that it is no object's.
    pub name: String,
    /// `None` for a folder, else the length in bytes.
    pub len: Option<u64>,
}

/// Folders of a repository that others than its owner may write below. They themselves may be links that the owner made.
const SHARED: [&str; 2] = [names::INBOX, names::REPLIES];

/// Ends the listed name of what is neither file nor folder: no file's name has the byte 0.
const NO_FILE: &str = "%00";

/// So often a folder is opened again that somebody renamed meanwhile: the kernel then cannot tell whether it is below.
const MOST_AGAIN: u32 = 16;

/// A file or folder: its name, and the folder that the name is resolved in.
pub(super) struct Place {
    /// The folder in which the name is one component that is no link; `None` for a path that is followed as it is.
    folder: Option<OwnedFd>,
    name: PathBuf,
}

impl Place {
    /// Where `path` leads, in a repository at `root`.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if a link is in the way where none may be.
    pub(super) fn of(root: Option<&Path>, path: &Path) -> io::Result<Self> {
        let as_it_is = || Self { folder: None, name: path.to_owned() };
        let Some((root, below)) = root.and_then(|root| Some((root, path.strip_prefix(root).ok()?))) else {
            return Ok(as_it_is());
        };
        let mut parts = below.components();
        let top = match parts.next() {
            Some(Component::Normal(top)) if SHARED.iter().any(|shared| top == *shared) => top,
            _ => return Ok(as_it_is()),
        };
        let below = unescaped(parts.as_path())?;
        let Some(name) = below.file_name().map(PathBuf::from) else { return Ok(as_it_is()) };
        if !below.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = retry_on_intr(|| rustix::fs::openat(CWD, root.join(top), flags, Mode::empty()))?;
        let folder = match below.parent().filter(|above| !above.as_os_str().is_empty()) {
            None => top,
            Some(above) => beneath(top, above).map_err(missing_if_link)?,
        };
        Ok(Self { folder: Some(folder), name })
    }

    /// The same of a name that was listed, to remove it.
    ///
    /// # Errors
    ///
    /// The same, and [`io::ErrorKind::NotFound`] if a file took the place of what was none.
    pub(super) fn of_listed(root: Option<&Path>, path: &Path) -> io::Result<Self> {
        if let Some(unmarked) = path.as_os_str().as_bytes().strip_suffix(NO_FILE.as_bytes()) {
            let place = Self::of(root, Path::new(OsStr::from_bytes(unmarked)))?;
            // Elsewhere no name is marked.
            if place.folder.is_some() {
                let is_file = FileType::from_raw_mode(place.stat()?.st_mode).is_file();
                return if is_file { Err(io::ErrorKind::NotFound.into()) } else { Ok(place) };
            }
        }
        Self::of(root, path)
    }

    fn at(&self) -> BorrowedFd<'_> {
        self.folder.as_ref().map_or(CWD, |folder| folder.as_fd())
    }

    fn done<T>(&self, call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
        let done = retry_on_intr(call);
        if self.folder.is_some() { done.map_err(missing_if_link) } else { Ok(done?) }
    }

    /// Opens it; a file that `flags` create gets `mode`.
    pub(super) fn open(&self, flags: OFlags, mode: u32) -> io::Result<File> {
        let follow = if self.folder.is_some() { OFlags::NOFOLLOW } else { OFlags::empty() };
        let flags = flags | follow | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(mode);
        Ok(self.done(|| rustix::fs::openat(self.at(), &self.name, flags, mode))?.into())
    }

    /// What the file system says of it.
    pub(super) fn stat(&self) -> io::Result<Stat> {
        let follow = if self.folder.is_some() { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
        self.done(|| rustix::fs::statat(self.at(), &self.name, follow))
    }

    /// Removes a file or, with [`AtFlags::REMOVEDIR`], an empty folder.
    pub(super) fn remove(&self, flags: AtFlags) -> io::Result<()> {
        self.done(|| rustix::fs::unlinkat(self.at(), &self.name, flags))
    }

    /// Makes a folder.
    pub(super) fn create_folder(&self, mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        self.done(|| rustix::fs::mkdirat(self.at(), &self.name, mode))
    }

    /// Renames it in one step; an existing file of that name is replaced.
    pub(super) fn rename(&self, to: &Self) -> io::Result<()> {
        self.done(|| rustix::fs::renameat(self.at(), &self.name, to.at(), &to.name))
    }

    /// Renames it in one step unless there is a file of that name.
    pub(super) fn rename_new(&self, to: &Self) -> io::Result<()> {
        let keep = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(self.at(), &self.name, to.at(), &to.name, keep) {
            // Some file systems cannot; all that can be trusted with a repository have links.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                let none = AtFlags::empty();
                self.done(|| rustix::fs::linkat(self.at(), &self.name, to.at(), &to.name, none))?;
                self.remove(none)
            }
            result => self.done(|| result),
        }
    }

    /// At most `most` names in a folder that is reached without a link, each with its length unless it is a folder; `None`
    /// for a path that is followed as it is.
    pub(super) fn list(&self, most: usize) -> Option<io::Result<Vec<Found>>> {
        self.folder.as_ref()?;
        let list = || {
            let folder = self.open(OFlags::RDONLY | OFlags::DIRECTORY, 0)?;
            let mut found = vec![];
            for entry in Dir::read_from(&folder)? {
                let entry = entry?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                let stat = match rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => continue,
                    stat => stat?,
                };
                let kind = FileType::from_raw_mode(stat.st_mode);
                let len = u64::try_from(stat.st_size).unwrap_or_default();
                let mut name = escaped(name.to_bytes());
                if !kind.is_file() && !kind.is_dir() {
                    name.push_str(NO_FILE);
                }
                found.push(Found { name, len: (!kind.is_dir()).then_some(len) });
                if found.len() >= most {
                    break;
                }
            }
            Ok(found)
        };
        Some(list())
    }
}

/// A name that others chose as text: bytes that are not UTF-8, and `%`, as `%` and two digits. No name of ours has any.
fn escaped(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        text.push_str(&chunk.valid().replace('%', "%25"));
        text.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    text
}

/// The reverse, of all parts of a path. Whatever [`escaped`] does not make is refused, so that no part becomes another one
/// that leads elsewhere.
fn unescaped(path: &Path) -> io::Result<PathBuf> {
    let bytes = path.as_os_str().as_bytes();
    if !bytes.contains(&b'%') {
        return Ok(path.to_owned());
    }
    let mut parts = bytes.split(|byte| *byte == b'%');
    let mut name = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let digits = part.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        name.push(byte.filter(|byte| *byte == b'%' || *byte >= 0x80).ok_or(io::ErrorKind::InvalidInput)?);
        name.extend_from_slice(&part[2..]);
    }
    Ok(OsString::from_vec(name).into())
}

/// What lies behind a link does not exist, where none is followed.
fn missing_if_link(error: Errno) -> io::Error {
    match error {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => {
            io::Error::new(io::ErrorKind::NotFound, "a symbolic link or a file is in its path")
        }
        error => error.into(),
    }
}

/// Opens a folder below another, without a link on the way.
fn beneath(top: OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    for _ in 0..MOST_AGAIN {
        match rustix::fs::openat2(&top, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Kernels before 5.6, and filters of system calls that do not know it (openat2(2)).
            Err(Errno::NOSYS | Errno::PERM) => break,
            opened => return opened,
        }
    }
    part_by_part(top, path)
}

/// The same where the kernel cannot do it at once: each part is opened in the one before, and none is a link.
fn part_by_part(top: OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = top;
    for part in path.components() {
        folder = retry_on_intr(|| rustix::fs::openat(&folder, part.as_os_str(), flags, Mode::empty()))?;
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_below_an_inbox_leads_nowhere_and_the_owners_own_do() {
        let folder = tempfile::tempdir().unwrap();
        let (root, elsewhere) = (folder.path().join("repo"), folder.path().join("elsewhere"));
        for path in ["repo", "elsewhere/host/run", "elsewhere/other"] {
            std::fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        for path in ["host/run/file", "other/file"] {
            std::fs::write(elsewhere.join(path), "x").unwrap();
        }
        for top in ["inbox", "packs"] {
            symlink(&elsewhere, root.join(top)).unwrap();
        }
        symlink(elsewhere.join("other"), elsewhere.join("host/link")).unwrap();
        symlink(elsewhere.join("other/file"), elsewhere.join("host/run/link")).unwrap();
        let read = |name: &str| {
            Place::of(Some(&root), &root.join(name)).and_then(|place| place.open(OFlags::RDONLY, 0))
        };
        for name in ["inbox/host/run/file", "packs/other/file", "packs/host/link/file", "inbox"] {
            read(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        for name in ["inbox/host/link/file", "inbox/host/link", "inbox/host/run/link"] {
            assert_eq!(read(name).unwrap_err().kind(), io::ErrorKind::NotFound, "{name}");
        }
        let upwards = read("inbox/host/../other/file").unwrap_err();
        assert_eq!(upwards.kind(), io::ErrorKind::InvalidInput);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for way in [beneath, part_by_part] {
            let open = |path: &str| {
                let top = rustix::fs::openat(CWD, &elsewhere, flags, Mode::empty()).unwrap();
                way(top, Path::new(path))
            };
            open("host/run").unwrap();
            open("host/link").unwrap_err();
        }
        let place = Place::of(Some(&root), &root.join("inbox/host")).unwrap();
        let mut listed = place.list(10).unwrap().unwrap();
        listed.sort();
        let folder = Found { name: "run".into(), len: None };
        assert!(
            matches!(&*listed, [link, run] if link.name == "link%00" && link.len.is_some() && *run == folder)
        );
        assert_eq!(place.list(1).unwrap().unwrap().len(), 1);
    }
}
