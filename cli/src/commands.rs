//! One file per verb: its arguments, and what it calls and prints.

use crate::config::Global;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::{key_services, small};
use clap::{Parser, Subcommand};
use engine::names::{normal_path, path_text};
use engine::policy::{Keep, Period};
use engine::snapshot::{Filter, Listed};
use engine::{Monitor, Repository};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

mod backup;
mod bench;
mod cat;
mod check;
mod config;
mod connectors;
mod copy;
mod diff;
mod drill;
mod dump;
mod find;
mod forget;
mod from;
mod generate;
mod heal;
mod host;
mod import;
mod init;
mod key;
mod list;
pub(crate) mod lists;
mod ls;
mod plan;
mod prune;
mod repair;
mod replaced;
mod restore;
mod rewrite;
mod run;
mod snapshots;
mod stats;
mod stay;
mod stream;
mod tag;
mod thaw;
mod tier;
mod unlock;
mod version;

/// Backs up files, streams and databases into an encrypted, deduplicated repository.
#[derive(Parser, Debug)]
#[command(name = "esker", version, about, max_term_width = 100, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 3 incomplete, 10 no repository, 11 try again, 12 wrong password,\n20 source command failed, 21 dump not whole, 22 frozen, 24 drill failed, 25 source unavailable, 26 source empty, 27 storage full, 28 superseded, 29 key service away, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Command,
    /// What the command is called, for the log.
    #[arg(skip)]
    pub(crate) verb: String,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Create a repository
    Init(init::Args),
    /// Back up paths, streams, commands and databases
    Backup(backup::Args),
    /// List snapshots
    Snapshots(snapshots::Args),
    /// List the content of a snapshot
    Ls(ls::Args),
    /// List the names of objects and chunks in the repository
    List(list::Args),
    /// Nothing to do: esker uses no locks
    Unlock(unlock::Args),
    /// Find files in snapshots by name
    Find(find::Args),
    /// Show what changed between two snapshots
    Diff(diff::Args),
    /// Restore a snapshot or a part of it into a folder or a running server
    Restore(restore::Args),
    /// Write one file or stream of a snapshot to standard output, or a folder as tar or zip
    Dump(dump::Args),
    /// Remove snapshots by rules or by id
    Forget(forget::Args),
    /// Remove data that no snapshot needs
    Prune(prune::Args),
    /// Measure this machine on your data, and find suitable settings
    Bench(bench::Args),
    /// Forecast sizes, times and costs from a few versions of a source
    Plan(plan::Args),
    /// Check the repository
    Check(check::Args),
    /// Rehearse restores into scratch servers, timed and proved
    Drill(drill::Args),
    /// Replace damaged and missing objects of any tier by those of another tier
    Heal(heal::Args),
    /// Back up the sources of esker.toml, copy to its tiers, forget by its promises
    Run(run::Args),
    /// Show, make and update copies of the repository
    Tier(tier::Args),
    /// Plan, request and follow the thawing of packs that a restore needs
    Thaw(thaw::Args),
    /// Copy snapshots to another repository
    Copy(copy::Args),
    /// Import the snapshots of a restic repository
    Import(import::Args),
    /// Check and show esker.toml
    Config(config::Args),
    /// Stay connected to a server and store every change
    Stream(stream::Args),
    /// Show sizes
    Stats(stats::Args),
    /// Add, remove and change passwords and keys
    Key(key::Args),
    /// Hosts that may only write: add and revoke them, and take in what they back up
    Host(host::Args),
    /// Rebuild damaged parts of the repository
    Repair(repair::Args),
    /// Print internal records as JSON
    Cat(cat::Args),
    /// Write snapshots again without some of their files, or with another host or time
    Rewrite(rewrite::Args),
    /// Change the tags of snapshots
    Tag(tag::Args),
    /// List the systems that can be backed up, and what can be done with each
    Connectors,
    /// Print version and build
    Version,
    /// Generate shell completions and manual pages
    Generate(generate::Args),
}

