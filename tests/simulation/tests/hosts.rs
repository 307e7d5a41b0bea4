//! Hosts that may only write: a run that ends at any call of the host, an admission that ends at any call of the admitter,
//! and one beside everything else that may happen.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails must say where, and this one counts"
)]

use chunkstore::inbox::{Book, Bundle};
use chunkstore::storage::Storage;
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::store::RetireOptions;
use engine::admit::{Admission, AdmitOptions, Outcome, admit};
use engine::backup::BackupOptions;
use engine::host::{backup_as_host, take_answers};
use engine::monitor::Tally;
use engine::renew::{RenewOptions, renew};
use engine::{Repository, Result};
use nights::beside::Beside;
use nights::mortal::{Mortal, copy, everywhere};
use nights::occupied::{Occupied, Way};
use nights::{access, back_up, clean, forget_first, init, nights, open, packs, source};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

mod nights;

/// A repository with a host.
fn prepared() -> (Arc<MemoryStorage>, Bundle) {
    let disk = Arc::new(MemoryStorage::default());
    let repo = init(&disk).unwrap();
    let bundle = repo.store().add_host("web1", "memory").unwrap();
    (disk, bundle)
}

fn book(bundle: &Bundle, storage: Arc<dyn Storage>, folder: &Path) -> Result<Book> {
    Ok(Book::open(bundle.clone(), access(storage), folder, Duration::ZERO)?)
}

/// The host's backup of a night.
fn host_night(bundle: &Bundle, storage: Arc<dyn Storage>, folder: &Path, number: u64) -> Result<bool> {
    let mut book = book(bundle, storage, folder)?;
    let answers = take_answers(&mut book)?;
    let time = jiff::Timestamp::from_second(number as i64).unwrap();
    let options =
        BackupOptions { packer: packs(), time, hostname: "web1".into(), ..BackupOptions::default() };
    backup_as_host(&mut book, &mut source(number), &options, &Tally::default())?;
    Ok(answers.iter().all(|answered| answered.refused().is_none()))
}

fn take_in(repo: &Repository) -> Result<Vec<Admission>> {
    let options = AdmitOptions { packer: packs(), ..AdmitOptions::default() };
    admit(repo, &options, &Tally::default())
}

fn is_admitted(admission: &Admission) -> bool {
    matches!(admission.outcome, Outcome::Admitted { .. })
}

/// A folder with the same files.
fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

fn inbox(disk: &MemoryStorage) -> Vec<String> {
    disk.objects().keys().filter(|name| name.starts_with("inbox/")).cloned().collect()
}

#[test]
fn a_host_that_ends_anywhere_brings_its_night_the_next_time() {
    let (disk, bundle) = prepared();
    let folder = tempfile::tempdir().unwrap();
    host_night(&bundle, Arc::clone(&disk) as _, folder.path(), 1).unwrap();
    let points = everywhere(&mut |fault, calls| {
        let disk = copy(&disk);
        let own = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), own.path());
        let when = format!("{fault:?} at {calls}");
        let mortal = Mortal::new(&disk, fault, calls);
        let ended = host_night(&bundle, Arc::clone(&mortal) as _, own.path(), 2);
        // A full client admits what is there, at the latest the second time.
        for _ in 0..2 {
            let done = take_in(&open(&disk)).unwrap_or_else(|error| panic!("{when}: {error:?}"));
            assert!(done.iter().all(is_admitted), "{when}: {done:?}");
        }
        let there = nights(&disk);
        assert!(there == [1, 2] || ended.is_err() && there == [1], "{when}: {ended:?}, {there:?}");
        // And the next night.
        let was_told = host_night(&bundle, Arc::clone(&disk) as _, own.path(), 3);
        assert!(was_told.unwrap_or_else(|error| panic!("{when}: {error:?}")), "{when}");
        let done = take_in(&open(&disk)).unwrap();
        assert!(done.iter().all(is_admitted) && !done.is_empty(), "{when}: {done:?}");
        assert_eq!(nights(&disk).last(), Some(&3), "{when}");
        assert_eq!(inbox(&disk), Vec::<String>::new(), "{when}");
        mortal
    });
    println!("a host's run: {points} faults, all well");
}

