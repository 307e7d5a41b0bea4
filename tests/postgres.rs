//! PostgreSQL 15 from Debian: databases, globals, formats, failures.

use crate::harness::{Process, Repo, free_port, run, wait_for};
use std::path::{Path, PathBuf};
use std::process::Command;

pub(crate) struct Postgres {
    _process: Process,
    port: u16,
    bin: PathBuf,
}

fn bin() -> PathBuf {
    let found = run("sh", &["-c", "ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1"]);
    PathBuf::from(found.trim())
}

/// As the user postgres where we are root, which the server refuses to be.
fn as_postgres(program: &Path, home: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "env"]);
    command.arg(format!("HOME={}", home.display())).arg(program);
    command
}

impl Postgres {
    pub(crate) fn start(repo: &Repo) -> Self {
        let (bin, port) = (bin(), free_port());
        let data = repo.path("pg");
        std::fs::create_dir(&data).unwrap();
        if rustix::process::geteuid().is_root() {
            run("chmod", &["755", repo.dir.path().to_str().unwrap()]);
            run("chown", &["postgres", data.to_str().unwrap()]);
        }
        let mut init = as_postgres(&bin.join("initdb"), &data);
        init.arg("-D").arg(data.join("data")).args(["-A", "scram-sha-256", "-U", "postgres", "--no-sync"]);
        std::fs::write(repo.path("pw"), "sesame\n").unwrap();
        run("chmod", &["644", repo.path("pw").to_str().unwrap()]);
        init.arg("--pwfile").arg(repo.path("pw"));
        let output = init.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut command = as_postgres(&bin.join("postgres"), &data);
        command.arg("-D").arg(data.join("data")).args([
            "-p",
            &port.to_string(),
            "-h",
            "127.0.0.1",
            "-c",
            "fsync=off",
        ]);
        command.arg("-k").arg(&data);
        let server = Self { _process: Process::start(&mut command), port, bin };
        wait_for("postgres", 30, || server.try_sql("postgres", "SELECT 1").is_some());
        server
    }

    fn try_sql(&self, database: &str, sql: &str) -> Option<String> {
        let output = Command::new(self.bin.join("psql"))
            .env("PGPASSWORD", "sesame")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-U",
                "postgres",
                "-d",
                database,
                "-XAt",
                "-v",
                "ON_ERROR_STOP=1",
                "-c",
                sql,
            ])
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres:sesame@127.0.0.1:{}", self.port)
    }
}

const FILL: &str = "
    CREATE TABLE account (id int PRIMARY KEY, name text, data jsonb, raw bytea);
    INSERT INTO account SELECT i, 'name ' || i, jsonb_build_object('n', i), decode(md5(i::text), 'hex') FROM generate_series(1, 20000) i;
    SELECT lo_from_bytea(0, decode(repeat('ab', 5000), 'hex'));";

const SUM: &str = "SELECT md5(string_agg(account::text, ',' ORDER BY id)) FROM account";

#[test]
fn every_database_comes_back() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    for database in ["shop", "we/ird \"na'me"] {
        server.sql("postgres", &format!("CREATE DATABASE \"{}\"", database.replace('"', "\"\"")));
    }
    server.sql("postgres", "CREATE ROLE clerk LOGIN");
    server.sql("shop", FILL);
    repo.ok(["backup", &server.url()]);
    let list = repo.ok(["ls", "latest"]);
    let folder = format!("/postgres/127.0.0.1:{}", server.port);
    for name in
        ["databases/postgres.sql", "databases/shop.sql", "databases/we%2Fird \"na'me.sql", "globals.sql"]
    {
        assert!(list.contains(&format!("{folder}/{name}")), "{list}");
    }
    repo.ok(["restore", "latest", "--target", "out"]);
    let out = repo.path(&format!("out{folder}"));
    assert!(std::fs::read_to_string(out.join("globals.sql")).unwrap().contains("CREATE ROLE clerk"));
    server.sql("postgres", "CREATE DATABASE copy");
    let psql = server.bin.join("psql");
    let copy = Command::new(psql)
        .env("PGPASSWORD", "sesame")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &server.port.to_string(),
            "-U",
            "postgres",
            "-d",
            "copy",
            "-Xq",
            "-v",
            "ON_ERROR_STOP=1",
            "-f",
        ])
        .arg(out.join("databases/shop.sql"))
        .output()
        .unwrap();
    assert!(copy.status.success(), "{}", String::from_utf8_lossy(&copy.stderr));
    assert_eq!(server.sql("copy", SUM), server.sql("shop", SUM));

    // One database, in custom format, into another.
    repo.ok(["backup", &format!("{}/shop", server.url()), "-o", "postgres.format=custom"]);
    repo.ok(["restore", "latest", "--target", "custom"]);
    server.sql("postgres", "CREATE DATABASE copy2");
    let restore = Command::new(server.bin.join("pg_restore"))
        .env("PGPASSWORD", "sesame")
        .args(["-h", "127.0.0.1", "-p", &server.port.to_string(), "-U", "postgres", "-d", "copy2"])
        .arg(repo.path(&format!("custom{folder}/databases/shop.dump")))
        .output()
        .unwrap();
    assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
    assert_eq!(server.sql("copy2", SUM), server.sql("shop", SUM));
    let record = repo.ok(["cat", "snapshot", "latest"]);
    assert!(!record.contains("sesame"), "{record}");
}

#[test]
fn failures_make_no_snapshot() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    let wrong = server.url().replace("sesame", "wrong");
    let text = repo.fails(25, ["backup", &wrong]);
    assert!(text.contains("password authentication failed") && !text.contains("wrong@"), "{text}");
    repo.fails(20, ["backup", &format!("{}/no_such_database", server.url())]);
    repo.fails(25, ["backup", &format!("postgres://127.0.0.1:{}", free_port())]);
    // pg_dump killed in the middle: the server ends its connection, and it exits with an error.
    server.sql("postgres", FILL);
    server.sql(
        "postgres",
        "INSERT INTO account SELECT i, repeat('x', 3000), '{}', '' FROM generate_series(20001, 80000) i",
    );
    let mut child =
        repo.command(["backup", &server.url()]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let kill =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'pg_dump'";
    wait_for("pg_dump", 20, || server.sql("postgres", kill).trim() != "0");
    assert_eq!(child.wait().unwrap().code(), Some(20));
    assert_eq!(repo.snapshot_count(), 0);
}
