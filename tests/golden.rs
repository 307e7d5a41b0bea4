//! The independent reader, against golden repositories and against a fresh one.

use crate::harness::{Repo, expect, noise, run, server, source_root, text};
use crate::trees::{describe, odd_tree, similar};
use std::path::Path;

fn reader(args: &[&str]) -> String {
    let script = source_root().join("docs/reader.py");
    let mut all = vec![script.to_str().unwrap()];
    all.extend(args);
    run(server("venv/bin/python"), &all)
}

#[test]
fn the_reader_restores_a_fresh_repository() {
    let repo = Repo::new();
    odd_tree(&repo.path("source"));
    repo.ok(["backup", "source"]);
    // Enough entries that the manifest has more than one level.
    let many = repo.path("many");
    std::fs::create_dir(&many).unwrap();
    for number in 0..40_000 {
        std::fs::write(many.join(format!("{number}")), if number % 100 == 0 { "x" } else { "" }).unwrap();
    }
    repo.ok(["backup", "many"]);
    assert!(repo.json(["snapshots", "latest"])[0]["summary"]["tree_blobs"].as_u64().unwrap() > 256);
    std::fs::write(repo.path("pw"), "correct horse\n").unwrap();
    let (place, password) = (repo.folder().to_str().unwrap(), repo.path("pw"));
    let password = password.to_str().unwrap();
    let list = reader(&[place, password, "list"]);
    assert_eq!(list.lines().count(), 2, "{list}");
    let first = list.split(' ').next().unwrap();
    let out = repo.path("out");
    reader(&[place, password, "restore", first, out.to_str().unwrap()]);
    similar(&describe(&repo.path("source")), &describe(&out.join("source")));
    let out = repo.path("out2");
    reader(&[place, password, "restore", "latest", out.to_str().unwrap()]);
    similar(&describe(&many), &describe(&out.join("many")));
    std::fs::write(repo.path("pw"), "wrong\n").unwrap();
    let output = std::process::Command::new(server("venv/bin/python"))
        .arg(source_root().join("docs/reader.py"))
        .args([place, password, "list"])
        .output()
        .unwrap();
    assert!(!output.status.success());
}

/// A HEAD that is a chain of objects, and keys of several epochs: the last link is what counts.
#[test]
fn the_reader_reads_a_chain_that_was_rotated() {
    let repo = Repo::empty();
    repo.ok(["init", "--head", "chain"]);
    std::fs::write(repo.path("file"), "before").unwrap();
    repo.ok(["backup", "file"]);
    repo.ok(["key", "rotate"]);
    std::fs::write(repo.path("file"), "after").unwrap();
    repo.ok(["backup", "file"]);
    assert!(std::fs::read_dir(repo.folder().join("head")).unwrap().count() > 3);
    std::fs::write(repo.path("pw"), "correct horse\n").unwrap();
    let (place, password) = (repo.folder().to_str().unwrap(), repo.path("pw"));
    let password = password.to_str().unwrap();
    assert_eq!(reader(&[place, password, "list"]).lines().count(), 2);
    for (snapshot, expected) in [("latest~1", "before"), ("latest", "after")] {
        let id = repo.json(["snapshots", snapshot])[0]["id"].as_str().unwrap().to_owned();
        let out = repo.path(snapshot);
        reader(&[place, password, "restore", &id, out.to_str().unwrap()]);
        assert_eq!(std::fs::read_to_string(out.join("file")).unwrap(), expected);
    }
}

/// Versions of a stream that are stored as patches, small ones and those whose frames refer to their bases.
#[test]
fn the_reader_follows_patches() {
    let repo = Repo::new();
    let mut stream = text(1, 4 << 20);
    let backup = ["backup", "--stdin", "--stdin-filename", "dump"];
    let mut spread = 40_000;
    for night in 0..3 {
        expect(&repo.feed(backup, &stream), 0);
        // Ever more of it changes.
        for place in (night..stream.len()).step_by(spread) {
            let end = (place + 40).min(stream.len());
            stream[place..end].copy_from_slice(&noise(place as u64, end - place));
        }
        spread /= 20;
    }
    expect(&repo.feed(backup, &stream), 0);
    let cat = |what: &[&str]| -> serde_json::Value {
        serde_json::from_str(&repo.ok([&["cat"], what].concat())).unwrap()
    };
    let head = cat(&["head"]);
    let mut codecs = std::collections::BTreeSet::new();
    for segment in head["segments"].as_array().unwrap() {
        let segment = cat(&["index", segment["id"].as_str().unwrap()]);
        for pack in segment["packs"].as_array().unwrap() {
            for chunk in pack["chunks"].as_array().unwrap() {
                codecs.insert(chunk["codec"].as_u64().unwrap());
            }
        }
    }
    assert!(codecs.contains(&3) && codecs.contains(&4), "{codecs:?}");
    std::fs::write(repo.path("pw"), "correct horse\n").unwrap();
    let (place, password) = (repo.folder().to_str().unwrap(), repo.path("pw"));
    let out = repo.path("out");
    reader(&[place, password.to_str().unwrap(), "restore", "latest", out.to_str().unwrap()]);
    assert!(std::fs::read(out.join("dump")).unwrap() == stream);
}

/// Every golden repository is restored by the reader and by esker; both equal its recorded sums.
#[test]
fn golden_repositories_restore() {
    let mut count = 0;
    for version in std::fs::read_dir(source_root().join("tests/golden")).unwrap() {
        let golden = version.unwrap().path();
        if !golden.is_dir() {
            continue;
        }
        count += 1;
        let sums = std::fs::read_to_string(golden.join("sums")).unwrap();
        let out = tempfile::tempdir().unwrap();
        let (place, password) = (golden.join("repo"), golden.join("password"));
        let by_reader = out.path().join("reader");
        reader(&[
            place.to_str().unwrap(),
            password.to_str().unwrap(),
            "restore",
            "latest",
            by_reader.to_str().unwrap(),
        ]);
        check_sums(&by_reader, &sums);
        let repo = Repo::empty();
        let run = |args: &[&str]| {
            // Read-only: esker must not need to write in order to restore.
            let mut command = repo.command(["-r", place.to_str().unwrap()].iter().chain(args));
            command.env_remove("ESKER_PASSWORD").env("ESKER_PASSWORD_FILE", &password);
            crate::harness::expect(&command.output().unwrap(), 0)
        };
        run(&["check", "--read-data"]);
        run(&["restore", "latest", "--target", "out"]);
        check_sums(&repo.path("out"), &sums);
        // By its key, and by any two of its shares.
        let mut shares: Vec<String> = std::fs::read_dir(golden.join("shares"))
            .unwrap()
            .map(|entry| entry.unwrap().path().display().to_string())
            .collect();
        shares.sort();
        let key = golden.join("key").display().to_string();
        run(&["--key-file", &key, "snapshots"]);
        run(&["--share", &shares[0], "--share", &shares[2], "snapshots"]);
        for secret in [format!("key:{key}"), format!("shares:{},{}", shares[2], shares[1])] {
            assert_eq!(reader(&[place.to_str().unwrap(), &secret, "list"]).lines().count(), 3);
        }
    }
    assert!(count > 0, "no golden repository");
}

fn check_sums(folder: &Path, sums: &str) {
    let script = format!(
        "cd '{}' && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum",
        folder.display()
    );
    assert_eq!(run("sh", &["-c", &script]), sums);
}
