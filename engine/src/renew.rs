//! Re-encryption: what is sealed under earlier epochs is moved to the newest, while backups and restores go on.
//!
//! Packs go the way of a prune: their chunks are copied, the copies listed, then the old packs condemned, doomed and
//! deleted. Small objects follow under new names. Whatever a run that was killed did counts, since what it listed is asked
//! before what it came from; the next run does the rest.

use crate::price::Price;
use crate::prune::orphans::dead_sessions;
use crate::prune::{MaxUnused, PruneOptions, Renewal, prune};
use crate::{Error, Monitor, Repository, Result};
use chunkstore::PackId;
use chunkstore::ingest::PackerOptions;
use chunkstore::seal::Compression;
use chunkstore::store::ChunkStore;
use std::collections::HashSet;

/// Choices for a re-encryption.
#[derive(Clone, Debug, Default)]
pub struct RenewOptions {
    /// Move at most this many bytes.
    pub max_repack: Option<u64>,
    /// Only find out what there is to do.
    pub dry_run: bool,
    /// Size of new packs.
    pub packer: PackerOptions,
    /// How chunks are compressed that are stored again.
    pub compression: Compression,
    /// Packs that stay: locked, or paid for until later.
    pub spare: HashSet<PackId>,
    /// Packs that cannot be read now.
    pub unreadable: HashSet<PackId>,
    /// Sessions of other machines that were inactive for this time are fenced, in milliseconds.
    pub fence_after_ms: u64,
}

/// What a re-encryption did at one place, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RenewReport {
    /// The newest epoch, to which all was moved.
    pub epoch: u32,
    /// Packs of earlier epochs.
    #[serde(flatten)]
    pub renewal: Renewal,
    /// Small objects of earlier epochs: records of snapshots, tier maps, index segments, leaves of HEAD. Those that go with
    /// packs count, too.
    pub objects: u64,
    /// Those of them that were sealed again.
    pub objects_renewed: u64,
    /// Old objects that the store does not let go: they are locked.
    pub objects_locked: u64,
    /// Whether old packs await the end of runs that began before: the next run removes them.
    pub deferred: bool,
    /// What is left that is sealed under earlier epochs, for people; none if there is nothing.
    pub left: Option<String>,
}

impl RenewReport {
    /// Whether nothing that HEAD names is sealed under an earlier epoch.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.left.is_none()
    }

    /// Requests for it, about: a read and a write for each pack and object, and a removal.
    #[must_use]
    pub fn requests(&self) -> u64 {
        3 * (self.renewal.packs_moved + self.objects)
    }

    /// Dollars for it, by the price of the class that data packs have here and that of the others: reading and writing, and
    /// what the old packs cost for as long as they are paid for.
    #[must_use]
    pub fn dollars(&self, data: &Price, hot: &Price) -> f64 {
        let Renewal { packs_moved, bytes_moved, .. } = self.renewal;
        let small = hot.fetch(self.objects, 0) + hot.puts(self.objects);
        data.fetch(packs_moved, bytes_moved) + data.puts(packs_moved) + small
    }
}

/// Moves what epochs before `epoch` seal to the newest, as far as it may go. Objects that `source` has under it are taken
/// over from there.
///
/// # Errors
///
/// As of a prune; a small object cannot be read.
pub fn renew(
    repo: &Repository,
    source: Option<&Repository>,
    epoch: u32,
    options: &RenewOptions,
    monitor: &dyn Monitor,
) -> Result<RenewReport> {
    let store = repo.store();
    store.reload()?;
    let pruning = PruneOptions {
        max_unused: MaxUnused::Unlimited,
        no_rebase: true,
        renew_before: Some(epoch),
        max_repack: options.max_repack,
        dry_run: options.dry_run,
        packer: options.packer,
        compression: options.compression,
        spare: options.spare.clone(),
        unreadable: options.unreadable.clone(),
        fence_after_ms: options.fence_after_ms,
        ..PruneOptions::default()
    };
    let mut report = RenewReport { epoch, objects: objects(store, epoch)?, ..RenewReport::default() };
    if has_old_packs(store, epoch)? {
        let plan = prune(repo, &pruning, monitor)?;
        (report.renewal, report.deferred) = (plan.renewal, plan.deferred);
    }
    if !options.dry_run {
        clear(store, options.fence_after_ms)?;
        let session = store.open_session("prune")?;
        let go_on = || match monitor.interrupted() {
            true => Err(chunkstore::Error::Interrupted),
            false => Ok(()),
        };
        let source = source.map(|source| &**source.store());
        let done = store.renew_small(&session, source, &go_on);
        let closed = store.close_session(&session, &[]);
        let done = done.map_err(|error| match error {
            chunkstore::Error::Interrupted => Error::Interrupted,
            error => error.into(),
        })?;
        closed?;
        report.objects_renewed = done.roots + done.segments + done.leaves;
        report.objects_locked = done.locked;
        crate::prune::delete_doomed(store)?;
    }
    if options.dry_run {
        // As if it were done, but for what stays.
        let stays = report.renewal.packs_left();
        report.left = (stays > 0).then(|| format!("{} would stay", crate::shown::counted(stays, "pack")));
        return Ok(report);
    }
    report.left = chunkstore::store::holders(&*store.reload()?, epoch.saturating_sub(1))?;
    Ok(report)
}

/// Ends the sessions of dead processes, which an epoch is kept for otherwise.
///
/// # Errors
///
/// HEAD cannot be read or swapped.
pub fn clear(store: &ChunkStore, fence_after_ms: u64) -> Result<()> {
    let head = store.reload()?;
    let dead = dead_sessions(&head, &store.access.identity, store.now_ms(), fence_after_ms)?;
    if !dead.is_empty() {
        store.update_head(|head| head.sessions.retain(|session| !dead.contains(&session.id)))?;
    }
    Ok(())
}

/// Whether a segment lists packs of earlier epochs, or may.
fn has_old_packs(store: &ChunkStore, epoch: u32) -> Result<bool> {
    let head = store.head();
    Ok(head.segments.iter()?.any(|segment| segment.epoch < epoch) || !head.doomed.is_empty())
}

/// Small objects of earlier epochs.
fn objects(store: &ChunkStore, epoch: u32) -> Result<u64> {
    let needs = store.head().needs(epoch.saturating_sub(1))?;
    Ok((needs.segments + needs.roots + needs.leaves) as u64)
}
