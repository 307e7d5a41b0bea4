//! What commands print with `--json`: every command of the parser, held against docs/json.md; and filters that fit
//! nothing, which are errors everywhere.

use crate::glacier::Glacier;
use crate::harness::{Repo, noise, source_root};
use crate::redis::{Redis, apt_redis};
use serde_json::Value;
use std::collections::BTreeSet;

const TOML: &str = r#"
password_file = "DIR/password"

[[tier]]
name = "local"
url = "file:DIR/repo"
role = "primary"

[[tier]]
name = "cold"
url = "s3://cold/outputs"
endpoint = "http://127.0.0.1:PORT"
class = "GLACIER"
retries = 2

[[source]]
name = "data"
urls = ["DIR/data"]

[[promise]]
keep = "30d"
tiers = ["local", "cold"]

[[run]]
name = "nightly"
schedule = "*-*-* 02:00"
"#;

/// The commands, each with the row of docs/json.md that describes what it prints, in an order in which each has
/// something to do. `REDIS` is a server, `OTHER` a repository.
const COMMANDS: &[(&str, &str)] = &[
    ("init", "init"),
    ("backup", "backup data"),
    ("backup", "backup REDIS"),
    ("snapshots", "snapshots"),
    ("ls", "ls latest~1"),
    ("ls SNAP:redis/DB/", "ls latest:redis/0/"),
    ("list", "list snapshots"),
    ("find", "find file-*"),
    ("diff", "diff latest~1 latest"),
    ("restore", "restore latest~1 --target out"),
    ("restore --to", "restore latest --to REDIS --dry-run"),
    ("restore --to", "restore latest --to REDIS --replace"),
    ("dump", "dump latest~1 data/file-0 -t dumped"),
    ("tag", "tag latest --add one"),
    ("rewrite", "rewrite latest~1 --exclude file-1 --dry-run"),
    ("stats", "stats"),
    ("stats", "stats --mode raw-data"),
    ("cat", "cat config"),
    ("check", "check"),
    ("copy", "copy --from-repo OTHER"),
    ("key list", "key list"),
    ("key epochs", "key epochs"),
    ("key rotate", "key rotate"),
    ("key add", "key add --new-password-file new"),
    ("key remove", "key remove ADDED"),
    ("key passwd", "key passwd --new-password-file old"),
    ("key sheet", "key sheet sheet.html"),
    ("key split", "key split 2/3 --output shares"),
    ("key re-encrypt", "key re-encrypt --dry-run"),
    ("host add", "host add web1 --write-only --place PLACE"),
    ("host list", "host list"),
    ("host admit", "host admit"),
    ("host revoke", "host revoke web1"),
    ("key rotate", "key rotate -r OTHER"),
    ("key re-encrypt", "key re-encrypt -r OTHER"),
    ("key retire", "key retire 1 -r OTHER"),
    ("repair index", "repair index --dry-run"),
    ("repair head", "repair head --dry-run"),
    ("repair packs", "repair packs --dry-run"),
    ("repair snapshots", "repair snapshots --dry-run"),
    ("tier sync", "tier sync"),
    ("tier status", "tier status"),
    ("tier prune", "tier prune --dry-run"),
    ("tier adopt", "tier adopt local"),
    ("thaw plan", "thaw plan latest"),
    ("thaw start", "thaw start latest --dry-run"),
    ("thaw status", "thaw status latest"),
    ("heal", "heal"),
    ("run", "run nightly"),
    ("drill", "drill data --scratch-dir drills"),
    ("drill list", "drill list"),
    ("drill show", "drill show latest --export exported --html page"),
    ("drill verify", "drill verify"),
    ("drill verify", "drill verify --file exported"),
    ("drill key", "drill key"),
    ("forget, by promises", "forget --dry-run"),
    ("forget", "forget --keep-last 1 --dry-run"),
    ("forget, of ids", "forget latest"),
    ("prune", "prune --dry-run"),
    ("unlock", "unlock"),
    ("plan", "plan --days 3 --nights one two"),
    ("bench", "bench --calibrate big"),
    ("config check", "config check"),
    ("config prices", "config prices"),
    ("generate completions", "generate completions bash"),
    ("generate man", "generate man man"),
    ("generate systemd", "generate systemd units"),
    ("connectors", "connectors"),
    ("version", "version"),
];

