//! A snapshot in JSON.

use crate::commands::json_time;
use chunkstore::ObjectId;
use engine::snapshot::{Hold, Listed, MadeBy, Snapshot, SourceRecord, Summary};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

/// A snapshot as restic shows it.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<ObjectId>,
    paths: &'a [String],
    hostname: &'a str,
    username: &'a str,
    uid: u32,
    gid: u32,
    tags: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    excludes: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    program_version: &'a str,
    /// Of restic it is the id of a folder; here, of the list of all entries. Equal ones hold the same.
    tree: String,
    summary: &'a Summary,
    sources: &'a [SourceRecord],
    #[serde(skip_serializing_if = "Option::is_none")]
    skew_seconds: Option<f64>,
    made_by: &'a MadeBy,
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<ObjectId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<Hold>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_until: Option<String>,
    /// The time that it is ranked by, where its own was that of a wrong clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    ranked_time: Option<String>,
    /// The write-only host that made it, and whether its signature fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed: Option<Value>,
    id: ObjectId,
    short_id: String,
}

impl<'a> Shown<'a> {
    pub(super) fn signed(self, signed: Option<Value>) -> Self {
        Self { signed, ..self }
    }

    pub(super) fn new(listed: &'a Listed, ranked: Option<Timestamp>) -> Self {
        let snapshot = &listed.snapshot;
        Self {
            time: json_time(snapshot.time),
            parent: snapshot.parent,
            paths: &snapshot.paths,
            hostname: &snapshot.hostname,
            username: &snapshot.username,
            uid: snapshot.uid,
            gid: snapshot.gid,
            tags: &snapshot.tags,
            excludes: &snapshot.excludes,
            description: &snapshot.description,
            program_version: &snapshot.program_version,
            tree: tree(snapshot),
            summary: &snapshot.summary,
            sources: &snapshot.sources,
            skew_seconds: engine::snapshot::skew(&snapshot.sources).map(|skew| skew.as_secs_f64()),
            made_by: &snapshot.made_by,
            original: snapshot.original,
            hold: Some(snapshot.hold).filter(|hold| *hold != Hold::Unsaid),
            keep_until: snapshot.keep_until.map(json_time),
            ranked_time: ranked.map(json_time),
            signed: None,
            id: listed.id,
            short_id: listed.id.short(),
        }
    }
}

/// A snapshot as restic shows it.
pub(crate) fn to_json(listed: &Listed) -> Value {
    json!(Shown::new(listed, None))
}

fn tree(snapshot: &Snapshot) -> String {
    let root = serde_json::to_vec(&snapshot.manifest).unwrap_or_default();
    blake3::hash(&root).to_hex().to_string()
}
