//! What people choose of a Redis snapshot: a path names one database and one key, choices that contradict it are refused,
//! and a live stream is restored up to its end.

use crate::harness::{Repo, server};
use crate::redis::{Redis, apt_redis};

fn start(repo: &Repo, name: &str) -> Redis {
    Redis::start(&apt_redis(), &repo.path(name), &["--repl-diskless-sync-delay", "0"])
}

/// A snapshot of keys whose names are patterns, or look like the reversible form of others.
fn with_odd_names(repo: &Repo) -> Redis {
    let redis = start(repo, "redis");
    let keys = ["a*", "ab", "a b", "[ab]", "a?", "100%25", "plain"];
    redis.cli(&[&["MSET"][..], &keys.map(|key| [key, "snapshot"]).concat()].concat());
    redis.cli(&["EVAL", "redis.call('SET', 'k\\255', 'snapshot')", "0"]);
    redis.cli(&["-n", "3", "SET", "other", "snapshot"]);
    repo.ok(["backup", &redis.url()]);
    redis
}

#[test]
fn a_path_names_one_key_and_no_pattern() {
    let repo = Repo::new();
    let _redis = with_odd_names(&repo);
    let live = start(&repo, "live");
    let all = ["a*", "ab", "a b", "[ab]", "a?", "100%25", "plain"];
    for key in ["a*", "[ab]", "a?", "plain", "100%25"] {
        live.cli(&[&["MSET"][..], &all.map(|key| [key, "live"]).concat()].concat());
        let from = format!("latest:redis/0/{key}");
        let done = repo.json(["restore", &from, "--to", &live.url(), "--replace"]);
        assert_eq!(done["keys_restored"], 1, "{key}: {done}");
        let values = live.cli(&[&["MGET"][..], &all].concat());
        let expected: Vec<&str> = all.map(|other| if other == key { "snapshot" } else { "live" }).into();
        assert_eq!(values.lines().collect::<Vec<_>>(), expected, "{key}");
    }
    // The reversible form, as the messages of a restore have it.
    let done = repo.json(["restore", "latest:redis/0/k%FF", "--to", &live.url()]);
    assert_eq!((&done["keys_restored"], &done["missing"]), (&1.into(), &0.into()));
    assert_eq!(live.cli(&["EVAL", "return redis.call('GET', 'k\\255')", "0"]).trim(), "snapshot");
    let told = repo.fails(1, ["restore", "latest:redis/0/nosuch*", "--to", &live.url()]);
    assert!(told.contains("nosuch*") && told.contains("no key of the snapshot"), "{told}");
}

#[test]
fn choices_that_contradict_the_path_are_refused() {
    let repo = Repo::new();
    let _redis = with_odd_names(&repo);
    let live = start(&repo, "live");
    let refused = |from: &str, more: &[&str], word: &str| {
        let url = live.url();
        let told = repo.fails(1, [&["restore", from, "--to", &url][..], more].concat());
        assert!(told.contains(word), "{from} {more:?}: {told}");
        assert_eq!(live.cli(&["INFO", "keyspace"]).trim(), "# Keyspace", "{from} {more:?}");
    };
    std::fs::write(repo.path("names"), "plain\n").unwrap();
    refused("latest:redis/0", &["--db", "3"], "--db");
    refused("latest:redis/0/", &["--db", "3", "--replace"], "--db");
    refused("latest:redis/0/plain", &["--db", "77"], "--db");
    refused("latest:redis/0/plain", &["--include", "ab"], "--include");
    refused("latest:redis/0/plain", &["--keys-from", "names"], "--keys-from");
    refused("latest", &["--base-only"], "--base-only");
    refused("latest:redis/0/plain", &["--base-only"], "--base-only");
    repo.fails(
        2,
        ["restore", "latest", "--to", &live.url(), "--base-only", "--time", "2026-01-01T00:00:00Z"],
    );
    // What agrees is taken.
    let done = repo.json(["restore", "latest:redis/3/", "--db", "3", "--to", &live.url()]);
    assert_eq!(done["keys_restored"], 1);
    assert_eq!(live.cli(&["-n", "3", "GET", "other"]).trim(), "snapshot");
}

