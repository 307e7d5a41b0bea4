//! Packs that the index lists, and that the store lacks or has with another length. One listing of the store finds
//! them all, for which S3 charges one request per 1000 packs (64 GB at their usual size); no content is read. Writers must
//! not rely on them. One that relies on few packs asks for these only: what it costs does not grow with the repository.

use super::ChunkStore;
use crate::format::names;
use crate::id::{ObjectId, PackId};
use crate::index::PackInfo;
use crate::pool::locked;
use crate::storage::ErrorKind;
use crate::{Error, Result};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// After so many questions about single packs, the store is listed, which answers all others.
const ASKED_AT_MOST: usize = 16;

/// So many are named in a message.
const NAMED: usize = 3;

/// Packs that are not there as they should be.
#[derive(Clone, Debug, Default)]
pub struct LostPacks {
    /// HEAD counts on them.
    listed: BTreeMap<PackId, Arc<PackInfo>>,
    /// A prune removed them since HEAD was read: no damage, but nothing to build on either.
    removed: HashSet<PackId>,
}

impl LostPacks {
    /// None, for callers that rely on no existing pack.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Whether HEAD counts on none of them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// How many of them HEAD counts on.
    #[must_use]
    pub fn len(&self) -> usize {
        self.listed.len()
    }

    /// All packs that must not be relied on.
    #[must_use]
    pub fn ids(&self) -> HashSet<PackId> {
        self.listed.keys().chain(&self.removed).copied().collect()
    }

    /// The first few, for messages: `packs/… and packs/…`.
    #[must_use]
    pub fn names(&self) -> String {
        let mut names: Vec<String> =
            self.listed.values().take(NAMED).map(|pack| pack.name.object()).collect();
        if self.len() > NAMED {
            names.push(format!("{} more", self.len() - NAMED));
        }
        match names.split_last() {
            Some((last, before)) if !before.is_empty() => format!("{} and {last}", before.join(", ")),
            _ => names.concat(),
        }
    }

    /// They are there again, or no longer listed.
    pub fn forget(&mut self, packs: &HashSet<PackId>) {
        self.listed.retain(|id, _| !packs.contains(id));
    }
}

/// Packs that were asked about one by one. Each is asked about once; after some of them the store is listed.
#[derive(Default)]
pub struct Asked(Mutex<Answers>);

#[derive(Default)]
struct Answers {
    /// Whether a pack is there as the index has it.
    is_there: HashMap<PackId, bool>,
    /// Those that are not.
    lost: BTreeMap<PackId, Arc<PackInfo>>,
    /// The store was listed: what is not in `lost` is there.
    listed: bool,
}

impl Asked {
    /// Whether a pack of the index is there, with its length.
    ///
    /// # Errors
    ///
    /// The store does not answer.
    pub(crate) fn is_there(&self, store: &ChunkStore, pack: &PackInfo) -> Result<bool> {
        let id = pack.name.id;
        // Whoever else asks waits: it is often about the same pack.
        let mut answers = locked(&self.0);
        if let Some(known) = answers.is_there.get(&id) {
            return Ok(*known);
        }
        if !answers.listed && answers.is_there.len() >= ASKED_AT_MOST {
            let all = store.lost_packs(Duration::ZERO)?;
            answers.is_there.extend(all.ids().into_iter().map(|id| (id, false)));
            answers.lost.extend(all.listed);
            answers.listed = true;
        }
        let is_there = match answers.is_there.get(&id) {
            Some(known) => *known,
            None => answers.listed || store.has_pack(pack)?,
        };
        if !is_there {
            answers.lost.entry(id).or_insert_with(|| Arc::new(*pack));
        }
        answers.is_there.insert(id, is_there);
        Ok(is_there)
    }

    /// The lost packs among those that were asked about, or, if the store was listed, all.
    ///
    /// # Errors
    ///
    /// HEAD cannot be read.
    pub(crate) fn lost(&self, store: &ChunkStore) -> Result<LostPacks> {
        let listed = locked(&self.0).lost.clone();
        store.without_removed(listed)
    }
}

