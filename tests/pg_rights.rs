//! What a role that is no superuser cannot restore into PostgreSQL is found before anything is touched; what `--no-owner`
//! leaves out opens nothing; and partitions that a dump lacks are named before they go.

use crate::harness::Repo;
use crate::pg::{Postgres, VERSIONS, bin};
use crate::pgr_databases::dumped_whole;

#[test]
fn rights_that_are_missing_are_found_first() {
    for &version in VERSIONS {
        let path = format!("{}:{}", bin(version).display(), std::env::var("PATH").unwrap());
        let repo = Repo::new().with("PATH", &path);
        let server = Postgres::version(&repo, version, "pg", &[]);
        server.each(
            "postgres",
            &[
                "CREATE ROLE boss",
                "CREATE ROLE plain LOGIN CREATEDB PASSWORD 'x'",
                "CREATE DATABASE source OWNER boss",
            ],
        );
        server.sql("source", "CREATE TABLE t AS SELECT 1 AS a; ALTER TABLE t OWNER TO boss; CREATE INDEX ON t (a); GRANT SELECT ON t TO PUBLIC");
        repo.ok(["backup", &format!("{}/source", server.url())]);
        let state = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database";
        let before = server.sql("postgres", state);
        let url = format!("{}/copy", server.url().replace("postgres:sesame", "plain:x"));
        let text = repo.fails(1, ["restore", "latest", "--to", &url]);
        for word in ["role 'plain'", "to its owners: boss;", "--no-owner", "nothing was changed"] {
            assert!(text.contains(word), "{version} {word}: {text}");
        }
        assert_eq!(server.sql("postgres", state), before);
        // One that may not act for it, or not become it.
        if version >= 16 {
            for option in ["INHERIT FALSE", "SET FALSE"] {
                server.sql("postgres", &format!("GRANT boss TO plain WITH {option}"));
                let text = repo.fails(1, ["restore", "latest", "--to", &url]);
                assert!(text.contains("to its owners: boss;"), "{option}: {text}");
                server.sql("postgres", "REVOKE boss FROM plain");
            }
        }
        server.sql("postgres", "GRANT boss TO plain");
        repo.ok(["restore", "latest", "--to", &url]);
        assert_eq!(dumped_whole(&server, "copy"), dumped_whole(&server, "source"), "{version}");
        // In place of the one that is there, too.
        server.sql("copy", "CREATE TABLE later (a int)");
        repo.ok(["restore", "latest", "--to", &url, "--replace"]);
        assert_eq!(dumped_whole(&server, "copy"), dumped_whole(&server, "source"), "{version}");
        server.sql("postgres", "DROP DATABASE copy");
        // Not in place of one that is another's.
        server.sql("postgres", "CREATE DATABASE copy; ");
        server.sql("copy", "CREATE TABLE mine (a int)");
        let text = repo.fails(1, ["restore", "latest", "--to", &url, "--replace"]);
        assert!(text.contains("we are not its owner"), "{text}");
        server.sql("postgres", "DROP DATABASE copy");
        // What only superusers make, whoever it is for.
        for (made, gone, word) in [
            (
                "CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER ev ON sql_drop EXECUTE FUNCTION e()",
                "DROP EVENT TRIGGER ev; DROP FUNCTION e()",
                "EVENT TRIGGER ev",
            ),
            (
                "CREATE FUNCTION inner_one(bigint) RETURNS bigint LANGUAGE internal IMMUTABLE AS 'int8up'",
                "DROP FUNCTION inner_one(bigint)",
                "FUNCTION inner_one(bigint)",
            ),
            ("CREATE FOREIGN DATA WRAPPER w", "DROP FOREIGN DATA WRAPPER w", "FOREIGN DATA WRAPPER w"),
            ("CREATE PUBLICATION p FOR ALL TABLES", "DROP PUBLICATION p", "PUBLICATION p"),
        ] {
            server.sql("source", made);
            repo.ok(["backup", &format!("{}/source", server.url())]);
            let text = repo.fails(1, ["restore", "latest", "--to", &url, "--no-owner"]);
            assert!(text.contains("only superusers make") && text.contains(word), "{version} {text}");
            assert_eq!(server.sql("postgres", state), before);
            server.sql("source", gone);
        }
    }
}

