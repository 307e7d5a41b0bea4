//! What is found among the snapshots, and what is read for it.

use super::*;
use crate::backup::{BackupOptions, backup};
use crate::monitor::Tally;
use crate::repository::{access_for_test, made_for_test};
use crate::snapshot::Made;
use crate::source::files::{FilesOptions, FilesSource};
use chunkstore::env::{Env, SeededEnv};
use chunkstore::storage::{Storage, StorageResult, memory::MemoryStorage};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// HEAD holds few roots itself. The clock begins at 2027, and so many seconds.
struct SmallHead(SeededEnv, u64);

impl Env for SmallHead {
    fn now(&self) -> Duration {
        self.0.now() + Duration::from_secs(100_000_000 + self.1)
    }
    fn random(&self, bytes: &mut [u8]) -> chunkstore::Result<()> {
        self.0.random(bytes)
    }
    fn sleep(&self, time: Duration) {
        self.0.sleep(time);
    }
    fn head_inline(&self) -> usize {
        4 << 10
    }
}

/// Notes the names of objects that are read.
#[derive(Default)]
struct Noting(MemoryStorage, Mutex<HashSet<String>>);

impl Storage for Noting {
    fn get(&self, name: &str, limit: u64) -> StorageResult<bytes::Bytes> {
        self.1.lock().unwrap().insert(name.to_owned());
        self.0.get(name, limit)
    }
    chunkstore::forward!(self => self.0; place put replace get_range stream_range len list leftovers delete
        read_versioned swap connections is_near keeps_copies written_ms copies shelf);
}

/// A store with a repository of 200 snapshots of other hosts, by clocks that are right or wrong.
fn store_with_others(clocks_are_right: bool) -> Arc<Noting> {
    let storage = Arc::new(Noting::default());
    let repo = made_for_test(access(&storage, 7));
    let roots: Vec<Root> = (0..200)
        .map(|number| {
            let second = if clocks_are_right { 1_750_000_000 + number } else { 1_700_000_000 + number % 150 };
            let time = Timestamp::from_second(second).unwrap();
            let generation = if clocks_are_right { 0 } else { u64::try_from(number).unwrap() / 3 };
            let made = Made { incarnation: 1, generation, clock: time, time_given: number % 7 == 0 };
            let (hostname, tags) = (format!("host {}", number % 9), vec![format!("tag {}", number % 5)]);
            let made = Some(made);
            repo.write_snapshot(&Snapshot { time, hostname, tags, made, ..Snapshot::default() }).unwrap()
        })
        .collect();
    let session = repo.store().open_session("test").unwrap();
    repo.store().commit(&session, &[], &roots, &HashSet::new()).unwrap();
    storage
}

fn access(storage: &Arc<Noting>, seed: u64) -> chunkstore::store::Access {
    access_for_test(Arc::clone(storage) as Arc<dyn Storage>, Arc::new(SmallHead(SeededEnv::new(seed), seed)))
}

#[test]
fn a_backup_reads_no_record_of_another_group() {
    let storage = store_with_others(false);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("letter"), "Dear reader").unwrap();
    let mut before = None;
    for seed in 8..11 {
        let repo = Repository::open(access(&storage, seed), b"x").unwrap();
        let records: HashSet<String> = repo
            .store()
            .head()
            .roots
            .leaves()
            .map(|leaf| chunkstore::format::names::leaf(leaf.age.parts(), &leaf.bodies.unwrap().id))
            .collect();
        assert!(!records.is_empty(), "200 roots do not lie in HEAD");
        storage.1.lock().unwrap().clear();
        let monitor = Tally::default();
        let mut source =
            FilesSource::new(&[folder.path().to_owned()], FilesOptions::default(), &monitor).unwrap();
        let options = BackupOptions { hostname: "ours".into(), ..BackupOptions::default() };
        let report = backup(&repo, &mut source, &options, &monitor).unwrap();
        assert_eq!(report.parent, before);
        before = report.snapshot;
        let read = storage.1.lock().unwrap();
        let read: Vec<_> =
            read.iter().filter(|name| records.contains(*name) || name.starts_with("snapshots/")).collect();
        assert!(read.is_empty(), "{read:?}");
        assert!(monitor.errors().is_empty());
    }
}

