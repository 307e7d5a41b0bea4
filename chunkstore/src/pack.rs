//! Layout of a pack in memory: header, sealed chunks, encrypted directory, trailer. Pure: no I/O.
//!
//! A builder is filled, then sealed exactly once into bytes that never change; an upload may be retried with those same
//! bytes. Pack ids are random, so no pair of key and nonce repeats.

use crate::aead::counter_nonce;
use crate::format::{
    Encoder, FORMAT_VERSION, KeyMethod, PACK_END_MAGIC, PACK_HEADER_LEN, PACK_MAGIC, PACK_TRAILER_LEN,
    PackKind, TAG_LEN, names, padded_len,
};
use crate::id::{PackId, RepositoryId, SessionId};
use crate::keys::{CommittedKey, KeyRing};
use crate::{Error, Result};

mod reader;
mod record;
pub use reader::{PackReader, decode_directory, read_directory, read_header, verify};
use record::RECORD_LEN;
pub use record::Record;

/// What names a pack and its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackName {
    /// The session that wrote it.
    pub session: SessionId,
    /// Its random id.
    pub id: PackId,
    /// Kind of its chunks.
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
        keys.pack_key(self.kind, self.epoch, &self.id)
    }

    fn header(&self, commitment: &[u8; 32]) -> Vec<u8> {
        let mut out = Encoder::default();
        out.raw(PACK_MAGIC).u8(FORMAT_VERSION).u8(self.kind as u8).u8(KeyMethod::Derived as u8).u8(0);
        out.u32(self.epoch).raw(self.session.as_bytes()).raw(self.id.as_bytes()).raw(commitment);
        out.bytes
    }

    /// The associated data of a chunk: its identity and position.
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

/// Most chunks in one pack that this code writes: tiny ones are bounded by their number. Their records take more memory
/// than their bytes do, and a directory must be one that is read ([`crate::format::MAX_DIRECTORY_LEN`]).
const MOST_CHUNKS: usize = 1 << 16;

/// The directory's nonce; chunks count up from 0 and never reach it.
const DIRECTORY_ORDINAL: u64 = u64::MAX;

/// A pack being filled. Holds compressed plaintext until [`PackBuilder::seal`].
#[derive(Clone)]
pub struct PackBuilder {
    name: PackName,
    buffer: Vec<u8>,
    records: Vec<Record>,
    /// Length of the records, encoded.
    directory_len: usize,
}

