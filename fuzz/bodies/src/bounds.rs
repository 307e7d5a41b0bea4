//! The memory and the time that one input may take, and that no thread of it panics.

use peak_alloc::PeakAlloc;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Longest time for one input. A busy machine is slow; a wait for what never comes takes minutes.
const LONGEST: Duration = Duration::from_secs(20);

/// Panics of all threads so far.
static PANICS: AtomicU64 = AtomicU64::new(0);
/// When the process has to have done with its input, in seconds since 1970; 0 if it has none.
static DEADLINE: AtomicU64 = AtomicU64::new(0);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Counts panics, and ends the process if it does not come back from an input.
#[expect(clippy::print_stderr, reason = "nobody comes back to tell it")]
fn watch() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        usual(panic);
    }));
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let deadline = DEADLINE.load(Ordering::Relaxed);
            if deadline > 0 && now() > deadline {
                eprintln!("an input takes more than {} s", 2 * LONGEST.as_secs());
                std::process::abort();
            }
        }
    });
}

/// Runs `work`, which may take `most` bytes of memory besides what the process has.
///
/// # Panics
/// If it took more, or too long; if a thread of it panicked.
pub fn bounded<T>(most: usize, work: impl FnOnce() -> T) -> T {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(watch);
    ALLOCATOR.reset_peak_usage();
    let (before, began, panics) = (ALLOCATOR.current_usage(), Instant::now(), PANICS.load(Ordering::Relaxed));
    DEADLINE.store(now() + 2 * LONGEST.as_secs(), Ordering::Relaxed);
    let done = work();
    DEADLINE.store(0, Ordering::Relaxed);
    let took = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(took <= most, "{took} bytes of memory for one input, and {most} are its bound");
    let elapsed = began.elapsed();
    assert!(elapsed <= LONGEST, "{elapsed:?} for one input");
    assert_eq!(PANICS.load(Ordering::Relaxed), panics, "a thread panicked");
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_a_bound_is_found() {
        let takes = |len: usize| bounded(1 << 20, || std::hint::black_box(vec![1_u8; len]).len());
        assert_eq!(takes(1 << 10), 1 << 10);
        assert!(std::panic::catch_unwind(|| takes(32 << 20)).is_err());
        let panics = || bounded(1 << 20, || std::thread::spawn(|| panic!("on purpose")).join().is_err());
        assert!(std::panic::catch_unwind(panics).is_err());
    }
}
