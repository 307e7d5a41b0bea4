//! Re-encryption and the retiring of epochs: ended at every call, beside every other operation at every call; and what the
//! keys of earlier epochs open afterwards.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails must say where, and this one counts"
)]

use chunkstore::envelope;
use chunkstore::format::{ObjectKind, PackKind, names};
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::store::RetireOptions;
use chunkstore::{PackId, SessionId};
use engine::monitor::Tally;
use engine::renew::{RenewOptions, RenewReport, renew};
use engine::{Repository, Result};
use nights::beside::Beside;
use nights::mortal::{Fault, Mortal, copy, everywhere, everywhere_of};
use nights::{access, back_up, clean, forget_first, init, nights, open, opened_by, packs};
use std::sync::Arc;

mod nights;

type Operation<'a> = &'a dyn Fn(&Repository) -> Result<()>;
type Verdict<'a> = &'a dyn Fn(&Arc<MemoryStorage>, Result<()>, &str);

fn options() -> RenewOptions {
    RenewOptions { packer: packs(), fence_after_ms: 1, ..RenewOptions::default() }
}

fn re_encrypt(repo: &Repository) -> Result<RenewReport> {
    renew_by(repo, &options())
}

fn renew_by(repo: &Repository, options: &RenewOptions) -> Result<RenewReport> {
    let epoch = repo.store().reload()?.epoch();
    renew(repo, None, epoch, options, &Tally::default())
}

fn retire(repo: &Repository, epoch: u32) -> Result<Vec<u32>> {
    engine::renew::clear(repo.store(), 1)?;
    Ok(repo.store().retire(epoch, &[], &RetireOptions::default())?.epochs)
}

fn rotate(disk: &Arc<MemoryStorage>) {
    open(disk).store().rotate().unwrap();
}

/// Two nights under epoch 1; a third one, whose deltas stand on them, under epoch 2.
fn prepared() -> Arc<MemoryStorage> {
    let disk = Arc::new(MemoryStorage::default());
    init(&disk).unwrap();
    (1..3).for_each(|number| back_up(&open(&disk), number).unwrap());
    rotate(&disk);
    back_up(&open(&disk), 3).unwrap();
    disk
}

/// Re-encrypts until nothing is left; then no key before the newest opens anything, and the epochs are retired.
fn settled(disk: &Arc<MemoryStorage>, expected: &[u64], when: &str) {
    // Whoever has all keys of now, before they are retired.
    let keys = Arc::clone(open(disk).store().keys());
    let newest = open(disk).store().head().epoch();
    let before: Vec<u32> = (1..newest).collect();
    assert!(before.iter().all(|epoch| keys.retired() >= *epoch || keys.has_epoch(*epoch).unwrap()), "{when}");
    for run in 0.. {
        let report = re_encrypt(&open(disk)).unwrap_or_else(|error| panic!("{when}: {error:?}"));
        if report.is_done() {
            break;
        }
        assert!(run < 3, "{when}: {report:?}");
    }
    clean(&open(disk)).unwrap_or_else(|error| panic!("{when}: {error:?}"));
    let opened = opened_by(&keys, &before, disk);
    assert!(opened.is_empty(), "{when}: {opened:?}");
    assert!(!opened_by(&keys, &[newest], disk).is_empty());
    retire(&open(disk), newest - 1).unwrap_or_else(|error| panic!("{when}: {error:?}"));
    let later = open(disk);
    assert_eq!(
        (later.store().keys().retired(), later.store().keys().epochs()),
        (newest - 1, vec![newest]),
        "{when}"
    );
    assert_eq!(nights(disk), expected, "{when}");
}

