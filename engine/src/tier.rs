//! Tiers: copies of a repository elsewhere, each of the snapshots that were promised to it. The packs of a tier are
//! the primary's, byte for byte, except where most of a pack was not promised: then what is needed of it is
//! sealed anew. Each has a HEAD and an index of its own, which say what it holds: they are the map, and they
//! cannot be lost apart from what they describe. docs/tiers.md has the argument.

use crate::price::PriceTable;
use crate::prune::orphans::dead_sessions;
use crate::prune::{MaxUnused, PruneOptions, PrunePlan, delete_doomed, prune};
use crate::snapshot::Listed;
use crate::{Monitor, Repository, Result};
use chunkstore::head::Head;
use chunkstore::storage::probe::compares_and_swaps;
use chunkstore::storage::shelf::Placing;
use chunkstore::store::{Access, ChunkStore, Clock, another_tier, not_adopted};
use chunkstore::{ObjectId, PackId};
use std::collections::HashSet;

pub mod back;
pub mod keep;
pub mod map;
pub mod renew;
pub mod status;
pub mod sync;
pub mod thaw;

use map::{Placed, TierMap};

/// What a tier is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Backups are written to it, and it decides what there is.
    Primary,
    /// A copy that is read when it is nearer, or the primary fails.
    #[default]
    Copy,
    /// A copy for the long term, often frozen; read last.
    Vault,
}

/// How a tier is.
#[derive(Clone, Debug, Default)]
pub struct TierOptions {
    /// Its name: letters, digits, `-` and `_`.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Storage class of data packs, by the store's own name; the store's default if `None`.
    pub class: Option<String>,
    /// Objects are locked for so many days at least, and for as long as something is promised that needs them.
    pub lock_days: Option<u32>,
    /// Sessions of other machines that were silent for so long are taken for dead, in milliseconds.
    pub fence_after_ms: u64,
}

impl TierOptions {
    /// The class to look prices up by.
    #[must_use]
    pub fn class_name(&self, near: bool) -> &str {
        match &self.class {
            Some(class) => class,
            None if near => "LOCAL",
            None => "STANDARD",
        }
    }
}

/// An open tier that is not the primary.
pub struct Tier {
    /// How it is.
    pub options: TierOptions,
    /// Its own view of the repository: what it holds.
    pub repo: Repository,
    /// Whether its data packs must be thawed before they are read.
    pub frozen: bool,
    /// Days that its data packs are paid for in any case.
    pub min_days: u32,
}

impl Tier {
    /// Opens a tier of the primary's repository. What was the primary before is made a tier again only if that is
    /// `rejoin`ed. Nothing is made: a place where nothing is, is a tier that is away.
    pub fn open(
        primary: &Repository,
        access: Access,
        options: TierOptions,
        prices: &PriceTable,
        rejoin: bool,
    ) -> Result<Self> {
        Self::check(&access, &options)?;
        let opened = primary.store().open_tier(access, &options.name, rejoin)?;
        Self::of(primary, opened, options, prices)
    }

    /// Makes a tier of the primary's repository, at a place where nothing is. One that was made before is made `again`
    /// only if that is asked for.
    pub fn make(
        primary: &Repository,
        access: Access,
        options: TierOptions,
        prices: &PriceTable,
        again: bool,
    ) -> Result<Self> {
        Self::check(&access, &options)?;
        refuse_hazards(&access, &options)?;
        if let Err(why) = compares_and_swaps(&*access.storage, &*access.env)? {
            return Err(crate::Error::Invalid(format!(
                "tier '{}' does not compare and swap ({why}); two syncs at once would lose snapshots",
                options.name
            )));
        }
        let made = primary.store().create_tier(access, &options.name, again)?;
        Self::of(primary, made, options, prices)
    }

    fn check(access: &Access, options: &TierOptions) -> Result<()> {
        if options.lock_days.is_some() && access.storage.shelf().is_none() {
            return Err(crate::Error::Invalid(format!(
                "tier '{}': there are no locks on local disk",
                options.name
            )));
        }
        Ok(())
    }

