//! Restores into a PostgreSQL that get in each other's way or are killed at the worst moment, servers behind sockets, and names that
//! write on a terminal.

use crate::harness::{Process, Repo, wait_for};
use crate::mariadb::Maria;
use crate::pg::{Postgres, VERSIONS, bin};
use crate::pgr_databases::dumped_whole;
use std::process::{Output, Stdio};
use std::time::Duration;

const OURS: &str = "SELECT count(*) FROM pg_database WHERE datname LIKE 'esker%'";

/// A session that runs `sql` in a transaction and holds what that locks.
fn holder(server: &Postgres, database: &str, sql: &str) -> Process {
    let mut command = server.program("psql");
    command.args(["-d", database, "-Xq", "-c", &format!("BEGIN; {sql}; SELECT pg_sleep(200)")]);
    let process = Process::start(command.stdout(Stdio::null()));
    wait_for("the lock", 20, || {
        server.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1"
    });
    process
}

fn end(server: &Postgres, like: &str) {
    let of = format!("FROM pg_stat_activity WHERE query LIKE '{like}' AND pid <> pg_backend_pid()");
    server.sql("postgres", &format!("SELECT pg_terminate_backend(pid) {of}"));
    wait_for("its end", 20, || server.sql("postgres", &format!("SELECT count(*) {of}")) == "0");
}

/// Killed between the moment that a database is there and the one that it bears a mark: the next restore removes it, and nothing that
/// only looks like it.
#[test]
fn a_database_without_a_mark_is_removed_if_it_is_empty() {
    for &version in VERSIONS {
        let path = format!("{}:{}", bin(version).display(), std::env::var("PATH").unwrap());
        let repo = Repo::new().with("PATH", &path);
        let server = Postgres::version(&repo, version, "pg", &[]);
        server.sql("postgres", "CREATE DATABASE live");
        server.sql("live", "CREATE TABLE t AS SELECT 1 AS a");
        repo.ok(["backup", &format!("{}/live", server.url())]);
        for (target, expected) in [("live", "live"), ("fresh", "live")] {
            let url = format!("{}/{target}", server.url());
            let args = ["restore", "latest", "--to", &url, "--replace"];
            let held = holder(&server, "postgres", "LOCK TABLE pg_shdescription IN SHARE MODE");
            let mut restore = Process::start(&mut repo.command(args));
            wait_for("the comment", 30, || {
                server.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COMMENT ON%' AND wait_event_type = 'Lock'") == "1"
            });
            restore.0.kill().unwrap();
            restore.0.wait().unwrap();
            end(&server, "COMMENT ON%");
            drop(held);
            end(&server, "%pg_sleep%");
            let left = server.sql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'esker%' AND NOT datallowconn AND shobj_description(oid, 'pg_database') IS NULL");
            assert!(left.starts_with("esker_restore_"), "{left}");
            assert_eq!(
                server.sql(
                    "postgres",
                    "SELECT string_agg(datname, ' ') FROM pg_database WHERE datname IN ('live', 'fresh')"
                ),
                expected
            );
            // What somebody has put something into, or may enter, is not of this kind.
            for name in [
                "esker_restore_0123456789abcdef_0",
                "esker_restore_0123456789abcdef_1",
                "esker_restore_0123456789abcdef_x",
            ] {
                server.sql("postgres", &format!("CREATE DATABASE {name}"));
            }
            server.sql("esker_restore_0123456789abcdef_0", "CREATE TABLE precious (a int)");
            server.each(
                "postgres",
                &[
                    "ALTER DATABASE esker_restore_0123456789abcdef_0 ALLOW_CONNECTIONS false",
                    "ALTER DATABASE esker_restore_0123456789abcdef_x ALLOW_CONNECTIONS false",
                ],
            );
            let plan = repo.json(args.into_iter().chain(["--dry-run"]))["plan"].to_string();
            assert!(
                plan.contains(&format!(
                    "drop database '{left}', which an interrupted restore left, if it is empty"
                )),
                "{plan}"
            );
            let notes = repo.json(args)["notes"].to_string();
            assert!(notes.contains(&format!("dropped database '{left}'")), "{notes}");
            assert!(notes.contains("abcdef_0' may be") && notes.contains("1 object"), "{notes}");
            assert_eq!(
                server.sql("postgres", "SELECT string_agg(datname || datallowconn, ' ' ORDER BY datname) FROM pg_database WHERE datname LIKE 'esker%'").replace("esker_restore_0123456789abcdef", ""),
                "_0false _1true _xfalse"
            );
            assert_eq!(server.sql(target, "SELECT a FROM t"), "1");
            for name in ["_0", "_1", "_x"] {
                server.sql("postgres", &format!("DROP DATABASE esker_restore_0123456789abcdef{name}"));
            }
        }
        server.sql("postgres", "DROP DATABASE fresh");
    }
}

