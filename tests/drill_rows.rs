//! Drills that count rows: what a program or the schema itself loses between the dump and the server is told by its table.

use crate::harness::{Repo, expect};
use crate::mariadb::Maria;
use crate::pg::{Postgres, as_postgres};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;

const TOML: &str = r#"
repository = "DIR/repo"

[[source]]
name = "shop"
urls = ["URL"]
"#;

/// A repository with one source, backed up; drills of root are another user's, and below its folder.
fn backed_up(url: &str) -> Repo {
    let repo = Repo::with_tiers(&TOML.replace("URL", url), &[], true);
    std::fs::set_permissions(repo.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let folder = repo.path("drills").display().to_string();
    let repo = repo.with("ESKER_SCRATCH_DIR", &folder);
    repo.ok(["run"]);
    repo
}

/// The only report of a drill.
fn report(command: &mut std::process::Command, code: i32) -> Value {
    let said = expect(&command.output().unwrap(), code);
    let summary: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let drills = summary["drills"].as_array().unwrap();
    assert_eq!(drills.len(), 1, "{said}");
    drills[0].clone()
}

/// What was counted: name, expected, found.
fn counted(report: &Value) -> Vec<[String; 3]> {
    let text = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
    let all = report["assertions"].as_array().unwrap().iter();
    all.map(|one| ["name", "expected", "found"].map(|field| text(one, field))).collect()
}

const MARIA: &str = "CREATE DATABASE shop; USE shop;
    CREATE TABLE orders (id int PRIMARY KEY, note varchar(40));
    INSERT INTO orders SELECT seq, concat('(', seq, '),(') FROM seq_1_to_5000;
    CREATE TABLE none (id int); CREATE SEQUENCE numbers; CREATE VIEW few AS SELECT * FROM orders WHERE id < 9;
    CREATE EVENT cleanup ON SCHEDULE EVERY 1 SECOND STARTS '2020-01-01 00:00:00' DO DELETE FROM shop.orders WHERE id = 1;
    CREATE DATABASE `sh/op`; CREATE TABLE `sh/op`.`od``d` (t text); INSERT INTO `sh/op`.`od``d` VALUES ('a'), ('b;');
    CREATE USER someone@localhost; GRANT PROXY ON ''@'%' TO someone@localhost WITH GRANT OPTION;";

#[test]
fn rows_of_mariadb_are_counted_and_a_lost_one_is_named() {
    let servers = Repo::empty();
    let maria = Maria::start(&servers, "maria");
    maria.root(MARIA);
    let repo = backed_up(&maria.url());
    let passed = report(&mut repo.command(["--json", "drill"]), 0);
    assert!(passed["server"].as_str().unwrap().starts_with("mariadbd 10."), "{passed}");
    let expected = [
        ["tables in database sh/op", "1"],
        ["rows of sh/op.od`d", "2"],
        ["tables in database shop", "3"],
        ["rows of shop.none", "0"],
        ["rows of shop.orders", "5000"],
    ];
    assert_eq!(counted(&passed), expected.map(|[name, count]| [name, count, count].map(str::to_owned)));
    // A client that loses a row.
    let bin = repo.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let client = bin.join("mariadb");
    std::fs::write(&client, "#!/bin/sh\nsed -u '/^(777,/d' | /usr/bin/mariadb \"$@\"\n").unwrap();
    std::fs::set_permissions(&client, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let lost = report(repo.command(["--json", "drill"]).env("PATH", path), 24);
    assert_eq!(
        lost["failures"].as_array().unwrap(),
        &["rows of shop.orders: expected 5000, found 4999"],
        "{lost}"
    );
    assert_eq!(std::fs::read_dir(repo.path("drills/esker-drills")).unwrap().count(), 0);
    assert_eq!(maria.root("SELECT count(*) FROM shop.orders"), "5000");
}

/// A schema whose own code removes a row while an index is made, after the rows are there.
const LOSES: &[&str] = &[
    "create table orders as select i from generate_series(1, 5000) i",
    "create table others (x int)",
    "insert into others values (1)",
    "create function lose() returns int language sql volatile as 'delete from public.orders where i = 777 returning 1'",
    "create function f(x int) returns int language plpgsql immutable as 'begin perform public.lose(); return x; end'",
];

#[test]
fn rows_of_postgres_are_counted_and_a_lost_one_is_named() {
    let servers = Repo::empty();
    let postgres = Postgres::start(&servers);
    postgres.sql("postgres", "create database shop");
    postgres.each("shop", LOSES);
    let repo = backed_up(&format!("{}/shop", postgres.url()));
    let passed = report(&mut repo.command(["--json", "drill"]), 0);
    let expected = [["rows of shop: public.orders", "5000"], ["rows of shop: public.others", "1"]];
    assert_eq!(counted(&passed), expected.map(|[name, count]| [name, count, count].map(str::to_owned)));
    postgres.each("shop", &["create index on others (f(x))", "insert into orders values (777)"]);
    assert_eq!(postgres.sql("shop", "select count(*) from orders"), "5000");
    repo.ok(["run"]);
    let lost = report(&mut repo.command(["--json", "drill"]), 24);
    let failures = lost["failures"].as_array().unwrap();
    assert_eq!(failures, &["rows of shop: public.orders: expected 5000, found 4999"], "{lost}");
}

#[test]
fn a_database_in_plain_sql_is_restored_and_asked() {
    let servers = Repo::empty();
    let postgres = Postgres::start(&servers);
    postgres.sql("postgres", "create database shop");
    postgres.sql("shop", "create table orders as select i from generate_series(1, 500) i");
    let toml = TOML.replace("URL", &postgres.url());
    let asked = "[[assertion]]\nsource = \"shop\"\nname = \"orders\"\nsql = \"SELECT count(*) FROM orders\"\nexpect = 500\n";
    let repo = Repo::with_tiers(&format!("{toml}\n{asked}"), &[], true);
    std::fs::set_permissions(repo.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let folder = repo.path("drills").display().to_string();
    let repo = repo.with("ESKER_SCRATCH_DIR", &folder);
    let run = ["run", "-o", "postgres.format=plain"];
    repo.ok(run);
    let passed = report(&mut repo.command(["--json", "drill"]), 0);
    assert_eq!(counted(&passed), [["orders", "500", "500"].map(str::to_owned)], "{passed}");
    // Its own tablespaces are outside of the drill's folder: it makes none.
    let place = postgres.home.join("place");
    let made = as_postgres(std::path::Path::new("mkdir"), &postgres.home).arg(&place).output().unwrap();
    expect(&made, 0);
    postgres.sql("postgres", &format!("create tablespace place location '{}'", place.display()));
    repo.ok(run);
    let refused = report(&mut repo.command(["--json", "drill"]), 24);
    let failure = refused["failures"][0].as_str().unwrap();
    assert!(failure.starts_with("plan: a dump in plain SQL names its tablespaces itself"), "{failure}");
}
