//! What a snapshot has of a cluster: base backups, the first of them full, and the WAL after them.

use crate::data_directory::is_oid;
use crate::{physical, stream, wal};
use engine::manifest::for_all_entries;
use engine::snapshot::{Snapshot, SourceRecord};
use engine::{Error, Repository, Result};
use std::collections::BTreeMap;

/// All of it.
#[derive(Debug)]
pub(super) struct Backup {
    /// The identifier of the cluster; empty if it is not known.
    pub(super) system: String,
    /// The major version of its server; 0 if it is not known.
    pub(super) major: u32,
    pub(super) bases: Vec<BaseBackup>,
    /// Segments of WAL: their names, with `.partial`, and paths in the snapshot.
    pub(super) segments: Vec<(String, String)>,
    /// Bytes of one.
    pub(super) segment_len: u64,
}

/// Of one server: base backups, and segments of WAL as [`Backup::segments`].
type OfHost = (Vec<BaseBackup>, Vec<(String, String)>);

/// A base backup.
#[derive(Debug)]
pub(super) struct BaseBackup {
    pub(super) name: String,
    /// Its tars and its manifest: paths in the snapshot.
    pub(super) files: Vec<String>,
}

impl Backup {
    /// Reads the list of a snapshot.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it has no physical backup; [`Error::Malformed`]; what cannot be read.
    pub(super) fn read(repo: &Repository, snapshot: &Snapshot, host: &str) -> Result<Self> {
        let none = || Error::Invalid("there is no physical backup in this snapshot".into());
        let is_one = |kind: &str| kind == physical::KIND || kind == stream::KIND;
        let records: Vec<_> = snapshot.sources.iter().filter(|source| is_one(&source.kind)).collect();
        let mut hosts: BTreeMap<String, OfHost> = BTreeMap::new();
        for_all_entries(repo.store(), &snapshot.manifest, &mut |listed| {
            let path = String::from_utf8_lossy(&listed.entry.path).into_owned();
            if let ["postgres", host, "physical", base, name] = path.split('/').collect::<Vec<_>>()[..] {
                let (bases, segments) = hosts.entry(host.to_owned()).or_default();
                match bases.last_mut() {
                    _ if base == "wal" => segments.push((name.to_owned(), path.clone())),
                    Some(last) if last.name == base => last.files.push(path.clone()),
                    _ if base.starts_with("base.") => {
                        bases.push(BaseBackup { name: base.to_owned(), files: vec![path.clone()] });
                    }
                    _ => {}
                }
            }
            Ok(())
        })?;
        let chosen =
            if host.is_empty() && hosts.len() == 1 { hosts.pop_first() } else { hosts.remove_entry(host) };
        let Some((host, (bases, segments))) = chosen else {
            let all: Vec<String> = hosts.keys().map(|host| format!("SNAPSHOT:/postgres/{host}")).collect();
            return Err(match all.is_empty() {
                true => none(),
                false => Error::Invalid(format!(
                    "the snapshot has backups of several servers; name one, as {}",
                    all.join(" or ")
                )),
            });
        };
        // The record names the server by its address, as its path does.
        let is_its = |record: &&&SourceRecord| records.len() == 1 || is_of(&record.origin, &host);
        let record = records.iter().find(is_its).copied().ok_or_else(none)?;
        let detail = |name: &str| record.details.get(name).map(String::as_str);
        let segment_len = match detail("segment-bytes") {
            None => Some(wal::SEGMENT_LEN),
            Some(text) => text.parse().ok().filter(|len| wal::is_segment_len(*len)),
        };
        let segment_len = segment_len.ok_or_else(|| Error::Malformed {
            what: "the record of the backup".into(),
            why: "its length of WAL segments is none that a server has".into(),
        })?;
        if bases.is_empty() {
            return Err(none());
        }
        let major = detail("server").and_then(|text| text.parse().ok()).unwrap_or(0);
        let system = detail("system").unwrap_or_default().to_owned();
        Ok(Self { system, major, bases, segments, segment_len })
    }
}

impl BaseBackup {
    /// Its tars: paths, and the tablespaces that they have; the data directory's has none.
    pub(super) fn tars(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let tars = self.files.iter().filter(|path| path.ends_with(".tar"));
        tars.map(|path| (path.as_str(), space_of(path)))
    }

    /// The server's list of its files.
    pub(super) fn manifest(&self) -> Option<&str> {
        self.files.iter().map(String::as_str).find(|path| path.ends_with("-backup_manifest"))
    }
}

/// The number of the tablespace that a tar has.
pub(super) fn space_of(path: &str) -> Option<&str> {
    let name = path.rsplit_once('-')?.1.strip_suffix(".tar")?;
    is_oid(name).then_some(name)
}

/// Whether a URL, without a password, is of the server that has this name in paths.
fn is_of(origin: &str, host: &str) -> bool {
    let after = origin.split_once("://").map_or(origin, |(_, after)| after);
    let after = after.rsplit_once('@').map_or(after, |(_, after)| after);
    after.split(['/', '?']).next().is_some_and(|address| address == host)
}
