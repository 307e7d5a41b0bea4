//! A repository: the chunk store and the snapshots in it.

use crate::columns::Columns;
use crate::rank::Ranked;
use crate::snapshot::{Filter, Listed, Snapshot};
use crate::{Error, ItemError, Monitor, Result};
use chunkstore::ObjectId;
use chunkstore::chunker::ChunkerParams;
use chunkstore::config::Layout;
use chunkstore::head::{Head, Root};
use chunkstore::keys::{KdfParams, SlotOwner, SlotSecret};
use chunkstore::store::{Access, ChunkStore};
use std::collections::HashSet;
use std::sync::Arc;

mod choice;
mod past;
mod views;
pub(crate) use past::Past;

/// How often HEAD is read anew if snapshots of it are forgotten while they are read: a live stream replaces its own every few
/// seconds.
const LOOKS: u32 = 10;

/// An open repository.
pub struct Repository {
    store: Arc<ChunkStore>,
}

impl Repository {
    /// Creates one; see [`ChunkStore::init`].
    pub fn init<S: SlotSecret + ?Sized>(
        access: Access,
        params: ChunkerParams,
        secret: &S,
        kdf: KdfParams,
        owner: SlotOwner,
        layout: Layout,
    ) -> Result<Self> {
        let store = ChunkStore::init(access, params, secret, kdf, owner, layout)?;
        Ok(Self { store: Arc::new(store) })
    }

    /// Opens one with a secret of a key slot; bytes are a passphrase.
    pub fn open<S: SlotSecret + ?Sized>(access: Access, secret: &S) -> Result<Self> {
        Ok(Self { store: Arc::new(ChunkStore::open(access, secret)?) })
    }

    /// One whose store is open.
    #[must_use]
    pub fn with_store(store: ChunkStore) -> Self {
        Self { store: Arc::new(store) }
    }

    /// Its chunks.
    #[must_use]
    pub fn store(&self) -> &Arc<ChunkStore> {
        &self.store
    }

    /// Brings the index up to date; damaged segments are reported and left out.
    pub fn sync_index(&self, monitor: &dyn Monitor) -> Result<()> {
        for (id, why) in self.store.sync_index()? {
            monitor.error(ItemError {
                during: "index",
                item: format!("index/{id}"),
                message: format!("{why}; run 'esker repair index'"),
            });
        }
        Ok(())
    }

    /// The roots of snapshots.
    ///
    /// # Errors
    ///
    /// HEAD's list of them cannot be read.
    pub fn snapshot_roots(&self) -> Result<Vec<Root>> {
        Ok(self.store.head().roots.iter()?.filter(|root| root.is_snapshot()).cloned().collect())
    }

    /// All snapshots, oldest first as [`crate::rank`] has it. One that cannot be read is reported and left out. Each takes
    /// several kilobytes of memory: whoever needs less of each uses [`Repository::view_snapshots`].
    pub fn snapshots(&self, monitor: &dyn Monitor) -> Result<Vec<Listed>> {
        self.look(monitor, |past| past.all())
    }

