//! Dumps and append-only files of every layout: old versions without checksum, types of release candidates, types that
//! nobody knows, streams on standard input, commands without a dump.

use crate::harness::{Repo, expect, server, wait_for};
use crate::rdb_dumps::{DumpBytes, intset, listpack, string, ziplist};
use crate::redis::{Redis, apt_redis};
use serde_json::Value;
use std::path::Path;

/// A server that loads a dump as it starts.
fn loaded(binary: &Path, repo: &Repo, name: &str, dump: &[u8]) -> Redis {
    std::fs::create_dir_all(repo.path(name)).unwrap();
    std::fs::write(repo.path(name).join("dump.rdb"), dump).unwrap();
    let redis = empty(binary, repo, name);
    wait_for("loaded", 20, || redis.cli(&["INFO", "persistence"]).contains("\nloading:0"));
    redis
}

fn empty(binary: &Path, repo: &Repo, name: &str) -> Redis {
    Redis::start(binary, &repo.path(name), &["--repl-diskless-sync-delay", "0", "--dbfilename", "dump.rdb"])
}

fn details(repo: &Repo) -> Value {
    let all = repo.json(["snapshots"]);
    all.as_array().unwrap().last().unwrap()["sources"][0]["details"].clone()
}

/// What versions 1 to 4 have: no checksum, no database sizes, packed types from version 2 on.
fn old(version: u8) -> Vec<u8> {
    let dump = DumpBytes::new(&format!("REDIS000{version}"))
        .key(0, b"string", &string(b"value"))
        .key(0, b"number", b"\xc0\x7b")
        .raw(b"\xfd\xff\xff\xff\x7f")
        .key(0, b"expires", &string(b"late"))
        .key(1, b"list", &[&[2][..], &string(b"b"), &string(b"a")].concat())
        .key(2, b"set", &[&[2][..], &string(b"b"), &string(b"a")].concat())
        .key(3, b"zset", &[&[1][..], &string(b"m"), b"\x031.5"].concat())
        .key(4, b"hash", &[&[1][..], &string(b"f"), &string(b"v")].concat())
        .key(0, b"\xfe\x00\xff", &string(b"a name like opcodes\xff"));
    if version == 1 {
        return dump.finish();
    }
    dump.key(9, b"zipmap", &string(b"\x01\x01k\x02\x00vv\xff"))
        .key(10, b"ziplist", &string(&ziplist(&[b"a", b"b"])))
        .key(11, b"intset", &string(&intset(&[-1, 7])))
        .key(12, b"zset:ziplist", &string(&ziplist(&[b"m", b"2.5"])))
        .key(13, b"hash:ziplist", &string(&ziplist(&[b"f", b"v"])))
        .raw(b"\xfe\x05")
        .key(0, b"other", &string(b"database"))
        .finish()
}

#[test]
fn versions_without_checksum() {
    for version in 1..=4 {
        let repo = Repo::new();
        let dump = old(version);
        let path = repo.path("old.rdb");
        std::fs::write(&path, &dump).unwrap();
        let url = format!("redis+rdb://{}", path.display());
        let server = loaded(&apt_redis(), &repo, "server", &dump);
        repo.ok(["backup", &url]);
        let told = details(&repo);
        assert!(told["checksum"].as_str().unwrap().contains(&format!("version {version}")), "{told}");
        assert_eq!(told["order"], "canonical");
        let target = empty(&apt_redis(), &repo, "target");
        repo.ok(["restore", "latest", "--to", &target.url(), "--whole"]);
        assert_eq!(target.digest(), server.digest(), "version {version}");
        // What was laid down in order is a dump of that version.
        let ordered = repo.run(["dump", "latest", "redis/files/old.rdb"]).stdout;
        assert_eq!(loaded(&apt_redis(), &repo, "ordered", &ordered).digest(), server.digest());

        repo.ok(["-o", "redis.order=raw", "backup", &url]);
        assert!(repo.run(["dump", "latest", "redis/files/old.rdb"]).stdout == dump);
        let raw = empty(&apt_redis(), &repo, "raw");
        repo.ok(["restore", "latest", "--to", &raw.url()]);
        assert_eq!(raw.digest(), server.digest());

        // Cut anywhere, even behind a byte like the end mark, it is not whole; nor with something behind it.
        for order in ["canonical", "raw"] {
            let name = dump.windows(5).position(|bytes| bytes == b"codes").unwrap() + 6;
            for cut in [9, 30, name, dump.len() - 1] {
                std::fs::write(&path, &dump[..cut]).unwrap();
                repo.fails(21, ["-o", &format!("redis.order={order}"), "backup", &url]);
            }
            std::fs::write(&path, [&dump[..], b"\xff"].concat()).unwrap();
            repo.fails(21, ["-o", &format!("redis.order={order}"), "backup", &url]);
        }
        assert_eq!(repo.snapshot_count(), 2);
    }
}

