//! What a tenant of a MariaDB, or a name that is rare, did to a backup or to whoever restores it.

use crate::harness::{Repo, run};
use crate::mariadb::{Maria, following, wait_durable};
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Runs statements as a user without a password.
fn as_user(server: &Maria, user: &str, sql: &str) {
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "--default-character-set=utf8mb4", "--binary-mode", "-u", user, "-S"]);
    client.arg(server.home.join("s.sock")).stdin(Stdio::piped());
    let mut client = client.spawn().unwrap();
    client.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
    assert!(client.wait().unwrap().success(), "{sql}");
}

fn files_under(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_under(&path) } else { vec![path] }).collect()
}

/// Users of the two servers have the same rights.
fn same_rights(server: &Maria, target: &Maria, accounts: &[&str]) {
    for account in accounts {
        let sql = format!("SHOW GRANTS FOR {account}");
        let sorted = |server: &Maria| {
            let mut lines: Vec<String> = server.root(&sql).lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(target), sorted(server), "{account}");
    }
}

/// The name of a table ends no line of the dump of accounts.
#[test]
fn a_name_in_a_grant_grants_nothing() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE za; CREATE USER mallory@localhost, bob@localhost; GRANT ALL ON za.* TO mallory@localhost WITH GRANT OPTION");
    let evil = "GRANT ALL ON *.* TO mallory@localhost WITH GRANT OPTION";
    let mut names = vec!["x\nGRANT  WITH  foo".to_owned(), "y\nCREATE USER IF NOT EXISTS z".to_owned()];
    names.extend((0..6).flat_map(|number| [format!("{number};{evil};#"), format!("{number}'\n;{evil};#")]));
    for name in names {
        as_user(
            &server,
            "mallory",
            &format!("USE za; CREATE TABLE `{name}` (a int); GRANT SELECT ON `{name}` TO bob@localhost;"),
        );
    }
    repo.ok(["backup", &server.url()]);
    let target = Maria::start(&repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    same_rights(&server, &target, &["mallory@localhost", "bob@localhost"]);
}

/// An account of two rows, and what everybody may do, come back; an account that is there keeps its login.
#[test]
fn accounts_of_every_kind_come_back() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE shop; CREATE TABLE shop.t (a int); CREATE ROLE r; CREATE ROLE `r'x;\ny`; CREATE USER exp@localhost IDENTIFIED BY 'zz' PASSWORD EXPIRE INTERVAL 30 DAY;
        ALTER USER exp@localhost PASSWORD EXPIRE; CREATE USER u; GRANT SELECT ON *.* TO u; GRANT r TO u; SET DEFAULT ROLE r FOR u; GRANT `r'x;\ny` TO r;
        CREATE USER there@localhost PASSWORD EXPIRE INTERVAL 30 DAY; ALTER USER there@localhost PASSWORD EXPIRE;
        CREATE USER `we'ird\nx`@`%` IDENTIFIED VIA unix_socket USING 'a''b\\\\c' REQUIRE ISSUER '/a;\\'b' WITH MAX_USER_CONNECTIONS 3;
        GRANT SELECT ON shop.* TO PUBLIC; GRANT INSERT ON shop.t TO PUBLIC; GRANT r TO PUBLIC;
        CREATE SERVER far FOREIGN DATA WRAPPER mysql OPTIONS (HOST '192.0.2.1', PASSWORD 'p\\'\\\\w')");
    repo.ok(["backup", &server.url()]);
    let target = Maria::start(&repo, "target");
    target.root("CREATE USER there@localhost");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    same_rights(&server, &target, &["u", "r", "PUBLIC", "exp@localhost", "`we'ird\nx`", "`r'x;\ny`"]);
    for sql in
        ["SHOW CREATE USER exp@localhost", "SHOW CREATE USER `we'ird\nx`", "SELECT * FROM mysql.servers"]
    {
        assert_eq!(target.root(sql), server.root(sql), "{sql}");
    }
    assert_eq!(target.root("SHOW CREATE USER there@localhost"), "CREATE USER `there`@`localhost`");
    assert_eq!(target.root("SELECT default_role FROM mysql.user WHERE User = 'u'"), "r");
    assert_eq!(target.root("SELECT count(*) FROM mysql.roles_mapping WHERE User = 'keeper'"), "0");
    // One that is refused costs itself.
    server.root("CREATE DATABASE gone; CREATE TABLE gone.t (a int); CREATE USER aa; GRANT SELECT ON gone.t TO aa; CREATE USER zz; GRANT SELECT ON shop.t TO zz; DROP DATABASE gone");
    repo.ok(["backup", &server.url()]);
    let text = repo.fails(3, ["restore", "latest", "--to", &target.url(), "--replace"]);
    assert!(text.contains("gone.t"), "{text}");
    same_rights(&server, &target, &["zz"]);
}

