//! PostgreSQL's databases: everything back into an empty cluster, single tables, formats, what goes wrong.

use crate::harness::{Process, Repo, certificates, expect, free_port, noise, run, wait_for};
use crate::pg::{Postgres, SHOP, VERSIONS, bin};
use crate::relay::{cut_after, cuts};
use std::collections::BTreeSet;
use std::process::Command;

const ODD: &str = "we/ird \"na'me";

pub(crate) fn path_with(version: u32) -> String {
    format!("{}:{}", bin(version).display(), std::env::var("PATH").unwrap())
}

/// Roles, extensions and several databases.
fn fill(server: &Postgres) {
    server.sql("postgres", "CREATE ROLE clerk LOGIN PASSWORD 'x'; CREATE ROLE staff; GRANT staff TO clerk");
    for database in ["shop", ODD, "metrics"] {
        server.sql("postgres", &format!("CREATE DATABASE \"{}\"", database.replace('"', "\"\"")));
    }
    server
        .sql("postgres", "ALTER DATABASE shop SET work_mem = '5MB'; GRANT CONNECT ON DATABASE shop TO staff");
    server.sql("shop", SHOP);
    server.sql("shop", "ALTER TABLE account OWNER TO clerk; GRANT SELECT ON sales.orders TO staff");
    server.sql(
        "metrics",
        "CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE TABLE m (k citext, v hstore)",
    );
    server.sql(
        "metrics",
        "INSERT INTO m SELECT 'K' || i, hstore('a', i::text) FROM generate_series(1, 5000) i",
    );
    server.sql(ODD, "CREATE TABLE t AS SELECT generate_series(1, 10) i");
}

#[test]
fn a_cluster_comes_back_into_an_empty_one() {
    for version in VERSIONS {
        let repo = Repo::new().with("PATH", &path_with(*version));
        let server = Postgres::version(&repo, *version, "pg", &[]);
        fill(&server);
        repo.ok(["backup", &server.url()]);
        let list = repo.ok(["ls", "latest"]);
        let folder = format!("/postgres/127.0.0.1:{}", server.port);
        for name in [
            "databases/postgres/toc.dat",
            "databases/shop/sales.orders_2025.dat",
            "databases/shop/public.odd%2EName.dat",
            "databases/shop/blob_70000.dat",
            "databases/we%2Fird \"na'me/public.t.dat",
            "globals.sql",
        ] {
            assert!(list.contains(&format!("{folder}/{name}\n")), "{name} in {list}");
        }
        // What was laid down is what pg_dump's directory format is: pg_restore reads the folder.
        repo.ok(["restore", "latest", "--target", "out"]);
        let out = repo.path(&format!("out{folder}/databases/shop"));
        let theirs = repo.path("theirs");
        let dumped = server.program("pg_dump").args(["-Fd", "-Z0", "-d", "shop", "-f"]).arg(&theirs).output();
        crate::pg::expect_success(&dumped.unwrap());
        let sizes = |folder: &std::path::Path| -> Vec<u64> {
            let mut sizes: Vec<u64> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap())
                .filter(|entry| entry.file_name() != "toc.dat")
                .map(|entry| entry.metadata().unwrap().len())
                .collect();
            sizes.sort_unstable();
            sizes
        };
        assert_eq!(sizes(&out), sizes(&theirs), "PostgreSQL {version}");
        server.sql("postgres", "CREATE DATABASE byhand");
        let by_hand = server.program("pg_restore").args(["-j2", "-d", "byhand"]).arg(&out).output().unwrap();
        crate::pg::expect_success(&by_hand);
        assert!(server.dumped("byhand") == server.dumped("shop"));
        server.sql("postgres", "DROP DATABASE byhand");

        // Into an empty cluster.
        let target = Postgres::version(&repo, *version, "target", &[]);
        repo.ok(["restore", "latest", "--to", &target.url(), "--dry-run"]);
        assert_eq!(target.sql("postgres", "SELECT count(*) FROM pg_database"), "3");
        let report = repo.json(["restore", "latest", "--to", &target.url()]);
        assert_eq!(report["globals_existing"], 1, "only the role postgres was there: {report}");
        for database in ["postgres", "shop", "metrics", ODD] {
            let (had, has) = (server.dumped(database), target.dumped(database));
            assert!(had == has, "PostgreSQL {version}, {database}:\n{had}\n---\n{has}");
        }
        assert_eq!(server.globals(), target.globals());
        let properties = "SELECT array_agg(setconfig::text), (SELECT datacl FROM pg_database WHERE datname = 'shop') FROM pg_db_role_setting";
        assert_eq!(server.sql("postgres", properties), target.sql("postgres", properties));

        // A second time it is in the way; nothing is touched.
        let text = repo.fails(1, ["restore", "latest", "--to", &target.url(), "--database", "shop"]);
        assert!(text.contains("is not empty") && text.contains("--replace"), "{text}");
        target.sql("shop", "DELETE FROM sales.orders; CREATE TABLE later (x int)");
        repo.ok(["restore", "latest", "--to", &target.url(), "--database", "shop", "--replace"]);
        assert!(server.dumped("shop") == target.dumped("shop"));
        // Under another name.
        repo.ok(["restore", "latest", "--to", &format!("{}/copy", target.url()), "--database", "shop"]);
        assert!(server.dumped("shop") == target.dumped("copy"));
        let text = repo.fails(1, ["restore", "latest", "--to", &target.url(), "--database", "nothing"]);
        assert!(text.contains("it has metrics, postgres, shop"), "{text}");
        let record = repo.ok(["cat", "snapshot", "latest"]);
        assert!(!record.contains("sesame"), "{record}");
    }
}

