//! A file tree: every kind of file, in manifest order (depth first, names in byte order), with owner, mode, times,
//! attributes and holes. Directories are listed one at a time, and visited ones are not kept in memory.
//! `docs/filters.md` says what is left out and what never is.

#![expect(clippy::disallowed_methods, reason = "a source of files reads files")]

use super::{Item, Proof, Source, SourceError};
use crate::entry::{Entry, Kind, Time};
use crate::filters::{self, FILTERS};
use crate::manifest::MAX_RECORD;
use crate::marker::Marker;
use crate::names::path_text;
use crate::patterns::Patterns;
use crate::snapshot::SourceRecord;
use crate::stored::{STORED, UNSEEN, stored_text};
use crate::{Counter, ItemError, Monitor};
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

mod content;
mod metadata;
mod place;
mod roots;
#[cfg(test)]
mod tests;
mod walk;

use content::FileContent;
use metadata::{Names, read_xattrs};
use place::Status;
use roots::Roots;
use rustix::fs::FileType;
use walk::{Found, Walk};

/// Filters. They do not apply to a path that is named, only to paths beneath it.
#[derive(Clone, Debug, Default)]
pub struct FilesOptions {
    /// Matched against the absolute path.
    pub excludes: Patterns,
    /// A second list: a path that either list excludes is left out.
    pub iexcludes: Patterns,
    /// Leave out the content of directories that hold one of these.
    pub exclude_if_present: Vec<Marker>,
    /// Leave out files larger than this many bytes.
    pub exclude_larger_than: Option<u64>,
    /// Do not descend into other file systems.
    pub one_file_system: bool,
    /// Folders of ours: the repository is not saved into itself.
    pub own: Vec<Own>,
}

/// A folder of esker's own, identified by device and inode, whatever path leads there.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its name in messages: `the repository`.
    pub what: String,
    /// Whether it is (a copy of) the repository, which is not saved even if it is named.
    pub is_store: bool,
    device: u64,
    inode: u64,
}

impl Own {
    /// The folder at `path`, if there is one.
    #[must_use]
    pub fn at(path: &Path, what: &str, is_store: bool) -> Option<Self> {
        let metadata = fs::metadata(path).ok().filter(Metadata::is_dir)?;
        Some(Self { what: what.into(), is_store, device: metadata.dev(), inode: metadata.ino() })
    }

    fn is_at(&self, id: (u64, u64)) -> bool {
        id == (self.device, self.inode)
    }
}

/// The source of paths.
pub struct FilesSource {
    walk: Walk,
    options: Arc<FilesOptions>,
    names: Names,
    /// Whether what is to be said at the end was said.
    ended: bool,
}

impl FilesSource {
    /// Examines the named paths. Missing ones are item errors; if all are missing, that is an error.
    pub fn new(paths: &[PathBuf], options: FilesOptions, monitor: &dyn Monitor) -> Result<Self, SourceError> {
        let roots = Arc::new(Roots::resolve(paths, &options, monitor)?);
        let options = Arc::new(options);
        let walk = Walk::new(roots, Arc::clone(&options));
        Ok(Self { walk, options, names: Names::default(), ended: false })
    }

    /// Makes an item of a path that the walk found. `None` if it is gone, or cannot be described at all.
    fn item(&mut self, found: Found, monitor: &dyn Monitor) -> Option<Item> {
        let report = |message: String| {
            monitor.error(ItemError { during: "scan", item: crate::shown::path(&found.real), message });
        };
        let (mut entry, failures) = match self.describe(&found) {
            Ok(described) => described,
            Err(error) if is_gone(&error) && !found.named => {
                monitor.count(Counter::Vanished, 1);
                return None;
            }
            Err(error) => {
                report(error.to_string());
                self.walk.did_not_see(found.stored);
                return None;
            }
        };
        failures.into_iter().for_each(report);
        let attributes: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
        if attributes + 4 * entry.path.len() + 4096 > MAX_RECORD {
            report("its extended attributes are too large and were left out".into());
            entry.xattrs.clear();
        }
        let leads = found.leads;
        let content = (entry.kind == Kind::File).then(|| {
            Box::new(move || Ok(Box::new(FileContent::open(&found)?) as Box<dyn super::Content>))
                as super::Opener
        });
        Some(Item { entry, content, proof: Proof::Metadata, leads })
    }

