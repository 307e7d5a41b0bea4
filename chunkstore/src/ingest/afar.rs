//! Chunks of a write-only host against bases that it cannot read, of which it has block lists.

use super::dedupe::{CutChunk, Dedupe};
use crate::Result;
use crate::bases::{Grounded, choose};
use crate::blocks::Listed;
use crate::format::{Codec, PackKind};
use crate::inbox::lists::{BlockLists, Kept};
use crate::pack::Record;
use crate::seal::{Compressor, PatchCompressor, most_brought};
use std::sync::Arc;

/// Bases have at most so many times the bytes of their chunk: whoever admits it reads them.
const MOST_BASES: usize = 8;

/// Patches up to this share of the chunk are kept as they are, since the chunk alone takes no less than what is new in it.
/// Longer ones are compared with it.
const SURELY_SMALLER: usize = 16;

/// What a batch needs for it.
pub(super) struct Afar<'a> {
    lists: &'a BlockLists,
    pub(super) compressor: PatchCompressor,
}

impl Dedupe {
    /// If this is the book of a host, and it brings differences: what they are made with. The hints of `chunks` then say
    /// against what.
    pub(super) fn afar(
        &self,
        kind: PackKind,
        chunks: &mut [CutChunk],
        wanted: &[bool],
    ) -> Result<Option<Afar<'_>>> {
        let lists = self.store.lists().filter(|_| kind == PackKind::Data && self.makes_deltas());
        let Some(lists) = lists else { return Ok(None) };
        self.look_around(chunks, wanted)?;
        let compressor = self.patches.take().map_or_else(PatchCompressor::new, Ok)?;
        Ok(Some(Afar { lists, compressor }))
    }

    /// Appends a patch of a new chunk, if it is clearly smaller than the chunk alone; else hands the record back. Notes the
    /// chunk's own block list. In the inbox every such chunk is of depth 1: a full client has the bases, and makes of it what
    /// it likes.
    pub(super) fn patch_afar(
        &self,
        afar: &mut Afar<'_>,
        around: &[Arc<Grounded>],
        plain: &[u8],
        record: Record,
        alone: &mut Compressor,
        frames: &mut Vec<u8>,
    ) -> Result<Result<Record, Record>> {
        let Afar { lists, compressor } = afar;
        // A dry run brings no pack to which the list would belong.
        if self.store.outbox().is_some() {
            lists.note(record.id, plain);
        }
        let index = &**self.store.index();
        let Some(choice) = choose(index, around, self)? else { return Ok(Err(record)) };
        let Some(bases) = lists.find(index, self.store.keys(), &choice.bases)? else {
            return Ok(Err(record));
        };
        if bases.iter().map(Kept::len).sum::<usize>() > MOST_BASES * plain.len() {
            return Ok(Err(record));
        }
        let listed: Vec<Listed<'_>> = bases.iter().map(Kept::listed).collect();
        let Some(patch) = lists.blocks().patch(plain, &listed, most_brought(plain.len())) else {
            return Ok(Err(record));
        };
        let start = frames.len();
        let limit = if patch.len() <= plain.len() / SURELY_SMALLER {
            plain.len()
        } else {
            let len = if self.shrink(alone, plain, frames) { frames.len() - start } else { plain.len() };
            frames.truncate(start);
            len / 5 * 4
        };
        if !compressor.compress(&patch, limit, frames) {
            return Ok(Err(record));
        }
        let Record { id, plain_len, anchor, .. } = record;
        Ok(Ok(Record::delta(id, plain_len, anchor, Codec::Patch, 1, 1, choice.bases)))
    }
}
