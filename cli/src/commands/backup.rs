//! `esker backup`

use super::host::{TakenIn, Waiting};
use super::{FilterArgs, lists, parse_size, parse_time, split_tags, stay};
use crate::config::{hostname, username};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::fleet::Work;
use crate::{bundle, filters, sources};
use chunkstore::ingest::{PackerOptions, Sealing};
use connector_kit::command;
use connector_kit::format::Expect;
use connector_kit::stream::{StreamOptions, StreamSource};
use engine::backup::{BackupOptions, backup};
use engine::entry::Time;
use engine::group::FROM;
use engine::group::GroupBy;
use engine::retry::Retry;
use engine::snapshot::{Hold, MadeBy, SAFETY};
use engine::source::Source;
use engine::source::files::FilesOptions;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

mod as_host;
mod report;

/// Back up paths, streams, commands and databases
#[derive(clap::Args, Debug)]
#[command(after_help = sources())]
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
    /// Name of the stream in the snapshot; if not given, the command's program, or 'stdin'
    #[arg(long, value_name = "NAME")]
    stdin_filename: Option<OsString>,
    /// Make a snapshot even if standard input or the command gives nothing
    #[arg(long)]
    allow_empty: bool,
    #[arg(long, value_parser = parse_expect, default_value = "auto", value_name = "FORMAT", help = expect_help())]
    expect: Expect,
    /// Store what is in gzip, zstd and xz rather than the compressed bytes, which find nothing again
    #[arg(long)]
    decompress: bool,
    /// Tags for the snapshot (a,b or repeated)
    #[arg(long, value_name = "TAGS", value_parser = crate::words::kept())]
    tag: Vec<String>,
    /// Host name for the snapshot, instead of this machine's
    #[arg(short = 'H', long, value_name = "HOST", value_parser = crate::words::filled())]
    host: Option<String>,
    /// Time for the snapshot, instead of now
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    time: Option<jiff::Timestamp>,
    /// Keep it until then: no rule of forget, no promise and no run removes it before
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    keep_until: Option<jiff::Timestamp>,
    /// Free text for the snapshot
    #[arg(long, default_value = "", value_name = "TEXT", value_parser = crate::words::kept())]
    description: String,
    /// Compare with this snapshot instead of the latest of its group
    #[arg(long, value_name = "SNAPSHOT")]
    parent: Option<String>,
    /// Compare with the latest that has the same of these: host, paths, tags; without it, the group that forget forms
    #[arg(short, long, value_name = "WHAT", conflicts_with = "parent")]
    group_by: Option<GroupBy>,
    /// Read all files, changed or not
    #[arg(short, long)]
    force: bool,
    /// Take files for unchanged although their inode differs
    #[arg(long)]
    ignore_inode: bool,
    /// Take files for unchanged although their ctime differs
    #[arg(long)]
    ignore_ctime: bool,
    /// Leave out what matches, as in .gitignore, with a leading slash from the root of everything. Nothing is left out
    /// that is named as a SOURCE itself, whatever fits it; what lies beneath is
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<OsString>,
    /// The same, ignoring case
    #[arg(long, value_name = "PATTERN")]
    iexclude: Vec<OsString>,
    /// Read patterns to leave out from a file, one a line; '#' begins a comment, $NAME is a variable, $$ a dollar sign
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Leave out the content of folders that hold a file of this name (that begins with this header)
    #[arg(long, value_name = "NAME[:HEADER]")]
    exclude_if_present: Vec<OsString>,
    /// Leave out the content of folders marked by CACHEDIR.TAG
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out files larger than this
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    exclude_larger_than: Option<u64>,
    /// Read patterns to leave out, whatever their case, from a file
    #[arg(long, value_name = "FILE")]
    iexclude_file: Vec<PathBuf>,
    /// Read paths to back up from a file, one a line; '#' begins a comment, '*', '?' and '[...]' stand for names ('-' for
    /// standard input)
    #[arg(long, value_name = "FILE")]
    files_from: Vec<PathBuf>,
    /// Read paths to back up from a file, one a line, each as it is
    #[arg(long, value_name = "FILE")]
    files_from_verbatim: Vec<PathBuf>,
    /// Read paths to back up from a file, with a NUL after each, as 'find -print0' gives them
    #[arg(long, value_name = "FILE")]
    files_from_raw: Vec<PathBuf>,
    /// Do not count beforehand what is to come: no percentage and no remaining time
    #[arg(long)]
    no_scan: bool,
    /// Nothing to do: one thread reads and cuts, and as many as there are cores do the rest
    #[arg(long, value_name = "N")]
    read_concurrency: Option<u32>,
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
    /// Of a physical backup, if the server keeps account of what changes: read only what changed since the last; that one's
    /// files are part of the new snapshot, which is whole by itself
    #[arg(long)]
    incremental: bool,
    /// Do not copy to the tiers of esker.toml afterwards
    #[arg(long)]
    no_sync: bool,
    /// Do not first take in what hosts brought that may only write
    #[arg(long)]
    no_admit: bool,
    /// Back up as a host that may only write, with the file that 'esker host add' wrote: no password is needed, and the
    /// snapshot is pending until a full client admits it
    #[arg(long, env = "ESKER_BUNDLE", value_name = "FILE", conflicts_with_all = ["parent", "delta", "incremental", "time", "keep_until", "no_admit"])]
    bundle: Option<PathBuf>,
}

