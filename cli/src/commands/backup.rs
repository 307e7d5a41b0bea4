//! `esker backup`

use super::{FilterArgs, parse_size, parse_time, split_tags};
use crate::config::{hostname, read_file, username};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::fleet::Work;
use crate::{output, sources};
use chunkstore::ingest::{PackerOptions, Sealing};
use engine::Error;
use engine::backup::{BackupOptions, BackupReport, backup};
use engine::entry::Time;
use engine::pg::Server;
use engine::restore::physical;
use engine::snapshot::{SourceRecord, skew};
use engine::source::files::FilesOptions;
use engine::source::format::{Expect, FORMATS, Format};
use engine::source::postgres_physical::{self, PhysicalSource};
use engine::source::stream::{StreamOptions, StreamSource};
use engine::source::{Source, command};
use serde_json::json;
use std::ffi::OsString;
use std::path::PathBuf;

/// Back up paths, streams, commands and databases
#[derive(clap::Args, Debug)]
#[command(after_help = SOURCES)]
pub(crate) struct Args {
    /// Paths or URLs; after '--' with --stdin-from-command, the command
    #[arg(value_name = "SOURCE")]
    sources: Vec<OsString>,
    /// Back up standard input
    #[arg(long)]
    stdin: bool,
    /// Back up what a command prints; no snapshot if it fails
    #[arg(long, conflicts_with = "stdin")]
    stdin_from_command: bool,
    /// Name of the stream in the snapshot
    #[arg(long, default_value = "stdin", value_name = "NAME")]
    stdin_filename: String,
    /// Make a snapshot even if standard input or the command gives nothing
    #[arg(long)]
    allow_empty: bool,
    /// What standard input or the command must give, whole: gzip, zstd, xz, tar, json, jsonl, pg-sql, mysql-sql,
    /// pg-custom, rdb or aof; 'auto' takes what it looks like, 'none' anything
    #[arg(long, value_parser = parse_expect, default_value = "auto", value_name = "FORMAT")]
    expect: Expect,
    /// Store what is in gzip, zstd and xz rather than the compressed bytes, which find nothing again
    #[arg(long)]
    decompress: bool,
    /// Tags for the snapshot (a,b or repeated)
    #[arg(long, value_name = "TAGS")]
    tag: Vec<String>,
    /// Host name for the snapshot, instead of this machine's
    #[arg(short = 'H', long, value_name = "HOST")]
    host: Option<String>,
    /// Time for the snapshot, instead of now
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    time: Option<jiff::Timestamp>,
    /// Free text for the snapshot
    #[arg(long, default_value = "", value_name = "TEXT")]
    description: String,
    /// Compare with this snapshot instead of the latest of the same host and paths
    #[arg(long, value_name = "SNAPSHOT")]
    parent: Option<String>,
    /// Read all files, changed or not
    #[arg(short, long)]
    force: bool,
    /// Take files for unchanged although their inode differs
    #[arg(long)]
    ignore_inode: bool,
    /// Take files for unchanged although their ctime differs
    #[arg(long)]
    ignore_ctime: bool,
    /// Leave out what matches, as in .gitignore
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// The same, ignoring case
    #[arg(long, value_name = "PATTERN")]
    iexclude: Vec<String>,
    /// Read patterns to leave out from a file
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Leave out the content of folders that hold a file of this name
    #[arg(long, value_name = "NAME")]
    exclude_if_present: Vec<String>,
    /// Leave out the content of folders marked by CACHEDIR.TAG
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out files larger than this
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    exclude_larger_than: Option<u64>,
    /// Read paths to back up from a file, one a line
    #[arg(long, value_name = "FILE")]
    files_from: Vec<PathBuf>,
    /// Stay on the file systems of the given paths
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Of servers: tell what cannot be read, a broken view or a whole database, leave it out and go on; exit code 3
    #[arg(long)]
    keep_going: bool,
    /// Do everything but keep the result
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Make no snapshot if nothing changed since the parent
    #[arg(long)]
    skip_if_unchanged: bool,
    /// Store changed chunks whole instead of against their last version: sizes then tell less about what
    /// changed, and reading needs nothing older
    #[arg(long, env = "ESKER_NO_DELTA", conflicts_with = "delta")]
    no_delta: bool,
    /// Store changed chunks against their last version even if that must be read over a network
    #[arg(long, env = "ESKER_DELTA")]
    delta: bool,
    /// Of postgres+physical:// since 17, with summarize_wal: read only what changed since the last backup; that one's
    /// files are part of the new snapshot, which is whole by itself
    #[arg(long)]
    incremental: bool,
    /// Do not copy to the tiers of esker.toml afterwards
    #[arg(long)]
    no_sync: bool,
}

