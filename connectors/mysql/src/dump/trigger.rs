//! The head of a trigger's definition. The server keeps it as the user wrote it, and it may name a database:
//! `TRIGGER shop.touched BEFORE INSERT ON shop.account`. Into a database of another name that would make the trigger, and
//! on the table, of the old one.
//! Source: MariaDB's documentation, "CREATE TRIGGER", "Identifier Names", "Comment Syntax".

use crate::server::quoted;

/// A token of the head.
#[derive(Debug, PartialEq)]
enum Token {
    /// A word that is not quoted, in capitals.
    Word(String),
    /// A quoted name or string.
    Quoted,
    /// One of `. = @ ( )`.
    Sign(u8),
}

struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

/// The definition with a head that names no database. Whose head cannot be read for certain is refused; `overlaps` says
/// that the character set has characters of which a byte looks like ASCII.
pub(super) fn unqualified(text: &[u8], name: &str, table: &str, overlaps: bool) -> Result<Vec<u8>, String> {
    let refused = || "the head of its definition is not as CREATE TRIGGER is written".to_owned();
    let mut tokens = Tokens { text, at: 0 };
    let head = tokens.head().ok_or_else(refused)?;
    if overlaps && !text[..head.table.1].is_ascii() {
        return Err(refused());
    }
    if !head.is_qualified {
        return Ok(text.to_vec());
    }
    if overlaps || !(name.is_ascii() && table.is_ascii()) {
        // The names that we know are in UTF-8, and the text need not be.
        return Err(
            "its definition names its database, and not in ASCII; create it again without that name".into()
        );
    }
    let (name, table) = (quoted(name), quoted(table));
    let parts = [
        &text[..head.name.0],
        name.as_bytes(),
        &text[head.name.1..head.table.0],
        table.as_bytes(),
        &text[head.table.1..],
    ];
    Ok(parts.concat())
}

/// Where the names in a head are.
struct Head {
    name: (usize, usize),
    table: (usize, usize),
    is_qualified: bool,
}

