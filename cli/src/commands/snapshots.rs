//! `esker snapshots`

use super::{FilterArgs, json_time, show_time};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use chunkstore::head::Host;
use chunkstore::{ObjectId, RepositoryId};
use comfy_table::{Table, presets};
use engine::Repository;
use engine::admit::waiting;
use engine::author::{Author, author};
use engine::policy::GroupBy;
use engine::rank;
use engine::shown;
use engine::snapshot::{Hold, Listed, MadeBy, Snapshot, SourceRecord, Summary};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

/// List snapshots
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only these, by id or latest
    snapshots: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only the newest N of each group, as --group-by says [default: as forget groups them]
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// The same as --latest 1
    #[arg(long, hide = true, conflicts_with = "latest")]
    last: bool,
    /// Show snapshots in groups: host, paths, tags, separated by commas
    #[arg(short, long, value_name = "WHAT")]
    group_by: Option<GroupBy>,
    /// Without paths
    #[arg(short, long)]
    compact: bool,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let repo = context.open_to_read()?.repo;
    let all = repo.snapshots(context.console.monitor())?;
    let moved = rank::moved(&all, context.now());
    let moved = |listed: &Listed| moved.get(&listed.id).copied();
    let mut all = args.filter.choose(all, &args.snapshots)?;
    let group_by = args.group_by.unwrap_or_default();
    if let Some(latest) = args.latest.or(args.last.then_some(1)) {
        let mut seen = std::collections::BTreeMap::new();
        all.reverse();
        all.retain(|listed| {
            let count = seen.entry(group_by.key(&listed.snapshot)).or_insert(0);
            *count += 1;
            *count <= latest
        });
        all.reverse();
    }
    let authors = Authors { repository: *repo.store().keys().repository(), hosts: repo.store().hosts()? };
    if args.group_by.is_some() {
        grouped(&all, group_by, args, context);
    } else if context.global.json {
        let shown = |listed| Shown::new(listed, moved(listed)).signed(authors.json(&listed.snapshot));
        output::json_array(all.iter().map(shown))?;
    } else {
        output::block(if args.compact { compact(&all) } else { table(&all) });
        for listed in &all {
            if let Some(time) = moved(listed) {
                output::line(format!(
                    "{} was made by a clock that was wrong: it is ranked as of {}, by where it stands among the others",
                    listed.id.short(),
                    show_time(time)
                ));
            }
        }
        authors.tell(&all);
        output::line(format!("{} snapshots", all.len()));
        pending(&repo, context)?;
    }
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
}

/// What tells by whom snapshots of write-only hosts were made.
struct Authors {
    repository: RepositoryId,
    hosts: Vec<Host>,
}

impl Authors {
    fn json(&self, snapshot: &Snapshot) -> Option<Value> {
        let signed = snapshot.signed.as_ref()?;
        let (name, signature) = match author(snapshot, &self.repository, &self.hosts) {
            Author::Client => return None,
            Author::Host(host) => (Some(host.name), "valid"),
            Author::Revoked(host) => (Some(host.name), "revoked"),
            Author::Doubtful(_) => (None, "invalid"),
        };
        Some(json!({"host": name, "host_id": signed.host, "run": signed.run, "signature": signature}))
    }

    /// Says of each host how many of these it signed, and of which that is in doubt.
    fn tell(&self, all: &[Listed]) {
        let mut signed = std::collections::BTreeMap::<String, u64>::new();
        for listed in all {
            match author(&listed.snapshot, &self.repository, &self.hosts) {
                Author::Client => {}
                Author::Host(host) => *signed.entry(host.name).or_default() += 1,
                Author::Revoked(host) => {
                    *signed.entry(format!("{}, which was revoked since", host.name)).or_default() += 1;
                }
                Author::Doubtful(why) => {
                    output::line(format!("{}: its signature does not count: {why}", listed.id.short()));
                }
            }
        }
        for (host, count) in signed {
            output::line(format!("{count} signed by host {host}"));
        }
    }
}

/// Says what of hosts waits to be admitted: there are no snapshots of it yet.
fn pending(repo: &Repository, context: &Context) -> Result<(), Failure> {
    if repo.store().head().hosts.is_empty() || repo.store().tier().is_some() {
        return Ok(());
    }
    match waiting(repo.store()) {
        Ok(waiting) => {
            for (host, run, waits) in waiting {
                let bytes = output::bytes(waits.bytes);
                output::line(format!(
                    "pending: run {run} of host {}, {bytes}; 'esker host admit' takes it in",
                    host.name
                ));
            }
        }
        // A reader need not have the right to look there.
        Err(error) => context.console.say(format!("what waits in inboxes is not known: {error}")),
    }
    Ok(())
}

