//! One calendar event of systemd: `[WEEKDAYS] [DATE] [TIME] [ZONE]`. Source: systemd.time(7), "Calendar Events".

use jiff::Timestamp;
use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;

/// How far a next time is looked for: two February 29ths may be eight years apart, and a weekday's 28.
const HORIZON_DAYS: u32 = 60 * 366;
/// Years that a date may name, as systemd's.
const YEARS: (u16, u16) = (1970, 2199);
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// The words for common events, and what each stands for.
const SHORTHANDS: [(&str, &str); 9] = [
    ("minutely", "*-*-* *:*:00"),
    ("hourly", "*-*-* *:00:00"),
    ("daily", "*-*-* 00:00:00"),
    ("weekly", "Mon *-*-* 00:00:00"),
    ("monthly", "*-*-01 00:00:00"),
    ("quarterly", "*-01,04,07,10-01 00:00:00"),
    ("semiannually", "*-01,07-01 00:00:00"),
    ("yearly", "*-01-01 00:00:00"),
    ("annually", "*-01-01 00:00:00"),
];

/// An event.
#[derive(Clone, Debug)]
pub(super) struct Event {
    text: String,
    weekdays: [bool; 7],
    years: Values,
    months: Values,
    days: Values,
    /// Days are counted from the month's end, 1 is the last.
    from_end: bool,
    hours: Values,
    minutes: Values,
    seconds: Values,
    zone: Option<TimeZone>,
}

/// The values that a field may have, in order.
#[derive(Clone, Debug)]
struct Values(Vec<u16>);

impl Values {
    /// `*`, or values, ranges `a..b` and repetitions `a/n`, `a..b/n`, separated by commas.
    fn parse(text: &str, what: &str, (first, last): (u16, u16), from_end: bool) -> Result<Self, String> {
        let bad = || format!("'{text}' is no {what}");
        let number = |text: &str| -> Result<u16, String> {
            if text.is_empty() || text.len() > 4 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(bad());
            }
            let value: u16 = text.parse().map_err(|_| bad())?;
            let value = if what == "year" && text.len() <= 2 {
                if value < 70 { 2000 + value } else { 1900 + value }
            } else {
                value
            };
            if (first..=last).contains(&value) { Ok(value) } else { Err(bad()) }
        };
        let mut values = vec![];
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => {
                    let step: u16 = step.parse().ok().filter(|step| *step > 0).ok_or_else(bad)?;
                    (range, Some(step))
                }
                None => (part, None),
            };
            let (from, to) = match range.split_once("..") {
                _ if range == "*" => (first, last),
                Some((from, to)) => (number(from)?, number(to)?),
                // Counted from the end, a repetition goes on to the end.
                None if step.is_some() && from_end => (first, number(range)?),
                None if step.is_some() => (number(range)?, last),
                None => (number(range)?, number(range)?),
            };
            if to < from {
                return Err(bad());
            }
            let step = usize::from(step.unwrap_or(1));
            if from_end {
                values.extend((from..=to).rev().step_by(step));
            } else {
                values.extend((from..=to).step_by(step));
            }
        }
        values.sort_unstable();
        values.dedup();
        Ok(Self(values))
    }

    fn has(&self, value: u16) -> bool {
        self.0.binary_search(&value).is_ok()
    }
}

fn weekdays(text: &str) -> Result<[bool; 7], String> {
    let number = |name: &str| {
        let name = name.to_ascii_lowercase();
        let found =
            WEEKDAYS.iter().position(|day| *day == name || (name.len() == 3 && day.starts_with(&name)));
        found.ok_or_else(|| format!("'{name}' is no day of the week"))
    };
    let mut days = [false; 7];
    for part in text.trim_end_matches(',').split(',') {
        // Also written with one dash.
        let (from, to) = match part.split_once("..").or_else(|| part.split_once('-')) {
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(part)?, number(part)?),
        };
        if to < from {
            return Err(format!("'{part}' goes backwards; write two ranges"));
        }
        days[from..=to].fill(true);
    }
    Ok(days)
}