#[test]
fn single_tables_come_back_with_what_is_theirs() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", SHOP);
    for format in ["directory", "custom"] {
        repo.ok(["backup", &format!("{}/shop", server.url()), "-o", &format!("postgres.format={format}")]);
        let before = server.dumped("shop");
        let into = format!("{}/shop", server.url());
        let table = |name: &str| ["restore", "latest", "--to", &into, "--table", name].map(str::to_owned);
        let text = repo.fails(1, table("sales.orders"));
        assert!(text.contains("there already: sales.orders, sales.orders_2025, sales.orders_2026"), "{text}");
        assert!(repo.fails(1, table("no.such")).contains("no table 'no.such'"));
        // A table with its partitions, sequence, indexes and foreign key.
        server.sql("shop", "DROP TABLE sales.orders CASCADE");
        repo.ok(table("sales.orders"));
        server.sql(
            "shop",
            "CREATE MATERIALIZED VIEW counts AS SELECT account, count(*) FROM sales.orders GROUP BY 1",
        );
        let after = server.dumped("shop");
        let sorted = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        assert_eq!(sorted(&before), sorted(&after), "{format}");
        // In place of one that was spoilt.
        server.sql("shop", "UPDATE \"odd.Name\" SET \"c\"\"d\" = 'spoilt'");
        repo.ok(table("odd.Name").iter().map(String::as_str).chain(["--replace"]));
        assert_eq!(sorted(&before), sorted(&server.dumped("shop")), "{format}");
        // Where others hang on it, it stays as it is.
        server.sql("shop", "UPDATE account SET name = 'spoilt' WHERE id = 7");
        let text = repo.fails(1, table("public.account").iter().map(String::as_str).chain(["--replace"]));
        assert!(text.contains("depend") || text.contains("other objects"), "{text}");
        assert_eq!(server.sql("shop", "SELECT count(*) FROM account WHERE name = 'spoilt'"), "1");
        // Beside it, in a database that has not even the schema, nor the type or the sequence.
        server.sql("postgres", "CREATE DATABASE aside");
        let aside = format!("{}/aside", server.url());
        let left = repo.fails(3, ["restore", "latest", "--to", &aside, "--table", "sales.orders_2025"]);
        assert!(left.contains("foreign key 'orders_account_fkey' of sales.orders: is left out"), "{left}");
        assert_eq!(
            server.sql("aside", "SELECT count(*), sum(total) FROM sales.orders_2025"),
            server.sql("shop", "SELECT count(*), sum(total) FROM sales.orders_2025")
        );
        repo.ok(["restore", "latest", "--to", &aside, "--table", "account"]);
        assert_eq!(server.sql("aside", "SELECT count(*) FROM account"), "20000");
        server.sql("postgres", "DROP DATABASE aside");
        server.sql("shop", "UPDATE account SET name = E'name\\t7\\n\\\\.' WHERE id = 7");
    }
    repo.ok(["backup", &format!("{}/shop", server.url()), "-o", "postgres.format=plain"]);
    let text =
        repo.fails(1, ["restore", "latest", "--to", &format!("{}/shop", server.url()), "--table", "account"]);
    assert!(text.contains("not from plain SQL"), "{text}");
    repo.ok(["restore", "latest", "--to", &format!("{}/plain", server.url())]);
    let sorted = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(sorted(&server.dumped("shop")), sorted(&server.dumped("plain")));
}