    /// Makes something of each snapshot, in the same order: `view` on all cores, and then `take` with what it returned. Few
    /// records are in memory at a time. A snapshot that cannot be read is reported at the end and left out. So is one that
    /// somebody forgets meanwhile, unless another one took its place before `take` was called for the first time.
    ///
    /// # Errors
    ///
    /// HEAD's lists cannot be read; the store fails; `take` fails; [`Error::Interrupted`].
    pub fn view_snapshots<T: Send + 'static>(
        &self,
        view: impl Fn(Ranked) -> T + Send + Sync + 'static,
        take: &mut dyn FnMut(T) -> Result<()>,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        let view = Arc::new(view);
        let mut is_taken = false;
        self.look(monitor, |past| {
            let view = Arc::clone(&view);
            let done = past.each(move |ranked| view(ranked), &mut |viewed| {
                if monitor.interrupted() {
                    return Err(Error::Interrupted);
                }
                is_taken = true;
                take(viewed)
            });
            // What was taken cannot be taken back.
            past.is_old &= !is_taken;
            done
        })
    }

    /// All snapshots, each read from its object, for whoever answers for the objects: HEAD has the record of a snapshot whose
    /// object is lost, too.
    pub fn stored_snapshots(&self, monitor: &dyn Monitor) -> Result<Vec<Listed>> {
        self.look(monitor, |past| past.stored())
    }

    /// Asks for something about the snapshots. Damaged records that were to be read are reported and left out.
    pub(crate) fn look<T>(
        &self,
        monitor: &dyn Monitor,
        mut ask: impl FnMut(&mut Past<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut left = LOOKS;
        loop {
            left -= 1;
            let head = self.store.head();
            let mut past = Past::of(self, &head)?;
            past.is_last = left == 0;
            let answer = ask(&mut past);
            // What was forgotten meanwhile may have a successor, as those of a live stream have: it is in the HEAD of now.
            if !past.is_old || left == 0 {
                past.damaged.into_iter().for_each(|error| monitor.error(error));
                return answer;
            }
        }
    }

    /// All snapshots; one that cannot be read is an error. For whoever removes data.
    pub fn snapshots_strict(&self) -> Result<Vec<Listed>> {
        let mut left = LOOKS;
        loop {
            left -= 1;
            let roots = self.snapshot_roots()?;
            let all =
                roots.iter().map(|root| Ok(Listed { id: root.id, snapshot: self.read_snapshot(root)? }));
            match all.collect::<Result<Vec<_>>>() {
                Err(Error::Store(error)) if error.is_damage() && left > 0 => {
                    let now = self.store.reload()?;
                    let now: HashSet<ObjectId> = now.roots.iter()?.map(|root| root.id).collect();
                    if roots.iter().all(|root| now.contains(&root.id)) {
                        return Err(error.into());
                    }
                }
                all => {
                    let mut all = all?;
                    crate::rank::rank(&mut all, crate::backup::timestamp(self.store.now_ms()));
                    return Ok(all);
                }
            }
        }
    }

    pub(crate) fn read_snapshot(&self, root: &Root) -> Result<Snapshot> {
        parse(&root.id, &self.store.snapshot_record(root)?)
    }

    /// The same for whoever needs one or few of them: unless it is at hand, from its own object, which is small.
    fn read_one_snapshot(&self, root: &Root) -> Result<Snapshot> {
        parse(&root.id, &self.store.one_snapshot_record(root)?)
    }

    /// The same from its object.
    fn read_stored(&self, root: &Root) -> Result<Snapshot> {
        parse(&root.id, &self.store.read_snapshot(root)?)
    }

    /// Finds one snapshot; see [`crate::snapshot::find`].
    pub fn find(&self, wanted: &str, filter: &Filter, monitor: &dyn Monitor) -> Result<Listed> {
        self.look(monitor, |past| past.find(wanted, filter))
    }

    /// Writes a snapshot's object and returns the root for HEAD.
    pub fn write_snapshot(&self, snapshot: &Snapshot) -> Result<Root> {
        let plain = serde_json::to_vec(snapshot).map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(self.store.write_snapshot(&plain, &Columns::of(snapshot).encode())?)
    }

    /// Takes snapshots out of HEAD for good, then removes their objects. Their chunks stay until `prune`. Returns those that
    /// HEAD did not list.
    pub fn forget(&self, ids: &[ObjectId]) -> Result<Vec<ObjectId>> {
        self.take_out(ids, &Head::forget)
    }

    /// The same of snapshots that a person named: they are to go from every tier, also from one that is away now.
    pub fn forget_everywhere(&self, ids: &[ObjectId]) -> Result<Vec<ObjectId>> {
        self.take_out(ids, &Head::forget_everywhere)
    }

    /// The same of snapshots that promises no longer ask for here: one that is asked for again comes back from a copy.
    pub fn let_expire(&self, ids: &[ObjectId]) -> Result<Vec<ObjectId>> {
        self.take_out(ids, &|_, _| Ok(()))
    }

    fn take_out(
        &self,
        ids: &[ObjectId],
        note: &dyn Fn(&mut Head, ObjectId) -> chunkstore::Result<()>,
    ) -> Result<Vec<ObjectId>> {
        let (absent, taken): (Vec<ObjectId>, Vec<String>) = self.store.update_head(|head| {
            let taken = head.roots.take(|root| ids.contains(&root.id))?;
            let absent = ids.iter().filter(|id| taken.iter().all(|root| root.id != **id)).copied().collect();
            ids.iter().try_for_each(|id| note(head, *id))?;
            Ok((absent, taken.iter().map(Root::object).collect()))
        })?;
        let left = absent.iter().map(chunkstore::format::names::snapshot);
        taken.into_iter().chain(left).try_for_each(|name| self.remove_record(&name))?;
        Ok(absent)
    }

    /// Removes the object of a snapshot that HEAD does not list.
    pub(crate) fn remove_record(&self, object: &str) -> Result<()> {
        Ok(self.store.storage().delete(object).map_err(chunkstore::Error::from)?)
    }

    /// The snapshot that is in the place of the one of this id: that itself, or what replaced it meanwhile, as a live stream
    /// does with a longer one, and whoever tags or holds it with another record. `None` if it was forgotten.
    pub fn present(&self, id: &ObjectId) -> Result<Option<Listed>> {
        let mut left = LOOKS;
        loop {
            left -= 1;
            let head = self.store.reload()?;
            match self.in_place_of(id) {
                // What is replaced while it is looked for is in the HEAD of now.
                Ok(None) if left > 0 && self.store.reload()?.generation != head.generation => {}
                Err(Error::Store(error)) if error.is_damage() && left > 0 => {
                    if self.store.reload()?.generation == head.generation {
                        return Err(error.into());
                    }
                }
                found => return found,
            }
        }
    }

    /// The same of HEAD as it was read, the latest first.
    fn in_place_of(&self, id: &ObjectId) -> Result<Option<Listed>> {
        let roots = self.snapshot_roots()?;
        if let Some(root) = roots.iter().find(|root| root.id == *id) {
            return Ok(Some(Listed { id: *id, snapshot: self.read_snapshot(root)? }));
        }
        for root in roots.iter().rev() {
            match self.read_snapshot(root) {
                Ok(snapshot) => {
                    let listed = Listed { id: root.id, snapshot };
                    if listed.had(id) {
                        return Ok(Some(listed));
                    }
                }
                // Another one is damaged, or was replaced just now.
                Err(Error::Store(error)) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Replaces a snapshot by a changed record of it, in one swap. A session covers the time between:
    /// prune removes objects that HEAD does not name unless their writer is at work.
    ///
    /// # Errors
    ///
    /// [`chunkstore::Error::Gone`] if HEAD does not list it any more.
    pub fn replace_snapshot(&self, old: &Listed, new: &Snapshot) -> Result<Root> {
        let session = self.store.open_session("tag")?;
        let root = self.write_snapshot(&Snapshot { earlier: old.earlier(), ..new.clone() })?;
        let done = self.store.commit_in_place_of(old.id, &session, &[], &root, &HashSet::new());
        if let Err(chunkstore::Error::Gone { .. }) = done {
            self.store.close_session(&session, &[])?;
            self.remove_record(&root.object())?;
        }
        self.remove_record(&done?.object())?;
        Ok(root)
    }
}

fn parse(id: &ObjectId, record: &[u8]) -> Result<Snapshot> {
    serde_json::from_slice(record)
        .map_err(|error| chunkstore::Error::corrupt(format!("snapshots/{id}"), error).into())
}

/// A repository in memory, for tests; its clock stands at 1970.
#[cfg(test)]
pub(crate) fn in_memory() -> Repository {
    use chunkstore::{env::SeededEnv, storage::memory::MemoryStorage};
    made_for_test(access_for_test(Arc::new(MemoryStorage::default()), Arc::new(SeededEnv::new(7))))
}

/// How tests reach a store.
#[cfg(test)]
pub(crate) fn access_for_test(
    storage: Arc<dyn chunkstore::storage::Storage>,
    env: Arc<dyn chunkstore::env::Env>,
) -> Access {
    let (cpu, io) = (Arc::new(chunkstore::executor::Inline), Arc::new(chunkstore::executor::Inline));
    Access {
        storage,
        env,
        cpu,
        io,
        cache: None,
        identity: chunkstore::store::Identity::default(),
        columns: &crate::columns::SnapshotColumns,
    }
}

/// A new repository there, with the password `x`.
#[cfg(test)]
pub(crate) fn made_for_test(access: Access) -> Repository {
    made_with_chunks_around(1 << 10, access)
}

/// The same with chunks around a length in bytes.
#[cfg(test)]
pub(crate) fn made_with_chunks_around(len: u32, access: Access) -> Repository {
    let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    let params = ChunkerParams::around(len);
    Repository::init(access, params, b"x", cheap, SlotOwner::default(), Layout::default()).unwrap()
}
