//! MariaDB's databases come back as they were: views on each other, rights on columns, sequences, history, large rows,
//! character sets; and what cannot be read is named, and need not keep the rest away.

use crate::harness::Repo;
use crate::mariadb::Maria;

#[track_caller]
fn equal(server: &Maria, target: &Maria, database: &str, renamed: &str) {
    let has = target.dumped(renamed).replace(&format!("`{renamed}`"), &format!("`{database}`"));
    let has = has.replace(&format!("database '{renamed}'"), &format!("database '{database}'"));
    let had = server.dumped(database);
    let different = had.lines().zip(has.lines()).find(|(had, has)| had != has);
    assert!(had == has, "{different:?}");
}

const VIEWS: &str = "
    CREATE DATABASE aa; CREATE TABLE aa.t (a int); INSERT INTO aa.t VALUES (42);
    CREATE DATABASE bb; CREATE TABLE bb.t (a int); INSERT INTO bb.t VALUES (1);
    CREATE VIEW bb.w AS SELECT a + 1 AS inc FROM bb.t;
    CREATE VIEW aa.z AS SELECT a * 2 AS dbl FROM aa.t;
    CREATE VIEW aa.m AS SELECT dbl FROM aa.z;
    CREATE VIEW aa.b AS SELECT a FROM aa.t WHERE a > 0 WITH CASCADED CHECK OPTION;
    CREATE VIEW aa.a AS SELECT a FROM aa.b WITH CASCADED CHECK OPTION;
    CREATE FUNCTION bb.f(x int) RETURNS int DETERMINISTIC RETURN x * 10;
    CREATE VIEW aa.other AS SELECT inc, bb.f(inc) AS ten FROM bb.w";

#[test]
fn views_of_each_database_are_whole_and_its_own() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root(VIEWS);
    repo.ok(["backup", &server.url()]);
    let target = Maria::start(&repo, "target");
    // Alone: what needs a database that is not there is told.
    let url = target.url();
    let text = repo.fails(3, ["restore", "latest", "--to", &url, "--database", "aa"]);
    assert!(text.contains("view aa.other") && !text.contains("view aa.m"), "{text}");
    assert_eq!(target.root("SELECT dbl FROM aa.m"), "84");
    assert_eq!(target.root("SELECT count(*) FROM information_schema.views WHERE table_schema = 'aa'"), "4");
    repo.ok(["restore", "latest", "--to", &url, "--database", "bb"]);
    assert_eq!(target.root("SELECT inc FROM bb.w"), "2");
    // Together, whatever their order is.
    repo.ok(["restore", "latest", "--to", &url, "--replace"]);
    equal(&server, &target, "aa", "aa");
    equal(&server, &target, "bb", "bb");
    assert_eq!(target.root("SELECT ten FROM aa.other"), "20");
    // Beside live ones.
    server.root("CREATE OR REPLACE VIEW aa.z AS SELECT a * 1000 AS dbl FROM aa.t; CREATE OR REPLACE VIEW bb.w AS SELECT a + 1000 AS inc FROM bb.t");
    repo.ok(["restore", "latest", "--to", &format!("{}/copy", server.url()), "--database", "bb"]);
    assert_eq!(server.root("SELECT dbl, w.inc, c.inc FROM aa.z, bb.w, copy.w c"), "42000\t1001\t2");
    // The file by itself.
    repo.ok(["restore", "latest", "--target", "out"]);
    target.root("DROP DATABASE aa");
    let file = repo.path(&format!("out/mysql/127.0.0.1:{}/databases/aa.sql", server.port));
    let sql = std::fs::read_to_string(file).unwrap();
    target.root(&sql);
    assert_eq!(target.root("SELECT dbl FROM aa.m"), "84");
}

