//! Stamps that stand in the order of [`super::order`] already. Two runs make one by their ends alone, so that whoever
//! looks for the newest snapshots need not read the stamps of all.

use super::{EARLIEST, Stamp, latest_right, place};
use crate::snapshot::Made;
use jiff::Timestamp;

/// What stamps are ordered by: the time, then the place in the order of HEADs.
pub(crate) type Key = (Timestamp, Option<(u64, u64)>);

/// The place of a commit in the order of HEADs, and the clock of its writer.
pub(crate) type Commit = ((u64, u64), Timestamp);

/// The ends of stamps in HEAD's order, of which none is to be moved: neither times nor clocks nor places ever go back, and
/// no clock stands before 2025.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Run {
    /// The first and the last stamp, if there are any.
    pub(crate) keys: Option<(Key, Key)>,
    /// Of those that have their place in the order of HEADs.
    pub(crate) commits: Option<(Commit, Commit)>,
}

impl Run {
    /// That of stamps in HEAD's order; `None` if they are none.
    #[must_use]
    pub fn of<'a>(mut stamps: impl Iterator<Item = &'a Stamp>) -> Option<Self> {
        let mut run = Self::default();
        stamps.all(|stamp| run.push(stamp)).then_some(run)
    }

    /// Adds a stamp at the end. Returns whether it is a run still; it is of no use if not.
    fn push(&mut self, stamp: &Stamp) -> bool {
        let key = (stamp.time, stamp.made.as_ref().map(place));
        let is_next = self.keys.is_none_or(|(_, last)| last <= key);
        self.keys = Some((self.keys.map_or(key, |(first, _)| first), key));
        is_next && stamp.made.as_ref().is_none_or(|made| self.push_commit(made))
    }

    fn push_commit(&mut self, made: &Made) -> bool {
        let commit = (place(made), made.clock);
        let is_next = self.commits.is_none_or(|(_, last)| is_after(&last, &commit));
        self.commits = Some((self.commits.map_or(commit, |(first, _)| first), commit));
        is_next && made.clock >= EARLIEST
    }

    /// The run of this one's stamps and those of the one behind it, if together they are one.
    #[must_use]
    pub fn then(&self, next: &Self) -> Option<Self> {
        let keys = join(self.keys, next.keys, |last, first| last <= first)?;
        Some(Self { keys, commits: join(self.commits, next.commits, is_after)? })
    }

    /// Whether no clock contradicts the present. Then the stamps of a repository that are one run are ranked by their times.
    #[must_use]
    pub fn is_plain(&self, now: Timestamp) -> bool {
        self.commits.is_none_or(|(_, (_, clock))| clock <= latest_right(now))
    }

    /// The last time.
    #[must_use]
    pub fn latest(&self) -> Option<Timestamp> {
        self.keys.map(|(_, (time, _))| time)
    }
}

fn is_after(last: &Commit, next: &Commit) -> bool {
    last.0 <= next.0 && last.1 <= next.1
}

/// The ends of both, if `is_after` of the ends that meet; each may be missing.
fn join<T>(
    before: Option<(T, T)>,
    after: Option<(T, T)>,
    is_after: impl Fn(&T, &T) -> bool,
) -> Option<Option<(T, T)>> {
    match (before, after) {
        (Some((first, last)), Some((next, end))) => is_after(&last, &next).then_some(Some((first, end))),
        (before, after) => Some(before.or(after)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Wherever stamps are cut into stretches, the runs of these say what the stamps say.
        #[test]
        fn runs_of_stretches_say_what_all_stamps_say(
            stamps in proptest::collection::vec((0i64..6, 0i64..6, any::<bool>(), 0u64..4, any::<bool>()), 0..8),
            rises in any::<bool>(),
            old in any::<bool>(),
            cuts in proptest::collection::vec(0usize..8, 0..3),
        ) {
            let (mut stamps, mut cuts) = (stamps, cuts);
            if rises {
                stamps.sort_unstable_by_key(|(time, _, _, generation, _)| (*time, *generation));
                stamps.iter_mut().for_each(|stamp| (stamp.1, stamp.3) = (stamp.0, stamp.0.unsigned_abs()));
            }
            let start = EARLIEST.as_second() - i64::from(old) * 2;
            let second = |second: i64| Timestamp::from_second(start + second).unwrap();
            let stamps: Vec<Stamp> = stamps.iter().map(|(time, clock, time_given, generation, has_none)| {
                let (clock, time_given) = (second(*clock), *time_given);
                let made = Made { incarnation: 1, generation: *generation, clock, time_given };
                Stamp { time: second(*time), made: (!has_none).then_some(made) }
            }).collect();
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(stamps.len()));
            cuts.sort_unstable();
            let ends = cuts.iter().copied().chain([stamps.len()]);
            let mut start = 0;
            let joined = ends.map(|end| {
                let run = Run::of(stamps[start..end].iter());
                start = end;
                run
            }).try_fold(Run::default(), |before, run| before.then(&run?));
            prop_assert_eq!(joined, Run::of(stamps.iter()));
            prop_assert_eq!(joined.and_then(|run| run.latest()), joined.and(stamps.last()).map(|stamp| stamp.time));
        }
    }
}
