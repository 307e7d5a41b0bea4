//! One component of a pattern: `*`, `?`, `[…]`, `\`, compared with a name. A name is read as UTF-8 where it is that;
//! a byte that is not counts as one character.

/// Compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Glob {
    /// No special characters: most patterns of most people.
    Literal(Vec<u8>),
    /// `*` before a literal.
    Ending(Vec<u8>),
    /// Everything else.
    Tokens { tokens: Vec<Token>, ignore_case: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// `*`
    Star,
    /// `?`
    One,
    /// Itself.
    Exactly(Unit),
    /// `[…]`
    Class { negated: bool, ranges: Vec<(Unit, Unit)>, named: Vec<Named> },
}

/// A character, or a byte that is part of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Char(char),
    Byte(u8),
}

/// The named classes of POSIX, of ASCII as in the C locale, but for letters: those are Unicode's.
type Named = fn(char) -> bool;

fn named(name: &[u8]) -> Option<Named> {
    Some(match name {
        b"alnum" => |c| c.is_alphanumeric(),
        b"alpha" => |c| c.is_alphabetic(),
        b"blank" => |c| matches!(c, ' ' | '\t'),
        b"cntrl" => |c| c.is_control(),
        b"digit" => |c| c.is_ascii_digit(),
        b"graph" => |c| c.is_ascii_graphic(),
        b"lower" => |c| c.is_lowercase(),
        b"print" => |c| c.is_ascii_graphic() || c == ' ',
        b"punct" => |c| c.is_ascii_punctuation(),
        b"space" => |c| c.is_whitespace(),
        b"upper" => |c| c.is_uppercase(),
        b"xdigit" => |c| c.is_ascii_hexdigit(),
        _ => return None,
    })
}

impl Unit {
    /// The first of a name, and how many bytes it has.
    fn first(bytes: &[u8]) -> Option<(Self, usize)> {
        let first = *bytes.first()?;
        if first.is_ascii() {
            return Some((Self::Char(char::from(first)), 1));
        }
        let chunk = bytes[..bytes.len().min(4)].utf8_chunks().next()?;
        Some(match chunk.valid().chars().next() {
            Some(c) => (Self::Char(c), c.len_utf8()),
            None => (Self::Byte(first), 1),
        })
    }

    /// The same whatever its case.
    fn folded(self) -> Self {
        match self {
            Self::Char(c) => {
                let mut lower = c.to_lowercase();
                match (lower.next(), lower.next()) {
                    (Some(one), None) => Self::Char(one),
                    _ => self,
                }
            }
            Self::Byte(_) => self,
        }
    }

    /// Where it stands in a range; bytes stand behind all characters.
    fn rank(self) -> u32 {
        match self {
            Self::Char(c) => u32::from(c),
            Self::Byte(byte) => 0x11_0000 + u32::from(byte),
        }
    }
}

impl Glob {
    /// Whatever the name.
    pub(super) fn any() -> Self {
        Self::Tokens { tokens: vec![Token::Star], ignore_case: false }
    }

    pub(super) fn is_any(&self) -> bool {
        matches!(self, Self::Tokens { tokens, .. } if *tokens == [Token::Star])
    }

