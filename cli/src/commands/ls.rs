//! `esker ls`

use super::{FilterArgs, json_time, show_time};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use engine::ItemError;
use engine::connector::contents::Member;
use engine::connector::{Contents, Origin};
use engine::entry::{Entry, Kind, Time, display_path, is_beneath, rooted};
use engine::inside::Inside;
use engine::manifest::{Listed, for_each_entry};
use engine::shown;
use engine::snapshot::split_path;
use serde_json::{Value, json};

mod ncdu;

/// List the content of a snapshot
///
/// A path inside a dump (SNAPSHOT:SYSTEM/[SERVER/]DATABASE/) lists what lies in it: keys, tables, collections; patterns are of
/// `*`, `?` and `[abc]`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Snapshot: id, latest, latest~N, with :path for a part of it
    #[arg(default_value = "latest", value_parser = crate::words::path())]
    snapshot: String,
    /// Only these folders and their direct entries, relative to SNAPSHOT:folder if that is given; for keys,
    /// patterns
    #[arg(value_parser = crate::words::path())]
    paths: Vec<String>,
    /// With paths: also everything beneath them
    #[arg(long)]
    recursive: bool,
    /// Sort by this instead of by path
    #[arg(short, long, value_enum, value_name = "BY")]
    sort: Option<Sort>,
    /// Reverse the order
    #[arg(long)]
    reverse: bool,
    /// Sizes for people
    #[arg(long)]
    human_readable: bool,
    /// Print the format of ncdu's exports, for 'ncdu -f -'
    #[arg(long, conflicts_with_all = ["paths", "long", "sort", "reverse"])]
    ncdu: bool,
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
    let origin = Origin { repo: &repo, snapshot: &found, below: path };
    if let Some(contents) = super::holder(origin)
        && !names_entries(args, origin)?
    {
        return members(contents, origin, args, context);
    }
    if context.global.json && !args.ncdu {
        let mut head = super::snapshots::to_json(&found);
        if let Some(object) = head.as_object_mut() {
            object.insert("message_type".into(), json!("snapshot"));
            object.insert("struct_type".into(), json!("snapshot"));
        }
        output::json_line(&head);
    }
    let resolved = |inside: Inside| inside.resolve(&repo, &found.snapshot);
    let inside = resolved(Inside::new(path))?;
    let mut roots = vec![];
    for path in &args.paths {
        roots.push((resolved(inside.join(path))?, false));
    }
    // Without paths, all that lies beneath the top.
    let recursive = args.recursive || roots.is_empty();
    if roots.is_empty() {
        roots.push((inside.clone(), inside.is_all()));
    }
    let mut ncdu = args.ncdu.then(|| ncdu::Export::start(context.now()));
    let mut kept = vec![];
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
        &mut |mut listed| {
            let mut is_meant = false;
            for (root, is_there) in &mut roots {
                if is_beneath(&listed.entry.path, root.path()) {
                    *is_there = true;
                    is_meant |= recursive || depth(&listed.entry.path, root) <= 1;
                }
            }
            // The folder that was named is the top, which has no line.
            let is_top = listed.entry.kind == Kind::Dir && listed.entry.path == inside.path();
            let Some(relative) = inside.relative(&listed.entry.path).filter(|_| is_meant && !is_top) else {
                return Ok(());
            };
            listed.entry.path = relative.to_vec();
            if let Some(ncdu) = &mut ncdu {
                ncdu.add(&listed);
            } else if args.sort.is_some() || args.reverse {
                kept.push(listed);
            } else {
                show(&listed, args, context);
            }
            Ok(())
        },
    )?;
    if let Some(ncdu) = ncdu {
        ncdu.finish();
    }
    if let Some(sort) = args.sort {
        sort.apply(&mut kept);
    }
    if args.reverse {
        kept.reverse();
    }
    kept.iter().for_each(|listed| show(listed, args, context));
    if let Some((root, _)) = roots.iter().find(|(_, is_there)| !is_there) {
        let path = display_path(root.path());
        return Err(Failure::in_snapshot(engine::Error::NoEntry { path }, &found));
    }
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
}

