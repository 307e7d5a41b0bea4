//! What a host may build on: what it brings now, and what its own snapshots have that are still there. Any other chunk counts
//! as missing, whether the repository has it or not. Otherwise an answer would say which chunks other hosts have, and whoever
//! can guess a content could ask for it.

use super::chunks::Chunks;
use super::{Admitter, Refusal, refused};
use crate::Error;
use crate::manifest::{ManifestReader, ManifestRoot, lists};
use chunkstore::ingest::ChunkRef;
use chunkstore::{ChunkId, ObjectId};
use std::collections::{HashMap, HashSet, VecDeque};

/// A walk may visit so many times the bytes of the distinct chunks of a manifest. Honest manifests visit each chunk once,
/// except where equal stretches of a long file make equal chunks.
const MOST_REPEATS: u64 = 16;

/// Chunks of a manifest that are read at a time.
const LISTS: usize = 16;

/// And so many bytes besides: equal chunks of a manifest are of one file, and list its chunks in 36 bytes each. At 2 MiB a
/// chunk, this is a file of zeros of 14 TiB.
const MORE_BYTES: u64 = 256 << 20;

/// A visit counts as so many bytes at least: reading a short chunk costs no less.
const LEAST_VISIT: u64 = 4096;

/// How far a walk has come, which a manifest of a few kilobytes could make endless.
#[derive(Default)]
struct Visits {
    distinct: HashSet<ChunkId>,
    plain: u64,
    visited: u64,
}

impl Visits {
    /// Counts a visit; `false` if there are more than any honest manifest has.
    fn count(&mut self, chunk: &ChunkRef) -> bool {
        let bytes = u64::from(chunk.len).max(LEAST_VISIT);
        if self.distinct.insert(chunk.id) {
            self.plain += bytes;
        }
        self.visited += bytes;
        self.visited <= MOST_REPEATS * self.plain + MORE_BYTES
    }

    /// Bytes of visits that bring nothing new.
    fn repeats(&self) -> u64 {
        self.visited - self.plain
    }
}

/// The chunks of a manifest that hold records, in order. `there` gets each level's chunks, before any of them is read, and
/// returns those that can be. What is visited again is counted in the admission's costs.
pub(super) fn leaves(
    admitter: &Admitter<'_>,
    root: &ManifestRoot,
    there: &mut dyn FnMut(Vec<ChunkRef>) -> std::result::Result<Vec<ChunkRef>, Refusal>,
) -> std::result::Result<Vec<ChunkRef>, Refusal> {
    let mut visits = Visits::default();
    let leaves = visit(admitter, root, &mut visits, there);
    admitter.budget.spend(visits.repeats());
    leaves
}

fn visit(
    admitter: &Admitter<'_>,
    root: &ManifestRoot,
    visits: &mut Visits,
    there: &mut dyn FnMut(Vec<ChunkRef>) -> std::result::Result<Vec<ChunkRef>, Refusal>,
) -> std::result::Result<Vec<ChunkRef>, Refusal> {
    let store = admitter.repo.store();
    // It refuses roots that nobody can read.
    match ManifestReader::new(store, root) {
        Err(Error::Malformed { why, .. }) => return refused(format!("its list of entries: {why}")),
        reader => drop(reader?),
    }
    let mut count = |chunks: Vec<ChunkRef>| {
        if chunks.iter().all(|chunk| visits.count(chunk)) {
            return Ok(chunks);
        }
        refused("its list of entries: the same stretches come again and again")
    };
    let mut level = count(root.chunks.iter().map(|(id, len)| ChunkRef { id: *id, len: *len }).collect())?;
    for _ in 0..root.level {
        let mut below = vec![];
        for chunk in there(level)? {
            match lists::read_list(store, chunk) {
                Ok(chunks) => below.extend(count(chunks)?),
                error => super::of_host(error.map(drop))?,
            }
            if admitter.monitor.interrupted() {
                return Err(Refusal::Fail(Error::Interrupted));
            }
        }
        level = below;
    }
    there(level)
}

