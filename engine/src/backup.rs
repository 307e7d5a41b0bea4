//! The story of a backup: source → chunks → packs → manifest → snapshot.
//!
//! Order is the safety argument: every chunk, the manifest's own included, is durable before the index
//! segment that lists it, that before the snapshot, and that before HEAD names them. A crash leaves
//! packs that the next run finds again or prune removes, never a broken name.

use crate::entry::Entry;
use crate::manifest::{Ending, ManifestRoot, ManifestWriter, Record};
use crate::snapshot::{Listed, Snapshot, Summary};
use crate::source::{Content, Item, Piece, Source, SourceError, SourceErrorKind};
use crate::{Counter, Error, ItemError, Monitor, Repository, Result};
use chunkstore::ObjectId;
use chunkstore::format::PackKind;
use chunkstore::ingest::{Dedupe, Lane, Output, Packer, PackerOptions, Sealing, Written};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

mod parent;
use parent::{ParentCursor, find_parent, is_unchanged};

/// Choices for a backup.
#[derive(Clone, Debug, Default)]
pub struct BackupOptions {
    /// Host name in the snapshot.
    pub hostname: String,
    /// User name, id and group.
    pub username: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Tags.
    pub tags: Vec<String>,
    /// Free text.
    pub description: String,
    /// Patterns, for the record.
    pub excludes: Vec<String>,
    /// When the backup began.
    pub time: jiff::Timestamp,
    /// The snapshot of another repository that this one is a copy of.
    pub original: Option<ObjectId>,
    /// The snapshot to compare with; the latest of the same host and paths if not given.
    pub parent: Option<ObjectId>,
    /// Read every file, whatever the parent says.
    pub force: bool,
    /// Compare neither inode nor device.
    pub ignore_inode: bool,
    /// Do not compare the time of the last metadata change.
    pub ignore_ctime: bool,
    /// Do everything but keep the result.
    pub dry_run: bool,
    /// No new snapshot if nothing changed.
    pub skip_if_unchanged: bool,
    /// How new chunks are stored.
    pub sealing: Sealing,
    /// How to pack.
    pub packer: PackerOptions,
    /// Program and version, for the record.
    pub program_version: String,
}

/// What a backup did.
#[derive(Clone, Debug)]
pub struct BackupReport {
    /// The snapshot, unless it was a dry run or nothing changed.
    pub snapshot: Option<ObjectId>,
    /// What it says.
    pub summary: Summary,
    /// The parent that was used.
    pub parent: Option<ObjectId>,
}

/// What stands between chunks on their way to the manifest.
enum Token {
    Start(Box<Entry>),
    Reused(Vec<chunkstore::ingest::ChunkRef>),
    Hole(u64),
    End(Ending, u64),
}

/// Backs up `source` and returns the snapshot that makes it reachable.
pub fn backup(
    repo: &Repository,
    source: &mut dyn Source,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<BackupReport> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if let Some(scan) = source.scanner() {
            scope.spawn(|| scan(monitor, &stop));
        }
        let report = run(repo, source, options, monitor);
        stop.store(true, Ordering::Relaxed);
        report
    })
}

