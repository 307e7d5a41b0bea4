//! What commands print: mistakes as JSON where that is asked for; to a full disk or a closed output, an error; to a reader
//! that hangs up, nothing more.

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

/// An output that is closed, or open for reading only, is not /dev/null.
#[test]
fn output_that_cannot_be_written_to_is_an_error() {
    let repo = filled();
    let ended = |line: &str, redirect: &str| {
        let esker = repo.command([""; 0]);
        let script = format!("set -f; exec {} {line} {redirect}", crate::harness::esker_binary().display());
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).current_dir(repo.path("."));
        shell.envs(esker.get_envs().filter_map(|(key, value)| Some((key, value?))));
        let output = shell.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let others = [
        ("version", "<&- >&-"),
        ("snapshots", "1</dev/null"),
        ("dump latest data/file-1", "1</dev/null"),
        ("--json snapshots", ">&-"),
        ("--json backup data --tag json", ">&-"),
    ];
    for (line, redirect) in PRINTING.map(|line| (line, ">&-")).into_iter().chain(others) {
        let (code, told) = ended(line, redirect);
        assert_eq!(code, Some(1), "{line} {redirect}: {told}");
        let expected = "cannot write to standard output: it is closed";
        assert!(told.contains(expected), "{line} {redirect}: {told}");
    }
    // The work is done all the same.
    assert!(repo.path("out/data/file-1").exists());
    // What prints nothing needs no output; what is thrown away was printed; a file is another output.
    for (line, redirect) in [
        ("-q backup data", ">&-"),
        ("snapshots", ">/dev/null"),
        ("snapshots", "1<>/dev/null"),
        ("-q dump latest data/file-1 -t dumped", ">&-"),
    ] {
        let (code, told) = ended(line, redirect);
        assert_eq!(code, Some(0), "{line} {redirect}: {told}");
    }
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
        "dump latest data -t dumped.tar",
        "rewrite --snapshot-summary",
    ] {
        let value = repo.json(line.split(' '));
        assert_eq!(value["message_type"], "summary", "{line}: {value}");
    }
    for (line, expected) in [
        ("generate man pages", " manual pages into pages"),
        ("dump latest data/file-1 -t file", "wrote data/file-1 of snapshot "),
        ("dump latest data -t folder.tar", "wrote data of snapshot "),
    ] {
        let told = repo.ok(line.split(' '));
        assert!(told.contains(expected), "{line}: {told}");
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
