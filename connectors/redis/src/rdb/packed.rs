//! Small collections that a server keeps in one string: taken apart, and refused unless they hold together in every
//! byte, as a server requires that is told to sanitize what it loads (`sanitize-dump-payload yes`). Sources:
//! `ziplist.c`, `listpack.c`, `intset.c`, `zipmap.c` (the formats have no other document).

use super::input::integer;
use std::borrow::Cow;

/// An element of a packed collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Element<'a> {
    /// One that is written as a number.
    Number(i64),
    /// Any other.
    Bytes(&'a [u8]),
}

impl<'a> Element<'a> {
    /// What a client sees.
    pub(super) fn text(&self) -> Cow<'a, [u8]> {
        match self {
            Self::Number(number) => number.to_string().into_bytes().into(),
            Self::Bytes(bytes) => Cow::Borrowed(bytes),
        }
    }

    /// The number that it is.
    pub(super) fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            // Most are words: no number begins or ends like these.
            Self::Bytes([first, .., last]) if !last.is_ascii_digit() || !is_start(*first) => None,
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
        }
    }

    /// The same for every way to write it, so that equal elements are found.
    pub(super) fn normal(self) -> Self {
        match (self, self.number()) {
            (Self::Bytes(bytes), Some(number)) if number.to_string().as_bytes() == bytes => {
                Self::Number(number)
            }
            _ => self,
        }
    }
}

/// Whether a number may begin so.
fn is_start(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'-' | b'+')
}

/// How a collection is packed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Ziplist,
    Listpack,
    Intset,
    Zipmap,
}

impl Form {
    /// Takes a packed collection apart and hands over its elements, of which none counts if it does not hold together; how many
    /// they are, or `None`.
    #[inline]
    pub(super) fn visit<'a>(self, bytes: &'a [u8], each: impl FnMut(Element<'a>)) -> Option<usize> {
        match self {
            Self::Ziplist => ziplist(bytes, each),
            Self::Listpack => listpack(bytes, each),
            Self::Intset => intset(bytes, each),
            Self::Zipmap => zipmap(bytes, each),
        }
    }

    /// All elements.
    pub(super) fn elements(self, bytes: &[u8]) -> Option<Vec<Element<'_>>> {
        let mut all = vec![];
        self.visit(bytes, |element| all.push(element)).map(|_| all)
    }
}

/// A little-endian unsigned integer of at most 4 bytes.
fn unsigned(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |all, byte| all << 8 | usize::from(*byte))
}

/// `len` bytes from `at` on.
fn range(bytes: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    bytes.get(at..at.checked_add(len)?)
}

/// Integers of one width, ascending, at least one.
fn intset<'a>(bytes: &'a [u8], mut each: impl FnMut(Element<'a>)) -> Option<usize> {
    let width = unsigned(bytes.get(..4)?);
    let count = unsigned(bytes.get(4..8)?);
    let numbers = bytes.get(8..)?;
    if !matches!(width, 2 | 4 | 8) || count == 0 || numbers.len() != count.checked_mul(width)? {
        return None;
    }
    let mut last = None;
    for number in numbers.chunks(width).map(integer) {
        if last.is_some_and(|last| last >= number) {
            return None;
        }
        each(Element::Number(number));
        last = Some(number);
    }
    Some(count)
}

/// A count of 16 bits that says nothing once it is full.
fn is_count(written: usize, count: usize) -> bool {
    written == 0xffff || written == count
}

