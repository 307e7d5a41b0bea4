//! The chunks of a manifest, and what they list, in no order: for whoever wants to know which chunks there are, and not which
//! entry has them. A chunk that a manifest lists again is read once.

use super::{MAX_LEVELS, ManifestRoot, Record, decode_refs, parse};
use crate::{Error, Result};
use chunkstore::ChunkId;
use chunkstore::format::Decoder;
use chunkstore::ingest::ChunkRef;
use chunkstore::reader::{Fetched, ReadAhead};
use chunkstore::store::ChunkStore;
use std::collections::HashSet;
use std::sync::Arc;

/// Reads a chunk of an upper level: the list of chunks of the level below. No writer makes one that is empty, or lists an
/// empty chunk.
pub(crate) fn read_list(store: &Arc<ChunkStore>, chunk: ChunkRef) -> chunkstore::Result<Vec<ChunkRef>> {
    let bytes = chunkstore::reader::read_all(store, &[chunk])?;
    let mut decoder = Decoder::new(&bytes, "manifest list");
    let refs = decode_refs(&mut decoder).and_then(|refs| {
        let is_empty = refs.is_empty() || refs.iter().any(|chunk| chunk.len == 0);
        if is_empty { Err(decoder.malformed("a list, or a chunk of it, is empty")) } else { Ok(refs) }
    });
    refs.map_err(|error| chunkstore::Error::corrupt(format!("manifest chunk {}", chunk.id.short()), error))
}

/// Reads chunks that hold records, in order, and calls `each` with the chunks of content that each of them lists, until it
/// returns `false`.
///
/// # Errors
///
/// Of `each`, which gets what is damaged as such, and of the store.
pub(crate) fn each_leaf<E: From<chunkstore::Error>>(
    store: &Arc<ChunkStore>,
    leaves: impl IntoIterator<Item = ChunkRef>,
    each: &mut dyn FnMut(ChunkId, chunkstore::Result<Vec<ChunkRef>>) -> std::result::Result<bool, E>,
) -> std::result::Result<(), E> {
    let mut ahead = ReadAhead::new(store);
    let mut leaves = leaves.into_iter();
    loop {
        while !ahead.is_full() {
            let Some(chunk) = leaves.next() else { break };
            ahead.request(chunk, chunk.id)?;
        }
        let Some(batch) = ahead.take()? else { return Ok(()) };
        for fetched in batch {
            let Fetched::Chunk(bytes, id) = fetched else { continue };
            let chunks = match bytes.and_then(|bytes| content(id, &bytes)) {
                Err(error) if !error.is_damage() => return Err(error.into()),
                chunks => chunks,
            };
            if !each(id, chunks)? {
                return Ok(());
            }
        }
    }
}

fn content(id: ChunkId, bytes: &[u8]) -> chunkstore::Result<Vec<ChunkRef>> {
    let records = parse(bytes)
        .map_err(|error| chunkstore::Error::corrupt(format!("manifest chunk {}", id.short()), error))?;
    let lists = records.into_iter().filter_map(|record| match record {
        Record::Chunks(chunks) => Some(chunks),
        _ => None,
    });
    Ok(lists.flatten().collect())
}

/// Chunks of manifests whose content was come across, each with its height over the records: who writes to a repository may
/// use one chunk at two heights, and it lists something else at each.
pub(crate) type KnownLists = HashSet<(u8, ChunkId)>;

/// Calls `each` with the chunks of a manifest that are not in `known`, and with the chunks of content that these list; what was
/// read is in `known` afterwards. If it fails, `known` is as it was: what lies below a list that was read may not have been
/// come across.
///
/// # Errors
///
/// If a chunk cannot be read or is damaged; then some of the manifest was not come across.
pub(crate) fn each_chunk(
    store: &Arc<ChunkStore>,
    root: &ManifestRoot,
    known: &mut KnownLists,
    each: &mut dyn FnMut(ChunkRef),
) -> Result<()> {
    if root.level > MAX_LEVELS {
        return Err(Error::Malformed { what: "manifest".into(), why: "too many levels".into() });
    }
    let mut fresh = HashSet::new();
    let mut level: Vec<ChunkRef> =
        root.chunks.iter().map(|(id, len)| ChunkRef { id: *id, len: *len }).collect();
    let mut distinct = |height: u8, level: &mut Vec<ChunkRef>| {
        level.retain(|chunk| {
            let list = (height, chunk.id);
            !known.contains(&list) && fresh.insert(list)
        });
        level.iter().for_each(|chunk| each(*chunk));
    };
    for height in (1..=root.level).rev() {
        distinct(height, &mut level);
        let mut below = vec![];
        for chunk in level {
            below.extend(read_list(store, chunk)?);
        }
        level = below;
    }
    distinct(0, &mut level);
    each_leaf(store, level, &mut |_, chunks| {
        chunks?.into_iter().for_each(&mut *each);
        Ok::<_, chunkstore::Error>(true)
    })?;
    known.extend(fresh);
    Ok(())
}
