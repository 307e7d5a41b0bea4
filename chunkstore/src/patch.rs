//! A chunk as a patch: ranges to copy from its bases, and the bytes in between.
//!
//! Most overnight changes alter, insert or remove a few records. zstd's fast match finder takes the nearest match,
//! which in regular data (rows of equal length, padding) is the previous row rather than last night's version of this
//! one; it then stores a match for every row, at a few hundred MB per second. Here equal ranges are followed at the
//! speed of a comparison, and a lost position is found again by blocks that occur once in the base (rsync's idea,
//! Tridgell 1999, with the block list on the side of the base). This needs few differences; with more, zstd's prefix is
//! better.
//!
//! A patch is a list of instructions and the bytes that they insert, compressed together afterwards. `docs/format.md`
//! has its encoding.

use crate::format::BLOCK_LEN;
use std::ops::Range;

/// Blocks of the base have this many bytes.
const BLOCK: usize = 32;
/// Equal runs on the same diagonal from this length on are worth an instruction.
const MIN_RUN: usize = 16;
/// A slot of the table that stands for several blocks of the same content.
const COMMON: u32 = u32::MAX;
/// How far to look for the end of a change in place, when it competes with a block found elsewhere.
const IN_PLACE: usize = 64;

/// Makes patches, keeping its table between them.
#[derive(Default)]
pub struct Differ {
    /// Numbers of blocks, from 1; 0 for none.
    table: Vec<u32>,
    writer: Writer,
}

/// A patch that is being written.
#[derive(Default)]
pub(crate) struct Writer {
    instructions: Vec<u8>,
    inserted: Vec<u8>,
}

impl Writer {
    /// Writes an instruction: insert, then copy `len` bytes from `step` bytes after the end of the last copy.
    pub(crate) fn tell(&mut self, insert: &[u8], len: usize, step: isize) {
        put(&mut self.instructions, insert.len());
        put(&mut self.instructions, len);
        put(&mut self.instructions, zigzag(step));
        self.inserted.extend_from_slice(insert);
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.instructions.len() + self.inserted.len()
    }

    /// Replaces `out` by the patch.
    pub(crate) fn finish(&self, out: &mut Vec<u8>) {
        out.clear();
        put(out, self.instructions.len());
        out.extend_from_slice(&self.instructions);
        out.extend_from_slice(&self.inserted);
    }

