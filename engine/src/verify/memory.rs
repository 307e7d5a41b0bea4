//! When each pack was last read and found sound, so that a check can begin with the oldest, and continue after an
//! interruption. Stored beside the local index; without it all packs are equally old.

#![expect(clippy::disallowed_methods, reason = "its record is a file beside the local index")]

use chunkstore::PackId;
use chunkstore::store::ChunkStore;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

/// A pack's id and the time, in milliseconds since the Unix epoch as u64, little-endian. Later records of a
/// pack hold instead of earlier ones.
const RECORD: usize = 32 + 8;

/// What this machine knows.
#[derive(Default)]
pub(super) struct Memory {
    path: Option<PathBuf>,
    times: HashMap<PackId, u64>,
    records: usize,
    file: Option<File>,
}

impl Memory {
    /// Reads what earlier checks noted. What cannot be read is not known.
    pub(super) fn load(store: &ChunkStore) -> Self {
        let cache = store.access.cache.as_ref();
        let path = cache.map(|cache| cache.join(format!("{}.verified", store.keys().repository())));
        let bytes = path.as_ref().and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
        let mut times = HashMap::new();
        for record in bytes.chunks_exact(RECORD) {
            let (id, time) = record.split_at(32);
            let (mut pack, mut millis) = ([0; 32], [0; 8]);
            pack.copy_from_slice(id);
            millis.copy_from_slice(time);
            times.insert(PackId(pack), u64::from_le_bytes(millis));
        }
        let file = path.as_ref().and_then(|path| {
            // Made for nobody else first, then opened to be written at its end.
            drop(chunkstore::private::open(path).ok()?);
            File::options().append(true).open(path).ok()
        });
        Self { path, times, records: bytes.len() / RECORD, file }
    }

    /// Milliseconds since the Unix epoch; 0 for never.
    pub(super) fn verified_at(&self, pack: &PackId) -> u64 {
        self.times.get(pack).copied().unwrap_or(0)
    }

    /// Notes that a pack was sound; at 0 that it was not.
    pub(super) fn note(&mut self, pack: PackId, at_ms: u64) {
        self.times.insert(pack, at_ms);
        self.records += 1;
        if let Some(file) = &mut self.file {
            let mut record = pack.0.to_vec();
            record.extend_from_slice(&at_ms.to_le_bytes());
            // In one write: two checks may append at the same time. A note that is lost costs a reading.
            let _ = file.write_all(&record);
        }
    }

    /// Writes the notes anew, without packs that are gone, when more than half of them are out of date.
    pub(super) fn tidy(&mut self, live: &HashSet<PackId>) {
        self.times.retain(|pack, _| live.contains(pack));
        let Some(path) = self.path.as_ref().filter(|_| self.records > 2 * self.times.len() + 64) else {
            return;
        };
        let records = self.times.iter();
        let bytes: Vec<u8> =
            records.flat_map(|(pack, time)| pack.0.into_iter().chain(time.to_le_bytes())).collect();
        // Two processes may share the folder and have one number, in two containers.
        let Ok(fresh) =
            path.parent().map_or_else(tempfile::NamedTempFile::new, tempfile::NamedTempFile::new_in)
        else {
            return;
        };
        if fresh.as_file().write_all(&bytes).is_ok() && fresh.persist(path).is_ok() {
            self.records = self.times.len();
            self.file = File::options().append(true).open(path).ok();
        }
    }
}
