//! LOAD DATA in a binary log. The log has the rows of the file, in events of their own, and a statement whose file has a name
//! that nobody can open any more. The rows are written to files of ours, and the statement anew, so that it names the one of
//! them that is its own; nothing else that the log says comes to name a file of the machine that restores.
//!
//! The client sends a file only for a statement that begins with an L, and once for it (`mysql_send_query` in
//! `libmariadb/mariadb_lib.c`): so no other statement may begin so, and this one must be one.
//! Source: MariaDB's documentation, "BEGIN_LOAD_QUERY_EVENT", "EXECUTE_LOAD_QUERY_EVENT"; `print_query` of
//! `Load_log_event` in `sql/log_event.cc`.

use memchr::{memchr_iter, memmem};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Result, Write as _};
use std::path::PathBuf;

/// What stands before the name of the file.
const BEGINNINGS: &[&[u8]] = &[b"LOAD DATA", b"LOAD DATA CONCURRENT", b"LOAD DATA LOW_PRIORITY"];

/// Files of rows, by the numbers that a log gives them.
pub(super) struct Loads {
    folder: PathBuf,
    files: HashMap<u32, PathBuf>,
    count: u64,
    /// Whether a statement needs one of them.
    pub(super) is_used: bool,
}

/// A number at a place of an event.
fn number(body: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(body.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl Loads {
    /// Writes files to a folder of ours.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, files: HashMap::new(), count: 0, is_used: false }
    }

    /// A file begins, or goes on; none if the event is not so.
    pub(super) fn rows(&mut self, body: &[u8], is_first: bool) -> Result<Option<()>> {
        let Some(id) = number(body, 0) else { return Ok(None) };
        let mut file = match (is_first, self.files.get(&id)) {
            (false, None) => return Ok(None),
            (false, Some(path)) => File::options().append(true).open(path)?,
            (true, before) => {
                if let Some(before) = before {
                    std::fs::remove_file(before)?;
                }
                self.count += 1;
                let path = self.folder.join(format!("rows-{}", self.count));
                let file = File::create_new(&path)?;
                self.files.insert(id, path);
                file
            }
        };
        file.write_all(&body[4..])?;
        Ok(Some(()))
    }

    /// The statement of an event whose body begins with `head` and ends with `text`, with a file of ours.
    ///
    /// # Errors
    /// Why it cannot be run.
    pub(super) fn statement(&mut self, head: &[u8], text: &[u8]) -> std::result::Result<Vec<u8>, String> {
        let cut = || "is not as LOAD DATA is written".to_owned();
        let (id, from, to) = (number(head, 13), number(head, 17), number(head, 21));
        let (Some(id), Some(from), Some(to), Some(how)) = (id, from, to, head.get(25)) else {
            return Err(cut());
        };
        let (before, _) = text.split_at_checked(from as usize).ok_or_else(cut)?;
        let (_, behind) = text.split_at_checked(to as usize).filter(|_| from <= to).ok_or_else(cut)?;
        let beginning = BEGINNINGS.iter().find(|known| before.trim_ascii_end() == **known).ok_or_else(cut)?;
        let file = self.files.get(&id).ok_or("loads a file that does not begin in these logs")?;
        let file = file.to_str().filter(|path| path.bytes().all(is_plain)).ok_or(
            "loads a file, whose rows lie in a folder with a name of more than letters, digits and '/._-': set TMPDIR to another",
        )?;
        if !is_one(behind) {
            return Err("has a LOAD DATA that may be more than one statement".to_owned());
        }
        self.is_used = true;
        let replace = match how {
            1 => " IGNORE",
            2 => " REPLACE",
            _ => "",
        };
        Ok([beginning, format!(" LOCAL INFILE '{file}'{replace} INTO").as_bytes(), behind].concat())
    }
}

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-')
}

/// Whether the client would take these words, outside of a string, for its own commands: they may stand anywhere in a line.
pub(super) fn commands_the_client(text: &[u8]) -> bool {
    text.windows(10).any(|some| some.eq_ignore_ascii_case(b"delimiter "))
        || memmem::find(text, b"\\C").is_some()
}

