//! A tar archive, cut where its members begin and end: an unchanged member deduplicates whatever precedes it, and even
//! if its header changed. Long runs of zeros, which database files have many of, become holes. A stream that is not a
//! tar passes unchanged.

use super::format::tar::{BLOCK, Behind, Sizes, is_continued, is_header};
use engine::source::{Content, Piece, SourceError};

/// Members that are cut out: smaller ones are not worth chunks of their own.
const LARGE: u64 = 64 << 10;
/// Zeros are looked for in stretches of so many bytes.
const STRETCH: usize = 64 << 10;
/// Bytes read ahead at a time.
const AHEAD: usize = 1 << 20;

/// The filter.
pub struct TarCuts {
    content: Box<dyn Content>,
    /// Bytes that were read and not passed on, from `start`.
    buffer: Vec<u8>,
    start: usize,
    /// Whether `content` has ended.
    over: bool,
    place: Place,
    sizes: Sizes,
    /// A cut that is due before anything else.
    cut: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// Before the first header, or what turns out to be none.
    Unknown,
    /// Before a header.
    Header,
    /// In a member of so many bytes more, its padding among them; whether it is cut out.
    Member { left: u64, large: bool },
    /// Before a block that goes on with the header of a sparse member of so many bytes.
    Sparse(u64),
    /// This is no tar, or no longer.
    Elsewhere,
}

impl TarCuts {
    /// Cuts what this content gives.
    #[must_use]
    pub fn new(content: Box<dyn Content>) -> Self {
        let (place, sizes) = (Place::Unknown, Sizes::default());
        Self { content, buffer: vec![], start: 0, over: false, place, sizes, cut: false }
    }

