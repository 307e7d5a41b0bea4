//! What is asked of PostgreSQL by name: tables in quotes, tables whose rows are those of their partitions, slots, and
//! databases of which the snapshot lacks something.

use crate::harness::{Repo, expect};
use crate::pg::Postgres;
use std::io::Write as _;
use std::process::Stdio;

const NAMES: &str = "
    CREATE SCHEMA a; CREATE SCHEMA \"a.b\";
    CREATE TABLE a.\"b.c\" AS SELECT 1 i; CREATE TABLE \"a.b\".c AS SELECT 2 i; CREATE TABLE public.\"a.b.c\" AS SELECT 3 i;
    CREATE TABLE tab AS SELECT 4 i; CREATE TABLE \"public.tab\" AS SELECT 5 i; CREATE TABLE \"qu\"\"ote\" AS SELECT 6 i;
    CREATE TABLE part (id int PRIMARY KEY, d text) PARTITION BY RANGE (id);
    CREATE INDEX part_d ON part (d);
    CREATE TABLE low PARTITION OF part FOR VALUES FROM (0) TO (10);
    CREATE TABLE high PARTITION OF part FOR VALUES FROM (10) TO (100) PARTITION BY RANGE (id);
    CREATE TABLE \"high.1\" PARTITION OF high FOR VALUES FROM (10) TO (50);
    INSERT INTO part VALUES (1, 'low'), (11, 'high');";

#[test]
fn tables_are_restored_by_the_names_that_dump_takes() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", NAMES);
    repo.ok(["backup", &format!("{}/shop", server.url())]);
    let to = format!("{}/shop", server.url());
    let restore =
        |table: &str| ["restore", "latest", "--to", &to, "--replace", "--table", table].map(str::to_owned);
    let told = repo.fails(1, restore("a.b.c"));
    for name in [r#"'"a"."b.c"'"#, r#"'"a.b"."c"'"#] {
        assert!(told.contains(name), "{name}: {told}");
    }
    for (table, named) in [
        (r#""a"."b.c""#, r#"a."b.c""#),
        (r#""a.b"."c""#, r#""a.b".c"#),
        (r#""public"."a.b.c""#, r#""a.b.c""#),
        (r#""public"."tab""#, "public.tab"),
        ("public.tab", "public.tab"),
        (r#""public"."public.tab""#, r#""public.tab""#),
        (r#""public"."qu""ote""#, r#""qu""ote""#),
    ] {
        let before = server.sql("shop", &format!("SELECT i FROM {named}"));
        server.sql(
            "shop",
            "UPDATE a.\"b.c\" SET i = 0; UPDATE \"a.b\".c SET i = 0; UPDATE \"a.b.c\" SET i = 0; \
            UPDATE tab SET i = 0; UPDATE \"public.tab\" SET i = 0; UPDATE \"qu\"\"ote\" SET i = 0",
        );
        repo.ok(restore(table));
        let all = "SELECT string_agg(i::text, '' ORDER BY i) FROM (SELECT i FROM a.\"b.c\" UNION ALL SELECT i FROM \"a.b\".c \
            UNION ALL SELECT i FROM \"a.b.c\" UNION ALL SELECT i FROM tab UNION ALL SELECT i FROM \"public.tab\" \
            UNION ALL SELECT i FROM \"qu\"\"ote\") all_of_them";
        let one = server.sql("shop", &format!("SELECT i FROM {named}"));
        assert_eq!(server.sql("shop", all), format!("00000{one}"), "{table}, before {before}");
        assert_ne!(one, "0", "{table}");
    }

    // A partitioned table has the rows of its partitions.
    let sql = repo.run(["dump", "latest", "postgres/shop/public.part"]);
    expect(&sql, 0);
    server.sql("postgres", "CREATE DATABASE back");
    let mut psql = server.program("psql");
    psql.args(["-q", "-v", "ON_ERROR_STOP=1", "-d", "back"]).stdin(Stdio::piped());
    let mut child = psql.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&sql.stdout).unwrap();
    assert!(child.wait().unwrap().success());
    let rows = "SELECT string_agg(id || d, ' ' ORDER BY id) FROM part";
    assert_eq!(server.sql("back", rows), "1low 11high");
    let valid = "SELECT bool_and(indisvalid) FROM pg_index WHERE indrelid = 'part'::regclass";
    assert_eq!(server.sql("back", valid), "t");
}

#[test]
fn a_stream_of_a_name_that_is_no_slots_or_of_one_database_is_refused_at_once() {
    let repo = Repo::new();
    let nobody = "postgres://postgres@127.0.0.1:1";
    for slot in ["Bad Name", "", "a-b", "Upper", &"x".repeat(64)] {
        let told = repo.fails(2, ["stream", nobody, "--slot", slot]);
        assert!(told.contains("slot"), "{told}");
    }
    let told = repo.fails(1, ["stream", &format!("{nobody}/shop")]);
    assert!(told.contains("all databases"), "{told}");
    repo.fails(25, ["stream", nobody, "--slot", "good_1"]);
}

#[test]
fn nothing_goes_for_what_the_backup_left_out() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.each("postgres", &["CREATE ROLE reader LOGIN PASSWORD 'sesame'", "CREATE DATABASE own"]);
    server.sql(
        "own",
        "CREATE TABLE open AS SELECT 1 i; GRANT SELECT ON open TO reader; CREATE TABLE sec AS SELECT 42 i",
    );
    let limited = server.url().replace("postgres:sesame@", "reader:sesame@") + "/own";
    repo.fails(3, ["backup", &limited, "--keep-going"]);
    let (url, replace) = (server.url(), ["--database", "own", "--replace"]);
    for more in [&["-n"][..], &[]] {
        let told = repo.fails(1, [&["restore", "latest", "--to", &url][..], &replace, more].concat());
        assert!(told.contains("sec") && told.contains("left out"), "{told}");
    }
    assert_eq!(server.sql("own", "SELECT i FROM sec"), "42");
    // What is there can be replaced, and another name takes all that there is.
    server.sql("own", "UPDATE open SET i = 9");
    repo.ok(["restore", "latest", "--to", &format!("{url}/own"), "--table", "public.open", "--replace"]);
    assert_eq!(server.sql("own", "SELECT i FROM open"), "1");
    repo.fails(3, ["restore", "latest", "--to", &format!("{url}/other"), "--database", "own"]);
    assert_eq!(server.sql("other", "SELECT i FROM open"), "1");
}
