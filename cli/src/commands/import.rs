//! `esker import`

use super::from::FromPassword;
use super::{FilterArgs, show_time};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::{self, Summary};
use crate::places::{Make, Place};
use crate::units::{counted, counted_are};
use chunkstore::ObjectId;
use chunkstore::storage::limit::Rates;
use engine::backup::{BackupOptions, backup};
use engine::restic::{Repository, ResticSource, Snapshot};
use engine::stored::LOST;
use serde_json::json;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

/// Import the snapshots of a restic repository
///
/// Times, hosts, users, tags and paths stay what they are, and 'latest', 'forget' and parents of backups know them as
/// their own. The repository of restic is only read, and not locked: let no 'restic prune' run meanwhile. What was imported
/// before is left out, so an import that was interrupted goes on when it is run again. Formats 1 and 2 are known (restic
/// 0.19 writes 2). The restic program is not needed.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The repository to import from: restic:FOLDER, restic:s3:https://HOST/BUCKET/PREFIX or
    /// restic:azure://CONTAINER/PREFIX
    #[arg(value_name = "restic:PLACE")]
    from: OsString,
    /// Snapshots to import, by the first digits of restic's ids [default: all that match the filter]
    snapshots: Vec<String>,
    #[command(flatten)]
    password: FromPassword,
    /// Also import damaged snapshots, without the data that cannot be read; exit code 3
    #[arg(long)]
    keep_going: bool,
    /// Only print what would be imported
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let mut from = open_from(args, context)?;
    let to = context.open()?;
    let monitor = context.console.monitor();
    let chosen = choose(args, from.snapshots(monitor)?)?;
    // restic's ids to ours. What was tagged since has another id, and remembers where it came from.
    let (mut there, mut partly): (HashMap<ObjectId, ObjectId>, HashMap<ObjectId, ObjectId>) =
        Default::default();
    to.view_snapshots(
        |ranked| {
            let snapshot = &ranked.listed.snapshot;
            let lacks = snapshot.sources.iter().any(|source| source.details.contains_key(LOST));
            snapshot.original.map(|original| (original, ranked.listed.id, lacks))
        },
        &mut |imported| {
            if let Some((original, id, lacks)) = imported {
                if lacks { &mut partly } else { &mut there }.insert(original, id);
            }
            Ok(())
        },
        monitor,
    )?;
    partly.retain(|original, _| !there.contains_key(original));
    if args.keep_going {
        // What can be read of them is here.
        there.extend(&partly);
    }
    let wanted = chosen.iter().filter(|snapshot| !there.contains_key(&ObjectId(snapshot.id.0)));
    if !args.dry_run && wanted.count() > 0 {
        from.load_index(monitor)?;
    }
    let from = Arc::new(from);
    let (mut imported, mut skipped, mut failed, mut lacking) = (0, 0, 0, 0);
    let mut done: Vec<(Snapshot, ObjectId)> = vec![];
    for snapshot in chosen {
        let (id, short) = (ObjectId(snapshot.id.0), ObjectId(snapshot.id.0).short());
        if let Some(ours) = there.get(&id) {
            skipped += 1;
            lacking += u64::from(partly.contains_key(&id));
            done.push((snapshot, *ours));
            continue;
        }
        if args.dry_run {
            imported += 1;
            let paths = snapshot.paths.join(" ");
            say(context, &format!("would import {short} of {}: {paths}", show_time(snapshot.time)));
            continue;
        }
        match import(&from, &to, &snapshot, &done, args, context) {
            Ok(Some(ours)) => {
                imported += 1;
                if context.global.json {
                    output::json_line(&json!({"message_type": "imported", "from": id, "snapshot_id": ours}));
                } else {
                    say(context, &format!("snapshot {short} is {} here", ours.short()));
                }
                if let Some(old) = partly.get(&id) {
                    let old = old.short();
                    say(
                        context,
                        &format!(
                            "snapshot {old}, which lacked something of it, is needed no more: esker forget {old}"
                        ),
                    );
                }
                there.insert(id, ours);
                done.push((snapshot, ours));
            }
            // What is damaged there is no reason to leave the others behind.
            Ok(None) => failed += 1,
            Err(failure) => return Err(failure),
        }
    }
    let mut summary = Summary::new(json!({
        "imported": imported, "skipped": skipped, "failed": failed, "lacking": lacking, "dry_run": args.dry_run,
    }));
    let verb = if args.dry_run { "would import" } else { "imported" };
    summary.line(format!("{verb} {}; {skipped} were here", counted(imported, "snapshot")));
    if failed > 0 {
        let left = "damaged and left out; --keep-going imports what can be read";
        summary.line(format!("{} {left}", counted_are(failed, "snapshot")));
    }
    if lacking > 0 {
        let left =
            "imported before without the damaged data; without --keep-going all of it is imported again";
        summary.line(format!("{} {left}", counted_are(lacking, "snapshot")));
    }
    context.console.summary(&summary);
    let complete = failed == 0 && lacking == 0 && context.console.error_count() == 0;
    Ok(if complete { Code::Done } else { Code::Incomplete })
}

