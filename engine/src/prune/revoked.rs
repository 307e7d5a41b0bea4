//! What is left of hosts that were revoked: what waited in their inboxes, and the answers to them. Nothing of it can be
//! admitted any more: no id of a host is given twice, and a later HEAD revokes more hosts, never fewer. So it needs no age, and
//! no second look at HEAD. Only `repair head` from an older copy may list such a host as before; it says so, and what was
//! removed here was of a host that somebody had given up.

use crate::{Error, Monitor, Result};
use chunkstore::format::names;
use chunkstore::head::Head;
use chunkstore::storage::{ErrorKind, StorageError};
use chunkstore::store::ChunkStore;

/// So many names are in memory while objects are removed.
const BATCH: usize = 100_000;

/// Objects of revoked hosts, counted: there can be any number of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Revoked {
    /// Folders that have some, and how many.
    folders: Vec<(String, u64)>,
    bytes: u64,
}

impl Revoked {
    /// Counts them: no request as long as no host is revoked, else two listings for each such host.
    pub(super) fn find(store: &ChunkStore, head: &Head, monitor: &dyn Monitor) -> Result<Self> {
        let mut found = Self::default();
        // A tier has no inbox.
        if store.tier().is_some() {
            return Ok(found);
        }
        for host in head.hosts.iter()?.filter(|host| host.revoked_ms.is_some()) {
            for folder in [names::inbox(&host.id), format!("{}/{}", names::REPLIES, host.id)] {
                let mut count = 0;
                let beyond = list(store, &folder, &mut |_, len| {
                    count += 1;
                    found.bytes = found.bytes.saturating_add(len);
                })?;
                if let Some(error) = beyond {
                    monitor.warning(&format!(
                        "what revoked host '{}' left cannot all be removed: {error}; remove that object with the store's own tools",
                        host.name
                    ));
                }
                if count > 0 {
                    found.folders.push((folder, count));
                }
            }
        }
        Ok(found)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.folders.iter().map(|(_, count)| count).sum()
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Removes them. Who may not delete there leaves them, and says so: they are in nobody's way.
    pub(super) fn remove(&self, store: &ChunkStore, monitor: &dyn Monitor) -> Result<()> {
        for (folder, count) in &self.folders {
            match remove_all(store, folder, *count, BATCH, monitor) {
                Err(Error::Store(chunkstore::Error::Storage(error))) if error.kind == ErrorKind::Denied => {
                    monitor.warning(&format!("what revoked hosts left stays in the store: {error}"));
                    return Ok(());
                }
                done => done?,
            }
        }
        Ok(())
    }
}

/// Removes what lies below a folder, where `count` objects were seen, in batches: about so many, since somebody may go on to
/// write there.
fn remove_all(
    store: &ChunkStore,
    folder: &str,
    count: u64,
    batch: usize,
    monitor: &dyn Monitor,
) -> Result<()> {
    let mut removed = 0;
    while removed < count {
        let mut names = vec![];
        list(store, folder, &mut |name, _| {
            if names.len() < batch {
                names.push(name.to_owned());
            }
        })?;
        if names.is_empty() {
            break;
        }
        for name in &names {
            store.storage().delete(name).map_err(chunkstore::Error::from)?;
            removed += 1;
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
    }
    Ok(())
}

/// Lists a folder. If it has more objects than a listing may have, the first of them are listed; so are those before a name that
/// is no object's or a folder that is somebody else's, of which the error that is returned tells.
fn list(store: &ChunkStore, folder: &str, each: &mut dyn FnMut(&str, u64)) -> Result<Option<StorageError>> {
    // With the separator: no id is the beginning of another one, and this does not depend on it.
    let below = format!("{folder}/");
    let listed = store.storage().list(folder, &mut |name, len| {
        if name.starts_with(&below) {
            each(name, len);
        }
    });
    match listed {
        Err(error) if error.kind == ErrorKind::TooMany => Ok(None),
        Err(error) if matches!(error.kind, ErrorKind::BadName | ErrorKind::Denied) => Ok(Some(error)),
        listed => Ok(listed.map(|()| None).map_err(chunkstore::Error::from)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Tally;
    use crate::prune::{PruneOptions, prune};
    use crate::repository::{access_for_test, made_for_test};
    use chunkstore::ObjectId;
    use chunkstore::env::SeededEnv;
    use chunkstore::storage::Storage as _;
    use chunkstore::storage::memory::MemoryStorage;
    use std::sync::Arc;

    #[test]
    fn what_revoked_hosts_left_goes_and_nothing_of_others() {
        let disk = Arc::new(MemoryStorage::default());
        let access = access_for_test(Arc::clone(&disk) as _, Arc::new(SeededEnv::new(1)));
        let repo = made_for_test(access);
        let add = |name: &str| repo.store().add_host(name, "memory").unwrap().keys.host;
        let (gone, stays) = (add("gone"), add("stays"));
        let unknown = ObjectId([9; 32]);
        for host in [gone, stays, unknown] {
            let inbox = names::inbox(&host);
            for name in [
                names::begun(&host, 1),
                names::commit(&host, 1),
                format!("{inbox}/stray"),
                names::reply(&host, 1),
            ] {
                disk.put(&name, bytes::Bytes::from_static(b"12345")).unwrap();
            }
        }
        let left = |host: &ObjectId| {
            let of = |name: &&String| name.contains(&host.to_string());
            disk.objects().keys().filter(of).count()
        };
        let run = |dry_run| {
            prune(&repo, &PruneOptions { dry_run, ..PruneOptions::default() }, &Tally::default()).unwrap()
        };
        assert_eq!((run(false).revoked_objects, left(&gone)), (0, 5), "with its greeting");
        repo.store().revoke_host("gone").unwrap();
        let plan = run(true);
        assert_eq!((plan.revoked_objects, plan.revoked_bytes, left(&gone)), (4, 20, 4), "a dry run counts");
        let plan = run(false);
        assert_eq!((plan.revoked_objects, plan.revoked_bytes, left(&gone)), (4, 20, 0));
        assert_eq!((left(&stays), left(&unknown)), (5, 4));
        // The host of the same name that was added later has another id, and keeps what it brings.
        let again = add("gone");
        disk.put(&names::begun(&again, 1), bytes::Bytes::from_static(b"x")).unwrap();
        assert_eq!((run(false).revoked_objects, left(&again)), (0, 2), "with its greeting");
    }

    #[test]
    fn a_folder_is_emptied_in_batches_as_far_as_it_was_counted() {
        let disk = Arc::new(MemoryStorage::default());
        let repo = made_for_test(access_for_test(Arc::clone(&disk) as _, Arc::new(SeededEnv::new(1))));
        let host = ObjectId([9; 32]);
        (0..10).for_each(|run| disk.put(&names::begun(&host, run), bytes::Bytes::from_static(b"x")).unwrap());
        let folder = names::inbox(&host);
        let left = |count, batch| {
            remove_all(repo.store(), &folder, count, batch, &Tally::default()).unwrap();
            disk.objects().keys().filter(|name| name.starts_with(&folder)).count()
        };
        assert_eq!(left(4, 2), 6);
        // What came after the count is left to the next prune, what went before it is no error.
        assert_eq!(left(3, 2), 2);
        assert_eq!(left(9, 2), 0);
    }
}
