//! `restore --table` of PostgreSQL: whatever can be asked for comes with what is its own and what it is made of.

use crate::harness::Repo;
use crate::pg::Postgres;

const RICH: &str = "
    CREATE ROLE reader;
    CREATE SCHEMA base;
    COMMENT ON SCHEMA base IS 'below';
    CREATE COLLATION base.german (provider = icu, locale = 'de', deterministic = false);
    COMMENT ON COLLATION base.german IS 'sorted';
    CREATE TYPE base.mood AS ENUM ('good', 'it''s; bad');
    COMMENT ON TYPE base.mood IS 'how';
    CREATE TYPE base.pair AS (a int, b base.mood);
    CREATE DOMAIN base.small AS int CHECK (VALUE < 100);
    CREATE TYPE base.span AS RANGE (subtype = float8);
    CREATE FUNCTION base.\"od(d\"(int, x text DEFAULT 'a;') RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';
    COMMENT ON FUNCTION base.\"od(d\"(int, text) IS 'odd';
    GRANT EXECUTE ON FUNCTION base.\"od(d\"(int, text) TO reader;
    CREATE TABLE base.parent (id int PRIMARY KEY, at timestamptz DEFAULT now());
    COMMENT ON COLUMN base.parent.at IS 'when';
    INSERT INTO base.parent VALUES (1);
    CREATE TABLE child (name text COLLATE base.german, mood base.mood, pair base.pair, small base.small, span base.span,
        odd int CHECK (base.\"od(d\"(odd) > 0)) INHERITS (base.parent);
    COMMENT ON TABLE child IS 'a child';
    GRANT SELECT ON child TO reader;
    INSERT INTO child VALUES (2, now(), 'ß', 'good', '(1,good)', 7, '[1,2)', 1);
    CREATE FUNCTION base.touched() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER touched BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION base.touched();
    COMMENT ON TRIGGER touched ON child IS 'touch';
    CREATE TABLE parted (d date, v int) PARTITION BY RANGE (d);
    CREATE TABLE parted_25 PARTITION OF parted FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
    CREATE TABLE parted_26 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE INDEX parted_v ON parted (v);
    INSERT INTO parted VALUES ('2025-05-05', 5), ('2026-06-06', 6);
    CREATE VIEW seen AS SELECT id, base.\"od(d\"(id) FROM base.parent;
    COMMENT ON VIEW seen IS 'looked at';
    GRANT SELECT ON seen TO reader;
    CREATE VIEW seen_twice AS SELECT * FROM seen;
    CREATE MATERIALIZED VIEW kept AS SELECT id FROM seen_twice;
    CREATE INDEX kept_id ON kept (id);
    COMMENT ON MATERIALIZED VIEW kept IS 'kept';
    CREATE SEQUENCE numbers START 5;
    SELECT nextval('numbers');
    COMMENT ON SEQUENCE numbers IS 'counts';
    CREATE FOREIGN DATA WRAPPER w;
    CREATE SERVER s FOREIGN DATA WRAPPER w;
    CREATE USER MAPPING FOR reader SERVER s OPTIONS (password 'p');
    CREATE FOREIGN TABLE far (i int) SERVER s;
    COMMENT ON FOREIGN TABLE far IS 'far';
    CREATE TABLE refers (i int REFERENCES base.parent);";

#[test]
fn what_can_be_asked_for_comes_with_what_it_is_made_of() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE rich");
    server.sql("rich", RICH);
    for format in ["directory", "custom"] {
        repo.ok(["backup", &format!("{}/rich", server.url()), "-o", &format!("postgres.format={format}")]);
        let into = |database: &str| {
            server.sql("postgres", &format!("DROP DATABASE IF EXISTS {database}"));
            server.sql("postgres", &format!("CREATE DATABASE {database}"));
            format!("{}/{database}", server.url())
        };
        // Each alone into a database that has nothing; what comes along is as pg_dump sees it in the source.
        let own = |name: &str| {
            let mut dump = server.program("pg_dump");
            dump.args(["-d", "rich", "-t", name]);
            String::from_utf8(dump.output().unwrap().stdout).unwrap()
        };
        for (name, also) in [
            (
                "child",
                &[
                    "base.parent",
                    "COMMENT ON TYPE base.mood",
                    "COMMENT ON FUNCTION base",
                    "COMMENT ON SCHEMA base",
                    "COMMENT ON COLLATION",
                    "COMMENT ON COLUMN base.parent.at",
                    "GRANT ALL ON FUNCTION base",
                    "COMMENT ON TRIGGER",
                ][..],
            ),
            (
                "parted_25",
                &[
                    "ATTACH PARTITION public.parted_25",
                    "CREATE TABLE public.parted ",
                    "ATTACH PARTITION public.parted_25_v_idx",
                ],
            ),
            ("parted", &["parted_26"]),
            ("seen", &["CREATE TABLE base.parent"]),
            ("seen_twice", &["CREATE VIEW public.seen "]),
            ("kept", &["CREATE VIEW public.seen "]),
            ("numbers", &[]),
            ("far", &["CREATE SERVER s", "CREATE USER MAPPING FOR reader SERVER s"]),
        ] {
            let url = into("alone");
            repo.ok(["restore", "latest", "--to", &url, "--table", name]);
            let has = server.dumped("alone");
            let missing: Vec<String> = own(name)
                .lines()
                .filter(|line| {
                    !line.is_empty()
                        && !line.starts_with("--")
                        && !line.contains("restrict ")
                        && !has.contains(line)
                })
                .map(str::to_owned)
                .collect();
            assert!(missing.is_empty(), "{format} {name}: {missing:#?}\n{has}");
            for also in also {
                assert!(has.contains(also), "{format} {name}: {also}\n{has}");
            }
            if name == "parted_25" {
                assert!(!has.contains("parted_26"), "{has}");
            }
        }
    }
}

#[test]
fn what_is_there_is_left_and_what_differs_is_said() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE rich");
    server.sql("rich", RICH);
    repo.ok(["backup", &format!("{}/rich", server.url())]);
    server.sql("postgres", "CREATE DATABASE other");
    let into = format!("{}/other", server.url());
    server.sql("other", "CREATE SCHEMA base; CREATE TYPE base.mood AS ENUM ('good', 'it''s; bad'); CREATE DOMAIN base.small AS int CHECK (VALUE < 100)");
    repo.ok(["restore", "latest", "--to", &into, "--table", "child"]);
    // A foreign key whose table is not there stays out, and is named.
    server.sql("postgres", "DROP DATABASE other");
    server.sql("postgres", "CREATE DATABASE other");
    let text = repo.fails(3, ["restore", "latest", "--to", &into, "--table", "refers"]);
    assert!(text.contains("foreign key 'refers_i_fkey' of public.refers: is left out"), "{text}");
    assert!(!text.contains("FK CONSTRAINT"), "{text}");
    // A type of the same name that is another.
    server.sql("other", "CREATE SCHEMA base; CREATE TYPE base.mood AS ENUM ('good', 'it''s; bad', 'new')");
    let text = repo.fails(3, ["restore", "latest", "--to", &into, "--table", "child"]);
    assert!(text.contains("type base.mood") && text.contains("another definition"), "{text}");
    assert_eq!(server.sql("other", "SELECT mood FROM child"), "good");
    // A partition whose table is there is attached to it again.
    server.sql("rich", "DROP TABLE parted_25");
    repo.ok(["restore", "latest", "--to", &format!("{}/rich", server.url()), "--table", "parted_25"]);
    assert_eq!(server.sql("rich", "SELECT sum(v) FROM parted"), "11");
    let index = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'parted_v'::regclass";
    assert_eq!(server.sql("rich", index), "2");
    for name in ["seen", "kept", "numbers", "far"] {
        let text =
            repo.fails(1, ["restore", "latest", "--to", &format!("{}/rich", server.url()), "--table", name]);
        assert!(text.contains(&format!("there already: public.{name}")), "{text}");
    }
    repo.ok(["restore", "latest", "--to", &format!("{}/rich", server.url()), "--table", "kept", "--replace"]);
}

