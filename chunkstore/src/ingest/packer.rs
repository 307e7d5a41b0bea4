//! Writing new chunks into packs, packs into the store, and their contents into index segments.
//!
//! The I/O executor seals and uploads packs, at most `IN_FLIGHT_BYTES` at a time. A regular checkpoint lists durable
//! packs in HEAD, so that an interrupted run is not repeated, and so that the claims in memory stay few.

use super::Dedupe;
use super::pack_size::PackSize;
use crate::env::random_array;
use crate::executor::{Pending, submit};
use crate::format::{PackKind, SEGMENT_CHUNKS};
use crate::head::SegmentRef;
use crate::id::{PackId, SessionId};
use crate::index::{PackEntry, Segment};
use crate::pack::{PackBuilder, PackName, Record, SealedPack};
use crate::parity;
use crate::pool::Pool;
use crate::storage::ErrorKind;
use crate::store::ChunkStore;
use crate::{Error, Result, memory};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Packs being sealed and uploaded may hold this many bytes together. One pack is enough for a disk; a
/// network wants several requests at once, if packs are small enough.
const IN_FLIGHT_BYTES: usize = 96 << 20;
/// A pack passes its size by padding; only one that holds a single chunk passes it by more.
const PACK_MARGIN: usize = 1 << 20;

/// How packs are made.
#[derive(Clone, Copy, Debug)]
pub struct PackerOptions {
    /// A pack is sealed before it passes this many bytes; earlier where a network is slow.
    pub pack_len: usize,
    /// A checkpoint is due after this many bytes of packs.
    pub checkpoint_len: u64,
    /// Seal packs to learn their size, then throw them away: for dry runs.
    pub discard: bool,
}

impl PackerOptions {
    /// Checks the size: 4 KiB to 256 MiB.
    pub fn validate(&self) -> Result<()> {
        if (4 << 10..=256 << 20).contains(&self.pack_len) {
            Ok(())
        } else {
            Err(Error::Invalid("the pack size must be from 1 to 256 MiB".into()))
        }
    }
}

impl Default for PackerOptions {
    /// 64 MiB: few objects and requests, yet three of them fit into little memory. A checkpoint every 2 GiB.
    fn default() -> Self {
        Self { pack_len: 64 << 20, checkpoint_len: 2 << 30, discard: false }
    }
}

/// What a session wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// New chunks of content.
    pub data_chunks: u64,
    /// New chunks of manifests.
    pub metadata_chunks: u64,
    /// Those of them that are stored against older versions.
    pub delta_chunks: u64,
    /// Plain bytes of all new chunks.
    pub plain_bytes: u64,
    /// Bytes of finished packs.
    pub stored_bytes: u64,
    /// Finished packs.
    pub packs: u64,
}

/// Lays chunks into packs for one session.
pub struct Packer {
    store: Arc<ChunkStore>,
    dedupe: Arc<Dedupe>,
    session: SessionId,
    options: PackerOptions,
    size: PackSize,
    data: Option<PackBuilder>,
    metadata: Option<PackBuilder>,
    uploads: VecDeque<Pending<Result<(PackEntry, Duration)>>>,
    finished: Segment,
    finished_bytes: u64,
    /// Packs that no HEAD can list yet.
    unlisted: Vec<PackName>,
    written: Written,
    buffers: Arc<Pool<Vec<u8>>>,
    packs_made: u64,
}

impl Packer {
    /// Starts for `session`.
    pub fn new(dedupe: &Arc<Dedupe>, session: SessionId, options: PackerOptions) -> Result<Self> {
        options.validate()?;
        Ok(Self {
            store: Arc::clone(&dedupe.store),
            dedupe: Arc::clone(dedupe),
            session,
            options,
            size: PackSize::new(options.pack_len, dedupe.store.pack_storage().is_near()),
            data: None,
            metadata: None,
            uploads: VecDeque::new(),
            finished: Segment::default(),
            finished_bytes: 0,
            unlisted: vec![],
            written: Written::default(),
            buffers: Arc::default(),
            packs_made: 0,
        })
    }

    /// Counts of the data written so far.
    #[must_use]
    pub fn written(&self) -> Written {
        self.written
    }

    /// A name that no pack ever had: random bytes mixed with the session and a counter, so that even
    /// two clones of a virtual machine with the same random state do not meet.
    fn fresh_name(&mut self, kind: PackKind) -> Result<PackName> {
        let random: [u8; 32] = random_array(&*self.store.access.env)?;
        self.packs_made += 1;
        let identity = &self.store.access.identity;
        let mut hasher = blake3::Hasher::new_keyed(&random);
        hasher.update(self.session.as_bytes()).update(&self.packs_made.to_le_bytes());
        hasher.update(&self.store.now_ms().to_le_bytes()).update(&identity.pid.to_le_bytes());
        hasher.update(identity.hostname.as_bytes());
        let id = PackId(*hasher.finalize().as_bytes());
        let epoch = if self.options.discard { self.store.epoch() } else { self.store.epoch_now() };
        Ok(PackName { session: self.session, id, kind, epoch })
    }

    /// Adds a new chunk; seals and uploads the pack when it is full.
    pub fn push(&mut self, kind: PackKind, record: Record, frame: &[u8]) -> Result<()> {
        match kind {
            PackKind::Data => self.written.data_chunks += 1,
            PackKind::Metadata => self.written.metadata_chunks += 1,
        }
        self.written.delta_chunks += u64::from(record.is_delta());
        self.written.plain_bytes += u64::from(record.plain_len);
        // Sealed before it passes its size, which is then a size that padding leaves as it is.
        let most = self.size.bytes();
        let full = |builder: &mut PackBuilder| !builder.fits(&record, frame.len(), most);
        if let Some(builder) = self.open_pack(kind).take_if(full) {
            self.upload(builder)?;
            self.checkpoint_if_due()?;
        }
        let mut builder = match self.open_pack(kind).take() {
            Some(builder) => builder,
            None => {
                let buffer = self.buffers.take();
                // Room for all of it from the start: growing would copy, and hold both at once.
                let room = self.size.bytes() + PACK_MARGIN;
                let buffer = buffer.map_or_else(|| memory::room(room), Ok)?;
                PackBuilder::new(self.fresh_name(kind)?, buffer)
            }
        };
        builder.push(record, frame);
        *self.open_pack(kind) = Some(builder);
        Ok(())
    }

