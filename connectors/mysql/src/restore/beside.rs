//! `--replace`: tables are loaded into a database of their own, beside the existing one. When all rows are loaded, one
//! statement exchanges the old tables and the new ones; the old objects are dropped when everything is created. Until
//! then each step can be undone: a failure leaves the database unchanged.
//!
//! A table moves with its rows and indexes, and foreign keys follow it. Triggers, views, routines and events cannot
//! move, so they are read before they are dropped, and created again if the switch is undone. A table to which foreign
//! keys of staying tables refer is not replaced, since those keys would follow the old table; this is refused before
//! anything changes. Source: MariaDB's documentation, "RENAME TABLE", "Foreign Keys".

use super::Work;
use super::leftovers::{CODE, DROPPING, MARKER, Role, SWITCHED, TABLE, named};
use super::stored::Goal;
use super::tables::Stretch;
use crate::dump::Code;
use crate::server::{Script, error_number, is_named, literal, quoted};
use engine::{Error, Result};

/// One replacement.
pub(super) struct Beside<'a> {
    work: &'a Work<'a>,
    target: &'a str,
    /// The database that is filled.
    pub(super) new: String,
    /// Where the old tables go.
    old: String,
    /// Those that are replaced; all, and what else the database has, if empty.
    tables: &'a [String],
    code: Code,
    /// What the old database was made with.
    settings: String,
    /// The tables of the dump that are to come.
    wanted: Vec<String>,
    /// The tables that it had at first, of those that are replaced.
    had: Vec<String>,
    /// What changes places, once that is tried.
    switch: Option<Switch>,
    /// Sequences that the old database lacks: defaults of the new tables name them there.
    pub(super) missing: Vec<String>,
}

/// Tables that change places, as they were read before.
struct Switch {
    /// The old ones.
    go: Vec<String>,
    /// The new ones.
    come: Vec<String>,
}

impl<'a> Work<'a> {
    /// Makes the database to be filled in place of `target`, whose settings it gets.
    pub(super) fn beside(
        &'a self,
        target: &'a str,
        settings: &str,
        chosen: &[Stretch],
    ) -> Result<Beside<'a>> {
        let had = self.replaced(target)?;
        self.is_free(target, &had)?;
        let tables = &self.options.selection.tables;
        let code = Code::read(self.server, target, tables)?;
        let limit = self.limit()?;
        // Kept in hexadecimal digits while the switch lasts.
        let too_long = |lines: &[u8]| 2 * lines.len() as u64 + 1024 >= limit;
        if let Some((name, _)) = code.definitions.iter().find(|(_, lines)| too_long(lines)) {
            return Err(self.refused(format!(
                "{name} could not be put back, its definition is larger than the server's max_allowed_packet of {limit} bytes: nothing was touched; drop it first"
            )));
        }
        let shown = self.server.query(&format!("SHOW CREATE DATABASE {}", quoted(target)))?;
        let text = shown.into_iter().next().and_then(|row| row.into_iter().nth(1)).unwrap_or_default();
        let own = text.strip_prefix(&format!("CREATE DATABASE {}", quoted(target))).unwrap_or_default();
        let (new, old) = (named(target, Role::New), named(target, Role::Old));
        let beside = Beside {
            work: self,
            target,
            new,
            old,
            tables,
            code,
            settings: own.to_owned(),
            wanted: chosen.iter().map(|(name, ..)| name.clone()).collect(),
            had,
            switch: None,
            missing: vec![],
        };
        let names: Vec<&String> = chosen.iter().map(|(name, ..)| name).collect();
        self.statements(&beside.make(&beside.new, Role::New, settings, &names)).map_err(
            |error| match error {
                Error::Source(error) if error_number(&error.why) == Some(1044) => self.refused(format!(
                    "--replace fills the database '{}' first, and this account may not make it: {}",
                    beside.new, error.why
                )),
                other => other,
            },
        )?;
        Ok(beside)
    }

    /// Runs statements, up to the first that fails.
    pub(super) fn statements(&self, statements: &[String]) -> Result<()> {
        let mut script = Script::default();
        script.add("lock", self.locks.at_work().as_bytes());
        statements.iter().for_each(|statement| script.add(statement, statement.as_bytes()));
        match script.run(self.server, false)?.failures.into_iter().next() {
            Some((_, why)) => Err(self.server.error(engine::source::SourceErrorKind::Command, why).into()),
            None => Ok(()),
        }
    }

    /// Sequences of a dump that a database lacks.
    pub(super) fn missing_sequences(&self, goal: &Goal, chosen: &[Stretch]) -> Result<Vec<String>> {
        let there = self.tables_of(&goal.target)?;
        let mut missing = vec![];
        for (name, from, to) in chosen.iter().filter(|(name, ..)| !there.contains(name)) {
            let begin = self.bytes(&goal.path, (*from, *to.min(&(from + 64))))?;
            if begin.trim_ascii_start().starts_with(b"DROP SEQUENCE ") {
                missing.push(name.clone());
            }
        }
        Ok(missing)
    }

    /// Tables and sequences of a database.
    pub(super) fn tables_of(&self, database: &str) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT table_name FROM information_schema.tables WHERE {} AND table_type <> 'VIEW' ORDER BY 1",
            is_named("table_schema", database)
        );
        let rows = self.server.query(&sql)?.into_iter().flatten();
        let is_ours =
            [Role::New, Role::Old].iter().any(|role| database.ends_with(&format!(".esker-{}", role.word())));
        Ok(rows.filter(|name| !is_ours || name != MARKER).collect())
    }

    /// Those of them that are replaced.
    pub(super) fn replaced(&self, target: &str) -> Result<Vec<String>> {
        let mut there = self.tables_of(target)?;
        there.retain(|name| {
            self.options.selection.tables.is_empty() || self.options.selection.tables.contains(name)
        });
        Ok(there)
    }

    /// What nobody needs any more.
    pub(super) fn drop_databases(&self, names: &[&String]) {
        for name in names {
            let drop = format!("DROP DATABASE IF EXISTS {}", quoted(name));
            if let Err(error) = self.statements(&["SET foreign_key_checks = 0".into(), drop.clone()]) {
                self.tell(format!("database '{name}'"), &format!("is left: {error}; {drop} removes it"));
            }
        }
    }
}

