//! The keys of a dump as an RDB that a server of another version loads, written as it streams: nothing is sorted again,
//! nothing lies in memory but one key.
//!
//! A server that loads an RDB trusts it: of a value that it does not know it ends itself (`rdbReportCorruptRDB` in `rdb.c`
//! of Redis). So each value is looked into before its first byte is written, and one that does not fit ends the writing.

use super::load::older;
use super::{Dump, Record, Records as _, Selection, Want};
use crate::rdb::check::{Flaw, check};
use crate::rdb::parse::{Global, Usage};
use crate::rdb::{Version, crc64, kind, opcode, push_len};
use engine::{Counter, Error, Monitor, Repository};
use std::borrow::Cow;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Write;

/// Bytes that are written at a time.
const STRETCH: usize = 256 << 10;
/// The oldest version that is written: that of Redis 5 to 6.2, the first with idle times and access counters.
const OLDEST: u16 = 9;
/// The newest version of Redis that Valkey loads, too. Source: `RDB_FOREIGN_VERSION_MIN` in Valkey's `rdb.h`.
const NEWEST_SHARED: u16 = 11;
/// The version from which on Valkey numbers by itself.
const FIRST_VALKEY: u16 = 80;
/// Functions came with version 10 (Redis 7).
const FUNCTION_VERSION: u16 = 10;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Keys.
    pub keys: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Keys that were left out because they have expired.
    pub expired: u64,
    /// Collections without elements, which were left out.
    pub empty: u64,
    /// Function libraries of the dump.
    pub functions: u64,
}

/// Why the writing ended early.
#[derive(Debug)]
pub enum Ended {
    /// The server cannot load it as an RDB.
    Unfit(String),
    /// It could not be written any further.
    Write(std::io::Error),
    /// It could not be read.
    Read(Error),
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::Write(error)
    }
}

/// What a server loads, by the version that it writes, and how many databases it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loads {
    own: Version,
    databases: u32,
}

impl Loads {
    /// Of a server whose payloads of `DUMP` have this version; `None` if that is older than what is written here.
    #[must_use]
    pub fn of(number: u16, databases: u32) -> Option<Self> {
        let own = Version { valkey: number >= FIRST_VALKEY, number };
        (number >= OLDEST).then_some(Self { own, databases })
    }

    /// The version of its own dumps.
    pub(crate) fn own(self) -> Version {
        self.own
    }

    /// Whether its own format is as new as that of a dump: nothing in the dump is unknown to it. Valkey from 9 on knows what
    /// Redis and Valkey had in common, and Redis nothing of Valkey's own numbering.
    pub(crate) fn is_as_new_as(self, dump: Version) -> bool {
        let Self { own, .. } = self;
        match (own.valkey, dump.valkey) {
            (true, false) => dump.number <= NEWEST_SHARED,
            (false, true) => false,
            _ => dump.number <= own.number,
        }
    }

    /// The version in which it gets a dump that is of version `from`.
    fn version(self, from: Version) -> Version {
        let Self { own, .. } = self;
        let most = if own.valkey { NEWEST_SHARED } else { own.number };
        match from.valkey {
            true if own.valkey => Version { number: from.number.min(own.number), ..own },
            true => own,
            false => Version { valkey: false, number: from.number.clamp(OLDEST, most) },
        }
    }

    /// A value in an encoding that it knows.
    ///
    /// # Errors
    /// Why there is none.
    pub fn value<'a>(self, from: Version, record: &'a Record) -> Result<(u8, Cow<'a, [u8]>), String> {
        let to = self.version(from);
        let code = record.key.kind;
        if code == kind::MODULE_2 {
            // A server without the module, or with another version of it, ends itself.
            return Err("it has values of modules".into());
        }
        if knows(to, code) {
            return Ok((code, Cow::Borrowed(&record.value)));
        }
        let all = older(record).unwrap_or_default();
        let fits = all.into_iter().find(|(code, _)| knows(to, *code));
        fits.map(|(code, value)| (code, Cow::Owned(value))).ok_or_else(|| {
            let what = crate::rdb::type_name(code);
            format!("it has a {what} in an encoding that version {} of the format lacks", to.magic())
        })
    }
}

/// Whether a dump of this version may have values of a type.
fn knows(version: Version, code: u8) -> bool {
    match code {
        kind::VALKEY_HASH_2 => version.valkey,
        // Encodings of candidates of 7.4, and those of Redis alone.
        kind::HASH_METADATA_RC | kind::HASH_LISTPACK_EX_RC => false,
        kind::HASH_METADATA | kind::HASH_LISTPACK_EX => !version.valkey && version.number >= 12,
        _ => Version { valkey: false, number: u16::MAX }.needed_for(code) <= version.number,
    }
}

