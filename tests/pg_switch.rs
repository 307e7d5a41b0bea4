//! A PostgreSQL database that is replaced stays as it is until the new one is whole, whatever ends the restore; and what an
//! interrupted restore leaves is found by the next one.

use crate::harness::{Process, Repo, wait_for};
use crate::pg::{Postgres, VERSIONS, bin};
use crate::pgr_databases::dumped_whole;

/// All databases, and whose they are.
const DATABASES: &str = "SELECT string_agg(datname || '/' || pg_get_userbyid(datdba) || coalesce(datacl::text, ''), ' ' ORDER BY datname) FROM pg_database";
/// Those of a restore's.
const OURS: &str = "SELECT count(*) FROM pg_database WHERE datname LIKE 'esker%'";

/// What a server takes as a dump and then refuses, and what makes its source refusable.
const REFUSED: &[(&str, &str)] = &[
    // A constraint whose function reads a table that comes later.
    (
        "rows",
        "CREATE TABLE zz (a int); CREATE FUNCTION chk(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM public.zz) >= 0; END'; \
      CREATE TABLE aa (a int CHECK (chk(a))); INSERT INTO aa VALUES (1); ALTER TABLE zz RENAME TO zz2",
    ),
    // A unique index over rows that are not unique, as damage leaves them.
    (
        "index",
        "CREATE TABLE t (a int, b int); INSERT INTO t SELECT i, i % 2 FROM generate_series(1, 1000) i; CREATE UNIQUE INDEX x ON t (b) WHERE false; \
      CREATE FUNCTION one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END'; CREATE UNIQUE INDEX y ON t (one(a)); \
      CREATE OR REPLACE FUNCTION one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'",
    ),
    // A view that cannot be made again.
    (
        "view",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'; CREATE TABLE t (a int); INSERT INTO t VALUES (1); \
      CREATE MATERIALIZED VIEW m AS SELECT f() AS f FROM t; CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'",
    ),
];

const LIVE: &[&str] = &[
    "CREATE ROLE app",
    "CREATE DATABASE live OWNER app CONNECTION LIMIT 7",
    "REVOKE ALL ON DATABASE live FROM PUBLIC",
    "ALTER DATABASE live SET work_mem = '3MB'",
    "COMMENT ON DATABASE live IS 'precious'",
];

#[test]
fn a_dump_that_the_server_refuses_replaces_nothing() {
    for &version in VERSIONS {
        let path = format!("{}:{}", bin(version).display(), std::env::var("PATH").unwrap());
        let repo = Repo::new().with("PATH", &path);
        let server = Postgres::version(&repo, version, "pg", &[]);
        server.each("postgres", LIVE);
        server.sql("live", "CREATE TABLE precious AS SELECT i FROM generate_series(1, 100) i");
        let before = (dumped_whole(&server, "live"), server.sql("postgres", DATABASES));
        let url = format!("{}/live", server.url());
        for (name, made) in REFUSED {
            server.sql("postgres", "CREATE DATABASE failing");
            server.sql("failing", made);
            for format in ["directory", "custom", "plain"] {
                let args = ["backup", &format!("{}/failing", server.url()), "-o"];
                repo.ok(args.into_iter().chain([format!("postgres.format={format}").as_str()]));
                server.sql("postgres", "ALTER DATABASE failing RENAME TO hidden");
                let text = repo.fails(1, ["restore", "latest", "--to", &url, "--replace"]);
                assert!(text.contains("database 'live': is as it was"), "{version} {name} {format}: {text}");
                assert!(!text.contains("pg_restore: pg_restore"), "{text}");
                server.sql("postgres", "ALTER DATABASE hidden RENAME TO failing");
                assert_eq!(dumped_whole(&server, "live"), before.0, "{version} {name} {format}");
            }
            // Where nothing was, nothing is.
            let copy = format!("{}/copy", server.url());
            let text = repo.fails(1, ["restore", "latest", "--to", &copy]);
            assert!(text.contains("is dropped again"), "{text}");
            server.sql("postgres", "DROP DATABASE failing");
            assert_eq!(server.sql("postgres", DATABASES), before.1, "{version} {name}");
        }
    }
}

