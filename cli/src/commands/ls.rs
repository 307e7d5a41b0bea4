//! `esker ls`

use super::{FilterArgs, json_time, show_time};
use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output;
use engine::entry::{Entry, Kind, Time, is_beneath};
use engine::keyspace::{Place, Record, Records as _, Selection, Want};
use engine::manifest::{Listed, for_each_entry};
use engine::rdb::type_name;
use engine::snapshot::{Listed as Found, split_path};
use engine::{ItemError, Repository};
use serde_json::{Value, json};

/// List what is in a snapshot
///
/// SNAPSHOT:redis/[SERVER/]DATABASE/ lists the keys of a Redis dump, with patterns as in redis-cli's KEYS.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Snapshot: id, latest, latest~N, with :path for a part of it
    #[arg(default_value = "latest")]
    snapshot: String,
    /// Only what lies beneath these paths; of keys, what fits these patterns
    paths: Vec<String>,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let repo = context.open_to_read()?.repo;
    let monitor = context.console.monitor();
    let (wanted, path) = split_path(&args.snapshot);
    let found = repo.find(wanted, &args.filter.filter(), monitor)?;
    repo.sync_index(monitor)?;
    if let Some(place) = Place::in_argument(&args.snapshot) {
        return keys(&repo, &found, &place, args, context);
    }
    if context.global.json {
        let mut head = super::snapshots::to_json(&found);
        if let Some(object) = head.as_object_mut() {
            object.insert("message_type".into(), json!("snapshot"));
            object.insert("struct_type".into(), json!("snapshot"));
        }
        output::json_line(&head);
    }
    let mut roots: Vec<Vec<u8>> =
        args.paths.iter().map(|path| path.trim_matches('/').as_bytes().to_vec()).collect();
    if roots.is_empty() || !path.is_empty() {
        roots.push(path.as_bytes().to_vec());
    }
    for_each_entry(
        repo.store(),
        &found.snapshot.manifest,
        &mut |damage| {
            monitor.error(ItemError {
                during: "ls",
                item: format!("entries after {}", damage.after),
                message: chunkstore::store::describe(&damage.error),
            });
        },
        &mut |listed| {
            if roots.iter().any(|root| is_beneath(&listed.entry.path, root)) {
                if context.global.json {
                    output::json_line(&node(&listed));
                } else if args.long {
                    output::line(long(&listed));
                } else {
                    output::line(listed.entry.display_path());
                }
            }
            Ok(())
        },
    )?;
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
}

/// The keys of a database.
fn keys(repo: &Repository, found: &Found, place: &Place, args: &Args, context: &Context) -> CommandResult {
    let dump = place.dump(repo, &found.snapshot)?;
    let patterns: Vec<Vec<u8>> =
        args.paths.iter().map(|pattern| pattern.as_bytes().to_vec()).chain(place.key.clone()).collect();
    let selection = Selection::new(place.database, &patterns);
    let mut records = dump.records(repo, &selection, Want::Names);
    while let Some(Record { key, len, .. }) = records.next_record()? {
        let expires =
            key.expires_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms.try_into().ok()?).ok());
        let kind = type_name(key.kind);
        if context.global.json {
            output::json_line(&json!({
                "message_type": "key",
                "database": key.database,
                "key": String::from_utf8_lossy(&key.name),
                "type": kind,
                "size": len,
                "expires": expires.map(json_time),
            }));
        } else {
            let expires = expires.map_or_else(|| "-".into(), show_time);
            output::line(format!("{kind:<6} {len:>12} {expires:<19} {}", shown(&key.name)));
        }
        if context.console.monitor().interrupted() {
            return Err(engine::Error::Interrupted.into());
        }
    }
    Ok(Code::Done)
}

/// A key for people: what is not printable is escaped, as redis-cli does.
fn shown(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => format!("\"{}\"", name.escape_ascii()),
    }
}

fn timestamp(time: Time) -> jiff::Timestamp {
    jiff::Timestamp::new(time.seconds, time.nanoseconds.try_into().unwrap_or_default()).unwrap_or_default()
}

/// An entry as restic shows it.
pub(crate) fn node(listed: &Listed) -> Value {
    let entry = &listed.entry;
    json!({
        "message_type": "node",
        "struct_type": "node",
        "name": String::from_utf8_lossy(entry.name()),
        "type": entry.kind.name(),
        "path": entry.display_path(),
        "uid": entry.uid,
        "gid": entry.gid,
        "size": listed.size,
        "mode": entry.mode,
        "permissions": permissions(entry),
        "mtime": json_time(timestamp(entry.mtime)),
        "ctime": json_time(timestamp(entry.ctime)),
        "inode": entry.inode,
    })
}

fn long(listed: &Listed) -> String {
    let entry = &listed.entry;
    let target = match entry.kind {
        Kind::Symlink => format!(" -> {}", String::from_utf8_lossy(&entry.target)),
        _ => String::new(),
    };
    format!(
        "{} {:>5} {:>5} {:>12} {} {}{target}",
        permissions(entry),
        entry.uid,
        entry.gid,
        listed.size,
        show_time(timestamp(entry.mtime)),
        entry.display_path(),
    )
}

/// `-rwsr-x--t` and so on, as ls(1) writes it.
fn permissions(entry: &Entry) -> String {
    let kind = match entry.kind {
        Kind::File => '-',
        Kind::Dir => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::CharDevice => 'c',
        Kind::BlockDevice => 'b',
        Kind::Socket => 's',
    };
    let mut text = String::from(kind);
    let special = [(0o4000, 's'), (0o2000, 's'), (0o1000, 't')];
    for (shift, (bit, letter)) in [6, 3, 0].into_iter().zip(special) {
        let mode = entry.mode >> shift;
        text.push(if mode & 4 != 0 { 'r' } else { '-' });
        text.push(if mode & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & 1 != 0, entry.mode & bit != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}
