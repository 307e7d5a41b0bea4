//! A repository: the chunk store and the snapshots in it.

use crate::snapshot::{Filter, Listed, Snapshot};
use crate::{Error, ItemError, Monitor, Result};
use chunkstore::chunker::ChunkerParams;
use chunkstore::config::Layout;
use chunkstore::head::Root;
use chunkstore::keys::{KdfParams, SlotOwner};
use chunkstore::store::{Access, ChunkStore, describe};
use std::sync::Arc;

/// An open repository.
pub struct Repository {
    store: Arc<ChunkStore>,
}

impl Repository {
    /// Creates one; see [`ChunkStore::init`].
    pub fn init(
        access: Access,
        params: ChunkerParams,
        passphrase: &[u8],
        kdf: KdfParams,
        owner: SlotOwner,
        layout: Layout,
    ) -> Result<Self> {
        let store = ChunkStore::init(access, params, passphrase, kdf, owner, layout)?;
        Ok(Self { store: Arc::new(store) })
    }

    /// Opens one.
    pub fn open(access: Access, passphrase: &[u8]) -> Result<Self> {
        Ok(Self { store: Arc::new(ChunkStore::open(access, passphrase)?) })
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
    #[must_use]
    pub fn snapshot_roots(&self) -> Vec<Root> {
        self.store.head().roots.iter().filter(|root| root.kind == "snapshot").cloned().collect()
    }

    /// All snapshots, oldest first. One that cannot be read is reported and left out.
    pub fn snapshots(&self, monitor: &dyn Monitor) -> Result<Vec<Listed>> {
        let mut all = vec![];
        for root in self.snapshot_roots() {
            match self.read_snapshot(&root) {
                Ok(snapshot) => all.push(Listed { id: root.id, snapshot }),
                Err(Error::Store(error)) if error.is_damage() => {
                    // Forgotten since HEAD was read?
                    if self.store.reload()?.roots.contains(&root) {
                        let item = format!("snapshots/{}", root.id);
                        monitor.error(ItemError { during: "snapshots", item, message: describe(&error) });
                    }
                }
                Err(error) => return Err(error),
            }
        }
        all.sort_by_key(|listed| listed.snapshot.time);
        Ok(all)
    }

    /// All snapshots; one that cannot be read is an error. For whoever removes data.
    pub fn snapshots_strict(&self) -> Result<Vec<Listed>> {
        let mut all = self
            .snapshot_roots()
            .into_iter()
            .map(|root| Ok(Listed { id: root.id, snapshot: self.read_snapshot(&root)? }))
            .collect::<Result<Vec<_>>>()?;
        all.sort_by_key(|listed| listed.snapshot.time);
        Ok(all)
    }

    pub(crate) fn read_snapshot(&self, root: &Root) -> Result<Snapshot> {
        let plain = self.store.read_snapshot(root)?;
        serde_json::from_slice(&plain)
            .map_err(|error| chunkstore::Error::corrupt(format!("snapshots/{}", root.id), error).into())
    }

    /// Finds one snapshot; see [`crate::snapshot::find`].
    pub fn find(&self, wanted: &str, filter: &Filter, monitor: &dyn Monitor) -> Result<Listed> {
        Ok(crate::snapshot::find(&self.snapshots(monitor)?, wanted, filter)?.clone())
    }

    /// Writes a snapshot's object and returns the root for HEAD.
    pub fn write_snapshot(&self, snapshot: &Snapshot) -> Result<Root> {
        let plain = serde_json::to_vec(snapshot).map_err(|error| Error::Invalid(error.to_string()))?;
        Ok(self.store.write_snapshot(&plain)?)
    }

    /// Takes snapshots out of HEAD, then removes their objects. Their chunks stay until `prune`.
    pub fn forget(&self, ids: &[chunkstore::ObjectId]) -> Result<()> {
        self.store.update_head(|head| {
            head.roots.retain(|root| !ids.contains(&root.id));
            Ok(())
        })?;
        for id in ids {
            self.store
                .storage()
                .delete(&chunkstore::format::names::snapshot(id))
                .map_err(chunkstore::Error::from)?;
        }
        Ok(())
    }

    /// Replaces a snapshot by a changed record of it, in one swap. A session covers the time between:
    /// prune removes objects that HEAD does not name unless their writer is at work.
    pub fn replace_snapshot(&self, old: &Listed, new: &Snapshot) -> Result<Root> {
        let session = self.store.open_session("tag")?;
        let root = self.write_snapshot(new)?;
        self.store.update_head(|head| {
            if !head.is_open(&session) {
                return Err(chunkstore::Error::Fenced {
                    why: "this session was fenced by a prune; run it again".into(),
                });
            }
            head.sessions.retain(|known| known.id != session);
            let place = head.roots.iter_mut().find(|root| root.id == old.id);
            let place = place
                .ok_or_else(|| chunkstore::Error::Invalid(format!("snapshot {} is gone", old.id.short())))?;
            place.clone_from(&root);
            Ok(())
        })?;
        self.store
            .storage()
            .delete(&chunkstore::format::names::snapshot(&old.id))
            .map_err(chunkstore::Error::from)?;
        Ok(root)
    }
}
