//! What somebody can heap up in an inbox: the admission looks at some of it, keeps little in memory, and is done with the
//! other hosts before it clears anything.

use super::*;
use chunkstore::inbox::runs::{MOST_RUNS, MOST_SKIPPED};
use chunkstore::storage::{StorageError, StorageResult};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// A store that lists objects of inboxes which nobody stored: so many numbers from the first on, in ascending order, each with
/// this object. It counts what is asked for below inboxes.
#[derive(Default)]
struct Flood {
    disk: Arc<MemoryStorage>,
    made_up: Mutex<Vec<(ObjectId, std::ops::Range<u64>, &'static str)>>,
    calls: Mutex<Vec<(&'static str, String)>>,
}

type Counts = BTreeMap<(&'static str, String), u32>;

impl Flood {
    fn count(&self, what: &'static str, name: &str) {
        if name.starts_with(names::INBOX) {
            self.calls.lock().unwrap().push((what, name.to_owned()));
        }
    }

    /// How many calls there were since the last time.
    fn calls(&self) -> Counts {
        let mut counts = Counts::new();
        for call in std::mem::take(&mut *self.calls.lock().unwrap()) {
            *counts.entry(call).or_default() += 1;
        }
        counts
    }
}

fn total(calls: &Counts, what: &str) -> u32 {
    calls.iter().filter(|((of, _), _)| *of == what).map(|(_, count)| count).sum()
}

impl chunkstore::storage::Storage for Flood {
    fn get(&self, name: &str, limit: u64) -> StorageResult<bytes::Bytes> {
        self.count("get", name);
        let made_up = self.made_up.lock().unwrap().iter().any(|(host, numbers, last)| {
            *last == names::COMMIT
                && names::run_of(name).is_some_and(|(of, run, last)| {
                    of == *host && last == names::COMMIT && numbers.contains(&run)
                })
        });
        match self.disk.get(name, limit) {
            Err(_) if made_up => Ok(bytes::Bytes::from_static(b"no commit")),
            found => found,
        }
    }
    fn len(&self, name: &str) -> StorageResult<u64> {
        self.count("len", name);
        self.disk.len(name)
    }
    fn delete(&self, name: &str) -> StorageResult<()> {
        self.count("delete", name);
        self.disk.delete(name)
    }
    fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
        self.count("list", folder);
        for (host, numbers, last) in &*self.made_up.lock().unwrap() {
            if folder == names::inbox(host) {
                for number in numbers.clone() {
                    each(&format!("{}/{last}", names::run(host, number)), 9);
                }
            }
        }
        self.disk.list(folder, each)
    }
    chunkstore::forward!(self => self.disk; place put replace get_range stream_range leftovers read_versioned swap
        connections is_near keeps_copies written_ms copies shelf);
}

fn flooded() -> (Arc<Flood>, Thief) {
    let flood = Arc::new(Flood::default());
    let thief = Thief::on(Arc::clone(&flood.disk), Arc::clone(&flood) as _);
    (flood, thief)
}

/// A million objects: what is kept of them does not depend on how many there are, and no more is read or asked for.
#[test]
fn a_million_objects_cost_a_listing() {
    let (flood, mut thief) = flooded();
    let host = thief.bundle.keys.host;
    let chunk = (thief.id(b"x"), &b"x"[..]);
    let (many, few) = (1_000_000, 3_000);
    for (last, first, count) in [
        (names::BEGUN, 10, many),
        (names::COMMIT, 10 + MOST_SKIPPED, few),
        (names::COMMIT, u64::MAX - few, few),
        ("notes.txt", 10, few),
    ] {
        *flood.made_up.lock().unwrap() = vec![(host, first..first + count, last)];
        thief.bring(&[chunk], &[chunk], |_, _| ());
        flood.calls();
        let done = thief.admit();
        let far = match &*done {
            [Outcome::Admitted { .. }] => 0,
            [Outcome::Admitted { .. }, Outcome::Far { runs }] => *runs,
            _ => panic!("{last} from {first}: {done:?}"),
        };
        assert_eq!(far, if last == names::COMMIT { count } else { 0 }, "{last} from {first}");
        let calls = flood.calls();
        assert_eq!(total(&calls, "list"), 2, "{last}: the inbox, and the run that was settled: {calls:?}");
        assert!(calls.values().sum::<u32>() < 20, "{last}: {calls:?}");
    }
    *flood.made_up.lock().unwrap() = vec![(host, 10..few, names::BEGUN)];
    let inbox = chunkstore::inbox::Inbox::look(&*flood, &host, thief.run).unwrap();
    assert_eq!((inbox.begun.len(), inbox.over.len(), inbox.waiting.len()), (MOST_RUNS, 0, 0));
}

/// However much is to be removed, others do not wait for it.
#[test]
fn nothing_is_removed_before_all_hosts_were_taken_in() {
    let (flood, mut thief) = flooded();
    let chunk = (thief.id(b"x"), &b"x"[..]);
    thief.bring(&[chunk], &[chunk], |_, _| ());
    let bundle = thief.repo.store().add_host("web2", "memory").unwrap();
    let mut other = Thief { bundle, run: 0, previous: NO_COMMIT, ..thief };
    other.bring(&[chunk], &[chunk], |snapshot, _| snapshot.hostname = "web2".into());
    flood.calls();
    let done = other.admit();
    assert!(matches!(*done, [Outcome::Admitted { .. }, Outcome::Admitted { .. }]), "{done:?}");
    let calls = flood.calls.lock().unwrap();
    let last = calls.iter().rposition(|(what, _)| *what == "get").unwrap();
    let first = calls.iter().position(|(what, _)| *what == "delete").unwrap();
    assert!(last < first, "{calls:?}");
    assert!(flood.disk.objects().keys().all(|name| !name.starts_with("inbox/")));
}

#[test]
fn of_many_runs_the_first_are_looked_at_and_the_rest_waits() {
    let (flood, thief) = flooded();
    let host = thief.bundle.keys.host;
    let most = MOST_RUNS as u64;
    *flood.made_up.lock().unwrap() = vec![(host, 1..2 * most + 1, names::COMMIT)];
    let honest = thief.repo.store().add_host("web2", "memory").unwrap();
    let mut other = Thief { bundle: honest, run: 0, previous: NO_COMMIT, ..thief };
    let chunk = (other.id(b"x"), &b"x"[..]);
    other.bring(&[chunk], &[chunk], |snapshot, _| snapshot.hostname = "web2".into());
    flood.calls();
    let mut done = admit(&other.repo, &AdmitOptions::default(), &Tally::default()).unwrap();
    done.retain(|admission| !matches!(admission.outcome, Outcome::Forged { .. }));
    done.sort_by_key(|admission| admission.host.clone());
    let [first, second] = &*done else { panic!("{done:?}") };
    assert_eq!((&*first.host, first.run, first.bytes), ("web1", most + 1, 9 * most));
    assert_eq!(first.outcome, Outcome::Waits { runs: most });
    assert!(matches!(second.outcome, Outcome::Admitted { .. }), "{second:?}");
    let calls = flood.calls();
    let forged = calls.iter().filter(|((what, name), _)| *what == "get" && name.contains(&host.to_string()));
    let counts: Vec<u32> = forged.map(|(_, count)| *count).collect();
    assert_eq!((counts.len(), counts.iter().max()), (MOST_RUNS, Some(&2)), "each is read twice");
}

/// Commits that are none are read a bounded number of times, however many runs come after them.
#[test]
fn what_was_found_to_be_no_commit_is_not_read_for_each_later_one() {
    let (flood, mut thief) = flooded();
    let host = thief.bundle.keys.host;
    for number in 1..=20 {
        flood.disk.put(&names::commit(&host, number), bytes::Bytes::from_static(b"junk")).unwrap();
    }
    thief.run = 20;
    thief.previous = ObjectId([1; 32]);
    let chunk = (thief.id(b"x"), &b"x"[..]);
    (0..5).for_each(|_| drop(thief.bring(&[chunk], &[chunk], |_, _| ())));
    let done = thief.admit();
    let forged = done.iter().filter(|outcome| matches!(outcome, Outcome::Forged { .. })).count();
    let refused = done.iter().filter(|outcome| matches!(outcome, Outcome::Refused { .. })).count();
    assert_eq!((forged, refused, done.len()), (20, 1, 25), "{done:?}");
    let calls = flood.calls();
    let most = (1..=20).map(|number| calls[&("get", names::commit(&host, number))]).max();
    assert_eq!(most, Some(5), "twice in order, once before the gap is told, twice before it is removed");
    assert!(flood.disk.objects().keys().all(|name| !name.starts_with("inbox/")));
}

/// Reading ends before it has cost more than ten commits of the greatest length.
#[test]
fn long_objects_in_the_place_of_commits_are_not_read_without_end() {
    let (flood, mut thief) = flooded();
    let host = thief.bundle.keys.host;
    let long = bytes::Bytes::from(vec![0; 20 << 20]);
    for number in 1..=30 {
        flood.disk.put(&names::commit(&host, number), long.clone()).unwrap();
    }
    thief.run = 30;
    let chunk = (thief.id(b"x"), &b"x"[..]);
    thief.bring(&[chunk], &[chunk], |_, _| ());
    let done = thief.admit();
    // 40 MiB each.
    assert!(matches!(&*done, [Outcome::Forged { .. }, .., Outcome::Waits { runs: 24 }]), "{done:?}");
    assert_eq!((done.len(), total(&flood.calls(), "get")), (8, 14));
}

/// A month. `MOST_RUNS` allows for ten sources a night, and three months.
#[test]
fn a_host_whose_admitter_was_away_is_admitted_in_one_go() {
    let (flood, mut thief) = flooded();
    let chunk = (thief.id(b"x"), &b"x"[..]);
    for night in 0..30 {
        thief.bring(&[chunk], if night == 0 { std::slice::from_ref(&chunk) } else { &[] }, |_, _| ());
    }
    let done = thief.admit();
    assert_eq!(done.len(), 30);
    assert!(done.iter().all(|outcome| matches!(outcome, Outcome::Admitted { .. })), "{done:?}");
    assert!(flood.disk.objects().keys().all(|name| !name.starts_with("inbox/")));
}

/// What lies under ids that HEAD does not have is nobody's, and not even listed.
#[test]
fn ids_that_nobody_gave_are_not_looked_at() {
    let (flood, mut thief) = flooded();
    let (gone, unknown) =
        (thief.repo.store().add_host("gone", "memory").unwrap().keys.host, ObjectId([7; 32]));
    thief.repo.store().revoke_host("gone").unwrap();
    *flood.made_up.lock().unwrap() =
        [gone, unknown].map(|host| (host, 1..1_000, names::COMMIT)).into_iter().collect();
    let chunk = (thief.id(b"x"), &b"x"[..]);
    thief.bring(&[chunk], &[chunk], |_, _| ());
    flood.calls();
    assert!(matches!(*thief.admit(), [Outcome::Admitted { .. }]));
    let own = names::inbox(&thief.bundle.keys.host);
    assert!(flood.calls().keys().all(|(_, name)| name.starts_with(&own)));
}

/// Listings that have no end in sight stop nobody.
#[test]
fn an_inbox_with_more_objects_than_a_listing_may_have_is_looked_at_as_far_as_it_was_listed() {
    struct Endless(Arc<Flood>);
    impl chunkstore::storage::Storage for Endless {
        fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
            self.0.list(folder, each)?;
            let error = || StorageError {
                kind: ErrorKind::TooMany,
                op: "list",
                object: folder.into(),
                source: "too many".into(),
            };
            if folder.starts_with(names::INBOX) { Err(error()) } else { Ok(()) }
        }
        chunkstore::forward!(self => self.0; place put replace get len get_range stream_range leftovers delete
            read_versioned swap connections is_near keeps_copies written_ms copies shelf);
    }
    let flood = Arc::new(Flood::default());
    let mut thief = Thief::on(Arc::clone(&flood.disk), Arc::new(Endless(Arc::clone(&flood))) as _);
    let chunk = (thief.id(b"x"), &b"x"[..]);
    thief.bring(&[chunk], &[chunk], |_, _| ());
    let tally = Tally::default();
    let done = admit(&thief.repo, &AdmitOptions::default(), &tally).unwrap();
    assert!(matches!(&*done, [Admission { outcome: Outcome::Admitted { .. }, .. }]), "{done:?}");
    assert_eq!((tally.errors().len(), tally.notes().len()), (0, 1));
}

/// A listing that ends at a name that is no object's, or at a folder that is somebody else's, stops only the host of that inbox.
#[test]
fn an_inbox_that_cannot_be_listed_stops_only_its_host() {
    struct Odd(Arc<Flood>, Mutex<Option<(String, ErrorKind)>>);
    impl chunkstore::storage::Storage for Odd {
        fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
            self.0.list(folder, each)?;
            let odd = self.1.lock().unwrap().clone();
            match odd.filter(|(odd, _)| odd == folder) {
                None => Ok(()),
                Some((object, kind)) => Err(StorageError { kind, op: "list", object, source: "odd".into() }),
            }
        }
        chunkstore::forward!(self => self.0; place put replace get len get_range stream_range leftovers delete
            read_versioned swap connections is_near keeps_copies written_ms copies shelf);
    }
    for kind in [ErrorKind::BadName, ErrorKind::Denied] {
        let odd = Arc::new(Odd(Arc::default(), Mutex::default()));
        let mut thief = Thief::on(Arc::clone(&odd.0.disk), Arc::clone(&odd) as _);
        let host = thief.repo.store().add_host("odd", "memory").unwrap().keys.host;
        let chunk = (thief.id(b"x"), &b"x"[..]);
        thief.bring(&[chunk], &[chunk], |_, _| ());
        *odd.1.lock().unwrap() = Some((names::inbox(&host), kind));
        let tells = |tally: &Tally| tally.notes().iter().any(|note| note.contains("'odd'"));
        let tally = Tally::default();
        assert_eq!(waiting(thief.repo.store(), &tally).unwrap().len(), 1);
        assert!(tells(&tally), "{:?}", tally.notes());
        let tally = Tally::default();
        let done = admit(&thief.repo, &AdmitOptions::default(), &tally).unwrap();
        assert!(matches!(&*done, [Admission { outcome: Outcome::Admitted { .. }, .. }]), "{done:?}");
        assert_eq!(tally.errors().len(), 1);
        // Revoked, it stops no prune, which says what stays.
        thief.repo.store().revoke_host("odd").unwrap();
        let tally = Tally::default();
        crate::prune::prune(&thief.repo, &crate::prune::PruneOptions::default(), &tally).unwrap();
        assert!(tells(&tally), "{:?}", tally.notes());
        // If no inbox can be looked at, that is no host's doing.
        thief.repo.store().revoke_host("web1").unwrap();
        assert!(waiting(thief.repo.store(), &Tally::default()).unwrap().is_empty());
        let only = thief.repo.store().add_host("only", "memory").unwrap().keys.host;
        *odd.1.lock().unwrap() = Some((names::inbox(&only), ErrorKind::Denied));
        waiting(thief.repo.store(), &Tally::default()).unwrap_err();
    }
}

