//! A restore into a MariaDB that has what it would replace, or that refuses some of it.

use crate::harness::{Repo, expect, run, wait_for};
use crate::mariadb::Maria;

mod killed;

/// A table whose second row no server takes again, behind one that every server takes.
const REFUSED: &str = "CREATE TABLE aa (a int PRIMARY KEY); INSERT INTO aa VALUES (1), (2); CREATE TABLE zz (a int, CHECK (a > 0)); INSERT INTO zz VALUES (1); SET check_constraint_checks = 0; INSERT INTO zz VALUES (-1); SET check_constraint_checks = 1; CREATE TABLE zzz (a int); INSERT INTO zzz VALUES (3);";
/// Everything that a database may have besides tables.
const CODE: &str = "CREATE VIEW v AS SELECT a FROM aa; CREATE TRIGGER touched BEFORE INSERT ON aa FOR EACH ROW SET NEW.a = NEW.a + 0; CREATE PROCEDURE p() SELECT 1; CREATE FUNCTION f() RETURNS int DETERMINISTIC RETURN 1; CREATE EVENT e ON SCHEDULE EVERY 1 YEAR STARTS '2030-01-01 00:00:00' DO SET @a = 1;";

fn databases(server: &Maria) -> String {
    server.root("SHOW DATABASES").lines().filter(|name| name.contains("esker")).collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn equal(had: &str, has: &str) {
    let different = had.lines().zip(has.lines()).find(|(had, has)| had != has);
    assert!(had == has, "{different:?}\n{had}\n{has}");
}

/// A row that the server refuses half-way costs nothing that is there.
#[test]
fn what_is_there_stays_until_all_rows_have_come() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root(&format!(
        "SET GLOBAL log_bin_trust_function_creators = 1; CREATE DATABASE live; USE live; {REFUSED} {CODE}"
    ));
    repo.ok(["backup", &server.url()]);
    server.root("USE live; INSERT INTO aa VALUES (7); DROP TABLE zz; CREATE TABLE later (a int); DROP VIEW v; CREATE VIEW w AS SELECT * FROM later; DROP FUNCTION f; CREATE TRIGGER more AFTER INSERT ON later FOR EACH ROW SET @a = 1; ALTER DATABASE live COLLATE utf8mb4_bin");
    let before = server.dumped("live");
    let restore = |more: &[&'static str]| {
        let args = ["restore", "latest", "--database", "live", "--replace", "--to"].map(str::to_owned);
        args.into_iter()
            .chain([server.url()])
            .chain(more.iter().map(|arg| (*arg).to_owned()))
            .collect::<Vec<_>>()
    };
    // Plain, and while something of an earlier one is left.
    for _ in 0..2 {
        let text = repo.fails(1, restore(&[]));
        assert!(text.contains("live.zz") && text.contains("4025") && text.contains("is as it was"), "{text}");
        assert!(text.contains("DROP DATABASE `live.esker-new`") && text.contains("not begun"), "{text}");
        equal(&before, &server.dumped("live"));
        assert_eq!(databases(&server), "live.esker-new");
    }
    // Of tables as well.
    let text = repo.fails(1, restore(&["--table", "aa", "--table", "zz"]));
    assert!(text.contains("live.zz"), "{text}");
    equal(&before, &server.dumped("live"));
    let text = repo.fails(3, restore(&["--keep-going"]));
    assert!(text.contains("table live.zz: left out: ERROR 4025"), "{text}");
    assert_eq!(databases(&server), "");
    assert_eq!(server.root("USE live; SHOW TABLES"), "aa\nv\nzzz");
    assert_eq!(
        server.root("SELECT group_concat(a) FROM live.aa; SELECT * FROM live.zzz; SELECT live.f()"),
        "1,2\n3\n1"
    );
    // A table that is there stays where the server refuses its successor.
    server.root("CREATE TABLE live.zz (a int); INSERT INTO live.zz VALUES (42)");
    let text = repo.fails(3, restore(&["--keep-going"]));
    assert!(text.contains("live.zz: the one that is there keeps its rows"), "{text}");
    assert_eq!(server.root("SELECT a FROM live.zz; SELECT group_concat(a) FROM live.aa"), "42\n1,2");
    assert_eq!(databases(&server), "");
    // Where nothing is in the way, what comes is told as well.
    let target = Maria::start(&repo, "target");
    let text = repo.fails(1, ["restore", "latest", "--to", &target.url()]);
    assert!(
        text.contains("live.zz") && text.contains("ended early") && text.contains("--keep-going"),
        "{text}"
    );
    let text = repo.fails(3, ["restore", "latest", "--to", &target.url(), "--replace", "--keep-going"]);
    assert!(text.contains("live.zz"), "{text}");
    assert_eq!(target.root("SELECT group_concat(a) FROM live.aa; SELECT * FROM live.zzz"), "1,2\n3");
}