    fn of(
        primary: &Repository,
        opened: ChunkStore,
        options: TierOptions,
        prices: &PriceTable,
    ) -> Result<Self> {
        let store = primary.store();
        let price = prices.of(options.class_name(opened.storage().is_near()))?;
        let (head, ours) = (opened.head(), store.head());
        not_adopted(&head, &ours)?;
        match &head.tier {
            Some(name) if *name == options.name => {}
            Some(name) => {
                return Err(another_tier(&**opened.storage(), name, &options.name).into());
            }
            None => {
                return Err(crate::Error::Invalid(format!("tier '{}' is the primary itself", options.name)));
            }
        }
        // The class of metadata is the store's default: it must always be readable.
        let data = Placing { class: options.class.clone(), locked_until: None };
        let store = opened.placing_packs(data, Placing::default());
        let repo = Repository::with_store(store);
        Ok(Self { options, repo, frozen: price.frozen, min_days: price.min_days })
    }

    /// Ends what dead processes began here.
    pub fn clear(&self) -> Result<()> {
        let store = self.repo.store();
        let head = store.reload()?;
        let dead = dead_sessions(&head, &store.access.identity, store.now_ms(), self.options.fence_after_ms)?;
        if !dead.is_empty() {
            store.update_head(|head| head.sessions.retain(|session| !dead.contains(&session.id)))?;
        }
        delete_doomed(store)
    }

    /// Snapshots on it.
    pub fn snapshots(&self, monitor: &dyn Monitor) -> Result<Vec<Listed>> {
        self.repo.stored_snapshots(monitor)
    }

    /// Takes snapshots off this tier; their packs stay until [`Tier::prune`].
    pub fn forget(&self, ids: &[ObjectId]) -> Result<()> {
        if ids.is_empty() { Ok(()) } else { self.repo.forget(ids).map(drop) }
    }

    /// Packs that may not go: locked, or, unless `early`, paid for until later.
    fn spared(&self, map: &TierMap, early: bool) -> HashSet<PackId> {
        let now_ms = self.repo.store().now_ms();
        let stays = |placed: &Placed| {
            let locked = placed.locked_until.is_some_and(|until| until * 1000 > now_ms);
            locked || !early && placed.class.is_some() && placed.paid_until_ms(self.min_days) > now_ms
        };
        map.packs.iter().filter(|(_, placed)| stays(placed)).map(|(id, _)| *id).collect()
    }

    /// Removes packs that nothing here needs, but none that is locked, or paid for until later unless `early`; none that
    /// was there before HEAD was made anew, unless `accept_head`.
    pub fn prune(
        &self,
        early: bool,
        accept_head: bool,
        dry_run: bool,
        monitor: &dyn Monitor,
    ) -> Result<PrunePlan> {
        if !dry_run {
            self.clear()?;
        }
        let spare = self.spared(&TierMap::read(self.repo.store())?, early);
        let options = PruneOptions {
            // Packs here are the primary's: they go whole or not at all.
            max_unused: MaxUnused::Unlimited,
            no_rebase: true,
            spare,
            dry_run,
            accept_head,
            fence_after_ms: self.options.fence_after_ms,
            ..PruneOptions::default()
        };
        prune(&self.repo, &options, monitor)
    }
}

/// Takes out of the tiers what a person forgot by name while they could not be reached. Returns how many snapshots went from
/// which tier.
pub fn take_out_forgotten(primary: &Repository, tiers: &[Tier]) -> Result<Vec<(String, u64)>> {
    let mut taken = vec![];
    let heads = tiers.iter().map(|tier| tier.repo.store().head()).chain([primary.store().head()]);
    let mut named: HashSet<ObjectId> = HashSet::new();
    for head in heads {
        named.extend(head.forgotten_everywhere.iter()?);
    }
    if named.is_empty() {
        return Ok(taken);
    }
    for root in primary.snapshot_roots()? {
        named.remove(&root.id);
    }
    for tier in tiers.iter().filter(|_| !named.is_empty()) {
        let there = tier.repo.snapshot_roots()?.into_iter().map(|root| root.id);
        let gone: Vec<ObjectId> = there.filter(|id| named.contains(id)).collect();
        tier.forget(&gone)?;
        if !gone.is_empty() {
            taken.push((tier.options.name.clone(), gone.len() as u64));
        }
    }
    Ok(taken)
}

