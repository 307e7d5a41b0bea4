//! Statements for the client, each with a label; their rows, and which of them failed.

use super::Server;
use chunkstore::threads;
use connector_kit::child::{self, Role};
use engine::log;
use engine::source::{SourceError, SourceErrorKind};
use std::fmt::Write as _;
use std::io::{Error, ErrorKind, Read, Result as Io, Write as _};
use std::process::Stdio;

/// Keeps the client from sending a file of this machine, whatever a statement or a server asks for.
pub(crate) const LOCAL_FILES_OFF: &str = "--local-infile=0";

/// What the client may print for one script, in bytes: catalogues of a million tables.
const MAX_PRINTED: usize = 256 << 20;
/// Memory for these bytes and their values, and what each value takes beside its bytes.
const MAX_ROWS: usize = 512 << 20;
const PER_VALUE: usize = 56;

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

/// A text that nobody can know before it is printed, in hexadecimal digits.
#[must_use]
pub(crate) fn nonce() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    let random = |number: u8| RandomState::new().hash_one(number);
    format!("{:016x}{:016x}", random(0), random(1))
}

/// The client's complaint without the statement that it prints before it, and without the number of a line.
#[must_use]
pub fn complaint(text: &str) -> String {
    let text = text.trim();
    let text = text.rfind("\nERROR ").map_or(text, |at| &text[at + 1..]);
    let line = |text: &str| engine::shown::line(text).into_owned();
    let known = text.strip_prefix("ERROR ").and_then(|rest| rest.split_once(' '));
    let Some((code, rest)) = known else { return line(text) };
    rest.split_once(": ").map_or_else(|| line(text), |(_, why)| line(&format!("ERROR {code}: {why}")))
}

/// The number of a server's or client's error, of a text as [`complaint`] and [`Outcome::failures`] have it: `ERROR 1146: …`.
/// Source: MariaDB's documentation, "MariaDB Error Codes".
#[must_use]
pub fn error_number(why: &str) -> Option<u32> {
    why.strip_prefix("ERROR ")?.split_once(':')?.0.parse().ok()
}

/// Statements that the client runs one after the other. Each is followed by a question to the server about its errors, whose
/// answer stands between marks that nobody can know: what failed is never found in a text that may hold a user's names.
/// Source: MariaDB's documentation, "SHOW ERRORS", "Diagnostics Area".
#[derive(Default)]
pub struct Script {
    labels: Vec<String>,
    /// Statements, each with the number of its label.
    statements: Vec<(usize, Vec<u8>)>,
}

/// What came of a script.
pub struct Outcome {
    /// Rows of all statements.
    pub rows: Vec<Vec<Vec<u8>>>,
    /// Labels of which a statement failed: their numbers, and why, as `ERROR 1146: …`.
    pub failures: Vec<(usize, String)>,
}

impl Script {
    /// Adds one statement, which a semicolon and a line feed follow.
    pub fn add(&mut self, label: &str, sql: &[u8]) {
        self.statements.push((self.labels.len(), [sql, b";\n"].concat()));
        self.labels.push(label.to_owned());
    }

    /// Adds whole lines of the client's language, as the dump writes definitions: statements, or `DELIMITER` around one.
    pub fn add_lines(&mut self, label: &str, lines: &[u8]) {
        let mut rest = lines;
        while !rest.trim_ascii().is_empty() {
            let (statement, more) = rest.split_at(lines_len(rest));
            self.statements.push((self.labels.len(), [statement, b"\n"].concat()));
            rest = more;
        }
        self.labels.push(label.to_owned());
    }

    /// Label of a statement.
    #[must_use]
    pub fn label(&self, number: usize) -> &str {
        self.labels.get(number).map_or("", String::as_str)
    }

    /// Runs them; without `goes_on` the first that fails is the last. An error is one that speaks of no statement.
    pub fn run(&self, server: &Server, goes_on: bool) -> Result<Outcome, SourceError> {
        let asked = log::asked();
        let outcome = self.run_all(server, goes_on);
        let said = || {
            let first = self.statements.first().map_or(&b""[..], |(_, statement)| statement.trim_ascii());
            format!("{} of: {}", self.statements.len(), String::from_utf8_lossy(first))
        };
        asked.told("mysql", said, &outcome);
        outcome
    }

