//! PostgreSQL's server is the one that the URL names: nothing in the environment and no file of the user's leads
//! elsewhere, neither our own sessions nor PostgreSQL's programs.

use crate::harness::{Repo, expect, free_port, wait_for};
use crate::pg::Postgres;
use std::os::unix::fs::PermissionsExt as _;

/// How often somebody has connected to a server that logs it.
fn connections(server: &Postgres) -> usize {
    let log = std::fs::read(server.home.join("log")).unwrap();
    String::from_utf8_lossy(&log).matches("connection received").count()
}

/// Everything by which libpq and its programs are led, to `other`.
fn mislead(repo: &Repo, other: &Postgres) -> Vec<(&'static str, String)> {
    let port = other.port.to_string();
    let service = format!(
        "[other]\nhost=127.0.0.1\nhostaddr=127.0.0.1\nport={port}\nuser=postgres\npassword=sesame\ndbname=decoy\noptions=-c statement_timeout=1\n"
    );
    std::fs::create_dir_all(repo.path("etc")).unwrap();
    for file in ["svc", ".pg_service.conf", "etc/pg_service.conf"] {
        std::fs::write(repo.path(file), &service).unwrap();
    }
    let proof = repo.path("proof").display().to_string();
    for file in [".psqlrc", "etc/psqlrc", "rc"] {
        std::fs::write(repo.path(file), format!("\\! touch {proof}\n\\connect decoy\n")).unwrap();
    }
    std::fs::write(repo.path(".pgpass"), "*:*:*:*:wrong\n").unwrap();
    std::fs::set_permissions(repo.path(".pgpass"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let path = |name: &str| repo.path(name).display().to_string();
    vec![
        ("PGSERVICE", "other".into()),
        ("PGSERVICEFILE", path("svc")),
        ("PGSYSCONFDIR", path("etc")),
        ("PGHOST", "127.0.0.1".into()),
        ("PGHOSTADDR", "127.0.0.1".into()),
        ("PGPORT", port),
        ("PGDATABASE", "decoy".into()),
        ("PGUSER", "nobody".into()),
        ("PGPASSWORD", "wrong".into()),
        ("PGPASSFILE", path(".pgpass")),
        ("PGOPTIONS", "-c default_transaction_read_only=on -c search_path=decoy".into()),
        ("PGAPPNAME", "decoy".into()),
        ("PGTARGETSESSIONATTRS", "standby".into()),
        ("PGLOADBALANCEHOSTS", "random".into()),
        ("PGCLIENTENCODING", "SJIS".into()),
        ("PGDATESTYLE", "German".into()),
        ("PGTZ", "Asia/Tokyo".into()),
        ("PGGEQO", "off".into()),
        ("PGGSSENCMODE", "prefer".into()),
        ("PGKRBSRVNAME", "decoy".into()),
        ("PSQLRC", path("rc")),
        ("PG_COLOR", "always".into()),
        ("LC_ALL", "de_DE.UTF-8".into()),
    ]
}

#[test]
fn only_the_servers_of_the_urls_are_read_and_written() {
    let repo = Repo::new();
    let source = Postgres::version(&repo, 15, "source", &[]);
    let other = Postgres::version(&repo, 15, "other", &["log_connections=on"]);
    let target = Postgres::version(&repo, 15, "target", &[]);
    source.each("postgres", &["CREATE ROLE clerk", "CREATE DATABASE shop"]);
    source.sql(
        "shop",
        "CREATE TABLE t AS SELECT i, now() + i * interval '1 day' AS at FROM generate_series(1, 1000) i",
    );
    other.each("postgres", &["CREATE DATABASE decoy", "CREATE DATABASE shop"]);
    let environment = mislead(&repo, &other);
    let before = connections(&other);
    let misled = |args: &[&str]| {
        let mut command = repo.command(args);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        expect(&command.output().unwrap(), 0)
    };
    for format in ["directory", "custom", "plain"] {
        misled(&["backup", &source.url(), "-o", &format!("postgres.format={format}")]);
        let list = repo.ok(["ls", "latest"]);
        assert!(list.contains("databases/shop") && !list.contains("decoy"), "{list}");
        misled(&["restore", "latest", "--to", &target.url(), "--database", "shop"]);
        assert_eq!(source.dumped("shop"), target.dumped("shop"));
        target.sql("postgres", "DROP DATABASE shop");
    }
    misled(&["backup", &source.url().replace("postgres://", "postgres+physical://")]);
    misled(&["backup", &source.url()]);
    misled(&["restore", "latest", "--to", &target.url()]);
    assert_eq!(source.dumped("shop"), target.dumped("shop"));
    assert_eq!(target.sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'clerk'"), "1");
    assert_eq!(connections(&other), before, "somebody went to the other server");
    assert!(!repo.path("proof").exists());
}

/// A service is honoured by both halves, or refused.
#[test]
fn a_service_counts_where_the_url_names_no_host() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.sql("postgres", "CREATE DATABASE shop");
    server.sql("shop", "CREATE TABLE t AS SELECT generate_series(1, 100) i");
    let service = format!(
        "# mine\n[mine]\nhost=127.0.0.1\nport={}\nuser=postgres\npassword=sesame\ndbname=shop\n",
        server.port
    );
    std::fs::write(repo.path("svc"), service).unwrap();
    let run = |url: &str, environment: &[(&str, &str)]| {
        let mut command = repo.command(["backup", url, "-o", "postgres.format=custom"]);
        command.env("PGSERVICEFILE", repo.path("svc")).envs(environment.iter().copied()).output().unwrap()
    };
    for (url, environment, all) in [
        ("postgres:///?service=mine", [("PGHOST", "127.0.0.9")], false),
        ("postgres://", [("PGSERVICE", "mine")], true),
        ("postgres:///shop", [("PGSERVICE", "mine")], false),
    ] {
        expect(&run(url, &environment), 0);
        let list = repo.ok(["ls", "latest"]);
        assert!(list.contains("databases/shop.dump"), "{list}");
        assert_eq!(list.contains("databases/postgres.dump"), all, "{url}: {list}");
    }
    let output = run("postgres:///?service=none", &[]);
    expect(&output, 25);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("no service 'none'") && text.contains("PGSERVICE"), "{text}");
    assert!(!text.contains("sesame"), "{text}");
}

/// What cannot be honoured by both is refused by name, and a password is shown nowhere.
#[test]
fn parameters_of_urls_are_honoured_or_refused() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.each("postgres", &["CREATE TABLE t AS SELECT generate_series(1, 100) i", "CREATE DATABASE empty"]);
    let nobody = free_port();
    let one = format!("postgres://postgres:sesame@127.0.0.1:{}/postgres", server.port);
    let several = format!("postgres://postgres:sesame@127.0.0.1:{nobody},127.0.0.1:{}/postgres", server.port);
    for (url, parameters) in [
        (&one, "application_name=mine&connect_timeout=5&options=-c%20work_mem%3D5MB"),
        (
            &one,
            "keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=10000",
        ),
        (&one, "keepalives=0&gssencmode=disable&sslmode=prefer&sslsni=1"),
        (&one, "gssencmode=prefer&channel_binding=prefer&client_encoding=LATIN1"),
        (&several, "target_session_attrs=any"),
        (&several, "target_session_attrs=read-write"),
        (&several, "target_session_attrs=primary"),
        (&several, "target_session_attrs=prefer-standby"),
    ] {
        let url = format!("{url}?{parameters}");
        repo.ok(["backup", &url]);
        repo.ok(["backup", &url, "-o", "postgres.format=plain"]);
        repo.ok(["restore", "latest", "--to", &url.replace("/postgres?", "/copy?")]);
        server.sql("postgres", "DROP DATABASE copy");
    }
    repo.ok(["backup", &several.replace("postgres://", "postgres+physical://")]);
    let list = repo.ok(["ls", "latest"]);
    assert!(
        list.contains(&format!("/postgres/127.0.0.1:{nobody},127.0.0.1:{}/physical", server.port)),
        "{list}"
    );
    let hostaddr = format!("postgres://postgres:sesame@db.invalid:{}/empty?hostaddr=127.0.0.1", server.port);
    repo.ok(["backup", &hostaddr]);
    let by_parameters =
        format!("postgres:///empty?host=127.0.0.1&port={}&user=postgres&password=sesame", server.port);
    repo.ok(["backup", &by_parameters]);
    for (url, parameters, told) in [
        (&several, "target_session_attrs=standby", "it is a primary"),
        (&several, "target_session_attrs=read-only", "it is read-write"),
        (&one, "target_session_attrs=nonsense", "prefer-standby"),
        (&one, "channel_binding=require", "channel_binding=require asks for it"),
        (&one, "require_auth=none", "require_auth"),
        (&one, "gssencmode=require", "'gssencmode' of the URL"),
        (&one, "nonsense=1", "unknown parameter 'nonsense'"),
        (&one, "connect_timeout=soon", "connect_timeout"),
        (&one, "options=-c%20nonsense%3D1", "nonsense"),
    ] {
        let text = repo.fails(25, ["backup", &format!("{url}?{parameters}")]);
        assert!(text.contains(told), "{parameters}: {text}");
        assert!(!text.contains("sesame"), "{text}");
    }
    let all = repo.ok(["snapshots", "--json"]);
    assert!(!all.contains("sesame"), "{all}");
    for snapshot in ["latest", "latest~1", "latest~2"] {
        let record = repo.ok(["cat", "snapshot", snapshot]);
        assert!(!record.contains("sesame"), "{record}");
    }
}

