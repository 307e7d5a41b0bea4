//! The check of a repository: read everything, trust nothing. Damage is reported with what it affects; nothing is
//! changed, unless repairs are requested.

use crate::{ItemError, Monitor, Repository, Result};
use chunkstore::bases::BaseReader;
use chunkstore::format::{ENVELOPE_HEADER_LEN, ObjectKind, names};
use chunkstore::head::Root;
use chunkstore::index::PackEntry;
use chunkstore::store::{ChunkStore, describe};
use chunkstore::{ChunkId, ObjectId, PackId};
use memory::Memory;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

mod kept;
mod memory;
pub(crate) mod packs;
mod snapshots;
mod supply;

/// Which packs are read. Of each choice those come first that were not verified for the longest time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ReadData {
    /// None: only that they are there, with the right length.
    #[default]
    None,
    /// All.
    All,
    /// Part n of t, 1 ≤ n ≤ t, chosen by pack id: t runs, on as many machines at the same time, read everything.
    Part(u32, u32),
    /// About this share of the bytes, 0 to 1.
    Share(f64),
    /// About this many bytes.
    Bytes(u64),
}

/// Choices for a check.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CheckOptions {
    /// Which packs are read.
    pub read_data: ReadData,
    /// Skip packs that this machine found sound within this time, in milliseconds.
    pub not_verified_within_ms: Option<u64>,
    /// Repair damaged packs from other tiers or their parity, fetch missing ones, and compute missing parity.
    pub heal: bool,
}

impl From<ReadData> for CheckOptions {
    fn from(read_data: ReadData) -> Self {
        Self { read_data, ..Self::default() }
    }
}

/// The result of a check, besides the errors in the monitor.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CheckReport {
    /// Errors.
    pub num_errors: u64,
    /// Snapshots walked through.
    pub snapshots: u64,
    /// Index segments.
    pub segments: u64,
    /// Number of packs.
    pub packs: u64,
    /// Packs read.
    pub packs_read: u64,
    /// Bytes read of them.
    pub bytes_read: u64,
    /// Packs reconstructed from their parity.
    pub packs_healed: u64,
    /// Their damaged bytes, in whole shards.
    pub bytes_healed: u64,
    /// Packs copied from other tiers.
    pub packs_fetched: u64,
    /// Their bytes.
    pub bytes_fetched: u64,
    /// Chunks of lost packs that other tiers had in other packs; sealed again.
    pub chunks_supplied: u64,
    /// Lost packs that are no longer listed, since all their needed chunks are in others.
    pub packs_replaced: u64,
    /// Packs that are damaged or missing, and stay so.
    pub packs_lost: u64,
    /// Records of snapshots copied from other tiers.
    pub snapshots_fetched: u64,
    /// Parity objects computed again.
    pub parity_healed: u64,
    /// Repaired objects, one by one.
    pub healed: Vec<String>,
    /// Whether `repair index` would help.
    pub suggest_repair_index: bool,
    /// Whether a check that mends might help.
    pub suggest_heal: bool,
}

struct Check<'a> {
    store: &'a Arc<ChunkStore>,
    monitor: &'a dyn Monitor,
    options: CheckOptions,
    /// The snapshots that are meant; all if none are given.
    some: Option<&'a HashSet<ObjectId>>,
    /// Opens other tiers, to read chunks of what is lost here.
    others: &'a dyn Fn() -> Vec<Arc<ChunkStore>>,
    report: CheckReport,
    /// Errors so far; a prune may be the explanation.
    errors: Vec<ItemError>,
    /// Chunks that cannot be read where they lie; they may lie elsewhere, too.
    bad: HashSet<(PackId, ChunkId)>,
    /// Packs that are not there: what lies in them, and what stands on that.
    gone: HashSet<PackId>,
    /// The other tiers, once they were needed.
    opened: Option<Vec<Arc<ChunkStore>>>,
    /// Whether what other tiers have was asked for: once will do.
    supplied: bool,
    /// Packs that were read and are not sound.
    unsound: HashSet<PackId>,
    /// Packs that were read and are sound.
    sound: HashSet<PackId>,
    bases: Arc<BaseReader>,
    memory: Memory,
}

/// Times that a check looks again at what a prune may have moved meanwhile.
const ATTEMPTS: u32 = 5;

/// Checks the repository.
pub fn check(
    repo: &Repository,
    options: impl Into<CheckOptions>,
    monitor: &dyn Monitor,
) -> Result<CheckReport> {
    check_some(repo, None, options, monitor)
}

