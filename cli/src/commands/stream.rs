//! `esker stream`

use super::show_moment;
use crate::config::hostname;
use crate::context::Context;
use crate::declared::{Declared, Declares};
use crate::durations;
use crate::exit::{Code, CommandResult, Failure};
use crate::manager::Manager;
use crate::{output, sources};
use engine::Repository;
use engine::backup::BackupOptions;
use engine::connector::{Choice, Chosen, LiveStream};
use engine::growing::{FollowOptions, Report, Standing};
use engine::moment::shown;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// How far a recovery point is behind, and how old a base may be, unless it is said.
const INTERVAL: Duration = Duration::from_secs(5);
const BASE_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Stay connected to a server and store every change
///
/// A base first, then what the server sends to its replicas: 'esker restore --time' brings any moment back. One snapshot for each base, tagged 'stream', which grows; only what is durable is acknowledged to the server.
/// A server that cannot be reached at first, when there is no base to go on from, ends it with code 25; later, or with a base,
/// it says so and tries again until it is ended. Ends with ctrl-C or SIGTERM after a last checkpoint, and goes on where it was. Tells systemd that it is ready once the
/// server is attached.
#[derive(clap::Args, Debug, Clone)]
pub(crate) struct Args {
    #[arg(value_name = "URL|NAME", value_parser = crate::words::url(), help = url_help())]
    url: String,
    /// Time between commits: a recovery point is at most this old [default: 5s]
    #[arg(long, value_parser = durations::interval, value_name = "DURATION")]
    interval: Option<Duration>,
    /// Make a new base backup after this time [default: 24h]
    #[arg(long, value_parser = durations::interval, value_name = "DURATION")]
    base_every: Option<Duration>,
    /// Tags for the snapshots, besides 'stream' (a,b or repeated)
    #[arg(long, value_name = "TAGS", value_parser = crate::words::kept())]
    tag: Vec<String>,
    /// Host name for the snapshots, instead of this machine's
    #[arg(short = 'H', long, value_name = "HOST", value_parser = crate::words::filled())]
    host: Option<String>,
    /// Write lag and offsets to this file after every commit, for Prometheus's textfile collector
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    #[command(flatten)]
    declared: Declared<OfStream>,
}

impl Args {
    /// With what esker.toml says of a stream of that name; flags go before it.
    fn with_file(&self, context: &Context) -> Result<Self, Failure> {
        if self.url.contains("://") || connectors::is_url(&self.url) {
            return Ok(self.clone());
        }
        let streams = context.file.as_ref().map(|file| file.streams.as_slice()).unwrap_or_default();
        let Some(spec) = streams.iter().find(|spec| spec.name == self.url) else {
            let known: Vec<&str> = streams.iter().map(|spec| spec.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Failure::usage(format!(
                "'{}' is neither a URL nor a [[stream]] of esker.toml, which has {known}",
                engine::source::without_password(&self.url)
            )));
        };
        let mut declared = self.declared.clone();
        declared.or_give("slot", spec.slot.as_deref());
        Ok(Self {
            url: spec.url.clone(),
            interval: self.interval.or(spec.interval),
            base_every: self.base_every.or(spec.base_every),
            tag: if self.tag.is_empty() { spec.tags.clone() } else { self.tag.clone() },
            host: self.host.clone().or_else(|| spec.host.clone()),
            metrics: self.metrics.clone().or_else(|| spec.metrics.clone()),
            declared,
        })
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let args = &args.with_file(context)?;
    let server = engine::source::without_password(&args.url);
    let _in_it = tracing::info_span!("stream", server).entered();
    let (_, live) = known(&args.url)?;
    if let Some(flag) = args.declared.flags().find(|flag| live.choices().iter().all(|own| own.flag != *flag))
    {
        let takes = |live: &&dyn LiveStream| live.choices().iter().any(|own| own.flag == flag);
        let schemes: Vec<String> = all().filter(takes).flat_map(schemes).collect();
        return Err(Failure::usage(format!("--{flag} is for {}", schemes.join(", "))));
    }
    let sources = sources::url_options(context)?;
    let repo = context.open()?;
    let monitor = context.console.monitor();
    let options = FollowOptions {
        interval: args.interval.unwrap_or(INTERVAL),
        base_every: args.base_every.unwrap_or(BASE_EVERY),
        backup: backup_options(args, context, &repo),
        scratch: sources.scratch.clone(),
        clock: crate::context::now,
    };
    let mut chosen = Chosen::default();
    args.declared.tell(&mut chosen)?;
    let mut following = live.open(&args.url, &label(&repo), &chosen, &sources)?;
    if let Some(slot) = following.let_go()? {
        context.console.result(format!("replication slot {slot} dropped"), json!({"slot_dropped": slot}));
        return Ok(Code::Done);
    }
    report_to(&following.place(), args, context, &mut |report| {
        following.follow(&repo, &options, monitor, report)
    })
}

/// What help says of the argument.
fn url_help() -> String {
    let schemes: Vec<String> = all().flat_map(schemes).collect();
    format!("The server, by its URL ({}), or the name of a stream in esker.toml", schemes.join(", "))
}

/// Everything that can be followed.
fn all() -> impl Iterator<Item = &'static dyn LiveStream> {
    connectors::all().iter().filter_map(|connector| connector.live_stream())
}

