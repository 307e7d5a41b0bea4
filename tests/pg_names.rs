//! Names that PostgreSQL allows: in encodings other than UTF-8, and such as look like paths, options, URLs or files of
//! the dump. What is laid down is what pg_dump lays down, and it comes back.

use crate::harness::{Repo, expect};
use crate::pg::{Postgres, VERSIONS, bin, expect_success};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Runs SQL in an encoding.
fn sql_in(server: &Postgres, database: &str, encoding: &str, sql: &[u8]) {
    let mut command = server.program("psql");
    command.env("PGCLIENTENCODING", encoding).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c"]);
    expect_success(&command.arg(OsStr::from_bytes(sql)).output().unwrap());
}

/// pg_dump's output, without what differs by run, in bytes.
fn dumped(server: &Postgres, database: &str) -> Vec<u8> {
    let connection = format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"));
    let output = server.program("pg_dump").arg("-d").arg(connection).output().unwrap();
    expect_success(&output);
    let lines = output.stdout.split(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(b"\\")).collect::<Vec<_>>().join(&b'\n')
}

/// The files of a folder, but for the table of contents.
fn files(folder: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let all = entries.filter(|entry| entry.file_name() != "toc.dat");
    all.map(|entry| (entry.file_name(), std::fs::read(entry.path()).unwrap())).collect()
}

/// The contents alone, in order.
fn contents(files: &BTreeMap<OsString, Vec<u8>>) -> Vec<&Vec<u8>> {
    let mut all: Vec<&Vec<u8>> = files.values().collect();
    all.sort();
    all
}

/// Databases with names in their encoding, and the files that their tables must have.
fn encoded_databases(server: &Postgres) -> Vec<(&'static str, Vec<&'static str>)> {
    for (name, encoding) in
        [("latin1", "LATIN1"), ("onecolumn", "LATIN1"), ("eucjp", "EUC_JP"), ("ascii", "SQL_ASCII")]
    {
        server.sql(
            "postgres",
            &format!(
                "CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
            ),
        );
    }
    let latin1 = "CREATE SCHEMA \"schéma\"; CREATE TYPE \"schéma\".\"été\" AS ENUM ('froid', 'très chaud'); \
        CREATE TABLE \"tâble\" (\"clé\" serial PRIMARY KEY, \"naïve\" text, s \"schéma\".\"été\"); \
        INSERT INTO \"tâble\" (\"naïve\", s) VALUES ('ça', 'très chaud'), ('tab\t\\.', NULL); \
        CREATE TABLE \"schéma\".\"ÿ\" AS SELECT i, repeat('é', 900) t FROM generate_series(1, 40000) i; \
        CREATE VIEW \"vüe\" AS SELECT \"clé\" FROM \"tâble\"; COMMENT ON TABLE \"tâble\" IS 'à voir'";
    sql_in(server, "latin1", "UTF8", latin1.as_bytes());
    sql_in(
        server,
        "onecolumn",
        "UTF8",
        "CREATE TABLE plain (\"naïve\" int); INSERT INTO plain VALUES (7)".as_bytes(),
    );
    let japanese =
        "CREATE TABLE \"テーブル\" (\"列\" text); INSERT INTO \"テーブル\" VALUES ('日本'), ('表')";
    sql_in(server, "eucjp", "UTF8", japanese.as_bytes());
    sql_in(
        server,
        "ascii",
        "SQL_ASCII",
        b"CREATE TABLE \"t\xe9b\" (\"\xff\" text); INSERT INTO \"t\xe9b\" VALUES ('\xfe\x80')",
    );
    sql_in(
        server,
        "ascii",
        "SQL_ASCII",
        "CREATE TABLE \"tâb\" (a int); INSERT INTO \"tâb\" VALUES (1)".as_bytes(),
    );
    vec![
        ("latin1", vec!["public.tâble.dat", "schéma.ÿ.dat"]),
        ("onecolumn", vec!["public.plain.dat"]),
        ("eucjp", vec!["public.テーブル.dat"]),
        ("ascii", vec!["public.t%E9b.dat", "public.tâb.dat"]),
    ]
}

