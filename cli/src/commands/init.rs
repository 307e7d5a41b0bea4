//! `esker init`

use super::parse_size;
use crate::context::{Context, owner};
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use crate::places::{Make, Place};
use crate::secret_files::SecretFile;
use crate::secrets::Secret;
use chunkstore::chunker::ChunkerParams;
use chunkstore::config::{HeadMethod, Layout};
use chunkstore::env::SystemEnv;
use chunkstore::keys::{KdfParams, RawKey};
use chunkstore::storage::Storage;
use chunkstore::storage::probe::{compares_and_swaps, creates_once};
use chunkstore::store::{Found, look};
use engine::Repository;
use std::path::PathBuf;
use std::sync::Arc;

/// Create a repository
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Average size of chunks, a power of two from 1k to 512k; cannot be changed later
    #[arg(long, value_parser = parse_size, default_value = "512k", value_name = "SIZE")]
    chunk_size: u64,
    /// Nothing to do: there is one format of repositories, and each program writes its own
    #[arg(long, value_name = "VERSION")]
    repository_version: Option<String>,
    /// How writers are told apart: by swapping HEAD, by a chain of HEADs on stores that cannot swap, or
    /// whichever the store can do
    #[arg(long, value_enum, default_value = "auto", value_name = "METHOD", conflicts_with = "single_writer")]
    head: HeadChoice,
    /// Use a store that can do neither: then see to it that one process at a time writes
    #[arg(long)]
    single_writer: bool,
    /// Let the group of the folder read and write the repository, and everything that is made in it later
    #[arg(long)]
    shared: bool,
    /// Make a key instead of a password, and write it into a new file, which --key-file reads
    #[arg(long, value_name = "FILE", conflicts_with_all = ["password_file", "password_command", "insecure_no_password", "key_file", "shares", "recovery", "kms"])]
    new_key_file: Option<PathBuf>,
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
        return Err(Failure::usage("--chunk-size must be a power of two from 1k to 512k"));
    }
    let params = ChunkerParams::around(average);
    if args.shared && !matches!(context.place()?, (Place::Folder(_), _)) {
        return Err(Failure::usage("--shared is for a folder: who may use a store, the store decides"));
    }
    refuse_copies(context)?;
    let key = args.new_key_file.as_ref().map(|_| RawKey::generate(&SystemEnv)).transpose()?;
    if let Some(key) = &key {
        context.made_secret(Secret::Key(key.clone()));
    }
    let repo = context.open_with(
        |access, secret| {
            let storage = &*access.storage;
            let fresh = look(storage)? == Found::Nothing;
            let head = if fresh { probe(storage, args, context)? } else { HeadMethod::default() };
            let parity = match args.parity {
                Parity::Auto => storage.is_near(),
                Parity::On => true,
                Parity::Off => false,
            };
            // On disk before anything is made that it opens.
            let paths = args.new_key_file.iter().zip(&key);
            let file = paths.map(|(path, key)| SecretFile::of_key(path, key)).next().transpose()?;
            let storage = Arc::clone(&access.storage);
            let layout = Layout { head, parity };
            let made = Repository::init(access, params, &secret, KdfParams::default(), owner(""), layout);
            match (made, file) {
                (Ok(repo), file) => {
                    file.into_iter().for_each(SecretFile::keep);
                    Ok(repo)
                }
                (Err(error), Some(file)) if fresh && !matches!(look(&*storage), Ok(Found::Nothing)) => {
                    file.keep();
                    let failure = Failure::from(error);
                    let message =
                        format!("{}; 'esker init --key-file' goes on with the key", failure.message);
                    Err(Failure { message, ..failure })
                }
                (Err(error), _) => Err(error.into()),
            }
        },
        if args.shared { Make::Shared } else { Make::Private },
    )?;
    let id = repo.store().config().repository_id;
    context.made_anew(&id);
    let place = repo.store().storage().place();
    if context.global.json {
        output::json_line(&serde_json::json!({"message_type": "initialized", "id": id, "repository": place}));
    } else {
        context.console.say(format!("created esker repository {} at {place}", id.short()));
        let what = match context.secret(false)? {
            Secret::Password(_) => "password",
            Secret::Key(_) | Secret::Shares(_) => "key",
            Secret::Kms(_) => "",
        };
        match super::key::services::alone(repo.store()) {
            Some(advice) => context.console.say(advice),
            None => context
                .console
                .say(format!("Without the {what} nothing in it can be read again: keep it elsewhere, too.")),
        }
    }
    make_tiers(&repo, context)
}

/// Refuses to make a new primary while a tier of esker.toml holds a repository: the primary was lost, and is not new.
fn refuse_copies(context: &Context) -> Result<(), Failure> {
    let Some(file) = context.file.as_ref().filter(|_| context.uses_file()) else { return Ok(()) };
    for tier in file.copies() {
        let Ok(storage) = tier.place.open(Make::No, tier.rates) else { continue };
        if !matches!(look(&*storage), Ok(Found::Nothing | Found::Unfinished) | Err(_)) {
            let name = &tier.options.name;
            // One that is not ours is no copy of the primary that could be adopted.
            context.refuse_another(tier, &*storage)?;
            return Err(Failure::new(format!(
                "{} holds a repository: if the primary is lost, 'esker tier adopt {name}' makes that one the primary; a \
                 new repository needs places of its own",
                storage.place()
            )));
        }
    }
    Ok(())
}

/// Makes the tiers of esker.toml. One that cannot be made now is made by `esker tier init` later.
fn make_tiers(repo: &Repository, context: &Context) -> CommandResult {
    let Some(file) = context.file.as_ref().filter(|_| context.uses_file()) else { return Ok(Code::Done) };
    let mut code = Code::Done;
    for tier in file.copies() {
        let name = &tier.options.name;
        match context.make_tier(repo, tier, false) {
            Ok(made) if context.global.json => {
                let place = made.repo.store().storage().place();
                let value =
                    serde_json::json!({"message_type": "initialized", "tier": name, "repository": place});
                output::json_line(&value);
            }
            Ok(made) => {
                let place = made.repo.store().storage().place();
                context.console.say(format!("made tier '{name}' at {place}"));
            }
            Err(failure) => {
                let why = failure.message;
                context
                    .console
                    .warn(&format!("tier '{name}' was not made, 'esker tier init {name}' will: {why}"));
                code = Code::Incomplete;
            }
        }
    }
    Ok(code)
}
