//! Parity of a pack, in an object of its own, from which the damaged parts of the pack are computed.
//!
//! The pack is cut into at most 1,024 shards, and one more is computed for every 32 (Reed-Solomon over GF(2^16) in the
//! basis of Lin, Al-Naffouri, Han and Chung, FOCS 2014). A short hash of each shard shows which are damaged, so each
//! computed shard replaces a damaged one: of a pack of 64 MiB any 32 shards of 64 KiB. The input is the stored,
//! encrypted pack, so no key is needed. Nothing here is trusted: the result is authenticated like any pack.

use crate::format::{
    Decoder, Encoder, FORMAT_VERSION, MAX_PACK_LEN, Malformed, PARITY_HASH_LEN, PARITY_HEADER_LEN,
    PARITY_MAGIC, PARITY_SHARDS, PARITY_SHARE,
};
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

/// Smallest shard in bytes: what a disk loses at once.
const LEAST_SHARD: usize = 4 << 10;
/// Shards are computed in strips of this many bytes, which bounds the memory: 1,056 strips instead of as many
/// shards. Equal to computing them whole, since every 64 bytes stand for themselves.
const STRIP: usize = 4 << 10;

/// Shape of a parity object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// Length of the pack in bytes.
    pack_len: usize,
    /// Length of a shard in bytes, a multiple of 64; the pack's last is filled up with zeros.
    shard_len: usize,
    /// Shards of the pack.
    data: usize,
    /// Computed shards.
    parity: usize,
}

impl Shape {
    fn of(pack_len: usize) -> Self {
        let shard_len = pack_len.div_ceil(PARITY_SHARDS).next_multiple_of(64).max(LEAST_SHARD);
        let data = pack_len.div_ceil(shard_len);
        // One of two shards would be lost with a single write that was torn across both.
        Self { pack_len, shard_len, data, parity: data.div_ceil(PARITY_SHARE).max(2).min(data) }
    }

    /// Length of header, hashes and the hash of both.
    fn front_len(&self) -> usize {
        PARITY_HEADER_LEN + (self.data + self.parity) * PARITY_HASH_LEN + 32
    }
}

/// Length in bytes of the parity of a pack of `pack_len` bytes.
#[must_use]
pub fn len_for(pack_len: u64) -> u64 {
    let shape = Shape::of(usize::try_from(pack_len).unwrap_or(usize::MAX / 2));
    (2 * shape.front_len() + shape.parity * shape.shard_len) as u64
}

/// BLAKE3 of a shard, filled up with zeros, cut short.
fn short_hash(shard: &[u8], shard_len: usize) -> [u8; PARITY_HASH_LEN] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(shard);
    let mut missing = shard_len - shard.len();
    while missing > 0 {
        let zeros = &[0; LEAST_SHARD][..missing.min(LEAST_SHARD)];
        hasher.update(zeros);
        missing -= zeros.len();
    }
    let mut short = [0; PARITY_HASH_LEN];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..PARITY_HASH_LEN]);
    short
}

/// The bytes of `shard` from `at`, `len` of them, with zeros where it ends before.
fn strip<'a>(shard: &'a [u8], at: usize, len: usize, padded: &'a mut Vec<u8>) -> &'a [u8] {
    let rest = shard.get(at..).unwrap_or_default();
    if let Some(whole) = rest.get(..len) {
        return whole;
    }
    padded.clear();
    padded.extend_from_slice(rest);
    padded.resize(len, 0);
    padded
}

/// Computes the parity object of a pack.
///
/// # Panics
/// Never for a pack of at most [`MAX_PACK_LEN`] bytes and at least one.
#[must_use]
pub fn encode(pack: &[u8]) -> Vec<u8> {
    let shape = Shape::of(pack.len());
    let mut shards = vec![0; shape.parity * shape.shard_len];
    let (mut encoder, mut padded) = (None::<ReedSolomonEncoder>, vec![]);
    for at in (0..shape.shard_len).step_by(STRIP) {
        let len = STRIP.min(shape.shard_len - at);
        let same =
            encoder.take().map(|mut encoder| encoder.reset(shape.data, shape.parity, len).map(|()| encoder));
        let fresh = || ReedSolomonEncoder::new(shape.data, shape.parity, len);
        let mut this = same.unwrap_or_else(fresh).expect("at most 1,056 shards of an even length");
        for shard in pack.chunks(shape.shard_len) {
            this.add_original_shard(strip(shard, at, len, &mut padded)).expect("as many as announced");
        }
        let computed = this.encode().expect("all shards are there");
        for (shard, computed) in shards.chunks_mut(shape.shard_len).zip(computed.recovery_iter()) {
            shard[at..at + len].copy_from_slice(computed);
        }
        drop(computed);
        encoder = Some(this);
    }
    let mut front = Encoder::default();
    front.raw(PARITY_MAGIC).u8(FORMAT_VERSION).raw(&[0; 3]).u64(pack.len() as u64);
    let narrow = |number: usize| u32::try_from(number).expect("shards are far below 4 GiB");
    front.u32(narrow(shape.shard_len)).u32(narrow(shape.parity));
    for shard in pack.chunks(shape.shard_len).chain(shards.chunks(shape.shard_len)) {
        front.raw(&short_hash(shard, shape.shard_len));
    }
    let hash = blake3::hash(&front.bytes);
    front.raw(hash.as_bytes());
    let mut object = Vec::with_capacity(2 * front.bytes.len() + shards.len());
    // Twice, at either end: without its front the rest is of no use.
    object.extend_from_slice(&front.bytes);
    object.extend_from_slice(&shards);
    object.extend_from_slice(&front.bytes);
    object
}

