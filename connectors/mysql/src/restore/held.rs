//! Foreign keys of tables that stay, to tables that are replaced: they would follow the old tables. What they hold is not replaced.
//!
//! information_schema lists only keys of tables that the account has rights on. InnoDB names any of them when a column changes that
//! it refers to. So an account that does not see all tables asks for such a change of each column that keys can refer to, in a
//! statement that InnoDB refuses in any case, because it also adds a key to a table that is not there. Of keys to one column InnoDB
//! names the first. Where that is a key of a table that is replaced, too, it is asked again after the switch, while those keys
//! are away; the switch is undone if there are others.
//! Source: MariaDB's documentation, "Foreign Keys", "ALTER TABLE", "INFORMATION_SCHEMA STATISTICS Table", "MariaDB Error Codes".

use super::Work;
use super::leftovers::{Role, named};
use crate::server::{Script, error_number, is_named, nonce, quoted};
use engine::{Result, shown};

/// A column that foreign keys can refer to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Column {
    table: String,
    name: String,
    /// Types that it can be asked to have, other than its own, as `MODIFY` is told.
    others: Vec<String>,
}

/// What InnoDB says of a column.
#[derive(Debug, PartialEq)]
enum Answer {
    /// No key refers to it.
    Free,
    /// This key does, as `foreign key 'NAME' of table 'DATABASE.TABLE'`.
    Held(String),
    /// It was refused for another reason.
    Unclear,
}

/// A foreign key, and the statements about its table that remove it and make it again.
pub(super) struct ForeignKey {
    pub(super) table: String,
    /// The table that it refers to.
    pub(super) parent: String,
    pub(super) drop: String,
    pub(super) add: String,
}

