//! Something that yields entries in manifest order. A file tree, a pipe and a database are equal.
//! Adding one: a file here, and a line in [`open_url`].

use crate::Monitor;
use crate::entry::{Entry, Kind, Time, compare_paths};
use crate::snapshot::SourceRecord;
use std::sync::atomic::AtomicBool;

pub mod command;
mod decompress;
pub mod files;
pub mod format;
pub mod mysql;
pub mod pgdump;
pub mod postgres;
pub mod postgres_physical;
pub mod qdrant;
pub mod qdrant_files;
pub mod rdb;
pub mod redis;
pub mod redis_files;
pub mod redis_scan;
pub mod snapshot;
pub mod stream;
mod tar_cuts;
pub mod tls;

/// Why a source failed; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceErrorKind {
    /// One entry could not be read; the others can.
    Item,
    /// None of the sources exists.
    Missing,
    /// A command could not be started, failed, or was killed.
    Command,
    /// A dump ended before its own end mark.
    Incomplete,
    /// A server is down, refuses, or hung up.
    Unavailable,
    /// Nothing at all came.
    Empty,
}

/// An error of a source.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct SourceError {
    /// Consequence.
    pub kind: SourceErrorKind,
    /// The path, command or server.
    pub what: String,
    /// What happened and what to do.
    pub why: String,
}

impl SourceError {
    /// An error of the given kind.
    pub fn new(kind: SourceErrorKind, what: impl Into<String>, why: impl ToString) -> Self {
        Self { kind, what: what.into(), why: why.to_string() }
    }
}

/// The next part of an entry's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// This many bytes were read; more than 0.
    Data(usize),
    /// This many bytes are a hole.
    Hole(u64),
    /// A record ends here that the source wants a chunk to end with.
    Cut,
    /// Nothing yet: a moment to look whether the user has had enough.
    Wait,
    /// All of it was read, and whatever proves that it is whole was checked.
    End,
}

/// Content of one entry.
pub trait Content {
    /// Reads on; `buffer` is not empty.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError>;
    /// After [`Piece::End`]: something that a person should know, such as a file that changed meanwhile.
    fn warning(&self) -> Option<String> {
        None
    }
}

/// Opens an entry's content when it turns out that it must be read.
pub type Opener = Box<dyn FnOnce() -> Result<Box<dyn Content>, SourceError>>;

/// An entry and how to get at its content.
pub struct Item {
    /// The entry.
    pub entry: Entry,
    /// Its content; `None` for everything but files and streams.
    pub content: Option<Opener>,
    /// Whether an equal entry of the parent snapshot proves equal content.
    pub comparable: bool,
}

impl Item {
    /// A folder above streams.
    #[must_use]
    pub fn folder(path: &str, time: Time) -> Self {
        Self { entry: Entry::folder(path, time), content: None, comparable: false }
    }

    /// One that the parent snapshot has, and that nobody else could give again.
    #[must_use]
    pub fn taken_over(path: &str, time: Time) -> Self {
        let shown = path.to_owned();
        let open: Opener = Box::new(move || {
            let why = "the snapshot that this builds on has lost it; make a full backup, or end the stream with \
                'esker forget' of that snapshot";
            Err(SourceError::new(SourceErrorKind::Incomplete, shown, why))
        });
        Self { comparable: true, ..Self::stream(path, time, open) }
    }

    /// A stream.
    #[must_use]
    pub fn stream(path: &str, time: Time, open: Opener) -> Self {
        Self { entry: Entry::stream(path, time), content: Some(open), comparable: false }
    }
}

/// Counts a source's files and bytes into the monitor; the flag asks it to stop.
pub type Scanner = Box<dyn FnOnce(&dyn Monitor, &AtomicBool) + Send>;

