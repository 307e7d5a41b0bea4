//! What is told, and how: no secret of a command line, of esker.toml or of the environment in any message, log or report;
//! under `--json` nothing but one object a line on standard error.

use crate::harness::{Repo, expect};
use serde_json::Value;
use std::process::Output;

/// URLs and places with a secret in them, well-formed and not, of schemes that esker knows and others.
const SECRET: &[&str] = &[
    "redis://:hunter2@127.0.0.1:1/0",
    "redis://u:hun/hunter2@127.0.0.1:1/0",
    "redis://u%3Ahunter2%40127.0.0.1:1",
    "redis+scan://u:hunter2@127.0.0.1:1",
    "redis+unix:///nowhere.sock?password=hunter2",
    "redis+rdb://u:hunter2@h/nowhere.rdb",
    "qdrant+http://hunter2@127.0.0.1:1",
    "qdrant+http://127.0.0.1:1?api-key=hunter2",
    "qdrant+file://hunter2@h/nowhere",
    "postgres://u:hunter2@127.0.0.1:1/db",
    "postgres://u:hunter2@127.0.0.1:x/db",
    "postgres://127.0.0.1:1/db?sslpassword=hunter2",
    "postgres+physical://u:hunter2@127.0.0.1:1",
    "mysql://u:hunter2@127.0.0.1:1/db",
    "mysql://127.0.0.1:1/db?password=hunter2",
    "mongodb://u:hunter2@127.0.0.1/db",
    "nonsense+x://hunter2@h",
    "s3:http://AK:hunter2@127.0.0.1:1/b",
    "s3:http://127.0.0.1:1/b?password=hunter2",
    "s3:http://127.0.0.1:1/b/x?X-Amz-Signature=hunter2",
    "s3://AK:hunter2@b/x",
    "s3:AK:hunter2@h/b",
    "azure://c/x?sv=1&sig=hunter2",
    "https://u:hunter2@h/x",
    "sftp:u:hunter2@h:/x",
];

/// All that was said.
fn said(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Demands one JSON object on each line of standard error, without colours or other controls; returns them.
fn objects(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let object = |line: &str| {
        assert!(!line.contains(char::is_control), "{line:?}");
        let value: Value =
            serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}\nin {text}"));
        assert!(value["message_type"].is_string(), "{line}");
        value
    };
    text.lines().map(object).collect()
}

#[test]
fn no_secret_of_a_url_is_told() {
    let repo = Repo::new();
    std::fs::write(repo.path("f"), "content").unwrap();
    repo.ok(["backup", "f"]);
    let mut wrong = 0;
    for url in SECRET {
        let timeout = ["-o", "s3.timeout=1", "-o", "s3.retries=0"];
        let place = [&["-r", url][..], &timeout, &["snapshots"]].concat();
        let from = [&["copy", "--from-repo", url][..], &timeout].concat();
        let commands: [&[&str]; 6] = [
            &["backup", url],
            &["restore", "latest", "--to", url],
            &["stream", url],
            &["snapshots", url, "--no-such-flag"],
            &place,
            &from,
        ];
        for (number, words) in commands.into_iter().enumerate() {
            let json = (number + url.len()) % 2 == 0;
            let words = if json { [&["--json"], words].concat() } else { words.to_vec() };
            let output = repo.command(&words).env("ESKER_LOG", "trace").output().unwrap();
            let said = said(&output);
            assert!(!said.contains("hunter2"), "{words:?}: {said}");
            wrong += u32::from(!output.status.success());
            if json {
                objects(&output);
            }
        }
    }
    assert!(wrong > 100, "{wrong} of them failed");
}

#[test]
fn no_secret_of_esker_toml_is_told() {
    for url in SECRET.iter().step_by(4) {
        let repo = Repo::empty();
        for text in [
            format!("repository = \"{url}\""),
            format!("repository = \"repo\"\n[[source]]\nname = \"s\"\nurls = [\"{url}\"]"),
            format!(
                "repository = \"repo\"\n[[source]]\nname = \"s\"\ncommand = [\"false\", \"{url}\", \"-phunter2\"]"
            ),
            format!("repository = \"repo\"\n[[stream]]\nname = \"s\"\nurl = \"{url}\""),
            format!("[[tier]]\nname = \"a\"\nurl = \"s3://b/x\"\nrole = \"primary\"\nendpoint = \"{url}\""),
        ] {
            std::fs::write(repo.path("esker.toml"), &text).unwrap();
            for words in [&["config", "check"][..], &["--json", "run"]] {
                let mut command = repo.command(words);
                command.env_remove("ESKER_REPOSITORY").env("ESKER_LOG", "debug");
                command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "hunter2");
                command.args(["-o", "s3.timeout=1", "-o", "s3.retries=0"]);
                let said = said(&command.output().unwrap());
                assert!(!said.contains("hunter2"), "{text}: {words:?}: {said}");
            }
        }
    }
}

