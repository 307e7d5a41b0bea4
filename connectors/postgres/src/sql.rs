//! SQL as PostgreSQL's tools read it: a text is taken apart into statements, and a statement into tokens. Nothing that
//! stands within a literal, a quoted name, a comment or a body is taken for anything else.
//! Source: PostgreSQL's documentation, "Lexical Structure"; `psqlscan.l` for where a statement ends.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A keyword, or a name without quotes.
    Word,
    /// A name in quotes.
    Quoted,
    /// A literal, with whichever quotes.
    Text,
    /// A single character of anything else.
    Other,
}

/// A token of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// Kind.
    pub kind: Kind,
    /// As it stands.
    pub text: &'a str,
    /// Where it begins.
    pub at: usize,
}

impl Token<'_> {
    /// Whether it is this keyword.
    #[must_use]
    pub fn is(&self, keyword: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(keyword)
    }

    /// Whether it is this character.
    #[must_use]
    pub fn is_char(&self, character: char) -> bool {
        self.kind == Kind::Other && self.text.starts_with(character)
    }

    /// The name that it is, if it is one.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        match self.kind {
            Kind::Word => Some(self.text.to_lowercase()),
            Kind::Quoted => {
                let inner = self.text.strip_prefix('"')?.strip_suffix('"')?;
                Some(inner.replace("\"\"", "\""))
            }
            _ => None,
        }
    }

    /// Where it ends.
    #[must_use]
    pub fn end(&self) -> usize {
        self.at + self.text.len()
    }
}

/// A name in quotes.
#[must_use]
pub fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A literal, whatever `standard_conforming_strings` is.
#[must_use]
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    match quoted.contains('\\') {
        true => format!(" E'{}'", quoted.replace('\\', "\\\\")),
        false => format!("'{quoted}'"),
    }
}

/// The tokens of a statement, without comments.
#[must_use]
pub fn tokens(statement: &str) -> Vec<Token<'_>> {
    let mut tokens = vec![];
    let scanner = Scanner::default();
    let bytes = statement.as_bytes();
    let mut from = 0;
    while let Some((lexeme, to)) = scanner.lexeme(bytes, from, true) {
        let kind = match lexeme {
            Lexeme::Word => Some(Kind::Word),
            Lexeme::Quoted => Some(Kind::Quoted),
            Lexeme::Text => Some(Kind::Text),
            Lexeme::Other => Some(Kind::Other),
            Lexeme::Blank => None,
        };
        if let Some((kind, text)) = kind.zip(statement.get(from..to)) {
            tokens.push(Token { kind, text, at: from });
        }
        from = to;
    }
    tokens
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lexeme {
    Word,
    Quoted,
    Text,
    Other,
    /// White space or a comment.
    Blank,
}

/// Finds where a lexeme ends.
struct Scanner {
    /// Whether `\` means itself in plain quotes.
    conforming: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Self { conforming: true }
    }
}

fn begins_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn goes_on_word(byte: u8) -> bool {
    begins_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

impl Scanner {
    /// The lexeme at `from` and its end; `None` if there is none, or if it may go on behind what is at hand: at the end
    /// of `all`, it does not.
    fn lexeme(&self, bytes: &[u8], from: usize, all: bool) -> Option<(Lexeme, usize)> {
        let first = *bytes.get(from)?;
        let rest = &bytes[from..];
        let second = rest.get(1).copied();
        if second.is_none() && !all {
            return None;
        }
        let (lexeme, len) = match (first, second) {
            (b'-', Some(b'-')) => {
                (Lexeme::Blank, rest.iter().position(|byte| *byte == b'\n').map(|end| end + 1))
            }
            (b'/', Some(b'*')) => (Lexeme::Blank, comment(rest)),
            (b'\'', _) => (Lexeme::Text, quotes(rest, 0, b'\'', !self.conforming)),
            (b'e' | b'E', Some(b'\'')) => (Lexeme::Text, quotes(rest, 1, b'\'', true)),
            (b'b' | b'B' | b'x' | b'X' | b'n' | b'N', Some(b'\'')) => {
                (Lexeme::Text, quotes(rest, 1, b'\'', !self.conforming))
            }
            (b'"', _) => (Lexeme::Quoted, quotes(rest, 0, b'"', false)),
            (b'$', _) => match dollar(rest) {
                Dollar::Quote(len) => (Lexeme::Text, len),
                Dollar::None => (Lexeme::Other, Some(1)),
                Dollar::More => (Lexeme::Other, if all { Some(1) } else { None }),
            },
            (first, _) if begins_word(first) => {
                (Lexeme::Word, rest.iter().position(|byte| !goes_on_word(*byte)))
            }
            (first, _) if first.is_ascii_digit() => {
                let is_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'_');
                (Lexeme::Other, rest.iter().position(|byte| !is_number(byte)))
            }
            (first, _) if first.is_ascii_whitespace() || first == 0x0b => {
                (Lexeme::Blank, rest.iter().position(|byte| !byte.is_ascii_whitespace() && *byte != 0x0b))
            }
            _ => (Lexeme::Other, Some(1)),
        };
        match len {
            Some(len) => Some((lexeme, from + len)),
            None if all => Some((lexeme, bytes.len())),
            None => None,
        }
    }
}

