//! Leaves: immutable objects that hold stretches of HEAD's long lists, `sets/<incarnation>.<generation>.<id>`. The name
//! carries the age of the HEAD that may name the leaf first: a HEAD of that age or a later one that does not name it
//! proves that none ever will. docs/concurrency.md has the argument.

use super::Age;
use crate::env::{Env, random_array};
use crate::format::{Decoder, Encoder, MAX_LEAF_LEN, Malformed, ObjectKind, names};
use crate::id::ObjectId;
use crate::keys::KeyRing;
use crate::pool::locked;
use crate::storage::{ErrorKind, Storage};
use crate::{Error, Result, envelope, private};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serializer};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

/// Level of zstd for bodies: HEAD's leaves are small and written seldom.
const LEVEL: i32 = 3;
/// Leaves that HEAD no longer names stay in the local cache for so long: another process may read by an older HEAD.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a list of HEAD consists of.
pub trait Item: Clone + Send + Sync + Serialize + DeserializeOwned + 'static {
    /// Tells the leaves of different lists apart.
    const KIND: u8;
    /// The list gets this fraction of the bytes that lists may take in HEAD.
    const SHARE: usize;

    /// Writes it.
    fn encode(&self, out: &mut Encoder);

    /// Reads it.
    ///
    /// # Errors
    ///
    /// The bytes are malformed.
    fn decode(decoder: &mut Decoder<'_>, whole: &Whole<'_>, place: u32) -> Result<Self, Malformed>;

    /// The larger part of it, which lies in an object of its own, so that the rest is read without it.
    fn body(&self) -> Body {
        Body::None
    }

    /// Bytes of it and its body in leaves, about.
    fn plain_len(&self) -> usize {
        let mut out = Encoder::default();
        self.encode(&mut out);
        out.bytes.len() + self.body().len()
    }
}

/// The leaf that an item is read from; `place` is its number in it, and that of its body.
pub struct Whole<'a> {
    /// The plaintext, of which items may keep parts.
    plain: &'a Bytes,
    bodies: &'a Arc<Bodies>,
}

impl Whole<'_> {
    /// A part of the plaintext.
    pub(super) fn part(&self, part: &[u8]) -> Bytes {
        self.plain.slice_ref(part)
    }

    /// The body of an item.
    pub(super) fn body(&self, place: u32) -> Body {
        Body::There(Arc::clone(self.bodies), place)
    }
}

/// An immutable object that HEAD names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The last part of its name.
    pub id: ObjectId,
    /// BLAKE3 of its sealed bytes.
    pub hash: ObjectId,
}

/// A leaf, as HEAD names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafRef {
    /// Age of the HEAD that named it first.
    #[serde(flatten)]
    pub age: Age,
    /// The object.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// Items in it.
    pub items: u32,
    /// Bytes of them, with their bodies, before they were compressed and sealed.
    pub bytes: u32,
    /// The object with their bodies, if they have any; of the same age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bodies: Option<ObjectRef>,
}

impl LeafRef {
    /// Names of its objects.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let objects = std::iter::once(self.object).chain(self.bodies);
        let age = self.age;
        objects.map(move |object| names::leaf(age.parts(), &object.id))
    }
}

/// A stretch of a list that lies in the store.
#[derive(Debug)]
pub(super) struct Leaf<T> {
    reference: LeafRef,
    leaves: OnceLock<Arc<Leaves>>,
    items: OnceLock<Vec<T>>,
}

impl<T: Item> Leaf<T> {
    /// The one that HEAD names so.
    pub(super) fn named(reference: LeafRef) -> Self {
        Self { reference, leaves: OnceLock::new(), items: OnceLock::new() }
    }

    pub(super) fn reference(&self) -> &LeafRef {
        &self.reference
    }

    pub(super) fn attach(&self, leaves: &Arc<Leaves>) {
        let _ = self.leaves.set(Arc::clone(leaves));
    }

    /// Whether it lies where `leaves` are read and written.
    pub(super) fn is_in(&self, leaves: &Arc<Leaves>) -> bool {
        self.leaves.get().is_some_and(|own| Arc::ptr_eq(own, leaves))
    }

