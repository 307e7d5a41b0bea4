//! Databases of a snapshot into a running PostgreSQL: all of a cluster with its roles, one database, or single tables
//! without the rest. Everything is looked at before the first is touched. A database is made here, closed to all but its
//! administrators; pg_restore makes its content and gets only the data that are wanted; when that is whole, the database
//! gets the owner, privileges and settings of the dump, and takes the place of the one that it replaces.

pub(crate) mod archive;
mod closure;
pub(crate) mod contents;
mod database;
mod dependents;
mod feed;
mod fill;
mod filling;
mod fitted;
mod following;
mod globals;
mod left;
mod loading;
mod lock;
mod locks;
mod made;
mod partitions;
pub(crate) mod parts;
mod plan;
mod prepared;
mod privileges;
mod put;
mod reader;
pub(crate) mod relations;
mod removal;
mod report;
mod rights;
mod roles;
mod rows;
mod run;
mod sections;
mod session;
mod source;
mod spaces;
mod stand_in;
mod steps;
mod tables;
mod tell;
mod there;

use crate::connection::PgError;
use crate::programs::Programs;
use crate::sql::quoted_name;
use crate::{Connection, Server};
use connector_kit::databases::Selection;
use engine::restore::dump;
use engine::shown::counted;
use engine::snapshot::Snapshot;
use engine::source::SourceErrorKind;
use engine::{Error, Monitor, Repository, Result};
use globals::{Globals, Outcome};
use made::Made;
use plan::{Plan, Way};
pub(crate) use prepared::prepare;
use report::PostgresReport;
use run::Run;
use spaces::Spaces;
use stand_in::StandIn;
use std::collections::{BTreeMap, BTreeSet};

/// Choices for a restore into PostgreSQL.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// What is restored; the globals, too, if it is all. Tables are `schema.table`, or `table` of any schema.
    pub selection: Selection,
    /// Replace what is there: a database that is not empty, or a table.
    pub replace: bool,
    /// Leave owners, privileges and settings of single roles out.
    pub no_owner: bool,
    /// Restore by a role that is made for it and has the rights of the dump's owner only.
    pub as_owner: bool,
    /// Put nothing into a tablespace by name, and make none.
    pub no_tablespaces: bool,
    /// Tablespaces of the server in the place of the dump's.
    pub tablespace_map: BTreeMap<String, String>,
    /// Sessions that fill a database at a time, if the server has them to spare.
    pub jobs: Option<usize>,
    /// The same if nothing was asked for.
    pub sessions: usize,
    /// Where programs are looked for besides their packages' folders.
    pub path: Option<String>,
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
    /// Does what was planned. Each database that replaces another is filled beside it and takes its place at its own end.
    fn apply(
        &self,
        plans: &[Plan],
        mut globals: Globals,
        run: &Run,
        stand_in: Option<&StandIn>,
        mut session: Connection,
        report: &mut PostgresReport,
    ) -> Result<()> {
        // What only the server knows to be possible is tried while nothing is changed.
        globals.make_spaces(&self.spaces, &mut session).map_err(|error| self.no_space(&error))?;
        let made = Made::make(plans, run, self.server, &self.spaces, &mut session);
        let mut made = made.map_err(|(error, left)| {
            globals.unmake_spaces(&mut session);
            self.tell_left(left.iter());
            match &error {
                PgError::Refused { message, .. } if !left.is_empty() => self.refused(message.clone()),
                error => self.untouched(error),
            }
        })?;
        let (mut done, mut outcome) = (0, Outcome::default());
        let applied = globals.apply(&self.spaces, &mut session, self.monitor);
        let result = applied.map_err(|error| self.failed(&error)).and_then(|applied| {
            outcome = applied;
            for plan in plans {
                self.database(plan, &mut made, run, stand_in, &mut session, report, &mut done)?;
            }
            Ok(())
        });
        if let Err(mut error) = result {
            // The session may be what was lost, or the last one that the server has for us.
            let again = match run.session(self.server, &[]) {
                Ok(again) => Some(again),
                Err(PgError::Refused { .. }) => session.query("SELECT 1").is_ok().then_some(session),
                Err(PgError::Lost(_)) => None,
            };
            let left = match again {
                Some(mut again) => {
                    // A program that was killed leaves statements that go on; why it was is what has to be told.
                    let _ = run.end_others(&mut again);
                    let left = made.unmake(&mut again);
                    if done == 0 {
                        globals.unmake_spaces(&mut again);
                    }
                    left
                }
                None => {
                    // Whatever it was that failed: the server is down, or lets nobody in.
                    if let Error::Source(source) = &mut error {
                        source.kind = SourceErrorKind::Unavailable;
                    }
                    made.leave()
                }
            };
            self.tell_what_is_left(plans, done, &left, !globals.is_empty());
            return Err(error);
        }
        report.globals_existing = outcome.existing;
        for statement in &outcome.last {
            session.run(statement).map_err(|error| self.failed(&error))?;
        }
        report.notes.extend(outcome.own.map(|own| {
            format!(
                "role '{own}', which restores, keeps its password, its right to log in and its attributes"
            )
        }));
        Ok(())
    }

    /// One database, from its first row to its name. It counts as `done` from the moment at which it has that.
    #[expect(clippy::too_many_arguments, reason = "what is under way: one call, whose caller has them apart")]
    fn database(
        &self,
        plan: &Plan,
        made: &mut Made<'_>,
        run: &Run,
        stand_in: Option<&StandIn>,
        session: &mut Connection,
        report: &mut PostgresReport,
        done: &mut usize,
    ) -> Result<()> {
        let failed = |error: PgError| self.failed(&error);
        if self.monitor.interrupted() {
            return Err(Error::Interrupted);
        }
        let name = made.name_of(plan).to_owned();
        let (bytes, tables) = self.fill(plan, &name, run, stand_in, session)?;
        let mut is_done = |report: &mut PostgresReport| {
            *done += 1;
            report.tables += tables;
            report.databases.insert(plan.target.clone(), bytes);
        };
        if self.monitor.interrupted() && plan.way != Way::Into {
            return Err(Error::Interrupted);
        }
        if plan.way != Way::Into {
            self.phase(plan, "owner, privileges, settings and name");
            // The old one cannot be renamed from itself, and ours may have been idle for long.
            let avoided: &[&str] = if plan.way == Way::Replaced { &[&plan.target] } else { &[] };
            *session = run.session(self.server, avoided).map_err(failed)?;
            let was_there = plan.way == Way::Exists;
            let no_owner = self.options.no_owner;
            let statements =
                plan.definition.statements(&name, was_there, no_owner, session)?.map_err(failed)?;
            let (ended, left) = made.put(plan, &statements, session).map_err(failed)?;
            is_done(report);
            if ended > 0 {
                report.notes.push(format!(
                    "ended in the old database '{}': {}",
                    plan.target,
                    counted(ended, "session")
                ));
            }
            if let Some(left) = left {
                let message = format!(
                    "is what '{}' was, and it is not known to be dropped; if it is there, DROP DATABASE {} drops it",
                    plan.target,
                    quoted_name(&left)
                );
                self.tell(format!("database '{left}'"), &message);
            }
            if plan.way == Way::Replaced {
                *session = run.session(self.server, &[]).map_err(failed)?;
            }
        } else {
            is_done(report);
        }
        Ok(())
    }

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
}
