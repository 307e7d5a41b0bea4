//! Restores into PostgreSQL by several sessions at once: everything comes back, whatever fails or ends them changes nothing.

use crate::harness::{Process, Repo, wait_for};
use crate::pg::{Postgres, SHOP, VERSIONS};
use crate::postgres::path_with;

/// What a restore in parallel could do in the wrong order: keys that point in a circle, indexes that are attached to others, views
/// over indexes, comments on them, privileges that an owner took from himself; and a table large enough to come in stretches.
const MORE: &[&str] = &[
    "CREATE ROLE owner_of_some NOLOGIN",
    "CREATE TABLE hen (id int PRIMARY KEY, egg int); CREATE TABLE egg (id int PRIMARY KEY, hen int REFERENCES hen)",
    "INSERT INTO hen SELECT i, i FROM generate_series(1, 500) i; INSERT INTO egg SELECT i, 501 - i FROM generate_series(1, 500) i",
    "ALTER TABLE hen ADD FOREIGN KEY (egg) REFERENCES egg DEFERRABLE INITIALLY DEFERRED",
    "CREATE TABLE tree (id int PRIMARY KEY, above int REFERENCES tree); INSERT INTO tree SELECT i, nullif(i / 2, 0) FROM generate_series(1, 500) i",
    "CREATE TABLE parted (a int, b text, PRIMARY KEY (a, b)) PARTITION BY HASH (a)",
    "DO $$ BEGIN FOR i IN 0..7 LOOP EXECUTE format('CREATE TABLE parted_%s PARTITION OF parted FOR VALUES WITH (MODULUS 8, REMAINDER %s)', i, i); END LOOP; END $$",
    "INSERT INTO parted SELECT i, md5(i::text) FROM generate_series(1, 4000) i",
    "CREATE INDEX ON parted USING hash (b); CREATE TABLE refers (a int, b text, FOREIGN KEY (a, b) REFERENCES parted)",
    "INSERT INTO refers SELECT * FROM parted WHERE a % 3 = 0",
    "CREATE TABLE big (id int, filler text, words tsvector, place point, span int4range)",
    "INSERT INTO big SELECT i, repeat(md5(i::text), 24), to_tsvector('simple', 'a' || i % 977 || ' b' || i % 13), point(i, -i), int4range(i, i + 9) \
     FROM generate_series(1, 50000) i",
    "ALTER TABLE big ADD PRIMARY KEY (id); CREATE INDEX gin ON big USING gin (words); CREATE INDEX gist ON big USING gist (place); \
     CREATE INDEX spgist ON big USING spgist (span); CREATE INDEX brin ON big USING brin (id); CREATE INDEX part ON big (lower(filler)) WHERE id < 100",
    "COMMENT ON INDEX gin IS 'found'; CLUSTER big USING big_pkey; CREATE STATISTICS both_of ON id, filler FROM big",
    "CREATE MATERIALIZED VIEW few AS SELECT id, span FROM big WHERE id < 1000; CREATE UNIQUE INDEX ON few (id); \
     CREATE MATERIALIZED VIEW fewer AS SELECT * FROM few WHERE id < 10",
    "CREATE UNLOGGED TABLE light AS SELECT 1 AS a; CREATE TABLE child (c int) INHERITS (hen)",
    "CREATE TABLE rowed (a int); CREATE RULE no_more AS ON DELETE TO rowed DO INSTEAD NOTHING; \
     CREATE VIEW grouped AS SELECT id, filler FROM big GROUP BY id",
    "CREATE FUNCTION seen() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not while it is restored''; END'; \
     CREATE EVENT TRIGGER seen ON ddl_command_end WHEN TAG IN ('CREATE INDEX', 'ALTER TABLE') EXECUTE FUNCTION seen()",
    "GRANT SELECT ON big TO owner_of_some",
];

fn fill(server: &Postgres) {
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", SHOP);
    let (role, rest) = MORE.split_first().unwrap();
    server.sql("postgres", role);
    server.each("shop", rest);
    // What its owner took from himself, the restore needs.
    server.each(
        "shop",
        &[
            "DROP EVENT TRIGGER seen",
            "ALTER TABLE hen OWNER TO owner_of_some; ALTER TABLE egg OWNER TO owner_of_some",
            "REVOKE ALL ON hen, egg FROM owner_of_some",
            "CREATE EVENT TRIGGER seen ON ddl_command_end WHEN TAG IN ('CREATE INDEX', 'ALTER TABLE') EXECUTE FUNCTION seen()",
        ],
    );
}

