//! MariaDB from Debian: databases, single tables, the second night, the binary log, what goes wrong.

use crate::harness::{Process, Repo, certificates, expect, free_port, noise, run, wait_for};
use crate::relay::{Relay, cut_after, cuts};
use std::path::PathBuf;
use std::process::Command;

pub(crate) struct Maria {
    process: Option<Process>,
    pub(crate) port: u16,
    pub(crate) home: PathBuf,
    settings: Vec<String>,
}

impl Maria {
    pub(crate) fn start(repo: &Repo, folder: &str) -> Self {
        Self::with(repo, folder, vec![])
    }

    pub(crate) fn with(repo: &Repo, folder: &str, settings: Vec<String>) -> Self {
        let home = repo.path(folder);
        std::fs::create_dir(&home).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            run("chmod", &["755", repo.dir.path().to_str().unwrap()]);
            run("chown", &["mysql", home.to_str().unwrap()]);
        }
        // A folder of its own: a server that starts removes what others have in a shared one.
        let tmp = home.join("tmp");
        std::fs::create_dir(&tmp).unwrap();
        if is_root {
            run("chown", &["mysql", tmp.to_str().unwrap()]);
        }
        let user = if is_root { "--user=mysql" } else { "--skip-name-resolve" };
        let data = format!("--datadir={}", home.join("data").display());
        run(
            "mariadb-install-db",
            &[
                "--no-defaults",
                user,
                &data,
                "--auth-root-authentication-method=normal",
                &format!("--tmpdir={}", tmp.display()),
                "--skip-test-db",
            ],
        );
        let mut server = Self { process: None, port: free_port(), home, settings };
        server.up();
        server.root("CREATE USER 'keeper'@'127.0.0.1' IDENTIFIED BY 'ses\"ame#'; GRANT ALL ON *.* TO 'keeper'@'127.0.0.1' WITH GRANT OPTION");
        server
    }

    fn up(&mut self) {
        let path = |name: &str| self.home.join(name).display().to_string();
        let mut command = Command::new("mariadbd");
        command.args(["--no-defaults", "--bind-address=127.0.0.1", "--server-id=1", "--binlog-format=ROW"]);
        command.arg(format!("--datadir={}", path("data"))).arg(format!("--port={}", self.port));
        command.arg(format!("--socket={}", path("s.sock"))).arg(format!("--pid-file={}", path("pid")));
        command.arg(format!("--log-bin={}/bin", path("data"))).arg(format!("--log-error={}", path("log")));
        command.arg(format!("--tmpdir={}", path("tmp")));
        command.args(["--innodb-flush-log-at-trx-commit=2", "--max-binlog-size=4M"]);
        command.args(&self.settings);
        if rustix::process::geteuid().is_root() {
            command.arg("--user=mysql");
        }
        self.process = Some(Process::start(&mut command));
        wait_for("mariadb", 60, || self.try_root("SELECT 1").is_some());
    }

    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    pub(crate) fn try_root(&self, sql: &str) -> Option<String> {
        let socket = self.home.join("s.sock");
        let output = Command::new("mariadb")
            .args(["--no-defaults", "-u", "root", "-N", "-B", "-S"])
            .arg(socket)
            .args(["-e", sql])
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    pub(crate) fn root(&self, sql: &str) -> String {
        self.try_root(sql).unwrap_or_else(|| panic!("refused: {sql}"))
    }

    pub(crate) fn url(&self) -> String {
        format!("mysql://keeper:ses%22ame%23@127.0.0.1:{}", self.port)
    }

    /// mariadb-dump's output, without what differs by run.
    pub(crate) fn dumped(&self, database: &str) -> String {
        self.dumped_with(database, &["--events"])
    }

    /// The same, with more options; without events, if there are some that mariadb-dump itself never ends with.
    pub(crate) fn dumped_with(&self, database: &str, more: &[&str]) -> String {
        let output = Command::new("mariadb-dump")
            .args([
                "--no-defaults",
                "-u",
                "root",
                "--skip-dump-date",
                "--routines",
                "--order-by-primary",
                "--single-transaction",
                "--max-allowed-packet=256M",
                "-S",
            ])
            .arg(self.home.join("s.sock"))
            .args(more)
            .arg(database)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter(|line| !line.starts_with("-- Host:")).map(|line| format!("{line}\n")).collect()
    }
}

