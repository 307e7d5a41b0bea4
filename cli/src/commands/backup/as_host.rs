//! `esker backup --bundle`: as a host that may only write.

use super::Args;
use super::report::By;
use crate::bundle::pending;
use crate::config::hostname;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use chunkstore::inbox::Bundle;
use engine::backup::BackupOptions;
use engine::host::backup_as_host;
use engine::source::Source;

/// Refuses what a host cannot do, also where esker.toml rather than a flag makes this machine one.
pub(super) fn refuse(args: &Args) -> Result<(), Failure> {
    let given = [
        ("--parent", args.parent.is_some()),
        ("--delta", args.delta),
        ("--incremental", args.incremental),
        ("--time", args.time.is_some()),
        ("--keep-until", args.keep_until.is_some()),
        ("--no-admit", args.no_admit),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((flag, _)) => {
            Err(Failure::usage(format!("{flag} is not for a write-only host (docs/hosts.md)")))
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
    let mut book = context.book(bundle)?;
    let answers = context.answers(&mut book)?;
    let report = context
        .console
        .during("backup", |monitor| backup_as_host(&mut book, &mut *source, &options, monitor))?;
    let mut summary =
        super::report::summary(&report.backup, &source.records(), options.dry_run, By::Host, context)?;
    summary = summary.with("answered", answers.rows());
    if let Some(run) = report.pending.as_ref().map(|pending| pending.run) {
        summary = summary.with("pending", true).with("run", run);
        summary.line(pending(run, book.pending().len()));
    }
    context.console.summary(&summary);
    if report.pending.is_some() {
        book.told()?;
    }
    let is_incomplete = answers.has_refused() || context.console.error_count() > 0;
    Ok(if is_incomplete { Code::Incomplete } else { Code::Done })
}
