//! `esker forget`

use super::prune::{PruneArgs, prune_and_print};
use super::{FilterArgs, split_tags};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::fleet::Work;
use crate::output;
use engine::policy::{GroupBy, GroupPlan, Keep, Period, Policy, Within, plan};
use engine::snapshot;
use serde_json::{Value, json};

/// Remove snapshots by rules or by id
///
/// Rules keep the newest snapshot of each period, separately for each host and set of paths. Data stays
/// until 'esker prune', or with --prune. Without rules and ids, the promises of esker.toml say what stays on which
/// tier. What is named by its id goes from all tiers.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Snapshots to remove, instead of rules
    snapshots: Vec<String>,
    /// Keep the last N snapshots, or 'unlimited'
    #[arg(short = 'l', long, value_name = "N")]
    keep_last: Option<Keep>,
    /// Keep the newest of the last N hours that have any
    #[arg(short = 'H', long, value_name = "N")]
    keep_hourly: Option<Keep>,
    /// Days
    #[arg(short = 'd', long, value_name = "N")]
    keep_daily: Option<Keep>,
    /// Weeks
    #[arg(short = 'w', long, value_name = "N")]
    keep_weekly: Option<Keep>,
    /// Months
    #[arg(short = 'm', long, value_name = "N")]
    keep_monthly: Option<Keep>,
    /// Years
    #[arg(short = 'y', long, value_name = "N")]
    keep_yearly: Option<Keep>,
    /// Keep everything newer than a span before the newest, such as 1y2m3d4h
    #[arg(long, value_name = "SPAN")]
    keep_within: Option<Within>,
    /// Keep hourly ones within a span
    #[arg(long, value_name = "SPAN")]
    keep_within_hourly: Option<Within>,
    /// Daily ones
    #[arg(long, value_name = "SPAN")]
    keep_within_daily: Option<Within>,
    /// Weekly ones
    #[arg(long, value_name = "SPAN")]
    keep_within_weekly: Option<Within>,
    /// Monthly ones
    #[arg(long, value_name = "SPAN")]
    keep_within_monthly: Option<Within>,
    /// Yearly ones
    #[arg(long, value_name = "SPAN")]
    keep_within_yearly: Option<Within>,
    /// Keep snapshots with all of these tags
    #[arg(long, value_name = "TAGS")]
    keep_tag: Vec<String>,
    /// Apply the rules to each group of these: host, paths, tags
    #[arg(short, long, default_value = "host,paths", value_name = "WHAT")]
    group_by: GroupBy,
    /// Allow rules that remove every snapshot of a group
    #[arg(long)]
    unsafe_allow_remove_all: bool,
    /// Only say what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Prune afterwards
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    prune_args: PruneArgs,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(crate) fn run(args: Args, context: &Context) -> CommandResult {
    let promised = context.uses_file() && !context.need_file()?.promises.is_empty();
    if args.snapshots.is_empty() && promised && policy(&args).is_empty() {
        return by_promises(&args, context);
    }
    let repo = context.open()?;
    let monitor = context.console.monitor();
    let mut all = repo.snapshots(monitor)?;
    let policy = policy(&args);
    let filter = args.filter.filter();
    let mut remove = vec![];
    if args.snapshots.is_empty() {
        if policy.is_empty() {
            return Err(Failure::new(
                "no rule: give --keep-last N or another --keep-…, or ids of snapshots to remove",
            ));
        }
        all.retain(|listed| filter.fits(&listed.snapshot));
        let zone = jiff::tz::TimeZone::system();
        let plans = plan(&policy, args.group_by, &all, context.now(), &zone, args.unsafe_allow_remove_all)?;
        for group in &plans {
            remove.extend(
                group
                    .verdicts
                    .iter()
                    .filter(|verdict| verdict.reasons.is_empty())
                    .map(|verdict| verdict.listed.id),
            );
        }
        print(&plans, context);
    } else {
        if !policy.is_empty() {
            return Err(Failure::new("give either snapshots or rules"));
        }
        for wanted in &args.snapshots {
            remove.push(snapshot::find(&all, wanted, &filter)?.id);
        }
    }
    if args.dry_run {
        context.console.say(format!("dry run: {} snapshots would be removed", remove.len()));
    } else if !remove.is_empty() {
        repo.forget(&remove)?;
        if !args.snapshots.is_empty() && context.uses_file() {
            forget_on_tiers(&remove, context)?;
        }
        if !context.global.json {
            context.console.say(format!("removed {} snapshots", remove.len()));
        }
    }
    if args.prune {
        return prune_and_print(&repo, &args.prune_args, args.dry_run, context);
    }
    Ok(if context.console.error_count() > 0 { Code::Incomplete } else { Code::Done })
}

