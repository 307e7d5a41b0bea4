//! Rotation of data keys: killed at every call, beside another one at every call, beside every other operation at every
//! call; and many of them, with backups and prunes between.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails must say where, and this one counts"
)]

use chunkstore::format::names;
use chunkstore::keys::{KdfParams, SlotOwner};
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::store::RetireOptions;
use engine::monitor::Tally;
use engine::renew::{RenewOptions, renew};
use engine::restore::dump;
use engine::snapshot::Filter;
use engine::{Repository, Result};
use nights::beside::Beside;
use nights::mortal::{Mortal, copy, everywhere};
use nights::{access, back_up, clean, forget_first, init, nights, open, opened_by};
use std::sync::Arc;

mod nights;

type Operation<'a> = &'a dyn Fn(&Repository) -> Result<()>;

const CHEAP: KdfParams = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
const PASSWORDS: [&[u8]; 3] = [b"x", b"y", b"z"];

/// A repository with two nights and three passwords.
fn prepared() -> Arc<MemoryStorage> {
    let disk = Arc::new(MemoryStorage::default());
    init(&disk).unwrap();
    for password in &PASSWORDS[1..] {
        open(&disk).store().add_slot(password, CHEAP, SlotOwner::default()).unwrap();
    }
    (1..3).for_each(|number| back_up(&open(&disk), number).unwrap());
    disk
}

/// The last epoch; every password opens it, and nothing but its grants is left after a prune.
fn settled(disk: &Arc<MemoryStorage>, passwords: &[&[u8]], when: &str) -> u32 {
    let mut epochs = vec![];
    for password in passwords {
        let repo = Repository::open(access(Arc::clone(disk) as _), password)
            .unwrap_or_else(|error| panic!("{when}: {error:?}"));
        epochs.push(repo.store().head().epoch());
        let head = repo.store().head();
        let known: Vec<u32> = head.epochs.keys().copied().filter(|epoch| *epoch > head.retired()).collect();
        assert!(known.iter().all(|epoch| repo.store().keys().has_epoch(*epoch).unwrap()), "{when}");
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1, "{when}");
    clean(&open(disk)).unwrap_or_else(|error| panic!("{when}: {error:?}"));
    let head = open(disk).store().head();
    assert!(head.sessions.is_empty(), "{when}");
    // What a killed rotation left goes when HEAD is past its number.
    let is_past = |name: &&String| names::grants_epoch(name).is_some_and(|epoch| epoch <= head.epoch());
    let left: Vec<String> = disk.objects().keys().filter(is_past).cloned().collect();
    let needed: Vec<String> = head.grants.map(|_| names::grants(head.epoch())).into_iter().collect();
    assert_eq!(left, needed, "{when}");
    epochs[0]
}

#[test]
fn a_rotation_that_ends_anywhere_leaves_the_old_epoch_or_the_new_one() {
    let disk = prepared();
    let points = everywhere(&mut |fault, calls| {
        let disk = copy(&disk);
        let when = format!("{fault:?} at {calls}");
        let mortal = Mortal::new(&disk, fault, calls);
        let ended = Repository::open(access(Arc::clone(&mortal) as _), b"y")
            .and_then(|repo| Ok(repo.store().rotate()?.epoch));
        let now = settled(&disk, &PASSWORDS, &when);
        match &ended {
            Ok(epoch) => assert_eq!(now, *epoch, "{when}"),
            Err(_) => assert!(now == 1 || now == 2, "{when}: {now}"),
        }
        assert_eq!(nights(&disk), [1, 2], "{when}");
        // Again, as a person would; and on.
        let again = open(&disk).store().rotate().unwrap_or_else(|error| panic!("{when}: {error:?}"));
        assert!(again.epoch > now && again.before == now && again.slots.len() == 3, "{when}: {again:?}");
        back_up(&open(&disk), 3).unwrap();
        assert_eq!(settled(&disk, &PASSWORDS, &when), again.epoch, "{when}");
        assert_eq!(nights(&disk), [1, 2, 3], "{when}");
        mortal
    });
    println!("rotate: {points} faults, all well");
}

