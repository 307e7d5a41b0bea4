//! Writing: one stream after the other goes in, chunk references come out in the same order, and all
//! cores are busy in between.
//!
//! The caller's thread reads into a slab and cuts it. Each batch of whole chunks (about 2 MiB) goes to
//! a worker, which names, looks up and compresses it while the bytes are in its cache. Finished
//! batches come back in order; their new chunks are laid into packs by `packer.rs`. Memory is bounded
//! by the number of slabs in flight.

use crate::chunker::Chunker;
use crate::executor::{Pending, submit};
use crate::format::{Codec, PackKind};
use crate::id::{ChunkId, PackId};
use crate::index::short_key;
use crate::seal::{Compression, Compressor};
use crate::store::ChunkStore;
use crate::{Error, Result};
use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub mod packer;
pub use packer::{Packer, PackerOptions, Written};

/// A batch is handed on when this much of it is cut.
const BATCH_LEN: usize = 2 << 20;
/// Or when this many tokens are in it: a million empty files have no bytes to wait for.
const BATCH_TOKENS: usize = 4096;
/// A slab holds a batch, the largest chunk and a read ahead of it.
const SLAB_LEN: usize = 4 << 20;
/// Chunks of manifests are cut by their writer, and stay below this.
pub const METADATA_MAX_LEN: usize = 1 << 20;
/// Reads are offered at least this much room.
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
    /// What the caller put between chunks.
    Token(T),
}

