//! Every location of a chunk. The index keeps one of each, which is nearly always enough. But that one may depend on a
//! missing base, or be in a damaged pack, while another is sound; then all segments are searched.

use super::Grounded;
use crate::Result;
use crate::id::{ChunkId, PackId};
use crate::index::{Location, PackInfo, Usable, short_key};
use crate::store::ChunkStore;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

type Key = [u8; 16];

/// The best location that counts of each chunk in `ids`, and of all their bases, by key, in packs that are `usable`.
/// Reads every segment of HEAD, once for each level of bases. Damaged segments are skipped.
pub fn find_everywhere(
    store: &ChunkStore,
    ids: &[ChunkId],
    usable: &(impl Usable + ?Sized),
) -> Result<HashMap<Key, Location>> {
    let head = store.head();
    let doomed: HashSet<PackId> = head.doomed.iter()?.map(|pack| pack.id).collect();
    let mut wanted: HashSet<Key> = ids.iter().map(short_key).collect();
    let mut asked: HashSet<Key> = HashSet::new();
    let mut all: Vec<Location> = vec![];
    while !wanted.is_empty() {
        let mut below = HashSet::new();
        for reference in head.segments.iter()? {
            let segment = match store.load_segment(reference) {
                Ok(segment) => segment,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            for mut pack in segment.packs.into_iter().filter(|pack| !doomed.contains(&pack.name.id)) {
                pack.records.retain(|record| wanted.contains(&short_key(&record.id)));
                let info = Arc::new(PackInfo { name: pack.name, len: pack.len, segment: reference.id });
                // Only packs with something in them are asked for.
                if pack.records.is_empty() || !usable.is_usable(&info)? {
                    continue;
                }
                for record in pack.records {
                    below.extend(record.bases.iter().map(short_key));
                    all.push(Location { pack: Arc::clone(&info), record });
                }
            }
        }
        asked.extend(wanted);
        wanted = below.difference(&asked).copied().collect();
    }
    // From depth 0 upwards: what a location stands on is decided before it.
    all.sort_by_key(|location| (location.record.depth, location.pack.name.id));
    let mut good: HashMap<Key, Location> = HashMap::new();
    for location in all {
        let stands = location.record.bases.iter().all(|base| {
            good.get(&short_key(base)).is_some_and(|below| below.record.depth < location.record.depth)
        });
        if stands {
            good.entry(short_key(&location.record.id)).or_insert(location);
        }
    }
    Ok(good)
}

/// As [`super::ground`], by way of [`find_everywhere`].
pub fn ground_everywhere(
    store: &ChunkStore,
    ids: &[ChunkId],
    usable: &(impl Usable + ?Sized),
) -> Result<Vec<Option<Grounded>>> {
    let good = find_everywhere(store, ids, usable)?;
    let grounded = ids.iter().map(|id| {
        let location = good.get(&short_key(id))?;
        let (mut packs, mut open) = (vec![], vec![location]);
        while let Some(location) = open.pop() {
            if !packs.contains(&location.pack.name.id) {
                packs.push(location.pack.name.id);
            }
            open.extend(location.record.bases.iter().filter_map(|base| good.get(&short_key(base))));
        }
        Some(Grounded { location: location.clone(), packs })
    });
    Ok(grounded.collect())
}
