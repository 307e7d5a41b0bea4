//! `esker key`

use crate::context::Context;
use crate::exit::{Code, CommandResult, Failure};
use crate::key_services::Proof;
use crate::output::Summary;
use crate::secrets::Secret;
use crate::units::counted;
use chunkstore::ObjectId;
use chunkstore::format::{MAX_SMALL_LEN, names};
use chunkstore::keys::{KdfParams, SlotOwner, open_slot, slot_header};
use chunkstore::store::ChunkStore;
use engine::Repository;
use new::{NewSecret, Owner};
use serde_json::json;

mod list;
mod new;
mod paper;
mod places;
mod renew;
pub(crate) mod services;
mod split;
use places::Places;

/// Add, remove and change passwords and keys, and rotate data keys
///
/// Each password and each key has a key slot, which opens the repository's keys. Data is encrypted with data keys, one for
/// each epoch: 'key rotate' makes a new epoch, whose key the slots get that exist then. docs/keys.md says when to use which.
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
    /// Add a password, a key file or a key service
    Add(Add),
    /// Remove a key slot by its id; the last one stays
    Remove {
        /// Id or its first digits
        id: String,
    },
    /// Replace what the repository was opened with, by a new password, key file or key service
    ///
    /// After the key of a key service was rotated there, '--kms URL' with '--new-kms URL' wraps a new secret with the newest
    /// version.
    Passwd(NewSlot),
    /// Make a sheet to print, with a key that opens the repository as words and as a QR code
    ///
    /// Whoever has the sheet can open the repository: print it, lock it away, and delete the file. --key-file reads the
    /// words, typed into a file, and the QR code's text; --recovery asks for the words.
    Sheet(paper::Args),
    /// Make shares of a key: any M of N open the repository together, fewer do not
    ///
    /// One share goes to each of N people. --share opens the repository, once for each share.
    Split(split::Args),
    /// Make a new data key, for everything that is written from now on
    ///
    /// Every key slot gets it, whatever opens it. A slot that was removed before does not; it keeps what it could read.
    /// Existing packs are not encrypted again: a new snapshot may use chunks of old packs, which old keys open until
    /// 'key re-encrypt' has moved them.
    Rotate,
}

#[derive(clap::Args, Debug)]
struct NewSlot {
    #[command(flatten)]
    secret: NewSecret,
    #[command(flatten)]
    owner: Owner,
}