/// However many inboxes have such names: the others are looked at.
#[test]
fn odd_names_in_many_inboxes_hide_no_other_host() {
    struct Odd(Arc<MemoryStorage>, Mutex<String>);
    impl chunkstore::storage::Storage for Odd {
        fn list(&self, folder: &str, each: &mut dyn FnMut(&str, u64)) -> StorageResult<()> {
            let honest = self.1.lock().unwrap().clone();
            self.0.list(folder, each)?;
            let (kind, op, object) = (ErrorKind::BadName, "list", folder.to_owned());
            let is_odd = folder.starts_with(names::INBOX) && folder != honest;
            if is_odd { Err(StorageError { kind, op, object, source: "odd".into() }) } else { Ok(()) }
        }
        chunkstore::forward!(self => self.0; place put replace get len get_range stream_range leftovers delete
            read_versioned swap connections is_near keeps_copies written_ms copies shelf);
    }
    let disk = Arc::new(MemoryStorage::default());
    let odd = Arc::new(Odd(Arc::clone(&disk), Mutex::default()));
    let mut thief = Thief::on(disk, Arc::clone(&odd) as _);
    *odd.1.lock().unwrap() = names::inbox(&thief.bundle.keys.host);
    (0..2 * MOST_DENIED)
        .for_each(|number| drop(thief.repo.store().add_host(&format!("odd{number}"), "memory").unwrap()));
    let chunk = (thief.id(b"x"), &b"x"[..]);
    thief.bring(&[chunk], &[chunk], |_, _| ());
    let tally = Tally::default();
    assert_eq!(waiting(thief.repo.store(), &tally).unwrap().len(), 1);
    assert_eq!(tally.notes().len(), 2 * MOST_DENIED);
}
