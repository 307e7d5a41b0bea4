//! The check of a repository: read everything, trust nothing. Damage is named, with what it affects;
//! nothing is changed, unless it is to be mended.

use crate::{ItemError, Monitor, Repository, Result};
use chunkstore::bases::BaseReader;
use chunkstore::format::{MAX_SMALL_LEN, names};
use chunkstore::index::PackEntry;
use chunkstore::store::{ChunkStore, describe};
use chunkstore::{ChunkId, ObjectId, PackId};
use memory::Memory;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

mod memory;
pub(crate) mod packs;
mod snapshots;

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
    /// Leave out those that this machine found sound within so many milliseconds.
    pub not_verified_within_ms: Option<u64>,
    /// Mend damaged packs from other tiers or their parity, fetch missing ones, and make missing parity anew.
    pub heal: bool,
}

impl From<ReadData> for CheckOptions {
    fn from(read_data: ReadData) -> Self {
        Self { read_data, ..Self::default() }
    }
}

/// What a check found, besides the errors that went to the monitor.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
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
    /// Packs made whole from their parity.
    pub packs_healed: u64,
    /// Bytes of them that were damaged, in whole parts.
    pub bytes_healed: u64,
    /// Packs copied from other tiers.
    pub packs_fetched: u64,
    /// Their bytes.
    pub bytes_fetched: u64,
    /// Parity made anew.
    pub parity_healed: u64,
    /// What was mended, object by object.
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
    report: CheckReport,
    /// Errors so far; a prune may be the explanation.
    errors: Vec<ItemError>,
    /// Chunks that cannot be read where they lie; they may lie elsewhere, too.
    bad: HashSet<(PackId, ChunkId)>,
    /// Packs that are not there: what lies in them, and what stands on that.
    gone: HashSet<PackId>,
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
    let store = repo.store();
    let mut check = Check {
        store,
        monitor,
        options: options.into(),
        report: CheckReport::default(),
        errors: vec![],
        bad: HashSet::new(),
        gone: HashSet::new(),
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
        let healed = std::mem::take(&mut check.report.healed);
        let so_far = CheckReport {
            packs_read,
            bytes_read,
            packs_healed,
            bytes_healed,
            packs_fetched,
            bytes_fetched,
            parity_healed,
            healed,
            ..CheckReport::default()
        };
        check.report = so_far;
        check.errors.clear();
        check.bad.clear();
        check.gone.clear();
        check.bases = Arc::default();
    }
    Err(crate::Error::Refused(
        "the repository changed under this check again and again; run it when fewer prunes are at work"
            .into(),
    ))
}

impl Check<'_> {
    fn all(&mut self, repo: &Repository) -> Result<()> {
        self.slots()?;
        let packs = self.segments()?;
        let doubtful = self.packs_present(&packs)?;
        self.read_packs(&packs, doubtful)?;
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

    /// Every pack is there with its length, and so is its parity. A listing saves asking for each; what it lacks
    /// is asked for. Returns those with another length.
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
