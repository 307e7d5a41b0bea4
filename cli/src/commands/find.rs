//! `esker find`

use super::ls::node;
use super::{FilterArgs, show_time};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use engine::ItemError;
use engine::manifest::for_each_entry;
use engine::source::files::name_patterns;
use serde_json::{Value, json};

/// Find files in snapshots by name
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Patterns such as '*.sql' or 'etc/passwd'
    #[arg(required = true)]
    patterns: Vec<String>,
    /// Ignore case
    #[arg(short, long)]
    ignore_case: bool,
    /// Only in these snapshots
    #[arg(short, long, value_name = "SNAPSHOT")]
    snapshot: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let repo = context.open_to_read()?.repo;
    let monitor = context.console.monitor();
    let filter = args.filter.filter();
    let mut all = repo.snapshots(monitor)?;
    if args.snapshot.is_empty() {
        all.retain(|listed| filter.fits(&listed.snapshot));
    } else {
        let mut chosen = vec![];
        for wanted in &args.snapshot {
            chosen.push(engine::snapshot::find(&all, wanted, &filter)?.clone());
        }
        all = chosen;
    }
    repo.sync_index(monitor)?;
    let patterns =
        name_patterns(&args.patterns, args.ignore_case).map_err(|error| Failure::new(error.to_string()))?;
    let mut result = vec![];
    for listed in &all {
        let mut matches = vec![];
        for_each_entry(
            repo.store(),
            &listed.snapshot.manifest,
            &mut |damage| {
                monitor.error(ItemError {
                    during: "find",
                    item: format!("snapshot {}: entries after {}", listed.id.short(), damage.after),
                    message: chunkstore::store::describe(&damage.error),
                });
            },
            &mut |found| {
                if patterns(&found.entry.path, found.entry.kind == engine::entry::Kind::Dir) {
                    matches.push(found);
                }
                Ok(())
            },
        )?;
        if matches.is_empty() {
            continue;
        }
        if context.global.json {
            let nodes: Vec<Value> = matches.iter().map(node).collect();
            result.push(json!({"matches": nodes, "hits": matches.len(), "snapshot": listed.id}));
        } else {
            output::line(format!("snapshot {} of {}", listed.id.short(), show_time(listed.snapshot.time)));
            matches.iter().for_each(|found| output::line(found.entry.display_path()));
        }
    }
    if context.global.json {
        output::json_line(&Value::Array(result));
    }
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
}
