//! An index on disk, with one in memory in reserve: a disk that is full or cannot be written costs memory and time, but
//! stops no operation. All data of the index is in the repository.

use super::rocks::RocksIndex;
use super::{ChunkIndex, Cut, Load, Location, MemoryIndex, PackInfo};
use crate::head::{List, Outline, SegmentRef};
use crate::id::ChunkId;
use crate::{Error, Result};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// See the module.
pub struct SpareIndex {
    disk: Option<RocksIndex>,
    /// In use once it is there.
    memory: OnceLock<MemoryIndex>,
}

fn warn(why: &str) {
    tracing::warn!("the local index cannot be kept on disk, it is in memory: {why}");
}

impl SpareIndex {
    /// Opens the index in `folder`, or one in memory.
    pub fn open(folder: &Path) -> Result<Self> {
        match RocksIndex::open(folder) {
            Ok(disk) => Ok(Self { disk: Some(disk), memory: OnceLock::new() }),
            Err(Error::Cache { why }) => {
                warn(&why);
                Ok(Self { disk: None, memory: OnceLock::from(MemoryIndex::default()) })
            }
            Err(error) => Err(error),
        }
    }

    fn used(&self) -> &dyn ChunkIndex {
        match (&self.disk, self.memory.get()) {
            (Some(disk), None) => disk,
            _ => self.memory.get_or_init(MemoryIndex::default),
        }
    }
}

impl ChunkIndex for SpareIndex {
    fn lookup(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>> {
        self.used().lookup(ids)
    }
    fn cuts(&self, anchors: &[u64]) -> Result<Vec<Option<Cut>>> {
        self.used().cuts(anchors)
    }
    fn packs(&self) -> Result<Vec<Arc<PackInfo>>> {
        self.used().packs()
    }
    fn sync(&self, segments: &List<SegmentRef>, load: &mut Load<'_>) -> Result<()> {
        match self.used().sync(segments, load) {
            Err(Error::Cache { why }) => {
                warn(&why);
                self.memory.get_or_init(MemoryIndex::default).sync(segments, load)
            }
            result => result,
        }
    }
    fn outline(&self) -> Result<Option<Outline>> {
        self.used().outline()
    }
    fn len(&self) -> Result<u64> {
        self.used().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let index = SpareIndex::open(&file.join("index")).unwrap();
        index.sync(&List::default(), &mut |_| Err(Error::WorkerPanicked)).unwrap();
        assert_eq!(index.len().unwrap(), 0);
    }
}
