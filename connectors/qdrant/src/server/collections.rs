//! Requests about collections: listing, creating and removing them.

use super::{Description, Failed, Qdrant};
use connector_kit::http::Wait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long the removal of what a failed restore made may take: somebody waits for the end of it.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(10);

/// A copy of a shard on a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Replica {
    /// The shard.
    pub shard_id: u64,
    /// The node.
    pub peer_id: u64,
    /// `Active` if its data can be relied on.
    pub state: String,
    /// The key that the user gave the shard: a text or a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard_key: Option<Value>,
}

/// Where the shards of a collection lie.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// The node that answers.
    pub peer_id: u64,
    /// All replicas, its own among them.
    pub replicas: Vec<Replica>,
}

impl Cluster {
    /// The shards that lie on the node that answers; `active` leaves those out that cannot be relied on.
    pub fn local(&self, active: bool) -> impl Iterator<Item = &Replica> {
        let own = move |replica: &&Replica| {
            replica.peer_id == self.peer_id && (!active || replica.state == "Active")
        };
        self.replicas.iter().filter(own)
    }
}

impl Qdrant {
    /// Names of collections, in order. Other than [`Self::collection`], it also knows those that are broken.
    pub fn collections(&self) -> Result<BTreeSet<String>, Failed> {
        let found = self.ask(self.client.get(self.url(&["collections"])), "collections")?;
        let list = self.list(&found, "collections", "collections")?.iter();
        list.map(|collection| self.text(collection, "name", "collections")).collect()
    }

    /// A list of an answer: without it, it is not known that there are none.
    fn list<'a>(&self, answer: &'a Value, key: &str, what: &str) -> Result<&'a Vec<Value>, Failed> {
        answer[key].as_array().ok_or_else(|| self.silent(format!("{what}: the answer has no list '{key}'")))
    }

    /// A text of an element of a list.
    fn text(&self, element: &Value, key: &str, what: &str) -> Result<String, Failed> {
        let text = element[key].as_str().map(str::to_owned);
        text.ok_or_else(|| self.silent(format!("{what}: an element of the list has no '{key}'")))
    }

    /// What the server says of a collection; `None` if there is none of that name.
    pub fn collection(&self, name: &str) -> Result<Option<Value>, Failed> {
        match self.ask(self.client.get(self.url(&["collections", name])), "collection") {
            Err(Failed { status: Some(404), .. }) => Ok(None),
            found => found.map(Some),
        }
    }

    /// Where the shards of a collection lie.
    pub fn cluster(&self, name: &str) -> Result<Cluster, Failed> {
        let found = self.ask(self.client.get(self.url(&["collections", name, "cluster"])), "shards")?;
        let peer_id = found["peer_id"].as_u64().unwrap_or_default();
        let mut replicas = vec![];
        let local = self.list(&found, "local_shards", "shards")?;
        for replica in local.iter().chain(self.list(&found, "remote_shards", "shards")?) {
            replicas.push(Replica {
                shard_id: replica["shard_id"]
                    .as_u64()
                    .ok_or_else(|| self.silent("shards: one has no number"))?,
                peer_id: replica["peer_id"].as_u64().unwrap_or(peer_id),
                state: replica["state"].as_str().unwrap_or("Active").to_owned(),
                shard_key: Some(replica["shard_key"].clone()).filter(|key| !key.is_null()),
            });
        }
        replicas.sort_by_key(|replica| (replica.shard_id, replica.peer_id));
        Ok(Cluster { peer_id, replicas })
    }

    /// The nodes of its cluster; none for a server by itself. `None` if the key may not know.
    pub fn peers(&self) -> Result<Option<BTreeSet<u64>>, Failed> {
        let found = match self.ask(self.client.get(self.url(&["cluster"])), "cluster") {
            Err(Failed { status: Some(401 | 403 | 404), .. }) => return Ok(None),
            found => found?,
        };
        let peers = found["peers"].as_object().into_iter().flatten();
        Ok(Some(peers.filter_map(|(peer, _)| peer.parse().ok()).collect()))
    }

    /// Aliases and their collections.
    pub fn aliases(&self) -> Result<BTreeMap<String, String>, Failed> {
        let found = self.ask(self.client.get(self.url(&["aliases"])), "aliases")?;
        let text = |alias: &Value, key: &str| self.text(alias, key, "aliases");
        let list = self.list(&found, "aliases", "aliases")?.iter();
        list.map(|alias| Ok((text(alias, "alias_name")?, text(alias, "collection_name")?))).collect()
    }

    /// Creates a collection as one that was backed up was configured; its shard keys, its indexes and what
    /// [`Self::complete_configuration`] sets come afterwards.
    pub fn create_collection(&self, name: &str, config: &Value) -> Result<(), Failed> {
        let request = self.client.put(self.url(&["collections", name])).json(&creation(config));
        self.result(request, Wait::Change, "create the collection").map(drop)
    }

    /// Sets of the same configuration what the server takes only for a collection that is there.
    pub fn complete_configuration(&self, name: &str, config: &Value) -> Result<(), Failed> {
        let fan_out = fan_out(config);
        if fan_out.is_empty() { Ok(()) } else { self.change(name, &json!({"params": fan_out})) }
    }

    /// Changes the configuration of a collection.
    fn change(&self, name: &str, changes: &Value) -> Result<(), Failed> {
        let request = self.client.patch(self.url(&["collections", name])).json(changes);
        self.result(request, Wait::Work, "configure the collection").map(drop)
    }

    /// Starts the optimizer of a collection that was restored: it stays `grey`, with its last segments unindexed, until
    /// it is touched.
    pub fn wake(&self, name: &str) -> Result<(), Failed> {
        self.change(name, &json!({"optimizers_config": {}}))
    }

    /// Creates shards of a key.
    pub fn create_shard_key(&self, name: &str, key: &Value, shards: u64) -> Result<(), Failed> {
        let wanted = json!({"shard_key": key, "shards_number": shards});
        let request = self.client.put(self.url(&["collections", name, "shards"])).json(&wanted);
        self.result(request, Wait::Work, "create the shard key").map(drop)
    }

    /// Removes the shards of a key.
    pub fn delete_shard_key(&self, name: &str, key: &Value) -> Result<(), Failed> {
        let request = self.client.post(self.url(&["collections", name, "shards", "delete"]));
        self.result(request.json(&json!({"shard_key": key})), Wait::Work, "remove the shard key").map(drop)
    }

    /// Creates the payload indexes that a description has.
    pub fn create_indexes(&self, name: &str, description: &Description) -> Result<(), Failed> {
        for (field, index) in &description.payload_schema {
            let wanted = json!({"field_name": field, "field_schema": field_schema(index)});
            let request =
                self.client.put(self.url(&["collections", name, "index"])).query(&[("wait", "true")]);
            self.result(request.json(&wanted), Wait::Work, &format!("index '{field}'"))?;
        }
        Ok(())
    }

    /// Removes a collection.
    pub fn delete_collection(&self, name: &str) -> Result<(), Failed> {
        let request = self.client.delete(self.url(&["collections", name]));
        self.result(request, Wait::Change, "remove the collection").map(drop)
    }

    /// The same for what a restore that failed has made.
    pub fn discard_collection(&self, name: &str) -> Result<(), Failed> {
        let request = self.client.delete(self.url(&["collections", name]));
        self.result(request, Wait::InOrder(REMOVAL_TIMEOUT), "remove the collection").map(drop)
    }

    /// Gives a collection another name, besides.
    pub fn create_alias(&self, alias: &str, collection: &str) -> Result<(), Failed> {
        let action = json!({"create_alias": {"alias_name": alias, "collection_name": collection}});
        let request = self.client.post(self.url(&["collections", "aliases"]));
        self.ask(request.json(&json!({"actions": [action]})), "alias").map(drop)
    }

    /// Points of a collection, counted one by one.
    pub fn count(&self, name: &str) -> Result<u64, Failed> {
        let request = self.client.post(self.url(&["collections", name, "points", "count"]));
        let found = self.result(request.json(&json!({"exact": true})), Wait::Work, "count")?;
        found["count"].as_u64().ok_or_else(|| self.silent("count: no number"))
    }
}

