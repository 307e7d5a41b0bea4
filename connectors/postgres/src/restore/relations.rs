//! Entries of a table of contents that can be asked for by name.

use crate::toc::{Toc, TocEntry};
use std::collections::BTreeMap;

/// Kinds that can be asked for.
pub(crate) const RELATIONS: &[&str] = &["TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE", "SEQUENCE"];

pub(crate) fn is_relation(entry: &TocEntry) -> bool {
    RELATIONS.contains(&entry.kind.as_str())
}

/// A name in quotes, in whichever encoding of a server's.
pub(crate) fn quote(name: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in name {
        out.push(*byte);
        out.extend((*byte == b'"').then_some(b'"'));
    }
    out.push(b'"');
}

/// `"schema"."table"`, which tells `a.b` of one schema from `b` of another.
pub(crate) fn quoted(entry: &TocEntry) -> Vec<u8> {
    quoted_pair(&entry.bytes.namespace, &entry.bytes.tag)
}

/// The same of two names.
pub(crate) fn quoted_pair(schema: &[u8], table: &[u8]) -> Vec<u8> {
    let mut text = vec![];
    quote(schema, &mut text);
    text.push(b'.');
    quote(table, &mut text);
    text
}

/// The first of the ways to write a name by which something is called so: both parts in quotes, with its schema, by its
/// own name alone.
pub(crate) fn called<'a, T>(all: impl Iterator<Item = (&'a str, &'a str, T)> + Clone, name: &str) -> Vec<T> {
    let forms: [fn(&str, &str) -> String; 3] = [
        |schema, table| {
            String::from_utf8_lossy(&quoted_pair(schema.as_bytes(), table.as_bytes())).into_owned()
        },
        |schema, table| format!("{schema}.{table}"),
        |_, table| table.to_owned(),
    ];
    let by = |form: &fn(&str, &str) -> String| {
        let fits = all.clone().filter(|(schema, table, _)| form(schema, table) == name);
        fits.map(|(.., one)| one).collect::<Vec<T>>()
    };
    forms.iter().map(by).find(|found| !found.is_empty()).unwrap_or_default()
}

pub(crate) fn full_name(entry: &TocEntry) -> String {
    format!("{}.{}", entry.namespace, entry.tag)
}

/// The entry of the rows of each relation, by the relation's number: the first, where a dump has several.
pub(crate) fn rows_of_all(toc: &Toc) -> BTreeMap<i64, i64> {
    let name = |entry: &TocEntry| (entry.bytes.namespace.clone(), entry.bytes.tag.clone());
    let mut rows = BTreeMap::new();
    for entry in toc.entries.iter().filter(|entry| entry.has_data && entry.kind == "TABLE DATA") {
        let needs = entry.needs.iter().filter_map(|id| toc.get(*id));
        for relation in needs.filter(|needed| is_relation(needed) && name(needed) == name(entry)) {
            rows.entry(relation.id).or_insert(entry.id);
        }
    }
    rows
}
