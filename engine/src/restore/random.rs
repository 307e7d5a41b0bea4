//! Restores of random trees, roots and filters into random targets, compared with a model that shares no code with
//! them: paths that were not named stay byte-equal, named ones are right, and a dry run predicts the result.

use super::{Report, RestoreOptions, restore};
use crate::backup::{BackupOptions, backup};
use crate::entry::{Entry, Kind, Time, compare_paths};
use crate::filters::FILTERS;
use crate::monitor::Tally;
use crate::snapshot::{Filter, SourceRecord};
use crate::source::{Content, Item, Piece, Proof, Source, SourceError};
use crate::stored::{STORED, stored_text};
use crate::{Counter, ItemError, Monitor, Repository, Result};
use model::{Case, above, case, compiled};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

mod model;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    File(Vec<u8>),
    Folder,
    Link(String),
}

type Tree = BTreeMap<String, Node>;

/// A source of given entries.
struct Given {
    items: std::vec::IntoIter<(Entry, Vec<u8>)>,
    roots: Vec<String>,
    filters: String,
}

struct Bytes(std::io::Cursor<Vec<u8>>);

impl Content for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        match std::io::Read::read(&mut self.0, buffer) {
            Ok(0) | Err(_) => Ok(Piece::End),
            Ok(len) => Ok(Piece::Data(len)),
        }
    }
}

impl Source for Given {
    fn records(&self) -> Vec<SourceRecord> {
        let record = |stored: &String| {
            let mut record = SourceRecord::new("files", format!("/given/{stored}"), false);
            record.details.insert(STORED.into(), stored_text(stored.as_bytes()));
            record
        };
        let mut records: Vec<SourceRecord> = self.roots.iter().map(record).collect();
        records[0].details.insert(FILTERS.into(), self.filters.clone());
        records
    }
    fn paths(&self) -> Vec<String> {
        self.roots.iter().map(|stored| format!("/given/{stored}")).collect()
    }
    fn next_item(&mut self, _monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        Ok(self.items.next().map(|(entry, bytes)| {
            let content = (entry.kind == Kind::File).then(|| {
                Box::new(move || Ok(Box::new(Bytes(std::io::Cursor::new(bytes))) as Box<dyn Content>))
                    as crate::source::Opener
            });
            Item { entry, content, proof: Proof::Nothing, leads: false }
        }))
    }
    fn may_be_empty(&self) -> bool {
        true
    }
}

fn entry(path: &str, node: &Node) -> (Entry, Vec<u8>) {
    let plain = Entry::stream(path, Time { seconds: 1_000_000_000, nanoseconds: 5 });
    match node {
        Node::File(bytes) => (Entry { size: bytes.len() as u64, mode: 0o644, ..plain }, bytes.clone()),
        Node::Folder => (Entry { kind: Kind::Dir, mode: 0o755, ..plain }, vec![]),
        Node::Link(target) => (Entry { kind: Kind::Symlink, target: target.clone().into(), ..plain }, vec![]),
    }
}

/// A repository in memory with one snapshot.
fn saved(items: Vec<(Entry, Vec<u8>)>, roots: Vec<String>, filters: String) -> Repository {
    let repo = crate::repository::in_memory();
    let mut source = Given { items: items.into_iter(), roots, filters };
    backup(&repo, &mut source, &BackupOptions::default(), &Tally::default()).unwrap();
    repo
}

/// What a restore said and counted.
#[derive(Default)]
struct Said {
    tally: Tally,
    removed: Mutex<BTreeSet<PathBuf>>,
}

impl Said {
    fn counts(&self) -> [u64; 5] {
        [
            Counter::FilesDone,
            Counter::FilesSkipped,
            Counter::FilesFailed,
            Counter::BytesDone,
            Counter::Deleted,
        ]
        .map(|counter| self.tally.get(counter))
    }
    fn failed(&self) -> Vec<String> {
        self.tally.errors().into_iter().map(|error| error.item).collect()
    }
    fn removed(&self, root: &Path) -> BTreeSet<String> {
        let removed = self.removed.lock().unwrap();
        let relative = |path: &PathBuf| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        removed.iter().map(relative).collect()
    }
}

