//! Promises: which snapshots are kept on which tiers, and for how long. Rules in, verdicts out. Pure: no I/O, no clock.
//!
//! A class, such as `daily`, selects the first snapshot of each day, not the last as `forget --keep-daily` does.
//! Whether a snapshot is promised to a tier must be known when it is made, and never change; otherwise each hour's
//! snapshot would be the day's last, and be copied to the far tier.
//!
//! Promises place every snapshot, but remove only those that a run or a live stream made: a snapshot made by hand stays
//! until a person forgets or releases it. The newest of each group is on every tier that follows the primary,
//! regardless of promises.

use crate::group::{GroupBy, GroupKey};
use crate::policy::{Period, Within};
use crate::snapshot::{Listed, MadeBy, Snapshot};
use crate::{Error, Result};
use jiff::{Timestamp, tz::TimeZone};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The first snapshot of each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Of each hour.
    Hourly,
    /// Of each day.
    Daily,
    /// Of each week, from Monday.
    Weekly,
    /// Of each month.
    Monthly,
    /// Of each year.
    Yearly,
}

impl Class {
    fn period(self) -> Period {
        match self {
            Self::Hourly => Period::Hour,
            Self::Daily => Period::Day,
            Self::Weekly => Period::Week,
            Self::Monthly => Period::Month,
            Self::Yearly => Period::Year,
        }
    }

    /// `hourly`, `daily`, …
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }
}

/// Which snapshots a promise selects. Missing conditions do not restrict it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// Those with this tag.
    pub tag: Option<String>,
    /// Those of this host.
    pub host: Option<String>,
    /// Those of this path or stream.
    pub path: Option<String>,
    /// Of those, the first of each period, for every host and set of paths by itself.
    pub class: Option<Class>,
}

impl Select {
    /// Whether snapshots of a source may be selected, as far as that is known before there are any.
    #[must_use]
    pub fn may_fit(&self, tags: &[String], host: &str, paths: &[String]) -> bool {
        self.tag.as_ref().is_none_or(|tag| tags.contains(tag))
            && self.host.as_ref().is_none_or(|wanted| wanted == host)
            && self.path.as_ref().is_none_or(|path| paths.contains(path))
    }

    fn fits(&self, snapshot: &Snapshot) -> bool {
        self.tag.as_ref().is_none_or(|tag| snapshot.tags.contains(tag))
            && self.host.as_ref().is_none_or(|host| snapshot.hostname == *host)
            && self.path.as_ref().is_none_or(|path| snapshot.has_path(&crate::names::normal_path(path)))
    }
}

/// For how long.
#[derive(Clone, Copy, Debug)]
pub enum Keep {
    /// For this span from when the snapshot was made.
    For(Within),
    /// For ever.
    Forever,
}

impl std::str::FromStr for Keep {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "forever" {
            return Ok(Self::Forever);
        }
        let span: Within = text.parse().map_err(|why| format!("{why}, or 'forever'"))?;
        if span.0.is_zero() {
            return Err("a span of nothing keeps nothing: leave the promise out".into());
        }
        // What is made until then can be counted on from: calendars of computers end with the year 9999.
        let late = jiff::civil::date(2300, 1, 1);
        late.checked_add(span.0).map_err(|_| "a span that long is 'forever'")?;
        Ok(Self::For(span))
    }
}

/// A promise.
#[derive(Clone, Debug)]
pub struct Promise {
    /// Which snapshots.
    pub select: Select,
    /// For how long.
    pub keep: Keep,
    /// On which tiers.
    pub tiers: Vec<String>,
}

impl Promise {
    /// The selected snapshots, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let Select { tag, host, path, class } = &self.select;
        let mut words = vec![class.map_or("every snapshot", Class::name).to_owned()];
        for (what, value) in [("tag", tag), ("host", host), ("path", path)] {
            words.extend(value.as_ref().map(|value| format!("{what}={value}")));
        }
        words.join(" ")
    }
}

/// Until when something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Until {
    /// As long as it is the newest of its group.
    Newest,
    /// Until then.
    Time(Timestamp),
    /// Until a person removes it: the last of its group on a tier, or no promise selects it.
    Open,
    /// For ever.
    Forever,
}

impl Until {
    /// Seconds since the Unix epoch, if it is a time.
    #[must_use]
    pub fn seconds(self) -> Option<u64> {
        match self {
            Self::Time(time) => u64::try_from(time.as_second()).ok(),
            Self::Newest | Self::Open | Self::Forever => None,
        }
    }
}

