//! Signals at random moments. `ESKER_CONFORMANCE_SEED` repeats those of a run that printed its seed.

use super::fixtures::System;
use super::{backup_words, repo, restore_words, start};
use crate::harness::{Repo, noise};
use rustix::process::{Pid, Signal, kill_process};
use std::hash::BuildHasher as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

/// Moments of a backup, and of a restore.
const MOMENTS: u64 = 4;

/// The seed of this run.
fn seed(system: &System) -> u64 {
    let random = std::collections::hash_map::RandomState::new().hash_one(system.name);
    let seed = std::env::var("ESKER_CONFORMANCE_SEED").map_or(random, |text| text.parse().unwrap());
    println!("{}: ESKER_CONFORMANCE_SEED={seed}", system.name);
    seed
}

/// A pause below `most`, and which signal comes after it.
fn moment(seed: u64, number: u64, most: Duration) -> (Duration, Signal) {
    let bytes = noise(seed.wrapping_add(number), 8);
    let random = bytes.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    let pause = Duration::from_millis((random >> 1) % (most.as_millis() as u64).max(1));
    (pause, if random & 1 == 0 { Signal::INT } else { Signal::TERM })
}

/// Runs a command and sends it a signal after a pause.
fn interrupted(repo: &Repo, words: &[String], (pause, signal): (Duration, Signal)) -> Output {
    let child = repo.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(pause);
    let _ = kill_process(Pid::from_raw(child.id().try_into().unwrap()).unwrap(), signal);
    let output = child.wait_with_output().unwrap();
    // Ended by the signal itself where it came before the program heard of signals.
    let by_signal = output.status.signal() == Some(signal.as_raw());
    let is_stopped = by_signal || matches!(output.status.code(), Some(0 | 130));
    println!("{signal:?} after {pause:?}: {:?}", output.status);
    assert!(is_stopped, "{signal:?} after {pause:?}: {output:?}");
    output
}

/// Interrupted at random moments, of a backup and of a restore: 130, or done. What a restore was made into is as it was, or as
/// it was saved, or the message says how it stands; and it works afterwards.
pub(super) fn interruptions(system: &System) {
    let repo = repo();
    let seed = seed(system);
    let one = start(system, &repo, "one", 1);
    let two = (system.start)(&repo, "two");
    // As long as they take without a signal.
    let took = |words: Vec<String>| {
        let began = Instant::now();
        repo.ok(words);
        began.elapsed() + Duration::from_millis(20)
    };
    let most = took(backup_words(&*one));
    for number in 0..MOMENTS {
        one.change(10 + number);
        interrupted(&repo, &backup_words(&*one), moment(seed, number, most));
    }
    repo.ok(backup_words(&*one));
    let saved = one.state();
    let over = two.over().unwrap_or_default();
    let mut most = Duration::from_millis(1500);
    for number in 0..MOMENTS {
        // The first is done, where that can be done again.
        if two.over().is_some() {
            two.fill(3);
            if number == 0 {
                most = took(restore_words(&*two, over));
                two.fill(3);
            }
        }
        let before = two.state();
        let output = interrupted(&repo, &restore_words(&*two, over), moment(seed, 100 + number, most));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let is_done = output.status.code() == Some(0);
        if !is_done {
            two.clear(Some(&said));
        }
        let now = two.state();
        let is_known = now == before && !is_done || now == saved;
        println!(
            "{}: {}",
            if now == before {
                "as it was"
            } else if now == saved {
                "as it was saved"
            } else {
                "between"
            },
            said.trim()
        );
        assert!(is_known || two.tells(&said, &before, &saved), "{}: {output:?}\n{now}", system.name);
        if is_done {
            two.clear(None);
        }
    }
    repo.ok(restore_words(&*two, over));
    assert!(two.state() == saved, "{}: not equal", system.name);
}
