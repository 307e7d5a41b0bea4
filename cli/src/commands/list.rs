//! `esker list`

use crate::context::Context;
use crate::exit::{Code, CommandResult};
use crate::output;
use chunkstore::format::PackKind;
use std::collections::BTreeSet;

/// List the names of what is in the repository, one a line
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// What to list
    #[arg(value_enum)]
    what: What,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum What {
    /// Chunks: 'data', or 'tree' for lists of entries, and their ids
    Blobs,
    /// Object names of packs
    Packs,
    /// Index segments
    Index,
    /// Snapshots
    Snapshots,
    /// Key slots
    Keys,
    /// None: esker uses no locks
    Locks,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let repo = context.open_to_read()?.repo;
    let store = repo.store();
    let head = store.head();
    let mut lines: Vec<String> = match args.what {
        What::Locks => vec![],
        What::Keys => head.slots.keys().map(ToString::to_string).collect(),
        What::Snapshots => repo.snapshot_roots()?.iter().map(|root| root.id.to_string()).collect(),
        What::Index => head.segments.iter()?.map(|segment| segment.id.to_string()).collect(),
        What::Blobs | What::Packs => {
            let mut found = BTreeSet::new();
            for reference in head.segments.iter()? {
                let Some(segment) = store.load_live_segment(reference)? else { continue };
                for pack in segment.packs {
                    if matches!(args.what, What::Packs) {
                        found.insert(pack.name.object());
                        continue;
                    }
                    let kind = if pack.name.kind == PackKind::Metadata { "tree" } else { "data" };
                    found.extend(pack.records.iter().map(|record| format!("{kind} {}", record.id)));
                }
            }
            found.into_iter().collect()
        }
    };
    lines.sort();
    match context.global.json {
        // A string a line, as clients of restic read them: none where nothing is found.
        true => lines.into_iter().for_each(|line| output::json_line(&line.into())),
        false => lines.iter().for_each(output::line),
    }
    Ok(Code::Done)
}
