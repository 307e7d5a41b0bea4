//! `esker restore --to URL`: a plan that is made, shown, proved, and only then applied. The same for every system.

use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::{self, Summary};
use crate::tiers::Opened;
use crate::{commands, sources};
use chunkstore::ObjectId;
use engine::connector::{Extent, Origin, RestorePlan, Restored, Target};
use engine::snapshot::{Filter, Listed, split_path};
use engine::{Error, shown};
use serde_json::json;
use std::ffi::OsStr;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

/// Restores into `to`, which is a URL, or the path of a folder.
pub(super) fn run(
    args: &super::Args,
    target: &'static dyn Target,
    to: &OsStr,
    context: &Context,
) -> CommandResult {
    let console = &context.console;
    let chosen = args.chosen().map_err(Failure::of_arguments)?;
    target.check(to, &chosen).map_err(Failure::of_arguments)?;
    let sources = sources::url_options(context)?;
    let (opened, found) = super::find(args, target, context)?;
    let found = at_moment(args, target, &opened, found, context)?;
    let time = commands::show_time(found.snapshot.time);
    console.say(format!("snapshot {} of {time}", found.id.short()));
    let (_, below) = split_path(&args.snapshot);
    let wait = args.wait_thaw.then_some(super::THAW_PAUSE);
    let reads = target.reads(&found.snapshot, below);
    commands::thaw::need_thawed(&opened, &found, &reads, wait, context)?;
    opened.repo.sync_index(console.monitor())?;
    let from = Origin { repo: &opened.repo, snapshot: &found, below };
    let planned = console.during("plan", |monitor| target.plan(from, to, &chosen, &sources, monitor));
    let mut plan = planned.map_err(Error::in_one_line)?;
    let steps = plan.steps();
    if !steps.is_empty() {
        console.say(format!("plan for {}:", plan.shown()));
        show(&steps, context);
    }
    if args.dry_run {
        let restored = console.during("plan", |monitor| plan.preview(monitor));
        let restored = restored.map_err(Error::in_one_line)?;
        return Ok(tell(args, &steps, &restored, &found, None, context));
    }
    if let Some(question) = plan.question()
        && !args.yes
        && !confirm(question)?
    {
        return Err(Failure::new("nothing was done; --yes to go on without being asked"));
    }
    let _held = if plan.removes() { super::held::hold(&opened, &found, context)? } else { None };
    let proved = console.during("read what will be restored", |monitor| plan.prove(monitor));
    proved.map_err(|error| untouched(error.in_one_line().into(), plan.shown()))?;
    tracing::info!("proof ended");
    let saved = match plan.saves() {
        Some(url) => Some(save(url, &*plan, context)?),
        None => None,
    };
    let restored = console.during("restore", |monitor| plan.apply(monitor)).map_err(|error| {
        let mut failure = Failure::from(error.in_one_line());
        let saved = saved.as_ref().map(|id| id.short().to_string());
        if let Some(stands) = plan.stands(saved.as_deref()) {
            failure.message += &format!("; {stands}");
        }
        failure
    })?;
    Ok(tell(args, &steps, &restored, &found, saved.as_ref(), context))
}

/// With `--time`, the snapshot whose stream has the moment: the one that is named, or one of all that fit.
fn at_moment(
    args: &super::Args,
    target: &dyn Target,
    opened: &Opened,
    found: Listed,
    context: &Context,
) -> Result<Listed, Failure> {
    let Some(time) = args.time else { return Ok(found) };
    let (wanted, below) = split_path(&args.snapshot);
    let mut all = match wanted {
        "latest" => opened.repo.snapshots(context.console.monitor())?,
        _ => vec![found],
    };
    let filter = args.filter.filter();
    all.retain(|listed| filter.fits(&listed.snapshot) && super::has_entries(&listed.snapshot, below));
    Ok(engine::moment::holding(target, &all, time)?.clone())
}

/// Prints steps: a number for each, and none for what belongs to the one before.
fn show(steps: &[String], context: &Context) {
    let mut number = 0;
    for step in steps {
        let step = shown::line(step);
        if step.starts_with(' ') {
            context.console.say(format!("   {step}"));
        } else {
            number += 1;
            context.console.say(format!("  {number}. {step}"));
        }
    }
}

/// Saves what is there, and reads what was saved.
fn save(url: &str, plan: &dyn RestorePlan, context: &Context) -> Result<ObjectId, Failure> {
    let id = commands::backup::safety(url, context).map_err(|failure| untouched(failure, plan.shown()))?;
    let proved = context.open().and_then(|repo| {
        let saved = repo.find(&id.to_string(), &Filter::default(), context.console.monitor())?;
        repo.sync_index(context.console.monitor())?;
        let origin = Origin { repo: &repo, snapshot: &saved, below: "" };
        let read =
            context.console.during("read the safety snapshot", |monitor| plan.prove_saved(origin, monitor));
        Ok(read?)
    });
    proved.map_err(|failure| untouched(failure, plan.shown()))?;
    let back = plan.way_back(&id.short().to_string());
    context.console.say(format!("safety snapshot {} made; to go back: {back}", id.short()));
    Ok(id)
}

/// A failure before the first change.
fn untouched(mut failure: Failure, server: &str) -> Failure {
    failure.message += &format!("; {server} is as it was");
    failure
}

/// Whether somebody is there who says yes.
fn confirm(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    let mut answer = String::new();
    let asked = write!(std::io::stderr(), "{question} [y/N] ")
        .and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    asked.map_err(|error| Failure::new(format!("cannot ask: {error}; give --yes")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What was restored, or would be, and for programs the plan.
fn tell(
    args: &super::Args,
    steps: &[String],
    restored: &Restored,
    found: &Listed,
    saved: Option<&ObjectId>,
    context: &Context,
) -> Code {
    let console = &context.console;
    let seconds = console.seconds();
    let mut summary = Summary::new(json!({
        "snapshot_id": found.id,
        "seconds_elapsed": seconds,
        "bytes_restored": restored.bytes,
        "dry_run": args.dry_run,
    }))
    .with_some("safety_snapshot_id", saved.map(ObjectId::to_string))
    .with_some("plan", Some(steps).filter(|steps| !steps.is_empty()))
    .with_some("notes", Some(restored.notes.as_slice()).filter(|notes| !notes.is_empty()));
    for (name, value) in &restored.fields {
        summary = summary.with(name, value.clone());
    }
    for (line, bytes) in &restored.parts {
        let bytes = bytes.map(|bytes| format!(", {}", output::bytes(bytes))).unwrap_or_default();
        summary.line(format!("{line}{bytes}"));
    }
    if !restored.total.is_empty() && (!args.dry_run || restored.parts.is_empty()) {
        let mut line = format!("{}, {} in {seconds:.1} s", restored.total, output::bytes(restored.bytes));
        restored.remarks.iter().for_each(|remark| line += &format!("; {remark}"));
        summary.line(line);
    }
    restored.lines.iter().for_each(|line| summary.line(line.as_str()));
    restored.notes.iter().for_each(|note| summary.line(format!("note: {}", shown::line(note))));
    console.summary(&summary);
    match restored.extent {
        Extent::Nothing => Code::Failed,
        Extent::Whole if console.error_count() == 0 => Code::Done,
        _ => Code::Incomplete,
    }
}