/// Checks the repository, but of its snapshots only `some`, if they are given: then only packs that these need are read.
pub fn check_some(
    repo: &Repository,
    some: Option<&HashSet<ObjectId>>,
    options: impl Into<CheckOptions>,
    monitor: &dyn Monitor,
) -> Result<CheckReport> {
    run(repo, some, &|| vec![], options.into(), monitor)
}

/// Checks the repository and repairs it: `others` opens other tiers of it, from which the chunks of packs are read that
/// no place has in the same form.
pub fn heal(
    repo: &Repository,
    others: &dyn Fn() -> Vec<Arc<ChunkStore>>,
    read_data: ReadData,
    monitor: &dyn Monitor,
) -> Result<CheckReport> {
    let options = CheckOptions { read_data, heal: true, ..CheckOptions::default() };
    run(repo, None, others, options, monitor)
}

fn run(
    repo: &Repository,
    some: Option<&HashSet<ObjectId>>,
    others: &dyn Fn() -> Vec<Arc<ChunkStore>>,
    options: CheckOptions,
    monitor: &dyn Monitor,
) -> Result<CheckReport> {
    let store = repo.store();
    let mut check = Check {
        store,
        monitor,
        options,
        some,
        others,
        report: CheckReport::default(),
        errors: vec![],
        bad: HashSet::new(),
        gone: HashSet::new(),
        unsound: HashSet::new(),
        opened: None,
        supplied: false,
        sound: HashSet::new(),
        bases: Arc::default(),
        memory: Memory::load(store),
    };
    for _ in 0..ATTEMPTS {
        let head = store.reload()?;
        let done = check.all(repo);
        let interrupted = done.is_err();
        // What is missing under one HEAD may be what another one removed.
        if interrupted || check.errors.is_empty() || store.reload()?.generation == head.generation {
            check.report.num_errors = check.errors.len() as u64;
            check.errors.drain(..).for_each(|error| monitor.error(error));
            return done.map(|()| check.report);
        }
        monitor.restart();
        let CheckReport { packs_read, bytes_read, packs_healed, bytes_healed, .. } = check.report;
        let CheckReport { packs_fetched, bytes_fetched, parity_healed, .. } = check.report;
        let CheckReport { chunks_supplied, packs_replaced, snapshots_fetched, .. } = check.report;
        let healed = std::mem::take(&mut check.report.healed);
        let so_far = CheckReport {
            packs_read,
            bytes_read,
            packs_healed,
            bytes_healed,
            packs_fetched,
            bytes_fetched,
            parity_healed,
            chunks_supplied,
            packs_replaced,
            snapshots_fetched,
            healed,
            ..CheckReport::default()
        };
        check.report = so_far;
        check.errors.clear();
        check.bad.clear();
        check.gone.clear();
        check.unsound.clear();
        check.bases = Arc::default();
    }
    Err(crate::Error::Refused(
        "the repository changed under this check again and again; run it when fewer prunes are at work"
            .into(),
    ))
}

