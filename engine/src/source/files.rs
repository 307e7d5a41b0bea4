//! A file tree: every kind of file, in manifest order (depth first, names in byte order), with owner,
//! mode, times, attributes and holes. Directories are listed one at a time; nothing is kept of what
//! lies behind.

use super::{Content, Item, Source, SourceError, SourceErrorKind};
use crate::entry::{Entry, Kind, Time, compare_paths, is_beneath};
use crate::manifest::MAX_RECORD;
use crate::snapshot::SourceRecord;
use crate::{Counter, ItemError, Monitor};
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::Ordering;

mod content;
mod metadata;
use content::FileContent;
use metadata::{Names, read_xattrs};

/// What to leave out.
#[derive(Clone, Debug, Default)]
pub struct FilesOptions {
    /// Patterns as in .gitignore; matched against the absolute path.
    pub excludes: Vec<String>,
    /// The same, ignoring case.
    pub iexcludes: Vec<String>,
    /// Leave out the content of directories that hold a file of one of these names.
    pub exclude_if_present: Vec<String>,
    /// Leave out the content of directories that are marked by a CACHEDIR.TAG (bford.info/cachedir).
    pub exclude_caches: bool,
    /// Leave out files larger than this many bytes.
    pub exclude_larger_than: Option<u64>,
    /// Do not descend into other file systems.
    pub one_file_system: bool,
}

const CACHEDIR_TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

struct Root {
    /// Path in the manifest.
    stored: Vec<u8>,
    /// Path on disk.
    real: PathBuf,
}

/// A directory whose children are still to be visited.
struct Folder {
    stored: Vec<u8>,
    real: PathBuf,
    /// Names, the next last.
    names: Vec<OsString>,
    device: u64,
}

/// The source of paths.
pub struct FilesSource {
    paths: Vec<String>,
    roots: std::collections::VecDeque<Root>,
    stack: Vec<Folder>,
    /// Directories above roots that were listed.
    ancestors: Vec<Vec<u8>>,
    options: FilesOptions,
    excludes: Gitignore,
    iexcludes: Gitignore,
    names: Names,
}

impl FilesSource {
    /// Looks at the roots. Those that are missing are item errors; if all are, that is an error.
    pub fn new(paths: &[PathBuf], options: FilesOptions, monitor: &dyn Monitor) -> Result<Self, SourceError> {
        let mut roots = vec![];
        for path in paths {
            match locate(path) {
                Ok(root) => roots.push(root),
                Err(error) => monitor.error(ItemError {
                    during: "scan",
                    item: path.display().to_string(),
                    message: error.to_string(),
                }),
            }
        }
        if roots.is_empty() {
            let shown = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
            return Err(SourceError::new(SourceErrorKind::Missing, shown, "nothing there to back up"));
        }
        let shown = roots.iter().map(|root| root.real.display().to_string()).collect();
        roots.sort_by(|a, b| compare_paths(&a.stored, &b.stored));
        roots.dedup_by(|next, first| is_beneath(&next.stored, &first.stored));
        let invalid =
            |error: ignore::Error| SourceError::new(SourceErrorKind::Missing, "exclude pattern", error);
        Ok(Self {
            paths: shown,
            roots: roots.into(),
            stack: vec![],
            ancestors: vec![],
            excludes: patterns(&options.excludes, false).map_err(invalid)?,
            iexcludes: patterns(&options.iexcludes, true).map_err(invalid)?,
            options,
            names: Names::default(),
        })
    }

