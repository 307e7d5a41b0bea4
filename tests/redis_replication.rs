//! A whole server comes back by replication: it loads the dump as a replica of esker, and is a master with its own settings
//! afterwards, whatever is killed on the way. Where it cannot be a replica, it gets its keys one by one.

use crate::harness::{Process, Repo, free_port, run, server, wait_for};
use crate::redis::{Redis, apt_redis};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const SETTINGS: [&str; 3] = ["masterauth", "masteruser", "repl-diskless-load"];

/// A server with settings for a master of its own.
pub(crate) fn start(repo: &Repo, binary: &Path, name: &str, more: &[&str]) -> Redis {
    let args = ["--repl-diskless-sync-delay", "0", "--masterauth", "old secret", "--masteruser", "old user"];
    Redis::start(binary, &repo.path(name), &[&args[..], more].concat())
}

fn settings(redis: &Redis) -> String {
    SETTINGS.map(|name| redis.cli(&["CONFIG", "GET", name])).concat()
}

/// That a server is a master as it was started.
pub(crate) fn is_itself(redis: &Redis) {
    assert!(redis.cli(&["INFO", "replication"]).contains("role:master"));
    assert_eq!(
        settings(redis),
        "masterauth\nold secret\nmasteruser\nold user\nrepl-diskless-load\ndisabled\n"
    );
}

/// A restore of all, and that nothing secret is in what it says.
pub(crate) fn restore(repo: &Repo, target: &Redis, more: &[&str]) -> Value {
    let url = target.url();
    let words = ["--log", "trace", "--json", "restore", "latest", "--to", &url, "--whole", "--yes"];
    let output = repo.run([more, &words[..]].concat());
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("esker-1-") && !said.contains("old secret"), "{said}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut said = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let summary = said.rfind(|line| line["message_type"] == "summary").unwrap();
    assert_eq!((&summary["keys_different"], &summary["keys_refused"]), (&0.into(), &0.into()), "{summary}");
    summary
}

/// Keys of every type that goes by replication: vector sets are of a module.
pub(crate) fn fill(redis: &Redis) {
    redis.fill(3000);
    redis.fill_every_type();
    redis.cli(&["DEL", "vectors"]);
}

fn servers() -> Vec<(PathBuf, &'static str)> {
    let others = ["redis-6.2", "redis-8", "valkey-8", "valkey-9"].map(|name| (server(name), name));
    [(apt_redis(), "redis-7")].into_iter().chain(others).collect()
}

#[test]
fn every_server_loads_it_by_itself() {
    for (binary, name) in servers() {
        let repo = Repo::new();
        let redis = start(&repo, &binary, "redis", &[]);
        fill(&redis);
        repo.ok(["backup", &redis.url()]);
        let saved = redis.digest();
        // Over other data, and into an empty server.
        for had in [50, 0] {
            let target = start(&repo, &binary, &format!("target-{had}"), &[]);
            if had > 0 {
                target.fill(had);
            }
            let done = restore(&repo, &target, &[]);
            assert_eq!(done["loaded_by"], "replication", "{name}: {done}");
            assert_eq!(done["safety_snapshot_id"].is_string(), had > 0, "{name}: {done}");
            assert_eq!(target.digest(), saved, "{name}");
            is_itself(&target);
        }
        // Under another order, and through the file that some servers write first.
        repo.ok(["-o", "redis.order=raw", "backup", &redis.url()]);
        let target = start(&repo, &binary, "raw", &["--repl-diskless-load", "swapdb"]);
        assert_eq!(restore(&repo, &target, &[])["loaded_by"], "replication", "{name}");
        assert_eq!(target.digest(), saved, "{name}");
        assert!(target.cli(&["CONFIG", "GET", "repl-diskless-load"]).contains("swapdb"));
    }
}

#[test]
fn a_dump_is_written_in_the_version_of_the_server() {
    for (from, to) in [
        ("redis-8", "redis-6.2"),
        ("redis-8", "valkey-9"),
        ("valkey-9", "redis-8"),
        ("redis-6.2", "valkey-8"),
    ] {
        let repo = Repo::new();
        let redis = start(&repo, &server(from), "redis", &[]);
        redis.fill(3000);
        repo.ok(["backup", &redis.url()]);
        let target = start(&repo, &server(to), "target", &[]);
        let done = restore(&repo, &target, &[]);
        assert_eq!(done["loaded_by"], "replication", "{from} {to}: {done}");
        assert_eq!(target.cli(&["DBSIZE"]), redis.cli(&["DBSIZE"]), "{from} {to}");
        is_itself(&target);
    }
}

