//! The times of the server's offsets. The receiver learns from them when commands were executed that arrive late, and up
//! to which moment everything that was executed has arrived: silence of the connection does not tell that.

use std::collections::VecDeque;

/// Samples that are kept: at ten a second, a quarter of an hour.
const KEPT: usize = 10_000;
/// A time may be so much too early, in milliseconds: so long may a loaded server take for several answers.
pub(super) const NEAR: u64 = 5000;

/// The server was at an offset, or before it, from one moment to another.
#[derive(Clone, Copy, Debug)]
struct Sample {
    from_ms: u64,
    to_ms: u64,
    offset: u64,
}

/// Offsets of one replication id and when they were reached, both rising.
#[derive(Debug, Default)]
struct History {
    id: String,
    samples: VecDeque<Sample>,
}

impl History {
    /// Answers of two connections may come in another order than their questions were asked. What an earlier question
    /// proves, a later one with a lower offset proves, too.
    fn add(&mut self, time_ms: u64, offset: u64) {
        match self.samples.back() {
            Some(last) if time_ms < last.to_ms.saturating_sub(NEAR) => {
                // The clock was put back.
                self.samples.clear();
            }
            Some(last) if time_ms < last.to_ms => return,
            _ => {}
        }
        while self.samples.back().is_some_and(|last| last.offset > offset) {
            self.samples.pop_back();
        }
        if let Some(last) = self.samples.back_mut()
            && last.offset == offset
        {
            last.to_ms = time_ms;
            return;
        }
        self.samples.push_back(Sample { from_ms: time_ms, to_ms: time_ms, offset });
        if self.samples.len() > KEPT {
            self.samples.pop_front();
        }
    }
}

/// The samples of the history that is followed, and those of another replication id, which may become it.
#[derive(Debug, Default)]
pub(super) struct Times {
    own: History,
    other: History,
    /// Up to when an earlier process of esker asked: what lies between that and the first answer is an outage.
    resumed_ms: Option<u64>,
}

impl Times {
    /// The history `id` was followed up to `offset`, which was reached at `time_ms`.
    pub(super) fn resume(&mut self, id: &str, time_ms: u64, offset: u64) {
        self.begin(id);
        self.add(id, time_ms, offset);
        self.resumed_ms = Some(time_ms);
    }

    /// The server answered that the history `id` is at `offset`, to a question asked at `time_ms`: what was executed before
    /// that moment ends at or before `offset`.
    pub(super) fn add(&mut self, id: &str, time_ms: u64, offset: u64) {
        if id == self.own.id {
            self.own.add(time_ms, offset);
            return;
        }
        if id != self.other.id {
            self.other = History { id: id.to_owned(), ..History::default() };
        }
        self.other.add(time_ms, offset);
    }

    /// The history `id` is followed from its beginning.
    pub(super) fn begin(&mut self, id: &str) {
        if id != self.own.id {
            self.own = match id == self.other.id {
                true => std::mem::take(&mut self.other),
                false => History { id: id.to_owned(), ..History::default() },
            };
        }
    }

    /// The server goes on with the history that is followed, as `id`.
    pub(super) fn continue_as(&mut self, id: &str) {
        if id != self.own.id {
            let before = std::mem::take(&mut self.own);
            self.begin(id);
            let mut samples = before.samples;
            for sample in std::mem::take(&mut self.own.samples) {
                if samples
                    .back()
                    .is_none_or(|last| (last.offset, last.to_ms) <= (sample.offset, sample.from_ms))
                {
                    samples.push_back(sample);
                }
            }
            self.own.samples = samples;
        }
    }

    /// The last moment up to which everything that was executed ends at or before `offset`.
    pub(super) fn complete(&self, offset: u64) -> Option<u64> {
        let after = self.own.samples.partition_point(|sample| sample.offset <= offset);
        after.checked_sub(1).and_then(|last| self.own.samples.get(last)).map(|sample| sample.to_ms)
    }

    /// The offsets that the server told of the history that is followed.
    pub(super) fn offsets(&self) -> Vec<u64> {
        self.own.samples.iter().map(|sample| sample.offset).collect()
    }

    /// Whether the server answered after `time_ms`, and only with another history than the one that is followed.
    pub(super) fn has_left(&self, time_ms: u64) -> bool {
        let last = |history: &History| history.samples.back().map_or(0, |sample| sample.to_ms);
        last(&self.other) > time_ms && last(&self.own) < last(&self.other)
    }

