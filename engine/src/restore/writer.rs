//! The writing side of a restore: one file at a time, directories finished when they are left.

use super::handle::is_folder;
use super::metadata::Unset;
use super::newfile::NewFile;
use super::remove::Remover;
use super::scope::Scope;
use super::target::{Folder, Target, split};
use super::{Action, Job, Overwrite, Report, RestoreOptions};
use crate::entry::{Entry, Kind, display_path, is_beneath};
use crate::{Counter, Error, ItemError, Monitor, Result};
use chunkstore::store::describe;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;

/// The writing side: one file at a time, directories when they are left.
pub(super) struct Writer<'a> {
    pub(super) target: Target,
    options: &'a RestoreOptions,
    monitor: &'a dyn Monitor,
    remover: Remover<'a>,
    file: Option<OpenFile>,
    /// Directories that were entered, with what was seen in them.
    folders: Vec<OpenFolder>,
    /// Names that are whole, of files with several.
    whole: HashSet<Vec<u8>>,
    damaged: u64,
}

struct OpenFile {
    job: Job,
    file: Option<NewFile>,
    failed: bool,
}

/// What a folder of the snapshot is to the restore.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It is restored.
    Restored,
    /// Something beneath it is: it is made with its own metadata if it is not there, and else left as it is.
    Above,
    /// Nothing beneath it has been restored so far.
    Outside,
}

struct OpenFolder {
    path: Vec<u8>,
    entry: Option<Entry>,
    role: Role,
    /// What became of it in the target.
    state: Option<Folder>,
    /// Names that the snapshot has in it, if others are to be removed.
    children: HashSet<Vec<u8>>,
    /// Whether anything beneath it is restored.
    holds: bool,
}

impl OpenFolder {
    fn new(path: Vec<u8>, entry: Option<Entry>) -> Self {
        Self { path, entry, role: Role::Outside, state: None, children: HashSet::new(), holds: false }
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        options: &'a RestoreOptions,
        scope: &'a Scope,
        monitor: &'a dyn Monitor,
    ) -> Result<Self> {
        let target = Target::open(&options.target, options.dry_run)?;
        let protected = options.protected.iter().filter_map(|path| std::fs::metadata(path).ok());
        let remover = Remover {
            scope,
            monitor,
            dry_run: options.dry_run,
            root: &options.target,
            protected: protected.map(|metadata| (metadata.dev(), metadata.ino())).collect(),
            notes: vec![],
            left_out: 0,
        };
        Ok(Self {
            target,
            options,
            monitor,
            remover,
            file: None,
            folders: vec![OpenFolder::new(vec![], None)],
            whole: HashSet::new(),
            damaged: 0,
        })
    }

    fn fail(&self, path: &[u8], why: &dyn std::fmt::Display) {
        self.monitor.error(ItemError {
            during: "restore",
            item: display_path(path),
            message: why.to_string(),
        });
    }

    /// Reports metadata that could not be set on an entry.
    fn unset(&self, path: &[u8], result: io::Result<Unset>) -> bool {
        match result.map(|unset| unset.message()) {
            Ok(None) => return true,
            Ok(Some(message)) => self.fail(path, &message),
            Err(error) => self.fail(path, &error),
        }
        false
    }

    /// Notes that the snapshot has an entry, whether it is restored or not.
    fn enter(&mut self, path: &[u8]) {
        self.leave_folders(path);
        if let Some(folder) = self.folders.last_mut().filter(|_| self.options.delete) {
            let rest = path.get(folder.path.len()..).unwrap_or_default();
            let rest = rest.strip_prefix(b"/").unwrap_or(rest);
            let first = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
            folder.children.insert(first.to_vec());
        }
    }

    /// An entry that the filters leave out: it is only known to be there.
    pub(super) fn pass(&mut self, path: Vec<u8>, entry: Entry) {
        self.enter(&path);
        if entry.kind == Kind::Dir {
            self.folders.push(OpenFolder::new(path, Some(entry)));
        }
    }

