//! Two tenants in one PostgreSQL cluster: whatever one of them names and writes, restoring a database as administrator
//! changes nothing outside of it, and nothing in a name or a text becomes a command of psql, or a statement.

use crate::harness::{Repo, expect};
use crate::pg::{Postgres, expect_success};

/// What a name or a text can hold that a reader of SQL by lines would take for something else.
const SEAMS: &[&str] = &[
    "x\n\\! touch PROOF\n",
    "x\n\\connect other\n",
    "x\r\\! touch PROOF\r",
    "x\n\\.\n\\! touch PROOF\n",
    "x\n--\n-- Name: t; Type: TABLE; Schema: public; Owner: -\n--\nALTER ROLE mallory SUPERUSER;\n",
    "x\n\\unrestrict x\n\\! touch PROOF\n",
    "x';ALTER ROLE mallory SUPERUSER;--",
    "x\";ALTER ROLE mallory SUPERUSER;--",
    "x\n--\n-- PostgreSQL database dump complete\n--\n",
    "$$;ALTER ROLE mallory SUPERUSER;$$",
    "/* x",
    "-- x",
    "x\\",
    "ON DATABASE alice_db",
];

/// Statements of a tenant that put a text wherever one can be.
fn hostile(number: usize, text: &str) -> Vec<String> {
    // Names end after 63 bytes.
    let name: String = text.chars().take(50).collect();
    let (ident, text) = (format!("{}{number}", name.replace('"', "\"\"")), text.replace('\'', "''"));
    let literal = format!("E'{}'", text.replace('\\', "\\\\"));
    let name = name.replace('\'', "''").replace('\\', "\\\\");
    let tag = format!("$body{number}$");
    vec![
        format!("CREATE SCHEMA \"s{ident}\""),
        format!("CREATE TABLE \"s{ident}\".\"t{ident}\" (\"c{ident}\" text DEFAULT {literal}, i int)"),
        format!("INSERT INTO \"s{ident}\".\"t{ident}\" VALUES ({literal}, 1)"),
        format!("CREATE INDEX \"i{ident}\" ON \"s{ident}\".\"t{ident}\" (\"c{ident}\")"),
        format!("CREATE TABLE \"p{ident}\" (i int) PARTITION BY LIST (i)"),
        format!("CREATE TABLE \"q{ident}\" PARTITION OF \"p{ident}\" FOR VALUES IN (1)"),
        format!("INSERT INTO \"p{ident}\" VALUES (1)"),
        format!("CREATE VIEW \"v{ident}\" AS SELECT {literal}::text AS \"c{ident}\""),
        format!("CREATE MATERIALIZED VIEW \"m{ident}\" AS SELECT {literal}::text AS \"c{ident}\""),
        format!("CREATE SEQUENCE \"n{ident}\""),
        format!("CREATE TYPE \"e{ident}\" AS ENUM (E'{name}')"),
        format!("CREATE DOMAIN \"d{ident}\" AS text CHECK (VALUE <> {literal})"),
        format!(
            "CREATE FUNCTION \"f{ident}\"(\"a{ident}\" text DEFAULT {literal}) RETURNS text LANGUAGE sql AS {tag}SELECT '{text}'::text{tag}"
        ),
        format!(
            "CREATE FUNCTION \"g{ident}\"() RETURNS trigger LANGUAGE plpgsql AS {tag}BEGIN\n/*\n{}*/\nRETURN NEW; END{tag}",
            text.replace("/*", "")
        ),
        format!(
            "CREATE TRIGGER \"r{ident}\" BEFORE INSERT ON \"s{ident}\".\"t{ident}\" FOR EACH ROW WHEN (NEW.i > 1) EXECUTE FUNCTION \"g{ident}\"({literal})"
        ),
        format!(
            "CREATE RULE \"u{ident}\" AS ON UPDATE TO \"s{ident}\".\"t{ident}\" DO ALSO SELECT {literal}::text"
        ),
        format!("CREATE POLICY \"y{ident}\" ON \"s{ident}\".\"t{ident}\" USING (\"c{ident}\" <> {literal})"),
        format!("CREATE STATISTICS \"z{ident}\" ON i, \"c{ident}\" FROM \"s{ident}\".\"t{ident}\""),
        format!("COMMENT ON TABLE \"s{ident}\".\"t{ident}\" IS {literal}"),
        format!("COMMENT ON COLUMN \"s{ident}\".\"t{ident}\".\"c{ident}\" IS {literal}"),
        format!("COMMENT ON DATABASE mallory_db IS {literal}"),
        format!("ALTER DATABASE mallory_db SET application_name TO {literal}"),
        format!("ALTER ROLE mallory SET application_name TO {literal}"),
        format!("CREATE ROLE \"r{ident}\""),
        format!("ALTER ROLE \"r{ident}\" SET application_name TO {literal}"),
        format!("COMMENT ON ROLE \"r{ident}\" IS {literal}"),
        format!("GRANT SELECT ON \"s{ident}\".\"t{ident}\" TO \"r{ident}\""),
    ]
}

