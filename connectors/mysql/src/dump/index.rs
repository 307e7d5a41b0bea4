//! The index beside a database's dump: the offsets of its tables and objects.

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

impl Index {
    /// The index that some JSON has, if its parts lie one behind the other.
    ///
    /// # Errors
    /// Why it is none.
    pub fn read(json: &[u8]) -> Result<Self, String> {
        let index: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        let tables = index.tables.iter().flat_map(|(_, from, to)| [*from, *to]);
        let objects = index.objects.iter().flat_map(|object| [object.from, object.to]);
        let ends =
            [0, index.head, index.body].into_iter().chain(tables).chain([index.tables_end]).chain(objects);
        match ends.is_sorted() {
            true => Ok(index),
            false => Err("its parts do not lie one behind the other".into()),
        }
    }
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
    /// Kind.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_one_behind_the_other() {
        let read = |tables: &str, end: u64| {
            let json = format!(r#"{{"head":1,"body":2,"tables":{tables},"tables_end":{end},"objects":[]}}"#);
            Index::read(json.as_bytes())
        };
        assert!(read("[]", 2).is_ok() && read(r#"[["t",2,5],["u",5,5]]"#, 9).is_ok());
        for (tables, end) in
            [("[]", 1), (r#"[["t",5,2]]"#, 9), (r#"[["t",2,5],["u",4,5]]"#, 9), (r#"[["t",2,9]]"#, 5)]
        {
            assert!(read(tables, end).is_err(), "{tables}");
        }
    }
}