/// A source.
pub trait Source {
    /// What the snapshot records about it.
    fn records(&self) -> Vec<SourceRecord>;
    /// What the snapshot lists as its paths.
    fn paths(&self) -> Vec<String>;
    /// The next entry, in manifest order. Item errors go to the monitor; an error here ends the backup.
    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError>;
    /// Fixes the moment that is backed up, as far as the source can, before anything of the snapshot is read: the
    /// sources of one snapshot all start before the first is read.
    /// `seed` is the repository's own, for cuts that nobody else should foresee.
    fn start(&mut self, _seed: [u64; 2]) -> Result<(), SourceError> {
        Ok(())
    }
    /// Counts what is to come, for progress; runs beside the backup until told to stop.
    fn scanner(&self) -> Option<Scanner> {
        None
    }
    /// Whether [`SourceErrorKind::Item`] errors are survivable: true for trees, for dumps if the user said so.
    fn tolerates_item_errors(&self) -> bool {
        false
    }
}

/// The URL schemes of sources.
pub const URL_SCHEMES: &[&str] = &[
    "redis://",
    "rediss://",
    "valkey://",
    "valkeys://",
    "redis+unix://",
    "valkey+unix://",
    "redis+scan://",
    "rediss+scan://",
    "valkey+scan://",
    "valkeys+scan://",
    "redis+scan+unix://",
    "valkey+scan+unix://",
    "redis+rdb://",
    "redis+aof://",
    "qdrant+http://",
    "qdrant+https://",
    "qdrant+file://",
    "postgres://",
    "postgresql://",
    "postgres+physical://",
    "mysql://",
    "mariadb://",
];

/// Whether an argument is a source's URL rather than a path.
#[must_use]
pub fn is_url(argument: &str) -> bool {
    URL_SCHEMES.iter().any(|scheme| argument.starts_with(scheme))
}

/// Opens the source that a URL names. `time` is the backup's.
pub fn open_url(url: &str, time: Time, options: &UrlOptions) -> Result<Box<dyn Source>, SourceError> {
    let invalid = |why: &dyn ToString| {
        SourceError::new(SourceErrorKind::Unavailable, without_password(url), why.to_string())
    };
    match crate::pg::conninfo::scheme(url) {
        Some("postgres+physical") => {
            return Ok(Box::new(postgres_physical::PhysicalSource::open(url, time, options)?));
        }
        Some(_) => return Ok(Box::new(postgres::PostgresSource::new(url, time, options)?)),
        None => {}
    }
    let parsed = url::Url::parse(url).map_err(|error| invalid(&error))?;
    if let Some(scheme) = redis::address::Scheme::of(parsed.scheme()) {
        let open = if scheme.scan { redis_scan::source } else { redis::source };
        return Ok(Box::new(open(&parsed, time, options)?));
    }
    match parsed.scheme() {
        "qdrant+http" | "qdrant+https" => Ok(Box::new(qdrant::QdrantSource::new(&parsed, time, options)?)),
        "qdrant+file" => Ok(Box::new(qdrant_files::VolumeSource::open(&parsed, options)?)),
        "redis+rdb" => Ok(Box::new(redis_files::rdb(&parsed, time, options)?)),
        "redis+aof" => Ok(Box::new(redis_files::aof(&parsed, time, options)?)),
        "mysql" | "mariadb" => Ok(Box::new(mysql::MysqlSource::open(&parsed, time, options)?)),
        other => Err(invalid(&format!("no source is called '{other}'"))),
    }
}

/// Tells the time.
pub type Clock = fn() -> jiff::Timestamp;

