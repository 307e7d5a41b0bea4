//! A long list of HEAD: parts of it lie in leaves, the rest in HEAD itself. Its items keep their order.

use super::leaf::Item;
use super::leaves::Leaves;
use super::reference::LeafRef;
use crate::Result;
use crate::id::ObjectId;
use std::sync::Arc;

mod encoding;
mod part;
mod settle;
use part::Part;
pub use part::Stretch;

/// A list of HEAD. What lies in leaves is read when it is first asked for.
///
/// A change of one item takes the leaf that holds it apart; a swap makes leaves again.
#[derive(Clone, Debug)]
pub struct List<T>(Vec<Part<T>>);

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
}
