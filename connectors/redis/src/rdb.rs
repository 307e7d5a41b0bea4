//! Redis and Valkey RDB files: the parts of a dump, down to the single key.
//!
//! `parse.rs` reads a dump as a stream and returns values as raw bytes, in pieces of bounded size; it decodes only what
//! is necessary. `value.rs` decodes one value for people and for comparisons, `check.rs` decides whether a server would
//! accept it; both use `packed.rs`. `canonical.rs` sorts a dump by database and key, `index.rs` finds a key in it.
//!
//! Sources: `rdb.h` and `rdb.c` of Redis 6.2 to 8.2 and of Valkey 8 and 9 (the format has no other document),
//! `ziplist.c`, `listpack.c` and `intset.c` for the encodings inside values.

use crc_fast::{CrcAlgorithm, Digest};

pub mod canonical;
pub mod check;
pub mod copy;
pub mod end_mark;
mod flaw;
pub mod index;
mod input;
mod lzf;
mod packed;
pub mod parse;
mod part;
pub mod probe;
pub mod value;
mod written;

/// A running CRC-64 of an RDB (`crc64.c`: Jones polynomial, catalogued as CRC-64/REDIS).
#[must_use]
pub fn crc64() -> Digest {
    Digest::new(CrcAlgorithm::Crc64Redis)
}

/// What the bytes between values mean (`rdb.h`, `RDB_OPCODE_*`).
pub mod opcode {
    /// Sizes of one hash slot, a hint for loading.
    pub const SLOT_INFO: u8 = 244;
    /// A library of functions.
    pub const FUNCTION: u8 = 245;
    /// What a module keeps beside its keys.
    pub const MODULE_AUX: u8 = 247;
    /// Idle time of the next key, in seconds.
    pub const IDLE: u8 = 248;
    /// Logarithmic access counter of the next key.
    pub const FREQ: u8 = 249;
    /// A name and a value about the dump.
    pub const AUX: u8 = 250;
    /// Sizes of a database, a hint for loading.
    pub const RESIZE_DB: u8 = 251;
    /// Expiry of the next key, milliseconds since 1970.
    pub const EXPIRE_MS: u8 = 252;
    /// Expiry of the next key, seconds since 1970.
    pub const EXPIRE_SECONDS: u8 = 253;
    /// The following keys belong to this database.
    pub const SELECT_DB: u8 = 254;
    /// The end; a CRC-64 follows.
    pub const EOF: u8 = 255;
}

/// Types of values (`rdb.h`, `RDB_TYPE_*`).
pub mod kind {
    #![expect(missing_docs, reason = "the names are those of rdb.h, which is their document")]
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const ZSET: u8 = 3;
    pub const HASH: u8 = 4;
    pub const ZSET_2: u8 = 5;
    pub const MODULE_2: u8 = 7;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const ZSET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICKLIST: u8 = 14;
    pub const STREAM_LISTPACKS: u8 = 15;
    pub const HASH_LISTPACK: u8 = 16;
    pub const ZSET_LISTPACK: u8 = 17;
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const STREAM_LISTPACKS_2: u8 = 19;
    pub const SET_LISTPACK: u8 = 20;
    pub const STREAM_LISTPACKS_3: u8 = 21;
    /// In dumps whose magic is `VALKEY`.
    pub const VALKEY_HASH_2: u8 = 22;
    /// In dumps whose magic is `REDIS`.
    pub const HASH_METADATA: u8 = 24;
    /// In dumps whose magic is `REDIS`.
    pub const HASH_LISTPACK_EX: u8 = 25;
    /// Type 22 in dumps whose magic is `REDIS`: [`HASH_METADATA`] as candidates of 7.4 wrote it. The number is ours.
    pub const HASH_METADATA_RC: u8 = 0x80 | 22;
    /// [`HASH_LISTPACK_EX`] as they wrote it.
    pub const HASH_LISTPACK_EX_RC: u8 = 23;

    /// What a type that a dump names is called here.
    pub(super) const fn read(version: super::Version, written: u8) -> u8 {
        if written == VALKEY_HASH_2 && !version.valkey { HASH_METADATA_RC } else { written }
    }

    /// What a dump calls a type.
    #[must_use]
    pub const fn written(kind: u8) -> u8 {
        if kind == HASH_METADATA_RC { kind & 0x7f } else { kind }
    }
}

/// What stands at the head of a dump: who wrote it, and in which version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Valkey's own numbering (from 9.0 on, and only if a dump needs what Redis does not know).
    pub valkey: bool,
    /// 1 to 9999.
    pub number: u16,
}

/// The newest versions whose every record is known here.
const NEWEST_REDIS: u16 = 12;
const NEWEST_VALKEY: u16 = 80;
/// `REDIS0010`, `VALKEY080`.
pub const MAGIC_LEN: usize = 9;

impl Version {
    /// Reads the first bytes of a dump.
    #[must_use]
    pub fn parse(magic: &[u8]) -> Option<Self> {
        let (valkey, digits) = match (magic.strip_prefix(b"REDIS"), magic.strip_prefix(b"VALKEY")) {
            (Some(digits), _) => (false, digits),
            (_, Some(digits)) => (true, digits),
            _ => return None,
        };
        let number = std::str::from_utf8(digits).ok()?.parse().ok().filter(|number| *number > 0)?;
        (magic.len() == MAGIC_LEN).then_some(Self { valkey, number })
    }

