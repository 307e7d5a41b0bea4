//! Qdrant servers that fall silent: a user who has had enough is obeyed at once, wherever it is, and nothing is left behind.

use crate::harness::{Repo, expect, wait_for};
use crate::qdrant_double::Qdrant;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A line that falls silent, both ways, after so many bytes one way, until it is allowed more.
struct Stall {
    port: u16,
    flow: Arc<Flow>,
}

#[derive(Default)]
struct Flow {
    /// Bytes that came from the server, and from the client.
    passed: [AtomicU64; 2],
    /// The most that may.
    most: [AtomicU64; 2],
    connections: AtomicU64,
}

const FROM_SERVER: usize = 0;
const FROM_CLIENT: usize = 1;

impl Stall {
    fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let flow = Arc::new(Flow::default());
        let stall = Self { port, flow: Arc::clone(&flow) };
        stall.limit(FROM_SERVER, u64::MAX);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                flow.connections.fetch_add(1, Ordering::Relaxed);
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                for (way, from, to) in [(FROM_SERVER, &server, &client), (FROM_CLIENT, &client, &server)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let flow = Arc::clone(&flow);
                    std::thread::spawn(move || flow.pass(way, from, to));
                }
            }
        });
        stall
    }

    fn url(&self) -> String {
        format!("qdrant+http://127.0.0.1:{}", self.port)
    }

    /// So many bytes one way from now on, and any number the other way.
    fn limit(&self, way: usize, most: u64) {
        for at in [FROM_SERVER, FROM_CLIENT] {
            self.flow.passed[at].store(0, Ordering::Relaxed);
            self.flow.most[at].store(if at == way { most } else { u64::MAX }, Ordering::Relaxed);
        }
        self.flow.connections.store(0, Ordering::Relaxed);
    }

    fn passed(&self, way: usize) -> u64 {
        self.flow.passed[way].load(Ordering::Relaxed)
    }

    /// Ends a command once the line is silent; returns what it said.
    fn end(&self, way: usize, most: u64, signal: &str, child: Child) -> String {
        wait_for("the silence", 60, || {
            self.flow.connections.load(Ordering::Relaxed) > 0 && self.passed(way) >= most
        });
        std::thread::sleep(Duration::from_millis(300));
        let (pid, start) = (child.id().to_string(), Instant::now());
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let took = start.elapsed();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        expect(&output, 130);
        assert!(took < Duration::from_millis(2500), "{most} bytes: {took:?}: {told}");
        assert!(told.contains("interrupted"), "{most} bytes: {told}");
        told
    }
}

