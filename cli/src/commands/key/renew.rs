//! `esker key re-encrypt` and `esker key retire`

use super::places::Places;
use crate::commands::{parse_size, show_time, to_json};
use crate::context::Context;
use crate::durations;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::{self, Summary};
use crate::units::counted;
use chunkstore::ingest::PackerOptions;
use chunkstore::store::{ChunkStore, RetireOptions};
use engine::price::{Price, PriceTable};
use engine::renew::{RenewOptions, RenewReport, clear, renew};
use engine::tier::renew::TierRenewal;
use serde_json::{Value, json};
use std::io::{BufRead as _, IsTerminal as _, Write as _};

/// What costs more is done only after a person agreed.
const ASK_ABOVE_DOLLARS: f64 = 1.0;

#[derive(clap::Args, Debug)]
pub(super) struct ReEncrypt {
    /// Say what would be moved, what it costs, and what would stay
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Copy at most this much to new packs, at each place
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    max_repack_size: Option<u64>,
    /// On tiers, remove what is paid for until later, too
    #[arg(long)]
    early: bool,
    /// Do not ask, whatever it costs
    #[arg(long)]
    yes: bool,
    /// Give up sessions that were silent for so long: hours, or 90m, 36h, 7d; 0 for never
    #[arg(long, value_parser = durations::hours, default_value = "168", value_name = "TIME")]
    fence_after: u64,
}

#[derive(clap::Args, Debug)]
pub(super) struct Retire {
    /// The epoch; all before it are retired with it
    epoch: u32,
    /// A tier that is lost for good: what it has is given up, and the repository forgets that it was made
    #[arg(long, value_name = "NAME")]
    lost_tier: Vec<String>,
    /// After HEAD was made anew: no tier has anything of this repository that is not in esker.toml
    #[arg(long)]
    all_tiers_known: bool,
    /// Give up sessions that were silent for so long: hours, or 90m, 36h, 7d; 0 for never
    #[arg(long, value_parser = durations::hours, default_value = "168", value_name = "TIME")]
    fence_after: u64,
}

/// What came of one place.
struct Told {
    name: String,
    done: TierRenewal,
    dollars: f64,
}

/// Prices of the class that data packs have at a place, and of the other objects.
fn prices(context: &Context, name: Option<&str>, store: &ChunkStore) -> Result<(Price, Price), Failure> {
    let near = store.storage().is_near();
    let plain = if near { "LOCAL" } else { "STANDARD" };
    let Some(file) = context.file.as_ref().filter(|_| context.uses_file()) else {
        let prices = PriceTable::default();
        return Ok((prices.of(plain)?, prices.hot(plain)));
    };
    let tier = match name {
        Some(name) => Some(file.tier(name)?),
        None => file.primary(),
    };
    let class = tier.map_or(plain, |tier| tier.options.class_name(near));
    Ok((file.prices.of(class)?, file.prices.hot(class)))
}

pub(super) fn re_encrypt(args: &ReEncrypt, context: &Context) -> CommandResult {
    let places = Places::open(context, !args.dry_run)?;
    if args.dry_run || !args.yes {
        let plan = work(args, &places, true, context)?;
        let dollars: f64 = plan.iter().map(|told| told.dollars).sum();
        if args.dry_run {
            return tell(&plan, &places, true, context);
        }
        if dollars > ASK_ABOVE_DOLLARS && !agreed(dollars, &plan)? {
            return Err(Failure::new("nothing was done"));
        }
    }
    let done = work(args, &places, false, context)?;
    if let Some(fleet) = places.fleet() {
        engine::tier::note(&fleet.primary, &fleet.tiers, None)?;
    }
    tell(&done, &places, false, context)
}

