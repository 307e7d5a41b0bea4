//! `esker drill`: restores that are rehearsed into scratch servers and folders, timed, proved, and compared with what is
//! promised.

use crate::config::hostname;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::file::{AssertionSpec, SourceSpec};
use crate::signing;
use crate::tiers::Opened;
use crate::{commands, hangup, sources, units};
use connector_kit::scratch::{self, Ground};
use engine::Counter;
use engine::connector::scratch::{Scratch, ScratchServer};
use engine::connector::{Extent, Origin, Target};
use engine::drill::{Assertion, Objective, Report, SCHEMA, Step, Stopwatch};
use engine::restore::{RestoreOptions, differences, restore};
use engine::snapshot::{Filter, Listed, Snapshot};
use serde_json::json;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Instant;

mod asserted;
mod evidence;
mod list;
mod page;
mod show;
mod told;
mod verify;

use asserted::Place;
use evidence::Evidence;
use told::{summary, without_choices};

/// Rehearse restores: start a scratch server for each source, restore its latest snapshot into it, prove and time that
///
/// Files are restored into a scratch folder and read back. Servers are started from PATH, listen to this machine alone,
/// and are removed afterwards. Nothing that is in use is written. Each report is signed and stored in the repository: 'drill
/// list' has them. A source that is called like one of the commands goes behind '--', as in 'drill -- list'.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    chosen: Chosen,
}

/// What is done with reports.
#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List the reports that are stored, the pass rate of each source and the trend of its recovery time
    List(list::Args),
    /// Show one report, or export it with its signature
    Show(show::Args),
    /// Check the signatures of reports
    ///
    /// Exit code 1 if one was changed, is of another repository, or not of a key that --signer names.
    Verify(verify::Args),
    /// Print the public key with which drills on this machine are signed; it is made if there is none
    Key(signing::Flags),
}

impl Args {
    /// Whether there is nothing left to do once nobody reads what is printed.
    pub(super) fn only_prints(&self) -> bool {
        matches!(self.action, Some(Action::List(_)))
    }
}

/// What is rehearsed, and how.
#[derive(clap::Args, Debug)]
struct Chosen {
    /// Sources of esker.toml; all if none is named
    names: Vec<String>,
    /// This snapshot, of whatever source, instead of the latest of each: id, latest, latest~N
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "names")]
    snapshot: Option<String>,
    /// Folder for scratch servers and files, on a disk with room for them; esker makes esker-drills in it: otherwise one beside the cache, of root
    /// /var/tmp/esker-drills
    #[arg(long, value_name = "DIR", env = "ESKER_SCRATCH_DIR")]
    scratch_dir: Option<PathBuf>,
    /// Print reports only: sign and store none
    #[arg(long)]
    no_store: bool,
    #[command(flatten)]
    signing: signing::Flags,
}

/// What a drill is to find.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    scratch_dir: Option<&'a Path>,
    objective: Objective,
    assertions: &'a [AssertionSpec],
}

/// A scratch server that runs, and what restores into it.
#[derive(Clone, Copy)]
struct Started<'a> {
    target: &'static dyn Target,
    scratch: &'static dyn Scratch,
    server: &'a dyn ScratchServer,
}

/// What is rehearsed of a snapshot.
#[derive(Clone, Copy)]
enum Goal {
    Server {
        title: &'static str,
        target: &'static dyn Target,
        scratch: &'static dyn Scratch,
    },
    Files,
    /// What esker starts no server for; `None` of a snapshot without sources.
    Missing(Option<&'static str>),
}

impl Goal {
    fn title(self) -> &'static str {
        match self {
            Self::Server { title, .. } => title,
            Self::Files => "files",
            Self::Missing(title) => title.unwrap_or_default(),
        }
    }

