//! Reports of drills as evidence: stored with a signature, listed, shown, checked with and without the repository.

use crate::harness::{Repo, expect, noise, run, server, source_root};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::process::Output;

const TOML: &str = r#"
repository = "DIR/repo"

[[tier]]
name = "copy"
url = "DIR/copy"

[[promise]]
keep = "30d"
tiers = ["copy"]

[[source]]
name = "files"
urls = ["DIR/data"]

[[source]]
name = "list"
urls = ["DIR/list"]

[[objective]]
source = "files"
rto = "2m"
"#;

/// Two sources of files, backed up, and copied.
fn world() -> Repo {
    let repo = Repo::with_tiers(TOML, &[], true);
    fs::set_permissions(repo.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["data", "list"] {
        fs::create_dir(repo.path(name)).unwrap();
        fs::write(repo.path(name).join("noise"), noise(1, 300_000)).unwrap();
    }
    let folder = repo.path("drills").display().to_string();
    let repo = repo.with("ESKER_SCRATCH_DIR", &folder);
    repo.ok(["run"]);
    repo
}

fn change(repo: &Repo, from: &str, to: &str) {
    let path = repo.path("esker.toml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replace(from, to)).unwrap();
}

fn reports(repo: &Repo) -> Vec<Value> {
    repo.json(["drill", "list"])["reports"].as_array().unwrap().clone()
}

fn reader(args: &[&str]) -> Output {
    let mut command = std::process::Command::new(server("venv/bin/python"));
    command.arg(source_root().join("docs/reader.py")).args(args).output().unwrap()
}

#[test]
fn reports_are_stored_whatever_came_of_the_drill_and_checked_by_others() {
    let repo = world();
    let passed = repo.json(["drill", "files"]);
    assert_eq!(passed["stored"].as_array().map(Vec::len), Some(1), "{passed}");
    change(&repo, "rto = \"2m\"", "rto = \"1ms\"");
    let failed = repo.run(["--json", "drill", "files"]);
    expect(&failed, 24);
    // What is called like a command goes behind two dashes.
    let said = repo.ok(["drill", "--", "list"]);
    assert!(said.contains("list (files): passed") && said.contains("stored: "), "{said}");
    repo.ok(["drill", "--no-store", "--snapshot", "latest"]);
    let listed = repo.json(["drill", "list"]);
    let all = listed["reports"].as_array().unwrap();
    let of = |field: &str| all.iter().map(|one| one[field].clone()).collect::<Vec<_>>();
    assert_eq!(of("passed"), [true, false, true], "{listed}");
    assert_eq!(of("signature_valid"), [true, true, true]);
    assert_eq!(all[0]["id"], passed["stored"][0]);
    assert_eq!(all[0]["report"], passed["drills"][0]);
    assert_eq!((&listed["trends"][0]["drills"], &listed["trends"][0]["passed"]), (&2.into(), &1.into()));
    let key = repo.ok(["drill", "key"]).trim().to_owned();
    assert!(all.iter().all(|one| one["signer"] == key.as_str()), "{key}: {listed}");
    let table = repo.ok(["drill", "list"]);
    assert!(
        table.contains("FAILED") && table.contains("files (files): 1 of 2 passed, recovery time"),
        "{table}"
    );
    assert!(repo.ok(["drill", "list", "--within", "1h"]).contains("3 reports\n"));
    assert_eq!(repo.json(["check"])["num_errors"], 0);
    // Another machine has another key, and the same reports.
    let elsewhere = Repo::empty().with("ESKER_REPOSITORY", repo.path("repo").to_str().unwrap());
    assert_eq!(reports(&elsewhere), *all);
    assert_ne!(elsewhere.ok(["drill", "key"]).trim(), key);
    elsewhere.ok(["drill", "verify", "--signer", &key]);
    let strange = elsewhere.ok(["drill", "key"]);
    let wrong = elsewhere.run(["drill", "verify", "--signer", strange.trim()]);
    assert!(expect(&wrong, 1).contains("another key signed it"), "{wrong:?}");
    assert!(elsewhere.fails(1, ["drill", "show", "0000000000"]).contains("no report"));
    // The independent reader finds them, too.
    fs::write(repo.path("pw"), "correct horse\n").unwrap();
    let (place, password) = (repo.path("repo"), repo.path("pw"));
    let read = reader(&[place.to_str().unwrap(), password.to_str().unwrap(), "reports"]);
    let read = expect(&read, 0);
    assert_eq!((read.lines().count(), read.matches(&key).count()), (3, 3), "{read}");
    assert!(read.contains(" files files FAILED signer "), "{read}");
}

#[test]
fn every_changed_byte_of_an_exported_report_is_noticed_without_a_repository() {
    let repo = world();
    repo.ok(["drill", "files"]);
    let shown = repo.ok(["drill", "show", "latest", "--export", "report.json"]);
    assert!(shown.contains("signed by ") && shown.contains("files that differ from the snapshot"), "{shown}");
    let path = repo.path("report.json");
    let text = fs::read(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    repo.fails(1, ["drill", "show", "latest", "--export", "report.json"]);
    repo.ok(["drill", "show", "latest", "--html", "report.html"]);
    let page = fs::read_to_string(repo.path("report.html")).unwrap();
    assert!(page.contains("Drill of files: <span class=\"good\">passed</span>"), "{page}");
    assert!(
        page.contains("restore ") && page.contains("its signature was valid") && !page.contains("<script")
    );
    assert_eq!(fs::read(&path).unwrap(), text);
    // Without a repository or a password.
    let nowhere = Repo::empty();
    fs::write(nowhere.path("report.json"), &text).unwrap();
    let check = || nowhere.run(["drill", "verify", "--file", "report.json"]);
    expect(&check(), 0);
    let file = nowhere.path("report.json");
    let name = file.to_str().unwrap();
    expect(&reader(&["report", name]), 0);
    for at in [0, 5, text.len() / 4, text.len() / 2, text.len() - 3, text.len() - 1] {
        let mut changed = text.clone();
        changed[at] ^= 1;
        fs::write(&file, changed).unwrap();
        assert!(expect(&check(), 1).contains("NOT VALID"), "{at}");
        expect(&reader(&["report", name]), 1);
    }
    for changed in [[&text[..], b"\n"].concat(), [b" ", &text[..]].concat(), text[..text.len() - 1].to_vec()]
    {
        fs::write(&file, changed).unwrap();
        expect(&check(), 1);
        expect(&reader(&["report", name]), 1);
    }
    // Signed by somebody else: sound, and not what is asked for.
    let key = repo.ok(["drill", "key"]);
    fs::write(&file, &text).unwrap();
    nowhere.ok(["drill", "verify", "--file", "report.json", "--signer", key.trim()]);
    let other = nowhere.ok(["drill", "key"]);
    nowhere.run(["drill", "verify", "--file", "report.json", "--signer", other.trim()]);
    expect(&nowhere.run(["drill", "verify", "--file", "report.json", "--signer", other.trim()]), 1);
}

#[test]
fn reports_outlast_prunes_rotations_and_a_lost_head() {
    let repo = world();
    repo.ok(["drill", "files"]);
    let before = reports(&repo);
    repo.ok(["forget", "latest", "--prune"]);
    repo.ok(["prune", "--max-unused", "0"]);
    assert_eq!(reports(&repo), before);
    repo.ok(["key", "rotate"]);
    repo.ok(["drill", "list"]);
    repo.ok(["run"]);
    repo.ok(["key", "re-encrypt"]);
    repo.ok(["key", "retire", "1"]);
    assert_eq!(reports(&repo), before);
    let objects: Vec<String> = fs::read_dir(repo.path("repo/reports"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!((objects.len(), objects[0].len()), (1, 129), "{objects:?}");
    fs::remove_file(repo.path("repo/HEAD")).unwrap();
    repo.ok(["repair", "head", "--primary"]);
    assert_eq!(reports(&repo), before);
    repo.ok(["prune"]);
    repo.ok(["drill", "verify"]);
    assert_eq!(repo.json(["check"])["num_errors"], 0);
    // What is lost is named.
    fs::remove_dir_all(repo.path("repo/reports")).unwrap();
    let damaged = repo.run(["--json", "check"]);
    assert!(expect(&damaged, 1).contains("\"num_errors\":1"), "{damaged:?}");
}

/// Of the primary only a copy is left: it is drilled, and takes no report.
#[test]
fn a_report_that_cannot_be_stored_is_printed_and_is_code_3() {
    let repo = world();
    repo.ok(["drill", "files"]);
    fs::rename(repo.path("repo"), repo.path("away")).unwrap();
    let output = repo.run(["--json", "drill", "files"]);
    let printed: Value = serde_json::from_str(expect(&output, 3).lines().last().unwrap()).unwrap();
    assert_eq!((&printed["passed"], &printed["stored"]), (&true.into(), &Value::Null), "{printed}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the report is not stored"), "{output:?}");
    repo.ok(["drill", "files", "--no-store"]);
    change(&repo, "rto = \"2m\"", "rto = \"1ms\"");
    repo.fails(24, ["drill", "files"]);
    fs::rename(repo.path("away"), repo.path("repo")).unwrap();
    assert_eq!(reports(&repo).len(), 1);
}

#[test]
fn a_signing_key_that_others_can_have_is_refused_before_the_drill() {
    let repo = world();
    repo.ok(["drill", "files"]);
    let key = repo.path(".local/state/esker/signing.key");
    let public = repo.ok(["drill", "key"]);
    let text = fs::read_to_string(&key).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(repo.fails(1, ["drill", "files"]).contains("others can read or write it"));
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, text.replace("ESKER-SIGNING-KEY-1:", "ESKER-SIGNING-KEY-1:0")).unwrap();
    assert!(repo.fails(1, ["drill", "files"]).contains("damaged"));
    fs::write(&key, &text).unwrap();
    symlink(&key, repo.path("link")).unwrap();
    assert!(repo.fails(1, ["drill", "files", "--signing-key", "link"]).contains("symbolic link"));
    assert_eq!(reports(&repo).len(), 1);
    // A cleared cache takes nothing with it.
    fs::remove_dir_all(repo.path("cache")).unwrap();
    assert_eq!(repo.ok(["drill", "key"]), public);
    assert!(!run("ls", &["-A", repo.path(".local/state/esker").to_str().unwrap()]).contains("tmp"));
    repo.ok(["drill", "files", "--signing-key", "another"]);
    let signers: Vec<Value> = reports(&repo).iter().map(|one| one["signer"].clone()).collect();
    assert_ne!(signers[0], signers[1]);
}
