//! Keys and shares as text, for files, QR codes and paper. One line,
//!
//! ```text
//! ESKER-KEY-1:<64 hex digits>:<8 hex digits>
//! ```
//!
//! or the same bytes as words: four for each four bytes, which have a checksum of 12 bits, so that a wrong word is found by
//! its group. Capital letters and spaces mean nothing, lines with `#` at their beginning are left out, as are numbers of
//! groups among words. No message has a part of a key in it.

use std::collections::HashMap;
use std::sync::OnceLock;
use zeroize::Zeroizing;

/// Begins a key.
pub(super) const KEY_LABEL: &str = "ESKER-KEY-1";
/// Begins a share.
pub(super) const SHARE_LABEL: &str = "ESKER-SHARE-1";
/// Bytes of a key.
const KEY_LEN: usize = 32;
/// Bytes of a split's id.
pub(super) const SPLIT_LEN: usize = 8;
/// Bytes of a share: threshold, count, number, reserved, split, value.
pub(super) const SHARE_LEN: usize = 4 + SPLIT_LEN + 32;
/// Bytes of the checksum of all.
const CHECK_LEN: usize = 4;
/// Bytes, and words, of a group.
const GROUP: usize = 4;
/// Longest text that can be one: words of eight letters, and generous remarks.
const MAX_TEXT_LEN: usize = 64 << 10;
/// The English words of BIP 39: 2048, no two of which begin with the same four letters.
const WORDS: &str = include_str!("../../../docs/words.txt");

/// Why a text is no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// Nothing is in it.
    #[error("it is empty")]
    Empty,
    /// It is something else.
    #[error(
        "it is neither a key nor a share of esker: one begins with ESKER-KEY-1 or ESKER-SHARE-1, or has the words of a \
         sheet"
    )]
    Other,
    /// A later version made it.
    #[error("it is of a later version of esker: this one reads ESKER-KEY-1 and ESKER-SHARE-1")]
    Later,
    /// It has too few or too many digits.
    #[error("{digits} hex digits are there in the place of {expected}: the text was {}", if .digits < .expected { "cut off" } else { "lengthened" })]
    Length {
        /// So many are there.
        digits: usize,
        /// So many belong there.
        expected: usize,
    },
    /// A character is no hex digit.
    #[error("character {place} behind the label is no hex digit: the text is damaged")]
    Digit {
        /// Counted from 1, without spaces and colons.
        place: usize,
    },
    /// The checksum of all differs.
    #[error("its checksum does not fit: the text is damaged")]
    Checksum,
    /// A word is none of the list.
    #[error(
        "word {place} of group {group} is none of the words that keys are written in: look at its spelling"
    )]
    Word {
        /// Counted from 1.
        group: usize,
        /// Counted from 1.
        place: usize,
    },
    /// The checksum of a group differs.
    #[error("a word of group {group} is wrong, or one is left out before its end")]
    Group {
        /// Counted from 1.
        group: usize,
    },
    /// There are too few or too many words.
    #[error(
        "there are {words} words: a key has {}, a share {}",
        word_count(KEY_LABEL),
        word_count(SHARE_LABEL)
    )]
    Words {
        /// So many are there.
        words: usize,
    },
    /// The numbers in a share make no sense.
    #[error("its numbers make no sense: it was not made by esker")]
    Numbers,
}

/// A key or a share as bytes, with their checksum.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyBytes {
    label: &'static str,
    /// Payload, then checksum.
    bytes: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyBytes({})", self.label)
    }
}

fn payload_len(label: &str) -> usize {
    if label == SHARE_LABEL { SHARE_LEN } else { KEY_LEN }
}

fn word_count(label: &str) -> usize {
    payload_len(label) + CHECK_LEN
}

fn checksum(label: &str, payload: &[u8]) -> [u8; CHECK_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(label.as_bytes()).update(payload);
    let mut check = [0; CHECK_LEN];
    hasher.finalize_xof().fill(&mut check);
    check
}

