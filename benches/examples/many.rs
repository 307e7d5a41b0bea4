//! Fills a repository with snapshots and index segments of other hosts, as years of nights leave them. `make bench-heads`
//!
//! `many FOLDER COUNT`, with the password in `ESKER_PASSWORD`; the repository has one snapshot at least. Each segment lists a
//! pack with one chunk. The packs are not there: no backup of this bench builds on them, and none may look for all.

#![expect(clippy::print_stdout, reason = "a report")]
#![expect(clippy::expect_used, reason = "a bench that fails must say where")]

use chunkstore::env::SystemEnv;
use chunkstore::executor::Inline;
use chunkstore::format::{Codec, PACK_HEADER_LEN, PackKind, TAG_LEN};
use chunkstore::index::{PackEntry, Segment};
use chunkstore::pack::{PackName, Record};
use chunkstore::storage::local::LocalStorage;
use chunkstore::store::{Access, Identity};
use chunkstore::{ChunkId, PackId, SessionId};
use engine::Repository;
use engine::columns::SnapshotColumns;
use engine::monitor::Tally;
use engine::snapshot::{Made, Snapshot};
use std::sync::Arc;

/// Hosts whose snapshots these are.
const HOSTS: u64 = 100;
/// Snapshots and segments of one swap.
const BATCH: u64 = 1000;

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().expect("the repository's folder");
    let count: u64 = args.next().and_then(|count| count.parse().ok()).expect("how many");
    let password = std::env::var("ESKER_PASSWORD").expect("the password");
    let access = Access {
        storage: Arc::new(LocalStorage::open(folder.as_ref()).expect("the repository is there")),
        env: Arc::new(SystemEnv),
        cpu: Arc::new(Inline),
        io: Arc::new(Inline),
        cache: None,
        identity: Identity::default(),
        columns: &SnapshotColumns,
    };
    let repo = Repository::open(access, password.as_bytes()).expect("the repository opens");
    let all = repo.snapshots(&Tally::default()).expect("its snapshots are read");
    let model = all.last().expect("there is a snapshot").snapshot.clone();
    let store = repo.store();
    for first in (0..count).step_by(BATCH as usize) {
        let numbers = first..count.min(first + BATCH);
        let session = store.open_session("backup").expect("a session opens");
        let made = |number: u64| {
            let head = store.head();
            // Before what the bench itself makes: no clock is wrong.
            let time = model.time - jiff::SignedDuration::from_millis((count - number) as i64);
            let made = Made {
                incarnation: head.incarnation,
                generation: head.generation,
                clock: time,
                time_given: false,
            };
            let hostname = format!("host-{}", number % HOSTS);
            Snapshot { hostname, time, made: Some(made), ..model.clone() }
        };
        let roots: Vec<_> = numbers
            .clone()
            .map(|number| repo.write_snapshot(&made(number)).expect("a snapshot is written"))
            .collect();
        let segments: Vec<_> = numbers
            .map(|number| store.write_segment(&segment(number, session)).expect("a segment is written"))
            .collect();
        store.commit(&session, &segments, &roots, &Default::default()).expect("a commit");
        store.load_segment(segments.last().expect("there is one")).expect("a segment can be read");
    }
    println!("{} snapshots, {} segments", store.head().roots.len(), store.head().segments.len());
}

/// A segment of one pack, which has one chunk.
fn segment(number: u64, session: SessionId) -> Segment {
    let hash = *blake3::hash(&number.to_le_bytes()).as_bytes();
    let name = PackName { session, id: PackId(hash), kind: PackKind::Data, epoch: 1 };
    let record = Record::full(ChunkId(hash), 1 << 20, number, Codec::Raw);
    let (offset, stored_len) = (PACK_HEADER_LEN as u32, record.plain_len + TAG_LEN as u32);
    let records = vec![Record { offset, stored_len, ..record }];
    Segment { packs: vec![PackEntry { name, len: 64 << 20, records }] }
}
