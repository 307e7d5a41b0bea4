//! Removing what no snapshot needs, while backups run. docs/concurrency.md has the argument; here is
//! the order: mark → repack → condemn → doom → delete → reap.
//!
//! Condemning is advice to writers. Dooming is for ever, and happens in a swap of a HEAD all of whose
//! snapshots were marked, so that nothing in it needs what is doomed; a commit that relied on a
//! condemned pack takes it back in its own swap. While other sessions are open nothing is doomed: the
//! next prune does it. That costs space for a while, never safety.

use crate::manifest::{ManifestReader, Record, Step};
use crate::snapshot::{Listed, Snapshot};
use crate::{Error, Monitor, Repository, Result};
use chunkstore::format::{MAX_PACK_LEN, names};
use chunkstore::head::{Head, PackRef, SegmentRef, Session};
use chunkstore::index::{PackEntry, Segment};
use chunkstore::ingest::{ChunkRef, Dedupe, Packer, PackerOptions};
use chunkstore::pack::PackReader;
use chunkstore::seal::{Compression, Decompressor};
use chunkstore::store::{ChunkStore, Identity};
use chunkstore::{ChunkId, ObjectId, PackId, SessionId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

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
    /// Only make the plan.
    pub dry_run: bool,
    /// Size of new packs.
    pub packer: PackerOptions,
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
    let survey = Survey::take(store, &head, &mut marks, options, monitor)?;
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
    for name in &orphans {
        store.storage().delete(name).map_err(chunkstore::Error::from)?;
    }
    store.close_session(&session, &[])?;
    Ok(plan)
}

/// The chunks that snapshots need; the flag says whether a location was chosen for it.
#[derive(Default)]
struct Marks {
    roots: HashSet<ObjectId>,
    needed: HashMap<[u8; 16], bool>,
}

fn short(id: &ChunkId) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&id.0[..16]);
    key
}

