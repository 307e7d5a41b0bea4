//! The plan of a restore into a server: what a dry run prints is what the restore prints before it begins, for every system.

use crate::harness::{Repo, expect};
use crate::mariadb::Maria;
use crate::pg::Postgres;
use crate::qdrant_double::Qdrant;
use crate::redis::{Redis, apt_redis};

/// The lines of the plan that a restore printed.
fn printed(text: &str) -> Vec<&str> {
    let lines = text.lines().skip_while(|line| !line.starts_with("plan for "));
    lines.skip(1).take_while(|line| line.starts_with("  ")).collect()
}

fn steps(report: &serde_json::Value) -> Vec<String> {
    let plan = report["plan"].as_array().unwrap_or_else(|| panic!("a plan: {report}"));
    plan.iter().map(|step| step.as_str().unwrap().to_owned()).collect()
}

/// Restores twice, by the flags that replace what is there, and holds the plan of each against that of a dry run before it.
fn restores_as_planned(repo: &Repo, words: &[&str]) -> Vec<String> {
    let with = |more: &[&str]| {
        ["restore", "latest"]
            .iter()
            .chain(words)
            .chain(more)
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let dry = repo.run(with(&["-n"]));
    let dry = expect(&dry, 0);
    let plan = steps(&repo.json(with(&["-n"])));
    let done = repo.run(with(&[]));
    let done = expect(&done, 0);
    assert_eq!(printed(&dry), printed(&done));
    // Numbered, but for lines that belong to the one before.
    let mut number = 0;
    for (line, step) in printed(&dry).iter().zip(&plan) {
        if step.starts_with(' ') {
            assert_eq!(line.trim_start(), step.trim_start());
        } else {
            number += 1;
            assert_eq!(*line, format!("  {number}. {step}"));
        }
    }
    assert_eq!(printed(&dry).len(), plan.len());
    let again = steps(&repo.json(with(&["-n"])));
    assert_eq!(steps(&repo.json(with(&[]))), again);
    plan
}

/// That lines come in this order.
fn in_order(plan: &[String], words: &[&str]) {
    let mut rest = plan.iter();
    for word in words {
        assert!(rest.any(|line| line.contains(word)), "{word}: {plan:#?}");
    }
}

#[test]
fn of_postgres() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.each("postgres", &["CREATE DATABASE shop", "CREATE DATABASE bare"]);
    server.sql("shop", "CREATE TABLE t AS SELECT 1 a; CREATE TABLE u AS SELECT 1 a");
    repo.ok(["backup", &format!("{}/shop", server.url())]);
    let into = |database: &str| format!("{}/{database}", server.url());
    let plan = restores_as_planned(&repo, &["--to", &into("shop"), "--replace"]);
    in_order(
        &plan,
        &[
            "create a database beside 'shop'",
            "database 'shop': beside the existing one, then switched",
            "rows of 2 tables",
            "end the sessions in 'shop', rename it to 'esker_replaced_",
            "drop the old database",
            "stays as it was: 'shop', if anything fails",
            "left over: nothing",
        ],
    );
    let plan = restores_as_planned(&repo, &["--to", &into("shop"), "--replace", "--table", "t"]);
    in_order(
        &plan,
        &["into the existing one", "drop public.t", "rows of 1 table)", "stays as it was: everything else"],
    );
    let fresh = repo.json(["restore", "latest", "--to", &into("fresh"), "-n"]);
    in_order(&steps(&fresh), &["create database 'fresh'", "database 'fresh': new", "dropped again"]);
    let bare = repo.json(["restore", "latest", "--to", &into("bare")]);
    in_order(
        &steps(&bare),
        &["database 'bare': into the existing one, which is empty", "--replace starts again"],
    );
    // What is refused has no plan, and nothing is written.
    let text = repo.fails(1, ["restore", "latest", "--to", &into("bare")]);
    assert!(text.contains("is not empty") && !text.contains("plan for"), "{text}");
}