const SHOP: &str = "CREATE DATABASE shop CHARACTER SET utf8mb4; CREATE DATABASE `we/ird.na``me`; USE shop;
    CREATE TABLE account (id int PRIMARY KEY, name varchar(200), raw varbinary(100), data json, at timestamp(6) DEFAULT '2026-01-02 03:04:05.678');
    INSERT INTO account (id, name, raw, data) SELECT seq, concat('näme\\n--\\n-- Current Database: `x`', seq), unhex(md5(seq)), json_object('n', seq) FROM seq_1_to_5000;
    CREATE TABLE orders (id int AUTO_INCREMENT PRIMARY KEY, account int, total decimal(10,2), FOREIGN KEY (account) REFERENCES account (id));
    INSERT INTO orders (account, total) SELECT 1 + seq % 5000, seq / 7 FROM seq_1_to_20000;
    CREATE TABLE `odd ``t` (`a b` int, g geometry);
    INSERT INTO `odd ``t` VALUES (1, ST_GeomFromText('POINT(1 2)')), (NULL, NULL);
    CREATE VIEW rich AS SELECT * FROM account WHERE id > 100;
    CREATE TRIGGER touched BEFORE UPDATE ON account FOR EACH ROW SET NEW.at = NOW(6);
    DELIMITER //
    CREATE PROCEDURE p() BEGIN
--
-- Current Database: `nowhere`
--
SELECT 1; END //
    DELIMITER ;
    USE `we/ird.na``me`; CREATE TABLE t (i int); INSERT INTO t SELECT seq FROM seq_1_to_100;";

/// That the two have the same in `shop`.
fn same(server: &Maria, target: &Maria) {
    let (had, has) = (server.dumped("shop"), target.dumped("shop"));
    let different = had.lines().zip(has.lines()).find(|(had, has)| had != has);
    let cut = |line: &str| line.chars().take(300).collect::<String>();
    assert!(had == has, "{:?}", different.map(|(had, has)| (cut(had), cut(has))));
}