/// Two snapshots of one database, restored at once over one that is there, into one that is there and empty, and into none: one of the
/// two is what it has afterwards, and whoever did not bring it has not said that it did.
#[test]
fn of_two_restores_into_one_database_one_is_refused() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    let mut contents = vec![];
    for (name, rows) in [("first", 60_000), ("second", 20_000)] {
        server.sql("postgres", "CREATE DATABASE two");
        server.sql("two", &format!("CREATE TABLE {name} AS SELECT i, md5(i::text) FROM generate_series(1, {rows}) i; CREATE INDEX ON {name} (md5)"));
        contents.push(dumped_whole(&server, "two"));
        repo.ok(["backup", &format!("{}/two", server.url())]);
        server.sql("postgres", "DROP DATABASE two");
    }
    let url = format!("{}/two", server.url());
    for before in ["live", "empty", "none"] {
        for offset in [0, 150, 400, 900] {
            server.sql("postgres", "DROP DATABASE IF EXISTS two");
            if before != "none" {
                server.sql("postgres", "CREATE DATABASE two");
            }
            if before == "live" {
                server.sql("two", "CREATE TABLE live (a int)");
            }
            let spawn = |snapshot: &str| {
                let mut args = vec!["restore", snapshot, "--to", &url];
                args.extend((before == "live").then_some("--replace"));
                repo.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
            };
            let first = spawn("latest~1");
            std::thread::sleep(Duration::from_millis(offset));
            let second = spawn("latest");
            let outputs: [Output; 2] = [first, second].map(|child| child.wait_with_output().unwrap());
            let texts = outputs.each_ref().map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
            let codes = outputs.each_ref().map(|output| output.status.code());
            // A restore that is over within the second for which the other tries the lock is replaced by it.
            let right = match codes {
                [Some(0), Some(0)] if before == "live" => &contents[..],
                [Some(0), Some(1)] => &contents[..1],
                [Some(1), Some(0)] => &contents[1..],
                _ => panic!("{before} {offset}: {codes:?} {texts:?}"),
            };
            assert!(right.contains(&dumped_whole(&server, "two")), "{before} {offset}: {codes:?} {texts:?}");
            assert_eq!(server.sql("postgres", OURS), "0");
        }
    }
    // One that takes long.
    server.each("postgres", &["DROP DATABASE two", "CREATE DATABASE two"]);
    server.sql("two", "CREATE TABLE live (a int)");
    let held = holder(&server, "postgres", "LOCK TABLE pg_shdescription IN SHARE MODE");
    let args = |snapshot: &'static str| ["restore", snapshot, "--to", &url, "--replace"];
    let child = repo.command(args("latest~1")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the new database", 30, || server.sql("postgres", OURS) == "1");
    let text = repo.fails(1, args("latest"));
    assert!(
        text.contains("another restore into database 'two' is at work (session ")
            && text.contains("of 'postgres'"),
        "{text}"
    );
    drop(held);
    end(&server, "%pg_sleep%");
    crate::harness::expect(&child.wait_with_output().unwrap(), 0);
    assert!(dumped_whole(&server, "two") == contents[0]);
    // A lock belongs to the database that its session is in, and a restore of all databases is in another one.
    let hash = blake3::hash(b"esker restore two");
    let key = i64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap());
    for database in ["template1", "postgres", "two"] {
        let held = holder(&server, database, &format!("SELECT pg_advisory_lock({key})"));
        let text = repo.fails(1, args("latest"));
        assert!(
            text.contains("another restore into database 'two' is at work (session "),
            "{database}: {text}"
        );
        drop(held);
        end(&server, "%pg_sleep%");
    }
    assert!(dumped_whole(&server, "two") == contents[0]);
    repo.ok(args("latest"));
    assert!(dumped_whole(&server, "two") == contents[1]);
}

