//! The snapshot that a backup is compared with: which one, and what in it proves a file unchanged.

use super::BackupOptions;
use crate::columns::Columns;
use crate::entry::{Entry, Kind, Time, compare_paths};
use crate::group::{GroupBy, GroupKey, is_namesake};
use crate::manifest::{ManifestReader, Record, Step};
use crate::repository::Past;
use crate::snapshot::{Listed, Snapshot};
use crate::source::Source;
use crate::{Error, Monitor, Repository, Result};
use chunkstore::ObjectId;
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

/// What there is before a backup.
pub(super) struct Before {
    /// What it is compared with.
    pub(super) parent: Option<Listed>,
    /// The newest snapshot that a person would call the same.
    pub(super) namesake: Option<Listed>,
    /// What a person should know.
    pub(super) notes: Vec<String>,
}

/// Looks at the snapshots that there are.
pub(super) fn look_back(
    repo: &Repository,
    source: &dyn Source,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<Before> {
    let ours = super::probe(source, options, repo);
    let mut before = repo.look(monitor, |past| look_at(past, &ours, options, repo))?;
    if let Some(id) = options.parent {
        before.parent = Some(parent_of_id(repo, id)?);
    }
    Ok(before)
}

/// Looks at the snapshots of one HEAD.
fn look_at(
    past: &mut Past<'_>,
    ours: &Snapshot,
    options: &BackupOptions,
    repo: &Repository,
) -> Result<Before> {
    let now = super::timestamp(repo.store().now_ms());
    let columns = Columns::of(ours);
    let group = GroupKey::before_reading(ours);
    let same = |snapshot: &Snapshot| GroupKey::before_reading(snapshot) == group;
    let ahead = past.newest_after(now, |theirs| theirs.may_be_of_group(&columns), same)?;
    let notes = ahead.filter(|one| one.snapshot.made.is_some_and(|made| !made.time_given)).map(|one| {
        format!(
            "snapshot {} is of {}, which is still to come: one of two clocks is wrong, and it is taken for older \
             than this one. If this machine's clock is right, 'esker run --accept-clock' lets snapshots expire by it \
             again, and 'esker forget {}' removes that snapshot",
            one.id.short(),
            one.snapshot.time,
            one.id.short()
        )
    });
    let namesake = match columns.may_have_namesakes() {
        true => past.newest(|theirs| theirs.may_be_namesake(&columns), |theirs| is_namesake(ours, theirs))?,
        false => None,
    };
    let like = like(ours);
    let mut newest = |may_fit: &dyn Fn(&Columns) -> bool, is_right: &dyn Fn(&Snapshot) -> bool| {
        past.newest(may_fit, |theirs| theirs.is_of_full_client() && is_right(theirs))
    };
    let parent = match (options.parent, options.parent_of) {
        (Some(_), _) => None,
        (None, Some(by)) => {
            newest(&|theirs| theirs.may_be_of_group_by(by, &columns), &|theirs| fits(by, ours, theirs))?
        }
        (None, None) => match newest(&|theirs| theirs.may_be_of_group(&columns), &same)? {
            None => newest(&|theirs| theirs.may_be_like(&columns), &like)?,
            parent => parent,
        },
    };
    Ok(Before { parent, namesake, notes: notes.into_iter().collect() })
}

/// The snapshot that the user compares with.
fn parent_of_id(repo: &Repository, id: ObjectId) -> Result<Listed> {
    let root = repo.snapshot_roots()?.into_iter().find(|root| root.id == id);
    let root = root.ok_or_else(|| Error::NoSnapshot { wanted: id.to_string() })?;
    match repo.read_snapshot(&root) {
        // Forgotten or replaced since HEAD was read.
        Err(Error::Store(error)) if error.is_damage() && !repo.store().reload()?.roots.contains(&root)? => {
            Err(Error::NoSnapshot { wanted: id.to_string() })
        }
        snapshot => Ok(Listed { id, snapshot: snapshot? }),
    }
}

/// Whether two snapshots are of one group that is formed by `by`.
fn fits(by: GroupBy, ours: &Snapshot, theirs: &Snapshot) -> bool {
    // What does not say where it came from saves reading as well.
    let key = |snapshot| GroupKey { unknown: false, ..GroupKey::before_reading_by(by, snapshot) };
    key(ours) == key(theirs)
}

/// What esker.toml called otherwise, or not at all, or an older version made, saves reading just as well.
fn like(ours: &Snapshot) -> impl Fn(&Snapshot) -> bool {
    let group = GroupKey::before_reading_without_names(ours);
    move |theirs| {
        let theirs = GroupKey::before_reading_without_names(theirs);
        let same_paths = theirs.hostname == group.hostname && theirs.paths == group.paths;
        theirs == group || (theirs.unknown && same_paths)
    }
}