impl Command {
    /// Whether there is nothing left to do once nobody reads what is printed.
    fn only_prints(&self) -> bool {
        match self {
            Self::Snapshots(_)
            | Self::Ls(_)
            | Self::List(_)
            | Self::Find(_)
            | Self::Diff(_)
            | Self::Dump(_)
            | Self::Stats(_)
            | Self::Cat(_)
            | Self::Config(_)
            | Self::Connectors
            | Self::Version => true,
            Self::Key(args) => args.only_prints(),
            Self::Host(args) => args.only_prints(),
            Self::Tier(args) => args.only_prints(),
            Self::Thaw(args) => args.only_prints(),
            Self::Drill(args) => args.only_prints(),
            Self::Generate(args) => args.only_prints(),
            _ => false,
        }
    }
}

/// Runs the command line.
pub(crate) fn run(cli: Cli) -> CommandResult {
    match dispatch(cli) {
        // Whatever gave up, it did so because of the signal; children get it, too.
        Err(failure) if small::is_stopped() && gave_up(failure.code) => {
            Err(Failure { code: Code::Interrupted, ..failure })
        }
        result => result,
    }
}

/// Whether a code may stand for a wait that was given up.
fn gave_up(code: Code) -> bool {
    matches!(code, Code::Failed | Code::SourceUnavailable | Code::SourceCommand | Code::SourceIncomplete)
}

fn dispatch(cli: Cli) -> CommandResult {
    let context = Context::new(cli.global)?;
    key_services::clear(context.global.keep(None))?;
    if cli.command.only_prints() {
        context.console.only_prints();
    }
    match cli.command {
        Command::Config(args) => return config::run(&args, &context),
        Command::Connectors => return connectors::run(&context),
        Command::Version => return version::run(&context),
        _ => {}
    }
    let context = context.with_file()?;
    key_services::clear(context.global.keep(context.own_file()))?;
    match cli.command {
        // Done above, without reading esker.toml.
        Command::Config(_) | Command::Connectors | Command::Version => Ok(Code::Done),
        Command::Drill(args) => drill::run(&args, &context),
        Command::Heal(args) => heal::run(&args, &context),
        Command::Run(args) => run::run(&args, &context),
        Command::Tier(args) => tier::run(&args, &context),
        Command::Thaw(args) => thaw::run(&args, &context),
        Command::Copy(args) => copy::run(&args, &context),
        Command::Import(args) => import::run(&args, &context),
        Command::Init(args) => init::run(&args, &context),
        Command::Backup(args) => backup::run(args, &context),
        Command::Snapshots(args) => snapshots::run(&args, &context),
        Command::Ls(args) => ls::run(&args, &context),
        Command::List(args) => list::run(&args, &context),
        Command::Unlock(args) => unlock::run(&args, &context),
        Command::Find(args) => find::run(&args, &context),
        Command::Diff(args) => diff::run(&args, &context),
        Command::Restore(args) => restore::run(args, &context),
        Command::Dump(args) => dump::run(&args, &context),
        Command::Forget(args) => forget::run(args, &context),
        Command::Bench(args) => bench::run(&args, &context),
        Command::Plan(args) => plan::run(&args, &context),
        Command::Prune(args) => prune::run(&args, &context),
        Command::Check(args) => check::run(&args, &context),
        Command::Stats(args) => stats::run(&args, &context),
        Command::Stream(args) => stream::run(&args, &context),
        Command::Key(args) => key::run(args, &context),
        Command::Host(args) => host::run(args, &context),
        Command::Repair(args) => repair::run(&args, &context),
        Command::Cat(args) => cat::run(&args, &context),
        Command::Rewrite(args) => rewrite::run(&args, &context),
        Command::Tag(args) => tag::run(&args, &context),
        Command::Generate(args) => generate::run(&args, &context),
    }
}

/// Which snapshots are meant.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct FilterArgs {
    /// Only snapshots of this host (repeat to allow several)
    #[arg(short = 'H', long, value_name = "HOST", value_parser = crate::words::kept())]
    host: Vec<String>,
    /// Only snapshots with all of these tags (a,b; repeat to allow several sets)
    #[arg(long, value_name = "TAGS", value_parser = crate::words::kept())]
    tag: Vec<String>,
    /// Only snapshots of this path, absolute or relative (repeat to require several)
    #[arg(long, value_name = "PATH")]
    path: Vec<OsString>,
}

impl FilterArgs {
    /// Whether every snapshot is meant.
    pub(crate) fn is_empty(&self) -> bool {
        self.host.is_empty() && self.tag.is_empty() && self.path.is_empty()
    }

