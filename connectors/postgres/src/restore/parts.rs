//! What belongs to entries of a table of contents, and is nothing without them.

use super::relations::is_relation;
use crate::toc::{Toc, TocEntry};
use std::collections::BTreeSet;

/// Kinds that belong to what they need.
const PARTS: &[&str] = &[
    "TABLE DATA",
    "MATERIALIZED VIEW DATA",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "INDEX",
    "ACL",
    "COMMENT",
    "SECURITY LABEL",
    "STATISTICS",
    "STATISTICS DATA",
    "ROW SECURITY",
    "SEQUENCE",
    "SEQUENCE SET",
];
/// Kinds that others are made of: they come along if the database lacks them.
pub(crate) const GROUNDS: &[&str] = &[
    "TABLE",
    "VIEW",
    "MATERIALIZED VIEW",
    "FOREIGN TABLE",
    "SEQUENCE",
    "TYPE",
    "SHELL TYPE",
    "DOMAIN",
    "FUNCTION",
    "PROCEDURE",
    "AGGREGATE",
    "OPERATOR",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "COLLATION",
    "EXTENSION",
    "SERVER",
    "FOREIGN DATA WRAPPER",
    "PROCEDURAL LANGUAGE",
    "ACCESS METHOD",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
];
/// `ids`, and everything that is a part of them; of tables, `partitions`, too.
pub(crate) fn parts(toc: &Toc, ids: &BTreeSet<i64>, partitions: bool) -> BTreeSet<i64> {
    let mut ids = ids.clone();
    loop {
        let before = ids.len();
        for entry in &toc.entries {
            let kind = entry.kind.as_str();
            if ids.contains(&entry.id) || !entry.needs.iter().any(|id| ids.contains(id)) {
                continue;
            }
            match kind {
                "TABLE ATTACH" if partitions => {
                    let child = partition(toc, entry);
                    if entry.needs.iter().any(|id| ids.contains(id) && Some(*id) != child) {
                        ids.extend(child);
                        ids.insert(entry.id);
                    }
                }
                "SEQUENCE OWNED BY" => {
                    let is_sequence = |id: &i64| toc.get(*id).is_some_and(|needed| needed.kind == "SEQUENCE");
                    // A sequence is a part of its table; the table is none of the sequence.
                    if entry.needs.iter().any(|id| ids.contains(id) && !is_sequence(id)) {
                        ids.extend(entry.needs.iter().filter(|id| is_sequence(id)));
                        ids.insert(entry.id);
                    }
                }
                kind if PARTS.contains(&kind) && is_of_one(toc, entry, &ids) => {
                    ids.insert(entry.id);
                }
                _ => {}
            }
        }
        if ids.len() == before {
            return ids;
        }
    }
}

/// Whether an entry that needs a table, or several, needs one of `ids`: an index of a partition needs its table's, too,
/// but is not that one's.
fn is_of_one(toc: &Toc, entry: &TocEntry, ids: &BTreeSet<i64>) -> bool {
    let mut tables =
        entry.needs.iter().filter_map(|id| toc.get(*id)).filter(|needed| is_relation(needed)).peekable();
    tables.peek().is_none() || tables.any(|table| ids.contains(&table.id))
}

/// The partition that an entry attaches; the entry bears its name.
pub(super) fn partition(toc: &Toc, attach: &TocEntry) -> Option<i64> {
    let needed = attach.needs.iter().filter_map(|id| toc.get(*id));
    let mut children =
        needed.filter(|needed| needed.tag == attach.tag && needed.namespace == attach.namespace);
    children.find(|needed| matches!(needed.kind.as_str(), "TABLE" | "FOREIGN TABLE")).map(|child| child.id)
}
