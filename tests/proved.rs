//! A restore into a server changes nothing before it knows that it can finish: packs that are missing, damaged or frozen,
//! and what is forgotten and pruned elsewhere while it is at work.

use crate::glacier::Glacier;
use crate::harness::{Repo, expect, server, wait_for};
use crate::mariadb::Maria;
use crate::pg::Postgres;
use crate::qdrant_double::Qdrant;
use crate::redis::{Redis, apt_redis};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Packs of content of a repository, the largest first.
fn packs(repo: &Repo) -> Vec<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = std::fs::read_dir(repo.path("repo/packs"))
        .unwrap()
        .flat_map(|session| std::fs::read_dir(session.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.metadata().unwrap().len(), path))
        .filter(|(len, _)| *len > 100_000)
        .collect();
    found.sort_unstable();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

/// Each pack lost, and each pack damaged, one after the other: the restore fails and `state` stays; with all of them it goes.
pub(crate) fn nothing_for_what_cannot_be_had(repo: &Repo, words: &[&str], state: &dyn Fn() -> String) {
    let before = state();
    let packs = packs(repo);
    assert!(!packs.is_empty());
    for pack in &packs {
        let whole = std::fs::read(pack).unwrap();
        std::fs::remove_file(pack).unwrap();
        let text = repo.fails(1, words);
        assert!(state() == before, "{}: {text}", pack.display());
        let mut damaged = whole.clone();
        damaged[whole.len() / 3..whole.len() / 2].fill(0);
        std::fs::write(pack, damaged).unwrap();
        let text = repo.fails(1, words);
        assert!(state() == before, "{}: {text}", pack.display());
        std::fs::write(pack, whole).unwrap();
    }
    repo.ok(words);
    assert!(state() != before);
}

/// Random text of 128 characters for each of `count` keys.
fn noise_keys(redis: &Redis, count: u32) {
    let script = "for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'k'..i, redis.sha1hex(i)..redis.sha1hex(-i)..redis.sha1hex('x'..i)) end";
    redis.cli(&["EVAL", script, "0", &count.to_string()]);
}

fn pack_size() -> [&'static str; 2] {
    ["--pack-size", "2"]
}

#[test]
fn redis_keeps_what_it_has() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--repl-diskless-sync-delay", "0"]);
    noise_keys(&redis, 30_000);
    let url = redis.url();
    repo.ok(pack_size().into_iter().chain(["backup", &url]));
    let saved = redis.digest();
    redis.cli(&["FLUSHALL"]);
    noise_keys(&redis, 20_000);
    redis.cli(&["SET", "k1", "mine"]);
    let state = || redis.digest();
    let live = state();
    nothing_for_what_cannot_be_had(&repo, &["restore", "latest", "--to", &url, "--replace"], &state);
    redis.cli(&["FLUSHALL"]);
    noise_keys(&redis, 20_000);
    redis.cli(&["SET", "k1", "mine"]);
    nothing_for_what_cannot_be_had(&repo, &["restore", "latest", "--to", &url, "--whole", "--yes"], &state);
    assert_eq!(state(), saved);
    // What was there was saved, under its own tag: nothing that asks for a backup is given it.
    let all = repo.json(["snapshots"]);
    let safety: Vec<&str> = all
        .as_array()
        .unwrap()
        .iter()
        .filter(|one| one["made_by"] == "safety")
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    assert_eq!(safety.len(), 1, "{all}");
    assert_ne!(repo.json(["snapshots", "latest"])[0]["id"], safety[0]);
    assert_eq!(repo.json(["snapshots", "latest", "--tag", "safety"])[0]["id"], safety[0]);
    repo.ok(["forget", "--keep-last", "1", "--group-by", ""]);
    assert_eq!(repo.snapshot_count(), 2, "it is held");
    repo.ok(["restore", safety[0], "--to", &url, "--whole", "--yes", "--no-safety-snapshot"]);
    assert_eq!(state(), live);
    // A server that has no room half way: the message says how it stands, and how to go back.
    redis.cli(&["CONFIG", "SET", "maxmemory", "5mb"]);
    let text = repo.fails(25, ["restore", "latest", "--to", &url, "--whole", "--yes"]);
    assert!(text.contains("has a part of the snapshot now; to go back: esker restore "), "{text}");
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    let back = text.rsplit("esker restore ").next().unwrap().split(' ').next().unwrap();
    repo.ok(["restore", back, "--to", &url, "--whole", "--yes", "--no-safety-snapshot"]);
    assert_eq!(state(), live);
    let plan = |more: &[&str]| {
        let words = ["restore", "latest", "--to", &url, "--whole", "--dry-run"];
        repo.ok(words.iter().chain(more))
    };
    assert!(plan(&[]).contains("read all that will be loaded"));
    assert!(!plan(&["--unproven"]).contains("read all that will be loaded"));
}

