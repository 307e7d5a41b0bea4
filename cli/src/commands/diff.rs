//! `esker diff`

use super::FilterArgs;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::{output, sources};
use engine::Repository;
use engine::diff::{Change, diff};
use engine::entry::{self, Entry, Kind};
use engine::keyspace::compare::{KeyChange, compare};
use engine::keyspace::{Selection, find, one};
use engine::snapshot::{Listed, split_path};
use serde_json::json;

/// Show what changed between two snapshots
///
/// Letters: + added, - removed, M content changed, U metadata changed, T another kind of file. The keys of Redis
/// dumps that differ are counted; -v lists them.
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
    let mut dumps = vec![];
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
            if change == Change::Modified && is_dump(entry) {
                dumps.push(entry.path.clone());
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
    for path in dumps {
        keys(&repo, &first.0, &second.0, &path, context)?;
    }
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

/// Whether an entry is a Redis dump, whose keys can be told apart.
fn is_dump(entry: &Entry) -> bool {
    entry.path.starts_with(b"redis/") && entry.path.ends_with(b".rdb")
}

/// Counts the keys of a dump that differ; with -v they are listed.
fn keys(
    repo: &Repository,
    first: &Listed,
    second: &Listed,
    path: &[u8],
    context: &Context,
) -> Result<(), Failure> {
    let scratch = sources::url_options(context)?.scratch;
    let side = |listed: &Listed| one(find(repo, &listed.snapshot, path)?);
    let (a, b) = (side(first)?, side(second)?);
    let all = Selection::default();
    let (mut old, mut new) = (a.in_order(repo, &all, &scratch)?, b.in_order(repo, &all, &scratch)?);
    let (mut added, mut removed, mut changed) = (0u64, 0u64, 0u64);
    compare(&mut *old, &mut *new, 0, &mut |change, key| {
        match change {
            KeyChange::Added => added += 1,
            KeyChange::Removed => removed += 1,
            KeyChange::Changed => changed += 1,
        }
        if context.global.verbose > 0 {
            let path =
                format!("/redis/{}/{}/{}", a.server(), key.database, String::from_utf8_lossy(&key.name));
            if context.global.json {
                output::json_line(
                    &json!({"message_type": "change", "path": path, "modifier": change.letter()}),
                );
            } else {
                output::line(format!("{}    {path}", change.letter()));
            }
        }
    })?;
    if context.global.json {
        output::json_line(&json!({
            "message_type": "keys",
            "path": entry::display_path(path),
            "added": added,
            "removed": removed,
            "changed": changed,
        }));
    } else {
        output::line(format!(
            "     keys of {}: {added} added, {removed} removed, {changed} changed",
            entry::display_path(path)
        ));
    }
    Ok(())
}
