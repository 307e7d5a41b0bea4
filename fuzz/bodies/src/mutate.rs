//! Mutations as libFuzzer makes them, from a fixed seed: bits, bytes, integers at their limits, stretches removed,
//! repeated, moved, or taken from another input.

/// Makes mutations.
pub struct Mutator<'a> {
    others: &'a [Vec<u8>],
    state: u64,
}

const INTERESTING: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX - 7,
    u64::MAX,
];

impl<'a> Mutator<'a> {
    /// Takes stretches from `others`.
    #[must_use]
    pub fn new(others: &'a [Vec<u8>]) -> Self {
        Self { others, state: 0x9e37_79b9_7f4a_7c15 }
    }

    /// The mutations of one of many rounds.
    #[must_use]
    pub fn at(others: &'a [Vec<u8>], round: u64) -> Self {
        Self { others, state: 0x9e37_79b9_7f4a_7c15 ^ round.rotate_left(32) }
    }

    /// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014 (SplitMix64).
    fn below(&mut self, end: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end.max(1) as u64) as usize
    }

    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        start..(start + self.below(32)).min(len)
    }

    /// A few changes at once.
    pub fn mutate(&mut self, input: &[u8]) -> Vec<u8> {
        let mut out = input.to_vec();
        for _ in 0..=self.below(4) {
            let (at, len) = (self.below(out.len()), out.len());
            match self.below(8) {
                _ if out.is_empty() => out.push(self.below(256) as u8),
                0 => out[at] ^= 1 << self.below(8),
                1 => out[at] = self.below(256) as u8,
                2 => {
                    let mut value = INTERESTING[self.below(INTERESTING.len())].to_le_bytes();
                    let width = (1 << self.below(4)).min(len - at);
                    // PostgreSQL's numbers begin with their highest byte.
                    if self.below(2) == 1 {
                        value[..width].reverse();
                    }
                    out[at..at + width].copy_from_slice(&value[..width]);
                }
                3 => out.truncate(at),
                4 => drop(out.drain(self.range(len))),
                5 => {
                    let stretch = out[self.range(len)].to_vec();
                    out.splice(at..at, stretch);
                }
                6 => {
                    let range = self.range(len);
                    let (from, more) = (range.start, self.below(64));
                    out.splice(from..from, vec![0; more]);
                }
                _ => {
                    let other = &self.others[self.below(self.others.len())];
                    let stretch = other[self.range(other.len())].to_vec();
                    out.splice(self.range(len), stretch);
                }
            }
        }
        out
    }
}
