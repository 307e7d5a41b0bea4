//! `esker snapshots`

use super::{FilterArgs, json_time, show_time};
use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output;
use comfy_table::{Table, presets};
use engine::policy::GroupBy;
use engine::snapshot::{self, Listed};
use serde_json::{Value, json};

/// List snapshots
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only these, by id or latest
    snapshots: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Only the newest N of each host and set of paths
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let repo = context.open_to_read()?.repo;
    let mut all = repo.snapshots(context.console.monitor())?;
    let filter = args.filter.filter();
    if args.snapshots.is_empty() {
        all.retain(|listed| filter.fits(&listed.snapshot));
    } else {
        let mut chosen = vec![];
        for wanted in &args.snapshots {
            chosen.push(snapshot::find(&all, wanted, &filter)?.clone());
        }
        all = chosen;
    }
    if let Some(latest) = args.latest {
        let mut seen = std::collections::BTreeMap::new();
        all.reverse();
        all.retain(|listed| {
            let count = seen.entry(GroupBy::default().key(&listed.snapshot)).or_insert(0);
            *count += 1;
            *count <= latest
        });
        all.reverse();
    }
    if context.global.json {
        output::json_line(&Value::Array(all.iter().map(to_json).collect()));
    } else {
        output::line(table(&all));
        output::line(format!("{} snapshots", all.len()));
    }
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
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
        "summary": snapshot.summary,
        "sources": snapshot.sources,
        "id": listed.id,
        "short_id": listed.id.short(),
    });
    if let Some(object) = value.as_object_mut() {
        if let Some(parent) = snapshot.parent {
            object.insert("parent".into(), json!(parent));
        }
        if !snapshot.description.is_empty() {
            object.insert("description".into(), json!(snapshot.description));
        }
        if let Some(skew) = engine::snapshot::skew(&snapshot.sources) {
            object.insert("skew_seconds".into(), json!(skew.as_secs_f64()));
        }
        if !snapshot.excludes.is_empty() {
            object.insert("excludes".into(), json!(snapshot.excludes));
        }
    }
    value
}

/// Snapshots for people.
pub(crate) fn table(all: &[Listed]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["ID", "Time", "Host", "Tags", "Paths", "Size"]);
    for listed in all {
        let snapshot = &listed.snapshot;
        table.add_row([
            listed.id.short(),
            show_time(snapshot.time),
            snapshot.hostname.clone(),
            snapshot.tags.join(","),
            snapshot.paths.join("\n"),
            output::bytes(snapshot.manifest.bytes),
        ]);
    }
    table.trim_fmt()
}
