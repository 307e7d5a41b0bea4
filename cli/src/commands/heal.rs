//! `esker heal`

use super::to_json;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use crate::tiers::Opened;
use chunkstore::storage::Storage;
use engine::verify::{CheckOptions, ReadData, check};
use serde_json::json;

/// Replace what is damaged or missing on any tier by what another one has
///
/// Reads every pack that can be read; what is frozen is only looked for. Where no tier has a sound copy, parity
/// makes up for what it can; and what was removed or replaced although it was locked is brought back first.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only these tiers
    tiers: Vec<String>,
    /// Only look for what is missing or has the wrong length; read nothing
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    if !context.uses_file() {
        // One store by itself, as after a disaster.
        let storage = context.storage(false)?;
        let back = bring_back(&*storage)?;
        let opened = Opened::alone(context.open()?);
        return heal(&storage.place(), &opened, back, args.quick, context);
    }
    let file = context.need_file()?;
    for name in &args.tiers {
        file.tier(name)?;
    }
    let mut code = Code::Done;
    for tier in &file.tiers {
        let name = &tier.options.name;
        if !args.tiers.is_empty() && !args.tiers.contains(name) {
            continue;
        }
        let healed = tier
            .place
            .open(false, tier.rates)
            .and_then(|storage| bring_back(&*storage))
            .and_then(|back| Ok((back, context.open_named(name)?)))
            .and_then(|(back, opened)| heal(name, &opened, back, args.quick || tier.frozen, context));
        match healed {
            Ok(Code::Done) => {}
            Ok(other) => code = other,
            Err(failure) => {
                context.console.warn(&format!("tier '{name}': {}", failure.message));
                if code == Code::Done {
                    code = Code::Incomplete;
                }
            }
        }
    }
    Ok(code)
}

/// Takes away what lies above objects that are locked.
fn bring_back(storage: &dyn Storage) -> Result<u64, Failure> {
    match storage.shelf() {
        Some(shelf) if shelf.is_versioned()? => Ok(shelf.bring_back()?),
        _ => Ok(0),
    }
}

fn heal(name: &str, opened: &Opened, back: u64, quick: bool, context: &Context) -> CommandResult {
    let read_data = if quick { ReadData::None } else { ReadData::All };
    let options = CheckOptions { read_data, heal: true, ..CheckOptions::default() };
    let report = context.console.during(|monitor| check(&opened.repo, options, monitor))?;
    if context.global.json {
        let mut value = to_json(&report)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("message_type".into(), json!("summary"));
            object.insert("tier".into(), json!(name));
            object.insert("brought_back".into(), json!(back));
            object.insert("sources".into(), json!(opened.served()));
        }
        output::json_line(&value);
    } else {
        let back = if back > 0 {
            format!("; {back} objects brought back from under later versions")
        } else {
            String::new()
        };
        context.console.say(format!(
            "tier '{name}': {} packs, {} read; {} copied from other tiers ({}), {} mended from parity{back}; {} errors left",
            report.packs,
            report.packs_read,
            report.packs_fetched,
            output::bytes(report.bytes_fetched),
            report.packs_healed + report.parity_healed,
            report.num_errors
        ));
    }
    Ok(if report.num_errors > 0 { Code::Failed } else { Code::Done })
}
