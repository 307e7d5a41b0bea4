//! What a restore into PostgreSQL takes for empty, and what `--replace` does to what is there.

use crate::harness::Repo;
use crate::pg::{Postgres, VERSIONS, bin};
use crate::pg_jobs::lines;
use crate::pgr_databases::dumped_whole;

/// One object of a kind, and how many that is: what it cannot be without counts, what is its own does not.
const ALONE: &[(&str, u64)] = &[
    ("CREATE TABLE x ()", 1),
    ("CREATE TABLE x (i int, t text, PRIMARY KEY (i), UNIQUE (t))", 1),
    ("CREATE TABLE x (i int, j int GENERATED ALWAYS AS (i + 1) STORED)", 1),
    ("CREATE TABLE x (i int GENERATED ALWAYS AS IDENTITY, s serial)", 1),
    ("CREATE TABLE x (i int PRIMARY KEY, of int REFERENCES x, CHECK (i > of))", 1),
    ("CREATE UNLOGGED TABLE x (i int)", 1),
    ("CREATE TABLE x (i int) PARTITION BY LIST (i)", 1),
    ("CREATE TABLE x (i int) PARTITION BY LIST ((i + 1))", 1),
    (
        "CREATE TABLE x (i int PRIMARY KEY) PARTITION BY HASH (i); CREATE TABLE x0 PARTITION OF x FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        1,
    ),
    (
        "CREATE TABLE x (i int, j int) PARTITION BY RANGE (i); CREATE TABLE x0 PARTITION OF x DEFAULT PARTITION BY LIST (j); CREATE TABLE x1 PARTITION OF x0 DEFAULT",
        1,
    ),
    ("CREATE TABLE x (i int); CREATE TABLE y () INHERITS (x)", 2),
    ("CREATE TABLE x (i int, j int); CREATE STATISTICS s ON i, j FROM x; CREATE INDEX ON x ((i + j))", 1),
    (
        "CREATE TABLE x (i int); ALTER TABLE x ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON x USING (i > 0); CREATE RULE r AS ON INSERT TO x DO NOTHING",
        1,
    ),
    ("CREATE VIEW x AS SELECT 1", 1),
    ("CREATE RECURSIVE VIEW x (i) AS SELECT 1 UNION SELECT i FROM x", 1),
    ("CREATE MATERIALIZED VIEW x AS SELECT 1", 1),
    ("CREATE SEQUENCE x", 1),
    ("CREATE FUNCTION x() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'", 1),
    ("CREATE FUNCTION x(int) RETURNS int LANGUAGE sql RETURN $1 + 1", 1),
    (
        "CREATE FUNCTION x() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'; ALTER FUNCTION x() DEPENDS ON EXTENSION plpgsql",
        1,
    ),
    (
        "CREATE FUNCTION x() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'; ALTER EXTENSION plpgsql ADD FUNCTION x()",
        1,
    ),
    ("CREATE PROCEDURE x() LANGUAGE sql AS 'SELECT 1'", 1),
    ("CREATE AGGREGATE x (int) (sfunc = int4pl, stype = int)", 1),
    ("CREATE TYPE x", 1),
    ("CREATE TYPE x AS ENUM ('a')", 1),
    ("CREATE TYPE x AS (a int)", 1),
    ("CREATE TYPE x AS RANGE (subtype = float8)", 1),
    ("CREATE DOMAIN x AS int CHECK (VALUE > 0)", 1),
    ("CREATE OPERATOR === (leftarg = int, rightarg = int, function = int4eq)", 1),
    ("CREATE OPERATOR FAMILY x USING btree", 1),
    (
        "CREATE OPERATOR CLASS x FOR TYPE int USING btree AS OPERATOR 1 <, OPERATOR 3 =, FUNCTION 1 btint4cmp(int, int)",
        1,
    ),
    ("CREATE OPERATOR CLASS x FOR TYPE int USING btree FAMILY integer_ops AS STORAGE int", 1),
    ("ALTER OPERATOR FAMILY integer_ops USING btree ADD OPERATOR 1 < (float8, float8)", 1),
    ("CREATE CAST (int AS xid8) WITH INOUT", 1),
    ("CREATE TRANSFORM FOR int LANGUAGE plpgsql (FROM SQL WITH FUNCTION dsimple_init(internal))", 1),
    ("CREATE LANGUAGE x HANDLER plpgsql_call_handler", 1),
    ("CREATE ACCESS METHOD x TYPE TABLE HANDLER heap_tableam_handler", 1),
    ("CREATE COLLATION x (locale = 'C')", 1),
    ("CREATE CONVERSION x FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8", 1),
    ("CREATE SCHEMA x", 1),
    ("CREATE EXTENSION hstore", 1),
    ("CREATE EXTENSION hstore SCHEMA pg_catalog", 1),
    ("SELECT lo_create(5)", 1),
    ("CREATE FOREIGN DATA WRAPPER x", 1),
    (
        "CREATE FOREIGN DATA WRAPPER x; CREATE SERVER x FOREIGN DATA WRAPPER x; CREATE USER MAPPING FOR PUBLIC SERVER x; CREATE FOREIGN TABLE x (i int) SERVER x",
        3,
    ),
    (
        "CREATE FUNCTION x() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER x ON sql_drop EXECUTE FUNCTION x()",
        2,
    ),
    ("CREATE PUBLICATION x", 1),
    ("CREATE PUBLICATION x FOR ALL TABLES", 1),
    ("CREATE PUBLICATION x FOR TABLES IN SCHEMA public", 1),
    ("CREATE SUBSCRIPTION x CONNECTION '' PUBLICATION y WITH (connect = false)", 1),
    ("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC", 1),
    ("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC", 1),
    (
        "CREATE TEXT SEARCH PARSER x (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, lextypes = prsd_lextype)",
        1,
    ),
    ("CREATE TEXT SEARCH TEMPLATE x (init = dsimple_init, lexize = dsimple_lexize)", 1),
    ("CREATE TEXT SEARCH DICTIONARY x (template = simple)", 1),
    ("CREATE TEXT SEARCH CONFIGURATION x (parser = 'default')", 1),
];