/// What changes places arrives as it was: foreign keys, sequences, partitions, history; and so do those who look at it.
#[test]
fn a_switched_database_is_the_same() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root(&format!(
        "SET GLOBAL log_bin_trust_function_creators = 1; CREATE DATABASE live COLLATE latin1_german1_ci COMMENT 'a; b'; USE live;
        CREATE TABLE aa (a int PRIMARY KEY); INSERT INTO aa VALUES (1), (2);
        CREATE TABLE kid (a int, b int, KEY (b), CONSTRAINT of_aa FOREIGN KEY (a) REFERENCES aa (a) ON DELETE CASCADE ON UPDATE NO ACTION); INSERT INTO kid VALUES (1, 5);
        SET foreign_key_checks = 0; CREATE TABLE stray (a int, b int, CONSTRAINT `of``none` FOREIGN KEY (a, b) REFERENCES missing (x, y) ON UPDATE CASCADE); SET foreign_key_checks = 1;
        CREATE SEQUENCE s START 5; CREATE TABLE q (a int DEFAULT nextval(live.s), b int); INSERT INTO q (b) VALUES (1);
        CREATE TABLE part (a int) PARTITION BY HASH (a) PARTITIONS 3; INSERT INTO part VALUES (1), (2), (3);
        CREATE TABLE one (a int) ENGINE = MyISAM; INSERT INTO one VALUES (4); CREATE TABLE all_of (a int) ENGINE = MERGE UNION = (one);
        CREATE TABLE hist (a int) WITH SYSTEM VERSIONING; INSERT INTO hist VALUES (1); UPDATE hist SET a = 2; CREATE TABLE `o``d\nd` (a int); {CODE}
        CREATE DATABASE other; CREATE TABLE other.of (a int, FOREIGN KEY (a) REFERENCES live.aa (a)); INSERT INTO other.of VALUES (2)"
    ));
    repo.ok(["backup", &server.url()]);
    let before = server.dumped("live");
    let history = "SELECT a FROM live.hist FOR SYSTEM_TIME ALL ORDER BY 1";
    let rows = server.root(history);
    let changed = "USE live; INSERT INTO aa VALUES (9); CREATE TABLE missing (x int, y int, KEY (x, y)); CREATE PROCEDURE late() SELECT 1; DELETE FROM part; DROP TABLE q; DROP SEQUENCE s; ALTER DATABASE live COLLATE utf8mb4_bin COMMENT 'x'";
    // With a foreign key of another database, which is refused, and without.
    for change in [changed, "DROP TABLE other.of"] {
        server.root(change);
        let other = server.dumped("other");
        let args = ["restore", "latest", "--to", &server.url(), "--database", "live", "--replace"];
        if change == changed {
            let now = server.dumped("live");
            let text = repo.fails(1, args);
            assert!(text.contains("`other`.`of` DROP FOREIGN KEY `of_ibfk_1`"), "{text}");
            equal(&now, &server.dumped("live"));
            equal(&other, &server.dumped("other"));
            continue;
        }
        repo.ok(args);
        equal(&before, &server.dumped("live"));
        equal(&other, &server.dumped("other"));
        assert_eq!(server.root(history), rows);
        assert_eq!(server.root("SELECT * FROM live.all_of"), "4");
        assert_eq!(databases(&server), "");
    }
    assert!(server.try_root("INSERT INTO live.kid VALUES (9, 9)").is_none());
    // Tables one by one, with foreign keys to those that stay.
    for table in ["kid", "stray", "q", "part", "hist", "one", "s", "o`d\nd"] {
        server.root("DELETE FROM live.part; DELETE FROM live.kid; UPDATE live.hist SET a = 7");
        repo.ok([
            "restore",
            "latest",
            "--to",
            &server.url(),
            "--database",
            "live",
            "--replace",
            "--table",
            table,
        ]);
    }
    repo.ok([
        "restore",
        "latest",
        "--to",
        &format!("{}/live", server.url()),
        "--database",
        "live",
        "--replace",
        "--table",
        "kid",
        "--table",
        "part",
        "--table",
        "hist",
    ]);
    equal(&before, &server.dumped("live"));
    assert_eq!(databases(&server), "");
}

