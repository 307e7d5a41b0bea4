//! A dump laid down in an order that depends on nothing but its content: by database, then by key, members
//! of sets and fields of hashes too. A server writes in the order of its hash table, which is another one
//! after every start, on every replica and in every size of the table; laid down like this, the same data
//! are the same bytes but for what changed.
//!
//! What comes out is an RDB again that loads to an equal dataset. Hints for loading (sizes of databases and
//! slots) are left out; how recently keys were used, which changes every night, goes into a stream of its own.
//! Memory is bounded whatever the size of the dump or of one value: see [`engine::spill`].

use super::index;
use super::index::{Counts, Point};
use super::{Malformed, RdbError, crc64, opcode, push_len};
use chunkstore::format::Encoder;
use engine::spill::Aside;
use gather::FLAG_MORE;
pub use gather::{Gathered, USAGE_LEN, gather, read_usage};
use place::key_at;
use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write as _};
use std::path::Path;

mod gather;
mod place;

/// Bytes put out at a time.
const STRETCH: usize = 256 << 10;
/// A chunk ends between two records, so that a key lies in one chunk and no other. Which of them, the names of keys
/// say, so that a value that changes moves no cut: from `CHUNK_MIN` bytes on, a record begins the next chunk with a
/// chance of its length in `CHUNK_MORE`, and at `CHUNK_MAX` in any case. Smaller than other chunks, because
/// one is what a single key costs to read; see docs/decisions for what that costs in compression.
const CHUNK_MIN: u64 = 24 << 10;
const CHUNK_MORE: u64 = 32 << 10;
const CHUNK_MAX: u64 = 192 << 10;

/// A gathered dump on its way out, and what is written about it meanwhile.
pub struct Canonical {
    gathered: Gathered,
    out: Vec<u8>,
    sent: usize,
    /// Where `out` begins in the dump.
    offset: u64,
    digest: crc_fast::Digest,
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
                let name = engine::shown::name(&key_at(place).1);
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
            let checksum = self.digest.finalize();
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
    use super::*;
    use crate::rdb::index::SeekIndex;
    use crate::rdb::parse::Usage;

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
}
