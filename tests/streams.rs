//! Streams in and out: standard input, commands, their failures.

use crate::harness::{Repo, expect, noise, text};
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::Duration;

fn round_trip(repo: &Repo, name: &str, data: &[u8], allow_empty: bool) {
    let mut args = vec!["backup", "--stdin", "--stdin-filename", name];
    if allow_empty {
        args.push("--allow-empty");
    }
    expect(&repo.feed(args, data), 0);
    let output = repo.run(["dump", "latest", name]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout == data, "{name}: {} bytes came back of {}", output.stdout.len(), data.len());
}

#[test]
fn of_all_sizes() {
    let repo = Repo::new();
    round_trip(&repo, "empty", b"", true);
    round_trip(&repo, "one", b"x", false);
    for len in [32 << 10, (32 << 10) + 1, 512 << 10, (512 << 10) + 1, 4 << 20, 5_000_001] {
        round_trip(&repo, "odd", &noise(len as u64, len), false);
        round_trip(&repo, "zeros", &vec![0; len], false);
    }
    round_trip(&repo, "folder/random", &noise(1, 100_000_000), false);
    repo.ok(["check", "--read-data"]);
}

#[test]
fn a_gigabyte_of_text() {
    let repo = Repo::new();
    let data = text(1, 1 << 30);
    round_trip(&repo, "text", &data, false);
    let again = repo.feed(["backup", "--stdin", "--stdin-filename", "text", "--json"], &data);
    let summary: serde_json::Value = serde_json::from_str(expect(&again, 0).lines().last().unwrap()).unwrap();
    assert_eq!(summary["data_blobs"], 0, "{summary}");
}

#[test]
fn nothing_is_refused() {
    let repo = Repo::new();
    let output = repo.feed(["backup", "--stdin"], b"");
    expect(&output, 26);
    assert!(String::from_utf8_lossy(&output.stderr).contains("--allow-empty"));
    repo.fails(26, ["backup", "--stdin-from-command", "--", "true"]);
    assert_eq!(repo.snapshot_count(), 0);
}

#[test]
fn commands_that_fail_make_no_snapshot() {
    let repo = Repo::new();
    assert!(repo.fails(20, ["backup", "--stdin-from-command", "--", "false"]).contains("status 1"));
    assert!(
        repo.fails(20, ["backup", "--stdin-from-command", "--", "no-such-command-here"])
            .contains("not found")
    );
    let killed = ["backup", "--stdin-from-command", "--", "sh", "-c", "echo data; kill -9 $$"];
    assert!(repo.fails(20, killed).contains("killed"));
    assert_eq!(repo.snapshot_count(), 0);

    // What a failed run uploaded is not uploaded again.
    let data = noise(7, 20_000_000);
    std::fs::write(repo.path("data"), &data).unwrap();
    repo.fails(20, ["backup", "--stdin-from-command", "--", "sh", "-c", "head -c 10000000 data; exit 3"]);
    assert_eq!(repo.snapshot_count(), 0);
    let summary = repo.json(["backup", "--stdin-from-command", "--", "cat", "data"]);
    let added = summary["data_added"].as_u64().unwrap();
    // The chunk that the end cut short may be as long as chunks get.
    assert!(added < 12_300_000, "{added} bytes were added again");
    assert_eq!(repo.run(["dump", "latest", "cat"]).stdout, data);
    let quoted = repo.json(["backup", "--stdin-from-command", "--", "printf", "%s", "a  b"]);
    assert_eq!(quoted["total_bytes_processed"], 4);
}

#[test]
fn ctrl_c_leaves_no_snapshot_and_keeps_what_was_uploaded() {
    let repo = Repo::new();
    let data = noise(9, 30_000_000);
    let mut child = repo
        .command(["backup", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&data).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    // Its standard input stays open: it must not wait for more.
    let status = child.wait().unwrap();
    let mut message = String::new();
    child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!(status.code(), Some(130), "{message}");
    drop(stdin);
    assert_eq!(repo.snapshot_count(), 0);
    let output = repo.feed(["backup", "--stdin", "--json"], &data);
    let summary: serde_json::Value =
        serde_json::from_str(expect(&output, 0).lines().last().unwrap()).unwrap();
    assert!(summary["data_added"].as_u64().unwrap() < 2_300_000, "{summary}");
    let head: serde_json::Value = serde_json::from_str(&repo.ok(["cat", "head"])).unwrap();
    assert_eq!(head["sessions"].as_array().unwrap().len(), 0, "{head}");
}

#[test]
fn memory_stays_bounded() {
    let repo = Repo::new();
    let data = noise(3, 600 << 20);
    std::fs::write(repo.path("data"), data).unwrap();
    for command in ["backup --stdin < data", "dump latest stdin > out"] {
        let script = format!("/usr/bin/env time -f %M -o rss \"$0\" -q {command}");
        let mut shell = std::process::Command::new("sh");
        let esker = repo.command([""; 0]);
        shell.arg("-c").arg(script).arg(esker.get_program()).current_dir(repo.dir.path());
        shell.envs(esker.get_envs().filter_map(|(key, value)| Some((key, value?))));
        expect(&shell.output().unwrap(), 0);
        let rss: u64 = std::fs::read_to_string(repo.path("rss")).unwrap().trim().parse().unwrap();
        assert!(rss < 384 << 10, "{command}: {rss} KiB resident");
    }
}

/// Of a stream nobody knows how much will come; what came the last time is the guess.
#[test]
fn progress_expects_what_came_the_last_time() {
    let repo = Repo::new();
    let totals = || -> Vec<u64> {
        let mut command = repo.command(["--json", "backup", "--stdin"]);
        command.env("ESKER_PROGRESS_FPS", "4").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(&noise(5, 3_000_000)).unwrap();
        // So long that it is told several times.
        std::thread::sleep(Duration::from_secs(2));
        drop(input);
        let text = expect(&child.wait_with_output().unwrap(), 0);
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let status = lines.filter(|line| line["message_type"] == "status");
        status.filter_map(|line| line["total_bytes"].as_u64()).collect()
    };
    let first = totals();
    assert!(!first.is_empty() && first.iter().all(|total| *total == 0), "{first:?}");
    let second = totals();
    assert!(second.contains(&3_000_000), "{second:?}");
}