#[test]
#[expect(clippy::big_endian_bytes, reason = "the RDB format writes long lengths big-endian")]
fn hashes_of_release_candidates() {
    let repo = Repo::new();
    let far = 4_000_000_000_000u64;
    let ttl = [&[0x81][..], &far.to_be_bytes()].concat();
    let table = [&[2][..], &ttl, &string(b"f"), &string(b"v"), &[0], &string(b"g"), &string(b"w")].concat();
    let pack = listpack(&[b"f", b"v"]);
    // A field, its value, and the moment as a number of 64 bits.
    let mut entries = pack[6..pack.len() - 1].to_vec();
    entries.push(0xf4);
    entries.extend_from_slice(&far.to_le_bytes());
    entries.push(9);
    let mut packed = vec![0; 6];
    packed.extend_from_slice(&entries);
    packed.push(0xff);
    let len = packed.len() as u32;
    packed[..4].copy_from_slice(&len.to_le_bytes());
    packed[4] = 3;
    let dump =
        DumpBytes::new("REDIS0012").key(22, b"table", &table).key(23, b"packed", &string(&packed)).finish();
    std::fs::write(repo.path("rc.rdb"), &dump).unwrap();
    let origin = loaded(&server("redis-8"), &repo, "server", &dump);
    repo.ok(["backup", &format!("redis+rdb://{}", repo.path("rc.rdb").display())]);
    let target = empty(&server("redis-8"), &repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url(), "--whole"]);
    for (key, fields) in [("table", &["2", "f", "g"][..]), ("packed", &["1", "f"])] {
        let mut args = vec!["HPEXPIRETIME", key, "FIELDS"];
        args.extend(fields);
        assert!(target.cli(&args).contains(&far.to_string()), "{key}");
        assert_eq!(target.cli(&args), origin.cli(&args));
    }
    assert_eq!(target.digest(), origin.digest());
    assert!(repo.ok(["dump", "latest:redis/0/table"]).contains("\"f\":"));
}

/// A hash of type 24 whose fields expire at these moments.
fn expiring(fields: &[(&[u8], u64)]) -> Vec<u8> {
    let first = fields.iter().map(|(_, ms)| *ms).min().unwrap();
    let mut out = [&first.to_le_bytes()[..], &[fields.len() as u8]].concat();
    for (name, ms) in fields {
        connector_redis::rdb::push_len(&mut out, ms - first + 1);
        out.extend_from_slice(&[string(name), string(b"v")].concat());
    }
    out
}

#[test]
fn fields_that_have_expired_are_no_difference() {
    let repo = Repo::new();
    let far = 4_000_000_000_000;
    let dump = DumpBytes::new("REDIS0012")
        .key(24, b"some", &expiring(&[(b"gone", 1_000), (b"stays", far)]))
        .key(24, b"all", &expiring(&[(b"gone", 1_000), (b"too", 2_000)]))
        .key(0, b"a", &string(b"b"))
        .finish();
    std::fs::write(repo.path("x.rdb"), &dump).unwrap();
    repo.ok(["backup", &format!("redis+rdb://{}", repo.path("x.rdb").display())]);
    let target = empty(&server("redis-8"), &repo, "target");
    let done = repo.json(["restore", "latest", "--to", &target.url(), "--whole"]);
    assert_eq!((&done["keys_different"], &done["keys_refused"]), (&0.into(), &0.into()), "{done}");
    assert_eq!(target.cli(&["HGET", "some", "stays"]).trim(), "v");
}

