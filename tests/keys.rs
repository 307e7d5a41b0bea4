//! Single keys of a Redis dump: listed, printed, compared, written into live servers; and the whole of one,
//! there and back.

use crate::harness::{Repo, free_port, server, wait_for};
use crate::redis::{Redis, apt_redis};
use std::path::Path;

fn start(repo: &Repo, binary: &Path, name: &str) -> Redis {
    Redis::start(binary, &repo.path(name), &["--repl-diskless-sync-delay", "0"])
}

#[test]
fn keys_are_listed_and_printed() {
    let repo = Repo::new();
    let redis = start(&repo, &apt_redis(), "redis");
    redis.fill(700);
    redis.fill_every_type();
    repo.ok(["backup", &redis.url()]);
    let listed = repo.ok(["ls", "latest:redis/0/", "ttl:1*"]);
    let expected = redis.cli(&["KEYS", "ttl:1*"]);
    let names = |text: &str| {
        let mut names: Vec<String> =
            text.lines().filter_map(|line| line.split_whitespace().next_back().map(str::to_owned)).collect();
        names.sort();
        names
    };
    assert_eq!(names(&listed), names(&expected));
    assert!(listed.lines().all(|line| line.starts_with("string ") && line.contains("20")), "{listed}");
    let key = repo.json(["ls", "latest:redis/15", "far"]);
    assert_eq!((&key["key"], &key["type"]), (&"far".into(), &"string".into()));
    assert!(key["expires"].is_string());
    assert_eq!(repo.ok(["ls", "latest:redis/0/", "nothing*"]), "");

    let dump = |key: &str| repo.ok(["dump", &format!("latest:redis/0/{key}")]);
    assert_eq!(dump("string:7"), "v7".repeat(20));
    assert_eq!(dump("number"), "-123456789");
    assert_eq!(dump("compressible"), "abc".repeat(50_000));
    assert_eq!(dump("list:8"), format!("[\"8\",\"b\",\"{}\"]\n", "x".repeat(100)));
    assert_eq!(dump("hash:3"), format!("{{\"f\":\"3\",\"g\":\"{}\"}}\n", "y".repeat(80)));
    assert_eq!(dump("set:9"), "[\"10\",\"9\",\"m9\"]\n");
    assert_eq!(dump("zset:4"), format!("[[\"a\",4.0],[\"b\",{}]]\n", 4.0 / 3.0));
    assert_eq!(dump("stream:5"), "[{\"fields\":[[\"field\",\"5\"]],\"id\":\"1-1\"}]\n");
    let stream: serde_json::Value = serde_json::from_str(&dump("grouped")).unwrap();
    assert_eq!(stream.as_array().unwrap().len(), 299);
    let list: serde_json::Value = serde_json::from_str(&dump("long:list")).unwrap();
    assert_eq!(list[2999], "node3000".repeat(10));
    assert!(repo.fails(1, ["dump", "latest:redis/0/none"]).contains("redis/0/none"));
}

