//! Databases of a snapshot into a running PostgreSQL: all of a cluster with its roles, one database, or single tables
//! without the rest. pg_restore makes what the archive says; it gets only the data that are wanted.

mod archive;
mod tables;

use super::dump::dump;
use crate::manifest::for_all_entries;
use crate::pg::connection::PgError;
use crate::pg::programs::{Programs, database_name};
use crate::pg::toc::{Toc, TocEntry};
use crate::pg::{Connection, Server};
use crate::snapshot::Snapshot;
use crate::source::SourceErrorKind;
use crate::source::postgres::any_session;
use crate::{Error, ItemError, Monitor, Repository, Result};
use archive::Archive;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Choices for a restore into PostgreSQL.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// Only these databases; all, and the globals, if empty.
    pub databases: Vec<String>,
    /// Only these tables, as `schema.table`, or `table` of any schema.
    pub tables: Vec<String>,
    /// Drop what is there first: a database that is not empty, or a table.
    pub replace: bool,
    /// Leave owners and privileges out.
    pub no_owner: bool,
    /// Check everything, and touch nothing.
    pub dry_run: bool,
    /// Where programs are looked for besides their packages' folders.
    pub path: Option<String>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostgresReport {
    /// Databases, by the names they have now, and the bytes of their dumps that were read.
    pub databases: BTreeMap<String, u64>,
    /// Tables whose rows were restored.
    pub tables: u64,
    /// What the globals brought that was there already.
    pub globals_existing: u64,
}

/// What a snapshot has of one database.
#[derive(Clone, Debug)]
enum Kind {
    Directory,
    Custom,
    Plain,
}

#[derive(Clone, Debug)]
struct Stored {
    kind: Kind,
    /// The folder, or the file.
    path: String,
}

/// What a snapshot has of a server.
#[derive(Default)]
struct Contents {
    databases: BTreeMap<String, Stored>,
    globals: Option<String>,
}

/// Writes databases of `snapshot`, below `path` if that is not empty, into `server`; one database goes into the
/// server's own, if its URL names one.
pub fn restore(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &str,
    server: &Server,
    options: &PostgresOptions,
    monitor: &dyn Monitor,
) -> Result<PostgresReport> {
    repo.sync_index(monitor)?;
    let contents = contents(repo, snapshot, path)?;
    let wanted: BTreeMap<String, Stored> = contents
        .databases
        .iter()
        .filter(|(name, _)| options.databases.is_empty() || options.databases.contains(name))
        .map(|(name, stored)| (name.clone(), stored.clone()))
        .collect();
    if let Some(missing) = options.databases.iter().find(|name| !wanted.contains_key(*name)) {
        let all: Vec<&str> = contents.databases.keys().map(String::as_str).collect();
        return Err(Error::Invalid(format!(
            "there is no database '{missing}' in this snapshot; it has {}",
            all.join(", ")
        )));
    }
    if wanted.len() != 1 && (server.database.is_some() || !options.tables.is_empty()) {
        return Err(Error::Invalid(match wanted.len() {
            0 => "there is no PostgreSQL database in this snapshot".into(),
            _ => "the snapshot has several databases; choose one with --database".into(),
        }));
    }
    let failed = |error: PgError| Error::from(server.failed(&error));
    let mut session = match &server.database {
        Some(name) => Connection::open(server, name).or_else(|error| match error.code() {
            "3D000" => Connection::open(server, "postgres"),
            _ => Err(error),
        }),
        None => any_session(server),
    }
    .map_err(failed)?;
    let mut work = Work { repo, snapshot, server, options, monitor, programs: None };

    // All is looked at before the first is touched.
    let mut plans = vec![];
    for (name, stored) in &wanted {
        let target = server.database.clone().unwrap_or_else(|| name.clone());
        plans.push(work.plan(name, &target, stored, &mut session)?);
    }
    let mut report = PostgresReport::default();
    if options.dry_run {
        for plan in plans {
            report.databases.insert(plan.target, 0);
        }
        return Ok(report);
    }
    let is_whole = options.databases.is_empty() && options.tables.is_empty() && server.database.is_none();
    if let Some(globals) = contents.globals.filter(|_| is_whole) {
        report.globals_existing = work.globals(&globals)?;
    }
    for plan in plans {
        let (bytes, tables) =
            work.database(&plan, &mut session).inspect_err(|_| work.tell_what_is_left(&plan))?;
        report.tables += tables;
        report.databases.insert(plan.target, bytes);
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    Ok(report)
}

/// The databases of a snapshot, of one server.
fn contents(repo: &Repository, snapshot: &Snapshot, below: &str) -> Result<Contents> {
    let below = below.trim_matches('/');
    let mut servers: BTreeMap<String, Contents> = BTreeMap::new();
    for_all_entries(repo.store(), &snapshot.manifest, &mut |listed| {
        let path = String::from_utf8_lossy(&listed.entry.path).into_owned();
        if !(below.is_empty() || path == below || path.starts_with(&format!("{below}/"))) {
            return Ok(());
        }
        let parts: Vec<&str> = path.split('/').collect();
        let decoded =
            |name: &str| percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
        let mut add = |place: &str, name: &str, kind: Kind, path: String| {
            let server = servers.entry(place.to_owned()).or_default();
            server.databases.insert(decoded(name), Stored { kind, path });
        };
        match parts.as_slice() {
            ["postgres", place, "databases", name, "toc.dat"] => {
                let folder = path.trim_end_matches("/toc.dat").to_owned();
                add(place, name, Kind::Directory, folder);
            }
            ["postgres", place, "databases", file] => {
                if let Some(name) = file.strip_suffix(".sql") {
                    add(place, name, Kind::Plain, path.clone());
                } else if let Some(name) = file.strip_suffix(".dump") {
                    add(place, name, Kind::Custom, path.clone());
                }
            }
            ["postgres", place, "globals.sql"] => {
                servers.entry((*place).to_owned()).or_default().globals = Some(path.clone());
            }
            _ => {}
        }
        Ok(())
    })?;
    super::only_server(servers, "postgres", "PostgreSQL")
}

/// What will be done with one database.
struct Plan {
    stored: Stored,
    /// The database that it goes into.
    target: String,
    way: Way,
    toc: Option<Toc>,
    /// Entries to restore, if not all.
    chosen: Option<tables::Chosen>,
}

/// How the database comes to be.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// It is there, and nothing is in it, or single tables go into it.
    Exists,
    /// pg_restore makes it, as it was.
    AsItWas,
    /// It is made under another name.
    Renamed,
    /// It is dropped first.
    Replaced,
}

