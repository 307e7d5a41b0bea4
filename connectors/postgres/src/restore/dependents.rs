//! What depends on relations that a restore drops. The server refuses to drop them without it, and says so only when they
//! are dropped: here it is found out before, from its catalogue and without a lock, for the plan as for the restore.

use super::relations::full_name;
use super::there::qualified;
use crate::Connection;
use crate::connection::PgResult;
use crate::toc::TocEntry;
use engine::{Error, Result};
use std::collections::BTreeSet;

/// How many dependents a message names.
const NAMED: usize = 20;

/// An object that stays, and needs one that goes.
pub(super) struct Dependent {
    /// The entry whose relation it needs.
    pub(super) of: i64,
    /// What it is, as the server calls it.
    what: String,
}

/// The objects that keep the server from dropping the relations of `entries` together. What goes with them (their
/// indexes, defaults, partitions, views' rules) is none.
pub(super) fn dependents(session: &mut Connection, entries: &[&TocEntry]) -> PgResult<Vec<Dependent>> {
    if entries.is_empty() {
        return Ok(vec![]);
    }
    let roots: Vec<String> =
        entries.iter().map(|entry| format!("({}, {})", entry.id, qualified(entry))).collect();
    // Dependents of type `a`, `i`, `P` and `S` go with what they depend on; others are in the way, or what they are
    // an internal part of: a view for its rule, the constraint of a table for those of its partitions. A sequence of an
    // identity column is in the way of itself.
    let rows = session.query(&format!(
        "WITH RECURSIVE root AS (SELECT v.id, pg_catalog.to_regclass(v.name)::pg_catalog.oid AS oid \
         FROM (VALUES {}) v(id, name)), \
         gone AS (SELECT id, 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid AS classid, oid AS objid \
         FROM root WHERE oid IS NOT NULL \
         UNION SELECT g.id, d.classid, d.objid FROM pg_catalog.pg_depend d JOIN gone g \
         ON d.refclassid = g.classid AND d.refobjid = g.objid WHERE d.deptype IN ('a', 'i', 'P', 'S')), \
         near AS (SELECT g.id, d.classid, d.objid, d.objsubid FROM pg_catalog.pg_depend d JOIN gone g \
         ON d.refclassid = g.classid AND d.refobjid = g.objid WHERE d.deptype = 'n' \
         UNION SELECT r.id, d.refclassid, d.refobjid, d.refobjsubid FROM pg_catalog.pg_depend d JOIN root r \
         ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = r.oid WHERE d.deptype IN ('i', 'e') \
         UNION SELECT n.id, d.refclassid, d.refobjid, d.refobjsubid FROM pg_catalog.pg_depend d JOIN near n \
         ON d.classid = n.classid AND d.objid = n.objid WHERE d.deptype = 'i') \
         SELECT DISTINCT n.id, pg_catalog.pg_describe_object(n.classid, n.objid, n.objsubid) FROM near n \
         WHERE NOT EXISTS (SELECT FROM gone g WHERE g.classid = n.classid AND g.objid = n.objid) \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = n.classid AND d.objid = n.objid \
         AND d.deptype = 'i') ORDER BY 1, 2",
        roots.join(", ")
    ))?;
    let read = |row: Vec<Option<String>>| {
        let mut row = row.into_iter().flatten();
        Some(Dependent { of: row.next()?.parse().ok()?, what: row.next()? })
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

/// That nothing depends on what is dropped but the other relations that are.
pub(super) fn check(found: &[Dependent], entries: &[&TocEntry]) -> Result<()> {
    let of = |one: &Dependent| entries.iter().find(|entry| entry.id == one.of).map(|entry| full_name(entry));
    let tables: BTreeSet<String> = found.iter().filter_map(of).collect();
    if tables.is_empty() {
        return Ok(());
    }
    let all: BTreeSet<&str> = found.iter().map(|one| one.what.as_str()).collect();
    let mut named: Vec<&str> = all.iter().take(NAMED).copied().collect();
    let more = format!("{} more", all.len().saturating_sub(NAMED));
    named.extend((all.len() > NAMED).then_some(more.as_str()));
    Err(Error::Refused(format!(
        "other objects depend on {}, which --replace drops first: {}; choose their tables and views by --table, too, if the dump has them, or drop them yourself; nothing was changed",
        tables.into_iter().collect::<Vec<_>>().join(", "),
        named.join(", ")
    )))
}

/// That each relation which is dropped is on the server what it is in the dump: `DROP TABLE` drops no view.
pub(super) fn check_kinds(session: &mut Connection, entries: &[&TocEntry]) -> PgResult<Result<()>> {
    for entry in entries {
        let kind = session.query(&format!(
            "SELECT CASE relkind WHEN 'r' THEN 'TABLE' WHEN 'p' THEN 'TABLE' WHEN 'v' THEN 'VIEW' \
             WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'S' THEN 'SEQUENCE' \
             WHEN 'c' THEN 'TYPE' ELSE 'INDEX' END \
             FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass({})",
            qualified(entry)
        ))?;
        let Some(kind) = kind.into_iter().flatten().flatten().next() else { continue };
        if kind != entry.kind {
            let name = full_name(entry);
            return Ok(Err(Error::Refused(format!(
                "{name} is a {} in the database and a {} in the dump, so --replace cannot replace it: drop or rename the {0} first; nothing was changed",
                kind.to_lowercase(),
                entry.kind.to_lowercase()
            ))));
        }
    }
    Ok(Ok(()))
}
