//! The commit of a run: a header in clear, what the run brings sealed under its key, and the host's signature of both.

use super::signature::{PublicKey, Signed, SigningKey};
use crate::env::Env;
use crate::format::{
    COMMIT_HEADER_LEN, COMMIT_MAGIC, COMMIT_PACK_LEN, COMMIT_RUN_LEN, Decoder, Encoder, FORMAT_VERSION,
    MAX_COMMIT_LEN, MAX_COMMIT_PACKS, MAX_COMMIT_RECORD, MAX_COMMIT_RUNS, MAX_PACK_LEN, Malformed,
    ObjectKind, PackKind, SIGNATURE_LEN, names,
};
use crate::id::{ObjectId, PackId, RepositoryId, SessionId};
use crate::keys::{KeyRing, SealedRunKey};
use crate::pack::PackName;
use crate::{Error, Result, envelope, error::InObject as _};
use bytes::Bytes;

/// What anybody can read of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The repository.
    pub repository: RepositoryId,
    /// The host.
    pub host: ObjectId,
    /// The run.
    pub run: u64,
    /// The epoch of the inbox that its key is sealed to.
    pub epoch: u32,
    /// BLAKE3 of the host's commit before; zeros if there was none, or if the host lost its book.
    pub previous: ObjectId,
    /// The key of the run.
    pub key: SealedRunKey,
}

impl Header {
    /// The name of the object.
    #[must_use]
    pub fn object(&self) -> String {
        names::commit(&self.host, self.run)
    }

    fn encode(&self) -> Encoder {
        let mut out = Encoder::default();
        out.raw(COMMIT_MAGIC).u8(FORMAT_VERSION).raw(&[0; 3]).u32(self.epoch);
        out.raw(self.repository.as_bytes()).raw(self.host.as_bytes()).u64(self.run);
        out.raw(self.previous.as_bytes()).raw(&self.key.encapsulated).raw(&self.key.sealed);
        debug_assert_eq!(out.bytes.len(), COMMIT_HEADER_LEN);
        out
    }

    fn decode(decoder: &mut Decoder<'_>) -> Result<Self, Malformed> {
        if decoder.array::<8>()? != *COMMIT_MAGIC {
            return Err(decoder.malformed("magic"));
        }
        if decoder.u8()? != FORMAT_VERSION || decoder.array::<3>()? != [0; 3] {
            return Err(decoder.malformed("version"));
        }
        let epoch = decoder.u32()?;
        let (repository, host) = (RepositoryId(decoder.array()?), ObjectId(decoder.array()?));
        let (run, previous) = (decoder.u64()?, ObjectId(decoder.array()?));
        let key = SealedRunKey { encapsulated: decoder.array()?, sealed: decoder.array()? };
        Ok(Self { repository, host, run, epoch, previous, key })
    }
}

/// A run that was interrupted, and whose packs a later commit brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earlier {
    /// The run.
    pub run: u64,
    /// The epoch of the inbox that its key is sealed to.
    pub epoch: u32,
    /// Its key.
    pub key: SealedRunKey,
}

/// A pack that a run brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brought {
    /// The run in whose folder it lies, and whose key seals it.
    pub run: u64,
    /// The pack.
    pub name: PackName,
    /// Length of its object.
    pub len: u64,
    /// BLAKE3 of its object.
    pub hash: ObjectId,
}

/// What a run brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Interrupted runs that packs come from.
    pub earlier: Vec<Earlier>,
    /// All packs that nobody else can have admitted yet.
    pub packs: Vec<Brought>,
    /// The record of the snapshot, as the host made it.
    pub record: Bytes,
    /// The host's signature of what the snapshot is of.
    pub signature: [u8; SIGNATURE_LEN],
}

impl Commit {
    /// Whether an admitter reads it: what a host brings beyond that, it must not write.
    ///
    /// # Errors
    ///
    /// It names too many packs or runs, or its record is too long.
    pub fn check(&self) -> Result<()> {
        let (packs, runs, record) = (self.packs.len(), self.earlier.len(), self.record.len());
        if packs > MAX_COMMIT_PACKS {
            return Err(Error::Invalid(format!(
                "{packs} packs were stored since the last run that ended, and one run brings at most {MAX_COMMIT_PACKS}: back \
                 up less at a time, or with larger packs (--pack-size), after the host's book was removed"
            )));
        }
        if runs > MAX_COMMIT_RUNS {
            return Err(Error::Invalid(format!(
                "the packs of {runs} interrupted runs were stored, and one run brings those of {MAX_COMMIT_RUNS}: remove the \
                 host's book, and the next one begins anew"
            )));
        }
        if record > MAX_COMMIT_RECORD {
            return Err(Error::Invalid(format!(
                "the record of the snapshot has {record} bytes, and a write-only host brings at most {MAX_COMMIT_RECORD}: give \
                 fewer paths and excluded patterns, or a shorter description"
            )));
        }
        Ok(())
    }

