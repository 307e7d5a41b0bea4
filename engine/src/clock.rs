//! Whether this machine's clock is to be believed when snapshots expire. One run with a clock ten years ahead would take
//! every promise for kept to its end, and remove all but the last. So HEAD notes the time by which snapshots were last let
//! expire; a clock that is farther ahead of that than the pauses between runs explain is in doubt until a person accepts
//! it. A clock that is behind makes snapshots look younger, which removes nothing.

use crate::snapshot::Listed;
use chunkstore::head::Head;
use jiff::{SignedDuration, Timestamp};

/// A machine may be off for so long beyond the longest pause between its runs: two weeks.
const OFF: SignedDuration = SignedDuration::from_hours(14 * 24);
/// The longest pause where no schedule says one: a day.
pub const DAILY: SignedDuration = SignedDuration::from_hours(24);

/// A clock that is too far ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The last time that is known to have been right.
    pub last: Timestamp,
    /// The clock's time.
    pub now: Timestamp,
    /// Whether a store's own clock said the former, just now.
    pub by_store: bool,
}

impl Doubt {
    /// For people: the problem, and what to do.
    #[must_use]
    pub fn describe(&self) -> String {
        let days = self.now.duration_since(self.last).as_hours() / 24;
        let what = match self.by_store {
            true => "what a store's own clock says",
            false => "the last run that let snapshots expire",
        };
        format!(
            "the clock says {}, {} after {what} ({}): it may be wrong, so nothing \
             expires and nothing is pruned. If it is right, 'esker run --accept-clock' goes on by it",
            self.now.strftime("%Y-%m-%d"),
            crate::shown::counted(days, "day"),
            self.last.strftime("%Y-%m-%d")
        )
    }
}

/// The last time that is known to have been right: the latest that the clocks of those who made `snapshots` rise to without
/// a leap, from the time by which snapshots last expired; `None` of a repository where none did, and without snapshots.
#[must_use]
pub fn last_known(head: &Head, snapshots: &[Listed], pause: SignedDuration) -> Option<Timestamp> {
    let noted = head.clock_ms.and_then(|ms| Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok());
    let clock = |listed: &Listed| {
        let snapshot = &listed.snapshot;
        let began = || snapshot.summary.backup_start.parse().ok();
        snapshot.made.map(|made| made.clock).or_else(began).unwrap_or(snapshot.time)
    };
    let mut clocks: Vec<Timestamp> = snapshots.iter().map(clock).collect();
    clocks.sort_unstable();
    let later = clocks.into_iter().filter(|clock| noted.is_none_or(|noted| *clock > noted));
    noted.into_iter().chain(later).reduce(|last, next| match doubt(Some(last), next, pause) {
        Some(_) => last,
        None => next,
    })
}

/// Whether the clock is too far ahead of the `last` time that is known to have been right. `pause` is the longest between
/// two runs.
#[must_use]
pub fn doubt(last: Option<Timestamp>, now: Timestamp, pause: SignedDuration) -> Option<Doubt> {
    let last = last?;
    (now.duration_since(last) > pause.saturating_add(OFF)).then_some(Doubt { last, now, by_store: false })
}

/// Whether the clock is far ahead of that of a store, which wrote something a moment ago at `written`.
#[must_use]
pub fn doubt_by_store(written: Timestamp, now: Timestamp) -> Option<Doubt> {
    (now.duration_since(written) > DAILY).then_some(Doubt { last: written, now, by_store: true })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Made, Snapshot};
    use chunkstore::ObjectId;

    #[test]
    fn a_leap_is_in_doubt_and_a_pause_is_not() {
        let last: Timestamp = "2026-11-05T02:00:00Z".parse().unwrap();
        let weekly = DAILY * 7;
        for (hours, by_day, by_week) in [
            (1, false, false),
            (8 * 24, false, false),
            (15 * 24, false, false),
            (16 * 24, true, false),
            (40 * 24, true, true),
            (3652 * 24, true, true),
            (-1, false, false),
            (-40 * 24, false, false),
            (-3652 * 24, false, false),
        ] {
            let now = last + SignedDuration::from_hours(hours);
            assert_eq!(doubt(Some(last), now, DAILY).is_some(), by_day, "{hours} hours, daily");
            assert_eq!(doubt(Some(last), now, weekly).is_some(), by_week, "{hours} hours, weekly");
        }
        assert_eq!(doubt(None, last, DAILY), None, "there is nothing that could expire");
    }

    #[test]
    fn without_a_note_clocks_are_followed_as_far_as_they_do_not_leap() {
        let made = |day: &str| {
            let clock = day.parse().unwrap();
            let made = Some(Made { incarnation: 1, generation: 1, clock, time_given: false });
            Listed { id: ObjectId([1; 32]), snapshot: Snapshot { time: clock, made, ..Snapshot::default() } }
        };
        let days = ["2026-11-01T00:00:00Z", "2036-11-02T00:00:00Z", "2026-11-09T00:00:00Z"].map(made);
        let head: Head = serde_json::from_value(serde_json::json!({
            "generation": 1, "previous": ObjectId([0; 32]), "incarnation": 1, "nonce": ObjectId([0; 32]),
            "recent_nonces": [], "required_features": [], "roots": [], "segments": [], "sessions": [],
            "condemned": [], "doomed": [], "slots": {}, "epochs": {},
        }))
        .unwrap();
        assert_eq!(last_known(&head, &days, DAILY), "2026-11-09T00:00:00Z".parse().ok());
        assert_eq!(last_known(&head, &[], DAILY), None);
        let noted = Head { clock_ms: Some(1_762_300_800_000), ..head };
        assert_eq!(last_known(&noted, &days, DAILY), "2025-11-05T00:00:00Z".parse().ok());
        // Forgotten once a month and backed up each night: that is no leap.
        let noted = Head { clock_ms: Some(1_793_491_200_000), ..noted };
        let nightly: Vec<Listed> = (1..=28).map(|day| made(&format!("2026-11-{day:02}T02:00:00Z"))).collect();
        let last = last_known(&noted, &nightly, DAILY);
        assert_eq!(last, "2026-11-28T02:00:00Z".parse().ok());
        assert_eq!(doubt(last, "2026-11-29T02:00:00Z".parse().unwrap(), DAILY), None);
        let leapt = [nightly, vec![made("2036-11-02T00:00:00Z")]].concat();
        assert_eq!(last_known(&noted, &leapt, DAILY), last);
    }
}
