//! What a data directory has that a backup has not, or not of this kind: it goes before the backup's files come.

use super::{DataDirectory, failed};
use engine::restore::target::split;
use engine::{Error, Result};
use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;

/// What file systems have in their root.
pub(super) const OF_FILE_SYSTEM: &[u8] = b"lost+found";
/// What the folder of a repository has.
const REPOSITORY: [&str; 2] = ["HEAD", "packs"];

/// What is expected at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Folder,
    File,
    /// What the restore itself puts there.
    Own,
}

/// What is expected, by paths.
pub(crate) type Expected = BTreeMap<Vec<u8>, Known>;

impl DataDirectory {
    /// Paths that are there and not expected, or of another kind; of a folder only its own.
    ///
    /// # Errors
    /// [`Error::Refused`] where a link or another file system has the place of a folder of the backup: what is behind it may be
    /// anybody's.
    pub(crate) fn surplus(&self, expected: &Expected) -> Result<Vec<Vec<u8>>> {
        let mut surplus = vec![];
        self.look_in(&[], expected, &mut surplus)?;
        Ok(surplus)
    }

    fn look_in(&self, folder: &[u8], expected: &Expected, surplus: &mut Vec<Vec<u8>>) -> Result<()> {
        let error = failed("read", &self.shown(folder));
        let opened = self.root.open_beneath(folder, OFlags::DIRECTORY).map_err(&error)?;
        for (name, kind) in names(&opened).map_err(&error)? {
            if name == OF_FILE_SYSTEM {
                continue;
            }
            let path = if folder.is_empty() { name } else { [folder, b"/", &name].concat() };
            if kind == FileType::Directory && self.root.is_mount(&path) {
                let shown = engine::shown::path(&self.shown(&path));
                return Err(Error::Refused(format!(
                    "another file system is mounted on {shown}: unmount it, or restore into an empty folder; nothing was changed"
                )));
            }
            match (expected.get(&path), kind) {
                (Some(Known::Folder), FileType::Directory) => self.look_in(&path, expected, surplus)?,
                (Some(Known::Folder), FileType::Symlink) => {
                    let shown = engine::shown::path(&self.shown(&path));
                    return Err(Error::Refused(format!(
                        "{shown} is a link, and none is followed: move what it leads to into its place, or restore into an \
                         empty folder; nothing was changed"
                    )));
                }
                (Some(Known::File), FileType::RegularFile) | (Some(Known::Own), _) => {}
                (_, FileType::Directory) => {
                    self.look_in_surplus(&path)?;
                    surplus.push(path);
                }
                _ => surplus.push(path),
            }
        }
        Ok(())
    }

    /// That a folder which goes holds nothing that is nobody's to remove.
    fn look_in_surplus(&self, folder: &[u8]) -> Result<()> {
        let error = failed("read", &self.shown(folder));
        let opened = self.root.open_beneath(folder, OFlags::DIRECTORY).map_err(&error)?;
        let names = names(&opened).map_err(&error)?;
        if REPOSITORY.iter().all(|own| names.iter().any(|(name, _)| name == own.as_bytes())) {
            let shown = engine::shown::path(&self.shown(folder));
            return Err(Error::Refused(format!(
                "{shown} looks like a repository, and the backup does not have it: move it away; nothing was changed"
            )));
        }
        for (name, kind) in names {
            let path = [folder, b"/", &name].concat();
            if kind != FileType::Directory {
                continue;
            }
            if self.root.is_mount(&path) {
                let shown = engine::shown::path(&self.shown(&path));
                return Err(Error::Refused(format!(
                    "another file system is mounted on {shown}: unmount it, or restore into an empty folder; nothing was changed"
                )));
            }
            self.look_in_surplus(&path)?;
        }
        Ok(())
    }

    /// Removes what is at a path, with everything in it, through no link.
    pub(crate) fn remove_all(&self, path: &[u8]) -> Result<()> {
        let error = failed("remove", &self.shown(path));
        let parent = self.root.parent(path).map_err(&error)?;
        remove_from(&parent, split(path).1).map_err(&error)
    }
}

/// The names in a folder and what they are.
pub(super) fn names(folder: &OwnedFd) -> io::Result<Vec<(Vec<u8>, FileType)>> {
    let mut all = vec![];
    for entry in fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes().to_vec();
        if matches!(&name[..], b"." | b"..") {
            continue;
        }
        // Not every file system says it with the name.
        let kind = match entry.file_type() {
            FileType::Unknown => {
                FileType::from_raw_mode(fs::statat(folder, &name[..], AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
            }
            kind => kind,
        };
        all.push((name, kind));
    }
    all.sort_unstable_by(|one, two| one.0.cmp(&two.0));
    Ok(all)
}

fn remove_from(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let refused = match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(errno @ (Errno::ISDIR | Errno::PERM)) => errno,
        Err(errno) => return Err(errno.into()),
    };
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    // On another file system, nothing is removed.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let folder = match fs::openat2(parent, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS) => fs::openat(parent, name, flags, Mode::empty()),
        opened => opened,
    };
    let folder = match folder {
        // No folder: so that was not the reason.
        Err(Errno::NOTDIR) => return Err(refused.into()),
        folder => folder?,
    };
    for (inner, _) in names(&folder)? {
        remove_from(&folder, &inner)?;
    }
    Ok(fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
