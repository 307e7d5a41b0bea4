//! Databases of a snapshot into a running MariaDB or MySQL: all of them, one, or single tables, of which only their own
//! stretch of the dump is read; and the binary log after it, up to a moment.

use super::dump::dump;
use super::range::dump_ranges;
use crate::manifest::for_all_entries;
use crate::mysql::{Server, follow, quoted};
use crate::snapshot::Snapshot;
use crate::source::SourceErrorKind;
use crate::source::mysql::Index;
use crate::{Error, ItemError, Monitor, Repository, Result};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

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
    if let Some(accounts) = contents.accounts.as_ref().filter(|_| is_whole) {
        work.accounts(accounts)?;
    }
    for (name, target, path) in targets {
        let bytes = match options.tables.is_empty() {
            true => work.database(name, &target, path)?,
            false => {
                report.tables = options.tables.len() as u64;
                work.tables(&target, path)?
            }
        };
        report.databases.insert(target, bytes);
    }
    if options.time.is_some() || (is_whole && !contents.logs.is_empty()) {
        report.logs = work.replay(&contents.logs)?;
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
                if let Some(name) = file.strip_suffix(".sql") {
                    let name = percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
                    servers.entry((*place).into()).or_default().databases.insert(name, path.clone());
                }
            }
            ["mysql", place, "globals.sql"] => {
                servers.entry((*place).into()).or_default().accounts = Some(path.clone());
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

    fn index(&self, path: &str) -> Result<Index> {
        let path = format!("{path}.index");
        let mut bytes = vec![];
        dump(self.repo, self.snapshot, path.as_bytes(), &mut bytes, self.monitor)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::Malformed { what: path, why: error.to_string() })
    }

    /// That nothing is in the way, or may be removed.
    fn check(&self, name: &str, target: &str, path: &str) -> Result<()> {
        let text = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"));
        let sql =
            format!("SELECT table_name FROM information_schema.tables WHERE table_schema = {}", text(target));
        let there: Vec<String> = self.server.query(&sql)?.into_iter().flatten().collect();
        if self.options.tables.is_empty() {
            if !there.is_empty() && !self.options.replace {
                return Err(self.refused(format!(
                    "database '{target}' is not empty ({} tables); --replace drops it first, another name in the URL leaves it alone",
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
        let sql = format!("SELECT 1 FROM information_schema.schemata WHERE schema_name = {}", text(target));
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

    /// Accounts and their rights; those that are refused are told, and do not keep the rest from coming back.
    fn accounts(&self, path: &str) -> Result<()> {
        let mut bytes = vec![];
        dump(self.repo, self.snapshot, path.as_bytes(), &mut bytes, self.monitor)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // Every server has this one, and nobody but root may give it.
        let lines = text.lines().filter(|line| !line.starts_with("GRANT PROXY ON ``@`%` TO `root`@"));
        let text: String = lines.map(|line| format!("{line}\n")).collect();
        let (_, complaints) = self.run(true, &mut |out| write(out, &text).map(|()| text.len() as u64))?;
        for line in complaints.lines().filter(|line| line.starts_with("ERROR")) {
            let (item, message) = ("accounts".into(), line.to_owned());
            self.monitor.error(ItemError { during: "restore", item, message });
        }
        Ok(())
    }

    fn database(&self, name: &str, target: &str, path: &str) -> Result<u64> {
        if self.options.replace {
            self.server.query(&format!("DROP DATABASE IF EXISTS {}", quoted(target)))?;
        }
        let (repo, snapshot, monitor) = (self.repo, self.snapshot, self.monitor);
        if name == target {
            return self.feed(&mut |out| dump(repo, snapshot, path.as_bytes(), out, monitor));
        }
        let head = self.index(path)?.head;
        let body = self.body(path, head)?;
        self.server.query(&format!("CREATE DATABASE IF NOT EXISTS {}", quoted(target)))?;
        self.feed(&mut |out| {
            let first = dump_ranges(repo, snapshot, path.as_bytes(), &[(0, head)], out, monitor)?;
            write(out, &format!("\nUSE {};\n", quoted(target)))?;
            Ok(first + dump_ranges(repo, snapshot, path.as_bytes(), &[(body, u64::MAX)], out, monitor)?)
        })
    }

    /// Where `CREATE DATABASE` and `USE` end.
    fn body(&self, path: &str, head: u64) -> Result<u64> {
        let mut bytes = vec![];
        let range = (head, head + (16 << 10));
        dump_ranges(self.repo, self.snapshot, path.as_bytes(), &[range], &mut bytes, self.monitor)?;
        let bad = || Error::Malformed { what: path.into(), why: "has no USE at its beginning".into() };
        let from = memchr::memmem::find(&bytes, b"\nUSE `").ok_or_else(bad)?;
        let len = memchr::memchr(b'\n', &bytes[from + 1..]).ok_or_else(bad)?;
        Ok(head + (from + 1 + len + 1) as u64)
    }

    fn tables(&self, target: &str, path: &str) -> Result<u64> {
        let index = self.index(path)?;
        let ranges: Vec<(u64, u64)> = index
            .tables
            .iter()
            .filter(|(name, ..)| self.options.tables.contains(name))
            .map(|(_, from, to)| (*from, *to))
            .collect();
        let (repo, snapshot, monitor) = (self.repo, self.snapshot, self.monitor);
        self.feed(&mut |out| {
            let head = dump_ranges(repo, snapshot, path.as_bytes(), &[(0, index.head)], out, monitor)?;
            write(out, &format!("\nUSE {};\n", quoted(target)))?;
            Ok(head + dump_ranges(repo, snapshot, path.as_bytes(), &ranges, out, monitor)?)
        })
    }

    /// Replays the binary log from where the dump was made.
    fn replay(&self, logs: &[(String, String)]) -> Result<u64> {
        let record = self.snapshot.sources.iter().find(|source| source.kind == follow::KIND);
        let position = record.and_then(|record| {
            Some((record.details.get("binlog")?.clone(), record.details.get("position")?.clone()))
        });
        let Some((first, position)) = position else {
            return Err(Error::Invalid(
                "this snapshot has no binary log after its dump; 'esker stream' keeps it".into(),
            ));
        };
        let failed =
            |op| move |source| Error::Target { op, path: "a folder for the binary log".into(), source };
        let folder = tempfile::tempdir().map_err(failed("make"))?;
        let mut files = vec![];
        for (name, path) in logs.iter().filter(|(name, _)| *name >= first) {
            let place = folder.path().join(name);
            let mut file = std::fs::File::create(&place).map_err(failed("write to"))?;
            dump(self.repo, self.snapshot, path.as_bytes(), &mut file, self.monitor)?;
            files.push(place);
        }
        if files.is_empty() {
            return Ok(0);
        }
        let mut command = self.server.command(["mariadb-binlog", "mysqlbinlog"])?;
        command.env("TZ", "UTC").arg(format!("--start-position={position}"));
        if let Some(time) = self.options.time {
            command.arg(format!("--stop-datetime={}", time.strftime("%Y-%m-%d %H:%M:%S")));
        }
        command.args(&files).stdout(Stdio::piped()).stderr(Stdio::piped());
        let count = files.len() as u64;
        self.feed(&mut |out| {
            let broken = |error: std::io::Error| {
                Error::from(self.server.error(SourceErrorKind::Command, format!("mariadb-binlog: {error}")))
            };
            let mut child = command.spawn().map_err(broken)?;
            let (Some(mut output), Some(complaints)) = (child.stdout.take(), child.stderr.take()) else {
                return Err(broken(std::io::Error::other("no pipe")));
            };
            let listener =
                std::thread::spawn(move || std::io::read_to_string(complaints).unwrap_or_default());
            let copied = std::io::copy(&mut output, out);
            drop(output);
            let status = child.wait().map_err(broken)?;
            let text = listener.join().unwrap_or_default();
            let copied =
                copied.map_err(|source| Error::Target { op: "write to", path: "mariadb".into(), source })?;
            match status.success() {
                true => Ok(copied),
                false => Err(broken(std::io::Error::other(text.trim().to_owned()))),
            }
        })?;
        Ok(count)
    }

    /// Runs the client on what `write` writes; its first error ends it.
    fn feed(&self, write: &mut dyn FnMut(&mut dyn Write) -> Result<u64>) -> Result<u64> {
        self.run(false, write).map(|(bytes, _)| bytes)
    }

    /// The same, and what it complains about; `goes_on` after errors.
    fn run(
        &self,
        goes_on: bool,
        write: &mut dyn FnMut(&mut dyn Write) -> Result<u64>,
    ) -> Result<(u64, String)> {
        let mut command: Command = self.server.command(["mariadb", "mysql"])?;
        command.args([
            "--batch",
            "--binary-mode",
            "--max-allowed-packet=1G",
            "--default-character-set=utf8mb4",
        ]);
        if goes_on {
            command.arg("--force");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let failed =
            |why: String| Error::from(self.server.error(SourceErrorKind::Command, format!("mariadb: {why}")));
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let (Some(input), Some(complaints)) = (child.stdin.take(), child.stderr.take()) else {
            return Err(failed("no pipe to the command".into()));
        };
        let listener = std::thread::spawn(move || std::io::read_to_string(complaints).unwrap_or_default());
        let mut input = std::io::BufWriter::with_capacity(256 << 10, input);
        let written = write(&mut input);
        let is_refused = matches!(&written, Err(Error::Target { source, .. })
            if source.kind() == std::io::ErrorKind::BrokenPipe);
        if written.is_err() && !is_refused {
            let _ = child.kill();
        }
        let _ = input.flush();
        drop(input);
        let status = child.wait().map_err(|error| failed(error.to_string()))?;
        let text = listener.join().unwrap_or_default();
        if let (Err(error), false) = (&written, is_refused)
            && !matches!(error, Error::Target { .. })
        {
            return written.map(|bytes| (bytes, text));
        }
        if !goes_on && !status.success() {
            let reason = text.lines().find(|line| line.contains("ERROR")).or_else(|| text.lines().next());
            return Err(failed(reason.unwrap_or("failed without a word").to_owned()));
        }
        written.map(|bytes| (bytes, text))
    }
}

fn write(out: &mut dyn Write, text: &str) -> Result<()> {
    out.write_all(text.as_bytes()).map_err(|source| Error::Target {
        op: "write to",
        path: "mariadb".into(),
        source,
    })
}

/// What the moments of a snapshot's stream are, in milliseconds since 1970: from the dump's to the last.
#[must_use]
pub fn span(snapshot: &Snapshot) -> Option<(u64, u64)> {
    let record = snapshot.sources.iter().find(|source| source.kind == follow::KIND)?;
    let number = |name: &str| record.details.get(name)?.parse().ok();
    Some((number("base-ms")?, number("until-ms")?))
}
