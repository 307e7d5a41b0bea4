//! Keys go into a Redis that is in use: what was not asked for is the same byte for byte before and after.

use crate::harness::Repo;
use crate::redis::{Redis, apt_redis};
use std::collections::BTreeMap;

/// Each key of a database with a hash of its dump and its expiry.
const STATE: &str = "local all = {} for _, key in ipairs(redis.call('KEYS', '*')) do
    all[#all + 1] = key..' '..redis.sha1hex(redis.call('DUMP', key))..' '..redis.call('PEXPIRETIME', key) end return all";
const DATABASES: [&str; 5] = ["0", "3", "5", "9", "15"];

/// What a server holds: keys as `database/name`, and the functions.
fn state(redis: &Redis) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for database in DATABASES {
        for line in redis.cli(&["-n", database, "EVAL", STATE, "0"]).lines().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(' ').unwrap();
            assert!(all.insert(format!("{database}/{name}"), value.to_owned()).is_none());
        }
    }
    all.insert("functions".into(), redis.cli(&["FUNCTION", "LIST", "WITHCODE"]));
    all
}

/// The names of what differs.
fn differences(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let names = before.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

struct Stage {
    repo: Repo,
    redis: Redis,
}

impl Stage {
    /// A server that was backed up, and has gone on since: keys changed, added and removed, another function.
    fn set() -> Self {
        let repo = Repo::new();
        let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--repl-diskless-sync-delay", "0"]);
        redis.fill(700);
        for (database, name, value) in [
            ("0", "user:1", "one"),
            ("0", "user:2", "two"),
            ("0", "user:*", "a name that looks like a pattern"),
            ("0", "users", "not user:"),
            ("3", "user:1", "of three"),
            ("15", "user:1", "of fifteen"),
        ] {
            redis.cli(&["-n", database, "SET", name, value]);
        }
        let library = |number: u32| {
            let code = format!("#!lua name=l\nredis.register_function('f', function() return {number} end)");
            redis.cli(&["FUNCTION", "LOAD", "REPLACE", &code]);
        };
        library(1);
        repo.ok(["backup", &redis.url()]);
        library(2);
        for database in DATABASES {
            redis.cli(&["-n", database, "SET", "user:1", "changed since", "EX", "5000"]);
            redis.cli(&["-n", database, "SET", "new", "came since"]);
        }
        redis.cli(&["DEL", "user:2"]);
        redis.cli(&["SET", "old:user:1", "was there"]);
        redis.cli(&["HSET", "hash:3", "f", "changed since"]);
        Self { repo, redis }
    }

    /// Restores with these arguments, which must end with `code`; returns what is another than before.
    fn changed_by(&self, code: i32, snapshot: &str, database: &str, more: &[&str]) -> Vec<String> {
        let before = state(&self.redis);
        let url = format!("{}{database}", self.redis.url());
        let mut args = vec!["restore", snapshot, "--to", &url];
        args.extend(more);
        let output = self.repo.run(&args);
        crate::harness::expect(&output, code);
        differences(&before, &state(&self.redis))
    }
}

#[test]
fn nothing_but_what_was_asked_for_is_touched() {
    let stage = Stage::set();
    let none: [&str; 0] = [];
    // Kept, whether that is told or not; and nothing in a dry run.
    let chosen = ["--db", "0", "--include", "user:1"];
    assert_eq!(stage.changed_by(3, "latest", "", &chosen), none);
    assert_eq!(stage.changed_by(0, "latest", "", &[&chosen[..], &["--skip-existing"]].concat()), none);
    assert_eq!(stage.changed_by(0, "latest", "", &[&chosen[..], &["--replace", "--dry-run"]].concat()), none);
    // What is missing comes back, and its neighbours stay.
    assert_eq!(
        stage.changed_by(0, "latest", "", &["--db", "0", "--include", "user:*", "--skip-existing"]),
        ["0/user:2"]
    );
    // One key, one database, with the same name in others.
    assert_eq!(stage.changed_by(0, "latest:redis/0/user:1", "", &["--replace"]), ["0/user:1"]);
    assert_eq!(stage.redis.cli(&["GET", "user:1"]).trim(), "one");
    assert_eq!(stage.changed_by(0, "latest:redis/15", "", &["--replace"]), ["15/user:1"]);
    // Into another database.
    assert_eq!(stage.changed_by(0, "latest:redis/3/user:1", "/9", &["--replace"]), ["9/user:1"]);
    assert_eq!(stage.redis.cli(&["-n", "9", "GET", "user:1"]).trim(), "of three");
    // Other names: the names they had are left as they are.
    let renamed =
        ["--db", "0", "--include", "user:1", "--include", "user:2", "--map-prefix", "user:=old:user:"];
    assert_eq!(stage.changed_by(3, "latest", "", &renamed), ["0/old:user:2"]);
    assert_eq!(stage.redis.cli(&["GET", "old:user:1"]).trim(), "was there");
    assert_eq!(stage.changed_by(0, "latest", "", &[&renamed[..], &["--replace"]].concat()), ["0/old:user:1"]);
    // A pattern is one, and no beginning of a name; with a backslash it is a name.
    assert_eq!(
        stage.changed_by(0, "latest", "", &["--db", "0", "--include", "hash:3", "--replace"]),
        ["0/hash:3"]
    );
    stage.redis.cli(&["DEL", "user:*", "users"]);
    assert_eq!(stage.changed_by(0, "latest", "", &["--db", "0", "--include", r"user:\*"]), ["0/user:*"]);
}

#[test]
fn two_keys_are_not_written_to_one_name() {
    let stage = Stage::set();
    // user:1 of three databases, into one.
    for more in [&["--replace"][..], &["--skip-existing"], &[]] {
        stage.redis.cli(&["-n", "5", "FLUSHDB"]);
        let args = [&["--include", "user:1"], more].concat();
        assert_eq!(stage.changed_by(3, "latest", "/5", &args), ["5/user:1"], "{more:?}");
        assert_eq!(stage.redis.cli(&["-n", "5", "GET", "user:1"]).trim(), "one");
    }
    let url = format!("{}/5", stage.redis.url());
    let text = stage.repo.fails(3, ["restore", "latest", "--to", &url, "--include", "user:1", "--replace"]);
    assert!(text.contains("user:1") && text.contains("another key of this restore"), "{text}");
    // By other names.
    let args = ["--db", "0", "--include", "user:1", "--include", "user:2", "--replace"];
    let args = [&args[..], &["--map-prefix", "user:1=x", "--map-prefix", "user:2=x"]].concat();
    assert_eq!(stage.changed_by(3, "latest", "", &args), ["0/x"]);
    assert_eq!(stage.redis.cli(&["GET", "x"]).trim(), "one");
}

#[test]
fn what_no_key_answers_to_is_an_error() {
    let stage = Stage::set();
    let none: [&str; 0] = [];
    // A mistyped beginning would leave keys under their own names, over what is there.
    let mistyped = ["--map-prefix", "usr:=old:user:", "--replace"];
    assert_eq!(stage.changed_by(1, "latest", "", &mistyped), none);
    let one_of_two = ["--map-prefix", "user:=copy:", "--map-prefix", "usr:=x:", "--replace"];
    assert_eq!(stage.changed_by(1, "latest", "", &one_of_two), none);
    for nothing in [&["--include", "nosuch*"][..], &["--include", "nosuch"], &["--db", "7"]] {
        assert_eq!(stage.changed_by(1, "latest", "", nothing), none, "{nothing:?}");
    }
    assert_eq!(stage.changed_by(1, "latest:redis/0/nosuch", "", &[]), none);
    // What is there comes back, and the rest is named.
    let names = stage.repo.path("names");
    std::fs::write(&names, "user:2\nnosuch\n").unwrap();
    let some = ["--db", "0", "--keys-from", names.to_str().unwrap()];
    assert_eq!(stage.changed_by(3, "latest", "", &some), ["0/user:2"]);
    let url = stage.redis.url();
    let text = stage.repo.fails(1, ["restore", "latest", "--to", &url, "--include", "nosuch*"]);
    assert!(text.contains("nosuch*") && text.contains("no key"), "{text}");
}