/// A snapshot, and the tiers that have it.
#[derive(Clone, Debug)]
pub struct Known {
    /// The snapshot.
    pub listed: Listed,
    /// Names of tiers.
    pub tiers: BTreeSet<String>,
}

/// The promises for a snapshot.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// The snapshot, and where it is.
    pub known: Known,
    /// Where it is to be, and until when.
    pub promised: BTreeMap<String, Until>,
    /// Which promises say so.
    pub reasons: BTreeSet<String>,
    /// Whether it stays, wherever it is, until a person ends that.
    pub is_kept_by_hand: bool,
    /// Whether it is the newest of its group.
    pub is_newest: bool,
}

impl Verdict {
    /// Whether it is to be copied to a tier.
    #[must_use]
    pub fn is_owed(&self, tier: &str) -> bool {
        !self.known.tiers.contains(tier) && self.promised.contains_key(tier)
    }

    /// Whether it is to be forgotten on a tier.
    #[must_use]
    pub fn is_over(&self, tier: &str) -> bool {
        self.known.tiers.contains(tier) && !self.promised.contains_key(tier)
    }
}

/// Says where each snapshot is to be. `known` are all snapshots on all tiers; `commits` are their places in the order
/// in which each tier got them. One that no promise is about stays where it is, and so does one from the future, and one
/// that is held or was made by hand; on each tier the last of each group stays. The newest of each group goes to the tiers that
/// `follow`. Whether the clock is to be believed is for the caller to know ([`crate::clock`]).
pub fn judge(
    promises: &[Promise],
    known: &[Known],
    commits: &[Vec<usize>],
    follow: &[String],
    now: Timestamp,
    zone: &TimeZone,
) -> Result<Vec<Verdict>> {
    let since = ages(known, commits, now);
    let mut verdicts: Vec<Verdict> = known
        .iter()
        .map(|known| Verdict {
            known: known.clone(),
            promised: BTreeMap::new(),
            reasons: BTreeSet::new(),
            is_kept_by_hand: false,
            is_newest: false,
        })
        .collect();
    let mut about: Vec<bool> = vec![false; known.len()];
    for promise in promises {
        let mut fitting: Vec<usize> =
            (0..known.len()).filter(|place| promise.select.fits(&known[*place].listed.snapshot)).collect();
        fitting.retain(|place| !known[*place].listed.snapshot.is_safety());
        fitting.iter().for_each(|place| about[*place] = true);
        fitting.retain(|place| known[*place].listed.snapshot.time <= now);
        if let Some(class) = promise.select.class {
            fitting = first_of_each(class, &fitting, known, zone);
        }
        for place in fitting {
            let until = match promise.keep {
                Keep::Forever => Until::Forever,
                Keep::For(span) => {
                    let from = since[place].to_zoned(zone.clone());
                    let end = from.checked_add(span.0).map_err(|error| Error::Invalid(error.to_string()))?;
                    Until::Time(end.timestamp())
                }
            };
            if let Until::Time(time) = until
                && time <= now
            {
                continue;
            }
            let verdict = &mut verdicts[place];
            verdict.reasons.insert(promise.describe());
            for tier in &promise.tiers {
                let there = verdict.promised.entry(tier.clone()).or_insert(until);
                *there = until.max(*there);
            }
        }
    }
    let order = in_order(known, now);
    let to_come: BTreeSet<usize> =
        order.iter().filter(|(_, time)| *time > now).map(|(place, _)| *place).collect();
    // They are not the last of anything, unless there is nothing else.
    let mut order: Vec<usize> = order.into_iter().map(|(place, _)| place).collect();
    order.sort_by_key(|place| !to_come.contains(place));
    follow_the_newest(&mut verdicts, &order, follow);
    for place in to_come {
        let verdict = &mut verdicts[place];
        for tier in verdict.known.tiers.clone() {
            verdict.promised.entry(tier).or_insert(Until::Open);
        }
        verdict.reasons.insert("from the future".into());
    }
    keep_the_rest(&mut verdicts, &about, &order, now);
    Ok(verdicts)
}

/// The places of snapshots, oldest first, with the times that they are ranked by.
fn in_order(known: &[Known], now: Timestamp) -> Vec<(usize, Timestamp)> {
    let place_of: HashMap<_, _> =
        known.iter().enumerate().map(|(place, known)| (known.listed.id, place)).collect();
    let ranked = crate::rank::ranked(known.iter().map(|known| known.listed.clone()).collect(), now);
    ranked.iter().filter_map(|one| Some((*place_of.get(&one.listed.id)?, one.time))).collect()
}

