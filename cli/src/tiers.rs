//! The tiers of esker.toml, opened: for reading, from whichever is near and healthy; for copying to.

use crate::context::Context;
use crate::context::in_place;
use crate::exit::{Code, Failure};
use crate::file::{File, TierPlace};
use crate::places::Make;
use chunkstore::storage::Storage;
use chunkstore::storage::shelf::Placing;
use chunkstore::storage::tiered::{Place as Copy, Served, Tiered};
use chunkstore::store::{ChunkStore, another_tier};
use engine::snapshot::{Filter, Listed};
use engine::tier::{Role, Tier, TierOptions};
use engine::{Error, Repository};
use std::sync::Arc;

/// A repository opened for reading, and where it is read from.
pub(crate) struct Opened {
    pub(crate) repo: Repository,
    /// The tier whose HEAD is read.
    pub(crate) tier: Option<TierPlace>,
    tiered: Option<Arc<Tiered>>,
}

impl Opened {
    /// A repository without tiers.
    pub(crate) fn alone(repo: Repository) -> Self {
        Self { repo, tier: None, tiered: None }
    }

    /// What was read from where; nothing if there is only one place.
    pub(crate) fn served(&self) -> Vec<Served> {
        self.tiered.as_ref().map(|tiered| tiered.served()).unwrap_or_default()
    }
}

/// Refuses a repository that is not the tier that esker.toml says: another one's was put in its place. Where the roles
/// were changed already, and nothing adopted yet, the name is right.
fn meant(repo: Repository, tier: &TierPlace) -> Result<Repository, Failure> {
    let name = &tier.options.name;
    match repo.store().tier() {
        Some(found) if found != *name => {
            Err(another_tier(&**repo.store().storage(), found.as_str(), name).into())
        }
        _ => Ok(repo),
    }
}

/// Nearest first: a local disk before a store, a copy before a vault, what is frozen last.
fn nearness(tier: &TierPlace, storage: &dyn Storage) -> (bool, bool, u8) {
    (tier.frozen, !storage.is_near(), tier.options.role as u8)
}

impl Context {
    /// The stores of all tiers; those that cannot be opened at all are left out, and told of unless `quiet`.
    fn stores(&self, file: &File, quiet: bool) -> Vec<(TierPlace, Arc<dyn Storage>)> {
        let mut stores: Vec<(TierPlace, Arc<dyn Storage>)> = vec![];
        for tier in &file.tiers {
            match tier.place.open(Make::No, tier.rates) {
                Ok(storage) => stores.push((tier.clone(), storage)),
                Err(_) if quiet => {}
                Err(failure) => self.note(&tier.options.name, &failure.message),
            }
        }
        stores.sort_by_key(|(tier, storage)| nearness(tier, &**storage));
        stores
    }

    fn note(&self, tier: &str, why: &str) {
        self.console.warn(&format!("tier '{tier}': {why}"));
    }

    /// Opens what there is to read: the repository of `-r`, or the primary of esker.toml, and where that cannot be
    /// opened, the next tier.
    pub(crate) fn open_to_read(&self) -> Result<Opened, Failure> {
        Ok(self.open_first(|_| Ok(Some(())))?.0)
    }