    fn clear(&mut self) {
        self.instructions.clear();
        self.inserted.clear();
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}

/// Folds two words into one, as wyhash does (Wang Yi, 2019).
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

fn hash(block: &[u8; BLOCK]) -> u64 {
    let (words, _) = block.as_chunks::<8>();
    let [a, b, c, d] = [0, 1, 2, 3].map(|at| u64::from_le_bytes(words[at]));
    let low = fold(a ^ 0x9e37_79b9_7f4a_7c15, b ^ 0xbf58_476d_1ce4_e5b9);
    low ^ fold(c ^ 0x94d0_49bb_1331_11eb, d ^ 0xd6e8_feb8_6659_fd93)
}

/// Bytes that two slices have in common at their start.
fn run(a: &[u8], b: &[u8]) -> usize {
    let wide = a.as_chunks::<64>().0.iter().zip(b.as_chunks::<64>().0);
    let mut len = 64 * wide.take_while(|(a, b)| a == b).count();
    while let (Some(left), Some(right)) = (word(a, len), word(b, len)) {
        if left != right {
            return len + (left ^ right).trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    len + a[len..].iter().zip(&b[len..]).take_while(|(a, b)| a == b).count()
}

fn put(out: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Small numbers of either sign as small numbers.
fn zigzag(number: isize) -> usize {
    (number << 1 ^ number >> (isize::BITS - 1)).cast_unsigned()
}

impl Differ {
    /// Replaces `out` by a patch that makes `plain` from `base`, if it has at most `most` bytes; says
    /// whether it did.
    pub fn diff(&mut self, plain: &[u8], base: &[u8], most: usize, out: &mut Vec<u8>) -> bool {
        if u32::try_from(base.len()).is_err() {
            return false;
        }
        self.learn(base);
        self.writer.clear();
        // What is placed of `plain`, what of it is already in an instruction, and the byte of the base
        // that would come next.
        let (mut place, mut told, mut next) = (0, 0, 0);
        // Where the last copy ended in the base, in front of the inserted bytes: instructions count from it.
        let mut last = 0;
        while place < plain.len() {
            let same = run(&plain[place..], &base[next..]);
            if same >= MIN_RUN || same > 0 && place + same == plain.len() {
                self.writer.tell(&plain[told..place], same, next.cast_signed() - last);
                place += same;
                next += same;
                (told, last) = (place, next.cast_signed());
            }
            if place == plain.len() {
                break;
            }
            let room = most.saturating_sub(self.writer.len());
            let Some(found) = self.seek(plain, base, told, place, next, room) else {
                if plain.len() - told > room {
                    return false;
                }
                break;
            };
            (place, next) = found;
        }
        if told < plain.len() {
            self.writer.tell(&plain[told..], 0, 0);
        }
        self.writer.finish(out);
        out.len() <= most
    }

    /// Notes where the blocks of the base are, and which occur more than once.
    fn learn(&mut self, base: &[u8]) {
        let (blocks, _) = base.as_chunks::<BLOCK>();
        let slots = blocks.len().next_power_of_two().max(2);
        self.table.clear();
        self.table.resize(slots, 0);
        for (number, block) in blocks.iter().enumerate() {
            let slot = &mut self.table[(hash(block) >> (64 - slots.ilog2())) as usize];
            *slot = match *slot {
                0 => number as u32 + 1,
                COMMON => COMMON,
                taken if blocks[taken as usize - 1] == *block => COMMON,
                taken => taken,
            };
        }
    }

    /// The offset in the base of the block at `at` of `plain`, if it occurs exactly once.
    fn look_up(&self, plain: &[u8], base: &[u8], at: usize) -> Option<usize> {
        let block: &[u8; BLOCK] = plain.get(at..)?.first_chunk()?;
        let found = match self.table[(hash(block) >> (64 - self.table.len().ilog2())) as usize] {
            0 | COMMON => return None,
            number => (number as usize - 1) * BLOCK,
        };
        (base.get(found..)?.first_chunk::<BLOCK>()? == block).then_some(found)
    }

    /// `plain[place]` is not what comes next in the base: finds where the two go on together, as places in
    /// both; `None` if that is nowhere, or more than `room` bytes on.
    fn seek(
        &self,
        plain: &[u8],
        base: &[u8],
        told: usize,
        place: usize,
        next: usize,
        room: usize,
    ) -> Option<(usize, usize)> {
        // Around the change: in regular data the same diagonal goes on after a few bytes even where a
        // record came or went, so blocks that hold the change are asked first, and the longer run wins.
        let in_place = (1..=IN_PLACE).find(|skip| {
            let (here, there) = (word(plain, place + skip), word(base, next + skip));
            here.is_some() && here == there
        });
        let goes_on = in_place.map(|skip| run(&plain[place + skip..], &base[next + skip..]));
        for at in (place + 1).saturating_sub(BLOCK)..=place {
            if let Some(found) = self.look_up(plain, base, at)
                && let there = found + (place - at)
                && there != next
                && run(&plain[place..], &base[there..]) > goes_on.unwrap_or(0).max(MIN_RUN - 1)
            {
                return Some((place, there));
            }
        }
        for at in place + 1..plain.len().min(told + room + 1) {
            let skip = at - place;
            if word(plain, at).is_some_and(|here| Some(here) == word(base, next + skip))
                && run(&plain[at..], &base[next + skip..]) >= MIN_RUN
            {
                return Some((at, next + skip));
            }
            if let Some(found) = self.look_up(plain, base, at) {
                // Backwards to where the two really part.
                let same = |back: &usize| plain[at - back] == base[found - back];
                let back = (1..=(at - place).min(found)).take_while(same).count();
                return Some((at - back, found - back));
            }
        }
        None
    }
}

/// One instruction of a patch.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the patch that come first.
    pub insert: Range<usize>,
    /// Bytes of the base that follow.
    pub copy: Range<usize>,
}

/// The instructions of a patch, in order; `None` in place of one that makes no sense. That what they copy
/// lies in the base is for the caller to see.
struct Steps<'a> {
    patch: &'a [u8],
    /// Where the next instruction stands, and where they end.
    at: usize,
    end: usize,
    /// Inserted bytes so far end here.
    inserted: usize,
    /// Where the last copy ended in the base.
    next: usize,
}

/// Reads the instructions of a patch; `None` if it has not even room for them.
pub fn steps(patch: &[u8]) -> Option<impl Iterator<Item = Option<Step>>> {
    let mut at = 0;
    let len = take(patch, &mut at)?;
    let end = at.checked_add(len).filter(|end| *end <= patch.len())?;
    Some(Steps { patch, at, end, inserted: end, next: 0 })
}

impl Steps<'_> {
    fn step(&mut self) -> Option<Step> {
        let instructions = &self.patch[..self.end];
        let (insert, copy) = (take(instructions, &mut self.at)?, take(instructions, &mut self.at)?);
        let step = take(instructions, &mut self.at)?;
        let start = self.next.checked_add_signed((step >> 1).cast_signed() ^ -((step & 1).cast_signed()))?;
        let insert =
            self.inserted..self.inserted.checked_add(insert).filter(|end| *end <= self.patch.len())?;
        let copy = start..start.checked_add(copy)?;
        (self.inserted, self.next) = (insert.end, copy.end);
        Some(Step { insert, copy })
    }
}

impl Iterator for Steps<'_> {
    type Item = Option<Step>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at < self.end {
            let step = self.step();
            if step.is_none() {
                self.at = self.end;
                self.inserted = self.patch.len();
            }
            return Some(step);
        }
        // Bytes that no instruction inserts do not belong there.
        (std::mem::replace(&mut self.inserted, self.patch.len()) < self.patch.len()).then_some(None)
    }
}

