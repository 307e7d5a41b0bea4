//! Users' own assertions of what a drill restored: met, not met, refused; mistakes that `config check` finds; and no secret of
//! theirs in a report.

use crate::harness::{Repo, expect};
use crate::pg::Postgres;
use crate::redis::{Redis, apt_redis};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;

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
"#;

const MET: &str = r#"
[[assertion]]
source = "cache"
name = "keys"
redis = "DBSIZE"
expect = ">= 3"

[[assertion]]
source = "cache"
name = "password of the day"
redis = "GET 'the secret'"
expect = "hunter2"

[[assertion]]
source = "shop"
name = "orders"
sql = "SELECT count(*) FROM orders WHERE note <> 'hunter2'"
expect = 500

[[assertion]]
source = "shop"
name = "server"
sql = "SHOW server_encoding"
database = "postgres"
expect = "!= SQL_ASCII"

[[assertion]]
source = "shop"
name = "program"
command = ["sh", "-c", "case $ESKER_SCRATCH_URL in postgres://*) ;; *) exit 1; esac"]

[[assertion]]
source = "files"
name = "size"
command = ["sh", "-c", "test -d \"$ESKER_SCRATCH_FOLDER\" && find . -name noise | wc -l"]
expect = "1"
"#;

/// Name of the assertion, and what is written instead of what is right.
const NOT_MET: &[(&str, &str, &str)] = &[
    (">= 3", "< 3", "keys: expected < 3, found 3"),
    ("\"hunter2\"\n", "\"hunter3\"\n", "password of the day: expected a text, found another text"),
    ("GET 'the", "HGETALL 'the", "password of the day: expected a text, found refused (WRONGTYPE)"),
    ("expect = 500", "expect = 501", "orders: expected 501, found 500"),
    ("FROM orders", "FROM hunter2", "orders: expected 500, found refused (42P01)"),
    (
        "database = \"postgres\"",
        "database = \"hunter2\"",
        "server: expected != a text, found refused (3D000)",
    ),
    (
        "SELECT count(*)",
        "SELECT 1, note",
        "orders: expected 500, found the answer has 500 rows: ask for one value",
    ),
    (
        "case $ESKER",
        "exit 7 # hunter2 case $ESKER",
        "program: expected done, found the command failed: exit status: 7",
    ),
    ("-name noise", "-name hunter2", "size: expected 1, found 0"),
];

#[test]
fn assertions_are_asked_of_what_was_restored_and_tell_no_secret() {
    let servers = Repo::empty();
    let redis = Redis::start(&apt_redis(), &servers.path("redis"), &[]);
    redis.cli(&["MSET", "the secret", "hunter2", "a", "1", "b", "2"]);
    let postgres = Postgres::start(&servers);
    postgres.sql("postgres", "create database shop");
    postgres.sql("shop", "create table orders as select i, md5(i::text) note from generate_series(1, 500) i");
    let toml = format!("{TOML}{MET}");
    let toml = toml.replace("REDIS", &redis.url()).replace("POSTGRES", &format!("{}/shop", postgres.url()));
    let repo = Repo::with_tiers(&toml, &[], true);
    std::fs::set_permissions(repo.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let folder = repo.path("drills").display().to_string();
    let repo = repo.with("ESKER_SCRATCH_DIR", &folder);
    std::fs::create_dir(repo.path("data")).unwrap();
    std::fs::write(repo.path("data/noise"), "noise").unwrap();
    repo.ok(["run"]);
    repo.ok(["config", "check"]);
    let drill = |code: i32| -> Value {
        let output = repo.run(["--json", "drill"]);
        let said = expect(&output, code);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("hunter") && !told.contains("hunter"), "{said}\n{told}");
        serde_json::from_str(said.lines().last().unwrap()).unwrap()
    };
    let passed = drill(0);
    let all =
        passed["drills"].as_array().unwrap().iter().flat_map(|one| one["assertions"].as_array().unwrap());
    let names: Vec<&str> = all.map(|one| one["name"].as_str().unwrap()).collect();
    for name in ["keys", "password of the day", "orders", "server", "program", "size"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let path = repo.path("esker.toml");
    let sound = std::fs::read_to_string(&path).unwrap();
    for (from, to, failure) in NOT_MET {
        assert!(sound.contains(from), "{from}");
        std::fs::write(&path, sound.replace(from, to)).unwrap();
        let failed = drill(24);
        let drills = failed["drills"].as_array().unwrap();
        let failures: Vec<&Value> =
            drills.iter().flat_map(|one| one["failures"].as_array().unwrap()).collect();
        assert_eq!(failures, [failure], "{to}");
    }
}

/// What is written into an assertion of `SELECT 1`, and what `config check` says of it.
const WRONG: &[(&str, &str, &str)] = &[
    ("SELECT 1", "SELCT 1", "begins with SELECT"),
    ("SELECT 1", "SELECT (1", "a bracket is not closed"),
    ("SELECT 1", "SELECT 'hunter2", "a quotation is not closed"),
    ("SELECT 1", "SELECT 1; SELECT 2", "more than one statement"),
    ("sql =", "sqll =", "unknown key 'sqll'"),
    ("sql =", "redis =", "servers that its source does not name"),
    ("sql =", "command = [\"x\"]\nsql =", "asks one thing"),
    ("\"1\"", "\"> many\"", "compares numbers"),
    ("\"1\"", "\"\"", "'expect' is a text that is not empty"),
    ("expect = \"1\"", "", "compared with 'expect'"),
    ("source = \"db\"\n", "", "needs 'source' and 'name'"),
    ("source = \"db\"\n", "source = \"none\"\n", "there is no source 'none'"),
    ("sql = \"SELECT 1\"", "command = \"x\"", "'command' is a list of words"),
];

#[test]
fn mistakes_in_assertions_are_found_by_their_line() {
    const SOUND: &str = "repository = \"/srv/repo\"\n[[source]]\nname = \"db\"\nurls = [\"postgres://h/x\"]\n\
        [[assertion]]\nname = \"a\"\nsource = \"db\"\nsql = \"SELECT 1\"\nexpect = \"1\"\n";
    let repo = Repo::with_tiers(SOUND, &[], false);
    repo.ok(["config", "check"]);
    for (from, to, said) in WRONG {
        let at = SOUND.rfind(from).unwrap();
        let text = format!("{}{to}{}", &SOUND[..at], &SOUND[at + from.len()..]);
        std::fs::write(repo.path("esker.toml"), text).unwrap();
        let output = repo.run(["config", "check"]);
        let told = [output.stdout, output.stderr].concat();
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(output.status.code() == Some(1) && told.contains(said), "{to}: {told}");
        assert!(!told.contains("hunter2"), "{told}");
    }
}