/// Rows with a number of a user's, in whichever catalogue of a database.
const ROWS: &str = "SELECT coalesce(sum((xpath('/row/n/text()', query_to_xml(format(
        'SELECT count(*) AS n FROM pg_catalog.%I WHERE oid >= 16384', c.relname), false, true, '')))[1]::text::int), 0)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'oid'
    WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind = 'r' AND (NOT c.relisshared OR c.relname = 'pg_subscription')
    AND c.relname <> 'pg_largeobject_metadata'";

#[test]
fn one_object_of_whatever_kind_is_not_nothing() {
    // The count needs XML, which the build of 18 here lacks.
    for &version in &VERSIONS[..1] {
        let path = format!("{}:{}", bin(version).display(), std::env::var("PATH").unwrap());
        let repo = Repo::new().with("PATH", &path);
        let server = Postgres::version(&repo, version, "pg", &[]);
        server.sql("postgres", "CREATE DATABASE shop");
        server.sql("shop", "CREATE TABLE t (i int)");
        repo.ok(["backup", &format!("{}/shop", server.url())]);
        let url = format!("{}/other", server.url());
        for (made, count) in ALONE {
            server.sql("postgres", "CREATE DATABASE other");
            assert_eq!(server.sql("other", ROWS), "0");
            server.sql("other", made);
            if !made.contains("lo_create") {
                assert_ne!(server.sql("other", ROWS), "0", "{made}");
            }
            let text = repo.fails(1, ["restore", "latest", "--to", &url]);
            let objects = if *count == 1 { "object" } else { "objects" };
            assert!(
                text.contains(&format!("database 'other' is not empty ({count} {objects})")),
                "{version}: {made}: {text}"
            );
            if made.contains("SUBSCRIPTION") {
                server.sql("other", "ALTER SUBSCRIPTION x SET (slot_name = NONE); DROP SUBSCRIPTION x");
            } else if made.contains("PARTITION BY") {
                repo.ok(["restore", "latest", "--to", &url, "--replace"]);
                assert_eq!(dumped_whole(&server, "other"), dumped_whole(&server, "shop"));
            }
            server.sql("postgres", "DROP DATABASE other");
        }
    }
}

