//! Parts of a list of HEAD: leaves, which are read when their items are first asked for, and items in HEAD itself.

use crate::Result;
use crate::head::leaf::{Item, Leaf};
use std::sync::Arc;

/// A stretch of a list.
#[derive(Clone, Debug)]
pub(super) enum Part<T> {
    /// As it lies in the store, without the items of these places, in order.
    Leaf(Arc<Leaf<T>>, Vec<u32>),
    /// In HEAD, or changed.
    Loose(Vec<T>),
}

impl<T: Item> Part<T> {
    pub(super) fn push_to<'a>(&'a self, all: &mut Vec<&'a T>) -> Result<()> {
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

    pub(super) fn items(&self) -> Result<Vec<&T>> {
        let mut all = vec![];
        self.push_to(&mut all)?;
        Ok(all)
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf, gone) => (leaf.reference().items as usize).saturating_sub(gone.len()),
            Self::Loose(items) => items.len(),
        }
    }

    /// Bytes that it takes in a leaf, about.
    pub(super) fn plain_len(&self) -> u64 {
        match self {
            Self::Leaf(leaf, _) => {
                let (bytes, items) = (u64::from(leaf.reference().bytes), u64::from(leaf.reference().items));
                bytes * self.len() as u64 / items.max(1)
            }
            Self::Loose(items) => items.iter().map(|item| item.plain_len() as u64).sum(),
        }
    }

    /// The items, to be changed.
    pub(super) fn loosened(&mut self) -> Result<&mut Vec<T>> {
        if let Self::Leaf(..) = self {
            *self = Self::Loose(self.items()?.into_iter().cloned().collect());
        }
        match self {
            Self::Loose(items) => Ok(items),
            Self::Leaf(..) => unreachable!("it was replaced above"),
        }
    }

    /// Takes out the items that fit.
    pub(super) fn take(&mut self, fits: &mut impl FnMut(&T) -> bool) -> Result<Vec<T>> {
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
pub struct Stretch<'a, T>(pub(super) &'a Part<T>);

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
