//! `esker host`

use crate::commands::{json_time, show_time, time_of};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output::{self, Summary};
use crate::places::{Place, for_another_machine};
use crate::secret_files::SecretFile;
use crate::units::counted;
use chunkstore::format::names;
use chunkstore::head::Host;
use chunkstore::inbox::Inbox;
use chunkstore::inbox::runs::MOST_RUNS;
use engine::Repository;
use engine::admit::{Admission, AdmitOptions, Outcome, admit, waiting};
use engine::shown;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// Hosts that may only write: add and revoke them, and take in what they back up
///
/// Such a host has a file instead of a password. With it 'esker backup --bundle FILE' brings what it backs up to an inbox.
/// It cannot read, forget or prune anything. docs/hosts.md has more.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Add a host, and write the file that it backs up with
    Add(Add),
    /// List the hosts, and what of each waits to be admitted
    List,
    /// Revoke a host: nothing that it brings is admitted from then on
    Revoke {
        /// Its name, or at least the first 8 digits of its id
        #[arg(value_parser = crate::words::kept())]
        host: String,
    },
    /// Take what hosts have brought into the repository
    ///
    /// Each chunk is decrypted and named by its content, so nothing that a host says of it is believed. 'backup', 'prune' and
    /// 'run' of a full client do it first, too. Exit code 3 if something was refused, or waits for the
    /// next time.
    Admit,
}

#[derive(clap::Args, Debug)]
struct Add {
    /// What to call it: its snapshots have this host name
    #[arg(value_parser = crate::words::kept())]
    name: String,
    /// It may only write; other hosts get a password or a key file ('esker key add')
    #[arg(long, required = true)]
    write_only: bool,
    /// Write its file here; without it, into NAME.esker-host
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Where the host finds the repository, if elsewhere than this machine does
    #[arg(long, value_name = "PLACE")]
    place: Option<OsString>,
}

impl Args {
    /// Whether it only prints.
    pub(super) fn only_prints(&self) -> bool {
        matches!(self.action, Action::List)
    }
}

pub(crate) fn run(args: Args, context: &Context) -> CommandResult {
    match args.action {
        Action::Add(args) => add(&args, context),
        Action::List => list(context),
        Action::Revoke { host } => revoke(&host, context),
        Action::Admit => {
            let repo = context.open()?;
            let done = take_in(&repo, context)?;
            let mut summary = Summary::new(json!({"runs": done.iter().map(row).collect::<Vec<Value>>()}));
            // What could not be looked at was told, host by host.
            let all = context.console.error_count() == 0;
            if done.is_empty() && all {
                summary.line("nothing waits to be admitted");
            }
            for admission in &done {
                let (text, is_bad) = told(admission);
                summary.outcome(text, is_bad);
            }
            context.console.summary(&summary);
            Ok(if all { code(&done) } else { Code::Incomplete })
        }
    }
}

/// Takes in what waits.
fn take_in(repo: &Repository, context: &Context) -> Result<Vec<Admission>, Failure> {
    let common = context.backup_options(repo);
    let options = AdmitOptions { sealing: common.sealing, packer: common.packer };
    Ok(context.console.during("admit", |monitor| admit(repo, &options, monitor))?)
}

/// What a command took in before its own work.
pub(super) struct TakenIn {
    rows: Vec<Value>,
    /// Whether all that waited is admitted.
    pub(super) is_whole: bool,
}

impl TakenIn {
    /// Nothing waited, or nothing was to be looked at.
    pub(super) fn nothing() -> Self {
        Self { rows: vec![], is_whole: true }
    }

    /// Adds it to the command's own report, if the repository has hosts of which something was there.
    pub(super) fn add(self, summary: Summary) -> Summary {
        summary.with_some("runs_of_hosts", Some(self.rows).filter(|rows| !rows.is_empty()))
    }
}

/// Takes in what waits before a full client backs up or prunes, and says what came of it. Whatever that is, the client's own
/// work goes on: no host can stop it.
pub(super) fn take_in_first(repo: &Repository, context: &Context) -> Result<TakenIn, Failure> {
    if repo.store().tier().is_some() || repo.store().hosts()?.is_empty() {
        return Ok(TakenIn::nothing());
    }
    let (done, has_failed) = match take_in(repo, context) {
        Ok(done) => (done, false),
        Err(failure) if failure.code == Code::Interrupted => return Err(failure),
        Err(failure) => {
            context.console.warn(&format!("what hosts brought could not be admitted: {}", failure.message));
            (vec![], true)
        }
    };
    context.console.monitor().restart();
    for admission in &done {
        match told(admission) {
            (text, true) => context.console.warn(&text),
            (text, false) => context.console.say(text),
        }
    }
    let is_whole = !has_failed && code(&done) == Code::Done;
    Ok(TakenIn { rows: done.iter().map(row).collect(), is_whole })
}

