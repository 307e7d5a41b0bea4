//! Death, failure and lies at every call to either store while a tier is brought up to date, tidied and adopted.
//! Whatever happens, what the tier's HEAD names restores from the tier alone; and the work, done again, is done.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails must say where, and this one counts"
)]

use chunkstore::storage::Storage;
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::store::{Found, look};
use engine::monitor::Tally;
use engine::price::PriceTable;
use engine::promise::Until;
use engine::tier::sync::{Owed, SyncOptions, SyncReport, sync};
use engine::tier::{Role, Tier, TierOptions};
use engine::{Repository, Result};
use nights::mortal::{Mortal, copy, everywhere};
use nights::{access, back_up, clean, forget_first, init, nights, open};
use std::sync::Arc;

mod nights;

fn tier(primary: &Repository, storage: Arc<dyn Storage>) -> Result<Tier> {
    // Silent for a moment is dead: every look at the clock is a second.
    let options =
        TierOptions { name: "copy".into(), role: Role::Copy, fence_after_ms: 1, ..TierOptions::default() };
    // Made by whoever comes first, and again by who finds that the making of it was interrupted.
    let prices = PriceTable::default();
    match look(&*storage)? {
        Found::Whole => Tier::open(primary, access(storage), options, &prices, false),
        _ => Tier::make(primary, access(storage), options, &prices, true),
    }
}

/// Copies every other night, so that packs are needed in part, too.
fn bring_up(primary: &Repository, storage: Arc<dyn Storage>) -> Result<SyncReport> {
    let tier = tier(primary, storage)?;
    let there: Vec<_> = tier.repo.snapshot_roots().unwrap().iter().map(|root| root.id).collect();
    let owed: Vec<Owed> = primary
        .snapshots_strict()?
        .into_iter()
        .filter(|listed| listed.snapshot.time.as_second() % 2 == 0 && !there.contains(&listed.id))
        .map(|listed| Owed { listed, until: Until::Forever })
        .collect();
    let report = sync(primary, primary, &tier, &owed, &[], &SyncOptions::default(), &Tally::default())?;
    match report.failed.first() {
        Some((_, why)) => Err(engine::Error::Refused(why.clone())),
        None => Ok(report),
    }
}

fn tidy(primary: &Repository, storage: Arc<dyn Storage>) -> Result<()> {
    tier(primary, storage)?.prune(false, false, false, &Tally::default()).map(drop)
}

#[test]
fn whatever_happens_to_a_tier_at_whichever_call() {
    let primary = Arc::new(MemoryStorage::default());
    init(&primary).unwrap();
    (1..7).for_each(|number| back_up(&open(&primary), number).unwrap());
    let empty = Arc::new(MemoryStorage::default());
    copied_everywhere("first sync", &primary, &empty, &[], &[2, 4, 6]);
    let disk = copy(&empty);
    let report = bring_up(&open(&primary), Arc::clone(&disk) as _).unwrap();
    assert!(report.packs > 0 && report.chunks_rewritten > 0, "both ways are gone: {report:?}");
    // The primary forgets, and its packs change; the tier keeps what it has.
    forget_first(&open(&primary)).unwrap();
    forget_first(&open(&primary)).unwrap();
    clean(&open(&primary)).unwrap();
    (7..9).for_each(|number| back_up(&open(&primary), number).unwrap());
    copied_everywhere("another sync", &primary, &disk, &[2, 4, 6], &[2, 4, 6, 8]);
    bring_up(&open(&primary), Arc::clone(&disk) as _).unwrap();
    let repo = open(&disk);
    let first = repo.snapshots_strict().unwrap()[0].id;
    repo.forget(&[first]).unwrap();
    let points = everywhere(&mut |fault, calls| {
        let disk = copy(&disk);
        let mortal = Mortal::new(&disk, fault, calls);
        let _ = tidy(&open(&primary), Arc::clone(&mortal) as _);
        assert_eq!(nights(&disk), [4, 6, 8], "{fault:?} at {calls}");
        tidy(&open(&primary), Arc::clone(&disk) as _).unwrap();
        assert_eq!(nights(&disk), [4, 6, 8], "{fault:?} at {calls}, again");
        let head = open(&disk).store().head();
        assert!(head.sessions.is_empty() && head.doomed.is_empty(), "{fault:?} at {calls}: {head:?}");
        mortal
    });
    println!("tier prune: {points} faults, all well");
    let points = everywhere(&mut |fault, calls| {
        let disk = copy(&disk);
        let mortal = Mortal::new(&disk, fault, calls);
        let _ = Repository::open(access(Arc::clone(&mortal) as _), b"x")
            .and_then(|repo| Ok(repo.store().adopt()?));
        if open(&disk).store().tier().is_some() {
            open(&disk).store().adopt().unwrap();
        }
        // From here on it is the primary: the old one is refused by whoever was copied from this one.
        back_up(&open(&disk), 9).unwrap();
        assert_eq!(nights(&disk), [4, 6, 8, 9], "{fault:?} at {calls}");
        let other = Arc::new(MemoryStorage::default());
        bring_up(&open(&disk), Arc::clone(&other) as _).unwrap();
        let old = bring_up(&open(&primary), other as _).unwrap_err();
        assert!(matches!(old, engine::Error::Store(chunkstore::Error::Superseded)), "{old:?}");
        mortal
    });
    println!("tier adopt: {points} faults, all well");
}

/// A sync meets every fault at every call, to the tier, and to the primary.
fn copied_everywhere(
    name: &str,
    primary: &Arc<MemoryStorage>,
    tier: &Arc<MemoryStorage>,
    before: &[u64],
    after: &[u64],
) {
    let there = |disk: &Arc<MemoryStorage>| {
        if disk.objects().contains_key("HEAD") { nights(disk) } else { vec![] }
    };
    let sound = primary.objects().clone();
    for fails in ["tier", "primary"] {
        let points = everywhere(&mut |fault, calls| {
            let (primary, tier) = (copy(primary), copy(tier));
            let mortal = Mortal::new(if fails == "tier" { &tier } else { &primary }, fault, calls);
            let ended = if fails == "tier" {
                bring_up(&open(&primary), Arc::clone(&mortal) as _)
            } else {
                Repository::open(access(Arc::clone(&mortal) as _), b"x")
                    .and_then(|repo| bring_up(&repo, Arc::clone(&tier) as _))
            };
            let found = there(&tier);
            // Snapshot by snapshot: one whose packs cannot be read leaves the others to be copied.
            let some = before.iter().all(|night| found.contains(night))
                && found.iter().all(|night| after.contains(night));
            assert!(
                found == after || ended.is_err() && some,
                "{name}, {fails}: {fault:?} at {calls}: {found:?} {ended:?}"
            );
            let mut now = primary.objects().clone();
            now.insert("HEAD".into(), sound["HEAD"].clone());
            assert!(now == sound, "{name}: a sync changes nothing in the primary but its list of tiers");
            bring_up(&open(&primary), Arc::clone(&tier) as _)
                .unwrap_or_else(|error| panic!("{name} again, {fails}: {fault:?} at {calls}: {error:?}"));
            assert_eq!(there(&tier), after, "{name} again, {fails}: {fault:?} at {calls}");
            tidy(&open(&primary), Arc::clone(&tier) as _).unwrap();
            assert_eq!(there(&tier), after, "{name} tidied, {fails}: {fault:?} at {calls}");
            mortal
        });
        println!("{name}, faults of the {fails}: {points}, all well");
    }
}
