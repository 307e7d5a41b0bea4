//! Removing data that no snapshot needs, while backups run. docs/concurrency.md has the argument; the order is: mark →
//! repack → condemn → doom → delete → reap.
//!
//! Condemning is advice to writers. Dooming is final. It happens in a swap of a HEAD all of whose snapshots were
//! marked, and that still lists every pack of the survey, so that no snapshot in it needs doomed packs; a commit that
//! relies on a condemned pack takes it off the list in its own swap. Packs that were condemned while open sessions may
//! rely on them are left to a later prune. That costs space for a while, never safety.

use crate::retry::Retry;
use crate::{Error, Monitor, Repository, Result};
use chunkstore::bases::{ground, ground_everywhere};
use chunkstore::format::names;
use chunkstore::head::{Condemned, Head, PackRef, SegmentRef};
use chunkstore::index::Segment;
use chunkstore::ingest::PackerOptions;
use chunkstore::seal::Compression;
use chunkstore::storage::ErrorKind;
use chunkstore::store::ChunkStore;
use chunkstore::{ObjectId, PackId, SessionId};
use std::collections::{BTreeMap, HashMap, HashSet};

mod inboxes;
pub(crate) mod orphans;
mod rebase;
mod renewal;
mod rewrite;
mod standing;
mod survey;
use inboxes::Inboxes;
use orphans::{dead_sessions, find_orphans, list_objects, may_remove, unnamed};
pub use renewal::Renewal;
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
    /// Keep deltas on their bases, even if nothing else needs these.
    pub no_rebase: bool,
    /// Move what packs of epochs before this one have to the newest epoch, and remove these packs; leave all others.
    pub renew_before: Option<u32>,
    /// Packs that cannot be read now.
    pub unreadable: HashSet<PackId>,
    /// Only make the plan.
    pub dry_run: bool,
    /// Size of new packs.
    pub packer: PackerOptions,
    /// How chunks are compressed that are stored again.
    pub compression: Compression,
    /// Packs that stay even if nothing needs them: locked, or paid for until later.
    pub spare: HashSet<PackId>,
    /// Sessions of other machines that were inactive for this time are fenced, in milliseconds.
    pub fence_after_ms: u64,
    /// Also remove unused data from before HEAD was rebuilt: a person confirms that HEAD names all needed data.
    pub accept_head: bool,
}

/// The plan or the result of a prune. Bytes are of packs, as stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PrunePlan {
    /// Live packs.
    pub packs_total: u64,
    /// Their bytes.
    pub bytes_total: u64,
    /// Bytes that some snapshot needs.
    pub bytes_used: u64,
    /// Chunks in live packs; one in several packs counts once for each.
    pub chunks_total: u64,
    /// Those of them that go with packs without any use.
    pub chunks_unused: u64,
    /// Chunks in packs to be rewritten.
    pub chunks_repack: u64,
    /// Those of them that are not copied.
    pub chunks_repack_remove: u64,
    /// Their bytes, with what else the old packs have more than the new ones.
    pub bytes_repack_remove: u64,
    /// Packs without any use.
    pub packs_unused: u64,
    /// Packs to be rewritten.
    pub packs_repack: u64,
    /// Bytes that are copied in doing so.
    pub bytes_repack: u64,
    /// Chunks that are stored full again, which frees bases that only they need.
    pub chunks_rebase: u64,
    /// Bytes that go.
    pub bytes_remove: u64,
    /// Unused bytes that stay.
    pub bytes_unused_after: u64,
    /// Objects that HEAD does not name, and whose writer is gone: of interrupted runs.
    pub orphans: u64,
    /// Their names.
    pub orphan_names: Vec<String>,
    /// Objects in the inboxes of revoked hosts, and answers to them.
    pub revoked_objects: u64,
    /// Their bytes, which are no packs'.
    pub revoked_bytes: u64,
    /// Objects in the inboxes of other hosts that no host brings.
    pub stray_objects: u64,
    /// Their bytes.
    pub stray_bytes: u64,
    /// Packs and other objects that would be removed, but existed before HEAD was rebuilt.
    pub kept_before_head: u64,
    /// Sessions of dead processes.
    pub sessions_fenced: u64,
    /// Whether removal waits for running sessions; the next prune finishes it.
    pub deferred: bool,
    /// What a re-encryption finds.
    #[serde(skip)]
    pub renewal: Renewal,
}

