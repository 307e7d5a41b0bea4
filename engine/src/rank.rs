//! The order of snapshots. They are ordered by their times, but clocks may be wrong: one run with a clock in 2031 must
//! not be `latest` until 2031. HEADs have an order that does not depend on clocks ([`crate::snapshot::Made`]), and each
//! has the clock of its writer. A clock that is ahead of the present one contradicts it, however many snapshots were made
//! by it, unless nothing was made before the present. Of the others, the smallest set of clocks that contradicts the order
//! counts as wrong; of several such sets, the earlier ones. A snapshot of a wrong clock is ranked by its place in the order
//! of HEADs, as if it had the time of the last right one before it.
//!
//! Times that were given (`--time`, copies, imports) and those of older versions, which lack their HEAD, are used
//! unchanged.

use crate::snapshot::{Listed, Made, Snapshot};
use chunkstore::ObjectId;
use jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;

mod run;
pub use run::Run;
pub(crate) use run::{Commit, Key};

/// What a snapshot is ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The time that it says.
    pub time: Timestamp,
    /// Its place in the order of HEADs; older versions did not write it.
    pub made: Option<Made>,
}

impl Stamp {
    /// That of a snapshot.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        Self { time: snapshot.time, made: snapshot.made }
    }
}

/// A snapshot, and the time that it is ranked by.
#[derive(Clone, Debug)]
pub struct Ranked {
    /// The snapshot.
    pub listed: Listed,
    /// When it was made, as far as it can be told.
    pub time: Timestamp,
}

impl Ranked {
    /// Whether that is not the time that it says.
    #[must_use]
    pub fn is_moved(&self) -> bool {
        self.listed.snapshot.time != self.time
    }
}

/// Snapshots, oldest first; `now` is the present. Needs all of a repository; otherwise right and wrong clocks cannot be
/// distinguished.
#[must_use]
pub fn ranked(all: Vec<Listed>, now: Timestamp) -> Vec<Ranked> {
    let stamps: Vec<Stamp> = all.iter().map(|listed| Stamp::of(&listed.snapshot)).collect();
    let order = order(stamps.iter(), now);
    let mut all: Vec<Option<Listed>> = all.into_iter().map(Some).collect();
    let taken = order.into_iter().filter_map(|(at, time)| Some(Ranked { listed: all[at].take()?, time }));
    taken.collect()
}

/// The snapshots of wrong clocks among `all`, which are those of a repository, with the times that they are ranked by.
#[must_use]
pub fn moved(all: &[Listed], now: Timestamp) -> HashMap<ObjectId, Timestamp> {
    let stamps: Vec<Stamp> = all.iter().map(|listed| Stamp::of(&listed.snapshot)).collect();
    let order = order(stamps.iter(), now).into_iter();
    order.filter(|(at, time)| stamps[*at].time != *time).map(|(at, time)| (all[at].id, time)).collect()
}

/// The places of `stamps` in that order, each with the time that it is ranked by.
#[must_use]
pub fn order<'a>(
    stamps: impl ExactSizeIterator<Item = &'a Stamp> + Clone,
    now: Timestamp,
) -> Vec<(usize, Timestamp)> {
    match Run::of(stamps.clone()).is_some_and(|run| run.is_plain(now)) {
        true => stamps.enumerate().map(|(at, stamp)| (at, stamp.time)).collect(),
        false => sorted(&stamps.copied().collect::<Vec<_>>(), now),
    }
}

fn sorted(stamps: &[Stamp], now: Timestamp) -> Vec<(usize, Timestamp)> {
    let mut order: Vec<(usize, Timestamp)> = times(stamps, now).into_iter().enumerate().collect();
    // Equal times: those that have a place in the order go by it. What is sorted already costs one comparison each.
    order.sort_by_key(|(at, time)| (*time, stamps[*at].made.as_ref().map(place)));
    order
}

