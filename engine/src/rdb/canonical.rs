//! A dump laid down in an order that depends on nothing but its content: by database, then by key, members
//! of sets and fields of hashes too. A server writes in the order of its hash table, which is another one
//! after every start, on every replica and in every size of the table; laid down like this, the same data
//! are the same bytes but for what changed.
//!
//! What comes out is an RDB again that loads to an equal dataset. Hints for loading (sizes of databases and
//! slots) are left out; how recently keys were used, which changes every night, goes into a stream of its own.
//! Memory is bounded whatever the size of the dump or of one value: see [`crate::spill`].

use super::check::{Checker, Flaws};
use super::index::{self, Counts, Point};
use super::parse::{Global, Key, Order, Part, Step, Usage, Walk};
use super::{Malformed, RdbError, Version, crc64, kind, opcode, push_len};
use crate::spill::{Aside, Sorted, Sorter};
use chunkstore::format::Encoder;
use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write as _};
use std::path::Path;

/// Bytes put out at a time.
const STRETCH: usize = 256 << 10;
/// A chunk ends between two records, so that a key lies in one chunk and no other. Which of them, the names of keys
/// say, so that a value that changes moves no cut: from `CHUNK_MIN` bytes on, a record begins the next chunk with a
/// chance of its length in `CHUNK_MORE`, and at `CHUNK_MAX` in any case. Smaller than other chunks, because
/// one is what a single key costs to read; see docs/decisions for what that costs in compression.
const CHUNK_MIN: u64 = 24 << 10;
const CHUNK_MORE: u64 = 32 << 10;
const CHUNK_MAX: u64 = 192 << 10;
/// More than all functions and modules may write beside the keys.
const MAX_GLOBALS: usize = 256 << 20;
/// Bytes for each key in the stream of uses: a kind, and a number of 32 bits.
pub const USAGE_LEN: u64 = 5;

/// A payload in the sorter begins with what the rest is.
const FLAG_RECORD: u8 = 0;
const FLAG_RECORD_EXPIRES: u8 = 1;
const FLAG_MORE: u8 = 2;

/// A dump that was read to its end and waits to be put out in order.
pub struct Gathered {
    version: Version,
    /// What stands before the keys, and after them, as it is written.
    before: Vec<u8>,
    after: Vec<u8>,
    records: Sorted,
    databases: BTreeMap<u32, Counts>,
    /// Whether the server told how keys were used.
    uses: bool,
    /// Whether nothing followed the dump.
    pub is_all: bool,
    /// What is wrong in it.
    pub flaws: Flaws,
    /// The dump's own fields: who wrote it, when.
    pub aux: BTreeMap<String, String>,
}

impl Gathered {
    /// Whether the server told how keys were used.
    #[must_use]
    pub fn uses(&self) -> bool {
        self.uses
    }
}

/// Reads a dump to its end mark. Spill files go into `folder`.
pub fn gather(reader: impl Read, folder: &Path) -> Result<Gathered, RdbError> {
    let mut walk = Walk::new(reader, Order::Canonical)?;
    let version = walk.version();
    let mut sorter = Sorter::new(folder);
    let (mut before, mut after, mut aux) = (vec![], vec![], BTreeMap::new());
    let mut databases: BTreeMap<u32, Counts> = BTreeMap::new();
    let (mut place, mut head, mut uses) = (vec![], vec![], false);
    let (mut checker, mut flaws) = (Checker::default(), Flaws::default());
    let is_all;
    loop {
        match walk.next_step()? {
            Step::End => {
                is_all = walk.is_all()?;
                break;
            }
            Step::Global(global, raw) => {
                let late = matches!(global, Global::ModuleAux { before: false });
                let all = if late { &mut after } else { &mut before };
                all.extend_from_slice(&raw);
                if all.len() > MAX_GLOBALS {
                    let why =
                        "functions and modules take more than 256 MiB; back it up with -o redis.order=raw";
                    return Err(Malformed { offset: walk.offset(), why: why.into() }.into());
                }
                if let Global::Aux(name, value) = global {
                    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                    aux.insert(text(name), text(value));
                }
            }
            Step::Key(key) => {
                let counts = databases.entry(key.database).or_default();
                counts.keys += 1;
                counts.expiring += u64::from(key.expires_ms.is_some());
                uses |= key.usage.is_some();
                place_of(key.database, &key.name, &mut place);
                write_head(version, &key, &mut head);
                let (mut started, mut sequence, own_len) = (false, 0, place.len());
                walk.value(key.kind, &mut |part| {
                    match part {
                        Part::Whole(value) => {
                            checker.whole(key.kind, value);
                            sorter.push(&place, &[&head, value])?;
                        }
                        Part::Piece(bytes) if !started => {
                            checker.part(bytes);
                            sorter.push(&place, &[&head, bytes])?;
                        }
                        Part::Piece(bytes) => {
                            checker.part(bytes);
                            sequence += 1;
                            place.extend_from_slice(&sequence_bytes(sequence));
                            sorter.push(&place, &[&[FLAG_MORE], bytes])?;
                            place.truncate(own_len);
                        }
                        Part::Member(name, bytes) => {
                            checker.part(bytes);
                            place.extend_from_slice(name);
                            sorter.push(&place, &[&[FLAG_MORE], bytes])?;
                            place.truncate(own_len);
                        }
                    }
                    started = true;
                    Ok(())
                })?;
                if let Err(flaw) = checker.finish(key.kind) {
                    flaws.add(key.database, &key.name, flaw);
                }
            }
        }
    }
    Ok(Gathered { version, before, after, records: sorter.finish()?, databases, uses, is_all, flaws, aux })
}

