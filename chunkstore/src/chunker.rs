//! Where to cut a stream into chunks: FastCDC with normalized chunking (Xia et al., "The Design of
//! Fast Content-Defined Chunking for Data Deduplication Based Storage Systems", TPDS 2020), with a
//! gear table derived from the repository's key. Pure: no I/O, no clock.
//!
//! Cut points equal those of the `fastcdc` crate's `v2020::cut_gear` for the same table. The crate
//! tests two bytes a step with pre-shifted tables; one byte a step is the same predicate and leaves
//! the compiler a shorter dependency chain.

use crate::{Error, Result, format::MAX_CHUNK_LEN};
use serde::{Deserialize, Serialize};

/// Name of the only chunker of format 1.
pub const FASTCDC_2020: &str = "fastcdc-v2020-gear64";

/// Bytes at the end of a chunk that make its anchor: as many as influence a 64-bit gear hash.
pub const ANCHOR_LEN: usize = 64;

/// An anchor is looked for this share of the longest chunk away from where it was, near it first: scanning
/// that takes a fraction of the time that a search for the next cut takes, and it is more than most nights
/// add to a chunk (64 KiB to 512).
const ANCHOR_REACH_SHARE: usize = 32;

/// The finalizer of MurmurHash3 (Appleby, public domain): the low bits of a gear hash depend on few bytes,
/// and a mask has cleared others.
fn mix(mut hash: u64) -> u64 {
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^ (hash >> 33)
}

/// The inverse of [`mix`]: its shifts by more than half undo themselves, its factors have inverses.
fn unmix(mut hash: u64) -> u64 {
    for inverse in [0x9cb4_b2f8_1293_37db, 0x4f74_430c_22a5_4005] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(inverse);
    }
    hash ^ (hash >> 33)
}

/// Chunk sizes in bytes; all powers of two, so that no version of the algorithm rounds differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerParams {
    /// No chunk but a stream's last is smaller.
    pub min_len: u32,
    /// The length at which the relaxed mask replaces the strict one: the expected size, in bytes.
    pub avg_len: u32,
    /// No chunk is larger.
    pub max_len: u32,
    /// Normalization level, 0 to 3: by how many bits the strict and the relaxed mask differ from the average.
    pub normalization: u32,
}

impl Default for ChunkerParams {
    /// 512 KiB: measured in decision 5. What changes inside a chunk costs little, because it is stored
    /// against its last version; and large chunks compress better on the first night.
    fn default() -> Self {
        Self::around(512 << 10)
    }
}

impl ChunkerParams {
    /// The parameters we use around an average: a quarter to four times.
    #[must_use]
    pub fn around(avg_len: u32) -> Self {
        Self { min_len: avg_len / 4, avg_len, max_len: avg_len.saturating_mul(4), normalization: 1 }
    }

    /// Checks ranges: powers of two, 64 ≤ min ≤ avg ≤ max ≤ 16 MiB, 1 KiB ≤ avg ≤ 4 MiB.
    pub fn validate(&self) -> Result<()> {
        let lens = [self.min_len, self.avg_len, self.max_len];
        let ok = lens.iter().all(|len| len.is_power_of_two())
            && self.min_len >= 64
            && (1 << 10..=4 << 20).contains(&self.avg_len)
            && self.min_len <= self.avg_len
            && self.avg_len <= self.max_len
            && self.max_len as usize <= MAX_CHUNK_LEN
            && self.normalization <= 3;
        if ok {
            Ok(())
        } else {
            Err(Error::Invalid(format!(
                "chunk sizes {}..{}..{} (normalization {}) are outside the format's limits",
                self.min_len, self.avg_len, self.max_len, self.normalization
            )))
        }
    }
}

/// A chunker: parameters, masks and a keyed gear table.
#[derive(Clone)]
pub struct Chunker {
    params: ChunkerParams,
    strict: u64,
    relaxed: u64,
    gear: Box<[u64; 256]>,
}