/// Does `work` with a rotation by another process before its nth call, for every n; `judge` looks at what came of it.
fn beside_a_rotation(
    name: &str,
    disk: &MemoryStorage,
    work: Operation<'_>,
    judge: &dyn Fn(&Arc<MemoryStorage>, &str),
) {
    static ROTATE: fn(&Arc<MemoryStorage>) = |disk| {
        open(disk).store().rotate().unwrap();
    };
    for calls in 0.. {
        let disk = copy(disk);
        let beside = Beside::new(&disk, calls, ROTATE);
        let when = format!("{name}, a rotation before call {calls}");
        Repository::open(access(Arc::clone(&beside) as _), b"y")
            .and_then(|repo| work(&repo))
            .unwrap_or_else(|error| panic!("{when}: {error:?}"));
        let is_over = beside.is_over();
        let epoch = open(&disk).store().head().epoch();
        assert!(is_over || epoch >= 2, "{when}: {epoch}");
        judge(&disk, &when);
        if is_over {
            println!("{name}: beside a rotation at each of {calls} calls, all well");
            return;
        }
    }
}

#[test]
fn two_rotations_at_once_make_two_epochs() {
    let rotate = |repo: &Repository| Ok(repo.store().rotate().map(drop)?);
    beside_a_rotation("rotate", &prepared(), &rotate, &|disk, when| {
        let epochs = open(disk).store().head().epochs.len();
        assert!(epochs == 3 || epochs == 2 && when.contains("before call"), "{when}: {epochs}");
        settled(disk, &PASSWORDS, when);
        assert_eq!(nights(disk), [1, 2], "{when}");
    });
}

#[test]
fn a_slot_that_is_added_beside_a_rotation_opens() {
    let add = |repo: &Repository| Ok(repo.store().add_slot(b"new", CHEAP, SlotOwner::default()).map(drop)?);
    let all = [PASSWORDS[0], PASSWORDS[1], PASSWORDS[2], b"new"];
    beside_a_rotation("key add", &prepared(), &add, &|disk, when| {
        settled(disk, &all, when);
        // And after the next.
        open(disk).store().rotate().unwrap();
        settled(disk, &all, when);
    });
}

/// A slot that is removed while a rotation is at work may be in its grants, and is not in those of the next.
#[test]
fn a_slot_that_is_removed_beside_a_rotation_is_not_in_the_next_one() {
    let disk = prepared();
    let theirs = Repository::open(access(Arc::clone(&disk) as _), b"z").unwrap();
    let theirs = theirs.store().keys().own_slot().unwrap();
    let remove = |repo: &Repository| Ok(repo.store().remove_slot(&theirs)?);
    beside_a_rotation("key remove", &disk, &remove, &|disk, when| {
        let file = names::key(&theirs);
        let done = open(disk).store().rotate().unwrap();
        assert!(done.slots.len() == 2 && !disk.objects().contains_key(&file), "{when}");
        settled(disk, &PASSWORDS[..2], when);
        let refused = Repository::open(access(Arc::clone(disk) as _), b"z").err().unwrap();
        assert!(format!("{refused:?}").contains("WrongPassword"), "{when}: {refused:?}");
    });
}

#[test]
fn whoever_is_at_work_goes_on_beside_a_rotation() {
    let disk = prepared();
    let is = |expected: &'static [u64]| {
        move |disk: &Arc<MemoryStorage>, when: &str| {
            assert_eq!(nights(disk), expected, "{when}");
            settled(disk, &PASSWORDS, when);
        }
    };
    beside_a_rotation("backup", &disk, &|repo| back_up(repo, 3), &is(&[1, 2, 3]));
    beside_a_rotation("forget", &disk, &forget_first, &is(&[2]));
    beside_a_rotation("prune", &disk, &clean, &is(&[1, 2]));
    let read = |repo: &Repository| {
        let listed = repo.find("latest", &Filter::default(), &Tally::default())?;
        dump(repo, &listed.snapshot, b"text", &mut vec![], &Tally::default()).map(drop)
    };
    beside_a_rotation("dump", &disk, &read, &is(&[1, 2]));
}

/// A process that stays opened reads and writes across rotations by others.
#[test]
fn an_open_repository_follows_every_rotation() {
    let disk = prepared();
    let long = open(&disk);
    for number in 3..8 {
        open(&disk).store().rotate().unwrap();
        back_up(&open(&disk), number).unwrap();
        long.store().reload().unwrap();
        let listed = long.find("latest", &Filter::default(), &Tally::default()).unwrap();
        let mut bytes = vec![];
        dump(&long, &listed.snapshot, b"text", &mut bytes, &Tally::default()).unwrap();
        assert!(bytes == nights::night(number), "night {number}");
    }
    back_up(&long, 9).unwrap();
    assert_eq!(long.store().keys().epochs().len(), 6);
    assert_eq!(nights(&disk), [1, 2, 3, 4, 5, 6, 7, 9]);
}