/// The lines of a dump, in an order of their own: rows that several sessions put in have none.
pub(crate) fn lines(dump: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = dump.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn everything_comes_back_by_however_many_sessions() {
    for version in VERSIONS {
        let repo = Repo::new().with("PATH", &path_with(*version));
        let server = Postgres::version(&repo, *version, "pg", &[]);
        fill(&server);
        let wanted = server.dumped("shop");
        let tables = server.sql("shop", "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND oid >= 16384 AND relnamespace::regnamespace::text IN ('public', 'sales')");
        for format in ["directory", "custom"] {
            let option = format!("postgres.format={format}");
            repo.ok(["backup", &format!("{}/shop", server.url()), "-o", &option]);
            for jobs in ["1", "2", "4"] {
                let url = format!("{}/back", server.url());
                // Over nothing, and over what the one before it left.
                let report = repo.json(["restore", "latest", "--to", &url, "--replace", "--jobs", jobs]);
                assert_eq!(
                    report["tables_restored"].to_string(),
                    tables,
                    "{version} {format} {jobs}: {report}"
                );
                let found = server.dumped("back");
                assert!(lines(&found) == lines(&wanted), "{version} {format} {jobs}");
                if jobs == "1" {
                    assert!(found == wanted, "{version} {format}: one session keeps the order of rows");
                }
            }
            server.sql("postgres", "DROP DATABASE back");
        }
    }
}

/// Rows of a table that is new in its transaction need no WAL under `wal_level=minimal`, as with pg_restore.
#[test]
fn a_server_that_keeps_little_wal_gets_the_same() {
    let repo = Repo::new();
    let server = Postgres::version(&repo, 15, "pg", &["wal_level=minimal", "max_wal_senders=0"]);
    fill(&server);
    repo.ok(["backup", &format!("{}/shop", server.url())]);
    repo.ok(["restore", "latest", "--to", &format!("{}/back", server.url()), "--jobs", "3"]);
    assert!(lines(&server.dumped("back")) == lines(&server.dumped("shop")));
}

/// Sessions that bear the name of a restore's, and databases.
pub(crate) const LEFT: &str = "SELECT (SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'esker restore%') \
    + (SELECT count(*) FROM pg_database WHERE datname LIKE 'esker%')";

#[test]
fn one_index_that_fails_ends_all_and_changes_nothing() {
    for version in VERSIONS {
        let repo = Repo::new().with("PATH", &path_with(*version));
        let server = Postgres::version(&repo, *version, "pg", &[]);
        server.sql("postgres", "CREATE DATABASE live");
        server.sql("live", "CREATE TABLE precious AS SELECT i FROM generate_series(1, 100) i");
        let before = server.dumped("live");
        server.sql("postgres", "CREATE DATABASE source");
        server.each(
            "source",
            &[
                "CREATE FUNCTION one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END'",
                "CREATE FUNCTION late(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN IF current_database() <> ''source'' THEN \
                 PERFORM pg_catalog.pg_sleep(60); END IF; RETURN $1; END'",
                "CREATE TABLE good (a int); CREATE TABLE bad (a int); CREATE TABLE other (a int)",
                "INSERT INTO good VALUES (1); INSERT INTO bad VALUES (1), (2); INSERT INTO other VALUES (1)",
                "CREATE INDEX slow ON good (late(a)); CREATE INDEX slow2 ON other (late(a)); CREATE UNIQUE INDEX fails ON bad (one(a))",
                "CREATE OR REPLACE FUNCTION one(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'",
            ],
        );
        repo.ok(["backup", &format!("{}/source", server.url())]);
        let url = format!("{}/live", server.url());
        let begun = std::time::Instant::now();
        let text = repo.fails(1, ["restore", "latest", "--to", &url, "--replace", "--jobs", "4"]);
        assert!(begun.elapsed().as_secs() < 40, "the others were waited for");
        assert!(text.contains("could not create unique index"), "{version}: {text}");
        assert!(text.contains("database 'live': is as it was"), "{version}: {text}");
        wait_for("the end of its sessions", 10, || server.sql("postgres", LEFT) == "0");
        assert_eq!(server.dumped("live"), before);
    }
}

#[test]
fn one_row_that_is_refused_ends_all_and_is_named() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE source");
    server.each(
        "source",
        &[
            "CREATE FUNCTION slow(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN IF current_database() <> ''source'' THEN PERFORM pg_catalog.pg_sleep(60); END IF; RETURN true; END'",
            "CREATE FUNCTION never(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN 1 / (current_database() = ''source'')::int = 1; END'",
            "CREATE TABLE waits (a int CHECK (slow(a)), filler text); CREATE TABLE refused (a int CHECK (never(a)), filler text)",
            // Too large to be put in one after the other.
            "INSERT INTO waits SELECT 1, repeat('x', 1200000); INSERT INTO refused SELECT 1, repeat('x', 1100000)",
        ],
    );
    repo.ok(["backup", &format!("{}/source", server.url())]);
    let url = format!("{}/back", server.url());
    let begun = std::time::Instant::now();
    let text = repo.fails(1, ["restore", "latest", "--to", &url, "--jobs", "2"]);
    assert!(begun.elapsed().as_secs() < 40, "the other session was waited for");
    assert!(text.contains("table public.refused: ") && text.contains("division by zero"), "{text}");
    assert!(text.contains("is dropped again"), "{text}");
    wait_for("the end of its sessions", 10, || server.sql("postgres", LEFT) == "0");
}

