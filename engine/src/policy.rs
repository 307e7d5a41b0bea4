//! What to keep: rules in, a plan out. Pure: no I/O, no clock. Rules are restic's: each keeps the newest
//! snapshot of as many hours, days, weeks (Monday to Sunday), months or years as it says, and what any
//! rule keeps is kept. Snapshots from the future are kept and count for no rule.

use crate::snapshot::{Listed, Snapshot};
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
        let bad = || "expected a span such as 2y5m7d3h".to_owned();
        let mut span = Span::new();
        let mut digits = String::new();
        for letter in text.chars() {
            if letter.is_ascii_digit() {
                digits.push(letter);
                continue;
            }
            let number: i64 = digits.parse().map_err(|_| bad())?;
            digits.clear();
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
    /// The newest of so many periods.
    pub keep: Vec<(Period, Keep)>,
    /// The newest of every period, as far back as the span from the newest snapshot.
    pub within: Vec<(Period, Within)>,
    /// Snapshots that have all tags of one of these sets.
    pub tags: Vec<Vec<String>>,
}

impl Policy {
    /// Whether there is any rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keep.is_empty() && self.within.is_empty() && self.tags.is_empty()
    }
}

/// What snapshots are grouped by before the rules are applied to each group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupBy {
    /// Host name.
    pub host: bool,
    /// Paths.
    pub paths: bool,
    /// Tags.
    pub tags: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        Self { host: true, paths: true, tags: false }
    }
}

impl std::str::FromStr for GroupBy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut by = Self { host: false, paths: false, tags: false };
        for part in text.split(',').filter(|part| !part.is_empty()) {
            match part {
                "host" | "hosts" => by.host = true,
                "path" | "paths" => by.paths = true,
                "tag" | "tags" => by.tags = true,
                other => return Err(format!("cannot group by '{other}'; use host, paths, tags")),
            }
        }
        Ok(by)
    }
}

/// The key of a group; empty where it is not grouped by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct GroupKey {
    /// Host.
    pub hostname: String,
    /// Paths, sorted.
    pub paths: Vec<String>,
    /// Tags, sorted.
    pub tags: Vec<String>,
}

impl GroupBy {
    /// The group of a snapshot.
    #[must_use]
    pub fn key(self, snapshot: &Snapshot) -> GroupKey {
        let sorted = |wanted: bool, list: &[String]| {
            let mut list = if wanted { list.to_vec() } else { vec![] };
            list.sort();
            list
        };
        GroupKey {
            hostname: if self.host { snapshot.hostname.clone() } else { String::new() },
            paths: sorted(self.paths, &snapshot.paths),
            tags: sorted(self.tags, &snapshot.tags),
        }
    }
}

/// A snapshot with the reasons to keep it; none means that it goes.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The snapshot.
    pub listed: Listed,
    /// Why it is kept.
    pub reasons: Vec<String>,
}

/// The plan for one group, newest snapshot first.
#[derive(Clone, Debug)]
pub struct GroupPlan {
    /// The group.
    pub key: GroupKey,
    /// Its snapshots.
    pub verdicts: Vec<Verdict>,
}

/// Applies the rules to every group. Refuses to empty one, unless `allow_empty`.
pub fn plan(
    policy: &Policy,
    by: GroupBy,
    snapshots: &[Listed],
    now: Timestamp,
    zone: &TimeZone,
    allow_empty: bool,
) -> Result<Vec<GroupPlan>> {
    let mut groups: std::collections::BTreeMap<GroupKey, Vec<Listed>> = std::collections::BTreeMap::new();
    for listed in snapshots {
        groups.entry(by.key(&listed.snapshot)).or_default().push(listed.clone());
    }
    groups
        .into_iter()
        .map(|(key, mut members)| {
            members.sort_by(|a, b| b.snapshot.time.cmp(&a.snapshot.time).then(a.id.cmp(&b.id)));
            let verdicts = judge(policy, members, now, zone)?;
            if !allow_empty && verdicts.iter().all(|verdict| verdict.reasons.is_empty()) {
                return Err(Error::Refused(format!(
                    "the rules would remove every snapshot of host '{}', paths {:?}; use --unsafe-allow-remove-all if that is meant",
                    key.hostname, key.paths
                )));
            }
            Ok(GroupPlan { key, verdicts })
        })
        .collect()
}

fn judge(policy: &Policy, members: Vec<Listed>, now: Timestamp, zone: &TimeZone) -> Result<Vec<Verdict>> {
    let newest = members.iter().map(|listed| listed.snapshot.time).find(|time| *time <= now);
    let mut counters: Vec<(Period, Keep, Option<_>)> =
        policy.keep.iter().map(|(period, keep)| (*period, *keep, None)).collect();
    let mut spans = vec![];
    for (period, within) in &policy.within {
        let base = newest.unwrap_or(now).to_zoned(zone.clone());
        let since = base.checked_sub(within.0).map_err(|error| Error::Invalid(error.to_string()))?;
        spans.push((*period, since.timestamp(), None));
    }
    let mut verdicts = vec![];
    for (number, listed) in members.into_iter().enumerate() {
        let time = listed.snapshot.time;
        let zoned = time.to_zoned(zone.clone());
        let mut reasons = vec![];
        if time > now {
            reasons.push("from the future".to_owned());
            verdicts.push(Verdict { listed, reasons });
            continue;
        }
        for (period, keep, last) in &mut counters {
            let key = period.key(&zoned, number);
            if *last != Some(key) && *keep != Keep::Count(0) {
                *last = Some(key);
                if let Keep::Count(count) = keep {
                    *count -= 1;
                }
                reasons.push(period.name().to_owned());
            }
        }
        for (period, since, last) in &mut spans {
            let key = period.key(&zoned, number);
            if *last != Some(key) && time >= *since {
                *last = Some(key);
                reasons.push(format!("{} within the span", period.name()));
            }
        }
        if policy.tags.iter().any(|set| set.iter().all(|tag| listed.snapshot.tags.contains(tag))) {
            reasons.push("tag".to_owned());
        }
        verdicts.push(Verdict { listed, reasons });
    }
    Ok(verdicts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::ObjectId;

    fn snapshots(times: &[&str]) -> Vec<Listed> {
        times
            .iter()
            .enumerate()
            .map(|(number, time)| Listed {
                id: ObjectId([number as u8; 32]),
                snapshot: serde_json::from_value(serde_json::json!({
                    "time": time, "paths": ["/p"], "hostname": "h", "username": "u", "uid": 0, "gid": 0,
                    "tags": if number == 0 { vec!["first"] } else { vec![] },
                    "program_version": "", "sources": [],
                    "manifest": {"level": 0, "chunks": [], "entries": 0, "bytes": 0}, "summary": {},
                }))
                .unwrap(),
            })
            .collect()
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
        kept(rule(Period::Week, 10), &[2, 3, 5]);
        kept(rule(Period::Month, 2), &[3, 5]);
        kept(rule(Period::Year, 5), &[5]);
        kept(Policy { keep: vec![(Period::Day, Keep::Unlimited)], ..Policy::default() }, &[1, 2, 3, 5]);
        kept(Policy { tags: vec![vec!["first".into()]], ..Policy::default() }, &[0]);
        let within = |text: &str| vec![(Period::Snapshot, text.parse().unwrap())];
        kept(Policy { within: within("1h"), ..Policy::default() }, &[4, 5]);
        kept(Policy { within: within("28d"), ..Policy::default() }, &[3, 4, 5]);
        assert!(
            "".parse::<Within>().is_err()
                && "3".parse::<Within>().is_err()
                && "3x".parse::<Within>().is_err()
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
