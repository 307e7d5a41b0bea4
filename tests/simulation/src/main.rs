//! `simulate`: worlds by number.

use clap::Parser;
use simulation::{ALL, Coverage, simulate};
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Run the engine in simulated worlds, and say what happened in them
#[derive(Parser)]
struct Args {
    /// How many seeds
    #[arg(long, default_value_t = 2000)]
    seeds: u64,
    /// The first of them; a failing seed is run again with --first SEED --seeds 1
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Worlds at a time: the threads of one wait for each other, so more of them than there are cores
    #[arg(long, default_value_t = 6)]
    threads: u64,
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let (next, steps, start) = (AtomicU64::new(args.first), AtomicU64::new(0), Instant::now());
    let (coverage, failed) = (Coverage::default(), Mutex::new(vec![]));
    let end = args.first + args.seeds;
    std::thread::scope(|scope| {
        for _ in 0..args.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    match std::panic::catch_unwind(|| simulate(seed)) {
                        Ok(outcome) => {
                            steps.fetch_add(outcome.steps, Ordering::Relaxed);
                            coverage.merge(&outcome.coverage);
                        }
                        Err(_) => failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(seed),
                    }
                }
            });
        }
    });
    let mut out = std::io::stdout().lock();
    let (steps, seconds) = (steps.into_inner(), start.elapsed().as_secs_f64());
    writeln!(out, "{} seeds from {}, {steps} steps, {seconds:.0} s", args.seeds, args.first)?;
    for what in ALL {
        writeln!(out, "  {:15} {}", format!("{what:?}"), coverage.get(what))?;
    }
    let failed = failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    if failed.is_empty() {
        return writeln!(out, "no seed failed");
    }
    writeln!(out, "{} seeds failed, of them {:?}", failed.len(), &failed[..failed.len().min(10)])?;
    Err(std::io::Error::other("run again with --first SEED --seeds 1"))
}
