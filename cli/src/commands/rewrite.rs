//! `esker rewrite`

use super::{FilterArgs, lists, parse_time};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use crate::units::counted;
use chunkstore::ingest::PackerOptions;
use engine::patterns::{Pattern, Patterns};
use engine::rewrite::{RewriteOptions, rewrite};
use serde_json::json;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

/// Write snapshots again without some of their files, or with another host or time
///
/// The new ones get the tag 'rewrite'; the old ones stay, unless --forget is given. Nothing is read or stored again but the
/// lists of entries. What is left out goes with the old snapshots and the next 'esker prune'.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Snapshots to rewrite [default: all that match the filter]
    snapshots: Vec<String>,
    /// Leave out paths that match
    #[arg(short, long, value_name = "PATTERN")]
    exclude: Vec<OsString>,
    /// Leave out paths that match, ignoring case
    #[arg(long, value_name = "PATTERN")]
    iexclude: Vec<OsString>,
    /// Read patterns for --exclude from a file
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Read patterns for --iexclude from a file
    #[arg(long, value_name = "FILE")]
    iexclude_file: Vec<PathBuf>,
    /// Keep only paths that match, and the folders above them
    #[arg(short, long, value_name = "PATTERN")]
    include: Vec<OsString>,
    /// Keep only paths that match, ignoring case
    #[arg(long, value_name = "PATTERN")]
    iinclude: Vec<OsString>,
    /// Read patterns for --include from a file
    #[arg(long, value_name = "FILE")]
    include_file: Vec<PathBuf>,
    /// Read patterns for --iinclude from a file
    #[arg(long, value_name = "FILE")]
    iinclude_file: Vec<PathBuf>,
    /// Another host
    #[arg(long, value_name = "HOST", value_parser = crate::words::filled())]
    new_host: Option<String>,
    /// Another time
    #[arg(long, value_parser = parse_time, value_name = "TIME")]
    new_time: Option<jiff::Timestamp>,
    /// Remove the old snapshots after the new ones are written; then no tag is added
    #[arg(long)]
    forget: bool,
    /// Nothing to do: every snapshot has its summary
    #[arg(short, long)]
    snapshot_summary: bool,
    /// Only print what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

/// A flag's patterns and those of its files; with `ignore_case` for those that begin with an `i`.
fn patterns(name: &str, flags: [(&[OsString], &[PathBuf], bool); 2]) -> Result<Patterns, Failure> {
    let mut list = vec![];
    for (words, files, ignore_case) in flags {
        let place = format!("--{}{name}", if ignore_case { "i" } else { "" });
        for word in words {
            list.push(Pattern::parse(word.as_bytes(), &place, ignore_case)?);
        }
        for file in files {
            let variable = |name: &str| std::env::var_os(name).map(OsString::into_vec);
            let shown = file.display().to_string();
            list.extend(Pattern::parse_file(&lists::read(file)?, &shown, ignore_case, &variable)?);
        }
    }
    Ok(Patterns::new(list))
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let excludes = patterns(
        "exclude",
        [(&args.exclude, &args.exclude_file, false), (&args.iexclude, &args.iexclude_file, true)],
    )?;
    let includes = patterns(
        "include",
        [(&args.include, &args.include_file, false), (&args.iinclude, &args.iinclude_file, true)],
    )?;
    if !excludes.is_empty() && !includes.is_empty() {
        return Err(Failure::usage("give either patterns to include or patterns to exclude"));
    }
    if excludes.is_empty() && includes.is_empty() && args.new_host.is_none() && args.new_time.is_none() {
        if args.snapshot_summary {
            context.console.result(
                "nothing to do: every snapshot has its summary",
                json!({"changed_snapshots": 0, "dry_run": args.dry_run}),
            );
            return Ok(Code::Done);
        }
        return Err(Failure::usage("what is to change? Give --exclude, --include, --new-host or --new-time"));
    }
    let options = RewriteOptions {
        excludes,
        includes: (!includes.is_empty()).then_some(includes),
        hostname: args.new_host.clone(),
        time: args.new_time,
        tag: (!args.forget).then(|| "rewrite".to_owned()),
        forget: args.forget,
        dry_run: args.dry_run,
        packer: PackerOptions {
            pack_len: context.global.pack_size.saturating_mul(1 << 20),
            ..PackerOptions::default()
        },
    };
    let repo = context.open()?;
    let monitor = context.console.monitor();
    let all = args.filter.choose(&repo, &args.snapshots, monitor)?;
    if all.is_empty() {
        return Err(Failure::new("there is no snapshot"));
    }
    let mut changed = 0u64;
    for listed in &all {
        let done = context.console.during("rewrite", |monitor| rewrite(&repo, listed, &options, monitor))?;
        changed += u64::from(done.changed);
        let short = listed.id.short();
        if context.global.json {
            let mut value = super::to_json(&done)?;
            if let Some(object) = value.as_object_mut() {
                object.insert("message_type".into(), json!("rewritten"));
            }
            output::json_line(&value);
        } else {
            context.console.say(match (done.rewritten, done.changed) {
                (Some(new), _) => {
                    format!(
                        "snapshot {short} is {} now, without {}",
                        new.short(),
                        counted(done.removed, "entry")
                    )
                }
                (None, true) => format!("snapshot {short} would lose {}", counted(done.removed, "entry")),
                (None, false) => format!("snapshot {short} has nothing of that"),
            });
        }
    }
    for pattern in
        options.excludes.unused().into_iter().chain(options.includes.iter().flat_map(|list| list.unused()))
    {
        context.console.warn(&format!("'{}' fitted nothing", pattern.text()));
    }
    let verb = if args.dry_run { "would change" } else { "changed" };
    context.console.result(
        format!("{verb} {}", counted(changed, "snapshot")),
        json!({"changed_snapshots": changed, "dry_run": args.dry_run}),
    );
    Ok(Code::Done)
}
