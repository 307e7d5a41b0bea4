//! What a PostgreSQL server may lack, or have already, is found before anything is touched: tablespaces, roles,
//! extensions, locales, databases that are not empty.

use crate::harness::{Repo, run};
use crate::pg::Postgres;
use crate::pgr_databases::dumped_whole;

/// A folder that the server can use, or cannot.
fn folder(repo: &Repo, name: &str) -> String {
    let path = repo.path(name);
    std::fs::create_dir(&path).unwrap();
    if rustix::process::geteuid().is_root() {
        run("chown", &["postgres", path.to_str().unwrap()]);
    }
    path.display().to_string()
}

/// All that a server has, but for the content of databases.
fn state(server: &Postgres) -> String {
    let databases =
        "SELECT string_agg(datname || coalesce(datacl::text, '-'), ' ' ORDER BY datname) FROM pg_database";
    server.globals() + &server.sql("postgres", databases)
}

#[test]
fn tablespaces_that_cannot_be_made_are_found_first() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    let (one, two) = (folder(&repo, "it is one"), folder(&repo, "two"));
    server.sql("postgres", "CREATE ROLE keeper");
    for (name, place) in [("fast", &one), ("slow", &two)] {
        server.sql("postgres", &format!("CREATE TABLESPACE {name} OWNER keeper LOCATION '{place}'"));
    }
    server
        .sql("postgres", "GRANT CREATE ON TABLESPACE fast TO PUBLIC; COMMENT ON TABLESPACE fast IS 'quick'");
    server.sql("postgres", "CREATE DATABASE inside TABLESPACE fast");
    server.sql("inside", "CREATE TABLE t (i int PRIMARY KEY) TABLESPACE slow; INSERT INTO t VALUES (1); CREATE INDEX x ON t (i) TABLESPACE pg_default");
    server.sql("postgres", "CREATE DATABASE plainone");
    server.sql("plainone", "CREATE TABLE p (i int) TABLESPACE slow");
    let (all, inside) = (dumped_whole(&server, "inside"), dumped_whole(&server, "plainone"));
    for format in ["directory", "custom"] {
        repo.ok(["backup", &server.url(), "-o", &format!("postgres.format={format}")]);
        let target = Postgres::version(&repo, 15, &format!("target-{format}"), &[]);
        let (url, before) = (target.url(), state(&target));
        // The folders are the source's own: the server refuses them.
        let text = repo.fails(1, ["restore", "latest", "--to", &url]);
        assert!(text.contains("--tablespace-map") && text.contains("nothing was changed"), "{text}");
        assert_eq!(state(&target), before);
        let text = repo.fails(1, ["restore", "latest", "--to", &url, "--database", "inside"]);
        assert!(text.contains("lacks tablespaces of the dump: fast, slow"), "{text}");
        let text = repo.fails(1, ["restore", "latest", "--to", &url, "--tablespace-map", "no=pg_default"]);
        assert!(text.contains("nothing in the dump is in a tablespace 'no'"), "{text}");
        let text = repo.fails(
            1,
            ["restore", "latest", "--to", &url, "--tablespace-map", "fast=nowhere", "--database", "inside"],
        );
        assert!(text.contains("nowhere"), "{text}");
        assert_eq!(state(&target), before);
        // One elsewhere, in the place of both.
        let other = folder(&repo, &format!("other-{format}"));
        target.sql("postgres", &format!("CREATE TABLESPACE other LOCATION '{other}'"));
        repo.ok([
            "restore",
            "latest",
            "--to",
            &url,
            "--database",
            "inside",
            "--tablespace-map",
            "fast=other",
            "--tablespace-map",
            "slow=other",
        ]);
        let spaces = "SELECT d.spcname, t.spcname FROM pg_database JOIN pg_tablespace d ON d.oid = dattablespace, \
            pg_class LEFT JOIN pg_tablespace t ON t.oid = reltablespace WHERE datname = 'inside' AND relname = 't'";
        // What is in its database's own tablespace names none.
        assert_eq!(target.sql("inside", spaces), "other|");
        target.sql("postgres", "DROP DATABASE inside");
        // None at all.
        repo.ok(["restore", "latest", "--to", &url, "--no-tablespaces"]);
        assert_eq!(target.sql("inside", spaces), "pg_default|");
        assert_eq!(
            target.sql("postgres", "SELECT count(*) FROM pg_tablespace WHERE spcname IN ('fast', 'slow')"),
            "0"
        );
        let without = |text: &str| {
            let counts =
                |line: &&str| !(line.is_empty() || line.starts_with("--") || line.contains("tablespace"));
            text.lines().filter(counts).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(without(&dumped_whole(&target, "plainone")), without(&inside));
        drop(target);
    }
    // Where the folders are to be had.
    repo.ok(["backup", &server.url()]);
    let globals = server.globals();
    drop(server);
    for place in [&one, &two] {
        run("rm", &["-r", place]);
        folder(&repo, place.rsplit('/').next().unwrap());
    }
    let target = Postgres::version(&repo, 15, "again", &[]);
    repo.ok(["restore", "latest", "--to", &target.url()]);
    assert_eq!(target.globals(), globals);
    assert_eq!(dumped_whole(&target, "inside"), all);
    let text = repo.fails(2, ["restore", "latest", "--to", "redis://127.0.0.1:1", "--no-tablespaces"]);
    assert!(text.contains("--no-tablespaces is not for Redis"), "{text}");
}

