//! Snapshots with lost data: written again without the entries that can no longer be restored completely. The old ones
//! stay, unless they are to be forgotten.

use crate::entry::display_path;
use crate::manifest::{Ending, ManifestReader, ManifestRoot, ManifestWriter, Record, Step};
use crate::snapshot::{Listed, Snapshot};
use crate::{Error, ItemError, Monitor, Repository, Result};
use chunkstore::ObjectId;
use chunkstore::head::Root;
use chunkstore::ingest::{Dedupe, Packer, PackerOptions, Sealing};
use chunkstore::store::describe;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Choices for a repair of snapshots.
#[derive(Clone, Debug, Default)]
pub struct SnapshotsOptions {
    /// Snapshots to repair; all if empty.
    pub snapshots: Vec<ObjectId>,
    /// Take the damaged ones out of HEAD once the new ones are in.
    pub forget: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Size of new packs.
    pub packer: PackerOptions,
}

/// A snapshot with lost data.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Repaired {
    /// The damaged one.
    pub snapshot: ObjectId,
    /// The snapshot without the lost data; none in a dry run, or if nothing is left.
    pub repaired: Option<ObjectId>,
    /// Entries that are left.
    pub entries: u64,
    /// Paths of lost entries.
    pub lost: Vec<String>,
    /// Gaps in the list of entries, with all entries that were there.
    pub gaps: u64,
}

/// The result of a repair of snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SnapshotsReport {
    /// Snapshots examined.
    pub snapshots: u64,
    /// Those that cannot be read at all.
    pub unreadable: Vec<ObjectId>,
    /// Those with lost data.
    pub repaired: Vec<Repaired>,
}

/// Examines snapshots, and writes those with lost data again. See the module.
pub fn repair_snapshots(
    repo: &Repository,
    options: &SnapshotsOptions,
    monitor: &dyn Monitor,
) -> Result<SnapshotsReport> {
    let store = repo.store();
    // A prune waits for sessions: what is found to be there stays.
    let session = store.open_session("repair")?;
    let done = (|| -> Result<SnapshotsReport> {
        if let Some((segment, why)) = store.sync_index()?.first() {
            // What it lists counts as lost, and is not.
            return Err(Error::Refused(format!(
                "index/{segment} is damaged ({why}); run 'esker repair index' first"
            )));
        }
        let lost = store.lost_packs(Duration::ZERO)?;
        if !lost.is_empty() {
            return Err(Error::Refused(format!(
                "{} missing, or of another length ({}): run 'esker heal' first, which restores \
                    what another tier or parity has, and 'esker repair packs' for the others",
                crate::shown::counted_are(lost.len(), "pack"),
                lost.names()
            )));
        }
        let dedupe = Dedupe::new(Arc::clone(store), Sealing::default(), &lost)?;
        let (mut report, damaged) = survey(repo, &dedupe, options, monitor)?;
        if options.dry_run || damaged.is_empty() {
            return Ok(report);
        }
        let mut packer = Packer::new(&dedupe, session, options.packer)?;
        let mut roots: Vec<Root> = vec![];
        let mut fresh = vec![];
        for (place, Listed { id, snapshot }) in damaged {
            let manifest = write_sound(&dedupe, &mut packer, &snapshot, monitor)?;
            if manifest.entries > 0 {
                let original = Some(id);
                // It is no longer what a write-only host signed.
                let fresh_record = Snapshot { manifest, original, earlier: vec![], signed: None, ..snapshot };
                fresh.push((place, fresh_record));
            }
        }
        let segments = packer.flush()?;
        for (place, snapshot) in fresh {
            let root = repo.write_snapshot(&snapshot)?;
            report.repaired[place].repaired = Some(root.id);
            roots.push(root);
        }
        store.commit(&session, &segments, &roots, &dedupe.relied())?;
        Ok(report)
    })();
    let closed = store.close_session(&session, &[]);
    let report = done?;
    closed?;
    if options.forget && !options.dry_run {
        let damaged = report.repaired.iter().filter(|repaired| repaired.repaired.is_some());
        repo.forget(&damaged.map(|repaired| repaired.snapshot).collect::<Vec<_>>())?;
    }
    Ok(report)
}