/// Length of what stands in quotes that begin at `from`; `None` if they do not end, or may go on.
fn quotes(bytes: &[u8], from: usize, quote: u8, escapes: bool) -> Option<usize> {
    let mut at = from + 1;
    loop {
        match *bytes.get(at)? {
            b'\\' if escapes => at += 2,
            byte if byte == quote => match bytes.get(at + 1) {
                Some(next) if *next == quote => at += 2,
                Some(_) => return Some(at + 1),
                None => return None,
            },
            _ => at += 1,
        }
    }
}

/// Length of a comment, which may hold others.
fn comment(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 {
        match (bytes.get(at)?, bytes.get(at + 1)?) {
            (b'/', b'*') => (at, depth) = (at + 2, depth + 1),
            (b'*', b'/') => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
    }
    Some(at)
}

enum Dollar {
    /// Quotes, and their length if they end.
    Quote(Option<usize>),
    None,
    More,
}

/// `$$…$$` or `$tag$…$tag$`.
fn dollar(bytes: &[u8]) -> Dollar {
    let is_tag = |byte: u8| begins_word(byte) || byte.is_ascii_digit();
    let tag = bytes[1..].iter().position(|byte| !is_tag(*byte));
    match tag {
        None => Dollar::More,
        Some(len) if bytes[len + 1] != b'$' || bytes[1].is_ascii_digit() => Dollar::None,
        Some(len) => {
            let (mark, rest) = bytes.split_at(len + 2);
            Dollar::Quote(memchr::memmem::find(rest, mark).map(|at| at + 2 * mark.len()))
        }
    }
}

/// What a text consists of at its top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A statement, without comments before it and without its `;`.
    Statement(Vec<u8>),
    /// A line that psql would take for a command of its own: `\restrict KEY`.
    Command(Vec<u8>),
}

/// Takes a text apart while it comes.
#[derive(Default)]
pub struct Splitter {
    scanner: Scanner,
    buffer: Vec<u8>,
    /// Where the statement begins, and how far it was looked at.
    start: usize,
    at: usize,
    is_begun: bool,
    parentheses: usize,
    /// Words at its beginning, and how deep it is in `BEGIN ATOMIC … END`.
    words: Vec<String>,
    bodies: usize,
    in_rows: bool,
}

impl Splitter {
    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.at -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the rows of a COPY, which begin on the line after its statement, up to a line `\.`. `true` if that came.
    pub fn rows(&mut self, take: &mut Vec<u8>) -> bool {
        let mut is_over = false;
        while !is_over && let Some(len) = memchr::memchr(b'\n', &self.buffer[self.start..]) {
            let line = &self.buffer[self.start..=self.start + len];
            is_over = self.in_rows && matches!(line, b"\\.\n" | b"\\.\r\n");
            if self.in_rows && !is_over {
                take.extend_from_slice(line);
            }
            self.in_rows = !is_over;
            self.start += len + 1;
        }
        self.at = self.start;
        is_over
    }

    /// Bytes that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Says whether `\` means itself in plain quotes, from here on.
    pub fn set_conforming(&mut self, conforming: bool) {
        self.scanner.conforming = conforming;
    }

    /// The next piece, if it is whole; at the end of `all`, what is left is one.
    pub fn next_piece(&mut self, all: bool) -> Option<Piece> {
        loop {
            if !self.is_begun && self.buffer.get(self.at) == Some(&b'\\') {
                let rest = &self.buffer[self.at..];
                let end = memchr::memchr(b'\n', rest).or(all.then_some(rest.len()))?;
                let line = rest[..end].to_vec();
                self.begin(self.at + end);
                return Some(Piece::Command(line));
            }
            let Some((lexeme, end)) = self.scanner.lexeme(&self.buffer, self.at, all) else {
                let statement = self.buffer[self.start..].to_vec();
                let is_last = all && self.at == self.buffer.len() && self.is_begun;
                return is_last.then(|| {
                    self.begin(self.buffer.len());
                    Piece::Statement(statement)
                });
            };
            let from = self.at;
            self.at = end;
            match lexeme {
                Lexeme::Blank if !self.is_begun => self.start = end,
                Lexeme::Blank => {}
                Lexeme::Other if self.buffer[from] == b';' && self.parentheses == 0 && self.bodies == 0 => {
                    let statement = self.buffer[self.start..from].to_vec();
                    self.begin(end);
                    if !statement.is_empty() {
                        return Some(Piece::Statement(statement));
                    }
                }
                lexeme => {
                    self.is_begun = true;
                    self.look(lexeme, from, end);
                }
            }
        }
    }

    fn begin(&mut self, at: usize) {
        (self.start, self.at, self.is_begun) = (at, at, false);
        (self.parentheses, self.bodies) = (0, 0);
        self.words.clear();
    }

