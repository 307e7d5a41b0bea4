//! Clock and randomness, passed in so that every failure replays from a seed.

use crate::pool::locked;
use crate::{Error, Result};
use std::time::Duration;

/// The outside world's two sources of surprise.
pub trait Env: Send + Sync {
    /// Time since the Unix epoch. No safety argument rests on it.
    fn now(&self) -> Duration;
    /// Fills `bytes` with randomness fit for keys and names.
    fn random(&self, bytes: &mut [u8]) -> Result<()>;
    /// Lets time pass before an attempt is repeated.
    fn sleep(&self, time: Duration);
    /// Bytes that HEAD's longest list may take in HEAD itself. A simulation has short lists and a low bound.
    fn head_inline(&self) -> usize {
        16 << 10
    }
}

/// The machine's own clock and random numbers.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemEnv;

impl Env for SystemEnv {
    fn now(&self) -> Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    }
    fn random(&self, bytes: &mut [u8]) -> Result<()> {
        getrandom::fill(bytes).map_err(|error| Error::Randomness(error.to_string()))
    }
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// A virtual clock and a seeded generator, for simulation and tests. Never for real keys.
#[derive(Debug)]
pub struct SeededEnv {
    state: std::sync::Mutex<(blake3::OutputReader, u64)>,
}

impl SeededEnv {
    /// The same seed gives the same bytes and times.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let reader =
            blake3::Hasher::new_derive_key("esker simulation").update(&seed.to_le_bytes()).finalize_xof();
        Self { state: std::sync::Mutex::new((reader, 1_700_000_000_000)) }
    }
}

impl Env for SeededEnv {
    fn now(&self) -> Duration {
        let mut state = locked(&self.state);
        state.1 += 1;
        Duration::from_millis(state.1)
    }
    fn random(&self, bytes: &mut [u8]) -> Result<()> {
        let mut state = locked(&self.state);
        state.0.fill(bytes);
        Ok(())
    }
    fn sleep(&self, time: Duration) {
        let mut state = locked(&self.state);
        state.1 += u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    }
}

/// A random array.
pub fn random_array<const N: usize>(env: &dyn Env) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    env.random(&mut bytes)?;
    Ok(bytes)
}
