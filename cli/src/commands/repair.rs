//! `esker repair`

use super::to_json;
use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output;
use engine::repair::repair_index;
use serde_json::json;

/// Make damaged parts anew from what is there; nothing readable is removed
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Make the index anew from the packs' own directories, and drop the local cache
    Index {
        /// Read all packs, not only those that no readable segment lists
        #[arg(long)]
        read_all_packs: bool,
        /// Only say what would be done
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let What::Index { read_all_packs, dry_run } = args.what;
    let repo = context.open()?;
    if !dry_run && let Some(cache) = context.global.cache() {
        chunkstore::index::rocks::RocksIndex::clear(
            &cache.join(repo.store().config().repository_id.to_string()),
        )?;
    }
    let report = context.console.during(|monitor| repair_index(&repo, read_all_packs, dry_run, monitor))?;
    if context.global.json {
        let mut value = to_json(&report)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("message_type".into(), json!("summary"));
            object.insert("dry_run".into(), json!(dry_run));
        }
        output::json_line(&value);
    } else {
        let verb = if dry_run { "would list" } else { "listed" };
        context.console.say(format!(
            "{} segments are fine, {} are not; {verb} {} chunks of {} packs anew; {} packs cannot be read; {} \
             stay listed as they were",
            report.segments_kept,
            report.segments_lost,
            report.chunks_found,
            report.packs_read,
            report.packs_damaged,
            report.packs_kept
        ));
    }
    Ok(if report.packs_damaged > 0 { Code::Failed } else { Code::Done })
}
