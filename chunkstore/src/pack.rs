//! Layout of a pack in memory: header, sealed chunks, encrypted directory, trailer. Pure: no I/O.
//!
//! A builder is filled, then sealed exactly once into bytes that never change; whoever uploads may
//! retry with those same bytes. Pack ids are random, so a key and a nonce never meet twice.

use crate::aead::counter_nonce;
use crate::bases::Prefix;
use crate::format::{
    Codec, Decoder, Encoder, FORMAT_VERSION, KeyMethod, MAX_BASES, MAX_CHUNK_LEN, MAX_DEPTH,
    MAX_DIRECTORY_LEN, MAX_PACK_LEN, Malformed, PACK_END_MAGIC, PACK_HEADER_LEN, PACK_MAGIC,
    PACK_TRAILER_LEN, PackKind, TAG_LEN, names, padded_len,
};
use crate::id::{ChunkId, PackId, RepositoryId, SessionId};
use crate::keys::{CommittedKey, KeyRing};
use crate::rope::Rope;
use crate::seal::Decompressor;
use crate::{Error, Result, error::InObject as _};

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
    /// 0 for a chunk that stands on its own; otherwise more than its deepest base.
    pub depth: u8,
    /// 0 for a chunk that stands on its own; otherwise how many versions ago it did, at most.
    pub generation: u8,
    /// Fingerprint of its last bytes, by which a later version of it is recognised; 0 for none.
    pub anchor: u64,
    /// The base chunks of a delta, in the order of the prefix.
    pub bases: Vec<ChunkId>,
}

/// Fixed part of an encoded [`Record`].
const RECORD_LEN: usize = 32 + 4 + 4 + 4 + 1 + 1 + 1 + 1 + 8;

impl Record {
    /// A chunk that stands on its own; [`PackBuilder::push`] gives it its place.
    #[must_use]
    pub fn full(id: ChunkId, plain_len: u32, anchor: u64, codec: Codec) -> Self {
        let (ordinal, offset, stored_len) = (0, 0, 0);
        let (depth, generation, bases) = (0, 0, vec![]);
        Self { id, ordinal, offset, stored_len, plain_len, codec, depth, generation, anchor, bases }
    }

    /// A chunk that is compressed against others; [`PackBuilder::push`] gives it its place.
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

    /// Where its sealed bytes lie in a pack that is in memory; `None` where memory cannot hold one.
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

/// What names a pack and its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackName {
    /// The session that wrote it.
    pub session: SessionId,
    /// Its random id.
    pub id: PackId,
    /// What it holds.
    pub kind: PackKind,
    /// The key epoch it is sealed under.
    pub epoch: u32,
}

impl PackName {
    /// Name of the object.
    #[must_use]
    pub fn object(&self) -> String {
        names::pack(&self.session, &self.id)
    }

    /// Name of the object with its parity.
    #[must_use]
    pub fn parity(&self) -> String {
        names::parity(&self.session, &self.id)
    }

    fn key(&self, keys: &KeyRing) -> Result<CommittedKey> {
        keys.pack_key(self.kind, self.epoch, &self.id).ok_or_else(|| {
            Error::corrupt(self.object(), format!("sealed under unknown key epoch {}", self.epoch))
        })
    }

    fn header(&self, commitment: &[u8; 32]) -> Vec<u8> {
        let mut out = Encoder::default();
        out.raw(PACK_MAGIC).u8(FORMAT_VERSION).u8(self.kind as u8).u8(KeyMethod::Derived as u8).u8(0);
        out.u32(self.epoch).raw(self.session.as_bytes()).raw(self.id.as_bytes()).raw(commitment);
        out.bytes
    }

    /// What is authenticated with a chunk: everything that says what and where it is.
    fn chunk_aad(&self, repository: &RepositoryId, record: &Record) -> Vec<u8> {
        let mut aad = Encoder { bytes: Vec::with_capacity(160) };
        aad.raw(b"chunk").u8(FORMAT_VERSION).raw(repository.as_bytes()).raw(self.session.as_bytes());
        aad.raw(self.id.as_bytes()).u8(self.kind as u8).u32(record.ordinal);
        record.encode(&mut aad);
        aad.bytes
    }

