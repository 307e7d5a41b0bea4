//! Restores into a MariaDB that get in each other's way, and foreign keys that the restoring account does not see.

use crate::harness::{Process, Repo, expect, wait_for};
use crate::mariadb::Maria;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn databases(server: &Maria) -> String {
    server.root("SHOW DATABASES").lines().filter(|name| name.contains("esker")).collect::<Vec<_>>().join(" ")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn spawn(repo: &Repo, args: &[&str]) -> std::process::Child {
    repo.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Ends the sessions that run such a statement.
fn kill(server: &Maria, like: &str) {
    let sql = format!(
        "SELECT id FROM information_schema.processlist WHERE info LIKE '{like}' AND id <> connection_id()"
    );
    for id in server.root(&sql).lines() {
        server.try_root(&format!("KILL {id}"));
    }
}

/// A transaction of somebody else that keeps `two.live` from changing places.
fn holder(server: &Maria) -> Process {
    let mut command = Command::new("mariadb");
    command.args(["--no-defaults", "-u", "root", "-S"]).arg(server.home.join("s.sock"));
    command.args(["-e", "BEGIN; SELECT * FROM two.live; DO SLEEP(200)"]).stdout(Stdio::null());
    let process = Process::start(&mut command);
    wait_for("the transaction", 20, || {
        !server.root("SELECT id FROM information_schema.processlist WHERE info = 'DO SLEEP(200)'").is_empty()
    });
    process
}

const WAITING: &str = "SELECT id FROM information_schema.processlist WHERE info LIKE 'RENAME TABLE%'";

/// Two snapshots of one database, restored into it at once: one of the two is what it has afterwards, and whoever did not bring it
/// has not said that it did.
#[test]
fn of_two_restores_into_one_database_one_is_refused() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    let url = server.url();
    let mut contents = vec![];
    for (table, rows) in [("first", 60_000), ("second", 20_000)] {
        server.root(&format!("DROP DATABASE IF EXISTS two; CREATE DATABASE two; USE two; CREATE TABLE two.t AS SELECT seq, sha2(seq, 512) AS a FROM seq_1_to_{rows}; CREATE TABLE two.{table} (a int); CREATE PROCEDURE two.{table}() SELECT 1"));
        contents.push(server.dumped("two"));
        repo.ok(["backup", &format!("{url}/two")]);
    }
    let live = "DROP DATABASE two; CREATE DATABASE two; CREATE TABLE two.live (a int); INSERT INTO two.live VALUES (1)";
    let args = |snapshot: &'static str| ["restore", snapshot, "--to", &url, "--database", "two", "--replace"];
    for offset in [0, 60, 200, 500, 1200] {
        server.root(live);
        let first = spawn(&repo, &args("latest~1"));
        std::thread::sleep(Duration::from_millis(offset));
        let second = spawn(&repo, &args("latest"));
        let waiting = [first, second].map(|child| {
            std::thread::spawn(move || (child.wait_with_output().unwrap(), std::time::Instant::now()))
        });
        let [first, second] = waiting.map(|thread| thread.join().unwrap());
        let is_second_last = second.1 > first.1;
        let outputs = [first.0, second.0];
        let codes = outputs.each_ref().map(|output| output.status.code());
        let has = server.dumped("two");
        let expected = match codes {
            // They did not meet.
            [Some(0), Some(0)] => &contents[usize::from(is_second_last)],
            [Some(0), Some(1)] => &contents[0],
            [Some(1), Some(0)] => &contents[1],
            _ => panic!("{offset}: {codes:?} {} {}", text(&outputs[0]), text(&outputs[1])),
        };
        assert!(has == *expected, "{offset}: {codes:?}\n{has}");
        for output in outputs.iter().filter(|output| !output.status.success()) {
            let text = text(output);
            assert!(text.contains("another restore into database 'two' is at work (connection "), "{text}");
            assert!(!text.contains("restored, but") && !text.contains("is as it was"), "{text}");
        }
        assert_eq!(databases(&server), "");
    }
    // One that takes long: what it has made so far stays, and it ends well.
    server.root(live);
    let held = holder(&server);
    let first = spawn(&repo, &args("latest~1"));
    wait_for("the switch", 60, || !server.root(WAITING).is_empty());
    for _ in 0..2 {
        let text = repo.fails(1, args("latest"));
        // Whose the connection is can be told as long as it stands.
        let is_told = text.contains("another restore into database 'two' is at work (connection ");
        assert!(is_told && text.contains("of 'keeper'@'"), "{text}");
        assert_eq!(databases(&server), "two.esker-new two.esker-old");
    }
    // Another database is none of its business.
    repo.ok(["restore", "latest", "--to", &format!("{url}/three"), "--database", "two"]);
    drop(held);
    kill(&server, "%SLEEP(200)%");
    expect(&first.wait_with_output().unwrap(), 0);
    assert!(server.dumped("two") == contents[0]);
    assert_eq!(databases(&server), "");
}

/// The program of a restore that was killed goes on by itself: the next restore waits for its end.
#[test]
fn a_program_that_outlives_its_restore_is_not_disturbed() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE two; CREATE TABLE two.live (a int)");
    let url = server.url();
    repo.ok(["backup", &url]);
    let args = ["restore", "latest", "--to", &url, "--database", "two", "--replace"];
    let held = holder(&server);
    let restore = Process::start(&mut repo.command(args));
    wait_for("the switch", 60, || !server.root(WAITING).is_empty());
    drop(restore);
    let id = server.root(WAITING);
    let text = repo.fails(1, args);
    assert!(
        text.contains("that was cut off is still at work") && text.contains(&format!("KILL {id}")),
        "{text}"
    );
    drop(held);
    kill(&server, "%SLEEP(200)%");
    wait_for("its end", 30, || server.root(WAITING).is_empty());
    let mut output = repo.run(args);
    wait_for("the lock", 20, || {
        output = repo.run(args);
        output.status.success()
    });
    expect(&output, 0);
    assert_eq!((server.root("SHOW TABLES FROM two"), databases(&server)), ("live".into(), String::new()));
}