#[test]
fn without_owners_nothing_opens() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.each(
        "postgres",
        &[
            "CREATE ROLE grp",
            "CREATE ROLE stranger LOGIN PASSWORD 'x'",
            "CREATE DATABASE source",
            "REVOKE ALL ON DATABASE source FROM PUBLIC",
            "GRANT CONNECT ON DATABASE source TO grp",
        ],
    );
    server.sql("source", "CREATE SCHEMA s; CREATE FUNCTION s.\"fü\"(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; \
        REVOKE ALL ON FUNCTION s.\"fü\" FROM PUBLIC; GRANT ALL ON FUNCTION s.\"fü\" TO grp; \
        CREATE TYPE s.y AS ENUM ('a'); REVOKE ALL ON TYPE s.y FROM PUBLIC; REVOKE USAGE ON SCHEMA public FROM PUBLIC; \
        CREATE TABLE s.t (a int); GRANT SELECT ON s.t TO grp; REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC; \
        ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC");
    let rights = "SELECT has_database_privilege('stranger', current_database(), 'CONNECT'), has_database_privilege('stranger', current_database(), 'TEMP'), \
        has_function_privilege('stranger', 's.\"fü\"(int)', 'EXECUTE'), has_type_privilege('stranger', 's.y', 'USAGE'), \
        has_schema_privilege('stranger', 'public', 'USAGE'), has_language_privilege('stranger', 'plpgsql', 'USAGE')";
    assert_eq!(server.sql("source", rights), "f|f|f|f|f|f");
    for format in ["directory", "custom"] {
        repo.ok(["backup", &format!("{}/source", server.url()), "-o", &format!("postgres.format={format}")]);
        server.sql("postgres", "CREATE DATABASE empty");
        for into in ["copy", "empty"] {
            let url = format!("{}/{into}", server.url());
            let report = repo.json(["restore", "latest", "--to", &url, "--no-owner"]);
            assert_eq!(server.sql(into, rights), "f|f|f|f|f|f", "{format} {into}");
            assert!(report["notes"].to_string().contains("default privileges"), "{report}");
            // Nobody else gets anything.
            assert_eq!(
                server.sql(into, "SELECT count(*) FROM pg_class WHERE relname = 't' AND relacl IS NOT NULL"),
                "0"
            );
            assert_eq!(
                server.sql(into, "SELECT has_function_privilege('grp', 's.\"fü\"(int)', 'EXECUTE')"),
                "f"
            );
            repo.ok(["restore", "latest", "--to", &url, "--no-owner", "--table", "s.t", "--replace"]);
            server.sql("postgres", &format!("DROP DATABASE {into}"));
        }
    }
}

#[test]
fn partitions_that_the_dump_lacks_are_named() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", "CREATE SCHEMA s; CREATE TABLE pt (a int) PARTITION BY RANGE (a); CREATE TABLE p1 PARTITION OF pt FOR VALUES FROM (0) TO (10); INSERT INTO pt VALUES (1)");
    let url = format!("{}/shop", server.url());
    repo.ok(["backup", &url]);
    server.sql("shop", "CREATE TABLE s.\"P 2\" PARTITION OF pt FOR VALUES FROM (10) TO (20) PARTITION BY LIST (a); CREATE TABLE p3 PARTITION OF s.\"P 2\" FOR VALUES IN (15); INSERT INTO pt VALUES (15)");
    let before = dumped_whole(&server, "shop");
    let table = ["restore", "latest", "--to", &url, "--replace", "--table", "pt"];
    for more in [&[][..], &["-n"], &["--table", "p3"]] {
        let text = repo.fails(1, table.iter().chain(more));
        assert!(text.contains("s.P 2") && text.contains("DETACH PARTITION \"s\".\"P 2\""), "{text}");
        assert_eq!(dumped_whole(&server, "shop"), before);
    }
    // A name that is nothing stays one.
    let text = repo.fails(1, table.iter().chain(&["--table", "s.P 2", "--table", "p3", "--table", "p4"]));
    assert!(text.contains("there is no table 'p4' in the dump"), "{text}");
    let named = ["--table", "s.P 2", "--table", "p3"];
    let report = repo.json(table.iter().chain(&named).chain(&["-n"]));
    for list in [&report["plan"], &report["notes"]] {
        assert!(list.to_string().contains("public.p3") && list.to_string().contains("s.P 2"), "{report}");
    }
    assert_eq!(dumped_whole(&server, "shop"), before);
    // One that is detached is kept.
    server.sql("shop", "ALTER TABLE s.\"P 2\" DETACH PARTITION p3");
    let report = repo.json(table.iter().chain(&named[..2]));
    assert!(report["notes"].to_string().contains("partition s.P 2 goes with table public.pt"), "{report}");
    assert_eq!(
        server.sql(
            "shop",
            "SELECT (SELECT count(*) FROM pt), (SELECT count(*) FROM p3), to_regclass('s.\"P 2\"') IS NULL"
        ),
        "1|1|t"
    );
}
