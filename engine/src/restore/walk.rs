//! The walking side of a restore: decides what to do with each entry, and requests the chunks that the target lacks.

use super::handle::is_folder;
use super::links::{Digest, LinkKey, Links, Part};
use super::scope::Scope;
use super::target::{OldFile, has_other_names, mtime};
use super::writer::Writer;
use super::{Action, Job, Overwrite, Report, RestoreOptions};
use crate::entry::{Entry, Kind, is_beneath};
use crate::manifest::{Ending, ManifestReader, Record, Step};
use crate::snapshot::Snapshot;
use crate::{Counter, Error, ItemError, Monitor, Repository, Result};
use chunkstore::keys::KeyRing;
use chunkstore::reader::{Fetched, ReadAhead};
use chunkstore::store::describe;
use std::sync::Arc;

enum Token {
    Begin(Box<Job>),
    /// The filters leave it out.
    Pass(Vec<u8>, Box<Entry>),
    Write(u64),
    Hole(u64),
    /// The entry is complete, with this many bytes.
    End(u64),
    /// The entry has no result: its record is damaged, or the backup could not read it to its end.
    Abandon {
        damaged: bool,
    },
}

struct Walk<'a> {
    ahead: ReadAhead<Token>,
    writer: Writer<'a>,
    scope: &'a Scope,
    keys: Arc<KeyRing>,
    current: Option<Current>,
    /// Folders that are not restored themselves, and that nothing restored lies beneath so far.
    above: Vec<(Vec<u8>, Entry)>,
    links: Links,
    /// In a dry run, the files that would be written.
    written: Vec<String>,
    options: &'a RestoreOptions,
    /// Every file is compared by itself.
    compare: bool,
    monitor: &'a dyn Monitor,
}

/// The file whose records are being walked through.
struct Current {
    /// The job, until it is known whether the old file is right.
    job: Option<Box<Job>>,
    /// The old file, as long as its content agrees.
    old: Option<OldFile>,
    offset: u64,
    /// Of a file with several names: which, what its content is, and this name.
    several: Option<(LinkKey, Digest, Vec<u8>)>,
    /// The content of what may be another name, until that is known.
    held: Option<Vec<Part>>,
    /// Whether it was taken for right without a look at its content.
    is_kept: bool,
}