/// What all lanes of a session share: which chunks are on their way, and which packs are built on.
pub struct Dedupe {
    store: Arc<ChunkStore>,
    avoid: HashSet<PackId>,
    claimed: Mutex<HashSet<[u8; 16]>>,
    relied: Mutex<HashSet<PackId>>,
    compression: Compression,
    compressors: Mutex<Vec<Compressor>>,
    slabs: Mutex<Vec<Vec<u8>>>,
    arenas: Mutex<Vec<Vec<u8>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dedupe {
    /// Starts a session's bookkeeping; the index must be in step with HEAD.
    #[must_use]
    pub fn new(store: Arc<ChunkStore>, compression: Compression) -> Arc<Self> {
        Arc::new(Self {
            avoid: store.avoided_packs(),
            store,
            claimed: Mutex::default(),
            relied: Mutex::default(),
            compression,
            compressors: Mutex::default(),
            slabs: Mutex::default(),
            arenas: Mutex::default(),
        })
    }

    /// The store that is written to.
    #[must_use]
    pub fn store(&self) -> &Arc<ChunkStore> {
        &self.store
    }

    /// The packs that this session's chunks were found in.
    #[must_use]
    pub fn relied(&self) -> HashSet<PackId> {
        locked(&self.relied).clone()
    }

    /// Counts packs of this session among those that its commit depends on.
    pub(crate) fn rely_on(&self, packs: impl IntoIterator<Item = PackId>) {
        locked(&self.relied).extend(packs);
    }

    /// Forgets claims on chunks that the index knows by now.
    pub(crate) fn release(&self, ids: impl IntoIterator<Item = ChunkId>) {
        let mut claimed = locked(&self.claimed);
        for id in ids {
            claimed.remove(&short_key(&id));
        }
    }

    /// Whether every chunk is in the store already, in packs that may be built on; if so, they are
    /// relied on.
    pub fn reuse(&self, ids: &[ChunkId]) -> Result<bool> {
        let mut packs = HashSet::new();
        for location in self.store.index().lookup(ids)? {
            match location {
                Some(location) if !self.avoid.contains(&location.pack.name.id) => {
                    packs.insert(location.pack.name.id);
                }
                _ => return Ok(false),
            }
        }
        self.rely_on(packs);
        Ok(true)
    }

    /// For each id: whether its chunk must be stored by whoever asks. Claims those.
    fn claim(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let mut wanted = vec![false; ids.len()];
        let mut unknown = vec![];
        {
            let claimed = locked(&self.claimed);
            for (position, id) in ids.iter().enumerate() {
                if !claimed.contains(&short_key(id)) {
                    unknown.push((position, *id));
                }
            }
        }
        let asked: Vec<ChunkId> = unknown.iter().map(|(_, id)| *id).collect();
        let found = self.store.index().lookup(&asked)?;
        let mut packs = HashSet::new();
        let mut claimed = locked(&self.claimed);
        for ((position, id), location) in unknown.into_iter().zip(found) {
            match location {
                Some(location) if !self.avoid.contains(&location.pack.name.id) => {
                    packs.insert(location.pack.name.id);
                }
                // Two workers may have asked at once, and one batch may hold a chunk twice: the first
                // claim wins.
                _ => wanted[position] = claimed.insert(short_key(&id)),
            }
        }
        drop(claimed);
        self.rely_on(packs);
        Ok(wanted)
    }

    fn slab(&self) -> Vec<u8> {
        locked(&self.slabs).pop().unwrap_or_else(|| vec![0; SLAB_LEN])
    }

    /// The worker's part: name, look up, compress.
    fn process(&self, batch: Batch) -> Result<Processed> {
        let Batch { slab, chunks } = batch;
        let ids: Vec<ChunkId> =
            chunks.iter().map(|range| self.store.keys().chunk_id(&slab[range.clone()])).collect();
        let wanted = self.claim(&ids)?;
        let mut frames = Vec::new();
        if wanted.contains(&true) {
            // Reused like slabs, and large enough from the start: growing would copy.
            frames = locked(&self.arenas).pop().unwrap_or_else(|| Vec::with_capacity(SLAB_LEN));
        }
        let mut out = Vec::with_capacity(chunks.len());
        if wanted.contains(&true) {
            let mut compressor = match locked(&self.compressors).pop() {
                Some(compressor) => compressor,
                None => Compressor::new(self.compression)?,
            };
            for ((id, range), wanted) in ids.iter().zip(&chunks).zip(&wanted) {
                let frame = wanted.then(|| {
                    let start = frames.len();
                    let codec = compressor.compress(&slab[range.clone()], &mut frames);
                    (codec, start..frames.len())
                });
                out.push(ProcessedChunk { chunk: chunk_ref(*id, range), frame });
            }
            locked(&self.compressors).push(compressor);
        } else {
            out.extend(
                ids.iter()
                    .zip(&chunks)
                    .map(|(id, range)| ProcessedChunk { chunk: chunk_ref(*id, range), frame: None }),
            );
        }
        locked(&self.slabs).push(slab);
        Ok(Processed { chunks: out, frames })
    }
}

fn chunk_ref(id: ChunkId, range: &Range<usize>) -> ChunkRef {
    ChunkRef { id, len: u32::try_from(range.len()).expect("chunks are at most 16 MiB") }
}

struct Batch {
    slab: Vec<u8>,
    chunks: Vec<Range<usize>>,
}

struct ProcessedChunk {
    chunk: ChunkRef,
    /// Codec and place in `frames`, if the chunk is new.
    frame: Option<(Codec, Range<usize>)>,
}

struct Processed {
    chunks: Vec<ProcessedChunk>,
    frames: Vec<u8>,
}

struct InFlight<T> {
    work: Pending<Result<Processed>>,
    /// Tokens, each with the number of chunks of this batch before it.
    tokens: Vec<(usize, T)>,
}

/// A sequence of streams on its way into one kind of pack.
pub struct Lane<T> {
    dedupe: Arc<Dedupe>,
    kind: PackKind,
    chunker: Chunker,
    max_len: usize,
    slab: Vec<u8>,
    /// Bytes in the slab.
    filled: usize,
    /// Bytes of it that are cut.
    cut: usize,
    chunks: Vec<Range<usize>>,
    tokens: Vec<(usize, T)>,
    in_flight: VecDeque<InFlight<T>>,
    limit: usize,
}

impl<T> Lane<T> {
    /// Opens a lane.
    pub fn new(dedupe: &Arc<Dedupe>, kind: PackKind) -> Result<Self> {
        let chunker = dedupe.store.chunker()?;
        let max_len = match kind {
            PackKind::Data => chunker.params().max_len as usize,
            PackKind::Metadata => METADATA_MAX_LEN,
        };
        if max_len + BATCH_LEN + MIN_READ > SLAB_LEN {
            return Err(Error::Invalid(format!("chunks of up to {max_len} bytes do not fit the pipeline")));
        }
        Ok(Self {
            dedupe: Arc::clone(dedupe),
            kind,
            chunker,
            max_len,
            slab: dedupe.slab(),
            filled: 0,
            cut: 0,
            chunks: vec![],
            tokens: vec![],
            in_flight: VecDeque::new(),
            // Enough that no worker waits while this thread reads, and no more.
            limit: 2 * dedupe.store.access.cpu.parallelism() + 1,
        })
    }