/// A server that is reached by its socket only, in every way that a URL can say it.
#[test]
fn by_sockets_there_and_back() {
    let repo = Repo::new().with("PGPASSWORD", "sesame");
    let server = Postgres::version(&repo, 15, "a folder", &[]);
    let sql = |database: &str, sql: &str| {
        let mut command = server.program("psql");
        command.env("PGHOST", &server.home).args([
            "-d",
            database,
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-c",
            sql,
        ]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    };
    std::fs::write(
        server.home.join("data/pg_hba.conf"),
        "local all all scram-sha-256\nhost all all all reject\n",
    )
    .unwrap();
    sql("postgres", "SELECT pg_reload_conf()");
    wait_for("the refusal", 20, || server.try_sql("postgres", "SELECT 1").is_none());
    sql("postgres", "CREATE DATABASE shop");
    sql(
        "shop",
        "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 5000) i; CREATE INDEX ON t (md5); SELECT lo_from_bytea(7, 'large')",
    );
    let folder = server.home.to_str().unwrap();
    let percent = folder.replace('/', "%2F").replace(' ', "%20");
    let port = server.port;
    for (number, base) in [
        "postgres://postgres@DB?host=FOLDER&port=PORT",
        "postgresql:///DB?host=FOLDER&port=PORT&user=postgres",
        "postgres://postgres@ESCAPED:PORT/DB",
        "postgres://postgres:sesame@/DB?port=PORT&host=ESCAPED",
    ]
    .into_iter()
    .enumerate()
    {
        let base = base.replace("postgres@DB", "postgres@/DB");
        let url = |name: &str| {
            base.replace("FOLDER", &folder.replace(' ', "%20"))
                .replace("ESCAPED", &percent)
                .replace("PORT", &port.to_string())
                .replace("DB", name)
        };
        for format in ["directory", "custom", "plain"] {
            repo.ok(["backup", &url("shop"), "-o", &format!("postgres.format={format}")]);
            let copy = format!("copy{number}{format}");
            repo.ok(["restore", "latest", "--to", &url(&copy)]);
            repo.ok(["restore", "latest", "--to", &url(&copy), "--replace"]);
            let digest = "SELECT md5(string_agg(t::text, ',' ORDER BY i)) || (SELECT count(*) FROM pg_indexes WHERE tablename = 't') || (SELECT convert_from(lo_get(7), 'UTF8')) FROM t";
            assert_eq!(sql(&copy, digest), sql("shop", digest), "{base} {format}");
        }
        repo.ok(["restore", "latest~1", "--to", &url("shop"), "--table", "t", "--replace"]);
    }
    // All databases, and another server's socket.
    repo.ok(["backup", &format!("postgres://postgres@{percent}:{port}")]);
    let target = Postgres::version(&repo, 15, "target", &[]);
    let place = target.home.to_str().unwrap().replace('/', "%2F");
    repo.ok(["restore", "latest", "--to", &format!("postgres://postgres@{place}:{}", target.port)]);
    assert_eq!(target.sql("shop", "SELECT count(*) FROM t"), "5000");
}

/// The same for MariaDB.
#[test]
fn by_sockets_there_and_back_mariadb() {
    let repo = Repo::new().with("USER", "root");
    let server = Maria::with(&repo, "my", vec!["--skip-networking".into()]);
    server.root("CREATE DATABASE shop; USE shop; CREATE TABLE shop.t AS SELECT seq FROM seq_1_to_500; CREATE PROCEDURE shop.p() SELECT 1");
    let socket = server.home.join("s.sock").display().to_string().replace(' ', "%20");
    for (number, base) in [
        format!("mysql://root@localhost/DB?socket={socket}"),
        format!("mysql://root@localhost/DB?socket={}", socket.replace('/', "%2F")),
        format!("mysql:///DB?socket={socket}"),
    ]
    .into_iter()
    .enumerate()
    {
        let url = |name: &str| base.replace("DB", name);
        repo.ok(["backup", &url("shop")]);
        let copy = format!("copy{number}");
        repo.ok(["restore", "latest", "--to", &url(&copy)]);
        repo.ok(["restore", "latest", "--to", &url(&copy), "--replace"]);
        assert_eq!(server.root(&format!("SELECT sum(seq) FROM {copy}.t; CALL {copy}.p()")), "125250\n1");
    }
}

/// What no name may bring to a terminal.
#[track_caller]
fn harmless(output: &Output) {
    for text in [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()) {
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text:?}");
        let forged = text.lines().find(|line| line.trim_start().starts_with("forged"));
        assert!(forged.is_none(), "{text}");
    }
}