/// Attempts, when HEAD does not allow what was to be committed.
const ATTEMPTS: u32 = 3;

const SOURCES: &str = "\
Sources:
  PATH…                                         files and folders
  --stdin                                       standard input
  --stdin-from-command -- COMMAND ARGS…         what a command prints, if it succeeds
  redis://[user:password@]host[:port][/db]      Redis or Valkey, all databases or one, by replication;
                                                rediss:// over TLS, redis+unix:///PATH[?db=N] over a socket
  redis+scan://…, redis+scan+unix:///PATH       the same, key by key, where replication is refused
  redis+rdb:///PATH/dump.rdb                    a dump that Redis wrote
  redis+aof:///PATH/appendonlydir               its append-only files, in either layout
  qdrant+http[s]://host[:port][/collection]     Qdrant, all collections or one, shard by shard
  qdrant+file:///PATH/storage                   its storage folder, whole, while no server runs on it
  postgres://[user[:password]@]host[:port][/db] PostgreSQL, all databases or one
  postgres+physical://…                         its files, by a base backup (15 and later)
  mysql://[user[:password]@]host[:port][/db]    MariaDB or MySQL, all databases or one
Several make one set: all are started before the first is read, and restored together.

Passwords that should not stand in a URL: REDISCLI_AUTH or ESKER_REDIS_PASSWORD_FILE (and ESKER_REDIS_USER),
ESKER_QDRANT_API_KEY or ESKER_QDRANT_API_KEY_FILE, PGPASSWORD or PGPASSFILE, ~/.my.cnf or MYSQL_PWD.";

