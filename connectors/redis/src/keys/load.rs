//! Keys of a snapshot into a live server: `RESTORE`, pipelined, each value as the bytes it is.

use super::unmet::Unmet;
use super::{Dump, Record, Records as _, Selection, Want};
use crate::rdb::check::{Flaw, check};
use crate::rdb::copy::older_stream;
use crate::rdb::parse::Usage;
use crate::rdb::value::{decode, encode_plain, module_name};
use crate::rdb::{Version, dump_payload, kind};
use crate::server::client::Client;
use crate::server::{Server, words};
use engine::source::SourceErrorKind;
use engine::{Counter, Error, ItemError, Monitor, Repository, Result};
use redis::{Pipeline, RedisResult, Value};
use std::collections::HashSet;

/// What to do with keys that the server has already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Leave them, and say so: nothing is overwritten that nobody asked to.
    #[default]
    Refuse,
    /// Leave them.
    Skip,
    /// Overwrite them.
    Replace,
}

/// Choices for loading.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Which keys.
    pub selection: Selection,
    /// Beginnings of names, and what stands there instead; the first that fits counts.
    pub map_prefixes: Vec<(Vec<u8>, Vec<u8>)>,
    /// The database to write into; each key's own if not given.
    pub into_database: Option<u32>,
    /// See [`Existing`].
    pub existing: Existing,
    /// Ask, but write nothing.
    pub dry_run: bool,
    /// Now, in milliseconds since 1970: keys that have expired are left out.
    pub now_ms: u64,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Keys written; in a dry run: that would be.
    pub restored: u64,
    /// Keys that the server had, and kept.
    pub existing: u64,
    /// Keys that have expired since the backup.
    pub expired: u64,
    /// Collections without elements, which no server keeps.
    pub empty: u64,
    /// Keys that the server refused.
    pub refused: u64,
    /// Keys, patterns and databases that were asked for and that no key of the dump answers to.
    pub missing: u64,
    /// Bytes of values written.
    pub bytes: u64,
    /// Keys that were sent and not answered for, if it ended early: each of them may be written.
    pub unanswered: u64,
}

impl LoadReport {
    /// Keys of the dump that were chosen, whatever became of them.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.restored + self.existing + self.expired + self.empty + self.refused
    }

    /// Adds what another connection did.
    pub(super) fn add(&mut self, other: &Self) {
        self.restored += other.restored;
        self.existing += other.existing;
        self.expired += other.expired;
        self.empty += other.empty;
        self.refused += other.refused;
        self.missing += other.missing;
        self.bytes += other.bytes;
        self.unanswered += other.unanswered;
    }
}

/// Commands under way at a time, and their bytes.
pub(super) const BATCH_KEYS: usize = 512;
pub(super) const BATCH_BYTES: usize = 4 << 20;
/// Refusals that are told one by one.
pub(super) const TOLD: u64 = 10;

/// Writes keys of `dump` into `server`.
pub fn load(
    repo: &Repository,
    dump: &Dump,
    server: &Server,
    options: &LoadOptions,
    monitor: &dyn Monitor,
) -> Result<LoadReport> {
    let mut report = LoadReport::default();
    load_counted(repo, dump, server, options, monitor, &mut report)?;
    Ok(report)
}

/// The same; of what ends early, too, the report says what was done.
pub fn load_counted(
    repo: &Repository,
    dump: &Dump,
    server: &Server,
    options: &LoadOptions,
    monitor: &dyn Monitor,
    report: &mut LoadReport,
) -> Result<()> {
    if dump.is_empty() {
        return Ok(());
    }
    let mut unmet = Unmet::new(&options.selection, &options.map_prefixes);
    known_prefixes(repo, dump, &options.selection, &mut unmet)?;
    let (version, _) = dump.head(repo)?;
    let mut loading = Loading::new(server, options, version, monitor, report)?;
    let mut records = dump.records(repo, &options.selection, Want::Values);
    while let Some(record) = records.next_record()? {
        unmet.meet(&record.key.name);
        loading.add(record)?;
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    loading.flush()?;
    loading.miss(unmet.describe());
    Ok(())
}

/// That each prefix is one of a chosen key, before anything is written: what a mistyped one leaves under its own name
/// would go over what is there.
fn known_prefixes(
    repo: &Repository,
    dump: &Dump,
    selection: &Selection,
    unmet: &mut Unmet<'_>,
) -> Result<()> {
    if unmet.has_all_prefixes() {
        return Ok(());
    }
    let mut records = dump.records(repo, selection, Want::Names);
    while let Some(record) = records.next_record()? {
        unmet.meet(&record.key.name);
        if unmet.has_all_prefixes() {
            return Ok(());
        }
    }
    let names: Vec<String> =
        unmet.prefixes().map(|prefix| format!("'{}'", engine::shown::name(prefix))).collect();
    Err(Error::Invalid(format!(
        "no chosen key takes its name from --map-prefix {}; nothing was written",
        names.join(", ")
    )))
}

/// Keys on their way over one connection.
pub(super) struct Loading<'a> {
    connection: Client,
    server: &'a Server,
    options: &'a LoadOptions,
    version: Version,
    monitor: &'a dyn Monitor,
    batch: Pipeline,
    /// The keys of the batch.
    pending: Vec<Pending>,
    bytes: usize,
    database: Option<u32>,
    /// What was written, if names or databases are exchanged: two keys could become one.
    written: Option<HashSet<[u8; 16]>>,
    /// How many troubles of a kind are told one by one.
    pub(super) told: u64,
    report: &'a mut LoadReport,
}