#[test]
fn types_that_nobody_knows_are_kept_as_they_came() {
    for (magic, kind) in
        [("REDIS0011", 6), ("REDIS0012", 26), ("REDIS0012", 99), ("VALKEY080", 24), ("REDIS0009", 241)]
    {
        let repo = Repo::new();
        let dump =
            DumpBytes::new(magic).key(0, b"a", &string(b"b")).key(kind, b"new", b"\x07unknown").finish();
        std::fs::write(repo.path("new.rdb"), &dump).unwrap();
        let url = format!("redis+rdb://{}", repo.path("new.rdb").display());
        for order in ["canonical", "raw"] {
            let told = repo.fails(3, ["-o", &format!("redis.order={order}"), "backup", &url]);
            assert!(told.contains(&format!("{kind:#04x}")) && told.contains("stored unchanged"), "{told}");
            assert!(repo.run(["dump", "latest", "redis/files/new.rdb"]).stdout == dump);
            assert_eq!(details(&repo)["order"], "raw");
            let told = repo.fails(1, ["dump", "latest:redis/0/other"]);
            assert!(told.contains("--target"), "{told}");
        }
    }
}

#[test]
fn a_dump_on_standard_input_is_a_dump_of_redis() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--dbfilename", "dump.rdb"]);
    redis.fill(700);
    redis.fill_every_type();
    redis.cli(&["SAVE"]);
    let bytes = std::fs::read(repo.path("redis/dump.rdb")).unwrap();
    for name in ["x.rdb", "dumps/of.tonight"] {
        let output = repo.feed(["backup", "--stdin", "--stdin-filename", name], &bytes);
        expect(&output, 0);
        assert_eq!(details(&repo)["format"], "rdb");
        assert!(repo.ok(["ls", "latest:redis/0/", "string:7"]).contains("string:7"));
        assert_eq!(repo.ok(["dump", "latest:redis/0/string:7"]), "v7".repeat(20));
        assert!(repo.ok(["find", "string:7"]).contains("redis/0/string:7"));
        for place in ["latest".to_owned(), format!("latest:{name}"), "latest:redis".to_owned()] {
            let target = empty(&apt_redis(), &repo, &format!("{}-{}", name.len(), place.len()));
            let whole: &[&str] = if place == "latest" { &["--whole"] } else { &[] };
            repo.ok([&["restore", &place, "--to", &target.url()][..], whole].concat());
            if place == "latest" {
                assert_eq!(target.digest(), redis.digest());
            } else {
                assert_eq!(target.cli(&["DBSIZE"]), redis.cli(&["DBSIZE"]));
            }
        }
    }
    redis.cli(&["SET", "string:8", "other"]);
    redis.cli(&["SAVE"]);
    let bytes = std::fs::read(repo.path("redis/dump.rdb")).unwrap();
    expect(&repo.feed(["backup", "--stdin", "--stdin-filename", "dumps/of.tonight"], &bytes), 0);
    let told = repo.ok(["diff", "latest~1", "latest"]);
    assert!(told.contains("1 added, 0 removed, 0 changed"), "{told}");
    // Of a version without checksum, only a look into it tells that it is cut.
    let dump = old(3);
    expect(&repo.feed(["backup", "--stdin", "--stdin-filename", "old"], &dump), 0);
    assert!(details(&repo)["checksum"].as_str().unwrap().contains("version 3"));
    let name = dump.windows(5).position(|bytes| bytes == b"codes").unwrap() + 6;
    expect(&repo.feed(["backup", "--stdin", "--stdin-filename", "old"], &dump[..name]), 21);
    // What only has the name of a dump is none.
    expect(&repo.feed(["backup", "--stdin", "--stdin-filename", "text.rdb"], b"no dump at all"), 0);
    let all = repo.json(["snapshots"]);
    let id = all.as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
    assert!(repo.fails(1, ["restore", &id, "--to", "redis://127.0.0.1:1"]).contains("no Redis dump"));
}