/// What stands in front of the shards, and behind them.
struct Front {
    shape: Shape,
    hashes: Vec<[u8; PARITY_HASH_LEN]>,
}

impl Front {
    /// Reads one that starts at `bytes`.
    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes, "parity");
        if decoder.raw(PARITY_MAGIC.len())? != PARITY_MAGIC {
            return Err(decoder.malformed("not a parity object"));
        }
        if decoder.u8()? != FORMAT_VERSION || decoder.raw(3)? != [0; 3] {
            return Err(decoder.malformed("unknown version"));
        }
        let pack_len = decoder.u64()?;
        if pack_len == 0 || pack_len > MAX_PACK_LEN {
            return Err(decoder.malformed("pack length out of range"));
        }
        let (shard_len, parity) = (decoder.u32()? as usize, decoder.u32()? as usize);
        let shape = Shape::of(usize::try_from(pack_len).map_err(|_| decoder.malformed("too large"))?);
        if (shard_len, parity) != (shape.shard_len, shape.parity) {
            return Err(decoder.malformed("another cut than its pack's length asks for"));
        }
        let hashes = (0..shape.data + shape.parity).map(|_| decoder.array()).collect::<Result<_, _>>()?;
        let hash: [u8; 32] = decoder.array()?;
        if blake3::hash(&bytes[..shape.front_len() - 32]) != hash {
            return Err(decoder.malformed("its hash does not match"));
        }
        Ok(Self { shape, hashes })
    }

    /// The first of the two that is sound, and the shards between them.
    fn find(object: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let first = Self::decode(object).map(|front| {
            let len = front.shape.front_len();
            (front, object.get(len..).unwrap_or_default())
        });
        first.or_else(|error| {
            // The length of the object tells where the second one starts, if it still has its length.
            let last = object.windows(PARITY_MAGIC.len()).rposition(|bytes| bytes == PARITY_MAGIC);
            let start = last.ok_or(error)?;
            let front = Self::decode(&object[start..])?;
            let shards = front.shape.parity * front.shape.shard_len;
            Ok((front, &object[start.saturating_sub(shards)..start]))
        })
    }
}

/// A reconstructed pack; it must be authenticated before it is used.
#[derive(Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Its bytes.
    pub pack: Vec<u8>,
    /// Shards of it that were damaged or missing.
    pub shards: usize,
    /// Bytes that one shard has.
    pub shard_len: usize,
}

/// Whether a parity object is sound, and that of a pack with these bytes. Costs a hash of both.
#[must_use]
pub fn matches(object: &[u8], pack: &[u8]) -> bool {
    let Ok((front, shards)) = Front::find(object) else { return false };
    let Shape { pack_len, shard_len, parity, .. } = front.shape;
    pack.len() == pack_len
        && object.len() == 2 * front.shape.front_len() + parity * shard_len
        && object[..front.shape.front_len()] == object[object.len() - front.shape.front_len()..]
        && pack
            .chunks(shard_len)
            .chain(shards[..(parity * shard_len).min(shards.len())].chunks(shard_len))
            .map(|shard| short_hash(shard, shard_len))
            .eq(front.hashes.iter().copied())
}