impl Tokens<'_> {
    fn head(&mut self) -> Option<Head> {
        if self.next()? != Token::Word("CREATE".into()) {
            return None;
        }
        // OR REPLACE, DEFINER = user@host.
        while self.next()? != Token::Word("TRIGGER".into()) {}
        let save = self.at;
        if self.next()? == Token::Word("IF".into()) && self.next()? == Token::Word("NOT".into()) {
            self.next()?;
        } else {
            self.at = save;
        }
        let (name, is_first) = self.name()?;
        match self.next()? {
            Token::Word(word) if matches!(&*word, "BEFORE" | "AFTER") => {}
            _ => return None,
        }
        loop {
            match self.next()? {
                Token::Word(word) if word == "ON" => break,
                Token::Word(word) if matches!(&*word, "INSERT" | "UPDATE" | "DELETE" | "OR") => {}
                _ => return None,
            }
        }
        let (table, is_second) = self.name()?;
        let is_end = self.next()? == Token::Word("FOR".into());
        is_end.then_some(Head { name, table, is_qualified: is_first || is_second })
    }

    /// A name, and whether its database stands before it.
    fn name(&mut self) -> Option<((usize, usize), bool)> {
        self.skip()?;
        let from = self.at;
        let is_name = |token: Token| matches!(token, Token::Word(_) | Token::Quoted);
        if !is_name(self.next()?) {
            return None;
        }
        let to = self.at;
        if self.next()? != Token::Sign(b'.') {
            self.at = to;
            return Some(((from, to), false));
        }
        if !is_name(self.next()?) {
            return None;
        }
        Some(((from, self.at), true))
    }

    /// Past blanks and comments.
    fn skip(&mut self) -> Option<()> {
        loop {
            let rest = self.text.get(self.at..)?;
            if rest.first()?.is_ascii_whitespace() {
                self.at += 1;
            } else if rest.starts_with(b"/*!") || rest.starts_with(b"/*M!") {
                // Code for some servers, a comment for others.
                return None;
            } else if rest.starts_with(b"/*") {
                self.at += 2 + memchr::memmem::find(&rest[2..], b"*/")? + 2;
            } else if rest.starts_with(b"#")
                || (rest.starts_with(b"--") && rest.get(2)?.is_ascii_whitespace())
            {
                self.at += memchr::memchr(b'\n', rest)?;
            } else {
                return Some(());
            }
        }
    }

    fn next(&mut self) -> Option<Token> {
        self.skip()?;
        let rest = &self.text[self.at..];
        let first = *rest.first()?;
        if matches!(first, b'`' | b'"' | b'\'') {
            let mut end = 1;
            loop {
                end += memchr::memchr(first, rest.get(end..)?)? + 1;
                if rest.get(end) != Some(&first) {
                    break;
                }
                end += 1;
            }
            // Whether that is an escape depends on more than we know.
            if first != b'`' && rest[..end].contains(&b'\\') {
                return None;
            }
            self.at += end;
            return Some(Token::Quoted);
        }
        if matches!(first, b'.' | b'=' | b'@' | b'(' | b')') {
            self.at += 1;
            return Some(Token::Sign(first));
        }
        let is_in_word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..);
        let len = rest.iter().take_while(|byte| is_in_word(byte)).count();
        if len == 0 {
            return None;
        }
        self.at += len;
        Some(Token::Word(String::from_utf8_lossy(&rest[..len]).to_ascii_uppercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        const CREATE: &str = "CREATE DEFINER=`a``TRIGGER x.y`@`%` ";
        let same = |text: &str| {
            let text = format!("{CREATE}{text}");
            assert_eq!(unqualified(text.as_bytes(), "tr", "t", false).as_deref(), Ok(text.as_bytes()));
        };
        same("TRIGGER tr BEFORE INSERT ON t FOR EACH ROW SET @a = x.y");
        same("trigger `tr` /* aa.tr */ after update\n on\t`t` -- x.y\n for each row begin end");
        let changed = |head: &str, to: &str| {
            let body = " FOR EACH ROW INSERT INTO aa.log VALUES ('TRIGGER aa.tr')";
            let text = format!("{CREATE}{head}{body}");
            let expected = format!("{CREATE}{to}{body}");
            assert_eq!(unqualified(text.as_bytes(), "tr", "t", false).unwrap(), expected.as_bytes());
        };
        changed("TRIGGER aa.tr BEFORE DELETE ON aa.t", "TRIGGER `tr` BEFORE DELETE ON `t`");
        changed("TRIGGER tr BEFORE DELETE ON `aa` . t", "TRIGGER `tr` BEFORE DELETE ON `t`");
        changed(
            "TRIGGER IF NOT EXISTS \"a.a\"/**/.#x\ntr BEFORE DELETE ON t",
            "TRIGGER IF NOT EXISTS `tr` BEFORE DELETE ON `t`",
        );
        for unclear in [
            "TRIGGER /*!99999 tr*/ aa.tr BEFORE INSERT ON t FOR EACH ROW SET @a = 1",
            "TRIGGER .tr BEFORE INSERT ON t FOR EACH ROW SET @a = 1",
            "TRIGGER aa.bb.tr BEFORE INSERT ON t FOR EACH ROW SET @a = 1",
            "TRIGGER \"a\\\".tr BEFORE INSERT ON t FOR EACH ROW SET @a = 1",
            "PROCEDURE p() SELECT 1",
            "TRIGGER tr BEFORE INSERT ON t",
        ] {
            let text = format!("{CREATE}{unclear}");
            assert!(unqualified(text.as_bytes(), "tr", "t", false).is_err(), "{unclear}");
        }
        let text = b"CREATE TRIGGER \x81`.tr BEFORE INSERT ON t FOR EACH ROW SET @a = 1";
        assert!(unqualified(text, "tr", "t", true).is_err());
    }
}
