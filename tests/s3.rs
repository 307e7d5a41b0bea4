//! S3, against a real SeaweedFS.

use crate::harness::{Process, Repo, free_port, server, wait_for};
use crate::nights::{Table, stream};
use crate::trees::tree_round_trip;
use chunkstore::storage::s3::{S3Options, S3Storage};
use std::process::Command;

struct Weed {
    _process: Process,
    _dir: tempfile::TempDir,
    port: u16,
}

impl Weed {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("s3.json");
        let identity = r#"{"identities":[{"name":"test","credentials":[{"accessKey":"AKTEST","secretKey":"SKTEST"}],"actions":["Admin","Read","Write","List","Tagging"]}]}"#;
        std::fs::write(&config, identity).unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let port = free_port();
        let mut command = Command::new(server("weed"));
        command
            .arg("mini")
            .arg(format!("-dir={}", data.display()))
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1"]);
        command.arg(format!("-s3.port={port}")).arg(format!("-s3.config={}", config.display()));
        // Each of its parts listens on a port of its own and on that plus 10,000.
        for part in ["master", "volume", "filer", "admin"] {
            command.arg(format!("-{part}.port={}", low_port()));
        }
        command.arg(format!("-s3.port.grpc={}", free_port()));
        command.args([
            "-master.telemetry=false",
            "-webdav=false",
            "-admin.ui=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-bucket=bk1",
        ]);
        let weed = Self { _process: Process::start(command.current_dir(dir.path())), _dir: dir, port };
        let ready = S3Storage::open(&weed.options("ready")).unwrap();
        wait_for("seaweedfs", 60, || {
            use chunkstore::storage::Storage as _;
            ready.put("probe", bytes(b"x")).is_ok() && ready.get("probe", 1).is_ok()
        });
        weed
    }

    fn options(&self, prefix: &str) -> S3Options {
        S3Options {
            endpoint: format!("http://127.0.0.1:{}", self.port),
            bucket: "bk1".into(),
            prefix: prefix.into(),
            access_key_id: "AKTEST".into(),
            secret_access_key: "SKTEST".into(),
            http: chunkstore::storage::HttpOptions { retries: 1, timeout_s: 20, ..Default::default() },
            ..S3Options::default()
        }
    }

    fn repo(&self, prefix: &str) -> Repo {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let environment = vec![pair("AWS_ACCESS_KEY_ID", "AKTEST"), pair("AWS_SECRET_ACCESS_KEY", "SKTEST")];
        Repo::at(format!("s3:http://127.0.0.1:{}/bk1/{prefix}", self.port), environment)
    }
}

/// A free port whose number plus 10,000 is a port, too.
fn low_port() -> u16 {
    (0..1000).map(|_| free_port()).find(|port| *port < 55_000).unwrap()
}

fn bytes(data: &'static [u8]) -> ::bytes::Bytes {
    ::bytes::Bytes::from_static(data)
}

#[test]
fn storage_conforms() {
    let weed = Weed::start();
    chunkstore::storage::conformance::check(&S3Storage::open(&weed.options("conformance")).unwrap());
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
    repo.ok(["forget", "--keep-last", "1", "--prune"]);
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