/// A whole restore of which one in the middle fails: those before are new, all others are as they were.
#[test]
fn a_failure_in_the_middle_leaves_the_others() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    for name in ["aaa", "mmm", "zzz"] {
        server.sql("postgres", &format!("CREATE DATABASE {name}"));
        server.sql(name, "CREATE TABLE t AS SELECT 1 AS old");
    }
    server.sql("postgres", "CREATE TABLE in_postgres (a int)");
    server.sql("template1", "CREATE TABLE in_template1 (a int)");
    server.sql("mmm", REFUSED[0].1);
    repo.ok(["backup", &server.url()]);
    for name in ["aaa", "mmm", "zzz"] {
        server.sql(name, "UPDATE t SET old = 2");
    }
    server.sql("postgres", "INSERT INTO in_postgres VALUES (1)");
    let wanted: Vec<String> =
        ["mmm", "zzz", "postgres", "template1"].iter().map(|name| dumped_whole(&server, name)).collect();
    let databases = server.sql("postgres", DATABASES);
    let text = repo.fails(1, ["restore", "latest", "--to", &server.url(), "--replace"]);
    assert!(text.contains("database 'mmm': is as it was"), "{text}");
    assert!(text.contains("restored: 'aaa'"), "{text}");
    assert!(text.contains("as they were: 'postgres', 'template1', 'zzz'"), "{text}");
    let found: Vec<String> =
        ["mmm", "zzz", "postgres", "template1"].iter().map(|name| dumped_whole(&server, name)).collect();
    assert_eq!(found, wanted);
    assert_eq!(server.sql("aaa", "SELECT old FROM t"), "1");
    let names =
        |text: &str| text.split(' ').map(|one| one.split('/').next().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&server.sql("postgres", DATABASES)), names(&databases));
}

/// Restores `live` from a dump that takes long, and waits until it is at it. Returns the process.
fn begin(repo: &Repo, server: &Postgres, url: &str) -> Process {
    let mut command = repo.command(["restore", "latest", "--to", url, "--replace"]);
    let errors = std::fs::File::create(repo.path("errors")).unwrap();
    let process = Process(command.stderr(errors).stdout(std::process::Stdio::null()).spawn().unwrap());
    wait_for("the slow rows", 30, || {
        server.sql(
            "postgres",
            "SELECT count(*) FROM pg_stat_activity WHERE datname LIKE 'esker%' AND wait_event = 'PgSleep'",
        ) == "1"
    });
    process
}

/// A database of which one row takes a minute to come back.
const SLOW: &str = "CREATE TABLE flag (a int); \
    CREATE FUNCTION slow(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN IF current_database() <> ''source'' THEN PERFORM pg_catalog.pg_sleep(60); END IF; RETURN true; END'; \
    CREATE TABLE t (a int CHECK (slow(a))); INSERT INTO t VALUES (1)";