/// Keys of databases that the account knows nothing of, which hold a table alone, or together with tables that are replaced with it:
/// named, and everything is as it was.
#[test]
fn foreign_keys_that_cannot_be_seen_hold_tables() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    let made = "CREATE DATABASE par; USE par; CREATE TABLE p (id int NOT NULL, a int, g int AS (id + 1) STORED, note text, PRIMARY KEY (id), KEY a (a), KEY g (g), KEY n (note(5)), CHECK (id > 0)); INSERT INTO p (id, a, note) VALUES (1, 2, 'precious'); CREATE TABLE kid (pid int, up int, CONSTRAINT near FOREIGN KEY (pid) REFERENCES p (id) ON DELETE CASCADE); INSERT INTO kid VALUES (1, 2); CREATE TABLE self (id bigint PRIMARY KEY, up bigint, CONSTRAINT own FOREIGN KEY (up) REFERENCES self (id)); CREATE TABLE past (id int PRIMARY KEY) WITH SYSTEM VERSIONING; CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY HASH (id) PARTITIONS 2; CREATE TABLE plain (id int PRIMARY KEY) ENGINE = MyISAM;";
    server.root(&format!("{made} CREATE USER lim IDENTIFIED BY 'x'"));
    repo.ok(["backup", &server.url()]);
    let rights =
        ["par", "par.esker-new", "par.esker-old"].map(|name| format!("GRANT ALL ON `{name}`.* TO lim;"));
    server.root(&format!(
        "{} INSERT INTO par.p (id, a) VALUES (7, 7); CREATE DATABASE aaa; CREATE DATABASE zzz",
        rights.concat()
    ));
    let url = server.url().replace("keeper:ses%22ame%23@", "lim:x@");
    let args = ["restore", "latest", "--to", &url, "--database", "par", "--replace"];
    // In front of the database's own keys, and behind them, where one of its own is named first.
    for (database, column, table) in [
        ("aaa", "a", "p"),
        ("aaa", "id", "p"),
        ("zzz", "g", "p"),
        ("zzz", "id", "p"),
        ("zzz", "id", "past"),
        ("zzz", "id", "self"),
    ] {
        let kind = if table == "self" { "bigint" } else { "int" };
        server.root(&format!("CREATE TABLE {database}.c (x {kind}, CONSTRAINT held FOREIGN KEY (x) REFERENCES par.{table} ({column}))"));
        let dumped = || (server.dumped("par"), server.dumped(database));
        let before = dumped();
        let text = repo.fails(1, args);
        assert!(
            text.contains(&format!("to table '{table}' (foreign key 'held' of table '{database}.c'")),
            "{column} {table}: {text}"
        );
        assert_eq!(before, dumped(), "{column} {table}");
        let left = databases(&server);
        assert!(left.is_empty() || left == "par.esker-new", "{left}");
        server.root(&format!("DROP TABLE {database}.c"));
    }
    // Nobody refers to it, which can be told.
    server.root(
        "CREATE TABLE zzz.other (id int PRIMARY KEY, x int, FOREIGN KEY (x) REFERENCES zzz.other (id))",
    );
    repo.ok(args.iter().copied().chain(["--dry-run"]));
    repo.ok(args);
    assert_eq!(server.root("SELECT group_concat(id) FROM par.p; SELECT pid FROM par.kid"), "1\n1");
    assert_eq!(databases(&server), "");
    assert!(server.try_root("DELETE FROM par.p").is_some(), "the key of kid lets it go with its parent");
    assert_eq!(server.root("SELECT count(*) FROM par.kid"), "0");
}
