//! What a snapshot needs: every chunk that can be reached from it.

use crate::entry::is_beneath;
use crate::manifest::{self, ManifestReader, Step};
use crate::snapshot::Listed;
use crate::{Error, Result};
use chunkstore::ChunkId;
use chunkstore::ingest::ChunkRef;
use chunkstore::store::ChunkStore;
use std::sync::Arc;

/// First half of a chunk id: ample to tell keyed hashes apart.
pub(crate) type ShortId = [u8; 16];

pub(crate) fn short(id: &ChunkId) -> ShortId {
    let mut key = [0; 16];
    key.copy_from_slice(&id.0[..16]);
    key
}

/// Visits every chunk that a snapshot needs, its manifest's own included.
pub(crate) fn for_each_chunk(
    store: &Arc<ChunkStore>,
    listed: &Listed,
    each: &mut dyn FnMut(ChunkRef),
) -> Result<()> {
    for_each_chunk_beneath(store, listed, &[], each)
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
                    "snapshot {} is damaged after {}; nothing is removed while it is (see 'esker check'): {}",
                    listed.id.short(),
                    damage.after,
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
