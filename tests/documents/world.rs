//! The world of the documents: their hosts, servers and folders, and what happens between two lines of theirs.

use crate::glacier::Glacier;
use crate::harness::{Repo, esker_binary, server, source_root, text, wait_for};
use crate::mariadb::Maria;
use crate::pg::Postgres;
use crate::qdrant_double::Qdrant;
use crate::redis::{Redis, apt_redis};
use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// Names of hosts, and their addresses: `db.example.org` and 127.0.0.1 have data, the others are empty.
const HOSTS: &str = "127.0.0.1 localhost\n127.0.0.2 db.example.org\n127.0.0.3 host\n127.0.0.4 empty-host\n";

/// What the reader of a page did before: the repository that the page takes for granted.
const PREPARED: &[(&str, &[&str])] = &[
    ("README.md", &[]),
    ("docs/restic.md", &[]),
    ("docs/drills.md", &[]),
    ("docs/hosts.md", &["esker init", "mkdir -p /var/www", "echo hello > /var/www/index.html"]),
    ("docs/debugging.md", &["esker init", "esker backup /etc/app"]),
    ("docs/mariadb.md", &["esker init", "esker backup mysql://keeper@db.example.org"]),
    ("docs/postgres.md", &["esker init", "esker backup postgres://postgres@db.example.org"]),
    ("docs/qdrant.md", &["esker init", "esker backup qdrant+http://127.0.0.1:6333"]),
    (
        "docs/redis.md",
        &[
            "esker init",
            "esker backup redis://127.0.0.1",
            "redis-cli set user:3 three",
            "esker backup redis://127.0.0.1",
        ],
    ),
];

/// What the reader has whom a page is about, made before it in the checkout's own words: `CHECKOUT`, `RESTIC`.
const GIVEN: &[(&str, &[&str])] = &[(
    "docs/restic.md",
    &[
        "ln -s CHECKOUT/scripts scripts",
        "echo hunter2 > restic.pass",
        "RESTIC -r /srv/restic -p restic.pass init",
        "RESTIC -r /srv/restic -p restic.pass backup /etc/app",
        "export ESKER_REPOSITORY=/backup/restic ESKER_PASSWORD_FILE=/root/esker-password",
    ],
)];

/// What happens before a line that begins so, on a page: a server that is emptied, a disk that fails.
const BEFORE: &[(&str, &str, &str)] = &[
    ("README.md", "esker restore latest --to redis", "redis-cli del user:1 user:2"),
    ("README.md", "esker tier adopt", "rm -r /backup/nightly"),
    (
        "docs/mariadb.md",
        "esker restore latest --to mysql://root@host/shop --database shop --table orders   ",
        "mysql -h host -e 'drop table shop.orders'",
    ),
    (
        "docs/postgres.md",
        "esker restore latest --to postgres://host/shop --database shop --table",
        "psql -h host -U postgres shop -c 'drop table sales.orders'",
    ),
    ("docs/postgres.md", "esker restore latest --target", "esker_stream postgres://postgres@db.example.org"),
    (
        "docs/postgres.md",
        "esker restore latest --target /var/lib/postgresql/17/back --prepare",
        "rm -r /var/lib/postgresql/17/back",
    ),
    ("docs/qdrant.md", "esker restore latest --to qdrant+http://host --include", "empty_qdrant"),
    ("docs/qdrant.md", "esker restore latest --to qdrant+http://host/before", "empty_qdrant"),
    ("docs/qdrant.md", "esker restore latest:/qdrant/storage", "esker backup qdrant+file:///qdrant/storage"),
    ("docs/redis.md", "esker restore latest --to redis://empty-host", "esker_stream redis://127.0.0.1"),
];

/// Moments that a document writes out: the reader has others.
const MOMENTS: &[&str] = &["2026-11-22T03:04:05.678Z", "2026-11-21 14:05:00"];