    pub(crate) fn filter(&self) -> Filter {
        Filter {
            hosts: self.host.clone(),
            tags: self.tag.iter().map(|set| split_tags(set)).collect(),
            paths: self.path.iter().map(forms).collect(),
        }
    }

    /// The snapshots of a repository that are named, or else that fit. That nothing fits is an error. Of the others nothing is
    /// kept in memory.
    pub(crate) fn choose(
        &self,
        repo: &Repository,
        named: &[String],
        monitor: &dyn Monitor,
    ) -> Result<Vec<Listed>, Failure> {
        let chosen = repo.choose(&self.filter(), named, monitor)?;
        Ok(chosen.into_iter().map(|ranked| ranked.listed).collect())
    }
}

/// What a path on the command line may be in a snapshot: the path from here, or the text of one that a list showed.
fn forms(path: &OsString) -> Vec<String> {
    let here = std::env::current_dir().unwrap_or_default().join(path);
    let mut forms = vec![normal_path(&path_text(here.as_os_str().as_bytes()))];
    let shown = here.to_str().map(normal_path);
    forms.extend(shown.filter(|shown| *shown != forms[0]));
    forms
}

/// `a,b` as a list.
pub(crate) fn split_tags(text: &str) -> Vec<String> {
    text.split(',').map(|tag| tag.trim().to_owned()).collect()
}

/// A rule such as `daily=7`.
pub(crate) fn parse_keep(text: &str) -> Result<(Period, Keep), String> {
    let (name, count) = text.split_once('=').ok_or("expected a rule such as daily=7")?;
    let period = match name {
        "last" => Period::Snapshot,
        "hourly" => Period::Hour,
        "daily" => Period::Day,
        "weekly" => Period::Week,
        "monthly" => Period::Month,
        "yearly" => Period::Year,
        _ => return Err("expected last, hourly, daily, weekly, monthly or yearly".into()),
    };
    Ok((period, count.parse()?))
}

/// A size such as `10G`, `500M`, `64k` or plain bytes; powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().trim_end_matches("ib").trim_end_matches('b')
    {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        "t" => 1 << 40,
        _ => return Err("expected a size such as 10G, 500M or 64k".into()),
    };
    let number: u64 = digits.parse().map_err(|_| "expected a size such as 10G, 500M or 64k".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "too large".into())
}

/// The time that a person wrote: RFC 3339, or `YYYY-MM-DD HH:MM:SS` in local time.
pub(crate) fn parse_time(text: &str) -> Result<jiff::Timestamp, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time);
    }
    let civil: jiff::civil::DateTime =
        text.parse().map_err(|_| "expected 2026-01-31T04:05:06Z or '2026-01-31 04:05:06'")?;
    civil
        .to_zoned(jiff::tz::TimeZone::system())
        .map(|zoned| zoned.timestamp())
        .map_err(|error| error.to_string())
}

/// A time for people: local with its offset, to the second, as [`parse_time`] reads it.
pub(crate) fn show_time(time: jiff::Timestamp) -> String {
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
}

/// A moment of a stream for people, from milliseconds since 1970: as [`show_time`], with the fraction of the second.
pub(crate) fn show_moment(ms: u64) -> String {
    let zoned = time_of(ms).to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S%.f%:z").to_string()
}

/// The time of so many milliseconds since the Unix epoch; its beginning for what is none.
pub(crate) fn time_of(ms: u64) -> jiff::Timestamp {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.unwrap_or_default()
}

/// RFC 3339 with the local offset, as restic prints it.
pub(crate) fn json_time(time: jiff::Timestamp) -> String {
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string()
}

/// Turns a serialisation into JSON; ours cannot fail.
pub(crate) fn to_json(value: &impl serde::Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::new(error.to_string()))
}

/// What can take the dump apart that an entry is of, and the dump's path.
fn dump_of(
    from: engine::connector::Origin<'_>,
) -> Option<(&'static dyn engine::connector::Contents, String)> {
    let mut all = ::connectors::all().iter().filter_map(|connector| connector.contents());
    all.find_map(|contents| Some((contents, contents.dump_of(from)?)))
}

/// What knows a path that is inside a dump.
fn holder(from: engine::connector::Origin<'_>) -> Option<&'static dyn engine::connector::Contents> {
    let mut all = ::connectors::all().iter().filter_map(|connector| connector.contents());
    all.find(|contents| contents.holds(from))
}
