//! `esker find`

use super::ls::{long, node, timestamp};
use super::{FilterArgs, parse_time, show_time};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use engine::connector::contents::Member;
use engine::connector::{Contents, Origin};
use engine::entry::{display_path, rooted};
use engine::inside::Inside;
use engine::manifest::for_each_entry;
use engine::names::{path_bytes, path_text};
use engine::patterns::Patterns;
use engine::snapshot::{Listed, split_path};
use engine::{ItemError, Repository};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

/// Find files in snapshots by name, and what lies in dumps: keys, tables, collections
///
/// The path of what lies in a dump is the one that dump takes: SYSTEM/SERVER/DATABASE/NAME.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Patterns such as '*.sql' or 'etc/passwd'
    #[arg(required = true)]
    patterns: Vec<OsString>,
    /// Ignore case
    #[arg(short, long)]
    ignore_case: bool,
    /// Only in these snapshots, or in a folder of them: SNAPSHOT:folder
    #[arg(short, long, value_name = "SNAPSHOT", value_parser = crate::words::path())]
    snapshot: Vec<String>,
    /// Show mode, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// Sizes for people
    #[arg(long)]
    human_readable: bool,
    /// Only files last changed at this time or later
    #[arg(short = 'O', long, value_parser = parse_date, value_name = "TIME")]
    oldest: Option<jiff::Timestamp>,
    /// Only files last changed at this time or earlier
    #[arg(short = 'N', long, value_parser = parse_date, value_name = "TIME")]
    newest: Option<jiff::Timestamp>,
    /// Newest snapshots first
    #[arg(short = 'R', long)]
    reverse: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

/// A time, or a day: its beginning.
fn parse_date(text: &str) -> Result<jiff::Timestamp, String> {
    parse_time(text).or_else(|_| parse_time(&format!("{text} 00:00:00")))
}

fn patterns(args: &Args) -> Result<Patterns, Failure> {
    let bytes: Vec<&[u8]> = args.patterns.iter().map(|pattern| pattern.as_bytes()).collect();
    Ok(Patterns::parse(&bytes, "find", args.ignore_case)?)
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let repo = context.open_to_read()?.repo;
    let monitor = context.console.monitor();
    let (wanted, folders): (Vec<String>, Vec<&str>) = args
        .snapshot
        .iter()
        .map(|text| split_path(text))
        .map(|(wanted, folder)| (wanted.to_owned(), folder))
        .unzip();
    let all = args.filter.choose(&repo, &wanted, monitor)?;
    repo.sync_index(monitor)?;
    let mut chosen = vec![];
    // None of them stands for whole snapshots.
    let folders = folders.into_iter().map(Some).chain(std::iter::repeat(None));
    for (listed, folder) in all.into_iter().zip(folders) {
        let inside = match folder {
            Some(folder) => Inside::new(folder).resolve(&repo, &listed.snapshot)?,
            None => Inside::default(),
        };
        chosen.push((listed, inside));
    }
    let patterns = patterns(args)?;
    let mut result = vec![];
    if args.reverse {
        chosen.reverse();
    }
    for (listed, inside) in &chosen {
        let (mut matches, mut is_there) = (vec![], inside.is_all());
        let mut dumps = BTreeMap::new();
        for_each_entry(
            repo.store(),
            &listed.snapshot.manifest,
            &mut |damage| {
                monitor.error(ItemError {
                    during: "find",
                    item: format!("snapshot {}: entries after {}", listed.id.short(), damage.after),
                    message: chunkstore::store::describe(&damage.error),
                });
            },
            &mut |mut found| {
                let Some(relative) = inside.relative(&found.entry.path) else { return Ok(()) };
                is_there = true;
                let changed = timestamp(found.entry.mtime);
                let in_time = args.oldest.is_none_or(|oldest| changed >= oldest)
                    && args.newest.is_none_or(|newest| changed <= newest);
                let is_folder = found.entry.kind == engine::entry::Kind::Dir;
                let is_top = is_folder && found.entry.path == inside.path();
                let below = path_text(&found.entry.path);
                if in_time
                    && let Some((contents, dump)) =
                        super::dump_of(Origin { repo: &repo, snapshot: listed, below: &below })
                {
                    dumps.insert(dump, contents);
                }
                if in_time && !is_top && patterns.fits(relative, is_folder) {
                    found.entry.path = relative.to_vec();
                    matches.push(found);
                }
                Ok(())
            },
        )?;
        if !is_there {
            let path = engine::entry::display_path(inside.path());
            return Err(Failure::in_snapshot(engine::Error::NoEntry { path }, listed));
        }
        let members = members(&repo, listed, dumps, &patterns, context)?;
        let hits = matches.len() + members.len();
        if hits == 0 {
            continue;
        }
        if context.global.json {
            let nodes =
                matches.iter().map(node).chain(members.iter().map(|(noun, member)| shown(noun, member)));
            let nodes: Vec<Value> = nodes.collect();
            result.push(json!({"matches": nodes, "hits": hits, "snapshot": listed.id}));
        } else {
            output::line(format!("snapshot {} of {}", listed.id.short(), show_time(listed.snapshot.time)));
            for found in &matches {
                match args.long {
                    true => output::line(long(found, args.human_readable)),
                    false => output::line(found.entry.display_path()),
                }
            }
            for (_, member) in &members {
                let path = display_path(&member.path);
                match args.long {
                    true => output::line(format!("{} {path}", super::ls::columns(member))),
                    false => output::line(path),
                }
            }
        }
    }
    if context.global.json {
        output::json_line(&Value::Array(result));
    }
    Ok(if context.console.error_count() > 0 { Code::Failed } else { Code::Done })
}

/// What lies in dumps and fits.
fn members(
    repo: &Repository,
    snapshot: &Listed,
    dumps: BTreeMap<String, &'static dyn Contents>,
    patterns: &Patterns,
    context: &Context,
) -> Result<Vec<(&'static str, Member)>, Failure> {
    let (mut found, monitor) = (vec![], context.console.monitor());
    for (dump, contents) in dumps {
        let from = Origin { repo, snapshot, below: &dump };
        let listed = contents.list(from, &[], &mut |member| {
            if patterns.fits(&member.path, false) {
                found.push((contents.noun(), member));
            }
            match monitor.interrupted() {
                true => Err(engine::Error::Interrupted),
                false => Ok(()),
            }
        });
        match listed {
            Err(error @ engine::Error::Interrupted) => return Err(error.into()),
            Err(error) => monitor.error(ItemError {
                during: "find",
                item: format!("snapshot {}: {}", snapshot.id.short(), display_path(&path_bytes(&dump))),
                message: error.to_string(),
            }),
            Ok(()) => {}
        }
    }
    Ok(found)
}

fn shown(noun: &str, member: &Member) -> Value {
    let value = super::ls::member(noun, member);
    output::with_names(value, &[("path", &rooted(&member.path))])
}
