//! What a user expects of an answer: a comparison, and what it compares with.

use std::cmp::Ordering;

/// `>= 1000`, `!= off`, `= 5`; a value by itself must be the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    sign: &'static str,
    value: String,
}

/// Whether a comparison is met.
type Test = fn(Ordering) -> bool;

/// Comparisons, the longer ones first.
const SIGNS: [(&str, Test); 6] = [
    ("!=", Ordering::is_ne),
    ("<=", Ordering::is_le),
    (">=", Ordering::is_ge),
    ("=", Ordering::is_eq),
    ("<", Ordering::is_lt),
    (">", Ordering::is_gt),
];

impl Expectation {
    /// Reads one.
    ///
    /// # Errors
    /// It has no value, or compares the size of what is no number.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let found = SIGNS.iter().find_map(|(sign, _)| Some((*sign, text.strip_prefix(sign)?)));
        let (sign, value) = found.unwrap_or(("=", text));
        let value = value.trim().to_owned();
        if value.is_empty() {
            return Err("nothing is expected: write a value, or a comparison such as '>= 1000'".into());
        }
        if value.starts_with(['=', '<', '>', '!', '\'', '"']) {
            return Err(
                "the comparison is none: write one of =, !=, <, <=, >, >= and a value without quotes".into(),
            );
        }
        if sign.contains(['<', '>']) && !is_number(&value) {
            return Err(format!("'{sign}' compares numbers, and what follows it is none"));
        }
        Ok(Self { sign, value })
    }

    /// Whether an answer is as expected. What is no number is neither smaller nor larger than one.
    #[must_use]
    pub fn is_met(&self, answer: &str) -> bool {
        let answer = answer.trim();
        let ordering = match is_number(&self.value) && is_number(answer) {
            true => compared(answer, &self.value),
            false if self.sign.contains(['<', '>']) => None,
            false => Some(answer.cmp(&self.value)),
        };
        let test = SIGNS.iter().find(|(sign, _)| *sign == self.sign);
        ordering.zip(test).is_some_and(|(ordering, (_, test))| test(ordering))
    }

    /// As reports have it: see [`shown`].
    #[must_use]
    pub fn shown(&self) -> String {
        match self.sign {
            "=" => shown(&self.value).to_owned(),
            sign => format!("{sign} {}", shown(&self.value)),
        }
    }
}

/// An answer, or what is expected, as reports have it: numbers, but no other text, since that may be a secret.
#[must_use]
pub fn shown(value: &str) -> &str {
    match value.trim() {
        "" => "nothing",
        value if is_number(value) => value,
        _ => "a text",
    }
}

fn is_number(text: &str) -> bool {
    let is_digital = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    text.len() <= 64 && text.chars().all(is_digital) && text.parse::<f64>().is_ok()
}

/// Whole numbers by every digit, others as far as a float goes.
fn compared(one: &str, other: &str) -> Option<Ordering> {
    match (one.parse::<i128>(), other.parse::<i128>()) {
        (Ok(one), Ok(other)) => Some(one.cmp(&other)),
        _ => one.parse::<f64>().ok()?.partial_cmp(&other.parse().ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_compared_as_numbers_where_both_are() {
        for (expected, answer, is_met) in [
            ("5", "5", true),
            ("= 5", "5.0", true),
            ("5", "05", true),
            (">= 1000", "999", false),
            (">=1000", "1000", true),
            ("< 10", "9", true),
            ("> 9007199254740992", "9007199254740993", true),
            ("!= 0", "1", true),
            ("!= 0", "0", false),
            ("!= off", "on", true),
            ("on", " on\n", true),
            ("on", "On", false),
            ("> 3", "many", false),
            ("< 3", "", false),
            ("<= -1.5", "-2", true),
        ] {
            assert_eq!(Expectation::parse(expected).unwrap().is_met(answer), is_met, "{expected}: {answer}");
        }
        for wrong in
            ["== 5", "=> 5", "!5", "!== 0", "!= 'off'", "\"on\"", "", " ", ">=", "> many", "<= nan", "< inf"]
        {
            assert!(Expectation::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_numbers_are_shown() {
        let shown_of = |text: &str| Expectation::parse(text).unwrap().shown();
        assert_eq!(
            (shown_of(">= 5"), shown_of("5"), shown_of("hunter2")),
            (">= 5".into(), "5".into(), "a text".into())
        );
        assert_eq!((shown(""), shown("17"), shown("sesame")), ("nothing", "17", "a text"));
    }
}
