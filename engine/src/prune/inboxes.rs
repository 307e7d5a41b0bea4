//! What nobody needs in the inboxes of hosts.
//!
//! Of hosts that were revoked: what waited in their inboxes, and the answers to them. Nothing of it can be
//! admitted any more: no id of a host is given twice, and a later HEAD revokes more hosts, never fewer. So it needs no age, and
//! no second look at HEAD. Only `repair head` from an older copy may list such a host as before; it says so, and what was
//! removed here was of a host that somebody had given up.
//!
//! Of other hosts: what has names that no host gives to anything, empty folders, and what interrupted uploads left of runs that
//! are over. Whoever may write there chooses the names, so a removal may fail for each of them.

use crate::{Error, Monitor, Result};
use chunkstore::ObjectId;
use chunkstore::format::names;
use chunkstore::head::{Head, Host};
use chunkstore::inbox::runs::{is_folder, is_stray};
use chunkstore::storage::{ErrorKind, StorageError};
use chunkstore::store::ChunkStore;
use std::collections::HashSet;

/// So many names are in memory while objects are removed.
const BATCH: usize = 100_000;

/// A host is left alone once so many of its objects could not be removed: each costs a request.
const MOST_STUCK: usize = 1000;

/// Objects, counted: there can be any number of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) objects: u64,
    pub(super) bytes: u64,
}

/// A folder that has something to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Folder {
    path: String,
    /// The host, for people.
    host: String,
    /// What is removed of it: all, or what is of no run of the host, whose last settled one it is.
    only: Option<(ObjectId, u64)>,
    /// Names that were listed, those of empty folders too.
    names: u64,
}

impl Folder {
    fn has(&self, name: &str) -> bool {
        self.only.is_none_or(|(host, settled)| is_stray(&host, settled, name))
    }
}

/// What is to be removed in inboxes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inboxes {
    folders: Vec<Folder>,
    /// Of revoked hosts.
    pub(super) revoked: Counted,
    /// Of the others.
    pub(super) strays: Counted,
}

impl Inboxes {
    /// Counts it: a listing for each host, two if it was revoked.
    pub(super) fn find(store: &ChunkStore, head: &Head, monitor: &dyn Monitor) -> Result<Self> {
        let mut found = Self::default();
        // A tier has no inbox.
        if store.tier().is_some() {
            return Ok(found);
        }
        for host in head.hosts.iter()? {
            let Host { id, name, run, revoked_ms, .. } = host;
            let paths = [names::inbox(id), format!("{}/{id}", names::REPLIES)];
            let only = revoked_ms.is_none().then_some((*id, *run));
            for path in paths.into_iter().take(if only.is_some() { 1 } else { 2 }) {
                let mut folder = Folder { path, host: name.clone(), only, names: 0 };
                let (mut listed, mut counted) = (0, Counted::default());
                let beyond = list(store, &folder.path, &mut |name, len| {
                    if folder.has(name) {
                        listed += 1;
                        counted.objects += u64::from(!is_folder(name, len));
                        counted.bytes = counted.bytes.saturating_add(len);
                    }
                })?;
                match beyond {
                    // Whoever only prunes may have no right to look; an admission says so.
                    Some(error) if only.is_some() && error.kind == ErrorKind::Denied => {
                        tracing::debug!(%error, "an inbox is not looked at");
                    }
                    Some(error) => monitor.warning(&format!(
                        "what host '{name}' left cannot all be removed: {error}; remove that object with the store's own tools"
                    )),
                    None => {}
                }
                let total = if only.is_some() { &mut found.strays } else { &mut found.revoked };
                total.objects += counted.objects;
                total.bytes = total.bytes.saturating_add(counted.bytes);
                folder.names = listed;
                if listed > 0 {
                    found.folders.push(folder);
                }
            }
        }
        Ok(found)
    }

    /// Removes it. What cannot be removed stays, and is told once for each folder: it is in nobody's way.
    pub(super) fn remove(&self, store: &ChunkStore, monitor: &dyn Monitor) -> Result<()> {
        for folder in &self.folders {
            let (stuck, why) = remove_all(store, folder, BATCH, monitor)?;
            if let Some(error) = why {
                monitor.warning(&format!(
                    "host '{}': {} below {} cannot be removed: {error}; remove what is there with the store's own tools",
                    folder.host,
                    crate::shown::counted(stuck.len(), "object"),
                    folder.path
                ));
            }
        }
        Ok(())
    }
}

