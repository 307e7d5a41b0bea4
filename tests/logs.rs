//! The log: its levels, its file and its format; a run told in few lines at info; every request to the store at debug.

use crate::harness::{Repo, expect, noise};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

/// The lines of standard error.
fn lines(output: &Output) -> Vec<String> {
    String::from_utf8(output.stderr.clone()).unwrap().lines().map(str::to_owned).collect()
}

/// Demands that lines with these words come in this order.
#[track_caller]
fn in_order(lines: &[String], words: &[&str]) {
    let mut rest = lines.iter();
    for word in words {
        assert!(rest.any(|line| line.contains(word)), "no '{word}' where it belongs: {lines:#?}");
    }
}

/// What every backup tells, in this order.
const STORY: &[&str] = &[
    "esker: started command=backup version=",
    "session opened purpose=backup session=",
    "source started kind=files origin=",
    "source read kind=files origin=",
    "HEAD swapped generation=",
    "session committed session=",
    "snapshot saved snapshot=",
    "esker: ended command=backup code=0 ms=",
];

#[test]
fn info_tells_the_story_of_a_backup_in_few_lines() {
    let repo = Repo::new();
    std::fs::create_dir(repo.path("data")).unwrap();
    for number in 0..300 {
        std::fs::write(repo.path(&format!("data/{number}")), noise(number, 20_000)).unwrap();
    }
    // Six packs.
    let words = ["--pack-size", "1", "backup", "data"];
    let output = repo.command(words).env("ESKER_LOG", "info").output().unwrap();
    expect(&output, 0);
    let told = lines(&output);
    assert!(told.len() < 40, "{} lines: {told:#?}", told.len());
    in_order(&told, STORY);
    assert!(
        told.iter().any(|line| line.contains("backup{source=") && line.contains("/data}: ")),
        "{told:#?}"
    );
    // The same by -v; and nothing without either.
    std::fs::write(repo.path("data/new"), "new").unwrap();
    let output = repo.run(["-v", "backup", "data"]);
    expect(&output, 0);
    in_order(&lines(&output), STORY);
    let output = repo.run(["backup", "data"]);
    expect(&output, 0);
    assert!(!lines(&output).iter().any(|line| line.contains("INFO")), "{:#?}", lines(&output));
}

#[test]
fn debug_has_every_request_to_the_store_with_its_bytes_and_its_duration() {
    let repo = Repo::new();
    std::fs::write(repo.path("data"), noise(1, 100_000)).unwrap();
    let output = repo.run(["-vv", "--log-format", "json", "backup", "data"]);
    expect(&output, 0);
    let events: Vec<Value> =
        lines(&output).iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let requests: Vec<&Value> = events.iter().filter(|event| event["target"] == "store").collect();
    let made = |operation: &str, object: &str| {
        let fits = |event: &&&Value| {
            let fields = &event["fields"];
            fields["operation"] == operation && fields["object"].as_str().unwrap().starts_with(object)
        };
        requests.iter().filter(fits).count()
    };
    assert!(made("put", "packs/") >= 2 && made("put", "index/") == 1, "{requests:#?}");
    assert!(made("swap", "HEAD") == 2 && made("read_versioned", "HEAD") >= 2, "{requests:#?}");
    for request in &requests {
        assert_eq!(request["level"], "debug");
        assert!(request["fields"]["ms"].as_f64().unwrap() >= 0.0, "{request}");
        assert!(request["fields"]["result"].is_string(), "{request}");
    }
    let uploaded: Vec<&Value> = events.iter().filter(|event| event["message"] == "pack uploaded").collect();
    assert_eq!(uploaded.len(), made("put", "packs/"));
    let bytes: u64 = uploaded.iter().map(|event| event["fields"]["bytes"].as_u64().unwrap()).sum();
    assert!(bytes > 100_000, "{uploaded:#?}");
    // What a thread of a pool does is told as part of what asked for it.
    assert!(uploaded.iter().all(|event| event["spans"][0]["name"] == "backup"), "{uploaded:#?}");
    // At info there is none of it.
    let output = repo.run(["-v", "backup", "data"]);
    assert!(!lines(&output).iter().any(|line| line.contains("DEBUG")));
}

