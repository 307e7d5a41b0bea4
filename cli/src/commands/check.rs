//! `esker check`

use super::{parse_hours, parse_size, to_json};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use engine::verify::{CheckOptions, ReadData, check};
use serde_json::json;

/// Check the repository
///
/// Without options: key slots, index, presence and length of all packs, snapshots, and that every chunk
/// of every snapshot is in the index.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Read all data and verify it
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Read a part: n/t, a percentage such as 2.5%, or a size such as 10G
    ///
    /// Of a percentage or a size, those packs come first that this machine did not verify for the longest time;
    /// n/t takes always the same ones, for t machines or t nights.
    #[arg(long, value_parser = parse_subset, value_name = "SUBSET")]
    read_data_subset: Option<ReadData>,
    /// Leave out packs that this machine found sound within this time: hours, or 90m, 36h. Goes on with a
    /// reading that was interrupted
    #[arg(long, value_parser = parse_hours, value_name = "TIME")]
    not_verified_within: Option<u64>,
    /// Mend what is damaged from the parity beside each pack, and parity from its pack
    #[arg(long)]
    heal: bool,
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

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let read_data = if args.read_data { ReadData::All } else { args.read_data_subset.unwrap_or_default() };
    let repo = match context.uses_file() {
        // With the other tiers to mend from.
        true => context.open_named(&primary(context)?)?.repo,
        false => context.open()?,
    };
    let options =
        CheckOptions { read_data, not_verified_within_ms: args.not_verified_within, heal: args.heal };
    if args.heal && !repo.store().has_parity() && repo.store().storage().copies().is_empty() {
        context.console.say("this repository has neither parity nor another tier to mend from");
    }
    let report = context.console.during(|monitor| check(&repo, options, monitor))?;
    if context.global.json {
        let mut value = to_json(&report)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("message_type".into(), json!("summary"));
        }
        output::json_line(&value);
    } else {
        let say = |text: String| context.console.say(text);
        say(format!(
            "{} snapshots, {} index segments, {} packs",
            report.snapshots, report.segments, report.packs
        ));
        if report.packs_read > 0 {
            say(format!("read {} packs, {}", report.packs_read, output::bytes(report.bytes_read)));
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
        match report.num_errors {
            0 => say("no errors were found".into()),
            errors => say(format!("{errors} errors were found")),
        }
    }
    Ok(if report.num_errors > 0 { Code::Failed } else { Code::Done })
}
