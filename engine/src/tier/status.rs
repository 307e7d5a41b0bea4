//! The state of a tier: its content, its cost, and what it lacks.

use super::Tier;
use super::map::TierMap;
use crate::Result;
use crate::price::PriceTable;
use chunkstore::format::PackKind;
use chunkstore::storage::shelf::Hidden;

/// The content of a tier.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Holding {
    /// Snapshots.
    pub snapshots: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Those of them that must be thawed before they are read.
    pub packs_frozen: u64,
    /// Their bytes.
    pub bytes_frozen: u64,
    /// Dollars a month for the packs.
    pub dollars_month: f64,
    /// Old versions that the store keeps.
    pub hidden_versions: u64,
    /// Their bytes.
    pub hidden_bytes: u64,
    /// When the first locked pack could be removed by anybody, in seconds since the Unix epoch.
    pub first_unlock_s: Option<u64>,
    /// When the last one could.
    pub last_unlock_s: Option<u64>,
    /// Rules of the store that would destroy the repository.
    pub hazards: Vec<String>,
}

/// Examines the content of a tier. With `ask`, requests what only the store knows, too.
pub fn holding(tier: &Tier, prices: &PriceTable, ask: bool) -> Result<Holding> {
    let store = tier.repo.store();
    store.reload()?;
    store.sync_index()?;
    let map = TierMap::read(store)?;
    let near = store.storage().is_near();
    let class = tier.options.class_name(near);
    let (price, hot) = (prices.of(class)?, prices.hot(class));
    let mut held = Holding { snapshots: tier.repo.snapshot_roots()?.len() as u64, ..Holding::default() };
    let (mut data, mut metadata) = ((0, 0), (0, 0));
    for pack in store.index().packs()? {
        let sum = if pack.name.kind == PackKind::Data { &mut data } else { &mut metadata };
        sum.0 += 1;
        sum.1 += pack.len;
    }
    held.packs = data.0 + metadata.0;
    held.bytes = data.1 + metadata.1;
    if tier.frozen {
        (held.packs_frozen, held.bytes_frozen) = data;
    }
    held.dollars_month = price.month(data.0, data.1, &hot) + hot.month(metadata.0, metadata.1, &hot);
    let locks = map.packs.values().filter_map(|placed| placed.locked_until);
    held.first_unlock_s = locks.clone().min();
    held.last_unlock_s = locks.max();
    if let Some(shelf) = store.storage().shelf().filter(|_| ask) {
        held.hazards = shelf.hazards().map_err(chunkstore::Error::from)?;
        if shelf.is_versioned().map_err(chunkstore::Error::from)? {
            let Hidden { versions, bytes } = shelf.hidden().map_err(chunkstore::Error::from)?;
            held.hidden_versions = versions;
            held.hidden_bytes = bytes;
            held.dollars_month += hot.month(versions, bytes, &hot);
        }
    }
    Ok(held)
}