#[test]
fn an_admission_that_ends_anywhere_is_done_once() {
    let (disk, bundle) = prepared();
    let folder = tempfile::tempdir().unwrap();
    host_night(&bundle, Arc::clone(&disk) as _, folder.path(), 1).unwrap();
    take_in(&open(&disk)).unwrap();
    host_night(&bundle, Arc::clone(&disk) as _, folder.path(), 2).unwrap();
    let points = everywhere(&mut |fault, calls| {
        let disk = copy(&disk);
        let own = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), own.path());
        let when = format!("{fault:?} at {calls}");
        let mortal = Mortal::new(&disk, fault, calls);
        let ended = Repository::open(access(Arc::clone(&mortal) as _), b"x").and_then(|repo| take_in(&repo));
        // Whoever comes next finishes it. A commit that was read with damage is left for then, too.
        let done = take_in(&open(&disk)).unwrap_or_else(|error| panic!("{when}: {error:?}"));
        assert!(done.iter().all(is_admitted), "{when}: {ended:?}, {done:?}");
        assert_eq!(nights(&disk), [1, 2], "{when}: {ended:?}");
        assert!(host_night(&bundle, Arc::clone(&disk) as _, own.path(), 3).unwrap(), "{when}: {ended:?}");
        assert!(book(&bundle, Arc::clone(&disk) as _, own.path()).unwrap().pending().len() == 1, "{when}");
        let done = take_in(&open(&disk)).unwrap();
        assert!(done.len() == 1 && is_admitted(&done[0]), "{when}: {done:?}");
        assert_eq!(inbox(&disk), Vec::<String>::new(), "{when}");
        clean(&open(&disk)).unwrap();
        assert!(open(&disk).store().head().sessions.is_empty(), "{when}");
        assert_eq!(nights(&disk), [1, 2, 3], "{when}");
        mortal
    });
    println!("an admission: {points} faults, all well");
}

/// Does something before each call of an admission.
fn beside(name: &str, nights_left: &[u64], other: fn(&Arc<MemoryStorage>)) {
    let (disk, bundle) = prepared();
    let folder = tempfile::tempdir().unwrap();
    host_night(&bundle, Arc::clone(&disk) as _, folder.path(), 1).unwrap();
    take_in(&open(&disk)).unwrap();
    back_up(&open(&disk), 5).unwrap();
    host_night(&bundle, Arc::clone(&disk) as _, folder.path(), 6).unwrap();
    for calls in 0.. {
        let disk = copy(&disk);
        let when = format!("{name} before call {calls}");
        let beside = Beside::new(&disk, calls, other);
        let done = Repository::open(access(Arc::clone(&beside) as _), b"x").and_then(|repo| take_in(&repo));
        let done = done.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        assert!(done.iter().all(is_admitted), "{when}: {done:?}");
        // What one admitter left, the next one takes.
        take_in(&open(&disk)).unwrap();
        let there = nights(&disk);
        if beside.is_over() {
            println!("{name}: before each of {calls} calls of an admission, all well");
            return;
        }
        assert_eq!(there, nights_left, "{when}");
    }
}

#[test]
fn an_admission_beside_another_one_is_done_once() {
    beside("admit", &[1, 5, 6], |disk| drop(take_in(&open(disk)).unwrap()));
}

/// Two runs wait, and both are admitted while the host reads the answers.
#[test]
fn an_answer_that_comes_while_others_are_read_refuses_nothing() {
    let (disk, bundle) = prepared();
    let folder = tempfile::tempdir().unwrap();
    for number in [1, 2] {
        host_night(&bundle, Arc::clone(&disk) as _, folder.path(), number).unwrap();
    }
    for calls in 0.. {
        let disk = copy(&disk);
        let own = tempfile::tempdir().unwrap();
        copy_folder(folder.path(), own.path());
        let beside = Beside::new(&disk, calls, |disk| drop(take_in(&open(disk)).unwrap()));
        let was_told = host_night(&bundle, Arc::clone(&beside) as _, own.path(), 3);
        assert!(was_told.unwrap_or_else(|error| panic!("call {calls}: {error:?}")), "call {calls}");
        if beside.is_over() {
            println!("before each of {calls} calls of a host's run, all well");
            return;
        }
        take_in(&open(&disk)).unwrap();
        assert_eq!(nights(&disk), [1, 2, 3], "call {calls}");
    }
}

#[test]
fn a_prune_beside_an_admission_takes_nothing_that_it_needs() {
    beside("prune", &[1, 5, 6], |disk| clean(&open(disk)).unwrap());
}

#[test]
fn a_rotation_beside_an_admission_takes_nothing_from_it() {
    beside("rotate", &[1, 5, 6], |disk| drop(open(disk).store().rotate().unwrap()));
}

