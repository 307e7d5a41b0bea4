//! What of a server is backed up: every database that pg_dumpall has; what cannot be read is left out by name if the
//! user says so; and no more connections and locks are taken than the server has to spare.

use crate::harness::{Repo, expect};
use crate::pg::{Postgres, SHOP};
use serde_json::Value;

/// What the last snapshot says of its first source.
fn details(repo: &Repo) -> Value {
    let record: Value = serde_json::from_str(&repo.ok(["cat", "snapshot", "latest"])).unwrap();
    record["sources"][0]["details"].clone()
}

#[test]
fn every_database_is_all_but_template0() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("template1", "CREATE TABLE in_template1 AS SELECT 1 a");
    server.each("postgres", &["CREATE DATABASE mine IS_TEMPLATE true", "CREATE DATABASE closed"]);
    server.sql("mine", "CREATE TABLE in_mine AS SELECT 2 a");
    server.sql("postgres", "ALTER DATABASE closed ALLOW_CONNECTIONS false");
    for (format, ending) in [("directory", ""), ("custom", ".dump"), ("plain", ".sql")] {
        let output = repo.run(["backup", &server.url(), "-o", &format!("postgres.format={format}")]);
        expect(&output, 0);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            text.contains("'closed' is not in the backup") && text.contains("ALLOW_CONNECTIONS"),
            "{text}"
        );
        let list = repo.ok(["ls", "latest"]);
        for name in ["postgres", "template1", "mine"] {
            assert!(list.contains(&format!("/databases/{name}{ending}\n")), "{name} in {list}");
        }
        assert!(!list.contains("template0") && !list.contains("databases/closed"), "{list}");
        assert!(details(&repo)["not-dumped:closed"].is_string(), "{}", details(&repo));
    }
    repo.ok(["backup", &server.url()]);
    let list = repo.ok(["ls", "latest"]);
    assert!(
        list.contains("template1/public.in_template1.dat") && list.contains("mine/public.in_mine.dat"),
        "{list}"
    );
}

/// A cluster in which much cannot be read by the user `reader`; returns a URL.
fn closed_doors(server: &Postgres) -> String {
    server.each(
        "postgres",
        &["CREATE ROLE reader LOGIN PASSWORD 'sesame'", "CREATE DATABASE shop", "CREATE DATABASE private"],
    );
    server
        .sql("postgres", "GRANT pg_read_all_data TO reader; REVOKE CONNECT ON DATABASE private FROM public");
    server.sql("shop", SHOP);
    server.sql("shop", "CREATE TABLE zoo AS SELECT i FROM generate_series(1, 100) i");
    server.url().replace("postgres:sesame@", "reader:sesame@")
}

#[test]
fn what_cannot_be_read_is_left_out_by_name() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    let url = closed_doors(&server);
    // Rows that a policy would hide are refused; that is one table. A database that is closed is one database.
    for format in ["directory", "custom", "plain"] {
        let option = format!("postgres.format={format}");
        let output = repo.run(["backup", &url, "-o", &option]);
        assert!(matches!(output.status.code(), Some(20 | 25)), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("private") && text.contains("--keep-going"), "{format}: {text}");
    }
    assert_eq!(repo.snapshot_count(), 0);
    let text = repo.fails(3, ["backup", &url, "--keep-going"]);
    assert!(text.contains("private") && text.contains("permission denied for database"), "{text}");
    assert!(
        text.contains("table public.account of database 'shop'") && text.contains("row-level security"),
        "{text}"
    );
    let all = details(&repo);
    let folder = format!("postgres/127.0.0.1:{}/databases", server.port);
    assert!(all[format!("left-out:{folder}/private")].is_string(), "{all}");
    assert!(all[format!("left-out:{folder}/shop/public.account.dat")].is_string(), "{all}");
    let list = repo.ok(["ls", "latest"]);
    assert!(!list.contains("databases/private") && list.contains("shop/public.zoo.dat"), "{list}");
    // What is there can be restored; the table has no rows.
    repo.ok(["restore", "latest", "--target", "out"]);
    let out = repo.path(&format!("out/{folder}/shop"));
    assert_eq!(std::fs::read(out.join("public.account.dat")).unwrap(), b"\\.\n\n\n");
    server.sql("postgres", "CREATE DATABASE back");
    let restored = server.program("pg_restore").args(["-d", "back"]).arg(&out).output().unwrap();
    let complaints = String::from_utf8_lossy(&restored.stderr).into_owned();
    // The orders' foreign key cannot hold without accounts.
    assert!(
        complaints
            .lines()
            .filter(|line| line.contains("error: could not"))
            .all(|line| line.contains("foreign key")),
        "{complaints}"
    );
    for sql in ["SELECT count(*), sum(i) FROM zoo", "SELECT count(*), sum(total) FROM sales.orders"] {
        assert_eq!(server.sql("back", sql), server.sql("shop", sql));
    }
    assert_eq!(server.sql("back", "SELECT count(*) FROM account"), "0");
    // Of the other formats the whole database is left out.
    for (format, ending) in [("custom", ".dump"), ("plain", ".sql")] {
        let text =
            repo.fails(3, ["backup", &url, "--keep-going", "-o", &format!("postgres.format={format}")]);
        assert!(
            text.contains("pg_dump of database 'private'") && text.contains("pg_dump of database 'shop'"),
            "{text}"
        );
        let list = repo.ok(["ls", "latest"]);
        assert!(
            list.contains(&format!("databases/postgres{ending}\n")) && !list.contains("databases/shop"),
            "{list}"
        );
        assert!(!list.contains("private"), "{list}");
    }
    // Nothing at all is no backup.
    let count = repo.snapshot_count();
    let text = repo.fails(25, ["backup", &format!("{url}/private"), "--keep-going"]);
    assert!(text.contains("permission denied for database"), "{text}");
    assert_eq!(repo.snapshot_count(), count);
}

