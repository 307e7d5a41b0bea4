//! Which snapshots to keep: rules in, a plan out. Pure: no I/O, no clock. Rules are restic's (its manual, "Removing
//! snapshots according to a policy"): each keeps the newest snapshot of as many hours, days, weeks (Monday to Sunday),
//! months or years as it says, and the oldest of all while its count is not used up; a snapshot that any rule keeps is
//! kept. Differences: snapshots from the future are kept and count for no rule; snapshots are ordered as
//! [`crate::rank`] says; held ones are kept; and snapshots without an origin stay unless the rules include them.

pub use crate::group::{GroupBy, GroupKey};
use crate::rank::Ranked;
use crate::snapshot::{Hold, Listed};
use crate::{Error, Result};
use jiff::{Span, Timestamp, Zoned, tz::TimeZone};

/// How many snapshots a rule keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// This many.
    Count(u32),
    /// All.
    Unlimited,
}

impl std::str::FromStr for Keep {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "unlimited" || text == "-1" {
            return Ok(Self::Unlimited);
        }
        text.parse().map(Self::Count).map_err(|_| "expected a number or 'unlimited'".into())
    }
}

/// A span such as `2y5m7d3h`: years, months, days, hours.
#[derive(Clone, Copy, Debug)]
pub struct Within(pub Span);

// `w`, for weeks, is ours.
impl std::str::FromStr for Within {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: &str = "ymwdh";
        let bad = || "expected a span such as 2y5m7d3h".to_owned();
        let mut left = UNITS;
        let mut span = Span::new();
        let mut digits = String::new();
        for letter in text.chars() {
            if letter.is_ascii_digit() {
                digits.push(letter);
                continue;
            }
            let number: i64 = digits.parse().map_err(|_| bad())?;
            digits.clear();
            // In this order m are months beyond doubt, and no number replaces an earlier one.
            left = match (left.split_once(letter), UNITS.contains(letter)) {
                (Some((_, smaller)), _) => smaller,
                (None, true) => {
                    return Err(
                        "the units of a span are y, m (months), w, d and h, in this order and each once"
                            .into(),
                    );
                }
                (None, false) => return Err(bad()),
            };
            span = match letter {
                'y' => span.try_years(number),
                'm' => span.try_months(number),
                'w' => span.try_weeks(number),
                'd' => span.try_days(number),
                'h' => span.try_hours(number),
                _ => return Err(bad()),
            }
            .map_err(|error| error.to_string())?;
        }
        if digits.is_empty() && !text.is_empty() { Ok(Self(span)) } else { Err(bad()) }
    }
}

/// A period that a rule counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// Every snapshot by itself.
    Snapshot,
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week from Monday.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Period {
    /// Two snapshots in one period have equal keys.
    pub(crate) fn key(self, time: &Zoned, number: usize) -> (i64, i64, i64, i64) {
        let (year, month, day) = (i64::from(time.year()), i64::from(time.month()), i64::from(time.day()));
        match self {
            Self::Snapshot => (i64::try_from(number).unwrap_or(i64::MAX), -1, -1, -1),
            Self::Hour => (year, month, day, i64::from(time.hour())),
            Self::Day => (year, month, day, -1),
            Self::Week => {
                let week = time.date().iso_week_date();
                (i64::from(week.year()), i64::from(week.week()), -1, -1)
            }
            Self::Month => (year, month, -1, -1),
            Self::Year => (year, -1, -1, -1),
        }
    }

    /// Several of them, for people.
    fn plural(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshots",
            Self::Hour => "hours",
            Self::Day => "days",
            Self::Week => "weeks",
            Self::Month => "months",
            Self::Year => "years",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "last snapshot",
            Self::Hour => "hourly snapshot",
            Self::Day => "daily snapshot",
            Self::Week => "weekly snapshot",
            Self::Month => "monthly snapshot",
            Self::Year => "yearly snapshot",
        }
    }
}

/// The rules.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Keep the newest snapshot of as many periods.
    pub keep: Vec<(Period, Keep)>,
    /// The newest of every period, as far back as the span from the newest snapshot.
    pub within: Vec<(Period, Within)>,
    /// Snapshots that have all tags of one of these sets.
    pub tags: Vec<Vec<String>>,
    /// Whether the rules act on snapshots without an origin.
    pub unknown_origin: bool,
}