    /// Keeps account of what a `;` does not end.
    fn look(&mut self, lexeme: Lexeme, from: usize, end: usize) {
        match (lexeme, self.buffer[from]) {
            (Lexeme::Other, b'(') => self.parentheses += 1,
            (Lexeme::Other, b')') => self.parentheses = self.parentheses.saturating_sub(1),
            (Lexeme::Word, _) => {
                let word = String::from_utf8_lossy(&self.buffer[from..end]).to_ascii_lowercase();
                let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
                let is_routine = matches!(
                    words.as_slice(),
                    ["create", "function" | "procedure", ..]
                        | ["create", "or", "replace", "function" | "procedure", ..]
                );
                match word.as_str() {
                    "begin" if is_routine && self.parentheses == 0 => self.bodies += 1,
                    "case" if self.bodies > 0 && self.parentheses == 0 => self.bodies += 1,
                    "end" if self.parentheses == 0 => self.bodies = self.bodies.saturating_sub(1),
                    _ => {}
                }
                if self.words.len() < 4 {
                    self.words.push(word);
                }
            }
            _ => {}
        }
    }
}

/// The statements and commands of a text that is at hand.
#[must_use]
pub fn split(text: &[u8]) -> Vec<Piece> {
    let mut splitter = Splitter::default();
    splitter.push(text);
    std::iter::from_fn(|| splitter.next_piece(true)).collect()
}

/// The statements of a text, as text; commands are left out.
#[must_use]
pub fn statements(text: &str) -> Vec<String> {
    let pieces = split(text.as_bytes()).into_iter().filter_map(|piece| match piece {
        Piece::Statement(statement) => Some(String::from_utf8_lossy(&statement).into_owned()),
        Piece::Command(_) => None,
    });
    pieces.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What hides a `;` from a reader who does not know all of the grammar.
    const HARD: &[&str] = &[
        "SELECT ';', 'it''s; \\', E'\\';\\\\', \"a;\"\"b\", $$;$$, $a$;$$;$a$",
        "COMMENT ON ROLE \"x\n\\! touch PROOF\n\" IS 'a\n\\connect evil\n;--'",
        "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2)",
        "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
        "ALTER ROLE a /* ; /* nested; */ ' */ SET x TO 'y' -- ;\n",
        "SELECT a$b$c, 1$2",
        "CREATE FUNCTION begin() RETURNS int AS 'x;' LANGUAGE sql",
    ];

    #[test]
    fn statements_end_where_the_server_ends_them() {
        let text: String =
            HARD.iter().filter(|hard| !hard.contains("begin()")).map(|hard| format!("{hard};\n")).collect();
        let wanted: Vec<String> =
            HARD.iter().filter(|hard| !hard.contains("begin()")).map(|hard| (*hard).to_owned()).collect();
        assert_eq!(statements(&text), wanted);
        // In pieces of every size it is the same.
        for len in 1..40 {
            let mut splitter = Splitter::default();
            let mut found = vec![];
            for part in text.as_bytes().chunks(len) {
                splitter.push(part);
                found.extend(std::iter::from_fn(|| splitter.next_piece(false)));
            }
            found.extend(std::iter::from_fn(|| splitter.next_piece(true)));
            assert_eq!(found, split(text.as_bytes()), "{len}");
        }
    }

    #[test]
    fn commands_of_psql_are_told_from_statements() {
        let pieces = split(b"-- x\n\\restrict key\nSELECT '\n\\! no\n';\n  \\! touch x\nSELECT 2");
        let text = |text: &str| text.as_bytes().to_vec();
        assert_eq!(
            pieces,
            [
                Piece::Command(text("\\restrict key")),
                Piece::Statement(text("SELECT '\n\\! no\n'")),
                Piece::Command(text("\\! touch x")),
                Piece::Statement(text("SELECT 2")),
            ]
        );
    }

    #[test]
    fn rows_end_with_a_line() {
        let mut splitter = Splitter::default();
        splitter.push(b"COPY t FROM stdin;\na;\\.\n\\");
        assert_eq!(splitter.next_piece(false), Some(Piece::Statement(b"COPY t FROM stdin".to_vec())));
        let mut rows = vec![];
        assert!(!splitter.rows(&mut rows));
        splitter.push(b".\nSELECT 1;");
        assert!(splitter.rows(&mut rows));
        assert_eq!(rows, b"a;\\.\n");
        assert_eq!(splitter.next_piece(true), Some(Piece::Statement(b"SELECT 1".to_vec())));
    }

    #[test]
    fn names_and_literals() {
        let all = tokens("ALTER DATABASE \"a\"\"; b\" SET \"x.y\" TO 'v', E'\\'', Größe");
        let names: Vec<String> = all.iter().filter_map(Token::name).collect();
        assert_eq!(names, ["alter", "database", "a\"; b", "set", "x.y", "to", "größe"]);
        assert!(tokens("x -- database y\n/* database z */").iter().all(|token| !token.is("database")));
        assert_eq!(quoted_name("a\"b"), "\"a\"\"b\"");
        assert_eq!((literal("it's").as_str(), literal("a\\'").as_str()), ("'it''s'", " E'a\\\\'''"));
    }
}