/// Puts snapshots into that order.
pub fn rank(all: &mut Vec<Listed>, now: Timestamp) {
    *all = ranked(std::mem::take(all), now).into_iter().map(|one| one.listed).collect();
}

/// No clock was right that stood before: nothing noted where it was made then. 2025-01-01.
const EARLIEST: Timestamp = Timestamp::constant(1_735_689_600, 0);

/// Clocks of machines that are right may differ by so much.
const SKEW: SignedDuration = SignedDuration::from_hours(1);

/// What a right clock may show at most.
fn latest_right(now: Timestamp) -> Timestamp {
    now.saturating_add(SKEW).unwrap_or(now)
}

fn place(made: &Made) -> (u64, u64) {
    (made.incarnation, made.generation)
}

/// The time that each snapshot is ranked by.
fn times(all: &[Stamp], now: Timestamp) -> Vec<Timestamp> {
    let mut order: Vec<(usize, Made)> = Vec::with_capacity(all.len());
    order.extend(all.iter().enumerate().filter_map(|(at, stamp)| Some((at, stamp.made?))));
    order.sort_by_key(|(_, made)| place(made));
    let end = latest_right(now);
    match is_plain(&order, end) {
        true => all.iter().map(|stamp| stamp.time).collect(),
        false => times_of_wrong_clocks(all, &order, end),
    }
}

/// Whether the clocks contradict neither the order nor the present, as is usual: then all are right.
fn is_plain(order: &[(usize, Made)], end: Timestamp) -> bool {
    let mut clocks = order.iter().map(|(_, made)| made.clock);
    clocks.clone().is_sorted() && clocks.all(|clock| (EARLIEST..=end).contains(&clock))
}

fn times_of_wrong_clocks(all: &[Stamp], order: &[(usize, Made)], end: Timestamp) -> Vec<Timestamp> {
    let mut times: Vec<Timestamp> = all.iter().map(|stamp| stamp.time).collect();
    let clocks: Vec<Timestamp> = order.iter().map(|(_, made)| made.clock).collect();
    let right = longest_rise(&clocks, end);
    // The earliest clock after each, and the latest time before it: what speaks against it.
    let mut after = vec![Timestamp::MAX; order.len()];
    for at in (1..order.len()).rev() {
        after[at - 1] = after[at].min(clocks[at]);
    }
    let own = |at: usize| times[order[at].0];
    let mut moved: Vec<(usize, Timestamp)> = vec![];
    let (mut latest, mut last_right): (Option<Timestamp>, Option<Timestamp>) = (None, None);
    for (at, (listed, made)) in order.iter().enumerate() {
        if right[at] {
            let time = if made.time_given { made.clock } else { own(at) };
            last_right = last_right.max(Some(time));
        } else if !made.time_given {
            let contradicted = made.clock < EARLIEST
                || own(at) > after[at]
                || latest.is_some_and(|latest| latest > made.clock);
            let next = || {
                let next = (at..order.len()).find(|at| right[*at])?;
                Some(if order[next].1.time_given { clocks[next] } else { own(next) })
            };
            if !contradicted {
                last_right = last_right.max(Some(own(at)));
            } else if let Some(time) = last_right.or_else(next) {
                moved.push((*listed, time));
            }
        }
        if !made.time_given {
            latest = latest.max(Some(own(at)));
        }
    }
    for (listed, time) in moved {
        times[listed] = time;
    }
    times
}

/// A clock that is further ahead than this of what was made before may be wrong: 8 days, as many runs are weekly.
const LEAP: SignedDuration = SignedDuration::from_hours(8 * 24);
/// It is believed once it has run for so long: then something was made on another day.
const TRIAL: SignedDuration = SignedDuration::from_hours(20);

