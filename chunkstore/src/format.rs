//! Every magic, version, field width and limit of repository format 1, and the little-endian encoder and decoder that
//! all binary objects use. `docs/format.md` explains them; a test compares the two.
//!
//! Decoding never panics and never allocates more than the available bytes justify.

/// Version of the repository format that this code writes, and the only one it reads.
pub const FORMAT_VERSION: u8 = 1;

/// Features that this code understands; a repository that requires any other is refused.
pub const KNOWN_FEATURES: &[&str] = &[HEAD_CHAIN];

/// HEAD is the last of `head/<generation>`, for stores that cannot compare and swap.
pub const HEAD_CHAIN: &str = "head-chain";

/// First bytes of a pack.
pub const PACK_MAGIC: &[u8; 8] = b"eskerpak";
/// Last bytes of a pack.
pub const PACK_END_MAGIC: &[u8; 8] = b"eskerend";
/// First bytes of a small sealed object.
pub const ENVELOPE_MAGIC: &[u8; 6] = b"esker\0";

/// First bytes of the grants of an epoch.
pub const GRANTS_MAGIC: &[u8; 8] = b"eskergra";
/// Length of the header of an epoch's grants: magic, version, three zeros, epoch, repository id.
pub const GRANTS_HEADER_LEN: usize = 8 + 1 + 3 + 4 + 16;
/// Length of an encapsulated key of X25519.
pub const ENCAPSULATED_LEN: usize = 32;
/// Length of a data key that is sealed to a slot: the key and a Poly1305 tag.
pub const GRANTED_LEN: usize = 32 + 16;
/// Most epochs of a repository: a rotation a day for 180 years.
pub const MAX_EPOCHS: usize = 1 << 16;

/// First bytes of the commit of a run of a write-only host.
pub const COMMIT_MAGIC: &[u8; 8] = b"eskercom";
/// Length of its header: magic, version, three zeros, epoch, repository id, host, run, hash of the commit before, sealed
/// key of the run.
pub const COMMIT_HEADER_LEN: usize = 8 + 1 + 3 + 4 + 16 + 32 + 8 + 32 + ENCAPSULATED_LEN + GRANTED_LEN;
/// Length of a signature.
pub const SIGNATURE_LEN: usize = 64;
/// Most packs of one commit: 16 TiB of packs of the usual size, 64 TiB of the largest.
pub const MAX_COMMIT_PACKS: usize = 1 << 18;
/// Most interrupted runs that packs of one commit come from.
pub const MAX_COMMIT_RUNS: usize = 1 << 12;
/// Longest record of a snapshot in a commit, in bytes: HEAD has all records. One has some kilobytes; many paths, excluded
/// patterns or details of a server make it longer.
pub const MAX_COMMIT_RECORD: usize = 256 << 10;
/// What a host stores against older chunks has whole blocks of them, of so many bytes, counted from each chunk's start: smaller
/// ones could be guessed by whoever has stolen the host's file. Decision 18 has the measurements.
pub const BLOCK_LEN: usize = 256;
/// Length of a pack in a commit, and of an earlier run.
pub const COMMIT_PACK_LEN: usize = 8 + 16 + 32 + 1 + 4 + 8 + 32;
/// See [`COMMIT_PACK_LEN`].
pub const COMMIT_RUN_LEN: usize = 8 + 4 + ENCAPSULATED_LEN + GRANTED_LEN;
/// Most bytes of what a commit seals.
const MAX_COMMIT_BODY: usize = 4
    + MAX_COMMIT_RUNS * COMMIT_RUN_LEN
    + 4
    + MAX_COMMIT_PACKS * COMMIT_PACK_LEN
    + 4
    + MAX_COMMIT_RECORD
    + SIGNATURE_LEN;
/// Most bytes of a commit, 26 MiB: no host writes a longer one, and no admitter reads one.
pub const MAX_COMMIT_LEN: u64 =
    (COMMIT_HEADER_LEN + 4 + ENVELOPE_HEADER_LEN + MAX_COMMIT_BODY + TAG_LEN + SIGNATURE_LEN) as u64;
/// Most hosts of a repository.
pub const MAX_HOSTS: usize = 4096;
/// Longest name of a host.
pub const MAX_HOST_NAME: usize = 255;

/// First bytes of a pack's parity.
pub const PARITY_MAGIC: &[u8; 8] = b"eskerpar";

