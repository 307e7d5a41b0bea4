//! `restore --as-owner`: what a PostgreSQL database's users wrote does not run as the superuser who restores it.

use crate::harness::Repo;
use crate::pg::{Postgres, VERSIONS, bin, expect_success};
use crate::pgr_databases::dumped_whole;

/// Whatever the function can be led to do with a superuser's rights, it does, and in every way that runs when rows come back.
const HOSTILE: &str = "CREATE SCHEMA s; \
    CREATE FUNCTION s.evil() RETURNS bool LANGUAGE plpgsql AS $$ BEGIN \
        BEGIN EXECUTE 'RESET SESSION AUTHORIZATION'; EXCEPTION WHEN OTHERS THEN NULL; END; \
        BEGIN EXECUTE 'RESET ROLE'; EXCEPTION WHEN OTHERS THEN NULL; END; \
        BEGIN EXECUTE 'CREATE ROLE evil SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END; \
        BEGIN EXECUTE 'CREATE FUNCTION s.door() RETURNS text LANGUAGE sql SECURITY DEFINER AS ''SELECT current_user::text'''; EXCEPTION WHEN OTHERS THEN NULL; END; \
        RETURN true; END $$; \
    CREATE DOMAIN s.d AS int CHECK (s.evil()); \
    CREATE FUNCTION s.gen(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN PERFORM s.evil(); RETURN $1; END'; \
    CREATE TABLE s.t (a int CHECK (s.evil()), b s.d, c int GENERATED ALWAYS AS (s.gen(a)) STORED); \
    INSERT INTO s.t VALUES (1, 2); CREATE INDEX ON s.t (s.gen(a)); CREATE MATERIALIZED VIEW s.m AS SELECT s.gen(a) FROM s.t; \
    CREATE TABLE public.p (a int CHECK (s.evil())); INSERT INTO public.p VALUES (1); \
    CREATE TABLE s.r (a int); ALTER TABLE s.r ENABLE ROW LEVEL SECURITY; INSERT INTO s.r VALUES (1); \
    DROP FUNCTION s.door(); \
    CREATE EXTENSION hstore; COMMENT ON EXTENSION hstore IS 'pairs'; SELECT lo_from_bytea(7, 'x')";