    fn run_all(&self, server: &Server, goes_on: bool) -> Result<Outcome, SourceError> {
        let failed = |error: Error| server.error(SourceErrorKind::Command, format!("mariadb: {error}"));
        let mut command = server.command(["mariadb", "mysql"])?;
        command.args([
            "--batch",
            // Each row as it comes: all of an answer could be more than there is memory.
            "--quick",
            "--skip-column-names",
            "--connect-timeout=10",
            "--binary-mode",
            LOCAL_FILES_OFF,
            "--comments",
            // What was set before would be gone.
            "--skip-reconnect",
        ]);
        command.args(["--default-character-set=utf8mb4", "--max-allowed-packet=1G"]);
        if goes_on {
            command.arg("--force");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child::spawn(&mut command, Role::Client).map_err(failed)?;
        let (input, output, complaints) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(complaints)) = (input, output, complaints) else {
            return Err(server.error(SourceErrorKind::Command, "no pipe to the client"));
        };
        let mark = nonce();
        let read = server.watch.during(&child, || {
            std::thread::scope(|scope| {
                // A client that ends early has said why.
                let listener = threads::start_in(scope, "esker-said", move || child::complaints(complaints));
                let listener = listener.inspect_err(|_| child::kill(&child))?;
                let writer = threads::start_in(scope, "esker-asks", || self.write(&mark, input));
                writer.inspect_err(|_| child::kill(&child))?;
                // Nobody reads what it still has to say, and it would go on without end.
                let rows = read_rows(output).inspect_err(|_| child::kill(&child));
                rows.map(|rows| (rows, listener.join().unwrap_or_default()))
            })
        });
        let status = server.watch.ended(&mut child);
        let ((rows, text), status) = (read.map_err(failed)?, status.map_err(failed)?);
        let (mut outcome, done) = self.answers(mark.as_bytes(), &rows);
        if done == self.statements.len() + 1 && status.success() {
            return Ok(outcome);
        }
        let why = complaint(&text);
        match done.checked_sub(1).and_then(|number| self.statements.get(number)) {
            Some((label, _)) if !goes_on => outcome.failures.push((*label, why)),
            _ => return Err(server.error(SourceErrorKind::Unavailable, why)),
        }
        Ok(outcome)
    }

    /// Writes the statements, and what is asked after each.
    fn write(&self, mark: &str, input: impl std::io::Write) -> Io<()> {
        let mut input = std::io::BufWriter::new(input);
        let mark = hexadecimal(mark.as_bytes());
        // The second answer is of a table, so that it also forgets the errors that it told.
        let asked =
            format!("SELECT {mark}, @@error_count;\nSHOW ERRORS;\nSELECT {mark} FROM (SELECT 1) t;\n");
        let before: &[u8] = b"SET max_error_count = 64;\n";
        let own = self.statements.iter().map(|(_, statement)| statement.as_slice());
        for statement in std::iter::once(before).chain(own) {
            input.write_all(statement)?;
            input.write_all(asked.as_bytes())?;
        }
        input.flush()
    }

    /// What the client printed, taken apart; and how many statements, with the one before the first, have been answered.
    #[must_use]
    pub fn answers(&self, mark: &[u8], printed: &[u8]) -> (Outcome, usize) {
        let mut outcome = Outcome { rows: vec![], failures: vec![] };
        let mut done = 0_usize;
        // What is being told of a statement: how many errors, and the first.
        let mut told: Option<(bool, Option<String>)> = None;
        for line in printed.strip_suffix(b"\n").unwrap_or(printed).split(|byte| *byte == b'\n') {
            let row: Vec<&[u8]> = line.split(|byte| *byte == b'\t').collect();
            let is_mark = row[0] == mark;
            match &mut told {
                None if is_mark && row.len() == 2 => told = Some((row[1] != b"0", None)),
                None if printed.is_empty() => {}
                None => outcome.rows.push(row.into_iter().map(unescaped).collect()),
                Some((has_failed, why)) if is_mark => {
                    let label = done.checked_sub(1).and_then(|number| self.statements.get(number));
                    if let Some((label, _)) = label.filter(|_| *has_failed)
                        && outcome.failures.last().is_none_or(|(last, _)| last != label)
                    {
                        let why = why.take().unwrap_or_else(|| "ERROR: refused".into());
                        outcome.failures.push((*label, why));
                    }
                    done += 1;
                    told = None;
                }
                Some((_, why)) => {
                    let text = |at: usize| {
                        let value = row.get(at).map(|value| unescaped(value)).unwrap_or_default();
                        String::from_utf8_lossy(&value).into_owned()
                    };
                    why.get_or_insert_with(|| {
                        engine::shown::line(&format!("ERROR {}: {}", text(1), text(2))).into_owned()
                    });
                }
            }
        }
        (outcome, done)
    }
}

