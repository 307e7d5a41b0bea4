//! Every flag, command, setting and variable that a message, a comment or a document names is one that there is. What is
//! known is what the command line parser itself knows, by its completions.

use crate::harness::{Repo, source_root};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Flags of other programs, which our code gives them or our documents name. They may stand in files that name the
/// program.
const FOREIGN: &[(&str, &[&str])] = &[
    ("cargo", &["--release", "--test", "--example", "--check", "--nocapture", "--cargo-profile"]),
    ("perf ", &["--call-graph", "--no-children"]),
    ("gdb ", &["--args"]),
    ("zstd", &["--patch-from"]),
    ("benches/compare.py", &["--only"]),
    ("benches/restores.py", &["--only", "--runs"]),
    ("systemctl", &["--now"]),
    ("systemd-", &["--identifier", "--priority", "--unit", "--iterations", "--base-time"]),
    (
        "restic",
        &[
            "--allow-other",
            "--bash-completion",
            "--blob",
            "--cleanup",
            "--copy-chunker-params",
            "--exclude-xattr",
            "--fish-completion",
            "--forget",
            "--include-xattr",
            "--man",
            "--max-age",
            "--no-default-permissions",
            "--no-size",
            "--output",
            "--owner-root",
            "--ownership-by-name",
            "--pack",
            "--path-template",
            "--powershell-completion",
            "--read-all-packs",
            "--repack-cacheable-only",
            "--repack-small",
            "--repack-smaller-than",
            "--repack-uncompressed",
            "--show-pack-id",
            "--time-template",
            "--tls-client-cert",
            "--tree",
            "--unsafe-recover-no-free-space",
            "--with-atime",
            "--zsh-completion",
        ],
    ),
    ("xz ", &["--check"]),
    (
        "pg_",
        &[
            "--clean",
            "--create",
            "--dbname",
            "--exclude-table",
            "--exclude-table-data",
            "--exit-on-error",
            "--format",
            "--if-exists",
            "--no-privileges",
            "--no-role-passwords",
            "--single-transaction",
            "--tablespace-mapping",
        ],
    ),
    ("initdb", &["--locale", "--no-sync", "--pwfile"]),
    (
        "mariadbd",
        &[
            "--auth-root-authentication-method",
            "--bind-address",
            "--datadir",
            "--event-scheduler",
            "--init-file",
            "--no-defaults",
            "--pid-file",
            "--port",
            "--skip-name-resolve",
            "--skip-symbolic-links",
            "--skip-test-db",
            "--socket",
            "--tmpdir",
        ],
    ),
    ("panics::tests::", &["--exact", "--nocapture"]),
    (
        "mariadb",
        &[
            "--all-databases",
            "--batch",
            "--binary-mode",
            "--compact",
            "--connect-timeout",
            "--databases",
            "--comments",
            "--defaults-file",
            "--dump-history",
            "--skip-add-locks",
            "--skip-events",
            "--skip-routines",
            "--skip-triggers",
            "--default-character-set",
            "--defaults-extra-file",
            "--events",
            "--hex-blob",
            "--insert-ignore",
            "--master-data",
            "--max-allowed-packet",
            "--order-by-primary",
            "--raw",
            "--read-from-remote-server",
            "--local-infile",
            "--loose-load-data-local-dir",
            "--result-file",
            "--routines",
            "--single-transaction",
            "--skip-column-names",
            "--skip-reconnect",
            "--unbuffered",
            "--skip-comments",
            "--skip-dump-date",
            "--start-position",
            "--stop-datetime",
            "--stop-never",
            "--stop-never-slave-server-id",
            "--system",
            "--triggers",
        ],
    ),
];

/// What the parser knows: flags and subcommands by command, `""` for esker itself, `tier sync` for one within.
struct Known(BTreeMap<String, BTreeSet<String>>);

impl Known {
    fn ask() -> Self {
        let script = Repo::empty().ok(["generate", "completions", "bash"]);
        let mut commands = BTreeMap::new();
        let mut command = None;
        for line in script.lines().map(str::trim) {
            if let Some(label) = line.strip_suffix(')').filter(|label| label.starts_with("esker")) {
                let words = label.split("__").skip(1).filter(|word| *word != "subcmd");
                command = Some(words.collect::<Vec<_>>().join(" "));
            }
            if let Some(words) = line.strip_prefix("opts=\"")
                && let Some(command) = command.take()
            {
                let words = words.trim_end_matches('"').split_whitespace().map(str::to_owned);
                commands.insert(command, words.collect());
            }
        }
        assert!(commands.len() > 30, "{commands:?}");
        Self(commands)
    }

