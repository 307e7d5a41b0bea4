//! The layout of a Qdrant server's storage folder, as far as a backup needs it: collections, their shards, aliases, and
//! the locks that show a running server. This module does not write. Source: github.com/qdrant/qdrant, `lib/collection`
//! (folders and JSON files), `lib/wal/src/lib.rs` (the lock).

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// The folder of collections in a storage folder.
pub const COLLECTIONS: &str = "collections";
/// Where aliases stand in it.
pub const ALIASES: &str = "aliases/data.json";
/// The log of a cluster's consensus, which lies beside the collections.
const CONSENSUS_LOG: &str = "collections_meta_wal";
/// The log of a shard.
const SHARD_LOG: &str = "wal";

/// What a storage folder says about itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// Collections by name.
    pub collections: BTreeMap<String, Collection>,
    /// The server's version; only nodes of a cluster write it down.
    pub server: Option<String>,
}

/// One collection of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// Version of the collection's format.
    pub version: String,
    /// Shards whose points lie here.
    pub shards: Vec<u32>,
    /// Shards that other nodes of a cluster have.
    pub remote_shards: Vec<u32>,
    /// Its other names.
    pub aliases: Vec<String>,
}

/// Whether a folder may be a storage folder.
#[must_use]
pub fn is_storage(folder: &Path) -> bool {
    folder.join(COLLECTIONS).is_dir()
}

/// Why a folder cannot be read as a storage folder: the path and the reason.
pub type Unreadable = (PathBuf, String);

impl Storage {
    /// Reads the descriptions that lie in a storage folder, none of the points.
    pub fn read(root: &Path) -> Result<Self, Unreadable> {
        let mut storage = Self::default();
        for folder in folders(&root.join(COLLECTIONS))? {
            // The server takes a folder without a configuration for none.
            if json(&folder.join("config.json"))?.is_none() {
                continue;
            }
            let version = fs::read_to_string(folder.join("version.info")).unwrap_or_default();
            let mut collection = Collection { version: version.trim().to_owned(), ..Collection::default() };
            for shard in folders(&folder)? {
                let Ok(number) = name_of(&shard).parse() else { continue };
                match shard.join("segments").is_dir() {
                    true => collection.shards.push(number),
                    false => collection.remote_shards.push(number),
                }
            }
            collection.shards.sort_unstable();
            collection.remote_shards.sort_unstable();
            storage.collections.insert(name_of(&folder), collection);
        }
        let aliases = json(&root.join(ALIASES))?.unwrap_or_default();
        for (alias, collection) in aliases.as_object().into_iter().flatten() {
            let collection = collection.as_str().and_then(|name| storage.collections.get_mut(name));
            collection.into_iter().for_each(|collection| collection.aliases.push(alias.clone()));
        }
        let raft = json(&root.join("raft_state.json"))?.unwrap_or_default();
        let peer = raft["this_peer_id"].to_string();
        storage.server = raft["peer_metadata_by_id"][&peer]["version"].as_str().map(str::to_owned);
        Ok(storage)
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn folders(path: &Path) -> Result<Vec<PathBuf>, Unreadable> {
    let failed = |error: io::Error| (path.to_owned(), error.to_string());
    let mut found = vec![];
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// A file of JSON; `None` if there is none.
fn json(path: &Path) -> Result<Option<Value>, Unreadable> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| (path.to_owned(), error.to_string()))?,
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| (path.to_owned(), format!("is no JSON: {error}")))
}

/// The log that a running server holds, if there is one: for as long as it runs, it has each of its logs' folders locked
/// by flock(2). The lock is looked for and let go at once, so that a server may start meanwhile.
pub fn held_log(root: &Path) -> io::Result<Option<PathBuf>> {
    let mut logs = vec![root.join(CONSENSUS_LOG)];
    for collection in listed(&root.join(COLLECTIONS))? {
        logs.extend(listed(&collection)?.into_iter().map(|shard| shard.join(SHARD_LOG)));
    }
    for log in logs {
        match File::open(&log) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", log.display()))),
            // A file system that knows no locks tells nothing: what changes while it is read does.
            Ok(folder) => {
                if let Err(TryLockError::WouldBlock) = folder.try_lock_shared() {
                    return Ok(Some(log));
                }
            }
        }
    }
    Ok(None)
}

/// What a folder holds; nothing if it is none.
fn listed(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(vec![])
        }
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// Everything beneath a folder, by path relative to it; symbolic links are not followed. Nothing if it is not there.
pub fn tree(root: &Path) -> Result<BTreeMap<PathBuf, Metadata>, Unreadable> {
    let (mut found, mut pending) = (BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(folder) = pending.pop() {
        let path = root.join(&folder);
        for entry in listed(&path).map_err(|error| (path.clone(), error.to_string()))? {
            let metadata =
                fs::symlink_metadata(&entry).map_err(|error| (entry.clone(), error.to_string()))?;
            let relative = folder.join(entry.file_name().unwrap_or_default());
            if metadata.is_dir() {
                pending.push(relative.clone());
            }
            found.insert(relative, metadata);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_folder_says() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("raft_state.json", r#"{"this_peer_id": 7, "peer_metadata_by_id": {"7": {"version": "1.18.3"}}}"#);
        put(ALIASES, r#"{"current": "things", "lost": "gone"}"#);
        put("collections/things/config.json", "{}");
        put("collections/things/version.info", "0.4.2\n");
        put("collections/things/10/segments/s/version.info", "0.6.0");
        put("collections/things/2/segments/s/version.info", "0.6.0");
        put("collections/things/1/replica_state.json", "{}");
        put("collections/rubbish/0/segments/s/version.info", "0.6.0");
        let storage = Storage::read(root.path()).unwrap();
        let things = Collection {
            version: "0.4.2".into(),
            shards: vec![2, 10],
            remote_shards: vec![1],
            aliases: vec!["current".into()],
        };
        assert_eq!(storage.collections, BTreeMap::from([("things".into(), things)]));
        assert_eq!(storage.server.as_deref(), Some("1.18.3"));
        put(ALIASES, "{");
        assert!(Storage::read(root.path()).unwrap_err().1.contains("no JSON"));
    }

    #[test]
    fn logs_that_are_held() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(held_log(root.path()).unwrap(), None);
        for log in ["collections/things/3/wal", CONSENSUS_LOG] {
            let log = root.path().join(log);
            fs::create_dir_all(&log).unwrap();
            let server = File::open(&log).unwrap();
            server.lock().unwrap();
            assert_eq!(held_log(root.path()).unwrap(), Some(log));
            drop(server);
            assert_eq!(held_log(root.path()).unwrap(), None);
        }
    }
}
