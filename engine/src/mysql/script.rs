//! Statements for the client, each with a label; their rows, and which of them failed.

use super::Server;
use crate::source::{SourceError, SourceErrorKind};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::process::Stdio;

/// A name in SQL.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// Bytes in SQL that hold nothing but digits.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("0x");
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A string in SQL, by its bytes: whatever it holds, and whatever the server's SQL mode is, it ends where it ends.
#[must_use]
pub fn literal(text: &str) -> String {
    match text {
        "" => "''".to_owned(),
        text => format!("CONVERT({} USING utf8mb4)", hexadecimal(text.as_bytes())),
    }
}

/// The condition that a column of information_schema has exactly this name. It compares without case and accents; on servers
/// that do so themselves (`lower_case_table_names`), that is right.
#[must_use]
pub fn is_named(column: &str, name: &str) -> String {
    let name = literal(name);
    format!("{column} = {name} AND (@@lower_case_table_names <> 0 OR BINARY {column} = BINARY {name})")
}

/// Statements that the client runs one after the other.
#[derive(Default)]
pub struct Script {
    bytes: Vec<u8>,
    /// A label for each, and the line behind its last.
    labels: Vec<(String, usize)>,
    lines: usize,
}

/// What came of a script.
pub struct Outcome {
    /// Rows of all statements.
    pub rows: Vec<Vec<Vec<u8>>>,
    /// Statements that failed: their numbers, and why.
    pub failures: Vec<(usize, String)>,
}

impl Script {
    /// Adds a statement, or several that have one label; a semicolon and a line feed follow it.
    pub fn add(&mut self, label: &str, sql: &[u8]) {
        self.add_lines(label, &[sql, b";\n"].concat());
    }

    /// Adds whole lines of the client's language.
    pub fn add_lines(&mut self, label: &str, lines: &[u8]) {
        self.bytes.extend_from_slice(lines);
        self.lines += memchr::memchr_iter(b'\n', lines).count();
        self.labels.push((label.to_owned(), self.lines));
    }

    /// Label of a statement.
    #[must_use]
    pub fn label(&self, number: usize) -> &str {
        self.labels.get(number).map_or("", |(label, _)| label)
    }

    /// Runs them; without `goes_on` the first that fails is the last. An error is one that speaks of no statement.
    pub fn run(&self, server: &Server, goes_on: bool) -> Result<Outcome, SourceError> {
        let failed = |error: std::io::Error| server.error(SourceErrorKind::Command, error);
        let mut command = server.command(["mariadb", "mysql"])?;
        command.args([
            "--batch",
            "--skip-column-names",
            "--connect-timeout=10",
            "--binary-mode",
            "--comments",
        ]);
        command.args(["--default-character-set=utf8mb4", "--max-allowed-packet=1G"]);
        if goes_on {
            command.arg("--force");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let (input, output, complaints) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut input), Some(mut output), Some(mut complaints)) = (input, output, complaints) else {
            return Err(server.error(SourceErrorKind::Command, "no pipe to the client"));
        };
        let (rows, text) = std::thread::scope(|scope| {
            // A client that ends early has said why.
            scope.spawn(move || input.write_all(&self.bytes));
            let listener = scope.spawn(move || {
                let mut text = vec![];
                complaints.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
            });
            let mut rows = vec![];
            let read = output.read_to_end(&mut rows);
            (read.map(|_| rows), listener.join().unwrap_or_else(|_| Ok(String::new())))
        });
        let (rows, text) = (rows.map_err(failed)?, text.map_err(failed)?);
        let status = child.wait().map_err(failed)?;
        let failures = self.failures(&text);
        if failures.is_empty() && !status.success() {
            return Err(server.error(SourceErrorKind::Unavailable, text.trim()));
        }
        let rows = rows.strip_suffix(b"\n").unwrap_or(&rows);
        let rows = if rows.is_empty() { vec![] } else { rows.split(|byte| *byte == b'\n').collect() };
        let rows = rows.into_iter().map(|row| row.split(|byte| *byte == b'\t').map(unescaped).collect());
        Ok(Outcome { rows: rows.collect(), failures })
    }

    /// Statements that the client complains about: `ERROR 1146 (42S02) at line 7: …`.
    fn failures(&self, text: &str) -> Vec<(usize, String)> {
        let failure = |line: &str| {
            let rest = line.strip_prefix("ERROR ")?;
            let (_, at) = rest.split_once(" at line ")?;
            let number: usize = at.split_once(':')?.0.parse().ok()?;
            let statement = self.labels.partition_point(|(_, end)| *end < number);
            Some((statement, line.to_owned()))
        };
        text.lines().filter_map(failure).collect()
    }
}

/// A value as `--batch` prints it.
fn unescaped(value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        match (byte, byte == &b'\\') {
            (_, true) => match bytes.next() {
                Some(b't') => out.push(b'\t'),
                Some(b'n') => out.push(b'\n'),
                Some(b'0') => out.push(0),
                Some(other) => out.push(*other),
                None => out.push(b'\\'),
            },
            (byte, false) => out.push(*byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_backslash_comes_back() {
        for (printed, value) in [
            ("x\\\\test", &b"x\\test"[..]),
            ("\\\\\\\\n", b"\\\\n"),
            ("a\\tb\\nc\\0d\\\\", b"a\tb\nc\0d\\"),
            ("plain", b"plain"),
        ] {
            assert_eq!(unescaped(printed.as_bytes()), value);
        }
    }

    #[test]
    fn a_complaint_belongs_to_its_statement() {
        let mut script = Script::default();
        script.add("a", b"one");
        script.add("b", b"two\nlines");
        script.add("c", b"three");
        let text = "note\nERROR 1 (x) at line 1: first\nERROR 2 (x) at line 2: second\nERROR 3 (x) at line 4: third\n";
        let numbers: Vec<usize> = script.failures(text).into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(script.label(2), "c");
    }
}