    fn at_hand(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Sees to it that `len` bytes are at hand, or all that there are; `Some` if something else came first.
    fn need(&mut self, len: usize) -> Result<Option<Piece>, SourceError> {
        while self.buffer.len() - self.start < len && !self.over {
            self.buffer.drain(..self.start);
            self.start = 0;
            let old = self.buffer.len();
            self.buffer.resize(old + AHEAD, 0);
            let piece = self.content.read(&mut self.buffer[old..]);
            let read = if let Ok(Piece::Data(len)) = piece { len } else { 0 };
            self.buffer.truncate(old + read);
            match piece? {
                Piece::Data(_) => {}
                Piece::End => self.over = true,
                other => return Ok(Some(other)),
            }
        }
        Ok(None)
    }

    /// Passes on at most `len` bytes.
    fn pass(&mut self, buffer: &mut [u8], len: u64) -> Piece {
        let len = usize::try_from(len).unwrap_or(usize::MAX).min(self.at_hand().len()).min(buffer.len());
        buffer[..len].copy_from_slice(&self.at_hand()[..len]);
        self.start += len;
        Piece::Data(len)
    }

    fn header(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        let block = self.at_hand().get(..BLOCK).filter(|block| is_header(block)).map(<[u8]>::to_vec);
        let Some(behind) = block.and_then(|block| self.sizes.behind(&block)) else {
            // The end of the archive, or none at all.
            self.place = Place::Elsewhere;
            return Ok(self.pass(buffer, BLOCK as u64));
        };
        let size = match behind {
            Behind::Content(size) => size,
            Behind::Sparse(size) => {
                self.place = Place::Sparse(size);
                return Ok(self.pass(buffer, BLOCK as u64));
            }
            Behind::Pax { len, kind } => {
                let end = BLOCK + usize::try_from(len).unwrap_or_default();
                if let Some(other) = self.need(end)? {
                    return Ok(other);
                }
                let records = self.buffer[self.start..].get(BLOCK..end);
                self.sizes.learn(kind, records.unwrap_or_default());
                len
            }
        };
        self.begin(size);
        // The lane offers more than a block.
        Ok(self.pass(buffer, BLOCK as u64))
    }

    /// Before the content of a member.
    fn begin(&mut self, size: u64) {
        let left = size.next_multiple_of(BLOCK as u64);
        let large = left >= LARGE;
        self.place = if left == 0 { Place::Header } else { Place::Member { left, large } };
        self.cut = large;
    }

    fn sparse(&mut self, buffer: &mut [u8], size: u64) -> Piece {
        if !self.at_hand().get(..BLOCK).is_some_and(is_continued) {
            self.begin(size);
        }
        self.pass(buffer, BLOCK as u64)
    }

    fn member(&mut self, buffer: &mut [u8], left: u64, large: bool) -> Piece {
        let zeros = if large { self.zeros(left) } else { 0 };
        let piece = if zeros > 0 {
            self.start += zeros;
            Piece::Hole(zeros as u64)
        } else {
            // Up to the next stretch, which may be zeros.
            self.pass(buffer, left.min(STRETCH as u64))
        };
        let len = match piece {
            Piece::Data(len) => len as u64,
            Piece::Hole(len) => len,
            _ => 0,
        };
        self.place = match left - len {
            0 => {
                self.cut = large;
                Place::Header
            }
            left => Place::Member { left, large },
        };
        piece
    }

    /// How many of the next bytes of the member are whole stretches of zeros.
    fn zeros(&self, left: u64) -> usize {
        let mine = &self.at_hand()[..self.at_hand().len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        let is_zero = |stretch: &&[u8]| stretch.iter().all(|byte| *byte == 0);
        mine.chunks_exact(STRETCH).take_while(is_zero).count() * STRETCH
    }
}

impl Content for TarCuts {
    fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
        if std::mem::take(&mut self.cut) {
            return Ok(Piece::Cut);
        }
        let wanted = match self.place {
            Place::Unknown | Place::Header | Place::Sparse(_) => BLOCK,
            Place::Member { left, .. } => usize::try_from(left).unwrap_or(usize::MAX).min(STRETCH),
            // Straight through, once nothing is left here.
            Place::Elsewhere if self.at_hand().is_empty() && !self.over => return self.content.read(buffer),
            Place::Elsewhere => 1,
        };
        // A lane near the end of its slab offers little room; a header is passed on whole.
        if buffer.len() < BLOCK && matches!(self.place, Place::Header | Place::Unknown | Place::Sparse(_)) {
            self.place = Place::Elsewhere;
        }
        if let Some(other) = self.need(wanted)? {
            return Ok(other);
        }
        if self.at_hand().is_empty() {
            return Ok(Piece::End);
        }
        Ok(match self.place {
            Place::Unknown | Place::Header => self.header(buffer)?,
            Place::Sparse(size) => self.sparse(buffer, size),
            Place::Member { left, large } => self.member(buffer, left, large),
            Place::Elsewhere => self.pass(buffer, u64::MAX),
        })
    }

    fn warning(&self) -> Option<String> {
        self.content.warning()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes, in parts of a size.
    struct Given(Vec<u8>, usize, usize);

    impl Content for Given {
        fn read(&mut self, buffer: &mut [u8]) -> Result<Piece, SourceError> {
            let len = (self.0.len() - self.1).min(buffer.len()).min(self.2);
            buffer[..len].copy_from_slice(&self.0[self.1..self.1 + len]);
            self.1 += len;
            Ok(if len == 0 { Piece::End } else { Piece::Data(len) })
        }
    }

    /// What comes out: all bytes, where cuts are, how many bytes are holes.
    fn read(bytes: &[u8], part: usize) -> (Vec<u8>, Vec<usize>, u64) {
        let mut cuts = TarCuts::new(Box::new(Given(bytes.to_vec(), 0, part)));
        let (mut out, mut at, mut holes) = (vec![], vec![], 0);
        let mut buffer = vec![0xee; 300_000];
        loop {
            match cuts.read(&mut buffer).unwrap() {
                Piece::Data(len) => out.extend_from_slice(&buffer[..len]),
                Piece::Hole(len) => {
                    out.resize(out.len() + len as usize, 0);
                    holes += len;
                }
                Piece::Cut => at.push(out.len()),
                Piece::Wait => {}
                Piece::End => return (out, at, holes),
            }
        }
    }

    #[test]
    fn members_are_cut_out_and_zeros_are_holes() {
        let mut large: Vec<u8> = (0..200_000u32).map(|number| (number % 251) as u8 + 1).collect();
        large.resize(600_000, 0);
        let small = crate::format::tar::tests::sample(b"small");
        let mut bytes = small[..small.len() - 1024].to_vec();
        let before = bytes.len();
        bytes.extend(crate::format::tar::tests::sample(&large));
        for part in [1 << 20, 70_000, 513] {
            let (out, cuts, holes) = read(&bytes, part);
            assert!(out == bytes, "all of it, in parts of {part}");
            // Behind the folder's header and the file's; behind its content.
            let start = before + 1024;
            assert_eq!(cuts, [start, start + large.len().next_multiple_of(512)]);
            assert!(holes >= 300_000, "{holes}");
        }
    }

    #[test]
    fn what_a_member_holds_is_passed_on_as_it_is() {
        let mut large: Vec<u8> = (0..200_000u32).map(|number| (number % 251) as u8 + 1).collect();
        large.resize(400_000, 0);
        for (what, bytes) in crate::format::tar::tests::hostile() {
            // A large member behind it is cut out, wherever it lies: what stands before was gone through rightly.
            let bytes = [&bytes[..bytes.len() - 1024], &crate::format::tar::tests::sample(&large)].concat();
            for part in [1 << 20, 513] {
                let (out, cuts, holes) = read(&bytes, part);
                assert!(out == bytes, "{what}, in parts of {part}");
                assert!(cuts.len() == 2 && holes > 0, "{what}, in parts of {part}: {cuts:?}");
            }
        }
    }

    #[test]
    fn anything_else_passes() {
        for bytes in
            [vec![], vec![7; 100], vec![0; 3_000_000], (0..700_000u32).map(|number| number as u8).collect()]
        {
            let (out, cuts, holes) = read(&bytes, 65_537);
            assert!(out == bytes && cuts.is_empty() && holes == 0);
        }
        // A tar that is cut off within a member, and one that goes on as something else.
        let tar = crate::format::tar::tests::sample(&vec![5; 300_000]);
        assert!(read(&tar[..100_000], 4096).0 == tar[..100_000]);
        let odd = [&tar[..], &[9; 10_000], &tar].concat();
        assert!(read(&odd, 4096).0 == odd);
    }
}