#[expect(clippy::big_endian_bytes, reason = "a number that orders as its bytes do")]
fn sequence_bytes(number: u64) -> [u8; 8] {
    number.to_be_bytes()
}

/// The bytes that order a key: its database, its name with zeros escaped, an end that is smaller than any name that
/// goes on. What belongs to the key and follows its record has more bytes behind that.
#[expect(clippy::big_endian_bytes, reason = "a number that orders as its bytes do")]
fn place_of(database: u32, name: &[u8], place: &mut Vec<u8>) {
    place.clear();
    match u8::try_from(database) {
        Ok(small) if small < 255 => place.push(small),
        _ => {
            place.push(255);
            place.extend_from_slice(&database.to_be_bytes());
        }
    }
    for part in name.split_inclusive(|byte| *byte == 0) {
        place.extend_from_slice(part);
        if part.last() == Some(&0) {
            place.push(255);
        }
    }
    place.extend_from_slice(&[0, 0]);
}

/// The reverse.
#[expect(clippy::big_endian_bytes, reason = "a number that orders as its bytes do")]
fn key_at(place: &[u8]) -> (u32, Vec<u8>) {
    let (database, rest) = match place {
        [255, a, b, c, d, rest @ ..] => (u32::from_be_bytes([*a, *b, *c, *d]), rest),
        [small, rest @ ..] => (u32::from(*small), rest),
        [] => (0, place),
    };
    let mut name = vec![];
    let mut bytes = rest.iter();
    while let Some(byte) = bytes.next() {
        if *byte == 0 && bytes.next() != Some(&255) {
            break;
        }
        name.push(*byte);
    }
    (database, name)
}

/// What stands before a value in the sorter: flag, use, and the record up to the value.
fn write_head(version: Version, key: &Key, head: &mut Vec<u8>) {
    head.clear();
    head.push(if key.expires_ms.is_some() { FLAG_RECORD_EXPIRES } else { FLAG_RECORD });
    let (use_kind, number) = match key.usage {
        None => (0, 0),
        Some(Usage::Idle(seconds)) => (1, u32::try_from(seconds).unwrap_or(u32::MAX)),
        Some(Usage::Frequency(counter)) => (2, u32::from(counter)),
    };
    head.push(use_kind);
    head.extend_from_slice(&number.to_le_bytes());
    if let Some(expires_ms) = key.expires_ms {
        // Versions 1 and 2 know seconds only.
        match u32::try_from(expires_ms / 1000) {
            Ok(seconds) if version.number < 3 && !version.valkey && expires_ms % 1000 == 0 => {
                head.push(opcode::EXPIRE_SECONDS);
                head.extend_from_slice(&seconds.to_le_bytes());
            }
            _ => {
                head.push(opcode::EXPIRE_MS);
                head.extend_from_slice(&expires_ms.to_le_bytes());
            }
        }
    }
    head.push(kind::written(key.kind));
    head.extend_from_slice(&key.raw_name);
}

