//! The story backwards: snapshot → manifest → chunks → files.
//!
//! The caller's thread walks through the manifest, decides what to do with each entry and asks for the
//! chunks that the target lacks; fetched chunks are written in the same order. A file is written
//! beside its place and renamed when it is whole. A file that is right already is not fetched, so an
//! interrupted restore goes on where it stopped. Everything happens beneath the target (`target.rs`).

use crate::entry::{Entry, Kind, display_path, is_beneath};
use crate::manifest::{Ending, ManifestReader, Record, Step};
use crate::snapshot::Snapshot;
use crate::{Counter, Error, ItemError, Monitor, Repository, Result};
use chunkstore::ingest::ChunkRef;
use chunkstore::reader::{Fetched, ReadAhead};
use chunkstore::store::describe;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

mod target;
use target::{NewFile, Target};

/// What to do with a file that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// Compare content, replace what differs.
    #[default]
    Always,
    /// As `Always`, but take a file of equal size and time for equal.
    IfChanged,
    /// Replace files that are older than the snapshot's.
    IfNewer,
    /// Leave every existing file alone.
    Never,
}

/// Choices for a restore.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Where to.
    pub target: PathBuf,
    /// Only what lies beneath this path of the snapshot, relative to it.
    pub beneath: Vec<u8>,
    /// Only what fits one of these patterns (as in .gitignore), if there are any.
    pub includes: Vec<String>,
    /// Not what fits one of these.
    pub excludes: Vec<String>,
    /// What to do with existing files.
    pub overwrite: Overwrite,
    /// Remove what the snapshot does not have, beneath the directories that are restored.
    pub delete: bool,
    /// Write nothing.
    pub dry_run: bool,
    /// Leave holes for chunks of zeros.
    pub sparse: bool,
    /// Do not set owners: for users who may not.
    pub no_owner: bool,
}

enum Token {
    Begin(Box<Job>),
    Write(u64),
    Hole(u64),
    /// The entry is whole, with this many bytes.
    End(u64),
    /// The entry has no result: its record is damaged, or the backup could not read it to its end.
    Abandon {
        damaged: bool,
    },
}

/// What is to become of the entry whose chunks follow.
struct Job {
    entry: Entry,
    /// Path beneath the target.
    path: Vec<u8>,
    action: Action,
}

enum Action {
    /// Write a new file; the first bytes are taken from the old one.
    Write { keep: u64 },
    /// The content is right; only metadata is set.
    Keep,
    /// Nothing at all.
    Skip,
    /// The source could not be read to the end when it was backed up.
    Drop,
}

