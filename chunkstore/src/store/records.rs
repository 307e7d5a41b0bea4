//! Reading the records of snapshots: from HEAD's leaves, or from the object that each has of its own and that says the same.

use super::ChunkStore;
use crate::format::{MAX_SMALL_LEN, ObjectKind};
use crate::head::{BodyReader, Root};
use crate::storage::Storage;
use crate::{Error, Result, envelope};
use bytes::Bytes;

/// Reads the records of many snapshots, one after the other.
pub struct Records<'a> {
    store: &'a ChunkStore,
    bodies: BodyReader,
}

impl Records<'_> {
    /// Reads what of HEAD holds a record, so that [`Records::read`] finds it whatever happens to its snapshot meanwhile. Returns
    /// whether HEAD has it; otherwise it is in its own object, which others may remove.
    ///
    /// # Errors
    ///
    /// The store fails.
    pub fn fetch(&mut self, root: &Root) -> Result<bool> {
        self.bodies.fetch(&root.record)
    }

    /// The record of a snapshot, as [`ChunkStore::snapshot_record`]; those of a leaf that are read in its order are not kept.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn read(&mut self, root: &Root) -> Result<Bytes> {
        let read = self.bodies.read(&root.record);
        self.store.record_or_object(root, read)
    }
}

impl ChunkStore {
    /// For the records of many snapshots.
    #[must_use]
    pub fn records(&self) -> Records<'_> {
        Records { store: self, bodies: BodyReader::default() }
    }

    /// For whoever restores: what cannot be read here of records of snapshots is read from the store's copies. Whoever mends
    /// is to know that it cannot be read.
    #[must_use]
    pub fn with_records_from_copies(mut self) -> Self {
        self.records_from_copies = true;
        self
    }

    /// The record of a snapshot: from HEAD's leaves, or else from its object.
    pub fn snapshot_record(&self, root: &Root) -> Result<Bytes> {
        self.record_or_object(root, root.record.read())
    }

    fn record_or_object(&self, root: &Root, record: Result<Option<Bytes>>) -> Result<Bytes> {
        match record {
            Ok(Some(record)) => Ok(record),
            // An older HEAD's leaf may be gone, and so may one of this HEAD: the object says the same.
            Ok(None) => self.read_snapshot(root).map(Bytes::from),
            Err(error) if error.is_damage() => self.read_snapshot(root).map(Bytes::from),
            Err(error) => Err(error),
        }
    }

    /// The same for whoever needs one or few records: where it is not at hand, its own object is read, which is small,
    /// rather than those of all others with it.
    pub fn one_snapshot_record(&self, root: &Root) -> Result<Bytes> {
        match root.record.at_hand() {
            Some(record) => Ok(record),
            None => match self.read_snapshot(root) {
                Err(error) if error.is_damage() => root.record.read().ok().flatten().ok_or(error),
                read => read.map(Bytes::from),
            },
        }
    }

    /// Reads the object of a snapshot and checks it against HEAD. One that was sealed again since HEAD was read is read as the
    /// HEAD of now names it.
    pub fn read_snapshot(&self, root: &Root) -> Result<Vec<u8>> {
        self.read_root(root, ObjectKind::Snapshot)
    }

    /// The same of a root whose objects are of this kind.
    pub(super) fn read_root(&self, root: &Root, kind: ObjectKind) -> Result<Vec<u8>> {
        let read = self.read_root_as(root, kind);
        match read {
            Err(error) if error.is_damage() => {
                let now = self.reload()?.roots.find(|known| known.id == root.id)?.cloned();
                match now.filter(|now| now != root) {
                    Some(now) => self.read_root_as(&now, kind),
                    None => Err(error),
                }
            }
            read => read,
        }
    }

    fn read_root_as(&self, root: &Root, kind: ObjectKind) -> Result<Vec<u8>> {
        let name = root.object();
        let read = |storage: &dyn Storage| {
            let sealed = storage.get(&name, MAX_SMALL_LEN)?;
            if *blake3::hash(&sealed).as_bytes() != root.hash.0 {
                return Err(Error::corrupt(&name, "is not the object that HEAD names"));
            }
            envelope::open(&self.keys, kind, &name, &sealed)
        };
        let storage = &*self.access.storage;
        read(storage).or_else(|error| {
            let copies = storage.copies().iter().filter(|_| error.is_damage() && self.records_from_copies);
            copies.flat_map(|copy| read(&**copy)).next().ok_or(error)
        })
    }
}