const PARTED: &str = "
    CREATE SCHEMA \"o\"\"dd\";
    CREATE TABLE pt (k int PRIMARY KEY, s serial UNIQUE, t text, UNIQUE (k, t)) PARTITION BY HASH (k);
    CREATE TABLE pt0 PARTITION OF pt FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE pt1 PARTITION OF pt FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE INDEX ON pt (t);
    INSERT INTO pt SELECT i, i, i FROM generate_series(1, 100) i;
    CREATE TABLE \"o\"\"dd\".\"mü\"\"l;ti\" (id bigserial PRIMARY KEY, x int CHECK (x > 0), of bigint REFERENCES \"o\"\"dd\".\"mü\"\"l;ti\");
    INSERT INTO \"o\"\"dd\".\"mü\"\"l;ti\" (x) VALUES (1), (2);
    CREATE VIEW seen AS SELECT 1 AS one;
    CREATE PUBLICATION pub FOR TABLE pt, \"o\"\"dd\".\"mü\"\"l;ti\" WHERE (id > 3);";

#[test]
fn a_table_is_replaced_with_what_is_its_own() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE shop");
    // No unique key without the key of the partitions.
    server.sql("shop", &PARTED.replace("serial UNIQUE", "serial"));
    let url = format!("{}/shop", server.url());
    let wanted = dumped_whole(&server, "shop");
    for format in ["directory", "custom"] {
        repo.ok(["backup", &url, "-o", &format!("postgres.format={format}")]);
        for (name, change) in [
            ("public.pt", "DELETE FROM pt"),
            ("public.pt", "DROP TABLE pt1; ALTER TABLE pt DETACH PARTITION pt0; INSERT INTO pt0 VALUES (-5)"),
            ("public.pt1", "TRUNCATE pt1"),
            ("public.pt1", "ALTER TABLE pt DETACH PARTITION pt1"),
            ("mü\"l;ti", "DELETE FROM \"o\"\"dd\".\"mü\"\"l;ti\""),
            ("mü\"l;ti", "ALTER PUBLICATION pub DROP TABLE \"o\"\"dd\".\"mü\"\"l;ti\""),
            ("seen", "CREATE OR REPLACE VIEW seen AS SELECT 2 AS one"),
        ] {
            server.sql("shop", change);
            let said = repo.ok(["restore", "latest", "--to", &url, "--table", name, "--replace"]);
            assert!(said.contains(&format!("restored table {name} in database 'shop'")), "{said}");
            assert!(!said.contains("restored database"), "{said}");
            assert_eq!(dumped_whole(&server, "shop"), wanted, "{format} {name} {change}");
        }
        // A publication that the dump does not know loses it, and one that is not there gets none: both are named.
        server.sql("shop", "DROP PUBLICATION pub; CREATE PUBLICATION later FOR TABLE pt");
        let report = repo.json(["restore", "latest", "--to", &url, "--table", "pt", "--replace"]);
        let notes = report["notes"].to_string();
        assert!(notes.contains("public.pt is no longer in the publication 'later'"), "{notes}");
        assert!(notes.contains("table public.pt in the publication 'pub'"), "{notes}");
        server.sql("shop", "DROP PUBLICATION later; CREATE PUBLICATION pub FOR TABLE pt, \"o\"\"dd\".\"mü\"\"l;ti\" WHERE (id > 3)");
        // What others need stays, and all is as it was.
        server.sql("shop", "CREATE VIEW on_it AS SELECT k FROM pt");
        repo.fails(1, ["restore", "latest", "--to", &url, "--table", "pt", "--replace"]);
        server.sql("shop", "DROP VIEW on_it");
        assert_eq!(dumped_whole(&server, "shop"), wanted, "{format}");
    }
}

