//! The record that makes a manifest reachable. JSON, sealed; restic's field names where they exist.

use crate::identity::Identity;
use crate::manifest::ManifestRoot;
use crate::{Error, Result};
use chunkstore::ObjectId;
use serde::{Deserialize, Serialize};

/// The statistics of a backup, stored with the snapshot.
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
    /// The same for all entries that are not files.
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

/// The source of a snapshot's entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// `files`, `stdin`, `command`, or the name of a connector, with what it reads behind a `+`.
    pub kind: String,
    /// Path, a command's program, or URL, without credentials.
    pub origin: String,
    /// The identity that distinguishes its snapshots from those of other sources; older versions did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Whether the content is one moment's: false for a scan of a live server and for changing files.
    pub point_in_time: bool,
    /// The moment of the content, or the time at which reading began. With others of its set it gives the skew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<jiff::Timestamp>,
    /// When the last of it had come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<jiff::Timestamp>,
    /// Information from the source: version, sizes, the order of records.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub details: std::collections::BTreeMap<String, String>,
}

impl SourceRecord {
    /// Whether it is of a system, by whichever way that was read.
    #[must_use]
    pub fn is_of(&self, system: &str) -> bool {
        self.kind.split('+').next() == Some(system)
    }

    /// Whether its content is a stream of a format.
    #[must_use]
    pub fn is_stream_of(&self, format: &str) -> bool {
        self.details.get("format").is_some_and(|name| name == format)
    }

    /// One with only what is known before the source is read.
    #[must_use]
    pub fn new(kind: &str, origin: impl Into<String>, point_in_time: bool) -> Self {
        let details = std::collections::BTreeMap::new();
        let identity = Some(Identity::default());
        Self {
            kind: kind.into(),
            origin: origin.into(),
            identity,
            point_in_time,
            start: None,
            end: None,
            details,
        }
    }

    /// The same of a source that says more about itself than its origin does.
    #[must_use]
    pub fn identified(self, identity: Identity) -> Self {
        Self { identity: Some(identity), ..self }
    }
}

/// Who had a snapshot made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum MadeBy {
    /// A person, or unknown.
    #[default]
    Hand,
    /// `esker run`, with the name of the run.
    Run(String),
    /// `esker stream`.
    Stream,
    /// A restore, of data that it was about to replace.
    Safety,
}

impl From<String> for MadeBy {
    fn from(text: String) -> Self {
        match text.strip_prefix("run:") {
            Some(name) => Self::Run(name.to_owned()),
            None if text == "stream" => Self::Stream,
            None if text == "safety" => Self::Safety,
            None => Self::Hand,
        }
    }
}

impl From<MadeBy> for String {
    fn from(made_by: MadeBy) -> Self {
        match made_by {
            MadeBy::Hand => "hand".into(),
            MadeBy::Run(name) => format!("run:{name}"),
            MadeBy::Stream => "stream".into(),
            MadeBy::Safety => "safety".into(),
        }
    }
}

/// Whether a person said that a snapshot is to stay, or that it need not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Hold {
    /// Unspecified: promises do not remove a snapshot made by hand.
    #[default]
    Unsaid,
    /// No rule and no promise removes it.
    Held,
    /// Rules and promises apply, whoever made it.
    Released,
}

impl From<String> for Hold {
    fn from(text: String) -> Self {
        match text.as_str() {
            "held" => Self::Held,
            "released" => Self::Released,
            _ => Self::Unsaid,
        }
    }
}

impl From<Hold> for String {
    fn from(hold: Hold) -> Self {
        match hold {
            Hold::Unsaid => "unsaid",
            Hold::Held => "held",
            Hold::Released => "released",
        }
        .into()
    }
}

impl Hold {
    fn is_unsaid(&self) -> bool {
        *self == Self::Unsaid
    }
}

/// Where in the order of a repository's HEADs a snapshot was made; see [`crate::rank`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Made {
    /// HEAD's incarnation when the snapshot was written.
    pub incarnation: u64,
    /// HEAD's generation then.
    pub generation: u64,
    /// The clock of the machine that wrote it.
    pub clock: jiff::Timestamp,
    /// Whether the snapshot's time was given, or copied from another snapshot: then no clock contradicts it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub time_given: bool,
}

