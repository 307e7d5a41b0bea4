//! `esker thaw`

use super::{FilterArgs, to_json};
use crate::config::Global;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::file::{TierPlace, WarmUp};
use crate::output::{self, Summary};
use crate::shell;
use crate::tiers::Opened;
use crate::units::counted;
use chunkstore::storage::shelf::{Retrieval, Warmth};
use engine::inside::Inside;
use engine::snapshot::{Listed, split_path};
use engine::tier::thaw::{Offer, ThawPlan, ThawState, prices_of};
use engine::{Error, Repository};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The pause before a wait looks at the store again; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How often a wait looks whether the user has had enough.
const LOOK: Duration = Duration::from_millis(100);

/// Plan, request and follow the thawing of packs that a restore needs
///
/// Nothing is asked for, and nothing costs, before 'start'. Packs that a nearer tier has, or that are thawed
/// already, are left out. Then run the restore again later, or with --wait-thaw.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Print what a thaw needs: packs, bytes, requests, hours, money
    Plan(Which),
    /// Request the thaw from the store and return
    Start {
        #[command(flatten)]
        which: Which,
        /// How fast: expedited, standard or bulk
        #[arg(long, default_value = "standard", value_name = "WAY")]
        retrieval: Retrieval,
        /// Only print what would be requested
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Print the progress; exit code 22 until a restore can begin
    Status(Which),
}

#[derive(clap::Args, Debug)]
struct Which {
    /// Snapshot: id, latest, latest~N, with :path for a part of it
    #[arg(value_parser = crate::words::path())]
    snapshot: String,
    /// The tier to thaw, instead of the first frozen one that has the snapshot
    #[arg(long, value_name = "NAME")]
    tier: Option<String>,
    /// Days that thawed copies stay readable
    #[arg(long, default_value_t = 7, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    days: u32,
    #[command(flatten)]
    filter: FilterArgs,
}