/// The name of a table ends no line of what is replayed of the binary log, and a statement in it is what its server took it for.
#[test]
fn a_name_in_the_binary_log_is_not_run() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE zc; CREATE USER carl@localhost; GRANT ALL ON zc.* TO carl@localhost");
    let mut following = following(&repo, &server.url());
    wait_durable(&repo, &server);
    let evil = "GRANT ALL ON *.* TO carl@localhost WITH GRANT OPTION";
    // What leaves the client within quotes, and what would end them in a comment of the program that writes the script.
    let quoted = format!("`\"; {evil}; #`");
    let statements: Vec<Vec<u8>> = [
        "SET sql_mode = 'ANSI_QUOTES'".to_owned(),
        "CREATE TABLE t (a int, b text) /* \" */".to_owned(),
        format!("CREATE PROCEDURE p() SELECT 1 AS \"a\\\" -- \" /*!*/; {evil}\n"),
        format!("INSERT INTO t VALUES (1, '\" /*!*/; {evil}; #')"),
        format!("CREATE TABLE {quoted} (a int)"),
        format!("INSERT INTO {quoted} VALUES (1)"),
    ]
    .map(String::into_bytes)
    .into();
    crate::maria_tenants::as_user(&server, "carl", "zc", &statements);
    wait_durable(&repo, &server);
    let moment = server.root("SELECT date_format(utc_timestamp() + INTERVAL 1 SECOND, '%Y-%m-%dT%H:%i:%sZ')");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let name = format!("`\n{evil};#`");
    as_user(&server, "carl", &format!("USE zc; CREATE TABLE {name} (a int); INSERT INTO {name} VALUES (1);"));
    wait_durable(&repo, &server);
    run("kill", &["-INT", &following.0.id().to_string()]);
    following.0.wait().unwrap();
    let target = Maria::start(&repo, "target");
    let grants = "SHOW GRANTS FOR carl@localhost";
    repo.ok(["restore", "latest", "--to", &target.url(), "--time", &moment]);
    assert_eq!(target.root(grants), server.root(grants));
    let rows = "SELECT *, hex(b) FROM zc.t ORDER BY 1";
    assert_eq!(target.root(rows), server.root(rows));
    let evil_table = format!("SELECT * FROM zc.{name}");
    assert_eq!(target.try_root(&evil_table), None);
    repo.ok(["restore", "latest", "--to", &target.url(), "--replace"]);
    assert_eq!(target.root(grants), server.root(grants));
    assert_eq!(target.root(&evil_table), "1");
}