#[test]
fn failures_make_no_snapshot() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    let wrong = server.url().replace("sesame", "wrong");
    let text = repo.fails(25, ["backup", &wrong]);
    assert!(text.contains("password authentication failed") && !text.contains("wrong@"), "{text}");
    let text = repo.fails(25, ["backup", &server.shown()]);
    assert!(text.contains("PGPASSFILE"), "{text}");
    let text = repo.fails(25, ["backup", &format!("{}/no_such_database", server.url())]);
    assert!(text.contains("does not exist"), "{text}");
    let text = repo.fails(25, ["backup", &format!("postgres://127.0.0.1:{}", free_port())]);
    assert!(text.contains("cannot connect"), "{text}");
    assert!(
        repo.fails(25, ["backup", &format!("{}?sslmode=require", server.url())]).contains("does not encrypt")
    );
    // Sessions killed in the middle.
    server.sql("postgres", SHOP);
    server.sql(
        "postgres",
        "CREATE TABLE big AS SELECT i, repeat(md5(i::text), 100) t FROM generate_series(1, 60000) i",
    );
    for format in ["directory", "plain", "custom"] {
        let mut command = repo.command(["backup", &server.url(), "-o", &format!("postgres.format={format}")]);
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        // Of the directory format pg_dump gives only the table of contents, and may be killed after that: it
        // writes `TO stdout;`, and we `TO STDOUT`.
        let which = if format == "directory" { "COPY%TO STDOUT" } else { "COPY%" };
        let kill = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
            WHERE query LIKE '{which}' AND state = 'active' AND pid <> pg_backend_pid()"
        );
        wait_for("COPY", 20, || server.sql("postgres", &kill).trim() != "0");
        let code = child.wait().unwrap().code();
        assert!(matches!(code, Some(20 | 25)), "{format}: {code:?}");
    }
    assert_eq!(repo.snapshot_count(), 0);
    // Nothing that was begun on the server is left.
    let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('esker', 'pg_dump')";
    wait_for("the sessions' end", 10, || server.sql("postgres", left) == "0");
}

#[test]
fn servers_that_are_cut_off_make_no_snapshot() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE TABLE t AS SELECT i, md5(i::text) m FROM generate_series(1, 60000) i");
    let random = noise(12, 8 * 4 * cuts() as usize);
    let mut numbers = random.chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    for (scheme, options, most) in [
        ("postgres", "directory", 2_500_000),
        ("postgres", "plain", 2_500_000),
        ("postgres", "custom", 2_500_000),
        ("postgres+physical", "directory", 20_000_000),
    ] {
        for _ in 0..cuts().div_ceil(4) {
            let at = 1000 + numbers.next().unwrap() % most;
            let url = server.url().replace(&server.port.to_string(), &cut_after(server.port, at).to_string());
            let url = url.replace("postgres://", &format!("{scheme}://"));
            let output = repo.run(["backup", &url, "-o", &format!("postgres.format={options}")]);
            let code = output.status.code().unwrap();
            assert!([20, 21, 25].contains(&code), "{scheme}, {options}, cut after {at}: {output:?}");
        }
    }
    assert_eq!(repo.snapshot_count(), 0);
    let whole = server.url().replace(&server.port.to_string(), &cut_after(server.port, u64::MAX).to_string());
    repo.ok(["backup", &whole]);
    repo.ok(["backup", &whole.replace("postgres://", "postgres+physical://")]);
}