impl Work<'_> {
    /// That no foreign key of a table that stays refers to one of `tables`, which go; returns the columns of which that cannot be
    /// told before keys of these tables are away.
    pub(super) fn is_free(&self, target: &str, tables: &[String]) -> Result<Vec<Column>> {
        let sql = format!(
            "SELECT constraint_schema, table_name, constraint_name, referenced_table_name FROM information_schema.referential_constraints WHERE {} ORDER BY 1, 2, 3",
            is_named("unique_constraint_schema", target)
        );
        let ours = [Role::New, Role::Old].map(|role| named(target, role));
        let mut keys = vec![];
        for row in self.server.query(&sql)? {
            let [schema, table, key, parent] = <[String; 4]>::try_from(row).unwrap_or_default();
            let stays = schema != target || !tables.contains(&table);
            if stays && !ours.contains(&schema) && tables.contains(&parent) {
                let table = format!("{}.{}", quoted(&schema), quoted(&table));
                keys.push(format!(
                    "to table '{}' ({})",
                    shown::line(&parent),
                    shown::line(&format!("ALTER TABLE {table} DROP FOREIGN KEY {}", quoted(&key)))
                ));
            }
        }
        self.none_of(target, &keys)?;
        if self.sees_all()? {
            return Ok(vec![]);
        }
        let mut unclear = vec![];
        for (column, key) in self.ask_all(target, self.columns(target, tables)?)? {
            let is_own = |table: &String| key.ends_with(&format!(" of table '{}'", full(target, table)));
            match tables.iter().any(is_own) {
                true => unclear.push(column),
                false => keys.push(to(&column, &key)),
            }
        }
        self.none_of(target, &keys).map(|()| unclear)
    }

    fn none_of(&self, target: &str, keys: &[String]) -> Result<()> {
        match keys.is_empty() {
            true => Ok(()),
            false => Err(self.refused(format!(
                "foreign keys of other tables refer to what --replace of '{}' would replace: {}; nothing was replaced; drop these keys first, and add them again after the restore",
                shown::line(target),
                keys.join(", ")
            ))),
        }
    }

    /// Whether the account has a right on every table, which makes all foreign keys visible to it. Servers of others than MariaDB
    /// are not asked otherwise.
    fn sees_all(&self) -> Result<bool> {
        let own = "CONCAT('''', LEFT(CURRENT_USER(), CHAR_LENGTH(CURRENT_USER()) - LOCATE('@', REVERSE(CURRENT_USER()))), '''@''', SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')";
        let sql = format!(
            "SELECT VERSION() NOT LIKE '%MariaDB%' OR EXISTS (SELECT 1 FROM information_schema.user_privileges WHERE grantee = {own} AND privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'CREATE', 'ALTER', 'DROP'))"
        );
        Ok(self.server.query(&sql)?.first().is_some_and(|row| row == &["1"]))
    }

    /// Columns of `tables` that foreign keys can refer to: the first of each index.
    fn columns(&self, schema: &str, tables: &[String]) -> Result<Vec<Column>> {
        let same = "c.table_schema = s.table_schema AND BINARY c.table_name = BINARY s.table_name";
        let sql = format!(
            "SELECT DISTINCT s.table_name, s.column_name, c.data_type, c.column_type, c.is_nullable FROM information_schema.statistics s JOIN information_schema.columns c ON {same} AND c.column_name = s.column_name JOIN information_schema.tables t ON {} AND t.engine = 'InnoDB' WHERE {} AND {} AND {} AND s.seq_in_index = 1 AND s.sub_part IS NULL AND s.index_type = 'BTREE' AND c.extra NOT LIKE '%VIRTUAL%' ORDER BY 1, 2",
            same.replace("c.", "t."),
            is_named("s.table_schema", schema),
            is_named("c.table_schema", schema),
            is_named("t.table_schema", schema),
        );
        let mut columns = vec![];
        for row in self.server.query(&sql)? {
            let [table, name, data, own, nullable] = <[String; 5]>::try_from(row).unwrap_or_default();
            let mut others: Vec<String> = ["bigint", "int", "char(7)"].map(str::to_owned).to_vec();
            others.retain(|other| !other.starts_with(&data));
            // Where an expression needs the type.
            others.extend((nullable == "YES").then(|| format!("{own} NOT NULL")));
            if tables.contains(&table) {
                columns.push(Column { table, name, others });
            }
        }
        Ok(columns)
    }

    /// Which of `columns` keys refer to, and the first of these keys.
    fn ask_all(&self, schema: &str, columns: Vec<Column>) -> Result<Vec<(Column, String)>> {
        let (mut left, mut held) = (columns, vec![]);
        let mut reason = String::new();
        for round in 0.. {
            let mut script = Script::default();
            script.add("language", b"SET lc_messages = 'en_US'");
            script.add("history", b"SET system_versioning_alter_history = KEEP");
            script.add("checks", b"SET foreign_key_checks = 1, lock_wait_timeout = 10");
            let asked: Vec<Column> =
                left.iter().filter(|column| column.others.len() > round).cloned().collect();
            if asked.is_empty() {
                break;
            }
            // Nobody has tables and columns of that name.
            let none = quoted(&nonce());
            for Column { table, name, others } in &asked {
                let sql = format!(
                    "ALTER TABLE {}.{} ALGORITHM = COPY, MODIFY {} {}, ADD COLUMN {none} int, ADD FOREIGN KEY ({none}) REFERENCES {}.{none} ({none})",
                    quoted(schema),
                    quoted(table),
                    quoted(name),
                    others[round],
                    quoted(schema),
                );
                script.add(name, sql.as_bytes());
            }
            let outcome = script.run(self.server, true)?;
            for (number, why) in outcome.failures {
                let Some(column) = number.checked_sub(3).and_then(|number| asked.get(number)) else {
                    // A server that does not know a setting does without.
                    continue;
                };
                match answer(&why) {
                    Answer::Free => left.retain(|other| other != column),
                    Answer::Held(key) => {
                        left.retain(|other| other != column);
                        held.push((column.clone(), key));
                    }
                    Answer::Unclear => reason = why,
                }
            }
        }
        match left.first() {
            None => Ok(held),
            Some(column) => Err(self.refused(format!(
                "this account does not see the foreign keys of all databases, and whether some refer to column '{}' of table '{}' cannot be proved ({reason}): nothing was replaced; an account with rights on all tables sees them, and one with ALTER, INSERT, CREATE and REFERENCES on this database can prove it",
                shown::line(&column.name),
                shown::line(&full(schema, &column.table)),
            ))),
        }
    }

    /// Foreign keys of tables in `schema` to tables in it; made again, they refer to tables in `to`.
    pub(super) fn keys_within(&self, schema: &str, to: &str) -> Result<Vec<ForeignKey>> {
        let quoted_column = |name: &str| {
            format!(
                "GROUP_CONCAT(CONCAT('`', REPLACE({name}, '`', '``'), '`') ORDER BY k.ordinal_position SEPARATOR ', ')"
            )
        };
        let sql = format!(
            "SELECT k.table_name, k.constraint_name, {}, k.referenced_table_name, {}, r.update_rule, r.delete_rule FROM information_schema.key_column_usage k JOIN information_schema.referential_constraints r ON r.constraint_schema = k.constraint_schema AND r.constraint_name = k.constraint_name AND r.table_name = k.table_name WHERE {} AND {} AND {} GROUP BY k.table_name, k.constraint_name, k.referenced_table_name, r.update_rule, r.delete_rule",
            quoted_column("k.column_name"),
            quoted_column("k.referenced_column_name"),
            is_named("k.table_schema", schema),
            is_named("k.referenced_table_schema", schema),
            is_named("r.constraint_schema", schema),
        );
        let mut found = vec![];
        for row in self.server.query(&sql)? {
            let [table, name, columns, parent, parents, update, delete] =
                <[String; 7]>::try_from(row).unwrap_or_default();
            let rule = |word: &str, rule: &str| match rule {
                "RESTRICT" => String::new(),
                rule => format!(" ON {word} {rule}"),
            };
            let name = quoted(&name);
            let add = format!(
                "ADD CONSTRAINT {name} FOREIGN KEY ({columns}) REFERENCES {}.{} ({parents}){}{}",
                quoted(to),
                quoted(&parent),
                rule("UPDATE", &update),
                rule("DELETE", &delete),
            );
            found.push(ForeignKey { table, parent, drop: format!("DROP FOREIGN KEY {name}"), add });
        }
        Ok(found)
    }

    /// That no key of a table elsewhere refers to `columns` of tables in `old`, which were those of `target`; `keep` is the statement
    /// that keeps a text for whoever must make keys again if this is killed.
    pub(super) fn is_free_of_others(
        &self,
        [old, target]: [&str; 2],
        columns: Vec<Column>,
        keep: &dyn Fn(&str) -> String,
    ) -> Result<()> {
        let mut keys = self.keys_within(old, old)?;
        keys.retain(|key| columns.iter().any(|column| column.table == key.parent));
        let alter = |database: &str, table: &str, change: &str| {
            format!("ALTER TABLE {}.{} {change}", quoted(database), quoted(table))
        };
        let unchecked = || vec!["SET foreign_key_checks = 0".to_owned()];
        let mut away = unchecked();
        let again = self.keys_within(old, target)?;
        let again = again.iter().filter(|key| keys.iter().any(|other| other.drop == key.drop));
        away.extend(again.map(|key| keep(&format!("{};\n", alter(target, &key.table, &key.add)))));
        away.extend(keys.iter().map(|key| alter(old, &key.table, &key.drop)));
        let asked = self.statements(&away).and_then(|()| self.ask_all(old, columns));
        let there: Vec<String> = self.keys_within(old, old)?.into_iter().map(|key| key.drop).collect();
        let gone = keys.iter().filter(|key| !there.contains(&key.drop));
        let back: Vec<String> =
            unchecked().into_iter().chain(gone.map(|key| alter(old, &key.table, &key.add))).collect();
        self.statements(&back)?;
        let held: Vec<String> = asked?.iter().map(|(column, key)| to(column, key)).collect();
        self.none_of(target, &held)
    }
}

