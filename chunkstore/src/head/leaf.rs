//! Leaves: immutable objects that hold stretches of HEAD's long lists, `sets/<incarnation>.<generation>.<id>`. The name
//! carries the age of the HEAD that may name the leaf first: a HEAD of that age or a later one that does not name it
//! proves that none ever will. docs/concurrency.md has the argument.

use super::body::{Bodies, Body};
use super::columns::RootColumns;
use super::leaves::{Leaves, Stamp};
use super::reference::LeafRef;
use crate::format::{Decoder, Encoder, Malformed, names};
use crate::{Error, Result};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::{Arc, OnceLock};

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

    /// What HEAD says of a leaf that consists of `items`, beside its name; nothing if empty.
    fn summary(_items: &[Self], _columns: &dyn RootColumns) -> Vec<u8> {
        vec![]
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

/// A stretch of a list that lies in the store.
#[derive(Debug)]
pub(super) struct Leaf<T> {
    reference: LeafRef,
    summary: Bytes,
    leaves: OnceLock<Arc<Leaves>>,
    items: OnceLock<Vec<T>>,
}

impl<T: Item> Leaf<T> {
    /// The one that HEAD names so.
    pub(super) fn named(reference: LeafRef, summary: Bytes) -> Self {
        Self { reference, summary, leaves: OnceLock::new(), items: OnceLock::new() }
    }

    pub(super) fn reference(&self) -> &LeafRef {
        &self.reference
    }

    /// What HEAD says of its items; see [`Item::summary`].
    pub(super) fn summary(&self) -> &Bytes {
        &self.summary
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
        let bodies = Bodies::new(bodies);
        let items = decode(&plain, &bodies).map_err(|error| Error::corrupt(&name, error))?;
        if items.len() != self.reference.items as usize {
            return Err(Error::corrupt(name, "holds another number of items than HEAD says"));
        }
        Ok(items)
    }

    /// Writes a leaf that the HEAD of `stamp` may name.
    pub(super) fn write(
        leaves: &Arc<Leaves>,
        stamp: Stamp,
        items: Vec<T>,
        written: &mut Vec<LeafRef>,
    ) -> Result<Self> {
        let plain = encode_leaf(&items);
        let count = u32::try_from(items.len()).map_err(|error| Error::Invalid(error.to_string()))?;
        let bodies = Bodies::encode(items.iter().map(Item::body))?;
        let bytes = plain.len() + bodies.as_ref().map_or(0, |(_, bytes)| *bytes);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let bodies = bodies.map(|(object, _)| leaves.put(stamp, &object)).transpose()?;
        let object = leaves.put(stamp, &plain)?;
        let reference = LeafRef { age: stamp.age, object, epoch: stamp.epoch, items: count, bytes, bodies };
        written.push(reference);
        let leaf = Self::named(reference, T::summary(&items, leaves.columns()).into());
        leaf.attach(leaves);
        let _ = leaf.items.set(items);
        Ok(leaf)
    }
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
    decode(&Bytes::copy_from_slice(plain), &Bodies::new(None))
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