/// The chunks of a host's snapshots. Few are looked at: those of the last one explain nearly all.
pub(super) struct Own<'a> {
    admitter: &'a Admitter<'a>,
    /// Manifests that were not looked at, the newest first.
    left: VecDeque<ManifestRoot>,
    /// Whether only the last one was asked for by now.
    has_more: bool,
    /// Whether another one than the last was looked at.
    is_beyond_last: bool,
    /// Manifest chunks of those that were looked at.
    lists: HashSet<ChunkId>,
    /// Those of them that hold records and were not read yet, in the order in which they are.
    unread: Vec<ChunkRef>,
    /// Chunks of content that [`Own::lacks`] came across, in as many bytes as [`Chunks`] takes.
    known: Chunks,
}

impl<'a> Own<'a> {
    pub(super) fn new(admitter: &'a Admitter<'a>) -> std::result::Result<Self, Refusal> {
        let last = match &admitter.host.snapshot {
            Some(id) => admitter.repo.present(id)?,
            None => None,
        };
        let is_own = |listed: &crate::snapshot::Listed| is_of(&listed.snapshot, &admitter.host.id);
        let left = last.filter(is_own).map(|last| last.snapshot.manifest).into_iter().collect();
        Ok(Self {
            admitter,
            left,
            has_more: true,
            is_beyond_last: false,
            lists: HashSet::new(),
            unread: vec![],
            known: Chunks::default(),
        })
    }