#[test]
fn where_it_cannot_be_a_replica_it_gets_its_keys_one_by_one() {
    let repo = Repo::new();
    let redis = start(&repo, &apt_redis(), "redis", &[]);
    redis.fill(2000);
    redis.cli(&["-n", "3", "FLUSHDB"]);
    repo.ok(["backup", &redis.url()]);
    let saved = redis.digest();
    let falls_back = |target: &Redis, more: &[&str], why: &str| {
        let url = target.url();
        let done = restore(&repo, target, more);
        assert_eq!(done["loaded_by"], "RESTORE", "{why}: {done}");
        assert_eq!(target.digest(), saved, "{why}");
        is_itself(target);
        // For people, too.
        let text = repo.ok([
            more,
            &["restore", "latest", "--to", &url, "--whole", "--yes", "--no-safety-snapshot"][..],
        ]
        .concat());
        assert!(text.contains("connections") && text.contains(why), "{why}: {text}");
        is_itself(target);
    };
    let target = |name: &str, more: &[&str]| start(&repo, &apt_redis(), name, more);

    falls_back(&target("told", &[]), &["-o", "redis.replicate-from=never"], "replicate-from=never");
    // An address of documentation, which nobody has (RFC 5737).
    let nowhere = format!("redis.replicate-from=192.0.2.1:{}", free_port());
    falls_back(&target("far", &[]), &["-o", &nowhere], "did not connect to us within 10 s");
    falls_back(&target("renamed", &["--rename-command", "REPLICAOF", ""]), &[], "REPLICAOF");

    let cluster = target("cluster", &["--cluster-enabled", "yes"]);
    cluster.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    wait_for("cluster", 20, || cluster.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
    falls_back(&cluster, &[], "cluster");

    let watched = target("watched", &[]);
    let conf = repo.path("sentinel.conf");
    let port = free_port();
    let lines = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor it 127.0.0.1 {} 2\n",
        repo.folder().display(),
        watched.port()
    );
    std::fs::write(&conf, lines).unwrap();
    let _sentinel = Process::start(Command::new(apt_redis()).arg(&conf).arg("--sentinel"));
    wait_for("sentinel", 20, || watched.cli(&["CLIENT", "LIST"]).contains("name=sentinel-"));
    falls_back(&watched, &[], "a Sentinel watches it");
}

/// A user who may do all but this.
#[test]
fn rights_that_are_missing() {
    let repo = Repo::new();
    let redis = start(&repo, &apt_redis(), "redis", &[]);
    redis.fill(2000);
    repo.ok(["backup", &redis.url()]);
    for denied in ["-replicaof", "-config", "-config|set", "-function|dump"] {
        let target = start(&repo, &apt_redis(), &format!("target{denied}").replace('|', "-"), &[]);
        target.cli(&["ACL", "SETUSER", "some", "on", ">pw", "~*", "&*", "+@all", denied]);
        let url = target.url().replace("redis://", "redis://some:pw@");
        let done = repo.json(["restore", "latest", "--to", &url, "--whole", "--yes"]);
        assert_eq!(done["loaded_by"], "RESTORE", "{denied}: {done}");
        assert_eq!(done["keys_different"], 0, "{denied}: {done}");
        assert_eq!(target.digest(), redis.digest(), "{denied}");
        is_itself(&target);
    }
}

/// Loads a key in so many microseconds, so that there is something to interrupt.
pub(crate) fn slow(redis: &Redis, micros: &str) {
    redis.cli(&["CONFIG", "SET", "key-load-delay", micros]);
}

