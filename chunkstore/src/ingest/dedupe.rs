//! The workers' part: name a batch of chunks, find out which are new, and compress those, against older
//! versions of themselves where that is clearly smaller.

use super::ChunkRef;
use super::predict::Hint;
use crate::bases::{BaseChoice, BaseReader, Grounded, Prefix, choose, ground, ground_everywhere};
use crate::format::{Codec, PackKind};
use crate::id::{ChunkId, PackId};
use crate::index::{PackInfo, Usable, short_key};
use crate::pack::Record;
use crate::pool::{Pool, locked};
use crate::seal::{Compression, Compressor, Decompressor, DeltaCompressor, PatchCompressor, Patcher};
use crate::store::{Asked, ChunkStore, LostPacks};
use crate::{Error, Result, memory};
use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A delta is kept if it takes at most this share of what the chunk would take alone: reading one costs
/// its bases, too.
const CLEARLY_SMALLER: f32 = 0.9;

/// After so many chunks that would not shrink, most are not tried whole.
const WARY: u32 = 16;

/// How new chunks are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealing {
    /// How hard to compress.
    pub compression: Compression,
    /// Whether to compress against older versions.
    pub delta: bool,
}

impl Default for Sealing {
    fn default() -> Self {
        Self { compression: Compression::default(), delta: true }
    }
}

/// Which packs are in the store as the index has them.
enum There {
    /// All but these.
    AllBut(HashSet<PackId>),
    /// The store is asked about each.
    Asked(Arc<Asked>, Arc<ChunkStore>),
}

impl Usable for There {
    fn is_usable(&self, pack: &PackInfo) -> Result<bool> {
        match self {
            Self::AllBut(lost) => lost.is_usable(pack),
            Self::Asked(asked, store) => asked.is_there(store, pack),
        }
    }
}

impl Usable for Dedupe {
    fn is_usable(&self, pack: &PackInfo) -> Result<bool> {
        Ok(self.leaving.is_usable(pack)? && self.there.is_usable(pack)?)
    }
}

/// State that all lanes of a session share: which chunks are being stored, and which packs the session relies on.
pub struct Dedupe {
    pub(super) store: Arc<ChunkStore>,
    /// Packs that are on their way out: nothing new is built on them.
    leaving: HashSet<PackId>,
    /// Which packs are there: nothing new is built on a lost one.
    there: There,
    claimed: Mutex<HashSet<[u8; 16]>>,
    relied: Mutex<HashSet<PackId>>,
    pub(super) sealing: Sealing,
    bases: BaseReader,
    compressors: Pool<Compressor>,
    patchers: Pool<Patcher>,
    pub(super) patches: Pool<PatchCompressor>,
    slabs: Pool<Vec<u8>>,
    arenas: Pool<Vec<u8>>,
    /// Chunks since one was made smaller.
    unshrunk: AtomicU32,
}

/// A chunk that was cut and not yet looked at.
pub(super) struct CutChunk {
    pub(super) range: Range<usize>,
    pub(super) anchor: u64,
    /// The anchor of the chunk before it in its stream; 0 for none.
    pub(super) before: u64,
    pub(super) hint: Hint,
}

/// Chunks of one lane, with their bytes.
pub(super) struct Batch {
    pub(super) kind: PackKind,
    pub(super) slab: Vec<u8>,
    pub(super) chunks: Vec<CutChunk>,
}

pub(super) struct ProcessedChunk {
    pub(super) chunk: ChunkRef,
    /// Its record, without a place yet, and where its frame lies; if the chunk is new.
    pub(super) frame: Option<(Record, Range<usize>)>,
}

/// What a worker made of a batch.
pub(super) struct Processed {
    pub(super) chunks: Vec<ProcessedChunk>,
    frames: Vec<u8>,
    /// The batch's bytes, where chunks of it are stored as they are.
    slab: Vec<u8>,
}

impl Processed {
    /// The frame of a chunk.
    pub(super) fn frame(&self, record: &Record, range: Range<usize>) -> &[u8] {
        if record.codec == Codec::Raw { &self.slab[range] } else { &self.frames[range] }
    }
}

/// A delta that may be made.
pub(super) struct Attempt {
    prefix: Prefix,
    choice: BaseChoice,
}

impl Dedupe {
    /// Starts a session's bookkeeping; the index must be in step with HEAD. Chunks of `lost` packs count as missing.
    ///
    /// # Errors
    ///
    /// The lists of HEAD cannot be read.
    pub fn new(store: Arc<ChunkStore>, sealing: Sealing, lost: &LostPacks) -> Result<Arc<Self>> {
        Self::with(store, sealing, There::AllBut(lost.ids()))
    }