    /// Creates the folders above a restored path.
    fn reach(&mut self, next: &[u8], above: Vec<(Vec<u8>, Entry)>) {
        self.leave_folders(next);
        for (path, entry) in above {
            if !self.folders.iter().any(|folder| folder.path == path) {
                self.enter(&path);
                self.folders.push(OpenFolder::new(path, Some(entry)));
            }
        }
        for at in 0..self.folders.len() {
            let is_blocked = self.is_blocked();
            let Some(OpenFolder { path, entry: Some(entry), role: Role::Outside, .. }) = self.folders.get(at)
            else {
                continue;
            };
            // Beneath one that could not be made, which was said, none is tried.
            let state = if is_blocked { None } else { self.make_above(path, entry) };
            if let Some(folder) = self.folders.get_mut(at) {
                folder.role = Role::Above;
                folder.state = state;
            }
        }
        self.enter(next);
        self.folders.iter_mut().for_each(|folder| folder.holds = true);
    }

    /// Creates a folder above restored entries, if it does not exist.
    fn make_above(&self, path: &[u8], entry: &Entry) -> Option<Folder> {
        match self.target.make_folder(path, false) {
            Ok(Folder::Made) => {
                // An interrupted restore leaves it as it shall be, but for its time. What fails is said at the end.
                let open = Entry { mode: entry.mode | 0o700, ..entry.clone() };
                let _ = self.target.set_metadata(path, &open, self.options.no_owner);
                Some(Folder::Made)
            }
            Ok(there) => Some(there),
            Err(error) => {
                self.fail(path, &error);
                None
            }
        }
    }

    /// Begins an entry; its content follows.
    pub(super) fn begin(&mut self, mut job: Job) {
        let above = std::mem::take(&mut job.above);
        self.reach(&job.path, above);
        self.monitor.current(&job.entry.path);
        if self.is_blocked() {
            self.fail(&job.path, &"the folder above it is not there");
            self.file = Some(OpenFile { job, file: None, failed: true });
            return;
        }
        let mut failed = false;
        if job.entry.kind == Kind::Dir {
            let replace = self.options.overwrite != Overwrite::Never;
            let state = self.target.make_folder(&job.path, replace);
            if let Err(error) = &state {
                self.fail(&job.path, error);
                failed = true;
            }
            self.folders.push(OpenFolder {
                role: Role::Restored,
                state: state.ok(),
                ..OpenFolder::new(job.path.clone(), Some(job.entry.clone()))
            });
        }
        self.file = Some(OpenFile { job, file: None, failed });
        self.start_file();
    }

    /// Whether a folder above what comes could not be made.
    fn is_blocked(&self) -> bool {
        self.folders.iter().any(|folder| folder.role != Role::Outside && folder.state.is_none())
    }

    /// Opens the file to be written; special files are created at once.
    fn start_file(&mut self) {
        let Some(mut open) = self.file.take() else { return };
        let Job { entry, path, action, .. } = &open.job;
        let no_owner = self.options.no_owner;
        let done = match (action, entry.kind) {
            (Action::Skip | Action::Drop, _) | (_, Kind::Dir | Kind::Socket) => true,
            (Action::Keep, _) => self.unset(path, self.target.set_metadata(path, entry, no_owner)),
            (Action::Write { keep }, Kind::File) => match self.target.create(path, *keep) {
                Ok(file) => {
                    open.file = Some(file);
                    true
                }
                Err(error) => {
                    self.fail(path, &error);
                    false
                }
            },
            (Action::Write { .. }, _) if !self.make_room(path) => false,
            (Action::Write { .. }, _) => {
                let made = self.target.make_special(path, entry, no_owner);
                let is_made = made.is_ok();
                self.unset(path, made);
                is_made
            }
        };
        open.failed |= !done;
        self.file = Some(open);
    }