/// Names of PostgreSQL's own, before them.
const SHADOWS: &str = "
    CREATE FUNCTION evil() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN EXECUTE 'ALTER ROLE mallory SUPERUSER'; END IF;
        RETURN true; END $$;
    CREATE FUNCTION public.evil_eq(name, text) RETURNS boolean LANGUAGE sql AS 'SELECT public.evil()';
    CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = text, FUNCTION = public.evil_eq);
    CREATE FUNCTION public.evil_gt(oid, int) RETURNS boolean LANGUAGE sql AS 'SELECT public.evil()';
    CREATE OPERATOR public.>= (LEFTARG = oid, RIGHTARG = int, FUNCTION = public.evil_gt);
    CREATE FUNCTION public.concat_ws(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT public.evil()::text';
    CREATE FUNCTION public.count() RETURNS bigint LANGUAGE sql AS 'SELECT public.evil()::int::bigint';
    CREATE FUNCTION public.to_regclass(text) RETURNS regclass LANGUAGE sql AS 'SELECT NULL::regclass FROM public.evil()';
    CREATE FUNCTION public.quote_ident(name) RETURNS text LANGUAGE sql AS 'SELECT public.evil()::text';
    CREATE TABLE public.pg_class AS SELECT public.evil();
    CREATE TABLE public.pg_database AS SELECT 1;
    CREATE FUNCTION indexed(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1';
    CREATE TABLE worked (i int);
    INSERT INTO worked VALUES (1);
    CREATE INDEX ON worked (indexed(i));
    CREATE MATERIALIZED VIEW worked_view AS SELECT public.evil() x, i FROM worked;
    CREATE OR REPLACE FUNCTION indexed(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT public.evil()::int';
    ALTER DATABASE mallory_db SET search_path = public, pg_catalog;";

fn sql_as(server: &Postgres, user: &str, database: &str, sql: &str) -> Result<(), String> {
    let mut psql = server.program("psql");
    psql.env("PGUSER", user).env("PGPASSWORD", "x");
    let output = psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql]).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn tenants(server: &Postgres) {
    server.sql("postgres", "CREATE ROLE alice LOGIN PASSWORD 'x' CREATEDB; CREATE ROLE mallory LOGIN PASSWORD 'x' CREATEDB CREATEROLE");
    for name in ["alice", "mallory"] {
        server.sql("postgres", &format!("CREATE DATABASE {name}_db OWNER {name}"));
    }
    sql_as(server, "alice", "alice_db", "CREATE TABLE t AS SELECT generate_series(1, 1000) i; CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'").unwrap();
    for (number, text) in SEAMS.iter().enumerate() {
        sql_as(server, "mallory", "mallory_db", &hostile(number, text).join(";\n")).unwrap();
    }
    // Some are names of databases, too.
    for number in [0, 4, 7] {
        let name = SEAMS[number].chars().take(50).collect::<String>().replace('"', "\"\"");
        sql_as(server, "mallory", "postgres", &format!("CREATE DATABASE \"d{name}{number}\"")).unwrap();
    }
    sql_as(server, "mallory", "mallory_db", SHADOWS).unwrap();
}

/// Everything outside of one database.
fn outside(server: &Postgres, database: &str) -> Vec<String> {
    let names = server.sql("postgres", "SELECT encode(convert_to(datname, 'UTF8'), 'hex') FROM pg_catalog.pg_database WHERE datallowconn ORDER BY 1");
    let names: Vec<String> = names
        .lines()
        .map(|hex| {
            String::from_utf8(
                (0..hex.len())
                    .step_by(2)
                    .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                    .collect(),
            )
            .unwrap()
        })
        .collect();
    let mut all = vec![server.globals()];
    for name in names.iter().filter(|name| *name != database) {
        let mut dump = server.program("pg_dump");
        // pg_dump writes no `\connect` to a name with a line break.
        dump.args((!name.contains(['\n', '\r'])).then_some("-C"))
            .arg("-d")
            .arg(format!("dbname='{}'", name.replace('\\', "\\\\").replace('\'', "\\'")));
        let output = dump.output().unwrap();
        expect_success(&output);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        all.push(
            text.lines().filter(|line| !line.contains("restrict ")).map(|line| format!("{line}\n")).collect(),
        );
    }
    all
}

fn is_super(server: &Postgres) -> String {
    server.sql("postgres", "SELECT string_agg(rolname, ',') FROM pg_catalog.pg_roles WHERE rolsuper")
}

#[test]
fn a_neighbour_stays_as_it_is() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    tenants(&server);
    for format in ["directory", "custom", "plain"] {
        repo.ok(["backup", &server.url(), "-o", &format!("postgres.format={format}")]);
        let wanted = server.dumped("alice_db");
        let hostile = server.dumped("mallory_db");
        // All is changed since.
        sql_as(&server, "alice", "alice_db", "DELETE FROM t; CREATE TABLE later (i int)").unwrap();
        sql_as(&server, "mallory", "mallory_db", &format!("CREATE TABLE later_{format} (i int)")).unwrap();
        server.sql("postgres", &format!("CREATE ROLE since_{format} LOGIN PASSWORD 'y'"));
        let before = outside(&server, "alice_db");
        repo.ok(["restore", "latest", "--to", &server.url(), "--database", "alice_db", "--replace"]);
        assert!(outside(&server, "alice_db") == before, "{format}");
        assert!(server.dumped("alice_db") == wanted, "{format}");
        let before = outside(&server, "mallory_db");
        let copy = format!("{}/mallory_db", server.url());
        repo.ok(["restore", "latest", "--to", &copy, "--database", "mallory_db", "--replace"]);
        assert!(outside(&server, "mallory_db") == before, "{format}");
        assert!(server.dumped("mallory_db") == hostile, "{format}");
        assert_eq!(is_super(&server), "postgres", "{format}");
        assert!(!repo.path("PROOF").exists(), "{format}");
    }
}

#[test]
fn a_cluster_of_hostile_tenants_comes_back() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    tenants(&server);
    for format in ["directory", "custom", "plain"] {
        repo.ok(["backup", &server.url(), "-o", &format!("postgres.format={format}")]);
        let target = Postgres::version(&repo, 15, &format!("target-{format}"), &[]);
        repo.ok(["restore", "latest", "--to", &target.url()]);
        assert_eq!(server.globals(), target.globals());
        if format != "plain" {
            assert!(outside(&server, "") == outside(&target, ""), "{format}");
        }
        assert!(server.dumped("mallory_db") == target.dumped("mallory_db"), "{format}");
        assert_eq!(is_super(&target), "postgres", "{format}");
        assert!(!repo.path("PROOF").exists(), "{format}");
    }
}

