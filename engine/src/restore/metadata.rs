//! Owner, mode, attributes and times of restored entries. Every step is tried, whether or not others failed, and each
//! failure is reported.

use super::handle;
use crate::entry::{Entry, Kind};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{self, AtFlags, CWD, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::fmt::Display;

/// What could not be set, in words; empty if all is as it was.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unset(Vec<String>);

impl Unset {
    pub(super) fn note(&mut self, step: impl Display, error: impl Display) {
        self.0.push(format!("{step} could not be set: {error}"));
    }

    fn step(&mut self, step: impl Display, result: rustix::io::Result<()>) {
        if let Err(errno) = result {
            self.note(step, std::io::Error::from(errno));
        }
    }

    /// The message, if there is anything to say.
    pub(super) fn message(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.join("; "))
    }
}

fn uid(entry: &Entry) -> Option<Uid> {
    Some(Uid::from_raw(entry.uid))
}

fn gid(entry: &Entry) -> Option<Gid> {
    Some(Gid::from_raw(entry.gid))
}

fn owner(entry: &Entry) -> String {
    format!("owner {}:{}", entry.uid, entry.gid)
}

/// Only root may change owners; all other users keep their files, as with tar and restic.
fn own(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::PERM) if !rustix::process::geteuid().is_root() => Ok(()),
        result => result,
    }
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.seconds, tv_nsec: entry.mtime.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;

/// Capabilities of a program, which whoever starts it gets (capabilities(7)).
const CAPABILITIES: &[u8] = b"security.capability";

/// What an entry gives to whoever starts a program, or makes a file in a folder, as far as the owner is the snapshot's:
/// with another one it would be given in the name of somebody whom nobody chose.
struct Rights {
    mode: u32,
    /// Whether capabilities are set.
    capabilities: bool,
}

impl Rights {
    fn of(entry: &Entry, stat: Option<&Stat>) -> Self {
        let is_owner = stat.is_some_and(|stat| stat.st_uid == entry.uid);
        let is_group = stat.is_some_and(|stat| stat.st_gid == entry.gid);
        let mut mode = entry.mode;
        if !is_owner {
            mode &= !SETUID;
        }
        if !is_group {
            mode &= !SETGID;
        }
        Self { mode, capabilities: is_owner && is_group }
    }
}

/// Whether an attribute is an access control list, which contains the mode.
fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

/// Most bytes of the names of a file's attributes (`XATTR_LIST_MAX`, xattr(7)).
const MOST_NAMES: usize = 64 << 10;

/// The names of a file's attributes, each with a zero after it; those of most files are short.
fn attributes(file: &impl AsFd) -> Vec<u8> {
    let mut names = vec![0; 512];
    let mut len = fs::flistxattr(file, &mut names[..]);
    if len == Err(Errno::RANGE) {
        names.resize(MOST_NAMES, 0);
        len = fs::flistxattr(file, &mut names[..]);
    }
    names.truncate(len.unwrap_or_default());
    names
}

/// Sets all of a file's or folder's. The owner comes first, because changing it clears setuid; then attributes, for which
/// a user needs the right to write; then the mode, then the lists that contain it; times last.
pub(super) fn apply(file: &impl AsFd, entry: &Entry, no_owner: bool) -> Unset {
    let mut unset = Unset::default();
    if !no_owner {
        unset.step(owner(entry), own(fs::fchown(file, uid(entry), gid(entry))));
    }
    // Whose it is matters for few.
    let gives_rights =
        entry.mode & (SETUID | SETGID) != 0 || entry.xattrs.iter().any(|(name, _)| name == CAPABILITIES);
    let stat = gives_rights.then(|| fs::fstat(file).ok()).flatten();
    let rights = Rights::of(entry, stat.as_ref());
    let is_wanted = |name: &[u8]| rights.capabilities || name != CAPABILITIES;
    let names = attributes(file);
    for name in names.split(|byte| *byte == 0) {
        let is_kept = is_wanted(name) && entry.xattrs.iter().any(|(wanted, _)| wanted == name);
        if !name.is_empty() && !is_kept {
            // What cannot be removed (a security label, say) belongs to the system, not to the file.
            let _ = fs::fremovexattr(file, name);
        }
    }
    let set = |unset: &mut Unset, acls: bool| {
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_acl(name) == acls && is_wanted(name)) {
            let result = fs::fsetxattr(file, &name[..], value, XattrFlags::empty());
            unset.step(format_args!("attribute {}", crate::shown::name(name)), result);
        }
    };
    set(&mut unset, false);
    let mode = rights.mode;
    unset.step(format_args!("mode {mode:o}"), fs::fchmod(file, Mode::from_raw_mode(mode)));
    set(&mut unset, true);
    unset.step("time", fs::futimens(file, &times(entry)));
    unset
}

/// Sets what can be set of a symbolic link, pipe or device, by a handle on it (`O_PATH`).
pub(super) fn apply_to_special(handle: &OwnedFd, entry: &Entry, no_owner: bool) -> Unset {
    let mut unset = Unset::default();
    if !no_owner {
        let result = fs::chownat(handle, "", uid(entry), gid(entry), AtFlags::EMPTY_PATH);
        unset.step(owner(entry), own(result));
    }
    let stat = fs::fstat(handle).ok();
    let mode = Rights::of(entry, stat.as_ref()).mode;
    if entry.kind != Kind::Symlink
        && stat.is_none_or(|stat| stat.st_mode & 0o7777 != mode)
        && let Err(error) = handle::chmod(handle, Mode::from_raw_mode(mode))
    {
        unset.note(format_args!("mode {mode:o}"), error);
    }
    let path = handle::path_of(handle);
    unset.step("time", fs::utimensat(CWD, path, &times(entry), AtFlags::empty()));
    unset
}
