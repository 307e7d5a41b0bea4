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

/// Chunk sizes in bytes; all powers of two, so that no version of the algorithm rounds differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkerParams {
    /// No chunk but a stream's last is smaller.
    pub min_len: u32,
    /// Where the strict mask gives way to the relaxed one: the expected size.
    pub avg_len: u32,
    /// No chunk is larger.
    pub max_len: u32,
    /// Normalization level, 0 to 3: how many mask bits strict and relaxed lie from the average.
    pub normalization: u32,
}

impl Default for ChunkerParams {
    /// 128 KiB: small enough to find unchanged pages of a database, large enough to compress.
    fn default() -> Self {
        Self::around(128 << 10)
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

    #[inline(always)]
    fn scan(&self, window: &[u8], from: usize, to: usize, mask: u64, hash: &mut u64) -> Option<usize> {
        let mut fingerprint = *hash;
        for (offset, byte) in window.get(from..to)?.iter().enumerate() {
            fingerprint = (fingerprint << 1).wrapping_add(self.gear[*byte as usize]);
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
}
