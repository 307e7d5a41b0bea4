//! Partitions that a table has on the server and not in the dump: they go when the table is replaced, and nothing brings them
//! back.

use super::relations::{called, full_name, is_relation};
use super::there::qualified;
use crate::Connection;
use crate::connection::PgResult;
use crate::sql::quoted_name;
use crate::toc::{Toc, TocEntry};
use engine::{Error, Result};
use std::collections::BTreeSet;

/// A partition of a table that is replaced.
pub(super) struct Lost {
    /// The table, as `schema.table`.
    pub(super) table: String,
    namespace: String,
    tag: String,
}

impl Lost {
    /// Its name, as `schema.table`.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.namespace, self.tag)
    }

    fn is_called(&self, name: &str) -> bool {
        !called(std::iter::once((self.namespace.as_str(), self.tag.as_str(), ())), name).is_empty()
    }
}

/// Partitions, at whatever depth, of the tables `there` that are not among the entries `ids`, which come back.
pub(super) fn lost(
    session: &mut Connection,
    toc: &Toc,
    there: &[&TocEntry],
    ids: &BTreeSet<i64>,
) -> PgResult<Vec<Lost>> {
    let (mut all, mut seen) = (vec![], BTreeSet::new());
    let back = toc.entries.iter().filter(|entry| ids.contains(&entry.id) && is_relation(entry));
    let back: BTreeSet<(&str, &str)> =
        back.map(|entry| (entry.namespace.as_str(), entry.tag.as_str())).collect();
    for table in there {
        let rows = session.query(&format!(
            "WITH RECURSIVE tree AS (SELECT pg_catalog.to_regclass({})::pg_catalog.oid AS oid, 0 AS depth \
             UNION SELECT i.inhrelid, tree.depth + 1 FROM pg_catalog.pg_inherits i JOIN tree ON i.inhparent = tree.oid \
             JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition) \
             SELECT n.nspname, c.relname FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY tree.depth, 1, 2",
            qualified(table)
        ))?;
        for row in rows {
            let mut row = row.into_iter().map(Option::unwrap_or_default);
            let (Some(namespace), Some(tag)) = (row.next(), row.next()) else { continue };
            let comes_back = back.contains(&(namespace.as_str(), tag.as_str()));
            if !comes_back && seen.insert((namespace.clone(), tag.clone())) {
                all.push(Lost { table: full_name(table), namespace, tag });
            }
        }
    }
    Ok(all)
}

/// That all of them are `named`, and that all that are named are among them.
pub(super) fn check(lost: &[Lost], named: &[&String]) -> Result<()> {
    if let Some(name) = named.iter().find(|name| !lost.iter().any(|lost| lost.is_called(name))) {
        return Err(no_table(name));
    }
    let unnamed: Vec<&Lost> =
        lost.iter().filter(|lost| !named.iter().any(|name| lost.is_called(name))).collect();
    let Some(first) = unnamed.first() else { return Ok(()) };
    let all: Vec<String> = unnamed.iter().map(|lost| lost.name()).collect();
    Err(Error::Refused(format!(
        "table {} has partitions that the dump does not have: {}; they would be dropped with it: name them by --table, too, or keep them by ALTER TABLE … DETACH PARTITION {}.{}",
        first.table,
        all.join(", "),
        quoted_name(&first.namespace),
        quoted_name(&first.tag)
    )))
}

/// What a name that stands for nothing is.
pub(super) fn no_table(name: &str) -> Error {
    Error::Invalid(format!("there is no table '{name}' in the dump"))
}