/// A key that an answer is waited for.
struct Pending {
    name: Vec<u8>,
    record: Record,
}

impl<'a> Loading<'a> {
    pub(super) fn new(
        server: &'a Server,
        options: &'a LoadOptions,
        version: Version,
        monitor: &'a dyn Monitor,
        report: &'a mut LoadReport,
    ) -> Result<Self> {
        Ok(Self {
            connection: server.connect()?,
            server,
            options,
            version,
            monitor,
            batch: Pipeline::new(),
            pending: vec![],
            bytes: 0,
            database: None,
            written: (!options.map_prefixes.is_empty() || options.into_database.is_some()).then(HashSet::new),
            told: TOLD,
            report,
        })
    }

    pub(super) fn add(&mut self, record: Record) -> Result<()> {
        if record.key.expires_ms.is_some_and(|expires| expires <= self.options.now_ms) {
            self.report.expired += 1;
            return Ok(());
        }
        let database = self.options.into_database.unwrap_or(record.key.database);
        if self.database != Some(database) {
            self.flush()?;
            let selected: RedisResult<()> = redis::cmd("SELECT").arg(database).query(&mut self.connection);
            selected
                .map_err(|error| self.told(format!("cannot use database {database}: {}", words(&error))))?;
            self.database = Some(database);
        }
        let name = mapped(&record.key.name, &self.options.map_prefixes);
        if let Some(written) = &mut self.written
            && !written.insert(place(database, &name))
        {
            self.report.refused += 1;
            let why = format!(
                "another key of this restore has this name there; '{}' of database {} is left out",
                engine::shown::name(&record.key.name),
                record.key.database
            );
            self.tell(self.report.refused, &name, why);
            return Ok(());
        }
        if self.options.dry_run {
            self.batch.cmd("EXISTS").arg(&name);
        } else {
            let payload = dump_payload(self.version, record.key.kind, &record.value);
            self.bytes += payload.len();
            let command = restore(&name, payload, &record, self.options.existing);
            self.batch.add_command(command);
        }
        self.pending.push(Pending { name, record });
        if self.pending.len() >= BATCH_KEYS || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.bytes = 0;
        if pending.is_empty() {
            return Ok(());
        }
        let mut batch = std::mem::replace(&mut self.batch, Pipeline::new());
        self.report.unanswered = pending.len() as u64;
        let answers: RedisResult<Vec<RedisResult<Value>>> = batch.ignore_errors().query(&mut self.connection);
        let answers = answers.map_err(|error| self.told(words(&error)))?;
        self.report.unanswered = 0;
        for (Pending { name, record }, answer) in pending.into_iter().zip(answers) {
            let answer = match answer {
                Err(error) if is_unknown(&error) => self.once_more(&name, &record).unwrap_or(Err(error)),
                answer => answer,
            };
            match answer {
                Ok(Value::Int(1)) if self.options.existing != Existing::Replace => self.exists(&name),
                Ok(_) => {
                    self.report.restored += 1;
                    self.report.bytes += record.len;
                    self.monitor.count(Counter::BytesDone, record.len);
                }
                Err(error) if error.code() == Some("BUSYKEY") => self.exists(&name),
                Err(error) => self.refused(&name, &record, &error)?,
            }
        }
        Ok(())
    }

    /// An older server may know the type, but not this encoding of it; there is one that all know. `None` if there is none
    /// for this value.
    fn once_more(&mut self, name: &[u8], record: &Record) -> Option<RedisResult<Value>> {
        let mut answer = None;
        for (kind, bytes) in older(record)? {
            let payload = dump_payload(self.version, kind, &bytes);
            let done = restore(name, payload, record, self.options.existing).query(&mut self.connection);
            let unknown = done.as_ref().is_err_and(is_unknown);
            answer = Some(done);
            if !unknown {
                break;
            }
        }
        answer
    }