#[test]
fn a_file_takes_the_log_and_standard_error_keeps_the_warnings() {
    let repo = Repo::new();
    std::fs::write(repo.path("data"), "data").unwrap();
    let with_file = |words: &[&str]| repo.run([&["--log-file", "log"], words].concat());
    let output = with_file(&["backup", "data"]);
    expect(&output, 0);
    assert!(!lines(&output).iter().any(|line| line.contains("INFO")), "{:#?}", lines(&output));
    let log = || std::fs::read_to_string(repo.path("log")).unwrap();
    let told: Vec<String> = log().lines().map(str::to_owned).collect();
    in_order(&told, STORY);
    for line in &told {
        let time = line.split(' ').next().unwrap();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{line}");
    }
    assert_eq!(std::fs::metadata(repo.path("log")).unwrap().permissions().mode() & 0o777, 0o600);
    // It is appended to, as JSON if that is asked for, and as loud as that is.
    let before = log().len();
    expect(&with_file(&["--log-format", "json", "--log", "warn,store=debug", "snapshots"]), 0);
    let more = log().split_off(before);
    assert!(!more.is_empty());
    for line in more.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&event["message_type"], &event["target"]), (&"log".into(), &"store".into()), "{line}");
    }
    // What a program says is for whoever sits there, and in the file.
    let words = ["--stdin-from-command", "--", "sh", "-c", "echo spoken >&2; echo out"];
    let output = with_file(&[&["backup"], &words[..]].concat());
    expect(&output, 0);
    assert!(lines(&output).iter().any(|line| line == "spoken"), "{:#?}", lines(&output));
    assert!(log().lines().any(|line| line.contains("said: ") && line.contains("spoken")), "{}", log());
    // A log that cannot be written is no run.
    let output = repo.run(["--log-file", "no/such/folder", "snapshots"]);
    expect(&output, 1);
    assert!(lines(&output).concat().contains("log file"), "{:#?}", lines(&output));
}

#[test]
fn what_cannot_be_followed_is_refused() {
    let repo = Repo::new();
    let output = repo.command(["snapshots"]).env("ESKER_LOG", "store=loud").output().unwrap();
    expect(&output, 2);
    assert!(lines(&output).concat().contains("ESKER_LOG"), "{:#?}", lines(&output));
    for filter in ["store=loud", "nonsense", "inof", "", "store=", "info,", "store"] {
        expect(&repo.run(["--log", filter, "snapshots"]), 2);
    }
    let output = repo.command(["snapshots"]).env("ESKER_LOG", "bad").output().unwrap();
    expect(&output, 2);
    // An empty variable counts as not set.
    expect(&repo.command(["snapshots"]).env("ESKER_LOG", "").output().unwrap(), 0);
    expect(&repo.run(["--json", "--log-format", "text", "snapshots"]), 2);
    expect(&repo.run(["--json", "--log-format", "text", "--log-file", "log", "snapshots"]), 0);
    // A flag goes before the variable, and that before -v.
    let output =
        repo.command(["-vv", "--log", "error", "snapshots"]).env("ESKER_LOG", "trace").output().unwrap();
    expect(&output, 0);
    assert!(!lines(&output).iter().any(|line| line.contains(": ")), "{:#?}", lines(&output));
}

#[test]
fn a_log_that_is_not_written_whole_is_told_and_leaves_no_code_0() {
    let repo = Repo::new();
    std::fs::write(repo.path("data"), "data").unwrap();
    let output = repo.run(["--log-file", "/dev/full", "backup", "data"]);
    expect(&output, 3);
    let told = lines(&output).into_iter().filter(|line| line.contains("log file cannot be written")).count();
    assert_eq!(told, 1, "{:#?}", lines(&output));
    assert_eq!(repo.snapshot_count(), 1);
    let output = repo.run(["--json", "--log-file", "/dev/full", "snapshots"]);
    expect(&output, 3);
    for line in lines(&output) {
        assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
    }
    // The code of a failure stays.
    repo.fails(1, ["--log-file", "/dev/full", "ls", "nosuch"]);
}

#[test]
fn a_pipe_that_nobody_reads_is_no_log_file() {
    let repo = Repo::new();
    let pipe = repo.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let output = repo.run(["--log-file", "pipe", "snapshots"]);
    expect(&output, 1);
    assert!(lines(&output).concat().contains("log file"), "{:#?}", lines(&output));
    // With a reader it is one.
    let mut reader = std::process::Command::new("cat")
        .stdin(std::fs::File::options().read(true).write(true).open(&pipe).unwrap())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let output = repo.run(["--log-file", "pipe", "--log", "trace", "snapshots"]);
    reader.kill().unwrap();
    reader.wait().unwrap();
    expect(&output, 0);
}
