//! What a restore of databases did.

use connector_kit::databases::Selection;
use engine::connector::{Restored, fields};
use engine::shown::counted;
use serde_json::json;
use std::collections::BTreeMap;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PostgresReport {
    /// Databases, by the names they have now, and the bytes of their dumps that were read.
    pub(super) databases: BTreeMap<String, u64>,
    /// Tables whose rows were restored.
    pub(super) tables: u64,
    /// What the globals brought that was there already.
    pub(super) globals_existing: u64,
    /// What stays as it was on the server, where a reader of the dump might not expect it.
    pub(super) notes: Vec<String>,
}

impl PostgresReport {
    /// In words, and for programs.
    pub(super) fn restored(self, selection: &Selection, is_preview: bool) -> Restored {
        Restored {
            parts: selection.parts(&self.databases, is_preview),
            total: counted(self.tables, "table"),
            bytes: self.databases.values().sum(),
            fields: fields(json!({
                "databases": self.databases,
                "tables_restored": self.tables,
                "globals_existing": self.globals_existing,
            })),
            notes: self.notes,
            ..Restored::default()
        }
    }
}
