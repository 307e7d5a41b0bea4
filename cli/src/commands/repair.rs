//! `esker repair`

use super::to_json;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use chunkstore::PackId;
use chunkstore::ingest::PackerOptions;
use chunkstore::store::rebuild_head;
use engine::Repository;
use engine::repair::{
    PacksOptions, PacksReport, SnapshotsOptions, SnapshotsReport, repair_index, repair_packs,
    repair_snapshots,
};
use serde_json::json;
use std::io::{BufRead as _, IsTerminal as _, Write as _};

/// Make damaged parts anew from what is there; nothing readable is removed
///
/// What is to be done is shown first, and asked for on a terminal. In the order of need: 'head' if the repository
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
    /// Make the index anew from the packs' own directories, and drop the local cache
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
    /// For a HEAD that is gone, damaged, or older than one that this machine has seen. Nothing else may be at work
    /// on the repository meanwhile. Snapshots that were being forgotten may come back.
    Head {
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
        What::Head { manner } => head(context, *manner),
        What::Packs { packs, read_data, manner } => self::packs(context, packs, *read_data, *manner),
        What::Snapshots { snapshots, forget, manner } => {
            self::snapshots(context, snapshots, *forget, *manner)
        }
    }
}

/// Whether to go on after the plan was shown: yes, unless somebody is there to say no.
fn go_on(manner: Manner) -> Result<bool, Failure> {
    if manner.dry_run || manner.yes || !std::io::stdin().is_terminal() {
        return Ok(!manner.dry_run);
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

fn summary(context: &Context, value: &impl serde::Serialize, dry_run: bool) -> Result<bool, Failure> {
    if !context.global.json {
        return Ok(false);
    }
    let mut value = to_json(value)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("message_type".into(), json!("summary"));
        object.insert("dry_run".into(), json!(dry_run));
    }
    output::json_line(&value);
    Ok(true)
}

fn index(context: &Context, read_all_packs: bool, dry_run: bool) -> CommandResult {
    let repo = context.open()?;
    if !dry_run && let Some(cache) = context.global.cache(context.file.as_ref()) {
        chunkstore::index::rocks::RocksIndex::clear(
            &cache.join(repo.store().config().repository_id.to_string()),
        )?;
    }
    let report = context.console.during(|monitor| repair_index(&repo, read_all_packs, dry_run, monitor))?;
    if !summary(context, &report, dry_run)? {
        let verb = if dry_run { "would list" } else { "listed" };
        context.console.say(format!(
            "{} segments are fine, {} are not; {verb} {} chunks of {} packs anew; {} packs cannot be read; {} \
             stay listed as they were",
            report.segments_kept,
            report.segments_lost,
            report.chunks_found,
            report.packs_read,
            report.packs_damaged,
            report.packs_kept
        ));
    }
    Ok(if report.packs_damaged > 0 { Code::Failed } else { Code::Done })
}

fn head(context: &Context, manner: Manner) -> CommandResult {
    context.open_with(
        |access, password| {
            let rebuild = |dry_run| rebuild_head(access.clone(), password.as_bytes(), dry_run);
            let plan = rebuild(true)?;
            let say = |text: String| {
                if !context.global.json {
                    context.console.say(text);
                }
            };
            if plan.why.is_empty() {
                say("HEAD is fine; nothing to do".into());
            } else {
                say(format!("HEAD cannot be used: {}", plan.why));
                say(format!(
                    "a new one would list {} snapshots ({} of them not in the HEAD that is there), {} index segments \
                     with {} packs, and {} key slots",
                    plan.snapshots, plan.snapshots_found, plan.segments, plan.packs, plan.slots
                ));
                if plan.packs_gone > 0 {
                    say(format!("{} packs that segments list are gone", plan.packs_gone));
                }
                for (name, why) in &plan.unreadable {
                    say(format!("left out: {name}: {why}"));
                }
            }
            let wanted = !plan.why.is_empty() && go_on(manner)?;
            if wanted {
                rebuild(false)?;
                say("HEAD was made anew; 'esker check' says what is missing, if anything".into());
            }
            let json = json!({
                "why": plan.why, "snapshots": plan.snapshots, "snapshots_found": plan.snapshots_found,
                "segments": plan.segments, "packs": plan.packs, "packs_gone": plan.packs_gone,
                "slots": plan.slots, "unreadable": plan.unreadable, "rebuilt": wanted,
            });
            summary(context, &json, manner.dry_run)?;
            Ok(if plan.unreadable.is_empty() && plan.packs_gone == 0 { Code::Done } else { Code::Failed })
        },
        false,
    )
}

fn packs(context: &Context, packs: &[String], read_data: bool, manner: Manner) -> CommandResult {
    let repo = context.open()?;
    let id = |text: &String| {
        let name = text.rsplit('/').next().unwrap_or(text);
        PackId::parse(name).ok_or_else(|| Failure::new(format!("'{text}' is not a pack's id, 64 hex digits")))
    };
    let packs = packs.iter().map(id).collect::<Result<Vec<_>, _>>()?;
    let options = PacksOptions { packs, read_data, dry_run: true, packer: packer(context) };
    let repair = |options: &PacksOptions| {
        context.console.during(|monitor| repair_packs(&repo, options, monitor)).map_err(Failure::from)
    };
    let mut report = repair(&options)?;
    let say = |report: &PacksReport, would: &str| {
        if !context.global.json {
            context.console.say(format!(
                "{} packs are damaged; {would}made {} whole from parity, given up {}, stored {} chunks again, lost {}",
                report.packs_damaged,
                report.packs_healed,
                report.packs_dropped,
                report.chunks_saved,
                report.chunks_lost
            ));
        }
    };
    say(&report, "would have ");
    if report.packs_damaged > 0 && go_on(manner)? {
        report = repair(&PacksOptions { packs: report.damaged, dry_run: false, ..options })?;
        say(&report, "");
        if report.chunks_lost > 0 && !context.global.json {
            context
                .console
                .say("back up again to store what is still at hand; then 'esker repair snapshots'");
        }
    }
    summary(context, &report, manner.dry_run)?;
    Ok(if report.chunks_lost > 0 { Code::Failed } else { Code::Done })
}

fn snapshots(context: &Context, wanted: &[String], forget: bool, manner: Manner) -> CommandResult {
    let repo: Repository = context.open()?;
    let filter = engine::snapshot::Filter::default();
    let find = |wanted: &String| Ok(repo.find(wanted, &filter, context.console.monitor())?.id);
    let snapshots = wanted.iter().map(find).collect::<Result<Vec<_>, Failure>>()?;
    let options = SnapshotsOptions { snapshots, forget, dry_run: true, packer: packer(context) };
    let repair = |options: &SnapshotsOptions| {
        context.console.during(|monitor| repair_snapshots(&repo, options, monitor)).map_err(Failure::from)
    };
    let mut report = repair(&options)?;
    if !context.global.json {
        show_plan(context, &report);
    }
    if !report.repaired.is_empty() && go_on(manner)? {
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
    summary(context, &report, manner.dry_run)?;
    Ok(if report.unreadable.is_empty() && report.repaired.is_empty() { Code::Done } else { Code::Failed })
}

fn show_plan(context: &Context, report: &SnapshotsReport) {
    for repaired in &report.repaired {
        for path in &repaired.lost {
            context.console.say(format!("snapshot {}: {path} is lost", repaired.snapshot.short()));
        }
        let gaps = match repaired.gaps {
            0 => String::new(),
            gaps => format!(", and what stood in {gaps} gaps of its list"),
        };
        context.console.say(format!(
            "snapshot {}: {} entries are lost{gaps}; {} are left",
            repaired.snapshot.short(),
            repaired.lost.len(),
            repaired.entries
        ));
    }
    let sound = report.snapshots - (report.repaired.len() + report.unreadable.len()) as u64;
    context.console.say(format!(
        "{sound} snapshots are fine, {} have lost something, {} cannot be read",
        report.repaired.len(),
        report.unreadable.len()
    ));
}
