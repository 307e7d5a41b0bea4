//! Connections that do not come about because one end speaks TLS and the other does not: they end in time, and say so.

use crate::harness::{Process, Repo, certificates, free_port, noise, wait_for};
use crate::redis::{Redis, apt_redis};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// Ten seconds for a handshake, and what a busy machine needs besides.
const LONGEST: Duration = Duration::from_secs(25);

/// A port whose every connection gets `first` when it has said something, and then nothing.
fn port(first: &'static [u8], hangs_up: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer);
                let _ = stream.write_all(first);
                while !hangs_up && stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
            });
        }
    });
    port
}

/// Runs them at the same time; each fails with `code` in time, and says `words`.
fn all_fail(repo: &Repo, code: i32, words: &str, commands: &[Vec<String>]) {
    std::thread::scope(|scope| {
        for args in commands {
            scope.spawn(move || {
                let began = Instant::now();
                let told = repo.fails(code, args);
                assert!(began.elapsed() < LONGEST, "{args:?}: {:?}: {told}", began.elapsed());
                assert!(told.contains(words), "{args:?}: {told}");
            });
        }
    });
}

fn backup(url: String) -> Vec<String> {
    vec!["backup".into(), url]
}

fn with_keys(repo: Repo) -> Repo {
    repo.with("AWS_ACCESS_KEY_ID", "a").with("AWS_SECRET_ACCESS_KEY", "b")
}

#[test]
fn tls_to_a_port_in_plain_text() {
    let repo = with_keys(Repo::new());
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &[]);
    redis.fill(100);
    repo.ok(["backup", &redis.url()]);
    let tls = redis.url().replace("redis://", "");
    let (silent, hangs_up) = (port(b"", false), port(b"", true));
    let http = port(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", false);
    // PostgreSQL's answer to a request for encryption, and nothing after it.
    let agrees = port(b"S", false);
    let restore =
        ["restore", "latest", "--to"].map(str::to_owned).into_iter().chain([format!("rediss://{tls}")]);
    let s3 = |port: u16| vec!["-r".into(), format!("s3:https://127.0.0.1:{port}/b/x"), "snapshots".into()];
    let words = "does this port speak TLS?";
    all_fail(
        &repo,
        25,
        words,
        &[
            backup(format!("rediss://{tls}")),
            backup(format!("rediss+scan://{tls}")),
            backup(format!("rediss://127.0.0.1:{silent}")),
            backup(format!("rediss://127.0.0.1:{hangs_up}")),
            backup(format!("rediss+scan://127.0.0.1:{http}")),
            restore.collect(),
            backup(format!("postgres://u@127.0.0.1:{agrees}/x?sslmode=require")),
            backup(format!("qdrant+https://127.0.0.1:{silent}")),
            backup(format!("qdrant+https://127.0.0.1:{http}")),
        ],
    );
    all_fail(&repo, 1, words, &[s3(silent), s3(http), s3(hangs_up)]);
    let told = repo.fails(25, ["backup", &format!("postgres://u@127.0.0.1:{silent}/x")]);
    assert!(told.contains("did not answer within 10 s"), "{told}");
}

#[test]
fn plain_text_to_a_port_over_tls() {
    let repo = with_keys(Repo::new());
    certificates(&repo);
    std::fs::write(repo.path("data"), noise(1, 1000)).unwrap();
    let port = free_port();
    let accept = format!("127.0.0.1:{port}");
    let mut command = Command::new("openssl");
    command.args(["s_server", "-quiet", "-accept", &accept, "-cert", "server.pem", "-key", "server.key"]);
    let _server = Process::start(command.current_dir(repo.dir.path()));
    wait_for("openssl", 20, || TcpStream::connect(&accept).is_ok());
    let commands = [
        backup(format!("redis://{accept}")),
        backup(format!("redis+scan://{accept}")),
        backup(format!("postgres://u@{accept}/x")),
        backup(format!("postgres://u@{accept}/x?sslmode=disable")),
        backup(format!("qdrant+http://{accept}")),
    ];
    // One after another: this server has one connection at a time.
    for command in commands {
        all_fail(&repo, 25, "speak", std::slice::from_ref(&command));
        let told = repo.fails(25, &command);
        assert!(told.contains("TLS"), "{told}");
    }
    let s3 = vec!["-r".into(), format!("s3:http://{accept}/b/x"), "snapshots".into()];
    all_fail(&repo, 1, "TLS", &[s3]);
}

#[test]
fn a_store_that_is_not_there_is_given_up_soon() {
    let repo = with_keys(Repo::empty());
    let nobody = free_port();
    let began = Instant::now();
    let told = repo.fails(1, ["-r", &format!("s3:http://127.0.0.1:{nobody}/b/x"), "snapshots"]);
    assert!(began.elapsed() < LONGEST && told.contains("Connection refused"), "{told}");
}

#[test]
fn a_redis_that_takes_connections_and_is_silent_is_given_up_soon() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &[]);
    redis.fill(10);
    repo.ok(["backup", &redis.url()]);
    let silent = port(b"", false);
    let url = |scheme: &str| format!("{scheme}://127.0.0.1:{silent}");
    let restore = ["restore", "latest", "--to", &url("redis")].map(str::to_owned).to_vec();
    all_fail(
        &repo,
        25,
        "did not answer within 10 s",
        &[backup(url("redis")), backup(url("redis+scan")), restore, vec!["stream".into(), url("redis")]],
    );
}

/// With no base to go on from, a stream of a server that is not there is a mistake; with one, it says so and waits.
#[test]
fn a_stream_says_at_once_that_its_server_is_away() {
    let repo = Repo::new();
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    for words in [&["stream", &nobody][..], &["--json", "stream", &nobody]] {
        let began = Instant::now();
        let told = repo.fails(25, words);
        assert!(told.contains("cannot connect") && began.elapsed() < Duration::from_secs(10), "{told}");
    }
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--repl-diskless-sync-delay", "0"]);
    redis.fill(10);
    let url = redis.url();
    let stream = |log: &str| {
        let log = std::fs::File::create(repo.path(log)).unwrap();
        let mut command = repo.command(["--json", "stream", &url, "--interval", "1s"]);
        Process(command.stdout(log).spawn().unwrap())
    };
    let said = |log: &str| std::fs::read_to_string(repo.path(log)).unwrap();
    let mut first = stream("first");
    wait_for("a base", 60, || said("first").contains("\"attached\":true"));
    crate::harness::run("kill", &["-INT", &first.0.id().to_string()]);
    first.0.wait().unwrap();
    drop(redis);
    let _second = stream("second");
    wait_for("trouble", 20, || said("second").contains("cannot connect"));
}
