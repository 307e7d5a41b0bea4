//! `esker backup --bundle`: as a host that may only write.

use crate::config::hostname;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::Summary;
use crate::places::{Make, Place};
use chunkstore::format::MAX_SMALL_LEN;
use chunkstore::inbox::book::Answered;
use chunkstore::inbox::{Book, Bundle};
use engine::backup::BackupOptions;
use engine::host::{backup_as_host, take_answers};
use engine::names::path_bytes;
use engine::shown;
use engine::source::Source;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::time::Duration;
use zeroize::Zeroizing;

/// So long a backup of the same host is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the file of a host.
pub(super) fn bundle(path: &Path) -> Result<Bundle, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}", shown::path(path)));
    let len = path.metadata().map_err(|error| failed(&error))?.len();
    if len > MAX_SMALL_LEN {
        return Err(failed(&"it is too large for the file of a host"));
    }
    let bytes = Zeroizing::new(std::fs::read(path).map_err(|error| failed(&error))?);
    Bundle::from_text(&bytes).map_err(|error| match error {
        chunkstore::Error::Unsupported { .. } => error.into(),
        error => failed(&error),
    })
}

/// Opens the book of a host, and the way to its inbox.
fn open(bundle: Bundle, context: &Context) -> Result<Book, Failure> {
    let place = match context.global.place()? {
        Some(place) => place,
        None => OsString::from_vec(path_bytes(&bundle.place)),
    };
    let rates = context.global.network.rates(chunkstore::storage::limit::Rates::default());
    let storage = Place::parse(&place, &context.global.details()?)?.open(Make::No, rates)?;
    let cache = context.cache().ok_or_else(|| {
        Failure::new("a write-only host keeps its book in the cache folder: give one with --cache-dir, and no --no-cache")
    })?;
    let folder = cache.join("hosts").join(bundle.keys.host.to_string());
    Ok(Book::open(bundle, context.access(storage)?, &folder, PATIENCE)?)
}

/// Says what became of earlier runs.
fn say(answers: &[Answered], context: &Context) {
    for answered in answers {
        match answered.refused() {
            None => context.console.say(format!("run {} was admitted", answered.run.run)),
            Some(why) => context.console.warn(&format!(
                "run {} was refused: {why}. There is no snapshot of it; this backup stores again what it needs",
                answered.run.run
            )),
        }
    }
}

/// Backs up as a host.
pub(super) fn run(
    bundle: Bundle,
    mut source: Box<dyn Source>,
    options: BackupOptions,
    given_host: Option<&str>,
    context: &Context,
) -> CommandResult {
    if let Some(given) = given_host.filter(|given| *given != bundle.name) {
        return Err(Failure::usage(format!(
            "--host {given}: a write-only host backs up under its own name, '{}'",
            bundle.name
        )));
    }
    if bundle.name != hostname() {
        tracing::info!(host = bundle.name, "the snapshot has the name that the host was added with");
    }
    let options = BackupOptions { hostname: bundle.name.clone(), ..options };
    let mut book = open(bundle, context)?;
    let answers = take_answers(&mut book)?;
    say(&answers, context);
    let report = context
        .console
        .during("backup", |monitor| backup_as_host(&mut book, &mut *source, &options, monitor))?;
    let mut summary = super::report::summary(&report.backup, &source.records(), options.dry_run, context)?;
    summary = summary.with("answered", answers.iter().map(row).collect::<Vec<Value>>());
    if let Some(pending) = &report.pending {
        summary = pended(summary, pending.run, book.pending().len());
    }
    context.console.summary(&summary);
    let lost = answers.iter().any(|answered| answered.refused().is_some());
    Ok(if lost || context.console.error_count() > 0 { Code::Incomplete } else { Code::Done })
}

/// What became of an earlier run, for programs.
fn row(answered: &Answered) -> Value {
    match answered.refused() {
        None => json!({"run": answered.run.run, "outcome": "admitted"}),
        Some(why) => json!({"run": answered.run.run, "outcome": "refused", "why": why}),
    }
}

fn pended(summary: Summary, run: u64, waiting: usize) -> Summary {
    let mut summary = summary.with("pending", true).with("run", run);
    summary.line(format!(
        "run {run} is in the inbox: it is pending until a full client admits it ({waiting} {})",
        if waiting == 1 { "waits" } else { "wait" }
    ));
    summary
}
