//! Which moments of a live stream can be restored: those of which it is known that everything up to them has come, however
//! long the line is silent; and what is durable stays, whatever another history of the server brings.

use crate::harness::{Process, Repo, expect, run, wait_for};
use crate::mariadb::Maria;
use crate::pg::{Postgres, bin};
use crate::redis::{Redis, apt_redis};
use crate::relay::Dam;
use std::process::Stdio;

/// `esker stream`, whose words go to a file.
struct Stream(Process);

impl Stream {
    fn start(repo: &Repo, url: &str) -> Self {
        let _ = std::fs::remove_file(repo.path("metrics"));
        let log = std::fs::File::create(repo.path("said")).unwrap();
        let mut command = repo.command(["stream", url, "--interval", "1s", "--metrics", "metrics"]);
        command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null());
        Self(Process(command.spawn().unwrap()))
    }

    /// Ends it as ctrl-C does; returns what it said.
    fn finish(mut self, repo: &Repo) -> String {
        run("kill", &["-INT", &self.0.0.id().to_string()]);
        assert_eq!(self.0.0.wait().unwrap().code(), Some(0), "{}", said(repo));
        said(repo)
    }
}

fn said(repo: &Repo) -> String {
    std::fs::read_to_string(repo.path("said")).unwrap()
}

