//! S3, against a real SeaweedFS.

use crate::nights::{Table, stream};
use crate::seaweed::Weed;
use crate::trees::tree_round_trip;
use chunkstore::storage::s3;

#[test]
fn storage_conforms() {
    let weed = Weed::start();
    chunkstore::storage::conformance::check(&s3::open(&weed.options("conformance")).unwrap());
}

#[test]
fn trees_and_streams_come_back() {
    let weed = Weed::start();
    tree_round_trip(&weed.repo("trees"));
    let repo = weed.repo("streams");
    let streams =
        [vec![b'x'], crate::harness::noise(1, 100_000_000), crate::harness::text(1, 1 << 30), vec![]];
    for data in &streams {
        crate::harness::expect(&repo.feed(["backup", "--stdin", "--allow-empty"], data), 0);
        assert!(repo.run(["dump", "latest", "stdin"]).stdout == *data, "{} bytes", data.len());
    }
    let output = repo.feed(["backup", "--stdin"], b"");
    crate::harness::expect(&output, 26);
    // Short streams do not say which program they are of, and are another group.
    repo.ok(["forget", "--keep-last", "1", "--group-by", "host", "--prune"]);
    repo.ok(["check", "--read-data"]);
    assert_eq!(repo.snapshot_count(), 1);
    let wrong = repo.command(["snapshots"]).env("AWS_SECRET_ACCESS_KEY", "no").output().unwrap();
    crate::harness::expect(&wrong, 1);
}

/// Over a network the last version is read only if that is asked for; then it works as on a disk.
#[test]
fn deltas_over_a_network_are_asked_for() {
    let weed = Weed::start();
    let repo = weed.repo("deltas");
    let mut table = Table::new(40_000);
    stream(&repo, &table.dump(), &[]);
    table.next_night();
    assert_eq!(stream(&repo, &table.dump(), &[])["delta_blobs"], 0);
    table.next_night();
    let data = table.dump();
    let summary = stream(&repo, &data, &["--delta"]);
    assert!(summary["delta_blobs"].as_u64() > Some(0), "{summary}");
    assert!(repo.run(["dump", "latest", "table.sql"]).stdout == data);
    repo.ok(["check", "--read-data"]);
}
