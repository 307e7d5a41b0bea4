//! The last version of the current stream, around the position of the new one.
//!
//! Where the new stream ends a chunk with the bytes that ended an old one, the two are aligned, and the next old chunk
//! predicts where the next new one ends (RapidCDC, Ni and Jiang, SoCC 2019) and which chunk it is. Where they differ,
//! cuts are found by content, and the next common anchor aligns them again.

use super::ChunkRef;
use crate::Result;
use crate::bases::{Grounded, ground};
use crate::format::MAX_BASES;
use crate::index::{ChunkIndex, Usable};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// Old chunks kept behind the current place.
const BEHIND: usize = 64;
/// Old chunks known ahead of it: 512 MiB of the default size may be skipped and found again.
const AHEAD: usize = 1024;

/// An anchor that is found within so many chunks is believed at once. Farther away two in a row are
/// needed: some ends are common, and a stream that follows one to the wrong place is lost for long.
const NEAR: usize = 8;

/// What is thought of a chunk before it is hashed.
#[derive(Default)]
pub(super) struct Hint {
    /// The old chunk in its place, if the two are aligned: probably the same.
    pub(super) same: Option<Arc<Grounded>>,
    /// The old chunks that cover it.
    pub(super) around: Vec<Arc<Grounded>>,
}

/// A chunk of the old stream.
struct Old {
    /// Where it starts there.
    start: u64,
    len: u32,
    /// Its location, if it still has one that counts.
    grounded: Option<Arc<Grounded>>,
}

impl Old {
    fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }
}

/// The old stream as far as it is known, and our place in it.
#[derive(Default)]
pub(super) struct Prediction {
    window: VecDeque<Old>,
    /// Number in the old stream of the first of them.
    first: usize,
    /// Length of the old stream as far as it is known.
    known_len: u64,
    /// Anchors with the numbers of their chunks; some ends are common.
    anchors: BTreeSet<(u64, usize)>,
    /// The byte of the old stream that the next new chunk probably starts with: exact if `aligned`, and
    /// otherwise counted on from where it last was.
    place: u64,
    /// Number of the old chunk that holds that byte.
    next: usize,
    /// Whether the last chunks of both ended at the same place.
    aligned: bool,
    /// Number of the old chunk that would come next if the last anchor, which was found far away, were not
    /// found there by chance.
    rumour: Option<usize>,
}

impl Prediction {
    /// Before the first chunk of a stream, whose last version starts where it starts.
    pub(super) fn start(&mut self) {
        *self = Self { aligned: true, ..Self::default() };
    }

    /// Whether more of the old stream should be told.
    pub(super) fn is_short(&self) -> bool {
        self.first + self.window.len() < self.next + AHEAD
    }

    /// The next chunks of the old stream.
    pub(super) fn extend(
        &mut self,
        index: &dyn ChunkIndex,
        chunks: &[ChunkRef],
        usable: &(impl Usable + ?Sized),
    ) -> Result<()> {
        let ids: Vec<_> = chunks.iter().map(|chunk| chunk.id).collect();
        for (chunk, grounded) in chunks.iter().zip(ground(index, &ids, usable)?) {
            if let Some(anchor) = grounded.as_ref().map(|grounded| grounded.location.record.anchor)
                && anchor != 0
            {
                self.anchors.insert((anchor, self.first + self.window.len()));
            }
            let grounded = grounded.map(Arc::new);
            self.window.push_back(Old { start: self.known_len, len: chunk.len, grounded });
            self.known_len += u64::from(chunk.len);
        }
        Ok(())
    }

    fn get(&self, number: usize) -> Option<&Old> {
        self.window.get(number.checked_sub(self.first)?)
    }

    /// Where the next chunk probably ends: its length, and the anchor that proves it. If the last chunks
    /// did not end alike, that is the next old end which leaves it at least `min_len` bytes. Not said of the
    /// last old chunk: the end of a stream is no cut of the one that goes on there, or a log that is backed
    /// up every hour would fall to pieces.
    pub(super) fn expected(&self, min_len: usize) -> Option<(usize, u64)> {
        let last = (self.first + self.window.len()).checked_sub(1)?;
        let reaches = |old: &&Old| self.aligned || old.end() >= self.place + min_len as u64;
        let number =
            (self.next..=self.next + 1).find(|number| self.get(*number).as_ref().is_some_and(reaches))?;
        let old = self.get(number).filter(|_| number < last)?;
        let anchor = old.grounded.as_ref()?.location.record.anchor;
        let len = usize::try_from(old.end().checked_sub(self.place)?).ok()?;
        (anchor != 0).then_some((len, anchor))
    }

    /// A chunk was cut: of this length, ending with this anchor.
    pub(super) fn cut(&mut self, len: usize, anchor: u64) -> Hint {
        if self.window.is_empty() {
            return Hint::default();
        }
        let same = self.get(self.next).filter(|old| self.aligned && old.len as usize == len);
        let same = same.and_then(|old| old.grounded.clone());
        let end = match &same {
            Some(old) if old.location.record.anchor == anchor => Some(self.next),
            _ => self.believed(anchor),
        };
        // The old bytes that became these: those up to the common end, or as many as these are.
        let last = match end {
            Some(end) => end,
            None => self.holding(self.place + len as u64 - 1),
        };
        let first = self.next.min(last).max(last.saturating_sub(MAX_BASES - 1));
        let around = (first..=last).filter_map(|number| self.get(number)?.grounded.clone()).collect();
        self.place = match end.and_then(|end| self.get(end)) {
            Some(old) => old.end(),
            None => self.place + len as u64,
        };
        self.aligned = end.is_some();
        self.next = match end {
            Some(end) => end + 1,
            None => self.holding(self.place),
        };
        self.forget();
        Hint { same, around }
    }

