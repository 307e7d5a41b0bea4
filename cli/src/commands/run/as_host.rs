//! `esker run` on a host that may only write: it backs up, source by source, and a full client does the rest.

use super::{Args, Goal, SourceOutcome, add_sources, back_up_all, choose, code, locks, name_of, source_json};
use crate::bundle;
use crate::context::Context;
use crate::exit::{CommandResult, Failure};
use crate::file::File;
use crate::output::Summary;
use chunkstore::inbox::Book;
use chunkstore::pool::locked;
use engine::shown;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Mutex;

pub(super) fn run(args: &Args, path: &Path, context: &Context) -> CommandResult {
    let file = sources_of(path, context)?;
    if args.accept_clock {
        return Err(Failure::usage("--accept-clock is not for a write-only host, which lets nothing expire"));
    }
    if args.no_admit {
        return Err(Failure::usage("--no-admit is not for a write-only host, which admits nothing"));
    }
    let (specs, _) = choose(&args.names, file)?;
    let bundle = bundle::read(path)?;
    let (place, _) = context.place_of_host(&bundle)?;
    let _locks = locks::take(&args.names, &place, args.if_running, context)?;
    let start = context.console.seconds();
    let mut book = context.book(bundle)?;
    let answers = context.answers(&mut book)?;
    let book = Mutex::new(book);
    let goal = Goal::Inbox(&book);
    let sources =
        context.console.during("backup", |_| back_up_all(&specs, &name_of(args), file, goal, context));
    let mut summary = summary(&args.names, &sources, &locked(&book), context.console.seconds() - start);
    summary = summary.with("answered", answers.rows());
    context.console.summary(&summary);
    if sources.iter().any(SourceOutcome::is_pending) {
        locked(&book).told()?;
    }
    Ok(code(&sources, answers.has_refused(), context))
}

/// The sources of esker.toml, which may have been written for a full client.
fn sources_of<'a>(path: &Path, context: &'a Context) -> Result<&'a File, Failure> {
    let Some(file) = &context.file else { return context.need_file() };
    match file.refusal_of_host() {
        None => Ok(file),
        Some(why) => Err(Failure::new(format!(
            "{} makes this machine a write-only host, and {} is not for one: {why}",
            shown::path(path),
            shown::path(&file.path)
        ))),
    }
}

/// What a run reports at its end.
fn summary(names: &[String], sources: &[SourceOutcome], book: &Book, seconds: f64) -> Summary {
    let waiting = book.pending().len();
    let mut summary = Summary::new(json!({
        "run": names, "seconds_elapsed": seconds,
        "sources": sources.iter().map(|outcome| source_json(outcome, None)).collect::<Vec<Value>>(),
        "tiers": [], "promises_behind": [], "clock_in_doubt": null, "runs_pending": waiting,
    }));
    add_sources(sources, &|_| None, &mut summary);
    let runs = if waiting == 1 { "run" } else { "runs" };
    let name = &book.bundle().name;
    summary.line(format!("pending until a full client admits what waits: {waiting} {runs} of '{name}'"));
    summary
}
