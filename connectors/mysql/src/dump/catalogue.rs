//! What a server has, by its own catalogue, before it is read: the objects of each database, and which of its tables and
//! views cannot be read or must be read in a way of their own.

use super::SYSTEM;
use super::index::Kind;
use crate::server::{Script, Server, error_number, literal, quoted};
use engine::ItemError;
use engine::source::{SourceError, SourceErrorKind};
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
    /// What the server writes into its definition as it must not be written in its SQL mode.
    pub(super) comment: Option<String>,
}

impl Listed {
    pub(super) fn new(kind: Kind, word: &'static str, name: &str, table: Option<String>) -> Self {
        Self { kind, word, name: name.to_owned(), table, comment: None }
    }

    /// The same, with its comment, if backslashes mean themselves in `sql_mode`: the server writes it as if they did not.
    fn commented(self, sql_mode: &str, comment: String) -> Self {
        let is_other = sql_mode.split(',').any(|mode| mode == "NO_BACKSLASH_ESCAPES") && !comment.is_empty();
        Self { comment: is_other.then_some(comment), ..self }
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

/// Tables by what mariadb-dump may take them for: it compares `database.table` without case and accents, character by
/// character, and does not see which of the dots is the one between.
#[derive(Default)]
struct Alike {
    /// Those of ASCII, in small letters.
    plain: BTreeSet<String>,
    /// How many characters others have, and all.
    others: BTreeSet<usize>,
    all: BTreeSet<usize>,
}

impl Alike {
    fn add(&mut self, path: &str) {
        let len = path.chars().count();
        self.all.insert(len);
        if path.is_ascii() {
            self.plain.insert(path.to_ascii_lowercase());
        } else {
            self.others.insert(len);
        }
    }

    /// Whether a path may be taken for that of a table.
    fn has(&self, path: &str) -> bool {
        match path.is_ascii() {
            true => self.plain.contains(&path.to_ascii_lowercase()) || self.others.contains(&path.len()),
            false => self.all.contains(&path.chars().count()),
        }
    }
}

/// What there is.
#[derive(Default)]
pub(super) struct Catalogue {
    objects: BTreeMap<String, Vec<Listed>>,
    /// Tables of which rows are to be read, and views: database, name, whether it is a view.
    tables: Vec<(String, String, bool)>,
    /// Tables that a dump must have, by database.
    expected: BTreeMap<String, BTreeSet<String>>,
    /// Views that mariadb-dump writes, since it would not know them from a table; by database.
    stubs: BTreeMap<String, BTreeSet<String>>,
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
                _ => format!("BINARY {schema} NOT IN ('{}')", SYSTEM.join("', '")),
            };
            let sql =
                format!("SELECT {columns} FROM information_schema.{table} WHERE {limit} ORDER BY {order}");
            // Names are compared without case, accents and blanks there.
            server.query(&sql).map(|rows| {
                rows.into_iter().filter(|row| row.first().is_some_and(|schema| wanted.contains(schema)))
            })
        };
        let tables = rows("table_schema, table_name, table_type, engine", "tables", "1, 2")?;
        let (mut alike, mut views, mut data) = (Alike::default(), vec![], vec![]);
        for row in tables {
            let [schema, name, kind, engine] = <[String; 4]>::try_from(row).unwrap_or_default();
            let path = format!("{schema}.{name}");
            let is_view = kind == "VIEW";
            if !is_view {
                found.expected.entry(schema.clone()).or_default().insert(name.clone());
                alike.add(&path);
            }
            if is_view {
                views.push((schema.clone(), name.clone(), path));
                found.list(&schema, Listed::new(Kind::View, "VIEW", &name, None));
            } else if ELSEWHERE.iter().any(|other| engine.eq_ignore_ascii_case(other)) {
                found.without_rows.push(path);
                continue;
            } else {
                data.push(path);
            }
            found.has_history |= kind == "SYSTEM VERSIONED";
            found.tables.push((schema, name, is_view));
        }
        for (schema, name, path) in views {
            match alike.has(&path) {
                true => drop(found.stubs.entry(schema).or_default().insert(name)),
                false => found.ignored.push(path),
            }
        }
        found.prove_rows(server, &data)?;
        let columns = "routine_schema, routine_type, routine_name, sql_mode, routine_comment";
        for row in rows(columns, "routines", "1, 2, 3")? {
            let [schema, word, name, mode, comment] = <[String; 5]>::try_from(row).unwrap_or_default();
            let words = ["FUNCTION", "PROCEDURE", "PACKAGE", "PACKAGE BODY"];
            if let Some(word) = words.into_iter().find(|known| *known == word) {
                let object = Listed::new(Kind::Routine, word, &name, None).commented(&mode, comment);
                found.list(&schema, object);
            }
        }
        let columns = "trigger_schema, trigger_name, event_object_table";
        for row in rows(columns, "triggers", "1, 3, event_manipulation, action_timing, action_order")? {
            let [schema, name, table] = <[String; 3]>::try_from(row).unwrap_or_default();
            found.list(&schema, Listed::new(Kind::Trigger, "TRIGGER", &name, Some(table)));
        }
        for row in rows("event_schema, event_name, sql_mode, event_comment", "events", "1, 2")? {
            let [schema, name, mode, comment] = <[String; 4]>::try_from(row).unwrap_or_default();
            let object = Listed::new(Kind::Event, "EVENT", &name, None).commented(&mode, comment);
            found.list(&schema, object);
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

    /// That no table is left without rows because its name is, to mariadb-dump, that of another.
    fn prove_rows(&self, server: &Server, data: &[String]) -> Result<(), SourceError> {
        for path in &self.without_rows {
            let len = path.chars().count();
            let others: Vec<String> = data
                .iter()
                .filter(|other| other.chars().count() == len)
                .map(|other| literal(other))
                .collect();
            if others.is_empty() {
                continue;
            }
            let sql =
                format!("SELECT {} COLLATE utf8mb4_general_ci IN ({})", literal(path), others.join(", "));
            if server.query(&sql)?.first().is_some_and(|row| row == &["1"]) {
                let why = format!(
                    "mariadb-dump cannot tell the table {path}, whose rows are elsewhere, from another whose name differs in case or accents; rename one"
                );
                return Err(server.error(SourceErrorKind::Incomplete, why));
            }
        }
        Ok(())
    }

    /// Tables that the dump of a database must have.
    pub(super) fn expected(&self, database: &str) -> BTreeSet<String> {
        self.expected.get(database).cloned().unwrap_or_default()
    }

    /// Views that are in the dump of a database, and do not belong there.
    pub(super) fn stubs(&self, database: &str) -> BTreeSet<String> {
        self.stubs.get(database).cloned().unwrap_or_default()
    }

    fn list(&mut self, schema: &str, object: Listed) {
        self.objects.entry(schema.to_owned()).or_default().push(object);
    }

    /// What a database has besides tables.
    pub(super) fn objects(&self, database: &str) -> &[Listed] {
        self.objects.get(database).map_or(&[], Vec::as_slice)
    }

    /// Asks every table and view whether it can be read; leaves out those that cannot, and says of which database they are, and why.
    pub(super) fn prove(&mut self, server: &Server) -> Result<Vec<(String, ItemError)>, SourceError> {
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
            let path = format!("{schema}.{name}");
            if *is_view && self.stubs.get_mut(schema).is_some_and(|stubs| stubs.remove(name)) {
                // mariadb-dump would fail at it.
                self.ignored.push(path.clone());
            }
            // A view whose definer is gone can be made again.
            if *is_view && error_number(&why) == Some(1449) {
                continue;
            }
            let word = if *is_view { "view" } else { "table" };
            let error = ItemError { during: "archival", item: format!("{word} {path}"), message: why };
            errors.push((schema.clone(), error));
            if let Some(objects) = self.objects.get_mut(schema).filter(|_| *is_view) {
                objects.retain(|object| object.kind != Kind::View || object.name != *name);
            }
            if !is_view {
                self.ignored.push(path);
                if let Some(expected) = self.expected.get_mut(schema) {
                    expected.remove(name);
                }
                // Triggers of a table that is not there cannot be made.
                if let Some(objects) = self.objects.get_mut(schema) {
                    objects.retain(|object| object.table.as_ref() != Some(name));
                }
            }
        }
        Ok(errors)
    }
}
