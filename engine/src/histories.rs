//! Random histories of backups of several things on two hosts, by hand and by runs, with wrong clocks and given times;
//! after each, rules or promises act. No thing that was backed up under its own name may lose its last snapshot, and no
//! run may remove a snapshot that was made by hand.

use crate::group::{GroupBy, Identity};
use crate::policy::{Keep, Period, Policy, plan};
use crate::promise::{Class, Known, Promise, Select, judge};
use crate::rank::ranked;
use crate::snapshot::{Hold, Listed, Made, MadeBy, Snapshot, SourceRecord, Summary};
use chunkstore::ObjectId;
use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Things that people back up: path, kind, origin, words of a command, name in esker.toml.
const THINGS: &[(&str, &str, &str, &str, &str)] = &[
    ("/home", "files", "/home", "", ""),
    ("/home", "files", "/home", "", "homes"),
    ("/s/M%FCller", "files", "/s/M%FCller", "", ""),
    ("/s/M%F6ller", "files", "/s/M%F6ller", "", ""),
    ("/postgres/h:5432", "postgres", "postgres://u@h/shop", "", ""),
    ("/postgres/h:5432", "postgres", "postgres://u@h/billing", "", ""),
    ("/postgres/h:5432", "postgres", "postgres://u@h", "", ""),
    ("/mysql/h:3306", "mysql", "mysql://a@h/shop", "", ""),
    ("/mysql/h:3306", "mysql", "mysql://b@h/shop", "", ""),
    ("/pg_dump", "command", "pg_dump", "01", ""),
    ("/pg_dump", "command", "pg_dump", "02", ""),
    ("/stdin", "stdin", "stdin", "", ""),
    ("/stdin", "files", "/stdin", "", ""),
];

/// One backup.
#[derive(Clone, Debug)]
struct Event {
    thing: usize,
    host: u8,
    by_hand: bool,
    held: bool,
    tagged: bool,
    /// Minutes since the one before.
    after: i64,
    /// Minutes that the clock is wrong by.
    wrong: i64,
    /// Whether what goes is decided by this clock.
    judged_by_it: bool,
    /// A time that was given instead, in minutes from long ago: an import.
    given: Option<i64>,
}

fn event() -> impl Strategy<Value = Event> {
    let wrong = prop_oneof![
        8 => Just(0i64),
        1 => Just(5 * 365 * 1440),
        1 => Just(-50 * 365 * 1440),
        2 => -3000i64..3000,
    ];
    let given = prop_oneof![8 => Just(None), 1 => (0i64..100_000).prop_map(Some)];
    let flags = (any::<bool>(), proptest::bool::weighted(0.1), any::<bool>(), any::<bool>());
    (0..THINGS.len(), 0u8..2, flags, 1i64..4000, wrong, given).prop_map(
        |(thing, host, (by_hand, held, tagged, judged_by_it), after, wrong, given)| Event {
            thing,
            host,
            by_hand,
            held,
            tagged,
            after,
            wrong,
            judged_by_it,
            given,
        },
    )
}

/// Before anything here was made.
fn long_ago() -> Timestamp {
    "2020-01-01T00:00:00Z".parse().unwrap()
}

/// The snapshot that a backup makes.
fn made(number: usize, event: &Event, now: Timestamp) -> Listed {
    let (path, kind, origin, words, name) = THINGS[event.thing];
    let clock = now + event.wrong.minutes();
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let identity = Identity { name: some(name), words: some(words), ..Identity::default() };
    let snapshot = Snapshot {
        time: event.given.map_or(clock, |given| long_ago() + given.minutes()),
        hostname: format!("host{}", event.host),
        paths: vec![path.into()],
        sources: vec![SourceRecord::new(kind, origin, true).identified(identity)],
        tags: if event.tagged { vec!["tag".into()] } else { vec![] },
        made_by: if event.by_hand { MadeBy::Hand } else { MadeBy::Run("nightly".into()) },
        hold: if event.held { Hold::Held } else { Hold::Unsaid },
        made: Some(Made {
            incarnation: 1,
            generation: number as u64,
            clock,
            time_given: event.given.is_some(),
        }),
        summary: Summary { backup_start: clock.to_string(), ..Summary::default() },
        ..Snapshot::default()
    };
    Listed { id: ObjectId([number as u8; 32]), snapshot }
}