    /// Whether a snapshot of the host has this chunk as one of its manifest.
    pub(super) fn has_list(&mut self, id: &ChunkId) -> std::result::Result<bool, Refusal> {
        while !self.lists.contains(id) {
            if !self.look_at_next()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a manifest chunk is of a snapshot of the host that was looked at.
    pub(super) fn knows_list(&self, id: &ChunkId) -> bool {
        self.lists.contains(id)
    }

    /// Those of some chunks that no snapshot of the host has. Each list of entries is read once, however often this is called,
    /// and only as far as it is needed: bases come about in the order in which the last snapshot lists them.
    pub(super) fn lacks(
        &mut self,
        mut wanted: HashSet<ChunkId>,
    ) -> std::result::Result<HashSet<ChunkId>, Refusal> {
        wanted.retain(|id| !self.known.contains(id));
        while !wanted.is_empty() {
            if self.unread.is_empty() && !self.look_at_next()? {
                break;
            }
            let rest = self.unread.split_off(self.unread.len().min(LISTS));
            let leaves = std::mem::replace(&mut self.unread, rest);
            self.spend_on(&leaves);
            let known = &mut self.known;
            each_leaf(self.admitter, leaves, &mut |_, chunks| {
                for chunk in chunks {
                    known.insert(0, &chunk.id);
                    wanted.remove(&chunk.id);
                }
                Ok(true)
            })?;
        }
        Ok(wanted)
    }

    /// Counts what is read of older snapshots than the last: each run may ask for what only the oldest one has.
    fn spend_on(&self, leaves: &[ChunkRef]) {
        if self.is_beyond_last {
            self.spend(leaves.iter().map(|chunk| u64::from(chunk.len).max(LEAST_VISIT)).sum());
        }
    }

    /// Counts bytes that were read for little.
    pub(super) fn spend(&self, bytes: u64) {
        self.admitter.budget.spend(bytes);
    }

    /// Takes those chunks out of `needed` that a snapshot of the host has, and returns them. Chunks of manifests that are
    /// in `seen` come last: what they list was found to be there.
    pub(super) fn explain(
        &mut self,
        needed: &mut HashMap<ChunkId, u32>,
        seen: &HashSet<ChunkId>,
    ) -> std::result::Result<Vec<ChunkRef>, Refusal> {
        let mut explained = vec![];
        let mut take = |needed: &mut HashMap<ChunkId, u32>, id: &ChunkId| {
            if let Some(len) = needed.remove(id) {
                explained.push(ChunkRef { id: *id, len });
            }
        };
        let lists = |needed: &HashMap<ChunkId, u32>, own: &Self| -> Vec<ChunkId> {
            needed.keys().filter(|id| own.lists.contains(*id)).copied().collect()
        };
        let mut last = vec![];
        loop {
            for id in lists(needed, self) {
                take(needed, &id);
            }
            let (late, first): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.unread).into_iter().partition(|chunk| seen.contains(&chunk.id));
            last.extend(late);
            self.read(first, needed, &mut take)?;
            if needed.is_empty() || !self.look_at_next()? {
                break;
            }
        }
        self.read(last, needed, &mut take)?;
        Ok(explained)
    }

    /// Takes out of `needed` what these chunks of manifests list, until nothing is left.
    fn read(
        &self,
        leaves: Vec<ChunkRef>,
        needed: &mut HashMap<ChunkId, u32>,
        take: &mut dyn FnMut(&mut HashMap<ChunkId, u32>, &ChunkId),
    ) -> std::result::Result<(), Refusal> {
        if needed.is_empty() {
            return Ok(());
        }
        self.spend_on(&leaves);
        each_leaf(self.admitter, leaves, &mut |_, chunks| {
            chunks.iter().for_each(|chunk| take(needed, &chunk.id));
            Ok(!needed.is_empty())
        })
    }

    /// Looks at which chunks the manifest of the next snapshot has; `false` if there is none.
    fn look_at_next(&mut self) -> std::result::Result<bool, Refusal> {
        if self.left.is_empty() && std::mem::take(&mut self.has_more) {
            let host = self.admitter.host.id;
            let manifests = self.admitter.repo.look(self.admitter.monitor, |past| {
                let mut manifests = VecDeque::new();
                past.newest(
                    |_| true,
                    |snapshot| {
                        if is_of(snapshot, &host) {
                            manifests.push_back(snapshot.manifest.clone());
                        }
                        false
                    },
                )?;
                Ok(manifests)
            })?;
            self.left = manifests;
            self.is_beyond_last = true;
        }
        let Some(root) = self.left.pop_front() else { return Ok(false) };
        // Which chunks it has, whatever their order: each is read once, however often the snapshots list it.
        let mut all = HashSet::new();
        let found = leaves(self.admitter, &root, &mut |mut level| {
            level.retain(|chunk| !self.lists.contains(&chunk.id) && all.insert(chunk.id));
            Ok(level)
        });
        match found {
            Ok(leaves) => {
                self.unread.extend(leaves);
                self.lists.extend(all);
            }
            Err(Refusal::Fail(error)) => return Err(Refusal::Fail(error)),
            // A damaged snapshot explains nothing: the host brings again what it had.
            Err(Refusal::Settle { .. }) => {}
        }
        Ok(true)
    }
}

fn is_of(snapshot: &crate::snapshot::Snapshot, host: &ObjectId) -> bool {
    snapshot.signed.as_ref().is_some_and(|signed| signed.host == *host)
}

/// Calls `each` with the chunks of content that each of these chunks of a manifest lists, in order, until it returns `false`.
/// What is damaged lists nothing.
pub(super) fn each_leaf(
    admitter: &Admitter<'_>,
    leaves: Vec<ChunkRef>,
    each: &mut dyn FnMut(ChunkId, Vec<ChunkRef>) -> std::result::Result<bool, Refusal>,
) -> std::result::Result<(), Refusal> {
    lists::each_leaf(admitter.repo.store(), leaves, &mut |id, chunks| {
        if admitter.monitor.interrupted() {
            return Err(Refusal::Fail(Error::Interrupted));
        }
        each(id, chunks.unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_bounded_and_what_is_distinct_is_not() {
        let chunk =
            |number: u32| ChunkRef { id: ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes()), len: 1 };
        let mut visits = Visits::default();
        assert!((0..200_000).all(|number| visits.count(&chunk(number))));
        let mut visits = Visits::default();
        let count = (0..200_000).take_while(|_| visits.count(&chunk(1))).count() as u64;
        assert_eq!(count, MORE_BYTES / LEAST_VISIT + MOST_REPEATS);
    }
}
