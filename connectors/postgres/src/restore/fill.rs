//! Fills a database that is there: by pg_restore with the entries and data that are wanted, or, of a dump in plain SQL, by a
//! session of our own.

use super::archive;
use super::archive::Archive;
use super::contents::Kind;
use super::plan::{Plan, Way, is_bare};
use super::stand_in::StandIn;
use super::{Work, database, feed, session};
use crate::connection::PgError;
use crate::script::Script;
use crate::toc::Toc;
use crate::{Connection, Server};
use chunkstore::threads;
use engine::restore::dump;
use engine::source::SourceErrorKind;
use engine::{Counter, Error, Result};
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often it is looked whether it shall end.
const PAUSE: Duration = Duration::from_millis(50);

impl Work<'_> {
    /// Fills the database of `plan`, which now is called `name`; returns bytes read, and tables.
    pub(super) fn fill(
        &self,
        plan: &Plan,
        name: &str,
        stand_in: Option<&StandIn>,
        session: &mut Connection,
    ) -> Result<(u64, u64)> {
        let is_closed = !self.options.no_owner && plan.definition.is_known();
        if plan.way == Way::Exists && is_closed && !plan.toc.as_ref().is_some_and(is_bare) {
            database::close(name, session).map_err(|error| self.failed(&error))?;
        }
        if matches!(plan.way, Way::Made | Way::Replaced) && !self.options.no_owner {
            plan.definition.hand_over(name, session).map_err(|error| self.failed(&error))?;
        }
        if let Some(stand_in) = stand_in {
            stand_in.enter(plan, name, session).map_err(|error| {
                self.refused(format!(
                    "the role that is made for this restore cannot enter database '{name}': {error}; pg_hba.conf must let it in by a password (scram-sha-256)"
                ))
            })?;
        }
        let server = stand_in.map_or(self.server, |stand_in| &stand_in.server);
        let what = if plan.toc.is_some() { "rows" } else { "statements and rows" };
        self.phase(plan, what);
        if plan.chosen.is_none() {
            self.monitor.count(Counter::BytesTotal, plan.stored.bytes);
        }
        Ok(match &plan.toc {
            None => (self.script(plan, name)?, 0),
            Some(toc) => (
                self.archive(plan, toc, name, server)?,
                plan.entries().filter(|entry| entry.kind == "TABLE DATA").count() as u64,
            ),
        })
    }

    /// A dump in plain SQL.
    fn script(&self, plan: &Plan, name: &str) -> Result<u64> {
        let mut session = session::open(self.server, name).map_err(|error| self.failed(&error))?;
        let hang_up = session.hang_up().map_err(|error| self.failed(&error))?;
        let is_over = AtomicBool::new(false);
        let (ended, written) = std::thread::scope(|scope| {
            let watcher = threads::start_in(scope, "esker-watch", || {
                // A statement may take long.
                while !is_over.load(Ordering::Relaxed) {
                    if self.monitor.interrupted() {
                        return hang_up.now();
                    }
                    std::thread::sleep(PAUSE);
                }
            });
            watcher.map_err(|error| self.failed(&error.into()))?;
            let mut script = Script::new(&mut session);
            let path = plan.stored.path.as_bytes();
            let written = dump(self.repo, self.snapshot, path, &mut script, self.monitor);
            let ended = match (script.failure.take(), &written) {
                (Some(error), _) => Err(error),
                (None, Ok(_)) => script.finish(),
                (None, Err(_)) => Ok(()),
            };
            is_over.store(true, Ordering::Relaxed);
            Ok::<_, Error>((ended, written))
        })?;
        if self.monitor.interrupted() {
            return Err(Error::Interrupted);
        }
        ended.map_err(|error| match error {
            PgError::Refused { message, .. } => self.server.error(SourceErrorKind::Command, message).into(),
            error => self.failed(&error),
        })?;
        written
    }

    /// A dump that pg_restore reads.
    fn archive(&self, plan: &Plan, toc: &Toc, name: &str, server: &Server) -> Result<u64> {
        let Some(programs) = &self.programs else {
            return Err(self.refused("pg_restore was not looked for".into()));
        };
        let mut command = programs.command("pg_restore", server);
        session::set_for(&mut command);
        command.args(["-w", "-Fc", "-d"]).arg(server.database_of(name));
        let is_partial = plan.chosen.is_none() && self.missing_objects(plan).next().is_some();
        if !is_partial {
            command.arg("--exit-on-error");
        }
        if self.options.no_owner {
            command.arg("--no-owner");
        }
        if self.options.no_tablespaces {
            command.arg("--no-tablespaces");
        }
        let (mut list, applied) = (None, plan.chosen.as_ref().map(|chosen| chosen.applied(toc)));
        let toc = applied.as_ref().unwrap_or(toc);
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
        let fed = feed::feed(self.server, command, "pg_restore", self.monitor, &mut |out| {
            let written = match plan.stored.kind {
                Kind::Directory => archive.write(out),
                _ => archive::write_custom(&archive, plan.head, out),
            }?;
            // The program has them all but for what is in the pipe.
            self.phase(plan, "indexes, constraints and what else follows the rows");
            Ok(written)
        });
        drop(list);
        match fed {
            // What hangs on an object that is not in the backup.
            Err(Error::Source(error)) if is_partial && error.kind == SourceErrorKind::Command => {
                let item = format!("database '{}'", plan.target);
                self.tell(item, &error.why);
                Ok(0)
            }
            fed => fed,
        }
    }

    /// Objects of a database that the backup could not even look at, and why.
    pub(super) fn missing_objects<'b>(&'b self, plan: &Plan) -> impl Iterator<Item = (&'b str, &'b String)> {
        let before = format!("{}: ", plan.stored.path);
        self.left_out.iter().filter_map(move |(path, why)| Some((path.strip_prefix(&before)?, why)))
    }
}
