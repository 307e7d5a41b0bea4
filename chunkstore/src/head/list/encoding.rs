//! How a list is written in HEAD: its leaves by their names.

use super::List;
use super::part::Part;
use crate::head::items::hex;
use crate::head::leaf::{Item, Leaf};
use crate::head::reference::LeafRef;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, Serialize, SerializeStruct as _, Serializer};
use std::sync::Arc;

/// A leaf and what is missing of it, as HEAD has them.
#[derive(serde::Serialize, serde::Deserialize)]
struct Named {
    #[serde(flatten)]
    leaf: LeafRef,
    /// See [`Item::summary`].
    #[serde(default, skip_serializing_if = "Bytes::is_empty", with = "hex")]
    summary: Bytes,
    /// Places of items that were taken out, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gone: Vec<u32>,
}

impl<T: Item> Part<T> {
    /// The items of a leaf whose objects HEAD names.
    fn named(Named { leaf, summary, gone }: Named) -> Self {
        Self::Leaf(Arc::new(Leaf::named(leaf, summary)), gone)
    }
}

/// An array where no leaf is; otherwise `{"leaves": […], "items": […]}`.
impl<T: Item> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let (last, before) = match self.0.split_last() {
            Some((Part::Loose(items), before)) => (items.as_slice(), before),
            _ => (&[][..], self.0.as_slice()),
        };
        if before.is_empty() {
            return last.serialize(serializer);
        }
        let named = before.iter().map(|part| match part {
            Part::Leaf(leaf, gone) => {
                Ok(Named { leaf: *leaf.reference(), summary: leaf.summary().clone(), gone: gone.clone() })
            }
            Part::Loose(_) => Err(S::Error::custom("a list with changed leaves was not settled")),
        });
        let named = named.collect::<std::result::Result<Vec<Named>, S::Error>>()?;
        let mut map = serializer.serialize_struct("List", 2)?;
        map.serialize_field("leaves", &named)?;
        map.serialize_field("items", last)?;
        map.end()
    }
}

impl<'de, T: Item> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Either<T>(std::marker::PhantomData<T>);
        impl<'de, T: Item> Visitor<'de> for Either<T> {
            type Value = List<T>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list, or leaves and items")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<List<T>, A::Error> {
                let mut items = vec![];
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(List::from(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<List<T>, A::Error> {
                let (mut leaves, mut items): (Vec<Named>, Vec<T>) = (vec![], vec![]);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "leaves" => leaves = map.next_value()?,
                        "items" => items = map.next_value()?,
                        // Nothing may be lost that a later version put there.
                        _ => return Err(A::Error::custom(format!("unknown part of a list: {key}"))),
                    }
                }
                let mut parts: Vec<Part<T>> = leaves.into_iter().map(Part::named).collect();
                parts.extend((!items.is_empty()).then_some(Part::Loose(items)));
                Ok(List(parts))
            }
        }
        deserializer.deserialize_any(Either(std::marker::PhantomData))
    }
}
