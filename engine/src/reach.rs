//! What a snapshot needs: every chunk that can be reached from it.

use crate::entry::is_beneath;
use crate::manifest::lists::{KnownLists, each_chunk};
use crate::manifest::{self, ManifestReader, Step};
use crate::snapshot::Listed;
use crate::{Error, Result};
use chunkstore::bases::{ground, ground_everywhere};
use chunkstore::ingest::ChunkRef;
use chunkstore::store::ChunkStore;
use chunkstore::{ChunkId, PackId};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// First half of a chunk id: ample to tell keyed hashes apart.
pub(crate) type ShortId = [u8; 16];

pub(crate) fn short(id: &ChunkId) -> ShortId {
    let mut key = [0; 16];
    key.copy_from_slice(&id.0[..16]);
    key
}

/// Visits every chunk that a snapshot needs, its manifest's own included. A chunk of content comes as often as the manifest
/// lists it.
pub(crate) fn for_each_chunk(
    store: &Arc<ChunkStore>,
    listed: &Listed,
    each: &mut dyn FnMut(ChunkRef),
) -> Result<()> {
    for_each_further_chunk(store, listed, &mut KnownLists::new(), each)
}

/// The same of several snapshots, for whoever wants each chunk once: stretches of manifests in `known`, which other snapshots
/// have as well, are not read again. What was visited here is in it afterwards, unless this fails.
pub(crate) fn for_each_further_chunk(
    store: &Arc<ChunkStore>,
    listed: &Listed,
    known: &mut KnownLists,
    each: &mut dyn FnMut(ChunkRef),
) -> Result<()> {
    match each_chunk(store, &listed.snapshot.manifest, known, each) {
        // In order, and so with the name of what comes before it.
        Err(Error::Store(error)) if error.is_damage() => for_each_chunk_beneath(store, listed, &[], each),
        done => done,
    }
}

/// Visits every chunk of a manifest, and those of the content of all entries beneath a path.
pub(crate) fn for_each_chunk_beneath(
    store: &Arc<ChunkStore>,
    listed: &Listed,
    beneath: &[u8],
    each: &mut dyn FnMut(ChunkRef),
) -> Result<()> {
    let mut reader = ManifestReader::new(store, &listed.snapshot.manifest)?.remember_chunks();
    let mut meant = beneath.is_empty();
    while let Some(step) = reader.next_step()? {
        reader.take_visited().into_iter().for_each(&mut *each);
        match step {
            Step::Damage(damage) => {
                return Err(Error::Refused(format!(
                    "snapshot {} is damaged after {}; nothing is removed while it is ({}): {}",
                    listed.id.short(),
                    damage.after,
                    way_out(store),
                    chunkstore::store::describe(&damage.error)
                )));
            }
            Step::Record(manifest::Record::Entry(entry)) => meant = is_beneath(&entry.path, beneath),
            Step::Record(manifest::Record::Chunks(chunks)) if meant => {
                chunks.into_iter().for_each(&mut *each);
            }
            Step::Record(_) => {}
        }
    }
    reader.take_visited().into_iter().for_each(each);
    Ok(())
}

/// Ids looked up at a time.
const LOOKUP: usize = 1024;

/// Whether a snapshot can be restored whole without some packs, as far as the index says. A list of entries that cannot
/// be read is an error.
pub(crate) fn stands_without(
    store: &Arc<ChunkStore>,
    listed: &Listed,
    packs: &HashSet<PackId>,
) -> Result<bool> {
    if packs.is_empty() {
        return Ok(true);
    }
    let mut ids: Vec<ChunkId> = vec![];
    for_each_chunk(store, listed, &mut |chunk| ids.push(chunk.id))?;
    let mut doubtful = vec![];
    for ids in ids.chunks(LOOKUP) {
        let found = ground(&**store.index(), ids, packs)?;
        doubtful.extend(ids.iter().zip(found).filter(|(_, found)| found.is_none()).map(|(id, _)| *id));
    }
    if doubtful.is_empty() {
        return Ok(true);
    }
    Ok(ground_everywhere(store, &doubtful, packs)?.iter().all(Option::is_some))
}

/// The command that makes damaged segments of a store's index anew.
#[must_use]
pub fn repair_index(store: &ChunkStore) -> String {
    match store.tier() {
        Some(_) => format!("'esker -r {} repair index'", crate::shown::line(&store.storage().place())),
        None => "'esker repair index'".into(),
    }
}

/// What a snapshot needs and its store has lost, for people; `None` if it can be restored whole, as far as the index and a
/// listing of the packs say.
///
/// # Errors
/// Of the store, and a list of entries that cannot be read.
pub fn lost_of(store: &Arc<ChunkStore>, listed: &Listed) -> Result<Option<String>> {
    let lost = store.lost_packs(Duration::ZERO)?;
    if stands_without(store, listed, &lost.ids())? {
        return Ok(None);
    }
    let names = lost.names();
    Ok(Some(format!("packs that it needs are missing, or have another length than they had ({names})")))
}

/// Where damage of a store is told of, or mended.
pub(crate) fn way_out(store: &ChunkStore) -> String {
    match store.tier() {
        Some(tier) => format!("'esker heal {tier}' mends what another tier has"),
        None => "see 'esker check'".into(),
    }
}