/// Runs a history; after each backup, `act` says what goes.
fn live(
    events: &[Event],
    mut act: impl FnMut(&[Listed], Timestamp) -> BTreeSet<ObjectId>,
    by_hand_stays: bool,
) {
    let mut now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let mut there: Vec<Listed> = vec![];
    let mut last: BTreeMap<(u8, usize), ObjectId> = BTreeMap::new();
    // Something was right once: a repository is not begun by a clock that is wrong and filled by imports.
    let first = Event { thing: 0, host: 0, wrong: 0, given: None, ..events[0].clone() };
    for (number, event) in [&first].into_iter().chain(events).enumerate() {
        now += event.after.minutes();
        let listed = made(number, event, now);
        // What is imported is older than all that is there.
        if event.given.is_none() {
            last.insert((event.host, event.thing), listed.id);
        }
        there.push(listed);
        // By the right clock, and by the one of the machine that made this.
        let by = if event.judged_by_it { now + event.wrong.minutes() } else { now };
        let gone = act(&there, by);
        for listed in there.iter().filter(|listed| gone.contains(&listed.id)) {
            assert!(listed.snapshot.time <= by, "{:?} is still to come at {by}", listed.snapshot.time);
            assert_ne!(listed.snapshot.hold, Hold::Held);
            assert!(!by_hand_stays || listed.snapshot.made_by != MadeBy::Hand);
        }
        there.retain(|listed| !gone.contains(&listed.id));
        for ((host, thing), id) in &last {
            assert!(
                there.iter().any(|listed| listed.id == *id),
                "{:?} of host {host} lost its last, number {}, at {now}",
                THINGS[*thing],
                id.0[0]
            );
        }
    }
}

fn zone(hours: i8) -> TimeZone {
    TimeZone::fixed(jiff::tz::offset(hours))
}

proptest! {
    #[test]
    fn no_rule_removes_the_last_of_anything(
        events in proptest::collection::vec(event(), 1..40),
        rules in proptest::collection::vec((0usize..6, 1u32..4), 1..3),
        within in proptest::option::of(1u32..90),
        hours in -12i8..14,
    ) {
        let periods =
            [Period::Snapshot, Period::Hour, Period::Day, Period::Week, Period::Month, Period::Year];
        let policy = Policy {
            keep: rules.iter().map(|(period, count)| (periods[*period], Keep::Count(*count))).collect(),
            within: within.map(|days| (Period::Day, format!("{days}d").parse().unwrap())).into_iter().collect(),
            ..Policy::default()
        };
        live(&events, |there, now| {
            let plans =
                plan(&policy, GroupBy::default(), &ranked(there.to_vec(), now), now, &zone(hours), false).unwrap();
            let gone = plans.iter().flat_map(|group| &group.verdicts).filter(|verdict| !verdict.is_kept());
            gone.map(|verdict| verdict.listed.id).collect()
        }, false);
    }

    #[test]
    fn no_run_removes_the_last_of_anything_nor_what_was_made_by_hand(
        events in proptest::collection::vec(event(), 1..40),
        promised in proptest::collection::vec((proptest::option::of(0usize..3), any::<bool>(), 1u32..40), 1..4),
        hours in -12i8..14,
    ) {
        let classes = [Class::Hourly, Class::Daily, Class::Monthly];
        let promises: Vec<Promise> = promised.iter().map(|(class, tagged, days)| Promise {
            select: Select {
                class: class.map(|class| classes[class]),
                tag: tagged.then(|| "tag".to_owned()),
                ..Select::default()
            },
            keep: format!("{days}d").parse().unwrap(),
            tiers: vec!["near".into()],
        }).collect();
        live(&events, |there, now| {
            let known: Vec<Known> = (there.iter().cloned())
                .map(|listed| Known { listed, tiers: BTreeSet::from(["near".to_owned()]) })
                .collect();
            let order = [(0..known.len()).collect()];
            let verdicts = judge(&promises, &known, &order, &[], now, &zone(hours)).unwrap();
            let over = verdicts.iter().filter(|verdict| verdict.is_over("near"));
            over.map(|verdict| verdict.known.listed.id).collect()
        }, true);
    }
}
