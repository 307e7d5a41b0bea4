//! `esker key`

use crate::context::{Context, owner};
use crate::exit::{Code, CommandResult, Failure};
use crate::output::Summary;
use crate::passwords::{Password, Use};
use chunkstore::ObjectId;
use chunkstore::format::{MAX_SMALL_LEN, names};
use chunkstore::keys::{KdfParams, SlotOwner, open_slot};
use chunkstore::store::ChunkStore;
use serde_json::json;
use std::path::PathBuf;

mod list;
mod places;
mod renew;
use places::Places;

/// Add, remove and change passwords, and rotate data keys
///
/// Each password has a key slot, which opens the repository's keys. Data is encrypted with data keys, one for each epoch:
/// 'key rotate' makes a new epoch, whose key the slots get that exist then.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// List key slots and epochs
    ///
    /// Of each epoch: when it was made, and the packs that are encrypted with its key. With --json only the key slots; 'key
    /// epochs' has the others.
    List,
    /// List epochs, and the packs that are encrypted with the key of each
    Epochs,
    /// Move what earlier epochs encrypt to the newest, here and on the tiers
    ///
    /// Backups and restores go on meanwhile. Interrupted, it goes on with the next call. Exit code 3 if something is left:
    /// beyond --max-repack-size, locked, frozen, or on a tier that cannot be reached.
    ReEncrypt(renew::ReEncrypt),
    /// Retire an epoch: what is encrypted with its key is refused from then on
    ///
    /// Only when nothing needs it any more, here or on any tier. Earlier epochs are retired with it. A copied key of a
    /// retired epoch opens what somebody copied before, and passes nothing new off.
    Retire(renew::Retire),
    #[command(flatten)]
    Change(Change),
}

/// What changes key slots, or makes an epoch.
#[derive(clap::Subcommand, Debug)]
enum Change {
    /// Add a password
    Add(NewPassword),
    /// Remove a key slot by its id; the last one stays
    Remove {
        /// Id or its first digits
        id: String,
    },
    /// Replace the password that was used to open the repository
    Passwd(NewPassword),
    /// Make a new data key, for everything that is written from now on
    ///
    /// Every key slot gets it, whatever its password. A slot that was removed before does not; it keeps what it could read.
    /// Existing packs are not encrypted again: a new snapshot may use chunks of old packs, which old keys open until
    /// 'key re-encrypt' has moved them.
    Rotate,
}

#[derive(clap::Args, Debug)]
struct NewPassword {
    /// Read the new password from the first line of a file
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    /// The new password is empty: whoever can read the repository can read the data
    #[arg(long, conflicts_with = "new_password_file")]
    new_insecure_no_password: bool,
    /// Host that the slot is said to be of, instead of this one
    #[arg(long, value_name = "HOST", value_parser = crate::words::filled())]
    host: Option<String>,
    /// User that the slot is said to be of, instead of this one
    #[arg(long, value_name = "USER", value_parser = crate::words::filled())]
    user: Option<String>,
    /// What to call the slot
    #[arg(long, default_value = "", value_name = "TEXT", value_parser = crate::words::kept())]
    label: String,
}

impl NewPassword {
    fn owner(&self) -> SlotOwner {
        let mut owner = owner(&self.label);
        if let Some(host) = &self.host {
            owner.hostname.clone_from(host);
        }
        if let Some(user) = &self.user {
            owner.username.clone_from(user);
        }
        owner
    }

    fn get(&self) -> Result<Password, Failure> {
        match &self.new_password_file {
            _ if self.new_insecure_no_password => Ok(Password::nothing()),
            Some(file) => Password::in_file(file, Use::New),
            None => Password::ask("new password: ", true, Use::New),
        }
    }
}

impl Args {
    /// Whether it only prints.
    pub(super) fn only_prints(&self) -> bool {
        matches!(self.action, Action::List | Action::Epochs)
    }
}

pub(crate) fn run(args: Args, context: &Context) -> CommandResult {
    match args.action {
        Action::List => list::slots(&Places::open(context, false)?, context),
        Action::Epochs => list::epochs(&Places::open(context, false)?, context),
        Action::ReEncrypt(args) => renew::re_encrypt(&args, context),
        Action::Retire(args) => renew::retire(&args, context),
        Action::Change(change) => run_change(change, context),
    }
}

