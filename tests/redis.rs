//! Redis and Valkey, real ones of several versions, with data of every type.

use crate::harness::{Process, Repo, certificates, free_port, server, wait_for};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) struct Redis {
    _process: Process,
    port: u16,
    password: Option<&'static str>,
}

impl Redis {
    pub(crate) fn start(binary: &Path, dir: &Path, args: &[&str]) -> Self {
        Self::start_at(free_port(), binary, dir, args)
    }

    /// A server on a port that this test has.
    pub(crate) fn start_at(port: u16, binary: &Path, dir: &Path, args: &[&str]) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let mut command = Command::new(binary);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]);
        command.arg("--dir").arg(dir).args(args);
        if !binary.ends_with("redis-6.2") {
            command.args(["--enable-debug-command", "local"]);
        }
        let password = args.windows(2).find(|pair| pair[0] == "--requirepass").map(|_| "sesame");
        let redis = Self { _process: Process::start(&mut command), port, password };
        wait_for("redis", 20, || redis.try_cli(&["PING"]).is_some_and(|answer| answer.trim() == "PONG"));
        redis
    }

    fn try_cli(&self, args: &[&str]) -> Option<String> {
        let mut command = Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        if let Some(password) = self.password {
            command.args(["--no-auth-warning", "-a", password]);
        }
        let output = command.args(args).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) fn cli(&self, args: &[&str]) -> String {
        self.try_cli(args).unwrap()
    }

    /// Writes, and waits on the same connection until a replica says that it has it: `WAIT` counts nothing for a connection
    /// that wrote nothing. Returns how many said so.
    pub(crate) fn acknowledged(&self, write: &str) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(format!("{write}\nWAIT 1 20000\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Keys of every type in two databases, some of them expiring.
    pub(crate) fn fill(&self, keys: u32) {
        let script = r"
            math.randomseed(7)
            for i = 1, tonumber(ARGV[1]) do
              local k = i % 7
              if k == 0 then redis.call('SET', 'string:'..i, string.rep('v'..i, 20))
              elseif k == 1 then redis.call('RPUSH', 'list:'..i, i, 'b', string.rep('x', 100))
              elseif k == 2 then redis.call('SADD', 'set:'..i, i, i + 1, 'm'..i)
              elseif k == 3 then redis.call('HSET', 'hash:'..i, 'f', i, 'g', string.rep('y', 80))
              elseif k == 4 then redis.call('ZADD', 'zset:'..i, i, 'a', i / 3, 'b')
              elseif k == 5 then redis.call('XADD', 'stream:'..i, '1-1', 'field', i)
              else redis.call('SET', 'ttl:'..i, i, 'EX', 100000) end
            end
            return 1";
        self.cli(&["EVAL", script, "0", &keys.to_string()]);
        self.cli(&["-n", "3", "EVAL", script, "0", "50"]);
    }

    /// What [`Redis::fill`] leaves out: tables, packed lists, groups, functions, binary names, and what only newer
    /// servers know, as far as this one does.
    pub(crate) fn fill_every_type(&self) {
        let script = r"
            for i = 1, 3000 do
              redis.call('SADD', 'table:set', 'member:'..redis.sha1hex(i))
              redis.call('HSET', 'table:hash', redis.sha1hex(i), i)
              redis.call('ZADD', 'table:zset', i / 7, 'member:'..i)
              redis.call('RPUSH', 'long:list', string.rep('node'..i, 10))
              redis.call('SADD', 'ints', i * 1000003)
            end
            redis.call('SET', 'compressible', string.rep('abc', 50000))
            redis.call('SET', 'number', '-123456789')
            redis.call('SET', 'zeros\0in\0name', 'v\0\0v')
            redis.call('SET', '', 'the empty key')
            for i = 1, 300 do redis.call('XADD', 'grouped', i..'-1', 'name', 'n'..i, 'value', i) end
            redis.call('XDEL', 'grouped', '7-1')
            redis.call('XGROUP', 'CREATE', 'grouped', 'workers', '0')
            redis.call('PFADD', 'hll', 'a', 'b', 'c')
            redis.call('GEOADD', 'geo', 13.361389, 38.115556, 'Palermo')
            return 1";
        self.cli(&["EVAL", script, "0"]);
        self.cli(&["XREADGROUP", "GROUP", "workers", "alice", "COUNT", "10", "STREAMS", "grouped", ">"]);
        self.cli(&["XREADGROUP", "GROUP", "workers", "bob", "COUNT", "5", "STREAMS", "grouped", ">"]);
        self.cli(&["-n", "15", "SET", "far", "away", "PX", "99999999"]);
        let function = "#!lua name=mylib\nredis.register_function('seven', function() return 7 end)";
        self.try_cli(&["FUNCTION", "LOAD", function]);
        for command in [
            &["HEXPIRE", "hash:3", "90000", "FIELDS", "1", "f"][..],
            &["HEXPIRE", "table:hash", "90000", "FIELDS", "1", "356a192b7913b04c54574d18c28d46e6395428ab"],
            &["VADD", "vectors", "VALUES", "3", "0.1", "0.2", "0.3", "first"],
        ] {
            self.try_cli(command);
        }
    }

    pub(crate) fn digest(&self) -> String {
        self.cli(&["DEBUG", "DIGEST"])
    }
}

pub(crate) fn apt_redis() -> PathBuf {
    PathBuf::from("redis-server")
}

/// Loads a restored RDB into a fresh server.
fn load(binary: &Path, repo: &Repo, rdb: &Path) -> Redis {
    let dir = repo.path(&format!("load-{}", free_port()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::copy(rdb, dir.join("dump.rdb")).unwrap();
    Redis::start(binary, &dir, &["--dbfilename", "dump.rdb"])
}

fn round_trip(binary: &Path, scheme: &str, args: &[&str]) {
    let repo = Repo::new();
    let redis = Redis::start(binary, &repo.path("redis"), args);
    redis.fill(20_000);
    redis.fill_every_type();
    let url = redis.url().replacen("redis://", scheme, 1);
    repo.ok(["backup", &url]);
    let record = &repo.json(["snapshots"])[0]["sources"][0];
    assert_eq!(record["details"]["order"], "canonical", "{record}");
    assert!(record["start"].is_string() && record["end"].is_string());
    repo.ok(["restore", "latest", "--target", "out"]);
    let rdb = repo.path(&format!("out/redis/127.0.0.1:{}/dump.rdb", redis.port));
    let same = |loaded: &Redis| {
        assert_eq!(loaded.digest(), redis.digest());
        for database in ["0", "3", "15"] {
            let size = |redis: &Redis| redis.cli(&["-n", database, "DBSIZE"]);
            assert_eq!(size(loaded), size(&redis));
        }
        let ttl: i64 = loaded.cli(&["TTL", "ttl:6"]).trim().parse().unwrap();
        assert!((99_000..=100_000).contains(&ttl), "{ttl}");
        for question in [
            &["FCALL", "seven", "0"][..],
            &["HTTL", "hash:3", "FIELDS", "1", "f"],
            &["VEMB", "vectors", "first"],
            &["XPENDING", "grouped", "workers"],
            &["EVAL", r"return redis.call('GET', 'zeros\0in\0name')", "0"],
        ] {
            let answer = |redis: &Redis| redis.try_cli(question).filter(|text| !text.contains("ERR"));
            let (found, wanted) = (answer(loaded), answer(&redis));
            // Times may have moved on by a second.
            let about = |text: &Option<String>| text.as_ref().map(|text| text.trim().len());
            assert_eq!(about(&found), about(&wanted), "{question:?}: {found:?}, {wanted:?}");
        }
    };
    same(&load(binary, &repo, &rdb));
    // Key by key into an empty server: the same again.
    let empty = Redis::start(binary, &repo.path("empty"), &[]);
    let report = repo.json(["restore", "latest", "--to", &empty.url(), "--whole"]);
    assert_eq!((&report["keys_different"], &report["keys_refused"]), (&0.into(), &0.into()), "{report}");
    same(&empty);
    // The same server, some keys changed: the rest is found again.
    redis.cli(&["SET", "string:7", "changed"]);
    redis.cli(&["DEL", "list:8"]);
    redis.cli(&["SET", "brand:new", "1"]);
    repo.ok(["backup", &url]);
    let diff = repo.ok(["-v", "diff", "latest~1", "latest"]);
    // A server that only tells what is left of a key's time gives another expiry each time, by a millisecond.
    let exact = !scheme.contains("scan") || !binary.ends_with("redis-6.2");
    assert!(
        diff.contains(if exact { "1 added, 1 removed, 1 changed" } else { "1 added, 1 removed" }),
        "{diff}"
    );
    assert!(diff.contains("/0/string:7\n"), "{diff}");
    repo.ok(["check", "--read-data"]);
}

#[test]
fn redis_7_disk_and_diskless() {
    round_trip(&apt_redis(), "redis://", &["--repl-diskless-sync", "no"]);
    round_trip(&apt_redis(), "redis://", &["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]);
}

#[test]
fn redis_6_2() {
    round_trip(&server("redis-6.2"), "redis://", &["--repl-diskless-sync-delay", "0"]);
}

#[test]
fn redis_8() {
    round_trip(&server("redis-8"), "redis://", &["--repl-diskless-sync-delay", "0"]);
}

#[test]
fn valkey_8() {
    round_trip(&server("valkey-8"), "redis://", &["--repl-diskless-sync-delay", "0"]);
}

#[test]
fn valkey_9() {
    round_trip(&server("valkey-9"), "valkey://", &["--repl-diskless-sync-delay", "0"]);
}

#[test]
fn scan_instead_of_replication() {
    round_trip(&apt_redis(), "redis+scan://", &[]);
    round_trip(&server("redis-6.2"), "redis+scan://", &[]);
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &[]);
    repo.ok(["backup", &redis.url().replacen("redis://", "redis+scan://", 1)]);
    assert_eq!(repo.json(["snapshots"])[0]["sources"][0]["point_in_time"], false);
}

#[test]
fn passwords_are_used_and_never_kept() {
    let repo = Repo::new();
    let redis = Redis::start(
        &apt_redis(),
        &repo.path("redis"),
        &["--requirepass", "sesame", "--repl-diskless-sync-delay", "0"],
    );
    redis.fill(100);
    let place = format!("127.0.0.1:{}", redis.port);
    assert!(repo.fails(25, ["backup", &format!("redis://{place}")]).contains("Authentication required"));
    assert!(repo.fails(25, ["backup", &format!("redis://:wrong@{place}")]).contains("AUTH failed"));
    assert_eq!(repo.snapshot_count(), 0);
    let output = repo.run(["-v", "backup", &format!("redis://:sesame@{place}"), "--json"]);
    assert!(output.status.success());
    let all = [output.stdout, output.stderr, repo.ok(["cat", "snapshot", "latest"]).into_bytes()].concat();
    assert!(!String::from_utf8_lossy(&all).contains("sesame"));
}

#[test]
fn a_server_that_is_down() {
    let repo = Repo::new();
    let text = repo.fails(25, ["backup", &format!("redis://127.0.0.1:{}", free_port())]);
    assert!(text.contains("cannot connect"), "{text}");
}

#[test]
fn a_server_that_cannot_save() {
    let repo = Repo::new();
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &["--repl-diskless-sync", "no"]);
    redis.fill(100);
    std::fs::remove_dir_all(repo.path("redis")).unwrap();
    let text = repo.fails(25, ["backup", &redis.url()]);
    assert!(text.contains("disk"), "{text}");
    assert_eq!(repo.snapshot_count(), 0);
}

/// Waits until a backup says that it has read so many bytes; what it says after that must not be closed before it ends.
fn until_read(child: &mut std::process::Child, bytes: u64) -> impl std::io::BufRead + use<> {
    use std::io::BufRead as _;
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    loop {
        line.clear();
        assert!(output.read_line(&mut line).unwrap() > 0, "it ended before it had read {bytes} bytes");
        let status: serde_json::Value = serde_json::from_str(&line).unwrap();
        if status["bytes_done"].as_u64().is_some_and(|done| done >= bytes) {
            return output;
        }
    }
}

#[test]
fn killed_in_the_middle_of_the_transfer() {
    let repo = Repo::new();
    let args =
        ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--rdb-key-save-delay", "300"];
    let mut redis = Redis::start(&apt_redis(), &repo.path("redis"), &args);
    redis.fill(1000);
    let script =
        "for i = 1, 20000 do redis.call('SET', 'big:'..i, string.rep(redis.sha1hex(i), 100)) end return 1";
    redis.cli(&["EVAL", script, "0"]);
    redis.cli(&["CONFIG", "SET", "rdbcompression", "no"]);

    // The transfer is cut, the server lives: what had come over is not uploaded again.
    // In the order it comes, for only then is anything stored before the end.
    let start = || {
        let mut command = repo.command(["--json", "-o", "redis.order=raw", "backup", &redis.url()]);
        command.stderr(std::process::Stdio::null()).stdout(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let mut child = start();
    let _rest = until_read(&mut child, 30 << 20);
    redis.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
    assert_eq!(child.wait().unwrap().code(), Some(21));
    assert_eq!(repo.snapshot_count(), 0);
    redis.cli(&["CONFIG", "SET", "rdb-key-save-delay", "0"]);
    let good = repo.json(["-o", "redis.order=raw", "backup", &redis.url()]);
    let (added, total) =
        (good["data_added"].as_u64().unwrap(), good["total_bytes_processed"].as_u64().unwrap());
    assert!(added < total * 9 / 10, "{added} of {total} bytes were added again");

    // The server dies.
    redis.cli(&["CONFIG", "SET", "rdb-key-save-delay", "300"]);
    let mut child = start();
    let _rest = until_read(&mut child, 30 << 20);
    // The child that saves sends through its parent, so this cuts the transfer.
    redis._process.0.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(21));
    assert_eq!(repo.snapshot_count(), 1);
    repo.ok(["check", "--read-data"]);
}

#[test]
fn over_tls_with_certificates_on_both_sides() {
    let repo = Repo::new();
    certificates(&repo);
    let file = |name: &str| repo.path(name).display().to_string();
    let tls = free_port();
    let owned = [tls.to_string(), file("server.pem"), file("server.key"), file("ca.pem")];
    let [port, pem, key_file, authority] = owned.each_ref().map(String::as_str);
    let args = [
        "--tls-port",
        port,
        "--tls-cert-file",
        pem,
        "--tls-key-file",
        key_file,
        "--tls-ca-cert-file",
        authority,
        "--tls-auth-clients",
        "yes",
        "--repl-diskless-sync-delay",
        "0",
    ];
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &args);
    redis.fill(3000);
    let place = format!("rediss://127.0.0.1:{tls}");
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let options = [format!("tls.ca={ca}"), format!("tls.cert={cert}"), format!("tls.key={key}")];
    let with = |options: &[String], more: &[&str]| -> Vec<String> {
        let mut all: Vec<String> =
            options.iter().flat_map(|option| ["-o".to_owned(), option.clone()]).collect();
        all.extend(more.iter().map(|word| (*word).to_owned()));
        all
    };
    repo.ok(with(&options, &["backup", &place]));
    repo.ok(with(&options, &["backup", &place.replace("rediss://", "rediss+scan://")]));
    redis.cli(&["SET", "string:7", "changed"]);
    repo.ok(with(&options, &["restore", "latest:redis/0/string:7", "--to", &place, "--replace"]));
    assert_eq!(redis.cli(&["GET", "string:7"]).trim(), "v7".repeat(20));
    // An authority that we do not know, and a client that the server does not.
    let text = repo.fails(25, ["backup", &place]);
    assert!(text.contains("certificate") || text.contains("authority"), "{text}");
    repo.fails(25, with(&options[..1], &["backup", &place]));
    assert!(repo.fails(25, with(&options[..2], &["backup", &place])).contains("tls.key"));
    assert_eq!(repo.snapshot_count(), 2);
}
