//! What MariaDB's own test scripts make, a database for each script: equal by mariadb-dump to what `mariadb-dump | mariadb` brings
//! back. What that does not bring back does not count.

use super::mysqltest::{DELIMITER, statements};
use super::{Findings, difference, large_piece, piece};
use crate::harness::{Repo, expect};
use crate::mariadb::Maria;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// One of its programs, logged in.
fn program(name: &str, server: &Maria) -> Command {
    let mut command = Command::new(name);
    command.args([
        "--no-defaults",
        "-h127.0.0.1",
        "-ukeeper",
        "-pses\"ame#",
        "--default-character-set=utf8mb4",
    ]);
    command.arg(format!("-P{}", server.port));
    command
}

fn run_sql(server: &Maria, database: &str, force: bool, sql: &[u8]) -> Output {
    let mut command = program("mariadb", server);
    command.args(["--comments", "--batch", "-N", "--max-allowed-packet=256M"]);
    command.args(force.then_some("--force")).arg(database);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut input, sql) = (child.stdin.take().unwrap(), sql.to_vec());
    let writer = std::thread::spawn(move || _ = input.write_all(&sql));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn asked(server: &Maria, sql: &str) -> Vec<String> {
    expect(&run_sql(server, "mysql", false, sql.as_bytes()), 0).lines().map(str::to_owned).collect()
}

/// mariadb-dump's output, without what differs by run, or why there is none.
fn dumped(server: &Maria, database: &str) -> Result<String, String> {
    let mut command = program("mariadb-dump", server);
    command.args(["--skip-dump-date", "--routines", "--events", "--order-by-primary", "--hex-blob"]);
    let output = command.args(["--max-allowed-packet=256M", database]).output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter(|line| !line.starts_with("-- Host:")).map(|line| format!("{line}\n")).collect())
}

/// Makes what a script makes.
fn made(server: &Maria, database: &str, script: &Path) {
    server.root(&format!("CREATE DATABASE `{database}`"));
    let mut sql = format!(
        "SET max_statement_time=5, lock_wait_timeout=2, innodb_lock_wait_timeout=2;\nDELIMITER {DELIMITER}\n"
    )
    .into_bytes();
    for statement in statements(&std::fs::read(script).unwrap()) {
        sql.extend(statement);
        sql.extend(format!("\n{DELIMITER}\n").into_bytes());
    }
    // Scripts try what is refused, too.
    run_sql(server, database, true, &sql);
}

/// Removes views that cannot be read, as what they show is gone.
fn without_broken_views(server: &Maria, database: &str) {
    loop {
        let views = asked(
            server,
            &format!(
                "SELECT table_name FROM information_schema.tables WHERE table_schema = '{database}' AND table_type = 'VIEW'"
            ),
        );
        let broken = |view: &&String| {
            let question = format!("SHOW FIELDS FROM `{}`", view.replace('`', "``"));
            !run_sql(server, database, false, question.as_bytes()).status.success()
        };
        let broken: Vec<_> = views.iter().filter(broken).collect();
        if broken.is_empty() {
            return;
        }
        for view in broken {
            server.root(&format!("DROP VIEW `{database}`.`{}`", view.replace('`', "``")));
        }
    }
}

/// What a database must come back as.
struct Wanted {
    dump: String,
    /// What MariaDB's own programs do not bring back as it was.
    left_out: BTreeSet<String>,
}

/// What MariaDB's own programs bring back, or why they do not.
fn copied(server: &Maria, baseline: &Maria, database: &str) -> Result<Wanted, String> {
    without_broken_views(server, database);
    let dump = dumped(server, database)?;
    let made = asked(server, &format!("SHOW CREATE DATABASE `{database}`"))[0].clone();
    baseline.root(made.split_once('\t').unwrap().1);
    let output = run_sql(baseline, database, false, dump.as_bytes());
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let copy = dumped(baseline, database)?;
    let left_out = difference::names(&dump, &copy).iter().map(|name| (*name).to_owned()).collect();
    Ok(Wanted { dump: copy, left_out })
}

/// The scripts of what can be made in a database, each with the name of its database.
fn scripts(piece: &Path) -> BTreeMap<String, PathBuf> {
    let mut scripts = BTreeMap::new();
    for (suite, topics) in SUITES {
        for path in std::fs::read_dir(piece.join(suite)).unwrap().map(|entry| entry.unwrap().path()) {
            let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
            let is_chosen = topics.iter().any(|topic| stem.starts_with(topic));
            if is_chosen && path.extension().is_some_and(|found| found == "test") {
                let suite = suite.trim_end_matches("/t").trim_start_matches("suite/").replace('/', "-");
                scripts.insert(format!("{suite}_{stem}").chars().take(64).collect(), path);
            }
        }
    }
    scripts
}