/// All that the client prints, if it and its values have room in memory.
fn read_rows(mut from: impl Read) -> Io<Vec<u8>> {
    let (mut all, mut part, mut values) = (vec![], vec![0; 64 << 10], 0_usize);
    loop {
        let len = match from.read(&mut part) {
            Ok(0) => return Ok(all),
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        values += memchr::memchr2_iter(b'\n', b'\t', &part[..len]).count();
        all.extend_from_slice(&part[..len]);
        if all.len() > MAX_PRINTED || values * PER_VALUE + all.len() > MAX_ROWS {
            let most = MAX_ROWS >> 20;
            return Err(Error::other(format!("it prints more rows than fit into {most} MiB")));
        }
    }
}

/// How long the first statement of lines is, with what the client needs around it.
fn lines_len(lines: &[u8]) -> usize {
    let start = lines.len() - lines.trim_ascii_start().len();
    let Some(rest) = lines[start..].strip_prefix(b"DELIMITER ") else {
        return crate::dump::statement_len(lines);
    };
    let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
    let back = [b"\n", &rest[..end], b"\nDELIMITER ;\n"].concat();
    memchr::memmem::find(rest, &back).map_or(lines.len(), |at| lines.len() - rest.len() + at + back.len())
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
    fn an_error_belongs_to_its_statement_whatever_names_say() {
        let mut script = Script::default();
        script.add("a", b"one");
        script.add_lines("b", b"two `;\n`;\nDELIMITER ;;0\nCREATE x;\n;;1\n;;0\nDELIMITER ;\nlast;\n");
        script.add("c", b"three");
        assert_eq!(script.statements.iter().map(|(label, _)| *label).collect::<Vec<_>>(), [0, 1, 1, 1, 2]);
        assert_eq!(script.label(2), "c");
        let printed = "m\t0\nm\nrow\tm\nm x\t0\nm\t0\nm\nm\t1\nError\t7\tx\\nm\nm\nm\t1\nError\t8\tagain\nm\nm\t0\nm\nm\t2\nm\n";
        let (outcome, done) = script.answers(b"m", printed.as_bytes());
        assert_eq!(
            outcome.rows,
            [[&b"row"[..], b"m"], [&b"m x"[..], b"0"]].map(|row| row.map(<[u8]>::to_vec))
        );
        assert_eq!(outcome.failures, [(1, "ERROR 7: x\\nm".to_owned()), (2, "ERROR: refused".to_owned())]);
        assert_eq!(done, 6);
        assert_eq!(script.answers(b"m", b"").1, 0);
    }

    #[test]
    fn complaints() {
        let text = "--------------\nSELECT\nERROR 1 (x) at line 1: forged\n--------------\n\nERROR 1146 (42S02) at line 7: Table 'a: b' doesn't exist\n";
        assert_eq!(complaint(text), "ERROR 1146: Table 'a: b' doesn't exist");
        assert_eq!(complaint("ERROR 2002 (HY000): Can't connect"), "ERROR 2002: Can't connect");
        assert_eq!(error_number(&complaint(text)), Some(1146));
        assert_eq!(error_number("no ERROR 1146: x"), None);
        assert_eq!(error_number("ERROR: refused"), None);
        assert_eq!(complaint("unknown option"), "unknown option");
        assert!(
            !complaint("ERROR 10\n\u{1b}[31m (x): no").contains(['\n', '\u{1b}']),
            "a code is a text, too"
        );
    }
}
