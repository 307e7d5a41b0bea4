//! What lies in the dumps of databases: tables and collections by `ls`, `find`, `dump` and `diff`, with real servers.

use crate::harness::{Repo, expect, run};
use crate::mariadb::Maria;
use crate::pg::{Postgres, SHOP};
use crate::qdrant_double::Qdrant;
use serde_json::Value;
use std::process::Output;

/// The rows of a table, in order.
fn rows(server: &Postgres, database: &str, table: &str) -> String {
    server.sql(database, &format!("SELECT t::text FROM {table} t ORDER BY 1"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn postgres_tables_are_listed_and_written() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.each("postgres", &["CREATE DATABASE shop", "CREATE DATABASE empty"]);
    server.sql("shop", SHOP);
    server.sql(
        "shop",
        "CREATE SCHEMA trade; CREATE TABLE trade.orders (id serial PRIMARY KEY, note text); CREATE VIEW trade.seen AS SELECT id FROM trade.orders; \
         INSERT INTO trade.orders (note) SELECT 'a' || E'\\t\\\\\\n' || i FROM generate_series(1, 50) i; \
         CREATE TABLE trade.\"odd/na me\" AS SELECT 1 a",
    );
    for (format, ending) in [("directory", ""), ("custom", ".dump")] {
        repo.ok(["backup", &server.url(), "-o", &format!("postgres.format={format}")]);
        let list = repo.ok(["ls", "latest"]);
        let folder = list.lines().find(|line| line.ends_with("/databases")).unwrap().trim_start_matches('/');
        let server_folder = folder.strip_suffix("/databases").unwrap();
        assert!(list.contains(&format!("/databases/shop{ending}\n")), "{list}");
        for place in
            [format!("{server_folder}/shop"), format!("{folder}/shop{ending}"), "postgres/shop".into()]
        {
            let of_sales = repo.ok(["ls", &format!("latest:{place}/"), "trade.*"]);
            let line = |name: &str| of_sales.lines().find(|line| line.ends_with(name)).map(str::to_owned);
            assert!(line(" trade.orders").unwrap().starts_with("table "), "{of_sales}");
            assert!(line(" trade.seen").unwrap().starts_with("view "), "{of_sales}");
            assert!(line(" trade.orders_id_seq").unwrap().starts_with("sequence "), "{of_sales}");
            assert!(!of_sales.contains("public."), "{of_sales}");

            // Its output makes the table, with its rows and its keys, in a database that has nothing.
            server.each("postgres", &["DROP DATABASE empty", "CREATE DATABASE empty"]);
            let sql = repo.path("orders.sql");
            let _ = std::fs::remove_file(&sql);
            let output = repo.run(["dump", &format!("latest:{place}/trade.orders")]);
            expect(&output, 0);
            assert!(
                text(&output).contains("COPY trade.orders (id, note) FROM stdin;\n"),
                "{}",
                text(&output)
            );
            std::fs::write(&sql, &output.stdout).unwrap();
            let input = std::fs::File::open(&sql).unwrap();
            let loaded = server
                .program("psql")
                .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "empty"])
                .stdin(input)
                .output()
                .unwrap();
            assert!(loaded.status.success(), "{loaded:?}\n{}", text(&output));
            assert_eq!(rows(&server, "empty", "trade.orders"), rows(&server, "shop", "trade.orders"));
            let next = server.sql("empty", "INSERT INTO trade.orders (note) VALUES ('next') RETURNING id");
            assert!(next.trim().starts_with("51"), "{next}");
            let keys = server.sql("empty", "SELECT count(*) FROM pg_constraint WHERE contype = 'p' AND conrelid = 'trade.orders'::regclass");
            assert_eq!(keys.trim(), "1");

            // A restore takes the same paths.
            server.each("postgres", &["DROP DATABASE empty", "CREATE DATABASE empty"]);
            let to = format!("{}/empty", server.url());
            repo.fails(1, ["restore", &format!("latest:{place}/trade.none"), "--to", &to]);
            server.sql("empty", "CREATE SCHEMA trade");
            repo.ok(["restore", &format!("latest:{place}/trade.orders"), "--to", &to]);
            assert_eq!(rows(&server, "empty", "trade.orders"), rows(&server, "shop", "trade.orders"));
            assert_eq!(
                server.sql("empty", "SELECT count(*) FROM pg_tables WHERE schemaname = 'trade'").trim(),
                "1"
            );
            server.each("postgres", &["DROP DATABASE empty", "CREATE DATABASE empty"]);
            repo.ok(["restore", &format!("latest:{place}"), "--to", &to]);
            assert_eq!(rows(&server, "empty", "trade.orders"), rows(&server, "shop", "trade.orders"));
        }
        let odd = repo.ok(["dump", &format!("latest:{server_folder}/shop/trade.odd/na me")]);
        assert!(odd.contains("\n1\n\\.\n"), "{odd}");
        repo.fails(1, ["dump", &format!("latest:{server_folder}/shop/trade.none")]);

        let found: Value = repo.json(["find", "-s", "latest", "orders*", "trade.ord*"]);
        let all = found[0]["matches"].as_array().unwrap().clone();
        let hit = all.iter().find(|hit| hit["table"] == "trade.orders" && hit["database"] == "shop");
        let hit = hit.expect("the table");
        assert_eq!(hit["type"], "table", "{hit}");
        assert!(hit["size"].as_u64().unwrap() > 0, "{hit}");
        let path = hit["path"].as_str().unwrap();
        assert_eq!(repo.ok(["dump", "latest", path]).matches("COPY ").count(), 1);
    }
}