/// Removes what is to be removed below a folder, in batches: about as many as were seen, since somebody may go on to
/// write there. Returns the names that could not be removed, and why the first of them could not.
fn remove_all(
    store: &ChunkStore,
    folder: &Folder,
    batch: usize,
    monitor: &dyn Monitor,
) -> Result<(HashSet<String>, Option<StorageError>)> {
    let (mut removed, mut stuck, mut why) = (0, HashSet::new(), None);
    while removed < folder.names {
        let mut names = vec![];
        list(store, &folder.path, &mut |name, _| {
            if names.len() < batch && folder.has(name) && !stuck.contains(name) {
                names.push(name.to_owned());
            }
        })?;
        if names.is_empty() {
            break;
        }
        for name in names {
            removed += 1;
            match store.storage().delete(&name) {
                Err(error) if matches!(error.kind, ErrorKind::BadName | ErrorKind::Denied) => {
                    stuck.insert(name);
                    why.get_or_insert(error);
                    if stuck.len() >= MOST_STUCK {
                        return Ok((stuck, why));
                    }
                }
                done => done.map_err(chunkstore::Error::from)?,
            }
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
    }
    if folder.only.is_none() && stuck.is_empty() && folder.path.starts_with(names::INBOX) {
        // The folder of the host, where the store has folders. Somebody who goes on to write there keeps it.
        if let Err(error) = store.storage().delete(&format!("{}/", folder.path)) {
            tracing::debug!(%error, "the folder of a revoked host stays");
        }
    }
    Ok((stuck, why))
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
    use chunkstore::storage::local::LocalStorage;
    use chunkstore::storage::memory::MemoryStorage;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;
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
                names::reply(&host, 1),
                format!("{inbox}/stray"),
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
        let plan = run(false);
        assert_eq!((plan.revoked_objects, plan.stray_objects, plan.stray_bytes), (0, 2, 10));
        assert_eq!(left(&gone), 4, "with its greeting");
        let stray = format!("{}/stray", names::inbox(&gone));
        disk.put(&stray, bytes::Bytes::from_static(b"12345")).unwrap();
        repo.store().revoke_host("gone").unwrap();
        let plan = run(true);
        assert_eq!((plan.revoked_objects, plan.revoked_bytes, left(&gone)), (4, 20, 4), "a dry run counts");
        let plan = run(false);
        assert_eq!((plan.revoked_objects, plan.revoked_bytes, left(&gone)), (4, 20, 0));
        assert_eq!((left(&stays), left(&unknown)), (4, 4));
        // The host of the same name that was added later has another id, and keeps what it brings.
        let again = add("gone");
        disk.put(&names::begun(&again, 1), bytes::Bytes::from_static(b"x")).unwrap();
        assert_eq!((run(false).revoked_objects, left(&again)), (0, 2), "with its greeting");
    }

    /// On a disk, where names need be no text, and folders can be empty.
    #[test]
    fn what_no_host_brings_goes_and_what_one_at_work_brings_stays() {
        let root = tempfile::tempdir().unwrap();
        let disk = Arc::new(LocalStorage::create(root.path(), false).unwrap());
        let repo = made_for_test(access_for_test(Arc::clone(&disk) as _, Arc::new(SeededEnv::new(1))));
        let add = |name: &str| repo.store().add_host(name, "folder").unwrap().keys.host;
        let (gone, stays) = (add("gone"), add("stays"));
        for host in [gone, stays] {
            let (begun, inbox) = (names::begun(&host, 1), root.path().join(names::inbox(&host)));
            disk.put(&begun, bytes::Bytes::from_static(b"12345")).unwrap();
            fs::write(root.path().join(format!("{begun}#ab-1")), "12345").unwrap();
            for name in [&b"\xff"[..], b"a#b", b"100%"] {
                fs::write(inbox.join(OsStr::from_bytes(name)), "12345").unwrap();
            }
            fs::create_dir_all(inbox.join("00000000000000000002/empty")).unwrap();
            symlink("../../packs", inbox.join("link")).unwrap();
        }
        let tally = Tally::default();
        crate::admit::admit(&repo, &crate::admit::AdmitOptions::default(), &tally).unwrap();
        let notes = tally.notes();
        assert!(
            notes.len() == 2 && notes.iter().all(|note| note.contains("4 objects that no host brings")),
            "{notes:?}"
        );
        repo.store().revoke_host("gone").unwrap();
        let run = |dry_run| {
            let tally = Tally::default();
            let plan = prune(&repo, &PruneOptions { dry_run, ..PruneOptions::default() }, &tally).unwrap();
            assert!(tally.notes().is_empty(), "{:?}", tally.notes());
            (plan.stray_objects, plan.revoked_objects)
        };
        let left = || {
            let mut left = vec![];
            disk.list(names::INBOX, &mut |name, _| left.push(name.to_owned())).unwrap();
            left.sort();
            left
        };
        let before = left();
        assert_eq!((run(true), left()), ((4, 6), before));
        assert_eq!(run(false), (4, 6));
        let begun = names::begun(&stays, 1);
        assert_eq!(left(), [begun.clone(), format!("{begun}#ab-1")]);
        assert!(!root.path().join(names::inbox(&gone)).exists(), "an empty folder");
        assert_eq!(run(false), (0, 0));
    }

    /// What cannot be removed is said once for each host, and keeps nobody from anything.
    #[test]
    fn what_cannot_be_removed_is_told_once() {
        struct Locked(Arc<MemoryStorage>);
        impl chunkstore::storage::Storage for Locked {
            fn delete(&self, name: &str) -> chunkstore::storage::StorageResult<()> {
                if name.contains("locked") {
                    let (kind, op, object) = (ErrorKind::Denied, "delete", name.to_owned());
                    return Err(StorageError { kind, op, object, source: "locked".into() });
                }
                self.0.delete(name)
            }
            chunkstore::forward!(self => self.0; place put replace get len list get_range stream_range leftovers
                read_versioned swap connections is_near keeps_copies written_ms copies shelf);
        }
        let disk = Arc::new(MemoryStorage::default());
        let locked = Arc::new(Locked(Arc::clone(&disk)));
        let repo = made_for_test(access_for_test(locked as _, Arc::new(SeededEnv::new(1))));
        let hosts = ["one", "two"].map(|name| repo.store().add_host(name, "memory").unwrap().keys.host);
        for host in &hosts {
            for name in ["a", "locked1", "locked2", "z"] {
                let name = format!("{}/{name}", names::inbox(host));
                disk.put(&name, bytes::Bytes::from_static(b"x")).unwrap();
            }
        }
        let tally = Tally::default();
        prune(&repo, &PruneOptions::default(), &tally).unwrap();
        let notes = tally.notes();
        assert!(notes.len() == 2 && notes.iter().all(|note| note.contains("2 objects")), "{notes:?}");
        let objects = disk.objects();
        let left: Vec<_> = objects.keys().filter(|name| name.starts_with(names::INBOX)).collect();
        assert!(left.len() == 4 && left.iter().all(|name| name.contains("locked")), "{left:?}");
    }

    #[test]
    fn a_folder_is_emptied_in_batches_as_far_as_it_was_counted() {
        let disk = Arc::new(MemoryStorage::default());
        let repo = made_for_test(access_for_test(Arc::clone(&disk) as _, Arc::new(SeededEnv::new(1))));
        let host = ObjectId([9; 32]);
        (0..10).for_each(|run| disk.put(&names::begun(&host, run), bytes::Bytes::from_static(b"x")).unwrap());
        let path = names::inbox(&host);
        let left = |names, batch| {
            let folder = Folder { path: path.clone(), host: "gone".into(), only: None, names };
            remove_all(repo.store(), &folder, batch, &Tally::default()).unwrap();
            disk.objects().keys().filter(|name| name.starts_with(&path)).count()
        };
        assert_eq!(left(4, 2), 6);
        // What came after the count is left to the next prune, what went before it is no error.
        assert_eq!(left(3, 2), 2);
        assert_eq!(left(9, 2), 0);
    }
}