/// The 12 bits that go with a group, counted from 1.
fn group_check(label: &str, group: usize, bytes: &[u8]) -> u16 {
    let mut hasher = blake3::Hasher::new();
    let number = u8::try_from(group).unwrap_or(u8::MAX);
    hasher.update(label.as_bytes()).update(b" group ").update(&[number]).update(bytes);
    let mut check = [0; 2];
    hasher.finalize_xof().fill(&mut check);
    u16::from_le_bytes(check) & 0xfff
}

impl KeyBytes {
    pub(super) fn new(label: &'static str, payload: &[u8]) -> Self {
        // No second buffer with the secret is left behind by growing.
        let mut bytes = Zeroizing::new(Vec::with_capacity(payload.len() + CHECK_LEN));
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(&checksum(label, payload));
        Self { label, bytes }
    }

    /// One line: for files and QR codes, whose densest mode has all of its characters.
    #[must_use]
    pub fn line(&self) -> Zeroizing<String> {
        let mut line = Zeroizing::new(String::with_capacity(self.label.len() + 2 * self.bytes.len() + 2));
        line.push_str(self.label);
        line.push(':');
        let end = self.bytes.len() - CHECK_LEN;
        for (at, byte) in self.bytes.iter().enumerate() {
            if at == end {
                line.push(':');
            }
            for digit in [byte >> 4, byte & 15] {
                line.extend(char::from_digit(u32::from(digit), 16).map(|digit| digit.to_ascii_uppercase()));
            }
        }
        line
    }

    /// Groups of four words.
    #[must_use]
    pub fn words(&self) -> Vec<[&'static str; GROUP]> {
        let list: Vec<&'static str> = WORDS.lines().collect();
        let word = |bits: u64| list.get((bits & 0x7ff) as usize).copied().unwrap_or_default();
        let group = |(at, bytes): (usize, &[u8])| {
            let number = bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
            let bits = number << 12 | u64::from(group_check(self.label, at + 1, bytes));
            [word(bits >> 33), word(bits >> 22), word(bits >> 11), word(bits)]
        };
        self.bytes.chunks(GROUP).enumerate().map(group).collect()
    }

    /// The same, with a number before each group, a group on a line.
    #[must_use]
    pub fn numbered_words(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(16 * self.bytes.len()));
        for (at, group) in self.words().iter().enumerate() {
            text.push_str(&format!("{}.", at + 1));
            for word in group {
                text.push(' ');
                text.push_str(word);
            }
            text.push('\n');
        }
        text
    }
}

impl KeyBytes {
    /// Reads either form.
    ///
    /// # Errors
    ///
    /// It is damaged or something else, and where.
    pub(super) fn parse(text: &[u8]) -> Result<Self, KeyTextError> {
        if text.len() > MAX_TEXT_LEN {
            return Err(KeyTextError::Other);
        }
        let text = std::str::from_utf8(text).map_err(|_| KeyTextError::Other)?;
        // The byte order mark, with which some editors begin a text.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let mut letters = Zeroizing::new(String::with_capacity(text.len() + 1));
        for line in lines {
            letters.extend(line.chars().map(|letter| letter.to_ascii_lowercase()));
            letters.push(' ');
        }
        match letters.trim_start() {
            "" => Err(KeyTextError::Empty),
            line if line.starts_with("esker-") => Self::of_line(line),
            words => Self::of_words(words),
        }
    }

