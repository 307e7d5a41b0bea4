//! Values as they are written, copied from a dump in pieces of bounded size; and streams rewritten for older servers.

use super::input::{Input, Len, Supply};
use super::part::{Part, Taker};
use super::{RdbError, kind};

/// What a set or a hash in table encoding is made of.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Bytes before its length.
    pub(super) head: u64,
    /// A length before each name.
    pub(super) ttl_first: bool,
    /// A string behind each name.
    pub(super) value: bool,
    /// Bytes behind that.
    pub(super) tail: usize,
}

impl Shape {
    pub(super) fn of(kind: u8) -> Option<Self> {
        let set = Self { head: 0, ttl_first: false, value: false, tail: 0 };
        Some(match kind {
            kind::SET => set,
            kind::HASH => Self { value: true, ..set },
            kind::VALKEY_HASH_2 => Self { value: true, tail: 8, ..set },
            kind::HASH_METADATA => Self { head: 8, ttl_first: true, value: true, tail: 0 },
            kind::HASH_METADATA_RC => Self { ttl_first: true, value: true, ..set },
            _ => return None,
        })
    }
}

/// Gathers a value's bytes and passes them on when they are many.
pub(super) struct Pieces {
    pub(super) bytes: Vec<u8>,
    limit: usize,
    /// Whether some were passed on.
    parted: bool,
}

impl Pieces {
    pub(super) fn new(bytes: Vec<u8>, limit: usize) -> Self {
        Self { bytes, limit, parted: false }
    }

    fn pass_on(&mut self, take: Taker<'_>) -> Result<(), RdbError> {
        if self.bytes.len() >= self.limit {
            self.parted = true;
            take(Part::Piece(&self.bytes))?;
            self.bytes.clear();
        }
        Ok(())
    }

    pub(super) fn finish(&mut self, take: Taker<'_>) -> Result<(), RdbError> {
        if !self.parted {
            return take(Part::Whole(&self.bytes));
        }
        if self.bytes.is_empty() { Ok(()) } else { take(Part::Piece(&self.bytes)) }
    }

    /// `len` bytes as they are.
    pub(super) fn copy<R: Supply>(
        &mut self,
        input: &mut Input<R>,
        mut len: u64,
        take: Taker<'_>,
    ) -> Result<(), RdbError> {
        while len > 0 {
            self.pass_on(take)?;
            let room = (self.limit - self.bytes.len()) as u64;
            let some = input.take_some(len.min(room))?;
            len -= some.len() as u64;
            self.bytes.extend_from_slice(some);
        }
        Ok(())
    }

    /// A few bytes, without passing anything on.
    pub(super) fn copy_all<R: Supply>(&mut self, input: &mut Input<R>, len: usize) -> Result<(), RdbError> {
        if len > 0 {
            self.bytes.extend_from_slice(input.take(len)?);
        }
        Ok(())
    }

    /// A string as it is written.
    fn string<R: Supply>(&mut self, input: &mut Input<R>, take: Taker<'_>) -> Result<(), RdbError> {
        let len = match input.len_or_special(&mut self.bytes)? {
            Len::Plain(len) => len,
            Len::Integer(len) => len as u64,
            Len::Lzf => {
                let packed = input.len(&mut self.bytes)?;
                input.len(&mut self.bytes)?;
                packed
            }
        };
        self.copy(input, len, take)
    }

    /// A string as it is written, kept together: a member of a set, a field of a hash.
    pub(super) fn whole_string<R: Supply>(&mut self, input: &mut Input<R>) -> Result<(), RdbError> {
        let limit = std::mem::replace(&mut self.limit, usize::MAX);
        let done = self.string(input, &mut |_| Ok(()));
        self.limit = limit;
        done
    }
}

/// Copies a value of any type as it is written.
pub(super) fn copy_value<R: Supply>(
    input: &mut Input<R>,
    kind: u8,
    pieces: &mut Pieces,
    take: Taker<'_>,
) -> Result<(), RdbError> {
    match kind {
        kind::STRING
        | kind::HASH_ZIPMAP
        | kind::LIST_ZIPLIST
        | kind::SET_INTSET
        | kind::ZSET_ZIPLIST
        | kind::HASH_ZIPLIST
        | kind::HASH_LISTPACK
        | kind::ZSET_LISTPACK
        | kind::SET_LISTPACK
        | kind::HASH_LISTPACK_EX_RC => pieces.string(input, take),
        kind::HASH_LISTPACK_EX => {
            pieces.copy(input, 8, take)?;
            pieces.string(input, take)
        }
        kind::MODULE_2 => {
            input.len(&mut pieces.bytes)?;
            module_items(input, pieces, take)
        }
        kind::STREAM_LISTPACKS | kind::STREAM_LISTPACKS_2 | kind::STREAM_LISTPACKS_3 => {
            copy_stream(input, kind, kind, pieces, take)
        }
        _ => {
            if kind == kind::HASH_METADATA {
                pieces.copy(input, 8, take)?;
            }
            for _ in 0..input.len(&mut pieces.bytes)? {
                match kind {
                    kind::LIST | kind::SET | kind::LIST_QUICKLIST => pieces.string(input, take)?,
                    kind::LIST_QUICKLIST_2 => {
                        input.len(&mut pieces.bytes)?;
                        pieces.string(input, take)?;
                    }
                    kind::HASH | kind::VALKEY_HASH_2 => {
                        pieces.string(input, take)?;
                        pieces.string(input, take)?;
                        pieces.copy(input, if kind == kind::HASH { 0 } else { 8 }, take)?;
                    }
                    kind::HASH_METADATA | kind::HASH_METADATA_RC => {
                        input.len(&mut pieces.bytes)?;
                        pieces.string(input, take)?;
                        pieces.string(input, take)?;
                    }
                    kind::ZSET_2 => {
                        pieces.string(input, take)?;
                        pieces.copy(input, 8, take)?;
                    }
                    kind::ZSET => {
                        pieces.string(input, take)?;
                        let len = input.byte()?;
                        pieces.bytes.push(len);
                        // 253 to 255 are not-a-number and the infinities.
                        pieces.copy(input, if len < 253 { u64::from(len) } else { 0 }, take)?;
                    }
                    _ => return Err(input.malformed(format!("a value of type {kind}"))),
                }
                pieces.pass_on(take)?;
            }
            Ok(())
        }
    }
}