#[test]
fn all_is_moved_and_then_old_epochs_are_retired() {
    let disk = prepared();
    let repo = open(&disk);
    let ids: Vec<_> = repo.snapshot_roots().unwrap().iter().map(|root| root.id).collect();
    let refused = retire(&repo, 1).unwrap_err().to_string();
    assert!(refused.contains("still needed here") && refused.contains("key re-encrypt"), "{refused}");
    let refused = retire(&repo, 2).unwrap_err().to_string();
    assert!(refused.contains("epoch 2 is the newest"), "{refused}");
    let plan = renew_by(&repo, &RenewOptions { dry_run: true, ..options() }).unwrap();
    assert!(
        plan.renewal.packs > 0 && plan.renewal.packs_moved == plan.renewal.packs && plan.objects > 0,
        "{plan:?}"
    );
    let report = re_encrypt(&repo).unwrap();
    assert!(report.is_done() && report.renewal == plan.renewal, "{report:?}");
    let after: Vec<_> = open(&disk).snapshot_roots().unwrap().iter().map(|root| root.id).collect();
    assert_eq!(after, ids, "snapshots keep their ids");
    settled(&disk, &[1, 2, 3], "at once");
    assert_eq!(retire(&open(&disk), 1).unwrap(), Vec::<u32>::new(), "again, nothing is done");
    // Deltas go on, and a second round of all.
    back_up(&open(&disk), 4).unwrap();
    rotate(&disk);
    back_up(&open(&disk), 5).unwrap();
    settled(&disk, &[1, 2, 3, 4, 5], "a second time");
    // Nothing is stored twice: what is there again is found.
    let packs =
        |disk: &MemoryStorage| disk.objects().keys().filter(|name| name.starts_with(names::PACKS)).count();
    let before = packs(&disk);
    back_up(&open(&disk), 5).unwrap();
    assert!(packs(&disk) - before <= 1, "only a list of entries is new");
}

/// Ends a re-encryption by each of `faults` at every call of it; then it goes on, and is done.
fn ends_anywhere(name: &str, faults: &[Fault]) {
    let disk = prepared();
    let points = everywhere_of(faults, &mut |fault, calls| {
        let disk = copy(&disk);
        let when = format!("{fault:?} at {calls}");
        let mortal = Mortal::new(&disk, fault, calls);
        drop(Repository::open(access(Arc::clone(&mortal) as _), b"x").and_then(|repo| re_encrypt(&repo)));
        assert_eq!(nights(&disk), [1, 2, 3], "{when}");
        settled(&disk, &[1, 2, 3], &when);
        mortal
    });
    println!("re-encrypt, {name}: {points} faults, all well");
}

#[test]
fn a_re_encryption_that_is_killed_anywhere_goes_on_later() {
    ends_anywhere("killed", &[Fault::Dies { took_effect: false }, Fault::Dies { took_effect: true }]);
}

#[test]
fn a_re_encryption_whose_store_fails_anywhere_goes_on_later() {
    ends_anywhere(
        "failing",
        &[Fault::FailsOnce { took_effect: false }, Fault::FailsOnce { took_effect: true }],
    );
}

#[test]
fn a_re_encryption_onto_a_full_store_goes_on_later() {
    ends_anywhere("full", &[Fault::Full]);
}

#[test]
fn a_re_encryption_that_reads_what_is_cut_short_goes_on_later() {
    ends_anywhere("cut short", &[Fault::CutShort]);
}

#[test]
fn a_re_encryption_that_reads_what_was_altered_goes_on_later() {
    ends_anywhere("altered", &[Fault::Altered]);
}

#[test]
fn a_re_encryption_that_is_shown_half_a_list_goes_on_later() {
    ends_anywhere("hides", &[Fault::Hides]);
}

#[test]
fn a_retirement_that_ends_anywhere_is_done_or_not() {
    let disk = prepared();
    assert!(re_encrypt(&open(&disk)).unwrap().is_done());
    let points = everywhere(&mut |fault, calls| {
        let disk = copy(&disk);
        let when = format!("{fault:?} at {calls}");
        let mortal = Mortal::new(&disk, fault, calls);
        let ended =
            Repository::open(access(Arc::clone(&mortal) as _), b"x").and_then(|repo| retire(&repo, 1));
        let retired = open(&disk).store().head().retired();
        assert!(retired <= 1 && (ended.is_err() || retired == 1), "{when}: {ended:?}");
        assert_eq!(nights(&disk), [1, 2, 3], "{when}");
        retire(&open(&disk), 1).unwrap();
        back_up(&open(&disk), 4).unwrap();
        assert_eq!(nights(&disk), [1, 2, 3, 4], "{when}");
        mortal
    });
    println!("retire: {points} faults, all well");
}

