//! What a forecast stands on: what was planned, from what, when, and what is assumed.

use super::Args;
use crate::config::hostname;
use crate::context::{Context, cores};
use crate::output::bytes;
use crate::units::counted;
use crate::units::duration;
use engine::plan::{Measured, Model};
use engine::policy::{Keep, Period};

/// What was measured, and where it comes from.
pub(super) struct Planned {
    pub(super) measured: Measured,
    /// The versions or the snapshots that were measured, for people.
    pub(super) from: String,
    /// Hours between two backups of the plan.
    pub(super) every_hours: f64,
}

/// The lines that stand above a forecast.
pub(super) fn lines(planned: &Planned, model: &Model, args: &Args, context: &Context) -> Vec<String> {
    let every = hours(planned.every_hours);
    let keep: Vec<String> = args
        .keep
        .iter()
        .map(|(period, rule)| match rule {
            Keep::Count(count) => format!("{}={count}", name(*period)),
            Keep::Unlimited => format!("{}=unlimited", name(*period)),
        })
        .collect();
    let keep = match keep.is_empty() {
        true => "everything is kept".to_owned(),
        false => format!("kept: {}, with a prune after each backup", keep.join(", ")),
    };
    let delta = if args.no_delta { "changed chunks are stored whole" } else { "changed chunks are deltas" };
    let fixed = model.fixed;
    let fixed = match planned.measured.unchanged {
        Some(_) => format!(
            "A backup in which nothing changed takes {} and {}, measured; nothing is planned below that.",
            bytes(fixed.bytes as u64),
            duration(fixed.seconds)
        ),
        None => format!(
            "No backup is planned below the smallest that was measured: {} and {}.",
            bytes(fixed.bytes as u64),
            duration(fixed.seconds)
        ),
    };
    vec![
        format!("Planned from {}.", planned.from),
        format!(
            "Made {} by esker {} on {} with {}.",
            jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S%:z"),
            env!("CARGO_PKG_VERSION"),
            hostname(),
            counted(cores(), "core")
        ),
        format!("A backup every {every} for {}; {keep}.", counted(args.days, "day")),
        format!(
            "Chunks of {} on average, packs of {} MiB, compression {}; {delta}.",
            bytes(args.chunk_size),
            context.global.pack_size,
            format!("{:?}", context.global.compression).to_lowercase()
        ),
        growth(model),
        format!(
            "A backup stores {} for what changed and {} for what the source grew by, more for a larger source.",
            bytes(model.changed as u64),
            bytes(model.grown as u64)
        ),
        fixed,
        format!(
            "The band: growth of two standard errors more or less ({} a backup), changes of ± {:.0} %, and as much \
             unused data as a prune leaves.",
            bytes((2.0 * model.slope_error) as u64),
            model.error * 100.0
        ),
    ]
}

/// A rule as `--keep` takes it.
fn name(period: Period) -> &'static str {
    match period {
        Period::Snapshot => "last",
        Period::Hour => "hourly",
        Period::Day => "daily",
        Period::Week => "weekly",
        Period::Month => "monthly",
        Period::Year => "yearly",
    }
}

fn growth(model: &Model) -> String {
    let by = bytes(model.slope.abs() as u64);
    let source = bytes(model.source as u64);
    // Less than a millionth of the source is no growth.
    match model.slope {
        slope if slope.abs() * 1e6 < model.source.max(1.0) => {
            format!("The source of {source} stays as large as it is.")
        }
        slope if slope > 0.0 => {
            format!(
                "The source of {source} grows by {by} a backup, in a straight line: growth is not compounded."
            )
        }
        _ => format!(
            "The source of {source} shrinks by {by} a backup, in a straight line, until nothing is left."
        ),
    }
}

/// A number of hours, for people.
fn hours(hours: f64) -> String {
    match hours {
        1.0 => "hour".to_owned(),
        24.0 => "day".to_owned(),
        _ => format!("{hours} hours"),
    }
}