/// Restores a snapshot, or a part of it. Errors of single entries go to the monitor.
pub fn restore(
    repo: &Repository,
    snapshot: &Snapshot,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<()> {
    walk(repo, snapshot, options, monitor).map(|_| ())
}

/// Reads the target again and returns the files whose content is not the snapshot's.
pub fn differences(
    repo: &Repository,
    snapshot: &Snapshot,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<String>> {
    let options =
        RestoreOptions { dry_run: true, delete: false, overwrite: Overwrite::Always, ..options.clone() };
    walk(repo, snapshot, &options, monitor)
}

/// The walk through the manifest; returns the files that had to be written.
fn walk(
    repo: &Repository,
    snapshot: &Snapshot,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<String>> {
    repo.sync_index(monitor)?;
    let filter = Filter::new(options)?;
    let mut walk = Walk {
        ahead: ReadAhead::new(repo.store()),
        writer: Writer::new(options, monitor)?,
        keys: std::sync::Arc::clone(repo.store().keys()),
        current: None,
        written: vec![],
        options,
        monitor,
    };
    monitor.count(Counter::FilesTotal, snapshot.manifest.entries);
    monitor.count(Counter::BytesTotal, snapshot.manifest.bytes);
    let mut reader = ManifestReader::new(repo.store(), &snapshot.manifest)?;
    let mut found = options.beneath.is_empty();
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Damage(damage) => {
                monitor.error(ItemError {
                    during: "restore",
                    item: format!("entries after {}", damage.after),
                    message: describe(&damage.error),
                });
                walk.abandon(true)?;
            }
            Step::Record(Record::Entry(entry)) => {
                found |= is_beneath(&entry.path, &options.beneath);
                walk.begin(*entry, &filter)?;
            }
            Step::Record(Record::Chunks(chunks)) => walk.chunks(&chunks)?,
            Step::Record(Record::Hole(len)) => walk.hole(len)?,
            Step::Record(Record::End(ending, size)) => walk.end(ending, size)?,
        }
        walk.collect(false)?;
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    walk.collect(true)?;
    let Walk { writer, written, .. } = walk;
    writer.finish()?;
    if found {
        Ok(written)
    } else {
        Err(Error::NoEntry { path: display_path(&options.beneath), snapshot: "this snapshot".into() })
    }
}

/// Which entries are meant, and where they go.
struct Filter {
    beneath: Vec<u8>,
    includes: Option<Gitignore>,
    excludes: Gitignore,
}

impl Filter {
    fn new(options: &RestoreOptions) -> Result<Self> {
        Ok(Self {
            beneath: options.beneath.clone(),
            includes: if options.includes.is_empty() { None } else { Some(patterns(&options.includes)?) },
            excludes: patterns(&options.excludes)?,
        })
    }

    /// The entry's path beneath the target, if it is meant. The prefix of `SNAP:path` falls away.
    fn target(&self, entry: &Entry) -> Option<Vec<u8>> {
        if !is_beneath(&entry.path, &self.beneath) {
            return None;
        }
        let is_dir = entry.kind == Kind::Dir;
        let shown = PathBuf::from(std::ffi::OsStr::new("/")).join(as_path(&entry.path));
        let fits = |patterns: &Gitignore| patterns.matched_path_or_any_parents(&shown, is_dir).is_ignore();
        if self.includes.as_ref().is_some_and(|includes| !fits(includes)) || fits(&self.excludes) {
            return None;
        }
        if self.beneath.is_empty() {
            return Some(entry.path.clone());
        }
        let rest = &entry.path[self.beneath.len()..];
        match rest.strip_prefix(b"/") {
            Some(rest) => Some(rest.to_vec()),
            // The path itself: a directory is the target, a file goes into it under its name.
            None if is_dir => None,
            None => Some(entry.name().to_vec()),
        }
    }
}

fn as_path(bytes: &[u8]) -> &std::path::Path {
    use std::os::unix::ffi::OsStrExt as _;
    std::path::Path::new(std::ffi::OsStr::from_bytes(bytes))
}

fn patterns(list: &[String]) -> Result<Gitignore> {
    let mut builder = GitignoreBuilder::new("/");
    for pattern in list {
        let anywhere = !pattern.starts_with('/') && pattern.trim_end_matches('/').contains('/');
        let pattern =
            if anywhere && !pattern.starts_with("**/") { format!("**/{pattern}") } else { pattern.clone() };
        builder.add_line(None, &pattern).map_err(|error| Error::Invalid(error.to_string()))?;
    }
    builder.build().map_err(|error| Error::Invalid(error.to_string()))
}

/// The walking side.
struct Walk<'a> {
    ahead: ReadAhead<Token>,
    writer: Writer<'a>,
    keys: std::sync::Arc<chunkstore::keys::KeyRing>,
    current: Option<Current>,
    /// In a dry run, the files that would be written.
    written: Vec<String>,
    options: &'a RestoreOptions,
    monitor: &'a dyn Monitor,
}

/// The file whose records are being walked through.
struct Current {
    /// The job, until it is known whether the old file is right.
    job: Option<Box<Job>>,
    /// The old file, as long as its content agrees.
    old: Option<target::OldFile>,
    offset: u64,
}

impl Walk<'_> {
    fn begin(&mut self, entry: Entry, filter: &Filter) -> Result<()> {
        self.current = None;
        let Some(path) = filter.target(&entry) else { return Ok(()) };
        let mut job = Box::new(Job { entry, path, action: Action::Write { keep: 0 } });
        let mut old = None;
        if job.entry.kind == Kind::File
            && let Some(found) = self.writer.target.existing(&job.path)
        {
            let same_stat = found.len == job.entry.size && found.mtime == job.entry.mtime;
            job.action = match self.options.overwrite {
                Overwrite::Never => Action::Skip,
                Overwrite::IfNewer if found.mtime >= job.entry.mtime => Action::Skip,
                Overwrite::IfChanged if same_stat => Action::Keep,
                _ => {
                    old = Some(found);
                    Action::Write { keep: 0 }
                }
            };
        }
        self.current = Some(Current { job: Some(job), old, offset: 0 });
        if self.current.as_ref().is_some_and(|current| current.old.is_none()) {
            self.decide(0)?;
        }
        Ok(())
    }

    /// Sends the job off; `keep` bytes of the old file are right.
    fn decide(&mut self, keep: u64) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        current.old = None;
        if let Some(mut job) = current.job.take() {
            if let Action::Write { keep: bytes } = &mut job.action {
                *bytes = keep;
            }
            let wanted = matches!(job.action, Action::Write { .. });
            if wanted && self.options.dry_run && job.entry.kind == Kind::File {
                self.written.push(job.entry.display_path());
            }
            self.ahead.token(Token::Begin(job))?;
            if !wanted {
                self.current = None;
            }
        }
        Ok(())
    }

    fn chunks(&mut self, chunks: &[ChunkRef]) -> Result<()> {
        for chunk in chunks {
            let Some(current) = &mut self.current else { return Ok(()) };
            if let Some(old) = &mut current.old {
                let agrees = old
                    .read(current.offset, chunk.len as usize)
                    .is_some_and(|bytes| self.keys.chunk_id(bytes) == chunk.id);
                if agrees {
                    current.offset += u64::from(chunk.len);
                    continue;
                }
                let keep = current.offset;
                self.decide(keep)?;
            }
            let Some(current) = &mut self.current else { return Ok(()) };
            let offset = current.offset;
            current.offset += u64::from(chunk.len);
            if self.options.dry_run {
                continue;
            }
            self.ahead.request(*chunk, Token::Write(offset))?;
            self.collect(false)?;
        }
        Ok(())
    }

    fn hole(&mut self, len: u64) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let agrees = current.old.as_mut().is_some_and(|old| old.is_hole(current.offset, len));
        if !agrees {
            let keep = current.offset;
            if current.old.is_some() {
                self.decide(keep)?;
            }
            self.ahead.token(Token::Hole(len))?;
        }
        if let Some(current) = &mut self.current {
            current.offset += len;
        }
        Ok(())
    }

    fn end(&mut self, ending: Ending, size: u64) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        if let Some(job) = &mut current.job {
            // Still undecided: everything agreed. A longer old file does not.
            let whole = current.old.as_ref().is_some_and(|old| old.len == size);
            if ending == Ending::Dropped {
                job.action = Action::Drop;
            } else if whole {
                job.action = Action::Keep;
            }
            let keep = current.offset;
            self.decide(keep)?;
        }
        if self.current.is_some() {
            if ending == Ending::Dropped {
                return self.abandon(false);
            }
            self.ahead.token(Token::End(size))?;
        }
        self.current = None;
        Ok(())
    }

    /// Ends the current entry without a result.
    fn abandon(&mut self, damaged: bool) -> Result<()> {
        if let Some(current) = self.current.take()
            && current.job.is_none()
        {
            self.ahead.token(Token::Abandon { damaged })?;
        }
        Ok(())
    }

    fn collect(&mut self, all: bool) -> Result<()> {
        while all || self.ahead.is_full() {
            let Some(batch) = self.ahead.take()? else { break };
            for fetched in batch {
                match fetched {
                    Fetched::Token(Token::Begin(job)) => self.writer.begin(*job)?,
                    Fetched::Token(Token::Hole(len)) => self.writer.hole(len),
                    Fetched::Token(Token::End(size)) => self.writer.end(size)?,
                    Fetched::Token(Token::Abandon { damaged }) => self.writer.abandon(damaged),
                    Fetched::Token(Token::Write(_)) => {}
                    Fetched::Chunk(chunk, Token::Write(offset)) => self.writer.chunk(chunk, offset)?,
                    Fetched::Chunk(..) => {}
                }
            }
            if self.monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }
}