/// A database of which each part takes long to come back, and how the server shows that it is at it.
const PARTS: &[(&str, &str, &str)] = &[
    (
        "definitions",
        "DO $$ BEGIN FOR i IN 1..3000 LOOP EXECUTE format('CREATE FUNCTION f%s() RETURNS int LANGUAGE sql AS ''SELECT 1''', i); END LOOP; END $$",
        "query LIKE 'CREATE FUNCTION%'",
    ),
    (
        "rows",
        "CREATE FUNCTION slow(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN IF current_database() <> ''source'' THEN PERFORM pg_catalog.pg_sleep(60); END IF; RETURN true; END'; \
         CREATE TABLE t (a int CHECK (slow(a))); INSERT INTO t VALUES (1); CREATE TABLE u (a int)",
        "wait_event = 'PgSleep' AND query LIKE 'COPY%'",
    ),
    (
        "indexes",
        "CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN IF current_database() <> ''source'' THEN PERFORM pg_catalog.pg_sleep(60); END IF; RETURN $1; END'; \
         CREATE TABLE t (a int); INSERT INTO t VALUES (1); CREATE INDEX ON t (slow(a)); CREATE TABLE u (a int); INSERT INTO u VALUES (1); CREATE INDEX ON u (slow(a))",
        "wait_event = 'PgSleep' AND query LIKE 'CREATE INDEX%'",
    ),
];

#[test]
fn whatever_ends_it_in_whichever_part_changes_nothing() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE live");
    server.sql("live", "CREATE TABLE precious AS SELECT i FROM generate_series(1, 100) i");
    server.sql("postgres", "CREATE DATABASE empty");
    let before = server.dumped("live");
    for (part, made, sign) in PARTS {
        server.sql("postgres", "CREATE DATABASE source");
        server.sql("source", made);
        repo.ok(["backup", &format!("{}/source", server.url())]);
        server.sql("postgres", "DROP DATABASE source");
        for (signal, target) in [("-TERM", "live"), ("-INT", "empty"), ("-KILL", "live")] {
            let url = format!("{}/{target}", server.url());
            let mut command = repo.command(["restore", "latest", "--to", &url, "--replace", "--jobs", "2"]);
            let errors = std::fs::File::create(repo.path("errors")).unwrap();
            let command = command.stderr(errors).stdout(std::process::Stdio::null());
            let mut process = Process(command.spawn().unwrap());
            let is_at_it = format!(
                "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'esker restore part %' AND {sign}"
            );
            wait_for(part, 30, || server.sql("postgres", &is_at_it) == "t");
            crate::harness::run("kill", &[signal, &process.0.id().to_string()]);
            let status = process.0.wait().unwrap();
            let text = std::fs::read_to_string(repo.path("errors")).unwrap();
            assert_eq!(server.dumped("live"), before, "{part} {signal}");
            if signal == "-KILL" {
                // What it left at work, the server shows; a statement of a program that was left alone ends when it ends.
                server.sql("postgres", "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'esker restore%'");
                wait_for("the end of its sessions", 20, || {
                    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'esker restore%' OR datname LIKE 'esker%'";
                    server.sql("postgres", sessions) == "0"
                });
                continue;
            }
            assert_eq!(status.code(), Some(130), "{part} {signal}: {text}");
            wait_for("the end of its sessions", 10, || server.sql("postgres", LEFT) == "0");
            if target == "empty" {
                assert!(text.contains("database 'empty': is incomplete"), "{part}: {text}");
                server.sql("postgres", "DROP DATABASE empty");
                server.sql("postgres", "CREATE DATABASE empty");
            }
        }
    }
    // Each restore drops what the killed one before it left.
    server.sql("postgres", "CREATE DATABASE source");
    server.sql("source", "CREATE TABLE t AS SELECT 1 AS a");
    repo.ok(["backup", &format!("{}/source", server.url())]);
    let report = repo.json(["restore", "latest", "--to", &format!("{}/live", server.url()), "--replace"]);
    let notes = report["notes"].to_string();
    assert_eq!(notes.matches("dropped database 'esker_restore_").count(), 1, "{notes}");
    assert_eq!(
        (server.sql("postgres", LEFT), server.sql("live", "SELECT a FROM t")),
        ("0".into(), "1".into())
    );
}

