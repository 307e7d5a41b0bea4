//! Durations as people write them, in the same forms wherever one is given: on the command line, in a variable, in
//! esker.toml.

use serde::Deserialize;
use std::time::Duration;

/// Longest of a request to a store or a service, in seconds: a day.
const LONGEST_WAIT: u64 = 86_400;

/// Longest time for which what a key service unwrapped is kept, in seconds: what is to be there for longer is a key file.
const LONGEST_KEEP: u64 = 30 * 86_400;

/// Shortest time between two moments of a stream.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(200);

/// What durations look like, for messages.
const FORMS: &str = "a time such as 90s, 5m, 2h or 3d";

/// A duration with its units: `90s`, `1h30m`, `2 days`, `1w`, or as ISO 8601 has it, `PT5M`. A day has 24 hours.
fn with_units(text: &str) -> Option<Duration> {
    let span: jiff::Span = text.parse().ok()?;
    let span = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?;
    Duration::try_from(span).ok()
}

/// A whole number without a unit.
fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// Any duration. It has units; only 0 needs none.
///
/// # Errors
/// It is none.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    if number(text) == Some(0) {
        return Ok(Duration::ZERO);
    }
    with_units(text).ok_or_else(|| format!("'{text}' is not {FORMS}"))
}

/// Seconds, from a number of them or a duration with its units; what is begun of one counts, so that only 0 is none.
///
/// # Errors
/// It is neither.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    let whole = |duration: Duration| duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    let seconds = number(text).or_else(|| with_units(text).map(whole));
    seconds.ok_or_else(|| format!("'{text}' is neither seconds nor {FORMS}"))
}

/// Milliseconds, from a number of hours or a duration with its units.
///
/// # Errors
/// It is neither.
pub(crate) fn hours(text: &str) -> Result<u64, String> {
    if let Some(hours) = number(text) {
        return Ok(hours.saturating_mul(3_600_000));
    }
    let ms = with_units(text).and_then(|duration| u64::try_from(duration.as_millis()).ok());
    ms.ok_or_else(|| format!("'{text}' is neither hours nor {FORMS}"))
}

/// The time between two moments of a stream.
///
/// # Errors
/// It is no duration, or shorter than 200 ms.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        duration if duration < SHORTEST_INTERVAL => Err(format!("'{text}' is shorter than 200ms")),
        duration => Ok(duration),
    }
}

/// Seconds for which what a key service unwrapped is kept; 0 to remove it.
///
/// # Errors
/// It is no duration, or longer than 30 days.
pub(crate) fn keep(text: &str) -> Result<u64, String> {
    match seconds(text)? {
        seconds if seconds <= LONGEST_KEEP => Ok(seconds),
        _ => Err(format!("'{text}' is longer than 30 days: for so long, make a key file")),
    }
}

/// Seconds without an answer, from 1 to a day: a number of them, or a duration with its units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Given")]
pub(crate) struct Wait(u64);

/// How esker.toml may give one.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected seconds, or a text such as \"5m\"")]
enum Given {
    Number(i64),
    Text(String),
}

impl Given {
    fn text(self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

impl Wait {
    /// The seconds.
    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<Given> for Wait {
    type Error = String;
    fn try_from(given: Given) -> Result<Self, String> {
        given.text().parse()
    }
}

impl std::str::FromStr for Wait {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match seconds(text)? {
            seconds if (1..=LONGEST_WAIT).contains(&seconds) => Ok(Self(seconds)),
            _ => Err(format!("'{text}' is not from 1 s to a day")),
        }
    }
}

/// Seconds as [`keep`] has them, as esker.toml gives them.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Given")]
pub(crate) struct Keep(u64);

impl Keep {
    /// The seconds.
    pub(crate) fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<Given> for Keep {
    type Error = String;
    fn try_from(given: Given) -> Result<Self, String> {
        keep(&given.text()).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_the_same_forms_wherever_it_is_given() {
        let cases = [
            ("90s", 90),
            ("5m", 300),
            ("2h", 7200),
            ("1h30m", 5400),
            ("30d", 30 * 86_400),
            ("1d12h", 36 * 3600),
            ("2 days", 2 * 86_400),
            ("1w", 7 * 86_400),
            ("PT5M", 300),
            ("P1D", 86_400),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(Duration::from_secs(expected)), "{text}");
            assert_eq!(seconds(text), Ok(expected), "{text}");
            assert_eq!(hours(text), Ok(expected * 1000), "{text}");
            assert_eq!(interval(text), Ok(Duration::from_secs(expected)), "{text}");
            assert_eq!(keep(text), Ok(expected), "{text}");
            let wait = text.parse::<Wait>().map(Wait::get);
            assert_eq!(wait.ok(), (expected <= LONGEST_WAIT).then_some(expected), "{text}");
        }
        // A year and a month have no length of their own.
        for text in ["", "soon", "-1h", "-5", "1.5", "1y", "2mo", "d", "31dd", "99999999999999999999"] {
            for refused in [
                parse(text).is_err(),
                seconds(text).is_err(),
                hours(text).is_err(),
                interval(text).is_err(),
                keep(text).is_err(),
                text.parse::<Wait>().is_err(),
            ] {
                assert!(refused, "{text}");
            }
        }
        assert_eq!((parse("0"), seconds("90"), hours("2")), (Ok(Duration::ZERO), Ok(90), Ok(7_200_000)));
        assert!(parse("90").is_err() && interval("199ms").is_err() && interval("0").is_err());
        assert!(keep("30d1s").is_err() && keep("0") == Ok(0) && keep("1ms") == Ok(1));
        assert!("0".parse::<Wait>().is_err() && "86401".parse::<Wait>().is_err());
    }
}
