//! Whether a server takes what a dump has, found out while nothing on it is changed.
//!
//! `RESTORE` with an `ABSTTL` in the past reads and checks the value, answers OK, and makes no key (`cluster.c`,
//! `restoreCommand` and `checkAlreadyExpired`, of Redis 6.2 and later; Valkey, too). One value of each type is sent in this
//! way: a server that is older, or has no module for it, refuses it as it would later. The memory that the values take at
//! least is known from the dump.

use super::load::{is_unknown, older};
use super::rewritten::Loads;
use super::{Dump, Record, Records as _, Selection, Want};
use crate::rdb::check::{Flaw, check};
use crate::rdb::parse::Global;
use crate::rdb::value::{Value, decode, module_name};
use crate::rdb::{Version, dump_payload, kind, type_name};
use crate::server::client::Client;
use crate::server::{Server, words};
use engine::source::SourceErrorKind;
use engine::{Counter, Error, Monitor, Repository, Result};
use redis::{RedisError, RedisResult};
use std::collections::BTreeMap;

/// The expiry that is sent, in milliseconds since 1970: the first that means a moment.
const LONG_PAST_MS: u64 = 1;
/// The first version that makes no key of a value that has expired, as far as was tried.
const FIRST_VERSION: (u32, u32) = (6, 2);
/// Bytes of a value that is sent to a server with `maxmemory`: for a large command it may evict keys.
const SMALL: usize = 1 << 20;
/// The first byte of a compressed string. Source: `rdb.h`, `RDB_ENCVAL` and `RDB_ENC_LZF`.
const COMPRESSED: u8 = 0xC3;

/// What the keys of a kind have in common: code of the type, module, and whether an older encoding can be made.
type Alike = (u8, String, bool);

/// Keys of one kind.
#[derive(Default)]
struct Kind {
    keys: u64,
    /// The smallest sound value.
    example: Option<Record>,
}

/// Keys of a dump.
#[derive(Default)]
struct Needs {
    kinds: BTreeMap<Alike, Kind>,
    databases: BTreeMap<u32, u64>,
    /// Bytes that names and values take at least.
    bytes: u64,
    /// Why a server that loads an RDB would not load this one, if that is asked for.
    unfit: Option<String>,
}

impl Needs {
    fn add(&mut self, record: Record, version: Version, loads: Option<Loads>) {
        if let (Some(loads), None) = (loads, &self.unfit) {
            self.unfit = loads.value(version, &record).err();
        }
        self.bytes += record.key.name.len() as u64 + memory(&record);
        *self.databases.entry(record.key.database).or_default() += 1;
        let code = record.key.kind;
        let module = if code == kind::MODULE_2 { module_name(&record.value) } else { String::new() };
        let alike = (code, module, may_have_no_older(code) && older(&record).is_some());
        let kind = self.kinds.entry(alike).or_default();
        kind.keys += 1;
        let is_smaller = kind.example.as_ref().is_none_or(|example| record.value.len() < example.value.len());
        // Of a corrupt or empty value the answer would say nothing about its type.
        if is_smaller && !matches!(check(code, &record.value), Err(Flaw::Corrupt(_) | Flaw::Empty)) {
            kind.example = Some(record);
        }
    }
}

/// Types of which some values have no older encoding, and others do.
fn may_have_no_older(code: u8) -> bool {
    matches!(
        code,
        kind::HASH_METADATA
            | kind::HASH_METADATA_RC
            | kind::HASH_LISTPACK_EX
            | kind::HASH_LISTPACK_EX_RC
            | kind::VALKEY_HASH_2
            | kind::STREAM_LISTPACKS_2
            | kind::STREAM_LISTPACKS_3
    )
}

/// Bytes that a value takes at least. Servers keep strings as they are, and may compress nodes of lists.
fn memory(record: &Record) -> u64 {
    match record.key.kind {
        kind::STRING if record.value.first() == Some(&COMPRESSED) => {
            match decode(kind::STRING, &record.value) {
                Ok(Value::String(text)) => text.len() as u64,
                _ => record.len,
            }
        }
        _ => record.len,
    }
}

