//! Redis's own files: a dump (`redis+rdb:///var/lib/redis/dump.rdb`), and append-only files in both layouts
//! (`redis+aof:///var/lib/redis/appendonlydir`, or one file as before Redis 7). They are read as they are at one moment, while
//! the server goes on: what is appended later is left out, a command that is not whole yet too.
//! Source: `aof.c` (manifest, preamble), redis.io/docs "Redis persistence".

use crate::dump::{Origin, RdbSource};
use crate::rdb::check::{Flaw, Flaws, check_payload};
use crate::rdb::parse::{Order, Step, Walk};
use crate::rdb::{MAGIC_LEN, Version};
use crate::resp::{MAX_PAYLOAD, Resp};
use crate::server::link::Stop;
use connector_kit::address::path_of;
use connector_kit::stream::StreamSource;
use engine::Monitor;
use engine::connector::Context;
use engine::entry::Time;
use engine::snapshot::SourceRecord;
use engine::source::at_hand::AtHand;
use engine::source::end_mark::Flaws as _;
use engine::source::{Content, Item, Opener, Piece, Several, Source, SourceError, SourceErrorKind};
use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom};
use std::path::Path;

/// Where files lie in a snapshot, in place of a server's address.
pub(crate) const FOLDER: &str = "redis/files";
/// A rewrite may replace the files between two looks; more often than this it does not.
const ATTEMPTS: u32 = 10;

fn missing(path: &Path, why: impl ToString) -> SourceError {
    SourceError::new(SourceErrorKind::Missing, engine::shown::path(path), why)
}

fn incomplete(path: &Path, why: impl ToString) -> SourceError {
    SourceError::new(SourceErrorKind::Incomplete, engine::shown::path(path), why)
}

/// The source of `redis+rdb://`.
pub fn rdb(url: &url::Url, time: Time, options: &Context) -> Result<RdbSource, SourceError> {
    let path = path_of(url)?;
    let file = File::open(&path).map_err(|error| missing(&path, error))?;
    dump(file, &path, &format!("{FOLDER}/{}", name_of(&path)), time, options)
}

/// A file's name as it is stored, whatever bytes it has.
fn name_of(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    engine::names::encoded_bytes(path.file_name().unwrap_or_default().as_bytes(), "")
}

/// A dump in a file that is open.
fn dump(
    file: File,
    path: &Path,
    stored: &str,
    time: Time,
    options: &Context,
) -> Result<RdbSource, SourceError> {
    let shown = path.display().to_string();
    let (own, mut again) = (path.to_owned(), false);
    let open = Box::new(move |_: &Stop| {
        let mut file = file.try_clone().map_err(|error| missing(&own, error))?;
        if std::mem::replace(&mut again, true) {
            file.seek(SeekFrom::Start(0)).map_err(|error| missing(&own, error))?;
        }
        Ok(Box::new(file) as Box<dyn Read + Send>)
    });
    RdbSource::new(Origin { kind: "redis+rdb", shown, point_in_time: true, open }, stored, time, options)
}

/// The source of `redis+aof://`.
pub fn aof(url: &url::Url, time: Time, options: &Context) -> Result<AofSource, SourceError> {
    let path = path_of(url)?;
    let mut record = SourceRecord::new("redis+aof", path.display().to_string(), true);
    let mut sources: Vec<Box<dyn Source>> = vec![];
    let mut flaws = vec![];
    if path.is_dir() {
        let (manifest_name, manifest, files) = open_parts(&path)?;
        let folder = format!("{FOLDER}/{}", name_of(&path));
        let last = files.len().saturating_sub(1);
        for (number, (name, file)) in files.into_iter().enumerate() {
            let (own, stored) = (path.join(&name), format!("{folder}/{}", engine::names::encoded(&name)));
            if name.ends_with(".rdb") {
                sources.push(Box::new(dump(file, &own, &stored, time, options)?));
                continue;
            }
            let mut found = Flaws::default();
            let len = whole_len(&file, &own, 0, &mut found)?;
            flaws.push((stored.clone(), found));
            let all = file.metadata().map_err(|error| missing(&own, error))?.len();
            if len < all && number < last {
                return Err(incomplete(&own, format!("is torn at byte {len}, and others follow it")));
            }
            if len < all {
                record.details.insert("torn-bytes".into(), (all - len).to_string());
            }
            sources.push(Box::new(part(file, &own, &stored, time, len)?));
        }
        record.details.insert("parts".into(), sources.len().to_string());
        let given = AtHand { reader: std::io::Cursor::new(manifest), name: manifest_name.clone() };
        let open: Opener = Box::new(move || Ok(Box::new(given) as Box<dyn Content>));
        let stored = format!("{folder}/{manifest_name}");
        sources.push(Box::new(StreamSource::new(record.clone(), &stored, time, open)?));
    } else {
        let file = File::open(&path).map_err(|error| missing(&path, error))?;
        let mut found = Flaws::default();
        let preamble = preamble_len(&file, &path, &mut found)?;
        let len = whole_len(&file, &path, preamble, &mut found)?;
        flaws.push((format!("{FOLDER}/{}", name_of(&path)), found));
        let all = file.metadata().map_err(|error| missing(&path, error))?.len();
        if len < all {
            record.details.insert("torn-bytes".into(), (all - len).to_string());
        }
        sources.push(Box::new(part(file, &path, &format!("{FOLDER}/{}", name_of(&path)), time, len)?));
    }
    let sum = Flaws::sum(flaws.iter().map(|(_, flaws)| flaws));
    record.details.extend(sum.details().into_iter().map(|(name, value)| (name.to_owned(), value)));
    let paths = sources.iter().flat_map(|source| source.paths()).collect();
    Ok(AofSource { record, paths, flaws, parts: Several::new(sources) })
}

