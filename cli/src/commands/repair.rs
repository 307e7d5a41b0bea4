//! `esker repair`

use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::Summary;
use crate::places::Make;
use crate::units::{counted, counted_are};
use chunkstore::PackId;
use chunkstore::head::{Elsewhere, Place};
use chunkstore::ingest::PackerOptions;
use chunkstore::storage::Storage;
use chunkstore::store::{Found, RebuildOptions, RebuildPlan, is_locked_out, look, peek, rebuild_head};
use engine::Repository;
use engine::repair::{
    PacksOptions, PacksReport, SnapshotsOptions, SnapshotsReport, repair_index, repair_packs,
    repair_snapshots,
};
use engine::shown;
use engine::tier::Role;
use serde_json::json;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::sync::Arc;

/// Make damaged parts anew from what is there; nothing readable is removed
///
/// What is to be done is shown first, and asked for on a terminal. Without one, what gives something up ('packs', and
/// 'snapshots --forget') is done with --yes only. In the order of need: 'head' if the repository
/// does not open; 'index' if segments are damaged; 'packs', which mends from parity or gives up what cannot be
/// read, so that the next backup stores it again; 'snapshots' for those that needed what is lost.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Args, Debug, Clone, Copy)]
struct Manner {
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Make the index anew from the packs themselves, and drop the local cache
    ///
    /// Each pack that no readable segment lists is read whole: one that is sound is listed, of others what can be read
    /// is stored again. What cannot be read is not listed, so that the next backup stores it again, if it still has it.
    Index {
        /// Read all packs, not only those that no readable segment lists
        #[arg(long)]
        read_all_packs: bool,
        /// Only say what would be done
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Make HEAD anew from the snapshots and index segments that are there
    ///
    /// For a HEAD that is gone, damaged, or older than one that this machine, or the primary, has seen. Nothing else may
    /// be at work on the repository meanwhile. Snapshots that were being forgotten may come back. What was there before
    /// is not pruned until 'prune --accept-head'. With esker.toml, it is the primary's HEAD unless a tier is named.
    Head {
        /// It is the HEAD of this tier
        #[arg(long, value_name = "NAME", conflicts_with = "primary")]
        tier: Option<String>,
        /// It is the primary's HEAD, although the place was made as a tier's
        #[arg(long)]
        primary: bool,
        /// Give up what is encrypted with a data key whose grants are lost everywhere
        #[arg(long)]
        without_grants: bool,
        #[command(flatten)]
        manner: Manner,
    },
    /// Mend damaged packs from parity; store again what can be read of others, and no longer list them
    Packs {
        /// Ids of packs; those that are missing or have another length if none is given
        packs: Vec<String>,
        /// Read all packs to find the damaged ones
        #[arg(long)]
        read_data: bool,
        #[command(flatten)]
        manner: Manner,
    },
    /// Make snapshots anew without what is lost; the old ones stay
    Snapshots {
        /// Which snapshots; all if none is given
        snapshots: Vec<String>,
        /// Forget the damaged ones once the new ones are there
        #[arg(long)]
        forget: bool,
        #[command(flatten)]
        manner: Manner,
    },
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    match &args.what {
        What::Index { read_all_packs, dry_run } => index(context, *read_all_packs, *dry_run),
        What::Head { tier, primary, without_grants, manner } => {
            head(context, tier.as_deref(), *primary, *without_grants, *manner)
        }
        What::Packs { packs, read_data, manner } => self::packs(context, packs, *read_data, *manner),
        What::Snapshots { snapshots, forget, manner } => {
            self::snapshots(context, snapshots, *forget, *manner)
        }
    }
}

/// What a repair does to what is there.
#[derive(Clone, Copy, PartialEq)]
enum Effect {
    /// Nothing is given up.
    Adds,
    /// Something is taken out of the repository: nobody who was not asked has wanted that.
    GivesUp,
}

/// Whether to go on after the plan was shown. Where nobody is there to be asked, what gives something up needs `--yes`.
fn go_on(manner: Manner, effect: Effect) -> Result<bool, Failure> {
    if manner.dry_run || manner.yes {
        return Ok(!manner.dry_run);
    }
    if !std::io::stdin().is_terminal() {
        return match effect {
            Effect::Adds => Ok(true),
            Effect::GivesUp => Err(Failure::new(
                "nothing was done: this gives up what cannot be read, and there is no terminal to ask on. With --yes it is \
                 done",
            )),
        };
    }
    let mut answer = String::new();
    let asked = write!(std::io::stderr(), "go on? [y/N] ")
        .and_then(|()| std::io::stdin().lock().read_line(&mut answer));
    asked.map_err(|error| Failure::new(format!("cannot ask: {error}; give --yes")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn packer(context: &Context) -> PackerOptions {
    let pack_len = context.global.pack_size.saturating_mul(1 << 20);
    PackerOptions { pack_len, ..PackerOptions::default() }
}

/// The object of a command that tells people its plan before it asks them, and so has no text left for its end.
fn told(context: &Context, value: &impl serde::Serialize, dry_run: bool) -> Result<(), Failure> {
    context.console.summary(&Summary::of(value)?.with("dry_run", dry_run));
    Ok(())
}

fn index(context: &Context, read_all_packs: bool, dry_run: bool) -> CommandResult {
    let repo = context.open()?;
    if !dry_run && let Some(cache) = context.cache() {
        chunkstore::index::rocks::RocksIndex::clear(
            &cache.join(repo.store().config().repository_id.to_string()),
        )?;
    }
    let report = context
        .console
        .during("repair index", |monitor| repair_index(&repo, read_all_packs, dry_run, monitor))?;
    let mut summary = Summary::of(&report)?.with("dry_run", dry_run);
    let (verb, would) = if dry_run { ("would list", "would be ") } else { ("listed", "") };
    summary.line(format!(
        "{} fine, {} not; {verb} {} of {} anew; {} cannot be read whole; {} \
         stay listed as before",
        counted_are(report.segments_kept, "segment"),
        report.segments_lost,
        counted(report.chunks_found, "chunk"),
        counted(report.packs_read, "pack"),
        counted(report.packs_damaged, "pack"),
        report.packs_kept
    ));
    if report.packs_healed + report.chunks_saved + report.chunks_lost > 0 {
        summary.line(format!(
            "of what was not listed, {} {would}made whole from parity, {} {would}stored again, {} lost",
            counted(report.packs_healed, "pack"),
            counted(report.chunks_saved, "chunk"),
            report.chunks_lost
        ));
    }
    context.console.summary(&summary);
    Ok(if report.packs_damaged > 0 { Code::Failed } else { Code::Done })
}

/// What the other tiers of esker.toml know of the place that is to be mended.
fn elsewhere(context: &Context, wanted: Option<&str>, primary: bool) -> Result<Elsewhere, Failure> {
    let mut known = Elsewhere { is: wanted.map(|name| Place::Tier(name.to_owned())), ..Elsewhere::default() };
    if primary {
        known.is = Some(Place::Primary);
    }
    let Some(file) = &context.file else { return Ok(known) };
    let this = context.place()?.0.identity();
    let this = match wanted {
        Some(name) if context.uses_file() => file.tier(name)?.place.identity(),
        _ => this,
    };
    let Some(own) = file.tiers.iter().find(|tier| tier.place.identity() == this) else { return Ok(known) };
    let is_primary = match &known.is {
        Some(place) => *place == Place::Primary,
        None => own.options.role == Role::Primary,
    };
    if known.is.is_none() {
        known.is = Some(if is_primary { Place::Primary } else { Place::Tier(own.options.name.clone()) });
    }
    let secret = context.secret(false)?;
    // Complete if every place was read and one of them knew all.
    let (mut all, mut any) = (true, false);
    for tier in file.tiers.iter().filter(|tier| tier.place.identity() != this) {
        let name = &tier.options.name;
        let head = tier.place.open(Make::No, tier.rates).and_then(|storage| {
            context.refuse_another(tier, &*storage)?;
            Ok(peek(context.access(storage)?, &secret)?)
        });
        let head = match head {
            Ok(there) => {
                for (slot, there) in there.slots {
                    // Another tier may have it sound.
                    let known = known.slots.entry(slot).or_insert_with(|| there.clone());
                    if known.bytes.is_none() {
                        *known = there;
                    }
                }
                known.grants.extend(there.grants);
                there.head
            }
            Err(failure) => {
                context.console.warn(&format!("tier '{name}': {}", failure.message));
                all = false;
                continue;
            }
        };
        known.tiers.merge(&head.tiers);
        known.retired = known.retired.max(head.retired());
        known.forgotten.extend(head.forgotten.iter()?);
        any |= head.tiers.all;
        match &head.tier {
            Some(name) => known.tiers.note(name, head.age()),
            None if is_primary && !primary => {
                return Err(Failure::new(format!(
                    "'{name}' is the primary by itself: it was adopted. Give it the role in {}, and let this one rejoin; \
                     --primary if this one is to be it all the same",
                    file.path.display()
                )));
            }
            None => {}
        }
        if is_primary || head.tier.is_none() {
            known.incarnation = known.incarnation.max(head.incarnation);
        }
    }
    known.tiers.all = all && any;
    Ok(known)
}

/// The place whose HEAD is to be mended, opened.
fn broken(context: &Context, tier: Option<&str>) -> Result<Arc<dyn Storage>, Failure> {
    match (tier, &context.file) {
        (Some(name), Some(file)) if context.uses_file() => {
            let tier = file.tier(name)?;
            let storage = tier.place.open(Make::No, tier.rates)?;
            context.refuse_another(tier, &*storage)?;
            Ok(storage)
        }
        (None, Some(file)) if context.uses_file() => {
            let storage = context.storage(Make::No).map_err(|failure| context.with_ways_out(failure))?;
            file.primary().map_or(Ok(()), |primary| context.refuse_another(primary, &*storage))?;
            Ok(storage)
        }
        _ => context.storage(Make::No),
    }
}

/// Puts back what a place needs to be opened, from another tier of esker.toml.
fn put_back(
    storage: &Arc<dyn Storage>,
    known: &Elsewhere,
    manner: Manner,
    context: &Context,
) -> Result<(), Failure> {
    let what = "the configuration or the key slots";
    let file = context.file.as_ref().filter(|_| known.is.is_some());
    let (Some(file), Some(place)) = (file, &known.is) else {
        return Err(Failure::new(format!(
            "{what} of {} are gone; with an esker.toml that names a tier that has them, they are put back from there",
            storage.place()
        )));
    };
    let place_of = |tier: &crate::file::TierPlace| match place {
        Place::Primary => tier.options.role == Role::Primary,
        Place::Tier(name) => tier.options.name == *name,
    };
    let secret = context.secret(false)?;
    for tier in file.tiers.iter().filter(|tier| !place_of(tier)) {
        let donor = tier.place.open(Make::No, tier.rates).and_then(|storage| {
            context.refuse_another(tier, &*storage)?;
            Ok(Repository::open(context.access(storage)?, &secret)?)
        });
        let Ok(donor) = donor else { continue };
        let name = &tier.options.name;
        if manner.dry_run {
            return Err(Failure::new(format!(
                "{what} are gone, and would be put back from tier '{name}' first"
            )));
        }
        donor.store().put_back(storage, place)?;
        if !context.global.json {
            context.console.say(format!("{what} were gone, and were put back from tier '{name}'"));
        }
        return Ok(());
    }
    Err(Failure::new(format!(
        "{what} of {} are gone, and no tier can be opened that has them",
        storage.place()
    )))
}

/// Says what becomes of write-only hosts.
fn hosts(plan: &RebuildPlan, say: &dyn Fn(String)) {
    if plan.hosts_lost {
        say(format!(
            "the list of write-only hosts is lost, and how many there were is not known: {} have something in inbox/ or an answer in \
             replies/, and the new HEAD lists {}. 'esker host add NAME --write-only' adds each again: it gets a new file, and \
             begins its book anew by itself. What was brought with an old file is not admitted",
            plan.hosts_seen, plan.hosts
        ));
    } else if plan.hosts > 0 {
        say(format!(
            "{} write-only hosts are listed as the last HEAD that is known has them: 'esker host list' shows them; revoke \
             again those that were revoked since",
            plan.hosts
        ));
    }
}

fn head(
    context: &Context,
    tier: Option<&str>,
    primary: bool,
    without_grants: bool,
    manner: Manner,
) -> CommandResult {
    let storage = broken(context, tier)?;
    let found = look(&*storage)?;
    if found == Found::Nothing {
        let none: Failure = chunkstore::Error::NoRepository { place: storage.place() }.into();
        return Err(if tier.is_none() { context.with_ways_out(none) } else { none });
    }
    let secret = context.secret_for(&*storage)?;
    let known = elsewhere(context, tier, primary)?;
    if is_locked_out(&*storage)? {
        put_back(&storage, &known, manner, context)?;
    }
    let access = context.access(storage)?;
    let rebuild = |dry_run| {
        let options = RebuildOptions { dry_run, without_grants };
        rebuild_head(access.clone(), &secret, &known, options)
    };
    let plan = rebuild(true)?;
    let say = |text: String| {
        if !context.global.json {
            context.console.say(text);
        }
    };
    for epoch in &plan.grants_put_back {
        say(format!(
            "the grants of epoch {epoch} are missing or damaged; another tier has them, from which they are put back"
        ));
    }
    if plan.why.is_empty() {
        if plan.slots_put_back > 0 {
            say(format!(
                "{} missing or damaged, and put back from another tier",
                counted_are(plan.slots_put_back, "key slot")
            ));
        }
        let nothing = plan.grants_put_back.is_empty() && plan.slots_put_back == 0;
        say(format!("HEAD is fine{}", if nothing { "; nothing to do" } else { "" }));
    } else {
        say(format!("HEAD cannot be used: {}", plan.why));
        say(format!(
            "a new one would list {} ({} of them not in the HEAD that is there), {} with {}, and {}",
            counted(plan.snapshots, "snapshot"),
            plan.snapshots_found,
            counted(plan.segments, "index segment"),
            counted(plan.packs, "pack"),
            counted(plan.slots, "key slot")
        ));
        for (epoch, objects) in &plan.keyless {
            let objects = counted(objects.len(), "object");
            say(format!("given up: {objects} under the data key of epoch {epoch}, which is lost"));
        }
        if !plan.keyless.is_empty() {
            say(format!("{} given up with that", counted_are(plan.snapshots_given_up(), "snapshot")));
        }
        if plan.packs_gone > 0 {
            say(format!("{} gone that segments list", counted_are(plan.packs_gone, "pack")));
        }
        for (name, why) in &plan.unreadable {
            say(format!("left out: {name}: {why}"));
        }
        if plan.without_parity {
            say("no pack here has parity, as in a primary that was a tier before: none is missed, and none is made".into());
        }
        if plan.slots_put_back > 0 {
            say(format!("{} of the key slots are put back from another tier", plan.slots_put_back));
        }
        for slot in &plan.slots_left_out {
            say(format!(
                "key slot {} ('{}', host '{}') stays out: neither another HEAD nor the last grants name it, so it was \
                 removed, or is newer; whoever has what opens it can make HEAD anew with that, and 'esker key add' \
                 adds one again",
                slot.id.short(),
                shown::text(&slot.label),
                shown::text(&slot.hostname),
            ));
        }
        for slot in &plan.slots_unproven {
            say(format!(
                "key slot {} ('{}', host '{}') is listed, although nothing proves that it was not removed before: if it \
                 was, 'esker key remove {}' and then 'esker key rotate'",
                slot.id.short(),
                shown::text(&slot.label),
                shown::text(&slot.hostname),
                slot.id.short(),
            ));
        }
        hosts(&plan, &say);
        if plan.makes_epoch {
            say(
                "no other HEAD says which key slots count and which data key was the last: a new data key is made for \
                 the slots that are listed"
                    .into(),
            );
        }
    }
    let lacks = !plan.why.is_empty() || !plan.grants_put_back.is_empty() || plan.slots_put_back > 0;
    let effect = if plan.keyless.is_empty() { Effect::Adds } else { Effect::GivesUp };
    let done = lacks && go_on(manner, effect)?;
    if done {
        rebuild(false)?;
    }
    let wanted = done && !plan.why.is_empty();
    if wanted {
        say("HEAD was made anew; 'esker check' says what is missing, if anything".into());
        let prune = crate::fleet::accepting_head(plan.tier.as_deref());
        say(format!(
            "prune removes nothing that was there before, until '{prune}' says that the snapshots are as they should be"
        ));
    }
    let json = json!({
        "why": plan.why, "snapshots": plan.snapshots, "snapshots_found": plan.snapshots_found,
        "segments": plan.segments, "packs": plan.packs, "packs_gone": plan.packs_gone,
        "slots": plan.slots, "slots_put_back": plan.slots_put_back, "slots_left_out": plan.slots_left_out.len(),
        "grants_put_back": plan.grants_put_back,
        "unreadable": plan.unreadable, "snapshots_given_up": plan.snapshots_given_up(),
        "slots_unproven": plan.slots_unproven.iter().map(|slot| slot.id).collect::<Vec<_>>(), "makes_epoch": plan.makes_epoch,
        "hosts": plan.hosts, "hosts_lost": plan.hosts_lost, "hosts_seen": plan.hosts_seen, "without_parity": plan.without_parity, "tier": plan.tier, "rebuilt": wanted,
    });
    told(context, &json, manner.dry_run)?;
    Ok(if plan.unreadable.is_empty() && plan.packs_gone == 0 { Code::Done } else { Code::Failed })
}

fn packs(context: &Context, packs: &[String], read_data: bool, manner: Manner) -> CommandResult {
    let repo = context.open()?;
    let id = |text: &String| {
        let name = text.rsplit('/').next().unwrap_or(text);
        PackId::parse(name)
            .ok_or_else(|| Failure::usage(format!("'{text}' is not a pack's id, 64 hex digits")))
    };
    let packs = packs.iter().map(id).collect::<Result<Vec<_>, _>>()?;
    let options = PacksOptions { packs, read_data, dry_run: true, packer: packer(context) };
    let repair = |options: &PacksOptions| {
        context
            .console
            .during("repair packs", |monitor| repair_packs(&repo, options, monitor))
            .map_err(Failure::from)
    };
    let mut report = repair(&options)?;
    let say = |what: String| {
        if !context.global.json {
            context.console.say(what);
        }
    };
    let elsewhere = |report: &PacksReport| match report.chunks_elsewhere {
        0 => String::new(),
        count => format!(", {count} are in other packs, too"),
    };
    say(match report.packs_damaged {
        0 => format!("looked at {}; none is damaged", counted(report.packs_read, "pack")),
        damaged => format!(
            "{} damaged: {} can be made whole from parity, {} to be given up; of those, {} can be stored again{}, {} lost",
            counted_are(damaged, "pack"),
            report.packs_healed,
            report.packs_dropped,
            counted(report.chunks_saved, "chunk"),
            elsewhere(&report),
            report.chunks_lost
        ),
    });
    if report.packs_damaged > 0 && go_on(manner, Effect::GivesUp)? {
        report = repair(&PacksOptions { packs: report.damaged, dry_run: false, ..options })?;
        say(format!(
            "made {} whole from parity, gave {} up; stored {} again{}, {} lost",
            counted(report.packs_healed, "pack"),
            report.packs_dropped,
            counted(report.chunks_saved, "chunk"),
            elsewhere(&report),
            report.chunks_lost
        ));
        if report.chunks_lost > 0 && !context.global.json {
            context
                .console
                .say("back up again to store what is still at hand; then 'esker repair snapshots'");
        }
    }
    told(context, &report, manner.dry_run)?;
    Ok(if report.chunks_lost > 0 { Code::Failed } else { Code::Done })
}

fn snapshots(context: &Context, wanted: &[String], forget: bool, manner: Manner) -> CommandResult {
    let repo: Repository = context.open()?;
    let filter = engine::snapshot::Filter::default();
    let find = |wanted: &String| Ok(repo.find(wanted, &filter, context.console.monitor())?.id);
    let snapshots = wanted.iter().map(find).collect::<Result<Vec<_>, Failure>>()?;
    let options = SnapshotsOptions { snapshots, forget, dry_run: true, packer: packer(context) };
    let repair = |options: &SnapshotsOptions| {
        context
            .console
            .during("repair snapshots", |monitor| repair_snapshots(&repo, options, monitor))
            .map_err(Failure::from)
    };
    let mut report = repair(&options)?;
    if !context.global.json {
        show_plan(context, &report);
    }
    let effect = if forget { Effect::GivesUp } else { Effect::Adds };
    if !report.repaired.is_empty() && go_on(manner, effect)? {
        report = repair(&SnapshotsOptions { dry_run: false, ..options })?;
        for repaired in report.repaired.iter().filter(|_| !context.global.json) {
            let (old, forgotten) =
                (repaired.snapshot.short(), if forget { ", which is forgotten" } else { "" });
            context.console.say(match repaired.repaired {
                Some(new) => format!("snapshot {} holds what is left of {old}{forgotten}", new.short()),
                None => format!("nothing is left of snapshot {old}; 'esker forget {old}' removes it"),
            });
        }
    }
    told(context, &report, manner.dry_run)?;
    Ok(if report.unreadable.is_empty() && report.repaired.is_empty() { Code::Done } else { Code::Failed })
}

fn show_plan(context: &Context, report: &SnapshotsReport) {
    for repaired in &report.repaired {
        for path in &repaired.lost {
            context.console.say(format!("snapshot {}: {path} is lost", repaired.snapshot.short()));
        }
        let gaps = match repaired.gaps {
            0 => String::new(),
            gaps => format!(", and what stood in {} of its list", counted(gaps, "gap")),
        };
        context.console.say(format!(
            "snapshot {}: {} lost{gaps}; {} left",
            repaired.snapshot.short(),
            counted_are(repaired.lost.len(), "entry"),
            repaired.entries
        ));
    }
    let sound = report.snapshots - (report.repaired.len() + report.unreadable.len()) as u64;
    context.console.say(format!(
        "{} fine, {} lost something, {} cannot be read",
        counted_are(sound, "snapshot"),
        report.repaired.len(),
        report.unreadable.len()
    ));
}