    fn directory_aad(&self, repository: &RepositoryId, header: &[u8], pack_len: u64, offset: u64) -> Vec<u8> {
        let mut aad = Encoder::default();
        aad.raw(b"directory").u8(FORMAT_VERSION).raw(repository.as_bytes()).raw(header);
        aad.u64(pack_len).u64(offset);
        aad.bytes
    }
}

/// The directory's nonce; chunks count up from 0 and never reach it.
const DIRECTORY_ORDINAL: u64 = u64::MAX;

/// A pack being filled. Holds compressed plaintext until [`PackBuilder::seal`].
pub struct PackBuilder {
    name: PackName,
    buffer: Vec<u8>,
    records: Vec<Record>,
    /// Length of the records, encoded.
    directory_len: usize,
}

/// A finished pack: bytes to upload, and what they hold.
#[derive(Debug)]
pub struct SealedPack {
    /// Its name.
    pub name: PackName,
    /// The object's bytes.
    pub bytes: Vec<u8>,
    /// Its chunks.
    pub records: Vec<Record>,
}

impl PackBuilder {
    /// Starts a pack in `buffer`, whose capacity is reused.
    #[must_use]
    pub fn new(name: PackName, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.resize(PACK_HEADER_LEN, 0);
        Self { name, buffer, records: vec![], directory_len: 0 }
    }

    /// Adds a compressed chunk: what `record` says of it holds, but for its place, which is decided here.
    ///
    /// # Panics
    /// If the pack passes 4 GiB; callers seal it far earlier.
    pub fn push(&mut self, record: Record, frame: &[u8]) {
        let narrow = |len: usize| u32::try_from(len).expect("packs are sealed far below 4 GiB");
        let (ordinal, offset) = (narrow(self.records.len()), narrow(self.buffer.len()));
        self.directory_len += record.encoded_len();
        self.buffer.extend_from_slice(frame);
        self.buffer.extend_from_slice(&[0; TAG_LEN]);
        self.records.push(Record { ordinal, offset, stored_len: narrow(frame.len() + TAG_LEN), ..record });
    }

    /// Whether the sealed pack, without its padding, stays within `most` bytes with one chunk more. An
    /// empty one takes any chunk.
    #[must_use]
    pub fn fits(&self, record: &Record, frame_len: usize, most: usize) -> bool {
        let chunks = self.buffer.len() + frame_len + TAG_LEN;
        let directory = 8 + self.directory_len + record.encoded_len() + TAG_LEN;
        self.is_empty() || chunks + directory + PACK_TRAILER_LEN <= most
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether no chunk was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Encrypts every chunk in place, appends the directory with its padding, and the trailer.
    pub fn seal(self, keys: &KeyRing) -> Result<SealedPack> {
        let Self { name, mut buffer, records, .. } = self;
        let key = name.key(keys)?;
        let header = name.header(&key.commitment);
        buffer[..PACK_HEADER_LEN].copy_from_slice(&header);
        for record in &records {
            let sealed = &mut buffer[record.offset as usize..record.end() as usize];
            let (frame, tag) = sealed.split_at_mut(record.stored_len as usize - TAG_LEN);
            let aad = name.chunk_aad(keys.repository(), record);
            tag.copy_from_slice(&key.cipher.seal(counter_nonce(u64::from(record.ordinal)), &aad, frame));
        }
        let mut directory = Encoder::default();
        directory.u32(u32::try_from(records.len()).expect("ordinals are u32"));
        directory.u32(0); // length of extension fields, none in version 1
        records.iter().for_each(|record| record.encode(&mut directory));
        let mut directory = directory.bytes;
        let bare = buffer.len() + directory.len() + TAG_LEN + PACK_TRAILER_LEN;
        let pack_len = padded_len(bare as u64);
        // Padding lies inside the directory, encrypted and authenticated like the rest.
        directory.resize(directory.len() + (pack_len as usize - bare), 0);
        let offset = buffer.len() as u64;
        let aad = name.directory_aad(keys.repository(), &header, pack_len, offset);
        let tag = key.cipher.seal(counter_nonce(DIRECTORY_ORDINAL), &aad, &mut directory);
        buffer.extend_from_slice(&directory);
        buffer.extend_from_slice(&tag);
        buffer.extend_from_slice(&offset.to_le_bytes());
        buffer.extend_from_slice(PACK_END_MAGIC);
        debug_assert_eq!(buffer.len() as u64, pack_len);
        Ok(SealedPack { name, bytes: buffer, records })
    }
}

/// Opens chunks of one pack.
pub struct PackReader {
    name: PackName,
    repository: RepositoryId,
    key: CommittedKey,
}

impl PackReader {
    /// Derives the pack's key.
    pub fn new(name: PackName, keys: &KeyRing) -> Result<Self> {
        Ok(Self { key: name.key(keys)?, name, repository: *keys.repository() })
    }

