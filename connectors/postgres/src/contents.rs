//! The tables, views and sequences of a database's dump, for `ls`, `find`, `dump` and `diff`: dumps in directory format,
//! and in custom format with the index beside them.

pub(crate) mod counted;
mod stored;

use crate::restore::relations::quoted;
use crate::toc::TocEntry;
use connector_kit::members::{Dump, Layout, Place, written};
use connector_kit::tables::{Dumps, Table, Tables, changes};
use engine::connector::Origin;
use engine::connector::contents::{Change, Output};
use engine::{Error, Result};
pub(crate) use stored::Stored;
use stored::{Key, changed_rows};

/// Dumps of databases.
pub(crate) struct Databases;

pub(crate) const LAYOUT: Layout = Databases::LAYOUT;

/// `schema.table`.
fn name(entry: &TocEntry) -> Vec<u8> {
    [&entry.bytes.namespace[..], b".", &entry.bytes.tag].concat()
}

/// The relation that a path names: with its schema, in quotes, or by its own name if no other has it.
fn named<'a>(stored: &'a Stored<'_>, place: &Place) -> Result<Option<&'a TocEntry>> {
    let forms: [fn(&TocEntry) -> Vec<u8>; 3] = [quoted, name, |entry: &TocEntry| entry.bytes.tag.clone()];
    for form in forms {
        let found: Vec<&TocEntry> =
            stored.relations().filter(|entry| place.is_called(&form(entry))).collect();
        match found.as_slice() {
            [] => {}
            [one] => return Ok(Some(one)),
            several => {
                let all: Vec<String> = several
                    .iter()
                    .map(|entry| String::from_utf8_lossy(&quoted(entry)).into_owned())
                    .collect();
                return Err(Error::Invalid(format!("this may be {}: name one so", all.join(" or "))));
            }
        }
    }
    Ok(None)
}

impl Dumps for Databases {
    const LAYOUT: Layout =
        Layout { kind: "postgres", folder: "databases", ending: Some(".dump"), is_folder: true };
    const PATH: &'static str = "DATABASE/SCHEMA.TABLE";
    type Stored<'a> = Stored<'a>;

    fn open<'a>(from: Origin<'a>, dump: &Dump) -> Result<Stored<'a>> {
        Stored::open(from, dump)
    }
}

impl Tables for Stored<'_> {
    fn tables(&self) -> Vec<Table> {
        let table = |entry: &TocEntry| Table {
            name: name(entry),
            kind: entry.kind.to_lowercase(),
            size: self.size(entry),
        };
        self.relations().map(table).collect()
    }

    /// The definition, then the rows as pg_restore would load them, then keys and indexes: what psql takes.
    fn read(&self, place: &Place, out: Output<'_>) -> Result<Option<u64>> {
        let Some(entry) = named(self, place)? else { return Ok(None) };
        self.has_rows_of(entry)?;
        written(out, |out| self.write(entry, out)).map(Some)
    }

    fn changes(&self, newer: &Self) -> Result<Vec<(Change, Vec<u8>)>> {
        let (before, after) = (self.definitions(), newer.definitions());
        let rows = changed_rows(self, newer)?;
        let changes = changes(&before, &after, |key, one, other| one != other || rows.contains(key));
        let name = |(change, key): (Change, &Key)| (change, [&key.0[..], b".", &key.1].concat());
        Ok(changes.into_iter().map(name).collect())
    }
}
