//! `esker tier`

use super::to_json;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::fleet::{Fleet, Work};
use crate::output;
use engine::Repository;
use engine::tier::status::{Holding, holding};
use serde_json::json;

/// Copies of the repository: how they stand, and bringing them up to date
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
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
    },
    /// Make a copy the primary, after the old one was lost
    ///
    /// From then on the old primary is refused, should it come back, by this machine and by every tier that the
    /// new one was copied to.
    Adopt {
        /// The tier
        name: String,
        /// Do it, although the old primary can still be reached
        #[arg(long)]
        force: bool,
    },
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
        What::Prune { tiers, dry_run, early } => prune(tiers, *dry_run, *early, context),
        What::Adopt { name, force } => adopt(name, *force, context),
    }
}

/// Brings tiers up to date, and says how they stand.
pub(crate) fn work_and_print(work: &Work, context: &Context) -> CommandResult {
    let file = context.need_file()?;
    work.only.iter().try_for_each(|name| file.tier(name).map(drop))?;
    let fleet = context.fleet(work.rejoin.as_deref())?;
    let outcomes = context.console.during(|monitor| fleet.work(work, file, context, monitor))?;
    let behind = outcomes.iter().any(|outcome| outcome.is_behind());
    if context.global.json {
        output::json_line(
            &json!({"message_type": "summary", "tiers": to_json(&outcomes)?, "dry_run": work.dry_run}),
        );
    } else {
        outcomes.iter().for_each(|outcome| context.console.say(outcome.describe()));
    }
    Ok(if behind { Code::Incomplete } else { Code::Done })
}

fn prune(only: &[String], dry_run: bool, early: bool, context: &Context) -> CommandResult {
    let file = context.need_file()?;
    only.iter().try_for_each(|name| file.tier(name).map(drop))?;
    let fleet = context.fleet(None)?;
    for tier in fleet.tiers.iter().filter(|tier| only.is_empty() || only.contains(&tier.options.name)) {
        let plan = context.console.during(|monitor| tier.prune(early, dry_run, monitor))?;
        let name = &tier.options.name;
        if context.global.json {
            let mut value = to_json(&plan)?;
            if let Some(object) = value.as_object_mut() {
                object.insert("message_type".into(), json!("summary"));
                object.insert("tier".into(), json!(name));
                object.insert("dry_run".into(), json!(dry_run));
            }
            output::json_line(&value);
        } else {
            let verb = if dry_run { "would remove" } else { "removes" };
            context.console.say(format!(
                "tier '{name}': {verb} {} packs, {}; {} unused stay",
                plan.packs_unused,
                output::bytes(plan.bytes_remove),
                output::bytes(plan.bytes_unused_after)
            ));
        }
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
    let fleet = context.fleet(None)?;
    let monitor = context.console.monitor();
    let standing = fleet.standing(file, context, monitor)?;
    fleet.primary.sync_index(monitor)?;
    let packs = fleet.primary.store().index().packs();
    let bytes: u64 = packs.iter().map(|pack| pack.len).sum();
    let near = fleet.primary.store().storage().is_near();
    let options = &file.tier(&fleet.name)?.options;
    let class = options.class_name(near);
    let (price, hot) = (file.prices.of(class)?, file.prices.hot(class));
    let own = Holding {
        snapshots: fleet.primary.snapshot_roots().len() as u64,
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
        "Packs",
        "Size",
        "Frozen",
        "Hidden",
        "$/month",
        "Locked until",
    ]);
    let mut values = vec![];
    for (name, role, class, held) in rows {
        let owed = standing.owed(&name).len();
        if owed > 0 || !held.hazards.is_empty() {
            code = Code::Incomplete;
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
        }
        values.push(value);
        table.add_row([
            name,
            role,
            class,
            held.snapshots.to_string(),
            owed.to_string(),
            held.packs.to_string(),
            output::bytes(held.bytes),
            output::bytes(held.bytes_frozen),
            format!("{} ({})", held.hidden_versions, output::bytes(held.hidden_bytes)),
            format!("{:.4}", held.dollars_month),
            locked(&held),
        ]);
    }
    if context.global.json {
        let away: Vec<_> = fleet.away.iter().map(|(name, why)| json!({"tier": name, "error": why})).collect();
        output::json_line(&json!({"message_type": "summary", "tiers": values, "unreachable": away}));
        return Ok(code);
    }
    context.console.say(table.trim_fmt());
    for verdict in &standing.verdicts {
        let missing: Vec<&str> =
            verdict.promised.keys().filter(|tier| verdict.is_owed(tier)).map(String::as_str).collect();
        if !missing.is_empty() {
            let listed = &verdict.known.listed;
            let why: Vec<&str> = verdict.reasons.iter().map(String::as_str).collect();
            context.console.say(format!(
                "snapshot {} of {} is owed to {} ({})",
                listed.id.short(),
                super::show_time(listed.snapshot.time),
                missing.join(", "),
                why.join("; ")
            ));
        }
    }
    Ok(code)
}

/// When anything that is locked could first be removed by anybody.
fn locked(held: &Holding) -> String {
    let show = |seconds: Option<u64>| {
        let time = jiff::Timestamp::from_second(i64::try_from(seconds?).ok()?).ok()?;
        Some(super::show_time(time))
    };
    show(held.first_unlock_s).unwrap_or_default()
}

fn adopt(name: &str, force: bool, context: &Context) -> CommandResult {
    let file = context.need_file()?;
    let tier = file.tier(name)?;
    let place = tier.place.open(false, tier.rates)?;
    let password = context.password(false)?;
    let repo = Repository::open(context.access(place)?, password.as_bytes())?;
    if repo.store().tier().is_none() {
        context.console.say(format!("'{name}' is a primary already"));
        return Ok(Code::Done);
    }
    if let Some(old) = file.primary().filter(|old| old.options.name != name && !force) {
        let alive = old
            .place
            .open(false, old.rates)
            .is_ok_and(|storage| storage.read_head().is_ok_and(|head| head.is_some()));
        if alive {
            return Err(Failure::new(format!(
                "the primary '{}' can still be reached: what was backed up to it since the last sync would be left \
                 behind. Run 'esker tier sync' first; --force if it is to be given up all the same",
                old.options.name
            )));
        }
    }
    let incarnation = repo.store().adopt()?;
    let old = file.primary().map(|old| old.options.name.clone()).unwrap_or_default();
    if context.global.json {
        output::json_line(
            &json!({"message_type": "summary", "tier": name, "incarnation": incarnation, "snapshots": repo.snapshot_roots().len()}),
        );
        return Ok(Code::Done);
    }
    let say = |text: String| context.console.say(text);
    say(format!("'{name}' is the primary now, with {} snapshots", repo.snapshot_roots().len()));
    say(format!(
        "next: in {}, give '{name}' the role 'primary' and '{old}' the role 'copy'; then 'esker tier sync'",
        file.path.display()
    ));
    say(format!("if '{old}' comes back with its old content: 'esker tier sync --rejoin {old}'"));
    Ok(Code::Done)
}
