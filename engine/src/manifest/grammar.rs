//! The grammar of a sequence of records: entries in order, each with its content and its end.

use super::{Ending, Record};
use crate::entry::{Kind, compare_paths};

/// What may come next: entries in order, the content of each, its end. Whoever reads a manifest can count on it.
pub(super) enum Grammar {
    Between,
    /// After an entry that counts as not listed: another of its path may follow.
    Dropped,
    /// In an entry, after so many bytes of content.
    Within {
        size: u64,
        has_content: bool,
    },
    /// After damage: what belongs to an entry whose beginning is lost is left out.
    Lost,
}

/// Bytes of content that an entry can have: what a file offset can say.
const MAX_SIZE: u64 = i64::MAX as u64;

impl Grammar {
    /// Whether the record is to be handed on; `Err` says why it cannot come here. `last` is the path of the
    /// entry before.
    pub(super) fn admit(&mut self, record: &Record, last: &[u8]) -> Result<bool, &'static str> {
        let more = match record {
            Record::Entry(entry) => {
                if matches!(self, Self::Within { .. }) {
                    return Err("an entry has no end");
                }
                let again = matches!(self, Self::Dropped) && last == entry.path;
                if !last.is_empty() && !again && compare_paths(last, &entry.path).is_ge() {
                    return Err("entries are out of order");
                }
                *self = Self::Within { size: 0, has_content: entry.kind == Kind::File };
                return Ok(true);
            }
            // A manifest of a few bytes could otherwise have records without end.
            Record::Chunks(chunks) if chunks.is_empty() || chunks.iter().any(|chunk| chunk.len == 0) => {
                return Err("a list of chunks, or a chunk of it, is empty");
            }
            Record::Chunks(chunks) => chunks.iter().map(|chunk| u64::from(chunk.len)).sum(),
            Record::Hole(len) => *len,
            Record::End(..) => 0,
        };
        match (&mut *self, record) {
            (Self::Lost, _) => Ok(false),
            (Self::Between | Self::Dropped, _) => Err("content or end without an entry"),
            (Self::Within { size, .. }, Record::End(ending, said)) => {
                if *ending == Ending::Complete && size != said {
                    return Err("an entry's content is not as long as it says");
                }
                *self = if *ending == Ending::Dropped { Self::Dropped } else { Self::Between };
                Ok(true)
            }
            (Self::Within { has_content: false, .. }, _) => Err("content of what has none"),
            (Self::Within { size, .. }, _) => {
                *size = size
                    .checked_add(more)
                    .filter(|size| *size <= MAX_SIZE)
                    .ok_or("more content than fits")?;
                Ok(true)
            }
        }
    }
}