#[test]
fn a_dump_in_a_file_of_any_name() {
    use std::os::unix::ffi::OsStrExt as _;
    let repo = Repo::new();
    let dump = old(4);
    for name in [
        &b"dump.rdb.2026-11-25"[..],
        b"dump",
        b"x y%.rdb",
        b"bytes\xff.rdb",
        b"a.index",
        "日本.rdb".as_bytes(),
    ] {
        let path = repo.dir.path().join(std::ffi::OsStr::from_bytes(name));
        std::fs::write(&path, &dump).unwrap();
        let encoded: String = path.as_os_str().as_bytes().iter().map(|byte| format!("%{byte:02x}")).collect();
        let url = format!("redis+rdb:///{}", encoded.trim_start_matches("%2f"));
        repo.ok(["backup", &url]);
        assert!(repo.ok(["ls", "latest:redis/5/"]).contains("other"), "{name:?}");
        std::fs::remove_file(path).unwrap();
    }
}

/// A server with an append-only file of commands only, and some of each kind in it.
fn with_commands(repo: &Repo, binary: &Path, name: &str, more: &[&str]) -> Redis {
    let args =
        [&["--appendonly", "yes", "--appendfsync", "always", "--aof-use-rdb-preamble", "no"][..], more];
    let redis = Redis::start(binary, &repo.path(name), &args.concat());
    redis.fill(2000);
    redis.fill_every_type();
    redis.cli(&["BGREWRITEAOF"]);
    wait_for("rewritten", 20, || {
        let info = redis.cli(&["INFO", "persistence"]);
        info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
    });
    redis.cli(&["-n", "7", "SET", "after*1\r\n$4\r\nEXEC", "*3\r\n$3\r\nSET\r\n"]);
    redis.cli(&[
        "EVAL",
        "redis.call('SET', 'both', 1) redis.call('RPUSH', 'long:list', 'more') return 1",
        "0",
    ]);
    redis
}

#[test]
fn append_only_files_without_a_dump_at_their_head() {
    let blanks = ["--appendfilename", "my aof.aof", "--aof-timestamp-enabled", "yes"];
    for (binary, place, more) in [
        (apt_redis(), "redis/appendonlydir", &[][..]),
        (apt_redis(), "redis/appendonlydir", &blanks),
        (server("redis-6.2"), "redis/appendonly.aof", &[]),
    ] {
        let repo = Repo::new();
        let redis = with_commands(&repo, &binary, "redis", more);
        repo.ok(["backup", &format!("redis+aof://{}", repo.path(place).display())]);
        let target = empty(&binary, &repo, "target");
        let done = repo.json(["restore", "latest", "--to", &target.url()]);
        assert!(done["commands_replayed"].as_u64().unwrap() > 2000, "{done}");
        assert_eq!(done["commands_refused"], 0);
        assert_eq!(target.digest(), redis.digest());
        // Over what is there, only if asked.
        let url = target.url();
        assert!(repo.fails(1, ["restore", "latest", "--to", &url]).contains("--whole"));
        target.cli(&["SET", "what", "came later"]);
        repo.ok(["restore", "latest", "--to", &url, "--whole", "--yes", "--no-safety-snapshot"]);
        assert_eq!(target.digest(), redis.digest());
        // Single keys are not known.
        target.cli(&["FLUSHALL"]);
        for args in
            [&["latest", "--include", "string:7"][..], &["latest", "--db", "0"], &["latest:redis/0/string:7"]]
        {
            let told = repo.fails(1, [&["restore", "--to", &url][..], args].concat());
            assert!(told.contains("append-only file"), "{told}");
        }
        assert!(repo.fails(1, ["restore", "latest", "--to", &url, "--base-only"]).contains("no base"));
        assert!(repo.fails(1, ["ls", "latest:redis/0/"]).contains("append-only file"));
        assert_eq!(target.cli(&["DBSIZE"]).trim(), "0");
    }
}

