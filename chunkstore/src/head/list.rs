//! A long list of HEAD: parts of it lie in leaves, the rest in HEAD itself. Its items keep their order.

use super::items::hex;
use super::leaf::{Item, Leaf};
use super::leaves::{Leaves, Stamp};
use super::reference::LeafRef;
use crate::Result;
use crate::id::ObjectId;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Error as _, Serialize, SerializeStruct as _, Serializer};
use std::sync::Arc;

/// A leaf takes its successor in unless it has at least so many times its length: a list of n bytes has O(log n) leaves,
/// and each item is written again O(log n) times.
const GROWTH: u64 = 4;

/// A list of HEAD. What lies in leaves is read when it is first asked for.
///
/// A change of one item takes the leaf that holds it apart; a swap makes leaves again.
#[derive(Clone, Debug)]
pub struct List<T>(Vec<Part<T>>);

/// A stretch of a list.
#[derive(Clone, Debug)]
enum Part<T> {
    /// As it lies in the store, without the items of these places, in order.
    Leaf(Arc<Leaf<T>>, Vec<u32>),
    /// In HEAD, or changed.
    Loose(Vec<T>),
}

impl<T: Item> Part<T> {
    /// The items of a leaf whose objects HEAD names.
    fn named(Named { leaf, summary, gone }: Named) -> Self {
        Self::Leaf(Arc::new(Leaf::named(leaf, summary)), gone)
    }

    fn push_to<'a>(&'a self, all: &mut Vec<&'a T>) -> Result<()> {
        match self {
            Self::Loose(items) => all.extend(items),
            Self::Leaf(leaf, gone) => {
                let mut gone = gone.iter().peekable();
                let is_there =
                    |(place, _): &(usize, &T)| gone.next_if(|gone| **gone as usize == *place).is_none();
                all.extend(leaf.items()?.iter().enumerate().filter(is_there).map(|(_, item)| item));
            }
        }
        Ok(())
    }

    fn items(&self) -> Result<Vec<&T>> {
        let mut all = vec![];
        self.push_to(&mut all)?;
        Ok(all)
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf, gone) => (leaf.reference().items as usize).saturating_sub(gone.len()),
            Self::Loose(items) => items.len(),
        }
    }

    /// Bytes that it takes in a leaf, about.
    fn plain_len(&self) -> u64 {
        match self {
            Self::Leaf(leaf, _) => {
                let (bytes, items) = (u64::from(leaf.reference().bytes), u64::from(leaf.reference().items));
                bytes * self.len() as u64 / items.max(1)
            }
            Self::Loose(items) => items.iter().map(|item| item.plain_len() as u64).sum(),
        }
    }

    /// The items, to be changed.
    fn loosened(&mut self) -> Result<&mut Vec<T>> {
        if let Self::Leaf(..) = self {
            *self = Self::Loose(self.items()?.into_iter().cloned().collect());
        }
        match self {
            Self::Loose(items) => Ok(items),
            Self::Leaf(..) => unreachable!("it was replaced above"),
        }
    }

    /// Takes out the items that fit.
    fn take(&mut self, fits: &mut impl FnMut(&T) -> bool) -> Result<Vec<T>> {
        match self {
            Self::Loose(items) => Ok(items.extract_if(.., |item| fits(item)).collect()),
            Self::Leaf(leaf, gone) => {
                let (mut taken, mut all, mut known) = (vec![], vec![], gone.iter().peekable());
                for (place, item) in (0..).zip(leaf.items()?) {
                    if known.next_if(|gone| **gone == place).is_some() {
                        all.push(place);
                    } else if fits(item) {
                        all.push(place);
                        taken.push(item.clone());
                    }
                }
                *gone = all;
                Ok(taken)
            }
        }
    }
}

/// A stretch of a list.
pub struct Stretch<'a, T>(&'a Part<T>);

impl<'a, T: Item> Stretch<'a, T> {
    /// How many items it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Of a leaf, what HEAD says of its items, those included that were taken out since: [`Item::summary`].
    #[must_use]
    pub fn summary(&self) -> Option<&'a [u8]> {
        match self.0 {
            Part::Leaf(leaf, _) => {
                Some(leaf.summary()).filter(|summary| !summary.is_empty()).map(|bytes| &**bytes)
            }
            Part::Loose(_) => None,
        }
    }

    /// Its items in order.
    ///
    /// # Errors
    ///
    /// The leaf cannot be read.
    pub fn items(&self) -> Result<Vec<&'a T>> {
        self.0.items()
    }
}

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

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        Self(if items.is_empty() { vec![] } else { vec![Part::Loose(items)] })
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::from(items.into_iter().collect::<Vec<T>>())
    }
}