    /// All metadata that can be read, and the errors of the rest.
    fn describe(&mut self, found: &Found) -> std::io::Result<(Entry, Vec<String>)> {
        let (metadata, stat) = (&found.metadata, &found.metadata.0);
        let kind = kind(metadata);
        let target = match kind {
            Kind::Symlink => found.place.link()?,
            _ => vec![],
        };
        let (xattrs, failures) = read_xattrs(&found.place.path(&found.real));
        let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let time = |seconds, nanoseconds| Time {
            seconds,
            nanoseconds: u32::try_from(nanoseconds).unwrap_or_default(),
        };
        let entry = Entry {
            path: found.stored.clone(),
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            user: self.names.user(stat.st_uid),
            group: self.names.group(stat.st_gid),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            size: if kind == Kind::File { metadata.len() } else { 0 },
            device: stat.st_dev,
            inode: stat.st_ino,
            links: if kind == Kind::Dir { 1 } else { stat.st_nlink },
            rdev: if device { stat.st_rdev } else { 0 },
            target,
            xattrs,
        };
        Ok((entry, failures))
    }

    /// Says once which patterns left nothing out.
    fn end(&mut self, monitor: &dyn Monitor) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        for pattern in self.options.excludes.unused().into_iter().chain(self.options.iexcludes.unused()) {
            monitor.note(&format!("{pattern} fitted nothing"));
        }
    }
}

fn kind(metadata: &Status) -> Kind {
    match metadata.file_type() {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::Socket | FileType::Unknown => Kind::Socket,
    }
}

/// Whether a path was removed after it was listed: it, a folder above it (which may be a file now), or, on NFS, the
/// object of a handle.
fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::StaleNetworkFileHandle)
}

impl Source for FilesSource {
    fn records(&self) -> Vec<SourceRecord> {
        let record = |(path, stored): &(PathBuf, Vec<u8>)| {
            let mut record = SourceRecord::new("files", path_text(path.as_os_str().as_bytes()), false);
            record.details.insert(STORED.into(), stored_text(stored));
            record
        };
        let mut records: Vec<SourceRecord> = self.walk.roots().named().iter().map(record).collect();
        let unseen: Vec<String> = self.walk.unseen().map(|path| format!("/{}", stored_text(path))).collect();
        if let Some(first) = records.first_mut().filter(|_| !unseen.is_empty()) {
            first.details.insert(UNSEEN.into(), unseen.join("\n"));
        }
        let FilesOptions { excludes, iexcludes, exclude_larger_than, exclude_if_present, .. } =
            &*self.options;
        let filters = filters::of_backup(excludes, iexcludes, *exclude_larger_than, exclude_if_present);
        if let Some(first) = records.first_mut().filter(|_| !filters.is_empty()) {
            first.details.insert(FILTERS.into(), filters);
        }
        records
    }
    fn paths(&self) -> Vec<String> {
        let mut paths: Vec<String> = vec![];
        for (path, _) in self.walk.roots().named() {
            let path = path_text(path.as_os_str().as_bytes());
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        paths
    }
    fn tolerates_item_errors(&self) -> bool {
        true
    }
    fn scanner(&self) -> Option<super::Scanner> {
        let mut walk = self.walk.clone();
        Some(Box::new(move |monitor, stop| {
            // Errors and notes are the backup's to tell.
            let silent = Silent { stop };
            while let Some(found) = walk.next(&silent) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                monitor.count(Counter::FilesTotal, 1);
                if found.metadata.is_file() {
                    monitor.count(Counter::BytesTotal, found.metadata.len());
                }
            }
        }))
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        while let Some(found) = self.walk.next(monitor) {
            if let Some(item) = self.item(found, monitor) {
                return Ok(Some(item));
            }
        }
        self.end(monitor);
        Ok(None)
    }
    fn look_again(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        let found = self.walk.again(monitor);
        Ok(found.and_then(|found| self.item(found, monitor)))
    }
}

/// Hears nothing.
struct Silent<'a> {
    stop: &'a AtomicBool,
}

impl Monitor for Silent<'_> {
    fn count(&self, _: Counter, _: u64) {}
    fn get(&self, _: Counter) -> u64 {
        0
    }
    fn restart(&self) {}
    fn error(&self, _: ItemError) {}
    fn interrupted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
