//! `esker forget`

use super::prune::{PruneArgs, prune_and_print};
use super::replaced::Replaced;
use super::{FilterArgs, split_tags};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::fleet::Work;
use crate::output::{self, Summary};
use crate::units::{counted, counted_are};
use chunkstore::ObjectId;
use chunkstore::format::names;
use engine::monitor::Tally;
use engine::policy::{GroupBy, GroupPlan, Keep, Period, Policy, UNKNOWN, Verdict, Within, plan};
use engine::rank::{Ranked, ranked};
use engine::snapshot::{self, Filter, Listed};
use engine::{Error, Repository};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};

/// Remove snapshots by rules or by id
///
/// Rules are restic's: each keeps the newest snapshot of each period, and the oldest of all as long as it has counts left,
/// separately for each host, set of paths and origin: each database, each command and each source of esker.toml by itself.
/// Other than restic, what is held (tag --hold, backup --keep-until) and what is from the future is kept and counts for
/// nothing. Data stays until 'esker prune', or with --prune. Without rules and ids, the promises of esker.toml say what
/// stays on which tier; they only end what runs made. What is named by its id goes from all tiers.
#[derive(clap::Args, Debug)]
// -H is --keep-hourly here.
#[command(mut_arg("host", |arg| arg.short(None::<char>)))]
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
    #[arg(long, value_name = "TAGS", value_parser = crate::words::kept())]
    keep_tag: Vec<String>,
    /// Apply the rules to each group of these: host, paths (with what lies there: database, command, source), tags
    #[arg(short, long, default_value = "host,paths", value_name = "WHAT")]
    group_by: GroupBy,
    /// Allow rules that remove every snapshot of a group
    #[arg(long)]
    unsafe_allow_remove_all: bool,
    /// Let the rules act, too, on snapshots of older versions, which do not say what they came from: one of them may be
    /// removed because another thing's is newer
    #[arg(long)]
    unknown_origin: bool,
    /// Show ids and counts only, not why each snapshot stays
    #[arg(short, long)]
    compact: bool,
    /// Only say what would be removed, by which rule, and what comes before the others go
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
    // Of those that cannot be read, one that is named is given up, and no error.
    let tally = Tally::default();
    let all = repo.snapshots(&tally)?;
    let policy = policy(&args);
    let filter = args.filter.filter();
    let mut remove = vec![];
    if args.snapshots.is_empty() {
        if policy.is_empty() {
            return Err(Failure::usage(
                "no rule: give --keep-last N or another --keep-…, or ids of snapshots to remove",
            ));
        }
        // Which clocks were right is told from all of them.
        let meant: HashSet<_> = filter.choose(&all)?.iter().map(|listed| listed.id).collect();
        let ranked: Vec<Ranked> = ranked(all.clone(), context.now())
            .into_iter()
            .filter(|one| meant.contains(&one.listed.id))
            .collect();
        let zone = jiff::tz::TimeZone::system();
        let allow = args.unsafe_allow_remove_all;
        let plans = plan(&policy, args.group_by, &ranked, context.now(), &zone, allow)?;
        for group in &plans {
            remove.extend(
                group
                    .verdicts
                    .iter()
                    .filter(|verdict| verdict.reasons.is_empty())
                    .map(|verdict| verdict.listed.id),
            );
        }
        print(&plans, &policy, args.compact, context);
    } else {
        if !policy.is_empty() {
            return Err(Failure::usage("give either snapshots or rules"));
        }
        for wanted in &args.snapshots {
            remove.push(named(wanted, &all, &filter, &repo, context)?);
        }
    }
    let given_up: HashSet<String> = remove.iter().map(names::snapshot).collect();
    tally
        .errors()
        .into_iter()
        .filter(|error| !given_up.contains(&error.item))
        .for_each(|error| monitor.error(error));
    let mut text = None;
    if args.dry_run {
        text = Some(format!("dry run: would remove {}", counted(remove.len(), "snapshot")));
    } else if !remove.is_empty() {
        let mut removed = remove.len();
        match args.snapshots.is_empty() {
            true => removed -= repo.forget(&remove)?.len(),
            false => forget_named(&repo, &mut remove, &all, context)?,
        }
        if !args.snapshots.is_empty() && context.uses_file() {
            forget_on_tiers(&remove, context)?;
        }
        text = Some(format!("removed {}", counted(removed, "snapshot")));
    }
    // By rules, the array of groups is all the JSON, as restic has it.
    if !context.global.json || !args.snapshots.is_empty() {
        let mut summary = Summary::new(json!({"removed": remove, "dry_run": args.dry_run}));
        text.into_iter().for_each(|text| summary.line(text));
        context.console.summary(&summary);
    }
    if args.prune {
        return prune_and_print(&repo, &args.prune_args, args.dry_run, context);
    }
    Ok(if context.console.error_count() > 0 { Code::Incomplete } else { Code::Done })
}