#[test]
fn of_mariadb() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE live; CREATE TABLE live.t (a int); CREATE TABLE live.u (a int); CREATE VIEW live.v AS SELECT a FROM live.t; CREATE DATABASE bare");
    repo.ok(["backup", &format!("{}/live", server.url())]);
    let into = |database: &str| format!("{}/{database}", server.url());
    let plan = restores_as_planned(&repo, &["--to", &into("live"), "--replace"]);
    in_order(
        &plan,
        &[
            "database 'live': beside the existing one, then switched",
            "read 2 tables of 'live' into a new database, 'live.esker-new'",
            "move the existing tables to 'live.esker-old'",
            "drop what was there: 3 tables and views, 0 routines and events",
            "stays as it was: 'live', if anything fails",
            "left over: nothing; after a failure 'live.esker-new'",
            "make 1 view ",
        ],
    );
    let plan = restores_as_planned(&repo, &["--to", &into("live"), "--replace", "--table", "t"]);
    in_order(&plan, &["then switched", "tables t", "drop the tables", "stays as it was: every other table"]);
    let fresh = repo.json(["restore", "latest", "--to", &into("fresh"), "-n"]);
    in_order(&steps(&fresh), &["database 'fresh': new", "an incomplete database, if it fails"]);
    let bare = repo.json(["restore", "latest", "--to", &into("bare")]);
    in_order(&steps(&bare), &["database 'bare': into the existing one, which is empty"]);
}

#[test]
fn of_redis() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--repl-diskless-sync-delay", "0"]);
    redis.cli(&["MSET", "a:1", "1", "a:2", "2", "b", "3"]);
    let url = redis.url();
    repo.ok(["backup", &url]);
    redis.cli(&["SET", "later", "4"]);
    let whole = ["--to", &url, "--whole", "--yes", "--no-safety-snapshot"];
    let plan = restores_as_planned(&repo, &whole);
    in_order(
        &plan,
        &[
            "in place, after a proof",
            "read all",
            "remove 4 keys of 1 database",
            "load 3 keys",
            "no safety snapshot",
        ],
    );
    let saving = repo.json(["restore", "latest", "--to", &url, "--whole", "-n"]);
    in_order(&steps(&saving), &["tagged 'safety'", "left over: the safety snapshot"]);
    let unproven = repo.json(["restore", "latest", "--to", &url, "--whole", "-n", "--unproven"]);
    in_order(&steps(&unproven), &["in place, without a proof"]);
    let plan = restores_as_planned(&repo, &["--to", &url, "--include", "a:*", "--db", "0", "--replace"]);
    in_order(&plan, &["keys 'a:*', database 0: in place, after a proof", "stays as it was: every other key"]);
    let plan = restores_as_planned(&repo, &["--to", &url, "--include", "b", "--db", "0", "--skip-existing"]);
    in_order(&plan, &["keys 'b', database 0: into the existing one", "those of these names that are there"]);
}

#[test]
fn of_qdrant() {
    let repo = Repo::new();
    let server = Qdrant::start(&repo.path("server"), None);
    server.client("fill('one', 40, size=4, shard_number=2); fill('two', 5, size=4); alias(now='one')");
    let url = server.url();
    repo.ok(["backup", &url]);
    let plan = restores_as_planned(&repo, &["--to", &url, "--replace", "--include", "one"]);
    in_order(
        &plan,
        &[
            "collection 'one': in place, after a proof",
            "2 shards with 40 points into a new collection, 'one.esker-1'",
            "remove 'one' and its 40 points",
            "remove 'one.esker-1'",
            "set alias 'now'",
            "stays as it was: 'one', if anything fails before it is removed",
            "left over: nothing; after a later failure 'one.esker-1'",
        ],
    );
    let copy = repo.json(["restore", "latest", "--to", &format!("{url}/copy"), "--include", "two"]);
    in_order(&steps(&copy), &["collection 'copy': new", "1 shards of 'two' with 5 points"]);
}