/// Folders of scripts, and how the names begin of those that are taken.
const SUITES: &[(&str, &[&str])] = &[
    (
        "main",
        &[
            "alter_table",
            "auto_increment",
            "bool",
            "check_constraint",
            "column_compression",
            "comment_",
            "compound",
            "constraints",
            "create",
            "ctype_gbk",
            "ctype_latin1",
            "ctype_ucs",
            "ctype_ujis",
            "ctype_utf32",
            "ctype_utf8mb4",
            "custom_aggregate",
            "ddl_i18n",
            "default",
            "dyncol",
            "events_",
            "foreign_key",
            "func_default",
            "function_defaults",
            "gis",
            "ignored_index",
            "invisible_",
            "json",
            "keywords",
            "long_unique",
            "merge",
            "mysql57_virtual",
            "mysqldump",
            "null",
            "odbc",
            "partition",
            "ps_ddl",
            "row",
            "sp",
            "sql_mode",
            "strict",
            "table_",
            "temporal_literal",
            "trigger",
            "type_",
            "view",
            "xml",
        ],
    ),
    ("suite/compat/oracle/t", &[""]),
    ("suite/gcol/t", &[""]),
    ("suite/json/t", &[""]),
    ("suite/period/t", &[""]),
    ("suite/sql_sequence", &[""]),
    ("suite/vcol/t", &[""]),
    ("suite/versioning/t", &[""]),
];

fn counted(server: &Maria) -> String {
    let own = "NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema')";
    let kinds = [
        ("databases", format!("SELECT count(*) FROM information_schema.schemata WHERE schema_name {own}")),
        ("routines", format!("SELECT count(*) FROM information_schema.routines WHERE routine_schema {own}")),
        ("triggers", format!("SELECT count(*) FROM information_schema.triggers WHERE trigger_schema {own}")),
        ("events", format!("SELECT count(*) FROM information_schema.events WHERE event_schema {own}")),
    ];
    let mut counts: Vec<_> =
        kinds.iter().map(|(kind, sql)| format!("{} {kind}", asked(server, sql)[0])).collect();
    let tables = format!(
        "SELECT count(*), lower(table_type) FROM information_schema.tables WHERE table_schema {own} GROUP BY table_type"
    );
    counts.extend(asked(server, &tables).iter().map(|line| line.replace('\t', " ")));
    counts.join(", ")
}

/// Compares a database with what it should be.
fn compare(way: &str, database: &str, wanted: &Wanted, target: &Maria, findings: &mut Findings) {
    match dumped(target, database) {
        Ok(found) => {
            let left_out = wanted.left_out.iter().map(String::as_str).collect();
            for difference in difference::beside(&left_out, &wanted.dump, &found) {
                findings.differs(&format!("{way}: {database}: {difference}"));
            }
        }
        Err(why) => findings.differs(&format!("{way}: {database}: {why}")),
    }
}

/// The databases of a server, there and back: what MariaDB's own programs bring back is what esker must.
fn there_and_back(name: &str, make: impl Fn(&Maria) -> Vec<String>) {
    let mut findings = Findings::new(name);
    let repo = Repo::new();
    let [server, baseline, target, whole] =
        ["my", "baseline", "target", "whole"].map(|folder| Maria::start(&repo, folder));
    for server in [&server, &baseline, &target, &whole] {
        server.root("SET GLOBAL innodb_flush_log_at_trx_commit = 0, sync_frm = 0");
    }
    let mut wanted = BTreeMap::new();
    for database in make(&server) {
        match copied(&server, &baseline, &database) {
            Ok(copy) => _ = wanted.insert(database, copy),
            Err(why) => {
                println!(
                    "{name}: {database} does not count, as its own dump does not come back: {}",
                    why.trim_end()
                );
                server.root(&format!("DROP DATABASE `{database}`"));
            }
        }
    }
    println!("{name}: {}", counted(&server));
    findings.run(&repo, &["backup", &server.url()]);
    for (database, wanted) in &wanted {
        // Each compared before the next: none brings what is another's.
        if findings.run(&repo, &["restore", "latest", "--to", &target.url(), "--database", database]) {
            compare("one by one", database, wanted, &target, &mut findings);
        }
    }
    findings.run(&repo, &["restore", "latest", "--to", &whole.url()]);
    for (database, wanted) in &wanted {
        compare("all at once", database, wanted, &whole, &mut findings);
    }
    let left_out: usize = wanted.values().map(|wanted| wanted.left_out.len()).sum();
    println!(
        "{name}: {} databases compared, without {left_out} stretches that its own dump changes",
        wanted.len()
    );
    findings.end();
}

#[test]
fn sakila_beside_another_database() {
    let Some(piece) = piece("sakila") else { return };
    there_and_back("sakila", |server| {
        for name in ["sakila-schema.sql", "sakila-data.sql"] {
            expect(&run_sql(server, "mysql", false, &std::fs::read(piece.join(name)).unwrap()), 0);
        }
        server.root("CREATE DATABASE zoo; CREATE TABLE zoo.t (a int); INSERT INTO zoo.t VALUES (1); CREATE VIEW zoo.v AS SELECT a + 1 FROM zoo.t");
        vec!["sakila".into(), "zoo".into()]
    });
}

#[test]
fn schemas_of_mariadbs_own_tests() {
    let Some(piece) = large_piece("mariadb") else { return };
    let scripts = scripts(&piece);
    println!("mariadb: {} scripts", scripts.len());
    there_and_back("mariadb", |server| {
        for (database, script) in &scripts {
            made(server, database, script);
        }
        scripts.keys().cloned().collect()
    });
}
