//! The collections of a server in a snapshot, for `ls`, `find`, `dump` and `diff`: by their descriptions and the list of entries.
//! Shards are read by `dump` only, and by `diff` where they differ.

mod alike;

use crate::dump::folder;
use crate::server::Description;
use crate::stored::{Part, describe, parts};
use alike::are_alike;
use connector_kit::members::{Dump, Layout, Wanted, written};
use engine::connector::contents::{Change, Contents, Member, Output};
use engine::connector::{Origin, fields};
use engine::diff::{self, diff};
use engine::inside::Inside;
use engine::monitor::Tally;
use engine::names::{encoded, path_bytes, path_text};
use engine::restore::archive::{Format, archive};
use engine::restore::dump;
use engine::{Error, Result, shown};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Collections.
pub(crate) struct Collections;

/// A collection is a folder: its description, and its shards.
const LAYOUT: Layout = Layout { kind: "qdrant", folder: "collections", ending: None, is_folder: true };

/// What a path is of.
enum Place {
    /// All collections of a server, by its folder.
    Server(String),
    /// A collection.
    Collection(Dump),
    /// A file of a collection, by its path.
    File(String),
}

impl Place {
    fn of(from: Origin<'_>) -> Result<Option<Self>> {
        if let Some((server, "")) = server(from) {
            return Ok(Some(Self::Server(server)));
        }
        Ok(LAYOUT.place(from)?.map(|place| match place.member {
            Some(file) => Self::File(format!("{}/{file}", place.dump.path)),
            None => Self::Collection(place.dump),
        }))
    }

    fn known(from: Origin<'_>) -> Result<Self> {
        Self::of(from)?.ok_or_else(|| Error::NoEntry { path: from.below.to_owned() })
    }

    /// The folder or the file that is read for it.
    fn path(&self) -> &str {
        match self {
            Self::Server(path) | Self::File(path) => path,
            Self::Collection(dump) => &dump.path,
        }
    }
}

