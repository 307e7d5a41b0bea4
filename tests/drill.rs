//! Drills: restores into scratch servers that are proved, timed and judged, and leave nothing behind.

use crate::harness::{Repo, free_port, noise, wait_for};
use crate::pg::Postgres;
use crate::redis::{Redis, apt_redis};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// A source of each kind.
const TOML: &str = r#"
repository = "DIR/repo"

[[source]]
name = "cache"
urls = ["REDIS"]

[[source]]
name = "shop"
urls = ["POSTGRES"]

[[source]]
name = "files"
urls = ["DIR/data"]

[[objective]]
source = "cache"
rto = "2m"
rpo = "1h"
"#;

/// Processes that work below a folder.
fn at_work(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers =
        all.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
    let here = numbers.filter(|entry| {
        std::fs::read_link(entry.path().join("cwd")).is_ok_and(|place| place.starts_with(folder))
    });
    here.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

struct World {
    repo: Repo,
    redis: Redis,
    _postgres: Postgres,
    /// The folders of both.
    _servers: Repo,
}

impl World {
    /// Three sources, backed up.
    fn new() -> Self {
        let servers = Repo::empty();
        let redis = Redis::start(&apt_redis(), &servers.path("redis"), &["--repl-diskless-sync-delay", "0"]);
        redis.fill(3000);
        let postgres = Postgres::start(&servers);
        postgres.sql("postgres", "create database shop");
        postgres.sql(
            "shop",
            "create table orders as select i, md5(i::text) note from generate_series(1, 5000) i",
        );
        let toml =
            TOML.replace("REDIS", &redis.url()).replace("POSTGRES", &format!("{}/shop", postgres.url()));
        let repo = Repo::with_tiers(&toml, &[], true);
        // Servers of root's drills are another user's.
        std::fs::set_permissions(repo.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let folder = repo.path("drills").display().to_string();
        let repo = repo.with("ESKER_SCRATCH_DIR", &folder);
        std::fs::create_dir(repo.path("data")).unwrap();
        std::fs::write(repo.path("data/noise"), noise(1, 3_000_000)).unwrap();
        repo.ok(["run"]);
        Self { repo, redis, _postgres: postgres, _servers: servers }
    }

    /// Where drills are.
    fn root(&self) -> PathBuf {
        self.repo.path("drills/esker-drills")
    }

    fn drill(&self, words: &[&str], code: i32) -> Vec<Value> {
        let output = self.repo.run([&["--json", "drill"], words].concat());
        let stdout = crate::harness::expect(&output, code);
        let report: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
        assert_eq!(report["passed"], code == 0);
        report["drills"].as_array().unwrap().clone()
    }
}

#[test]
fn drills_of_servers_and_files_pass_and_leave_nothing() {
    let world = World::new();
    let before = world.redis.digest();
    let all = world.drill(&[], 0);
    let systems: Vec<&str> = all.iter().map(|one| one["system"].as_str().unwrap()).collect();
    assert_eq!(systems, ["Redis", "PostgreSQL", "files"]);
    for one in &all {
        assert_eq!(one["schema"], "esker-drill-1");
        let phases: f64 =
            one["phases"].as_array().unwrap().iter().map(|phase| phase["seconds"].as_f64().unwrap()).sum();
        let seconds = one["seconds"].as_f64().unwrap();
        assert!((phases - seconds).abs() <= 0.05 * seconds, "{one}");
        let names: Vec<&str> =
            one["objectives"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["rto", "rpo"]);
        assert!(one["bytes"].as_u64().unwrap() > 0, "{one}");
    }
    assert!(all[0]["server"].as_str().unwrap().starts_with("redis-server 7."), "{}", all[0]);
    // Of keys that expire, how many are left depends on the clock; the restore has compared each.
    assert_eq!(all[0]["assertions"].as_array().map(Vec::len), Some(0));
    assert_eq!(all[2]["assertions"][0]["found"], "0", "{}", all[2]);
    assert!(all[1]["server"].as_str().unwrap().starts_with("postgres 15."), "{}", all[1]);
    // What is in use is as it was, and nothing is left.
    assert_eq!(world.redis.digest(), before);
    assert_eq!(at_work(&world.root()), Vec::<String>::new());
    assert_eq!(world.drill(&["files"], 0).len(), 1);
    let told = world.repo.ok(["drill", "cache"]);
    assert!(
        told.contains("cache (Redis): passed")
            && told.contains("recovery time")
            && !told.contains("redis://:"),
        "{told}"
    );
}

#[test]
fn what_is_damaged_late_or_missing_fails_with_24() {
    let world = World::new();
    let repo = &world.repo;
    let write = |from: &str, to: &str| {
        let path = repo.path("esker.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    };
    write("rto = \"2m\"", "rto = \"1ms\"");
    let late = world.drill(&["cache"], 24);
    assert!(late[0]["failures"][0].as_str().unwrap().contains("are promised"), "{late:?}");
    write("rto = \"1ms\"", "rto = \"2m\"");
    write("[[objective]]", "[[source]]\nname = \"none\"\nurls = [\"/nowhere\"]\n\n[[objective]]");
    let none = world.drill(&["none"], 24);
    assert!(none[0]["failures"][0].as_str().unwrap().contains("no snapshot of source 'none'"), "{none:?}");
    assert!(repo.fails(1, ["drill", "unknown"]).contains("there is no source 'unknown'"));
    // A program that is missing is named with what it comes in.
    let mut command = repo.command(["--json", "drill", "cache"]);
    let output = command.env("PATH", repo.path("nothing")).output().unwrap();
    let said = crate::harness::expect(&output, 24);
    assert!(
        said.contains("start: redis-server and") && said.contains("install the package redis-server"),
        "{said}"
    );
    // Every pack loses its middle, and its parity with it.
    for folder in std::fs::read_dir(repo.path("repo/packs")).unwrap().flatten() {
        for pack in std::fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            let mut bytes = std::fs::read(pack.path()).unwrap();
            let len = bytes.len();
            bytes[len / 4..len * 3 / 4].fill(0);
            std::fs::write(pack.path(), bytes).unwrap();
        }
    }
    for name in ["cache", "shop", "files"] {
        let damaged = world.drill(&[name], 24);
        assert!(!damaged[0]["failures"].as_array().unwrap().is_empty(), "{damaged:?}");
    }
    assert_eq!(at_work(&world.root()), Vec::<String>::new());
}

/// At any moment: the next drill finds what was left, and ends it.
#[test]
fn what_a_killed_drill_leaves_the_next_one_removes() {
    let world = World::new();
    let mut moment = free_port();
    for round in 0..10 {
        moment = moment.wrapping_mul(31_821).wrapping_add(13_849);
        let mut child = world.repo.command(["drill", ["cache", "shop"][round % 2]]);
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(u64::from(moment) % 1500));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    world.drill(&["files"], 0);
    let root = world.root();
    wait_for("the end of all", 20, || at_work(&root).is_empty());
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0);
}
