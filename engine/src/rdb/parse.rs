//! A walk through a dump as it streams: what stands between keys, then each key, then its value as the bytes
//! it is, in pieces of bounded size. Memory does not depend on how large a value is.
//!
//! Members of sets and fields of hashes come in the order of a server's hash table, which is another one
//! after every start; a walk that was asked to [`Order::Canonical`] hands them out ordered.

use super::input::{Input, Len};
use super::{MAGIC_LEN, RdbError, Version, kind, opcode};
use std::io::Read;

/// In what order members of sets and fields of hashes come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they stand in the dump.
    AsIs,
    /// By the bytes they are written in: those of large values as [`Part::Member`], which the caller orders.
    Canonical,
}

/// How recently or often a key was used, if the server evicts by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Seconds since the last access (LRU).
    Idle(u64),
    /// Logarithmic counter of accesses (LFU).
    Frequency(u8),
}

/// A key, and what is said about it before its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Number of its database.
    pub database: u32,
    /// Its name.
    pub name: Vec<u8>,
    /// When it expires, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
    /// Its use.
    pub usage: Option<Usage>,
    /// Type of its value, one of [`super::kind`].
    pub kind: u8,
    /// Where its record begins, in bytes from the start of the dump.
    pub offset: u64,
    /// Its name as it is written.
    pub raw_name: Vec<u8>,
}

/// What stands between keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Global {
    /// A name and a value about the dump.
    Aux(Vec<u8>, Vec<u8>),
    /// A library of functions.
    Function,
    /// A module's own, before all keys or after them.
    ModuleAux {
        /// Whether it stands before the keys.
        before: bool,
    },
}

/// The next thing in a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something that belongs to no key, and its bytes.
    Global(Global, Vec<u8>),
    /// A key; its value follows, by [`Walk::value`].
    Key(Key),
    /// The end mark.
    End,
}

/// A stretch of a value.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// The next bytes of a large one.
    Piece(&'a [u8]),
    /// The next member of a large set or field of a large hash: the bytes to order by, and all of its bytes.
    Member(&'a [u8], &'a [u8]),
}

/// Where pieces of large values are cut, in bytes.
pub const PIECE: usize = 1 << 20;
/// More than any Redis can have.
const MAX_DATABASE: u64 = 1 << 31;