impl Check<'_> {
    fn all(&mut self, repo: &Repository) -> Result<()> {
        self.kept()?;
        let packs = self.segments()?;
        let doubtful = self.packs_present(&packs)?;
        match self.needed(repo)? {
            Some(needed) => {
                let is_needed = |pack: &PackEntry| needed.contains(&pack.name.id);
                let chosen: Vec<PackEntry> = packs.iter().filter(|pack| is_needed(pack)).cloned().collect();
                self.read_packs(&chosen, doubtful.into_iter().filter(is_needed).collect())?;
            }
            None => self.read_packs(&packs, doubtful)?,
        }
        self.supply(repo, &packs)?;
        self.report.packs_lost = self.gone.union(&self.unsound).count() as u64;
        self.memory.tidy(&packs.iter().map(|pack| pack.name.id).collect());
        self.snapshots(repo)
    }

    fn fail(&mut self, item: impl Into<String>, message: impl Into<String>) {
        self.errors.push(ItemError { during: "check", item: item.into(), message: message.into() });
    }

    fn healed(&mut self, item: String, what: String) {
        self.report.healed.push(format!("{item}: {what}"));
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

    fn segments(&mut self) -> Result<Vec<PackEntry>> {
        let head = self.store.head();
        let mut packs = vec![];
        for reference in head.segments.iter()? {
            self.report.segments += 1;
            let loaded = self.store.load_segment(reference);
            match self.note(&names::segment(&reference.id), loaded)? {
                Some(segment) => packs.extend(segment.packs),
                None => self.report.suggest_repair_index = true,
            }
        }
        self.without_keys()?;
        self.store.sync_index()?;
        let doomed: HashSet<_> = head.doomed.iter()?.map(|pack| pack.id).collect();
        packs.retain(|pack| !doomed.contains(&pack.name.id));
        Ok(packs)
    }

    /// Names snapshots and segments that are there, that HEAD does not list, and that nobody can open: a HEAD that was made
    /// anew without the grants that have their key left them out.
    fn without_keys(&mut self) -> Result<()> {
        let (head, storage, keys) =
            (self.store.head(), Arc::clone(self.store.storage()), Arc::clone(self.store.keys()));
        let mut listed: HashSet<String> = head.segment_ids()?.iter().map(names::segment).collect();
        listed.extend(head.roots.iter()?.map(Root::object));
        let kinds = [(names::SNAPSHOTS, ObjectKind::Snapshot), (names::INDEX, ObjectKind::Segment)];
        for (folder, kind) in kinds {
            let mut unlisted = vec![];
            let list = storage.list(folder, &mut |name, _| {
                unlisted.extend((!listed.contains(name)).then(|| name.to_owned()));
            });
            list.map_err(chunkstore::Error::from)?;
            for name in unlisted {
                // One that others remove meanwhile, or that is too short to say anything, is not listed, and none of ours.
                let Ok(header) = storage.get_range(&name, 0, ENVELOPE_HEADER_LEN as u64) else { continue };
                if let Some(epoch) = keys.lacks_key_of(kind, &header)? {
                    if epoch <= keys.retired() {
                        // Left by a re-encryption where it is locked, put back from a copy, or forged.
                        self.monitor.warning(&format!(
                            "{name} is sealed under epoch {epoch}, which was retired; HEAD does not list it, and nothing needs \
                             it. A prune removes it unless it is locked"
                        ));
                        continue;
                    }
                    let why = format!(
                        "HEAD does not list it, and it cannot be opened: the data key of epoch {epoch} is lost here. A copy of \
                         {} has it: with that in its place, and without HEAD and its copies, 'esker repair head' lists \
                         the object again",
                        names::grants(epoch)
                    );
                    self.fail(name, why);
                }
            }
        }
        Ok(())
    }

    /// Checks that every pack exists with its length, and so does its parity. A listing replaces single requests; packs
    /// that it lacks are requested. Returns those with another length.
    fn packs_present(&mut self, packs: &[PackEntry]) -> Result<Vec<PackEntry>> {
        let parity = self.store.has_parity();
        let mut lengths = HashMap::new();
        for folder in [Some(names::PACKS), parity.then_some(names::PARITY)].into_iter().flatten() {
            let list = self.store.storage().list(folder, &mut |name, len| {
                lengths.insert(name.to_owned(), len);
            });
            list.map_err(chunkstore::Error::from)?;
        }
        let store = self.store;
        let len_of = |name: &str| match lengths.get(name) {
            Some(len) => Ok(*len),
            None => store.storage().len(name).map_err(chunkstore::Error::from),
        };
        let mut doubtful = vec![];
        for pack in packs {
            self.report.packs += 1;
            let name = pack.name.object();
            let mut len = len_of(&name);
            if self.options.heal
                && len.as_ref().is_err_and(chunkstore::Error::is_damage)
                && self.fetch(pack, "missing")?
            {
                len = Ok(pack.len);
            }
            match self.note(&name, len)? {
                Some(len) if len == pack.len => {}
                // Without its end a pack may still have the chunks before it, and perhaps it can be mended: the
                // reading finds out.
                Some(_) => {
                    doubtful.push(pack.clone());
                    continue;
                }
                None => {
                    self.gone.insert(pack.name.id);
                    continue;
                }
            }
            if !parity {
                continue;
            }
            let wrong = match len_of(&pack.name.parity()) {
                Ok(len) if len == chunkstore::parity::len_for(pack.len) => continue,
                Ok(_) => "this parity has another length than that of its pack",
                Err(error) if error.is_damage() => "this parity is missing",
                Err(error) => return Err(error.into()),
            };
            // The reading says it, and mends it.
            if self.options.heal || self.options.read_data != ReadData::None {
                if !self.sound.contains(&pack.name.id) {
                    doubtful.push(pack.clone());
                }
            } else {
                self.report.suggest_heal = true;
                self.fail(pack.name.parity(), wrong);
            }
        }
        Ok(doubtful)
    }
}