#[test]
fn databases_and_tables_come_back() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root(SHOP);
    server.root("CREATE USER clerk@'%' IDENTIFIED BY 'x'; GRANT SELECT ON shop.* TO clerk@'%'");
    repo.ok(["backup", &server.url()]);
    let list = repo.ok(["ls", "latest"]);
    for name in
        ["databases/shop.sql", "databases/shop.sql.index", "databases/we%2Fird%2Ena`me.sql", "globals.sql"]
    {
        assert!(list.contains(&format!("/mysql/127.0.0.1:{}/{name}\n", server.port)), "{list}");
    }
    assert!(!repo.ok(["cat", "snapshot", "latest"]).contains("ses"));
    let target = Maria::start(&repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url(), "--dry-run"]);
    repo.ok(["restore", "latest", "--to", &target.url()]);
    for database in ["shop", "we/ird.na`me"] {
        let (had, has) = (server.dumped(database), target.dumped(database));
        assert!(had == has, "{had}\n---\n{has}");
    }
    assert_eq!(target.root("SHOW GRANTS FOR clerk@'%'"), server.root("SHOW GRANTS FOR clerk@'%'"));
    let text = repo.fails(1, ["restore", "latest", "--to", &target.url()]);
    assert!(text.contains("is not empty") && text.contains("--replace"), "{text}");
    // One table, where it is missing, where it is spoilt, and in another database.
    let into = format!("{}/shop", target.url());
    let table = |name: &str| {
        ["restore", "latest", "--to", &into, "--database", "shop", "--table", name].map(str::to_owned)
    };
    target.root("DROP TABLE shop.`odd ``t`");
    repo.ok(table("odd `t"));
    let text = repo.fails(1, table("account"));
    assert!(text.contains("there already: account"), "{text}");
    target.root("UPDATE shop.orders SET total = 0");
    repo.ok(table("orders").iter().map(String::as_str).chain(["--replace"]));
    same(&server, &target);
    assert!(repo.fails(1, table("nothing")).contains("no table 'nothing'"));
    repo.ok(["restore", "latest", "--to", &format!("{}/copy", target.url()), "--database", "shop"]);
    let sums = |database: &str| {
        target.root(&format!("CHECKSUM TABLE {database}.account, {database}.orders")).replace(database, "")
    };
    assert_eq!(sums("copy"), sums("shop"));
    // Whole, in place of what is there.
    target.root("DELETE FROM shop.orders; CREATE TABLE shop.later (x int)");
    repo.ok(["restore", "latest", "--to", &target.url(), "--replace"]);
    same(&server, &target);
    // Somebody else's files work as they are.
    repo.ok(["restore", "latest", "--target", "out"]);
    let file = repo.path(&format!("out/mysql/127.0.0.1:{}/databases/shop.sql", server.port));
    target.root("DROP DATABASE shop");
    let input = std::fs::File::open(file).unwrap();
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "-u", "root", "-S"]).arg(target.home.join("s.sock"));
    assert!(client.stdin(input).status().unwrap().success());
    let sums = |server: &Maria| server.root("CHECKSUM TABLE shop.account, shop.orders");
    assert_eq!(sums(&server), sums(&target));
}

#[test]
fn a_second_night_and_one_table_cost_little() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE big; USE big; CREATE TABLE t (id int PRIMARY KEY, a varchar(200), b int, c double);
        INSERT INTO t SELECT seq, concat(md5(seq), ' ', md5(seq * 7)), seq % 1000, seq / 3 FROM seq_1_to_300000");
    for number in 0..49 {
        server.root(&format!("USE big; CREATE TABLE big.t{number:02} AS SELECT seq id, md5(seq * {number} + 1) a FROM seq_1_to_20000"));
    }
    let stored = || repo.json(["backup", &server.url()])["data_added_packed"].as_u64().unwrap();
    let first = stored();
    server.root("UPDATE big.t SET b = b + 1, c = c + 0.5 WHERE id % 100 = 7");
    for number in 0..49 {
        server.root(&format!("UPDATE big.t{number:02} SET a = md5(id + 5000000) WHERE id % 100 = 7"));
    }
    let second = stored();
    println!("first night {first}, 1 % changed {second}: 1/{:.1}", first as f64 / second as f64);
    assert!(second * 8 <= first, "{second} of {first}");
    // One of fifty tables: its share, and little more.
    let report =
        repo.json(["restore", "latest", "--to", &format!("{}/aside", server.url()), "--database", "big"]);
    let all = report["bytes_restored"].as_u64().unwrap();
    server.root("CREATE DATABASE lone");
    let into = format!("{}/lone", server.url());
    let report = repo.json(["restore", "latest", "--to", &into, "--database", "big", "--table", "t07"]);
    let one = report["bytes_restored"].as_u64().unwrap();
    println!("one table of 50: {one} of {all} bytes");
    assert!(one * 50 <= all * 3, "{one} of {all}");
    assert_eq!(
        server.root("CHECKSUM TABLE lone.t07").split('\t').nth(1),
        server.root("CHECKSUM TABLE big.t07").split('\t').nth(1)
    );
}

