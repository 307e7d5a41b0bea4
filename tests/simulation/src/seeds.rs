//! Many worlds, several at a time.

use crate::{Coverage, simulate};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// What came of many seeds.
pub struct Seeds {
    /// Requests and other steps of all of them.
    pub steps: u64,
    /// What was seen to happen.
    pub coverage: Coverage,
    /// Those that failed, the least first, and why.
    pub failed: Vec<(u64, String)>,
}

/// Runs the worlds of these seeds, so many at a time: the threads of one wait for each other, so more of them than there are
/// cores.
#[must_use]
pub fn run_seeds(seeds: Range<u64>, at_a_time: usize) -> Seeds {
    let (next, steps) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let (coverage, failed) = (Coverage::default(), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    match std::panic::catch_unwind(|| simulate(seed)) {
                        Ok(outcome) => {
                            steps.fetch_add(outcome.steps, Ordering::Relaxed);
                            coverage.merge(&outcome.coverage);
                        }
                        Err(cause) => {
                            let why = cause.downcast_ref::<String>().map(String::as_str);
                            let why = why.or_else(|| cause.downcast_ref::<&str>().copied());
                            let why = why.unwrap_or("it panicked without words").to_owned();
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push((seed, why));
                        }
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_unstable();
    Seeds { steps: steps.into_inner(), coverage, failed }
}
