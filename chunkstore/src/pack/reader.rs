//! Reading packs: chunk by chunk, by their directory, and as a whole. No data of a pack is used before its tag was
//! checked.

use super::{DIRECTORY_ORDINAL, PackName, RECORD_LEN, Record};
use crate::aead::counter_nonce;
use crate::bases::Prefix;
use crate::format::{
    Decoder, FORMAT_VERSION, KeyMethod, MAX_DIRECTORY_LEN, MAX_PACK_LEN, Malformed, PACK_END_MAGIC,
    PACK_HEADER_LEN, PACK_MAGIC, PACK_TRAILER_LEN, PackKind, TAG_LEN, names,
};
use crate::id::{PackId, RepositoryId, SessionId};
use crate::keys::{CommittedKey, KeyRing};
use crate::rope::Rope;
use crate::seal::{self, Decompressor};
use crate::{Error, Result, error::InObject as _, memory};

/// Opens chunks of one pack.
pub struct PackReader {
    name: PackName,
    repository: RepositoryId,
    key: CommittedKey,
}

impl PackReader {
    /// Derives the pack's key.
    pub fn new(name: PackName, keys: &KeyRing) -> Result<Self> {
        let key = name.key(keys).map_err(|error| crate::envelope::refused(error, &name.object()))?;
        Ok(Self { key, name, repository: *keys.repository() })
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
        memory::reserve(frame, body.len())?;
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

    /// Opens one sealed chunk and checks that it is the requested one. `prefix` is the concatenation of a delta's
    /// bases, and empty for a full chunk.
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
            plain.clear();
            memory::reserve(plain, len)?;
            decompressor.make_room(record.codec, len)?;
            decompressor
                .decompress_into(record.codec, &frame, prefix, len, plain)
                .map_err(|why| self.damaged(record, &why))
        });
        decompressor.frame = frame;
        opened
    }

    /// As [`PackReader::open_unnamed`], a patch that a write-only host brought of bases of these lengths, which follow each
    /// other in `bases`.
    pub fn open_brought(
        &self,
        record: &Record,
        sealed: &[u8],
        (bases, lens): (&[u8], &[usize]),
        decompressor: &mut Decompressor,
    ) -> Result<Vec<u8>> {
        let mut frame = std::mem::take(&mut decompressor.frame);
        let opened = self.open_frame_into(record, sealed, &mut frame).and_then(|()| {
            let len = record.plain_len as usize;
            let mut plain = memory::room(len)?;
            decompressor
                .decompress_brought(&frame, (bases, lens), len, &mut plain)
                .map_err(|why| self.damaged(record, &why))?;
            Ok(plain)
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
        mut buffer: Vec<u8>,
    ) -> Result<Rope> {
        let mut frame = std::mem::take(&mut decompressor.frame);
        let opened = self.open_frame_into(record, sealed, &mut frame).and_then(|()| {
            let len = record.plain_len as usize;
            buffer.clear();
            memory::reserve(&mut buffer, seal::first_len(record.codec, len))?;
            decompressor
                .decompress_rope(record.codec, &frame, bases, len, buffer)
                .map_err(|why| self.damaged(record, &why))
        });
        decompressor.frame = frame;
        opened
    }

    /// Checks that a plaintext is the requested chunk.
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
        let mut body = memory::copy(body)?;
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

/// Decodes a decrypted directory whose chunks must be contiguous between header and `end`.
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
            return Err(decoder.malformed("chunks are not contiguous"));
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

/// Opens header and directory of a whole pack, and verifies both.
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

/// Reads a whole pack and verifies everything: header, directory, each chunk's tag, length and id. `prefix` finds the
/// bases of deltas; `None` for one whose bases are missing, of which only the tag can be checked.
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
