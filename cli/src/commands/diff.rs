//! `esker diff`

use super::FilterArgs;
use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output;
use engine::diff::{Change, diff};
use engine::entry::Kind;
use engine::snapshot::split_path;
use serde_json::json;

/// Show what changed between two snapshots
///
/// + added, - removed, M content changed, U metadata changed, T another kind of file.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// First snapshot, with :path for a part of it
    first: String,
    /// Second snapshot
    second: String,
    /// Show changes of metadata, too
    #[arg(long)]
    metadata: bool,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let repo = context.open_to_read()?.repo;
    let monitor = context.console.monitor();
    repo.sync_index(monitor)?;
    let side = |text: &str| -> Result<_, engine::Error> {
        let (wanted, path) = split_path(text);
        Ok((repo.find(wanted, &FilterArgs::default().filter(), monitor)?, path.as_bytes().to_vec()))
    };
    let (first, second) = (side(&args.first)?, side(&args.second)?);
    let (mut changed, mut added, mut removed) = (0u64, (0u64, 0u64), (0u64, 0u64));
    diff(
        &repo,
        (&first.0.snapshot.manifest, &first.1),
        (&second.0.snapshot.manifest, &second.1),
        args.metadata,
        &mut |change, entry, size| {
            match change {
                Change::Added => added = (added.0 + 1, added.1 + size),
                Change::Removed => removed = (removed.0 + 1, removed.1 + size),
                _ => changed += 1,
            }
            let slash = if entry.kind == Kind::Dir { "/" } else { "" };
            let path = format!("{}{slash}", entry.display_path());
            if context.global.json {
                output::json_line(
                    &json!({"message_type": "change", "path": path, "modifier": change.letter()}),
                );
            } else {
                output::line(format!("{}    {path}", change.letter()));
            }
        },
    )?;
    if context.global.json {
        output::json_line(&json!({
            "message_type": "statistics",
            "source_snapshot": first.0.id,
            "target_snapshot": second.0.id,
            "changed_files": changed,
            "added": {"files": added.0, "bytes": added.1},
            "removed": {"files": removed.0, "bytes": removed.1},
        }));
    } else {
        context.console.say(format!(
            "{changed} changed, {} added ({}), {} removed ({})",
            added.0,
            output::bytes(added.1),
            removed.0,
            output::bytes(removed.1)
        ));
    }
    Ok(Code::Done)
}