    fn of_line(line: &str) -> Result<Self, KeyTextError> {
        let (label, rest) = line.split_once(':').unwrap_or((line.trim_end(), ""));
        let labels = [KEY_LABEL, SHARE_LABEL];
        let Some(label) = labels.into_iter().find(|known| known.eq_ignore_ascii_case(label.trim_end()))
        else {
            let is_ours = ["esker-key", "esker-share"].iter().any(|begin| label.starts_with(begin));
            return Err(if is_ours { KeyTextError::Later } else { KeyTextError::Other });
        };
        let expected = 2 * (payload_len(label) + CHECK_LEN);
        let mut digits = Zeroizing::new(Vec::with_capacity(rest.len()));
        for letter in rest.chars().filter(|letter| !letter.is_whitespace() && *letter != ':') {
            let digit = letter.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            let digit = digit.ok_or(KeyTextError::Digit { place: digits.len() + 1 })?;
            digits.push(digit);
        }
        if digits.len() != expected {
            return Err(KeyTextError::Length { digits: digits.len(), expected });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(expected / 2));
        bytes.extend(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)));
        Self::of_bytes(label, &bytes)
    }

    fn of_words(text: &str) -> Result<Self, KeyTextError> {
        let is_number = |token: &&str| {
            let digits = token.trim_end_matches(['.', ':', ')']);
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        let words: Vec<&str> = text
            .split(|letter: char| letter.is_whitespace() || matches!(letter, ',' | ';'))
            .filter(|token| !token.is_empty() && !is_number(token))
            .collect();
        let known = words.iter().map(|word| number_of(word));
        let mut numbers = Zeroizing::new(Vec::with_capacity(words.len()));
        numbers.extend(known);
        // A text with hardly a word of ours is none.
        if numbers.iter().flatten().count() * 2 < numbers.len() {
            return Err(KeyTextError::Other);
        }
        if let Some(at) = numbers.iter().position(Option::is_none) {
            return Err(KeyTextError::Word { group: at / GROUP + 1, place: at % GROUP + 1 });
        }
        let labels = [KEY_LABEL, SHARE_LABEL];
        let read = labels.map(|label| (label, grouped(label, &numbers)));
        // Which of the two it is, its groups say, and its length where they do not.
        let is_long = words.len() > word_count(KEY_LABEL);
        let fits = |groups: &[Option<[u8; GROUP]>]| groups.iter().flatten().count();
        let [(_, key), (_, share)] = &read;
        let is_share = match fits(share).cmp(&fits(key)) {
            std::cmp::Ordering::Equal => is_long,
            order => order.is_gt(),
        };
        let [key, share] = read;
        let (label, groups) = if is_share { share } else { key };
        if let Some(at) = groups.iter().position(Option::is_none) {
            return Err(KeyTextError::Group { group: at + 1 });
        }
        if words.len() != word_count(label) {
            return Err(KeyTextError::Words { words: words.len() });
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(words.len()));
        groups.iter().flatten().for_each(|group| bytes.extend_from_slice(group));
        Self::of_bytes(label, &bytes)
    }

    fn of_bytes(label: &'static str, bytes: &[u8]) -> Result<Self, KeyTextError> {
        let (payload, check) = bytes.split_last_chunk::<CHECK_LEN>().ok_or(KeyTextError::Other)?;
        if checksum(label, payload) != *check {
            return Err(KeyTextError::Checksum);
        }
        Ok(Self::new(label, payload))
    }

    /// Whose text it is, and what is in it.
    pub(super) fn parts(&self) -> (&'static str, &[u8]) {
        let end = self.bytes.len().saturating_sub(CHECK_LEN);
        (self.label, self.bytes.get(..end).unwrap_or_default())
    }
}

/// The place of a word in the list.
fn number_of(word: &str) -> Option<u16> {
    static NUMBERS: OnceLock<HashMap<&'static str, u16>> = OnceLock::new();
    NUMBERS.get_or_init(|| WORDS.lines().zip(0..).collect()).get(word).copied()
}

/// The bytes of each whole group; none for one whose checksum differs.
fn grouped(label: &str, numbers: &[Option<u16>]) -> Zeroizing<Vec<Option<[u8; GROUP]>>> {
    let mut groups = Zeroizing::new(Vec::with_capacity(numbers.len() / GROUP));
    for (at, words) in numbers.chunks_exact(GROUP).enumerate() {
        let bits = words.iter().flatten().fold(0u64, |bits, word| bits << 11 | u64::from(*word));
        let bytes = [36, 28, 20, 12].map(|shift| (bits >> shift & 0xff) as u8);
        let fits = u64::from(group_check(label, at + 1, &bytes)) == bits & 0xfff;
        groups.push(fits.then_some(bytes));
    }
    groups
}
