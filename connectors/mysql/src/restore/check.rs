//! The checks of a restore before it changes anything.

use super::Work;
use super::leftovers::MARKER;
use super::stored::Goal;
use crate::dump::{Kind, Object, SYSTEM};
use crate::server::is_named;
use engine::{Error, Result};

impl Work<'_> {
    /// That a database is none of the server's own, which a restore must neither drop nor add to.
    pub(super) fn is_for_users(&self, target: &str) -> Result<()> {
        let Some(system) = SYSTEM.iter().find(|system| system.eq_ignore_ascii_case(target)) else {
            return Ok(());
        };
        let folds = self.server.query("SELECT @@lower_case_table_names <> 0")?;
        let is_system = *system == target || folds.first().is_some_and(|row| row == &["1"]);
        match is_system {
            true => {
                Err(self
                    .refused(format!("'{target}' is a database of the server's own; choose another name")))
            }
            false => Ok(()),
        }
    }

    /// Tables and views of a database, and its routines and events.
    pub(super) fn there(&self, target: &str) -> Result<[Vec<String>; 2]> {
        let names_in = |table: &str, kind: &str| {
            let is_own = is_named(&format!("{kind}_schema"), target);
            format!("SELECT {kind}_name FROM information_schema.{table} WHERE {is_own}")
        };
        let ask = |sql: &str| self.server.query(sql).map(|rows| rows.into_iter().flatten().collect());
        let others =
            [("routines", "routine"), ("events", "event")].map(|(table, kind)| names_in(table, kind));
        Ok([ask(&names_in("tables", "table"))?, ask(&others.join(" UNION ALL "))?])
    }

    /// Whether something of what will be restored is there.
    pub(super) fn is_taken(&self, target: &str) -> Result<bool> {
        let [there, others] = self.there(target)?;
        Ok(match self.options.selection.tables.is_empty() {
            true => there.len() + others.len() > 0,
            false => there.iter().any(|table| self.options.selection.tables.contains(table)),
        })
    }

    /// That what is there may make room for what comes.
    fn is_replaceable(&self, goal: &Goal, there: &[String]) -> Result<()> {
        let is_marker = |name: &String| name.eq_ignore_ascii_case(MARKER);
        let has_marker = match self.options.selection.tables.as_slice() {
            [] => there.iter().any(is_marker) || goal.index.tables.iter().any(|(name, ..)| is_marker(name)),
            tables => tables.iter().any(is_marker),
        };
        if has_marker {
            return Err(self.refused(format!(
                "database '{}': a table is called '{MARKER}', a name that --replace needs for itself; rename the table, or restore \
                 into a database of another name",
                goal.target
            )));
        }
        let lacks = self.left_out(|database| database == goal.name);
        if !lacks.is_empty() && self.options.selection.tables.is_empty() && !self.options.keep_going {
            return Err(self.refused(format!(
                "database '{}' is replaced by a complete one only, and the snapshot lacks what its backup left out: {}; restore \
                 under another name, take single tables by --table, or give --keep-going to lose it",
                goal.target,
                lacks.join(", ")
            )));
        }
        Ok(())
    }

    /// That nothing is in the way, or may be removed.
    pub(super) fn check(&self, goal: &Goal) -> Result<()> {
        let (name, target, index) = (&goal.name, goal.target.as_str(), &goal.index);
        self.is_for_users(target)?;
        if self.options.replace {
            self.is_free(target, &self.replaced(target)?)?;
        }
        let [there, others] = self.there(target)?;
        if self.options.replace && self.is_taken(target)? {
            self.is_replaceable(goal, &there)?;
        }
        if self.options.selection.tables.is_empty() {
            if there.len() + others.len() > 0 && !self.options.replace {
                return Err(self.refused(format!(
                    "database '{target}' is not empty ({} tables and views, {} routines and events); --replace puts what is restored in its place, another name in the URL leaves it alone",
                    there.len(),
                    others.len()
                )));
            }
            return Ok(());
        }
        for table in &self.options.selection.tables {
            if !index.tables.iter().any(|(known, ..)| known == table) {
                let object = index.objects.iter().find(|object| object.name == *table);
                return Err(Error::Invalid(no_table(table, name, object)));
            }
        }
        let sql =
            format!("SELECT 1 FROM information_schema.schemata WHERE {}", is_named("schema_name", target));
        if self.server.query(&sql)?.is_empty() {
            return Err(self.refused(format!("there is no database '{target}' to put tables into")));
        }
        let taken: Vec<&str> = self
            .options
            .selection
            .tables
            .iter()
            .filter(|table| there.contains(table))
            .map(String::as_str)
            .collect();
        if !taken.is_empty() && !self.options.replace {
            return Err(self.refused(format!(
                "there already: {}; --replace puts what is restored in their place, another database in the URL leaves them alone",
                taken.join(", ")
            )));
        }
        Ok(())
    }
}

/// What a name that is no table's is, and what brings it back: a client makes a view of what `esker dump` writes.
fn no_table(name: &str, database: &str, object: Option<&Object>) -> String {
    let restores = format!(
        "--table restores tables; a restore of all of the database brings it, also under another name: --database {database}, and that name in the URL"
    );
    let what = match object.map(|object| object.kind) {
        None => return format!("there is no table '{name}' in the dump of '{database}'"),
        Some(Kind::View) => {
            let [folder, view] = [database, name].map(engine::names::encoded);
            return format!(
                "'{name}' of database '{database}' is a view, and --table restores tables: give the output of 'esker dump SNAPSHOT:mysql/{folder}/{view}' to the client mariadb, which creates the view"
            );
        }
        Some(Kind::Trigger) => {
            return format!("'{name}' of database '{database}' is a trigger: it comes with its table");
        }
        Some(Kind::Routine) => "a routine",
        Some(Kind::Event) => "an event",
    };
    format!("'{name}' of database '{database}' is {what}: {restores}")
}
