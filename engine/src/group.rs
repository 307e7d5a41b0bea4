//! Which snapshots are of one thing. Rules, promises, parents and listings all use [`GroupBy::key`]: two snapshots are
//! of one group if they have the same host, the same paths and the same origins. A database is a thing of its own
//! beside the others of its server, and so is the output of each command. docs/groups.md has the table.

pub use crate::identity::Identity;
use crate::secrets::HIDDEN;
use crate::snapshot::{Snapshot, SourceRecord};
use serde::Serialize;

/// Detail of the record of a stream without a name: the program that wrote it, or the file that it was read from.
pub const FROM: &str = "from";

/// Parameters of URLs that say how to connect, not what is read.
const HOW: &[&str] = &["user", "dbname", "password", "passfile", "connect_timeout", "application_name"];
/// The same, all that begin so.
const HOW_ALL: &[&str] = &["ssl", "keepalives", "tcp_"];

/// The normalized identity of a source; `None` for an older record, which lacks it.
#[must_use]
pub fn origin(record: &SourceRecord) -> Option<String> {
    let identity = record.identity.as_ref()?;
    let what = match record.kind.as_str() {
        "files" => "files".to_owned(),
        // Of a pipe nothing is known but what came through it and, of one without a name, who wrote it.
        "stdin" => {
            let details = [("", "format"), ("from ", FROM)];
            let known = details
                .map(|(before, name)| record.details.get(name).map(|value| format!(" {before}{value}")));
            format!("stdin{}", known.into_iter().flatten().collect::<String>())
        }
        "command" => match &identity.words {
            Some(words) => format!("command {} {words}", record.origin),
            None => format!("command {}", record.origin),
        },
        kind => of_server(kind, &record.origin, identity),
    };
    Some(match &identity.name {
        Some(name) => format!("'{name}': {what}"),
        None => what,
    })
}

/// `kind user@database?parameters at place`. The host is in the paths, resolved.
fn of_server(kind: &str, origin: &str, identity: &Identity) -> String {
    let Some((_, rest)) = origin.split_once("://") else { return format!("{kind} {origin}") };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    // A key that stood there alone was hidden: it is nobody's name.
    let user =
        authority.rsplit_once('@').map(|(user, _)| user).filter(|user| *user != HIDDEN).unwrap_or_default();
    let user = identity.user.as_deref().unwrap_or(user);
    let database = identity.database.as_deref().unwrap_or(path.trim_matches('/'));
    let mut text = format!("{kind} ");
    if !user.is_empty() {
        text += &format!("{user}@");
    }
    text += if database.is_empty() { "*" } else { database };
    let mut parameters: Vec<&str> = query
        .split('&')
        .filter(|parameter| {
            let name = parameter.split('=').next().unwrap_or_default();
            !name.is_empty() && !HOW.contains(&name) && !HOW_ALL.iter().any(|start| name.starts_with(start))
        })
        .collect();
    parameters.sort_unstable();
    if !parameters.is_empty() {
        text += &format!("?{}", parameters.join("&"));
    }
    if let Some(place) = &identity.place {
        text += &format!(" at {place}");
    }
    text
}

/// What snapshots are grouped by before the rules are applied to each group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupBy {
    /// Host name.
    pub host: bool,
    /// Paths, and their origins.
    pub paths: bool,
    /// Tags.
    pub tags: bool,
}

impl Default for GroupBy {
    fn default() -> Self {
        Self { host: true, paths: true, tags: false }
    }
}

impl std::str::FromStr for GroupBy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut by = Self { host: false, paths: false, tags: false };
        for part in text.split(',').filter(|part| !part.is_empty()) {
            match part {
                "host" | "hosts" => by.host = true,
                "path" | "paths" => by.paths = true,
                "tag" | "tags" => by.tags = true,
                other => return Err(format!("cannot group by '{other}'; use host, paths, tags")),
            }
        }
        Ok(by)
    }
}

/// The key of a group; empty where it is not grouped by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct GroupKey {
    /// Host.
    pub hostname: String,
    /// Paths, sorted, each once, in normal form.
    pub paths: Vec<String>,
    /// Tags, sorted.
    pub tags: Vec<String>,
    /// Origins, sorted, each once; none of snapshots that do not say theirs.
    pub origins: Vec<String>,
    /// Whether the snapshots lack their origin: then the group may contain several things.
    pub unknown: bool,
    /// Whether restores made them of data that they replaced: those are no backups of the same thing.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub safety: bool,
}

impl GroupBy {
    /// The group of a snapshot.
    #[must_use]
    pub fn key(self, snapshot: &Snapshot) -> GroupKey {
        self.key_of(snapshot, &snapshot.sources)
    }

