//! Fills a database that is there. Of a dump in directory or custom format, pg_restore makes what rows are put into; sessions
//! of our own put the rows in; pg_restore makes the rest by several processes, in an order in which none waits for another's
//! locks. Single tables come by one pg_restore, in one transaction. A dump in plain SQL runs in a session of our own.

use super::archive;
use super::archive::{Archive, Files};
use super::contents::Kind;
use super::feed::Input;
use super::filling::Filling;
use super::following::Following;
use super::loading::Loading;
use super::plan::{Plan, Way, is_bare};
use super::run::Run;
use super::sections::Sections;
use super::source::Source;
use super::stand_in::StandIn;
use super::tables::Chosen;
use super::{Work, database, feed, locks, session};
use crate::connection::PgError;
use crate::end_mark::BlockIndex;
use crate::limits::{BRIEFLY, Room};
use crate::script::Script;
use crate::toc::{Toc, TocEntry};
use crate::{Connection, Server};
use chunkstore::threads;
use engine::restore::{Located, dump, locate, located};
use engine::source::SourceErrorKind;
use engine::{Counter, Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Seek as _, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::NamedTempFile;

/// How often it is looked whether it shall end.
const PAUSE: Duration = Duration::from_millis(50);

/// Writes large objects into an archive.
type WriteObjects<'a> = dyn Fn(&Archive<'_>, &mut dyn Write) -> Result<u64> + Sync + 'a;