/// Whether entries are meant rather than what lies in a dump: what is in the snapshot by that very path, unless that is a dump
/// and there is a slash behind it, or patterns of nothing beneath it.
fn names_entries(args: &Args, from: Origin<'_>) -> Result<bool, Failure> {
    let is_entry = |inside: &Inside| inside.is_entry(from.repo, &from.snapshot.snapshot);
    let inside = Inside::new(from.below);
    if !is_entry(&inside)? {
        return Ok(false);
    }
    let below = from.below.trim_matches('/');
    let is_dump = super::dump_of(from).is_some_and(|(_, dump)| dump == below)
        || super::dump_of(Origin { below: &format!("{below}/-"), ..from })
            .is_some_and(|(_, dump)| dump == below);
    if !is_dump {
        return Ok(true);
    }
    if args.paths.is_empty() {
        return Ok(!args.snapshot.ends_with('/'));
    }
    for path in &args.paths {
        if is_entry(&inside.join(path))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many components a path has below a folder above it: 0 for the folder itself.
fn depth(path: &[u8], folder: &Inside) -> usize {
    let below = path.get(folder.path().len()..).unwrap_or_default();
    below.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).count()
}

fn show(listed: &Listed, args: &Args, context: &Context) {
    if context.global.json {
        output::json_line(&node(listed));
    } else if args.long {
        output::line(long(listed, args.human_readable));
    } else {
        output::line(listed.entry.display_path());
    }
}

/// What `--sort` goes by.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Sort {
    /// Path
    Name,
    /// Size
    Size,
    /// Last change
    #[value(alias = "mtime")]
    Time,
    /// The same as time: times of access are not stored
    Atime,
    /// Last change of metadata
    Ctime,
    /// The text after the last dot
    Extension,
}

impl Sort {
    /// Orders, largest and newest last; equal ones by path.
    fn apply(self, all: &mut [Listed]) {
        let extension = |entry: &Entry| {
            let name = entry.name();
            name.iter()
                .rposition(|byte| *byte == b'.')
                .map_or(vec![], |dot| name.get(dot..).unwrap_or_default().to_vec())
        };
        match self {
            Self::Name => all.sort_by(|a, b| a.entry.path.cmp(&b.entry.path)),
            Self::Size => all.sort_by_key(|listed| listed.size),
            Self::Time | Self::Atime => all.sort_by_key(|listed| listed.entry.mtime),
            Self::Ctime => all.sort_by_key(|listed| listed.entry.ctime),
            Self::Extension => all.sort_by_key(|listed| extension(&listed.entry)),
        }
    }
}

/// What lies in a dump.
fn members(contents: &dyn Contents, from: Origin<'_>, args: &Args, context: &Context) -> CommandResult {
    let patterns: Vec<Vec<u8>> =
        args.paths.iter().map(|pattern| engine::names::path_bytes(pattern)).collect();
    let noun = contents.noun();
    contents.list(from, &patterns, &mut |member| {
        if context.global.json {
            output::json_line(&self::member(noun, &member));
        } else {
            let about = if member.about.is_empty() { String::new() } else { format!("  {}", member.about) };
            // A member may have no name, and a line that ends early shows none.
            let name = if member.name.is_empty() { "\"\"".to_owned() } else { shown::name(&member.name) };
            output::line(format!("{} {name}{about}", columns(&member)));
        }
        match context.console.monitor().interrupted() {
            true => Err(engine::Error::Interrupted),
            false => Ok(()),
        }
    })?;
    Ok(Code::Done)
}

/// What lies in a dump, as JSON.
pub(crate) fn member(noun: &str, member: &Member) -> Value {
    let value = json!({
        "message_type": noun,
        "type": member.kind,
        "size": member.size,
        "expires": member.time.map(json_time),
    });
    let mut value = output::with_names(value, &[(noun, &member.name)]);
    if let Some(object) = value.as_object_mut() {
        object.extend(member.fields.clone());
    }
    value
}

