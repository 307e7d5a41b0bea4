//! Snapshots that were made on a server and may stay there: a file in a folder of this machine remembers each until it is
//! removed. Its lock says that somebody is at work on it. One that a killed run was still waiting for has no name yet, and
//! stays: its name is the server's answer.

use crate::qdrant::Qdrant;
use serde::{Deserialize, Serialize};
use std::fs::{File, create_dir_all, read_dir, remove_file};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

/// The folder, in the scratch folder.
const FOLDER: &str = "qdrant";

/// A snapshot on a server.
#[derive(Serialize, Deserialize)]
struct Leftover {
    address: String,
    collection: String,
    shard: u64,
    name: String,
}

/// The memory of a snapshot; its file is locked as long as this lives.
pub(super) struct Remembered {
    path: PathBuf,
    _file: File,
}

impl Remembered {
    /// Remembers a snapshot before anything is done with it.
    pub(super) fn new(
        scratch: &Path,
        server: &Qdrant,
        collection: &str,
        shard: u64,
        name: &str,
    ) -> std::io::Result<Self> {
        let leftover = Leftover {
            address: server.address.clone(),
            collection: collection.to_owned(),
            shard,
            name: name.to_owned(),
        };
        let text = serde_json::to_vec(&leftover)?;
        let folder = scratch.join(FOLDER);
        create_dir_all(&folder)?;
        let path = folder.join(format!("{}.json", blake3::hash(&text).to_hex()));
        let mut file = File::create(&path)?;
        file.lock()?;
        file.write_all(&text)?;
        Ok(Self { path, _file: file })
    }

    /// It is removed from the server.
    pub(super) fn forget(self) {
        let _ = remove_file(&self.path);
    }
}

/// Removes what earlier runs left on this server; what cannot be removed is tried again the next time.
pub(super) fn remove(scratch: &Path, server: &Qdrant) {
    let files = read_dir(scratch.join(FOLDER)).into_iter().flatten().flatten();
    for path in files.map(|entry| entry.path()) {
        let Ok(mut file) = File::open(&path) else { continue };
        let mut text = vec![];
        if file.try_lock().is_err() || file.read_to_end(&mut text).is_err() {
            continue;
        }
        let Ok(left) = serde_json::from_slice::<Leftover>(&text) else { continue };
        if left.address != server.address {
            continue;
        }
        match server.delete_snapshot(&left.collection, left.shard, &left.name) {
            Ok(()) => drop(remove_file(&path)),
            Err(failed) => {
                tracing::warn!(error = %failed.error, "snapshot {} of an earlier run stays on the server", left.name);
            }
        }
    }
}