/// Words of the tables above that are no programs.
const FUNCTIONS: &str = r#"
esker_stream() {
    esker stream "$@" > /tmp/stream 2>&1 & local process=$!
    for try in $(seq 300); do grep -q 'restorable until' /tmp/stream && break; sleep 0.2; done
    sed -n 's/.*restorable until //p' /tmp/stream | head -1 > /tmp/moment
    kill -INT $process; wait $process; local code=$?
    cat /tmp/stream; [ -s /tmp/moment ] && return $code
}
empty_qdrant() {
    for name in $(curl -s http://host:6333/collections | python3 -c 'import json, sys
for one in json.load(sys.stdin)["result"]["collections"]: print(one["name"])'); do
        curl -sf -X DELETE "http://host:6333/collections/$name" > /dev/null
    done
}
"#;

/// The servers run until it is dropped.
pub(super) struct World {
    page: String,
    _servers: Servers,
}

struct Servers {
    _folder: Repo,
    _redis: Vec<Redis>,
    _postgres: Vec<Postgres>,
    _maria: Vec<Maria>,
    _qdrant: Vec<Qdrant>,
    _glacier: Glacier,
}

/// Passes on what comes to `address` (`IP:PORT`) to a port of 127.0.0.1.
fn forward(address: &str, port: u16) {
    let listener = TcpListener::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
            let (mut up, mut down) = (client.try_clone().unwrap(), client);
            let (mut to, mut from) = (server.try_clone().unwrap(), server);
            std::thread::spawn(move || {
                let _ = copy(&mut up, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _ = copy(&mut from, &mut down);
                let _ = down.shutdown(Shutdown::Both);
            });
        }
    });
}

