//! Collections of a snapshot into a running Qdrant: each is created as it was configured, its shards are
//! uploaded, its aliases set.

use super::dump::dump;
use crate::manifest::for_all_entries;
use crate::qdrant::Qdrant;
use crate::snapshot::Snapshot;
use crate::{Error, Monitor, Repository, Result};
use serde_json::Value;
use std::collections::BTreeMap;

/// Choices for a restore into Qdrant.
#[derive(Clone, Debug, Default)]
pub struct QdrantOptions {
    /// Only these collections; all if empty.
    pub collections: Vec<String>,
    /// Collections that shall be called something else.
    pub renames: BTreeMap<String, String>,
    /// Remove collections that are there.
    pub replace: bool,
    /// Whose points count where there are several replicas: `snapshot`, `replica` or `no_sync`.
    pub priority: String,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QdrantReport {
    /// Collections, by the names they have now, and their points.
    pub collections: BTreeMap<String, u64>,
    /// Shards uploaded.
    pub shards: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// A collection in a snapshot.
#[derive(Default)]
struct Stored {
    description: Option<String>,
    /// Shards, their paths and sizes.
    shards: BTreeMap<u64, (String, u64)>,
}

/// Writes collections of `snapshot` into `server`.
pub fn restore(
    repo: &Repository,
    snapshot: &Snapshot,
    server: &Qdrant,
    options: &QdrantOptions,
    monitor: &dyn Monitor,
) -> Result<QdrantReport> {
    repo.sync_index(monitor)?;
    let mut stored = collections(repo, snapshot)?;
    if !options.collections.is_empty() {
        if let Some(missing) = options.collections.iter().find(|name| !stored.contains_key(*name)) {
            return Err(Error::Invalid(format!("there is no collection '{missing}' in this snapshot")));
        }
        stored.retain(|name, _| options.collections.contains(name));
    }
    if stored.is_empty() {
        return Err(Error::Invalid("there is no Qdrant collection in this snapshot".into()));
    }
    // All are looked at before the first is touched.
    let new_name = |name: &String| options.renames.get(name).unwrap_or(name).clone();
    let mut there = vec![];
    for name in stored.keys().map(new_name) {
        if server.collection(&name)?.is_some() {
            there.push(name);
        }
    }
    if !there.is_empty() && !options.replace {
        return Err(Error::Refused(format!(
            "there already: {}; --replace removes them first, --rename OLD=NEW gives other names",
            there.join(", ")
        )));
    }
    let mut report = QdrantReport::default();
    for (name, collection) in &stored {
        let wanted = new_name(name);
        if there.contains(&wanted) {
            server.delete_collection(&wanted)?;
        }
        let description = describe(repo, snapshot, name, collection, monitor)?;
        server.create_collection(&wanted, &description["config"])?;
        for (shard, (path, len)) in &collection.shards {
            upload(repo, snapshot, server, &wanted, (*shard, path, *len), name, options, monitor)?;
            report.shards += 1;
            report.bytes += len;
        }
        for alias in description["aliases"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            // Under another name it is a copy, and the alias stays where it is.
            if wanted == *name {
                server.create_alias(alias, &wanted)?;
            }
        }
        report.collections.insert(wanted.clone(), server.count(&wanted)?);
    }
    Ok(report)
}

/// The collections of a snapshot.
fn collections(repo: &Repository, snapshot: &Snapshot) -> Result<BTreeMap<String, Stored>> {
    let mut all: BTreeMap<String, Stored> = BTreeMap::new();
    for_all_entries(repo.store(), &snapshot.manifest, &mut |listed| {
        let path = String::from_utf8_lossy(&listed.entry.path).into_owned();
        let parts: Vec<&str> = path.split('/').collect();
        if let ["qdrant", _, "collections", name, file] = parts.as_slice() {
            let collection = all.entry((*name).to_owned()).or_default();
            let number = file.strip_prefix("shard-").and_then(|rest| rest.strip_suffix(".snapshot"));
            if let Some(shard) = number.and_then(|number| number.parse().ok()) {
                collection.shards.insert(shard, (path.clone(), listed.size));
            } else if *file == "collection.json" {
                collection.description = Some(path.clone());
            }
        }
        Ok(())
    })?;
    Ok(all)
}

fn describe(
    repo: &Repository,
    snapshot: &Snapshot,
    name: &str,
    collection: &Stored,
    monitor: &dyn Monitor,
) -> Result<Value> {
    let what = || format!("description of collection '{name}'");
    let path = collection
        .description
        .as_ref()
        .ok_or_else(|| Error::Malformed { what: what(), why: "is not in the snapshot".into() })?;
    let mut bytes = vec![];
    dump(repo, snapshot, path.as_bytes(), &mut bytes, monitor)?;
    serde_json::from_slice(&bytes).map_err(|error| Error::Malformed { what: what(), why: error.to_string() })
}

#[expect(clippy::too_many_arguments, reason = "one call, and each is something else")]
fn upload(
    repo: &Repository,
    snapshot: &Snapshot,
    server: &Qdrant,
    collection: &str,
    (shard, path, len): (u64, &str, u64),
    stored_as: &str,
    options: &QdrantOptions,
    monitor: &dyn Monitor,
) -> Result<()> {
    let key = format!("sha256:{stored_as}/{shard}");
    let checksum = snapshot.sources.iter().find_map(|source| source.details.get(&key));
    let (reader, writer) = rustix::pipe::pipe().map_err(|error| Error::Target {
        op: "make",
        path: "a pipe".into(),
        source: error.into(),
    })?;
    std::thread::scope(|scope| {
        let dumping = scope.spawn(move || {
            let mut writer = std::fs::File::from(writer);
            dump(repo, snapshot, path.as_bytes(), &mut writer, monitor)
        });
        let reader = std::fs::File::from(reader);
        let sent =
            server.upload(collection, shard, reader, len, checksum.map(String::as_str), &options.priority);
        let dumped = dumping.join().unwrap_or_else(|_| Err(Error::Store(chunkstore::Error::WorkerPanicked)));
        // A server that refuses closes the pipe; its reason is the one to tell.
        sent?;
        dumped.map(drop)
    })
}
