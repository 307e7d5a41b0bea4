//! Small objects that are sealed again under the newest epoch: records of snapshots, reports of drills, tier maps, segments,
//! leaves of HEAD.
//!
//! Each is written under a new name, which a swap then puts in the place of the old one. A root keeps its id: the name of its
//! object has a second part, which is random like all names, so that a prune that removes what a killed run left never meets
//! what another one is about to name. HEAD goes from an epoch to a later one only.

use super::segments::oldest;
use super::{ChunkStore, MAP_ROOT};
use crate::env::random_array;
use crate::format::{ObjectKind, names};
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
    /// Records of snapshots, reports of drills and tier maps.
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
        let mut new: HashMap<ObjectId, Root> = HashMap::new();
        for root in old {
            told()?;
            let there = match &theirs {
                Some(head) => head.roots.find(|known| known.id == root.id && known.epoch >= epoch)?.cloned(),
                None => None,
            };
            let renewed = match (there, source) {
                (Some(there), Some(source)) if there.renewed.is_some() => {
                    self.copy_snapshot(&there, source, None)?;
                    Some(there)
                }
                _ => self.seal_again(root, epoch)?,
            };
            if let Some(renewed) = renewed {
                new.insert(root.id, renewed);
            }
        }
        let placed = self.update_head(|head| {
            at_work(head, session)?;
            let mut placed = vec![];
            head.roots.replace(|root| {
                let new = new.get(&root.id).filter(|new| root.epoch < new.epoch)?;
                placed.push(root.object());
                // What HEAD has beside the object is as it was.
                Some(vec![Root { hash: new.hash, epoch: new.epoch, renewed: new.renewed, ..root.clone() }])
            })?;
            Ok(placed)
        })?;
        done.roots += placed.len() as u64;
        for before in placed {
            match self.access.storage.delete(&before) {
                Err(error) if error.kind == ErrorKind::Denied => done.locked += 1,
                removed => removed?,
            }
        }
        Ok(())
    }

    /// Writes the object of a root again. `None` if the root was removed meanwhile.
    fn seal_again(&self, root: &Root, epoch: u32) -> Result<Option<Root>> {
        let kind = match &*root.kind {
            Root::SNAPSHOT => ObjectKind::Snapshot,
            Root::REPORT => ObjectKind::Report,
            MAP_ROOT => ObjectKind::TierMap,
            other => {
                let why = format!("HEAD has a root of kind '{other}', which this esker cannot encrypt again");
                return Err(Error::Unsupported { why });
            }
        };
        let read = match kind {
            ObjectKind::TierMap => self.read_map(root),
            kind => self.read_root(root, kind),
        };
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
        let renewed = Some(ObjectId(random_array(&*self.access.env)?));
        let again = Root { epoch, renewed, ..root.clone() };
        let name = again.object();
        let sealed = Bytes::from(envelope::seal(&self.keys, epoch, kind, &name, &plain, &*self.access.env)?);
        self.access.storage.put(&name, sealed.clone())?;
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
        // What was not placed, because others replaced the segment meanwhile, a prune removes.
        for before in placed {
            match self.access.storage.delete(&names::segment(&before)) {
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
