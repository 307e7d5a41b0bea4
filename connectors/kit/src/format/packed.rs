//! The ends of compressed streams.

use engine::source::end_mark::EndMark;
use std::io::Write as _;

/// gzip says how long it is, and has a checksum, only once it is decompressed.
#[derive(Default)]
pub(super) struct GzipEndMark {
    decoder: Option<flate2::write::MultiGzDecoder<std::io::Sink>>,
    error: Option<String>,
}

impl EndMark for GzipEndMark {
    fn see(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            let decoder =
                self.decoder.get_or_insert_with(|| flate2::write::MultiGzDecoder::new(std::io::sink()));
            self.error = decoder.write_all(bytes).err().map(|error| error.to_string());
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        match (self.error.take(), self.decoder.take()) {
            (None, Some(decoder)) => decoder.finish().map(|_| ()).map_err(|_| "it ends too early".into()),
            (Some(error), _) => Err(error),
            (None, None) => Err("it is empty".into()),
        }
    }
}

/// Frames say where their blocks end (RFC 8878, section 3.1); nothing need be decompressed.
#[derive(Default)]
pub(super) struct ZstdEndMark {
    /// Bytes of the header that comes.
    header: Vec<u8>,
    /// Bytes to go past.
    skip: u64,
    place: Place,
    checksum: bool,
    frames: u64,
    error: Option<&'static str>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Place {
    #[default]
    Frame,
    Block,
    /// Past the last block of a frame, or the checksum behind it.
    FrameEnd,
}

impl ZstdEndMark {
    /// Bytes the next header has, as far as those at hand tell.
    fn wanted(&self) -> usize {
        match self.place {
            Place::Block => 3,
            // The magic and a size; or the magic and a descriptor.
            _ if self.header.len() >= 4 && self.header[0] & 0xf0 == 0x50 => 8,
            _ => 5,
        }
    }

    fn header_is_there(&mut self) {
        let header = std::mem::take(&mut self.header);
        match self.place {
            Place::Block => {
                let block = u32::from_le_bytes([header[0], header[1], header[2], 0]);
                let (last, kind, size) = (block & 1 == 1, block >> 1 & 3, u64::from(block >> 3));
                match kind {
                    // One byte, repeated.
                    1 => self.skip = 1,
                    3 => self.error = Some("a block of no known type"),
                    _ => self.skip = size,
                }
                if last {
                    self.skip += if self.checksum { 4 } else { 0 };
                    self.place = Place::FrameEnd;
                }
            }
            _ if header.len() == 8 => {
                self.skip = u64::from(u32::from_le_bytes([header[4], header[5], header[6], header[7]]));
                self.place = Place::FrameEnd;
            }
            _ if header[..4] == [0x28, 0xb5, 0x2f, 0xfd] => {
                let descriptor = header[4];
                let single = descriptor & 0x20 != 0;
                let size = match descriptor >> 6 {
                    0 => u64::from(single),
                    flag => 1 << flag,
                };
                let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
                self.skip = size + dictionary + u64::from(!single);
                self.checksum = descriptor & 4 != 0;
                self.place = Place::Block;
            }
            _ => self.error = Some("something that is no frame"),
        }
    }
}

impl EndMark for ZstdEndMark {
    fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.error.is_none() {
            if self.skip > 0 {
                let len = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                bytes = &bytes[len..];
                self.skip -= len as u64;
                continue;
            }
            if self.place == Place::FrameEnd {
                self.frames += 1;
                self.place = Place::Frame;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if self.header.len() == self.wanted() {
                self.header_is_there();
            }
        }
    }

    fn finish(&mut self) -> Result<(), String> {
        match self.error {
            Some(error) => Err(error.into()),
            None if self.place == Place::FrameEnd && self.skip == 0 && self.header.is_empty() => Ok(()),
            None => Err("it ends within a frame".into()),
        }
    }
}

/// xz ends with a footer of twelve bytes that has a checksum of its own, and padding of zeros in fours.
#[derive(Default)]
pub(super) struct XzEndMark {
    tail: Vec<u8>,
    len: u64,
}

/// Footer, and the most padding that is looked past.
const XZ_TAIL: usize = 12 + 4096;

impl EndMark for XzEndMark {
    fn see(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        let from = bytes.len().saturating_sub(XZ_TAIL);
        self.tail.extend_from_slice(&bytes[from..]);
        let surplus = self.tail.len().saturating_sub(XZ_TAIL);
        self.tail.drain(..surplus);
    }

    fn finish(&mut self) -> Result<(), String> {
        let mut rest = self.tail.as_slice();
        while let Some(more) = rest.strip_suffix(&[0; 4]) {
            rest = more;
        }
        // CRC-32 of the six bytes behind it, backward size, flags, magic.
        let Some([a, b, c, d, fields @ .., b'Y', b'Z']) = rest.last_chunk::<12>() else {
            return Err("its footer is missing".into());
        };
        let mut crc = flate2::Crc::new();
        crc.update(fields);
        let right = self.len.is_multiple_of(4) && crc.sum() == u32::from_le_bytes([*a, *b, *c, *d]);
        if right { Ok(()) } else { Err("its footer is wrong".into()) }
    }
}