#[test]
fn failures_make_no_snapshot() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root(SHOP);
    let text = repo.fails(25, ["backup", &server.url().replace("ses", "wrong")]);
    assert!(text.contains("Access denied") && !text.contains("wrong%"), "{text}");
    repo.fails(25, ["backup", &format!("mysql://keeper@127.0.0.1:{}", free_port())]);
    assert!(
        repo.fails(25, ["backup", &format!("{}/nothing", server.url())]).contains("no database 'nothing'")
    );
    // Cut off anywhere.
    let random = noise(11, 8 * cuts() as usize);
    for bytes in random.chunks(8) {
        let at = 2000 + u64::from_le_bytes(bytes.try_into().unwrap()) % 700_000;
        let url = server.url().replace(&server.port.to_string(), &cut_after(server.port, at).to_string());
        let output = repo.run(["backup", &url]);
        assert!(matches!(output.status.code(), Some(20 | 21 | 25)), "cut at {at}: {:?}", output);
    }
    assert_eq!(repo.snapshot_count(), 0);
    // Credentials from the user's own file.
    std::fs::write(repo.path(".my.cnf"), "[client]\nuser=keeper\npassword='ses\"ame#'\n").unwrap();
    repo.ok(["backup", &format!("mysql://127.0.0.1:{}", server.port)]);
    std::fs::remove_file(repo.path(".my.cnf")).unwrap();
    let mut command = repo.command(["backup", &format!("mariadb://keeper@127.0.0.1:{}", server.port)]);
    expect(&command.env("MYSQL_PWD", "ses\"ame#").output().unwrap(), 0);
}

pub(crate) fn following(repo: &Repo, url: &str) -> Process {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(repo.path("log")).unwrap();
    let mut command = repo.command(["stream", url, "--interval", "1s", "--metrics", "metrics"]);
    command.stdout(log.try_clone().unwrap()).stderr(log).stdin(std::process::Stdio::null());
    Process(command.spawn().unwrap())
}

