//! Bytes of a dump as they come: a window that slides over a reader, and the encodings that everything else
//! is built of.

use super::{Malformed, RdbError, lzf};
use std::io::Read;

/// Bytes read at a time.
const WINDOW: usize = 1 << 20;
/// Longest string that is decoded as a whole: a key, a field's name (`proto-max-bulk-len` is as much by default).
const MAX_STRING: u64 = 512 << 20;

/// A length, or the integer or compressed string that stands in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Len {
    /// This many bytes or elements.
    Plain(u64),
    /// An integer of this many bytes follows instead of a string.
    Integer(usize),
    /// A compressed string follows.
    Lzf,
}

/// Where the bytes come from: a window after the other.
pub trait Supply {
    /// Puts the next bytes in the place of those in `window`, which are done with; none at the end.
    ///
    /// # Errors
    /// They could not be read.
    fn supply(&mut self, window: &mut Vec<u8>) -> std::io::Result<()>;
}

impl<R: Read> Supply for R {
    fn supply(&mut self, window: &mut Vec<u8>) -> std::io::Result<()> {
        window.resize(WINDOW, 0);
        let read = loop {
            match self.read(window) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                done => break done,
            }
        };
        window.truncate(*read.as_ref().unwrap_or(&0));
        read.map(drop)
    }
}

/// The window.
pub(super) struct Input<R> {
    supply: R,
    window: Vec<u8>,
    start: usize,
    /// Of the byte at `start` in the dump.
    offset: u64,
    /// What begins in one window and ends in another, in one piece.
    across: Vec<u8>,
}