#[derive(clap::Args, Debug)]
struct Add {
    #[command(flatten)]
    new: NewSlot,
    /// With --new-kms: this machine may wrap with the key and not unwrap, so do not prove that the slot opens
    #[arg(long, requires = "new_kms")]
    wrap_only: bool,
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
    let repo = context.open()?;
    let secret = context.secret(false)?;
    let store = repo.store();
    match change {
        Change::Rotate => {
            let done = store.rotate()?;
            let mut summary = Summary::new(json!({
                "epoch": done.epoch, "epoch_before": done.before, "granted": done.slots,
            }));
            summary.line(format!(
                "epoch {} has a new data key, in {}; what is written from now on is encrypted with it",
                done.epoch,
                counted(done.slots.len() as u64, "key slot")
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
        Change::Add(Add { new, wrap_only }) => {
            let made = new.secret.make(context, if wrap_only { Proof::Without } else { Proof::Must })?;
            let slot = add(&repo, &made.secret, new.owner.get(), context);
            let slot = made.settle(slot)?;
            let mut summary = Summary::new(json!({"added": [slot], "removed": []}));
            summary.line(format!("added key slot {}", slot.short()));
            if wrap_only {
                summary.line("That it opens was not proved: try it where the key service unwraps, before you rely on it.");
            }
            for_tiers(context, &mut summary);
            context.console.summary(&summary);
            Ok(Code::Done)
        }
        Change::Sheet(args) => paper::run(args, &repo, context),
        Change::Split(args) => split::run(args, &repo, context),
        Change::Remove { id } => {
            let slot = find(store, &id)?;
            let mut summary = Summary::new(json!({"added": [], "removed": [slot]}));
            if is_ours(store, &slot, &secret) && store.head().slots.len() > 1 {
                summary
                    .line(format!("this is the slot of the {} in use; the others remain", called(&secret)));
            }
            if store.head().slots.contains_key(&slot) {
                store.remove_slot(&slot)?;
            } else {
                store.remove_stray(&slot)?;
            }
            summary.line(format!("removed key slot {}", slot.short()));
            summary.line(
                "Whoever had what opens this slot may have copied the keys in it, and can then still read what was written until \
                 now. 'esker key rotate' makes a new data key, which the slot never opens.",
            );
            services::alone(store).into_iter().for_each(|advice| summary.line(advice));
            for_tiers(context, &mut summary);
            context.console.summary(&summary);
            Ok(Code::Done)
        }
        Change::Passwd(new) => passwd(&new, &repo, &secret, context),
    }
}

/// Replaces what opened the repository. The new slot is made before the old ones are removed.
fn passwd(new: &NewSlot, repo: &Repository, secret: &Secret, context: &Context) -> CommandResult {
    let store = repo.store();
    let head = store.head();
    let ours: Vec<ObjectId> =
        head.slots.keys().copied().filter(|slot| is_ours(store, slot, secret)).collect();
    let made = new.secret.make(context, Proof::Must)?;
    let told = |failure, made: &Secret| told_of(failure, repo, secret, made, context);
    // What people call the slot stays, unless they give another label.
    let mut owner = new.owner.get();
    if owner.label.is_empty() {
        owner.label = ours.first().and_then(|old| label(store, old)).unwrap_or_default();
    }
    let slot = add(repo, &made.secret, owner, context);
    let slot = slot.map_err(|(failure, is_there)| (told(failure, &made.secret), is_there));
    let what = called(&made.secret);
    let new_secret = made.secret.clone();
    let slot = made.settle(slot)?;
    for old in &ours {
        store.remove_slot(old).map_err(|error| told(error.into(), &new_secret))?;
    }
    let mut summary = Summary::new(json!({"added": [slot], "removed": ours}));
    summary.line(format!("the new {what} is in key slot {}", slot.short()));
    if !ours.is_empty() {
        summary.line(
            "If somebody else had what opened it before, 'esker key rotate' makes a new data key, which that never opens.",
        );
    }
    services::alone(store).into_iter().for_each(|advice| summary.line(advice));
    for_tiers(context, &mut summary);
    context.console.summary(&summary);
    Ok(Code::Done)
}

/// Adds a slot. Where that fails, whether the slot may be there all the same: the store is asked, and if it does not answer,
/// the slot may be.
fn add(
    repo: &Repository,
    secret: &Secret,
    owner: SlotOwner,
    context: &Context,
) -> Result<ObjectId, (Failure, bool)> {
    let added = repo.store().add_slot(secret, KdfParams::default(), owner);
    added.map_err(|error| (error.into(), opens(secret, repo, context) != Some(false)))
}

/// What people call a secret.
fn called(secret: &Secret) -> String {
    chunkstore::keys::SlotSecret::name(secret).to_owned()
}

/// Whether a secret opens the repository now, as whoever comes next will find; none if that cannot be told.
fn opens(secret: &Secret, repo: &Repository, context: &Context) -> Option<bool> {
    let access = context.access(repo.store().access.storage.clone()).ok()?;
    match Repository::open(access, secret) {
        Ok(_) => Some(true),
        Err(engine::Error::Store(chunkstore::Error::WrongPassword { .. })) => Some(false),
        Err(_) => None,
    }
}

/// Says how a change of keys reaches the other tiers of esker.toml, if there are any.
fn for_tiers(context: &Context, summary: &mut Summary) {
    if context.uses_file() && context.file.as_ref().is_some_and(|file| file.tiers.len() > 1) {
        summary.line("'esker tier sync' brings it to the tiers.");
    }
}

/// A failure in the midst of a change of secrets, and which of the two open the repository now: the store is asked, as whoever
/// comes next will ask it.
fn told_of(failure: Failure, repo: &Repository, old: &Secret, new: &Secret, context: &Context) -> Failure {
    let (old_name, new_name) = (called(old), called(new));
    let says = match (opens(old, repo, context), opens(new, repo, context)) {
        (Some(true), Some(true)) => format!(
            "both the old {old_name} and the new {new_name} open the repository now: 'esker key list' shows both slots, \
             'esker key remove' drops the old one"
        ),
        (Some(true), Some(false)) => {
            format!("the old {old_name} opens the repository, the new {new_name} does not")
        }
        (Some(false), Some(true)) => {
            format!("the new {new_name} opens the repository, the old {old_name} no more")
        }
        _ => format!(
            "it could not be found out whether the old {old_name} or the new {new_name} opens the repository now: try both, \
             and keep both until one of them fails with exit code 12"
        ),
    };
    Failure { message: format!("{}; {says}", failure.message), ..failure }
}

/// Whether the secret opens a slot; not one that is gone or damaged.
fn is_ours(store: &ChunkStore, slot: &ObjectId, secret: &Secret) -> bool {
    let bytes = store.storage().get(&names::key(slot), MAX_SMALL_LEN);
    bytes.is_ok_and(|bytes| open_slot(slot, &bytes, secret).is_ok_and(|ring| ring.is_some()))
}

/// The label of a slot, if it can be read.
fn label(store: &ChunkStore, slot: &ObjectId) -> Option<String> {
    let bytes = store.storage().get(&names::key(slot), MAX_SMALL_LEN).ok()?;
    Some(slot_header(slot, &bytes).ok()?.label)
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
