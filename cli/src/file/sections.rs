//! From the text of esker.toml to its sections, with every key that is unknown and every value of a wrong kind on the way:
//! what is wrong is noted and taken out, and the rest is read again.

use super::read::Raw;
use serde::Deserialize as _;
use std::cmp::Reverse;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// More mistakes than this are of one cause, such as a file that is no esker.toml.
const MOST: usize = 100;

/// A mistake and the bytes that it is about.
pub(super) type Found = (Range<usize>, String);

/// What a text holds.
pub(super) struct Sections {
    /// What is left without the mistakes.
    pub(super) raw: Option<Raw>,
    pub(super) mistakes: Vec<Found>,
    /// Whether something is missing that was there: not only keys that are unknown.
    pub(super) is_whole: bool,
}

/// Reads a text.
pub(super) fn read(text: &str) -> Sections {
    let (mut table, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        let found = |error: &toml::de::Error| (error.span().unwrap_or(0..0), error.message().to_owned());
        return Sections { raw: None, mistakes: syntax.iter().map(found).collect(), is_whole: false };
    }
    let mut sections = Sections { raw: None, mistakes: vec![], is_whole: true };
    // The tables that something was taken out of, its key, and whether it was one that nobody knows.
    let mut removed: Vec<(Vec<Step>, String, bool)> = vec![];
    for _ in 0..MOST {
        let error = match Raw::deserialize(toml::Deserializer::from(table.clone())) {
            Ok(raw) => {
                sections.raw = Some(raw);
                break;
            }
            Err(error) => error,
        };
        let (span, message) = (error.span().unwrap_or(0..0), error.message().to_owned());
        let place = place(table.get_ref(), &span).unwrap_or_default();
        let lacking = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
        // What lacks since it was taken out, or was misspelt, was told already.
        let is_told = lacking.is_some_and(|name| {
            let mut own = removed.iter().filter(|(above, _, _)| *above == place);
            own.any(|(_, key, is_unknown)| key == name || *is_unknown)
        });
        let is_unknown = message.starts_with("unknown field");
        sections.is_whole &= is_unknown;
        if !is_told {
            sections.mistakes.push((span, message));
        }
        let Some((last, above)) = place.split_last() else { break };
        if let Step::Key(name) = last {
            removed.push((above.to_vec(), name.clone(), is_unknown));
        }
        take(table.get_mut(), &place);
    }
    sections
}

/// A step from a table to what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

/// The way to what a span is of: a key, else the smallest value around it.
fn place(table: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<Step>> {
    let mut found: Vec<(usize, Vec<Step>)> = vec![];
    in_table(table, span, &mut vec![], &mut found);
    // The span of a section that is one of several is also that of their list.
    let nearest = found.into_iter().min_by_key(|(distance, place)| (*distance, Reverse(place.len())));
    nearest.map(|(_, place)| place)
}

fn in_table(
    table: &DeTable<'_>,
    span: &Range<usize>,
    above: &mut Vec<Step>,
    found: &mut Vec<(usize, Vec<Step>)>,
) {
    for (key, value) in table {
        above.push(Step::Key(key.get_ref().to_string()));
        if key.span() == *span {
            found.push((0, above.clone()));
        }
        in_value(value, span, above, found);
        above.pop();
    }
}

fn in_value(
    value: &Spanned<DeValue<'_>>,
    span: &Range<usize>,
    above: &mut Vec<Step>,
    found: &mut Vec<(usize, Vec<Step>)>,
) {
    let own = value.span();
    if own.start <= span.start && span.end <= own.end {
        // One byte further away than a key: a table may have the span of its own header.
        found.push((1 + own.len() - span.len(), above.clone()));
    }
    match value.get_ref() {
        DeValue::Table(table) => in_table(table, span, above, found),
        DeValue::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                above.push(Step::Item(number));
                in_value(item, span, above, found);
                above.pop();
            }
        }
        _ => {}
    }
}

/// Takes what is at a place out.
fn take(table: &mut DeTable<'_>, place: &[Step]) {
    let Some((Step::Key(key), rest)) = place.split_first() else { return };
    if rest.is_empty() {
        table.remove(key.as_str());
    } else if let Some(value) = table.get_mut(key.as_str()) {
        take_within(value.get_mut(), rest);
    }
}

fn take_within(value: &mut DeValue<'_>, place: &[Step]) {
    match (value, place.split_first()) {
        (DeValue::Table(table), Some(_)) => take(table, place),
        (DeValue::Array(items), Some((Step::Item(number), rest))) => {
            if rest.is_empty() {
                let mut kept = DeArray::new();
                let others = items.iter().enumerate().filter(|(at, _)| at != number);
                others.for_each(|(_, item)| kept.push(item.clone()));
                *items = kept;
            } else if let Some(item) = items.get_mut(*number) {
                take_within(item.get_mut(), rest);
            }
        }
        _ => {}
    }
}
