//! Databases of a snapshot into a running MariaDB or MySQL: all of them, one, or single tables, of which only their own
//! stretch of the dump is read; and the binary log after it, up to a moment. Tables come first, then what is written in
//! SQL's own words, views last: they may need any database. What of these the server refuses is told and left out.

use super::dump::dump;
use super::range::dump_ranges;
use crate::manifest::for_all_entries;
use crate::mysql::{Server, follow, is_named, quoted};
use crate::names;
use crate::snapshot::Snapshot;
use crate::source::mysql::{Index, Kind, Object, SYSTEM};
use crate::{Counter, Error, ItemError, Monitor, Repository, Result};
use client::write;
use std::collections::BTreeMap;

mod accounts;
mod client;
mod disarm;
mod objects;
mod replay;

/// Choices for a restore into MariaDB.
#[derive(Clone, Debug, Default)]
pub struct MysqlOptions {
    /// Only these databases; all, and the accounts, if empty.
    pub databases: Vec<String>,
    /// Only these tables, of one database.
    pub tables: Vec<String>,
    /// Drop what is there first.
    pub replace: bool,
    /// The moment to go on to, by the binary log.
    pub time: Option<jiff::Timestamp>,
    /// Check everything, and touch nothing.
    pub dry_run: bool,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MysqlReport {
    /// Databases, by the names they have now, and the bytes of their dumps that were read.
    pub databases: BTreeMap<String, u64>,
    /// Single tables.
    pub tables: u64,
    /// Files of the binary log that were replayed.
    pub logs: u64,
}

/// What a snapshot has of a server.
#[derive(Default)]
struct Contents {
    databases: BTreeMap<String, String>,
    accounts: Option<String>,
    libraries: Option<String>,
    logs: Vec<(String, String)>,
}

/// Writes databases of `snapshot`, below `path` if that is not empty, into `server`; one database goes into the
/// server's own, if its URL names one.
pub fn restore(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &str,
    server: &Server,
    options: &MysqlOptions,
    monitor: &dyn Monitor,
) -> Result<MysqlReport> {
    repo.sync_index(monitor)?;
    let contents = contents(repo, snapshot, path)?;
    let mut wanted = contents.databases.clone();
    wanted.retain(|name, _| options.databases.is_empty() || options.databases.contains(name));
    if let Some(missing) = options.databases.iter().find(|name| !wanted.contains_key(*name)) {
        let all: Vec<&str> = contents.databases.keys().map(String::as_str).collect();
        return Err(Error::Invalid(format!(
            "there is no database '{missing}' in this snapshot; it has {}",
            all.join(", ")
        )));
    }
    let is_whole = options.databases.is_empty() && options.tables.is_empty() && server.database.is_none();
    if wanted.len() != 1 && !is_whole && options.databases.is_empty() {
        return Err(Error::Invalid("the snapshot has several databases; choose one with --database".into()));
    }
    if options.time.is_some() && !is_whole {
        return Err(Error::Invalid(
            "a moment is restored as a whole: all databases, under their own names".into(),
        ));
    }
    let work = Work { repo, snapshot, server, options, monitor };
    // All is looked at before the first is touched.
    let mut targets = vec![];
    for (name, path) in &wanted {
        let target = server.database.clone().unwrap_or_else(|| name.clone());
        work.check(name, &target, path)?;
        targets.push((name, target, path));
    }
    let mut report = MysqlReport::default();
    if options.dry_run {
        report.databases = targets.into_iter().map(|(_, target, _)| (target, 0)).collect();
        return Ok(report);
    }
    let needs_logs = options.time.is_some() || (is_whole && !contents.logs.is_empty());
    let logs = needs_logs.then(|| work.logs(&contents.logs)).transpose()?;
    let accounts = contents.accounts.as_ref().filter(|_| is_whole);
    for path in targets.iter().map(|(.., path)| *path).chain(accounts) {
        work.prove(path)?;
    }
    let before = accounts.map(|_| work.accounts_before()).transpose()?.unwrap_or_default();
    let first = accounts.map(|accounts| work.accounts(accounts, &before)).transpose()?;
    let mut views = vec![];
    for (name, target, path) in targets {
        let index = work.index(path)?;
        let bytes = match options.tables.is_empty() {
            true => work.database(name, &target, path, &index),
            false => {
                report.tables = options.tables.len() as u64;
                work.tables(&target, path, &index)
            }
        };
        let bytes = bytes.inspect_err(|_| work.tell_what_is_left(&target))?;
        let (own, rest): (Vec<Object>, Vec<Object>) = index
            .objects
            .into_iter()
            .filter(|object| work.is_chosen(object))
            .partition(|o| o.kind != Kind::View);
        let bytes = bytes + work.objects(name, &target, path, &own)?;
        views.push((target.clone(), path, rest));
        report.databases.insert(target, bytes);
    }
    work.views(views, &mut report)?;
    if let (Some(accounts), Some(first)) = (accounts, first) {
        // Rights on tables fail as long as there are none; those in roles, once their makers are gone.
        for (_, why) in work.accounts(accounts, &before)?.into_iter().filter(|(at, _)| first.contains_key(at))
        {
            work.tell("accounts".into(), &why);
        }
    }
    if let Some(libraries) = contents.libraries.as_ref().filter(|_| is_whole) {
        work.libraries(libraries)?;
    }
    if let Some(logs) = logs {
        report.logs = work.replay(&logs)?;
    }
    Ok(report)
}

fn contents(repo: &Repository, snapshot: &Snapshot, below: &str) -> Result<Contents> {
    let below = below.trim_matches('/');
    let mut servers: BTreeMap<String, Contents> = BTreeMap::new();
    for_all_entries(repo.store(), &snapshot.manifest, &mut |listed| {
        let path = String::from_utf8_lossy(&listed.entry.path).into_owned();
        if !(below.is_empty() || path == below || path.starts_with(&format!("{below}/"))) {
            return Ok(());
        }
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            ["mysql", place, "databases", file] => {
                if let Some(name) = file.strip_suffix(".sql").and_then(names::decoded) {
                    servers.entry((*place).into()).or_default().databases.insert(name, path.clone());
                }
            }
            ["mysql", place, "globals.sql"] => {
                servers.entry((*place).into()).or_default().accounts = Some(path.clone());
            }
            ["mysql", place, "libraries.sql"] => {
                servers.entry((*place).into()).or_default().libraries = Some(path.clone());
            }
            ["mysql", place, "binlog", name] => {
                servers.entry((*place).into()).or_default().logs.push(((*name).into(), path.clone()));
            }
            _ => {}
        }
        Ok(())
    })?;
    super::only_server(servers, "mysql", "MariaDB or MySQL")
}