impl Args {
    /// Whether it only prints.
    pub(super) fn only_prints(&self) -> bool {
        matches!(self.what, What::Plan(_) | What::Status(_))
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let which = match &args.what {
        What::Plan(which) | What::Status(which) | What::Start { which, .. } => which,
    };
    let (opened, found) = frozen_tier(which, context)?;
    let (_, path) = split_path(&which.snapshot);
    let plan =
        plan(&opened, &found, Inside::new(path).resolve(&opened.repo, &found.snapshot)?.path(), context)?;
    let (price, hot) = prices(&opened, context)?;
    let offers = plan.offers(&price, &hot, which.days);
    match &args.what {
        What::Plan(_) => context.console.summary(&summary(&plan, &offers, &opened, which.days)?),
        What::Start { retrieval, dry_run, .. } => {
            if plan.frozen().next().is_some()
                && tier_of(&opened)?.warm_up.is_none()
                && offers.iter().all(|offer| offer.retrieval != *retrieval)
            {
                let ways: Vec<&str> = offers.iter().map(|offer| offer.retrieval.name()).collect();
                return Err(Failure::new(format!(
                    "this storage class cannot be thawed by {} retrieval; it has {}",
                    retrieval.name(),
                    ways.join(", ")
                )));
            }
            let asked = match (dry_run, &tier_of(&opened)?.warm_up) {
                (true, _) => 0,
                (false, Some(warm_up)) => warm_up_all(&plan, warm_up, &opened, context)?,
                (false, None) => context.console.during("ask for thawing", |monitor| {
                    plan.start(&opened.repo, which.days, *retrieval, monitor)
                })?,
            };
            let (packs, bytes) = asked_for(&plan);
            let state = plan.state();
            let verb = if *dry_run { "would ask for" } else { "asked for" };
            context.console.result(
                format!(
                    "{verb} {}, {}; {} asked for before, {} can be read",
                    counted(packs, "pack"),
                    output::bytes(bytes),
                    state.thawing,
                    state.ready
                ),
                json!({
                    "packs_asked": asked, "packs": packs, "bytes": bytes,
                    "already_thawing": state.thawing, "already_thawed": state.ready - plan.packs_ready,
                    "retrieval": retrieval.name(), "days": which.days, "dry_run": dry_run,
                }),
            );
        }
        What::Status(_) => {
            let state = plan.state();
            context.console.result(describe(&state), to_json(&state)?);
            return Ok(if state.is_ready() { Code::Done } else { Code::Frozen });
        }
    }
    Ok(Code::Done)
}

fn describe(state: &ThawState) -> String {
    let until = state.until_s.and_then(|until| jiff::Timestamp::from_second(i64::try_from(until).ok()?).ok());
    let until =
        until.map(|until| format!(", the first until {}", super::show_time(until))).unwrap_or_default();
    let frozen = counted(state.frozen, "pack");
    format!("{frozen} frozen, {} thawing, {} can be read{until}", state.thawing, state.ready)
}

fn asked_for(plan: &ThawPlan) -> (u64, u64) {
    plan.frozen().fold((0, 0), |(count, bytes), needed| (count + 1, bytes + needed.pack.len))
}

/// The first frozen tier that has the snapshot, or the one that was named.
fn frozen_tier(which: &Which, context: &Context) -> Result<(Opened, Listed), Failure> {
    let file = context.need_file()?;
    let (wanted, _) = split_path(&which.snapshot);
    let monitor = context.console.monitor();
    let chosen: Vec<&TierPlace> = match &which.tier {
        Some(name) => vec![file.tier(name)?],
        None => file.tiers.iter().filter(|tier| tier.frozen).collect(),
    };
    if chosen.is_empty() {
        return Err(Failure::new(format!("no tier in {} is frozen", file.path.display())));
    }
    let mut last = None;
    for tier in chosen {
        let found = context.open_named(&tier.options.name).and_then(|opened| {
            let found = opened.repo.find(wanted, &which.filter.filter(), monitor)?;
            opened.repo.sync_index(monitor)?;
            Ok((opened, found))
        });
        match found {
            Ok(found) => return Ok(found),
            Err(failure) => last = Some(failure),
        }
    }
    Err(last.unwrap_or_else(|| Error::NoSnapshot { wanted: wanted.to_owned() }.into()))
}

fn tier_of(opened: &Opened) -> Result<&TierPlace, Failure> {
    opened.tier.as_ref().ok_or_else(|| Failure::new("thawing is for tiers of esker.toml"))
}

fn prices(
    opened: &Opened,
    context: &Context,
) -> Result<(engine::price::Price, engine::price::Price), Failure> {
    let near = opened.repo.store().storage().is_near();
    let class = tier_of(opened)?.options.class_name(near);
    Ok(prices_of(&context.need_file()?.prices, class)?)
}

/// What is needed, and how it lies.
fn plan(opened: &Opened, found: &Listed, beneath: &[u8], context: &Context) -> Result<ThawPlan, Failure> {
    let repo = &opened.repo;
    let mut plan = context
        .console
        .during("plan the thawing", |monitor| ThawPlan::make(repo, found, beneath, monitor))?;
    if let Some(warm_up) = opened.tier.as_ref().and_then(|tier| tier.warm_up.as_ref()) {
        let asked = Asked::read(repo, &context.global)?;
        plan.all_by(|pack| asked.warmth(&pack.to_string(), warm_up, repo.store().now_ms()));
    }
    Ok(plan)
}

/// What a thaw takes.
fn summary(plan: &ThawPlan, offers: &[Offer], opened: &Opened, days: u32) -> Result<Summary, Failure> {
    let tier = &tier_of(opened)?.options;
    let (packs, bytes) = asked_for(plan);
    let state = plan.state();
    let mut summary = Summary::new(json!({
        "tier": tier.name, "class": tier.class,
        "packs": packs, "bytes": bytes, "requests": packs,
        "packs_thawing": state.thawing, "packs_ready": state.ready,
        "days": days, "offers": to_json(&offers)?,
        "pack_ids": plan.frozen().map(|needed| needed.pack.name.object()).collect::<Vec<_>>(),
    }));
    summary.line(format!(
        "tier '{}': {} to thaw, {}, {}; {} thawing, {} can be read",
        tier.name,
        counted(packs, "pack"),
        output::bytes(bytes),
        counted(packs, "request"),
        state.thawing,
        state.ready
    ));
    if packs == 0 {
        return Ok(summary);
    }
    let mut table = output::table(&["Retrieval", "At most", "Thawing", "Reading it"]);
    for offer in offers {
        let hours = if offer.hours < 1.0 {
            format!("{:.0} min", offer.hours * 60.0)
        } else {
            format!("{} h", offer.hours)
        };
        table.add_row([
            offer.retrieval.name().to_owned(),
            hours,
            format!("${:.4}", offer.dollars),
            format!("${:.4}", offer.dollars_fetch),
        ]);
    }
    summary.table(table);
    summary.line(format!(
        "thawed copies for {} are in the price; 'esker thaw start' asks for them",
        counted(days, "day")
    ));
    Ok(summary)
}

/// Before a restore: what it needs can be read, or it is said what to do; or waited for.
pub(crate) fn need_thawed(
    opened: &Opened,
    found: &Listed,
    beneath: &[u8],
    wait: Option<Duration>,
    context: &Context,
) -> Result<(), Failure> {
    if !opened.tier.as_ref().is_some_and(|tier| tier.frozen) {
        return Ok(());
    }
    opened.repo.sync_index(context.console.monitor())?;
    let mut pause = FIRST_PAUSE;
    loop {
        let state = plan(opened, found, beneath, context)?.state();
        if state.is_ready() {
            return Ok(());
        }
        let said = describe(&state);
        let message = match (wait, state.frozen) {
            (Some(_), 0) => None,
            (None, 0) => Some(format!("{said}; run this again later, or with --wait-thaw")),
            (_, _) => Some(format!(
                "{said}; 'esker thaw start' asks for what is frozen, 'esker thaw plan' says what that costs"
            )),
        };
        if let Some(message) = message {
            return Err(Failure { code: Code::Frozen, message });
        }
        context.console.say(said);
        rest(pause.min(wait.unwrap_or_default()), context)?;
        pause = pause.saturating_mul(2);
    }
}

/// Lets time pass, unless the user has had enough.
fn rest(pause: Duration, context: &Context) -> Result<(), Failure> {
    let mut left = pause;
    loop {
        if context.console.monitor().interrupted() {
            return Err(Error::Interrupted.into());
        }
        if left.is_zero() {
            return Ok(());
        }
        let step = left.min(LOOK);
        std::thread::sleep(step);
        left = left.saturating_sub(step);
    }
}

/// When packs were asked for by a command, for stores that cannot be asked.
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Asked {
    /// Milliseconds since the Unix epoch, by pack.
    packs: BTreeMap<String, u64>,
}

impl Asked {
    fn path(repo: &Repository, global: &Global) -> Option<PathBuf> {
        let tier = repo.store().tier().unwrap_or_default();
        let id = repo.store().config().repository_id;
        repo.store()
            .access
            .cache
            .as_ref()
            .filter(|_| !global.no_cache)
            .map(|cache| cache.join(format!("{id}.{tier}.asked")))
    }