    /// Decrypts one sealed chunk and leaves it compressed; for moving it into another pack.
    pub fn open_frame(&self, record: &Record, sealed: &[u8]) -> Result<Vec<u8>> {
        let mut frame = vec![];
        self.open_frame_into(record, sealed, &mut frame)?;
        Ok(frame)
    }

    fn open_frame_into(&self, record: &Record, sealed: &[u8], frame: &mut Vec<u8>) -> Result<()> {
        let damaged = |why: &dyn std::fmt::Display| self.damaged(record, why);
        let (body, tag) = sealed
            .len()
            .checked_sub(TAG_LEN)
            .and_then(|len| sealed.split_at_checked(len))
            .ok_or_else(|| damaged(&"shorter than its tag"))?;
        frame.clear();
        frame.extend_from_slice(body);
        let aad = self.name.chunk_aad(&self.repository, record);
        self.key
            .cipher
            .open(counter_nonce(u64::from(record.ordinal)), &aad, frame, tag)
            .map_err(|error| damaged(&error))
    }

    fn damaged(&self, record: &Record, why: &dyn std::fmt::Display) -> Error {
        Error::corrupt(self.name.object(), format!("chunk {}: {why}", record.id.short()))
    }

    /// Opens one sealed chunk and checks that it is the one that was asked for. `prefix` is the
    /// concatenation of a delta's bases, and empty for a chunk that stands on its own.
    pub fn open(
        &self,
        keys: &KeyRing,
        record: &Record,
        sealed: &[u8],
        prefix: &[u8],
        decompressor: &mut Decompressor,
    ) -> Result<Vec<u8>> {
        let plain = self.open_unnamed(record, sealed, prefix, decompressor)?;
        self.check_id(keys, record, &plain)?;
        Ok(plain)
    }

    /// As [`PackReader::open`], but leaves it to the caller to check the id: of a base chunk that is only
    /// a step on the way, the chunk at the end of the way is checked.
    pub fn open_unnamed(
        &self,
        record: &Record,
        sealed: &[u8],
        prefix: &[u8],
        decompressor: &mut Decompressor,
    ) -> Result<Vec<u8>> {
        let mut plain = vec![];
        self.open_into(record, sealed, prefix, decompressor, &mut plain)?;
        Ok(plain)
    }

    /// As [`PackReader::open_unnamed`], into a buffer that is reused.
    pub fn open_into(
        &self,
        record: &Record,
        sealed: &[u8],
        prefix: &[u8],
        decompressor: &mut Decompressor,
        plain: &mut Vec<u8>,
    ) -> Result<()> {
        let mut frame = std::mem::take(&mut decompressor.frame);
        let opened = self.open_frame_into(record, sealed, &mut frame).and_then(|()| {
            let len = record.plain_len as usize;
            decompressor
                .decompress_into(record.codec, &frame, prefix, len, plain)
                .map_err(|why| self.damaged(record, &why))
        });
        decompressor.frame = frame;
        opened
    }

    /// As [`PackReader::open_unnamed`], from bases that may be made of others, in a buffer that is reused.
    pub fn open_rope(
        &self,
        record: &Record,
        sealed: &[u8],
        bases: &Rope,
        decompressor: &mut Decompressor,
        buffer: Vec<u8>,
    ) -> Result<Rope> {
        let mut frame = std::mem::take(&mut decompressor.frame);
        let opened = self.open_frame_into(record, sealed, &mut frame).and_then(|()| {
            let len = record.plain_len as usize;
            decompressor
                .decompress_rope(record.codec, &frame, bases, len, buffer)
                .map_err(|why| self.damaged(record, &why))
        });
        decompressor.frame = frame;
        opened
    }

