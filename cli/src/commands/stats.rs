//! `esker stats`

use super::{FilterArgs, to_json};
use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output;
use engine::stats::stats;

/// Show sizes: of what would be restored, and of what is stored
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Count only these snapshots for the restored size
    snapshots: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let repo = context.open_to_read()?.repo;
    let filter = args.filter.filter();
    let mut all = repo.snapshots(context.console.monitor())?;
    if args.snapshots.is_empty() {
        all.retain(|listed| filter.fits(&listed.snapshot));
    } else {
        let mut chosen = vec![];
        for wanted in &args.snapshots {
            chosen.push(engine::snapshot::find(&all, wanted, &filter)?.clone());
        }
        all = chosen;
    }
    let stats = context.console.during(|monitor| stats(&repo, &all, monitor))?;
    if context.global.json {
        output::json_line(&to_json(&stats)?);
    } else {
        let bytes = output::bytes;
        output::line(format!("snapshots:     {}", stats.snapshots_count));
        output::line(format!(
            "restored size: {} in {} entries",
            bytes(stats.total_restore_size),
            stats.total_file_count
        ));
        output::line(format!(
            "deduplicated:  {} in {} chunks ({:.2}x)",
            bytes(stats.total_uncompressed_size),
            stats.total_blob_count,
            stats.deduplication_ratio
        ));
        output::line(format!(
            "deltas:        {} of them in {} chunks, stored in {}",
            bytes(stats.delta_uncompressed_size),
            stats.delta_blob_count,
            bytes(stats.delta_size)
        ));
        output::line(format!(
            "stored:        {} in {} packs ({:.2}x)",
            bytes(stats.total_size),
            stats.packs,
            stats.compression_ratio
        ));
        output::line(format!("index:         {} segments", stats.segments));
    }
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
}
