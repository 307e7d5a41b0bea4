//! What a user meets: exit codes, JSON, keys, tags, rules.

use crate::harness::{Repo, expect, run};

#[test]
fn exit_codes() {
    let repo = Repo::empty();
    assert!(repo.fails(10, ["snapshots"]).contains("no repository"));
    repo.ok(["init"]);
    assert!(repo.fails(1, ["init"]).contains("already exists"));
    let mut wrong = repo.command(["snapshots"]);
    let output = wrong.env("ESKER_PASSWORD", "wrong").output().unwrap();
    expect(&output, 12);
    let output = repo.command(["snapshots", "--json"]).env("ESKER_PASSWORD", "wrong").output().unwrap();
    expect(&output, 12);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!((&error["message_type"], &error["code"]), (&"exit_error".into(), &12.into()));
    assert!(repo.fails(1, ["dump", "latest", "x"]).contains("no snapshot"));
    repo.fails(2, ["no-such-command"]);
    repo.fails(2, ["backup", "--no-such-flag"]);
    let output = repo.command(["snapshots"]).env_remove("ESKER_PASSWORD").output().unwrap();
    expect(&output, 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("ESKER_PASSWORD_FILE"));
}

/// Values that cannot be read are wrong arguments, wherever they stand and whenever they are used.
#[test]
fn values_that_cannot_be_read_are_usage_errors() {
    let repo = Repo::new();
    std::fs::write(repo.path("data"), "data").unwrap();
    repo.ok(["backup", "data"]);
    std::fs::write(repo.path("bad"), "[a\n").unwrap();
    std::fs::write(repo.path("none"), "# nothing\n").unwrap();
    let restore = "restore latest --target out";
    let postgres = "restore latest --to postgres://127.0.0.1:1";
    for (line, said) in [
        (format!("{restore} --include [a"), "pattern '[a'"),
        (format!("{restore} --iinclude a/.."), "pattern 'a/..'"),
        (format!("{restore} --exclude [a"), "pattern '[a'"),
        (format!("{restore} --exclude-file bad"), "bad:1: pattern '[a'"),
        (format!("{restore} --include-file none"), "hold no pattern"),
        ("backup data --exclude [a".into(), "pattern '[a'"),
        ("backup data --iexclude-file bad".into(), "bad:1: pattern '[a'"),
        ("backup data --exclude-if-present a/b".into(), "--exclude-if-present 'a/b'"),
        ("backup --files-from bad".into(), "bad:1: [a"),
        ("backup --files-from none".into(), "nothing to back up"),
        ("backup mongo://127.0.0.1".into(), "no source has this scheme"),
        ("bench mongo://127.0.0.1".into(), "no source has this scheme"),
        ("find [a".into(), "pattern '[a'"),
        ("rewrite latest --exclude [a".into(), "pattern '[a'"),
        ("stream nothing".into(), "is neither a URL nor"),
        (format!("{postgres} --tablespace-map fast"), "--tablespace-map 'fast' is not OLD=NEW"),
        (format!("{postgres} --tablespace-map fast="), "--tablespace-map 'fast=' is not OLD=NEW"),
        (format!("{postgres} --tablespace-map a=b --tablespace-map a=c"), "names 'a' twice"),
        (
            "restore latest --to qdrant+http://127.0.0.1:1 --rename old".into(),
            "--rename 'old' is not OLD=NEW",
        ),
    ] {
        let text = repo.fails(2, line.split(' '));
        assert!(text.contains(said), "{line}: {text}");
    }
    assert_eq!(repo.snapshot_count(), 1);
    assert!(!repo.path("out").exists());
}

#[test]
fn newer_repositories_are_refused_and_left_alone() {
    for (from, to) in [
        ("\"esker\":1", "\"esker\":2"),
        ("\"required_features\":[]", "\"required_features\":[\"time-travel\"]"),
    ] {
        let repo = Repo::new();
        let config = repo.folder().join("config");
        let text = std::fs::read_to_string(&config).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&config, text.replace(from, to)).unwrap();
        let before = run(
            "sh",
            &["-c", &format!("cd {} && find . -type f | xargs sha256sum", repo.folder().display())],
        );
        let output = repo.feed(["backup", "--stdin"], b"x");
        expect(&output, 1);
        assert!(String::from_utf8_lossy(&output.stderr).contains("newer esker"));
        let after = run(
            "sh",
            &["-c", &format!("cd {} && find . -type f | xargs sha256sum", repo.folder().display())],
        );
        assert_eq!(before, after);
    }
}

