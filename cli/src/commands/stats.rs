//! `esker stats`

use super::{FilterArgs, to_json};
use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output;
use crate::units::counted;
use engine::snapshot::Listed;
use engine::stats::{modes, stats};

/// Show sizes: of what would be restored, and of what is stored
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Count only these snapshots for the restored size
    snapshots: Vec<String>,
    /// Count in one of restic's ways, and nothing else
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<Mode>,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Mode {
    /// What a restore of each snapshot would write, hard links once
    RestoreSize,
    /// Files of different content, each once
    FilesByContents,
    /// Chunks of files, each counted once per path
    BlobsPerFile,
    /// Stored data that these snapshots need
    RawData,
}

/// Progress would stand before the one document that clients of `--json` read.
fn quietly<T>(context: &Context, work: impl FnOnce(&dyn engine::Monitor) -> T) -> T {
    match context.global.json {
        true => work(context.console.monitor()),
        false => context.console.during("count", work),
    }
}

/// Prints what is counted in one of restic's ways.
fn by_mode(mode: Mode, repo: &engine::Repository, all: &[Listed], context: &Context) -> CommandResult {
    let counting = match mode {
        Mode::RestoreSize => modes::Mode::RestoreSize,
        Mode::FilesByContents => modes::Mode::FilesByContents,
        Mode::BlobsPerFile => modes::Mode::BlobsPerFile,
        Mode::RawData => modes::Mode::RawData,
    };
    let counted = quietly(context, |monitor| modes::count(repo, all, counting, monitor))?;
    if context.global.json {
        output::json_line(&to_json(&counted)?);
    } else {
        output::line(format!("Snapshots processed:  {}", counted.snapshots_count));
        if counted.total_blob_count > 0 {
            output::line(format!("   Total Blob Count:  {}", counted.total_blob_count));
        }
        if !matches!(mode, Mode::RawData) {
            output::line(format!("   Total File Count:  {}", counted.total_file_count));
        }
        if counted.total_uncompressed_size > 0 {
            output::line(format!(
                " Total Uncompressed Size:  {}",
                output::bytes(counted.total_uncompressed_size)
            ));
        }
        if let Some(ratio) = counted.compression_ratio {
            output::line(format!("      Compression Ratio:  {ratio:.2}x"));
        }
        output::line(format!("         Total Size:  {}", output::bytes(counted.total_size)));
    }
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let repo = context.open_to_read()?.repo;
    let all = args.filter.choose(&repo, &args.snapshots, context.console.monitor())?;
    if let Some(mode) = args.mode {
        return by_mode(mode, &repo, &all, context);
    }
    let stats = quietly(context, |monitor| stats(&repo, &all, monitor))?;
    if context.global.json {
        let mut value = to_json(&stats)?;
        if let Some(object) = value.as_object_mut() {
            // restic's `total_size` is that of its default mode, of hard links once.
            let monitor = context.console.monitor();
            let counted = modes::count(&repo, &all, modes::Mode::RestoreSize, monitor)?;
            object.insert("total_size".into(), counted.total_size.into());
        }
        output::json_line(&value);
    } else {
        let bytes = output::bytes;
        output::line(format!("snapshots:     {}", stats.snapshots_count));
        output::line(format!(
            "restored size: {} in {} {}",
            bytes(stats.total_restore_size),
            stats.total_file_count,
            if stats.total_file_count == 1 { "entry" } else { "entries" }
        ));
        output::line(format!(
            "deduplicated:  {} in {} ({:.2}x)",
            bytes(stats.total_uncompressed_size),
            counted(stats.total_blob_count, "chunk"),
            stats.deduplication_ratio
        ));
        output::line(format!(
            "deltas:        {} of them in {}, stored in {}",
            bytes(stats.delta_uncompressed_size),
            counted(stats.delta_blob_count, "chunk"),
            bytes(stats.delta_size)
        ));
        output::line(format!(
            "stored:        {} in {} ({:.2}x)",
            bytes(stats.stored_size),
            counted(stats.packs, "pack"),
            stats.compression_ratio
        ));
        output::line(format!("index:         {}", counted(stats.segments, "segment")));
    }
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
}