    /// When `offset` was reached, for bytes that came at `came_ms`. Between two samples it is the time of the first, which is
    /// the earliest possible, so that a moment has all that was executed up to it; if the samples are far apart, a time in
    /// proportion.
    pub(super) fn of(&self, offset: u64, came_ms: u64) -> u64 {
        let samples = &self.own.samples;
        let after = samples.partition_point(|sample| sample.offset < offset);
        let before = after.checked_sub(1).and_then(|before| samples.get(before));
        match (before, samples.get(after)) {
            (_, None) => came_ms,
            (None, Some(sample)) => sample.from_ms.min(came_ms),
            (Some(from), Some(to))
                if to.from_ms.saturating_sub(from.to_ms) <= NEAR && self.resumed_ms != Some(from.to_ms) =>
            {
                from.to_ms.min(came_ms)
            }
            (Some(from), Some(to)) => {
                let part = (offset - from.offset) as f64 / (to.offset - from.offset) as f64;
                (from.to_ms + (part * to.from_ms.saturating_sub(from.to_ms) as f64) as u64).min(came_ms)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_any_order() {
        let mut times = Times::default();
        times.begin("a");
        times.add("a", 1000, 0);
        times.add("a", 2000, 900);
        // Asked earlier.
        times.add("a", 1990, 850);
        times.add("a", 1980, 950);
        assert_eq!(
            (times.complete(800), times.complete(900), times.of(850, 9000)),
            (Some(1000), Some(2000), 1000)
        );
        // Asked later, answered earlier.
        times.add("a", 2010, 870);
        assert_eq!((times.complete(869), times.complete(900)), (Some(1000), Some(2010)));
        // The clock was put back.
        times.add("a", 100_000, 1000);
        times.add("a", 90_000, 1001);
        assert_eq!((times.complete(1000), times.complete(1001)), (None, Some(90_000)));
    }

    #[test]
    fn an_outage_of_esker_is_spread() {
        let mut times = Times::default();
        times.resume("a", 1000, 100);
        times.add("a", 3000, 200);
        assert_eq!((times.of(150, 9000), times.of(150, 1500)), (2000, 1500));
        times.add("a", 5000, 300);
        assert_eq!(times.of(250, 9000), 3000);
    }

    #[test]
    fn in_proportion() {
        let mut times = Times::default();
        times.begin("a");
        assert_eq!(times.of(5, 900), 900);
        times.add("a", 10_000, 100);
        times.add("a", 20_000, 200);
        times.add("a", 25_000, 200);
        assert_eq!(times.of(100, 90_000), 10_000);
        assert_eq!(times.of(150, 90_000), 15_000);
        // Reached at 20 s, and left behind after 25 s.
        assert_eq!(times.of(200, 90_000), 20_000);
        times.add("a", 35_000, 300);
        assert_eq!(times.of(250, 90_000), 30_000);
        assert_eq!(times.of(301, 90_000), 90_000);
        times.add("a", 39_000, 400);
        assert_eq!((times.of(350, 90_000), times.of(350, 32_000)), (35_000, 32_000));
        assert_eq!(times.of(50, 90_000), 10_000);
        // Another history.
        times.add("a", 40_000, 10);
        assert_eq!(times.of(150, 90_000), 90_000);
    }

    #[test]
    fn a_moment_is_complete_if_a_later_answer_has_come_in_full() {
        let mut times = Times::default();
        times.begin("a");
        assert_eq!(times.complete(500), None);
        times.add("a", 1000, 100);
        times.add("a", 2000, 100);
        times.add("a", 3000, 200);
        for (offset, complete) in [(99, None), (100, Some(2000)), (199, Some(2000)), (200, Some(3000))] {
            assert_eq!(times.complete(offset), complete, "{offset}");
        }
        // What another server, or another history, says of itself proves nothing.
        times.add("b", 4000, 150);
        assert_eq!(times.complete(200), Some(3000));
        assert!(times.has_left(3500) && !times.has_left(4000));
        times.add("a", 4100, 250);
        assert!(!times.has_left(3500));
        times.continue_as("b");
        assert_eq!((times.complete(200), times.complete(250)), (Some(3000), Some(4100)));
        times.add("b", 5000, 250);
        assert_eq!((times.complete(250), times.of(225, 9000)), (Some(5000), 3000));
        times.begin("c");
        assert_eq!(times.complete(250), None);
    }
}
