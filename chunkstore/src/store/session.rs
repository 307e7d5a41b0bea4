//! Sessions: a writer's stay in HEAD, from its opening to the commit that makes its work count.

use super::{ChunkStore, Identity};
use crate::env::random_array;
use crate::head::{Head, Root, SegmentRef, Session};
use crate::id::{ObjectId, PackId, SessionId};
use crate::{Error, Result};
use std::collections::HashSet;

impl ChunkStore {
    /// Enters a new session into HEAD.
    pub fn open_session(&self, purpose: &str) -> Result<SessionId> {
        self.open_session_if(purpose, |head| may_open(head, purpose))
    }

    /// Opens a session that only reads, in a HEAD that lists `snapshot`: the packs of the snapshot are not condemned
    /// there, and will not be doomed before the session ends.
    ///
    /// # Errors
    ///
    /// [`Error::Fenced`] if HEAD no longer lists the snapshot.
    pub fn open_session_on(&self, purpose: &str, snapshot: &ObjectId) -> Result<SessionId> {
        self.open_session_if(purpose, |head| match head.roots.find(|root| root.id == *snapshot)? {
            Some(_) => Ok(()),
            None => Err(Error::Fenced {
                why: format!("snapshot {} was forgotten meanwhile; nothing was touched", snapshot.short()),
            }),
        })
    }

    /// Opens a session of a sync from a primary whose HEAD is `primary`. In the same swap the tier goes to its epoch, so that
    /// nothing new is sealed here under a key that was rotated away.
    ///
    /// # Errors
    ///
    /// [`Error::Superseded`] if the tier knows of a later primary.
    pub fn open_sync(&self, from: &Self, primary: &Head) -> Result<SessionId> {
        let is_behind = |head: &Head| {
            head.epoch() < primary.epoch()
                && head.epochs.keys().all(|epoch| primary.epochs.contains_key(epoch))
        };
        let there = self.head();
        super::not_adopted(&there, primary)?;
        if is_behind(&there) {
            // Before HEAD there is sealed under a key that slots there lack.
            from.copy_grants(primary, &**self.storage())?;
            from.copy_slots(primary, &**self.storage())?;
        }
        let was_behind = is_behind(&there);
        self.open_session_if("sync", |head| {
            may_open(head, "sync")?;
            super::not_adopted(head, primary)?;
            if was_behind && is_behind(head) {
                head.epochs = primary.epochs_of_tier();
                head.grants = primary.grants;
                head.slots.clone_from(&primary.slots);
            }
            Ok(())
        })
    }

    fn open_session_if(&self, purpose: &str, may: impl Fn(&mut Head) -> Result<()>) -> Result<SessionId> {
        let id = SessionId(random_array(&*self.access.env)?);
        let now_ms = self.now_ms();
        let Identity { hostname, machine, pid, process_started } = self.access.identity.clone();
        let session = Session {
            id,
            fenced: false,
            hostname,
            machine,
            pid,
            process_started,
            purpose: purpose.to_owned(),
            opened: 0,
            opened_ms: now_ms,
            seen_ms: now_ms,
        };
        self.update_head(|head| {
            may(head)?;
            head.sessions.push(Session { opened: head.generation + 1, ..session.clone() });
            if let Some(anew) = &mut head.anew {
                anew.enter(id)?;
            }
            Ok(())
        })?;
        tracing::info!(purpose, session = %id.short(), "session opened");
        Ok(id)
    }

    /// The commit: segments and roots enter HEAD and the session leaves it, all in one swap. Every
    /// pack in `relied` must be live and not doomed on the very HEAD that is replaced; a condemned one
    /// is thereby taken back.
    pub fn commit(
        &self,
        session: &SessionId,
        segments: &[SegmentRef],
        roots: &[Root],
        relied: &HashSet<PackId>,
    ) -> Result<()> {
        let last: Vec<(Root, Option<ObjectId>)> = roots.iter().map(|root| (root.clone(), None)).collect();
        self.commit_between(session, segments, &last, relied)
    }

    /// The same for roots that were committed elsewhere before, each with the root that it is to precede; at the end
    /// without one. Existing roots keep their position.
    pub fn commit_between(
        &self,
        session: &SessionId,
        segments: &[SegmentRef],
        roots: &[(Root, Option<ObjectId>)],
        relied: &HashSet<PackId>,
    ) -> Result<()> {
        let brought: Vec<Root> = roots.iter().map(|(root, _)| root.clone()).collect();
        self.commit_with(session, segments, relied, &brought, |head| {
            for (root, before) in roots {
                match before {
                    // A snapshot of this session: nobody else can have committed it.
                    None => head.roots.push(root.clone()),
                    Some(_) if head.roots.contains(root)? => {}
                    Some(before) => head.roots.insert_before(root.clone(), |known| known.id == *before)?,
                }
            }
            Ok(())
        })?;
        tracing::info!(session = %session.short(), snapshots = roots.len(), segments = segments.len(), "session committed");
        Ok(())
    }

