//! LOAD DATA in a binary log: its rows come back, and it reads no file of the machine that restores.

use crate::harness::{Repo, run};
use crate::mariadb::{Maria, following, wait_durable};
use std::path::Path;
use std::process::Command;

/// A server that logs statements as they are, in a log that can be written to unseen.
fn logging(repo: &Repo, folder: &str) -> Maria {
    let settings = ["--binlog-format=STATEMENT", "--binlog-checksum=NONE"];
    Maria::with(repo, folder, settings.map(str::to_owned).to_vec())
}

/// Statements of a client that may send files.
fn with_files(server: &Maria, sql: &str) {
    let output = Command::new("mariadb")
        .args(["--no-defaults", "-u", "root", "--local-infile=1", "-S"])
        .arg(server.home.join("s.sock"))
        .args(["-e", sql])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Follows the server until what it has is durable.
fn caught_up(repo: &Repo, server: &Maria) {
    let mut following = following(repo, &server.url());
    wait_durable(repo, server);
    run("kill", &["-INT", &following.0.id().to_string()]);
    following.0.wait().unwrap();
}

fn empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn the_rows_of_load_data_come_back() {
    let repo = Repo::new();
    let tmp = repo.path("tmp");
    std::fs::create_dir(&tmp).unwrap();
    let repo = repo.with("TMPDIR", tmp.to_str().unwrap());
    let server = logging(&repo, "my");
    server.root(
        "CREATE DATABASE shop; CREATE TABLE shop.t (id int AUTO_INCREMENT PRIMARY KEY, a int UNIQUE, b text)",
    );
    let file = |name: &str, rows: &str| {
        std::fs::write(repo.path(name), rows).unwrap();
        repo.path(name).display().to_string()
    };
    let large: String = (1000..60_000).map(|number| format!("{number};\"row {number}\"\n")).collect();
    let (one, other) = (file("one", "1;\"x;y\"\n2;'q'\n"), file("other", "head|7|it's\\n|2|new|"));
    let large = file("large", &large);
    caught_up(&repo, &server);
    with_files(
        &server,
        &format!(
            "USE shop;
            LOAD DATA LOCAL INFILE '{one}' INTO TABLE t FIELDS TERMINATED BY ';' OPTIONALLY ENCLOSED BY '\"' ESCAPED BY '\\\\' (a, @b) SET b = concat(@b, ';', 'a; b');
            LOAD DATA LOCAL INFILE '{large}' INTO TABLE t FIELDS TERMINATED BY ';' ENCLOSED BY '\"' (a, b);
            BEGIN; CREATE TEMPORARY TABLE held LIKE t;
            LOAD DATA CONCURRENT LOCAL INFILE '{one}' IGNORE INTO TABLE held FIELDS TERMINATED BY ';' ENCLOSED BY '\\'' (a, b);
            INSERT INTO t (a, b) SELECT a + 500, b FROM held ORDER BY a; COMMIT;
            SET sql_mode = 'ANSI_QUOTES'; SET NAMES latin1;
            LOAD DATA LOCAL INFILE '{other}' REPLACE INTO TABLE \"t\" FIELDS TERMINATED BY '|' LINES TERMINATED BY '\\n|' IGNORE 0 LINES (@c, a, b)"
        ),
    );
    caught_up(&repo, &server);
    let target = Maria::start(&repo, "target");
    repo.ok(["restore", "latest", "--to", &target.url()]);
    let rows = "SELECT a, hex(b) FROM shop.t ORDER BY a";
    let (had, has) = (server.root(rows), target.root(rows));
    assert!(had.lines().count() > 59_000 && had == has, "{} {}", had.len(), has.len());
    // Nor is anything of the rows left behind.
    assert!(empty(&tmp), "{:?}", std::fs::read_dir(&tmp).unwrap().collect::<Vec<_>>());
}

/// The log of a server that is somebody else's: its statements are not what it ran.
#[test]
fn a_log_reads_no_file_of_the_machine_that_restores() {
    let repo = Repo::new();
    let secret = repo.path("secret");
    std::fs::write(&secret, "very secret rows\n").unwrap();
    let steal = format!("LOAD DATA LOCAL INFILE '{}' INTO TABLE shop.stolen (b)", secret.display());
    std::fs::write(repo.path("rows"), "1\n").unwrap();
    let rows = repo.path("rows").display().to_string();
    let padding = "P".repeat(400);
    let load = format!("LOAD DATA LOCAL INFILE '{rows}' INTO TABLE shop.t (a) SET b = '{padding}'");
    let insert = format!("INSERT INTO shop.t (b) VALUES ('{padding}')");
    let hex: String = steal.bytes().map(|byte| format!("{byte:02x}")).collect();
    // What is executed, what of it is something else in the log, and what.
    let cases = [
        (&load, format!("'{padding}'"), format!("'x'\nDELIMITER ;;\n{steal};;\n")),
        (&load, format!("'{padding}'"), format!("'x'; {steal}; DO '")),
        (&load, format!("'{padding}'"), format!("'x'/*!*/;\n{steal}/*!*/;\n")),
        (&load, format!("'{padding}'"), format!("'x'; EXECUTE IMMEDIATE 0x{hex}")),
        (&insert, insert.clone(), steal.clone()),
        (&insert, insert.clone(), format!("lOAD/**/DATA{}", &steal[9..])),
        (&insert, insert.clone(), format!("DO 0; {steal}")),
    ];
    let (server, target) = (logging(&repo, "my"), Maria::start(&repo, "target"));
    server
        .root("CREATE DATABASE shop; CREATE TABLE shop.t (a int, b text); CREATE TABLE shop.stolen (b text)");
    for (number, (ran, part, evil)) in cases.iter().enumerate() {
        // Its log begins behind those of the cases before.
        let repo = Repo::new();
        caught_up(&repo, &server);
        // The client sends files in every case.
        with_files(&server, &load.replace(&padding, "fine"));
        with_files(&server, ran);
        server.root("FLUSH BINARY LOGS");
        let mut written = false;
        for log in 1..30 {
            let path = server.home.join(format!("data/bin.{log:06}"));
            let Ok(mut bytes) = std::fs::read(&path) else { continue };
            if let Some(at) = bytes.windows(part.len()).position(|some| some == part.as_bytes()) {
                let mut evil = evil.clone().into_bytes();
                evil.resize(part.len(), b' ');
                bytes[at..at + part.len()].copy_from_slice(&evil);
                std::fs::write(&path, &bytes).unwrap();
                written = true;
            }
        }
        assert!(written, "{number}");
        caught_up(&repo, &server);
        target.root("DROP DATABASE IF EXISTS shop");
        let output = repo.run(["restore", "latest", "--to", &target.url()]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{number}: {told}");
        let stolen = target.try_root("SELECT count(*) FROM shop.stolen");
        assert!(stolen.is_none_or(|count| count == "0"), "{number}: {told}");
    }
}
