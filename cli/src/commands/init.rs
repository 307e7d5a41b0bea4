//! `esker init`

use super::parse_size;
use crate::context::{Context, owner};
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use chunkstore::chunker::ChunkerParams;
use chunkstore::env::SystemEnv;
use chunkstore::keys::KdfParams;
use chunkstore::storage::Storage;
use chunkstore::storage::probe::compares_and_swaps;
use engine::Repository;

/// Create a repository
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Average size of chunks, a power of two from 1k to 512k; cannot be changed later
    #[arg(long, value_parser = parse_size, default_value = "512k", value_name = "SIZE")]
    chunk_size: u64,
    /// Use a store that does not compare and swap: then see to it that one process at a time writes
    #[arg(long)]
    single_writer: bool,
}

/// Races writers against each other: a store on which two of them can win is refused, or used knowingly.
fn probe(storage: &dyn Storage, single_writer: bool, context: &Context) -> Result<(), Failure> {
    let Err(why) = compares_and_swaps(storage, &SystemEnv)? else { return Ok(()) };
    if single_writer {
        context
            .console
            .say(format!("this store cannot tell writers apart ({why}): never let two write at once"));
        return Ok(());
    }
    Err(Failure::new(format!(
        "this store does not compare and swap: {why}. Two writers at once would lose each other's snapshots. Use \
         another store, or --single-writer if there will never be two"
    )))
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let average = u32::try_from(args.chunk_size).unwrap_or(u32::MAX);
    if !average.is_power_of_two() || !(1 << 10..=512 << 10).contains(&average) {
        return Err(Failure::new("--chunk-size must be a power of two from 1k to 512k"));
    }
    let params = ChunkerParams::around(average);
    let repo = context.open_with(
        |access, password| {
            if access.storage.read_head().map_err(chunkstore::Error::from)?.is_none() {
                probe(&*access.storage, args.single_writer, context)?;
            }
            let password = password.as_bytes();
            Ok(Repository::init(
                access,
                params,
                password,
                KdfParams::default(),
                owner(""),
                args.single_writer,
            )?)
        },
        true,
    )?;
    let id = repo.store().config().repository_id;
    let place = repo.store().storage().place();
    if context.global.json {
        output::json_line(&serde_json::json!({"message_type": "initialized", "id": id, "repository": place}));
    } else {
        context.console.say(format!("created esker repository {} at {place}", id.short()));
        context.console.say("Without the password nothing in it can be read again: keep it elsewhere, too.");
    }
    Ok(Code::Done)
}
