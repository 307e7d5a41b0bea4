//! `esker restore --to qdrant+http://…`: collections into a running Qdrant.

use super::When;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::{output, sources};
use engine::qdrant::Qdrant;
use engine::restore::qdrant::{self, Plan, QdrantOptions};
use engine::snapshot::{Listed, split_path};
use serde_json::json;

/// Options that mean nothing here.
fn refuse_others(args: &super::Args) -> Result<(), Failure> {
    let live = &args.live;
    let others = [
        ("--whole", live.whole),
        ("--skip-existing", live.skip_existing),
        ("--map-prefix", !live.map_prefix.is_empty()),
        ("--db", live.db.is_some()),
        ("--keys-from", live.keys_from.is_some()),
        ("--base-only", live.base_only),
        ("--database", !live.database.is_empty()),
        ("--table", !live.table.is_empty()),
        ("--time", args.time.is_some()),
        ("--overwrite", !matches!(args.overwrite, When::Always)),
        ("--delete", args.delete),
        ("--sparse", args.sparse),
        ("--verify", args.verify),
        ("--no-owner", args.no_owner),
    ];
    match others.iter().find(|(_, given)| *given) {
        Some((name, _)) => Err(Failure::new(format!(
            "{name} is not for Qdrant, which takes --include, --exclude, --rename, --replace, --priority, \
             --allow-missing-shards and --dry-run"
        ))),
        None => Ok(()),
    }
}

/// Collections into Qdrant.
pub(super) fn run(args: &super::Args, context: &Context) -> CommandResult {
    refuse_others(args)?;
    let live = &args.live;
    let text = live.to.as_deref().unwrap_or_default();
    let url = url::Url::parse(text).map_err(|error| Failure::new(format!("--to: {error}")))?;
    let server = Qdrant::new(&url, &sources::url_options(context)?)?;
    let (wanted, path) = split_path(&args.snapshot);
    let (opened, found) = context.open_snapshot(wanted, &args.filter.filter())?;
    let wait = args.wait_thaw.then_some(super::THAW_PAUSE);
    super::super::thaw::need_thawed(&opened, &found, path.as_bytes(), wait, context)?;
    let renames = live.rename.iter().map(|pair| {
        let (from, to) =
            pair.split_once('=').ok_or_else(|| Failure::new(format!("--rename '{pair}' is not OLD=NEW")))?;
        Ok((from.to_owned(), to.to_owned()))
    });
    let options = QdrantOptions {
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        renames: renames.collect::<Result<_, Failure>>()?,
        replace: live.replace,
        allow_missing_shards: live.allow_missing_shards,
        priority: live.priority.clone().unwrap_or_else(|| "snapshot".into()),
    };
    let (repo, snapshot) = (&opened.repo, &found.snapshot);
    let plan =
        context.console.during(|monitor| qdrant::plan(repo, snapshot, path, &server, &options, monitor))?;
    if args.dry_run {
        show(&plan, &found, &server, context);
        return Ok(Code::Done);
    }
    let report =
        context.console.during(|monitor| qdrant::apply(&plan, repo, snapshot, &server, &options, monitor))?;
    if context.global.json {
        output::json_line(&json!({
            "message_type": "summary",
            "snapshot_id": found.id,
            "seconds_elapsed": context.console.seconds(),
            "collections": report.collections,
            "points_before": report.points_before,
            "shards_restored": report.shards,
            "bytes_restored": report.bytes,
            "dry_run": false,
        }));
    } else {
        for (name, points) in &report.collections {
            let before = report.points_before.get(name).filter(|before| *before != points);
            let before = before.map(|before| format!(" ({before} just before it was backed up)"));
            context
                .console
                .say(format!("collection '{name}': {points} points{}", before.unwrap_or_default()));
        }
        let bytes = output::bytes(report.bytes);
        context.console.say(format!(
            "restored {} shards, {bytes} in {:.1} s",
            report.shards,
            context.console.seconds()
        ));
    }
    Ok(if context.console.error_count() == 0 { Code::Done } else { Code::Incomplete })
}

/// Prints what would be done.
fn show(plan: &Plan, found: &Listed, server: &Qdrant, context: &Context) {
    if context.global.json {
        output::json_line(&json!({
            "message_type": "summary",
            "snapshot_id": found.id,
            "seconds_elapsed": context.console.seconds(),
            "plan": plan.lines(),
            "dry_run": true,
        }));
        return;
    }
    context.console.say(format!("would do on {}:", server.shown));
    for line in plan.lines() {
        context.console.say(format!("  {line}"));
    }
}
