//! Keys, index, snapshots and blobs of a repository of restic.
//!
//! Source: restic, `doc/design.rst`, "Repository Layout", "Pack Format", "Indexing", "Snapshots".

use super::crypto::{Key, OVERHEAD};
use crate::source::{SourceError, SourceErrorKind};
use crate::{Error, Monitor, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chunkstore::pool::locked;
use chunkstore::storage::{ErrorKind, Storage, StorageError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

/// Longest key, snapshot or index file that is read: restic's index files hold 50,000 blobs, a few MiB.
const MAX_FILE: u64 = 1 << 30;
/// Longest blob that is read, unpacked: restic's chunks end at 8 MiB, its trees are as long as a folder's list.
const MAX_BLOB: usize = 1 << 30;
/// Longest pack: restic's option for it ends at 128 MiB; a tree blob can make one longer.
const MAX_PACK: u64 = 1 << 30;
/// Bytes of neighbouring blobs that one read fetches.
const MAX_RUN: u64 = 16 << 20;
/// Packs of a store over the network that are kept in memory: 16 MiB each unless restic was told otherwise.
const KEPT_PACKS: usize = 8;

/// SHA-256 of a file or blob, as restic names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(pub [u8; 32]);

impl Id {
    /// The id of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Reads 64 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        chunkstore::ObjectId::parse(text).map(|id| Self(id.0))
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        chunkstore::ObjectId(self.0).fmt(f)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("an id has 64 hex digits"))
    }
}

/// A snapshot's record.
#[derive(Clone, Deserialize)]
pub struct Snapshot {
    /// The name of its file.
    #[serde(skip, default = "nothing")]
    pub id: Id,
    /// When it was made.
    pub time: jiff::Timestamp,
    /// The folder above everything in it.
    pub tree: Id,
    /// What was backed up.
    #[serde(default)]
    pub paths: Vec<String>,
    /// Host.
    #[serde(default)]
    pub hostname: String,
    /// User.
    #[serde(default)]
    pub username: String,
    /// The user's number.
    #[serde(default)]
    pub uid: u32,
    /// The group's number.
    #[serde(default)]
    pub gid: u32,
    /// Patterns that were left out.
    #[serde(default)]
    pub excludes: Option<Vec<String>>,
    /// Tags.
    #[serde(default)]
    pub tags: Option<Vec<String>>,
    /// Such as `restic 0.19.1`; none before 0.17.
    #[serde(default)]
    pub program_version: String,
}

fn nothing() -> Id {
    Id([0; 32])
}

#[derive(Deserialize)]
struct KeyFile {
    kdf: String,
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
    salt: String,
    data: String,
}

#[derive(Deserialize)]
struct MasterKey {
    mac: MacKey,
    encrypt: String,
}

#[derive(Deserialize)]
struct MacKey {
    k: String,
    r: String,
}

#[derive(Deserialize)]
struct Config {
    version: u32,
    id: String,
}

#[derive(Deserialize)]
struct IndexFile {
    #[serde(default)]
    packs: Vec<PackRecord>,
}

#[derive(Deserialize)]
struct PackRecord {
    id: Id,
    #[serde(default)]
    blobs: Vec<BlobRecord>,
}

#[derive(Deserialize)]
struct BlobRecord {
    id: Id,
    #[serde(rename = "type")]
    kind: String,
    offset: u64,
    length: u64,
    #[serde(default)]
    uncompressed_length: usize,
}

/// What a blob holds. Blobs of both kinds can have one id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// A piece of a file.
    Data,
    /// A folder.
    Tree,
}

/// Where a blob is.
#[derive(Clone, Copy)]
struct Location {
    pack: u32,
    offset: u64,
    len: u64,
    /// 0: not compressed.
    plain_len: usize,
}

/// A repository of restic.
pub struct Repository {
    storage: Arc<dyn Storage>,
    master: Key,
    id: String,
    version: u32,
    packs: Vec<Id>,
    blobs: HashMap<(Kind, Id), Location>,
    /// Packs of a store that is far away, the last read at the end.
    kept: Mutex<VecDeque<(u32, Bytes)>>,
}