#[test]
fn what_is_interrupted_or_killed_replaces_nothing() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.each("postgres", LIVE);
    server.sql("live", "CREATE TABLE precious AS SELECT i FROM generate_series(1, 100) i");
    server.sql("postgres", "CREATE DATABASE source");
    server.sql("source", SLOW);
    server.sql("postgres", "CREATE DATABASE small");
    server.sql("small", "CREATE TABLE s AS SELECT 1 AS a");
    repo.ok(["backup", &format!("{}/small", server.url())]);
    let before = dumped_whole(&server, "live");
    let url = format!("{}/live", server.url());
    for format in ["directory", "plain"] {
        repo.ok(["backup", &format!("{}/source", server.url()), "-o", &format!("postgres.format={format}")]);
        for signal in ["-TERM", "-INT"] {
            let mut process = begin(&repo, &server, &url);
            crate::harness::run("kill", &[signal, &process.0.id().to_string()]);
            let status = process.0.wait().unwrap();
            let text = std::fs::read_to_string(repo.path("errors")).unwrap();
            assert_eq!(status.code(), Some(130), "{format} {signal}: {text}");
            assert!(text.contains("database 'live': is as it was"), "{format} {signal}: {text}");
            assert_eq!(dumped_whole(&server, "live"), before);
            assert_eq!(server.sql("postgres", OURS), "0", "{format} {signal}");
        }
    }
    // What a running one needs stays.
    let mut process = begin(&repo, &server, &url);
    let running = server.sql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'esker%'");
    let report = repo.json(["restore", "latest~2", "--to", &format!("{}/zero", server.url())]);
    let notes = report["notes"].to_string();
    assert!(notes.contains(&running) && notes.contains("its restore is still running"), "{notes}");
    server.sql("postgres", "DROP DATABASE zero");
    // Killed: what it left stays as long as something is at work in it.
    process.0.kill().unwrap();
    process.0.wait().unwrap();
    assert_eq!(dumped_whole(&server, "live"), before);
    assert_eq!(server.sql("postgres", OURS), "1");
    let left = server.sql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'esker%'");
    repo.ok(["backup", &format!("{}/small", server.url())]);
    let into = |name: &str| format!("{}/{name}", server.url());
    let report = repo.json(["restore", "latest", "--to", &into("one")]);
    assert!(report["notes"].to_string().contains(&format!("database '{left}' may be")), "{report}");
    assert_eq!(server.sql("postgres", OURS), "1");
    // What looks like it and bears no mark, or the mark of another name, stays.
    server.sql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'esker%'",
    );
    wait_for("the end of the session", 10, || {
        server.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname LIKE 'esker%'") == "0"
    });
    let comment = server.sql(
        "postgres",
        "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname LIKE 'esker%'",
    );
    for name in ["esker_restore_0123456789abcdef_0", "esker_restore_mine", "mine"] {
        server.sql("postgres", &format!("CREATE DATABASE {name}"));
    }
    server.sql("postgres", &format!("COMMENT ON DATABASE esker_restore_0123456789abcdef_0 IS '{comment}'"));
    server.sql("postgres", &format!("COMMENT ON DATABASE mine IS '{comment}'"));
    // A dry run says it, and does nothing.
    let report = repo.json(["restore", "latest", "--to", &into("two"), "--dry-run"]);
    assert!(report["plan"].to_string().contains(&format!("drop database '{left}'")), "{report}");
    assert_eq!(server.sql("postgres", OURS), "3");
    let report = repo.json(["restore", "latest", "--to", &into("two")]);
    let notes = report["notes"].to_string();
    assert!(notes.contains(&format!("dropped database '{left}'")), "{notes}");
    assert!(notes.contains("'esker_restore_mine' may be") && notes.contains("DROP DATABASE"), "{notes}");
    let databases =
        server.sql("postgres", "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database");
    assert_eq!(
        databases,
        "esker_restore_0123456789abcdef_0 esker_restore_mine live mine one postgres small source template0 template1 two"
    );
}

/// An old database that could not be dropped, as a kill after the switch leaves it.
#[test]
fn the_old_one_goes_when_its_successor_is_there() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE small");
    server.sql("small", "CREATE TABLE s AS SELECT 1 AS a");
    repo.ok(["backup", &format!("{}/small", server.url())]);
    let mark = "esker restore 0123456789abcdef of 2026-01-01T00:00:00Z: replaced, database";
    for (number, target) in [(0, "small"), (1, "gone")] {
        let name = format!("esker_replaced_0123456789abcdef_{number}");
        server.sql("postgres", &format!("CREATE DATABASE {name} IS_TEMPLATE true"));
        server.sql("postgres", &format!("COMMENT ON DATABASE {name} IS '{mark} {target}'"));
    }
    let report = repo.json(["restore", "latest", "--to", &server.url(), "--replace"]);
    let notes = report["notes"].to_string();
    assert!(notes.contains("dropped database 'esker_replaced_0123456789abcdef_0'"), "{notes}");
    assert!(notes.contains("there is no database 'gone'"), "{notes}");
    assert_eq!(server.sql("postgres", OURS), "1");
}