#[test]
fn chosen_keys_go_into_a_live_server() {
    let repo = Repo::new();
    let redis = start(&repo, &apt_redis(), "redis");
    redis.fill(7000);
    repo.ok(["backup", &redis.url()]);
    let target = start(&repo, &apt_redis(), "target");
    let restore = |more: &[&str]| {
        let url = target.url();
        let mut args = vec!["restore", "latest", "--to", &url];
        args.extend(more);
        repo.json(args)
    };
    let dry = restore(&["--include", "hash:1*", "--db", "0", "--dry-run"]);
    assert_eq!(target.cli(&["DBSIZE"]).trim(), "0");
    let done = restore(&["--include", "hash:1*", "--db", "0"]);
    assert_eq!(dry["keys_restored"], done["keys_restored"]);
    let count = redis.cli(&["EVAL", "return #redis.call('KEYS', 'hash:1*')", "0"]);
    assert_eq!(done["keys_restored"].to_string(), count.trim());
    assert_eq!(target.cli(&["DBSIZE"]).trim(), count.trim());
    assert_eq!(target.cli(&["HGET", "hash:10", "g"]), redis.cli(&["HGET", "hash:10", "g"]));

    // What is there is not overwritten unasked.
    target.cli(&["HSET", "hash:10", "f", "mine"]);
    let url = target.url();
    let refused = repo.fails(3, ["restore", "latest:redis/0", "--to", &url, "--include", "hash:10"]);
    assert!(refused.contains("hash:10") && refused.contains("--replace"), "{refused}");
    assert_eq!(restore(&["--include", "hash:10", "--db", "0", "--skip-existing"])["keys_existing"], 1);
    assert_eq!(target.cli(&["HGET", "hash:10", "f"]).trim(), "mine");
    restore(&["--include", "hash:10", "--db", "0", "--replace"]);
    assert_eq!(target.cli(&["HGET", "hash:10", "f"]).trim(), "10");

    // Other names, another database, one key by its place, a database of its own, names from a file.
    restore(&["--include", "ttl:6", "--db", "0", "--map-prefix", "ttl:=old:ttl:"]);
    let ttl: u64 = target.cli(&["TTL", "old:ttl:6"]).trim().parse().unwrap();
    assert!((99_000..=100_000).contains(&ttl));
    let into = format!("{}/9", target.url());
    repo.ok(["restore", "latest:redis/0/string:7", "--to", &into]);
    assert_eq!(target.cli(&["-n", "9", "GET", "string:7"]).trim(), "v7".repeat(20));
    restore(&["--db", "3"]);
    assert_eq!(target.cli(&["-n", "3", "DBSIZE"]), redis.cli(&["-n", "3", "DBSIZE"]));
    std::fs::write(repo.path("names"), "set:2\nset:9\n").unwrap();
    assert_eq!(restore(&["--keys-from", "names", "--db", "0"])["keys_restored"], 2);
}

#[test]
fn a_dump_in_the_order_it_came_gives_single_keys_too() {
    let repo = Repo::new();
    let redis = start(&repo, &apt_redis(), "redis");
    redis.fill(3000);
    repo.ok(["-o", "redis.order=raw", "backup", &redis.url()]);
    assert_eq!(repo.json(["snapshots"])[0]["sources"][0]["details"]["order"], "raw");
    let target = start(&repo, &apt_redis(), "target");
    assert_eq!(
        repo.json(["restore", "latest", "--to", &target.url(), "--include", "set:*"])["keys_existing"],
        0
    );
    assert_eq!(target.cli(&["SCARD", "set:9"]).trim(), "3");
    assert_eq!(repo.ok(["dump", "latest:redis/0/string:7"]), "v7".repeat(20));
    repo.ok(["backup", &redis.url()]);
    let diff = repo.ok(["diff", "latest~1", "latest"]);
    assert!(diff.contains("0 added, 0 removed, 0 changed"), "{diff}");
}

#[test]
fn a_dump_of_a_new_server_goes_into_an_old_one_as_far_as_that_knows_the_types() {
    let repo = Repo::new();
    let new = start(&repo, &server("redis-8"), "new");
    new.fill(700);
    new.fill_every_type();
    repo.ok(["backup", &new.url()]);
    let old = start(&repo, &apt_redis(), "old");
    let text = repo.fails(3, ["restore", "latest", "--to", &old.url()]);
    assert!(text.contains("vectors") && text.contains("older than the type"), "{text}");
    assert_eq!(old.cli(&["GET", "string:7"]).trim(), "v7".repeat(20));
    for question in [
        &["SCARD", "table:set"][..],
        &["XLEN", "grouped"],
        &["XPENDING", "grouped", "workers"],
        &["SCARD", "set:9"],
    ] {
        assert_eq!(old.cli(question), new.cli(question), "{question:?}");
    }
    // Two hashes with fields that expire, and the vectors.
    let missing: i64 = new.cli(&["DBSIZE"]).trim().parse::<i64>().unwrap()
        - old.cli(&["DBSIZE"]).trim().parse::<i64>().unwrap();
    assert_eq!(missing, 3);
}