/// The time by which a snapshot may count as old. Usually `now`. But after a jump forward, a clock that is years ahead
/// cannot be distinguished from a machine that was off, and expired snapshots would be lost. So until a snapshot is
/// made on another day after the jump, it is the time before it.
#[must_use]
pub fn believed<'a>(all: impl Iterator<Item = &'a Listed>, now: Timestamp) -> Timestamp {
    let mut clocks: Vec<Timestamp> =
        all.filter_map(|listed| Some(listed.snapshot.made?.clock)).filter(|clock| *clock <= now).collect();
    clocks.sort_unstable();
    let mut since = now;
    for clock in clocks.into_iter().rev() {
        if since.duration_since(clock) > LEAP {
            return match now.duration_since(since) {
                trial if trial >= TRIAL => now,
                trial => clock.saturating_add(trial).unwrap_or(clock),
            };
        }
        since = clock;
    }
    now
}

/// Which of `clocks` are of a longest sequence that never goes back; of several of one length the one that ends last, and
/// so on from there. Those after `end` count only if there are no others.
fn longest_rise(clocks: &[Timestamp], end: Timestamp) -> Vec<bool> {
    let counts = |clock: &Timestamp| (EARLIEST..=end).contains(clock);
    let end = if clocks.iter().any(counts) { end } else { Timestamp::MAX };
    // Patience: `ends[n]` is where the sequence of n + 1 that ends earliest ends. Later ones of equal length replace it.
    let (mut ends, mut before): (Vec<usize>, Vec<Option<usize>>) = (vec![], vec![]);
    for (at, clock) in clocks.iter().enumerate() {
        if !(EARLIEST..=end).contains(clock) {
            before.push(None);
            continue;
        }
        let length = ends.partition_point(|end| clocks[*end] <= *clock);
        before.push(length.checked_sub(1).map(|before| ends[before]));
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut right = vec![false; clocks.len()];
    let mut next = ends.last().copied();
    while let Some(at) = next {
        right[at] = true;
        next = before[at];
    }
    right
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Snapshots in the order of their commits: time, clock, whether the time was given.
    fn all(made: &[(i64, i64, bool)]) -> Vec<Listed> {
        let second = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let one = |(at, (time, clock, time_given)): (usize, &(i64, i64, bool))| {
            let made = Made {
                incarnation: 1,
                generation: at as u64,
                clock: second(*clock),
                time_given: *time_given,
            };
            let snapshot = Snapshot { time: second(*time), made: Some(made), ..Snapshot::default() };
            Listed { id: ObjectId([at as u8; 32]), snapshot }
        };
        made.iter().enumerate().map(one).collect()
    }

    fn times(all: &[Listed], now: Timestamp) -> Vec<Timestamp> {
        super::times(&stamps(all), now)
    }

    fn stamps(all: &[Listed]) -> Vec<Stamp> {
        all.iter().map(|listed| Stamp::of(&listed.snapshot)).collect()
    }

    #[test]
    fn a_leap_is_believed_on_the_next_day() {
        let day = 86_400;
        let believed = |clocks: &[i64], now: i64| {
            let all = all(&clocks.iter().map(|clock| (*clock, *clock, false)).collect::<Vec<_>>());
            let time = super::believed(all.iter(), Timestamp::from_second(1_800_000_000 + now).unwrap());
            time.as_second() - 1_800_000_000
        };
        // Nights, weeks, and the first of all.
        assert_eq!(believed(&[0, day, 8 * day], 8 * day), 8 * day);
        assert_eq!(believed(&[], day), day);
        assert_eq!(believed(&[500 * day], 500 * day), 500 * day);
        // Years ahead at once: what was made by that clock counts for nothing, until it was right for a day.
        assert_eq!(believed(&[0, day], 900 * day), day);
        assert_eq!(believed(&[0, day, 900 * day], 900 * day + 60), day + 60);
        assert_eq!(believed(&[0, day, 900 * day], 901 * day), 901 * day);
        // Back in time, what is to come counts for nothing.
        assert_eq!(believed(&[0, day, 900 * day], 2 * day), 2 * day);
        // One that was given its time was made when its writer's clock says.
        let given = all(&[(0, 500 * day, true)]);
        let now = Timestamp::from_second(1_800_000_000 + 501 * day).unwrap();
        assert_eq!(super::believed(given.iter(), now), now);
    }

    fn order(made: &[(i64, i64, bool)]) -> Vec<u8> {
        order_at(made, 1_000_000)
    }

    fn order_at(made: &[(i64, i64, bool)], now: i64) -> Vec<u8> {
        let mut all = all(made);
        // HEAD may name them in any order.
        all.reverse();
        rank(&mut all, Timestamp::from_second(1_800_000_000 + now).unwrap());
        all.iter().map(|listed| listed.id.0[0]).collect()
    }

    #[test]
    fn a_wrong_clock_is_ranked_by_its_commit() {
        let plain = |times: &[i64]| times.iter().map(|time| (*time, *time, false)).collect::<Vec<_>>();
        // One ahead, two ahead, one and many behind, nothing but a wrong one before.
        for times in [
            &[100, 9000, 101][..],
            &[100, 9000, 9001, 101],
            &[100, 101, 5, 102],
            &[100, 101, 5],
            &[9000, 100],
            &[9000, 9001, 9002, 100],
            &[100, 9000, 101, 102, 8000, 103],
        ] {
            let expected: Vec<u8> = (0..times.len() as u8).collect();
            assert_eq!(order(&plain(times)), expected, "{times:?}");
        }
        // As long as nobody contradicts it, a clock is believed.
        assert_eq!(order(&plain(&[100, 9000])), [0, 1]);
    }

    #[test]
    fn the_present_speaks_against_clocks_ahead_of_it_however_many_they_are() {
        let (hour, years) = (3600, 86_400 * 3650);
        let mut made: Vec<(i64, i64, bool)> = vec![];
        for clock in [0, hour].into_iter().chain((0..9).map(|number| years + number)) {
            made.push((clock, clock, false));
        }
        for night in 1..5 {
            let clock = night * 24 * hour;
            made.push((clock, clock, false));
            let all = all(&made);
            let times = times(&all, Timestamp::from_second(1_800_000_000 + clock).unwrap());
            let is_own = |at: usize| times[at] == all[at].snapshot.time;
            assert!((0..2).chain(11..made.len()).all(is_own), "night {night}: {times:?}");
            assert!((2..11).all(|at| times[at] == times[1]), "night {night}: {times:?}");
            let expected: Vec<u8> = (0..made.len() as u8).collect();
            assert_eq!(order_at(&made, clock), expected);
        }
        // Another machine's clock that is a little ahead is right.
        let both = [(0, 0, false), (400, 400, false), (100, 100, false)];
        assert_eq!(
            times(&all(&both), Timestamp::from_second(1_800_000_100).unwrap())[0],
            all(&both)[0].snapshot.time
        );
    }

    #[test]
    fn times_that_were_given_are_kept() {
        // An import of old ones after one of today, and one for the future.
        assert_eq!(order(&[(100, 100, false), (5, 101, true), (102, 102, false)]), [1, 0, 2]);
        assert_eq!(order(&[(100, 100, false), (9000, 101, true), (102, 102, false)]), [0, 2, 1]);
        // A clock that went back to 1 does not make what was imported newer than what was there.
        assert_eq!(
            order(&[(50, 99, true), (100, 100, false), (101, 101, false), (1, 1, false)]),
            [0, 1, 2, 3]
        );
        // Nor does one that stood at zero, even where nothing else is known.
        let zero = -1_800_000_000;
        assert_eq!(order(&[(100, 100, false), (zero, zero, false), (50, 101, true)]), [2, 0, 1]);
        assert_eq!(order(&[(zero, zero, false), (50, 101, true)]), [1, 0]);
        // A long backup that began first and ended last is older by its time.
        assert_eq!(order(&[(110, 120, false), (100, 130, false)]), [1, 0]);
        // Two that wrote within one grain of the clock.
        assert_eq!(order(&[(110, 121, false), (100, 120, false)]), [1, 0]);
    }

    proptest! {
        /// Whatever the clocks say: what lies ahead of a later commit's clock comes before it.
        #[test]
        fn nothing_is_newer_than_what_came_after_it(
            clocks in proptest::collection::vec(0i64..40, 1..12),
            now in -1i64..45,
        ) {
            let made: Vec<_> = clocks.iter().map(|clock| (clock * 3600, clock * 3600, false)).collect();
            let expected: Vec<u8> = (0..clocks.len() as u8).collect();
            prop_assert_eq!(order_at(&made, now * 3600), expected);
        }

        /// The way for plain clocks leads to the same times as the long one, whatever the stamps, and in whatever order.
        #[test]
        fn plain_clocks_need_no_long_way(
            mut made in proptest::collection::vec((-20i64..40, 0i64..40, any::<bool>(), 0u64..9, any::<bool>()), 0..12),
            ahead in -5i64..45,
            rises in any::<bool>(),
            old in any::<bool>(),
        ) {
            if rises {
                made.sort_unstable_by_key(|(_, clock, _, generation, _)| (*generation, *clock));
                let mut clocks: Vec<i64> = made.iter().map(|made| made.1).collect();
                clocks.sort_unstable();
                made.iter_mut().zip(clocks).for_each(|(made, clock)| made.1 = clock);
            }
            let start = if old { EARLIEST.as_second() - 20 * 3600 } else { 1_800_000_000 };
            let hour = |hour: i64| Timestamp::from_second(start + hour * 3600).unwrap();
            let stamps: Vec<Stamp> = made.iter().map(|(time, clock, time_given, generation, is_old)| {
                let (clock, time_given) = (hour(*clock), *time_given);
                let made = Made { incarnation: 1, generation: *generation, clock, time_given };
                Stamp { time: hour(*time), made: (!is_old).then_some(made) }
            }).collect();
            let mut order: Vec<(usize, Made)> =
                stamps.iter().enumerate().filter_map(|(at, stamp)| Some((at, stamp.made?))).collect();
            order.sort_by_key(|(_, made)| place(made));
            let end = hour(ahead) + SKEW;
            prop_assert_eq!(super::times(&stamps, hour(ahead)), times_of_wrong_clocks(&stamps, &order, end));
            let listed: Vec<Listed> = (0u8..).zip(&stamps).map(|(number, stamp)| {
                let snapshot = Snapshot { time: stamp.time, made: stamp.made, ..Snapshot::default() };
                Listed { id: ObjectId([number; 32]), snapshot }
            }).collect();
            let moved: HashMap<_, _> = ranked(listed.clone(), hour(ahead)).into_iter().filter(Ranked::is_moved)
                .map(|one| (one.listed.id, one.time)).collect();
            prop_assert_eq!(super::moved(&listed, hour(ahead)), moved);
            prop_assert_eq!(super::order(stamps.iter(), hour(ahead)), sorted(&stamps, hour(ahead)));
        }

        /// Clocks that are right change nothing.
        #[test]
        fn right_clocks_are_left_alone(mut clocks in proptest::collection::vec(0i64..1000, 1..12),
            backs in proptest::collection::vec(0i64..50, 12)) {
            clocks.sort_unstable();
            let made: Vec<_> = clocks.iter().zip(backs).map(|(clock, back)| (*clock - back, *clock, false)).collect();
            let listed = all(&made);
            let own: Vec<_> = listed.iter().map(|listed| listed.snapshot.time).collect();
            let now = Timestamp::from_second(1_800_000_000 + 1000).unwrap();
            prop_assert_eq!(times(&listed, now), own);
        }
    }
}