/// What lies in HEAD itself is enough where no clock is wrong.
#[test]
fn a_backup_reads_no_leaf_that_is_older_than_its_parent() {
    let storage = store_with_others(true);
    let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("letter"), "Dear reader").unwrap();
    let open = |seed| {
        let access = access(&storage, seed);
        let cache = Some(cache.path().to_owned());
        Repository::open(chunkstore::store::Access { cache, ..access }, b"x").unwrap()
    };
    let back_up = |repo: &Repository| {
        let monitor = Tally::default();
        let mut source =
            FilesSource::new(&[folder.path().to_owned()], FilesOptions::default(), &monitor).unwrap();
        let time = crate::backup::timestamp(repo.store().now_ms());
        let options = BackupOptions { time, ..BackupOptions::default() };
        backup(repo, &mut source, &options, &monitor).unwrap()
    };
    let first = back_up(&open(8)).snapshot;
    assert!(first.is_some());
    // From now on no leaf can be read, which an open does not notice if it is in the cache.
    let cached = std::fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path());
    let cached = cached.filter(|path| path.extension().is_some_and(|extension| extension == "sets"));
    let mut leaves = 0;
    for leaf in cached.flat_map(|folder| std::fs::read_dir(folder).unwrap()) {
        std::fs::write(leaf.unwrap().path(), "").unwrap();
        leaves += 1;
    }
    assert!(leaves > 0);
    let mut names = vec![];
    storage.list(chunkstore::format::names::SETS, &mut |name, _| names.push(name.to_owned())).unwrap();
    names.iter().for_each(|name| storage.delete(name).unwrap());
    let repo = open(9);
    assert!(repo.snapshots(&Tally::default()).is_err());
    assert_eq!(back_up(&repo).parent, first);
    assert_eq!(repo.find("latest~1", &Filter::default(), &Tally::default()).unwrap().id, first.unwrap());
}

#[test]
fn what_is_found_is_what_a_look_at_all_finds() {
    for clocks_are_right in [false, true] {
        what_is_found(clocks_are_right);
    }
}

fn what_is_found(clocks_are_right: bool) {
    let storage = store_with_others(clocks_are_right);
    let repo = Repository::open(access(&storage, 8), b"x").unwrap();
    let monitor = Tally::default();
    let all = repo.snapshots(&monitor).unwrap();
    assert_eq!(all, repo.snapshots_strict().unwrap());
    let hosts = |host: &str| Filter { hosts: vec![host.to_owned()], ..Filter::default() };
    let tags = Filter { tags: vec![vec!["tag 3".to_owned()]], ..hosts("host 4") };
    let id = all[77].id.to_string();
    for filter in [Filter::default(), hosts("host 3"), hosts("nobody"), tags] {
        let words =
            ["latest", "latest~1", "latest~21", "latest~199", "latest~200", "latest~x", "latests", ""];
        for wanted in words.into_iter().chain([&id, &id[..12], &id[..1], "0", &id.to_uppercase()]) {
            let (found, expected) = (repo.find(wanted, &filter, &monitor), find(&all, wanted, &filter));
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(&found, expected, "{wanted}"),
                (Err(found), Err(expected)) => assert_eq!(found.to_string(), expected.to_string()),
                (found, expected) => panic!("{wanted}: {found:?} is not {expected:?}"),
            }
        }
    }
    let named = [id[..12].to_owned(), "latest~3".into(), all[1].id.to_string(), "latest".into()];
    for filter in [Filter::default(), hosts("host 3"), hosts("nobody")] {
        let (chosen, fitting) = (repo.choose(&filter, &[], &monitor), filter.choose(&all));
        compare(chosen, fitting.map(|fitting| fitting.into_iter().cloned().collect()));
        for wanted in [&named[..], &named[..1], &named[3..], &["".to_owned()], &["0".to_owned()]] {
            let found = wanted.iter().map(|wanted| find(&all, wanted, &filter).cloned());
            compare(repo.choose(&filter, wanted, &monitor), found.collect());
        }
    }
    assert!(monitor.errors().is_empty());
}