/// The folder of the server that a path is of, and the rest of the path.
fn server<'a>(from: Origin<'a>) -> Option<(String, &'a str)> {
    let below = from.below.trim_matches('/').strip_prefix("qdrant/")?;
    let (address, rest) = below.split_once('/').unwrap_or((below, ""));
    let folder = folder(address);
    let rooted = format!("/{folder}");
    let is_ours = |path: &String| {
        path.strip_prefix(&rooted).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    (LAYOUT.is_source(from) && from.snapshot.snapshot.paths.iter().any(is_ours)).then_some((folder, rest))
}

/// The vectors of a collection by their names, of which the usual one has none: length and distance, as its configuration says.
fn vectors(config: &Value) -> Vec<String> {
    let params = &config["params"];
    let one = |name: &str, vector: &Value| {
        let distance = vector["distance"].as_str().unwrap_or_default();
        let name = if name.is_empty() { String::new() } else { format!("{} ", shown::line(name)) };
        vector["size"].as_u64().map(|size| format!("{name}{size} {}", shown::line(distance)))
    };
    let dense = &params["vectors"];
    let several = dense.as_object().into_iter().flatten().filter_map(|(name, vector)| one(name, vector));
    let sparse = params["sparse_vectors"].as_object().into_iter().flatten();
    let sparse = sparse.map(|(name, _)| format!("{} sparse", shown::line(name)));
    one("", dense).into_iter().chain(several).chain(sparse).collect()
}

/// What a collection is, for people.
fn about(description: &Description, part: &Part) -> String {
    let points = description.points.map_or_else(|| "? points".into(), |points| format!("{points} points"));
    let missing = description.all_shards().len() - part.shards.len();
    let missing = if missing == 0 { String::new() } else { format!(" ({missing} more are missing)") };
    let vectors = vectors(&description.config).join(", ");
    format!("{points}, {} shards{missing}, vectors {vectors}", part.shards.len())
}

/// The collections below a folder of the snapshot, with their descriptions.
fn collections(from: Origin<'_>, path: &str) -> Result<Vec<(Description, Part)>> {
    let snapshot = &from.snapshot.snapshot;
    from.repo.sync_index(&Tally::default())?;
    let mut all = vec![];
    for (place, part) in parts(from.repo, snapshot, path)? {
        let description = describe(from.repo, snapshot, &place, &part, &Tally::default())?;
        if !part.is_gone(snapshot, &description.name) {
            all.push((description, part));
        }
    }
    Ok(all)
}

/// A collection as a member of its server.
fn member(description: &Description, part: &Part) -> Member {
    let params = &description.config["params"];
    Member {
        path: format!("{}/{}", folder(&part.address), encoded(&description.name)).into_bytes(),
        name: description.name.clone().into_bytes(),
        kind: "collection".into(),
        size: Some(part.shards.values().map(|(_, len)| len).sum()),
        time: None,
        about: about(description, part),
        fields: fields(json!({
            "server": part.address,
            "points": description.points,
            "shards": part.shards.keys().collect::<Vec<_>>(),
            "missing_shards": description.all_shards().into_iter().filter(|shard| !part.shards.contains_key(shard)).collect::<Vec<_>>(),
            "vectors": params["vectors"],
            "sparse_vectors": params["sparse_vectors"],
            "aliases": description.aliases,
            "version": description.version,
        })),
    }
}

/// The files of a collection as members of it.
fn files(dump: &Dump, part: &Part) -> Vec<Member> {
    let file = |path: &String, kind: &str, size: Option<u64>, shard: Option<u64>| {
        let name = path.rsplit('/').next().unwrap_or_default().as_bytes().to_vec();
        Member {
            path: dump.member(&LAYOUT, &name),
            name,
            kind: kind.to_owned(),
            size,
            time: None,
            about: String::new(),
            fields: fields(json!({"collection": engine::names::decoded(&dump.name), "shard": shard})),
        }
    };
    let description = part.description.iter().map(|path| file(path, "config", None, None));
    let shards =
        part.shards.iter().map(|(number, (path, len))| file(path, "shard", Some(*len), Some(*number)));
    description.chain(shards).collect()
}

impl Contents for Collections {
    fn noun(&self) -> &'static str {
        "collection"
    }

    fn holds(&self, from: Origin<'_>) -> bool {
        // What cannot be told is told when it is read.
        Place::of(from).map_or(true, |place| place.is_some())
    }

    fn reads(&self, from: Origin<'_>) -> Vec<u8> {
        match Place::of(from) {
            Ok(Some(place)) => place.path().as_bytes().to_vec(),
            _ => path_bytes(from.below.trim_matches('/')),
        }
    }

    fn is_dump(&self, from: Origin<'_>) -> bool {
        server(from).is_some_and(|(_, rest)| rest.is_empty())
    }

    /// A server's collections are one.
    fn dump_of(&self, from: Origin<'_>) -> Option<String> {
        server(from).map(|(server, _)| server)
    }

    fn list(
        &self,
        from: Origin<'_>,
        patterns: &[Vec<u8>],
        each: &mut dyn FnMut(Member) -> Result<()>,
    ) -> Result<()> {
        let place = Place::known(from)?;
        let wanted = Wanted::new(patterns);
        let members = match &place {
            Place::Server(path) => {
                collections(from, path)?.iter().map(|(description, part)| member(description, part)).collect()
            }
            Place::Collection(dump) => {
                let parts = parts(from.repo, &from.snapshot.snapshot, &dump.path)?;
                parts.values().flat_map(|part| files(dump, part)).collect()
            }
            Place::File(_) => vec![],
        };
        if matches!(place, Place::File(_)) {
            return Err(Error::NoEntry { path: from.below.to_owned() });
        }
        members.into_iter().filter(|member: &Member| wanted.fits(&member.name)).try_for_each(each)
    }

    /// A file of a collection as it is; of the whole collection a tar of its files.
    fn read(&self, from: Origin<'_>, out: Output<'_>) -> Result<u64> {
        let (repo, snapshot, monitor) = (from.repo, &from.snapshot.snapshot, Tally::default());
        let place = Place::known(from)?;
        repo.sync_index(&monitor)?;
        if !Inside::new(&path_text(place.path().as_bytes())).is_entry(repo, snapshot)? {
            return Err(Error::NoEntry { path: from.below.to_owned() });
        }
        let path = place.path().as_bytes();
        written(out, |out| match place {
            Place::File(_) => dump(repo, snapshot, path, out, &monitor).map(drop),
            Place::Server(_) | Place::Collection(_) => {
                archive(repo, snapshot, (path, path), Format::Tar, out, &monitor)
            }
        })
    }

    /// By the chunks of their files: of shards only those are read that one of the two lacks.
    fn compare(
        &self,
        old: Origin<'_>,
        new: Origin<'_>,
        _scratch: &Path,
        each: &mut dyn FnMut(Change, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut changes: BTreeMap<Vec<u8>, Change> = BTreeMap::new();
        let mut shards: BTreeSet<Vec<u8>> = BTreeSet::new();
        let side = |from: Origin<'_>| Inside::new(from.below).join("collections");
        let (before, after) = (side(old), side(new));
        diff(
            old.repo,
            (&old.snapshot.snapshot.manifest, &before),
            (&new.snapshot.snapshot.manifest, &after),
            false,
            &mut |change, entry, _| {
                let (name, file) = collection_of(&entry.path);
                let change = match change {
                    diff::Change::Added if file.is_none() => Change::Added,
                    diff::Change::Removed if file.is_none() => Change::Removed,
                    diff::Change::Modified if file.is_some_and(|file| file.starts_with(b"shard-")) => {
                        shards.insert(entry.path.clone());
                        return;
                    }
                    _ => Change::Changed,
                };
                // The folder comes before what is in it, and says more.
                changes.entry(name.to_vec()).or_insert(change);
            },
        )?;
        for shard in shards {
            let (name, _) = collection_of(&shard);
            let path = |inside: &Inside| inside.join(&path_text(&shard)).path().to_vec();
            let (one, other) = (path(&before), path(&after));
            if !changes.contains_key(name) && !are_alike((old, &one), (new, &other))? {
                changes.insert(name.to_vec(), Change::Changed);
            }
        }
        let folder = path_bytes(old.below.trim_matches('/'));
        changes.into_iter().try_for_each(|(name, change)| each(change, &[&folder[..], b"/", &name].concat()))
    }
}

/// The collection of a path below the folder of collections, and the path in it.
fn collection_of(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], path.get(slash + 1..)),
        None => (path, None),
    }
}

#[cfg(test)]
mod tests {
    use super::vectors;
    use serde_json::json;

    #[test]
    fn vectors_of_every_form() {
        let of = |params| vectors(&json!({ "params": params }));
        assert_eq!(of(json!({"vectors": {"size": 4, "distance": "Cosine"}})), ["4 Cosine"]);
        let several = json!({
            "vectors": {"image": {"size": 512, "distance": "Dot"}, "text": {"size": 3, "distance": "Euclid"}},
            "sparse_vectors": {"words": {}},
        });
        assert_eq!(of(several), ["image 512 Dot", "text 3 Euclid", "words sparse"]);
        assert!(of(json!({})).is_empty());
    }
}