#[test]
fn what_users_wrote_runs_with_their_own_rights() {
    for &version in VERSIONS {
        let path = format!("{}:{}", bin(version).display(), std::env::var("PATH").unwrap());
        let repo = Repo::new().with("PATH", &path);
        let server = Postgres::version(&repo, version, "pg", &[]);
        server.each(
            "postgres",
            &["CREATE ROLE mallory LOGIN PASSWORD 'm'", "CREATE DATABASE vdb OWNER mallory"],
        );
        let mut psql = server.program("psql");
        psql.env("PGUSER", "mallory").env("PGPASSWORD", "m").args([
            "-d",
            "vdb",
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
        ]);
        expect_success(&psql.args(["-c", HOSTILE]).output().unwrap());
        repo.ok(["backup", &format!("{}/vdb", server.url())]);
        // The superuser is what makes it dangerous.
        let copy = format!("{}/copy", server.url());
        repo.ok(["restore", "latest", "--to", &copy]);
        assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'evil'"), "1");
        server.each("postgres", &["DROP DATABASE copy", "DROP ROLE evil"]);
        let roles = server.sql("postgres", "SELECT string_agg(rolname, ' ' ORDER BY 1) FROM pg_roles");
        let wanted = dumped_whole(&server, "vdb");
        for prepared in ["", "CREATE DATABASE copy", "CREATE TABLE later (a int)"] {
            let is_there = prepared.starts_with("CREATE TABLE");
            if !prepared.is_empty() {
                server.sql(if is_there { "copy" } else { "postgres" }, prepared);
            }
            let mut args = vec!["restore", "latest", "--to", &copy, "--as-owner"];
            args.extend(is_there.then_some("--replace"));
            repo.ok(args);
            assert_eq!(
                server.sql("postgres", "SELECT string_agg(rolname, ' ' ORDER BY 1) FROM pg_roles"),
                roles
            );
            // It could make something, as the owner could: that is the owner's.
            server.sql("copy", "DROP FUNCTION IF EXISTS s.door()");
            assert_eq!(server.sql("copy", "SELECT count(*) FROM pg_proc WHERE pronamespace = 's'::regnamespace AND pg_get_userbyid(proowner) <> 'mallory'"), "0");
            assert_eq!(dumped_whole(&server, "copy"), wanted, "{version} {prepared}");
            assert_eq!(
                server.sql(
                    "copy",
                    "SELECT pg_get_userbyid(extowner) FROM pg_extension WHERE extname = 'hstore'"
                ),
                "mallory"
            );
            if prepared.is_empty() {
                server.sql("postgres", "DROP DATABASE copy");
            }
        }
        // Single tables.
        server.sql("copy", "DELETE FROM public.p");
        repo.ok(["restore", "latest", "--to", &copy, "--as-owner", "--table", "p", "--replace"]);
        server.sql("copy", "DROP FUNCTION IF EXISTS s.door()");
        assert_eq!(dumped_whole(&server, "copy"), wanted);
        assert_eq!(server.sql("postgres", "SELECT string_agg(rolname, ' ' ORDER BY 1) FROM pg_roles"), roles);

        // Where it takes nothing away, or not all can be made, nothing is touched.
        for (made, gone, word) in [
            ("CREATE TABLE x (a int)", "DROP TABLE x", "several: mallory, postgres"),
            (
                "CREATE FUNCTION e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; ALTER FUNCTION e() OWNER TO mallory; CREATE EVENT TRIGGER ev ON sql_drop EXECUTE FUNCTION e()",
                "DROP EVENT TRIGGER ev; DROP FUNCTION e()",
                "only superusers make what is in the dump: EVENT TRIGGER ev",
            ),
            (
                "CREATE FUNCTION n(bigint) RETURNS bigint LANGUAGE internal IMMUTABLE AS 'int8up'; ALTER FUNCTION n(bigint) OWNER TO mallory",
                "DROP FUNCTION n(bigint)",
                "the dump's owner is no superuser, and only superusers make what is in the dump: FUNCTION n(bigint)",
            ),
        ] {
            server.sql("vdb", made);
            repo.ok(["backup", &format!("{}/vdb", server.url())]);
            let text = repo.fails(1, ["restore", "latest", "--to", &copy, "--as-owner", "--replace"]);
            assert!(text.contains(word), "{text}");
            server.sql("vdb", gone);
            assert_eq!(
                server.sql("postgres", "SELECT string_agg(rolname, ' ' ORDER BY 1) FROM pg_roles"),
                roles
            );
        }
        repo.ok(["backup", &format!("{}/vdb", server.url())]);
        server.sql("postgres", "CREATE ROLE admins SUPERUSER; GRANT admins TO mallory");
        let text = repo.fails(1, ["restore", "latest", "--to", &copy, "--as-owner", "--replace"]);
        assert!(text.contains("can become one"), "{text}");
        assert_eq!(dumped_whole(&server, "copy"), wanted);
    }
}

#[test]
fn a_role_that_a_kill_left_is_dropped() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.each("postgres", &["CREATE ROLE app", "CREATE DATABASE small OWNER app"]);
    server.sql("small", "CREATE TABLE t (a int); ALTER TABLE t OWNER TO app");
    repo.ok(["backup", &format!("{}/small", server.url())]);
    let mark = "esker restore 0123456789abcdef of 2026-01-01T00:00:00Z: unfinished, database app";
    for (name, mark) in [("esker_restore_0123456789abcdef_0", mark), ("esker_restore_0123456789abcdef_1", "")]
    {
        server.sql("postgres", &format!("CREATE ROLE {name}; COMMENT ON ROLE {name} IS '{mark}'"));
    }
    let report = repo.json(["restore", "latest", "--to", &format!("{}/copy", server.url())]);
    let notes = report["notes"].to_string();
    assert!(notes.contains("dropped role 'esker_restore_0123456789abcdef_0'"), "{notes}");
    let left =
        server.sql("postgres", "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolname LIKE 'esker%'");
    assert_eq!(left, "esker_restore_0123456789abcdef_1");
}