impl Flow {
    fn pass(&self, way: usize, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 4 << 10];
        loop {
            let most = self.most[way].load(Ordering::Relaxed);
            let left = most.saturating_sub(self.passed[way].load(Ordering::Relaxed));
            let is_silent = (0..2).any(|way| {
                let most = self.most[way].load(Ordering::Relaxed);
                self.passed[way].load(Ordering::Relaxed) >= most
            });
            if is_silent {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            let part = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let Ok(len @ 1..) = from.read(&mut buffer[..part]) else { break };
            self.passed[way].fetch_add(len as u64, Ordering::Relaxed);
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
    }
}

/// All snapshots on the server.
fn left(qdrant: &Qdrant) -> Value {
    qdrant
        .client("print(json.dumps([s.name for c in ('a', 'b') for s in client.list_shard_snapshots(c, 0)]))")
}

#[test]
fn a_backup_from_a_silent_server_ends_at_once_when_the_user_had_enough() {
    let repo = Repo::new();
    let qdrant = Qdrant::start(&repo.path("qdrant"), None);
    qdrant.client("fill('a', 300, size=16); fill('b', 300, size=16)");
    let line = Stall::to(qdrant.port());
    let spawn = || {
        let mut command = repo.command(["backup", &line.url()]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for how in ["stream", "nostream"] {
        if how == "nostream" {
            qdrant.fault("nostream", Some(""));
        }
        line.limit(FROM_SERVER, u64::MAX);
        repo.ok(["backup", &line.url()]);
        let (whole, snapshots) = (line.passed(FROM_SERVER), repo.snapshot_count());
        // Connected and no more; in the first head; while it asks what there is; in one body; between the collections; in the other.
        let places = match how {
            "stream" => vec![0, 10, 700, whole / 4, whole / 2, whole * 3 / 4, whole - 100],
            _ => vec![whole / 4, whole / 2 + 700, whole * 3 / 4],
        };
        for (most, signal) in places.into_iter().zip(["-TERM", "-INT"].into_iter().cycle()) {
            line.limit(FROM_SERVER, most);
            line.end(FROM_SERVER, most, signal, spawn());
            assert_eq!(repo.snapshot_count(), snapshots);
        }
        if how == "stream" {
            assert_eq!(left(&qdrant), json!([]));
        }
        // What could not be removed through a silent line is removed by the next run.
        let other = qdrant.client("print(json.dumps(client.create_shard_snapshot('a', 0).name))");
        line.limit(FROM_SERVER, u64::MAX);
        repo.ok(["backup", &line.url()]);
        assert_eq!(left(&qdrant), json!([other]), "{how}");
        qdrant.client(&format!("client.delete_shard_snapshot('a', 0, {other})"));
    }
    // One whose name never came, because the server was still at it, is known by its time.
    qdrant.fault("late", Some(""));
    line.limit(FROM_SERVER, u64::MAX);
    let asked = qdrant.log().matches("POST /collections/a/shards/0/snapshots").count();
    let child = spawn();
    wait_for("the request", 60, || {
        qdrant.log().matches("POST /collections/a/shards/0/snapshots").count() > asked
    });
    line.end(FROM_SERVER, 0, "-TERM", child);
    qdrant.fault("late", None);
    wait_for("the snapshot", 60, || left(&qdrant).as_array().unwrap().len() == 1);
    repo.ok(["backup", &line.url()]);
    assert_eq!(left(&qdrant), json!([]));
}

#[test]
fn a_restore_into_a_silent_server_ends_at_once_when_the_user_had_enough() {
    let repo = Repo::new();
    let source = Qdrant::start(&repo.path("source"), None);
    source.client("fill('a', 300, size=16); fill('b', 300, size=16)");
    repo.ok(["backup", &source.url()]);
    let target = Qdrant::start(&repo.path("target"), None);
    target.client("fill('neighbour', 5, size=4)");
    let live = target.everything();
    let line = Stall::to(target.port());
    let spawn = || {
        let mut command = repo.command(["restore", "latest", "--to", &line.url()]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let clean = "for c in ('a', 'b'): client.delete_collection(c)";
    repo.ok(["restore", "latest", "--to", &line.url()]);
    let (sent, answered) = (line.passed(FROM_CLIENT), line.passed(FROM_SERVER));
    target.client(clean);
    // The server takes no more of a body, or answers no more.
    let places = [
        (FROM_CLIENT, sent / 4),
        (FROM_CLIENT, sent * 3 / 4),
        (FROM_SERVER, 10),
        (FROM_SERVER, answered / 2),
    ];
    for ((way, most), signal) in places.into_iter().zip(["-TERM", "-INT"].into_iter().cycle()) {
        line.limit(way, most);
        let told = line.end(way, most, signal, spawn());
        line.limit(FROM_SERVER, u64::MAX);
        // A collection that was begun cannot be removed through a line that is silent: it is named.
        let now =
            target.client("print(json.dumps(sorted(c.name for c in client.get_collections().collections)))");
        for name in now.as_array().unwrap().iter().map(|name| name.as_str().unwrap()) {
            let is_named = told.contains(&format!("'{name}': made by this restore"))
                || told.contains(&format!("restored before that: {name}"));
            assert!(name == "neighbour" || is_named, "{name}: {told}");
        }
        target.client(clean);
        assert_eq!(target.everything(), live);
    }
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_given_up_soon() {
    let repo = Repo::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let held =
        std::thread::spawn(move || listener.incoming().map_while(Result::ok).take(1).collect::<Vec<_>>());
    let start = Instant::now();
    let told = repo.fails(25, ["backup", &format!("qdrant+http://127.0.0.1:{port}")]);
    let took = start.elapsed().as_secs();
    assert!((9..15).contains(&took), "{took} s");
    assert!(
        told.contains(&format!("127.0.0.1:{port}")) && told.contains("is this Qdrant's REST port"),
        "{told}"
    );
    drop(held.join());
}
