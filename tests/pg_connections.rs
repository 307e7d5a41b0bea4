//! Servers that let nobody in any more: what a restore says is so, and the next one goes on from what it finds.

use crate::harness::{Process, Repo, wait_for};
use crate::pg::Postgres;
use std::process::Stdio;

/// All databases.
const DATABASES: &str = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database";
/// A database whose second row takes a minute to come back.
const SLOW: &str = "CREATE FUNCTION slow(int) RETURNS bool LANGUAGE plpgsql AS \
    'BEGIN IF current_database() <> ''source'' AND current_setting(''a.fast'', true) IS NULL THEN PERFORM pg_catalog.pg_sleep(60); END IF; RETURN true; END'; \
    CREATE TABLE t (a int PRIMARY KEY CHECK (slow(a))); INSERT INTO t VALUES (1)";

/// A session that does nothing, if it is let in.
fn idle(server: &Postgres) -> Process {
    let mut command = server.program("psql");
    command.args(["-XAtq", "-d", "postgres", "-c", "SELECT pg_sleep(600)"]);
    Process(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

/// However many connections are free, from none to enough: a restore that has too few leaves nothing, and ends with the
/// code of a server that refuses.
#[test]
fn connections_that_are_used_up_leave_nothing_behind() {
    let repo = Repo::new();
    let server = Postgres::version(
        &repo,
        15,
        "pg",
        &[
            "max_connections=10",
            "superuser_reserved_connections=0",
            "max_wal_senders=0",
            // A session that waits does not notice by itself that nobody is there any more.
            "client_connection_check_interval=100ms",
        ],
    );
    server.sql("postgres", "CREATE DATABASE source");
    server.sql("source", "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1)");
    let before = server.sql("postgres", DATABASES);
    repo.ok(["backup", &format!("{}/source", server.url())]);
    let url = format!("{}/shop", server.url());
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
    let (mut refused, mut done) = (0, 0);
    for free in 0..10 {
        // Who asks how many there are is one of them.
        let asks = free.max(1);
        let idlers: Vec<Process> = (asks..10).map(|_| idle(&server)).collect();
        let wanted = (11 - asks).to_string();
        wait_for("the idle sessions", 20, || {
            server.try_sql("postgres", sessions).as_deref() == Some(wanted.as_str())
        });
        let mut last = None;
        if free == 0 {
            // The question must not have the last place, neither before nor after.
            let pause = std::time::Duration::from_secs(1);
            std::thread::sleep(pause);
            last = Some(idle(&server));
            std::thread::sleep(pause);
            assert_eq!(server.try_sql("postgres", "SELECT 1"), None);
        }
        let output = repo.command(["restore", "latest", "--to", &url]).output().unwrap();
        drop((idlers, last));
        wait_for("their end", 20, || server.try_sql("postgres", sessions).is_some_and(|count| count == "1"));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            done += 1;
            server.sql("postgres", "DROP DATABASE shop");
        } else {
            refused += 1;
            assert_eq!(output.status.code(), Some(25), "{free}: {text}");
            assert!(text.contains("too many clients"), "{free}: {text}");
            assert!(!text.contains("could not be dropped"), "{free}: {text}");
            assert!(!text.contains("pg_restore: pg_restore"), "{free}: {text}");
            assert_eq!(server.sql("postgres", DATABASES), before, "{free}: {text}");
        }
    }
    assert!(refused > 1 && done > 0, "{refused} {done}");
}

/// A server that ends all sessions of a restore and lets no new one in: what is left is said once, and the next restore
/// replaces it without being told to.
#[test]
fn what_could_not_be_dropped_is_replaced_by_the_next_restore() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE source");
    server.sql("source", SLOW);
    let url = format!("{}/shop", server.url());
    for format in ["directory", "plain"] {
        repo.ok(["backup", &format!("{}/source", server.url()), "-o", &format!("postgres.format={format}")]);
        let mut command = repo.command(["restore", "latest", "--to", &url]);
        let errors = std::fs::File::create(repo.path("errors")).unwrap();
        let mut process = Process(command.stderr(errors).stdout(Stdio::null()).spawn().unwrap());
        wait_for("the slow rows", 30, || {
            let sql =
                "SELECT count(*) FROM pg_stat_activity WHERE datname = 'shop' AND wait_event = 'PgSleep'";
            server.sql("postgres", sql) == "1"
        });
        let rules = server.home.join("data/pg_hba.conf");
        let old = std::fs::read_to_string(&rules).unwrap();
        std::fs::write(&rules, "host all all all reject\n").unwrap();
        server.sql(
            "postgres",
            "SELECT pg_reload_conf(); SELECT pg_sleep(1); \
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'",
        );
        let status = process.0.wait().unwrap();
        std::fs::write(&rules, old).unwrap();
        let postmaster = std::fs::read_to_string(server.home.join("data/postmaster.pid")).unwrap();
        crate::harness::run("kill", &["-HUP", postmaster.lines().next().unwrap()]);
        wait_for("a login", 20, || server.try_sql("postgres", "SELECT 1").is_some());
        let text = std::fs::read_to_string(repo.path("errors")).unwrap();
        assert_eq!(status.code(), Some(25), "{format}: {text}");
        assert_eq!(text.matches("database 'shop':").count(), 1, "{format}: {text}");
        assert!(
            text.contains("is incomplete, because its restore ended early, and could not be dropped"),
            "{text}"
        );
        assert!(!text.contains("is dropped again"), "{format}: {text}");
        // The next one, which may be of another snapshot, goes on without --replace.
        server.sql("postgres", "ALTER ROLE postgres SET a.fast = 'yes'");
        let report = repo.json(["restore", "latest", "--to", &url]);
        let told = report.to_string();
        assert!(told.contains("left by an interrupted restore"), "{format}: {told}");
        assert_eq!(server.sql("shop", "SELECT sum(a) FROM t"), "1");
        assert_eq!(
            server.sql("postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'esker%'"),
            "0"
        );
        // What is complete is no longer replaced unasked.
        let text = repo.fails(1, ["restore", "latest", "--to", &url]);
        assert!(text.contains("is not empty"), "{format}: {text}");
        server.each("postgres", &["ALTER ROLE postgres RESET a.fast", "DROP DATABASE shop"]);
    }
}
