//! What a snapshot that a host brought needs: every chunk of it must be in the repository, and be the host's to build on,
//! before it counts.

use super::chunks::Chunks;
use super::own::{Own, each_leaf, leaves};
use super::{Admitter, Refusal, doubted, refused};
use crate::Error;
use crate::entry::Kind;
use crate::manifest::{Ending, ManifestReader, ManifestRoot, Record, Step};
use crate::snapshot::Snapshot;
use chunkstore::ChunkId;
use chunkstore::inbox::reply::MOST_MISSING;
use chunkstore::ingest::{ChunkRef, Dedupe};
use chunkstore::store::describe;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Chunks that a snapshot needs and that are not there, or not the host's to build on.
#[derive(Clone, Debug, Default)]
pub(super) struct Missing {
    /// Their ids, at most [`MOST_MISSING`].
    pub(super) ids: Vec<ChunkId>,
    /// There may be others: a part of the list of entries is missing itself, or they are too many to be named.
    pub(super) is_incomplete: bool,
}

/// Ids looked up at a time.
const LOOKUP: usize = 1024;

/// What was found of a snapshot's needs.
pub(super) struct Needs {
    /// Chunks that are not there, or not the host's to build on.
    pub(super) missing: Missing,
    /// Files and streams among the entries, if nothing is missing.
    pub(super) files: u64,
}

/// Looks chunks up that the host may build on.
struct Lookup<'a> {
    dedupe: &'a Arc<Dedupe>,
    missing: HashSet<ChunkId>,
    waiting: Vec<ChunkRef>,
}

impl Lookup<'_> {
    /// Those of these that are there: the session relies on them.
    fn there(&mut self, chunks: &[ChunkRef]) -> std::result::Result<Vec<ChunkRef>, Refusal> {
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
        let mut there = vec![];
        for (chunk, len) in chunks.iter().zip(self.dedupe.lens(&ids)?) {
            match len {
                Some(len) if len == chunk.len => there.push(*chunk),
                Some(_) => return lied(chunk),
                None => {
                    self.missing.insert(chunk.id);
                }
            }
        }
        Ok(there)
    }

    /// The same of many, for whoever only wants to know which are missing.
    fn look(&mut self, chunk: ChunkRef) -> std::result::Result<(), Refusal> {
        self.waiting.push(chunk);
        if self.waiting.len() >= LOOKUP { self.finish() } else { Ok(()) }
    }

    fn finish(&mut self) -> std::result::Result<(), Refusal> {
        let waiting = std::mem::take(&mut self.waiting);
        self.there(&waiting).map(drop)
    }
}

/// A chunk whose length is not what the snapshot says would be damage for whoever reads it.
fn lied<T>(chunk: &ChunkRef) -> std::result::Result<T, Refusal> {
    refused(format!("its list of entries: chunk {} does not have {} bytes", chunk.id.short(), chunk.len))
}

impl Admitter<'_> {
    /// What the snapshot needs and does not have, the bases of its differences included, so that one answer names all of it;
    /// the session relies on all the rest. What the manifest says of its entries is compared with them.
    pub(super) fn needs(
        &self,
        dedupe: &Arc<Dedupe>,
        brought: &Chunks,
        missing_bases: HashSet<ChunkId>,
        snapshot: &Snapshot,
    ) -> std::result::Result<Needs, Refusal> {
        let mut own = Own::new(self)?;
        let mut lookup = Lookup { dedupe, missing: HashSet::new(), waiting: vec![] };
        let leaves = leaves(self, &snapshot.manifest, &mut |level| {
            let mut there = vec![];
            for chunks in level.chunks(LOOKUP) {
                let mut allowed = vec![];
                for chunk in chunks {
                    if brought.contains(&chunk.id) || own.has_list(&chunk.id)? {
                        allowed.push(*chunk);
                    } else {
                        lookup.missing.insert(chunk.id);
                    }
                }
                there.extend(lookup.there(&allowed)?);
            }
            Ok(there)
        })?;
        let is_whole = lookup.missing.is_empty();
        let seen: HashSet<ChunkId> = leaves.iter().map(|chunk| chunk.id).collect();
        let mut needed = HashMap::new();
        let mut each = |leaf: ChunkId, chunks: Vec<ChunkRef>| {
            // All that such a one lists is in a snapshot of the host.
            let is_own = own.knows_list(&leaf);
            for chunk in chunks {
                if is_own || brought.contains(&chunk.id) {
                    lookup.look(chunk)?;
                } else if needed.insert(chunk.id, chunk.len).is_some_and(|len| len != chunk.len) {
                    return lied(&chunk);
                }
            }
            Ok(())
        };
        let files = if is_whole {
            self.walk(&leaves, snapshot, &mut each)?
        } else {
            each_leaf(self, leaves, &mut |leaf, chunks| each(leaf, chunks).map(|()| true))?;
            0
        };
        if !needed.is_empty() {
            for chunk in own.explain(&mut needed, &seen)? {
                lookup.look(chunk)?;
            }
        }
        lookup.finish()?;
        // These are not looked up: nothing depends on whether they are there.
        lookup.missing.extend(needed.into_keys());
        // What is made of a base that is missing comes again with the run.
        lookup.missing.retain(|id| !brought.contains(id));
        lookup.missing.extend(missing_bases);
        let mut ids: Vec<ChunkId> = lookup.missing.into_iter().collect();
        ids.sort_unstable();
        // What a missing part of the list of entries would have named is unknown.
        let is_incomplete = !is_whole || ids.len() > MOST_MISSING;
        ids.truncate(MOST_MISSING);
        Ok(Needs { missing: Missing { ids, is_incomplete }, files })
    }

    /// Walks through the entries of a manifest all of whose chunks are there, and returns how many files there are.
    fn walk(
        &self,
        leaves: &[ChunkRef],
        snapshot: &Snapshot,
        each: &mut dyn FnMut(ChunkId, Vec<ChunkRef>) -> std::result::Result<(), Refusal>,
    ) -> std::result::Result<u64, Refusal> {
        let said = &snapshot.manifest;
        let chunks = leaves.iter().map(|chunk| (chunk.id, chunk.len)).collect();
        let root = ManifestRoot { level: 0, chunks, ..ManifestRoot::default() };
        let mut reader = ManifestReader::new(self.repo.store(), &root)?;
        let (mut entries, mut bytes, mut files, mut is_file) = (0u64, 0u64, 0u64, false);
        while let Some(step) = reader.next_step()? {
            match step {
                Step::Record(Record::Chunks(chunks)) => each(reader.chunk(), chunks)?,
                Step::Record(Record::Entry(entry)) => is_file = entry.kind == Kind::File,
                Step::Record(Record::End(Ending::Complete, size)) => {
                    entries += 1;
                    files += u64::from(is_file);
                    bytes = bytes.saturating_add(size);
                }
                Step::Record(Record::End(Ending::Dropped, _) | Record::Hole(_)) => {}
                Step::Damage(damage) => {
                    return doubted(format!("its list of entries: {}", describe(&damage.error)));
                }
            }
            if self.monitor.interrupted() {
                return Err(Refusal::Fail(Error::Interrupted));
            }
        }
        if (entries, bytes) != (said.entries, said.bytes) {
            return refused("its list of entries does not hold what the snapshot says");
        }
        Ok(files)
    }
}