/// What a module wrote: numbers and strings, each with a mark of what it is, up to the mark of the end.
pub(super) fn module_items<R: Supply>(
    input: &mut Input<R>,
    pieces: &mut Pieces,
    take: Taker<'_>,
) -> Result<(), RdbError> {
    loop {
        match input.len(&mut pieces.bytes)? {
            0 => return Ok(()),
            1 | 2 => {
                input.len(&mut pieces.bytes)?;
            }
            3 => pieces.copy(input, 4, take)?,
            4 => pieces.copy(input, 8, take)?,
            5 => pieces.string(input, take)?,
            other => return Err(input.malformed(format!("{other} is no part of a module's value"))),
        }
        pieces.pass_on(take)?;
    }
}

/// A stream as an older type of stream, without what that cannot hold: type [`kind::STREAM_LISTPACKS_2`] (Redis 7.0) has
/// no times when consumers last did something, [`kind::STREAM_LISTPACKS`] (Redis 5 to 6.2) neither first id, highest
/// deleted id and number of entries ever added, nor how many of them a group has read. `None` if it does not hold together.
#[must_use]
pub fn older_stream(kind: u8, bytes: &[u8], older: u8) -> Option<Vec<u8>> {
    let mut input = Input::new(bytes, 0);
    let mut pieces = Pieces::new(vec![], usize::MAX);
    copy_stream(&mut input, kind, older, &mut pieces, &mut |_| Ok(())).ok()?;
    input.is_at_end().ok()?.then_some(pieces.bytes)
}

/// A stream with its groups and consumers (`rdbSaveObject`, `OBJ_STREAM`), written as type `to`, which is not newer.
fn copy_stream<R: Supply>(
    input: &mut Input<R>,
    kind: u8,
    to: u8,
    pieces: &mut Pieces,
    take: Taker<'_>,
) -> Result<(), RdbError> {
    let is = |least: u8| (kind >= least, to >= least);
    let (second, third) = (is(kind::STREAM_LISTPACKS_2), is(kind::STREAM_LISTPACKS_3));
    let lens =
        |input: &mut Input<R>, pieces: &mut Pieces, count: usize, kept: bool| -> Result<(), RdbError> {
            let whole = pieces.bytes.len();
            for _ in 0..count {
                input.len(&mut pieces.bytes)?;
            }
            if !kept {
                pieces.bytes.truncate(whole);
            }
            Ok(())
        };
    for _ in 0..input.len(&mut pieces.bytes)? {
        pieces.string(input, take)?;
        pieces.string(input, take)?;
    }
    // Length and last id.
    lens(input, pieces, 3, true)?;
    if second.0 {
        // First id, highest deleted one, entries ever added.
        lens(input, pieces, 5, second.1)?;
    }
    for _ in 0..input.len(&mut pieces.bytes)? {
        pieces.string(input, take)?;
        // Last delivered id.
        lens(input, pieces, 2, true)?;
        if second.0 {
            // Entries read.
            lens(input, pieces, 1, second.1)?;
        }
        for _ in 0..input.len(&mut pieces.bytes)? {
            // Pending: id, time of delivery, how often.
            pieces.copy(input, 16 + 8, take)?;
            lens(input, pieces, 1, true)?;
            pieces.pass_on(take)?;
        }
        for _ in 0..input.len(&mut pieces.bytes)? {
            pieces.string(input, take)?;
            // Seen; active.
            pieces.copy(input, 8, take)?;
            match third {
                (true, true) => pieces.copy(input, 8, take)?,
                (true, false) => drop(input.array::<8>()?),
                (false, _) => {}
            }
            for _ in 0..input.len(&mut pieces.bytes)? {
                pieces.copy(input, 16, take)?;
            }
        }
    }
    Ok(())
}
