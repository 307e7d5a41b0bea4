//! `esker stream`

use crate::config::hostname;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::{output, sources};
use engine::Repository;
use engine::backup::BackupOptions;
use engine::growing::{FollowOptions, Report, Standing};
use engine::journal::replay::shown;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Stay attached to a Redis, PostgreSQL or MariaDB and keep every moment of it
///
/// A base first, then what the server sends to its replicas: 'esker restore --time' brings any moment back. One snapshot for each base, tagged 'stream', which grows; only what is durable is acknowledged to the server.
/// Ends with ctrl-C, and goes on where it was.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The server: redis://user:password@host:port, postgres://user@host:port,
    /// mysql://user@host:port, or less
    url: String,
    /// A recovery point is at most so far behind
    #[arg(long, value_parser = parse_duration, default_value = "5s", value_name = "DURATION")]
    interval: Duration,
    /// Make a new base after so long
    #[arg(long, value_parser = parse_duration, default_value = "24h", value_name = "DURATION")]
    base_every: Duration,
    /// Tags for the snapshots, besides 'stream' (a,b or repeated)
    #[arg(long, value_name = "TAGS")]
    tag: Vec<String>,
    /// Host name for the snapshots, instead of this machine's
    #[arg(short = 'H', long, value_name = "HOST")]
    host: Option<String>,
    /// Write lag and offsets here after every commit, as Prometheus's textfile collector reads them
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Of PostgreSQL: the replication slot, which is made if there is none; else one of this host and repository
    #[arg(long, value_name = "NAME")]
    slot: Option<String>,
    /// Of PostgreSQL: drop the slot of a stream that will not be continued, so that the server keeps no WAL for it
    #[arg(long)]
    drop_slot: bool,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    let duration = Duration::try_from(span).map_err(|_| "a duration is not negative".to_owned())?;
    if duration < Duration::from_millis(200) { Err("shorter than 200ms".into()) } else { Ok(duration) }
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let is_postgres = engine::pg::conninfo::scheme(&args.url).is_some();
    if !is_postgres && (args.slot.is_some() || args.drop_slot) {
        return Err(Failure::new("--slot and --drop-slot are for postgres://"));
    }
    let sources = sources::url_options(context)?;
    let repo = context.open()?;
    let monitor = context.console.monitor();
    let options = FollowOptions {
        interval: args.interval,
        base_every: args.base_every,
        backup: backup_options(args, context, &repo),
        scratch: sources.scratch.clone(),
        clock: crate::context::now,
    };
    if is_postgres {
        let server = engine::pg::Server::parse(&args.url, &sources)?;
        let slot = args.slot.clone().unwrap_or_else(|| slot_name(&repo));
        if args.drop_slot {
            engine::pg::follow::drop_slot(&server, &slot)?;
            context.console.say(format!("replication slot {slot} dropped"));
            return Ok(Code::Done);
        }
        return report_to(&server.place(), args, context, &mut |report| {
            engine::pg::follow::follow(&repo, &server, &slot, &options, monitor, report)
        });
    }
    let shown = engine::source::without_password(&args.url);
    let url = url::Url::parse(&args.url).map_err(|error| Failure::new(format!("{shown}: {error}")))?;
    match url.scheme() {
        "redis" | "valkey" | "rediss" | "valkeys" => {
            let server = engine::source::redis::Server::new(&url, &sources)?;
            report_to(&server.address, args, context, &mut |report| {
                engine::journal::follow::follow(&repo, &server, &options, monitor, report)
            })
        }
        "mysql" | "mariadb" => {
            let server = engine::mysql::Server::new(&url, &sources)?;
            if server.database.is_some() {
                return Err(Failure::new("the binary log is of all databases; name none in the URL"));
            }
            report_to(&server.place(), args, context, &mut |report| {
                engine::mysql::follow::follow(&repo, &server, &options, monitor, report)
            })
        }
        _ => Err(Failure::new("only redis://, rediss://, postgres:// and mysql:// can be followed")),
    }
}

/// What every snapshot of a stream says.
fn backup_options(args: &Args, context: &Context, repo: &Repository) -> BackupOptions {
    let tags = args.tag.iter().flat_map(|tags| super::split_tags(tags)).filter(|tag| !tag.is_empty());
    BackupOptions {
        hostname: args.host.clone().unwrap_or_else(hostname),
        tags: std::iter::once("stream".to_owned()).chain(tags).collect(),
        ..context.backup_options(repo)
    }
}

/// Runs a stream, whose reports are told and measured.
fn report_to(
    place: &str,
    args: &Args,
    context: &Context,
    run: &mut dyn FnMut(&mut Report<'_>) -> engine::Result<()>,
) -> CommandResult {
    let mut told = None;
    let done = run(&mut |standing, trouble| {
        if let Some(metrics) = &args.metrics
            && let Err(error) = write_metrics(metrics, standing, place)
        {
            context.console.say(format!("cannot write {}: {error}", metrics.display()));
        }
        tell(standing, trouble, &mut told, context);
    });
    Err(match done {
        Ok(()) => Failure::new("the server was let go"),
        Err(error) => error.into(),
    })
}

/// A slot of this repository and host: names take lower case letters, digits and `_`, 63 of them.
fn slot_name(repo: &Repository) -> String {
    let plain = |text: &str| -> String {
        let small = text.to_ascii_lowercase();
        small.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(40).collect()
    };
    format!("esker_{}_{}", plain(&repo.store().config().repository_id.to_string()[..8]), plain(&hostname()))
}

fn tell(standing: &Standing, trouble: Option<&str>, told: &mut Option<bool>, context: &Context) {
    if context.global.json {
        output::json_line(&json!({
            "message_type": "status",
            "snapshot_id": standing.snapshot,
            "until": shown(standing.until_ms),
            "lag_seconds": standing.lag.as_secs_f64(),
            "offset": standing.position,
            "stream_bytes": standing.stream_bytes,
            "attached": standing.attached,
            "new_base": standing.new_base,
            "trouble": trouble,
        }));
        return;
    }
    if let Some(trouble) = trouble {
        context.console.say(format!("detached: {trouble}; trying again"));
    }
    if standing.new_base {
        context.console.say(format!("base is durable, snapshot {}", standing.snapshot.short()));
    }
    if *told != Some(standing.attached) && standing.attached {
        context.console.say(format!("attached; restorable until {}", shown(standing.until_ms)));
    }
    *told = Some(standing.attached);
}

/// The metrics, put in place whole.
fn write_metrics(path: &std::path::Path, standing: &Standing, server: &str) -> std::io::Result<()> {
    let gauges = [
        (
            "lag_seconds",
            "How far the last recovery point was behind when it was durable.",
            standing.lag.as_secs_f64(),
        ),
        (
            "recovery_point_timestamp_seconds",
            "The last moment that can be restored.",
            standing.until_ms as f64 / 1e3,
        ),
        ("durable_offset_bytes", "Replication offset up to which all is durable.", standing.position as f64),
        ("attached", "Whether the server is attached.", f64::from(u8::from(standing.attached))),
    ];
    let mut text = String::new();
    for (name, help, value) in gauges {
        text += &format!("# HELP esker_stream_{name} {help}\n# TYPE esker_stream_{name} gauge\n");
        text += &format!("esker_stream_{name}{{server=\"{server}\"}} {value}\n");
    }
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, text)?;
    std::fs::rename(beside, path)
}