#[test]
fn a_dump_of_an_old_pg_dump_gives_psql_nothing_to_run() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE shop");
    // As pg_dump wrote it before CVE-2025-8715 was mended: a name goes into a comment as it is.
    let dump = "--\n-- PostgreSQL database dump\n--\n\nSET standard_conforming_strings = on;\n--\n-- Name: x\n\\! touch PROOF\n; Type: TABLE\n--\nCREATE TABLE public.t (i int);\n--\n-- PostgreSQL database dump complete\n--\n\n";
    let output = repo
        .feed(["backup", "--stdin", "--stdin-filename", "postgres/x/databases/shop.sql"], dump.as_bytes());
    expect(&output, 0);
    let text = repo.fails(1, ["restore", "latest", "--to", &format!("{}/copy", server.url())]);
    assert!(text.contains("command of psql") && text.contains("not run"), "{text}");
    assert!(!repo.path("PROOF").exists());
}

/// What restoring a tenant's database as superuser runs with that role's rights (a CHECK constraint's function), the
/// tenant's own login runs with the tenant's.
#[test]
fn a_tenants_database_restored_by_the_tenant_runs_nothing_as_administrator() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    tenants(&server);
    sql_as(
        &server,
        "mallory",
        "mallory_db",
        "CREATE TABLE checked (i int CHECK (public.evil())); INSERT INTO checked VALUES (1)",
    )
    .unwrap();
    repo.ok(["backup", &format!("{}/mallory_db", server.url())]);
    let own = server.url().replace("postgres:sesame", "mallory:x");
    repo.ok(["restore", "latest", "--to", &format!("{own}/back"), "--no-owner"]);
    assert_eq!(is_super(&server), "postgres");
    assert_eq!(server.sql("back", "TABLE public.checked"), "1");
}
