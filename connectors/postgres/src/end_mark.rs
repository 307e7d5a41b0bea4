//! The end marks of pg_dump's formats. Plain: a closing comment (`plain.rs`). Custom: every entry of the table of
//! contents that has data is followed by a terminated block of it.
//! Source: PostgreSQL's `pg_backup_custom.c` (`BLK_DATA`, `BLK_BLOBS`).

use crate::toc::{Cursor, MAX_TOC, Stop, Toc};
use engine::source::end_mark::EndMark;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

mod plain;
pub use plain::PlainEndMark;

/// Where the parts of a dump in custom format are, in bytes: what pg_dump leaves out of a dump that it cannot seek in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockIndex {
    /// End of the table of contents.
    pub head: u64,
    /// Data of its entries: the entry's number, beginning and end.
    pub blocks: Vec<(i64, u64, u64)>,
}

/// The end of a dump in custom format.
#[derive(Default)]
pub struct CustomEndMark {
    /// Bytes not consumed yet.
    buffer: Vec<u8>,
    state: State,
    /// When to try the table of contents again.
    retry_at: usize,
    expected: BTreeSet<i64>,
    int_len: usize,
    error: Option<String>,
    /// How far it has come, and where the block began.
    at: u64,
    began: u64,
    index: BlockIndex,
    told: Option<Rc<RefCell<BlockIndex>>>,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum State {
    #[default]
    Toc,
    /// Before a block, or at the end.
    Block,
    /// Inside a block: before the length of the next piece. `blobs`: pieces belong to a large object.
    Length { id: i64, blobs: bool },
    /// Inside a piece.
    Skip { left: usize, id: i64, blobs: bool },
    /// Before the number of the next large object.
    Blob { id: i64 },
}

const BLK_DATA: u8 = 1;
const BLK_BLOBS: u8 = 3;

impl CustomEndMark {
    /// One that tells where everything is, once it has seen the end.
    #[must_use]
    pub fn telling(told: Rc<RefCell<BlockIndex>>) -> Self {
        Self { told: Some(told), ..Self::default() }
    }
}

impl State {
    /// One step over what follows: the next state, and how many bytes it took.
    fn step(self, bytes: &[u8], int_len: usize) -> Result<(Self, usize), Stop> {
        let mut cursor = Cursor { bytes, at: 0, int_len };
        let next = match self {
            Self::Toc => return Err(Stop::More),
            Self::Block => {
                let kind = cursor.byte()?;
                let id = cursor.int()?;
                match kind {
                    BLK_DATA => Self::Length { id, blobs: false },
                    BLK_BLOBS => Self::Blob { id },
                    _ => return Err(Stop::Bad("unknown kind of data block")),
                }
            }
            Self::Blob { id } => match cursor.int()? {
                0 => Self::Block,
                _ => Self::Length { id, blobs: true },
            },
            Self::Length { id, blobs } => match usize::try_from(cursor.int()?) {
                Ok(0) if blobs => Self::Blob { id },
                Ok(0) => Self::Block,
                Ok(left) => Self::Skip { left, id, blobs },
                Err(_) => return Err(Stop::Bad("negative length")),
            },
            Self::Skip { left, id, blobs } => {
                let len = left.min(bytes.len());
                if len == 0 {
                    return Err(Stop::More);
                }
                cursor.at = len;
                match left - len {
                    0 => Self::Length { id, blobs },
                    left => Self::Skip { left, id, blobs },
                }
            }
        };
        Ok((next, cursor.at))
    }
}

/// Data of tables, taken out of the blocks that they stand in behind the table of contents of an uncompressed dump in custom
/// format.
pub(crate) struct Unpacked {
    buffer: Vec<u8>,
    state: State,
    int_len: usize,
}

impl Unpacked {
    pub(crate) fn new(int_len: usize) -> Self {
        Self { buffer: vec![], state: State::Block, int_len }
    }

    /// Whether what came ends where a block does.
    pub(crate) fn is_whole(&self) -> bool {
        self.state == State::Block && self.buffer.is_empty()
    }

    /// Calls `each` with the number of an entry and a piece of its data, for whatever the next bytes of the dump have.
    ///
    /// # Errors
    /// Of `each`, and for what is no block.
    pub(crate) fn see(
        &mut self,
        bytes: &[u8],
        each: &mut dyn FnMut(i64, &[u8]) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.extend_from_slice(bytes);
        let mut rest = buffer.as_slice();
        loop {
            match self.state.step(rest, self.int_len) {
                Ok((next, len)) => {
                    let (piece, behind) = rest.split_at(len);
                    if let State::Skip { id, blobs: false, .. } = self.state {
                        each(id, piece)?;
                    }
                    (self.state, rest) = (next, behind);
                }
                Err(Stop::More) => break,
                Err(Stop::Bad(why)) => return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why)),
            }
        }
        self.buffer = rest.to_vec();
        Ok(())
    }
}

/// Hands on what is written to it, unpacked.
pub struct Rows<'a> {
    unpacked: Unpacked,
    each: &'a mut dyn FnMut(i64, &[u8]) -> std::io::Result<()>,
}