#[test]
fn names_in_other_encodings() {
    for version in VERSIONS {
        let path = format!("{}:{}", bin(*version).display(), std::env::var("PATH").unwrap());
        let repo = Repo::new().with("PATH", &path);
        let server = Postgres::version(&repo, *version, "pg", &[]);
        let databases = encoded_databases(&server);
        // In the encoding of the database that it was made from; nobody can tell that in another one.
        sql_in(&server, "latin1", "UTF8", "CREATE DATABASE \"dé\"".as_bytes());
        repo.ok(["backup", &server.url()]);
        let list = repo.ok(["ls", "latest"]);
        assert!(list.contains("/databases/d%E9/toc.dat\n"), "{list}");
        repo.ok(["restore", "latest", "--target", "out"]);
        for (database, tables) in &databases {
            let out = repo.path(&format!("out/postgres/127.0.0.1:{}/databases/{database}", server.port));
            let ours = files(&out);
            for table in tables {
                assert!(ours.contains_key(OsStr::new(table)), "{table} in {:?}", ours.keys());
            }
            // Byte for byte as pg_dump writes them, under whatever names.
            let theirs = repo.path(&format!("theirs-{database}"));
            let mut dump = server.program("pg_dump");
            dump.args(["-Fd", "-Z0", "-d", database, "-f"]).arg(&theirs);
            expect_success(&dump.output().unwrap());
            assert_eq!(contents(&ours), contents(&files(&theirs)), "PostgreSQL {version}, {database}");
            let back = format!("{database}_back");
            server.sql(
                "postgres",
                &format!(
                    "CREATE DATABASE {back} TEMPLATE template0 ENCODING '{}' LC_COLLATE 'C' LC_CTYPE 'C'",
                    server.sql(database, "SELECT getdatabaseencoding()")
                ),
            );
            let restored =
                server.program("pg_restore").args(["--exit-on-error", "-d", &back]).arg(&out).output();
            expect_success(&restored.unwrap());
            assert!(dumped(&server, database) == dumped(&server, &back), "PostgreSQL {version}, {database}");
        }
        // In another encoding, if that is asked for.
        repo.ok(["backup", &format!("{}/latin1?client_encoding=UTF8", server.url())]);
        repo.ok(["restore", "latest", "--target", "utf8"]);
        let out = repo.path(&format!("utf8/postgres/127.0.0.1:{}/databases/latin1", server.port));
        let rows = &files(&out)[OsStr::new("public.tâble.dat")];
        assert!(rows.starts_with("1\tça\t".as_bytes()), "{rows:?}");
    }
}

/// Names of databases that look like something else.
const DATABASES: &[&str] = &[
    ".",
    "..",
    "x",
    "x.sql",
    "x.dump",
    "x.dump.index",
    "toc.dat",
    "globals.sql",
    "--foo",
    "-dash",
    "-d",
    "dbname=evil host=x",
    "postgres://x/y",
    "it's \"q\" \\ 100%",
    "a/b",
    "a%2Fb",
    "A",
    "a",
    "new\nline",
    "service=x",
    "host=/tmp",
    "'",
    "ünïcödé",
];

