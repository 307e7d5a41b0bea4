//! A restore of databases, from the first account to the binary log after them.

use super::Work;
use super::objects::Views;
use super::replay::Logs;
use super::report::MysqlReport;
use super::standing::{Stage, Standing};
use super::stored::{Goal, Stored};
use crate::dump::{Kind, Object};
use crate::server::quoted;
use engine::{Counter, Error, Result};

impl Work<'_> {
    /// Does it.
    pub(super) fn apply(
        &self,
        goals: &[Goal],
        stored: &Stored,
        logs: Option<&Logs>,
        standing: &mut Standing,
        report: &mut MysqlReport,
    ) -> Result<()> {
        standing.left = goals.iter().map(|goal| goal.target.clone()).collect();
        let accounts = stored.accounts.as_ref();
        let before = accounts.map(|_| self.accounts_before()).transpose()?.unwrap_or_default();
        standing.stage = Stage::Accounts;
        let first = accounts.map(|accounts| self.accounts(accounts, &before)).transpose()?;
        let mut views: Vec<Views<'_>> = vec![];
        standing.stage = Stage::Databases;
        for goal in goals {
            self.go_on()?;
            let (own, rest): (Vec<&Object>, Vec<&Object>) = goal
                .index
                .objects
                .iter()
                .filter(|object| self.is_chosen(object))
                .partition(|object| object.kind != Kind::View);
            self.locks.work_on(&goal.target);
            self.recover(&goal.target, &mut report.notes)?;
            let bytes = self.database(goal, &own, standing)?;
            report.tables = self.options.selection.tables.len() as u64;
            views.push((goal.target.clone(), &goal.path, rest.into_iter().cloned().collect()));
            standing.left.retain(|left| *left != goal.target);
            standing.done.push(goal.target.clone());
            report.databases.insert(goal.target.clone(), bytes);
        }
        standing.stage = Stage::Views;
        self.go_on()?;
        self.monitor.phase("views of all databases");
        let all = views.iter().flat_map(|(.., views)| views).map(|view| view.to - view.from);
        self.monitor.count(Counter::BytesTotal, all.sum());
        self.views(views, report)?;
        standing.stage = Stage::Rights;
        if let (Some(accounts), Some(first)) = (accounts, first) {
            // Rights on tables fail as long as there are none; those in roles, once their makers are gone.
            let refused = self.accounts(accounts, &before)?;
            for (_, why) in refused.into_iter().filter(|(at, _)| first.contains_key(at)) {
                self.tell("accounts".into(), &why);
            }
        }
        if let Some(libraries) = &stored.libraries {
            self.libraries(libraries)?;
        }
        standing.stage = Stage::Replay;
        if let Some(logs) = logs {
            self.monitor.phase("replay of the binary log");
            report.logs = self.replay(logs)?;
        }
        Ok(())
    }

    /// Makes a database or its tables, and what else is its own.
    fn database(&self, goal: &Goal, own: &[&Object], standing: &mut Standing) -> Result<u64> {
        let Goal { name, target, path, index } = goal;
        let is_whole = self.options.selection.tables.is_empty();
        let created = self.bytes(path, (index.head, index.body))?;
        let settings = settings(&created, name)
            .ok_or_else(|| Error::Malformed { what: path.clone(), why: "has no CREATE DATABASE".into() })?;
        let chosen = self.chosen(index);
        if self.options.replace && self.is_taken(target)? {
            let mut beside = self.beside(target, &settings, &chosen)?;
            beside.missing = self.missing_sequences(goal, &chosen)?;
            let filled = beside
                .prepare()
                .and_then(|()| self.fill([&beside.new, target], "", path, index, &chosen))
                .and_then(|bytes| beside.switch(is_whole.then_some(&*settings)).map(|()| bytes))
                .and_then(|bytes| Ok(bytes + self.objects(name, target, path, own)?))
                .and_then(|bytes| self.locks.is_held().map(|()| bytes));
            return match filled {
                Ok(bytes) => {
                    beside.finish();
                    Ok(bytes)
                }
                Err(error) => {
                    beside.undo();
                    Err(error)
                }
            };
        }
        standing.current = Some(target.clone());
        let quoted = quoted(target);
        let begin = match (is_whole, settings.trim()) {
            (false, _) => String::new(),
            (true, "") => format!("CREATE DATABASE IF NOT EXISTS {quoted};\n"),
            (true, settings) => {
                format!("CREATE DATABASE IF NOT EXISTS {quoted};\nALTER DATABASE {quoted} {settings};\n")
            }
        };
        let bytes = self.fill([target, target], &begin, path, index, &chosen)?;
        let bytes = bytes + self.objects(name, target, path, own)?;
        standing.current = None;
        Ok(bytes)
    }

    /// Functions and plugins of libraries that the server lacks: it is not for us to load code into it.
    fn libraries(&self, path: &str) -> Result<()> {
        let text = self.text(path)?;
        let sql = "SELECT dl FROM mysql.func UNION SELECT dl FROM mysql.plugin";
        let there: Vec<String> = self.server.query(sql)?.into_iter().flatten().collect();
        let mut missing: Vec<&str> =
            text.split("SONAME '").skip(1).filter_map(|rest| rest.split('\'').next()).collect();
        missing.sort_unstable();
        missing.dedup();
        missing.retain(|library| !there.iter().any(|known| known == library));
        if !missing.is_empty() {
            let why = format!(
                "{} are not loaded into a server by a restore; install them, and run what 'esker dump' gives of {path}",
                missing.join(", ")
            );
            self.tell("plugins and functions of libraries".into(), &why);
        }
        Ok(())
    }
}

/// What `CREATE DATABASE` says of a database besides its name: character set, collation, comment.
fn settings(created: &[u8], name: &str) -> Option<String> {
    let name = quoted(name);
    let text = std::str::from_utf8(created).ok()?;
    let text = text.trim_end().strip_suffix(&format!("USE {name};"))?.trim_end().strip_suffix(';')?;
    let text = text.trim_start().strip_prefix("CREATE DATABASE ")?;
    let text = text.strip_prefix("/*!32312 IF NOT EXISTS*/ ").unwrap_or(text);
    Some(text.strip_prefix(&name)?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::settings;

    #[test]
    fn settings_of_a_database() {
        let text = "\nCREATE DATABASE /*!32312 IF NOT EXISTS*/ `a``;b` /*!40100 DEFAULT CHARACTER SET latin1 COMMENT 'x; USE `y`;' */;\n\nUSE `a``;b`;";
        let expected = " /*!40100 DEFAULT CHARACTER SET latin1 COMMENT 'x; USE `y`;' */";
        assert_eq!(settings(text.as_bytes(), "a`;b").as_deref(), Some(expected));
        assert_eq!(settings(b"CREATE DATABASE `a`;\nUSE `a`;", "a").as_deref(), Some(""));
        assert_eq!(settings(text.as_bytes(), "a"), None);
    }
}