/// Attempts, when other prunes change the index meanwhile.
const ATTEMPTS: u32 = 4;

/// Plans, and unless it is a dry run, prunes.
pub fn prune(repo: &Repository, options: &PruneOptions, monitor: &dyn Monitor) -> Result<PrunePlan> {
    let store = repo.store();
    if options.dry_run {
        return Ok(Prepared::make(repo, None, options, monitor)?.plan());
    }
    let mut retry = Retry::new(ATTEMPTS);
    loop {
        let _in_it = tracing::info_span!("prune", attempt = retry.attempt()).entered();
        // Opened before anything is looked at: other prunes then leave what is condemned from here on.
        let session = store.open_session("prune")?;
        let done = Prepared::make(repo, Some(&session), options, monitor)
            .and_then(|prepared| prepared.apply(repo, &session, options, monitor));
        let closed = store.close_session(&session, &[]);
        match done {
            Err(error) if retry.again(&error).is_some() => {}
            Err(error) => return Err(error),
            Ok(plan) => return Ok(closed.map(|()| plan)?),
        }
    }
}

/// What a prune knows before it changes anything.
struct Prepared {
    marks: Marks,
    survey: Survey,
    dead: Vec<SessionId>,
    orphans: Vec<String>,
    inboxes: Inboxes,
}

impl Prepared {
    fn make(
        repo: &Repository,
        own: Option<&SessionId>,
        options: &PruneOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let store = repo.store();
        // Listed before HEAD is read: what an open session of that HEAD did not write is nobody's.
        let listed = list_objects(store)?;
        store.reload()?;
        if let Some((segment, why)) = store.sync_index()?.first() {
            return Err(Error::Refused(format!(
                "index/{segment} is damaged ({why}); run 'esker repair index' first"
            )));
        }
        let head = store.head();
        let mut marks = Marks::default();
        marks.mark_all(repo, &head, monitor)?;
        let survey = Survey::take(store, &head, &marks, options, monitor)?;
        let mut dead = dead_sessions(&head, &store.access.identity, store.now_ms(), options.fence_after_ms)?;
        // Whoever asks is alive, however long the look took.
        dead.retain(|session| own != Some(session));
        let mut orphans = find_orphans(&listed, &head, &survey, &dead, own)?;
        let mut survey = survey;
        if !options.accept_head {
            let before = orphans.len();
            let mut removable = vec![];
            for name in orphans {
                if may_remove(&head, &name)? {
                    removable.push(name);
                }
            }
            orphans = removable;
            survey.plan.kept_before_head += (before - orphans.len()) as u64;
        }
        let inboxes = Inboxes::find(store, &head, monitor)?;
        Ok(Self { marks, survey, dead, orphans, inboxes })
    }

    fn plan(&self) -> PrunePlan {
        let (orphans, sessions_fenced) = (self.orphans.len() as u64, self.dead.len() as u64);
        let orphan_names = self.orphans.clone();
        let Inboxes { revoked, strays, .. } = &self.inboxes;
        PrunePlan {
            orphans,
            orphan_names,
            revoked_objects: revoked.objects,
            revoked_bytes: revoked.bytes,
            stray_objects: strays.objects,
            stray_bytes: strays.bytes,
            sessions_fenced,
            ..self.survey.plan.clone()
        }
    }

