//! The description of one chunk in a pack's directory and in an index segment.

use crate::format::{
    Codec, Decoder, Encoder, MAX_BASES, MAX_CHUNK_LEN, MAX_DEPTH, Malformed, PACK_HEADER_LEN, TAG_LEN,
};
use crate::id::ChunkId;

/// One chunk as a pack's directory and an index segment describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Keyed hash of the plaintext.
    pub id: ChunkId,
    /// Its number in the pack, from 0; the nonce.
    pub ordinal: u32,
    /// Where its sealed bytes start.
    pub offset: u32,
    /// Length of the sealed bytes, tag included.
    pub stored_len: u32,
    /// Length of the plaintext.
    pub plain_len: u32,
    /// How it is stored.
    pub codec: Codec,
    /// 0 for a full chunk; otherwise more than the depth of its deepest base.
    pub depth: u8,
    /// 0 for a full chunk; otherwise the number of versions since a full one, at most.
    pub generation: u8,
    /// Fingerprint of its last bytes, by which a later version of it is recognised; 0 for none.
    pub anchor: u64,
    /// The base chunks of a delta, in the order of the prefix.
    pub bases: Vec<ChunkId>,
}

/// Fixed part of an encoded [`Record`].
pub(super) const RECORD_LEN: usize = 32 + 4 + 4 + 4 + 1 + 1 + 1 + 1 + 8;

impl Record {
    /// A full chunk; [`super::PackBuilder::push`] sets its position.
    #[must_use]
    pub fn full(id: ChunkId, plain_len: u32, anchor: u64, codec: Codec) -> Self {
        let (ordinal, offset, stored_len) = (0, 0, 0);
        let (depth, generation, bases) = (0, 0, vec![]);
        Self { id, ordinal, offset, stored_len, plain_len, codec, depth, generation, anchor, bases }
    }

    /// A chunk that is compressed against others; [`super::PackBuilder::push`] sets its position.
    #[must_use]
    pub fn delta(
        id: ChunkId,
        plain_len: u32,
        anchor: u64,
        codec: Codec,
        depth: u8,
        generation: u8,
        bases: Vec<ChunkId>,
    ) -> Self {
        Self { depth, generation, bases, ..Self::full(id, plain_len, anchor, codec) }
    }

    /// Bytes that [`Record::encode`] appends.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        RECORD_LEN + self.bases.len() * ChunkId::LEN
    }

    /// Whether other chunks are needed to read it.
    #[must_use]
    pub fn is_delta(&self) -> bool {
        !self.bases.is_empty()
    }

    /// Appends everything but the ordinal, which is the position in the list.
    pub fn encode(&self, out: &mut Encoder) {
        out.raw(self.id.as_bytes()).u32(self.offset).u32(self.stored_len).u32(self.plain_len);
        out.u8(self.codec as u8).u8(self.depth);
        out.u8(u8::try_from(self.bases.len()).expect("at most four bases")).u8(self.generation);
        out.u64(self.anchor);
        for base in &self.bases {
            out.raw(base.as_bytes());
        }
    }

    /// Reads one record and checks that it could exist.
    pub fn decode(decoder: &mut Decoder<'_>, ordinal: u32) -> Result<Self, Malformed> {
        let id = ChunkId(decoder.array()?);
        let (offset, stored_len, plain_len) = (decoder.u32()?, decoder.u32()?, decoder.u32()?);
        let codec = Codec::from_byte(decoder.u8()?).ok_or_else(|| decoder.malformed("unknown codec"))?;
        let depth = decoder.u8()?;
        let base_count = usize::from(decoder.u8()?);
        let generation = decoder.u8()?;
        let anchor = decoder.u64()?;
        if plain_len as usize > MAX_CHUNK_LEN || stored_len as usize > MAX_CHUNK_LEN + TAG_LEN {
            return Err(decoder.malformed("chunk over the size limit"));
        }
        if (stored_len as usize) < TAG_LEN || (offset as usize) < PACK_HEADER_LEN {
            return Err(decoder.malformed("chunk outside the pack's body"));
        }
        let delta = codec.is_delta();
        if base_count > MAX_BASES
            || depth > MAX_DEPTH
            || [base_count > 0, depth > 0, generation > 0].iter().any(|has| *has != delta)
        {
            return Err(decoder.malformed("bases do not fit the codec"));
        }
        let bases = (0..base_count).map(|_| decoder.array().map(ChunkId)).collect::<Result<_, _>>()?;
        Ok(Self { id, ordinal, offset, stored_len, plain_len, codec, depth, generation, anchor, bases })
    }

    /// The range of its sealed bytes in a pack that is in memory; `None` if memory cannot hold one.
    #[must_use]
    pub fn range(&self) -> Option<std::ops::Range<usize>> {
        Some(usize::try_from(self.offset).ok()?..usize::try_from(self.end()).ok()?)
    }

    /// First byte after the sealed chunk.
    #[must_use]
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.stored_len)
    }
}
