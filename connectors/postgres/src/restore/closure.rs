//! What single tables need of a dump besides their own parts: what they are made of and the database lacks, and what ties
//! them to each other and to what is there.

use super::parts::{GROUNDS, partition, parts};
use super::relations::{RELATIONS, is_relation};
use super::there::exists;
use crate::Connection;
use crate::connection::PgResult;
use crate::sql::tokens;
use crate::toc::{Toc, TocEntry};
use std::collections::{BTreeMap, BTreeSet};

/// Kinds that belong to it if whatever else they need is there.
const BONDS: &[&str] = &[
    "DEFAULT",
    "INDEX ATTACH",
    "FK CONSTRAINT",
    "TRIGGER",
    "RULE",
    "POLICY",
    "TABLE ATTACH",
    "SEQUENCE OWNED BY",
    "PUBLICATION TABLE",
];

/// What was chosen, with all it needs.
pub(super) struct Completed {
    /// All of it.
    pub(super) ids: BTreeSet<i64>,
    /// What it is made of and the database has.
    pub(super) there: BTreeSet<i64>,
    /// Bonds that are not possible.
    pub(super) left: BTreeSet<i64>,
}

/// Completes `ids` for a database that `session` is in.
pub(super) fn complete(toc: &Toc, session: &mut Connection, ids: BTreeSet<i64>) -> PgResult<Completed> {
    let mut attaches: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for attach in toc.entries.iter().filter(|entry| entry.kind == "TABLE ATTACH") {
        if let Some(child) = partition(toc, attach) {
            attaches.entry(child).or_default().push(attach.id);
        }
    }
    let (known, there, left) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut closure = Closure { toc, session, ids, known, there, left, attaches };
    closure.complete()?;
    let Closure { ids, there, left, .. } = closure;
    Ok(Completed { ids, there, left })
}

/// Everything that is needed to make what was chosen.
struct Closure<'a> {
    toc: &'a Toc,
    session: &'a mut Connection,
    ids: BTreeSet<i64>,
    /// Whose needs were looked at.
    known: BTreeSet<i64>,
    /// Grounds that the database has.
    there: BTreeSet<i64>,
    /// Bonds that are not possible.
    left: BTreeSet<i64>,
    /// Entries that attach a partition, by that partition.
    attaches: BTreeMap<i64, Vec<i64>>,
}

