//! Where the rows of a dump are: in a file for each table, or in blocks of one file.

use super::archive::Files;
use super::relations::full_name;
use super::rows::END_OF_ROWS;
use crate::end_mark::BlockIndex;
use crate::toc::TocEntry;
use engine::restore::Located;
use engine::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// Where the rows of a dump are.
pub(super) enum Source<'a> {
    /// In a file for each table, in a folder.
    Folder(&'a str, &'a Files),
    /// In blocks of one file.
    Blocks(&'a Located, &'a BlockIndex),
}

/// A table whose rows are put in.
pub(super) struct Table<'a> {
    pub(super) entry: &'a TocEntry,
    pub(super) content: &'a Located,
    /// What of the content is its own.
    pub(super) part: Range<u64>,
    /// Bytes of its rows.
    pub(super) len: u64,
}

impl<'a> Source<'a> {
    /// The tables of `entries`, but for those that the backup left out.
    ///
    /// # Errors
    /// If the rows of one are not where they should be.
    pub(super) fn tables(
        &self,
        entries: &[&'a TocEntry],
        left_out: &BTreeMap<String, String>,
    ) -> Result<Vec<Table<'a>>> {
        match self {
            Self::Folder(folder, files) => in_folder(left_out, folder, files, entries),
            Self::Blocks(content, index) => in_blocks(content, index, entries),
        }
    }
}

fn in_folder<'a>(
    left_out: &BTreeMap<String, String>,
    folder: &str,
    files: &'a Files,
    entries: &[&'a TocEntry],
) -> Result<Vec<Table<'a>>> {
    let mut tables = vec![];
    for entry in entries {
        let path = format!("{folder}/{}", entry.file);
        if left_out.contains_key(&path) {
            continue;
        }
        let content = files.get(path.as_bytes()).ok_or(Error::NoEntry { path: path.clone() })?;
        let len = content.len().checked_sub(END_OF_ROWS.len() as u64);
        let len = len.ok_or_else(|| cut_off(&path))?;
        tables.push(Table { entry, content, part: 0..content.len(), len });
    }
    Ok(tables)
}

fn in_blocks<'a>(
    content: &'a Located,
    index: &BlockIndex,
    entries: &[&'a TocEntry],
) -> Result<Vec<Table<'a>>> {
    let blocks: BTreeMap<i64, Range<u64>> =
        index.blocks.iter().map(|(id, from, to)| (*id, *from..*to)).collect();
    let table = |entry: &&'a TocEntry| {
        let part = blocks.get(&entry.id).filter(|part| part.start <= part.end && part.end <= content.len());
        let part = part.cloned().ok_or_else(|| Error::Malformed {
            what: full_name(entry),
            why: "its rows are not where the dump's index says".into(),
        })?;
        Ok(Table { entry, content, len: part.end - part.start, part })
    };
    entries.iter().map(table).collect()
}

/// That rows do not end as they should.
pub(super) fn cut_off(what: &str) -> Error {
    Error::Malformed { what: what.to_owned(), why: "its rows do not end as pg_dump ends them".into() }
}
