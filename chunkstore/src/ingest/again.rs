//! Storing existing chunks again: a prune gives chunks other bases.

use super::dedupe::{Attempt, Dedupe, len};
use crate::Result;
use crate::bases::BaseChoice;
use crate::format::Codec;
use crate::id::ChunkId;
use crate::pack::Record;
use crate::seal::{Compression, Compressor, DeltaCompressor, Patcher};

/// A chunk that is to be stored once more.
pub struct Again {
    /// Its name.
    pub id: ChunkId,
    /// Its anchor.
    pub anchor: u64,
    /// Its content.
    pub plain: Vec<u8>,
    /// The chunks that it may be stored against.
    pub choice: Option<BaseChoice>,
}

impl Dedupe {
    /// Stores existing chunks again: each against its choice if that is clearly smaller, otherwise full. The records
    /// come without a location, each with its frame.
    pub fn seal_again(&self, chunks: Vec<Again>) -> Result<Vec<(Record, Vec<u8>)>> {
        let mut compressor = Compressor::new(self.sealing.compression)?;
        let mut again = (self.store.decompressor()?, vec![]);
        let mut out = Vec::with_capacity(chunks.len());
        let compressed = self.sealing.compression != Compression::Off;
        let choice = |chunk: &Again| chunk.choice.clone().filter(|_| compressed);
        let attempts: Vec<Option<Attempt>> =
            chunks.iter().map(|chunk| choice(chunk).and_then(|choice| self.attempt(choice))).collect();
        let mut deltas = DeltaCompressor::new(Patcher::default())?;
        for (chunk, attempt) in chunks.iter().zip(&attempts) {
            let Again { id, anchor, plain, .. } = chunk;
            let record = Record::full(*id, len(&(0..plain.len())), *anchor, Codec::Raw);
            let mut frame = vec![];
            let delta = match attempt {
                Some(attempt) => self.delta(attempt, plain, record, &mut deltas, &mut frame, &mut again)?,
                None => Err(record),
            };
            out.push(match delta {
                Ok(delta) => (delta, frame),
                Err(alone) => {
                    frame.clear();
                    let codec = compressor.compress(plain, &mut frame);
                    (Record { codec, ..alone }, frame)
                }
            });
        }
        self.store.recycle(again.0);
        Ok(out)
    }
}
