//! `esker run`

use super::to_json;
use crate::config::hostname;
use crate::context::{Context, cores};
use crate::exit::{Code, CommandResult, Failure};
use crate::file::{File, RunSpec, SourceSpec};
use crate::fleet::{TierOutcome, Work};
use crate::output::{self, Console};
use engine::backup::{BackupOptions, BackupReport, backup};
use engine::entry::Time;
use engine::monitor::Tally;
use engine::source::files::FilesOptions;
use engine::source::stream::StreamOptions;
use engine::source::{Source, command};
use engine::{Counter, Error, ItemError, Monitor, Repository};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Back up the sources of esker.toml, copy to its tiers, forget by its promises
///
/// One report at the end. Exit code 0 if all of it was done, 3 if a source failed or a promise is behind, 1 if
/// nothing could be backed up, 11 if a run of the same name is at work.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Runs or sources, by name; all sources if none is given
    names: Vec<String>,
    /// What to do if a run of the same name is at work
    #[arg(long, value_enum, default_value = "leave", value_name = "WHAT")]
    if_running: IfRunning,
    /// Do not forget and prune afterwards
    #[arg(long)]
    no_forget: bool,
    /// Do not copy to tiers
    #[arg(long)]
    no_sync: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
enum IfRunning {
    /// Leave, with exit code 11
    Leave,
    /// Wait for it to end
    Wait,
}

/// What became of a source.
struct SourceOutcome {
    name: String,
    seconds: f64,
    result: Result<BackupReport, Failure>,
    /// Files that could not be read.
    errors: usize,
    /// Promises that are not kept because of it.
    behind: Vec<String>,
}

/// Memory that a backup takes: packs on their way, chunks in the pipeline (measured, README).
const BACKUP_BYTES: u64 = 320 << 20;
/// Attempts, when a prune takes a session for dead.
const ATTEMPTS: u32 = 3;

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let file = context.need_file()?;
    let (specs, chosen) = choose(&args.names, file)?;
    let _locks = lock(args, context)?;
    let start = context.console.seconds();
    let forget = !args.no_forget && chosen.iter().all(|run| run.forget);
    let prune = forget && chosen.iter().all(|run| run.prune);
    // Tiers first: one of them may know that this primary is out of date.
    let fleet = context.fleet(None)?;
    let sources = context.console.during(|_| back_up_all(&specs, file, &fleet.primary, context));
    let work = Work { copy: !args.no_sync, forget, prune, ..Work::default() };
    let tiers = context.console.during(|monitor| fleet.work(&work, file, context, monitor))?;
    let failed = sources.iter().filter(|outcome| outcome.result.is_err()).count();
    let incomplete = sources.iter().any(|outcome| outcome.errors > 0);
    let behind = tiers.iter().any(TierOutcome::is_behind);
    report(args, &sources, &tiers, context.console.seconds() - start, context)?;
    Ok(if context.console.monitor().interrupted() {
        Code::Interrupted
    } else if !sources.is_empty() && failed == sources.len() {
        Code::Failed
    } else if failed > 0 || incomplete || behind {
        Code::Incomplete
    } else {
        Code::Done
    })
}

/// The sources that names stand for, each once.
fn choose<'a>(names: &[String], file: &'a File) -> Result<(Vec<&'a SourceSpec>, Vec<&'a RunSpec>), Failure> {
    if names.is_empty() {
        return Ok((file.sources.iter().collect(), vec![]));
    }
    let (mut wanted, mut runs) = (vec![], vec![]);
    for name in names {
        if let Some(run) = file.runs.iter().find(|run| run.name == *name) {
            wanted.extend(run.sources.iter());
            runs.push(run);
        } else if file.sources.iter().any(|source| source.name == *name) {
            wanted.push(name);
        } else {
            let known: Vec<&str> = (file.runs.iter().map(|run| run.name.as_str()))
                .chain(file.sources.iter().map(|source| source.name.as_str()))
                .collect();
            return Err(Failure::new(format!(
                "there is no run or source '{name}'; there are {}",
                known.join(", ")
            )));
        }
    }
    Ok((file.sources.iter().filter(|source| wanted.contains(&&source.name)).collect(), runs))
}