/// Functions are lost like keys: a server that has nothing else is not taken for an empty one.
#[test]
fn redis_keeps_its_functions() {
    let repo = Repo::new();
    let redis = Redis::start(&server("redis-8"), &repo.path("redis"), &["--repl-diskless-sync-delay", "0"]);
    let library = |name: &str| {
        let code = format!("#!lua name={name}\nredis.register_function('{name}', function() return 1 end)");
        redis.cli(&["FUNCTION", "LOAD", &code]);
    };
    library("saved");
    redis.cli(&["SET", "a", "1"]);
    let url = redis.url();
    repo.ok(["backup", &url]);
    redis.cli(&["FLUSHALL"]);
    redis.cli(&["FUNCTION", "FLUSH"]);
    library("mine");
    let words = ["restore", "latest", "--to", &url, "--whole"];
    assert!(repo.fails(1, words).contains("--yes to go on"));
    assert!(redis.cli(&["FUNCTION", "LIST"]).contains("mine"));
    let done = repo.json(words.iter().chain(&["--yes"]));
    assert!(redis.cli(&["FUNCTION", "LIST"]).contains("saved"));
    let safety = done["safety_snapshot_id"].as_str().unwrap();
    repo.ok(["restore", safety, "--to", &url, "--whole", "--yes", "--no-safety-snapshot"]);
    assert!(redis.cli(&["FUNCTION", "LIST"]).contains("mine"));
}

#[test]
fn mariadb_keeps_what_it_has() {
    let repo = Repo::new();
    let maria = Maria::start(&repo, "maria");
    maria.root("CREATE DATABASE shop; CREATE TABLE shop.t AS SELECT seq, SHA2(seq, 512) AS a, SHA2(seq + 1000000, 512) AS b FROM shop.seq_1_to_20000");
    let url = format!("{}/shop", maria.url());
    repo.ok(pack_size().into_iter().chain(["backup", &url]));
    maria.root("DELETE FROM shop.t WHERE seq > 1000; CREATE TABLE shop.mine (a int)");
    let state = || maria.dumped("shop");
    nothing_for_what_cannot_be_had(&repo, &["restore", "latest", "--to", &url, "--replace"], &state);
}

#[test]
fn postgres_keeps_what_it_has() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", "CREATE TABLE t AS SELECT i, sha512(i::text::bytea) AS a, sha512((-i)::text::bytea) AS b FROM generate_series(1, 20000) i");
    let url = format!("{}/shop", server.url());
    repo.ok(pack_size().into_iter().chain(["backup", &url]));
    server.each("shop", &["DELETE FROM t WHERE i > 1000", "CREATE TABLE mine (a int)"]);
    let state = || server.dumped("shop");
    let one = ["restore", "latest", "--to", &url, "--table", "public.t", "--replace"];
    nothing_for_what_cannot_be_had(&repo, &one, &state);
    server.sql("shop", "DELETE FROM t WHERE i > 1000");
    nothing_for_what_cannot_be_had(&repo, &["restore", "latest", "--to", &url, "--replace"], &state);
}

#[test]
fn qdrant_keeps_what_it_has() {
    let repo = Repo::new();
    let server = Qdrant::start(&repo.path("qdrant"), None);
    server.client("fill('shop', 1000, size=128)");
    let url = server.url();
    repo.ok(pack_size().into_iter().chain(["backup", &url]));
    server.client("client.delete_collection('shop'); fill('shop', 10, size=128)");
    let state = || server.everything().to_string();
    nothing_for_what_cannot_be_had(&repo, &["restore", "latest", "--to", &url, "--replace"], &state);
}

