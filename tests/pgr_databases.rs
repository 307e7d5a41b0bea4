//! What a PostgreSQL database is as a whole (owner, who may connect, settings, locale) comes back with it, whichever name
//! it gets; and a whole cluster comes back by the hand of a role that it has, too.

use crate::harness::Repo;
use crate::pg::{Postgres, expect_success};
use std::sync::atomic::{AtomicBool, Ordering};

/// `pg_dump -C` without what differs by run, and with `@` for the name.
pub(crate) fn dumped_whole(server: &Postgres, name: &str) -> String {
    let output = server.program("pg_dump").args(["-C", "-d", name]).output().unwrap();
    expect_success(&output);
    let text = String::from_utf8_lossy(&output.stdout).replace(name, "@");
    let lines = text.lines().filter(|line| !line.contains("restrict ") && !line.starts_with("\\connect"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// A database with everything that belongs to one, and a text that looks like the statement before it.
const PROPERTIES: &[&str] = &[
    "CREATE ROLE app LOGIN PASSWORD 'x'",
    "CREATE ROLE \"we!rd \"\"role\" CREATEDB",
    "CREATE DATABASE propsdb OWNER app",
    "ALTER DATABASE propsdb SET work_mem = '7MB'",
    "ALTER DATABASE propsdb SET default_transaction_read_only = on",
    "ALTER DATABASE propsdb SET search_path = evil, public",
    "ALTER DATABASE propsdb SET a.b = 'ON DATABASE shop; ''quoted\" -- \\ x'",
    "ALTER ROLE app IN DATABASE propsdb SET work_mem = '9MB'",
    "ALTER DATABASE propsdb CONNECTION LIMIT 30",
    "REVOKE ALL ON DATABASE propsdb FROM PUBLIC",
    "GRANT CONNECT ON DATABASE propsdb TO \"we!rd \"\"role\" WITH GRANT OPTION",
    "COMMENT ON DATABASE propsdb IS E'line\\nCOMMENT ON DATABASE other IS ''x'';'",
];

fn fill(server: &Postgres) {
    PROPERTIES.iter().for_each(|sql| drop(server.sql("postgres", sql)));
    let read_write = "SET TRANSACTION READ WRITE;";
    server.sql("propsdb", &format!("{read_write} CREATE SCHEMA evil AUTHORIZATION app; CREATE TABLE public.t AS SELECT i, md5(i::text) m FROM generate_series(1, 200000) i"));
    server.sql("propsdb", &format!("{read_write} ALTER TABLE public.t OWNER TO app; CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'"));
}

#[test]
fn a_database_keeps_what_it_was_given_under_every_name() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    fill(&server);
    let wanted = dumped_whole(&server, "propsdb");
    let target = Postgres::version(&repo, 15, "target", &[]);
    for role in PROPERTIES.iter().filter(|sql| sql.starts_with("CREATE ROLE")) {
        target.sql("postgres", role);
    }
    target.sql("postgres", "CREATE ROLE stranger LOGIN PASSWORD 'x'");
    for format in ["directory", "custom"] {
        repo.ok(["backup", &format!("{}/propsdb", server.url()), "-o", &format!("postgres.format={format}")]);
        // New; in place of one that is there; under another name; into one that is there and empty, with its own ways.
        repo.ok(["restore", "latest", "--to", &target.url()]);
        assert_eq!(dumped_whole(&target, "propsdb"), wanted, "{format}");
        target.sql(
            "propsdb",
            "SET TRANSACTION READ WRITE; DELETE FROM public.t; CREATE TABLE public.later (x int)",
        );
        target.sql("postgres", "ALTER DATABASE propsdb SET work_mem = '1MB'; ALTER DATABASE propsdb IS_TEMPLATE true; GRANT ALL ON DATABASE propsdb TO stranger");
        repo.ok(["restore", "latest", "--to", &target.url(), "--replace"]);
        assert_eq!(dumped_whole(&target, "propsdb"), wanted, "{format}");
        repo.ok(["restore", "latest", "--to", &format!("{}/copydb", target.url()), "--database", "propsdb"]);
        assert_eq!(dumped_whole(&target, "copydb"), wanted, "{format}");
        for made in
            ["", "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'", "CONNECTION LIMIT 5 IS_TEMPLATE true"]
        {
            target.sql("postgres", &format!("CREATE DATABASE emptydb TEMPLATE template0 {made}"));
            for sql in [
                "GRANT ALL ON DATABASE emptydb TO stranger WITH GRANT OPTION",
                "ALTER DATABASE emptydb SET lock_timeout = 5",
                "ALTER ROLE stranger IN DATABASE emptydb SET work_mem = '1MB'",
                "COMMENT ON DATABASE emptydb IS 'mine'",
            ] {
                target.sql("postgres", sql);
            }
            repo.ok(["restore", "latest", "--to", &format!("{}/emptydb", target.url())]);
            assert_eq!(dumped_whole(&target, "emptydb"), wanted, "{format} {made}");
            target.sql("postgres", "DROP DATABASE emptydb");
        }
        target.sql("postgres", "DROP DATABASE copydb; ");
        target.sql("postgres", "DROP DATABASE propsdb");
        // Without owners and privileges, settings and comment come all the same, and what was closed stays closed.
        repo.ok(["restore", "latest", "--to", &target.url(), "--no-owner"]);
        let mine = "SELECT pg_get_userbyid(datdba), has_database_privilege('stranger', oid, 'CONNECT'), datconnlimit FROM pg_database WHERE datname = 'propsdb'";
        assert_eq!(target.sql("postgres", mine), "postgres|f|30");
        target.sql("postgres", "DROP DATABASE propsdb");
    }
    let databases = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database";
    assert_eq!(target.sql("postgres", databases), "postgres template0 template1");
    // A dump that does not tell leaves it as it is, and says so.
    repo.ok(["backup", &format!("{}/propsdb", server.url()), "-o", "postgres.format=plain"]);
    let report = repo.json(["restore", "latest", "--to", &target.url()]);
    assert!(report["notes"].to_string().contains("does not tell"), "{report}");
    let count = "SELECT count(*), count(m) FROM t";
    assert_eq!(target.sql("propsdb", count), "200000|200000");
}

#[test]
fn a_database_is_never_open_wider_than_the_dump_says() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    fill(&server);
    server.sql("postgres", "CREATE ROLE stranger LOGIN PASSWORD 'x'");
    repo.ok(["backup", &format!("{}/propsdb", server.url())]);
    let url = server.url();
    for (database, replace) in [("propsdb", true), ("copydb", false), ("emptydb", false)] {
        if database == "emptydb" {
            server.sql("postgres", "CREATE DATABASE emptydb; ");
            server.sql("postgres", "REVOKE ALL ON DATABASE emptydb FROM PUBLIC");
        }
        let done = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let mut looks = 0;
                // It may be looked at while it is dropped.
                let open = "SELECT bool_or(datallowconn AND has_database_privilege('stranger', oid, 'CONNECT')) FROM pg_database \
                    WHERE datname IN ('propsdb', 'copydb', 'emptydb') OR datname LIKE 'esker%'";
                while !done.load(Ordering::Relaxed) {
                    assert_ne!(server.try_sql("postgres", open).as_deref(), Some("t"), "{database}");
                    looks += 1;
                }
                looks
            });
            let into = format!("{url}/{database}");
            let mut args = vec!["restore", "latest", "--to", &into];
            args.extend(replace.then_some("--replace"));
            repo.ok(args);
            done.store(true, Ordering::Relaxed);
            looks.join().unwrap()
        });
        assert!(seen > 5, "{database}: looked {seen} times");
    }
}