    /// The same for a root that takes the place of `old`, which is in no HEAD from then on. Returns that one, whose object is
    /// needed no more.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`] if HEAD does not list `old`; then nothing was committed, and the session is open.
    pub fn commit_in_place_of(
        &self,
        old: ObjectId,
        session: &SessionId,
        segments: &[SegmentRef],
        root: &Root,
        relied: &HashSet<PackId>,
    ) -> Result<Root> {
        let brought = std::slice::from_ref(root);
        let before = self.commit_with(session, segments, relied, brought, |head| head.replace(old, root))?;
        tracing::info!(session = %session.short(), replaced = %old.short(), segments = segments.len(), "session committed");
        Ok(before)
    }

    /// The swap of a commit; `place` puts the roots into HEAD.
    pub(super) fn commit_with<R>(
        &self,
        session: &SessionId,
        segments: &[SegmentRef],
        relied: &HashSet<PackId>,
        roots: &[Root],
        place: impl Fn(&mut Head) -> Result<R>,
    ) -> Result<R> {
        self.update_head(|head| {
            if !head.is_open(session)? {
                return Err(Error::Fenced {
                    why: "this session was fenced by a prune; run the command again, what was uploaded is reused".into(),
                });
            }
            self.check_relied(head, relied)?;
            head.accepts(segments, roots)?;
            head.condemned.retain(|pack| !relied.contains(&pack.id))?;
            head.segments.extend(segments.iter().cloned());
            let placed = place(head)?;
            head.sessions.retain(|known| known.id != *session)?;
            Ok(placed)
        })
    }

    /// Adds segments to HEAD while the session stays open, so that a crash after this loses none of them.
    pub fn checkpoint(&self, session: &SessionId, segments: &[SegmentRef]) -> Result<()> {
        let now_ms = self.now_ms();
        self.update_head(|head| {
            let open = head.sessions.find_mut(|known| known.id == *session && !known.fenced)?;
            let open = open.ok_or_else(|| Error::Fenced {
                why: "this session was fenced by a prune; run the command again".into(),
            })?;
            open.seen_ms = now_ms;
            head.accepts(segments, &[])?;
            head.segments.extend(segments.iter().cloned());
            Ok(())
        })?;
        tracing::info!(session = %session.short(), segments = segments.len(), "checkpoint");
        Ok(())
    }

    /// Takes a session out of HEAD without a commit; `segments` are kept for the next run.
    pub fn close_session(&self, session: &SessionId, segments: &[SegmentRef]) -> Result<()> {
        self.update_head(|head| {
            if !head.is_open(session)? {
                return Ok(());
            }
            head.accepts(segments, &[])?;
            head.segments.extend(segments.iter().cloned());
            head.sessions.retain(|known| known.id != *session)
        })?;
        tracing::info!(session = %session.short(), segments = segments.len(), "session closed");
        Ok(())
    }

    /// Every relied pack must be listed by a segment of `head` and not be doomed there.
    fn check_relied(&self, head: &Head, relied: &HashSet<PackId>) -> Result<()> {
        let gone = |what: &str| Error::Fenced {
            why: format!("a prune removed a pack that this run built on ({what}); run it again"),
        };
        if relied.is_empty() {
            return Ok(());
        }
        if head.doomed.iter()?.any(|pack| relied.contains(&pack.id)) {
            return Err(gone("doomed"));
        }
        // The common case: all segments that the index has are still there, so are their packs.
        if self.index.outline()?.is_some_and(|outline| outline.is_within(&head.segments)) {
            return Ok(());
        }
        let live: HashSet<ObjectId> = head.segment_ids()?.into_iter().collect();
        let (mut known, mut unlisted) = (HashSet::new(), relied.clone());
        for pack in self.index.packs()? {
            known.insert(pack.segment);
            if live.contains(&pack.segment) {
                unlisted.remove(&pack.name.id);
            }
        }
        // All segments are still there, in other leaves.
        if unlisted.is_empty() || known.is_subset(&live) {
            return Ok(());
        }
        // A prune that replaces segments lists the packs that stay in new ones.
        for reference in head.segments.iter()?.filter(|reference| !known.contains(&reference.id)) {
            self.load_segment(reference)?.packs.iter().for_each(|pack| {
                unlisted.remove(&pack.name.id);
            });
            if unlisted.is_empty() {
                return Ok(());
            }
        }
        Err(gone("no longer indexed"))
    }