impl Marks {
    /// Marks every snapshot of `head` that was not marked before. Anything unreadable ends the prune.
    fn mark_all(&mut self, repo: &Repository, head: &Head, monitor: &dyn Monitor) -> Result<Vec<ChunkId>> {
        let mut fresh = vec![];
        for root in &head.roots {
            if root.kind != "snapshot" {
                return Err(Error::Refused(format!(
                    "HEAD has a root of kind '{}', which this esker cannot follow",
                    root.kind
                )));
            }
            if !self.roots.insert(root.id) {
                continue;
            }
            let plain = repo.store().read_snapshot(root)?;
            let snapshot: Snapshot = serde_json::from_slice(&plain)
                .map_err(|error| chunkstore::Error::corrupt(names::snapshot(&root.id), error))?;
            for_each_chunk(repo.store(), &Listed { id: root.id, snapshot }, &mut |chunk| {
                if self.needed.insert(short(&chunk.id), false).is_none() {
                    fresh.push(chunk.id);
                }
            })?;
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        Ok(fresh)
    }
}

/// Visits every chunk that a snapshot needs, its manifest's own included.
fn for_each_chunk(store: &Arc<ChunkStore>, listed: &Listed, each: &mut dyn FnMut(ChunkRef)) -> Result<()> {
    let mut reader = ManifestReader::new(store, &listed.snapshot.manifest)?.remember_chunks();
    while let Some(step) = reader.next_step()? {
        reader.take_visited().into_iter().for_each(&mut *each);
        match step {
            Step::Damage(damage) => {
                return Err(Error::Refused(format!(
                    "snapshot {} is damaged after {}; nothing is removed while it is (see 'esker check'): {}",
                    listed.id.short(),
                    damage.after,
                    chunkstore::store::describe(&damage.error)
                )));
            }
            Step::Record(Record::Chunks(chunks)) => chunks.into_iter().for_each(&mut *each),
            Step::Record(_) => {}
        }
    }
    reader.take_visited().into_iter().for_each(each);
    Ok(())
}

/// What is in the packs, and what is to become of each.
struct Survey {
    plan: PrunePlan,
    /// Every live segment.
    segments: Vec<(SegmentRef, Segment)>,
    remove: HashSet<PackId>,
    repack: Vec<(PackEntry, Vec<usize>)>,
    live: HashSet<PackId>,
}

impl Survey {
    fn take(
        store: &Arc<ChunkStore>,
        head: &Head,
        marks: &mut Marks,
        options: &PruneOptions,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let doomed: HashSet<PackId> = head.doomed.iter().map(|pack| pack.id).collect();
        let condemned: HashSet<PackId> = head.condemned.iter().map(|pack| pack.id).collect();
        let at_work: HashSet<SessionId> =
            head.sessions.iter().filter(|session| !session.fenced).map(|session| session.id).collect();
        let mut plan = PrunePlan::default();
        let mut segments = vec![];
        for reference in &head.segments {
            segments.push((reference.clone(), store.load_segment(reference)?));
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        // A chunk may lie in several packs. Packs that stay anyway are asked first, so that the others
        // become removable.
        let mut packs: Vec<&PackEntry> = segments.iter().flat_map(|(_, segment)| &segment.packs).collect();
        packs.sort_by_key(|pack| condemned.contains(&pack.name.id));
        let mut remove = HashSet::new();
        let mut partial = vec![];
        let mut live = HashSet::new();
        for pack in packs {
            if doomed.contains(&pack.name.id) || !live.insert(pack.name.id) {
                continue;
            }
            plan.packs_total += 1;
            plan.bytes_total += pack.len;
            let mut used = vec![];
            for (position, record) in pack.records.iter().enumerate() {
                if let Some(chosen @ false) = marks.needed.get_mut(&short(&record.id)) {
                    *chosen = true;
                    used.push(position);
                }
            }
            let used_bytes: u64 =
                used.iter().map(|position| u64::from(pack.records[*position].stored_len)).sum();
            plan.bytes_used += used_bytes;
            if at_work.contains(&pack.name.session) {
                // Its session is still running and will name it in its commit.
            } else if used.is_empty() {
                plan.packs_unused += 1;
                plan.bytes_remove += pack.len;
                remove.insert(pack.name.id);
            } else if used.len() < pack.records.len() {
                partial.push((pack.clone(), used, used_bytes));
            }
        }
        if let Some(missing) = marks.needed.values().filter(|chosen| !**chosen).count().checked_sub(1) {
            return Err(Error::Refused(format!(
                "{} needed chunks are in no pack; nothing is removed while data is missing (see 'esker check')",
                missing + 1
            )));
        }
        let repack = choose_repack(&mut plan, partial, options);
        remove.extend(repack.iter().map(|(pack, _)| pack.name.id));
        Ok(Self { plan, segments, remove, repack, live })
    }
}

/// Of the partly used packs, the emptiest, until what stays unused is within the limit.
fn choose_repack(
    plan: &mut PrunePlan,
    mut partial: Vec<(PackEntry, Vec<usize>, u64)>,
    options: &PruneOptions,
) -> Vec<(PackEntry, Vec<usize>)> {
    let unused = |pack: &PackEntry, used: u64| pack.len - used.min(pack.len);
    let mut left: u64 = partial.iter().map(|(pack, _, used)| unused(pack, *used)).sum();
    let limit = match options.max_unused {
        MaxUnused::Unlimited => u64::MAX,
        MaxUnused::Bytes(bytes) => bytes,
        // Of the whole as it will be: used + unused = used / (1 - p).
        MaxUnused::Percent(percent) => {
            let share = (percent / 100.0).clamp(0.0, 0.99);
            (plan.bytes_used as f64 * share / (1.0 - share)) as u64
        }
    };
    partial.sort_by(|a, b| (a.2 * b.0.len).cmp(&(b.2 * a.0.len)));
    let mut chosen = vec![];
    for (pack, positions, used) in partial {
        let over = options.max_repack.is_some_and(|most| plan.bytes_repack + used > most);
        if left <= limit || over {
            break;
        }
        left -= unused(&pack, used);
        plan.packs_repack += 1;
        plan.bytes_repack += used;
        plan.bytes_remove += unused(&pack, used);
        chosen.push((pack, positions));
    }
    plan.bytes_unused_after = left;
    chosen
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
    let fresh = repack(store, session, &survey.repack, options, monitor)?;
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
                for location in store.index().lookup(&fresh)? {
                    let location = location.ok_or_else(|| {
                        Error::Refused("a new snapshot needs a chunk that is in no pack".into())
                    })?;
                    remove.remove(&location.pack.name.id);
                }
            }
            result => return Ok(result?),
        }
    }
}