pub(crate) fn wait_durable(repo: &Repo, server: &Maria) {
    let now: f64 = server.root("SELECT unix_timestamp(now(6))").parse().unwrap();
    wait_for("the stream", 60, || {
        let text = std::fs::read_to_string(repo.path("metrics")).unwrap_or_default();
        let line =
            text.lines().find(|line| line.starts_with("esker_stream_recovery_point_timestamp_seconds{"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or(0.0) > now
    });
}

/// A line that breaks while a log is fetched again leaves what the last snapshot has of it.
#[test]
fn a_log_that_is_fetched_again_takes_no_longer_ones_place() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    let relay = Relay::to(server.port, u64::MAX);
    let url = server.url().replace(&server.port.to_string(), &relay.port.to_string());
    server.root("CREATE DATABASE shop; CREATE TABLE shop.a (i int PRIMARY KEY, t text)");
    let interrupt = |mut process: Process| {
        run("kill", &["-INT", &process.0.id().to_string()]);
        process.0.wait().unwrap();
    };
    let process = following(&repo, &url);
    wait_durable(&repo, &server);
    server.root("USE shop; INSERT INTO a SELECT seq, repeat('x', 1000) FROM seq_1_to_2000");
    wait_durable(&repo, &server);
    interrupt(process);
    let lengths = || -> Vec<u64> {
        let listed = repo.ok(["--json", "ls", "latest"]);
        let entries = listed.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let logs = entries.filter(|entry| entry["path"].as_str().unwrap_or_default().contains("/binlog/"));
        logs.map(|entry| entry["size"].as_u64().unwrap()).collect()
    };
    let before = lengths();
    assert!(before.iter().sum::<u64>() > 2_000_000, "{before:?}");
    relay.allow(1_000_000);
    let process = following(&repo, &url);
    wait_for("the break", 60, || std::fs::read_to_string(repo.path("log")).unwrap().contains("detached"));
    interrupt(process);
    assert_eq!(lengths(), before);
    relay.allow(u64::MAX);
    let process = following(&repo, &url);
    server.root("INSERT INTO shop.a VALUES (3000, 'last')");
    wait_durable(&repo, &server);
    interrupt(process);
    assert_eq!(repo.snapshot_count(), 1);
    let target = Maria::start(&repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    assert_eq!(target.root("SELECT count(*) FROM shop.a"), "2001");
}

#[test]
fn over_tls_with_certificates_on_both_sides() {
    let repo = Repo::new();
    certificates(&repo);
    let file = |name: &str| repo.path(name).display().to_string();
    if rustix::process::geteuid().is_root() {
        run("chown", &["mysql", &file("server.key")]);
    }
    let settings = [("ca", "ca.pem"), ("cert", "server.pem"), ("key", "server.key")];
    let settings = settings.map(|(name, path)| format!("--ssl-{name}={}", file(path)));
    let server = Maria::with(&repo, "my", settings.into());
    server.root(SHOP);
    server.root("ALTER USER 'keeper'@'127.0.0.1' REQUIRE X509");
    let option = |name: &str, path: &str| ["-o".to_owned(), format!("tls.{name}={}", file(path))];
    let with = |authority: &str, args: &[&str]| -> Vec<String> {
        let options = [option("ca", authority), option("cert", "client.pem"), option("key", "client.key")];
        options.into_iter().flatten().chain(args.iter().map(|arg| (*arg).to_owned())).collect()
    };
    repo.ok(with("ca.pem", &["backup", &server.url()]));
    server.root("DROP DATABASE shop");
    repo.ok(with("ca.pem", &["restore", "latest", "--to", &server.url(), "--database", "shop"]));
    assert_eq!(server.root("SELECT count(*) FROM shop.orders"), "20000");
    let text = repo.fails(25, with("other.pem", &["backup", &server.url()]));
    assert!(text.to_lowercase().contains("tls") || text.to_lowercase().contains("ssl"), "{text}");
    let text = repo.fails(25, ["backup", &server.url()]);
    assert!(text.contains("Access denied"), "{text}");
    assert_eq!(repo.snapshot_count(), 1);
}

#[test]
fn the_binary_log_brings_any_second_back() {
    let repo = Repo::new();
    let mut server = Maria::start(&repo, "my");
    server.root(
        "CREATE DATABASE shop; CREATE TABLE shop.a (i int PRIMARY KEY); CREATE TABLE shop.b (i int, t text)",
    );
    let url = server.url();
    let following = || following(&repo, &url);
    let durable = |server: &Maria| wait_durable(&repo, server);
    let mut process = following();
    durable(&server);
    let mut moments = vec![];
    for number in 1..=6 {
        for row in 0..10 {
            let id = number * 100 + row;
            server.root(&format!("USE shop; BEGIN; INSERT INTO shop.a VALUES ({id}); INSERT INTO shop.b SELECT {id}, repeat('x', 1000) FROM seq_1_to_100; COMMIT"));
        }
        // Events bear whole seconds.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        moments.push((server.root("SELECT date_format(utc_timestamp(), '%Y-%m-%dT%H:%i:%sZ')"), number * 10));
        std::thread::sleep(std::time::Duration::from_millis(1100));
        match number % 3 {
            0 => {
                server.kill();
                server.up();
            }
            1 => {
                process.0.kill().unwrap();
                process.0.wait().unwrap();
                process = following();
            }
            _ => drop(server.root("FLUSH BINARY LOGS")),
        }
    }
    durable(&server);
    run("kill", &["-INT", &process.0.id().to_string()]);
    process.0.wait().unwrap();
    assert_eq!(repo.snapshot_count(), 1, "{}", std::fs::read_to_string(repo.path("log")).unwrap());
    let target = Maria::start(&repo, "target");
    for (time, rows) in moments.iter().step_by(2) {
        repo.ok(["restore", "latest", "--to", &target.url(), "--time", time, "--replace"]);
        assert_eq!(target.root("SELECT count(*) FROM shop.a"), rows.to_string(), "{time}");
        assert_eq!(
            target.root("SELECT count(DISTINCT i), count(*) FROM shop.b"),
            format!("{rows}\t{}", rows * 100)
        );
    }
    repo.ok(["restore", "latest", "--to", &target.url(), "--replace"]);
    same(&server, &target);
    repo.ok(["check"]);
}