/// Keeps runs of the same names apart, for as long as the files are held.
fn lock(args: &Args, context: &Context) -> Result<Vec<std::fs::File>, Failure> {
    let folder = context.global.cache(context.file.as_ref()).unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&folder)?;
    let mut names = args.names.clone();
    if names.is_empty() {
        names.push("all".into());
    }
    // In one order, so that two runs cannot wait for each other.
    names.sort();
    names.dedup();
    let mut locks = vec![];
    for name in names {
        let place = blake3_of(&context.need_file()?.path.canonicalize()?.display().to_string());
        let lock = std::fs::File::create(folder.join(format!("run-{place}-{name}.lock")))?;
        match (lock.try_lock(), args.if_running) {
            (Ok(()), _) => {}
            (Err(std::fs::TryLockError::WouldBlock), IfRunning::Leave) => {
                return Err(Failure {
                    code: Code::Busy,
                    message: format!("run '{name}' is at work; --if-running wait waits for it"),
                });
            }
            (Err(std::fs::TryLockError::WouldBlock), IfRunning::Wait) => {
                context.console.say(format!("waiting for run '{name}'"));
                lock.lock()?;
            }
            (Err(std::fs::TryLockError::Error(error)), _) => return Err(error.into()),
        }
        locks.push(lock);
    }
    Ok(locks)
}

/// Tells files of configuration apart.
fn blake3_of(text: &str) -> String {
    chunkstore::id::to_hex(&blake3::hash(text.as_bytes()).as_bytes()[..8])
}

