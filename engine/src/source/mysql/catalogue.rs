//! What a server has, by its own catalogue, before it is read: the objects of each database, and which of its tables and
//! views cannot be read or must be read in a way of their own.

use super::SYSTEM;
use super::index::Kind;
use crate::ItemError;
use crate::mysql::{Script, Server, literal, quoted};
use crate::source::SourceError;
use std::collections::{BTreeMap, BTreeSet};

/// An object that is no table.
#[derive(Clone)]
pub(super) struct Listed {
    pub(super) kind: Kind,
    /// What SQL calls it.
    pub(super) word: &'static str,
    pub(super) name: String,
    /// A trigger's table.
    pub(super) table: Option<String>,
}

impl Listed {
    pub(super) fn new(kind: Kind, word: &'static str, name: &str, table: Option<String>) -> Self {
        Self { kind, word, name: name.to_owned(), table }
    }

    /// For people.
    pub(super) fn shown(&self, database: &str) -> String {
        format!("{} {database}.{}", self.word.to_lowercase(), self.name)
    }

    /// That it is left out.
    pub(super) fn error(&self, database: &str, why: &str) -> ItemError {
        ItemError { during: "archival", item: self.shown(database), message: why.to_owned() }
    }
}

/// Engines whose tables are a view of data elsewhere: rows that a restore wrote into them would arrive there.
const ELSEWHERE: &[&str] = &["FEDERATED", "CONNECT", "SPIDER"];

/// What there is.
#[derive(Default)]
pub(super) struct Catalogue {
    objects: BTreeMap<String, Vec<Listed>>,
    /// Tables of which rows are to be read, and views: database, name, whether it is a view.
    tables: Vec<(String, String, bool)>,
    /// `database.table` for mariadb-dump: what it must leave alone, and of what it must not read rows.
    pub(super) ignored: Vec<String>,
    pub(super) without_rows: Vec<String>,
    /// Whether there are tables with a history, and one whose history mariadb-dump cannot read.
    pub(super) has_history: bool,
    pub(super) precise: Option<String>,
}

impl Catalogue {
    /// Of `databases`.
    pub(super) fn read(server: &Server, databases: &[String]) -> Result<Self, SourceError> {
        let mut found = Self::default();
        let wanted: BTreeSet<&String> = databases.iter().collect();
        let rows = |columns: &str, table: &str, order: &str| {
            let schema = columns.split(',').next().unwrap_or_default();
            let limit = match databases {
                [only] => format!("{schema} = {}", literal(only)),
                _ => format!("{schema} NOT IN ('{}')", SYSTEM.join("', '")),
            };
            let sql =
                format!("SELECT {columns} FROM information_schema.{table} WHERE {limit} ORDER BY {order}");
            // Names are compared without case and blanks there.
            server.query(&sql).map(|rows| {
                rows.into_iter().filter(|row| row.first().is_some_and(|schema| wanted.contains(schema)))
            })
        };
        let tables = rows("table_schema, table_name, table_type, engine", "tables", "1, 2")?;
        for row in tables {
            let [schema, name, kind, engine] = <[String; 4]>::try_from(row).unwrap_or_default();
            let path = format!("{schema}.{name}");
            let is_view = kind == "VIEW";
            if is_view {
                found.ignored.push(path);
                found.list(&schema, Listed::new(Kind::View, "VIEW", &name, None));
            } else if ELSEWHERE.iter().any(|other| engine.eq_ignore_ascii_case(other)) {
                found.without_rows.push(path);
                continue;
            }
            found.has_history |= kind == "SYSTEM VERSIONED";
            found.tables.push((schema, name, is_view));
        }
        for row in rows("routine_schema, routine_type, routine_name", "routines", "1, 2, 3")? {
            let [schema, word, name] = <[String; 3]>::try_from(row).unwrap_or_default();
            let words = ["FUNCTION", "PROCEDURE", "PACKAGE", "PACKAGE BODY"];
            if let Some(word) = words.into_iter().find(|known| *known == word) {
                found.list(&schema, Listed::new(Kind::Routine, word, &name, None));
            }
        }
        let columns = "trigger_schema, trigger_name, event_object_table";
        for row in rows(columns, "triggers", "1, 3, event_manipulation, action_timing, action_order")? {
            let [schema, name, table] = <[String; 3]>::try_from(row).unwrap_or_default();
            found.list(&schema, Listed::new(Kind::Trigger, "TRIGGER", &name, Some(table)));
        }
        for row in rows("event_schema, event_name", "events", "1, 2")? {
            let [schema, name] = <[String; 2]>::try_from(row).unwrap_or_default();
            found.list(&schema, Listed::new(Kind::Event, "EVENT", &name, None));
        }
        if found.has_history {
            let columns = "table_schema, table_name, data_type, extra, generation_expression";
            found.precise = rows(columns, "columns", "1, 2")?
                .find(|row| {
                    row[2] == "bigint" && (row[3].contains("ROW START") || row[4].contains("ROW START"))
                })
                .map(|row| format!("{}.{}", row[0], row[1]));
        }
        Ok(found)
    }

    fn list(&mut self, schema: &str, object: Listed) {
        self.objects.entry(schema.to_owned()).or_default().push(object);
    }

    /// What a database has besides tables.
    pub(super) fn objects(&self, database: &str) -> &[Listed] {
        self.objects.get(database).map_or(&[], Vec::as_slice)
    }

    /// Asks every table and view whether it can be read; leaves out those that cannot, and says why.
    pub(super) fn prove(&mut self, server: &Server) -> Result<Vec<ItemError>, SourceError> {
        let mut script = Script::default();
        for (schema, name, is_view) in &self.tables {
            let path = format!("{}.{}", quoted(schema), quoted(name));
            let sql = match is_view {
                true => format!("SHOW FIELDS FROM {path}"),
                false => format!("SELECT 1 FROM {path} LIMIT 0"),
            };
            script.add("", sql.as_bytes());
        }
        let mut errors = vec![];
        for (number, why) in script.run(server, true)?.failures {
            let Some((schema, name, is_view)) = self.tables.get(number) else { continue };
            // A view whose definer is gone can be made again.
            if *is_view && why.starts_with("ERROR 1449 ") {
                continue;
            }
            let path = format!("{schema}.{name}");
            let word = if *is_view { "view" } else { "table" };
            errors.push(ItemError { during: "archival", item: format!("{word} {path}"), message: why });
            if let Some(objects) = self.objects.get_mut(schema).filter(|_| *is_view) {
                objects.retain(|object| object.kind != Kind::View || object.name != *name);
            }
            if !is_view {
                self.ignored.push(path);
                // Triggers of a table that is not there cannot be made.
                if let Some(objects) = self.objects.get_mut(schema) {
                    objects.retain(|object| object.table.as_ref() != Some(name));
                }
            }
        }
        Ok(errors)
    }
}