    /// Number of the old chunk that holds a byte, or the one after the last that is known.
    fn holding(&self, byte: u64) -> usize {
        self.first + self.window.partition_point(|old| old.end() <= byte)
    }

    /// The old chunk that ends where the new one does, if its anchor can be trusted.
    fn believed(&mut self, anchor: u64) -> Option<usize> {
        let rumour = self.rumour.take();
        if let Some(number) = rumour
            && self.anchors.contains(&(anchor, number))
        {
            return rumour;
        }
        let found = self.nearest(anchor)?;
        if found.abs_diff(self.next) <= NEAR {
            return Some(found);
        }
        self.rumour = Some(found + 1);
        None
    }

    /// Of the old chunks with this anchor, the one nearest to our place.
    fn nearest(&self, anchor: u64) -> Option<usize> {
        let ahead = self.anchors.range((anchor, self.next)..=(anchor, usize::MAX)).next();
        let behind = self.anchors.range((anchor, 0)..(anchor, self.next)).next_back();
        let distance = |number: &usize| number.abs_diff(self.next);
        ahead.into_iter().chain(behind).map(|(_, number)| *number).min_by_key(distance)
    }

    /// Drops chunks far behind the position.
    fn forget(&mut self) {
        while self.first + BEHIND < self.next
            && let Some(old) = self.window.pop_front()
        {
            if let Some(grounded) = old.grounded {
                self.anchors.remove(&(grounded.location.record.anchor, self.first));
            }
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Codec;
    use crate::head::outline_tests::segment_ref;
    use crate::id::PackId;
    use crate::index::tests::segment;
    use crate::index::{MemoryIndex, PackInfo};
    use std::collections::HashSet;

    /// A prediction over 50 old chunks of 300 bytes with anchors of their own.
    fn prediction() -> (Prediction, Vec<u64>) {
        let index = MemoryIndex::default();
        index.sync(&vec![segment_ref(1)].into(), &mut |_| Ok(Some(segment(1, 50)))).unwrap();
        let records = segment(1, 50).packs[0].records.clone();
        let chunks: Vec<_> = records.iter().map(|record| ChunkRef { id: record.id, len: 300 }).collect();
        let mut prediction = Prediction::default();
        prediction.start();
        prediction.extend(&index, &chunks, &HashSet::new()).unwrap();
        (prediction, records.iter().map(|record| record.anchor).collect())
    }

    fn numbers(hint: &Hint) -> Vec<u32> {
        hint.around.iter().map(|old| old.location.record.ordinal).collect()
    }

    #[test]
    fn follows_is_lost_and_finds_its_way_back() {
        let (mut prediction, anchors) = prediction();
        assert_eq!(prediction.expected(1), Some((300, anchors[0])));
        let hint = prediction.cut(300, anchors[0]);
        assert_eq!((hint.same.is_some(), numbers(&hint)), (true, vec![0]));
        // One new chunk covers old 1 and 2.
        let hint = prediction.cut(600, anchors[2]);
        assert_eq!((hint.same.is_some(), numbers(&hint)), (false, vec![1, 2]));
        // Its end was changed, and an earlier cut appeared: the rest of it belongs to what follows.
        let hint = prediction.cut(200, 12345);
        assert_eq!((hint.same.is_some(), numbers(&hint)), (false, vec![3]));
        assert_eq!(prediction.expected(1), Some((100, anchors[3])));
        assert_eq!(prediction.expected(101), Some((400, anchors[4])));
        let hint = prediction.cut(400, anchors[4]);
        assert_eq!((hint.same.is_some(), numbers(&hint)), (false, vec![3, 4]));
        // One end that is found far away is chance; the next one is where it was to be expected.
        let hint = prediction.cut(300, anchors[45]);
        assert_eq!(numbers(&hint), [5]);
        let hint = prediction.cut(300, anchors[6]);
        assert_eq!(numbers(&hint), [6]);
        // Two in a row are not: something was removed.
        prediction.cut(310, anchors[40]);
        let hint = prediction.cut(300, anchors[41]);
        assert_eq!(numbers(&hint).last(), Some(&41));
        assert_eq!(prediction.expected(1), Some((300, anchors[42])));
        // Beyond the end there is nothing to say.
        for _ in 0..200 {
            prediction.cut(300, 0);
        }
        assert!(numbers(&prediction.cut(300, 0)).is_empty() && prediction.window.len() <= BEHIND);
        assert!(prediction.anchors.len() <= BEHIND);
    }

    #[test]
    fn a_chunk_whose_base_is_gone_does_not_count() {
        let index = MemoryIndex::default();
        let mut old = segment(1, 4);
        let gone = segment(9, 1).packs[0].records[0].id;
        let base = old.packs[0].records[0].id;
        for (position, depth, base) in [(1, 1, base), (2, 1, gone), (3, 0, base)] {
            let record = &mut old.packs[0].records[position];
            (record.codec, record.depth, record.generation) = (Codec::ZstdDelta, depth, 1);
            record.bases = vec![base];
        }
        let ids: Vec<_> = old.packs[0].records.iter().map(|record| record.id).collect();
        let pack: PackInfo = {
            index.sync(&vec![segment_ref(1)].into(), &mut |_| Ok(Some(old.clone()))).unwrap();
            *index.packs().unwrap()[0]
        };
        let counts = |avoid: &HashSet<PackId>| -> Vec<bool> {
            ground(&index, &ids, avoid).unwrap().iter().map(Option::is_some).collect()
        };
        // 2 stands on what is nowhere, 3 on something of the same depth.
        assert_eq!(counts(&HashSet::new()), [true, true, false, false]);
        assert_eq!(counts(&HashSet::from([pack.name.id])), [false; 4]);
    }
}
