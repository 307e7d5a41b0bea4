//! `esker prune`

use super::{parse_hours, parse_size, to_json};
use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output;
use chunkstore::ingest::PackerOptions;
use engine::Repository;
use engine::prune::{MaxUnused, PruneOptions, PrunePlan, prune};
use serde_json::json;

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
    /// Give up sessions that were silent for so long: hours, or 90m, 36h; 0 for never
    #[arg(long, value_parser = parse_hours, default_value = "168", value_name = "TIME")]
    fence_after: u64,
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
        ..PruneOptions::default()
    };
    let plan = context.console.during(|monitor| prune(repo, &options, monitor))?;
    if context.global.json {
        let mut value = to_json(&plan)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("message_type".into(), json!("summary"));
            object.insert("dry_run".into(), json!(dry_run));
        }
        output::json_line(&value);
    } else {
        print(&plan, dry_run, context);
    }
    Ok(Code::Done)
}

fn print(plan: &PrunePlan, dry_run: bool, context: &Context) {
    let say = |text: String| context.console.say(text);
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
        say(format!("left by interrupted runs: {} objects, {} sessions", plan.orphans, plan.sessions_fenced));
    }
    let verb = if dry_run { "would remove" } else { "removes" };
    say(format!("{verb} {}; {} unused stay", bytes(plan.bytes_remove), bytes(plan.bytes_unused_after)));
    if plan.deferred {
        say("other sessions are running: the next prune removes what this one set aside".into());
    }
}