/// A tenant puts a view in the place of his table while an administrator's backup waits for it.
#[test]
fn a_view_in_the_place_of_a_table_runs_nothing() {
    for swap in [
        "ALTER TABLE s.t RENAME TO t_old; CREATE VIEW s.t AS SELECT s.evil() AS a, '(0,1)'::tid AS ctid",
        "ALTER SCHEMA s RENAME TO s_old; CREATE SCHEMA s; CREATE VIEW s.t AS SELECT s_old.evil() AS a, '(0,1)'::tid AS ctid",
        "TRUNCATE s.t; CREATE RULE \"_RETURN\" AS ON SELECT TO s.t DO INSTEAD SELECT s.evil() AS a",
    ] {
        let repo = Repo::new();
        let server = Postgres::start(&repo);
        server.sql("postgres", "CREATE ROLE mallory LOGIN PASSWORD 'm'");
        server.sql("postgres", "CREATE DATABASE vdb OWNER mallory");
        let proof = std::env::temp_dir().join(format!("esker-pwned-{}", server.port));
        server.sql("vdb", &format!("SET ROLE mallory; CREATE SCHEMA s; CREATE TABLE s.t (a text); INSERT INTO s.t SELECT repeat(md5(i::text), 30) FROM generate_series(1, 40000) i; \
            CREATE FUNCTION s.evil() RETURNS text LANGUAGE plpgsql AS $$ BEGIN IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN \
            EXECUTE 'COPY (SELECT current_user) TO PROGRAM ''cat > {}'''; END IF; RETURN 'x'; END $$", proof.display()));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let sql = format!("SET ROLE mallory; BEGIN; LOCK TABLE s.t IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(3); {swap}; COMMIT");
                server.try_sql("vdb", &sql)
            });
            crate::harness::wait_for("the lock", 10, || {
                server.sql(
                    "postgres",
                    "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation >= 16384",
                ) != "0"
            });
            let output = repo.run(["backup", &format!("{}/vdb", server.url())]);
            assert!(!proof.exists(), "{swap}: {output:?}");
            assert!(output.status.success(), "{swap}: {output:?}");
        });
        // What was there when the tables were held is in it.
        let wanted = server.dumped("vdb");
        assert!(wanted.contains("VIEW s.t"), "{swap}");
        repo.ok(["restore", "latest", "--to", &format!("{}/copy", server.url()), "--database", "vdb"]);
        // Its rows may come in another order: they are more than one session puts in.
        assert!(lines(&server.dumped("copy")) == lines(&wanted), "{swap}");
    }
}

#[test]
fn what_cannot_be_read_replaces_nothing() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE live");
    server.sql("live", "CREATE TABLE t AS SELECT i, sha512(i::text::bytea) FROM generate_series(1, 40000) i");
    for format in ["directory", "custom"] {
        repo.ok(["backup", &format!("{}/live", server.url()), "-o", &format!("postgres.format={format}")]);
    }
    // All of the packs but their heads are lost, and what could mend them, too.
    let output = std::process::Command::new("find")
        .arg(repo.folder())
        .args(["-type", "f", "-size", "+200k", "-path", "*packs*"])
        .output()
        .unwrap();
    let packs = String::from_utf8(output.stdout).unwrap();
    assert!(!packs.is_empty());
    for pack in packs.lines() {
        let mut bytes = std::fs::read(pack).unwrap();
        let (from, to) = (bytes.len() / 4, bytes.len() * 3 / 4);
        bytes[from..to].fill(0);
        std::fs::write(pack, bytes).unwrap();
    }
    let text = repo.fails(1, ["restore", "latest", "--to", &server.url(), "--replace"]);
    assert!(text.contains("damaged"), "{text}");
    assert_eq!(server.sql("live", "SELECT count(*) FROM t"), "40000");
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'esker%'"), "0");
}