/// Choices for URL sources.
#[derive(Clone)]
pub struct UrlOptions {
    /// How PostgreSQL's databases are laid down.
    pub postgres_format: postgres::Format,
    /// In what order Redis dumps are laid down.
    pub redis_order: rdb::RdbOrder,
    /// User and password for Redis, if the URL has none.
    pub redis_user: Option<String>,
    /// See above.
    pub redis_password: Option<String>,
    /// API key for Qdrant, if the URL has none.
    pub qdrant_api_key: Option<String>,
    /// Certificates for `rediss://` and `qdrant+https://`.
    pub tls: tls::Tls,
    /// Variables that libpq and MariaDB's programs know (`PG*`, `MYSQL_*`), and `HOME`, `USER`, `PATH`.
    pub environment: std::collections::BTreeMap<String, String>,
    /// The files that `tls` was read from, for programs: authority, certificate, key.
    pub tls_files: [Option<std::path::PathBuf>; 3],
    /// Sessions that dump one PostgreSQL database at a time.
    pub postgres_jobs: usize,
    /// PostgreSQL databases whose moments are fixed together at the beginning; each holds a session and its locks.
    pub postgres_at_once: usize,
    /// A private folder for what does not fit into memory.
    pub scratch: std::path::PathBuf,
    /// Whether a database, or an object of one, that cannot be read is told and left out, rather than the end of it all.
    pub keep_going: bool,
    /// What the Qdrant sources of one run find.
    pub qdrant_run: qdrant::Run,
    /// Tells when each source was read.
    pub clock: Clock,
}

impl Default for UrlOptions {
    fn default() -> Self {
        Self {
            postgres_format: postgres::Format::default(),
            redis_order: rdb::RdbOrder::default(),
            redis_user: None,
            redis_password: None,
            qdrant_api_key: None,
            tls: tls::Tls::default(),
            environment: std::collections::BTreeMap::new(),
            tls_files: [None, None, None],
            postgres_jobs: 2,
            postgres_at_once: 1,
            scratch: std::env::temp_dir(),
            keep_going: false,
            qdrant_run: qdrant::Run::default(),
            clock: jiff::Timestamp::now,
        }
    }
}

/// A URL as it may be shown and stored: without the password.
#[must_use]
pub fn without_password(url: &str) -> String {
    if crate::pg::conninfo::scheme(url).is_some() {
        // They may have several hosts, and passwords among their parameters.
        return crate::pg::conninfo::without_password(url);
    }
    let owned = |(name, value): (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)| {
        (name.into_owned(), value.into_owned())
    };
    match url::Url::parse(url) {
        Ok(mut parsed) => {
            let _ = parsed.set_password(None);
            if parsed.query_pairs().any(|(name, _)| name == "password") {
                let kept: Vec<(String, String)> =
                    parsed.query_pairs().filter(|(name, _)| name != "password").map(owned).collect();
                match kept.is_empty() {
                    true => parsed.set_query(None),
                    false => drop(parsed.query_pairs_mut().clear().extend_pairs(kept)),
                }
            }
            if parsed.scheme().starts_with("qdrant+") {
                // Qdrant has no users: what stands in their place is a key.
                let _ = parsed.set_username("");
            }
            parsed.to_string()
        }
        // Not a URL after all; hide whatever stands between ':' and '@'.
        Err(_) => match (url.find("://"), url.rfind('@')) {
            (Some(start), Some(end)) if start + 3 < end => format!("{}…{}", &url[..start + 3], &url[end..]),
            _ => url.to_owned(),
        },
    }
}

/// A URL's password, decoded.
#[must_use]
pub fn password(url: &url::Url) -> Option<String> {
    let encoded = url.password()?;
    Some(percent_encoding::percent_decode_str(encoded).decode_utf8_lossy().into_owned())
}

/// A source whose records say when it was read, if it does not say so itself.
pub struct Stamped {
    source: Box<dyn Source>,
    clock: Clock,
    start: Option<jiff::Timestamp>,
    end: Option<jiff::Timestamp>,
}

impl Stamped {
    /// One that looks at `clock`.
    #[must_use]
    pub fn new(source: Box<dyn Source>, clock: Clock) -> Self {
        Self { source, clock, start: None, end: None }
    }
}

impl Source for Stamped {
    fn records(&self) -> Vec<SourceRecord> {
        let mut records = self.source.records();
        for record in &mut records {
            record.start = record.start.or(self.start);
            record.end = record.end.or(self.end);
        }
        records
    }
    fn paths(&self) -> Vec<String> {
        self.source.paths()
    }
    fn start(&mut self, seed: [u64; 2]) -> Result<(), SourceError> {
        self.start = Some((self.clock)());
        self.source.start(seed)
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        let item = self.source.next_item(monitor)?;
        if item.is_none() {
            self.end = Some((self.clock)());
        }
        Ok(item)
    }
    fn scanner(&self) -> Option<Scanner> {
        self.source.scanner()
    }
    fn tolerates_item_errors(&self) -> bool {
        self.source.tolerates_item_errors()
    }
}