fn say(context: &Context, text: &str) {
    context.console.say(text);
}

fn open_from(args: &Args, context: &Context) -> Result<Repository, Failure> {
    let place = args.from.as_bytes().strip_prefix(b"restic:").ok_or_else(|| {
        Failure::usage(format!(
            "'{}' is not restic:PLACE: only repositories of restic are imported",
            engine::shown::name(args.from.as_bytes())
        ))
    })?;
    let storage = Place::parse(OsStr::from_bytes(place), &context.global.details()?)?
        .open(Make::No, context.global.network.rates(Rates::default()))?;
    let password = args.password.get(context)?;
    Ok(Repository::open(storage, password.as_bytes())?)
}

/// Those that were asked for, oldest first.
fn choose(args: &Args, all: Vec<Snapshot>) -> Result<Vec<Snapshot>, Failure> {
    for wanted in &args.snapshots {
        let count =
            all.iter().filter(|snapshot| snapshot.id.to_string().starts_with(wanted.as_str())).count();
        if count != 1 || wanted.is_empty() {
            return Err(Failure::new(format!("'{wanted}' matches {count} snapshots of restic")));
        }
    }
    let filter = args.filter.filter();
    let fits = |snapshot: &Snapshot| {
        let id = snapshot.id.to_string();
        match args.snapshots.is_empty() {
            true => filter.fits(&engine::snapshot::Snapshot {
                hostname: snapshot.hostname.clone(),
                paths: snapshot.paths.clone(),
                tags: snapshot.tags.clone().unwrap_or_default(),
                ..engine::snapshot::Snapshot::default()
            }),
            false => args.snapshots.iter().any(|wanted| id.starts_with(wanted.as_str())),
        }
    };
    let chosen: Vec<Snapshot> = all.into_iter().filter(|snapshot| fits(snapshot)).collect();
    if chosen.is_empty() && !args.filter.is_empty() {
        return Err(Failure::new(format!("no snapshot of restic fits {}", filter.describe())));
    }
    Ok(chosen)
}

/// Imports one; `None` if it is damaged there.
fn import(
    from: &Arc<Repository>,
    to: &engine::Repository,
    snapshot: &Snapshot,
    done: &[(Snapshot, ObjectId)],
    args: &Args,
    context: &Context,
) -> Result<Option<ObjectId>, Failure> {
    // What the last one of the same host and paths had is not read again.
    let same = |(other, _): &&(Snapshot, ObjectId)| {
        other.hostname == snapshot.hostname && other.paths == snapshot.paths
    };
    let before = done.iter().rev().find(same);
    let program_version = match snapshot.program_version.as_str() {
        "" => "restic".to_owned(),
        version => version.to_owned(),
    };
    let options = BackupOptions {
        hostname: snapshot.hostname.clone(),
        username: snapshot.username.clone(),
        uid: snapshot.uid,
        gid: snapshot.gid,
        tags: snapshot.tags.clone().unwrap_or_default(),
        excludes: snapshot.excludes.clone().unwrap_or_default(),
        time: snapshot.time,
        original: Some(ObjectId(snapshot.id.0)),
        parent: before.map(|(_, ours)| *ours),
        // Their lists of blobs prove that two files are equal.
        ignore_inode: true,
        ignore_ctime: true,
        program_version,
        ..context.backup_options(to)
    };
    context.console.monitor().restart();
    let mut source =
        ResticSource::new(from, snapshot.clone(), before.map(|(other, _)| other), args.keep_going);
    let report = context.console.during("import", |monitor| backup(to, &mut source, &options, monitor));
    match report {
        Ok(report) => {
            if source.windows_attributes() > 0 {
                context.console.warn(&format!(
                    "snapshot {}: attributes of Windows are not kept, of {}",
                    ObjectId(snapshot.id.0).short(),
                    counted(source.windows_attributes(), "entry")
                ));
            }
            Ok(report.snapshot)
        }
        Err(engine::Error::Source(error)) if error.kind == engine::source::SourceErrorKind::Incomplete => {
            let item = format!("snapshot {}: {}", ObjectId(snapshot.id.0).short(), error.what);
            context.console.monitor().error(engine::ItemError { during: "import", item, message: error.why });
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
