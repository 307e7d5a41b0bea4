//! When runs are due: systemd's calendar events, and the five fields of cron, which are translated into them. A
//! schedule that systemd would not take is refused here, since systemd drops it with a line in its log.
//! Sources: systemd.time(7), "Calendar Events"; crontab(5).

use calendar::Event;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

mod calendar;
mod cron;

/// Shown where a schedule is not understood.
const EXAMPLES: &str =
    "write '*-*-* 02:00' for every night at two, 'Mon..Fri 18:30', 'hourly', or cron's '0 2 * * *'";
/// Longest schedule, in bytes.
const MAX_LEN: usize = 500;

/// A schedule that systemd takes.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    events: Vec<Event>,
}

impl std::str::FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shown = text.escape_debug();
        if text.len() > MAX_LEN || text.chars().any(|c| c.is_control() || !c.is_ascii()) {
            return Err(format!("the schedule '{shown}' is not one line of plain text; {EXAMPLES}"));
        }
        let events = match cron::translated(text) {
            Some(lines) => lines.and_then(|lines| lines.iter().map(|line| Event::parse(line)).collect()),
            None => Event::parse(text).map(|event| vec![event]),
        };
        let events: Vec<Event> =
            events.map_err(|why| format!("the schedule '{shown}' is not understood: {why}; {EXAMPLES}"))?;
        let schedule = Self { events };
        if schedule.next(Timestamp::now(), &TimeZone::UTC).is_none() {
            return Err(format!("the schedule '{shown}' names no time to come"));
        }
        Ok(schedule)
    }
}

impl Schedule {
    /// The values of `OnCalendar=`, one a line; a run is due at each of them.
    pub(crate) fn on_calendar(&self) -> impl Iterator<Item = &str> {
        self.events.iter().map(Event::text)
    }