/// Reads a use back.
#[must_use]
pub fn read_usage(bytes: [u8; USAGE_LEN as usize]) -> Option<Usage> {
    let [kind, a, b, c, d] = bytes;
    let number = u32::from_le_bytes([a, b, c, d]);
    match kind {
        1 => Some(Usage::Idle(u64::from(number))),
        2 => Some(Usage::Frequency(number as u8)),
        _ => None,
    }
}

/// A gathered dump on its way out, and what is written about it meanwhile.
pub struct Canonical {
    gathered: Gathered,
    out: Vec<u8>,
    sent: usize,
    /// Where `out` begins in the dump.
    offset: u64,
    digest: crc::Digest<'static, u64, crc::Table<16>>,
    stage: Stage,
    database: Option<u32>,
    /// Keys so far.
    ordinal: u64,
    /// Where the current chunk began.
    chunk: u64,
    /// Cuts in `out` that were not passed yet, as offsets in it.
    cuts: VecDeque<usize>,
    seed: [u64; 2],
    last: Vec<u8>,
    sides: Sides,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Head,
    Records,
    Done,
}

/// What comes out next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// So many bytes; 0 at the end.
    Bytes(usize),
    /// A chunk should end here.
    Cut,
}

/// A number that nobody foresees who does not know the seed: multiply and fold, as wyhash does (Wang Yi,
/// github.com/wangyi-fudan/wyhash). Cuts need no more.
fn mixed(place: &[u8], seed: [u64; 2]) -> u64 {
    let fold = |a: u64, b: u64| {
        let wide = u128::from(a) * u128::from(b);
        (wide >> 64) as u64 ^ wide as u64
    };
    let mut state = seed[0];
    for word in place.chunks(8) {
        let mut bytes = [0; 8];
        bytes[..word.len()].copy_from_slice(word);
        state = fold(state ^ u64::from_le_bytes(bytes), seed[1] | 1);
    }
    fold(state ^ place.len() as u64, 0x9e37_79b9_7f4a_7c15)
}

/// What belongs to a dump in order.
pub struct Sides {
    /// The seek index.
    pub index: Aside,
    /// How keys were used, if the server told.
    pub usage: Option<Aside>,
    /// Keys by database.
    pub databases: BTreeMap<u32, Counts>,
}

impl Canonical {
    /// Starts to put out; `seed` decides where chunks end.
    #[must_use]
    pub fn new(gathered: Gathered, folder: &Path, seed: [u64; 2]) -> Self {
        let usage = gathered.uses.then(|| Aside::new(folder));
        Self {
            sides: Sides { index: Aside::new(folder), usage, databases: gathered.databases.clone() },
            gathered,
            out: Vec::with_capacity(STRETCH * 2),
            sent: 0,
            offset: 0,
            digest: crc64(),
            stage: Stage::Head,
            database: None,
            ordinal: 0,
            chunk: 0,
            cuts: VecDeque::new(),
            seed,
            last: vec![],
        }
    }

    /// The next bytes, 0 at the end; or that a chunk should end here.
    pub fn next_part(&mut self, buffer: &mut [u8]) -> Result<Output, RdbError> {
        if self.sent == self.out.len() {
            self.offset += self.out.len() as u64;
            self.out.clear();
            self.sent = 0;
            match self.stage {
                Stage::Head => self.head()?,
                Stage::Records => self.records()?,
                Stage::Done => return Ok(Output::Bytes(0)),
            }
        }
        if self.cuts.front() == Some(&self.sent) {
            self.cuts.pop_front();
            return Ok(Output::Cut);
        }
        let end = self.cuts.front().copied().unwrap_or(self.out.len());
        let len = buffer.len().min(end - self.sent);
        buffer[..len].copy_from_slice(&self.out[self.sent..self.sent + len]);
        self.sent += len;
        Ok(Output::Bytes(len))
    }

    /// What was written about the dump, once all of it was read.
    pub fn finish(mut self) -> Result<Sides, RdbError> {
        self.sides.index.rewind()?;
        if let Some(usage) = &mut self.sides.usage {
            usage.rewind()?;
        }
        Ok(self.sides)
    }

    fn head(&mut self) -> Result<(), RdbError> {
        self.stage = Stage::Records;
        self.out.extend_from_slice(self.gathered.version.magic().as_bytes());
        self.out.append(&mut self.gathered.before);
        self.digest.update(&self.out);
        let mut encoder = Encoder::default();
        index::encode_version(&mut encoder, self.gathered.version);
        self.sides.index.write_all(&encoder.bytes)?;
        Ok(())
    }

