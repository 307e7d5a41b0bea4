//! `esker restore --to postgres://…`: databases and tables into a running server.

use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::{output, sources};
use engine::journal::replay;
use engine::mysql::Server as MysqlServer;
use engine::pg::Server;
use engine::restore::mysql::{self, MysqlOptions};
use engine::restore::physical::{self, PrepareOptions};
use engine::restore::postgres::{PostgresOptions, restore};
use engine::snapshot::{Listed, split_path};
use serde_json::json;
use std::collections::BTreeMap;

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

/// A data directory of PostgreSQL, from a physical backup and the WAL after it.
pub(super) fn prepare(args: &super::Args, context: &Context) -> CommandResult {
    let (wanted, path) = split_path(&args.snapshot);
    let (opened, mut found) = context.open_snapshot(wanted, &args.filter.filter())?;
    let repo = &opened.repo;
    let wait = args.wait_thaw.then_some(super::THAW_PAUSE);
    if wanted == "latest" {
        let filter = args.filter.filter();
        let below = format!("/{}", path.trim_matches('/'));
        let all = repo.snapshots(context.console.monitor())?;
        let mut fitting = all.into_iter().rev().filter(|listed| {
            physical::is_physical(&listed.snapshot)
                && filter.fits(&listed.snapshot)
                && listed.snapshot.paths.iter().any(|own| own.starts_with(&below))
        });
        // The last base before the moment.
        let is_before = |listed: &Listed| match (args.time, physical::span(&listed.snapshot)) {
            (Some(time), Some((from, _))) => i128::from(from) <= i128::from(time.as_millisecond()),
            (Some(_), None) => false,
            (None, _) => true,
        };
        let none = || match args.time {
            Some(time) => {
                Failure::new(format!("no stream of PostgreSQL goes back to {time}; 'esker stream' makes one"))
            }
            None => Failure::new("there is no physical backup of PostgreSQL here"),
        };
        found = fitting.find(is_before).ok_or_else(none)?;
    }
    if let Some(time) = args.time {
        let now_ms = i128::from(time.as_millisecond());
        match physical::span(&found.snapshot) {
            Some((from, until)) if (i128::from(from)..=i128::from(until)).contains(&now_ms) => {}
            Some((from, until)) => {
                return Err(Failure::new(format!(
                    "the stream goes from {} to {}, {time} is not in it",
                    replay::shown(from),
                    replay::shown(until)
                )));
            }
            None => {
                return Err(Failure::new(
                    "this snapshot has no WAL after its backup; 'esker stream' keeps it",
                ));
            }
        }
    }
    super::super::thaw::need_thawed(&opened, &found, path.as_bytes(), wait, context)?;
    let target = args.target.clone().unwrap_or_default();
    let options = PrepareOptions {
        target: target.clone(),
        time: args.time,
        path: sources::url_options(context)?.environment.get("PATH").cloned(),
    };
    let report =
        context.console.during(|monitor| physical::prepare(repo, &found.snapshot, &options, monitor))?;
    let seconds = context.console.seconds();
    if context.global.json {
        output::json_line(&json!({
            "message_type": "summary",
            "snapshot_id": found.id,
            "seconds_elapsed": seconds,
            "backups": report.backups,
            "wal_segments": report.segments,
            "bytes_restored": report.bytes,
            "recovers_to": args.time.filter(|_| report.stops),
        }));
    } else {
        let bytes = output::bytes(report.bytes);
        context.console.say(format!(
            "{} is a data directory of {} backups and {} segments of WAL, {bytes} in {seconds:.1} s",
            target.display(),
            report.backups,
            report.segments
        ));
        context.console.say(match (args.time, report.stops) {
            (Some(time), true) => {
                format!("start a server on it: it recovers to {time} and goes on from there")
            }
            (Some(_), false) => {
                "start a server on it: it recovers all WAL; nothing ended after the moment".into()
            }
            (None, _) => "start a server on it: it recovers to the end of what is there".into(),
        });
    }
    Ok(Code::Done)
}

/// Into PostgreSQL.
pub(super) fn postgres(args: &super::Args, context: &Context) -> CommandResult {
    refuse_others(args)?;
    if args.time.is_some() {
        return Err(Failure::new(
            "a moment of PostgreSQL is restored as a data directory: --target DIR --time TIME",
        ));
    }
    let text = args.live.to.as_deref().unwrap_or_default();
    let sources = sources::url_options(context)?;
    let server = Server::parse(text, &sources)?;
    let (wanted, path) = split_path(&args.snapshot);
    let (opened, found) = context.open_snapshot(wanted, &args.filter.filter())?;
    let options = PostgresOptions {
        databases: args.live.database.clone(),
        tables: args.live.table.clone(),
        replace: args.live.replace,
        no_owner: args.no_owner,
        no_tablespaces: args.live.no_tablespaces,
        tablespace_map: spaces(&args.live.tablespace_map)?,
        dry_run: args.dry_run,
        path: sources.environment.get("PATH").cloned(),
    };
    let report = context
        .console
        .during(|monitor| restore(&opened.repo, &found.snapshot, path, &server, &options, monitor))?;
    let more = json!({
        "tables_restored": report.tables,
        "globals_existing": report.globals_existing,
        "notes": report.notes,
    });
    let line = format!("{} tables", report.tables);
    let code = tell(args, context, &found, &report.databases, &more, &line);
    if !context.global.json {
        report.notes.iter().for_each(|note| context.console.say(format!("note: {note}")));
    }
    Ok(code)
}

