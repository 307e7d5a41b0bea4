//! Frozen packs that a restore needs: planned and priced before any request, requested once, and awaited over days and
//! restarts.

use crate::price::{Price, PriceTable};
use crate::reach::{ShortId, for_each_chunk_beneath, short};
use crate::snapshot::Listed;
use crate::{Error, Monitor, Repository, Result};
use chunkstore::bases::{ground, ground_everywhere};
use chunkstore::executor::submit;
use chunkstore::format::{PackKind, names};
use chunkstore::index::PackInfo;
use chunkstore::storage::ErrorKind;
use chunkstore::storage::shelf::{Lying, Retrieval, Warmth};
use chunkstore::{ChunkId, PackId};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// A pack that a restore needs, and how it is stored.
#[derive(Clone, Debug)]
pub struct NeededPack {
    /// The pack.
    pub pack: Arc<PackInfo>,
    /// Whether it can be read.
    pub warmth: Warmth,
}

/// The packs that a restore needs.
#[derive(Clone, Debug, Default)]
pub struct ThawPlan {
    /// Packs that only frozen copies have.
    pub packs: Vec<NeededPack>,
    /// Packs of this tier that can be read at once.
    ready: Vec<NeededPack>,
    /// Packs that can be read at once, here or elsewhere.
    pub packs_ready: u64,
    /// Their bytes.
    pub bytes_ready: u64,
}

/// Time and cost of one way to thaw.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Offer {
    /// The way.
    #[serde(serialize_with = "by_name")]
    pub retrieval: Retrieval,
    /// Hours that it takes at most.
    pub hours: f64,
    /// Dollars for thawing, and for keeping the thawed copies.
    pub dollars: f64,
    /// Dollars for reading them afterwards, and carrying them out.
    pub dollars_fetch: f64,
}

fn by_name<S: serde::Serializer>(retrieval: &Retrieval, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(retrieval.name())
}

/// How far the thawing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ThawState {
    /// Packs that were not requested.
    pub frozen: u64,
    /// Packs that were requested and are not readable yet.
    pub thawing: u64,
    /// Packs that can be read.
    pub ready: u64,
    /// Until when the first of them can be read, in seconds since the Unix epoch.
    pub until_s: Option<u64>,
}

impl ThawState {
    /// Whether a restore can begin.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.frozen == 0 && self.thawing == 0
    }
}

