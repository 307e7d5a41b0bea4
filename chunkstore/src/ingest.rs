//! Writing: streams go in one after the other, chunk references come out in the same order, and all cores are busy in
//! between.
//!
//! The caller's thread reads into a slab and cuts it. Each batch of whole chunks (about 2 MiB) goes to a worker, which
//! names, looks up and compresses it while the bytes are in its cache (`dedupe.rs`). Finished batches return in order;
//! `packer.rs` writes their new chunks into packs. The number of slabs in flight bounds memory. The last version of a
//! stream helps at all steps (`predict.rs`).

use crate::chunker::Chunker;
use crate::executor::{Pending, submit};
use crate::format::PackKind;
use crate::id::ChunkId;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::sync::Arc;

mod afar;
mod again;
mod dedupe;
pub mod pack_size;
mod packer;
mod predict;
pub use again::Again;
use dedupe::{Batch, CutChunk, Processed, ProcessedChunk};
pub use dedupe::{Dedupe, Sealing};
pub use packer::{Packer, PackerOptions, Written};
use predict::{Hint, Prediction};

/// A batch is handed on when this much of it is cut.
const BATCH_LEN: usize = 2 << 20;
/// Or when this many tokens are in it: a million empty files have no bytes to wait for.
const BATCH_TOKENS: usize = 4096;
/// A slab, which holds a batch, the largest chunk and a read ahead of it, is at most so long.
const MAX_SLAB_LEN: usize = 5 << 20;
/// Small chunks fill small batches: so many of the largest.
const BATCH_CHUNKS: usize = 64;
/// Chunks of manifests are cut by their writer, and stay below this.
pub const METADATA_MAX_LEN: usize = 1 << 20;
/// Reads are offered at least this much room, in batches of 2 MiB; less in smaller ones.
const MIN_READ: usize = 256 << 10;

/// A chunk of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// Its name.
    pub id: ChunkId,
    /// Length of its plaintext.
    pub len: u32,
}

/// What comes out of a lane.
#[derive(Debug)]
pub enum Output<T> {
    /// The next chunk of the current stream.
    Chunk(ChunkRef),
    /// A token that the caller put between chunks.
    Token(T),
}

struct InFlight<T> {
    work: Pending<Result<Processed>>,
    /// Tokens, each with the number of chunks of this batch before it.
    tokens: Vec<(usize, T)>,
}

/// A sequence of streams that are written into one kind of pack.
pub struct Lane<T> {
    dedupe: Arc<Dedupe>,
    kind: PackKind,
    chunker: Chunker,
    max_len: usize,
    batch_len: usize,
    min_read: usize,
    slab: Vec<u8>,
    /// Bytes in the slab.
    filled: usize,
    /// Bytes of it that are cut.
    cut: usize,
    chunks: Vec<CutChunk>,
    prediction: Prediction,
    /// Whether the predicted end of the next chunk was looked for in vain.
    sought: bool,
    /// Anchor of the last chunk of the current stream.
    last_anchor: u64,
    tokens: Vec<(usize, T)>,
    in_flight: VecDeque<InFlight<T>>,
    limit: usize,
}

impl<T> Lane<T> {
    /// Opens a lane.
    pub fn new(dedupe: &Arc<Dedupe>, kind: PackKind) -> Result<Self> {
        let chunker = dedupe.store.chunker()?;
        let max_len = match kind {
            PackKind::Data => chunker.params().max_len as usize + chunker.reach(),
            PackKind::Metadata => METADATA_MAX_LEN,
        };
        let batch_len = match kind {
            PackKind::Data => BATCH_LEN.min(BATCH_CHUNKS * max_len),
            PackKind::Metadata => MIN_READ,
        };
        let min_read = MIN_READ.min(batch_len / 8);
        let slab_len = max_len + batch_len + min_read;
        if slab_len > MAX_SLAB_LEN {
            return Err(Error::Invalid(format!("chunks of up to {max_len} bytes do not fit the pipeline")));
        }
        Ok(Self {
            dedupe: Arc::clone(dedupe),
            kind,
            chunker,
            max_len,
            batch_len,
            min_read,
            slab: dedupe.slab(slab_len),
            filled: 0,
            cut: 0,
            chunks: vec![],
            prediction: Prediction::default(),
            sought: false,
            last_anchor: 0,
            tokens: vec![],
            in_flight: VecDeque::new(),
            // Enough that no worker waits while this thread reads, and no more.
            limit: 2 * dedupe.store.access.cpu.parallelism() + 1,
        })
    }

