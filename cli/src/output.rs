//! Everything that is printed: results to standard output, progress and errors to standard error.

use crate::exit::Failure;
use crate::stdout;
use engine::{secrets, shown};
use json::json_error_line;
use serde_json::json;
use std::io::Write as _;

mod console;
mod json;
mod log;
mod progress;
mod rows;
mod summary;

pub(crate) use console::Console;
pub(crate) use json::{JsonArray, harmless, json_block, json_line, json_text, json_value, with_names};
pub(crate) use log::{Flags as LogFlags, has_failed as log_has_failed, start as start_logging};
pub(crate) use rows::{Rows, row};
pub(crate) use summary::Summary;

/// Writes one line to standard output, whatever names are in it; see [`shown`].
pub(crate) fn line(text: impl AsRef<str>) {
    stdout::write(format!("{}\n", shown::line(text.as_ref())).as_bytes());
}

/// Writes several lines: a table, whose cells are names as [`shown::name`] has them, or a document.
pub(crate) fn block(text: impl AsRef<str>) {
    stdout::write(format!("{}\n", shown::text(text.as_ref())).as_bytes());
}

/// A message of several lines, each but the first indented, so that none of others looks like one of ours.
fn indented(text: &str) -> String {
    shown::text(text).trim_end().replace('\n', "\n  ")
}

/// Says that the log's file does not take what is logged.
fn failed_log(error: &std::io::Error, json: bool) {
    let message = format!("the log file cannot be written to: {error}");
    if json {
        json_error_line(json!({"message_type": "log", "level": "warn", "message": message}));
    } else {
        error_line(&format!("warning: {message}"));
    }
}

fn error_line(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", indented(&secrets::in_message(text)));
}

/// Adds a line to standard error.
pub(crate) fn note(text: &str) {
    error_line(text);
}

/// Prints the last object of a run that failed.
pub(crate) fn exit_error(code: u8, message: &str) {
    json_error_line(json!({"message_type": "exit_error", "code": code, "message": message}));
}

/// Prints why a run failed.
pub(crate) fn failure(failure: &Failure, json: bool) {
    if json {
        exit_error(failure.code as u8, &failure.message);
    } else {
        error_line(&format!("esker: {}", failure.message));
    }
}

/// A table with a heading.
pub(crate) fn table(headings: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(headings.iter().copied());
    table
}

/// Seconds as restic shows them: `1:05`, `2:00:07`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}