    /// Its items; they are read once.
    pub(super) fn items(&self) -> Result<&[T]> {
        if let Some(items) = self.items.get() {
            return Ok(items);
        }
        let items = self.read()?;
        Ok(self.items.get_or_init(|| items))
    }

    fn read(&self) -> Result<Vec<T>> {
        let name = names::leaf(self.reference.age.parts(), &self.reference.object.id);
        let leaves =
            self.leaves.get().ok_or_else(|| Error::corrupt(&name, "HEAD was not read from a store"))?;
        let plain = leaves.get(self.reference.age, self.reference.object)?;
        let object = self.reference.bodies;
        let bodies = object.map(|object| (Arc::clone(leaves), self.reference.age, object));
        let bodies = Arc::new(Bodies { place: bodies, texts: OnceLock::new() });
        let items = decode(&plain, &bodies).map_err(|error| Error::corrupt(&name, error))?;
        if items.len() != self.reference.items as usize {
            return Err(Error::corrupt(name, "holds another number of items than HEAD says"));
        }
        Ok(items)
    }

    /// Writes a leaf that the HEAD of `age` may name.
    pub(super) fn write(
        leaves: &Arc<Leaves>,
        age: Age,
        items: Vec<T>,
        written: &mut Vec<LeafRef>,
    ) -> Result<Self> {
        let plain = encode_leaf(&items);
        let count = u32::try_from(items.len()).map_err(|error| Error::Invalid(error.to_string()))?;
        let mut texts = Encoder::default();
        let mut has_bodies = false;
        for item in &items {
            let body = item.body().read_if_sound()?;
            has_bodies |= body.is_some();
            texts.u8(u8::from(body.is_some())).var(&body.unwrap_or_default());
        }
        let texts = if has_bodies { texts.bytes } else { vec![] };
        let bytes = u32::try_from(plain.len() + texts.len()).unwrap_or(u32::MAX);
        let bodies = if has_bodies { Some(leaves.put(age, &compress(&texts)?)?) } else { None };
        let object = leaves.put(age, &plain)?;
        let reference = LeafRef { age, object, items: count, bytes, bodies };
        written.push(reference);
        let leaf = Self::named(reference);
        leaf.attach(leaves);
        let _ = leaf.items.set(items);
        Ok(leaf)
    }
}

fn compress(plain: &[u8]) -> Result<Vec<u8>> {
    let frame = zstd::bulk::compress(plain, LEVEL).map_err(|error| Error::Invalid(error.to_string()))?;
    let mut out = Encoder::default();
    out.u32(u32::try_from(plain.len()).map_err(|error| Error::Invalid(error.to_string()))?).raw(&frame);
    Ok(out.bytes)
}

/// The plaintext of a leaf, without bodies.
///
/// # Panics
///
/// There are more than 2^32 items, which no caller has.
#[must_use]
pub fn encode_leaf<T: Item>(items: &[T]) -> Vec<u8> {
    let mut out = Encoder::default();
    let count = u32::try_from(items.len()).expect("lists are far shorter");
    out.u8(T::KIND).u8(0).u16(0).u32(count);
    items.iter().for_each(|item| item.encode(&mut out));
    out.bytes
}

/// Reads the plaintext of a leaf without bodies.
///
/// # Errors
///
/// It is malformed, or of another list.
pub fn decode_leaf<T: Item>(plain: &[u8]) -> Result<Vec<T>, Malformed> {
    decode(&Bytes::copy_from_slice(plain), &Arc::new(Bodies { place: None, texts: OnceLock::new() }))
}

fn decode<T: Item>(plain: &Bytes, bodies: &Arc<Bodies>) -> Result<Vec<T>, Malformed> {
    let whole = Whole { plain, bodies };
    let mut decoder = Decoder::new(plain, "leaf");
    if decoder.u8()? != T::KIND {
        return Err(decoder.malformed("leaf of another list"));
    }
    if (decoder.u8()?, decoder.u16()?) != (0, 0) {
        return Err(decoder.malformed("unknown extension"));
    }
    let count = decoder.u32()?;
    // No more room from a number that was read than its bytes justify.
    let mut items = Vec::with_capacity((count as usize).min(plain.len() / 16));
    for place in 0..count {
        items.push(T::decode(&mut decoder, &whole, place)?);
    }
    decoder.finish()?;
    Ok(items)
}

