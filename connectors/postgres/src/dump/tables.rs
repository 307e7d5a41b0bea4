//! The tables of a database, and the COPYs that give their rows. Names are bytes in the session's encoding: what
//! PostgreSQL calls a table need not be UTF-8.
//! Source: `getTables`, `dumpTableData_copy` in `pg_dump.c`.

use super::copies::Wanted;
use crate::Connection;
use crate::connection::{PgError, PgResult};
use crate::limits;
use crate::toc::TocEntry;
use engine::names::encoded_bytes;
use engine::source::{SourceError, SourceErrorKind};
use std::collections::BTreeMap;

/// Bytes of a table that are read as one.
const STRETCH: u64 = 8 << 20;
/// Tables that are locked by one statement.
const LOCKED: usize = 500;
/// Since this version, ranges of places within a table are read without the rest of it.
const RANGE_SCANS: u32 = 14;
/// File systems allow 255 bytes.
const LONGEST_NAME: usize = 240;

/// The code of what is to be tried anew.
pub(super) const ANEW: &str = "40001";

/// Keeps tables from being changed or dropped until they are read; returns how many there are. From here on the session
/// is in the database's own encoding, in which every name survives.
///
/// # Errors
/// With `ANEW` if a name has come to mean something else before it was locked.
pub(super) fn lock_tables(session: &mut Connection) -> PgResult<usize> {
    session
        .query("SELECT pg_catalog.set_config('client_encoding', pg_catalog.getdatabaseencoding(), false)")?;
    let rows = session.query_bytes(
        b"SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), \
         c.oid::text, c.relkind \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' \
         AND n.nspname <> 'information_schema' AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
         AND pg_catalog.has_table_privilege(c.oid, 'SELECT') ORDER BY c.oid",
    )?;
    let tables: Vec<[Vec<u8>; 3]> = rows
        .into_iter()
        .filter_map(|row| row.into_iter().flatten().collect::<Vec<_>>().try_into().ok())
        .collect();
    limits::check_locks(session, tables.len())?;
    for some in tables.chunks(LOCKED) {
        let names: Vec<&[u8]> = some.iter().map(|[name, ..]| name.as_slice()).collect();
        let sql = [b"LOCK TABLE ", names.join(&b", "[..]).as_slice(), b" IN ACCESS SHARE MODE"].concat();
        session.query_bytes(&sql)?;
        check_names(session, some)?;
    }
    Ok(tables.len())
}

/// That what was locked by name is what was listed. Rows of catalogues show the moment of the list; these functions, what
/// is so now. An ordinary table has a file; a view that was made of one has none.
fn check_names(session: &mut Connection, tables: &[[Vec<u8>; 3]]) -> PgResult<()> {
    let same = |[name, oid, kind]: &[Vec<u8>; 3]| {
        let text = name.iter().flat_map(|byte| if *byte == b'\'' { vec![*byte; 2] } else { vec![*byte] });
        let mut sql = b"pg_catalog.to_regclass('".to_vec();
        sql.extend(text);
        sql.extend(
            [b"') IS NOT DISTINCT FROM ", oid.as_slice(), b"::pg_catalog.oid::pg_catalog.regclass"].concat(),
        );
        if kind == b"r" {
            sql.extend([b" AND pg_catalog.pg_relation_filenode(", oid.as_slice(), b") IS NOT NULL"].concat());
        }
        sql
    };
    let all: Vec<Vec<u8>> = tables.iter().map(same).collect();
    let sql = [b"SELECT array_position(ARRAY[", all.join(&b", "[..]).as_slice(), b"], false)"].concat();
    let sql = [b"SET standard_conforming_strings = on; ", sql.as_slice()].concat();
    let other = session.query_bytes(&sql)?.into_iter().flatten().flatten().next();
    let Some(at) = other else { return Ok(()) };
    let at = String::from_utf8_lossy(&at).parse::<usize>().unwrap_or(1);
    let name = tables.get(at - 1).map_or("".into(), |[name, ..]| String::from_utf8_lossy(name));
    let message =
        format!("table {name} was exchanged for something else before it could be locked; try again");
    Err(PgError::Refused { code: ANEW.into(), message })
}

/// A table's rows, under a name that tells which: in UTF-8 where there is such a thing.
pub(super) fn file_name(entry: &TocEntry) -> String {
    let part = |text: &str, bytes: &[u8]| {
        let is_text = !text.contains(char::REPLACEMENT_CHARACTER) || std::str::from_utf8(bytes).is_ok();
        encoded_bytes(if is_text { text.as_bytes() } else { bytes }, ".")
    };
    let (schema, table) =
        (part(&entry.namespace, &entry.bytes.namespace), part(&entry.tag, &entry.bytes.tag));
    let name = format!("{schema}.{table}.dat");
    if name.len() > LONGEST_NAME { format!("{}.dat", entry.oid) } else { name }
}

/// What is known about the tables of a database, by number.
pub(super) struct Tables {
    /// Pages, and how many of them make a stretch.
    pages: BTreeMap<String, (u64, u64)>,
    /// Of extensions' tables: which rows are the user's.
    conditions: BTreeMap<String, Vec<u8>>,
}