    /// Checks that a plaintext is the chunk that was asked for.
    pub fn check_id(&self, keys: &KeyRing, record: &Record, plain: &[u8]) -> Result<()> {
        if keys.chunk_id(plain) == record.id {
            Ok(())
        } else {
            Err(self.damaged(record, &"content does not have this id"))
        }
    }

    /// Where the directory starts, from the pack's last [`PACK_TRAILER_LEN`] bytes.
    pub fn directory_offset(name: &str, trailer: &[u8], pack_len: u64) -> Result<u64> {
        let mut decoder = Decoder::new(trailer, "pack trailer");
        let offset = decoder.u64().in_object(name)?;
        if decoder.array::<8>().in_object(name)? != *PACK_END_MAGIC {
            return Err(Error::corrupt(name, "does not end as a pack does"));
        }
        let end = pack_len.saturating_sub((PACK_TRAILER_LEN + TAG_LEN) as u64);
        if offset < PACK_HEADER_LEN as u64
            || offset > end
            || end - offset > MAX_DIRECTORY_LEN
            || pack_len > MAX_PACK_LEN
        {
            return Err(Error::corrupt(name, "directory outside its limits"));
        }
        Ok(offset)
    }

    /// Opens the directory: `sealed` runs from the directory's offset to the trailer.
    pub fn open_directory(&self, sealed: &[u8], offset: u64, pack_len: u64) -> Result<Vec<Record>> {
        let name = self.name.object();
        let (body, tag) = sealed
            .len()
            .checked_sub(TAG_LEN)
            .and_then(|len| sealed.split_at_checked(len))
            .ok_or_else(|| Error::corrupt(&name, "directory shorter than its tag"))?;
        let mut body = body.to_vec();
        let header = self.name.header(&self.key.commitment);
        let aad = self.name.directory_aad(&self.repository, &header, pack_len, offset);
        self.key
            .cipher
            .open(counter_nonce(DIRECTORY_ORDINAL), &aad, &mut body, tag)
            .map_err(|error| Error::corrupt(&name, format!("directory: {error}")))?;
        decode_directory(&body, offset).in_object(&name)
    }

    /// Compares a pack's header with the one that its name and key demand.
    pub fn check_header(&self, header: &[u8]) -> Result<()> {
        if header == self.name.header(&self.key.commitment) {
            Ok(())
        } else {
            Err(Error::corrupt(self.name.object(), "header is not the one that was written"))
        }
    }
}

/// Reads kind and epoch out of a header found in the store, where only the name is known.
pub fn read_header(session: SessionId, id: PackId, header: &[u8]) -> Result<PackName> {
    let object = names::pack(&session, &id);
    let mut decoder = Decoder::new(header, "pack header");
    if decoder.array::<8>().in_object(&object)? != *PACK_MAGIC {
        return Err(Error::corrupt(object, "not a pack"));
    }
    let version = decoder.u8().in_object(&object)?;
    if version != FORMAT_VERSION {
        return Err(Error::Unsupported { why: format!("{object} has format version {version}") });
    }
    let kind = PackKind::from_byte(decoder.u8().in_object(&object)?)
        .ok_or_else(|| Error::corrupt(&object, "pack of unknown kind"))?;
    if decoder.u8().in_object(&object)? != KeyMethod::Derived as u8 {
        return Err(Error::Unsupported { why: format!("{object} is sealed to a recipient") });
    }
    decoder.u8().in_object(&object)?;
    let epoch = decoder.u32().in_object(&object)?;
    Ok(PackName { session, id, kind, epoch })
}

/// Decodes a decrypted directory whose chunks must lie back to back between header and `end`.
pub fn decode_directory(body: &[u8], end: u64) -> Result<Vec<Record>, Malformed> {
    let mut decoder = Decoder::new(body, "pack directory");
    let count = decoder.u32()?;
    decoder.var(MAX_DIRECTORY_LEN as usize)?;
    if count as usize > decoder.remaining() / RECORD_LEN {
        return Err(decoder.malformed("more chunks than bytes for them"));
    }
    let mut expected = PACK_HEADER_LEN as u64;
    let mut records = Vec::with_capacity(count as usize);
    for ordinal in 0..count {
        let record = Record::decode(&mut decoder, ordinal)?;
        if u64::from(record.offset) != expected {
            return Err(decoder.malformed("chunks do not lie back to back"));
        }
        expected = record.end();
        records.push(record);
    }
    if expected != end {
        return Err(decoder.malformed("chunks do not end where the directory starts"));
    }
    let padding = decoder.raw(decoder.remaining())?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(decoder.malformed("padding is not zero"));
    }
    Ok(records)
}

