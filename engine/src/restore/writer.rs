//! The writing side of a restore: one file at a time, directories finished when they are left.

use super::target::{NewFile, Target};
use super::{Action, Job, RestoreOptions};
use crate::entry::{Entry, Kind, display_path, is_beneath};
use crate::{Counter, Error, ItemError, Monitor, Result};
use chunkstore::store::describe;
use std::collections::HashMap;

/// The writing side: one file at a time, directories when they are left.
pub(super) struct Writer<'a> {
    pub(super) target: Target,
    options: &'a RestoreOptions,
    monitor: &'a dyn Monitor,
    file: Option<OpenFile>,
    /// Directories that were entered, with what was seen in them.
    folders: Vec<OpenFolder>,
    /// First restored name of each inode with several.
    links: HashMap<(u64, u64), Vec<u8>>,
}

struct OpenFile {
    job: Job,
    file: Option<NewFile>,
    failed: bool,
}

struct OpenFolder {
    path: Vec<u8>,
    /// Its entry; `None` for one above what is restored, which is left as it is.
    entry: Option<Entry>,
    children: std::collections::HashSet<Vec<u8>>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(options: &'a RestoreOptions, monitor: &'a dyn Monitor) -> Result<Self> {
        let target = Target::open(&options.target, options.dry_run)?;
        let root = OpenFolder { path: vec![], entry: None, children: std::collections::HashSet::new() };
        Ok(Self { target, options, monitor, file: None, folders: vec![root], links: HashMap::new() })
    }

    fn fail(&self, path: &[u8], why: &dyn std::fmt::Display) {
        self.monitor.error(ItemError {
            during: "restore",
            item: display_path(path),
            message: why.to_string(),
        });
    }

    pub(super) fn begin(&mut self, job: Job) -> Result<()> {
        self.leave_folders(&job.path)?;
        if self.options.delete
            && let Some(folder) = self.folders.last_mut()
        {
            let name = job.path.get(folder.path.len()..).unwrap_or_default();
            let name = name.strip_prefix(b"/").unwrap_or(name);
            let first = name.split(|byte| *byte == b'/').next().unwrap_or_default();
            folder.children.insert(first.to_vec());
        }
        self.monitor.current(&job.entry.display_path());
        if job.entry.kind == Kind::Dir {
            if let Err(error) = self.target.make_folder(&job.path) {
                self.fail(&job.path, &error);
            }
            let children = std::collections::HashSet::new();
            self.folders.push(OpenFolder {
                path: job.path.clone(),
                entry: Some(job.entry.clone()),
                children,
            });
        }
        self.file = Some(OpenFile { job, file: None, failed: false });
        self.start_file();
        Ok(())
    }

    /// Opens what is to be written; special files are made at once.
    fn start_file(&mut self) {
        let Some(open) = &mut self.file else { return };
        let Job { entry, path, action } = &open.job;
        let result = match (action, entry.kind) {
            (Action::Skip | Action::Drop, _) | (_, Kind::Dir | Kind::Socket) => Ok(()),
            (Action::Keep, _) => match self.links.get(&(entry.device, entry.inode)) {
                Some(first) if entry.links > 1 => self.target.link(first, path),
                _ => {
                    if entry.links > 1 {
                        self.links.insert((entry.device, entry.inode), path.clone());
                    }
                    self.target.set_metadata(path, entry, self.options.no_owner)
                }
            },
            (Action::Write { keep }, Kind::File) => match self.links.get(&(entry.device, entry.inode)) {
                // Another name of a file that this run restored: no content of its own.
                Some(first) if entry.links > 1 => self.target.link(first, path),
                _ => self.target.create(path, *keep).map(|file| open.file = Some(file)),
            },
            (Action::Write { .. }, _) => self.target.make_special(path, entry, self.options.no_owner),
        };
        if let Err(error) = result {
            open.failed = true;
            let path = open.job.path.clone();
            self.fail(&path, &error);
        }
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
                    Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                        return Err(Error::Target {
                            op: "write",
                            path: display_path(&open.job.path),
                            source: error,
                        });
                    }
                    Err(error) => error.to_string(),
                }
            }
            Err(error) if error.is_damage() => describe(&error),
            Err(error) => return Err(error.into()),
        };
        open.failed = true;
        let path = open.job.path.clone();
        self.fail(&path, &why);
        Ok(())
    }

    pub(super) fn hole(&mut self, len: u64) {
        self.monitor.count(Counter::BytesDone, len);
    }

    /// Throws away what was written of the current entry.
    pub(super) fn abandon(&mut self, damaged: bool) {
        let Some(OpenFile { job, failed, .. }) = self.file.take() else { return };
        if damaged && !failed {
            self.fail(&job.path, &"its list of chunks is damaged; it was not restored");
        }
    }

    /// Ends the current entry.
    pub(super) fn end(&mut self, size: u64) -> Result<()> {
        let Some(OpenFile { job, file, failed }) = self.file.take() else { return Ok(()) };
        if !matches!(job.action, Action::Drop) {
            self.monitor.count(Counter::FilesDone, 1);
        }
        match job.action {
            Action::Keep | Action::Skip => self.monitor.count(Counter::FilesSkipped, 1),
            Action::Drop => {}
            Action::Write { .. } => {
                let Some(file) = file else { return Ok(()) };
                if failed {
                    return Ok(());
                }
                let result = file.finish(size, &job.entry, self.options.no_owner);
                match result {
                    Ok(()) if job.entry.links > 1 => {
                        self.links.insert((job.entry.device, job.entry.inode), job.path);
                    }
                    Ok(()) => {}
                    Err(error) => self.fail(&job.path, &error),
                }
            }
        }
        Ok(())
    }

    /// Leaves the directories that do not hold `next`: deletes what is too much, sets their metadata.
    fn leave_folders(&mut self, next: &[u8]) -> Result<()> {
        while let Some(folder) = self.folders.pop_if(|folder| !is_beneath(next, &folder.path)) {
            self.leave(&folder);
        }
        Ok(())
    }

    fn leave(&self, folder: &OpenFolder) {
        // The target itself is made the snapshot's only if all of it is restored, not for some names in it.
        let is_whole = folder.path.is_empty() && self.options.includes.is_empty();
        if self.options.delete && (folder.entry.is_some() || is_whole) {
            match self.target.remove_others(&folder.path, &folder.children, self.options.dry_run) {
                Ok(count) => self.monitor.count(Counter::Deleted, count),
                Err(error) => self.fail(&folder.path, &error),
            }
        }
        if let Some(entry) = &folder.entry
            && let Err(error) = self.target.set_metadata(&folder.path, entry, self.options.no_owner)
        {
            self.fail(&folder.path, &error);
        }
    }

    pub(super) fn finish(mut self) -> Result<()> {
        while let Some(folder) = self.folders.pop() {
            self.leave(&folder);
        }
        Ok(())
    }
}
