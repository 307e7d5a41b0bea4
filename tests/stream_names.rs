//! Names that people and servers choose become paths of a snapshot: each is one that can be read back, or is refused
//! before anything is stored.

use crate::harness::{Repo, expect, free_port};
use crate::redis::{Redis, apt_redis};

#[test]
fn names_of_streams() {
    let repo = Repo::new();
    let mut count = 0;
    for (name, path) in [
        ("plain", Some("/plain")),
        ("/a/b", Some("/a/b")),
        ("a/b/", Some("/a/b")),
        ("...", Some("/...")),
        ("a/..b/c..", Some("/a/..b/c..")),
        ("-x", Some("/-x")),
        ("%2E%2E", Some("/%2E%2E")),
        ("two\nlines", Some("/two\nlines")),
        ("ž 日本 \u{202e}", Some("/ž 日本 \u{202e}")),
        ("a\\b", Some("/a\\b")),
        ("a:b", Some("/a:b")),
        ("", None),
        ("/", None),
        (".", None),
        ("..", None),
        ("../x", None),
        ("a/../b", None),
        ("a/./b", None),
        ("a//b", None),
        ("a/..", None),
    ] {
        let flag = format!("--stdin-filename={name}");
        let output = repo.feed(["backup", "--stdin", &flag], name.repeat(3).as_bytes());
        let command = repo.run(["backup", &flag, "--stdin-from-command", "--", "echo", "x"]);
        let Some(path) = path else {
            expect(&output, 1);
            expect(&command, 1);
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(text.contains("not a usable name for a stream") && text.contains("'..'"), "{text}");
            continue;
        };
        expect(&output, 0);
        expect(&command, 0);
        count += 2;
        assert_eq!(repo.json(["snapshots", "latest"])[0]["paths"][0], path);
        assert_eq!(repo.ok(["dump", "latest", path]), "x\n", "{name:?}");
        assert_eq!(repo.ok(["dump", "latest~1", path]), name.repeat(3), "{name:?}");
    }
    assert_eq!(repo.snapshot_count(), count);
    repo.ok(["check", "--read-data"]);
    repo.ok(["restore", "latest", "--target", "out"]);
    repo.ok(["prune"]);
}

#[test]
fn names_of_hosts() {
    let repo = Repo::new();
    std::fs::write(repo.path("f"), "x").unwrap();
    for host in ["..", ".", "a/../b", "/etc/passwd", "two\nlines", "日本", "-x", "%2F"] {
        repo.ok(["backup", "f", &format!("--host={host}")]);
        assert_eq!(repo.json(["snapshots", &format!("--host={host}")])[0]["hostname"], host);
        let found = repo.json(["snapshots", &format!("--host={host}")]);
        assert_eq!(found.as_array().unwrap().len(), 1, "{host}");
    }
    repo.ok(["forget", "--keep-last", "1"]);
    repo.ok(["prune"]);
    repo.ok(["check"]);
    // They are no part of any file's name.
    assert!(!repo.path("x").exists() && !repo.path("repo").join("b").exists());
}

#[test]
fn names_in_esker_toml() {
    for (name, right) in [
        ("ok-1_x", true),
        ("", false),
        ("..", false),
        ("a/b", false),
        ("a b", false),
        ("a\\nb", false),
        ("é", false),
    ] {
        let toml = format!(
            "repository = \"DIR/repo\"\n[[source]]\nname = \"{name}\"\ncommand = [\"echo\", \"x\"]\n"
        );
        let repo = Repo::with_tiers(&toml, &[], right);
        match right {
            true => drop(repo.ok(["run"])),
            false => assert!(repo.fails(1, ["run"]).contains("letters, digits"), "{name}"),
        }
    }
    for filename in ["..", "a/../b"] {
        let toml = format!(
            "repository = \"DIR/repo\"\n[[source]]\nname = \"s\"\ncommand = [\"echo\", \"x\"]\nfilename = \"{filename}\"\n"
        );
        let repo = Repo::with_tiers(&toml, &[], true);
        let output = repo.run(["run"]);
        assert!(!output.status.success(), "{filename}");
        assert_eq!(repo.snapshot_count(), 0);
    }
    let toml =
        "repository = \"DIR/repo\"\n[[source]]\nname = \"s\"\ncommand = [\"echo\", \"x\"]\nfilename = \"\"\n";
    assert!(Repo::with_tiers(toml, &[], false).fails(1, ["run"]).contains("esker.toml:5: empty"));
}

/// What was stored under the path of a key is what that path means.
#[test]
fn streams_where_keys_are_looked_for() {
    let repo = Repo::new();
    for name in ["redis/0/file", "redis/0", "redis/h:1/0/a/b"] {
        let output = repo.feed(["backup", "--stdin", "--stdin-filename", name], name.as_bytes());
        expect(&output, 0);
        for words in [vec!["dump", "latest", name], vec!["dump", &format!("latest:{name}")]] {
            assert_eq!(repo.ok(&words), name, "{words:?}");
        }
        assert!(name.ends_with(repo.ok(["ls", &format!("latest:{name}")]).trim()));
        repo.fails(1, ["dump", "latest:redis/7/none"]);
    }
}

#[test]
fn places_of_servers() {
    let repo = Repo::new();
    let socket = repo.path("s..s%2F.sock").display().to_string();
    let args = ["--repl-diskless-sync-delay", "0", "--bind", "127.0.0.1", "-::1", "--unixsocket", &socket];
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &args);
    redis.cli(&["SET", "k", "v"]);
    let port = redis.url().rsplit(':').next().unwrap().to_owned();
    for (url, folder) in [
        (format!("redis://127.0.0.1:{port}"), format!("127.0.0.1:{port}")),
        (format!("redis+scan://localhost:{port}"), format!("localhost:{port}")),
        (
            format!("redis+unix://{}", socket.replace('%', "%25")),
            socket.replace('%', "%25").replace('/', "%2F"),
        ),
        (format!("redis://%6cocalhost:{port}"), format!("localhost:{port}")),
        (format!("redis://[::1]:{port}"), format!("[::1]:{port}")),
    ] {
        if url.contains("[::1]") && std::net::TcpListener::bind("[::1]:0").is_err() {
            continue;
        }
        repo.ok(["backup", &url]);
        let path = format!("/redis/{folder}/dump.rdb");
        assert_eq!(repo.json(["snapshots", "latest"])[0]["paths"][0], path);
        assert_eq!(repo.ok(["dump", &format!("latest:redis/{folder}/0/k")]), "v");
    }
    let count = repo.snapshot_count();
    let free = free_port();
    for url in [
        "redis://..".to_owned(),
        format!("redis://%2E%2E:{free}"),
        format!("redis://a%2F..%2Fb:{free}"),
        format!("redis://%00:{free}"),
        "redis+unix:///".into(),
        "redis+unix://..".into(),
        "redis+unix:///a%00b".into(),
        "redis+unix://host/x".into(),
    ] {
        repo.fails(25, ["backup", &url]);
    }
    assert_eq!(repo.snapshot_count(), count);
    repo.ok(["check", "--read-data"]);
    repo.ok(["prune"]);
}