    /// Reads one component.
    pub(super) fn parse(mut text: &[u8], ignore_case: bool) -> Result<Self, String> {
        let mut tokens = vec![];
        while let Some((unit, len)) = Unit::first(text) {
            text = &text[len..];
            match unit {
                Unit::Char('*') if tokens.last() == Some(&Token::Star) => {}
                Unit::Char('*') => tokens.push(Token::Star),
                Unit::Char('?') => tokens.push(Token::One),
                Unit::Char('[') => tokens.push(class(&mut text)?),
                Unit::Char('\\') => match Unit::first(text) {
                    Some((unit, len)) => {
                        text = &text[len..];
                        tokens.push(Token::Exactly(unit));
                    }
                    None => return Err("it ends with '\\'; write '\\\\' for a backslash".into()),
                },
                unit => tokens.push(Token::Exactly(unit)),
            }
        }
        let literal = |tokens: &[Token]| {
            let mut bytes = vec![];
            for token in tokens {
                match token {
                    Token::Exactly(Unit::Char(c)) => {
                        bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                    Token::Exactly(Unit::Byte(byte)) => bytes.push(*byte),
                    _ => return None,
                }
            }
            Some(bytes)
        };
        if !ignore_case {
            if let Some(bytes) = literal(&tokens) {
                return Ok(Self::Literal(bytes));
            }
            // Of valid text alone: its last bytes might else be those of a character before.
            if let [Token::Star, rest @ ..] = tokens.as_slice()
                && let Some(bytes) = literal(rest).filter(|bytes| !bytes.is_empty())
                && std::str::from_utf8(&bytes).is_ok()
            {
                return Ok(Self::Ending(bytes));
            }
        }
        Ok(Self::Tokens { tokens, ignore_case })
    }

    /// Whether a whole name fits.
    pub(super) fn fits(&self, name: &[u8]) -> bool {
        match self {
            Self::Literal(bytes) => name == bytes,
            Self::Ending(bytes) => name.ends_with(bytes),
            Self::Tokens { tokens, ignore_case } => tokens_fit(tokens, name, *ignore_case),
        }
    }
}

/// On a mismatch, the last `*` takes one character more.
fn tokens_fit(tokens: &[Token], name: &[u8], ignore_case: bool) -> bool {
    let (mut token, mut rest) = (0, name);
    let mut back: Option<(usize, &[u8])> = None;
    loop {
        match (tokens.get(token), Unit::first(rest)) {
            (Some(Token::Star), _) => {
                token += 1;
                back = Some((token, rest));
            }
            (Some(wanted), Some((unit, len))) if wanted.fits(unit, ignore_case) => {
                token += 1;
                rest = &rest[len..];
            }
            (None, None) => return true,
            _ => match back.and_then(|(after, taken)| Some((after, &taken[Unit::first(taken)?.1..]))) {
                Some((after, shorter)) => {
                    back = Some((after, shorter));
                    (token, rest) = (after, shorter);
                }
                None => return false,
            },
        }
    }
}

impl Token {
    fn fits(&self, unit: Unit, ignore_case: bool) -> bool {
        match self {
            Self::Star => false,
            Self::One => true,
            Self::Exactly(wanted) if ignore_case => wanted.folded() == unit.folded(),
            Self::Exactly(wanted) => *wanted == unit,
            Self::Class { negated, ranges, named } => {
                let other = match unit {
                    Unit::Char(c) if ignore_case && c.is_lowercase() => one(c.to_uppercase()),
                    Unit::Char(c) if ignore_case => one(c.to_lowercase()),
                    _ => None,
                };
                let is_in = |unit: Unit| {
                    ranges.iter().any(|(from, to)| (from.rank()..=to.rank()).contains(&unit.rank()))
                        || matches!(unit, Unit::Char(c) if named.iter().any(|class| class(c)))
                };
                (is_in(unit) || other.is_some_and(|c| is_in(Unit::Char(c)))) != *negated
            }
        }
    }
}

/// The one character that there is, if there is one.
fn one(mut chars: impl Iterator<Item = char>) -> Option<char> {
    let first = chars.next()?;
    chars.next().is_none().then_some(first)
}

/// What follows `[`, up to and with `]`.
fn class(text: &mut &[u8]) -> Result<Token, String> {
    let open = || "'[' has no ']' after it in the same component; write '\\[' for the character".to_owned();
    let next = |text: &mut &[u8]| -> Result<Unit, String> {
        let (unit, len) = Unit::first(text).ok_or_else(open)?;
        *text = &text[len..];
        Ok(unit)
    };
    let negated = matches!(text.first(), Some(b'!' | b'^'));
    if negated {
        next(text)?;
    }
    let (mut ranges, mut classes) = (vec![], vec![]);
    let mut first = true;
    loop {
        if let Some(rest) = text.strip_prefix(b"[:") {
            let end = rest.windows(2).position(|two| two == b":]").ok_or_else(open)?;
            let name = &rest[..end];
            let class = named(name)
                .ok_or_else(|| format!("there is no class '[:{}:]'", String::from_utf8_lossy(name)))?;
            classes.push(class);
            *text = &rest[end + 2..];
            first = false;
            continue;
        }
        let mut from = next(text)?;
        if from == Unit::Char(']') && !first {
            return Ok(Token::Class { negated, ranges, named: classes });
        }
        first = false;
        if from == Unit::Char('\\') {
            from = next(text)?;
        }
        let mut to = from;
        if text.first() == Some(&b'-') && text.get(1).is_some_and(|byte| *byte != b']') {
            next(text)?;
            to = next(text)?;
            if to == Unit::Char('\\') {
                to = next(text)?;
            }
        }
        if from.rank() > to.rank() {
            return Err("a range in '[…]' ends before it begins".into());
        }
        ranges.push((from, to));
    }
}