#[test]
fn tables_that_are_denied_or_broken_are_left_out_by_name() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.each("postgres", &["CREATE ROLE reader LOGIN PASSWORD 'sesame'", "CREATE DATABASE shop"]);
    server.sql(
        "shop",
        "CREATE TABLE good AS SELECT i, repeat('g', 500) t FROM generate_series(1, 60000) i; GRANT SELECT ON good TO reader; \
         CREATE TABLE \"odd \"\"denied\" (a serial); CREATE SCHEMA hidden; CREATE TABLE hidden.t (a int); \
         GRANT SELECT ON hidden.t TO reader; CREATE SEQUENCE denied_sequence; CREATE SCHEMA \"*\"; CREATE TABLE \"*\".\"*\" (a int)",
    );
    let url = server.url().replace("postgres:sesame@", "reader:sesame@") + "/shop";
    let text = repo.fails(20, ["backup", &url]);
    assert!(text.contains("permission denied") && text.contains("--keep-going"), "{text}");
    let text = repo.fails(3, ["backup", &url, "--keep-going"]);
    for name in
        ["public.odd \"denied", "hidden.t", "the value of sequence public.denied_sequence", "table *.*"]
    {
        assert!(text.contains(name), "{name} in {text}");
    }
    repo.ok(["restore", "latest", "--target", "out"]);
    let out = repo.path(&format!("out/postgres/127.0.0.1:{}/databases/shop", server.port));
    server.sql("postgres", "CREATE DATABASE back");
    expect(&server.program("pg_restore").args(["-d", "back"]).arg(&out).output().unwrap(), 0);
    assert_eq!(server.sql("back", "SELECT count(*) FROM good"), "60000");

    // A page of a large table is no page any more: its rows are missing, and all others' are there.
    server.sql(
        "shop",
        "CREATE TABLE big AS SELECT i, repeat('b', 900) t FROM generate_series(1, 60000) i; CHECKPOINT",
    );
    let file = server.sql("shop", "SELECT pg_relation_filepath('big')");
    let mut server = server;
    server.stop();
    let path = server.home.join("data").join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 8192 / 2 * 8192;
    bytes[middle..middle + 8192].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    server.up();
    let url = format!("{}/shop", server.url());
    let text = repo.fails(25, ["backup", &url]);
    assert!(text.contains("table public.big of database 'shop'") && text.contains("--keep-going"), "{text}");
    let text = repo.fails(3, ["backup", &url, "--keep-going"]);
    assert!(text.contains("table public.big of database 'shop'") && text.contains("invalid page"), "{text}");
    assert!(!text.contains("public.good"), "{text}");
    repo.ok(["restore", "latest", "--target", "again"]);
    let out = repo.path(&format!("again/postgres/127.0.0.1:{}/databases/shop", server.port));
    server.sql("postgres", "DROP DATABASE back");
    server.sql("postgres", "CREATE DATABASE back");
    expect(
        &server.program("pg_restore").args(["--exit-on-error", "-d", "back"]).arg(&out).output().unwrap(),
        0,
    );
    assert_eq!(
        server.sql("back", "SELECT (SELECT count(*) FROM good), (SELECT count(*) FROM big)"),
        "60000|0"
    );
}

#[test]
fn no_more_is_taken_than_the_server_has_to_spare() {
    let repo = Repo::new();
    let server = Postgres::version(&repo, 15, "pg", &["max_connections=20"]);
    for number in 0..8 {
        let database = format!("d{number}");
        server.sql("postgres", &format!("CREATE DATABASE {database}"));
        server.sql(&database, "DO $$ BEGIN FOR i IN 1..600 LOOP EXECUTE format('CREATE TABLE t%s (a int)', i); END LOOP; END $$");
    }
    repo.ok(["backup", &server.url()]);
    repo.ok(["backup", &server.url(), "-o", "postgres.at-once=8", "-o", "postgres.jobs=4"]);
    assert_eq!(repo.ok(["ls", "latest"]).matches("/toc.dat\n").count(), 10);

    let few = Repo::new();
    let server = Postgres::version(&few, 15, "few", &["max_connections=20"]);
    server.sql(
        "postgres",
        "CREATE ROLE bk LOGIN PASSWORD 'sesame' CONNECTION LIMIT 3 IN ROLE pg_read_all_data",
    );
    for database in ["a", "b", "c"] {
        server.sql("postgres", &format!("CREATE DATABASE {database}"));
        server.sql(
            database,
            "CREATE TABLE t AS SELECT i, repeat('x', 100) x FROM generate_series(1, 200000) i",
        );
    }
    let url = server.url().replace("postgres:sesame@", "bk:sesame@");
    for more in [
        &["-o", "postgres.jobs=8"][..],
        &["-o", "postgres.at-once=10"][..],
        &["-o", "postgres.format=custom"][..],
    ] {
        few.ok([&["backup", url.as_str()][..], more].concat());
    }
    server.sql("postgres", "ALTER ROLE bk CONNECTION LIMIT 2");
    few.ok(["backup", &url, "-o", "postgres.jobs=8"]);
    server.sql("postgres", "ALTER ROLE bk CONNECTION LIMIT 1");
    let text = few.fails(25, ["backup", &url]);
    assert!(text.contains("CONNECTION LIMIT of role 'bk'"), "{text}");
    server.sql("postgres", "ALTER ROLE bk CONNECTION LIMIT -1; ALTER DATABASE b CONNECTION LIMIT 1");
    let text = few.fails(25, ["backup", &url]);
    assert!(text.contains("CONNECTION LIMIT of database 'b'"), "{text}");
}