#[test]
fn a_partition_with_partitions_comes_back_by_itself() {
    let repo = Repo::new();
    let server = Postgres::version(&repo, 15, "server", &[]);
    server.sql("postgres", "CREATE DATABASE deep");
    server.each(
        "deep",
        &[
            "CREATE TABLE o (id int, at date, v int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
            "CREATE INDEX \"Of V\" ON o (v)",
            "CREATE TABLE o25 PARTITION OF o FOR VALUES FROM ('2025-01-01') TO ('2026-01-01') PARTITION BY HASH (id)",
            "CREATE TABLE o25_0 PARTITION OF o25 FOR VALUES WITH (modulus 1, remainder 0)",
            "INSERT INTO o VALUES (1, '2025-02-02', 3)",
        ],
    );
    let before = server.dumped("deep");
    repo.ok(["backup", &format!("{}/deep", server.url())]);
    let into = format!("{}/deep", server.url());
    repo.ok(["restore", "latest", "--to", &into, "--table", "o25", "--replace"]);
    assert_eq!(server.dumped("deep"), before);
    for lost in ["o25", "o25_0"] {
        server.sql("deep", &format!("DROP TABLE {lost}"));
        repo.ok(["restore", "latest", "--to", &into, "--table", lost]);
        assert_eq!(server.dumped("deep"), before, "{lost}");
        assert_eq!(server.sql("deep", "SELECT count(*) FROM pg_index WHERE NOT indisvalid"), "0");
    }
}
