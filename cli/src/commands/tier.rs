//! `esker tier`

use super::to_json;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::file::File;
use crate::fleet::{Fleet, Work, Worked};
use crate::output::{self, Summary};
use crate::units::counted;
use engine::tier::keep::{Behind, GroupBehind};
use engine::tier::status::{Holding, holding};
use serde_json::json;

mod adopt;

/// Copies of the repository: how they stand, and bringing them up to date
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Make a tier of esker.toml, empty, at a place where nothing is
    ///
    /// No other command makes one: a place where nothing lies, as of a disk that is not mounted, is never taken for a new
    /// tier. `esker init` makes all that can be reached.
    Init {
        /// The tier
        name: String,
        /// Make it, although it was made before: what it held is lost
        #[arg(long)]
        again: bool,
    },
    /// What each tier holds, owes and costs; exit code 3 if a promise is not kept
    Status,
    /// Copy what is owed, and extend locks; exit code 3 if something is still owed
    Sync {
        /// Only these tiers
        tiers: Vec<String>,
        /// Say what would be copied
        #[arg(short = 'n', long)]
        dry_run: bool,
        /// Make what was the primary, before another tier was adopted, a copy again
        #[arg(long, value_name = "NAME")]
        rejoin: Option<String>,
    },
    /// Remove packs that nothing on a tier needs; none that is locked, or paid for until later
    Prune {
        /// Only these tiers
        tiers: Vec<String>,
        /// Say what would be removed
        #[arg(short = 'n', long)]
        dry_run: bool,
        /// Remove what is paid for until later, too
        #[arg(long)]
        early: bool,
        /// Remove what was there before the tier's HEAD was made anew, too, if nothing needs it: look at the tier's
        /// snapshots first
        #[arg(long, requires = "tiers")]
        accept_head: bool,
    },
    /// Make a copy the primary, after the old one was lost, or to move it
    ///
    /// It says what other copies that can be reached have more. As long as the old primary can be reached, the copy must be
    /// up to date.
    ///
    /// From then on the old primary is refused, should it come back, by this machine and by every tier that the
    /// new one was copied to.
    Adopt {
        /// The tier
        name: String,
        /// Do it, although the old primary can still be reached, and has what this one lacks
        #[arg(long)]
        force: bool,
    },
}

