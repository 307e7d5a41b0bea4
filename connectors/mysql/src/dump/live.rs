//! What a running server's database has besides tables, so that it can be removed, and made again as it was.

use super::catalogue::{Catalogue, Listed};
use super::{definitions, executes};
use crate::server::{Server, quoted};
use engine::source::{SourceError, SourceErrorKind};

/// Routines, triggers, events and views of a database.
#[derive(Default)]
pub(crate) struct Code {
    /// Statements that remove them.
    pub(crate) drops: Vec<String>,
    /// What each is for people, and the lines that make it.
    pub(crate) definitions: Vec<(String, Vec<u8>)>,
}

impl Code {
    /// Of `database`; only the triggers of `tables`, if there are any. One that cannot be read is an error.
    pub(crate) fn read(server: &Server, database: &str, tables: &[String]) -> Result<Self, SourceError> {
        let version = server.query("SELECT VERSION()")?.into_iter().flatten().next().unwrap_or_default();
        let catalogue = Catalogue::read(server, &[database.to_owned()])?;
        let is_wanted = |object: &&Listed| {
            tables.is_empty() || object.table.as_ref().is_some_and(|table| tables.contains(table))
        };
        let listed: Vec<Listed> = catalogue.objects(database).iter().filter(is_wanted).cloned().collect();
        let (found, errors) = definitions::read(server, database, &listed, executes(&version))?;
        if let Some(error) = errors.into_iter().next() {
            let why = format!(
                "{}: {}; it could not be put back, so nothing was touched: drop it first",
                error.item, error.message
            );
            return Err(server.error(SourceErrorKind::Unavailable, why));
        }
        let definition = |object: &super::Object| {
            let bytes = found.bytes.get(object.from as usize..object.to as usize).unwrap_or_default();
            (format!("{:?} {database}.{}", object.kind, object.name).to_lowercase(), bytes.to_vec())
        };
        let definitions = found.objects.iter().map(definition).collect();
        let drop_of = |object: &Listed| {
            let sql = format!("DROP {} IF EXISTS {}.{}", object.word, quoted(database), quoted(&object.name));
            match object.word.starts_with("PACKAGE") {
                // No other mode knows what that is.
                true => vec!["SET sql_mode = 'ORACLE'".to_owned(), sql, "SET sql_mode = ''".to_owned()],
                false => vec![sql],
            }
        };
        Ok(Self { drops: listed.iter().flat_map(drop_of).collect(), definitions })
    }
}