/// What promises no longer ask for goes, tier by tier; or is only named.
fn by_promises(args: &Args, context: &Context) -> CommandResult {
    if !args.filter.is_empty() {
        return Err(Failure::new(
            "promises choose snapshots by themselves: leave --host, --tag and --path out",
        ));
    }
    let file = context.need_file()?;
    if args.dry_run {
        let fleet = context.fleet(None)?;
        let standing = fleet.standing(file, context, context.console.monitor())?;
        let names: Vec<&str> = file.tiers.iter().map(|tier| tier.options.name.as_str()).collect();
        let over = |tier: &str| -> Vec<String> {
            standing.over(tier).iter().map(|verdict| verdict.known.listed.id.to_string()).collect()
        };
        if context.global.json {
            let tiers: Vec<Value> =
                names.iter().map(|tier| json!({"tier": tier, "remove": over(tier)})).collect();
            output::json_line(&json!({"message_type": "summary", "dry_run": true, "tiers": tiers}));
            return Ok(Code::Done);
        }
        let mut table = output::table(&["ID", "Time", "Goes from", "Stays on", "Because"]);
        for verdict in &standing.verdicts {
            let listed = &verdict.known.listed;
            let there = verdict.known.tiers.iter();
            let goes: Vec<&str> =
                names.iter().copied().filter(|tier| over(tier).contains(&listed.id.to_string())).collect();
            let stays: Vec<&str> = there.map(String::as_str).filter(|tier| !goes.contains(tier)).collect();
            let why: Vec<&str> = verdict.reasons.iter().map(String::as_str).collect();
            table.add_row([
                listed.id.short(),
                super::show_time(listed.snapshot.time),
                goes.join(", "),
                stays.join(", "),
                why.join("; "),
            ]);
        }
        context.console.say(table.trim_fmt());
        return Ok(Code::Done);
    }
    let work = Work { forget: true, prune: args.prune, ..Work::default() };
    super::tier::work_and_print(&work, context)
}

/// A snapshot that is named is meant wherever it lies.
fn forget_on_tiers(ids: &[chunkstore::ObjectId], context: &Context) -> Result<(), Failure> {
    let fleet = context.fleet(None)?;
    for tier in &fleet.tiers {
        let there: Vec<_> = tier.repo.snapshot_roots().iter().map(|root| root.id).collect();
        let gone: Vec<_> = ids.iter().copied().filter(|id| there.contains(id)).collect();
        tier.forget(&gone)?;
    }
    for (name, why) in &fleet.away {
        context.console.warn(&format!("tier '{name}' still has them: {why}"));
    }
    Ok(())
}

fn policy(args: &Args) -> Policy {
    let keep = [
        (Period::Snapshot, args.keep_last),
        (Period::Hour, args.keep_hourly),
        (Period::Day, args.keep_daily),
        (Period::Week, args.keep_weekly),
        (Period::Month, args.keep_monthly),
        (Period::Year, args.keep_yearly),
    ];
    let within = [
        (Period::Snapshot, args.keep_within),
        (Period::Hour, args.keep_within_hourly),
        (Period::Day, args.keep_within_daily),
        (Period::Week, args.keep_within_weekly),
        (Period::Month, args.keep_within_monthly),
        (Period::Year, args.keep_within_yearly),
    ];
    Policy {
        keep: keep.into_iter().filter_map(|(period, keep)| Some((period, keep?))).collect(),
        within: within.into_iter().filter_map(|(period, within)| Some((period, within?))).collect(),
        tags: args.keep_tag.iter().map(|tags| split_tags(tags)).collect(),
    }
}

fn print(plans: &[GroupPlan], context: &Context) {
    if context.global.json {
        let groups: Vec<Value> = plans.iter().map(group_json).collect();
        output::json_line(&Value::Array(groups));
        return;
    }
    for group in plans {
        context.console.say(format!(
            "host '{}', paths {}, tags {}:",
            group.key.hostname,
            group.key.paths.join(" "),
            group.key.tags.join(",")
        ));
        for verdict in &group.verdicts {
            let what = if verdict.reasons.is_empty() { "remove" } else { "keep" };
            let time = super::show_time(verdict.listed.snapshot.time);
            context.console.say(format!(
                "  {what:6} {} {time}  {}",
                verdict.listed.id.short(),
                verdict.reasons.join(", ")
            ));
        }
    }
}

fn group_json(group: &GroupPlan) -> Value {
    let list = |kept: bool| -> Vec<Value> {
        let chosen = group.verdicts.iter().filter(|verdict| verdict.reasons.is_empty() != kept);
        chosen.map(|verdict| super::snapshots::to_json(&verdict.listed)).collect()
    };
    let reasons: Vec<Value> = group
        .verdicts
        .iter()
        .filter(|verdict| !verdict.reasons.is_empty())
        .map(|verdict| json!({"snapshot": super::snapshots::to_json(&verdict.listed), "matches": verdict.reasons}))
        .collect();
    json!({
        "tags": group.key.tags, "host": group.key.hostname, "paths": group.key.paths,
        "keep": list(true), "remove": list(false), "reasons": reasons,
    })
}