#[test]
fn append_only_files_with_a_dump_at_their_head() {
    for (binary, place) in
        [(server("redis-6.2"), "redis/appendonly.aof"), (apt_redis(), "redis/appendonlydir")]
    {
        let repo = Repo::new();
        let redis = with_commands(&repo, &binary, "redis", &["--aof-use-rdb-preamble", "yes"]);
        repo.ok(["backup", &format!("redis+aof://{}", repo.path(place).display())]);
        let target = empty(&binary, &repo, "target");
        let url = target.url();
        // All of it, commands too, though it is not called --whole.
        repo.ok(["restore", "latest", "--to", &url]);
        assert_eq!(target.digest(), redis.digest());
        target.cli(&["FLUSHALL"]);
        repo.ok(["restore", "latest", "--to", &url, "--whole", "--yes"]);
        assert_eq!(target.digest(), redis.digest());
        target.cli(&["FLUSHALL"]);
        // Single keys of the base, if that is what is asked for.
        assert!(
            repo.fails(1, ["restore", "latest", "--to", &url, "--include", "long:list"])
                .contains("--base-only")
        );
        repo.ok(["restore", "latest", "--to", &url, "--include", "long:list", "--base-only"]);
        assert_eq!(target.cli(&["LLEN", "long:list"]).trim(), "3000");
    }
}

#[test]
fn commands_on_standard_input() {
    let repo = Repo::new();
    let commands = b"*2\r\n$6\r\nSELECT\r\n$1\r\n2\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
    expect(&repo.feed(["backup", "--stdin", "--stdin-filename", "x.aof"], commands), 0);
    let target = empty(&apt_redis(), &repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    assert_eq!(target.cli(&["-n", "2", "GET", "k"]).trim(), "v");
}

#[test]
fn streams_go_into_servers_of_every_age() {
    for newest in ["redis-8", "valkey-8"] {
        let repo = Repo::new();
        let new = empty(&server(newest), &repo, "new");
        new.fill(70);
        new.fill_every_type();
        new.cli(&["XGROUP", "CREATE", "only:groups", "g", "$", "MKSTREAM"]);
        new.cli(&["XDEL", "grouped", "1-1", "300-1"]);
        new.cli(&["XACK", "grouped", "workers", "3-1"]);
        new.cli(&["XGROUP", "CREATECONSUMER", "grouped", "workers", "idle"]);
        repo.ok(["backup", &new.url()]);
        for old in [server("redis-6.2"), apt_redis(), server(newest)] {
            let target = empty(&old, &repo, &format!("into-{}", old.file_name().unwrap().display()));
            let args =
                ["--include", "stream:*", "--include", "grouped", "--include", "only:groups", "--db", "0"];
            repo.ok([&["restore", "latest", "--to", &target.url()][..], &args].concat());
            for question in [
                &["XRANGE", "grouped", "-", "+"][..],
                &["XRANGE", "stream:5", "-", "+"],
                &["XPENDING", "grouped", "workers"],
                &["XPENDING", "grouped", "workers", "-", "+", "3", "alice"],
                &["XLEN", "only:groups"],
            ] {
                let (found, right) = (target.cli(question), new.cli(question));
                // How long an entry is idle goes on.
                let lines = |text: &str| {
                    let of_ids = question.len() > 3 && question[0] == "XPENDING";
                    let lines = text.lines().filter(|line| !of_ids || line.ends_with("-1"));
                    lines.map(str::to_owned).collect::<Vec<_>>()
                };
                assert_eq!(lines(&found), lines(&right), "{question:?} of {newest} in {}", old.display());
            }
            assert!(target.cli(&["XINFO", "STREAM", "grouped"]).contains("300-1"), "the last id is kept");
            for (key, groups) in [("grouped", "workers"), ("only:groups", "g")] {
                assert!(target.cli(&["XINFO", "GROUPS", key]).contains(groups));
            }
            assert!(target.cli(&["XINFO", "CONSUMERS", "grouped", "workers"]).contains("idle"));
        }
    }
}