/// Promises the newest of each group to the tiers that follow.
fn follow_the_newest(verdicts: &mut [Verdict], order: &[usize], follow: &[String]) {
    let mut newest: HashMap<GroupKey, usize> = HashMap::new();
    for place in order.iter().filter(|place| !verdicts[**place].known.listed.snapshot.is_safety()) {
        newest.insert(GroupBy::default().key(&verdicts[*place].known.listed.snapshot), *place);
    }
    for place in newest.into_values() {
        let verdict = &mut verdicts[place];
        verdict.is_newest = true;
        for tier in follow {
            if let std::collections::btree_map::Entry::Vacant(place) = verdict.promised.entry(tier.clone()) {
                place.insert(Until::Newest);
                verdict.reasons.insert("the newest of its group".into());
            }
        }
    }
}

/// What stays without a promise.
fn keep_the_rest(verdicts: &mut [Verdict], about: &[bool], order: &[usize], now: Timestamp) {
    let mut last: HashMap<(GroupKey, String), usize> = HashMap::new();
    for place in order {
        let verdict = &mut verdicts[*place];
        let snapshot = &verdict.known.listed.snapshot;
        let key = GroupBy::default().key(snapshot);
        for tier in &verdict.known.tiers {
            last.insert((key.clone(), tier.clone()), *place);
        }
        let held = snapshot.held_against_runs(now);
        verdict.is_kept_by_hand = held.is_some() || !about[*place];
        let why = match (about[*place], snapshot.time > now, held) {
            (_, _, Some(why)) => why,
            (false, ..) => "no promise is about it".into(),
            (_, true, _) => "from the future".into(),
            _ => continue,
        };
        for tier in verdict.known.tiers.clone() {
            verdict.promised.entry(tier).or_insert(Until::Open);
        }
        verdict.reasons.insert(why);
    }
    for ((_, tier), place) in last {
        let verdict = &mut verdicts[place];
        if let std::collections::btree_map::Entry::Vacant(place) = verdict.promised.entry(tier) {
            place.insert(Until::Open);
            verdict.reasons.insert("the last of its group".into());
        }
    }
}

/// Of `fitting`, the first of each period in each group.
fn first_of_each(class: Class, fitting: &[usize], known: &[Known], zone: &TimeZone) -> Vec<usize> {
    let mut order: Vec<usize> = fitting.to_vec();
    // Equal times: the one that was committed first.
    order.sort_by_key(|place| (known[*place].listed.snapshot.time, *place));
    // What was made by hand takes no run's place: it may be forgotten any time.
    let mut last: HashMap<(GroupKey, bool), (i64, i64, i64, i64)> = HashMap::new();
    order.retain(|place| {
        let snapshot = &known[*place].listed.snapshot;
        let key = class.period().key(&snapshot.time.to_zoned(zone.clone()), 0);
        let group = (GroupBy::default().key(snapshot), snapshot.made_by == MadeBy::Hand);
        last.insert(group, key) != Some(key)
    });
    order
}

/// From when each snapshot's age counts. A clock that went backwards must not make a snapshot look old: then it
/// counts from when the one committed before it was made. A time that was given on purpose is taken as it is.
fn ages(known: &[Known], commits: &[Vec<usize>], now: Timestamp) -> Vec<Timestamp> {
    let mut ages: Vec<Timestamp> = known.iter().map(|known| known.listed.snapshot.time.min(now)).collect();
    for order in commits {
        let mut latest: Option<Timestamp> = None;
        for place in order {
            let snapshot = &known[*place].listed.snapshot;
            let started: Option<Timestamp> = snapshot.summary.backup_start.parse().ok();
            let given = started.is_some_and(|started| started.duration_since(snapshot.time).abs() > GIVEN);
            if let Some(latest) = latest.filter(|_| !given) {
                ages[*place] = ages[*place].max(latest);
            }
            if let Some(started) = started.filter(|started| *started <= now) {
                latest = Some(latest.map_or(started, |latest| latest.max(started)));
            }
        }
    }
    ages
}

