//! Programs that esker starts: who may start them at all, and what a failure of theirs in a restore means.

use crate::harness::{Repo, source_root};
use crate::mariadb::Maria;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Where programs are started: those of others in one place, which gives them an environment of their own, and what the
/// user wrote down to be run, in theirs. docs/children.md lists both.
const STARTERS: &[&str] =
    &["connectors/kit/src/child.rs", "connectors/kit/src/command.rs", "cli/src/shell.rs", "cli/src/user.rs"];

fn code(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => code(&path, found),
            false => found.push(path),
        }
    }
}

#[test]
fn programs_are_started_in_one_place() {
    let root = source_root();
    let mut files = vec![];
    ["cli/src", "connectors", "engine/src", "chunkstore/src"]
        .iter()
        .for_each(|folder| code(&root.join(folder), &mut files));
    let table = std::fs::read_to_string(root.join("docs/children.md")).unwrap();
    let mut starters = vec![];
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // What a file tests is not what it does.
        let own = text.split("#[cfg(test)]").next().unwrap();
        if own.contains("Command::new(") {
            starters.push(file.strip_prefix(&root).unwrap().display().to_string());
        }
    }
    for starter in &starters {
        assert!(
            STARTERS.contains(&starter.as_str()),
            "{starter} starts a program: connectors/kit/src/child.rs does that"
        );
        assert!(table.contains(starter), "docs/children.md does not list what {starter} starts");
    }
    assert_eq!(starters.len(), STARTERS.len(), "{starters:?}");
}

/// Variables with secrets that esker or restic reads, or might read in a later version.
const SECRETS: &[&str] = &[
    "ESKER_PASSWORD",
    "ESKER_FROM_PASSWORD",
    "ESKER_REDIS_PASSWORD",
    "ESKER_QDRANT_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "VAULT_TOKEN",
    "BAO_TOKEN",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "RESTIC_PASSWORD",
    "PGPASSWORD",
    "MYSQL_PWD",
    "REDISCLI_AUTH",
];

#[test]
fn commands_of_users_get_no_secret_unless_it_is_handed_on() {
    let toml = "repository = \"DIR/repo\"\npass_environment = [\"AZURE_STORAGE_KEY\"]\n\
        [[source]]\nname = \"s\"\ncommand = [\"sh\", \"-c\", \"env | tee source\"]\n\
        hooks = { before = \"env > before\", after = \"env > after\" }\n\
        [[source]]\nname = \"t\"\ncommand = [\"false\"]\nhooks = { failed = \"env > failed\" }\n";
    let repo = Repo::with_tiers(toml, &[], true);
    let command = |words: &[&str]| {
        let mut command = repo.command(words);
        command.envs(SECRETS.iter().map(|name| (name, "correct horse"))).env("GITHUB_TOKEN", "theirs");
        command
    };
    // A secret on its own is handed on; everything else stays.
    let seen = |name: &str, handed: &[&str]| {
        let text = std::fs::read_to_string(repo.path(name)).unwrap();
        let all = SECRETS.iter().filter(|secret| text.contains(&format!("{secret}=")));
        assert_eq!(all.copied().collect::<Vec<_>>(), handed, "{name}: {text}");
        assert!(text.contains("GITHUB_TOKEN=theirs") && text.contains("PATH="), "{name}: {text}");
    };
    let output = command(&["run", "--pass-env", "PGPASSWORD,MYSQL_PWD"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["source", "before", "after", "failed"] {
        seen(name, &["AZURE_STORAGE_KEY", "PGPASSWORD", "MYSQL_PWD"]);
    }
    let line = "env > password; echo correct horse";
    let words =
        ["--password-command", line, "backup", "--stdin-from-command", "--", "sh", "-c", "env | tee out"];
    let output = command(&words).env("ESKER_PASS_ENV", "REDISCLI_AUTH").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    seen("password", &["AZURE_STORAGE_KEY", "REDISCLI_AUTH"]);
    seen("out", &["AZURE_STORAGE_KEY", "REDISCLI_AUTH"]);
    // Whoever misses one is told the way.
    let output = command(&["backup", "--stdin-from-command", "--", "false"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("did not get") && told.contains("PGPASSWORD") && told.contains("--pass-env"),
        "{told}"
    );
}

/// In front of the real programs: a `mariadb` that fails when it is given a table to make, and is the real one else, and where
/// it is asked and answers in turns.
fn failing_client(folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    let script = "#!/bin/sh\ncase \"$*\" in *binary-mode?--skip-reconnect*) exec /usr/bin/mariadb \"$@\";; esac\ninput=$0.$$\ncat > $input\n\
        if grep -q 'CREATE TABLE' $input; then echo 'ERROR 1105 (HY000): it does not want to' >&2; exit 1; fi\n\
        exec /usr/bin/mariadb \"$@\" < $input\n";
    let path = folder.join("mariadb");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_restore_that_fails_is_no_command_that_was_backed_up() {
    let repo = Repo::new();
    let maria = Maria::start(&repo, "maria");
    maria.root("CREATE DATABASE shop; CREATE TABLE shop.t (a INT); INSERT INTO shop.t VALUES (1)");
    repo.ok(["backup", &format!("{}/shop", maria.url())]);
    failing_client(&repo.path("bin"));
    let path = format!("{}:{}", repo.path("bin").display(), std::env::var("PATH").unwrap());
    let url = format!("{}/copy", maria.url());
    let mut command = repo.command(["restore", "latest", "--to", &url, "--database", "shop"]);
    let output = command.env("PATH", path).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("it does not want to"), "{told}");
}