#[test]
fn rights_roles_and_servers_come_back() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE shop; CREATE TABLE shop.t (a int, b int); CREATE PROCEDURE shop.p() SELECT 1;
        CREATE ROLE clerks; GRANT SELECT ON shop.t TO clerks; GRANT EXECUTE ON PROCEDURE shop.p TO clerks;
        CREATE USER clerk@'%' IDENTIFIED BY 'x'; GRANT SELECT (a), UPDATE (b) ON shop.t TO clerk@'%';
        GRANT clerks TO clerk@'%' WITH ADMIN OPTION; SET DEFAULT ROLE clerks FOR clerk@'%';
        CREATE SERVER far FOREIGN DATA WRAPPER mysql OPTIONS (HOST '192.0.2.1', USER 'u', PASSWORD 'p\\'\\\\w', DATABASE 'd')");
    repo.ok(["backup", &server.url()]);
    let target = Maria::start(&repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    for sql in [
        "SHOW GRANTS FOR clerk@'%'",
        "SHOW GRANTS FOR clerks",
        "SELECT * FROM mysql.servers",
        "SELECT * FROM mysql.columns_priv",
        "SELECT Host, Db, User, Table_name, Table_priv, Column_priv FROM mysql.tables_priv WHERE User LIKE 'clerk%' ORDER BY User",
        "SELECT default_role, plugin, authentication_string FROM mysql.user WHERE User = 'clerk'",
    ] {
        assert_eq!(target.root(sql), server.root(sql), "{sql}");
    }
    // Libraries are not loaded into a server, and those that it lacks are named.
    server.root("INSTALL SONAME 'auth_ed25519'");
    repo.ok(["backup", &server.url()]);
    target.root("DROP ROLE clerks");
    let text = repo.fails(3, ["restore", "latest", "--to", &target.url(), "--replace"]);
    assert!(text.contains("auth_ed25519.so") && text.contains("libraries.sql"), "{text}");
    assert_eq!(target.root("SELECT count(*) FROM mysql.plugin"), "0");
    // A role that is there is given by who may: not by us.
    target.root("INSTALL SONAME 'auth_ed25519'; DROP ROLE clerks");
    repo.ok(["restore", "latest", "--to", &target.url(), "--replace"]);
    // A right that cannot be given is told.
    target.root("DROP ROLE clerks");
    server.root("CREATE DATABASE gone; CREATE TABLE gone.t (a int); GRANT SELECT ON gone.t TO clerk@'%'; DROP DATABASE gone");
    repo.ok(["backup", &server.url()]);
    let text = repo.fails(3, ["restore", "latest", "--to", &target.url(), "--replace"]);
    assert!(text.contains("gone.t"), "{text}");
    equal(&server, &target, "shop", "shop");
}

/// Whoever restores can log in afterwards as before, and so can everybody who was there.
#[test]
fn accounts_that_are_there_keep_their_passwords() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE shop; CREATE TABLE shop.t (a int); CREATE USER clerk@'%' IDENTIFIED BY 'of the source' REQUIRE SSL; GRANT SELECT ON *.* TO clerk@'%';
        CREATE USER late@'%' IDENTIFIED BY 'x' REQUIRE SSL WITH MAX_USER_CONNECTIONS 3; GRANT SELECT ON *.* TO late@'%' WITH GRANT OPTION");
    repo.ok(["backup", &server.url()]);
    let target = Maria::start(&repo, "target");
    target.root("CREATE USER clerk@'%' IDENTIFIED BY 'of the target'; ALTER USER keeper@'127.0.0.1' IDENTIFIED BY 'other'");
    let about = |server: &Maria, user: &str| server.root(&format!("SHOW CREATE USER {user}"));
    let before = about(&target, "clerk@'%'");
    repo.ok(["restore", "latest", "--to", &format!("mysql://keeper:other@127.0.0.1:{}", target.port)]);
    repo.ok(["backup", &format!("mysql://keeper:other@127.0.0.1:{}", target.port)]);
    assert_eq!(about(&target, "clerk@'%'"), before);
    assert_eq!(target.root("SELECT Select_priv FROM mysql.user WHERE User = 'clerk'"), "Y");
    assert_eq!(about(&target, "late@'%'"), about(&server, "late@'%'"));
    assert_eq!(target.root("SHOW GRANTS FOR late@'%'"), server.root("SHOW GRANTS FOR late@'%'"));
}