/// What could break or redirect a session, on the role itself.
const SETTINGS: &[&str] = &[
    "default_transaction_read_only = on",
    "search_path = evil, pg_catalog",
    "role = clerk",
    "statement_timeout = 50",
    "lock_timeout = 1",
    "session_preload_libraries = 'auto_explain'",
    "array_nulls = off",
    "DateStyle = 'German'",
];

#[test]
fn the_role_that_restores_is_left_as_it_is() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server
        .sql("postgres", "CREATE ROLE clerk LOGIN PASSWORD 'c' VALID UNTIL '2030-01-01' CONNECTION LIMIT 3");
    server.sql("postgres", "CREATE ROLE dumper SUPERUSER LOGIN PASSWORD 'd'");
    server.sql("postgres", "CREATE DATABASE shop OWNER clerk");
    server.sql("shop", "CREATE TABLE t AS SELECT i, ARRAY[NULL, 'x'] a, now() w FROM generate_series(1, 200000) i; ALTER TABLE t OWNER TO clerk; CREATE INDEX ON t (i)");
    server.sql("shop", "CREATE SCHEMA evil; CREATE TABLE evil.pg_database (datname text)");
    server.sql(
        "postgres",
        "GRANT clerk TO postgres; COMMENT ON ROLE clerk IS E'it\\n\\\\! touch PROOF\\n\\\\connect evil\\n'",
    );
    let change = |server: &Postgres, change: &str| {
        let mut psql = server.program("psql");
        psql.env(
            "PGOPTIONS",
            "-c default_transaction_read_only=off -c role=none -c statement_timeout=0 -c lock_timeout=0",
        );
        expect_success(&psql.args(["-XAtq", "-d", "postgres", "-c", change]).output().unwrap());
    };
    let target = Postgres::version(&repo, 15, "target", &[]);
    // On the target, too, there is such a role.
    target.sql("postgres", "CREATE ROLE clerk; CREATE SCHEMA evil");
    target.sql("postgres", "DROP SCHEMA evil");
    for setting in SETTINGS {
        change(&server, &format!("ALTER ROLE postgres SET {setting}"));
        change(&target, &format!("ALTER ROLE postgres SET {setting}"));
    }
    change(&server, "ALTER ROLE postgres PASSWORD 'source' CONNECTION LIMIT 1 VALID UNTIL '2000-01-01'");
    repo.ok(["backup", &server.url().replace("postgres:sesame", "dumper:d")]);
    let report = repo.json(["restore", "latest", "--to", &target.url()]);
    assert!(
        report["notes"].to_string().contains("role 'postgres', which restores, keeps its password"),
        "{report}"
    );
    // The old password still opens it, and nothing of it has changed but its settings, which came last.
    let role = "SELECT rolconnlimit, rolvaliduntil, rolsuper, rolcanlogin, cardinality(rolconfig) FROM pg_roles WHERE rolname = 'postgres'";
    assert_eq!(target.sql("postgres", role), format!("-1||t|t|{}", SETTINGS.len()));
    let clerk = "SELECT rolconnlimit, rolcanlogin, rolvaliduntil IS NOT NULL, shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = 'clerk'";
    assert_eq!(target.sql("postgres", clerk), "3|t|t|it\n\\! touch PROOF\n\\connect evil");
    assert!(target.sql("postgres", "SELECT pg_has_role('postgres', 'clerk', 'MEMBER')") == "t");
    let dump = |server: &Postgres, user: &str, password: &str| {
        let mut dump = server.program("pg_dump");
        dump.env("PGUSER", user)
            .env("PGPASSWORD", password)
            .env("PGOPTIONS", "-c role=none -c statement_timeout=0 -c lock_timeout=0");
        let output = dump.args(["-d", "shop"]).output().unwrap();
        expect_success(&output);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines()
            .filter(|line| !line.contains("restrict "))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    assert!(dump(&server, "dumper", "d") == dump(&target, "dumper", "d"));
    assert!(!repo.path("PROOF").exists());
}

