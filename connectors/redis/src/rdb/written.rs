//! A value in memory as a dump writes it: lengths and strings, without copies where none are needed.

use super::flaw::Flaw;
use super::input::integer;
use super::lzf;
use std::borrow::Cow;

/// The bytes of a value, and how far they are read.
#[derive(Clone, Copy)]
pub(super) struct Written<'a> {
    bytes: &'a [u8],
}

/// A string, or what stands in its place.
enum Text<'a> {
    Plain(&'a [u8]),
    Integer(&'a [u8]),
    Lzf(&'a [u8], usize),
}

const CUT_OFF: Flaw = Flaw::Corrupt("it ends in the middle of something");
const BAD_LZF: Flaw = Flaw::Corrupt("a compressed string cannot be decompressed");
const BAD_LEN: Flaw = Flaw::Corrupt("a length that is none");

impl<'a> Written<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.bytes.is_empty()
    }

    /// How much is left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn skip_all(&mut self) {
        self.bytes = &[];
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Flaw> {
        let (taken, rest) = self.bytes.split_at_checked(len).ok_or(CUT_OFF)?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Flaw> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(CUT_OFF)?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// A length, or `Err` of the low six bits of what stands in its place.
    #[expect(clippy::big_endian_bytes, reason = "the RDB format writes long lengths big-endian")]
    fn len_or_special(&mut self) -> Result<Result<u64, u8>, Flaw> {
        let [first] = self.array()?;
        let low = first & 0x3f;
        Ok(match (first >> 6, low) {
            (0, _) => Ok(u64::from(low)),
            (1, _) => Ok(u64::from(low) << 8 | u64::from(self.array::<1>()?[0])),
            (2, 0) => Ok(u64::from(u32::from_be_bytes(self.array()?))),
            (2, 1) => Ok(u64::from_be_bytes(self.array()?)),
            (3, 0..=3) => Err(low),
            _ => return Err(BAD_LEN),
        })
    }

    /// A length.
    pub(super) fn len(&mut self) -> Result<u64, Flaw> {
        self.len_or_special()?.map_err(|_| BAD_LEN)
    }

    fn text(&mut self) -> Result<Text<'a>, Flaw> {
        let size = |len: u64| usize::try_from(len).map_err(|_| CUT_OFF);
        Ok(match self.len_or_special()? {
            Ok(len) => Text::Plain(self.take(size(len)?)?),
            Err(3) => {
                let (packed, plain) = (size(self.len()?)?, size(self.len()?)?);
                Text::Lzf(self.take(packed)?, plain)
            }
            Err(size) => Text::Integer(self.take(1 << size)?),
        })
    }

    /// A string as it is meant.
    pub(super) fn string(&mut self) -> Result<Cow<'a, [u8]>, Flaw> {
        Ok(match self.text()? {
            Text::Plain(bytes) => Cow::Borrowed(bytes),
            Text::Integer(bytes) => integer(bytes).to_string().into_bytes().into(),
            Text::Lzf(packed, plain) => lzf::decompress(packed, plain).ok_or(BAD_LZF)?.into(),
        })
    }

    /// A string that nobody wants, but that must be one.
    pub(super) fn skip_string(&mut self) -> Result<(), Flaw> {
        match self.text()? {
            Text::Lzf(packed, plain) if !lzf::is_valid(packed, plain) => Err(BAD_LZF),
            _ => Ok(()),
        }
    }

    /// A score as sorted sets before Redis 4 had it.
    pub(super) fn text_score(&mut self) -> Result<f64, Flaw> {
        let bad = Flaw::Corrupt("a score is not a number");
        match self.array()? {
            [253] => Ok(f64::NAN),
            [254] => Ok(f64::INFINITY),
            [255] => Ok(f64::NEG_INFINITY),
            [len] => {
                let text = std::str::from_utf8(self.take(usize::from(len))?).map_err(|_| bad)?;
                text.trim().parse().map_err(|_| bad)
            }
        }
    }

    /// A count, and so many elements; the count.
    pub(super) fn each(
        &mut self,
        mut element: impl FnMut(&mut Self, u64) -> Result<(), Flaw>,
    ) -> Result<usize, Flaw> {
        let count = self.len()?;
        for number in 0..count {
            element(self, number)?;
        }
        usize::try_from(count).map_err(|_| CUT_OFF)
    }
}