/// Said by a swap that must not be made yet; never shown.
const NEW_ROOTS: &str = "snapshots were added meanwhile";

/// Copies the used chunks of packs into new ones, verified on the way.
fn repack(
    store: &Arc<ChunkStore>,
    session: &SessionId,
    packs: &[(PackEntry, Vec<usize>)],
    options: &PruneOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<SegmentRef>> {
    let dedupe = Dedupe::new(Arc::clone(store), Compression::default());
    let mut packer = Packer::new(&dedupe, *session, options.packer)?;
    let mut decompressor = Decompressor::new()?;
    for (pack, positions) in packs {
        let object = pack.name.object();
        let bytes = store.storage().get(&object, MAX_PACK_LEN).map_err(chunkstore::Error::from)?;
        let reader = PackReader::new(pack.name, store.keys())?;
        for position in positions {
            let record = &pack.records[*position];
            let range = usize::try_from(record.offset).unwrap_or(usize::MAX)
                ..usize::try_from(record.end()).unwrap_or(usize::MAX);
            let sealed = bytes
                .get(range)
                .ok_or_else(|| chunkstore::Error::corrupt(&object, "shorter than its index says"))?;
            let frame = reader.open_frame(record, sealed)?;
            reader.open(store.keys(), record, sealed, &mut decompressor)?;
            let chunk = ChunkRef { id: record.id, len: record.plain_len };
            packer.push(pack.name.kind, chunk, record.codec, &frame)?;
        }
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    Ok(packer.flush()?)
}

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

fn list_objects(store: &ChunkStore) -> Result<Vec<String>> {
    let mut all = vec![];
    for folder in [names::PACKS, names::INDEX, names::SNAPSHOTS] {
        let list = store.storage().list(folder, &mut |name, _| all.push(name.to_owned()));
        list.map_err(chunkstore::Error::from)?;
    }
    Ok(all)
}

/// Objects that were there before HEAD was read, that HEAD does not name, and whose writer can no
/// longer name them: its session is not open. Sessions never open twice.
fn find_orphans(listed: &[String], head: &Head, survey: &Survey, dead: &[SessionId]) -> Vec<String> {
    let open: HashSet<SessionId> = head
        .sessions
        .iter()
        .filter(|session| !session.fenced && !dead.contains(&session.id))
        .map(|session| session.id)
        .collect();
    let doomed: HashSet<PackId> = head.doomed.iter().map(|pack| pack.id).collect();
    let segments: HashSet<ObjectId> = head.segment_ids().into_iter().collect();
    let roots: HashSet<ObjectId> = head.roots.iter().map(|root| root.id).collect();
    let is_orphan = |name: &&String| {
        let mut parts = name.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(names::PACKS), Some(session), Some(pack)) => {
                match (SessionId::parse(session), PackId::parse(pack)) {
                    (Some(session), Some(pack)) => {
                        !open.contains(&session) && !survey.live.contains(&pack) && !doomed.contains(&pack)
                    }
                    _ => false,
                }
            }
            // These do not carry their session's name: only when nobody is at work is it clear.
            (Some(names::INDEX), Some(id), None) => {
                open.is_empty() && ObjectId::parse(id).is_some_and(|id| !segments.contains(&id))
            }
            (Some(names::SNAPSHOTS), Some(id), None) => {
                open.is_empty() && ObjectId::parse(id).is_some_and(|id| !roots.contains(&id))
            }
            _ => false,
        }
    };
    listed.iter().filter(is_orphan).cloned().collect()
}

/// Sessions whose process is gone, as far as this machine can tell, or that were silent for too long.
fn dead_sessions(head: &Head, identity: &Identity, now_ms: u64, fence_after_ms: u64) -> Vec<SessionId> {
    let is_dead = |session: &&Session| {
        let here = !identity.machine.is_empty() && session.machine == identity.machine;
        let gone = here && process_start(session.pid) != Some(session.process_started);
        let silent = fence_after_ms > 0 && now_ms.saturating_sub(session.seen_ms) > fence_after_ms;
        gone || silent
    };
    head.sessions.iter().filter(is_dead).map(|session| session.id).collect()
}

/// When a process started, in clock ticks since boot (field 22 of /proc/PID/stat, proc(5)).
#[must_use]
pub fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field, the name, may hold spaces and parentheses; the last ')' ends it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
