//! The tiers of esker.toml, opened: for reading, from whichever is near and healthy; for copying to.

use crate::context::Context;
use crate::exit::{Code, Failure};
use crate::file::{File, TierPlace};
use chunkstore::storage::Storage;
use chunkstore::storage::shelf::Placing;
use chunkstore::storage::tiered::{Place as Copy, Served, Tiered};
use chunkstore::store::ChunkStore;
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

/// Nearest first: a local disk before a store, a copy before a vault, what is frozen last.
fn nearness(tier: &TierPlace, storage: &dyn Storage) -> (bool, bool, u8) {
    (tier.frozen, !storage.is_near(), tier.options.role as u8)
}

impl Context {
    /// The stores of all tiers; those that cannot be opened at all are told of and left out.
    fn stores(&self, file: &File) -> Vec<(TierPlace, Arc<dyn Storage>)> {
        let mut stores: Vec<(TierPlace, Arc<dyn Storage>)> = vec![];
        for tier in &file.tiers {
            match tier.place.open(false, tier.rates) {
                Ok(storage) => stores.push((tier.clone(), storage)),
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
        self.open_first(|repo| match repo.find(wanted, filter, monitor) {
            Ok(found) => Ok(Some(found)),
            Err(Error::NoSnapshot { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        })
        .and_then(|(opened, found)| match found {
            Some(found) => Ok((opened, found)),
            None => Err(Error::NoSnapshot { wanted: wanted.to_owned() }.into()),
        })
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
        let password = self.password(false)?;
        let stores = self.stores(file);
        let mut turns: Vec<&(TierPlace, Arc<dyn Storage>)> = stores.iter().collect();
        turns.sort_by_key(|(tier, _)| tier.options.role != Role::Primary);
        let mut last: Option<Failure> = None;
        let mut empty: Option<Opened> = None;
        for (tier, main) in turns {
            let order =
                stores.iter().map(|(tier, storage)| Copy::new(&tier.options.name, Arc::clone(storage)));
            let tiered = Arc::new(Tiered::new(Arc::clone(main), order.collect(), true));
            let opened = Repository::open(self.access(Arc::clone(&tiered) as _)?, password.as_bytes());
            let repo = match opened {
                Ok(repo) => repo,
                Err(error) => {
                    let failure = Failure::from(error);
                    // No other tier has other passwords.
                    if failure.code == Code::WrongPassword {
                        return Err(failure);
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
        let file = self.need_file()?;
        let tier = file.tier(name)?.clone();
        let main = tier.place.open(false, tier.rates)?;
        let others =
            self.stores(file).into_iter().filter(|(other, _)| other.options.name != tier.options.name);
        let order = others
            .map(|(tier, storage)| Copy::new(tier.options.name, storage))
            .chain([Copy::new(name, Arc::clone(&main))]);
        let tiered = Arc::new(Tiered::new(main, order.collect(), false));
        let access = self.access(Arc::clone(&tiered) as _)?;
        let store = ChunkStore::open(access, self.password(false)?.as_bytes())?;
        // What is put back lies as it lay.
        let data = Placing { class: tier.options.class.clone(), locked_until: None };
        let repo = Repository::with_store(store.placing_packs(data, Placing::default()));
        Ok(Opened { repo, tier: Some(tier), tiered: Some(tiered) })
    }

    /// Opens a tier to copy to, or makes it.
    pub(crate) fn open_tier(
        &self,
        primary: &Repository,
        tier: &TierPlace,
        rejoin: bool,
    ) -> Result<Tier, Failure> {
        let file = self.need_file()?;
        let storage = tier.place.open(true, tier.rates)?;
        let mut options: TierOptions = tier.options.clone();
        // A store of our own that is frozen by a command has no class.
        if tier.warm_up.is_some() {
            options.class = None;
        }
        let mut opened = Tier::open(primary, self.access(storage)?, options, &file.prices, rejoin)?;
        opened.frozen |= tier.frozen;
        Ok(opened)
    }
}
