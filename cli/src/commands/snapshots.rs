//! `esker snapshots`

use super::{FilterArgs, json_time, show_time};
use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output;
use comfy_table::{Table, presets};
use engine::policy::GroupBy;
use engine::rank;
use engine::shown;
use engine::snapshot::{Hold, Listed};
use serde_json::{Value, json};
use std::collections::HashMap;

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
    let ranked = rank::ranked(repo.snapshots(context.console.monitor())?, context.now());
    let times: HashMap<_, _> = ranked.iter().map(|one| (one.listed.id, one.time)).collect();
    let ranked = ranked.into_iter().map(|one| one.listed).collect();
    let mut all = args.filter.choose(ranked, &args.snapshots)?;
    let moved = |listed: &Listed| times.get(&listed.id).copied().filter(|time| *time != listed.snapshot.time);
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
    if args.group_by.is_some() {
        grouped(&all, group_by, args, context);
    } else if context.global.json {
        let values = all.iter().map(|listed| {
            let mut value = to_json(listed);
            if let (Some(time), Some(object)) = (moved(listed), value.as_object_mut()) {
                object.insert("ranked_time".into(), json!(json_time(time)));
            }
            value
        });
        output::json_line(&Value::Array(values.collect()));
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
        output::line(format!("{} snapshots", all.len()));
    }
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
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
pub(crate) fn to_json(listed: &Listed) -> Value {
    let snapshot = &listed.snapshot;
    let mut value = json!({
        "time": json_time(snapshot.time),
        "paths": snapshot.paths,
        "hostname": snapshot.hostname,
        "username": snapshot.username,
        "uid": snapshot.uid,
        "gid": snapshot.gid,
        "tags": snapshot.tags,
        "program_version": snapshot.program_version,
        // Of restic it is the id of a folder; here, of the list of all entries. Equal ones hold the same.
        "tree": tree(snapshot),
        "summary": snapshot.summary,
        "sources": snapshot.sources,
        "made_by": snapshot.made_by,
        "id": listed.id,
        "short_id": listed.id.short(),
    });
    if let Some(object) = value.as_object_mut() {
        if let Some(parent) = snapshot.parent {
            object.insert("parent".into(), json!(parent));
        }
        if let Some(original) = snapshot.original {
            object.insert("original".into(), json!(original));
        }
        if !snapshot.description.is_empty() {
            object.insert("description".into(), json!(snapshot.description));
        }
        if let Some(skew) = engine::snapshot::skew(&snapshot.sources) {
            object.insert("skew_seconds".into(), json!(skew.as_secs_f64()));
        }
        if snapshot.hold != Hold::Unsaid {
            object.insert("hold".into(), json!(snapshot.hold));
        }
        if let Some(until) = snapshot.keep_until {
            object.insert("keep_until".into(), json!(json_time(until)));
        }
        if !snapshot.excludes.is_empty() {
            object.insert("excludes".into(), json!(snapshot.excludes));
        }
    }
    value
}

fn tree(snapshot: &engine::snapshot::Snapshot) -> String {
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
