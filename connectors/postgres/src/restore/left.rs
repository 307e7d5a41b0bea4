//! What single tables have in a dump and cannot have where they are restored, in words.

use super::closure::table_of;
use super::relations::full_name;
use crate::toc::{Toc, TocEntry};

/// What is left out, since what it refers to is not there.
pub(super) struct Left {
    /// What it is, and whose.
    pub(super) what: String,
    /// Whether it is a part of its table. Membership in a publication is the publication's.
    pub(super) is_part: bool,
}

impl Left {
    pub(super) fn of(toc: &Toc, entry: &TocEntry) -> Self {
        Self { what: words(toc, entry), is_part: entry.kind != "PUBLICATION TABLE" }
    }
}

/// An entry in words. The name of what belongs to a table is `table name`, and either may have blanks.
fn words(toc: &Toc, entry: &TocEntry) -> String {
    let table = table_of(toc, entry).and_then(|id| toc.get(id));
    let own = table.and_then(|table| Some((entry.tag.strip_prefix(&table.tag)?.strip_prefix(' ')?, table)));
    let of_table = |what: &str| match own {
        Some((name, table)) => format!("{what} '{name}' of {}", full_name(table)),
        None => format!("{what} {}", full_name(entry)),
    };
    match entry.kind.as_str() {
        "FK CONSTRAINT" => of_table("foreign key"),
        "TRIGGER" => of_table("trigger"),
        "RULE" => of_table("rule"),
        "POLICY" => of_table("policy"),
        "DEFAULT" => of_table("default of column"),
        "SEQUENCE OWNED BY" => format!("owner of sequence {}", full_name(entry)),
        "PUBLICATION TABLE" => {
            let needed = || entry.needs.iter().filter_map(|id| toc.get(*id));
            let publication = needed().find(|needed| needed.kind == "PUBLICATION");
            let table = needed().find(|needed| needed.kind == "TABLE");
            match (table, publication) {
                (Some(table), Some(publication)) => {
                    format!("table {} in the publication '{}'", full_name(table), publication.tag)
                }
                _ => format!("table in a publication: {}", full_name(entry)),
            }
        }
        kind => format!("{} {}", kind.to_lowercase(), full_name(entry)),
    }
}
