//! When the server was at which offset: commands come late after a full synchronisation or a cut, and must not
//! be thought to have been executed when they came.

use std::collections::VecDeque;

/// Samples that are kept: at ten a second, a quarter of an hour.
const KEPT: usize = 10_000;

/// Offsets and when they were reached, both rising.
#[derive(Debug, Default)]
pub(super) struct Times {
    samples: VecDeque<(u64, u64)>,
}

impl Times {
    /// At `time_ms` the server was at `offset`.
    pub(super) fn add(&mut self, time_ms: u64, offset: u64) {
        if let Some((last_ms, last)) = self.samples.back_mut() {
            if offset < *last || time_ms < *last_ms {
                self.samples.clear();
            } else if offset == *last {
                *last_ms = time_ms;
                return;
            }
        }
        self.samples.push_back((time_ms, offset));
        if self.samples.len() > KEPT {
            self.samples.pop_front();
        }
    }

    /// When `offset` was reached, for bytes that came at `now_ms`: between two samples, in proportion.
    pub(super) fn of(&self, offset: u64, now_ms: u64) -> u64 {
        let after = self.samples.partition_point(|(_, at)| *at < offset);
        match (after.checked_sub(1).and_then(|before| self.samples.get(before)), self.samples.get(after)) {
            (_, None) => now_ms,
            (None, Some((time_ms, _))) => (*time_ms).min(now_ms),
            (Some((from_ms, from)), Some((to_ms, to))) => {
                let part = (offset - from) as f64 / (to - from) as f64;
                (from_ms + (part * (to_ms - from_ms) as f64) as u64).min(now_ms)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_proportion() {
        let mut times = Times::default();
        assert_eq!(times.of(5, 900), 900);
        times.add(1000, 100);
        times.add(2000, 200);
        times.add(2500, 200);
        assert_eq!(times.of(100, 9000), 1000);
        assert_eq!(times.of(150, 9000), 1750);
        assert_eq!(times.of(200, 9000), 2500);
        assert_eq!(times.of(201, 9000), 9000);
        assert_eq!(times.of(50, 9000), 1000);
        // Another history.
        times.add(3000, 10);
        assert_eq!(times.of(150, 9000), 9000);
    }
}
