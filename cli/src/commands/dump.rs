//! `esker dump`

use super::FilterArgs;
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use engine::Repository;
use engine::keyspace::{Place, Records as _, Selection, Want};
use engine::rdb::value::{self, Value};
use engine::restore::dump;
use engine::snapshot::{Listed, split_path};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;

/// Write one file, stream or Redis key of a snapshot to standard output
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Snapshot: id, latest, latest~N, or SNAPSHOT:path
    snapshot: String,
    /// Path of the file in the snapshot
    #[arg(value_name = "PATH")]
    file: Option<String>,
    /// Write to this file instead
    #[arg(short, long, value_name = "FILE")]
    target: Option<std::path::PathBuf>,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let (wanted, inner) = split_path(&args.snapshot);
    let path = match &args.file {
        Some(path) => path.trim_matches('/'),
        None => inner,
    };
    if path.is_empty() {
        return Err(Failure::new("which file? Give a path: esker dump latest /path/in/snapshot"));
    }
    let (opened, found) = context.open_snapshot(wanted, &args.filter.filter())?;
    let place = match &args.file {
        Some(path) => Place::parse(path.trim_start_matches('/')),
        None => Place::in_argument(&args.snapshot),
    };
    if let Some(place) = place {
        return key(&opened.repo, &found, &place, args, context);
    }
    super::thaw::need_thawed(&opened, &found, path.as_bytes(), None, context)?;
    let repo = &opened.repo;
    let mut out = output(args)?;
    // Progress would only disturb whoever reads the stream on a terminal.
    dump(repo, &found.snapshot, path.as_bytes(), &mut *out, context.console.monitor())?;
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
}

fn output(args: &Args) -> Result<Box<dyn Write>, Failure> {
    Ok(match &args.target {
        Some(file) => Box::new(std::fs::File::create_new(file)?),
        // Unbuffered: chunks are large.
        None => {
            Box::new(std::fs::File::from(rustix::io::dup(std::io::stdout()).map_err(std::io::Error::from)?))
        }
    })
}

/// One key of a Redis dump: a string as it is, everything else as JSON; bytes that are not UTF-8 are escaped.
fn key(repo: &Repository, found: &Listed, place: &Place, args: &Args, context: &Context) -> CommandResult {
    let Some(name) = &place.key else {
        return Err(Failure::new("which key? SNAPSHOT:redis/DATABASE/KEY; 'esker ls' lists them"));
    };
    repo.sync_index(context.console.monitor())?;
    let dump = place.dump(repo, &found.snapshot)?;
    let selection =
        Selection { database: place.database, names: [name.clone()].into(), ..Selection::default() };
    let Some(record) = dump.records(repo, &selection, Want::Values).next_record()? else {
        let path = format!("redis/{}/{}", place.database.unwrap_or_default(), String::from_utf8_lossy(name));
        return Err(engine::Error::NoEntry { path, snapshot: found.id.short() }.into());
    };
    let value = value::decode(record.key.kind, &record.value)
        .map_err(|error| Failure::new(format!("the value does not follow the format: {error}")))?;
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    };
    let texts = |list: &[Vec<u8>]| list.iter().map(|item| text(item)).collect::<Vec<_>>();
    let shown = match &value {
        Value::String(bytes) => {
            output(args)?.write_all(bytes)?;
            return Ok(Code::Done);
        }
        Value::List(items) | Value::Set(items) => json!(texts(items)),
        Value::Hash(fields) => {
            json!(
                fields
                    .iter()
                    .map(|field| (text(&field.name), text(&field.value)))
                    .collect::<BTreeMap<_, _>>()
            )
        }
        Value::Zset(members) => {
            json!(members.iter().map(|(name, score)| json!([text(name), score])).collect::<Vec<_>>())
        }
        Value::Stream(entries) => json!(
            entries
                .iter()
                .map(|entry| {
                    let fields: Vec<_> =
                        entry.fields.iter().map(|(name, value)| json!([text(name), text(value)])).collect();
                    json!({"id": format!("{}-{}", entry.id.0, entry.id.1), "fields": fields})
                })
                .collect::<Vec<_>>()
        ),
        Value::Module(_) => {
            return Err(Failure::new(
                "a module's own value, which only the module can read; 'esker restore --to' writes it back",
            ));
        }
    };
    writeln!(output(args)?, "{shown}")?;
    Ok(Code::Done)
}
