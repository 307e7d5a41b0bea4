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
