//! What a command reports at its end: one value with two renderings.

use super::with_names;
use crate::exit::Failure;
use comfy_table::Table;
use serde_json::{Map, Value};

/// The report of a command: a text for people, and the fields of an object for programs.
#[derive(Default)]
pub(crate) struct Summary {
    text: Vec<Part>,
    fields: Map<String, Value>,
}

/// A part of what people read.
pub(super) enum Part {
    /// One line.
    Line(String),
    /// What came of one thing, maybe in several lines; if it is bad, even a quiet command says it.
    Outcome { text: String, is_bad: bool },
    /// Rows.
    Table(Box<Table>),
}

impl Summary {
    /// With the fields of `value`, which is an object.
    pub(crate) fn new(value: Value) -> Self {
        match value {
            Value::Object(fields) => Self { text: vec![], fields },
            value => Self::default().with("value", value),
        }
    }

    /// With the fields of a report of the engine.
    ///
    /// # Errors
    /// That it has no form in JSON.
    pub(crate) fn of(report: &impl serde::Serialize) -> Result<Self, Failure> {
        serde_json::to_value(report).map(Self::new).map_err(|error| Failure::new(error.to_string()))
    }

    /// Adds a field.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.into(), value.into());
        self
    }

    /// Adds a field if there is something to tell.
    #[must_use]
    pub(crate) fn with_some(self, name: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds a field that is a name, which may be bytes of any kind; see [`with_names`].
    #[must_use]
    pub(crate) fn with_name(self, field: &str, name: &[u8]) -> Self {
        Self { text: self.text, ..Self::new(with_names(self.fields.into(), &[(field, name)])) }
    }

    /// Adds a line for people.
    pub(crate) fn line(&mut self, text: impl Into<String>) {
        self.text.push(Part::Line(text.into()));
    }

    /// Adds for people what came of one thing; if it is bad, even a quiet command says it.
    pub(crate) fn outcome(&mut self, text: impl Into<String>, is_bad: bool) {
        self.text.push(Part::Outcome { text: text.into(), is_bad });
    }

    /// Adds a table for people.
    pub(crate) fn table(&mut self, table: Table) {
        self.text.push(Part::Table(Box::new(table)));
    }

    /// For people.
    pub(super) fn text(&self) -> &[Part] {
        &self.text
    }

    /// For programs.
    pub(super) fn object(&self) -> Value {
        let kind = ("message_type".to_owned(), Value::from("summary"));
        self.fields.clone().into_iter().chain([kind]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::names::path_text;
    use serde_json::json;

    #[test]
    fn both_renderings_are_of_one_value() {
        let mut summary = Summary::new(json!({"packs": 2}))
            .with("dry_run", true)
            .with_some("saved", None::<u64>)
            .with_some("id", Some("a"))
            .with_name("file", b"b\xff");
        summary.line("2 packs");
        summary.outcome("one is lost", true);
        let [Part::Line(line), Part::Outcome { text, is_bad: true }] = summary.text() else { panic!() };
        assert_eq!((line.as_str(), text.as_str()), ("2 packs", "one is lost"));
        assert_eq!(
            summary.object(),
            json!({
                "message_type": "summary", "packs": 2, "dry_run": true, "id": "a", "file": "b\u{fffd}",
                "file_exact": path_text(b"b\xff"),
            })
        );
    }
}
