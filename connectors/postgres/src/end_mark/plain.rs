//! The end mark of plain dumps: pg_dump's closing comment, where it is one. The text is read as psql reads it, since what
//! users of the database write (bodies of functions, comments, defaults, rows) may hold the same words, and a dump that
//! is cut there is not whole. Newer dumps have a key that nobody can foresee at both ends (`\restrict`); it must fit.
//! Source: PostgreSQL's `psqlscan.l`; `pg_backup_archiver.c`, `pg_dumpall.c`.

use engine::source::end_mark::EndMark;

/// Longer lines and words are of no interest.
const KEPT: usize = 128;

/// Where the text is.
#[derive(Clone, Debug, Default, PartialEq)]
enum State {
    /// In or between statements.
    #[default]
    Statement,
    /// In `'…'`; with backslashes that take the next byte out of its meaning.
    Quote { escapes: bool },
    /// After such a backslash.
    Escaped,
    /// In `"…"`.
    Identifier,
    /// After a `$` that may begin a quote: its tag so far.
    Tag(Vec<u8>),
    /// In `$tag$…$tag$`; so much of the end was seen.
    Dollar { end: Vec<u8>, seen: usize },
    /// In a comment, or a command of psql, that ends with the line.
    Line,
    /// In `/* … */`, so deep; the last byte.
    Block { depth: usize, last: u8 },
    /// In the rest of a line after which rows follow.
    BeforeRows,
    /// In rows, up to `\.`.
    Rows,
}

/// The closing comment that a dump needs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mark {
    Database,
    Cluster,
}

/// The end of a plain dump of one database or of a cluster, or its globals.
#[derive(Default)]
pub struct PlainEndMark {
    state: State,
    /// The line, comment or statement so far, no more than is of interest.
    line: Vec<u8>,
    line_len: usize,
    statement: Vec<u8>,
    /// The last bytes of the statement.
    tail: [u8; 12],
    at_line_start: bool,
    begun: bool,
    /// Set off: then backslashes count in every `'…'`.
    backslashes: bool,
    /// What it says it is.
    kind: Option<Mark>,
    key: Option<Vec<u8>>,
    /// The closing comment and its last line, since the last statement.
    closed: Option<Mark>,
    is_over: bool,
    last: u8,
}

