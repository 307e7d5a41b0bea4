//! Redis's patterns for keys: `*`, `?`, `[abc]`, `[^a]`, `[a-z]` and `\` before what is meant literally, on
//! bytes. Source: `util.c`, `stringmatchlen`; its quirks too, so that a pattern means here what `KEYS` shows.

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Vec<u8>);

impl Glob {
    /// Any bytes are a pattern.
    #[must_use]
    pub fn new(pattern: impl Into<Vec<u8>>) -> Self {
        Self(pattern.into())
    }

    /// The pattern as it was given.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it fits a key.
    #[must_use]
    pub fn fits(&self, key: &[u8]) -> bool {
        fits(&self.0, key)
    }

    /// What every key that fits begins with, and whether that is the whole key.
    #[must_use]
    pub fn literal(&self) -> (Vec<u8>, bool) {
        let mut prefix = vec![];
        let mut rest = self.0.iter();
        while let Some(byte) = rest.next() {
            match byte {
                b'*' | b'?' | b'[' => return (prefix, false),
                b'\\' => prefix.extend(rest.next().or(Some(byte))),
                byte => prefix.push(*byte),
            }
        }
        (prefix, true)
    }
}

/// One step back to the last star is enough: an earlier one can take over nothing that the last cannot.
fn fits(pattern: &[u8], key: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at + 1, seen));
            at += 1;
            continue;
        }
        let matched = match (pattern.get(at..).filter(|rest| !rest.is_empty()), key.get(seen)) {
            (None, None) => return true,
            (Some(rest), Some(byte)) => one(rest, *byte),
            _ => None,
        };
        match (matched, star) {
            (Some(len), _) => {
                at += len;
                seen += 1;
            }
            (None, Some((after, from))) if from < key.len() => {
                star = Some((after, from + 1));
                (at, seen) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// Whether one element of a pattern fits a byte: the element's length.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [b'[', rest @ ..] => {
            let (fits, len) = class(rest, byte);
            fits.then_some(len + 1)
        }
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// A class after its opening bracket: whether it fits, and how long it is. One that is not closed ends with
/// the pattern.
fn class(pattern: &[u8], byte: u8) -> (bool, usize) {
    let not = pattern.first() == Some(&b'^');
    let mut at = usize::from(not);
    let mut fits = false;
    loop {
        match pattern.get(at..).unwrap_or_default() {
            [b'\\', literal, ..] => {
                fits |= *literal == byte;
                at += 2;
            }
            [b']', ..] => return (fits != not, at + 1),
            [] => return (fits != not, at),
            [from, b'-', to, ..] => {
                fits |= (*from.min(to)..=*from.max(to)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                fits |= *literal == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_keys_matches() {
        for (pattern, yes, no) in [
            ("user:*", vec!["user:", "user:1", "user:1:name"], vec!["use", "xuser:1"]),
            ("*:name", vec!["a:name", ":name", "a:name:name"], vec!["a:names"]),
            ("h?llo", vec!["hello", "hxllo"], vec!["hllo", "heello"]),
            ("h[ae]llo", vec!["hello", "hallo"], vec!["hillo"]),
            ("h[^e]llo", vec!["hallo"], vec!["hello"]),
            ("h[a-c]llo", vec!["hbllo"], vec!["hdllo"]),
            ("h[c-a]llo", vec!["hbllo"], vec!["hdllo"]),
            (r"a\*", vec!["a*"], vec!["ab"]),
            (r"[\]]", vec!["]"], vec!["\\"]),
            ("[ab", vec!["a", "b"], vec!["c", ""]),
            ("a*b*c", vec!["abc", "aXbYc", "abbc"], vec!["acb", "ab"]),
            ("", vec![""], vec!["a"]),
            ("*", vec!["", "anything"], vec![]),
        ] {
            let glob = Glob::new(pattern);
            yes.iter().for_each(|key| assert!(glob.fits(key.as_bytes()), "{pattern} {key}"));
            no.iter().for_each(|key| assert!(!glob.fits(key.as_bytes()), "{pattern} {key}"));
        }
        // Exponential in a matcher that goes back to every star.
        assert!(!Glob::new("a*".repeat(40)).fits("a".repeat(39).as_bytes()));
    }

    #[test]
    fn literal_beginnings() {
        assert_eq!(Glob::new("user:*").literal(), (b"user:".to_vec(), false));
        assert_eq!(Glob::new(r"a\*b").literal(), (b"a*b".to_vec(), true));
        assert_eq!(Glob::new("[a]b").literal(), (vec![], false));
    }
}