fn run_change(change: Change, context: &Context) -> CommandResult {
    let password = context.password(false)?;
    let repo = context.open()?;
    let store = repo.store();
    match change {
        Change::Rotate => {
            let done = store.rotate()?;
            let mut summary = Summary::new(json!({
                "epoch": done.epoch, "epoch_before": done.before, "granted": done.slots,
            }));
            summary.line(format!(
                "epoch {} has a new data key, which {} key slots have; what is written from now on is encrypted with it",
                done.epoch,
                done.slots.len()
            ));
            summary.line(
                "New snapshots may use chunks of existing packs, which the keys before still open. 'esker key re-encrypt' \
                 moves these packs to the new key.",
            );
            summary.line(
                "Packs that running backups have begun are still encrypted with the key before; their next ones are not, after \
                 a minute at most.",
            );
            for_tiers(context, &mut summary);
            context.console.summary(&summary);
            Ok(Code::Done)
        }
        Change::Add(new) => {
            let slot = store.add_slot(new.get()?.as_bytes(), KdfParams::default(), new.owner())?;
            let mut summary = Summary::new(json!({"added": [slot], "removed": []}));
            summary.line(format!("added key slot {}", slot.short()));
            for_tiers(context, &mut summary);
            context.console.summary(&summary);
            Ok(Code::Done)
        }
        Change::Remove { id } => {
            let slot = find(store, &id)?;
            let mut summary = Summary::new(json!({"added": [], "removed": [slot]}));
            if is_ours(store, &slot, &password) && store.head().slots.len() > 1 {
                summary.line("this is the slot of the password in use; the others remain");
            }
            if store.head().slots.contains_key(&slot) {
                store.remove_slot(&slot)?;
            } else {
                store.remove_stray(&slot)?;
            }
            summary.line(format!("removed key slot {}", slot.short()));
            summary.line(
                "Whoever had this password may have copied the keys that it opened, and can then still read what was \
                 written until now. 'esker key rotate' makes a new data key, which the password never opens.",
            );
            for_tiers(context, &mut summary);
            context.console.summary(&summary);
            Ok(Code::Done)
        }
        Change::Passwd(new) => {
            let mut ours = vec![];
            for slot in store.head().slots.keys() {
                if is_ours(store, slot, &password) {
                    ours.push(*slot);
                }
            }
            let new_password = new.get()?;
            let slot = match store.add_slot(new_password.as_bytes(), KdfParams::default(), new.owner()) {
                Ok(slot) => slot,
                Err(error) => return Err(told_of(error.into(), &repo, &password, &new_password, context)),
            };
            for old in &ours {
                if let Err(error) = store.remove_slot(old) {
                    return Err(told_of(error.into(), &repo, &password, &new_password, context));
                }
            }
            let mut summary = Summary::new(json!({"added": [slot], "removed": ours}));
            summary.line(format!("the new password is in key slot {}", slot.short()));
            if !ours.is_empty() {
                summary.line("If somebody else knew the old one, 'esker key rotate' makes a new data key, which it never opens.");
            }
            for_tiers(context, &mut summary);
            context.console.summary(&summary);
            Ok(Code::Done)
        }
    }
}

/// Says how a change of keys reaches the other tiers of esker.toml, if there are any.
fn for_tiers(context: &Context, summary: &mut Summary) {
    if context.uses_file() && context.file.as_ref().is_some_and(|file| file.tiers.len() > 1) {
        summary.line("'esker tier sync' brings it to the tiers.");
    }
}

/// A failure in the midst of a change of passwords, and which of the two open the repository now: the store is asked, as whoever
/// comes next will ask it.
fn told_of(
    failure: Failure,
    repo: &engine::Repository,
    old: &Password,
    new: &Password,
    context: &Context,
) -> Failure {
    let opens = |password: &Password| {
        let access = context.access(repo.store().access.storage.clone()).ok()?;
        match engine::Repository::open(access, password.as_bytes()) {
            Ok(_) => Some(true),
            Err(engine::Error::Store(chunkstore::Error::WrongPassword { .. })) => Some(false),
            Err(_) => None,
        }
    };
    let says = match (opens(old), opens(new)) {
        (Some(true), Some(true)) => {
            "both passwords open the repository now, the old one and the new one: 'esker key list' shows \
             both slots, 'esker key remove' drops the old one"
        }
        (Some(true), Some(false)) => "the old password opens the repository, the new one does not",
        (Some(false), Some(true)) => "the new password opens the repository, the old one no more",
        _ => {
            "it could not be found out which of the two passwords opens the repository now: try both, and keep \
             both until one of them fails with exit code 12"
        }
    };
    Failure { message: format!("{}; {says}", failure.message), ..failure }
}

/// Whether the password opens a slot; not one that is gone or damaged.
fn is_ours(store: &ChunkStore, slot: &ObjectId, password: &Password) -> bool {
    let bytes = store.storage().get(&names::key(slot), MAX_SMALL_LEN);
    bytes.is_ok_and(|bytes| open_slot(slot, &bytes, password.as_bytes()).is_ok_and(|ring| ring.is_some()))
}

fn find(store: &ChunkStore, wanted: &str) -> Result<ObjectId, Failure> {
    let head = store.head();
    let all = head.slots.keys().copied().chain(store.stray_slots()?);
    let mut fitting = all.filter(|id| id.to_string().starts_with(wanted));
    match (fitting.next(), fitting.next()) {
        (Some(id), None) if !wanted.is_empty() => Ok(id),
        (Some(_), _) => Err(Failure::new(format!("'{wanted}' names several key slots; give more digits"))),
        (None, _) => Err(Failure::new(format!("no key slot '{wanted}'; see 'esker key list'"))),
    }
}
