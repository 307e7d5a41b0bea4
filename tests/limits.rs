//! What the machine refuses: a lock that another process keeps, and memory.

use crate::harness::{Process, Repo, expect, noise};
use chunkstore::chunker::ChunkerParams;
use chunkstore::config::Layout;
use chunkstore::keys::{KdfParams, SlotOwner};
use chunkstore::storage::local::LocalStorage;
use chunkstore::store::ChunkStore;
use std::fs::File;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The folder of the local index.
fn index(repo: &Repo) -> std::path::PathBuf {
    let folders = std::fs::read_dir(repo.path("cache/repositories")).unwrap();
    folders.map(|entry| entry.unwrap().path()).find(|path| path.join("lock").exists()).unwrap()
}

#[test]
fn who_keeps_the_lock_of_the_index_stops_nobody() {
    let repo = Repo::new();
    std::fs::write(repo.path("data"), noise(1, 3_000_000)).unwrap();
    repo.ok(["backup", "data"]);
    let lock = File::open(index(&repo).join("lock")).unwrap();
    lock.lock().unwrap();
    let start = Instant::now();
    for command in [&["snapshots"][..], &["backup", "data"], &["restore", "latest", "--target", "out"]] {
        let output = repo.run(command);
        expect(&output, 0);
        let said = said(&output);
        let holder = format!("process {}", std::process::id());
        if said.contains("is in memory") {
            assert!(said.contains("waiting for") && said.contains(&holder), "{said}");
        } else {
            // It did not need one.
            assert_eq!(command, ["snapshots"], "{said}");
        }
    }
    assert!(start.elapsed() < Duration::from_secs(100));
    assert_eq!(std::fs::read(repo.path("out/data")).unwrap(), noise(1, 3_000_000));
    drop(lock);
    let output = repo.run(["backup", "data"]);
    expect(&output, 0);
    assert!(!said(&output).contains("is in memory"));
}

#[test]
fn who_keeps_the_lock_of_head_stops_no_reader_and_is_named_to_writers() {
    let repo = Repo::new();
    std::fs::write(repo.path("data"), "data").unwrap();
    repo.ok(["backup", "data"]);
    // A process that was stopped.
    let script = "exec flock -F -x repo/HEAD.lock sh -c 'touch held; kill -STOP $$'";
    let mut holder = Command::new("sh");
    let holder = Process::start(holder.args(["-c", script]).current_dir(repo.dir.path()));
    crate::harness::wait_for("the lock", 20, || repo.path("held").exists());
    let name = format!("process {} (sh)", holder.0.id());
    let output = repo.run(["restore", "latest", "--target", "out"]);
    expect(&output, 0);
    assert!(
        said(&output).contains(&name) && said(&output).contains("is read without it"),
        "{}",
        said(&output)
    );
    assert_eq!(std::fs::read(repo.path("out/data")).unwrap(), b"data");
    let start = Instant::now();
    let output = repo.run(["backup", "data"]);
    expect(&output, 1);
    assert!(said(&output).contains(&format!("was held by {name}, which is stopped")), "{}", said(&output));
    assert!(start.elapsed() < Duration::from_secs(100));
    drop(holder);
    repo.ok(["backup", "data"]);
}

/// Runs esker with a limit on its address space, and stacks of so many bytes.
fn limited(repo: &Repo, kibibytes: u32, stack: &str, args: &[&str]) -> Output {
    let esker = repo.command(args);
    let mut shell = Command::new("timeout");
    shell
        .args(["60", "sh", "-c", &format!("ulimit -v {kibibytes}; exec \"$@\""), "sh"])
        .arg(esker.get_program());
    shell.args(args).current_dir(repo.dir.path()).env_clear();
    shell.envs(esker.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("RUST_MIN_STACK", stack).output().unwrap()
}

/// Threads are refused as where there is no room for their stacks: all of them, or those after the first few.
#[test]
fn a_thread_that_cannot_be_started_is_an_error() {
    let repo = Repo::new();
    std::fs::write(repo.path("data"), noise(1, 3_000_000)).unwrap();
    repo.ok(["backup", "data"]);
    let commands: [&[&str]; 8] = [
        &["backup", "data"],
        &["backup", "--stdin-from-command", "--", "echo", "x"],
        &["backup", "redis://127.0.0.1:1"],
        &["backup", "postgres://127.0.0.1:1"],
        &["backup", "mysql://127.0.0.1:1"],
        &["restore", "latest", "--target", "out"],
        &["check", "--read-data"],
        &["--json", "forget", "--keep-last", "1", "--prune"],
    ];
    let mut refused = 0;
    for stack in ["4000000000", "700000000", "400000000", "250000000", "150000000"] {
        for args in commands {
            let output = limited(&repo, 1_500_000, stack, args);
            let (told, code) = (said(&output), output.status.code());
            assert!(
                !told.contains("panicked") && !told.contains("internal error"),
                "{stack} {args:?}: {told}"
            );
            assert!(matches!(code, Some(0 | 1 | 20 | 25)), "{stack} {args:?}: {code:?} {told}");
            if told.contains("cannot start") {
                refused += 1;
                assert!(told.contains("ulimit -v") && code != Some(0), "{stack} {args:?}: {told}");
            }
            assert!(stack != "4000000000" || told.contains("cannot start"), "{args:?}: {told}");
        }
    }
    assert!(refused > commands.len(), "{refused}");
    repo.ok(["check", "--read-data"]);
}

#[test]
fn little_address_space_ends_nothing_by_a_signal() {
    let repo = Repo::empty();
    for number in 0..100 {
        std::fs::create_dir_all(repo.path("data")).unwrap();
        std::fs::write(repo.path("data").join(number.to_string()), noise(number, 300_000)).unwrap();
    }
    let limited = |kibibytes, args: &[&str]| limited(&repo, kibibytes, "2000000", args);
    for args in [
        &["init"][..],
        &["backup", "data"],
        &["snapshots"],
        &["restore", "latest", "--target", "out"],
        &["check", "--read-data"],
        &["forget", "--keep-last", "1", "--prune"],
    ] {
        expect(&limited(3_000_000, args), 0);
    }
    assert!(said(&limited(3_000_000, &["snapshots"])).contains("limit on address space"));
}

/// A key slot that takes more memory than there is: that is no wrong password, no damage and no end by a signal.
#[test]
fn a_password_that_there_is_no_memory_to_try_is_not_called_wrong() {
    let repo = Repo::empty();
    let access = crate::harness::access(Arc::new(LocalStorage::create(repo.folder(), false).unwrap()));
    let half_a_gibibyte = KdfParams { memory_kib: 512 << 10, passes: 1, lanes: 1 };
    let (params, owner) = (ChunkerParams::default(), SlotOwner::default());
    ChunkStore::init(access, params, b"correct horse", half_a_gibibyte, owner, Layout::default()).unwrap();
    std::fs::write(repo.path("data"), "data").unwrap();
    for args in
        [&["snapshots"][..], &["backup", "data"], &["check"], &["key", "list"], &["--json", "snapshots"]]
    {
        let output = limited(&repo, 600_000, "2000000", args);
        let told = said(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {told}");
        assert!(
            told.contains("no memory for 536870912 bytes") && told.contains("ulimit -v"),
            "{args:?}: {told}"
        );
        assert!(!told.contains("wrong password") && !told.contains("damaged"), "{args:?}: {told}");
    }
    repo.ok(["backup", "data"]);
}