/// The manifest's name and bytes, and the files that it names.
type Parts = (String, Vec<u8>, Vec<(String, File)>);

/// Opens what the manifest names, all of one moment: a rewrite removes the old files, but what is open stays.
fn open_parts(folder: &Path) -> Result<Parts, SourceError> {
    let entries = std::fs::read_dir(folder).map_err(|error| missing(folder, error))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let name = names
        .into_iter()
        .find(|name| name.ends_with(".manifest"))
        .ok_or_else(|| missing(folder, "has no manifest of an append-only file"))?;
    let path = folder.join(&name);
    let read = || std::fs::read(&path).map_err(|error| missing(&path, error));
    for _ in 0..ATTEMPTS {
        let manifest = read()?;
        let mut files = vec![];
        for part in parts_of(&manifest).map_err(|why| incomplete(&path, why))? {
            match File::open(folder.join(&part)) {
                Ok(file) => files.push((part, file)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                Err(error) => return Err(missing(&folder.join(&part), error)),
            }
        }
        if read()? == manifest && files.len() == parts_of(&manifest).map_or(0, |parts| parts.len()) {
            return Ok((name, manifest, files));
        }
    }
    Err(incomplete(&path, "names files that are not there"))
}

/// The files that a manifest names, base first, without history.
pub(crate) fn parts_of(manifest: &[u8]) -> Result<Vec<String>, String> {
    let text = String::from_utf8_lossy(manifest);
    let mut parts = vec![];
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let bad = || format!("is no manifest: '{line}'");
        let words = words(line).ok_or_else(bad)?;
        let value = |key: &str| words.iter().position(|word| word == key).and_then(|at| words.get(at + 1));
        match (value("file"), value("type").map(String::as_str)) {
            (Some(name), Some("b" | "i")) if !name.contains('/') => parts.push(name.clone()),
            (Some(_), Some("h")) => {}
            _ => return Err(bad()),
        }
    }
    Ok(parts)
}

/// The words of a line; those with blanks stand in quotes (`sdscatrepr`). Other escapes than of quotes and backslashes
/// are bytes that no name of a file should have; `None` for those.
fn words(line: &str) -> Option<Vec<String>> {
    let mut words = vec![];
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let mut word = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut characters = quoted.char_indices();
            let end = loop {
                match characters.next()? {
                    (at, '"') => break at + 1,
                    (_, '\\') => word
                        .push(characters.next().map(|(_, next)| next).filter(|next| "\"\\".contains(*next))?),
                    (_, other) => word.push(other),
                }
            };
            rest = &quoted[end..];
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            word.push_str(&rest[..end]);
            rest = &rest[end..];
        }
        words.push(word);
        rest = rest.trim_start();
    }
    Some(words)
}

/// Length of the dump at the head of an append-only file before Redis 7, and what is wrong in it; 0 if there is none.
fn preamble_len(file: &File, path: &Path, flaws: &mut Flaws) -> Result<u64, SourceError> {
    let mut reader = std::io::BufReader::new(file);
    let mut magic = [0; MAGIC_LEN];
    let is_dump = reader.read_exact(&mut magic).is_ok() && Version::parse(&magic).is_some();
    reader.seek(SeekFrom::Start(0)).map_err(|error| missing(path, error))?;
    if !is_dump {
        return Ok(0);
    }
    let corrupt = |error: crate::rdb::RdbError| incomplete(path, format!("corrupt RDB: {error}"));
    let mut walk = Walk::new(reader, Order::AsIs).map_err(corrupt)?;
    loop {
        match walk.next_step().map_err(corrupt)? {
            Step::Key(key) => flaws.look(&mut walk, &key).map_err(corrupt)?,
            Step::Global(..) => {}
            Step::End => {
                walk.is_all().map_err(corrupt)?;
                return Ok(walk.offset());
            }
        }
    }
}

