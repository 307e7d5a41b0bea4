//! Snapshots that were made on a server and may stay there: a file in a folder of this machine remembers each, from before it
//! is asked for until it is removed. Its lock says that somebody is at work on it. The name is the server's answer; of one
//! that did not come, the name is found by what was there before and by the time in it.

use crate::server::{Failed, Qdrant};
use chunkstore::private;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{File, read_dir, remove_file};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

/// The folder, in the scratch folder.
const FOLDER: &str = "qdrant";
/// How long after it was asked for a snapshot may have begun.
const BEGINS_WITHIN: SignedDuration = SignedDuration::from_secs(10);
/// How long one that was asked for and has no name is looked for.
const SOUGHT: SignedDuration = SignedDuration::from_hours(24 * 7);

/// A snapshot on a server.
#[derive(Serialize, Deserialize)]
struct Leftover {
    address: String,
    collection: String,
    shard: u64,
    /// Empty until the server tells it.
    name: String,
    /// The snapshots that were there before it was asked for.
    #[serde(default)]
    before: BTreeSet<String>,
    /// The server's time then.
    #[serde(default)]
    asked: Option<Timestamp>,
}

/// The memory of a snapshot; its file is locked as long as this lives.
pub(super) struct Remembered {
    path: PathBuf,
    file: File,
    leftover: Leftover,
}

impl Remembered {
    /// Remembers a snapshot before the server is asked for it.
    pub(super) fn new(
        scratch: &Path,
        server: &Qdrant,
        collection: &str,
        shard: u64,
        (before, asked): (BTreeSet<String>, Option<Timestamp>),
    ) -> std::io::Result<Self> {
        let (address, collection) = (server.address.clone(), collection.to_owned());
        let leftover = Leftover { address, collection, shard, name: String::new(), before, asked };
        let folder = scratch.join(FOLDER);
        private::folder(&folder)?;
        let own = format!("{}/{}/{shard}", leftover.address, leftover.collection);
        // Others of this machine may be at work on the same shard, and what was left before is remembered, too.
        let hash =
            |number: u32| blake3::hash(format!("{own}/{}/{number}", std::process::id()).as_bytes()).to_hex();
        let mut paths = (0..u32::MAX).map(|number| folder.join(format!("{}.json", hash(number))));
        let path = paths.find(|path| !path.exists()).ok_or(std::io::ErrorKind::AlreadyExists)?;
        let file = private::create(&path)?;
        file.lock()?;
        let mut remembered = Self { path, file, leftover };
        remembered.write()?;
        Ok(remembered)
    }

    fn write(&mut self) -> std::io::Result<()> {
        self.file.rewind()?;
        self.file.set_len(0)?;
        self.file.write_all(&serde_json::to_vec(&self.leftover)?)
    }

    /// The server told its name.
    pub(super) fn named(&mut self, name: &str) -> std::io::Result<()> {
        name.clone_into(&mut self.leftover.name);
        self.write()
    }

    /// It is removed from the server, or never was there.
    pub(super) fn forget(self) {
        let _ = remove_file(&self.path);
    }
}

/// What became of a leftover.
enum Fate {
    Gone,
    Later,
}

impl Leftover {
    /// Whether a name is that of a snapshot of this shard that began when this one was asked for. The time in it is UTC.
    /// Source: `create_shard_snapshot` in `lib/collection/src/shards/shard_holder/mod.rs` of Qdrant's repository.
    fn is_named(&self, name: &str) -> bool {
        let head = format!("{}-shard-{}-", self.collection, self.shard);
        let time = name.strip_prefix(&head).and_then(|rest| rest.get(..19));
        let time = time.and_then(|time| DateTime::strptime("%Y-%m-%d-%H-%M-%S", time).ok());
        let time = time.and_then(|time| Some(time.to_zoned(TimeZone::UTC).ok()?.timestamp()));
        let (Some(time), Some(asked)) = (time, self.asked) else { return false };
        let later = time.duration_since(asked);
        -SignedDuration::from_secs(1) <= later && later <= BEGINS_WITHIN
    }

    fn remove(&self, server: &Qdrant) -> Result<Fate, Failed> {
        if !self.name.is_empty() {
            return server.delete_snapshot(&self.collection, self.shard, &self.name).map(|()| Fate::Gone);
        }
        let (names, now) = match server.snapshots(&self.collection, self.shard) {
            Err(Failed { status: Some(404), .. }) => return Ok(Fate::Gone),
            found => found?,
        };
        let mut own = names.difference(&self.before).filter(|name| self.is_named(name));
        match (own.next(), own.next()) {
            (Some(name), None) => {
                server.delete_snapshot(&self.collection, self.shard, name).map(|()| Fate::Gone)
            }
            // One of them is somebody else's.
            (Some(one), Some(_)) => {
                tracing::warn!(
                    "of collection '{}', {one} or one beside it may be of an earlier run",
                    self.collection
                );
                Ok(Fate::Gone)
            }
            _ => match (self.asked, now) {
                (Some(asked), Some(now)) if now.duration_since(asked) < SOUGHT => Ok(Fate::Later),
                _ => Ok(Fate::Gone),
            },
        }
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
        match left.remove(server) {
            Ok(Fate::Gone) => drop(remove_file(&path)),
            Ok(Fate::Later) => {}
            Err(failed) => {
                tracing::warn!(error = %failed.error, "snapshot {} of an earlier run stays on the server", left.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_whose_name_did_not_come_is_known_by_its_time() {
        let left = Leftover {
            address: String::new(),
            collection: "a-shard-0".into(),
            shard: 1,
            name: String::new(),
            before: BTreeSet::new(),
            asked: Some("2026-03-01T10:00:05Z".parse().unwrap()),
        };
        for name in [
            "a-shard-0-shard-1-2026-03-01-10-00-05.snapshot",
            "a-shard-0-shard-1-2026-03-01-10-00-04.snapshot",
            "a-shard-0-shard-1-2026-03-01-10-00-12.snapshot",
        ] {
            assert!(left.is_named(name), "{name}");
        }
        for name in [
            "a-shard-0-shard-1-2026-03-01-10-00-01.snapshot",
            "a-shard-0-shard-1-2026-03-01-10-00-16.snapshot",
            "a-shard-0-shard-2-2026-03-01-10-00-05.snapshot",
            "a-shard-0-shard-1-by-hand.snapshot",
            "other.snapshot",
        ] {
            assert!(!left.is_named(name), "{name}");
        }
        assert!(!Leftover { asked: None, ..left }.is_named("a-shard-0-shard-1-2026-03-01-10-00-05.snapshot"));
    }
}