impl Policy {
    /// Whether there is any rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keep.is_empty() && self.within.is_empty() && self.tags.is_empty()
    }

    /// The rules, for people: `7 days, 5 weeks`.
    #[must_use]
    pub fn describe(&self) -> String {
        let counts = self.keep.iter().map(|(period, keep)| match keep {
            Keep::Count(count) => format!("the last {count} {}", period.plural()),
            Keep::Unlimited => format!("all {}", period.plural()),
        });
        let spans =
            self.within.iter().map(|(period, within)| format!("{} within {}", period.plural(), within.0));
        let tags = self.tags.iter().map(|tags| format!("tag {}", tags.join(",")));
        counts.chain(spans).chain(tags).collect::<Vec<_>>().join(", ")
    }
}

/// A snapshot with the reasons to keep it; it is removed if there are none.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The snapshot.
    pub listed: Listed,
    /// Why it is kept.
    pub reasons: Vec<String>,
    /// All conditions for the removal by these rules; empty if they never remove it.
    pub goes_after: Vec<String>,
}

impl Verdict {
    /// Whether it stays.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        !self.reasons.is_empty()
    }
}

/// Why rules do not act on a group without origins.
pub const UNKNOWN: &str = "has no origin";

/// The plan for one group, newest snapshot first.
#[derive(Clone, Debug)]
pub struct GroupPlan {
    /// The group.
    pub key: GroupKey,
    /// Its snapshots.
    pub verdicts: Vec<Verdict>,
}

/// Applies the rules to every group of `snapshots`, which are in their order. Refuses to empty one, unless
/// `allow_empty`.
pub fn plan(
    policy: &Policy,
    by: GroupBy,
    snapshots: &[Ranked],
    now: Timestamp,
    zone: &TimeZone,
    allow_empty: bool,
) -> Result<Vec<GroupPlan>> {
    // Spans reach back from the newest snapshot, but not from one of a clock that nobody confirmed.
    let believed = crate::rank::believed(snapshots.iter().map(|ranked| &ranked.listed), now);
    let mut groups: std::collections::BTreeMap<GroupKey, Vec<&Ranked>> = std::collections::BTreeMap::new();
    for ranked in snapshots {
        groups.entry(by.key(&ranked.listed.snapshot)).or_default().push(ranked);
    }
    groups
        .into_iter()
        .map(|(key, mut members)| {
            members.reverse();
            if key.unknown && !policy.unknown_origin {
                let spared = |ranked: &&Ranked| Verdict {
                    listed: ranked.listed.clone(),
                    reasons: vec![UNKNOWN.to_owned()],
                    goes_after: vec![],
                };
                return Ok(GroupPlan { key, verdicts: members.iter().map(spared).collect() });
            }
            let verdicts = judge(policy, &members, now, believed, zone)?;
            if !allow_empty && !verdicts.iter().any(Verdict::is_kept) {
                return Err(Error::Refused(format!(
                    "the rules would remove every snapshot of {}; use --unsafe-allow-remove-all if that is meant",
                    key.describe()
                )));
            }
            Ok(GroupPlan { key, verdicts })
        })
        .collect()
}

/// A rule that counts, on its way from the newest to the oldest.
struct Counting {
    period: Period,
    keep: Keep,
    left: Keep,
    last: Option<(i64, i64, i64, i64)>,
}

impl Counting {
    /// Why it keeps a snapshot, and until when.
    fn keeps(&mut self, key: (i64, i64, i64, i64), oldest: bool) -> Option<(String, Option<String>)> {
        let fresh = self.last != Some(key);
        if self.left == Keep::Count(0) || !(fresh || oldest) {
            return None;
        }
        self.last = Some(key);
        let goes = match (&mut self.left, self.keep) {
            (Keep::Count(left), Keep::Count(_)) => {
                // So many newer ones use it up.
                let newer = *left;
                *left -= 1;
                let mut what = self.period.plural();
                if newer == 1 {
                    what = what.trim_end_matches('s');
                }
                Some(format!("{newer} newer {what}"))
            }
            _ => None,
        };
        let name = self.period.name();
        Some((if fresh { name.to_owned() } else { format!("oldest {name}") }, goes))
    }
}

