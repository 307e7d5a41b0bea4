//! How many rows each table of a dump has. COPY's text format has a line feed behind each row and nowhere else; behind the rows
//! pg_dump writes a line `\.` and two that are empty.
//! Source: PostgreSQL's documentation, COPY, "Text Format"; `dumpTableData_copy` in `pg_dump.c`.

use super::Databases;
pub(crate) use super::stored::Key;
use super::stored::Stored;
use connector_kit::members::Dump;
use connector_kit::tables::Dumps as _;
use engine::Result;
use engine::connector::Origin;
use std::collections::BTreeMap;

/// What pg_dump ends the rows of a table with.
const END: &[u8] = b"\\.\n\n\n";

/// Rows of one table, of which the bytes come in pieces.
#[derive(Default)]
struct Rows {
    feeds: u64,
    /// The last bytes.
    end: Vec<u8>,
}

impl Rows {
    fn see(&mut self, bytes: &[u8]) {
        self.feeds += memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.end.extend_from_slice(bytes.get(bytes.len().saturating_sub(END.len())..).unwrap_or_default());
        self.end.drain(..self.end.len().saturating_sub(END.len()));
    }

    fn finish(&self) -> u64 {
        let behind = if self.end == END { 3 } else { 0 };
        self.feeds.saturating_sub(behind)
    }
}

/// What a dump says of its text, and the rows of each of its tables, by schema and name.
pub(crate) struct Counted {
    /// Statements by which a session speaks the dump's encoding.
    pub(crate) settings: Vec<Vec<u8>>,
    /// The rows.
    pub(crate) rows: BTreeMap<Key, u64>,
}

/// Counts the rows of a dump; all of them are read.
///
/// # Errors
/// What cannot be read.
pub(crate) fn counted(from: Origin<'_>, dump: &Dump) -> Result<Counted> {
    let stored: Stored<'_> = Databases::open(from, dump)?;
    let mut found: BTreeMap<i64, Rows> = BTreeMap::new();
    stored.read_rows(None, &mut |id, bytes| {
        found.entry(id).or_default().see(bytes);
        Ok(())
    })?;
    let count = |id: &i64| found.get(id).map_or(0, Rows::finish);
    let rows = stored.with_rows().iter().map(|(id, key)| (key.clone(), count(id))).collect();
    Ok(Counted { settings: stored.settings(), rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_the_rows_is_none() {
        for (text, expected) in
            [("\\.\n\n\n", 0), ("1\ta\n\\.\n\n\n", 1), ("1\\n\n\n2\n\\.\n\n\n", 3), ("1\n2\n", 2), ("", 0)]
        {
            for part in [1, 2, 4, 100] {
                let mut rows = Rows::default();
                text.as_bytes().chunks(part).for_each(|bytes| rows.see(bytes));
                assert_eq!(rows.finish(), expected, "{text:?}");
            }
        }
    }
}