impl Tables {
    pub(super) fn read(session: &mut Connection) -> PgResult<Self> {
        let rows = session.query(
            "SELECT c.oid, pg_catalog.pg_relation_size(c.oid), pg_catalog.pg_table_size(c.oid), \
             pg_catalog.current_setting('block_size') FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_am a ON a.oid = c.relam WHERE c.relkind = 'r' AND a.amname = 'heap'",
        )?;
        let mut pages = BTreeMap::new();
        for row in rows {
            let [Some(oid), Some(heap), Some(all), Some(block)] = row.as_slice() else { continue };
            let number = |text: &str| text.parse::<u64>().unwrap_or_default();
            let (heap, all, block) = (number(heap), number(all), number(block).max(1));
            // What lies outside of its pages counts, too.
            let stretch = (u128::from(STRETCH) * u128::from(heap) / u128::from(all.max(1))) as u64 / block;
            pages.insert(oid.clone(), (heap / block, stretch.max(1)));
        }
        let rows = session.query_bytes(
            b"SELECT t.config, t.condition FROM pg_catalog.pg_extension e, \
             unnest(e.extconfig, e.extcondition) t(config, condition) WHERE t.condition <> ''",
        )?;
        let conditions = rows.into_iter().filter_map(|row| match row.as_slice() {
            [Some(oid), Some(condition)] => {
                Some((String::from_utf8_lossy(oid).into_owned(), condition.clone()))
            }
            _ => None,
        });
        Ok(Self { pages, conditions: conditions.collect() })
    }

    /// The COPYs that give a table's rows in their order.
    pub(super) fn stretches(&self, entry: &TocEntry, major: u32) -> Result<Vec<Wanted>, SourceError> {
        let bad = || {
            let why = format!("an unknown kind of COPY: {}", entry.copy.trim());
            SourceError::new(SourceErrorKind::Incomplete, "pg_dump", why)
        };
        let copy = entry.bytes.copy.trim_ascii_end();
        let what = copy.strip_prefix(b"COPY ").and_then(|rest| rest.strip_suffix(b" FROM stdin;"));
        let (table, columns) = what.and_then(split_columns).ok_or_else(bad)?;
        if let Some(condition) = self.conditions.get(&entry.oid) {
            let sql =
                [b"COPY (SELECT ", columns, b" FROM ONLY ", table, b" ", condition, b") TO STDOUT"].concat();
            return Ok(vec![Wanted::Copy(sql)]);
        }
        let (pages, stretch) = self.pages.get(&entry.oid).copied().unwrap_or_default();
        if pages <= stretch || major < RANGE_SCANS || columns.is_empty() {
            let columns = if columns.is_empty() { vec![] } else { [b" (", columns, b")"].concat() };
            return Ok(vec![Wanted::Copy([b"COPY ", table, &columns, b" TO STDOUT"].concat())]);
        }
        let starts = (0..pages).step_by(usize::try_from(stretch).unwrap_or(usize::MAX));
        let copy = |from: u64| {
            // The last is open: pages that came after the count may have rows that are visible.
            let to = from + stretch;
            let bound = if to < pages { format!(" AND ctid < '({to},0)'") } else { String::new() };
            let range = format!(" WHERE ctid >= '({from},0)'{bound}) TO STDOUT");
            [b"COPY (SELECT ", columns, b" FROM ONLY ", table, range.as_bytes()].concat()
        };
        Ok(starts.map(|from| Wanted::Copy(copy(from))).collect())
    }
}

/// `public."a (b)" (x, "y)")` as the table and its columns. No encoding that a server may have gives the bytes of a
/// blank or a quote another meaning.
fn split_columns(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut quoted = false;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b' ' if !quoted => {
                let columns = text[at..].trim_ascii();
                return match columns {
                    b"" | b"()" => Some((&text[..at], b"")),
                    _ => Some((&text[..at], columns.strip_prefix(b"(")?.strip_suffix(b")")?)),
                };
            }
            _ => {}
        }
    }
    Some((text, &b""[..])).filter(|_| !quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_columns() {
        for (text, expected) in [
            ("public.t (a, b)", Some(("public.t", "a, b"))),
            ("\"my (\"\"x)\".\"t t\" (\"a)\", b)", Some(("\"my (\"\"x)\".\"t t\"", "\"a)\", b"))),
            ("public.t ", Some(("public.t", ""))),
            ("public.t", Some(("public.t", ""))),
            ("public.t a", None),
        ] {
            let expected = expected.map(|(table, columns)| (table.as_bytes(), columns.as_bytes()));
            assert_eq!(split_columns(text.as_bytes()), expected, "{text}");
        }
    }

    /// Names that one could take for others', or for files that are there anyway.
    #[test]
    fn every_table_has_a_file_of_its_own() {
        let long = "ü".repeat(31);
        let wide = "\u{1}".repeat(63);
        let all: [(&[u8], &[u8]); 17] = [
            (b".", b".."),
            (b"..", b"."),
            (b".", b"."),
            (b"a.b", b"c"),
            (b"a", b"b.c"),
            (b"a", b"b/c"),
            (b"a", b"b%2Fc"),
            (b"a", b"B/c"),
            (b"A", b"b/c"),
            (b"toc", b"dat"),
            (b"blob_1", b"dat"),
            (b"a", b"%"),
            (long.as_bytes(), long.as_bytes()),
            (wide.as_bytes(), wide.as_bytes()),
            (b"t", b"t\xe9b"),
            (b"t", b"t%E9b"),
            (b"t", "t\u{e9}b".as_bytes()),
        ];
        let mut names =
            std::collections::BTreeSet::from(["toc.dat".to_owned(), "blobs.toc".into(), "blob_1.dat".into()]);
        for (number, (namespace, tag)) in all.into_iter().enumerate() {
            let entry = TocEntry::named(16_384 + number, namespace, tag);
            let name = file_name(&entry);
            assert!(
                engine::entry::is_valid_path(name.as_bytes()) && !name.contains('/') && name.len() <= 255,
                "{name}"
            );
            assert!(names.insert(name.clone()), "{name}");
        }
    }
}
