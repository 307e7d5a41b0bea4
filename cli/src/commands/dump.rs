//! `esker dump`

use super::FilterArgs;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use engine::restore::dump;
use engine::snapshot::split_path;
use std::io::Write;

/// Write one file or stream of a snapshot to standard output
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Snapshot: id, latest, latest~N, or SNAPSHOT:path
    snapshot: String,
    /// Path of the file in the snapshot
    #[arg(value_name = "PATH")]
    file: Option<String>,
    /// Write to this file instead
    #[arg(short, long, value_name = "FILE")]
    target: Option<std::path::PathBuf>,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let (wanted, inner) = split_path(&args.snapshot);
    let path = match &args.file {
        Some(path) => path.trim_matches('/'),
        None => inner,
    };
    if path.is_empty() {
        return Err(Failure::new("which file? Give a path: esker dump latest /path/in/snapshot"));
    }
    let (opened, found) = context.open_snapshot(wanted, &args.filter.filter())?;
    super::thaw::need_thawed(&opened, &found, path.as_bytes(), None, context)?;
    let repo = &opened.repo;
    let mut out: Box<dyn Write> = match &args.target {
        Some(file) => Box::new(std::fs::File::create_new(file)?),
        // Unbuffered: chunks are large.
        None => {
            Box::new(std::fs::File::from(rustix::io::dup(std::io::stdout()).map_err(std::io::Error::from)?))
        }
    };
    // Progress would only disturb whoever reads the stream on a terminal.
    dump(repo, &found.snapshot, path.as_bytes(), &mut *out, context.console.monitor())?;
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
}
