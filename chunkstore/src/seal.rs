//! One chunk ⇄ its stored frame: compression, alone or against its bases, and decompression with every length checked.
//! Encryption belongs to the pack, because the nonce is the chunk's ordinal there.

use crate::format::Codec;
use crate::patch::{self, Differ};
use crate::rope::Rope;
use crate::{Error, Result, memory};
use std::borrow::Cow;
use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, DParameter, Strategy};

/// How hard to compress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Store as it is.
    Off,
    /// zstd's level 3, or its level 1 where that is about as small: rows of databases often are even smaller then.
    #[default]
    Auto,
    /// zstd at this level, 1 to 22 or negative for faster ones.
    Zstd(i32),
}

impl std::str::FromStr for Compression {
    type Err = String;

    /// Reads `off`, `auto`, `fastest`, `better`, `max` (restic's names) or a zstd level.
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "off" | "none" => Self::Off,
            "auto" | "default" => Self::Auto,
            "fastest" => Self::Zstd(1),
            "better" => Self::Zstd(9),
            "max" => Self::Zstd(19),
            level => match level.parse() {
                Ok(level @ (-7..=-1 | 1..=22)) => Self::Zstd(level),
                _ => return Err("expected off, auto, fastest, better, max or a zstd level (-7 to 22)".into()),
            },
        })
    }
}

/// Compresses chunks one after the other, keeping zstd's tables between them.
pub struct Compressor {
    /// `None` to store as it is.
    context: Option<Context>,
    /// Another that may be as good in less time, and what is known of that.
    faster: Option<(Context, Rivals)>,
    /// Where frames are made: zstd wants all the room that one might take.
    frame: Vec<u8>,
}

type Context = zstd::bulk::Compressor<'static>;

fn context(level: i32) -> Result<Context> {
    let invalid = |error: std::io::Error| Error::Invalid(format!("zstd: {error}"));
    let mut context = Context::new(level).map_err(invalid)?;
    // Length stands in the directory and the AEAD authenticates: no need for either twice.
    context.include_contentsize(false).map_err(invalid)?;
    context.include_checksum(false).map_err(invalid)?;
    Ok(context)
}

/// Makes the frame of `plain` if that is at most `limit` bytes long.
fn make(context: &mut Context, plain: &[u8], limit: usize, frame: &mut Vec<u8>) -> bool {
    frame.clear();
    frame.reserve(limit);
    context.compress_to_buffer(plain, frame).is_ok_and(|len| len <= limit)
}

/// What two levels made of the same chunks. Older ones count for less, since streams change.
#[derive(Default)]
struct Rivals {
    /// Bytes that came, and of those, what both were tried on.
    seen: u64,
    tried: u64,
    /// What became of those.
    slow: u64,
    fast: u64,
}

impl Rivals {
    /// One byte of so many is compressed both ways.
    const SAMPLE: u64 = 32;
    /// Bytes tried that are remembered.
    const MEMORY: u64 = 1 << 20;

    /// Whether the next chunk should be made both ways.
    fn want(&mut self, len: usize) -> bool {
        self.seen += len as u64;
        self.tried * Self::SAMPLE < self.seen
    }

    fn note(&mut self, len: usize, slow: usize, fast: usize) {
        self.tried += len as u64;
        self.slow += slow as u64;
        self.fast += fast as u64;
        if self.tried >= Self::MEMORY {
            for sum in [&mut self.seen, &mut self.tried, &mut self.slow, &mut self.fast] {
                *sum /= 2;
            }
        }
    }

    /// Whether the faster one costs at most one byte in a hundred.
    fn prefers_fast(&self) -> bool {
        self.fast * 100 <= self.slow * 101
    }
}

impl Compressor {
    /// Prepares a context, or two.
    pub fn new(compression: Compression) -> Result<Self> {
        let (level, faster) = match compression {
            Compression::Off => (None, None),
            Compression::Auto => (Some(3), Some((context(1)?, Rivals::default()))),
            Compression::Zstd(level) => (Some(level), None),
        };
        Ok(Self { context: level.map(context).transpose()?, faster, frame: vec![] })
    }

    /// Appends the smaller of `plain` and its compressed form to `out` and says which it was.
    pub fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Codec {
        if self.shrink(plain, out) {
            return Codec::Zstd;
        }
        out.extend_from_slice(plain);
        Codec::Raw
    }

