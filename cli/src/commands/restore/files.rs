//! `esker restore --target DIR`: into a folder.

use super::{Args, THAW_PAUSE, When};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::{self, Summary};
use crate::places::Place;
use crate::small;
use chunkstore::storage::tiered::Served;
use engine::inside::Inside;
use engine::patterns::{Pattern, Patterns};
use engine::restore::{Overwrite, Report, RestoreOptions, differences, restore};
use engine::snapshot::{Listed, split_path};
use engine::{Counter, Monitor as _};
use serde_json::json;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// The patterns of a flag and of its file's form, in each of which letters are told from one another or not.
fn patterns(name: &str, words: [&[OsString]; 2], files: [&[PathBuf]; 2]) -> Result<Patterns, Failure> {
    let mut list = vec![];
    for (number, (words, files)) in words.into_iter().zip(files).enumerate() {
        let (ignore_case, letter) = (number == 1, if number == 1 { "i" } else { "" });
        for word in words {
            let place = format!("--{letter}{name}");
            list.push(Pattern::parse(word.as_bytes(), &place, ignore_case)?);
        }
        for file in files {
            let shown = file.display().to_string();
            let bytes = small::read(file, small::LIST)?;
            let variable = |name: &str| std::env::var_os(name).map(OsString::into_vec);
            list.extend(Pattern::parse_file(&bytes, &shown, ignore_case, &variable)?);
        }
    }
    // Without a pattern everything would be meant, which nobody asked for.
    if name == "include" && list.is_empty() && files.iter().any(|files| !files.is_empty()) {
        return Err(Failure::usage("the files of --include-file and --iinclude-file hold no pattern"));
    }
    Ok(Patterns::new(list))
}

/// Folders that esker keeps its own data in.
fn own_folders(context: &Context) -> Result<Vec<PathBuf>, Failure> {
    let mut places = vec![];
    match context.global.place()? {
        Some(place) => places.push(Place::parse(&place, &context.global.details()?)?),
        None => places.extend(
            context
                .file
                .iter()
                .flat_map(|file| file.primary().into_iter().chain(file.copies()))
                .map(|tier| tier.place.clone()),
        ),
    }
    let folders = places.into_iter().filter_map(|place| match place {
        Place::Folder(folder) => Some(folder),
        Place::S3(_) | Place::Azure(_) => None,
    });
    Ok(folders.chain(context.global.cache(context.file.as_ref())).collect())
}

fn options(args: &Args, context: &Context) -> Result<RestoreOptions, Failure> {
    Ok(RestoreOptions {
        target: args.target.clone().unwrap_or_default(),
        beneath: vec![],
        includes: patterns(
            "include",
            [&args.include, &args.iinclude],
            [&args.include_file, &args.iinclude_file],
        )?,
        excludes: patterns(
            "exclude",
            [&args.exclude, &args.iexclude],
            [&args.exclude_file, &args.iexclude_file],
        )?,
        overwrite: match args.overwrite {
            When::Always => Overwrite::Always,
            When::IfChanged => Overwrite::IfChanged,
            When::IfNewer => Overwrite::IfNewer,
            When::Never => Overwrite::Never,
        },
        delete: args.delete,
        delete_excluded: args.delete_excluded,
        protected: own_folders(context)?,
        home: crate::variables::environment("HOME").map(PathBuf::from),
        confirmed: args.yes,
        dry_run: args.dry_run,
        sparse: args.sparse,
        no_owner: args.no_owner,
    })
}

