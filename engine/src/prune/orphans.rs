//! Leftovers of interrupted runs: sessions of dead processes, objects that can no longer be named.

use super::process_start;
use super::survey::Survey;
use crate::Result;
use chunkstore::format::names;
use chunkstore::head::{Head, LeafRef, Root, Session};
use chunkstore::store::{ChunkStore, Identity};
use chunkstore::{ObjectId, PackId, SessionId};
use std::collections::HashSet;

pub(super) fn list_objects(store: &ChunkStore) -> Result<Vec<String>> {
    let mut all = vec![];
    let folders = [names::PACKS, names::PARITY, names::INDEX, names::SNAPSHOTS, names::MAPS, names::KEYS];
    for folder in folders.into_iter().chain([names::REPORTS, names::GRANTS, names::SETS, names::COPIES]) {
        if folder == names::PARITY && !store.has_parity()
            || folder == names::COPIES && !store.storage().keeps_copies()
        {
            continue;
        }
        let list = store.storage().list(folder, &mut |name, _| all.push(name.to_owned()));
        list.map_err(chunkstore::Error::from)?;
    }
    store.storage().leftovers(&mut |name| all.push(name.to_owned())).map_err(chunkstore::Error::from)?;
    Ok(all)
}

/// Objects that were there before HEAD was read, that HEAD does not name, and whose writer can no
/// longer name them: its session is not open. Sessions never open twice. `own` has written nothing yet.
pub(super) fn find_orphans(
    listed: &[String],
    head: &Head,
    survey: &Survey,
    dead: &[SessionId],
    own: Option<&SessionId>,
) -> Result<Vec<String>> {
    let open: HashSet<SessionId> = head
        .sessions
        .iter()?
        .filter(|session| !session.fenced && !dead.contains(&session.id) && own != Some(&session.id))
        .map(|session| session.id)
        .collect();
    let doomed: HashSet<PackId> = head.doomed.iter()?.map(|pack| pack.id).collect();
    let segments: HashSet<ObjectId> = head.segment_ids()?.into_iter().collect();
    let roots: HashSet<String> = head.roots.iter()?.map(Root::object).collect();
    let leaves: HashSet<String> = head.leaves().flat_map(LeafRef::names).collect();
    let is_orphan = |name: &&String| {
        // What an interrupted put left belongs to whom the object would have belonged to.
        let (name, staged) = name.split_once('#').map_or((name.as_str(), false), |(name, _)| (name, true));
        let mut parts = name.split('/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(names::PACKS | names::PARITY), Some(session), Some(pack)) => {
                match (SessionId::parse(session), PackId::parse(pack)) {
                    (Some(session), Some(pack)) => {
                        !open.contains(&session)
                            && (staged || !survey.live.contains(&pack) && !doomed.contains(&pack))
                    }
                    _ => false,
                }
            }
            // These do not carry their session's name: only when nobody is at work is it clear.
            (Some(names::INDEX), Some(id), None) => {
                open.is_empty() && ObjectId::parse(id).is_some_and(|id| staged || !segments.contains(&id))
            }
            (Some(names::SNAPSHOTS | names::MAPS | names::REPORTS), Some(id), None) => {
                open.is_empty() && names::root(id).is_some() && (staged || !roots.contains(name))
            }
            // A slot that came back, or that was to be added by a process that died.
            (Some(names::KEYS), Some(id), None) => {
                open.is_empty()
                    && ObjectId::parse(id).is_some_and(|id| staged || !head.slots.contains_key(&id))
            }
            (Some(names::COPIES), Some(_), Some(names::KEYS)) => {
                let id = parts.next().and_then(ObjectId::parse);
                open.is_empty() && id.is_some_and(|id| staged || !head.slots.contains_key(&id))
            }
            // Of an epoch before: no rotation takes a number again that HEAD is past. One of a later epoch may be about to be
            // named.
            (Some(names::GRANTS), Some(_), None) | (Some(names::COPIES), Some(_), Some(names::GRANTS)) => {
                names::grants_epoch(name)
                    .is_some_and(|epoch| epoch < head.epoch() || staged && open.is_empty())
            }
            (Some(names::COPIES), ..) => staged && open.is_empty(),
            // No HEAD of a later age names a leaf for the first time. A swap may be about to name one of a later age.
            (Some(names::SETS), Some(_), None) => names::leaf_age(name)
                .is_some_and(|age| age <= head.age().parts() && (staged || !leaves.contains(name))),
            _ => false,
        }
    };
    Ok(listed.iter().filter(is_orphan).cloned().collect())
}

/// Whether an orphan may go, although HEAD was made anew since it was written: only packs say by which session they
/// were, and key slots are listed whole.
pub(super) fn may_remove(head: &Head, name: &str) -> Result<bool> {
    // Grants may have the only key of something that a HEAD made anew does not know.
    let has_keys = names::grants_epoch(name).is_some();
    let is_slot = !has_keys && (name.starts_with(names::KEYS) || name.starts_with(names::COPIES));
    if head.anew.is_none() || is_slot || name.contains('#') {
        return Ok(true);
    }
    let mut parts = name.split('/');
    let folder = parts.next();
    let session = parts.next().and_then(SessionId::parse);
    match (folder, session) {
        // Whether HEAD names a leaf, now or ever, its name says.
        (Some(names::SETS), _) => Ok(true),
        (Some(names::PACKS | names::PARITY), Some(session)) => Ok(head.may_remove(&session)?),
        _ => Ok(false),
    }
}

