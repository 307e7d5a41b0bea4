//! `esker init`

use super::parse_size;
use crate::context::{Context, owner};
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use chunkstore::chunker::ChunkerParams;
use chunkstore::keys::KdfParams;
use engine::Repository;

/// Create a repository
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Average size of chunks, a power of two from 1k to 512k; cannot be changed later
    #[arg(long, value_parser = parse_size, default_value = "512k", value_name = "SIZE")]
    chunk_size: u64,
}

pub(crate) fn run(args: &Args, context: &Context) -> CommandResult {
    let average = u32::try_from(args.chunk_size).unwrap_or(u32::MAX);
    if !average.is_power_of_two() || !(1 << 10..=512 << 10).contains(&average) {
        return Err(Failure::new("--chunk-size must be a power of two from 1k to 512k"));
    }
    let params = ChunkerParams::around(average);
    let repo = context.open_with(
        |access, password| {
            Ok(Repository::init(access, params, password.as_bytes(), KdfParams::default(), owner(""))?)
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