    /// Tells what no key answers to.
    fn miss(&mut self, names: Vec<String>) {
        for name in names {
            self.report.missing += 1;
            self.tell(self.report.missing, name.as_bytes(), "no key of the snapshot answers to it".into());
        }
    }

    fn exists(&mut self, name: &[u8]) {
        self.report.existing += 1;
        if self.options.existing == Existing::Refuse {
            let why = "is there already; --replace overwrites, --skip-existing leaves it without a word";
            self.tell(self.report.existing, name, why.into());
        }
    }

    fn refused(&mut self, name: &[u8], record: &Record, error: &redis::RedisError) -> Result<()> {
        let text = words(error);
        // These errors concern the whole server, not this key: stop.
        if ["OOM", "NOPERM", "NOAUTH", "READONLY", "MISCONF", "LOADING"]
            .iter()
            .any(|code| error.code() == Some(code))
        {
            return Err(self.told(text));
        }
        let (kind, flaw) = (record.key.kind, check(record.key.kind, &record.value));
        if is_unknown(error) && flaw == Err(Flaw::Empty) {
            self.report.empty += 1;
            return Ok(());
        }
        self.report.refused += 1;
        let why = if !is_unknown(error) {
            text
        } else if let Err(flaw @ Flaw::Corrupt(_)) = flaw {
            format!("the server does not take it: {flaw}; so it was when it was backed up")
        } else if kind == kind::MODULE_2 {
            let module = module_name(&record.value);
            format!(
                "the server does not take it: it has no module for values of type '{module}', or an older one"
            )
        } else if text.contains("version or checksum") {
            format!(
                "the server refuses it: it is older than the type of this value, which is from a dump of \
                    version {}",
                self.version.magic()
            )
        } else {
            format!(
                "the server does not take it: it says '{text}', though nothing was found wrong with the value"
            )
        };
        let why = if error.code() == Some("MOVED") {
            format!("belongs to another node of the cluster: {why}")
        } else {
            why
        };
        self.tell(self.report.refused, name, why);
        Ok(())
    }

    fn tell(&self, count: u64, name: &[u8], message: String) {
        let item = engine::names::encoded_bytes(name, "");
        if count <= self.told {
            self.monitor.error(ItemError { during: "restore", item, message });
        }
    }

    fn told(&self, why: String) -> Error {
        self.server.error(SourceErrorKind::Unavailable, why).into()
    }
}

/// The encodings of a value that older servers know; `None` if there is none for this value.
pub(super) fn older(record: &Record) -> Option<Vec<(u8, Vec<u8>)>> {
    let (kind, value) = (record.key.kind, &record.value);
    check(kind, value).ok()?;
    let streams = [kind::STREAM_LISTPACKS_2, kind::STREAM_LISTPACKS];
    Some(match kind {
        kind::STREAM_LISTPACKS_3 | kind::STREAM_LISTPACKS_2 => {
            let older = streams.into_iter().filter(|older| *older < kind);
            older.filter_map(|older| Some((older, older_stream(kind, value, older)?))).collect()
        }
        other => vec![encode_plain(&decode(other, value).ok()?)?],
    })
}

/// Whether the server does not know the version or the type of a value.
pub(super) fn is_unknown(error: &redis::RedisError) -> bool {
    let text = error.to_string();
    text.contains("version or checksum") || text.contains("Bad data format")
}

/// The command that writes a key.
fn restore(name: &[u8], payload: Vec<u8>, record: &Record, existing: Existing) -> redis::Cmd {
    let mut command = redis::cmd("RESTORE");
    command.arg(name).arg(record.key.expires_ms.unwrap_or(0)).arg(payload).arg("ABSTTL");
    if existing == Existing::Replace {
        command.arg("REPLACE");
    }
    match record.usage {
        Some(Usage::Idle(seconds)) => {
            command.arg("IDLETIME").arg(seconds);
        }
        Some(Usage::Frequency(counter)) => {
            command.arg("FREQ").arg(counter);
        }
        None => {}
    }
    command
}

/// A name in a database, in short.
fn place(database: u32, name: &[u8]) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&database.to_le_bytes()).update(name);
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    short
}

/// A name with its beginning exchanged.
fn mapped(name: &[u8], prefixes: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    for (from, to) in prefixes {
        if let Some(rest) = name.strip_prefix(from.as_slice()) {
            return [to, rest].concat();
        }
    }
    name.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_exchanged_once() {
        let prefixes = [(b"user:".to_vec(), b"old:user:".to_vec()), (b"".to_vec(), b"x".to_vec())];
        assert_eq!(mapped(b"user:1", &prefixes), b"old:user:1");
        assert_eq!(mapped(b"other", &prefixes), b"xother");
        assert_eq!(mapped(b"other", &prefixes[..1]), b"other");
    }
}
