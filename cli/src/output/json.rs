//! JSON for programs: what is hidden is escaped, and what is secret left out of messages.

use crate::stdout;
use engine::names::path_text;
use engine::{secrets, shown};
use serde::Serialize;
use serde_json::Value;
use std::io::Write as _;

/// Bytes of an array that are written together.
const WRITTEN_AT_ONCE: usize = 64 << 10;

/// Writes a JSON value as a line to standard output.
pub(crate) fn json_line(value: &serde_json::Value) {
    stdout::write(format!("{}\n", harmless(value.to_string())).as_bytes());
}

/// A JSON array on standard output, as one line; there may be more in it than should stand in memory as text.
#[derive(Default)]
pub(crate) struct JsonArray {
    text: String,
    has_begun: bool,
}

impl JsonArray {
    /// Adds the text of a value, in which nothing is hidden: see [`json_value`]. Nothing is written before the first one.
    pub(crate) fn push(&mut self, value: &str) {
        self.text.push(if self.has_begun { ',' } else { '[' });
        self.has_begun = true;
        self.text += value;
        if self.text.len() >= WRITTEN_AT_ONCE {
            stdout::write(self.text.as_bytes());
            self.text.clear();
        }
    }

    /// Ends the array and its line.
    pub(crate) fn finish(mut self) {
        self.text += if self.has_begun { "]\n" } else { "[]\n" };
        stdout::write(self.text.as_bytes());
    }
}

/// A value as JSON text that may be written as it is.
///
/// # Errors
///
/// It cannot be serialized; ours can.
pub(crate) fn json_value(value: &impl Serialize) -> serde_json::Result<String> {
    serde_json::to_string(value).map(harmless)
}

/// The value with names in it that may be bytes of any kind: `field` as text, in which bytes that are not UTF-8 are
/// U+FFFD, and where that is not all of it, `field_exact` in the reversible form that commands take.
pub(crate) fn with_names(mut value: Value, names: &[(&str, &[u8])]) -> Value {
    for (field, bytes) in names {
        let (text, exact) = (String::from_utf8_lossy(bytes), path_text(bytes));
        if text != exact {
            value[format!("{field}_exact")] = exact.into();
        }
        value[*field] = text.into();
    }
    value
}

/// Writes a JSON value for people to standard output.
pub(crate) fn json_block(value: &serde_json::Value) {
    json_text(format!("{value:#}"));
}

/// Writes lines of JSON text to standard output.
pub(crate) fn json_text(text: String) {
    stdout::write(format!("{}\n", harmless(text)).as_bytes());
}

/// JSON text in which what [`shown::is_hidden`] is escaped (RFC 8259, section 7): within strings it may stand as it is.
pub(crate) fn harmless(text: String) -> String {
    let is_escaped = |character: char| character != '\n' && shown::is_hidden(character);
    // Of ASCII only controls are hidden; most texts have nothing else, and a look at their bytes is quick.
    let is_plain = |byte: &u8| byte.is_ascii() && (*byte == b'\n' || !byte.is_ascii_control());
    if text.as_bytes().iter().all(is_plain) || !text.chars().any(is_escaped) {
        return text;
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_escaped(character) {
            let mut units = [0; 2];
            out.extend(character.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            out.push(character);
        }
    }
    out
}

/// Writes a JSON value as a line to standard error.
pub(super) fn json_error_line(mut value: serde_json::Value) {
    without_secrets(&mut value);
    let _ = writeln!(std::io::stderr().lock(), "{}", harmless(value.to_string()));
}

/// Hides what is secret in the URLs of messages, however deep they stand.
fn without_secrets(value: &mut Value) {
    for (name, value) in value.as_object_mut().into_iter().flatten() {
        match value {
            Value::String(text) if name == "message" || name == "item" => {
                *text = secrets::in_message(text).into_owned();
            }
            Value::Object(_) => without_secrets(value),
            _ => {}
        }
    }
}
