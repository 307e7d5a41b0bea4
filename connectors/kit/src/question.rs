//! Statements that users write for scratch servers, looked at without one: most slips of the pen are found before a night's
//! drill is.

use std::time::Duration;

/// What differs between systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct Dialect {
    /// Whether a backslash in a string escapes what follows it.
    pub backslash: bool,
    /// Whether there are names in backquotes, and comments that begin with `#`.
    pub backquote: bool,
    /// Whether there are strings in `$tag$`.
    pub dollar: bool,
}

/// What a statement that asks begins with.
const BEGINNINGS: &[&str] = &["SELECT", "WITH", "TABLE", "VALUES", "SHOW", "EXPLAIN"];

/// Looks at a statement: that it is one, that it asks, that what it opens it closes. What it names is not known here.
///
/// # Errors
/// What is wrong, without a word of the statement.
pub fn check_sql(text: &str, dialect: Dialect) -> Result<(), String> {
    let bytes = text.as_bytes();
    let (mut at, mut open, mut is_over, mut first) = (0, vec![], false, None);
    while let Some(byte) = bytes.get(at).copied() {
        let rest = bytes.get(at..).unwrap_or_default();
        if byte.is_ascii_whitespace() {
            at += 1;
            continue;
        }
        if rest.starts_with(b"--") || (dialect.backquote && byte == b'#') {
            at += memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            continue;
        }
        if rest.starts_with(b"/*") {
            let end = memchr::memmem::find(rest.get(2..).unwrap_or_default(), b"*/");
            at += 4 + end.ok_or("a comment is not closed")?;
            continue;
        }
        if byte == b';' {
            is_over = true;
            at += 1;
            continue;
        }
        if is_over {
            return Err("there is more than one statement".into());
        }
        first = first.or(Some(at));
        at += match byte {
            b'\'' | b'"' => {
                let before = |back: usize| at.checked_sub(back).and_then(|at| bytes.get(at)).copied();
                // E'…' of PostgreSQL.
                let is_escape = dialect.dollar
                    && byte == b'\''
                    && before(1).is_some_and(|byte| byte.eq_ignore_ascii_case(&b'e'))
                    && !before(2).is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                quoted(rest, dialect.backslash || is_escape)?
            }
            b'`' if dialect.backquote => quoted(rest, false)?,
            b'$' if dialect.dollar => dollar(rest)?,
            b'(' | b'[' => {
                open.push(byte);
                1
            }
            b')' | b']' => {
                let opened = if byte == b')' { b'(' } else { b'[' };
                if open.pop() != Some(opened) {
                    return Err("a bracket is closed that was not opened".into());
                }
                1
            }
            _ => 1,
        };
    }
    let Some(first) = first else { return Err("there is no statement".into()) };
    if !open.is_empty() {
        return Err("a bracket is not closed".into());
    }
    let word = |text: &str| text.chars().take_while(char::is_ascii_alphabetic).collect::<String>();
    let word = word(text.get(first..).unwrap_or_default().trim_start_matches('(')).to_ascii_uppercase();
    match BEGINNINGS.contains(&word.as_str()) {
        true => Ok(()),
        false => Err(format!("a statement that asks begins with {}", BEGINNINGS.join(", "))),
    }
}

/// Said of an answer of so many rows that is not one value.
#[must_use]
pub fn no_single_value(rows: usize) -> String {
    match rows {
        1 => "the answer has several columns: ask for one value".into(),
        rows => format!("the answer has {rows} rows: ask for one value"),
    }
}

/// Said of a question that has no answer within its limit.
#[must_use]
pub fn no_answer_within(limit: Duration) -> String {
    format!("no answer within {} s", limit.as_secs_f64())
}

/// How long the text in quotes is that `rest` begins with.
fn quoted(rest: &[u8], escapes: bool) -> Result<usize, String> {
    let quote = rest.first().copied().unwrap_or_default();
    let mut at = 1;
    loop {
        match rest.get(at) {
            None => return Err("a quotation is not closed".into()),
            Some(b'\\') if escapes => at += 2,
            Some(byte) if *byte == quote && rest.get(at + 1) == Some(&quote) => at += 2,
            Some(byte) if *byte == quote => return Ok(at + 1),
            Some(_) => at += 1,
        }
    }
}

/// How long the text in `$tag$` is that `rest` begins with; a number of a parameter, or a part of a name, is one byte.
fn dollar(rest: &[u8]) -> Result<usize, String> {
    let Some(end) = memchr::memchr(b'$', rest.get(1..).unwrap_or_default()) else { return Ok(1) };
    let tag = rest.get(..end + 2).unwrap_or_default();
    let inner = tag.get(1..=end).unwrap_or_default();
    let is_tag = inner.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        && !inner.first().is_some_and(u8::is_ascii_digit);
    if !is_tag {
        return Ok(1);
    }
    let closed = memchr::memmem::find(rest.get(tag.len()..).unwrap_or_default(), tag);
    closed.map(|at| at + 2 * tag.len()).ok_or_else(|| "a quotation is not closed".into())
}

/// The words of a command, as a shell would have them: in single quotes as they stand, in double quotes with backslashes.
///
/// # Errors
/// There are none, or a quotation is not closed.
pub fn words(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut quote): (Vec<String>, Option<String>, Option<char>) = (vec![], None, None);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (Some('"') | None, '\\') => {
                word.get_or_insert_default().push(chars.next().ok_or("a backslash has nothing behind it")?);
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match (quote, words.first()) {
        (Some(_), _) => Err("a quotation is not closed".into()),
        (None, None) => Err("there is no command".into()),
        (None, Some(_)) => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POSTGRES: Dialect = Dialect { backslash: false, backquote: false, dollar: true };
    const MARIADB: Dialect = Dialect { backslash: true, backquote: true, dollar: false };

    #[test]
    fn one_statement_that_asks_and_is_closed() {
        for sound in [
            "SELECT 1",
            " select count(*) from t where a[1] = ')' -- ;\n;",
            "(select 1) /* ; */ ;",
            "WITH x AS (SELECT 'a''b') TABLE x",
            "select E'\\'' , 'a\\', $a$ ' ( $a$, $1",
        ] {
            assert_eq!(check_sql(sound, POSTGRES), Ok(()), "{sound}");
        }
        assert_eq!(check_sql("SELECT '\\'', `a'(` # it's\n", MARIADB), Ok(()));
        for wrong in [
            "",
            "-- nothing",
            ";",
            "SELCT 1",
            "DELETE FROM t",
            "SELECT (1",
            "SELECT 1)",
            "SELECT (1]",
            "SELECT 'a",
            "SELECT \"a",
            "SELECT 1; SELECT 2",
            "SELECT 1 /* ",
            "SELECT $a$ 1 $b$",
        ] {
            assert!(check_sql(wrong, POSTGRES).is_err(), "{wrong}");
        }
        assert!(check_sql("SELECT `a", MARIADB).is_err());
    }

    #[test]
    fn words_of_a_command() {
        assert_eq!(words(" GET 'a b' \"c\\\"d\" e\\ f ''").unwrap(), ["GET", "a b", "c\"d", "e f", ""]);
        for wrong in ["", "  ", "GET 'a", "GET \"a", "GET \\"] {
            assert!(words(wrong).is_err(), "{wrong}");
        }
    }
}
