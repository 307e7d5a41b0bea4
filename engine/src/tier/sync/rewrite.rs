//! What came to a tier with no pack, sealed anew on its own.

use super::Sync;
use crate::tier::map::Placed;
use crate::{Error, Result};
use chunkstore::ChunkId;
use chunkstore::format::PackKind;
use chunkstore::head::SegmentRef;
use chunkstore::ingest::{Again, Dedupe, Packer, PackerOptions, Sealing};
use chunkstore::reader::{Fetched, ReadAhead};
use std::sync::Arc;

/// Packs that are sealed anew for a frozen tier: few objects, since each costs by itself to thaw.
const FROZEN_PACK_LEN: usize = 128 << 20;

impl Sync<'_> {
    /// What came with no pack, or does not count where it came to lie, is sealed anew.
    pub(super) fn rewrite_the_rest(&mut self, until: u64) -> Result<Vec<SegmentRef>> {
        let lacking = self.lacking()?;
        if lacking.is_empty() {
            return Ok(vec![]);
        }
        let (from, to) = (self.from(), self.to());
        let sealing = Sealing { compression: self.options.compression, delta: false };
        let dedupe = Dedupe::new(Arc::clone(to), sealing);
        let pack_len = if self.tier.frozen { FROZEN_PACK_LEN } else { PackerOptions::default().pack_len };
        let mut packer =
            Packer::new(&dedupe, self.session, PackerOptions { pack_len, ..PackerOptions::default() })?;
        let mut ahead: ReadAhead<(ChunkId, u64, PackKind)> = ReadAhead::new(from);
        let mut store = |ahead: &mut ReadAhead<_>, packer: &mut Packer| -> Result<bool> {
            let Some(batch) = ahead.take()? else { return Ok(false) };
            let mut chunks = vec![];
            let mut kinds = vec![];
            for fetched in batch {
                let Fetched::Chunk(plain, (id, anchor, kind)) = fetched else { continue };
                chunks.push(Again { id, anchor, plain: plain?, choice: None });
                kinds.push(kind);
            }
            self.report.chunks_rewritten += chunks.len() as u64;
            for ((record, frame), kind) in dedupe.seal_again(chunks)?.into_iter().zip(kinds) {
                packer.push(kind, record, &frame)?;
            }
            Ok(true)
        };
        for (chunk, anchor, kind) in lacking {
            ahead.request(chunk, (chunk.id, anchor, kind))?;
            while ahead.is_full() && store(&mut ahead, &mut packer)? {}
            if self.monitor.interrupted() {
                return Err(Error::Interrupted);
            }
        }
        while store(&mut ahead, &mut packer)? {}
        let segments = packer.flush()?;
        self.report.bytes_rewritten += packer.written().stored_bytes;
        for reference in &segments {
            for pack in to.load_segment(reference)?.packs {
                let class = to.placing(pack.name.kind).class.clone();
                let placed = Placed { since_ms: to.now_ms(), len: pack.len, class, locked_until: None };
                self.changes.packs.insert(pack.name.id, placed);
                if until > 0 {
                    self.locks.insert(pack.name.id, until);
                }
            }
        }
        Ok(segments)
    }
}
