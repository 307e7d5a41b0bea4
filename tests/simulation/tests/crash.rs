//! Death at every call to the store, of each operation, before and after the call takes effect; likewise a call that
//! fails once, a store that is full from then on, and an answer that is cut short, altered or left out of a listing. Then a new process opens
//! the repository: what was there is there, `check` is content, and the operation, run again, does its work.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails must say where, and this one counts"
)]

use chunkstore::storage::memory::MemoryStorage;
use chunkstore::store::{Found, look};
use engine::monitor::Tally;
use engine::repair::{PacksOptions, repair_index, repair_packs};
use engine::restore::dump;
use engine::snapshot::Filter;
use engine::verify::{CheckOptions, ReadData, check};
use engine::{Repository, Result};
use nights::mortal::{Call, Fault, Mortal, copy, everywhere};
use nights::{access, back_up, clean, forget_first, init, nights, open};
use std::sync::Arc;

mod nights;

/// How many packs nobody lists.
fn unlisted(disk: &Arc<MemoryStorage>) -> usize {
    let repo = open(disk);
    repo.store().sync_index().unwrap();
    let listed: Vec<String> =
        repo.store().index().packs().unwrap().iter().map(|pack| pack.name.object()).collect();
    disk.objects().keys().filter(|name| name.starts_with("packs/") && !listed.contains(name)).count()
}

/// Meets every fault at every call of `work`; `before` and `after` are the nights that are there then, of which either
/// is fine as long as it did not end well.
fn suffers_everywhere(
    name: &str,
    disk: &Arc<MemoryStorage>,
    before: &[u64],
    after: &[u64],
    work: &dyn Fn(&Repository) -> Result<()>,
) {
    let points = everywhere(&mut |fault, calls| {
        let disk = copy(disk);
        let mortal = Mortal::new(&disk, fault, calls);
        let ended = Repository::open(access(Arc::clone(&mortal) as _), b"x").and_then(|repo| work(&repo));
        let found = nights(&disk);
        assert!(
            found == after || ended.is_err() && found == before,
            "{name}, {fault:?} at {calls}: {found:?} {ended:?}"
        );
        // A swap that failed may have taken effect, for all that the run knows.
        let written = mortal.failed() == Some(Call::Writes);
        if fault == Fault::Full && name.ends_with("backup") && written {
            assert_eq!(
                unlisted(&disk),
                0,
                "{name}: a full store is left with more than it had, at {calls}: {ended:?}"
            );
        }
        // Again, as a person would; forgetting the first would now forget the second.
        if found != after || name != "forget" {
            work(&open(&disk))
                .unwrap_or_else(|error| panic!("{name} again after {fault:?} at {calls}: {error:?}"));
        }
        let mut again = nights(&disk);
        again.dedup();
        assert_eq!(again, after, "{name} again after {fault:?} at {calls}");
        clean(&open(&disk)).unwrap();
        let head = open(&disk).store().head();
        assert!(head.sessions.is_empty() && head.doomed.is_empty(), "{name}, {fault:?} at {calls}: {head:?}");
        mortal
    });
    println!("{name}: {points} faults, all well");
}

/// Mending is interrupted everywhere, and done again: the pack is whole, byte for byte, and was never less than it was.
fn heals_everywhere(disk: &Arc<MemoryStorage>) {
    let heal = |repo: &Repository| {
        let everything = CheckOptions { read_data: ReadData::All, heal: true, ..CheckOptions::default() };
        check(repo, everything, &Tally::default()).map(drop)
    };
    let sound = disk.objects().clone();
    let damaged = copy(disk);
    let mut hurt = vec![];
    for (name, body) in damaged.objects().iter_mut() {
        if name.starts_with("packs/") && hurt.len() < 3 {
            let mut bytes = body.to_vec();
            bytes[300] ^= 1;
            *body = bytes.into();
            hurt.push(name.clone());
        }
    }
    let points = everywhere(&mut |fault, calls| {
        let disk = copy(&damaged);
        let mortal = Mortal::new(&disk, fault, calls);
        let _ = Repository::open(access(Arc::clone(&mortal) as _), b"x").and_then(|repo| heal(&repo));
        for name in &hurt {
            let (now, was) = (disk.objects()[name].clone(), damaged.objects()[name].clone());
            assert!(now == was || now == sound[name], "{fault:?} at {calls}: {name} is neither");
        }
        heal(&open(&disk)).unwrap();
        assert!(*disk.objects() == sound, "{fault:?} at {calls}: not healed");
        mortal
    });
    println!("check --heal: {points} faults, all well");
}