    /// Begins an entry: predictions for the previous one no longer apply.
    pub fn start(&mut self) {
        self.prediction.start();
        (self.last_anchor, self.sought) = (0, false);
    }

    /// Whether more of the last version's chunks should be told by [`Lane::predict`].
    #[must_use]
    pub fn wants_prediction(&self) -> bool {
        self.prediction.is_short()
    }

    /// Adds the next chunks of the last version of the stream that is being written.
    pub fn predict(&mut self, chunks: &[ChunkRef]) -> Result<()> {
        self.prediction.extend(&**self.dedupe.store.index(), chunks, &*self.dedupe)
    }

    /// Room for the next bytes of the current stream; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.slab.len() - self.filled < self.min_read {
            self.dispatch();
        }
        &mut self.slab[self.filled..]
    }

    /// Takes the first `len` bytes of [`Lane::space`] as read.
    pub fn advance(&mut self, len: usize) {
        self.filled += len;
        loop {
            // What is cut early need not be taken along into the next slab.
            if let Some(found) = self.find_predicted(false) {
                self.cut_at(found);
            } else if self.filled - self.cut >= self.max_len {
                self.cut_one();
            } else {
                break;
            }
        }
        if self.cut >= self.batch_len {
            self.dispatch();
        }
    }

    /// Copies bytes in; for streams that are made in memory.
    pub fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space();
            let len = bytes.len().min(space.len());
            space[..len].copy_from_slice(&bytes[..len]);
            self.advance(len);
            bytes = &bytes[len..];
        }
    }

    /// Ends the current stream: the remaining bytes become its last chunks.
    pub fn end_stream(&mut self) {
        while self.cut < self.filled {
            match self.find_predicted(true) {
                Some(found) => self.cut_at(found),
                None => self.cut_one(),
            }
        }
        if self.cut >= self.batch_len {
            self.dispatch();
        }
    }

    /// Puts a token after the chunks so far.
    pub fn token(&mut self, token: T) {
        self.tokens.push((self.chunks.len(), token));
        if self.tokens.len() >= BATCH_TOKENS {
            self.dispatch();
        }
    }

    /// Ends a chunk of content here: for sources that know where one record ends and the next begins. Nothing
    /// happens where a chunk ends already.
    pub fn cut_here(&mut self) {
        if self.cut < self.filled {
            let window = &self.slab[self.cut..self.filled];
            self.cut_at((window.len(), self.chunker.anchor(window)));
        }
        if self.cut >= self.batch_len {
            self.dispatch();
        }
    }

    /// Makes everything since the last cut one chunk, wherever the chunker would cut: for records that must not be
    /// split. The caller keeps it below the chunker's largest.
    pub fn end_chunk(&mut self) {
        if self.cut < self.filled {
            let (range, hint) = (self.cut..self.filled, Hint::default());
            self.chunks.push(CutChunk { range, anchor: 0, before: 0, hint });
            (self.cut, self.sought) = (self.filled, false);
        }
        if self.cut >= self.batch_len {
            self.dispatch();
        }
    }

    /// Adds a chunk that was cut elsewhere, as it is. Its anchor is found here, if it is to have one.
    ///
    /// # Errors
    ///
    /// It is longer than a chunk of this repository can be.
    pub fn add_whole(&mut self, plain: &[u8], has_anchor: bool) -> Result<()> {
        if plain.len() > self.max_len {
            let why = format!("a chunk of {} bytes is longer than chunks are here", plain.len());
            return Err(Error::Invalid(why));
        }
        if self.slab.len() - self.filled < plain.len() {
            self.dispatch();
        }
        let end = self.filled + plain.len();
        self.slab[self.filled..end].copy_from_slice(plain);
        self.filled = end;
        let anchor = if has_anchor { self.chunker.anchor(plain) } else { 0 };
        let before = std::mem::replace(&mut self.last_anchor, anchor);
        self.chunks.push(CutChunk { range: self.cut..end, anchor, before, hint: Hint::default() });
        (self.cut, self.sought) = (end, false);
        if self.cut >= self.batch_len || self.chunks.len() >= BATCH_TOKENS {
            self.dispatch();
        }
        Ok(())
    }

    /// The longest chunk that it takes, in bytes.
    #[must_use]
    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// Bytes since the last cut.
    #[must_use]
    pub fn uncut(&self) -> usize {
        self.filled - self.cut
    }

    /// The last version's cut, if the new stream has the same one: then no search is needed. It is searched for once,
    /// when all bytes are there that may contain it; at the end of a stream no more follow.
    fn find_predicted(&mut self, at_end: bool) -> Option<(usize, u64)> {
        let window = &self.slab[self.cut..self.filled];
        let (len, anchor) = self.prediction.expected(self.chunker.params().min_len as usize)?;
        if self.sought || !at_end && window.len() < (len + self.chunker.reach()).min(self.max_len) {
            return None;
        }
        self.sought = true;
        Some((self.chunker.find_anchor(window, len, anchor)?, anchor))
    }

    fn cut_one(&mut self) {
        let window = &self.slab[self.cut..self.filled];
        let len = self.chunker.cut(window);
        self.cut_at((len, self.chunker.anchor(&window[..len])));
    }

    fn cut_at(&mut self, (len, anchor): (usize, u64)) {
        let hint = self.prediction.cut(len, anchor);
        let before = std::mem::replace(&mut self.last_anchor, anchor);
        self.chunks.push(CutChunk { range: self.cut..self.cut + len, anchor, before, hint });
        self.cut += len;
        self.sought = false;
    }

    /// Hands the cut chunks to a worker and takes the rest along into a new slab.
    fn dispatch(&mut self) {
        if self.chunks.is_empty() && self.tokens.is_empty() {
            return;
        }
        let mut fresh = self.dedupe.slab(self.slab.len());
        let rest = self.filled - self.cut;
        fresh[..rest].copy_from_slice(&self.slab[self.cut..self.filled]);
        let slab = std::mem::replace(&mut self.slab, fresh);
        (self.filled, self.cut) = (rest, 0);
        let batch = Batch { kind: self.kind, slab, chunks: std::mem::take(&mut self.chunks) };
        let dedupe = Arc::clone(&self.dedupe);
        let work = submit(&*self.dedupe.store.access.cpu, move || dedupe.process(batch));
        self.in_flight.push_back(InFlight { work, tokens: std::mem::take(&mut self.tokens) });
    }

    /// Returns finished batches; waits only while too many are in flight.
    pub fn collect(
        &mut self,
        packer: &mut Packer,
        each: &mut dyn FnMut(&mut Packer, Output<T>) -> Result<()>,
    ) -> Result<()> {
        while self
            .in_flight
            .front()
            .is_some_and(|front| self.in_flight.len() > self.limit || front.work.is_ready())
        {
            self.take_front(packer, each)?;
        }
        Ok(())
    }

    /// Hands on everything.
    pub fn drain(
        &mut self,
        packer: &mut Packer,
        each: &mut dyn FnMut(&mut Packer, Output<T>) -> Result<()>,
    ) -> Result<()> {
        self.end_stream();
        self.dispatch();
        while !self.in_flight.is_empty() {
            self.take_front(packer, each)?;
        }
        Ok(())
    }

    fn take_front(
        &mut self,
        packer: &mut Packer,
        each: &mut dyn FnMut(&mut Packer, Output<T>) -> Result<()>,
    ) -> Result<()> {
        let Some(front) = self.in_flight.pop_front() else { return Ok(()) };
        let mut processed = front.work.wait()??;
        let mut tokens = front.tokens.into_iter().peekable();
        let chunks = std::mem::take(&mut processed.chunks);
        for (position, ProcessedChunk { chunk, frame }) in chunks.into_iter().enumerate() {
            while let Some((_, token)) = tokens.next_if(|(at, _)| *at <= position) {
                each(packer, Output::Token(token))?;
            }
            if let Some((record, range)) = frame {
                let frame = processed.frame(&record, range);
                packer.push(self.kind, record, frame)?;
            }
            each(packer, Output::Chunk(chunk))?;
        }
        self.dedupe.put_back(processed);
        tokens.try_for_each(|(_, token)| each(packer, Output::Token(token)))
    }
}