/// Parameters that the server takes only for a collection that is there.
const FAN_OUT: &str = "read_fan_out_";

/// The body of the request that creates a collection, from its `config`: parameters stand at the top there, and the
/// optimizer's have another name. What a later version adds comes along.
fn creation(config: &Value) -> Map<String, Value> {
    let params = config["params"].as_object().into_iter().flatten();
    let others = config.as_object().into_iter().flatten().filter(|(key, _)| *key != "params");
    let all = params.filter(|(key, _)| !key.starts_with(FAN_OUT)).chain(others);
    let renamed = |key: &str| if key == "optimizer_config" { "optimizers_config" } else { key }.to_owned();
    all.filter(|(_, value)| !value.is_null()).map(|(key, value)| (renamed(key), value.clone())).collect()
}

fn fan_out(config: &Value) -> Map<String, Value> {
    let params = config["params"].as_object().into_iter().flatten();
    let wanted = params.filter(|(key, value)| key.starts_with(FAN_OUT) && !value.is_null());
    wanted.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// `field_schema` of an index that the server shows: its parameters, or only its type.
fn field_schema(index: &Value) -> Value {
    match &index["params"] {
        Value::Object(params) => {
            let mut params = params.clone();
            params.entry("type").or_insert_with(|| index["data_type"].clone());
            Value::Object(params)
        }
        _ => index["data_type"].clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_becomes_a_request() {
        let config = json!({
            "params": {"vectors": {"size": 4}, "shard_number": 3, "read_fan_out_factor": 2, "read_fan_out_delay_ms": null},
            "optimizer_config": {"deleted_threshold": 0.2}, "hnsw_config": {"m": 16}, "quantization_config": null,
            "metadata": {"owner": "team a"}, "something_new": {"x": 1},
        });
        let wanted = json!({
            "vectors": {"size": 4}, "shard_number": 3, "optimizers_config": {"deleted_threshold": 0.2},
            "hnsw_config": {"m": 16}, "metadata": {"owner": "team a"}, "something_new": {"x": 1},
        });
        assert_eq!(Value::Object(creation(&config)), wanted);
        assert_eq!(Value::Object(fan_out(&config)), json!({"read_fan_out_factor": 2}));
    }

    #[test]
    fn an_index_is_made_of_its_parameters_or_its_type() {
        assert_eq!(field_schema(&json!({"data_type": "geo", "points": 5})), json!("geo"));
        let index =
            json!({"data_type": "keyword", "params": {"type": "keyword", "is_tenant": true}, "points": 5});
        assert_eq!(field_schema(&index), json!({"type": "keyword", "is_tenant": true}));
        let index = json!({"data_type": "integer", "params": {"lookup": true}, "points": 5});
        assert_eq!(field_schema(&index), json!({"type": "integer", "lookup": true}));
    }
}