    /// Packs that must not be built on: condemned or doomed.
    ///
    /// # Errors
    ///
    /// The lists of HEAD cannot be read.
    pub fn avoided_packs(&self) -> Result<HashSet<PackId>> {
        let head = self.head();
        let condemned = head.condemned.iter()?.map(|pack| pack.id);
        Ok(condemned.chain(head.doomed.iter()?.map(|pack| pack.id)).collect())
    }
}

/// Copies accept only data of a primary, and one writer at a time: the packs on their way there have names of other
/// sessions, so a prune could not distinguish them from orphans.
fn may_open(head: &Head, purpose: &str) -> Result<()> {
    let Some(tier) = &head.tier else { return Ok(()) };
    if !matches!(purpose, "sync" | "prune" | "repair") {
        return Err(Error::Invalid(format!(
            "this is '{tier}', a copy of a repository: write to its primary, or make it the primary with 'esker tier adopt {tier}'"
        )));
    }
    // Those that restore from it write nothing to it.
    match head.sessions.find(|session| !session.fenced && session.purpose != "restore")? {
        Some(other) => Err(Error::Fenced {
            why: format!(
                "a {} by process {} on {} is at work on tier '{tier}'; try again when it is done. If that machine is gone, it is given up after a day",
                other.purpose, other.pid, other.hostname
            ),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunker::ChunkerParams;
    use crate::config::Layout;
    use crate::env::SeededEnv;
    use crate::executor::Inline;
    use crate::format::PackKind;
    use crate::index::{PackEntry, Segment};
    use crate::keys::{KdfParams, SlotOwner};
    use crate::pack::PackName;
    use crate::storage::memory::MemoryStorage;
    use crate::store::Access;
    use std::sync::Arc;

    fn store() -> ChunkStore {
        let access = Access {
            storage: Arc::new(MemoryStorage::default()),
            env: Arc::new(SeededEnv::new(1)),
            cpu: Arc::new(Inline),
            io: Arc::new(Inline),
            cache: None,
            identity: Identity::default(),
            columns: &crate::head::NoColumns,
        };
        let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
        let (params, owner) = (ChunkerParams::default(), SlotOwner::default());
        ChunkStore::init(access, params, b"x", cheap, owner, Layout::default()).unwrap()
    }

    fn entry(seed: u8) -> PackEntry {
        let (session, id) = (SessionId([9; 16]), PackId([seed; 32]));
        let name = PackName { session, id, kind: PackKind::Data, epoch: 1 };
        PackEntry { name, len: 100, records: vec![] }
    }

    #[test]
    fn a_rotation_reaches_who_is_at_work_after_a_minute() {
        let store = store();
        let other = ChunkStore::open(store.access.clone(), b"x").unwrap();
        other.rotate().unwrap();
        assert_eq!(store.epoch_now(), 1);
        store.access.env.sleep(std::time::Duration::from_secs(61));
        assert_eq!(store.epoch_now(), 2);
    }

    #[test]
    fn a_commit_relies_on_what_the_head_that_it_replaces_lists() {
        let store = store();
        let commit = |relied: u8| {
            let session = store.open_session("test").unwrap();
            store.commit(&session, &[], &[], &HashSet::from([PackId([relied; 32])]))
        };
        let old = store.write_segment(&Segment { packs: vec![entry(1), entry(2)] }).unwrap();
        let session = store.open_session("test").unwrap();
        store.commit(&session, std::slice::from_ref(&old), &[], &HashSet::new()).unwrap();
        store.sync_index().unwrap();
        commit(1).unwrap();

        // Others' segments take the one that is relied on to a leaf. They need not be read.
        let other = ChunkStore::open(store.access.clone(), b"x").unwrap();
        let name = |n: u8| ObjectId([n; 32]);
        let others =
            (0..200).map(|n| SegmentRef { id: name(n), hash: name(n), packs: 1, chunks: 0, epoch: 1 });
        let others: Vec<SegmentRef> = others.collect();
        let session = other.open_session("test").unwrap();
        other.close_session(&session, &others).unwrap();
        assert_eq!(other.head().segments.leaves().count(), 1);
        commit(1).unwrap();

        // A prune lists in another segment what stays.
        let new = other.write_segment(&Segment { packs: vec![entry(1)] }).unwrap();
        other
            .update_head(|head| {
                head.segments = vec![new.clone()].into();
                Ok(())
            })
            .unwrap();
        commit(1).unwrap();
        assert!(matches!(commit(2), Err(Error::Fenced { .. })));
        other
            .update_head(|head| {
                head.doomed.push(crate::head::PackRef { session: SessionId([9; 16]), id: PackId([1; 32]) });
                Ok(())
            })
            .unwrap();
        assert!(matches!(commit(1), Err(Error::Fenced { .. })));
    }
}
