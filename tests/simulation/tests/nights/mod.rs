//! A stream that is backed up night after night, and what must be found of it whatever happened.

#![expect(clippy::unwrap_used, reason = "a test that fails must say where")]
#![allow(dead_code, reason = "each test uses its part")]

use chunkstore::PackId;
use chunkstore::chunker::ChunkerParams;
use chunkstore::config::Layout;
use chunkstore::env::{Env, SeededEnv};
use chunkstore::envelope;
use chunkstore::executor::Inline;
use chunkstore::format::{ENVELOPE_MAGIC, ObjectKind, PACK_MAGIC, PackKind};
use chunkstore::ingest::PackerOptions;
use chunkstore::keys::{KdfParams, KeyRing, SlotOwner};
use chunkstore::storage::Storage;
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::store::{Access, Identity};
use engine::backup::{BackupOptions, backup};
use engine::columns::SnapshotColumns;
use engine::entry::Time;
use engine::monitor::Tally;
use engine::prune::{MaxUnused, PruneOptions, prune};
use engine::restore::dump;
use engine::snapshot::{Filter, SourceRecord};
use engine::source::{Content, Item, Piece, Source, SourceError};
use engine::verify::{ReadData, check};
use engine::{Repository, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) mod beside;
pub(crate) mod mortal;
pub(crate) mod occupied;

static PROCESSES: AtomicU64 = AtomicU64::new(0);
static CLOCK: AtomicU64 = AtomicU64::new(1_700_000_000_000);

/// Seeded, with one clock for all processes, which moves on with every look at it.
struct OneClock(SeededEnv);

impl Env for OneClock {
    fn now(&self) -> Duration {
        Duration::from_millis(CLOCK.fetch_add(1000, Ordering::Relaxed))
    }
    fn random(&self, bytes: &mut [u8]) -> chunkstore::Result<()> {
        self.0.random(bytes)
    }
    fn sleep(&self, _: Duration) {}
    /// Few, so that HEAD's lists lie in leaves.
    fn head_inline(&self) -> usize {
        600
    }
}

pub(crate) fn access(storage: Arc<dyn Storage>) -> Access {
    let env = Arc::new(OneClock(SeededEnv::new(PROCESSES.fetch_add(1, Ordering::Relaxed))));
    let identity = Identity::default();
    Access {
        storage,
        env,
        cpu: Arc::new(Inline),
        io: Arc::new(Inline),
        cache: None,
        identity,
        columns: &SnapshotColumns,
    }
}

pub(crate) fn open(disk: &Arc<impl Storage + 'static>) -> Repository {
    Repository::open(access(Arc::clone(disk) as _), b"x").unwrap()
}

pub(crate) fn init(disk: &Arc<impl Storage + 'static>) -> Result<Repository> {
    let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    let (access, owner) = (access(Arc::clone(disk) as _), SlotOwner::default());
    let layout = Layout { parity: true, ..Layout::default() };
    Repository::init(access, ChunkerParams::around(1 << 10), b"x", cheap, owner, layout)
}

struct Text(Option<Item>);

struct TextContent(Vec<u8>);

impl Content for TextContent {
    fn read(&mut self, buffer: &mut [u8]) -> std::result::Result<Piece, SourceError> {
        let len = self.0.len().min(buffer.len()).min(3000);
        buffer[..len].copy_from_slice(&self.0[..len]);
        self.0.drain(..len);
        Ok(if len == 0 { Piece::End } else { Piece::Data(len) })
    }
}

impl Source for Text {
    fn records(&self) -> Vec<SourceRecord> {
        vec![SourceRecord::new("stdin", "text", true)]
    }
    fn paths(&self) -> Vec<String> {
        vec!["/text".into()]
    }
    fn next_item(&mut self, _: &dyn engine::Monitor) -> std::result::Result<Option<Item>, SourceError> {
        Ok(self.0.take())
    }
}