#[test]
fn one_table_of_fifty_costs_its_share() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE many");
    for number in 0..50 {
        server.sql("many", &format!("CREATE TABLE t{number:02} AS SELECT i, md5((i * {number})::text) m FROM generate_series(1, 20000) i"));
    }
    for format in ["directory", "custom"] {
        repo.ok(["backup", &format!("{}/many", server.url()), "-o", &format!("postgres.format={format}")]);
        server.sql("postgres", "DROP DATABASE IF EXISTS lone");
        server.sql("postgres", "CREATE DATABASE lone");
        let into = format!("{}/lone", server.url());
        let read = |args: &[&str]| {
            // A cache of its own, so that every byte comes from the repository.
            let trace = repo.path(&format!("trace-{}", args.len()));
            let mut command = Command::new("strace");
            command
                .args(["-ff", "-qq", "-e", "trace=pread64,read", "-e", "signal=none", "-y", "-o"])
                .arg(&trace);
            let esker = repo.command(args);
            command.arg(esker.get_program()).args(esker.get_args()).env_clear();
            command.envs(esker.get_envs().filter_map(|(name, value)| Some((name, value?))));
            expect(&command.current_dir(repo.dir.path()).output().unwrap(), 0);
            // A file for each thread, so that no call is torn in two.
            let own = trace.file_name().unwrap().to_str().unwrap().to_owned() + ".";
            let files = std::fs::read_dir(repo.dir.path()).unwrap().map(|entry| entry.unwrap().path());
            let files = files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&own));
            let text: String = files
                .map(|path| {
                    let bytes = std::fs::read(&path).unwrap();
                    std::fs::remove_file(path).unwrap();
                    String::from_utf8_lossy(&bytes).into_owned()
                })
                .collect();
            let packs = text.lines().filter(|line| line.contains("/repo/packs/"));
            packs.filter_map(|line| line.rsplit("= ").next()?.trim().parse::<u64>().ok()).sum::<u64>()
        };
        let one = read(&["restore", "latest", "--to", &into, "--table", "t07"]);
        server.sql("postgres", "DROP DATABASE lone");
        let all = read(&["restore", "latest", "--to", &into]);
        println!(
            "{format}: one table of 50 reads {one} of {all} stored bytes ({:.2} %)",
            one as f64 * 100.0 / all as f64
        );
        assert!(one * 100 <= all * 7, "{one} of {all}");
        assert_eq!(
            server.sql("lone", "SELECT count(*), md5(string_agg(m, ',' ORDER BY i)) FROM t07"),
            server.sql("many", "SELECT count(*), md5(string_agg(m, ',' ORDER BY i)) FROM t07")
        );
    }
}