impl<R: Supply> Input<R> {
    pub(super) fn new(supply: R, offset: u64) -> Self {
        Self { supply, window: vec![], start: 0, offset, across: vec![] }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn malformed(&self, why: impl Into<String>) -> RdbError {
        Malformed { offset: self.offset, why: why.into() }.into()
    }

    /// Sees to it that something lies in the window; false if nothing is left.
    fn refill(&mut self) -> Result<bool, RdbError> {
        if self.start == self.window.len() {
            self.start = 0;
            self.supply.supply(&mut self.window)?;
        }
        Ok(!self.window.is_empty())
    }

    fn ends(&self, at: u64) -> RdbError {
        Malformed { offset: at, why: "the dump ends here, in the middle of something".into() }.into()
    }

    /// Whether nothing is left.
    pub(super) fn is_at_end(&mut self) -> Result<bool, RdbError> {
        self.refill().map(|more| !more)
    }

    /// What lies in the window: the next bytes, though not all of them.
    pub(super) fn at_hand(&self) -> &[u8] {
        &self.window[self.start..]
    }

    /// The next `len` bytes, consumed; `len` is small, or was checked.
    pub(super) fn take(&mut self, len: usize) -> Result<&[u8], RdbError> {
        let at = self.start;
        if self.window.len() - at < len {
            return self.take_across(len);
        }
        self.start += len;
        self.offset += len as u64;
        Ok(&self.window[at..at + len])
    }

    #[cold]
    fn take_across(&mut self, len: usize) -> Result<&[u8], RdbError> {
        self.across.clear();
        while self.across.len() < len {
            if !self.refill()? {
                return Err(self.ends(self.offset + self.across.len() as u64));
            }
            let here = &self.window[self.start..];
            let some = here.len().min(len - self.across.len());
            self.across.extend_from_slice(&here[..some]);
            self.start += some;
        }
        self.offset += len as u64;
        Ok(&self.across)
    }

    /// As many of the next `len` bytes as lie in the window, at least one, consumed.
    pub(super) fn take_some(&mut self, len: u64) -> Result<&[u8], RdbError> {
        if !self.refill()? {
            return Err(self.ends(self.offset));
        }
        let here = self.window.len() - self.start;
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(here);
        self.take(len)
    }

    pub(super) fn byte(&mut self) -> Result<u8, RdbError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// A length or what stands in its place, appended to `raw` as it is written.
    #[expect(clippy::big_endian_bytes, reason = "the RDB format writes long lengths big-endian")]
    pub(super) fn len_or_special(&mut self, raw: &mut Vec<u8>) -> Result<Len, RdbError> {
        let first = self.byte()?;
        raw.push(first);
        let mut more = |input: &mut Self, len: usize| -> Result<u64, RdbError> {
            let mut bytes = [0; 8];
            bytes[8 - len..].copy_from_slice(input.take(len)?);
            raw.extend_from_slice(&bytes[8 - len..]);
            Ok(u64::from_be_bytes(bytes))
        };
        Ok(match (first >> 6, first & 0x3f) {
            (0, low) => Len::Plain(u64::from(low)),
            (1, high) => Len::Plain(u64::from(high) << 8 | more(self, 1)?),
            (2, 0) => Len::Plain(more(self, 4)?),
            (2, 1) => Len::Plain(more(self, 8)?),
            (3, size @ 0..=2) => Len::Integer(1 << size),
            (3, 3) => Len::Lzf,
            _ => return Err(self.malformed(format!("no length begins with {first:#04x}"))),
        })
    }

    /// A plain length.
    pub(super) fn len(&mut self, raw: &mut Vec<u8>) -> Result<u64, RdbError> {
        match self.len_or_special(raw)? {
            Len::Plain(len) => Ok(len),
            _ => Err(self.malformed("a string where a length belongs")),
        }
    }

    /// A string that is needed as it is meant; its bytes as they are written are appended to `raw`.
    pub(super) fn string(&mut self, raw: &mut Vec<u8>) -> Result<Vec<u8>, RdbError> {
        let mut meant = vec![];
        self.string_into(raw, &mut meant)?;
        Ok(meant)
    }

    /// The same, put in the place of what is in `meant`.
    pub(super) fn string_into(&mut self, raw: &mut Vec<u8>, meant: &mut Vec<u8>) -> Result<(), RdbError> {
        meant.clear();
        match self.len_or_special(raw)? {
            Len::Plain(len) => {
                let len = self.bounded(len)?;
                let bytes = self.take(len)?;
                raw.extend_from_slice(bytes);
                meant.extend_from_slice(bytes);
            }
            Len::Integer(len) => {
                let bytes = self.take(len)?;
                raw.extend_from_slice(bytes);
                *meant = integer(bytes).to_string().into_bytes();
            }
            Len::Lzf => {
                let (packed, plain) = (self.len(raw)?, self.len(raw)?);
                let (packed, plain) = (self.bounded(packed)?, self.bounded(plain)?);
                let bytes = self.take(packed)?;
                raw.extend_from_slice(bytes);
                let plain = lzf::decompress(bytes, plain);
                *meant =
                    plain.ok_or_else(|| self.malformed("a compressed string that cannot be decompressed"))?;
            }
        }
        Ok(())
    }

    fn bounded(&self, len: u64) -> Result<usize, RdbError> {
        match usize::try_from(len) {
            Ok(short) if len <= MAX_STRING => Ok(short),
            _ => Err(self.malformed(format!("a name of {len} bytes"))),
        }
    }
}

/// A little-endian signed integer of 1, 2, 3, 4 or 8 bytes.
pub(super) fn integer(bytes: &[u8]) -> i64 {
    match *bytes {
        [a] => i64::from(a as i8),
        [a, b] => i64::from(i16::from_le_bytes([a, b])),
        [a, b, c] => i64::from(i32::from_le_bytes([0, a, b, c]) >> 8),
        [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => unreachable!("no integer has {} bytes", bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut raw = vec![];
        let mut input = Input::new(bytes, 0);
        let found = input.string(&mut raw).map_err(|error| error.to_string())?;
        assert_eq!(raw, bytes, "what is read is what is written");
        Ok(found)
    }

    #[test]
    fn strings_in_every_encoding() {
        assert_eq!(string(b"\x03abc").unwrap(), b"abc");
        assert_eq!(string(b"\xc0\xff").unwrap(), b"-1");
        assert_eq!(string(b"\xc1\x00\x80").unwrap(), b"-32768");
        assert_eq!(string(b"\xc2\x15\xcd\x5b\x07").unwrap(), b"123456789");
        assert_eq!(string(&[0xc3, 4, 9, 0, b'a', 6 << 5, 0]).unwrap(), b"aaaaaaaaa");
        for bad in
            [&b"\x03ab"[..], b"\xc4", b"\x82", b"\xc3\x01\x09\x00", b"\x81\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            string(bad).unwrap_err();
        }
    }
}