impl Monitor for Said {
    fn count(&self, counter: Counter, by: u64) {
        self.tally.count(counter, by);
    }
    fn get(&self, counter: Counter) -> u64 {
        self.tally.get(counter)
    }
    fn restart(&self) {
        self.tally.restart();
    }
    fn error(&self, error: ItemError) {
        self.tally.error(error);
    }
    fn removal(&self, path: &Path, _dry_run: bool) {
        assert!(self.removed.lock().unwrap().insert(path.to_owned()), "{} is named twice", path.display());
    }
}

fn run(repo: &Repository, options: &RestoreOptions) -> (Result<Report>, Said) {
    let said = Said::default();
    let listed = repo.find("latest", &Filter::default(), &said).unwrap();
    (restore(repo, &listed.snapshot, options, &said), said)
}

/// The content of a folder.
fn look(folder: &Path) -> Tree {
    fn within(folder: &Path, above: &str, tree: &mut Tree) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
            let place = format!("{above}{}", name.to_str().unwrap());
            let metadata = path.symlink_metadata().unwrap();
            let node = match () {
                () if metadata.is_dir() => Node::Folder,
                () if metadata.is_symlink() => {
                    Node::Link(path.read_link().unwrap().to_str().unwrap().to_owned())
                }
                () => Node::File(std::fs::read(&path).unwrap()),
            };
            if node == Node::Folder {
                within(&path, &format!("{place}/"), tree);
            }
            tree.insert(place, node);
        }
    }
    let mut tree = Tree::new();
    if folder.exists() {
        within(folder, "", &mut tree);
    }
    tree
}

fn make(folder: &Path, tree: &Tree) {
    std::fs::create_dir(folder).unwrap();
    for (place, node) in tree {
        let path = folder.join(place);
        match node {
            Node::Folder => std::fs::create_dir(path).unwrap(),
            Node::File(bytes) => std::fs::write(path, bytes).unwrap(),
            Node::Link(target) => std::os::unix::fs::symlink(target, path).unwrap(),
        }
    }
}

