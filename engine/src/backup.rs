//! The story of a backup: source → chunks → packs → manifest → snapshot.
//!
//! Order is the safety argument: every chunk, the manifest's own included, is durable before the index
//! segment that lists it, that before the snapshot, and that before HEAD names them. A crash leaves
//! packs that the next run finds again or prune removes, never a broken name.

use crate::group::{GroupBy, hash_words, other_origin};
use crate::snapshot::{Hold, Listed, Made, MadeBy, Snapshot, SourceRecord, Summary};
use crate::source::Source;
use crate::{Counter, Error, Monitor, Repository, Result};
use chunkstore::ObjectId;
use chunkstore::ingest::{Dedupe, Packer, PackerOptions, Sealing, Written};
use chunkstore::store::LostPacks;
use chunkstore::threads;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

mod entries;
mod parent;
use entries::write_entries;
use parent::{Before, look_back};

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
    /// Whether that was given on purpose, rather than read off a clock.
    pub time_given: bool,
    /// Whether a person, a run, a stream or a restore makes it.
    pub made_by: MadeBy,
    /// The source's name in esker.toml.
    pub source_name: Option<String>,
    /// Whether it is to stay.
    pub hold: Hold,
    /// No rule and no promise removes it before.
    pub keep_until: Option<jiff::Timestamp>,
    /// The snapshot of another repository that this one is a copy of.
    pub original: Option<ObjectId>,
    /// The snapshot to compare with; the latest of its group if not given.
    pub parent: Option<ObjectId>,
    /// A snapshot whose place this one takes, in the swap that commits it: the parent.
    pub replaces: Option<ObjectId>,
    /// By what that group is formed, where it is not the group that rules act on.
    pub parent_of: Option<GroupBy>,
    /// Read every file, whatever the parent says.
    pub force: bool,
    /// Do not count files and bytes beforehand.
    pub no_scan: bool,
    /// Compare neither inode nor device.
    pub ignore_inode: bool,
    /// Do not compare the time of the last metadata change.
    pub ignore_ctime: bool,
    /// Do everything but store the result.
    pub dry_run: bool,
    /// No new snapshot if nothing changed.
    pub skip_if_unchanged: bool,
    /// How new chunks are stored.
    pub sealing: Sealing,
    /// How to pack.
    pub packer: PackerOptions,
    /// Program and version, for the record.
    pub program_version: String,
    /// The maximal age of what this process knows of packs being there; the store is asked again about those of which it
    /// knew before.
    pub packs_seen_within: Duration,
}

/// The result of a backup.
#[derive(Clone, Debug)]
pub struct BackupReport {
    /// The snapshot, unless it was a dry run or nothing changed.
    pub snapshot: Option<ObjectId>,
    /// The snapshot's summary.
    pub summary: Summary,
    /// The parent that was used.
    pub parent: Option<ObjectId>,
    /// Notes for people about snapshots of the same name, in sentences.
    pub notes: Vec<String>,
}

/// Backs up `source` and returns the snapshot that makes it reachable.
///
/// # Errors
///
/// Of the source and of the repository; [`chunkstore::Error::Gone`] if the snapshot that is to be replaced is not in HEAD: then
/// there is no new one.
pub fn backup(
    repo: &Repository,
    source: &mut dyn Source,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<BackupReport> {
    let _in_it = tracing::info_span!("backup", source = origins(source)).entered();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if let Some(scan) = source.scanner().filter(|_| !options.no_scan) {
            // Nothing but totals.
            if let Err(error) = threads::start_in(scope, "scan", || scan(monitor, &stop)) {
                monitor.note(&format!("nothing is counted beforehand: {error}"));
            }
        }
        let report = run(repo, source, options, monitor);
        stop.store(true, Ordering::Relaxed);
        report
    })
}

/// What is backed up, as its records name it, for the log.
fn origins(source: &dyn Source) -> String {
    let origins: Vec<String> = source.records().into_iter().map(|record| record.origin).collect();
    origins.join(", ")
}

