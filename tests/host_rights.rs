//! The rights that a write-only host needs at an object store (docs/hosts.md), at a store that enforces rights by prefix: with
//! these it backs up, and with nothing that it has it reads or writes anything else.

use crate::harness::{Repo, esker_binary, expect, noise};
use crate::seaweed::Weed;
use bytes::Bytes;
use chunkstore::storage::s3::{self, S3Options};
use chunkstore::storage::{ErrorKind, Storage as _};
use serde_json::Value;
use std::fs;
use std::process::{Command, Output, Stdio};

const KEYS: (&str, &str) = ("AKHOST", "SKHOST");

fn backup(repo: &Repo, port: u16) -> Output {
    let mut command = Command::new(esker_binary());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", repo.path("home"));
    command.env("AWS_ACCESS_KEY_ID", KEYS.0).env("AWS_SECRET_ACCESS_KEY", KEYS.1);
    command.env("ESKER_CACHE_DIR", repo.path("cache-host"));
    let place = format!("s3:http://127.0.0.1:{port}/bk1/rights");
    command.args(["--json", "-r", &place, "backup", "--bundle", "web1.esker-host", "data"]);
    command.current_dir(repo.dir.path()).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn a_host_needs_two_prefixes_and_gets_no_further() {
    let mut weed = Weed::start();
    let first = weed.repo("rights");
    let added = first.json(["host", "add", "web1", "--write-only"]);
    let id = added["host_id"].as_str().unwrap().to_owned();
    fs::create_dir(first.path("data")).unwrap();
    fs::write(first.path("data/file"), noise(1, 400_000)).unwrap();
    let (inbox, replies) = (format!("bk1/rights/inbox/{id}/*"), format!("bk1/rights/replies/{id}/*"));
    weed.restart_with(
        KEYS,
        &[format!("Write:{inbox}"), format!("Read:{replies}"), format!("List:{replies}")],
    );
    let place = format!("s3:http://127.0.0.1:{}/bk1/rights", weed.port());
    let admin = Repo::again(&first, place);

    let run = |number: u64| {
        let output = backup(&first, weed.port());
        let stdout = expect(&output, 0);
        let report: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
        assert_eq!((&report["pending"], &report["run"]), (&true.into(), &number.into()), "{report}");
        report["answered"].clone()
    };
    assert_eq!(run(1), serde_json::json!([]));
    let done = admin.json(["host", "admit"]);
    assert_eq!(done["runs"][0]["outcome"], "admitted", "{done}");
    fs::write(first.path("data/file"), noise(2, 400_000)).unwrap();
    assert_eq!(run(2), serde_json::json!([{"run": 1, "outcome": "admitted"}]));

    // A thief with its credentials.
    let (access_key_id, secret_access_key) = (KEYS.0.to_owned(), KEYS.1.to_owned());
    let thief = s3::open(&S3Options { access_key_id, secret_access_key, ..weed.options("rights") }).unwrap();
    let own = s3::open(&weed.options("rights")).unwrap();
    let mut all = vec![];
    for folder in ["config", "HEAD", "keys", "packs", "index", "snapshots", "inbox", "sets"] {
        own.list(folder, &mut |name, _| all.push(name.to_owned())).unwrap();
    }
    all.extend(["config".to_owned(), "HEAD".to_owned()]);
    assert!(all.iter().any(|name| name.starts_with("inbox/")) && all.len() > 8, "{all:?}");
    for name in &all {
        assert_eq!(thief.get(name, 1 << 20).unwrap_err().kind, ErrorKind::Denied, "{name} is read");
    }
    for name in ["HEAD", "config", "packs/x", "replies/x", "keys/x", "inbox/x/y"] {
        let put = thief.put(name, Bytes::from_static(b"x"));
        assert_eq!(put.unwrap_err().kind, ErrorKind::Denied, "{name} is written");
        assert_eq!(thief.delete(name).unwrap_err().kind, ErrorKind::Denied, "{name} is deleted");
    }
    let swapped = thief.swap_head(None, Bytes::from_static(b"x"));
    assert_eq!(swapped.unwrap_err().kind, ErrorKind::Denied);
    for folder in ["packs", "snapshots", "keys", "inbox"] {
        let listed = thief.list(folder, &mut |name, _| panic!("{name} is listed"));
        assert_eq!(listed.unwrap_err().kind, ErrorKind::Denied, "{folder}");
    }
    // And all is well.
    let done = admin.json(["host", "admit"]);
    assert_eq!(done["runs"][0]["outcome"], "admitted", "{done}");
    admin.ok(["check", "--read-data"]);
}