/// The host that made a snapshot, as the snapshot's record has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The host.
    pub host: ObjectId,
    /// Its run.
    pub run: u64,
    /// The time that it signed, which the snapshot's may differ from.
    pub time: jiff::Timestamp,
    /// Its signature (Ed25519) of what the snapshot is of, in hex.
    pub signature: String,
}

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When the backup began, RFC 3339 with the local offset.
    pub time: jiff::Timestamp,
    /// The snapshot that unchanged files were compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ObjectId>,
    /// The backed up paths: absolute paths, or names of streams.
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
    /// The backup's statistics.
    pub summary: Summary,
    /// The snapshot this one was before its tags were changed, or that it is a copy of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<ObjectId>,
    /// The first digits of the ids that it had before its record was replaced, the last at the end, [`EARLIER`] at most: they
    /// still name it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<String>,
    /// Who had it made; by hand where it is not said.
    #[serde(default)]
    pub made_by: MadeBy,
    /// When in the order of HEADs; older versions did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Made>,
    /// Whether it is to stay.
    #[serde(default, skip_serializing_if = "Hold::is_unsaid")]
    pub hold: Hold,
    /// No rule and no promise removes it before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_until: Option<jiff::Timestamp>,
    /// The write-only host that made it, and its signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Signed>,
    /// Fields of later versions, kept as they are.
    #[serde(flatten)]
    pub other: std::collections::BTreeMap<String, serde_json::Value>,
}

impl Snapshot {
    /// Whether a full client made it, as far as signatures say. Only what one of these says of its content may save a full
    /// client from reading: a write-only host can say that a file is unchanged, or that a stream goes on from there, and have
    /// brought something else.
    #[must_use]
    pub fn is_of_full_client(&self) -> bool {
        self.signed.is_none()
    }

    /// Whether a restore made it of data that it was about to replace: it is a way back, not a regular backup.
    #[must_use]
    pub fn is_safety(&self) -> bool {
        self.made_by == MadeBy::Safety
    }

    /// Why no rule of `forget` removes it, if none does.
    #[must_use]
    pub fn held(&self, now: jiff::Timestamp) -> Option<String> {
        match (self.hold, self.keep_until) {
            (Hold::Held, _) => Some("held".into()),
            (_, Some(until)) if until > now => Some(format!("to be kept until {until}")),
            _ => None,
        }
    }

    /// Why no promise and no run removes it, if none does.
    #[must_use]
    pub fn held_against_runs(&self, now: jiff::Timestamp) -> Option<String> {
        let by_hand = self.made_by == MadeBy::Hand && self.hold != Hold::Released;
        self.held(now).or_else(|| by_hand.then(|| "made by hand".into()))
    }
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

/// So many earlier ids are kept: five minutes of a live stream that commits every five seconds.
pub const EARLIER: usize = 60;

/// A snapshot and its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// Id.
    pub id: ObjectId,
    /// Record.
    pub snapshot: Snapshot,
}

impl Listed {
    /// The earlier ids of what takes its place.
    #[must_use]
    pub fn earlier(&self) -> Vec<String> {
        let all: Vec<String> =
            self.snapshot.earlier.iter().cloned().chain(std::iter::once(earlier_form(&self.id))).collect();
        let surplus = all.len().saturating_sub(EARLIER);
        all.into_iter().skip(surplus).collect()
    }

    /// Whether `wanted`, an id or at least eight of its first digits, named it before its record was replaced.
    pub(crate) fn was(&self, wanted: &str) -> bool {
        let is_id = wanted.len() >= 8 && wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
        let earlier = &self.snapshot.earlier;
        is_id && earlier.iter().any(|id| id.starts_with(wanted) || wanted.starts_with(id.as_str()))
    }

    /// Whether it had this id before its record was replaced: it was tagged since, say, or is of a live stream that went on.
    #[must_use]
    pub fn had(&self, id: &ObjectId) -> bool {
        self.snapshot.earlier.contains(&earlier_form(id))
    }
}

/// An id as records keep it that replaced it: enough digits to tell it from all others.
fn earlier_form(id: &ObjectId) -> String {
    id.to_string().chars().take(16).collect()
}

/// Conditions on snapshots.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Any of these hosts; all if empty.
    pub hosts: Vec<String>,
    /// Any of these sets of tags; all if empty. A set matches if the snapshot has every tag of it.
    pub tags: Vec<Vec<String>>,
    /// All of these paths, each with its possible forms: absolute, in the form of [`crate::names::normal_path`].
    pub paths: Vec<Vec<String>>,
}

