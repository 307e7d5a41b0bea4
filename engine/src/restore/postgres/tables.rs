//! What belongs to single tables of a dump: their rows, partitions, sequences, keys, indexes, triggers, privileges.
//! pg_restore's own `--table` leaves all but the rows out.

use crate::pg::connection::PgResult;
use crate::pg::toc::{Toc, TocEntry};
use crate::pg::{Connection, Server};
use crate::{Error, Result};
use std::collections::BTreeSet;

/// Entries to restore.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    /// Their numbers.
    pub(super) ids: BTreeSet<i64>,
    /// Whether tables that are there go first.
    pub(super) replaces: bool,
}

/// Kinds that belong to the table that they need.
const PARTS: &[&str] = &[
    "TABLE DATA",
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
    "SEQUENCE OWNED BY",
];
/// Kinds that belong to it if whatever else they need is there.
const BONDS: &[&str] = &["DEFAULT", "INDEX ATTACH", "FK CONSTRAINT", "TRIGGER", "RULE", "POLICY"];
/// Kinds that a table is made of: they come along if the database lacks them.
const GROUNDS: &[&str] = &["SEQUENCE", "TYPE", "DOMAIN", "FUNCTION", "EXTENSION"];
/// Kinds that have rows.
const RELATIONS: &[&str] = &["TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE"];

/// The entries of `names` and what belongs to them, for a database that `session` is in.
pub(super) fn choose(
    toc: &Toc,
    names: &[String],
    session: &mut Connection,
    server: &Server,
    replace: bool,
) -> Result<Chosen> {
    let mut wanted: Vec<&TocEntry> = vec![];
    for name in names {
        let found: Vec<&TocEntry> =
            toc.entries.iter().filter(|entry| entry.kind == "TABLE" && is_called(entry, name)).collect();
        match found.as_slice() {
            [one] => wanted.push(one),
            [] => return Err(Error::Invalid(format!("there is no table '{name}' in the dump"))),
            several => {
                let all: Vec<String> = several.iter().map(|entry| full_name(entry)).collect();
                return Err(Error::Invalid(format!("'{name}' may be {}; say which", all.join(" or "))));
            }
        }
    }
    let failed = |error| Error::from(server.failed(&error));
    let ids = closure(toc, &wanted, &mut |entry| exists(session, entry)).map_err(failed)?;
    let mut there = vec![];
    for entry in toc.entries.iter().filter(|entry| entry.kind == "TABLE" && ids.contains(&entry.id)) {
        if exists(session, entry).map_err(failed)? {
            there.push(full_name(entry));
        }
    }
    if !there.is_empty() && !replace {
        return Err(Error::Refused(format!(
            "there already: {}; --replace drops them first, another database in the URL leaves them alone",
            there.join(", ")
        )));
    }
    Ok(Chosen { ids, replaces: replace })
}

fn full_name(entry: &TocEntry) -> String {
    format!("{}.{}", entry.namespace, entry.tag)
}

