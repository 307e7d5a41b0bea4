//! All keys of a dump over several connections at once, by `RESTORE`: where a server cannot load a dump by itself.

use super::load::{BATCH_BYTES, BATCH_KEYS, LoadOptions, LoadReport, Loading, TOLD};
use super::{Dump, Record, Records as _, Selection, Want};
use crate::rdb::Version;
use crate::server::Server;
use chunkstore::threads;
use engine::source::SourceErrorKind;
use engine::{Error, Monitor, Repository, Result};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Connections. A server has one thread for commands; more of them keep it busy while answers and values are on their way.
pub const CONNECTIONS: usize = 3;

/// Writes all keys of `dump` into an empty server. Each key is named once in a dump, so their order does not matter.
///
/// # Errors
/// The first of any connection; the others end with the keys that they have.
pub fn load_side_by_side(
    repo: &Repository,
    dump: &Dump,
    server: &Server,
    options: &LoadOptions,
    monitor: &dyn Monitor,
) -> Result<LoadReport> {
    if dump.is_empty() {
        return Ok(LoadReport::default());
    }
    let (version, _) = dump.head(repo)?;
    std::thread::scope(|scope| {
        let (mut lines, mut workers) = (vec![], vec![]);
        for _ in 0..CONNECTIONS {
            let (line, batches) = sync_channel(1);
            let work = move || load_some(&batches, server, options, version, monitor);
            let worker = threads::start_in(scope, "esker-restore", work);
            workers.push(worker.map_err(|error| server.error(SourceErrorKind::Unavailable, error))?);
            lines.push(line);
        }
        let given = give(repo, dump, lines, monitor);
        let mut sum = LoadReport::default();
        let mut failed = given.err();
        for worker in workers {
            match worker.join() {
                Ok(Ok(report)) => sum.add(&report),
                Ok(Err(error)) => failed = failed.or(Some(error)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        failed.map_or(Ok(sum), Err)
    })
}

/// Gives keys to the connections in turns, until one of them has ended.
fn give(
    repo: &Repository,
    dump: &Dump,
    lines: Vec<SyncSender<Vec<Record>>>,
    monitor: &dyn Monitor,
) -> Result<()> {
    let all = Selection::default();
    let mut records = dump.records(repo, &all, Want::Values);
    let mut turns = lines.iter().cycle();
    let (mut batch, mut bytes) = (vec![], 0);
    loop {
        let record = records.next_record()?;
        let is_over = record.is_none();
        if let Some(record) = record {
            bytes += record.value.len();
            batch.push(record);
        }
        if is_over || batch.len() >= BATCH_KEYS || bytes >= BATCH_BYTES {
            bytes = 0;
            let Some(line) = turns.next() else { return Ok(()) };
            if line.send(std::mem::take(&mut batch)).is_err() || is_over {
                // Why it has ended, it says itself.
                return Ok(());
            }
        }
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
}

fn load_some(
    batches: &Receiver<Vec<Record>>,
    server: &Server,
    options: &LoadOptions,
    version: Version,
    monitor: &dyn Monitor,
) -> Result<LoadReport> {
    let mut report = LoadReport::default();
    let mut loading = Loading::new(server, options, version, monitor, &mut report)?;
    loading.told = TOLD.div_ceil(CONNECTIONS as u64);
    for batch in batches {
        for record in batch {
            loading.add(record)?;
        }
        loading.flush()?;
    }
    Ok(report)
}