/// Tablespaces, and those in their place.
fn spaces(list: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut map = BTreeMap::new();
    for pair in list {
        let wrong = || Failure::new(format!("--tablespace-map '{pair}' is not OLD=NEW"));
        let (old, new) =
            pair.split_once('=').filter(|(old, new)| !old.is_empty() && !new.is_empty()).ok_or_else(wrong)?;
        if map.insert(old.to_owned(), new.to_owned()).is_some() {
            return Err(Failure::new(format!("--tablespace-map names '{old}' twice")));
        }
    }
    Ok(map)
}

/// Into MariaDB or MySQL.
pub(super) fn mysql(args: &super::Args, context: &Context) -> CommandResult {
    refuse_others(args)?;
    let text = args.live.to.as_deref().unwrap_or_default();
    let url = url::Url::parse(text).map_err(|error| Failure::new(format!("--to: {error}")))?;
    let server = MysqlServer::new(&url, &sources::url_options(context)?)?;
    let (wanted, path) = split_path(&args.snapshot);
    let (opened, mut found) = context.open_snapshot(wanted, &args.filter.filter())?;
    if let Some(time) = args.time {
        let filter = args.filter.filter();
        if wanted == "latest" {
            let all = opened.repo.snapshots(context.console.monitor())?;
            let is_before = |listed: &Listed| {
                filter.fits(&listed.snapshot)
                    && mysql::span(&listed.snapshot)
                        .is_some_and(|(from, _)| i128::from(from) <= i128::from(time.as_millisecond()))
            };
            found = all.into_iter().rev().find(is_before).ok_or_else(|| {
                Failure::new(format!("no stream of MariaDB goes back to {time}; 'esker stream' makes one"))
            })?;
        }
        let (from, until) = mysql::span(&found.snapshot)
            .ok_or_else(|| Failure::new("this snapshot has no binary log; 'esker stream' keeps it"))?;
        if !(i128::from(from)..=i128::from(until)).contains(&i128::from(time.as_millisecond())) {
            return Err(Failure::new(format!(
                "the stream goes from {} to {}, {time} is not in it",
                replay::shown(from),
                replay::shown(until)
            )));
        }
    }
    let options = MysqlOptions {
        databases: args.live.database.clone(),
        tables: args.live.table.clone(),
        replace: args.live.replace,
        time: args.time,
        dry_run: args.dry_run,
    };
    let report = context
        .console
        .during(|monitor| mysql::restore(&opened.repo, &found.snapshot, path, &server, &options, monitor))?;
    let more = json!({"tables_restored": report.tables, "logs_replayed": report.logs});
    let line = match (report.logs, report.tables) {
        (0, 0) => format!("{} databases", report.databases.len()),
        (0, tables) => format!("{tables} tables"),
        (logs, _) => format!("{logs} files of the binary log replayed"),
    };
    Ok(tell(args, context, &found, &report.databases, &more, &line))
}

/// What was restored, or would be: databases and their bytes, and `more` of it, for people as `line`.
fn tell(
    args: &super::Args,
    context: &Context,
    found: &Listed,
    databases: &BTreeMap<String, u64>,
    more: &serde_json::Value,
    line: &str,
) -> Code {
    let (seconds, bytes) = (context.console.seconds(), databases.values().sum::<u64>());
    if context.global.json {
        let mut summary = json!({
            "message_type": "summary",
            "snapshot_id": found.id,
            "seconds_elapsed": seconds,
            "databases": databases,
            "bytes_restored": bytes,
            "dry_run": args.dry_run,
        });
        if let (Some(summary), Some(more)) = (summary.as_object_mut(), more.as_object()) {
            summary.extend(more.clone());
        }
        output::json_line(&summary);
    } else {
        let verb = if args.dry_run { "would restore" } else { "restored" };
        for (name, bytes) in databases {
            context.console.say(format!("{verb} database '{name}', {}", output::bytes(*bytes)));
        }
        if !args.dry_run {
            context.console.say(format!("{line}, {} in {seconds:.1} s", output::bytes(bytes)));
        }
    }
    if context.console.error_count() == 0 { Code::Done } else { Code::Incomplete }
}