/// The verdicts on one group, whose members come newest first.
fn judge(
    policy: &Policy,
    members: &[&Ranked],
    now: Timestamp,
    believed: Timestamp,
    zone: &TimeZone,
) -> Result<Vec<Verdict>> {
    let newest_by = |limit: Timestamp| members.iter().map(|member| member.time).find(|time| *time <= limit);
    let newest = newest_by(believed).or_else(|| newest_by(now));
    let counting =
        |(period, keep): &(Period, Keep)| Counting { period: *period, keep: *keep, left: *keep, last: None };
    let mut counters: Vec<Counting> = policy.keep.iter().map(counting).collect();
    let mut spans = vec![];
    for (period, within) in &policy.within {
        let base = newest.unwrap_or(now).to_zoned(zone.clone());
        let since = base.checked_sub(within.0).map_err(|error| Error::Invalid(error.to_string()))?;
        spans.push((*period, within.0, since.timestamp(), None));
    }
    let mut verdicts = vec![];
    for (number, member) in members.iter().enumerate() {
        let (time, snapshot) = (member.time, &member.listed.snapshot);
        let (mut reasons, mut goes_after, mut stays) = (vec![], vec![], false);
        // By its own time, too: to a clock that is behind, all that was made since looks as if a wrong clock had made it,
        // and is ranked as of one moment.
        if time > now || snapshot.time > now {
            reasons.push("from the future".to_owned());
            verdicts.push(Verdict { listed: member.listed.clone(), reasons, goes_after });
            continue;
        }
        let zoned = time.to_zoned(zone.clone());
        let oldest = number + 1 == members.len();
        for counter in &mut counters {
            if let Some((reason, goes)) = counter.keeps(counter.period.key(&zoned, number), oldest) {
                reasons.push(reason);
                stays |= goes.is_none();
                goes_after.extend(goes);
            }
        }
        for (period, span, since, last) in &mut spans {
            let key = period.key(&zoned, number);
            if time > *since && (*last != Some(key) || oldest) {
                let first = if *last == Some(key) { "oldest " } else { "" };
                *last = Some(key);
                reasons.push(format!("{first}{} within the span", period.name()));
                let end = zoned.checked_add(*span).map_err(|error| Error::Invalid(error.to_string()))?;
                goes_after.push(format!("one of {} or later", end.strftime("%Y-%m-%d %H:%M")));
            }
        }
        if policy.tags.iter().any(|set| set.iter().all(|tag| snapshot.tags.contains(tag))) {
            reasons.push("tag".to_owned());
            stays = true;
        }
        if let Some(why) = snapshot.held(now) {
            reasons.push(why);
            stays |= snapshot.hold == Hold::Held;
            goes_after.extend(snapshot.keep_until.filter(|_| !stays).map(|until| until.to_string()));
        }
        if stays {
            goes_after.clear();
        }
        verdicts.push(Verdict { listed: member.listed.clone(), reasons, goes_after });
    }
    Ok(verdicts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Made, Snapshot, SourceRecord};
    use chunkstore::ObjectId;

    fn snapshots(times: &[&str]) -> Vec<Ranked> {
        let all = times
            .iter()
            .enumerate()
            .map(|(number, time)| Listed {
                id: ObjectId([number as u8; 32]),
                snapshot: serde_json::from_value(serde_json::json!({
                    "time": time, "paths": ["/p"], "hostname": "h", "username": "u", "uid": 0, "gid": 0,
                    "tags": if number == 0 { vec!["first"] } else { vec![] },
                    "program_version": "",
                    "sources": [{"kind": "files", "origin": "/p", "point_in_time": false, "identity": {}}],
                    "manifest": {"level": 0, "chunks": [], "entries": 0, "bytes": 0}, "summary": {},
                }))
                .unwrap(),
            })
            .collect();
        crate::rank::ranked(all, Timestamp::MAX)
    }

    /// Nights by a right clock, then one by a clock that is behind them, which also applies the rules.
    #[test]
    fn a_clock_that_is_behind_removes_nothing_that_was_made_after_it() {
        let day = |number: i64| Timestamp::from_second(1_800_000_000 + number * 86_400).unwrap();
        let days: Vec<i64> = (0..40).chain([9]).collect();
        let one = |(number, day_of): (usize, &i64)| {
            let clock = day(*day_of);
            let made = Made { incarnation: 1, generation: number as u64, clock, time_given: false };
            let sources = vec![SourceRecord::new("files", "/p", true)];
            let snapshot = Snapshot { time: clock, sources, made: Some(made), ..Snapshot::default() };
            Listed { id: ObjectId([number as u8; 32]), snapshot }
        };
        let all: Vec<Listed> = days.iter().enumerate().map(one).collect();
        let kept = |now: i64| -> Vec<i64> {
            let policy = Policy { keep: vec![(Period::Day, Keep::Count(3))], ..Policy::default() };
            let ranked = crate::rank::ranked(all.clone(), day(now));
            let plans = plan(&policy, GroupBy::default(), &ranked, day(now), &TimeZone::UTC, false).unwrap();
            let verdicts = plans.iter().flat_map(|group| &group.verdicts).filter(|verdict| verdict.is_kept());
            let mut kept: Vec<i64> = verdicts.map(|verdict| days[verdict.listed.id.0[0] as usize]).collect();
            kept.sort_unstable();
            kept
        };
        assert!((10..40).all(|number| kept(9).contains(&number)), "{:?}", kept(9));
        // By the right clock, the rules go on: the last is ranked as of the 39th day, by its commit.
        assert_eq!(kept(40), [9, 37, 38]);
    }

    const TIMES: &[&str] = &[
        "2026-01-01T10:00:00Z",
        "2026-01-01T11:00:00Z",
        "2026-01-02T10:00:00Z",
        "2026-01-05T10:00:00Z",
        "2026-02-01T10:00:00Z",
        "2026-02-01T10:30:00Z",
    ];

    fn kept(policy: Policy, expected: &[usize]) {
        let now = "2026-03-01T00:00:00Z".parse().unwrap();
        let plan = plan(&policy, GroupBy::default(), &snapshots(TIMES), now, &TimeZone::UTC, true).unwrap();
        let mut kept: Vec<usize> = plan[0]
            .verdicts
            .iter()
            .filter(|verdict| !verdict.reasons.is_empty())
            .map(|verdict| usize::from(verdict.listed.id.0[0]))
            .collect();
        kept.sort_unstable();
        assert_eq!(kept, expected, "{policy:?}");
    }

    fn rule(period: Period, count: u32) -> Policy {
        Policy { keep: vec![(period, Keep::Count(count))], ..Policy::default() }
    }

    #[test]
    fn table() {
        kept(rule(Period::Snapshot, 2), &[4, 5]);
        kept(rule(Period::Hour, 2), &[3, 5]);
        kept(rule(Period::Day, 3), &[2, 3, 5]);
        kept(rule(Period::Month, 2), &[3, 5]);
        // As long as a rule has counts left, it keeps the oldest.
        kept(rule(Period::Week, 10), &[0, 2, 3, 5]);
        kept(rule(Period::Year, 5), &[0, 5]);
        kept(rule(Period::Year, 1), &[5]);
        kept(Policy { keep: vec![(Period::Day, Keep::Unlimited)], ..Policy::default() }, &[0, 1, 2, 3, 5]);
        kept(Policy { tags: vec![vec!["first".into()]], ..Policy::default() }, &[0]);
        let within = |text: &str| vec![(Period::Snapshot, text.parse().unwrap())];
        kept(Policy { within: within("1h"), ..Policy::default() }, &[4, 5]);
        kept(Policy { within: within("28d"), ..Policy::default() }, &[3, 4, 5]);
        // The beginning of the span is not in it.
        kept(Policy { within: within("27d30h"), ..Policy::default() }, &[3, 4, 5]);
        let within = |text: &str| vec![(Period::Month, text.parse().unwrap())];
        kept(Policy { within: within("1y"), ..Policy::default() }, &[0, 3, 5]);
        assert!(
            "".parse::<Within>().is_err()
                && "3".parse::<Within>().is_err()
                && "3x".parse::<Within>().is_err()
                && "1h30m".parse::<Within>().is_err()
                && "1d2d".parse::<Within>().is_err()
                && "1y2m3w4d5h".parse::<Within>().is_ok()
        );
    }

    #[test]
    fn a_typo_does_not_empty_a_group() {
        let policy = Policy { tags: vec![vec!["no such tag".into()]], ..Policy::default() };
        let now = "2026-03-01T00:00:00Z".parse().unwrap();
        let run = |allow| plan(&policy, GroupBy::default(), &snapshots(TIMES), now, &TimeZone::UTC, allow);
        assert!(matches!(run(false), Err(Error::Refused(_))));
        assert!(run(true).is_ok());
    }

    #[test]
    fn the_future_is_kept_and_counts_for_nothing() {
        let now = "2026-01-03T00:00:00Z".parse().unwrap();
        let plan = plan(
            &rule(Period::Snapshot, 1),
            GroupBy::default(),
            &snapshots(TIMES),
            now,
            &TimeZone::UTC,
            false,
        )
        .unwrap();
        let kept = plan[0].verdicts.iter().filter(|verdict| !verdict.reasons.is_empty()).count();
        assert_eq!(kept, 4);
    }
}