/// Bytes up to the end of the last command that is whole and in no transaction that is not; values in RDB format that commands bring
/// are looked into.
fn whole_len(file: &File, path: &Path, from: u64, flaws: &mut Flaws) -> Result<u64, SourceError> {
    let failed = |error: std::io::Error| missing(path, error);
    let mut file = file;
    file.seek(SeekFrom::Start(from)).map_err(failed)?;
    let (mut resp, mut whole, mut offset) = (Resp::default(), from, from);
    let mut buffer = vec![0; 1 << 20];
    let (mut open, mut database) = (false, 0);
    loop {
        let len = file.read(&mut buffer).map_err(failed)?;
        if len == 0 {
            break;
        }
        let fed = resp.feed(&buffer[..len], &mut |at, command| {
            match command.name.as_slice() {
                b"MULTI" => open = true,
                b"EXEC" => open = false,
                b"SELECT" => {
                    let number = std::str::from_utf8(&command.first).ok().and_then(|text| text.parse().ok());
                    database = number.unwrap_or_default();
                }
                _ if command.is_restore() => {
                    let found = match command.payload.len() {
                        MAX_PAYLOAD.. => Err(Flaw::Unchecked),
                        _ => check_payload(&command.payload),
                    };
                    if let Err(flaw) = found {
                        flaws.add(database, &command.first, flaw);
                    }
                }
                _ => {}
            }
            if !open {
                whole = offset + at as u64;
            }
        });
        fed.map_err(|why| {
            incomplete(path, format!("corrupt append-only file: {why}, counted from byte {from}"))
        })?;
        offset += len as u64;
    }
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(whole)
}

/// A part, as long as it is whole.
fn part(file: File, path: &Path, stored: &str, time: Time, len: u64) -> Result<StreamSource, SourceError> {
    let record = SourceRecord::new("redis+aof", path.display().to_string(), true);
    let shown = path.display().to_string();
    let open: Opener =
        Box::new(move || Ok(Box::new(Part { file: file.take(len), left: len, shown }) as Box<dyn Content>));
    StreamSource::new(record, stored, time, open)
}

struct Part {
    file: std::io::Take<File>,
    left: u64,
    shown: String,
}

impl Content for Part {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let failed =
            |why: &dyn std::fmt::Display| SourceError::new(SourceErrorKind::Incomplete, &self.shown, why);
        match self.file.read(buffer).map_err(|error| failed(&error))? {
            0 if self.left > 0 => Err(failed(&"became shorter while it was read")),
            0 => Ok(Piece::End),
            len => {
                self.left -= len as u64;
                Ok(Piece::Data(len))
            }
        }
    }
}

/// An append-only file, one thing although it has several parts.
pub struct AofSource {
    record: SourceRecord,
    paths: Vec<String>,
    /// What is wrong in values of its dump and its commands, by the path of the part; told once.
    flaws: Vec<(String, Flaws)>,
    parts: Several,
}

impl Source for AofSource {
    fn records(&self) -> Vec<SourceRecord> {
        let mut record = self.record.clone();
        for part in self.parts.records() {
            record.details.extend(part.details);
        }
        vec![record]
    }
    fn paths(&self) -> Vec<String> {
        self.paths.clone()
    }
    fn start(&mut self, seed: [u64; 2]) -> Result<(), SourceError> {
        self.parts.start(seed)
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        for (path, flaws) in self.flaws.drain(..) {
            flaws.tell(path.trim_start_matches('/'), monitor);
        }
        self.parts.next_item(monitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests() {
        let text = b"file appendonly.aof.2.base.rdb seq 2 type b\nfile old.aof seq 1 type h\nfile appendonly.aof.2.incr.aof seq 2 type i\n";
        assert_eq!(parts_of(text).unwrap(), ["appendonly.aof.2.base.rdb", "appendonly.aof.2.incr.aof"]);
        assert!(parts_of(b"file ../x seq 1 type b\n").is_err());
        assert!(parts_of(b"nonsense\n").is_err());
        let blanks = b"file \"my \\\"aof\\\".1.base.aof\" seq 1 type b\n";
        assert_eq!(parts_of(blanks).unwrap(), ["my \"aof\".1.base.aof"]);
    }

    #[test]
    fn paths_in_urls() {
        let path = |text: &str| path_of(&text.parse().unwrap());
        assert_eq!(path("redis+rdb:///var/lib/a%20b.rdb").unwrap(), Path::new("/var/lib/a b.rdb"));
        assert!(path("redis+rdb://host/x").is_err());
    }
}