/// Several sources in one snapshot: all are started before the first is read, and their entries come in
/// the order of a manifest. Paths of two sources must not be the same; folders above them may.
pub struct Several {
    sources: Vec<Box<dyn Source>>,
    /// The next item of each; `None` before it was asked for and after the last.
    heads: Vec<Head>,
    /// The last folder: two servers of a kind share the one above them, and both name it at the same time.
    folder: Vec<u8>,
}

enum Head {
    Unknown,
    Item(Box<Item>),
    End,
}

impl Several {
    /// One source of all of these.
    #[must_use]
    pub fn new(sources: Vec<Box<dyn Source>>) -> Self {
        let heads = sources.iter().map(|_| Head::Unknown).collect();
        Self { sources, heads, folder: vec![] }
    }
}

impl Source for Several {
    fn records(&self) -> Vec<SourceRecord> {
        self.sources.iter().flat_map(|source| source.records()).collect()
    }
    fn paths(&self) -> Vec<String> {
        self.sources.iter().flat_map(|source| source.paths()).collect()
    }
    fn start(&mut self, seed: [u64; 2]) -> Result<(), SourceError> {
        self.sources.iter_mut().try_for_each(|source| source.start(seed))
    }
    fn tolerates_item_errors(&self) -> bool {
        // Others have no errors of single items.
        self.sources.iter().any(|source| source.tolerates_item_errors())
    }
    fn scanner(&self) -> Option<Scanner> {
        // All of them, or the sum would say that too little is left.
        let scanners: Vec<_> = self.sources.iter().map(|source| source.scanner()).collect::<Option<_>>()?;
        Some(Box::new(move |monitor, stop| scanners.into_iter().for_each(|scan| scan(monitor, stop))))
    }
    fn next_item(&mut self, monitor: &dyn Monitor) -> Result<Option<Item>, SourceError> {
        loop {
            for (source, head) in self.sources.iter_mut().zip(&mut self.heads) {
                if matches!(head, Head::Unknown) {
                    *head = source.next_item(monitor)?.map_or(Head::End, |item| Head::Item(Box::new(item)));
                }
            }
            let heads = self.heads.iter_mut().filter(|head| matches!(head, Head::Item(_)));
            let first = heads.min_by(|a, b| match (a, b) {
                (Head::Item(a), Head::Item(b)) => compare_paths(&a.entry.path, &b.entry.path),
                _ => std::cmp::Ordering::Equal,
            });
            let Some(first) = first else { return Ok(None) };
            let Head::Item(item) = std::mem::replace(first, Head::Unknown) else { return Ok(None) };
            if item.entry.kind == Kind::Dir {
                if self.folder == item.entry.path {
                    continue;
                }
                self.folder.clone_from(&item.entry.path);
                return Ok(Some(*item));
            }
            let twice = self
                .heads
                .iter()
                .any(|head| matches!(head, Head::Item(other) if other.entry.path == item.entry.path));
            if twice {
                let path = item.entry.display_path();
                return Err(SourceError::new(SourceErrorKind::Missing, path, "two sources have this path"));
            }
            return Ok(Some(*item));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        for url in [
            "redis://:hunter2@h:1/0",
            "qdrant+https://hunter2@h/c",
            "postgres://u:hunter2@h/db",
            "redis://:hun ter2@[::",
            "x://a:hunter2@",
            "redis+unix:///s?password=hunter2",
            "redis+unix:///s?db=1&p%61ssword=hunter2",
        ] {
            assert!(!without_password(url).contains("ter2"), "{url} -> {}", without_password(url));
        }
        assert_eq!(without_password("redis+unix:///s?db=1&password=x&user=u"), "redis+unix:///s?db=1&user=u");
    }
}