/// Reads all keys of a dump with their values, as [`super::proof::prove`], and finds out whether the server can hold
/// them: types, databases, functions, memory. Changes nothing on the server. Keys that have expired at `now_ms`, in
/// milliseconds since 1970, do not count. Returns, for a server that `loads` so, why it would not load all of it as an RDB; it
/// takes the keys one by one all the same.
///
/// # Errors
/// `Refused` with all that the server does not take, counted; or what cannot be read.
pub fn take(
    repo: &Repository,
    dump: &Dump,
    server: &Server,
    loads: Option<Loads>,
    now_ms: u64,
    monitor: &dyn Monitor,
) -> Result<Option<String>> {
    if dump.is_empty() {
        return Ok(None);
    }
    monitor.count(Counter::BytesTotal, dump.len());
    let (version, globals) = dump.head(repo)?;
    let (all, mut needs) = (Selection::default(), Needs::default());
    let mut records = dump.records(repo, &all, Want::Values);
    while let Some(record) = records.next_record()? {
        monitor.count(Counter::BytesDone, record.len);
        if record.key.expires_ms.is_none_or(|expires| expires > now_ms) {
            needs.add(record, version, loads);
        }
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    let mut probe = Probe::new(server, version)?;
    let mut why = vec![];
    let refused = probe.refused(&needs)?;
    if !refused.is_empty() {
        why.push(format!("it does not take these keys: {}", refused.join(", ")));
    }
    why.extend(probe.lacks(needs.databases.into_iter(), &globals)?);
    why.extend(probe.no_room(needs.bytes));
    match why.is_empty() {
        true => Ok(needs.unfit),
        false => Err(cannot_hold(server, &why, "--unproven removes its data for what it can hold")),
    }
}

/// The same of what is known without reading a key, for a server that has nothing to lose: databases and functions.
///
/// # Errors
/// As those of [`take`].
pub fn take_at_once(repo: &Repository, dump: &Dump, server: &Server) -> Result<()> {
    if dump.is_empty() {
        return Ok(());
    }
    let (version, globals) = dump.head(repo)?;
    let known = dump.databases().into_iter().flatten().map(|(database, counts)| (*database, counts.keys));
    // Every server has the first one.
    let why = Probe::new(server, version)?.lacks(known.filter(|(database, _)| *database > 0), &globals)?;
    if why.is_empty() { Ok(()) } else { Err(cannot_hold(server, &why, "--unproven tries it all the same")) }
}

fn cannot_hold(server: &Server, why: &[String], way_out: &str) -> Error {
    Error::Refused(format!("{} cannot hold the snapshot: {}; {way_out}", server.shown, why.join("; ")))
}

/// Asks a server whether it takes values.
struct Probe<'a> {
    connection: Client,
    server: &'a Server,
    version: Version,
    info: String,
}

impl<'a> Probe<'a> {
    fn new(server: &'a Server, version: Version) -> Result<Self> {
        let mut connection = server.connect()?;
        let info: RedisResult<String> = redis::cmd("INFO").query(&mut connection);
        let info = info.map_err(|error| server.error(SourceErrorKind::Unavailable, words(&error)))?;
        Ok(Self { connection, server, version, info })
    }

    fn told(&self, error: &RedisError) -> Error {
        self.server.error(SourceErrorKind::Unavailable, words(error)).into()
    }

