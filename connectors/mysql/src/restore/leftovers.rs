//! Leftovers of an interrupted restore with `--replace`: databases that contain esker's marker table.

use super::Work;
use crate::server::{is_named, quoted};
use engine::Result;

/// The table in a database of ours.
pub(super) const MARKER: &str = "esker-marker";
/// The role of a row of it that names a table which the database is made for.
pub(super) const TABLE: &str = "table";
/// The role of a row of it that holds the definition of a view, routine, trigger or event which is dropped in the switch.
pub(super) const CODE: &str = "code";
/// The stage in which those are dropped: some may be gone.
pub(super) const DROPPING: &str = "dropping";
/// The stage in which the tables have changed places, and what the snapshot has of code is made.
pub(super) const SWITCHED: &str = "switched";
/// A database's name in characters, at most.
const LONGEST: usize = 64;

/// What a database of ours is for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Role {
    /// It is filled.
    New,
    /// It holds what was there.
    Old,
}

impl Role {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Old => "old",
        }
    }
}

/// The name of our database beside `target`: of two targets never the same.
pub(super) fn named(target: &str, role: Role) -> String {
    let name = format!("{target}.esker-{}", role.word());
    // On disk another character than these is five bytes long.
    if target.is_ascii() && name.len() <= LONGEST {
        return name;
    }
    format!("{}.esker-{}", &blake3::hash(target.as_bytes()).to_hex()[..32], role.word())
}

impl Work<'_> {
    pub(super) fn is_there(&self, name: &str) -> Result<bool> {
        let sql =
            format!("SELECT 1 FROM information_schema.schemata WHERE {}", is_named("schema_name", name));
        Ok(!self.server.query(&sql)?.is_empty())
    }

    /// Databases of ours on the server.
    pub(super) fn leftovers(&self) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT table_schema FROM information_schema.tables WHERE table_name = '{MARKER}' AND table_schema LIKE '%.esker-%'"
        );
        Ok(self.server.query(&sql)?.into_iter().flatten().collect())
    }

    /// What the marker in a database of that name says: its stage. It must be of `target`, or the database is not ours.
    fn stage(&self, name: &str, target: &str, role: Role) -> Result<String> {
        let sql = format!(
            "SELECT target, role, stage FROM {}.{} WHERE role NOT IN ('{TABLE}', '{CODE}')",
            quoted(name),
            quoted(MARKER)
        );
        let rows = self.server.query(&sql).unwrap_or_default();
        match rows.into_iter().next().map(<[String; 3]>::try_from) {
            Some(Ok([of, is, stage])) if of == target && is == role.word() => Ok(stage),
            _ => Err(self.refused(format!(
                "there is a database '{name}', which --replace of '{target}' needs, and no restore has made it; rename or drop it"
            ))),
        }
    }

    /// Drops a database of ours, if it holds no table but those that it was made for.
    fn remove(&self, name: &str) -> Result<()> {
        let sql = format!("SELECT target FROM {}.{} WHERE role = '{TABLE}'", quoted(name), quoted(MARKER));
        let made_for: Vec<String> = self.server.query(&sql)?.into_iter().flatten().collect();
        let is_ours = |table: &String| made_for.iter().any(|name| name.eq_ignore_ascii_case(table));
        if let Some(table) = self.tables_of(name)?.iter().find(|table| !is_ours(table)) {
            return Err(self.refused(format!(
                "a restore that was cut off left the database '{name}', and it holds table '{table}', which is not of that restore; move it elsewhere, or drop '{name}'"
            )));
        }
        self.drop_databases(&[&name.to_owned()]);
        Ok(())
    }

    /// Puts back what a restore of `target` that was cut off has moved away, and removes what it has left; says so.
    pub(super) fn recover(&self, target: &str, notes: &mut Vec<String>) -> Result<()> {
        let old = named(target, Role::Old);
        if self.is_there(&old)? {
            let stage = self.stage(&old, target, Role::Old)?;
            let tables = self.tables_of(&old)?;
            if stage != SWITCHED && !tables.is_empty() {
                self.move_back(&old, target, &tables)?;
                notes.push(format!("tables that a restore left in '{old}' are in '{target}' again"));
            }
            // From then on until all is made, the code that was there is nowhere else, and that of the snapshot may be missing.
            if matches!(stage.as_str(), DROPPING | SWITCHED) && self.has_code(&old)? {
                return Err(self.refused(format!(
                    "a restore was killed while it exchanged the objects of '{target}', and its views, \
                        routines, triggers and events may be gone; the statements that create them are in the \
                        column definition of {}.{}, where role is '{CODE}': read them, since anyone who may \
                        write there may have changed them, run those of missing objects, then DROP DATABASE {}",
                    quoted(&old),
                    quoted(MARKER),
                    quoted(&old)
                )));
            }
            self.remove(&old)?;
            notes.push(format!("removed '{old}', which a restore that was cut off left"));
        }
        let new = named(target, Role::New);
        if self.is_there(&new)? {
            self.stage(&new, target, Role::New)?;
            self.remove(&new)?;
            notes.push(format!("removed '{new}', which a restore that was cut off left"));
        }
        Ok(())
    }

    /// Whether a database of ours holds definitions of code.
    fn has_code(&self, name: &str) -> Result<bool> {
        let sql = format!("SELECT 1 FROM {}.{} WHERE role = '{CODE}' LIMIT 1", quoted(name), quoted(MARKER));
        Ok(!self.server.query(&sql)?.is_empty())
    }

    fn move_back(&self, old: &str, target: &str, tables: &[String]) -> Result<()> {
        let there = self.tables_of(target)?;
        if let Some(both) = tables.iter().find(|table| there.contains(table)) {
            return Err(self.refused(format!(
                "a restore that was cut off left table '{both}' in '{old}' and in '{target}'; keep one of them, and drop '{old}'"
            )));
        }
        let moves: Vec<String> = tables
            .iter()
            .map(|table| {
                let name = quoted(table);
                format!("{}.{name} TO {}.{name}", quoted(old), quoted(target))
            })
            .collect();
        let off = "SET foreign_key_checks = 0".to_owned();
        self.statements(&[off, format!("RENAME TABLE {}", moves.join(", "))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beside() {
        assert_eq!(named("shop", Role::New), "shop.esker-new");
        let long = "x".repeat(64);
        assert!(named(&long, Role::Old).len() <= LONGEST && named(&long, Role::Old).ends_with(".esker-old"));
        assert_ne!(named(&long, Role::New), named(&"x".repeat(63), Role::New));
        assert!(named("sch\u{f6}n", Role::New).is_ascii());
    }
}