#[test]
fn what_would_go_with_a_database_is_found_first() {
    let repo = Repo::new();
    let server = Postgres::version(&repo, 15, "pg", &["wal_level=logical", "max_prepared_transactions=2"]);
    server.each("postgres", LIVE);
    server.sql("live", "CREATE TABLE precious AS SELECT i FROM generate_series(1, 100) i");
    server.sql("postgres", "CREATE DATABASE source");
    server.sql("source", "CREATE TABLE t AS SELECT 1 AS a");
    server.sql("source", "CREATE SUBSCRIPTION mine CONNECTION '' PUBLICATION p WITH (connect = false)");
    repo.ok(["backup", &format!("{}/source", server.url())]);
    let url = format!("{}/live", server.url());
    for (made, gone, word) in [
        (
            "SELECT pg_create_logical_replication_slot('it''s', 'pgoutput')",
            "SELECT pg_drop_replication_slot('its')",
            "replication slots (its)",
        ),
        (
            "CREATE SUBSCRIPTION sub CONNECTION '' PUBLICATION p WITH (connect = false)",
            "ALTER SUBSCRIPTION sub SET (slot_name = NONE); DROP SUBSCRIPTION sub",
            "subscriptions (sub)",
        ),
        (
            "BEGIN; INSERT INTO precious VALUES (0); PREPARE TRANSACTION 'half'",
            "ROLLBACK PREPARED 'half'",
            "ROLLBACK PREPARED 'half'",
        ),
    ] {
        server.sql("live", &made.replace("it''s", "its"));
        let before = dumped_whole(&server, "live");
        let text = repo.fails(1, ["restore", "latest", "--to", &url, "--replace"]);
        assert!(text.contains(word) && text.contains("nothing was changed"), "{text}");
        assert_eq!(dumped_whole(&server, "live"), before);
        assert_eq!(server.sql("postgres", OURS), "0");
        server.sql("live", gone);
    }
    // One that accepts no connections is not looked into, and replaced only if that is asked for.
    server.each(
        "postgres",
        &["ALTER DATABASE live ALLOW_CONNECTIONS false", "ALTER DATABASE live IS_TEMPLATE true"],
    );
    let text = repo.fails(1, ["restore", "latest", "--to", &url]);
    assert!(text.contains("accepts no connections"), "{text}");
    // Subscriptions of the dump come with it, and are no hindrance the next time but one.
    let report = repo.json(["restore", "latest", "--to", &url, "--replace", "--dry-run"]);
    let steps: Vec<&str> =
        report["plan"].as_array().unwrap().iter().map(|step| step.as_str().unwrap()).collect();
    let at = |word: &str| {
        steps.iter().position(|step| step.contains(word)).unwrap_or_else(|| panic!("{word}: {steps:?}"))
    };
    assert!(
        at("beside 'live'") < at("fill")
            && at("fill") < at("switch in one")
            && at("switch in one") < at("drop the old"),
        "{steps:?}"
    );
    repo.ok(["restore", "latest", "--to", &url, "--replace"]);
    assert_eq!(
        dumped_whole(&server, "live").replace('@', "source"),
        dumped_whole(&server, "source").replace('@', "source")
    );
    assert_eq!(server.sql("postgres", OURS), "0");
}

/// Sessions that come while the new one is filled are ended at the switch, though they come again and again.
#[test]
fn sessions_that_come_meanwhile_are_ended() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.each("postgres", &["CREATE DATABASE live", "CREATE DATABASE source"]);
    server.sql("live", "CREATE TABLE old (a int)");
    server.sql("source", &SLOW.replace("pg_sleep(60)", "pg_sleep(3)"));
    repo.ok(["backup", &format!("{}/source", server.url())]);
    let url = format!("{}/live", server.url());
    let mut process = begin(&repo, &server, &url);
    let done = std::sync::atomic::AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        seen += u32::from(server.try_sql("live", "SELECT pg_sleep(100)").is_none());
                    }
                    seen
                })
            })
            .collect();
        let status = process.0.wait().unwrap();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        // Those that came to the new one.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'live'";
        let seen: Vec<_> = clients
            .into_iter()
            .map(|client| {
                while !client.is_finished() {
                    server.sql("postgres", end);
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                client.join().unwrap()
            })
            .collect();
        assert!(status.success(), "{}", std::fs::read_to_string(repo.path("errors")).unwrap());
        seen
    });
    assert!(seen.iter().all(|ended| *ended > 0), "{seen:?}");
    assert_eq!(server.sql("live", "SELECT count(*) FROM t"), "1");
    assert_eq!(server.sql("postgres", OURS), "0");
}