    /// Changes HEAD and deletes what is allowed.
    fn apply(
        mut self,
        repo: &Repository,
        session: &SessionId,
        options: &PruneOptions,
        monitor: &dyn Monitor,
    ) -> Result<PrunePlan> {
        let store = repo.store();
        let plan = self.plan();
        tracing::info!(
            packs = plan.packs_total,
            packs_unused = plan.packs_unused,
            packs_repack = plan.packs_repack,
            bytes_remove = plan.bytes_remove,
            orphans = plan.orphans,
            "planned"
        );
        let fresh = rewrite(store, session, &self.survey, options, monitor).or_else(|error| {
            // What is gone may have been removed by another prune: then that is the news.
            unchanged(&*store.reload()?, &self.survey)?;
            Err(error)
        })?;
        let mut remove = self.survey.remove.clone();
        self.condemn(repo, session, &fresh, &mut remove, monitor)?;
        self.doom(repo, session, &mut remove, monitor)?;
        delete_doomed(store)?;
        // A session that was taken for dead may have published between the look at HEAD and its fence. From
        // the fence on it cannot: what HEAD does not name now, it never will.
        for name in unnamed(std::mem::take(&mut self.orphans), store, &self.survey)? {
            match store.storage().delete(&name) {
                // Under a lock: a later prune finds it again.
                Err(error) if error.kind == ErrorKind::Denied && store.tier().is_some() => {
                    tracing::debug!(%error, "an orphan stays");
                }
                done => done.map_err(chunkstore::Error::from)?,
            }
        }
        self.inboxes.remove(store, monitor)?;
        if options.accept_head && store.head().anew.is_some() {
            store.update_head(|head| {
                head.anew = None;
                Ok(())
            })?;
        }
        let deferred = store.head().condemned.iter()?.any(|pack| remove.contains(&pack.id));
        Ok(PrunePlan { deferred, ..plan })
    }

    /// From here on writers that open do not build on these packs.
    fn condemn(
        &mut self,
        repo: &Repository,
        session: &SessionId,
        fresh: &[SegmentRef],
        remove: &mut HashSet<PackId>,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let Self { marks, survey, dead, .. } = self;
        let places: BTreeMap<PackId, PackRef> = survey
            .segments
            .iter()
            .flat_map(|(_, segment)| &segment.packs)
            .map(|pack| (pack.name.id, PackRef { session: pack.name.session, id: pack.name.id }))
            .collect();
        swap_marked(repo, marks, remove, monitor, &mut |head, remove| {
            at_work(head, session)?;
            unchanged(head, survey)?;
            head.sessions.retain(|known| !dead.contains(&known.id))?;
            if head.segments.iter()?.all(|segment| fresh.iter().all(|new| new.id != segment.id)) {
                head.segments.extend(fresh.iter().cloned());
            }
            // What somebody needs again is no longer condemned.
            head.condemned.retain(|pack| remove.contains(&pack.id))?;
            let known: HashSet<PackId> = head.condemned.iter()?.map(|pack| pack.id).collect();
            let since = head.generation + 1;
            let more =
                places.values().filter(|place| remove.contains(&place.id) && !known.contains(&place.id));
            head.condemned.extend(more.map(|place| Condemned {
                session: place.session,
                id: place.id,
                since,
            }));
            Ok(())
        })
    }

    /// Replaces the segments that list the packs, permanently; only for packs that every open session knows to be
    /// condemned.
    fn doom(
        &mut self,
        repo: &Repository,
        session: &SessionId,
        remove: &mut HashSet<PackId>,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let store = repo.store();
        let head = store.head();
        let known_since = head.known_since(session)?;
        let ready: HashSet<PackId> = head
            .condemned
            .iter()?
            .filter(|pack| remove.contains(&pack.id) && pack.since < known_since)
            .map(|pack| pack.id)
            .collect();
        if ready.is_empty() {
            return Ok(());
        }
        let Self { marks, survey, .. } = self;
        let replaced = rewrite_segments(store, &survey.segments, &ready)?;
        let by_id: HashMap<ObjectId, &Option<SegmentRef>> =
            replaced.iter().map(|(old, new)| (*old, new)).collect();
        let swapped = swap_marked(repo, marks, remove, monitor, &mut |head, remove| {
            at_work(head, session)?;
            unchanged(head, survey)?;
            let condemned: HashSet<PackId> = head.condemned.iter()?.map(|pack| pack.id).collect();
            if !ready.iter().all(|id| remove.contains(id) && condemned.contains(id)) {
                // Somebody needs one of them again; what is condemned stays so, and the next prune goes on.
                return Ok(false);
            }
            let by = |old: &SegmentRef| by_id.get(&old.id).map(|new| new.iter().cloned().collect());
            head.segments.replace(by)?;
            let doomed = head.condemned.take(|pack| ready.contains(&pack.id))?;
            head.doomed.extend(doomed.iter().map(Condemned::pack));
            Ok(true)
        })?;
        let unused = replaced.iter().filter_map(|(old, new)| match (swapped, new) {
            (true, _) => Some(*old),
            (false, Some(new)) => Some(new.id),
            (false, None) => None,
        });
        for segment in unused {
            store.storage().delete(&names::segment(&segment)).map_err(chunkstore::Error::from)?;
        }
        Ok(())
    }
}

