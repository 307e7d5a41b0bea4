//! Databases of a snapshot into a running PostgreSQL: all of a cluster with its roles, one database, or single tables
//! without the rest. Everything is looked at before the first is touched. A database is made here, closed to all but its
//! administrators; pg_restore makes its content and gets only the data that are wanted; when that is whole, the database
//! gets the owner, privileges and settings of the dump.

mod archive;
mod contents;
mod database;
mod feed;
mod globals;
mod made;
mod plan;
mod roles;
mod session;
mod spaces;
mod tables;
mod there;

use super::dump::dump;
use crate::manifest::for_all_entries;
use crate::pg::connection::PgError;
use crate::pg::programs::Programs;
use crate::pg::script::Script;
use crate::pg::toc::Toc;
use crate::pg::{Connection, Server};
use crate::snapshot::Snapshot;
use crate::source::SourceErrorKind;
use crate::{Error, ItemError, Monitor, Repository, Result};
use archive::Archive;
use contents::{Kind, contents};
use globals::Globals;
use made::Made;
use plan::{Plan, Way, is_bare};
use spaces::Spaces;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

/// Choices for a restore into PostgreSQL.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// Only these databases; all, and the globals, if empty.
    pub databases: Vec<String>,
    /// Only these tables, as `schema.table`, or `table` of any schema.
    pub tables: Vec<String>,
    /// Drop what is there first: a database that is not empty, or a table.
    pub replace: bool,
    /// Leave owners, privileges and settings of single roles out.
    pub no_owner: bool,
    /// Put nothing into a tablespace by name, and make none.
    pub no_tablespaces: bool,
    /// Tablespaces of the server in the place of the dump's.
    pub tablespace_map: BTreeMap<String, String>,
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
    /// What stays as it was on the server, where a reader of the dump might not expect it.
    pub notes: Vec<String>,
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
    let wanted = contents.wanted(options, server.database.is_some())?;
    let failed = |error: PgError| Error::from(server.failed(&error));
    let mut session = session::maintenance(server, &[]).map_err(failed)?;
    let spaces = Spaces { none: options.no_tablespaces, map: options.tablespace_map.clone() };
    let (seen, left_out) = (BTreeSet::new(), contents::left_out(snapshot, path));
    let mut work = Work { repo, snapshot, server, options, monitor, spaces, seen, left_out, programs: None };

    // All is looked at before the first is touched.
    let is_whole = options.databases.is_empty() && options.tables.is_empty() && server.database.is_none();
    let mut globals = match contents.globals.as_ref().filter(|_| is_whole) {
        Some(path) => work.read_globals(path)?,
        None => Globals::default(),
    };
    let mut plans = vec![];
    for (name, stored) in &wanted {
        let target = server.database.clone().unwrap_or_else(|| name.clone());
        plans.push(work.plan(&target, stored, &mut session)?);
    }
    work.check_needs(&plans, &globals, &mut session)?;
    let mut report = PostgresReport::default();
    for plan in &plans {
        work.notes(plan, &mut report);
    }
    if is_whole {
        work.tell_what_is_missing(&plans);
    }
    if options.dry_run {
        report.databases = plans.into_iter().map(|plan| (plan.target, 0)).collect();
        return Ok(report);
    }
    for plan in plans.iter().filter(|plan| plan.way == Way::Replaced) {
        work.prove(plan)?;
    }
    // What only the server knows to be possible is tried while nothing is changed.
    globals.make_spaces(&work.spaces, &mut session).map_err(|error| work.no_space(&error))?;
    let made = Made::make(&plans, &work.spaces, options.no_owner, &mut session);
    let made =
        made.inspect_err(|_| globals.unmake_spaces(&mut session)).map_err(|error| work.untouched(&error))?;
    // It may be in a database that is replaced.
    drop(session);
    let put = made.put(server);
    let mut session = session::maintenance(server, &[]).map_err(failed)?;
    put.inspect_err(|_| globals.unmake_spaces(&mut session)).map_err(|error| work.untouched(&error))?;
    let outcome = globals.apply(&work.spaces, &mut session, monitor).map_err(failed)?;
    report.globals_existing = outcome.existing;
    for plan in plans {
        let (bytes, tables) =
            work.database(&plan, &mut session).inspect_err(|_| work.tell_what_is_left(&plan))?;
        report.tables += tables;
        report.databases.insert(plan.target, bytes);
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    for statement in &outcome.last {
        session.run(statement).map_err(failed)?;
    }
    report.notes.extend(outcome.own.map(|own| {
        format!("role '{own}', which restores, keeps its password, its right to log in and its attributes")
    }));
    Ok(report)
}

