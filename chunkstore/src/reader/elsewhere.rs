//! A chunk that cannot be read where the index has it: it is read from a copy of its pack, from where a prune moved it,
//! or from another location that is sound.

use crate::bases::BaseReader;
use crate::id::PackId;
use crate::index::Location;
use crate::pack::PackReader;
use crate::seal::Decompressor;
use crate::store::ChunkStore;
use crate::{Error, Result};
use std::collections::HashSet;

/// Times that a read starts over because HEAD moved on while it was at it.
const ROUNDS: u32 = 8;
/// Other places that are tried for a chunk that cannot be read.
const ELSEWHERE: u32 = 4;

/// Reads a chunk that could not be read: from a copy of its pack, or from where it was moved.
pub(super) fn read_otherwise(
    store: &ChunkStore,
    place: &Location,
    bases: &BaseReader,
    decompressor: &mut Decompressor,
    error: Error,
) -> Result<Vec<u8>> {
    match store.read_copy(place, bases, decompressor) {
        Some(plain) => Ok(plain),
        None => read_moved(store, place, bases, decompressor, error),
    }
}

/// Reads a chunk that could not be read at the location of the index: a prune may have moved it since, or another
/// location is sound. It is damaged only if it still cannot be read under a HEAD that did not change.
fn read_moved(
    store: &ChunkStore,
    place: &Location,
    bases: &BaseReader,
    decompressor: &mut Decompressor,
    error: Error,
) -> Result<Vec<u8>> {
    if !error.is_damage() {
        return Err(error);
    }
    let mut last = error;
    // Without the packs that were not there, or not sound: each look goes through all segments.
    let mut avoid = HashSet::new();
    let mut known = None;
    for _ in 0..ROUNDS {
        let generation = store.reload()?.generation;
        if known.replace(generation) == Some(generation) {
            break;
        }
        store.sync_index()?;
        let mut place = store.index().lookup(&[place.record.id])?.pop().flatten();
        for _ in 0..ELSEWHERE {
            let Some(found) = place else { break };
            match read_at(store, &found, bases, decompressor) {
                Err(error) if error.is_damage() => last = error,
                done => return done,
            }
            if let Some(pack) = pack_of(&last)
                && !avoid.insert(pack)
            {
                break;
            }
            place = bases.look_everywhere(store, &found.record.id, &avoid)?;
        }
    }
    Err(last)
}

/// The pack that an error is about.
fn pack_of(error: &Error) -> Option<PackId> {
    let object = match error {
        Error::Corrupt { object, .. } => object,
        Error::Storage(error) => &error.object,
        _ => return None,
    };
    PackId::parse(object.rsplit('/').next()?)
}

fn read_at(
    store: &ChunkStore,
    place: &Location,
    bases: &BaseReader,
    decompressor: &mut Decompressor,
) -> Result<Vec<u8>> {
    let (object, record) = (place.pack.name.object(), &place.record);
    let reader = PackReader::new(place.pack.name, store.keys())?;
    let sealed =
        store.storage().get_range(&object, u64::from(record.offset), u64::from(record.stored_len))?;
    let plain = bases.open(store, &reader, record, &sealed, decompressor)?;
    reader.check_id(store.keys(), record, &plain)?;
    Ok(plain)
}