#[test]
fn credentials_come_from_elsewhere() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 1000) i");
    let pass = repo.path("pass");
    std::fs::write(&pass, format!("# mine\n127.0.0.1:{}:*:postgres:sesame\n", server.port)).unwrap();
    let run = |mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&pass, std::fs::Permissions::from_mode(mode)).unwrap();
        repo.command(["backup", &server.shown()]).env("PGPASSFILE", &pass).output().unwrap()
    };
    expect(&run(0o600), 0);
    let open = run(0o644);
    expect(&open, 25);
    assert!(String::from_utf8_lossy(&open.stderr).contains("chmod 600"));
    let mut command = repo.command(["backup", "postgres://"]);
    command.env("PGHOST", "127.0.0.1").env("PGPORT", server.port.to_string());
    expect(&command.env("PGUSER", "postgres").env("PGPASSWORD", "sesame").output().unwrap(), 0);
    // By the socket.
    let socket =
        format!("postgres:///postgres?user=postgres&host={}&port={}", server.home.display(), server.port);
    expect(&repo.command(["backup", &socket]).env("PGPASSWORD", "sesame").output().unwrap(), 0);
    assert_eq!(repo.snapshot_count(), 3);
    // No command line has it, while programs run.
    server.sql(
        "postgres",
        "CREATE TABLE big AS SELECT i, repeat('x', 1000) t FROM generate_series(1, 50000) i",
    );
    let mut child =
        Process::start(&mut repo.command(["backup", &server.url(), "-o", "postgres.format=plain"]));
    wait_for("pg_dump", 20, || {
        let found =
            Command::new("pgrep").args(["-fa", &format!("pg_dump.*{}", "postgres")]).output().unwrap();
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        assert!(!text.contains("sesame") || text.contains("esker"), "{text}");
        !text.is_empty() || child.0.try_wait().unwrap().is_some()
    });
    assert!(child.0.wait().unwrap().success());
}

#[test]
fn programs_must_be_as_new_as_the_server() {
    let repo = Repo::new();
    let server = Postgres::version(&repo, 18, "pg", &[]);
    let text = repo.fails(20, ["backup", &server.url()]);
    assert!(text.contains("the server is PostgreSQL 18") && text.contains("postgresql-client-18"), "{text}");
    assert_eq!(repo.snapshot_count(), 0);
}

#[test]
fn what_the_target_lacks_is_told_before_anything_is_done() {
    let repo = Repo::new().with("PATH", &path_with(18));
    let server = Postgres::version(&repo, 18, "pg", &[]);
    server.sql("postgres", "CREATE DATABASE vectors");
    server.sql(
        "vectors",
        "CREATE EXTENSION vector; CREATE TABLE v (v vector(3)); INSERT INTO v VALUES ('[1,2,3]')",
    );
    repo.ok(["backup", &server.url()]);
    // Of the same version, and it finds no extension.
    let target = Postgres::version(&repo, 18, "target", &["extension_control_path=/nowhere"]);
    let text = repo.fails(1, ["restore", "latest", "--to", &target.url()]);
    assert!(text.contains("lacks extensions of the dump; install vector"), "{text}");
    assert_eq!(target.sql("postgres", "SELECT count(*) FROM pg_database"), "3");
}

