//! Dumps of hands and versions of Redis that no server here has: made byte by byte.

use connector_redis::rdb::{crc64, push_len};

/// A dump that is put together.
#[derive(Clone)]
pub(crate) struct DumpBytes(Vec<u8>);

/// A string as a dump writes it.
pub(crate) fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    push_len(&mut out, bytes.len() as u64);
    out.extend_from_slice(bytes);
    out
}

/// A listpack of short strings.
pub(crate) fn listpack(items: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![0; 6];
    for item in items {
        assert!(item.len() < 64);
        out.push(0x80 | item.len() as u8);
        out.extend_from_slice(item);
        out.push(item.len() as u8 + 1);
    }
    finish_listpack(out, items.len())
}

/// A listpack of numbers of 64 bits and short strings: what a node of a stream has.
pub(crate) fn numbers(items: &[Result<i64, &[u8]>]) -> Vec<u8> {
    let mut out = vec![0; 6];
    for item in items {
        match item {
            Ok(number) => {
                out.push(0xf4);
                out.extend_from_slice(&number.to_le_bytes());
                out.push(9);
            }
            Err(text) => {
                out.push(0x80 | text.len() as u8);
                out.extend_from_slice(text);
                out.push(text.len() as u8 + 1);
            }
        }
    }
    finish_listpack(out, items.len())
}

fn finish_listpack(mut out: Vec<u8>, count: usize) -> Vec<u8> {
    out.push(0xff);
    let len = out.len() as u32;
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[4..6].copy_from_slice(&(count as u16).to_le_bytes());
    out
}

/// A ziplist of short strings.
pub(crate) fn ziplist(items: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![0; 10];
    let (mut before, mut last) = (0, 10);
    for item in items {
        last = out.len();
        out.push(before);
        out.push(item.len() as u8);
        out.extend_from_slice(item);
        before = (out.len() - last) as u8;
    }
    out.push(0xff);
    let len = out.len() as u32;
    out[..4].copy_from_slice(&len.to_le_bytes());
    out[4..8].copy_from_slice(&(last as u32).to_le_bytes());
    out[8..10].copy_from_slice(&(items.len() as u16).to_le_bytes());
    out
}

/// An intset of numbers of 16 bits.
pub(crate) fn intset(numbers: &[i16]) -> Vec<u8> {
    let mut out = 2u32.to_le_bytes().to_vec();
    out.extend_from_slice(&(numbers.len() as u32).to_le_bytes());
    numbers.iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    out
}

impl DumpBytes {
    /// The head of a dump, in database 0.
    pub(crate) fn new(magic: &str) -> Self {
        let mut bytes = magic.as_bytes().to_vec();
        bytes.extend_from_slice(&[0xfe, 0]);
        Self(bytes)
    }

    /// Bytes as they are.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A key.
    pub(crate) fn key(self, kind: u8, name: &[u8], value: &[u8]) -> Self {
        self.raw(&[&[kind][..], &string(name), value].concat())
    }

    /// With its end, and a checksum if the version has one.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.push(0xff);
        let old = self.0.starts_with(b"REDIS000") && self.0[8] < b'5';
        if !old {
            let mut digest = crc64();
            digest.update(&self.0);
            self.0.extend_from_slice(&digest.finalize().to_le_bytes());
        }
        self.0
    }
}