    fn open_pack(&mut self, kind: PackKind) -> &mut Option<PackBuilder> {
        match kind {
            PackKind::Data => &mut self.data,
            PackKind::Metadata => &mut self.metadata,
        }
    }

    fn upload(&mut self, builder: PackBuilder) -> Result<()> {
        let most = (IN_FLIGHT_BYTES / self.size.bytes()).clamp(1, self.store.pack_storage().connections());
        while self.uploads.len() >= most {
            self.finish_one()?;
        }
        let store = Arc::clone(&self.store);
        let buffers = Arc::clone(&self.buffers);
        let discard = self.options.discard;
        self.uploads.push_back(submit(&*self.store.access.io, move || {
            if let Some(outbox) = store.outbox().filter(|_| !discard) {
                let began = Instant::now();
                let len = builder.sealed_len();
                let SealedPack { name, bytes, records } = outbox.send(builder, store.keys())?;
                buffers.put(bytes);
                return Ok((PackEntry { name, len, records }, began.elapsed()));
            }
            let sealed = builder.seal(store.keys())?;
            let len = sealed.bytes.len() as u64;
            let body = bytes::Bytes::from(sealed.bytes);
            let began = Instant::now();
            if !discard {
                store.put_pack(&sealed.name, body.clone())?;
                if store.has_parity() {
                    let put = store.storage().put(&sealed.name.parity(), parity::encode(&body).into());
                    put.inspect_err(|error| {
                        // Where the store is full, a pack whose upload failed leaves nothing.
                        if error.kind == ErrorKind::Full {
                            let _ = store.delete_pack(&sealed.name.session, &sealed.name.id);
                        }
                    })?;
                }
            }
            let took = if discard { Duration::ZERO } else { began.elapsed() };
            // The store is done with the buffer unless it kept it; then a new one will be made.
            if let Ok(buffer) = body.try_into_mut() {
                buffers.put(buffer.into());
            }
            Ok((PackEntry { name: sealed.name, len, records: sealed.records }, took))
        }));
        Ok(())
    }

    fn finish_one(&mut self) -> Result<()> {
        if let Some(upload) = self.uploads.pop_front() {
            let (pack, took) = upload.wait()??;
            self.size.uploaded(pack.len, took);
            self.written.packs += 1;
            self.written.stored_bytes += pack.len;
            self.finished_bytes += pack.len;
            self.unlisted.push(pack.name);
            self.finished.packs.push(pack);
        }
        Ok(())
    }

    fn checkpoint_if_due(&mut self) -> Result<()> {
        if self.options.discard
            || self.finished.chunk_count() < SEGMENT_CHUNKS
                && self.finished_bytes < self.options.checkpoint_len
        {
            return Ok(());
        }
        let segment = std::mem::take(&mut self.finished);
        self.finished_bytes = 0;
        let reference = self.store.write_segment(&segment)?;
        // From here on: a swap that fails may have taken effect, unless there was none.
        let listed = std::mem::take(&mut self.unlisted);
        if let Err(error) = self.store.checkpoint(&self.session, std::slice::from_ref(&reference)) {
            if let Error::NotSwapped(_) = error {
                self.unlisted = listed;
            }
            return Err(error);
        }
        // In HEAD, but no snapshot's yet: the commit makes sure that no prune took them away.
        self.dedupe.rely_on(segment.packs.iter().map(|pack| pack.name.id));
        let ids: Vec<_> =
            segment.packs.iter().flat_map(|pack| pack.records.iter().map(|record| record.id)).collect();
        let mut at_hand = Some(segment);
        self.store.sync_index_with(&mut |id| if *id == reference.id { at_hand.take() } else { None })?;
        // Only now: a worker that no longer finds its claim must find the chunk in the index.
        self.dedupe.release(ids);
        Ok(())
    }

    /// Removes the packs that no HEAD lists. Only this session could list them, and the caller promises that it never
    /// tried with the result of [`Packer::flush`], or that no swap came of it. On a full store, leftovers of a run would take the space that the
    /// next one needs.
    pub fn abandon(&mut self) {
        (self.data, self.metadata) = (None, None);
        while !self.uploads.is_empty() {
            // One that failed has left nothing.
            let _ = self.finish_one();
        }
        (self.finished, self.finished_bytes) = (Segment::default(), 0);
        for pack in std::mem::take(&mut self.unlisted) {
            if let Err(error) = self.store.delete_pack(&pack.session, &pack.id) {
                tracing::debug!(%error, "a pack is left for the next prune");
            }
        }
    }

    /// Seals open packs, waits until every pack is durable, and writes the segments that describe those not yet in
    /// HEAD.
    pub fn flush(&mut self) -> Result<Vec<SegmentRef>> {
        for builder in [self.data.take(), self.metadata.take()].into_iter().flatten() {
            self.upload(builder)?;
        }
        while !self.uploads.is_empty() {
            self.finish_one()?;
        }
        if self.finished.packs.is_empty() || self.options.discard {
            return Ok(vec![]);
        }
        let segment = std::mem::take(&mut self.finished);
        self.finished_bytes = 0;
        Ok(vec![self.store.write_segment(&segment)?])
    }
}