/// What can be backed up, for help.
fn sources() -> String {
    let mut help = String::from("Sources:\n");
    let mut line = |form: &str, about: &str| {
        let gap = if form.len() > 45 { "\n  ".to_owned() + &" ".repeat(46) } else { " ".into() };
        help += &format!("  {form:<45}{gap}{about}\n");
    };
    line("PATH…", "files and folders");
    line("--stdin", "standard input");
    line("--stdin-from-command -- COMMAND ARGS…", "what a command prints, if it succeeds");
    let schemes = connectors::all().iter().flat_map(|connector| connector.schemes());
    for scheme in schemes.filter(|scheme| !scheme.about.is_empty()) {
        line(scheme.form, scheme.about);
    }
    help += "Several make one set: all are started before the first is read, and restored together.\n\n\
        Passwords that should not stand in a URL:";
    for connector in connectors::all() {
        help += &format!("\n  {:<15} {}", connector.title(), connector.logins());
    }
    help
}

pub(crate) fn run(args: Args, context: &Context) -> CommandResult {
    let now = context.now();
    let time = args.time.unwrap_or(now);
    let stamp = Time {
        seconds: time.as_second(),
        nanoseconds: u32::try_from(time.subsec_nanosecond()).unwrap_or_default(),
    };
    let files = files_options(&args)?;
    let packer = PackerOptions {
        pack_len: context.global.pack_size.saturating_mul(1 << 20),
        ..PackerOptions::default()
    };
    packer.validate()?;
    if args.incremental {
        incremental_url(&args)?;
    }
    context.refuse_secret_of_host(args.bundle.as_deref())?;
    // Sources first: a missing path is told before a password is asked for.
    let mut source = open_source(&args, &files, stamp, context)?;
    if let Some(path) = context.bundle(args.bundle.as_deref()) {
        as_host::refuse(&args)?;
        let bundle = bundle::read(&path)?;
        let delta = !args.no_delta && context.delta_of_host();
        let sealing = Sealing { compression: context.global.compression, delta };
        let options = options(&args, &files, time, sealing, packer);
        return as_host::run(bundle, source, options, args.host.as_deref(), context);
    }
    let repo = context.open()?;
    let taken_in = match args.dry_run || args.no_admit {
        true => TakenIn::nothing(),
        false => super::host::take_in_first(&repo, context)?,
    };
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
    let sealing = Sealing { compression: context.global.compression, delta: delta(&args, &repo, context)? };
    let options = BackupOptions { parent, ..options(&args, &files, time, sealing, packer) };
    // Standard input cannot be read again, everything else can.
    let mut retry = if args.stdin { Retry::new(1) } else { Retry::default() };
    let report = loop {
        let done = context.console.during("backup", |monitor| backup(&repo, &mut *source, &options, monitor));
        let error = match done {
            Ok(report) => break report,
            Err(error) => error,
        };
        let Some(why) = retry.again(&error) else { return Err(error.into()) };
        context.console.say(format!("starting again: {why}"));
        context.console.monitor().restart();
        source = match args.incremental {
            true => incremental(&args, stamp, &repo, context)?.1,
            false => open_source(&args, &files, stamp, context)?,
        };
    };
    let mut summary =
        report::summary(&report, &source.records(), args.dry_run, report::By::FullClient, context)?;
    if args.dry_run && !args.no_admit {
        summary = Waiting::look(&repo, context)?.add(summary);
    }
    context.console.summary(&taken_in.add(summary));
    for note in &report.notes {
        context.console.warn(note);
    }
    if args.stdin && args.stdin_filename.is_none() {
        let records = source.records();
        let from = records.iter().find_map(|record| record.details.get(FROM));
        let what = match from {
            Some(from) => format!("nothing but its format and '{}'", engine::shown::text(from)),
            None => "nothing but its format".into(),
        };
        context.console.warn(&format!(
            "{what} tells this stream from others on standard input, and rules act on those as one that have that in \
             common: name it with --stdin-filename"
        ));
    }
    if let Some(id) = report.snapshot.filter(|_| !context.global.json) {
        context.console.say(stay::of_backup(id, args.keep_until, context));
    }
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

/// What the flags say about the backup and its record.
fn options(
    args: &Args,
    files: &FilesOptions,
    time: jiff::Timestamp,
    sealing: Sealing,
    packer: PackerOptions,
) -> BackupOptions {
    BackupOptions {
        hostname: args.host.clone().unwrap_or_else(hostname),
        username: username(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        tags: args.tag.iter().flat_map(|tags| split_tags(tags)).filter(|tag| !tag.is_empty()).collect(),
        description: args.description.clone(),
        excludes: files.excludes.texts(),
        time,
        time_given: args.time.is_some(),
        keep_until: args.keep_until,
        made_by: MadeBy::Hand,
        source_name: None,
        hold: Hold::Unsaid,
        parent: None,
        replaces: None,
        parent_of: args.group_by,
        force: args.force,
        no_scan: args.no_scan,
        ignore_inode: args.ignore_inode,
        ignore_ctime: args.ignore_ctime,
        dry_run: args.dry_run,
        skip_if_unchanged: args.skip_if_unchanged,
        sealing,
        packer,
        program_version: concat!("esker ", env!("CARGO_PKG_VERSION")).into(),
        packs_seen_within: Duration::ZERO,
        original: None,
    }
}

/// The URL that `--incremental` is for, and the beginnings of all that it can be for.
fn incremental_url(args: &Args) -> Result<(String, String), Failure> {
    let all: Vec<&str> =
        connectors::all().iter().flat_map(|connector| connector.incremental_schemes()).copied().collect();
    let known = all.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(", ");
    let [url] = args.sources.as_slice() else {
        return Err(Failure::usage(format!("--incremental takes one URL, {known}…")));
    };
    let url = engine::names::escaped_url(url.as_bytes());
    match connectors::scheme(&url) {
        Some((_, scheme)) if all.contains(&scheme) => Ok((url, known)),
        _ => Err(Failure::usage(format!("--incremental is for {known}"))),
    }
}

/// A physical backup that builds on the last one, if there is one and the server can.
fn incremental(
    args: &Args,
    time: Time,
    repo: &engine::Repository,
    context: &Context,
) -> Result<(Option<chunkstore::ObjectId>, Box<dyn Source>), Failure> {
    let (url, known) = incremental_url(args)?;
    let monitor = context.console.monitor();
    let options = sources::url_options(context)?;
    let opened = match connectors::scheme(&url) {
        Some((connector, _)) => connector.open_incremental(&url, time, &options, repo, monitor)?,
        None => None,
    };
    let opened = opened.ok_or_else(|| Failure::usage(format!("--incremental is for {known}")))?;
    match &opened.lost {
        Some((id, why)) => context.console.warn(&format!(
            "snapshot {} cannot be built on: {why}. This is a full backup, and the next ones build on it; 'esker check' \
             says what else is lost",
            id.short()
        )),
        None if opened.base.is_none() => {
            context.console.say("there is no earlier backup to build on: this is a full one");
        }
        None => {}
    }
    Ok((opened.base, sources::stamped(opened.source)))
}

/// A snapshot of a server before something is done to it.
pub(crate) fn safety(url: &str, context: &Context) -> Result<chunkstore::ObjectId, Failure> {
    let now = context.now();
    let repo = context.open()?;
    let options = BackupOptions {
        tags: vec![SAFETY.into()],
        time: now,
        made_by: MadeBy::Safety,
        hold: Hold::Held,
        ..context.backup_options(&repo)
    };
    let stamp = Time { seconds: now.as_second(), nanoseconds: 0 };
    let monitor = context.console.monitor();
    let mut source =
        sources::open(vec![url.into()], FilesOptions::default(), stamp, false, context, monitor)?;
    let report = context
        .console
        .during("safety snapshot", |monitor| backup(&repo, &mut *source, &options, monitor))?;
    report.snapshot.ok_or_else(|| Failure::new("the safety snapshot was not made"))
}

/// Whether esker.toml names tiers to copy to.
fn has_tiers(context: &Context) -> bool {
    context.uses_file() && context.file.as_ref().is_some_and(|file| file.copies().next().is_some())
}

/// Whether to store changed chunks against their last version: to read that over a network may cost more than
/// it saves, so there it must be asked for.
fn delta(args: &Args, repo: &engine::Repository, context: &Context) -> Result<bool, Failure> {
    if args.no_delta || args.delta {
        return Ok(args.delta);
    }
    if let Some(delta) = context.own_file().and_then(|file| file.delta) {
        return Ok(delta);
    }
    let near = repo.store().storage().is_near();
    if !near && !repo.store().head().roots.is_empty() {
        context.console.say(
            "changed chunks are stored whole: their last versions would have to be read over the network; \
             --delta does it all the same",
        );
    }
    Ok(near)
}

/// What the flags say about files.
fn files_options(args: &Args) -> Result<FilesOptions, Failure> {
    Ok(FilesOptions {
        excludes: filters::excludes(&args.exclude, "--exclude", &args.exclude_file, false)?,
        iexcludes: filters::excludes(&args.iexclude, "--iexclude", &args.iexclude_file, true)?,
        exclude_if_present: filters::markers(&args.exclude_if_present, args.exclude_caches)?,
        exclude_larger_than: args.exclude_larger_than,
        one_file_system: args.one_file_system,
        own: vec![],
    })
}

fn stream_options(args: &Args) -> StreamOptions {
    let is_unnamed = args.stdin && args.stdin_filename.is_none();
    StreamOptions {
        formats: connectors::formats(),
        allow_empty: args.allow_empty,
        expect: args.expect,
        decompress: args.decompress,
        is_unnamed,
    }
}

fn format_names() -> String {
    let names: Vec<&str> = connectors::formats().iter().map(|format| format.name).collect();
    names.join(", ")
}

fn expect_help() -> String {
    format!(
        "What standard input or the command must give, whole: {}; 'auto' takes what it looks like, 'none' anything",
        format_names()
    )
}

fn parse_expect(text: &str) -> Result<Expect, String> {
    match text {
        "auto" => Ok(Expect::Recognised),
        "none" => Ok(Expect::Nothing),
        name => connectors::format(name)
            .map(Expect::Format)
            .ok_or_else(|| format!("'{name}' is none of auto, none, {}", format_names())),
    }
}

fn open_source(
    args: &Args,
    files: &FilesOptions,
    time: Time,
    context: &Context,
) -> Result<Box<dyn Source>, Failure> {
    if args.stdin_from_command {
        let words = args.sources.clone();
        let program = words.first().and_then(|word| std::path::Path::new(word).file_name());
        let name = args.stdin_filename.as_deref().or(program).unwrap_or_default().as_bytes().to_vec();
        let source = command::source(words, context.withheld(), &name, time, stream_options(args))?;
        return Ok(sources::stamped(Box::new(source)));
    }
    if args.stdin {
        if !args.sources.is_empty() {
            return Err(Failure::usage("--stdin takes no paths"));
        }
        // The descriptor itself: a buffer in between would hide bytes from poll(2).
        let stdin = std::fs::File::from(rustix::io::dup(std::io::stdin()).map_err(std::io::Error::from)?);
        let name = args.stdin_filename.as_ref().map_or(&b"stdin"[..], |name| name.as_bytes());
        let source = StreamSource::reader(stdin, name, time, stream_options(args))?;
        return Ok(sources::stamped(Box::new(source)));
    }
    let mut paths = args.sources.clone();
    for file in &args.files_from {
        paths.extend(filters::listed(file)?);
    }
    paths.extend(lists::verbatim(&args.files_from_verbatim)?);
    paths.extend(lists::raw(&args.files_from_raw)?);
    sources::open(paths, files.clone(), time, args.keep_going, context, context.console.monitor())
}