/// What a restore that was killed has left is put back, or removed, and said; what is not of a restore is left alone.
#[test]
fn leftovers_are_named_and_removed() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root(&format!("SET GLOBAL log_bin_trust_function_creators = 1; CREATE DATABASE live; USE live; {REFUSED} {CODE} CREATE DATABASE shop; CREATE TABLE shop.t (a int)"));
    repo.ok(["backup", &server.url()]);
    let ours = |name: &str, role: &str, stage: &str| {
        server.root(&format!("CREATE DATABASE `{name}`; CREATE TABLE `{name}`.`esker-marker` (role varchar(8), target varchar(64), stage varchar(8)); INSERT INTO `{name}`.`esker-marker` VALUES ('{role}', 'live', '{stage}'), ('table', 't', ''), ('table', 'zzz', '')"));
    };
    let args = ["restore", "latest", "--to", &server.url(), "--database", "live", "--replace"];
    ours("live.esker-new", "new", "begun");
    ours("live.esker-old", "old", "begun");
    server.root("CREATE TABLE `live.esker-new`.t (a int); INSERT INTO live.zzz VALUES (4); RENAME TABLE live.zzz TO `live.esker-old`.zzz");
    // Another restore names them.
    let text = repo.ok(["restore", "latest", "--to", &server.url(), "--database", "shop", "--replace"]);
    assert!(text.contains("'live.esker-new' is of a restore"), "{text}");
    repo.fails(1, args);
    assert_eq!(server.root("SELECT group_concat(a ORDER BY a) FROM live.zzz"), "3,4");
    assert_eq!(databases(&server), "live.esker-new");
    ours("live.esker-old", "old", "switched");
    server.root("CREATE TABLE `live.esker-old`.zzz (a int)");
    let text = expect(&repo.run(args.iter().copied().chain(["--keep-going"])), 3);
    assert!(text.contains("removed 'live.esker-old'") && text.contains("removed 'live.esker-new'"), "{text}");
    assert_eq!(databases(&server), "");
    // What holds a table of somebody else is not dropped.
    for (name, role, stage) in [("live.esker-new", "new", "begun"), ("live.esker-old", "old", "switched")] {
        ours(name, role, stage);
        server.root(&format!("CREATE TABLE `{name}`.precious (a int)"));
        let text = repo.fails(1, args.iter().copied().chain(["--keep-going"]));
        assert!(text.contains("'precious', which is not of that restore"), "{text}");
        assert_eq!(
            server.root(&format!("SELECT count(*) FROM `{name}`.precious; DROP DATABASE `{name}`")),
            "0"
        );
    }
    // What says it of another database, or nothing, is not ours.
    for sql in ["CREATE DATABASE `live.esker-new`", "CREATE DATABASE `live.esker-old`"] {
        server.root(sql);
        let text = repo.fails(1, args.iter().copied().chain(["--keep-going"]));
        assert!(text.contains("rename or drop it"), "{text}");
        assert_eq!(server.root("SELECT * FROM live.zzz"), "3");
        server.root(&sql.replace("CREATE", "DROP"));
    }
}

