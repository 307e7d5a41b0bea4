//! Small objects that are sealed again under the newest epoch: records of snapshots, tier maps, segments, leaves of HEAD.
//!
//! Each is written under a new name, which a swap then puts in the place of the old one. The name of a root's object has the
//! epoch, so whoever was killed before the swap finds the object there, and two at once write the same. HEAD goes from an
//! epoch to a later one only, so an object of an earlier one than HEAD names is never named again.

use super::segments::oldest;
use super::{ChunkStore, MAP_ROOT};
use crate::format::{MAX_SEGMENT_LEN, MAX_SMALL_LEN, ObjectKind, names};
use crate::head::{Head, Root, SegmentRef};
use crate::id::{ObjectId, SessionId};
use crate::storage::ErrorKind;
use crate::{Error, Result, envelope};
use bytes::Bytes;
use std::collections::HashMap;

/// Roots of one swap.
const AT_A_TIME: usize = 512;

/// What was sealed again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    /// Records of snapshots and tier maps.
    pub roots: u64,
    /// Segments.
    pub segments: u64,
    /// Leaves of HEAD that were written again.
    pub leaves: u64,
    /// Old objects that the store does not let go: they are locked.
    pub locked: u64,
}

impl ChunkStore {
    /// Seals again under the newest epoch what is small. `session` is open: a prune then takes nothing new for an orphan.
    /// `told` is asked between steps whether to go on. `source`: the place whose objects are taken over where it has them,
    /// so that places can mend each other.
    ///
    /// # Errors
    ///
    /// An object cannot be read; the session was fenced.
    pub fn renew_small(
        &self,
        session: &SessionId,
        source: Option<&Self>,
        told: &dyn Fn() -> Result<()>,
    ) -> Result<Renewed> {
        let mut done = Renewed::default();
        let head = self.reload()?;
        let epoch = head.epoch();
        let old: Vec<Root> = head.roots.iter()?.filter(|root| root.epoch < epoch).cloned().collect();
        for some in old.chunks(AT_A_TIME) {
            self.renew_roots(session, some, epoch, source, told, &mut done)?;
        }
        self.renew_segments(session, epoch, told, &mut done)?;
        let head = self.reload()?;
        let old = head.leaves().filter(|leaf| leaf.epoch < epoch).count();
        if old > 0 {
            self.update_head(|head| {
                at_work(head, session)?;
                head.renew_leaves(epoch)
            })?;
            done.leaves = old as u64;
        }
        Ok(done)
    }

    fn renew_roots(
        &self,
        session: &SessionId,
        old: &[Root],
        epoch: u32,
        source: Option<&Self>,
        told: &dyn Fn() -> Result<()>,
        done: &mut Renewed,
    ) -> Result<()> {
        let theirs = source.map(Self::head);
        let mut new: HashMap<ObjectId, (Root, String)> = HashMap::new();
        for root in old {
            told()?;
            let there = match &theirs {
                Some(head) => head.roots.find(|known| known.id == root.id && known.epoch >= epoch)?.cloned(),
                None => None,
            };
            let renewed = match (there, source) {
                (Some(there), Some(source)) if there.renewed => {
                    self.copy_snapshot(&there, source, None)?;
                    Some(there)
                }
                _ => self.seal_again(root, epoch)?,
            };
            if let Some(renewed) = renewed {
                let (hash, epoch) = (renewed.hash, renewed.epoch);
                new.insert(root.id, (Root { hash, epoch, renewed: true, ..root.clone() }, root.object()));
            }
        }
        let placed = self.update_head(|head| {
            at_work(head, session)?;
            let mut placed = vec![];
            head.roots.replace(|root| {
                let (new, _) = new.get(&root.id).filter(|(new, _)| root.epoch < new.epoch)?;
                placed.push(root.id);
                // What HEAD has beside the object is as it was.
                Some(vec![Root { hash: new.hash, epoch: new.epoch, renewed: true, ..root.clone() }])
            })?;
            Ok(placed)
        })?;
        done.roots += placed.len() as u64;
        for (_, before) in placed.iter().filter_map(|id| new.get(id)) {
            match self.access.storage.delete(before) {
                Err(error) if error.kind == ErrorKind::Denied => done.locked += 1,
                removed => removed?,
            }
        }
        Ok(())
    }