/// Finds the snapshots with lost data, each with its place in the report.
fn survey(
    repo: &Repository,
    dedupe: &Dedupe,
    options: &SnapshotsOptions,
    monitor: &dyn Monitor,
) -> Result<(SnapshotsReport, Vec<(usize, Listed)>)> {
    let (mut report, mut damaged) = (SnapshotsReport::default(), vec![]);
    let wanted: HashSet<ObjectId> = options.snapshots.iter().copied().collect();
    let roots = repo.snapshot_roots()?;
    for root in roots.iter().filter(|root| wanted.is_empty() || wanted.contains(&root.id)) {
        report.snapshots += 1;
        let plain = repo.store().read_snapshot(root);
        let snapshot = match plain.map(|plain| serde_json::from_slice::<Snapshot>(&plain)) {
            Ok(Ok(snapshot)) => snapshot,
            Err(error) if !error.is_damage() => return Err(error.into()),
            broken => {
                let message = broken.map_or_else(|error| describe(&error), |_| "it cannot be parsed".into());
                let item = format!("snapshots/{}", root.id);
                monitor.error(ItemError { during: "repair", item, message });
                report.unreadable.push(root.id);
                continue;
            }
        };
        let mut found = Repaired { snapshot: root.id, repaired: None, entries: 0, lost: vec![], gaps: 0 };
        let mut path = vec![];
        walk(dedupe, &snapshot, monitor, &mut |event| {
            match event {
                Event::Record(Record::Entry(entry)) => path.clone_from(&entry.path),
                Event::Record(Record::End(Ending::Complete, _)) => found.entries += 1,
                Event::Lost => found.lost.push(display_path(&path)),
                Event::Gap => found.gaps += 1,
                Event::Record(_) => {}
            }
            Ok(())
        })?;
        if !found.lost.is_empty() || found.gaps > 0 {
            damaged.push((report.repaired.len(), Listed { id: root.id, snapshot }));
            report.repaired.push(found);
        }
    }
    Ok((report, damaged))
}

/// What a walk comes across.
enum Event {
    /// A record that stays.
    Record(Record),
    /// The present entry cannot be restored completely.
    Lost,
    /// A part of the manifest is lost, with its entries.
    Gap,
}

/// Reads a manifest. The session relies on every chunk that stays, so that a commit can depend on it.
fn walk(
    dedupe: &Dedupe,
    snapshot: &Snapshot,
    monitor: &dyn Monitor,
    each: &mut dyn FnMut(Event) -> Result<()>,
) -> Result<()> {
    let mut reader = match ManifestReader::new(dedupe.store(), &snapshot.manifest) {
        Err(Error::Malformed { .. }) => return each(Event::Gap),
        reader => reader?,
    };
    // Between an entry's loss and its end, what comes is of no use.
    let (mut open, mut lost) = (false, false);
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Damage(_) => {
                if open && !lost {
                    each(Event::Lost)?;
                }
                (open, lost) = (false, false);
                each(Event::Gap)?;
            }
            Step::Record(Record::Entry(entry)) => {
                (open, lost) = (true, false);
                each(Event::Record(Record::Entry(entry)))?;
            }
            Step::Record(Record::Chunks(chunks)) if !lost => {
                let ids: Vec<_> = chunks.iter().map(|chunk| chunk.id).collect();
                lost = !dedupe.keep(&ids)?;
                each(if lost { Event::Lost } else { Event::Record(Record::Chunks(chunks)) })?;
            }
            Step::Record(Record::End(ending, size)) => {
                open = false;
                if !lost {
                    each(Event::Record(Record::End(ending, size)))?;
                }
            }
            Step::Record(_) if lost => {}
            Step::Record(record) => each(Event::Record(record))?,
        }
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    Ok(())
}

/// Writes a manifest of the remaining entries.
fn write_sound(
    dedupe: &Arc<Dedupe>,
    packer: &mut Packer,
    snapshot: &Snapshot,
    monitor: &dyn Monitor,
) -> Result<ManifestRoot> {
    let mut manifest = ManifestWriter::new(dedupe)?;
    walk(dedupe, snapshot, monitor, &mut |event| match event {
        Event::Record(record) => manifest.push(packer, record),
        Event::Lost => manifest.push(packer, Record::End(Ending::Dropped, 0)),
        Event::Gap => Ok(()),
    })?;
    manifest.finish(packer)
}