/// Those that need a server that stays, a repository of restic or a tier that is not there yet; `tests/streams.rs`,
/// `physical.rs`, `import.rs` and `lost.rs` run them.
const ELSEWHERE: &[&str] = &[
    "stream",
    "restore --prepare",
    "import",
    "tier init",
    "ls SNAP:postgres/HOST/DB/, ls SNAP:mysql/HOST/DB/",
];

struct Place {
    repo: Repo,
    other: Repo,
    redis: Redis,
    _glacier: Glacier,
}

fn place() -> Place {
    let glacier = Glacier::start(1.0, 60.0);
    let repo = Repo::with_tiers(
        &TOML.replace("PORT", &glacier.port.to_string()),
        &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")],
        false,
    );
    for (name, text) in [("password", "correct horse"), ("new", "battery staple"), ("old", "correct horse")] {
        std::fs::write(repo.path(name), text).unwrap();
    }
    std::fs::create_dir(repo.path("data")).unwrap();
    for number in 0..40 {
        std::fs::write(repo.path(&format!("data/file-{number}")), noise(number + 1, 3000)).unwrap();
    }
    for name in ["one", "two", "big"] {
        let len = if name == "big" { 8 << 20 } else { 300_000 };
        std::fs::write(repo.path(name), crate::harness::text(1, len)).unwrap();
    }
    let other = Repo::new();
    std::fs::write(other.path("f"), "other").unwrap();
    other.ok(["backup", "f"]);
    let redis = Redis::start(&apt_redis(), &repo.path("redis"), &[]);
    redis.fill(100);
    Place { repo, other, redis, _glacier: glacier }
}

impl Place {
    fn words(&self, line: &str, added: &str) -> Vec<String> {
        let line = line.replace("REDIS", &self.redis.url()).replace("ADDED", added);
        let line = line.replace("PLACE", self.repo.path("repo").to_str().unwrap());
        let line = line.replace("OTHER", self.other.folder().to_str().unwrap());
        line.split(' ').map(str::to_owned).collect()
    }
}

/// The commands that the parser knows: `key add`, not `key`.
fn all_commands(repo: &Repo) -> BTreeSet<String> {
    let listed = |words: &[&str]| -> Vec<String> {
        let help = repo.ok(words.iter().copied().chain(["--help"]));
        let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let lines = lines.take_while(|line| line.starts_with("  "));
        let names = lines.filter(|line| !line.starts_with("   "));
        names.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
    };
    let mut all = BTreeSet::new();
    for command in listed(&[]).into_iter().filter(|name| name != "help") {
        let parts: Vec<String> = listed(&[&command]).into_iter().filter(|name| name != "help").collect();
        // `cat` prints a record of each kind in the same way.
        if parts.is_empty() || command == "cat" {
            all.insert(command);
        } else {
            all.extend(parts.iter().map(|part| format!("{command} {part}")));
        }
    }
    all
}

/// The rows of docs/json.md: a command, and what is said of it.
fn documented(page: &str) -> Vec<(String, String)> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
    rows.map(|(command, said)| (command.replace('`', ""), said.to_owned())).collect()
}

/// What is said of a row, with the rows that it refers to, and what stands around the table.
fn said_of(row: &str, rows: &[(String, String)], page: &str) -> String {
    let own = rows.iter().find(|(name, _)| name == row);
    let mut said = own.map_or_else(String::new, |(_, said)| said.clone());
    for (name, other) in rows {
        if said.contains(&format!("as for `{name}`")) || said.contains(&format!("as for {name}")) {
            said += other;
        }
    }
    let around = page.lines().filter(|line| !line.starts_with('|'));
    around.fold(said, |said, line| said + "\n" + line)
}

