//! Ranges of one entry's content, read only from the chunks that contain them.

use chunkstore::ingest::ChunkRef;
use chunkstore::reader::{Fetched, ReadAhead};
use chunkstore::store::ChunkStore;
use std::collections::VecDeque;
use std::io::{Error, Read, Result};
use std::sync::Arc;

/// An entry's content.
pub(super) struct Bytes<'a> {
    store: &'a Arc<ChunkStore>,
    chunks: &'a [ChunkRef],
    /// Where each chunk begins.
    starts: Vec<u64>,
}

/// Stretches that are to be read, one after the other.
pub(super) struct Plan<'a> {
    bytes: Bytes<'a>,
    stretches: VecDeque<(u64, u64)>,
}

impl<'a> Bytes<'a> {
    pub(super) fn new(store: &'a Arc<ChunkStore>, chunks: &'a [ChunkRef]) -> Self {
        let mut end = 0;
        let starts = chunks
            .iter()
            .map(|chunk| {
                let start = end;
                end += u64::from(chunk.len);
                start
            })
            .collect();
        Self { store, chunks, starts }
    }

    /// Stretches from an offset to another.
    pub(super) fn plan(self, stretches: impl Iterator<Item = (u64, u64)>) -> Plan<'a> {
        Plan { bytes: self, stretches: stretches.collect() }
    }
}

impl<'a> Plan<'a> {
    /// The next stretch; nothing when there is none.
    pub(super) fn next_stretch(&mut self) -> Stretch<'a> {
        let (from, to) = self.stretches.pop_front().unwrap_or((0, 0));
        let first = self.bytes.starts.partition_point(|start| *start <= from).saturating_sub(1);
        let skip = from - self.bytes.starts.get(first).copied().unwrap_or_default();
        Stretch {
            ahead: ReadAhead::new(self.bytes.store),
            chunks: self.bytes.chunks.get(first..).unwrap_or_default().iter(),
            asked: from - skip,
            to,
            skip: skip as usize,
            left: to - from,
            parts: VecDeque::new(),
        }
    }
}

/// A stretch as it is read.
pub(super) struct Stretch<'a> {
    ahead: ReadAhead<()>,
    chunks: std::slice::Iter<'a, ChunkRef>,
    /// The offset that the next chunk to ask for has.
    asked: u64,
    to: u64,
    /// Bytes of the first part that were used or are not meant.
    skip: usize,
    left: u64,
    parts: VecDeque<Vec<u8>>,
}

impl Read for Stretch<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while self.left > 0 {
            if let Some(part) = self.parts.front() {
                let rest = part.get(self.skip..).unwrap_or_default();
                let len = rest.len().min(buffer.len()).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                if len > 0 {
                    buffer[..len].copy_from_slice(&rest[..len]);
                    self.skip += len;
                    self.left -= len as u64;
                    return Ok(len);
                }
                if let Some(part) = self.parts.pop_front() {
                    self.ahead.recycle(part);
                }
                self.skip = 0;
                continue;
            }
            while self.asked < self.to && !self.ahead.is_full() {
                let Some(chunk) = self.chunks.next() else { break };
                self.asked += u64::from(chunk.len);
                self.ahead.request(*chunk, ()).map_err(Error::other)?;
            }
            let Some(batch) = self.ahead.take().map_err(Error::other)? else { break };
            for fetched in batch {
                if let Fetched::Chunk(bytes, ()) = fetched {
                    self.parts.push_back(bytes.map_err(Error::other)?);
                }
            }
        }
        Ok(0)
    }
}