fn schemes(live: &dyn LiveStream) -> Vec<String> {
    live.schemes().iter().map(|scheme| format!("{scheme}://")).collect()
}

/// What can follow a URL.
fn known(url: &str) -> Result<(&str, &'static dyn LiveStream), Failure> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    let live = all().find(|live| live.schemes().contains(&scheme));
    let live = live.ok_or_else(|| {
        let schemes: Vec<String> = all().flat_map(schemes).collect();
        Failure::usage(format!("only {} can be followed", schemes.join(", ")))
    })?;
    Ok((scheme, live))
}

/// Choices of streams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OfStream;

impl Declares for OfStream {
    fn all() -> Vec<&'static Choice> {
        all().flat_map(|live| live.choices()).copied().collect()
    }
}

/// What every snapshot of a stream says.
fn backup_options(args: &Args, context: &Context, repo: &Repository) -> BackupOptions {
    let tags = args.tag.iter().flat_map(|tags| super::split_tags(tags)).filter(|tag| !tag.is_empty());
    BackupOptions {
        hostname: args.host.clone().unwrap_or_else(hostname),
        made_by: engine::snapshot::MadeBy::Stream,
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
    let mut last: Option<Standing> = None;
    let manager = Manager::from_environment();
    let done = run(&mut |standing, trouble| {
        if let Some(metrics) = &args.metrics
            && let Err(error) = write_metrics(metrics, standing, place)
        {
            context.console.say(format!("cannot write {}: {error}", metrics.display()));
        }
        if standing.attached && !last.as_ref().is_some_and(|last| last.attached) {
            manager.tell("READY=1\nSTATUS=attached");
        } else if let Some(trouble) = trouble {
            manager.tell(&format!("STATUS=detached: {}", trouble.replace('\n', " ")));
        }
        tell(standing, trouble, &mut told, context);
        last = Some(standing.clone());
    });
    manager.tell("STOPPING=1");
    match (done, last) {
        // Somebody ended it, and what had come until then is durable.
        (Err(engine::Error::Interrupted), Some(last)) => {
            let until = shown(last.until_ms);
            let value = json!({"snapshot_id": last.snapshot, "until": until, "offset": last.position});
            let until = show_moment(last.until_ms);
            context.console.result(format!("ended; restorable until {until}"), value);
            Ok(Code::Done)
        }
        (Ok(()), _) => Err(Failure::new("the server was let go")),
        (Err(error), _) => Err(error.into()),
    }
}

/// A name of this repository and host, such as for a replication slot: lower case letters, digits and `_`, 63 of them.
fn label(repo: &Repository) -> String {
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
        context.console.say(format!("attached; restorable until {}", show_moment(standing.until_ms)));
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
    // As the text format escapes it: the path of a socket may hold anything.
    let server = server.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let mut text = String::new();
    for (name, help, value) in gauges {
        text += &format!("# HELP esker_stream_{name} {help}\n# TYPE esker_stream_{name} gauge\n");
        text += &format!("esker_stream_{name}{{server=\"{server}\"}} {value}\n");
    }
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, text)?;
    std::fs::rename(beside, path)
}
