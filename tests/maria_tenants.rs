//! Tenants of one MariaDB, each with all rights on a database of his own: whatever one of them makes there, an
//! administrator who restores any database changes nothing outside of it.

use crate::harness::{Process, Repo, run};
use crate::mariadb::{Maria, following, wait_durable};
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// What somebody runs as administrator if a dump is taken apart, or a statement ended, at the wrong place.
const PAYLOAD: &str = "CREATE USER evil@'%' IDENTIFIED BY 'e';\nGRANT ALL ON *.* TO evil@'%' WITH GRANT OPTION;\nSET GLOBAL max_connections = 77;\n";

/// Everything that means something to those who write, split or run dumps.
const SEAMS: [&str; 14] = [
    "\n--\n-- Current Database: `zb`\n--\n\n",
    "\n\nCREATE DATABASE /*!32312 IF NOT EXISTS*/ `zb`;\n\nUSE `zb`;\n",
    "\nUSE `zb`;\nDROP TABLE IF EXISTS `t`;\n",
    "\n--\n-- Table structure for table `t`\n--\n\n",
    "\n/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;\n\n-- Dump completed\n",
    ";;\nDELIMITER ;\n",
    "\nDELIMITER //\n//\n",
    " ;\n",
    "*/ ;;\n",
    "/*!*/;\n",
    "' ;\n",
    "\\' ;\n",
    "\" ;\n",
    "` ;\n",
];

/// The same as names, which have 64 characters at most.
const NAMES: [&str; 9] = [
    "x`;\n\nUSE `zb`;\nDROP TABLE `t`;\n-- x",
    "\n-- Current Database: `zb`\n--\nDROP TABLE zb.t;x",
    "\n/*!40103 SET TIME_ZONE=@OLD_TIME_ZONE */;\nx",
    "--result-file=/tmp/esker-evil",
    "a'b\"c\\",
    "\\! touch /tmp/esker-evil",
    "*/;;\nDELIMITER ;\nx",
    "x\\",
    "%",
];

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

fn name(value: &str) -> String {
    format!("`{}`", value.replace('`', "``"))
}

/// Runs statements as `user`, each by its bytes, so that no client has a say in where one ends.
pub(crate) fn as_user(server: &Maria, user: &str, database: &str, statements: &[Vec<u8>]) {
    let mut script = format!("USE {};\n", name(database));
    for statement in statements {
        let digits = statement.iter().fold(String::new(), |mut digits, byte| {
            write!(digits, "{byte:02x}").unwrap();
            digits
        });
        writeln!(script, "EXECUTE IMMEDIATE 0x{digits};").unwrap();
    }
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "--default-character-set=utf8mb4", "-u", user, "-S"]);
    client.arg(server.home.join("s.sock")).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    client.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = client.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{}",
        complaints.chars().rev().take(600).collect::<String>().chars().rev().collect::<String>()
    );
}