impl<T: Item> List<T> {
    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(Part::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items in order.
    ///
    /// # Errors
    ///
    /// A leaf cannot be read.
    pub fn iter(&self) -> Result<impl DoubleEndedIterator<Item = &T> + ExactSizeIterator + Clone> {
        let mut all = Vec::with_capacity(self.len());
        self.0.iter().try_for_each(|part| part.push_to(&mut all))?;
        Ok(all.into_iter())
    }

    /// The stretches of the list, in order: leaves first, which are read when their items are asked for.
    pub fn stretches(&self) -> impl Iterator<Item = Stretch<'_, T>> {
        self.0.iter().map(Stretch)
    }

    /// Reads all leaves.
    ///
    /// # Errors
    ///
    /// As [`List::iter`].
    pub fn read(&self) -> Result<()> {
        self.iter().map(drop)
    }

    /// The items of all leaves that can be read, and of HEAD itself.
    pub fn readable(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|part| part.items().ok()).flatten()
    }

    /// A copy of all items.
    ///
    /// # Errors
    ///
    /// As [`List::iter`].
    pub fn to_vec(&self) -> Result<Vec<T>> {
        Ok(self.iter()?.cloned().collect())
    }

    /// Whether an item is among them.
    ///
    /// # Errors
    ///
    /// As [`List::iter`].
    pub fn contains(&self, item: &T) -> Result<bool>
    where
        T: PartialEq,
    {
        Ok(self.iter()?.any(|known| known == item))
    }

    /// The first item that `fits`.
    ///
    /// # Errors
    ///
    /// As [`List::iter`].
    pub fn find(&self, mut fits: impl FnMut(&T) -> bool) -> Result<Option<&T>> {
        Ok(self.iter()?.find(|item| fits(item)))
    }

    /// Adds an item at the end.
    pub fn push(&mut self, item: T) {
        match self.0.last_mut() {
            Some(Part::Loose(items)) => items.push(item),
            _ => self.0.push(Part::Loose(vec![item])),
        }
    }

    /// Adds items at the end.
    pub fn extend(&mut self, items: impl IntoIterator<Item = T>) {
        items.into_iter().for_each(|item| self.push(item));
    }

    /// Puts an item before the first that `fits`, or at the end.
    ///
    /// # Errors
    ///
    /// As [`List::iter`].
    pub fn insert_before(&mut self, item: T, mut fits: impl FnMut(&T) -> bool) -> Result<()> {
        for part in &mut self.0 {
            if let Some(place) = part.items()?.into_iter().position(&mut fits) {
                part.loosened()?.insert(place, item);
                return Ok(());
            }
        }
        self.push(item);
        Ok(())
    }

    /// The first item that `fits`, to be changed.
    ///
    /// # Errors
    ///
    /// As [`List::iter`].
    pub fn find_mut(&mut self, mut fits: impl FnMut(&T) -> bool) -> Result<Option<&mut T>> {
        for part in &mut self.0 {
            if let Some(place) = part.items()?.into_iter().position(&mut fits) {
                return Ok(part.loosened()?.get_mut(place));
            }
        }
        Ok(None)
    }

    /// Puts other items in the place of each one that `by` has something for.
    ///
    /// # Errors
    ///
    /// As [`List::iter`].
    pub fn replace(&mut self, mut by: impl FnMut(&T) -> Option<Vec<T>>) -> Result<()> {
        for part in &mut self.0 {
            let new: Vec<Option<Vec<T>>> = part.items()?.into_iter().map(&mut by).collect();
            if new.iter().any(Option::is_some) {
                let items = part.loosened()?;
                let old = std::mem::take(items);
                items
                    .extend(old.into_iter().zip(new).flat_map(|(old, new)| new.unwrap_or_else(|| vec![old])));
            }
        }
        Ok(())
    }

    /// Leaves out the items that do not fit.
    ///
    /// # Errors
    ///
    /// As [`List::iter`].
    pub fn retain(&mut self, mut fits: impl FnMut(&T) -> bool) -> Result<()> {
        self.take(|item| !fits(item)).map(drop)
    }

    /// Takes out the items that fit.
    ///
    /// # Errors
    ///
    /// As [`List::iter`].
    pub fn take(&mut self, mut fits: impl FnMut(&T) -> bool) -> Result<Vec<T>> {
        let mut taken = vec![];
        for part in &mut self.0 {
            taken.append(&mut part.take(&mut fits)?);
        }
        self.0.retain(|part| part.len() > 0);
        Ok(taken)
    }

    /// Leaves out all but the last `most`.
    ///
    /// # Errors
    ///
    /// As [`List::iter`].
    pub fn keep_last(&mut self, most: usize) -> Result<()> {
        let mut surplus = self.len().saturating_sub(most);
        if surplus == 0 {
            return Ok(());
        }
        self.retain(|_| {
            let stays = surplus == 0;
            surplus = surplus.saturating_sub(1);
            stays
        })
    }

    /// Takes all items out.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The leaves, in order.
    pub fn leaves(&self) -> impl Iterator<Item = &LeafRef> {
        self.0.iter().filter_map(|part| match part {
            Part::Leaf(leaf, _) => Some(leaf.reference()),
            Part::Loose(_) => None,
        })
    }

    /// What identifies the items without reading them: the leaves, with what is missing of each, and the items in HEAD.
    pub(super) fn outline(&self) -> (Vec<(ObjectId, &[u32])>, Vec<&T>) {
        let (mut leaves, mut loose) = (vec![], vec![]);
        for part in &self.0 {
            match part {
                Part::Leaf(leaf, gone) => leaves.push((leaf.reference().object.id, gone.as_slice())),
                Part::Loose(items) => loose.extend(items),
            }
        }
        (leaves, loose)
    }

    /// Says where leaves that were just read from HEAD lie.
    pub(super) fn attach(&self, leaves: &Arc<Leaves>) {
        for part in &self.0 {
            if let Part::Leaf(leaf, _) = part {
                leaf.attach(leaves);
            }
        }
    }

    /// Writes what HEAD itself shall not hold to leaves with `stamp`, and notes them in `written`.
    ///
    /// # Errors
    ///
    /// A leaf cannot be written, or one that is to be changed cannot be read.
    pub(super) fn settle(
        &mut self,
        leaves: &Arc<Leaves>,
        stamp: Stamp,
        written: &mut Vec<LeafRef>,
    ) -> Result<()> {
        let inline = leaves.inline(T::SHARE);
        self.0.retain(|part| part.len() > 0);
        // What was taken over from another place's HEAD is written here.
        for part in &mut self.0 {
            if matches!(part, Part::Leaf(leaf, _) if !leaf.is_in(leaves)) {
                part.loosened()?;
            }
        }
        let mut tail = None;
        if let Some(Part::Loose(items)) = self.0.last()
            && inline_len(items)? <= inline
        {
            tail = self.0.pop();
        }
        if self.0.is_empty() {
            self.0.extend(tail);
            return Ok(());
        }
        // In JSON an item takes two to three times as many bytes.
        if self.0.iter().chain(&tail).map(Part::plain_len).sum::<u64>() * 6 <= inline as u64 {
            self.0.extend(tail);
            *self = Self::from(self.to_vec()?);
            return Ok(());
        }
        self.loosen_sparse(inline)?;
        let mut groups: Vec<(u64, Vec<Part<T>>)> = vec![];
        for part in std::mem::take(&mut self.0) {
            groups.push((part.plain_len(), vec![part]));
            while let [.., (before, _), (last, _)] = groups.as_slice()
                && *before < GROWTH * last
                && before + last <= leaves.leaf_len()
                && let Some((len, parts)) = groups.pop()
                && let Some(group) = groups.last_mut()
            {
                group.0 += len;
                group.1.extend(parts);
            }
        }
        for (len, parts) in groups {
            if let [Part::Leaf(..)] = parts.as_slice() {
                self.0.extend(parts);
                continue;
            }
            let mut items = vec![];
            parts.iter().try_for_each(|part| part.push_to(&mut items))?;
            let pieces = usize::try_from(len.div_ceil(leaves.leaf_len())).unwrap_or(1).max(1);
            for piece in items.chunks(items.len().div_ceil(pieces).max(1)) {
                let piece = piece.iter().map(|item| (*item).clone()).collect();
                let leaf = Leaf::write(leaves, stamp, piece, written)?;
                self.0.push(Part::Leaf(Arc::new(leaf), vec![]));
            }
        }
        self.0.extend(tail);
        Ok(())
    }

    /// Takes the leaves apart that are `meant`, with the bodies of their items, so that the next swap writes them again.
    ///
    /// # Errors
    ///
    /// As [`List::iter`]; or a body cannot be read.
    pub(super) fn loosen(&mut self, meant: impl Fn(&LeafRef) -> bool) -> Result<()> {
        for part in &mut self.0 {
            if matches!(part, Part::Leaf(leaf, _) if meant(leaf.reference())) {
                part.loosened()?;
            }
        }
        Ok(())
    }

    /// Takes leaves apart of which so much is missing that a list of it would take more of HEAD than it may.
    fn loosen_sparse(&mut self, inline: usize) -> Result<()> {
        // A place has about six digits, and a list of places has half of what the items have.
        let mut room = inline / 16;
        for part in &mut self.0 {
            if let Part::Leaf(leaf, gone) = part {
                let is_sparse = gone.len() * 2 > leaf.reference().items as usize;
                match room.checked_sub(gone.len()) {
                    Some(left) if !is_sparse => room = left,
                    _ => drop(part.loosened()?),
                }
            }
        }
        Ok(())
    }
}

/// Bytes that items take in HEAD.
fn inline_len<T: Item>(items: &[T]) -> Result<usize> {
    let mut sum = 0;
    for item in items {
        let json = serde_json::to_vec(item).map_err(|error| crate::Error::Invalid(error.to_string()))?;
        sum += json.len() + 1;
    }
    Ok(sum)
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