    fn has(&self, command: &str, word: &str) -> bool {
        self.0.get(command).is_some_and(|words| words.contains(word))
    }

    fn any_has(&self, flag: &str) -> bool {
        self.0.values().any(|words| words.contains(flag))
    }

    fn has_subcommands(&self, command: &str) -> bool {
        self.0.keys().any(|name| name.starts_with(&format!("{command} ")))
    }
}

fn files_in(folder: &Path, end: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_in(&path, end, found);
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
}

/// What users read, and the code that writes it.
fn all_texts() -> Vec<(PathBuf, String)> {
    let root = source_root();
    let mut files: Vec<_> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "GLOSSARY.md", "SECURITY.md", "STYLE.md"]
            .map(|name| root.join(name))
            .to_vec();
    for folder in ["cli/src", "connectors", "engine/src", "chunkstore/src"] {
        files_in(&root.join(folder), ".rs", &mut files);
    }
    files_in(&root.join("docs"), ".md", &mut files);
    files_in(&root.join("changelog"), ".md", &mut files);
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(&path).unwrap())).collect()
}

/// The words `--like-this` of a line.
fn flags(line: &str) -> Vec<&str> {
    let mut found = vec![];
    let mut from = 0;
    while let Some(at) = line[from..].find("--").map(|at| from + at) {
        let rest = &line[at + 2..];
        let len = rest.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'));
        let len = len.unwrap_or(rest.len());
        let before = line[..at].chars().next_back();
        let is_word = rest.starts_with(|c: char| c.is_ascii_lowercase())
            && !before.is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        if is_word {
            found.push(line[at..at + 2 + len].trim_end_matches('-'));
        }
        from = at + 2 + len;
    }
    found
}

/// What is called as `esker …` in a line, up to the end of the quotation or of the command.
fn calls(line: &str, is_code: bool) -> Vec<&str> {
    let mut found = vec![];
    for (at, _) in line.match_indices("esker ") {
        let before = line[..at].chars().next_back();
        let rest = &line[at + 6..];
        let end = match before {
            Some(quote @ ('\'' | '`')) => rest.find(quote),
            None | Some(' ' | '$') if is_code => rest.find(['#', '|', ';', '&']),
            _ => continue,
        };
        found.push(&rest[..end.unwrap_or(rest.len())]);
    }
    found
}

/// Commands that take names of the user's where others have subcommands.
const NAMING: &[&str] = &["drill"];

