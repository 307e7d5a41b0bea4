//! What of a list goes to leaves when HEAD is swapped.

use super::List;
use super::part::Part;
use crate::Result;
use crate::head::leaf::{Item, Leaf};
use crate::head::leaves::{Leaves, Stamp};
use crate::head::reference::LeafRef;
use std::sync::Arc;

/// A leaf takes its successor in unless it has at least so many times its length: a list of n bytes has O(log n) leaves,
/// and each item is written again O(log n) times.
const GROWTH: u64 = 4;

impl<T: Item> List<T> {
    /// Writes what HEAD itself shall not hold to leaves with `stamp`, and notes them in `written`.
    ///
    /// # Errors
    ///
    /// A leaf cannot be written, or one that is to be changed cannot be read.
    pub(in crate::head) fn settle(
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