/// The host builds on a snapshot that was forgotten, and pruned: it is refused, told, and brings what is missing.
#[test]
fn what_a_prune_took_is_brought_again() {
    let (disk, bundle) = prepared();
    let folder = tempfile::tempdir().unwrap();
    let host = |number| host_night(&bundle, Arc::clone(&disk) as _, folder.path(), number).unwrap();
    host(1);
    take_in(&open(&disk)).unwrap();
    forget_first(&open(&disk)).unwrap();
    clean(&open(&disk)).unwrap();
    assert!(host(2), "nothing is wrong so far");
    let done = take_in(&open(&disk)).unwrap();
    assert!(matches!(&done[0].outcome, Outcome::Refused { missing, .. } if *missing > 0), "{done:?}");
    assert!(!host(2), "the host is told");
    let done = take_in(&open(&disk)).unwrap();
    assert!(done.len() == 1 && is_admitted(&done[0]), "{done:?}");
    assert_eq!(nights(&disk), [2]);
}

/// Rotations reach a host by the answers; what was sealed to the inbox of an earlier epoch is admitted as long as that is not
/// retired.
#[test]
fn a_rotation_reaches_a_host_with_the_next_answer() {
    let (disk, bundle) = prepared();
    let folder = tempfile::tempdir().unwrap();
    let host = |number| host_night(&bundle, Arc::clone(&disk) as _, folder.path(), number).unwrap();
    let epoch = || open(&disk).store().hosts().unwrap()[0].epoch;
    host(1);
    assert!(take_in(&open(&disk)).unwrap().iter().all(is_admitted));
    open(&disk).store().rotate().unwrap();
    host(2);
    assert!(take_in(&open(&disk)).unwrap().iter().all(is_admitted));
    assert_eq!(epoch(), 1, "it did not know of the new one");
    let retire = || open(&disk).store().retire(1, &[], &RetireOptions::default()).unwrap_err().to_string();
    assert!(retire().contains("hosts may still bring") && retire().contains("web1"), "{}", retire());
    host(3);
    assert!(take_in(&open(&disk)).unwrap().iter().all(is_admitted));
    assert_eq!(epoch(), 2);
    assert_eq!(nights(&disk), [1, 2, 3]);
    assert!(retire().contains("still needed here") && !retire().contains("web1"), "{}", retire());
    // Moved and retired, with a run of the host in the inbox: it is sealed to the newest.
    host(4);
    let repo = open(&disk);
    let options = RenewOptions { packer: packs(), ..RenewOptions::default() };
    for _ in 0..2 {
        renew(&repo, None, repo.store().epoch(), &options, &Tally::default()).unwrap();
    }
    repo.store().retire(1, &[], &RetireOptions::default()).unwrap();
    assert!(take_in(&open(&disk)).unwrap().iter().all(is_admitted));
    assert_eq!(nights(&disk), [1, 2, 3, 4]);
}

/// A bundle that lay in a drawer while its epoch was retired: the first run is refused, and brings the new key.
#[test]
fn a_bundle_of_a_retired_epoch_is_refused_once() {
    let (disk, bundle) = prepared();
    let folder = tempfile::tempdir().unwrap();
    let repo = open(&disk);
    // As if the host had been given up, and added again by hand.
    repo.store()
        .update_head(|head| {
            head.hosts.find_mut(|_| true)?.unwrap().epoch = 2;
            Ok(())
        })
        .unwrap();
    repo.store().rotate().unwrap();
    let options = RenewOptions { packer: packs(), ..RenewOptions::default() };
    for _ in 0..2 {
        renew(&repo, None, repo.store().epoch(), &options, &Tally::default()).unwrap();
    }
    repo.store().retire(1, &[], &RetireOptions::default()).unwrap();
    let host = |number| host_night(&bundle, Arc::clone(&disk) as _, folder.path(), number).unwrap();
    host(1);
    let done = take_in(&open(&disk)).unwrap();
    assert!(
        matches!(&done[0].outcome, Outcome::Refused { why, .. } if why.contains("was retired")),
        "{done:?}"
    );
    assert!(!host(2), "the host is told");
    assert!(take_in(&open(&disk)).unwrap().iter().all(is_admitted));
    assert_eq!(nights(&disk), [2]);
}