/// The bodies of a leaf's items.
#[derive(Debug)]
pub struct Bodies {
    place: Option<(Arc<Leaves>, Age, ObjectRef)>,
    texts: OnceLock<Vec<Option<Bytes>>>,
}

impl Bodies {
    fn texts(&self) -> Result<&[Option<Bytes>]> {
        if let Some(texts) = self.texts.get() {
            return Ok(texts);
        }
        let texts = match &self.place {
            None => vec![],
            Some((leaves, age, object)) => {
                let plain = leaves.get(*age, *object)?;
                let read = || -> std::result::Result<Vec<Option<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
                    let mut decoder = Decoder::new(&plain, "bodies of a leaf");
                    let len = decoder.u32()?;
                    if u64::from(len) > MAX_LEAF_LEN {
                        return Err(decoder.malformed("length over its limit").into());
                    }
                    let frame = decoder.raw(decoder.remaining())?;
                    let texts = Bytes::from(zstd::bulk::decompress(frame, len as usize)?);
                    let mut decoder = Decoder::new(&texts, "bodies of a leaf");
                    let mut all = vec![];
                    while decoder.remaining() > 0 {
                        let is_there = decoder.u8()? != 0;
                        let text = decoder.var(MAX_LEAF_LEN as usize)?;
                        all.push(is_there.then(|| texts.slice_ref(text)));
                    }
                    Ok(all)
                };
                read().map_err(|error| Error::corrupt(names::leaf(age.parts(), &object.id), error))?
            }
        };
        Ok(self.texts.get_or_init(|| texts))
    }
}

/// The larger part of an item.
#[derive(Clone, Debug, Default)]
pub enum Body {
    /// It has none, or nobody put it here.
    #[default]
    None,
    /// At hand.
    Here(Bytes),
    /// Among the bodies of a leaf.
    There(Arc<Bodies>, u32),
}

impl Body {
    /// Its bytes.
    ///
    /// # Errors
    ///
    /// The object that holds it cannot be read.
    pub fn read(&self) -> Result<Option<Bytes>> {
        match self {
            Self::None => Ok(None),
            Self::Here(bytes) => Ok(Some(bytes.clone())),
            Self::There(bodies, place) => Ok(bodies.texts()?.get(*place as usize).cloned().flatten()),
        }
    }

    /// Its bytes, if nothing has to be read for them.
    #[must_use]
    pub fn at_hand(&self) -> Option<Bytes> {
        match self {
            Self::None => None,
            Self::Here(bytes) => Some(bytes.clone()),
            Self::There(bodies, place) => bodies.texts.get()?.get(*place as usize).cloned().flatten(),
        }
    }

    /// Its bytes, or none where they are damaged or gone: the object that the item names has them, too.
    fn read_if_sound(&self) -> Result<Option<Bytes>> {
        match self.read() {
            Err(error) if error.is_damage() => Ok(None),
            read => read,
        }
    }

    /// Its bytes' number; half a kilobyte, which is usual, where they cannot be read.
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Here(bytes) => bytes.len(),
            Self::There(..) => self.read().map_or(512, |body| body.map_or(0, |body| body.len())),
        }
    }

    /// Whether there is none.
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let text = self.read_if_sound().map_err(serde::ser::Error::custom)?;
        text.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(text.map_or(Self::None, |text| Self::Here(Bytes::from(text))))
    }
}

/// Where leaves are read and written.
pub(super) struct Leaves {
    storage: Arc<dyn Storage>,
    keys: Arc<KeyRing>,
    env: Arc<dyn Env>,
    /// The tier that the place was made as.
    home: Option<String>,
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
        cache: Option<PathBuf>,
    ) -> Self {
        Self { storage, keys, env, home, cache, read: Mutex::default() }
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
    fn get(&self, age: Age, object: ObjectRef) -> Result<Bytes> {
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

    fn put(&self, age: Age, plain: &[u8]) -> Result<ObjectRef> {
        let id = ObjectId(random_array(&*self.env)?);
        let name = names::leaf(age.parts(), &id);
        let sealed = Bytes::from(envelope::seal(&self.keys, ObjectKind::Leaf, &name, plain, &*self.env)?);
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