    /// The next records, up to a stretch of them.
    fn records(&mut self) -> Result<(), RdbError> {
        while self.out.len() < STRETCH {
            if !self.gathered.records.step()? {
                self.tail()?;
                break;
            }
            let (place, payload) = self.gathered.records.record();
            let (flag, rest) = payload.split_first().unwrap_or((&FLAG_MORE, &[]));
            if *flag == FLAG_MORE {
                self.out.extend_from_slice(rest);
                continue;
            }
            let here = self.offset + self.out.len() as u64;
            if place == self.last {
                let name = String::from_utf8_lossy(&key_at(place).1).into_owned();
                return Err(Malformed { offset: here, why: format!("key '{name}' is there twice") }.into());
            }
            self.last.clear();
            self.last.extend_from_slice(place);
            let (usage, record) = rest.split_at(USAGE_LEN as usize);
            if let Some(all) = &mut self.sides.usage {
                all.write_all(usage)?;
            }
            let database = match place {
                [255, ..] | [] => key_at(place).0,
                [small, ..] => u32::from(*small),
            };
            let changes = self.database != Some(database);
            let chunk = here - self.chunk;
            let chance = mixed(place, self.seed) % CHUNK_MORE;
            // The first record of a database begins a chunk, which includes the change to it.
            if changes
                || chunk >= CHUNK_MIN && chance < record.len() as u64
                || chunk + record.len() as u64 > CHUNK_MAX
            {
                let (database, name) = key_at(place);
                let mut encoder = Encoder::default();
                let point = Point { offset: here, ordinal: self.ordinal, database, name };
                index::encode_point(&mut encoder, &point);
                self.sides.index.write_all(&encoder.bytes)?;
                self.cuts.push_back(self.out.len());
                self.chunk = here;
            }
            if changes {
                self.database = Some(database);
                self.out.push(opcode::SELECT_DB);
                push_len(&mut self.out, u64::from(database));
                // Since version 7.
                if self.gathered.version.valkey || self.gathered.version.number >= 7 {
                    let counts = self.sides.databases.get(&database).copied().unwrap_or_default();
                    self.out.push(opcode::RESIZE_DB);
                    push_len(&mut self.out, counts.keys);
                    push_len(&mut self.out, counts.expiring);
                }
            }
            self.ordinal += 1;
            self.out.extend_from_slice(record);
        }
        self.digest.update(&self.out);
        if self.stage == Stage::Done && self.gathered.version.has_checksum() {
            let checksum = self.digest.clone().finalize();
            self.out.extend_from_slice(&checksum.to_le_bytes());
        }
        Ok(())
    }

    /// What stands after the keys.
    fn tail(&mut self) -> Result<(), RdbError> {
        self.stage = Stage::Done;
        let end = self.offset + self.out.len() as u64;
        let mut encoder = Encoder::default();
        index::encode_end(&mut encoder, &self.sides.databases, end);
        self.sides.index.write_all(&encoder.bytes)?;
        self.out.append(&mut self.gathered.after);
        self.out.push(opcode::EOF);
        Ok(())
    }
}

impl Read for Canonical {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            if let Output::Bytes(len) = self.next_part(buffer).map_err(std::io::Error::other)? {
                return Ok(len);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::SeekIndex;
    use super::*;

    /// A dump with the given records as they are.
    fn rdb(records: &[&[u8]]) -> Vec<u8> {
        let mut bytes = b"REDIS0011".to_vec();
        bytes.extend_from_slice(b"\xfa\x03ver\x011");
        bytes.extend(records.concat());
        bytes.push(opcode::EOF);
        let mut digest = crc64();
        digest.update(&bytes);
        bytes.extend_from_slice(&digest.finalize().to_le_bytes());
        bytes
    }

    fn canonical(bytes: &[u8]) -> Result<(Vec<u8>, Sides), RdbError> {
        let folder = tempfile::tempdir().unwrap();
        let mut canonical = Canonical::new(gather(bytes, folder.path())?, folder.path(), [1, 2]);
        let mut out = vec![];
        let mut buffer = [0; 777];
        loop {
            match canonical.read(&mut buffer)? {
                0 => break,
                len => out.extend_from_slice(&buffer[..len]),
            }
        }
        Ok((out, canonical.finish()?))
    }