    /// Appends the compressed form of `plain` to `out` if it is smaller; says whether it is.
    pub fn shrink(&mut self, plain: &[u8], out: &mut Vec<u8>) -> bool {
        // Worth it only if at least 1/32 is saved; otherwise reading would cost more than it saves.
        let limit = plain.len() - plain.len() / 32;
        let Some(context) = self.context.as_mut().filter(|_| plain.len() >= 64) else { return false };
        let start = out.len();
        if let Some((faster, rivals)) = &mut self.faster {
            let both = rivals.want(plain.len());
            if both || rivals.prefers_fast() {
                if make(faster, plain, limit, &mut self.frame) {
                    out.extend_from_slice(&self.frame);
                }
                if !both {
                    return out.len() > start;
                }
            }
            let fast = out.len() - start;
            let fits = make(context, plain, limit, &mut self.frame);
            if both {
                let or_plain = |is_smaller: bool, len: usize| if is_smaller { len } else { plain.len() };
                rivals.note(plain.len(), or_plain(fits, self.frame.len()), or_plain(fast > 0, fast));
            }
            if fits && (fast == 0 || self.frame.len() < fast) {
                out.truncate(start);
                out.extend_from_slice(&self.frame);
            }
        } else if make(context, plain, limit, &mut self.frame) {
            out.extend_from_slice(&self.frame);
        }
        out.len() > start
    }

    /// As [`Compressor::shrink`], if a piece from the middle of `plain` can be shrunk.
    pub fn shrink_if_promising(&mut self, plain: &[u8], out: &mut Vec<u8>) -> bool {
        let middle = plain.len().saturating_sub(PROBE) / 2;
        let piece = &plain[middle..plain.len().min(middle + PROBE)];
        let start = out.len();
        let promising = self.shrink(piece, out);
        out.truncate(start);
        promising && self.shrink(plain, out)
    }
}

/// Bytes that are tried where data does not seem to compress.
const PROBE: usize = 16 << 10;

/// What patches are made with, kept between batches.
#[derive(Default)]
pub struct Patcher {
    differ: Differ,
    patch: Vec<u8>,
}

/// Compresses patches that were made from block lists, by whoever cannot read the bases.
pub struct PatchCompressor(Context, Vec<u8>);

impl PatchCompressor {
    /// Prepares a context.
    pub fn new() -> Result<Self> {
        Ok(Self(context(3)?, vec![]))
    }

    /// Appends the frame of codec 3 to `out`, if it has at most `limit` bytes; says whether it has.
    pub fn compress(&mut self, patch: &[u8], limit: usize, out: &mut Vec<u8>) -> bool {
        let Self(context, frame) = self;
        let fits = make(context, patch, limit, frame);
        if fits {
            out.extend_from_slice(frame);
        }
        fits
    }
}

/// A patch has at most this share of the chunk's bytes, and the slack besides; what shares less with its
/// bases is left to zstd, which finds short matches, too. Smaller and larger shares were tried: decision 6.
const PATCH_SHARE: usize = 16;
const PATCH_SLACK: usize = 64;
/// A patch's frame may refer to so many of the first bytes of the bases: what is new in a chunk has its
/// words and its structure from there.
const PATCH_PREFIX: usize = 128 << 10;
/// Smaller patches are compressed without: loading it would cost more than it saves, for whoever reads, too.
const PATCH_WORTH_PREFIX: usize = 4 << 10;

/// The part of the bases that a patch's frame may refer to.
fn patch_prefix(base: &[u8]) -> &[u8] {
    &base[..base.len().min(PATCH_PREFIX)]
}

/// Compresses chunks against their bases. Borrows those of a whole batch; zstd's tables live as long.
pub struct DeltaCompressor<'bases> {
    patcher: Patcher,
    patches: CCtx<'bases>,
    /// Made when it is needed for the first time: often it never is.
    context: Option<CCtx<'bases>>,
}

/// Largest window that a delta's frame asks for, as a power of two: four bases and the chunk, 16 MiB each.
const MAX_WINDOW_LOG: u32 = 27;
/// The match finder's table has this much fewer entries, as a power of two, than prefix and chunk have
/// bytes. At 512 KiB chunks one entry a byte was 1.3 to 1.5 times slower, because the table leaves the
/// cache, and saved less than 2 % (decision 5).
const HASH_LOG_LESS: u32 = 3;

impl<'bases> DeltaCompressor<'bases> {
    /// Starts on a batch.
    pub fn new(patcher: Patcher) -> Result<Self> {
        let mut patches = CCtx::create();
        for parameter in [CParameter::CompressionLevel(3), CParameter::ContentSizeFlag(false)] {
            patches.set_parameter(parameter).map_err(zstd_error)?;
        }
        Ok(Self { patcher, patches, context: None })
    }

    /// The parts that can be used for the next batch.
    #[must_use]
    pub fn into_patcher(self) -> Patcher {
        self.patcher
    }

