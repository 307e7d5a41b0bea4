//! A restore of which everything is looked at before the first change: the plan that is shown and applied.

use super::contents::{self, Contents};
use super::globals::Globals;
use super::lock::{self, Lock};
use super::plan::Plan;
use super::report::PostgresReport;
use super::run::{self, Leftover, Run};
use super::spaces::Spaces;
use super::steps::Intent;
use super::{PostgresOptions, Work};
use crate::connection::PgError;
use crate::contents::LAYOUT;
use crate::programs::Programs;
use crate::{Server, names};
use engine::connector::{Origin, RestorePlan, Restored};
use engine::{Error, Monitor, Result};
use std::collections::{BTreeMap, BTreeSet};

/// A restore of which everything is looked at and nothing is changed yet.
pub(crate) struct Prepared<'a> {
    from: Origin<'a>,
    server: Server,
    options: PostgresOptions,
    run: Run,
    /// Keeps other restores away for as long as this one may begin.
    _lock: Option<Lock>,
    spaces: Spaces,
    left_out: BTreeMap<String, String>,
    programs: Option<Programs>,
    plans: Vec<Plan>,
    globals: Globals,
    leftovers: Vec<Leftover>,
    /// In whose place a role of ours restores.
    sole_owner: Option<String>,
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
    mut options: PostgresOptions,
    is_shown_only: bool,
    monitor: &dyn Monitor,
) -> Result<Prepared<'a>> {
    let (repo, snapshot) = (from.repo, &from.snapshot.snapshot);
    repo.sync_index(monitor)?;
    let path = &options.selection.beneath(from, &LAYOUT)?;
    let contents = Contents::of(from, path)?;
    let wanted = contents.wanted(&options.selection)?;
    let failed = |error: PgError| Error::from(server.failed(&error));
    let selection = &options.selection;
    let targets: Vec<String> = wanted.keys().map(|name| selection.target(name)).collect();
    targets.iter().try_for_each(|name| names::check(name).map_err(Error::Invalid))?;
    let run = Run::new(snapshot.time);
    let mut session = run.session(&server, &[]).map_err(failed)?;
    let spaces = Spaces { none: options.no_tablespaces, map: options.tablespace_map.clone() };
    let (seen, left_out) = (BTreeSet::new(), contents::left_out(snapshot, path));
    let (server, options) = (&server, &options);
    let mut work = Work { repo, snapshot, server, options, monitor, spaces, seen, left_out, programs: None };

    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let lock = match is_shown_only {
        true => None,
        false => Some(lock::take(&run, server, &targets).map_err(failed)?.map_err(|why| work.refused(why))?),
    };

    // All is looked at before the first is touched.
    let is_whole = selection.is_whole();
    let globals = match contents.globals.as_ref().filter(|_| is_whole) {
        Some(path) => work.read_globals(path)?,
        None => Globals::default(),
    };
    let mut plans = vec![];
    for (name, stored) in &wanted {
        plans.push(work.plan(&selection.target(name), stored, &mut session)?);
    }
    work.check_needs(&plans, &globals, &mut session)?;
    work.check_rights(&plans, &globals, &mut session)?;
    let sole_owner = match options.as_owner {
        true => Some(work.sole_owner(&plans, &mut session)?),
        false => None,
    };
    let leftovers = run::leftovers(&mut session).map_err(failed)?;
    let mut notes = vec![];
    for plan in &plans {
        work.notes(plan, &mut notes);
    }
    if is_whole {
        work.tell_what_is_missing(&plans);
    }
    let Work { spaces, left_out, programs, .. } = work;
    Ok(Prepared {
        from,
        server: server.clone(),
        options: options.clone(),
        run,
        _lock: lock,
        spaces,
        left_out,
        programs,
        plans,
        globals,
        leftovers,
        sole_owner,
        notes,
    })
}

impl RestorePlan for Prepared<'_> {
    fn shown(&self) -> &str {
        &self.server.shown
    }
    fn steps(&self) -> Vec<String> {
        let Self { leftovers, globals, plans, .. } = self;
        Intent { leftovers, globals, plans, no_owner: self.options.no_owner }.steps()
    }
    fn removes(&self) -> bool {
        self.options.replace
    }
    fn preview(&self, _: &dyn Monitor) -> Result<Restored> {
        let databases = self.plans.iter().map(|plan| (plan.target.clone(), 0)).collect();
        let report = PostgresReport { databases, notes: self.notes.clone(), ..PostgresReport::default() };
        Ok(report.restored(&self.options.selection, true))
    }
    fn apply(&mut self, monitor: &dyn Monitor) -> Result<Restored> {
        let (globals, leftovers) = (std::mem::take(&mut self.globals), std::mem::take(&mut self.leftovers));
        let Self { from, server, options, run, plans, .. } = &*self;
        let work = Work {
            repo: from.repo,
            snapshot: &from.snapshot.snapshot,
            server,
            options,
            monitor,
            spaces: self.spaces.clone(),
            seen: BTreeSet::new(),
            left_out: self.left_out.clone(),
            programs: self.programs.clone(),
        };
        let mut report = PostgresReport { notes: self.notes.clone(), ..PostgresReport::default() };
        let mut session = run.session(server, &[]).map_err(|error| work.failed(&error))?;
        run::remove(leftovers, server, &mut session, &mut report.notes);
        let stand_in = match self.sole_owner.clone() {
            Some(owner) => Some(work.stand_in(owner, run, &mut session)?),
            None => None,
        };
        let applied = work.apply(plans, globals, run, stand_in.as_ref(), session, &mut report);
        if let (Some(stand_in), Some(plan)) = (&stand_in, plans.first()) {
            work.dismiss(stand_in, plan, run);
        }
        applied?;
        Ok(report.restored(&self.options.selection, false))
    }
}
