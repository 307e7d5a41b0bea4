//! `esker key`

use crate::config::{ask, read_file};
use crate::context::{Context, owner};
use crate::exit::{Code, CommandResult, Failure};
use crate::output;
use chunkstore::format::{MAX_SMALL_LEN, names};
use chunkstore::keys::{KdfParams, open_slot, slot_header};
use chunkstore::{ObjectId, store::ChunkStore};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Add, remove and change passwords
///
/// Each password has a slot that wraps the repository's keys; data is never touched.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List key slots
    List,
    /// Add a password
    Add(NewPassword),
    /// Remove a key slot by its id; the last one stays
    Remove {
        /// Id or its first digits
        id: String,
    },
    /// Replace the password that was used to open the repository
    Passwd(NewPassword),
}

#[derive(clap::Args, Debug)]
struct NewPassword {
    /// Read the new password from a file
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    /// What to call the slot
    #[arg(long, default_value = "", value_name = "TEXT")]
    label: String,
}

impl NewPassword {
    fn get(&self) -> Result<String, Failure> {
        match &self.new_password_file {
            Some(file) => match read_file(file)?.lines().next() {
                Some(password) if !password.is_empty() => Ok(password.to_owned()),
                _ => Err(Failure::new("the new password is empty")),
            },
            None => ask("new password: ", true),
        }
    }
}

pub(crate) fn run(args: Args, context: &Context) -> CommandResult {
    let password = context.password(false)?;
    let repo =
        context.open_with(|access, _| Ok(engine::Repository::open(access, password.as_bytes())?), false)?;
    let store = repo.store();
    match args.action {
        Action::List => list(store, &password, context),
        Action::Add(new) => {
            let slot = store.add_slot(new.get()?.as_bytes(), KdfParams::default(), owner(&new.label))?;
            context.console.say(format!("added key slot {}", slot.short()));
            Ok(Code::Done)
        }
        Action::Remove { id } => {
            let slot = find(store, &id)?;
            if is_ours(store, &slot, &password)? && store.head().slots.len() > 1 {
                context.console.say("this is the slot of the password in use; the others remain");
            }
            store.remove_slot(&slot)?;
            context.console.say(format!("removed key slot {}", slot.short()));
            context.console.say("Whoever had this password may still hold a copy of the repository's keys.");
            Ok(Code::Done)
        }
        Action::Passwd(new) => {
            let mut ours = vec![];
            for slot in store.head().slots.keys() {
                if is_ours(store, slot, &password)? {
                    ours.push(*slot);
                }
            }
            let slot = store.add_slot(new.get()?.as_bytes(), KdfParams::default(), owner(&new.label))?;
            for old in ours {
                store.remove_slot(&old)?;
            }
            context.console.say(format!("the new password is in key slot {}", slot.short()));
            Ok(Code::Done)
        }
    }
}

fn is_ours(store: &ChunkStore, slot: &ObjectId, password: &str) -> Result<bool, Failure> {
    let bytes = store.storage().get(&names::key(slot), MAX_SMALL_LEN)?;
    Ok(open_slot(slot, &bytes, password.as_bytes())?.is_some())
}

fn find(store: &ChunkStore, wanted: &str) -> Result<ObjectId, Failure> {
    let head = store.head();
    let mut fitting = head.slots.keys().filter(|id| id.to_string().starts_with(wanted));
    match (fitting.next(), fitting.next()) {
        (Some(id), None) if !wanted.is_empty() => Ok(*id),
        (Some(_), _) => Err(Failure::new(format!("'{wanted}' names several key slots; give more digits"))),
        (None, _) => Err(Failure::new(format!("no key slot '{wanted}'; see 'esker key list'"))),
    }
}

fn list(store: &ChunkStore, password: &str, context: &Context) -> CommandResult {
    let mut rows = vec![];
    for slot in store.head().slots.keys() {
        let bytes = store.storage().get(&names::key(slot), MAX_SMALL_LEN)?;
        let header = slot_header(slot, &bytes)?;
        let created =
            i64::try_from(header.created_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        rows.push(json!({
            "id": slot,
            "current": is_ours(store, slot, password)?,
            "userName": header.username,
            "hostName": header.hostname,
            "created": super::json_time(created.unwrap_or_default()),
            "label": header.label,
        }));
    }
    if context.global.json {
        output::json_line(&Value::Array(rows));
    } else {
        for row in rows {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            let mark = if row["current"] == true { "*" } else { " " };
            let id: String = text("id").chars().take(8).collect();
            output::line(format!(
                "{mark} {id}  {}@{}  {}  {}",
                text("userName"),
                text("hostName"),
                text("created"),
                text("label")
            ));
        }
    }
    Ok(Code::Done)
}