/// Reads a number.
fn take(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let mut number = 0;
    for shift in (0..28).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        number |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Appends to `plain` what `patch` makes from `base`, at most `plain_len` bytes in all; `None` if it is not a
/// patch of that base.
pub fn apply(patch: &[u8], base: &[u8], plain_len: usize, plain: &mut Vec<u8>) -> Option<()> {
    for step in steps(patch)? {
        let Step { insert, copy } = step?;
        let copied = base.get(copy)?;
        if insert.len() + copied.len() > plain_len.checked_sub(plain.len())? {
            return None;
        }
        plain.extend_from_slice(&patch[insert]);
        plain.extend_from_slice(copied);
    }
    Some(())
}

/// Whether a patch of bases of these lengths copies nothing but whole blocks of [`BLOCK_LEN`] bytes, counted from the start of
/// each base.
#[must_use]
pub fn has_whole_blocks(patch: &[u8], lens: &[usize]) -> bool {
    let is_whole = |copy: &Range<usize>| {
        let mut start = 0;
        for len in lens {
            if (start..start + len).contains(&copy.start) {
                let is_at_block = (copy.start - start).is_multiple_of(BLOCK_LEN);
                return is_at_block && copy.len().is_multiple_of(BLOCK_LEN) && copy.end <= start + len;
            }
            start += len;
        }
        false
    };
    let Some(mut steps) = steps(patch) else { return false };
    steps.all(|step| step.is_some_and(|step| step.copy.is_empty() || is_whole(&step.copy)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Rows as pg_dump writes those of pgbench: a number that changes, a filler that does not.
    fn rows(numbers: impl Iterator<Item = u32>) -> Vec<u8> {
        numbers.flat_map(|number| format!("{number}\t1\t0\t{:84}\n", "").into_bytes()).collect()
    }

    fn patched(plain: &[u8], base: &[u8], most: usize) -> Option<usize> {
        let (mut patch, mut again) = (vec![], vec![]);
        Differ::default().diff(plain, base, most, &mut patch).then(|| {
            apply(&patch, base, plain.len(), &mut again).unwrap();
            assert!(again == plain);
            patch.len()
        })
    }

    #[test]
    fn regular_rows_cost_what_changed() {
        let base = rows(100_000..105_000);
        let gone = rows((100_000..105_000).filter(|number| number % 500 != 77));
        let come = rows((100_000..105_000).flat_map(|number| {
            [number, number + 800_000].into_iter().take(1 + usize::from(number % 500 == 77))
        }));
        assert!(patched(&gone, &base, 1 << 20).unwrap() < 10 * 20);
        assert!(patched(&come, &base, 1 << 20).unwrap() < 10 * 120);
        assert!(patched(&base, &base, 20).is_some() && patched(&[], &base, 20).is_some());
    }

    #[test]
    fn parts_in_another_order_are_found() {
        let base = noise(1, 100_000);
        let plain = [&base[60_000..], &noise(2, 100), &base[..60_000]].concat();
        assert!(patched(&plain, &base, 1000).unwrap() < 100 + 80);
    }

    #[test]
    fn strangers_are_refused() {
        assert_eq!(patched(&noise(1, 50_000), &noise(2, 50_000), 4000), None);
        assert_eq!(patched(&noise(1, 50_000), &[], 4000), None);
    }

    #[test]
    fn nothing_but_a_patch_is_applied() {
        let base = noise(1, 1000);
        let mut plain = vec![];
        for patch in [
            &[][..],
            &[5],
            &[3, 0, 1],
            &[3, 2, 0, 0, 7],
            &[3, 0, 0xff, 0],
            &[3, 0, 1, 1],
            &[5, 0, 0xff, 0x7f, 0, 0],
            &[1, 0x80],
            &[0, 9],
        ] {
            assert_eq!(apply(patch, &base, 500, &mut plain), None, "{patch:?}");
        }
    }

    #[test]
    fn what_copies_a_part_of_a_block_is_told() {
        let patch = |copies: &[(usize, usize)]| {
            let (mut writer, mut last, mut patch) = (Writer::default(), 0, vec![]);
            for (at, len) in copies {
                writer.tell(b"new", *len, at.cast_signed() - last);
                last = (at + len).cast_signed();
            }
            writer.finish(&mut patch);
            patch
        };
        let lens = [1000, 256, 700];
        for whole in [&[(0, 768)][..], &[(1000, 256)], &[(1256, 512), (256, 256)], &[(0, 0)], &[]] {
            assert!(has_whole_blocks(&patch(whole), &lens), "{whole:?}");
        }
        for part in [
            (0, 1),
            (1, 256),
            (0, 255),
            (0, 1000),
            (768, 232),
            (768, 256),
            (1000, 512),
            (1768, 256),
            (1956, 256),
        ] {
            assert!(!has_whole_blocks(&patch(&[(0, 256), part]), &lens), "{part:?}");
        }
        assert!(!has_whole_blocks(&[5], &lens));
    }

    proptest! {
        #[test]
        fn whatever_changed_comes_back(
            len in 0usize..5000,
            edits in proptest::collection::vec((0usize..5000, 0usize..200, 0usize..200, any::<u64>()), 0..12),
            few in any::<bool>(),
        ) {
            let mut base = noise(3, len);
            if few {
                base.iter_mut().for_each(|byte| *byte &= 1);
            }
            let mut plain = base.clone();
            for (at, remove, insert, seed) in edits {
                let at = at.min(plain.len());
                let end = (at + remove).min(plain.len());
                plain.splice(at..end, noise(seed, insert));
            }
            prop_assert!(patched(&plain, &base, plain.len() * 2 + 100).is_some());
        }

        #[test]
        fn whatever_comes_in_nothing_panics(patch in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut plain = vec![];
            if apply(&patch, &noise(4, 300), 400, &mut plain).is_some() {
                prop_assert!(plain.len() <= 400);
            }
        }
    }
}