/// A switch that fails before any table has moved, of a database with tables and of one without: no table that is there moves.
#[test]
fn a_switch_that_is_refused_moves_nothing() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE shop; CREATE PROCEDURE shop.p() SELECT 1; CREATE DATABASE full; CREATE TABLE full.t (a int); CREATE USER lim IDENTIFIED BY 'x'");
    repo.ok(["backup", &server.url()]);
    server.root("DROP DATABASE shop; CREATE DATABASE shop; CREATE TABLE shop.live (a int); INSERT INTO shop.live VALUES (1), (2), (3); DROP TABLE full.t; CREATE TABLE full.live (a int); INSERT INTO full.live VALUES (4)");
    // The account may not make the database that the old tables go to.
    for name in ["shop", "full"] {
        server.root(&format!("GRANT ALL ON {name}.* TO lim; GRANT ALL ON `{name}.esker-new`.* TO lim"));
        let before = server.dumped(name);
        let url = server.url().replace("keeper:ses%22ame%23@", "lim:x@");
        for _ in 0..2 {
            let text = repo.fails(1, ["restore", "latest", "--to", &url, "--database", name, "--replace"]);
            assert!(text.contains("is as it was") && text.contains("ERROR 1044"), "{text}");
            equal(&before, &server.dumped(name));
        }
    }
    assert_eq!(server.root("SELECT sum(a) FROM shop.live; SELECT a FROM full.live"), "6\n4");
}

/// Foreign keys of tables that stay, in another database and in the same one: refused, and named, before anything is touched.
#[test]
fn a_table_that_foreign_keys_hold_is_not_dropped() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root(
        "CREATE DATABASE par; CREATE TABLE par.p (id bigint PRIMARY KEY); INSERT INTO par.p VALUES (1), (2)",
    );
    repo.ok(["backup", &server.url()]);
    server.root("DROP DATABASE par; CREATE DATABASE par; CREATE TABLE par.p (id int PRIMARY KEY, note text); INSERT INTO par.p VALUES (1, 'precious'); CREATE TABLE par.other (a int); INSERT INTO par.other VALUES (5); CREATE DATABASE chi; CREATE TABLE chi.c (pid int, CONSTRAINT held FOREIGN KEY (pid) REFERENCES par.p (id)); INSERT INTO chi.c VALUES (1)");
    let url = server.url();
    let args = ["restore", "latest", "--to", &url, "--database", "par", "--replace"];
    let refused = |more: &[&str], key: &str| {
        let before = [server.dumped("par"), server.dumped("chi")];
        for last in [&["--dry-run"][..], &[]] {
            let text = repo.fails(1, args.iter().chain(more).chain(last).copied());
            assert!(text.contains(key) && text.contains("add them again"), "{text}");
            assert_eq!(before, [server.dumped("par"), server.dumped("chi")]);
            assert_eq!(databases(&server), "");
        }
    };
    refused(&[], "to table 'p' (ALTER TABLE `chi`.`c` DROP FOREIGN KEY `held`)");
    server.root("ALTER TABLE chi.c DROP FOREIGN KEY held; CREATE TABLE par.kid (pid int, CONSTRAINT near FOREIGN KEY (pid) REFERENCES par.p (id))");
    refused(&["--table", "p"], "to table 'p' (ALTER TABLE `par`.`kid` DROP FOREIGN KEY `near`)");
    // As a whole the child goes as well.
    repo.ok(args);
    assert_eq!(server.root("SHOW TABLES FROM par; SELECT sum(id) FROM par.p"), "p\n3");
}

