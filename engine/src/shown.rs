//! Names and messages of others on a terminal. A name in a repository, of a server or in a store may contain anything:
//! escape sequences that move the cursor or set the title, line feeds that imitate a line of esker, characters that
//! reverse the reading order. All output for people passes through here; `--json` has the exact name.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A name: as it is where it is printable, else between double quotes, with `\n`, `\r`, `\t`, `\"`, `\\`, `\xNN` for
/// other bytes below 0x80 and for bytes that are not UTF-8, and `\u{N}` for other characters. Different names show
/// as different texts: a name that begins with a quote is quoted, too.
#[must_use]
pub fn name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with('"') && !text.chars().any(is_hidden) => text.to_owned(),
        _ => quoted(bytes),
    }
}

/// A number of things, of which `what` is the word for one, in the singular. A number that does not fit is the largest.
#[must_use]
pub fn counted(number: impl TryInto<u64>, what: &str) -> String {
    match (number.try_into().unwrap_or(u64::MAX), what.strip_suffix('y')) {
        (1, _) => format!("1 {what}"),
        (number, Some(stem)) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{number} {stem}ies"),
        (number, _) => format!("{number} {what}s"),
    }
}

/// The same with the verb that fits: `1 pack is`, `2 packs are`.
#[must_use]
pub fn counted_are(number: impl TryInto<u64>, what: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{} {}", counted(number, what), if number == 1 { "is" } else { "are" })
}

/// A path on this machine, as [`name`].
#[must_use]
pub fn path(path: &Path) -> String {
    name(path.as_os_str().as_bytes())
}

/// A text of others within one line: what [`name`] would escape is escaped in place.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// A text that may have several lines: as [`line()`], but line feeds and tabs stay.
#[must_use]
pub fn text(text: &str) -> Cow<'_, str> {
    escaped(text, |character| matches!(character, '\n' | '\t'))
}

fn quoted(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 8);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => out.extend(['\\', character]),
                _ if is_hidden(character) => escape(&mut out, character),
                _ => out.push(character),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_escaped = |character: char| is_hidden(character) && !stays(character);
    if !text.chars().any(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_escaped(character) { escape(&mut out, character) } else { out.push(character) }
    }
    Cow::Owned(out)
}

fn escape(out: &mut String, character: char) {
    let _ = match (character, u32::from(character)) {
        ('\n', _) => out.write_str("\\n"),
        ('\r', _) => out.write_str("\\r"),
        ('\t', _) => out.write_str("\\t"),
        (_, code @ 0..0x80) => write!(out, "\\x{code:02x}"),
        (_, code) => write!(out, "\\u{{{code:x}}}"),
    };
}

/// Whether a character does anything but show itself: controls (C0, DEL, C1), separators of lines and paragraphs, marks
/// and overrides of direction (Unicode Standard Annex 9, section 2), and characters without width. The two joiners
/// (U+200C, U+200D) belong to letters and emoji.
#[must_use]
pub fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_acts_on_a_terminal_is_escaped() {
        for (bytes, expected) in [
            (&b"/etc/passwd"[..], "/etc/passwd"),
            ("žluť 日本 👩\u{200d}🚒".as_bytes(), "žluť 日本 👩\u{200d}🚒"),
            (b"/a b\\c", "/a b\\c"),
            (b"/\x1b]0;title\x07\x1b[31mred", r#""/\x1b]0;title\x07\x1b[31mred""#),
            (b"/a\nsnapshot saved", r#""/a\nsnapshot saved""#),
            (b"/a\rb\t", r#""/a\rb\t""#),
            (b"\xff\xfe", r#""\xff\xfe""#),
            (b"\x7f", r#""\x7f""#),
            ("\u{9b}31m".as_bytes(), r#""\u{9b}31m""#),
            ("invoice\u{202e}fdp.exe".as_bytes(), r#""invoice\u{202e}fdp.exe""#),
            ("a\u{2028}b".as_bytes(), r#""a\u{2028}b""#),
            (b"\"quoted\"", r#""\"quoted\"""#),
            (b"c:\\\xff", r#""c:\\\xff""#),
            (b"", ""),
        ] {
            assert_eq!(name(bytes), expected);
        }
        assert_eq!(line("a\n\u{1b}[2Jb"), "a\\n\\x1b[2Jb");
        assert_eq!(text("a\n\tb\u{1b}\u{202e}"), "a\n\tb\\x1b\\u{202e}");
        assert!(matches!(text("plain\n"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn nothing_hidden_is_printed_and_names_stay_different(
            a in proptest::collection::vec(any::<u8>(), 0..12),
            b in proptest::collection::vec(any::<u8>(), 0..12),
        ) {
            prop_assert!(!name(&a).chars().any(is_hidden));
            prop_assert_eq!(name(&a) == name(&b), a == b);
            let lossy = String::from_utf8_lossy(&a).into_owned();
            prop_assert!(!line(&lossy).chars().any(is_hidden));
        }
    }
}