struct Work<'a> {
    repo: &'a Repository,
    snapshot: &'a Snapshot,
    server: &'a Server,
    options: &'a PostgresOptions,
    monitor: &'a dyn Monitor,
    spaces: Spaces,
    /// Tablespaces of the dumps.
    seen: BTreeSet<String>,
    /// What the backup left out, by its path, and why.
    left_out: BTreeMap<String, String>,
    programs: Option<Programs>,
}

impl Work<'_> {
    fn failed(&self, error: &PgError) -> Error {
        self.server.failed(error).into()
    }

    fn refused(&self, why: String) -> Error {
        Error::Refused(format!("{}: {why}", self.server.shown))
    }

    /// What the server refuses while nothing was changed.
    fn untouched(&self, error: &PgError) -> Error {
        match error {
            PgError::Refused { message, .. } => self.refused(format!("{message}; nothing was changed")),
            error => self.failed(error),
        }
    }

    fn no_space(&self, error: &PgError) -> Error {
        match error {
            PgError::Refused { message, .. } => self.refused(format!(
                "a tablespace of the dump cannot be made: {message}; make its folder on the server's machine, give it to the server's user and try again, or choose --tablespace-map OLD=NEW or --no-tablespaces; nothing was changed"
            )),
            error => self.failed(error),
        }
    }

    fn read_globals(&self, path: &str) -> Result<Globals> {
        let mut bytes = vec![];
        dump(self.repo, self.snapshot, path.as_bytes(), &mut bytes, self.monitor)?;
        Globals::parse(&bytes)
    }

    /// What stays as it is.
    fn notes(&self, plan: &Plan, report: &mut PostgresReport) {
        if !plan.definition.is_known() && plan.way != Way::Into {
            report.notes.push(format!(
                "database '{}' has the owner, privileges and settings of {}: this dump does not tell them",
                plan.target,
                if plan.way == Way::Exists { "before" } else { "a new one" }
            ));
        }
        for entry in plan.entries().filter(|entry| entry.has_data) {
            let path = format!("{}/{}", plan.stored.path, entry.file);
            if let Some(why) = self.left_out.get(&path) {
                let item = format!("the rows of {}.{}", entry.namespace, entry.tag);
                let message = format!("are not in the backup: {why}");
                self.monitor.error(ItemError { during: "restore", item, message });
            }
        }
        let Some(chosen) = &plan.chosen else {
            for (object, why) in self.missing_objects(plan) {
                let message = format!("is not in the backup: {why}");
                self.monitor.error(ItemError { during: "restore", item: object.to_owned(), message });
            }
            return;
        };
        report.notes.extend(
            chosen.left.iter().map(|left| format!("left out, since what it refers to is not there: {left}")),
        );
        report.notes.extend(chosen.unpublished.iter().map(|(table, publication)| {
            format!("table {table} is no longer in the publication '{publication}': the dump does not put it there")
        }));
        for name in &chosen.different {
            let message = "is there with another definition than the dump's, and stays as it is".into();
            self.monitor.error(ItemError { during: "restore", item: format!("type {name}"), message });
        }
    }

    /// Databases and globals that the backup left out.
    fn tell_what_is_missing(&self, plans: &[Plan]) {
        let is_within = |path: &String| {
            plans.iter().any(|plan| {
                path.strip_prefix(&plan.stored.path).is_some_and(|rest| rest.starts_with(['/', ':']))
            })
        };
        for (path, why) in self.left_out.iter().filter(|(path, _)| !is_within(path)) {
            let message = format!("is not in the backup: {why}");
            self.monitor.error(ItemError { during: "restore", item: path.clone(), message });
        }
    }

    /// That all of a dump can be read, before what it replaces is dropped.
    fn prove(&self, plan: &Plan) -> Result<()> {
        let stored = &plan.stored.path;
        let mut files = vec![];
        for_all_entries(self.repo.store(), &self.snapshot.manifest, &mut |listed| {
            let path = &listed.entry.path;
            let is_within =
                path.strip_prefix(stored.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
            if is_within && listed.entry.kind == crate::entry::Kind::File {
                files.push(path.clone());
            }
            Ok(())
        })?;
        files.iter().try_for_each(|path| {
            dump(self.repo, self.snapshot, path, &mut std::io::sink(), self.monitor).map(drop)
        })
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
        let failed = |error: PgError| self.failed(&error);
        let is_closed = !self.options.no_owner && plan.definition.is_known();
        if plan.way == Way::Exists && is_closed && !plan.toc.as_ref().is_some_and(is_bare) {
            database::close(&plan.target, session).map_err(failed)?;
        }
        let done = match &plan.toc {
            None => (self.script(plan)?, 0),
            Some(toc) => (
                self.archive(plan, toc)?,
                plan.entries().filter(|entry| entry.kind == "TABLE DATA").count() as u64,
            ),
        };
        if plan.way != Way::Into && plan.definition.is_known() {
            let was_there = plan.way == Way::Exists;
            plan.definition
                .apply(&plan.target, was_there, self.options.no_owner, session)?
                .map_err(failed)?;
        }
        Ok(done)
    }

    /// A dump in plain SQL.
    fn script(&self, plan: &Plan) -> Result<u64> {
        let mut session = session::open(self.server, &plan.target).map_err(|error| self.failed(&error))?;
        let mut script = Script::new(&mut session);
        let path = plan.stored.path.as_bytes();
        let written = dump(self.repo, self.snapshot, path, &mut script, self.monitor);
        let failure = script.failure.take();
        let ended = match (failure, &written) {
            (Some(error), _) => Err(error),
            (None, Ok(_)) => script.finish(),
            (None, Err(_)) => Ok(()),
        };
        ended.map_err(|error| match error {
            PgError::Refused { message, .. } => self.server.error(SourceErrorKind::Command, message).into(),
            error => self.failed(&error),
        })?;
        written
    }

    /// A dump that pg_restore reads.
    fn archive(&self, plan: &Plan, toc: &Toc) -> Result<u64> {
        let Some(programs) = &self.programs else {
            return Err(self.refused("pg_restore was not looked for".into()));
        };
        let mut command = programs.command("pg_restore", self.server);
        session::set_for(&mut command);
        command.args(["-w", "-Fc", "-d"]).arg(self.server.database_of(&plan.target));
        let is_partial = plan.chosen.is_none() && self.missing_objects(plan).next().is_some();
        if !is_partial {
            command.arg("--exit-on-error");
        }
        if self.options.no_owner {
            command.args(["--no-owner", "--no-privileges"]);
        }
        if self.options.no_tablespaces {
            command.arg("--no-tablespaces");
        }
        let (mut list, with_drops) = (None, plan.chosen.as_ref().filter(|chosen| chosen.replaces));
        let with_drops = with_drops.map(|chosen| chosen.with_drops(toc));
        let toc = with_drops.as_ref().unwrap_or(toc);
        if let Some(chosen) = &plan.chosen {
            // All of it or nothing.
            command.arg("--single-transaction");
            if chosen.replaces {
                command.arg("--clean");
            }
            let failed =
                |error| Error::Target { op: "write", path: "a list for pg_restore".into(), source: error };
            let mut file = tempfile::NamedTempFile::new().map_err(failed)?;
            // pg_restore goes by the order of the list.
            let (last, first): (Vec<_>, Vec<_>) =
                plan.entries().partition(|entry| chosen.last.contains(&entry.id));
            for entry in first.iter().chain(&last) {
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
            left_out: &self.left_out,
            monitor: self.monitor,
        };
        let fed = feed::feed(self.server, command, "pg_restore", &mut |out| match plan.stored.kind {
            Kind::Directory => archive.write(out),
            _ => archive::write_custom(&archive, plan.head, out),
        });
        drop(list);
        match fed {
            // What hangs on an object that is not in the backup.
            Err(Error::Source(error)) if is_partial && error.kind == SourceErrorKind::Command => {
                let item = format!("database '{}'", plan.target);
                self.monitor.error(ItemError { during: "restore", item, message: error.why });
                Ok(0)
            }
            fed => fed,
        }
    }

    /// Objects of a database that the backup could not even look at, and why.
    fn missing_objects<'b>(&'b self, plan: &Plan) -> impl Iterator<Item = (&'b str, &'b String)> {
        let before = format!("{}: ", plan.stored.path);
        self.left_out.iter().filter_map(move |(path, why)| Some((path.strip_prefix(&before)?, why)))
    }
}