/// A monitor that hears of no progress: nothing is restored yet.
struct Quiet<'a>(&'a dyn Monitor);

impl Monitor for Quiet<'_> {
    fn count(&self, _: Counter, _: u64) {}

    fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter)
    }

    fn restart(&self) {}

    fn error(&self, error: ItemError) {
        self.0.error(error);
    }

    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}

struct Work<'a> {
    repo: &'a Repository,
    snapshot: &'a Snapshot,
    server: &'a Server,
    options: &'a MysqlOptions,
    monitor: &'a dyn Monitor,
}

impl Work<'_> {
    fn refused(&self, why: String) -> Error {
        Error::Refused(format!("{}: {why}", self.server.shown))
    }

    fn text(&self, path: &str) -> Result<String> {
        let mut bytes = vec![];
        dump(self.repo, self.snapshot, path.as_bytes(), &mut bytes, self.monitor)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn bytes(&self, path: &str, range: (u64, u64)) -> Result<Vec<u8>> {
        let mut bytes = vec![];
        dump_ranges(self.repo, self.snapshot, path.as_bytes(), &[range], &mut bytes, self.monitor)?;
        Ok(bytes)
    }

    fn index(&self, path: &str) -> Result<Index> {
        let path = format!("{path}.index");
        serde_json::from_str(&self.text(&path)?)
            .map_err(|error| Error::Malformed { what: path, why: error.to_string() })
    }

    /// Reads what will be restored of a dump, whole: what the repository has lost is found before anything is dropped or made.
    fn prove(&self, path: &str) -> Result<()> {
        let quiet = Quiet(self.monitor);
        let (repo, snapshot, bytes) = (self.repo, self.snapshot, path.as_bytes());
        if self.options.tables.is_empty() {
            return dump(repo, snapshot, bytes, &mut std::io::sink(), &quiet).map(drop);
        }
        let index = self.index(path)?;
        let tables = index.tables.iter().filter(|(name, ..)| self.options.tables.contains(name));
        let objects = index.objects.iter().filter(|object| self.is_chosen(object));
        let mut ranges = vec![(0, index.head)];
        ranges.extend(tables.map(|(_, from, to)| (*from, *to)));
        ranges.extend(objects.map(|object| (object.from, object.to)));
        dump_ranges(repo, snapshot, bytes, &ranges, &mut std::io::sink(), &quiet).map(drop)
    }

    /// Says that what was begun is not whole.
    fn tell_what_is_left(&self, target: &str) {
        let what = match self.options.tables.is_empty() {
            true => String::new(),
            false => format!(", tables {}", self.options.tables.join(", ")),
        };
        let why = "is there only as far as its restore came; what comes after it was not begun; --replace begins anew";
        self.tell(format!("database '{target}'{what}"), why);
    }

    /// That a database is none of the server's own, which a restore must neither drop nor add to.
    fn is_for_users(&self, target: &str) -> Result<()> {
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

    /// That nothing is in the way, or may be removed.
    fn check(&self, name: &str, target: &str, path: &str) -> Result<()> {
        self.is_for_users(target)?;
        let names_in = |table: &str, kind: &str| {
            let is_own = is_named(&format!("{kind}_schema"), target);
            format!("SELECT {kind}_name FROM information_schema.{table} WHERE {is_own}")
        };
        let sql = names_in("tables", "table");
        let there: Vec<String> = self.server.query(&sql)?.into_iter().flatten().collect();
        if self.options.tables.is_empty() {
            let others =
                [("routines", "routine"), ("events", "event")].map(|(table, kind)| names_in(table, kind));
            let others = self.server.query(&others.join(" UNION ALL "))?.len();
            if there.len() + others > 0 && !self.options.replace {
                return Err(self.refused(format!(
                    "database '{target}' is not empty ({} tables and views, {others} routines and events); --replace drops it first, another name in the URL leaves it alone",
                    there.len()
                )));
            }
            return Ok(());
        }
        let index = self.index(path)?;
        for table in &self.options.tables {
            if !index.tables.iter().any(|(known, ..)| known == table) {
                return Err(Error::Invalid(format!("there is no table '{table}' in the dump of '{name}'")));
            }
        }
        let sql =
            format!("SELECT 1 FROM information_schema.schemata WHERE {}", is_named("schema_name", target));
        if self.server.query(&sql)?.is_empty() {
            return Err(self.refused(format!("there is no database '{target}' to put tables into")));
        }
        let taken: Vec<&str> =
            self.options.tables.iter().filter(|table| there.contains(table)).map(String::as_str).collect();
        if !taken.is_empty() && !self.options.replace {
            return Err(self.refused(format!(
                "there already: {}; --replace drops them first, another database in the URL leaves them alone",
                taken.join(", ")
            )));
        }
        Ok(())
    }

    fn tell(&self, item: String, message: &str) {
        self.monitor.error(ItemError { during: "restore", item, message: message.to_owned() });
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

    /// Makes a database and its tables.
    fn database(&self, name: &str, target: &str, path: &str, index: &Index) -> Result<u64> {
        let created = self.bytes(path, (index.head, index.body))?;
        let settings = settings(&created, name)
            .ok_or_else(|| Error::Malformed { what: path.into(), why: "has no CREATE DATABASE".into() })?;
        let target = quoted(target);
        if self.options.replace {
            self.server.query(&format!("DROP DATABASE IF EXISTS {target}"))?;
        }
        let mut begin = format!("\nCREATE DATABASE IF NOT EXISTS {target};\n");
        if !settings.trim().is_empty() {
            begin.push_str(&format!("ALTER DATABASE {target} {settings};\n"));
        }
        begin.push_str(&format!("USE {target};\n"));
        let range = (index.body, index.tables_end);
        self.feed(&mut |out| {
            let (repo, snapshot, path) = (self.repo, self.snapshot, path.as_bytes());
            let head = dump_ranges(repo, snapshot, path, &[(0, index.head)], out, self.monitor)?;
            write(out, &begin)?;
            Ok(head + dump_ranges(repo, snapshot, path, &[range], out, self.monitor)?)
        })
    }

    fn tables(&self, target: &str, path: &str, index: &Index) -> Result<u64> {
        let is_chosen = |table: &&(String, u64, u64)| self.options.tables.contains(&table.0);
        let ranges: Vec<(u64, u64)> =
            index.tables.iter().filter(is_chosen).map(|(_, from, to)| (*from, *to)).collect();
        self.feed(&mut |out| {
            let (repo, snapshot, path) = (self.repo, self.snapshot, path.as_bytes());
            let head = dump_ranges(repo, snapshot, path, &[(0, index.head)], out, self.monitor)?;
            write(out, &format!("\nUSE {};\n", quoted(target)))?;
            Ok(head + dump_ranges(repo, snapshot, path, &ranges, out, self.monitor)?)
        })
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

/// What the moments of a snapshot's stream are, in milliseconds since 1970: from the dump's to the last.
#[must_use]
pub fn span(snapshot: &Snapshot) -> Option<(u64, u64)> {
    let record = snapshot.sources.iter().find(|source| source.kind == follow::KIND)?;
    let number = |name: &str| record.details.get(name)?.parse().ok();
    Some((number("base-ms")?, number("until-ms")?))
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
