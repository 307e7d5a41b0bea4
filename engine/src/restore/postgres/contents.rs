//! What a snapshot has of a PostgreSQL server: dumps of databases, and the globals.

use super::PostgresOptions;
use crate::entry;
use crate::manifest::for_all_entries;
use crate::names::decoded_bytes;
use crate::snapshot::Snapshot;
use crate::{Error, Repository, Result};
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
}

impl Contents {
    /// The databases that were asked for; one, if there is but one place for it.
    pub(super) fn wanted(
        &self,
        options: &PostgresOptions,
        into_one: bool,
    ) -> Result<BTreeMap<String, Stored>> {
        let is_wanted = |name: &String| options.databases.is_empty() || options.databases.contains(name);
        let mut wanted = self.databases.clone();
        wanted.retain(|name, _| is_wanted(name));
        if let Some(missing) = options.databases.iter().find(|name| !wanted.contains_key(*name)) {
            let all: Vec<&str> = self.databases.keys().map(String::as_str).collect();
            return Err(Error::Invalid(format!(
                "there is no database '{missing}' in this snapshot; it has {}",
                all.join(", ")
            )));
        }
        match wanted.len() {
            0 => Err(Error::Invalid("there is no PostgreSQL database in this snapshot".into())),
            1 => Ok(wanted),
            _ if into_one || !options.tables.is_empty() => {
                Err(Error::Invalid("the snapshot has several databases; choose one with --database".into()))
            }
            _ => Ok(wanted),
        }
    }
}

/// The databases of a snapshot, of one server.
pub(super) fn contents(repo: &Repository, snapshot: &Snapshot, below: &str) -> Result<Contents> {
    let below = below.trim_matches('/');
    let mut servers: BTreeMap<String, Contents> = BTreeMap::new();
    for_all_entries(repo.store(), &snapshot.manifest, &mut |listed| {
        let path = String::from_utf8_lossy(&listed.entry.path).into_owned();
        if !(below.is_empty() || path == below || path.starts_with(&format!("{below}/"))) {
            return Ok(());
        }
        let parts: Vec<&str> = path.split('/').collect();
        let mut add = |place: &str, name: &str, kind: Kind, path: String| {
            let name = String::from_utf8_lossy(&decoded_bytes(name)).into_owned();
            let server = servers.entry(place.to_owned()).or_default();
            server.databases.insert(name, Stored { kind, path });
        };
        match parts.as_slice() {
            ["postgres", place, "databases", name, "toc.dat"] => {
                let folder = path.strip_suffix("/toc.dat").unwrap_or(&path).to_owned();
                add(place, name, Kind::Directory, folder);
            }
            // A folder is a database of whatever name.
            ["postgres", place, "databases", file] if listed.entry.kind == entry::Kind::File => {
                if let Some(name) = file.strip_suffix(".sql") {
                    add(place, name, Kind::Plain, path.clone());
                } else if let Some(name) = file.strip_suffix(".dump") {
                    add(place, name, Kind::Custom, path.clone());
                }
            }
            ["postgres", place, "globals.sql"] => {
                servers.entry((*place).to_owned()).or_default().globals = Some(path.clone());
            }
            _ => {}
        }
        Ok(())
    })?;
    crate::restore::only_server(servers, "postgres", "PostgreSQL")
}

/// What a backup left out, by its path, and why (`left-out:PATH` in the snapshot's record).
pub(super) fn left_out(snapshot: &Snapshot, below: &str) -> BTreeMap<String, String> {
    let below = below.trim_matches('/');
    let details =
        snapshot.sources.iter().filter(|source| source.kind == "postgres").flat_map(|source| &source.details);
    let left = details.filter_map(|(name, why)| Some((name.strip_prefix("left-out:")?, why)));
    let left = left.filter(|(path, _)| path.starts_with(below));
    left.map(|(path, why)| (path.to_owned(), why.clone())).collect()
}
