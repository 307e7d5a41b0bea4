//! When the server was at which offset: commands come late after a full synchronisation or a cut, and must not
//! be thought to have been executed when they came.

use std::collections::VecDeque;

/// Samples that are kept: at ten a second, a quarter of an hour.
const KEPT: usize = 10_000;

/// The server was at an offset from one moment to another.
#[derive(Clone, Copy, Debug)]
struct Sample {
    from_ms: u64,
    to_ms: u64,
    offset: u64,
}

/// Offsets and when they were reached, both rising.
#[derive(Debug, Default)]
pub(super) struct Times {
    samples: VecDeque<Sample>,
}

impl Times {
    /// At `time_ms` the server was at `offset`.
    pub(super) fn add(&mut self, time_ms: u64, offset: u64) {
        if let Some(last) = self.samples.back_mut() {
            if offset < last.offset || time_ms < last.to_ms {
                self.samples.clear();
            } else if offset == last.offset {
                last.to_ms = time_ms;
                return;
            }
        }
        self.samples.push_back(Sample { from_ms: time_ms, to_ms: time_ms, offset });
        if self.samples.len() > KEPT {
            self.samples.pop_front();
        }
    }

    /// When `offset` was reached, for bytes that came at `now_ms`: between two samples, in proportion.
    pub(super) fn of(&self, offset: u64, now_ms: u64) -> u64 {
        let after = self.samples.partition_point(|sample| sample.offset < offset);
        let before = after.checked_sub(1).and_then(|before| self.samples.get(before));
        match (before, self.samples.get(after)) {
            (_, None) => now_ms,
            (None, Some(sample)) => sample.from_ms.min(now_ms),
            (Some(from), Some(to)) => {
                let part = (offset - from.offset) as f64 / (to.offset - from.offset) as f64;
                (from.to_ms + (part * to.from_ms.saturating_sub(from.to_ms) as f64) as u64).min(now_ms)
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
        assert_eq!(times.of(150, 9000), 1500);
        // Reached at 2000, and left behind after 2500.
        assert_eq!(times.of(200, 9000), 2000);
        times.add(3500, 300);
        assert_eq!(times.of(250, 9000), 3000);
        assert_eq!(times.of(301, 9000), 9000);
        assert_eq!(times.of(50, 9000), 1000);
        // Another history.
        times.add(4000, 10);
        assert_eq!(times.of(150, 9000), 9000);
    }
}
