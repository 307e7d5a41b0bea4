//! Sizes of snapshots, counted in the ways that `restic stats --mode` counts (restic, `cmd/restic/cmd_stats.go`).

use crate::entry::{Entry, Kind};
use crate::manifest::{Ending, ManifestReader, Record, Step};
use crate::snapshot::Listed;
use crate::{Error, ItemError, Monitor, Repository, Result};
use chunkstore::ChunkId;
use chunkstore::store::describe;
use std::collections::HashSet;

/// What to count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bytes that a restore of all of them would write: each snapshot by itself, hard links once.
    RestoreSize,
    /// Files of different content.
    FilesByContents,
    /// Chunks of files, each once a path.
    BlobsPerFile,
    /// Stored data that they need.
    RawData,
}

/// The figures; names are restic's.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Counted {
    /// Bytes, in the sense of the mode.
    pub total_size: u64,
    /// Of raw data: bytes before they were compressed.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_uncompressed_size: u64,
    /// Of raw data: bytes before over bytes after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression_ratio: Option<f64>,
    /// Of raw data: what share of it is in a format that compresses, in percent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression_progress: Option<f64>,
    /// Of raw data: what compression saves, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression_space_saving: Option<f64>,
    /// Entries, in the sense of the mode.
    pub total_file_count: u64,
    /// Chunks; 0 where the mode counts none.
    #[serde(skip_serializing_if = "is_zero")]
    pub total_blob_count: u64,
    /// Number of snapshots.
    pub snapshots_count: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Counts the given snapshots. Memory: 32 bytes for each different file or chunk, but for [`Mode::RestoreSize`].
pub fn count(repo: &Repository, all: &[Listed], mode: Mode, monitor: &dyn Monitor) -> Result<Counted> {
    repo.sync_index(monitor)?;
    let mut counter =
        Counter { mode, seen: HashSet::new(), chunks: HashSet::new(), counted: Counted::default() };
    for listed in all {
        counter.snapshot(repo, listed, monitor)?;
        counter.counted.snapshots_count += 1;
    }
    if mode == Mode::RawData {
        counter.raw(repo)?;
    }
    Ok(counter.counted)
}

struct Counter {
    mode: Mode,
    /// Contents, or pairs of path and chunk.
    seen: HashSet<[u8; 32]>,
    /// Chunks that anything is made of.
    chunks: HashSet<ChunkId>,
    counted: Counted,
}

impl Counter {
    fn snapshot(&mut self, repo: &Repository, listed: &Listed, monitor: &dyn Monitor) -> Result<()> {
        let mut reader = ManifestReader::new(repo.store(), &listed.snapshot.manifest)?.remember_chunks();
        let mut links = HashSet::new();
        let mut open: Option<(Box<Entry>, Vec<chunkstore::ingest::ChunkRef>)> = None;
        while let Some(step) = reader.next_step()? {
            match step {
                Step::Damage(damage) => {
                    open = None;
                    let item = format!("snapshot {}: entries after {}", listed.id.short(), damage.after);
                    monitor.error(ItemError { during: "stats", item, message: describe(&damage.error) });
                }
                Step::Record(Record::Entry(entry)) => open = Some((entry, vec![])),
                Step::Record(Record::Chunks(chunks)) => {
                    if let Some((_, content)) = &mut open
                        && self.mode != Mode::RestoreSize
                    {
                        content.extend(chunks);
                    }
                }
                Step::Record(Record::Hole(_)) => {}
                Step::Record(Record::End(Ending::Dropped, _)) => open = None,
                Step::Record(Record::End(Ending::Complete, size)) => {
                    if let Some((entry, content)) = open.take() {
                        self.entry(&entry, &content, size, &mut links);
                    }
                }
            }
            if self.mode == Mode::RawData {
                self.chunks.extend(reader.take_visited().iter().map(|chunk| chunk.id));
            }
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        entry: &Entry,
        content: &[chunkstore::ingest::ChunkRef],
        size: u64,
        links: &mut HashSet<(u64, u64)>,
    ) {
        let counted = &mut self.counted;
        match self.mode {
            Mode::RawData => {
                counted.total_file_count += 1;
                self.chunks.extend(content.iter().map(|chunk| chunk.id));
            }
            Mode::RestoreSize => {
                counted.total_file_count += 1;
                let linked = entry.kind != Kind::Dir && entry.links > 1 && entry.inode != 0;
                if !linked || links.insert((entry.device, entry.inode)) {
                    counted.total_size += size;
                }
            }
            Mode::FilesByContents | Mode::BlobsPerFile => {
                let mut hasher = blake3::Hasher::new();
                content.iter().for_each(|chunk| {
                    hasher.update(chunk.id.as_bytes());
                });
                // Chunks do not tell holes of different lengths apart.
                hasher.update(&size.to_le_bytes());
                if !self.seen.insert(*hasher.finalize().as_bytes()) {
                    return;
                }
                if self.mode == Mode::FilesByContents {
                    counted.total_file_count += 1;
                    counted.total_size += size;
                    return;
                }
                for chunk in content {
                    let mut hasher = blake3::Hasher::new();
                    hasher.update(chunk.id.as_bytes()).update(&entry.path);
                    if self.seen.insert(*hasher.finalize().as_bytes()) {
                        counted.total_size += u64::from(chunk.len);
                        counted.total_blob_count += 1;
                    }
                }
                let path =
                    blake3::Hasher::new_derive_key("esker stats: a path").update(&entry.path).finalize();
                counted.total_file_count +=
                    u64::from(!content.is_empty() && self.seen.insert(*path.as_bytes()));
            }
        }
    }

    /// Looks the chunks up, and those that they are stored against.
    fn raw(&mut self, repo: &Repository) -> Result<()> {
        let mut wanted: Vec<ChunkId> = self.chunks.iter().copied().collect();
        while !wanted.is_empty() {
            let mut bases = vec![];
            for some in wanted.chunks(4096) {
                for location in repo.store().index().lookup(some)?.into_iter().flatten() {
                    let record = location.record;
                    self.counted.total_size += u64::from(record.stored_len);
                    self.counted.total_uncompressed_size += u64::from(record.plain_len);
                    self.counted.total_blob_count += 1;
                    bases.extend(record.bases.iter().copied().filter(|base| self.chunks.insert(*base)));
                }
            }
            wanted = bases;
        }
        let (packed, plain) = (self.counted.total_size as f64, self.counted.total_uncompressed_size as f64);
        if packed > 0.0 && plain > 0.0 {
            self.counted.compression_ratio = Some(plain / packed);
            self.counted.compression_progress = Some(100.0);
            self.counted.compression_space_saving = Some((1.0 - packed / plain) * 100.0);
        }
        Ok(())
    }
}