    fn says(&self, name: &str) -> Option<&str> {
        self.info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    fn number(&self, name: &str) -> u64 {
        self.says(name).and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    /// Whether a value that has expired makes no key there. A replica that can be written keeps it.
    fn is_safe(&self) -> bool {
        let version = self.says("redis_version").and_then(|version| {
            let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
            Some((parts.next()??, parts.next()??))
        });
        version.is_some_and(|version| version >= FIRST_VERSION) && self.says("role") == Some("master")
    }

    /// The keys that the server does not take, counted by kind.
    fn refused(&mut self, needs: &Needs) -> Result<Vec<String>> {
        let mut refused = vec![];
        if !self.is_safe() {
            return Ok(refused);
        }
        let limited = self.number("maxmemory") > 0;
        for ((code, module, _), Kind { keys, example }) in &needs.kinds {
            let Some(example) = example.as_ref().filter(|one| !limited || one.value.len() <= SMALL) else {
                continue;
            };
            let Some(why) = self.ask(example)? else { continue };
            refused.push(match module.as_str() {
                "" => {
                    let (what, magic) = (type_name(*code), self.version.magic());
                    format!("{keys} of type {what} in an encoding of version {magic} ({why})")
                }
                module => format!("{keys} of the module type '{module}' ({why})"),
            });
        }
        Ok(refused)
    }

    /// Why the server does not take a value, in any encoding that it may know; `None` if it does, or does not say.
    fn ask(&mut self, record: &Record) -> Result<Option<String>> {
        let name = self.free_name(record)?;
        let (code, value) = (record.key.kind, &record.value);
        let Some(refusal) = self.try_one(&name, code, value)? else { return Ok(None) };
        for (code, value) in older(record).unwrap_or_default() {
            if self.try_one(&name, code, &value)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(refusal))
    }

    /// A name that no key of the server has. It begins as the key's does: users may be allowed only such names.
    fn free_name(&mut self, record: &Record) -> Result<Vec<u8>> {
        let mut number = std::process::id();
        loop {
            let name = [&record.key.name[..], format!(":esker-asks-{number}").as_bytes()].concat();
            let there: RedisResult<u64> = redis::cmd("EXISTS").arg(&name).query(&mut self.connection);
            match there {
                Err(error) if error.is_io_error() => return Err(self.told(&error)),
                Ok(there) if there > 0 => number = number.wrapping_add(1),
                // Without REPLACE, which is never sent, no key that is there is touched.
                _ => return Ok(name),
            }
        }
    }

    fn try_one(&mut self, name: &[u8], code: u8, value: &[u8]) -> Result<Option<String>> {
        let mut command = redis::cmd("RESTORE");
        command.arg(name).arg(LONG_PAST_MS).arg(dump_payload(self.version, code, value)).arg("ABSTTL");
        let answer: RedisResult<redis::Value> = command.query(&mut self.connection);
        let Err(error) = answer else { return Ok(None) };
        let concerns_all = ["NOPERM", "NOAUTH", "READONLY", "MISCONF", "LOADING"];
        if is_unknown(&error) {
            Ok(Some(words(&error)))
        } else if error.is_io_error() || concerns_all.iter().any(|all| error.code() == Some(all)) {
            Err(self.told(&error))
        } else {
            // A full server is emptied before it takes anything; a node of a cluster takes its own slots only.
            Ok(None)
        }
    }

    /// Databases, each with its keys in the snapshot, and functions that it does not have a place for.
    fn lacks(
        &mut self,
        databases: impl Iterator<Item = (u32, u64)>,
        globals: &[(Global, Vec<u8>)],
    ) -> Result<Vec<String>> {
        let mut why = vec![];
        for (database, keys) in databases {
            if !self.has_database(database)? {
                why.push(format!("it has no database {database} (keys of the snapshot there: {keys})"));
            }
        }
        if globals.iter().any(|(global, _)| *global == Global::Function) {
            why.extend(self.functions()?);
        }
        Ok(why)
    }

    fn has_database(&mut self, number: u32) -> Result<bool> {
        let selected: RedisResult<()> = redis::cmd("SELECT").arg(number).query(&mut self.connection);
        match selected {
            Ok(()) => Ok(true),
            Err(error) if error.to_string().contains("out of range") => Ok(false),
            Err(error) => Err(self.told(&error)),
        }
    }

    /// Why the server takes no functions. An empty payload is refused by every server that has them, and changes nothing.
    fn functions(&mut self) -> Result<Option<String>> {
        let answer: RedisResult<redis::Value> =
            redis::cmd("FUNCTION").arg("RESTORE").arg("").query(&mut self.connection);
        match answer {
            Err(error) if error.is_io_error() => Err(self.told(&error)),
            Err(error) if error.to_string().contains("unknown") || error.code() == Some("NOPERM") => {
                Ok(Some(format!("it takes no functions, and the snapshot has some ({})", words(&error))))
            }
            _ => Ok(None),
        }
    }

    /// That `maxmemory` is less than names and values take at least.
    fn no_room(&self, bytes: u64) -> Option<String> {
        let most = self.number("maxmemory");
        let least = bytes + self.number("used_memory_startup");
        (most > 0 && least > most).then(|| {
            format!("its maxmemory is {most} bytes, and the keys take at least {least}; CONFIG SET maxmemory raises it")
        })
    }
}
