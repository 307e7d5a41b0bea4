//! Ranges of one entry: only their chunks are read.

use super::located::{Stretch, locate, read_stretches};
use crate::snapshot::Snapshot;
use crate::{Error, Monitor, Repository, Result};
use std::io::Write;

/// Writes stretches of an entry, from and to in bytes, one after the other; what lies behind its end is left out.
///
/// # Errors
/// [`Error::NoEntry`] if the snapshot has no such file; what is damaged or cannot be read or written.
pub fn dump_ranges(
    repo: &Repository,
    snapshot: &Snapshot,
    path: &[u8],
    ranges: &[(u64, u64)],
    out: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<u64> {
    let content = &locate(repo, snapshot, path)?;
    let stretches: Vec<Stretch<'_>> =
        ranges.iter().map(|(from, to)| Stretch { content, range: *from..(*to).min(content.len()) }).collect();
    let mut written = 0;
    let mut write = |_, bytes: &[u8]| {
        written += bytes.len() as u64;
        let failed = |source| Error::Target { op: "write to", path: "a program".into(), source };
        out.write_all(bytes).map_err(failed)
    };
    read_stretches(repo, &stretches, 1, &mut write, monitor)?;
    Ok(written)
}
