//! A signal in the middle of a dump, to a MariaDB that takes no more of it: esker ends soon, says what is there and what is
//! not, and nothing that is half done is called done.

use crate::harness::{Process, Repo, expect, wait_for};
use crate::mariadb::Maria;
use crate::rogue::ended_by;
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// A session that lets nobody write.
fn hold(server: &Maria) -> Process {
    let mut command = Command::new("mariadb");
    command.args(["--no-defaults", "-u", "root", "-S"]).arg(server.home.join("s.sock"));
    command.args(["-e", "FLUSH TABLES WITH READ LOCK; SELECT SLEEP(600)"]).stdout(Stdio::null());
    let held = Process(command.spawn().unwrap());
    let asked = "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'";
    wait_for("the lock", 30, || server.try_root(asked).as_deref() == Some("1"));
    held
}

const BEGUN: &str = "SELECT count(*) FROM information_schema.tables WHERE table_name = 'big'";

#[test]
fn a_signal_in_the_middle_of_a_dump() {
    let repo = Repo::new();
    {
        let server = Maria::start(&repo, "my");
        server.root("CREATE DATABASE first; CREATE TABLE first.t AS SELECT 1 AS i; CREATE DATABASE mid");
        server.root("CREATE TABLE mid.big (i int PRIMARY KEY, t text)");
        server.root("INSERT INTO mid.big SELECT seq, repeat('x', 1000) FROM mid.seq_1_to_60000");
        server.root("CREATE TABLE mid.later AS SELECT 2 AS i; CREATE VIEW mid.v AS SELECT 1");
        server.root("CREATE DATABASE third; CREATE TABLE third.t AS SELECT 3 AS i");
        repo.ok(["backup", &server.url()]);
    }
    for (signal, replaces) in [("-TERM", false), ("-INT", true)] {
        let target = Maria::start(&repo, &format!("target{signal}"));
        if replaces {
            for name in ["first", "mid", "third"] {
                target.root(&format!("CREATE DATABASE {name}; CREATE TABLE {name}.old AS SELECT 7 AS i"));
            }
        }
        let url = target.url();
        let mut args = vec!["restore", "latest", "--to", &url];
        args.extend(replaces.then_some("--replace"));
        let lock = Mutex::new(None);
        let told = ended_by(signal, &repo, &args, || {
            let is_begun = target.try_root(BEGUN).as_deref() == Some("1");
            if is_begun {
                *lock.lock().unwrap() = Some(hold(&target));
            }
            is_begun
        });
        assert!(told.contains("restored, but for their views: first;"), "{told}");
        let left = if replaces { "as they were: mid, third" } else { "as they were: third" };
        assert!(told.contains(left), "{told}");
        assert_eq!(told.contains("'mid'") && told.contains("is incomplete"), !replaces, "{told}");
        drop(lock);
        wait_for("writing", 30, || {
            target.try_root("CREATE OR REPLACE DATABASE w; DROP DATABASE w").is_some()
        });
        assert_eq!(target.root("SELECT i FROM first.t"), "1");
        if replaces {
            assert_eq!(target.root("SELECT i FROM mid.old; SELECT i FROM third.old"), "7\n7");
        } else {
            assert_eq!(target.root("SHOW DATABASES LIKE 'third'"), "");
            // Not taken for a whole one.
            expect(&repo.run(["restore", "latest", "--to", &url, "--database", "mid"]), 1);
        }
        repo.ok(["restore", "latest", "--to", &url, "--replace"]);
        let all = "SELECT count(*) FROM mid.big; SELECT i FROM mid.later; SELECT i FROM third.t; SELECT * FROM mid.v";
        assert_eq!(target.root(all), "60000\n2\n3\n1");
        let names = target.root("SHOW DATABASES");
        assert_eq!(names, "first\ninformation_schema\nmid\nmysql\nperformance_schema\nsys\nthird");
    }
}