impl Filter {
    /// Whether a snapshot matches.
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
            && self.paths.iter().all(|forms| forms.iter().any(|path| snapshot.has_path(path)))
    }

    /// Whether every snapshot matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.tags.is_empty() && self.paths.is_empty()
    }

    /// As it was written, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        let hosts = self.hosts.iter().map(|host| format!("--host {host}"));
        let tags = self.tags.iter().map(|tags| format!("--tag {}", tags.join(",")));
        let paths = self.paths.iter().filter_map(|forms| forms.first()).map(|path| format!("--path {path}"));
        hosts.chain(tags).chain(paths).collect::<Vec<_>>().join(" ")
    }

    /// The matching snapshots of `all`. A filter that matches none of existing snapshots is an error, which names it.
    pub fn choose<'a>(&self, all: &'a [Listed]) -> Result<Vec<&'a Listed>> {
        let fitting: Vec<&Listed> = all.iter().filter(|listed| self.fits(&listed.snapshot)).collect();
        if fitting.is_empty() && !all.is_empty() {
            return Err(self.fits_none(all.len()));
        }
        Ok(fitting)
    }

    /// The error that it fits none of so many snapshots.
    #[must_use]
    pub fn fits_none(&self, count: usize) -> Error {
        Error::NothingFits { filter: self.describe(), count }
    }

    /// Whether it names the tag of safety snapshots, which are not the latest otherwise.
    pub(crate) fn asks_for_safety(&self) -> bool {
        self.tags.iter().flatten().any(|tag| tag == SAFETY)
    }
}

impl Snapshot {
    /// Whether a path in normal form is one of its paths.
    #[must_use]
    pub fn has_path(&self, path: &str) -> bool {
        self.paths.iter().any(|own| own == path || crate::names::normal_path(own) == path)
    }
}

/// The tag of safety snapshots, which restores make of data that they replace.
pub const SAFETY: &str = "safety";

/// Finds the snapshot that `wanted` names among `all`, which are in the order of [`crate::rank`]: `latest`, `latest~N`,
/// or the first digits of an id; where no id begins so, an earlier id, of which eight digits are given at least. `latest`
/// respects the filter, and skips safety snapshots unless the filter names their tag.
pub fn find<'a>(all: &'a [Listed], wanted: &str, filter: &Filter) -> Result<&'a Listed> {
    let none = || Error::NoSnapshot { wanted: wanted.to_owned() };
    if let Some(back) = back_of(wanted) {
        let asks = filter.asks_for_safety();
        let fitting = filter.choose(all)?.into_iter().filter(|one| asks || !one.snapshot.is_safety());
        return fitting.rev().nth(back).ok_or_else(none);
    }
    if wanted.is_empty() {
        return Err(none());
    }
    let mut fitting: Vec<&Listed> = all.iter().filter(|listed| begins(&listed.id, wanted)).collect();
    if fitting.is_empty() {
        fitting = all.iter().filter(|listed| listed.was(wanted)).collect();
    }
    match *fitting {
        [] => Err(none()),
        [one] => Ok(one),
        _ => Err(Error::AmbiguousSnapshot { wanted: wanted.to_owned(), count: fitting.len() }),
    }
}

/// How many before the latest `wanted` means; `None` if it is neither `latest` nor `latest~N`.
pub(crate) fn back_of(wanted: &str) -> Option<usize> {
    match wanted.strip_prefix("latest")? {
        "" => Some(0),
        rest => rest.strip_prefix('~')?.parse().ok(),
    }
}

/// Whether these are the first digits of an id.
pub(crate) fn begins(id: &ObjectId, wanted: &str) -> bool {
    let digit = |at: usize| {
        let byte = id.as_bytes().get(at / 2)?;
        b"0123456789abcdef".get(usize::from(if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 }))
    };
    wanted.bytes().enumerate().all(|(at, wanted)| digit(at) == Some(&wanted))
}

/// Splits `SNAP[:path]`; the path is returned without leading and trailing slashes.
#[must_use]
pub fn split_path(text: &str) -> (&str, &str) {
    match text.split_once(':') {
        Some((snapshot, path)) => (snapshot, path.trim_matches('/')),
        None => (text, ""),
    }
}