impl PlainEndMark {
    /// Takes bytes of the state that it is in; returns how many.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let first = bytes[0];
        match &mut self.state {
            State::Statement => return self.statement_byte(first),
            State::Quote { escapes } => {
                let at = if *escapes {
                    memchr::memchr2(b'\'', b'\\', bytes)
                } else {
                    memchr::memchr(b'\'', bytes)
                };
                let Some(at) = at else { return bytes.len() };
                self.state = if bytes[at] == b'\\' { State::Escaped } else { State::Statement };
                return at + 1;
            }
            State::Escaped => self.state = State::Quote { escapes: true },
            State::Identifier => {
                let Some(at) = memchr::memchr(b'"', bytes) else { return bytes.len() };
                self.state = State::Statement;
                return at + 1;
            }
            State::Tag(tag) => match first {
                b'$' => {
                    let end = [b"$", tag.as_slice(), b"$"].concat();
                    self.state = State::Dollar { end, seen: 0 };
                }
                byte if is_word(byte) && !(tag.is_empty() && byte.is_ascii_digit()) && tag.len() < KEPT => {
                    tag.push(byte);
                }
                _ => {
                    self.state = State::Statement;
                    return 0;
                }
            },
            State::Dollar { end, seen } => {
                if *seen == 0 {
                    let Some(at) = memchr::memchr(b'$', bytes) else { return bytes.len() };
                    *seen = 1;
                    return at + 1;
                }
                *seen = if first == end[*seen] { *seen + 1 } else { usize::from(first == b'$') };
                if *seen == end.len() {
                    self.state = State::Statement;
                }
            }
            State::Line => return self.rest_of_line(bytes, Self::end_of_comment),
            State::Block { depth, last } => {
                match (*last, first) {
                    (b'*', b'/') => (*depth, *last) = (*depth - 1, 0),
                    (b'/', b'*') => (*depth, *last) = (*depth + 1, 0),
                    _ => *last = first,
                }
                if *depth == 0 {
                    self.state = State::Statement;
                }
            }
            State::BeforeRows => return self.rest_of_line(bytes, |mark| mark.state = State::Rows),
            State::Rows => {
                if self.line_len == 0 && first != b'\\' {
                    // Most lines are rows; the search for what may be the end is faster than looking at each.
                    let end = memchr::memmem::find(bytes, b"\n\\.").or_else(|| memchr::memrchr(b'\n', bytes));
                    if let Some(end) = end {
                        return end + 1;
                    }
                }
                return self.rest_of_line(bytes, |mark| {
                    if mark.line.strip_suffix(b"\r").unwrap_or(&mark.line) == b"\\." {
                        mark.state = State::Statement;
                        mark.at_line_start = true;
                    }
                });
            }
        }
        1
    }

    /// Reads to the end of the line, and then does what it asks for.
    fn rest_of_line(&mut self, bytes: &[u8], end: fn(&mut Self)) -> usize {
        let at = memchr::memchr(b'\n', bytes);
        let part = &bytes[..at.unwrap_or(bytes.len())];
        self.line.extend_from_slice(&part[..part.len().min(KEPT.saturating_sub(self.line.len()))]);
        self.line_len += part.len();
        if at.is_some() {
            end(self);
            self.line.clear();
            self.line_len = 0;
        }
        at.map_or(bytes.len(), |at| at + 1)
    }

    /// A byte outside of quotes and comments.
    fn statement_byte(&mut self, byte: u8) -> usize {
        let (before, at_line_start) = (self.tail[11], self.at_line_start);
        self.at_line_start = byte == b'\n';
        if byte == b'\\' && !self.begun && at_line_start {
            self.line.push(byte);
            self.state = State::Line;
            return 1;
        }
        match byte {
            b'-' if before == b'-' => {
                // The first of the two was taken for an operator.
                self.statement.pop();
                self.begun = !self.statement.is_empty();
                self.line.extend_from_slice(b"--");
                self.state = State::Line;
                self.tail = [0; 12];
                return 1;
            }
            b'*' if before == b'/' => {
                self.state = State::Block { depth: 1, last: 0 };
                return 1;
            }
            b'\'' => {
                let is_marked = matches!(before, b'E' | b'e') && !is_word(self.tail[10]);
                self.state = State::Quote { escapes: is_marked || self.backslashes };
            }
            b'"' => self.state = State::Identifier,
            b'$' if !is_word(before) => self.state = State::Tag(vec![]),
            b';' => {
                self.end_of_statement();
                return 1;
            }
            _ => {}
        }
        self.tail.rotate_left(1);
        self.tail[11] = byte;
        if self.begun || !byte.is_ascii_whitespace() {
            self.begun = true;
            if self.statement.len() < KEPT {
                self.statement.push(byte);
            }
            if byte != b'-' {
                (self.closed, self.is_over) = (None, false);
            }
        }
        1
    }

    fn end_of_statement(&mut self) {
        if self.statement.starts_with(b"COPY ") && self.tail.ends_with(b" FROM stdin") {
            self.state = State::BeforeRows;
        } else if self.statement.starts_with(b"SET standard_conforming_strings = ") {
            self.backslashes = self.statement.ends_with(b"off");
        }
        self.statement.clear();
        self.tail = [0; 12];
        self.begun = false;
        (self.closed, self.is_over) = (None, false);
    }

    fn end_of_comment(&mut self) {
        self.state = State::Statement;
        self.at_line_start = true;
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        let opening = match line {
            b"-- PostgreSQL database dump" => Some(Mark::Database),
            b"-- PostgreSQL database cluster dump" => Some(Mark::Cluster),
            _ => None,
        };
        self.kind = self.kind.or(opening);
        match line {
            // Of comments within a statement nothing follows.
            _ if self.begun => {}
            b"-- PostgreSQL database dump complete" => self.closed = Some(Mark::Database),
            b"-- PostgreSQL database cluster dump complete" => self.closed = Some(Mark::Cluster),
            b"--" => self.is_over = self.closed.is_some(),
            _ => {
                if let Some(key) = line.strip_prefix(b"\\restrict ") {
                    self.key = Some(key.to_vec());
                    (self.closed, self.is_over) = (None, false);
                } else if let Some(key) = line.strip_prefix(b"\\unrestrict ") {
                    if self.key.as_deref() == Some(key) {
                        self.key = None;
                    }
                } else {
                    (self.closed, self.is_over) = (None, false);
                }
            }
        }
    }
}

/// Whether a byte belongs to a word.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

