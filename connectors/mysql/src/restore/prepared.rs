//! A restore of which everything is looked at before the first change: the plan that is shown, proved and applied.

use super::lock::Locks;
use super::replay::Logs;
use super::report::MysqlReport;
use super::standing::Standing;
use super::stored::{Goal, Stored};
use super::{MysqlOptions, Work, span};
use crate::contents::LAYOUT;
use crate::server::Server;
use engine::connector::{Origin, RestorePlan, Restored};
use engine::restore::dump;
use engine::shown::counted_are;
use engine::{Counter, Error, ItemError, Monitor, Result};
use std::collections::BTreeSet;

/// A restore of which everything is looked at and nothing is changed yet.
pub(crate) struct Prepared<'a> {
    from: Origin<'a>,
    server: Server,
    options: MysqlOptions,
    /// They keep other restores away for as long as this one may begin.
    locks: Locks,
    stored: Stored,
    goals: Vec<Goal>,
    /// The binary log that is replayed.
    logs: Option<Logs>,
    steps: Vec<String>,
    notes: Vec<String>,
}

/// Looks at databases of a snapshot, below a path if that is not empty, and at `server`; one database goes into the server's
/// own, if its URL names one. What is only to be shown takes no lock.
///
/// # Errors
/// What stands in the way.
pub(crate) fn prepare<'a>(
    from: Origin<'a>,
    server: Server,
    mut options: MysqlOptions,
    is_shown_only: bool,
    monitor: &dyn Monitor,
) -> Result<Prepared<'a>> {
    let (repo, snapshot) = (from.repo, &from.snapshot.snapshot);
    repo.sync_index(monitor)?;
    let path = options.selection.beneath(from, &LAYOUT)?;
    let mut stored = Stored::of(from, &path)?;
    let wanted = options.selection.of(&stored.databases)?;
    let is_whole = options.selection.is_whole();
    if options.time.is_some() && !is_whole {
        return Err(Error::Invalid(
            "a moment is restored as a whole: all databases, under their own names".into(),
        ));
    }
    let has_logs = !stored.logs.is_empty();
    let is_base_alone = match has_logs {
        true => !is_whole,
        // The path may leave them out.
        false => span(snapshot).is_some() && !path.is_empty(),
    };
    if is_base_alone && !options.base_only {
        let base = span(snapshot)
            .map_or_else(String::new, |(from, _)| format!(", of {}", engine::moment::shown(from)));
        return Err(Error::Invalid(format!(
            "the snapshot is of a stream, whose log brings back all databases or none: restore all of it into another server, or \
             give --base-only for what its dump{base} has"
        )));
    }
    if !is_whole {
        stored.accounts = None;
        stored.libraries = None;
    }
    let mut locks = Locks::new(&server);
    if !is_shown_only {
        locks.take(wanted.keys().map(|name| options.selection.target(name)))?;
    }
    let work = Work { repo, snapshot, server: &server, options: &options, monitor, locks: &locks };
    // All is looked at before the first is touched.
    let mut goals = vec![];
    for (name, path) in &wanted {
        let index = work.index(path)?;
        let goal =
            Goal { name: name.clone(), target: options.selection.target(name), path: path.clone(), index };
        work.check(&goal)?;
        goals.push(goal);
    }
    let lacks = work.left_out(|database| wanted.contains_key(database)).into_iter();
    let mut notes: Vec<String> =
        lacks.map(|what| format!("the snapshot lacks what its backup left out: {what}")).collect();
    let needs_logs = options.time.is_some() || (is_whole && has_logs && !options.base_only);
    let logs = needs_logs.then(|| work.logs(&stored.logs, &goals)).transpose()?;
    if let Some(logs) = logs.as_ref().filter(|logs| !logs.left_out.is_empty()) {
        let all: BTreeSet<&String> = logs.left_out.iter().collect();
        let all: Vec<&str> = all.into_iter().map(String::as_str).collect();
        notes.push(format!(
            "{} left out of the replay of the binary log, for accounts that the server has, which stay as before, or for code \
             that is loaded into it: {}",
            counted_are(logs.left_out.len(), "statement"),
            all.join(", ")
        ));
    }
    let steps = work.steps(&goals, &stored, is_whole)?;
    Ok(Prepared { from, server, options, locks, stored, goals, logs, steps, notes })
}

impl Prepared<'_> {
    fn work<'b>(&'b self, monitor: &'b dyn Monitor) -> Work<'b> {
        let Self { from, server, options, locks, .. } = self;
        Work { repo: from.repo, snapshot: &from.snapshot.snapshot, server, options, monitor, locks }
    }
}

impl RestorePlan for Prepared<'_> {
    fn shown(&self) -> &str {
        &self.server.shown
    }
    fn steps(&self) -> Vec<String> {
        self.steps.clone()
    }
    fn removes(&self) -> bool {
        self.options.replace
    }
    fn preview(&self, _: &dyn Monitor) -> Result<Restored> {
        let databases = self.goals.iter().map(|goal| (goal.target.clone(), 0)).collect();
        let report = MysqlReport { databases, notes: self.notes.clone(), ..MysqlReport::default() };
        Ok(report.restored(&self.options.selection, true))
    }
    /// What the server cannot take is found, too.
    fn prove(&mut self, monitor: &dyn Monitor) -> Result<()> {
        let work = self.work(monitor);
        for goal in &self.goals {
            work.prove(goal)?;
        }
        if let Some(accounts) = &self.stored.accounts {
            let sink = &mut std::io::sink();
            dump(work.repo, work.snapshot, accounts.as_bytes(), sink, &Quiet(monitor))?;
        }
        Ok(())
    }
    fn apply(&mut self, monitor: &dyn Monitor) -> Result<Restored> {
        let work = self.work(monitor);
        let mut report = MysqlReport { notes: self.notes.clone(), ..MysqlReport::default() };
        let mut standing = Standing::default();
        let applied = work.apply(&self.goals, &self.stored, self.logs.as_ref(), &mut standing, &mut report);
        let applied = applied.inspect_err(|_| work.tell_standing(&standing)).and_then(|()| work.leftovers());
        report.notes.extend(applied?.iter().map(|name| {
            format!("'{name}' is of a restore that was cut off or is under way; if it is not, the next restore of its database removes it")
        }));
        Ok(report.restored(&self.options.selection, false))
    }
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
