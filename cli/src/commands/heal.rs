//! `esker heal`

use super::to_json;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::file::File;
use crate::fleet::TierOutcome;
use crate::output::{self, Summary};
use crate::places::Make;
use crate::tiers::Opened;
use crate::units::counted;
use chunkstore::storage::Storage;
use chunkstore::storage::tiered::Served;
use chunkstore::store::ChunkStore;
use engine::verify::{CheckReport, ReadData};
use serde_json::json;
use std::sync::Arc;

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
        let storage = context.storage(Make::No)?;
        let back = bring_back(&*storage)?;
        let opened = Opened::alone(context.open()?);
        return heal(&storage.place(), &opened, &|| vec![], back, args.quick, context);
    }
    let file = context.need_file()?;
    for name in &args.tiers {
        file.tier(name)?;
    }
    let mut code = recover(args, file, context)?;
    for tier in &file.tiers {
        let name = &tier.options.name;
        if !args.tiers.is_empty() && !args.tiers.contains(name) {
            continue;
        }
        let healed = tier
            .place
            .open(Make::No, tier.rates)
            .and_then(|storage| {
                context.refuse_another(tier, &*storage)?;
                context.refuse_to_write_alone()?;
                bring_back(&*storage)
            })
            .and_then(|back| {
                let opened = context.open_named(name)?;
                context.refuse_to_write_alone()?;
                Ok((back, opened))
            })
            .and_then(|(back, opened)| {
                heal(name, &opened, &|| others(name, context), back, args.quick || tier.frozen, context)
            });
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

/// Brings records of snapshots back, and to the primary the snapshots that only a copy has.
fn recover(args: &Args, file: &File, context: &Context) -> CommandResult {
    // That one cannot be opened is told by the look at it.
    let Ok(fleet) = context.fleet(None) else { return Ok(Code::Done) };
    let meant = |name: &str| args.tiers.is_empty() || args.tiers.iter().any(|tier| tier == name);
    let outcomes = fleet.recover(&meant, file, context)?;
    for outcome in &outcomes {
        if context.global.json {
            let mut value = to_json(outcome)?;
            value["message_type"] = json!("recovered");
            output::json_line(&value);
        } else {
            context.console.report(&outcome.describe(), outcome.is_behind());
        }
    }
    Ok(if outcomes.iter().any(TierOutcome::is_behind) { Code::Incomplete } else { Code::Done })
}

/// All tiers but one, the primary first, to read from. Those that cannot be opened are told of by the look at them.
fn others(name: &str, context: &Context) -> Vec<Arc<ChunkStore>> {
    let Ok(file) = context.need_file() else { return vec![] };
    let primary = file.primary().map(|tier| tier.options.name.as_str());
    let mut names: Vec<&str> = file.tiers.iter().map(|tier| tier.options.name.as_str()).collect();
    names.retain(|other| *other != name);
    names.sort_by_key(|other| Some(*other) != primary);
    let opened = names.into_iter().filter_map(|other| context.open_named_quietly(other).ok());
    opened.map(|opened| Arc::clone(opened.repo.store())).collect()
}

/// Takes away what lies above objects that are locked.
fn bring_back(storage: &dyn Storage) -> Result<u64, Failure> {
    match storage.shelf() {
        Some(shelf) if shelf.is_versioned()? => Ok(shelf.bring_back()?),
        _ => Ok(0),
    }
}

fn heal(
    name: &str,
    opened: &Opened,
    others: &dyn Fn() -> Vec<Arc<ChunkStore>>,
    back: u64,
    quick: bool,
    context: &Context,
) -> CommandResult {
    let read_data = if quick { ReadData::None } else { ReadData::All };
    let phase = format!("tier '{name}': check");
    let report = context
        .console
        .during(&phase, |monitor| engine::verify::heal(&opened.repo, others, read_data, monitor))?;
    context.console.summary(&summary(name, &report, back, &opened.served())?);
    if report.suggest_repair_index {
        let command = engine::repair_index(opened.repo.store());
        context.console.warn(&format!("{command} makes the index of '{name}' anew; then heal again"));
    }
    if report.packs_lost > 0 {
        let place = opened.repo.store().storage().place();
        context.console.warn(&format!(
            "what no place has is lost: 'esker -r {} repair packs --read-data' takes the packs off the index that cannot be \
             read, and then 'esker -r {} repair snapshots' makes the snapshots anew without what was in them",
            engine::shown::line(&place),
            engine::shown::line(&place)
        ));
    }
    Ok(if report.num_errors > 0 { Code::Failed } else { Code::Done })
}

fn summary(name: &str, report: &CheckReport, back: u64, served: &[Served]) -> Result<Summary, Failure> {
    let brought = match back {
        0 => String::new(),
        back => format!("; {} brought back from under later versions", counted(back, "object")),
    };
    let anew = match (report.packs_replaced, report.chunks_supplied) {
        (0, 0) => String::new(),
        (packs, chunks) => {
            let chunks = counted(chunks, "chunk");
            format!("; {packs} replaced by others ({chunks} read from other tiers and sealed anew)")
        }
    };
    let records = match report.snapshots_fetched {
        0 => String::new(),
        records => format!("; {} of a snapshot copied from another tier", counted(records, "record")),
    };
    let mut summary =
        Summary::of(report)?.with("tier", name).with("brought_back", back).with("sources", to_json(&served)?);
    summary.line(format!(
        "tier '{name}': {}, {} read; {} copied from other tiers ({}), {} mended from parity{anew}{records}{brought}; {} left",
            counted(report.packs, "pack"),
            report.packs_read,
            report.packs_fetched,
            output::bytes(report.bytes_fetched),
            report.packs_healed + report.parity_healed,
            counted(report.num_errors, "error")
    ));
    Ok(summary)
}
