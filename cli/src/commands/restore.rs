//! `esker restore`

use super::FilterArgs;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use chunkstore::storage::tiered::Served;
use engine::restore::{Overwrite, RestoreOptions, differences, restore, volumes};
use engine::snapshot::split_path;
use engine::{Counter, Monitor as _};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

mod databases;
mod live;
mod vectors;

/// Between two looks at what is being thawed: it takes hours.
const THAW_PAUSE: Duration = Duration::from_secs(60);

/// Restore a snapshot or a part of it into a folder or a live server
///
/// Running it again goes on where it stopped: files that are right already are left alone.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Snapshot: id, latest, latest~N, with :path for a part of it
    snapshot: String,
    /// Folder to restore into
    #[arg(short, long, value_name = "DIR", required_unless_present = "to", conflicts_with = "to")]
    target: Option<PathBuf>,
    #[command(flatten)]
    live: live::LiveArgs,
    /// With --target, of a physical backup of PostgreSQL: make a data directory that a server starts from; --time does, too
    #[arg(long, conflicts_with = "to")]
    prepare: bool,
    /// The moment to go back to, from what 'esker stream' kept. Of Redis: with --to, into an empty server, or with --whole;
    /// of PostgreSQL: with --target
    #[arg(long, value_parser = live::parse_moment, value_name = "TIME")]
    time: Option<jiff::Timestamp>,
    /// Only what matches, as in .gitignore; with --to, keys or collections as in redis-cli's KEYS
    #[arg(short, long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Not what matches
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// What to do with files that are there
    #[arg(long, value_enum, default_value = "always", value_name = "WHEN")]
    overwrite: When,
    /// Remove files that the snapshot does not have
    #[arg(long)]
    delete: bool,
    /// Write nothing, say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Leave holes where chunks are all zeros
    #[arg(long)]
    sparse: bool,
    /// Read everything again afterwards and compare
    #[arg(long)]
    verify: bool,
    /// If what is needed is frozen, wait until it is thawed ('esker thaw start' asks for it)
    #[arg(long)]
    wait_thaw: bool,
    /// Do not set owners and groups
    #[arg(long)]
    no_owner: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum When {
    /// Compare content and replace what differs
    Always,
    /// Replace files whose size or time differs
    IfChanged,
    /// Replace files that are older than the snapshot's
    IfNewer,
    /// Leave existing files alone
    Never,
}

pub(crate) fn run(args: Args, context: &Context) -> CommandResult {
    restored(args, context).map_err(Failure::of_restore)
}

fn restored(args: Args, context: &Context) -> CommandResult {
    if args.live.to.is_some() {
        return live::run(&args, context);
    }
    if args.dry_run && (args.prepare || args.time.is_some()) {
        return Err(Failure::new("--prepare takes no --dry-run"));
    }
    if args.prepare || args.time.is_some() {
        return databases::prepare(&args, context);
    }
    let (wanted, path) = split_path(&args.snapshot);
    let (opened, found) = context.open_snapshot(wanted, &args.filter.filter())?;
    let wait = args.wait_thaw.then_some(THAW_PAUSE);
    super::thaw::need_thawed(&opened, &found, path.as_bytes(), wait, context)?;
    let repo = &opened.repo;
    let options = RestoreOptions {
        target: args.target.unwrap_or_default(),
        beneath: path.as_bytes().to_vec(),
        includes: args.include,
        excludes: args.exclude,
        overwrite: match args.overwrite {
            When::Always => Overwrite::Always,
            When::IfChanged => Overwrite::IfChanged,
            When::IfNewer => Overwrite::IfNewer,
            When::Never => Overwrite::Never,
        },
        delete: args.delete,
        dry_run: args.dry_run,
        sparse: args.sparse,
        no_owner: args.no_owner,
    };
    for note in volumes::check(repo, &found.snapshot, &options, context.console.monitor())? {
        context.console.say(note);
    }
    context.console.during(|monitor| restore(repo, &found.snapshot, &options, monitor))?;
    let console = &context.console;
    let (files, skipped) = (console.get(Counter::FilesDone), console.get(Counter::FilesSkipped));
    let bytes = console.get(Counter::BytesDone);
    if args.verify && !args.dry_run {
        verify(repo, &found.snapshot, &options, context)?;
    }
    let seconds = console.seconds();
    if context.global.json {
        output::json_line(&json!({
            "message_type": "summary",
            "seconds_elapsed": seconds,
            "total_files": files,
            "files_restored": files - skipped,
            "files_skipped": skipped,
            "files_deleted": console.get(Counter::Deleted),
            "total_bytes": found.snapshot.manifest.bytes,
            "bytes_restored": bytes,
            "dry_run": options.dry_run,
            "verified": args.verify,
            "tiers": opened.served(),
        }));
    } else {
        let rate = output::bytes((bytes as f64 / seconds.max(0.001)) as u64);
        let verb = if options.dry_run { "would restore" } else { "restored" };
        console.say(format!(
            "{verb} {} of {files} entries ({skipped} were right already), {} in {seconds:.1} s ({rate}/s)",
            files - skipped,
            output::bytes(bytes)
        ));
        if args.verify && console.error_count() == 0 {
            console.say("verified: what was restored is what was backed up");
        }
    }
    for served in opened.served() {
        let Served { tier, requests, bytes, failures, error } = served;
        let failed = match (failures, error) {
            (0, _) => String::new(),
            (failures, None) => format!(", {failures} failed"),
            (failures, Some(error)) => format!(", {failures} failed: {error}"),
        };
        console.say(format!("from tier '{tier}': {} in {requests} reads{failed}", output::bytes(bytes)));
    }
    if console.error_count() == 0 {
        return Ok(Code::Done);
    }
    if repo.store().has_parity() && !context.global.json {
        console.say("if packs are damaged: 'esker check --read-data --heal', then restore again");
    }
    Ok(Code::Failed)
}

/// Reads the target again: what another restore would write was not restored right.
fn verify(
    repo: &engine::Repository,
    snapshot: &engine::snapshot::Snapshot,
    options: &RestoreOptions,
    context: &Context,
) -> Result<(), Failure> {
    let tally = engine::monitor::Tally::default();
    for item in differences(repo, snapshot, options, &tally)? {
        let message = "differs from the snapshot after the restore".into();
        context.console.monitor().error(engine::ItemError { during: "verify", item, message });
    }
    Ok(())
}