/// Length of a pack's header in bytes.
pub const PACK_HEADER_LEN: usize = 8 + 1 + 1 + 1 + 1 + 4 + 16 + 32 + 32;
/// Length of a pack's trailer: directory length (u64) and magic.
pub const PACK_TRAILER_LEN: usize = 16;
/// Length of an envelope's header: magic, type, version, epoch, salt, commitment.
pub const ENVELOPE_HEADER_LEN: usize = 6 + 1 + 1 + 4 + 32 + 32;
/// Length of the header of a pack's parity: magic, version, three zeros, pack length, shard length, shards.
pub const PARITY_HEADER_LEN: usize = 8 + 1 + 3 + 8 + 4 + 4;
/// Length of the hash of a shard: BLAKE3, cut short.
pub const PARITY_HASH_LEN: usize = 16;
/// Most shards that a pack is cut into.
pub const PARITY_SHARDS: usize = 1024;
/// Shards of a pack to one that is computed.
pub const PARITY_SHARE: usize = 32;
/// Length of an AES-GCM tag.
pub const TAG_LEN: usize = 16;

/// Largest plaintext of one chunk. Chunkers must stay at or below it; readers refuse more.
pub const MAX_CHUNK_LEN: usize = 16 << 20;
/// Largest pack that is read: the largest pack size (256 MiB), one chunk over, and its directory.
pub const MAX_PACK_LEN: u64 = 320 << 20;
/// Largest directory of a pack in bytes.
pub const MAX_DIRECTORY_LEN: u64 = 32 << 20;
/// Largest index segment in bytes.
pub const MAX_SEGMENT_LEN: u64 = 256 << 20;
/// Most chunks in one index segment that this code writes (about 60 bytes each).
pub const SEGMENT_CHUNKS: usize = 1 << 18;
/// Largest HEAD, snapshot, configuration or key slot in bytes.
pub const MAX_SMALL_LEN: u64 = 64 << 20;
/// Largest leaf of HEAD in bytes, and the most that the bodies in one decompress to.
pub const MAX_LEAF_LEN: u64 = 256 << 20;
/// Most base chunks of one delta.
pub const MAX_BASES: usize = 4;
/// Deepest delta: so many decompressions stand between it and plaintext at most. Bounds recursion.
pub const MAX_DEPTH: u8 = 32;
/// Most key slots of a repository. Twice as many are tried with one passphrase, since some may be there that HEAD does
/// not list; a hostile store could otherwise burn CPU for ever.
pub const MAX_SLOTS: usize = 128;
/// The kind of slots that a passphrase opens.
pub const SLOT_PASSPHRASE: &str = "passphrase";
/// The kind of slots that a key of 256 bits opens.
pub const SLOT_KEY: &str = "key";
/// The kind of slots that several shares open together.
pub const SLOT_SHARES: &str = "shares";
/// All kinds; `kms`, which a key service opens, is reserved.
pub const SLOT_KINDS: [&str; 4] = [SLOT_PASSPHRASE, SLOT_KEY, SLOT_SHARES, SLOT_KMS];
/// Kind of a key slot whose secret a key service wrapped.
pub const SLOT_KMS: &str = "kms";
/// Longest URL of a key service, and longest name of a key, in a slot.
pub const MAX_SERVICE_LEN: usize = 1024;
/// Longest wrapped secret in a slot, as text: the most that AWS KMS gives, in base64.
pub const MAX_WRAPPED_LEN: usize = 8 << 10;
/// Most shares of a secret.
pub const MAX_SHARES: u8 = 16;
/// Largest Argon2id memory accepted from a slot, in KiB (1 GiB).
pub const MAX_ARGON2_KIB: u32 = 1 << 20;
/// Most Argon2id passes accepted from a slot.
pub const MAX_ARGON2_PASSES: u32 = 8;
/// What slots may cost together that are tried with one passphrase and are dearer than those that this code makes, in KiB
/// of memory times passes: some seconds. Whether HEAD lists a slot is known only after one was opened.
pub const MAX_DEAR_COST: u64 = 8 << 20;
/// Largest key slot in bytes; one has about 700.
pub const MAX_SLOT_LEN: u64 = 64 << 10;
/// Packs are padded so that their length is a multiple of this, or Padmé's bucket if that is larger.
pub const PACK_PADDING: u64 = 4096;