#[test]
fn no_more_sessions_are_taken_than_the_server_has_to_spare() {
    let repo = Repo::new();
    let server =
        Postgres::version(&repo, 15, "pg", &["max_connections=12", "superuser_reserved_connections=3"]);
    server.sql("postgres", "CREATE DATABASE source");
    for number in 0..12 {
        server.sql("source", &format!("CREATE TABLE t{number} AS SELECT i, repeat(md5(i::text), 9) AS f FROM generate_series(1, 6000) i"));
    }
    repo.ok(["backup", &format!("{}/source", server.url())]);
    server.sql("postgres", "CREATE ROLE few LOGIN PASSWORD 'sesame' CREATEDB CONNECTION LIMIT 5");
    for (user, jobs) in [("postgres", "64"), ("few", "8")] {
        let url = format!("postgres://{user}:sesame@127.0.0.1:{}/back", server.port);
        let mut args = vec!["restore", "latest", "--to", &url, "--jobs", jobs];
        args.extend(if user == "few" { vec!["--no-owner"] } else { vec![] });
        repo.ok(args);
        assert_eq!(server.sql("back", "SELECT count(*) FROM t0, t11 WHERE t0.i = t11.i"), "6000");
        server.sql("postgres", "DROP DATABASE back");
    }
    for bad in ["0", "65", "x", "-1"] {
        let text = repo.fails(2, ["restore", "latest", "--to", &server.url(), &format!("--jobs={bad}")]);
        assert!(text.contains("from 1 to 64"), "{text}");
    }
    repo.ok(["backup", &format!("{}/source", server.url()), "-o", "postgres.format=plain"]);
    let url = format!("{}/back", server.url());
    let text = repo.fails(1, ["restore", "latest", "--to", &url, "--jobs", "2"]);
    assert!(text.contains("a dump in plain SQL is run by one session"), "{text}");
}

#[test]
fn thousands_of_small_tables_come_back() {
    let repo = Repo::new();
    let server = Postgres::version(&repo, 15, "pg", &["max_locks_per_transaction=512"]);
    server.sql("postgres", "CREATE DATABASE source");
    for part in 0..4 {
        server.sql(
            "source",
            &format!(
                "DO $$ BEGIN FOR i IN 1..500 LOOP EXECUTE format('CREATE TABLE t{part}_%s (a int PRIMARY KEY, b text)', i); \
                 EXECUTE format('INSERT INTO t{part}_%s SELECT %s, ''x'' WHERE %s %% 3 > 0', i, i, i); END LOOP; END $$"
            ),
        );
    }
    repo.ok(["backup", &format!("{}/source", server.url())]);
    let url = format!("{}/back", server.url());
    repo.ok(["restore", "latest", "--to", &url, "--jobs", "4"]);
    assert!(lines(&server.dumped("back")) == lines(&server.dumped("source")));
    server.sql("back", "DROP TABLE t2_77");
    repo.ok(["restore", "latest", "--to", &url, "--table", "t2_77", "--database", "source"]);
    assert!(lines(&server.dumped("back")) == lines(&server.dumped("source")));
}