/// Entries between a header of ten bytes (its length, where the last entry is, how many there are) and 0xff, each
/// after the length of the one before it.
#[expect(clippy::big_endian_bytes, reason = "ziplists write long lengths big-endian")]
fn ziplist<'a>(bytes: &'a [u8], mut each: impl FnMut(Element<'a>)) -> Option<usize> {
    let (mut at, mut last, mut before, mut count) = (10, 10, 0, 0);
    if unsigned(bytes.get(..4)?) != bytes.len() {
        return None;
    }
    loop {
        let start = at;
        let previous = match *bytes.get(at)? {
            255 => {
                let whole = at + 1 == bytes.len()
                    && unsigned(range(bytes, 4, 4)?) == last
                    && is_count(unsigned(range(bytes, 8, 2)?), count);
                return whole.then_some(count);
            }
            254 => {
                at += 5;
                unsigned(range(bytes, start + 1, 4)?)
            }
            len => {
                at += 1;
                usize::from(len)
            }
        };
        if previous != before {
            return None;
        }
        let head = *bytes.get(at)?;
        let text =
            |skip: usize, len: usize| Some((Element::Bytes(range(bytes, at + skip, len)?), skip + len));
        let number = |len: usize| Some((Element::Number(integer(range(bytes, at + 1, len)?)), 1 + len));
        let (entry, len) = match head {
            0x00..=0x3f => text(1, usize::from(head)),
            0x40..=0x7f => text(2, usize::from(head & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?)),
            0x80..=0xbf => text(5, u32::from_be_bytes(range(bytes, at + 1, 4)?.try_into().ok()?) as usize),
            0xc0 => number(2),
            0xd0 => number(4),
            0xe0 => number(8),
            0xf0 => number(3),
            0xfe => number(1),
            0xf1..=0xfd => Some((Element::Number(i64::from(head & 0x0f) - 1), 1)),
            _ => None,
        }?;
        each(entry);
        count += 1;
        at += len;
        (last, before) = (start, at - start);
    }
}

/// Entries between a header of six bytes (its length, how many there are) and 0xff, each before its own length.
fn listpack<'a>(bytes: &'a [u8], mut each: impl FnMut(Element<'a>)) -> Option<usize> {
    let (mut at, mut count) = (6, 0);
    if unsigned(bytes.get(..4)?) != bytes.len() {
        return None;
    }
    loop {
        let head = *bytes.get(at)?;
        let text =
            |skip: usize, len: usize| Some((Element::Bytes(range(bytes, at + skip, len)?), skip + len));
        let (entry, len) = match head {
            0xff => {
                let whole = at + 1 == bytes.len() && is_count(unsigned(range(bytes, 4, 2)?), count);
                return whole.then_some(count);
            }
            0x00..=0x7f => Some((Element::Number(i64::from(head)), 1)),
            0x80..=0xbf => text(1, usize::from(head & 0x3f)),
            0xc0..=0xdf => {
                let high = u16::from(head & 0x1f) << 8 | u16::from(*bytes.get(at + 1)?);
                // 13 bits with a sign.
                Some((Element::Number(i64::from((high << 3) as i16 >> 3)), 2))
            }
            0xe0..=0xef => text(2, usize::from(head & 0x0f) << 8 | usize::from(*bytes.get(at + 1)?)),
            0xf0 => text(5, unsigned(range(bytes, at + 1, 4)?)),
            0xf1..=0xf4 => {
                let width = [2, 3, 4, 8][usize::from(head - 0xf1)];
                Some((Element::Number(integer(range(bytes, at + 1, width)?)), 1 + width))
            }
            _ => None,
        }?;
        each(entry);
        count += 1;
        at += len;
        at += back_width(bytes.get(at..)?, len)?;
    }
}

/// Bytes that a listpack spends on the length of an entry, at its end: seven bits a byte, the highest first, all but the
/// first byte with the high bit. `None` if they do not say `len`. Redis takes a byte more than it needs at 16,383 bytes and at
/// the next steps (`lpEncodeBacklen`), Valkey 9 does not; both read what the other writes.
#[inline]
fn back_width(bytes: &[u8], len: usize) -> Option<usize> {
    // Nearly all are short.
    if let (Some(back), 0..0x7f) = (bytes.first(), len) {
        return (usize::from(*back) == len).then_some(1);
    }
    let needed = (1..5).find(|width| len < 1 << (7 * width)).unwrap_or(5);
    let is_step = needed > 1 && len + 1 == 1 << (7 * needed);
    (needed..=needed + usize::from(is_step)).find(|width| {
        let Some(back) = bytes.get(..*width) else { return false };
        let marked = back.iter().enumerate().all(|(place, byte)| (byte & 0x80 != 0) == (place > 0));
        marked && back.iter().fold(0, |all, byte| all << 7 | usize::from(byte & 0x7f)) == len
    })
}