    fn key_of(self, snapshot: &Snapshot, sources: &[SourceRecord]) -> GroupKey {
        let sorted = |wanted: bool, list: Vec<String>| {
            let mut list = if wanted { list } else { vec![] };
            list.sort();
            list.dedup();
            list
        };
        let paths = snapshot.paths.iter().map(|path| crate::names::normal_path(path)).collect();
        let origins: Option<Vec<String>> = sources.iter().map(origin).collect();
        let origins = origins.filter(|origins| !origins.is_empty());
        GroupKey {
            hostname: if self.host { snapshot.hostname.clone() } else { String::new() },
            paths: sorted(self.paths, paths),
            tags: sorted(self.tags, snapshot.tags.clone()),
            unknown: origins.is_none(),
            origins: sorted(self.paths, origins.unwrap_or_default()),
            safety: snapshot.is_safety(),
        }
    }
}

impl GroupKey {
    /// The group as far as it is known before anything is read: without the format of a pipe.
    #[must_use]
    pub fn before_reading(snapshot: &Snapshot) -> Self {
        Self::before_reading_by(GroupBy::default(), snapshot)
    }

    /// The same, for groups that are formed by `by`.
    #[must_use]
    pub fn before_reading_by(by: GroupBy, snapshot: &Snapshot) -> Self {
        let mut sources = snapshot.sources.clone();
        for source in &mut sources {
            source.details.retain(|name, _| name != "format" && name != FROM);
        }
        by.key_of(snapshot, &sources)
    }

    /// The same, whatever esker.toml calls the sources.
    #[must_use]
    pub fn before_reading_without_names(snapshot: &Snapshot) -> Self {
        let mut snapshot = snapshot.clone();
        for source in &mut snapshot.sources {
            source.identity.iter_mut().for_each(|identity| identity.name = None);
        }
        Self::before_reading(&snapshot)
    }

    /// For people: the properties that form a group.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut text = format!("host '{}', paths {}", self.hostname, self.paths.join(" "));
        if self.origins.iter().any(|origin| origin != "files") {
            text += &format!(", from {}", self.origins.join(", "));
        }
        if self.safety {
            text += ", saved before restores";
        }
        if !self.tags.is_empty() {
            text += &format!(", tags {}", self.tags.join(","));
        }
        text
    }
}

/// Whether a person would call two snapshots by one name: they are streams of one host and path, or of one source of
/// esker.toml.
#[must_use]
pub fn is_namesake(new: &Snapshot, before: &Snapshot) -> bool {
    let stream = |record: &SourceRecord| matches!(record.kind.as_str(), "stdin" | "command");
    let name = |record: &SourceRecord| record.identity.as_ref().and_then(|identity| identity.name.clone());
    let names: Vec<String> = new.sources.iter().filter_map(name).collect();
    let same_name = before.sources.iter().filter_map(name).any(|name| names.contains(&name));
    let by = GroupBy { host: false, paths: true, tags: false };
    let same_stream = new.sources.iter().any(stream)
        && before.sources.iter().any(stream)
        && by.key(new).paths == by.key(before).paths;
    new.hostname == before.hostname && (same_name || same_stream)
}

/// Where a namesake came from, if its origin differs: a user would not expect rules to separate the two.
#[must_use]
pub fn other_origin(new: &Snapshot, before: &Snapshot) -> Option<String> {
    let (ours, theirs) = (GroupBy::default().key(new), GroupBy::default().key(before));
    if (&ours.origins, &ours.paths) == (&theirs.origins, &theirs.paths) {
        return None;
    }
    let show = |key: &GroupKey| match key.unknown {
        true => "a place that it does not name".to_owned(),
        false => format!("{} ({})", key.origins.join(", "), key.paths.join(" ")),
    };
    Some(format!("from {}, this one from {}", show(&theirs), show(&ours)))
}

/// The keyed hash of a command's words, as [`Identity::words`] has it: 128 bits of BLAKE3 under a key of the repository.
#[must_use]
pub fn hash_words(words: &[std::ffi::OsString], keys: &chunkstore::keys::KeyRing) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let mut text = b"esker: words of a command".to_vec();
    for word in words {
        text.extend_from_slice(&(word.len() as u64).to_le_bytes());
        text.extend_from_slice(word.as_bytes());
    }
    chunkstore::id::to_hex(&keys.chunk_id(&text).as_bytes()[..16])
}

/// The last component of a program's path.
#[must_use]
pub fn program(words: &[std::ffi::OsString]) -> String {
    let first = words.first().map(std::path::Path::new);
    let name = first.and_then(std::path::Path::file_name).map(std::os::unix::ffi::OsStrExt::as_bytes);
    crate::names::path_text(name.unwrap_or_default())
}
