//! Sizes: of restored snapshots, and of stored data.

use crate::manifest::for_each_entry;
use crate::snapshot::Listed;
use crate::{ItemError, Monitor, Repository, Result};
use chunkstore::store::describe;
use std::collections::HashSet;

pub mod modes;

/// Figures about a repository; field names as restic's where they exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Stats {
    /// Number of snapshots.
    pub snapshots_count: u64,
    /// Bytes of all their files together.
    pub total_restore_size: u64,
    /// Their files.
    pub total_file_count: u64,
    /// Chunks in the repository.
    pub total_blob_count: u64,
    /// Their plain bytes after deduplication.
    pub total_uncompressed_size: u64,
    /// Those of them that are stored against older versions.
    pub delta_blob_count: u64,
    /// The plain bytes of those.
    pub delta_uncompressed_size: u64,
    /// The stored bytes of those.
    pub delta_size: u64,
    /// The stored bytes of all chunks, in packs.
    pub stored_size: u64,
    /// Packs.
    pub packs: u64,
    /// Index segments.
    pub segments: u64,
    /// Plain bytes over stored bytes.
    pub compression_ratio: f64,
    /// Restored bytes over plain bytes.
    pub deduplication_ratio: f64,
}

/// Measures the given snapshots and the whole repository.
pub fn stats(repo: &Repository, snapshots: &[Listed], monitor: &dyn Monitor) -> Result<Stats> {
    let mut stats = Stats { snapshots_count: snapshots.len() as u64, ..Stats::default() };
    repo.sync_index(monitor)?;
    for listed in snapshots {
        for_each_entry(
            repo.store(),
            &listed.snapshot.manifest,
            &mut |damage| {
                let item = format!("snapshot {}: entries after {}", listed.id.short(), damage.after);
                monitor.error(ItemError { during: "stats", item, message: describe(&damage.error) });
            },
            &mut |found| {
                stats.total_file_count += 1;
                stats.total_restore_size += found.size;
                Ok(())
            },
        )?;
    }
    let mut seen = HashSet::new();
    for reference in repo.store().head().segments.iter()? {
        // One that a prune replaced meanwhile holds nothing that counts any more.
        let Some(segment) = repo.store().load_live_segment(reference)? else { continue };
        stats.segments += 1;
        for pack in segment.packs {
            stats.packs += 1;
            stats.stored_size += pack.len;
            for record in pack.records {
                stats.total_blob_count += 1;
                if record.is_delta() {
                    stats.delta_blob_count += 1;
                    stats.delta_uncompressed_size += u64::from(record.plain_len);
                    stats.delta_size += u64::from(record.stored_len);
                }
                if seen.insert(record.id) {
                    stats.total_uncompressed_size += u64::from(record.plain_len);
                }
            }
        }
    }
    let ratio = |a: u64, b: u64| if b == 0 { 0.0 } else { a as f64 / b as f64 };
    stats.compression_ratio = ratio(stats.total_uncompressed_size, stats.stored_size);
    stats.deduplication_ratio = ratio(stats.total_restore_size, stats.total_uncompressed_size);
    Ok(stats)
}