    /// What there is of a snapshot. What cannot be rehearsed is a goal, too: it is missed.
    fn all_of(snapshot: &Snapshot) -> Vec<Self> {
        let mut goals = vec![];
        for connector in connectors::all() {
            let title = connector.title();
            let servers = connector.target().zip(connector.scratch());
            let records = snapshot.sources.iter().filter(|record| record.is_of(connector.name()));
            let (taken, others): (Vec<_>, Vec<_>) =
                records.partition(|record| servers.is_some_and(|(_, scratch)| scratch.takes(&record.kind)));
            if let (Some((target, scratch)), false) = (servers, taken.is_empty()) {
                goals.push(Self::Server { title, target, scratch });
            }
            if !others.is_empty() {
                goals.push(Self::Missing(Some(title)));
            }
        }
        let is_served =
            |kind: &str| connectors::all().iter().any(|one| kind.split('+').next() == Some(one.name()));
        if snapshot.sources.iter().any(|record| !is_served(&record.kind)) {
            goals.push(Self::Files);
        }
        if goals.is_empty() {
            goals.push(Self::Missing(None));
        }
        goals
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    match &args.action {
        None => drill(&args.chosen, context),
        Some(Action::List(args)) => list::run(args, context),
        Some(Action::Show(args)) => show::run(args, context),
        Some(Action::Verify(args)) => verify::run(args, context),
        Some(Action::Key(flags)) => print_key(flags, context),
    }
}

fn print_key(flags: &signing::Flags, context: &Context) -> CommandResult {
    let public = flags.key(context.own_file())?.public().0;
    context.console.result(public.to_string(), json!({"message_type": "summary", "public": public}));
    Ok(Code::Done)
}

fn drill(args: &Chosen, context: &Context) -> CommandResult {
    hangup::ends(&context.console.stop())?;
    let mut evidence = Evidence::new(!args.no_store, &args.signing, context)?;
    let mut reports = vec![];
    let scratch_dir = args.scratch_dir.as_deref();
    match &args.snapshot {
        Some(snapshot) => {
            let wanted = Wanted { scratch_dir, objective: Objective::default(), assertions: &[] };
            reports.extend(one("", snapshot, wanted, &|_| true, context)?);
            evidence.keep(&reports)?;
        }
        None => {
            let file = context.need_file()?;
            for spec in chosen(&args.names, &file.sources)? {
                let is_of = |snapshot: &Snapshot| {
                    snapshot
                        .sources
                        .iter()
                        .filter_map(|record| record.identity.as_ref())
                        .any(|identity| identity.name.as_deref() == Some(&*spec.name))
                };
                let promised = file.objectives.iter().find(|objective| objective.source == spec.name);
                let objective = promised.map(|spec| spec.objective).unwrap_or_default();
                let all = file.assertions.iter().filter(|one| one.source == spec.name);
                let assertions: Vec<AssertionSpec> = all.cloned().collect();
                let wanted = Wanted { scratch_dir, objective, assertions: &assertions };
                let found = one(&spec.name, "latest", wanted, &is_of, context)?;
                evidence.keep(&found)?;
                reports.extend(found);
            }
        }
    }
    let passed = reports.iter().all(Report::passed);
    let (stored, lacks) = evidence.finish();
    context.console.summary(&summary(&reports, stored.as_deref())?);
    Ok(match (passed, lacks) {
        (false, _) => Code::DrillFailed,
        (true, true) => Code::Incomplete,
        (true, false) => Code::Done,
    })
}

fn chosen<'a>(names: &[String], all: &'a [SourceSpec]) -> Result<Vec<&'a SourceSpec>, Failure> {
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|spec| spec.name != **name)) {
        let known: Vec<&str> = all.iter().map(|spec| spec.name.as_str()).collect();
        return Err(Failure::new(format!("there is no source '{unknown}'; there are {}", known.join(", "))));
    }
    if all.is_empty() {
        return Err(Failure::new("esker.toml has no source; --snapshot rehearses one snapshot"));
    }
    Ok(all.iter().filter(|spec| names.is_empty() || names.contains(&spec.name)).collect())
}

