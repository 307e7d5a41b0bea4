//! Every snapshot can be read, every manifest be walked through, every chunk be found.

use super::Check;
use crate::author::{Author, author};
use crate::entry::{Entry, display_path};
use crate::manifest::{Ending, ManifestReader, Record, Step};
use crate::reach::for_each_chunk;
use crate::snapshot::Listed;
use crate::{Error, Repository, Result};
use chunkstore::bases::{Grounded, ground, ground_everywhere};
use chunkstore::head::Root;
use chunkstore::ingest::ChunkRef;
use chunkstore::store::{MAP_ROOT, describe};
use chunkstore::{ChunkId, ObjectId, PackId};
use std::collections::HashSet;

/// Affected paths that are named for each snapshot; more are counted.
const NAMED_PATHS: usize = 20;

impl Check<'_> {
    /// Every snapshot can be read, every manifest be walked through, every chunk be found.
    pub(super) fn snapshots(&mut self, repo: &Repository) -> Result<()> {
        let head = self.store.head();
        for leaf in head.leaves() {
            let checked = self.store.check_leaf(leaf);
            if let Err(error) = &checked
                && error.is_damage()
                && self.store.reload()?.leaves().all(|known| known.object != leaf.object)
            {
                // Swapped out since HEAD was read.
                continue;
            }
            let name = leaf.names().next().unwrap_or_default();
            self.note(&name, checked)?;
        }
        for root in self.store.head().roots.iter()?.filter(|root| root.kind != "snapshot") {
            if root.kind == MAP_ROOT {
                let map = self.store.read_map(root);
                self.note(&root.object(), map)?;
                continue;
            }
            if root.is_report() {
                let doubt = repo.doubt_report(root);
                if let Some(Some(why)) = self.note(&root.object(), doubt)? {
                    self.fail(root.object(), why);
                }
                continue;
            }
            let why = format!("HEAD has a root of kind '{}', which this esker cannot follow", root.kind);
            self.fail(root.id.to_string(), why);
        }
        let hosts = self.store.hosts()?;
        for root in self.roots(repo)? {
            self.report.snapshots += 1;
            let name = root.object();
            let mut plain = self.store.read_snapshot(&root);
            if plain.as_ref().is_err_and(chunkstore::Error::is_damage) && self.fetch_snapshot(&root) {
                plain = self.store.read_snapshot(&root);
            }
            let Some(plain) = self.note(&name, plain)? else { continue };
            if root.record.read().ok().flatten().is_some_and(|record| record[..] != plain[..]) {
                self.fail(name.clone(), "HEAD's copy of the record is another one");
            }
            match serde_json::from_slice::<crate::snapshot::Snapshot>(&plain) {
                Ok(snapshot) => {
                    if let Author::Doubtful(why) = author(&snapshot, self.store.keys().repository(), &hosts) {
                        self.fail(name.clone(), format!("its signature: {why}"));
                    }
                    self.manifest(&root.id, &snapshot)?;
                }
                Err(error) => self.fail(name, error.to_string()),
            }
        }
        Ok(())
    }

    /// The snapshots to check.
    fn roots(&self, repo: &Repository) -> Result<Vec<Root>> {
        let mut roots = repo.snapshot_roots()?;
        roots.retain(|root| self.some.is_none_or(|some| some.contains(&root.id)));
        Ok(roots)
    }

    /// The packs that the snapshots that are meant stand on; `None` if all are meant. What of them cannot be found is
    /// told by the look at the snapshots.
    pub(super) fn needed(&self, repo: &Repository) -> Result<Option<HashSet<PackId>>> {
        if self.some.is_none() {
            return Ok(None);
        }
        let mut needed = HashSet::new();
        for root in self.roots(repo)? {
            let snapshot = match repo.read_snapshot(&root) {
                Ok(snapshot) => snapshot,
                Err(Error::Store(error)) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            let mut ids = vec![];
            let walked = for_each_chunk(self.store, &Listed { id: root.id, snapshot }, &mut |chunk| {
                ids.push(chunk.id);
            });
            match walked {
                Err(Error::Store(error)) if !error.is_damage() => return Err(error.into()),
                // What comes after the damage is not known; the packs up to there are.
                _ => {}
            }
            for ids in ids.chunks(4096) {
                for grounded in ground(&**self.store.index(), ids, &HashSet::new())?.into_iter().flatten() {
                    needed.extend(grounded.packs);
                }
            }
        }
        Ok(Some(needed))
    }

    fn manifest(&mut self, id: &ObjectId, snapshot: &crate::snapshot::Snapshot) -> Result<()> {
        let mut reader = match ManifestReader::new(self.store, &snapshot.manifest) {
            Err(Error::Malformed { what, why }) => {
                self.fail(format!("snapshot {}", id.short()), format!("{what}: {why}"));
                return Ok(());
            }
            reader => reader?,
        };
        let mut open: Option<Box<Entry>> = None;
        let (mut broken, mut size) = (false, 0u64);
        let (mut entries, mut bytes) = (0, 0);
        let mut affected = Affected::default();
        let mut damaged = false;
        while let Some(step) = reader.next_step()? {
            match step {
                Step::Damage(damage) => {
                    damaged = true;
                    open = None;
                    let item = format!("snapshot {}: entries after {}", id.short(), damage.after);
                    self.fail(item, describe(&damage.error));
                }
                Step::Record(Record::Entry(entry)) => {
                    (open, broken, size) = (Some(entry), false, 0);
                }
                Step::Record(Record::Chunks(chunks)) => {
                    size += chunks.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>();
                    broken |= !self.all_there(&chunks)?;
                }
                Step::Record(Record::Hole(len)) => size += len,
                Step::Record(Record::End(ending, recorded)) => {
                    let Some(entry) = open.take() else { continue };
                    if ending == Ending::Dropped {
                        continue;
                    }
                    entries += 1;
                    bytes += recorded;
                    if broken || size != recorded {
                        affected.add(&entry);
                    }
                }
            }
            if self.monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        if !damaged && (entries, bytes) != (snapshot.manifest.entries, snapshot.manifest.bytes) {
            self.fail(
                format!("snapshot {}", id.short()),
                "its manifest does not hold what the snapshot says",
            );
        }
        for path in &affected.paths {
            self.fail(
                format!("snapshot {}: {path}", id.short()),
                "parts of its content are damaged or missing",
            );
        }
        if affected.more > 0 {
            self.fail(
                format!("snapshot {}", id.short()),
                format!("{} more entries are affected", affected.more),
            );
        }
        Ok(())
    }

    fn all_there(&self, chunks: &[ChunkRef]) -> Result<bool> {
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
        let found = ground(&**self.store.index(), &ids, &self.gone)?;
        let fine = |chunk: &ChunkRef, grounded: &Option<Grounded>| {
            grounded.as_ref().is_some_and(|Grounded { location, .. }| {
                location.record.plain_len == chunk.len
                    && !self.bad.contains(&(location.pack.name.id, chunk.id))
            })
        };
        let doubtful: Vec<ChunkRef> = chunks
            .iter()
            .zip(&found)
            .filter(|(chunk, found)| !fine(chunk, found))
            .map(|(chunk, _)| *chunk)
            .collect();
        if doubtful.is_empty() {
            return Ok(true);
        }
        // Not where the index says; a restore would look everywhere, too.
        let ids: Vec<ChunkId> = doubtful.iter().map(|chunk| chunk.id).collect();
        let mut avoid = self.gone.clone();
        avoid.extend(self.bad.iter().filter(|(_, id)| ids.contains(id)).map(|(pack, _)| *pack));
        let found = ground_everywhere(self.store, &ids, &avoid)?;
        Ok(doubtful.iter().zip(&found).all(|(chunk, found)| fine(chunk, found)))
    }
}

#[derive(Default)]
struct Affected {
    paths: Vec<String>,
    more: u64,
}

impl Affected {
    fn add(&mut self, entry: &Entry) {
        if self.paths.len() < NAMED_PATHS {
            self.paths.push(display_path(&entry.path));
        } else {
            self.more += 1;
        }
    }
}
