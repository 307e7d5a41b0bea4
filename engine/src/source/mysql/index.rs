//! The index beside a database's dump: what is where in it.

use serde::{Deserialize, Serialize};

/// Where the parts of a database's dump are, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// End of the settings that every part needs; `CREATE DATABASE` and `USE` follow.
    pub head: u64,
    /// End of these; tables follow.
    pub body: u64,
    /// Tables and sequences: name, beginning and end.
    pub tables: Vec<(String, u64, u64)>,
    /// End of the tables; routines, triggers, events and views follow.
    pub tables_end: u64,
    /// These.
    pub objects: Vec<Object>,
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A function, procedure or package.
    Routine,
    /// A trigger.
    Trigger,
    /// An event.
    Event,
    /// A view; it comes last, since it needs others.
    View,
}

/// Where an object's definition is, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// A trigger's table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// The statements for a database of another name, if its definition names its own; empty if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<String>,
    /// Its beginning.
    pub from: u64,
    /// Its end.
    pub to: u64,
}