/// Rehearses one snapshot: a report for each system in it.
fn one(
    source: &str,
    snapshot: &str,
    wanted: Wanted<'_>,
    is_of: &dyn Fn(&Snapshot) -> bool,
    context: &Context,
) -> Result<Vec<Report>, Failure> {
    let began = Instant::now();
    let now = || began.elapsed();
    let time = context.now();
    let empty = |system: &str| Report {
        schema: SCHEMA.into(),
        time,
        source: source.to_owned(),
        system: system.to_owned(),
        hostname: hostname(),
        snapshot_id: None,
        recovery_point: None,
        server: String::new(),
        phases: vec![],
        seconds: 0.0,
        bytes: 0,
        objectives: vec![],
        assertions: vec![],
        failures: vec![],
    };
    let located = context.console.during("locate", |monitor| {
        let (opened, found) = context.open_snapshot_that(snapshot, &Filter::default(), is_of)?;
        if !is_of(&found.snapshot) {
            return Err(Failure::new(format!("there is no snapshot of source '{source}'")));
        }
        opened.repo.sync_index(monitor)?;
        commands::thaw::need_thawed(&opened, &found, b"", None, context)?;
        Ok((opened, found))
    });
    let (opened, found) = match located {
        Ok(located) => located,
        // A source without a snapshot, or one that is frozen, cannot be recovered: that is what the drill is for.
        Err(failure) if !source.is_empty() && matches!(failure.code, Code::Failed | Code::Frozen) => {
            let mut report = empty("");
            report.failed(Step::Locate, &failure.message);
            return Ok(vec![report]);
        }
        Err(failure) => return Err(failure),
    };
    // A recovery of each system begins with this.
    let located = now();
    let mut reports = vec![];
    for goal in Goal::all_of(&found.snapshot) {
        let mut report = empty(goal.title());
        report.snapshot_id = Some(found.id);
        report.recovery_point = Some(newest(&found.snapshot));
        let mut watch = Stopwatch::start(&now, now().saturating_sub(located));
        if let Err(failure) = rehearse(goal, &opened, &found, wanted, &mut watch, &mut report, context) {
            if failure.code == Code::Interrupted {
                return Err(failure);
            }
            // Of this system alone: the reports of others are there all the same.
            report.failures.push(failure.message);
        }
        (report.phases, report.seconds) = watch.finish();
        report.judge(wanted.objective);
        reports.push(report);
    }
    asserted::all_were_asked(wanted.assertions, &mut reports);
    Ok(reports)
}

/// The newest moment that a snapshot shows of all its sources.
fn newest(snapshot: &Snapshot) -> jiff::Timestamp {
    snapshot.sources.iter().filter_map(|record| record.start).min().unwrap_or(snapshot.time)
}

/// What connectors are told of scratch servers, which have logins of their own and no TLS: what the user set for servers that
/// are in use, `-o` included, is not meant for them.
fn scratch_options(context: &Context) -> Result<engine::connector::Context, Failure> {
    let mut options = sources::url_options(context)?;
    options.environment.retain(|name, _| matches!(name.as_str(), "PATH" | "TMPDIR"));
    let bare = engine::connector::Context::new(options.scratch.clone(), options.clock);
    (options.tls, options.tls_files, options.settings) = (bare.tls, bare.tls_files, bare.settings);
    Ok(options)
}

