//! The record that makes a manifest reachable. JSON, sealed; restic's field names where they exist.

use crate::manifest::ManifestRoot;
use crate::{Error, Result};
use chunkstore::ObjectId;
use serde::{Deserialize, Serialize};

/// What a backup did, kept with the snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Start and end, RFC 3339.
    pub backup_start: String,
    /// End.
    pub backup_end: String,
    /// Files that were not in the parent.
    pub files_new: u64,
    /// Files that differ from the parent's.
    pub files_changed: u64,
    /// Files that were taken over.
    pub files_unmodified: u64,
    /// The same for everything that is not a file.
    pub dirs_new: u64,
    /// Changed.
    pub dirs_changed: u64,
    /// Taken over.
    pub dirs_unmodified: u64,
    /// New chunks of content.
    pub data_blobs: u64,
    /// Those of them that are stored against older versions.
    #[serde(default)]
    pub delta_blobs: u64,
    /// New chunks of manifests.
    pub tree_blobs: u64,
    /// Plain bytes of new chunks.
    pub data_added: u64,
    /// Bytes that were added to the repository's packs.
    pub data_added_packed: u64,
    /// Files and streams in the snapshot.
    pub total_files_processed: u64,
    /// Their bytes.
    pub total_bytes_processed: u64,
}

/// Where a snapshot's entries came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// `files`, `stdin`, `command`, `redis`, `redis+scan`, `redis+stream`, `postgres`.
    pub kind: String,
    /// Path, command or URL, without credentials.
    pub origin: String,
    /// Whether the content is one moment's: false for a scan of a live server and for changing files.
    pub point_in_time: bool,
    /// The moment the content is of, or reading began. With others of its set it tells the skew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<jiff::Timestamp>,
    /// When the last of it had come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<jiff::Timestamp>,
    /// What the source says about itself: version, sizes, the order of records.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub details: std::collections::BTreeMap<String, String>,
}

impl SourceRecord {
    /// One that says only what is known before it is read.
    #[must_use]
    pub fn new(kind: &str, origin: impl Into<String>, point_in_time: bool) -> Self {
        let details = std::collections::BTreeMap::new();
        Self { kind: kind.into(), origin: origin.into(), point_in_time, start: None, end: None, details }
    }
}

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When the backup began, RFC 3339 with the local offset.
    pub time: jiff::Timestamp,
    /// The snapshot that unchanged files were compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ObjectId>,
    /// What was backed up: absolute paths, or names of streams.
    pub paths: Vec<String>,
    /// Host.
    pub hostname: String,
    /// User.
    pub username: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Patterns that were left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excludes: Vec<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// `esker 0.1.0`.
    pub program_version: String,
    /// The sources.
    pub sources: Vec<SourceRecord>,
    /// Where the manifest starts.
    pub manifest: ManifestRoot,
    /// What the backup did.
    pub summary: Summary,
    /// The snapshot this one was before its tags were changed, or that it is a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<ObjectId>,
    /// Fields of later versions, kept as they are.
    #[serde(flatten)]
    pub other: std::collections::BTreeMap<String, serde_json::Value>,
}

/// How far apart the moments are that the sources of a snapshot are of: from the first to the last moment that any of
/// them may show. `None` for one source, or if they do not say.
#[must_use]
pub fn skew(sources: &[SourceRecord]) -> Option<jiff::SignedDuration> {
    let first = sources.iter().map(|source| source.start).min()??;
    let last = |source: &SourceRecord| if source.point_in_time { source.start } else { source.end };
    let last = sources.iter().map(last).collect::<Option<Vec<_>>>()?.into_iter().max()?;
    (sources.len() > 1).then(|| last.duration_since(first))
}

/// A snapshot and its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Id.
    pub id: ObjectId,
    /// Record.
    pub snapshot: Snapshot,
}

/// Which snapshots are meant.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Any of these hosts; all if empty.
    pub hosts: Vec<String>,
    /// Any of these sets of tags; all if empty. A set fits if every tag of it is there.
    pub tags: Vec<Vec<String>>,
    /// All of these paths.
    pub paths: Vec<String>,
}

impl Filter {
    /// Whether a snapshot is meant.
    #[must_use]
    pub fn fits(&self, snapshot: &Snapshot) -> bool {
        (self.hosts.is_empty() || self.hosts.contains(&snapshot.hostname))
            && (self.tags.is_empty()
                || self.tags.iter().any(|set| {
                    // The empty tag means: without any.
                    set.iter().all(|tag| {
                        if tag.is_empty() { snapshot.tags.is_empty() } else { snapshot.tags.contains(tag) }
                    })
                }))
            && self.paths.iter().all(|path| snapshot.paths.contains(path))
    }
}

/// Finds the snapshot that `wanted` names among `all`, which are ordered by time: `latest`,
/// `latest~N`, or the first digits of an id. `latest` honours the filter.
pub fn find<'a>(all: &'a [Listed], wanted: &str, filter: &Filter) -> Result<&'a Listed> {
    let none = || Error::NoSnapshot { wanted: wanted.to_owned() };
    if let Some(rest) = wanted.strip_prefix("latest") {
        let back: usize = match rest.strip_prefix('~') {
            None if rest.is_empty() => 0,
            Some(digits) => digits.parse().map_err(|_| none())?,
            None => return Err(none()),
        };
        return all.iter().rev().filter(|listed| filter.fits(&listed.snapshot)).nth(back).ok_or_else(none);
    }
    let mut fitting = all.iter().filter(|listed| listed.id.to_string().starts_with(wanted));
    match (fitting.next(), fitting.count()) {
        (None, _) => Err(none()),
        (Some(_), _) if wanted.is_empty() => Err(none()),
        (Some(one), 0) => Ok(one),
        (Some(_), more) => Err(Error::AmbiguousSnapshot { wanted: wanted.to_owned(), count: more + 1 }),
    }
}

/// Splits `SNAP[:path]`; the path comes back without leading and trailing slashes.
#[must_use]
pub fn split_path(text: &str) -> (&str, &str) {
    match text.split_once(':') {
        Some((snapshot, path)) => (snapshot, path.trim_matches('/')),
        None => (text, ""),
    }
}