impl Event {
    /// Reads one.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let lower = text.to_ascii_lowercase();
        let (name, zone) = lower
            .split_once(' ')
            .map_or((lower.as_str(), None), |(name, _)| (name, text.split_once(' ').map(|(_, zone)| zone)));
        if let Some((_, full)) = SHORTHANDS.iter().find(|(known, _)| *known == name) {
            let full = zone.map_or_else(|| (*full).to_owned(), |zone| format!("{full} {zone}"));
            return Ok(Self { text, ..Self::parse(&full)? });
        }
        let mut words = text.split(' ').filter(|word| !word.is_empty()).peekable();
        if words.peek().is_none() {
            return Err("there is nothing in it".into());
        }
        let is_date = |word: &str| {
            word.contains(['-', '~']) && word.starts_with(|c: char| c == '*' || c.is_ascii_digit())
        };
        let is_time = |word: &str| word.contains(':');
        let is_day = |word: &str| word.starts_with(|c: char| c.is_ascii_alphabetic());
        let mut days = [true; 7];
        if let Some(word) = words.next_if(|word| is_day(word)) {
            days = weekdays(word)?;
        }
        let date = words.next_if(|word| is_date(word) && !is_time(word));
        let time = words.next_if(|word| is_time(word));
        let zone = words.next();
        if let Some(word) = words.next() {
            return Err(format!("'{word}' is one word too many"));
        }
        let zone = match zone {
            None => None,
            Some(name) => Some(
                TimeZone::get(name)
                    .map_err(|_| format!("'{name}' is neither a date, a time nor a time zone"))?,
            ),
        };
        let (years, months, days_of_month, from_end) = self::date(date.unwrap_or("*-*-*"))?;
        let time = time.unwrap_or("00:00:00");
        let mut parts = time.split(':');
        let mut field = |what, last| {
            let part = parts.next().unwrap_or("0");
            Values::parse(part, what, (0, last), false)
        };
        let (hours, minutes, seconds) = (field("hour", 23)?, field("minute", 59)?, field("second", 59)?);
        if parts.next().is_some() {
            return Err(format!("'{time}' has more than hours, minutes and seconds"));
        }
        Ok(Self {
            weekdays: days,
            years,
            months,
            days: days_of_month,
            from_end,
            hours,
            minutes,
            seconds,
            zone,
            text,
        })
    }

    /// As it is written for systemd.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn is_on(&self, date: Date) -> bool {
        let (year, month, day) = (date.year().unsigned_abs(), date.month(), date.day());
        let counted = if self.from_end { date.days_in_month() + 1 - day } else { day };
        self.years.has(year)
            && self.months.has(u16::from(month.unsigned_abs()))
            && self.days.has(u16::from(counted.unsigned_abs()))
            && self.weekdays.get(weekday(date.weekday())).is_some_and(|is_on| *is_on)
    }

    /// The first time after `after`.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let zone = self.zone.as_ref().unwrap_or(zone);
        let today = after.to_zoned(zone.clone()).date();
        let days =
            std::iter::successors(Some(today), |date| date.tomorrow().ok()).take(HORIZON_DAYS as usize);
        let times = || {
            let seconds =
                |hour: u16, minute: u16| self.seconds.0.iter().map(move |second| [hour, minute, *second]);
            let minutes =
                move |hour: u16| self.minutes.0.iter().flat_map(move |minute| seconds(hour, *minute));
            self.hours.0.iter().flat_map(move |hour| minutes(*hour))
        };
        days.filter(|date| self.is_on(*date)).find_map(|date| {
            times().find_map(|time| {
                let [hour, minute, second] = time.map(|number| i8::try_from(number).unwrap_or_default());
                // A time that clocks leave out counts as that much later.
                let zoned = date.at(hour, minute, second, 0).to_zoned(zone.clone()).ok()?;
                Some(zoned.timestamp()).filter(|time| *time > after)
            })
        })
    }
}

fn weekday(day: Weekday) -> usize {
    usize::from(day.to_monday_zero_offset().unsigned_abs())
}

/// `YEAR-MONTH-DAY`, `MONTH-DAY`, `YEAR-MONTH` with four digits; `~` before the day counts from the month's end.
fn date(text: &str) -> Result<(Values, Values, Values, bool), String> {
    let from_end = text.contains('~');
    let (head, last) = text.rsplit_once(['-', '~']).ok_or_else(|| format!("'{text}' is no date"))?;
    if head.contains('~') {
        return Err(format!("'{text}' is no date"));
    }
    let year = |text: &str| Values::parse(text, "year", YEARS, false);
    let month = |text: &str| Values::parse(text, "month", (1, 12), false);
    let day = |text: &str| Values::parse(text, "day", (1, 31), from_end);
    let (years, months, days) = match head.split_once('-') {
        Some((years, months)) => (year(years)?, month(months)?, day(last)?),
        None => (year("*")?, month(head)?, day(last)?),
    };
    Ok((years, months, days, from_end))
}