    /// Room for the next bytes of the current stream; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.slab.len() - self.filled < MIN_READ {
            self.dispatch();
        }
        &mut self.slab[self.filled..]
    }

    /// Takes the first `len` bytes of [`Lane::space`] as read.
    pub fn advance(&mut self, len: usize) {
        self.filled += len;
        while self.filled - self.cut >= self.max_len {
            self.cut_one();
        }
        if self.cut >= BATCH_LEN {
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

    /// Ends the current stream: what is left becomes its last chunks.
    pub fn end_stream(&mut self) {
        while self.cut < self.filled {
            self.cut_one();
        }
        if self.cut >= BATCH_LEN {
            self.dispatch();
        }
    }

    /// Puts a token behind the chunks so far.
    pub fn token(&mut self, token: T) {
        self.tokens.push((self.chunks.len(), token));
        if self.tokens.len() >= BATCH_TOKENS {
            self.dispatch();
        }
    }

    /// Makes everything since the last cut one chunk, wherever the chunker would cut: for records
    /// that must not be torn apart. The caller keeps it below the chunker's largest.
    pub fn end_chunk(&mut self) {
        if self.cut < self.filled {
            self.chunks.push(self.cut..self.filled);
            self.cut = self.filled;
        }
        if self.cut >= BATCH_LEN {
            self.dispatch();
        }
    }

    /// Bytes since the last cut.
    #[must_use]
    pub fn uncut(&self) -> usize {
        self.filled - self.cut
    }

    fn cut_one(&mut self) {
        let len = self.chunker.cut(&self.slab[self.cut..self.filled]);
        self.chunks.push(self.cut..self.cut + len);
        self.cut += len;
    }

    /// Hands the cut chunks to a worker and takes the rest along into a new slab.
    fn dispatch(&mut self) {
        if self.chunks.is_empty() && self.tokens.is_empty() {
            return;
        }
        let mut fresh = self.dedupe.slab();
        let rest = self.filled - self.cut;
        fresh[..rest].copy_from_slice(&self.slab[self.cut..self.filled]);
        let slab = std::mem::replace(&mut self.slab, fresh);
        (self.filled, self.cut) = (rest, 0);
        let batch = Batch { slab, chunks: std::mem::take(&mut self.chunks) };
        let dedupe = Arc::clone(&self.dedupe);
        let work = submit(&*self.dedupe.store.access.cpu, move || dedupe.process(batch));
        self.in_flight.push_back(InFlight { work, tokens: std::mem::take(&mut self.tokens) });
    }

    /// Hands on what is finished; waits only while too much is in flight.
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
        let Processed { chunks, mut frames } = front.work.wait()??;
        let mut tokens = front.tokens.into_iter().peekable();
        for (position, ProcessedChunk { chunk, frame }) in chunks.into_iter().enumerate() {
            while let Some((_, token)) = tokens.next_if(|(at, _)| *at <= position) {
                each(packer, Output::Token(token))?;
            }
            if let Some((codec, range)) = frame {
                packer.push(self.kind, chunk, codec, &frames[range])?;
            }
            each(packer, Output::Chunk(chunk))?;
        }
        if frames.capacity() > 0 {
            frames.clear();
            locked(&self.dedupe.arenas).push(frames);
        }
        tokens.try_for_each(|(_, token)| each(packer, Output::Token(token)))
    }
}