    /// Writes the object of a root again. `None` if the root was removed meanwhile.
    fn seal_again(&self, root: &Root, epoch: u32) -> Result<Option<Root>> {
        let (kind, limit) = match &*root.kind {
            Root::SNAPSHOT => (ObjectKind::Snapshot, MAX_SMALL_LEN),
            MAP_ROOT => (ObjectKind::TierMap, MAX_SEGMENT_LEN),
            other => {
                let why = format!("HEAD has a root of kind '{other}', which this esker cannot encrypt again");
                return Err(Error::Unsupported { why });
            }
        };
        let read = if root.is_snapshot() { self.read_snapshot(root) } else { self.read_map(root) };
        let plain = match read {
            // Forgotten since.
            Err(error)
                if error.is_damage() && self.reload()?.roots.find(|known| known.id == root.id)?.is_none() =>
            {
                return Ok(None);
            }
            // HEAD's leaves say the same.
            Err(error) if error.is_damage() => match root.record.read() {
                Ok(Some(record)) => record.to_vec(),
                _ => return Err(error),
            },
            read => read?,
        };
        let again = Root { epoch, renewed: true, ..root.clone() };
        let name = again.object();
        let sealed = Bytes::from(envelope::seal(&self.keys, epoch, kind, &name, &plain, &*self.access.env)?);
        let sealed = match self.access.storage.put(&name, sealed.clone()) {
            // By another one, or by this one before it was killed: HEAD may name that object soon.
            Err(error) if error.kind == ErrorKind::Conflict => {
                let there = self.access.storage.get(&name, limit)?;
                if envelope::open(&self.keys, kind, &name, &there)? != plain {
                    return Err(Error::corrupt(name, "it is not what was encrypted again"));
                }
                there
            }
            put => {
                put?;
                sealed
            }
        };
        let hash = ObjectId(*blake3::hash(&sealed).as_bytes());
        Ok(Some(Root { hash, ..again }))
    }

    /// Writes segments again that are old only themselves. Those that list old packs are written again without them, when
    /// these go.
    fn renew_segments(
        &self,
        session: &SessionId,
        epoch: u32,
        told: &dyn Fn() -> Result<()>,
        done: &mut Renewed,
    ) -> Result<()> {
        let head = self.reload()?;
        let mut new: HashMap<ObjectId, SegmentRef> = HashMap::new();
        for reference in head.segments.iter()?.filter(|segment| segment.epoch < epoch) {
            told()?;
            let Some(segment) = self.load_live_segment(reference)? else { continue };
            if oldest(&segment, epoch) == epoch {
                new.insert(reference.id, self.write_segment(&segment)?);
            }
        }
        if new.is_empty() {
            return Ok(());
        }
        let placed = self.update_head(|head| {
            at_work(head, session)?;
            let mut placed = vec![];
            head.segments.replace(|segment| {
                let new = new.get(&segment.id)?;
                placed.push(segment.id);
                Some(vec![new.clone()])
            })?;
            Ok(placed)
        })?;
        done.segments += placed.len() as u64;
        for (before, now) in &new {
            let unused = if placed.contains(before) { before } else { &now.id };
            match self.access.storage.delete(&names::segment(unused)) {
                Err(error) if error.kind == ErrorKind::Denied => done.locked += 1,
                removed => removed?,
            }
        }
        Ok(())
    }
}

/// Refuses to go on once fenced: a prune may have removed what was written.
fn at_work(head: &Head, session: &SessionId) -> Result<()> {
    if head.is_open(session)? {
        return Ok(());
    }
    Err(Error::Fenced { why: "another process took this one for dead; run it again".into() })
}