/// A table of a directory that another server has is left out, or made elsewhere; the others come.
#[test]
fn one_table_that_is_refused_costs_itself() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    let folder = server.home.join("tmp").display().to_string();
    server.root(&format!("CREATE DATABASE aa; CREATE TABLE aa.a (a int); CREATE TABLE aa.dd (a int) ENGINE = MyISAM DATA DIRECTORY = '{folder}'; INSERT INTO aa.dd VALUES (5); CREATE TABLE aa.z (a int); INSERT INTO aa.z VALUES (6); CREATE DATABASE zz; CREATE TABLE zz.t (a int)"));
    repo.ok(["backup", &server.url()]);
    let target = Maria::start(&repo, "target");
    let text = repo.fails(1, ["restore", "latest", "--to", &target.url()]);
    assert!(
        text.contains("aa.dd")
            && text.contains("--no-tablespaces")
            && text.contains("not begun, or as they were: zz"),
        "{text}"
    );
    let text = repo.fails(3, ["restore", "latest", "--to", &target.url(), "--replace", "--keep-going"]);
    assert!(text.contains("table aa.dd: left out"), "{text}");
    assert_eq!(target.root("SELECT a FROM aa.z; USE aa; SHOW TABLES"), "6\na\nz");
    assert_eq!(target.root("SHOW TABLES FROM zz"), "t");
    repo.ok(["restore", "latest", "--to", &target.url(), "--replace", "--no-tablespaces"]);
    assert_eq!(target.root("SELECT a FROM aa.dd"), "5");
    let text = repo.fails(2, ["restore", "latest", "--to", "redis://127.0.0.1:1", "--keep-going"]);
    assert!(text.contains("--keep-going is not for Redis"), "{text}");
}

/// A row that the target's `max_allowed_packet` does not let pass is found before anything is made.
#[test]
fn a_row_that_is_too_large_is_found_before() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE big; CREATE TABLE big.a (a int); CREATE TABLE big.t (a longblob); INSERT INTO big.t VALUES (repeat('x', 3000000)); CREATE TABLE big.u AS SELECT seq, md5(seq) FROM big.seq_1_to_50000");
    repo.ok(["backup", &server.url()]);
    let target = Maria::with(&repo, "target", vec!["--max-allowed-packet=2M".into()]);
    let one = format!("{}/one", target.url());
    target.root("CREATE DATABASE one");
    for args in [
        &["restore", "latest", "--to", &target.url()][..],
        &["restore", "latest", "--to", &one, "--database", "big", "--table", "t"],
    ] {
        let text = repo.fails(1, args);
        assert!(text.contains(".t' has a row") && text.contains("max_allowed_packet"), "{text}");
    }
    assert!(!target.root("SHOW DATABASES").contains("big"));
    let text = repo.fails(3, ["restore", "latest", "--to", &target.url(), "--keep-going"]);
    assert!(text.contains("table big.t") && text.contains("max_allowed_packet"), "{text}");
    assert_eq!(target.root("SELECT count(*) FROM big.u; USE big; SHOW TABLES"), "50000\na\nu");
    target.root("SET GLOBAL max_allowed_packet = 1073741824");
    repo.ok(["restore", "latest", "--to", &target.url(), "--replace"]);
    assert_eq!(target.root("CHECKSUM TABLE big.t"), server.root("CHECKSUM TABLE big.t"));
    // A routine of that size is named, and one that is there and could not be put back is not dropped.
    let body = "x".repeat(60_000);
    server.root(&format!(
        "DROP TABLE big.t; CREATE PROCEDURE big.p() SELECT '{body}'; CREATE PROCEDURE big.q() SELECT 1"
    ));
    repo.ok(["backup", &server.url()]);
    let small = Maria::with(
        &repo,
        "small",
        vec!["--max-allowed-packet=100K".into(), "--net-buffer-length=16K".into()],
    );
    small.root("CREATE DATABASE big; CREATE TABLE big.u (a int)");
    server.root("DROP TABLE big.u");
    repo.ok(["backup", &server.url()]);
    let text = repo.fails(3, ["restore", "latest", "--to", &small.url(), "--database", "big", "--replace"]);
    assert!(text.contains("routine big.p: its definition is larger"), "{text}");
    assert_eq!(small.root("USE big; SHOW TABLES; CALL q()"), "a\n1");
}

