//! Removing what no snapshot needs, while backups run. docs/concurrency.md has the argument; here is
//! the order: mark → repack → condemn → doom → delete → reap.
//!
//! Condemning is advice to writers. Dooming is for ever, and happens in a swap of a HEAD all of whose
//! snapshots were marked, so that nothing in it needs what is doomed; a commit that relied on a
//! condemned pack takes it back in its own swap. While other sessions are open nothing is doomed: the
//! next prune does it. That costs space for a while, never safety.

use crate::{Error, Monitor, Repository, Result};
use chunkstore::bases::ground;
use chunkstore::format::names;
use chunkstore::head::{Head, PackRef, SegmentRef};
use chunkstore::index::Segment;
use chunkstore::ingest::PackerOptions;
use chunkstore::seal::Compression;
use chunkstore::store::ChunkStore;
use chunkstore::{ObjectId, PackId, SessionId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

mod orphans;
mod rewrite;
mod standing;
mod survey;
use orphans::{dead_sessions, find_orphans, list_objects, unnamed};
use rewrite::rewrite;
use survey::{Marks, Survey};

/// How much unused data may stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MaxUnused {
    /// Percent of the repository.
    Percent(f64),
    /// Bytes.
    Bytes(u64),
    /// Any: only packs without any use are removed.
    Unlimited,
}

impl Default for MaxUnused {
    fn default() -> Self {
        Self::Percent(5.0)
    }
}

/// Choices for a prune.
#[derive(Clone, Debug, Default)]
pub struct PruneOptions {
    /// How much may stay.
    pub max_unused: MaxUnused,
    /// Repack at most this many bytes.
    pub max_repack: Option<u64>,
    /// Leave deltas on what they stand on, even if nothing else needs it.
    pub no_rebase: bool,
    /// Only make the plan.
    pub dry_run: bool,
    /// Size of new packs.
    pub packer: PackerOptions,
    /// How chunks are compressed that are stored anew.
    pub compression: Compression,
    /// Sessions of other machines that were silent for so long are fenced, in milliseconds.
    pub fence_after_ms: u64,
}

/// What a prune is about to do, or did. Bytes are of packs, stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PrunePlan {
    /// Live packs.
    pub packs_total: u64,
    /// Their bytes.
    pub bytes_total: u64,
    /// Bytes that some snapshot needs.
    pub bytes_used: u64,
    /// Packs without any use.
    pub packs_unused: u64,
    /// Packs to be rewritten.
    pub packs_repack: u64,
    /// Bytes that are copied in doing so.
    pub bytes_repack: u64,
    /// Chunks that are rewritten to stand on their own, which frees what only they stand on.
    pub chunks_rebase: u64,
    /// Bytes that go.
    pub bytes_remove: u64,
    /// Unused bytes that stay.
    pub bytes_unused_after: u64,
    /// Objects that no HEAD ever named: of interrupted runs.
    pub orphans: u64,
    /// Sessions of dead processes.
    pub sessions_fenced: u64,
    /// Whether removal waits for running sessions; the next prune finishes it.
    pub deferred: bool,
}

/// Plans, and unless it is a dry run, prunes.
pub fn prune(repo: &Repository, options: &PruneOptions, monitor: &dyn Monitor) -> Result<PrunePlan> {
    let store = repo.store();
    // Listed before HEAD is read: what an open session of that HEAD did not write is nobody's.
    let listed = list_objects(store)?;
    let head = store.reload()?;
    if let Some((segment, why)) = store.sync_index()?.first() {
        return Err(Error::Refused(format!(
            "index/{segment} is damaged ({why}); run 'esker repair index' first"
        )));
    }
    let mut marks = Marks::default();
    marks.mark_all(repo, &head, monitor)?;
    let survey = Survey::take(store, &head, &marks, options, monitor)?;
    let dead = dead_sessions(&head, &store.access.identity, store.now_ms(), options.fence_after_ms);
    let orphans = find_orphans(&listed, &head, &survey, &dead);
    let mut plan = survey.plan;
    plan.orphans = orphans.len() as u64;
    plan.sessions_fenced = dead.len() as u64;
    if options.dry_run {
        return Ok(plan);
    }

    let session = store.open_session("prune")?;
    let result = apply(repo, &session, &survey, &mut marks, &dead, options, monitor);
    match result {
        Ok(deferred) => plan.deferred = deferred,
        Err(error) => {
            let _ = store.close_session(&session, &[]);
            return Err(error);
        }
    }
    // A session that was taken for dead may have published between the look at HEAD and its fence. From
    // the fence on it cannot: what HEAD does not name now, it never will.
    for name in unnamed(orphans, store, &survey)? {
        store.storage().delete(&name).map_err(chunkstore::Error::from)?;
    }
    store.close_session(&session, &[])?;
    Ok(plan)
}