/// In groups, in order of their keys.
fn grouped(all: &[Listed], group_by: GroupBy, args: &Args, context: &Context) {
    let mut groups = std::collections::BTreeMap::<_, Vec<Listed>>::new();
    for listed in all {
        groups.entry(group_by.key(&listed.snapshot)).or_default().push(listed.clone());
    }
    if context.global.json {
        let groups = groups.iter().map(|(key, members)| {
            json!({
                "group_key": {"hostname": key.hostname, "paths": key.paths, "tags": key.tags},
                "snapshots": members.iter().map(to_json).collect::<Vec<_>>(),
            })
        });
        output::json_line(&Value::Array(groups.collect()));
        return;
    }
    for (key, members) in &groups {
        let mut parts = vec![];
        for (what, names) in
            [("host", vec![key.hostname.clone()]), ("tags", key.tags.clone()), ("paths", key.paths.clone())]
        {
            if names.iter().any(|name| !name.is_empty()) {
                parts.push(format!("{what} [{}]", names.join(", ")));
            }
        }
        output::line(format!("snapshots for ({}):", parts.join(", ")));
        output::block(if args.compact { compact(members) } else { table(members) });
        output::line(format!("{} snapshots", members.len()));
    }
}

/// Snapshots in few columns.
fn compact(all: &[Listed]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["ID", "Time", "Host", "Tags", "Size"]);
    for listed in all {
        let snapshot = &listed.snapshot;
        table.add_row([
            listed.id.short(),
            show_time(snapshot.time),
            shown::line(&snapshot.hostname).into_owned(),
            shown::line(&snapshot.tags.join(",")).into_owned(),
            output::bytes(snapshot.manifest.bytes),
        ]);
    }
    table.trim_fmt()
}

/// A snapshot as restic shows it.
#[derive(Serialize)]
struct Shown<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<ObjectId>,
    paths: &'a [String],
    hostname: &'a str,
    username: &'a str,
    uid: u32,
    gid: u32,
    tags: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    excludes: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    description: &'a str,
    program_version: &'a str,
    /// Of restic it is the id of a folder; here, of the list of all entries. Equal ones hold the same.
    tree: String,
    summary: &'a Summary,
    sources: &'a [SourceRecord],
    #[serde(skip_serializing_if = "Option::is_none")]
    skew_seconds: Option<f64>,
    made_by: &'a MadeBy,
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<ObjectId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<Hold>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_until: Option<String>,
    /// The time that it is ranked by, where its own was that of a wrong clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    ranked_time: Option<String>,
    /// The write-only host that made it, and whether its signature fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    signed: Option<Value>,
    id: ObjectId,
    short_id: String,
}

impl<'a> Shown<'a> {
    fn signed(self, signed: Option<Value>) -> Self {
        Self { signed, ..self }
    }

    fn new(listed: &'a Listed, ranked: Option<Timestamp>) -> Self {
        let snapshot = &listed.snapshot;
        Self {
            time: json_time(snapshot.time),
            parent: snapshot.parent,
            paths: &snapshot.paths,
            hostname: &snapshot.hostname,
            username: &snapshot.username,
            uid: snapshot.uid,
            gid: snapshot.gid,
            tags: &snapshot.tags,
            excludes: &snapshot.excludes,
            description: &snapshot.description,
            program_version: &snapshot.program_version,
            tree: tree(snapshot),
            summary: &snapshot.summary,
            sources: &snapshot.sources,
            skew_seconds: engine::snapshot::skew(&snapshot.sources).map(|skew| skew.as_secs_f64()),
            made_by: &snapshot.made_by,
            original: snapshot.original,
            hold: Some(snapshot.hold).filter(|hold| *hold != Hold::Unsaid),
            keep_until: snapshot.keep_until.map(json_time),
            ranked_time: ranked.map(json_time),
            signed: None,
            id: listed.id,
            short_id: listed.id.short(),
        }
    }
}

/// A snapshot as restic shows it.
pub(crate) fn to_json(listed: &Listed) -> Value {
    json!(Shown::new(listed, None))
}

fn tree(snapshot: &Snapshot) -> String {
    let root = serde_json::to_vec(&snapshot.manifest).unwrap_or_default();
    blake3::hash(&root).to_hex().to_string()
}

/// Snapshots for people.
pub(crate) fn table(all: &[Listed]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["ID", "Time", "Host", "Tags", "Paths", "Size"]);
    for listed in all {
        let snapshot = &listed.snapshot;
        let paths: Vec<String> = snapshot.paths.iter().map(|path| shown::name(path.as_bytes())).collect();
        table.add_row([
            listed.id.short(),
            show_time(snapshot.time),
            shown::line(&snapshot.hostname).into_owned(),
            shown::line(
                &snapshot
                    .tags
                    .iter()
                    .cloned()
                    .chain(super::stay::hold(snapshot))
                    .collect::<Vec<_>>()
                    .join(","),
            )
            .into_owned(),
            paths.join("\n"),
            output::bytes(snapshot.manifest.bytes),
        ]);
    }
    table.trim_fmt()
}
