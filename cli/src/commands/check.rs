//! `esker check`

use super::{parse_size, to_json};
use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output;
use engine::verify::{ReadData, check};
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
    #[arg(long, value_parser = parse_subset, value_name = "SUBSET")]
    read_data_subset: Option<ReadData>,
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

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let read_data = if args.read_data { ReadData::All } else { args.read_data_subset.unwrap_or_default() };
    let repo = context.open()?;
    let report = context.console.during(|monitor| check(&repo, read_data, monitor))?;
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
