//! `esker tag`: what people say about snapshots, their tags and whether they are to stay.

use super::replaced::Replaced;
use super::{FilterArgs, split_tags};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use crate::units::counted;
use chunkstore::ObjectId;
use engine::snapshot::{Hold, Listed, Snapshot};
use engine::{Error, Repository};
use serde_json::json;

/// Change the tags of snapshots, or hold them
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Snapshots to change [default: all that match the filter]
    snapshots: Vec<String>,
    /// Replace all tags with these
    #[arg(long, value_name = "TAGS", conflicts_with_all = ["add", "remove"], value_parser = crate::words::kept())]
    set: Vec<String>,
    /// Add these
    #[arg(long, value_name = "TAGS", value_parser = crate::words::kept())]
    add: Vec<String>,
    /// Remove these
    #[arg(long, value_name = "TAGS", value_parser = crate::words::kept())]
    remove: Vec<String>,
    /// Hold the snapshots: no rule of forget, no promise and no run removes them; 'esker forget ID' does
    #[arg(long, conflicts_with = "release")]
    hold: bool,
    /// Release the snapshots: rules and promises apply to them, even if they were made by hand or with
    /// --keep-until
    #[arg(long)]
    release: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let list = |sets: &[String]| -> Vec<String> {
        sets.iter().flat_map(|tags| split_tags(tags)).filter(|tag| !tag.is_empty()).collect()
    };
    let (set, add, remove) = (list(&args.set), list(&args.add), list(&args.remove));
    let holds = args.hold || args.release;
    if args.set.is_empty() && add.is_empty() && remove.is_empty() && !holds {
        return Err(Failure::usage("nothing to do: give --set, --add, --remove, --hold or --release"));
    }
    let repo = context.open()?;
    let chosen = args.filter.choose(&repo, &args.snapshots, context.console.monitor())?;
    let mut changed = 0u64;
    let changed_record = |of: &Listed| {
        let mut snapshot = of.snapshot.clone();
        if !args.set.is_empty() {
            snapshot.tags.clone_from(&set);
        }
        snapshot.tags.retain(|tag| !remove.contains(tag));
        for tag in &add {
            if !snapshot.tags.contains(tag) {
                snapshot.tags.push(tag.clone());
            }
        }
        if args.hold {
            snapshot.hold = Hold::Held;
        }
        if args.release {
            (snapshot.hold, snapshot.keep_until) = (Hold::Released, None);
        }
        (snapshot != of.snapshot)
            .then(|| Snapshot { original: snapshot.original.or(Some(of.id)), ..snapshot })
    };
    for listed in &chosen {
        let Some((old, new)) = change(&repo, listed, &changed_record, context)? else { continue };
        changed += 1;
        if context.global.json {
            output::json_line(
                &json!({"message_type": "changed", "old_snapshot_id": old, "new_snapshot_id": new}),
            );
        } else {
            context.console.say(format!("snapshot {} is now {}", old.short(), new.short()));
        }
    }
    context
        .console
        .result(format!("changed {}", counted(changed, "snapshot")), json!({"changed_snapshots": changed}));
    Ok(Code::Done)
}

/// Replaces the record of a snapshot, or of what took its place meanwhile. Returns the old id and the new one, or `None` if
/// nothing is to be changed.
fn change(
    repo: &Repository,
    listed: &Listed,
    changed: &dyn Fn(&Listed) -> Option<Snapshot>,
    context: &Context,
) -> Result<Option<(ObjectId, ObjectId)>, Failure> {
    let mut old = listed.clone();
    let mut replaced = Replaced::new(repo, context);
    loop {
        let Some(snapshot) = changed(&old) else { return Ok(None) };
        match repo.replace_snapshot(&old, &snapshot) {
            Err(Error::Store(error @ chunkstore::Error::Gone { .. })) => {
                old = replaced.now(&old)?.ok_or(Error::Store(error))?;
            }
            root => return Ok(Some((old.id, root?.id))),
        }
    }
}