#[test]
fn sequences_history_and_large_rows() {
    let repo = Repo::new();
    let server = Maria::with(
        &repo,
        "my",
        vec!["--max-allowed-packet=256M".into(), "--innodb-log-file-size=256M".into()],
    );
    server.root("CREATE DATABASE d; USE d; CREATE SEQUENCE s START WITH 7; CREATE TABLE t (a int DEFAULT nextval(s), b int);
        INSERT INTO t (b) VALUES (1), (2);
        CREATE TABLE v (a int PRIMARY KEY) WITH SYSTEM VERSIONING; INSERT INTO v VALUES (1)");
    server.root("UPDATE d.v SET a = 2");
    server.root("DELETE FROM d.v; INSERT INTO d.v VALUES (3)");
    server.root("CREATE TABLE d.l (id int PRIMARY KEY, v longblob, w longtext); INSERT INTO d.l VALUES (1, repeat('x', 33 * 1024 * 1024), NULL), (2, NULL, repeat('y', 18 * 1024 * 1024)), (3, '', '')");
    repo.ok(["backup", &server.url()]);
    let target = Maria::with(
        &repo,
        "target",
        vec!["--max-allowed-packet=256M".into(), "--innodb-log-file-size=256M".into()],
    );
    repo.ok(["restore", "latest", "--to", &target.url()]);
    equal(&server, &target, "d", "d");
    let history = "SELECT a, row_start, row_end FROM d.v FOR SYSTEM_TIME ALL ORDER BY 2, 1";
    assert_eq!(server.root(history).lines().count(), 3);
    assert_eq!(target.root(history), server.root(history));
    assert_eq!(target.root("INSERT INTO d.t (b) VALUES (9); SELECT a > 8 FROM d.t WHERE b = 9"), "1");
    // A history that mariadb-dump cannot read is said.
    server.root("USE d; CREATE TABLE x (a int, s bigint unsigned GENERATED ALWAYS AS ROW START, e bigint unsigned GENERATED ALWAYS AS ROW END, PERIOD FOR SYSTEM_TIME (s, e)) WITH SYSTEM VERSIONING; INSERT INTO x (a) VALUES (1)");
    repo.ok(["backup", &server.url()]);
    let record = repo.ok(["cat", "snapshot", "latest"]);
    assert!(record.contains("without-history") && record.contains("d.x"), "{record}");
    repo.ok(["restore", "latest", "--to", &target.url(), "--replace"]);
    assert_eq!(target.root("SELECT a FROM d.x"), "1");
}

#[test]
fn another_name_keeps_character_set_and_empty_means_empty() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("SET NAMES utf8mb4; CREATE DATABASE old CHARACTER SET latin1 COLLATE latin1_german1_ci COMMENT 'it''s; USE `x`;'; CREATE TABLE old.t (a varchar(20)); INSERT INTO old.t VALUES ('ä');
        CREATE PROCEDURE old.p() SELECT 'ä'; CREATE DATABASE code; CREATE PROCEDURE code.p() SELECT 'live';
        CREATE DATABASE clock; CREATE EVENT clock.e ON SCHEDULE EVERY 1 YEAR DO SET @x = 1");
    // An object that is older than its database's collation.
    server.root("ALTER DATABASE old COLLATE latin1_swedish_ci");
    repo.ok(["backup", &server.url()]);
    let into = |name: &str| format!("{}/{name}", server.url());
    let about = |name: &str| {
        server.root(&format!("SELECT default_character_set_name, default_collation_name, schema_comment FROM information_schema.schemata WHERE schema_name = '{name}'"))
    };
    server.root("CREATE DATABASE made CHARACTER SET utf8mb4");
    for name in ["renamed", "made"] {
        repo.ok(["restore", "latest", "--to", &into(name), "--database", "old"]);
        assert_eq!(about(name), about("old"));
        equal(&server, &server, "old", name);
    }
    for name in ["code", "clock"] {
        let text = repo.fails(1, ["restore", "latest", "--to", &into(name), "--database", "old"]);
        assert!(text.contains("is not empty (0 tables and views, 1 routines and events)"), "{text}");
    }
    assert_eq!(server.root("CALL code.p()"), "live");
    let told = repo.ok(["restore", "latest", "--to", &into("code"), "--database", "code", "--replace"]);
    assert!(!told.contains("binary log"), "{told}");
}

#[test]
fn what_is_broken_is_named_and_need_not_keep_the_rest_away() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE aa; CREATE TABLE aa.t (a int, b int); INSERT INTO aa.t VALUES (1, 2); CREATE VIEW aa.v AS SELECT b FROM aa.t;
        CREATE VIEW aa.w AS SELECT a FROM aa.t; CREATE TABLE aa.m (a int) ENGINE = MyISAM; INSERT INTO aa.m VALUES (1);
        CREATE TRIGGER aa.tr BEFORE INSERT ON aa.m FOR EACH ROW SET @x = 1;
        CREATE DATABASE bb; CREATE TABLE bb.t (a int); INSERT INTO bb.t VALUES (1)");
    server.root("CREATE DEFINER = nobody@nowhere VIEW bb.o AS SELECT a FROM bb.t");
    repo.ok(["backup", &server.url()]);
    server.root("ALTER TABLE aa.t DROP COLUMN b; FLUSH TABLES");
    let text = repo.fails(20, ["backup", &server.url()]);
    assert!(text.contains("view aa.v") && text.contains("--keep-going"), "{text}");
    let index = server.home.join("data/aa/m.MYI");
    let bytes = std::fs::read(&index).unwrap();
    std::fs::write(&index, [b"spoilt".as_slice(), &bytes[6..]].concat()).unwrap();
    server.root("FLUSH TABLES; DROP VIEW aa.v");
    let text = repo.fails(20, ["backup", &server.url()]);
    assert!(text.contains("table aa.m") && text.contains("--keep-going"), "{text}");
    server.root("CREATE VIEW aa.v AS SELECT a FROM aa.t; CREATE TABLE aa.gone (a int); CREATE VIEW aa.x AS SELECT a FROM aa.gone; DROP TABLE aa.gone");
    assert_eq!(repo.snapshot_count(), 1);
    let text = repo.fails(3, ["backup", &server.url(), "--keep-going"]);
    assert!(text.contains("view aa.x") && text.contains("table aa.m") && !text.contains("bb.o"), "{text}");
    let target = Maria::start(&repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    equal(&server, &target, "bb", "bb");
    assert_eq!(
        target.root("SELECT table_name FROM information_schema.tables WHERE table_schema = 'aa' ORDER BY 1"),
        "t\nv\nw"
    );
}

/// A table that breaks while it is read costs its database, and no other.
#[test]
fn a_database_that_fails_on_the_way_is_left_out_alone() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    for name in ["aa", "bb", "cc"] {
        server.root(&format!("CREATE DATABASE {name}; CREATE TABLE {name}.t (a int, b varchar(300)) ENGINE = MyISAM ROW_FORMAT = DYNAMIC; INSERT INTO {name}.t SELECT seq, repeat('x', 250) FROM {name}.seq_1_to_20000"));
    }
    server.root("FLUSH TABLES");
    let rows = server.home.join("data/bb/t.MYD");
    let mut bytes = std::fs::read(&rows).unwrap();
    let half = bytes.len() / 2;
    bytes[half..half + 4096].fill(0xff);
    std::fs::write(&rows, bytes).unwrap();
    let text = repo.fails(20, ["backup", &server.url()]);
    assert!(text.contains("mariadb-dump"), "{text}");
    assert_eq!(repo.snapshot_count(), 0);
    server.root("REPAIR TABLE bb.t QUICK; FLUSH TABLES");
    let mut bytes = std::fs::read(&rows).unwrap();
    bytes[half / 2..half / 2 + 4096].fill(0xff);
    std::fs::write(&rows, bytes).unwrap();
    let text = repo.fails(3, ["backup", &server.url(), "--keep-going"]);
    assert!(text.contains("database bb"), "{text}");
    let list = repo.ok(["ls", "latest"]);
    assert!(
        list.contains("/aa.sql\n")
            && list.contains("/cc.sql\n")
            && list.contains("/cc.sql.index\n")
            && !list.contains("/bb.sql"),
        "{list}"
    );
    let target = Maria::start(&repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    equal(&server, &target, "aa", "aa");
    equal(&server, &target, "cc", "cc");
}
