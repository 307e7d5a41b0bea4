//! A segment: commands as the server sent them, in frames that end where no command and no transaction is
//! open. Its bytes are described in docs/format.md.

use crate::resp::Resp;
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

    /// Cuts it so that a frame ends where each of `offsets` is reached, which rise: behind a command, and in no transaction.
    /// It must be whole.
    pub fn cut(self, offsets: &[u64]) -> Vec<Self> {
        let from = offsets.partition_point(|at| *at <= self.offset);
        let to = offsets.partition_point(|at| *at < self.end());
        let within = offsets.get(from..to).unwrap_or_default();
        let mut offsets = within.iter().copied().peekable();
        if offsets.peek().is_none() {
            return vec![self];
        }
        let (mut database, mut in_transaction) = (self.database, false);
        let mut cuts = vec![];
        // What cannot be read was refused when it came.
        let _ = Resp::default().feed(&self.bytes, &mut |at, command| {
            match command.name.as_slice() {
                b"SELECT" => database = number_of(&command.first),
                b"MULTI" => in_transaction = true,
                b"EXEC" => in_transaction = false,
                _ => {}
            }
            let end = self.offset + at as u64;
            if !in_transaction && at < self.bytes.len() && offsets.next_if(|offset| *offset <= end).is_some()
            {
                while offsets.next_if(|offset| *offset <= end).is_some() {}
                cuts.push((at, database));
            }
        });
        let mut frames = vec![];
        let mut rest = self;
        for (at, database) in cuts.into_iter().rev() {
            let bytes = rest.bytes.split_off(at);
            frames.push(Self { offset: rest.end(), database, bytes, ..rest });
        }
        frames.push(rest);
        frames.reverse();
        frames
    }

    /// Appends it to a segment.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut encoder = Encoder::default();
        encoder.u64(self.time_ms).u64(self.offset).u32(self.database).var(&self.bytes);
        out.extend_from_slice(&encoder.bytes);
    }
}

/// A database's number as `SELECT` has it.
pub(super) fn number_of(text: &[u8]) -> u32 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
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
    fn cuts() {
        let commands: Vec<Vec<u8>> = ["SET a 1", "SELECT 7", "MULTI", "SET b 2", "EXEC", "SET c 3"]
            .map(|line| crate::resp::encode(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>()))
            .into();
        let ends: Vec<u64> = commands
            .iter()
            .scan(100, |end, command| {
                *end += command.len() as u64;
                Some(*end)
            })
            .collect();
        let frame = Frame { time_ms: 1, offset: 100, database: 3, bytes: commands.concat() };
        let cut = |offsets: &[u64]| -> Vec<(u64, u64, u32)> {
            let frames = frame.clone().cut(offsets);
            assert_eq!(frames.iter().flat_map(|frame| frame.bytes.clone()).collect::<Vec<_>>(), frame.bytes);
            frames.iter().map(|frame| (frame.offset, frame.end(), frame.database)).collect()
        };
        let end = frame.end();
        assert_eq!(cut(&[]), [(100, end, 3)]);
        assert_eq!(cut(&[50, 100, end, end + 1]), [(100, end, 3)]);
        // At the end of a command, in the middle of it, twice in the same.
        assert_eq!(cut(&[ends[0]]), [(100, ends[0], 3), (ends[0], end, 3)]);
        assert_eq!(
            cut(&[101, 102, ends[0] + 1]),
            [(100, ends[0], 3), (ends[0], ends[1], 3), (ends[1], end, 7)]
        );
        // Behind the transaction.
        assert_eq!(cut(&[ends[2], ends[3]]), [(100, ends[4], 3), (ends[4], end, 7)]);
        assert_eq!(cut(&[ends[5] - 1]), [(100, end, 3)]);
    }

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