const NAME: &str = "x\u{1b}[2Jy\nforged: z\u{202e}";

/// Names of databases, tables and users that hold escape sequences and line feeds, in everything that is said of them.
#[test]
fn names_write_nothing_on_a_terminal() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    let name = format!("\"{NAME}\"");
    server.each(
        "postgres",
        &[
            &format!("CREATE DATABASE {name}"),
            &format!("CREATE ROLE {name} LOGIN PASSWORD 'sesame'"),
            &format!("ALTER DATABASE {name} OWNER TO {name}"),
        ],
    );
    server.sql(NAME, &format!("CREATE TABLE {name} ({name} int CHECK ({name} > 0)); INSERT INTO {name} VALUES (1); CREATE VIEW \"v{NAME}\" AS SELECT * FROM {name}; ALTER TABLE {name} OWNER TO {name}"));
    let maria = Maria::start(&repo, "my");
    let own = format!("`{NAME}`");
    maria.root(&format!("CREATE DATABASE {own}; USE {own}; CREATE TABLE {own} (a int, CHECK (a > 0)); INSERT INTO {own} VALUES (1); CREATE VIEW `v{NAME}` AS SELECT * FROM {own}; CREATE PROCEDURE `p{NAME}`() SELECT 1; CREATE USER {own} IDENTIFIED BY 'x'; GRANT SELECT ON {own}.* TO {own}"));
    let percent: String = NAME.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let stranger = |url: String, user: &str| url.replace(user, &format!("{percent}:wrong@"));
    for (url, user, refuse, key) in [
        (server.url(), "postgres:sesame@", None, "postgres"),
        (
            maria.url(),
            "keeper:ses%22ame%23@",
            Some(format!(
                "INSERT INTO {own}.{own} VALUES (2); SET check_constraint_checks = 0; INSERT INTO {own}.{own} VALUES (-1)"
            )),
            "mysql",
        ),
    ] {
        let run = |args: &[&str]| {
            let output = repo.run(args);
            harmless(&output);
            output.status.code()
        };
        assert_eq!(run(&["backup", &url]), Some(0), "{key}");
        assert_eq!(run(&["ls", "latest"]), Some(0));
        assert_eq!(run(&["ls", "-l", "latest"]), Some(0));
        let (database, table) = (format!("--database={NAME}"), format!("--table={NAME}"));
        // In the way, planned, replaced, missing, single tables.
        let to = ["restore", "latest", "--to", &url];
        let with = |more: &[&str]| run(&[&to[..], more].concat());
        assert_eq!(with(&[&database]), Some(1));
        assert_eq!(with(&[&database, "--replace", "--dry-run"]), Some(0));
        assert_eq!(with(&[&database, "--replace"]), Some(0));
        assert_eq!(with(&[&database, &table]), Some(1));
        // PostgreSQL keeps a table that a view needs.
        let code = if key == "mysql" { 0 } else { 1 };
        assert_eq!(with(&[&database, &table, "--replace"]), Some(code));
        assert!(with(&[&database, &table, "--replace", "-n"]).is_some());
        assert_eq!(with(&[&database, &format!("--table=no{NAME}")]), Some(1));
        assert_eq!(with(&[&format!("--database=no{NAME}")]), Some(1));
        let there = format!("{url}/no{percent}");
        assert_ne!(run(&["backup", &there]), Some(0));
        assert_ne!(run(&["backup", &stranger(url.clone(), user)]), Some(0));
        assert_ne!(run(&["restore", "latest", "--to", &stranger(url.clone(), user), &database]), Some(0));
        if let Some(refuse) = refuse {
            // Refused by the server in the middle.
            maria.root(&refuse);
            assert_eq!(run(&["backup", &url]), Some(0));
            assert_eq!(with(&[&database, "--replace"]), Some(1));
            assert_eq!(with(&[&database, "--replace", "--keep-going"]), Some(3));
        }
    }
}