/// What is given up is what is damaged, whatever else goes wrong while it is looked for.
fn gives_up_no_more_than_is_lost(disk: &Arc<MemoryStorage>) {
    let repair = |repo: &Repository| {
        let options = PacksOptions { read_data: true, ..PacksOptions::default() };
        repair_packs(repo, &options, &Tally::default())
    };
    let damaged = copy(disk);
    let largest = {
        let objects = damaged.objects();
        let packs = objects.iter().filter(|(name, _)| name.starts_with("packs/"));
        packs.max_by_key(|(_, body)| body.len()).map(|(name, body)| (name.clone(), body.to_vec())).unwrap()
    };
    let (name, mut bytes) = largest;
    bytes[300] ^= 1;
    damaged.objects().insert(name.clone(), bytes.into());
    damaged.objects().remove(&name.replace("packs/", "parity/"));
    let lost = repair(&open(&copy(&damaged))).unwrap().chunks_lost;
    assert!(lost > 0);
    let mut ended_well = 0;
    let points = everywhere(&mut |fault, calls| {
        let disk = copy(&damaged);
        let mortal = Mortal::new(&disk, fault, calls);
        let ended = Repository::open(access(Arc::clone(&mortal) as _), b"x").and_then(|repo| repair(&repo));
        if let Ok(report) = ended {
            assert_eq!(report.chunks_lost, lost, "{fault:?} at {calls}");
            ended_well += 1;
        }
        let again = repair(&open(&disk)).unwrap().chunks_lost;
        assert!(again == 0 || again == lost, "{fault:?} at {calls}: {again} more");
        mortal
    });
    println!("repair packs: {points} faults, {ended_well} of them without effect, all well");
}

#[test]
fn whatever_happens_at_whichever_call() {
    let disk = Arc::new(MemoryStorage::default());
    init(&disk).unwrap();
    suffers_everywhere("first backup", &disk, &[], &[1], &|repo| back_up(repo, 1));
    (1..5).for_each(|number| back_up(&open(&disk), number).unwrap());
    suffers_everywhere("another backup", &disk, &[1, 2, 3, 4], &[1, 2, 3, 4, 5], &|repo| back_up(repo, 5));
    suffers_everywhere("forget", &disk, &[1, 2, 3, 4], &[2, 3, 4], &forget_first);
    forget_first(&open(&disk)).unwrap();
    forget_first(&open(&disk)).unwrap();
    heals_everywhere(&disk);
    gives_up_no_more_than_is_lost(&disk);
    suffers_everywhere("prune", &disk, &[3, 4], &[3, 4], &clean);
    suffers_everywhere("repair index", &disk, &[3, 4], &[3, 4], &|repo| {
        repair_index(repo, true, false, &Tally::default()).map(drop)
    });
    suffers_everywhere("dump", &disk, &[3, 4], &[3, 4], &|repo| {
        let listed = repo.find("latest", &Filter::default(), &Tally::default())?;
        dump(repo, &listed.snapshot, b"text", &mut vec![], &Tally::default()).map(drop)
    });
}

/// An init that ends anywhere is done by the next, which finds nothing, an unfinished one, or a whole one.
#[test]
fn an_init_that_ends_anywhere_is_done_by_the_next() {
    let points = everywhere(&mut |fault, calls| {
        let disk = Arc::new(MemoryStorage::default());
        let mortal = Mortal::new(&disk, fault, calls);
        let ended = init(&mortal).map(drop);
        if look(&*disk).unwrap() != Found::Whole {
            assert!(ended.is_err(), "{fault:?} at {calls}");
            init(&disk).unwrap_or_else(|error| panic!("{fault:?} at {calls}: {error:?}"));
        }
        back_up(&open(&disk), 1).unwrap();
        clean(&open(&disk)).unwrap();
        assert_eq!(nights(&disk), [1], "{fault:?} at {calls}");
        assert!(open(&disk).store().stray_slots().unwrap().is_empty(), "{fault:?} at {calls}");
        mortal
    });
    println!("init: {points} faults, all well");
}