fn is_of_pack(name: &str) -> bool {
    name.split('/').next().is_some_and(|folder| matches!(folder, names::PACKS | names::PARITY))
}

/// Those orphans that HEAD, read again after dead sessions were fenced, still does not name.
pub(super) fn unnamed(orphans: Vec<String>, store: &ChunkStore, survey: &Survey) -> Result<Vec<String>> {
    if orphans.is_empty() {
        return Ok(orphans);
    }
    let surveyed: HashSet<ObjectId> = survey.segments.iter().map(|(reference, _)| reference.id).collect();
    'head: loop {
        let head = store.reload()?;
        let mut named: HashSet<String> = head.segment_ids()?.iter().map(names::segment).collect();
        named.extend(head.roots.iter()?.map(Root::object));
        named.extend(head.leaves().flat_map(LeafRef::names));
        for slot in head.slots.keys().map(names::key).chain([names::grants(head.epoch())]) {
            named.extend(names::copies(&slot));
            named.insert(slot);
        }
        for reference in head.segments.iter()?.filter(|reference| !surveyed.contains(&reference.id)) {
            // Replaced by another prune since HEAD was read: the next HEAD says by what.
            let Some(segment) = store.load_live_segment(reference)? else { continue 'head };
            named.extend(segment.packs.iter().flat_map(|pack| [pack.name.object(), pack.name.parity()]));
        }
        // A repair lists packs that HEAD does not name: while one is at work, they are not nobody's.
        let repaired = head.sessions.iter()?.any(|session| session.purpose == "repair" && !session.fenced);
        let stays = |name: &String| named.contains(name) || repaired && is_of_pack(name);
        return Ok(orphans.into_iter().filter(|name| !stays(name)).collect());
    }
}

/// Sessions whose process is gone, as far as this machine can tell, or that were silent for too long. One
/// last heard of in what is far in the future here has a wrong clock, or we do: it may wait for years.
pub(crate) fn dead_sessions(
    head: &Head,
    identity: &Identity,
    now_ms: u64,
    fence_after_ms: u64,
) -> Result<Vec<SessionId>> {
    let is_dead = |session: &&Session| {
        let here = !identity.machine.is_empty() && session.machine == identity.machine;
        let gone = here && process_start(session.pid) != Some(session.process_started);
        let silent = fence_after_ms > 0 && now_ms.abs_diff(session.seen_ms) > fence_after_ms;
        gone || silent
    };
    Ok(head.sessions.iter()?.filter(is_dead).map(|session| session.id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::SnapshotColumns;
    use crate::prune::PrunePlan;
    use chunkstore::chunker::ChunkerParams;
    use chunkstore::config::Layout;
    use chunkstore::env::SystemEnv;
    use chunkstore::executor::Inline;
    use chunkstore::format::PackKind;
    use chunkstore::index::{PackEntry, Segment};
    use chunkstore::keys::{KdfParams, SlotOwner};
    use chunkstore::pack::PackName;
    use chunkstore::storage::memory::MemoryStorage;
    use chunkstore::store::{Access, LostPacks};
    use std::sync::Arc;

    /// The session is found dead, its pack an orphan; then it checkpoints, before the fence.
    #[test]
    fn what_a_session_publishes_before_its_fence_is_no_orphan() {
        let access = Access {
            storage: Arc::new(MemoryStorage::default()),
            env: Arc::new(SystemEnv),
            cpu: Arc::new(Inline),
            io: Arc::new(Inline),
            cache: None,
            identity: Identity::default(),
            columns: &SnapshotColumns,
        };
        let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
        let store = ChunkStore::init(
            access,
            ChunkerParams::default(),
            b"x",
            cheap,
            SlotOwner::default(),
            Layout::default(),
        )
        .unwrap();
        let session = store.open_session("backup").unwrap();
        let name = |seed| PackName { session, id: PackId([seed; 32]), kind: PackKind::Data, epoch: 1 };
        let (published, lost) = (name(1), name(2));
        let listed = vec![published.object(), lost.object()];
        let survey = Survey {
            plan: PrunePlan::default(),
            segments: vec![],
            remove: HashSet::new(),
            repack: vec![],
            rebase: vec![],
            live: HashSet::new(),
            lost: LostPacks::none(),
        };
        let orphans = find_orphans(&listed, &store.head(), &survey, &[session], None).unwrap();
        assert_eq!(orphans, listed);
        let segment = Segment { packs: vec![PackEntry { name: published, len: 4096, records: vec![] }] };
        let reference = store.write_segment(&segment).unwrap();
        store.checkpoint(&session, &[reference]).unwrap();
        assert_eq!(unnamed(orphans.clone(), &store, &survey).unwrap(), [lost.object()]);
        // Somebody may be about to list it: not before that is done.
        let repair = store.open_session("repair").unwrap();
        assert!(unnamed(orphans.clone(), &store, &survey).unwrap().is_empty());
        store.close_session(&repair, &[]).unwrap();
        assert_eq!(unnamed(orphans, &store, &survey).unwrap(), [lost.object()]);
    }
}
