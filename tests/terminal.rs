//! Names that act on a terminal reach it escaped, wherever a name is printed: the exact one is in `--json`.

use crate::harness::{Repo, expect};
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Output};

/// Each sets the title to `owned`, moves the cursor, pretends to be another line, or turns the direction.
const HOSTILE: [&[u8]; 7] = [
    b"a\x1b]0;owned\x07\x1b[31m",
    b"b\nsnapshot 00000000 saved",
    b"c\r\x1b[2K",
    "d\u{9b}31m".as_bytes(),
    "e\u{202e}gpj.exe".as_bytes(),
    b"f\xff\x9b",
    "g\u{2028}h".as_bytes(),
];

/// What [`HOSTILE`] looks like.
const SHOWN: [&str; 7] = [
    r"a\x1b]0;owned\x07\x1b[31m",
    r"b\nsnapshot 00000000 saved",
    r"c\r\x1b[2K",
    r"d\u{9b}31m",
    r"e\u{202e}gpj.exe",
    r"f\xff\x9b",
    r"g\u{2028}h",
];

/// Demands that nothing acts on a terminal.
fn harmless(what: &str, output: &Output) -> String {
    let mut all = String::new();
    for bytes in [&output.stdout, &output.stderr] {
        let text = String::from_utf8(bytes.clone()).unwrap();
        let hidden = |character: char| {
            character.is_control() && character != '\n' || matches!(character, '\u{2028}'..='\u{202e}')
        };
        assert!(!text.contains(hidden), "{what}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("snapshot 00000000")), "{what}: {text:?}");
        all += &text;
    }
    all
}

#[test]
fn names_in_trees_are_escaped_wherever_they_are_printed() {
    let repo = Repo::new().with("ESKER_HOST", "host\n\x1b[31mred");
    let folder = repo.path("tree\x1b[32m");
    std::fs::create_dir(&folder).unwrap();
    for name in HOSTILE {
        std::fs::write(folder.join(OsStr::from_bytes(name)), name).unwrap();
    }
    std::os::unix::fs::symlink("to\x1b[33m", folder.join("link")).unwrap();
    let tree = folder.to_str().unwrap();
    let said = harmless("backup -v", &repo.run(["backup", "-v", "--tag", "tag\x1b[34m", tree]));
    SHOWN.iter().for_each(|name| assert!(said.contains(name), "{name}: {said}"));
    for name in HOSTILE {
        std::fs::write(folder.join(OsStr::from_bytes(name)), b"changed").unwrap();
    }
    repo.ok(["backup", tree]);
    let commands: [&[&str]; 6] = [
        &["ls", "latest"],
        &["ls", "-l", "latest"],
        &["find", "*"],
        &["diff", "latest~1", "latest"],
        &["restore", "-v", "latest", "--target", "out\x1b[35m"],
        &["restore", "-v", "-n", "latest", "--target", "out\x1b[35m", "--delete"],
    ];
    for words in commands {
        let output = repo.run(words);
        expect(&output, 0);
        let said = harmless(&words.join(" "), &output);
        // What a restore did not change it may leave out.
        if words[0] != "restore" {
            SHOWN.iter().for_each(|name| assert!(said.contains(name), "{words:?}: {name}: {said}"));
        }
    }
    let lists: [&[&str]; 5] = [
        &["snapshots"],
        &["forget", "-n", "--keep-last", "1"],
        &["key", "list"],
        &["dump", "latest", "/nothing\n\x1b[31m"],
        &["backup", "/nothing\x1b[31m\nsnapshot 00000000 saved"],
    ];
    for words in lists {
        harmless(&words.join(" "), &repo.run(words));
    }
}

#[test]
fn names_in_json_are_exact_and_act_on_no_terminal() {
    let repo = Repo::new();
    std::fs::create_dir(repo.path("tree")).unwrap();
    let name = "a\x1b[31m\n\u{9b}31m\u{202e}\u{feff}\u{e0041}z";
    std::fs::write(repo.path("tree").join(name), b"x").unwrap();
    repo.ok(["backup", "tree"]);
    let output = repo.run(["--json", "ls", "latest", "--", "/tree"]);
    let text = harmless("ls --json", &output);
    let nodes: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = nodes.iter().filter_map(|node| node["name"].as_str()).collect();
    assert!(names.contains(&name), "{names:?}");
    harmless("cat", &repo.run(["cat", "snapshot", "latest"]));
}

#[test]
fn the_bar_shows_no_escape_sequence_of_a_name() {
    let repo = Repo::new();
    let esker = crate::harness::esker_binary();
    let script =
        format!("(echo x; sleep 0.7) | {} backup --stdin --stdin-filename \"$NAME\"", esker.display());
    let environment = repo.command(["snapshots"]);
    let mut command = Command::new("script");
    command.args(["-qec", &script, "/dev/null"]).env_clear().current_dir(repo.dir.path());
    for (name, value) in environment.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let output = command.env("NAME", "a\x1b]0;owned\x07").env("TERM", "xterm").output().unwrap();
    let text = expect(&output, 0);
    // The bar cuts off what does not fit into 80 columns.
    assert!(text.contains(r"a\x1b]0;owned"), "{text:?}");
    assert!(!text.contains("\x1b]0;owned"), "{text:?}");
}
