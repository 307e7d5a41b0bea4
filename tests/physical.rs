//! PostgreSQL's files: base backups, incremental ones, the WAL as it is written, any moment back.

use crate::harness::{Process, Repo, run, wait_for};
use crate::pg::{Postgres, as_postgres, bin, expect_success};
use crate::relay::Relay;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Settings of servers that are followed.
const REPLICA: &[&str] = &["max_wal_senders=5", "max_replication_slots=3", "wal_keep_size=0"];

pub(crate) fn physical(server: &Postgres) -> String {
    server.url().replace("postgres://", "postgres+physical://")
}

/// A path that pg_combinebackup of a version is found on.
pub(crate) fn path_with(version: u32) -> String {
    format!("{}:{}", bin(version).display(), std::env::var("PATH").unwrap())
}

pub(crate) fn verify(bin: &Path, data: &Path) {
    let output = as_postgres(&bin.join("pg_verifybackup"), data).arg(data).output().unwrap();
    expect_success(&output);
}

/// A server on a restored data directory, once it has recovered.
pub(crate) fn started(repo: &Repo, version: u32, folder: &str) -> Postgres {
    let home = repo.path(folder);
    if rustix::process::geteuid().is_root() {
        run("chown", &["postgres", home.to_str().unwrap()]);
    }
    let server = Postgres::on(bin(version), home, &[]);
    wait_for("recovery", 60, || server.sql("postgres", "SELECT pg_is_in_recovery()") == "f");
    server
}

pub(crate) fn data(repo: &Repo, folder: &str) -> PathBuf {
    std::fs::create_dir(repo.path(folder)).unwrap();
    repo.path(folder).join("data")
}

#[test]
fn a_base_backup_verifies_and_starts() {
    for version in [15, 18] {
        let repo = Repo::new();
        let server = Postgres::version(&repo, version, "pg", &[]);
        let space = server.home.join("space");
        std::fs::create_dir(&space).unwrap();
        if rustix::process::geteuid().is_root() {
            run("chown", &["postgres", space.to_str().unwrap()]);
        }
        server.sql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{}'", space.display()));
        server.sql(
            "postgres",
            "CREATE TABLE t TABLESPACE fast AS SELECT i, md5(i::text) m FROM generate_series(1, 50000) i",
        );
        server.sql("postgres", "CREATE TABLE u AS SELECT i FROM generate_series(1, 1000) i");
        repo.ok(["backup", &physical(&server)]);
        let target = data(&repo, "back");
        repo.ok(["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"]);
        verify(&server.bin, &target);
        let text = repo.fails(1, ["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"]);
        assert!(text.contains("has tablespaces"), "{text}");
        let text = repo.fails(1, ["restore", "latest", "--target", "x", "--time", "2026-01-01 00:00:00"]);
        assert!(text.contains("esker stream"), "{text}");
        let back = started(&repo, version, "back");
        let sum = "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY i)) FROM t";
        assert_eq!(back.sql("postgres", sum), server.sql("postgres", sum));
        // No slot is left on the server.
        assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_replication_slots"), "0");
    }
}

#[test]
fn a_second_night_costs_the_pages_that_were_touched() {
    let repo = Repo::new();
    let server = Postgres::version(&repo, 15, "pg", &["full_page_writes=on", "max_wal_size=4GB"]);
    // ESKER_CLUSTER_MB for the size that is asked for; smaller in CI.
    let megabytes: u64 = std::env::var("ESKER_CLUSTER_MB").map_or(150, |text| text.parse().unwrap());
    server.sql("postgres", &format!(
        "CREATE TABLE t AS SELECT i, md5(i::text) a, md5((i * 7)::text) b, i % 1000 c FROM generate_series(1, {}) i",
        megabytes * 9600
    ));
    server.sql("postgres", "VACUUM FREEZE t");
    server.sql("postgres", "CHECKPOINT");
    let stored = |args: &[&str]| repo.json(args)["data_added_packed"].as_u64().unwrap();
    let url = physical(&server);
    let first = stored(&["backup", &url]);
    let pages: u64 = server.sql("postgres", "SELECT pg_relation_size('t') / 8192").parse().unwrap();
    // One row of every hundredth page, all over the table.
    server.sql("postgres", &format!(
        "UPDATE t SET c = c + 1 WHERE ctid IN (SELECT format('(%s,1)', p)::tid FROM generate_series(0, {pages} - 1, 100) p)"
    ));
    server.sql("postgres", "CHECKPOINT");
    let second = stored(&["backup", &url]);
    println!(
        "cluster of {megabytes} MB: first night {first}, 1 % of pages touched: {second} ({:.2} %)",
        second as f64 / first as f64 * 100.0
    );
    assert!(second * 20 <= first, "{second} of {first}");
    let target = data(&repo, "back");
    repo.ok(["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"]);
    verify(&server.bin, &target);
}

