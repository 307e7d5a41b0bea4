//! The three parts of a restore: what rows are put into, the rows, and what follows them. Comments, labels and privileges
//! have no part of their own in a table of contents: the first two belong where their object is, which stands before them,
//! and privileges come last, since an owner may have taken from himself what the restore needs.
//! Source: PostgreSQL's `pg_backup_archiver.c` (`ProcessArchiveRestoreOptions`, `_tocEntryRestorePass`).

use crate::toc::{Section, Toc, TocEntry};

/// A table of contents in its parts.
#[derive(Default)]
pub(super) struct Sections<'a> {
    /// What is made first, by number, in order.
    pub(super) before: Vec<i64>,
    /// Rows of tables.
    pub(super) rows: Vec<&'a TocEntry>,
    /// Contents of large objects.
    pub(super) objects: Vec<&'a TocEntry>,
    /// What follows.
    pub(super) after: Vec<i64>,
}

impl<'a> Sections<'a> {
    pub(super) fn of(toc: &'a Toc) -> Self {
        let (mut own, mut current) = (Self::default(), Section::PreData);
        for entry in &toc.entries {
            current = entry.section.unwrap_or(current);
            let is_of_database = entry.kind.starts_with("DATABASE")
                || entry.namespace.is_empty() && entry.tag.starts_with("DATABASE ");
            match entry.kind.as_str() {
                // These come another way, under whatever name.
                _ if is_of_database => {}
                "TABLE DATA" if entry.has_data => own.rows.push(entry),
                "BLOBS" if entry.has_data => own.objects.push(entry),
                "TABLE DATA" | "BLOBS" => {}
                // Since 17 they count as data.
                "BLOB" | "BLOB METADATA" => own.before.push(entry.id),
                "ACL" | "DEFAULT ACL" => own.after.push(entry.id),
                _ if current == Section::PreData => own.before.push(entry.id),
                _ => own.after.push(entry.id),
            }
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_its_part() {
        let (mut toc, _) = Toc::parse(&crate::toc::tests::sample()).unwrap();
        let first = toc.entries[0].clone();
        let entry = |id: i64, kind: &str, section: Option<Section>, has_data: bool| {
            let mut entry = first.clone();
            (entry.id, entry.kind, entry.section, entry.has_data) = (id, kind.into(), section, has_data);
            (entry.tag, entry.namespace) = ("t".into(), "public".into());
            entry
        };
        let (before, data, after) = (Some(Section::PreData), Some(Section::Data), Some(Section::PostData));
        toc.entries = vec![
            entry(1, "ENCODING", before, false),
            entry(2, "DATABASE", before, false),
            entry(3, "TABLE", before, false),
            entry(4, "COMMENT", None, false),
            entry(5, "ACL", None, false),
            entry(6, "TABLE DATA", data, true),
            entry(7, "BLOBS", data, true),
            entry(8, "SEQUENCE SET", data, false),
            entry(9, "INDEX", after, false),
            entry(10, "COMMENT", None, false),
            entry(11, "DEFAULT ACL", None, false),
            entry(12, "BLOB METADATA", data, false),
        ];
        toc.entries[1].tag = "DATABASE t".into();
        toc.entries[1].namespace.clear();
        let sections = Sections::of(&toc);
        let ids = |all: &[&TocEntry]| all.iter().map(|entry| entry.id).collect::<Vec<_>>();
        assert_eq!(sections.before, [1, 3, 4, 12]);
        assert_eq!((ids(&sections.rows), ids(&sections.objects)), (vec![6], vec![7]));
        assert_eq!(sections.after, [5, 8, 9, 10, 11]);
    }
}