    /// Writes the plaintext.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let count = |len: usize| u32::try_from(len).expect("bounded by MAX_COMMIT_PACKS");
        let mut out = Encoder::default();
        out.u32(count(self.earlier.len()));
        for Earlier { run, epoch, key } in &self.earlier {
            out.u64(*run).u32(*epoch).raw(&key.encapsulated).raw(&key.sealed);
        }
        out.u32(count(self.packs.len()));
        for Brought { run, name, len, hash } in &self.packs {
            out.u64(*run).raw(name.session.as_bytes()).raw(name.id.as_bytes()).u8(name.kind as u8);
            out.u32(name.epoch).u64(*len).raw(hash.as_bytes());
        }
        out.var(&self.record).raw(&self.signature);
        out.bytes
    }

    /// Reads the plaintext.
    ///
    /// # Errors
    ///
    /// It does not follow the format.
    pub fn decode(bytes: &[u8]) -> std::result::Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes, "commit of a host");
        let counted = |decoder: &mut Decoder<'_>, most: usize, least: usize| {
            let count = decoder.u32()? as usize;
            if count > most || count > decoder.remaining() / least {
                return Err(decoder.malformed("more packs than bytes for them"));
            }
            Ok(count)
        };
        let mut earlier = vec![];
        for _ in 0..counted(&mut decoder, MAX_COMMIT_RUNS, COMMIT_RUN_LEN)? {
            let (run, epoch) = (decoder.u64()?, decoder.u32()?);
            let key = SealedRunKey { encapsulated: decoder.array()?, sealed: decoder.array()? };
            earlier.push(Earlier { run, epoch, key });
        }
        let mut packs = vec![];
        for _ in 0..counted(&mut decoder, MAX_COMMIT_PACKS, COMMIT_PACK_LEN)? {
            let run = decoder.u64()?;
            let (session, id) = (SessionId(decoder.array()?), PackId(decoder.array()?));
            let kind = PackKind::from_byte(decoder.u8()?);
            let kind = kind.ok_or_else(|| decoder.malformed("unknown pack kind"))?;
            let epoch = decoder.u32()?;
            let (len, hash) = (decoder.u64()?, ObjectId(decoder.array()?));
            if len > MAX_PACK_LEN {
                return Err(decoder.malformed("pack over its limit"));
            }
            packs.push(Brought { run, name: PackName { session, id, kind, epoch }, len, hash });
        }
        let record = Bytes::copy_from_slice(decoder.var(MAX_COMMIT_LEN as usize)?);
        let signature = decoder.array()?;
        decoder.finish()?;
        Ok(Self { earlier, packs, record, signature })
    }

    /// Seals it under the key of its run, and signs all of it: the bytes of the object.
    ///
    /// # Errors
    ///
    /// There is no randomness.
    pub fn seal(&self, header: &Header, ring: &KeyRing, key: &SigningKey, env: &dyn Env) -> Result<Vec<u8>> {
        let mut out = header.encode();
        let name = header.object();
        let body = envelope::seal(ring, header.epoch, ObjectKind::Commit, &name, &self.encode(), env)?;
        out.var(&body);
        let signature = key.sign(Signed::Commit, &out.bytes);
        out.raw(&signature);
        Ok(out.bytes)
    }
}

/// A commit as it lies in the inbox.
#[derive(Clone, Debug)]
pub struct SignedCommit {
    /// What anybody can read.
    pub header: Header,
    /// BLAKE3 of the object.
    pub hash: ObjectId,
    bytes: Bytes,
    body: std::ops::Range<usize>,
    signature: [u8; SIGNATURE_LEN],
}

impl SignedCommit {
    /// Reads an object, without a key.
    ///
    /// # Errors
    ///
    /// It does not follow the format.
    pub fn decode(bytes: &Bytes) -> std::result::Result<Self, Malformed> {
        let mut decoder = Decoder::new(bytes, "commit of a host");
        let header = Header::decode(&mut decoder)?;
        let len = decoder.var(MAX_COMMIT_LEN as usize)?.len();
        let signature = decoder.array()?;
        decoder.finish()?;
        let start = COMMIT_HEADER_LEN + 4;
        let hash = ObjectId(*blake3::hash(bytes).as_bytes());
        Ok(Self { header, hash, bytes: bytes.clone(), body: start..start + len, signature })
    }

