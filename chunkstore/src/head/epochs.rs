//! The epochs of data keys that HEAD lists.

use super::Head;
use serde::{Deserialize, Serialize};

/// An epoch: the time in which everything new was sealed under one data key.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct EpochRef {
    /// When it was made, in milliseconds since the Unix epoch.
    pub made_ms: u64,
}

impl Head {
    /// The epoch that everything new is sealed under.
    #[must_use]
    pub fn epoch(&self) -> u32 {
        self.epochs.keys().next_back().copied().unwrap_or_default()
    }

    /// The number for a new epoch: the next one, above `known`. Where this HEAD's line may have parted from another, as when
    /// a copy became the primary, numbers are times in seconds: the other line counts, too, and no number is to have two keys.
    #[must_use]
    pub fn next_epoch(&self, known: u32, now_s: u64) -> u32 {
        let next = self.epoch().max(known).saturating_add(1);
        if self.incarnation == 1 { next } else { next.max(u32::try_from(now_s).unwrap_or_default()) }
    }
}
