//! How HEAD names the objects of leaves.

use super::Age;
use crate::format::names;
use crate::id::ObjectId;
use serde::{Deserialize, Serialize};

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
    /// The epoch that its objects are sealed under; 0 if that is not known.
    #[serde(default)]
    pub epoch: u32,
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
