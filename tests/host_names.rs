//! Names in inboxes that are no paths, and rights at Azure. Whoever has the credentials of a host puts there what the store
//! takes: no other host waits for it, nothing else is touched by it, and a prune removes it.

use crate::azurite::{ACCOUNT, Azurite, KEY};
use crate::glacier::{Glacier, python};
use crate::harness::{Repo, esker_binary, expect, noise, run, server, source_root};
use bytes::Bytes;
use chunkstore::storage::azure::{self, AzureOptions};
use chunkstore::storage::s3;
use chunkstore::storage::{ErrorKind, HttpOptions, Storage};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output, Stdio};

/// Names below a folder, as the path of a URL has them.
const KEYS: [&str; 13] = [
    "..",
    "a/../b",
    "../../../packs/x",
    "./c",
    "a//b",
    "/d",
    "e/",
    "00000000000000000001/commit/",
    "00000000000000000002//commit",
    "%C3%A9%01%20+~",
    "100%25",
    "f%23g%3Fh",
    "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk",
];

/// Makes an object in a bucket, whatever its key is: clients make paths of keys.
fn put(port: u16, path: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!(
        "PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nodd"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
}

fn pairs(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Hosts of a repository, and data that they back up; their ids.
fn hosts<const N: usize>(repo: &Repo, hosts: [&str; N]) -> [String; N] {
    fs::create_dir(repo.path("data")).unwrap();
    fs::write(repo.path("data/file"), noise(1, 400_000)).unwrap();
    hosts.map(|name| repo.json(["host", "add", name, "--write-only"])["host_id"].as_str().unwrap().to_owned())
}

/// A backup with what a host has.
fn backup(repo: &Repo, host: &str, environment: &[(String, String)]) -> Output {
    let mut command = Command::new(esker_binary());
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", repo.path("home"));
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command.env("ESKER_CACHE_DIR", repo.path(&format!("cache-{host}")));
    let bundle = repo.path(&format!("{host}.esker-host"));
    command.args(["--json", "backup", "data", "--bundle"]).arg(bundle);
    command.current_dir(repo.dir.path()).stdin(Stdio::null()).output().unwrap()
}

fn listed(store: &dyn Storage, folder: &str) -> Vec<String> {
    let mut found = vec![];
    store.list(folder, &mut |name, _| found.push(name.to_owned())).unwrap();
    found
}

/// An admission takes in what 'web' brought, and tells once what lies in the inbox of 'odd'; a prune removes that.
fn admits_and_prunes(repo: &Repo, store: &dyn Storage, odd: &str, count: usize) {
    let told = |output: &Output, words: &str| {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(stderr.matches(words).count(), 1, "{words}: {stderr}");
    };
    let output = repo.run(["host", "admit"]);
    assert!(expect(&output, 0).contains("admitted"), "{output:?}");
    told(&output, &format!("the inbox of host 'odd' has {count} objects that no host brings"));
    repo.ok(["host", "list"]);
    repo.ok(["check", "--read-data"]);
    let packs = listed(store, "packs");
    assert!(packs.len() > 1);
    for _ in 0..2 {
        assert_eq!(repo.json(["prune", "-n"])["stray_objects"], count);
    }
    let output = repo.run(["prune"]);
    let removed = expect(&output, 0);
    assert!(removed.contains(&format!("removes {count} objects with")), "{removed}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("cannot be removed"), "{output:?}");
    assert_eq!(listed(store, &format!("inbox/{odd}")), Vec::<String>::new());
    assert_eq!(listed(store, "packs"), packs);
    assert_eq!(repo.json(["prune"])["stray_objects"], 0);
    repo.ok(["check", "--read-data"]);
}

#[test]
fn keys_of_s3_that_are_no_paths_stop_nobody_and_go_with_a_prune() {
    let moto = Glacier::start(0.0, 60.0);
    let environment = pairs(&[("AWS_ACCESS_KEY_ID", "AKTEST"), ("AWS_SECRET_ACCESS_KEY", "SKTEST")]);
    let repo = Repo::at(format!("s3:http://127.0.0.1:{}/cold/odd", moto.port), environment.clone());
    let [odd, _web] = hosts(&repo, ["odd", "web"]);
    let store = s3::open(&moto.options("odd")).unwrap();
    let fill = || KEYS.iter().for_each(|key| put(moto.port, &format!("/cold/odd/inbox/{odd}/{key}")));
    fill();
    // A key beside them that 'inbox/ID/../../../packs/x' could be taken for, and one of the same beginning.
    store.put("packs/x", Bytes::from_static(b"not his")).unwrap();
    put(moto.port, "/cold/packs/x");
    put(moto.port, "/cold/odd/b");
    expect(&backup(&repo, "web", &environment), 0);
    admits_and_prunes(&repo, &store, &odd, KEYS.len());
    // Of a revoked host, too.
    fill();
    repo.ok(["host", "revoke", "odd"]);
    assert_eq!(repo.json(["prune"])["revoked_objects"], KEYS.len());
    let keys = python(moto.port, "print([o['Key'] for o in s3.list_objects_v2(Bucket='cold')['Contents']])")
        .unwrap();
    assert!(!keys.contains("/inbox/"), "{keys}");
    for key in ["'packs/x'", "'odd/packs/x'", "'odd/b'"] {
        assert!(keys.contains(key), "{key}: {keys}");
    }
    // Whoever lost HEAD is not kept from making it anew.
    fill();
    store.delete("HEAD").unwrap();
    store.delete("packs/x").unwrap();
    repo.ok(["repair", "head"]);
}

#[test]
fn names_of_blobs_that_are_no_paths_stop_nobody_and_go_with_a_prune() {
    let azurite = Azurite::start();
    let repo = Repo::at("azure://backup/odd".into(), azurite.environment());
    let [odd, _web] = hosts(&repo, ["odd", "web"]);
    let names = ["a//b", "c/", "\u{e9} +~", "100%", "d#e?f", "00000000000000000001/commit/"];
    for name in names {
        let line = format!(
            "service.get_container_client('backup').upload_blob({:?}, b'odd')",
            format!("odd/inbox/{odd}/{name}")
        );
        azurite.python(&line).unwrap_or_else(|| panic!("{name}"));
    }
    expect(&backup(&repo, "web", &azurite.environment()), 0);
    let store = azure::open(&at(&azurite, "odd")).unwrap();
    admits_and_prunes(&repo, &store, &odd, names.len());
}

fn at(azurite: &Azurite, prefix: &str) -> AzureOptions {
    AzureOptions {
        endpoint: azurite.endpoint(),
        account: ACCOUNT.into(),
        container: "backup".into(),
        prefix: prefix.into(),
        access_key: KEY.into(),
        http: HttpOptions { retries: 1, timeout_s: 20, ..HttpOptions::default() },
        ..AzureOptions::default()
    }
}

/// The signature of docs/hosts.md. The emulator checks which operations a signature permits, and not that one may only
/// create: it has no `UnauthorizedBlobOverwrite`.
#[test]
fn a_host_at_azure_needs_a_signature_that_creates_reads_and_lists() {
    let azurite = Azurite::start();
    let repo = Repo::at("azure://backup/rights".into(), azurite.environment());
    hosts(&repo, ["web"]);
    let sign = |permissions: &str| {
        let line = format!(
            "from azure.storage.blob import generate_container_sas\nimport datetime\nprint(generate_container_sas({ACCOUNT:?}, \
             'backup', account_key={KEY:?}, permission={permissions:?}, \
             expiry=datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=2)))"
        );
        azurite.python(&line).unwrap().trim().to_owned()
    };
    let rights = |permissions: &str| {
        let mut environment = azurite.environment();
        environment.retain(|(name, _)| name != "AZURE_STORAGE_KEY");
        environment.push(("AZURE_STORAGE_SAS_TOKEN".into(), sign(permissions)));
        backup(&repo, "web", &environment)
    };
    for run in 1..3 {
        let output = rights("rcl");
        assert!(expect(&output, 0).contains(&format!("\"run\":{run}")), "{output:?}");
        repo.ok(["host", "admit"]);
    }
    // Each of them is needed, to list by a host that lost its book; and a refusal is in words.
    for permissions in ["cl", "rl", "rc"] {
        // One that gets no further than the greeting begins no book.
        let _ = fs::remove_dir_all(repo.path("cache-web"));
        let output = rights(permissions);
        let told = format!("{permissions}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(
            !output.status.success() && told.contains("access denied") && !told.contains("<?xml"),
            "{told}"
        );
    }
    // A thief removes nothing with it. What it cannot express is in docs/hosts.md: it is of the whole container.
    let options = AzureOptions { access_key: String::new(), sas: sign("rcl"), ..at(&azurite, "rights") };
    let thief = azure::open(&options).unwrap();
    for name in ["HEAD", "config"].map(str::to_owned).into_iter().chain(listed(&thief, "packs")) {
        assert_eq!(thief.delete(&name).unwrap_err().kind, ErrorKind::Denied, "{name}");
    }
    repo.ok(["check", "--read-data"]);
    assert_eq!(repo.snapshot_count(), 2);
}

/// On a disk: kinds of files that are no objects, at which the independent reader neither stops nor waits.
#[test]
fn the_independent_reader_stops_at_nothing_in_an_inbox() {
    let repo = Repo::new();
    let [odd, web] = hosts(&repo, ["odd", "web"]);
    expect(&backup(&repo, "odd", &[]), 0);
    expect(&backup(&repo, "web", &[]), 0);
    let inbox = |host: &str| repo.folder().join("inbox").join(host);
    let number = |run: u64| format!("{run:020}");
    let path = |name: &str| inbox(&odd).join(name);
    fs::rename(path(&number(1)), path(&number(7))).unwrap();
    for (run, name) in [(2, "pipe"), (3, "link"), (4, "folder"), (5, "empty"), (6, "noise")] {
        fs::create_dir(path(&number(run))).unwrap();
        let commit = path(&number(run)).join("commit");
        match name {
            "pipe" => drop(run_mkfifo(&commit)),
            "link" => std::os::unix::fs::symlink(inbox(&web).join(number(1)).join("commit"), commit).unwrap(),
            "folder" => fs::create_dir(commit).unwrap(),
            "empty" => {}
            _ => fs::write(commit, noise(3, 1000)).unwrap(),
        }
    }
    fs::create_dir_all(path("9").join("commit")).unwrap();
    std::os::unix::fs::symlink(inbox(&web).join(number(1)), path(&number(8))).unwrap();
    fs::write(path("x"), "x").unwrap();
    fs::write(inbox(&odd).join(std::ffi::OsStr::from_bytes(b"\xff")), "x").unwrap();
    fs::write(repo.path("password"), "correct horse\n").unwrap();
    let output = Command::new(server("venv/bin/python"))
        .arg(source_root().join("docs/reader.py"))
        .args([repo.folder(), &repo.path("password")])
        .arg("inbox")
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{stdout}{stderr}");
    assert!(stdout.starts_with("web 1 ") && stdout.lines().count() == 1, "{stdout}{stderr}");
    for words in ["odd, run 6: ", "odd, run 7: ", "odd: 4 in the inbox", "2 of the runs"] {
        assert_eq!(stderr.matches(words).count(), 1, "{words}: {stderr}");
    }
    // esker neither: it admits the other host's, and removes all but what could be a host's.
    let told = repo.run(["host", "admit"]);
    assert!(String::from_utf8_lossy(&told.stderr).contains("'odd' has"), "{told:?}");
    assert_eq!(repo.snapshot_count(), 1);
    repo.ok(["prune"]);
    repo.ok(["check", "--read-data"]);
    for name in ["9", "x", &number(5), &number(4), &number(8)] {
        assert!(fs::symlink_metadata(path(name)).is_err(), "{name}");
    }
    assert!(inbox(&odd).exists());
}

fn run_mkfifo(path: &std::path::Path) -> String {
    run("mkfifo", &[path.to_str().unwrap()])
}
