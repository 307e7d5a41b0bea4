//! The statements of MariaDB's test scripts that leave objects and rows behind, for its command-line client.

/// The delimiter of what [`statements`] gives: one that no script has.
pub(super) const DELIMITER: &str = "//~//";

/// The statements of a script that make objects and rows, in its order. What is dropped is renamed instead, so that the next one of
/// its name stands beside it; commands of the test program, what reaches beyond the database, and questions are left out.
pub(super) fn statements(script: &[u8]) -> Vec<Vec<u8>> {
    let mut reader = Reader { rest: script, delimiter: b";".to_vec() };
    let (mut kept, mut dropped) = (vec![], 0);
    while let Some(statement) = reader.next() {
        if of_the_system(statement) {
            continue;
        }
        let words = words(statement, 4);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["drop", "table" | "view" | "tables", ..] => {
                for name in names(statement) {
                    dropped += 1;
                    kept.push(format!("RENAME TABLE IF EXISTS {name} TO dropped_{dropped}").into_bytes());
                }
            }
            words if makes(words) => kept.push(without_database(statement)),
            _ => {}
        }
    }
    kept
}

/// Whether a statement speaks of the server's own tables, which the other scripts need.
fn of_the_system(statement: &[u8]) -> bool {
    let text = String::from_utf8_lossy(statement).to_lowercase();
    ["mysql.", "`mysql`", "@@global"].iter().any(|name| text.contains(name))
}

/// Whether a statement with these first words makes something in the database that is in use.
fn makes(words: &[&str]) -> bool {
    match words {
        ["create", "or", "replace", what, ..] | ["create" | "alter", what, ..] => {
            !matches!(*what, "user" | "role" | "database" | "schema" | "server" | "temporary")
        }
        ["set", "global" | "password" | "default" | "statement" | "role", ..] => false,
        ["insert" | "replace" | "update" | "set", ..] => true,
        _ => false,
    }
}

/// The first words, in small letters.
fn words(statement: &[u8], count: usize) -> Vec<String> {
    let text = String::from_utf8_lossy(&statement[..statement.len().min(200)]).to_lowercase();
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
        .take(count)
        .map(str::to_owned)
        .collect()
}

/// The names in a DROP TABLE or DROP VIEW, as they are written.
fn names(statement: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(&without_database(statement)).into_owned();
    let mut words = text.split_whitespace().skip(2).collect::<Vec<_>>();
    if words.len() > 2 && words[0].eq_ignore_ascii_case("if") {
        words.drain(..2);
    }
    words.retain(|word| !matches!(word.to_lowercase().as_str(), "cascade" | "restrict" | "force"));
    words.join("").split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The same without the name of the database that tests run in.
fn without_database(statement: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(statement.len());
    let mut rest = statement;
    while let Some((&first, after)) = rest.split_first() {
        let in_name =
            text.last().is_some_and(|last: &u8| last.is_ascii_alphanumeric() || b"_`.$@".contains(last));
        match [&b"test."[..], b"`test`."].into_iter().find_map(|prefix| rest.strip_prefix(prefix)) {
            Some(behind) if !in_name => rest = behind,
            _ => {
                text.push(first);
                rest = after;
            }
        }
    }
    text
}

/// Cuts a script as mysqltest does: at a delimiter out of quotes; comments and commands are lines of their own.
struct Reader<'a> {
    rest: &'a [u8],
    delimiter: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            self.rest = self.rest.trim_ascii_start();
            if self.block() {
                continue;
            }
            match self.rest {
                [] => return None,
                [b'#', ..] => _ = self.line(),
                // A command of mysqltest, or a comment.
                [b'-', b'-', ..] => {
                    let line = self.line();
                    self.command(&line[2..]);
                }
                // Blocks of `if` and `while`: both ways.
                [b'}' | b'{', ..] => self.rest = &self.rest[1..],
                _ => {
                    let statement = self.statement();
                    if !self.command(statement) {
                        return Some(statement);
                    }
                }
            }
        }
    }

    fn line(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| *byte == b'\n').unwrap_or(self.rest.len());
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest;
        line
    }

    /// Takes the head of a block.
    fn block(&mut self) -> bool {
        let is_word = self.rest.first().is_some_and(u8::is_ascii_alphabetic);
        let is_block =
            is_word && matches!(words(self.rest, 1).first().map(String::as_str), Some("if" | "while"));
        if is_block && let Some(end) = self.rest.iter().position(|byte| *byte == b'{') {
            self.rest = &self.rest[end..];
            return true;
        }
        false
    }

    /// Takes `delimiter X`.
    fn command(&mut self, line: &[u8]) -> bool {
        let text = line.trim_ascii();
        let is_one =
            text.len() > 9 && text[..9].eq_ignore_ascii_case(b"delimiter") && text[9].is_ascii_whitespace();
        if is_one {
            self.delimiter = text[9..].trim_ascii().to_vec();
        }
        is_one
    }

    fn statement(&mut self) -> &'a [u8] {
        let (mut quote, mut at) = (None, 0);
        while at < self.rest.len() {
            let byte = self.rest[at];
            match quote {
                Some(_) if byte == b'\\' => at += 1,
                Some(open) if byte == open => quote = None,
                Some(_) => {}
                None if self.rest[at..].starts_with(&self.delimiter) => {
                    let statement = &self.rest[..at];
                    self.rest = &self.rest[at + self.delimiter.len()..];
                    return statement;
                }
                None if b"'\"`".contains(&byte) => quote = Some(byte),
                None => {}
            }
            at += 1;
        }
        std::mem::take(&mut self.rest)
    }
}

#[test]
fn what_is_dropped_stands_aside() {
    let script = b"--source include/x.inc\n# a comment; with a delimiter\ncreate table t1 (a int); insert into test.t1 values (';');\nselect 1;\n\
        if (`select 1`) {\nif (`select 2`) {\n--disable_query_log\n}\n}\nwhile ($n)\n{\nwhile ($m)\n{\nset @w = 1;\n}\n}\ndrop table if exists t1, `t2`;\ndelimiter //;\ncreate procedure p() begin select 1; end//\ndelimiter ;//\n\
        create user x@y; set global a = 1; drop table mysql.proc; set @x = 2;";
    let found: Vec<_> =
        statements(script).into_iter().map(|statement| String::from_utf8(statement).unwrap()).collect();
    assert_eq!(
        found,
        [
            "create table t1 (a int)",
            "insert into t1 values (';')",
            "set @w = 1",
            "RENAME TABLE IF EXISTS t1 TO dropped_1",
            "RENAME TABLE IF EXISTS `t2` TO dropped_2",
            "create procedure p() begin select 1; end",
            "set @x = 2"
        ]
    );
}
