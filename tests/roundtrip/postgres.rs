//! PostgreSQL's own regression database, as its tests leave it: equal by pg_dumpall to what `pg_dumpall | psql` brings back.

use super::{Findings, difference, large_piece};
use crate::harness::{Repo, run};
use crate::pg::{Postgres, bin, expect_success};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A cluster that lets everybody in, as roles of the tests log in without a password.
fn cluster(repo: &Repo, version: u32, folder: &str) -> Postgres {
    let mut server = Postgres::version(repo, version, folder, &["max_prepared_transactions=2"]);
    server.stop();
    let rules = server.home.join("data/pg_hba.conf");
    std::fs::write(rules, "local all all trust\nhost all all 127.0.0.1/32 trust\n").unwrap();
    server.up();
    server
}

/// The tests where the server can read them, with the libraries in C that they load, and a folder that they write into.
fn tests(repo: &Repo, server: &Postgres, piece: &Path) -> PathBuf {
    let folder = repo.path("regress");
    run("cp", &["-r", piece.to_str().unwrap(), folder.to_str().unwrap()]);
    std::fs::create_dir_all(folder.join("results")).unwrap();
    let libraries = Command::new(server.bin.join("pg_config")).arg("--pkglibdir").output().unwrap();
    expect_success(&libraries);
    let libraries = PathBuf::from(String::from_utf8(libraries.stdout).unwrap().trim_end());
    for name in ["autoinc.so", "refint.so"] {
        std::fs::copy(libraries.join(name), folder.join(name)).unwrap();
    }
    run("chmod", &["-R", "a+rX", folder.to_str().unwrap()]);
    run("chmod", &["a+rwx", folder.join("results").to_str().unwrap()]);
    folder
}

/// Runs the tests of the schedule one after the other, as pg_regress does; what they answer is not looked at.
fn regress(server: &Postgres, folder: &Path) -> usize {
    server.sql("postgres", "CREATE DATABASE regression TEMPLATE template0");
    for setting in [
        "lc_messages TO 'C'",
        "lc_monetary TO 'C'",
        "lc_numeric TO 'C'",
        "lc_time TO 'C'",
        "bytea_output TO 'hex'",
        "timezone_abbreviations TO 'Default'",
    ] {
        server.sql("postgres", &format!("ALTER DATABASE regression SET {setting}"));
    }
    let schedule = std::fs::read_to_string(folder.join("parallel_schedule")).unwrap();
    let tests: Vec<_> = schedule
        .lines()
        .filter_map(|line| line.strip_prefix("test:"))
        .flat_map(str::split_whitespace)
        .collect();
    for test in &tests {
        let mut psql = server.program("psql");
        psql.args([
            "-X",
            "-a",
            "-q",
            "-d",
            "regression",
            "-v",
            "HIDE_TABLEAM=on",
            "-v",
            "HIDE_TOAST_COMPRESSION=on",
        ]);
        psql.env("PG_ABS_SRCDIR", folder).env("PG_ABS_BUILDDIR", folder).env("PG_LIBDIR", folder);
        psql.env("PG_DLSUFFIX", ".so").env("PGTZ", "America/Los_Angeles").env("PGDATESTYLE", "Postgres, MDY");
        psql.env("PGOPTIONS", "-c intervalstyle=postgres_verbose").env("LC_MESSAGES", "C");
        let script = std::fs::File::open(folder.join(format!("sql/{test}.sql"))).unwrap();
        let output = std::fs::File::create(folder.join(format!("results/{test}.out"))).unwrap();
        psql.current_dir(folder).stdin(script).stderr(output.try_clone().unwrap()).stdout(output);
        assert!(psql.status().unwrap().success(), "{test}");
    }
    tests.len()
}

/// pg_dumpall's output, without what differs by run, and without passwords: that of who restores may stay.
fn dumped(server: &Postgres) -> String {
    let output = server.program("pg_dumpall").arg("--no-role-passwords").output().unwrap();
    expect_success(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    let lines =
        text.lines().filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// `pg_dumpall | psql`.
fn copied(server: &Postgres, target: &Postgres) {
    let mut dump = server.program("pg_dumpall").stdout(Stdio::piped()).spawn().unwrap();
    let mut psql = target.program("psql");
    psql.args(["-X", "-q", "-d", "postgres"]).stdin(dump.stdout.take().unwrap());
    expect_success(&psql.output().unwrap());
    assert!(dump.wait().unwrap().success());
}

/// What there is in a database beside what every one has, by kind.
fn counted(server: &Postgres, database: &str) -> String {
    let kinds = "SELECT classid::regclass || ' ' || count(DISTINCT objid) FROM
        (SELECT classid, objid FROM pg_depend WHERE objid >= 16384 UNION ALL SELECT classid, objid FROM pg_shdepend WHERE objid >= 16384) objects
        GROUP BY classid ORDER BY count(DISTINCT objid) DESC";
    server.sql(database, kinds).replace('\n', ", ")
}

fn regression_database(version: u32) {
    let name = format!("postgres-{version}");
    let Some(piece) = large_piece(&name) else { return };
    let mut findings = Findings::new(name.clone());
    // pg_dump is looked for on PATH.
    let path = format!("{}:{}", bin(version).display(), std::env::var("PATH").unwrap());
    let repo = Repo::new().with("PATH", &path);
    let server = cluster(&repo, version, "pg");
    let folder = tests(&repo, &server, &piece);
    let tests = regress(&server, &folder);
    println!("{name}: {tests} tests have left {}", counted(&server, "regression"));
    let baseline = cluster(&repo, version, "baseline");
    copied(&server, &baseline);
    let target = cluster(&repo, version, "target");
    let is_back = findings.run(&repo, &["backup", &server.url()])
        && findings.run(&repo, &["restore", "latest", "--to", &target.url()]);
    if !is_back {
        return findings.end();
    }
    let (wanted, found) = (dumped(&baseline), dumped(&target));
    for difference in difference::between(&wanted, &found) {
        findings.differs(&difference);
    }
    println!("{name}: {} lines of pg_dumpall compared", wanted.lines().count());
    findings.end();
}

#[test]
fn the_regression_database_of_postgres_15() {
    regression_database(15);
}

#[test]
fn the_regression_database_of_postgres_18() {
    regression_database(18);
}
