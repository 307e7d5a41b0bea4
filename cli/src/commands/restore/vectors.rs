//! `esker restore --to qdrant+http://…`: collections into a running Qdrant.

use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::{output, sources};
use engine::qdrant::Qdrant;
use engine::restore::qdrant::{self, QdrantOptions};
use serde_json::json;

/// Collections into Qdrant.
pub(super) fn run(args: &super::Args, context: &Context) -> CommandResult {
    let live = &args.live;
    if live.whole || args.time.is_some() || live.skip_existing || args.dry_run || !live.map_prefix.is_empty()
    {
        return Err(Failure::new("of Qdrant, --include, --rename, --replace and --priority can be chosen"));
    }
    let text = live.to.as_deref().unwrap_or_default();
    let url = url::Url::parse(text).map_err(|error| Failure::new(format!("--to: {error}")))?;
    let server = Qdrant::new(&url, &sources::url_options(context)?)?;
    let (opened, found) = context.open_snapshot(&args.snapshot, &args.filter.filter())?;
    let mut collections = args.include.clone();
    collections.extend(server.collection.clone());
    let renames = live.rename.iter().map(|pair| {
        let (from, to) =
            pair.split_once('=').ok_or_else(|| Failure::new(format!("--rename '{pair}' is not OLD=NEW")))?;
        Ok((from.to_owned(), to.to_owned()))
    });
    let options = QdrantOptions {
        collections,
        renames: renames.collect::<Result<_, Failure>>()?,
        replace: live.replace,
        priority: live.priority.clone().unwrap_or_else(|| "snapshot".into()),
    };
    let report = context
        .console
        .during(|monitor| qdrant::restore(&opened.repo, &found.snapshot, &server, &options, monitor))?;
    if context.global.json {
        output::json_line(&json!({
            "message_type": "summary",
            "snapshot_id": found.id,
            "seconds_elapsed": context.console.seconds(),
            "collections": report.collections,
            "shards_restored": report.shards,
            "bytes_restored": report.bytes,
        }));
    } else {
        for (name, points) in &report.collections {
            context.console.say(format!("collection '{name}': {points} points"));
        }
        let bytes = output::bytes(report.bytes);
        context.console.say(format!(
            "restored {} shards, {bytes} in {:.1} s",
            report.shards,
            context.console.seconds()
        ));
    }
    Ok(Code::Done)
}
