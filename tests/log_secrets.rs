//! What no log has: a secret, at any level, of any system; and names of keys or values of rows above debug. Each system is
//! backed up from and restored to with a password in its URL, and what it keeps of its own accounts comes along.

use crate::bucket::Bucket;
use crate::harness::{Repo, expect, noise};
use crate::mariadb::Maria;
use crate::pg::Postgres;
use crate::qdrant_double::Qdrant;
use crate::redis::{Redis, apt_redis};
use serde_json::Value;
use std::process::Output;

/// What is looked for.
struct Watch<'a> {
    repo: &'a Repo,
    /// Never told, however they are written.
    secrets: &'a [&'a str],
    /// Not told at info.
    private: &'a [&'a str],
    /// Targets of which there are events at debug.
    targets: &'a [&'a str],
}

fn said(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Watch<'_> {
    #[track_caller]
    fn has_no_secret(&self, words: &[&str], text: &str) {
        for secret in self.secrets.iter().chain(&["correct horse"]) {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{words:?}: '{secret}' in {line:?}");
        }
    }

    /// Runs a command with all that there is in a file, as JSON; returns the events.
    #[track_caller]
    fn traced(&self, words: &[&str]) -> Vec<Value> {
        let file = self.repo.path("trace");
        let _ = std::fs::remove_file(&file);
        let log = ["--log", "trace", "--log-file", "trace", "--log-format", "json"];
        let output = self.repo.run([&log, words].concat());
        self.has_no_secret(words, &said(&output));
        expect(&output, 0);
        let text = std::fs::read_to_string(file).unwrap();
        self.has_no_secret(words, &text);
        let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for target in self.targets {
            assert!(events.iter().any(|event| event["target"] == *target), "{words:?}: nothing of {target}");
        }
        events
    }

    /// Runs a backup at trace, as text; what of it is at info is a story of few lines.
    #[track_caller]
    fn backed_up(&self, words: &[&str]) {
        let output = self.repo.command(words).env("ESKER_LOG", "trace").output().unwrap();
        self.has_no_secret(words, &said(&output));
        expect(&output, 0);
        let all = String::from_utf8_lossy(&output.stderr).into_owned();
        for target in self.targets {
            assert!(all.contains(&format!("DEBUG {target}: ")), "{words:?}: nothing of {target} in {all}");
        }
        let is_quiet = |line: &&str| line.contains(" DEBUG ") || line.contains(" TRACE ");
        let told: Vec<&str> = all.lines().filter(|line| !is_quiet(line)).collect();
        for name in self.private {
            let line = told.iter().find(|line| line.contains(name));
            assert!(line.is_none(), "{words:?}: '{name}' in {line:?}");
        }
        let told = told.join("\n");
        assert!(told.lines().count() < 40, "{told}");
        let story =
            ["started command=backup", "session opened", "source started", "source read", "snapshot saved"];
        for part in story {
            assert!(told.contains(part), "no '{part}' in {told}");
        }
    }
}

#[test]
fn of_redis() {
    let repo = Repo::new();
    let args = ["--requirepass", "sesame", "--repl-diskless-sync-delay", "0"];
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &args);
    redis.cli(&["SET", "patient:mueller", "diagnosis"]);
    let place = format!("127.0.0.1:{}", redis.port());
    let watch = |targets| Watch {
        repo: &repo,
        secrets: &["sesame"],
        private: &["patient", "mueller", "diagnosis"],
        targets,
    };
    let url = format!("redis://:sesame@{place}");
    watch(&["statement", "store"]).backed_up(&["backup", &url]);
    watch(&["statement", "store"]).backed_up(&["backup", &format!("redis+scan://:sesame@{place}")]);
    redis.cli(&["FLUSHALL"]);
    let events = watch(&["statement", "store"]).traced(&["restore", "latest", "--to", &url]);
    assert!(events.iter().any(|event| event["spans"][0]["name"] == "restore"), "{events:#?}");
    assert_eq!(redis.cli(&["GET", "patient:mueller"]).trim(), "diagnosis");
}

#[test]
fn of_postgresql() {
    let repo = Repo::new();
    let server = Postgres::start(&repo);
    server.each("postgres", &["CREATE ROLE clerk LOGIN PASSWORD 'hunter2'", "CREATE DATABASE shop"]);
    server.sql("shop", "CREATE TABLE patients AS SELECT 'mueller' AS name");
    let watch = Watch {
        repo: &repo,
        secrets: &["sesame", "hunter2", "SCRAM-SHA-256$"],
        private: &["mueller"],
        targets: &["statement", "child", "store"],
    };
    watch.backed_up(&["backup", &server.url()]);
    let other = Postgres::version(&repo, 15, "other", &[]);
    let events = watch.traced(&["restore", "latest", "--to", &other.url()]);
    let programs: Vec<&Value> = events.iter().filter(|event| event["target"] == "child").collect();
    assert!(programs.iter().all(|event| event["fields"]["program"].is_string()), "{programs:#?}");
    assert_eq!(other.sql("shop", "SELECT name FROM patients"), "mueller");
}

#[test]
fn of_mariadb() {
    let repo = Repo::new();
    let server = Maria::start(&repo, "maria");
    server.root(
        "CREATE USER clerk IDENTIFIED BY 'hunter2'; CREATE DATABASE shop; USE shop; \
         CREATE TABLE patients (name text); INSERT INTO patients VALUES ('mueller')",
    );
    let hash = server.root("SELECT PASSWORD('hunter2')");
    let watch = Watch {
        repo: &repo,
        secrets: &["ses\"ame", "ses\\\"ame", "ses%22ame", "hunter2", hash.trim()],
        private: &["mueller"],
        targets: &["statement", "child", "store"],
    };
    watch.backed_up(&["backup", &server.url()]);
    let other = Maria::start(&repo, "other");
    watch.traced(&["restore", "latest", "--to", &other.url()]);
    assert_eq!(other.root("SELECT name FROM shop.patients"), "mueller");
}

#[test]
fn of_qdrant() {
    let repo = Repo::new();
    let qdrant = Qdrant::start(&repo.path("qdrant"), Some("hunter2"));
    qdrant.client("fill('things', 100)");
    let watch =
        Watch { repo: &repo, secrets: &["hunter2"], private: &["point 1"], targets: &["statement", "store"] };
    let url = qdrant.url().replace("://", "://:hunter2@");
    watch.backed_up(&["backup", &url]);
    watch.traced(&["restore", "latest", "--to", &url, "--include", "things", "--rename", "things=others"]);
}

#[test]
fn of_a_store_and_of_a_command() {
    let bucket = Bucket::start();
    let keys = [
        ("AWS_ACCESS_KEY_ID", "AK"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ("AWS_SESSION_TOKEN", "sesame"),
        ("AWS_REGION", "eu-central-1"),
    ];
    let keys = keys.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let repo = Repo::at(bucket.place(), keys.to_vec());
    std::fs::write(repo.path("data"), noise(1, 100_000)).unwrap();
    let watch =
        |targets| Watch { repo: &repo, secrets: &["hunter2", "sesame"], private: &["packs/"], targets };
    watch(&["store"]).backed_up(&["backup", "data"]);
    watch(&["store"]).traced(&["restore", "latest", "--target", "there"]);
    watch(&["store"]).traced(&["forget", "--keep-last", "1", "--prune"]);
    let words = ["backup", "--stdin-from-command", "--", "/bin/echo", "-phunter2", "sesame"];
    watch(&["child", "store"]).backed_up(&words);
}
