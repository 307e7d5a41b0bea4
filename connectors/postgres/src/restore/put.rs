//! A COPY into a table, and what it is given.

use super::rows::{Block, Rows, Taker};
use crate::connection::PgResult;
use std::ops::Range;

/// What a COPY is given.
pub(super) enum Form {
    File(Rows),
    Block(Block),
}

/// A COPY that runs.
pub(super) struct Put {
    pub(super) table: usize,
    /// Of the table's rows, in bytes.
    pub(super) range: Range<u64>,
    pub(super) form: Form,
    pub(super) is_refused: bool,
    pub(super) in_transaction: bool,
}

impl Form {
    /// Takes the next bytes of the dump, and hands on what are rows.
    pub(super) fn see(&mut self, bytes: &[u8], taker: &mut dyn Taker) -> PgResult<()> {
        match self {
            Self::File(rows) => rows.see(bytes, taker),
            Self::Block(block) => block.see(bytes, taker),
        }
    }

    /// Where to read on, if the last row of a stretch has not ended.
    pub(super) fn lacking(&self) -> Option<u64> {
        match self {
            Self::File(rows) => rows.lacking(),
            Self::Block(_) => None,
        }
    }

    /// Whether what came ended as pg_dump ends it.
    pub(super) fn ended_well(&self) -> bool {
        match self {
            Self::File(rows) => rows.ended_well(),
            Self::Block(block) => block.ended_well(),
        }
    }
}
