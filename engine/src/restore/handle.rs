//! Handles on the entries of a folder: each name is looked up once, through no link, and all later steps use the
//! handle. The owner of the folder can rename its entries at any moment.

use rustix::fd::{AsFd, AsRawFd as _, OwnedFd};
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::io;

/// Device and inode.
pub(super) type Place = (u64, u64);

pub(super) fn place(stat: &Stat) -> Place {
    (stat.st_dev, stat.st_ino)
}

/// The error of a name that leads to something else than a moment before.
pub(super) fn exchanged() -> io::Error {
    io::Error::other("somebody exchanged it while it was being restored")
}

pub(super) fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_ours(stat: &Stat) -> bool {
    stat.st_uid == rustix::process::geteuid().as_raw()
}

/// The names in a folder.
pub(super) fn names_in(folder: &impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = vec![];
    for entry in fs::Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(&name[..], b"." | b"..") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Opens a folder by its name in another, through no link.
pub(super) fn open_at(parent: &impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    Ok(fs::openat(parent, name, flags, Mode::empty())?)
}

/// A handle on whatever has a name, which opens nothing: of a pipe, a device, a link, or what may not be read.
pub(super) fn look_at(parent: &impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(parent, name, flags, Mode::empty())?)
}

/// Where a handle is a path that leads to it and nowhere else (proc_pid_fd(5)), for calls that take no handle.
pub(super) fn path_of(handle: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", handle.as_raw_fd())
}

/// Sets the mode of what a handle of any kind is on, no link.
pub(super) fn chmod(handle: &OwnedFd, mode: Mode) -> io::Result<()> {
    Ok(fs::chmodat(CWD, path_of(handle), mode, AtFlags::empty())?)
}

/// Opens a regular file. One of ours that may not be read is opened nevertheless, by another mode.
pub(super) fn open_file(parent: &impl AsFd, name: &[u8]) -> io::Result<(OwnedFd, Stat)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match fs::openat(parent, name, flags | OFlags::NOFOLLOW, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let handle = look_at(parent, name)?;
            let stat = fs::fstat(&handle)?;
            if !is_ours(&stat) || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(Errno::ACCESS.into());
            }
            chmod(&handle, Mode::RWXU)?;
            fs::open(path_of(&handle), flags, Mode::empty())?
        }
        file => file?,
    };
    let stat = fs::fstat(&file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok((file, stat)),
        _ => Err(exchanged()),
    }
}

/// Opens a folder and gives its owner the right to change it, if that is missing and it is ours; the mode that it had, if
/// that was changed.
pub(super) fn open_unlocked(parent: &impl AsFd, name: &[u8]) -> io::Result<(OwnedFd, Option<Mode>)> {
    let lacks = |stat: &Stat| {
        let mode = Mode::from_raw_mode(stat.st_mode);
        let is_root = rustix::process::geteuid().is_root();
        (!is_root && is_ours(stat) && !mode.contains(Mode::RWXU)).then_some(mode)
    };
    match open_at(parent, name) {
        Ok(folder) => {
            let locked = lacks(&fs::fstat(&folder)?);
            if let Some(mode) = locked {
                fs::fchmod(&folder, mode | Mode::RWXU)?;
            }
            Ok((folder, locked))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let handle = look_at(parent, name)?;
            let stat = fs::fstat(&handle)?;
            let Some(mode) = lacks(&stat).filter(|_| is_folder(&stat)) else { return Err(error) };
            chmod(&handle, mode | Mode::RWXU)?;
            Ok((open_at(&handle, b".")?, Some(mode)))
        }
        Err(error) => Err(error),
    }
}

/// Whether a folder belongs to the mount of the one that it is in: bind mounts are others, too.
pub(super) fn same_mount(parent: &impl AsFd, name: &[u8]) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match fs::openat2(parent, name, flags, Mode::empty(), resolve) {
        Ok(_) => Ok(true),
        Err(Errno::XDEV) => Ok(false),
        Err(Errno::NOSYS) => {
            let inner = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(fs::fstat(parent)?.st_dev == inner.st_dev)
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Does something in a folder of ours that may be closed to writing, and closes it again.
pub(super) fn with_right_to_write<T>(
    folder: &OwnedFd,
    mut work: impl FnMut() -> io::Result<T>,
) -> io::Result<T> {
    match work() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let stat = fs::fstat(folder)?;
            let mode = Mode::from_raw_mode(stat.st_mode);
            if mode.contains(Mode::RWXU) || fs::fchmod(folder, mode | Mode::RWXU).is_err() {
                return Err(error);
            }
            let done = work();
            fs::fchmod(folder, mode)?;
            done
        }
        done => done,
    }
}