impl Repository {
    /// Opens it with a password: any of its keys may fit.
    ///
    /// # Errors
    /// If there is none, no key fits, or its format is newer than version 2.
    pub fn open(storage: Arc<dyn Storage>, password: &[u8]) -> Result<Self> {
        let sealed = storage.get("config", MAX_FILE).map_err(|error| match error.kind {
            ErrorKind::NotFound => chunkstore::Error::NoRepository { place: storage.place() },
            _ => error.into(),
        })?;
        let master = unlock(&*storage, password)?;
        let place = storage.place();
        let text = master.open(&sealed).ok_or_else(|| damaged(&place, "config", "it is not authentic"))?;
        let config: Config = parse(&place, "config", &text)?;
        if !(1..=2).contains(&config.version) {
            let why = format!("version {} of restic's format; versions 1 and 2 are known", config.version);
            return Err(SourceError::new(SourceErrorKind::Unavailable, place, why).into());
        }
        Ok(Self {
            storage,
            master,
            id: config.id,
            version: config.version,
            packs: vec![],
            blobs: HashMap::new(),
            kept: Mutex::default(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> String {
        self.storage.place()
    }

    /// Its own id, as in its config.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// All snapshots, oldest first.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn snapshots(&self, monitor: &dyn Monitor) -> Result<Vec<Snapshot>> {
        let mut all: Vec<Snapshot> = vec![];
        for id in files(&*self.storage, "snapshots")? {
            stop(monitor)?;
            let mut snapshot: Snapshot = self.file("snapshots", id)?;
            snapshot.id = id;
            all.push(snapshot);
        }
        all.sort_by_key(|snapshot| (snapshot.time, snapshot.id));
        Ok(all)
    }

    /// Reads the index into memory: about 100 bytes a blob.
    ///
    /// # Errors
    /// If a part of it cannot be read: nothing is concluded from half an index.
    pub fn load_index(&mut self, monitor: &dyn Monitor) -> Result<()> {
        for id in files(&*self.storage, "index")? {
            stop(monitor)?;
            let file: IndexFile = self.file("index", id)?;
            for pack in file.packs {
                let number = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
                self.packs.push(pack.id);
                for blob in pack.blobs {
                    let kind = match blob.kind.as_str() {
                        "data" => Kind::Data,
                        "tree" => Kind::Tree,
                        // Of a later version; what nobody needs does not matter.
                        _ => continue,
                    };
                    let (offset, len, plain_len) = (blob.offset, blob.length, blob.uncompressed_length);
                    self.blobs.insert((kind, blob.id), Location { pack: number, offset, len, plain_len });
                }
            }
        }
        Ok(())
    }

    /// Reads and opens a file of JSON; its name is the hash of what is stored.
    fn file<T: DeserializeOwned>(&self, folder: &str, id: Id) -> Result<T> {
        let (name, place) = (format!("{folder}/{id}"), self.place());
        let sealed = self.storage.get(&name, MAX_FILE).map_err(chunkstore::Error::from)?;
        if Id::of(&sealed) != id {
            return Err(damaged(&place, &name, "its content is not what its name says"));
        }
        let text = self.master.open(&sealed).ok_or_else(|| damaged(&place, &name, "it is not authentic"))?;
        // Since version 2 a byte says what follows; JSON itself begins with a bracket.
        let text = match text.split_first() {
            Some((2, packed)) if self.version >= 2 => {
                unpack(packed).map_err(|why| damaged(&place, &name, &why))?
            }
            _ => text,
        };
        parse(&place, &name, &text)
    }

    /// Reads a blob.
    ///
    /// # Errors
    /// If no pack has it, or it is damaged.
    pub fn blob(&self, kind: Kind, id: Id) -> Result<Vec<u8>, SourceError> {
        let mut blobs = self.run(kind, &[id])?;
        blobs.pop().ok_or_else(|| self.unavailable("restic gave nothing"))
    }

    /// Reads the first of `ids`, and those after it that lie behind it in the same pack.
    ///
    /// # Errors
    /// If the first is in no pack, or one of them is damaged.
    pub fn run(&self, kind: Kind, ids: &[Id]) -> Result<Vec<Vec<u8>>, SourceError> {
        let locate = |id: &Id| self.blobs.get(&(kind, *id)).copied();
        let Some((first, rest)) = ids.split_first() else { return Ok(vec![]) };
        let start = locate(first).ok_or_else(|| {
            SourceError::new(SourceErrorKind::Incomplete, format!("blob {first}"), "no index lists it")
        })?;
        let mut places = vec![(*first, start)];
        let mut end = start.offset.saturating_add(start.len);
        for id in rest {
            match locate(id) {
                Some(next)
                    if next.pack == start.pack
                        && next.offset == end
                        && (end - start.offset).saturating_add(next.len) <= MAX_RUN =>
                {
                    places.push((*id, next));
                    end = end.saturating_add(next.len);
                }
                _ => break,
            }
        }
        let bytes = self.read(start.pack, start.offset, end.saturating_sub(start.offset))?;
        let mut blobs = Vec::with_capacity(places.len());
        for (id, place) in places {
            let from = usize::try_from(place.offset - start.offset).unwrap_or(usize::MAX);
            let len = usize::try_from(place.len).unwrap_or(usize::MAX);
            let sealed = bytes.get(from..from.saturating_add(len)).unwrap_or_default();
            blobs.push(self.open_blob(id, place, sealed)?);
        }
        Ok(blobs)
    }

    fn open_blob(&self, id: Id, place: Location, sealed: &[u8]) -> Result<Vec<u8>, SourceError> {
        let broken = |why: &str| SourceError::new(SourceErrorKind::Incomplete, format!("blob {id}"), why);
        if sealed.len() < OVERHEAD {
            return Err(broken("it is shorter than what sealing adds"));
        }
        let mut text = self.master.open(sealed).ok_or_else(|| broken("it is not authentic"))?;
        if place.plain_len > 0 {
            if place.plain_len > MAX_BLOB {
                return Err(broken("it is longer than 1 GiB"));
            }
            text =
                zstd::bulk::decompress(&text, place.plain_len).map_err(|error| broken(&error.to_string()))?;
        }
        match Id::of(&text) == id {
            true => Ok(text),
            false => Err(broken("its content is not what its name says")),
        }
    }

    /// Bytes of a pack: from the disk as they are needed, over a network a pack at a time.
    fn read(&self, pack: u32, offset: u64, len: u64) -> Result<Bytes, SourceError> {
        let id = self.packs.get(pack as usize).ok_or_else(|| self.unavailable("a pack without a name"))?;
        let hex = id.to_string();
        let name = format!("data/{}/{hex}", hex.get(..2).unwrap_or_default());
        if len > MAX_PACK {
            return Err(self.unavailable("a blob longer than 1 GiB"));
        }
        if self.storage.is_near() {
            return self.storage.get_range(&name, offset, len).map_err(|error| self.failed(&error));
        }
        let mut kept = locked(&self.kept);
        let found = kept.iter().position(|(number, _)| *number == pack);
        let (_, bytes) = match found.and_then(|at| kept.remove(at)) {
            Some(held) => held,
            None => (pack, self.storage.get(&name, MAX_PACK).map_err(|error| self.failed(&error))?),
        };
        kept.push_back((pack, bytes.clone()));
        if kept.len() > KEPT_PACKS {
            kept.pop_front();
        }
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = from.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
        if end > bytes.len() {
            return Err(SourceError::new(SourceErrorKind::Incomplete, name, "the pack is too short"));
        }
        Ok(bytes.slice(from..end))
    }

    fn failed(&self, error: &StorageError) -> SourceError {
        let kind = match error.kind {
            ErrorKind::NotFound | ErrorKind::Short => SourceErrorKind::Incomplete,
            _ => SourceErrorKind::Unavailable,
        };
        SourceError::new(kind, self.place(), chunkstore::store::describe(error))
    }

    fn unavailable(&self, why: &str) -> SourceError {
        SourceError::new(SourceErrorKind::Unavailable, self.place(), why)
    }
}

/// Finds the key that a password opens.
fn unlock(storage: &dyn Storage, password: &[u8]) -> Result<Key> {
    let place = storage.place();
    let names = files(storage, "keys")?;
    let tried = names.len();
    for id in names {
        let name = format!("keys/{id}");
        let text = storage.get(&name, MAX_FILE).map_err(chunkstore::Error::from)?;
        let file: KeyFile = parse(&place, &name, &text)?;
        let broken = |why: &str| damaged(&place, &name, why);
        if file.kdf != "scrypt" {
            return Err(broken(&format!("its key derivation '{}' is not known", file.kdf)));
        }
        let decode = |text: &str| STANDARD.decode(text).map_err(|error| broken(&error.to_string()));
        let key = Key::derive(password, &decode(&file.salt)?, file.n, file.r, file.p)
            .map_err(|why| broken(&why))?;
        let Some(text) = key.open(&decode(&file.data)?) else { continue };
        let master: MasterKey = parse(&place, &name, &text)?;
        let parts = (decode(&master.encrypt)?, decode(&master.mac.k)?, decode(&master.mac.r)?);
        return Key::new(&parts.0, &parts.1, &parts.2).ok_or_else(|| broken("the key has another length"));
    }
    let secret = "password".to_owned();
    Err(chunkstore::Error::WrongPassword { secret, slots: tried, others: None, damage: None }.into())
}

/// The ids of the files in a folder, in order.
fn files(storage: &dyn Storage, folder: &str) -> Result<Vec<Id>> {
    let mut ids = vec![];
    storage
        .list(folder, &mut |name, _| {
            // What is not named by an id is no file of restic's: the rest of an upload, for one.
            ids.extend(name.rsplit('/').next().and_then(Id::parse));
        })
        .map_err(chunkstore::Error::from)?;
    ids.sort();
    Ok(ids)
}

fn stop(monitor: &dyn Monitor) -> Result<()> {
    if monitor.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}

fn damaged(place: &str, name: &str, why: &str) -> Error {
    SourceError::new(SourceErrorKind::Incomplete, format!("{place}/{name}"), why).into()
}

fn parse<T: DeserializeOwned>(place: &str, name: &str, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|error| damaged(place, name, &error.to_string()))
}

/// Unpacks zstd that does not say how long it gets.
fn unpack(packed: &[u8]) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let mut text = vec![];
    let reader = zstd::stream::read::Decoder::new(packed).map_err(|error| error.to_string())?;
    reader.take(MAX_FILE).read_to_end(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}