/// Opens header and directory of a whole pack, and trusts neither.
pub fn read_directory(name: PackName, keys: &KeyRing, bytes: &[u8]) -> Result<(PackReader, Vec<Record>)> {
    let object = name.object();
    let reader = PackReader::new(name, keys)?;
    let short = || Error::corrupt(&object, "shorter than a pack can be");
    reader.check_header(bytes.get(..PACK_HEADER_LEN).ok_or_else(short)?)?;
    let body_end = bytes.len().checked_sub(PACK_TRAILER_LEN).ok_or_else(short)?;
    let offset = PackReader::directory_offset(&object, &bytes[body_end..], bytes.len() as u64)?;
    let sealed = bytes.get(offset as usize..body_end).ok_or_else(short)?;
    let records = reader.open_directory(sealed, offset, bytes.len() as u64)?;
    Ok((reader, records))
}

/// Reads a whole pack and trusts nothing: header, directory, each chunk's tag, length and id. `prefix`
/// finds the bases of deltas; `None` for one whose bases are gone, of which no more than the tag can be
/// checked.
pub fn verify(
    name: PackName,
    keys: &KeyRing,
    bytes: &[u8],
    prefix: &mut dyn FnMut(&Record) -> Result<Option<Prefix>>,
) -> Result<Vec<Record>> {
    let (reader, records) = read_directory(name, keys, bytes)?;
    let mut decompressor = Decompressor::new()?;
    for record in &records {
        let sealed = record.range().and_then(|range| bytes.get(range));
        let sealed =
            sealed.ok_or_else(|| Error::corrupt(name.object(), "shorter than its directory says"))?;
        match prefix(record)? {
            Some(prefix) => {
                reader.open(keys, record, sealed, prefix.bytes(), &mut decompressor)?;
            }
            None => {
                reader.open_frame(record, sealed)?;
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEnv;

    fn sample(keys: &KeyRing) -> SealedPack {
        let name =
            PackName { session: SessionId([1; 16]), id: PackId([2; 32]), kind: PackKind::Data, epoch: 1 };
        let mut builder = PackBuilder::new(name, vec![]);
        for plain in [&b"one"[..], b"two two", b""] {
            builder.push(Record::full(keys.chunk_id(plain), plain.len() as u32, 7, Codec::Raw), plain);
        }
        builder.seal(keys).unwrap()
    }

    #[test]
    fn every_byte_and_every_length_is_checked() {
        let keys = KeyRing::generate(RepositoryId([1; 16]), &SeededEnv::new(1)).unwrap();
        let pack = sample(&keys);
        let verify = |name, bytes: &[u8]| super::verify(name, &keys, bytes, &mut |_| Ok(Some(Prefix::Empty)));
        assert_eq!(verify(pack.name, &pack.bytes).unwrap(), pack.records);
        assert!(pack.bytes.len().is_multiple_of(4096));
        let mut bytes = pack.bytes.clone();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(verify(pack.name, &bytes).is_err(), "byte {at}");
            bytes[at] ^= 1;
        }
        for len in (0..bytes.len()).step_by(7) {
            assert!(verify(pack.name, &bytes[..len]).is_err(), "cut at {len}");
        }
        for other in [
            PackName { session: SessionId([9; 16]), ..pack.name },
            PackName { id: PackId([9; 32]), ..pack.name },
            PackName { kind: PackKind::Metadata, ..pack.name },
        ] {
            assert!(verify(other, &bytes).is_err());
        }
    }
}