/// A snapshot whose time is farther than this from when its backup began was given that time.
const GIVEN: jiff::SignedDuration = jiff::SignedDuration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::ObjectId;

    fn snapshot(number: u8, time: &str, started: &str) -> Known {
        let snapshot = Snapshot {
            time: time.parse().unwrap(),
            hostname: "h".into(),
            paths: vec!["p".into()],
            made_by: MadeBy::Run("nightly".into()),
            summary: crate::snapshot::Summary { backup_start: started.into(), ..Default::default() },
            ..Snapshot::default()
        };
        Known {
            listed: Listed { id: ObjectId([number; 32]), snapshot },
            tiers: BTreeSet::from(["near".into()]),
        }
    }

    fn promise(class: Option<Class>, keep: &str, tiers: &[&str]) -> Promise {
        Promise {
            select: Select { class, ..Select::default() },
            keep: keep.parse().unwrap(),
            tiers: tiers.iter().map(|tier| (*tier).into()).collect(),
        }
    }

    fn kept(promises: &[Promise], known: &[Known], now: &str) -> Vec<Vec<String>> {
        let commits = [(0..known.len()).collect()];
        let verdicts = judge(promises, known, &commits, &[], now.parse().unwrap(), &TimeZone::UTC).unwrap();
        verdicts.into_iter().map(|verdict| verdict.promised.into_keys().collect()).collect()
    }

    #[test]
    fn the_first_of_a_period_is_of_its_class_and_stays_so() {
        let times =
            ["2026-01-01T10:00:00Z", "2026-01-01T10:30:00Z", "2026-01-01T11:00:00Z", "2026-01-02T00:00:00Z"];
        let known: Vec<Known> =
            times.iter().enumerate().map(|(number, time)| snapshot(number as u8, time, time)).collect();
        let promises = [
            promise(Some(Class::Hourly), "7d", &["near"]),
            promise(Some(Class::Daily), "30d", &["near", "far"]),
        ];
        let none: Vec<String> = vec![];
        assert_eq!(
            kept(&promises, &known, "2026-01-02T01:00:00Z"),
            [
                vec!["far", "near"],
                none.iter().map(String::as_str).collect(),
                vec!["near"],
                vec!["far", "near"]
            ]
        );
        // A week later the hourly one is over; the last stays in any case.
        let later = kept(&promises, &known, "2026-01-20T00:00:00Z");
        assert_eq!(later[2], none);
        assert_eq!(later[3], ["far", "near"]);
        let much_later = kept(&promises, &known, "2027-01-01T00:00:00Z");
        assert_eq!(much_later[0], none);
        assert_eq!(much_later[3], ["near"], "the last of its group, where it is");
    }

    #[test]
    fn a_clock_that_is_wrong_loses_nothing() {
        let promises = [promise(None, "7d", &["near"])];
        // The second was made by a machine that woke up in 1970, the third by one that is a year ahead.
        let known = [
            snapshot(1, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            snapshot(2, "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            snapshot(3, "2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            snapshot(4, "2026-01-02T00:00:00Z", "2026-01-02T00:00:00Z"),
        ];
        let now = kept(&promises, &known, "2026-01-03T00:00:00Z");
        assert!(now.iter().all(|tiers| tiers == &["near"]), "{now:?}");
        let later = kept(&promises, &known, "2026-01-20T00:00:00Z");
        assert_eq!(later.iter().map(Vec::len).collect::<Vec<_>>(), [0, 0, 1, 1]);
        // A time that was given on purpose counts.
        let old = [snapshot(1, "2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z"), known[3].clone()];
        assert_eq!(kept(&promises, &old, "2026-01-03T00:00:00Z")[0].len(), 0);
    }

    #[test]
    fn spans_are_those_that_can_be_counted() {
        for text in ["1d", "52w", "7000y", "forever"] {
            assert!(text.parse::<Keep>().is_ok(), "{text}");
        }
        for text in ["9000y", "20000y", "99999999d", "", "y", "-1d"] {
            assert!(text.parse::<Keep>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_no_promise_is_about_stays_where_it_is() {
        let mut select = promise(None, "1d", &["near"]);
        select.select.tag = Some("nightly".into());
        let known = [
            snapshot(1, "2020-01-01T00:00:00Z", "2020-01-01T00:00:00Z"),
            snapshot(2, "2021-01-01T00:00:00Z", "2021-01-01T00:00:00Z"),
        ];
        assert!(kept(&[select], &known, "2026-01-03T00:00:00Z").iter().all(|tiers| tiers == &["near"]));
    }
}
