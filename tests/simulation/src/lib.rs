//! Runs the real engine, as many hosts at once, in virtual time, on a store that fails: every interleaving,
//! every fault and every crash comes from a seed, and a seed that fails is run again by its number.
//!
//! What is simulated is the outside: storage, clock, randomness, threads. Everything above is the code that
//! ships, with its index in memory.

mod coverage;
pub mod files;
mod judge;
mod schedule;
mod seeds;
mod storage;
mod world;

pub use coverage::{ALL, Coverage, Sometimes};
pub use seeds::{Seeds, run_seeds};
pub use world::{Outcome, simulate};

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(test)]
mod tests {
    use super::*;

    /// A seed that cannot be repeated is no help.
    #[test]
    fn a_seed_is_the_same_again() {
        for seed in 0..40 {
            let (one, two) = (simulate(seed), simulate(seed));
            assert_eq!((one.steps, one.trace), (two.steps, two.trace), "seed {seed}");
        }
    }

    /// `ESKER_SEEDS` for fewer, where a mutant is to be found out by any of many tests.
    #[test]
    fn two_thousand_seeds() {
        let seeds = std::env::var("ESKER_SEEDS").map_or(2000, |text| text.parse().unwrap());
        let ran = run_seeds(0..seeds, 4);
        assert!(ran.failed.is_empty(), "{:#?}; 'make simulate FIRST=n SEEDS=1' runs one again", ran.failed);
        for what in ALL {
            assert!(ran.coverage.get(what) > 0, "{what:?} never happened");
        }
    }
}
