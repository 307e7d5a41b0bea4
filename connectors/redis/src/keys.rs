//! The keys of a Redis dump in a snapshot: found, listed and read without the rest of it.
//!
//! A sorted dump has a seek index beside it, so that reading a key or a prefix reads only its chunks. A raw dump is
//! read from beginning to end: slower, with the same result.

use crate::rdb::canonical::{Canonical, USAGE_LEN, gather, read_usage};
use crate::rdb::index::{Counts, SeekIndex, after_prefix};
use crate::rdb::parse::{Global, Key, Order, Part, Step, Usage, Walk};
use crate::rdb::{RdbError, Version};
use chunkstore::ingest::ChunkRef;
use connector_kit::glob::Glob;
use engine::snapshot::Snapshot;
use engine::{Error, Repository, Result};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::io::Read;

mod bytes;
pub mod compare;
mod find;
pub mod load;
pub mod proof;
pub mod taken;
mod unmet;

use bytes::Bytes;
pub use find::{Commands, find, has_keys, is_dump};

/// A dump in a snapshot.
pub struct Dump {
    /// Its path, without leading slash.
    pub path: String,
    content: Vec<ChunkRef>,
    len: u64,
    index: Option<SeekIndex>,
    usage: Option<(Vec<ChunkRef>, u64)>,
    /// The commands that come after it, of an append-only file.
    pub commands: Vec<Commands>,
}

/// What belongs to no key, each with its bytes in the dump.
pub type Globals = Vec<(Global, Vec<u8>)>;

/// Which keys are meant.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Only this database.
    pub database: Option<u32>,
    /// Keys that fit any of these; all if both lists are empty.
    pub patterns: Vec<Glob>,
    /// Keys of these names.
    pub names: HashSet<Vec<u8>>,
}

impl Selection {
    /// A selection by patterns; those without wildcards are names.
    #[must_use]
    pub fn new(database: Option<u32>, patterns: &[Vec<u8>]) -> Self {
        let mut selection = Self { database, ..Self::default() };
        for pattern in patterns {
            let glob = Glob::new(pattern.clone());
            match glob.literal() {
                (name, true) => {
                    selection.names.insert(name);
                }
                _ => selection.patterns.push(glob),
            }
        }
        selection
    }

    /// Whether a key is meant.
    #[must_use]
    pub fn fits(&self, database: u32, name: &[u8]) -> bool {
        self.database.is_none_or(|wanted| wanted == database)
            && (self.is_open()
                || self.names.contains(name)
                || self.patterns.iter().any(|pattern| pattern.fits(name)))
    }

    fn is_open(&self) -> bool {
        self.names.is_empty() && self.patterns.is_empty()
    }
}

/// For people: "keys 'user:*', 3 names, database 0". Single names are counted, since there may be many.
impl std::fmt::Display for Selection {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let patterns =
            self.patterns.iter().map(|pattern| format!("'{}'", engine::shown::name(pattern.as_bytes())));
        let mut all: Vec<String> = patterns.collect();
        match (self.names.len(), self.names.iter().next()) {
            (0, _) | (_, None) => {}
            (1, Some(name)) => all.push(format!("'{}'", engine::shown::name(name))),
            (count, _) => all.push(format!("{count} names")),
        }
        match all.is_empty() {
            true => write!(out, "all keys of the snapshot")?,
            false => write!(out, "keys {}", all.join(", "))?,
        }
        self.database.map_or(Ok(()), |database| write!(out, ", database {database}"))
    }
}

/// A key and what is known of its value.
pub struct Record {
    /// The key.
    pub key: Key,
    /// Bytes of the value as the dump has it.
    pub len: u64,
    /// These bytes, if they were asked for.
    pub value: Vec<u8>,
    /// How the key was used.
    pub usage: Option<Usage>,
}

/// What is wanted of each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Name, type, size and expiry.
    Names,
    /// The value, too.
    Values,
}

/// A part of a dump to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    from: u64,
    to: u64,
    database: u32,
    /// Keys before it.
    ordinal: u64,
}

impl Dump {
    /// What has no dump: commands are all there is.
    fn without_keys(path: String) -> Self {
        Self { path, content: vec![], len: 0, index: None, usage: None, commands: vec![] }
    }

    /// The folder that its databases are in, for [`Place::parse`]: a stream is a server's of no name.
    #[must_use]
    pub fn folder(&self) -> String {
        match self.path.split('/').collect::<Vec<_>>()[..] {
            ["redis", server, _, ..] => format!("redis/{server}/"),
            _ => "redis/".to_owned(),
        }
    }

    /// Keys by database, if that is known without reading all.
    #[must_use]
    pub fn databases(&self) -> Option<&BTreeMap<u32, Counts>> {
        self.index.as_ref().map(|index| &index.databases)
    }

