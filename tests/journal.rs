//! Every moment of a Redis: a writer that logs what it did and when, programs that are killed, and restores to
//! moments in between.

use crate::harness::{Process, Repo, free_port, wait_for};
use crate::redis::{Redis, apt_redis};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Transactions of five commands at some 10,000 commands a second; after each batch, the count and the time.
struct Writer {
    log: Arc<Mutex<Vec<(u64, u64)>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

const BATCH: usize = 20;

impl Writer {
    fn start(port: u16) -> Self {
        let (log, stop) = (Arc::<Mutex<Vec<(u64, u64)>>>::default(), Arc::<AtomicBool>::default());
        let (theirs, over) = (Arc::clone(&log), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                // A server that is down comes back.
                if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) {
                    let _ = write(stream, &theirs, &over);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self { log, stop, thread: Some(thread) }
    }

    fn finish(mut self) -> Vec<(u64, u64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.log.lock().unwrap().clone()
    }
}

fn write(mut stream: TcpStream, log: &Mutex<Vec<(u64, u64)>>, over: &AtomicBool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut replies = BufReader::new(stream.try_clone()?);
    let one = "MULTI\r\nINCR a\r\nINCR b\r\nSET text \"some text that goes along\"\r\nEXEC\r\n";
    let batch = one.repeat(BATCH);
    let mut due = Instant::now();
    while !over.load(Ordering::Relaxed) {
        stream.write_all(batch.as_bytes())?;
        let mut count = 0;
        // OK, three times QUEUED, the array and its three.
        for _ in 0..BATCH * 8 {
            let mut line = String::new();
            if replies.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(number) = line.strip_prefix(':') {
                count = number.trim().parse().unwrap();
            }
        }
        log.lock().unwrap().push((count, now_ms()));
        due += Duration::from_millis(10);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// `esker stream`, and what it says.
struct Stream {
    process: Process,
    status: Arc<Mutex<Vec<(u64, Value)>>>,
}

impl Stream {
    fn start(repo: &Repo, url: &str, status: &Arc<Mutex<Vec<(u64, Value)>>>) -> Self {
        let mut command = repo.command(["--json", "stream", url, "--metrics", "stream.prom"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (out, theirs) = (child.stdout.take().unwrap(), Arc::clone(status));
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines() {
                let Ok(line) = line else { return };
                if let Ok(value) = serde_json::from_str::<Value>(&line)
                    && value["message_type"] == "status"
                {
                    theirs.lock().unwrap().push((now_ms(), value));
                }
            }
        });
        Self { process: Process(child), status: Arc::clone(status) }
    }

    fn last(&self) -> Option<(u64, Value)> {
        self.status.lock().unwrap().last().cloned()
    }
}

/// Restores a moment into a fresh server; returns the count and the report.
fn restore(repo: &Repo, time_ms: u64, name: &str) -> (u64, Value) {
    let target = Redis::start(&apt_redis(), &repo.path(name), &["--repl-diskless-sync-delay", "0"]);
    let time = jiff::Timestamp::from_millisecond(time_ms as i64).unwrap().to_string();
    let report = repo.json(["restore", "latest", "--to", &target.url(), "--time", &time]);
    let number = |key: &str| target.cli(&["GET", key]).trim().parse::<u64>().unwrap_or(0);
    assert_eq!(number("a"), number("b"), "a transaction is there whole or not at all");
    (number("a"), report)
}

#[test]
fn any_second_comes_back() {
    let seconds: u64 =
        std::env::var("ESKER_JOURNAL_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(24);
    let repo = Repo::new();
    let port = free_port();
    // What comes while esker is down is kept for it, however long that takes.
    let args = [
        &["--repl-diskless-sync-delay", "0", "--appendonly", "yes", "--appendfsync", "no"][..],
        &["--repl-backlog-size", "64mb"],
    ]
    .concat();
    let start = || Redis::start_at(port, &apt_redis(), &repo.path("redis"), &args);
    let mut redis = Some(start());
    redis.as_ref().unwrap().fill(5000);
    let url = redis.as_ref().unwrap().url();
    let writer = Writer::start(port);
    let status = Arc::<Mutex<Vec<(u64, Value)>>>::default();
    let mut stream = Some(Stream::start(&repo, &url, &status));
    let attached = |since: u64| {
        let status = Arc::clone(&status);
        wait_for("attached again", 30, move || {
            status
                .lock()
                .unwrap()
                .iter()
                .any(|(at, value)| *at > since && value["attached"] == true && value["until"].is_string())
        });
    };
    attached(0);
    // From when to when somebody was down or catching up; the last second of a server that was killed may have been on its way.
    let mut troubles: Vec<(u64, u64)> = vec![(0, now_ms() + 500)];
    let begun = Instant::now();
    let mut round = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        std::thread::sleep(Duration::from_millis(5000 + (round * 977) % 1500));
        let from = now_ms();
        if round % 3 == 2 {
            drop(redis.take());
            std::thread::sleep(Duration::from_millis(300));
            redis = Some(start());
        } else {
            drop(stream.take());
            std::thread::sleep(Duration::from_millis(700));
            stream = Some(Stream::start(&repo, &url, &status));
        }
        attached(now_ms());
        troubles.push((from.saturating_sub(1000), now_ms() + 500));
        round += 1;
    }
    std::thread::sleep(Duration::from_secs(4));
    let log = writer.finish();
    // What was written is durable soon after, and the server is told.
    let written = now_ms();
    wait_durable(stream.as_ref().unwrap(), written);
    let redis = redis.unwrap();
    assert_eq!(redis.acknowledged("SET waited 1"), "1", "WAIT counts on the repository");
    let metrics = std::fs::read_to_string(repo.path("stream.prom")).unwrap();
    assert!(metrics.contains("esker_stream_lag_seconds{server="), "{metrics}");
    // ctrl-C ends it, and what came is kept.
    let mut process = stream.take().unwrap().process;
    rustix_kill(process.0.id());
    assert_eq!(process.0.wait().unwrap().code(), Some(0));

    let calm = |time: u64| !troubles.iter().any(|(from, to)| (*from..=*to).contains(&time));
    let lags: Vec<f64> = status
        .lock()
        .unwrap()
        .iter()
        .filter(|(at, _)| calm(*at))
        .map(|(_, value)| value["lag_seconds"].as_f64().unwrap())
        .collect();
    let worst = lags.iter().copied().fold(0.0, f64::max);
    assert!(worst <= 5.0, "lag of {worst} s in {} reports", lags.len());

    let (first, last) = (log[0].1, log[log.len() - 1].1);
    let rate = log.len() as u64 * BATCH as u64 * 5 * 1000 / (last - first);
    let mut off = 0;
    let mut checked = 0;
    let moments: Vec<u64> =
        (first..last).step_by(1000).filter(|time| calm(*time) && calm(time - 1000)).collect();
    for time in moments.iter().step_by(1 + moments.len() / 8) {
        let (count, report) = restore(&repo, *time, &format!("at-{time}"));
        assert_eq!(report["commands_refused"], 0, "{report}");
        // The batch that holds this count, and the first that was not made yet: if nobody wrote for a while, nothing
        // of it is missing.
        let next = log.iter().position(|(number, _)| *number >= count).unwrap();
        let at = log[next].1;
        let after = log.get(next + 1).map_or(u64::MAX, |(_, at)| *at);
        off = off.max(at.saturating_sub(*time)).max(time.saturating_sub(after));
        assert!(off <= 1000, "{time}: {count} was reached at {at}, the next at {after}; {report}");
        checked += 1;
    }
    println!(
        "{rate} commands a second, {round} kills, {checked} moments, at most {off} ms off, lag at most {worst} s of {} reports",
        lags.len()
    );
    assert!(checked >= 4, "{moments:?}");
    // The end of it all is the server's state.
    let (count, _) = restore(&repo, written, "end");
    assert_eq!(count.to_string(), redis.cli(&["GET", "a"]).trim());
    repo.ok(["check", "--read-data"]);
    // A moment before everything, and one after.
    let target = Redis::start(&apt_redis(), &repo.path("none"), &[]);
    let early = repo.fails(1, ["restore", "latest", "--to", &target.url(), "--time", "2020-01-01T00:00:00Z"]);
    assert!(early.contains("goes back to"), "{early}");
    let late = repo.fails(1, ["restore", "latest", "--to", &target.url(), "--time", "2120-01-01T00:00:00Z"]);
    assert!(late.contains("is not in it"), "{late}");
}

/// Waits until everything up to a moment can be restored.
fn wait_durable(stream: &Stream, written: u64) {
    wait_for("all is durable", 20, || {
        stream.last().is_some_and(|(_, value)| {
            let until = value["until"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
            until.as_millisecond() as u64 >= written
        })
    });
}

/// SIGINT, as ctrl-C sends it.
fn rustix_kill(pid: u32) {
    let done = std::process::Command::new("kill").args(["-INT", &pid.to_string()]).status().unwrap();
    assert!(done.success());
}

#[test]
fn a_server_that_refuses_is_told_at_once() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--requirepass", "sesame"]);
    let place = redis.url().replace("redis://", "redis://:wrong@");
    let text = repo.fails(25, ["stream", &place]);
    assert!(text.contains("AUTH failed") && !text.contains("wrong@"), "{text}");
    assert!(repo.fails(2, ["stream", "http://h"]).contains("redis://"));
    assert!(repo.fails(2, ["stream", "redis://h", "--interval", "1ms"]).contains("200ms"));
    assert_eq!(repo.snapshot_count(), 0);
}

#[test]
fn journals_of_two_servers_are_told_apart() {
    let repo = Repo::new();
    let status = Arc::<Mutex<Vec<(u64, Value)>>>::default();
    let servers = ["one", "two"].map(|name| {
        let redis = Redis::start(&apt_redis(), &repo.path(name), &["--repl-diskless-sync-delay", "0"]);
        redis.cli(&["SET", "name", name]);
        let mut stream = Stream::start(&repo, &redis.url(), &status);
        let before = status.lock().unwrap().len();
        wait_for("a base", 30, || status.lock().unwrap().len() > before);
        rustix_kill(stream.process.0.id());
        stream.process.0.wait().unwrap();
        redis
    });
    let until = status.lock().unwrap()[0].1["until"].as_str().unwrap().to_owned();
    let target = Redis::start(&apt_redis(), &repo.path("target"), &["--repl-diskless-sync-delay", "0"]);
    let asked = repo.fails(1, ["restore", "latest", "--to", &target.url(), "--time", &until]);
    let folder = servers[0].url().replace("redis://", "redis/");
    assert!(asked.contains(&format!("latest:{folder}")), "{asked}");
    repo.ok(["restore", &format!("latest:{folder}"), "--to", &target.url(), "--time", &until]);
    assert_eq!(target.cli(&["GET", "name"]).trim(), "one");
    // Attached again, one goes on where it was: no second base.
    let stream = Stream::start(&repo, &servers[1].url(), &status);
    let before = status.lock().unwrap().len();
    wait_for("attached", 30, || {
        let status = status.lock().unwrap();
        status.len() > before && status.last().is_some_and(|(_, value)| value["attached"] == true)
    });
    assert_eq!(stream.last().unwrap().1["new_base"], false);
    assert_eq!(repo.snapshot_count(), 2);
}

/// Without a moment the latest one is meant; keys of the base alone are asked for in so many words.
#[test]
fn a_stream_without_a_moment_is_restored_up_to_its_end() {
    let repo = Repo::new();
    let status = Arc::<Mutex<Vec<(u64, Value)>>>::default();
    let start =
        |name: &str| Redis::start(&apt_redis(), &repo.path(name), &["--repl-diskless-sync-delay", "0"]);
    let redis = start("redis");
    redis.cli(&["SET", "n", "5"]);
    let mut stream = Stream::start(&repo, &redis.url(), &status);
    wait_for("a base", 30, || !status.lock().unwrap().is_empty());
    for n in ["6", "70"] {
        redis.cli(&["SET", "n", n]);
        std::thread::sleep(Duration::from_millis(300));
    }
    wait_durable(&stream, now_ms());
    rustix_kill(stream.process.0.id());
    stream.process.0.wait().unwrap();

    let target = start("target");
    let url = target.url();
    let plan = repo.ok(["restore", "latest", "--to", &url, "-n"]);
    assert!(plan.contains("the end of the stream"), "{plan}");
    let done = repo.json(["restore", "latest", "--to", &url]);
    assert_eq!(target.cli(&["GET", "n"]).trim(), "70");
    assert!(done["commands_replayed"].as_u64().unwrap() >= 2 && done["reached"].is_string(), "{done}");
    // Not beside what is there, and not key by key: nobody would know of which moment that is.
    for args in
        [&["latest"][..], &["latest", "--include", "n"], &["latest:redis/0/n"], &["latest", "--db", "0"]]
    {
        let told = repo.fails(1, [&["restore", "--to", &url, "--replace"], args].concat());
        assert!(told.contains("live stream") && told.contains("--base-only"), "{args:?}: {told}");
    }
    assert_eq!(target.cli(&["GET", "n"]).trim(), "70");
    repo.ok(["restore", "latest", "--to", &url, "--base-only", "--include", "n", "--replace"]);
    assert_eq!(target.cli(&["GET", "n"]).trim(), "5");
    let told = repo.ok(["restore", "latest", "--to", &url, "--whole", "--yes", "--no-safety-snapshot"]);
    assert_eq!(target.cli(&["GET", "n"]).trim(), "70");
    assert!(told.contains("before the commands"), "{told}");
}

/// The packs of a base are lost while nobody is attached: what follows does not build on it.
#[test]
fn a_base_that_is_lost_is_made_anew() {
    let repo = Repo::new();
    let status = Arc::<Mutex<Vec<(u64, Value)>>>::default();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--repl-diskless-sync-delay", "0"]);
    redis.cli(&["SET", "name", "one"]);
    for lost in [false, true] {
        let mut stream = Stream::start(&repo, &redis.url(), &status);
        let before = status.lock().unwrap().len();
        wait_for("attached", 30, || {
            let status = status.lock().unwrap();
            status.len() > before && status.last().is_some_and(|(_, value)| value["attached"] == true)
        });
        rustix_kill(stream.process.0.id());
        stream.process.0.wait().unwrap();
        assert_eq!(repo.snapshot_count(), if lost { 2 } else { 1 });
        if !lost {
            std::fs::remove_dir_all(repo.folder().join("packs")).unwrap();
        }
    }
    let target = Redis::start(&apt_redis(), &repo.path("target"), &["--repl-diskless-sync-delay", "0"]);
    repo.ok(["restore", "latest", "--to", &target.url()]);
    assert_eq!(target.cli(&["GET", "name"]).trim(), "one");
}
