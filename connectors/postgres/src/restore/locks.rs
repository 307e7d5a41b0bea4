//! Which tables an entry locks besides those that the dump says it needs. Several processes of pg_restore run no two entries
//! at once of which one needs a table that the other locks, but they know tables only from those needs: a foreign key of a
//! partitioned table locks the partitions, too, and opens their indexes, while another process attaches an index to one of
//! these, and the server ends one of the two ("deadlock detected"). So such an entry is given the tables as further needs.
//! Source: PostgreSQL's `pg_backup_archiver.c` (`identify_locking_dependencies`, `has_lock_conflicts`), `tablecmds.c`
//! (`addFkRecurseReferenced`, `addFkRecurseReferencing`, `ATExecAttachPartitionIdx`, `validatePartitionedIndex`).

use super::parts::partition;
use super::relations::is_relation;
use crate::toc::{Toc, TocEntry};
use std::collections::{BTreeMap, BTreeSet};

/// Tables above and beneath each other.
#[derive(Default)]
struct Trees {
    /// Partitions, and tables that inherit.
    beneath: BTreeMap<i64, BTreeSet<i64>>,
    above: BTreeMap<i64, BTreeSet<i64>>,
    /// Tables with partitions.
    partitioned: BTreeSet<i64>,
}

/// `toc`, in which the entries `after`, which follow the rows, need all that they lock.
pub(super) fn with_locks(toc: &Toc, after: &[i64]) -> Toc {
    let trees = Trees::of(toc);
    let mut own = toc.clone();
    if trees.beneath.is_empty() {
        return own;
    }
    for entry in after.iter().filter_map(|id| toc.get(*id)) {
        let mut needs = entry.needs.clone();
        let known: BTreeSet<i64> = needs.iter().copied().collect();
        needs.extend(trees.locked(toc, entry).difference(&known));
        if needs.len() != entry.needs.len() {
            own.set_needs(entry.id, needs);
        }
    }
    own
}

impl Trees {
    fn of(toc: &Toc) -> Self {
        let mut own = Self::default();
        for entry in &toc.entries {
            let child = match entry.kind.as_str() {
                "TABLE ATTACH" => partition(toc, entry),
                // It inherits, or is a partition in a dump of an old pg_dump. Which of the two, its command says; that a
                // column has the type of the other's rows costs no more than a wait.
                "TABLE" | "FOREIGN TABLE" => Some(entry.id),
                _ => continue,
            };
            let Some(child) = child else { continue };
            for parent in entry.needs.iter().filter_map(|id| toc.get(*id)) {
                if !matches!(parent.kind.as_str(), "TABLE" | "FOREIGN TABLE") || parent.id == child {
                    continue;
                }
                own.beneath.entry(parent.id).or_default().insert(child);
                own.above.entry(child).or_default().insert(parent.id);
                if entry.kind == "TABLE ATTACH" || entry.definition.contains("PARTITION OF") {
                    own.partitioned.insert(parent.id);
                }
            }
        }
        own
    }

    /// Tables that an entry locks.
    fn locked(&self, toc: &Toc, entry: &TocEntry) -> BTreeSet<i64> {
        let tables = tables(toc, entry);
        match entry.kind.as_str() {
            // It locks what it is of, which the dump says.
            "INDEX" => BTreeSet::new(),
            // An index that has become valid by it makes those above valid.
            "INDEX ATTACH" => closure(&self.above, tables),
            // `ALTER TABLE ONLY`: what inherits has none of it.
            "CONSTRAINT" => {
                let (partitioned, mut others): (BTreeSet<i64>, BTreeSet<i64>) =
                    tables.into_iter().partition(|table| self.partitioned.contains(table));
                others.extend(closure(&self.beneath, partitioned));
                others
            }
            _ => closure(&self.beneath, tables),
        }
    }
}

