//! The epochs of data keys that HEAD lists, and what it names that is sealed under each.

use super::{Head, LeafRef, Root, SegmentRef, Session};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// An epoch: the time in which everything new was sealed under one data key.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct EpochRef {
    /// When it was made, in milliseconds since the Unix epoch; 0 if that is not known, after a repair.
    pub made_ms: u64,
    /// Generation of the HEAD that made it: sessions that were opened in it or later seal nothing under an earlier one. 0 for
    /// the first, and after a repair, which leaves no session.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub since: u64,
    /// When it was retired, in the same milliseconds: from then on nothing that is sealed under it is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_ms: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What HEAD names that is sealed under an epoch or an earlier one, or may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Segments that are, or that list packs that are.
    pub segments: usize,
    /// Records of snapshots, and tier maps.
    pub roots: usize,
    /// Leaves of HEAD.
    pub leaves: usize,
    /// Packs that await their removal.
    pub doomed: usize,
    /// Sessions that may still seal under it: they began before the next epoch.
    pub sessions: usize,
}

impl Needs {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Head {
    /// The epoch that everything new is sealed under.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epochs.keys().next_back().copied().unwrap_or_default()
    }

    /// The highest retired epoch; 0 if none is. All before it are retired, too, known or not.
    #[must_use]
    pub fn retired(&self) -> u32 {
        let retired = self.epochs.iter().filter(|(_, epoch)| epoch.retired_ms.is_some());
        retired.map(|(number, _)| *number).next_back().unwrap_or_default()
    }

    /// The epochs as a tier's HEAD has them: the generations in which they were made are those of this HEAD.
    #[must_use]
    pub fn epochs_of_tier(&self) -> BTreeMap<u32, EpochRef> {
        self.epochs.iter().map(|(number, epoch)| (*number, EpochRef { since: 0, ..*epoch })).collect()
    }

    /// The number for a new epoch: the next one, above `known`. Where this HEAD's line may have parted from another, as when
    /// a copy became the primary, numbers are times in seconds: the other line counts, too, and no number is to have two keys.
    #[must_use]
    pub fn next_epoch(&self, known: u32, now_s: u64) -> u32 {
        let next = self.epoch().max(known).saturating_add(1);
        if self.incarnation == 1 { next } else { next.max(u32::try_from(now_s).unwrap_or_default()) }
    }

    /// What is sealed under `epoch` or an earlier one, as far as this HEAD names it, and who may still do so.
    ///
    /// # Errors
    ///
    /// A list of HEAD cannot be read.
    pub fn needs(&self, epoch: u32) -> Result<Needs> {
        let next = self.epochs.range(epoch.saturating_add(1)..).next();
        // The epochs of a tier were made elsewhere, and one session at a time writes there.
        let made = next.filter(|_| self.tier.is_none()).map_or(u64::MAX, |(_, next)| next.since);
        // A restore only reads.
        let is_open =
            |session: &&Session| !session.fenced && session.opened < made && session.purpose != "restore";
        Ok(Needs {
            segments: self.segments.iter()?.filter(|segment| segment.epoch <= epoch).count(),
            roots: self.roots.iter()?.filter(|root| root.epoch <= epoch).count(),
            leaves: self.leaves().filter(|leaf| leaf.epoch <= epoch).count(),
            doomed: self.doomed.len(),
            sessions: self.sessions.iter()?.filter(is_open).count(),
        })
    }

    /// The lowest epoch that anything that this HEAD names is sealed under; 0 if that is not known of something.
    ///
    /// # Errors
    ///
    /// As [`Head::needs`].
    pub fn oldest_needed(&self) -> Result<u32> {
        let segments = self.segments.iter()?.map(|segment| segment.epoch);
        let roots = self.roots.iter()?.map(|root| root.epoch);
        let leaves = self.leaves().map(|leaf| leaf.epoch);
        Ok(segments.chain(roots).chain(leaves).min().unwrap_or_else(|| self.epoch()))
    }

    /// Refuses what a session brings that is sealed under a retired epoch: it began before the rotation, and was fenced.
    pub(crate) fn accepts(&self, segments: &[SegmentRef], roots: &[Root]) -> Result<()> {
        let retired = self.retired();
        let epochs = segments.iter().map(|segment| segment.epoch).chain(roots.iter().map(|root| root.epoch));
        match epochs.filter(|epoch| *epoch <= retired).min() {
            Some(epoch) if retired > 0 => Err(Error::Fenced {
                why: format!(
                    "epoch {epoch}, whose data key this run still used, was retired meanwhile; run it again"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Has all leaves written again that are sealed under an epoch before `epoch`.
    pub(crate) fn renew_leaves(&mut self, epoch: u32) -> Result<()> {
        let is_old = |leaf: &LeafRef| leaf.epoch < epoch;
        self.roots.loosen(is_old)?;
        self.segments.loosen(is_old)?;
        self.sessions.loosen(is_old)?;
        self.condemned.loosen(is_old)?;
        self.doomed.loosen(is_old)?;
        self.forgotten.loosen(is_old)?;
        self.forgotten_everywhere.loosen(is_old)?;
        self.hosts.loosen(is_old)?;
        self.anew.iter_mut().try_for_each(|anew| anew.sessions.loosen(is_old))
    }
}
