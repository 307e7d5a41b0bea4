//! The snapshot that a backup is compared with: which one, and what in it proves a file unchanged.

use super::BackupOptions;
use crate::entry::{Entry, Kind, Time, compare_paths};
use crate::manifest::{ManifestReader, Record, Step};
use crate::snapshot::{Filter, Listed};
use crate::source::Source;
use crate::{Error, Monitor, Repository, Result};
use chunkstore::ingest::Dedupe;
use std::sync::Arc;

/// Walks through the parent's manifest beside the source; both are in the same order.
pub(super) struct ParentCursor {
    reader: ManifestReader,
    /// The entry that was read last and lies ahead of the source.
    ahead: Option<Box<Entry>>,
    exhausted: bool,
    /// When the parent's backup began to read.
    pub(super) start: jiff::Timestamp,
}

impl ParentCursor {
    pub(super) fn new(dedupe: &Arc<Dedupe>, parent: &Listed) -> Result<Self> {
        let reader = ManifestReader::new(dedupe.store(), &parent.snapshot.manifest)?;
        let start = parent.snapshot.summary.backup_start.parse().unwrap_or(jiff::Timestamp::MIN);
        Ok(Self { reader, ahead: None, exhausted: false, start })
    }

    /// The parent's entry of this path, if it has one. Its content follows by `next_record`.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<Entry>> {
        loop {
            if let Some(entry) = &self.ahead {
                match compare_paths(&entry.path, path) {
                    std::cmp::Ordering::Less => self.ahead = None,
                    std::cmp::Ordering::Equal => return Ok(self.ahead.take().map(|entry| *entry)),
                    std::cmp::Ordering::Greater => return Ok(None),
                }
            } else if self.exhausted {
                return Ok(None);
            } else {
                match self.reader.next_step()? {
                    Some(Step::Record(Record::Entry(entry))) => self.ahead = Some(entry),
                    // Content that nobody wanted, or a damaged stretch: what was there is read again.
                    Some(_) => {}
                    None => self.exhausted = true,
                }
            }
        }
    }

    pub(super) fn next_record(&mut self) -> Result<Option<Record>> {
        Ok(match self.reader.next_step()? {
            Some(Step::Record(Record::Entry(entry))) => {
                self.ahead = Some(entry);
                None
            }
            Some(Step::Record(record)) => Some(record),
            Some(Step::Damage(_)) | None => None,
        })
    }
}

/// Whether a file's metadata proves that its content is the parent's.
pub(super) fn is_unchanged(
    entry: &Entry,
    older: &Entry,
    parent_start: jiff::Timestamp,
    options: &BackupOptions,
) -> bool {
    older.kind == Kind::File
        && entry.size == older.size
        && entry.mtime == older.mtime
        && (options.ignore_ctime || entry.ctime == older.ctime)
        && (options.ignore_inode || entry.inode == older.inode)
        && is_settled(entry.ctime, parent_start)
}

/// Whether a change would have shown: a file changed again within the clock's grain of the moment at
/// which it was read looks the same ever after (borg#3536). The kernel's grain is a tick, at most
/// 10 ms; file systems without a fraction have 2 s at worst.
fn is_settled(time: Time, parent_start: jiff::Timestamp) -> bool {
    let grain_ns = if time.nanoseconds == 0 { 2_000_000_000 } else { 20_000_000 };
    let time_ns = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    time_ns + grain_ns <= parent_start.as_nanosecond()
}

pub(super) fn find_parent(
    repo: &Repository,
    source: &dyn Source,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<Option<Listed>> {
    if let Some(id) = options.parent {
        let root = repo.snapshot_roots().into_iter().find(|root| root.id == id);
        let root = root.ok_or_else(|| Error::NoSnapshot { wanted: id.to_string() })?;
        return Ok(Some(Listed { id, snapshot: repo.read_snapshot(&root)? }));
    }
    let all = repo.snapshots(monitor)?;
    let mut paths = source.paths();
    paths.sort();
    let filter = Filter { hosts: vec![options.hostname.clone()], ..Filter::default() };
    Ok(all.into_iter().rev().find(|listed| {
        let mut theirs = listed.snapshot.paths.clone();
        theirs.sort();
        filter.fits(&listed.snapshot) && theirs == paths
    }))
}