/// The backup itself, beside which the scanner counts what is to come.
fn run(
    repo: &Repository,
    source: &mut dyn Source,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<BackupReport> {
    let store = repo.store();
    let start = timestamp(store.now_ms());
    if options.dry_run {
        repo.sync_index(monitor)?;
        let parent = find_parent(repo, source, options, monitor)?;
        let dedupe = Dedupe::new(Arc::clone(store), options.sealing);
        return rehearse(&dedupe, source, parent.as_ref(), options, start, monitor);
    }
    // First of all: a prune waits for sessions that may build on what it condemned after they opened.
    let session = store.open_session("backup")?;
    let prepared = repo.sync_index(monitor).and_then(|()| find_parent(repo, source, options, monitor));
    let parent = match prepared {
        Ok(parent) => parent,
        Err(error) => {
            let _ = store.close_session(&session, &[]);
            return Err(error);
        }
    };
    if let (Some(parent), None) = (&parent, source.scanner()) {
        // Of what cannot be counted before it comes, the last time is the best guess.
        let last = &parent.snapshot.summary;
        monitor.count(Counter::FilesTotal, last.total_files_processed);
        monitor.count(Counter::BytesTotal, last.total_bytes_processed);
    }
    let dedupe = Dedupe::new(Arc::clone(store), options.sealing);
    let mut packer = Packer::new(&dedupe, session, options.packer)?;

    let manifest = match write_entries(&dedupe, &mut packer, source, parent.as_ref(), options, monitor) {
        Ok(manifest) => manifest,
        Err(error) => {
            // What was uploaded is listed all the same, so that the next run need not repeat it; unless there is
            // no room for it. The first error is the one to tell, whatever becomes of this.
            let kept = if error.is_full() {
                packer.abandon();
                store.close_session(&session, &[])
            } else {
                packer.flush().and_then(|segments| store.close_session(&session, &segments))
            };
            if let Err(second) = kept {
                tracing::debug!(%second, "could not keep what was uploaded");
            }
            // A ctrl-C reaches the commands that we read from, too; their dying is not the news.
            return Err(if monitor.interrupted() { Error::Interrupted } else { error });
        }
    };
    let unchanged = parent.as_ref().is_some_and(|parent| parent.snapshot.manifest == manifest);
    if options.skip_if_unchanged && unchanged {
        let segments = packer.flush()?;
        store.close_session(&session, &segments)?;
        let summary = summarize(start, timestamp(store.now_ms()), packer.written(), monitor);
        return Ok(BackupReport { snapshot: None, summary, parent: parent.map(|parent| parent.id) });
    }

    let written = packer.flush().map_err(Error::from).and_then(|segments| {
        // barrier: packs, then segments, durable
        let summary = summarize(start, timestamp(store.now_ms()), packer.written(), monitor);
        let snapshot = describe(source, options, manifest, &summary, parent.as_ref());
        Ok((segments, summary, repo.write_snapshot(&snapshot)?))
    });
    let (segments, summary, root) = written.inspect_err(|error| {
        if error.is_full() {
            packer.abandon();
            let _ = store.close_session(&session, &[]);
        }
    })?;
    let id = root.id;
    store.commit(&session, &segments, &[root], &dedupe.relied())?; // the commit point
    Ok(BackupReport { snapshot: Some(id), summary, parent: parent.map(|parent| parent.id) })
}

/// A dry run: everything but writing to the repository.
fn rehearse(
    dedupe: &Arc<Dedupe>,
    source: &mut dyn Source,
    parent: Option<&Listed>,
    options: &BackupOptions,
    start: jiff::Timestamp,
    monitor: &dyn Monitor,
) -> Result<BackupReport> {
    let nobody = chunkstore::SessionId([0; 16]);
    let mut packer = Packer::new(dedupe, nobody, PackerOptions { discard: true, ..options.packer })?;
    write_entries(dedupe, &mut packer, source, parent, options, monitor)?;
    packer.flush()?;
    let summary = summarize(start, timestamp(dedupe.store().now_ms()), packer.written(), monitor);
    Ok(BackupReport { snapshot: None, summary, parent: parent.map(|parent| parent.id) })
}

/// Reads the source to its end, through the pipeline, into a manifest.
fn write_entries(
    dedupe: &Arc<Dedupe>,
    packer: &mut Packer,
    source: &mut dyn Source,
    parent: Option<&Listed>,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<ManifestRoot> {
    source.start(seed(dedupe))?;
    let mut writer = EntryWriter {
        lane: Lane::new(dedupe, PackKind::Data)?,
        manifest: ManifestWriter::new(dedupe)?,
        dedupe,
        packer,
        monitor,
    };
    if let Err(error) = writer.write_all(source, parent, options) {
        // What is on its way into packs is kept for the next run; the first error is the one to tell.
        let _ = writer.lane.drain(writer.packer, &mut |_, _| Ok(()));
        return Err(error);
    }
    writer.finish()
}

/// A secret of the repository for sources that cut at their records.
fn seed(dedupe: &Dedupe) -> [u64; 2] {
    let secret = dedupe.store().keys().chunk_id(b"esker: cuts at records");
    let half = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&secret.as_bytes()[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    [half(0), half(8)]
}

struct EntryWriter<'a> {
    lane: Lane<Token>,
    manifest: ManifestWriter,
    dedupe: &'a Arc<Dedupe>,
    packer: &'a mut Packer,
    monitor: &'a dyn Monitor,
}

impl EntryWriter<'_> {
    fn write_all(
        &mut self,
        source: &mut dyn Source,
        parent: Option<&Listed>,
        options: &BackupOptions,
    ) -> Result<()> {
        let mut before = match parent {
            Some(parent) => Some(ParentCursor::new(self.dedupe, parent)?),
            None => None,
        };
        while let Some(item) = source.next_item(self.monitor)? {
            let older = match &mut before {
                Some(cursor) => cursor.find(&item.entry.path)?,
                None => None,
            };
            if let Err(error) = self.write_item(item, older, before.as_mut(), options) {
                match error {
                    // One file that cannot be read does not end the backup of a tree.
                    Error::Source(SourceError { kind: SourceErrorKind::Item, what, why })
                        if source.tolerates_item_errors() =>
                    {
                        self.monitor.error(ItemError { during: "archival", item: what, message: why });
                    }
                    error => return Err(error),
                }
            }
            if self.monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }

    fn write_item(
        &mut self,
        item: Item,
        older: Option<Entry>,
        mut before: Option<&mut ParentCursor>,
        options: &BackupOptions,
    ) -> Result<()> {
        let Item { entry, content, comparable } = item;
        let shown = entry.display_path();
        let Some(open) = content else {
            self.count_other(&entry, older.as_ref());
            self.lane.token(Token::Start(Box::new(entry)));
            self.lane.token(Token::End(Ending::Complete, 0));
            return self.collect();
        };
        self.monitor.current(&shown);
        if let (Some(older), Some(before)) = (&older, before.as_deref_mut())
            && comparable
            && !options.force
            && is_unchanged(&entry, older, before.start, options)
            && self.reuse(&entry, before)?
        {
            self.monitor.entry("unchanged", &shown, entry.size);
            self.monitor.count(Counter::FilesUnmodified, 1);
            return self.collect();
        }
        let mut content = open()?;
        self.lane.start();
        self.lane.token(Token::Start(Box::new(entry)));
        match self.read_content(&mut *content, before.filter(|_| older.is_some())) {
            Ok(size) => {
                self.lane.token(Token::End(Ending::Complete, size));
                if let Some(warning) = content.warning() {
                    self.monitor.error(ItemError {
                        during: "archival",
                        item: shown.clone(),
                        message: warning,
                    });
                }
                let (action, counter) = match older {
                    Some(_) => ("modified", Counter::FilesChanged),
                    None => ("new", Counter::FilesNew),
                };
                self.monitor.entry(action, &shown, size);
                self.monitor.count(counter, 1);
                self.monitor.count(Counter::FilesDone, 1);
                self.collect()
            }
            Err(error) => {
                self.lane.end_stream();
                self.lane.token(Token::End(Ending::Dropped, 0));
                Err(error)
            }
        }
    }

    /// Feeds one entry's content into the lane, which is told what it was in the parent; returns its size.
    fn read_content(
        &mut self,
        content: &mut dyn Content,
        mut before: Option<&mut ParentCursor>,
    ) -> Result<u64> {
        let mut size = 0;
        loop {
            while self.lane.wants_prediction()
                && let Some(cursor) = &mut before
            {
                match cursor.next_record()? {
                    Some(Record::Chunks(chunks)) => self.lane.predict(&chunks)?,
                    Some(Record::Hole(_)) => {}
                    _ => before = None,
                }
            }
            match content.read(self.lane.space())? {
                Piece::Data(len) => {
                    self.lane.advance(len);
                    size += len as u64;
                    self.monitor.count(Counter::BytesDone, len as u64);
                }
                Piece::Hole(len) => {
                    self.lane.end_stream();
                    self.lane.token(Token::Hole(len));
                    size += len;
                    self.monitor.count(Counter::BytesDone, len);
                }
                Piece::Cut => self.lane.cut_here(),
                Piece::Wait => {}
                Piece::End => {
                    self.lane.end_stream();
                    return Ok(size);
                }
            }
            if self.monitor.interrupted() {
                return Err(Error::Interrupted);
            }
            self.collect()?;
        }
    }

    /// Takes the content of an unchanged file over from the parent, if all of it is still there. A
    /// piece that is gone ends the attempt: the entry is dropped, and written again by reading.
    fn reuse(&mut self, entry: &Entry, before: &mut ParentCursor) -> Result<bool> {
        self.lane.token(Token::Start(Box::new(entry.clone())));
        loop {
            match before.next_record()? {
                Some(Record::Chunks(chunks)) => {
                    let ids: Vec<_> = chunks.iter().map(|chunk| chunk.id).collect();
                    if !self.dedupe.reuse(&ids)? {
                        break;
                    }
                    self.lane.token(Token::Reused(chunks));
                }
                Some(Record::Hole(len)) => self.lane.token(Token::Hole(len)),
                Some(Record::End(Ending::Complete, size)) => {
                    self.lane.token(Token::End(Ending::Complete, size));
                    self.monitor.count(Counter::BytesDone, size);
                    self.monitor.count(Counter::FilesDone, 1);
                    return Ok(true);
                }
                _ => break,
            }
            self.collect()?;
        }
        self.lane.token(Token::End(Ending::Dropped, 0));
        Ok(false)
    }

    fn count_other(&self, entry: &Entry, older: Option<&Entry>) {
        let (action, counter) = match older {
            None => ("new", Counter::DirsNew),
            Some(older) if entry.same_metadata(older) => ("unchanged", Counter::DirsUnmodified),
            Some(_) => ("modified", Counter::DirsChanged),
        };
        self.monitor.entry(action, &entry.display_path(), 0);
        self.monitor.count(counter, 1);
        self.monitor.count(Counter::FilesDone, 1);
    }

    fn collect(&mut self) -> Result<()> {
        let manifest = &mut self.manifest;
        Ok(self
            .lane
            .collect(self.packer, &mut |packer, output| into_store(record(manifest, packer, output)))?)
    }

    fn finish(mut self) -> Result<ManifestRoot> {
        let manifest = &mut self.manifest;
        self.lane.drain(self.packer, &mut |packer, output| into_store(record(manifest, packer, output)))?;
        self.manifest.finish(self.packer)
    }
}

/// Writes what comes out of the pipeline into the manifest.
fn record(manifest: &mut ManifestWriter, packer: &mut Packer, output: Output<Token>) -> Result<()> {
    match output {
        Output::Chunk(chunk) => manifest.push_chunk(packer, chunk),
        Output::Token(Token::Start(entry)) => manifest.push(packer, Record::Entry(entry)),
        Output::Token(Token::Reused(chunks)) => manifest.push(packer, Record::Chunks(chunks)),
        Output::Token(Token::Hole(len)) => manifest.push(packer, Record::Hole(len)),
        Output::Token(Token::End(ending, size)) => manifest.push(packer, Record::End(ending, size)),
    }
}

/// The lane hands on errors of its own crate; ours in there can only be those.
fn into_store(result: Result<()>) -> chunkstore::Result<()> {
    result.map_err(|error| match error {
        Error::Store(error) => error,
        other => chunkstore::Error::Invalid(other.to_string()),
    })
}

fn timestamp(now_ms: u64) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(i64::try_from(now_ms).unwrap_or_default()).unwrap_or_default()
}

fn summarize(
    start: jiff::Timestamp,
    end: jiff::Timestamp,
    written: Written,
    monitor: &dyn Monitor,
) -> Summary {
    let count = |counter| monitor.get(counter);
    Summary {
        backup_start: start.to_string(),
        backup_end: end.to_string(),
        files_new: count(Counter::FilesNew),
        files_changed: count(Counter::FilesChanged),
        files_unmodified: count(Counter::FilesUnmodified),
        dirs_new: count(Counter::DirsNew),
        dirs_changed: count(Counter::DirsChanged),
        dirs_unmodified: count(Counter::DirsUnmodified),
        data_blobs: written.data_chunks,
        delta_blobs: written.delta_chunks,
        tree_blobs: written.metadata_chunks,
        data_added: written.plain_bytes,
        data_added_packed: written.stored_bytes,
        total_files_processed: count(Counter::FilesNew)
            + count(Counter::FilesChanged)
            + count(Counter::FilesUnmodified),
        total_bytes_processed: count(Counter::BytesDone),
    }
}

fn describe(
    source: &dyn Source,
    options: &BackupOptions,
    manifest: ManifestRoot,
    summary: &Summary,
    parent: Option<&Listed>,
) -> Snapshot {
    Snapshot {
        time: options.time,
        parent: parent.map(|parent| parent.id),
        paths: source.paths(),
        hostname: options.hostname.clone(),
        username: options.username.clone(),
        uid: options.uid,
        gid: options.gid,
        tags: options.tags.clone(),
        excludes: options.excludes.clone(),
        description: options.description.clone(),
        program_version: options.program_version.clone(),
        sources: source.records(),
        manifest,
        summary: summary.clone(),
        original: options.original,
        other: std::collections::BTreeMap::new(),
    }
}