/// Whether a field is named; one for bytes that are not UTF-8 is `_exact` of it.
fn has_word(text: &str, word: &str) -> bool {
    let word = word.strip_suffix("_exact").unwrap_or(word);
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

#[test]
fn every_command_prints_the_json_that_is_documented() {
    let place = place();
    let page = std::fs::read_to_string(source_root().join("docs/json.md")).unwrap();
    let rows = documented(&page);
    let (mut wrong, mut added) = (vec![], String::new());
    for (row, line) in COMMANDS {
        let output = place.repo.run([&["--json".to_owned()], place.words(line, &added).as_slice()].concat());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code();
        // 3 and 22: done, and something is behind or frozen.
        if !matches!(code, Some(0 | 3 | 22)) {
            wrong.push(format!("{line}: {code:?} {told}"));
        }
        let text = String::from_utf8(output.stdout).unwrap();
        let said = said_of(row, &rows, &page);
        let mut objects = 0;
        for found in text.lines() {
            let Ok(value) = serde_json::from_str::<Value>(found) else {
                wrong.push(format!("{line}: no JSON: {found}"));
                continue;
            };
            let all = match &value {
                Value::Array(all) => all.clone(),
                one => vec![one.clone()],
            };
            for object in all {
                objects += 1;
                // A list of names has no fields, and records are as they are kept.
                let Some(object) = object.as_object().filter(|_| *row != "cat") else { continue };
                for field in object.keys().filter(|field| !has_word(&said, field)) {
                    wrong.push(format!("{line}: docs/json.md does not know '{field}' of {found}"));
                }
            }
            if *row == "key add" {
                added = value["added"][0].as_str().unwrap_or_default().to_owned();
            }
        }
        if objects == 0 {
            wrong.push(format!("{line} prints nothing; {told}"));
        }
        for found in told.lines() {
            let value = serde_json::from_str::<Value>(found).unwrap_or_default();
            if !value["message_type"].is_string() {
                wrong.push(format!("{line}: no message: {found}"));
            }
        }
    }
    // All of the table is run, and every command is in the table.
    let run: BTreeSet<&str> = COMMANDS.iter().map(|(row, _)| *row).chain(ELSEWHERE.iter().copied()).collect();
    for (name, _) in rows.iter().filter(|(name, _)| !run.contains(name.as_str())) {
        wrong.push(format!("docs/json.md has '{name}', which is not tried"));
    }
    for command in all_commands(&place.repo) {
        if !rows.iter().any(|(name, _)| *name == command) {
            wrong.push(format!("docs/json.md has no row '{command}'"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every command that fails says so in one object, which is the last of standard error.
#[test]
fn every_failure_is_json_too() {
    let repo = Repo::empty();
    for command in all_commands(&repo) {
        for words in [vec!["--no-such-flag"], vec!["-r", "none", "-p", "/none"], vec!["-c", "/none.toml"]] {
            let all: Vec<&str> = std::iter::once("--json").chain(command.split(' ')).chain(words).collect();
            let output = repo.run(&all);
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() {
                continue;
            }
            let last = told.lines().last().unwrap_or_default();
            let value = serde_json::from_str::<Value>(last).unwrap_or_default();
            assert_eq!(value["message_type"], "exit_error", "{all:?}: {told}");
            assert_eq!(value["code"].as_i64(), output.status.code().map(i64::from), "{all:?}: {told}");
        }
    }
}

/// Commands that choose snapshots, with what they need besides.
const FILTERED: &[&str] = &[
    "snapshots",
    "ls latest",
    "find f",
    "plan",
    "check",
    "dump latest f",
    "restore latest --target out",
    "forget --keep-last 1",
    "copy --from-repo REPO -r other",
    "stats",
    "stats --mode raw-data",
    "rewrite --exclude f",
    "tag --add x",
];

/// Those whose filters are tried where their tiers and repositories are.
const FILTERED_ELSEWHERE: &[&str] = &["import", "thaw plan", "thaw start", "thaw status"];

#[test]
fn filters_that_fit_nothing_are_errors_that_name_them() {
    let repo = Repo::new();
    std::fs::write(repo.path("f"), "f").unwrap();
    repo.ok(["backup", "f"]);
    repo.ok(["-r", "other", "init"]);
    for line in FILTERED {
        for filter in ["--host nohost", "--tag notag", "--path /nopath"] {
            let line = format!("{line} {filter}").replace("REPO", repo.folder().to_str().unwrap());
            let told = repo.fails(1, line.split(' '));
            assert!(told.contains(filter), "{line}: {told}");
        }
    }
    assert_eq!(repo.snapshot_count(), 1);
    for command in all_commands(&repo).into_iter().filter(|command| command != "cat") {
        let help = repo.ok(command.split(' ').chain(["--help"]));
        if help.contains("Only snapshots of this host") {
            let is_tried = FILTERED.iter().any(|line| line.split(' ').next() == Some(command.as_str()));
            assert!(is_tried || FILTERED_ELSEWHERE.contains(&command.as_str()), "{command}");
        }
    }
}