pub(crate) fn run(args: Args, context: &Context) -> CommandResult {
    let now = context.now();
    let time = args.time.unwrap_or(now);
    let stamp = Time {
        seconds: time.as_second(),
        nanoseconds: u32::try_from(time.subsec_nanosecond()).unwrap_or_default(),
    };
    let excludes = excludes(&args)?;
    let packer = PackerOptions {
        pack_len: context.global.pack_size.saturating_mul(1 << 20),
        ..PackerOptions::default()
    };
    packer.validate()?;
    // Sources first: a missing path is told before a password is asked for.
    let mut source = open_source(&args, &excludes, stamp, context)?;
    let repo = context.open()?;
    let mut base = None;
    if args.incremental {
        let (id, incremental) = incremental(&args, stamp, &repo, context)?;
        (base, source) = (id, incremental);
    }
    let parent = match &args.parent {
        _ if base.is_some() => base,
        Some(wanted) => {
            Some(repo.find(wanted, &FilterArgs::default().filter(), context.console.monitor())?.id)
        }
        None => None,
    };
    let options = BackupOptions {
        hostname: args.host.clone().unwrap_or_else(hostname),
        username: username(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        tags: args.tag.iter().flat_map(|tags| split_tags(tags)).filter(|tag| !tag.is_empty()).collect(),
        description: args.description.clone(),
        excludes,
        time,
        parent,
        force: args.force,
        ignore_inode: args.ignore_inode,
        ignore_ctime: args.ignore_ctime,
        dry_run: args.dry_run,
        skip_if_unchanged: args.skip_if_unchanged,
        sealing: Sealing { compression: context.global.compression, delta: delta(&args, &repo, context) },
        packer,
        program_version: concat!("esker ", env!("CARGO_PKG_VERSION")).into(),
        original: None,
    };
    let mut attempt = 1;
    let report = loop {
        match context.console.during(|monitor| backup(&repo, &mut *source, &options, monitor)) {
            // A prune took this session for dead, or removed what it built on; standard input cannot be read
            // again, everything else can.
            Err(Error::Store(chunkstore::Error::Fenced { why })) if !args.stdin && attempt < ATTEMPTS => {
                attempt += 1;
                context.console.say(format!("starting again: {why}"));
                context.console.monitor().restart();
                source = match args.incremental {
                    true => incremental(&args, stamp, &repo, context)?.1,
                    false => open_source(&args, &options.excludes, stamp, context)?,
                };
            }
            done => break done?,
        }
    };
    print(&report, &source.records(), &args, context);
    let code = if context.console.error_count() > 0 { Code::Incomplete } else { Code::Done };
    drop(repo);
    if args.no_sync || report.snapshot.is_none() || !has_tiers(context) {
        return Ok(code);
    }
    // The snapshot is made, whatever comes of its copies: they are owed then.
    let work = Work { copy: true, ..Work::default() };
    Ok(match super::tier::work_and_print(&work, context)? {
        Code::Done => code,
        behind => behind,
    })
}

/// A physical backup that builds on the last one, if there is one and the server can.
fn incremental(
    args: &Args,
    time: Time,
    repo: &engine::Repository,
    context: &Context,
) -> Result<(Option<chunkstore::ObjectId>, Box<dyn Source>), Failure> {
    let [url] = args.sources.as_slice() else {
        return Err(Failure::new("--incremental takes one URL, postgres+physical://…"));
    };
    let url = url.to_string_lossy();
    if engine::pg::conninfo::scheme(&url) != Some("postgres+physical") {
        return Err(Failure::new("--incremental is for postgres+physical://"));
    }
    let server = Server::parse(&url, &sources::url_options(context)?)?;
    let path = format!("/{}", postgres_physical::folder(&server));
    let (id, earlier) = physical::earlier(repo, &path, context.console.monitor())?.unzip();
    if id.is_none() {
        context.console.say("there is no earlier backup to build on: this is a full one");
    }
    Ok((id, sources::stamped(Box::new(PhysicalSource::new(&server, time, earlier)))))
}

/// A snapshot of a server before something is done to it.
pub(crate) fn safety(url: &str, context: &Context) -> Result<chunkstore::ObjectId, Failure> {
    let now = context.now();
    let repo = context.open()?;
    let options = BackupOptions { tags: vec!["safety".into()], time: now, ..context.backup_options(&repo) };
    let stamp = Time { seconds: now.as_second(), nanoseconds: 0 };
    let monitor = context.console.monitor();
    let mut source =
        sources::open(vec![url.into()], FilesOptions::default(), stamp, false, context, monitor)?;
    let report = context.console.during(|monitor| backup(&repo, &mut *source, &options, monitor))?;
    report.snapshot.ok_or_else(|| Failure::new("the safety snapshot was not made"))
}

/// Whether esker.toml names tiers to copy to.
fn has_tiers(context: &Context) -> bool {
    context.uses_file() && context.file.as_ref().is_some_and(|file| file.copies().next().is_some())
}

/// Whether to store changed chunks against their last version: to read that over a network may cost more than
/// it saves, so there it must be asked for.
fn delta(args: &Args, repo: &engine::Repository, context: &Context) -> bool {
    if args.no_delta || args.delta {
        return args.delta;
    }
    let near = repo.store().storage().is_near();
    if !near && !repo.snapshot_roots().is_empty() {
        context.console.say(
            "changed chunks are stored whole: their last versions would have to be read over the network; \
             --delta does it all the same",
        );
    }
    near
}

fn excludes(args: &Args) -> Result<Vec<String>, Failure> {
    let mut all = args.exclude.clone();
    for file in &args.exclude_file {
        let text = read_file(file)?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        all.extend(lines.map(str::to_owned));
    }
    Ok(all)
}

fn stream_options(args: &Args) -> StreamOptions {
    StreamOptions { allow_empty: args.allow_empty, expect: args.expect, decompress: args.decompress }
}

fn parse_expect(text: &str) -> Result<Expect, String> {
    match text {
        "auto" => Ok(Expect::Recognised),
        "none" => Ok(Expect::Nothing),
        name => Format::parse(name).map(Expect::Format).ok_or_else(|| {
            let names: Vec<&str> = FORMATS.iter().map(|format| format.name()).collect();
            format!("'{name}' is none of auto, none, {}", names.join(", "))
        }),
    }
}

fn open_source(
    args: &Args,
    excludes: &[String],
    time: Time,
    context: &Context,
) -> Result<Box<dyn Source>, Failure> {
    if args.stdin_from_command {
        let words = args.sources.clone();
        let source = command::source(words, &args.stdin_filename, time, stream_options(args))?;
        return Ok(sources::stamped(Box::new(source)));
    }
    if args.stdin {
        if !args.sources.is_empty() {
            return Err(Failure::new("--stdin takes no paths"));
        }
        // The descriptor itself: a buffer in between would hide bytes from poll(2).
        let stdin = std::fs::File::from(rustix::io::dup(std::io::stdin()).map_err(std::io::Error::from)?);
        let source = StreamSource::reader(stdin, &args.stdin_filename, time, stream_options(args))?;
        return Ok(sources::stamped(Box::new(source)));
    }
    let mut paths = args.sources.clone();
    for file in &args.files_from {
        let text = read_file(file)?;
        paths.extend(
            text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(OsString::from),
        );
    }
    let options = FilesOptions {
        excludes: excludes.to_vec(),
        iexcludes: args.iexclude.clone(),
        exclude_if_present: args.exclude_if_present.clone(),
        exclude_caches: args.exclude_caches,
        exclude_larger_than: args.exclude_larger_than,
        one_file_system: args.one_file_system,
    };
    sources::open(paths, options, time, args.keep_going, context, context.console.monitor())
}

fn print(report: &BackupReport, sources: &[SourceRecord], args: &Args, context: &Context) {
    let summary = &report.summary;
    let seconds = context.console.seconds();
    if context.global.json {
        let mut value = serde_json::to_value(summary).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.insert("message_type".into(), json!("summary"));
            object.insert("total_duration".into(), json!(seconds));
            object.insert("dry_run".into(), json!(args.dry_run));
            if let Some(id) = report.snapshot {
                object.insert("snapshot_id".into(), json!(id));
            }
            if let Some(skew) = skew(sources) {
                object.insert("skew_seconds".into(), json!(skew.as_secs_f64()));
            }
        }
        output::json_line(&value);
        return;
    }
    let say = |text: String| context.console.say(text);
    if let Some(parent) = report.parent {
        say(format!("compared with snapshot {}", parent.short()));
    }
    say(format!(
        "files: {} new, {} changed, {} unmodified",
        summary.files_new, summary.files_changed, summary.files_unmodified
    ));
    say(format!(
        "dirs:  {} new, {} changed, {} unmodified",
        summary.dirs_new, summary.dirs_changed, summary.dirs_unmodified
    ));
    let rate = (summary.total_bytes_processed as f64 / seconds.max(0.001)) as u64;
    say(format!(
        "processed {} files, {} in {seconds:.1} s ({}/s)",
        summary.total_files_processed,
        output::bytes(summary.total_bytes_processed),
        output::bytes(rate)
    ));
    say(format!(
        "added {} ({} stored)",
        output::bytes(summary.data_added),
        output::bytes(summary.data_added_packed)
    ));
    if let Some(skew) = skew(sources) {
        say(format!("{} sources, skew {:.3} s", sources.len(), skew.as_secs_f64()));
    }
    let is_packed = |source: &&SourceRecord| {
        source.details.get("format").and_then(|name| Format::parse(name)).is_some_and(Format::is_compressed)
    };
    for source in sources.iter().filter(is_packed) {
        say(format!(
            "{} is compressed: nothing of it will be found again in the next backup; --decompress stores what is in it",
            source.origin
        ));
    }
    match report.snapshot {
        Some(id) => say(format!("snapshot {} saved", id.short())),
        None if args.dry_run => say("dry run: no snapshot was made".into()),
        None => say("nothing changed: no snapshot was made".into()),
    }
}