/// The primary is lost, and the only copy is frozen.
#[test]
fn what_is_frozen_is_asked_for_first() {
    let glacier = Glacier::gated();
    let toml = format!(
        "[[tier]]\nname = \"local\"\nurl = \"file:DIR/repo\"\nrole = \"primary\"\n\
         [[tier]]\nname = \"glacier\"\nurl = \"s3://cold/proved\"\nendpoint = \"http://127.0.0.1:{}\"\n\
         role = \"vault\"\nclass = \"GLACIER\"\nretries = 2\n\
         [[promise]]\nkeep = \"30d\"\ntiers = [\"local\", \"glacier\"]\n",
        glacier.port
    );
    let keys =
        [("AWS_ACCESS_KEY_ID", "AKTEST"), ("AWS_SECRET_ACCESS_KEY", "SKTEST"), ("AWS_REGION", "us-east-1")];
    let repo = Repo::with_tiers(&toml, &keys, true);
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--repl-diskless-sync-delay", "0"]);
    noise_keys(&redis, 5000);
    let maria = Maria::start(&repo, "maria");
    maria.root("CREATE DATABASE shop; CREATE TABLE shop.t AS SELECT seq, SHA2(seq, 512) AS a FROM shop.seq_1_to_5000");
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql(
        "shop",
        "CREATE TABLE t AS SELECT i, sha512(i::text::bytea) AS a FROM generate_series(1, 5000) i",
    );
    let urls = [redis.url(), format!("{}/shop", maria.url()), format!("{}/shop", server.url())];
    for url in &urls {
        repo.ok(["backup", url]);
    }
    redis.cli(&["SET", "k1", "mine"]);
    maria.root("DELETE FROM shop.t WHERE seq > 10");
    server.sql("shop", "DELETE FROM t WHERE i > 10");
    let state = || [redis.digest(), maria.dumped("shop"), server.dumped("shop")];
    let before = state();
    std::fs::rename(repo.path("repo"), repo.path("lost")).unwrap();
    for (url, more) in urls.iter().zip([&["--whole", "--yes"][..], &["--replace"], &["--replace"]]) {
        let text = repo.fails(22, ["restore", "latest", "--to", url].iter().chain(more));
        assert!(text.contains("esker thaw start"), "{text}");
    }
    let one = format!("{}/0", urls[0]);
    repo.fails(22, ["restore", "latest:redis/0/k1", "--to", &one, "--replace"]);
    assert!(state() == before);
}

/// Between the proof and the change, everything is forgotten and pruned by another process.
#[test]
fn what_is_forgotten_meanwhile_stays_until_the_restore_is_over() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--repl-diskless-sync-delay", "0"]);
    noise_keys(&redis, 30_000);
    let saved = redis.digest();
    let url = redis.url();
    repo.ok(pack_size().into_iter().chain(["backup", &url]));
    redis.cli(&["FLUSHALL"]);
    redis.cli(&["SET", "a", "1"]);
    let one = repo.json(["snapshots"])[0]["id"].as_str().unwrap().to_owned();
    // The server takes no writes until it is told to, so the restore waits when it asks what the server can hold.
    redis.cli(&["CLIENT", "PAUSE", "1000000", "WRITE"]);
    let words = ["restore", &one, "--to", &url, "--whole", "--yes", "--no-safety-snapshot"];
    let restore = repo.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("RESTORE", 60, || redis.cli(&["CLIENT", "LIST"]).contains("cmd=restore"));
    repo.ok(["forget", &one]);
    for _ in 0..3 {
        repo.ok(["prune", "--max-unused", "0"]);
    }
    assert!(!packs(&repo).is_empty(), "they are held");
    redis.cli(&["CLIENT", "UNPAUSE"]);
    expect(&restore.wait_with_output().unwrap(), 0);
    assert_eq!(redis.digest(), saved);
    for _ in 0..3 {
        repo.ok(["prune", "--max-unused", "0"]);
    }
    assert_eq!(packs(&repo).len(), 0, "and are let go");
    // What is gone already is not begun with.
    assert!(repo.fails(1, ["restore", &one, "--to", &url, "--whole", "--yes"]).contains("no snapshot"));
}

/// Whoever may only read the repository restores all the same, and is told.
#[test]
fn a_repository_that_cannot_be_written_holds_nothing() {
    let repo = Repo::new();
    let maria = Maria::start(&repo, "maria");
    maria.root("CREATE DATABASE shop; CREATE TABLE shop.t (a int); INSERT INTO shop.t VALUES (1)");
    let url = format!("{}/shop", maria.url());
    repo.ok(["backup", &url]);
    let wanted = maria.dumped("shop");
    maria.root("DELETE FROM shop.t");
    for (mode, place) in [("a+rX", repo.path("repo")), ("a+x", repo.folder().to_owned())] {
        crate::harness::run("chmod", &["-R", mode, place.to_str().unwrap()]);
    }
    let words = ["--no-cache", "restore", "latest", "--to", &url, "--replace"];
    let command = repo.command(words);
    let mut other = Command::new("setpriv");
    other
        .args(["--reuid", "65534", "--clear-groups", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    other.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = other.current_dir("/").output().unwrap();
    let text = expect(&output, 0) + &String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("without being held"), "{text}");
    assert_eq!(maria.dumped("shop"), wanted);
}
