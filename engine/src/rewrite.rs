//! Snapshots written again with fewer entries, another host or another time. Content is neither read nor stored again:
//! the new list of entries names the chunks of the old one.

use crate::entry::Entry;
use crate::filters::{self, FILTERS};
use crate::manifest::{Ending, ManifestReader, ManifestRoot, ManifestWriter, Record, Step, for_all_entries};
use crate::patterns::Patterns;
use crate::snapshot::{Listed, Snapshot};
use crate::{Error, Monitor, Repository, Result};
use chunkstore::ObjectId;
use chunkstore::ingest::{Dedupe, Packer, PackerOptions, Sealing};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// The changes.
#[derive(Debug, Default)]
pub struct RewriteOptions {
    /// Leave out what fits.
    pub excludes: Patterns,
    /// Keep only matching paths, and the folders above them; `None`: everything.
    pub includes: Option<Patterns>,
    /// Another host.
    pub hostname: Option<String>,
    /// Another time.
    pub time: Option<jiff::Timestamp>,
    /// A tag for new snapshots.
    pub tag: Option<String>,
    /// Remove the old ones once the new ones are in.
    pub forget: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Size of new packs.
    pub packer: PackerOptions,
}

/// The result for a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Rewritten {
    /// The old one.
    pub snapshot: ObjectId,
    /// The new one; none in a dry run, or if nothing differs.
    pub rewritten: Option<ObjectId>,
    /// Entries that the new one lacks.
    pub removed: u64,
    /// Whether anything differs.
    pub changed: bool,
}

/// Writes a changed snapshot.
///
/// # Errors
///
/// If the old one is damaged (`repair snapshots` first), or nothing of it would be left.
pub fn rewrite(
    repo: &Repository,
    listed: &Listed,
    options: &RewriteOptions,
    monitor: &dyn Monitor,
) -> Result<Rewritten> {
    let store = repo.store();
    // A prune waits for sessions: what is found to be there stays.
    let session = store.open_session("rewrite")?;
    let done = (|| -> Result<Rewritten> {
        repo.sync_index(monitor)?;
        let chosen = Chosen::new(repo, &listed.snapshot, options)?;
        let (old, removed) = (&listed.snapshot, chosen.removed);
        let record = options.hostname.as_ref().is_some_and(|host| *host != old.hostname)
            || options.time.is_some_and(|time| time != old.time);
        let mut done =
            Rewritten { snapshot: listed.id, rewritten: None, removed, changed: removed > 0 || record };
        if chosen.kept == 0 {
            let why =
                format!("nothing of snapshot {} would be left: 'esker forget' removes it", listed.id.short());
            return Err(Error::Invalid(why));
        }
        if options.dry_run || !done.changed {
            return Ok(done);
        }
        let lost = store.lost_packs(Duration::ZERO)?;
        let dedupe = Dedupe::new(Arc::clone(store), Sealing::default(), &lost)?;
        let mut packer = Packer::new(&dedupe, session, options.packer)?;
        let manifest = write(&dedupe, &mut packer, old, &chosen, monitor)?;
        let segments = packer.flush()?;
        let mut fresh = Snapshot {
            manifest,
            original: Some(old.original.unwrap_or(listed.id)),
            earlier: vec![],
            ..old.clone()
        };
        if let Some(host) = &options.hostname {
            fresh.hostname.clone_from(host);
        }
        if fresh.manifest != old.manifest || fresh.hostname != old.hostname {
            // It is no longer what a write-only host signed; `original` names that.
            fresh.signed = None;
        }
        if let Some(time) = options.time {
            fresh.time = time;
        }
        keep_filters(&mut fresh, options);
        if let Some(tag) = options.tag.as_ref().filter(|tag| !old.tags.contains(tag)) {
            fresh.tags.push(tag.clone());
        }
        let root = repo.write_snapshot(&fresh)?;
        done.rewritten = Some(root.id);
        store.commit(&session, &segments, &[root], &dedupe.relied())?;
        Ok(done)
    })();
    let closed = store.close_session(&session, &[]);
    let done = done?;
    closed?;
    if options.forget && done.rewritten.is_some() {
        repo.forget(&[listed.id])?;
    }
    Ok(done)
}

