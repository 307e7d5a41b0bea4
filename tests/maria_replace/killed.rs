//! Restores that are killed around the switch: the code that was there is kept.

use super::databases;
use crate::harness::{Process, Repo, wait_for};
use crate::mariadb::Maria;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// As statements that are run as they are hold it.
fn hex(text: &str) -> String {
    text.trim_end().bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Killed while a transaction of somebody else keeps the tables from changing places: the code that was dropped before is kept,
/// and the next restore touches nothing and says where it is.
#[test]
fn code_that_a_killed_switch_dropped_is_kept() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("SET GLOBAL log_bin_trust_function_creators = 1; CREATE DATABASE live; USE live; CREATE TABLE zzz (a int); INSERT INTO zzz VALUES (3); CREATE PROCEDURE p() SELECT 'precious'; CREATE VIEW v AS SELECT a FROM zzz");
    repo.ok(["backup", &server.url()]);
    let args = ["restore", "latest", "--to", &server.url(), "--database", "live", "--replace"];
    let mut holder = Command::new("mariadb");
    holder.args(["--no-defaults", "-u", "root", "-S"]).arg(server.home.join("s.sock"));
    holder.args(["-e", "BEGIN; SELECT * FROM live.zzz; DO SLEEP(200)"]).stdout(std::process::Stdio::null());
    let holder = Process::start(&mut holder);
    let waiting = "SELECT id FROM information_schema.processlist WHERE info LIKE 'RENAME TABLE%'";
    let restore = Process::start(&mut repo.command(args));
    wait_for("the switch", 60, || !server.root(waiting).is_empty());
    drop(restore);
    // Either may have ended by itself.
    server.try_root(&format!("KILL {}", server.root(waiting)));
    drop(holder);
    server.root("SELECT concat('KILL ', id) FROM information_schema.processlist WHERE info LIKE '%SLEEP(200)%' AND id <> connection_id()")
        .lines()
        .for_each(|kill| drop(server.try_root(kill)));
    for _ in 0..2 {
        let text = repo.fails(1, args);
        assert!(text.contains("`live.esker-old`.`esker-marker`, where role is 'code'"), "{text}");
        assert_eq!(server.root("SELECT a FROM live.zzz"), "3");
        let kept = server.root("SELECT CONVERT(definition USING utf8mb4) FROM `live.esker-old`.`esker-marker` WHERE role = 'code'");
        for made in ["PROCEDURE `p`() ", "VIEW `v` AS "].map(hex) {
            assert!(kept.contains(&made), "{made}: {kept}");
        }
    }
    server.root("DROP DATABASE `live.esker-old`");
    repo.ok(args);
    assert_eq!(server.root("CALL live.p(); SELECT a FROM live.v"), "precious\n3");
}

/// Killed when the tables have changed places and the snapshot's code is still to be made: the code that was there is nowhere else,
/// so it is kept, and the next restore touches nothing and says where it is.
#[test]
fn code_is_kept_of_a_restore_that_was_killed_behind_the_switch() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "my");
    server.root("SET GLOBAL log_bin_trust_function_creators = 1; CREATE DATABASE live; USE live; CREATE TABLE zzz (a int); INSERT INTO zzz VALUES (3); CREATE VIEW v AS SELECT a FROM zzz");
    repo.ok(["backup", &server.url()]);
    // Of the database alone.
    server.root("CREATE PROCEDURE live.p() SELECT 'precious'; INSERT INTO live.zzz VALUES (4)");
    let args = ["restore", "latest", "--to", &server.url(), "--database", "live", "--replace"];
    // A client that hangs once the tables have changed places.
    let (bin, hangs) = (repo.path("bin"), repo.path("hangs"));
    std::fs::create_dir(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *binary-mode?--skip-reconnect*) exec /usr/bin/mariadb \"$@\";; esac\n\
         if /usr/bin/mariadb --no-defaults -u root -S {socket} -N -e 'SELECT stage FROM `live.esker-old`.`esker-marker`' 2>/dev/null | grep -q switched\n\
         then touch {hangs}; exec sleep 100; fi\nexec /usr/bin/mariadb \"$@\"\n",
        socket = server.home.join("s.sock").display(),
        hangs = hangs.display(),
    );
    std::fs::write(bin.join("mariadb"), script).unwrap();
    std::fs::set_permissions(bin.join("mariadb"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let restore = Process::start(repo.command(args).env("PATH", path));
    wait_for("the client to hang", 60, || hangs.exists());
    drop(restore);
    for _ in 0..2 {
        let text = repo.fails(1, args);
        assert!(text.contains("`live.esker-old`.`esker-marker`, where role is 'code'"), "{text}");
        assert_eq!(server.root("SELECT a FROM live.zzz"), "3", "the new table is in its place");
        let kept = server.root("SELECT CONVERT(definition USING utf8mb4) FROM `live.esker-old`.`esker-marker` WHERE role = 'code'");
        for made in ["PROCEDURE `p`() ", "VIEW `v` AS "].map(hex) {
            assert!(kept.contains(&made), "{made}: {kept}");
        }
    }
    server.root("DROP DATABASE `live.esker-old`");
    repo.ok(args);
    assert_eq!(server.root("SELECT a FROM live.v"), "3");
    assert_eq!(databases(&server), "");
}