/// An object in the place of a commit: the host's own is its own, and another one is no snapshot of the host's, which hears so,
/// and stores again what it needs.
#[test]
fn a_commit_whose_place_is_taken_is_no_success_unless_it_is_there() {
    for way in [Way::Own, Way::OwnUnseen, Way::Other, Way::Longer] {
        let (disk, bundle) = prepared();
        let folder = tempfile::tempdir().unwrap();
        let night = |number| host_night(&bundle, Arc::clone(&disk) as _, folder.path(), number);
        night(1).unwrap();
        take_in(&open(&disk)).unwrap();
        let occupied = Occupied::new(&disk, way);
        let ended = host_night(&bundle, occupied, folder.path(), 2);
        let is_own = matches!(way, Way::Own | Way::OwnUnseen);
        match ended {
            Ok(_) => assert!(is_own, "{way:?}"),
            Err(error) => {
                assert!(
                    !is_own && error.to_string().contains("another object is where its commit goes"),
                    "{way:?}: {error}"
                );
            }
        }
        let was_well = night(3).unwrap();
        assert_eq!(was_well, is_own, "{way:?}: the host hears of it without any answer");
        // What is in the way of the second run is left, or removed; the third one brings all that it needs.
        take_in(&open(&disk)).unwrap();
        take_in(&open(&disk)).unwrap();
        let expected: &[u64] = if is_own { &[1, 2, 3] } else { &[1, 3] };
        assert_eq!(nights(&disk), expected, "{way:?}");
        assert!(night(4).unwrap(), "{way:?}: it is told once");
        assert!(take_in(&open(&disk)).unwrap().iter().all(is_admitted), "{way:?}");
        assert_eq!(nights(&disk).last(), Some(&4), "{way:?}");
        clean(&open(&disk)).unwrap();
    }
}

/// A lost cache folder costs an upload, and is told.
#[test]
fn a_host_that_lost_its_book_begins_anew() {
    let (disk, bundle) = prepared();
    let folder = tempfile::tempdir().unwrap();
    for number in 1..3 {
        host_night(&bundle, Arc::clone(&disk) as _, folder.path(), number).unwrap();
    }
    take_in(&open(&disk)).unwrap();
    host_night(&bundle, Arc::clone(&disk) as _, folder.path(), 3).unwrap();
    let other = tempfile::tempdir().unwrap();
    host_night(&bundle, Arc::clone(&disk) as _, other.path(), 4).unwrap();
    let done = take_in(&open(&disk)).unwrap();
    assert!(done.len() == 2 && done.iter().all(is_admitted), "{done:?}");
    assert!(matches!(done[1].outcome, Outcome::Admitted { anew: true, .. }), "{done:?}");
    assert_eq!(nights(&disk), [1, 2, 3, 4]);
    // The one that was thought lost comes back, as a stolen one would: it is out of the order, and hears so.
    host_night(&bundle, Arc::clone(&disk) as _, folder.path(), 5).unwrap();
    let done = take_in(&open(&disk)).unwrap();
    assert!(matches!(&done[0].outcome, Outcome::Refused { .. }), "{done:?}");
    // Set back, as a machine that was restored from an image is: it goes on, and the full client says so.
    assert!(!host_night(&bundle, Arc::clone(&disk) as _, folder.path(), 6).unwrap());
    let done = take_in(&open(&disk)).unwrap();
    assert!(
        matches!(done[..], [Admission { outcome: Outcome::Admitted { anew: true, .. }, .. }]),
        "{done:?}"
    );
    assert_eq!(nights(&disk), [1, 2, 3, 4, 6]);
}

/// A host is revoked at any call of a prune: nothing of another one is removed, and in the end nothing of its own is left.
#[test]
fn a_prune_beside_a_revocation_takes_only_what_is_revoked() {
    let (disk, bundle) = prepared();
    let other = open(&disk).store().add_host("web2", "memory").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let own_of = |bundle: &Bundle| folder.path().join(bundle.keys.host.to_string());
    let host = |bundle: &Bundle, number| {
        let mut book = book(bundle, Arc::clone(&disk) as _, &own_of(bundle)).unwrap();
        let time = jiff::Timestamp::from_second(number as i64).unwrap();
        let hostname = bundle.name.clone();
        let options = BackupOptions { packer: packs(), time, hostname, ..BackupOptions::default() };
        backup_as_host(&mut book, &mut source(number), &options, &Tally::default()).unwrap();
    };
    host(&bundle, 1);
    host(&other, 2);
    take_in(&open(&disk)).unwrap();
    host(&bundle, 3);
    host(&other, 4);
    let of = |disk: &MemoryStorage, bundle: &Bundle| -> Vec<String> {
        let id = bundle.keys.host.to_string();
        disk.objects().keys().filter(|name| name.contains(&id)).cloned().collect()
    };
    let (kept, left) = (of(&disk, &bundle), of(&disk, &other));
    assert!(kept.len() > 3 && left.len() > 3, "{kept:?} {left:?}");
    for calls in 0.. {
        let disk = copy(&disk);
        let beside = Beside::new(&disk, calls, |disk| drop(open(disk).store().revoke_host("web2")));
        let done = Repository::open(access(Arc::clone(&beside) as _), b"x").and_then(|repo| clean(&repo));
        done.unwrap_or_else(|error| panic!("revoked before call {calls}: {error:?}"));
        assert_eq!(of(&disk, &bundle), kept, "before call {calls}");
        if beside.is_over() {
            println!("revoked before each of {calls} calls of a prune, all well");
            assert_eq!(of(&disk, &other), left, "it was not revoked");
            return;
        }
        clean(&open(&disk)).unwrap();
        assert_eq!(of(&disk, &other), Vec::<String>::new(), "before call {calls}");
        assert!(take_in(&open(&disk)).unwrap().iter().all(is_admitted), "before call {calls}");
        assert_eq!(nights(&disk), [1, 2, 3], "before call {calls}");
    }
}

