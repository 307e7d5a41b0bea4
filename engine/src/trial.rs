//! Measuring on the user's own data: real backups into a scratch repository, which is then read back.

use crate::backup::{BackupOptions, backup};
use crate::manifest::{ManifestReader, Record, Step};
use crate::plan::{Fixed, Night};
use crate::snapshot::Listed;
use crate::source::{Piece, Source};
use crate::{Error, Monitor, Repository, Result};
use chunkstore::chunker::ChunkerParams;
use chunkstore::config::Layout;
use chunkstore::format::names;
use chunkstore::keys::{KdfParams, SlotOwner};
use chunkstore::reader::{Fetched, ReadAhead};
use chunkstore::store::Access;

/// A scratch repository.
pub struct Trial {
    repo: Repository,
    stored: u64,
    objects: u64,
}

impl Trial {
    /// Creates one. Its password guards nothing, so its derivation is cheap.
    pub fn new(access: Access, params: ChunkerParams) -> Result<Self> {
        let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
        let repo =
            Repository::init(access, params, b"trial", cheap, SlotOwner::default(), Layout::default())?;
        Ok(Self { repo, stored: 0, objects: 0 })
    }

    /// Backs up a version of the source, compared with the one before, whatever its path.
    pub fn backup(
        &mut self,
        source: &mut dyn Source,
        options: &BackupOptions,
        monitor: &dyn Monitor,
    ) -> Result<Night> {
        let store = self.repo.store();
        let before = monitor.get(crate::Counter::BytesDone);
        let start = store.access.env.now();
        backup(&self.repo, source, options, monitor)?;
        let seconds = store.access.env.now().saturating_sub(start).as_secs_f64();
        let (mut stored, mut objects) = (0, 0);
        for folder in [names::PACKS, names::INDEX, names::SNAPSHOTS] {
            let list = store.storage().list(folder, &mut |_, len| {
                stored += len;
                objects += 1;
            });
            list.map_err(chunkstore::Error::from)?;
        }
        let night = Night {
            source_bytes: monitor.get(crate::Counter::BytesDone) - before,
            stored_bytes: stored - self.stored,
            objects: objects - self.objects,
            seconds,
        };
        (self.stored, self.objects) = (stored, objects);
        Ok(night)
    }

    /// The cost of a backup without a change. `same` is the version that was backed up last; `nothing` is an empty
    /// source, because reading takes time although nothing is stored.
    pub fn fixed(
        &mut self,
        same: &mut dyn Source,
        nothing: &mut dyn Source,
        options: &BackupOptions,
        monitor: &dyn Monitor,
    ) -> Result<Fixed> {
        let unchanged = self.backup(same, options, monitor)?;
        let empty = self.backup(nothing, options, monitor)?;
        Ok(Fixed {
            bytes: unchanged.stored_bytes as f64,
            objects: unchanged.objects as f64,
            seconds: empty.seconds.min(unchanged.seconds),
            restore_seconds: self.read_back(monitor)?,
        })
    }

    /// Reads the latest snapshot back; see [`read_latest`].
    pub fn read_back(&self, monitor: &dyn Monitor) -> Result<f64> {
        read_latest(&self.repo, &self.repo.snapshots(monitor)?, monitor)
    }
}

/// Reads every chunk of the newest of `snapshots`, in order, as a restore does, and writes it nowhere.
/// Returns the seconds that it took.
pub fn read_latest(repo: &Repository, snapshots: &[Listed], monitor: &dyn Monitor) -> Result<f64> {
    let store = repo.store();
    let start = store.access.env.now();
    let latest = snapshots.last().ok_or(Error::Invalid("no snapshot to read".into()))?;
    repo.sync_index(monitor)?;
    let mut reader = ManifestReader::new(store, &latest.snapshot.manifest)?;
    let mut ahead = ReadAhead::new(store);
    while let Some(step) = reader.next_step()? {
        match step {
            Step::Record(Record::Chunks(chunks)) => {
                for chunk in chunks {
                    ahead.request(chunk, ())?;
                    while ahead.is_full() && take(&mut ahead)? {}
                }
            }
            Step::Record(_) => {}
            Step::Damage(damage) => return Err(damage.error.into()),
        }
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    while take(&mut ahead)? {}
    Ok(store.access.env.now().saturating_sub(start).as_secs_f64())
}

fn take(ahead: &mut ReadAhead<()>) -> Result<bool> {
    let Some(batch) = ahead.take()? else { return Ok(false) };
    for fetched in batch {
        if let Fetched::Chunk(bytes, ()) = fetched {
            ahead.recycle(bytes?);
        }
    }
    Ok(true)
}

/// Reads up to `limit` bytes of a source's content, entry after entry, for measurements on them.
pub fn sample(source: &mut dyn Source, limit: usize, monitor: &dyn Monitor) -> Result<Vec<u8>> {
    let mut bytes = vec![];
    while let Some(item) = source.next_item(monitor)? {
        let Some(open) = item.content else { continue };
        let mut content = open()?;
        loop {
            let filled = bytes.len();
            if filled >= limit {
                return Ok(bytes);
            }
            bytes.resize((filled + (1 << 20)).min(limit), 0);
            let piece = content.read(&mut bytes[filled..])?;
            let len = if let Piece::Data(len) = piece { len } else { 0 };
            bytes.truncate(filled + len);
            if matches!(piece, Piece::End) {
                break;
            }
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
    }
    Ok(bytes)
}
