//! The records of snapshots, and other bodies, as they lie beside a leaf: one compressed text. It is read from front to
//! back, so that one body is in memory, not all of them.

use crate::format::MAX_LEAF_LEN;
use bytes::Bytes;
use std::io::{BufRead as _, BufReader, Cursor, Error, ErrorKind, Read as _, Result};
use zstd::stream::read::Decoder;

/// Decompressed at a time.
const BUFFER: usize = 64 << 10;

/// The bodies of one object, in the order of their items.
pub(super) struct Texts {
    plain: BufReader<Decoder<'static, Cursor<Bytes>>>,
    /// Bytes that are left.
    left: u64,
}

impl Texts {
    /// Those of an object's plaintext: how many bytes they have, then their zstd frame.
    pub(super) fn open(object: &Bytes) -> Result<Self> {
        let (len, _) = object.split_first_chunk::<4>().ok_or_else(|| malformed("truncated"))?;
        let left = u64::from(u32::from_le_bytes(*len));
        if left > MAX_LEAF_LEN {
            return Err(malformed("length over its limit"));
        }
        let frame = Decoder::with_buffer(Cursor::new(object.slice(4..)))?;
        Ok(Self { plain: BufReader::with_capacity(BUFFER, frame), left })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.left = self.left.checked_sub(N as u64).ok_or_else(|| malformed("truncated"))?;
        let mut bytes = [0; N];
        self.plain.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The next body, which may be none; `None` after the last.
    fn read_next(&mut self) -> Result<Option<Option<Bytes>>> {
        if self.left == 0 {
            return match self.plain.fill_buf()?.is_empty() {
                true => Ok(None),
                false => Err(malformed("longer than it says")),
            };
        }
        let [is_there] = self.take()?;
        let len = u32::from_le_bytes(self.take()?);
        self.left = self.left.checked_sub(u64::from(len)).ok_or_else(|| malformed("truncated"))?;
        let mut text = vec![0; len as usize];
        self.plain.read_exact(&mut text)?;
        Ok(Some((is_there != 0).then(|| Bytes::from(text))))
    }
}

impl Iterator for Texts {
    type Item = Result<Option<Bytes>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_next().transpose()
    }
}

fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("bodies of a leaf: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(len: u32, plain: &[u8]) -> Bytes {
        [&len.to_le_bytes()[..], &zstd::bulk::compress(plain, 3).unwrap()].concat().into()
    }

    fn read(object: &Bytes) -> Result<Vec<Option<Bytes>>> {
        Texts::open(object)?.collect()
    }

    #[test]
    fn what_is_malformed_is_an_error() {
        let plain = b"\x01\x02\0\0\0ab\0\0\0\0\0\x01\0\0\0\0";
        let len = u32::try_from(plain.len()).unwrap();
        let whole = [Some(Bytes::from("ab")), None, Some(Bytes::new())];
        assert_eq!(read(&object(len, plain)).unwrap(), whole);
        assert_eq!(read(&object(0, b"")).unwrap(), []);
        // Whatever is cut or added, of the frame and of what is in it.
        for cut in 1..plain.len() {
            assert!(read(&object(len, &plain[..cut])).is_err(), "{cut} bytes, and more are named");
            assert!(read(&object(u32::try_from(cut).unwrap(), plain)).is_err(), "{cut} bytes are named");
        }
        for cut in 0..object(len, plain).len() {
            assert!(read(&object(len, plain).slice(..cut)).is_err(), "{cut} bytes of the object");
        }
        assert!(read(&object(7, b"\x01\xff\xff\xff\xffab")).is_err());
        assert!(Texts::open(&object(u32::MAX, plain)).is_err());
    }
}