/// Whether the end of a LOAD DATA ends one statement, whatever SQL mode and character set it is in.
fn is_one(behind: &[u8]) -> bool {
    if commands_the_client(behind) {
        return false;
    }
    // A second statement would begin with a quote, which none does.
    let is_quoted = |at: usize| at > 0 && behind[at - 1] == b'\'' && behind.get(at + 1) == Some(&b'\'');
    if memchr_iter(b';', behind).all(is_quoted) {
        return true;
    }
    // A byte before a backslash may make one character of both.
    let is_clear = !behind.windows(2).any(|pair| !pair[0].is_ascii() && pair[1] == b'\\');
    is_clear && [true, false].into_iter().all(|escapes| has_no_end(behind, escapes))
}

/// Whether no semicolon stands outside of strings, names and comments, and all of these are closed.
fn has_no_end(text: &[u8], escapes: bool) -> bool {
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            // Where a comment ends is not the same everywhere.
            b';' | b'#' => return false,
            b'-' if text.get(at) == Some(&b'-') => return false,
            b'/' if text.get(at) == Some(&b'*') => return false,
            quote @ (b'\'' | b'"' | b'`') => loop {
                match text.get(at) {
                    None => return false,
                    Some(b'\\') if escapes && *quote != b'`' => at += 2,
                    Some(byte) if byte == quote => {
                        at += 1;
                        break;
                    }
                    Some(_) => at += 1,
                }
            },
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_statement_is_one() {
        for behind in [
            " TABLE `t` FIELDS TERMINATED BY ';' ENCLOSED BY '\\'' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' (`a`, `b`)",
            " TABLE `t` FIELDS TERMINATED BY ',' (`a`, @`b`) SET `b`= concat(@b, 'x;y')",
            " TABLE `t;t` (`a`)",
            " TABLE t SET a = replace(@a, ';', ',')",
            " TABLE t SET a = '\u{e4}\\\\'",
        ] {
            assert!(is_one(behind.as_bytes()), "{behind}");
        }
        for behind in [
            " TABLE t; LOAD DATA LOCAL INFILE '/etc/shadow' INTO TABLE t",
            " TABLE t SET a = '\\'; LOAD DATA LOCAL INFILE \"/etc/shadow\" INTO TABLE t -- '",
            " TABLE t SET a = 'x\\'; LOAD DATA' ; x",
            " TABLE t SET a = '\u{e4}\\'; DO 0 -- '",
            " TABLE t /* ' */; DO 0 /* ' */",
            " TABLE t # '\n; DO 0 -- '",
            " TABLE t\nDeLimiter //\nLOAD DATA LOCAL INFILE '/etc/shadow' INTO TABLE t//",
            " TABLE t \\C gbk",
            " TABLE t SET a = 'open; ",
        ] {
            assert!(!is_one(behind.as_bytes()), "{behind}");
        }
    }

    #[test]
    fn a_statement_names_a_file_of_ours() {
        let folder = tempfile::Builder::new().prefix("rows").rand_bytes(8).tempdir().unwrap();
        let mut loads = Loads::new(folder.path().to_owned());
        let of = |id: u32, bytes: &[u8]| [&id.to_le_bytes(), bytes].concat();
        assert!(loads.rows(&of(3, b"1;"), true).unwrap().is_some());
        assert!(loads.rows(&of(3, b"a\n"), false).unwrap().is_some());
        assert!(
            loads.rows(&of(4, b"a\n"), false).unwrap().is_none()
                && loads.rows(b"abc", true).unwrap().is_none()
        );
        let text = b"LOAD DATA LOCAL INFILE '/etc/shadow' REPLACE INTO TABLE `t`";
        let head = |id: u32, from: u32, to: u32, how: u8| {
            [&[0; 13][..], &id.to_le_bytes(), &from.to_le_bytes(), &to.to_le_bytes(), &[how]].concat()
        };
        let place = folder.path().join("rows-1").display().to_string();
        assert_eq!(
            String::from_utf8(loads.statement(&head(3, 9, 49, 2), text).unwrap()).unwrap(),
            format!("LOAD DATA LOCAL INFILE '{place}' REPLACE INTO TABLE `t`")
        );
        assert_eq!(std::fs::read(&place).unwrap(), b"1;a\n");
        for (id, from, to) in
            [(4, 9, 49), (3, 36, 49), (3, 0, 49), (3, 49, 9), (3, 9, 1000), (3, u32::MAX, 49)]
        {
            assert!(loads.statement(&head(id, from, to, 0), text).is_err(), "{id} {from} {to}");
        }
        assert!(loads.statement(&head(3, 9, 49, 0)[..20], text).is_err());
        // A number that is used again is another file.
        loads.rows(&of(3, b"new"), true).unwrap();
        assert!(!std::path::Path::new(&place).exists());
    }
}
