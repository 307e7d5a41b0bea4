//! `restore --table` of PostgreSQL where others depend on what is restored, or it depends on what is not in the dump's
//! own commands: constraints of a table that are not valid, views, foreign keys, defaults.

use crate::harness::Repo;
use crate::pg::{Postgres, VERSIONS, bin};

fn started(version: u32) -> (Repo, Postgres) {
    let path = format!("{}:{}", bin(version).display(), std::env::var("PATH").unwrap());
    let repo = Repo::new().with("PATH", &path);
    let server = Postgres::version(&repo, version, "server", &[]);
    server.sql("postgres", "CREATE DATABASE shop");
    (repo, server)
}

/// The constraints of all tables, as the catalogue has them.
const CONSTRAINTS: &str = "SELECT conrelid::regclass::text, conname, contype, convalidated, conislocal, coninhcount, \
    pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid >= 16384 ORDER BY 1, 2";

#[test]
fn a_partition_gets_its_tables_constraints_that_are_not_valid() {
    for &version in VERSIONS {
        let (repo, server) = started(version);
        server.each(
            "shop",
            &[
                "CREATE SCHEMA \"o'dd\"",
                "CREATE TABLE other (k int PRIMARY KEY)",
                "CREATE TABLE t (at date, v int, o int) PARTITION BY RANGE (at)",
                "CREATE TABLE \"o'dd\".\"t\"\"25\" PARTITION OF t FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY HASH (v)",
                "CREATE TABLE t25_0 PARTITION OF \"o'dd\".\"t\"\"25\" FOR VALUES WITH (modulus 1, remainder 0)",
                "CREATE TABLE t26 PARTITION OF t FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
                // The rows of before break them.
                "INSERT INTO t VALUES ('2025-02-02', -1, 7), ('2026-02-02', -1, 7)",
                "ALTER TABLE t ADD CONSTRAINT \"po'sitive\" CHECK (v > 0) NOT VALID",
                "ALTER TABLE t ADD CONSTRAINT early CHECK (at > '2000-01-01') NOT VALID",
                // One that a partition has by now, and one of its own.
                "ALTER TABLE t26 VALIDATE CONSTRAINT early",
                "ALTER TABLE t26 ADD CONSTRAINT own CHECK (v > 1) NOT VALID",
                "ALTER TABLE t26 ADD CONSTRAINT refers FOREIGN KEY (v) REFERENCES other NOT VALID",
                "ALTER TABLE t ADD CONSTRAINT valid CHECK (v < 100)",
            ],
        );
        if version >= 18 {
            server.each(
                "shop",
                &[
                    "INSERT INTO t VALUES ('2026-03-03', NULL, NULL)",
                    "ALTER TABLE t ADD CONSTRAINT filled NOT NULL v NOT VALID",
                    "ALTER TABLE t ADD CONSTRAINT o_fkey FOREIGN KEY (o) REFERENCES other NOT VALID",
                    "ALTER TABLE t ADD CONSTRAINT wish CHECK (v > 50) NOT ENFORCED",
                ],
            );
        }
        let state = || server.sql("shop", CONSTRAINTS) + &server.dumped("shop");
        let (before, into) = (state(), format!("{}/shop", server.url()));
        repo.ok(["backup", &into]);
        for (name, quoted) in [("t26", "t26"), ("o'dd.t\"25", "\"o'dd\".\"t\"\"25\""), ("t25_0", "t25_0")] {
            let steps =
                repo.ok(["restore", "latest", "--to", &into, "--table", name, "--replace", "--dry-run"]);
            assert!(steps.contains("constraints of its table: ") && steps.contains("po'sitive"), "{steps}");
            repo.ok(["restore", "latest", "--to", &into, "--table", name, "--replace"]);
            assert_eq!(state(), before, "{version}: {name}");
            server.sql("shop", &format!("DROP TABLE {quoted}"));
            repo.ok(["restore", "latest", "--to", &into, "--table", name]);
            assert_eq!(state(), before, "{version}: {name}");
        }
    }
}