/// Takes what a value is made of.
type Taker<'a> = &'a mut dyn FnMut(Part<'_>) -> Result<(), RdbError>;

/// The walk.
pub struct Walk<R> {
    input: Input<R>,
    version: Version,
    order: Order,
    database: u32,
    value: Vec<u8>,
    /// Where the members of a value begin in `value`, and end.
    members: Vec<(usize, usize, usize)>,
}

impl<R: Read> Walk<R> {
    /// From the beginning.
    pub fn new(reader: R, order: Order) -> Result<Self, RdbError> {
        let mut input = Input::new(reader, 0);
        let magic = input.take(MAGIC_LEN)?.to_vec();
        let version = Version::parse(&magic)
            .ok_or_else(|| super::Malformed { offset: 0, why: "does not begin as an RDB does".into() })?;
        Ok(Self { input, version, order, database: 0, value: vec![], members: vec![] })
    }

    /// From a record within, which begins at `offset` and belongs to `database`.
    pub fn resume(reader: R, version: Version, offset: u64, database: u32) -> Self {
        let input = Input::new(reader, offset);
        Self { input, version, order: Order::AsIs, database, value: vec![], members: vec![] }
    }

    /// Version of the format.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Bytes so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// Whether nothing is left: the end of a stretch, not of a dump.
    pub fn is_at_end(&mut self) -> Result<bool, RdbError> {
        self.input.is_at_end()
    }

    /// The next step. After a key comes its value, by [`Walk::value`].
    pub fn next_step(&mut self) -> Result<Step, RdbError> {
        let (mut expires_ms, mut usage) = (None, None);
        let mut offset = self.input.offset();
        loop {
            let mut raw = vec![];
            let opcode = self.input.byte()?;
            raw.push(opcode);
            match opcode {
                opcode::EXPIRE_MS => expires_ms = Some(u64::from_le_bytes(self.input.array()?)),
                opcode::EXPIRE_SECONDS => {
                    expires_ms = Some(u64::from(u32::from_le_bytes(self.input.array()?)) * 1000);
                }
                opcode::IDLE => usage = Some(Usage::Idle(self.input.len(&mut raw)?)),
                opcode::FREQ => usage = Some(Usage::Frequency(self.input.byte()?)),
                opcode::SELECT_DB => {
                    let number = self.input.len(&mut raw)?;
                    self.database = u32::try_from(number)
                        .ok()
                        .filter(|_| number < MAX_DATABASE)
                        .ok_or_else(|| self.input.malformed(format!("database {number}")))?;
                    offset = self.input.offset();
                }
                // Hints for loading, which no dump needs.
                opcode::RESIZE_DB => {
                    self.input.len(&mut raw)?;
                    self.input.len(&mut raw)?;
                    offset = self.input.offset();
                }
                opcode::SLOT_INFO => {
                    for _ in 0..3 {
                        self.input.len(&mut raw)?;
                    }
                    offset = self.input.offset();
                }
                opcode::AUX => {
                    let (name, value) = (self.input.string(&mut raw)?, self.input.string(&mut raw)?);
                    return Ok(Step::Global(Global::Aux(name, value), raw));
                }
                opcode::FUNCTION => {
                    self.input.string(&mut raw)?;
                    return Ok(Step::Global(Global::Function, raw));
                }
                opcode::MODULE_AUX => {
                    let before = self.module_aux(&mut raw)?;
                    return Ok(Step::Global(Global::ModuleAux { before }, raw));
                }
                opcode::EOF => return Ok(Step::End),
                kind => {
                    self.check_kind(kind)?;
                    let mut raw_name = vec![];
                    let name = self.input.string(&mut raw_name)?;
                    let database = self.database;
                    return Ok(Step::Key(Key { database, name, expires_ms, usage, kind, offset, raw_name }));
                }
            }
        }
    }

    fn check_kind(&self, kind: u8) -> Result<(), RdbError> {
        let known = match kind {
            0..=5 | kind::MODULE_2 | 9..=21 => true,
            kind::VALKEY_HASH_2 => self.version.valkey,
            kind::HASH_METADATA | kind::HASH_LISTPACK_EX => !self.version.valkey,
            _ => false,
        };
        if known {
            return Ok(());
        }
        Err(self.input.malformed(format!(
            "{kind:#04x} is no type of value in version {} of the format",
            self.version.magic()
        )))
    }

    /// Whether it stands before the keys.
    fn module_aux(&mut self, raw: &mut Vec<u8>) -> Result<bool, RdbError> {
        self.input.len(raw)?; // the module
        self.input.len(raw)?; // "an unsigned integer follows"
        let when = self.input.len(raw)?;
        let mut pieces = Pieces::new(std::mem::take(raw), usize::MAX);
        module_items(&mut self.input, &mut pieces, &mut |_| Ok(()))?;
        *raw = pieces.bytes;
        // REDISMODULE_AUX_BEFORE_RDB is 1, AFTER 2.
        Ok(when & 2 == 0)
    }

    /// Hands out the value of the key that was just met.
    pub fn value(&mut self, kind: u8, take: Taker<'_>) -> Result<(), RdbError> {
        let mut bytes = std::mem::take(&mut self.value);
        bytes.clear();
        let mut pieces = Pieces::new(bytes, PIECE);
        if self.order == Order::Canonical
            && let Some(shape) = Shape::of(kind)
        {
            self.ordered(shape, &mut pieces, take)?;
        } else {
            copy_value(&mut self.input, kind, &mut pieces, take)?;
            pieces.finish(take)?;
        }
        self.value = pieces.bytes;
        Ok(())
    }

    /// A set or hash whose order is a hash table's: ordered here if it is small, by the caller if not.
    fn ordered(&mut self, shape: Shape, pieces: &mut Pieces, take: Taker<'_>) -> Result<(), RdbError> {
        let input = &mut self.input;
        self.members.clear();
        pieces.copy(input, shape.head, take)?;
        let left = input.len(&mut pieces.bytes)?;
        let head = pieces.bytes.len();
        let mut is_large = false;
        for _ in 0..left {
            let start = pieces.bytes.len();
            // The time of a field stands before its name, and says nothing of its order.
            if shape.ttl_first {
                input.len(&mut pieces.bytes)?;
            }
            let name = pieces.bytes.len();
            pieces.whole_string(input)?;
            if shape.value {
                pieces.whole_string(input)?;
            }
            pieces.copy_all(input, shape.tail)?;
            if is_large {
                take(Part::Member(&pieces.bytes[name..], &pieces.bytes[start..]))?;
                pieces.bytes.clear();
                continue;
            }
            self.members.push((name, start, pieces.bytes.len()));
            if pieces.bytes.len() > PIECE {
                is_large = true;
                take(Part::Piece(&pieces.bytes[..head]))?;
                for (name, start, end) in self.members.drain(..) {
                    take(Part::Member(&pieces.bytes[name..end], &pieces.bytes[start..end]))?;
                }
                pieces.bytes.clear();
            }
        }
        if is_large {
            return Ok(());
        }
        let bytes = &pieces.bytes;
        self.members.sort_unstable_by(|a, b| bytes[a.0..a.2].cmp(&bytes[b.0..b.2]));
        let mut sorted = Vec::with_capacity(bytes.len());
        sorted.extend_from_slice(&bytes[..head]);
        for (_, start, end) in &self.members {
            sorted.extend_from_slice(&bytes[*start..*end]);
        }
        take(Part::Whole(&sorted))
    }
}

/// What a set or a hash in table encoding is made of.
#[derive(Clone, Copy)]
struct Shape {
    /// Bytes before its length.
    head: u64,
    /// A length before each name.
    ttl_first: bool,
    /// A string behind each name.
    value: bool,
    /// Bytes behind that.
    tail: usize,
}

impl Shape {
    fn of(kind: u8) -> Option<Self> {
        let set = Self { head: 0, ttl_first: false, value: false, tail: 0 };
        Some(match kind {
            kind::SET => set,
            kind::HASH => Self { value: true, ..set },
            kind::VALKEY_HASH_2 => Self { value: true, tail: 8, ..set },
            kind::HASH_METADATA => Self { head: 8, ttl_first: true, value: true, tail: 0 },
            _ => return None,
        })
    }
}

/// Gathers a value's bytes and passes them on when they are many.
struct Pieces {
    bytes: Vec<u8>,
    limit: usize,
    /// Whether some were passed on.
    parted: bool,
}

impl Pieces {
    fn new(bytes: Vec<u8>, limit: usize) -> Self {
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

    fn finish(&mut self, take: Taker<'_>) -> Result<(), RdbError> {
        if !self.parted {
            return take(Part::Whole(&self.bytes));
        }
        if self.bytes.is_empty() { Ok(()) } else { take(Part::Piece(&self.bytes)) }
    }

    /// `len` bytes as they are.
    fn copy<R: Read>(&mut self, input: &mut Input<R>, mut len: u64, take: Taker<'_>) -> Result<(), RdbError> {
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
    fn copy_all<R: Read>(&mut self, input: &mut Input<R>, len: usize) -> Result<(), RdbError> {
        if len > 0 {
            self.bytes.extend_from_slice(input.take(len)?);
        }
        Ok(())
    }

    /// A string as it is written.
    fn string<R: Read>(&mut self, input: &mut Input<R>, take: Taker<'_>) -> Result<(), RdbError> {
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
    fn whole_string<R: Read>(&mut self, input: &mut Input<R>) -> Result<(), RdbError> {
        let limit = std::mem::replace(&mut self.limit, usize::MAX);
        let done = self.string(input, &mut |_| Ok(()));
        self.limit = limit;
        done
    }
}

/// Copies a value of any type as it is written.
fn copy_value<R: Read>(
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
        | kind::SET_LISTPACK => pieces.string(input, take),
        kind::HASH_LISTPACK_EX => {
            pieces.copy(input, 8, take)?;
            pieces.string(input, take)
        }
        kind::MODULE_2 => {
            input.len(&mut pieces.bytes)?;
            module_items(input, pieces, take)
        }
        kind::STREAM_LISTPACKS | kind::STREAM_LISTPACKS_2 | kind::STREAM_LISTPACKS_3 => {
            copy_stream(input, kind, true, pieces, take)
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
                    kind::HASH_METADATA => {
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
fn module_items<R: Read>(input: &mut Input<R>, pieces: &mut Pieces, take: Taker<'_>) -> Result<(), RdbError> {
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

/// A stream of type [`kind::STREAM_LISTPACKS_3`] as one of type [`kind::STREAM_LISTPACKS_2`], which servers before
/// 7.2 take, too: without the times when consumers last did something. `None` if it does not hold together.
#[must_use]
pub fn older_stream(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut input = Input::new(bytes, 0);
    let mut pieces = Pieces::new(vec![], usize::MAX);
    copy_stream(&mut input, kind::STREAM_LISTPACKS_3, false, &mut pieces, &mut |_| Ok(())).ok()?;
    Some(pieces.bytes)
}

/// A stream with its groups and consumers (`rdbSaveObject`, `OBJ_STREAM`); times of activity are left out if
/// they are not wanted.
fn copy_stream<R: Read>(
    input: &mut Input<R>,
    kind: u8,
    activity: bool,
    pieces: &mut Pieces,
    take: Taker<'_>,
) -> Result<(), RdbError> {
    let second = kind >= kind::STREAM_LISTPACKS_2;
    let third = kind >= kind::STREAM_LISTPACKS_3;
    let lens = |input: &mut Input<R>, pieces: &mut Pieces, count: usize| -> Result<(), RdbError> {
        for _ in 0..count {
            input.len(&mut pieces.bytes)?;
        }
        Ok(())
    };
    for _ in 0..input.len(&mut pieces.bytes)? {
        pieces.string(input, take)?;
        pieces.string(input, take)?;
    }
    // Length and last id; first id, highest deleted one, entries ever added.
    lens(input, pieces, if second { 8 } else { 3 })?;
    for _ in 0..input.len(&mut pieces.bytes)? {
        pieces.string(input, take)?;
        // Last delivered id; entries read.
        lens(input, pieces, if second { 3 } else { 2 })?;
        for _ in 0..input.len(&mut pieces.bytes)? {
            // Pending: id, time of delivery, how often.
            pieces.copy(input, 16 + 8, take)?;
            lens(input, pieces, 1)?;
            pieces.pass_on(take)?;
        }
        for _ in 0..input.len(&mut pieces.bytes)? {
            pieces.string(input, take)?;
            // Seen; active.
            pieces.copy(input, 8, take)?;
            match (third, activity) {
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