fn write(path: &str, content: impl AsRef<[u8]>) {
    std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

impl World {
    pub(super) fn new() -> Self {
        write("/etc/hosts", HOSTS);
        write("/root/.pgpass", "*:*:*:*:sesame\n");
        crate::harness::run("chmod", &["600", "/root/.pgpass"]);
        write("/home/you/letter", text(1, 30_000));
        write("/home/you/junk.tmp", "left out");
        write("/etc/app/settings", "color = blue\n");
        write("/root/esker-password", "correct horse\n");
        write("/etc/esker/password", "correct horse\n");
        std::fs::create_dir_all("/usr/local/bin").unwrap();
        let _ = std::fs::remove_file("/usr/local/bin/esker");
        symlink(esker_binary(), "/usr/local/bin/esker").unwrap();
        Self { page: String::new(), _servers: Servers::start() }
    }

    /// Begins a page: in an empty folder, as a user who did what the page takes for granted.
    pub(super) fn open(&mut self, page: &str) {
        let prepared = PREPARED.iter().find(|(name, _)| *name == page);
        let (_, prepared) =
            prepared.unwrap_or_else(|| panic!("{page} shows commands; what was done before?"));
        self.page = page.to_owned();
        let name = Path::new(page).file_stem().unwrap().to_string_lossy().into_owned();
        std::fs::create_dir_all(format!("/tmp/{name}")).unwrap();
        let mut state = format!("cd /tmp/{name}\n");
        if !prepared.is_empty() {
            state +=
                &format!("export ESKER_REPOSITORY=/backup/{name} ESKER_PASSWORD_FILE=/root/esker-password\n");
        }
        std::fs::write("/tmp/state", state).unwrap();
        for line in *prepared {
            self.execute(page, line);
        }
        for (_, lines) in GIVEN.iter().filter(|(name, _)| *name == page) {
            for line in *lines {
                let line = line.replace("CHECKOUT", &source_root().display().to_string());
                self.execute(page, &line.replace("RESTIC", &server("restic-0.14").display().to_string()));
            }
        }
        self.execute(page, "mysqldump shop | gzip > old.sql.gz");
    }

    /// Writes a file that the document shows.
    pub(super) fn write(&self, name: &str, content: &str) {
        let file = format!("/tmp/content-of-{name}");
        std::fs::write(&file, content).unwrap();
        self.execute(&self.page, &format!("cp {file} {name}"));
    }

    /// Runs a line, and what happens before it.
    pub(super) fn run(&self, place: &str, line: &str) {
        for (page, start, happens) in BEFORE {
            if *page == self.page && line.starts_with(start) {
                self.execute(place, happens);
            }
        }
        let mut line = line.to_owned();
        for moment in MOMENTS {
            if line.contains(moment) {
                let now = std::fs::read_to_string("/tmp/moment").unwrap();
                line = line.replace(moment, now.trim());
            }
        }
        // What goes on until it is stopped is stopped as its page says, with ctrl-C.
        match line.strip_prefix("esker stream ") {
            Some(words) => self.execute(place, &format!("esker_stream {words}")),
            None => self.execute(place, &line),
        }
    }

    /// Runs a line in the shell that the lines of a page share, and demands success.
    fn execute(&self, place: &str, line: &str) {
        let script = format!(
            "set -o pipefail\n. /tmp/state\n{FUNCTIONS}\n{line}\ncode=$?\n{{ echo \"cd '$PWD'\"; export -p; }} > /tmp/state\n\
             exit $code\n"
        );
        let endpoint = std::fs::read_to_string("/tmp/endpoint").unwrap();
        let output = Command::new("bash")
            .args(["-c", &script])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .envs([("HOME", "/root"), ("USER", "root"), ("LANG", "C.UTF-8"), ("TZ", "UTC")])
            .envs([("AWS_ACCESS_KEY_ID", "AKTEST"), ("AWS_SECRET_ACCESS_KEY", "SKTEST")])
            .envs([("AWS_ENDPOINT_URL", endpoint.as_str()), ("ESKER_CACHE_DIR", "/tmp/cache")])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{place}: {line}\n{}\n{out}\n{err}", output.status);
    }
}

impl Servers {
    fn start() -> Self {
        let folder = Repo::empty();
        let redis: Vec<_> = ["redis", "redis-host", "redis-empty"]
            .map(|name| Redis::start(&apt_redis(), &folder.path(name), &[]))
            .into_iter()
            .collect();
        for (server, address) in redis.iter().zip(["127.0.0.1", "127.0.0.3", "127.0.0.4"]) {
            forward(&format!("{address}:6379"), server.port());
        }
        redis[0].cli(&["MSET", "user:1", "one", "user:2", "two", "order:1", "shoes"]);
        let glacier = Glacier::start(0.1, 60.0);
        assert!(glacier.bucket("bucket"));
        std::fs::write("/tmp/endpoint", format!("http://127.0.0.1:{}", glacier.port)).unwrap();
        Self {
            _redis: redis,
            _postgres: postgres(&folder),
            _maria: maria(&folder),
            _qdrant: qdrant(&folder),
            _glacier: glacier,
            _folder: folder,
        }
    }
}

fn postgres(folder: &Repo) -> Vec<Postgres> {
    let wal = ["wal_level=replica", "max_wal_senders=8"];
    let full = Postgres::version(folder, 15, "pg", &wal);
    let empty = Postgres::version(folder, 15, "pg-host", &[]);
    for (server, address) in [(&full, "127.0.0.2"), (&empty, "127.0.0.3")] {
        forward(&format!("{address}:5432"), server.port);
        server.sql("postgres", "CREATE ROLE root SUPERUSER LOGIN PASSWORD 'sesame'");
    }
    full.sql("postgres", "CREATE DATABASE shop");
    full.each(
        "shop",
        &[
            "CREATE SCHEMA sales",
            "CREATE TABLE sales.orders(id int PRIMARY KEY, what text)",
            "INSERT INTO sales.orders SELECT i, 'order ' || i FROM generate_series(1, 500) i",
        ],
    );
    std::fs::create_dir_all("/run/postgresql").unwrap();
    symlink(full.home.join(format!(".s.PGSQL.{}", full.port)), "/run/postgresql/.s.PGSQL.5432").unwrap();
    vec![full, empty]
}

fn maria(folder: &Repo) -> Vec<Maria> {
    let (full, empty) = (Maria::start(folder, "maria"), Maria::start(folder, "maria-host"));
    for (server, address) in [(&full, "127.0.0.2"), (&empty, "127.0.0.3")] {
        forward(&format!("{address}:3306"), server.port);
        server.root("ALTER USER 'keeper'@'127.0.0.1' IDENTIFIED BY ''");
    }
    full.root("CREATE DATABASE shop; CREATE TABLE shop.orders(id int primary key, what text)");
    full.root("INSERT INTO shop.orders VALUES (1, 'shoes'), (2, 'hats')");
    std::fs::create_dir_all("/run/mysqld").unwrap();
    symlink(full.home.join("s.sock"), "/run/mysqld/mysqld.sock").unwrap();
    vec![full, empty]
}

fn qdrant(folder: &Repo) -> Vec<Qdrant> {
    let (one, two) = (folder.path("qdrant"), folder.path("qdrant-host"));
    std::fs::create_dir(&one).unwrap();
    std::fs::create_dir(&two).unwrap();
    let (full, empty) = (Qdrant::start(&one, None), Qdrant::start(&two, None));
    forward("127.0.0.1:6333", full.port());
    forward("127.0.0.3:6333", empty.port());
    full.client("fill('things', 300); fill('log-1', 50); fill('log-test', 20)");
    let output = Command::new(server("vectors/bin/python"))
        .arg(source_root().join("tests/servers/qdrant_volume.py"))
        .args(["/qdrant/storage", "make", "things", "200"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_for("the volume", 10, || Path::new("/qdrant/storage/collections/things").exists());
    vec![full, empty]
}