/// What is revoked and removed at any call of an admission is in the repository whole, or not at all.
#[test]
fn a_revocation_and_a_prune_beside_an_admission_leave_nothing_halved() {
    let (disk, bundle) = prepared();
    let folder = tempfile::tempdir().unwrap();
    host_night(&bundle, Arc::clone(&disk) as _, folder.path(), 1).unwrap();
    take_in(&open(&disk)).unwrap();
    host_night(&bundle, Arc::clone(&disk) as _, folder.path(), 2).unwrap();
    for calls in 0.. {
        let disk = copy(&disk);
        let beside = Beside::new(&disk, calls, |disk| {
            open(disk).store().revoke_host("web1").unwrap();
            clean(&open(disk)).unwrap();
        });
        let done = Repository::open(access(Arc::clone(&beside) as _), b"x").and_then(|repo| take_in(&repo));
        if beside.is_over() {
            println!("revoked before each of {calls} calls of an admission, all well");
            return;
        }
        let is_in = done.unwrap_or_default().iter().any(is_admitted);
        let there = nights(&disk);
        assert!(there == [1, 2] || there == [1] && !is_in, "before call {calls}: {there:?}");
        clean(&open(&disk)).unwrap();
        let id = bundle.keys.host.to_string();
        let left = disk.objects().keys().filter(|name| name.contains(&id)).count();
        assert_eq!(left, 0, "before call {calls}");
    }
}

#[test]
fn a_revoked_host_brings_nothing_more() {
    let (disk, bundle) = prepared();
    let folder = tempfile::tempdir().unwrap();
    host_night(&bundle, Arc::clone(&disk) as _, folder.path(), 1).unwrap();
    take_in(&open(&disk)).unwrap();
    host_night(&bundle, Arc::clone(&disk) as _, folder.path(), 2).unwrap();
    open(&disk).store().revoke_host("web1").unwrap();
    assert_eq!(take_in(&open(&disk)).unwrap(), []);
    assert_eq!(nights(&disk), [1]);
    // Its name is free again, for another key.
    let again = open(&disk).store().add_host("web1", "memory").unwrap();
    assert_ne!(again.keys.host, bundle.keys.host);
}

/// What an admitter would refuse, a host does not write: it says so, and its next backup brings what it stored.
#[test]
fn a_record_that_is_too_long_fails_at_the_host() {
    let (disk, bundle) = prepared();
    let folder = tempfile::tempdir().unwrap();
    let mut book = book(&bundle, Arc::clone(&disk) as _, folder.path()).unwrap();
    let options = BackupOptions {
        packer: packs(),
        time: jiff::Timestamp::from_second(1).unwrap(),
        hostname: "web1".into(),
        description: "x".repeat(chunkstore::format::MAX_COMMIT_RECORD),
        ..BackupOptions::default()
    };
    let failed = backup_as_host(&mut book, &mut source(1), &options, &Tally::default()).unwrap_err();
    assert!(failed.to_string().contains("the record of the snapshot has"), "{failed}");
    assert!(inbox(&disk).iter().all(|name| !name.ends_with("/commit")));
    drop(book);
    host_night(&bundle, Arc::clone(&disk) as _, folder.path(), 2).unwrap();
    let done = take_in(&open(&disk)).unwrap();
    assert!(matches!(&*done, [admission] if is_admitted(admission)), "{done:?}");
    assert_eq!(nights(&disk), [2]);
}