    /// Whether the host of this public key signed all of it.
    #[must_use]
    pub fn is_of(&self, public: &PublicKey) -> bool {
        let signed = self.bytes.get(..self.bytes.len() - SIGNATURE_LEN).unwrap_or_default();
        public.verifies(Signed::Commit, signed, &self.signature)
    }

    /// Opens what it brings, with the ring of its run.
    ///
    /// # Errors
    ///
    /// It was sealed under another key, or does not follow the format.
    pub fn open(&self, ring: &KeyRing) -> Result<Commit> {
        let name = self.header.object();
        let sealed = self.bytes.get(self.body.clone()).unwrap_or_default();
        let plain = envelope::open(ring, ObjectKind::Commit, &name, sealed)?;
        let commit = Commit::decode(&plain).in_object(&name)?;
        Ok(commit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SeededEnv;

    fn sample() -> Commit {
        let name =
            PackName { session: SessionId([1; 16]), id: PackId([2; 32]), kind: PackKind::Data, epoch: 1 };
        let key = SealedRunKey { encapsulated: [5; 32], sealed: [6; 48] };
        Commit {
            earlier: vec![Earlier { run: 3, epoch: 1, key }],
            packs: vec![Brought { run: 4, name, len: 4096, hash: ObjectId([7; 32]) }],
            record: Bytes::from_static(b"{}"),
            signature: [8; 64],
        }
    }

    #[test]
    fn every_byte_and_every_length_is_checked() {
        let env = SeededEnv::new(1);
        let keys = KeyRing::generate(RepositoryId([3; 16]), &env).unwrap();
        let (host, signing) = (ObjectId([9; 32]), SigningKey::generate(&env).unwrap());
        let own = keys.for_host(host, 1).unwrap();
        let (ring, key) = own.begin(4, &env).unwrap();
        let repository = *keys.repository();
        let header = Header { repository, host, run: 4, epoch: 1, previous: ObjectId([0; 32]), key };
        let bytes = sample().seal(&header, &ring, &signing, &env).unwrap();
        let read = |bytes: &[u8]| {
            let signed = SignedCommit::decode(&Bytes::copy_from_slice(bytes)).ok()?;
            if !signed.is_of(&signing.public()) {
                return None;
            }
            let Header { host, run, epoch, key, .. } = &signed.header;
            signed.open(&keys.open_run(host, *run, *epoch, key).ok()?).ok()
        };
        assert_eq!(read(&bytes), Some(sample()));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(read(&bad), None, "byte {at}");
            assert_eq!(read(&bytes[..at]), None, "cut at {at}");
        }
        let plain = sample().encode();
        assert_eq!(Commit::decode(&plain).unwrap(), sample());
        for at in 0..plain.len() {
            assert!(Commit::decode(&plain[..at]).is_err(), "cut at {at}");
        }
        assert!(Commit::decode(&[0xff; 64]).is_err());
    }

    /// What a host may write is what an admitter reads, to the byte.
    #[test]
    fn the_greatest_commit_has_the_greatest_length() {
        let env = SeededEnv::new(1);
        let keys = KeyRing::generate(RepositoryId([3; 16]), &env).unwrap();
        let (host, signing) = (ObjectId([9; 32]), SigningKey::generate(&env).unwrap());
        let (ring, key) = keys.for_host(host, 1).unwrap().begin(4, &env).unwrap();
        let (repository, previous) = (*keys.repository(), ObjectId([0; 32]));
        let header = Header { repository, host, run: 4, epoch: 1, previous, key };
        let Commit { earlier, packs, signature, .. } = sample();
        let most = Commit {
            earlier: vec![earlier[0]; MAX_COMMIT_RUNS],
            packs: vec![packs[0]; MAX_COMMIT_PACKS],
            record: vec![b'x'; MAX_COMMIT_RECORD].into(),
            signature,
        };
        most.check().unwrap();
        let bytes = Bytes::from(most.seal(&header, &ring, &signing, &env).unwrap());
        assert_eq!(bytes.len() as u64, MAX_COMMIT_LEN);
        let signed = SignedCommit::decode(&bytes).unwrap();
        assert!(signed.is_of(&signing.public()) && signed.open(&ring).unwrap() == most);
        let (mut runs, mut packs, mut record) = (most.clone(), most.clone(), most);
        runs.earlier.push(earlier[0]);
        packs.packs.push(packs.packs[0]);
        record.record = vec![b'x'; MAX_COMMIT_RECORD + 1].into();
        for (commit, because) in [(runs, "interrupted runs"), (packs, "packs"), (record, "record")] {
            let error = commit.check().unwrap_err().to_string();
            assert!(error.contains(because), "{error}");
        }
    }
}
