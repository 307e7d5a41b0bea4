//! Bodies: the larger parts of items, as records of snapshots. Those of one leaf lie in an object beside it, so that the
//! rest is read without them.

use super::Age;
use super::leaves::Leaves;
use super::reference::ObjectRef;
use super::texts::Texts;
use crate::format::{Encoder, names};
use crate::{Error, Result};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::sync::{Arc, OnceLock};

/// Level of zstd for bodies: HEAD's leaves are small and written seldom.
const LEVEL: i32 = 3;
/// The bodies of a leaf's items.
#[derive(Debug)]
pub struct Bodies {
    place: Option<(Arc<Leaves>, Age, ObjectRef)>,
    texts: OnceLock<Vec<Option<Bytes>>>,
}

impl Bodies {
    /// Those of an object, or of none.
    pub(super) fn new(place: Option<(Arc<Leaves>, Age, ObjectRef)>) -> Arc<Self> {
        Arc::new(Self { place, texts: OnceLock::new() })
    }

    /// The plaintext of the object of these bodies; `None` if no item has one.
    pub(super) fn encode(bodies: impl Iterator<Item = Body>) -> Result<Option<(Vec<u8>, usize)>> {
        let mut texts = Encoder::default();
        let mut has_bodies = false;
        for body in bodies {
            let body = body.read_if_sound()?;
            has_bodies |= body.is_some();
            texts.u8(u8::from(body.is_some())).var(&body.unwrap_or_default());
        }
        if !has_bodies {
            return Ok(None);
        }
        let texts = texts.bytes;
        let frame = zstd::bulk::compress(&texts, LEVEL).map_err(|error| Error::Invalid(error.to_string()))?;
        let mut out = Encoder::default();
        let len = u32::try_from(texts.len()).map_err(|error| Error::Invalid(error.to_string()))?;
        out.u32(len).raw(&frame);
        Ok(Some((out.bytes, texts.len())))
    }

    /// The object that holds them, if there is one.
    pub(super) fn object(&self) -> Result<Option<Bytes>> {
        self.place.as_ref().map(|(leaves, age, object)| leaves.get(*age, *object)).transpose()
    }

    /// What is said of an object that cannot be read.
    pub(super) fn damaged(&self, why: impl ToString) -> Error {
        let name = self.place.as_ref().map(|(_, age, object)| names::leaf(age.parts(), &object.id));
        Error::corrupt(name.unwrap_or_default(), why)
    }

    /// Those that were read and kept.
    pub(super) fn kept(&self) -> Option<&[Option<Bytes>]> {
        self.texts.get().map(Vec::as_slice)
    }

    /// All of them, kept from now on.
    pub(super) fn texts(&self) -> Result<&[Option<Bytes>]> {
        if let Some(texts) = self.texts.get() {
            return Ok(texts);
        }
        let texts = match self.object()? {
            None => vec![],
            Some(object) => {
                let texts = Texts::open(&object).and_then(|texts| texts.collect());
                texts.map_err(|error| self.damaged(error))?
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
            Self::There(bodies, place) => bodies.kept()?.get(*place as usize).cloned().flatten(),
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
    pub(super) fn len(&self) -> usize {
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
