//! Dumps of one version of PostgreSQL into servers of others.

use crate::harness::Repo;
use crate::pg::{Postgres, bin};

/// The databases of a server.
const DATABASES: &str = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database";

/// No pg_restore reads such a dump and is understood by such a server: that is said before anything is made, whatever is
/// installed.
#[test]
fn a_newer_dump_is_refused_by_an_older_server_before_anything_is_made() {
    let path = format!("{}:{}", bin(18).display(), std::env::var("PATH").unwrap());
    let repo = Repo::new().with("PATH", &path);
    let (newer, older) =
        (Postgres::version(&repo, 18, "newer", &[]), Postgres::version(&repo, 15, "older", &[]));
    newer.sql("postgres", "CREATE DATABASE shop");
    newer.sql("shop", "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1)");
    older.sql("postgres", "CREATE DATABASE there");
    let before = older.sql("postgres", DATABASES);
    for format in ["directory", "custom"] {
        repo.ok(["backup", &format!("{}/shop", newer.url()), "-o", &format!("postgres.format={format}")]);
        for more in [&["--dry-run"][..], &[], &["--replace"]] {
            for target in ["shop", "there"] {
                let url = format!("{}/{target}", older.url());
                let text = repo.fails(1, [&["restore", "latest", "--to", &url][..], more].concat());
                for word in [
                    "of a PostgreSQL 18.",
                    "by pg_dump 18.",
                    "the server is PostgreSQL 15",
                    "archive version 1.16",
                    "restore into PostgreSQL 17 or newer",
                    "postgresql-client-18",
                ] {
                    assert!(text.contains(word), "{format} {more:?} {target}: {word}: {text}");
                }
                assert!(!text.contains("plan for"), "{text}");
            }
        }
        assert_eq!(older.sql("postgres", DATABASES), before, "{format}");
        // Into its own version it comes back, and what is older goes into what is newer.
        repo.ok(["restore", "latest", "--to", &format!("{}/copy", newer.url())]);
        assert_eq!(newer.sql("copy", "SELECT sum(a) FROM t"), "1");
        newer.sql("postgres", "DROP DATABASE copy");
    }
    older.sql("there", "CREATE TABLE t AS SELECT 7 AS a");
    repo.ok(["backup", &format!("{}/there", older.url())]);
    repo.ok(["restore", "latest", "--to", &format!("{}/copy", newer.url())]);
    assert_eq!(newer.sql("copy", "SELECT a FROM t"), "7");
}