#[test]
fn keys_come_and_go_without_touching_data() {
    let repo = Repo::new();
    expect(&repo.feed(["backup", "--stdin"], b"secret"), 0);
    std::fs::write(repo.path("second"), "battery staple\n").unwrap();
    repo.ok(["key", "add", "--new-password-file", "second", "--label", "spare"]);
    let packs = run(
        "sh",
        &["-c", &format!("cd {}/packs && find . -type f | xargs sha256sum", repo.folder().display())],
    );
    let with =
        |password: &str, args: &[&str]| repo.command(args).env("ESKER_PASSWORD", password).output().unwrap();
    expect(&with("battery staple", &["dump", "latest", "stdin"]), 0);
    expect(&with("correct horse", &["dump", "latest", "stdin"]), 0);
    let keys = repo.json(["key", "list"]);
    assert_eq!(keys.as_array().unwrap().len(), 2);
    // Another password, and the label stays.
    std::fs::write(repo.path("staple"), "new staple\n").unwrap();
    expect(&with("battery staple", &["key", "passwd", "--new-password-file", "staple"]), 0);
    std::fs::write(repo.path("third"), "changed\n").unwrap();
    repo.ok(["key", "passwd", "--new-password-file", "third"]);
    expect(&with("correct horse", &["snapshots"]), 12);
    expect(&with("changed", &["check", "--read-data"]), 0);
    let keys = with("changed", &["key", "list", "--json"]);
    let keys: serde_json::Value = serde_json::from_slice(&keys.stdout).unwrap();
    let spare = keys.as_array().unwrap().iter().find(|key| key["label"] == "spare").unwrap();
    expect(&with("changed", &["key", "remove", spare["id"].as_str().unwrap()]), 0);
    expect(&with("new staple", &["snapshots"]), 12);
    let last = with("changed", &["key", "list", "--json"]);
    let last: serde_json::Value = serde_json::from_slice(&last.stdout).unwrap();
    expect(&with("changed", &["key", "remove", last[0]["id"].as_str().unwrap()]), 1);
    assert_eq!(
        packs,
        run(
            "sh",
            &["-c", &format!("cd {}/packs && find . -type f | xargs sha256sum", repo.folder().display())]
        )
    );
}

#[test]
fn passwords_from_file_and_command() {
    let repo = Repo::new();
    std::fs::write(repo.path("pw"), "correct horse\n").unwrap();
    for args in [["--password-file", "pw"], ["--password-command", "cat pw"]] {
        let output = repo.command(["snapshots"]).env_remove("ESKER_PASSWORD").args(args).output().unwrap();
        expect(&output, 0);
    }
    let output = repo.command(["snapshots", "--password-command", "false"]).output().unwrap();
    expect(&output, 1);
}