    /// Bytes of the dump.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes, which no dump has: an append-only file without one at its head.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the keys of a selection may lie, in order and apart from each other. Without an index: anywhere.
    fn stretches(&self, selection: &Selection) -> Vec<Stretch> {
        let Some(index) = &self.index else {
            return vec![Stretch { from: 0, to: self.len, database: 0, ordinal: 0 }];
        };
        let databases = index.databases.keys().copied();
        let mut all = vec![];
        for database in databases.filter(|number| selection.database.is_none_or(|wanted| wanted == *number)) {
            let mut add = |from: &[u8], to: Option<&[u8]>| {
                if let Some((point, to)) = index.stretch(database, from, to) {
                    let (from, database, ordinal) = (point.offset, point.database, point.ordinal);
                    all.push(Stretch { from, to, database, ordinal });
                }
            };
            if selection.is_open() {
                add(b"", None);
            }
            for name in &selection.names {
                let next = [name, &b"\0"[..]].concat();
                add(name, Some(&next));
            }
            for pattern in &selection.patterns {
                let (prefix, _) = pattern.literal();
                add(&prefix, after_prefix(&prefix).as_deref());
            }
        }
        all.sort_unstable_by_key(|stretch| stretch.from);
        let mut apart: Vec<Stretch> = vec![];
        for stretch in all {
            match apart.last_mut() {
                Some(last) if stretch.from <= last.to => last.to = last.to.max(stretch.to),
                _ => apart.push(stretch),
            }
        }
        apart
    }

    /// The keys of a selection, in the dump's order.
    pub fn records<'a>(&'a self, repo: &'a Repository, selection: &'a Selection, want: Want) -> Stored<'a> {
        let stretches = self.stretches(selection);
        let plan = Bytes::new(repo.store(), &self.content)
            .plan(stretches.iter().map(|stretch| (stretch.from, stretch.to)));
        let usage = self.usage.as_ref().filter(|_| want == Want::Values && self.index.is_some());
        // A stretch reads of its uses as many as it has keys, which only the walk will tell: they are few bytes.
        let usage = usage.map(|(chunks, len)| {
            let ends = stretches.iter().map(|stretch| (stretch.ordinal * USAGE_LEN).min(*len));
            Bytes::new(repo.store(), chunks).plan(ends.map(|from| (from, *len)))
        });
        Stored { dump: self, selection, want, stretches: stretches.into(), plan, usage, current: None }
    }

    /// All keys in order of database and name, with their values. A dump that was stored as it came is ordered
    /// first, with spill files in `scratch`.
    pub fn in_order<'a>(
        &'a self,
        repo: &'a Repository,
        all: &'a Selection,
        scratch: &std::path::Path,
    ) -> Result<Box<dyn Records + 'a>> {
        self.has_keys()?;
        if self.index.is_some() {
            return Ok(Box::new(self.records(repo, all, Want::Values)));
        }
        let mut plan = Bytes::new(repo.store(), &self.content).plan([(0, self.len)].into_iter());
        Ok(Box::new(Live::gather(plan.next_stretch(), &self.path, scratch)?))
    }

    /// Refuses an append-only file without a dump, whose keys only a server knows.
    fn has_keys(&self) -> Result<()> {
        if !self.is_empty() {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "/{} is an append-only file of commands, without a dump that keys can be read from; restore all of it into \
             an empty server by --to, and take the keys from there",
            self.path
        )))
    }

    /// Where the commands begin that follow a dump at the head of a file.
    pub(crate) fn end(&self, repo: &Repository) -> Result<u64> {
        let told = |error| self.told(error);
        let mut plan = Bytes::new(repo.store(), &self.content).plan([(0, self.len)].into_iter());
        let mut walk = Walk::new(plan.next_stretch(), Order::AsIs).map_err(told)?;
        loop {
            match walk.next_step().map_err(told)? {
                Step::End => break,
                Step::Global(..) => {}
                Step::Key(key) => walk.value(key.kind, &mut |_| Ok(())).map_err(told)?,
            }
        }
        walk.is_all().map_err(told)?;
        Ok(walk.offset())
    }

    /// What stands before the keys: version, and what belongs to no key, as bytes of the dump.
    pub fn head(&self, repo: &Repository) -> Result<(Version, Globals)> {
        let end =
            self.index.as_ref().map(|index| index.points.first().map_or(index.end, |first| first.offset));
        let mut plan =
            Bytes::new(repo.store(), &self.content).plan([(0, end.unwrap_or(self.len))].into_iter());
        let told = |error| self.told(error);
        let mut walk = Walk::new(plan.next_stretch(), Order::AsIs).map_err(told)?;
        let version = walk.version();
        let mut globals = vec![];
        while !walk.is_at_end().map_err(told)? {
            match walk.next_step().map_err(told)? {
                Step::Global(global, raw) => globals.push((global, raw)),
                _ => break,
            }
        }
        Ok((version, globals))
    }

    fn told(&self, error: RdbError) -> Error {
        match error {
            RdbError::Malformed(bad) => {
                Error::Malformed { what: format!("/{}", self.path), why: bad.to_string() }
            }
            RdbError::Unknown(bad) => Error::Invalid(format!(
                "/{}: {bad}; restore the file by --target, and let a server load it that knows this",
                self.path
            )),
            RdbError::Read(error) => read_error(&self.path, error),
        }
    }
}