    /// The first time after `after`; `zone` is that of the machine, for events that name none.
    pub(crate) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        self.events.iter().filter_map(|event| event.next(after, zone)).min()
    }

    /// The longest pause between two times, of the next few hundred.
    pub(crate) fn longest_pause(&self, after: Timestamp, zone: &TimeZone) -> SignedDuration {
        let coming = self.coming(400, after, zone);
        let pauses = coming.windows(2).map(|pair| match pair {
            [one, next] => next.duration_since(*one),
            _ => SignedDuration::ZERO,
        });
        pauses.max().unwrap_or_default()
    }

    /// The next `count` times.
    pub(crate) fn coming(&self, count: usize, after: Timestamp, zone: &TimeZone) -> Vec<Timestamp> {
        std::iter::successors(self.next(after, zone), |last| self.next(*last, zone)).take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn coming(text: &str) -> Vec<String> {
        let schedule: Schedule = text.parse().unwrap();
        // A Wednesday.
        let after: Timestamp = "2026-11-25T19:50:39Z".parse().unwrap();
        schedule
            .coming(3, after, &TimeZone::UTC)
            .iter()
            .map(|time| time.strftime("%a %F %T").to_string())
            .collect()
    }

    #[test]
    fn pauses_are_as_long_as_weekends_and_months() {
        let pause = |text: &str| {
            let schedule: Schedule = text.parse().unwrap();
            schedule.longest_pause("2026-11-25T19:50:39Z".parse().unwrap(), &TimeZone::UTC).as_hours()
        };
        let pauses = ["*-*-* 02:00", "Mon..Fri 18:30", "*-*-01 03:00"].map(pause);
        assert_eq!(pauses, [24, 3 * 24, 31 * 24]);
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_an_example() {
        for text in [
            "",
            " ",
            "every day at two",
            "02:00\nOnCalendar=*:*",
            "25:00",
            "*-13-01",
            "*-02-30",
            "Mon..Foo",
            "* * * *",
            "60 2 * * *",
            "0 2 32 * *",
            "0 2 * * 8",
            "@reboot",
            "*-*-* 02:00 Europe/Nowhere",
            "2020-01-01",
            "täglich",
            "*-*-* 2",
            "5..3:00",
            "*:0/0",
        ] {
            let told = text.parse::<Schedule>().expect_err(text);
            assert!(told.contains("'*-*-* 02:00'") || told.contains("no time to come"), "{text}: {told}");
            assert!(!told.contains('\n'), "{told}");
        }
    }

    #[test]
    fn the_next_three() {
        let cases = [
            (
                "*-*-* 02:00",
                ["Thu 2026-11-26 02:00:00", "Fri 2026-11-27 02:00:00", "Sat 2026-11-28 02:00:00"],
            ),
            ("0 2 * * *", ["Thu 2026-11-26 02:00:00", "Fri 2026-11-27 02:00:00", "Sat 2026-11-28 02:00:00"]),
            ("02:00", ["Thu 2026-11-26 02:00:00", "Fri 2026-11-27 02:00:00", "Sat 2026-11-28 02:00:00"]),
            ("hourly", ["Wed 2026-11-25 20:00:00", "Wed 2026-11-25 21:00:00", "Wed 2026-11-25 22:00:00"]),
            (
                "Mon..Fri 18:30",
                ["Thu 2026-11-26 18:30:00", "Fri 2026-11-27 18:30:00", "Mon 2026-11-30 18:30:00"],
            ),
            (
                "*-*~1 00:00",
                ["Mon 2026-11-30 00:00:00", "Thu 2026-12-31 00:00:00", "Sun 2027-01-31 00:00:00"],
            ),
            ("*-02-29", ["Tue 2028-02-29 00:00:00", "Sun 2032-02-29 00:00:00", "Fri 2036-02-29 00:00:00"]),
            ("*:0/20", ["Wed 2026-11-25 20:00:00", "Wed 2026-11-25 20:20:00", "Wed 2026-11-25 20:40:00"]),
            (
                "*/20 * * * *",
                ["Wed 2026-11-25 20:00:00", "Wed 2026-11-25 20:20:00", "Wed 2026-11-25 20:40:00"],
            ),
            (
                "30 1 * * sun",
                ["Sun 2026-11-29 01:30:00", "Sun 2026-12-06 01:30:00", "Sun 2026-12-13 01:30:00"],
            ),
            // Either of the two, as crontab(5) has it.
            ("0 0 27 * 6", ["Fri 2026-11-27 00:00:00", "Sat 2026-11-28 00:00:00", "Sat 2026-12-05 00:00:00"]),
            ("@weekly", ["Sun 2026-11-29 00:00:00", "Sun 2026-12-06 00:00:00", "Sun 2026-12-13 00:00:00"]),
            (
                "03:00 Europe/Berlin",
                ["Thu 2026-11-26 02:00:00", "Fri 2026-11-27 02:00:00", "Sat 2026-11-28 02:00:00"],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(coming(text), expected, "{text}");
        }
    }

    /// What systemd itself says, where it is installed: which schedules it takes, and when they are due.
    #[test]
    fn systemd_agrees() {
        let analyze = |text: &str| {
            let mut command = std::process::Command::new("systemd-analyze");
            command.args(["calendar", "--iterations=3", "--base-time=2026-11-25 19:50:39 UTC", "--", text]);
            command.env("TZ", "UTC").env("SYSTEMD_COLORS", "0").env("LC_ALL", "C");
            command.output().ok()
        };
        if analyze("daily").is_none_or(|output| !output.status.success()) {
            return;
        }
        for text in [
            "minutely",
            "daily",
            "weekly",
            "monthly",
            "quarterly",
            "semiannually",
            "yearly",
            "Sat,Thu,Mon..Wed,Sat..Sun",
            "Mon,Sun 2027-*-* 2,1:23",
            "Wed *-1",
            "Wed..Wed,Wed *-1",
            "Wed, 17:48",
            "Wed..Sat,Tue 27-10-15 1:2:3",
            "*-*-7 0:0:0",
            "10-15",
            "monday *-12-* 17:00",
            "Mon,Fri *-*-3,1,2 *:30:45",
            "12,14,13,12:20,10,30",
            "12..14:10,20,30",
            "mon,fri *-1/2-1,3 *:30:45",
            "03-05 08:05:40",
            "08:05:40",
            "05:40",
            "Sat,Sun 12-05 08:05:40",
            "2027-03-05 05:40",
            "2027-03",
            "*-02~01",
            "Mon *-05~07/1",
            "*-*~2..1",
            "*:*:0/30",
            "0/4:00",
            "*-*-1..7 18:00",
            "Mon..Fri 18:30 UTC",
            "2..4:00",
            "every day at two",
            "0 2 * * *",
            "25:00",
            "*-13-01",
            "Mon..Foo",
            "*-*-* 2",
            "5..3:00",
        ] {
            // Cron's own form is not systemd's.
            if cron::translated(text).is_some() {
                continue;
            }
            let output = analyze(text).unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let ours = text.parse::<Schedule>();
            assert_eq!(
                ours.is_ok(),
                output.status.success() && !said.contains("Next elapse: never"),
                "{text}: {ours:?} {said}"
            );
            if ours.is_err() {
                continue;
            }
            let times = said.lines().filter_map(|line| line.trim().split_once(": "));
            let times = times.filter(|(name, _)| name.starts_with("Next elapse") || name.starts_with("Iter"));
            let theirs: Vec<String> =
                times.map(|(_, time)| time.trim().trim_end_matches(" UTC").to_owned()).collect();
            assert_eq!(coming(text), theirs, "{text}: {said}");
        }
    }
}
