//! What a snapshot has of a PostgreSQL server: dumps of databases, and the globals.

use super::globals::Globals;
use crate::contents::LAYOUT;
use connector_kit::databases::Selection;
use engine::Result;
use engine::connector::Origin;
use engine::entry;
use engine::manifest::Listed;
use engine::monitor::Tally;
use engine::names::decoded_bytes;
use engine::restore::dump;
use engine::snapshot::Snapshot;
use std::collections::BTreeMap;

/// How a database is laid down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Directory,
    Custom,
    Plain,
}

/// What a snapshot has of one database.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) kind: Kind,
    /// The folder, or the file.
    pub(super) path: String,
    /// Length of its files in bytes.
    pub(super) bytes: u64,
}

impl Stored {
    /// Where its table of contents begins.
    pub(super) fn toc_path(&self) -> String {
        match self.kind {
            Kind::Directory => format!("{}/toc.dat", self.path),
            Kind::Custom | Kind::Plain => self.path.clone(),
        }
    }
}

/// What a snapshot has of a server.
#[derive(Default)]
pub(super) struct Contents {
    databases: BTreeMap<String, Stored>,
    pub(super) globals: Option<String>,
    /// Bytes of the files of a folder.
    folders: BTreeMap<String, u64>,
}

impl Contents {
    /// Of one server, below a path if that is not empty.
    ///
    /// # Errors
    /// That there are several servers, or what cannot be read.
    pub(super) fn of(from: Origin<'_>, below: &str) -> Result<Self> {
        let mut sort = |contents: &mut Self, parts: &[&str], listed: &Listed| {
            let path = String::from_utf8_lossy(&listed.entry.path).into_owned();
            let (kind, name, path) = match *parts {
                ["databases", name, file] => {
                    let Some(folder) = path.strip_suffix(&format!("/{file}")) else { return false };
                    *contents.folders.entry(folder.to_owned()).or_default() += listed.size;
                    if file != "toc.dat" {
                        return false;
                    }
                    (Kind::Directory, name, folder.to_owned())
                }
                // A folder is a database of whatever name.
                ["databases", file] if listed.entry.kind == entry::Kind::File => {
                    let plain = file.strip_suffix(".sql").map(|name| (Kind::Plain, name));
                    let custom = || file.strip_suffix(".dump").map(|name| (Kind::Custom, name));
                    let Some((kind, name)) = plain.or_else(custom) else { return false };
                    (kind, name, path)
                }
                ["globals.sql"] => {
                    contents.globals = Some(path);
                    return true;
                }
                _ => return false,
            };
            let name = String::from_utf8_lossy(&decoded_bytes(name)).into_owned();
            contents.databases.insert(name, Stored { kind, path, bytes: listed.size });
            true
        };
        let mut contents: Self = LAYOUT.of_one_server(from, below, "PostgreSQL", &mut sort)?;
        for stored in contents.databases.values_mut() {
            stored.bytes = contents.folders.get(&stored.path).copied().unwrap_or(stored.bytes);
        }
        Ok(contents)
    }

    /// The databases that were chosen.
    pub(super) fn wanted(&self, selection: &Selection) -> Result<BTreeMap<String, Stored>> {
        let wanted = selection.of(&self.databases)?;
        match wanted.is_empty() {
            true => Err(engine::restore::no_server("PostgreSQL")),
            false => Ok(wanted),
        }
    }
}

/// The databases of a snapshot.
///
/// # Errors
/// That there are several servers, or what cannot be read.
pub(crate) fn names(from: Origin<'_>) -> Result<Vec<String>> {
    Ok(Contents::of(from, "")?.databases.into_keys().collect())
}

/// Whether a database of a snapshot is in plain SQL.
///
/// # Errors
/// As of [`names`].
pub(crate) fn is_plain(from: Origin<'_>) -> Result<bool> {
    Ok(Contents::of(from, "")?.databases.values().any(|stored| stored.kind == Kind::Plain))
}

/// The tablespaces that the globals of a snapshot make.
///
/// # Errors
/// As of [`names`], and that the globals are none.
pub(crate) fn tablespaces(from: Origin<'_>) -> Result<Vec<String>> {
    let Some(path) = Contents::of(from, "")?.globals else { return Ok(vec![]) };
    let mut bytes = vec![];
    dump(from.repo, &from.snapshot.snapshot, path.as_bytes(), &mut bytes, &Tally::default())?;
    Ok(Globals::parse(&bytes)?.spaces().cloned().collect())
}

/// What a backup left out, by its path, and why (`left-out:PATH` in the snapshot's record).
pub(crate) fn left_out(snapshot: &Snapshot, below: &str) -> BTreeMap<String, String> {
    let below = below.trim_matches('/');
    let details =
        snapshot.sources.iter().filter(|source| source.kind == "postgres").flat_map(|source| &source.details);
    let left = details.filter_map(|(name, why)| Some((name.strip_prefix("left-out:")?, why)));
    let left = left.filter(|(path, _)| path.starts_with(below));
    left.map(|(path, why)| (path.to_owned(), why.clone())).collect()
}
