//! Fills a repository with snapshots and index segments of other hosts, as years of nights leave them. `make bench-heads`
//!
//! `many FOLDER COUNT`, with the password in `ESKER_PASSWORD`; the repository has one snapshot at least. The segments list
//! no packs: what is measured is HEAD.

#![expect(clippy::print_stdout, reason = "a report")]
#![expect(clippy::expect_used, reason = "a bench that fails must say where")]

use chunkstore::env::SystemEnv;
use chunkstore::executor::Inline;
use chunkstore::index::Segment;
use chunkstore::storage::local::LocalStorage;
use chunkstore::store::{Access, Identity};
use engine::Repository;
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
            let time = model.time + jiff::SignedDuration::from_millis(number as i64);
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
            .map(|_| store.write_segment(&Segment::default()).expect("a segment is written"))
            .collect();
        store.commit(&session, &segments, &roots, &Default::default()).expect("a commit");
    }
    println!("{} snapshots, {} segments", store.head().roots.len(), store.head().segments.len());
}