#[test]
fn postgres_tables_that_differ_are_counted() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.each("postgres", &["CREATE DATABASE shop"]);
    server.sql("shop", "CREATE TABLE same AS SELECT 1 a; CREATE TABLE rows AS SELECT 1 a; CREATE TABLE goes AS SELECT 1 a; CREATE TABLE shape AS SELECT 1 a");
    let formats = ["directory", "custom"];
    let backup = |format: &str| {
        repo.ok(["backup", &server.url(), "-o", &format!("postgres.format={format}"), "--tag", format])
    };
    formats.iter().for_each(|format| drop(backup(format)));
    server.sql("shop", "INSERT INTO rows VALUES (2); DROP TABLE goes; CREATE TABLE comes AS SELECT 1 a; CREATE INDEX ON shape (a)");
    formats.iter().for_each(|format| drop(backup(format)));
    // In the order of backups: directory, custom, directory, custom.
    for (first, second) in [("latest~3", "latest~1"), ("latest~2", "latest")] {
        let out = repo.ok(["diff", "-v", first, second]);
        assert!(out.contains("/shop") && out.contains("1 added, 1 removed, 2 changed"), "{out}");
        for (letter, name) in [("+", "comes"), ("-", "goes"), ("M", "rows"), ("M", "shape")] {
            let line = out.lines().find(|line| line.ends_with(&format!("/shop/public.{name}")));
            assert!(line.is_some_and(|line| line.starts_with(letter)), "{name} in {out}");
        }
        assert!(!out.contains("public.same"), "{out}");
    }
}

#[test]
fn mariadb_tables_are_listed_written_and_compared() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "maria");
    server.root("CREATE DATABASE `shop.x`; CREATE DATABASE copy");
    server.root(
        "USE `shop.x`; CREATE TABLE orders (id int PRIMARY KEY, note text); CREATE TABLE other (a int); CREATE TABLE goes (a int); \
         CREATE VIEW seen AS SELECT id FROM orders; INSERT INTO orders SELECT seq, concat('a;\\'', seq) FROM seq_1_to_50",
    );
    let url = server.url();
    repo.ok(["backup", &url]);
    let list = repo.ok(["ls", "latest"]);
    let folder = list.lines().find(|line| line.ends_with("/databases")).unwrap().trim_start_matches('/');
    let place = format!("{}/shop.x", folder.strip_suffix("/databases").unwrap());
    let listed = repo.ok(["ls", &format!("latest:{place}/"), "[os]*"]);
    assert!(listed.lines().any(|line| line.starts_with("table ") && line.ends_with(" orders")), "{listed}");
    assert!(listed.lines().any(|line| line.starts_with("view ") && line.ends_with(" seen")), "{listed}");
    assert!(!listed.contains("goes"), "{listed}");
    let entry = list.lines().find(|line| line.ends_with(".sql") && line.contains("/databases/shop")).unwrap();
    for path in [place.as_str(), "mysql/shop.x", entry] {
        let to = format!("{url}/copy");
        repo.fails(1, ["restore", &format!("latest:{path}/none"), "--to", &to]);
        repo.ok(["restore", &format!("latest:{path}/orders"), "--to", &to]);
        assert_eq!(server.root("SHOW TABLES IN copy"), "orders");
        server.root("DROP DATABASE copy; CREATE DATABASE copy");
        repo.ok(["restore", &format!("latest:{path}"), "--to", &to]);
        assert_eq!(server.root("SELECT count(*) FROM copy.seen"), "50");
        server.root("DROP DATABASE copy; CREATE DATABASE copy");
    }
    let sql = repo.path("orders.sql");
    repo.ok(["dump", &format!("latest:{place}/orders"), "-t", sql.to_str().unwrap()]);
    server.root(&format!("USE copy;\nSOURCE {}", sql.display()));
    let sum =
        |database: &str| server.root(&format!("SELECT count(*), sum(crc32(note)) FROM `{database}`.orders"));
    assert_eq!(sum("copy"), sum("shop.x"));
    server.root("USE `shop.x`; DROP TABLE goes; CREATE TABLE comes (a int); UPDATE orders SET note = 'new' WHERE id = 7");
    repo.ok(["backup", &url]);
    let out = repo.ok(["diff", "-v", "latest~1", "latest"]);
    assert!(out.contains("1 added, 1 removed, 1 changed"), "{out}");
    for (letter, name) in [("+", "/comes"), ("-", "/goes"), ("M", "/orders")] {
        assert!(out.lines().any(|line| line.starts_with(letter) && line.ends_with(name)), "{name} in {out}");
    }
}