impl ThawPlan {
    /// Finds the packs that a snapshot, or the part of it beneath a path, needs, and how each is stored. `repo` is a
    /// frozen tier's. Reads only metadata.
    pub fn make(repo: &Repository, listed: &Listed, beneath: &[u8], monitor: &dyn Monitor) -> Result<Self> {
        let store = repo.store();
        let mut packs: BTreeMap<PackId, Arc<PackInfo>> = BTreeMap::new();
        let mut visited: HashSet<ShortId> = HashSet::new();
        let mut ids: Vec<ChunkId> = vec![];
        let mut visit = |chunk: chunkstore::ingest::ChunkRef| {
            if visited.insert(short(&chunk.id)) {
                ids.push(chunk.id);
            }
        };
        for_each_chunk_beneath(store, listed, beneath, &mut visit)?;
        let known: BTreeMap<PackId, Arc<PackInfo>> =
            store.index().packs()?.into_iter().map(|pack| (pack.name.id, pack)).collect();
        for ids in ids.chunks(1024) {
            let found = ground(&**store.index(), ids, &HashSet::new())?;
            let lost: Vec<ChunkId> =
                ids.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(id, _)| *id).collect();
            let elsewhere = ground_everywhere(store, &lost, &HashSet::new())?;
            for grounded in found.into_iter().chain(elsewhere).flatten() {
                packs.extend(
                    grounded.packs.iter().filter_map(|id| known.get(id).map(|pack| (*id, Arc::clone(pack)))),
                );
            }
        }
        let mut plan = Self::default();
        let data = packs.into_values().filter(|pack| pack.name.kind == PackKind::Data).collect();
        plan.look_at(repo, data, monitor)?;
        Ok(plan)
    }

    /// Asks the store how packs are stored; those that a nearer place has are not needed from here.
    fn look_at(&mut self, repo: &Repository, packs: Vec<Arc<PackInfo>>, monitor: &dyn Monitor) -> Result<()> {
        let store = repo.store();
        let Some(_) = store.storage().shelf() else {
            self.packs_ready = packs.len() as u64;
            self.bytes_ready = packs.iter().map(|pack| pack.len).sum();
            self.ready = packs.into_iter().map(|pack| NeededPack { pack, warmth: Warmth::Hot }).collect();
            return Ok(());
        };
        // Asked once whether they answer at all, rather than for each pack.
        let places = store.storage().copies().iter();
        let near: Arc<Vec<_>> =
            Arc::new(places.filter(|place| place.len(names::CONFIG).is_ok()).map(Arc::clone).collect());
        let mut running = std::collections::VecDeque::new();
        let most = 4 * store.storage().connections();
        let mut packs = packs.into_iter();
        loop {
            for pack in packs.by_ref().take(most - running.len()) {
                let (store, asked, near) = (Arc::clone(store), Arc::clone(&pack), Arc::clone(&near));
                let look = submit(&*repo.store().access.io, move || {
                    let name = asked.name.object();
                    let shelf = store.storage().shelf();
                    let lying = shelf.map(|shelf| shelf.look(&name)).transpose()?;
                    let warmth = lying.map_or(Warmth::Hot, |lying| lying.warmth);
                    let elsewhere = |place: &Arc<dyn chunkstore::storage::Storage>| {
                        let readable = |lying: &Lying| lying.warmth.is_readable() && lying.len == asked.len;
                        match place.shelf() {
                            Some(shelf) => shelf.look(&name).is_ok_and(|lying| readable(&lying)),
                            None => place.len(&name).is_ok_and(|len| len == asked.len),
                        }
                    };
                    let near = !warmth.is_readable() && near.iter().any(elsewhere);
                    Ok::<_, chunkstore::storage::StorageError>(if near { Warmth::Hot } else { warmth })
                });
                running.push_back((pack, look));
            }
            let Some((pack, look)) = running.pop_front() else { return Ok(()) };
            match look.wait()?.map_err(chunkstore::Error::from)? {
                Warmth::Hot => {
                    self.packs_ready += 1;
                    self.bytes_ready += pack.len;
                    self.ready.push(NeededPack { pack, warmth: Warmth::Hot });
                }
                warmth => self.packs.push(NeededPack { pack, warmth }),
            }
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
    }

    /// Sets how every pack is stored, if the store cannot be asked.
    pub fn all_by(&mut self, warmth: impl Fn(&PackId) -> Warmth) {
        self.packs.append(&mut self.ready);
        for needed in &mut self.packs {
            needed.warmth = warmth(&needed.pack.name.id);
        }
        (self.packs_ready, self.bytes_ready) = (0, 0);
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> ThawState {
        let mut state = ThawState { ready: self.packs_ready, ..ThawState::default() };
        for needed in &self.packs {
            match needed.warmth {
                Warmth::Frozen => state.frozen += 1,
                Warmth::Thawing => state.thawing += 1,
                Warmth::Hot => state.ready += 1,
                Warmth::Thawed(until) => {
                    state.ready += 1;
                    state.until_s = [state.until_s, until].into_iter().flatten().min();
                }
            }
        }
        state
    }

    /// Packs that must be requested, one request each.
    pub fn frozen(&self) -> impl Iterator<Item = &NeededPack> {
        self.packs.iter().filter(|needed| needed.warmth == Warmth::Frozen)
    }

    /// What each way to thaw takes, as far as the class has it.
    #[must_use]
    pub fn offers(&self, price: &Price, hot: &Price, days: u32) -> Vec<Offer> {
        let (objects, bytes) = self.frozen().fold((0, 0), |(n, sum), needed| (n + 1, sum + needed.pack.len));
        let offer = |retrieval: Retrieval| {
            let (dollars, hours) = price.thaw(retrieval, objects, bytes, days, hot)?;
            Some(Offer { retrieval, hours, dollars, dollars_fetch: price.fetch(objects, bytes) })
        };
        Retrieval::ALL.into_iter().filter_map(offer).collect()
    }

    /// Requests frozen packs, each once; returns the number of new requests.
    pub fn start(
        &self,
        repo: &Repository,
        days: u32,
        retrieval: Retrieval,
        monitor: &dyn Monitor,
    ) -> Result<u64> {
        let store = repo.store();
        let mut running = std::collections::VecDeque::new();
        let mut asked = 0;
        for needed in self.frozen() {
            let (store, name) = (Arc::clone(store), needed.pack.name.object());
            running.push_back(submit(&*repo.store().access.io, move || match store.storage().shelf() {
                Some(shelf) => shelf.thaw(&name, days, retrieval),
                None => Ok(false),
            }));
            if running.len() >= store_connections(repo) {
                asked += take(&mut running)?;
            }
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        while !running.is_empty() {
            asked += take(&mut running)?;
        }
        Ok(asked)
    }
}

fn store_connections(repo: &Repository) -> usize {
    2 * repo.store().storage().connections()
}

type Asked = chunkstore::executor::Pending<chunkstore::storage::StorageResult<bool>>;

fn take(running: &mut std::collections::VecDeque<Asked>) -> Result<u64> {
    let Some(asked) = running.pop_front() else { return Ok(0) };
    Ok(u64::from(asked.wait()?.map_err(chunkstore::Error::from)?))
}

/// Whether an error says that something must be thawed first.
#[must_use]
pub fn is_frozen(error: &Error) -> bool {
    matches!(error, Error::Store(chunkstore::Error::Storage(error)) if error.kind == ErrorKind::Frozen)
}

/// Prices of a class, and of the class of its thawed copies.
pub fn prices_of(prices: &PriceTable, class: &str) -> Result<(Price, Price)> {
    Ok((prices.of(class)?, prices.hot(class)))
}
