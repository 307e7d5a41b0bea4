//! What a backup reports at its end.

use crate::context::Context;
use crate::exit::Failure;
use crate::output::{self, Summary};
use crate::units::counted;
use engine::Counter;
use engine::backup::BackupReport;
use engine::connector::Format;
use engine::snapshot::{SourceRecord, skew};

/// Who backed up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A full client: there is a snapshot.
    FullClient,
    /// A write-only host: ids of its snapshots are those of its book, which mean nothing in the repository.
    Host,
}

pub(super) fn summary(
    report: &BackupReport,
    sources: &[SourceRecord],
    dry_run: bool,
    by: By,
    context: &Context,
) -> Result<Summary, Failure> {
    let (parent, snapshot) = match by {
        By::FullClient => (report.parent, report.snapshot),
        By::Host => (None, None),
    };
    let done = &report.summary;
    let seconds = context.console.seconds();
    let vanished = context.console.monitor().get(Counter::Vanished);
    let mut summary = Summary::of(done)?
        .with("total_duration", seconds)
        .with("dry_run", dry_run)
        .with("files_vanished", vanished)
        .with_some("snapshot_id", snapshot.map(|id| id.to_string()))
        .with_some("skew_seconds", skew(sources).map(|skew| skew.as_secs_f64()));
    let mut say = |text: String| summary.line(text);
    if let Some(parent) = parent {
        say(format!("compared with snapshot {}", parent.short()));
    }
    // The words are restic's: scripts look for them.
    say(format!(
        "Files:       {:>5} new, {:>5} changed, {:>5} unmodified",
        done.files_new, done.files_changed, done.files_unmodified
    ));
    say(format!(
        "Dirs:        {:>5} new, {:>5} changed, {:>5} unmodified",
        done.dirs_new, done.dirs_changed, done.dirs_unmodified
    ));
    if vanished > 0 {
        say(format!("Gone before they were read: {vanished}"));
    }
    say(format!(
        "Added to the repository: {} ({} stored)",
        output::bytes(done.data_added),
        output::bytes(done.data_added_packed)
    ));
    let rate = (done.total_bytes_processed as f64 / seconds.max(0.001)) as u64;
    say(format!(
        "processed {} files, {} in {} ({}/s)",
        done.total_files_processed,
        output::bytes(done.total_bytes_processed),
        output::duration(seconds),
        output::bytes(rate)
    ));
    if let Some(skew) = skew(sources) {
        say(format!("{}, skew {:.3} s", counted(sources.len(), "source"), skew.as_secs_f64()));
    }
    let is_packed = |source: &&SourceRecord| {
        source
            .details
            .get("format")
            .and_then(|name| connectors::format(name))
            .is_some_and(Format::is_compressed)
    };
    for source in sources.iter().filter(is_packed) {
        say(format!(
            "{} is compressed: nothing of it will be found again in the next backup; --decompress stores what is in it",
            source.origin
        ));
    }
    match snapshot {
        Some(id) => say(format!("snapshot {} saved", id.short())),
        // The caller says which run is pending.
        None if report.snapshot.is_some() => {}
        None if dry_run => say("dry run: no snapshot was made".into()),
        None => say("nothing changed: no snapshot was made".into()),
    }
    Ok(summary)
}
