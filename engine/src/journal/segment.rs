//! A segment: commands as the server sent them, in frames that end where no command and no transaction is
//! open. Its bytes are described in docs/format.md.

use chunkstore::format::{Decoder, Encoder, Malformed};

/// A stretch of commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// When its last command was executed, in milliseconds since 1970, as far as can be told.
    pub time_ms: u64,
    /// Replication offset of its first byte.
    pub offset: u64,
    /// The database that is selected before its first command.
    pub database: u32,
    /// The commands.
    pub bytes: Vec<u8>,
}

/// Frames end when they are this long; a transaction may be longer.
pub const FRAME: usize = 16 << 10;
/// Longest frame: a transaction of a gigabyte.
const MAX_FRAME: usize = 1 << 30;

impl Frame {
    /// Offset behind its last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }

    /// Appends it to a segment.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut encoder = Encoder::default();
        encoder.u64(self.time_ms).u64(self.offset).u32(self.database).var(&self.bytes);
        out.extend_from_slice(&encoder.bytes);
    }
}

/// Reads a segment. Frames follow each other without a gap.
pub fn decode(bytes: &[u8]) -> Result<Vec<Frame>, Malformed> {
    let mut decoder = Decoder::new(bytes, "segment of a journal");
    let mut frames: Vec<Frame> = vec![];
    while decoder.remaining() > 0 {
        let frame = Frame {
            time_ms: decoder.u64()?,
            offset: decoder.u64()?,
            database: decoder.u32()?,
            bytes: decoder.var(MAX_FRAME)?.to_vec(),
        };
        if frames.last().is_some_and(|last| last.end() != frame.offset) {
            return Err(decoder.malformed("a gap between frames"));
        }
        frames.push(frame);
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        let frame = |offset, bytes: &[u8]| Frame { time_ms: 1, offset, database: 3, bytes: bytes.to_vec() };
        let frames = vec![frame(10, b"abc"), frame(13, b""), frame(13, b"defg")];
        let mut bytes = vec![];
        frames.iter().for_each(|frame| frame.encode(&mut bytes));
        assert_eq!(decode(&bytes).unwrap(), frames);
        assert!(decode(&bytes[..bytes.len() - 1]).is_err());
        let mut gap = vec![];
        frame(10, b"abc").encode(&mut gap);
        frame(14, b"d").encode(&mut gap);
        assert!(decode(&gap).is_err());
    }
}