/// What went wrong when an entry was read.
fn read_error(path: &str, error: std::io::Error) -> Error {
    match error.downcast::<chunkstore::Error>() {
        Ok(error) => error.into(),
        Err(error) => Error::Malformed { what: format!("/{path}"), why: error.to_string() },
    }
}

/// Keys one after the other.
pub trait Records {
    /// The next; `None` at the end.
    fn next_record(&mut self) -> Result<Option<Record>>;
}

/// Keys of a dump in a snapshot.
pub struct Stored<'a> {
    dump: &'a Dump,
    selection: &'a Selection,
    want: Want,
    stretches: VecDeque<Stretch>,
    plan: bytes::Plan<'a>,
    usage: Option<bytes::Plan<'a>>,
    current: Option<Current<'a>>,
}

/// The stretch that is being walked through, and its uses.
struct Current<'a> {
    walk: Walk<bytes::Stretch<'a>>,
    usage: Option<std::io::BufReader<bytes::Stretch<'a>>>,
}

impl Records for Stored<'_> {
    fn next_record(&mut self) -> Result<Option<Record>> {
        let told = |error: RdbError| self.dump.told(error);
        loop {
            let Some(current) = &mut self.current else {
                let Some(stretch) = self.stretches.pop_front() else { return Ok(None) };
                let reader = self.plan.next_stretch();
                let walk = match &self.dump.index {
                    Some(index) => Walk::resume(reader, index.version, stretch.from, stretch.database),
                    None => Walk::new(reader, Order::AsIs).map_err(told)?,
                };
                let usage = self.usage.as_mut().map(|plan| std::io::BufReader::new(plan.next_stretch()));
                self.current = Some(Current { walk, usage });
                continue;
            };
            let over = self.dump.index.is_some() && current.walk.is_at_end().map_err(told)?;
            let step = if over { Step::End } else { current.walk.next_step().map_err(told)? };
            let key = match step {
                Step::Global(..) => continue,
                Step::Key(key) => key,
                Step::End => {
                    self.current = None;
                    continue;
                }
            };
            let mut usage = key.usage;
            if let Some(uses) = &mut current.usage {
                let mut bytes = [0; USAGE_LEN as usize];
                uses.read_exact(&mut bytes).map_err(|error| told(error.into()))?;
                usage = read_usage(bytes);
            }
            let fits = self.selection.fits(key.database, &key.name);
            let (len, value) =
                read_value(&mut current.walk, key.kind, fits && self.want == Want::Values).map_err(told)?;
            if fits {
                return Ok(Some(Record { key, len, value, usage }));
            }
        }
    }
}

/// Reads past a value; its bytes come along if they are wanted.
fn read_value<R: Read>(walk: &mut Walk<R>, kind: u8, wanted: bool) -> Result<(u64, Vec<u8>), RdbError> {
    let (mut len, mut value) = (0, vec![]);
    walk.value(kind, &mut |part| {
        let (Part::Whole(bytes) | Part::Piece(bytes) | Part::Member(_, bytes)) = part;
        len += bytes.len() as u64;
        if wanted {
            value.extend_from_slice(bytes);
        }
        Ok(())
    })?;
    Ok((len, value))
}

/// All keys of a dump that comes from elsewhere, in order.
pub struct Live<R> {
    walk: Walk<R>,
    shown: String,
}

impl Live<Canonical> {
    /// Gathers a dump; spill files go into `scratch`.
    pub fn gather(reader: impl Read, shown: &str, scratch: &std::path::Path) -> Result<Self> {
        let told = |error| crate::dump::told(error, shown);
        let canonical = Canonical::new(gather(reader, scratch).map_err(told)?, scratch, [0; 2]);
        Ok(Self { walk: Walk::new(canonical, Order::AsIs).map_err(told)?, shown: shown.to_owned() })
    }
}