    fn read(repo: &Repository, global: &Global) -> Result<Self, Failure> {
        let Some(path) = Self::path(repo, global) else {
            return Err(Failure::new(
                "a warm-up command needs a cache folder, to remember what was asked for",
            ));
        };
        Ok(std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    fn write(&self, repo: &Repository, global: &Global) -> Result<(), Failure> {
        let Some(path) = Self::path(repo, global) else { return Ok(()) };
        let bytes = serde_json::to_vec(self).map_err(|error| Failure::new(error.to_string()))?;
        Ok(chunkstore::private::write(&path, &bytes)?)
    }

    fn warmth(&self, pack: &str, warm_up: &WarmUp, now_ms: u64) -> Warmth {
        let wait = u64::try_from(warm_up.wait.as_millis()).unwrap_or(u64::MAX);
        match self.packs.get(pack) {
            None => Warmth::Frozen,
            Some(asked) if asked.saturating_add(wait) > now_ms => Warmth::Thawing,
            Some(_) => Warmth::Thawed(None),
        }
    }
}

/// Runs the command for each pack.
fn warm_up_all(
    plan: &ThawPlan,
    warm_up: &WarmUp,
    opened: &Opened,
    context: &Context,
) -> Result<u64, Failure> {
    let repo = &opened.repo;
    let mut asked = Asked::read(repo, &context.global)?;
    let mut count = 0;
    for needed in plan.frozen() {
        let (id, path) = (needed.pack.name.id.to_string(), needed.pack.name.object());
        let command = warm_up.command.replace("%id", &id).replace("%path", &path);
        let mut shell = shell::command(command.as_ref(), &context.passed());
        shell.stdin(std::process::Stdio::null());
        let (status, _) = shell::run(shell)??;
        if !status.success() {
            asked.write(repo, &context.global)?;
            return Err(Failure::new(format!("the warm-up command failed for {path}: {status}")));
        }
        asked.packs.insert(id, repo.store().now_ms());
        count += 1;
    }
    asked.write(repo, &context.global)?;
    Ok(count)
}