/// Refuses to continue a prune that was fenced: another may have removed its objects as orphans.
fn at_work(head: &Head, session: &SessionId) -> chunkstore::Result<()> {
    if head.is_open(session)? {
        return Ok(());
    }
    Err(chunkstore::Error::Fenced { why: "another prune took this one for dead; run it again".into() })
}

/// Every pack that the survey counts on must still be live: a pack leaves HEAD only with the segment that
/// lists it.
fn unchanged(head: &Head, survey: &Survey) -> chunkstore::Result<()> {
    let live: HashSet<ObjectId> = head.segment_ids()?.into_iter().collect();
    if survey.segments.iter().all(|(reference, _)| live.contains(&reference.id)) {
        return Ok(());
    }
    Err(chunkstore::Error::Fenced { why: "another prune changed the index; run this one again".into() })
}

/// Deletes, then reaps: only what a HEAD calls doomed. Anybody may repeat it at any time.
pub(crate) fn delete_doomed(store: &ChunkStore) -> Result<()> {
    let head = store.reload()?;
    if head.doomed.is_empty() {
        return Ok(());
    }
    for pack in head.doomed.iter()? {
        store.delete_pack(&pack.session, &pack.id)?;
    }
    let gone: HashSet<PackId> = head.doomed.iter()?.map(|pack| pack.id).collect();
    store.update_head(|head| head.doomed.retain(|pack| !gone.contains(&pack.id)))?;
    Ok(())
}

/// Swaps HEAD, but only one whose snapshots are all marked: new ones are marked first, and packs that
/// they need are taken off the list.
fn swap_marked<R>(
    repo: &Repository,
    marks: &mut Marks,
    remove: &mut HashSet<PackId>,
    monitor: &dyn Monitor,
    change: &mut dyn FnMut(&mut Head, &HashSet<PackId>) -> chunkstore::Result<R>,
) -> Result<R> {
    loop {
        let store = repo.store();
        let done = store.update_head(|head| {
            if head.roots.iter()?.any(|root| !marks.roots.contains(&root.id)) {
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
                let mut lost = vec![];
                for (id, grounded) in fresh.iter().zip(ground(&**store.index(), &fresh, &HashSet::new())?) {
                    match grounded {
                        Some(grounded) => remove.retain(|pack| !grounded.packs.contains(pack)),
                        None => lost.push(*id),
                    }
                }
                // Not where the index says, then.
                for grounded in ground_everywhere(store, &lost, &HashSet::new())? {
                    let Some(grounded) = grounded else {
                        // Forgotten again, and pruned, by somebody else?
                        if store.reload()?.generation != head.generation {
                            let why = "another prune changed the index; run this one again".into();
                            return Err(chunkstore::Error::Fenced { why }.into());
                        }
                        return Err(Error::Refused("a new snapshot needs a chunk that is in no pack".into()));
                    };
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
pub(crate) fn rewrite_segments(
    store: &ChunkStore,
    segments: &[(SegmentRef, Segment)],
    remove: &HashSet<PackId>,
) -> Result<Vec<(ObjectId, Option<SegmentRef>)>> {
    let mut replaced = vec![];
    for (reference, segment) in segments {
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

/// When a process started, in clock ticks since boot (field 22 of /proc/PID/stat, proc(5)). `None` if there is none, or one
/// that has ended and whose parent has not asked for its exit code yet (states Z and X).
#[must_use]
#[expect(clippy::disallowed_methods, reason = "/proc is not a file but a question to the kernel")]
pub fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, may hold spaces and parentheses; the last ')' ends it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    fields.nth(18).filter(|_| !has_ended)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_when_it_started() {
        let this = process_start(std::process::id());
        assert!(this.is_some_and(|ticks| ticks > 1) && this == process_start(std::process::id()));
        assert!(process_start(1) < this, "the first of all processes started before");
        assert_eq!(process_start(u32::MAX), None);
        // One that was killed, until somebody waits for it.
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        assert!(process_start(child.id()) >= this);
        child.kill().unwrap();
        while process_start(child.id()).is_some() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
