//! Chunks that a prune stores again before it removes packs: used chunks of mostly unused packs, and deltas whose bases
//! nothing else needs.

use super::PruneOptions;
use super::rebase::Moved;
use super::survey::Survey;
use crate::{Error, Monitor, Result};
use chunkstore::SessionId;
use chunkstore::bases::BaseReader;
use chunkstore::executor::{Pending, submit};
use chunkstore::format::{MAX_PACK_LEN, PackKind};
use chunkstore::head::SegmentRef;
use chunkstore::ingest::{Again, ChunkRef, Dedupe, Packer, Sealing};
use chunkstore::pack::{PackReader, Record};
use chunkstore::reader::{Fetched, ReadAhead};
use chunkstore::seal::Decompressor;
use chunkstore::store::ChunkStore;
use std::collections::VecDeque;
use std::sync::Arc;

/// Copies the used chunks of packs into new ones, verified on the way, and stores deltas anew that are to
/// stand on their own.
pub(super) fn rewrite(
    store: &Arc<ChunkStore>,
    session: &SessionId,
    survey: &Survey,
    options: &PruneOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<SegmentRef>> {
    let sealing = Sealing { compression: options.compression, delta: true };
    let dedupe = Dedupe::new(Arc::clone(store), sealing, &survey.lost)?;
    let mut packer = Packer::new(&dedupe, *session, options.packer)?;
    let mut decompressor = Decompressor::new()?;
    let bases = BaseReader::default();
    for (pack, positions) in &survey.repack {
        let object = pack.name.object();
        let bytes = store.storage().get(&object, MAX_PACK_LEN).map_err(chunkstore::Error::from)?;
        let reader = PackReader::new(pack.name, store.keys())?;
        for position in positions {
            let record = &pack.records[*position];
            let sealed = record.range().and_then(|range| bytes.get(range));
            let sealed =
                sealed.ok_or_else(|| chunkstore::Error::corrupt(&object, "shorter than its index says"))?;
            let frame = reader.open_frame(record, sealed)?;
            let prefix = bases.prefix_of(store, record)?;
            reader.open(store.keys(), record, sealed, prefix.bytes(), &mut decompressor)?;
            packer.push(pack.name.kind, record.clone(), &frame)?;
        }
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    Mover::new(&dedupe).run(&survey.rebase, &mut packer, monitor)?;
    Ok(packer.flush()?)
}

/// New records with their frames.
type Sealed = Vec<(Record, Vec<u8>)>;

/// Reads deltas, in order, and stores them on other bases, or on none.
struct Mover {
    dedupe: Arc<Dedupe>,
    ahead: ReadAhead<Moved>,
    running: VecDeque<Pending<chunkstore::Result<Sealed>>>,
}

impl Mover {
    fn new(dedupe: &Arc<Dedupe>) -> Self {
        let ahead = ReadAhead::new(dedupe.store());
        Self { dedupe: Arc::clone(dedupe), ahead, running: VecDeque::new() }
    }

    fn run(mut self, chunks: &[Moved], packer: &mut Packer, monitor: &dyn Monitor) -> Result<()> {
        for moved in chunks {
            let chunk = ChunkRef { id: moved.record.id, len: moved.record.plain_len };
            self.ahead.request(chunk, moved.clone())?;
            while self.ahead.is_full() && self.take(packer)? {}
            if monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        while self.take(packer)? {}
        while self.store_one(packer)? {}
        Ok(())
    }

    /// Hands one batch to a worker; `false` if there is none.
    fn take(&mut self, packer: &mut Packer) -> Result<bool> {
        let Some(batch) = self.ahead.take()? else { return Ok(false) };
        let (dedupe, cpu) = (Arc::clone(&self.dedupe), &self.dedupe.store().access.cpu);
        self.running.push_back(submit(&**cpu, move || {
            let mut chunks = Vec::with_capacity(batch.len());
            for fetched in batch {
                let Fetched::Chunk(plain, Moved { record, choice, .. }) = fetched else { continue };
                chunks.push(Again { id: record.id, anchor: record.anchor, plain: plain?, choice });
            }
            dedupe.seal_again(chunks)
        }));
        while self.running.len() > 2 * self.dedupe.store().access.cpu.parallelism() {
            self.store_one(packer)?;
        }
        Ok(true)
    }

    fn store_one(&mut self, packer: &mut Packer) -> Result<bool> {
        let Some(pending) = self.running.pop_front() else { return Ok(false) };
        for (record, frame) in pending.wait()?? {
            packer.push(PackKind::Data, record, &frame)?;
        }
        Ok(true)
    }
}
