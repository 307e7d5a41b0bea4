//! The seek index of a dump that is laid down in order: the record that each chunk begins with, where that
//! is and which key. Small enough to be read whole: a thousandth of the dump or so. Its bytes are
//! described in docs/format.md.

use super::{MAGIC_LEN, Version};
use chunkstore::format::{Decoder, Encoder, Malformed};
use std::collections::BTreeMap;

const TAG_VERSION: u8 = 1;
const TAG_POINT: u8 = 2;
const TAG_DATABASE: u8 = 3;
const TAG_END: u8 = 4;
/// Longest name of a key.
const MAX_NAME: usize = 512 << 20;

/// A record of the dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How many keys come before it.
    pub ordinal: u64,
    /// Its database.
    pub database: u32,
    /// Its key.
    pub name: Vec<u8>,
}

/// What a database holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys.
    pub keys: u64,
    /// Those of them that expire.
    pub expiring: u64,
}

/// The index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeekIndex {
    /// Version of the dump's format.
    pub version: Version,
    /// In order of offset, and so of database and key. The first is the first record.
    pub points: Vec<Point>,
    /// By number.
    pub databases: BTreeMap<u32, Counts>,
    /// Where the records end, in bytes.
    pub end: u64,
}

/// Appends the beginning of an index.
pub fn encode_version(out: &mut Encoder, version: Version) {
    out.u8(TAG_VERSION).var(version.magic().as_bytes());
}

/// Appends a point.
pub fn encode_point(out: &mut Encoder, point: &Point) {
    out.u8(TAG_POINT).u64(point.offset).u64(point.ordinal).u32(point.database).var(&point.name);
}

/// Appends the end of an index.
pub fn encode_end(out: &mut Encoder, databases: &BTreeMap<u32, Counts>, end: u64) {
    for (number, counts) in databases {
        out.u8(TAG_DATABASE).u32(*number).u64(counts.keys).u64(counts.expiring);
    }
    out.u8(TAG_END).u64(end);
}

impl SeekIndex {
    /// Reads an index; refuses what is not in order or not whole.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes, "seek index");
        if decoder.u8()? != TAG_VERSION {
            return Err(decoder.malformed("does not begin with a version"));
        }
        let version = Version::parse(decoder.var(MAGIC_LEN)?)
            .ok_or_else(|| decoder.malformed("no version of an RDB"))?;
        let mut index = Self { version, points: vec![], databases: BTreeMap::new(), end: 0 };
        loop {
            match decoder.u8()? {
                TAG_POINT => {
                    let point = Point {
                        offset: decoder.u64()?,
                        ordinal: decoder.u64()?,
                        database: decoder.u32()?,
                        name: decoder.var(MAX_NAME)?.to_vec(),
                    };
                    let ordered = index.points.last().is_none_or(|last| {
                        last.offset < point.offset
                            && last.ordinal < point.ordinal
                            && (last.database, &last.name) < (point.database, &point.name)
                    });
                    if !ordered {
                        return Err(decoder.malformed("points out of order"));
                    }
                    index.points.push(point);
                }
                TAG_DATABASE => {
                    let number = decoder.u32()?;
                    let counts = Counts { keys: decoder.u64()?, expiring: decoder.u64()? };
                    index.databases.insert(number, counts);
                }
                TAG_END => {
                    index.end = decoder.u64()?;
                    if index.points.last().is_some_and(|last| last.offset >= index.end) {
                        return Err(decoder.malformed("points beyond the end"));
                    }
                    decoder.finish()?;
                    return Ok(index);
                }
                _ => return Err(decoder.malformed("unknown record")),
            }
        }
    }

    /// Where the records of `database` from key `from` up to and without key `to` (without end if `None`) lie:
    /// the point to start from and the offset to end at. There may be others before and behind them.
    #[must_use]
    pub fn stretch(&self, database: u32, from: &[u8], to: Option<&[u8]>) -> Option<(&Point, u64)> {
        let start = self.points.partition_point(|point| (point.database, &*point.name) <= (database, from));
        let end = match to {
            Some(to) => self.points.partition_point(|point| (point.database, &*point.name) < (database, to)),
            None => self.points.partition_point(|point| point.database <= database),
        };
        let first = self.points.get(start.saturating_sub(1))?;
        let end = self.points.get(end).map_or(self.end, |point| point.offset);
        (first.offset < end).then_some((first, end))
    }

    /// Keys in all databases.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.databases.values().map(|counts| counts.keys).sum()
    }
}

/// The smallest key above all that begin with `prefix`; `None` if there is no such key.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> SeekIndex {
        let point =
            |offset, ordinal, database, name: &str| Point { offset, ordinal, database, name: name.into() };
        SeekIndex {
            version: Version { valkey: false, number: 11 },
            points: vec![point(20, 0, 0, "b"), point(90, 3, 0, "m"), point(200, 9, 3, "a")],
            databases: [(0, Counts { keys: 9, expiring: 1 }), (3, Counts { keys: 1, expiring: 0 })].into(),
            end: 300,
        }
    }

    #[test]
    fn stretches() {
        let index = index();
        let found = |database, from: &str, to: Option<&str>| {
            index
                .stretch(database, from.as_bytes(), to.map(str::as_bytes))
                .map(|(point, end)| (point.offset, end))
        };
        assert_eq!(found(0, "", None), Some((20, 200)));
        assert_eq!(found(0, "c", Some("d")), Some((20, 90)));
        assert_eq!(found(0, "m", Some("n")), Some((90, 200)));
        assert_eq!(found(3, "a", None), Some((200, 300)));
        // What lies before the first point's key is nowhere.
        assert_eq!(found(0, "a", Some("b")), None);
        // Nothing is in database 1: at most the last of database 0 is looked at in vain.
        assert_eq!(found(1, "", None), Some((90, 200)));
    }

    #[test]
    fn round_trip_and_damage() {
        let index = index();
        let mut out = Encoder::default();
        encode_version(&mut out, index.version);
        index.points.iter().for_each(|point| encode_point(&mut out, point));
        encode_end(&mut out, &index.databases, index.end);
        assert_eq!(SeekIndex::decode(&out.bytes).unwrap(), index);
        for len in 0..out.bytes.len() {
            SeekIndex::decode(&out.bytes[..len]).unwrap_err();
        }
        let mut swapped = Encoder::default();
        encode_version(&mut swapped, index.version);
        index.points.iter().rev().for_each(|point| encode_point(&mut swapped, point));
        encode_end(&mut swapped, &index.databases, index.end);
        SeekIndex::decode(&swapped.bytes).unwrap_err();
    }

    #[test]
    fn ends_of_prefixes() {
        assert_eq!(after_prefix(b"ab").unwrap(), b"ac");
        assert_eq!(after_prefix(b"a\xff\xff").unwrap(), b"b");
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