impl Work<'_> {
    /// Fills the database of `plan`, which now is called `name`; returns bytes read, and tables.
    pub(super) fn fill(
        &self,
        plan: &Plan,
        name: &str,
        run: &Run,
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
            stand_in.enter(plan, name, session).map_err(|error| match error.is_no_session() {
                true => self.failed(&error),
                false => self.refused(format!(
                    "the role that is made for this restore cannot enter database '{name}': {error}; pg_hba.conf must let it in by a password (scram-sha-256)"
                )),
            })?;
        }
        let server = stand_in.map_or(self.server, |stand_in| &stand_in.server);
        Ok(match &plan.toc {
            None => {
                self.phase(plan, "statements and rows");
                self.monitor.count(Counter::BytesTotal, plan.stored.bytes);
                (self.script(plan, name)?, 0)
            }
            Some(toc) => (
                self.archive(plan, toc, (name, server), run)?,
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
        ended.map_err(|error| match &error {
            PgError::Refused { message, .. } if !error.is_no_session() => {
                self.server.error(SourceErrorKind::Command, message).into()
            }
            _ => self.failed(&error),
        })?;
        written
    }

    /// A dump in directory or custom format.
    fn archive(&self, plan: &Plan, toc: &Toc, (name, server): (&str, &Server), run: &Run) -> Result<u64> {
        if let Some(chosen) = &plan.chosen {
            return self.single_tables(plan, chosen, &chosen.applied(toc), (name, server), run);
        }
        let is_partial = self.missing_objects(plan).next().is_some();
        let into = Filling { plan, name, server, run, is_partial };
        let sections = Sections::of(toc);
        let files = self.files(plan, None)?;
        let archive = self.archive_of(plan, toc, &files, None);

        self.phase(plan, "definitions");
        let mut head = |out: &mut dyn Write| archive.write_head(out).map(|()| 0);
        self.some(&into, &sections.before, Input::Written(&mut head))?;

        self.phase(plan, "rows");
        let index = match plan.stored.kind {
            Kind::Directory => None,
            _ => archive::block_index(self.repo, self.snapshot, &plan.stored.path, self.monitor)?,
        };
        let sizes = sizes(&plan.stored.path, toc, &files, index.as_ref());
        let bytes = match (plan.stored.kind, &index) {
            (Kind::Directory, _) => {
                let large = large_objects(&files, &sections);
                let write = |archive: &Archive<'_>, out: &mut dyn Write| archive.write(out);
                self.rows(
                    &into,
                    toc,
                    &sections,
                    &files,
                    &Source::Folder(&plan.stored.path, &files),
                    (large, &write),
                )?
            }
            (_, Some(index)) => {
                self.repo.sync_index(self.monitor)?;
                let content = locate(self.repo, self.snapshot, plan.stored.path.as_bytes())?;
                let blocks =
                    archive::chosen_blocks(index, &sections.objects.iter().map(|entry| entry.id).collect());
                let large = blocks.iter().map(|(from, to)| to.saturating_sub(*from)).sum();
                let write =
                    |archive: &Archive<'_>, out: &mut dyn Write| archive::write_blocks(archive, &blocks, out);
                self.rows(&into, toc, &sections, &files, &Source::Blocks(&content, index), (large, &write))?
            }
            _ => {
                self.monitor.count(Counter::BytesTotal, plan.stored.bytes);
                let is_data = |entry: &&TocEntry| matches!(entry.kind.as_str(), "TABLE DATA" | "BLOBS");
                // In the order of the stream.
                let with_data = toc.entries.iter().filter(|entry| entry.has_data).filter(is_data);
                let list: Vec<i64> = with_data.map(|entry| entry.id).collect();
                let mut write = |out: &mut dyn Write| archive::write_custom(&archive, plan.head, out);
                self.some(&into, &list, Input::Written(&mut write))?
            }
        };
        if self.monitor.interrupted() {
            return Err(Error::Interrupted);
        }

        let following = Following::of(toc, &sections.after, &sizes);
        self.phase(plan, &following.title());
        self.monitor.count(Counter::BytesTotal, following.total());
        if !sections.after.is_empty() {
            let failed = |error| Error::Target {
                op: "write",
                path: "a table of contents for pg_restore".into(),
                source: error,
            };
            // Without a name; several of its processes open it.
            let mut file = tempfile::tempfile().map_err(failed)?;
            let toc = locks::with_locks(toc, &sections.after);
            self.archive_of(plan, &toc, &files, None).write_head(&mut file)?;
            file.rewind().map_err(failed)?;
            let jobs = self.jobs(&into)?;
            self.some(&into, &sections.after, Input::File { file, jobs, following })?;
        }
        Ok(bytes)
    }

    /// Rows and large objects, which take `large` bytes and are written by `write`; returns the bytes of all.
    fn rows(
        &self,
        into: &Filling<'_>,
        toc: &Toc,
        sections: &Sections<'_>,
        files: &Files,
        source: &Source<'_>,
        (large, write): (u64, &WriteObjects<'_>),
    ) -> Result<u64> {
        let mut loading = Loading::new(self, into, toc, source, &sections.rows)?;
        let objects: BTreeSet<i64> = sections.objects.iter().map(|entry| entry.id).collect();
        // In the order of the stream, which pg_restore cannot go back in; several owners of large objects have an entry each.
        let list: Vec<i64> = sections.objects.iter().map(|entry| entry.id).collect();
        let archive = self.archive_of(into.plan, toc, files, Some(&objects));
        let bytes = loading.bytes() + large;
        self.monitor.count(Counter::BytesTotal, bytes);
        let beside = |stop: &AtomicBool| {
            let mut write = |out: &mut dyn Write| write(&archive, out);
            self.some_until(into, &list, Input::Written(&mut write), stop).map(drop)
        };
        loading.load(self.jobs(into)?, if objects.is_empty() { None } else { Some(&beside) })?;
        Ok(bytes)
    }

    /// How many sessions fill a database: what was asked for, if the server has them to spare.
    fn jobs(&self, into: &Filling<'_>) -> Result<usize> {
        let wanted = self.options.jobs.unwrap_or(self.options.sessions).max(1);
        if wanted == 1 {
            return Ok(1);
        }
        let room = into
            .run
            .part(into.server, into.name)
            .and_then(|mut session| Room::wait(&mut session, 2 * wanted as u64, BRIEFLY));
        Ok(room.map_err(|error| self.failed(&error))?.share(wanted))
    }

    /// Entries of a dump by pg_restore, by several processes if it reads a file.
    fn some(&self, into: &Filling<'_>, list: &[i64], input: Input<'_>) -> Result<u64> {
        self.some_until(into, list, input, &AtomicBool::new(false))
    }

    fn some_until(
        &self,
        into: &Filling<'_>,
        list: &[i64],
        input: Input<'_>,
        stop: &AtomicBool,
    ) -> Result<u64> {
        if list.is_empty() {
            return Ok(0);
        }
        let mut command = self.pg_restore(into.plan, into.name, into.server, into.run)?;
        if !into.is_partial {
            command.arg("--exit-on-error");
        }
        let list = list_of(list.iter().copied())?;
        command.arg("-L").arg(list.path());
        let is_parallel = matches!(&input, Input::File { jobs, .. } if *jobs > 1);
        if let Input::File { jobs, .. } = &input {
            command.arg("-v").arg("-j").arg(jobs.to_string()).arg("/dev/stdin");
        }
        match feed::feed(self.server, command, "pg_restore", self.monitor, stop, input) {
            // What hangs on an object that is not in the backup.
            Err(Error::Source(error)) if into.is_partial && error.kind == SourceErrorKind::Command => {
                self.tell(format!("database '{}'", into.plan.target), &error.why);
                Ok(0)
            }
            // Functions of the user's in indexes may lock what nobody can know.
            Err(Error::Source(mut error)) if is_parallel && error.why.contains("deadlock detected") => {
                error.why.push_str("; with --jobs 1 nothing waits for another session's locks");
                Err(error.into())
            }
            fed => fed,
        }
    }

    /// Single tables, in one transaction: all of it or nothing.
    fn single_tables(
        &self,
        plan: &Plan,
        chosen: &Chosen,
        toc: &Toc,
        (name, server): (&str, &Server),
        run: &Run,
    ) -> Result<u64> {
        let mut command = self.pg_restore(plan, name, server, run)?;
        command.args(["--exit-on-error", "--single-transaction"]);
        if chosen.replaces {
            command.arg("--clean");
        }
        // pg_restore goes by the order of the list.
        let (last, first): (Vec<_>, Vec<_>) =
            plan.entries().partition(|entry| chosen.last.contains(&entry.id));
        let list = list_of(first.iter().chain(&last).map(|entry| entry.id))?;
        command.arg("-L").arg(list.path());
        let files = self.files(plan, Some(&chosen.ids))?;
        let archive = self.archive_of(plan, toc, &files, Some(&chosen.ids));
        self.phase(plan, "rows");
        let stop = AtomicBool::new(false);
        let mut write = |out: &mut dyn Write| {
            let written = match plan.stored.kind {
                Kind::Directory => archive.write(out),
                _ => archive::write_custom(&archive, plan.head, out),
            }?;
            // The program has them all but for what is in the pipe.
            self.phase(plan, "indexes, constraints and what else follows the rows");
            Ok(written)
        };
        feed::feed(self.server, command, "pg_restore", self.monitor, &stop, Input::Written(&mut write))
    }

    /// pg_restore into a database.
    fn pg_restore(&self, plan: &Plan, name: &str, server: &Server, run: &Run) -> Result<Command> {
        let Some(programs) = &self.programs else {
            return Err(self.refused("pg_restore was not looked for".into()));
        };
        let mut command = programs.command("pg_restore", server);
        let lazily: &[(&str, &str)] = if plan.is_lazy() { &[("synchronous_commit", "off")] } else { &[] };
        session::set_for(&mut command, lazily);
        command.env("PGAPPNAME", run.part_name());
        command.args(["-w", "-Fc", "-d"]).arg(server.database_of(name));
        if self.options.no_owner {
            command.arg("--no-owner");
        }
        if self.options.no_tablespaces {
            command.arg("--no-tablespaces");
        }
        Ok(command)
    }

    /// Where the files of a dump in directory format lie: of the entries that are wanted, or of all.
    fn files(&self, plan: &Plan, wanted: Option<&BTreeSet<i64>>) -> Result<Files> {
        if plan.stored.kind != Kind::Directory {
            return Ok(Files::new());
        }
        self.repo.sync_index(self.monitor)?;
        let folder = plan.stored.path.as_str();
        let data = plan.entries().filter(|entry| entry.has_data);
        let data = data.filter(|entry| wanted.is_none_or(|wanted| wanted.contains(&entry.id)));
        let data: Vec<_> = data.collect();
        let names: BTreeSet<&str> = data.iter().map(|entry| entry.file.as_str()).collect();
        let with_objects = data.iter().any(|entry| entry.kind == "BLOBS");
        let is_wanted = |path: &[u8]| {
            let name = path.strip_prefix(folder.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
            let name = name.and_then(|name| std::str::from_utf8(name).ok());
            name.is_some_and(|name| with_objects && name.starts_with("blob_") || names.contains(name))
        };
        located(self.repo, self.snapshot, folder.as_bytes(), &is_wanted)
    }

    fn archive_of<'b>(
        &'b self,
        plan: &'b Plan,
        toc: &'b Toc,
        files: &'b Files,
        chosen: Option<&'b BTreeSet<i64>>,
    ) -> Archive<'b> {
        Archive {
            repo: self.repo,
            snapshot: self.snapshot,
            path: &plan.stored.path,
            toc,
            chosen,
            files,
            left_out: &self.left_out,
            monitor: self.monitor,
        }
    }

    /// Objects of a database that the backup could not even look at, and why.
    pub(super) fn missing_objects<'b>(&'b self, plan: &Plan) -> impl Iterator<Item = (&'b str, &'b String)> {
        let before = format!("{}: ", plan.stored.path);
        self.left_out.iter().filter_map(move |(path, why)| Some((path.strip_prefix(&before)?, why)))
    }
}