/// The name of a view is no complaint about another table; what is left out is said again when the rest comes back.
#[test]
fn a_name_complains_of_nothing() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    let forged: String = (1..12).map(|line| format!("ERROR 1146 (4) at line {line}: \n")).collect();
    let name: String = forged.chars().take(59).collect();
    server.root(&format!("CREATE DATABASE aa; CREATE TABLE aa.victim (a int); INSERT INTO aa.victim VALUES (1); CREATE DATABASE ze; USE ze; CREATE TABLE base (a int); CREATE VIEW `x\n{name}` AS SELECT a FROM base; CREATE VIEW second AS SELECT a FROM base; DROP TABLE base"));
    let text = repo.fails(20, ["backup", &server.url()]);
    assert!(
        text.contains("view ze.second") && text.contains("view ze.x") && text.contains("--keep-going"),
        "{text}"
    );
    assert!(!text.contains("victim"), "{text}");
    let text = repo.fails(3, ["backup", &server.url(), "--keep-going"]);
    assert!(text.contains("ze.second") && !text.contains("victim"), "{text}");
    let target = Maria::start(&repo, "target");
    let text = repo.ok(["restore", "latest", "--to", &target.url()]);
    assert!(text.contains("the snapshot lacks") && text.contains("view ze.second: ERROR 1356"), "{text}");
    assert_eq!(target.root("SELECT a FROM aa.victim"), "1");
    let text = repo.ok(["restore", "latest", "--to", &target.url(), "--database", "aa", "--replace"]);
    assert!(!text.contains("lacks"), "{text}");
    // A view that the target refuses, and whose name says that another is.
    server.root(&format!("USE ze; DROP VIEW second; DROP VIEW `x\n{name}`; CREATE TABLE aa.base (a int); CREATE VIEW `a\n{name}` AS SELECT a FROM aa.base; CREATE VIEW b AS SELECT 1 AS a"));
    repo.ok(["backup", &server.url()]);
    let other = Maria::start(&repo, "other");
    let text = repo.fails(3, ["restore", "latest", "--to", &other.url(), "--database", "ze"]);
    assert!(text.contains("ERROR 1146") || text.contains("ERROR 1049"), "{text}");
    assert_eq!(other.root("SELECT a FROM ze.b"), "1");
}

#[test]
fn comments_where_backslashes_mean_themselves() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE d; USE d; SET sql_mode = 'NO_BACKSLASH_ESCAPES'; CREATE PROCEDURE p() COMMENT 'x\\y\\\\z''\n\\n' SELECT 'a\\b'; CREATE EVENT e ON SCHEDULE EVERY 1 YEAR STARTS '2030-01-01 00:00:00' COMMENT 'x\\y''\nz' DO SET @a = '\\'; SET sql_mode = ''; CREATE PROCEDURE q() COMMENT 'x\\\\y\\n' SELECT 1");
    repo.ok(["backup", &server.url()]);
    let target = Maria::start(&repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    let sql = "SELECT name, hex(comment), hex(body) FROM mysql.proc WHERE db = 'd' UNION SELECT name, hex(comment), hex(body) FROM mysql.event WHERE db = 'd' ORDER BY 1";
    assert!(server.root(sql).contains("785C79"));
    assert_eq!(target.root(sql), server.root(sql));
}

