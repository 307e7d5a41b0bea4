//! Restores into MariaDB that would lose what the snapshot does not have, or that name something else than is meant.

use crate::harness::Repo;
use crate::mariadb::Maria;

#[test]
fn what_a_backup_left_out_is_not_dropped_by_a_restore() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("CREATE DATABASE kg; CREATE TABLE kg.t (a int); CREATE TABLE kg.base (a int); CREATE VIEW kg.v AS SELECT * FROM kg.base");
    // While the backup runs, a view's table is not there.
    server.root("RENAME TABLE kg.base TO kg.away");
    let url = server.url();
    repo.fails(3, ["backup", &url, "--keep-going"]);
    server.root("RENAME TABLE kg.away TO kg.base; INSERT INTO kg.t VALUES (1)");
    let before = server.dumped("kg");
    let replace = ["restore", "latest", "--to", &url, "--database", "kg", "--replace"];
    for more in [&["-n"][..], &[]] {
        let told = repo.fails(1, [&replace[..], more].concat());
        assert!(told.contains("kg.v") && told.contains("--keep-going"), "{told}");
    }
    assert_eq!(server.dumped("kg"), before);
    // Single tables, and another place, lose nothing.
    repo.ok([&replace[..], &["--table", "t"]].concat());
    assert_eq!(server.root("SELECT count(*) FROM kg.t"), "0");
    assert_eq!(server.root("SELECT count(*) FROM kg.v"), "0");
    let told = repo.ok(["restore", "latest", "--to", &format!("{url}/copy"), "--database", "kg"]);
    assert!(told.contains("left out"), "{told}");
    repo.run([&replace[..], &["--keep-going"]].concat());
    assert_eq!(server.try_root("SELECT count(*) FROM kg.v"), None);
}

#[test]
fn a_table_of_the_name_of_a_marker_is_neither_lost_nor_kept() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    let url = server.url();
    server.root("CREATE DATABASE mk; CREATE TABLE mk.`esker-marker` (a int); CREATE TABLE mk.t (a int)");
    server.root("INSERT INTO mk.`esker-marker` VALUES (1); INSERT INTO mk.t VALUES (1)");
    repo.ok(["backup", &url]);
    let whole = server.dumped("mk");
    server.root("INSERT INTO mk.`esker-marker` VALUES (2); INSERT INTO mk.t VALUES (2)");
    let before = server.dumped("mk");
    let replace = ["restore", "latest", "--to", &url, "--database", "mk", "--replace"];
    for more in [&[][..], &["--table", "esker-marker"], &["-n"]] {
        assert!(repo.fails(1, [&replace[..], more].concat()).contains("esker-marker"));
        assert_eq!(server.dumped("mk"), before);
    }
    server.root("DROP TABLE mk.`esker-marker`");
    assert!(repo.fails(1, replace).contains("esker-marker"));
    repo.ok([&replace[..], &["--table", "t"]].concat());
    assert_eq!(server.root("SELECT count(*) FROM mk.t"), "1");
    server.root("DROP DATABASE mk");
    repo.ok(replace);
    assert_eq!(server.dumped("mk"), whole);
}

#[test]
fn a_name_of_dots_is_not_taken_for_no_name() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    let url = server.url();
    server.root("CREATE DATABASE `..`; CREATE DATABASE d1; CREATE TABLE d1.live (a int)");
    repo.ok(["backup", &url]);
    server.root("INSERT INTO d1.live VALUES (42)");
    for dots in ["%2e%2e", "..", ".", ".%2E", "%2e%2e/"] {
        let to = format!("{url}/{dots}");
        repo.fails(1, ["restore", "latest", "--to", &to, "--database", "d1", "--replace"]);
        repo.fails(25, ["backup", &to]);
    }
    assert_eq!(server.root("SELECT a FROM d1.live"), "42");
    assert_eq!(repo.snapshot_count(), 1);
}
