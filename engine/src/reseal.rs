//! Chunks that lie in one store, read there and sealed anew into packs of another: nothing but their content is taken over.

use crate::{Error, Monitor, Result};
use chunkstore::ChunkId;
use chunkstore::format::PackKind;
use chunkstore::ingest::{Again, ChunkRef, Dedupe, Packer};
use chunkstore::reader::{Fetched, ReadAhead};
use chunkstore::store::ChunkStore;
use std::sync::Arc;

/// A chunk as it is to lie.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) chunk: ChunkRef,
    /// Its anchor, as the store that has it says.
    pub(crate) anchor: u64,
    pub(crate) kind: PackKind,
}

/// Reads the `wanted` chunks in `from`, and stores each on its own. `read` is told of each whether it could be read, and says
/// whether it is stored, or ends all of it.
pub(crate) fn reseal(
    from: &Arc<ChunkStore>,
    wanted: &[Wanted],
    dedupe: &Dedupe,
    packer: &mut Packer,
    monitor: &dyn Monitor,
    read: &mut dyn FnMut(ChunkId, chunkstore::Result<()>) -> Result<bool>,
) -> Result<()> {
    let mut ahead: ReadAhead<Wanted> = ReadAhead::new(from);
    for one in wanted {
        ahead.request(one.chunk, *one)?;
        while ahead.is_full() && take(&mut ahead, dedupe, packer, read)? {}
        if monitor.interrupted() {
            return Err(Error::Interrupted);
        }
    }
    while take(&mut ahead, dedupe, packer, read)? {}
    Ok(())
}

/// Stores the next ones that were read; false if there are none.
fn take(
    ahead: &mut ReadAhead<Wanted>,
    dedupe: &Dedupe,
    packer: &mut Packer,
    read: &mut dyn FnMut(ChunkId, chunkstore::Result<()>) -> Result<bool>,
) -> Result<bool> {
    let Some(batch) = ahead.take()? else { return Ok(false) };
    let (mut chunks, mut kinds) = (vec![], vec![]);
    for fetched in batch {
        let Fetched::Chunk(plain, Wanted { chunk, anchor, kind }) = fetched else { continue };
        match plain {
            Ok(plain) if read(chunk.id, Ok(()))? => {
                chunks.push(Again { id: chunk.id, anchor, plain, choice: None });
                kinds.push(kind);
            }
            Ok(_) => {}
            Err(error) => drop(read(chunk.id, Err(error))?),
        }
    }
    for ((record, frame), kind) in dedupe.seal_again(chunks)?.into_iter().zip(kinds) {
        packer.push(kind, record, &frame)?;
    }
    Ok(true)
}
