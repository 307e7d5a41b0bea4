//! `esker cat`

use super::{FilterArgs, to_json};
use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use chunkstore::format::names;
use chunkstore::reader::{Fetched, ReadAhead};
use chunkstore::{ChunkId, ObjectId};
use serde_json::json;

/// Print internal records as JSON
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// The configuration
    Config,
    /// HEAD
    Head,
    /// A snapshot's record
    Snapshot {
        /// Id, latest, latest~N
        snapshot: String,
    },
    /// An index segment
    Index {
        /// Its id
        id: String,
    },
    /// A chunk's location
    Chunk {
        /// Its id
        id: String,
    },
    /// Write a chunk's content to standard output
    Blob {
        /// Its id
        id: String,
    },
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let repo = context.open_to_read()?.repo;
    let store = repo.store();
    let value = match &args.what {
        What::Config => to_json(store.config())?,
        What::Head => to_json(&*store.head())?,
        What::Snapshot { snapshot } => to_json(
            &repo.find(snapshot, &FilterArgs::default().filter(), context.console.monitor())?.snapshot,
        )?,
        What::Index { id } => {
            let head = store.head();
            let reference = head.segments.iter()?.find(|segment| ObjectId::parse(id) == Some(segment.id));
            let reference = reference.ok_or_else(|| Failure::new(format!("HEAD lists no segment {id}")))?;
            let segment = store.load_segment(reference)?;
            let packs: Vec<_> = segment
                .packs
                .iter()
                .map(|pack| {
                    let chunks: Vec<_> = pack
                        .records
                        .iter()
                        .map(|record| json!({"id": record.id, "offset": record.offset, "stored_len": record.stored_len, "plain_len": record.plain_len, "codec": record.codec as u8, "depth": record.depth, "generation": record.generation, "bases": record.bases}))
                        .collect();
                    json!({"pack": pack.name.object(), "kind": pack.name.kind as u8, "epoch": pack.name.epoch, "len": pack.len, "chunks": chunks})
                })
                .collect();
            json!({"segment": names::segment(&reference.id), "packs": packs})
        }
        What::Chunk { id } => {
            let location = locate(&repo, id, context)?;
            json!({"id": location.record.id, "pack": location.pack.name.object(), "offset": location.record.offset,
                "stored_len": location.record.stored_len, "plain_len": location.record.plain_len,
                "codec": location.record.codec as u8, "depth": location.record.depth,
                "generation": location.record.generation, "bases": location.record.bases,
                "segment": location.pack.segment})
        }
        What::Blob { id } => {
            let location = locate(&repo, id, context)?;
            let mut ahead = ReadAhead::new(store);
            ahead.request(
                chunkstore::ingest::ChunkRef { id: location.record.id, len: location.record.plain_len },
                (),
            )?;
            while let Some(batch) = ahead.take()? {
                for fetched in batch {
                    if let Fetched::Chunk(bytes, ()) = fetched {
                        crate::stdout::write(&bytes?);
                    }
                }
            }
            return Ok(Code::Done);
        }
    };
    match context.global.json {
        true => output::json_line(&value),
        false => output::json_block(&value),
    }
    Ok(Code::Done)
}

fn locate(
    repo: &engine::Repository,
    id: &str,
    context: &Context,
) -> Result<chunkstore::index::Location, Failure> {
    repo.sync_index(context.console.monitor())?;
    let id = ChunkId::parse(id).ok_or_else(|| Failure::usage("a chunk id has 64 hex digits"))?;
    let found = repo.store().index().lookup(&[id])?.pop().flatten();
    Ok(found.ok_or(chunkstore::Error::MissingChunk { id })?)
}