    /// Opens the next root: its ancestors first, then itself. The root of everything, `.` for short,
    /// has no entry of its own.
    fn open_root(&mut self, root: Root, monitor: &dyn Monitor) -> Option<Item> {
        for (end, _) in root.stored.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let ancestor = &root.stored[..end];
            if self.ancestors.iter().any(|known| known == ancestor) {
                continue;
            }
            self.ancestors.push(ancestor.to_vec());
            let depth = root.stored[end..].iter().filter(|byte| **byte == b'/').count();
            let real = root.real.ancestors().nth(depth).map(Path::to_owned);
            let stored = ancestor.to_vec();
            if let Some(item) = real.and_then(|real| self.visit(stored, real, None, monitor, false)) {
                // The root itself comes again after its ancestors.
                self.roots.push_front(root);
                return Some(item);
            }
        }
        if root.stored.is_empty() {
            self.descend(root.stored, root.real, monitor);
            return None;
        }
        self.visit(root.stored, root.real, None, monitor, true)
    }

    /// Makes the item of one path; a directory that is to be descended into goes on the stack.
    fn visit(
        &mut self,
        stored: Vec<u8>,
        real: PathBuf,
        device: Option<u64>,
        monitor: &dyn Monitor,
        descend: bool,
    ) -> Option<Item> {
        let report = |error: &dyn std::fmt::Display| {
            monitor.error(ItemError {
                during: "scan",
                item: real.display().to_string(),
                message: error.to_string(),
            });
        };
        // What leads to a root is a folder to the snapshot, even where a symbolic link leads there.
        let looked_at = if descend { fs::symlink_metadata(&real) } else { fs::metadata(&real) };
        let metadata = match looked_at {
            Ok(metadata) => metadata,
            Err(error) => {
                report(&error);
                return None;
            }
        };
        let is_dir = metadata.is_dir();
        if self.is_excluded(&real, &metadata) {
            return None;
        }
        if device.is_some_and(|device| self.options.one_file_system && device != metadata.dev()) {
            // The mount point itself is kept, empty, as restic does: it must be there to mount on.
            if !is_dir {
                return None;
            }
        } else if is_dir && descend && !self.is_marked(&real) {
            self.descend(stored.clone(), real.clone(), monitor);
        }
        let mut entry = match self.describe(&real, &metadata, stored) {
            Ok(entry) => entry,
            Err(error) => {
                report(&error);
                return None;
            }
        };
        let attributes: usize = entry.xattrs.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
        if attributes + 4 * entry.path.len() + 4096 > MAX_RECORD {
            report(&"its extended attributes are too large and were left out");
            entry.xattrs.clear();
        }
        let content = (entry.kind == Kind::File).then(|| {
            let expected = metadata.clone();
            Box::new(move || Ok(Box::new(FileContent::open(real, &expected)?) as Box<dyn Content>))
                as super::Opener
        });
        Some(Item { entry, content, comparable: true })
    }

    fn is_excluded(&self, real: &Path, metadata: &Metadata) -> bool {
        let is_dir = metadata.is_dir();
        self.excludes.matched(real, is_dir).is_ignore()
            || self.iexcludes.matched(real, is_dir).is_ignore()
            || (metadata.is_file()
                && self.options.exclude_larger_than.is_some_and(|limit| metadata.len() > limit))
    }

    fn is_marked(&self, folder: &Path) -> bool {
        self.options.exclude_if_present.iter().any(|name| folder.join(name).exists())
            || (self.options.exclude_caches && is_cache(folder))
    }

    fn descend(&mut self, stored: Vec<u8>, real: PathBuf, monitor: &dyn Monitor) {
        let report = |error: std::io::Error| {
            monitor.error(ItemError {
                during: "scan",
                item: real.display().to_string(),
                message: error.to_string(),
            });
        };
        let device = fs::symlink_metadata(&real).map(|metadata| metadata.dev()).unwrap_or_default();
        let mut names = vec![];
        match fs::read_dir(&real) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) => names.push(entry.file_name()),
                        Err(error) => report(error),
                    }
                }
            }
            Err(error) => report(error),
        }
        names.sort_unstable_by(|a, b| b.as_bytes().cmp(a.as_bytes()));
        self.stack.push(Folder { stored, real, names, device });
    }

    fn describe(&mut self, real: &Path, metadata: &Metadata, path: Vec<u8>) -> std::io::Result<Entry> {
        let file_type = metadata.file_type();
        let kind = if file_type.is_file() {
            Kind::File
        } else if file_type.is_dir() {
            Kind::Dir
        } else if file_type.is_symlink() {
            Kind::Symlink
        } else if file_type.is_fifo() {
            Kind::Fifo
        } else if file_type.is_char_device() {
            Kind::CharDevice
        } else if file_type.is_block_device() {
            Kind::BlockDevice
        } else {
            Kind::Socket
        };
        let target = match kind {
            Kind::Symlink => fs::read_link(real)?.into_os_string().into_vec(),
            _ => vec![],
        };
        let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let time = |seconds, nanoseconds| Time {
            seconds,
            nanoseconds: u32::try_from(nanoseconds).unwrap_or_default(),
        };
        Ok(Entry {
            path,
            kind,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            user: self.names.user(metadata.uid()),
            group: self.names.group(metadata.gid()),
            mtime: time(metadata.mtime(), metadata.mtime_nsec()),
            ctime: time(metadata.ctime(), metadata.ctime_nsec()),
            size: if kind == Kind::File { metadata.len() } else { 0 },
            device: metadata.dev(),
            inode: metadata.ino(),
            links: if kind == Kind::Dir { 1 } else { metadata.nlink() },
            rdev: if device { metadata.rdev() } else { 0 },
            target,
            xattrs: read_xattrs(real)?,
        })
    }
}