#[test]
fn names_that_look_like_something_else() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    for name in DATABASES {
        server.sql("postgres", &format!("CREATE DATABASE {}", quoted(name)));
        let connection = format!("dbname='{}'", name.replace('\\', "\\\\").replace('\'', "\\'"));
        server.sql(&connection, "CREATE TABLE mark (name text)");
        server.sql(&connection, &format!("INSERT INTO mark VALUES ($q${name}$q$)"));
    }
    // One with such tables.
    let wide = "語".repeat(21);
    let controls = "\u{1}".repeat(63);
    let schemas = [".", "..", "a.b", "a", "-d", "--clean"];
    let tables = [
        ".",
        "..",
        "c",
        "b.c",
        "b/c",
        "b%2Fc",
        "B/c",
        "b\\c",
        "toc",
        "new\nline",
        "\n-- x",
        "it's",
        "\"",
        wide.as_str(),
        controls.as_str(),
    ];
    for schema in schemas {
        server.sql("x", &format!("CREATE SCHEMA {}", quoted(schema)));
        for table in tables {
            let name = format!("{}.{}", quoted(schema), quoted(table));
            server.sql("x", &format!("CREATE TABLE {name} AS SELECT $q${schema}|{table}$q$::text AS own"));
        }
    }
    for format in ["directory", "custom", "plain"] {
        repo.ok(["backup", &server.url(), "-o", &format!("postgres.format={format}")]);
        let out = format!("out-{format}");
        repo.ok(["restore", "latest", "--target", &out]);
        let databases = repo.path(&format!("{out}/postgres/127.0.0.1:{}/databases", server.port));
        let some = if format == "directory" { DATABASES.len() } else { 8 };
        for name in &DATABASES[..some] {
            let component = match *name {
                "." => "%2E".to_owned(),
                ".." => "%2E%2E".to_owned(),
                name => name.replace('%', "%25").replace('/', "%2F").replace('\n', "%0A"),
            };
            server.sql("postgres", "DROP DATABASE IF EXISTS back");
            server.sql("postgres", "CREATE DATABASE back TEMPLATE template0");
            let path = match format {
                "directory" => databases.join(&component),
                "custom" => databases.join(format!("{component}.dump")),
                _ => databases.join(format!("{component}.sql")),
            };
            let output = match format {
                "plain" => server
                    .program("psql")
                    .args(["-Xq", "-v", "ON_ERROR_STOP=1", "-d", "back", "-f"])
                    .arg(&path)
                    .output(),
                _ => server.program("pg_restore").args(["--exit-on-error", "-d", "back"]).arg(&path).output(),
            };
            expect(&output.unwrap(), 0);
            assert_eq!(server.sql("back", "SELECT name FROM mark"), *name, "{format}");
            if *name == "x" {
                assert!(server.dumped("back") == server.dumped("x"), "{format}");
            }
        }
    }
    // Each by itself, too.
    for name in ["..", "--foo", "dbname=evil host=x", "postgres://x/y", "a/b", "new\nline"] {
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        repo.ok(["backup", &format!("{}/{encoded}", server.url())]);
        let record = repo.ok(["cat", "snapshot", "latest"]);
        assert_eq!(record.matches("moment:").count(), 1, "{record}");
    }
}

/// A server cuts names after 63 bytes, in a login, too: a longer one is not the database that the cut one is.
#[test]
fn a_name_that_is_too_long_is_no_other_database() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    let (kept, long) = ("n".repeat(63), "n".repeat(70));
    server.each("postgres", &[&format!("CREATE DATABASE {kept}"), "CREATE DATABASE source"]);
    server.sql(&kept, "CREATE TABLE precious (a int)");
    server.sql("source", "CREATE TABLE t (a int)");
    repo.ok(["backup", &format!("{}/source", server.url())]);
    let databases = "SELECT string_agg(datname || oid, ' ' ORDER BY datname) FROM pg_database";
    let before = server.sql("postgres", databases);
    let characters = "%C3%A9".repeat(32);
    for name in [&long, &"n".repeat(64), &characters] {
        let to = format!("{}/{name}", server.url());
        let by_parameter = format!("{}/?dbname={name}", server.url());
        for url in [&to, &by_parameter] {
            for more in [&[][..], &["--replace"], &["--dry-run"], &["--replace", "--table", "t"]] {
                let text = repo.fails(2, [&["restore", "latest", "--to", url][..], more].concat());
                assert!(text.contains("cuts names after 63 bytes"), "{text}");
            }
        }
        let text = repo.fails(25, ["backup", &to]);
        assert!(text.contains("cuts names after 63 bytes"), "{text}");
    }
    let text = repo.fails(2, ["restore", "latest", "--to", &server.url(), "--database", &long, "--replace"]);
    assert!(text.contains("the name has 70 bytes"), "{text}");
    assert_eq!(server.sql("postgres", databases), before);
    // The longest is taken.
    repo.ok(["restore", "latest", "--to", &format!("{}/{kept}", server.url()), "--replace"]);
    assert_eq!(server.sql(&kept, "SELECT count(*) FROM t"), "0");
}