fn compare(chosen: Result<Vec<rank::Ranked>>, expected: Result<Vec<Listed>>) {
    match (chosen, expected) {
        (Ok(chosen), Ok(expected)) => {
            assert_eq!(chosen.into_iter().map(|one| one.listed).collect::<Vec<_>>(), expected);
        }
        (Err(chosen), Err(expected)) => assert_eq!(chosen.to_string(), expected.to_string()),
        (chosen, expected) => panic!("{chosen:?} is not {expected:?}"),
    }
}

/// In the order and with the times of the rank.
#[test]
fn what_is_viewed_is_what_is_ranked() {
    for clocks_are_right in [false, true] {
        let storage = store_with_others(true);
        let repo = Repository::open(access(&storage, 8), b"x").unwrap();
        // One clock that is years ahead, and a right one after it.
        let ahead = if clocks_are_right { 1_750_000_300 } else { 1_900_000_000 };
        let roots: Vec<Root> = [(ahead, 1), (1_750_000_400, 2)]
            .map(|(second, generation)| {
                let time = Timestamp::from_second(second).unwrap();
                let made = Some(Made { incarnation: 1, generation, clock: time, time_given: false });
                repo.write_snapshot(&Snapshot { time, made, ..Snapshot::default() }).unwrap()
            })
            .into();
        let session = repo.store().open_session("test").unwrap();
        repo.store().commit(&session, &[], &roots, &HashSet::new()).unwrap();
        let monitor = Tally::default();
        let now = crate::backup::timestamp(repo.store().now_ms());
        let all = repo.snapshots(&monitor).unwrap();
        let ranked = rank::ranked(all, now);
        assert_eq!(ranked.iter().any(rank::Ranked::is_moved), !clocks_are_right);
        let mut expected = ranked.into_iter();
        repo.view_snapshots(
            |ranked| (ranked.listed, ranked.time),
            &mut |viewed| {
                let next = expected.next().unwrap();
                assert_eq!(viewed, (next.listed, next.time));
                Ok(())
            },
            &monitor,
        )
        .unwrap();
        assert!(expected.next().is_none());
        // An end on the way is an end.
        let ended = repo.view_snapshots(|_| (), &mut |()| Err(Error::Interrupted), &monitor);
        assert!(matches!(ended, Err(Error::Interrupted)));
    }
}

/// However many there are, few of them wait to be taken.
#[test]
fn few_views_are_in_memory() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let repo = crate::repository::in_memory();
    let roots: Vec<Root> = (0..2000).map(|_| repo.write_snapshot(&Snapshot::default()).unwrap()).collect();
    let session = repo.store().open_session("test").unwrap();
    repo.store().commit(&session, &[], &roots, &HashSet::new()).unwrap();
    let (made, mut taken, mut most) = (Arc::new(AtomicUsize::new(0)), 0, 0);
    let count = Arc::clone(&made);
    repo.view_snapshots(
        move |_| count.fetch_add(1, Ordering::Relaxed),
        &mut |_| {
            most = most.max(made.load(Ordering::Relaxed) - taken);
            taken += 1;
            Ok(())
        },
        &Tally::default(),
    )
    .unwrap();
    assert_eq!(taken, 2000);
    assert!(most <= 4 * 128, "{most} wait on one core");
}

/// Roots of older versions say nothing of their snapshots, and damage is reported once, by whoever comes across it.
#[test]
fn roots_without_columns_are_read() {
    let storage = store_with_others(false);
    let repo = Repository::open(access(&storage, 8), b"x").unwrap();
    let all = repo.snapshots(&Tally::default()).unwrap();
    let bare = |root: &Root| Root::new(Root::SNAPSHOT, root.id, root.hash, root.epoch);
    repo.store().update_head(|head| head.roots.replace(|root| Some(vec![bare(root)]))).unwrap();
    assert_eq!(repo.snapshots(&Tally::default()).unwrap(), all);
    storage.delete(&chunkstore::format::names::snapshot(&all[77].id)).unwrap();
    let monitor = Tally::default();
    assert_eq!(repo.find("latest", &Filter::default(), &monitor).unwrap().id, all[199].id);
    let errors: Vec<_> = monitor.errors().into_iter().map(|error| (error.during, error.item)).collect();
    assert_eq!(errors, [("snapshots", format!("snapshots/{}", all[77].id))]);
}
