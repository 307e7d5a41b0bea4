//! How many rows a table's part of a dump has: the lists of values of its INSERTs, each in brackets, outside of strings and
//! names.
//! Source: `client/mysqldump.c` of MariaDB; "INSERT" of its documentation.

use crate::dump::Lexer;
use memchr::memchr2;
use std::collections::VecDeque;
use std::io::Write;

/// What a statement with rows begins with.
const INSERT: &[u8] = b"INSERT INTO ";
/// What stands before its rows.
const VALUES: &[u8] = b"VALUES";

/// Counts rows of statements that are written to it.
pub(super) struct Rows {
    lexer: Lexer,
    /// What the lexer left.
    rest: Vec<u8>,
    statement: Statement,
    /// Whether the quoted text that is read began with this.
    quote: Option<u8>,
    /// Whether the next byte of a string is a byte of it, whatever it is.
    is_escaped: bool,
    rows: u64,
}

/// The statement that is read.
enum Statement {
    /// It has begun so.
    Begun(Vec<u8>),
    /// One with rows, whose list has not begun; how much of [`VALUES`] was just read.
    Insert(usize),
    /// In the list of rows, within so many brackets.
    List(u32),
    /// Another one.
    Other,
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            lexer: Lexer::new(),
            rest: vec![],
            statement: Statement::Begun(vec![]),
            quote: None,
            is_escaped: false,
            rows: 0,
        }
    }
}

impl Rows {
    /// The rows of all that was written.
    pub(super) fn finish(mut self) -> u64 {
        self.read(&[], true);
        self.rows
    }

    fn read(&mut self, bytes: &[u8], is_all: bool) {
        let mut text = std::mem::take(&mut self.rest);
        text.extend_from_slice(bytes);
        let mut text = text.as_slice();
        loop {
            let (len, is_end) = self.lexer.read(text, is_all);
            let (read, left) = text.split_at(len);
            self.see(read);
            text = left;
            match is_end {
                true => (self.statement, self.quote) = (Statement::Begun(vec![]), None),
                false => break,
            }
        }
        self.rest = text.to_vec();
    }

    /// Sees the next bytes of a statement.
    fn see(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            if let Some(quote) = self.quote {
                if std::mem::take(&mut self.is_escaped) {
                    at += 1;
                    continue;
                }
                let escape = if quote == b'`' { quote } else { b'\\' };
                let Some(found) = memchr2(quote, escape, bytes.get(at..).unwrap_or_default()) else { return };
                // A doubled quote ends and begins.
                match bytes.get(at + found) == Some(&quote) {
                    true => self.quote = None,
                    false => self.is_escaped = true,
                }
                at += found + 1;
                continue;
            }
            at += 1;
            match &mut self.statement {
                Statement::Other => return,
                Statement::Begun(head) => {
                    if head.is_empty() && byte.is_ascii_whitespace() {
                        continue;
                    }
                    head.push(byte);
                    if head.as_slice() == INSERT {
                        self.statement = Statement::Insert(0);
                    } else if !INSERT.starts_with(head) {
                        self.statement = Statement::Other;
                    }
                    continue;
                }
                Statement::Insert(known) => {
                    *known = match VALUES.get(*known) == Some(&byte) {
                        true => *known + 1,
                        false => usize::from(VALUES.first() == Some(&byte)),
                    };
                    if *known == VALUES.len() {
                        self.statement = Statement::List(0);
                        continue;
                    }
                }
                Statement::List(depth) => match byte {
                    b'(' => {
                        self.rows += u64::from(*depth == 0);
                        *depth += 1;
                    }
                    b')' => *depth = depth.saturating_sub(1),
                    _ => {}
                },
            }
            if matches!(byte, b'\'' | b'"' | b'`') {
                self.quote = Some(byte);
            }
        }
    }
}

/// Counts the rows of stretches of a dump, which are written to it one behind the other.
pub(super) struct Stretches {
    /// Bytes of the stretches that are still to come.
    left: VecDeque<u64>,
    current: Rows,
    done: Vec<u64>,
}

impl Stretches {
    /// From and to of each, in bytes.
    pub(super) fn new(ranges: &[(u64, u64)]) -> Self {
        let left = ranges.iter().map(|(from, to)| to.saturating_sub(*from)).collect();
        Self { left, current: Rows::default(), done: vec![] }
    }

    /// The rows of each; of one that ended early, those that came.
    pub(super) fn finish(mut self) -> Vec<u64> {
        while self.left.pop_front().is_some() {
            self.done.push(std::mem::take(&mut self.current).finish());
        }
        self.done
    }
}

impl Write for Stretches {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        while self.left.front() == Some(&0) {
            self.left.pop_front();
            self.done.push(std::mem::take(&mut self.current).finish());
        }
        let Some(left) = self.left.front_mut() else { return Ok(bytes.len()) };
        let len = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        *left -= len as u64;
        self.current.read(bytes.get(..len).unwrap_or_default(), false);
        Ok(len)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
impl Write for Rows {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.read(bytes, false);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted(text: &str, part: usize) -> u64 {
        let mut rows = Rows::default();
        text.as_bytes().chunks(part).for_each(|bytes| rows.write_all(bytes).unwrap());
        rows.finish()
    }

    #[test]
    fn only_lists_of_values_are_rows() {
        for (text, expected) in [
            ("", 0),
            (
                "DROP TABLE IF EXISTS `t`;\nCREATE TABLE `t` (`a` int COMMENT 'INSERT INTO t VALUES (1);');\n",
                0,
            ),
            ("INSERT INTO `t` VALUES (1);\n", 1),
            ("INSERT INTO `VALUES (` VALUES\n(1,'a'),\n(2,'),(');\n", 2),
            (
                "INSERT INTO `t` (`VALUES`, `b`) VALUES (1,(2)),(3,'\\'),('),(4,'''),(');\nINSERT INTO `t` VALUES (5,_binary 0x28);\n",
                4,
            ),
            (
                "-- INSERT INTO `t` VALUES (1);\n/* INSERT INTO t VALUES (2); */ SELECT 1;\nINSERT INTO `t` VALUES (NULL)",
                1,
            ),
        ] {
            for part in [1, 2, 3, 7, 1000] {
                assert_eq!(counted(text, part), expected, "{text} by {part}");
            }
        }
    }

    #[test]
    fn stretches_are_counted_apart() {
        let (one, two) = ("INSERT INTO `a` VALUES (1),(2);\n", "INSERT INTO `b` VALUES (1);\n");
        let ends = [0, one.len(), one.len(), one.len() + two.len()].map(|len| len as u64);
        let mut stretches = Stretches::new(&[(ends[0], ends[1]), (ends[1], ends[2]), (ends[2], ends[3])]);
        format!("{one}{two}").as_bytes().chunks(5).for_each(|part| stretches.write_all(part).unwrap());
        assert_eq!(stretches.finish(), [2, 0, 1]);
    }

    proptest! {
        #[test]
        fn whatever_rows_hold(values in proptest::collection::vec("[a'\\\\;()\",`\\n-]{0,9}", 1..9), part in 1usize..9) {
            let written = |value: &String| format!("(1,'{}')", value.replace('\\', "\\\\").replace('\'', "\\'"));
            let all: Vec<String> = values.iter().map(written).collect();
            let text = format!("INSERT INTO `t` VALUES {};\nINSERT INTO `t` VALUES {};\n", all.join(","), all.join(",\n"));
            prop_assert_eq!(counted(&text, part), 2 * values.len() as u64);
        }
    }
}
