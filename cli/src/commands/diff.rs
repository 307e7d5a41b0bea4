//! `esker diff`

use super::FilterArgs;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::{output, sources};
use engine::connector::contents::Change as MemberChange;
use engine::connector::{Contents, Origin};
use engine::diff::{Change, diff};
use engine::entry::{self, Kind};
use engine::inside::Inside;
use engine::names::path_text;
use engine::snapshot::split_path;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Show what changed between two snapshots
///
/// Letters: + added, - removed, M content changed, U metadata changed, T another kind of file. What lies in
/// dumps that differ (keys, tables, collections) is counted; -v lists it.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// First snapshot, with :path for a part of it; printed paths are relative to that part
    #[arg(value_parser = crate::words::path())]
    first: String,
    /// Second snapshot
    #[arg(value_parser = crate::words::path())]
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
        let found = repo.find(wanted, &FilterArgs::default().filter(), monitor)?;
        let inside = Inside::new(path).resolve(&repo, &found.snapshot)?;
        Ok((found, inside))
    };
    let (first, second) = (side(&args.first)?, side(&args.second)?);
    let (mut dumps, mut alone) = (BTreeMap::new(), BTreeSet::new());
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
            let path = path_text(&entry.path);
            if change != Change::Metadata {
                let below = |inside: &Inside| path_text(inside.join(&path).path());
                let (old, new) = (below(&first.1), below(&second.1));
                let from = Origin { repo: &repo, snapshot: &first.0, below: &old };
                let to = Origin { repo: &repo, snapshot: &second.0, below: &new };
                if let Some((contents, from)) = super::dump_of(from)
                    && let Some((_, to)) = super::dump_of(to)
                {
                    dumps.insert((from, to), contents);
                }
                if matches!(change, Change::Added | Change::Removed) {
                    alone.extend([old, new]);
                }
            }
            let slash: &[u8] = if entry.kind == Kind::Dir { b"/" } else { b"" };
            tell(change.letter(), &[&entry.path, slash].concat(), context);
        },
    )?;
    for ((old, new), contents) in dumps {
        let from = Origin { repo: &repo, snapshot: &first.0, below: &old };
        let to = Origin { repo: &repo, snapshot: &second.0, below: &new };
        // One that is in one snapshot only has nothing to be compared with.
        if !alone.contains(&old) && !alone.contains(&new) {
            members(contents, from, to, context)?;
        }
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

/// Prints a change of what lies at a path.
fn tell(letter: &str, path: &[u8], context: &Context) {
    if context.global.json {
        let value = json!({"message_type": "change", "modifier": letter});
        output::json_line(&output::with_names(value, &[("path", &entry::rooted(path))]));
    } else {
        output::line(format!("{letter}    {}", entry::display_path(path)));
    }
}

/// Counts the members of a dump that differ; with -v they are listed.
fn members(
    contents: &dyn Contents,
    first: Origin<'_>,
    second: Origin<'_>,
    context: &Context,
) -> Result<(), Failure> {
    let scratch = sources::url_options(context)?.scratch;
    let (mut added, mut removed, mut changed) = (0u64, 0u64, 0u64);
    contents.compare(first, second, &scratch, &mut |change, name| {
        let (count, letter) = match change {
            MemberChange::Added => (&mut added, "+"),
            MemberChange::Removed => (&mut removed, "-"),
            MemberChange::Changed => (&mut changed, "M"),
        };
        *count += 1;
        if context.global.verbose > 0 {
            tell(letter, name, context);
        }
        Ok(())
    })?;
    let (noun, path) = (format!("{}s", contents.noun()), engine::names::path_bytes(first.below));
    if context.global.json {
        let value = json!({"message_type": noun, "added": added, "removed": removed, "changed": changed});
        output::json_line(&output::with_names(value, &[("path", &entry::rooted(&path))]));
    } else {
        output::line(format!(
            "     {noun} of {}: {added} added, {removed} removed, {changed} changed",
            entry::display_path(&path)
        ));
    }
    Ok(())
}