struct Work<'a> {
    repo: &'a Repository,
    snapshot: &'a Snapshot,
    server: &'a Server,
    options: &'a PostgresOptions,
    monitor: &'a dyn Monitor,
    programs: Option<Programs>,
}

impl Work<'_> {
    fn failed(&self, error: &PgError) -> Error {
        self.server.failed(error).into()
    }

    fn refused(&self, why: String) -> Error {
        Error::Refused(format!("{}: {why}", self.server.shown))
    }

    fn plan(&mut self, name: &str, target: &str, stored: &Stored, session: &mut Connection) -> Result<Plan> {
        let major = session.major();
        let program = if matches!(stored.kind, Kind::Plain) { "psql" } else { "pg_restore" };
        if self.programs.is_none() {
            self.programs = Some(Programs::find(self.server, major, program, self.options.path.as_deref())?);
        }
        let toc = match stored.kind {
            Kind::Plain => None,
            Kind::Custom | Kind::Directory => Some(self.read_toc(stored)?),
        };
        let single = !self.options.tables.is_empty();
        let quoted = target.replace('\'', "''");
        let there = session
            .query(&format!("SELECT 1 FROM pg_catalog.pg_database WHERE datname = '{quoted}'"))
            .map_err(|error| self.failed(&error))?;
        let mut own = match there.is_empty() {
            true => None,
            false => Some(Connection::open(self.server, target).map_err(|error| self.failed(&error))?),
        };
        let (mut chosen, mut way) = (None, Way::Exists);
        if single {
            let Some(toc) = &toc else {
                return Err(Error::Invalid(
                    "single tables can be restored from the formats directory and custom, not from plain SQL"
                        .into(),
                ));
            };
            let Some(own) = &mut own else {
                return Err(self.refused(format!("there is no database '{target}' to put tables into")));
            };
            chosen = Some(tables::choose(toc, &self.options.tables, own, self.server, self.options.replace)?);
        } else if let Some(own) = &mut own {
            let count = own.value(USER_OBJECTS).map_err(|error| self.failed(&error))?;
            if count != "0" {
                if !self.options.replace {
                    return Err(self.refused(format!(
                        "database '{target}' is not empty ({count} objects); --replace drops it first, another name in the URL leaves it alone"
                    )));
                }
                way = Way::Replaced;
            }
        } else {
            way = if target == name && toc.is_some() { Way::AsItWas } else { Way::Renamed };
        }
        if let Some(toc) = toc.as_ref().filter(|_| !single) {
            self.check_extensions(toc, session)?;
        }
        Ok(Plan { stored: stored.clone(), target: target.to_owned(), way, toc, chosen })
    }

    /// That the server has what the dump wants to create.
    fn check_extensions(&self, toc: &Toc, session: &mut Connection) -> Result<()> {
        let rows = session
            .query("SELECT name FROM pg_catalog.pg_available_extensions")
            .map_err(|error| self.failed(&error))?;
        let known: Vec<String> =
            rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
        let wanted = toc.entries.iter().filter(|entry| entry.kind == "EXTENSION").map(|entry| &entry.tag);
        let missing: Vec<&str> = wanted.filter(|name| !known.contains(name)).map(String::as_str).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(self.refused(format!("the server lacks extensions of the dump; install {}", missing.join(", "))))
    }

    fn read_toc(&self, stored: &Stored) -> Result<Toc> {
        let path = match stored.kind {
            Kind::Directory => format!("{}/toc.dat", stored.path),
            _ => stored.path.clone(),
        };
        archive::read_toc(self.repo, self.snapshot, &path, self.monitor)
    }

    fn command(&self, program: &str) -> Command {
        match &self.programs {
            Some(programs) => programs.command(program, self.server),
            None => Command::new(program),
        }
    }

    /// Roles and tablespaces; returns how many were there already.
    fn globals(&self, path: &str) -> Result<u64> {
        let mut command = self.command("psql");
        command.args(["-X", "-q", "-w", "-d", "postgres", "-v", "VERBOSITY=verbose", "-f", "-"]);
        let (_, text) = self.feed(command, "psql", false, &mut |out| {
            dump(self.repo, self.snapshot, path.as_bytes(), out, self.monitor)
        })?;
        let mut existing = 0;
        for line in text.lines().filter(|line| line.contains("ERROR:  ")) {
            // 42710: a role of that name is there. The one who restores always is.
            if line.contains("ERROR:  42710:") {
                existing += 1;
            } else {
                let message = line.rsplit("ERROR:  ").next().unwrap_or(line).to_owned();
                self.monitor.error(ItemError { during: "restore", item: "globals".into(), message });
            }
        }
        Ok(existing)
    }

    /// What a failure leaves behind; single tables come in one transaction.
    fn tell_what_is_left(&self, plan: &Plan) {
        if plan.chosen.is_none() {
            let item = format!("database '{}'", plan.target);
            let message = "is there only as far as its restore came; --replace begins anew".into();
            self.monitor.error(ItemError { during: "restore", item, message });
        }
    }

    /// One database; returns bytes read, and tables.
    fn database(&self, plan: &Plan, session: &mut Connection) -> Result<(u64, u64)> {
        let run = |session: &mut Connection, sql: &str| {
            session.query(sql).map(drop).map_err(|error| self.failed(&error))
        };
        let ident = format!("\"{}\"", plan.target.replace('"', "\"\""));
        let definition =
            plan.toc.as_ref().and_then(|toc| toc.entries.iter().find(|entry| entry.kind == "DATABASE"));
        let create = created_as(definition, &ident);
        match plan.way {
            Way::Replaced => {
                // The one that everybody connects to cannot be dropped from itself.
                let mut other =
                    Connection::open(self.server, "template1").map_err(|error| self.failed(&error))?;
                run(&mut other, &format!("DROP DATABASE {ident}"))?;
                run(&mut other, &create)?;
            }
            Way::Renamed => run(session, &create)?,
            Way::Exists | Way::AsItWas => {}
        }
        let Some(toc) = &plan.toc else {
            let mut command = self.command("psql");
            command.args(["-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
            command.arg("-d").arg(database_name(&plan.target)).stdout(Stdio::null());
            let (bytes, _) = self.feed(command, "psql", true, &mut |out| {
                dump(self.repo, self.snapshot, plan.stored.path.as_bytes(), out, self.monitor)
            })?;
            return Ok((bytes, 0));
        };
        let mut command = self.command("pg_restore");
        command.args(["-w", "--exit-on-error", "-Fc"]);
        match plan.way {
            Way::AsItWas => command.args(["--create", "-d", "postgres"]),
            _ => command.arg("-d").arg(database_name(&plan.target)),
        };
        if self.options.no_owner {
            command.args(["--no-owner", "--no-privileges"]);
        }
        let mut list = None;
        if let Some(chosen) = &plan.chosen {
            // All of it or nothing.
            command.arg("--single-transaction");
            if chosen.replaces {
                command.args(["--clean", "--if-exists"]);
            }
            let failed =
                |error| Error::Target { op: "write", path: "a list for pg_restore".into(), source: error };
            let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
            // pg_restore goes by the order of the list.
            for entry in toc.entries.iter().filter(|entry| chosen.ids.contains(&entry.id)) {
                writeln!(file, "{};", entry.id).map_err(failed)?;
            }
            file.flush().map_err(failed)?;
            command.arg("-L").arg(file.path());
            list = Some(file);
        }
        let archive = Archive {
            repo: self.repo,
            snapshot: self.snapshot,
            path: &plan.stored.path,
            toc,
            chosen: plan.chosen.as_ref().map(|chosen| &chosen.ids),
            monitor: self.monitor,
        };
        let fed = self.feed(command, "pg_restore", true, &mut |out| match plan.stored.kind {
            Kind::Directory => archive.write(out),
            _ => {
                let path = &plan.stored.path;
                archive::write_custom(self.repo, self.snapshot, path, archive.chosen, out, self.monitor)
            }
        });
        drop(list);
        let (bytes, _) = fed?;
        let is_chosen = |entry: &&TocEntry| {
            entry.kind == "TABLE DATA"
                && plan.chosen.as_ref().is_none_or(|chosen| chosen.ids.contains(&entry.id))
        };
        Ok((bytes, toc.entries.iter().filter(is_chosen).count() as u64))
    }

    /// Runs a program that reads what `write` writes; returns what that returns, and the program's complaints.
    fn feed(
        &self,
        mut command: Command,
        name: &'static str,
        strict: bool,
        write: &mut dyn FnMut(&mut dyn std::io::Write) -> Result<u64>,
    ) -> Result<(u64, String)> {
        let failed =
            |why: String| Error::from(self.server.error(SourceErrorKind::Command, format!("{name}: {why}")));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let (Some(input), Some(complaints)) = (child.stdin.take(), child.stderr.take()) else {
            return Err(failed("no pipe to the command".into()));
        };
        let listener = std::thread::spawn(move || {
            let mut text = String::new();
            let mut lines = std::io::BufReader::new(complaints);
            let _ = std::io::Read::read_to_string(&mut lines, &mut text);
            text
        });
        let mut input = Counted { out: std::io::BufWriter::with_capacity(256 << 10, input), bytes: 0 };
        let written = write(&mut input);
        // It has read what it wanted, or has failed and says why.
        let had_enough = matches!(&written, Err(Error::Target { source, .. })
            if source.kind() == std::io::ErrorKind::BrokenPipe);
        let interrupted = matches!(written, Err(Error::Interrupted));
        if written.is_err() && !had_enough {
            // Half of a dump must not look like the end of one.
            let _ = child.kill();
        }
        // What cannot be written any more, the program does not want.
        let _ = input.flush();
        let bytes = input.bytes;
        drop(input);
        let status = child.wait().map_err(|error| failed(error.to_string()))?;
        let text = listener.join().unwrap_or_default();
        if interrupted {
            return Err(Error::Interrupted);
        }
        if let Err(Error::Store(error)) = written {
            return Err(error.into());
        }
        let reason = || {
            let first = text.lines().find(|line| line.contains("error:") || line.contains("ERROR:"));
            let detail = text.lines().find(|line| line.starts_with("DETAIL:"));
            let first = first.or_else(|| text.lines().next()).unwrap_or("failed without a word");
            detail.map_or_else(|| first.to_owned(), |detail| format!("{first}; {detail}"))
        };
        if strict && !status.success() && (written.is_ok() || !text.is_empty()) {
            return Err(failed(reason()));
        }
        match written {
            Err(_) if had_enough => Ok((bytes, text)),
            written => written.map(|bytes| (bytes, text)),
        }
    }
}

struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: std::io::Write> std::io::Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let len = self.out.write(bytes)?;
        self.bytes += len as u64;
        Ok(len)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// What a user has made in a database; what belongs to extensions and comes with every database is left out.
const USER_OBJECTS: &str = "SELECT (SELECT count(*) FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r','p','v','m','S','f') \
    AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')) \
    + (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata) \
    + (SELECT count(*) FROM pg_catalog.pg_namespace n WHERE n.nspname !~ '^pg_' \
       AND n.nspname NOT IN ('information_schema', 'public') \
       AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend d WHERE d.objid = n.oid AND d.deptype = 'e'))";

/// The command that made a database, with another name: encoding and locale stay.
fn created_as(definition: Option<&TocEntry>, ident: &str) -> String {
    let options = definition.and_then(|entry| {
        let at = entry.definition.find(" WITH TEMPLATE = ")?;
        entry.definition[at..].split_once(';').map(|(options, _)| options.to_owned())
    });
    format!("CREATE DATABASE {ident}{}", options.unwrap_or_else(|| " WITH TEMPLATE = template0".into()))
}
