//! What a snapshot that a host brought needs: every chunk of it must be in the repository before it counts.

use super::{Admitter, Refusal, doubted, refused};
use crate::Error;
use crate::manifest::{ManifestReader, Record, Step};
use crate::snapshot::Snapshot;
use chunkstore::ChunkId;
use chunkstore::inbox::reply::MOST_MISSING;
use chunkstore::ingest::Dedupe;
use chunkstore::store::describe;
use std::collections::HashSet;
use std::sync::Arc;

/// Chunks that a snapshot needs and that are nowhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Missing {
    /// Their ids, at most [`MOST_MISSING`].
    pub(super) ids: Vec<ChunkId>,
    /// There may be others: a part of the list of entries is missing itself, or they are too many to be named.
    pub(super) is_incomplete: bool,
}

/// Ids looked up at a time.
const LOOKUP: usize = 1024;

impl Admitter<'_> {
    /// Chunks that the snapshot needs and that are nowhere; the session relies on all others.
    pub(super) fn missing(
        &self,
        dedupe: &Arc<Dedupe>,
        snapshot: &Snapshot,
    ) -> std::result::Result<Missing, Refusal> {
        let store = self.repo.store();
        let mut missing = HashSet::new();
        let mut needed: Vec<ChunkId> = snapshot.manifest.chunks.iter().map(|(id, _)| *id).collect();
        let mut look = |needed: &mut Vec<ChunkId>, least: usize| -> std::result::Result<bool, Refusal> {
            if needed.len() < least {
                return Ok(true);
            }
            for ids in std::mem::take(needed).chunks(LOOKUP) {
                if !dedupe.keep(ids)? {
                    for id in ids {
                        if !dedupe.keep(&[*id])? {
                            missing.insert(*id);
                        }
                    }
                }
            }
            Ok(missing.len() < MOST_MISSING)
        };
        // Without these there is nothing to read.
        look(&mut needed, 0)?;
        let whole = match ManifestReader::new(store, &snapshot.manifest) {
            Ok(reader) => Some(reader),
            Err(Error::Store(error)) if error.is_damage() => None,
            Err(Error::Malformed { why, .. }) => return refused(format!("its list of entries: {why}")),
            Err(error) => return Err(Refusal::Fail(error)),
        };
        let mut is_incomplete = whole.is_none();
        if let Some(reader) = whole {
            let mut reader = reader.remember_chunks();
            loop {
                let step = match reader.next_step() {
                    Ok(Some(step)) => step,
                    Ok(None) => break,
                    Err(Error::Malformed { why, .. }) => {
                        return refused(format!("its list of entries: {why}"));
                    }
                    Err(error) => return Err(Refusal::Fail(error)),
                };
                needed.extend(reader.take_visited().into_iter().map(|chunk| chunk.id));
                match step {
                    Step::Record(Record::Chunks(chunks)) => {
                        needed.extend(chunks.into_iter().map(|chunk| chunk.id));
                    }
                    Step::Record(_) => {}
                    Step::Damage(damage) => {
                        needed.push(damage.chunk);
                        look(&mut needed, 0)?;
                        if !dedupe.keep(&[damage.chunk])? {
                            // What it would have named is unknown.
                            is_incomplete = true;
                            continue;
                        }
                        return doubted(format!("its list of entries: {}", describe(&damage.error)));
                    }
                }
                if !look(&mut needed, LOOKUP)? {
                    is_incomplete = true;
                    break;
                }
                if self.monitor.interrupted() {
                    return Err(Refusal::Fail(Error::Interrupted));
                }
            }
            needed.extend(reader.take_visited().into_iter().map(|chunk| chunk.id));
        }
        look(&mut needed, 0)?;
        let mut ids: Vec<ChunkId> = missing.into_iter().collect();
        ids.sort_unstable();
        is_incomplete |= ids.len() > MOST_MISSING;
        ids.truncate(MOST_MISSING);
        Ok(Missing { ids, is_incomplete })
    }
}