#[test]
fn incremental_backups_are_put_together() {
    let repo = Repo::new().with("PATH", &path_with(18));
    let server = Postgres::version(&repo, 18, "pg", &["summarize_wal=on"]);
    server.sql("postgres", "CREATE TABLE t AS SELECT i, md5(i::text) m FROM generate_series(1, 1200000) i");
    // Else the first look at the rows changes every page.
    server.sql("postgres", "VACUUM FREEZE t");
    let url = physical(&server);
    let night = |repo: &Repo| {
        let summary = repo.json(["backup", "--incremental", &url]);
        (
            summary["total_bytes_processed"].as_u64().unwrap(),
            summary["snapshot_id"].as_str().unwrap().to_owned(),
        )
    };
    let (full, first) = night(&repo);
    let sum = "SELECT count(*), md5(string_agg(t::text, ',' ORDER BY i)) FROM t";
    let mut sums = vec![server.sql("postgres", sum)];
    let mut ids = vec![first];
    let mut before = full;
    for number in 0..2 {
        server.sql("postgres", &format!("UPDATE t SET m = 'x{number}' WHERE i % 4000 = {number}"));
        server.sql("postgres", "CREATE TABLE IF NOT EXISTS later (x int)");
        server.sql("postgres", "CHECKPOINT");
        sums.push(server.sql("postgres", sum));
        let (all, id) = night(&repo);
        // The files of those before are taken over; what was read is little.
        assert!(all - before < full / 2, "{all} after {before}");
        before = all;
        ids.push(id);
    }
    // What the last builds on may be forgotten.
    repo.ok(["forget", &ids[0], &ids[1]]);
    repo.ok(["prune"]);
    let target = data(&repo, "back");
    let report = repo.json(["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"]);
    assert_eq!(report["backups"], 3, "{report}");
    verify(&server.bin, &target);
    let back = started(&repo, 18, "back");
    assert_eq!(back.sql("postgres", sum), sums[2]);
}

/// What was lost of a backup, the server cannot give again: the next one does not build on it, says so, and is whole.
#[test]
fn an_incremental_backup_does_not_build_on_a_base_that_is_lost() {
    for is_list in [false, true] {
        let repo = Repo::empty().with("PATH", &path_with(18));
        repo.ok(["init", "--parity", "off"]);
        let server = Postgres::version(&repo, 18, "pg", &["summarize_wal=on"]);
        server.sql("postgres", "CREATE TABLE t AS SELECT i, md5(i::text) m FROM generate_series(1, 50000) i");
        let url = physical(&server);
        repo.ok(["backup", "--incremental", &url]);
        // The largest pack has tables, the smallest the list of files.
        let list = run(
            "find",
            &[repo.folder().join("packs").to_str().unwrap(), "-type", "f", "-printf", "%s %p\\n"],
        );
        let sized = |line: &str| {
            line.split_once(' ').map(|(len, path)| (len.parse::<u64>().unwrap(), path.to_owned()))
        };
        let mut packs: Vec<(u64, String)> = list.lines().filter_map(sized).collect();
        packs.sort_unstable();
        let lost = if is_list { packs.first() } else { packs.last() };
        std::fs::remove_file(&lost.unwrap().1).unwrap();
        server.sql("postgres", "UPDATE t SET m = 'x' WHERE i % 100 = 0");
        let output = repo.run(["backup", "--incremental", &url]);
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(said.contains("cannot be built on") && said.contains("This is a full backup"), "{said}");
        assert!(matches!(output.status.code(), Some(0 | 3)) && said.contains("'esker check'"), "{said}");
        // And the next builds on that one.
        server.sql("postgres", "UPDATE t SET m = 'y' WHERE i % 100 = 1");
        repo.ok(["backup", "--incremental", &url]);
        let target = data(&repo, "back");
        let report = repo.json(["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"]);
        assert_eq!(report["backups"], 2, "{report}");
        verify(&server.bin, &target);
    }
}

fn stream(repo: &Repo, server: &Postgres) -> Process {
    stream_of(repo, &server.url())
}

