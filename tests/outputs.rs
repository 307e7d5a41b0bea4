//! What commands print: mistakes as JSON where that is asked for; to a full disk, an error; to a reader that hangs up,
//! nothing more.

use crate::harness::{Repo, noise};
use serde_json::Value;
use std::fs::File;
use std::io::Read as _;
use std::process::Stdio;

#[test]
fn mistakes_in_the_command_line_are_json_too() {
    let repo = Repo::empty();
    for line in [
        "--json backpu",
        "--json restore latest --target a --nonsense",
        "snapshots --json --pack-size=x",
        "--json",
    ] {
        let told = repo.fails(2, line.split(' '));
        let value: Value =
            serde_json::from_str(told.trim()).unwrap_or_else(|why| panic!("{line}: {why}: {told}"));
        assert_eq!((&value["message_type"], &value["code"]), (&"exit_error".into(), &2.into()), "{told}");
        let message = value["message"].as_str().unwrap();
        assert!(!message.starts_with("error") && message.len() > 10, "{told}");
    }
    // A word of the command that is backed up is none of ours.
    assert!(repo.fails(2, ["backpu", "--", "--json"]).starts_with("error:"));
}

/// What each command prints, one has `-n` where it would change what the next one needs.
const PRINTING: [&str; 23] = [
    "--help",
    "--version",
    "help backup",
    "version",
    "snapshots",
    "ls latest",
    "find file-*",
    "diff latest~1 latest",
    "stats",
    "cat config",
    "dump latest data/file-1",
    "config prices",
    "key list",
    "key add --new-password-file new",
    "tag latest --add one",
    "check",
    "repair index",
    "backup data --tag t",
    "restore latest --target out",
    "forget latest~1 --dry-run",
    "prune",
    "generate completions bash",
    "generate completions zsh",
];

fn filled() -> Repo {
    let repo = Repo::new();
    std::fs::create_dir(repo.path("data")).unwrap();
    for number in 0..40 {
        std::fs::write(repo.path(&format!("data/file-{number}")), noise(number + 1, 3000)).unwrap();
    }
    std::fs::write(repo.path("new"), "battery staple").unwrap();
    repo.ok(["backup", "data"]);
    repo.ok(["backup", "data", "--force"]);
    repo
}

#[test]
fn output_to_a_full_disk_is_an_error() {
    let repo = filled();
    for line in PRINTING {
        for json in [&[][..], &["--json"]] {
            let full = File::options().write(true).open("/dev/full").unwrap();
            let words = json.iter().copied().chain(line.split(' '));
            let output = repo.command(words).stdout(full).stderr(Stdio::piped()).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{line}: {told}");
            assert!(told.contains("cannot write to standard output: No space left"), "{line}: {told}");
        }
    }
    // The work is done all the same.
    assert_eq!(repo.snapshot_count(), 4);
    assert!(repo.path("out/data/file-1").exists());
}

/// Commands that printed nothing say what they did.
#[test]
fn short_commands_have_a_summary() {
    let repo = filled();
    for line in [
        "key add --new-password-file new",
        "forget latest",
        "generate man man",
        "generate completions fish",
        "config prices",
        "dump latest data/file-1 -t dumped",
    ] {
        let value = repo.json(line.split(' '));
        assert_eq!(value["message_type"], "summary", "{line}: {value}");
    }
}

#[test]
fn a_reader_that_hangs_up_is_no_error() {
    let repo = filled();
    let hung_up = |line: &str| {
        let mut child =
            repo.command(line.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut told = String::new();
        child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        (child.wait().unwrap().code(), told)
    };
    let quiet = (Some(141), String::new());
    for line in [
        "ls latest",
        "--json ls latest",
        "find *",
        "snapshots",
        "stats",
        "dump latest data/file-0",
        "cat config",
        "generate completions bash",
        "config prices",
        "version",
    ] {
        assert_eq!(hung_up(line), quiet, "{line}");
    }
    // Help has its reader hang up often, and nothing to stop for.
    assert_eq!(hung_up("--help").1, "");
    let (code, told) = hung_up("--json backup data --tag second");
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(repo.snapshot_count(), 3);
}