/// Notes in the primary's HEAD how far its tiers have come, by which clock snapshots expired, and what was forgotten that
/// some copy still has.
pub fn note(primary: &Repository, tiers: &[Tier], clock: Option<Clock>) -> Result<()> {
    note_forgotten(primary, tiers)?;
    let heads: Vec<_> = tiers.iter().map(|tier| (&tier.options.name, tier.repo.store().head())).collect();
    Ok(primary.store().note_tiers(heads.iter().map(|(name, head)| (name.as_str(), head.age())), clock)?)
}

/// A store that would remove or move objects by itself is no place for packs: they are shared by snapshots, so
/// their age says nothing.
fn refuse_hazards(access: &Access, options: &TierOptions) -> Result<()> {
    let Some(shelf) = access.storage.shelf() else { return Ok(()) };
    let hazards = shelf.hazards().map_err(chunkstore::Error::from)?;
    if !hazards.is_empty() {
        return Err(crate::Error::Refused(format!(
            "tier '{}': the bucket's lifecycle would destroy the repository: {}. Packs are shared by snapshots, so \
             their age says nothing; take the rule away, or exclude this prefix",
            options.name,
            hazards.join("; ")
        )));
    }
    if options.lock_days.is_some() && !shelf.is_versioned().map_err(chunkstore::Error::from)? {
        return Err(crate::Error::Invalid(format!(
            "tier '{}': object_lock_days needs a bucket that was made with object lock",
            options.name
        )));
    }
    Ok(())
}

/// What any copy knows to be forgotten, the primary is to know; and what no copy has any more, nobody need know.
fn note_forgotten(primary: &Repository, tiers: &[Tier]) -> Result<()> {
    let store = primary.store();
    let heads: Vec<_> = tiers.iter().map(|tier| tier.repo.store().head()).collect();
    let here = store.head();
    let reached = |name: &String| tiers.iter().any(|tier| tier.options.name == *name);
    let all_reached = here.tiers.all && here.tiers.made.keys().all(reached);
    let (mut told, mut named, mut there) = (vec![], vec![], HashSet::new());
    for head in &heads {
        told.extend(head.forgotten.to_vec()?);
        named.extend(head.forgotten_everywhere.to_vec()?);
    }
    if told.is_empty() && named.is_empty() && here.forgotten.is_empty() {
        return Ok(());
    }
    for head in &heads {
        there.extend(head.roots.iter()?.map(|root| root.id));
    }
    let change = |head: &mut Head| {
        // What is listed again here is not forgotten.
        let listed: HashSet<ObjectId> = head.roots.iter()?.map(|root| root.id).collect();
        let is_away = |id: &&ObjectId| !listed.contains(*id);
        told.iter().filter(is_away).try_for_each(|id| head.forget(*id))?;
        named.iter().filter(is_away).try_for_each(|id| head.forget_everywhere(*id))?;
        head.forgotten.retain(|id| !all_reached || there.contains(id))?;
        let forgotten: HashSet<ObjectId> = head.forgotten.iter()?.copied().collect();
        head.forgotten_everywhere.retain(|id| forgotten.contains(id))
    };
    let mut after = Head::clone(&here);
    change(&mut after)?;
    let lists =
        |head: &Head| -> Result<_> { Ok((head.forgotten.to_vec()?, head.forgotten_everywhere.to_vec()?)) };
    if lists(&after)? == lists(&here)? {
        return Ok(());
    }
    Ok(store.update_head(change)?)
}