/// Night n of a stream: changed here and there, a third of it new.
pub(crate) fn night(number: u64) -> Vec<u8> {
    let noise = |seed: u64, len| {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    };
    let mut bytes = noise(0, 40_000);
    for change in 0..number {
        let at = (change * 7919 % 30_000) as usize;
        bytes.splice(at..at + 40, noise(change + 100, 60));
    }
    bytes.extend(noise(number + 1000, 20_000));
    bytes
}

pub(crate) fn packs() -> PackerOptions {
    PackerOptions { pack_len: 16 << 10, checkpoint_len: 24 << 10, ..PackerOptions::default() }
}

/// The stream of a night.
pub(crate) fn source(number: u64) -> impl Source {
    let content = TextContent(night(number));
    Text(Some(Item::stream("text", Time::default(), Box::new(move || Ok(Box::new(content))))))
}

pub(crate) fn back_up(repo: &Repository, number: u64) -> Result<()> {
    let time = jiff::Timestamp::from_second(number as i64).unwrap();
    let options = BackupOptions { packer: packs(), time, ..BackupOptions::default() };
    backup(repo, &mut source(number), &options, &Tally::default()).map(drop)
}

pub(crate) fn clean(repo: &Repository) -> Result<()> {
    let options = PruneOptions {
        max_unused: MaxUnused::Percent(0.0),
        fence_after_ms: 1,
        packer: packs(),
        ..PruneOptions::default()
    };
    prune(repo, &options, &Tally::default()).map(drop)
}

pub(crate) fn forget_first(repo: &Repository) -> Result<()> {
    let first = repo.snapshots_strict()?.first().map(|listed| listed.id);
    repo.forget(first.as_slice()).map(drop)
}

/// What every snapshot holds, by its time; each must restore.
pub(crate) fn nights(disk: &Arc<impl Storage + 'static>) -> Vec<u64> {
    let repo = open(disk);
    let listed = repo.snapshots(&Tally::default()).unwrap();
    let numbers: Vec<u64> = listed.iter().map(|listed| listed.snapshot.time.as_second() as u64).collect();
    for (listed, number) in listed.iter().zip(&numbers) {
        let mut bytes = vec![];
        let found = repo.find(&listed.id.to_string(), &Filter::default(), &Tally::default()).unwrap();
        dump(&repo, &found.snapshot, b"text", &mut bytes, &Tally::default()).unwrap();
        assert!(bytes == night(*number), "night {number}");
    }
    let tally = Tally::default();
    assert_eq!(check(&repo, ReadData::All, &tally).unwrap().num_errors, 0, "{:?}", tally.errors());
    numbers
}

/// Names of the objects that a key of `epochs` opens, whatever their headers say.
pub(crate) fn opened_by(keys: &KeyRing, epochs: &[u32], disk: &MemoryStorage) -> Vec<String> {
    let kinds =
        [ObjectKind::Head, ObjectKind::Segment, ObjectKind::Snapshot, ObjectKind::TierMap, ObjectKind::Leaf];
    let is_theirs = |name: &str, bytes: &[u8]| {
        if bytes.starts_with(ENVELOPE_MAGIC) {
            return kinds.into_iter().any(|kind| envelope::is_of_one(keys, epochs, kind, bytes));
        }
        if !bytes.starts_with(PACK_MAGIC) {
            return false;
        }
        let pack = PackId::parse(name.rsplit('/').next().unwrap()).unwrap();
        let commitment = bytes.get(64..96).unwrap();
        let opens =
            |(epoch, kind)| keys.pack_key(kind, epoch, &pack).is_ok_and(|key| key.commitment == commitment);
        epochs.iter().flat_map(|epoch| [(*epoch, PackKind::Data), (*epoch, PackKind::Metadata)]).any(opens)
    };
    let objects = disk.objects();
    objects.iter().filter(|(name, bytes)| is_theirs(name, bytes)).map(|(name, _)| name.clone()).collect()
}
