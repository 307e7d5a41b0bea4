//! Patches against chunks that are not at hand, from lists of their blocks (rsync's idea, Tridgell 1999). A write-only host
//! cannot read what it stored last night; of each chunk it keeps such a list. Pure: no I/O, no clock.
//!
//! A chunk is cut into blocks of [`BLOCK_LEN`] bytes; what is left at its end is in none, since a few bytes can be guessed. The list
//! has an entry for each: a weak hash that can be rolled over the new chunk byte by byte, and 96 bits of a keyed hash. Where
//! they agree, the new chunk has the block.
//! Nobody can look whether that is so, but the reader of a patch compares the chunk's id, as with every chunk. Neither hash
//! says anything about content to somebody without the key.
//!
//! How likely is a mistake? Only the strong hash is compared where blocks follow each other, and a block elsewhere must fit
//! both. In 1 TiB of nothing but changes that is less than 2⁵⁵ comparisons of 96 bits: 2⁻⁴¹, and then the run is refused.

use crate::format::BLOCK_LEN;
use crate::keys::derive;
use crate::patch;
use zeroize::Zeroizing;

/// Bytes of the weak and the strong hash of a block, which make an entry.
const WEAK_LEN: usize = 4;
const STRONG_LEN: usize = 12;
const ENTRY_LEN: usize = WEAK_LEN + STRONG_LEN;

type Strong = [u8; STRONG_LEN];

/// A chunk of which there is a list.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// Its length in bytes.
    pub len: usize,
    /// Its list.
    pub list: &'a [u8],
}

/// A block of the bases.
struct Block {
    /// Where it starts in them.
    at: usize,
    /// The number of its base.
    base: usize,
    weak: u32,
    strong: Strong,
}

/// Makes lists and patches under one key.
pub struct Blocks {
    key: Zeroizing<[u8; 32]>,
    /// What a byte adds when it enters the rolling hash, and what it takes along when it leaves.
    enter: Box<[u64; 256]>,
    leave: Box<[u64; 256]>,
    factor: u64,
}

impl Blocks {
    /// With a key that is derived from `secret`.
    #[must_use]
    pub fn new(secret: &[u8; 32]) -> Self {
        let key = derive(secret, "blocks", &[]);
        let mut drawn = Zeroizing::new([0; 8 * 257]);
        blake3::Hasher::new_keyed(&derive(&key, "roll", &[])).finalize_xof().fill(&mut drawn[..]);
        let (words, _) = drawn.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        // Odd, or bytes would leave the hash before their block ends.
        let factor = words.next().unwrap_or_default() | 1;
        let mut enter = Box::new([0; 256]);
        enter.iter_mut().zip(words).for_each(|(slot, word)| *slot = word);
        let last = (0..BLOCK_LEN).fold(1u64, |power, _| power.wrapping_mul(factor));
        let leave = Box::new(enter.map(|word| word.wrapping_mul(last)));
        Self { key, enter, leave, factor }
    }

    fn strong(&self, block: &[u8]) -> Strong {
        let hash = blake3::keyed_hash(&self.key, block);
        let mut strong = [0; STRONG_LEN];
        strong.copy_from_slice(&hash.as_bytes()[..STRONG_LEN]);
        strong
    }

    /// The rolling hash of a block.
    fn hash(&self, block: &[u8]) -> u64 {
        let step = |hash: u64, byte: &u8| {
            hash.wrapping_mul(self.factor).wrapping_add(self.enter[usize::from(*byte)])
        };
        block.iter().fold(0, step)
    }

    /// The list of a chunk.
    #[must_use]
    pub fn list(&self, plain: &[u8]) -> Vec<u8> {
        let mut list = Vec::with_capacity(plain.len() / BLOCK_LEN * ENTRY_LEN);
        for block in plain.as_chunks::<BLOCK_LEN>().0 {
            list.extend_from_slice(&weak(self.hash(block)).to_le_bytes());
            list.extend_from_slice(&self.strong(block));
        }
        list
    }

