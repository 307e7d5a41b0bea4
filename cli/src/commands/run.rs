//! `esker run`

use super::host::{self, TakenIn};
use super::{stay, to_json};
use crate::config::hostname;
use crate::context::{Context, cores};
use crate::exit::{Code, CommandResult, Failure};
use crate::file::{File, RunSpec, SourceSpec};
use crate::fleet::{TierOutcome, Work, Worked};
use crate::output::{self, Console, Summary};
use crate::shell;
use crate::units::counted;
use crate::values::Filled;
use chunkstore::inbox::Book;
use chunkstore::pool::locked;
use chunkstore::threads;
use connector_kit::command;
use connector_kit::stream::StreamOptions;
use engine::backup::{BackupOptions, BackupReport, backup};
use engine::entry::Time;
use engine::host::backup_as_host;
use engine::monitor::Tally;
use engine::patterns::Patterns;
use engine::retry::Retry;
use engine::snapshot::MadeBy;
use engine::source::Source;
use engine::source::files::FilesOptions;
use engine::tier::keep::Standing;
use engine::{Counter, ItemError, Monitor, Repository};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

mod as_host;
mod locks;

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
    /// Do not first take in what hosts brought that may only write
    #[arg(long)]
    no_admit: bool,
    /// Let snapshots expire by this machine's clock, although it is far ahead of the last run
    #[arg(long, conflicts_with = "no_forget")]
    accept_clock: bool,
    /// Back up as a host that may only write, with the file that 'esker host add' wrote, as 'backup --bundle'
    #[arg(long, env = "ESKER_BUNDLE", value_name = "FILE", conflicts_with_all = ["accept_clock", "no_admit"])]
    bundle: Option<PathBuf>,
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
    /// The run that waits for a full client, of a write-only host.
    pending: Option<u64>,
    /// Files that could not be read.
    errors: usize,
    /// Records of earlier snapshots that could not be read.
    records: usize,
    /// Promises that are not kept because of it.
    behind: Vec<String>,
}

/// Memory that a backup takes: packs that are uploaded, chunks in the pipeline; it is bounded also for many tiny files
/// (measured: docs/performance.md).
const BACKUP_BYTES: u64 = 320 << 20;