/// Asks whether to spend so much.
fn agreed(dollars: f64, plan: &[Told]) -> Result<bool, Failure> {
    let bytes: u64 = plan.iter().map(|told| told.done.report.renewal.bytes_moved).sum();
    let what = format!("{} are to be moved, for about ${dollars:.2}", output::bytes(bytes));
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(format!(
            "nothing was done: {what}, and there is no terminal to ask on. --dry-run says more; with --yes it is done"
        )));
    }
    let mut answer = String::new();
    let asked = write!(std::io::stderr(), "{what}: go on? [y/N] ")
        .and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    asked.map_err(|error| Failure::new(format!("cannot ask: {error}; give --yes")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// The primary, then each tier that can be reached.
fn work(args: &ReEncrypt, places: &Places, dry_run: bool, context: &Context) -> Result<Vec<Told>, Failure> {
    let options = RenewOptions {
        max_repack: args.max_repack_size,
        dry_run,
        packer: PackerOptions {
            pack_len: context.global.pack_size.saturating_mul(1 << 20),
            ..PackerOptions::default()
        },
        compression: context.global.compression,
        fence_after_ms: args.fence_after,
        ..RenewOptions::default()
    };
    let primary = places.primary();
    let (data, hot) = prices(context, None, primary.store())?;
    let phase = if dry_run { "plan the re-encryption" } else { "re-encrypt" };
    let epoch = primary.store().reload()?.epoch();
    if let Some(tier) = primary.store().tier() {
        return Err(Failure::new(format!(
            "this is tier '{tier}': with an esker.toml that names the primary, 'esker key re-encrypt' moves both"
        )));
    }
    let report = context.console.during(phase, |monitor| renew(primary, None, epoch, &options, monitor))?;
    let dollars = report.dollars(&data, &hot);
    let done = TierRenewal { report, ..TierRenewal::default() };
    let mut all = vec![Told { name: places.name().to_owned(), done, dollars }];
    let Some(fleet) = places.fleet() else { return Ok(all) };
    let file = context.need_file()?;
    let standing = fleet.standing(file, context.now(), context.console.monitor())?;
    for tier in &fleet.tiers {
        let name = &tier.options.name;
        let kept = standing.kept(name);
        let done = context.console.during(&format!("tier '{name}': {phase}"), |monitor| {
            tier.renew(primary, &kept, args.early, &options, monitor)
        })?;
        let (theirs, their_hot) = prices(context, Some(name), tier.repo.store())?;
        // What is copied from the primary is read there.
        let moved = &done.report.renewal;
        let dollars = match tier.frozen {
            true => data.fetch(moved.packs_moved, moved.bytes_moved) + theirs.puts(moved.packs_moved),
            false => done.report.dollars(&theirs, &their_hot),
        };
        all.push(Told { name: name.clone(), done, dollars });
    }
    Ok(all)
}

/// Says what came of it, place by place; the code says whether anything is left.
fn tell(all: &[Told], places: &Places, dry_run: bool, context: &Context) -> CommandResult {
    let away = places.fleet().map(|fleet| fleet.away.as_slice()).unwrap_or_default();
    let mut values = vec![];
    for told in all {
        let mut value = to_json(&told.done)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("place".into(), json!(told.name));
            object.insert("requests".into(), json!(told.done.report.requests()));
            object.insert("dollars".into(), json!(told.dollars));
        }
        values.push(value);
    }
    let epoch = all.first().map_or(0, |told| told.done.report.epoch);
    let unreachable: Vec<Value> =
        away.iter().map(|(name, why)| json!({"tier": name, "error": why})).collect();
    let is_done =
        away.is_empty() && all.iter().all(|told| told.done.report.is_done() && !told.done.waits_for_primary);
    let mut summary = Summary::new(json!({
        "epoch": epoch, "dry_run": dry_run, "done": is_done && !dry_run, "places": values, "unreachable": unreachable,
    }));
    for (place, told) in all.iter().enumerate() {
        lines(told, place > 0, dry_run).into_iter().for_each(|line| summary.line(line));
    }
    for (name, why) in away {
        summary.line(format!("tier '{name}' cannot be reached, and was left as it is: {why}"));
    }
    if !dry_run && is_done {
        summary.line(format!("nothing is left under an earlier epoch than {epoch}"));
        let head = places.primary().store().head();
        let earlier = head.epochs.range(head.retired().saturating_add(1)..epoch).next_back();
        if let Some((earlier, _)) = earlier {
            summary.line(format!("'esker key retire {earlier}' makes earlier keys useless"));
        }
    } else if !dry_run {
        summary.line("'esker key re-encrypt' goes on with what is left");
    }
    context.console.summary(&summary);
    Ok(if is_done || dry_run { Code::Done } else { Code::Incomplete })
}

/// A place in words.
fn lines(told: &Told, is_tier: bool, dry_run: bool) -> Vec<String> {
    let Told { name, done, dollars } = told;
    let RenewReport { renewal, .. } = &done.report;
    let bytes = output::bytes;
    if done.waits_for_primary && !dry_run {
        return vec![format!(
            "{name}: {}, {}: not before the primary is done, from which most of that is then copied",
            counted(renewal.packs, "pack"),
            bytes(renewal.bytes)
        )];
    }
    let verb = if dry_run { "would move" } else { "moved" };
    let mut said = vec![];
    let moved = format!(
        "{name}: {verb} {}, {}, and {}; {} that nothing needs {}",
        counted(renewal.packs_moved, "pack"),
        bytes(renewal.bytes_moved),
        counted(if dry_run { done.report.objects } else { done.report.objects_renewed }, "small object"),
        counted(renewal.packs_unused, "pack"),
        if dry_run { "would go" } else { "went" },
    );
    said.push(match dry_run {
        true => format!("{moved}; about {}, ${dollars:.4}", counted(done.report.requests(), "request")),
        false => moved,
    });
    if done.packs_copied > 0 {
        said.push(format!(
            "{name}: {}, {}, came from the primary",
            counted(done.packs_copied, "pack"),
            bytes(done.bytes_copied)
        ));
    }
    let mut stay = |count: u64, why: String| {
        if count > 0 {
            let verb = if count == 1 { "stays" } else { "stay" };
            said.push(format!("{name}: {} {verb}: {why}", counted(count, "pack")));
        }
    };
    let date = |seconds: Option<u64>| {
        let time =
            seconds.and_then(|seconds| jiff::Timestamp::from_second(i64::try_from(seconds).ok()?).ok());
        time.map(show_time)
    };
    let next = match renewal.packs_moved {
        0 => format!("; the first of them needs {}", bytes(renewal.bytes_next)),
        _ => String::new(),
    };
    stay(renewal.packs_over, format!("{} are beyond --max-repack-size{next}", bytes(renewal.bytes_over)));
    let spared = match (date(done.locked_until_s), date(done.paid_until_s)) {
        (Some(locked), _) => format!("{} are locked, the last until {locked}", bytes(renewal.bytes_spared)),
        (None, Some(paid)) => {
            format!(
                "{} are paid for, the last until {paid}; --early removes them",
                bytes(renewal.bytes_spared)
            )
        }
        (None, None) => format!("{} are locked, or paid for until later", bytes(renewal.bytes_spared)),
    };
    stay(renewal.packs_spared, spared);
    let thaw = format!(
        "{} are frozen, and the primary has not all of their chunks: 'esker thaw start SNAPSHOT --tier {name}', for the \
         snapshots that only this tier has, then run this again",
        bytes(renewal.bytes_frozen)
    );
    stay(renewal.packs_frozen, thaw);
    stay(renewal.packs_at_work, "they are of runs at work; run this again when those are done".into());
    stay(renewal.packs_lost, "they are lost, or have another length than they had; see 'esker check'".into());
    stay(
        renewal.packs_before_head,
        format!(
            "HEAD was made anew after they were written, and may not name all of what is in them; '{}', once its snapshots \
             are as they should be",
            crate::fleet::accepting_head(is_tier.then_some(name.as_str()))
        ),
    );
    if done.report.objects_locked > 0 {
        said.push(format!(
            "{name}: {} old objects that nothing needs stay until their locks end",
            done.report.objects_locked
        ));
    }
    if done.report.deferred {
        said.push(format!(
            "{name}: old packs await the end of runs that began before; the next run removes them"
        ));
    }
    if let Some(left) = done.report.left.as_ref().filter(|_| !dry_run) {
        said.push(format!("{name}: left under earlier epochs: {left}"));
    }
    said
}

pub(super) fn retire(args: &Retire, context: &Context) -> CommandResult {
    let places = Places::open(context, true)?;
    let store = places.primary().store();
    clear(store, args.fence_after)?;
    let fleet = places.fleet();
    let tiers: Vec<(&str, &ChunkStore)> = fleet
        .iter()
        .flat_map(|fleet| &fleet.tiers)
        .map(|tier| (tier.options.name.as_str(), &**tier.repo.store()))
        .collect();
    for tier in fleet.iter().flat_map(|fleet| &fleet.tiers) {
        tier.clear()?;
    }
    let made = &store.head().tiers.made;
    let away: Vec<&String> = fleet.iter().flat_map(|fleet| &fleet.away).map(|(name, _)| name).collect();
    let is_known = |name: &String| made.contains_key(name) || away.contains(&name);
    let is_open = |name: &String| tiers.iter().any(|(tier, _)| tier == name);
    if let Some(unknown) = args.lost_tier.iter().find(|name| !is_known(name) && !is_open(name)) {
        return Err(Failure::usage(format!("--lost-tier: there is no tier '{unknown}'")));
    }
    // What was the primary before another tier was adopted is in no HEAD's list, and may have snapshots that only it has.
    if let Some(name) = away.into_iter().find(|name| !args.lost_tier.contains(name)) {
        let why = fleet.iter().flat_map(|fleet| &fleet.away).find(|(tier, _)| tier == name);
        let why = why.map_or("", |(_, why)| why);
        return Err(Failure::new(format!(
            "tier '{name}' cannot be looked at ({why}), and may have what needs epoch {}: nothing was retired. \
             Make it reachable and bring it up with 'esker tier sync', then run this again; or give up what it has with \
             '--lost-tier {name}'",
            args.epoch
        )));
    }
    let options = RetireOptions { lost_tiers: args.lost_tier.clone(), knows_all_tiers: args.all_tiers_known };
    let done = store.retire(args.epoch, &tiers, &options).map_err(|error| {
        let mut failure = Failure::from(error);
        let away = fleet.iter().flat_map(|fleet| &fleet.away);
        let named = away.filter(|(name, _)| failure.message.contains(&format!("'{name}'")));
        let why: String = named.map(|(name, why)| format!(" ({name}: {why})")).collect();
        failure.message += &why;
        failure
    })?;
    let mut summary = Summary::new(json!({
        "epoch": args.epoch, "retired": done.epochs, "tiers": tiers.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "untold": done.untold,
    }));
    match done.epochs.as_slice() {
        [] => summary.line(format!("epoch {} was retired before", args.epoch)),
        epochs => summary.line(format!(
            "retired {}: what is encrypted with {} is refused from now on",
            epochs.iter().map(|epoch| format!("epoch {epoch}")).collect::<Vec<_>>().join(", "),
            if epochs.len() == 1 { "its key" } else { "their keys" }
        )),
    }
    summary.line("The next 'esker key rotate' makes grants, and 'esker key add' key slots, without them.");
    for name in &done.untold {
        summary.line(format!("tier '{name}' was not told; the next 'esker tier sync' tells it"));
    }
    context.console.summary(&summary);
    Ok(Code::Done)
}