fn stream_of(repo: &Repo, url: &str) -> Process {
    let mut command = repo.command(["stream", url, "--interval", "1s", "--metrics", "metrics"]);
    let log = std::fs::OpenOptions::new().create(true).append(true).open(repo.path("stream.log")).unwrap();
    Process(
        command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(std::process::Stdio::null())
            .spawn()
            .unwrap(),
    )
}

/// The last moment that can be restored, in seconds since 1970.
fn recovery_point(repo: &Repo) -> f64 {
    let text = std::fs::read_to_string(repo.path("metrics")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("esker_stream_recovery_point_timestamp_seconds{"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

fn wait_durable(repo: &Repo, server: &Postgres) {
    let now: f64 = server.sql("postgres", "SELECT extract(epoch FROM clock_timestamp())").parse().unwrap();
    wait_for("the stream", 60, || recovery_point(repo) > now);
}

#[test]
fn any_moment_comes_back() {
    for version in [15, 18] {
        let repo = Repo::new();
        let server = Postgres::version(&repo, version, "pg", REPLICA);
        server.sql("postgres", "CREATE TABLE t (i int, at timestamptz DEFAULT clock_timestamp())");
        let mut following = stream(&repo, &server);
        wait_durable(&repo, &server);
        // Between two transactions: after the first's end, before the second's beginning.
        server.sql("postgres", "INSERT INTO t SELECT generate_series(1, 1000)");
        let time = server.sql(
            "postgres",
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        );
        server.sql("postgres", "DELETE FROM t WHERE i > 10");
        let after = server.sql(
            "postgres",
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
        );
        wait_durable(&repo, &server);
        run("kill", &["-INT", &following.0.id().to_string()]);
        assert_eq!(following.0.wait().unwrap().code(), Some(0));
        // What was kept is what the server may forget.
        assert_eq!(repo.snapshot_count(), 1);
        for (folder, time, rows) in [("before", &time, "1000"), ("after", &after, "10")] {
            let target = data(&repo, folder);
            repo.ok(["restore", "latest", "--target", target.to_str().unwrap(), "--time", time]);
            verify(&server.bin, &target);
            let back = started(&repo, version, folder);
            assert_eq!(
                back.sql("postgres", "SELECT count(*) FROM t"),
                rows,
                "PostgreSQL {version}, {folder}"
            );
        }
        let text = repo.fails(1, ["restore", "latest", "--target", "x", "--time", "2100-01-01 00:00:00"]);
        assert!(text.contains("is not in it"), "{text}");
        // It goes on where it was, with the same base.
        server.sql("postgres", "INSERT INTO t SELECT generate_series(2001, 2005)");
        let _again = stream(&repo, &server);
        wait_durable(&repo, &server);
        assert_eq!(repo.snapshot_count(), 1);
        let target = data(&repo, "last");
        repo.ok(["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"]);
        let back = started(&repo, version, "last");
        assert_eq!(back.sql("postgres", "SELECT count(*) FROM t"), "15");
        assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_replication_slots"), "1");
    }
}

/// A line that breaks while a segment is received again leaves what the last snapshot has of it.
#[test]
fn wal_that_is_received_again_takes_no_longer_ones_place() {
    let repo = Repo::new();
    let server = Postgres::version(&repo, 15, "pg", REPLICA);
    let relay = Relay::to(server.port, u64::MAX);
    let url = server.url().replace(&server.port.to_string(), &relay.port.to_string());
    let interrupt = |mut process: Process| {
        run("kill", &["-INT", &process.0.id().to_string()]);
        process.0.wait().unwrap();
    };
    let following = stream_of(&repo, &url);
    wait_durable(&repo, &server);
    // All of it in one segment of 16 MiB.
    server.sql("postgres", "SELECT pg_switch_wal()");
    server.sql("postgres", "CREATE TABLE t AS SELECT i, md5(i::text) m FROM generate_series(1, 60000) i");
    wait_durable(&repo, &server);
    interrupt(following);
    relay.allow(2 << 20);
    let following = stream_of(&repo, &url);
    let told = || std::fs::read_to_string(repo.path("stream.log")).unwrap();
    wait_for("the break", 60, || told().contains("detached"));
    interrupt(following);
    assert_eq!(repo.snapshot_count(), 1, "{}", told());
    let target = data(&repo, "back");
    repo.ok(["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"]);
    let back = started(&repo, 15, "back");
    assert_eq!(back.sql("postgres", "SELECT count(*) FROM t"), "60000");
}

#[test]
fn kills_leave_no_gap() {
    let repo = Repo::new();
    let mut server = Postgres::version(
        &repo,
        15,
        "pg",
        &["max_wal_senders=5", "max_wal_size=64MB", "min_wal_size=32MB", "wal_keep_size=0"],
    );
    server.sql("postgres", "CREATE TABLE a (i bigint)");
    server.sql("postgres", "CREATE TABLE b (i bigint, filler text)");
    let mut following = stream(&repo, &server);
    wait_durable(&repo, &server);
    // ESKER_WAL_SECONDS for longer runs.
    let seconds: u64 = std::env::var("ESKER_WAL_SECONDS").map_or(20, |text| text.parse().unwrap());
    let (start, mut number, mut kills) = (Instant::now(), 0u64, 0);
    let mut moments = vec![];
    while start.elapsed() < Duration::from_secs(seconds) {
        // What is acknowledged must be there; both tables or none.
        for _ in 0..20 {
            number += 1;
            server.sql("postgres", &format!("WITH x AS (INSERT INTO a VALUES ({number})) INSERT INTO b SELECT {number}, repeat('y', 2000) FROM generate_series(1, 20)"));
        }
        if moments.len() < 6 && number.is_multiple_of(60) {
            moments.push((server.sql("postgres", "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"), number));
        }
        kills += 1;
        if kills % 3 == 0 {
            server.kill();
            server.up();
        } else {
            following.0.kill().unwrap();
            following.0.wait().unwrap();
            // So much WAL that what is not held by the slot is gone.
            server
                .sql("postgres", "INSERT INTO b SELECT 0, repeat('z', 1000) FROM generate_series(1, 20000)");
            server.sql("postgres", "CHECKPOINT");
            following = stream(&repo, &server);
        }
        std::thread::sleep(Duration::from_millis(700 * (kills % 4)));
    }
    wait_durable(&repo, &server);
    run("kill", &["-INT", &following.0.id().to_string()]);
    following.0.wait().unwrap();
    assert_eq!(
        repo.snapshot_count(),
        1,
        "one base, no gap: {}",
        std::fs::read_to_string(repo.path("stream.log")).unwrap()
    );
    moments.push((String::new(), number));
    println!("{kills} kills, {number} transactions, {} moments", moments.len());
    for (place, (time, number)) in moments.iter().enumerate() {
        let folder = format!("back{place}");
        let target = data(&repo, &folder);
        let mut args = vec!["restore", "latest", "--target", target.to_str().unwrap(), "--prepare"];
        if !time.is_empty() {
            args.extend(["--time", time]);
        }
        repo.ok(args);
        let mut back = started(&repo, 15, &folder);
        assert_eq!(back.sql("postgres", "SELECT max(i), count(*) FROM a"), format!("{number}|{number}"));
        assert_eq!(back.sql("postgres", "SELECT count(DISTINCT i) FROM b WHERE i > 0"), number.to_string());
        back.stop();
        std::fs::remove_dir_all(repo.path(&folder)).unwrap();
    }
    repo.ok(["check"]);
    repo.ok(["stream", &server.url(), "--drop-slot"]);
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_replication_slots"), "0");
}

#[test]
fn what_a_server_does_not_allow_is_told() {
    let repo = Repo::new();
    let server = Postgres::version(&repo, 15, "pg", &["wal_level=minimal", "max_wal_senders=0"]);
    let text = repo.fails(25, ["stream", &server.url()]);
    assert!(text.contains("max_wal_senders"), "{text}");
    drop(server);
    let few = Postgres::version(&repo, 15, "few", &["max_replication_slots=1"]);
    few.sql("postgres", "SELECT pg_create_physical_replication_slot('other')");
    let text = repo.fails(25, ["stream", &few.url()]);
    assert!(text.contains("max_replication_slots"), "{text}");
    few.sql("postgres", "CREATE ROLE plain LOGIN PASSWORD 'plain'");
    let url = few.url().replace("postgres:sesame", "plain:plain");
    let text = repo.fails(25, ["backup", &url.replace("postgres://", "postgres+physical://")]);
    assert!(text.contains("REPLICATION"), "{text}");
    // A base that cannot be finished leaves no slot.
    few.sql("postgres", "SELECT pg_drop_replication_slot('other')");
    few.sql("postgres", "CREATE TABLE big AS SELECT repeat('x', 1000) FROM generate_series(1, 100000)");
    let mut following = stream(&repo, &few);
    let kill =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'BASE_BACKUP%'";
    wait_for("the base", 20, || few.sql("postgres", kill) != "0");
    following.0.wait().unwrap();
    assert_eq!(few.sql("postgres", "SELECT count(*) FROM pg_replication_slots"), "0");
    assert_eq!(repo.snapshot_count(), 0);
}
