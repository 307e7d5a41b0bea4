//! `esker prune`

use super::host::{TakenIn, Waiting};
use super::parse_size;
use crate::context::Context;
use crate::durations;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::{self, Summary};
use crate::units::counted;
use chunkstore::ingest::PackerOptions;
use engine::Repository;
use engine::prune::{MaxUnused, PruneOptions, PrunePlan, prune};

/// Remove data that no snapshot needs
///
/// Safe while backups run. What a running backup may still use is removed by the next prune.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    prune: PruneArgs,
    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Choices that `forget --prune` shares.
#[derive(clap::Args, Debug)]
pub(crate) struct PruneArgs {
    /// Unused data that may stay: 5%, 200M or unlimited; and, as a share, four times that of old chunks that only
    /// serve newer ones as a base
    #[arg(long, value_parser = parse_unused, default_value = "5%", value_name = "LIMIT")]
    max_unused: MaxUnused,
    /// Copy at most this much to new packs
    #[arg(long, value_parser = parse_size, value_name = "SIZE")]
    max_repack_size: Option<u64>,
    /// Keep old chunks as long as newer ones are stored against them, instead of storing those anew where
    /// that frees more than it takes
    #[arg(long)]
    no_rebase: bool,
    /// Give up sessions that were silent for so long: hours, or 90m, 36h, 7d; 0 for never
    #[arg(long, value_parser = durations::hours, default_value = "168", value_name = "TIME")]
    fence_after: u64,
    /// Remove what was there before HEAD was made anew ('esker repair head'), too, if nothing needs it: look at the
    /// snapshots first
    #[arg(long)]
    accept_head: bool,
    /// Do not first take in what hosts brought that may only write
    #[arg(long)]
    no_admit: bool,
}

fn parse_unused(text: &str) -> Result<MaxUnused, String> {
    if text == "unlimited" {
        return Ok(MaxUnused::Unlimited);
    }
    match text.strip_suffix('%') {
        Some(percent) => match percent.parse::<f64>() {
            Ok(percent) if (0.0..100.0).contains(&percent) => Ok(MaxUnused::Percent(percent)),
            _ => Err("expected a percentage from 0 to below 100".into()),
        },
        None => parse_size(text).map(MaxUnused::Bytes),
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let repo = context.open()?;
    prune_and_print(&repo, &args.prune, args.dry_run, context)
}

pub(crate) fn prune_and_print(
    repo: &Repository,
    args: &PruneArgs,
    dry_run: bool,
    context: &Context,
) -> CommandResult {
    let (mut waiting, mut taken_in) = (Waiting::default(), TakenIn::nothing());
    match (args.no_admit, dry_run) {
        (true, _) => {}
        (false, true) => waiting = Waiting::look(repo, context)?,
        // What waits may need what nothing else does.
        (false, false) => taken_in = super::host::take_in_first(repo, context)?,
    }
    let options = PruneOptions {
        max_unused: args.max_unused,
        max_repack: args.max_repack_size,
        no_rebase: args.no_rebase,
        compression: context.global.compression,
        dry_run,
        packer: PackerOptions {
            pack_len: context.global.pack_size.saturating_mul(1 << 20),
            ..PackerOptions::default()
        },
        fence_after_ms: args.fence_after,
        accept_head: args.accept_head,
        ..PruneOptions::default()
    };
    let plan = context.console.during("prune", |monitor| prune(repo, &options, monitor))?;
    let mut summary = summary(&plan, dry_run)?;
    if dry_run {
        summary = waiting.add(summary);
    }
    context.console.summary(&taken_in.add(summary));
    Ok(Code::Done)
}

/// So many names of orphans are printed.
const NAMED: usize = 20;

/// Names what no HEAD does, and is removed for that; and says what stays because HEAD was made anew.
pub(super) fn add_orphans(plan: &PrunePlan, tier: Option<&str>, dry_run: bool, summary: &mut Summary) {
    let verb = if dry_run { "would remove" } else { "removes" };
    for name in plan.orphan_names.iter().take(NAMED) {
        summary.line(format!("{verb} {}, which HEAD does not name", engine::shown::line(name)));
    }
    if plan.orphan_names.len() > NAMED {
        let more = plan.orphan_names.len() - NAMED;
        summary.line(format!("{verb} {} that HEAD does not name", counted(more, "further object")));
    }
    if plan.kept_before_head > 0 {
        summary.line(format!(
            "kept {} that nothing needs, as far as HEAD says: HEAD was made anew after that was written, and may not name \
             all. When its snapshots are as they should be, '{}' removes what is not needed",
            counted(plan.kept_before_head, "object"),
            crate::fleet::accepting_head(tier)
        ));
    }
}

fn summary(plan: &PrunePlan, dry_run: bool) -> Result<Summary, Failure> {
    let mut summary = Summary::of(plan)?.with("dry_run", dry_run);
    let mut say = |text: String| summary.line(text);
    let bytes = output::bytes;
    say(format!(
        "packs: {} with {}, {} of it used",
        plan.packs_total,
        bytes(plan.bytes_total),
        bytes(plan.bytes_used)
    ));
    say(format!(
        "unused packs: {}; to be repacked: {} with {}",
        plan.packs_unused,
        plan.packs_repack,
        bytes(plan.bytes_repack)
    ));
    if plan.chunks_rebase > 0 {
        say(format!("chunks to be stored anew, without older ones: {}", plan.chunks_rebase));
    }
    if plan.orphans > 0 || plan.sessions_fenced > 0 {
        say(format!(
            "left by interrupted runs: {}, {}",
            counted(plan.orphans, "object"),
            counted(plan.sessions_fenced, "session")
        ));
    }
    add_orphans(plan, None, dry_run, &mut summary);
    let mut say = |text: String| summary.line(text);
    let verb = if dry_run { "would remove" } else { "removes" };
    if plan.revoked_objects > 0 {
        say(format!(
            "{verb} {} with {} that revoked hosts left in their inboxes, and answers to them",
            counted(plan.revoked_objects, "object"),
            bytes(plan.revoked_bytes)
        ));
    }
    if plan.stray_objects > 0 {
        say(format!(
            "{verb} {} with {} that no host brings, from inboxes",
            counted(plan.stray_objects, "object"),
            bytes(plan.stray_bytes)
        ));
    }
    say(format!("{verb} {}", bytes(plan.bytes_remove)));
    // restic's words and order: scripts look for them.
    let mut blobs = |what: &str, count: u64, len: u64| {
        say(format!("{what:<13} {count:>10} blobs / {}", bytes(len)));
    };
    let gone = plan.chunks_unused + plan.chunks_repack_remove;
    blobs("to repack:", plan.chunks_repack, plan.bytes_repack + plan.bytes_repack_remove);
    blobs("this removes:", plan.chunks_repack_remove, plan.bytes_repack_remove);
    blobs("to delete:", plan.chunks_unused, plan.bytes_remove.saturating_sub(plan.bytes_repack_remove));
    blobs("total prune:", gone, plan.bytes_remove);
    blobs("remaining:", plan.chunks_total - gone, plan.bytes_total.saturating_sub(plan.bytes_remove));
    let remaining = plan.bytes_total.saturating_sub(plan.bytes_remove).max(1);
    let share = plan.bytes_unused_after as f64 * 100.0 / remaining as f64;
    say(format!(
        "unused size after prune: {} ({share:.2}% of remaining size)",
        bytes(plan.bytes_unused_after)
    ));
    if plan.deferred {
        say("other sessions are running: the next prune removes what this one set aside".into());
    }
    Ok(summary)
}