/// Records which entries the new snapshot lacks, and why, in the record of its first tree.
fn keep_filters(fresh: &mut Snapshot, options: &RewriteOptions) {
    if options.excludes.is_empty() && options.includes.is_none() {
        return;
    }
    if let Some(record) = fresh.sources.iter_mut().find(|record| record.kind == "files") {
        let lines = record.details.entry(FILTERS.into()).or_default();
        lines.push_str(&filters::of_rewrite(&options.excludes, options.includes.as_ref()));
    }
}

/// Which entries stay.
struct Chosen<'a> {
    options: &'a RewriteOptions,
    /// Folders above what fits an include.
    above: HashSet<Vec<u8>>,
    kept: u64,
    removed: u64,
}

impl<'a> Chosen<'a> {
    fn new(repo: &Repository, snapshot: &Snapshot, options: &'a RewriteOptions) -> Result<Self> {
        let mut chosen = Self { options, above: HashSet::new(), kept: 0, removed: 0 };
        let mut entries = 0u64;
        for_all_entries(repo.store(), &snapshot.manifest, &mut |found| {
            entries += 1;
            if chosen.fits(&found.entry) {
                chosen.kept += 1;
                let mut path = found.entry.path.as_slice();
                while let Some(at) = path.iter().rposition(|byte| *byte == b'/') {
                    path = path.get(..at).unwrap_or_default();
                    if options.includes.is_none() || !chosen.above.insert(path.to_vec()) {
                        break;
                    }
                }
            }
            Ok(())
        })?;
        if options.includes.is_some() {
            let mut kept = 0;
            for_all_entries(repo.store(), &snapshot.manifest, &mut |found| {
                kept += u64::from(chosen.stays(&found.entry));
                Ok(())
            })?;
            // Folders alone are nothing that was asked for.
            chosen.kept = if chosen.kept > 0 { kept } else { 0 };
        }
        chosen.removed = entries - chosen.kept;
        Ok(chosen)
    }

    /// Whether the patterns select it.
    fn fits(&self, entry: &Entry) -> bool {
        let is_folder = entry.kind == crate::entry::Kind::Dir;
        let included = self
            .options
            .includes
            .as_ref()
            .is_none_or(|patterns| patterns.fits_within(&entry.path, is_folder));
        included && !self.options.excludes.fits_within(&entry.path, is_folder)
    }

    fn stays(&self, entry: &Entry) -> bool {
        self.fits(entry) || self.above.contains(&entry.path)
    }
}

/// Writes the list of what stays; its chunks are relied on, so that the commit can depend on them.
fn write(
    dedupe: &Arc<Dedupe>,
    packer: &mut Packer,
    old: &Snapshot,
    chosen: &Chosen<'_>,
    monitor: &dyn Monitor,
) -> Result<ManifestRoot> {
    let mut reader = ManifestReader::new(dedupe.store(), &old.manifest)?;
    let mut manifest = ManifestWriter::new(dedupe)?;
    let mut inside = false;
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Damage(damage) => return Err(damage.error.into()),
            Step::Record(Record::Entry(entry)) => {
                inside = chosen.stays(&entry);
                if inside {
                    manifest.push(packer, Record::Entry(entry))?;
                }
            }
            Step::Record(_) if !inside => {}
            Step::Record(Record::Chunks(chunks)) => {
                let ids: Vec<_> = chunks.iter().map(|chunk| chunk.id).collect();
                // What is lost meanwhile would be lost here, too.
                if !dedupe.keep(&ids)? {
                    let id = ids.first().copied().unwrap_or(chunkstore::ChunkId([0; 32]));
                    return Err(chunkstore::Error::MissingChunk { id }.into());
                }
                manifest.push(packer, Record::Chunks(chunks))?;
            }
            Step::Record(record) => {
                inside &= !matches!(record, Record::End(Ending::Complete | Ending::Dropped, _));
                manifest.push(packer, record)?;
            }
        }
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    manifest.finish(packer)
}