fn is_plain(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

/// What is wrong with a call.
fn mistake(known: &Known, call: &str) -> Option<String> {
    let words: Vec<&str> = call.split_whitespace().collect();
    let first = words.first()?;
    let command = match first.starts_with('-') {
        true => words.iter().find(|word| is_plain(word) && known.has("", word))?,
        false if !is_plain(first) => return None,
        false if !known.has("", first) => return Some(format!("there is no 'esker {first}'")),
        false => first,
    };
    let mut name = (*command).to_owned();
    if known.has_subcommands(command) {
        let next = words.iter().skip_while(|word| *word != command).nth(1);
        if let Some(sub) = next.filter(|word| is_plain(word)) {
            if known.has(command, sub) {
                name = format!("{command} {sub}");
            } else if !NAMING.contains(command) {
                return Some(format!("there is no 'esker {command} {sub}'"));
            }
        }
    }
    // What follows a lone '--' belongs to another program.
    let own = call.split(" -- ").next()?;
    let wrong = flags(own).into_iter().find(|flag| !known.has(&name, flag))?;
    Some(format!("'esker {name}' has no {wrong}"))
}

#[test]
fn every_flag_and_command_that_is_named_is_one_that_there_is() {
    let known = Known::ask();
    let mut wrong = vec![];
    let mut count = 0;
    for (path, text) in all_texts() {
        let shown = path.strip_prefix(source_root()).unwrap().display().to_string();
        let is_document = shown.ends_with(".md");
        let mut in_code = false;
        for (number, line) in text.lines().enumerate() {
            in_code ^= is_document && line.trim_start().starts_with("```");
            for flag in flags(line) {
                count += 1;
                let foreign =
                    FOREIGN.iter().any(|(program, flags)| flags.contains(&flag) && text.contains(program));
                if !foreign && !known.any_has(flag) {
                    wrong.push(format!("{shown}:{}: no command has {flag}", number + 1));
                }
            }
            for call in calls(line, in_code) {
                count += 1;
                wrong.extend(mistake(&known, call).map(|why| format!("{shown}:{}: {why}", number + 1)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 400, "only {count} were found: the look is wrong");
}

#[test]
fn this_test_sees_what_is_wrong() {
    let known = Known::ask();
    assert_eq!(
        flags("say \"--redis-order raw\", x--y, a --b_c, '--all' -- --"),
        ["--redis-order", "--b", "--all"]
    );
    for (line, is_code, finds) in [
        ("run 'esker forgot --keep-last 1'", false, true),
        ("run 'esker forget --keep-lust 1'", false, true),
        ("run 'esker tier synch'", false, true),
        ("`esker -o redis.order=raw restore --whole`", false, false),
        ("`esker -o redis.order=raw ls --whole`", false, true),
        ("esker reads what is there", false, false),
        ("esker reads what is there", true, true),
        ("esker backup --stdin-from-command -- pg_dump --clean shop", true, false),
        ("esker backup /etc   # with --all of it", true, false),
    ] {
        let found = calls(line, is_code).into_iter().find_map(|call| mistake(&known, call));
        assert_eq!(found.is_some(), finds, "{line}: {found:?}");
    }
}

/// The settings of `-o`, as the help lists them.
fn settings(repo: &Repo) -> BTreeSet<String> {
    let help = repo.ok(["--help"]);
    // Up to the next flag: what is said of a setting may name flags as well, further to the right.
    let is_flag =
        |line: &&str| line.find(|c| c != ' ').is_some_and(|at| at < 8 && line[at..].starts_with('-'));
    let (_, rest) = help.split_once("Set KEY=VALUE:").unwrap();
    let list = rest.lines().take_while(|line| !is_flag(line)).map(str::trim).collect::<Vec<_>>().join(" ");
    let words = list.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-'));
    words.map(|word| word.trim_matches('.')).filter(|word| word.contains('.')).map(str::to_owned).collect()
}

#[test]
fn every_setting_that_is_named_is_one_that_there_is() {
    let repo = Repo::new();
    let known = settings(&repo);
    assert!(known.contains("redis.order") && known.len() > 8, "{known:?}");
    for key in &known {
        let output = repo.run(["-o", &format!("{key}=1"), "snapshots"]);
        assert!(!String::from_utf8_lossy(&output.stderr).contains("unknown option"), "{key}");
    }
    assert!(repo.fails(2, ["-o", "redis.ordre=raw", "snapshots"]).contains("unknown option"));
    let mut wrong = vec![];
    for (path, text) in all_texts() {
        for (at, _) in text.match_indices("-o ") {
            let word =
                text[at + 3..].split(|c: char| c.is_whitespace() || "='`\"".contains(c)).next().unwrap();
            let is_key =
                word.contains('.') && is_plain(&word.replace(|c: char| c == '.' || c.is_ascii_digit(), ""));
            if is_key && !known.contains(word) {
                wrong.push(format!("{}: {word}", path.display()));
            }
        }
        // The parser's own keys stand in the help.
        if path.ends_with("cli/src/config.rs") {
            for line in text.lines() {
                let key = line.trim().strip_prefix('"').and_then(|line| line.split_once("\" =>"));
                if let Some((key, _)) = key.filter(|(key, _)| key.contains('.')) {
                    assert!(known.contains(key), "the help of -o lacks {key}");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "no such setting:\n{}", wrong.join("\n"));
}

#[test]
fn every_variable_that_is_named_is_read() {
    let mut code = String::new();
    let mut files = vec![];
    for folder in ["cli/src", "connectors", "engine/src", "chunkstore/src", "tests", "fuzz/bodies", "benches"]
    {
        files_in(&source_root().join(folder), ".rs", &mut files);
    }
    files.iter().for_each(|path| code += &std::fs::read_to_string(path).unwrap());
    let mut wrong = BTreeSet::new();
    for (path, text) in all_texts() {
        for (at, _) in text.match_indices("ESKER_") {
            let rest = &text[at..];
            let len = rest.find(|c: char| !(c.is_ascii_uppercase() || c == '_')).unwrap_or(rest.len());
            let name = &rest[..len];
            if !code.contains(&format!("\"{name}\"")) {
                wrong.insert(format!("{}: {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "no program reads these: {wrong:#?}");
}