/// What promises no longer ask for goes, tier by tier; or is only named.
fn by_promises(args: &Args, context: &Context) -> CommandResult {
    if !args.filter.is_empty() {
        return Err(Failure::usage(
            "promises choose snapshots by themselves: leave --host, --tag and --path out",
        ));
    }
    let file = context.need_file()?;
    if args.dry_run {
        let fleet = context.fleet_to_look(None)?;
        let standing = fleet.standing(file, context.now(), context.console.monitor())?;
        let names: Vec<&str> = file.tiers.iter().map(|tier| tier.options.name.as_str()).collect();
        let over = |tier: &str| -> Vec<String> {
            standing.over(tier).iter().map(|verdict| verdict.known.listed.id.to_string()).collect()
        };
        let tiers: Vec<Value> =
            names.iter().map(|tier| json!({"tier": tier, "remove": over(tier)})).collect();
        let stays: Vec<Value> = (standing.verdicts.iter())
            .map(|verdict| {
                let id = verdict.known.listed.id;
                json!({"snapshot_id": id, "stays": super::stay::by_promises(verdict)})
            })
            .collect();
        let mut summary = Summary::new(json!({"dry_run": true, "tiers": tiers, "snapshots": stays}));
        let mut table = output::table(&["ID", "Time", "Goes from", "Stays"]);
        for verdict in &standing.verdicts {
            let listed = &verdict.known.listed;
            let goes: Vec<&str> =
                names.iter().copied().filter(|tier| over(tier).contains(&listed.id.to_string())).collect();
            table.add_row([
                listed.id.short(),
                super::show_time(listed.snapshot.time),
                goes.join(", "),
                super::stay::by_promises(verdict),
            ]);
        }
        summary.table(table);
        context.console.summary(&summary);
        return Ok(Code::Done);
    }
    let work = Work { forget: true, prune: args.prune, ..Work::default() };
    super::tier::work_and_print(&work, context)
}

/// The snapshot that is meant. Where its record is lost, or it lies on a tier only, the first digits of an id that HEAD
/// names will do as well.
fn named(
    wanted: &str,
    all: &[Listed],
    filter: &Filter,
    repo: &Repository,
    context: &Context,
) -> Result<ObjectId, Failure> {
    let mut ids = beginning(wanted, repo)?;
    let mut had = None;
    match snapshot::find(all, wanted, filter) {
        Ok(found) if wanted.starts_with("latest") || ids.iter().eq([&found.id]) => return Ok(found.id),
        // One that begins so cannot be read; or none does, and it is an earlier id.
        Ok(found) => had = Some(found.id),
        Err(Error::NoSnapshot { .. }) if filter.is_empty() && !wanted.is_empty() => {}
        Err(error) => return Err(error.into()),
    }
    if ids.is_empty() && context.uses_file() {
        for tier in &context.fleet(None)?.tiers {
            ids.extend(beginning(wanted, &tier.repo)?);
        }
    }
    if ids.is_empty() {
        ids.extend(had);
    }
    let wanted = wanted.to_owned();
    match (ids.pop_first(), ids.len()) {
        (Some(id), 0) => Ok(id),
        (None, _) => Err(Error::NoSnapshot { wanted }.into()),
        (Some(_), more) => Err(Error::AmbiguousSnapshot { wanted, count: more + 1 }.into()),
    }
}

/// The snapshots that HEAD names whose ids begin so.
fn beginning(wanted: &str, repo: &Repository) -> Result<BTreeSet<ObjectId>, Failure> {
    let ids = repo.snapshot_roots()?.into_iter().map(|root| root.id);
    Ok(ids.filter(|id| id.to_string().starts_with(wanted)).collect())
}