/// Moves all to the newest epoch, and retires the others.
fn move_and_retire(repo: &Repository) -> Result<()> {
    let head = repo.store().reload()?;
    let epoch = head.epoch();
    // A rotation that was killed takes a number, and nothing more.
    let Some(before) = head.epochs.range(..epoch).map(|(before, _)| *before).next_back() else {
        return Ok(());
    };
    let options = RenewOptions { packer: nights::packs(), fence_after_ms: 1, ..RenewOptions::default() };
    let report = renew(repo, None, epoch, &options, &Tally::default())?;
    if report.is_done() {
        repo.store().retire(before, &[], &RetireOptions::default())?;
    }
    Ok(())
}

/// Tries every object with the key of every epoch that is left: those of its own epoch open it, and no others. Returns how many
/// were opened, and how many tries failed as they must.
fn each_by_every_epoch(disk: &Arc<MemoryStorage>) -> (usize, usize) {
    let repo = open(disk);
    let keys = repo.store().keys();
    let mut opened = std::collections::BTreeMap::new();
    for epoch in keys.epochs() {
        for name in opened_by(keys, &[epoch], disk) {
            let before = opened.insert(name.clone(), epoch);
            assert_eq!(before, None, "{name} is opened by the key of epoch {epoch}, too");
        }
    }
    for (name, bytes) in disk.objects().iter() {
        let Some(epoch) = opened.get(name) else {
            assert!(!name.starts_with(names::PACKS), "no key opens {name}");
            continue;
        };
        let at = if name.starts_with(names::PACKS) { 12 } else { 8 };
        assert_eq!(bytes[at..at + 4], epoch.to_le_bytes(), "{name}");
    }
    let newest = keys.epochs().last().copied();
    assert!(opened.len() > 10 && opened.values().any(|epoch| Some(*epoch) == newest), "{opened:?}");
    (opened.len(), opened.len() * (keys.epochs().len() - 1))
}

/// Rotations with backups and prunes between, and now and then a re-encryption and a retirement, each killed at some call
/// and done again: 20, or as many as `ESKER_ROTATIONS` says.
#[test]
fn many_rotations_with_backups_prunes_and_kills_between() {
    let rotations: u64 = std::env::var("ESKER_ROTATIONS").ok().map_or(20, |text| text.parse().unwrap());
    let disk = prepared();
    let (mut there, mut kills) = (vec![1, 2], 0);
    for round in 0..rotations {
        let number = round + 3;
        let operations: [Operation<'_>; 4] = [
            &|repo| Ok(repo.store().rotate().map(drop)?),
            &|repo| back_up(repo, number),
            &|repo| {
                while repo.snapshot_roots()?.len() > 4 {
                    forget_first(repo)?;
                }
                clean(repo)
            },
            &|repo| if round % 5 == 4 { move_and_retire(repo) } else { Ok(()) },
        ];
        for (place, operation) in operations.into_iter().enumerate() {
            let before = nights(&disk);
            let calls = (round * 7 + place as u64 * 3) % 23 + 4;
            let mortal =
                Mortal::new(&disk, nights::mortal::Fault::Dies { took_effect: round % 2 == 0 }, calls as i64);
            let password = PASSWORDS[(round % 3) as usize];
            let ended = Repository::open(access(Arc::clone(&mortal) as _), password)
                .and_then(|repo| operation(&repo));
            let is_new = place == 1 && nights(&disk) != before;
            if ended.is_err() {
                kills += 1;
                if !is_new {
                    let repo = Repository::open(access(Arc::clone(&disk) as _), password).unwrap();
                    operation(&repo).unwrap_or_else(|error| panic!("round {round}, {place}: {error:?}"));
                }
            }
        }
        there.push(number);
        let kept = there.len().saturating_sub(4);
        there.drain(..kept);
        assert_eq!(nights(&disk), there, "round {round}");
    }
    let head = open(&disk).store().head();
    let epochs = head.epochs.len() as u64;
    assert!(epochs > rotations && (rotations < 5 || head.retired() > 1), "{epochs}");
    settled(&disk, &PASSWORDS, "at the end");
    let (objects, tried) = each_by_every_epoch(&disk);
    println!("{objects} objects, each opened by the key of its own epoch, and by none of {tried} others");
    // A slot of the beginning has all keys from the last grants alone.
    println!("{rotations} rotations, {kills} kills, {epochs} epochs");
    assert!(kills > rotations / 2, "{kills}");
}