/// What waits for a real run, which takes it in first; a dry run only says so.
#[derive(Default)]
pub(super) struct Waiting {
    runs: u64,
    hosts: u64,
    bytes: u64,
}

impl Waiting {
    /// Looks into the inboxes. As where runs are taken in, what hosts brought stops nobody.
    pub(super) fn look(repo: &Repository, context: &Context) -> Result<Self, Failure> {
        if repo.store().tier().is_some() || repo.store().hosts()?.is_empty() {
            return Ok(Self::default());
        }
        let all = waiting(repo.store(), context.console.monitor()).unwrap_or_else(|error| {
            let why = Failure::from(error).message;
            context.console.warn(&format!("what hosts brought could not be looked at: {why}"));
            vec![]
        });
        let mut found = Self::default();
        for (_, inbox) in all.iter().filter(|(_, inbox)| inbox.pending.runs > 0) {
            found.hosts += 1;
            found.runs += inbox.pending.runs;
            found.bytes = found.bytes.saturating_add(inbox.pending.bytes);
        }
        Ok(found)
    }

    /// Says what the numbers of a dry run leave out.
    pub(super) fn add(&self, mut summary: Summary) -> Summary {
        if self.runs > 0 {
            summary.line(format!(
                "a real run first admits {} of {}, {} in the inbox; the numbers above are without them",
                counted(self.runs, "run"),
                counted(self.hosts, "host"),
                output::bytes(self.bytes)
            ));
        }
        summary.with("runs_to_admit", self.runs).with("hosts_to_admit", self.hosts)
    }
}

fn code(done: &[Admission]) -> Code {
    let is_in = |admission: &Admission| matches!(admission.outcome, Outcome::Admitted { .. });
    if done.iter().all(is_in) { Code::Done } else { Code::Incomplete }
}

/// What became of a run, for people, and whether it is bad.
fn told(admission: &Admission) -> (String, bool) {
    let Admission { host, id, run, bytes, outcome } = admission;
    match outcome {
        Outcome::Admitted { snapshot, anew: false } => (
            format!("{host}, run {run}: {} admitted as snapshot {}", output::bytes(*bytes), snapshot.short()),
            false,
        ),
        Outcome::Admitted { snapshot, anew: true } => (
            format!(
                "{host}, run {run}: {} admitted as snapshot {}. The host began anew: its cache folder was lost, another \
                 machine has its file, or somebody put something else in the place of a commit of it",
                output::bytes(*bytes),
                snapshot.short()
            ),
            true,
        ),
        Outcome::Refused { why, .. } => (
            format!("{host}, run {run}: refused: {why}. The host's next backup stores again what it needs"),
            true,
        ),
        Outcome::Forged { why } => (
            format!(
                "{host}, run {run}: left in the inbox: {why}. The host's first run with a later number is settled after it, and the host then \
                 stores again what it needs"
            ),
            true,
        ),
        Outcome::Waits { runs } => (
            format!(
                "{host}: {} more left for the next admission, with {}: one looks at {MOST_RUNS} of a host, and at fewer if most \
                 of what it reads is no commit of the host",
                counted(*runs, "run"),
                output::bytes(*bytes)
            ),
            true,
        ),
        Outcome::Far { runs } => (
            format!(
                "{host}: {} left in the inbox whose numbers, {run} and later, do not follow the host's last one: no host counts \
                 so, and somebody else writes there. Remove {} and later folders beside it, or revoke the host: a prune then \
                 removes all",
                counted(*runs, "run"),
                names::run(id, *run)
            ),
            true,
        ),
    }
}

fn row(admission: &Admission) -> Value {
    let Admission { host, id, run, bytes, outcome } = admission;
    let mut row = json!({"host": host, "host_id": id, "run": run, "bytes": bytes});
    let more = match outcome {
        Outcome::Admitted { snapshot, anew } => {
            json!({"outcome": "admitted", "snapshot_id": snapshot, "anew": anew})
        }
        Outcome::Refused { why, missing } => {
            json!({"outcome": "refused", "why": why, "chunks_missing": missing})
        }
        Outcome::Forged { why } => json!({"outcome": "forged", "why": why}),
        Outcome::Waits { runs } => json!({"outcome": "waits", "runs": runs}),
        Outcome::Far { runs } => json!({"outcome": "far", "runs": runs}),
    };
    if let (Value::Object(row), Value::Object(more)) = (&mut row, more) {
        row.extend(more);
    }
    row
}