/// Does `work` with `other` by another process before its nth call, for every `step`th n. What `work` says is up to `judge`.
fn beside(
    name: &str,
    disk: &MemoryStorage,
    work: Operation<'_>,
    other: fn(&Arc<MemoryStorage>),
    judge: Verdict<'_>,
) {
    for calls in 0.. {
        let disk = copy(disk);
        let beside = Beside::new(&disk, calls, other);
        let when = format!("{name} before call {calls}");
        let done = Repository::open(access(Arc::clone(&beside) as _), b"x").and_then(|repo| work(&repo));
        judge(&disk, done, &when);
        if beside.is_over() {
            println!("{name}: at each of {calls} calls, all well");
            return;
        }
    }
}

/// `other` before every call of a re-encryption, which goes through; of the nights before it, it may take the first, and it
/// may add some.
fn well_beside(name: &str, other: fn(&Arc<MemoryStorage>), added: &[u64]) {
    beside(name, &prepared(), &|repo| re_encrypt(repo).map(drop), other, &|disk, done, when| {
        done.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        let there = nights(disk);
        // After its last call, the other one did not come.
        let added = if there.ends_with(added) { added } else { &[] };
        let forgotten = 3 + added.len() - there.len();
        assert!(forgotten <= usize::from(name == "forget"), "{when}: {there:?}");
        settled(disk, &[&[1, 2, 3][forgotten..], added].concat(), when);
    });
}

/// The same of what takes the session, whose process it cannot see, for dead: then the re-encryption is run again.
fn again_beside(name: &str, other: fn(&Arc<MemoryStorage>)) {
    let work: Operation<'_> = &|repo| re_encrypt(repo).map(drop);
    beside(name, &prepared(), work, other, &|disk, _, when| settled(disk, &[1, 2, 3], when));
}

#[test]
fn a_backup_beside_a_re_encryption() {
    well_beside("backup", |disk| back_up(&open(disk), 4).unwrap(), &[4]);
}

#[test]
fn a_rotation_beside_a_re_encryption() {
    well_beside("rotate", rotate, &[]);
}

#[test]
fn a_forget_beside_a_re_encryption() {
    well_beside("forget", |disk| forget_first(&open(disk)).unwrap(), &[]);
}

#[test]
fn a_prune_beside_a_re_encryption() {
    again_beside("prune", |disk| clean(&open(disk)).unwrap());
}

#[test]
fn two_re_encryptions_at_once() {
    again_beside("re-encrypt", |disk| drop(re_encrypt(&open(disk)).unwrap()));
}

/// The whole of it, by another process that takes nobody for dead.
fn move_and_retire(disk: &Arc<MemoryStorage>) {
    let repo = open(disk);
    let patient = RenewOptions { fence_after_ms: 0, ..options() };
    let report = renew_by(&repo, &patient).unwrap();
    let epoch = repo.store().head().epoch();
    let retired = repo.store().retire(epoch - 1, &[], &RetireOptions::default());
    assert!(report.is_done() || retired.is_err(), "{report:?}");
}

