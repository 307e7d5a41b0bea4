//! The collections of a snapshot, combined from the nodes of a cluster.

use crate::dump::{folder, gone};
use crate::server::{Description, address};
use engine::manifest::for_all_entries;
use engine::names::decoded;
use engine::restore::dump;
use engine::snapshot::{Snapshot, SourceRecord};
use engine::{Error, Monitor, Repository, Result};
use std::collections::{BTreeMap, BTreeSet};

/// A shard in a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct Shard {
    /// Its path.
    pub(crate) path: String,
    /// Its bytes.
    pub(crate) len: u64,
    /// SHA-256 of them.
    pub(crate) checksum: Option<String>,
}

/// A collection in a snapshot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collection {
    /// What it was.
    pub(crate) description: Description,
    /// Its shards that are there.
    pub(crate) shards: BTreeMap<u64, Shard>,
}

impl Collection {
    /// Shards that are not there.
    pub(crate) fn missing(&self) -> BTreeSet<u64> {
        self.description.all_shards().into_iter().filter(|shard| !self.shards.contains_key(shard)).collect()
    }
}

/// A collection of one server, as its entries say.
#[derive(Default)]
pub(crate) struct Part {
    /// The server's.
    pub(crate) address: String,
    /// The path of its description.
    pub(crate) description: Option<String>,
    /// Paths and bytes of its shards.
    pub(crate) shards: BTreeMap<u64, (String, u64)>,
}

impl Part {
    /// Whether the backup says that the collection was removed while it was read.
    pub(crate) fn is_gone(&self, snapshot: &Snapshot, name: &str) -> bool {
        self.records(snapshot).any(|record| record.details.contains_key(&gone(name)))
    }

    fn records<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a SourceRecord> {
        snapshot.sources.iter().filter(|record| is_of(&record.origin, &self.address))
    }
}

/// The collections of a snapshot below `path` that are `wanted`, by name. What two servers have that know nothing of each
/// other is not put together.
pub(crate) fn collections(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &str,
    wanted: &dyn Fn(&str) -> bool,
    monitor: &dyn Monitor,
) -> Result<BTreeMap<String, Collection>> {
    let mut all: BTreeMap<String, Vec<(String, Collection)>> = BTreeMap::new();
    let parts = parts(repo, snapshot, path)?;
    if parts.is_empty() {
        let below = if path.is_empty() { String::new() } else { format!(" below '/{path}'") };
        return Err(Error::Invalid(format!("there is no Qdrant collection in this snapshot{below}")));
    }
    for (place, part) in parts {
        let description = describe(repo, snapshot, &place, &part, monitor)?;
        let name = description.name.clone();
        if !wanted(&name) || part.is_gone(snapshot, &name) {
            continue;
        }
        let shards = part.shards.iter().map(|(number, (path, len))| {
            let key = format!("sha256:{name}/{number}");
            let checksum = part.records(snapshot).find_map(|record| record.details.get(&key).cloned());
            (*number, Shard { path: path.clone(), len: *len, checksum })
        });
        let shards = shards.collect();
        all.entry(name).or_default().push((place, Collection { description, shards }));
    }
    all.into_iter().map(|(name, parts)| Ok((name.clone(), put_together(&name, parts)?))).collect()
}

/// Whether a record's origin is the server at an address.
fn is_of(origin: &str, wanted: &str) -> bool {
    url::Url::parse(origin).ok().and_then(|url| address(&url)).as_deref() == Some(wanted)
}

/// What nodes of one cluster have of a collection. Of replicas one is enough: only active ones are backed up.
fn put_together(name: &str, parts: Vec<(String, Collection)>) -> Result<Collection> {
    let choices: Vec<String> = parts.iter().map(|(place, _)| format!("SNAP:/{place}")).collect();
    let mut parts = parts.into_iter().map(|(_, part)| part);
    let Some(mut whole) = parts.next() else { return Ok(Collection::default()) };
    for part in parts {
        if !whole.description.is_of_cluster(&part.description) {
            return Err(Error::Invalid(format!(
                "the snapshot has a collection '{name}' of several servers; name one of {}",
                choices.join(", ")
            )));
        }
        let Description { aliases, shards, replicas, peers, .. } = part.description;
        let own = &mut whole.description;
        own.aliases.extend(aliases);
        own.aliases.sort();
        own.aliases.dedup();
        own.shards.extend(shards);
        own.replicas.extend(replicas);
        own.peers.extend(peers);
        for (number, shard) in part.shards {
            whole.shards.entry(number).or_insert(shard);
        }
    }
    Ok(whole)
}

/// The entries of each collection below `path`, by the folder that they lie in. No description is read.
pub(crate) fn parts(repo: &Repository, snapshot: &Snapshot, path: &str) -> Result<BTreeMap<String, Part>> {
    let mut all: BTreeMap<String, Part> = BTreeMap::new();
    for_all_entries(repo.store(), &snapshot.manifest, &mut |listed| {
        let entry = String::from_utf8_lossy(&listed.entry.path).into_owned();
        let components: Vec<&str> = entry.split('/').collect();
        if let ["qdrant", address, "collections", name, file] = components.as_slice() {
            let place = format!("{}/collections/{name}", folder(address));
            let is_below = path.is_empty() || place == path || place.starts_with(&format!("{path}/"));
            if !is_below {
                return Ok(());
            }
            let part = all.entry(place).or_default();
            part.address = (*address).to_owned();
            let number = file.strip_prefix("shard-").and_then(|rest| rest.strip_suffix(".snapshot"));
            if let Some(shard) = number.and_then(|number| number.parse().ok()) {
                part.shards.insert(shard, (entry.clone(), listed.size));
            } else if *file == "collection.json" {
                part.description = Some(entry.clone());
            }
        }
        Ok(())
    })?;
    Ok(all)
}

/// Reads a collection's description.
pub(crate) fn describe(
    repo: &Repository,
    snapshot: &Snapshot,
    place: &str,
    part: &Part,
    monitor: &dyn Monitor,
) -> Result<Description> {
    let malformed = |why: String| Error::Malformed { what: format!("{place}/collection.json"), why };
    let path = part.description.as_ref().ok_or_else(|| malformed("it is not in the snapshot".into()))?;
    let mut bytes = vec![];
    dump(repo, snapshot, path.as_bytes(), &mut bytes, monitor)?;
    let mut description: Description =
        serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    if description.name.is_empty() {
        let component = place.rsplit('/').next().unwrap_or_default();
        description.name = decoded(component).ok_or_else(|| malformed("it has no name".into()))?;
    }
    Ok(description)
}