impl Source for FilesSource {
    fn records(&self) -> Vec<SourceRecord> {
        self.paths.iter().map(|path| SourceRecord::new("files", path.clone(), false)).collect()
    }
    fn paths(&self) -> Vec<String> {
        self.paths.clone()
    }
    fn tolerates_item_errors(&self) -> bool {
        true
    }
    fn scanner(&self) -> Option<super::Scanner> {
        let mut pending: Vec<PathBuf> = self.roots.iter().map(|root| root.real.clone()).collect();
        let (excludes, iexcludes) = (self.excludes.clone(), self.iexcludes.clone());
        Some(Box::new(move |monitor, stop| {
            // An estimate: markers and mount points are not looked at, and errors are the backup's to tell.
            while let Some(path) = pending.pop() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
                let is_dir = metadata.is_dir();
                if excludes.matched(&path, is_dir).is_ignore() || iexcludes.matched(&path, is_dir).is_ignore()
                {
                    continue;
                }
                monitor.count(Counter::FilesTotal, 1);
                if is_dir {
                    pending.extend(
                        fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()),
                    );
                } else if metadata.is_file() {
                    monitor.count(Counter::BytesTotal, metadata.len());
                }
            }
        }))
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        loop {
            if let Some(folder) = self.stack.last_mut() {
                let Some(name) = folder.names.pop() else {
                    self.stack.pop();
                    continue;
                };
                let mut stored = folder.stored.clone();
                if !stored.is_empty() {
                    stored.push(b'/');
                }
                stored.extend_from_slice(name.as_bytes());
                let (real, device) = (folder.real.join(name), folder.device);
                if let Some(item) = self.visit(stored, real, Some(device), monitor, true) {
                    return Ok(Some(item));
                }
            } else {
                let Some(root) = self.roots.pop_front() else { return Ok(None) };
                if let Some(item) = self.open_root(root, monitor) {
                    return Ok(Some(item));
                }
            }
        }
    }
}

/// Where a path given by the user lies in the manifest: an absolute path under its own name, a
/// relative one under its relative name, as restic does; one with `..` under its absolute name.
fn locate(path: &Path) -> std::io::Result<Root> {
    fs::symlink_metadata(path)?;
    let absolute = std::path::absolute(path)?;
    let plain: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    let parent = plain.components().any(|part| part == Component::ParentDir);
    let (base, real) = match (plain.is_absolute(), parent) {
        (false, false) => (plain, absolute),
        (true, false) => (plain.clone(), plain),
        (_, true) => {
            let real = absolute.canonicalize()?;
            (real.clone(), real)
        }
    };
    let stored = base.strip_prefix("/").unwrap_or(&base).as_os_str().as_bytes().to_vec();
    let real: PathBuf = real.components().collect();
    Ok(Root { stored, real })
}

fn patterns(list: &[String], ignore_case: bool) -> Result<Gitignore, ignore::Error> {
    let mut builder = GitignoreBuilder::new("/");
    builder.case_insensitive(ignore_case)?;
    for pattern in list {
        // In .gitignore a slash inside anchors a pattern; on a command line "a/b" means anywhere.
        let (negation, body) = pattern.strip_prefix('!').map_or(("", pattern.as_str()), |body| ("!", body));
        let anywhere =
            !body.starts_with('/') && body.trim_end_matches('/').contains('/') && !body.starts_with("**/");
        builder.add_line(None, &format!("{negation}{}{body}", if anywhere { "**/" } else { "" }))?;
    }
    builder.build()
}

/// A matcher of entries' paths for `find`: patterns as for excludes.
pub fn name_patterns(
    list: &[String],
    ignore_case: bool,
) -> Result<impl Fn(&[u8], bool) -> bool, SourceError> {
    let matcher = patterns(list, ignore_case)
        .map_err(|error| SourceError::new(SourceErrorKind::Missing, "pattern", error))?;
    Ok(move |path: &[u8], is_dir: bool| {
        let path = Path::new("/").join(std::ffi::OsStr::from_bytes(path));
        matcher.matched(path, is_dir).is_ignore()
    })
}

fn is_cache(folder: &Path) -> bool {
    let mut head = vec![];
    File::open(folder.join("CACHEDIR.TAG"))
        .and_then(|file| file.take(CACHEDIR_TAG.len() as u64).read_to_end(&mut head))
        .is_ok_and(|_| head == CACHEDIR_TAG)
}