    fn context() -> Result<CCtx<'bases>> {
        let mut context = CCtx::create();
        for parameter in [
            // Level 1's fast strategy with a table large enough for the base finds as much as level 3's
            // with its own tables, in half the time: what changed is little, the rest is found at once.
            CParameter::CompressionLevel(1),
            CParameter::Strategy(Strategy::ZSTD_fast),
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
        ] {
            context.set_parameter(parameter).map_err(zstd_error)?;
        }
        Ok(context)
    }

    /// Appends `plain` compressed against `prefix` to `out` if that takes less than `limit` bytes; says
    /// how, if it did.
    pub fn compress(
        &mut self,
        plain: &[u8],
        prefix: &'bases [u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<Option<Codec>> {
        let Patcher { differ, patch } = &mut self.patcher;
        if differ.diff(plain, prefix, most_kept(plain.len()), patch) {
            let codec = if patch.len() < PATCH_WORTH_PREFIX { Codec::Patch } else { Codec::PrefixedPatch };
            if codec == Codec::PrefixedPatch {
                self.patches.ref_prefix(patch_prefix(prefix)).map_err(zstd_error)?;
            }
            let fits = compress_within(&mut self.patches, patch, limit, out)?;
            return Ok(fits.then_some(codec));
        }
        let context = match &mut self.context {
            Some(context) => context,
            none => none.insert(Self::context()?),
        };
        let total = plain.len() + prefix.len();
        let log = (usize::BITS - total.max(2).saturating_sub(1).leading_zeros()).clamp(12, MAX_WINDOW_LOG);
        // The window reaches back to the first byte of the prefix from the last one of the chunk.
        for parameter in [CParameter::WindowLog(log), CParameter::HashLog(log - HASH_LOG_LESS)] {
            context.set_parameter(parameter).map_err(zstd_error)?;
        }
        context.ref_prefix(prefix).map_err(zstd_error)?;
        Ok(compress_within(context, plain, limit, out)?.then_some(Codec::ZstdDelta))
    }
}

/// Appends one frame to `out` if it takes less than `limit` bytes; says whether it did.
fn compress_within(context: &mut CCtx<'_>, bytes: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<bool> {
    let start = out.len();
    out.resize(start + limit, 0);
    let fits = context.compress2(&mut out[start..], bytes);
    out.truncate(start + fits.unwrap_or(0));
    if fits.is_err() {
        context.reset(zstd_safe::ResetDirective::SessionOnly).map_err(zstd_error)?;
    }
    Ok(fits.is_ok())
}

fn zstd_error(code: usize) -> Error {
    Error::Invalid(format!("zstd: {}", zstd_safe::get_error_name(code)))
}

/// Turns a delta's frame and its prefix into at most `plain_len` bytes.
fn decompress_delta(frame: &[u8], prefix: &[u8], plain: &mut Vec<u8>) -> Result<(), usize> {
    let mut context = DCtx::create();
    context.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
    context.ref_prefix(prefix)?;
    context.decompress(plain, frame).map(|_| ())
}

/// The most bytes of a patch from block lists, which a host brings: half of its chunk's. Whole blocks come for each change, so
/// the bound of what is kept in a repository would be soon reached. No such patch gets there.
#[must_use]
pub fn most_brought(plain_len: usize) -> usize {
    plain_len / 2
}

/// Bytes of the buffer that a frame is decompressed into: a chunk of `plain_len` bytes, or the patch that makes it.
pub(crate) fn first_len(codec: Codec, plain_len: usize) -> usize {
    match codec {
        Codec::Patch | Codec::PrefixedPatch => most_kept(plain_len),
        Codec::Raw | Codec::Zstd | Codec::ZstdDelta => plain_len,
    }
}

/// About what a context of zstd takes, for messages.
const CONTEXT_LEN: usize = 160 << 10;

const NO_PATCH: &str = "is no patch of its bases";

/// Decompresses chunks one after the other.
pub struct Decompressor {
    context: DCtx<'static>,
    /// Scratch for frames, between chunks.
    pub(crate) frame: Vec<u8>,
    patch: Vec<u8>,
}

fn most_kept(plain_len: usize) -> usize {
    plain_len / PATCH_SHARE + PATCH_SLACK
}

impl Decompressor {
    /// Prepares a context.
    pub fn new() -> Result<Self> {
        let context = DCtx::try_create().ok_or(Error::Memory { bytes: CONTEXT_LEN })?;
        Ok(Self { context, frame: vec![], patch: vec![] })
    }

    /// Makes room for what a chunk of `plain_len` bytes needs besides its own buffer. Without memory for it, the chunk
    /// would be taken for damaged.
    pub(crate) fn make_room(&mut self, codec: Codec, plain_len: usize) -> Result<()> {
        self.patch.clear();
        match codec {
            Codec::Patch | Codec::PrefixedPatch => memory::reserve(&mut self.patch, most_kept(plain_len)),
            Codec::Raw | Codec::Zstd | Codec::ZstdDelta => Ok(()),
        }
    }

