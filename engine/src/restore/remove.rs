//! Removing names that a snapshot does not have: only within the scope, by name, never through a symbolic link, never
//! in another file system or mount than its folder's, and never files that esker itself needs.

use super::handle::{self, exchanged, names_in, open_at, open_unlocked, same_mount, with_right_to_write};
use super::scope::Scope;
use crate::filters::Sort;
use crate::{Counter, ItemError, Monitor};
use rustix::fd::OwnedFd;
use rustix::fs::{self, AtFlags, FileType, Stat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// What removes, and says what it removed.
pub(super) struct Remover<'a> {
    pub(super) scope: &'a Scope,
    pub(super) monitor: &'a dyn Monitor,
    pub(super) dry_run: bool,
    /// The target as it was named, for messages.
    pub(super) root: &'a Path,
    /// Device and inode of folders that stay: the repository, its cache, its tiers.
    pub(super) protected: HashSet<(u64, u64)>,
    /// What stays although it would have to go, for people.
    pub(super) notes: Vec<String>,
    /// Names that stay because the backup left them out by its filters.
    pub(super) left_out: u64,
}

impl Remover<'_> {
    fn shown(&self, place: &[u8]) -> PathBuf {
        if place.is_empty() { self.root.to_owned() } else { self.root.join(OsStr::from_bytes(place)) }
    }

    /// Says what becomes of something, for people.
    pub(super) fn note(&mut self, place: &[u8], what: &str) {
        self.notes.push(format!("{} {what}", crate::shown::path(&self.shown(place))));
    }

    pub(super) fn fail(&self, place: &[u8], why: &dyn std::fmt::Display) {
        let item = crate::shown::path(&self.shown(place));
        self.monitor.error(ItemError {
            during: "delete",
            item,
            message: format!("cannot be removed: {why}"),
        });
    }

    /// Removes what is in a folder but not among `keep`; whether the folder is empty then.
    pub(super) fn others(&mut self, folder: &OwnedFd, place: &[u8], keep: &HashSet<Vec<u8>>) -> bool {
        let names = match names_in(folder) {
            Ok(names) => names,
            Err(error) => {
                self.fail(place, &error);
                return false;
            }
        };
        let mut is_empty = true;
        for name in names {
            // What another restore is writing is its own.
            let stays = keep.contains(&name) || super::newfile::is_partial(&name);
            is_empty &= !stays && self.name(folder, &name, &join(place, &name));
            if self.monitor.interrupted() {
                return false;
            }
        }
        is_empty
    }

    /// Counts what would have to go from a folder that the backup would have left out as it is.
    pub(super) fn leave(&mut self, folder: &OwnedFd, place: &[u8], keep: &HashSet<Vec<u8>>) {
        let names = names_in(folder).unwrap_or_default();
        let others = names.iter().filter(|name| !keep.contains(*name));
        self.left_out +=
            others.filter(|name| self.scope.may_remove(&join(place, name), false)).count() as u64;
    }

    /// Makes room for a file where a folder is: removes what is in it, then it; whether it is gone.
    pub(super) fn folder(&mut self, parent: &OwnedFd, name: &[u8], place: &[u8]) -> bool {
        let gone = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io::Error::from)
            .and_then(|stat| self.content(parent, name, place, &stat));
        match gone {
            Ok(true) => self.unlink(parent, name, place, true),
            Ok(false) => false,
            Err(error) => {
                self.fail(place, &error);
                false
            }
        }
    }

    /// Removes a name and everything in it, as far as the scope allows; returns whether it is gone.
    fn name(&mut self, parent: &OwnedFd, name: &[u8], place: &[u8]) -> bool {
        let stat = match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return true,
            Err(errno) => {
                self.fail(place, &io::Error::from(errno));
                return false;
            }
        };
        if self.scope.is_unseen(place) {
            self.note(place, "stays: the backup could not see it");
            return false;
        }
        let sort = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Sort::Folder,
            FileType::RegularFile => Sort::File(u64::try_from(stat.st_size).unwrap_or_default()),
            _ => Sort::Other,
        };
        let is_dir = sort == Sort::Folder;
        if self.scope.is_left_out(place, sort) {
            self.left_out += u64::from(self.scope.may_remove(place, is_dir));
            return false;
        }
        if is_dir {
            if !self.scope.may_hold(place) {
                return false;
            }
            match self.content(parent, name, place, &stat) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    self.fail(place, &error);
                    return false;
                }
            }
        }
        self.scope.may_remove(place, is_dir) && self.unlink(parent, name, place, is_dir)
    }

    /// Removes the content of a folder as far as the scope allows; returns whether it is empty then.
    fn content(&mut self, parent: &OwnedFd, name: &[u8], place: &[u8], stat: &Stat) -> io::Result<bool> {
        let obstacle = match () {
            () if self.protected.contains(&(stat.st_dev, stat.st_ino)) => "esker keeps its own data there",
            () if !same_mount(parent, name)? => "another file system is mounted there",
            () => "",
        };
        if !obstacle.is_empty() {
            if self.scope.may_remove(place, true) {
                self.note(place, &format!("stays: {obstacle}"));
            }
            return Ok(false);
        }
        let (folder, locked) =
            if self.dry_run { (open_at(parent, name)?, None) } else { open_unlocked(parent, name)? };
        if handle::place(&fs::fstat(&folder)?) != handle::place(stat) {
            return Err(exchanged());
        }
        let is_marked = self.scope.is_marked(place, &folder);
        let is_empty = match is_marked {
            true => {
                self.left_out += u64::from(self.scope.may_remove(place, true));
                false
            }
            false => self.others(&folder, place, &HashSet::new()),
        };
        // What is to be removed itself needs no mode.
        if let Some(mode) = locked.filter(|_| !(is_empty && self.scope.may_remove(place, true))) {
            fs::fchmod(&folder, mode)?;
        }
        Ok(is_empty)
    }

    fn unlink(&mut self, parent: &OwnedFd, name: &[u8], place: &[u8], is_dir: bool) -> bool {
        if !self.dry_run {
            let flags = if is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() };
            if let Err(error) = with_right_to_write(parent, || Ok(fs::unlinkat(parent, name, flags)?)) {
                self.fail(place, &error);
                return false;
            }
        }
        self.monitor.removal(&self.shown(place), self.dry_run);
        self.monitor.count(Counter::Deleted, 1);
        true
    }
}

pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}
