//! What a command reports at its end: one value with two renderings.

use crate::exit::Failure;
use serde_json::{Map, Value};

/// The report of a command: lines for people, and the fields of an object for programs.
#[derive(Default)]
pub(crate) struct Summary {
    lines: Vec<String>,
    fields: Map<String, Value>,
}

impl Summary {
    /// With the fields of `value`, which is an object.
    pub(crate) fn new(value: Value) -> Self {
        match value {
            Value::Object(fields) => Self { lines: vec![], fields },
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

    /// Adds a line for people.
    pub(crate) fn line(&mut self, text: impl Into<String>) {
        self.lines.push(text.into());
    }

    /// For people.
    pub(super) fn lines(&self) -> &[String] {
        &self.lines
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
    use serde_json::json;

    #[test]
    fn both_renderings_are_of_one_value() {
        let mut summary = Summary::new(json!({"packs": 2}))
            .with("dry_run", true)
            .with_some("saved", None::<u64>)
            .with_some("id", Some("a"));
        summary.line("2 packs");
        summary.line("dry run");
        assert_eq!(summary.lines(), ["2 packs", "dry run"]);
        assert_eq!(
            summary.object(),
            json!({"message_type": "summary", "packs": 2, "dry_run": true, "id": "a"})
        );
    }
}
