//! The description of a collection in a snapshot: `collection.json`, beside the shards.

use super::Replica;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A collection, as far as its shards do not hold it. Fields that an older snapshot lacks are empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Description {
    /// Its name on the server.
    pub name: String,
    /// The server's version.
    pub version: String,
    /// `config` of the server's answer: parameters, HNSW, optimizer, WAL, quantization, strict mode, metadata.
    pub config: Value,
    /// `payload_schema` of the server's answer: its payload indexes by field.
    pub payload_schema: BTreeMap<String, Value>,
    /// Its aliases.
    pub aliases: Vec<String>,
    /// The shards that lie beside this description.
    pub shards: Vec<u64>,
    /// Every replica of every shard, wherever it lies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<Replica>,
    /// The node that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<u64>,
    /// The nodes of its cluster that are known.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub peers: BTreeSet<u64>,
    /// Points in all shards, counted before they were read; others may have been written since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub points: Option<u64>,
}

impl Description {
    /// The shards that make the collection whole.
    #[must_use]
    pub fn all_shards(&self) -> BTreeSet<u64> {
        self.replicas.iter().map(|replica| replica.shard_id).chain(self.shards.iter().copied()).collect()
    }

    /// The key of each shard that has one, in order of shards: only with custom sharding.
    #[must_use]
    pub fn shard_keys(&self) -> BTreeMap<u64, Value> {
        self.replicas
            .iter()
            .filter_map(|replica| Some((replica.shard_id, replica.shard_key.clone()?)))
            .collect()
    }

    /// Whether two nodes belong to one cluster. Two servers with one number are copies of a volume: what they have since
    /// is not the same.
    #[must_use]
    pub fn is_of_cluster(&self, other: &Self) -> bool {
        let knows = |one: &Self, two: &Self| two.peer_id.is_some_and(|peer| one.peers.contains(&peer));
        self.peer_id != other.peer_id && (knows(self, other) || knows(other, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_a_cluster_know_each_other() {
        let node = |peer_id: Option<u64>, peers: &[u64]| Description {
            peer_id,
            peers: peers.iter().copied().collect(),
            ..Description::default()
        };
        assert!(node(Some(1), &[1, 2]).is_of_cluster(&node(Some(2), &[1, 2])));
        // One has a collection's only shard, the other nothing to say.
        assert!(node(Some(1), &[1]).is_of_cluster(&node(Some(2), &[1, 2])));
        assert!(!node(Some(1), &[1]).is_of_cluster(&node(Some(2), &[2])));
        assert!(!node(Some(1), &[1]).is_of_cluster(&node(Some(1), &[1])), "two copies of a volume");
        assert!(!node(None, &[]).is_of_cluster(&node(None, &[])), "an older snapshot does not say");
    }

    #[test]
    fn an_older_description_is_read() {
        let old = r#"{"name": "x", "config": {"params": {}}, "aliases": ["a"], "shards": [0, 1], "version": "1.18.3"}"#;
        let description: Description = serde_json::from_str(old).unwrap();
        assert_eq!(description.all_shards(), BTreeSet::from([0, 1]));
        assert!(description.shard_keys().is_empty() && description.payload_schema.is_empty());
    }
}