#[test]
fn missing_roles_locales_and_extensions_are_found_first() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    for role in ["owner_of", "reader", "policed", "defaulted", "configured"] {
        server.sql("postgres", &format!("CREATE ROLE {role}"));
    }
    server.sql("postgres", "CREATE DATABASE shop OWNER owner_of");
    server.sql("shop", "CREATE TABLE t (i int); INSERT INTO t VALUES (1); GRANT SELECT ON t TO reader; CREATE TABLE u (i int)");
    server.sql("shop", "CREATE POLICY p ON u TO policed USING (true); ALTER DEFAULT PRIVILEGES FOR ROLE defaulted GRANT SELECT ON TABLES TO reader");
    server.sql("postgres", "ALTER ROLE configured IN DATABASE shop SET work_mem = '1MB'");
    repo.ok(["backup", &format!("{}/shop", server.url())]);
    let target = Postgres::version(&repo, 15, "target", &[]);
    let (url, before) = (target.url(), state(&target));
    let text = repo.fails(1, ["restore", "latest", "--to", &url]);
    assert!(
        text.contains("configured, defaulted, owner_of, policed, reader") && text.contains("--no-owner"),
        "{text}"
    );
    let text = repo.fails(1, ["restore", "latest", "--to", &url, "--no-owner"]);
    assert!(text.contains("in the dump: policed;"), "{text}");
    assert_eq!(state(&target), before);
    target.sql("postgres", "CREATE ROLE policed");
    repo.ok(["restore", "latest", "--to", &url, "--no-owner"]);
    assert_eq!(target.sql("shop", "SELECT count(*) FROM t"), "1");
    // A single table, of which only its own roles count.
    target.sql("shop", "DROP TABLE t");
    let into = format!("{url}/shop");
    let text = repo.fails(1, ["restore", "latest", "--to", &into, "--table", "t"]);
    assert!(text.contains("in the dump: reader;"), "{text}");
    target.sql("postgres", "CREATE ROLE reader");
    repo.ok(["restore", "latest", "--to", &into, "--table", "t"]);

    // What only the server knows to be impossible: everything is as it was.
    target.sql("postgres", "CREATE ROLE small LOGIN PASSWORD 'x'");
    let before = state(&target);
    let small = format!("{}/another", url.replace("postgres:sesame", "small:x"));
    let text = repo.fails(1, ["restore", "latest", "--to", &small, "--no-owner"]);
    assert!(text.contains("permission denied to create database; nothing was changed"), "{text}");
    assert_eq!(state(&target), before);
}

#[test]
fn whatever_users_make_is_not_empty() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", "CREATE TABLE t (i int)");
    repo.ok(["backup", &format!("{}/shop", server.url())]);
    let url = format!("{}/other", server.url());
    for made in [
        "CREATE TABLE x (i int)",
        "CREATE VIEW x AS SELECT 1",
        "CREATE SEQUENCE x",
        "CREATE FUNCTION x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE PROCEDURE x() LANGUAGE sql AS 'SELECT 1'",
        "CREATE AGGREGATE x (int) (sfunc = int4pl, stype = int)",
        "CREATE TYPE x AS ENUM ('a')",
        "CREATE TYPE x AS (a int)",
        "CREATE TYPE x AS RANGE (subtype = float8)",
        "CREATE DOMAIN x AS int",
        "CREATE OPERATOR === (leftarg = int, rightarg = int, function = int4eq)",
        "CREATE OPERATOR FAMILY x USING btree",
        "CREATE CAST (int AS xid8) WITH INOUT",
        "CREATE COLLATION x (locale = 'C')",
        "CREATE SCHEMA x",
        "CREATE EXTENSION hstore",
        "SELECT lo_create(5)",
        "CREATE FOREIGN DATA WRAPPER x",
        "CREATE PUBLICATION x",
        "CREATE SUBSCRIPTION x CONNECTION '' PUBLICATION y WITH (connect = false)",
        "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC",
        "CREATE TEXT SEARCH DICTIONARY x (template = simple)",
        "CREATE TEXT SEARCH CONFIGURATION x (parser = 'default')",
        "CREATE CONVERSION x FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8",
    ] {
        server.sql("postgres", "CREATE DATABASE other");
        server.sql("other", made);
        let before = server.dumped("other");
        let text = repo.fails(1, ["restore", "latest", "--to", &url]);
        assert!(text.contains("database 'other' is not empty (1 object)"), "{made}: {text}");
        assert!(server.dumped("other") == before, "{made}");
        if made.contains("SUBSCRIPTION") {
            server.sql("other", "ALTER SUBSCRIPTION x SET (slot_name = NONE); DROP SUBSCRIPTION x");
        } else if made.contains("TABLE x") {
            repo.ok(["restore", "latest", "--to", &url, "--replace"]);
            assert_eq!(dumped_whole(&server, "other"), dumped_whole(&server, "shop"));
        }
        server.sql("postgres", "DROP DATABASE other");
    }
    // Temporary tables of a session are not in it; nor is what comes with every database.
    server.sql("postgres", "CREATE DATABASE other");
    server.sql("other", "CREATE TEMPORARY TABLE x (i int)");
    repo.ok(["restore", "latest", "--to", &url]);
    // One that is in use cannot be dropped: then it is as it was.
    server.sql("other", "CREATE TABLE later (i int)");
    let mut psql = server.program("psql");
    let held = psql
        .args(["-d", "other", "-c", "SELECT pg_sleep(60)"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let held = crate::harness::Process(held);
    crate::harness::wait_for("a session", 10, || {
        server.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = 'other'") != "0"
    });
    let text = repo.fails(1, ["restore", "latest", "--to", &url, "--replace"]);
    assert!(text.contains("being accessed by other users"), "{text}");
    drop(held);
    assert_eq!(server.sql("other", "SELECT count(*) FROM later"), "0");
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'esker%'"), "0");
}