/// Where sources are backed up to.
#[derive(Clone, Copy)]
enum Goal<'a> {
    Repository(&'a Repository),
    /// As a write-only host, which has one run at a time.
    Inbox(&'a Mutex<Book>),
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    context.refuse_secret_of_host(args.bundle.as_deref())?;
    if let Some(path) = context.bundle(args.bundle.as_deref()) {
        return as_host::run(args, &path, context);
    }
    let file = context.need_file()?;
    let (specs, chosen) = choose(&args.names, file)?;
    let (place, _) = context.place()?;
    let _locks = locks::take(&args.names, &place, args.if_running, context)?;
    let start = context.console.seconds();
    let forget = !args.no_forget && chosen.iter().all(|run| run.forget);
    let prune = forget && chosen.iter().all(|run| run.prune);
    // Tiers first: one of them may know that this primary is out of date.
    let fleet = context.fleet(None)?;
    // What is read before each backup is put back before.
    if let Err(failure) = fleet.mend_records(&|name| name == fleet.name, false) {
        context.console.warn(&failure.message);
    }
    let taken_in = match args.no_admit {
        true => TakenIn::nothing(),
        false => host::take_in_first(&fleet.primary, context)?,
    };
    let goal = Goal::Repository(&fleet.primary);
    let sources =
        context.console.during("backup", |_| back_up_all(&specs, &name_of(args), file, goal, context));
    let accept_clock = args.accept_clock;
    let work = Work { copy: !args.no_sync, forget, prune, accept_clock, ..Work::default() };
    let Worked { outcomes: tiers, standing, doubt } =
        context.console.during("tiers", |monitor| fleet.work(&work, file, context, monitor))?;
    let behind = !taken_in.is_whole || doubt.is_some() || tiers.iter().any(TierOutcome::is_behind);
    let worked = Worked { outcomes: tiers, standing, doubt };
    let seconds = context.console.seconds() - start;
    context.console.summary(&taken_in.add(summary(&args.names, &sources, &worked, seconds)?));
    Ok(code(&sources, behind, context))
}

/// What the snapshots of a run say that made them.
fn name_of(args: &Args) -> String {
    if args.names.is_empty() { "all".to_owned() } else { args.names.join("+") }
}

/// The exit code, where `behind` says whether something else than the sources is incomplete.
fn code(sources: &[SourceOutcome], behind: bool, context: &Context) -> Code {
    let failed = sources.iter().filter(|outcome| outcome.result.is_err()).count();
    let incomplete = sources.iter().any(|outcome| outcome.errors + outcome.records > 0);
    if context.console.monitor().interrupted() {
        Code::Interrupted
    } else if !sources.is_empty() && failed == sources.len() {
        Code::Failed
    } else if failed > 0 || incomplete || behind {
        Code::Incomplete
    } else {
        Code::Done
    }
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

/// Backs up sources, several at a time.
fn back_up_all(
    specs: &[&SourceSpec],
    run: &str,
    file: &File,
    goal: Goal<'_>,
    context: &Context,
) -> Vec<SourceOutcome> {
    let fits = file.memory.map_or(usize::MAX, |memory| usize::try_from(memory / BACKUP_BYTES).unwrap_or(1));
    let workers = match goal {
        Goal::Repository(_) => file.parallel.min(fits).min(cores().max(2)).max(1),
        Goal::Inbox(_) => 1,
    };
    let left: Mutex<VecDeque<(usize, &SourceSpec)>> = Mutex::new(specs.iter().copied().enumerate().collect());
    let done: Mutex<Vec<(usize, SourceOutcome)>> = Mutex::default();
    let work = || {
        loop {
            let next = locked(&left).pop_front();
            let Some((place, spec)) = next else { return };
            let outcome = one(spec, run, file, goal, context);
            locked(&done).push((place, outcome));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..workers.min(specs.len()) {
            if let Err(error) = threads::start_in(scope, "source", work) {
                tracing::warn!(%error, "fewer sources at a time");
                break;
            }
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

impl SourceOutcome {
    /// Whether it was committed to the inbox.
    fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// What came of it, for people.
    fn made(&self, report: &BackupReport) -> String {
        match (self.pending, report.snapshot) {
            (Some(run), _) => format!("run {run} is pending"),
            (None, id) => format!("snapshot {}", id.map(|id| id.short()).unwrap_or_default()),
        }
    }
}

/// Counts for one source, and shows with all.
struct SourceMonitor<'a> {
    tally: Tally,
    console: &'a Console,
    name: &'a str,
}

impl Goal<'_> {
    fn is_inbox(self) -> bool {
        matches!(self, Self::Inbox(_))
    }
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
    fn warning(&self, message: &str) {
        self.console.warn(&format!("{}: {message}", self.name));
    }
    fn note(&self, message: &str) {
        self.console.note(&format!("{}: {message}", self.name));
    }
    fn current(&self, path: &[u8]) {
        self.console.current(path);
    }
    fn interrupted(&self) -> bool {
        self.console.interrupted()
    }
}

fn one(spec: &SourceSpec, run: &str, file: &File, goal: Goal<'_>, context: &Context) -> SourceOutcome {
    let start = context.console.seconds();
    let monitor = SourceMonitor { tally: Tally::default(), console: &context.console, name: &spec.name };
    let result = hook(spec, spec.hooks.before.as_ref(), "before", None, context)
        .and_then(|()| back_up(spec, run, goal, context, &monitor));
    let (result, pending) = match result {
        Ok((report, pending)) => (Ok(report), pending),
        Err(failure) => (Err(failure), None),
    };
    let result = match &result {
        Ok(report) => {
            for note in &report.notes {
                context.console.warn(&format!("{}: {note}", spec.name));
            }
            let id = report.snapshot.filter(|_| !goal.is_inbox()).map(|id| id.to_string());
            hook(spec, spec.hooks.after.as_ref(), "after", id.as_deref(), context).and(result)
        }
        Err(failure) => {
            let told = Some(failure.message.as_str());
            if let Err(second) = hook(spec, spec.hooks.failed.as_ref(), "failed", told, context) {
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
    let (records, errors): (Vec<_>, Vec<_>) =
        monitor.tally.errors().into_iter().partition(|error| error.during == "snapshots");
    SourceOutcome {
        name: spec.name.clone(),
        seconds: context.console.seconds() - start,
        result,
        pending,
        errors: errors.len(),
        records: records.len(),
        behind,
    }
}

/// Runs a hook; it learns the source's name, and what came of it.
fn hook(
    spec: &SourceSpec,
    command: Option<&Filled>,
    when: &str,
    outcome: Option<&str>,
    context: &Context,
) -> Result<(), Failure> {
    let Some(command) = command else { return Ok(()) };
    let mut shell = shell::command(command.as_str().as_ref(), &context.passed());
    shell.env("ESKER_SOURCE", &spec.name).env("ESKER_HOOK", when);
    if let Some(outcome) = outcome {
        shell.env(if when == "failed" { "ESKER_ERROR" } else { "ESKER_SNAPSHOT" }, outcome);
    }
    // What it prints is for people, the report for machines.
    let shell = shell.stdin(std::process::Stdio::null());
    let output = connector_kit::child::output(shell, connector_kit::child::Role::Command)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let failure = Failure::new(format!("the '{when}' hook failed: {}: {}", output.status, said.trim()));
    Err(Failure { code: Code::SourceCommand, ..failure })
}

fn back_up(
    spec: &SourceSpec,
    run: &str,
    goal: Goal<'_>,
    context: &Context,
    monitor: &SourceMonitor<'_>,
) -> Result<(BackupReport, Option<u64>), Failure> {
    let now = context.now();
    let stamp = Time {
        seconds: now.as_second(),
        nanoseconds: u32::try_from(now.subsec_nanosecond()).unwrap_or_default(),
    };
    let common = match goal {
        Goal::Repository(repo) => BackupOptions {
            hostname: spec.host.clone().unwrap_or_else(hostname),
            ..context.backup_options(repo)
        },
        Goal::Inbox(book) => BackupOptions {
            hostname: locked(book).bundle().name.clone(),
            ..context.backup_options_with(context.delta_of_host())
        },
    };
    let options = BackupOptions {
        tags: spec.tags.clone(),
        excludes: spec.excludes.clone(),
        time: now,
        made_by: MadeBy::Run(run.to_owned()),
        source_name: Some(spec.name.clone()),
        ..common
    };
    let mut retry = Retry::default();
    loop {
        let mut source = open(spec, stamp, context, monitor)?;
        let done = match goal {
            Goal::Repository(repo) => {
                backup(repo, &mut *source, &options, monitor).map(|report| (report, None))
            }
            Goal::Inbox(book) => {
                let done = backup_as_host(&mut locked(book), &mut *source, &options, monitor);
                done.map(|done| (done.backup, done.pending.map(|pending| pending.run)))
            }
        };
        match done {
            Err(error) if retry.again(&error).is_some() => monitor.restart(),
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
        return Ok(Box::new(command::source(
            words,
            context.withheld(),
            spec.filename.as_bytes(),
            time,
            StreamOptions { formats: connectors::formats(), ..StreamOptions::default() },
        )?));
    }
    let options = FilesOptions {
        excludes: Patterns::parse(&spec.excludes, "excludes", false)?,
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

/// Which promises are not kept, and why; `error` shows that of a tier.
fn behind(sources: &[SourceOutcome], tiers: &[TierOutcome], error: impl Fn(&str) -> String) -> Vec<String> {
    let failed = |outcome: &SourceOutcome| -> Vec<String> {
        let promises = outcome.behind.iter();
        promises.map(|promise| format!("{promise} (source '{}' failed)", outcome.name)).collect()
    };
    let mut behind: Vec<String> = sources.iter().flat_map(failed).collect();
    for outcome in tiers.iter().filter(|outcome| outcome.is_behind()) {
        let why = match &outcome.error {
            Some(why) => error(why),
            None if outcome.snapshots_unreadable > 0 => {
                format!("{} cannot be read", counted(outcome.snapshots_unreadable, "snapshot"))
            }
            None => format!("{} owed", counted(outcome.snapshots_owed, "snapshot")),
        };
        let promises = match outcome.promises_behind.is_empty() {
            true => "what was promised".to_owned(),
            false => outcome.promises_behind.join("; "),
        };
        behind.push(format!("{promises} on {} ({why})", outcome.tier));
    }
    behind
}

/// What a run reports at its end.
fn summary(
    names: &[String],
    sources: &[SourceOutcome],
    worked: &Worked,
    seconds: f64,
) -> Result<Summary, Failure> {
    let Worked { outcomes: tiers, standing, doubt } = worked;
    let mut summary = Summary::new(json!({
        "run": names, "seconds_elapsed": seconds,
        "sources": sources.iter().map(|outcome| source_json(outcome, Some(standing))).collect::<Vec<_>>(),
        "tiers": to_json(tiers)?, "promises_behind": behind(sources, tiers, str::to_owned),
        "clock_in_doubt": doubt.as_ref().map(|doubt| doubt.describe()),
    }));
    add_sources(sources, &|report| stays(report, standing), &mut summary);
    tiers.iter().for_each(|outcome| summary.outcome(outcome.describe(), outcome.is_behind()));
    // People have read of an error in the tier's own line.
    let behind = behind(sources, tiers, |_| "why, its line says".into());
    behind.iter().for_each(|promise| summary.line(format!("behind: {promise}")));
    if let Some(doubt) = doubt {
        summary.line(doubt.describe());
    } else if behind.is_empty() {
        // What was looked at, and no more.
        summary.line("all promises are kept, by what each tier says that it holds; 'esker check' reads it");
    }
    Ok(summary)
}

/// A line for each source.
fn add_sources(
    sources: &[SourceOutcome],
    stays: &dyn Fn(&BackupReport) -> Option<String>,
    summary: &mut Summary,
) {
    for outcome in sources {
        let SourceOutcome { name, seconds, result, errors, records, .. } = outcome;
        match result {
            Ok(report) => {
                let done = &report.summary;
                let made = outcome.made(report);
                let mut unread = if *errors > 0 { format!(", {errors} NOT READ") } else { String::new() };
                if *records > 0 {
                    unread += &format!(", {records} earlier snapshots cannot be read");
                }
                summary.line(format!(
                    "source '{name}': {made}, {} processed, {} stored, {seconds:.1} s{unread}",
                    output::bytes(done.total_bytes_processed),
                    output::bytes(done.data_added_packed),
                ));
                if let Some(stays) = stays(report) {
                    summary.line(format!("  stays {stays}"));
                }
            }
            Err(failure) => {
                summary.outcome(format!("source '{name}': FAILED: {}", failure.message), true);
            }
        }
    }
}

/// Until when a snapshot stays where, and by which promise.
fn stays(report: &BackupReport, standing: &Standing) -> Option<String> {
    let verdict =
        standing.verdicts.iter().find(|verdict| Some(verdict.known.listed.id) == report.snapshot)?;
    Some(stay::by_promises(verdict))
}

fn source_json(outcome: &SourceOutcome, standing: Option<&Standing>) -> Value {
    let SourceOutcome { name, seconds, result, pending, errors, records, behind } = outcome;
    let errors = errors + records;
    match result {
        Ok(report) => match standing {
            Some(standing) => json!({
                "name": name, "ok": true, "seconds": seconds, "snapshot_id": report.snapshot,
                "errors": errors, "summary": report.summary, "stays": stays(report, standing), "notes": report.notes,
            }),
            // There is no snapshot yet, which is to stay.
            None => json!({
                "name": name, "ok": true, "seconds": seconds, "pending": pending.is_some(), "run": pending,
                "errors": errors, "summary": report.summary, "notes": report.notes,
            }),
        },
        Err(failure) => json!({
            "name": name, "ok": false, "seconds": seconds, "error": failure.message,
            "code": failure.code as u8, "errors": errors, "promises_behind": behind,
        }),
    }
}
