//! `esker check`

use super::{FilterArgs, parse_size};
use crate::context::Context;
use crate::durations;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::{self, Summary};
use crate::places::Place;
use crate::units::counted;
use chunkstore::storage::local::exposed;
use engine::shown;
use engine::verify::{CheckOptions, CheckReport, ReadData, check_some};

/// Check the repository
///
/// Without options: key slots, index, presence and length of all packs, snapshots, and that every chunk
/// of every snapshot is in the index.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Of the snapshots, look only at these, and read only the packs that they need
    snapshots: Vec<String>,
    /// Read all data and verify it
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Read a part: n/t, a percentage such as 2.5%, or a size such as 10G
    ///
    /// Of a percentage or a size, those packs come first that this machine did not verify for the longest time;
    /// n/t takes always the same ones, for t machines or t nights.
    #[arg(long, value_parser = parse_subset, value_name = "SUBSET")]
    read_data_subset: Option<ReadData>,
    /// Leave out packs that this machine found sound within this time: hours, or 90m, 36h, 7d. Goes on with a
    /// reading that was interrupted
    #[arg(long, value_parser = durations::hours, value_name = "TIME")]
    not_verified_within: Option<u64>,
    /// Nothing to do: what is checked is always read from the repository, never from a cache
    #[arg(long)]
    with_cache: bool,
    /// Mend what is damaged from the parity beside each pack, and parity from its pack
    #[arg(long)]
    heal: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

fn parse_subset(text: &str) -> Result<ReadData, String> {
    if let Some((number, parts)) = text.split_once('/') {
        return match (number.parse(), parts.parse()) {
            (Ok(number), Ok(parts)) if 1 <= number && number <= parts => Ok(ReadData::Part(number, parts)),
            _ => Err("expected n/t with 1 <= n <= t".into()),
        };
    }
    match text.strip_suffix('%') {
        Some(percent) => match percent.parse::<f64>() {
            Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(ReadData::Share(percent / 100.0)),
            _ => Err("expected a percentage above 0".into()),
        },
        None => parse_size(text).map(ReadData::Bytes),
    }
}

/// The name of the primary in esker.toml.
fn primary(context: &Context) -> Result<String, Failure> {
    let primary = context.need_file()?.primary();
    primary.map(|tier| tier.options.name.clone()).ok_or_else(|| Failure::new("esker.toml names no primary"))
}

/// Says what others can read of a repository in a folder.
fn warn_of_readers(context: &Context) -> Result<(), Failure> {
    let (Place::Folder(folder), _) = context.place()? else { return Ok(()) };
    let exposed = exposed(&folder)?;
    if let Some(first) = exposed.first() {
        let keys =
            exposed.iter().filter(|path| path.parent().is_some_and(|above| above.ends_with("keys"))).count();
        context.console.warn(&format!(
            "others than its owner get into {}, and can read {keys} of its key slots, on which passwords can be \
             tried: chmod -R go= it, or make one with 'init --shared' for a group",
            shown::path(first)
        ));
    }
    Ok(())
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let read_data = if args.read_data { ReadData::All } else { args.read_data_subset.unwrap_or_default() };
    let repo = match context.uses_file() {
        // With the other tiers to mend from.
        true => context.open_named(&primary(context)?)?.repo,
        false => context.open_to_look()?,
    };
    if args.heal {
        context.refuse_to_write_alone()?;
    }
    warn_of_readers(context)?;
    let options =
        CheckOptions { read_data, not_verified_within_ms: args.not_verified_within, heal: args.heal };
    if args.heal && !repo.store().has_parity() && repo.store().storage().copies().is_empty() {
        context.console.say("this repository has neither parity nor another tier to mend from");
    }
    let some = match args.snapshots.is_empty() && args.filter.is_empty() {
        true => None,
        false => {
            let chosen = args.filter.choose(&repo, &args.snapshots, context.console.monitor())?;
            Some(chosen.iter().map(|listed| listed.id).collect())
        }
    };
    let report =
        context.console.during("check", |monitor| check_some(&repo, some.as_ref(), options, monitor))?;
    context.console.summary(&summary(&report, context)?);
    Ok(if report.num_errors > 0 { Code::Failed } else { Code::Done })
}

fn summary(report: &CheckReport, context: &Context) -> Result<Summary, Failure> {
    let mut summary = Summary::of(report)?;
    let mut say = |text: String| summary.line(text);
    say(format!(
        "{}, {}, {}",
        counted(report.snapshots, "snapshot"),
        counted(report.segments, "index segment"),
        counted(report.packs, "pack")
    ));
    if report.packs_read > 0 {
        say(format!("read {}, {}", counted(report.packs_read, "pack"), output::bytes(report.bytes_read)));
    }
    for healed in &report.healed {
        say(format!("healed {healed}"));
    }
    if report.suggest_heal {
        say("'esker check --read-data --heal' mends what parity makes up for".into());
    }
    if report.suggest_repair_index {
        say("'esker repair index' makes the damaged segments anew".into());
    }
    let has_copies = context.uses_file() && context.need_file()?.copies().next().is_some();
    if report.num_errors > 0 && has_copies {
        say("'esker heal' mends what another tier has".into());
    }
    match report.num_errors {
        0 => say("no errors were found".into()),
        1 => say("1 error was found".into()),
        errors => say(format!("{errors} errors were found")),
    }
    Ok(summary)
}
