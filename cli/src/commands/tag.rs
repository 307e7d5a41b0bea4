//! `esker tag`

use super::{FilterArgs, split_tags};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use serde_json::json;

/// Change the tags of snapshots
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Which snapshots; all that fit the filter if none is given
    snapshots: Vec<String>,
    /// Replace all tags by these
    #[arg(long, value_name = "TAGS", conflicts_with_all = ["add", "remove"])]
    set: Vec<String>,
    /// Add these
    #[arg(long, value_name = "TAGS")]
    add: Vec<String>,
    /// Remove these
    #[arg(long, value_name = "TAGS")]
    remove: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let list = |sets: &[String]| -> Vec<String> {
        sets.iter().flat_map(|tags| split_tags(tags)).filter(|tag| !tag.is_empty()).collect()
    };
    let (set, add, remove) = (list(&args.set), list(&args.add), list(&args.remove));
    if args.set.is_empty() && add.is_empty() && remove.is_empty() {
        return Err(Failure::new("nothing to do: give --set, --add or --remove"));
    }
    let repo = context.open()?;
    let all = repo.snapshots(context.console.monitor())?;
    let filter = args.filter.filter();
    let chosen = if args.snapshots.is_empty() {
        all.iter().filter(|listed| filter.fits(&listed.snapshot)).collect()
    } else {
        args.snapshots
            .iter()
            .map(|wanted| engine::snapshot::find(&all, wanted, &filter))
            .collect::<Result<Vec<_>, _>>()?
    };
    let mut changed = 0u64;
    for listed in chosen {
        let mut snapshot = listed.snapshot.clone();
        if !args.set.is_empty() {
            snapshot.tags.clone_from(&set);
        }
        snapshot.tags.retain(|tag| !remove.contains(tag));
        for tag in &add {
            if !snapshot.tags.contains(tag) {
                snapshot.tags.push(tag.clone());
            }
        }
        if snapshot.tags == listed.snapshot.tags {
            continue;
        }
        snapshot.original.get_or_insert(listed.id);
        let root = repo.replace_snapshot(listed, &snapshot)?;
        changed += 1;
        if context.global.json {
            output::json_line(
                &json!({"message_type": "changed", "old_snapshot_id": listed.id, "new_snapshot_id": root.id}),
            );
        } else {
            context.console.say(format!("snapshot {} is now {}", listed.id.short(), root.id.short()));
        }
    }
    if context.global.json {
        output::json_line(&json!({"message_type": "summary", "changed_snapshots": changed}));
    } else {
        context.console.say(format!("changed {changed} snapshots"));
    }
    Ok(Code::Done)
}
