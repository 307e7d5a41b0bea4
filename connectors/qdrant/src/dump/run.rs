//! What the Qdrant sources of one run have, so that one knows which shards of its cluster another one reads.

use crate::server::Description;
use chunkstore::pool::locked;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// Shared by the sources of a run: all are started before the first is read.
#[derive(Clone, Debug, Default)]
pub struct Run(Arc<Mutex<Found>>);

#[derive(Debug, Default)]
struct Found {
    /// Shards that are read, by node and collection.
    shards: BTreeMap<(u64, String), BTreeSet<u64>>,
    /// Shards that were told to be missing: a cluster's first node, the collection, the shard.
    told: BTreeSet<(u64, String, u64)>,
}

impl Run {
    /// Notes that the shards of a description are read.
    pub(super) fn note(&self, description: &Description) {
        let mut found = locked(&self.0);
        if let Some(peer) = description.peer_id {
            let shards = found.shards.entry((peer, description.name.clone())).or_default();
            shards.extend(&description.shards);
        }
    }

    /// Shards of a collection that nobody reads; each is told once.
    pub(super) fn missing(&self, description: &Description) -> Vec<u64> {
        let mut found = locked(&self.0);
        let mut missing = description.all_shards();
        for shard in &description.shards {
            missing.remove(shard);
        }
        for replica in &description.replicas {
            let place = (replica.peer_id, description.name.clone());
            if found.shards.get(&place).is_some_and(|shards| shards.contains(&replica.shard_id)) {
                missing.remove(&replica.shard_id);
            }
        }
        let first = description.peers.first().copied().unwrap_or_default();
        missing
            .into_iter()
            .filter(|shard| found.told.insert((first, description.name.clone(), *shard)))
            .collect()
    }
}