fn add(args: &Add, context: &Context) -> CommandResult {
    let place = match &args.place {
        Some(given) => for_another_machine(given)?,
        None => match context.place()? {
            // The host may stand in another folder.
            (Place::Folder(folder), _) => std::path::absolute(folder)?.into_os_string(),
            _ => context.global.place()?.unwrap_or_default(),
        },
    };
    if place.is_empty() {
        return Err(Failure::usage(
            "the repository's place is in esker.toml, which the host does not have: give it with --place",
        ));
    }
    let place = engine::names::path_text(place.as_bytes());
    let path = args.to.clone().unwrap_or_else(|| PathBuf::from(format!("{}.esker-host", args.name)));
    if path.exists() {
        return Err(Failure::new(format!("{} exists: name another file with --to", shown::path(&path))));
    }
    let repo = context.open()?;
    let store = repo.store();
    let bundle = store.add_host(&args.name, &place)?;
    let id = bundle.keys.host;
    let written = bundle.to_text().map_err(Failure::from).and_then(|text| {
        let text = std::str::from_utf8(&text).map_err(|error| Failure::new(error.to_string()))?;
        SecretFile::write(&path, text)
    });
    match written {
        Ok(file) => file.keep(),
        Err(failure) => {
            // Nobody has its key.
            store.remove_host(&id)?;
            return Err(failure);
        }
    }
    let mut summary = Summary::new(json!({"host": args.name, "host_id": id}))
        .with_name("file", path.as_os_str().as_bytes());
    summary.line(format!("added host '{}', {}", args.name, id.short()));
    summary.line(format!(
        "Bring {} to it, and remove it here: 'esker backup --bundle FILE' backs up with it. It may write below inbox/{id} and \
         read below replies/{id}, and needs no other right (docs/hosts.md has policies).",
        shown::path(&path)
    ));
    context.console.summary(&summary);
    Ok(Code::Done)
}

fn list(context: &Context) -> CommandResult {
    let repo = context.open_to_look()?;
    let store = repo.store();
    let waiting = waiting(store, context.console.monitor())?;
    let nothing = Inbox::default();
    let of =
        |host: &Host| waiting.iter().find(|(of, _)| of.id == host.id).map_or(&nothing, |(_, inbox)| inbox);
    let hosts = store.hosts()?;
    if context.global.json {
        output::json_line(&hosts.iter().map(|host| listed(host, of(host))).collect());
        return Ok(Code::Done);
    }
    if hosts.is_empty() {
        output::line("no hosts: 'esker host add NAME --write-only' adds one");
    }
    for host in &hosts {
        let Inbox { pending, far, .. } = of(host);
        let state = match (host.revoked_ms, pending.runs) {
            (Some(ms), _) => format!("revoked {}", show_time(time_of(ms))),
            (None, 0) => counted(host.run, "run"),
            (None, runs) => {
                format!("{}, {runs} pending ({})", counted(host.run, "run"), output::bytes(pending.bytes))
            }
        };
        let added = show_time(time_of(host.added_ms));
        output::line(format!("{}  {}  added {added}  {state}", host.id.short(), host.name));
        if far.runs > 0 {
            output::line(format!(
                "          {} far beyond its last one, {}: remove {} and later folders beside it, or revoke the host",
                counted(far.runs, "run"),
                output::bytes(far.bytes),
                names::run(&host.id, far.first)
            ));
        }
    }
    Ok(Code::Done)
}

/// A host with what of it waits, for programs.
fn listed(host: &Host, inbox: &Inbox) -> Value {
    let Inbox { pending, far, .. } = inbox;
    let mut row = json!({
        "host": host.name, "host_id": host.id, "added": json_time(time_of(host.added_ms)), "run": host.run,
        "epoch": host.epoch, "pending": pending.runs, "pending_bytes": pending.bytes,
    });
    if far.runs > 0 {
        row["far"] = json!({"runs": far.runs, "bytes": far.bytes, "first": names::run(&host.id, far.first)});
    }
    if let Some(ms) = host.revoked_ms {
        row["revoked"] = json_time(time_of(ms)).into();
    }
    if let Some(snapshot) = host.snapshot {
        row["snapshot_id"] = json!(snapshot);
    }
    row
}

fn revoke(wanted: &str, context: &Context) -> CommandResult {
    let repo = context.open()?;
    let host = repo.store().revoke_host(wanted)?;
    let mut summary = Summary::new(json!({"host": host.name, "host_id": host.id}));
    summary.line(format!(
        "revoked host '{}', {}: nothing that it brings is admitted from now on",
        host.name,
        host.id.short()
    ));
    summary.line("Its snapshots stay. Take its right to write to the store back, too.");
    context.console.summary(&summary);
    Ok(Code::Done)
}
