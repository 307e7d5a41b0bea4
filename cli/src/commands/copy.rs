//! `esker copy`

use super::FilterArgs;
use super::from::FromSecret;
use crate::config::Global;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use crate::places::{Make, Place};
use crate::units::counted;
use chunkstore::ingest::{PackerOptions, Sealing};
use chunkstore::storage::limit::Rates;
use engine::Repository;
use engine::backup::{BackupOptions, backup};
use engine::snapshot::Listed;
use engine::source::snapshot::SnapshotSource;
use serde_json::json;
use std::collections::HashSet;
use std::ffi::OsString;
use std::path::PathBuf;

/// Copy snapshots to another repository
///
/// The repository of -r, or of esker.toml, is where they go; --from-repo is where they come from. Both have keys
/// and chunk sizes of their own. What was copied before is left out. To keep copies of one repository, with its
/// own keys and packs as they are, use tiers.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Snapshots to copy [default: all that match the filter]
    snapshots: Vec<String>,
    /// The repository to copy from: a folder, s3:… or azure:… [env: ESKER_FROM_REPOSITORY]
    #[arg(long, value_name = "PLACE", conflicts_with = "from_repository_file")]
    from_repo: Option<OsString>,
    /// Read that place from the first line of a file [env: ESKER_FROM_REPOSITORY_FILE]
    #[arg(long, value_name = "FILE")]
    from_repository_file: Option<PathBuf>,
    #[command(flatten)]
    secret: FromSecret,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let from = open_from(args, context)?;
    let to = context.open()?;
    if from.store().config().repository_id == to.store().config().repository_id {
        return Err(Failure::new(
            "both are copies of one repository: 'esker tier sync' brings one up to date with the other",
        ));
    }
    let monitor = context.console.monitor();
    let chosen = args.filter.choose(&from, &args.snapshots, monitor)?;
    from.sync_index(monitor)?;
    let mut there = HashSet::new();
    to.view_snapshots(
        |ranked| ranked.listed.snapshot.original,
        &mut |original| {
            there.extend(original);
            Ok(())
        },
        monitor,
    )?;
    let mut copied = 0;
    let mut skipped = 0;
    for listed in chosen {
        if there.contains(&listed.id) {
            skipped += 1;
            continue;
        }
        let report = copy(&from, &to, listed.clone(), context)?;
        copied += 1;
        let id = report.map(|id| id.short()).unwrap_or_default();
        if context.global.json {
            output::json_line(&json!({"message_type": "copied", "from": listed.id, "snapshot_id": report}));
        } else {
            context.console.say(format!("snapshot {} is {id} there", listed.id.short()));
        }
    }
    context.console.result(
        format!("copied {}; {skipped} were there", counted(copied, "snapshot")),
        json!({"copied": copied, "skipped": skipped}),
    );
    Ok(if context.console.error_count() > 0 { Code::Incomplete } else { Code::Done })
}

fn open_from(args: &Args, context: &Context) -> Result<Repository, Failure> {
    let place = Global::place_of_source(args.from_repo.as_ref(), args.from_repository_file.as_deref())?;
    let storage = Place::parse(&place, &context.global.details()?)?
        .open(Make::No, context.global.network.rates(Rates::default()))?;
    let secret = args.secret.get(context)?;
    Ok(Repository::open(context.access(storage)?, &secret)?)
}

fn copy(
    from: &Repository,
    to: &Repository,
    listed: Listed,
    context: &Context,
) -> Result<Option<chunkstore::ObjectId>, Failure> {
    let snapshot = &listed.snapshot;
    let options = BackupOptions {
        hostname: snapshot.hostname.clone(),
        username: snapshot.username.clone(),
        uid: snapshot.uid,
        gid: snapshot.gid,
        tags: snapshot.tags.clone(),
        description: snapshot.description.clone(),
        excludes: snapshot.excludes.clone(),
        time: snapshot.time,
        time_given: true,
        made_by: snapshot.made_by.clone(),
        hold: snapshot.hold,
        keep_until: snapshot.keep_until,
        original: Some(listed.id),
        sealing: Sealing { compression: context.global.compression, delta: to.store().storage().is_near() },
        packer: PackerOptions {
            pack_len: context.global.pack_size.saturating_mul(1 << 20),
            ..PackerOptions::default()
        },
        program_version: snapshot.program_version.clone(),
        ..BackupOptions::default()
    };
    let mut source = SnapshotSource::new(from, listed)?;
    Ok(context.console.during("copy", |monitor| backup(to, &mut source, &options, monitor))?.snapshot)
}