#[test]
fn a_whole_server_there_and_back() {
    let repo = Repo::new();
    let redis = start(&repo, &apt_redis(), "redis");
    redis.fill(2000);
    redis.fill_every_type();
    repo.ok(["backup", &redis.url()]);
    let first = redis.digest();
    redis.cli(&["FLUSHALL"]);
    redis.cli(&["SET", "what", "came later"]);
    let second = redis.digest();
    let url = redis.url();

    // Nothing happens unasked.
    let output = repo.run(["restore", "latest", "--to", &url, "--whole"]);
    let plan = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{plan}");
    for step in ["tagged 'safety'", "FLUSHALL: remove 1 key ", "load 20", "compare every key", "--yes"] {
        assert!(plan.contains(step), "{step}: {plan}");
    }
    repo.ok(["restore", "latest", "--to", &url, "--whole", "--dry-run"]);
    assert_eq!(redis.digest(), second);
    assert_eq!(repo.snapshot_count(), 1);

    let done = repo.json(["restore", "latest", "--to", &url, "--whole", "--yes"]);
    assert_eq!((&done["keys_different"], &done["functions_restored"]), (&0.into(), &1.into()), "{done}");
    assert_eq!(redis.digest(), first);
    let safety = done["safety_snapshot_id"].as_str().unwrap();
    assert_eq!(repo.json(["snapshots"])[1]["tags"][0], "safety");

    // Undone, and done again.
    repo.ok(["restore", safety, "--to", &url, "--whole", "--yes"]);
    assert_eq!(redis.digest(), second);
    repo.ok(["restore", "latest", "--to", &url, "--whole", "--yes"]);
    assert_eq!(redis.digest(), first);
}

#[test]
fn servers_that_cannot_be_restored_into() {
    let repo = Repo::new();
    let redis = start(&repo, &apt_redis(), "redis");
    redis.fill(100);
    repo.ok(["backup", &redis.url()]);
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    assert!(repo.fails(25, ["restore", "latest", "--to", &nobody]).contains("refused"));
    assert!(repo.fails(2, ["restore", "latest", "--to", "http://h"]).contains("redis://"));
    let full = Redis::start(&apt_redis(), &repo.path("full"), &["--maxmemory", "1"]);
    assert!(repo.fails(25, ["restore", "latest", "--to", &full.url()]).contains("maxmemory"));
    std::fs::write(repo.path("f"), "x").unwrap();
    let file = repo.json(["backup", "f"])["snapshot_id"].as_str().unwrap().to_owned();
    assert!(repo.fails(1, ["restore", &file, "--to", &redis.url()]).contains("no Redis dump"));
}

/// A server that writes append-only files, with a base and commands after it.
fn with_aof(repo: &Repo, binary: &Path) -> Redis {
    let redis = Redis::start(binary, &repo.path("redis"), &["--appendonly", "yes", "--appendfsync", "no"]);
    redis.fill(3000);
    redis.fill_every_type();
    redis.cli(&["BGREWRITEAOF"]);
    wait_for("rewritten", 20, || {
        let info = redis.cli(&["INFO", "persistence"]);
        info.contains("aof_rewrite_in_progress:0")
            && info.contains("aof_last_bgrewrite_status:ok")
            && !info.contains("aof_rewrite_scheduled:1")
    });
    redis.cli(&["SET", "after", "the base"]);
    redis.cli(&[
        "EVAL",
        "redis.call('SET', 'both', 1) redis.call('RPUSH', 'long:list', 'more') return 1",
        "0",
    ]);
    redis
}

#[test]
fn append_only_files_in_both_layouts() {
    for (binary, source) in
        [(apt_redis(), "redis/appendonlydir"), (server("redis-6.2"), "redis/appendonly.aof")]
    {
        let repo = Repo::new();
        let redis = with_aof(&repo, &binary);
        let url = format!("redis+aof://{}", repo.path(source).display());
        repo.ok(["backup", &url]);
        // A command that is not whole yet is left out.
        let newest = std::fs::read_dir(repo.path("redis/appendonlydir")).ok().map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.path())
                .find(|path| path.to_string_lossy().ends_with(".incr.aof"))
                .unwrap()
        });
        let file = newest.unwrap_or_else(|| repo.path(source));
        let torn = std::fs::OpenOptions::new().append(true).open(&file).unwrap();
        std::io::Write::write_all(&mut &torn, b"*3\r\n$3\r\nSET\r\n$1\r\nx").unwrap();
        repo.ok(["backup", &url]);
        let details = &repo.json(["snapshots"])[1]["sources"][0]["details"];
        assert_eq!(details["torn-bytes"], "18", "{details}");
        repo.ok(["restore", "latest:redis/files", "--target", "out"]);
        let loaded = Redis::start(&binary, &repo.path("out"), &["--appendonly", "yes"]);
        assert_eq!(loaded.digest(), redis.digest());
        if binary != apt_redis() {
            continue;
        }
        // Into a live server, with and without what came after the base.
        let empty = Redis::start(&binary, &repo.path("empty"), &["--repl-diskless-sync-delay", "0"]);
        let done = repo.json(["restore", "latest", "--to", &empty.url(), "--whole"]);
        assert!(done["commands_replayed"].as_u64().unwrap() >= 3, "{done}");
        assert_eq!(empty.digest(), redis.digest());
        let base = Redis::start(&binary, &repo.path("base"), &["--repl-diskless-sync-delay", "0"]);
        repo.ok(["restore", "latest", "--to", &base.url(), "--whole", "--base-only"]);
        assert_eq!(base.cli(&["EXISTS", "after", "string:7"]).trim(), "1");
        // Damage in the middle is not a torn end.
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[3] = b'?';
        std::fs::write(&file, bytes).unwrap();
        assert!(repo.fails(21, ["backup", &url]).contains("corrupt append-only file"));
    }
}