#[test]
fn snapshots_are_chosen_tagged_and_forgotten() {
    let repo = Repo::new();
    for day in 1..=9 {
        let time = format!("2026-03-0{day} 12:00:00");
        let tag = if day % 2 == 0 { "even" } else { "odd,number" };
        expect(&repo.feed(["backup", "--stdin", "--time", &time, "--tag", tag, "--host", "h"], &[day]), 0);
    }
    let list = repo.json(["snapshots"]);
    assert_eq!(list[0]["time"], "2026-03-01T12:00:00.000000000+00:00");
    assert_eq!(repo.json(["snapshots", "--tag", "odd,number"]).as_array().unwrap().len(), 5);
    assert_eq!(repo.json(["snapshots", "--tag", "odd", "--tag", "even"]).as_array().unwrap().len(), 9);
    assert!(repo.fails(1, ["snapshots", "--host", "other"]).contains("nothing fits --host other: none of 9"));
    assert_eq!(repo.run(["dump", "latest~8", "stdin"]).stdout, [1]);
    assert_eq!(repo.run(["dump", "latest", "stdin", "--tag", "even"]).stdout, [8]);
    assert_eq!(repo.run(["dump", "latest", "stdin", "--path", "/stdin", "--host", "h"]).stdout, [9]);
    let id = list[4]["id"].as_str().unwrap();
    assert_eq!(repo.run(["dump", &id[..8], "stdin"]).stdout, [5]);
    repo.ok(["tag", &id[..8], "--add", "keep"]);
    assert_eq!(repo.json(["snapshots", "--tag", "keep"]).as_array().unwrap().len(), 1);

    assert!(repo.fails(2, ["forget"]).contains("no rule"));
    assert!(repo.fails(1, ["forget", "--keep-tag", "typo"]).contains("every snapshot"));
    let plan = repo.json(["forget", "--keep-daily", "3", "--keep-tag", "keep", "--dry-run", "-q"]);
    assert_eq!(
        (plan[0]["keep"].as_array().unwrap().len(), plan[0]["remove"].as_array().unwrap().len()),
        (4, 5)
    );
    assert_eq!(repo.snapshot_count(), 9);
    repo.ok(["forget", "--keep-daily", "3", "--keep-tag", "keep", "--prune"]);
    assert_eq!(repo.snapshot_count(), 4);
    assert_eq!(repo.run(["dump", "latest", "stdin", "--tag", "keep"]).stdout, [5]);
    repo.ok(["check", "--read-data"]);
}

#[test]
fn listings_find_and_stats() {
    let repo = Repo::new();
    std::fs::create_dir_all(repo.path("source/sub")).unwrap();
    std::fs::write(repo.path("source/sub/data.sql"), "x".repeat(1000)).unwrap();
    repo.ok(["backup", "source"]);
    let node = repo.json(["ls", "latest:source/sub"]);
    assert_eq!(
        (&node["name"], &node["size"], &node["type"]),
        (&"data.sql".into(), &1000.into(), &"file".into())
    );
    assert!(repo.ok(["find", "*.sql"]).contains("/source/sub/data.sql"));
    assert_eq!(repo.json(["find", "*.SQL", "-i"])[0]["hits"], 1);
    assert_eq!(repo.json(["find", "nothing"]).as_array().unwrap().len(), 0);
    let stats = repo.json(["stats"]);
    assert_eq!((&stats["total_restore_size"], &stats["snapshots_count"]), (&1000.into(), &1.into()));
    let record: serde_json::Value = serde_json::from_str(&repo.ok(["cat", "snapshot", "latest"])).unwrap();
    let id = record["manifest"]["chunks"][0][0].as_str().unwrap().to_owned();
    let place: serde_json::Value = serde_json::from_str(&repo.ok(["cat", "chunk", &id])).unwrap();
    assert_eq!(place["id"], id.as_str());
    assert!(!repo.run(["cat", "blob", &id]).stdout.is_empty());
    assert!(repo.ok(["cat", "config"]).contains("fastcdc"));
}

#[test]
fn help_completions_and_pages() {
    let repo = Repo::empty();
    for command in [
        "init",
        "backup",
        "snapshots",
        "ls",
        "find",
        "diff",
        "restore",
        "dump",
        "forget",
        "prune",
        "check",
        "stats",
        "key",
        "repair",
        "cat",
        "tag",
        "version",
        "generate",
    ] {
        assert!(repo.ok([command, "--help"]).contains("Usage"), "{command}");
    }
    assert!(repo.ok(["generate", "completions", "bash"]).contains("esker"));
    repo.ok(["generate", "man", "pages"]);
    assert!(std::fs::read_to_string(repo.path("pages/esker-backup.1")).unwrap().contains("stdin"));
    assert!(repo.ok(["version"]).contains("format 1"));
}

#[test]
fn output_that_nobody_reads_is_no_error() {
    let repo = Repo::new();
    expect(&repo.feed(["backup", "--stdin"], &vec![7; 10_000_000]), 0);
    let script =
        format!("{} dump latest stdin | head -c 1 > /dev/null", crate::harness::esker_binary().display());
    let esker = repo.command([""; 0]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &script]).envs(esker.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let output = shell.output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
}
