//! Stretches of a value, as they are handed on.

use super::RdbError;

/// A stretch of a value.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// The next bytes of a large one.
    Piece(&'a [u8]),
    /// The next member of a large set or field of a large hash: the bytes to order by, and all of its bytes.
    Member(&'a [u8], &'a [u8]),
}

/// Takes what a value is made of.
pub(super) type Taker<'a> = &'a mut dyn FnMut(Part<'_>) -> Result<(), RdbError>;
