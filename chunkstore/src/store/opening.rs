//! From a place to keys: its kind, its configuration, a key slot that the secret opens. A disk keeps copies of these,
//! since one bad sector in any of them would make the repository unreadable; a missing one is named in the error.

use super::Access;
use crate::config::Config;
use crate::format::{MAX_DEAR_COST, MAX_SLOT_LEN, MAX_SLOTS, MAX_SMALL_LEN, names};
use crate::head::Elsewhere;
use crate::id::{ObjectId, RepositoryId};
use crate::kept::{Alike, most_alike, read_kept};
use crate::keys::{self, KdfParams, KeyRing, SlotHeader, SlotSecret};
use crate::storage::{ErrorKind, Storage};
use crate::{Error, Result};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The state of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing of a repository; key slots of an interrupted `init` at most.
    Nothing,
    /// The making of a repository, or of a tier, was interrupted: nothing can have been written to it.
    Unfinished,
    /// One of the objects that make a repository is missing, and others exist.
    Damaged {
        /// `config` or `HEAD`.
        lost: &'static str,
    },
    /// A repository, as far as can be told without a key.
    Whole,
}

/// Whether a place lacks objects without which it cannot be opened: its configuration, or every key slot. Objects whose
/// copies are also damaged count as missing.
pub fn is_locked_out(storage: &dyn Storage) -> Result<bool> {
    let config = match read_config(storage) {
        Err(error) if error.is_damage() || matches!(error, Error::NoRepository { .. }) => return Ok(true),
        config => config?.1,
    };
    for slot in slots_there(storage)? {
        match read_kept(storage, &names::key(&slot), MAX_SLOT_LEN, |bytes| keys::slot_header(&slot, bytes)) {
            Err(error) if error.is_damage() => {}
            slot => {
                if slot?.1.repository_id == config.repository_id {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

/// A place's own description, which can be read without a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The repository.
    pub repository: RepositoryId,
    /// The tier that the place was made as; none if as the primary.
    pub made_as: Option<String>,
}

/// Reads a place's own description. `None` if it has none that can be read.
#[must_use]
pub fn claim(storage: &dyn Storage) -> Option<Claim> {
    let copies = names::copies(names::CONFIG).filter(|_| storage.keeps_copies());
    let config = std::iter::once(names::CONFIG.to_owned()).chain(copies).find_map(|name| {
        let bytes = storage.get(&name, MAX_SMALL_LEN).ok()?;
        Config::read(&bytes).ok()
    })?;
    Some(Claim { repository: config.repository_id, made_as: config.tier })
}

/// Examines a place. Folders are listed only if `config` or HEAD is missing.
pub fn look(storage: &dyn Storage) -> Result<Found> {
    let has_config = is_there(storage, names::CONFIG)?;
    let has_head = storage.read_head()?.is_some() || holds_any(storage, &[names::HEADS])?;
    if has_config && has_head {
        return Ok(Found::Whole);
    }
    let contents = [names::PACKS, names::INDEX, names::SNAPSHOTS, names::MAPS];
    Ok(match (has_config, has_head || holds_any(storage, &contents)?) {
        (false, false) => Found::Nothing,
        (true, false) if had_head(storage)? => Found::Damaged { lost: names::HEAD },
        (true, false) => Found::Unfinished,
        (false, true) => Found::Damaged { lost: names::CONFIG },
        (true, true) => Found::Damaged { lost: names::HEAD },
    })
}

/// Whether a place without HEAD and without content had a HEAD: a disk has copies of it, which are written after it; and a
/// primary of several key slots got all but the first by HEAD.
fn had_head(storage: &dyn Storage) -> Result<bool> {
    let mut copies = names::copies(names::HEAD).filter(|_| storage.keeps_copies());
    if copies.any(|copy| storage.len(&copy).is_ok()) {
        return Ok(true);
    }
    let Ok((_, config)) = read_kept(storage, names::CONFIG, MAX_SMALL_LEN, |bytes| Config::read(bytes))
    else {
        return Ok(false);
    };
    let mut own = 0;
    for slot in slots_there(storage)? {
        let read = storage.get(&names::key(&slot), MAX_SLOT_LEN).map_err(Error::from);
        let header = read.and_then(|bytes| keys::slot_header(&slot, &bytes));
        own += usize::from(header.is_ok_and(|header| header.repository_id == config.repository_id));
    }
    Ok(config.tier.is_none() && own > 1)
}

fn is_there(storage: &dyn Storage, name: &str) -> Result<bool> {
    let copies = names::copies(name).filter(|_| storage.keeps_copies());
    for name in std::iter::once(name.to_owned()).chain(copies) {
        // Read, rather than asked for: only an answer with a body tells a missing bucket from a missing object.
        match storage.get(&name, MAX_SMALL_LEN) {
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
            Ok(_) => return Ok(true),
        }
    }
    Ok(false)
}

fn holds_any(storage: &dyn Storage, folders: &[&str]) -> Result<bool> {
    let mut any = false;
    for folder in folders {
        storage.list(folder, &mut |_, _| any = true)?;
    }
    Ok(any)
}

/// Says what is wrong with a place whose `config` or HEAD cannot be had.
pub(super) fn missing(storage: &dyn Storage, found: &Found) -> Error {
    let place = storage.place();
    match found {
        Found::Nothing => Error::NoRepository { place },
        Found::Unfinished => Error::Invalid(format!(
            "the making of a repository at {place} was interrupted, and nothing was written to it yet: 'esker init' \
             goes on with it, 'esker tier init' if it is to be a tier"
        )),
        Found::Damaged { lost } => Error::corrupt(
            *lost,
            format!(
                "it is missing at {place}, and other objects are there: this is no place for a new repository"
            ),
        ),
        Found::Whole => Error::corrupt(names::HEAD, "it was missing a moment ago"),
    }
}

/// Reads the configuration. Of a disk's copies of it, what most of them say: before a key is known, nothing tells which is
/// damaged. What a later version wrote is left alone.
pub(super) fn read_config(storage: &dyn Storage) -> Result<(Bytes, Config)> {
    if storage.keeps_copies()
        && let Ok(Alike { own: Some(there), most: Some(bytes) }) =
            most_alike(storage, names::CONFIG, |bytes| Config::read(bytes).is_ok())
        && there != bytes
        && !Config::is_newer(&there)
    {
        let copy = names::copies(names::CONFIG).next().unwrap_or_default();
        tracing::warn!("config is damaged: it is taken from its copies, as {copy}");
        if let Err(error) = storage.replace(names::CONFIG, bytes.clone()) {
            tracing::debug!(%error, "it could not be put back");
            let config = Config::read(&bytes)?;
            return Ok((bytes, config));
        }
    }
    match read_kept(storage, names::CONFIG, MAX_SMALL_LEN, |bytes| Config::read(bytes)) {
        Err(Error::Storage(error)) if error.kind == ErrorKind::NotFound => {
            Err(missing(storage, &look(storage)?))
        }
        read => read,
    }
}

/// Ids of the key slots that are there, copies included.
pub(super) fn slots_there(storage: &dyn Storage) -> Result<BTreeSet<ObjectId>> {
    let mut slots = BTreeSet::new();
    let copies = names::copies(names::KEYS).filter(|_| storage.keeps_copies());
    for folder in std::iter::once(names::KEYS.to_owned()).chain(copies) {
        storage.list(&folder, &mut |name, _| {
            slots.extend(name.rsplit('/').next().and_then(ObjectId::parse));
        })?;
    }
    Ok(slots)
}

/// Where the slots lie that are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The slots themselves.
    Slots,
    /// The copies that a disk has of them.
    Copies,
    /// Other places of the repository.
    Elsewhere,
}

/// What the key slots that are there say of themselves, as far as it can be read. No key is needed, and nothing of it is proved.
pub fn slot_headers(storage: &dyn Storage) -> Result<Vec<(ObjectId, SlotHeader)>> {
    let mut headers = vec![];
    for slot in slots_there(storage)?.into_iter().take(MAX_SLOTS) {
        let name = names::key(&slot);
        match read_kept(storage, &name, MAX_SLOT_LEN, |bytes| keys::slot_header(&slot, bytes)) {
            Err(error) if error.is_damage() => {}
            read => headers.push((slot, read?.1)),
        }
    }
    Ok(headers)
}

/// The key slots of a repository that may be tried, and those that cannot be read.
pub(super) struct Slots {
    storage: Arc<dyn Storage>,
    repository: RepositoryId,
    readable: Vec<(ObjectId, Bytes)>,
    /// What the secret did not open. It may be damaged, and a copy sound.
    unopened: Vec<(ObjectId, Bytes)>,
    /// Where what is tried now lies.
    stage: Stage,
    /// How often a slot was tried.
    attempts: usize,
    damage: Option<Error>,
    /// Slots that the secret is not for, by their kinds, and whether this version knows those.
    others: BTreeMap<(String, bool), usize>,
    /// That one is of a kind or version that this version does not know.
    unsupported: Option<Error>,
    /// That a slot could not be tried: there was no memory, or a key service did not answer.
    untried: Option<Error>,
    tried: usize,
    /// What may still be spent on slots that are dearer than ours.
    left: u64,
}

impl Slots {
    fn new(access: &Access, config: &Config, stage: Stage) -> Self {
        Self {
            storage: Arc::clone(&access.storage),
            repository: config.repository_id,
            readable: vec![],
            unopened: vec![],
            stage,
            attempts: 0,
            damage: None,
            others: BTreeMap::new(),
            unsupported: None,
            untried: None,
            tried: 0,
            left: MAX_DEAR_COST,
        }
    }

    /// Those that other places of the repository have. One of them opens this place only if HEAD here lists it.
    pub(super) fn elsewhere(access: &Access, config: &Config, elsewhere: &Elsewhere) -> Self {
        let mut slots = Self::new(access, config, Stage::Elsewhere);
        for (slot, known) in &elsewhere.slots {
            let Some(bytes) = &known.bytes else { continue };
            let header = keys::slot_header(slot, bytes);
            if header.is_ok_and(|header| header.repository_id == config.repository_id) {
                slots.readable.push((*slot, bytes.clone()));
            }
        }
        slots.readable.sort_by_key(|(slot, bytes)| (cost(slot, bytes), *slot));
        slots
    }

    /// Finds those that are there and belong to this repository. Those that no HEAD ever listed may be among them.
    pub(super) fn find(access: &Access, config: &Config) -> Result<Self> {
        let storage = &*access.storage;
        let mut slots = Self::new(access, config, Stage::Slots);
        let there = slots_there(storage)?;
        if there.is_empty() {
            let found = look(storage)?;
            return Err(if found == Found::Unfinished {
                missing(storage, &found)
            } else {
                Error::corrupt(
                    names::KEYS,
                    format!(
                        "no key slot is left at {}, and nothing opens it without one. Every other tier has them, \
                         too",
                        storage.place()
                    ),
                )
            });
        }
        for slot in there {
            let name = names::key(&slot);
            let read = read_kept(storage, &name, MAX_SLOT_LEN, |bytes| {
                let header = keys::slot_header(&slot, bytes)?;
                // What an interrupted init of another repository left, or the config is another's.
                match header.repository_id == config.repository_id {
                    true => Ok(()),
                    false => Err(Error::corrupt(&name, "it belongs to another repository")),
                }
            });
            match read {
                Ok((bytes, ())) => slots.readable.push((slot, bytes)),
                Err(error) => drop(slots.damage.get_or_insert(error)),
            }
        }
        // The dear ones last: a slot that somebody planted keeps nobody waiting whose own opens.
        slots.readable.sort_by_key(|(slot, bytes)| (cost(slot, bytes), *slot));
        Ok(slots)
    }

    /// Whether a slot may be tried. One that is more expensive than ours counts by its cost.
    fn affords(&mut self, cost: u64) -> bool {
        if cost <= KdfParams::default().cost() {
            return true;
        }
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// Notes why a slot that the secret fits does not open the repository.
    pub(super) fn refuse(&mut self, error: Error) {
        self.damage = Some(error);
    }

    /// Takes the next one. After the slots themselves follow the copies that a disk has of those that did not open, as far
    /// as they are not the same: of a slot whose bytes are damaged, the secret cannot be told from a wrong one.
    fn next(&mut self) -> Option<(ObjectId, Bytes)> {
        if self.readable.is_empty() && self.stage == Stage::Slots && self.storage.keeps_copies() {
            self.stage = Stage::Copies;
            for (slot, bytes) in std::mem::take(&mut self.unopened) {
                let mut known = vec![bytes];
                for copy in names::copies(&names::key(&slot)) {
                    let Ok(bytes) = self.storage.get(&copy, MAX_SLOT_LEN) else { continue };
                    let header = keys::slot_header(&slot, &bytes);
                    let is_ours = header.is_ok_and(|header| header.repository_id == self.repository);
                    if is_ours && !known.contains(&bytes) {
                        known.push(bytes.clone());
                        self.readable.push((slot, bytes));
                    }
                }
            }
            self.readable.sort_by_key(|(slot, bytes)| (cost(slot, bytes), *slot));
        }
        (!self.readable.is_empty() && self.attempts < 2 * MAX_SLOTS).then(|| self.readable.remove(0))
    }

    /// Puts the copy that opened in the place of the slot.
    fn mend(&self, slot: &ObjectId, bytes: &Bytes) {
        let name = names::key(slot);
        tracing::warn!("{name} is damaged: it is taken from a copy that opens");
        if let Err(error) = self.storage.replace(&name, bytes.clone()) {
            tracing::debug!(%error, "it could not be put back");
        }
    }

    /// Notes a slot that the secret is not for.
    fn pass_over(&mut self, slot: ObjectId, bytes: Bytes, header: &SlotHeader) {
        if self.stage != Stage::Slots {
            return;
        }
        if !header.is_known() {
            self.unsupported = Some(keys::unsupported(&slot, header));
        }
        // What says its kind may be damaged.
        self.unopened.push((slot, bytes));
        let kind = match header.wrapped() {
            Some(wrapped) => format!("{} {}", header.kind_shown(), wrapped.service),
            None => header.kind_shown(),
        };
        *self.others.entry((kind, header.is_known())).or_default() += 1;
    }

    /// Opens the next one that the secret fits, and returns it with the keys in it.
    pub(super) fn open_next(&mut self, secret: &dyn SlotSecret) -> Result<(ObjectId, KeyRing)> {
        while let Some((slot, bytes)) = self.next() {
            let header = keys::slot_header(&slot, &bytes)?;
            if !secret.is_for(&header) {
                self.pass_over(slot, bytes, &header);
                continue;
            }
            if !self.affords(secret.cost(&header)) {
                let why = "to try it costs more than all slots together may that are not esker's own";
                self.damage = Some(Error::corrupt(names::key(&slot), why));
                continue;
            }
            self.attempts += 1;
            self.tried += usize::from(self.stage == Stage::Slots);
            match keys::open_slot(&slot, &bytes, secret) {
                Ok(Some(ring)) => {
                    if self.stage == Stage::Copies {
                        self.mend(&slot, &bytes);
                    }
                    return Ok((slot, ring));
                }
                Ok(None) => self.unopened.push((slot, bytes)),
                // Another one may take less, or be of a service that answers.
                Err(error @ (Error::Memory { .. } | Error::KeyService { .. })) => self.untried = Some(error),
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    self.damage = Some(error);
                    self.unopened.push((slot, bytes));
                }
            }
        }
        // Whether the secret fits a slot that was not tried is not known.
        if let Some(error) = self.untried.take() {
            return Err(error);
        }
        let knows_any = self.others.keys().any(|(_, is_known)| *is_known);
        match (self.damage.take(), self.unsupported.take()) {
            // Where any could be tried, that the secret fits none of them says more.
            (Some(damage), _) if self.tried == 0 && !knows_any => {
                Err(Error::corrupt(names::KEYS, format!("no key slot that is there can be used: {damage}")))
            }
            (None, Some(unsupported)) if self.tried == 0 && !knows_any => Err(unsupported),
            (damage, unsupported) => Err(Error::WrongPassword {
                secret: secret.name().to_owned(),
                slots: self.tried,
                others: self.other_kinds(),
                damage: damage.or(unsupported).map(|damage| damage.to_string()),
            }),
        }
    }

    /// What the slots are for that the secret is not for, for people: kinds, and the URLs of key services.
    fn other_kinds(&self) -> Option<String> {
        let kind = |((kind, _), count): (&(String, bool), &usize)| match count {
            1 => kind.clone(),
            count => format!("{kind} ({count} of them)"),
        };
        let kinds: Vec<String> = self.others.iter().map(kind).collect();
        (!kinds.is_empty()).then(|| kinds.join(", "))
    }
}

/// The cost of trying a slot; of one without Argon2id, nothing.
fn cost(slot: &ObjectId, bytes: &Bytes) -> u64 {
    let header = keys::slot_header(slot, bytes).ok();
    let params = header.as_ref().and_then(SlotHeader::argon2).map(|argon2| argon2.kdf_params);
    params.map_or(0, |params| params.cost())
}
