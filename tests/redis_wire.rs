//! How esker speaks to a Redis: limits of its buffers, Unix sockets, one database of several, and what it says when
//! something is wrong.

use crate::harness::{Process, Repo, certificates, free_port, server, wait_for};
use crate::redis::{Redis, apt_redis};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Writes to a server as fast as it takes it, until dropped.
struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Writers {
    fn start(redis: &Redis, count: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let address = redis.url().trim_start_matches("redis://").to_owned();
        let threads = (0..count).map(|seed| {
            let (stop, address) = (Arc::clone(&stop), address.clone());
            std::thread::spawn(move || write(&address, seed, &stop))
        });
        let threads = threads.collect();
        Self { stop, threads }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Values of 2,000 bytes, 200 commands at a time.
fn write(address: &str, seed: u64, stop: &AtomicBool) {
    let mut stream = TcpStream::connect(address).unwrap();
    let noise = crate::harness::noise(seed + 1, 2000);
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let mut batch = vec![];
        for _ in 0..200 {
            number += 1;
            let key = format!("w:{seed}:{}", number % 5000);
            write!(batch, "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n$2000\r\n", key.len()).unwrap();
            batch.extend_from_slice(&noise);
            batch.extend_from_slice(b"\r\n");
        }
        // The server ends with the test.
        if stream.write_all(&batch).and_then(|()| stream.read_exact(&mut vec![0; 200 * 5])).is_err() {
            return;
        }
    }
}

/// A limit that every transfer of some seconds reaches, if the server keeps what is written meanwhile.
const LIMIT: [&str; 5] = ["--client-output-buffer-limit", "replica", "8mb", "4mb", "2"];

fn under_a_limit(binary: &Path) {
    let repo = Repo::new();
    let args = [&LIMIT[..], &["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "1mb"]].concat();
    let redis = Redis::start(binary, &repo.path("redis"), &args);
    redis.cli(&["DEBUG", "POPULATE", "150000", "key", "500"]);
    let writers = Writers::start(&redis, 2);
    for order in ["canonical", "raw"] {
        repo.ok(["-o", &format!("redis.order={order}"), "backup", &redis.url()]);
    }
    drop(writers);
    assert_eq!(repo.snapshot_count(), 2);
    let listed = repo.ok(["ls", "latest~1:redis/0/", "key:1234*"]);
    assert_eq!(listed.lines().count(), 111, "{listed}");
}

#[test]
fn a_limit_of_replicas_does_not_stop_a_backup_of_redis_7() {
    under_a_limit(&apt_redis());
}

#[test]
fn a_limit_of_replicas_does_not_stop_a_backup_of_redis_8() {
    under_a_limit(&server("redis-8"));
}

#[test]
fn a_limit_of_replicas_does_not_stop_a_backup_of_others() {
    under_a_limit(&server("redis-6.2"));
    under_a_limit(&server("valkey-9"));
}

#[test]
fn a_transfer_that_is_cut_names_the_limit() {
    let repo = Repo::new();
    let args =
        ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--rdb-key-save-delay", "300"];
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &args);
    redis.cli(&["DEBUG", "POPULATE", "20000", "key", "2000"]);
    redis.cli(&["CONFIG", "SET", "rdbcompression", "no"]);
    let mut command = repo.command(["-o", "redis.order=raw", "backup", &redis.url()]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("replica", 20, || redis.cli(&["INFO", "replication"]).contains("connected_slaves:1"));
    std::thread::sleep(Duration::from_millis(1500));
    redis.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(21), "{told}");
    assert!(told.contains("client-output-buffer-limit") && told.contains("its log says why"), "{told}");
}

/// Keys in three databases, and a library of functions.
fn fill(redis: &Redis) {
    redis.fill(700);
    redis.cli(&["-n", "3", "SET", "only", "in three", "EX", "100000"]);
    redis.cli(&["-n", "15", "SET", "far", "away"]);
    redis.cli(&["FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', function() return 7 end)"]);
}

fn start(repo: &Repo, name: &str, more: &[&str]) -> Redis {
    let args: Vec<&str> = ["--repl-diskless-sync-delay", "0"].iter().chain(more).copied().collect();
    Redis::start(&apt_redis(), &repo.path(name), &args)
}

#[test]
fn over_unix_sockets() {
    let repo = Repo::new().with("REDISCLI_AUTH", "sesame");
    let socket = repo.path("a socket").display().to_string();
    let redis = start(&repo, "redis", &["--unixsocket", &socket, "--requirepass", "sesame"]);
    fill(&redis);
    let place = socket.replace(' ', "%20");
    for scheme in ["redis+unix", "valkey+unix", "redis+scan+unix", "valkey+scan+unix"] {
        repo.ok(["backup", &format!("{scheme}://{place}")]);
        let snapshot = &repo.json(["snapshots"]).as_array().unwrap().last().unwrap().clone();
        let folder = format!("/redis/{}", socket.replace('/', "%2F"));
        assert_eq!(snapshot["paths"][0], format!("{folder}/dump.rdb"));
        let target = start(&repo, &format!("target {scheme}"), &["--requirepass", "sesame"]);
        repo.ok(["restore", "latest", "--to", &target.url(), "--whole"]);
        assert_eq!(target.digest(), redis.digest(), "{scheme}");
        // The server's place in the snapshot is a name like any other.
        assert_eq!(repo.ok(["dump", &format!("latest:{folder}/0/string:7")]), "v7".repeat(20));
    }
    // Into one, and into one of its databases.
    redis.cli(&["SET", "string:7", "changed"]);
    let digest = redis.digest();
    repo.ok(["restore", "latest:redis/0/string:7", "--to", &format!("redis+unix://{place}?db=9")]);
    assert_eq!(redis.cli(&["-n", "9", "GET", "string:7"]).trim(), "v7".repeat(20));
    redis.cli(&["-n", "9", "FLUSHDB"]);
    assert_eq!(redis.digest(), digest);
    // The password in the URL, which nobody is shown; one that is wrong; a socket that is not there.
    let stranger = Repo::new();
    let url = format!("redis+unix://{place}?password=sesame&db=3");
    let output = stranger.run(["-v", "--json", "backup", &url]);
    let all =
        [output.stdout, output.stderr, stranger.ok(["cat", "snapshot", "latest"]).into_bytes()].concat();
    assert!(output.status.success() && !String::from_utf8_lossy(&all).contains("sesame"));
    for url in [format!("redis+unix://{place}?password=no"), format!("redis+scan+unix://{place}?password=no")]
    {
        assert!(stranger.fails(25, ["backup", &url]).contains("AUTH failed: WRONGPASS"), "{url}");
    }
    for scheme in ["redis+unix", "redis+scan+unix"] {
        let none = stranger.fails(25, ["backup", &format!("{scheme}:///no/such.sock")]);
        assert!(none.contains("cannot connect"), "{none}");
    }
    let text = stranger.fails(25, ["backup", &format!("redis+unix://{place}?dbb=3")]);
    assert!(text.contains("'dbb'"), "{text}");
    // Schemes that there are not are not taken for paths.
    for wrong in ["unix:///x", "rediss+unix:///x", "redis+scam://h"] {
        let text = stranger.fails(2, ["backup", wrong]);
        assert!(text.contains("no source has this scheme") && text.contains("redis+unix://"), "{text}");
    }
}

fn port(redis: &Redis) -> u16 {
    redis.url().rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn a_stream_over_a_unix_socket() {
    let repo = Repo::new();
    let socket = repo.path("socket").display().to_string();
    let redis = start(&repo, "redis", &["--unixsocket", &socket]);
    fill(&redis);
    let url = format!("redis+unix://{socket}");
    let refused = repo.fails(1, ["stream", &format!("{url}?db=3")]);
    assert!(refused.contains("all databases"), "{refused}");
    let refused = repo.fails(1, ["stream", &format!("{}/3", redis.url())]);
    assert!(refused.contains("all databases"), "{refused}");
    let metrics = repo.path("metrics").display().to_string();
    let mut command = repo.command(["stream", &url, "--interval", "300ms", "--metrics", &metrics]);
    let stream = Process::start(&mut command);
    wait_for("a base", 30, || repo.snapshot_count() == 1);
    redis.cli(&["SET", "later", "1"]);
    let digest = redis.digest();
    let moment = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(300);
    let is_committed = |moment: jiff::Timestamp| {
        let text = std::fs::read_to_string(&metrics).unwrap_or_default();
        let line =
            text.lines().find(|line| line.starts_with("esker_stream_recovery_point")).map(str::to_owned);
        let at = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        assert!(text.is_empty() || text.contains(&format!("{{server=\"{socket}\"}}")), "{text}");
        at.is_some_and(|at| at > moment.as_millisecond() as f64 / 1e3)
    };
    wait_for("the moment", 30, || is_committed(moment));
    // What comes later is no part of that moment.
    redis.cli(&["INCR", "after"]);
    let later = jiff::Timestamp::now();
    wait_for("a commit of more", 30, || is_committed(later));
    drop(stream);
    let target = start(&repo, "target", &[]);
    repo.ok(["restore", "latest", "--to", &target.url(), "--time", &moment.to_string()]);
    assert_eq!(target.digest(), digest);
}

#[test]
fn one_database_of_a_server() {
    let repo = Repo::new();
    let redis = start(&repo, "redis", &[]);
    fill(&redis);
    let size = |redis: &Redis, database: &str| redis.cli(&["-n", database, "DBSIZE"]);
    let mut count = 0;
    for (scheme, order) in [("redis", "canonical"), ("redis", "raw"), ("redis+scan", "canonical")] {
        let url = redis.url().replacen("redis", scheme, 1);
        let option = format!("redis.order={order}");
        repo.ok(["-o", &option, "backup", &format!("{url}/3")]);
        let path = repo.json(["snapshots", "latest"])[0]["paths"][0].clone();
        assert_eq!(path, format!("/redis/127.0.0.1:{}/database-3.rdb", port(&redis)));
        let target = start(&repo, &format!("target {scheme} {order}"), &[]);
        target.cli(&["SET", "neighbour", "stays"]);
        // Not over a whole server, whose other databases it does not have.
        let refused = repo.fails(1, ["restore", "latest", "--to", &target.url(), "--whole", "--yes"]);
        assert!(refused.contains("database 3 alone"), "{refused}");
        repo.ok(["restore", "latest", "--to", &target.url()]);
        assert_eq!(size(&target, "3"), size(&redis, "3"), "{scheme} {order}");
        assert_eq!((size(&target, "0").trim(), size(&target, "15").trim()), ("1", "0"));
        assert_eq!(target.cli(&["GET", "neighbour"]).trim(), "stays");
        assert_eq!(target.cli(&["FUNCTION", "LIST"]).trim(), "");
        assert_eq!(values(&target), values(&redis), "{scheme} {order}");
        let ttl: i64 = target.cli(&["-n", "3", "TTL", "only"]).trim().parse().unwrap();
        assert!((99_000..=100_000).contains(&ttl), "{ttl}");
        // Over what is no more than this database, it can be.
        target.cli(&["FLUSHALL"]);
        target.cli(&["-n", "3", "SET", "later", "1"]);
        let done = repo.json(["restore", "latest", "--to", &target.url(), "--whole", "--yes"]);
        assert_eq!(done["keys_different"], 0, "{done}");
        assert_eq!(values(&target), values(&redis), "{scheme} {order}");
        let safety = ["snapshots", "latest", "--tag", "safety"];
        assert_eq!(repo.json(safety)[0]["paths"][0], format!("/redis/127.0.0.1:{}/dump.rdb", port(&target)));
        // It is no version of the dump of all.
        repo.ok(["-o", &option, "backup", &url]);
        count += 3;
        assert_eq!(repo.snapshot_count(), count);
        let parent = repo.json(["snapshots", "latest"])[0]["paths"][0].clone();
        assert_ne!(parent, path);
    }
    // One that is empty is one; one that there is not, is not.
    repo.ok(["backup", &format!("{}/7", redis.url())]);
    assert_eq!(repo.ok(["ls", "latest:redis/7/"]), "");
    for scheme in ["redis", "redis+scan"] {
        let url = redis.url().replacen("redis", scheme, 1);
        repo.fails(25, ["backup", &format!("{url}/99")]);
        repo.fails(25, ["backup", &format!("{url}/x")]);
    }
    // Both in one set.
    repo.ok(["backup", &redis.url(), &format!("{}/15", redis.url())]);
}

/// The keys of database 3, and what the server says that their values are, in whatever order it keeps them.
fn values(redis: &Redis) -> (Vec<String>, String) {
    let mut keys: Vec<String> = redis.cli(&["-n", "3", "KEYS", "*"]).lines().map(str::to_owned).collect();
    keys.sort();
    let question = ["-n", "3", "DEBUG", "DIGEST-VALUE"].into_iter().chain(keys.iter().map(String::as_str));
    let digests = redis.cli(&question.collect::<Vec<_>>());
    (keys, digests)
}

#[test]
fn a_replica_without_its_master_is_unavailable() {
    let repo = Repo::new();
    let master = start(&repo, "master", &[]);
    fill(&master);
    let address = port(&master).to_string();
    let args = ["--replicaof", "127.0.0.1", &address, "--replica-serve-stale-data", "no"];
    let replica = start(&repo, "replica", &args);
    wait_for("in step", 30, || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"));
    drop(master);
    wait_for("alone", 30, || replica.cli(&["INFO", "replication"]).contains("master_link_status:down"));
    let url = replica.url().replacen("redis://", "redis+scan://", 1);
    for url in [url.clone(), format!("{url}/0")] {
        let text = repo.fails(25, ["backup", &url]);
        assert!(text.contains("MASTERDOWN") && !text.contains("type"), "{text}");
    }
    // One that was never in step has nothing, which is no backup.
    let new = start(&repo, "new", &["--replicaof", "127.0.0.1", &free_port().to_string()]);
    let text = repo.fails(25, ["backup", &new.url().replacen("redis://", "redis+scan://", 1)]);
    assert!(text.contains("master"), "{text}");
    assert_eq!(repo.snapshot_count(), 0);
}

#[test]
fn who_may_not_ask_is_told_what_for() {
    let repo = Repo::new();
    let redis = start(&repo, "redis", &[]);
    fill(&redis);
    redis.cli(&["ACL", "SETUSER", "half", "on", ">pw", "~string:*", "+@all"]);
    redis.cli(&["ACL", "SETUSER", "blind", "on", ">pw", "~*", "+@all", "-info"]);
    redis.cli(&["ACL", "SETUSER", "fixed", "on", ">pw", "~*", "+@all", "-select"]);
    redis.cli(&["ACL", "SETUSER", "replica", "on", ">pw", "+psync", "+replconf", "+ping"]);
    let url =
        |scheme: &str, user: &str| redis.url().replacen("redis://", &format!("{scheme}://{user}:pw@"), 1);
    let text = repo.fails(25, ["backup", &url("redis+scan", "half")]);
    assert!(text.contains("NOPERM"), "{text}");
    let text = repo.fails(25, ["backup", &url("redis+scan", "blind")]);
    assert!(text.contains("NOPERM") && text.contains("redis+scan://host/0"), "{text}");
    repo.ok(["backup", &format!("{}/3", url("redis+scan", "blind"))]);
    // Without a selection, the keys of one database would stand for those of another.
    let text = repo.fails(25, ["backup", &url("redis+scan", "fixed")]);
    assert!(text.contains("NOPERM") && text.contains("select"), "{text}");
    // Replication shows all of them, whoever may select.
    repo.ok(["backup", &format!("{}/3", url("redis", "replica"))]);
    assert_eq!(repo.ok(["ls", "latest:redis/3/"]).lines().count(), 51);
    // A whole server is counted by INFO.
    repo.ok(["backup", &redis.url()]);
    let target = start(&repo, "target", &["--rename-command", "INFO", ""]);
    let text = repo.fails(25, ["restore", "latest", "--to", &target.url(), "--whole"]);
    assert!(text.contains("INFO is refused or renamed") && text.contains("without --whole"), "{text}");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    assert_eq!(target.digest(), redis.digest());
}

#[test]
fn a_server_that_is_full_says_so() {
    let repo = Repo::new();
    let redis = start(&repo, "redis", &["--maxclients", "1"]);
    let address = redis.url().trim_start_matches("redis://").to_owned();
    let mut held = TcpStream::connect(&address).unwrap();
    held.write_all(b"PING\r\n").unwrap();
    held.read_exact(&mut [0; 7]).unwrap();
    for scheme in ["redis", "redis+scan"] {
        for login in ["", ":secret@"] {
            let text = repo.fails(25, ["backup", &format!("{scheme}://{login}{address}")]);
            assert!(
                text.contains("max number of clients") && !text.contains("AUTH failed"),
                "{scheme}: {text}"
            );
        }
    }
}

#[test]
fn what_is_no_redis() {
    let repo = Repo::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1000]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let text = repo.fails(25, ["backup", &format!("redis://{address}")]);
    assert!(text.contains("HTTP/1.1"), "{text}");
    let text = repo.fails(25, ["backup", &format!("redis+scan://{address}")]);
    assert!(text.contains("HTTP/1.1"), "{text}");
}

#[test]
fn a_certificate_of_version_1_is_said_to_be_ours() {
    let repo = Repo::new();
    certificates(&repo);
    let script =
        "openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out v1.pem -days 2
        openssl x509 -in v1.pem -noout -text | grep -q 'Version: 1 '";
    let made = std::process::Command::new("sh").args(["-ec", script]).current_dir(repo.dir.path()).output();
    assert!(made.unwrap().status.success(), "this openssl makes no certificate of version 1");
    let option = |name: &str, file: &str| format!("tls.{name}={}", repo.path(file).display());
    let options = [option("ca", "ca.pem"), option("cert", "v1.pem"), option("key", "client.key")];
    let mut args: Vec<&str> = options.iter().flat_map(|option| ["-o", option.as_str()]).collect();
    args.push("backup");
    for scheme in ["rediss", "rediss+scan", "valkeys"] {
        // Nothing need listen there: it is told before anything is sent.
        let url = format!("{scheme}://127.0.0.1:1");
        let text = repo.fails(25, args.iter().copied().chain([url.as_str()]));
        assert!(text.contains("our certificate is of X.509 version 1"), "{text}");
        assert!(text.contains("basicConstraints=CA:FALSE") && !text.contains("peer"), "{text}");
    }
}