fn is_called(entry: &TocEntry, name: &str) -> bool {
    entry.tag == name || full_name(entry) == name
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether the database has what an entry makes; of kinds that cannot be asked for, yes.
fn exists(session: &mut Connection, entry: &TocEntry) -> PgResult<bool> {
    let name = format!("{}.{}", quoted(&entry.namespace), quoted(&entry.tag)).replace('\'', "''");
    let sql = match entry.kind.as_str() {
        kind if RELATIONS.contains(&kind) || matches!(kind, "SEQUENCE" | "INDEX") => {
            format!("SELECT to_regclass('{name}') IS NOT NULL")
        }
        "SCHEMA" => {
            format!("SELECT to_regnamespace('{}') IS NOT NULL", quoted(&entry.tag).replace('\'', "''"))
        }
        "TYPE" | "DOMAIN" => format!("SELECT to_regtype('{name}') IS NOT NULL"),
        "EXTENSION" => {
            let name = entry.tag.replace('\'', "''");
            format!("SELECT count(*) > 0 FROM pg_catalog.pg_extension WHERE extname = '{name}'")
        }
        "FUNCTION" => {
            let signature = format!("{}.{}", quoted(&entry.namespace), entry.tag).replace('\'', "''");
            format!("SELECT to_regprocedure('{signature}') IS NOT NULL")
        }
        _ => return Ok(true),
    };
    Ok(session.value(&sql)? == "t")
}

/// Everything that belongs to `wanted`, schemas among it that are not there.
fn closure(
    toc: &Toc,
    wanted: &[&TocEntry],
    exists: &mut dyn FnMut(&TocEntry) -> PgResult<bool>,
) -> PgResult<BTreeSet<i64>> {
    let mut ids: BTreeSet<i64> = wanted.iter().map(|entry| entry.id).collect();
    loop {
        let before = ids.len();
        for entry in &toc.entries {
            let kind = entry.kind.as_str();
            let belongs = entry.needs.iter().any(|id| ids.contains(id));
            if !belongs || ids.contains(&entry.id) {
                continue;
            }
            if kind == "TABLE ATTACH" {
                // Of a partition and its table; it bears the partition's name.
                let child = entry.needs.iter().filter_map(|id| toc.get(*id)).find(|needed| {
                    needed.kind == "TABLE" && needed.tag == entry.tag && needed.namespace == entry.namespace
                });
                let has_parent =
                    entry.needs.iter().any(|id| ids.contains(id) && Some(*id) != child.map(|c| c.id));
                if has_parent {
                    ids.extend(child.map(|child| child.id));
                    ids.insert(entry.id);
                }
            } else if kind == "SEQUENCE OWNED BY" {
                let sequence =
                    entry.needs.iter().filter(|id| toc.get(**id).is_some_and(|e| e.kind == "SEQUENCE"));
                ids.extend(sequence);
                ids.insert(entry.id);
            } else if PARTS.contains(&kind) {
                ids.insert(entry.id);
            }
        }
        if ids.len() == before {
            break;
        }
    }
    for entry in toc.entries.iter().filter(|entry| BONDS.contains(&entry.kind.as_str())) {
        if !entry.needs.iter().any(|id| ids.contains(id)) {
            continue;
        }
        let mut is_possible = true;
        for needed in entry.needs.iter().filter(|id| !ids.contains(id)).filter_map(|id| toc.get(*id)) {
            is_possible &= exists(needed)?;
        }
        // A foreign key of another table that points here is that table's.
        let is_own = wanted_table(toc, entry).is_none_or(|table| ids.contains(&table));
        if is_possible && is_own {
            ids.insert(entry.id);
        }
    }
    let mut unseen: Vec<i64> = ids.iter().copied().collect();
    while let Some(entry) = unseen.pop().and_then(|id| toc.get(id)) {
        for needed in entry.needs.iter().filter_map(|id| toc.get(*id)) {
            let is_ground = GROUNDS.contains(&needed.kind.as_str()) && !ids.contains(&needed.id);
            if is_ground && !exists(needed)? {
                ids.insert(needed.id);
                unseen.push(needed.id);
                let set =
                    toc.entries.iter().find(|e| e.kind == "SEQUENCE SET" && e.needs.contains(&needed.id));
                ids.extend(set.map(|set| set.id));
            }
        }
    }
    let namespaces: BTreeSet<&str> = toc
        .entries
        .iter()
        .filter(|entry| ids.contains(&entry.id))
        .map(|entry| entry.namespace.as_str())
        .collect();
    for schema in toc.entries.iter().filter(|entry| entry.kind == "SCHEMA") {
        if namespaces.contains(schema.tag.as_str()) && !exists(schema)? {
            ids.insert(schema.id);
        }
    }
    Ok(ids)
}

/// The table that a constraint, trigger, rule or policy is of: its name is `table name`.
fn wanted_table(toc: &Toc, entry: &TocEntry) -> Option<i64> {
    let is_of = |table: &&TocEntry| {
        RELATIONS.contains(&table.kind.as_str())
            && table.namespace == entry.namespace
            && entry.tag.strip_prefix(&table.tag).is_some_and(|rest| rest.starts_with(' '))
    };
    let needed = entry.needs.iter().filter_map(|id| toc.get(*id));
    needed.filter(is_of).max_by_key(|table| table.tag.len()).map(|table| table.id)
}
