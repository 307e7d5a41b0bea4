//! The dumps of a snapshot, and the commands of append-only files after them or in their place.

use super::Dump;
use super::bytes::Bytes;
use crate::files::{FOLDER, parts_of};
use crate::formats::ALL;
use crate::rdb::index::SeekIndex;
use crate::rdb::{MAGIC_LEN, Version};
use crate::resp::Resp;
use chunkstore::ingest::ChunkRef;
use engine::connector::Format;
use engine::entry::{Kind, is_beneath};
use engine::manifest::{Ending, ManifestReader, Record as Row, Step as ManifestStep};
use engine::snapshot::Snapshot;
use engine::{Error, Repository, Result};
use std::collections::BTreeMap;
use std::io::Read as _;

/// Commands of an append-only file.
#[derive(Clone, Debug)]
pub struct Commands {
    /// The file's path, without leading slash.
    pub path: String,
    /// Its bytes.
    pub content: Vec<ChunkRef>,
    /// Whether they begin with a dump, after which the commands come.
    pub after_dump: bool,
}

/// Entries by path: their chunks, and their bytes.
type Found = BTreeMap<String, (Vec<ChunkRef>, u64)>;

/// Bytes that are looked at to tell what a file is.
const HEAD: u64 = 512;

/// Whether a snapshot may have keys: of a server, of its files, or in a stream of one of its formats.
pub fn has_keys(snapshot: &Snapshot) -> bool {
    snapshot.sources.iter().any(|source| source.is_of("redis")) || has_streams(snapshot)
}

fn has_streams(snapshot: &Snapshot) -> bool {
    let is_stream = |format: &&Format| snapshot.sources.iter().any(|source| source.is_stream_of(format.name));
    ALL.iter().any(is_stream)
}

/// Whether the entry at a path, without leading slash, came as a stream that is a dump.
fn is_stream(snapshot: &Snapshot, path: &str) -> bool {
    has_streams(snapshot) && snapshot.paths.iter().any(|given| given.trim_start_matches('/') == path)
}

/// Whether the entry at a path, without leading slash, is by its name a dump of keys.
pub fn is_dump(snapshot: &Snapshot, path: &str) -> bool {
    let is_server_s = path.starts_with("redis/") && path.ends_with(".rdb");
    is_server_s && has_keys(snapshot) || is_stream(snapshot, path)
}

/// The dumps of a snapshot beneath a path. The index of the repository must be in step.
pub fn find(repo: &Repository, snapshot: &Snapshot, beneath: &[u8]) -> Result<Vec<Dump>> {
    let mut found = candidates(repo, snapshot, beneath)?;
    let mut dumps = vec![];
    for manifest in files(&found, |path| path.ends_with(".manifest")) {
        dumps.extend(append_only(repo, &manifest, &mut found)?);
    }
    let sides = |path: &str| {
        let stem = path.strip_suffix(".index").or_else(|| path.strip_suffix(".usage"));
        stem.is_some_and(|stem| found.contains_key(stem))
    };
    let singles: Vec<String> = found.keys().filter(|path| !sides(path)).cloned().collect();
    let has_append_only = snapshot.sources.iter().any(|source| source.kind == "redis+aof");
    for path in singles {
        let Some((content, len)) = found.remove(&path) else { continue };
        let head = head(repo, &content, len)?;
        let is_dump = head.get(..MAGIC_LEN).and_then(Version::parse).is_some();
        let is_commands =
            matches!(head.first(), Some(b'*' | b'#')) && Resp::default().feed(&head, &mut |_, _| {}).is_ok();
        if is_dump || path.ends_with(".rdb") && is_beneath(path.as_bytes(), b"redis") {
            let mut dump = dump(repo, path, (content, len), &mut found)?;
            // A dump in order is nothing else; any other may be the head of an append-only file.
            if has_append_only && dump.index.is_none() && is_in(&dump.path, FOLDER) {
                let (path, content) = (dump.path.clone(), dump.content.clone());
                dump.commands.push(Commands { path, content, after_dump: true });
            }
            dumps.push(dump);
        } else if is_commands {
            let commands = Commands { path: path.clone(), content, after_dump: false };
            dumps.push(Dump { commands: vec![commands], ..Dump::without_keys(path) });
        }
    }
    dumps.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(dumps)
}

