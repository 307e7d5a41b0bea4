//! `simulate`: worlds by number.

use clap::Parser;
use simulation::{ALL, run_seeds};
use std::io::Write as _;
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
    threads: usize,
}

fn main() -> std::io::Result<()> {
    let Args { seeds, first, threads } = Args::parse();
    let start = Instant::now();
    let ran = run_seeds(first..first + seeds, threads);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{seeds} seeds from {first}, {} steps, {:.0} s", ran.steps, start.elapsed().as_secs_f64())?;
    for what in ALL {
        writeln!(out, "  {:15} {}", format!("{what:?}"), ran.coverage.get(what))?;
    }
    if ran.failed.is_empty() {
        return writeln!(out, "no seed failed");
    }
    writeln!(out, "{} seeds failed, the first of them:", ran.failed.len())?;
    ran.failed.iter().take(10).try_for_each(|(seed, why)| writeln!(out, "  {seed}: {why}"))?;
    Err(std::io::Error::other("run again with --first SEED --seeds 1"))
}