#[test]
fn an_endpoint_with_a_key_in_it_is_refused() {
    let repo = Repo::empty();
    for (name, place) in [("AWS_ENDPOINT_URL", "s3://b/x"), ("AZURE_STORAGE_ENDPOINT", "azure://c/x")] {
        let mut command = repo.command(["-r", place, "snapshots"]);
        command.env(name, "http://AK:hunter2@127.0.0.1:1").env("AZURE_STORAGE_ACCOUNT", "a");
        let output = command.output().unwrap();
        expect(&output, 2);
        let said = said(&output);
        assert!(said.contains("credentials do not belong") && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn the_words_of_a_command_are_nowhere() {
    let repo = Repo::new();
    let words = ["-phunter2", "--password=hunter2", "redis://u:hunter2@h", "MYSQL_PWD=hunter2", "hunter2"];
    let output =
        repo.run([&["-v", "backup", "--stdin-from-command", "--", "/bin/echo"], &words[..]].concat());
    expect(&output, 0);
    assert!(!said(&output).contains("hunter2"), "{}", said(&output));
    for command in [
        &["snapshots", "--json"][..],
        &["snapshots"],
        &["cat", "snapshot", "latest"],
        &["ls", "latest"],
        &["stats", "latest"],
        &["forget", "-n", "--keep-last", "1"],
    ] {
        let output = repo.run(command);
        expect(&output, 0);
        let said = said(&output);
        assert!(!said.contains("hunter2"), "{command:?}: {said}");
    }
    let record = repo.ok(["cat", "snapshot", "latest"]);
    assert!(record.contains("echo"), "{record}");
    // A failure names the program alone, too.
    let output = repo.run([&["backup", "--stdin-from-command", "--", "/bin/false"], &words[..]].concat());
    expect(&output, 20);
    assert!(said(&output).contains("false") && !said(&output).contains("hunter2"), "{}", said(&output));
}

#[test]
fn json_has_one_object_a_line_on_standard_error() {
    let repo = Repo::new();
    std::fs::write(repo.path("f"), "content").unwrap();
    repo.ok(["backup", "f"]);
    let fails: [&[&str]; 9] = [
        &["backup", "nowhere"],
        &["backup", "redis://127.0.0.1:1"],
        &["snapshots", "--no-such-flag"],
        &["no-such-command"],
        &["restore", "latest"],
        &["backup", "\u{1b}]0;title\u{7}\nforged"],
        &["snapshots", "--\u{1b}[31m"],
        &["--password-command", "echo \u{1b}[31mred >&2; false", "snapshots"],
        &["backup", "--stdin-from-command", "--", "sh", "-c", "printf '\\033[31mred\\nnext' >&2; exit 3"],
    ];
    for words in fails {
        for level in ["", "trace"] {
            let output =
                repo.command([&["--json"], words].concat()).env("ESKER_LOG", level).output().unwrap();
            assert!(!output.status.success(), "{words:?}");
            let all = objects(&output);
            let last = all.last().unwrap_or_else(|| panic!("{words:?} said nothing"));
            assert_eq!(last["message_type"], "exit_error", "{words:?}: {last}");
            assert_eq!(last["code"], output.status.code().unwrap(), "{words:?}: {last}");
        }
    }
    // A log, of a cache that is damaged.
    let output = repo.command(["--json", "snapshots"]).env("ESKER_LOG", "trace").output().unwrap();
    expect(&output, 0);
    objects(&output);
}

#[test]
fn nothing_of_others_acts_on_a_terminal() {
    let repo = Repo::new();
    let escape = "\u{1b}]0;title\u{7}";
    for words in [
        &["backup", escape][..],
        &["snapshots", escape],
        &["snapshots", &format!("--{escape}")],
        &["-r", escape, "snapshots"],
        &["restore", escape, "--target", "x"],
        &["backup", "--stdin-from-command", "--", "sh", "-c", "printf '\\033]0;title\\007' >&2; exit 3"],
    ] {
        let output = repo.run(words);
        assert!(!output.status.success(), "{words:?}");
        assert!(!said(&output).contains('\u{1b}'), "{words:?}: {}", said(&output));
    }
}