/// Everything that changes HEAD. Returns whether removal had to wait for others.
fn apply(
    repo: &Repository,
    session: &SessionId,
    survey: &Survey,
    marks: &mut Marks,
    dead: &[SessionId],
    options: &PruneOptions,
    monitor: &dyn Monitor,
) -> Result<bool> {
    let store = repo.store();
    let fresh = rewrite(store, session, survey, options, monitor)?;
    let mut remove = survey.remove.clone();
    let places: HashMap<PackId, PackRef> = survey
        .segments
        .iter()
        .flat_map(|(_, segment)| &segment.packs)
        .map(|pack| (pack.name.id, PackRef { session: pack.name.session, id: pack.name.id }))
        .collect();

    // Condemn: from here on writers that open do not build on these packs.
    swap_marked(repo, marks, &mut remove, monitor, &mut |head, remove| {
        head.sessions.retain(|known| !dead.contains(&known.id));
        if head.segments.iter().all(|segment| fresh.iter().all(|new| new.id != segment.id)) {
            head.segments.extend_from_slice(&fresh);
        }
        // What somebody needs again is no longer condemned.
        head.condemned.retain(|pack| remove.contains(&pack.id));
        let known: HashSet<PackId> = head.condemned.iter().map(|pack| pack.id).collect();
        head.condemned
            .extend(remove.iter().filter(|id| !known.contains(*id)).filter_map(|id| places.get(id)));
        Ok(())
    })?;
    let others = store.head().sessions.iter().any(|other| !other.fenced && other.id != *session);
    if others {
        return Ok(true);
    }

    // Doom: replace the segments that list them, for ever.
    let replaced = rewrite_segments(store, survey, &remove)?;
    let rewritten = remove.clone();
    swap_marked(repo, marks, &mut remove, monitor, &mut |head, remove| {
        if *remove != rewritten || head.sessions.iter().any(|other| !other.fenced && other.id != *session) {
            // Somebody came between; what is condemned stays so, and the next prune goes on.
            return Ok(());
        }
        if remove.iter().any(|id| head.condemned.iter().all(|pack| pack.id != *id)) {
            return Ok(());
        }
        for (old, new) in &replaced {
            let Some(place) = head.segments.iter().position(|segment| segment.id == *old) else {
                return Err(chunkstore::Error::Fenced {
                    why: "another prune changed the index; run this one again".into(),
                });
            };
            match new {
                Some(new) => head.segments[place] = new.clone(),
                None => {
                    head.segments.remove(place);
                }
            }
        }
        let (doomed, condemned) = head.condemned.iter().partition(|pack| remove.contains(&pack.id));
        head.condemned = condemned;
        let doomed: Vec<PackRef> = doomed;
        head.doomed.extend(doomed);
        Ok(())
    })?;

    // Delete, then reap: only what a HEAD calls doomed. Anybody may repeat it at any time.
    let head = store.head();
    for pack in &head.doomed {
        store.storage().delete(&names::pack(&pack.session, &pack.id)).map_err(chunkstore::Error::from)?;
    }
    let gone: HashSet<PackId> = head.doomed.iter().map(|pack| pack.id).collect();
    store.update_head(|head| {
        head.doomed.retain(|pack| !gone.contains(&pack.id));
        Ok(())
    })?;
    let live: HashSet<ObjectId> = store.head().segment_ids().into_iter().collect();
    for (old, _) in replaced.iter().filter(|(old, _)| !live.contains(old)) {
        store.storage().delete(&names::segment(old)).map_err(chunkstore::Error::from)?;
    }
    Ok(remove.iter().any(|id| !gone.contains(id)))
}

/// Swaps HEAD, but only one whose snapshots are all marked: new ones are marked first, and packs that
/// they need are taken off the list.
fn swap_marked(
    repo: &Repository,
    marks: &mut Marks,
    remove: &mut HashSet<PackId>,
    monitor: &dyn Monitor,
    change: &mut dyn FnMut(&mut Head, &HashSet<PackId>) -> chunkstore::Result<()>,
) -> Result<()> {
    loop {
        let store = repo.store();
        let done = store.update_head(|head| {
            if head.roots.iter().any(|root| !marks.roots.contains(&root.id)) {
                return Err(chunkstore::Error::Invalid(NEW_ROOTS.into()));
            }
            change(head, remove)
        });
        match done {
            Err(chunkstore::Error::Invalid(why)) if why == NEW_ROOTS => {
                let head = store.reload()?;
                store.sync_index()?;
                let fresh = marks.mark_all(repo, &head, monitor)?;
                // What it stands on, too: the whole of a location that counts stays.
                for grounded in ground(&**store.index(), &fresh, &HashSet::new())? {
                    let grounded = grounded.ok_or_else(|| {
                        Error::Refused("a new snapshot needs a chunk that is in no pack".into())
                    })?;
                    remove.retain(|pack| !grounded.packs.contains(pack));
                }
            }
            result => return Ok(result?),
        }
    }
}

/// Said by a swap that must not be made yet; never shown.
const NEW_ROOTS: &str = "snapshots were added meanwhile";

/// New segments without the removed packs, for those that list any.
fn rewrite_segments(
    store: &Arc<ChunkStore>,
    survey: &Survey,
    remove: &HashSet<PackId>,
) -> Result<Vec<(ObjectId, Option<SegmentRef>)>> {
    let mut replaced = vec![];
    for (reference, segment) in &survey.segments {
        if !segment.packs.iter().any(|pack| remove.contains(&pack.name.id)) {
            continue;
        }
        let packs: Vec<_> =
            segment.packs.iter().filter(|pack| !remove.contains(&pack.name.id)).cloned().collect();
        let new = if packs.is_empty() { None } else { Some(store.write_segment(&Segment { packs })?) };
        replaced.push((reference.id, new));
    }
    Ok(replaced)
}

/// When a process started, in clock ticks since boot (field 22 of /proc/PID/stat, proc(5)).
#[must_use]
pub fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, may hold spaces and parentheses; the last ')' ends it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