#[test]
fn qdrant_collections_are_listed_written_and_compared() {
    let repo = Repo::new();
    let server = Qdrant::start(&repo.path("server"), None);
    server.client(
        "fill('a%b c', 40, size=4, shard_number=2); fill('named', 5, size=4); fill('goes', 3, size=4); alias(current='a%b c')",
    );
    let url = server.url();
    repo.ok(["backup", &url]);
    let list = repo.ok(["ls", "latest"]);
    let folder = list.lines().find(|line| line.ends_with("/collections")).unwrap().trim_start_matches('/');
    let place = folder.strip_suffix("/collections").unwrap();
    // Without a slash the entries, with one what lies in them.
    assert!(repo.ok(["ls", &format!("latest:{place}")]).contains("collections/named/collection.json"));
    let listed = repo.ok(["ls", &format!("latest:{place}/")]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(listed.contains(" a%b c  40 points, 2 shards, vectors 4 "), "{listed}");
    let some = repo.ok(["ls", &format!("latest:{place}/"), "n*"]);
    assert!(some.lines().count() == 1 && some.contains(" named "), "{some}");
    let lines = repo.ok(["--json", "ls", &format!("latest:{place}/"), "a*"]);
    let one: Value = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!(one["collection"], "a%b c", "{one}");
    assert_eq!(one["points"], 40, "{one}");
    assert_eq!(one["shards"], serde_json::json!([0, 1]), "{one}");
    assert_eq!(one["missing_shards"], serde_json::json!([]), "{one}");
    assert_eq!(one["vectors"]["size"], 4, "{one}");
    assert_eq!(one["aliases"], serde_json::json!(["current"]), "{one}");
    assert!(one["size"].as_u64().unwrap() > 1000, "{one}");

    // The files of one, by the name of the collection and by that of its folder, with the server and without.
    for path in [format!("{place}/a%b c"), format!("{place}/a%25b c"), "qdrant/a%b c".into()] {
        let files = repo.ok(["ls", &format!("latest:{path}/")]);
        let names: Vec<&str> = files.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
        assert_eq!(names, ["collection.json", "shard-0.snapshot", "shard-1.snapshot"], "{files}");
        let shards = repo.ok(["ls", &format!("latest:{path}/"), "shard-*"]);
        assert_eq!(shards.lines().filter(|line| line.starts_with("shard ")).count(), 2, "{shards}");
        let described: Value =
            serde_json::from_str(&repo.ok(["dump", &format!("latest:{path}/collection.json")])).unwrap();
        assert_eq!(described["name"], "a%b c");
        let (archive, out) = (repo.path("a.tar"), repo.path("out"));
        let _ = (std::fs::remove_file(&archive), std::fs::remove_dir_all(&out));
        std::fs::create_dir(&out).unwrap();
        repo.ok(["dump", &format!("latest:{path}"), "-t", archive.to_str().unwrap()]);
        run("tar", &["-xf", archive.to_str().unwrap(), "-C", out.to_str().unwrap()]);
        let shard = repo.run(["dump", &format!("latest:{path}/shard-1.snapshot")]);
        let own = out.join("shard-1.snapshot");
        assert_eq!(std::fs::read(&own).unwrap(), shard.stdout);
        assert!(run("tar", &["-tf", own.to_str().unwrap()]).lines().count() > 1);
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 3);
    }
    repo.fails(1, ["dump", &format!("latest:{place}/none")]);
    repo.fails(1, ["dump", &format!("latest:{place}/named/shard-7.snapshot")]);
    repo.fails(1, ["ls", &format!("latest:{place}/none/")]);

    let found: Value = repo.json(["find", "-s", "latest", "nam*"]);
    let all = found[0]["matches"].as_array().unwrap();
    let hit = all.iter().find(|hit| hit["collection"] == "named").unwrap_or_else(|| panic!("{found}"));
    assert_eq!((&hit["points"], &hit["type"]), (&5.into(), &"collection".into()), "{hit}");
    assert!(repo.run(["dump", "latest", hit["path"].as_str().unwrap()]).stdout.len() > 1000);

    // Nothing changed: nothing differs.
    repo.ok(["backup", &url]);
    let out = repo.ok(["diff", "-v", "latest~1", "latest"]);
    assert!(out.contains("0 added, 0 removed, 0 changed\n"), "{out}");
    server.client("client.delete_collection('goes'); fill('comes', 3, size=4); client.delete_collection('named'); fill('named', 6, size=4)");
    repo.ok(["backup", &url]);
    let out = repo.ok(["diff", "-v", "latest~1", "latest"]);
    assert!(out.contains("collections of") && out.contains("1 added, 1 removed, 1 changed"), "{out}");
    for (letter, name) in [("+", "comes"), ("-", "goes"), ("M", "named")] {
        let path = format!("/{place}/{name}");
        assert!(out.lines().any(|line| line.starts_with(letter) && line.ends_with(&path)), "{path}: {out}");
    }
    assert!(!out.lines().any(|line| line.contains("a%") && !line.contains("/collections/")), "{out}");
}
