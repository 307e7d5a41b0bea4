//! The check of a repository: read everything, trust nothing. Damage is named, with what it affects;
//! nothing is changed.

use crate::entry::{Entry, display_path};
use crate::manifest::{Ending, ManifestReader, Record, Step};
use crate::{Counter, Error, ItemError, Monitor, Repository, Result};
use chunkstore::bases::{BaseReader, Grounded, ground, ground_everywhere};
use chunkstore::executor::{Pending, submit};
use chunkstore::format::{MAX_PACK_LEN, MAX_SMALL_LEN, names};
use chunkstore::index::PackEntry;
use chunkstore::ingest::ChunkRef;
use chunkstore::pack::{self, PackReader, Record as PackRecord};
use chunkstore::seal::Decompressor;
use chunkstore::store::{ChunkStore, describe};
use chunkstore::{ChunkId, ObjectId, PackId};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Which packs are read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ReadData {
    /// None: only that they are there, with the right length.
    #[default]
    None,
    /// All.
    All,
    /// Part n of t, 1 ≤ n ≤ t, chosen by pack id, so that t runs read everything.
    Part(u32, u32),
    /// About this share, at random, 0 to 1.
    Share(f64),
    /// About this many bytes, at random.
    Bytes(u64),
}

/// What a check found, besides the errors that went to the monitor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CheckReport {
    /// Errors.
    pub num_errors: u64,
    /// Snapshots walked through.
    pub snapshots: u64,
    /// Index segments.
    pub segments: u64,
    /// Packs looked at.
    pub packs: u64,
    /// Packs read.
    pub packs_read: u64,
    /// Bytes read of them.
    pub bytes_read: u64,
    /// Whether `repair index` would help.
    pub suggest_repair_index: bool,
}

/// Affected paths that are named for each snapshot; more are counted.
const NAMED_PATHS: usize = 20;

struct Check<'a> {
    store: &'a Arc<ChunkStore>,
    monitor: &'a dyn Monitor,
    report: CheckReport,
    /// Chunks that cannot be read where they lie; they may lie elsewhere, too.
    bad: HashSet<(PackId, ChunkId)>,
    /// Packs that are not there: what lies in them, and what stands on that.
    gone: HashSet<PackId>,
    bases: Arc<BaseReader>,
}

/// Checks the repository.
pub fn check(repo: &Repository, read_data: ReadData, monitor: &dyn Monitor) -> Result<CheckReport> {
    let store = repo.store();
    let mut check = Check {
        store,
        monitor,
        report: CheckReport::default(),
        bad: HashSet::new(),
        gone: HashSet::new(),
        bases: Arc::default(),
    };
    check.slots()?;
    let packs = check.segments()?;
    check.packs_present(&packs)?;
    check.read_packs(&packs, read_data)?;
    check.snapshots(repo)?;
    Ok(check.report)
}