/// All that a tenant may make, with the seams in it.
fn hostile(database: &str) -> Vec<Vec<u8>> {
    let mut all: Vec<String> = vec![
        "CREATE TABLE t (a int PRIMARY KEY, b text)".into(),
        format!(
            "CREATE TRIGGER {database}.touched BEFORE INSERT ON {database}.t FOR EACH ROW SET NEW.b = concat(NEW.b, '')"
        ),
        format!(
            "CREATE PROCEDURE {database}.whole() BEGIN\n--\n-- Current Database: `zb`\n--\n\n{PAYLOAD}END"
        ),
        format!("CREATE PROCEDURE cut() BEGIN SELECT 1 /*!*/;\n{PAYLOAD}END"),
        format!("CREATE PROCEDURE twice() BEGIN SELECT 1;;\nDELIMITER ;\n{PAYLOAD}END")
            .replace(";;\nDELIMITER ;", ";\n"),
    ];
    for (number, seam) in SEAMS.iter().enumerate() {
        let evil = format!("{seam}{PAYLOAD}");
        let (quoted, comment) = (text(&evil), evil.replace("*/", "* /").replace("/*", "/ *"));
        let line: String = evil.lines().map(|line| format!("-- {line}\n")).collect();
        all.extend([
            format!("CREATE PROCEDURE p{number}() COMMENT {quoted} BEGIN /* {comment} */\n{line} SELECT {quoted}; END"),
            format!("CREATE FUNCTION f{number}() RETURNS text DETERMINISTIC COMMENT {quoted} RETURN {quoted}"),
            format!("CREATE TABLE t{number} (a int COMMENT {quoted}, b varchar(2000) DEFAULT {quoted}, c enum({quoted}, 'x'), d text AS (concat({quoted}, b)) VIRTUAL, CHECK (b <> concat('z', {quoted}))) COMMENT {quoted}"),
            format!("INSERT INTO t{number} (a, b, c) VALUES (1, {quoted}, {quoted}), (2, 'x', 'x')"),
            format!("CREATE TRIGGER u{number} AFTER UPDATE ON t{number} FOR EACH ROW BEGIN /* {comment} */\n{line} SET @x = {quoted}; END"),
            format!("CREATE EVENT e{number} ON SCHEDULE EVERY 1 YEAR STARTS '2030-01-01 00:00:00' COMMENT {} DO BEGIN /* {comment} */\n{line} SET @x = {quoted}; END", text(&seam.replace('`', ""))),
            format!("CREATE VIEW v{number} AS SELECT {quoted} AS a, b FROM t{number}"),
        ]);
    }
    for (number, odd) in NAMES.iter().enumerate() {
        let (quoted, second) =
            (name(odd), name(&format!("v{number}{odd}").chars().take(64).collect::<String>()));
        all.extend([
            format!("CREATE TABLE {quoted} ({quoted} int, KEY {quoted} ({quoted}))"),
            format!("INSERT INTO {quoted} VALUES ({number})"),
            format!("CREATE PROCEDURE {quoted}() SELECT {quoted} FROM {quoted}"),
            format!("CREATE TRIGGER {quoted} BEFORE INSERT ON {quoted} FOR EACH ROW SET @{quoted} = 1"),
            format!("CREATE EVENT {quoted} ON SCHEDULE EVERY 1 YEAR STARTS '2030-01-01 00:00:00' DISABLE DO SET @x = 1"),
            format!("CREATE VIEW {second} AS SELECT {quoted} AS {quoted} FROM {quoted}"),
        ]);
    }
    let mut all: Vec<Vec<u8>> = all.into_iter().map(String::into_bytes).collect();
    // Where a client and the server do not agree on where a string ends.
    let evil = PAYLOAD.replace('\n', " ");
    all.push(b"SET sql_mode = 'ANSI_QUOTES'".to_vec());
    all.push(
        format!("CREATE PROCEDURE ansi() SELECT 1 AS \"a\\\" -- \" ;; {evil} /*!*/; {evil}\n").into_bytes(),
    );
    all.push(b"SET sql_mode = 'NO_BACKSLASH_ESCAPES'".to_vec());
    all.push(format!("CREATE PROCEDURE plain() SELECT 'a\\' -- ' ;; {evil} /*!*/; {evil}\n").into_bytes());
    all.push(
        b"SET sql_mode = '', character_set_client = gbk, collation_connection = gbk_chinese_ci".to_vec(),
    );
    let two = b"\x81\x5c";
    all.push(
        [
            b"CREATE PROCEDURE gbk() SELECT '",
            &two[..],
            b"' -- ' ;; ",
            evil.as_bytes(),
            b"/*!*/; \\C latin1 \n",
        ]
        .concat(),
    );
    all.push(b"SET collation_connection = ucs2_general_ci, character_set_client = latin1".to_vec());
    all.push(b"CREATE PROCEDURE wide() SELECT 'a\xe4' ".to_vec());
    all
}