impl Chunker {
    /// Derives the gear table: the first 2,048 bytes of the BLAKE3 output of `gear_key`, as 256
    /// little-endian words.
    pub fn new(params: ChunkerParams, gear_key: &[u8; 32]) -> Result<Self> {
        let mut output = blake3::Hasher::new_keyed(gear_key).finalize_xof();
        let mut gear = Box::new([0u64; 256]);
        for word in gear.iter_mut() {
            let mut bytes = [0u8; 8];
            output.fill(&mut bytes);
            *word = u64::from_le_bytes(bytes);
        }
        Self::with_gear(params, gear)
    }

    fn with_gear(params: ChunkerParams, gear: Box<[u64; 256]>) -> Result<Self> {
        params.validate()?;
        let bits = params.avg_len.trailing_zeros();
        let mask = |bits: u32| fastcdc::v2020::MASKS.get(bits as usize).copied().unwrap_or_default();
        Ok(Self {
            strict: mask(bits + params.normalization),
            relaxed: mask(bits - params.normalization),
            params,
            gear,
        })
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> &ChunkerParams {
        &self.params
    }

    /// Length of the chunk at the start of `window`, which must hold at least `max_len` bytes unless
    /// the stream ends with it. Never 0 unless the window is empty.
    #[must_use]
    pub fn cut(&self, window: &[u8]) -> usize {
        let ChunkerParams { min_len, avg_len, max_len, .. } = self.params;
        let (min_len, avg_len, max_len) = (min_len as usize, avg_len as usize, max_len as usize);
        if window.len() <= min_len {
            return window.len();
        }
        let limit = window.len().min(max_len);
        // The crate tests bytes in pairs, so the last byte of an odd tail is never a candidate.
        let end = limit & !1;
        let center = limit.min(avg_len) & !1;
        let mut hash = 0u64;
        if let Some(cut) = self.scan(window, min_len, center, self.strict, &mut hash) {
            return cut;
        }
        self.scan(window, center, end, self.relaxed, &mut hash).unwrap_or(limit)
    }

    /// Fingerprint of the end of a chunk: the gear hash of its last 64 bytes, which is what decides
    /// where a chunk ends, with its bits mixed. 0 means none: for chunks that are shorter, and for ends
    /// of one repeated byte, which say nothing.
    #[must_use]
    pub fn anchor(&self, chunk: &[u8]) -> u64 {
        let Some(tail) = chunk.last_chunk::<ANCHOR_LEN>() else { return 0 };
        if tail.iter().all(|byte| *byte == tail[0]) {
            return 0;
        }
        mix(tail.iter().fold(0, |hash, byte| self.roll(hash, *byte)))
    }

    /// How far from its old position an anchor is searched for, in bytes.
    #[must_use]
    pub fn reach(&self) -> usize {
        self.params.max_len as usize / ANCHOR_REACH_SHARE
    }

    /// The position nearest to `len` at which a chunk of `window` can end and has this anchor, at most
    /// [`Chunker::reach`] bytes away: the cut of an older version, moved by insertions and deletions. A chunk of
    /// maximal length may grow by that much; otherwise every insertion would move all later cuts.
    #[must_use]
    pub fn find_anchor(&self, window: &[u8], len: usize, anchor: u64) -> Option<usize> {
        if window.get(..len).is_some_and(|chunk| self.anchor(chunk) == anchor) {
            return Some(len);
        }
        let longest = window.len().min(self.params.max_len as usize + self.reach());
        let wanted = unmix(anchor);
        // Most have moved by little.
        [self.reach() / 8, self.reach()].into_iter().find_map(|reach| {
            let most = longest.min(len + reach);
            let least = (self.params.min_len as usize).max(len.saturating_sub(reach)).max(ANCHOR_LEN);
            let (head, tail) = window.get(least - ANCHOR_LEN..most)?.split_at_checked(ANCHOR_LEN)?;
            let mut hash = head.iter().fold(0, |hash, byte| self.roll(hash, *byte));
            let mut found = (hash == wanted).then_some(least);
            for (offset, byte) in tail.iter().enumerate() {
                hash = self.roll(hash, *byte);
                if hash == wanted {
                    let end = least + offset + 1;
                    match found {
                        Some(before) if len.abs_diff(before) < len.abs_diff(end) => break,
                        _ => found = Some(end),
                    }
                }
            }
            found
        })
    }

    #[inline(always)]
    fn roll(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.gear[byte as usize])
    }