impl Beside<'_> {
    /// Statements that make a database of ours, for `tables`.
    fn make(&self, name: &str, role: Role, settings: &str, tables: &[&String]) -> Vec<String> {
        let marker = format!("{}.{}", quoted(name), quoted(MARKER));
        let (role, target) = (literal(role.word()), literal(self.target));
        let mut statements = vec![
            format!("CREATE DATABASE {} {settings}", quoted(name)),
            format!(
                "CREATE TABLE {marker} (role varchar(8), target varchar(64), stage varchar(8), definition longblob) CHARACTER SET utf8mb4 COMMENT 'a restore of esker is under way'"
            ),
            format!("INSERT INTO {marker} VALUES ({role}, {target}, 'begun', NULL)"),
        ];
        let lists = tables
            .iter()
            .map(|table| format!("INSERT INTO {marker} VALUES ('{TABLE}', {}, '', NULL)", literal(table)));
        statements.extend(lists);
        statements
    }

    /// Makes what the new tables need of the old database.
    pub(super) fn prepare(&self) -> Result<()> {
        let make = |name: &String| format!("CREATE SEQUENCE {}.{}", quoted(self.target), quoted(name));
        self.work.statements(&self.missing.iter().map(make).collect::<Vec<_>>())
    }

    /// The new tables take the place of the old ones, and the database gets `settings`, if there are any.
    pub(super) fn switch(&mut self, settings: Option<&str>) -> Result<()> {
        self.work.go_on()?;
        self.work.phase(self.target, "the new tables take the place of the old ones", 0);
        self.work.locks.is_held()?;
        let new = self.work.tables_of(&self.new)?;
        let mut there = self.work.replaced(self.target)?;
        let unclear = self.work.is_free(self.target, &there)?;
        // One whose successor the server refused stays: there would be none of it otherwise.
        there.retain(|table| {
            let stays = self.wanted.contains(table) && !new.contains(table);
            if stays {
                let what = format!("table {}.{table}", self.target);
                self.work.tell(what, "the one that is there keeps its rows, since the new one was refused");
            }
            !stays
        });
        // Those that go to the database beside, and should go to the target: to tables that are not among the new ones.
        let mut keys = self.work.keys_within(&self.new, self.target)?;
        keys.retain(|key| !new.contains(&key.parent));
        // What holds a table longer is no reason to leave the database without its code for as long.
        let mut statements =
            ["SET foreign_key_checks = 0", "SET lock_wait_timeout = 60"].map(str::to_owned).to_vec();
        let full = |database: &str, table: &str| format!("{}.{}", quoted(database), quoted(table));
        statements.extend(self.make(&self.old, Role::Old, "", &there.iter().collect::<Vec<_>>()));
        let marker = full(&self.old, MARKER);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        statements.extend(
            self.code.definitions.iter().map(|(_, lines)| {
                format!("INSERT INTO {marker} VALUES ('{CODE}', '', '', x'{}')", hex(lines))
            }),
        );
        statements.push(format!("UPDATE {marker} SET stage = '{DROPPING}' WHERE role = 'old'"));
        statements.extend(self.code.drops.iter().cloned());
        let all = [moves(self.target, &self.old, &there), moves(&self.new, self.target, &new)].concat();
        statements.extend((!all.is_empty()).then(|| format!("RENAME TABLE {}", all.join(", "))));
        let switched = format!("UPDATE {marker} SET stage = '{SWITCHED}' WHERE role = 'old'");
        // Else it is not known yet whether they stay there.
        statements.extend(unclear.is_empty().then(|| switched.clone()));
        self.switch = Some(Switch { go: there, come: new });
        let refused = |error: Error| {
            let why = "the new tables cannot take the place of the old ones; one that cannot be moved may be dropped before";
            Error::Refused(format!("database '{}': {why}: {error}", self.target))
        };
        self.work.statements(&statements).map_err(refused)?;
        if !unclear.is_empty() {
            let keep = |text: &str| {
                format!("INSERT INTO {marker} VALUES ('{CODE}', '', '', x'{}')", hex(text.as_bytes()))
            };
            self.work.is_free_of_others([&self.old, self.target], unclear, &keep)?;
        }
        let mut statements = vec!["SET foreign_key_checks = 0".to_owned(), switched];
        for key in keys {
            let table = full(self.target, &key.table);
            statements.extend([key.drop, key.add].map(|change| format!("ALTER TABLE {table} {change}")));
        }
        statements.extend(settings.map(|settings| alter_database(self.target, settings)));
        self.work.statements(&statements).map_err(refused)
    }

    /// Everything is made: what was there is dropped.
    pub(super) fn finish(self) {
        self.work.drop_databases(&[&self.old, &self.new]);
    }

    /// Puts what was there back, and says what is left.
    pub(super) fn undo(&self) {
        let what = format!("database '{}'", self.target);
        let drop = format!("DROP DATABASE {}", quoted(&self.new));
        match self.put_back() {
            Ok(is_same) => {
                let how = match is_same {
                    true => "is as it was",
                    false => {
                        "has its old tables again, but not everything is as it was when the restore began: \
                            its views, routines, triggers and events are in the table esker-marker of its \
                            .esker-old database"
                    }
                };
                let why = format!(
                    "{how}; the result of the restore is in '{}', {drop} removes it, and so does the next \
                        restore with --replace",
                    self.new
                );
                self.work.tell(what, &why);
            }
            Err(error) => {
                let why = format!(
                    "could not be put back: {error}; its old tables are in '{}', as far as they are not in it, the new ones in '{}'",
                    self.old, self.new
                );
                self.work.tell(what, &why);
            }
        }
    }

    /// Moves back what is known to have moved; whether all is as it was.
    fn put_back(&self) -> Result<bool> {
        self.work.locks.hold_again(self.target)?;
        let missing = self
            .missing
            .iter()
            .map(|name| format!("DROP SEQUENCE IF EXISTS {}.{}", quoted(self.target), quoted(name)));
        let missing: Vec<String> = missing.collect();
        let Some(Switch { go, come }) = &self.switch else {
            self.work.statements(&missing)?;
            return Ok(self.work.replaced(self.target)? == self.had);
        };
        let old = self.work.tables_of(&self.old)?;
        let left = self.work.tables_of(&self.new)?;
        let there = self.work.replaced(self.target)?;
        let has = |tables: &[String]| tables.iter().all(|table| there.contains(table));
        let mut statements = vec!["SET foreign_key_checks = 0".to_owned()];
        // All of the tables changed places, or none: the lists that were read before say which.
        if old == *go && left.is_empty() && has(come) {
            statements.extend(Code::read(self.work.server, self.target, self.tables)?.drops);
            let back = [moves(self.target, &self.new, come), moves(&self.old, self.target, go)].concat();
            statements.extend((!back.is_empty()).then(|| format!("RENAME TABLE {}", back.join(", "))));
        } else if !(old.is_empty() && left == *come && has(go)) {
            let why = "other tables are there than before the switch and after it; nothing was moved";
            return Err(self.work.refused(why.to_owned()));
        }
        if self.tables.is_empty() {
            statements.push(alter_database(self.target, &self.settings));
        }
        statements.extend(missing);
        self.work.statements(&statements)?;
        let mut is_same = true;
        for (name, lines) in &self.code.definitions {
            // Each by itself: one that ends the connection costs no other.
            let mut script = Script::default();
            let begin = format!("{};\nUSE {}", self.work.locks.at_work(), quoted(self.target));
            script.add("settings", begin.as_bytes());
            script.add_lines(name, lines);
            let failure = match script.run(self.work.server, true) {
                Ok(outcome) => outcome.failures.into_iter().next().map(|(_, why)| why),
                Err(error) => Some(error.why),
            };
            // What was not dropped is there.
            if let Some(why) = failure.filter(|why| error_number(why) != Some(1359)) {
                is_same = false;
                self.work.tell(name.clone(), &format!("could not be put back: {why}"));
            }
        }
        if is_same && self.work.is_there(&self.old)? && self.work.tables_of(&self.old)?.is_empty() {
            self.work.drop_databases(&[&self.old]);
        }
        Ok(is_same && self.work.replaced(self.target)? == self.had)
    }
}

/// What `RENAME TABLE` is told, to move tables from one database to another.
fn moves(from: &str, to: &str, tables: &[String]) -> Vec<String> {
    let (from, to) = (quoted(from), quoted(to));
    tables.iter().map(|table| quoted(table)).map(|name| format!("{from}.{name} TO {to}.{name}")).collect()
}

fn alter_database(name: &str, settings: &str) -> String {
    match settings.trim() {
        "" => "DO 0".to_owned(),
        settings => format!("ALTER DATABASE {} {settings}", quoted(name)),
    }
}