/// Where standard error is no terminal, each part of a restore leaves a line with its own total.
#[test]
fn each_phase_has_its_own_line() {
    let repo = Repo::new().with("ESKER_PROGRESS_FPS", "200");
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql(
        "shop",
        "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 100000) i; CREATE INDEX ON t (md5)",
    );
    let maria = Maria::start(&repo, "my");
    maria.root("CREATE DATABASE shop; USE shop; CREATE TABLE shop.t AS SELECT seq, sha2(seq, 512) AS a FROM seq_1_to_60000; CREATE VIEW shop.v AS SELECT * FROM shop.t; CREATE PROCEDURE shop.p() SELECT 1");
    for (url, phases) in [
        (
            server.url(),
            &[
                "definitions",
                "rows",
                "indexes (1), constraints (0) and what else follows the rows",
                "owner, privileges, settings and name",
            ][..],
        ),
        (
            maria.url(),
            &[
                "reading what the snapshot has",
                "tables",
                "the new tables take the place of the old ones",
                "routines, triggers and events",
            ][..],
        ),
    ] {
        for format in
            ["directory", "custom"].into_iter().take(if url.starts_with("postgres") { 2 } else { 1 })
        {
            let url = format!("{url}/shop");
            let option = format!("postgres.format={format}");
            let more: &[&str] = if url.starts_with("postgres") { &["-o", &option] } else { &[] };
            repo.ok([&["backup", url.as_str()], more].concat());
            // With -v a phase leaves its last line however short it is.
            let output = repo.run(["restore", "latest", "--to", &url, "--replace", "-v"]);
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{text}");
            for phase in phases {
                // The last line of a phase.
                let of = format!("database 'shop': {phase}: ");
                let line = text.lines().find(|line| line.starts_with(&of) && line.contains(" in "));
                assert!(line.is_some(), "{phase}: {text}");
            }
            let totals: Vec<&str> =
                text.lines().filter(|line| line.contains(" of ") && line.contains("MiB")).collect();
            let first = ["rows", "tables"].map(|word| format!("database 'shop': {word}: "));
            let own = totals.iter().find(|line| first.iter().any(|first| line.contains(first)));
            assert!(own.is_some(), "{text}");
        }
    }
}