/// Walks through the manifest; returns the files that had to be written, in a dry run.
pub(super) fn walk(
    repo: &Repository,
    snapshot: &Snapshot,
    options: &RestoreOptions,
    compare: bool,
    monitor: &dyn Monitor,
) -> Result<(Report, Vec<String>)> {
    repo.sync_index(monitor)?;
    let scope = Scope::survey(repo, snapshot, options)?;
    let mut walk = Walk {
        ahead: ReadAhead::new(repo.store()),
        writer: Writer::new(options, &scope, monitor)?,
        scope: &scope,
        keys: Arc::clone(repo.store().keys()),
        current: None,
        above: vec![],
        links: Links::default(),
        written: vec![],
        options,
        compare,
        monitor,
    };
    monitor.count(Counter::FilesTotal, snapshot.manifest.entries);
    monitor.count(Counter::BytesTotal, snapshot.manifest.bytes);
    let mut reader = ManifestReader::new(repo.store(), &snapshot.manifest)?;
    let mut damaged = 0;
    while let Some(step) = reader.next_step()? {
        match step {
            // Found before, unless it came about meanwhile.
            Step::Damage(damage) if options.delete => return Err(damage.error.into()),
            Step::Damage(damage) => {
                damaged += 1;
                monitor.error(ItemError {
                    during: "restore",
                    item: format!("entries after {}", damage.after),
                    message: describe(&damage.error),
                });
                walk.abandon(true)?;
            }
            Step::Record(Record::Entry(entry)) => walk.begin(*entry)?,
            Step::Record(Record::Chunks(chunks)) => {
                for chunk in chunks {
                    walk.part(Part::Chunk(chunk))?;
                }
            }
            Step::Record(Record::Hole(len)) => walk.part(Part::Hole(len))?,
            Step::Record(Record::End(ending, size)) => walk.end(ending, size)?,
        }
        walk.collect(false)?;
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    walk.collect(true)?;
    let Walk { writer, written, .. } = walk;
    let report = writer.finish();
    if monitor.interrupted() {
        return Err(Error::Interrupted);
    }
    Ok((Report { damaged: report.damaged + damaged, ..report }, written))
}

impl Walk<'_> {
    fn begin(&mut self, entry: Entry) -> Result<()> {
        self.current = None;
        let Some(path) = self.scope.place(&entry.path, entry.kind).filter(|path| !path.is_empty()) else {
            return Ok(());
        };
        while self.above.pop_if(|(folder, _)| !is_beneath(&path, folder)).is_some() {}
        if !self.scope.fits(&path, entry.kind == Kind::Dir) {
            if self.options.delete && self.scope.may_hold(&path) {
                self.ahead.token(Token::Pass(path.clone(), Box::new(entry.clone())))?;
            }
            if entry.kind == Kind::Dir {
                self.above.push((path, entry));
            }
            return Ok(());
        }
        let above = std::mem::take(&mut self.above);
        let mut job = Box::new(Job { entry, path, above, action: Action::Write { keep: 0 } });
        let mut old = None;
        if job.entry.kind != Kind::Dir
            && let Some(there) = self.writer.target.stat(&job.path)
        {
            let is_same = u64::try_from(there.st_size).is_ok_and(|size| size == job.entry.size)
                && mtime(&there) == job.entry.mtime;
            let is_file = job.entry.kind == Kind::File && there.st_mode & 0o170_000 == 0o100_000;
            job.action = match self.options.overwrite {
                Overwrite::Never => Action::Skip,
                Overwrite::IfNewer if !is_folder(&there) && mtime(&there) >= job.entry.mtime => Action::Skip,
                Overwrite::IfChanged if is_file && is_same && !has_other_names(&there, &job.entry) => {
                    Action::Keep
                }
                _ => Action::Write { keep: 0 },
            };
            if is_file && matches!(job.action, Action::Write { .. }) && !has_other_names(&there, &job.entry) {
                old = self.writer.target.existing(&job.path);
            }
        }
        let key = LinkKey::of(&job.entry).filter(|_| !self.compare && !matches!(job.action, Action::Skip));
        let held = key.as_ref().filter(|key| self.links.may_know(key)).map(|_| vec![]);
        let is_undecided = old.is_some() || held.is_some();
        let several = key.map(|key| (key, Digest::default(), job.path.clone()));
        self.current = Some(Current { job: Some(job), old, offset: 0, several, held, is_kept: false });
        if !is_undecided {
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
                current.is_kept = true;
                self.ahead.token(Token::End(0))?;
            }
        }
        Ok(())
    }

    /// The next part of the current entry's content.
    fn part(&mut self, part: Part) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        if let Some((_, digest, _)) = &mut current.several {
            digest.add(part);
        }
        if let Some(held) = &mut current.held {
            held.push(part);
            return Ok(());
        }
        self.content(part)
    }

    /// Compares a part with the old file, or requests it.
    fn content(&mut self, part: Part) -> Result<()> {
        let Some(current) = self.current.as_mut().filter(|current| !current.is_kept) else { return Ok(()) };
        let len = match part {
            Part::Chunk(chunk) => u64::from(chunk.len),
            Part::Hole(len) => len,
        };
        let offset = current.offset;
        if let Some(old) = &mut current.old {
            let agrees = match part {
                Part::Chunk(chunk) => old
                    .read(offset, chunk.len as usize)
                    .is_some_and(|bytes| self.keys.chunk_id(bytes) == chunk.id),
                Part::Hole(len) => old.is_hole(offset, len),
            };
            if agrees {
                current.offset += len;
                return Ok(());
            }
            self.decide(offset)?;
        }
        let Some(current) = self.current.as_mut().filter(|current| !current.is_kept) else { return Ok(()) };
        current.offset += len;
        match part {
            Part::Chunk(chunk) if !self.options.dry_run => {
                self.ahead.request(chunk, Token::Write(offset))?;
            }
            _ => self.ahead.token(Token::Hole(len))?,
        }
        self.collect(false)
    }

    fn end(&mut self, ending: Ending, size: u64) -> Result<()> {
        if ending == Ending::Complete && self.link()? {
            self.current = None;
            return Ok(());
        }
        if let Some(held) = self.current.as_mut().and_then(|current| current.held.take()) {
            // Not another name after all: its content is looked at now.
            if self.current.as_ref().is_some_and(|current| current.old.is_none()) {
                self.decide(0)?;
            }
            for part in held {
                self.content(part)?;
            }
        }
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
        let Some(current) = self.current.take() else { return Ok(()) };
        if ending == Ending::Complete
            && let Some((key, digest, path)) = current.several
        {
            self.links.insert(key, &digest, path);
        }
        match (current.is_kept, ending) {
            (true, _) => Ok(()),
            (false, Ending::Complete) => Ok(self.ahead.token(Token::End(size))?),
            (false, Ending::Dropped) => Ok(self.ahead.token(Token::Abandon { damaged: false })?),
        }
    }

    /// Whether the current entry is another name of a file that is restored, and now has it.
    fn link(&mut self) -> Result<bool> {
        let Some(Current { job: Some(_), several: Some((key, digest, _)), held: Some(_), .. }) =
            &self.current
        else {
            return Ok(false);
        };
        let Some(first) = self.links.first(key, digest).map(<[u8]>::to_vec) else { return Ok(false) };
        // Whether the first name is whole is known when all before has been written.
        self.collect(true)?;
        let job = self.current.as_mut().and_then(|current| current.job.as_mut());
        Ok(job.is_some_and(|job| self.writer.link(job, &first)))
    }

    /// Ends the current entry without a result.
    fn abandon(&mut self, damaged: bool) -> Result<()> {
        let Some(current) = self.current.take() else { return Ok(()) };
        match current.job {
            // What follows may lie in the same folders.
            Some(job) => self.above = job.above,
            None if current.is_kept => {}
            None => self.ahead.token(Token::Abandon { damaged })?,
        }
        Ok(())
    }

    fn collect(&mut self, all: bool) -> Result<()> {
        while all || self.ahead.is_full() {
            let Some(batch) = self.ahead.take()? else { break };
            for fetched in batch {
                match fetched {
                    Fetched::Token(Token::Begin(job)) => self.writer.begin(*job),
                    Fetched::Token(Token::Pass(path, entry)) => self.writer.pass(path, *entry),
                    Fetched::Token(Token::Hole(len)) => self.writer.hole(len),
                    Fetched::Token(Token::End(size)) => self.writer.end(size),
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