/// A list of entries, as pg_restore reads one.
fn list_of(ids: impl Iterator<Item = i64>) -> Result<NamedTempFile> {
    let failed = |error| Error::Target { op: "write", path: "a list for pg_restore".into(), source: error };
    let mut file = NamedTempFile::new().map_err(failed)?;
    let text: String = ids.map(|id| format!("{id};\n")).collect();
    file.write_all(text.as_bytes()).and_then(|()| file.flush()).map_err(failed)?;
    Ok(file)
}

/// Bytes of the large objects of a dump in directory format.
fn large_objects(files: &Files, sections: &Sections<'_>) -> u64 {
    let is_object = |path: &[u8]| {
        let name = path.rsplit(|byte| *byte == b'/').next();
        !sections.objects.is_empty() && name.is_some_and(|name| name.starts_with(b"blob_"))
    };
    files.iter().filter(|(path, _)| is_object(path)).map(|(_, content)| content.len()).sum()
}

/// Bytes of rows by the numbers of their entries, where that is known.
fn sizes(folder: &str, toc: &Toc, files: &Files, index: Option<&BlockIndex>) -> BTreeMap<i64, u64> {
    match index {
        Some(index) => index.blocks.iter().map(|(id, from, to)| (*id, to.saturating_sub(*from))).collect(),
        None => {
            let data = toc.entries.iter().filter(|entry| entry.has_data);
            let len =
                |entry: &TocEntry| files.get(format!("{folder}/{}", entry.file).as_bytes()).map(Located::len);
            data.filter_map(|entry| Some((entry.id, len(entry)?))).collect()
        }
    }
}
