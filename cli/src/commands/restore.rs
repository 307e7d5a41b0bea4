//! `esker restore`

use super::FilterArgs;
use crate::context::Context;
use crate::declared::Declared;
use crate::exit::{CommandResult, Failure};
use crate::tiers::Opened;
use choices::Goal;
use engine::connector::choice::common;
use engine::connector::{Chosen, Target};
use engine::entry::is_beneath;
use engine::inside::Inside;
use engine::snapshot::{Listed, Snapshot, split_path};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

mod choices;
mod files;
mod held;
mod into;

/// A snapshot for a live server: `latest` is the latest that has something for it.
fn find(args: &Args, target: &dyn Target, context: &Context) -> Result<(Opened, Listed), Failure> {
    let (wanted, path) = split_path(&args.snapshot);
    let fits = |snapshot: &Snapshot| target.fits(snapshot) && has_path(target, snapshot, path);
    context.open_snapshot_that(wanted, &args.filter.filter(), &fits)
}

/// Whether a path behind `SNAPSHOT:` is of a snapshot.
fn has_path(target: &dyn Target, snapshot: &Snapshot, path: &str) -> bool {
    target.names_inside(path) || has_entries(snapshot, path)
}

/// Whether a path is one of the entries of a snapshot, or above or beneath those that it lists.
fn has_entries(snapshot: &Snapshot, path: &str) -> bool {
    let inside = Inside::new(path);
    inside.is_all()
        || snapshot.paths.iter().any(|own| {
            let own = Inside::new(own);
            is_beneath(inside.path(), own.path()) || is_beneath(own.path(), inside.path())
        })
}

/// The longest pause between two looks at what is being thawed: that takes minutes or hours.
const THAW_PAUSE: Duration = Duration::from_secs(60);

/// Restore a snapshot or a part of it into a folder or a running server
///
/// Running it again goes on where it stopped: files that are right already are left alone.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Snapshot: id, latest, latest~N, with :path for a part of it
    #[arg(value_parser = crate::words::path())]
    snapshot: String,
    /// Folder to restore into
    #[arg(short, long, value_name = "DIR", required_unless_present = "to", conflicts_with = "to")]
    target: Option<PathBuf>,
    #[arg(long, value_name = "URL", value_parser = crate::words::url(), help = choices::to_help())]
    to: Option<String>,
    #[command(flatten)]
    declared: Declared<choices::OfRestore>,
    /// With --target, of a physical backup: make a data directory that a server can start on; --time does so,
    /// too
    #[arg(long, conflicts_with = "to")]
    prepare: bool,
    /// Restore this moment of an 'esker stream': with --to, or with --target if the stream stores files
    #[arg(long, value_parser = parse_moment, value_name = "TIME")]
    time: Option<jiff::Timestamp>,
    /// Only paths that match, as in .gitignore, where /x is x at the top of the snapshot or of
    /// SNAPSHOT:folder; each pattern must match something. With --to, names of keys or collections, with `*`, `?`
    /// and `[abc]`
    #[arg(short, long, value_name = "PATTERN")]
    include: Vec<OsString>,
    /// The same, ignoring case
    #[arg(long, value_name = "PATTERN")]
    iinclude: Vec<OsString>,
    /// Read patterns from a file, one per line; # begins a comment
    #[arg(long, value_name = "FILE")]
    include_file: Vec<PathBuf>,
    /// The same, ignoring case
    #[arg(long, value_name = "FILE")]
    iinclude_file: Vec<PathBuf>,
    /// Leave out paths that match
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<OsString>,
    /// The same, ignoring case
    #[arg(long, value_name = "PATTERN")]
    iexclude: Vec<OsString>,
    /// Read patterns from a file, one per line; # begins a comment
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// The same, ignoring case
    #[arg(long, value_name = "FILE")]
    iexclude_file: Vec<PathBuf>,
    /// What to do with existing files
    #[arg(long, value_enum, default_value = "always", value_name = "WHEN")]
    overwrite: When,
    /// Remove files that the snapshot does not have: only beneath paths that were backed up, and only where
    /// --include and --exclude apply; -n lists them
    #[arg(long)]
    delete: bool,
    /// With --delete, also remove files that the backup left out by its excludes
    #[arg(long)]
    delete_excluded: bool,
    /// Change nothing; print what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Leave holes where chunks are all zeros
    #[arg(long)]
    sparse: bool,
    /// Read all restored files again and compare them
    #[arg(long)]
    verify: bool,
    /// If needed packs are frozen, wait until they are thawed ('esker thaw start' requests that)
    #[arg(long)]
    wait_thaw: bool,
    /// Do not set owners and groups
    #[arg(long)]
    no_owner: bool,
    /// Do not ask for confirmation: with --whole, or with --delete in /, in the home or in the folder of the
    /// repository
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

impl Args {
    /// What connectors are told of it.
    fn chosen(&self) -> Result<Chosen, Failure> {
        let mut chosen = Chosen::at(self.time);
        self.declared.tell(&mut chosen)?;
        let own = [
            (&common::INCLUDE, &self.include, !self.include.is_empty()),
            (&common::EXCLUDE, &self.exclude, !self.exclude.is_empty()),
            (&common::DRY_RUN, &vec![], self.dry_run),
            (&common::NO_OWNER, &vec![], self.no_owner),
        ];
        for (choice, values, _) in own.into_iter().filter(|(_, _, is_given)| *is_given) {
            chosen.give(choice.flag, values.clone());
        }
        Ok(chosen)
    }
}

/// A moment: RFC 3339, or local time to the fraction of a second.
fn parse_moment(text: &str) -> Result<jiff::Timestamp, String> {
    text.parse().or_else(|_| super::parse_time(text))
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

/// Where it goes, for the log.
fn destination(args: &Args) -> String {
    match (&args.to, &args.target) {
        (Some(server), _) => engine::source::without_password(server),
        (None, Some(folder)) => engine::shown::path(folder),
        (None, None) => String::new(),
    }
}

fn restored(args: Args, context: &Context) -> CommandResult {
    let goal = choices::check(&args).map_err(Failure::of_arguments)?;
    let _in_it = tracing::info_span!("restore", target = destination(&args)).entered();
    match goal {
        Goal::Folder => files::run(&args, context),
        Goal::Target(target) => {
            let folder = args.target.as_deref().map(std::path::Path::as_os_str);
            let to = args.to.as_deref().map(std::ffi::OsStr::new).or(folder).unwrap_or_default();
            into::run(&args, target, to, context)
        }
    }
}
