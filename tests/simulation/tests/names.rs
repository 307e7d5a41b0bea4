//! What a source says that no manifest can hold: a backup of it fails and leaves the repository as it was. And every name
//! that a server can give comes back.

use chunkstore::storage::memory::MemoryStorage;
use engine::backup::{BackupOptions, backup};
use engine::entry::{Entry, Time, compare_paths};
use engine::manifest::for_all_entries;
use engine::monitor::Tally;
use engine::names::{decoded_bytes, encoded_bytes};
use engine::snapshot::SourceRecord;
use engine::source::{Item, Proof, Source, SourceError};
use std::collections::VecDeque;
use std::sync::Arc;

mod nights;

/// A source that says what it is told to.
struct Told(VecDeque<Entry>);

impl Source for Told {
    fn records(&self) -> Vec<SourceRecord> {
        vec![SourceRecord::new("test", "told", true)]
    }
    fn paths(&self) -> Vec<String> {
        vec!["/told".into()]
    }
    fn next_item(&mut self, _: &dyn engine::Monitor) -> Result<Option<Item>, SourceError> {
        Ok(self.0.pop_front().map(|entry| Item { entry, content: None, proof: Proof::Nothing, leads: false }))
    }
}

fn folder(path: impl Into<Vec<u8>>) -> Entry {
    Entry::folder(path, Time::default())
}

#[test]
fn what_no_reader_takes_makes_no_snapshot() {
    let long = Entry { target: vec![b'x'; 70 << 10], ..folder("a") };
    let many = Entry { xattrs: vec![(b"user.x".to_vec(), vec![]); 5000], ..folder("a") };
    let large = Entry { xattrs: vec![(b"user.x".to_vec(), vec![0; 200 << 10])], ..folder("a") };
    let heavy = Entry { xattrs: vec![(b"user.x".to_vec(), vec![0; 100 << 10]); 100], ..folder("a") };
    let late = Entry { mtime: Time { seconds: 0, nanoseconds: 1_000_000_000 }, ..folder("a") };
    let hostile = [
        vec![folder("")],
        vec![folder(".")],
        vec![folder("..")],
        vec![folder("a/..")],
        vec![folder("a/./b")],
        vec![folder("/a")],
        vec![folder("a/")],
        vec![folder("a//b")],
        vec![folder("a\0b")],
        vec![folder("b"), folder("a")],
        vec![folder("a"), folder("a")],
        vec![folder("a-b"), folder("a/b")],
        vec![long],
        vec![many],
        vec![large],
        vec![heavy],
        vec![late],
    ];
    let disk = Arc::new(MemoryStorage::default());
    let repo = nights::init(&disk).unwrap();
    for entries in hostile {
        let shown: Vec<String> = entries.iter().map(Entry::display_path).collect();
        let before = repo.snapshots_strict().unwrap().len();
        let options = BackupOptions { packer: nights::packs(), ..BackupOptions::default() };
        let made = backup(&repo, &mut Told(entries.into()), &options, &Tally::default());
        assert!(made.is_err(), "{shown:?}");
        assert_eq!(repo.snapshots_strict().unwrap().len(), before, "{shown:?}");
    }
    // The repository goes on.
    nights::back_up(&repo, 1).unwrap();
    nights::clean(&repo).unwrap();
    drop(repo);
    assert_eq!(nights::nights(&disk), [1]);
}

#[test]
fn every_name_that_a_server_can_give_comes_back() {
    let mut names: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    names.extend((0..=255).map(|byte| vec![b'.', byte]));
    for name in ["", "..", "...", "a/b", "../../etc", "a%2Fb", "%", "%2E", "%%", "a.sql", "a.sql.index"] {
        names.push(name.as_bytes().to_vec());
    }
    for name in ["toc.dat", "dbname=evil host=x", "--plugin-dir=/x", "a\n--\nb", "žluť 日本", "CON", " "]
    {
        names.push(name.as_bytes().to_vec());
    }
    let mut paths: Vec<String> =
        names.iter().map(|name| format!("server/{}", encoded_bytes(name, ""))).collect();
    paths.sort_by(|a, b| compare_paths(a.as_bytes(), b.as_bytes()));
    paths.dedup();
    names.sort();
    names.dedup();
    assert_eq!(paths.len(), names.len(), "two names became one");
    let disk = Arc::new(MemoryStorage::default());
    let repo = nights::init(&disk).unwrap();
    let entries: VecDeque<Entry> =
        ["server"].into_iter().map(str::to_owned).chain(paths).map(folder).collect();
    let options = BackupOptions { packer: nights::packs(), ..BackupOptions::default() };
    backup(&repo, &mut Told(entries), &options, &Tally::default()).unwrap();
    repo.sync_index(&Tally::default()).unwrap();
    let listed = repo.snapshots_strict().unwrap();
    let mut found = vec![];
    for_all_entries(repo.store(), &listed[0].snapshot.manifest, &mut |listed| {
        if let Some(name) = listed.entry.path.strip_prefix(b"server/") {
            found.push(decoded_bytes(std::str::from_utf8(name).unwrap()));
        }
        Ok(())
    })
    .unwrap();
    found.sort();
    assert_eq!(found, names);
}