/// As the server's messages name a table.
fn full(schema: &str, table: &str) -> String {
    format!("{schema}.{table}")
}

/// For people.
fn to(column: &Column, key: &str) -> String {
    format!(
        "to table '{}' ({}, which this account may not see)",
        shown::line(&column.table),
        shown::line(key)
    )
}

/// What a server's refusal says.
fn answer(why: &str) -> Answer {
    match error_number(why) {
        // No such table for the key (the server's number is of any table that it cannot create, InnoDB's own stands in the text);
        // no keys for partitioned tables; the column is of a key of its own table, which comes second.
        Some(1005) if why.contains("errno: 150") => Answer::Free,
        Some(1506 | 1832) => Answer::Free,
        Some(1833) => {
            let at = why.find("foreign key constraint '").unwrap_or_default();
            Answer::Held(why[at..].replacen("foreign key constraint", "foreign key", 1))
        }
        _ => Answer::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_refusal_says() {
        let text =
            "ERROR 1833: Cannot change column 'id': used in a foreign key constraint 'held' of table 'chi.c'";
        assert_eq!(answer(text), Answer::Held("foreign key 'held' of table 'chi.c'".into()));
        let text = "ERROR 1005: Can't create table `a`.`b` (errno: 150 \"Foreign key constraint is incorrectly formed\")";
        assert_eq!(answer(text), Answer::Free);
        assert_eq!(answer("ERROR 1005: Can't create table `a`.`b` (errno: 28)"), Answer::Unclear);
        assert_eq!(answer("ERROR 1205: Lock wait timeout exceeded"), Answer::Unclear);
    }
}