    /// Where a folder has the place of a file: an empty one goes, and with `delete` one whose content may go.
    fn make_room(&mut self, path: &[u8]) -> bool {
        if !self.target.stat(path).is_some_and(|stat| is_folder(&stat)) {
            return true;
        }
        if self.options.delete {
            let gone = match self.target.parent(path) {
                Ok(parent) => self.remover.folder(&parent, split(path).1, path),
                Err(_) => false,
            };
            if !gone {
                self.fail(path, &"a folder has its place, and something in it is not to be removed");
            }
            return gone;
        }
        match self.target.remove_empty(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                self.fail(path, &"a folder that is not empty has its place; --delete removes it");
                false
            }
            Err(error) => {
                self.fail(path, &error);
                false
            }
        }
    }

    /// Gives what was restored as `first` another name. `false` if that cannot be done, or not here: then the entry
    /// is to be written by itself.
    pub(super) fn link(&mut self, job: &mut Job, first: &[u8]) -> bool {
        if !self.whole.contains(first) {
            return false;
        }
        let above = std::mem::take(&mut job.above);
        self.reach(&job.path, above);
        let is_linked = self.target.is_linked(first, &job.path);
        if self.is_blocked() {
            return false;
        }
        if !is_linked && (!self.make_room(&job.path) || self.target.link(first, &job.path).is_err()) {
            return false;
        }
        self.monitor.count(Counter::FilesDone, 1);
        self.monitor.count(Counter::FilesSkipped, u64::from(is_linked));
        true
    }

    pub(super) fn chunk(&mut self, chunk: chunkstore::Result<Vec<u8>>, offset: u64) -> Result<()> {
        let Some(open) = &mut self.file else { return Ok(()) };
        let Some(file) = &mut open.file else { return Ok(()) };
        if open.failed {
            return Ok(());
        }
        let why = match chunk {
            Ok(bytes) => {
                self.monitor.count(Counter::BytesDone, bytes.len() as u64);
                let zeros = self.options.sparse && bytes.iter().all(|byte| *byte == 0);
                match if zeros { Ok(()) } else { file.write_at(&bytes, offset) } {
                    Ok(()) => return Ok(()),
                    // A full disk will not be less full for the next file.
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                        return Err(Error::Target {
                            op: "write",
                            path: display_path(&open.job.path),
                            source: error,
                        });
                    }
                    Err(error) => error.to_string(),
                }
            }
            Err(error) if error.is_damage() => {
                self.damaged += 1;
                describe(&error)
            }
            Err(error) => return Err(error.into()),
        };
        open.failed = true;
        let path = open.job.path.clone();
        self.fail(&path, &why);
        Ok(())
    }

    /// A stretch that needs nothing written: a hole, or anything in a dry run.
    pub(super) fn hole(&mut self, len: u64) {
        if self.file.as_ref().is_some_and(|open| open.file.is_some() && !open.failed) {
            self.monitor.count(Counter::BytesDone, len);
        }
    }

    /// Throws away what was written of the current entry.
    pub(super) fn abandon(&mut self, damaged: bool) {
        let Some(OpenFile { job, failed, .. }) = self.file.take() else { return };
        self.monitor.count(Counter::FilesFailed, u64::from(damaged || failed));
        if damaged && !failed {
            self.damaged += 1;
            self.fail(&job.path, &"its list of chunks is damaged; it was not restored");
        }
    }

    /// Ends the current entry.
    pub(super) fn end(&mut self, size: u64) {
        let Some(OpenFile { job, file, failed }) = self.file.take() else { return };
        let several = job.entry.kind == Kind::File && job.entry.links > 1;
        let is_done = match job.action {
            Action::Drop => return,
            Action::Keep | Action::Skip => {
                self.monitor.count(Counter::FilesSkipped, 1);
                if several && matches!(job.action, Action::Keep) && !failed {
                    self.whole.insert(job.path);
                }
                true
            }
            Action::Write { .. } => match file {
                None => !failed,
                Some(_) if failed => false,
                // Until here the old one is in its place.
                Some(file) => {
                    match file.finish(size, &job.entry, self.options.no_owner, || self.make_room(&job.path)) {
                        Ok(None) => false,
                        Ok(Some(unset)) => {
                            self.unset(&job.path, Ok(unset));
                            if several {
                                self.whole.insert(job.path);
                            }
                            true
                        }
                        Err(error) => {
                            self.fail(&job.path, &error);
                            false
                        }
                    }
                }
            },
        };
        self.monitor.count(if is_done { Counter::FilesDone } else { Counter::FilesFailed }, 1);
    }

    /// Leaves the directories that do not contain `next`: deletes surplus names, sets their metadata.
    fn leave_folders(&mut self, next: &[u8]) {
        while let Some(folder) = self.folders.pop_if(|folder| !is_beneath(next, &folder.path)) {
            self.leave(&folder);
        }
    }

    fn leave(&mut self, folder: &OpenFolder) {
        if self.options.delete && self.remover.scope.may_hold(&folder.path) {
            self.remove_others(folder);
        }
        let Some(entry) = &folder.entry else { return };
        match (folder.role, folder.state) {
            (Role::Restored, Some(_)) | (Role::Above, Some(Folder::Made)) => {
                let result = self.target.set_metadata(&folder.path, entry, self.options.no_owner);
                self.unset(&folder.path, result);
            }
            (Role::Above, Some(Folder::There(Some(mode)))) => self.restore_mode(&folder.path, mode),
            _ => {}
        }
    }

    fn restore_mode(&self, path: &[u8], mode: Mode) {
        if let Err(error) = self.target.set_mode(path, mode) {
            self.fail(path, &error);
        }
    }

    /// Removes names that the snapshot does not have from one of its folders.
    fn remove_others(&mut self, folder: &OpenFolder) {
        // A folder on which something else is mounted, of which nothing was restored, was a mount point when it was
        // backed up, too: its content is not what the snapshot is about.
        if !folder.holds && self.target.is_mount(&folder.path) {
            let why = "another file system is mounted there, and the snapshot has nothing for it";
            return self.remover.note(&folder.path, &format!("is left as it is: {why}"));
        }
        if self.remover.scope.is_unseen(&folder.path) {
            if self.target.stat(&folder.path).is_some() {
                self.remover
                    .note(&folder.path, "is left as it is: the backup did not see all that was in it");
            }
            return;
        }
        match self.target.open_beneath(&folder.path, OFlags::DIRECTORY) {
            Ok(there) if self.is_in_marked(&folder.path) => {
                self.remover.leave(&there, &folder.path, &folder.children);
            }
            Ok(there) => {
                self.remover.others(&there, &folder.path, &folder.children);
            }
            // Of what the filters leave out, and in a dry run, it need not be there, nor be a folder.
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                _ if error.kind() == io::ErrorKind::NotFound => {}
                _ => self.remover.fail(&folder.path, &error),
            },
        }
    }

    /// Whether a folder, or one above it, is marked in the target so that the backup would have left it out.
    fn is_in_marked(&self, folder: &[u8]) -> bool {
        let scope = &self.remover.scope;
        let ends = folder.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        scope.has_markers()
            && ends.chain([folder.len()]).any(|end| {
                let path = folder.get(..end).unwrap_or_default();
                let there = self.target.open_beneath(path, OFlags::DIRECTORY);
                there.is_ok_and(|there| scope.is_marked(path, &there))
            })
    }

    pub(super) fn finish(mut self) -> Report {
        while let Some(folder) = self.folders.pop() {
            self.leave(&folder);
        }
        let Remover { notes, left_out, .. } = self.remover;
        Report { damaged: self.damaged, notes, left_out }
    }
}