/// Names and values of hashes before Redis 2.6: a count, then each after its length, values with unused bytes behind.
fn zipmap<'a>(bytes: &'a [u8], mut each: impl FnMut(Element<'a>)) -> Option<usize> {
    let (mut at, mut count) = (1, 0);
    loop {
        let mut len = usize::from(*bytes.get(at)?);
        at += 1;
        match len {
            255 => {
                let pairs = usize::from(*bytes.first()?);
                let whole = at == bytes.len() && count % 2 == 0 && (pairs >= 254 || pairs * 2 == count);
                return whole.then_some(count);
            }
            254 => {
                len = unsigned(range(bytes, at, 4)?);
                at += 4;
            }
            _ => {}
        }
        // Values, every other one, have a count of unused bytes behind them.
        let is_value = count % 2 == 1;
        let free = if is_value { usize::from(*bytes.get(at)?) } else { 0 };
        at += usize::from(is_value);
        each(Element::Bytes(range(bytes, at, len)?));
        count += 1;
        at += len + free;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_packed_value_counts() {
        let samples: [(&str, Form, &[u8]); 4] = [
            (
                "listpack",
                Form::Listpack,
                b"\x14\0\0\0\x04\0\x05\x01\x82ab\x03\xdf\xff\x02\xf1\x10\x27\x03\xff",
            ),
            (
                "ziplist",
                Form::Ziplist,
                b"\x15\0\0\0\x0f\0\0\0\x03\0\x00\x01a\x03\xf3\x02\xf0\xff\xff\xff\xff",
            ),
            ("intset", Form::Intset, b"\x02\0\0\0\x02\0\0\0\xff\xff\x07\x00"),
            ("zipmap", Form::Zipmap, b"\x01\x01k\x02\x01vv.\xff"),
        ];
        for (name, form, bytes) in samples {
            let whole = form.elements(bytes);
            assert!(whole.is_some(), "{name}");
            for len in 0..bytes.len() {
                assert_eq!(form.elements(&bytes[..len]), None, "{name} cut at {len}");
            }
            for longer in [&[0][..], &[0xff], bytes] {
                assert_eq!(form.elements(&[bytes, longer].concat()), None, "{name} and {longer:?}");
            }
        }
        // A count, a length of the one before and the length again, each one off.
        for (at, form, bytes) in [
            (4, samples[0].1, samples[0].2),
            (11, samples[0].1, samples[0].2),
            (8, Form::Ziplist, samples[1].2),
        ] {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1;
            assert_eq!(form.elements(&bad), None, "byte {at}");
        }
        for bad in
            [&b"\x02\0\0\0\0\0\0\0"[..], b"\x02\0\0\0\x02\0\0\0\x07\0\x07\0", b"\x03\0\0\0\x01\0\0\0\0\0\0"]
        {
            assert_eq!(Form::Intset.elements(bad), None);
        }
    }

    #[test]
    fn lengths_at_the_steps_of_a_listpack() {
        for len in [126, 127, 128, 4_095, 16_376, 16_377, 16_378, 16_379, 2_097_145, 2_097_146, 2_097_147] {
            let mut bytes = vec![0; 6];
            match len {
                0..4_096 => bytes.extend_from_slice(&[0xe0 | (len >> 8) as u8, len as u8]),
                _ => {
                    bytes.push(0xf0);
                    bytes.extend_from_slice(&(len as u32).to_le_bytes());
                }
            }
            let whole = len + bytes.len() - 6;
            bytes.resize(bytes.len() + len, b'x');
            // As lpEncodeBacklen writes it in Redis, and in Valkey 9.
            for steps in [[127, 16_382, 2_097_150, 268_435_454], [127, 16_383, 2_097_151, 268_435_455]] {
                let mut bytes = bytes.clone();
                let width = steps.iter().position(|most| whole <= *most).map_or(5, |place| place + 1);
                for place in (0..width).rev() {
                    let high = if place == width - 1 { 0 } else { 0x80 };
                    bytes.push((whole >> (7 * place)) as u8 & 0x7f | high);
                }
                bytes.push(0xff);
                let total = u32::try_from(bytes.len()).unwrap();
                bytes[..4].copy_from_slice(&total.to_le_bytes());
                bytes[4] = 1;
                assert_eq!(Form::Listpack.visit(&bytes, |_| ()), Some(1), "{len}");
            }
        }
    }
}
