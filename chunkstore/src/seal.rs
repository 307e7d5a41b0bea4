//! One chunk ⇄ its stored frame: compress, and back with every length checked. Encryption belongs to
//! the pack, because the nonce is the chunk's ordinal there.

use crate::format::Codec;
use crate::{Error, Result};

/// How hard to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Store as it is.
    Off,
    /// zstd at this level, 1 to 22 or negative for faster ones.
    Zstd(i32),
}

impl Default for Compression {
    /// Level 3: zstd's own default.
    fn default() -> Self {
        Self::Zstd(3)
    }
}

impl std::str::FromStr for Compression {
    type Err = String;

    /// Reads `off`, `auto`, `fastest`, `better`, `max` (restic's names) or a zstd level.
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "off" | "none" => Self::Off,
            "auto" | "default" => Self::default(),
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
    context: Option<zstd::bulk::Compressor<'static>>,
}

impl Compressor {
    /// Prepares a context.
    pub fn new(compression: Compression) -> Result<Self> {
        let context = match compression {
            Compression::Off => None,
            Compression::Zstd(level) => {
                let invalid = |error: std::io::Error| Error::Invalid(format!("zstd: {error}"));
                let mut context = zstd::bulk::Compressor::new(level).map_err(invalid)?;
                // Length stands in the directory and the AEAD authenticates: no need for either twice.
                context.include_contentsize(false).map_err(invalid)?;
                context.include_checksum(false).map_err(invalid)?;
                Some(context)
            }
        };
        Ok(Self { context })
    }

    /// Appends the smaller of `plain` and its compressed form to `out` and says which it was.
    pub fn compress(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Codec {
        // Worth it only if at least 1/32 is saved; otherwise reading would cost more than it saves.
        let limit = plain.len() - plain.len() / 32;
        if let Some(context) = &mut self.context
            && plain.len() >= 64
        {
            let start = out.len();
            out.resize(start + limit, 0);
            match context.compress_to_buffer(plain, &mut out[start..]) {
                Ok(len) => {
                    out.truncate(start + len);
                    return Codec::Zstd;
                }
                // Does not fit into the limit: incompressible.
                Err(_) => out.truncate(start),
            }
        }
        out.extend_from_slice(plain);
        Codec::Raw
    }
}

/// Decompresses chunks one after the other.
pub struct Decompressor {
    context: zstd::bulk::Decompressor<'static>,
}

impl Decompressor {
    /// Prepares a context.
    pub fn new() -> Result<Self> {
        let context =
            zstd::bulk::Decompressor::new().map_err(|error| Error::Invalid(format!("zstd: {error}")))?;
        Ok(Self { context })
    }

    /// Turns a frame into exactly `plain_len` bytes, which the caller has bounded.
    pub fn decompress(&mut self, codec: Codec, frame: Vec<u8>, plain_len: usize) -> Result<Vec<u8>, String> {
        match codec {
            Codec::Raw if frame.len() == plain_len => Ok(frame),
            Codec::Raw => Err("raw chunk of another length than recorded".into()),
            Codec::Zstd => {
                let plain =
                    self.context.decompress(&frame, plain_len).map_err(|error| format!("zstd: {error}"))?;
                if plain.len() == plain_len {
                    Ok(plain)
                } else {
                    Err("decompresses to another length than recorded".into())
                }
            }
            Codec::ZstdDelta => {
                Err("compressed against a base chunk, which this version does not read".into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_bounds() {
        let mut compressor = Compressor::new(Compression::default()).unwrap();
        let mut decompressor = Decompressor::new().unwrap();
        let text = b"abcdefgh".repeat(1000);
        let mut noise = vec![0; 8000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        for (plain, codec) in [(&text, Codec::Zstd), (&noise, Codec::Raw), (&vec![1], Codec::Raw)] {
            let mut out = b"before".to_vec();
            assert_eq!(compressor.compress(plain, &mut out), codec);
            let frame = out.split_off(6);
            assert_eq!(&decompressor.decompress(codec, frame.clone(), plain.len()).unwrap(), plain);
            assert!(decompressor.decompress(codec, frame.clone(), plain.len() - 1).is_err());
            assert!(decompressor.decompress(codec, frame, plain.len() + 1).is_err());
        }
    }
}