/// What stands before its name in a list: type, bytes, time.
pub(crate) fn columns(member: &Member) -> String {
    let time = member.time.map_or_else(|| "-".into(), show_time);
    let size = member.size.map_or_else(|| "-".into(), |size| size.to_string());
    format!("{:<6} {size:>12} {time:<25}", member.kind)
}

pub(crate) fn timestamp(time: Time) -> jiff::Timestamp {
    jiff::Timestamp::new(time.seconds, time.nanoseconds.try_into().unwrap_or_default()).unwrap_or_default()
}

/// An entry as restic shows it.
pub(crate) fn node(listed: &Listed) -> Value {
    let entry = &listed.entry;
    let value = json!({
        "message_type": "node",
        "struct_type": "node",
        "type": entry.kind.name(),
        "uid": entry.uid,
        "gid": entry.gid,
        "size": listed.size,
        "mode": go_mode(entry),
        "permissions": permissions(entry),
        // restic's is the time of the last change, too, unless it was told to store that of access.
        "atime": json_time(timestamp(entry.mtime)),
        "mtime": json_time(timestamp(entry.mtime)),
        "ctime": json_time(timestamp(entry.ctime)),
        "inode": entry.inode,
        "device_id": entry.device,
        "links": entry.links,
    });
    let names = [
        ("name", entry.name()),
        ("path", &rooted(&entry.path)),
        ("user", &entry.user),
        ("group", &entry.group),
    ];
    output::with_names(value, &names)
}

pub(crate) fn long(listed: &Listed, human_readable: bool) -> String {
    let entry = &listed.entry;
    let target = match entry.kind {
        Kind::Symlink => format!(" -> {}", shown::name(&entry.target)),
        _ => String::new(),
    };
    format!(
        "{} {:>5} {:>5} {:>12} {} {}{target}",
        permissions(entry),
        entry.uid,
        entry.gid,
        if human_readable { output::bytes(listed.size) } else { listed.size.to_string() },
        show_time(timestamp(entry.mtime)),
        entry.display_path(),
    )
}

/// Bits of restic's modes, which are those of Go's `os.FileMode`: kinds, then setuid, setgid and sticky.
const SPECIAL: [(u32, u32, char); 3] =
    [(0o4000, 1 << 23, 'u'), (0o2000, 1 << 22, 'g'), (0o1000, 1 << 20, 't')];

/// What restic has above the permission bits for a kind, as number and letters.
fn go_kind(kind: Kind) -> (u32, &'static str) {
    match kind {
        Kind::File => (0, ""),
        Kind::Dir => (1 << 31, "d"),
        Kind::Symlink => (1 << 27, "L"),
        Kind::Fifo => (1 << 25, "p"),
        Kind::CharDevice => (1 << 26 | 1 << 21, "Dc"),
        Kind::BlockDevice => (1 << 26, "D"),
        Kind::Socket => (1 << 24, "S"),
    }
}

/// The mode as restic's JSON has it.
fn go_mode(entry: &Entry) -> u32 {
    let special = SPECIAL.iter().filter(|(bit, _, _)| entry.mode & bit != 0);
    special.fold(go_kind(entry.kind).0 | entry.mode & 0o777, |mode, (_, go, _)| mode | go)
}

/// `-rw-r--r--`, `dtrwxrwxrwx` and so on, as restic writes it.
fn permissions(entry: &Entry) -> String {
    let mut text = String::from(go_kind(entry.kind).1);
    // In Go's order of bits, from the highest down: the letters of devices stand around those.
    let special = SPECIAL.iter().filter(|(bit, _, _)| entry.mode & bit != 0).map(|(_, _, letter)| letter);
    match text.strip_suffix('c') {
        Some(_) => {
            text.pop();
            text.extend(special.clone().filter(|letter| **letter != 't'));
            text.push('c');
            text.extend(special.filter(|letter| **letter == 't'));
        }
        None => text.extend(special),
    }
    if text.is_empty() {
        text.push('-');
    }
    for shift in [6, 3, 0] {
        let mode = entry.mode >> shift;
        for (bit, letter) in [(4, 'r'), (2, 'w'), (1, 'x')] {
            text.push(if mode & bit != 0 { letter } else { '-' });
        }
    }
    text
}
