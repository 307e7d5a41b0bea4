//! A tier's record of how its packs are stored: since when, in which class, locked until when. Immutable objects under
//! its HEAD, each with changes; when they become many, one replaces them.

use crate::{Error, Result};
use chunkstore::head::Root;
use chunkstore::store::{ChunkStore, MAP_ROOT};
use chunkstore::{ObjectId, PackId};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// How a pack is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// When it was put there, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its class, if it is not the store's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Locked until then, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked_until: Option<u64>,
}

/// Milliseconds of a day.
pub const DAY_MS: u64 = 86_400_000;

impl Placed {
    /// Until when it is paid for in any case, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn paid_until_ms(&self, min_days: u32) -> u64 {
        self.since_ms + u64::from(min_days) * DAY_MS
    }
}

/// All records of a tier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierMap {
    /// Packs.
    pub packs: BTreeMap<PackId, Placed>,
    /// Until when all packs that a snapshot needs are locked, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub locked: BTreeMap<ObjectId, u64>,
    /// The epoch that the tier was moved to: copies under earlier ones that are still there wait for their removal.
    #[serde(default, skip_serializing_if = "is_none")]
    pub renewed: u32,
    /// A map could not be read: what it said is not known, and the next one that is written takes its place.
    #[serde(skip)]
    is_in_part: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_none(epoch: &u32) -> bool {
    *epoch == 0
}

/// So many maps are read before they are made one.
const MOST_MAPS: usize = 8;

impl TierMap {
    /// Reads what HEAD names; packs that are no longer live are left out.
    pub fn read(store: &ChunkStore) -> Result<Self> {
        let head = store.head();
        let mut all = Self::default();
        for root in head.roots.iter()?.filter(|root| root.kind == MAP_ROOT) {
            let read = store.read_map(root).and_then(|plain| {
                serde_json::from_slice(&plain)
                    .map_err(|error| chunkstore::Error::corrupt(root.object(), error))
            });
            let map: Self = match read {
                Ok(map) => map,
                Err(error) if error.is_damage() => {
                    let why = chunkstore::store::describe(&error);
                    tracing::warn!("{why}; its packs count as stored today");
                    all.is_in_part = true;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            all.packs.extend(map.packs);
            all.locked.extend(map.locked);
            all.renewed = all.renewed.max(map.renewed);
        }
        let live: HashSet<PackId> = store.index().packs()?.iter().map(|pack| pack.name.id).collect();
        if !live.is_empty() {
            all.packs.retain(|id, _| live.contains(id));
        }
        let roots: HashSet<ObjectId> = head.roots.iter()?.map(|root| root.id).collect();
        all.locked.retain(|id, _| roots.contains(id));
        Ok(all)
    }

    /// Writes what changed; returns the maps that HEAD is to name, and those that it no longer needs.
    pub(super) fn write(self, changes: Self, store: &ChunkStore) -> Result<(Vec<Root>, Vec<String>)> {
        let head = store.head();
        let old: Vec<Root> = head.roots.iter()?.filter(|root| root.kind == MAP_ROOT).cloned().collect();
        if changes == Self::default() && !self.is_in_part {
            return Ok((old, vec![]));
        }
        let whole = old.len() >= MOST_MAPS || self.is_in_part;
        let mut map = changes;
        if whole {
            let mut all = self;
            all.packs.extend(map.packs);
            all.locked.extend(map.locked);
            all.renewed = all.renewed.max(map.renewed);
            all.is_in_part = false;
            map = all;
        }
        let plain = serde_json::to_vec(&map).map_err(|error| Error::Invalid(error.to_string()))?;
        let fresh = store.write_map(&plain)?;
        if whole {
            let gone = old.iter().map(Root::object).collect();
            return Ok((vec![fresh], gone));
        }
        Ok((old.into_iter().chain([fresh]).collect(), vec![]))
    }
}