#[test]
fn dumps_in_files_are_checked() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--dbfilename", "dump.rdb"]);
    redis.fill(3000);
    redis.cli(&["SAVE"]);
    let path = repo.path("redis/dump.rdb");
    let url = format!("redis+rdb://{}", path.display());
    repo.ok(["backup", &url]);
    let empty = start(&repo, &apt_redis(), "empty");
    repo.ok(["restore", "latest", "--to", &empty.url(), "--whole"]);
    assert_eq!(empty.digest(), redis.digest());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(repo.fails(21, ["backup", &url]).contains("corrupt RDB: at byte"));
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    std::fs::write(&path, flipped).unwrap();
    repo.fails(21, ["backup", &url]);
    std::fs::remove_file(&path).unwrap();
    repo.fails(1, ["backup", &url]);
    assert_eq!(repo.snapshot_count(), 1);
}

#[test]
fn a_version_that_nobody_knows_is_stored_as_it_came() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--rdbchecksum", "no"]);
    redis.fill(500);
    redis.cli(&["SAVE"]);
    let path = repo.path("redis/dump.rdb");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..9].copy_from_slice(b"REDIS0099");
    std::fs::write(&path, &bytes).unwrap();
    repo.ok(["backup", &format!("redis+rdb://{}", path.display())]);
    let details = &repo.json(["snapshots"])[0]["sources"][0]["details"];
    assert_eq!((&details["order"], &details["format"]), (&"raw".into(), &"REDIS0099".into()));
    assert!(details["why"].as_str().unwrap().contains("does not know"), "{details}");
    assert!(repo.run(["dump", "latest", "redis/files/dump.rdb"]).stdout == bytes);
}

#[test]
fn uses_come_back() {
    let repo = Repo::new();
    // Without decay: a minute that ends between two readings would change the value that the test compares.
    let args = [
        "--repl-diskless-sync-delay",
        "0",
        "--maxmemory-policy",
        "allkeys-lfu",
        "--maxmemory",
        "1gb",
        "--lfu-decay-time",
        "0",
    ];
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &args);
    redis.fill(700);
    redis.cli(&["CONFIG", "SET", "lfu-log-factor", "0"]);
    for _ in 0..30 {
        redis.cli(&["GET", "string:7"]);
    }
    let frequency =
        |redis: &Redis, key: &str| redis.cli(&["OBJECT", "FREQ", key]).trim().parse::<u32>().unwrap();
    let used = frequency(&redis, "string:7");
    assert!(used > 20, "{used}");
    repo.ok(["backup", &redis.url()]);
    assert!(repo.ok(["ls", "latest"]).contains("dump.rdb.usage"));
    // Uses change; the dump does not.
    redis.cli(&["GET", "string:14"]);
    repo.ok(["backup", &redis.url()]);
    let target = Redis::start(&apt_redis(), &repo.path("target"), &args);
    repo.ok(["restore", "latest", "--to", &target.url(), "--db", "0", "--include", "string:*"]);
    assert_eq!(frequency(&target, "string:7"), used);
    assert!(frequency(&target, "string:21") < 10);
}