/// Backs up sources, several at a time.
fn back_up_all(
    specs: &[&SourceSpec],
    file: &File,
    repo: &Repository,
    context: &Context,
) -> Vec<SourceOutcome> {
    let fits = file.memory.map_or(usize::MAX, |memory| usize::try_from(memory / BACKUP_BYTES).unwrap_or(1));
    let workers = file.parallel.min(fits).min(cores().max(2)).max(1);
    let left: Mutex<VecDeque<(usize, &SourceSpec)>> = Mutex::new(specs.iter().copied().enumerate().collect());
    let done: Mutex<Vec<(usize, SourceOutcome)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..workers.min(specs.len()) {
            scope.spawn(|| {
                loop {
                    let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((place, spec)) = next else { return };
                    let outcome = one(spec, file, repo, context);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((place, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Counts for one source, and shows with all.
struct SourceMonitor<'a> {
    tally: Tally,
    console: &'a Console,
    name: &'a str,
}

impl Monitor for SourceMonitor<'_> {
    fn count(&self, counter: Counter, by: u64) {
        self.tally.count(counter, by);
        self.console.count(counter, by);
    }
    fn get(&self, counter: Counter) -> u64 {
        self.tally.get(counter)
    }
    fn restart(&self) {
        self.tally.restart();
    }
    fn error(&self, error: ItemError) {
        let item = format!("{}: {}", self.name, error.item);
        self.console.error(ItemError { item, ..error.clone() });
        self.tally.error(error);
    }
    fn current(&self, item: &str) {
        self.console.current(item);
    }
    fn interrupted(&self) -> bool {
        self.console.interrupted()
    }
}

fn one(spec: &SourceSpec, file: &File, repo: &Repository, context: &Context) -> SourceOutcome {
    let start = context.console.seconds();
    let monitor = SourceMonitor { tally: Tally::default(), console: &context.console, name: &spec.name };
    let result = hook(spec, spec.hooks.before.as_deref(), "before", None)
        .and_then(|()| back_up(spec, repo, context, &monitor));
    let result = match &result {
        Ok(report) => {
            let id = report.snapshot.map(|id| id.to_string());
            hook(spec, spec.hooks.after.as_deref(), "after", id.as_deref()).and(result)
        }
        Err(failure) => {
            if let Err(second) = hook(spec, spec.hooks.failed.as_deref(), "failed", Some(&failure.message)) {
                context.console.warn(&format!("{}: {}", spec.name, second.message));
            }
            result
        }
    };
    let host = spec.host.clone().unwrap_or_else(hostname);
    let behind = match result {
        Ok(_) => vec![],
        Err(_) => {
            let about =
                file.promises.iter().filter(|promise| promise.select.may_fit(&spec.tags, &host, &spec.urls));
            about.map(|promise| format!("{} on {}", promise.describe(), promise.tiers.join(", "))).collect()
        }
    };
    let errors = monitor.tally.errors().len();
    SourceOutcome {
        name: spec.name.clone(),
        seconds: context.console.seconds() - start,
        result,
        errors,
        behind,
    }
}

/// Runs a hook; it learns the source's name, and what came of it.
fn hook(spec: &SourceSpec, command: Option<&str>, when: &str, outcome: Option<&str>) -> Result<(), Failure> {
    let Some(command) = command else { return Ok(()) };
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).env("ESKER_SOURCE", &spec.name).env("ESKER_HOOK", when);
    if let Some(outcome) = outcome {
        shell.env(if when == "failed" { "ESKER_ERROR" } else { "ESKER_SNAPSHOT" }, outcome);
    }
    // What it prints is for people, the report for machines.
    let output = shell.stdin(std::process::Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure {
        code: Code::SourceCommand,
        message: format!("the '{when}' hook failed: {}: {}", output.status, said.trim()),
    })
}

fn back_up(
    spec: &SourceSpec,
    repo: &Repository,
    context: &Context,
    monitor: &SourceMonitor<'_>,
) -> Result<BackupReport, Failure> {
    let now = context.now();
    let stamp = Time {
        seconds: now.as_second(),
        nanoseconds: u32::try_from(now.subsec_nanosecond()).unwrap_or_default(),
    };
    let options = BackupOptions {
        hostname: spec.host.clone().unwrap_or_else(hostname),
        tags: spec.tags.clone(),
        excludes: spec.excludes.clone(),
        time: now,
        ..context.backup_options(repo)
    };
    let mut attempt = 1;
    loop {
        let mut source = open(spec, stamp, context, monitor)?;
        match backup(repo, &mut *source, &options, monitor) {
            Err(Error::Store(chunkstore::Error::Fenced { .. })) if attempt < ATTEMPTS => {
                attempt += 1;
                monitor.restart();
            }
            done => return Ok(done?),
        }
    }
}

fn open(
    spec: &SourceSpec,
    time: Time,
    context: &Context,
    monitor: &dyn Monitor,
) -> Result<Box<dyn Source>, Failure> {
    if let Some(words) = &spec.command {
        let words = words.iter().map(Into::into).collect();
        return Ok(Box::new(command::source(words, &spec.filename, time, StreamOptions::default())?));
    }
    let options = FilesOptions {
        excludes: spec.excludes.clone(),
        one_file_system: spec.one_file_system,
        ..FilesOptions::default()
    };
    crate::sources::open(
        spec.urls.iter().map(Into::into).collect(),
        options,
        time,
        spec.keep_going,
        context,
        monitor,
    )
}

fn report(
    args: &Args,
    sources: &[SourceOutcome],
    tiers: &[TierOutcome],
    seconds: f64,
    context: &Context,
) -> Result<(), Failure> {
    let mut behind: Vec<String> = vec![];
    for outcome in sources {
        behind.extend(
            outcome.behind.iter().map(|promise| format!("{promise} (source '{}' failed)", outcome.name)),
        );
    }
    for outcome in tiers.iter().filter(|outcome| outcome.is_behind()) {
        let why =
            outcome.error.clone().unwrap_or_else(|| format!("{} snapshots owed", outcome.snapshots_owed));
        let promises = outcome.promises_behind.join("; ");
        behind.push(format!("{promises} on {} ({why})", outcome.tier));
    }
    if context.global.json {
        let sources: Vec<Value> = sources.iter().map(source_json).collect();
        output::json_line(&json!({
            "message_type": "summary", "run": args.names, "seconds_elapsed": seconds,
            "sources": sources, "tiers": to_json(&tiers)?, "promises_behind": behind,
        }));
        return Ok(());
    }
    let say = |text: String| context.console.say(text);
    for outcome in sources {
        let SourceOutcome { name, seconds, result, errors, .. } = outcome;
        match result {
            Ok(report) => {
                let summary = &report.summary;
                let id = report.snapshot.map(|id| id.short()).unwrap_or_default();
                let unread = if *errors > 0 { format!(", {errors} NOT READ") } else { String::new() };
                say(format!(
                    "source '{name}': snapshot {id}, {} processed, {} stored, {seconds:.1} s{unread}",
                    output::bytes(summary.total_bytes_processed),
                    output::bytes(summary.data_added_packed),
                ));
            }
            Err(failure) => say(format!("source '{name}': FAILED: {}", failure.message)),
        }
    }
    tiers.iter().for_each(|outcome| say(outcome.describe()));
    behind.iter().for_each(|promise| say(format!("behind: {promise}")));
    if behind.is_empty() {
        say("all promises are kept".into());
    }
    Ok(())
}

fn source_json(outcome: &SourceOutcome) -> Value {
    let SourceOutcome { name, seconds, result, errors, behind } = outcome;
    match result {
        Ok(report) => json!({
            "name": name, "ok": true, "seconds": seconds, "snapshot_id": report.snapshot,
            "errors": errors, "summary": report.summary,
        }),
        Err(failure) => json!({
            "name": name, "ok": false, "seconds": seconds, "error": failure.message,
            "code": failure.code as u8, "errors": errors, "promises_behind": behind,
        }),
    }
}