    /// Turns a frame into exactly `plain_len` bytes, which the caller has bounded. `prefix` holds the
    /// bases of a delta.
    pub fn decompress(
        &mut self,
        codec: Codec,
        frame: &[u8],
        prefix: &[u8],
        plain_len: usize,
    ) -> Result<Vec<u8>, String> {
        let mut plain = vec![];
        self.decompress_into(codec, frame, prefix, plain_len, &mut plain)?;
        Ok(plain)
    }

    /// As [`Decompressor::decompress`], into a buffer that is reused.
    pub fn decompress_into(
        &mut self,
        codec: Codec,
        frame: &[u8],
        prefix: &[u8],
        plain_len: usize,
        plain: &mut Vec<u8>,
    ) -> Result<(), String> {
        plain.clear();
        plain.reserve(plain_len);
        let refused = |code| format!("zstd: {}", zstd_safe::get_error_name(code));
        match codec {
            Codec::Raw => plain.extend_from_slice(frame),
            // The buffer may have room for more than the chunk: the length is checked below.
            Codec::Zstd => {
                self.context.decompress(plain, frame).map_err(refused)?;
            }
            Codec::ZstdDelta => decompress_delta(frame, prefix, plain).map_err(refused)?,
            Codec::Patch | Codec::PrefixedPatch => {
                let mut patch = std::mem::take(&mut self.patch);
                let head = (codec == Codec::PrefixedPatch).then(|| patch_prefix(prefix));
                let read = self.decompress_patch(frame, head, most_kept(plain_len), &mut patch);
                let applied = read.map(|()| patch::apply(&patch, prefix, plain_len, plain));
                self.patch = patch;
                applied?.ok_or(NO_PATCH)?;
            }
        }
        if plain.len() == plain_len { Ok(()) } else { Err("has another length than recorded".into()) }
    }
}

impl Decompressor {
    /// Replaces `patch` by the patch in a frame, which is to have at most `most` bytes. `head` holds the first bytes of the bases, if it needs them.
    fn decompress_patch(
        &mut self,
        frame: &[u8],
        head: Option<&[u8]>,
        most: usize,
        patch: &mut Vec<u8>,
    ) -> Result<(), String> {
        patch.clear();
        patch.reserve(most);
        let read = match head {
            Some(head) => decompress_delta(frame, head, patch),
            None => self.context.decompress(patch, frame).map(|_| ()),
        };
        read.map_err(|code| format!("zstd: {}", zstd_safe::get_error_name(code)))
    }

    /// Turns the frame of a patch that a write-only host brought into `plain_len` bytes. `bases` are those of these lengths,
    /// one after the other. It may have [`most_brought`] bytes, and copies whole blocks only: otherwise whoever has stolen a
    /// host's file could try out byte by byte what the host had stored.
    pub fn decompress_brought(
        &mut self,
        frame: &[u8],
        (bases, lens): (&[u8], &[usize]),
        plain_len: usize,
        plain: &mut Vec<u8>,
    ) -> Result<(), String> {
        let mut patch = std::mem::take(&mut self.patch);
        let read = self.decompress_patch(frame, None, most_brought(plain_len), &mut patch);
        let made = read.and_then(|()| {
            if patch.len() > most_brought(plain_len) || !patch::has_whole_blocks(&patch, lens) {
                return Err("is no patch that hosts make".into());
            }
            plain.clear();
            plain.reserve(plain_len);
            patch::apply(&patch, bases, plain_len, plain).ok_or_else(|| NO_PATCH.to_owned())
        });
        self.patch = patch;
        made?;
        if plain.len() == plain_len { Ok(()) } else { Err("has another length than recorded".into()) }
    }

    /// As [`Decompressor::decompress_into`], from bases that may be ropes themselves: a patch is not written out.
    /// `buffer` is used for parts that must be.
    pub fn decompress_rope(
        &mut self,
        codec: Codec,
        frame: &[u8],
        bases: &Rope,
        plain_len: usize,
        mut buffer: Vec<u8>,
    ) -> Result<Rope, String> {
        if matches!(codec, Codec::Patch | Codec::PrefixedPatch) {
            let head = (codec == Codec::PrefixedPatch).then(|| bases.head(PATCH_PREFIX));
            self.decompress_patch(frame, head.as_deref(), most_kept(plain_len), &mut buffer)?;
            return bases.patched(buffer, plain_len).ok_or_else(|| NO_PATCH.into());
        }
        let prefix = if codec == Codec::ZstdDelta { bases.head(usize::MAX) } else { Cow::Borrowed(&[][..]) };
        self.decompress_into(codec, frame, &prefix, plain_len, &mut buffer)?;
        Ok(Rope::whole(buffer))
    }
}

#[cfg(test)]
mod tests;