    /// Its first bytes.
    #[must_use]
    pub fn magic(self) -> String {
        if self.valkey { format!("VALKEY{:03}", self.number) } else { format!("REDIS{:04}", self.number) }
    }

    /// Whether every record of such a dump is known, so that it can be taken apart.
    #[must_use]
    pub fn is_known(self) -> bool {
        self.number <= if self.valkey { NEWEST_VALKEY } else { NEWEST_REDIS }
    }

    /// Whether a checksum follows the end mark: since version 5.
    #[must_use]
    pub fn has_checksum(self) -> bool {
        self.valkey || self.number >= 5
    }

    /// The oldest version whose servers take a value of this type by RESTORE: dumps of new servers go into older
    /// ones, as far as these know the type. From the history of `RDB_VERSION` in `rdb.h`; 6 is Redis 2.6, whose
    /// RESTORE was the first.
    #[must_use]
    pub fn needed_for(self, kind: u8) -> u16 {
        match kind {
            kind::VALKEY_HASH_2 if self.valkey => NEWEST_VALKEY,
            0..=4 | 9..=13 => 6,
            kind::LIST_QUICKLIST => 7,
            kind::ZSET_2 | kind::MODULE_2 => 8,
            kind::STREAM_LISTPACKS => 9,
            16..=19 => 10,
            kind::SET_LISTPACK | kind::STREAM_LISTPACKS_3 => 11,
            _ => 12,
        }
        .min(self.number)
    }
}

/// A value as `DUMP` gives it and `RESTORE` takes it: type, bytes, version, CRC-64 (`cluster.c`,
/// `createDumpPayload`).
#[must_use]
pub fn dump_payload(version: Version, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(value.len() + 11);
    payload.push(kind::written(kind));
    payload.extend_from_slice(value);
    payload.extend_from_slice(&version.needed_for(kind).to_le_bytes());
    let mut digest = crc64();
    digest.update(&payload);
    payload.extend_from_slice(&digest.finalize().to_le_bytes());
    payload
}

/// What a type is called by Redis's `TYPE`.
#[must_use]
pub fn type_name(kind: u8) -> &'static str {
    match kind {
        kind::STRING => "string",
        kind::LIST | kind::LIST_ZIPLIST | kind::LIST_QUICKLIST | kind::LIST_QUICKLIST_2 => "list",
        kind::SET | kind::SET_INTSET | kind::SET_LISTPACK => "set",
        kind::ZSET | kind::ZSET_2 | kind::ZSET_ZIPLIST | kind::ZSET_LISTPACK => "zset",
        kind::STREAM_LISTPACKS | kind::STREAM_LISTPACKS_2 | kind::STREAM_LISTPACKS_3 => "stream",
        kind::MODULE_2 => "module",
        _ => "hash",
    }
}

/// Writes a length as RDB does (`rdbSaveLen`).
#[expect(clippy::big_endian_bytes, reason = "the RDB format writes long lengths big-endian")]
pub fn push_len(out: &mut Vec<u8>, len: u64) {
    match len {
        0..64 => out.push(len as u8),
        64..16_384 => out.extend_from_slice(&[0x40 | (len >> 8) as u8, len as u8]),
        _ => match u32::try_from(len) {
            Ok(len) => {
                out.push(0x80);
                out.extend_from_slice(&len.to_be_bytes());
            }
            Err(_) => {
                out.push(0x81);
                out.extend_from_slice(&len.to_be_bytes());
            }
        },
    }
}

/// A dump, or a part of one, that is not what the format allows.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("at byte {offset} of the RDB: {why}")]
pub struct Malformed {
    /// Bytes from the beginning of the dump.
    pub offset: u64,
    /// What is wrong there.
    pub why: String,
}

/// Why a dump could not be walked through.
#[derive(Debug, thiserror::Error)]
pub enum RdbError {
    /// It is not what the format allows.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// It has something that this program does not know: it cannot be taken apart, but kept.
    #[error(transparent)]
    Unknown(Malformed),
    /// Its bytes could not be read.
    #[error(transparent)]
    Read(#[from] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let redis = Version { valkey: false, number: 11 };
        assert_eq!(Version::parse(b"REDIS0011"), Some(redis));
        assert_eq!(redis.magic(), "REDIS0011");
        let valkey = Version { valkey: true, number: 80 };
        assert_eq!(Version::parse(b"VALKEY080"), Some(valkey));
        assert_eq!(valkey.magic(), "VALKEY080");
        assert!(redis.is_known() && valkey.is_known());
        assert!(!Version { valkey: false, number: 13 }.is_known());
        for bad in [&b"REDIS0000"[..], b"REDIS11", b"RADIS0011", b"VALKEY0080", b"REDIS-001"] {
            assert_eq!(Version::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn lengths() {
        for (len, expected) in [
            (0, vec![0]),
            (63, vec![63]),
            (64, vec![0x40, 64]),
            (16_383, vec![0x7f, 0xff]),
            (16_384, vec![0x80, 0, 0, 0x40, 0]),
            (1 << 32, vec![0x81, 0, 0, 0, 1, 0, 0, 0, 0]),
        ] {
            let mut out = vec![];
            push_len(&mut out, len);
            assert_eq!(out, expected);
        }
    }
}
