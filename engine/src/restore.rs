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
use std::collections::BTreeMap;
use std::path::PathBuf;

mod dump;
pub mod mysql;
pub mod physical;
pub mod postgres;
pub mod qdrant;
mod range;
mod target;
pub mod volumes;
mod writer;

pub use dump::dump;
use writer::Writer;

/// The one server that a snapshot has things of below `root`.
fn only_server<T>(servers: BTreeMap<String, T>, root: &str, kind: &str) -> Result<T> {
    if servers.len() > 1 {
        let names: Vec<String> = servers.keys().map(|name| format!("ID:/{root}/{name}")).collect();
        let names = names.join(" or ");
        return Err(Error::Invalid(format!("the snapshot has several {kind} servers; name one, as {names}")));
    }
    let only = servers.into_values().next();
    only.ok_or_else(|| Error::Invalid(format!("there is no {kind} database in this snapshot")))
}

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
                // Nothing of it is to come; its end counts it.
                self.ahead.token(Token::End(0))?;
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
