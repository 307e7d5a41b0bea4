//! A repository in a folder, and a file system that fails at every call that changes something: the power goes,
//! the call fails, the disk is full. After each the power goes, if it has not, and of what was not made to last
//! any part is gone. What was acknowledged is there, `check` is content, and the operation, run again, does its
//! work.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that fails must say where, and this one counts"
)]

use chunkstore::storage::local::LocalStorage;
use engine::{Repository, Result};
use nights::{access, back_up, clean, forget_first, init, nights, open};
use simulation::files::{FaultFs, Survives, Trouble};
use std::io::ErrorKind;
use std::sync::Arc;

mod nights;

const TROUBLES: [Trouble; 3] = [Trouble::PowerCut, Trouble::Fails(ErrorKind::Other), Trouble::Full];

fn mount(files: &FaultFs) -> Arc<LocalStorage<FaultFs>> {
    Arc::new(LocalStorage::with_files(files.clone(), "/".into(), "/".into()).unwrap())
}

/// What may be left of what was not synced.
fn ways(seed: u64) -> Vec<Survives> {
    let pieces = (0..2).map(|piece| Survives::Pieces(2 * seed + piece));
    [Survives::Nothing, Survives::Everything, Survives::Names, Survives::Content]
        .into_iter()
        .chain(pieces)
        .collect()
}

/// Meets every trouble at every call of `work`; returns how often. `before` and `after` are the nights that are
/// there then, of which either is fine as long as it did not end well.
fn suffers_everywhere(
    name: &str,
    files: &FaultFs,
    before: &[u64],
    after: &[u64],
    work: &dyn Fn(&Repository) -> Result<()>,
) {
    let mut cuts = 0;
    for calls in 0.. {
        let mut struck = false;
        for trouble in TROUBLES {
            let live = files.troubled(trouble, calls);
            let ended = Repository::open(access(mount(&live)), b"x")
                .and_then(|repo| work(&repo))
                .map_err(|error| error.to_string());
            struck |= live.has_struck();
            for survives in ways(calls) {
                let what = format!("{name}: {trouble:?} at {calls}, {survives:?}");
                let then = live.after_power_cut(survives);
                let found = nights(&mount(&then));
                assert!(found == after || ended.is_err() && found == before, "{what}: {found:?} {ended:?}");
                // Forgetting the first again would forget the second.
                if found != after || name != "forget" {
                    work(&open(&mount(&then))).unwrap_or_else(|error| panic!("{what}, again: {error:?}"));
                }
                let again = then.after_power_cut(Survives::Nothing);
                let mut found = nights(&mount(&again));
                found.dedup();
                assert_eq!(found, after, "{what}, again");
                clean(&open(&mount(&again))).unwrap();
                assert_eq!(
                    nights(&mount(&again.after_power_cut(Survives::Nothing))).last(),
                    after.last(),
                    "{what}"
                );
                cuts += 1;
            }
        }
        if !struck {
            break;
        }
    }
    println!("{name}: {cuts} power cuts, all well");
}

/// A call fails and the run ends; others follow, and succeed; then the power goes. What a failed sync should have
/// made last, nobody makes last later: those who come after must not build on it.
fn goes_on_after_failure(files: &FaultFs, before: &[u64], next: u64) {
    let mut times = 0;
    for calls in 0.. {
        let live = files.troubled(Trouble::Fails(ErrorKind::Other), calls);
        let first = Repository::open(access(mount(&live)), b"x").and_then(|repo| back_up(&repo, next));
        if !live.has_struck() {
            break;
        }
        back_up(&open(&mount(&live)), next + 1).unwrap();
        clean(&open(&mount(&live))).unwrap();
        for survives in ways(calls) {
            let found = nights(&mount(&live.after_power_cut(survives)));
            let without: Vec<u64> = before.iter().copied().chain([next + 1]).collect();
            let with: Vec<u64> = before.iter().copied().chain([next, next + 1]).collect();
            assert!(
                found == with || first.is_err() && found == without,
                "{calls}, {survives:?}: {found:?} {first:?}"
            );
            times += 1;
        }
    }
    println!("a backup after one that failed: {times} power cuts, all well");
}

#[test]
fn what_was_acknowledged_outlasts_the_power() {
    let files = FaultFs::default();
    init(&mount(&files)).unwrap();
    suffers_everywhere("first backup", &files, &[], &[1], &|repo| back_up(repo, 1));
    (1..4).for_each(|number| back_up(&open(&mount(&files)), number).unwrap());
    suffers_everywhere("another backup", &files, &[1, 2, 3], &[1, 2, 3, 4], &|repo| back_up(repo, 4));
    goes_on_after_failure(&files, &[1, 2, 3], 4);
    suffers_everywhere("forget", &files, &[1, 2, 3], &[2, 3], &forget_first);
    forget_first(&open(&mount(&files))).unwrap();
    suffers_everywhere("prune", &files, &[2, 3], &[2, 3], &clean);
}