impl EndMark for PlainEndMark {
    fn see(&mut self, bytes: &[u8]) {
        if self.last == 0 && !bytes.is_empty() {
            self.at_line_start = true;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.step(rest);
            rest = &rest[used..];
        }
        self.last = bytes.last().copied().unwrap_or(self.last);
    }

    fn finish(&mut self) -> Result<(), String> {
        let is_closed =
            self.is_over && self.closed.is_some() && (self.kind.is_none() || self.closed == self.kind);
        if self.state != State::Statement || self.begun || !is_closed || self.last != b'\n' {
            return Err("the dump's closing comment is missing: it is not whole".into());
        }
        match self.key {
            None => Ok(()),
            Some(_) => Err("the dump's \\unrestrict is missing, or has another key: it is not whole".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "--\n-- PostgreSQL database dump\n--\n\n";
    const END: &str = "--\n-- PostgreSQL database dump complete\n--\n\n";

    fn plain(text: &str) -> Result<(), String> {
        for len in [1, 7, text.len()] {
            let mut mark = PlainEndMark::default();
            text.as_bytes().chunks(len).for_each(|part| mark.see(part));
            let found = mark.finish();
            if len == text.len() {
                return found;
            }
            let mut whole = PlainEndMark::default();
            whole.see(text.as_bytes());
            assert_eq!(found, whole.finish(), "pieces of {len}: {text}");
        }
        unreachable!()
    }

    #[test]
    fn plain_dumps_need_their_closing_comment() {
        let body = "x;\n".repeat(2000);
        assert_eq!(plain(&format!("{body}{END}")), Ok(()));
        assert_eq!(plain(&format!("{HEAD}\\restrict aB3\n\n{body}{END}\\unrestrict aB3\n\n")), Ok(()));
        assert_eq!(plain(&format!("{body}--\n-- PostgreSQL database cluster dump complete\n--\n\n")), Ok(()));
        assert!(plain(&body).is_err());
        assert!(plain(&format!("{body}{END}SELECT 1;\n")).is_err());
        assert!(plain(&format!("{HEAD}\\restrict aB3\n{body}{END}")).is_err());
        assert!(plain(&format!("{HEAD}\\restrict aB3\n{body}{END}\\unrestrict aB4\n")).is_err());
        for len in 0..END.len() - 1 {
            assert!(plain(&format!("{HEAD}{body}{}", &END[..len])).is_err(), "cut after {len}");
        }
    }

    /// What a user of the database may write, each with the end of a dump in it: cut there, it is not whole.
    #[test]
    fn what_users_write_is_no_end() {
        let bodies = [
            "CREATE FUNCTION f() AS $$ begin\nMARK end $$;\n",
            "CREATE FUNCTION f() AS $_$ $$ $x$\nMARK end $_$;\n",
            "CREATE FUNCTION f() AS $a$ $$a \nMARK $b$ end $a$;\n",
            "COMMENT ON TABLE t IS 'it''s\nMARK';\n",
            "COMMENT ON TABLE t IS E'\\'\nMARK\\\\';\n",
            "CREATE TABLE t (a text DEFAULT '\nMARK'::text);\n",
            "CREATE TABLE \"a\"\"\nMARK\" (x int);\n",
            "COPY public.t (a) FROM stdin;\nMARK\\.\n\n\n",
            "COPY \"x; --\".\"y\nFROM stdin;\" (a) FROM stdin;\nMARK\\.x\n\\.\n",
            "/* /* */ \nMARK */ SELECT 1;\n",
            "SET standard_conforming_strings = off;\nCOMMENT ON TABLE t IS 'x\\'\nMARK';\n",
            "SELECT 1 -- x\nMARK;\n",
        ];
        for body in bodies {
            let body = body.replace("MARK", END);
            assert_eq!(plain(&format!("{HEAD}{body}{END}")), Ok(()), "{body}");
            let at = body.find(END).unwrap() + END.len();
            for lines in [&body[..at], &body[..at - 1]] {
                assert!(plain(&format!("{HEAD}{lines}")).is_err(), "{lines}");
            }
        }
    }

    /// A dump of all databases ends with its own mark, not with the one of the last database that came.
    #[test]
    fn clusters_end_where_they_end() {
        let head = HEAD.replace("database", "database cluster");
        let end = END.replace("database", "database cluster");
        assert_eq!(plain(&format!("{head}CREATE ROLE a;\n{HEAD}SELECT 1;\n{END}{end}")), Ok(()));
        assert!(plain(&format!("{head}CREATE ROLE a;\n{HEAD}SELECT 1;\n{END}")).is_err());
    }
}