/// All of a database. Events are read from the server's own table: mariadb-dump does not end where their text holds its
/// delimiters.
fn state(server: &Maria, database: &str) -> String {
    let events = format!(
        "SELECT name, hex(body), definer, interval_value, starts, status, sql_mode, hex(comment), time_zone, character_set_client, collation_connection, db_collation FROM mysql.event WHERE db = '{database}' ORDER BY name"
    );
    server.dumped_with(database, &[]) + &server.root(&events)
}

/// A server of two tenants who trust nobody.
fn town(server: &Maria) {
    server.root("SET GLOBAL event_scheduler = OFF; SET GLOBAL log_bin_trust_function_creators = 1");
    for (database, tenant) in [("za", "anna"), ("zb", "bert")] {
        server.root(&format!("CREATE DATABASE {database} CHARACTER SET utf8mb4; CREATE USER {tenant}@localhost; GRANT ALL ON {database}.* TO {tenant}@localhost"));
        as_user(server, tenant, database, &hostile(database));
        server.root(&format!("INSERT INTO {database}.t VALUES (1, '{tenant}')"));
    }
}

/// All of a server but what is in `target`.
fn world(server: &Maria, target: &str) -> Vec<String> {
    let databases: Vec<String> = server.root("SHOW DATABASES").lines().map(str::to_owned).collect();
    let mut all =
        vec![databases.iter().filter(|name| *name != target).cloned().collect::<Vec<_>>().join(" ")];
    for name in &databases {
        if !["information_schema", "performance_schema", "mysql", "sys", target].contains(&name.as_str()) {
            all.push(state(server, name));
        }
    }
    for table in [
        "global_priv",
        "db",
        "tables_priv",
        "columns_priv",
        "proxies_priv",
        "roles_mapping",
        "servers",
        "func",
        "plugin",
    ] {
        all.push(server.root(&format!("SELECT * FROM mysql.{table}")));
    }
    all.push(server.root(&format!(
        "SELECT db, name, type, body, definer FROM mysql.proc WHERE db <> '{target}' ORDER BY 1, 2, 3"
    )));
    all.push(server.root(&format!(
        "SELECT db, name, body, definer FROM mysql.event WHERE db <> '{target}' ORDER BY 1, 2"
    )));
    let volatile = "'GTID_BINLOG_POS', 'GTID_CURRENT_POS', 'GTID_BINLOG_STATE', 'TIMESTAMP'";
    all.push(server.root(&format!("SELECT variable_name, global_value FROM information_schema.system_variables WHERE global_value IS NOT NULL AND variable_name NOT IN ({volatile}) ORDER BY 1")));
    all
}

fn unchanged(server: &Maria, target: &str, before: &[String]) {
    for (had, has) in before.iter().zip(world(server, target)) {
        let different = had.lines().zip(has.lines()).find(|(had, has)| had != has);
        assert!(*had == has, "{different:?}");
    }
    assert_eq!(server.root("SELECT count(*) FROM mysql.global_priv WHERE User = 'evil'"), "0");
    assert!(!std::path::Path::new("/tmp/esker-evil").exists());
}

#[track_caller]
fn equal(had: &str, has: &str) {
    let different = had.lines().zip(has.lines()).find(|(had, has)| had != has);
    assert!(had == has, "{different:?}");
}

