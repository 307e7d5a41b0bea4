//! What is left of hosts that were revoked: what waited in their inboxes, and the answers to them. Nothing of it can be
//! admitted any more: no id of a host is given twice, and a later HEAD revokes more hosts, never fewer. So it needs no age, and
//! no second look at HEAD. Only `repair head` from an older copy may list such a host as before; it says so, and what was
//! removed here was of a host that somebody had given up.

use crate::{Monitor, Result};
use chunkstore::ObjectId;
use chunkstore::format::names;
use chunkstore::head::Head;
use chunkstore::storage::ErrorKind;
use chunkstore::store::ChunkStore;
use std::collections::BTreeMap;

/// Objects of revoked hosts: their names, and their lengths in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Revoked(BTreeMap<String, u64>);

impl Revoked {
    /// Lists them: no request as long as no host is revoked, else one for the inboxes, and one for the answers to each such host.
    pub(super) fn find(store: &ChunkStore, head: &Head) -> Result<Self> {
        let mut found = Self::default();
        let is_revoked = head.hosts.iter()?.filter(|host| host.revoked_ms.is_some());
        let hosts: Vec<ObjectId> = is_revoked.map(|host| host.id).collect();
        // A tier has no inbox.
        if hosts.is_empty() || store.tier().is_some() {
            return Ok(found);
        }
        // With the separator: no id is the beginning of another one, and this does not depend on it.
        let below = |folder: String| folder + "/";
        let inboxes: Vec<String> = hosts.iter().map(names::inbox).map(below).collect();
        let mut list = |folder: &str, owned: &[String]| {
            store.storage().list(folder, &mut |name, len| {
                if owned.iter().any(|folder| name.starts_with(folder.as_str())) {
                    found.0.insert(name.to_owned(), len);
                }
            })
        };
        list(names::INBOX, &inboxes).map_err(chunkstore::Error::from)?;
        for host in &hosts {
            let replies = format!("{}/{host}", names::REPLIES);
            list(&replies, &[below(replies.clone())]).map_err(chunkstore::Error::from)?;
        }
        Ok(found)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.0.values().sum()
    }

    /// Removes them. Who may not delete there leaves them, and says so: they are in nobody's way.
    pub(super) fn remove(&self, store: &ChunkStore, monitor: &dyn Monitor) -> Result<()> {
        for name in self.0.keys() {
            match store.storage().delete(name) {
                Err(error) if error.kind == ErrorKind::Denied => {
                    monitor.warning(&format!("what revoked hosts left stays in the store: {error}"));
                    return Ok(());
                }
                done => done.map_err(chunkstore::Error::from)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Tally;
    use crate::prune::{PruneOptions, prune};
    use crate::repository::{access_for_test, made_for_test};
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
        assert_eq!((run(false).revoked_objects, left(&again)), (0, 1));
    }
}