/// The kind of a small sealed object; part of its header, and authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ObjectKind {
    /// `HEAD`.
    Head = 1,
    /// `index/<id>`.
    Segment = 2,
    /// `snapshots/<id>`.
    Snapshot = 3,
    /// `maps/<id>`.
    TierMap = 4,
    /// `sets/<incarnation>.<generation>.<id>`.
    Leaf = 5,
    /// The earlier keys in `grants/<epoch>`.
    Ring = 6,
    /// What a run of a write-only host brings: the inner part of `inbox/<host>/<run>/commit`.
    Commit = 7,
    /// `replies/<host>/<run>`.
    Reply = 8,
    /// `reports/<id>`.
    Report = 9,
}

impl ObjectKind {
    /// Label in the key derivation.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Segment => "segment",
            Self::Snapshot => "snapshot",
            Self::TierMap => "tier-map",
            Self::Leaf => "leaf",
            Self::Ring => "ring",
            Self::Commit => "commit",
            Self::Reply => "reply",
            Self::Report => "drill-report",
        }
    }
}

/// The kind of a pack. Metadata stays hot when data is frozen, so the two never share a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PackKind {
    /// Chunks of file and stream content.
    Data = 1,
    /// Chunks of manifests.
    Metadata = 2,
}

impl PackKind {
    /// Reads the byte in a header.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Data),
            2 => Some(Self::Metadata),
            _ => None,
        }
    }
}

/// How the key of a pack comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum KeyMethod {
    /// Derived from the epoch's key and the pack id.
    Derived = 1,
    // 2 is reserved: random, sealed to a recipient's public key, for hosts that may only write.
}

/// How a chunk's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
    /// One zstd frame whose prefix is the concatenation of the base chunks.
    ZstdDelta = 2,
    /// One zstd frame of a patch ([`crate::patch`]) of the concatenation of the base chunks.
    Patch = 3,
    /// The same, and the frame's prefix is the beginning of that concatenation.
    PrefixedPatch = 4,
}

impl Codec {
    /// Whether base chunks are needed to read it.
    #[must_use]
    pub fn is_delta(self) -> bool {
        matches!(self, Self::ZstdDelta | Self::Patch | Self::PrefixedPatch)
    }

    /// Reads the byte in a directory or segment.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            2 => Some(Self::ZstdDelta),
            3 => Some(Self::Patch),
            4 => Some(Self::PrefixedPatch),
            _ => None,
        }
    }
}

/// Names of objects. Every name in a repository is made here.
pub mod names {
    use crate::id::{ObjectId, PackId, SessionId};

    /// The only mutable object.
    pub const HEAD: &str = "HEAD";
    /// Folder of HEADs, where they are a chain.
    pub const HEADS: &str = "head";
    /// What never changes after `init`.
    pub const CONFIG: &str = "config";
    /// Folder of key slots.
    pub const KEYS: &str = "keys";
    /// Folder of grants, by epoch.
    pub const GRANTS: &str = "grants";
    /// Folder of packs.
    pub const PACKS: &str = "packs";
    /// Folder of the parity of packs.
    pub const PARITY: &str = "parity";
    /// Folder of index segments.
    pub const INDEX: &str = "index";
    /// Folder of snapshots.
    pub const SNAPSHOTS: &str = "snapshots";
    /// Folder of the tier maps: how a tier's packs are stored.
    pub const MAPS: &str = "maps";
    /// Folder of signed reports of drills.
    pub const REPORTS: &str = "reports";
    /// Folder of the leaves of HEAD.
    pub const SETS: &str = "sets";

    /// Folder of what write-only hosts bring.
    pub const INBOX: &str = "inbox";
    /// Folder of the answers to them.
    pub const REPLIES: &str = "replies";
    /// The last part of the name of the object that a run begins with.
    pub const BEGUN: &str = "begun";
    /// The last part of the name of the object that a run ends with.
    pub const COMMIT: &str = "commit";