    #[test]
    fn order_does_not_matter() {
        let set_one: &[u8] = b"\x02\x01s\x02\x01a\x01b";
        let set_two: &[u8] = b"\x02\x01s\x02\x01b\x01a";
        let expiring: &[u8] = b"\xfc\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01z\x01v";
        let text: &[u8] = b"\x00\x01a\x01v";
        let other: &[u8] = b"\xfe\x03\x00\x01a\x01w";
        let (one, sides) =
            canonical(&rdb(&[b"\xfe\x00\xfb\x03\x01", text, set_one, expiring, other])).unwrap();
        let (two, _) = canonical(&rdb(&[other, b"\xfe\x00", expiring, set_two, text])).unwrap();
        assert_eq!(one, two);
        let expected =
            rdb(&[b"\xfe\x00\xfb\x03\x01", text, set_one, expiring, b"\xfe\x03\xfb\x01\x00\x00\x01a\x01w"]);
        assert_eq!(one, expected);
        assert_eq!(sides.databases[&0], Counts { keys: 3, expiring: 1 });
        let mut bytes = vec![];
        let mut index = sides.index;
        index.read_to_end(&mut bytes).unwrap();
        let index = SeekIndex::decode(&bytes).unwrap();
        assert_eq!(index.keys(), 4);
        assert_eq!(index.points.len(), 2, "one for each database");
        assert!(sides.usage.is_none());
    }

    #[test]
    fn large_values_are_ordered_outside_of_memory() {
        // A set of 30,000 members of 100 bytes, and a list as large, whose order is its own.
        let member = |number: u64| {
            let mut bytes = vec![0x40, 100];
            bytes.extend_from_slice(format!("{number:0100}").as_bytes());
            bytes
        };
        let count = 30_000;
        let large = |kind: u8, numbers: &mut dyn Iterator<Item = u64>| {
            let mut bytes = vec![kind, 1, b'x' + kind];
            push_len(&mut bytes, count);
            numbers.for_each(|number| bytes.extend(member(number)));
            bytes
        };
        let list = large(1, &mut (0..count).rev());
        let (one, _) = canonical(&rdb(&[b"\xfe\x00", &large(2, &mut (0..count)), &list])).unwrap();
        let (two, _) = canonical(&rdb(&[b"\xfe\x00", &list, &large(2, &mut (0..count).rev())])).unwrap();
        assert!(one == two, "the same set in another order");
        let expected = rdb(&[b"\xfe\x00\xfb\x02\x00", &list, &large(2, &mut (0..count))]);
        assert!(one == expected, "list as it was, set in order");
    }

    #[test]
    fn uses_go_into_a_stream_of_their_own() {
        let (bytes, sides) = canonical(&rdb(&[
            b"\xfe\x00\xf8\x05\x00\x01b\x01v",
            b"\xf9\x07\x00\x01a\x01v",
            b"\x00\x01c\x01v",
        ]))
        .unwrap();
        let plain = rdb(&[b"\xfe\x00\xfb\x03\x00\x00\x01a\x01v\x00\x01b\x01v\x00\x01c\x01v"]);
        assert_eq!(bytes, plain);
        let mut usage = vec![];
        sides.usage.unwrap().read_to_end(&mut usage).unwrap();
        assert_eq!(usage, [2, 7, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(read_usage([1, 5, 0, 0, 0]), Some(Usage::Idle(5)));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let twice = canonical(&rdb(&[b"\xfe\x00\x00\x01a\x01v\x00\x01a\x01w"])).err().unwrap();
        assert!(twice.to_string().contains("key 'a' is there twice"), "{twice}");
        let unknown = canonical(&rdb(&[b"\xfe\x00\x63\x01a\x01v"])).err().unwrap();
        assert!(unknown.to_string().contains("at byte 19 of the RDB: 0x63"), "{unknown}");
        let whole = rdb(&[b"\xfe\x00\x00\x01a\x01v"]);
        for len in 0..whole.len() - 9 {
            assert!(canonical(&whole[..len]).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn names_order_as_bytes_do() {
        let names: [&[u8]; 7] = [b"", b"\0", b"\0a", b"a", b"a\0", b"a\0\xff", b"a\x01"];
        let mut places = vec![];
        for database in [0, 1, 254, 255, 70_000] {
            for name in names {
                let mut place = vec![];
                place_of(database, name, &mut place);
                assert_eq!(key_at(&place), (database, name.to_vec()));
                places.push(place);
            }
        }
        assert!(places.is_sorted());
    }
}