/// Writes all keys of `dump` for a server that `loads` so; `functions` are further libraries, as an RDB has them. What has
/// expired at `now_ms` stays out. Bytes are counted as they are written.
///
/// # Errors
/// See [`Ended`].
pub fn rewrite(
    repo: &Repository,
    dump: &Dump,
    loads: Loads,
    functions: &[u8],
    now_ms: u64,
    to: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<Rewritten, Ended> {
    let (from, globals) = dump.head(repo).map_err(Ended::Read)?;
    let version = loads.version(from);
    let mut out = Out { to, bytes: version.magic().into_bytes(), digest: crc64() };
    let mut done = Rewritten::default();
    for (global, raw) in globals {
        match global {
            Global::Aux(name, _) if AUX.iter().any(|aux| name.eq_ignore_ascii_case(aux)) => {
                out.bytes.extend_from_slice(&raw);
            }
            // Of another server's replication nothing is true any more; and servers before 7 compile the scripts of a cache, and end
            // themselves if they cannot.
            Global::Aux(..) => {}
            Global::Function if version.number < FUNCTION_VERSION => {
                return Err(Ended::Unfit("it has functions, which the server does not know".into()));
            }
            Global::Function => {
                done.functions += 1;
                out.bytes.extend_from_slice(&raw);
            }
            // As when keys are restored one by one: what a module keeps beside them is its own.
            Global::ModuleAux { .. } => {}
        }
    }
    if done.functions == 0 {
        out.bytes.extend_from_slice(functions);
    }
    let all = Selection::default();
    let mut records = dump.records(repo, &all, Want::Values);
    let mut database = None;
    while let Some(record) = records.next_record().map_err(Ended::Read)? {
        if record.key.expires_ms.is_some_and(|expires| expires <= now_ms) {
            done.expired += 1;
            continue;
        }
        match check(record.key.kind, &record.value) {
            Err(Flaw::Empty) => {
                done.empty += 1;
                continue;
            }
            Err(Flaw::Corrupt(why)) => return Err(Ended::Unfit(format!("it has a corrupt value ({why})"))),
            Ok(()) | Err(_) => {}
        }
        let (code, value) = loads.value(from, &record).map_err(Ended::Unfit)?;
        if database != Some(record.key.database) {
            let number = record.key.database;
            // A server ends itself for a database that it has not.
            if number >= loads.databases {
                return Err(Ended::Unfit(format!(
                    "it has keys of database {number}, and the server has {} databases",
                    loads.databases
                )));
            }
            database = Some(number);
            out.database(record.key.database, dump);
        }
        out.record(&record, code, &value);
        done.keys += 1;
        done.bytes += record.len;
        if out.bytes.len() >= STRETCH {
            out.send(monitor)?;
            if monitor.interrupted() {
                return Err(Ended::Read(Error::Interrupted));
            }
        }
    }
    out.bytes.push(opcode::EOF);
    out.send(monitor)?;
    let checksum = out.digest.finalize();
    out.to.write_all(&checksum.to_le_bytes()).map_err(Ended::Write)?;
    Ok(done)
}

/// What the writer of a dump says of itself. Servers compare these names whatever their case (`rdb.c`, `rdbLoadRioWithLoadingCtx`).
const AUX: [&[u8]; 5] = [b"redis-ver", b"valkey-ver", b"redis-bits", b"ctime", b"used-mem"];

/// Most keys whose names are compared: their hashes take 256 MiB.
const MOST_COMPARED: usize = 32 << 20;

/// Why a server would end itself that loads a dump: it has a key twice. A dump that was put in order has none.
///
/// # Errors
/// What cannot be read.
pub(crate) fn twice(repo: &Repository, dump: &Dump, monitor: &dyn Monitor) -> engine::Result<Option<String>> {
    if dump.is_in_order() {
        return Ok(None);
    }
    // With a key of its own: nobody makes names whose hashes are equal, and by chance it only costs time.
    let keyed = RandomState::new();
    let (all, mut hashes) = (Selection::default(), vec![]);
    let mut records = dump.records(repo, &all, Want::Names);
    while let Some(record) = records.next_record()? {
        hashes.push(keyed.hash_one((record.key.database, &record.key.name)));
        if hashes.len() > MOST_COMPARED {
            return Ok(Some(
                "it is in no order, and has too many keys to find one that is there twice".into(),
            ));
        }
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    hashes.sort_unstable();
    let is_twice = hashes.windows(2).any(|two| two[0] == two[1]);
    Ok(is_twice.then(|| "it has a key twice".into()))
}

/// The dump on its way.
struct Out<'a> {
    to: &'a mut dyn Write,
    bytes: Vec<u8>,
    digest: crc_fast::Digest,
}

impl Out<'_> {
    /// The following keys are of this database; how many they are is a hint for the tables.
    fn database(&mut self, number: u32, dump: &Dump) {
        self.bytes.push(opcode::SELECT_DB);
        push_len(&mut self.bytes, u64::from(number));
        // The server makes room for so many, and every key takes three bytes of the dump or more.
        let counts = dump.databases().and_then(|all| all.get(&number));
        let most = dump.len() / 3;
        if let Some(counts) = counts.filter(|counts| counts.keys <= most && counts.expiring <= counts.keys) {
            self.bytes.push(opcode::RESIZE_DB);
            push_len(&mut self.bytes, counts.keys);
            push_len(&mut self.bytes, counts.expiring);
        }
    }

    fn record(&mut self, record: &Record, code: u8, value: &[u8]) {
        let out = &mut self.bytes;
        if let Some(expires_ms) = record.key.expires_ms {
            out.push(opcode::EXPIRE_MS);
            out.extend_from_slice(&expires_ms.to_le_bytes());
        }
        match record.usage {
            Some(Usage::Idle(seconds)) => {
                out.push(opcode::IDLE);
                push_len(out, seconds);
            }
            Some(Usage::Frequency(counter)) => out.extend_from_slice(&[opcode::FREQ, counter]),
            None => {}
        }
        out.push(kind::written(code));
        out.extend_from_slice(&record.key.raw_name);
        out.extend_from_slice(value);
    }

    fn send(&mut self, monitor: &dyn Monitor) -> Result<(), Ended> {
        self.digest.update(&self.bytes);
        self.to.write_all(&self.bytes).map_err(Ended::Write)?;
        monitor.count(Counter::BytesDone, self.bytes.len() as u64);
        self.bytes.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::parse::Key;

    fn version(magic: &str) -> Version {
        Version::parse(magic.as_bytes()).unwrap()
    }

    #[test]
    fn a_server_gets_a_version_that_it_loads() {
        for (own, from, to) in [
            (9, "REDIS0011", "REDIS0009"),
            (9, "REDIS0003", "REDIS0009"),
            (11, "REDIS0012", "REDIS0011"),
            (11, "VALKEY080", "REDIS0011"),
            (12, "REDIS0012", "REDIS0012"),
            (12, "REDIS0010", "REDIS0010"),
            (12, "VALKEY080", "REDIS0012"),
            (80, "REDIS0012", "REDIS0011"),
            (80, "REDIS0010", "REDIS0010"),
            (80, "VALKEY080", "VALKEY080"),
        ] {
            assert_eq!(Loads::of(own, 16).unwrap().version(version(from)).magic(), to, "{own} {from}");
        }
        assert_eq!(Loads::of(8, 16), None);
    }

    #[test]
    fn a_server_knows_formats_up_to_its_own() {
        for (own, from, is_as_new) in [
            (10, "REDIS0010", true),
            (10, "REDIS0011", false),
            (12, "REDIS0009", true),
            (12, "VALKEY080", false),
            (80, "REDIS0011", true),
            (80, "REDIS0012", false),
            (80, "VALKEY080", true),
            (80, "VALKEY081", false),
        ] {
            assert_eq!(Loads::of(own, 16).unwrap().is_as_new_as(version(from)), is_as_new, "{own} {from}");
        }
    }

    #[test]
    fn values_that_no_version_of_the_server_holds_are_refused() {
        let record = |code, value: &[u8]| Record {
            key: Key { kind: code, ..Key::default() },
            len: value.len() as u64,
            value: value.to_vec(),
            usage: None,
        };
        let redis_6 = Loads::of(9, 16).unwrap();
        let from = version("REDIS0011");
        let string = record(kind::STRING, b"\x01v");
        assert_eq!(redis_6.value(from, &string).unwrap(), (kind::STRING, Cow::Borrowed(&b"\x01v"[..])));
        let set = record(
            kind::SET_LISTPACK,
            b"\x14\x14\0\0\0\x04\0\x05\x01\x82ab\x03\xdf\xff\x02\xf1\x10\x27\x03\xff",
        );
        let (code, value) = redis_6.value(from, &set).unwrap();
        assert_eq!(code, kind::SET);
        assert_eq!(check(code, &value), Ok(()));
        assert!(redis_6.value(from, &record(kind::MODULE_2, b"")).unwrap_err().contains("modules"));
        let fields = record(kind::HASH_METADATA, b"");
        assert!(Loads::of(80, 16).unwrap().value(version("REDIS0012"), &fields).is_err());
        assert!(Loads::of(12, 16).unwrap().value(version("REDIS0012"), &fields).is_ok());
    }
}