/// template1, postgres and templates of one's own come back into a new cluster, whose own two have another locale.
#[test]
fn templates_come_back_into_a_new_cluster() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql(
        "template1",
        "CREATE TABLE in_template1 (a int); INSERT INTO in_template1 VALUES (1); CREATE EXTENSION hstore",
    );
    server.sql(
        "template1",
        "COMMENT ON DATABASE template1 IS 'ours'; ALTER DATABASE template1 SET work_mem = '5MB'",
    );
    server
        .sql("postgres", "CREATE TABLE in_postgres (a int); REVOKE CONNECT ON DATABASE postgres FROM PUBLIC");
    server.sql("postgres", "CREATE DATABASE my_template IS_TEMPLATE true; ");
    server.sql(
        "postgres",
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    );
    server.sql(
        "postgres",
        "CREATE ROLE \"rôle\"; COMMENT ON DATABASE latin IS 'Größe'; ALTER DATABASE latin OWNER TO \"rôle\"",
    );
    let mut psql = server.program("psql");
    psql.env("PGCLIENTENCODING", "UTF8").args(["-Xq", "-d", "latin", "-c"]);
    psql.arg("CREATE TABLE \"tâble\" AS SELECT 'é'::text x");
    expect_success(&psql.output().unwrap());
    // Names of roles are the cluster's, whose bytes a database in LATIN1 takes for its own.
    server.sql(
        "latin",
        "DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE %I OWNER TO %I', relname, 'rôle') FROM pg_class WHERE relname LIKE 't%ble'); END $$",
    );
    repo.ok(["backup", &server.url()]);
    let target = Postgres::version(&repo, 15, "target", &[]);
    target.sql(
        "postgres",
        "CREATE DATABASE plain TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' IS_TEMPLATE true",
    );
    // As if initdb had been given another locale.
    target.sql("template1", "ALTER DATABASE postgres RENAME TO other");
    target.sql("template1", "ALTER DATABASE plain RENAME TO postgres");
    target.sql("postgres", "DROP DATABASE other");
    for round in 0..2 {
        let mut args = vec!["restore".to_owned(), "latest".into(), "--to".into(), target.url()];
        if round > 0 {
            let text = repo.fails(1, &args);
            assert!(text.contains("is not empty"), "{text}");
            target.sql("template1", "DELETE FROM in_template1");
            args.push("--replace".into());
        }
        repo.ok(args);
        for name in ["template1", "postgres", "my_template", "latin"] {
            assert_eq!(dumped_whole(&target, name), dumped_whole(&server, name), "{round} {name}");
        }
        assert_eq!(target.globals(), server.globals());
        target.sql("postgres", "CREATE DATABASE fresh");
        assert_eq!(target.sql("fresh", "SELECT count(*) FROM in_template1"), "1");
        target.sql("postgres", "DROP DATABASE fresh");
    }
    repo.ok([
        "restore",
        "latest",
        "--to",
        &format!("{}/latin", target.url()),
        "--database",
        "latin",
        "--table",
        "tâble",
        "--replace",
    ]);
    assert_eq!(dumped_whole(&target, "latin"), dumped_whole(&server, "latin"));
}
