//! A repository in memory into which anything can be written: what a hostile writer who has the keys could make.

use chunkstore::chunker::ChunkerParams;
use chunkstore::config::Layout;
use chunkstore::env::SeededEnv;
use chunkstore::executor::Inline;
use chunkstore::format::{Encoder, PackKind};
use chunkstore::head::Root;
use chunkstore::ingest::{ChunkRef, Dedupe, Lane, Output, Packer, PackerOptions, Sealing};
use chunkstore::keys::{KdfParams, SlotOwner};
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::store::{Access, ChunkStore, Identity, LostPacks};
use chunkstore::{Result, SessionId};
use engine::Repository;
use engine::columns::SnapshotColumns;
use engine::entry::{Entry, Time};
use engine::manifest::{Ending, ManifestRoot, Record};
use engine::snapshot::Snapshot;
use std::sync::Arc;

/// The repository's password.
pub const PASSWORD: &[u8] = b"forged";

/// A repository being made.
pub struct Forge {
    /// Its objects.
    pub storage: Arc<MemoryStorage>,
    /// Its store.
    pub store: Arc<ChunkStore>,
    /// The session that writes.
    pub session: SessionId,
    dedupe: Arc<Dedupe>,
    packer: Packer,
}

fn access(storage: &Arc<MemoryStorage>, seed: u64) -> Access {
    Access {
        storage: Arc::clone(storage) as _,
        env: Arc::new(SeededEnv::new(seed)),
        cpu: Arc::new(Inline),
        io: Arc::new(Inline),
        cache: None,
        identity: Identity::default(),
        columns: &SnapshotColumns,
    }
}

impl Forge {
    /// An empty repository with an open session; equal seeds make equal ones.
    pub fn new(seed: u64) -> Result<Self> {
        let storage = Arc::new(MemoryStorage::default());
        let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
        let (params, owner) = (ChunkerParams::around(1 << 10), SlotOwner::default());
        let store =
            ChunkStore::init(access(&storage, seed), params, PASSWORD, cheap, owner, Layout::default())?;
        let store = Arc::new(store);
        let session = store.open_session("backup")?;
        store.sync_index()?;
        let dedupe = Dedupe::new(Arc::clone(&store), Sealing::default(), &LostPacks::none())?;
        let packer = Packer::new(&dedupe, session, PackerOptions::default())?;
        Ok(Self { storage, store, session, dedupe, packer })
    }

    /// Somebody opens what was made.
    pub fn open(storage: &Arc<MemoryStorage>) -> engine::Result<Repository> {
        Repository::open(access(storage, 99), PASSWORD)
    }

    /// Content, cut as usual.
    pub fn data(&mut self, bytes: &[u8]) -> Result<Vec<ChunkRef>> {
        self.write(PackKind::Data, bytes)
    }

    /// One chunk of a manifest, whatever it holds.
    pub fn metadata(&mut self, bytes: &[u8]) -> Result<ChunkRef> {
        let mut chunks = self.write(PackKind::Metadata, bytes)?;
        Ok(chunks.remove(0))
    }

    fn write(&mut self, kind: PackKind, bytes: &[u8]) -> Result<Vec<ChunkRef>> {
        let mut lane: Lane<()> = Lane::new(&self.dedupe, kind)?;
        lane.start();
        lane.write(bytes);
        if kind == PackKind::Metadata {
            lane.end_chunk();
        }
        let mut chunks = vec![];
        lane.drain(&mut self.packer, &mut |_, output| {
            if let Output::Chunk(chunk) = output {
                chunks.push(chunk);
            }
            Ok(())
        })?;
        Ok(chunks)
    }

    /// A snapshot of these manifest chunks, which hold so many entries with so many bytes.
    pub fn snapshot(&mut self, chunks: &[ChunkRef], entries: u64, bytes: u64) -> Result<Root> {
        let chunks = chunks.iter().map(|chunk| (chunk.id, chunk.len)).collect();
        let manifest = ManifestRoot { level: 0, chunks, entries, bytes };
        let snapshot = Snapshot { hostname: "forge".into(), manifest, ..Snapshot::default() };
        self.store.write_snapshot(&serde_json::to_vec(&snapshot).expect("a snapshot can be written"), &[])
    }

    /// A snapshot of these records.
    pub fn records(&mut self, records: &[Record]) -> Result<Root> {
        let chunk = self.metadata(&encode(records))?;
        let sizes = records.iter().filter_map(|record| match record {
            Record::End(Ending::Complete, size) => Some(*size),
            _ => None,
        });
        let (entries, bytes) = (sizes.clone().count() as u64, sizes.fold(0, u64::wrapping_add));
        self.snapshot(&[chunk], entries, bytes)
    }

    /// Ends the session.
    pub fn commit(mut self, roots: &[Root]) -> Result<Arc<MemoryStorage>> {
        let segments = self.packer.flush()?;
        self.store.commit(&self.session, &segments, roots, &self.dedupe.relied())?;
        Ok(self.storage)
    }
}

/// Records as a manifest chunk holds them.
#[must_use]
pub fn encode(records: &[Record]) -> Vec<u8> {
    let mut out = Encoder::default();
    records.iter().for_each(|record| record.encode(&mut out));
    out.bytes
}

/// A whole entry: what it is, its content, its end.
#[must_use]
pub fn file(path: impl Into<Vec<u8>>, chunks: Vec<ChunkRef>) -> Vec<Record> {
    let size = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
    vec![
        Record::Entry(Box::new(Entry::stream(path, Time::default()))),
        Record::Chunks(chunks),
        Record::End(Ending::Complete, size),
    ]
}
