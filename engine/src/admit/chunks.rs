//! Which chunks a commit brought, or a host has, in few bytes each.

use chunkstore::ChunkId;
use std::collections::HashMap;

/// The chunks that a commit brought: a host stores each once in a run. Those of another run, which was interrupted before
/// its book had noted what it stored, may come again.
#[derive(Default)]
pub(super) struct Chunks {
    run: u64,
    /// The ordinal of the last run.
    ordinal: u16,
    /// The ordinal of the run that brought each. In memory this takes 15 to 40 bytes a chunk, less than the chunk took in the
    /// inbox.
    ids: HashMap<[u8; SHORT_LEN], u16>,
}

/// Bytes of an id that are remembered. Nobody finds another content whose id begins with the same 96 bits.
const SHORT_LEN: usize = 12;

impl Chunks {
    /// Remembers a chunk; `false` if the run brought it before.
    pub(super) fn insert(&mut self, run: u64, id: &ChunkId) -> bool {
        if self.run != run {
            // A commit has at most MAX_COMMIT_RUNS of them.
            (self.run, self.ordinal) = (run, self.ordinal.saturating_add(1));
        }
        self.ids.insert(short(id), self.ordinal) != Some(self.ordinal)
    }

    /// Whether the commit brought it.
    pub(super) fn contains(&self, id: &ChunkId) -> bool {
        self.ids.contains_key(&short(id))
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.ids.len() as u64
    }
}

fn short(id: &ChunkId) -> [u8; SHORT_LEN] {
    let mut short = [0; SHORT_LEN];
    short.copy_from_slice(&id.0[..SHORT_LEN]);
    short
}
