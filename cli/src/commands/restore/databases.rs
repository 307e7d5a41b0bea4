//! `esker restore --to postgres://…`: databases and tables into a running server.

use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::{output, sources};
use engine::pg::Server;
use engine::restore::postgres::{PostgresOptions, restore};
use engine::snapshot::split_path;
use serde_json::json;

/// What a database server's restore has no use for.
fn refuse_others(args: &super::Args) -> Result<(), Failure> {
    let live = &args.live;
    let others = live.whole || live.skip_existing || !live.map_prefix.is_empty() || !args.include.is_empty();
    if others || !args.exclude.is_empty() {
        return Err(Failure::new(
            "of a database server, --database, --table, --replace and --no-owner can be chosen",
        ));
    }
    Ok(())
}

/// Into PostgreSQL.
pub(super) fn postgres(args: &super::Args, context: &Context) -> CommandResult {
    refuse_others(args)?;
    if args.live.time.is_some() {
        return Err(Failure::new(
            "a moment of PostgreSQL is restored as a data directory: --target DIR --time TIME",
        ));
    }
    let text = args.live.to.as_deref().unwrap_or_default();
    let url = url::Url::parse(text).map_err(|error| Failure::new(format!("--to: {error}")))?;
    let sources = sources::url_options(context)?;
    let server = Server::new(&url, &sources)?;
    let (wanted, path) = split_path(&args.snapshot);
    let (opened, found) = context.open_snapshot(wanted, &args.filter.filter())?;
    let options = PostgresOptions {
        databases: args.live.database.clone(),
        tables: args.live.table.clone(),
        replace: args.live.replace,
        no_owner: args.no_owner,
        dry_run: args.dry_run,
        path: sources.environment.get("PATH").cloned(),
    };
    let report = context
        .console
        .during(|monitor| restore(&opened.repo, &found.snapshot, path, &server, &options, monitor))?;
    let seconds = context.console.seconds();
    let bytes: u64 = report.databases.values().sum();
    if context.global.json {
        output::json_line(&json!({
            "message_type": "summary",
            "snapshot_id": found.id,
            "seconds_elapsed": seconds,
            "databases": report.databases,
            "tables_restored": report.tables,
            "bytes_restored": bytes,
            "globals_existing": report.globals_existing,
            "dry_run": args.dry_run,
        }));
    } else {
        let verb = if args.dry_run { "would restore" } else { "restored" };
        for (name, bytes) in &report.databases {
            context.console.say(format!("{verb} database '{name}', {}", output::bytes(*bytes)));
        }
        if !args.dry_run {
            let bytes = output::bytes(bytes);
            context.console.say(format!("{} tables, {bytes} in {seconds:.1} s", report.tables));
        }
    }
    Ok(if context.console.error_count() == 0 { Code::Done } else { Code::Incomplete })
}
