//! What somebody can do who may write below his folder of `inbox/`, where the store is a folder.

use super::*;
use chunkstore::storage::StorageResult;
use chunkstore::storage::local::LocalStorage;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

/// A store in a folder, where at the first removal of something in an inbox a link takes the place of a folder.
struct Swapped {
    local: LocalStorage,
    /// The folder, and where the link leads.
    swap: Mutex<Option<(PathBuf, PathBuf)>>,
}

impl chunkstore::storage::Storage for Swapped {
    fn delete(&self, name: &str) -> StorageResult<()> {
        if name.starts_with(names::INBOX)
            && let Some((folder, target)) = self.swap.lock().unwrap().take()
        {
            fs::rename(&folder, folder.with_extension("away")).unwrap();
            std::os::unix::fs::symlink(target, folder).unwrap();
        }
        self.local.delete(name)
    }
    chunkstore::forward!(self => self.local; place put replace get len list get_range stream_range leftovers
        read_versioned swap connections is_near keeps_copies written_ms copies shelf);
}

#[test]
fn a_link_in_the_place_of_a_run_leads_no_removal_to_the_packs() {
    let root = tempfile::tempdir().unwrap();
    let local = LocalStorage::create(root.path(), false).unwrap();
    let store = Arc::new(Swapped { local, swap: Mutex::default() });
    let mut thief = Thief::on(Arc::default(), Arc::clone(&store) as _);
    let brought = |thief: &Thief| {
        let objects = thief.disk.objects().clone();
        for (name, bytes) in objects {
            store.put(&name, bytes).unwrap();
            thief.disk.delete(&name).unwrap();
        }
    };
    let chunk = (thief.id(b"what counts"), &b"what counts"[..]);
    thief.bring(&[chunk], &[chunk], |_, _| ());
    brought(&thief);
    assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
    let mut packs = vec![];
    store.list(names::PACKS, &mut |name, _| packs.push(name.to_owned())).unwrap();
    assert!(packs.len() >= 2, "{packs:?}");
    let session = root.path().join(&packs[0]).parent().unwrap().to_owned();
    let second = (thief.id(b"more"), &b"more"[..]);
    thief.bring(&[second], &[second], |_, _| ());
    let run = names::run(&thief.bundle.keys.host, thief.run);
    for pack in &packs {
        let id = pack.rsplit('/').next().unwrap();
        store.put(&format!("{run}/{id}"), bytes::Bytes::from_static(b"of this name")).unwrap();
    }
    let kept = format!("{run}/notes.txt");
    store.put(&kept, bytes::Bytes::from_static(b"no object of a run")).unwrap();
    brought(&thief);
    *store.swap.lock().unwrap() = Some((root.path().join(&run), session));
    assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
    assert!(store.swap.lock().unwrap().is_none(), "it was swapped");
    for pack in &packs {
        store.len(pack).unwrap_or_else(|error| panic!("{error}"));
    }
    let all = crate::verify::ReadData::All;
    assert_eq!(crate::verify::check(&thief.repo, all, &Tally::default()).unwrap().num_errors, 0);
    // What is of no run stays, whatever its folder.
    fs::remove_file(root.path().join(&run)).unwrap();
    fs::rename(root.path().join(&run).with_extension("away"), root.path().join(&run)).unwrap();
    assert_eq!(thief.admit(), []);
    let mut left = vec![];
    store.list(names::INBOX, &mut |name, _| left.push(name.to_owned())).unwrap();
    assert_eq!(left, [kept]);
    // A prune removes it, with what was above it.
    crate::prune::prune(&thief.repo, &crate::prune::PruneOptions::default(), &Tally::default()).unwrap();
    assert!(!root.path().join(&run).exists() && root.path().join(names::INBOX).exists());
}

/// What lies in the place of an object of a run and is no file is no run: it is told, and a prune removes it.
#[test]
fn what_is_no_file_in_the_place_of_a_commit_does_not_wait() {
    use rustix::fs::{CWD, FileType, Mode};
    let make: [fn(&std::path::Path); 4] = [
        |path| std::os::unix::fs::symlink("../begun", path).unwrap(),
        |path| rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
        |path| fs::create_dir(path).unwrap(),
        |path| fs::create_dir_all(path.join("in it")).unwrap(),
    ];
    for (which, make) in make.into_iter().enumerate() {
        let root = tempfile::tempdir().unwrap();
        let local = Arc::new(LocalStorage::create(root.path(), false).unwrap());
        let thief = Thief::on(Arc::default(), Arc::clone(&local) as _);
        let host = thief.bundle.keys.host;
        let begun = names::begun(&host, 1);
        local.put(&begun, bytes::Bytes::from_static(b"begun")).unwrap();
        let commit = root.path().join(names::commit(&host, 1));
        make(&commit);
        assert_eq!(waiting(thief.repo.store(), &Tally::default()).unwrap(), [], "{which}");
        let tally = Tally::default();
        assert_eq!(admit(&thief.repo, &AdmitOptions::default(), &tally).unwrap(), [], "{which}");
        let notes = tally.notes();
        assert!(
            matches!(&*notes, [note] if note.contains("has 1 object that no host brings")),
            "{which}: {notes:?}"
        );
        let options = crate::prune::PruneOptions::default();
        let pruned = crate::prune::prune(&thief.repo, &options, &Tally::default()).unwrap();
        assert_eq!(pruned.stray_objects, 1, "{which}");
        assert!(commit.symlink_metadata().is_err(), "{which}");
        local.len(&begun).unwrap_or_else(|error| panic!("{error}"));
        local.put(&names::commit(&host, 1), bytes::Bytes::from_static(b"x")).unwrap();
    }
}
