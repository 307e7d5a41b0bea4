//! What users expect of what a drill restored: `[[assertion]]`.

use super::Reader;
use crate::durations;
use crate::file::{Asked, AssertionSpec, SourceSpec};
use engine::connector::Connector;
use engine::connector::scratch::Query;
use engine::drill::Expectation;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use toml::{Spanned, Value};

/// A table whose keys are known once the connectors have said theirs.
pub(super) type RawAssertion = BTreeMap<Spanned<String>, Spanned<Value>>;

/// The keys of every one.
const SOURCE: &str = "source";
const NAME: &str = "name";
const EXPECT: &str = "expect";
const DATABASE: &str = "database";
const COMMAND: &str = "command";
const TIMEOUT: &str = "timeout";

/// How long an answer may take, unless `timeout` says another time.
const LIMIT: Duration = Duration::from_secs(300);
/// The longest time that it may say: some servers count milliseconds in 31 bits.
const LONGEST: Duration = Duration::from_secs(86_400);

/// Connectors that take a question, by the key that it is under.
fn questions() -> impl Iterator<Item = (&'static dyn Connector, &'static str)> {
    connectors::all().iter().filter_map(|one| Some((*one, one.scratch()?.asked_by())))
}

impl Reader<'_> {
    /// Assertions of sources that there are. What a question says is looked at by the connector of its source.
    pub(super) fn assertions(
        &mut self,
        all: Vec<RawAssertion>,
        sources: &[SourceSpec],
    ) -> Vec<AssertionSpec> {
        let mut seen = BTreeSet::new();
        all.into_iter().filter_map(|raw| self.assertion(&raw, sources, &mut seen)).collect()
    }

    fn assertion(
        &mut self,
        raw: &RawAssertion,
        sources: &[SourceSpec],
        seen: &mut BTreeSet<(String, String)>,
    ) -> Option<AssertionSpec> {
        let keys: BTreeSet<&str> = questions().map(|(_, key)| key).collect();
        for key in raw.keys() {
            let is_known =
                [SOURCE, NAME, EXPECT, DATABASE, COMMAND, TIMEOUT].contains(&key.get_ref().as_str());
            if !is_known && !keys.contains(key.get_ref().as_str()) {
                let all: Vec<&str> = keys.iter().copied().chain([COMMAND]).collect();
                self.wrong(
                    key,
                    format!("unknown key '{}'; an assertion has one of {}", key.get_ref(), all.join(", ")),
                );
            }
        }
        // Where the table has a key: there is at least one, or there is nothing to point at.
        let here = raw.keys().next()?;
        let (source, name) = (self.text(raw, SOURCE), self.text(raw, NAME));
        let (Some(source), Some(name)) = (source, name) else {
            self.lacking(here, "an assertion needs 'source' and 'name'");
            return None;
        };
        if !seen.insert((source.get_ref().clone(), name.get_ref().clone())) {
            let (source, name) = (source.get_ref(), name.get_ref());
            self.wrong(here, format!("source '{source}' has two assertions named '{name}'"));
        }
        let spec = sources.iter().find(|spec| spec.name == *source.get_ref());
        if spec.is_none() {
            self.lacking(&source, format!("there is no source '{}'", source.get_ref()));
        }
        let expect = self.text(raw, EXPECT);
        let expect = expect.and_then(|text| self.parsed(&text, Expectation::parse(text.get_ref())));
        let asked: Vec<&str> = raw
            .keys()
            .map(|key| key.get_ref().as_str())
            .filter(|key| *key == COMMAND || keys.contains(key))
            .collect();
        let [one] = asked.as_slice() else {
            self.lacking(here, "an assertion asks one thing");
            return None;
        };
        let what = match *one {
            COMMAND => {
                if let Some((key, _)) = raw.get_key_value(DATABASE) {
                    self.wrong(key, "a command has no database");
                }
                Asked::Command(self.words(raw)?)
            }
            key => {
                if expect.is_none() && !raw.contains_key(EXPECT) {
                    self.lacking(here, "an answer is compared with 'expect'");
                }
                self.question(raw, key, spec)?
            }
        };
        let limit = self.limit(raw);
        Some(AssertionSpec { source: source.into_inner(), name: name.into_inner(), what, expect, limit })
    }

    fn limit(&mut self, raw: &RawAssertion) -> Duration {
        let Some(text) = self.text(raw, TIMEOUT) else { return LIMIT };
        let limit = durations::parse(text.get_ref()).and_then(|limit| match limit {
            Duration::ZERO => Err("nothing answers in no time".to_owned()),
            limit if limit > LONGEST => Err("an answer may take a day at most".to_owned()),
            limit => Ok(limit),
        });
        self.parsed(&text, limit).unwrap_or(LIMIT)
    }

    fn question(&mut self, raw: &RawAssertion, key: &str, spec: Option<&SourceSpec>) -> Option<Asked> {
        let text = self.text(raw, key)?;
        let database = self.text(raw, DATABASE).map(Spanned::into_inner);
        let is_of = |connector: &&dyn Connector| {
            spec.is_none_or(|spec| {
                let schemes = || spec.urls.iter().filter_map(|url| connectors::scheme(url));
                schemes().any(|(own, _)| own.name() == connector.name())
            })
        };
        let able: Vec<_> =
            questions().filter(|(_, own)| *own == key).map(|(one, _)| one).filter(is_of).collect();
        if able.is_empty() {
            self.wrong(&text, format!("'{key}' is for servers that its source does not name"));
        }
        let query = Query { text: text.get_ref().clone(), database };
        for connector in able {
            let checked = connector.scratch().map_or(Ok(()), |scratch| scratch.check(&query));
            if self.parsed(&text, checked).is_none() {
                break;
            }
        }
        let (_, key) = questions().find(|(_, own)| *own == key)?;
        Some(Asked::Query(key, query))
    }

    /// A key's text.
    fn text(&mut self, raw: &RawAssertion, key: &str) -> Option<Spanned<String>> {
        let value = raw.get(key)?;
        match value.get_ref() {
            Value::String(text) if !text.trim().is_empty() => Some(Spanned::new(value.span(), text.clone())),
            // A number that is expected may be written as one.
            Value::Integer(number) if key == EXPECT => Some(Spanned::new(value.span(), number.to_string())),
            _ => {
                self.wrong(value, format!("'{key}' is a text that is not empty"));
                None
            }
        }
    }

    /// A command's words.
    fn words(&mut self, raw: &RawAssertion) -> Option<Vec<String>> {
        let value = raw.get(COMMAND)?;
        let words = value.get_ref().as_array().and_then(|words| {
            words.iter().map(|word| word.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
        });
        if words.as_ref().is_none_or(|words| words.first().is_none_or(String::is_empty)) {
            self.wrong(value, "'command' is a list of words, such as [\"/usr/local/bin/check\"]");
            return None;
        }
        words
    }
}
