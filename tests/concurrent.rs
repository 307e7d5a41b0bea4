//! Several processes in one repository: backups, prune, death by signal.

use crate::harness::{Repo, expect, noise};
use std::io::Write as _;
use std::process::{Child, Stdio};

fn start(repo: &Repo, args: &[&str]) -> Child {
    repo.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn two_backups_at_once() {
    let repo = Repo::new();
    let shared = noise(1, 8_000_000);
    let mut children = vec![];
    for number in 0..4u64 {
        let name = format!("stream-{number}");
        let mut child = start(&repo, &["backup", "--stdin", "--stdin-filename", &name]);
        let mut stdin = child.stdin.take().unwrap();
        let data = [shared.clone(), noise(number + 2, 3_000_000)].concat();
        let writer = std::thread::spawn(move || stdin.write_all(&data).unwrap());
        children.push((name, child, writer));
    }
    for (name, child, writer) in children {
        writer.join().unwrap();
        expect(&child.wait_with_output().unwrap(), 0);
        let number: u64 = name.rsplit('-').next().unwrap().parse().unwrap();
        let found = repo.json(["snapshots", "--path", &format!("/{name}")]);
        let id = found[0]["id"].as_str().unwrap().to_owned();
        let expected = [shared.clone(), noise(number + 2, 3_000_000)].concat();
        assert!(repo.run(["dump", &id, &name]).stdout == expected, "{name}");
    }
    repo.ok(["check", "--read-data"]);
    assert_eq!(repo.snapshot_count(), 4);
}

#[test]
fn prune_beside_a_running_backup() {
    let repo = Repo::new();
    let old = noise(1, 10_000_000);
    expect(&repo.feed(["backup", "--stdin", "--stdin-filename", "old"], &old), 0);
    // The second backup finds the first one's chunks, then waits while they are forgotten and pruned.
    let mut child = start(&repo, &["backup", "--stdin", "--stdin-filename", "new"]);
    let mut stdin = child.stdin.take().unwrap();
    // The pipe holds a megabyte: when this returns, the backup has read nine, so its session is open.
    stdin.write_all(&old).unwrap();
    let id = repo.json(["snapshots"])[0]["id"].as_str().unwrap().to_owned();
    repo.ok(["forget", &id]);
    let pruned = repo.json(["prune"]);
    assert_eq!(pruned["deferred"], true, "{pruned}");
    stdin.write_all(b"and a little more").unwrap();
    drop(stdin);
    expect(&child.wait_with_output().unwrap(), 0);
    repo.ok(["prune"]);
    repo.ok(["check", "--read-data"]);
    let back = repo.run(["dump", "latest", "new"]).stdout;
    assert!(back == [&old[..], b"and a little more"].concat());
    assert_eq!(repo.snapshot_count(), 1);
}

#[test]
fn killed_backups_are_cleaned_up() {
    let repo = Repo::new();
    let data = noise(4, 90_000_000);
    let mut child = start(&repo, &["backup", "--stdin", "--pack-size", "4"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&data).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(repo.snapshot_count(), 0);
    expect(&repo.feed(["backup", "--stdin", "--stdin-filename", "small"], b"small"), 0);
    let pruned = repo.json(["prune"]);
    assert_eq!(pruned["sessions_fenced"], 1, "{pruned}");
    assert!(pruned["orphans"].as_u64().unwrap() > 10, "{pruned}");
    let stored: u64 = walk(&repo.folder().join("packs"));
    assert!(stored < 100_000, "{stored} bytes are left");
    repo.ok(["check", "--read-data"]);
    assert_eq!(repo.run(["dump", "latest", "small"]).stdout, b"small");
}

/// A laptop that is closed for the whole of a forget and prune.
#[test]
fn a_backup_that_sleeps_through_a_prune() {
    let repo = Repo::new();
    let old = noise(1, 12_000_000);
    expect(&repo.feed(["backup", "--stdin", "--stdin-filename", "old", "--pack-size", "1"], &old), 0);
    let mut child = start(&repo, &["backup", "--stdin", "--stdin-filename", "new", "--pack-size", "1"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&old[..11_000_000]).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let id = repo.json(["snapshots"])[0]["id"].as_str().unwrap().to_owned();
    repo.ok(["forget", &id, "--prune"]);
    // And again, by somebody who takes it for dead.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let pruned = repo.json(["prune", "--fence-after", "1s", "--max-unused", "0"]);
    assert_eq!(pruned["sessions_fenced"], 1, "{pruned}");
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    stdin.write_all(&old[11_000_000..]).unwrap();
    drop(stdin);
    // Standard input cannot be read again: it says so, and claims nothing.
    let output = child.wait_with_output().unwrap();
    expect(&output, 11);
    assert!(String::from_utf8_lossy(&output.stderr).contains("run the command again"), "{output:?}");
    assert_eq!(repo.snapshot_count(), 0);
    expect(&repo.feed(["backup", "--stdin", "--stdin-filename", "new"], &old), 0);
    repo.ok(["check", "--read-data"]);
    assert!(repo.run(["dump", "latest", "new"]).stdout == old);
}

/// Bytes of all files beneath a folder.
fn walk(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path())
            } else {
                entry.metadata().unwrap().len()
            }
        })
        .sum()
}

#[test]
fn forget_and_prune_remove_what_is_unneeded_and_nothing_else() {
    let repo = Repo::empty();
    // A part that begins elsewhere is cut anew up to the first cut that both find: small chunks make that little.
    repo.ok(["init", "--chunk-size", "64k"]);
    let parts: Vec<Vec<u8>> = (0..6).map(|seed| noise(seed + 10, 4_000_000)).collect();
    for night in 0..5 {
        // Each night keeps one part of the night before: packs become partly used.
        let data = [&parts[night][..], &parts[night + 1]].concat();
        expect(&repo.feed(["backup", "--stdin", "--pack-size", "16"], &data), 0);
    }
    let before = walk(&repo.folder().join("packs"));
    let dry = repo.json(["forget", "--keep-last", "2", "--prune", "--dry-run"]);
    assert_eq!(dry["bytes_remove"], 0, "nothing was forgotten yet: {dry}");
    assert_eq!(repo.snapshot_count(), 5);
    repo.ok(["forget", "--keep-last", "2", "--prune", "--max-unused", "0%"]);
    let after = walk(&repo.folder().join("packs"));
    assert!(after < before * 6 / 10, "{before} -> {after}");
    assert!(after < 13_000_000, "{after} bytes for 12 MB of data");
    repo.ok(["check", "--read-data"]);
    for back in 0..2 {
        let night = 4 - back;
        let data = repo.run(["dump", &format!("latest~{back}"), "stdin"]).stdout;
        assert!(data == [&parts[night][..], &parts[night + 1]].concat(), "night {night}");
    }
    let again = repo.json(["prune"]);
    assert_eq!((&again["bytes_remove"], &again["orphans"]), (&0.into(), &0.into()), "{again}");
}
