//! `esker init`

use super::parse_size;
use crate::context::{Context, owner};
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use chunkstore::chunker::ChunkerParams;
use chunkstore::config::{HeadMethod, Layout};
use chunkstore::env::SystemEnv;
use chunkstore::format::names;
use chunkstore::keys::KdfParams;
use chunkstore::storage::probe::{compares_and_swaps, creates_once};
use chunkstore::storage::{ErrorKind, Storage};
use engine::Repository;

/// Create a repository
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Average size of chunks, a power of two from 1k to 512k; cannot be changed later
    #[arg(long, value_parser = parse_size, default_value = "512k", value_name = "SIZE")]
    chunk_size: u64,
    /// How writers are told apart: by swapping HEAD, by a chain of HEADs on stores that cannot swap, or
    /// whichever the store can do
    #[arg(long, value_enum, default_value = "auto", value_name = "METHOD", conflicts_with = "single_writer")]
    head: HeadChoice,
    /// Use a store that can do neither: then see to it that one process at a time writes
    #[arg(long)]
    single_writer: bool,
    /// Keep parity beside each pack, from which 'check --heal' mends damage: 3 % more. By default on local disk
    #[arg(long, value_enum, default_value = "auto", value_name = "WHEN")]
    parity: Parity,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
enum HeadChoice {
    Auto,
    Swap,
    Chain,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq)]
enum Parity {
    Auto,
    On,
    Off,
}

/// Races writers against each other: a store on which two of them can win is refused, or used knowingly.
fn probe(storage: &dyn Storage, args: &Args, context: &Context) -> Result<HeadMethod, Failure> {
    let mut why = String::new();
    if args.head != HeadChoice::Chain {
        match compares_and_swaps(storage, &SystemEnv)? {
            Ok(()) => return Ok(HeadMethod::Swap),
            Err(wrong) => why = format!("does not compare and swap: {wrong}"),
        }
    }
    if args.single_writer {
        context
            .console
            .say(format!("this store cannot tell writers apart ({why}): never let two write at once"));
        return Ok(HeadMethod::SingleWriter);
    }
    if args.head != HeadChoice::Swap {
        match creates_once(storage, &SystemEnv)? {
            Ok(()) => {
                if !why.is_empty() {
                    context.console.say(format!("this store {why}; HEAD is kept as a chain of objects"));
                }
                return Ok(HeadMethod::Chain);
            }
            Err(wrong) if why.is_empty() => why = format!("cannot hold a chain: {wrong}"),
            Err(wrong) => why = format!("{why}; nor can it hold a chain: {wrong}"),
        }
    }
    Err(Failure::new(format!(
        "this store {why}. Two writers at once would lose each other's snapshots. Use another store, or \
         --single-writer if there will never be two"
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
            let storage = &*access.storage;
            let fresh = storage.len(names::CONFIG).is_err_and(|error| error.kind == ErrorKind::NotFound);
            let head = if fresh { probe(storage, args, context)? } else { HeadMethod::default() };
            let parity = match args.parity {
                Parity::Auto => storage.is_near(),
                Parity::On => true,
                Parity::Off => false,
            };
            let password = password.as_bytes();
            Ok(Repository::init(
                access,
                params,
                password,
                KdfParams::default(),
                owner(""),
                Layout { head, parity },
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
