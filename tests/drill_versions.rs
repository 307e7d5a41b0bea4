//! Which server a drill of Redis or Valkey starts: the one that the dump is from, and none that is older.

use crate::drill_limits::{backed_up, failures};
use crate::harness::{Repo, expect, server};
use crate::redis::{Redis, apt_redis};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

const TOML: &str = r#"
repository = "DIR/repo"

[[source]]
name = "cache"
urls = ["REDIS"]
"#;

/// A folder with programs under other names; copies, since the user of scratch servers cannot reach every place.
fn programs(repo: &Repo, name: &str, all: &[(&Path, &str)]) -> String {
    let folder = repo.path(name);
    std::fs::create_dir(&folder).unwrap();
    for (binary, name) in all {
        let there = folder.join(name);
        std::fs::copy(binary, &there).unwrap();
        std::fs::set_permissions(there, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder.display().to_string()
}

/// A repository with the dump of a server that has one key.
fn of(binary: &Path, servers: &Repo) -> Repo {
    let redis = Redis::start(binary, &servers.path("redis"), &["--repl-diskless-sync-delay", "0"]);
    redis.cli(&["SET", "a", "1"]);
    backed_up(&TOML.replace("REDIS", &redis.url()))
}

/// The server of a drill that passes.
fn started(repo: &Repo, path: &str) -> String {
    let said = expect(&repo.command(["--json", "drill"]).env("PATH", path).output().unwrap(), 0);
    let summary: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    summary["drills"][0]["server"].as_str().unwrap().to_owned()
}

fn refused(repo: &Repo, path: &str) -> String {
    failures(repo.command(["--json", "drill"]).env("PATH", path)).join("; ")
}

#[test]
fn the_server_is_the_one_that_the_dump_is_from() {
    let servers = Repo::empty();
    let valkey = server("valkey-8");
    let repo = of(&valkey, &servers);
    let system = "/usr/bin:/bin";
    let seven = PathBuf::from("/usr/bin").join(apt_redis());
    let both = programs(&repo, "both", &[(&seven, "redis-server"), (&valkey, "valkey-server")]);
    let found = started(&repo, &both);
    assert!(found.starts_with("valkey-server 8."), "{found}");
    // Its format is one version newer than that of Redis 7.0.
    let said = refused(&repo, system);
    assert!(
        said.starts_with("start: redis-server 7.0.")
            && said.contains("knows the format REDIS0010, and Valkey 8.")
            && said.contains(
                "wrote REDIS0011: install the package valkey-server in that version or a later one"
            ),
        "{said}"
    );
    let said = refused(&repo, "/nowhere");
    assert!(
        said.contains("valkey-server and redis-server are not installed")
            && said.contains("install the package valkey-server"),
        "{said}"
    );
}

#[test]
fn an_older_server_is_refused_by_its_version() {
    let servers = Repo::empty();
    let eight = server("redis-8");
    let repo = of(&eight, &servers);
    let said = refused(&repo, "/usr/bin:/bin");
    assert!(
        said.contains("redis-server 7.0.")
            && said.contains("and Redis 8.")
            && said.contains("wrote REDIS0012: install the package redis-server"),
        "{said}"
    );
    let own = programs(&repo, "own", &[(&eight, "redis-server")]);
    let found = started(&repo, &own);
    assert!(found.starts_with("redis-server 8."), "{found}");
    // Valkey 9 has a format of its own, and knows Redis' up to 7.2.
    let nine = programs(&repo, "nine", &[(&server("valkey-9"), "valkey-server")]);
    let said = refused(&repo, &nine);
    assert!(said.contains("valkey-server 9.") && said.contains("install the package redis-server"), "{said}");
}