/// Rehearses one system. What goes wrong with the restore is in the report; an error is one of the machine.
fn rehearse(
    goal: Goal,
    opened: &Opened,
    found: &Listed,
    wanted: Wanted<'_>,
    watch: &mut Stopwatch<'_>,
    report: &mut Report,
    context: &Context,
) -> Result<(), Failure> {
    if let Goal::Missing(title) = goal {
        report.failures.push(match title {
            Some(title) => format!("a snapshot of {title} of this kind cannot be rehearsed yet"),
            None => "the snapshot has no source that can be rehearsed".into(),
        });
        return Ok(());
    }
    let options = scratch_options(context)?;
    let name: [u8; scratch::NAME_LEN] = chunkstore::env::random_array(&*opened.repo.store().access.env)?;
    let root = scratch::root(wanted.scratch_dir, &options.scratch.with_file_name("drills"))?;
    let mut ground = Ground::new(&root, &chunkstore::id::to_hex(&name))?;
    ground.adopt()?;
    let console = &context.console;
    let errors = console.error_count();
    watch.lap(Step::Locate);
    match goal {
        Goal::Missing(_) => {}
        Goal::Files => {
            let folder = ground.room("files")?;
            let options = RestoreOptions { target: folder, ..RestoreOptions::default() };
            let repo = &opened.repo;
            let restored = console.during("restore", |monitor| {
                // It counts on from what was restored before.
                let before = monitor.get(Counter::BytesDone);
                restore(repo, &found.snapshot, &options, monitor)
                    .map(|done| (done, monitor.get(Counter::BytesDone).saturating_sub(before)))
            });
            watch.lap(Step::Restore);
            match restored {
                Ok((_, bytes)) => {
                    report.bytes = bytes;
                    let differ = console
                        .during("verify", |monitor| differences(repo, &found.snapshot, &options, monitor));
                    match differ {
                        Ok(differ) => report.assertions.push(Assertion {
                            name: "files that differ from the snapshot".into(),
                            expected: "0".into(),
                            found: differ.len().to_string(),
                            met: differ.is_empty(),
                        }),
                        Err(error) => report.failed(Step::Verify, &Failure::from(error).message),
                    }
                    let place = Place::Folder(&options.target);
                    asserted::ask(wanted.assertions, place, &ground, report, context)?;
                    watch.lap(Step::Verify);
                }
                Err(error) => report.failed(Step::Restore, &Failure::from(error).message),
            }
        }
        Goal::Server { target, scratch, .. } => {
            let folder = ground.room("server")?;
            let from = Origin { repo: &opened.repo, snapshot: found, below: "" };
            let started = console.during("start", |monitor| scratch.start(from, &folder, &options, monitor));
            watch.lap(Step::Start);
            match started {
                Ok(mut server) => {
                    report.server = server.program().to_owned();
                    let started = Started { target, scratch, server: &*server };
                    into_server(started, from, wanted, &ground, watch, report, context)?;
                    if let Err(error) = server.stop() {
                        console.warn(&error.to_string());
                    }
                }
                Err(error) => {
                    report.failed(Step::Start, &without_choices(&Failure::from(error).message, target));
                }
            }
        }
    }
    let more = console.error_count().saturating_sub(errors);
    if more > 0 {
        report
            .failures
            .push(format!("{} while it was restored, named above", units::counted(more as u64, "error")));
    }
    ground.remove()?;
    watch.lap(Step::Stop);
    if console.monitor().interrupted() {
        return Err(engine::Error::Interrupted.into());
    }
    Ok(())
}

/// Restores into a scratch server, as `restore --to` does, and counts.
fn into_server(
    started: Started<'_>,
    from: Origin<'_>,
    wanted: Wanted<'_>,
    ground: &Ground,
    watch: &mut Stopwatch<'_>,
    report: &mut Report,
    context: &Context,
) -> Result<(), Failure> {
    let console = &context.console;
    let Started { target, scratch, server } = started;
    let said = |error: engine::Error| without_choices(&Failure::from(error.in_one_line()).message, target);
    let options = scratch_options(context)?;
    let planned = scratch.chosen(from).and_then(|chosen| {
        console
            .during("plan", |monitor| target.plan(from, OsStr::new(server.url()), &chosen, &options, monitor))
    });
    watch.lap(Step::Plan);
    let mut plan = match planned {
        Ok(plan) => plan,
        Err(error) => {
            report.failed(Step::Plan, &said(error));
            return Ok(());
        }
    };
    let proved = console.during("prove", |monitor| plan.prove(monitor));
    watch.lap(Step::Prove);
    if let Err(error) = proved {
        report.failed(Step::Prove, &said(error));
        return Ok(());
    }
    let restored = console.during("restore", |monitor| plan.apply(monitor));
    watch.lap(Step::Restore);
    match restored {
        Ok(restored) => {
            report.bytes = restored.bytes;
            if restored.extent != Extent::Whole {
                report.failed(Step::Restore, "not all of the snapshot was restored");
            }
            match console.during("verify", |monitor| server.count(from, monitor)) {
                Ok(counts) => report.assertions.extend(counts.into_iter().map(Assertion::from)),
                Err(error) => report.failed(Step::Verify, &said(error)),
            }
            let place = Place::Server(server, scratch.asked_by(), from);
            asserted::ask(wanted.assertions, place, ground, report, context)?;
            watch.lap(Step::Verify);
        }
        Err(error) => report.failed(Step::Restore, &said(error)),
    }
    Ok(())
}
