//! The proof before a load: everything that it will read of a dump is read once, so that no server is changed for keys
//! that cannot be read.

use super::{Dump, Records as _, Selection, Want};
use engine::{Counter, Error, Monitor, Repository, Result};

/// Reads the keys of a selection with their values, and what stands before them; returns how many keys there are.
///
/// # Errors
/// If a part of the dump cannot be had, or is no dump.
pub fn prove(repo: &Repository, dump: &Dump, selection: &Selection, monitor: &dyn Monitor) -> Result<u64> {
    if dump.is_empty() {
        return Ok(0);
    }
    monitor.count(Counter::BytesTotal, dump.len());
    dump.head(repo)?;
    let mut keys = 0;
    let mut records = dump.records(repo, selection, Want::Values);
    while let Some(record) = records.next_record()? {
        keys += 1;
        monitor.count(Counter::BytesDone, record.len);
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    Ok(keys)
}