    /// Opens the first tier that has a snapshot; see [`Repository::find`].
    pub(crate) fn open_snapshot(&self, wanted: &str, filter: &Filter) -> Result<(Opened, Listed), Failure> {
        let monitor = self.console.monitor();
        let missing = std::cell::RefCell::new(None);
        self.open_first(|repo| match repo.find(wanted, filter, monitor) {
            Ok(found) => Ok(Some(found)),
            Err(error @ (Error::NoSnapshot { .. } | Error::NothingFits { .. })) => {
                missing.borrow_mut().get_or_insert(error);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        })
        .and_then(|(opened, found)| match found {
            Some(found) => Ok((opened, found)),
            None => {
                let why = missing.take();
                Err(why.unwrap_or_else(|| Error::NoSnapshot { wanted: wanted.to_owned() }).into())
            }
        })
    }

    /// As [`Context::open_snapshot`], but `latest` is the latest that fits, if any does.
    pub(crate) fn open_snapshot_that(
        &self,
        wanted: &str,
        filter: &Filter,
        fits: &dyn Fn(&engine::snapshot::Snapshot) -> bool,
    ) -> Result<(Opened, Listed), Failure> {
        let (opened, found) = self.open_snapshot(wanted, filter)?;
        if !wanted.starts_with("latest") || fits(&found.snapshot) {
            return Ok((opened, found));
        }
        let mut all = opened.repo.snapshots(self.console.monitor())?;
        all.retain(|listed| fits(&listed.snapshot));
        match engine::snapshot::find(&all, wanted, filter) {
            Ok(fitting) => {
                let fitting = fitting.clone();
                Ok((opened, fitting))
            }
            // What is wrong with the latest is the better message.
            Err(_) => Ok((opened, found)),
        }
    }

    /// Opens tiers in turn, the primary first, until one has what is wanted.
    fn open_first<T>(
        &self,
        wanted: impl Fn(&Repository) -> Result<Option<T>, Failure>,
    ) -> Result<(Opened, Option<T>), Failure> {
        let Some(file) = self.file.as_ref().filter(|_| self.uses_file()) else {
            let repo = self.open()?;
            let found = wanted(&repo)?;
            return Ok((Opened::alone(repo), found));
        };
        let stores = self.stores(file, false);
        let mut turns: Vec<&(TierPlace, Arc<dyn Storage>)> = stores.iter().collect();
        turns.sort_by_key(|(tier, _)| tier.options.role != Role::Primary);
        // Any of them has the slots of all.
        let ours = turns.iter().find(|(tier, main)| self.refuse_another(tier, &**main).is_ok());
        let secret = ours.map_or_else(|| self.secret(false), |(_, main)| self.secret_for(&**main))?;
        let mut last: Option<Failure> = None;
        let mut empty: Option<Opened> = None;
        for (tier, main) in turns {
            let order =
                stores.iter().map(|(tier, storage)| Copy::new(&tier.options.name, Arc::clone(storage)));
            let tiered = Arc::new(Tiered::new(Arc::clone(main), order.collect(), true));
            let access = self.access(Arc::clone(&tiered) as _)?;
            let opened = self.refuse_another(tier, &**main).and_then(|()| {
                let store = ChunkStore::open(access, &secret);
                let store = store.map_err(|error| in_place(error, tier))?;
                meant(Repository::with_store(store.with_records_from_copies()), tier)
            });
            let repo = match opened {
                Ok(repo) => repo,
                Err(failure) => {
                    // No other tier has other key slots; and which repository is meant, none of them tells.
                    if failure.code == Code::WrongPassword || self.cannot_tell() {
                        let is_primary = tier.options.role == Role::Primary;
                        return Err(if is_primary { self.or_damaged_slots(failure) } else { failure });
                    }
                    self.note(&tier.options.name, &failure.message);
                    last.get_or_insert(failure);
                    continue;
                }
            };
            let opened = Opened { repo, tier: Some(tier.clone()), tiered: Some(tiered) };
            if let Some(found) = wanted(&opened.repo)? {
                return Ok((opened, Some(found)));
            }
            empty.get_or_insert(opened);
        }
        match (empty, last) {
            (Some(opened), _) => Ok((opened, None)),
            (None, Some(failure)) => Err(failure),
            (None, None) => Err(Failure::new("no tier can be reached")),
        }
    }

    /// Opens one tier by its name, with the others as places to heal it from.
    pub(crate) fn open_named(&self, name: &str) -> Result<Opened, Failure> {
        self.open_one(name, false)
    }

    /// The same for whoever reports tiers that are away.
    pub(crate) fn open_named_quietly(&self, name: &str) -> Result<Opened, Failure> {
        self.open_one(name, true)
    }

    fn open_one(&self, name: &str, quiet: bool) -> Result<Opened, Failure> {
        let file = self.need_file()?;
        let tier = file.tier(name)?.clone();
        let is_primary = tier.options.role == Role::Primary;
        let ways_out = |failure| match is_primary {
            true => self.or_damaged_slots(self.with_ways_out(failure)),
            false => failure,
        };
        let main = tier.place.open(Make::No, tier.rates).map_err(ways_out)?;
        self.refuse_another(&tier, &*main)?;
        let secret = self.secret_for(&*main)?;
        let others =
            self.stores(file, quiet).into_iter().filter(|(other, _)| other.options.name != tier.options.name);
        let order = others
            .map(|(tier, storage)| Copy::new(tier.options.name, storage))
            .chain([Copy::new(name, Arc::clone(&main))]);
        let tiered = Arc::new(Tiered::new(main, order.collect(), false));
        let access = self.access(Arc::clone(&tiered) as _)?;
        let store = ChunkStore::open(access, &secret);
        let store = store.map_err(|error| ways_out(in_place(error, &tier)))?;
        // What is put back lies as it lay.
        let data = Placing { class: tier.options.class.clone(), locked_until: None };
        let repo = meant(Repository::with_store(store.placing_packs(data, Placing::default())), &tier)?;
        Ok(Opened { repo, tier: Some(tier), tiered: Some(tiered) })
    }

    /// Opens a tier to copy to.
    pub(crate) fn open_tier(
        &self,
        primary: &Repository,
        tier: &TierPlace,
        rejoin: bool,
    ) -> Result<Tier, Failure> {
        let storage = tier.place.open(Make::No, tier.rates).map_err(|failure| {
            if failure.code == Code::NoRepository { away(primary, tier, failure) } else { failure }
        })?;
        self.refuse_another(tier, &*storage)?;
        self.enter(tier, |options| {
            let prices = &self.need_file()?.prices;
            let opened = Tier::open(primary, self.access(storage)?, options, prices, rejoin);
            opened.map_err(|error| in_place(error, tier))
        })
    }

    /// Makes a tier to copy to.
    pub(crate) fn make_tier(
        &self,
        primary: &Repository,
        tier: &TierPlace,
        again: bool,
    ) -> Result<Tier, Failure> {
        // Nothing is made where it is not to be.
        let name = &tier.options.name;
        if primary.store().head().tiers.was_made(name) && !again {
            return Err(Failure::new(format!(
                "tier '{name}' was made before, as far as is known. If what it held is lost for good, \
                 'esker tier init --again {name}' makes an empty one"
            )));
        }
        let storage = tier.place.open(Make::Private, tier.rates)?;
        let made = self.enter(tier, |options| {
            let prices = &self.need_file()?.prices;
            Ok(Tier::make(primary, self.access(storage)?, options, prices, again)?)
        })?;
        self.saw(tier, &primary.store().config().repository_id);
        Ok(made)
    }

    fn enter(
        &self,
        tier: &TierPlace,
        open: impl FnOnce(TierOptions) -> Result<Tier, Failure>,
    ) -> Result<Tier, Failure> {
        let mut options: TierOptions = tier.options.clone();
        // A store of our own that is frozen by a command has no class.
        if tier.warm_up.is_some() {
            options.class = None;
        }
        let mut opened = open(options)?;
        opened.frozen |= tier.frozen;
        Ok(opened)
    }
}

/// Says what it means that nothing lies where a tier should be.
fn away(primary: &Repository, tier: &TierPlace, failure: Failure) -> Failure {
    let name = &tier.options.name;
    let message = if primary.store().head().tiers.was_made(name) {
        format!(
            "{}: tier '{name}' was made there. Is its disk mounted? If it is lost for good, \
             'esker tier init --again {name}' makes an empty one",
            failure.message
        )
    } else {
        format!("{}: 'esker tier init {name}' makes the tier", failure.message)
    };
    Failure { message, ..failure }
}