    /// `inbox/<host>`: all that a host may write.
    #[must_use]
    pub fn inbox(host: &ObjectId) -> String {
        format!("{INBOX}/{host}")
    }
    /// `inbox/<host>/<run>`, twenty digits.
    #[must_use]
    pub fn run(host: &ObjectId, run: u64) -> String {
        format!("{INBOX}/{host}/{run:020}")
    }
    /// `inbox/<host>/<run>/begun`: whoever creates it has the number.
    #[must_use]
    pub fn begun(host: &ObjectId, run: u64) -> String {
        format!("{}/{BEGUN}", self::run(host, run))
    }
    /// `inbox/<host>/<run>/commit`.
    #[must_use]
    pub fn commit(host: &ObjectId, run: u64) -> String {
        format!("{}/{COMMIT}", self::run(host, run))
    }
    /// `inbox/<host>/<run>/<pack>`.
    #[must_use]
    pub fn brought(host: &ObjectId, run: u64, pack: &PackId) -> String {
        format!("{}/{pack}", self::run(host, run))
    }
    /// The run in the name of an object of an inbox, and the last part of the name. Names that are none of those above are
    /// of no run.
    #[must_use]
    pub fn run_of(name: &str) -> Option<(ObjectId, u64, &str)> {
        let mut parts = name.strip_prefix(INBOX)?.strip_prefix('/')?.split('/');
        let (host, run, last) = (ObjectId::parse(parts.next()?)?, parts.next()?, parts.next()?);
        let is_run = run.len() == 20 && run.bytes().all(|digit| digit.is_ascii_digit());
        let is_known = last == BEGUN || last == COMMIT || PackId::parse(last).is_some();
        let run = run.parse().ok().filter(|_| is_run && is_known && parts.next().is_none())?;
        Some((host, run, last))
    }
    /// `replies/<host>/<run>`, twenty digits.
    #[must_use]
    pub fn reply(host: &ObjectId, run: u64) -> String {
        format!("{REPLIES}/{host}/{run:020}")
    }

    /// Folder of further copies of the objects that everything hangs on.
    pub const COPIES: &str = "copies";

    /// Names of the copies that a local disk keeps of `config`, of a key slot, or of HEAD: `copies/1/<name>`, …
    pub fn copies(name: &str) -> impl Iterator<Item = String> {
        [1, 2].into_iter().map(move |number| format!("{COPIES}/{number}/{name}"))
    }

    /// `keys/<id>`.
    #[must_use]
    pub fn key(id: &ObjectId) -> String {
        format!("{KEYS}/{id}")
    }
    /// `grants/<epoch>`.
    #[must_use]
    pub fn grants(epoch: u32) -> String {
        format!("{GRANTS}/{epoch}")
    }
    /// The epoch in the name of an object with grants, or of a copy of one.
    #[must_use]
    pub fn grants_epoch(name: &str) -> Option<u32> {
        let name = name.strip_prefix(COPIES).map_or(Some(name), |copy| copy.splitn(3, '/').nth(2))?;
        let epoch = name.strip_prefix(GRANTS)?.strip_prefix('/')?;
        epoch.parse().ok().filter(|number: &u32| number.to_string() == epoch)
    }
    /// `packs/<session>/<id>`.
    #[must_use]
    pub fn pack(session: &SessionId, id: &PackId) -> String {
        format!("{PACKS}/{session}/{id}")
    }
    /// `head/<generation>`, twenty digits.
    #[must_use]
    pub fn head_link(generation: u64) -> String {
        format!("{HEADS}/{generation:020}")
    }
    /// `parity/<session>/<id>`, of the pack with these ids.
    #[must_use]
    pub fn parity(session: &SessionId, id: &PackId) -> String {
        format!("{PARITY}/{session}/{id}")
    }
    /// `index/<id>`.
    #[must_use]
    pub fn segment(id: &ObjectId) -> String {
        format!("{INDEX}/{id}")
    }
    /// `maps/<id>`.
    #[must_use]
    pub fn map(id: &ObjectId) -> String {
        format!("{MAPS}/{id}")
    }
    /// `reports/<id>`.
    #[must_use]
    pub fn report(id: &ObjectId) -> String {
        format!("{REPORTS}/{id}")
    }
    /// `sets/<incarnation>.<generation>.<id>`: a leaf that a HEAD of this age may name first.
    #[must_use]
    pub fn leaf((incarnation, generation): (u64, u64), id: &ObjectId) -> String {
        format!("{SETS}/{incarnation}.{generation}.{id}")
    }
    /// Incarnation and generation in the name of a leaf.
    #[must_use]
    pub fn leaf_age(name: &str) -> Option<(u64, u64)> {
        let mut parts = name.strip_prefix(SETS)?.strip_prefix('/')?.splitn(3, '.');
        let (incarnation, generation) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        ObjectId::parse(parts.next()?)?;
        Some((incarnation, generation))
    }
    /// `snapshots/<id>`.
    #[must_use]
    pub fn snapshot(id: &ObjectId) -> String {
        format!("{SNAPSHOTS}/{id}")
    }
    /// `<folder>/<id>.<again>`: the object of a root that was sealed again.
    #[must_use]
    pub fn renewed(folder: &str, id: &ObjectId, again: &ObjectId) -> String {
        format!("{folder}/{id}.{again}")
    }
    /// The id of a root, and what its object's name has besides if it was sealed again, from the last part of the name.
    #[must_use]
    pub fn root(last: &str) -> Option<(ObjectId, Option<ObjectId>)> {
        match last.split_once('.') {
            Some((id, again)) => Some((ObjectId::parse(id)?, Some(ObjectId::parse(again)?))),
            None => Some((ObjectId::parse(last)?, None)),
        }
    }
}

