//! A local index of many chunks: how fast it is built, how fast it answers, and how much memory it takes.
//!
//! `make bench-index CHUNKS=100000000`

#![expect(clippy::print_stdout, reason = "a report")]
#![expect(clippy::expect_used, reason = "a bench that fails must say where")]

use chunkstore::format::{Codec, PackKind};
use chunkstore::head::{List, SegmentRef};
use chunkstore::id::{ObjectId, PackId, SessionId};
use chunkstore::index::{ChunkIndex, PackEntry, Segment, rocks::RocksIndex};
use chunkstore::pack::{PackName, Record};
use chunkstore::{ChunkId, bases};
use std::collections::HashSet;
use std::time::Instant;

/// Chunks of a pack: 64 MiB of 512 KiB.
const PER_PACK: u64 = 128;
/// Chunks of a segment, as the writer makes them.
const PER_SEGMENT: u64 = 1 << 18;
/// Ids asked for at once.
const BATCH: u64 = 128;

fn hash(kind: u8, number: u64) -> [u8; 32] {
    *blake3::hash(&[&[kind][..], &number.to_le_bytes()].concat()).as_bytes()
}

/// The `number`th segment of `chunks` chunks in all. Every second chunk is stored against another.
fn segment(number: u64, chunks: u64) -> Segment {
    let first = number * PER_SEGMENT;
    let last = chunks.min(first + PER_SEGMENT);
    let packs = (first..last).step_by(PER_PACK as usize).map(|start| {
        let name = PackName {
            session: SessionId([1; 16]),
            id: PackId(hash(b'p', start)),
            kind: PackKind::Data,
            epoch: 1,
        };
        let records = (start..last.min(start + PER_PACK)).map(|number| {
            let (id, anchor) = (
                ChunkId(hash(b'c', number)),
                u64::from_le_bytes(std::array::from_fn(|i| hash(b'a', number)[i])),
            );
            let record = match number % 2 {
                0 => Record::full(id, 512 << 10, anchor, Codec::Zstd),
                _ => Record::delta(
                    id,
                    512 << 10,
                    anchor,
                    Codec::Patch,
                    1,
                    1,
                    vec![ChunkId(hash(b'c', number - 1))],
                ),
            };
            Record { ordinal: (number - start) as u32, offset: 96, stored_len: 100_000, ..record }
        });
        PackEntry { name, len: 64 << 20, records: records.collect() }
    });
    Segment { packs: packs.collect() }
}

/// Resident memory in MiB: now, and at most so far (proc(5)).
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let chunks: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(10_000_000);
    let folder = arguments.next().unwrap_or_else(|| "index-bench".into());
    let folder = std::path::Path::new(&folder);
    let _ = std::fs::remove_dir_all(folder);
    let segments: List<SegmentRef> = (0..chunks.div_ceil(PER_SEGMENT))
        .map(|number| ObjectId(hash(b's', number)))
        .map(|id| SegmentRef { id, hash: id, packs: 0, chunks: 0, epoch: 1 })
        .collect();

    let index = RocksIndex::open(folder).expect("index");
    let start = Instant::now();
    let mut making = std::time::Duration::ZERO;
    let mut next = 0;
    index
        .sync(&segments, &mut |_| {
            let start = Instant::now();
            let made = segment(next, chunks);
            next += 1;
            making += start.elapsed();
            Ok(Some(made))
        })
        .expect("sync");
    let seconds = (start.elapsed() - making).as_secs_f64();
    println!(
        "{chunks} chunks, {} cuts: built in {seconds:.1} s, {:.0} chunks/s",
        chunks,
        chunks as f64 / seconds
    );
    println!("memory while building: at most {} MiB", memory().1);
    drop(index);

    let start = Instant::now();
    let index = RocksIndex::open(folder).expect("index");
    println!("opened in {:.2} s", start.elapsed().as_secs_f64());
    // As on a machine whose last backup left the index in the page cache.
    let start = Instant::now();
    read_all(folder);
    println!("the database read once, in {:.1} s", start.elapsed().as_secs_f64());
    let count = 1_000_000.min(chunks);
    for round in ["first", "second"] {
        for (what, kind, threads) in
            [("known", b'c', 1), ("unknown", b'u', 1), ("known", b'c', 2), ("cuts", b'a', 1)]
        {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let index = &index;
                    scope.spawn(move || {
                        let mut asked = 0;
                        while asked < count / threads {
                            // Scattered over everything, the same in each round.
                            let numbers =
                                (asked..asked + BATCH).map(|n| (n * threads + thread) * 0x9e37_79b1 % chunks);
                            if kind == b'a' {
                                let anchors: Vec<u64> = numbers
                                    .map(|n| u64::from_le_bytes(std::array::from_fn(|i| hash(b'a', n)[i])))
                                    .collect();
                                assert!(index.cuts(&anchors).expect("cuts").iter().all(Option::is_some));
                            } else {
                                let ids: Vec<ChunkId> = numbers.map(|n| ChunkId(hash(kind, n))).collect();
                                let found = index.lookup(&ids).expect("lookup");
                                assert!(found.iter().all(|found| found.is_some() == (kind == b'c')));
                            }
                            asked += BATCH;
                        }
                    });
                }
            });
            let rate = count as f64 / start.elapsed().as_secs_f64();
            println!("{round}: {what}, {threads} thread(s), batches of {BATCH}: {rate:.0} a second");
        }
    }
    let start = Instant::now();
    let ids: Vec<ChunkId> = (0..100_000).map(|n| ChunkId(hash(b'c', n * 0x9e37_79b1 % chunks))).collect();
    for batch in ids.chunks(BATCH as usize) {
        let found = bases::ground(&index, batch, &HashSet::new()).expect("ground");
        assert!(found.iter().all(Option::is_some));
    }
    println!("with their bases: {:.0} a second", 100_000.0 / start.elapsed().as_secs_f64());
    let (now, most) = memory();
    println!("memory: {now} MiB resident, at most {most} MiB");
    let disk: u64 = walk(folder);
    println!("disk: {:.1} bytes a chunk", disk as f64 / chunks as f64);
    let _ = std::fs::remove_dir_all(folder);
}

/// Reads every file below a folder.
fn read_all(folder: &std::path::Path) {
    let mut buffer = vec![0; 4 << 20];
    for entry in std::fs::read_dir(folder).expect("folder").filter_map(Result::ok) {
        if entry.path().is_dir() {
            read_all(&entry.path());
        } else {
            let mut file = std::fs::File::open(entry.path()).expect("file");
            while std::io::Read::read(&mut file, &mut buffer).is_ok_and(|len| len > 0) {}
        }
    }
}

fn walk(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("folder").filter_map(Result::ok);
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => walk(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