/// Removes snapshots that a person named. Where one was replaced since it was listed, what took its place is meant, and is
/// added to `ids`.
fn forget_named(
    repo: &Repository,
    ids: &mut Vec<ObjectId>,
    all: &[Listed],
    context: &Context,
) -> Result<(), Failure> {
    let absent = repo.forget_everywhere(ids)?;
    for listed in all.iter().filter(|listed| absent.contains(&listed.id)) {
        let (mut last, mut replaced) = (listed.clone(), Replaced::new(repo, context));
        while let Some(present) = replaced.now(&last)? {
            ids.push(present.id);
            if repo.forget_everywhere(&[present.id])?.is_empty() {
                break;
            }
            last = present;
        }
    }
    Ok(())
}

/// A snapshot that is named is meant wherever it lies.
fn forget_on_tiers(ids: &[chunkstore::ObjectId], context: &Context) -> Result<(), Failure> {
    let fleet = context.fleet(None)?;
    for tier in &fleet.tiers {
        let there: Vec<_> = tier.repo.snapshot_roots()?.iter().map(|root| root.id).collect();
        let gone: Vec<_> = ids.iter().copied().filter(|id| there.contains(id)).collect();
        tier.forget(&gone)?;
    }
    for (name, why) in &fleet.away {
        context.console.warn(&format!(
            "tier '{name}' still has them: {why}. The next 'esker run' or 'esker tier sync' that reaches it takes them out"
        ));
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
        // A span of nothing is no rule.
        within: (within.into_iter().filter_map(|(period, within)| Some((period, within?))))
            .filter(|(_, within)| !within.0.is_zero())
            .collect(),
        tags: args.keep_tag.iter().map(|tags| split_tags(tags)).collect(),
        unknown_origin: args.unknown_origin,
    }
}

fn print(plans: &[GroupPlan], policy: &Policy, compact: bool, context: &Context) {
    let unknown = plans.iter().filter(|group| group.verdicts.iter().any(is_unknown));
    let count: usize = unknown.map(|group| group.verdicts.len()).sum();
    if count > 0 {
        context.console.warn(&format!(
            "{} without a word of what it came from, so no rule acts on that; with --unknown-origin it does",
            counted_are(count, "snapshot")
        ));
    }
    if context.global.json {
        let groups: Vec<Value> = plans.iter().map(group_json).collect();
        output::json_line(&Value::Array(groups));
        return;
    }
    for group in plans {
        context.console.say(format!("{}:", group.key.describe()));
        let removed = group.verdicts.iter().filter(|verdict| verdict.reasons.is_empty()).count();
        // restic's words: scripts look for them.
        context.console.say(format!("  keep {} snapshots", group.verdicts.len() - removed));
        if removed > 0 {
            context.console.say(format!("  remove {removed} snapshots"));
        }
        for verdict in &group.verdicts {
            let what = if verdict.is_kept() { "keep" } else { "remove" };
            let why = match (verdict.is_kept(), verdict.goes_after.is_empty()) {
                _ if compact => String::new(),
                (false, _) => format!("none of {} keeps it", policy.describe()),
                (true, true) => verdict.reasons.join(", "),
                (true, false) => {
                    format!("{}; goes after {}", verdict.reasons.join(", "), verdict.goes_after.join(" and "))
                }
            };
            let time = super::show_time(verdict.listed.snapshot.time);
            context.console.say(format!("  {what:6} {} {time}  {why}", verdict.listed.id.short(),));
        }
    }
}

/// Whether the rules left a snapshot alone.
fn is_unknown(verdict: &Verdict) -> bool {
    verdict.reasons.iter().any(|reason| reason == UNKNOWN)
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
        .map(|verdict| json!({"snapshot": super::snapshots::to_json(&verdict.listed), "matches": verdict.reasons, "goes_after": verdict.goes_after}))
        .collect();
    json!({
        "tags": group.key.tags, "host": group.key.hostname, "paths": group.key.paths,
        "origins": group.key.origins, "keep": list(true), "remove": list(false), "reasons": reasons,
    })
}