/// FLUSHALL comes after all that can be known before.
#[test]
fn a_server_that_cannot_hold_the_snapshot_keeps_its_own_data() {
    let repo = Repo::new();
    let whole = |snapshot: &str, url: &str, more: &[&str]| {
        repo.run([&["restore", snapshot, "--to", url, "--whole"][..], more].concat())
    };
    let told = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let new = Redis::start(&server("redis-8"), &repo.path("new"), &["--repl-diskless-sync-delay", "0"]);
    new.cli(&["HSET", "h", "f", "v"]);
    new.cli(&["HEXPIRE", "h", "10000", "FIELDS", "1", "f"]);
    new.cli(&["VADD", "vs", "VALUES", "3", "1", "2", "3", "el"]);
    new.cli(&["MSET", "plain", "x", "other", "y"]);
    let types = repo.json(["backup", &new.url()])["snapshot_id"].as_str().unwrap().to_owned();
    let old = start(&repo, "old");
    old.cli(&["MSET", "old1", "1", "old2", "2"]);
    for more in [&["-n"][..], &["--yes"]] {
        let output = whole(&types, &old.url(), more);
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        let told = told(&output);
        assert!(
            told.contains("1 of the module type 'vectorset'") && told.contains("1 of type hash"),
            "{told}"
        );
        assert_eq!(old.cli(&["DBSIZE"]).trim(), "2", "{more:?}");
    }
    // Whoever wants what it takes says so; where it is taken, it goes through.
    let output = whole(&types, &old.url(), &["--yes", "--unproven", "--no-safety-snapshot"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert_eq!(old.cli(&["GET", "plain"]).trim(), "x");
    new.cli(&["SET", "later", "z"]);
    let output = whole(&types, &new.url(), &["--yes", "--no-safety-snapshot"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(new.cli(&["DBSIZE"]).trim(), "4");

    // Memory, of values that a dump has compressed.
    let large = start(&repo, "large");
    large.cli(&["EVAL", "for i = 1, 30 do redis.call('SET', i, string.rep('x', 200000)) end", "0"]);
    let memory = repo.json(["backup", &large.url()])["snapshot_id"].as_str().unwrap().to_owned();
    let small = Redis::start(&apt_redis(), &repo.path("small"), &["--maxmemory", "4mb"]);
    small.cli(&["SET", "mine", "1"]);
    for more in [&["-n"][..], &["--yes", "--no-safety-snapshot"]] {
        let output = whole(&memory, &small.url(), more);
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        assert!(told(&output).contains("maxmemory"), "{}", told(&output));
        assert_eq!(small.cli(&["GET", "mine"]).trim(), "1");
    }
}

/// The questions change nothing, and concern all that is loaded.
#[test]
fn a_server_without_functions_or_databases_is_asked_and_not_changed() {
    let repo = Repo::new();
    let new = start(&repo, "new");
    new.cli(&["-n", "9", "SET", "far", "away"]);
    new.cli(&["RPUSH", "list", "a", "b"]);
    new.cli(&["SET", "gone", "x", "PX", "1"]);
    new.cli(&["FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', function() return 1 end)"]);
    repo.ok(["backup", &new.url()]);
    let more = ["--databases", "4", "--notify-keyspace-events", "KEA"];
    let old = Redis::start(&server("redis-6.2"), &repo.path("old"), &more);
    old.cli(&["MSET", "mine", "1", "list", "mine"]);
    let changes = || {
        let info = old.cli(&["INFO", "persistence"]);
        let line = info.lines().find(|line| line.starts_with("rdb_changes_since_last_save:"));
        (line.unwrap().trim().to_owned(), old.cli(&["INFO", "keyspace"]))
    };
    let before = changes();
    let told = repo.fails(1, ["restore", "latest", "--to", &old.url(), "--whole", "--dry-run"]);
    assert!(told.contains("no database 9") && told.contains("no functions"), "{told}");
    assert!(!told.contains("type list"), "an older encoding of it is taken: {told}");
    assert_eq!(changes(), before);
    let told = repo.fails(1, ["restore", "latest", "--to", &old.url(), "--whole", "--yes"]);
    assert!(told.contains("no database 9") && told.contains("is as it was"), "{told}");
    assert_eq!(changes(), before);
}

/// A restore of keys brings no functions: it says so, once, and so does its plan.
#[test]
fn function_libraries_that_stay_out_are_counted() {
    let repo = Repo::new();
    let new =
        |name: &str| Redis::start(&server("redis-8"), &repo.path(name), &["--repl-diskless-sync-delay", "0"]);
    let (redis, live) = (new("redis"), new("live"));
    redis.cli(&["MSET", "a", "1", "b", "2"]);
    repo.ok(["backup", &redis.url()]);
    for name in ["one", "two"] {
        let code = format!("#!lua name={name}\nredis.register_function('{name}', function() return 1 end)");
        redis.cli(&["FUNCTION", "LOAD", &code]);
    }
    let said = "2 function libraries of the dump";
    for order in ["canonical", "raw"] {
        repo.ok(["backup", &redis.url(), "-o", &format!("redis.order={order}")]);
        for from in ["latest", "latest:redis/0/a"] {
            let restore = ["restore", from, "--to", &live.url(), "--replace"];
            let dry = repo.ok(restore.iter().copied().chain(["--dry-run"]));
            assert_eq!(dry.matches(&format!("leave out {said}")).count(), 1, "{dry}");
            let done = repo.json(restore);
            assert_eq!(done["functions_left_out"], 2, "{done}");
            assert!(done["notes"].to_string().contains(&format!("left out {said}")), "{done}");
        }
        live.cli(&["FLUSHALL"]);
        let text = repo.ok(["restore", "latest", "--to", &live.url()]);
        assert_eq!(text.matches(&format!("left out {said}")).count(), 1, "{text}");
        assert_eq!(live.cli(&["FUNCTION", "LIST"]).trim(), "");
    }
    // None, nothing said; and all of a server has them.
    redis.cli(&["FUNCTION", "FLUSH"]);
    redis.cli(&["SET", "c", "3"]);
    repo.ok(["backup", &redis.url()]);
    let done = repo.json(["restore", "latest", "--to", &live.url(), "--replace"]);
    assert_eq!((&done["functions_left_out"], done.get("notes")), (&0.into(), None), "{done}");
}

/// The key without a name is `%` in a path, as elsewhere; one that is called `%` beside it is `%25`.
#[test]
fn the_key_without_a_name_has_a_path() {
    let repo = Repo::new();
    let redis = start(&repo, "redis");
    redis.cli(&["MSET", "", "nameless", "a", "plain"]);
    let live = start(&repo, "live");
    for order in ["canonical", "raw"] {
        repo.ok(["backup", &redis.url(), "-o", &format!("redis.order={order}")]);
        for path in ["latest:redis/0", "latest:redis/0/%"] {
            let listed = repo.ok(["ls", path]);
            assert!(listed.lines().any(|line| line.ends_with(" \"\"")), "{listed}");
            assert_eq!(listed.lines().any(|line| line.ends_with(" a")), path == "latest:redis/0", "{listed}");
        }
        assert_eq!(repo.ok(["dump", "latest:redis/0/%"]), "nameless");
        assert!(repo.ok(["find", "*"]).contains("/0/%"));
        for more in [&["latest:redis/0/%"][..], &["latest", "--include", ""]] {
            live.cli(&["FLUSHALL"]);
            let done = repo.json([&["restore", "--to", &live.url()][..], more].concat());
            assert_eq!(
                (&done["keys_restored"], &done["missing"]),
                (&1.into(), &0.into()),
                "{more:?}: {done}"
            );
            assert_eq!(live.cli(&["GET", ""]).trim(), "nameless");
        }
    }
    // Without it, `%` is the key of this name; beside it, `%25` is.
    redis.cli(&["SET", "%", "percent"]);
    let before = repo.json(["backup", &redis.url()])["snapshot_id"].as_str().unwrap().to_owned();
    redis.cli(&["SET", "", "another"]);
    repo.ok(["backup", &redis.url()]);
    assert_eq!(repo.ok(["dump", "latest:redis/0/%"]), "another");
    assert_eq!(repo.ok(["dump", "latest:redis/0/%25"]), "percent");
    assert!(repo.ok(["diff", "-v", &before, "latest"]).lines().any(|line| line.ends_with("/0/%")));
    redis.cli(&["DEL", ""]);
    repo.ok(["backup", &redis.url()]);
    assert_eq!(repo.ok(["dump", "latest:redis/0/%"]), "percent");
    let told = repo.fails(1, ["restore", "latest:redis/0/%00", "--to", &live.url()]);
    assert!(told.contains("no key of the snapshot"), "{told}");
}