/// A finished pack: bytes to upload, and its content.
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

    /// Length of the object that it will be.
    pub(crate) fn sealed_len(&self) -> u64 {
        let directory = 4 + 4 + self.directory_len + TAG_LEN;
        padded_len((self.buffer.len() + directory + PACK_TRAILER_LEN) as u64)
    }

    /// What it is called.
    pub(crate) fn name(&self) -> PackName {
        self.name
    }

    /// The kind of its chunks.
    pub(crate) fn kind(&self) -> PackKind {
        self.name.kind
    }

    /// The same, to be sealed under another epoch.
    pub(crate) fn under(mut self, epoch: u32) -> Self {
        self.name.epoch = epoch;
        self
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

    /// Whether the sealed pack, without its padding, stays within `most` bytes with one chunk more, and holds no more
    /// than 65,536 chunks. An empty one takes any chunk.
    #[must_use]
    pub fn fits(&self, record: &Record, frame_len: usize, most: usize) -> bool {
        let chunks = self.buffer.len() + frame_len + TAG_LEN;
        let directory = 8 + self.directory_len + record.encoded_len() + TAG_LEN;
        let fits = chunks + directory + PACK_TRAILER_LEN <= most && self.records.len() < MOST_CHUNKS;
        self.is_empty() || fits
    }

    /// Number of bytes so far.
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
        let key = name.key(keys).map_err(|error| match error {
            // This run began before the rotation, and was taken for dead.
            Error::RetiredEpoch { epoch } => Error::Fenced {
                why: format!("the data key of epoch {epoch} was retired meanwhile; run it again"),
            },
            error => error,
        })?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bases::Prefix;
    use crate::env::SeededEnv;
    use crate::format::{Codec, MAX_BASES, MAX_DIRECTORY_LEN};

    fn sample(keys: &KeyRing) -> SealedPack {
        let name =
            PackName { session: SessionId([1; 16]), id: PackId([2; 32]), kind: PackKind::Data, epoch: 1 };
        let mut builder = PackBuilder::new(name, vec![]);
        for plain in [&b"one"[..], b"two two", b""] {
            builder.push(Record::full(keys.chunk_id(plain), plain.len() as u32, 7, Codec::Raw), plain);
        }
        builder.seal(keys).unwrap()
    }

    /// As many chunks as fit, and not one more: the sealed pack is as long as was allowed, or shorter by less than
    /// a chunk.
    #[test]
    fn packs_stay_within_their_size() {
        let keys = KeyRing::generate(RepositoryId([1; 16]), &SeededEnv::new(1)).unwrap();
        let name =
            PackName { session: SessionId([1; 16]), id: PackId([2; 32]), kind: PackKind::Data, epoch: 1 };
        let frame = [7; 300];
        let record = || Record::full(keys.chunk_id(&frame), frame.len() as u32, 0, Codec::Raw);
        let bare = |chunks: usize| {
            PACK_HEADER_LEN
                + chunks * (frame.len() + TAG_LEN)
                + 8
                + chunks * record().encoded_len()
                + TAG_LEN
                + PACK_TRAILER_LEN
        };
        for most in [4096, 10_000, 65_536] {
            let mut builder = PackBuilder::new(name, vec![]);
            let mut chunks = 0;
            while builder.fits(&record(), frame.len(), most) {
                builder.push(record(), &frame);
                chunks += 1;
            }
            assert!(bare(chunks) <= most && bare(chunks + 1) > most, "{chunks} in {most}");
            let sealed = builder.seal(&keys).unwrap();
            assert_eq!(sealed.bytes.len() as u64, padded_len(bare(chunks) as u64));
        }
        assert!(PackBuilder::new(name, vec![]).fits(&record(), frame.len(), 1), "an empty one takes any");
    }

    #[test]
    fn tiny_chunks_are_bounded_by_their_number() {
        let keys = KeyRing::generate(RepositoryId([1; 16]), &SeededEnv::new(1)).unwrap();
        let name =
            PackName { session: SessionId([1; 16]), id: PackId([2; 32]), kind: PackKind::Data, epoch: 1 };
        let mut builder = PackBuilder::new(name, vec![]);
        let record = |number: usize| Record {
            bases: vec![keys.chunk_id(b"base"); MAX_BASES],
            ..Record::full(keys.chunk_id(&number.to_le_bytes()), 1, 0, Codec::Raw)
        };
        let mut chunks = 0;
        while builder.fits(&record(chunks), 1, 256 << 20) {
            builder.push(record(chunks), &[1]);
            chunks += 1;
        }
        assert_eq!(chunks, MOST_CHUNKS);
        // With as many bases as a chunk may have.
        assert!(builder.directory_len as u64 <= MAX_DIRECTORY_LEN, "{}", builder.directory_len);
    }

    #[test]
    fn a_header_says_what_pack_it_is() {
        let keys = KeyRing::generate(RepositoryId([1; 16]), &SeededEnv::new(1)).unwrap();
        let pack = sample(&keys);
        let header = &pack.bytes[..PACK_HEADER_LEN];
        let (session, id) = (pack.name.session, pack.name.id);
        assert_eq!(read_header(session, id, header).unwrap(), pack.name);
        for (at, value) in [(0, b'x'), (8, 2), (9, 3), (10, 2)] {
            let mut other = header.to_vec();
            other[at] = value;
            assert!(read_header(session, id, &other).is_err(), "byte {at}");
        }
        assert!(read_header(session, id, &header[..12]).is_err());
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