/// mariadb-dump takes names that differ in case, accents, or where their dot is, for one: no table is left out for a view.
#[test]
fn no_table_is_left_out_for_the_name_of_a_view() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("SET NAMES utf8mb4;
        CREATE DATABASE shop; CREATE VIEW shop.Users AS SELECT 1 AS a; CREATE TABLE shop.users (a int); INSERT INTO shop.users VALUES (7);
        CREATE VIEW shop.view1 AS SELECT 2 AS a; CREATE VIEW shop.VIEW1 AS SELECT 3 AS a; CREATE TABLE shop.zz (a int); INSERT INTO shop.zz VALUES (8);
        CREATE TABLE shop.caf\u{e9} (a int); INSERT INTO shop.caf\u{e9} VALUES (9); CREATE VIEW shop.cafe AS SELECT 4 AS a;
        CREATE DATABASE Shop; CREATE TABLE Shop.z (a int); INSERT INTO Shop.z VALUES (3); CREATE VIEW shop.Z AS SELECT 1 AS a; CREATE SEQUENCE Shop.s; CREATE VIEW Shop.S AS SELECT 1 AS a;
        CREATE DATABASE a; CREATE DATABASE `a.b`; CREATE TABLE `a.b`.c (a int); INSERT INTO `a.b`.c VALUES (3); CREATE VIEW a.`b.c` AS SELECT 1 AS x");
    repo.ok(["backup", &server.url()]);
    let target = Maria::start(&repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    for database in ["shop", "Shop", "a", "a.b"] {
        assert_eq!(target.dumped(database), server.dumped(database), "{database}");
    }
    // A table that is lost to another's name is told.
    server.root("CREATE TABLE shop.Bad (a int) ENGINE = MyISAM; CREATE TABLE shop.bad (a int); FLUSH TABLES");
    std::fs::write(server.home.join("data/shop/Bad.MYI"), "no index").unwrap();
    let text = repo.fails(3, ["backup", &server.url(), "--keep-going"]);
    assert!(text.contains("left out of database shop: bad"), "{text}");
}

/// mariadb-dump asks such a database for the tables of another.
#[test]
fn a_database_that_is_called_mysql_in_other_letters() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE MySQL COLLATE utf8mb4_bin COMMENT 'own'; CREATE TABLE MySQL.proc (a int); INSERT INTO MySQL.proc VALUES (1); CREATE TABLE MySQL.z (b int); CREATE VIEW MySQL.v AS SELECT b FROM MySQL.z;
        CREATE DATABASE MYSQL; CREATE TABLE MYSQL.t (a int); CREATE DATABASE aa; CREATE TABLE aa.t (a int); CREATE DATABASE zz; CREATE TABLE zz.t (a int); INSERT INTO zz.t VALUES (9)");
    repo.ok(["backup", &server.url()]);
    let target = Maria::start(&repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    for database in ["MySQL", "MYSQL", "aa", "zz"] {
        for table in target.root(&format!("SHOW TABLES FROM {database}")).lines() {
            let sql = format!("SHOW CREATE TABLE {database}.{table}; SELECT * FROM {database}.{table}");
            assert_eq!(target.root(&sql), server.root(&sql));
        }
        let sql = format!("SHOW CREATE DATABASE {database}; SHOW TABLES FROM {database}");
        assert_eq!(target.root(&sql), server.root(&sql));
    }
    assert!(server.root("SHOW TABLES FROM MySQL").contains("proc"));
}

/// Only the four names, byte by byte, are the server's own.
#[test]
fn databases_that_are_called_almost_as_the_system() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("SET NAMES utf8mb4; CREATE DATABASE Sys COLLATE utf8mb4_bin; CREATE TABLE Sys.t (a int); INSERT INTO Sys.t VALUES (1); CREATE VIEW Sys.v AS SELECT a FROM Sys.t;
        CREATE DATABASE s\u{fd}s; CREATE TABLE s\u{fd}s.t (a int); CREATE PROCEDURE s\u{fd}s.p() SELECT 1;
        CREATE DATABASE shop COLLATE latin1_swedish_ci; CREATE DATABASE SHOP COLLATE utf8mb4_bin; CREATE PROCEDURE shop.p() SELECT 1; CREATE TABLE SHOP.t (a int)");
    repo.ok(["backup", &server.url()]);
    let target = Maria::start(&repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    for database in ["Sys", "s\u{fd}s", "shop", "SHOP"] {
        assert_eq!(target.dumped(database), server.dumped(database), "{database}");
    }
    // What another has is not in the way of one.
    target.root("DROP DATABASE SHOP");
    repo.ok(["restore", "latest", "--to", &target.url(), "--database", "SHOP"]);
    assert_eq!(target.dumped("SHOP"), server.dumped("SHOP"));
}

#[test]
fn packages_come_back_over_those_that_are_there() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE d; USE d; SET sql_mode = ORACLE; EXECUTE IMMEDIATE 'CREATE PACKAGE pk AS PROCEDURE pp; END';
        EXECUTE IMMEDIATE 'CREATE PACKAGE BODY pk AS PROCEDURE pp AS BEGIN SELECT 7; END; END'");
    repo.ok(["backup", &server.url()]);
    let target = Maria::start(&repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    assert_eq!(target.root("SET sql_mode = ORACLE; USE d; CALL pk.pp()"), "7");
    let bodies = "SELECT type, body, sql_mode FROM mysql.proc WHERE db = 'd' ORDER BY 1";
    assert_eq!(target.root(bodies), server.root(bodies));
    repo.ok(["restore", "latest", "--target", "out"]);
    let file = repo.path(&format!("out/mysql/127.0.0.1:{}/databases/d.sql", server.port));
    target.root(&std::fs::read_to_string(file).unwrap());
    assert_eq!(target.root(bodies), server.root(bodies));
}

/// What the repository has lost is found before the first database is dropped.
#[test]
fn the_servers_own_databases_are_no_targets() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE aa; CREATE TABLE aa.t (a int)");
    repo.ok(["backup", &server.url()]);
    let before = server.root("SELECT count(*) FROM information_schema.tables");
    for name in ["mysql", "sys", "performance_schema", "information_schema"] {
        let into = format!("{}/{name}", server.url());
        let args = ["restore", "latest", "--to", &into, "--database", "aa", "--replace"];
        for more in [&[][..], &["--table", "t"]] {
            let text = repo.fails(1, args.iter().chain(more));
            assert!(text.contains("the server's own"), "{text}");
        }
    }
    assert_eq!(server.root("SELECT count(*) FROM information_schema.tables"), before);
}

#[test]
fn nothing_is_dropped_for_a_dump_that_cannot_be_read() {
    let repo = Repo::made(&["--parity", "off"]);
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE live; CREATE TABLE live.t AS SELECT seq AS id, concat(md5(seq), sha1(seq * 7), md5(rand())) AS a FROM live.seq_1_to_60000; CREATE DATABASE aa; CREATE TABLE aa.t (a int)");
    repo.ok(["backup", &server.url()]);
    let packs = files_under(&repo.folder().join("packs"));
    let largest = packs.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(largest).unwrap();
    let (from, to) = (bytes.len() / 2, bytes.len() / 2 + 4096);
    bytes[from..to].fill(0x55);
    run("chmod", &["u+w", largest.to_str().unwrap()]);
    std::fs::write(largest, bytes).unwrap();
    let before = (server.dumped("live"), server.dumped("aa"));
    let into = format!("{}/live", server.url());
    for args in [
        vec![server.url()],
        vec![into.clone(), "--database".into(), "live".into()],
        vec![into, "--database".into(), "live".into(), "--table".into(), "t".into()],
    ] {
        let args: Vec<String> =
            ["restore", "latest", "--replace", "--to"].map(str::to_owned).into_iter().chain(args).collect();
        let text = repo.fails(1, args);
        assert!(text.contains("damaged"), "{text}");
        assert!((server.dumped("live"), server.dumped("aa")) == before);
    }
}