/// The server says why it ends a session, and that is shown.
#[test]
fn a_server_that_hangs_up_is_quoted() {
    let repo = Repo::new();
    let server = Postgres::version(
        &repo,
        15,
        "pg",
        &["idle_session_timeout=100ms", "idle_in_transaction_session_timeout=100ms"],
    );
    server
        .sql("postgres", "CREATE TABLE t AS SELECT i, repeat('x', 1000) x FROM generate_series(1, 200000) i");
    // Our sessions are no idlers, whatever the server's settings say.
    repo.ok(["backup", &server.url()]);
    let url = format!("{}/postgres", server.url());
    for format in ["directory", "physical"] {
        let url = if format == "physical" {
            server.url().replace("postgres://", "postgres+physical://")
        } else {
            url.clone()
        };
        let child =
            repo.command(["backup", &url, "--force"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
        // One that still logs in is ended without a word.
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'esker' \
            AND (query LIKE '%TO STDOUT%' OR query LIKE '%BASE_BACKUP%') AND state = 'active'";
        wait_for("a session", 20, || server.sql("postgres", kill) != "0");
        let output = child.wait_with_output().unwrap();
        expect(&output, 25);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("terminating connection due to administrator command"), "{format}: {text}");
    }
    assert_eq!(repo.snapshot_count(), 1);
}
