//! The place of leaves: the store, and copies of sealed ones in a local folder.

use super::Age;
use super::columns::RootColumns;
use super::reference::{LeafRef, ObjectRef};
use crate::env::{Env, random_array};
use crate::format::{MAX_LEAF_LEN, ObjectKind, names};
use crate::id::ObjectId;
use crate::keys::KeyRing;
use crate::pool::locked;
use crate::storage::{ErrorKind, Storage};
use crate::{Error, Result, envelope, private};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// Leaves that HEAD no longer names stay in the local cache for so long: another process may read by an older HEAD.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a leaf has from the HEAD that names it first.
#[derive(Clone, Copy)]
pub(super) struct Stamp {
    pub(super) age: Age,
    pub(super) epoch: u32,
}

/// Where leaves are read and written.
pub(super) struct Leaves {
    storage: Arc<dyn Storage>,
    keys: Arc<KeyRing>,
    env: Arc<dyn Env>,
    /// The tier that the place was made as.
    home: Option<String>,
    columns: &'static dyn RootColumns,
    /// A folder with copies of sealed leaves.
    cache: Option<PathBuf>,
    /// The plaintexts of those that were read.
    read: Mutex<HashMap<ObjectId, Bytes>>,
}

impl std::fmt::Debug for Leaves {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Leaves")
    }
}