    /// The first end in `from..to` whose hash fits the mask. Four bytes a step, or stretches side by side,
    /// shorten the chain of dependent steps and were measured: no faster, and 13 % at most.
    #[inline(always)]
    fn scan(&self, window: &[u8], from: usize, to: usize, mask: u64, hash: &mut u64) -> Option<usize> {
        let mut fingerprint = *hash;
        for (offset, byte) in window.get(from..to)?.iter().enumerate() {
            fingerprint = self.roll(fingerprint, *byte);
            if fingerprint & mask == 0 {
                return Some(from + offset);
            }
        }
        *hash = fingerprint;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn oracle(chunker: &Chunker, window: &[u8]) -> usize {
        let gear_ls: Vec<u64> = chunker.gear.iter().map(|word| word << 1).collect();
        let params = chunker.params;
        fastcdc::v2020::cut_gear(
            window,
            params.min_len as usize,
            params.avg_len as usize,
            params.max_len as usize,
            chunker.strict,
            chunker.relaxed,
            chunker.strict << 1,
            chunker.relaxed << 1,
            &chunker.gear[..],
            &gear_ls,
        )
        .1
    }

    fn check(chunker: &Chunker, mut data: &[u8]) {
        while !data.is_empty() {
            let cut = chunker.cut(data);
            assert_eq!(cut, oracle(chunker, data));
            assert!(cut > 0 && cut <= data.len());
            data = &data[cut..];
        }
    }

    proptest! {
        #[test]
        fn cuts_equal_the_crates(seed: [u8; 32], len in 0usize..200_000, avg in 10u32..15, level in 0u32..4, text: bool) {
            let params = ChunkerParams { normalization: level, ..ChunkerParams::around(1 << avg) };
            let chunker = Chunker::new(params, &seed).unwrap();
            let mut data = vec![0; len];
            blake3::Hasher::new_keyed(&seed).finalize_xof().fill(&mut data);
            if text {
                data.iter_mut().for_each(|byte| *byte = b"etaoin shrdlu\n01"[(*byte & 15) as usize]);
            }
            check(&chunker, &data);
            check(&chunker, &vec![0; len]);
        }
    }

    #[test]
    fn crate_masks_are_ours() {
        // The crate's own selection, seen through its own type, agrees with ours for its own table.
        let data: Vec<u8> = (0..1_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let theirs: Vec<usize> =
            fastcdc::v2020::FastCDC::new(&data, 4096, 16384, 65536).map(|chunk| chunk.length).collect();
        let gear = Box::new(
            fastcdc::v2020::get_gear_with_seed(0).0.as_ref().try_into().map_or([0; 256], |g: [u64; 256]| g),
        );
        let chunker = Chunker::with_gear(ChunkerParams::around(16384), gear).unwrap();
        let mut rest = &data[..];
        let mut ours = vec![];
        while !rest.is_empty() {
            let cut = chunker.cut(rest);
            ours.push(cut);
            rest = &rest[cut..];
        }
        assert_eq!(ours, theirs);
    }

    #[test]
    fn anchors_are_found_where_they_moved_to() {
        for value in [0, 1, u64::MAX, 0x0123_4567_89ab_cdef] {
            assert_eq!(unmix(mix(value)), value);
        }
        let chunker = Chunker::new(ChunkerParams::around(16 << 10), &[3; 32]).unwrap();
        let mut data = vec![0; 100_000];
        blake3::Hasher::new().finalize_xof().fill(&mut data);
        let len = chunker.cut(&data);
        let anchor = chunker.anchor(&data[..len]);
        assert_eq!(chunker.find_anchor(&data, len, anchor), Some(len));
        let mut longer = data.clone();
        longer.splice(2000..2000, [7; 300]);
        assert_eq!(chunker.find_anchor(&longer, len, anchor), Some(len + 300));
        let mut shorter = data.clone();
        shorter.drain(1000..1100);
        assert_eq!(chunker.find_anchor(&shorter, len, anchor), Some(len - 100));
        data[len - 30] ^= 1;
        assert_eq!(chunker.find_anchor(&data, len, anchor), None);
        assert_eq!((chunker.anchor(&[0; 1000]), chunker.anchor(b"short")), (0, 0));
    }
}