/// Reconstructs a pack from the parts of it and of its parity that could be read; the error says why that is
/// impossible.
pub fn recover(object: &[u8], pack: &[u8]) -> Result<Recovered, Malformed> {
    let (front, computed) = Front::find(object)?;
    let Shape { pack_len, shard_len, data, parity } = front.shape;
    let sound = |number: usize, shard: Option<&[u8]>, len: usize| {
        shard.is_some_and(|shard| shard.len() == len && short_hash(shard, shard_len) == front.hashes[number])
    };
    let shard_of = |number: usize| {
        let start = number * shard_len;
        let end = (start + shard_len).min(pack_len);
        (pack.get(start..end), end - start)
    };
    let lost: Vec<usize> = (0..data)
        .filter(|number| {
            let (shard, len) = shard_of(*number);
            !sound(*number, shard, len)
        })
        .collect();
    let mut whole = pack.get(..pack_len).map_or_else(|| pack.to_vec(), <[u8]>::to_vec);
    whole.resize(pack_len, 0);
    let spare: Vec<(usize, &[u8])> = (0..parity)
        .filter_map(|number| Some((number, computed.get(number * shard_len..(number + 1) * shard_len)?)))
        .filter(|(number, shard)| sound(data + number, Some(shard), shard_len))
        .take(lost.len())
        .collect();
    let unable = |why| Malformed { what: "parity", why };
    if lost.len() > spare.len() {
        return Err(unable("more is damaged than it makes up for"));
    }
    if lost.is_empty() {
        return Ok(Recovered { pack: whole, shards: 0, shard_len });
    }
    let failed = |_| unable("it cannot be computed with");
    let mut padded = vec![];
    for at in (0..shard_len).step_by(STRIP) {
        let len = STRIP.min(shard_len - at);
        let mut decoder = ReedSolomonDecoder::new(data, parity, len).map_err(failed)?;
        for number in (0..data).filter(|number| lost.binary_search(number).is_err()) {
            let shard = shard_of(number).0.unwrap_or_default();
            decoder.add_original_shard(number, strip(shard, at, len, &mut padded)).map_err(failed)?;
        }
        for (number, shard) in &spare {
            decoder.add_recovery_shard(*number, &shard[at..at + len]).map_err(failed)?;
        }
        let restored = decoder.decode().map_err(failed)?;
        for (number, strip) in restored.restored_original_iter() {
            let start = number * shard_len + at;
            let end = (start + len).min(pack_len);
            if let Some(place) = whole.get_mut(start..end) {
                place.copy_from_slice(&strip[..place.len()]);
            }
        }
    }
    Ok(Recovered { pack: whole, shards: lost.len(), shard_len })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&len.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Damages whole shards, then one more than can be made up for.
    #[test]
    fn as_many_shards_as_there_are_spare_ones() {
        for len in [1, 4096, 8192, 100_000, 1 << 20, (5 << 20) + 77] {
            let pack = noise(len);
            let object = encode(&pack);
            assert_eq!(object.len() as u64, len_for(len as u64));
            assert!(matches(&object, &pack));
            let shape = Shape::of(len);
            let mut damaged = pack.clone();
            for number in 0..shape.parity {
                // Spread, the last among them.
                let shard = shape.data - 1 - number * shape.data / shape.parity;
                damaged[shard * shape.shard_len] ^= 1;
                assert!(!matches(&object, &damaged));
            }
            let recovered = recover(&object, &damaged).unwrap();
            assert_eq!((recovered.pack, recovered.shards), (pack.clone(), shape.parity), "{len}");
            if shape.parity < shape.data {
                damaged.truncate(damaged.len().saturating_sub((shape.parity + 1) * shape.shard_len));
                assert!(recover(&object, &damaged).is_err());
                let cut = &pack[..len - (shape.parity - 1) * shape.shard_len];
                assert_eq!(recover(&object, cut).unwrap().pack, pack);
            }
            let longer = [&pack[..], b"more"].concat();
            assert_eq!(recover(&object, &longer).unwrap().pack, pack);
        }
    }

    #[test]
    fn either_front_is_enough_and_damaged_parity_is_left_out() {
        let pack = noise(200_000);
        let object = encode(&pack);
        let shape = Shape::of(pack.len());
        let mut hurt = pack.clone();
        hurt[5000] ^= 4;
        for at in [0, 9, 30, object.len() - 1, object.len() - 40] {
            let mut object = object.clone();
            object[at] ^= 1;
            assert!(!matches(&object, &pack));
            assert_eq!(recover(&object, &hurt).unwrap().pack, pack, "byte {at}");
        }
        let mut object = object;
        object[shape.front_len()] ^= 1;
        assert_eq!(recover(&object, &hurt).unwrap().pack, pack);
        for shard in 0..shape.parity {
            object[shape.front_len() + shard * shape.shard_len + 7] ^= 1;
        }
        assert!(recover(&object, &hurt).is_err());
        assert!(recover(&object[..shape.front_len() - 1], &hurt).is_err());
    }

    /// The pack of 64 MiB that the documents speak of.
    #[test]
    fn a_pack_of_the_usual_size_costs_little() {
        let shape = Shape::of(64 << 20);
        assert_eq!((shape.data, shape.parity, shape.shard_len), (1024, 32, 64 << 10));
        assert!(len_for(64 << 20) * 100 < (64 << 20) * 32 / 10);
    }
}