/// The last moment that can be restored, in seconds since 1970.
fn until(repo: &Repo) -> f64 {
    let text = std::fs::read_to_string(repo.path("metrics")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("esker_stream_recovery_point_timestamp_seconds{"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

fn seconds(time: jiff::Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1e3
}

fn wait_until(repo: &Repo, time: jiff::Timestamp) {
    wait_for("the stream", 60, || until(repo) > seconds(time));
}

const DISKLESS: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

fn redis(repo: &Repo, name: &str) -> Redis {
    Redis::start(&apt_redis(), &repo.path(name), &DISKLESS)
}

/// What a moment of a Redis is.
fn value_at(repo: &Repo, key: &str, time: jiff::Timestamp) -> String {
    let target = redis(repo, &format!("at-{}", time.as_nanosecond()));
    repo.ok(["restore", "latest", "--to", &target.url(), "--time", &time.to_string()]);
    target.cli(&["GET", key]).trim().to_owned()
}

#[test]
fn a_redis_line_that_stalls_completes_no_moment() {
    let repo = Repo::new();
    let server = redis(&repo, "redis");
    let dam = Dam::before(server.port(), "PSYNC");
    let url = format!("redis://127.0.0.1:{}", dam.port);
    let stream = Stream::start(&repo, &url);
    wait_until(&repo, jiff::Timestamp::now());
    server.cli(&["SET", "a", "1"]);
    let first = jiff::Timestamp::now();
    wait_until(&repo, first);
    dam.close();
    for value in ["2", "3", "4", "5"] {
        server.cli(&["SET", "a", value]);
    }
    let missing = jiff::Timestamp::now();
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(until(&repo) < seconds(missing), "{} {missing}", until(&repo));
    let said = stream.finish(&repo);
    let args = ["restore", "latest", "--to", "redis://127.0.0.1:1", "--time", &missing.to_string()];
    let refused = repo.fails(1, args);
    assert!(refused.contains("is not in it"), "{refused} {said}");
    assert_eq!(value_at(&repo, "a", first), "1");
    // What comes late has the time at which it was executed.
    dam.open();
    let stream = Stream::start(&repo, &url);
    wait_until(&repo, jiff::Timestamp::now());
    dam.close();
    server.cli(&["SET", "a", "6"]);
    let sixth = jiff::Timestamp::now();
    std::thread::sleep(std::time::Duration::from_secs(1));
    server.cli(&["SET", "a", "7"]);
    let seventh = jiff::Timestamp::now();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(until(&repo) < seconds(sixth), "{} {sixth}", until(&repo));
    dam.open();
    wait_until(&repo, seventh);
    stream.finish(&repo);
    assert_eq!(value_at(&repo, "a", first), "1");
    assert_eq!(value_at(&repo, "a", sixth), "6");
    assert_eq!(value_at(&repo, "a", seventh), "7");
    assert_eq!(repo.snapshot_count(), 1);
}

/// What was acknowledged is part of the last moment that can be restored.
#[test]
fn a_redis_that_dies_loses_nothing_that_waited() {
    let repo = Repo::new();
    let server = redis(&repo, "redis");
    let stream = Stream::start(&repo, &server.url());
    wait_until(&repo, jiff::Timestamp::now());
    let mut last = 0;
    for number in 1..=30 {
        let write = format!("SET a {number}");
        match number % 10 {
            0 => {
                assert_eq!(server.acknowledged(&write), "1");
                last = number;
            }
            _ => drop(server.cli(&write.split(' ').collect::<Vec<_>>())),
        }
    }
    drop(server);
    wait_for("the end", 20, || said(&repo).contains("detached"));
    let until = jiff::Timestamp::from_millisecond((until(&repo) * 1e3).round() as i64).unwrap();
    stream.finish(&repo);
    assert_eq!(value_at(&repo, "a", until), last.to_string());
}

/// The same history under another name goes on; another history begins a base of its own, and the old one stays.
#[test]
fn another_replication_id() {
    let repo = Repo::new();
    let (server, replica) = (redis(&repo, "redis"), redis(&repo, "replica"));
    let stream = Stream::start(&repo, &server.url());
    wait_until(&repo, jiff::Timestamp::now());
    server.cli(&["SET", "a", "1"]);
    let place = |redis: &Redis| redis.port().to_string();
    replica.cli(&["REPLICAOF", "127.0.0.1", &place(&server)]);
    let in_step = |redis: &Redis| {
        wait_for("in step", 30, || redis.cli(&["INFO", "replication"]).contains("master_link_status:up"));
    };
    in_step(&replica);
    // A failover: the replica is promoted, and the master follows it.
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    server.cli(&["REPLICAOF", "127.0.0.1", &place(&replica)]);
    in_step(&server);
    replica.cli(&["SET", "a", "2"]);
    wait_for("the old master", 20, || server.cli(&["GET", "a"]).trim() == "2");
    let second = jiff::Timestamp::now();
    wait_until(&repo, second);
    assert_eq!(repo.snapshot_count(), 1, "{}", said(&repo));
    assert_eq!(value_at(&repo, "a", second), "2");
    // Another history, of which the connection does not tell.
    server.cli(&["REPLICAOF", "NO", "ONE"]);
    server.cli(&["DEBUG", "CHANGE-REPL-ID"]);
    wait_for("a new base", 60, || repo.snapshot_count() == 2);
    server.cli(&["SET", "a", "3"]);
    let third = jiff::Timestamp::now();
    wait_until(&repo, third);
    let said = stream.finish(&repo);
    assert!(said.contains("replication id") && said.contains("a new base follows"), "{said}");
    assert_eq!(repo.snapshot_count(), 2);
    assert_eq!(value_at(&repo, "a", third), "3");
    assert_eq!(value_at(&repo, "a", second), "2");
    expect(&repo.run(["check", "--read-data"]), 0);
}

/// Settings of a server that keeps what it wrote.
const KEEPS: [&str; 3] = ["max_wal_senders=5", "max_replication_slots=3", "wal_keep_size=512MB"];

fn utc(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// How many rows a moment of a PostgreSQL has in its table `t`.
fn rows_at(repo: &Repo, time: jiff::Timestamp) -> String {
    let home = repo.path(&format!("at-{}", time.as_nanosecond()));
    std::fs::create_dir(&home).unwrap();
    let target = home.join("data").display().to_string();
    repo.ok(["restore", "latest", "--target", &target, "--time", &time.to_string()]);
    if rustix::process::geteuid().is_root() {
        run("chown", &["postgres", home.to_str().unwrap()]);
    }
    let back = Postgres::on(bin(15), home, &[]);
    wait_for("recovery", 60, || back.sql("postgres", "SELECT pg_is_in_recovery()") == "f");
    back.sql("postgres", "SELECT string_agg(word || count, ' ' ORDER BY word) FROM (SELECT word, count(*) FROM t GROUP BY word) t")
}

#[test]
fn a_postgres_line_that_stalls_completes_no_moment() {
    let repo = Repo::new();
    let server = Postgres::version(&repo, 15, "pg", &KEEPS);
    let dam = Dam::before(server.port, "START_REPLICATION");
    let url = server.url().replace(&server.port.to_string(), &dam.port.to_string());
    server.sql("postgres", "CREATE TABLE t (word text)");
    let stream = Stream::start(&repo, &url);
    wait_until(&repo, jiff::Timestamp::now());
    server.sql("postgres", "INSERT INTO t VALUES ('first')");
    wait_until(&repo, jiff::Timestamp::now());
    dam.close();
    for _ in 0..3 {
        server.sql("postgres", "INSERT INTO t VALUES ('late')");
    }
    let missing = jiff::Timestamp::now();
    std::thread::sleep(std::time::Duration::from_secs(4));
    assert!(until(&repo) < seconds(missing), "{} {missing}", until(&repo));
    let refused = repo.fails(1, ["restore", "latest", "--target", "x", "--time", &missing.to_string()]);
    assert!(refused.contains("is not in it"), "{refused}");
    // The server is asked on a line of its own, which does not stall.
    dam.open();
    wait_until(&repo, missing);
    stream.finish(&repo);
    assert_eq!(rows_at(&repo, missing), "first1 late3");
    assert_eq!(repo.snapshot_count(), 1);
}

/// A sender that is behind gives signs of life whose position is what it has sent.
#[test]
fn a_bulk_load_completes_no_moment_before_it_has_come() {
    let repo = Repo::new();
    let server = Postgres::version(&repo, 15, "pg", &KEEPS);
    let dam = Dam::before(server.port, "START_REPLICATION");
    let url = server.url().replace(&server.port.to_string(), &dam.port.to_string());
    server.sql("postgres", "CREATE TABLE t (word text); CREATE TABLE bulk (filler text)");
    let stream = Stream::start(&repo, &url);
    wait_until(&repo, jiff::Timestamp::now());
    // More than the line holds, let through in parts.
    dam.close();
    let mut moments = vec![];
    for _ in 0..3 {
        server.sql("postgres", "INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 10000)");
        server.sql("postgres", "INSERT INTO t VALUES ('marker')");
        moments.push(jiff::Timestamp::now());
    }
    for _ in 0..20 {
        dam.open();
        std::thread::sleep(std::time::Duration::from_millis(30));
        dam.close();
        std::thread::sleep(std::time::Duration::from_millis(70));
    }
    run("kill", &["-INT", &stream.0.0.id().to_string()]);
    dam.open();
    // Another signal would end it at once.
    let mut stream = stream;
    let told = said(&repo);
    assert_eq!(stream.0.0.wait().unwrap().code(), Some(0), "{told}");
    let until = jiff::Timestamp::from_millisecond((until(&repo) * 1e3).round() as i64).unwrap();
    let expected = moments.iter().filter(|moment| **moment <= until).count();
    let has = rows_at(&repo, until);
    let has: usize = has.trim_start_matches("marker").parse().unwrap_or(0);
    assert!(has >= expected, "{has} of {expected} at {until}: {told}");
}

/// A copy of a cluster that went on without it, and another cluster, at the address of the one that is followed.
#[test]
fn another_history_of_a_postgres() {
    let repo = Repo::new();
    let mut server = Postgres::version(&repo, 15, "pg", &KEEPS);
    server.sql("postgres", "CREATE TABLE t (word text)");
    server.stop();
    run("cp", &["-a", server.home.to_str().unwrap(), repo.path("copy").to_str().unwrap()]);
    server.up();
    let url = server.url();
    let stream = Stream::start(&repo, &url);
    wait_until(&repo, jiff::Timestamp::now());
    server.sql("postgres", "INSERT INTO t SELECT 'first' FROM generate_series(1, 5)");
    let first = jiff::Timestamp::now();
    wait_until(&repo, first);
    stream.finish(&repo);
    server.stop();
    // Its WAL goes on beyond what the stream has.
    let mut copy = Postgres::on(bin(15), repo.path("copy"), &KEEPS);
    copy.sql("postgres", "INSERT INTO t SELECT 'second' FROM generate_series(1, 7)");
    for _ in 0..3 {
        copy.sql("postgres", "INSERT INTO t VALUES ('second')");
        copy.sql("postgres", "SELECT pg_switch_wal()");
    }
    copy.stop();
    copy.port = server.port;
    copy.up();
    let stream = Stream::start(&repo, &url);
    wait_for("a new base", 60, || repo.snapshot_count() == 2);
    let second = jiff::Timestamp::now();
    wait_until(&repo, second);
    let said = stream.finish(&repo);
    assert!(said.contains("another history") && said.contains("a new base follows"), "{said}");
    copy.stop();
    assert_eq!(rows_at(&repo, first), "first5");
    assert_eq!(rows_at(&repo, second), "second10");
    let mut other = Postgres::version(&repo, 15, "other", &KEEPS);
    other.stop();
    other.port = server.port;
    other.up();
    let stream = Stream::start(&repo, &url);
    wait_for("a new base", 60, || repo.snapshot_count() == 3);
    let said = stream.finish(&repo);
    assert!(said.contains("another cluster") && said.contains("a new base follows"), "{said}");
    repo.ok(["check", "--read-data"]);
}

/// How many rows a moment of a MariaDB has in its table `s.t`.
fn maria_at(repo: &Repo, time: jiff::Timestamp) -> String {
    let target = Maria::start(repo, &format!("at-{}", time.as_nanosecond()));
    repo.ok(["restore", "latest", "--to", &target.url(), "--time", &utc(time)]);
    target.root("SELECT group_concat(concat(word, n) ORDER BY word SEPARATOR ' ') FROM (SELECT word, count(*) n FROM s.t GROUP BY word) t")
}

/// The next whole second, once it has begun.
fn next_second() -> jiff::Timestamp {
    std::thread::sleep(std::time::Duration::from_millis(1100));
    jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap()
}

fn fill(server: &Maria, word: &str, count: u32) {
    for _ in 0..count {
        server.root(&format!("INSERT INTO s.t VALUES ('{word}')"));
    }
}

/// Logs that begin again under the same name, while nobody is attached and while somebody is.
#[test]
fn binary_logs_that_begin_again() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("RESET MASTER; CREATE DATABASE s; CREATE TABLE s.t (word varchar(9))");
    let url = server.url();
    let stream = Stream::start(&repo, &url);
    wait_until(&repo, jiff::Timestamp::now());
    fill(&server, "first", 10);
    let first = next_second();
    wait_until(&repo, first);
    stream.finish(&repo);
    // The same statements, byte for byte as long; and more of them.
    server.root("RESET MASTER; CREATE DATABASE x; CREATE TABLE x.t (word varchar(9))");
    fill(&server, "other", 15);
    let stream = Stream::start(&repo, &url);
    wait_for("a new base", 60, || repo.snapshot_count() == 2);
    fill(&server, "third", 3);
    let third = next_second();
    wait_until(&repo, third);
    assert!(said(&repo).contains("another log than that of the stream"), "{}", said(&repo));
    server.root("RESET MASTER");
    wait_for("a new base", 60, || repo.snapshot_count() == 3);
    fill(&server, "last", 2);
    let last = next_second();
    wait_until(&repo, last);
    let said = stream.finish(&repo);
    assert!(said.contains("it is another log; a new base follows"), "{said}");
    assert_eq!(maria_at(&repo, first), "first10");
    assert_eq!(maria_at(&repo, third), "first10 other15 third3");
    assert_eq!(maria_at(&repo, last), "first10 last2 other15 third3");
    repo.ok(["check", "--read-data"]);
}

#[test]
fn a_maria_line_that_stalls_completes_no_moment() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE s; CREATE TABLE s.t (word varchar(9))");
    let dam = Dam::before(server.port, "mariadb_slave_capability");
    let stream = Stream::start(&repo, &server.url().replace(&server.port.to_string(), &dam.port.to_string()));
    wait_until(&repo, jiff::Timestamp::now());
    dam.close();
    fill(&server, "late", 3);
    let missing = next_second();
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert!(until(&repo) < seconds(missing), "{} {missing}", until(&repo));
    dam.open();
    wait_until(&repo, missing);
    stream.finish(&repo);
    assert_eq!(maria_at(&repo, missing), "late3");
}
