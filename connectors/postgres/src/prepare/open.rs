//! A file of a data directory that is being filled, and the pieces of it.

use super::found::{Change, Stamp};
use crate::data_directory::Member;
use engine::restore::Piece;
use std::cell::{Cell, RefCell};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;

/// Bytes of zeros that are read or written at a time.
pub(super) const ZEROS: usize = 64 << 10;

/// A file that is being filled.
pub(super) struct Open {
    pub(super) member: Member,
    /// Its bytes.
    pub(super) len: u64,
    /// Where its content is in the tar, with what fills its last block.
    pub(super) range: Range<u64>,
    pub(super) file: Option<File>,
    /// Whether the file was there.
    pub(super) is_old: bool,
    /// Bytes of the tar that are still to come.
    pub(super) left: Cell<u64>,
    pub(super) has_changed: Cell<bool>,
    /// As it is before a proof reads it, and what that finds.
    pub(super) stamp: Option<Stamp>,
    pub(super) changes: RefCell<Vec<Change>>,
}

/// A piece of a file.
pub(super) struct Place {
    pub(super) open: Rc<Open>,
    pub(super) piece: Piece,
}

impl Open {
    /// Whether the file has zeros in the place of a hole, which may be of any length.
    pub(super) fn has_zeros(&self, hole: &Piece, bytes: &mut Vec<u8>) -> bool {
        let Some(file) = self.file.as_ref().filter(|_| self.is_old) else { return false };
        let (from, to) = (hole.at.max(self.range.start), (hole.at + hole.len).min(self.range.end));
        let (mut at, end) = (from - self.range.start, (to - self.range.start).min(self.len));
        while at < end {
            bytes.resize(usize::try_from(end - at).unwrap_or(ZEROS).min(ZEROS), 0);
            if file.read_exact_at(bytes, at).is_err() || bytes.iter().any(|byte| *byte != 0) {
                return false;
            }
            at += bytes.len() as u64;
        }
        true
    }

    /// Reads what the file has in the place of a piece, with the padding of tars behind its end; `false` if it has less.
    pub(super) fn read_old(&self, piece: &Piece, bytes: &mut Vec<u8>) -> bool {
        let Some(file) = self.file.as_ref().filter(|_| self.is_old) else { return false };
        let Some(at) = piece.at.checked_sub(self.range.start) else { return false };
        if piece.at + piece.len > self.range.end || at >= self.len {
            return false;
        }
        let (Ok(whole), Ok(own)) = (usize::try_from(piece.len), usize::try_from(self.len - at)) else {
            return false;
        };
        // What it held before is read over.
        bytes.resize(whole, 0);
        let (inner, padding) = bytes.split_at_mut(own.min(whole));
        padding.fill(0);
        file.read_exact_at(inner, at).is_ok()
    }
}

impl Place {
    /// Where in the file the piece begins, and how many bytes of the file it has.
    pub(super) fn inner(&self) -> (u64, u64) {
        let Open { range, len, .. } = &*self.open;
        let (from, to) =
            (self.piece.at.max(range.start), (self.piece.at + self.piece.len).min(range.start + len));
        (from - range.start, to.saturating_sub(from))
    }
}

/// Whether a file has these bytes and no others.
pub(super) fn has_bytes(file: &File, bytes: &[u8]) -> bool {
    let mut there = vec![0; bytes.len() + 1];
    read_up_to(file, &mut there, 0).is_ok_and(|read| there.get(..read) == Some(bytes))
}

/// Reads until a buffer is full or the file ends; returns how many bytes that were.
pub(super) fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], at + read as u64) {
            Ok(0) => break,
            Ok(len) => read += len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
