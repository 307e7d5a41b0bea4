//! What came to a tier with no pack, sealed anew on its own.

use super::Sync;
use crate::Result;
use crate::reseal::reseal;
use crate::tier::map::Placed;
use chunkstore::head::SegmentRef;
use chunkstore::ingest::{Dedupe, Packer, PackerOptions, Sealing};
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
        let dedupe = Dedupe::new(Arc::clone(to), sealing, &self.lost)?;
        let pack_len = if self.tier.frozen { FROZEN_PACK_LEN } else { PackerOptions::default().pack_len };
        let mut packer =
            Packer::new(&dedupe, self.session, PackerOptions { pack_len, ..PackerOptions::default() })?;
        let mut all = |_, read: chunkstore::Result<()>| Ok(read.map(|()| true)?);
        reseal(from, &lacking, &dedupe, &mut packer, self.monitor, &mut all)?;
        self.report.chunks_rewritten += lacking.len() as u64;
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