#[test]
fn what_depends_on_a_table_is_named_before_the_run() {
    for &version in VERSIONS {
        let (repo, server) = started(version);
        server.each(
            "shop",
            &[
                "CREATE TABLE a (k int PRIMARY KEY, b int)",
                "CREATE TABLE b (k int PRIMARY KEY, a int REFERENCES a)",
                "ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED",
                "CREATE VIEW seen AS SELECT k FROM a",
                "CREATE MATERIALIZED VIEW kept AS SELECT k FROM seen",
                "CREATE TABLE heir () INHERITS (a)",
                "CREATE TABLE p (k int PRIMARY KEY) PARTITION BY HASH (k)",
                "CREATE TABLE p0 PARTITION OF p FOR VALUES WITH (modulus 1, remainder 0)",
                "CREATE TABLE points (p int CONSTRAINT to_p REFERENCES p)",
                "CREATE FUNCTION rows_of(b) RETURNS int LANGUAGE sql AS 'SELECT 1'",
                "CREATE TABLE alone (k serial PRIMARY KEY, v int CHECK (v > 0))",
                "CREATE INDEX ON alone (v)",
            ],
        );
        let before = server.dumped("shop");
        let into = format!("{}/shop", server.url());
        repo.ok(["backup", &into]);
        let own = ["restore", "latest", "--to", &into, "--replace", "--table"];
        for (names, dependents) in [
            (&["a"][..], &["view seen", "constraint b_a_fkey on table b", "table heir"][..]),
            (&["a", "b", "heir"], &["view seen", "function public.rows_of(public.b)"]),
            (&["seen"], &["materialized view kept"]),
            (&["p"], &["constraint to_p on table points"]),
            (&["p0"], &["constraint to_p on table points"]),
        ] {
            let mut args: Vec<&str> = own.to_vec();
            args.extend(
                names
                    .join(",--table,")
                    .split(',')
                    .map(|part| *names.iter().find(|name| **name == part).unwrap_or(&"--table")),
            );
            let real = repo.fails(1, &args);
            args.push("--dry-run");
            let dry = repo.fails(1, &args);
            for dependent in dependents {
                let mut words = dependent.split(' ');
                let (kind, name) = (words.next().unwrap(), words.next_back().unwrap());
                let has = |text: &str| text.contains(kind) && text.contains(name);
                assert!(has(&real) && has(&dry), "{version}: {dependent}\n{real}\n{dry}");
            }
            let refusal =
                |text: &str| text.lines().find(|line| line.contains("depend on")).map(str::to_owned);
            assert!(refusal(&real).is_some() && refusal(&real) == refusal(&dry), "{real}\n{dry}");
            assert_eq!(server.dumped("shop"), before, "{version}: {names:?}");
        }
        // What nobody else needs, and all that need each other.
        server.sql("shop", "DROP FUNCTION rows_of(b)");
        let before = server.dumped("shop");
        for names in [&["alone"][..], &["a", "b", "heir", "seen", "kept"], &["p", "points"]] {
            let mut args: Vec<&str> = own[..5].to_vec();
            names.iter().for_each(|name| args.extend(["--table", name]));
            repo.ok(&args);
            assert_eq!(server.dumped("shop"), before, "{version}: {names:?}");
        }
        // Something else in its place.
        server.sql("shop", "DROP TABLE points; CREATE VIEW points AS SELECT 1 AS p");
        for dry in [&[][..], &["--dry-run"]] {
            let text = repo.fails(1, own.iter().copied().chain(["points"]).chain(dry.iter().copied()));
            assert!(
                text.contains("public.points is a view in the database and a table in the dump"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_sequence_that_others_use_is_set_where_it_is() {
    for &version in VERSIONS {
        let (repo, server) = started(version);
        server.each(
            "shop",
            &[
                "CREATE SEQUENCE numbers AS int START 5 INCREMENT 2 MINVALUE -7 CYCLE",
                "CREATE SEQUENCE free",
                "CREATE TABLE t (k int DEFAULT nextval('numbers'), s bigserial, i int GENERATED ALWAYS AS IDENTITY)",
                "INSERT INTO t SELECT FROM generate_series(1, 3)",
                "SELECT nextval('free')",
            ],
        );
        let before = server.dumped("shop");
        let into = format!("{}/shop", server.url());
        repo.ok(["backup", &into]);
        for (name, change) in [
            ("numbers", "SELECT setval('numbers', 99)"),
            (
                "numbers",
                "ALTER SEQUENCE numbers AS bigint START 1 MINVALUE 1 MAXVALUE 9000000000 CACHE 7 NO CYCLE; SELECT setval('numbers', 8000000000)",
            ),
            ("free", "SELECT setval('free', 99)"),
            ("t_s_seq", "SELECT setval('t_s_seq', 99); ALTER SEQUENCE t_s_seq CYCLE"),
            ("t_i_seq", "SELECT setval('t_i_seq', 99); ALTER SEQUENCE t_i_seq INCREMENT 3"),
        ] {
            server.sql("shop", change);
            let args = ["restore", "latest", "--to", &into, "--replace", "--table", name];
            let dry = repo.ok(args.iter().copied().chain(["--dry-run"]));
            let set = format!("set sequence public.{name} where it is");
            assert_eq!(dry.contains(&set), name != "free", "{version}: {dry}");
            assert_ne!(server.dumped("shop"), before, "{version}: {name}");
            let report = repo.json(args);
            assert_eq!(
                report["notes"].to_string().contains("is used by other objects"),
                name != "free",
                "{report}"
            );
            assert_eq!(server.dumped("shop"), before, "{version}: {name} {change}");
        }
        // With its table it goes and comes.
        repo.ok(["restore", "latest", "--to", &into, "--replace", "--table", "t", "--table", "numbers"]);
        assert_eq!(server.dumped("shop"), before, "{version}");
        server.sql("shop", "CREATE TABLE u (k int DEFAULT nextval('t_s_seq'))");
        let text =
            repo.fails(1, ["restore", "latest", "--to", &into, "--replace", "--table", "t", "--dry-run"]);
        assert!(
            text.contains("default value for column k of table u") || text.contains("public.u"),
            "{text}"
        );
    }
}
