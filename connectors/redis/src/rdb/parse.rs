//! A walk through a dump as it streams: what stands between keys, then each key, then its value as the bytes
//! it is, in pieces of bounded size. Memory does not depend on how large a value is.
//!
//! Members of sets and fields of hashes come in the order of a server's hash table, which is another one
//! after every start; a walk that was asked to [`Order::Canonical`] hands them out ordered.

use super::copy::{Pieces, Shape, copy_value, module_items};
use super::input::Input;
pub use super::input::Supply;
pub use super::part::Part;
use super::part::Taker;
use super::{MAGIC_LEN, Malformed, RdbError, Version, kind, opcode};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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

/// What [`Walk::advance`] came to.
pub(super) enum Met {
    Global(Global, Vec<u8>),
    /// A key whose value is of this type.
    Key(u8),
    End,
}

/// Where pieces of large values are cut, in bytes.
pub const PIECE: usize = 1 << 20;
/// More than any Redis can have.
const MAX_DATABASE: u64 = 1 << 31;

/// The walk.
pub struct Walk<R> {
    input: Input<R>,
    version: Version,
    order: Order,
    database: u32,
    value: Vec<u8>,
    /// Where the members of a value begin in `value`, and end.
    members: Vec<(usize, usize, usize)>,
    /// The key that was just met.
    key: Key,
}

impl<R: Supply> Walk<R> {
    /// From the beginning.
    pub fn new(reader: R, order: Order) -> Result<Self, RdbError> {
        let mut input = Input::new(reader, 0);
        let magic = input.take(MAGIC_LEN)?.to_vec();
        let version = Version::parse(&magic)
            .ok_or_else(|| Malformed { offset: 0, why: "does not begin as an RDB does".into() })?;
        Ok(Self { input, version, order, database: 0, value: vec![], members: vec![], key: Key::default() })
    }

    /// From a record within, which begins at `offset` and belongs to `database`.
    pub fn resume(reader: R, version: Version, offset: u64, database: u32) -> Self {
        let input = Input::new(reader, offset);
        Self {
            input,
            version,
            order: Order::AsIs,
            database,
            value: vec![],
            members: vec![],
            key: Key::default(),
        }
    }

    /// Version of the format.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Number of bytes so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.input.offset()
    }

    /// Whether nothing is left: the end of a stretch, not of a dump.
    pub fn is_at_end(&mut self) -> Result<bool, RdbError> {
        self.input.is_at_end()
    }

    /// After [`Step::End`]: passes the checksum, if the version has one, and says whether nothing is left. Whether the
    /// checksum is right, only what saw all of the dump can say: [`super::end_mark`].
    pub fn is_all(&mut self) -> Result<bool, RdbError> {
        if self.version.has_checksum() {
            self.input.take(8)?;
        }
        self.input.is_at_end()
    }

    /// The next step. After a key comes its value, by [`Walk::value`].
    pub fn next_step(&mut self) -> Result<Step, RdbError> {
        Ok(match self.advance()? {
            Met::Global(global, raw) => Step::Global(global, raw),
            Met::Key(_) => Step::Key(std::mem::take(&mut self.key)),
            Met::End => Step::End,
        })
    }

    /// The key that [`Walk::advance`] has just met.
    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// The next step, of which a key stays here, so that nothing is moved or allocated for it.
    pub(super) fn advance(&mut self) -> Result<Met, RdbError> {
        let (mut expires_ms, mut usage) = (None, None);
        let mut offset = self.input.offset();
        loop {
            let opcode = self.input.byte()?;
            let mut raw = vec![];
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
                    raw.push(opcode);
                    let (name, value) = (self.input.string(&mut raw)?, self.input.string(&mut raw)?);
                    return Ok(Met::Global(Global::Aux(name, value), raw));
                }
                opcode::FUNCTION => {
                    raw.push(opcode);
                    self.input.string(&mut raw)?;
                    return Ok(Met::Global(Global::Function, raw));
                }
                opcode::MODULE_AUX => {
                    raw.push(opcode);
                    let before = self.module_aux(&mut raw)?;
                    return Ok(Met::Global(Global::ModuleAux { before }, raw));
                }
                opcode::EOF => return Ok(Met::End),
                written => {
                    let kind = self.kind_of(written)?;
                    let key = &mut self.key;
                    (key.database, key.expires_ms, key.usage) = (self.database, expires_ms, usage);
                    (key.kind, key.offset) = (kind, offset);
                    key.raw_name.clear();
                    self.input.string_into(&mut key.raw_name, &mut key.name)?;
                    return Ok(Met::Key(kind));
                }
            }
        }
    }

    /// What lies in memory of the value of the key that was just met, and of what follows; [`Walk::pass`] goes past it.
    pub(super) fn at_hand(&self) -> &[u8] {
        self.input.at_hand()
    }

    /// Goes past so many bytes at hand, which are all of a value.
    pub(super) fn pass(&mut self, len: usize) -> Result<(), RdbError> {
        self.input.take(len).map(drop)
    }

    /// The type that a byte names.
    fn kind_of(&self, written: u8) -> Result<u8, RdbError> {
        let known = match written {
            0..=5 | kind::MODULE_2 | 9..=kind::VALKEY_HASH_2 => true,
            kind::HASH_LISTPACK_EX_RC | kind::HASH_METADATA | kind::HASH_LISTPACK_EX => !self.version.valkey,
            _ => false,
        };
        if known {
            return Ok(kind::read(self.version, written));
        }
        let magic = self.version.magic();
        let why = format!("{written:#04x} is no type of value in version {magic} of the format");
        Err(RdbError::Unknown(Malformed { offset: self.input.offset(), why }))
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
