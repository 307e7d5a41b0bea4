//! One bench for each stage of the pipeline, and the whole of it in memory. Throughput is in plain bytes.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use chunkstore::aead::{Cipher, counter_nonce};
use chunkstore::bases::Prefix;
use chunkstore::chunker::{Chunker, ChunkerParams};
use chunkstore::config::Layout;
use chunkstore::env::SystemEnv;
use chunkstore::executor::Pool;
use chunkstore::format::{Codec, PackKind};
use chunkstore::head::SegmentRef;
use chunkstore::id::{ObjectId, PackId, RepositoryId, SessionId};
use chunkstore::index::{ChunkIndex, PackEntry, Segment, rocks::RocksIndex};
use chunkstore::keys::{KdfParams, KeyRing, SlotOwner};
use chunkstore::pack::{PackBuilder, PackName, Record, verify};
use chunkstore::seal::{Compression, Compressor, Decompressor};
use chunkstore::storage::memory::MemoryStorage;
use chunkstore::store::{Access, Identity};
use chunkstore::{ChunkId, reader};
use connector_kit::stream::{StreamOptions, StreamSource};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::Repository;
use engine::backup::{BackupOptions, backup};
use engine::columns::SnapshotColumns;
use engine::entry::Time;
use engine::monitor::Tally;
use std::hint::black_box;
use std::sync::Arc;

const CHUNK: usize = 128 << 10;
const LEN: usize = 64 << 20;

fn noise(len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut data);
    data
}

fn text(len: usize) -> Vec<u8> {
    let random = noise(len / 8);
    let mut data = Vec::with_capacity(len + 64);
    for (number, word) in random.chunks_exact(4).cycle().enumerate() {
        if data.len() >= len {
            break;
        }
        let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        data.extend_from_slice(
            format!("{number}\tcustomer {:06}\t{}\n", value >> 12, value & 0xfff).as_bytes(),
        );
    }
    data.truncate(len);
    data
}

fn stages(criterion: &mut Criterion) {
    let (random, text) = (noise(LEN), text(LEN));
    let keys = KeyRing::generate(RepositoryId([1; 16]), &SystemEnv).expect("keys");

    let mut group = criterion.benchmark_group("cut");
    group.throughput(Throughput::Bytes(LEN as u64));
    let chunker = Chunker::new(ChunkerParams::default(), &[7; 32]).expect("chunker");
    for (name, data) in [("random", &random), ("text", &text)] {
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let mut rest = &data[..];
                while !rest.is_empty() {
                    rest = &rest[chunker.cut(rest)..];
                }
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(CHUNK as u64));
    group.bench_function("hash", |bench| bench.iter(|| keys.chunk_id(black_box(&random[..CHUNK]))));
    for (name, data) in [("random", &random), ("text", &text)] {
        let mut compressor = Compressor::new(Compression::default()).expect("zstd");
        let mut out = Vec::with_capacity(2 * CHUNK);
        group.bench_function(format!("compress {name}"), |bench| {
            bench.iter(|| {
                out.clear();
                compressor.compress(black_box(&data[..CHUNK]), &mut out)
            });
        });
    }
    let mut frame = vec![];
    Compressor::new(Compression::default()).expect("zstd").compress(&text[..CHUNK], &mut frame);
    let mut decompressor = Decompressor::new().expect("zstd");
    group.bench_function("decompress text", |bench| {
        bench.iter(|| decompressor.decompress(Codec::Zstd, &frame, &[], CHUNK));
    });
    let cipher = Cipher::new(&[9; 32]);
    let mut buffer = random[..CHUNK].to_vec();
    group.bench_function("aead", |bench| bench.iter(|| cipher.seal(counter_nonce(1), b"aad", &mut buffer)));
    let portable = Aes256Gcm::new(&[9; 32].into());
    group.bench_function("aead, RustCrypto", |bench| {
        bench.iter(|| {
            portable.encrypt_inout_detached(&counter_nonce(1).into(), b"aad", buffer.as_mut_slice().into())
        });
    });
    group.finish();
}

