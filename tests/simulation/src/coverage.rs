//! What was seen to happen: a simulation in which nothing ever went wrong proves nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// Things that must happen in some world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Sometimes {
    /// A snapshot was acknowledged.
    BackedUp,
    /// A chunk was stored against another.
    StoredDelta,
    /// A snapshot was read while others wrote and removed.
    ReadBeside,
    /// A snapshot was read to its end although it was forgotten, because it was held.
    HeldWhileForgotten,
    /// A repository was checked while others wrote and removed.
    CheckedBeside,
    /// A prune went through.
    Pruned,
    /// It left removing to a later one.
    Deferred,
    /// It copied what was needed out of a pack.
    Repacked,
    /// It stored a delta anew, on its own.
    Rebased,
    /// It removed what interrupted runs had left.
    RemovedOrphans,
    /// It took a session for dead.
    FencedOthers,
    /// A writer was told that it had been.
    Fenced,
    /// A host died.
    Crashed,
    /// A pack was condemned.
    Condemned,
    /// A commit took a condemned pack back.
    Resurrected,
    /// A pack was doomed.
    Doomed,
    /// A session published before its commit.
    Checkpointed,
    /// A new data epoch was made.
    Rotated,
    /// A process at work met a data key that it lacked, and got it.
    Learned,
    /// A pack was moved to a later epoch.
    Renewed,
    /// An epoch was retired.
    Retired,
    /// An epoch was not retired because something needed it.
    NotRetired,
    /// A write-only host brought a backup.
    Brought,
    /// What one brought was admitted.
    Admitted,
    /// What one brought was refused.
    Refused,
    /// The host was told so.
    ToldRefused,
}

/// All of them.
pub const ALL: [Sometimes; 26] = [
    Sometimes::BackedUp,
    Sometimes::StoredDelta,
    Sometimes::ReadBeside,
    Sometimes::HeldWhileForgotten,
    Sometimes::CheckedBeside,
    Sometimes::Pruned,
    Sometimes::Deferred,
    Sometimes::Repacked,
    Sometimes::Rebased,
    Sometimes::RemovedOrphans,
    Sometimes::FencedOthers,
    Sometimes::Fenced,
    Sometimes::Crashed,
    Sometimes::Condemned,
    Sometimes::Resurrected,
    Sometimes::Doomed,
    Sometimes::Checkpointed,
    Sometimes::Rotated,
    Sometimes::Learned,
    Sometimes::Renewed,
    Sometimes::Retired,
    Sometimes::NotRetired,
    Sometimes::Brought,
    Sometimes::Admitted,
    Sometimes::Refused,
    Sometimes::ToldRefused,
];

/// How often each was seen.
#[derive(Debug, Default)]
pub struct Coverage([AtomicU64; ALL.len()]);

impl Coverage {
    /// It happened so many times.
    pub fn add(&self, what: Sometimes, times: u64) {
        self.0[what as usize].fetch_add(times, Ordering::Relaxed);
    }

    /// How often it happened.
    #[must_use]
    pub fn get(&self, what: Sometimes) -> u64 {
        self.0[what as usize].load(Ordering::Relaxed)
    }

    /// Adds what happened elsewhere.
    pub fn merge(&self, other: &Self) {
        ALL.iter().for_each(|what| self.add(*what, other.get(*what)));
    }
}