/// The writing side: one file at a time, directories when they are left.
struct Writer<'a> {
    target: Target,
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
    fn new(options: &'a RestoreOptions, monitor: &'a dyn Monitor) -> Result<Self> {
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

    fn begin(&mut self, job: Job) -> Result<()> {
        self.leave_folders(&job.path)?;
        if let Some(folder) = self.folders.last_mut() {
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

    fn chunk(&mut self, chunk: chunkstore::Result<Vec<u8>>, offset: u64) -> Result<()> {
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

    fn hole(&mut self, len: u64) {
        self.monitor.count(Counter::BytesDone, len);
    }

    /// Throws away what was written of the current entry.
    fn abandon(&mut self, damaged: bool) {
        let Some(OpenFile { job, failed, .. }) = self.file.take() else { return };
        if damaged && !failed {
            self.fail(&job.path, &"its list of chunks is damaged; it was not restored");
        }
    }

    /// Ends the current entry.
    fn end(&mut self, size: u64) -> Result<()> {
        let Some(OpenFile { job, file, failed }) = self.file.take() else { return Ok(()) };
        self.monitor.count(Counter::FilesDone, 1);
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
        if self.options.delete && (folder.entry.is_some() || folder.path.is_empty()) {
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

    fn finish(mut self) -> Result<()> {
        while let Some(folder) = self.folders.pop() {
            self.leave(&folder);
        }
        Ok(())
    }
}

/// Writes the content of one file of a snapshot, in order, fetched in parallel.
pub fn dump(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &[u8],
    out: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<u64> {
    repo.sync_index(monitor)?;
    let mut reader = ManifestReader::new(repo.store(), &snapshot.manifest)?;
    let mut ahead = ReadAhead::new(repo.store());
    let mut inside = false;
    let mut written = 0;
    let no_entry = || Error::NoEntry { path: display_path(path), snapshot: "the snapshot".into() };
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Record(Record::Entry(entry)) => {
                inside = entry.path == path;
                if inside && entry.kind != Kind::File {
                    return Err(Error::Invalid(format!(
                        "{} is a {}, not a file",
                        display_path(path),
                        entry.kind.name()
                    )));
                }
            }
            Step::Record(Record::Chunks(chunks)) if inside => {
                for chunk in chunks {
                    ahead.request(chunk, Part::Data)?;
                    while ahead.is_full() {
                        written += write_part(&mut ahead, out, monitor)?.unwrap_or_default();
                    }
                }
            }
            Step::Record(Record::Hole(len)) if inside => ahead.token(Part::Hole(len))?,
            Step::Record(Record::End(Ending::Complete, size)) if inside => {
                while let Some(len) = write_part(&mut ahead, out, monitor)? {
                    written += len;
                }
                if written != size {
                    return Err(Error::Malformed {
                        what: display_path(path),
                        why: "its chunks do not make up its size".into(),
                    });
                }
                return out.flush().map(|()| written).map_err(output_error);
            }
            // Dropped: another entry of this path may follow. What was asked for in vain is thrown away.
            Step::Record(Record::End(..)) if inside => {
                if written > 0 {
                    return Err(no_entry());
                }
                ahead = ReadAhead::new(repo.store());
                inside = false;
            }
            Step::Damage(damage) if inside => return Err(damage.error.into()),
            Step::Damage(damage) => monitor.error(ItemError {
                during: "dump",
                item: format!("entries after {}", damage.after),
                message: describe(&damage.error),
            }),
            Step::Record(_) => {}
        }
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    Err(no_entry())
}

#[derive(Clone, Copy)]
enum Part {
    Data,
    Hole(u64),
}

fn output_error(source: std::io::Error) -> Error {
    Error::Target { op: "write to", path: "standard output".into(), source }
}

/// Writes the next part that was asked for; `None` when there is none.
fn write_part(
    ahead: &mut ReadAhead<Part>,
    out: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<Option<u64>> {
    let Some(batch) = ahead.take()? else { return Ok(None) };
    let mut written = 0;
    for part in batch {
        match part {
            Fetched::Chunk(bytes, _) => {
                let bytes = bytes?;
                out.write_all(&bytes).map_err(output_error)?;
                written += bytes.len() as u64;
            }
            Fetched::Token(Part::Hole(len)) => {
                let zeros = [0u8; 64 << 10];
                let mut left = len;
                while left > 0 {
                    let step = usize::try_from(left).unwrap_or(usize::MAX).min(zeros.len());
                    out.write_all(&zeros[..step]).map_err(output_error)?;
                    left -= step as u64;
                }
                written += len;
            }
            Fetched::Token(Part::Data) => {}
        }
    }
    monitor.count(Counter::BytesDone, written);
    Ok(Some(written))
}