impl Closure<'_> {
    fn complete(&mut self) -> PgResult<()> {
        loop {
            let before = self.ids.len();
            self.grounds()?;
            self.bonds()?;
            if self.ids.len() == before {
                break;
            }
        }
        self.schemas()
    }

    /// Adds what is missing of what others are made of, with its parts.
    fn grounds(&mut self) -> PgResult<()> {
        let toc = self.toc;
        loop {
            let open: Vec<i64> = self.ids.difference(&self.known).copied().collect();
            if open.is_empty() {
                return Ok(());
            }
            let mut missing = BTreeSet::new();
            for id in open {
                self.known.insert(id);
                let Some(entry) = toc.get(id) else { continue };
                // The table of a partition is needed by the entry that attaches it.
                let attaches = self.attaches.get(&id).into_iter().flatten().filter_map(|id| toc.get(*id));
                let needs = entry.needs.iter().chain(attaches.flat_map(|attach| &attach.needs));
                for needed in needs.filter_map(|id| toc.get(*id)) {
                    let is_ground = GROUNDS.contains(&needed.kind.as_str());
                    let is_known = self.ids.contains(&needed.id) || self.there.contains(&needed.id);
                    if !is_ground || is_known || missing.contains(&needed.id) {
                        continue;
                    }
                    if exists(self.session, needed)? {
                        self.there.insert(needed.id);
                    } else {
                        missing.insert(needed.id);
                    }
                }
            }
            self.ids.extend(parts(toc, &missing, false));
        }
    }

    /// Adds what ties them to each other and to what is there; tables that are not there do not come along for that.
    fn bonds(&mut self) -> PgResult<()> {
        let toc = self.toc;
        let mut added = BTreeSet::new();
        for entry in toc.entries.iter().filter(|entry| BONDS.contains(&entry.kind.as_str())) {
            if self.ids.contains(&entry.id) || !entry.needs.iter().any(|id| self.ids.contains(id)) {
                continue;
            }
            // A foreign key of another table that points here is that table's; so is a partition that is not wanted.
            let owner = match entry.kind.as_str() {
                "TABLE ATTACH" => partition(toc, entry),
                _ => table_of(toc, entry),
            };
            if owner.is_some_and(|table| !self.ids.contains(&table)) {
                continue;
            }
            let mut is_possible = true;
            for needed in entry.needs.iter().filter(|id| !self.ids.contains(id)).filter_map(|id| toc.get(*id))
            {
                is_possible &= match needed.kind.as_str() {
                    // What makes a view is the view.
                    _ if entry.kind == "RULE" => true,
                    // Of which the table must be there.
                    "CONSTRAINT" => match table_of(toc, needed).and_then(|id| toc.get(id)) {
                        Some(table) => exists(self.session, table)?,
                        None => true,
                    },
                    "INDEX" | "PUBLICATION" => exists(self.session, needed)?,
                    kind if RELATIONS.contains(&kind) && kind != "SEQUENCE" => exists(self.session, needed)?,
                    _ => true,
                };
            }
            if is_possible {
                self.left.remove(&entry.id);
                self.ids.insert(entry.id);
                added.insert(entry.id);
            } else if !entry.kind.ends_with("ATTACH") {
                self.left.insert(entry.id);
            }
        }
        // Once for all of them: each look for parts goes through the whole table of contents.
        self.ids.extend(parts(toc, &added, false));
        Ok(())
    }

    /// Adds what no entry says that it needs: schemas, and the users of foreign servers.
    fn schemas(&mut self) -> PgResult<()> {
        let toc = self.toc;
        let mappings = toc.entries.iter().filter(|entry| entry.kind == "USER MAPPING").filter(|entry| {
            let server = server_of(&entry.definition);
            let mut chosen = self.ids.iter().filter_map(|id| toc.get(*id));
            chosen.any(|chosen| chosen.kind == "SERVER" && server.as_ref() == Some(&chosen.tag))
        });
        let mappings: Vec<i64> = mappings.map(|entry| entry.id).collect();
        self.ids.extend(mappings);
        let chosen = toc.entries.iter().filter(|entry| self.ids.contains(&entry.id));
        let namespaces: BTreeSet<&str> = chosen.map(|entry| entry.namespace.as_str()).collect();
        for schema in toc.entries.iter().filter(|entry| entry.kind == "SCHEMA") {
            if namespaces.contains(schema.tag.as_str()) && !exists(self.session, schema)? {
                self.ids.extend(parts(toc, &BTreeSet::from([schema.id]), false));
            }
        }
        Ok(())
    }
}

/// The server that `CREATE USER MAPPING FOR role SERVER name` is for.
fn server_of(definition: &str) -> Option<String> {
    let all = tokens(definition);
    let at = all.iter().skip(5).position(|token| token.is("SERVER"))? + 5;
    all.get(at + 1)?.name()
}

/// The table that a constraint, trigger, rule or policy is of: its name is `table name`.
pub(super) fn table_of(toc: &Toc, entry: &TocEntry) -> Option<i64> {
    let is_of = |table: &&TocEntry| {
        is_relation(table)
            && table.namespace == entry.namespace
            && entry.tag.strip_prefix(&table.tag).is_some_and(|rest| rest.starts_with(' '))
    };
    let needed = entry.needs.iter().filter_map(|id| toc.get(*id));
    needed.filter(is_of).max_by_key(|table| table.tag.len()).map(|table| table.id)
}