/// Tables that an entry needs, and those of the indexes and constraints that it needs.
fn tables(toc: &Toc, entry: &TocEntry) -> BTreeSet<i64> {
    let needed = |entry: &TocEntry| entry.needs.iter().filter_map(|id| toc.get(*id)).collect::<Vec<_>>();
    let (relations, others): (Vec<_>, Vec<_>) =
        needed(entry).into_iter().partition(|needed| is_relation(needed));
    let indexes = others.into_iter().filter(|needed| matches!(needed.kind.as_str(), "INDEX" | "CONSTRAINT"));
    let of_indexes = indexes.flat_map(needed).filter(|needed| is_relation(needed));
    relations.into_iter().chain(of_indexes).map(|table| table.id).collect()
}

/// `from`, and all that is reached from there.
fn closure(next: &BTreeMap<i64, BTreeSet<i64>>, from: BTreeSet<i64>) -> BTreeSet<i64> {
    let mut open: Vec<i64> = from.iter().copied().collect();
    let mut all = from;
    while let Some(table) = open.pop() {
        let reached = next.get(&table).into_iter().flatten().copied();
        open.extend(reached.filter(|reached| all.insert(*reached)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of what an entry needs, when it needs all that it locks.
    fn needs(entries: &[(i64, &str, &str, &[i64])], id: i64) -> Vec<i64> {
        let (mut toc, _) = Toc::parse(&crate::toc::tests::sample()).unwrap();
        let first = toc.entries[0].clone();
        let entry = |(id, kind, tag, needs): &(i64, &str, &str, &[i64])| {
            let mut entry = first.clone();
            (entry.id, entry.kind, entry.tag, entry.namespace) =
                (*id, (*kind).into(), (*tag).into(), "public".into());
            entry.needs = needs.to_vec();
            entry
        };
        toc.entries = entries.iter().map(entry).collect();
        toc.retain(|_| true);
        let all: Vec<i64> = entries.iter().map(|(id, ..)| *id).collect();
        let with = with_locks(&toc, &all);
        let mut needs = with.get(id).unwrap().needs.clone();
        needs.sort_unstable();
        needs
    }

    const TREE: &[(i64, &str, &str, &[i64])] = &[
        (1, "TABLE", "root", &[]),
        (2, "TABLE", "middle", &[]),
        (3, "TABLE", "leaf", &[]),
        (4, "TABLE", "other", &[]),
        (5, "TABLE ATTACH", "middle", &[1, 2]),
        (6, "TABLE ATTACH", "leaf", &[2, 3]),
        (10, "INDEX", "root_i", &[1]),
        (11, "INDEX", "middle_i", &[2, 10]),
        (12, "INDEX", "leaf_i", &[3, 11]),
        (13, "INDEX ATTACH", "middle_i", &[11, 10]),
        (14, "INDEX ATTACH", "leaf_i", &[12, 11]),
        (15, "CONSTRAINT", "other other_pkey", &[4]),
        (16, "CONSTRAINT", "root root_pkey", &[1]),
        (17, "FK CONSTRAINT", "root root_fkey", &[1, 4, 15]),
        (18, "FK CONSTRAINT", "other other_fkey", &[4, 10]),
        (19, "TRIGGER", "middle t", &[2]),
        (20, "TABLE", "heir", &[4]),
        (21, "CONSTRAINT", "heir heir_pkey", &[20]),
        (22, "CHECK CONSTRAINT", "other c", &[4]),
    ];

    #[test]
    fn entries_need_what_they_lock() {
        for (id, wanted) in [
            (10, vec![1]),
            (12, vec![3, 11]),
            (13, vec![1, 2, 10, 11]),
            // The index above may become valid by it.
            (14, vec![1, 2, 3, 11, 12]),
            (16, vec![1, 2, 3]),
            (17, vec![1, 2, 3, 4, 15, 20]),
            (18, vec![1, 2, 3, 4, 10, 20]),
            (19, vec![2, 3]),
            (15, vec![4]),
            (21, vec![20]),
            (22, vec![4, 20]),
        ] {
            assert_eq!(needs(TREE, id), wanted, "{id}");
        }
    }
}