fn pack(criterion: &mut Criterion) {
    let keys = KeyRing::generate(RepositoryId([1; 16]), &SystemEnv).expect("keys");
    let data = noise(16 << 20);
    let name = PackName { session: SessionId([1; 16]), id: PackId([2; 32]), kind: PackKind::Data, epoch: 1 };
    let build = || {
        let mut builder = PackBuilder::new(name, Vec::with_capacity(20 << 20));
        for chunk in data.chunks(CHUNK) {
            builder.push(Record::full(keys.chunk_id(chunk), CHUNK as u32, 0, Codec::Raw), chunk);
        }
        builder.seal(&keys).expect("sealed")
    };
    let mut group = criterion.benchmark_group("pack");
    group.throughput(Throughput::Bytes(data.len() as u64)).sample_size(20);
    group.bench_function("hash, fill and seal", |bench| bench.iter(build));
    let sealed = build();
    group.bench_function("verify", |bench| {
        bench.iter(|| {
            verify(name, &keys, &sealed.bytes, &mut |_| Ok(Some(Prefix::Empty))).map(|list| list.len())
        })
    });
    group.finish();
}

fn index(criterion: &mut Criterion) {
    const CHUNKS: u32 = 1_000_000;
    let folder = tempfile::tempdir().expect("folder");
    let id = |number: u32| ChunkId(*blake3::hash(&number.to_le_bytes()).as_bytes());
    let records = (0..CHUNKS)
        .map(|ordinal| Record {
            id: id(ordinal),
            ordinal,
            offset: 96 + ordinal * 100,
            stored_len: 100,
            plain_len: 300,
            codec: Codec::Zstd,
            depth: 0,
            generation: 0,
            anchor: u64::from(ordinal) + 1,
            bases: vec![],
        })
        .collect();
    let name = PackName { session: SessionId([1; 16]), id: PackId([2; 32]), kind: PackKind::Data, epoch: 1 };
    let segment = Segment { packs: vec![PackEntry { name, len: 1 << 28, records }] };
    let index = RocksIndex::open(folder.path()).expect("index");
    let name = ObjectId([1; 32]);
    let segments = vec![SegmentRef { id: name, hash: name, packs: 1, chunks: 1, epoch: 1 }].into();
    index.sync(&segments, &mut |_| Ok(Some(segment.clone()))).expect("filled");
    let known: Vec<ChunkId> = (0..CHUNKS).step_by(7919).take(64).map(id).collect();
    let unknown: Vec<ChunkId> = (CHUNKS..CHUNKS + 64).map(id).collect();
    let mut group = criterion.benchmark_group("index");
    group.throughput(Throughput::Elements(64));
    group.bench_function("64 known of a million", |bench| {
        bench.iter(|| index.lookup(&known).map(|found| found.len()))
    });
    group
        .bench_function("64 unknown", |bench| bench.iter(|| index.lookup(&unknown).map(|found| found.len())));
    group.finish();
}

fn whole(criterion: &mut Criterion) {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let file = tempfile::NamedTempFile::new().expect("file");
    let data = text(256 << 20);
    std::fs::write(file.path(), &data).expect("written");
    let cheap = KdfParams { memory_kib: 8, passes: 1, lanes: 1 };
    let open = || {
        let access = Access {
            storage: Arc::new(MemoryStorage::default()),
            env: Arc::new(SystemEnv),
            cpu: Pool::start("cpu", cores).expect("threads"),
            io: Pool::start("io", cores).expect("threads"),
            cache: None,
            identity: Identity::default(),
            columns: &SnapshotColumns,
        };
        Repository::init(
            access,
            ChunkerParams::default(),
            b"x",
            cheap,
            SlotOwner::default(),
            Layout::default(),
        )
        .expect("repository")
    };
    let store = |repo: &Repository| {
        let input = std::fs::File::open(file.path()).expect("file");
        let mut source = StreamSource::reader(input, b"stream", Time::default(), StreamOptions::default())
            .expect("source");
        backup(repo, &mut source, &BackupOptions::default(), &Tally::default()).expect("backup")
    };
    let mut group = criterion.benchmark_group("end to end, in memory");
    group.throughput(Throughput::Bytes(data.len() as u64)).sample_size(10);
    group.bench_function("first backup", |bench| bench.iter(|| store(&open())));
    let repo = open();
    store(&repo);
    group.bench_function("duplicate", |bench| bench.iter(|| store(&repo)));
    let listed = repo.find("latest", &Default::default(), &Tally::default()).expect("snapshot");
    group.bench_function("dump", |bench| {
        bench.iter(|| {
            engine::restore::dump(&repo, &listed.snapshot, b"stream", &mut std::io::sink(), &Tally::default())
                .expect("dump")
        });
    });
    group.finish();
    let empty = reader::read_all(repo.store(), &[]);
    assert!(empty.is_ok_and(|bytes| bytes.is_empty()));
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30).warm_up_time(std::time::Duration::from_secs(1)).measurement_time(std::time::Duration::from_secs(3));
    targets = stages, pack, index, whole
}
criterion_main!(benches);