/// Bytes that do not follow the format; says where and what.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed {what}: {why}")]
pub struct Malformed {
    /// The structure that was being read.
    pub what: &'static str,
    /// What was wrong with it.
    pub why: &'static str,
}

/// Appends little-endian fields to a buffer.
#[derive(Default)]
pub struct Encoder {
    /// The bytes written so far.
    pub bytes: Vec<u8>,
}

impl Encoder {
    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }
    /// Two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }
    /// Four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }
    /// Eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }
    /// Eight bytes, two's complement.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }
    /// Bytes as they are, without a length.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }
    /// A u32 length, then the bytes.
    ///
    /// # Panics
    /// If the slice is longer than 4 GiB, which no caller builds.
    pub fn var(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(u32::try_from(bytes.len()).expect("fields are far below 4 GiB")).raw(bytes)
    }
}

/// Reads little-endian fields and reports, never panics.
pub struct Decoder<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Decoder<'a> {
    /// Reads `bytes`, naming `what` in errors.
    #[must_use]
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }
    /// An error about this structure.
    #[must_use]
    pub fn malformed(&self, why: &'static str) -> Malformed {
        Malformed { what: self.what, why }
    }
    /// The next `len` bytes.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or_else(|| self.malformed("ends too early"))?;
        self.rest = tail;
        Ok(head)
    }
    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let bytes = self.raw(N)?;
        bytes.try_into().map_err(|_| self.malformed("ends too early"))
    }
    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array()?))
    }
    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array()?))
    }
    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }
    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }
    /// Eight bytes, two's complement.
    pub fn i64(&mut self) -> Result<i64, Malformed> {
        Ok(i64::from_le_bytes(self.array()?))
    }
    /// A u32 length of at most `limit`, then that many bytes.
    pub fn var(&mut self, limit: usize) -> Result<&'a [u8], Malformed> {
        let len = self.u32()? as usize;
        if len > limit {
            return Err(self.malformed("length over its limit"));
        }
        self.raw(len)
    }
    /// How many bytes are left.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }
    /// The rest must be empty.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed("bytes after its end")) }
    }
}

/// Length that a pack of `len` bytes is padded to: Padmé (Nikitin et al., PETS 2019, at most 12 %
/// more, O(log log n) bits leaked), and at least a multiple of [`PACK_PADDING`].
#[must_use]
pub fn padded_len(len: u64) -> u64 {
    let exponent = u64::from(63 - len.max(2).leading_zeros());
    let mantissa_bits = u64::from(64 - exponent.max(1).leading_zeros());
    let mask = (1u64 << exponent.saturating_sub(mantissa_bits)) - 1;
    let padme = (len + mask) & !mask;
    padme.next_multiple_of(PACK_PADDING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoder_is_bounded() {
        let mut decoder = Decoder::new(&[5, 0, 0, 0, 1], "test");
        assert!(decoder.var(4).is_err());
        let mut decoder = Decoder::new(&[5, 0, 0, 0, 1], "test");
        assert!(decoder.var(8).is_err());
        assert!(Decoder::new(&[0], "test").finish().is_err());
    }

    #[test]
    fn padding_is_small_and_monotone() {
        let mut last = 0;
        for len in (1..300_000_000u64).step_by(99_991) {
            let padded = padded_len(len);
            assert!(padded >= len && padded >= last && padded.is_multiple_of(PACK_PADDING));
            assert!(padded <= len + len / 8 + PACK_PADDING, "{len} -> {padded}");
            last = padded;
        }
    }
}