/// The entries that may be dumps or belong to one: those of Redis servers by their names, its files and streams of any
/// name by their content.
fn candidates(repo: &Repository, snapshot: &Snapshot, beneath: &[u8]) -> Result<Found> {
    let is_stream = |path: &str| is_stream(snapshot, path);
    let is_wanted = |path: &str| {
        let below = is_beneath(path.as_bytes(), beneath);
        let is_server_s = [".rdb", ".rdb.index", ".rdb.usage"].iter().any(|end| path.ends_with(end))
            && is_beneath(path.as_bytes(), b"redis");
        below && (is_server_s || is_beneath(path.as_bytes(), FOLDER.as_bytes()))
            // A stream is a server's of no name.
            || (below || beneath == b"redis") && is_stream(path)
    };
    let mut found = Found::new();
    let mut reader = ManifestReader::new(repo.store(), &snapshot.manifest)?;
    let mut open: Option<(String, Vec<ChunkRef>)> = None;
    while let Some(step) = reader.next_step()? {
        match step {
            ManifestStep::Damage(damage) => return Err(damage.error.into()),
            ManifestStep::Record(Row::Entry(entry)) => {
                let path = String::from_utf8_lossy(&entry.path).into_owned();
                open = (entry.kind == Kind::File && is_wanted(&path)).then(|| (path, vec![]));
            }
            ManifestStep::Record(Row::Chunks(chunks)) => {
                if let Some((_, all)) = &mut open {
                    all.extend(chunks);
                }
            }
            ManifestStep::Record(Row::Hole(_)) => open = None,
            ManifestStep::Record(Row::End(ending, size)) => {
                if let (Some((path, chunks)), Ending::Complete) = (open.take(), ending) {
                    found.insert(path, (chunks, size));
                }
            }
        }
    }
    Ok(found)
}

fn files(found: &Found, is: impl Fn(&str) -> bool) -> Vec<String> {
    found.keys().filter(|path| is(path)).cloned().collect()
}

/// Whether a path is that of an entry directly in a folder.
fn is_in(path: &str, folder: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(above, _)| above == folder)
}

/// The first bytes of an entry.
fn head(repo: &Repository, content: &[ChunkRef], len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    let mut stretch = Bytes::new(repo.store(), content).plan([(0, len.min(HEAD))].into_iter()).next_stretch();
    stretch.read_to_end(&mut bytes).map_err(|error| super::read_error("a dump", error))?;
    Ok(bytes)
}

/// A dump with what stands beside it.
fn dump(
    repo: &Repository,
    path: String,
    (content, len): (Vec<ChunkRef>, u64),
    found: &mut Found,
) -> Result<Dump> {
    let index = match found.remove(&format!("{path}.index")) {
        Some((chunks, _)) => {
            let bytes = chunkstore::reader::read_all(repo.store(), &chunks)?;
            let bad = |why: &dyn ToString| Error::Malformed {
                what: format!("/{path}.index"),
                why: why.to_string(),
            };
            let index = SeekIndex::decode(&bytes).map_err(|error| bad(&error))?;
            if index.end > len {
                return Err(bad(&"goes beyond the dump"));
            }
            Some(index)
        }
        None => None,
    };
    let usage = found.remove(&format!("{path}.usage"));
    Ok(Dump { content, len, index, usage, ..Dump::without_keys(path) })
}

/// An append-only file in several parts: its base, if that is a dump, and the commands of the others in the order of its
/// manifest. `None` if none of them was looked for.
fn append_only(repo: &Repository, manifest: &str, found: &mut Found) -> Result<Option<Dump>> {
    let Some((chunks, _)) = found.remove(manifest) else { return Ok(None) };
    let folder = manifest.rsplit_once('/').map_or("", |(folder, _)| folder);
    let bytes = chunkstore::reader::read_all(repo.store(), &chunks)?;
    let bad = |why| Error::Malformed { what: format!("/{manifest}"), why };
    let (mut base, mut commands, mut is_first) = (None, vec![], true);
    for name in parts_of(&bytes).map_err(bad)? {
        let path = format!("{folder}/{}", engine::names::encoded(&name));
        let (content, len) =
            found.remove(&path).ok_or_else(|| bad(format!("names '{name}', which is not there")))?;
        let is_dump =
            is_first && head(repo, &content, len)?.get(..MAGIC_LEN).and_then(Version::parse).is_some();
        if is_dump {
            base = Some(dump(repo, path, (content, len), found)?);
        } else {
            commands.push(Commands { path, content, after_dump: false });
        }
        is_first = false;
    }
    let base = base.unwrap_or_else(|| Dump::without_keys(folder.to_owned()));
    Ok(Some(Dump { commands, ..base }))
}