impl<'a> Rows<'a> {
    /// `each` is called with an entry's number and a piece of its rows.
    pub fn new(toc: &Toc, each: &'a mut dyn FnMut(i64, &[u8]) -> std::io::Result<()>) -> Self {
        Self { unpacked: Unpacked::new(toc.int_len), each }
    }

    /// Whether what came ends where a block does.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.unpacked.is_whole()
    }
}

impl std::io::Write for Rows<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.unpacked.see(bytes, self.each)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl EndMark for CustomEndMark {
    fn see(&mut self, bytes: &[u8]) {
        if self.error.is_some() {
            return;
        }
        self.buffer.extend_from_slice(bytes);
        if self.state == State::Toc {
            if self.buffer.len() < self.retry_at {
                return;
            }
            match Toc::parse(&self.buffer) {
                Ok((toc, used)) => {
                    self.buffer.drain(..used);
                    (self.at, self.index.head) = (used as u64, used as u64);
                    (self.int_len, self.expected, self.state) = (toc.int_len, toc.with_data(), State::Block);
                }
                // Twice as much before the next try keeps the whole linear.
                Err(Stop::More) if self.buffer.len() < MAX_TOC => {
                    self.retry_at = 2 * self.buffer.len();
                    return;
                }
                Err(Stop::More) => return self.error = Some("table of contents over 512 MiB".into()),
                Err(Stop::Bad(why)) => return self.error = Some(why.into()),
            }
        }
        let buffer = std::mem::take(&mut self.buffer);
        let mut used = 0;
        loop {
            let before = self.state;
            match self.state.step(&buffer[used..], self.int_len) {
                Ok((next, len)) => {
                    self.state = next;
                    used += len;
                    self.at += len as u64;
                    match (before, self.state) {
                        (State::Block, _) => self.began = self.at - len as u64,
                        (State::Length { id, .. } | State::Blob { id }, State::Block) => {
                            self.expected.remove(&id);
                            self.index.blocks.push((id, self.began, self.at));
                        }
                        _ => {}
                    }
                }
                Err(Stop::More) => break,
                Err(Stop::Bad(why)) => return self.error = Some(why.into()),
            }
        }
        self.buffer = buffer[used..].to_vec();
    }

    fn finish(&mut self) -> Result<(), String> {
        // The last try at the table of contents may have been put off.
        self.retry_at = 0;
        self.see(&[]);
        if let Some(error) = &self.error {
            return Err(format!("not a whole custom dump: {error}"));
        }
        if self.state != State::Block || !self.buffer.is_empty() {
            return Err("the dump ends inside a data block: it is not whole".into());
        }
        match self.expected.len() {
            0 => {
                if let Some(told) = &self.told {
                    *told.borrow_mut() = std::mem::take(&mut self.index);
                }
                Ok(())
            }
            missing => Err(format!("the dump lacks the data of {missing} entries of its table of contents")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// A custom dump with one table of 10 bytes and one large object.
    fn custom() -> Vec<u8> {
        fn int(out: &mut Vec<u8>, value: i32) {
            out.push(u8::from(value < 0));
            out.extend_from_slice(&value.unsigned_abs().to_le_bytes());
        }
        let mut out = crate::toc::tests::sample();
        out.push(BLK_DATA);
        int(&mut out, 2);
        int(&mut out, 10);
        out.extend_from_slice(b"0123456789");
        int(&mut out, 0);
        out.push(BLK_BLOBS);
        int(&mut out, 3);
        int(&mut out, 16_384);
        int(&mut out, 4);
        out.extend_from_slice(b"blob");
        int(&mut out, 0);
        int(&mut out, 0);
        out
    }

    #[test]
    fn custom_dumps_need_every_block_terminated() {
        let dump = custom();
        for split in [1, 3, 64, dump.len()] {
            let told = Rc::<RefCell<BlockIndex>>::default();
            let mut mark = CustomEndMark::telling(Rc::clone(&told));
            dump.chunks(split).for_each(|part| mark.see(part));
            mark.finish().unwrap();
            let BlockIndex { head, blocks } = told.take();
            let [(2, head_end, middle), (3, middle_again, end)] = blocks[..] else { panic!("{blocks:?}") };
            assert_eq!((head, middle, end), (head_end, middle_again, dump.len() as u64));
            let large_object = &dump[middle as usize..];
            assert_eq!((large_object[0], dump[head as usize]), (BLK_BLOBS, BLK_DATA));
        }
        let (toc, head) = Toc::parse(&dump).unwrap();
        for split in [1, 3, 64, dump.len()] {
            let mut rows = vec![];
            let mut each = |id: i64, piece: &[u8]| {
                assert_eq!(id, 2, "a large object has no rows");
                rows.extend_from_slice(piece);
                Ok::<(), std::io::Error>(())
            };
            let mut reader = Rows::new(&toc, &mut each);
            dump[head..].chunks(split).for_each(|part| reader.write_all(part).unwrap());
            assert!(reader.is_whole());
            assert_eq!(rows, b"0123456789");
        }
        for len in 0..dump.len() {
            let mut mark = CustomEndMark::default();
            mark.see(&dump[..len]);
            assert!(mark.finish().is_err(), "cut at {len}");
        }
    }
}