fn try_case(case: &Case) -> Result<(), TestCaseError> {
    let (all, placed) = case.all();
    let mut items: Vec<_> = all.iter().map(|(path, node)| entry(path, node)).collect();
    items.sort_by(|(a, _), (b, _)| compare_paths(&a.path, &b.path));
    let roots = case.trees.iter().map(|(root, _)| root.clone()).collect();
    let repo = saved(items, roots, case.left_out.lines());
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("target");
    make(&target, &case.target);
    let before = look(&target);
    let options = RestoreOptions {
        target: target.clone(),
        beneath: case.beneath.clone().into_bytes(),
        includes: compiled(&case.includes),
        excludes: compiled(&case.excludes),
        delete: case.delete,
        delete_excluded: case.delete_excluded,
        no_owner: true,
        ..RestoreOptions::default()
    };
    let (dry, dry_said) = run(&repo, &RestoreOptions { dry_run: true, ..options.clone() });
    prop_assert_eq!(&look(&target), &before, "a dry run changes nothing");
    let (done, said) = run(&repo, &options);
    let after = look(&target);
    prop_assert_eq!(
        dry.as_ref().map(|report| report.left_out).ok(),
        done.as_ref().map(|report| report.left_out).ok()
    );
    if done.is_err() {
        // A path or a pattern that fits nothing.
        prop_assert_eq!(&after, &before);
        return Ok(());
    }
    prop_assert_eq!(dry_said.counts(), said.counts());
    prop_assert_eq!(dry_said.failed(), said.failed());
    prop_assert_eq!(dry_said.removed(&target), said.removed(&target));

    let is_dir = |tree: &Tree, place: &str| tree.get(place) == Some(&Node::Folder);
    for (place, node) in &before {
        let is_named = placed.get(place).is_some_and(|node| case.fits(place, *node == Node::Folder));
        let may_go = case.delete
            && case.is_within(place)
            && case.fits(place, *node == Node::Folder)
            && !case.is_left_out(place, node)
            && !placed.contains_key(place);
        if !is_named && !may_go {
            prop_assert_eq!(after.get(place), Some(node), "{} was not named", place);
        }
    }
    let mut gone: BTreeSet<String> =
        before.keys().filter(|place| !after.contains_key(*place)).cloned().collect();
    if case.delete {
        let replaced = before.keys().filter(|place| is_dir(&before, place) && !is_dir(&after, place));
        gone.extend(replaced.cloned());
    }
    prop_assert_eq!(gone, said.removed(&target), "what goes is named");

    if !said.failed().is_empty() {
        return Ok(());
    }
    for (place, node) in placed.iter().filter(|(place, node)| case.fits(place, **node == Node::Folder)) {
        prop_assert_eq!(after.get(place), Some(node), "{} was named", place);
    }
    if case.delete {
        for (place, node) in after.iter().filter(|(place, _)| !placed.contains_key(*place)) {
            let hidden =
                above(place).any(|folder| placed.get(folder).is_some_and(|node| *node != Node::Folder));
            let holds = after.keys().any(|other| other.starts_with(&format!("{place}/")));
            let is_folder = *node == Node::Folder;
            let stays = !case.is_within(place)
                || !case.fits(place, is_folder)
                || case.is_left_out(place, node)
                || hidden
                || (is_folder && holds);
            prop_assert!(stays, "{} is not in the snapshot", place);
        }
    }
    let (again, said) = run(&repo, &options);
    prop_assert!(again.is_ok() && said.failed().is_empty());
    prop_assert_eq!((said.tally.get(Counter::BytesDone), said.tally.get(Counter::Deleted)), (0, 0));
    prop_assert_eq!(look(&target), after);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 2000, ..ProptestConfig::default() })]
    #[test]
    fn what_was_not_named_stays_and_what_was_is_right(case in case()) {
        try_case(&case)?;
    }
}

#[test]
fn entries_are_names_of_one_file_only_if_all_of_them_agree() {
    let file = |path: &str, content: &[u8], inode: u64, seconds: i64| {
        let (plain, bytes) = entry(path, &Node::File(content.to_vec()));
        let mtime = Time { seconds, nanoseconds: 0 };
        (Entry { device: 1, inode, links: 2, mtime, ctime: mtime, ..plain }, bytes)
    };
    let items = vec![
        file("a", b"AAAA\n", 7, 1),
        file("b", b"BBBB\n", 7, 1),
        file("c", b"AAAA\n", 7, 1),
        file("d", b"AAAA\n", 7, 2),
        file("e", b"AAAAA\n", 7, 1),
        file("f", b"AAAA\n", 8, 1),
        file("g", b"AAAA\n", 7, 1),
    ];
    let expected: Tree = items
        .iter()
        .map(|(entry, bytes)| (String::from_utf8(entry.path.clone()).unwrap(), Node::File(bytes.clone())))
        .collect();
    let repo = saved(items, vec![String::new()], String::new());
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("target");
    let options = RestoreOptions { target: target.clone(), no_owner: true, ..RestoreOptions::default() };
    for _ in 0..2 {
        let (done, said) = run(&repo, &options);
        assert!(done.is_ok() && said.failed().is_empty());
        assert_eq!(look(&target), expected);
        let inode = |name: &str| {
            use std::os::unix::fs::MetadataExt as _;
            target.join(name).metadata().unwrap().ino()
        };
        assert_eq!((inode("a"), inode("a")), (inode("c"), inode("g")));
        let others: BTreeSet<u64> = ["a", "b", "d", "e", "f"].into_iter().map(inode).collect();
        assert_eq!(others.len(), 5);
        // A name that became another file is given back.
        std::fs::remove_file(target.join("c")).unwrap();
        std::fs::write(target.join("c"), "other").unwrap();
    }
}