#[test]
fn a_dry_run_says_what_it_would_do() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root(&format!("SET GLOBAL log_bin_trust_function_creators = 1; CREATE DATABASE live; USE live; CREATE TABLE aa (a int); {CODE}"));
    repo.ok(["backup", &server.url()]);
    let text = repo.ok(["restore", "latest", "--to", &server.url(), "--replace", "--dry-run"]);
    for step in [
        "1. make the accounts",
        "2. database 'live': beside the existing one, then switched",
        "read 1 table of 'live' into a new database, 'live.esker-new'",
        "drop what was there: 2 tables and views, 3 routines and events",
        "make 2 routines, 1 trigger, 1 event",
        "make 1 view ",
    ] {
        assert!(text.contains(step), "{step}: {text}");
    }
    assert_eq!(databases(&server), "");
    let text = repo.ok([
        "--json",
        "restore",
        "latest",
        "--to",
        &format!("{}/copy", server.url()),
        "--database",
        "live",
        "--dry-run",
    ]);
    assert!(text.contains("read 1 table of 'live' into it"), "{text}");
}

/// An interrupted replacement leaves what was there.
#[test]
fn an_interrupted_replacement_leaves_what_was_there() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root(&format!("SET GLOBAL log_bin_trust_function_creators = 1; CREATE DATABASE live; USE live; CREATE TABLE aa (a int); {CODE} CREATE TABLE t AS SELECT seq, sha2(seq, 512) AS a, rand() AS b FROM seq_1_to_200000"));
    repo.ok(["backup", &server.url()]);
    server.root("INSERT INTO live.aa VALUES (8)");
    let before = server.dumped("live");
    let url = server.url();
    let mut command = repo.command(["restore", "latest", "--to", &url, "--database", "live", "--replace"]);
    let child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_for("rows", 60, || {
        server.try_root("SELECT 1 FROM `live.esker-new`.t LIMIT 1").is_some_and(|rows| rows == "1")
    });
    run("kill", &["-TERM", &child.id().to_string()]);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("is as it was") && text.contains("not begun, or as they were: live"), "{text}");
    equal(&before, &server.dumped("live"));
    repo.ok(["restore", "latest", "--to", &url, "--database", "live", "--replace"]);
    assert_eq!(server.root("SELECT count(*) FROM live.aa"), "0");
    assert_eq!(databases(&server), "");
}

/// `--table` restores tables: what is none is called what it is, everywhere, and the way that the message gives brings it.
#[test]
fn what_is_no_table_is_called_what_it_is() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root(&format!(
        "SET GLOBAL log_bin_trust_function_creators = 1; CREATE DATABASE live; USE live; CREATE TABLE aa (a int); INSERT INTO aa VALUES (1); {CODE}"
    ));
    repo.ok(["backup", &server.url()]);
    let into = format!("{}/live", server.url());
    for (name, what) in [
        ("v", "is a view"),
        ("touched", "is a trigger: it comes with its table"),
        ("p", "is a routine"),
        ("f", "is a routine"),
        ("e", "is an event"),
        ("nothing", "there is no table 'nothing'"),
    ] {
        for more in [&[][..], &["--replace"], &["--dry-run"]] {
            let args = ["restore", "latest", "--to", &into, "--database", "live", "--table", name];
            let text = repo.fails(1, [&args[..], more].concat());
            assert!(text.contains(what) && text.contains(&format!("'{name}'")), "{text}");
        }
    }
    let text = repo.fails(1, ["restore", "latest:mysql/live/v", "--to", &into]);
    assert!(text.contains("'esker dump SNAPSHOT:mysql/live/v'"), "{text}");
    // All say that it is one.
    for listed in [repo.ok(["ls", "latest:mysql/live/"]), repo.ok(["find", "-l", "v"])] {
        let is_it = |line: &str| line.contains("view") && line.ends_with('v');
        assert!(listed.lines().any(is_it), "{listed}");
    }
    server.root("DROP VIEW live.v");
    let sql = repo.ok(["dump", "latest:mysql/live/v"]);
    server.root(&format!("USE live; {sql}"));
    assert_eq!(server.root("SELECT a FROM live.v"), "1");
}