#[test]
fn whatever_a_tenant_makes_stays_in_his_database() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    town(&server);
    repo.ok(["backup", &server.url()]);
    let had = ["za", "zb"].map(|database| state(&server, database));
    // The neighbours live on.
    for (database, other) in [("zb", "za"), ("za", "zb")] {
        server.root(&format!(
            "UPDATE {other}.t SET b = 'later'; CREATE OR REPLACE VIEW {other}.v0 AS SELECT 'later' AS a"
        ));
        let before = world(&server, database);
        server.root(&format!("DELETE FROM {database}.t; DROP VIEW {database}.v0"));
        repo.ok(["restore", "latest", "--to", &server.url(), "--database", database, "--replace"]);
        unchanged(&server, database, &before);
        equal(&had[usize::from(database == "zb")], &state(&server, database));
    }
    // Under another name, beside the first: also what names its database.
    // The server shows a view in another way to whom its definer could not show it.
    server.root("GRANT ALL ON copy.* TO anna@localhost");
    let before = world(&server, "copy");
    repo.ok(["restore", "latest", "--to", &format!("{}/copy", server.url()), "--database", "za"]);
    unchanged(&server, "copy", &before);
    let renamed = |dump: &str| {
        let own = dump
            .replace("TRIGGER za.touched BEFORE INSERT ON za.t ", "TRIGGER `touched` BEFORE INSERT ON `t` ");
        own.replace("`za`", "`copy`").replace("database 'za'", "database 'copy'")
    };
    assert_eq!(
        server.root("SELECT count(*) FROM information_schema.triggers WHERE trigger_schema = 'copy'"),
        server.root("SELECT count(*) FROM information_schema.triggers WHERE trigger_schema = 'za'")
    );
    equal(&renamed(&state(&server, "za")), &renamed(&state(&server, "copy")));
    // A table, with its triggers.
    server.root("DROP TABLE copy.t1");
    let before = world(&server, "copy");
    repo.ok([
        "restore",
        "latest",
        "--to",
        &format!("{}/copy", server.url()),
        "--database",
        "za",
        "--table",
        "t1",
    ]);
    unchanged(&server, "copy", &before);
    equal(&renamed(&state(&server, "za")), &renamed(&state(&server, "copy")));
}

#[test]
fn hostile_databases_come_back_as_they_were() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    town(&server);
    repo.ok(["backup", &server.url()]);
    let target = Maria::start(&repo, "target");
    target.root("SET GLOBAL event_scheduler = OFF; SET GLOBAL log_bin_trust_function_creators = 1");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    for database in ["za", "zb"] {
        equal(&state(&server, database), &state(&target, database));
    }
    assert_eq!(target.root("SELECT count(*) FROM mysql.global_priv WHERE User = 'evil'"), "0");
    // The files by themselves, in the hands of the client alone.
    repo.ok(["restore", "latest", "--target", "out"]);
    target.root("DROP DATABASE za");
    let before = world(&target, "za");
    let file = repo.path(&format!("out/mysql/127.0.0.1:{}/databases/za.sql", server.port));
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "-u", "root", "-S"]).arg(target.home.join("s.sock"));
    assert!(client.stdin(std::fs::File::open(file).unwrap()).status().unwrap().success());
    unchanged(&target, "za", &before);
    equal(&state(&server, "za"), &state(&target, "za"));
}

#[test]
fn a_statement_of_the_binary_log_does_not_end_itself() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE za; CREATE USER anna@localhost; GRANT ALL ON za.* TO anna@localhost");
    let following: Process = following(&repo, &server.url());
    wait_durable(&repo, &server);
    let cut = format!("CREATE PROCEDURE cut() BEGIN SELECT 1 /*!*/;\n{PAYLOAD}END");
    let evil = PAYLOAD.replace('\n', " ");
    let ansi = format!("CREATE PROCEDURE ansi() SELECT 1 AS \"a\\\" -- \" /*!*/; {evil} /*!*/; {evil}\n");
    let statements = [b"SET sql_mode = 'ANSI_QUOTES'".to_vec(), ansi.into_bytes(), cut.into_bytes()];
    as_user(&server, "anna", "za", &statements);
    server.root("CREATE TABLE za.t (a int)");
    wait_durable(&repo, &server);
    let mut following = following;
    run("kill", &["-INT", &following.0.id().to_string()]);
    following.0.wait().unwrap();
    let target = Maria::start(&repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    assert_eq!(target.root("SELECT count(*) FROM mysql.global_priv WHERE User = 'evil'"), "0");
    equal(&state(&server, "za"), &state(&target, "za"));
}