#[test]
fn over_tls_with_certificates_on_both_sides() {
    let repo = Repo::new();
    certificates(&repo);
    let file = |name: &str| repo.path(name).display().to_string();
    if rustix::process::geteuid().is_root() {
        run("chown", &["postgres", &file("server.key")]);
    }
    let settings = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", file("server.pem")),
        format!("ssl_key_file={}", file("server.key")),
        format!("ssl_ca_file={}", file("ca.pem")),
    ];
    let server = Postgres::version(&repo, 15, "pg", &settings.each_ref().map(String::as_str));
    server.sql("postgres", "CREATE TABLE t AS SELECT i, md5(i::text) m FROM generate_series(1, 300000) i");
    let rules = "hostssl all,replication all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n";
    std::fs::write(server.home.join("data/pg_hba.conf"), rules).unwrap();
    server.sql("postgres", "SELECT pg_reload_conf()");
    wait_for("the rules", 20, || server.try_sql("postgres", "SELECT 1").is_none());

    let (ca, cert, key, other) = (file("ca.pem"), file("client.pem"), file("client.key"), file("other.pem"));
    // As libpq's programs are told, and as other sources are.
    let told = |mode: &str, ca: &str, host: &str, what: &[&str]| {
        let url = server.url().replace("127.0.0.1", host) + &format!("?sslmode={mode}");
        let mut command = repo.command(what.iter().map(|word| word.replace("URL", &url)));
        command.env("PGSSLROOTCERT", ca).env("PGSSLCERT", &cert).env("PGSSLKEY", &key);
        command.output().unwrap()
    };
    for mode in ["require", "verify-ca", "verify-full"] {
        expect(&told(mode, &ca, "127.0.0.1", &["backup", "URL"]), 0);
    }
    expect(&told("verify-ca", &ca, "localhost", &["backup", "URL"]), 0);
    let options = [format!("tls.ca={ca}"), format!("tls.cert={cert}"), format!("tls.key={key}")];
    let [ca_option, cert_option, key_option] = options.each_ref().map(String::as_str);
    let all = ["-o", ca_option, "-o", cert_option, "-o", key_option];
    let physical = server.url().replace("postgres://", "postgres+physical://");
    let base = repo.json([&all[..], &["backup", &physical]].concat())["snapshot_id"].clone();
    let place = format!("{}:/postgres", base.as_str().unwrap());
    let url = format!("{}/copy", server.url());
    let text = repo.fails(1, [&all[..], &["restore", &place, "--to", &url]].concat());
    let into = ["restore", "latest:/postgres", "--to", &url];
    assert!(text.contains("no PostgreSQL database"), "{text}");
    assert_eq!(repo.snapshot_count(), 5);
    repo.ok([&all[..], &["backup", &format!("{}/postgres", server.url())]].concat());
    repo.ok([&all[..], &into[..]].concat());
    let rows = server
        .program("psql")
        .args(["-XAtqc", "SELECT count(*) FROM t", "copy"])
        .envs([("PGSSLCERT", &cert), ("PGSSLKEY", &key)])
        .output()
        .unwrap();
    assert_eq!(expect(&rows, 0).trim(), "300000");

    let refused = |output: &std::process::Output| {
        expect(output, 25);
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    // What must not be: a name that is not the certificate's, an authority that did not sign it, no encryption, nobody we know.
    for (mode, ca, host) in [
        ("verify-full", &ca, "localhost"),
        ("verify-full", &other, "127.0.0.1"),
        ("verify-ca", &other, "127.0.0.1"),
        ("require", &other, "127.0.0.1"),
    ] {
        let text = refused(&told(mode, ca, host, &["backup", "URL"]));
        assert!(text.contains("certificate"), "{mode}, {host}: {text}");
    }
    let text = refused(&told("disable", &ca, "127.0.0.1", &["backup", "URL"]));
    assert!(text.contains("no encryption"), "{text}");
    let text = repo.fails(25, ["-o", ca_option, "backup", &server.url()]);
    assert!(text.contains("certificate"), "{text}");
    assert_eq!(repo.snapshot_count(), 6);
}

/// Of dumps and files that are damaged in the repository beyond repair: what is damaged is told, and what is left.
#[test]
fn damage_is_told_and_what_it_leaves_behind() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", "CREATE TABLE t AS SELECT i, md5(i::text) m FROM generate_series(1, 100000) i");
    let url = server.url();
    repo.ok(["backup", &format!("{url}/shop")]);
    repo.ok(["backup", &url.replace("postgres://", "postgres+physical://")]);
    for entry in walk(&repo.path("repo/packs")) {
        let mut bytes = std::fs::read(&entry).unwrap();
        // The chunks of manifests are left as they are.
        if bytes.len() > 1 << 20 {
            let third = bytes.len() / 3;
            bytes[third..2 * third].copy_from_slice(&noise(3, third));
            std::fs::write(&entry, bytes).unwrap();
        }
    }
    std::fs::remove_dir_all(repo.path("repo/parity")).unwrap();
    let into = ["restore", "latest~1", "--to"];
    let text = repo.fails(1, [&into[..], &[&format!("{url}/copy")]].concat());
    assert!(text.contains("is damaged") && text.contains("its restore ended early"), "{text}");
    server.sql("postgres", "CREATE DATABASE other");
    let text = repo.fails(1, [&into[..], &[&format!("{url}/other"), "--table", "t"]].concat());
    assert!(text.contains("is damaged") && !text.contains("as far as"), "{text}");
    assert_eq!(server.sql("other", "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "0");
    let text = repo.fails(1, ["restore", "latest", "--target", "back", "--prepare"]);
    assert!(text.contains("is damaged") && text.contains("is not whole"), "{text}");
}

/// All files below a folder.
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