/// The backup itself; the scanner counts beside it.
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
        let parent = look_back(repo, source, options, monitor)?.parent;
        let dedupe = Dedupe::asking(Arc::clone(store), options.sealing, options.packs_seen_within)?;
        return rehearse(&dedupe, source, parent.as_ref(), options, start, monitor);
    }
    // First of all: a prune waits for sessions that may build on what it condemned after they opened.
    let session = store.open_session("backup")?;
    let prepared = repo.sync_index(monitor).and_then(|()| look_back(repo, source, options, monitor));
    let Before { parent, namesake, mut notes } = match prepared {
        Ok(before) => before,
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
    let dedupe = Dedupe::asking(Arc::clone(store), options.sealing, options.packs_seen_within)?;
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
    about_lost(&dedupe.lost()?, monitor);
    // Of another group, the parent would not do instead.
    let ours = probe(source, options, repo);
    let unchanged = parent.as_ref().is_some_and(|parent| {
        parent.snapshot.manifest == manifest
            && GroupBy::default().key(&parent.snapshot) == GroupBy::default().key(&ours)
    });
    if options.skip_if_unchanged && unchanged {
        let segments = packer.flush()?;
        store.close_session(&session, &segments)?;
        let summary = summarize(start, timestamp(store.now_ms()), packer.written(), monitor);
        return Ok(BackupReport { snapshot: None, summary, parent: parent.map(|parent| parent.id), notes });
    }

    let replaced = parent.as_ref().filter(|parent| options.replaces == Some(parent.id));
    let written = packer.flush().map_err(Error::from).and_then(|segments| {
        // barrier: packs, then segments, durable
        let summary = summarize(start, timestamp(store.now_ms()), packer.written(), monitor);
        let snapshot = Snapshot {
            parent: parent.as_ref().map(|parent| parent.id),
            earlier: replaced.map(Listed::earlier).unwrap_or_default(),
            manifest,
            summary: summary.clone(),
            made: Some(made(repo, options)),
            ..probe(source, options, repo)
        };
        Ok((segments, summary, repo.write_snapshot(&snapshot)?))
    });
    let (segments, summary, root) = written.inspect_err(|error| {
        if error.is_full() {
            packer.abandon();
            let _ = store.close_session(&session, &[]);
        }
    })?;
    let (id, record) = (root.id, root.object());
    // Without room for it, nothing counts: what was written is taken back.
    let take_back = |error: &chunkstore::Error| {
        if let chunkstore::Error::NotSwapped(_) = error {
            // The record first: with it, 'repair head' would list a snapshot without its packs.
            let _ = repo.remove_record(&record);
            for segment in &segments {
                let _ = store.storage().delete(&chunkstore::format::names::segment(&segment.id));
            }
            packer.abandon();
            let _ = store.close_session(&session, &[]);
        }
    };
    // the commit point
    match options.replaces {
        None => {
            store.commit(&session, &segments, &[root], &dedupe.relied()).inspect_err(take_back)?;
        }
        Some(old) => {
            let done = store.commit_in_place_of(old, &session, &segments, &root, &dedupe.relied());
            let done = done.inspect_err(take_back);
            if let Err(chunkstore::Error::Gone { .. }) = done {
                store.close_session(&session, &segments)?;
                repo.remove_record(&record)?;
            }
            repo.remove_record(&done?.object())?;
        }
    }
    tracing::info!(
        snapshot = %id.short(),
        bytes = summary.total_bytes_processed,
        packs = packer.written().packs,
        bytes_added = summary.data_added_packed,
        "snapshot saved"
    );
    if let Some(namesake) = namesake
        && let Some(why) = other_origin(&probe(source, options, repo), &namesake.snapshot)
    {
        notes.push(format!(
            "snapshot {} before it, of the same name, came {why}: rules keep the two apart; give each stream a name of its own",
            namesake.id.short()
        ));
    }
    Ok(BackupReport { snapshot: Some(id), summary, parent: parent.map(|parent| parent.id), notes })
}

/// Warns about packs that are missing or have another length.
fn about_lost(lost: &LostPacks, monitor: &dyn Monitor) {
    if !lost.is_empty() {
        monitor.warning(&format!(
            "{} missing of those in the index, or of another length ({}): this backup does not rely on \
                them, and stores again what it needs of them. Older snapshots may need them, too: 'esker check' \
                says which. 'esker heal' restores those that another tier or parity has; then 'esker repair \
                packs' removes the others from the index",
            crate::shown::counted_are(lost.len(), "pack"),
            lost.names()
        ));
    }
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
    about_lost(&dedupe.lost()?, monitor);
    packer.flush()?;
    let summary = summarize(start, timestamp(dedupe.store().now_ms()), packer.written(), monitor);
    Ok(BackupReport { snapshot: None, summary, parent: parent.map(|parent| parent.id), notes: vec![] })
}

pub(crate) fn timestamp(now_ms: u64) -> jiff::Timestamp {
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

/// Where in the order of things a snapshot is made.
fn made(repo: &Repository, options: &BackupOptions) -> Made {
    let head = repo.store().head();
    Made {
        incarnation: head.incarnation,
        generation: head.generation,
        clock: timestamp(repo.store().now_ms()),
        time_given: options.time_given || options.original.is_some(),
    }
}

/// The record of a snapshot as far as it is known without its content.
fn probe(source: &dyn Source, options: &BackupOptions, repo: &Repository) -> Snapshot {
    Snapshot {
        time: options.time,
        paths: source.paths(),
        hostname: options.hostname.clone(),
        username: options.username.clone(),
        uid: options.uid,
        gid: options.gid,
        tags: options.tags.clone(),
        excludes: options.excludes.clone(),
        description: options.description.clone(),
        program_version: options.program_version.clone(),
        sources: identified(source, options, repo),
        original: options.original,
        earlier: vec![],
        made_by: options.made_by.clone(),
        hold: options.hold,
        keep_until: options.keep_until,
        ..Snapshot::default()
    }
}

/// The source's records, with what only we know: its name in esker.toml, and the key that hides a command's words.
fn identified(source: &dyn Source, options: &BackupOptions, repo: &Repository) -> Vec<SourceRecord> {
    let mut records = source.records();
    let words = source.command_words().map(|words| hash_words(&words, repo.store().keys()));
    for identity in records.iter_mut().filter_map(|record| record.identity.as_mut()) {
        if let Some(words) = &words {
            identity.words = Some(words.clone());
        }
        if let Some(name) = &options.source_name {
            identity.name = Some(name.clone());
        }
    }
    records
}