/// Into a folder.
pub(super) fn run(args: &Args, context: &Context) -> CommandResult {
    let (wanted, folder) = split_path(&args.snapshot);
    let mut options = options(args, context)?;
    let (opened, found) = context.open_snapshot(wanted, &args.filter.filter())?;
    let inside = Inside::new(folder).resolve(&opened.repo, &found.snapshot)?;
    options.beneath = inside.path().to_vec();
    let wait = args.wait_thaw.then_some(THAW_PAUSE);
    super::super::thaw::need_thawed(&opened, &found, inside.path(), wait, context)?;
    let repo = &opened.repo;
    let console = &context.console;
    let mut notes = vec![];
    for connector in connectors::all() {
        notes.extend(connector.check_folder(repo, &found.snapshot, &options, console.monitor())?);
    }
    for note in notes {
        console.say(note);
    }
    let removes = args.delete && !args.dry_run;
    let _held = if removes { super::held::hold(&opened, &found, context)? } else { None };
    let report = console
        .during("restore", |monitor| restore(repo, &found.snapshot, &options, monitor))
        .map_err(|error| Failure::in_snapshot(error, &found))?;
    if args.verify && !args.dry_run {
        verify(repo, &found, &options, context)?;
    }
    console.summary(&summary(args, &found, &report, &opened.served(), context));
    if console.error_count() == 0 {
        return Ok(Code::Done);
    }
    if report.damaged > 0 && !context.global.json && context.may_heal(repo) {
        console.say("packs are damaged: 'esker heal', then restore again");
    }
    Ok(Code::Failed)
}

fn summary(args: &Args, found: &Listed, report: &Report, served: &[Served], context: &Context) -> Summary {
    let Report { notes, left_out, .. } = report;
    let console = &context.console;
    let (done, skipped) = (console.get(Counter::FilesDone), console.get(Counter::FilesSkipped));
    let failed = console.get(Counter::FilesFailed);
    let files = done + failed;
    let (bytes, deleted) = (console.get(Counter::BytesDone), console.get(Counter::Deleted));
    let seconds = console.seconds();
    let mut summary = Summary::new(json!({
        "snapshot_id": found.id,
        "seconds_elapsed": seconds,
        "total_files": files,
        "files_restored": done - skipped,
        "files_skipped": skipped,
        "files_failed": failed,
        "files_deleted": deleted,
        "files_kept": left_out,
        "total_bytes": found.snapshot.manifest.bytes,
        "bytes_restored": bytes,
        "dry_run": args.dry_run,
        "verified": args.verify,
        "notes": notes,
        "tiers": served,
    }));
    let rate = output::bytes((bytes as f64 / seconds.max(0.001)) as u64);
    let verb = if args.dry_run { "would restore" } else { "restored" };
    // By --overwrite, what is left alone need not be right.
    let left = match args.overwrite {
        When::Always => "were right already",
        _ => "were left as they were",
    };
    let failures = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    summary.line(format!(
        "{verb} {} of {files} entries ({skipped} {left}{failures}), {} in {seconds:.1} s ({rate}/s)",
        done - skipped,
        output::bytes(bytes)
    ));
    if args.delete {
        let verb = if args.dry_run { "would remove" } else { "removed" };
        summary.line(format!("{verb} {deleted} that the snapshot does not have"));
        if *left_out > 0 {
            let verb = if args.dry_run { "would keep" } else { "kept" };
            summary.line(format!(
                    "{verb} {left_out} that the backup left out by its filters; --delete-excluded removes them, too"
                ));
        }
    }
    notes.iter().for_each(|note| summary.line(note.as_str()));
    if args.verify && !args.dry_run && console.error_count() == 0 {
        summary.line("verified: what was restored is what was backed up");
    }
    for served in served {
        let Served { tier, requests, bytes, failures, error } = served;
        let failed = match (failures, error) {
            (0, _) => String::new(),
            (failures, None) => format!(", {failures} failed"),
            (failures, Some(error)) => format!(", {failures} failed: {error}"),
        };
        summary.line(format!("from tier '{tier}': {} in {requests} reads{failed}", output::bytes(*bytes)));
    }
    summary
}

/// Reads the target again: what another restore would write was not restored right.
fn verify(
    repo: &engine::Repository,
    found: &Listed,
    options: &RestoreOptions,
    context: &Context,
) -> Result<(), Failure> {
    let tally = engine::monitor::Tally::default();
    for item in differences(repo, &found.snapshot, options, &tally)? {
        let message = "differs from the snapshot after the restore".into();
        context.console.monitor().error(engine::ItemError { during: "verify", item, message });
    }
    Ok(())
}