pub(crate) fn begin(repo: &Repo, target: &Redis) -> std::process::Child {
    let url = target.url();
    let mut command = repo.command(["restore", "latest", "--to", &url, "--whole", "--yes"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn killed_at_any_step_and_run_again() {
    let repo = Repo::new();
    let redis = start(&repo, &apt_redis(), "redis", &[]);
    fill(&redis);
    repo.ok(["backup", &redis.url()]);
    let saved = redis.digest();
    let target = start(&repo, &apt_redis(), "target", &["--loading-process-events-interval-bytes", "1024"]);
    slow(&target, "500");
    let mut replicas = 0;
    for step in 0..8 {
        target.cli(&["FLUSHALL"]);
        target.cli(&["SET", "had", &step.to_string()]);
        let mut child = begin(&repo, &target);
        let is_replica = || target.cli(&["INFO", "replication"]).contains("role:slave");
        wait_for("replication", 60, || is_replica() || child.try_wait().unwrap().is_some());
        std::thread::sleep(Duration::from_millis(step * 250));
        child.kill().unwrap();
        child.wait().unwrap();
        replicas += u32::from(is_replica());
        let done = restore(&repo, &target, &[]);
        assert_eq!(done["loaded_by"], "replication", "{step}: {done}");
        assert_eq!(target.digest(), saved, "{step}");
        is_itself(&target);
    }
    assert!(replicas > 3, "{replicas} kills left a replica");
    // A restore of keys ends it as well, and a listing of what it would do changes nothing.
    let mut child = begin(&repo, &target);
    wait_for("replication", 60, || target.cli(&["INFO", "replication"]).contains("role:slave"));
    child.kill().unwrap();
    child.wait().unwrap();
    let url = target.url();
    let plan = repo.ok(["restore", "latest", "--to", &url, "--whole", "--dry-run"]);
    assert!(plan.contains("end a restore that was interrupted"), "{plan}");
    assert!(target.cli(&["CONFIG", "GET", "masterauth"]).contains("esker-1-"));
    // Nobody else can.
    let other = Repo::new();
    other.ok(["backup", &redis.url()]);
    let refused = other.fails(1, ["restore", "latest", "--to", &url, "--whole", "--yes"]);
    assert!(refused.contains("from another repository"), "{refused}");
    repo.ok(["restore", "latest:redis/0/compressible", "--to", &url, "--replace"]);
    is_itself(&target);
}

/// While one restore is at work, another leaves it alone.
#[test]
fn two_at_once() {
    let repo = Repo::new();
    let redis = start(&repo, &apt_redis(), "redis", &[]);
    fill(&redis);
    repo.ok(["backup", &redis.url()]);
    let target = start(&repo, &apt_redis(), "target", &["--loading-process-events-interval-bytes", "1024"]);
    slow(&target, "1000");
    let child = begin(&repo, &target);
    wait_for("replication", 60, || target.cli(&["INFO", "replication"]).contains("role:slave"));
    let refused = repo.fails(1, ["restore", "latest", "--to", &target.url(), "--whole", "--yes"]);
    assert!(refused.contains("another restore is at work"), "{refused}");
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(target.digest(), redis.digest());
    is_itself(&target);
}

#[test]
fn interrupted_by_a_signal_it_puts_the_settings_back() {
    let repo = Repo::new();
    let redis = start(&repo, &apt_redis(), "redis", &[]);
    fill(&redis);
    repo.ok(["backup", &redis.url()]);
    let target = start(&repo, &apt_redis(), "target", &["--loading-process-events-interval-bytes", "1024"]);
    slow(&target, "1000");
    let child = begin(&repo, &target);
    wait_for("replication", 60, || target.cli(&["INFO", "replication"]).contains("role:slave"));
    std::thread::sleep(Duration::from_millis(300));
    run("kill", &["-INT", &child.id().to_string()]);
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(130));
    is_itself(&target);
    // One that answers nobody while it loads: what was asked of it is given up, and it is put in order after that.
    target.cli(&["CONFIG", "SET", "loading-process-events-interval-bytes", "2097152"]);
    let child = begin(&repo, &target);
    wait_for("load", 60, || is_silent(&target));
    run("kill", &["-INT", &child.id().to_string()]);
    let done = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(130) && !told.contains("hangs"), "{told}");
    is_itself(&target);
}

/// Whether a server does not answer at once.
fn is_silent(redis: &Redis) -> bool {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", redis.port())).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    stream.read(&mut [0; 16]).is_err()
}

/// Whoever ends all connections of clients ends the load, and no more.
#[test]
fn it_puts_the_settings_back_over_another_connection() {
    let repo = Repo::new();
    let redis = start(&repo, &apt_redis(), "redis", &[]);
    fill(&redis);
    repo.ok(["backup", &redis.url()]);
    let target = start(&repo, &apt_redis(), "target", &["--loading-process-events-interval-bytes", "1024"]);
    slow(&target, "1000");
    let child = begin(&repo, &target);
    wait_for("replication", 60, || target.cli(&["INFO", "replication"]).contains("role:slave"));
    std::thread::sleep(Duration::from_millis(300));
    target.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(25), "{}", String::from_utf8_lossy(&done.stderr));
    is_itself(&target);
}

#[test]
fn a_server_that_dies_while_it_loads() {
    let repo = Repo::new();
    let redis = start(&repo, &apt_redis(), "redis", &[]);
    fill(&redis);
    repo.ok(["backup", &redis.url()]);
    let port = free_port();
    let args = ["--repl-diskless-sync-delay", "0", "--loading-process-events-interval-bytes", "1024"];
    let target = Redis::start_at(port, &apt_redis(), &repo.path("target"), &args);
    slow(&target, "1000");
    let child = begin(&repo, &target);
    wait_for("replication", 60, || target.cli(&["INFO", "replication"]).contains("role:slave"));
    drop(target);
    let done = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(25), "{told}");
    assert!(told.contains("the server ended while it loaded"), "{told}");
    let target = Redis::start_at(port, &apt_redis(), &repo.path("target"), &args);
    repo.ok(["restore", "latest", "--to", &target.url(), "--whole", "--yes"]);
    assert_eq!(target.digest(), redis.digest());
}
