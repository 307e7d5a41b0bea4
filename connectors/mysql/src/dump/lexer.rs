//! Where statements end in what mariadb-dump writes of tables. It writes in UTF-8 and in an SQL mode of its own, so that
//! names, strings and comments are told apart by a few rules; nothing in it is text that a user wrote as code.
//! Source: `client/mysqldump.c` of MariaDB; "Comment Syntax" and "String Literals" of its documentation.

use memchr::{memchr, memchr2};

/// What a byte stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    /// Between statements: blanks.
    Nothing,
    Code,
    /// A line that is a comment, between statements.
    Line,
    /// `/* … */`, but not `/*! … */`, which is code.
    Comment,
    /// A string or a name in these quotes.
    Quotes(u8),
}

/// Reads on, piece by piece.
#[derive(Debug)]
pub(crate) struct Lexer(Within);

/// So many bytes must be known behind a place that may begin a comment.
const AHEAD: usize = 3;

impl Lexer {
    pub(crate) const fn new() -> Self {
        Self(Within::Nothing)
    }

    /// Reads `bytes`, which go on from where the last ones were read to: how many were read, and whether a statement (or
    /// a line of comment between statements) ends there. Without an end it may leave a few unread, unless `is_all`.
    pub(crate) fn read(&mut self, bytes: &[u8], is_all: bool) -> (usize, bool) {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            let rest = &bytes[at..];
            let is_unclear = !is_all && rest.len() < AHEAD;
            match self.0 {
                Within::Nothing => {
                    if byte.is_ascii_whitespace() {
                        at += 1;
                    } else if is_unclear {
                        return (at, false);
                    } else {
                        self.0 = if rest.starts_with(b"--") { Within::Line } else { Within::Code };
                    }
                }
                Within::Code => match byte {
                    b';' => {
                        self.0 = Within::Nothing;
                        return (at + 1, true);
                    }
                    b'\'' | b'"' | b'`' => {
                        self.0 = Within::Quotes(byte);
                        at += 1;
                    }
                    b'/' if is_unclear => return (at, false),
                    b'/' if rest.starts_with(b"/*") && !matches!(rest.get(2), Some(b'!' | b'M')) => {
                        self.0 = Within::Comment;
                        at += 2;
                    }
                    _ => at += 1,
                },
                Within::Line => match memchr(b'\n', rest) {
                    Some(end) => {
                        self.0 = Within::Nothing;
                        return (at + end + 1, true);
                    }
                    None => at = bytes.len(),
                },
                Within::Comment => match memchr(b'*', rest) {
                    Some(star) if rest.get(star + 1) == Some(&b'/') => {
                        self.0 = Within::Code;
                        at += star + 2;
                    }
                    Some(star) if star + 1 == rest.len() && !is_all => return (at + star, false),
                    Some(star) => at += star + 1,
                    None => at = bytes.len(),
                },
                Within::Quotes(quote) => {
                    // In names a backslash is one.
                    let escape = if quote == b'`' { quote } else { b'\\' };
                    match memchr2(quote, escape, rest) {
                        Some(found) if rest[found] == quote => {
                            // A doubled quote ends and begins.
                            self.0 = Within::Code;
                            at += found + 1;
                        }
                        Some(found) if found + 1 == rest.len() && !is_all => return (at + found, false),
                        Some(found) => at = (at + found + 2).min(bytes.len()),
                        None => at = bytes.len(),
                    }
                }
            }
        }
        (at, false)
    }
}

/// How long the first statement of a text is, with what ends it; all, if nothing does.
#[must_use]
pub fn statement_len(text: &[u8]) -> usize {
    Lexer::new().read(text, true).0
}

/// The name in backquotes that `text` begins with, and what follows.
#[must_use]
pub fn name(text: &[u8]) -> Option<(String, &[u8])> {
    let mut rest = text.strip_prefix(b"`")?;
    let mut name = vec![];
    loop {
        let end = memchr(b'`', rest)?;
        name.extend_from_slice(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix(b"`") {
            Some(more) => {
                name.push(b'`');
                rest = more;
            }
            None => return Some((String::from_utf8(name).ok()?, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ends of the statements of a text that comes in pieces.
    fn ends(text: &[u8], part: usize) -> Vec<usize> {
        let (mut lexer, mut at, mut known, mut ends) = (Lexer::new(), 0, 0, vec![]);
        loop {
            let is_all = known == text.len();
            let (len, is_end) = lexer.read(&text[at..known], is_all);
            at += len;
            if is_end {
                ends.push(at);
            } else if is_all {
                assert_eq!(at, text.len());
                return ends;
            } else {
                known = (known + part).min(text.len());
            }
        }
    }

    #[test]
    fn statements_end_where_the_server_ends_them() {
        let statements: [&str; 9] = [
            "/*M!999999\\- enable the sandbox mode */ ;",
            "\n-- CHANGE MASTER TO 'x;\n",
            "\nCREATE TABLE `a;\n--\nUSE ``b``;\n'` (`x\\` int COMMENT 'it''s; \\'; \\\\', y int DEFAULT (1 /* ; ' */ - 2));",
            "\nINSERT INTO t VALUES ('a\\'); DROP TABLE x; -- ',\n\";\"),('--\\n');",
            "\nINSERT INTO t VALUES (\"';\\\"\");",
            "\n/*!40000 ALTER TABLE `*/;` DISABLE KEYS COMMENT '*/;' */;",
            "SELECT 1 - -1 - --1;",
            "\n/* ';* / ; */ USE `x`;",
            " ;",
        ];
        let text = statements.concat();
        let mut at = 0;
        let expected: Vec<usize> = statements
            .iter()
            .map(|statement| {
                at += statement.len();
                at
            })
            .collect();
        for part in [1, 2, 3, 7, 1000] {
            assert_eq!(ends(text.as_bytes(), part), expected, "by {part}");
        }
    }

    #[test]
    fn names_of_any_kind() {
        assert_eq!(name(b"`a``b`; c"), Some(("a`b".into(), &b"; c"[..])));
        assert_eq!(name(b"`a\n--`"), Some(("a\n--".into(), &b""[..])));
        assert_eq!(name(b"`a"), None);
        assert_eq!(name(b"a"), None);
    }

    proptest! {
        #[test]
        fn what_is_quoted_ends_nothing(text in "[a-z'\"`\\\\;\\n/*!-]{0,30}", part in 1usize..9) {
            let name = format!("`{}`", text.replace('`', "``"));
            let string = format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
            let sql = format!("CREATE TABLE {name} ({name} int COMMENT {string});");
            prop_assert_eq!(ends(sql.as_bytes(), part), [sql.len()]);
            let (found, rest) = super::name(name.as_bytes()).unwrap();
            prop_assert_eq!((found.as_str(), rest), (text.as_str(), &b""[..]));
        }
    }
}