impl ChunkStore {
    /// What is known of single packs: what this process asked less than `max_age` ago, or nothing.
    #[must_use]
    pub fn asked(&self, max_age: Duration) -> Arc<Asked> {
        let now_ms = self.now_ms();
        let mut last = locked(&self.asked);
        match &*last {
            Some((at_ms, asked)) if u128::from(now_ms.abs_diff(*at_ms)) < max_age.as_millis() => {
                Arc::clone(asked)
            }
            _ => Arc::clone(&last.insert((now_ms, Arc::default())).1),
        }
    }

    /// Whether a pack is in the store with the length that the index has.
    fn has_pack(&self, pack: &PackInfo) -> Result<bool> {
        match self.storage().len(&pack.name.object()) {
            Ok(len) => Ok(len == pack.len),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Short) => Ok(false),
            Err(error) => Err(Error::from(error)),
        }
    }

    /// Tells those that a prune removed since HEAD was read from those that HEAD counts on.
    fn without_removed(&self, mut listed: BTreeMap<PackId, Arc<PackInfo>>) -> Result<LostPacks> {
        if listed.is_empty() {
            return Ok(LostPacks::none());
        }
        let head = self.heads.load()?.head;
        let live: HashSet<ObjectId> = head.segment_ids()?.into_iter().collect();
        let doomed: HashSet<PackId> = head.doomed.iter()?.map(|pack| pack.id).collect();
        let removed = listed.extract_if(.., |id, pack| doomed.contains(id) || !live.contains(&pack.segment));
        let removed = removed.map(|(id, _)| id).collect();
        Ok(LostPacks { listed, removed })
    }

    /// Finds packs of the index that are missing or have another length. A result of this process that is younger than
    /// `max_age` is reused. The index must be in step with HEAD.
    pub fn lost_packs(&self, max_age: Duration) -> Result<LostPacks> {
        let now_ms = self.now_ms();
        let known: HashMap<PackId, Arc<PackInfo>> =
            self.index.packs()?.into_iter().map(|pack| (pack.name.id, pack)).collect();
        let mut seen = locked(&self.lost);
        if let Some((at_ms, lost)) = &*seen
            && u128::from(now_ms.abs_diff(*at_ms)) < max_age.as_millis()
        {
            let mut lost = lost.clone();
            lost.listed.retain(|id, _| known.contains_key(id));
            return Ok(lost);
        }
        let lost = self.look_for_lost(known)?;
        *seen = Some((now_ms, lost.clone()));
        Ok(lost)
    }

    fn look_for_lost(&self, mut expected: HashMap<PackId, Arc<PackInfo>>) -> Result<LostPacks> {
        // These are on their way out.
        for pack in self.head().doomed.iter()? {
            expected.remove(&pack.id);
        }
        if expected.is_empty() {
            return Ok(LostPacks::none());
        }
        self.storage().list(names::PACKS, &mut |name, len| {
            let id = name.rsplit('/').next().and_then(PackId::parse);
            if let Some(id) = id
                && expected.get(&id).is_some_and(|pack| pack.len == len && pack.name.object() == name)
            {
                expected.remove(&id);
            }
        })?;
        // A listing may leave things out; whoever asks for an object by its name is told whether it is there.
        let mut lost: BTreeMap<PackId, Arc<PackInfo>> = expected.into_iter().collect();
        for (id, pack) in lost.clone() {
            if self.has_pack(&pack)? {
                lost.remove(&id);
            }
        }
        self.without_removed(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunker::ChunkerParams;
    use crate::config::Layout;
    use crate::env::SeededEnv;
    use crate::executor::Inline;
    use crate::format::PackKind;
    use crate::index::{PackEntry, Segment};
    use crate::keys::{KdfParams, SlotOwner};
    use crate::pack::PackName;
    use crate::storage::memory::MemoryStorage;
    use crate::store::{Access, Identity};
    use bytes::Bytes;

    /// A store in which a segment lists packs 1 to `count`, of 100 bytes; none is there.
    fn store_with(count: u8) -> (ChunkStore, Arc<MemoryStorage>, Vec<PackEntry>, ObjectId) {
        let disk = Arc::new(MemoryStorage::default());
        let access = Access {
            storage: Arc::clone(&disk) as _,
            env: Arc::new(SeededEnv::new(1)),
            cpu: Arc::new(Inline),
            io: Arc::new(Inline),
            cache: None,
            identity: Identity::default(),
            columns: &crate::head::NoColumns,
        };
        let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
        let owner = SlotOwner::default();
        let store = ChunkStore::init(access, ChunkerParams::default(), b"x", cheap, owner, Layout::default())
            .unwrap();
        let session = store.open_session("test").unwrap();
        let entry = |seed| {
            let name = PackName { session, id: PackId([seed; 32]), kind: PackKind::Data, epoch: 1 };
            PackEntry { name, len: 100, records: vec![] }
        };
        let packs: Vec<PackEntry> = (1..=count).map(entry).collect();
        let segment = store.write_segment(&Segment { packs: packs.clone() }).unwrap();
        store.close_session(&session, std::slice::from_ref(&segment)).unwrap();
        store.sync_index().unwrap();
        (store, disk, packs, segment.id)
    }

    fn put(disk: &MemoryStorage, pack: &PackEntry, len: usize) {
        disk.objects().insert(pack.name.object(), Bytes::from(vec![0; len]));
    }

    #[test]
    fn few_packs_are_asked_about_and_of_many_all_are_listed() {
        let (store, disk, packs, segment) = store_with(40);
        for (number, pack) in (1..).zip(&packs) {
            match number {
                5 | 30 => {}
                40 => put(&disk, pack, 99),
                _ => put(&disk, pack, 100),
            }
        }
        let asked = store.asked(Duration::ZERO);
        let is_there = |number: usize| {
            let PackEntry { name, len, .. } = packs[number - 1];
            asked.is_there(&store, &PackInfo { name, len, segment }).unwrap()
        };
        let lost = || asked.lost(&store).unwrap().ids();
        let ids = |numbers: &[u8]| numbers.iter().map(|number| PackId([*number; 32])).collect::<HashSet<_>>();
        assert!((1..=ASKED_AT_MOST).all(|number| is_there(number) == (number != 5)));
        assert_eq!(lost(), ids(&[5]));
        // Each is asked about once.
        disk.objects().remove(&packs[0].name.object());
        assert!(is_there(1) && lost() == ids(&[5]));
        // One more, and all are known.
        assert!(is_there(ASKED_AT_MOST + 1));
        assert_eq!(lost(), ids(&[1, 5, 30, 40]));
        assert!(!is_there(1) && !is_there(30) && !is_there(40) && is_there(39));
        assert!(Arc::ptr_eq(&asked, &store.asked(Duration::from_secs(60))));
        assert!(!Arc::ptr_eq(&asked, &store.asked(Duration::ZERO)));
    }

    #[test]
    fn what_is_gone_or_of_another_length_is_lost_unless_a_prune_took_it() {
        let (store, disk, packs, _) = store_with(5);
        for (pack, len) in packs.iter().zip([100, 99, 0]) {
            put(&disk, pack, len);
        }
        let lost = store.lost_packs(Duration::ZERO).unwrap();
        let ids: HashSet<PackId> = packs[1..].iter().map(|pack| pack.name.id).collect();
        assert_eq!((lost.ids(), lost.len()), (ids, 4));
        assert!(lost.names().ends_with(" and 1 more") && lost.names().contains(&packs[1].name.object()));
        // What was found out a moment ago will do for whoever says so.
        put(&disk, &packs[1], 100);
        assert_eq!(store.lost_packs(Duration::from_secs(60)).unwrap().len(), 4);
        assert_eq!(store.lost_packs(Duration::ZERO).unwrap().len(), 3);
        // Another process replaced the segment: nothing to tell of, and nothing to build on.
        let other = ChunkStore::open(store.access.clone(), b"x").unwrap();
        other
            .update_head(|head| {
                head.segments.clear();
                Ok(())
            })
            .unwrap();
        let lost = store.lost_packs(Duration::ZERO).unwrap();
        assert!(lost.is_empty() && lost.ids().len() == 3);
    }
}
