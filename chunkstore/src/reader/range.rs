//! One range read: neighbours in a pack, opened while their bytes come.

use super::Reach;
use super::elsewhere::read_otherwise;
use crate::bases::BaseReader;
use crate::index::Location;
use crate::pack::PackReader;
use crate::seal::Decompressor;
use crate::store::ChunkStore;
use crate::{Error, Result};

/// Neighbours closer than this are read in one go, with what lies between.
const GAP_BYTES: u64 = 256 << 10;

/// Chunks of one range read, each on its own.
pub(super) type RunResult = Vec<Result<Vec<u8>>>;

/// Whether a chunk is shortly after the last of a run.
pub(super) fn extends(run: &[Location], next: &Location, reach: Reach) -> bool {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return false };
    let (start, end) = (u64::from(first.record.offset), last.record.end());
    let offset = u64::from(next.record.offset);
    let plain: usize = run.iter().chain([next]).map(|place| place.record.plain_len as usize).sum();
    first.pack.name == next.pack.name
        && plain <= reach.run_plain
        && offset >= end
        && offset - end <= GAP_BYTES
        && next.record.end() - start <= reach.run
}

/// One reason for every chunk of a run.
pub(super) fn all_fail(places: &[Location], error: &Error) -> RunResult {
    let why = crate::store::describe(error);
    places.iter().map(|place| Err(Error::corrupt(place.pack.name.object(), &why))).collect()
}

/// Reads one range and opens its chunks. If the range cannot be read completely, each chunk is tried alone.
pub(super) fn read_run(
    store: &ChunkStore,
    places: &[Location],
    bases: &BaseReader,
    decompressor: &mut Decompressor,
) -> RunResult {
    let (Some(first), Some(last)) = (places.first(), places.last()) else { return vec![] };
    let object = first.pack.name.object();
    let start = u64::from(first.record.offset);
    let reader = match PackReader::new(first.pack.name, store.keys()) {
        Ok(reader) => reader,
        // The index may be older than HEAD, and its epoch retired since: then it was moved.
        Err(Error::Corrupt { why, .. }) => {
            let error = || Error::corrupt(first.pack.name.object(), &why);
            return places
                .iter()
                .map(|place| read_otherwise(store, place, bases, decompressor, error()))
                .collect();
        }
        Err(error) => return all_fail(places, &error),
    };
    let mut run =
        Opening { store, reader: &reader, bases, places, chunks: vec![], window: vec![], from: start };
    let len = last.record.end() - start;
    let streamed =
        store.storage().stream_range(&object, start, len, &mut |part| run.feed(part, decompressor));
    let otherwise = |(place, read): (&Location, Result<Vec<u8>>)| {
        read.or_else(|error| read_otherwise(store, place, bases, decompressor, error))
    };
    let mut chunks: RunResult = places.iter().zip(run.chunks).map(otherwise).collect();
    match streamed {
        Ok(()) => {}
        Err(error) if places.len() == 1 && chunks.is_empty() => {
            chunks.push(read_otherwise(store, first, bases, decompressor, error.into()));
        }
        Err(_) => {
            let rest = places.iter().skip(chunks.len());
            let alone =
                rest.flat_map(|place| read_run(store, std::slice::from_ref(place), bases, decompressor));
            let alone: RunResult = alone.collect();
            chunks.extend(alone);
        }
    }
    chunks
}

/// Opens the chunks of a run while its bytes come.
struct Opening<'a> {
    store: &'a ChunkStore,
    reader: &'a PackReader,
    bases: &'a BaseReader,
    places: &'a [Location],
    /// Of the first so many places.
    chunks: RunResult,
    /// Bytes that came and were not used, and the offset in the pack at which they begin.
    window: Vec<u8>,
    from: u64,
}

impl Opening<'_> {
    fn feed(&mut self, part: &[u8], decompressor: &mut Decompressor) {
        self.window.extend_from_slice(part);
        let mut used = 0;
        while let Some(place) = self.places.get(self.chunks.len()) {
            let start = (u64::from(place.record.offset) - self.from) as usize;
            let Some(sealed) = self.window.get(start..start + place.record.stored_len as usize) else {
                break;
            };
            let read =
                self.bases.open(self.store, self.reader, &place.record, sealed, decompressor).and_then(
                    |plain| self.reader.check_id(self.store.keys(), &place.record, &plain).map(|()| plain),
                );
            self.chunks.push(read);
            used = start + place.record.stored_len as usize;
        }
        self.window.drain(..used);
        self.from += used as u64;
    }
}
