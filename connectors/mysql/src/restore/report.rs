//! What a restore of databases did.

use connector_kit::databases::Selection;
use engine::connector::{Restored, fields};
use engine::shown::counted;
use serde_json::json;
use std::collections::BTreeMap;

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MysqlReport {
    /// Databases, by the names they have now, and the bytes of their dumps that were read.
    pub(super) databases: BTreeMap<String, u64>,
    /// Single tables.
    pub(super) tables: u64,
    /// Files of the binary log that were replayed.
    pub(super) logs: u64,
    /// What a reader should know.
    pub(super) notes: Vec<String>,
}

impl MysqlReport {
    /// In words, and for programs.
    pub(super) fn restored(self, selection: &Selection, is_preview: bool) -> Restored {
        let total = match (self.logs, self.tables) {
            (0, 0) => counted(self.databases.len(), "database"),
            (0, tables) => counted(tables, "table"),
            (logs, _) => format!("{} of the binary log replayed", counted(logs, "file")),
        };
        Restored {
            parts: selection.parts(&self.databases, is_preview),
            total,
            bytes: self.databases.values().sum(),
            fields: fields(json!({
                "databases": self.databases,
                "tables_restored": self.tables,
                "logs_replayed": self.logs,
            })),
            notes: self.notes,
            ..Restored::default()
        }
    }
}
