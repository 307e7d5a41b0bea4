//! One file per verb: its arguments, and what it calls and prints.

use crate::config::Global;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use clap::{Parser, Subcommand};
use engine::policy::{Keep, Period};
use engine::snapshot::Filter;

mod backup;
mod bench;
mod cat;
mod check;
mod config;
mod copy;
mod diff;
mod dump;
mod find;
mod forget;
mod generate;
mod heal;
mod init;
mod key;
mod ls;
mod plan;
mod prune;
mod repair;
mod restore;
mod run;
mod snapshots;
mod stats;
mod stream;
mod tag;
mod thaw;
mod tier;
mod version;

/// Backs up files, streams and databases into an encrypted, deduplicated repository.
#[derive(Parser, Debug)]
#[command(name = "esker", version, about, max_term_width = 100, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 3 incomplete, 10 no repository, 11 try again, 12 wrong password,\n20 source command failed, 21 dump not whole, 22 frozen, 25 source unavailable, 26 source empty, 27 storage full, 28 superseded, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Create a repository
    Init(init::Args),
    /// Back up paths, streams, commands and databases
    Backup(backup::Args),
    /// List snapshots
    Snapshots(snapshots::Args),
    /// List what is in a snapshot
    Ls(ls::Args),
    /// Find files in snapshots by name
    Find(find::Args),
    /// Show what changed between two snapshots
    Diff(diff::Args),
    /// Restore a snapshot or a part of it into a folder or a live server
    Restore(restore::Args),
    /// Write one file or stream of a snapshot to standard output
    Dump(dump::Args),
    /// Remove snapshots by rules or by id
    Forget(forget::Args),
    /// Remove data that no snapshot needs
    Prune(prune::Args),
    /// Measure this machine on your data, and which settings suit it
    Bench(bench::Args),
    /// Forecast sizes, times and costs from a few versions of a source
    Plan(plan::Args),
    /// Check the repository
    Check(check::Args),
    /// Replace what is damaged or missing on any tier by what another one has
    Heal(heal::Args),
    /// Back up the sources of esker.toml, copy to its tiers, forget by its promises
    Run(run::Args),
    /// Copies of the repository: how they stand, and bringing them up to date
    Tier(tier::Args),
    /// Plan, ask for and follow the thawing of what a restore needs
    Thaw(thaw::Args),
    /// Copy snapshots to another repository
    Copy(copy::Args),
    /// Check and show esker.toml
    Config(config::Args),
    /// Stay attached to a Redis, PostgreSQL or MariaDB and keep every moment of it
    Stream(stream::Args),
    /// Show sizes
    Stats(stats::Args),
    /// Add, remove and change passwords
    Key(key::Args),
    /// Make damaged parts anew from what is there
    Repair(repair::Args),
    /// Print internal records as JSON
    Cat(cat::Args),
    /// Change the tags of snapshots
    Tag(tag::Args),
    /// Print version and build
    Version,
    /// Generate shell completions and manual pages
    Generate(generate::Args),
}

/// Runs the command line.
pub(crate) fn run(cli: Cli) -> CommandResult {
    let context = Context::new(cli.global)?;
    match cli.command {
        Command::Config(args) => return config::run(&args, &context),
        Command::Version => return version::run(&context),
        _ => {}
    }
    let context = context.with_file()?;
    match cli.command {
        // Done above, without reading esker.toml.
        Command::Config(_) | Command::Version => Ok(Code::Done),
        Command::Heal(args) => heal::run(&args, &context),
        Command::Run(args) => run::run(&args, &context),
        Command::Tier(args) => tier::run(&args, &context),
        Command::Thaw(args) => thaw::run(&args, &context),
        Command::Copy(args) => copy::run(&args, &context),
        Command::Init(args) => init::run(&args, &context),
        Command::Backup(args) => backup::run(args, &context),
        Command::Snapshots(args) => snapshots::run(&args, &context),
        Command::Ls(args) => ls::run(&args, &context),
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
        Command::Repair(args) => repair::run(&args, &context),
        Command::Cat(args) => cat::run(&args, &context),
        Command::Tag(args) => tag::run(&args, &context),
        Command::Generate(args) => generate::run(&args, &context),
    }
}

/// Which snapshots are meant.
#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct FilterArgs {
    /// Only snapshots of this host (repeat for any of several)
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// Only snapshots with all of these tags (a,b; repeat for any of several sets)
    #[arg(long, value_name = "TAGS")]
    tag: Vec<String>,
    /// Only snapshots of this path (repeat for all of several)
    #[arg(long, value_name = "PATH")]
    path: Vec<String>,
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
            paths: self.path.clone(),
        }
    }
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

/// Milliseconds from hours, or from a duration with its unit.
pub(crate) fn parse_hours(text: &str) -> Result<u64, String> {
    if let Ok(hours) = text.parse::<u64>() {
        return Ok(hours.saturating_mul(3_600_000));
    }
    let parsed = text.parse::<jiff::SignedDuration>().ok();
    let ms = parsed.and_then(|duration| u64::try_from(duration.as_millis()).ok());
    ms.ok_or_else(|| format!("'{text}' is neither hours nor a time such as 90m"))
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

/// A time for people: local, to the second.
pub(crate) fn show_time(time: jiff::Timestamp) -> String {
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// RFC 3339 with the local offset, as restic prints it.
pub(crate) fn json_time(time: jiff::Timestamp) -> String {
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string()
}

/// Turns a serialisation into JSON; ours cannot fail.
pub(crate) fn to_json(value: &impl serde::Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::new(error.to_string()))
}