impl Leaves {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        keys: Arc<KeyRing>,
        env: Arc<dyn Env>,
        home: Option<String>,
        columns: &'static dyn RootColumns,
        cache: Option<PathBuf>,
    ) -> Self {
        Self { storage, keys, env, home, columns, cache, read: Mutex::default() }
    }

    /// What writes the summaries of leaves.
    pub(super) fn columns(&self) -> &'static dyn RootColumns {
        self.columns
    }

    /// Bytes that a list may take in HEAD.
    pub(super) fn inline(&self, share: usize) -> usize {
        self.env.head_inline() / share
    }

    /// Bytes that a leaf is not to exceed.
    pub(super) fn leaf_len(&self) -> u64 {
        self.env.head_inline() as u64 * 1024
    }

    /// Whether an object can be read although the store removes it. One in the cache is marked as in use, so that no other
    /// process lets it go soon.
    fn is_at_hand(&self, object: &ObjectRef) -> bool {
        if locked(&self.read).contains_key(&object.id) {
            return true;
        }
        let Some(file) = self.cached(object).and_then(|path| std::fs::File::open(path).ok()) else {
            return false;
        };
        let written = file.metadata().and_then(|metadata| metadata.modified());
        let is_new = |time: SystemTime| time.elapsed().is_ok_and(|age| age < KEPT / 2);
        // Where that cannot be noted, it is read now.
        written.is_ok_and(is_new) || file.set_modified(SystemTime::now()).is_ok()
    }

    fn cached(&self, object: &ObjectRef) -> Option<PathBuf> {
        Some(self.cache.as_ref()?.join(object.id.to_string()))
    }

    /// Reads the leaves that are not at hand, so that HEAD can be used after others changed it. What bodies say can be
    /// read elsewhere.
    pub(super) fn fetch<'a>(&self, references: impl Iterator<Item = &'a LeafRef>) -> Result<()> {
        let missing: Vec<&LeafRef> = references.filter(|leaf| !self.is_at_hand(&leaf.object)).collect();
        missing.iter().try_for_each(|leaf| self.get(leaf.age, leaf.object).map(drop))
    }

    /// Lets go of what HEAD does not name, in memory at once.
    pub(super) fn keep_only<'a>(&self, references: impl Iterator<Item = &'a LeafRef>) {
        let named: HashSet<ObjectId> = references
            .flat_map(|leaf| std::iter::once(leaf.object).chain(leaf.bodies))
            .map(|object| object.id)
            .collect();
        locked(&self.read).retain(|id, _| named.contains(id));
        let files = self.cache.as_ref().and_then(|folder| std::fs::read_dir(folder).ok());
        for file in files.into_iter().flatten().flatten() {
            let id = file.file_name().to_str().and_then(ObjectId::parse);
            let written = file.metadata().and_then(|metadata| metadata.modified());
            let is_old = written.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > KEPT));
            if is_old && id.is_none_or(|id| !named.contains(&id)) {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }

    /// The plaintext of an object.
    pub(super) fn get(&self, age: Age, object: ObjectRef) -> Result<Bytes> {
        if let Some(plain) = locked(&self.read).get(&object.id) {
            return Ok(plain.clone());
        }
        let name = names::leaf(age.parts(), &object.id);
        let cached = self.cached(&object).and_then(|path| std::fs::read(path).ok());
        // One that opens is the object: the name, which no other one had, is authenticated with it.
        let opened = cached
            .and_then(|sealed| envelope::open_in_place(&self.keys, ObjectKind::Leaf, &name, sealed).ok());
        let plain = match opened {
            Some(plain) => plain,
            None => {
                let sealed = self.stored(&name, &object)?;
                self.keep(&object, &sealed);
                Bytes::from(envelope::open(&self.keys, ObjectKind::Leaf, &name, &sealed)?)
            }
        };
        locked(&self.read).insert(object.id, plain.clone());
        Ok(plain)
    }

    /// Reads the objects of a leaf in the store, whatever is at hand, and checks them.
    pub(super) fn check(&self, leaf: &LeafRef) -> Result<()> {
        for (name, object) in leaf.names().zip(std::iter::once(leaf.object).chain(leaf.bodies)) {
            let sealed = self.stored(&name, &object)?;
            envelope::open(&self.keys, ObjectKind::Leaf, &name, &sealed)?;
        }
        Ok(())
    }

    /// The sealed bytes that the store has of an object, checked against what HEAD says of it.
    fn stored(&self, name: &str, object: &ObjectRef) -> Result<Bytes> {
        let tier = self.home.as_ref().map_or_else(String::new, |tier| format!(" --tier {tier}"));
        let lost = |what: &str| {
            let why =
                format!("{what}. It holds a part of HEAD's lists: 'esker repair head{tier}' makes HEAD anew");
            Error::corrupt(name, why)
        };
        match self.storage.get(name, MAX_LEAF_LEN) {
            Ok(sealed) if *blake3::hash(&sealed).as_bytes() == object.hash.0 => Ok(sealed),
            Ok(_) => Err(lost("it is not the object that HEAD names")),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Short) => {
                Err(lost("it is missing, or too short"))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn put(&self, stamp: Stamp, plain: &[u8]) -> Result<ObjectRef> {
        let id = ObjectId(random_array(&*self.env)?);
        let name = names::leaf(stamp.age.parts(), &id);
        let sealed =
            Bytes::from(envelope::seal(&self.keys, stamp.epoch, ObjectKind::Leaf, &name, plain, &*self.env)?);
        let object = ObjectRef { id, hash: ObjectId(*blake3::hash(&sealed).as_bytes()) };
        self.storage.put(&name, sealed.clone())?;
        self.keep(&object, &sealed);
        locked(&self.read).insert(id, Bytes::copy_from_slice(plain));
        Ok(object)
    }

    /// Keeps a copy in the cache. It is checked by its hash when it is read, so it need not be durable.
    fn keep(&self, object: &ObjectRef, sealed: &[u8]) {
        let (Some(folder), Some(path)) = (&self.cache, self.cached(object)) else { return };
        let beside = path.with_extension("new");
        let done = private::folder(folder)
            .and_then(|()| private::write(&beside, sealed))
            .and_then(|()| std::fs::rename(&beside, &path));
        if let Err(error) = done {
            tracing::debug!(%error, "a leaf of HEAD is not cached");
        }
    }

    /// Removes leaves that no HEAD will name again, from the store. What cannot be removed is left to a
    /// prune.
    pub(super) fn remove<'a>(&self, references: impl Iterator<Item = &'a LeafRef>) {
        references.flat_map(LeafRef::names).for_each(|name| self.delete(&name));
    }

    fn delete(&self, name: &str) {
        if let Err(error) = self.storage.delete(name)
            && error.kind != ErrorKind::NotFound
        {
            tracing::debug!(%error, "a leaf of HEAD that is not needed was not removed");
        }
    }

    /// Puts a leaf that the store lost back from the cache, if it is there. The bytes are those of the first time.
    pub(super) fn put_back(&self, leaf: &LeafRef) -> Result<()> {
        for (name, object) in leaf.names().zip(std::iter::once(leaf.object).chain(leaf.bodies)) {
            let Err(error) = self.stored(&name, &object) else { continue };
            let cached = self.cached(&object).and_then(|path| std::fs::read(path).ok());
            match cached.filter(|sealed| *blake3::hash(sealed).as_bytes() == object.hash.0) {
                Some(sealed) if error.is_damage() => self.storage.replace(&name, sealed.into())?,
                _ => return Err(error),
            }
        }
        Ok(())
    }
}