    /// The same; the store is asked about each pack that the session would rely on, unless it was asked less than `max_age`
    /// ago by this process. [`Dedupe::lost`] has those that are lost.
    ///
    /// # Errors
    ///
    /// As [`Dedupe::new`].
    pub fn asking(store: Arc<ChunkStore>, sealing: Sealing, max_age: Duration) -> Result<Arc<Self>> {
        let there = There::Asked(store.asked(max_age), Arc::clone(&store));
        Self::with(store, sealing, there)
    }

    fn with(store: Arc<ChunkStore>, sealing: Sealing, there: There) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            leaving: store.avoided_packs()?,
            there,
            store,
            claimed: Mutex::default(),
            relied: Mutex::default(),
            sealing,
            bases: BaseReader::default(),
            compressors: Pool::default(),
            patchers: Pool::default(),
            patches: Pool::default(),
            slabs: Pool::default(),
            arenas: Pool::default(),
            unshrunk: AtomicU32::default(),
        }))
    }

    /// The lost packs that the session came across by now, if it asks about them.
    ///
    /// # Errors
    ///
    /// HEAD cannot be read: it says which of them a prune removed.
    pub fn lost(&self) -> Result<LostPacks> {
        match &self.there {
            There::AllBut(_) => Ok(LostPacks::none()),
            There::Asked(asked, store) => asked.lost(store),
        }
    }

    /// The store that is written to.
    #[must_use]
    pub fn store(&self) -> &Arc<ChunkStore> {
        &self.store
    }

    /// The packs in which this session's chunks were found, or that they depend on.
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
        for grounded in ground(&**self.store.index(), ids, self)? {
            let Some(grounded) = grounded else { return Ok(false) };
            packs.extend(grounded.packs);
        }
        self.rely_on(packs);
        Ok(true)
    }

    /// Whether every chunk has a location, also in condemned packs; if so, the session relies on them. Slower than
    /// [`Dedupe::reuse`] for chunks without one, since it searches all segments first.
    pub fn keep(&self, ids: &[ChunkId]) -> Result<bool> {
        let found = ground(&**self.store.index(), ids, &self.there)?;
        let missing = ids.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(id, _)| *id);
        let missing: Vec<ChunkId> = missing.collect();
        let mut packs: HashSet<PackId> = found.into_iter().flatten().flat_map(|found| found.packs).collect();
        if !missing.is_empty() {
            for found in ground_everywhere(&self.store, &missing, &self.there)? {
                let Some(found) = found else { return Ok(false) };
                packs.extend(found.packs);
            }
        }
        self.rely_on(packs);
        Ok(true)
    }

    /// The plaintext length of each chunk, in bytes; `None` for those without a location. Locations in condemned packs count,
    /// and the session relies on all that were found.
    ///
    /// # Errors
    ///
    /// Of the index, or of the store.
    pub fn lens(&self, ids: &[ChunkId]) -> Result<Vec<Option<u32>>> {
        let mut found = ground(&**self.store.index(), ids, &self.there)?;
        let late: Vec<usize> = (0..ids.len()).filter(|at| found[*at].is_none()).collect();
        if !late.is_empty() {
            let missing: Vec<ChunkId> = late.iter().map(|at| ids[*at]).collect();
            for (at, grounded) in late.into_iter().zip(ground_everywhere(&self.store, &missing, &self.there)?)
            {
                found[at] = grounded;
            }
        }
        self.rely_on(found.iter().flatten().flat_map(|found| found.packs.iter().copied()));
        Ok(found.into_iter().map(|found| found.map(|found| found.location.record.plain_len)).collect())
    }

    /// For each id: whether the caller must store its chunk. Claims those. `expected` are the predicted chunks; for a
    /// right prediction, no look-up is needed.
    fn claim(&self, ids: &[ChunkId], expected: &[Option<Arc<Grounded>>]) -> Result<Vec<bool>> {
        let mut wanted = vec![false; ids.len()];
        let mut unknown = vec![];
        let mut packs = HashSet::new();
        {
            let claimed = locked(&self.claimed);
            for (position, (id, expected)) in ids.iter().zip(expected).enumerate() {
                match expected {
                    Some(same) if same.location.record.id == *id => packs.extend(&same.packs),
                    _ if claimed.contains(&short_key(id)) => {}
                    _ => unknown.push((position, *id)),
                }
            }
        }
        let asked: Vec<ChunkId> = unknown.iter().map(|(_, id)| *id).collect();
        let found = ground(&**self.store.index(), &asked, self)?;
        let mut claimed = locked(&self.claimed);
        for ((position, id), grounded) in unknown.into_iter().zip(found) {
            match grounded {
                Some(grounded) => packs.extend(grounded.packs),
                // Two workers may have asked at once, and one batch may hold a chunk twice: the first
                // claim wins.
                None => wanted[position] = claimed.insert(short_key(&id)),
            }
        }
        drop(claimed);
        self.rely_on(packs);
        Ok(wanted)
    }

    /// One that was used before, or a new one.
    pub(super) fn slab(&self, len: usize) -> Vec<u8> {
        self.slabs.take_fitting(|slab| slab.len() == len).unwrap_or_else(|| vec![0; len])
    }

    pub(super) fn put_back(&self, mut processed: Processed) {
        if processed.frames.capacity() > 0 {
            processed.frames.clear();
            self.arenas.put(processed.frames);
        }
        if !processed.slab.is_empty() {
            self.slabs.put(processed.slab);
        }
    }

    /// Compresses a chunk on its own, if that makes it smaller. After a run of chunks that did not shrink, it
    /// compresses a chunk completely only if a part of it shrinks, and now and then one regardless.
    pub(super) fn shrink(&self, compressor: &mut Compressor, plain: &[u8], frames: &mut Vec<u8>) -> bool {
        let streak = self.unshrunk.load(Ordering::Relaxed);
        let shrunk = if streak < WARY || streak.is_multiple_of(WARY) {
            compressor.shrink(plain, frames)
        } else {
            compressor.shrink_if_promising(plain, frames)
        };
        self.unshrunk.store(if shrunk { 0 } else { streak.saturating_add(1) }, Ordering::Relaxed);
        shrunk
    }

    /// Name, look up, compress.
    pub(super) fn process(&self, batch: Batch) -> Result<Processed> {
        let Batch { kind, slab, mut chunks } = batch;
        let ids: Vec<ChunkId> =
            chunks.iter().map(|chunk| self.store.keys().chunk_id(&slab[chunk.range.clone()])).collect();
        let expected: Vec<_> = chunks.iter_mut().map(|chunk| chunk.hint.same.take()).collect();
        let wanted = self.claim(&ids, &expected)?;
        let mut frames = Vec::new();
        let mut out = Vec::with_capacity(chunks.len());
        if wanted.contains(&true) {
            // Reused like slabs, and large enough from the start: growing would copy.
            frames = match self.arenas.take() {
                Some(arena) => arena,
                None => memory::room(slab.len())?,
            };
            let reused = self.compressors.take();
            let mut compressor = match reused {
                Some(compressor) => compressor,
                None => Compressor::new(self.sealing.compression)?,
            };
            let mut afar = self.afar(kind, &mut chunks, &wanted)?;
            let attempts = match (kind, &afar) {
                (PackKind::Data, None) => self.attempts(&mut chunks, &wanted)?,
                _ => vec![],
            };
            let reused = self.patchers.take();
            let mut deltas = DeltaCompressor::new(reused.unwrap_or_default())?;
            let largest = chunks.iter().map(|chunk| chunk.range.len()).max().unwrap_or_default();
            let mut again = (self.store.decompressor()?, self.bases.buffer(largest)?);
            let mut tried = attempts.iter();
            for ((id, chunk), wanted) in ids.iter().zip(&chunks).zip(&wanted) {
                let attempt = tried.next().and_then(Option::as_ref);
                let frame = if *wanted {
                    let plain = &slab[chunk.range.clone()];
                    let record = Record::full(*id, len(&chunk.range), chunk.anchor, Codec::Raw);
                    let start = frames.len();
                    let record = match (attempt, &mut afar) {
                        (Some(attempt), _) => {
                            self.delta(attempt, plain, record, &mut deltas, &mut frames, &mut again)?
                        }
                        (None, Some(afar)) => {
                            let around = &chunk.hint.around;
                            self.patch_afar(afar, around, plain, record, &mut compressor, &mut frames)?
                        }
                        (None, None) => Err(record),
                    };
                    Some(match record {
                        Ok(delta) => (delta, start..frames.len()),
                        Err(alone) if self.shrink(&mut compressor, plain, &mut frames) => {
                            (Record { codec: Codec::Zstd, ..alone }, start..frames.len())
                        }
                        Err(alone) => (alone, chunk.range.clone()),
                    })
                } else {
                    None
                };
                out.push(ProcessedChunk { chunk: ChunkRef { id: *id, len: len(&chunk.range) }, frame });
            }
            self.compressors.put(compressor);
            self.patchers.put(deltas.into_patcher());
            afar.into_iter().for_each(|afar| self.patches.put(afar.compressor));
            self.store.recycle(again.0);
            self.bases.recycle(again.1);
            attempts.into_iter().flatten().for_each(|attempt| self.bases.recycle_prefix(attempt.prefix));
        } else {
            out.extend(ids.iter().zip(&chunks).map(|(id, chunk)| ProcessedChunk {
                chunk: ChunkRef { id: *id, len: len(&chunk.range) },
                frame: None,
            }));
        }
        let raw = |chunk: &ProcessedChunk| {
            chunk.frame.as_ref().is_some_and(|(record, _)| record.codec == Codec::Raw)
        };
        let slab = if out.iter().any(raw) {
            slab
        } else {
            self.slabs.put(slab);
            vec![]
        };
        Ok(Processed { chunks: out, frames, slab })
    }

    pub(super) fn makes_deltas(&self) -> bool {
        self.sealing.delta && self.sealing.compression != Compression::Off
    }

    /// For each chunk, the chunks that it might be compressed against.
    fn attempts(&self, chunks: &mut [CutChunk], wanted: &[bool]) -> Result<Vec<Option<Attempt>>> {
        if !self.makes_deltas() {
            return Ok(vec![]);
        }
        self.look_around(chunks, wanted)?;
        let index = &**self.store.index();
        let mut attempts = vec![];
        for (chunk, wanted) in chunks.iter().zip(wanted) {
            let chosen = if *wanted { choose(index, &chunk.hint.around, self)? } else { None };
            attempts.push(chosen.and_then(|choice| self.attempt(choice)));
        }
        Ok(attempts)
    }

    /// Reads bases. One that cannot be read is no base: that it is damaged is for `check` to say; nothing
    /// that is stored now depends on it.
    pub(super) fn attempt(&self, choice: BaseChoice) -> Option<Attempt> {
        match self.bases.bases(&self.store, &choice.bases) {
            Ok(prefix) => Some(Attempt { prefix, choice }),
            Err(error) => {
                tracing::debug!(%error, "a base chunk cannot be read");
                None
            }
        }
    }

    /// If no earlier version of the stream predicts a new chunk, its anchors may: for renamed and moved files, other
    /// hosts, parts in another order.
    pub(super) fn look_around(&self, chunks: &mut [CutChunk], wanted: &[bool]) -> Result<()> {
        let index = &**self.store.index();
        let mut lost: Vec<&mut CutChunk> = chunks
            .iter_mut()
            .zip(wanted)
            .filter(|(chunk, wanted)| **wanted && chunk.hint.around.is_empty() && chunk.anchor != 0)
            .map(|(chunk, _)| chunk)
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        let anchors: Vec<u64> = lost.iter().flat_map(|chunk| [chunk.before, chunk.anchor]).collect();
        let cuts = index.cuts(&anchors)?;
        for (chunk, cuts) in lost.iter_mut().zip(cuts.chunks_exact(2)) {
            let [before, after] = cuts else { continue };
            let follows = before.and_then(|cut| cut.after);
            let ends_alike = after.map(|cut| cut.before);
            let mut ids: Vec<ChunkId> = follows.into_iter().chain(ends_alike).collect();
            ids.dedup();
            let grounded = ground(index, &ids, self)?;
            chunk.hint.around = grounded.into_iter().flatten().map(Arc::new).collect();
        }
        Ok(())
    }

    /// Compresses a chunk against its bases, if that is clearly smaller than alone; else hands the record
    /// back. What was compressed is decompressed again and compared: a mistake here would be found when it
    /// is too late.
    pub(super) fn delta<'bases>(
        &self,
        attempt: &'bases Attempt,
        plain: &[u8],
        record: Record,
        deltas: &mut DeltaCompressor<'bases>,
        frames: &mut Vec<u8>,
        (decompressor, again): &mut (Decompressor, Vec<u8>),
    ) -> Result<Result<Record, Record>> {
        let start = frames.len();
        let alone = plain.len() as f32 * attempt.prefix.ratio();
        let limit = ((alone * CLEARLY_SMALLER) as usize).min(plain.len());
        let Some(codec) = deltas.compress(plain, attempt.prefix.bytes(), limit, frames)? else {
            return Ok(Err(record));
        };
        let BaseChoice { bases, depth, generation, packs } = attempt.choice.clone();
        let record =
            Record::delta(record.id, record.plain_len, record.anchor, codec, depth, generation, bases);
        let (frame, prefix) = (&frames[start..], attempt.prefix.bytes());
        let read = decompressor.decompress_into(record.codec, frame, prefix, plain.len(), again);
        if read.is_err() || again.as_slice() != plain {
            return Err(Error::Invalid(format!(
                "chunk {} does not survive compression: is this machine's memory sound?",
                record.id.short()
            )));
        }
        self.rely_on(packs);
        Ok(Ok(record))
    }
}

pub(super) fn len(range: &Range<usize>) -> u32 {
    u32::try_from(range.len()).expect("chunks are at most 16 MiB")
}
