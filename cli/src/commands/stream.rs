//! `esker stream`

use crate::config::{hostname, username};
use crate::context::Context;
use crate::exit::{CommandResult, Failure};
use crate::{output, sources};
use chunkstore::ingest::{PackerOptions, Sealing};
use engine::backup::BackupOptions;
use engine::journal::follow::{FollowOptions, Standing, follow};
use engine::journal::replay::shown;
use engine::source::redis::Server;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Stay attached to a Redis and keep every moment of it
///
/// A base first, then the commands that the server sends to its replicas: 'esker restore --time' brings any moment
/// back. One snapshot for each base, tagged 'stream', which grows; only what is durable is acknowledged to the server.
/// Ends with ctrl-C, and goes on where it was.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The server: redis://user:password@host:port, or less
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
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    let duration = Duration::try_from(span).map_err(|_| "a duration is not negative".to_owned())?;
    if duration < Duration::from_millis(200) { Err("shorter than 200ms".into()) } else { Ok(duration) }
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let url = url::Url::parse(&args.url).map_err(|error| Failure::new(format!("{}: {error}", args.url)))?;
    if !matches!(url.scheme(), "redis" | "valkey" | "rediss" | "valkeys") {
        return Err(Failure::new("only redis:// and rediss:// can be followed"));
    }
    let options = sources::url_options(context)?;
    let server = Server::new(&url, &options)?;
    let repo = context.open()?;
    let tags = args.tag.iter().flat_map(|tags| super::split_tags(tags)).filter(|tag| !tag.is_empty());
    let options = FollowOptions {
        interval: args.interval,
        base_every: args.base_every,
        backup: BackupOptions {
            hostname: args.host.clone().unwrap_or_else(hostname),
            username: username(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            tags: std::iter::once("stream".to_owned()).chain(tags).collect(),
            sealing: Sealing {
                compression: context.global.compression,
                delta: repo.store().storage().is_near(),
            },
            packer: PackerOptions {
                pack_len: context.global.pack_size.saturating_mul(1 << 20),
                ..PackerOptions::default()
            },
            program_version: concat!("esker ", env!("CARGO_PKG_VERSION")).into(),
            ..BackupOptions::default()
        },
        scratch: options.scratch,
        clock: crate::context::now,
    };
    let mut told = None;
    let done = follow(&repo, &server, &options, context.console.monitor(), &mut |standing, trouble| {
        if let Some(metrics) = &args.metrics
            && let Err(error) = write_metrics(metrics, standing, &server.address)
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

fn tell(standing: &Standing, trouble: Option<&str>, told: &mut Option<bool>, context: &Context) {
    if context.global.json {
        output::json_line(&json!({
            "message_type": "status",
            "snapshot_id": standing.snapshot,
            "until": shown(standing.until_ms),
            "lag_seconds": standing.lag.as_secs_f64(),
            "offset": standing.offset,
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
        ("durable_offset_bytes", "Replication offset up to which all is durable.", standing.offset as f64),
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