    /// A patch that makes `plain` from the concatenation of `bases`, if it has at most `most` bytes. Codec 3 has its
    /// encoding.
    #[must_use]
    pub fn patch(&self, plain: &[u8], bases: &[Listed<'_>], most: usize) -> Option<Vec<u8>> {
        let bases = Bases::new(bases)?;
        let mut patch =
            Patch { plain, writer: patch::Writer::default(), told: 0, last: 0, place: 0, run: 0..0, base: 0 };
        // What is placed of `plain`, and the number of the block that would come next.
        let (mut place, mut next) = (0, 0);
        while place < plain.len() {
            let expected = bases.blocks.get(next);
            if let Some(block) = expected
                && let Some(here) = plain.get(place..place + BLOCK_LEN)
                && self.strong(here) == block.strong
            {
                patch.copy(place, block);
                (place, next) = (place + BLOCK_LEN, next + 1);
                continue;
            }
            let room = most.saturating_sub(patch.writer.len());
            let expected = expected.map(|block| block.at);
            let Some(found) = self.seek(plain, &bases, place, expected, room) else { break };
            (place, next) = found;
        }
        patch.finish(most)
    }

    /// The next place from `place` on, at most `room` bytes farther, where `plain` has a block of the bases, and the block's
    /// number. `expected` is the byte of the bases that would come next at `place`.
    fn seek(
        &self,
        plain: &[u8],
        bases: &Bases,
        place: usize,
        expected: Option<usize>,
        room: usize,
    ) -> Option<(usize, usize)> {
        let mut hash = self.hash(plain.get(place..place + BLOCK_LEN)?);
        let last = (plain.len() - BLOCK_LEN).min(place.saturating_add(room));
        let mut at = place;
        loop {
            if let Some(number) = bases.with(weak(hash)) {
                let strong = self.strong(&plain[at..at + BLOCK_LEN]);
                if bases.blocks[number].strong == strong {
                    // Blocks that occur more than once most likely go on where the last ones were.
                    let straight = expected.and_then(|expected| bases.starting(expected + (at - place)));
                    let straight = straight.filter(|number| bases.blocks[*number].strong == strong);
                    return Some((at, straight.unwrap_or(number)));
                }
            }
            if at >= last {
                return None;
            }
            let (gone, come) = (usize::from(plain[at]), usize::from(plain[at + BLOCK_LEN]));
            hash =
                hash.wrapping_mul(self.factor).wrapping_add(self.enter[come]).wrapping_sub(self.leave[gone]);
            at += 1;
        }
    }
}

/// The high bits depend on every byte of the block.
fn weak(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// The blocks of some chunks, one after the other, and where a weak hash is among them.
struct Bases {
    blocks: Vec<Block>,
    /// Numbers of blocks, from 1; 0 for none.
    table: Vec<u32>,
}

impl Bases {
    /// `None` if a list is not that of a chunk of this length.
    fn new(bases: &[Listed<'_>]) -> Option<Self> {
        let mut blocks = vec![];
        let mut start = 0;
        for (base, Listed { len, list }) in bases.iter().enumerate() {
            let (entries, rest) = list.as_chunks::<ENTRY_LEN>();
            if !rest.is_empty() || entries.len() != len / BLOCK_LEN {
                return None;
            }
            for (number, entry) in entries.iter().enumerate() {
                let (weak, strong) = (entry.first_chunk()?, entry.last_chunk()?);
                let at = start + number * BLOCK_LEN;
                blocks.push(Block { at, base, weak: u32::from_le_bytes(*weak), strong: *strong });
            }
            start += len;
        }
        let mut bases =
            Self { table: vec![0; (2 * blocks.len()).next_power_of_two().max(2)], blocks: vec![] };
        for (number, block) in blocks.iter().enumerate() {
            let slot = bases.slot(&blocks, block.weak);
            // Of several with one weak hash the first: most often they are the same.
            if bases.table[slot] == 0 {
                bases.table[slot] = u32::try_from(number + 1).ok()?;
            }
        }
        bases.blocks = blocks;
        Some(bases)
    }

    /// The slot of a weak hash, or the free one where it would go. At most half of the slots are taken.
    fn slot(&self, blocks: &[Block], weak: u32) -> usize {
        let mask = self.table.len() - 1;
        let mut slot = weak as usize & mask;
        while let Some(number) = (self.table[slot] as usize).checked_sub(1)
            && blocks[number].weak != weak
        {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// The first block with this weak hash.
    fn with(&self, weak: u32) -> Option<usize> {
        (self.table[self.slot(&self.blocks, weak)] as usize).checked_sub(1)
    }

    /// The block that starts at this byte.
    fn starting(&self, at: usize) -> Option<usize> {
        self.blocks.binary_search_by_key(&at, |block| block.at).ok()
    }
}

/// A patch that is being written.
struct Patch<'a> {
    plain: &'a [u8],
    writer: patch::Writer,
    /// What of `plain` is in an instruction, and where the last copy ended in the bases.
    told: usize,
    last: usize,
    /// A copy that may go on: where it starts in `plain`, and what it is in the bases.
    place: usize,
    run: std::ops::Range<usize>,
    base: usize,
}

impl Patch<'_> {
    /// A block of the bases comes at `place`.
    fn copy(&mut self, place: usize, block: &Block) {
        // No copy crosses the end of a base.
        if (self.base, self.run.end) != (block.base, block.at) || self.place + self.run.len() != place {
            self.tell();
            (self.place, self.base, self.run) = (place, block.base, block.at..block.at);
        }
        self.run.end += BLOCK_LEN;
    }

    fn tell(&mut self) {
        if self.run.is_empty() {
            return;
        }
        let (len, step) = (self.run.len(), self.run.start.cast_signed() - self.last.cast_signed());
        self.writer.tell(&self.plain[self.told..self.place], len, step);
        (self.told, self.last) = (self.place + len, self.run.end);
        self.run = self.run.end..self.run.end;
    }

    fn finish(mut self, most: usize) -> Option<Vec<u8>> {
        self.tell();
        let rest = &self.plain[self.told..];
        if rest.len() > most {
            return None;
        }
        if !rest.is_empty() {
            self.writer.tell(rest, 0, 0);
        }
        let mut patch = vec![];
        self.writer.finish(&mut patch);
        (patch.len() <= most).then_some(patch)
    }
}

#[cfg(test)]
mod tests;
