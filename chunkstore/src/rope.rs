//! A chunk as pieces of others: the result of a chain of patches, without computing each step.
//!
//! A patch of a patch of a chunk copies, in the end, from that chunk and from inserted bytes. Finding the pieces takes
//! time proportional to the number of changes, not of bytes; the bytes are copied once, however long the chain is.
//! (Ropes: Boehm, Atkinson and Plass, 1995.)

use crate::patch::{self, Step};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that are shared with whatever else was made of them.
#[derive(Clone, Debug, Default)]
pub struct Rope {
    sources: Vec<Arc<Vec<u8>>>,
    pieces: Vec<Piece>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Where it starts in the rope.
    at: usize,
    source: usize,
    /// Where it starts in its source.
    start: usize,
    len: usize,
}

impl Rope {
    /// One piece that is not made of anything.
    #[must_use]
    pub fn whole(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        let pieces = vec![Piece { at: 0, source: 0, start: 0, len }];
        Self { sources: vec![Arc::new(bytes)], pieces, len }
    }

    /// One after the other.
    #[must_use]
    pub fn concat<'a>(ropes: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for rope in ropes {
            let first = all.sources.len();
            all.sources.extend(rope.sources.iter().cloned());
            let moved =
                |piece: &Piece| Piece { at: all.len + piece.at, source: first + piece.source, ..*piece };
            all.pieces.extend(rope.pieces.iter().map(moved));
            all.len += rope.len;
        }
        all
    }

    /// Number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of bytes that it keeps in memory.
    #[must_use]
    pub fn held(&self) -> usize {
        self.sources.iter().map(|source| source.len()).sum::<usize>() + self.pieces.len() * size_of::<Piece>()
    }

    /// The result of a patch of this, `len` bytes; `None` if the patch is invalid.
    #[must_use]
    pub fn patched(&self, patch: Vec<u8>, len: usize) -> Option<Self> {
        let inserts = self.sources.len();
        let mut made = Self { sources: self.sources.clone(), ..Self::default() };
        let mut near = 0;
        for step in patch::steps(&patch)? {
            let Step { insert, copy } = step?;
            if insert.len() + copy.len() > len - made.len {
                return None;
            }
            made.push(inserts, insert);
            made.copy(self, copy, &mut near)?;
        }
        made.sources.push(Arc::new(patch));
        (made.len == len).then_some(made)
    }

    fn push(&mut self, source: usize, range: Range<usize>) {
        if !range.is_empty() {
            self.pieces.push(Piece { at: self.len, source, start: range.start, len: range.len() });
            self.len += range.len();
        }
    }

    /// Appends a range of `base`, whose sources are the first of this one's. `near` is the piece that the
    /// last one ended in: the next is mostly not far.
    fn copy(&mut self, base: &Self, range: Range<usize>, near: &mut usize) -> Option<()> {
        if range.end > base.len {
            return None;
        }
        *near = base.each(&range, *near, |piece, start, len| self.push(piece.source, start..start + len));
        Some(())
    }

    /// The pieces of a range, which must be within the rope: each with its offset in its source and its length. `near`
    /// is a guess of the first piece; the number of the last is returned.
    fn each(&self, range: &Range<usize>, near: usize, mut with: impl FnMut(&Piece, usize, usize)) -> usize {
        let holds = |number: usize| {
            let piece = self.pieces.get(number);
            piece.is_some_and(|piece| (piece.at..piece.at + piece.len).contains(&range.start))
        };
        let mut number = match (near..near + 4).find(|number| holds(*number)) {
            Some(number) => number,
            None => self.pieces.partition_point(|piece| piece.at + piece.len <= range.start),
        };
        while let Some(piece) = self.pieces.get(number) {
            let (from, to) = (range.start.max(piece.at), range.end.min(piece.at + piece.len));
            if from < to {
                with(piece, piece.start + (from - piece.at), to - from);
            }
            if piece.at + piece.len >= range.end {
                break;
            }
            number += 1;
        }
        number
    }

    /// The first `len` bytes, or all of them; copied only if they are in several pieces.
    #[must_use]
    pub fn head(&self, len: usize) -> Cow<'_, [u8]> {
        let len = len.min(self.len);
        match self.pieces.first() {
            Some(first) if first.len >= len => {
                Cow::Borrowed(&self.sources[first.source][first.start..first.start + len])
            }
            _ => {
                let mut bytes = Vec::with_capacity(len);
                self.each(&(0..len), 0, |piece, start, len| {
                    bytes.extend_from_slice(&self.sources[piece.source][start..start + len]);
                });
                Cow::Owned(bytes)
            }
        }
    }

    /// The source, if it is all of this.
    #[must_use]
    pub fn as_whole(&self) -> Option<&Arc<Vec<u8>>> {
        match &self.pieces[..] {
            [piece] if piece.len == self.sources[piece.source].len() => Some(&self.sources[piece.source]),
            _ => None,
        }
    }

    /// Appends all bytes.
    pub fn write_to(&self, bytes: &mut Vec<u8>) {
        for piece in &self.pieces {
            bytes.extend_from_slice(&self.sources[piece.source][piece.start..piece.start + piece.len]);
        }
    }

    /// Buffers that nothing else is made of.
    pub fn into_buffers(self) -> impl Iterator<Item = Vec<u8>> {
        self.sources.into_iter().filter_map(Arc::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::patch::Differ;

    #[test]
    fn a_chain_of_patches_comes_to_its_last_version() {
        let mut noise = vec![0; 40_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let (one, other) = noise.split_at(25_000);
        let mut rope = Rope::concat([&Rope::whole(one.to_vec()), &Rope::whole(other.to_vec())]);
        let mut plain = noise.clone();
        assert_eq!(rope.head(usize::MAX), noise);
        for night in 1..20usize {
            let at = night * 7919 % 30_000;
            plain.splice(at..at + night, format!("night {night}").into_bytes());
            plain.drain(100 * night..100 * night + 60);
            let mut patch = vec![];
            assert!(Differ::default().diff(&plain, &rope.head(usize::MAX), 4000, &mut patch));
            assert!(rope.patched(patch.clone(), plain.len() - 1).is_none());
            assert!(rope.patched(patch.clone(), plain.len() + 1).is_none());
            rope = rope.patched(patch, plain.len()).unwrap();
            assert!(rope.as_whole().is_none() && rope.len() == plain.len());
            let mut again = vec![];
            rope.write_to(&mut again);
            assert!(
                again == plain && *rope.head(1000) == plain[..1000] && *rope.head(20_000) == plain[..20_000]
            );
        }
        assert_eq!(Rope::whole(vec![1, 2]).as_whole().map(|bytes| bytes.len()), Some(2));
        assert!(Rope::default().is_empty() && Rope::default().patched(vec![0], 0).is_some());
    }
}