impl Check<'_> {
    fn fail(&mut self, item: impl Into<String>, message: impl Into<String>) {
        self.report.num_errors += 1;
        self.monitor.error(ItemError { during: "check", item: item.into(), message: message.into() });
    }

    /// Damage is noted; a store that fails ends the check.
    fn note<T>(&mut self, item: &str, result: chunkstore::Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.is_damage() => {
                self.fail(item, describe(&error));
                Ok(None)
            }
            Err(chunkstore::Error::Unsupported { why }) => {
                self.fail(item, why);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Every slot that HEAD lists is there, byte for byte, and no other.
    fn slots(&mut self) -> Result<()> {
        let mut listed = self.store.head().slots.clone();
        let mut found = vec![];
        let list = self.store.storage().list(names::KEYS, &mut |name, _| found.push(name.to_owned()));
        list.map_err(chunkstore::Error::from)?;
        for name in &found {
            let known = name.rsplit('/').next().and_then(ObjectId::parse).and_then(|id| listed.remove(&id));
            let Some(hash) = known else {
                self.fail(name, "a key slot that HEAD does not list");
                continue;
            };
            let bytes = self.store.storage().get(name, MAX_SMALL_LEN).map_err(chunkstore::Error::from);
            if let Some(bytes) = self.note(name, bytes)?
                && self.store.keys().slot_hash(&bytes) != hash
            {
                self.fail(name, "the key slot was changed: its passphrase may no longer open the repository");
            }
        }
        for id in listed.keys() {
            self.fail(
                names::key(id),
                "the key slot is missing: its passphrase no longer opens the repository",
            );
        }
        Ok(())
    }

    fn segments(&mut self) -> Result<Vec<PackEntry>> {
        let head = self.store.head();
        let mut packs = vec![];
        for reference in &head.segments {
            self.report.segments += 1;
            let loaded = self.store.load_segment(reference);
            match self.note(&names::segment(&reference.id), loaded)? {
                Some(segment) => packs.extend(segment.packs),
                None => self.report.suggest_repair_index = true,
            }
        }
        self.store.sync_index()?;
        let doomed: HashSet<_> = head.doomed.iter().map(|pack| pack.id).collect();
        packs.retain(|pack| !doomed.contains(&pack.name.id));
        Ok(packs)
    }

    /// Every pack is there with its length. A listing saves asking for each; what it lacks is asked for.
    fn packs_present(&mut self, packs: &[PackEntry]) -> Result<()> {
        let mut lengths = HashMap::new();
        let list = self.store.storage().list(names::PACKS, &mut |name, len| {
            lengths.insert(name.to_owned(), len);
        });
        list.map_err(chunkstore::Error::from)?;
        for pack in packs {
            self.report.packs += 1;
            let name = pack.name.object();
            let len = match lengths.get(&name) {
                Some(len) => Some(*len),
                None => {
                    let len = self.store.storage().len(&name).map_err(chunkstore::Error::from);
                    self.note(&name, len)?
                }
            };
            match len {
                Some(len) if len == pack.len => continue,
                Some(len) => self.fail(&name, format!("has {len} bytes instead of {}", pack.len)),
                None => {}
            }
            // Without its end a pack may still have the chunks before it; the reading finds out.
            if len.is_none() {
                self.gone.insert(pack.name.id);
            }
        }
        Ok(())
    }

    fn read_packs(&mut self, packs: &[PackEntry], read_data: ReadData) -> Result<()> {
        let chosen = choose(packs, read_data, self.store)?;
        let total: u64 = chosen.iter().map(|pack| pack.len).sum();
        self.monitor.count(Counter::FilesTotal, chosen.len() as u64);
        self.monitor.count(Counter::BytesTotal, total);
        let mut running: VecDeque<(PackEntry, Pending<PackResult>)> = VecDeque::new();
        let most = self.store.access.io.parallelism();
        for pack in chosen {
            let (store, entry, bases) = (Arc::clone(self.store), pack.clone(), Arc::clone(&self.bases));
            let read = move || read_pack(&store, &entry, &bases);
            running.push_back((pack, submit(&*self.store.access.io, read)));
            while running.len() >= most {
                self.take_pack(&mut running)?;
            }
        }
        while !running.is_empty() {
            self.take_pack(&mut running)?;
        }
        Ok(())
    }

    fn take_pack(&mut self, running: &mut VecDeque<(PackEntry, Pending<PackResult>)>) -> Result<()> {
        let Some((pack, pending)) = running.pop_front() else { return Ok(()) };
        let PackResult { outcome, bad } = pending.wait()?;
        let name = pack.name.object();
        self.report.packs_read += 1;
        self.report.bytes_read += pack.len;
        self.monitor.count(Counter::FilesDone, 1);
        self.monitor.count(Counter::BytesDone, pack.len);
        self.note(&name, outcome)?;
        self.bad.extend(bad.into_iter().map(|chunk| (pack.name.id, chunk)));
        if self.monitor.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Every snapshot can be read, every manifest be walked through, every chunk be found.
    fn snapshots(&mut self, repo: &Repository) -> Result<()> {
        for root in self.store.head().roots.iter().filter(|root| root.kind != "snapshot") {
            let why = format!("HEAD has a root of kind '{}', which this esker cannot follow", root.kind);
            self.fail(root.id.to_string(), why);
        }
        for root in repo.snapshot_roots() {
            self.report.snapshots += 1;
            let name = names::snapshot(&root.id);
            let plain = self.store.read_snapshot(&root);
            let Some(plain) = self.note(&name, plain)? else { continue };
            match serde_json::from_slice::<crate::snapshot::Snapshot>(&plain) {
                Ok(snapshot) => self.manifest(&root.id, &snapshot)?,
                Err(error) => self.fail(name, error.to_string()),
            }
        }
        Ok(())
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

struct PackResult {
    outcome: chunkstore::Result<()>,
    /// Chunks of it that cannot be read.
    bad: Vec<ChunkId>,
}

/// Reads a pack whole. If that fails, finds out which chunks can still be had.
fn read_pack(store: &ChunkStore, entry: &PackEntry, bases: &BaseReader) -> PackResult {
    let object = entry.name.object();
    let bytes = match store.storage().get(&object, MAX_PACK_LEN) {
        Ok(bytes) => bytes,
        Err(error) => {
            let bad = entry.records.iter().map(|record| record.id).collect();
            return PackResult { outcome: Err(error.into()), bad };
        }
    };
    // A delta that no snapshot needs may outlive its bases; what snapshots need is looked at by itself.
    let mut prefix = |record: &PackRecord| match bases.stands(store, record)? {
        true => bases.prefix_of(store, record).map(Some),
        false => Ok(None),
    };
    let outcome = pack::verify(entry.name, store.keys(), &bytes, &mut prefix).and_then(|records| {
        if records == entry.records {
            Ok(())
        } else {
            Err(chunkstore::Error::corrupt(&object, "its directory is not what the index says"))
        }
    });
    let mut bad = vec![];
    if outcome.is_err() {
        let tools =
            PackReader::new(entry.name, store.keys()).and_then(|reader| Ok((reader, Decompressor::new()?)));
        match tools {
            Ok((reader, mut decompressor)) => {
                for record in &entry.records {
                    let sealed = record.range().and_then(|range| bytes.get(range));
                    let opened = sealed.is_some_and(|sealed| {
                        bases.prefix_of(store, record).is_ok_and(|prefix| {
                            reader
                                .open(store.keys(), record, sealed, prefix.bytes(), &mut decompressor)
                                .is_ok()
                        })
                    });
                    if !opened {
                        bad.push(record.id);
                    }
                }
            }
            Err(_) => bad = entry.records.iter().map(|record| record.id).collect(),
        }
    }
    PackResult { outcome, bad }
}

fn choose(packs: &[PackEntry], read_data: ReadData, store: &ChunkStore) -> Result<Vec<PackEntry>> {
    let part = |pack: &PackEntry, parts: u32| {
        u32::from_le_bytes([pack.name.id.0[0], pack.name.id.0[1], pack.name.id.0[2], 0]) % parts
    };
    let shuffled = || -> Result<Vec<PackEntry>> {
        let salt: [u8; 32] = chunkstore::env::random_array(&*store.access.env)?;
        let mut packs = packs.to_vec();
        packs.sort_by_key(|pack| *blake3::keyed_hash(&salt, pack.name.id.as_bytes()).as_bytes());
        Ok(packs)
    };
    Ok(match read_data {
        ReadData::None => vec![],
        ReadData::All => packs.to_vec(),
        ReadData::Part(number, parts) => {
            packs.iter().filter(|pack| part(pack, parts.max(1)) + 1 == number).cloned().collect()
        }
        ReadData::Share(share) => {
            let count = (packs.len() as f64 * share.clamp(0.0, 1.0)).ceil() as usize;
            shuffled()?.into_iter().take(count).collect()
        }
        ReadData::Bytes(bytes) => {
            let mut left = bytes;
            let fits = |pack: &PackEntry| {
                let take = left > 0;
                left = left.saturating_sub(pack.len);
                take
            };
            shuffled()?.into_iter().take_while(fits).collect()
        }
    })
}