#[test]
fn whoever_is_at_work_while_an_epoch_is_retired_loses_nothing() {
    let disk = prepared();
    let backup: Operation<'_> = &|repo| back_up(repo, 4);
    beside("a backup, re-encrypted and retired", &disk, backup, move_and_retire, &|disk, done, when| {
        done.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        assert_eq!(nights(disk), [1, 2, 3, 4], "{when}");
        settled(disk, &[1, 2, 3, 4], when);
    });
    // It began under epoch 2, which is rotated away and retired meanwhile if nothing waits for it.
    let rotated = |disk: &Arc<MemoryStorage>| {
        rotate(disk);
        move_and_retire(disk);
    };
    beside("a backup, rotated, re-encrypted and retired", &disk, backup, rotated, &|disk, done, when| {
        done.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        settled(disk, &[1, 2, 3, 4], when);
    });
    let read: Operation<'_> = &|repo| {
        let listed = repo.snapshots(&Tally::default())?;
        for one in &listed {
            let found =
                repo.find(&one.id.to_string(), &engine::snapshot::Filter::default(), &Tally::default())?;
            engine::restore::dump(repo, &found.snapshot, b"text", &mut vec![], &Tally::default())?;
        }
        assert_eq!(listed.len(), 3);
        Ok(())
    };
    beside("dumps, re-encrypted and retired", &disk, read, move_and_retire, &|disk, done, when| {
        done.unwrap_or_else(|error| panic!("{when}: {error:?}"));
        settled(disk, &[1, 2, 3], when);
    });
}

#[test]
fn a_budget_is_kept_and_the_next_runs_go_on() {
    let disk = prepared();
    let mut left = vec![];
    for run in 0..40 {
        let budget = RenewOptions { max_repack: Some(20_000), ..options() };
        let report = renew_by(&open(&disk), &budget).unwrap();
        assert!(report.renewal.bytes_moved <= 40_000, "{report:?}");
        assert_eq!(nights(&disk), [1, 2, 3], "run {run}");
        left.push(report.renewal.packs_over);
        if report.is_done() {
            break;
        }
        assert!(report.renewal.packs_over > 0 && report.left.is_some(), "{report:?}");
    }
    assert!(left.len() > 2 && left.is_sorted_by(|a, b| a > b), "{left:?}");
    settled(&disk, &[1, 2, 3], "within budgets");
}

/// Each night under an epoch of its own, so that chains of deltas cross them all.
#[test]
fn chains_of_deltas_across_epochs_move() {
    let disk = Arc::new(MemoryStorage::default());
    init(&disk).unwrap();
    for number in 1..9 {
        back_up(&open(&disk), number).unwrap();
        rotate(&disk);
    }
    forget_first(&open(&disk)).unwrap();
    settled(&disk, &[2, 3, 4, 5, 6, 7, 8], "chains");
}

/// Who has a copied key of a retired epoch, and writes to the store, passes nothing off.
#[test]
fn what_a_retired_key_seals_is_refused() {
    let disk = prepared();
    let repo = open(&disk);
    let before = copy(&disk);
    let theirs = Arc::clone(open(&before).store().keys());
    assert!(re_encrypt(&repo).unwrap().is_done());
    retire(&repo, 1).unwrap();
    // A HEAD under the old key, of a later generation: this process and every one that starts here refuse it by the mark.
    let env = chunkstore::env::SeededEnv::new(1);
    let forged = envelope::seal(&theirs, 1, ObjectKind::Segment, "index/x", b"x", &env).unwrap();
    let refused = envelope::open(repo.store().keys(), ObjectKind::Segment, "index/x", &forged).unwrap_err();
    assert!(refused.is_damage() && refused.to_string().contains("epoch 1, which was retired"), "{refused}");
    // An old pack that is put back where it lay.
    let old = before
        .objects()
        .iter()
        .find(|(name, _)| name.starts_with(names::PACKS))
        .map(|(name, _)| name.clone());
    let (session, pack) = old.as_deref().unwrap().strip_prefix("packs/").unwrap().split_once('/').unwrap();
    let name = chunkstore::pack::PackName {
        session: SessionId::parse(session).unwrap(),
        id: PackId::parse(pack).unwrap(),
        kind: PackKind::Data,
        epoch: 1,
    };
    let refused = chunkstore::pack::PackReader::new(name, open(&disk).store().keys()).err().unwrap();
    assert!(refused.to_string().contains("retired") && refused.to_string().contains(pack), "{refused}");
    // Later grants and slots do not have it.
    rotate(&disk);
    let keys = Arc::clone(open(&disk).store().keys());
    assert_eq!(keys.epochs(), [2, 3]);
}