impl Args {
    /// Whether it only prints.
    pub(super) fn only_prints(&self) -> bool {
        matches!(self.what, What::Status)
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    match &args.what {
        What::Status => status(context),
        What::Sync { tiers, dry_run, rejoin } => {
            let work = Work {
                only: tiers.clone(),
                copy: true,
                dry_run: *dry_run,
                rejoin: rejoin.clone(),
                ..Work::default()
            };
            work_and_print(&work, context)
        }
        What::Init { name, again } => init(name, *again, context),
        What::Prune { tiers, dry_run, early, accept_head } => {
            prune(tiers, *dry_run, *early, *accept_head, context)
        }
        What::Adopt { name, force } => adopt::run(name, *force, context),
    }
}

/// Brings tiers up to date, and says how they stand.
pub(crate) fn work_and_print(work: &Work, context: &Context) -> CommandResult {
    let file = context.need_file()?;
    are_copies(&work.only, file, "'esker tier sync' copies from it to the others")?;
    let fleet = context.fleet(work.rejoin.as_deref())?;
    let Worked { outcomes, doubt, .. } =
        context.console.during("tiers", |monitor| fleet.work(work, file, context, monitor))?;
    if let Some(doubt) = &doubt {
        context.console.warn(&doubt.describe());
    }
    let behind = doubt.is_some() || outcomes.iter().any(|outcome| outcome.is_behind());
    let mut summary = Summary::new(json!({
        "tiers": to_json(&outcomes)?, "dry_run": work.dry_run,
        "clock_in_doubt": doubt.map(|doubt| doubt.describe()),
    }));
    outcomes.iter().for_each(|outcome| summary.outcome(outcome.describe(), outcome.is_behind()));
    context.console.summary(&summary);
    Ok(if behind { Code::Incomplete } else { Code::Done })
}

fn init(name: &str, again: bool, context: &Context) -> CommandResult {
    let file = context.need_file()?;
    let tier = file.tier(name)?;
    if file.primary().is_some_and(|primary| primary.options.name == name) {
        return Err(Failure::new(format!("'{name}' is the primary: 'esker init' makes it")));
    }
    let (_, primary) = context.open_primary()?;
    context.refuse_to_write_alone()?;
    let made = context.make_tier(&primary, tier, again)?;
    let place = made.repo.store().storage().place();
    let value = json!({"tier": name, "place": place});
    context.console.result(format!("made tier '{name}' at {place}; 'esker tier sync' fills it"), value);
    Ok(Code::Done)
}

/// That these are tiers, and not the primary, for which there is `instead`.
fn are_copies(names: &[String], file: &File, instead: &str) -> Result<(), Failure> {
    for name in names {
        file.tier(name)?;
        if file.primary().is_some_and(|primary| primary.options.name == *name) {
            return Err(Failure::new(format!("'{name}' is the primary: {instead}")));
        }
    }
    Ok(())
}

fn prune(only: &[String], dry_run: bool, early: bool, accept_head: bool, context: &Context) -> CommandResult {
    let file = context.need_file()?;
    are_copies(only, file, "'esker prune' is for it")?;
    let fleet = context.fleet(None)?;
    for tier in fleet.tiers.iter().filter(|tier| only.is_empty() || only.contains(&tier.options.name)) {
        let plan = context.console.during(&format!("tier '{}': prune", tier.options.name), |monitor| {
            tier.prune(early, accept_head, dry_run, monitor)
        })?;
        let name = &tier.options.name;
        let mut summary = Summary::of(&plan)?.with("tier", name.as_str()).with("dry_run", dry_run);
        let verb = if dry_run { "would remove" } else { "removes" };
        summary.line(format!(
            "tier '{name}': {verb} {}, {}; {} unused stay",
            counted(plan.packs_unused, "pack"),
            output::bytes(plan.bytes_remove),
            output::bytes(plan.bytes_unused_after)
        ));
        super::prune::add_orphans(&plan, Some(name), dry_run, &mut summary);
        context.console.summary(&summary);
    }
    if !dry_run {
        engine::tier::note(&fleet.primary, &fleet.tiers, None)?;
    }
    Ok(away(&fleet, context))
}

/// Says which tiers cannot be reached.
fn away(fleet: &Fleet, context: &Context) -> Code {
    for (name, why) in &fleet.away {
        context.console.warn(&format!("tier '{name}': {why}"));
    }
    if fleet.away.is_empty() { Code::Done } else { Code::Incomplete }
}

fn status(context: &Context) -> CommandResult {
    let file = context.need_file()?;
    let fleet = context.fleet_to_look(None).inspect_err(|failure| {
        if !matches!(failure.code, Code::WrongPassword | Code::Interrupted) {
            context.show_survivors(failure);
        }
    })?;
    let monitor = context.console.monitor();
    let standing = fleet.standing(file, context.now(), monitor)?;
    fleet.primary.sync_index(monitor)?;
    let packs = fleet.primary.store().index().packs()?;
    let bytes: u64 = packs.iter().map(|pack| pack.len).sum();
    let near = fleet.primary.store().storage().is_near();
    let options = &file.tier(&fleet.name)?.options;
    let class = options.class_name(near);
    let (price, hot) = (file.prices.of(class)?, file.prices.hot(class));
    let own = Holding {
        snapshots: fleet.primary.snapshot_roots()?.len() as u64,
        packs: packs.len() as u64,
        bytes,
        dollars_month: price.month(packs.len() as u64, bytes, &hot),
        ..Holding::default()
    };
    let mut rows = vec![(fleet.name.clone(), "primary".to_owned(), class.to_owned(), own)];
    let mut code = away(&fleet, context);
    for tier in &fleet.tiers {
        let role = format!("{:?}", tier.options.role).to_lowercase();
        let class = tier.options.class_name(tier.repo.store().storage().is_near()).to_owned();
        rows.push((tier.options.name.clone(), role, class, holding(tier, &file.prices, true)?));
    }
    let mut table = output::table(&[
        "Tier",
        "Role",
        "Class",
        "Snapshots",
        "Owed",
        "Behind",
        "Packs",
        "Size",
        "Frozen",
        "Hidden",
        "$/month",
        "Locked until",
    ]);
    let (mut values, mut lines) = (vec![], vec![]);
    for (name, role, class, held) in rows {
        let owed = standing.owed(&name).len();
        let behind = standing.behind(&name);
        let unreadable: Vec<String> = standing.unreadable(&name).iter().map(|id| id.short()).collect();
        if !unreadable.is_empty() {
            let (count, ids) = (counted(unreadable.len(), "snapshot"), unreadable.join(", "));
            context
                .console
                .warn(&format!("tier '{name}': {count} cannot be read ({ids}); 'esker run' says what to do"));
        }
        if owed > 0 || !unreadable.is_empty() || !held.hazards.is_empty() {
            code = Code::Incomplete;
        }
        if owed > 0 && context.global.quiet {
            context.console.warn(&format!("tier '{name}': {} owed", counted(owed, "snapshot")));
        }
        for hazard in &held.hazards {
            context.console.warn(&format!(
                "tier '{name}': the bucket's {hazard}: packs are shared by snapshots, their age says nothing"
            ));
        }
        let mut value = to_json(&held)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("tier".into(), json!(name));
            object.insert("role".into(), json!(role));
            object.insert("class".into(), json!(class));
            object.insert("snapshots_owed".into(), json!(owed));
            object.insert("snapshots_unreadable".into(), json!(unreadable.len()));
            object.insert("groups_behind".into(), json!(behind.groups));
            object.insert("seconds_behind".into(), json!(behind.longest.as_secs()));
            let each: Vec<_> = behind.each.iter().map(group_behind).collect();
            object.insert("behind".into(), json!(each));
        }
        values.push(value);
        lines.extend(behind.each.iter().map(|group| {
            let time = match group.by {
                Some(by) => format!(", {}", crate::units::duration(by.as_secs_f64())),
                None => ", nothing of it is there".into(),
            };
            let (key, snapshots) = (group.key.describe(), counted(group.snapshots, "snapshot"));
            format!("tier '{name}' is behind by {snapshots}{time}: {key}")
        }));
        table.add_row([
            name,
            role,
            class,
            held.snapshots.to_string(),
            owed.to_string(),
            show_behind(&behind),
            held.packs.to_string(),
            output::bytes(held.bytes),
            output::bytes(held.bytes_frozen),
            format!("{} ({})", held.hidden_versions, output::bytes(held.hidden_bytes)),
            format!("{:.4}", held.dollars_month),
            locked(&held),
        ]);
    }
    let away: Vec<_> = fleet.away.iter().map(|(name, why)| json!({"tier": name, "error": why})).collect();
    let mut summary = Summary::new(json!({"tiers": values, "unreachable": away}));
    summary.table(table);
    lines.into_iter().for_each(|line| summary.line(line));
    for verdict in &standing.verdicts {
        let missing: Vec<&str> =
            verdict.promised.keys().filter(|tier| verdict.is_owed(tier)).map(String::as_str).collect();
        if !missing.is_empty() {
            let listed = &verdict.known.listed;
            let why: Vec<&str> = verdict.reasons.iter().map(String::as_str).collect();
            summary.line(format!(
                "snapshot {} of {} is owed to {} ({})",
                listed.id.short(),
                super::show_time(listed.snapshot.time),
                missing.join(", "),
                why.join("; ")
            ));
        }
    }
    context.console.summary(&summary);
    Ok(code)
}

fn group_behind(group: &GroupBehind) -> serde_json::Value {
    let GroupBehind { key, snapshots, by } = group;
    json!({
        "host": key.hostname, "paths": key.paths, "origins": key.origins, "snapshots": snapshots,
        "seconds": by.map(|by| by.as_secs()),
    })
}

/// By how much the newest of each group is newer than what a tier has of it.
fn show_behind(behind: &Behind) -> String {
    let time = crate::units::duration(behind.longest.as_secs_f64());
    match (behind.groups, behind.missing) {
        (0, _) => "no".into(),
        (groups, 0) => format!("{time}, {groups} groups"),
        (groups, missing) if groups == missing => format!("{missing} groups lacking"),
        (groups, missing) => format!("{time}, {groups} groups, {missing} lacking"),
    }
}

/// When anything that is locked could first be removed by anybody.
fn locked(held: &Holding) -> String {
    let show = |seconds: Option<u64>| {
        let time = jiff::Timestamp::from_second(i64::try_from(seconds?).ok()?).ok()?;
        Some(super::show_time(time))
    };
    show(held.first_unlock_s).unwrap_or_default()
}