impl<R: Read> Records for Live<R> {
    fn next_record(&mut self) -> Result<Option<Record>> {
        let told = |error| crate::dump::told(error, &self.shown);
        loop {
            match self.walk.next_step().map_err(told)? {
                Step::End => return Ok(None),
                Step::Global(..) => {}
                Step::Key(key) => {
                    let (len, value) = read_value(&mut self.walk, key.kind, true).map_err(told)?;
                    let usage = key.usage;
                    return Ok(Some(Record { key, len, value, usage }));
                }
            }
        }
    }
}

/// A place among the keys of a snapshot: `redis/[SERVER/]DATABASE[/KEY]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The server's folder, if it is named, as [`engine::names::path_text`] has it.
    pub server: Option<String>,
    /// The database, if it is named.
    pub database: Option<u32>,
    /// The key, if it is named; keys may have slashes.
    pub key: Option<Vec<u8>>,
}

impl Place {
    /// Reads a path, as [`engine::names::path_text`] has it; `None` if it is that of an entry rather than of keys.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("redis/")?;
        let (server, rest) = match rest.split_once('/') {
            Some((server, rest)) if server.parse::<u32>().is_err() => (Some(server.to_owned()), rest),
            None if rest.parse::<u32>().is_err() => return None,
            _ => (None, rest),
        };
        let (database, key) = match rest.split_once('/') {
            Some((database, key)) => (database, Some(key)),
            None => (rest, None),
        };
        let database = Some(database.parse().ok()?);
        let key = key.filter(|key| !key.is_empty()).map(engine::names::path_bytes);
        Some(Self { server, database, key })
    }

    /// The names that a key in a path may have: that itself, or of which it is the reversible form, as for paths.
    #[must_use]
    pub fn names(&self) -> HashSet<Vec<u8>> {
        let decoded =
            |key: &Vec<u8>| std::str::from_utf8(key).map_or_else(|_| key.clone(), engine::names::path_bytes);
        self.key.iter().flat_map(|key| [key.clone(), decoded(key)]).collect()
    }

    /// The name of the one key that is meant; `None` if the dump has none of this name.
    ///
    /// # Errors
    /// That it is the name of one key and the reversible form of another.
    pub fn name(&self, repo: &Repository, dump: &Dump) -> Result<Option<Vec<u8>>> {
        let selection = Selection { database: self.database, names: self.names(), ..Selection::default() };
        let mut records = dump.records(repo, &selection, Want::Names);
        let found = records.next_record()?;
        if records.next_record()?.is_some() {
            return Err(Error::Invalid(
                "this is the name of one key and the reversible form of another: give its bytes".into(),
            ));
        }
        Ok(found.map(|record| record.key.name))
    }

    /// The place that `SNAPSHOT:path` names, if it does. Slashes at the end of a key belong to it.
    #[must_use]
    pub fn in_argument(argument: &str) -> Option<Self> {
        Self::parse(argument.split_once(':')?.1.trim_start_matches('/'))
    }

    /// The one dump of the snapshot that is meant.
    pub fn dump(&self, repo: &Repository, snapshot: &Snapshot) -> Result<Dump> {
        let mut beneath = b"redis".to_vec();
        if let Some(server) = &self.server {
            beneath.push(b'/');
            beneath.extend(engine::names::path_bytes(server));
        }
        let dump = one(find(repo, snapshot, &beneath)?)?;
        dump.has_keys()?;
        Ok(dump)
    }
}

/// The only one of some dumps.
pub fn one(mut dumps: Vec<Dump>) -> Result<Dump> {
    match (dumps.pop(), dumps.len()) {
        (Some(dump), 0) => Ok(dump),
        (None, _) => Err(Error::Invalid("there is no Redis dump in this snapshot".into())),
        (Some(last), _) => {
            let mut paths: Vec<String> = dumps.iter().map(|dump| dump.path.clone()).collect();
            paths.push(last.path);
            Err(Error::Invalid(format!(
                "the snapshot holds several Redis dumps; name one, as SNAP:redis/SERVER: {}",
                paths.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let place = |server: Option<&str>, database, key: Option<&str>| Place {
            server: server.map(str::to_owned),
            database: Some(database),
            key: key.map(|key| key.as_bytes().to_vec()),
        };
        assert_eq!(Place::parse("redis/0"), Some(place(None, 0, None)));
        assert_eq!(Place::parse("redis/0/"), Some(place(None, 0, None)));
        assert_eq!(Place::parse("redis/3/user:1/x"), Some(place(None, 3, Some("user:1/x"))));
        assert_eq!(Place::parse("redis/h:6379/3/a"), Some(place(Some("h:6379"), 3, Some("a"))));
        for entry in ["redis", "redis/h:6379", "redis/h:6379/dump.rdb", "etc/0", ""] {
            assert_eq!(Place::parse(entry), None, "{entry}");
        }
    }
}
